//! The bytes of what is said about snapshots. The diagram is in [`super`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use duramen_wal::NodeId;

use super::{get_long_bytes, get_u64, put_bytes};
use crate::transport::{CHUNKS_ASKED_MAX, Fetch, Hash, Packet};

/// Kinds from here on are about snapshots.
pub(super) const KIND_FIRST: u8 = KIND_ASK_MANIFEST;

const KIND_ASK_MANIFEST: u8 = 32;
const KIND_MANIFEST: u8 = 33;
const KIND_ASK_CHUNKS: u8 = 34;
const KIND_CHUNK: u8 = 35;
const KIND_GONE: u8 = 36;
const KIND_TAKEN: u8 = 37;

pub(super) fn put(buf: &mut BytesMut, from: NodeId, to: NodeId, fetch: &Fetch) {
    let kind = match fetch {
        Fetch::AskManifest { .. } => KIND_ASK_MANIFEST,
        Fetch::Manifest { .. } => KIND_MANIFEST,
        Fetch::AskChunks { .. } => KIND_ASK_CHUNKS,
        Fetch::Chunk { .. } => KIND_CHUNK,
        Fetch::Gone { .. } => KIND_GONE,
        Fetch::Taken { .. } => KIND_TAKEN,
    };
    buf.put_u8(kind);
    buf.put_u64_le(from.0);
    buf.put_u64_le(to.0);
    match fetch {
        Fetch::AskManifest { manifest, offset } => {
            buf.put_slice(manifest);
            buf.put_u64_le(*offset);
        }
        Fetch::Manifest {
            manifest,
            offset,
            bytes,
        } => {
            buf.put_slice(manifest);
            buf.put_u64_le(*offset);
            put_bytes(buf, bytes);
        }
        Fetch::AskChunks { chunks } => {
            buf.put_u32_le(chunks.len() as u32);
            chunks.iter().for_each(|chunk| buf.put_slice(chunk));
        }
        Fetch::Chunk { chunk, bytes } => {
            buf.put_slice(chunk);
            put_bytes(buf, bytes);
        }
        Fetch::Gone { hash } => buf.put_slice(hash),
        Fetch::Taken { index, manifest } => {
            buf.put_u64_le(*index);
            buf.put_slice(manifest);
        }
    }
}

pub(super) fn decode(body: &mut Bytes) -> Option<Packet> {
    let kind = body.try_get_u8().ok()?;
    let from = NodeId(get_u64(body)?);
    let to = NodeId(get_u64(body)?);
    let fetch = match kind {
        KIND_ASK_MANIFEST => Fetch::AskManifest {
            manifest: get_hash(body)?,
            offset: get_u64(body)?,
        },
        KIND_MANIFEST => Fetch::Manifest {
            manifest: get_hash(body)?,
            offset: get_u64(body)?,
            bytes: get_long_bytes(body)?,
        },
        KIND_ASK_CHUNKS => Fetch::AskChunks {
            chunks: get_hashes(body)?,
        },
        KIND_CHUNK => Fetch::Chunk {
            chunk: get_hash(body)?,
            bytes: get_long_bytes(body)?,
        },
        KIND_GONE => Fetch::Gone {
            hash: get_hash(body)?,
        },
        KIND_TAKEN => Fetch::Taken {
            index: get_u64(body)?,
            manifest: get_hash(body)?,
        },
        _ => return None,
    };
    Some(Packet::Fetch { from, to, fetch })
}

fn get_hashes(body: &mut Bytes) -> Option<Vec<Hash>> {
    let count = body.try_get_u32_le().ok()? as usize;
    if count > CHUNKS_ASKED_MAX {
        return None;
    }
    (0..count).map(|_| get_hash(body)).collect()
}

fn get_hash(body: &mut Bytes) -> Option<Hash> {
    let mut hash = Hash::default();
    body.try_copy_to_slice(&mut hash).ok()?;
    Some(hash)
}
