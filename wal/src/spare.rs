//! Files that wait to become segments.

use std::path::{Path, PathBuf};

use duramen_disk::{Disk, DiskFile};

use crate::canary::planted;
use crate::error::{Error, Result, is_full};
use crate::format::TRAILER_BYTES;
use crate::frame::Home;
use crate::segment::{Segment, SegmentHeader, segment_path};

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

/// No more of them are kept than a log that frees segments two at a time can use.
pub(crate) const SPARES_MAX: usize = 2;

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
        // After a power cut the length may be there and the space not. And a directory that was restored from an older copy may have
        // a spare of its later history, which becomes the segment again that it was: its old trailer would be taken for a seal.
        let trailer = file_bytes - TRAILER_BYTES as u64;
        let reserved = file.allocate(file_bytes).and_then(|()| {
            let zeros = if planted("old_seal") {
                0
            } else {
                TRAILER_BYTES
            };
            file.write_all_at(&[0; TRAILER_BYTES][..zeros], trailer)
        });
        match reserved {
            Err(error) if is_full(&error) => return Ok(None),
            reserved => reserved.map_err(Error::io("reserve", &path))?,
        }
        Ok(Some(Spare {
            number,
            path,
            file,
            file_bytes,
            is_recycled: true,
        }))
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    pub(crate) fn remove(self, disk: &dyn Disk) -> Result<()> {
        disk.remove(&self.path)
            .map_err(Error::io("remove", &self.path))
    }

    /// Makes the spare segment `home`, without frames yet. Durable on return, name and header.
    ///
    /// The header is durable before the segment has its name, so a segment with a bad header is damage and never a crash.
    pub(crate) fn into_segment(self, disk: &dyn Disk, dir: &Path, home: Home) -> Result<Segment> {
        let header = SegmentHeader {
            log_id: home.log_id,
            number: home.segment,
            file_bytes: self.file_bytes,
            is_recycled: self.is_recycled && !planted("recycled_unsaid"),
        };
        let (spare, path) = (&self.path, segment_path(dir, header.number));
        self.file
            .write_all_at(&header.encode(), 0)
            .map_err(Error::io("write", spare))?;
        if !planted("header_not_synced") {
            self.file.sync_data().map_err(Error::io("sync", spare))?;
        }
        disk.rename(spare, &path)
            .map_err(Error::io("rename", spare))?;
        if !planted("no_dir_sync") {
            let synced = disk.sync_dir(dir).map_err(Error::io("sync", dir));
            if !planted("error_of_dir_sync_ignored") {
                synced?;
            }
        }
        Ok(Segment::new(header, path, self.file))
    }
}

/// A number that none of them has.
pub(crate) fn next_number(spares: &[Spare]) -> u64 {
    spares
        .iter()
        .map(|spare| spare.number)
        .max()
        .map_or(1, |number| number + 1)
}

pub(crate) fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(spare_name(number))
}

pub(crate) fn spare_name(number: u64) -> String {
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
