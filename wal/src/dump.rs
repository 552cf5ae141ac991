//! Showing all that stands in a log, as far as it can be read: what [`Wal::dump`] does, under a shared lock and with files that
//! are opened for reading only.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use duramen_disk::{Disk, LockMode, OsDisk};

use crate::control::{CONTROL_FILE, ControlFile};
use crate::error::{Error, Result};
use crate::format::SEGMENT_HEADER_BYTES;
use crate::inspect::must_be_a_log;
use crate::record::{How, Record, entry_checksum};
use crate::scan::{Frame, Scan};
use crate::segment::{Access, Segment, segment_path};
use crate::types::{Context, GroupId, HardState, Index, LogId};
use crate::{Wal, lock};

/// One thing in a log, in the order in which they stand. See [`Wal::dump`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum DumpItem {
    /// What CONTROL says: lower bounds.
    Control {
        /// The random id of the log.
        log_id: u128,
        /// The oldest segment.
        oldest: u64,
        /// The newest segment that is known to have its name.
        newest: u64,
        /// Every frame up to this sequence is durable.
        mark: u64,
    },
    /// A segment file.
    Segment {
        /// The file.
        path: PathBuf,
        /// Its number.
        number: u64,
        /// Its length in bytes.
        file_bytes: u64,
        /// Whether it was another segment before, and old bytes stand behind its frames.
        is_recycled: bool,
        /// Whether it has a seal that can be read.
        is_sealed: bool,
    },
    /// A frame: one write, of one or more batches.
    Frame {
        /// Where in the segment it begins, in bytes, and how long it is.
        offset: u64,
        /// See `offset`.
        bytes: u64,
        /// Its number.
        sequence: u64,
        /// Its epoch: a random number that is new at each `open`.
        epoch: u64,
        /// Every frame up to this sequence was durable when it was written.
        mark: u64,
        /// Whether its directory stands there twice.
        is_doubled: bool,
    },
    /// A change that is in the frame.
    Record(DumpRecord),
    /// An entry of the record before.
    Entry {
        /// Its index and term.
        id: LogId,
        /// Where in the segment its payload begins, in bytes; `None` if it is lost.
        offset: Option<u64>,
        /// The length of its payload in bytes.
        bytes: u32,
        /// The checksum that was written.
        checksum: u32,
        /// What stands where the payload was written; `None` if it is lost, or the disk does not give it.
        payload: Option<Bytes>,
        /// Whether that is what was written.
        is_whole: bool,
    },
    /// Here are no frames that can be read, and later in the segment there are.
    Gap {
        /// Where the first one should begin, in bytes.
        offset: u64,
        /// How many bytes are passed over.
        bytes: u64,
    },
    /// No frame that can be read follows in this segment.
    End {
        /// From here on, in bytes.
        offset: u64,
        /// How many bytes there are up to the last that was written, the seal not counted. 0 where the segment simply ends.
        bytes: u64,
    },
    /// CONTROL, or a segment, or what follows in it, cannot be read.
    Bad {
        /// The file.
        path: PathBuf,
        /// Why.
        error: Error,
    },
}

/// A change to a group, or to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DumpRecord {
    /// Entries of one term, appended; or moved here from an older segment, with or without their payloads.
    Entries {
        /// The group.
        group: GroupId,
        /// The first one.
        first: LogId,
        /// How many.
        count: u32,
        /// The caller's bytes beside their ids.
        context: Context,
        /// Whether they stood in an older segment before.
        is_moved: bool,
    },
    /// A term and vote.
    HardState {
        /// The group.
        group: GroupId,
        /// What it is.
        hard_state: HardState,
    },
    /// All after `last` is cut off.
    Truncate {
        /// The group.
        group: GroupId,
        /// The last entry that stays.
        last: LogId,
    },
    /// All up to `last` is dropped.
    Purge {
        /// The group.
        group: GroupId,
        /// The last entry that goes.
        last: LogId,
    },
    /// The user record.
    User {
        /// The group.
        group: GroupId,
        /// Its bytes.
        bytes: Bytes,
    },
    /// The group is forgotten.
    Remove {
        /// The group.
        group: GroupId,
    },
    /// The state of a group at the beginning of a segment.
    State {
        /// The group.
        group: GroupId,
        /// The last entry that was purged.
        purged: LogId,
        /// The last entry.
        last: LogId,
    },
    /// The log was opened.
    Resume {
        /// The epoch before.
        epoch_before: u64,
    },
    /// Entries are suspect.
    Suspect {
        /// The group.
        group: GroupId,
        /// The first one.
        first: Index,
        /// How many.
        count: u64,
    },
}

