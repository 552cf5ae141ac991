//! One connection to one node.

use std::io::{self, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::value::{Value, read_reply};

/// A connection to a node. After an error it is of no use.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

impl Connection {
    /// Connects, within two seconds to each of the host's addresses.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(address: &str, answer_timeout: Duration) -> io::Result<Connection> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host");
        for address in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(answer_timeout))?;
                    stream.set_write_timeout(Some(answer_timeout))?;
                    let stream = BufReader::new(stream);
                    return Ok(Connection { stream });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks, and waits for the answer; `Err` in it is what the node says of an error.
    ///
    /// # Errors
    /// Those of the system; [`InvalidData`](io::ErrorKind::InvalidData) if what comes back is no answer. It is not known then whether the
    /// node has done what it was asked for.
    pub fn ask(&mut self, words: &[impl AsRef<[u8]>]) -> io::Result<Result<Value, String>> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            let word = word.as_ref();
            request.extend(format!("${}\r\n", word.len()).bytes());
            request.extend(word);
            request.extend(b"\r\n");
        }
        self.stream.get_mut().write_all(&request)?;
        read_reply(&mut self.stream)
    }
}
