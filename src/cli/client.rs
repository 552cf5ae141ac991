//! A small client of the Redis protocol, for the commands that look after a running cluster.
//!
//! It follows the leader, and asks again when it is told that nothing was done. Replies are bounded.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Nil,
    Array(Vec<Value>),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Nobody is there.
    #[error(
        "cannot reach a node at {at}: {source}; is it running? --at (or --join, of a node that starts) may name any other member, by its address for clients"
    )]
    Unreachable { at: String, source: io::Error },
    /// The connection broke before the answer came.
    #[error(
        "the node at {at} went away before it answered ({source}): it is not known whether that was done; `duramen member list` shows it"
    )]
    Lost { at: String, source: io::Error },
    /// It wants a password, and was told none.
    #[error(
        "the node at {at} wants a password: say it with --password, or in the environment as DURAMEN_PASSWORD"
    )]
    NoPassword { at: String },
    /// It wants another password, or none.
    #[error("the node at {at} does not take the password: {text}")]
    WrongPassword { at: String, text: String },
    /// A learner lacks too much of the log.
    #[error("{0}")]
    Behind(String),
    /// The node said no.
    #[error("{0}")]
    Refused(String),
    /// It is not what it should be.
    #[error(
        "{at} does not answer as a node of duramen does: a node answers clients at the address that its --resp says"
    )]
    Nonsense { at: String },
}

/// A cluster, as seen from one of its nodes.
pub(super) struct Client {
    at: String,
    password: Option<String>,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A change is answered within 10 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long it is asked again while there is no leader.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

impl Client {
    /// Of a node's address for clients, and what it wants to hear first.
    pub(super) fn new(at: &str, password: Option<&str>) -> Client {
        Client {
            at: at.to_owned(),
            password: password.map(str::to_owned),
        }
    }

    /// Where the node is that has answered last.
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    /// Asks whoever leads.
    pub(super) fn ask(&mut self, words: &[&str]) -> Result<Value, Error> {
        let until = Instant::now() + PATIENCE;
        loop {
            let text = match self.ask_once(words)? {
                Ok(value) => return Ok(value),
                Err(text) => text,
            };
            let (kind, rest) = text.split_once(' ').unwrap_or((&text, ""));
            match kind {
                "MOVED" => {
                    let address = rest.rsplit(' ').next().unwrap_or_default();
                    address.clone_into(&mut self.at);
                }
                "TRYAGAIN" | "CLUSTERDOWN" => {}
                "BEHIND" => return Err(Error::Behind(rest.to_owned())),
                "NOAUTH" => {
                    return Err(Error::NoPassword {
                        at: self.at.clone(),
                    });
                }
                "ERR" => return Err(Error::Refused(rest.to_owned())),
                _ => return Err(Error::Refused(text)),
            }
            if Instant::now() >= until {
                return Err(Error::Refused(rest.to_owned()));
            }
            sleep(PAUSE);
        }
    }

    /// One question, and the answer; `Err` in it is what the node says of an error.
    fn ask_once(&self, words: &[&str]) -> Result<Result<Value, String>, Error> {
        let stream = connect(&self.at);
        let mut stream = stream.map_err(|source| Error::Unreachable {
            at: self.at.clone(),
            source,
        })?;
        if let Some(password) = &self.password {
            let said = self.exchange(&mut stream, &["AUTH", password])?;
            said.map_err(|text| Error::WrongPassword {
                at: self.at.clone(),
                text,
            })?;
        }
        self.exchange(&mut stream, words)
    }

    fn exchange(
        &self,
        stream: &mut TcpStream,
        words: &[&str],
    ) -> Result<Result<Value, String>, Error> {
        let answer = send(stream, words).and_then(|()| read_reply(stream));
        let at = self.at.clone();
        answer.map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData => Error::Nonsense { at },
            _ => Error::Lost { at, source },
        })
    }
}

fn connect(at: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for address in at.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn send(stream: &mut TcpStream, words: &[&str]) -> io::Result<()> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    stream.write_all(request.as_bytes())
}

/// A reply is not larger, whatever its lengths claim.
const REPLY_BYTES_MAX: u64 = 1 << 20;
/// Arrays in arrays.
const DEPTH_MAX: usize = 4;

fn read_reply(from: impl Read) -> io::Result<Result<Value, String>> {
    let mut from = BufReader::new(from.take(REPLY_BYTES_MAX));
    let line = read_line(&mut from)?;
    match line.strip_prefix('-') {
        Some(error) => Ok(Err(error.to_owned())),
        None => read_value(&line, &mut from, DEPTH_MAX).map(Ok),
    }
}

/// Reads a value that begins with this line.
fn read_value(line: &str, from: &mut impl BufRead, depth: usize) -> io::Result<Value> {
    let rest = line.get(1..).ok_or_else(nonsense)?;
    let number = || rest.parse::<i64>().map_err(|_| nonsense());
    match line.as_bytes()[0] {
        b'+' => Ok(Value::Text(rest.to_owned())),
        b':' => number().map(Value::Integer),
        b'$' | b'*' if number()? < 0 => Ok(Value::Nil),
        b'$' => {
            let mut bytes = Vec::new(); // Grows with what arrives.
            let len = number()? as u64;
            from.by_ref().take(len + 2).read_to_end(&mut bytes)?;
            if bytes.len() as u64 != len + 2 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.truncate(len as usize);
            String::from_utf8(bytes)
                .map(Value::Text)
                .map_err(|_| nonsense())
        }
        b'*' if depth > 0 => {
            let mut values = Vec::new();
            for _ in 0..number()? {
                let line = read_line(from)?;
                values.push(read_value(&line, from, depth - 1)?);
            }
            Ok(Value::Array(values))
        }
        _ => Err(nonsense()),
    }
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    let line = line
        .strip_suffix(b"\n")
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8(line.to_vec()).map_err(|_| nonsense())
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a reply")
}

impl Value {
    /// What follows a name in an array of names and values.
    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        let Value::Array(values) = self else {
            return None;
        };
        let mut pairs = values.chunks_exact(2);
        let pair = pairs.find(|pair| matches!(&pair[0], Value::Text(text) if text == name))?;
        Some(&pair[1])
    }

    pub(super) fn number(&self) -> Option<u64> {
        match self {
            Value::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_and_what_is_none_is_an_error() {
        let read = |bytes: &[u8]| read_reply(bytes);
        let text = |text: &str| Value::Text(text.to_owned());
        assert_eq!(read(b"+OK\r\n").unwrap(), Ok(text("OK")));
        assert_eq!(read(b"-ERR no\r\n").unwrap(), Err("ERR no".to_owned()));
        let map = read(b"*4\r\n$1\r\na\r\n:7\r\n$1\r\nb\r\n$-1\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(map.field("a").and_then(Value::number), Some(7));
        assert_eq!(map.field("b"), Some(&Value::Nil));
        assert_eq!(map.field("c"), None);
        for wrong in [
            &b""[..],
            b"OK",
            b"\r\n",
            b"$5\r\nab\r\n",
            b"$9223372036854775807\r\nab",
            b"*9223372036854775807\r\n",
            b":x\r\n",
            b"+\xff\r\n",
        ] {
            assert!(read(wrong).is_err(), "{}", wrong.escape_ascii());
        }
        assert!(read(&b"*1\r\n".repeat(100_000)).is_err(), "nested");
        assert!(read(&b"*9\r\n:1\r\n"[..]).is_err(), "too few");
        assert!(read(&vec![b'+'; 4 << 20]).is_err(), "endless");
    }
}