impl Wal {
    /// Shows all that stands in a log, segment by segment, as far as it can be read; `visit` says whether to go on. Changes
    /// nothing, and needs no sound log: a segment that cannot be read is [`DumpItem::Bad`], and frames that cannot are a
    /// [`DumpItem::Gap`] or the [`DumpItem::End`]. Whether the log is sound is what [`verify`](Wal::verify) says.
    ///
    /// ```
    /// use duramen_wal::{DumpItem, Options, Wal};
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path().join("log");
    /// # Wal::create(&dir, Options::default())?.close()?;
    /// let mut frames = 0;
    /// Wal::dump(&dir, |item| {
    ///     match item {
    ///         DumpItem::Frame { offset, sequence, .. } => {
    ///             println!("frame {sequence} at {offset}");
    ///             frames += 1;
    ///         }
    ///         other => println!("{other:?}"),
    ///     }
    ///     true // go on
    /// })?;
    /// assert_eq!(frames, 1); // what `create` writes
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotALog`], [`Error::Locked`], [`Error::Io`].
    pub fn dump(dir: impl AsRef<Path>, visit: impl FnMut(DumpItem) -> bool) -> Result<()> {
        Wal::dump_on(Arc::new(OsDisk::new()), dir, visit)
    }

    /// [`dump`](Wal::dump) on a given disk.
    pub fn dump_on(
        disk: Arc<dyn Disk>,
        dir: impl AsRef<Path>,
        mut visit: impl FnMut(DumpItem) -> bool,
    ) -> Result<()> {
        let dir = dir.as_ref();
        let names = must_be_a_log(&*disk, dir)?;
        let _lock = lock(&*disk, dir, LockMode::Shared)?;
        let control = ControlFile::open(&*disk, dir, Access::Look);
        let item = match control.map(|file| file.control) {
            Ok(control) => DumpItem::Control {
                log_id: control.log_id,
                oldest: control.oldest,
                newest: control.newest,
                mark: control.mark,
            },
            Err(error) => DumpItem::Bad {
                path: dir.join(CONTROL_FILE),
                error,
            },
        };
        let mut goes_on = visit(item);
        for number in names.segments {
            if !goes_on {
                break;
            }
            goes_on = match Segment::open(&*disk, dir, number, Access::Look) {
                Ok(segment) => dump_segment(&Arc::new(segment), &mut visit),
                Err(error) => visit(DumpItem::Bad {
                    path: segment_path(dir, number),
                    error,
                }),
            };
        }
        Ok(())
    }
}

/// Says whether to go on.
fn dump_segment(segment: &Arc<Segment>, visit: &mut dyn FnMut(DumpItem) -> bool) -> bool {
    let trailer = segment.trailer();
    let item = DumpItem::Segment {
        path: segment.path.clone(),
        number: segment.header.number,
        file_bytes: segment.header.file_bytes,
        is_recycled: segment.header.is_recycled,
        is_sealed: matches!(trailer, Ok(Some(_))),
    };
    let dumped = match visit(item) {
        false => return false,
        true => trailer.and_then(|trailer| {
            let limit = trailer.map_or(u64::MAX, |trailer| trailer.frames_end);
            dump_frames(segment, limit, visit)
        }),
    };
    dumped.unwrap_or_else(|error| {
        let path = segment.path.clone();
        visit(DumpItem::Bad { path, error })
    })
}

/// The frames up to `limit`, where they end if the segment is sealed.
fn dump_frames(
    segment: &Arc<Segment>,
    limit: u64,
    visit: &mut dyn FnMut(DumpItem) -> bool,
) -> Result<bool> {
    let mut scan = Scan::new(segment)?;
    let mut offset = SEGMENT_HEADER_BYTES as u64;
    let mut link = scan.link_at(offset)?;
    while offset < limit {
        let found = match link {
            Some(link) => scan.frame(offset, link, limit)?,
            None => Err(scan.rest(offset, limit)?),
        };
        match found {
            Ok(frame) => {
                offset = frame.directory.frame_end();
                link = Some(frame.directory.link_after());
                if !dump_frame(segment, &frame, visit) {
                    return Ok(false);
                }
            }
            Err(rest) => match rest.next {
                Some(next) => {
                    let bytes = next - offset;
                    if !visit(DumpItem::Gap { offset, bytes }) {
                        return Ok(false);
                    }
                    offset = next;
                    link = scan.link_at(next)?;
                }
                None => {
                    let bytes = rest.written_end.min(limit).saturating_sub(offset);
                    return Ok(visit(DumpItem::End { offset, bytes }));
                }
            },
        }
    }
    Ok(visit(DumpItem::End { offset, bytes: 0 }))
}

fn dump_frame(segment: &Segment, frame: &Frame, visit: &mut dyn FnMut(DumpItem) -> bool) -> bool {
    let head = frame.directory.head;
    let item = DumpItem::Frame {
        offset: frame.directory.frame_offset,
        bytes: head.frame_bytes(),
        sequence: head.sequence,
        epoch: head.epoch,
        mark: head.mark,
        is_doubled: head.doubled,
    };
    let mut goes_on = visit(item);
    let mut at = frame.directory.payload_offset();
    for (record, metas) in frame.records.iter() {
        let Some(shown) = DumpRecord::of(record) else {
            continue;
        };
        goes_on = goes_on && visit(DumpItem::Record(shown));
        let Record::Entries(run) = record else {
            continue;
        };
        for (meta, index) in metas.iter().zip(run.first.index.0..) {
            if !goes_on {
                return false;
            }
            let term = run.first.term;
            let index = Index(index);
            let id = LogId { term, index };
            let offset = run.has_payloads().then_some(at);
            let payload = offset.and_then(|offset| {
                let mut bytes = vec![0; meta.payload_bytes as usize]; // The frame was read: its length is real.
                let read = segment.file.read_exact_at(&mut bytes, offset);
                at += u64::from(meta.payload_bytes);
                read.is_ok().then(|| Bytes::from(bytes))
            });
            let is_right =
                |payload: &Bytes| entry_checksum(run.group, id, payload) == meta.checksum;
            let is_whole = payload.as_ref().is_some_and(is_right);
            goes_on = visit(DumpItem::Entry {
                id,
                offset,
                bytes: meta.payload_bytes,
                checksum: meta.checksum,
                payload,
                is_whole,
            });
        }
    }
    goes_on
}

impl DumpRecord {
    fn of(record: &Record) -> Option<DumpRecord> {
        Some(match record.clone() {
            Record::Entries(run) => DumpRecord::Entries {
                group: run.group,
                first: run.first,
                count: run.count,
                context: run.context,
                is_moved: run.how != How::Appended,
            },
            Record::HardState { group, hard_state } => DumpRecord::HardState { group, hard_state },
            Record::Truncate { group, last } => DumpRecord::Truncate { group, last },
            Record::Purge { group, last } => DumpRecord::Purge { group, last },
            Record::User { group, bytes } => DumpRecord::User { group, bytes },
            Record::Remove { group } => DumpRecord::Remove { group },
            Record::State {
                group,
                purged,
                last,
            } => DumpRecord::State {
                group,
                purged,
                last,
            },
            Record::Resume { epoch_before } => DumpRecord::Resume { epoch_before },
            Record::Suspect {
                group,
                first,
                count,
            } => DumpRecord::Suspect {
                group,
                first,
                count,
            },
            Record::Range { .. } => return None, // Only in seals.
        })
    }
}
