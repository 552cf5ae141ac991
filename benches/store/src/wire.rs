//! What is said to the servers, and how their answers are read: the Redis protocol, and etcd's JSON over HTTP.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Redis,
    /// The gateway before etcd's gRPC. It costs etcd time that a client in gRPC would not.
    EtcdHttp,
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Put,
    Get,
    /// Each key is written once.
    Fill,
}

impl Operation {
    /// What `duramen bench` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Put => "set",
            Operation::Get => "get",
            Operation::Fill => "fill",
        }
    }
}

impl Wire {
    /// Appends a request.
    pub fn put_request(self, to: &mut Vec<u8>, operation: Operation, key: &str, value: &[u8]) {
        match (self, operation) {
            (Wire::Redis, Operation::Put | Operation::Fill) => {
                put_command(to, &[b"SET", key.as_bytes(), value])
            }
            (Wire::Redis, Operation::Get) => put_command(to, &[b"GET", key.as_bytes()]),
            (Wire::EtcdHttp, operation) => {
                let key = STANDARD.encode(key);
                let (path, body) = match operation {
                    Operation::Put | Operation::Fill => {
                        let value = STANDARD.encode(value);
                        ("kv/put", format!(r#"{{"key":"{key}","value":"{value}"}}"#))
                    }
                    Operation::Get => ("kv/range", format!(r#"{{"key":"{key}"}}"#)),
                };
                put_post(to, path, &body);
            }
        }
    }

    /// The length of the first answer in `bytes`, if all of it is there.
    ///
    /// # Errors
    /// The server says no.
    pub fn answer_bytes(self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match self {
            Wire::Redis => redis_answer(bytes),
            Wire::EtcdHttp => http_answer(bytes),
        }
    }
}

pub fn put_command(to: &mut Vec<u8>, words: &[&[u8]]) {
    to.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        to.extend(format!("${}\r\n", word.len()).bytes());
        to.extend(*word);
        to.extend(b"\r\n");
    }
}

pub fn put_post(to: &mut Vec<u8>, path: &str, body: &str) {
    let len = body.len();
    let head = format!("POST /v3/{path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {len}\r\n\r\n");
    to.extend(head.bytes());
    to.extend(body.bytes());
}

fn redis_answer(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = find(bytes, b"\r\n") else {
        return Ok(None);
    };
    let line = String::from_utf8_lossy(&bytes[..end]);
    let line_bytes = end + 2;
    match (line.as_bytes().first(), line.get(1..)) {
        (Some(b'+' | b':'), _) => Ok(Some(line_bytes)),
        (Some(b'$'), Some("-1")) => Ok(Some(line_bytes)),
        (Some(b'$'), Some(len)) => {
            let len: usize = len.parse().map_err(io::Error::other)?;
            let whole = line_bytes + len + 2;
            Ok((bytes.len() >= whole).then_some(whole))
        }
        _ => Err(io::Error::other(line.into_owned())),
    }
}

fn http_answer(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.eq_ignore_ascii_case("content-length")).then(|| value.trim().parse().ok())?
    });
    let length: usize = length.ok_or_else(|| io::Error::other(format!("no length: {head}")))?;
    let whole = end + 4 + length;
    if bytes.len() < whole {
        return Ok(None);
    }
    if !head.starts_with("HTTP/1.1 200") {
        let body = String::from_utf8_lossy(&bytes[end + 4..whole]);
        return Err(io::Error::other(format!("{head}\n{body}")));
    }
    Ok(Some(whole))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
