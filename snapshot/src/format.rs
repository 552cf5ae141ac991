//! The bytes of a snapshot file: all constants, and the pieces whose length is known.
//!
//! Everything is little-endian and begins at a multiple of 8; gaps are zeros.
//!
//! ```text
//! names in the directory
//!      0000000000000001.snap      a snapshot: the chunks that no older file had, and its manifest
//!      0000000000000002.chunks    chunks that are needed still: of a dropped snapshot, moved together, or repaired
//!      0000000000000003.install   a snapshot that arrives from a peer; when it is complete it becomes a .snap
//!      0000000000000004.tmp       being written; removed by the next open
//!      LOCK
//!
//! file                            a .install has its manifest in front, before there is a table or a trailer
//!      header                64
//!      [manifest block]
//!      chunk records
//!      [manifest block]
//!      table                 48   for each chunk record of the file
//!      trailer               64
//!
//! header
//!      0  magic "DURASNAP"    8
//!      8  version             4
//!     12  zero                4
//!     16  owner              16   whose store it is
//!     32  zero               28
//!     60  checksum            4   of the 60 bytes before
//!
//! chunk record
//!      0  magic "DCHK"        4
//!      4  bytes               4
//!      8  name               32   BLAKE3 of the bytes
//!     40  checksum            4   of the 40 bytes before
//!     44  zero                4
//!     48  the bytes
//!
//! manifest block
//!      0  magic "DURAMANI"    8
//!      8  bytes               8
//!     16  BLAKE3             32   of the manifest
//!     48  checksum            4   of the 48 bytes before
//!     52  zero                4
//!     56  the manifest            see `manifest.rs`
//!
//! row of the table
//!      0  name               32
//!     32  offset              8   of the record
//!     40  bytes               4
//!     44  zero                4
//!
//! trailer
//!      0  magic "DURATAIL"    8
//!      8  table offset        8
//!     16  rows                8
//!     24  manifest offset     8   of its block; 0: there is none
//!     32  owner              16
//!     48  table checksum      4
//!     52  zero                8
//!     60  checksum            4   of the 60 bytes before
//! ```
//!
//! Which chunks a file holds stands in it twice, in the table and in the records: either is enough. A file is never changed
//! once it has its name, but for holes where chunks were that nothing needs any more.

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::chunk::ChunkName;

/// The version that this program writes, and the only one it reads.
pub(crate) const VERSION: u32 = 1;

const HEADER_MAGIC: &[u8; 8] = b"DURASNAP";
const RECORD_MAGIC: &[u8; 4] = b"DCHK";
const BLOCK_MAGIC: &[u8; 8] = b"DURAMANI";
const TRAILER_MAGIC: &[u8; 8] = b"DURATAIL";

pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const RECORD_HEAD_BYTES: usize = 48;
pub(crate) const BLOCK_HEAD_BYTES: usize = 56;
pub(crate) const ROW_BYTES: usize = 48;
pub(crate) const TRAILER_BYTES: usize = 64;
/// Records, blocks and tables begin at multiples of this.
pub(crate) const ALIGN: u64 = 8;

/// File systems give and take space, and read and write, in blocks of this size or a part of it.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// No chunk is longer, whatever its header claims.
pub(crate) const CHUNK_BYTES_MAX: u32 = 16 << 20;

/// Neither a manifest nor a table is longer, whatever a file claims: enough for 2^24 chunks.
pub(crate) const LIST_BYTES_MAX: u64 = 1 << 30;

/// No snapshot has more chunks: its table would not be believed.
pub(crate) const CHUNKS_MAX: usize = 1 << 24;

const _: () = assert!(CHUNKS_MAX * ROW_BYTES <= LIST_BYTES_MAX as usize);

/// The next multiple of [`ALIGN`].
pub(crate) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGN)
}

/// What a chunk takes in a file, its row in the table reckoned in.
pub(crate) fn chunk_space(bytes: u32) -> u64 {
    RECORD_HEAD_BYTES as u64 + padded(bytes.into()) + ROW_BYTES as u64
}

/// Puts the checksum of all that is before it at the end.
fn seal(buf: &mut [u8], at: usize) {
    let checksum = crc32fast::hash(&buf[..at]);
    LE::write_u32(&mut buf[at..], checksum);
}

fn is_sealed(buf: &[u8], at: usize) -> bool {
    crc32fast::hash(&buf[..at]) == LE::read_u32(&buf[at..])
}

/// What the first bytes of a file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    Ours { owner: u128 },
    Newer { version: u32 },
    Bad,
}

impl Header {
    pub(crate) fn encode(owner: u128) -> [u8; HEADER_BYTES] {
        let mut buf = [0; HEADER_BYTES];
        buf[..8].copy_from_slice(HEADER_MAGIC);
        LE::write_u32(&mut buf[8..], VERSION);
        LE::write_u128(&mut buf[16..], owner);
        seal(&mut buf, 60);
        buf
    }

    pub(crate) fn decode(buf: &[u8; HEADER_BYTES]) -> Header {
        let version = LE::read_u32(&buf[8..]);
        match &buf[..8] == HEADER_MAGIC && is_sealed(buf, 60) {
            true if version == VERSION => Header::Ours {
                owner: LE::read_u128(&buf[16..]),
            },
            true => Header::Newer { version },
            false => Header::Bad,
        }
    }
}

/// A chunk in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) name: ChunkName,
    /// Of its record.
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
}

impl Row {
    /// Where the record ends.
    pub(crate) fn end(&self) -> u64 {
        self.offset + RECORD_HEAD_BYTES as u64 + padded(self.bytes.into())
    }

