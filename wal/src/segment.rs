//! Segment files: their names, making one, opening one.

use std::path::{Path, PathBuf};

use duramen_disk::{Disk, DiskFile};

use crate::error::{Damage, Error, Result, is_full};
use crate::format::{BadHeader, SEGMENT_HEADER_BYTES, SegmentHeader, VERSION};

/// An open segment file.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) path: PathBuf,
    pub(crate) file: Box<dyn DiskFile>,
}

const SUFFIX: &str = ".wal";
const TEMPORARY: &str = "new-segment.tmp";

/// What a name in a log's directory means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Segment(u64),
    /// Left by a crash in the middle of [`Segment::create`]. Never part of the log.
    Temporary,
    Lock,
    Foreign,
}

impl Name {
    pub(crate) fn parse(name: &str) -> Name {
        match name {
            duramen_disk::LOCK_FILE => return Name::Lock,
            TEMPORARY => return Name::Temporary,
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

fn segment_name(number: u64) -> String {
    format!("{number:016x}{SUFFIX}")
}

pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(segment_name(number))
}

impl Segment {
    /// Makes a segment without frames. Durable on return, name and header.
    ///
    /// The header is durable under a temporary name before the segment has its own, so a segment with a bad header is
    /// damage and never a crash.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, header: SegmentHeader) -> Result<Segment> {
        let temporary = dir.join(TEMPORARY);
        let path = segment_path(dir, header.number);
        let full_or_io = |op, at: &Path, error| match is_full(&error) {
            true => Error::Full {
                path: at.to_owned(),
            },
            false => Error::io(op, at)(error),
        };
        remove_temporary(disk, dir)?;
        let file = disk
            .create(&temporary)
            .map_err(|e| full_or_io("create", &temporary, e))?;
        file.write_all_at(&header.encode(), 0)
            .map_err(|e| full_or_io("write", &temporary, e))?;
        file.sync_data().map_err(Error::io("sync", &temporary))?;
        disk.rename(&temporary, &path)
            .map_err(|e| full_or_io("rename", &temporary, e))?;
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        Ok(Segment { header, path, file })
    }

    /// Opens segment `number` and checks its header.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, number: u64) -> Result<Segment> {
        let path = segment_path(dir, number);
        let file = disk.open(&path).map_err(Error::io("open", &path))?;
        if file.len().map_err(Error::io("look at", &path))? < SEGMENT_HEADER_BYTES as u64 {
            return Err(Error::damaged(&path, 0, Damage::Short));
        }
        let mut buf = [0; SEGMENT_HEADER_BYTES];
        file.read_exact_at(&mut buf, 0)
            .map_err(Error::io("read", &path))?;
        let header = SegmentHeader::decode(&buf).map_err(|bad| match bad {
            BadHeader::Damaged(reason) => Error::damaged(&path, 0, reason),
            BadHeader::Version(found) => Error::Version {
                path: path.clone(),
                found,
                expected: VERSION,
            },
        })?;
        if header.number != number {
            return Err(Error::damaged(&path, 0, Damage::Stranger));
        }
        Ok(Segment { header, path, file })
    }
}

/// Removes what a crash in the middle of [`Segment::create`] left.
pub(crate) fn remove_temporary(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let temporary = dir.join(TEMPORARY);
    match disk.remove(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", &temporary)(error))
        }
        _ => Ok(()),
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
        assert_eq!(Name::parse(TEMPORARY), Name::Temporary);
    }
}
