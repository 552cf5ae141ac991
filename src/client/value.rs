//! What a node answers, as it comes over the wire.

use std::io::{self, BufRead, Read};

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A word, as `OK`.
    Status(String),
    /// Bytes.
    Bulk(Vec<u8>),
    /// A number.
    Integer(i64),
    /// Nothing.
    Nil,
    /// Several of them.
    Array(Vec<Value>),
}

impl Value {
    /// The text that it is, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Status(text) => Some(text),
            Value::Bulk(bytes) => str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The number that it is, if it is one that is not negative.
    pub fn number(&self) -> Option<u64> {
        match self {
            Value::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// What follows a name in an array of names and values.
    pub fn field(&self, name: &str) -> Option<&Value> {
        let Value::Array(values) = self else {
            return None;
        };
        let mut pairs = values.chunks_exact(2);
        let pair = pairs.find(|pair| pair[0].text() == Some(name))?;
        Some(&pair[1])
    }
}

/// A reply is not larger, whatever its lengths claim.
const REPLY_BYTES_MAX: u64 = 64 << 20;
/// Arrays in arrays.
const DEPTH_MAX: usize = 4;

/// Reads a reply; `Err` in it is what the node says of an error.
pub(super) fn read_reply(from: &mut impl BufRead) -> io::Result<Result<Value, String>> {
    let mut from = from.take(REPLY_BYTES_MAX);
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
        b'+' => Ok(Value::Status(rest.to_owned())),
        b':' => number().map(Value::Integer),
        b'$' | b'*' if number()? < 0 => Ok(Value::Nil),
        b'$' => {
            let mut bytes = Vec::new(); // Grows with what arrives.
            let len = number()? as u64;
            from.take(len.saturating_add(2)).read_to_end(&mut bytes)?;
            if bytes.len() as u64 != len.saturating_add(2) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.truncate(len as usize);
            Ok(Value::Bulk(bytes))
        }
        b'*' if depth > 0 => {
            let mut values = Vec::new();
            for _ in 0..number()? {
                let line = read_line(from)?;
                values.push(match line.strip_prefix('-') {
                    Some(error) => Value::Status(error.to_owned()), // Within a transaction.
                    None => read_value(&line, from, depth - 1)?,
                });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_and_what_is_none_is_an_error() {
        let read = |mut bytes: &[u8]| read_reply(&mut bytes);
        assert_eq!(
            read(b"+OK\r\n").unwrap(),
            Ok(Value::Status("OK".to_owned()))
        );
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
    }
}
