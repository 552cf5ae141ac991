//! What is left of a log of which something is lost: read as far as it goes, and changed by nothing here.
//!
//! A log is a history of frames. Where one that was durable cannot be named, or a whole segment is not there, what it changed
//! is not known: entries may have been appended, replaced or purged, and votes given. So there are two views:
//!
//! * *before*: the log as it was before the first thing that is lost. It is a state that once was: a prefix (contract 2);
//! * *after*: the log as it is, if what follows the last loss can be read up to the end. A segment begins with the state of
//!   every group, so votes, user records, purge points and ends are known there; entries that stood before are *gone*.
//!
//! A group none of whose entries is gone is as *after* says, and has lost nothing. Any other has its votes, user record and
//! purge point from *after*, and its entries from *before*, in front of those of *after* if they certainly belong together:
//! the last entry of the one and the first of the other are neighbours of one term (Log Matching, paper, section 5.3: who
//! made the second had the first). If there is no *after*, votes are as *before* says, and newer ones may be lost.
//!
//! Of that, each group keeps what stands before its first entry that cannot be read, whole and checked. So it is at the end too,
//! where an entry that no mark covers may be torn: the votes beside it, and what other groups have, may have been acknowledged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use duramen_disk::Disk;

use crate::canary::planted;
use crate::control::{Control, ControlFile};
use crate::error::{Damage, Error, Result};
use crate::group::{Extent, Group, Place};
use crate::groups::Groups;
use crate::live::LiveEntry;
use crate::names::Names;
use crate::recovery::Cut;
use crate::replay::Replay;
use crate::rows::{Row, Rows, Where};
use crate::segment::{Access, Segment};
use crate::table::Table;
use crate::tables::Tables;
use crate::types::{Entry, GroupId, Index, LogId};

/// What is left.
pub(crate) struct Salvage {
    segments: BTreeMap<u64, Arc<Segment>>,
    /// Each group, and where it ended.
    pub(crate) groups: BTreeMap<GroupId, (Group, LogId)>,
    rows: Rows,
    tables: Tables,
    /// CONTROL, segments and frames that cannot be read.
    pub(crate) lost: Vec<Error>,
    /// What follows the last loss cannot be read: there may have been newer votes, user records and purges.
    pub(crate) is_end_lost: bool,
    /// An unfinished write at the end.
    pub(crate) torn: Option<Cut>,
}

/// So much memory is taken by tables of segments, in bytes.
const TABLES_BYTES_MAX: u64 = 64 << 20;

impl Salvage {
    /// Reads the log in `dir`, which the caller has locked.
    ///
    /// # Errors
    /// [`Error::Foreign`], [`Error::Version`], [`Error::NotALog`]; and if nothing is left, what is wrong with the log.
    pub(crate) fn of(disk: &dyn Disk, dir: &Path) -> Result<Salvage> {
        let (control, segments, mut lost) = open_all(disk, dir)?;
        let is_newest = |segment: &Arc<Segment>| segment.header.number == control.newest;
        let run = &segments[..run_from(&segments, control.oldest)];
        let ends = segments.last().is_some_and(is_newest);
        let is_all = run.len() == segments.len() && ends;
        let before = before(run, is_all, &control, &mut lost);
        let is_whole = before.loss.is_none() && run.len() == segments.len();
        let from = before.loss.map_or(run.len(), |loss| loss + 1);
        let after = match is_whole || !ends {
            true => None,
            false => after(&segments, from, &control),
        };
        let is_end_lost = after.is_none() && !(is_whole && ends);
        let (torn, (groups, rows)) = match after {
            Some(after) => (after.report.cut, join(before.groups, after.groups)),
            None => (before.torn.filter(|_| !is_end_lost), alone(before.groups)),
        };
        if groups.is_empty() && !lost.is_empty() && is_end_lost {
            return Err(lost.swap_remove(0));
        }
        let numbered = |segment: Arc<Segment>| (segment.header.number, segment);
        Ok(Salvage {
            segments: segments.into_iter().map(numbered).collect(),
            groups,
            rows,
            tables: Tables::new(TABLES_BYTES_MAX),
            lost,
            is_end_lost,
            torn,
        })
    }

    /// The size of the largest segment, in bytes.
    pub(crate) fn segment_bytes(&self) -> u64 {
        let sizes = self.segments.values();
        sizes
            .map(|segment| segment.header.file_bytes)
            .max()
            .unwrap_or(0)
    }

