//! Segment files: their names, their headers, making one, sealing one.

use std::path::{Path, PathBuf};

use byteorder::{ByteOrder, LittleEndian as LE};
use bytes::Bytes;
use duramen_disk::{Disk, DiskFile};

use crate::canary::planted;
use crate::control::CONTROL_FILE;
use crate::error::{Damage, Error, Result, is_full};
use crate::format::{
    FILE_BYTES_MAX, NUMBERS_MAX, Place, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, TRAILER_BYTES,
    TRAILER_MAGIC, VERSION,
};
use crate::frame::{Directory, Home, Link};

/// An open segment file.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) path: PathBuf,
    pub(crate) file: Box<dyn DiskFile>,
}

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: u128,
    pub(crate) number: u64,
    pub(crate) first_sequence: u64,
    /// The full length of the file.
    pub(crate) file_bytes: u64,
    pub(crate) predecessor: u32,
    /// The file was another segment before: what no frame covers are old bytes, and not zeros.
    pub(crate) is_recycled: bool,
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
    Lock,
    Foreign,
}

impl Name {
    pub(crate) fn parse(name: &str) -> Name {
        match name {
            duramen_disk::LOCK_FILE => return Name::Lock,
            CONTROL_FILE => return Name::Control,
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
        LE::write_u64(&mut buf[40..], self.first_sequence);
        LE::write_u64(&mut buf[48..], self.file_bytes);
        LE::write_u32(&mut buf[56..], self.predecessor);
        LE::write_u32(
            &mut buf[60..],
            if self.is_recycled { FLAG_RECYCLED } else { 0 },
        );
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
        let header = SegmentHeader {
            log_id: LE::read_u128(&buf[16..]),
            number: LE::read_u64(&buf[32..]),
            first_sequence: LE::read_u64(&buf[40..]),
            file_bytes: LE::read_u64(&buf[48..]),
            predecessor: LE::read_u32(&buf[56..]),
            is_recycled: LE::read_u32(&buf[60..]) == FLAG_RECYCLED,
        };
        let is_sane = header.number < NUMBERS_MAX
            && LE::read_u32(&buf[60..]) <= FLAG_RECYCLED
            && (1..NUMBERS_MAX).contains(&header.first_sequence)
            && header.file_bytes <= FILE_BYTES_MAX;
        match is_sane {
            true => Ok(header),
            false => Err(Error::damaged(path, 0, Damage::Content)),
        }
    }
}

fn header_checksum(buf: &[u8; SEGMENT_HEADER_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&buf[..12]);
    hasher.update(&buf[16..]);
    hasher.finalize()
}

/// A file of a segment's full length that waits to become one. Its space is there, durably.
pub(crate) struct Spare {
    /// Sets it apart from other spares.
    number: u64,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    file_bytes: u64,
    /// It holds what another segment held.
    is_recycled: bool,
}

impl Spare {
    /// Reserves the space: the only step of a rotation that needs any. `number` sets it apart from other spares.
    ///
    /// With `fill`, it is written once too, as long as `fill` says to go on: then a write into the segment changes no
    /// metadata, and its sync is cheaper by up to half.
    pub(crate) fn create(
        disk: &dyn Disk,
        dir: &Path,
        number: u64,
        file_bytes: u64,
        fill: Option<&dyn Fn() -> bool>,
    ) -> Result<Spare> {
        let path = spare_path(dir, number);
        let full_or_io = |op: &'static str, error| match is_full(&error) {
            true => Error::Full { path: path.clone() },
            false => Error::io(op, &path)(error),
        };
        let file = disk
            .create(&path)
            .map_err(|error| full_or_io("create", error))?;
        let reserved = file
            .allocate(file_bytes)
            .map_err(|error| full_or_io("allocate", error));
        let filled = reserved.and_then(|()| {
            let filled = fill.map_or(Ok(()), |goes_on| write_zeros(&*file, file_bytes, goes_on));
            filled.map_err(|error| full_or_io("write", error))
        });
        let durable = filled.and_then(|()| file.sync_data().map_err(Error::io("sync", &path)));
        if let Err(error) = durable {
            // Gives the space back. If that fails too, the next `open` does it.
            let _ = disk.remove(&path);
            return Err(error);
        }
        Ok(Spare {
            number,
            path,
            file,
            file_bytes,
            is_recycled: false,
        })
    }

    /// Takes the file of a segment that was freed, durably: nobody may take it for one any more. The name is durable only
    /// after the directory's next sync.
    pub(crate) fn recycle(
        disk: &dyn Disk,
        dir: &Path,
        number: u64,
        segment: Segment,
    ) -> Result<Spare> {
        let path = spare_path(dir, number);
        disk.rename(&segment.path, &path)
            .map_err(Error::io("rename", &segment.path))?;
        Ok(Spare {
            number,
            path,
            file: segment.file,
            file_bytes: segment.header.file_bytes,
            is_recycled: true,
        })
    }

