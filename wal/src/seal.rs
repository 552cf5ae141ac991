//! Seals: what stands at the end of a segment that is full. A second copy of every directory, and a summary from which the
//! log is opened without reading them.
//!
//! A segment is sealed when all its frames, and the first one of the segment after it, are durable. So what is sealed has a
//! successor that holds the state of every group. If the seal is damaged, the frames say the same, and the other way round.

use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian as LE};
use bytes::Bytes;

use crate::canary::planted;
use crate::error::{Error, Result};
use crate::format::{Place, SEGMENT_HEADER_BYTES, TRAILER_BYTES, TRAILER_MAGIC};
use crate::frame::{Directory, Link};
use crate::record::{self, Records};
use crate::segment::Segment;
use crate::table::Table;

/// A segment that is full and has no seal yet.
pub(crate) struct Full {
    pub(crate) segment: Arc<Segment>,
    /// The directories of its frames, one after the other.
    pub(crate) directories: Bytes,
    /// Where the next frame would have gone.
    pub(crate) frames_end: u64,
    /// What its first frame follows, and what follows its last one.
    pub(crate) first: Link,
    pub(crate) last: Link,
}

/// What a seal says of its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trailer {
    seal_offset: u64,
    directory_bytes: u64,
    summary_bytes: u64,
    directories_checksum: u32,
    summary_checksum: u32,
    pub(crate) frames_end: u64,
    /// What the first frame follows. Its epoch is not said.
    pub(crate) first: Link,
    pub(crate) last: Link,
}

impl Full {
    /// Writes the seal, and when that is durable the trailer: a seal that a crash tore has none, and is written again.
    /// Durable on return. Gives the table that can be read from it.
    pub(crate) fn seal(&self) -> Result<Table> {
        let segment = &self.segment;
        let number = segment.header.number;
        let directories = segment
            .split_seal(self.directories.clone())
            .expect("the writer kept whole directories");
        let table = Table::of(number, &directories);
        let table = table.map_err(|reason| Error::damaged(&segment.path, 0, reason))?;
        let mut summary = Vec::new();
        record::encode(&mut summary, &table.summary(), &mut None);
        let limit = |seal_bytes| segment.frames_limit(seal_bytes);
        let directory_bytes = self.directories.len() as u64;
        if limit(directory_bytes + summary.len() as u64) < self.frames_end {
            summary.clear(); // No space: the directories say the same.
        }
        let seal_offset = limit(directory_bytes + summary.len() as u64);
        assert!(
            seal_offset >= self.frames_end,
            "the seal at {seal_offset} would cover frames up to {}",
            self.frames_end
        );
        let trailer = Trailer {
            seal_offset,
            directory_bytes,
            summary_bytes: summary.len() as u64,
            directories_checksum: crc32fast::hash(&self.directories),
            summary_checksum: crc32fast::hash(&summary),
            frames_end: self.frames_end,
            first: self.first,
            last: self.last,
        };
        let place = segment.trailer_place();
        let seal = [&self.directories[..], &summary].concat();
        for (bytes, offset) in [
            (&seal[..], seal_offset),
            (&trailer.encode(place), place.offset),
        ] {
            let written = segment.file.write_all_at(bytes, offset);
            written.map_err(Error::io("write", &segment.path))?;
            let synced = segment.file.sync_data();
            synced.map_err(Error::io("sync", &segment.path))?;
        }
        Ok(table)
    }
}

impl Trailer {
    fn encode(&self, place: Place) -> [u8; TRAILER_BYTES] {
        let mut buf = [0; TRAILER_BYTES];
        buf[8..16].copy_from_slice(TRAILER_MAGIC);
        LE::write_u64(&mut buf[16..], self.seal_offset);
        LE::write_u64(&mut buf[24..], self.directory_bytes);
        LE::write_u64(&mut buf[32..], self.summary_bytes);
        LE::write_u32(&mut buf[40..], self.directories_checksum);
        LE::write_u32(&mut buf[44..], self.summary_checksum);
        LE::write_u64(&mut buf[48..], self.frames_end);
        LE::write_u64(&mut buf[56..], self.first.sequence);
        LE::write_u64(&mut buf[64..], self.last.sequence - 1);
        LE::write_u64(&mut buf[72..], self.last.epoch);
        LE::write_u32(&mut buf[80..], self.first.predecessor);
        LE::write_u32(&mut buf[84..], self.last.predecessor);
        let checksum = place.checksum(&buf[4..]);
        LE::write_u32(&mut buf, checksum);
        buf
    }

