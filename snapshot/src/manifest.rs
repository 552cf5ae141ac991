//! What a snapshot consists of.
//!
//! ```text
//! manifest
//!      0  version             4
//!      4  average of chunks   4   bytes, as they were cut
//!      8  meta bytes          8
//!     16  chunks              8
//!     24  bytes               8   of the whole stream
//!     32  meta                    padded to a multiple of 4
//!         for each chunk, in the order of the stream
//!      0  name               32
//!     32  bytes               4
//! ```

use std::sync::Arc;
use std::{fmt, iter};

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::chunk::{ChunkName, Cutter};
use crate::codec;
use crate::error::{BadManifest, Error, Result};
use crate::format::{CHUNK_BYTES_MAX, CHUNKS_MAX, VERSION};

/// What a snapshot is of: the caller's words, kept with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Meta {
    /// The index of the last entry that the state holds (paper, section 7: lastIncludedIndex).
    pub last_index: u64,
    /// Its term (lastIncludedTerm).
    pub last_term: u64,
    /// The membership as of that index, in the caller's encoding.
    pub membership: Vec<u8>,
    /// What the state machine adds.
    pub extra: Vec<u8>,
}

impl Meta {
    /// That of a state up to this entry, without membership and extra.
    pub fn new(last_term: u64, last_index: u64) -> Meta {
        Meta {
            last_index,
            last_term,
            ..Meta::default()
        }
    }
}

/// The name of a manifest: the BLAKE3 hash of its encoding. Equal names are equal snapshots, also of two nodes: state
/// machines whose manifests differ at one index have diverged.
pub type ManifestName = ChunkName;

/// A chunk of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// Which one.
    pub name: ChunkName,
    /// Its length.
    pub bytes: u32,
}

/// The chunks of a snapshot, in order, and what it is of. Cloning is cheap.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest {
    inner: Arc<Inner>,
}

#[derive(PartialEq, Eq)]
struct Inner {
    meta: Meta,
    average: u32,
    chunks: Vec<ChunkRef>,
    bytes: u64,
    name: ManifestName,
}

const HEAD_BYTES: usize = 32;
const REF_BYTES: usize = 36;

impl Manifest {
    pub(crate) fn new(meta: Meta, average: u32, chunks: Vec<ChunkRef>) -> Manifest {
        let bytes = chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum();
        let mut hash = blake3::Hasher::new();
        for piece in encode(&meta, average, &chunks, bytes) {
            hash.update(&piece);
        }
        let name = ChunkName::from_bytes(hash.finalize().into());
        let inner = Arc::new(Inner {
            meta,
            average,
            chunks,
            bytes,
            name,
        });
        Manifest { inner }
    }

    /// What the snapshot is of.
    pub fn meta(&self) -> &Meta {
        &self.inner.meta
    }

    /// The chunks, in order. One may come more than once.
    pub fn chunks(&self) -> &[ChunkRef] {
        &self.inner.chunks
    }

    /// The length of the snapshot.
    pub fn bytes(&self) -> u64 {
        self.inner.bytes
    }

    /// The average that its chunks were cut with, in bytes.
    pub fn average(&self) -> u32 {
        self.inner.average
    }

    /// The manifest's name.
    pub fn name(&self) -> ManifestName {
        self.inner.name
    }

    /// The length of its encoding.
    pub(crate) fn encoded_bytes(&self) -> u64 {
        let meta = codec::encode(self.meta()).len().next_multiple_of(4);
        (HEAD_BYTES + meta + REF_BYTES * self.chunks().len()) as u64
    }

    /// The manifest as it goes to a peer.
    pub fn encode(&self) -> Vec<u8> {
        let mut buf = Vec::with_capacity(self.encoded_bytes() as usize);
        self.pieces()
            .for_each(|piece| buf.extend_from_slice(&piece));
        buf
    }