    /// Takes a spare that an earlier process left, if it has the right size and its space is there.
    pub(crate) fn adopt(
        disk: &dyn Disk,
        dir: &Path,
        number: u64,
        file_bytes: u64,
    ) -> Result<Option<Spare>> {
        let path = spare_path(dir, number);
        let file = disk.open(&path).map_err(Error::io("open", &path))?;
        if file.len().map_err(Error::io("look at", &path))? != file_bytes {
            return Ok(None);
        }
        // After a power cut the length may be there and the space not.
        match file.allocate(file_bytes) {
            Err(error) if is_full(&error) => return Ok(None),
            reserved => reserved.map_err(Error::io("allocate", &path))?,
        }
        Ok(Some(Spare {
            number,
            path,
            file,
            file_bytes,
            is_recycled: true,
        }))
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    pub(crate) fn remove(self, disk: &dyn Disk) -> Result<()> {
        disk.remove(&self.path)
            .map_err(Error::io("remove", &self.path))
    }

    /// Makes the spare a segment without frames, whose first one follows `link`. Durable on return, name and header.
    ///
    /// The header is durable before the segment has its name, so a segment with a bad header is damage and never a crash.
    pub(crate) fn into_segment(
        self,
        disk: &dyn Disk,
        dir: &Path,
        home: Home,
        link: Link,
    ) -> Result<Segment> {
        let header = SegmentHeader {
            log_id: home.log_id,
            number: home.segment,
            first_sequence: link.sequence,
            file_bytes: self.file_bytes,
            predecessor: link.predecessor,
            is_recycled: self.is_recycled && !planted("recycled_unsaid"),
        };
        let (spare, path) = (&self.path, segment_path(dir, header.number));
        self.file
            .write_all_at(&header.encode(), 0)
            .map_err(Error::io("write", spare))?;
        self.file.sync_data().map_err(Error::io("sync", spare))?;
        disk.rename(spare, &path)
            .map_err(Error::io("rename", spare))?;
        if !planted("no_dir_sync") {
            disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        }
        Ok(Segment {
            header,
            path,
            file: self.file,
        })
    }
}

pub(crate) fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(spare_name(number))
}

fn spare_name(number: u64) -> String {
    format!("spare-{number}.tmp")
}

/// In small pieces, each synced: the syncs of the log's writers go between them.
fn write_zeros(
    file: &dyn DiskFile,
    file_bytes: u64,
    goes_on: &dyn Fn() -> bool,
) -> std::io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < file_bytes && goes_on() {
        let len = zeros.len().min((file_bytes - at) as usize);
        file.write_all_at(&zeros[..len], at)?;
        file.sync_data()?;
        at += len as u64;
    }
    Ok(())
}

impl Segment {
    /// Opens segment `number` and checks its header.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, number: u64) -> Result<Segment> {
        let path = segment_path(dir, number);
        let file = disk.open(&path).map_err(Error::io("open", &path))?;
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
        if header.file_bytes != len {
            return Err(Error::damaged(&path, len, Damage::Short));
        }
        Ok(Segment { header, path, file })
    }

    pub(crate) fn home(&self) -> Home {
        Home {
            log_id: self.header.log_id,
            segment: self.header.number,
        }
    }

    /// Where the seal and the trailer of a segment may begin at the latest, if the seal has so many bytes.
    pub(crate) fn frames_limit(&self, seal_bytes: u64) -> u64 {
        self.header
            .file_bytes
            .saturating_sub(TRAILER_BYTES as u64 + seal_bytes)
    }

    /// Writes the seal: all frames are durable, and nothing will be added. Durable on return.
    pub(crate) fn seal(&self, seal: &[u8], frames_end: u64, last: Link) -> Result<()> {
        let seal_offset = self.frames_limit(seal.len() as u64);
        assert!(
            seal_offset >= frames_end,
            "the seal at {seal_offset} would cover frames up to {frames_end}"
        );
        let mut trailer = [0; TRAILER_BYTES];
        LE::write_u32(&mut trailer[4..], crc32fast::hash(seal));
        trailer[8..16].copy_from_slice(TRAILER_MAGIC);
        LE::write_u64(&mut trailer[16..], seal_offset);
        LE::write_u64(&mut trailer[24..], seal.len() as u64);
        LE::write_u64(&mut trailer[32..], frames_end);
        LE::write_u64(&mut trailer[40..], last.sequence - 1);
        LE::write_u64(&mut trailer[48..], last.epoch);
        LE::write_u32(&mut trailer[56..], last.predecessor);
        let checksum = self.trailer_place().checksum(&trailer[4..]);
        LE::write_u32(&mut trailer, checksum);
        let both = [seal, &trailer].concat();
        self.file
            .write_all_at(&both, seal_offset)
            .map_err(Error::io("write", &self.path))?;
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }

    /// The directories in the seal, and what follows the last frame. `None` if there is no seal, or it is not whole: then
    /// the frames themselves say the same.
    pub(crate) fn read_seal(&self) -> Result<Option<(Vec<Directory>, Link)>> {
        let read = Error::io("read", &self.path);
        let mut trailer = [0; TRAILER_BYTES];
        let place = self.trailer_place();
        if place.offset < SEGMENT_HEADER_BYTES as u64 {
            return Ok(None);
        }
        self.file
            .read_exact_at(&mut trailer, place.offset)
            .map_err(read)?;
        let (offset, bytes) = (LE::read_u64(&trailer[16..]), LE::read_u64(&trailer[24..]));
        let is_right = LE::read_u32(&trailer) == place.checksum(&trailer[4..])
            && &trailer[8..16] == TRAILER_MAGIC;
        if !is_right || offset.checked_add(bytes) != Some(place.offset) {
            return Ok(None);
        }
        let mut seal = vec![0; bytes as usize]; // Within the file, by the line above.
        self.file
            .read_exact_at(&mut seal, offset)
            .map_err(Error::io("read", &self.path))?;
        if crc32fast::hash(&seal) != LE::read_u32(&trailer[4..]) {
            return Ok(None);
        }
        let link = Link {
            sequence: LE::read_u64(&trailer[40..]).saturating_add(1),
            predecessor: LE::read_u32(&trailer[56..]),
            epoch: LE::read_u64(&trailer[48..]),
        };
        let directories = self.split_seal(seal.into());
        Ok(directories.map(|directories| (directories, link)))
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
