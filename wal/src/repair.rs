//! Finding damage before a reader does, and putting it right.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::canary::planted;
use crate::error::{Error, Misuse, Result};
use crate::live::{Cursor, LiveEntry, live_in};
use crate::record::{How, entry_checksum};
use crate::recovery::DamagedEntry;
use crate::rows::Where;
use crate::scan::BadEntry;
use crate::segment::Segment;
use crate::table::Table;
use crate::types::{Entry, GroupId, LogId};
use crate::{Core, Wal};

/// How a scrub is to go. See [`Wal::scrub`].
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Scrub {
    /// So many bytes of payload are read a second, at the most; `None` for as fast as it goes.
    pub bytes_per_second: Option<u64>,
}

/// How far a scrub is, and what it found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ScrubReport {
    /// Entries that were read, and their payloads in bytes. Those that are only in memory are not looked at.
    pub entries: u64,
    /// See `entries`.
    pub bytes: u64,
    /// Segments that were gone through, of so many.
    pub segments: u64,
    /// See `segments`.
    pub segments_all: u64,
    /// Entries whose payloads are not what was written.
    pub damaged: Vec<DamagedEntry>,
    /// Sealed segments whose seal is damaged. Nothing is lost by it: the other half of the seal says the same, or the frames
    /// do, and then the next `open` seals them again.
    pub damaged_seals: Vec<std::path::PathBuf>,
    /// Entries that could not be read, and what the operating system said. It may be able to later.
    pub unreadable: Vec<(GroupId, LogId, Error)>,
}

/// A scrub takes so much at a time.
pub(crate) const PIECE_BYTES: u64 = 256 << 10;

impl Wal {
    /// Reads all entries that are needed and checks them, and the seals, at a limited rate, on this thread. `progress` is
    /// told now and then how far it is, and says whether to go on.
    ///
    /// Changes nothing. What is damaged can be put right with [`repair`](Wal::repair). What is submitted meanwhile may or may
    /// not be looked at.
    ///
    /// ```
    /// # use duramen_wal::{Options, Scrub, Wal};
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = Wal::create(dir.path().join("log"), Options::default())?;
    /// let mut scrub = Scrub::default();
    /// scrub.bytes_per_second = Some(4 << 20);
    /// let report = wal.scrub(scrub, |so_far| {
    ///     println!("{} of {} segments", so_far.segments, so_far.segments_all);
    ///     true // go on
    /// })?;
    /// for damaged in &report.damaged {
    ///     println!("{:?}: {}", damaged.path, damaged.entry.id); // ask a peer for it, then `repair`
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// None for damage or what cannot be read: that is in the report. [`Error::Io`] if what says which entries a segment
    /// has cannot be read.
    pub fn scrub(
        &self,
        scrub: Scrub,
        mut progress: impl FnMut(&ScrubReport) -> bool,
    ) -> Result<ScrubReport> {
        let core = &self.handle.core;
        let segments: Vec<Arc<Segment>> = {
            let shared = core.pipeline.shared();
            shared.segments.values().cloned().collect()
        };
        let mut report = ScrubReport {
            segments_all: segments.len() as u64,
            ..ScrubReport::default()
        };
        let mut pace = Pace::new(scrub.bytes_per_second);
        for segment in segments {
            let (table, ids) = core.what_to_scrub(&segment, &mut report)?;
            let mut cursor = Cursor::default();
            while cursor.group < ids.len() {
                if !progress(&report) {
                    return Ok(report);
                }
                let entries = {
                    let shared = core.pipeline.shared();
                    let number = segment.header.number;
                    let table = table.as_deref();
                    live_in(
                        &shared.groups,
                        number,
                        table,
                        &ids,
                        &mut cursor,
                        PIECE_BYTES,
                    )
                };
                let known = report.damaged.len();
                let bytes = report.look_at(&segment, &entries);
                let mut shared = core.pipeline.shared();
                shared.counts.scrubbed_bytes += bytes;
                shared.counts.damage_found += (report.damaged.len() - known) as u64;
                drop(shared);
                pace.keep(bytes);
            }
            report.segments += 1;
        }
        let mut shared = core.pipeline.shared();
        shared.counts.scrubs += 1;
        shared.counts.scrubbed_at = Some(Instant::now());
        drop(shared);
        progress(&report);
        Ok(report)
    }

