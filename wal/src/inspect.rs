//! Looking whether a log is whole, without changing it: what [`Wal::verify`] does, under a shared lock and with files that are
//! opened for reading only.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use duramen_disk::{Disk, LockMode, OsDisk};

use crate::error::{Error, Result};
use crate::frame::Directory;
use crate::groups::Groups;
use crate::live::{Cursor, live_in};
use crate::names::Names;
use crate::recovery::{RecoveryReport, look};
use crate::repair::{PIECE_BYTES, ScrubReport};
use crate::scan::Scan;
use crate::segment::{Access, Segment};
use crate::table::Table;
use crate::types::GroupId;
use crate::{Wal, lock};

/// What [`Wal::verify`] found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Verification {
    /// What `open` would say: what it would cut off, and what is damaged in the segments that are not sealed.
    pub recovery: RecoveryReport,
    /// All entries, and the seals.
    pub scrub: ScrubReport,
    /// Directories and frame headers that are bad, or cannot be read, and have a copy that is not: the segment, and where the
    /// frame begins, in bytes. Nothing is lost by them. Those past the mark are not among them: the write may have been killed
    /// between its copies, and `open` writes them again.
    pub bad_copies: Vec<(PathBuf, u64)>,
    /// Frames of which no directory can be read, in sealed segments: reading their entries gives this error.
    pub missing: Vec<Error>,
    /// How many groups there are.
    pub groups: u64,
}

impl Verification {
    /// Whether anything is damaged or cannot be read; a torn end is not damage.
    pub fn is_damaged(&self) -> bool {
        let scrub = &self.scrub;
        let entries = scrub.damaged.len() + scrub.unreadable.len() + self.recovery.damaged.len();
        let directories = scrub.damaged_seals.len() + self.bad_copies.len() + self.missing.len();
        entries + directories + self.recovery.suspects.len() > 0
    }

    /// Whether there is an unfinished write at the end, which `open` would cut off.
    pub fn is_torn(&self) -> bool {
        self.recovery.cut.is_some()
    }
}

impl Wal {
    /// Reads all of a log and checks every byte that counts, without changing anything: works on a read-only file system, and
    /// beside others that look. `progress` is told now and then how far it is, and says whether to go on.
    ///
    /// ```
    /// # use duramen_wal::{Options, Wal};
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path().join("log");
    /// # Wal::create(&dir, Options::default())?.close()?;
    /// let found = Wal::verify(&dir, |_| true)?;
    /// assert!(!found.is_damaged() && !found.is_torn());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`open`](Wal::open) but for [`Error::Full`]: what keeps the log from being opened.
    pub fn verify(
        dir: impl AsRef<Path>,
        progress: impl FnMut(&ScrubReport) -> bool,
    ) -> Result<Verification> {
        Wal::verify_on(Arc::new(OsDisk::new()), dir, progress)
    }

    /// [`verify`](Wal::verify) on a given disk.
    pub fn verify_on(
        disk: Arc<dyn Disk>,
        dir: impl AsRef<Path>,
        mut progress: impl FnMut(&ScrubReport) -> bool,
    ) -> Result<Verification> {
        let dir = dir.as_ref();
        must_be_a_log(&*disk, dir)?;
        let _lock = lock(&*disk, dir, LockMode::Shared)?;
        let found = look(&*disk, dir, Access::Look, false)?;
        let mut verification = Verification {
            groups: found.groups.len() as u64,
            recovery: found.report,
            ..Verification::default()
        };
        verification.scrub.segments_all = found.segments.len() as u64;
        let last = found.tail.segment.header.number;
        for segment in found.segments.values() {
            // What `open` would cut off is no frame of the log.
            let frames_end = match segment.header.number == last {
                true => found.tail.end,
                false => segment.header.file_bytes,
            };
            let unsealed = (frames_end, found.tail.mark());
            if !verification.segment(segment, unsealed, &found.groups, &mut progress)? {
                break;
            }
            verification.scrub.segments += 1;
        }
        progress(&verification.scrub);
        Ok(verification)
    }
}

/// Before it is locked, which could leave a file in a directory that is no log.
pub(crate) fn must_be_a_log(disk: &dyn Disk, dir: &Path) -> Result<Names> {
    let names = match Names::list(disk, dir) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
        names => Some(names?),
    };
    let is_log = |names: &Names| names.has_control || !names.segments.is_empty();
    names.filter(is_log).ok_or_else(|| Error::NotALog {
        path: dir.to_owned(),
    })
}

impl Verification {
    /// Checks what is needed of a segment, and its directories: up to `frames_end`, and to the frame `mark`, if it has no seal.
    /// Says whether to go on.
    fn segment(
        &mut self,
        segment: &Arc<Segment>,
        (frames_end, mark): (u64, u64),
        groups: &Groups,
        progress: &mut dyn FnMut(&ScrubReport) -> bool,
    ) -> Result<bool> {
        let mut ids: Vec<GroupId> = groups.iter().map(|(id, _)| id).collect();
        ids.sort_unstable();
        let mut table = None;
        let directories = match segment.trailer()? {
            Some(trailer) => {
                let sealed = segment.sealed_directories(&trailer);
                let summary = segment.summary(&trailer);
                if sealed.is_none() || summary.is_none() && trailer.has_summary() {
                    self.scrub.damaged_seals.push(segment.path.clone());
                }
                let loaded = Table::load(segment)?;
                ids = loaded.groups();
                if let Some(error) = &loaded.missing {
                    self.missing.push(error.clone());
                }
                table = Some(loaded);
                sealed.unwrap_or_default()
            }
            None => Scan::new(segment)?.directories(frames_end)?.0,
        };
        let is_marked = |directory: &&Directory| table.is_some() || directory.head.sequence <= mark;
        for directory in directories.iter().filter(is_marked) {
            if !is_whole(segment, directory) {
                let frame = (segment.path.clone(), directory.frame_offset);
                self.bad_copies.push(frame);
            }
        }
        let mut cursor = Cursor::default();
        while cursor.group < ids.len() {
            if !progress(&self.scrub) {
                return Ok(false);
            }
            let number = segment.header.number;
            let entries = live_in(
                groups,
                number,
                table.as_ref(),
                &ids,
                &mut cursor,
                PIECE_BYTES,
            );
            self.scrub.look_at(segment, &entries);
        }
        Ok(true)
    }
}

/// Whether the header of a frame and all copies of its directory can be read, and say what this one does.
fn is_whole(segment: &Segment, directory: &Directory) -> bool {
    let home = segment.home();
    let head = directory.head;
    let read = |offset: u64, len: u64| {
        let mut bytes = vec![0; len as usize];
        let read = segment.file.read_exact_at(&mut bytes, offset);
        read.ok().map(|()| Bytes::from(bytes))
    };
    let start = directory.frame_offset;
    let header = head.encode_frame_header(home, start);
    let is_copy = |distance: u64| {
        let at = start + distance;
        let bytes = read(at, head.directory_bytes());
        let found = bytes.and_then(|bytes| Directory::decode(&bytes, home, at));
        found.map(|found| found.into_first(home)).as_ref() == Some(directory)
    };
    let distances = [Some(head.directory_distance()), head.copy_distance()];
    read(start, header.len() as u64).is_some_and(|bytes| bytes == header[..])
        && distances.into_iter().flatten().all(is_copy)
}
