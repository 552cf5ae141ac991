//! The Redis protocol, what comes in.
//!
//! A request is an array of bulk strings, or a line of words ("inline", for people with telnet). It is parsed piece by
//! piece as it arrives, each byte once, and its arguments share the memory of the read buffer. Lengths are checked
//! against limits and never allocated for.

use bytes::{Buf, Bytes, BytesMut};

use crate::canary::planted;
use crate::kv::VALUE_BYTES_MAX;

/// A command with its arguments. Never empty.
pub type Words = Vec<Bytes>;

/// Why the bytes of a client are no request. Redis answers `-ERR Protocol error: ..` and closes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A line of words has no end.
    #[error("too big inline request")]
    InlineTooBig,
    /// The line with the number of arguments has no end.
    #[error("too big mbulk count string")]
    CountTooBig,
    /// The number of arguments is none, or too large.
    #[error("invalid multibulk length")]
    BadCount,
    /// The line with the length of an argument has no end.
    #[error("too big bulk count string")]
    LengthTooBig,
    /// The length of an argument is none, or too large.
    #[error("invalid bulk length")]
    BadLength,
    /// An argument is not a bulk string, but begins with this.
    #[error("expected '$', got '{}'", char::from(*.0).escape_default())]
    NoBulk(u8),
    /// An argument is longer than it says.
    #[error("a bulk string does not end in CRLF")]
    NoEnd,
    /// All arguments together are too large.
    #[error("a request of more than {REQUEST_BYTES_MAX} bytes")]
    TooBig,
}

/// An argument, and all of a request, in bytes. A command has to fit in one entry of the log.
pub(super) const BULK_BYTES_MAX: usize = VALUE_BYTES_MAX;
pub(super) const REQUEST_BYTES_MAX: usize = 16 << 20;
const ARGUMENTS_MAX: i64 = 64 << 10;
const INLINE_BYTES_MAX: usize = 64 << 10;
/// A line with a length: a byte, digits, CRLF.
const LENGTH_LINE_BYTES_MAX: usize = 32;

/// Parses requests. Keeps what it has of an unfinished one.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    array: Option<Array>,
    /// So many bytes of a line of words are there, and none is its end.
    searched: usize,
}

/// An array that is under way.
#[derive(Debug)]
struct Array {
    missing: usize,
    /// The length of the bulk string that comes next, once its line has been read.
    bulk_bytes: Option<usize>,
    request: Words,
    /// What its words are said to have; those that are there, in memory.
    request_bytes: usize,
    held_bytes: usize,
}

impl RequestDecoder {
    /// Takes a request off the front of `buf`, if there is a whole one. After an error the connection is of no use.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Words>, ProtocolError> {
        loop {
            if let Some(array) = &mut self.array {
                if !array.fill(buf)? {
                    return Ok(None);
                }
                let request = self.array.take().map_or(Vec::new(), |array| array.request);
                return Ok(Some(request));
            }
            match buf.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some(line) = take_length_line(buf, ProtocolError::CountTooBig)? else {
                        return Ok(None);
                    };
                    let count = parse_length(&line[1..]).filter(|count| *count <= ARGUMENTS_MAX);
                    let count = count.ok_or(ProtocolError::BadCount)?;
                    // Empty and null arrays are passed over, as Redis does.
                    self.array = (count > 0).then(|| Array::new(count as usize));
                }
                Some(_) => {
                    let searched = &mut self.searched;
                    let too_big = ProtocolError::InlineTooBig;
                    let Some(line) = take_line(buf, searched, INLINE_BYTES_MAX, too_big)? else {
                        return Ok(None);
                    };
                    let words = line
                        .split(u8::is_ascii_whitespace)
                        .filter(|word| !word.is_empty());
                    let request: Words = words.map(|word| line.slice_ref(word)).collect();
                    if !request.is_empty() {
                        return Ok(Some(request));
                    }
                }
            }
        }
    }
}