    /// Puts the true entry, from a peer, in the place of one that is damaged, suspect, or cannot be read. Durable on return.
    /// Does nothing if the entry is whole.
    ///
    /// ```
    /// # use duramen_disk::SimDisk;
    /// # use duramen_wal::{Batch, Entry, Error, GroupId, Index, LogId, Options, Term, Wal};
    /// # use std::sync::Arc;
    /// # let disk = SimDisk::new();
    /// # let mut options = Options::default();
    /// # options.manual_drive = true;
    /// # options.recent_bytes_max = 0;
    /// # let wal = Wal::create_on(Arc::new(disk.clone()), "/log", options)?;
    /// # let (group, id) = (GroupId(1), LogId { term: Term(1), index: Index(1) });
    /// # let from_a_peer = Entry { id, payload: vec![7; 1000].into(), ..Entry::default() };
    /// # let mut batch = Batch::new();
    /// # batch.append(group, [from_a_peer.clone()]);
    /// # wal.write(batch)?;
    /// # let only_it = Index(1)..Index(2);
    /// disk.flip_bit("/log/0000000000000001.wal".as_ref(), 1000, 3)?; // in the middle of its payload
    /// match wal.entries(group, only_it.clone(), u64::MAX) {
    ///     Err(Error::DamagedEntry { group, id, .. }) => {
    ///         assert_eq!(id, from_a_peer.id);
    ///         wal.repair(group, from_a_peer.clone())?; // refused, were it another one
    ///     }
    ///     other => panic!("{other:?}"),
    /// }
    /// assert_eq!(wal.entries(group, only_it, u64::MAX)?, [from_a_peer]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Misuse`] with [`Misuse::OtherEntry`] if index, term, context, length and checksum are not those of the entry
    /// that was written, [`Misuse::Purged`] or [`Misuse::NoSuchEntry`] if there is none; those of [`submit`](Wal::submit) and
    /// [`Ticket::wait`](crate::Ticket::wait).
    pub fn repair(&self, group: GroupId, entry: Entry) -> Result<()> {
        let core = &self.handle.core;
        let Some((segment, found, suspect)) = core.locate(group, &entry)? else {
            return Ok(()); // In memory, whole.
        };
        // What cannot be read is no better than what is damaged: the copy that is written now can be.
        if !suspect && matches!(found.read(&segment), Ok(Ok(_))) {
            return Ok(());
        }
        let entries = [(found, Some(entry.payload))];
        core.pipeline.move_entries(segment.header.number, &entries)
    }
}

