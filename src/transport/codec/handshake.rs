//! The first frame of a connection and its answer, in bincode's standard form.
//!
//! Frozen, within a version. The version is the first field of both sides' first word, and stays so: a later version may
//! append fields, which an earlier one does not read.

use std::io;

use bytes::{BufMut, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{bad, put_frame};
use crate::transport::{Introduction, Refusal};

/// The version of all that nodes say to each other.
pub(in crate::transport) const VERSION: u16 = 1;
/// The largest body of a handshake: its sender is not known yet.
pub(in crate::transport) const HELLO_BYTES_MAX: usize = 16 << 10;

/// What a node that connects says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::transport) struct Hello {
    pub(in crate::transport) version: u16,
    /// Whom it looks for.
    pub(in crate::transport) to: u64,
    /// Where clients reach the sender.
    pub(in crate::transport) client_address: String,
    /// Where other nodes reach it.
    pub(in crate::transport) peer_address: String,
    pub(in crate::transport) introduction: Introduction,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::transport) enum Welcome {
    /// The sender may talk, if it likes who is here.
    Accepted {
        /// Where clients reach the node that was looked for.
        client_address: String,
        /// Where other nodes reach it.
        peer_address: String,
        introduction: Introduction,
    },
    /// The sender came to the wrong place, or speaks another version.
    Astray { reason: String },
    /// The node that was looked for, of this uuid, wants nothing to do with the sender.
    Refused { by_uuid: u128, refusal: Refusal },
}

pub(in crate::transport) fn put_handshake(buf: &mut BytesMut, message: &impl Serialize) {
    let config = bincode::config::standard();
    let body =
        bincode::serde::encode_to_vec(message, config).expect("strings and numbers can be encoded");
    put_frame(buf, |buf| buf.put_slice(&body));
}

pub(in crate::transport) fn decode_handshake<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    let config = bincode::config::standard().with_limit::<HELLO_BYTES_MAX>();
    let decoded = bincode::serde::decode_from_slice(body, config);
    decoded
        .map(|(message, _)| message)
        .map_err(|error| bad(format!("a bad handshake: {error}")))
}
