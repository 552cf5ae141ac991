//! The Redis protocol, what goes out: RESP2, and RESP3 for clients that ask for it.

use std::borrow::Cow;
use std::fmt::Write;
use std::vec;

use bytes::{BufMut, Bytes, BytesMut};

use crate::kv::{KeyType, Output};

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reply {
    Simple(&'static str),
    /// Starts with the kind of error, in capitals.
    Error(Cow<'static, str>),
    Integer(i64),
    Bulk(Bytes),
    /// No value.
    Nil,
    /// No array: what an aborted transaction gives.
    NilArray,
    Array(Vec<Reply>),
    /// Keys and values, alternating. An array in RESP2.
    Map(Vec<Reply>),
    /// Text for people. A string in RESP2.
    Verbatim(String),
}

/// The version of the protocol that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

impl Reply {
    pub(super) const OK: Reply = Reply::Simple("OK");

    pub(super) fn error(text: impl Into<Cow<'static, str>>) -> Reply {
        Reply::Error(text.into())
    }

    pub(super) fn bulk(bytes: impl Into<Bytes>) -> Reply {
        Reply::Bulk(bytes.into())
    }

    /// An array of strings.
    pub(super) fn bulks<T: Into<Bytes>>(all: impl IntoIterator<Item = T>) -> Reply {
        Reply::Array(all.into_iter().map(Reply::bulk).collect())
    }

    /// A map with strings as keys.
    pub(super) fn map(pairs: impl IntoIterator<Item = (&'static str, Reply)>) -> Reply {
        let pairs = pairs.into_iter();
        Reply::Map(
            pairs
                .flat_map(|(key, value)| [Reply::bulk(key), value])
                .collect(),
        )
    }

    /// How Redis words what a command gave.
    pub(super) fn of(output: Output) -> Reply {
        match output {
            Output::Done => Reply::OK,
            Output::Nil => Reply::Nil,
            Output::Integer(integer) => Reply::Integer(integer),
            Output::Value(value) => Reply::Bulk(value),
            Output::Type(KeyType::None) => Reply::Simple("none"),
            Output::Type(KeyType::String) => Reply::Simple("string"),
            Output::List(outputs) => Reply::Array(outputs.into_iter().map(Reply::of).collect()),
            Output::Aborted => Reply::NilArray,
            Output::Failed(failure) => Reply::error(format!("ERR {failure}")),
        }
    }
}

/// Writes a reply piece by piece: a small request may ask for more than fits in memory.
pub(super) struct Encoder {
    protocol: Protocol,
    /// What is left of the arrays that are under way, the innermost last.
    open: Vec<vec::IntoIter<Reply>>,
}

impl Encoder {
    pub(super) fn new(reply: Reply, protocol: Protocol) -> Encoder {
        let open = vec![vec![reply].into_iter()];
        Encoder { protocol, open }
    }

    /// Writes until `buf` has so many bytes or more. Says whether there is more to write.
    pub(super) fn encode(&mut self, buf: &mut BytesMut, bytes: usize) -> bool {
        while let Some(innermost) = self.open.last_mut() {
            let Some(reply) = innermost.next() else {
                self.open.pop();
                continue;
            };
            if let Some(inner) = put(buf, reply, self.protocol) {
                self.open.push(inner.into_iter());
            }
            if buf.len() >= bytes {
                return true;
            }
        }
        false
    }
}

/// Writes a reply, but for its parts, which are returned.
fn put(buf: &mut BytesMut, reply: Reply, protocol: Protocol) -> Option<Vec<Reply>> {
    let is_resp3 = protocol == Protocol::Resp3;
    match reply {
        Reply::Simple(text) => put_line(buf, b'+', text.as_bytes()),
        Reply::Error(text) => {
            // Parts of it may come from the client: a line end would begin a reply of the client's making.
            let text = text.replace(['\r', '\n'], " ");
            put_line(buf, b'-', text.as_bytes());
        }
        Reply::Integer(integer) => put_number(buf, b':', integer),
        Reply::Nil | Reply::NilArray if is_resp3 => buf.put_slice(b"_\r\n"),
        Reply::Nil => buf.put_slice(b"$-1\r\n"),
        Reply::NilArray => buf.put_slice(b"*-1\r\n"),
        Reply::Bulk(bytes) => put_bulk(buf, b'$', &bytes),
        Reply::Verbatim(text) if is_resp3 => put_bulk(buf, b'=', format!("txt:{text}").as_bytes()),
        Reply::Verbatim(text) => put_bulk(buf, b'$', text.as_bytes()),
        Reply::Array(replies) => {
            put_number(buf, b'*', replies.len() as i64);
            return Some(replies);
        }
        Reply::Map(replies) => {
            match is_resp3 {
                true => put_number(buf, b'%', replies.len() as i64 / 2),
                false => put_number(buf, b'*', replies.len() as i64),
            }
            return Some(replies);
        }
    }
    None
}

fn put_bulk(buf: &mut BytesMut, kind: u8, bytes: &[u8]) {
    put_number(buf, kind, bytes.len() as i64);
    buf.put_slice(bytes);
    buf.put_slice(b"\r\n");
}

fn put_number(buf: &mut BytesMut, kind: u8, number: i64) {
    buf.put_u8(kind);
    write!(buf, "{number}\r\n").expect("a buffer grows");
}

fn put_line(buf: &mut BytesMut, kind: u8, text: &[u8]) {
    buf.put_u8(kind);
    buf.put_slice(text);
    buf.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(reply: Reply, protocol: Protocol) -> BytesMut {
        let mut buf = BytesMut::new();
        assert!(!Encoder::new(reply, protocol).encode(&mut buf, usize::MAX));
        buf
    }

    #[test]
    fn replies_are_these_bytes() {
        let replies = vec![
            Reply::OK,
            Reply::error("ERR a\r\n+b"),
            Reply::Integer(-1),
            Reply::bulk("x"),
            Reply::Nil,
            Reply::NilArray,
            Reply::map([("k", Reply::Array(vec![]))]),
            Reply::Verbatim("t".to_owned()),
        ];
        let reply = Reply::Array(replies);
        assert_eq!(
            encode(reply.clone(), Protocol::Resp2),
            "*8\r\n+OK\r\n-ERR a  +b\r\n:-1\r\n$1\r\nx\r\n$-1\r\n*-1\r\n*2\r\n$1\r\nk\r\n*0\r\n$1\r\nt\r\n"
        );
        assert_eq!(
            encode(reply, Protocol::Resp3),
            "*8\r\n+OK\r\n-ERR a  +b\r\n:-1\r\n$1\r\nx\r\n_\r\n_\r\n%1\r\n$1\r\nk\r\n*0\r\n=5\r\ntxt:t\r\n"
        );
    }

    #[test]
    fn a_long_reply_is_written_in_pieces() {
        let part = || Reply::Array(vec![Reply::bulk("x".repeat(100)), Reply::Integer(1)]);
        let reply = Reply::Array((0..50).map(|_| part()).collect());
        let whole = encode(reply.clone(), Protocol::Resp2);
        let mut encoder = Encoder::new(reply, Protocol::Resp2);
        let (mut pieces, mut buf) = (BytesMut::new(), BytesMut::new());
        loop {
            let is_more = encoder.encode(&mut buf, 200);
            assert!(buf.len() < 200 + 120);
            pieces.extend_from_slice(&buf.split());
            if !is_more {
                break;
            }
        }
        assert_eq!(pieces, whole);
    }
}