    /// Where the bytes of the chunk begin.
    pub(crate) fn bytes_offset(&self) -> u64 {
        self.offset + RECORD_HEAD_BYTES as u64
    }

    fn is_sane(&self) -> bool {
        let offsets = HEADER_BYTES as u64..u64::MAX / 2;
        (1..=CHUNK_BYTES_MAX).contains(&self.bytes)
            && offsets.contains(&self.offset)
            && self.offset.is_multiple_of(ALIGN)
    }

    /// The head of the chunk's record.
    pub(crate) fn encode_head(&self) -> [u8; RECORD_HEAD_BYTES] {
        let mut buf = [0; RECORD_HEAD_BYTES];
        buf[..4].copy_from_slice(RECORD_MAGIC);
        LE::write_u32(&mut buf[4..], self.bytes);
        buf[8..40].copy_from_slice(self.name.as_bytes());
        seal(&mut buf, 40);
        buf
    }

    /// The record at `offset`, if `buf` begins with the head of one.
    pub(crate) fn decode_head(buf: &[u8], offset: u64) -> Option<Row> {
        let buf = buf.get(..RECORD_HEAD_BYTES)?;
        if &buf[..4] != RECORD_MAGIC || !is_sealed(buf, 40) {
            return None;
        }
        let row = Row {
            name: ChunkName::read(&buf[8..]),
            offset,
            bytes: LE::read_u32(&buf[4..]),
        };
        row.is_sane().then_some(row)
    }

    /// The row of the table.
    pub(crate) fn encode(&self) -> [u8; ROW_BYTES] {
        let mut buf = [0; ROW_BYTES];
        buf[..32].copy_from_slice(self.name.as_bytes());
        LE::write_u64(&mut buf[32..], self.offset);
        LE::write_u32(&mut buf[40..], self.bytes);
        buf
    }

    /// All rows of a table, if they make sense.
    pub(crate) fn decode_table(table: &[u8]) -> Option<Vec<Row>> {
        let rows = table.chunks_exact(ROW_BYTES).map(|buf| Row {
            name: ChunkName::read(buf),
            offset: LE::read_u64(&buf[32..]),
            bytes: LE::read_u32(&buf[40..]),
        });
        rows.map(|row| row.is_sane().then_some(row)).collect()
    }
}

/// What stands before a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockHead {
    pub(crate) bytes: u64,
    pub(crate) hash: [u8; 32],
}

impl BlockHead {
    pub(crate) fn encode(&self) -> [u8; BLOCK_HEAD_BYTES] {
        let mut buf = [0; BLOCK_HEAD_BYTES];
        buf[..8].copy_from_slice(BLOCK_MAGIC);
        LE::write_u64(&mut buf[8..], self.bytes);
        buf[16..48].copy_from_slice(&self.hash);
        seal(&mut buf, 48);
        buf
    }

    pub(crate) fn decode(buf: &[u8]) -> Option<BlockHead> {
        let buf = buf.get(..BLOCK_HEAD_BYTES)?;
        let mut hash = [0; 32];
        hash.copy_from_slice(&buf[16..48]);
        let head = BlockHead {
            bytes: LE::read_u64(&buf[8..]),
            hash,
        };
        let is_one = &buf[..8] == BLOCK_MAGIC && is_sealed(buf, 48);
        (is_one && head.bytes <= LIST_BYTES_MAX).then_some(head)
    }

    /// Where the block ends that begins at `offset`.
    pub(crate) fn end(&self, offset: u64) -> Option<u64> {
        let bytes = self.bytes.checked_next_multiple_of(ALIGN)?;
        offset
            .checked_add(BLOCK_HEAD_BYTES as u64)?
            .checked_add(bytes)
    }
}

/// The last bytes of a file that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) owner: u128,
    pub(crate) table: u64,
    pub(crate) rows: u64,
    pub(crate) table_checksum: u32,
    /// Where the manifest's block is, if there is one.
    pub(crate) manifest: Option<u64>,
}

impl Trailer {
    pub(crate) fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut buf = [0; TRAILER_BYTES];
        buf[..8].copy_from_slice(TRAILER_MAGIC);
        LE::write_u64(&mut buf[8..], self.table);
        LE::write_u64(&mut buf[16..], self.rows);
        LE::write_u64(&mut buf[24..], self.manifest.unwrap_or(0));
        LE::write_u128(&mut buf[32..], self.owner);
        LE::write_u32(&mut buf[48..], self.table_checksum);
        seal(&mut buf, 60);
        buf
    }

    /// The trailer of a file of so many bytes, if the table that it tells of lies right before it.
    pub(crate) fn decode(buf: &[u8; TRAILER_BYTES], file_bytes: u64) -> Option<Trailer> {
        if &buf[..8] != TRAILER_MAGIC || !is_sealed(buf, 60) {
            return None;
        }
        let trailer = Trailer {
            table: LE::read_u64(&buf[8..]),
            rows: LE::read_u64(&buf[16..]),
            manifest: Some(LE::read_u64(&buf[24..])).filter(|offset| *offset > 0),
            owner: LE::read_u128(&buf[32..]),
            table_checksum: LE::read_u32(&buf[48..]),
        };
        let table_bytes = trailer.rows.checked_mul(ROW_BYTES as u64)?;
        let end = trailer.table.checked_add(table_bytes)?;
        let is_there = trailer.table >= HEADER_BYTES as u64
            && table_bytes <= LIST_BYTES_MAX
            && end.checked_add(TRAILER_BYTES as u64) == Some(file_bytes);
        is_there.then_some(trailer)
    }
}
