//! Segment files: their names and their headers.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use byteorder::{ByteOrder, LittleEndian as LE};
use bytes::Bytes;
use duramen_disk::{Disk, DiskFile, Map};

use crate::canary::planted;
use crate::control::CONTROL_FILE;
use crate::cut::{CUT_FILE, LOST_FILE};
use crate::error::{Damage, Error, Result};
use crate::format::{
    FILE_BYTES_MAX, NUMBERS_MAX, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, TRAILER_BYTES, VERSION,
};
use crate::frame::Home;
use crate::spare::spare_name;

/// An open segment file.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) path: PathBuf,
    pub(crate) file: Box<dyn DiskFile>,
    /// The file as memory, once somebody read it so; `None` if the disk cannot.
    map: OnceLock<Option<Map>>,
}

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: u128,
    pub(crate) number: u64,
    /// The full length of the file.
    pub(crate) file_bytes: u64,
    /// The file was another segment before: what no frame covers are old bytes, and not zeros.
    pub(crate) is_recycled: bool,
}

/// Whether files may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    Look,
}

impl Access {
    pub(crate) fn open(self, disk: &dyn Disk, path: &Path) -> Result<Box<dyn DiskFile>> {
        let file = match self {
            Access::Write => disk.open(path),
            Access::Look => disk.open_read(path),
        };
        file.map_err(Error::io("open", path))
    }
}

const FLAG_RECYCLED: u32 = 1;

const SUFFIX: &str = ".wal";

/// What a name in a log's directory means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Segment(u64),
    Control,
    /// A file that may become a segment.
    Spare(u64),
    /// Not part of the log: a file that is to become one, perhaps left by a crash.
    Temporary,
    /// Left by [`Wal::cut`](crate::Wal::cut).
    Cut,
    /// Left by [`Wal::cut`](crate::Wal::cut).
    Lost,
    Lock,
    Foreign,
}

impl Name {
    pub(crate) fn parse(name: &str) -> Name {
        match name {
            duramen_disk::LOCK_FILE => return Name::Lock,
            CONTROL_FILE => return Name::Control,
            CUT_FILE => return Name::Cut,
            LOST_FILE => return Name::Lost,
            _ => {}
        }
        let spare = name
            .strip_prefix("spare-")
            .and_then(|name| name.strip_suffix(".tmp")?.parse().ok());
        match spare {
            Some(number) if spare_name(number) == name => return Name::Spare(number),
            _ if name.ends_with(".tmp") => return Name::Temporary,
            _ => {}
        }
        let number = name
            .strip_suffix(SUFFIX)
            .and_then(|hex| u64::from_str_radix(hex, 16).ok());
        match number {
            // Only the one spelling that `path` gives: two files for one number must not exist.
            Some(number) if segment_name(number) == name => Name::Segment(number),
            _ => Name::Foreign,
        }
    }
}

pub(crate) fn segment_name(number: u64) -> String {
    format!("{number:016x}{SUFFIX}")
}

pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(segment_name(number))
}

/// The size of a segment that is to be of `preferred` bytes and must hold frames and a seal of `wanted` bytes.
pub(crate) fn segment_bytes(preferred: u64, wanted: u64) -> u64 {
    let overhead = (SEGMENT_HEADER_BYTES + TRAILER_BYTES) as u64;
    preferred.max(overhead + wanted).next_multiple_of(4096)
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut buf = [0; SEGMENT_HEADER_BYTES];
        buf[..8].copy_from_slice(SEGMENT_MAGIC);
        LE::write_u32(&mut buf[8..], VERSION);
        LE::write_u128(&mut buf[16..], self.log_id);
        LE::write_u64(&mut buf[32..], self.number);
        LE::write_u64(&mut buf[40..], self.file_bytes);
        let flags = if self.is_recycled { FLAG_RECYCLED } else { 0 };
        LE::write_u32(&mut buf[48..], flags);
        let checksum = header_checksum(&buf);
        LE::write_u32(&mut buf[12..], checksum);
        buf
    }

    fn decode(path: &Path, buf: &[u8; SEGMENT_HEADER_BYTES]) -> Result<SegmentHeader> {
        if &buf[..8] != SEGMENT_MAGIC {
            return Err(Error::damaged(path, 0, Damage::Magic));
        }
        if LE::read_u32(&buf[12..]) != header_checksum(buf) {
            return Err(Error::damaged(path, 0, Damage::Checksum));
        }
        // After the checksum: a flipped bit is damage and not another version.
        match LE::read_u32(&buf[8..]) {
            VERSION => {}
            found => return Err(Error::version(path, found)),
        }
        let flags = LE::read_u32(&buf[48..]);
        let header = SegmentHeader {
            log_id: LE::read_u128(&buf[16..]),
            number: LE::read_u64(&buf[32..]),
            file_bytes: LE::read_u64(&buf[40..]),
            is_recycled: flags == FLAG_RECYCLED,
        };
        let is_sane = header.number < NUMBERS_MAX
            && flags <= FLAG_RECYCLED
            && buf[52..].iter().all(|byte| *byte == 0)
            && header.file_bytes <= FILE_BYTES_MAX;
        match is_sane {
            true => Ok(header),
            false => Err(Error::damaged(path, 0, Damage::Content)),
        }
    }
}