    /// Gives the entries of a group, up to the first one that cannot be read, to `take`. Gives the last one; the purge point
    /// if there is none.
    pub(crate) fn entries(
        &mut self,
        id: GroupId,
        take: &mut dyn FnMut(Entry) -> Result<()>,
    ) -> Result<LogId> {
        let (group, _) = &self.groups[&id];
        let mut last = group.purged;
        for extent in &group.extents {
            for index in (extent.first.0..=extent.last().0).map(Index) {
                let place = self.rows.find(extent, index);
                let segment = place
                    .segment()
                    .and_then(|number| self.segments.get(&number));
                let Some(segment) = segment.filter(|_| index == last.index.next()) else {
                    return Ok(last);
                };
                let row = match place {
                    Where::Tail { row, .. } => Some(row),
                    _ => row(segment, &mut self.tables, id, index),
                };
                let payload = row.and_then(|row| read(segment, row, id, extent, index));
                let Some(payload) = payload else {
                    return Ok(last);
                };
                let term = extent.term;
                last = LogId { term, index };
                take(Entry {
                    id: last,
                    context: extent.context,
                    payload,
                })?;
            }
        }
        Ok(last)
    }
}

/// The payload of an entry, if it is whole.
fn read(
    segment: &Segment,
    row: Row,
    group: GroupId,
    extent: &Extent,
    index: Index,
) -> Option<Bytes> {
    let term = extent.term;
    let entry = LiveEntry {
        group,
        id: LogId { term, index },
        context: extent.context,
        row,
    };
    entry.read(segment).ok()?.ok()
}

/// A table that cannot be read has no rows.
fn row(segment: &Arc<Segment>, tables: &mut Tables, group: GroupId, index: Index) -> Option<Row> {
    let number = segment.header.number;
    let table = match tables.find(number) {
        Some(table) => table.clone(),
        None => {
            let table = Arc::new(Table::load(segment).unwrap_or_default());
            tables.insert(number, table.clone());
            table
        }
    };
    table.row(group, index)
}

/// CONTROL, or what it must have said, and the segments that can be opened, from the oldest to the newest. What cannot be
/// read is put into the list.
fn open_all(disk: &dyn Disk, dir: &Path) -> Result<(Control, Vec<Arc<Segment>>, Vec<Error>)> {
    let mut lost = Vec::new();
    let mut lose = |error: Error| match error {
        Error::Version { .. } => Err(error),
        error => {
            lost.push(error);
            Ok(())
        }
    };
    let names = Names::list(disk, dir)?;
    let control = match ControlFile::open(disk, dir, Access::Look) {
        Ok(file) => Some(file.control),
        Err(error) => lose(error).map(|()| None)?,
    };
    let oldest = control.map_or(0, |control| control.oldest);
    let mut segments: Vec<Arc<Segment>> = Vec::new();
    for number in names.segments.iter().filter(|number| **number >= oldest) {
        match Segment::open(disk, dir, *number, Access::Look) {
            Ok(segment) => segments.push(Arc::new(segment)),
            Err(error) => lose(error)?,
        }
    }
    let present = names.segments.last().copied().unwrap_or(0);
    let mut control = match (control, segments.first()) {
        (Some(control), _) => control,
        (None, Some(first)) => Control {
            log_id: first.header.log_id,
            generation: 0,
            oldest: first.header.number,
            newest: present,
            mark: 0,
        },
        (None, None) => return Err(lost.swap_remove(0)),
    };
    control.newest = control.newest.max(present);
    match names.check(dir, &control) {
        Ok(_) => {}
        Err(error @ Error::MissingSegment { .. }) => lost.push(error),
        Err(error) => return Err(error),
    }
    for segment in segments.extract_if(.., |segment| segment.header.log_id != control.log_id) {
        lost.push(Error::damaged(&segment.path, 0, Damage::Stranger));
    }
    Ok((control, segments, lost))
}

/// How many segments there are from the oldest on without one missing.
fn run_from(segments: &[Arc<Segment>], oldest: u64) -> usize {
    let numbers = segments.iter().map(|segment| segment.header.number);
    numbers
        .zip(oldest..)
        .take_while(|(number, expected)| number == expected)
        .count()
}

/// The log before the first thing that is lost.
#[derive(Default)]
struct Before {
    groups: Groups,
    torn: Option<Cut>,
    /// The segment in which that is, by its place in the list.
    loss: Option<usize>,
}