    /// The encoding in pieces: that of a long manifest is not held in memory.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Vec<u8>> {
        let Inner {
            meta,
            average,
            chunks,
            bytes,
            ..
        } = &*self.inner;
        encode(meta, *average, chunks, *bytes)
    }

    /// A manifest from a peer.
    ///
    /// # Errors
    /// [`Error::BadManifest`]: these bytes are none.
    pub fn decode(buf: &[u8]) -> Result<Manifest> {
        let bad = |reason| Error::BadManifest { reason };
        let head = buf.get(..HEAD_BYTES).ok_or(bad(BadManifest::Length))?;
        let version = LE::read_u32(head);
        if version != VERSION {
            return Err(bad(BadManifest::Version {
                found: version,
                expected: VERSION,
            }));
        }
        let (meta_bytes, count) = (LE::read_u64(&head[8..]), LE::read_u64(&head[16..]));
        let rest = &buf[HEAD_BYTES..];
        let meta_end = usize::try_from(meta_bytes)
            .ok()
            .filter(|end| *end <= rest.len());
        let meta_end = meta_end.ok_or(bad(BadManifest::Length))?;
        let refs = rest.get(meta_end.next_multiple_of(4)..);
        let refs = refs.ok_or(bad(BadManifest::Length))?;
        let fits = count.checked_mul(REF_BYTES as u64) == Some(refs.len() as u64);
        if !fits || count > CHUNKS_MAX as u64 {
            return Err(bad(BadManifest::Length));
        }
        let meta = codec::decode(&rest[..meta_end]).ok_or(bad(BadManifest::Meta))?;
        let chunks = refs.chunks_exact(REF_BYTES).map(|buf| ChunkRef {
            name: ChunkName::read(buf),
            bytes: LE::read_u32(&buf[32..]),
        });
        let manifest = Manifest::new(meta, LE::read_u32(&head[4..]), chunks.collect());
        let mut lengths = manifest.chunks().iter().map(|chunk| chunk.bytes);
        let lengths_fit = lengths.all(|bytes| (1..=CHUNK_BYTES_MAX).contains(&bytes));
        if !lengths_fit || manifest.bytes() != LE::read_u64(&head[24..]) {
            return Err(bad(BadManifest::ChunkLength));
        }
        // There is one encoding for each manifest, so that equal snapshots have equal names.
        let is_average = Cutter::AVERAGES.contains(&manifest.average());
        match is_average && manifest.name() == ChunkName::of(buf) {
            true => Ok(manifest),
            false => Err(bad(BadManifest::Meta)),
        }
    }
}

/// So many chunks are encoded at a time.
const PIECE_CHUNKS: usize = 1024;

fn encode(
    meta: &Meta,
    average: u32,
    chunks: &[ChunkRef],
    bytes: u64,
) -> impl Iterator<Item = Vec<u8>> {
    let meta = codec::encode(meta);
    let mut head = vec![0; HEAD_BYTES];
    LE::write_u32(&mut head, VERSION);
    LE::write_u32(&mut head[4..], average);
    LE::write_u64(&mut head[8..], meta.len() as u64);
    LE::write_u64(&mut head[16..], chunks.len() as u64);
    LE::write_u64(&mut head[24..], bytes);
    head.extend_from_slice(&meta);
    head.resize(HEAD_BYTES + meta.len().next_multiple_of(4), 0);
    let refs = chunks.chunks(PIECE_CHUNKS).map(|chunks| {
        let mut piece = Vec::with_capacity(REF_BYTES * chunks.len());
        for chunk in chunks {
            piece.extend_from_slice(chunk.name.as_bytes());
            piece.extend_from_slice(&chunk.bytes.to_le_bytes());
        }
        piece
    });
    iter::once(head).chain(refs)
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manifest")
            .field("name", &self.name())
            .field("meta", self.meta())
            .field("bytes", &self.bytes())
            .field("chunks", &self.chunks().len())
            .finish()
    }
}