/// Comparing.
impl Wal {
    /// Whether this is an entry of the log: [`repair`](Wal::repair) would take it, were it damaged. Its payload is not looked at,
    /// but for length and checksum.
    ///
    /// # Errors
    /// [`Error::Io`] if what says which entries a segment has cannot be read, [`Error::Poisoned`].
    pub fn is_entry(&self, group: GroupId, entry: &Entry) -> Result<bool> {
        match self.handle.core.locate(group, entry) {
            Ok(_) => Ok(true),
            Err(Error::Misuse { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Core {
    /// The table and the groups of a segment. A segment that is not sealed has its rows in memory.
    fn what_to_scrub(
        &self,
        segment: &Arc<Segment>,
        report: &mut ScrubReport,
    ) -> Result<(Option<Arc<Table>>, Vec<GroupId>)> {
        if let Some(trailer) = segment.trailer()? {
            let is_whole = segment.summary(&trailer).is_some() || !trailer.has_summary();
            if !is_whole || segment.sealed_directories(&trailer).is_none() {
                report.damaged_seals.push(segment.path.clone());
            }
        } else if self.pipeline.shared().is_sealed(segment.header.number) {
            report.damaged_seals.push(segment.path.clone());
        } else {
            let shared = self.pipeline.shared();
            let mut ids: Vec<GroupId> = shared.groups.iter().map(|(id, _)| id).collect();
            ids.sort_unstable();
            return Ok((None, ids));
        }
        let table = Arc::new(Table::load(segment)?);
        let ids = table.groups();
        Ok((Some(table), ids))
    }

    /// Where an entry is that has this id, context, length and checksum, and whether it is suspect. `None` if it is only in
    /// memory.
    fn locate(
        &self,
        group: GroupId,
        entry: &Entry,
    ) -> Result<Option<(Arc<Segment>, LiveEntry, bool)>> {
        let index = entry.id.index;
        let misuse = |misuse| Err(Error::misuse(group, misuse));
        let mut loaded: Option<(u64, Arc<Table>)> = None;
        loop {
            let shared = self.pipeline.shared();
            let Some(found) = shared.groups.find(group) else {
                return misuse(Misuse::UnknownGroup);
            };
            let Some(extent) = found.find(index) else {
                return misuse(found.missing(index));
            };
            if (extent.term, extent.context) != (entry.id.term, entry.context) {
                return misuse(Misuse::OtherEntry { index });
            }
            let place = shared.groups.rows.find(extent, index);
            let number = match place.segment() {
                Some(segment) => segment,
                None if extent.how != How::Lost => return Ok(None),
                None => {
                    drop(shared);
                    self.pipeline.flush()?;
                    continue;
                }
            };
            let segment = shared.segments.get(&number);
            let segment = segment
                .expect("a segment with live entries is open")
                .clone();
            let table = loaded.as_ref().filter(|(loaded, _)| *loaded == number);
            let row = match (place, table) {
                (Where::Tail { row, .. }, _) => Some(row),
                (_, Some((_, table))) => Some(table.find_rows(&segment, group, index)?[0]),
                (_, None) => None,
            };
            let suspect = extent.suspect;
            drop(shared);
            let Some(row) = row else {
                loaded = Some((number, Arc::new(Table::load(&segment)?)));
                continue;
            };
            let checksum = entry_checksum(group, entry.id, &entry.payload);
            let is_it = (row.meta.payload_bytes as usize, row.meta.checksum)
                == (entry.payload.len(), checksum);
            if !is_it && !planted("repair_unchecked") {
                return misuse(Misuse::OtherEntry { index });
            }
            let located = LiveEntry {
                group,
                id: entry.id,
                context: entry.context,
                row,
            };
            return Ok(Some((segment, located, suspect)));
        }
    }
}

impl ScrubReport {
    /// Reads entries and notes what is bad. Gives the bytes of payload.
    pub(crate) fn look_at(&mut self, segment: &Segment, entries: &[LiveEntry]) -> u64 {
        let mut bytes = 0;
        for entry in entries {
            self.entries += 1;
            bytes += u64::from(entry.row.meta.payload_bytes);
            match entry.read(segment) {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => self.damaged.push(DamagedEntry {
                    path: segment.path.clone(),
                    entry: BadEntry {
                        group: entry.group,
                        id: entry.id,
                        offset: entry.row.offset().unwrap_or(0),
                    },
                }),
                Err(error) => self.unreadable.push((entry.group, entry.id, error)),
            }
        }
        self.bytes += bytes;
        bytes
    }
}

/// Waits so that a rate is kept.
struct Pace {
    start: Instant,
    bytes: u64,
    bytes_per_second: Option<u64>,
}

impl Pace {
    fn new(bytes_per_second: Option<u64>) -> Pace {
        Pace {
            start: Instant::now(),
            bytes: 0,
            bytes_per_second: bytes_per_second.filter(|rate| *rate > 0),
        }
    }

    fn keep(&mut self, bytes: u64) {
        self.bytes += bytes;
        if let Some(rate) = self.bytes_per_second {
            let due = Duration::from_secs_f64(self.bytes as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(self.start.elapsed()));
        }
    }
}