/// Reads segments from the oldest on as far as it goes. `is_all`: none is missing behind them.
fn before(run: &[Arc<Segment>], is_all: bool, control: &Control, lost: &mut Vec<Error>) -> Before {
    let mut len = run.len();
    let mut loss = None;
    while len > 0 {
        // What CONTROL knows to be durable is not looked for in front of what is missing.
        let mark = match is_all && len == run.len() {
            true => control.mark,
            false => 0,
        };
        let mut replay = Replay::up_to_a_loss(&Control { mark, ..*control });
        let outcome = replay.log(&run[..len]);
        if outcome.is_ok() {
            for error in replay.lost.take().unwrap_or_default() {
                loss = loss.or(Some(len - 1));
                note(error, run, lost);
            }
            return Before {
                groups: replay.groups,
                torn: replay.report.cut,
                loss,
            };
        }
        // All before the segment that is named can be read, and perhaps a part of it.
        let error = outcome.err();
        let file = error.as_ref().and_then(Error::file);
        let named = run[..len].iter().position(|s| file == Some(&s.path));
        let at = named.unwrap_or(len - 1);
        len = if at + 1 == len { at } else { at + 1 };
        loss = Some(at);
        lost.extend(error);
    }
    Before {
        loss,
        ..Before::default()
    }
}

/// Notes what is lost, once for each file. A segment that was left out is not missing.
fn note(error: Error, run: &[Arc<Segment>], lost: &mut Vec<Error>) {
    let is_left_out = matches!(error, Error::MissingSegment { .. })
        && run.iter().any(|s| error.file() == Some(&s.path));
    let is_known = lost.iter().any(|known| known.file() == error.file());
    if !is_left_out && !is_known {
        lost.push(error);
    }
}

/// Reads segments from `from` on, or from a later one, to the end of the log. Nothing of them may be lost.
fn after(segments: &[Arc<Segment>], from: usize, control: &Control) -> Option<Replay> {
    let mut start = from;
    while let Some(first) = segments.get(start) {
        let run = run_from(&segments[start..], first.header.number);
        if start + run < segments.len() {
            start += run; // One is missing behind these.
            continue;
        }
        let mut replay = Replay::new(control, true);
        let Err(error) = replay.log(&segments[start..]) else {
            return Some(replay);
        };
        let mut rest = segments[start..].iter();
        let named = rest.position(|segment| error.file() == Some(&segment.path));
        start += named.unwrap_or(0) + 1;
    }
    None
}

/// Each group, and where it ends.
type Left = BTreeMap<GroupId, (Group, LogId)>;

fn alone(groups: Groups) -> (Left, Rows) {
    let (groups, rows) = groups.into_parts();
    let with_end = |(id, group): (GroupId, Group)| {
        let end = group.last();
        (id, (group, end))
    };
    (groups.map(with_end).collect(), rows)
}

fn join(before: Groups, after: Groups) -> (Left, Rows) {
    let (before, mut rows) = before.into_parts();
    let (after, later) = after.into_parts();
    let shift = rows.append(later);
    let mut before: BTreeMap<GroupId, Group> = before.collect();
    let join = |(id, mut after): (GroupId, Group)| {
        let end = after.last();
        let before = before.remove(&id).unwrap_or_default();
        after.shift_numbers(shift);
        (id, (join_group(before, after), end))
    };
    (after.map(join).collect(), rows)
}

fn join_group(before: Group, mut after: Group) -> Group {
    let is_gone = |extent: &&Extent| extent.place == Place::Gone;
    let gone = after.extents.iter().take_while(is_gone).count();
    if gone == 0 {
        return after;
    }
    let (end, last_index) = (after.last(), Index(u64::MAX));
    let mut group = before;
    if !planted("cut_with_old_votes") {
        group.hard_state = after.hard_state;
    }
    group.user_record = after.user_record;
    let purged = after.purged;
    let purged_to = match group.term_at(purged.index) == Some(purged.term) {
        true => purged.index,
        false => last_index, // It was another entry, or none.
    };
    group.splice(Index(0), purged_to, Vec::new());
    group.purged = purged;
    group.splice(end.index.next(), last_index, Vec::new());
    let known: Vec<Extent> = after.extents.drain(gone..).collect();
    let belongs = |next: &Extent| match group.term_at(next.first.prev()) {
        Some(term) => term == next.term || planted("cut_joins_anything"),
        None => false,
    };
    if let Some(next) = known.first()
        && belongs(next)
        && group.last() != end
    {
        group.splice(next.first, last_index, known);
    }
    group
}
