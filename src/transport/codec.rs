//! The bytes between nodes. Everything is little-endian.
//!
//! ```text
//! frame
//!   0  length of the body     4
//!   4  CRC-32 of the body     4
//!   8  body
//!
//! message (the body)
//!   0  kind  1     1 RequestVote, 2 Vote, 3 Append, 4 AppendReply, 5 PreVote, 6 PreVoted, 7 TimeoutNow,
//!                8 InstallSnapshot, 9 AskEntries, 10 Entries, 11 AskReadIndex, 12 ReadIndex;
//!                32 AskManifest, 33 Manifest, 34 AskChunks, 35 Chunk, 36 Gone, 37 Taken; 64 Boots
//!   1  from  8
//!   9  to    8
//!  17  term  8, in messages of the core (below 32)
//!  25  RequestVote  last term 8, last index 8, transfer 1
//!      PreVote      last term 8, last index 8
//!      Vote, PreVoted  granted 1
//!      Append       prev term 8, prev index 8, commit 8, round 8, number of entries 4,
//!                   then for each: term 8, context length 1, context, payload length 4, payload
//!      InstallSnapshot  last term 8, last index 8, membership length 4, membership, manifest length 4, manifest
//!      AskEntries   leader 1, state 1: 0 none, 1 lost, index 8; number of ids 4, then for each: term 8, index 8
//!      Entries      commit 8, number of answers 4, then for each: term 8, index 8,
//!                                       answer 1: 0 have, context length 1, context, payload length 4, payload
//!                                                 1 lack, 2 damaged, 3 suspect, 4 purged
//!                   snapshot 1: 0 none, 1 last term 8, last index 8, membership length 4, membership,
//!                                       manifest length 4, manifest
//!      AskReadIndex  question 8
//!      ReadIndex    question 8, index 1: 0 none, 1 index 8
//!      AppendReply  round 8, outcome 1: 0 matched, index 8
//!                                       1 conflict, prev 8, term 8, first 8
//!  17  AskManifest  hash 32, offset 8
//!      Manifest     hash 32, offset 8, length 4, bytes
//!      AskChunks    number 4, hashes of 32
//!      Chunk        hash 32, length 4, bytes
//!      Gone         hash 32
//!      Taken        index 8, hash 32
//!      Boots        number 4, then for each: uuid 16, count 8, number 8
//! ```
//!
//! The entries' indexes are not sent: they follow `prev`. The first frame of a connection is a [`Hello`] and is answered
//! by a [`Welcome`]; the version in it covers everything here.
//!
//! Bytes from a peer are not trusted: a length is believed only as far as bytes have arrived, and everything else gives
//! an error, which ends the connection.

mod boots;
mod fetch;
mod handshake;
mod message;
#[cfg(test)]
mod tests;

use std::io;

use byteorder::{ByteOrder, LittleEndian as LE};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Packet;
use crate::canary::planted;

pub(super) use handshake::{
    HELLO_BYTES_MAX, Hello, VERSION, Welcome, decode_handshake, put_handshake,
};

/// The largest body. An `Append` is limited by `Config::append_bytes_max`, but always takes one entry.
pub(super) const BODY_BYTES_MAX: usize = 64 << 20;

const HEADER_BYTES: usize = 8;

/// Takes a frame off the front of `buf`, if there is a whole one. Never asks for memory that a length claims.
pub(super) fn take_frame(buf: &mut BytesMut, body_bytes_max: usize) -> io::Result<Option<Bytes>> {
    if buf.len() < HEADER_BYTES {
        return Ok(None);
    }
    let body_bytes = LE::read_u32(buf) as usize;
    let checksum = LE::read_u32(&buf[4..]);
    if body_bytes > body_bytes_max && !planted("claims_are_believed") {
        return Err(bad(format!(
            "a frame of {body_bytes} bytes, the limit is {body_bytes_max}"
        )));
    }
    if buf.len() - HEADER_BYTES < body_bytes {
        return Ok(None);
    }
    buf.advance(HEADER_BYTES);
    // A copy of just its size: a slice would keep the whole read buffer for as long as the log keeps an entry of it.
    let body = Bytes::copy_from_slice(&buf[..body_bytes]);
    buf.advance(body_bytes);
    if crc32fast::hash(&body) != checksum {
        return Err(bad("the checksum of a frame does not match".to_owned()));
    }
    Ok(Some(body))
}

/// Appends a frame to `buf`; `put_body` writes the body.
fn put_frame(buf: &mut BytesMut, put_body: impl FnOnce(&mut BytesMut)) {
    let start = buf.len();
    buf.put_bytes(0, HEADER_BYTES);
    put_body(buf);
    let body = &buf[start + HEADER_BYTES..];
    let (body_bytes, checksum) = (body.len() as u32, crc32fast::hash(body));
    LE::write_u32(&mut buf[start..], body_bytes);
    LE::write_u32(&mut buf[start + 4..], checksum);
}

pub(super) fn put_packet(buf: &mut BytesMut, packet: &Packet) {
    put_frame(buf, |buf| match packet {
        Packet::Raft(envelope) => message::put(buf, envelope),
        Packet::Fetch { from, to, fetch } => fetch::put(buf, *from, *to, fetch),
        Packet::Boots { from, to, boots } => boots::put(buf, *from, *to, boots),
    });
}

/// Bytes with their length before them.
fn put_bytes(buf: &mut BytesMut, bytes: &[u8]) {
    buf.put_u32_le(bytes.len() as u32);
    buf.put_slice(bytes);
}

/// Reads a packet. Payloads share the memory of `body`.
pub(super) fn decode_packet(mut body: Bytes) -> io::Result<Packet> {
    let decoded = match body.first() {
        Some(&boots::KIND) => boots::decode(&mut body),
        Some(fetch::KIND_FIRST..) => fetch::decode(&mut body),
        _ => message::decode(&mut body).map(Packet::Raft),
    };
    let decoded = decoded.ok_or_else(|| bad("a message that makes no sense".to_owned()))?;
    match body.is_empty() {
        true => Ok(decoded),
        false => Err(bad(format!("a message with {} bytes too many", body.len()))),
    }
}

fn get_long_bytes(body: &mut Bytes) -> Option<Bytes> {
    let len = body.try_get_u32_le().ok()?;
    get_bytes(body, len as usize)
}

/// So many bytes, if they are there.
fn get_bytes(body: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= body.len()).then(|| body.split_to(len))
}

fn get_bool(body: &mut Bytes) -> Option<bool> {
    match body.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn get_u64(body: &mut Bytes) -> Option<u64> {
    body.try_get_u64_le().ok()
}

fn bad(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
