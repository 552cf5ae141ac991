//! Reading a log back after a crash.
//!
//! Frames are numbered, and each says up to which number all were durable when it was written: the *mark*. CONTROL says so
//! too. The highest mark that is found anywhere divides the log: what is at or below it was acknowledged, what is above
//! belongs to the last write, which may or may not have been.
//!
//! What is seen of a frame, what it means, what is done:
//!
//! | directory | payloads | header | at or below the mark | above it |
//! |---|---|---|---|---|
//! | whole, one of its copies | whole | whole | kept | kept, and written again |
//! | whole, one of its copies | whole | bad | kept | kept, and written again with its header |
//! | whole, one of its copies | bad | any | **damage** of entries that have names: kept, reported; reading them is `Damaged` | **suspect**: torn or rotten; cut with all after it, or kept ([`Options::keep_suspects`](crate::Options)), reported |
//! | bad | any | whole | **damage**: `DamagedDirectory`, nothing changed | **torn**: cut with all after it, reported |
//! | bad | any | bad | **damage**: `DamagedDirectory`, nothing changed | **torn** if there is anything but zeros (in a recycled segment: any header or directory of this log), else the end |
//!
//! A payload that cannot be read is bad at or below the mark. Above it, and elsewhere, a sector that cannot be read is an error unless
//! something else says the same: what cannot be read is not torn.
//!
//! Segments before the last one that has a frame are all at or below the mark: a segment is begun only when all before it
//! is durable. Their frames are not looked at if they have a seal; those after the last seal are the *tail* of the log, and
//! read frame by frame. What is kept and suspect is said by the frame that begins the epoch, so that it stays suspect.
//!
//! Then the answer is made durable before it is given. Whoever wrote the last frames may have been killed between the write
//! and its sync, and the kernel may even have failed that sync and marked the pages clean, so that one more sync would do
//! nothing: the kept frames above the mark are written again in place. Then a frame begins a new epoch, where the cut was
//! made; frames of the old epoch that still stand behind it do not follow it, and are dead.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use duramen_disk::{Caution, Disk};

use crate::canary::planted;
use crate::control::ControlFile;
use crate::cut::keep_place;
use crate::error::{Error, Result};
use crate::frame::Home;
use crate::groups::Groups;
use crate::names::Names;
use crate::record::Record;
use crate::replay::{Replay, Tail};
use crate::rows::Where;
use crate::scan::BadEntry;
use crate::seal::Full;
use crate::segment::{Access, Segment, segment_bytes, segment_path};
use crate::spare::{Spare, next_number};
use crate::states::States;
use crate::types::{GroupId, LogId};
use crate::writer::Writer;

/// What `open` found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// How many segments the log has.
    pub segments: u64,
    /// How many frames were read back: writes, of one or more batches each. Those of sealed segments are not counted.
    pub frames: u64,
    /// The unfinished write that was cut off, if there was one.
    pub cut: Option<Cut>,
    /// Entries that were durable and whose payload is damaged, or cannot be read. They are still there: reading one is
    /// [`Error::DamagedEntry`], or [`Error::Io`]. Only entries of segments without a seal are looked at by `open`.
    pub damaged: Vec<DamagedEntry>,
    /// Entries that are kept and suspect, with [`Options::keep_suspects`](crate::Options::keep_suspects): reading one is
    /// [`Error::Suspect`].
    pub suspects: Vec<(GroupId, LogId)>,
    /// [`Wal::cut`](crate::Wal::cut) has made this log without all that had been acknowledged, and nobody has
    /// [accepted](crate::Wal::accept_loss) that. A Raft node that has peers must not go on with it.
    pub is_lossy: bool,
    /// What speaks against keeping a log on this file system.
    pub cautions: Vec<Caution>,
}

/// What was cut off at the end of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// The segment it was in.
    pub path: PathBuf,
    /// Where it began, in bytes.
    pub offset: u64,
    /// How many bytes of it there were.
    pub bytes: u64,
    /// The entries that looked whole but for their payloads. If the write was acknowledged, which cannot be known any more,
    /// they are damaged; otherwise they are torn, like the rest.
    pub suspects: Vec<BadEntry>,
}

/// An entry that was durable and whose payload is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedEntry {
    /// The segment it is in.
    pub path: PathBuf,
    /// Which entry, and where in the segment its payload is.
    pub entry: BadEntry,
}

/// A log as it is on the disk. Nothing was changed yet.
pub(crate) struct Found {
    pub(crate) names: Names,
    pub(crate) control: ControlFile,
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    pub(crate) groups: Groups,
    pub(crate) tail: Tail,
    /// Segments that are full and have no seal.
    pub(crate) full: Vec<Full>,
    /// Segments without a frame, after the tail.
    pub(crate) prepared: VecDeque<Arc<Segment>>,
    pub(crate) report: RecoveryReport,
}

/// A log that can be written to.
pub(crate) struct Recovered {
    pub(crate) writer: Writer,
    pub(crate) control: ControlFile,
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    pub(crate) groups: Groups,
    pub(crate) full: Vec<Full>,
    pub(crate) prepared: VecDeque<Arc<Segment>>,
    /// Files that can become segments.
    pub(crate) spares: Vec<Spare>,
    pub(crate) newest: u64,
    pub(crate) report: RecoveryReport,
}

