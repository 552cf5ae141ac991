//! Any bytes of a client, in any pieces: requests or an error, the same ones however the bytes are cut, and no more memory than
//! what came. A request, encoded as clients do it, is the same request again.
//!
//! Most inputs are put together of requests, lines and lengths that may be wrong: random bytes seldom get behind the first line.
#![no_main]

#[path = "memory.rs"]
mod memory;

use arbitrary::Arbitrary;
use bytes::BytesMut;
use duramen::server::{ProtocolError, RequestDecoder, Words};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    parts: Vec<Part>,
    /// The lengths of the pieces, again and again.
    cuts: Vec<u8>,
}

#[derive(Debug, Arbitrary)]
enum Part {
    Raw(Vec<u8>),
    Request(Vec<Vec<u8>>),
    Line(Vec<u8>),
    /// `*` or `$`, and a number.
    Length(bool, i32),
    /// A long one.
    Run(u8, u16),
}

/// Longer inputs show nothing new: no line and no count may be as long.
const BYTES_MAX: usize = 128 << 10;

fn put_request(bytes: &mut Vec<u8>, words: &[impl AsRef<[u8]>]) {
    bytes.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        let word = word.as_ref();
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend(word);
        bytes.extend(b"\r\n");
    }
}

fn bytes(parts: &[Part]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        match part {
            Part::Raw(raw) => bytes.extend(raw),
            Part::Request(words) => put_request(&mut bytes, words),
            Part::Line(line) => {
                bytes.extend(line);
                bytes.extend(b"\r\n");
            }
            Part::Length(is_array, number) => {
                let kind = if *is_array { '*' } else { '$' };
                bytes.extend(format!("{kind}{number}\r\n").bytes());
            }
            Part::Run(byte, count) => {
                let count = usize::from(*count).min(BYTES_MAX.saturating_sub(bytes.len()));
                bytes.resize(bytes.len() + count, *byte);
            }
        }
    }
    bytes
}

/// All requests, and how it ended.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Words>, Option<ProtocolError>) {
    let (mut decoder, mut buf) = (RequestDecoder::default(), BytesMut::new());
    let mut requests = Vec::new();
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
    }
    (requests, None)
}

fn cut<'a>(mut bytes: &'a [u8], cuts: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = cuts.iter().cycle();
    std::iter::from_fn(move || {
        let len = lengths
            .next()
            .map_or(bytes.len(), |len| usize::from(*len) + 1);
        let (piece, rest) = bytes.split_at(len.min(bytes.len()));
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// A word of a line costs 2 bytes on the wire, and 32 here; and lists double when they grow.
const BYTES_PER_BYTE: usize = 64;
const BYTES_AT_LEAST: usize = 4 << 10;

fuzz_target!(|input: Input| {
    let bytes = bytes(&input.parts);
    let bytes_max = BYTES_AT_LEAST + bytes.len() * BYTES_PER_BYTE;
    let whole = memory::within(bytes_max, || decode(std::iter::once(&bytes[..])));
    let pieces = memory::within(bytes_max, || decode(cut(&bytes, &input.cuts)));
    assert_eq!(whole, pieces, "it matters how they are cut");
    let mut again = Vec::new();
    for request in &whole.0 {
        assert!(!request.is_empty());
        put_request(&mut again, request);
    }
    assert_eq!(decode(std::iter::once(&again[..])), (whole.0, None));
});