impl RequestDecoder {
    /// What is kept of an unfinished request, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.array.as_ref().map_or(0, |array| array.held_bytes)
    }
}

impl Array {
    fn new(missing: usize) -> Array {
        Array {
            missing,
            bulk_bytes: None,
            request: Vec::new(),
            request_bytes: 0,
            held_bytes: 0,
        }
    }

    /// Takes bulk strings until the array is complete. Says whether it is.
    fn fill(&mut self, buf: &mut BytesMut) -> Result<bool, ProtocolError> {
        while self.missing > 0 {
            let Some(len) = self.next_length(buf)? else {
                return Ok(false);
            };
            if buf.len() < len + 2 {
                return Ok(false);
            }
            self.bulk_bytes = None;
            self.missing -= 1;
            self.held_bytes += len + size_of::<Bytes>();
            self.request.push(buf.split_to(len).freeze());
            if &buf[..2] != b"\r\n" {
                return Err(ProtocolError::NoEnd);
            }
            buf.advance(2);
        }
        Ok(true)
    }

    /// The length of the next bulk string, from its line, which is read once.
    fn next_length(&mut self, buf: &mut BytesMut) -> Result<Option<usize>, ProtocolError> {
        if self.bulk_bytes.is_some() {
            return Ok(self.bulk_bytes);
        }
        match buf.first() {
            None => return Ok(None),
            Some(b'$') => {}
            Some(&other) => return Err(ProtocolError::NoBulk(other)),
        }
        let Some(line) = take_length_line(buf, ProtocolError::LengthTooBig)? else {
            return Ok(None);
        };
        let len = parse_length(&line[1..]).and_then(|len| usize::try_from(len).ok());
        let len = len
            .filter(|len| *len <= BULK_BYTES_MAX)
            .ok_or(ProtocolError::BadLength)?;
        self.request_bytes += len;
        if self.request_bytes > REQUEST_BYTES_MAX {
            return Err(ProtocolError::TooBig);
        }
        if planted("claims_are_believed") {
            buf.reserve(len);
        }
        self.bulk_bytes = Some(len);
        Ok(self.bulk_bytes)
    }
}

/// Takes a line off the front of `buf`, so short that it may be looked through again at each byte that comes.
fn take_length_line(
    buf: &mut BytesMut,
    too_big: ProtocolError,
) -> Result<Option<Bytes>, ProtocolError> {
    take_line(buf, &mut 0, LENGTH_LINE_BYTES_MAX, too_big)
}

/// Takes a line off the front of `buf`, without its end, which is not in the first `searched` bytes. A line that is longer than
/// `bytes_max` is an error before it is complete.
fn take_line(
    buf: &mut BytesMut,
    searched: &mut usize,
    bytes_max: usize,
    too_big: ProtocolError,
) -> Result<Option<Bytes>, ProtocolError> {
    let window = &buf[..buf.len().min(bytes_max)];
    let new = &window[*searched..];
    let Some(end) = new.iter().position(|&byte| byte == b'\n') else {
        *searched = window.len();
        return match window.len() == bytes_max {
            true => Err(too_big),
            false => Ok(None),
        };
    };
    let end = std::mem::take(searched) + end;
    let mut line = buf.split_to(end + 1).freeze();
    line.truncate(end);
    if line.last() == Some(&b'\r') {
        line.truncate(end - 1);
    }
    Ok(Some(line))
}