/// Holds a segment that is mapped.
struct Mapped(Arc<Segment>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        let map = self.0.map.get().and_then(Option::as_ref);
        map.map_or(&[], |map| &map[..])
    }
}

fn header_checksum(buf: &[u8; SEGMENT_HEADER_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&buf[..12]);
    hasher.update(&buf[16..]);
    hasher.finalize()
}

impl Segment {
    /// Opens segment `number` and checks its header.
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &Path,
        number: u64,
        access: Access,
    ) -> Result<Segment> {
        let path = segment_path(dir, number);
        let file = access.open(disk, &path)?;
        let len = file.len().map_err(Error::io("look at", &path))?;
        if len < SEGMENT_HEADER_BYTES as u64 {
            return Err(Error::damaged(&path, 0, Damage::Short));
        }
        let mut buf = [0; SEGMENT_HEADER_BYTES];
        file.read_exact_at(&mut buf, 0)
            .map_err(Error::io("read", &path))?;
        let header = SegmentHeader::decode(&path, &buf)?;
        if header.number != number {
            return Err(Error::damaged(&path, 0, Damage::Stranger));
        }
        let damage = match len.cmp(&header.file_bytes) {
            _ if planted("length_not_checked") => None,
            Ordering::Less => Some(Damage::Short),
            Ordering::Equal => None,
            Ordering::Greater => Some(Damage::Long),
        };
        if let Some(damage) = damage {
            return Err(Error::damaged(&path, len, damage));
        }
        Ok(Segment::new(header, path, file))
    }

    pub(crate) fn new(header: SegmentHeader, path: PathBuf, file: Box<dyn DiskFile>) -> Segment {
        Segment {
            header,
            path,
            file,
            map: OnceLock::new(),
        }
    }

    /// Bytes of the file without a copy, if the disk can map it. They hold the segment. Only for one that is sealed.
    pub(crate) fn map_bytes(segment: &Arc<Segment>, offset: u64, len: u64) -> Option<Bytes> {
        let map = segment.map.get_or_init(|| {
            let mapped = segment.file.map();
            mapped
                .inspect_err(|error| tracing::debug!(%error, "reading without a map"))
                .ok()
        });
        let map = map.as_ref()?;
        let end = usize::try_from(offset + len).ok()?;
        map.get(offset as usize..end)?;
        let all = Bytes::from_owner(Mapped(segment.clone()));
        Some(all.slice(offset as usize..end))
    }

    pub(crate) fn home(&self) -> Home {
        Home {
            log_id: self.header.log_id,
            segment: self.header.number,
        }
    }

    /// Where the seal begins at the latest, if it has so many bytes.
    pub(crate) fn frames_limit(&self, seal_bytes: u64) -> u64 {
        self.header
            .file_bytes
            .saturating_sub(TRAILER_BYTES as u64 + seal_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_has_one_name_only() {
        assert_eq!(Name::parse("000000000000000a.wal"), Name::Segment(10));
        for foreign in [
            "a.wal",
            "000000000000000A.wal",
            "+00000000000000a.wal",
            "000000000000000a.wal~",
            "",
        ] {
            assert_eq!(Name::parse(foreign), Name::Foreign, "{foreign}");
        }
        assert_eq!(Name::parse("LOCK"), Name::Lock);
        assert_eq!(Name::parse("CONTROL"), Name::Control);
        assert_eq!(Name::parse("spare-1.tmp"), Name::Spare(1));
        assert_eq!(Name::parse("spare-01.tmp"), Name::Temporary);
    }
}
