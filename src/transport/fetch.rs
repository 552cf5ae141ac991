//! How a snapshot travels: its receiver asks for what it lacks, piece by piece, from whoever has it.
//!
//! Raft says which snapshot a node needs; these messages carry its bytes. Each names what it is about by a hash of the
//! content, so it does not matter who answers, nor whether an answer comes twice or late.

use bytes::Bytes;

/// The BLAKE3 hash of a manifest or a chunk, which is its name.
pub type Hash = [u8; 32];

/// A question about a snapshot, or an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetch {
    /// Asks for a piece of a manifest, from `offset` on.
    AskManifest {
        /// Which one.
        manifest: Hash,
        /// Where, in bytes.
        offset: u64,
    },
    /// A piece of a manifest. It is empty at the end.
    Manifest {
        /// Which one.
        manifest: Hash,
        /// Where it belongs, in bytes.
        offset: u64,
        /// What stands there.
        bytes: Bytes,
    },
    /// Asks for chunks, at most [`CHUNKS_ASKED_MAX`].
    AskChunks {
        /// Which ones.
        chunks: Vec<Hash>,
    },
    /// A chunk.
    Chunk {
        /// Which one.
        chunk: Hash,
        /// Its bytes.
        bytes: Bytes,
    },
    /// The sender does not have it, or not any more.
    Gone {
        /// The manifest or chunk.
        hash: Hash,
    },
    /// The sender has taken a snapshot. Who has one of the same entry has the same one, or the state machines differ.
    Taken {
        /// The last entry that it holds.
        index: u64,
        /// Its manifest.
        manifest: Hash,
    },
}

/// So many chunks are asked for at a time.
pub const CHUNKS_ASKED_MAX: usize = 64;
/// A manifest is sent in pieces of this size, in bytes.
pub const MANIFEST_PIECE_BYTES: usize = 256 << 10;