fn parse_length(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn decode_all(bytes: &[u8]) -> Result<Vec<Words>, ProtocolError> {
        let mut buf = BytesMut::from(bytes);
        let mut decoder = RequestDecoder::default();
        let mut requests = Vec::new();
        while let Some(request) = decoder.decode(&mut buf)? {
            requests.push(request);
        }
        Ok(requests)
    }

    fn encode(request: &[Vec<u8>]) -> Vec<u8> {
        let mut buf = format!("*{}\r\n", request.len()).into_bytes();
        for word in request {
            buf.extend(format!("${}\r\n", word.len()).bytes());
            buf.extend(word);
            buf.extend(b"\r\n");
        }
        buf
    }

    proptest! {
        #[test]
        fn requests_are_read_however_they_are_cut(
            requests in vec(vec(vec(any::<u8>(), 0..30), 1..5), 1..4),
            piece in 1..40_usize,
        ) {
            let bytes: Vec<u8> = requests.iter().flat_map(|request| encode(request)).collect();
            let mut decoder = RequestDecoder::default();
            let mut buf = BytesMut::new();
            let mut read = Vec::new();
            for piece in bytes.chunks(piece) {
                buf.extend_from_slice(piece);
                while let Some(request) = decoder.decode(&mut buf).unwrap() {
                    read.push(request.iter().map(|argument| argument.to_vec()).collect::<Vec<_>>());
                }
            }
            prop_assert_eq!(read, requests);
        }

        #[test]
        fn any_bytes_are_requests_or_an_error(bytes in vec(prop_oneof![any::<u8>(), Just(b'*'), Just(b'$'), Just(b'\n'), Just(b'1')], 0..100)) {
            for request in decode_all(&bytes).into_iter().flatten() {
                prop_assert!(!request.is_empty());
            }
        }
    }

    #[test]
    fn people_may_type() {
        let requests = decode_all(b"\r\n  \r\nSET  a 1\r\nget a\n").unwrap();
        assert_eq!(requests, [vec!["SET", "a", "1"], vec!["get", "a"]]);
    }

    #[test]
    fn a_line_that_comes_byte_by_byte_is_looked_through_once() {
        let (mut decoder, mut buf) = (RequestDecoder::default(), BytesMut::new());
        for len in 1..=1000 {
            buf.extend_from_slice(b"a");
            assert_eq!(decoder.decode(&mut buf), Ok(None));
            assert_eq!(decoder.searched, len);
        }
        buf.extend_from_slice(b"\r\nget b\n");
        assert_eq!(
            decoder.decode(&mut buf),
            Ok(Some(vec!["a".repeat(1000).into()]))
        );
        assert_eq!(
            decoder.decode(&mut buf),
            Ok(Some(vec!["get".into(), "b".into()]))
        );
    }

    #[test]
    fn what_is_kept_of_an_unfinished_request_is_counted_and_no_claim_is() {
        let (mut decoder, mut buf) = (RequestDecoder::default(), BytesMut::new());
        buf.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1000000\r\nbc");
        assert_eq!(decoder.decode(&mut buf), Ok(None));
        assert_eq!(decoder.held_bytes(), 4 + 2 * size_of::<Bytes>());
        assert_eq!(buf.len(), 2);
        buf.extend_from_slice(&[b'b'; 999_998]);
        buf.extend_from_slice(b"\r\n");
        assert!(decoder.decode(&mut buf).unwrap().is_some());
        assert_eq!(decoder.held_bytes(), 0);
    }

    #[test]
    fn empty_arrays_are_passed_over() {
        assert_eq!(
            decode_all(b"*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n").unwrap(),
            [["PING"]]
        );
    }

    #[test]
    fn what_is_no_request_is_named_as_redis_does() {
        for (bytes, error) in [
            (&b"*x\r\n"[..], "invalid multibulk length"),
            (b"*99999999\r\n", "invalid multibulk length"),
            (
                b"*11111111111111111111111111111111111111",
                "too big mbulk count string",
            ),
            (b"*1\r\n:1\r\n", "expected '$', got ':'"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$99999999999\r\n", "invalid bulk length"),
            (b"*1\r\n$1\r\nabc", "a bulk string does not end in CRLF"),
            (b"*3\r\n$8388608\r\n", "none"),
            (&[b'a'; 65536], "too big inline request"),
        ] {
            let found =
                decode_all(bytes).map_or_else(|error| error.to_string(), |_| "none".to_owned());
            assert_eq!(found, error, "{}", bytes.escape_ascii());
        }
    }
}
