//! What can go wrong.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::SnapshotId;
use crate::chunk::ChunkName;

/// The result of a call to the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call to the store failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system said no.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was to be done.
        op: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// The disk, or the quota, is full. What was there is as it was.
    #[error("no space left for {}: the snapshots that are there are kept; make room, then try again", path.display())]
    Full {
        /// The file that was being written.
        path: PathBuf,
    },

    /// Somebody has the store open: another process, or a handle in this one.
    #[error("{} is in use by another process, or by a handle in this one: end that first", path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },

    /// The directory holds no store, and one is made only by opening it for writing.
    #[error("{} holds no snapshots", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },

    /// The store was opened for reading.
    #[error("{} was opened for reading", path.display())]
    ReadOnly {
        /// The store's directory.
        path: PathBuf,
    },

    /// The file was written by a newer version of this crate.
    #[error("{} has format version {found}, this program reads version {expected}: use the program that wrote it, or a newer one", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it claims.
        found: u32,
        /// The version this program reads.
        expected: u32,
    },

    /// The file belongs to another store.
    #[error("{} belongs to {found:032x}, and this is the store of {expected:032x}: move it away, then open again", path.display())]
    OtherOwner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: u128,
        /// Whose store this is.
        expected: u128,
    },

    /// Two files have one number: one of them is a copy that somebody made.
    #[error("{} has the number of another file: move one of them away, then open again", path.display())]
    Doubled {
        /// One of them.
        path: PathBuf,
    },

    /// A chunk is not what was written. [`SnapshotStore::repair_chunk`](crate::SnapshotStore::repair_chunk) puts it right.
    #[error("chunk {name} at byte {offset} of {} is damaged: {reason}; fetch it from a peer", path.display())]
    DamagedChunk {
        /// The snapshot that was read, if it was one.
        snapshot: Option<SnapshotId>,
        /// Which chunk.
        name: ChunkName,
        /// The file it is in.
        path: PathBuf,
        /// Where in it its bytes begin.
        offset: u64,
        /// What is wrong.
        reason: Damage,
    },

    /// No file holds a chunk that a snapshot needs. [`SnapshotStore::repair_chunk`](crate::SnapshotStore::repair_chunk)
    /// puts it right.
    #[error("chunk {name} is missing{}: fetch it from a peer", match snapshot { Some(id) => format!(", which snapshot {id} needs"), None => String::new() })]
    MissingChunk {
        /// The snapshot that was read, if it was one.
        snapshot: Option<SnapshotId>,
        /// Which chunk.
        name: ChunkName,
    },

    /// The store has no such snapshot.
    #[error("there is no snapshot {id}")]
    NoSuchSnapshot {
        /// Which one.
        id: SnapshotId,
    },

    /// The bytes are not those of the chunk, or the chunk is not asked for. Nothing was written.
    #[error(
        "a chunk of {bytes} bytes named {found} came where {expected} was expected: it is refused"
    )]
    WrongChunk {
        /// The name that was told.
        expected: ChunkName,
        /// That of the bytes.
        found: ChunkName,
        /// How many there are.
        bytes: usize,
    },

    /// A chunk is not one of those that are wanted. Nothing was written.
    #[error("chunk {name} is not needed here")]
    UnknownChunk {
        /// Which one.
        name: ChunkName,
    },

    /// A snapshot cannot be published before all its chunks are there.
    #[error("{missing} chunks are still missing")]
    Incomplete {
        /// How many.
        missing: usize,
    },

    /// The same snapshot is being installed through another handle.
    #[error("snapshot {name} is being installed already")]
    Installing {
        /// The manifest's name.
        name: ChunkName,
    },

    /// A snapshot is too large to be found again, and is not written.
    #[error(
        "a snapshot has {chunks} chunks and {meta_bytes} bytes of metadata at the most: take larger chunks, or put less into its metadata"
    )]
    TooLarge {
        /// No snapshot has more chunks.
        chunks: usize,
        /// Nor more metadata, as it is encoded.
        meta_bytes: usize,
    },

    /// These bytes are no manifest.
    #[error("this is no manifest: {reason}")]
    BadManifest {
        /// What is wrong with them.
        reason: BadManifest,
    },

    /// An earlier change failed in a way that leaves open whether it happened. Reading goes on; open the store again to
    /// know, and to change it.
    #[error("the store takes no more changes, since one failed: {cause}; open it again")]
    Poisoned {
        /// What failed.
        cause: Arc<Error>,
    },
}

/// What is wrong with bytes on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The file's first bytes are not those of a snapshot file.
    #[error("the header is bad")]
    Header,
    /// The file does not end like one.
    #[error("the trailer is bad")]
    Trailer,
    /// The list of the file's chunks.
    #[error("the table is bad")]
    Table,
    /// The list of the snapshot's chunks.
    #[error("the manifest is bad")]
    Manifest,
    /// The bytes of a chunk, which do not have its name.
    #[error("the bytes do not have the chunk's name")]
    Name,
    /// The disk does not give it.
    #[error("it cannot be read")]
    Unreadable,
}

/// What is wrong with a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadManifest {
    /// It has another length than it claims, or more chunks than a snapshot can have.
    #[error("its length is wrong")]
    Length,
    /// A chunk has a length that none can have, or their sum is not what it claims.
    #[error("the lengths of its chunks are wrong")]
    ChunkLength,
    /// The metadata, or how it is encoded.
    #[error("its metadata is wrong")]
    Meta,
    /// It is of another version.
    #[error("it has format version {found}, this program reads version {expected}")]
    Version {
        /// The version it claims.
        found: u32,
        /// The version this program reads.
        expected: u32,
    },
}

impl Error {
    pub(crate) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full {
                path: path.to_owned(),
            },
            _ => Error::Io {
                op,
                path: path.to_owned(),
                source: Arc::new(source),
            },
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &error {
            Error::Io { source, .. } => source.kind(),
            Error::Full { .. } => io::ErrorKind::StorageFull,
            Error::DamagedChunk { .. } | Error::MissingChunk { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