    /// The trailer of a segment, if there is one. Its lengths fit into the file.
    fn decode(buf: &[u8; TRAILER_BYTES], place: Place) -> Option<Trailer> {
        if LE::read_u32(buf) != place.checksum(&buf[4..]) || &buf[8..16] != TRAILER_MAGIC {
            return None;
        }
        let trailer = Trailer {
            seal_offset: LE::read_u64(&buf[16..]),
            directory_bytes: LE::read_u64(&buf[24..]),
            summary_bytes: LE::read_u64(&buf[32..]),
            directories_checksum: LE::read_u32(&buf[40..]),
            summary_checksum: LE::read_u32(&buf[44..]),
            frames_end: LE::read_u64(&buf[48..]),
            first: Link {
                sequence: LE::read_u64(&buf[56..]),
                predecessor: LE::read_u32(&buf[80..]),
                epoch: Link::ANY_EPOCH,
            },
            last: Link {
                sequence: LE::read_u64(&buf[64..]).saturating_add(1),
                predecessor: LE::read_u32(&buf[84..]),
                epoch: LE::read_u64(&buf[72..]),
            },
        };
        let end = trailer.summary_offset()?.checked_add(trailer.summary_bytes);
        let fits = end == Some(place.offset)
            && trailer.frames_end <= trailer.seal_offset
            && trailer.frames_end >= SEGMENT_HEADER_BYTES as u64
            && trailer.first.sequence < trailer.last.sequence;
        fits.then_some(trailer)
    }

    /// Whether there was space for a summary.
    pub(crate) fn has_summary(&self) -> bool {
        self.summary_bytes > 0
    }

    fn summary_offset(&self) -> Option<u64> {
        self.seal_offset.checked_add(self.directory_bytes)
    }
}

impl Segment {
    /// The trailer, if the segment is sealed. One that is damaged is none; one that the disk does not give is an error: nobody
    /// knows whether it is there.
    pub(crate) fn trailer(&self) -> Result<Option<Trailer>> {
        let place = self.trailer_place();
        if place.offset < SEGMENT_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let mut buf = [0; TRAILER_BYTES];
        self.file
            .read_exact_at(&mut buf, place.offset)
            .map_err(Error::io("read", &self.path))?;
        Ok(Trailer::decode(&buf, place))
    }

    /// The summary in a seal. `None` if there is none, or it is damaged or cannot be read: the directories say the same.
    pub(crate) fn summary(&self, trailer: &Trailer) -> Option<Records> {
        let offset = trailer.seal_offset + trailer.directory_bytes;
        let bytes = self.read(offset, trailer.summary_bytes)?;
        let is_right = crc32fast::hash(&bytes) == trailer.summary_checksum;
        let is_right = (is_right || planted("seal_not_checked")) && !bytes.is_empty();
        is_right.then(|| record::decode(&bytes).ok()).flatten()
    }

    /// The directories in a seal. `None` if they are damaged or cannot be read: the frames say the same.
    pub(crate) fn sealed_directories(&self, trailer: &Trailer) -> Option<Vec<Directory>> {
        let bytes = self.read(trailer.seal_offset, trailer.directory_bytes)?;
        let is_right = crc32fast::hash(&bytes) == trailer.directories_checksum;
        is_right.then(|| self.split_seal(bytes)).flatten()
    }

    /// `len` bytes that the file has. A part of a seal that cannot be read is no better than one that is damaged, and no worse.
    fn read(&self, offset: u64, len: u64) -> Option<Bytes> {
        let mut bytes = vec![0; len as usize];
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.inspect_err(|error| tracing::warn!(path = %self.path.display(), %error, "cannot read a part of a seal"))
            .ok()?;
        Some(bytes.into())
    }

    /// The directories in a seal are as they stand in their frames, and checked as if they stood there.
    fn split_seal(&self, mut seal: Bytes) -> Option<Vec<Directory>> {
        let mut directories = Vec::new();
        while !seal.is_empty() {
            let (offset, directory_bytes) = Directory::peek(&seal)?;
            directories.push(Directory::decode(&seal, self.home(), offset)?);
            seal = seal.slice(directory_bytes as usize..);
        }
        Some(directories)
    }

    fn trailer_place(&self) -> Place {
        Place {
            log_id: self.header.log_id,
            segment: self.header.number,
            epoch: 0, // A segment is sealed once.
            offset: self.header.file_bytes.saturating_sub(TRAILER_BYTES as u64),
        }
    }
}