/// Reads the log in `dir`, which the caller has locked. Changes nothing.
pub(crate) fn look(
    disk: &dyn Disk,
    dir: &Path,
    access: Access,
    keep_suspects: bool,
) -> Result<Found> {
    let names = Names::list(disk, dir)?;
    let control = ControlFile::open(disk, dir, access)?;
    let numbers = names.check(dir, &control.control)?;
    let mut segments = Vec::new();
    for number in numbers {
        segments.push(Arc::new(Segment::open(disk, dir, number, access)?));
    }
    let mut replay = Replay::new(&control.control, keep_suspects);
    let tail = replay.log(&segments)?;
    if let Some(group) = replay.groups.with_gone_entries() {
        tracing::error!(%group, "entries of a freed segment are needed");
        let path = segment_path(dir, control.control.oldest.saturating_sub(1));
        return Err(Error::MissingSegment { path });
    }
    let last = tail.segment.header.number;
    let mut found = Found {
        names,
        control,
        segments: BTreeMap::new(),
        groups: replay.groups,
        tail,
        full: replay.full,
        prepared: VecDeque::new(),
        report: replay.report,
    };
    for segment in segments {
        let number = segment.header.number;
        match number > last {
            false => drop(found.segments.insert(number, segment)),
            true => found.prepared.push_back(segment),
        }
    }
    found.report.segments = found.segments.len() as u64;
    found.report.suspects = suspects(&found.groups);
    found.report.is_lossy = found.names.is_lossy;
    let Found { groups, report, .. } = &mut found;
    report.damaged.retain(|damaged| is_there(groups, damaged));
    Ok(found)
}

/// Whether a damaged entry is still in the log, and not suspect.
fn is_there(groups: &Groups, damaged: &DamagedEntry) -> bool {
    let BadEntry { group, id, offset } = damaged.entry;
    let extent = groups.find(group).and_then(|group| group.find(id.index));
    let is_here = match groups.locate(group, id.index) {
        Some(Where::Tail { row, .. }) => row.offset() == Some(offset),
        _ => true,
    };
    extent.is_some_and(|extent| extent.term == id.term && !extent.suspect) && is_here
}

fn suspects(groups: &Groups) -> Vec<(GroupId, LogId)> {
    let mut suspects = Vec::new();
    for (id, group) in groups.iter() {
        for extent in group.extents.iter().filter(|extent| extent.suspect) {
            let indexes = extent.first.0..=extent.last().0;
            let ids = indexes.map(|index| LogId {
                term: extent.term,
                index: crate::Index(index),
            });
            suspects.extend(ids.map(|log_id| (id, log_id)));
        }
    }
    suspects.sort_unstable();
    suspects
}

impl Found {
    /// Makes the answer durable, and the log ready to be written to. If this fails, nothing was given away yet: the next
    /// `open` starts anew.
    pub(crate) fn settle(
        self,
        disk: &dyn Disk,
        dir: &Path,
        epoch: u64,
        preferred_bytes: u64,
    ) -> Result<Recovered> {
        if !planted("control_not_again") {
            self.control.write_again()?;
        }
        self.tail.make_durable()?;
        if self.names.is_cut && !planted("place_not_kept") {
            keep_place(disk, dir)?;
        }
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        let states = States::of(&self.groups);
        let file_bytes = segment_bytes(states.segment_bytes(preferred_bytes), 0);
        let spares = self.names.adopt_spares(disk, dir, file_bytes)?;
        if planted("open_needs_space") {
            Spare::create(disk, dir, next_number(&spares), file_bytes, None)?.remove(disk)?;
        }
        let tail = self.tail;
        let newest = self.prepared.back().unwrap_or(&tail.segment);
        let mut recovered = Recovered {
            newest: newest.header.number,
            writer: Writer {
                segment: tail.segment,
                end: tail.end,
                seal: tail.seal,
                summary_bytes: tail.summary_bytes,
                first: tail.first,
                link: tail.link,
                mark: tail.link.sequence - 1,
                states,
                buffer: Vec::new(),
                records: Vec::new(),
                syncs: Vec::new(),
            },
            control: self.control,
            segments: self.segments,
            groups: self.groups,
            full: self.full,
            prepared: self.prepared,
            spares,
            report: self.report,
        };
        recovered.resume(disk, dir, epoch, preferred_bytes, tail.suspects)?;
        // The CONTROL that says which segments were freed may have been read from the cache alone: it is durable now.
        let (newest, mark) = (recovered.newest, recovered.writer.mark);
        recovered.control.update(|control| {
            (control.newest, control.mark) = (newest, mark);
        })?;
        let oldest = recovered.control.control.oldest;
        self.names.remove_freed(disk, dir, oldest)?;
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
        Ok(recovered)
    }
}

impl Recovered {
    /// Writes the frame that begins the epoch.
    fn resume(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        epoch: u64,
        preferred_bytes: u64,
        suspects: Vec<Record>,
    ) -> Result<()> {
        let Recovered {
            writer,
            prepared,
            spares,
            newest,
            ..
        } = self;
        let home = Home {
            segment: writer.segment.header.number + 1,
            ..writer.segment.home()
        };
        let full = writer.resume(epoch, suspects, |wanted| {
            let file_bytes = segment_bytes(preferred_bytes, wanted);
            let fits = |next: &Arc<Segment>| next.header.file_bytes >= file_bytes;
            if let Some(next) = prepared.pop_front()
                && fits(&next)
            {
                return Ok(next);
            } // Too small: it is replaced.
            let spare = match spares.pop_if(|spare| spare.file_bytes() >= file_bytes) {
                Some(spare) => spare,
                None => Spare::create(disk, dir, next_number(spares), file_bytes, None)?,
            };
            *newest = home.segment.max(*newest);
            Ok(Arc::new(spare.into_segment(disk, dir, home)?))
        })?;
        self.full.extend(full);
        let segment = self.writer.segment.clone();
        self.segments.insert(segment.header.number, segment);
        self.report.segments = self.segments.len() as u64;
        Ok(())
    }
}
