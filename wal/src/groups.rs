//! What the log holds, in memory, group by group, and how much of it is in which segment.
//!
//! Submitting and recovery go through the same [`Groups::take_in`], so that replaying the frames gives the state that writing
//! them gave. A segment's table (`table.rs`) is made by the same replay, of this segment alone.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use rustc_hash::FxBuildHasher;

use crate::canary::planted;
use crate::error::Misuse;
use crate::group::{Extent, Group, Place, Row, rows};
use crate::record::{EntryMeta, How, Record, Records, Run, payload_bytes};
use crate::scan::BadEntry;
use crate::types::{GroupId, HardState, Index, LogId};

#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: HashMap<GroupId, Group, FxBuildHasher>,
    live: LiveBySegment,
}

/// Invariant: `all` is the sum of `segments`. Bytes do not overflow, whatever a summary claims.
#[derive(Debug, Default)]
struct LiveBySegment {
    segments: BTreeMap<u64, Live>,
    all: Live,
}

/// What is needed of a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) entries: u64,
    /// Of payload.
    pub(crate) bytes: u64,
}

/// Where the next payload of a frame or batch is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    Written { segment: u64, offset: u64 },
    Pending { number: u64 },
}

impl Source {
    fn take(&mut self, run: &Run, metas: &[EntryMeta]) -> Extent {
        let bytes = payload_bytes(metas);
        let taken = match run.has_payloads() {
            true => (metas.len() as u64, bytes),
            false => (0, 0),
        };
        match self {
            Source::Written { segment, offset } => {
                let rows = rows(run.how, metas, *offset).collect();
                *offset += taken.1;
                Extent::new(run, Place::Written { segment: *segment }, bytes, rows)
            }
            Source::Pending { number } => {
                let place = Place::Pending { number: *number };
                *number += taken.0;
                Extent::new(run, place, bytes, VecDeque::new())
            }
        }
    }
}

impl IntoIterator for Groups {
    type Item = (GroupId, Group);
    type IntoIter = std::collections::hash_map::IntoIter<GroupId, Group>;

    /// In no order.
    fn into_iter(self) -> Self::IntoIter {
        self.groups.into_iter()
    }
}

impl Groups {
    /// In no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (GroupId, &Group)> + '_ {
        self.groups.iter().map(|(id, group)| (*id, group))
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn find(&self, group: GroupId) -> Option<&Group> {
        self.groups.get(&group)
    }

    pub(crate) fn live(&self, segment: u64) -> Live {
        let live = self.live.segments.get(&segment);
        live.copied().unwrap_or_default()
    }

    /// What is needed of all segments.
    pub(crate) fn all_live(&self) -> Live {
        self.live.all
    }

    /// A group one of whose entries is gone. After a replay that is damage.
    pub(crate) fn with_gone_entries(&self) -> Option<GroupId> {
        let is_gone = |group: &Group| group.extents.iter().any(|e| e.place == Place::Gone);
        let mut groups = self.iter();
        groups.find(|(_, group)| is_gone(group)).map(|(id, _)| id)
    }

    /// Whether an entry is there, with the payload that was found to be bad in this segment, whose rows are in memory.
    pub(crate) fn stands_at(&self, bad: &BadEntry, segment: u64) -> bool {
        let group = self.find(bad.group);
        let extent = group.and_then(|group| group.find(bad.id.index));
        extent.is_some_and(|extent| {
            let row = extent.row(bad.id.index);
            extent.term == bad.id.term
                && extent.place == Place::Written { segment }
                && row.and_then(|row| row.offset()) == Some(bad.offset)
        })
    }

    /// Takes in a record, unless it breaks a rule (`check.rs`). Gives what takes it back.
    pub(crate) fn take_in(
        &mut self,
        record: &mut Record,
        metas: &[EntryMeta],
        source: &mut Source,
    ) -> Result<Option<Before>, Misuse> {
        let Some(id) = record.group() else {
            return Ok(None);
        };
        let (group, existed) = match self.groups.entry(id) {
            Entry::Occupied(entry) => {
                entry.get().check(record)?;
                (entry.into_mut(), true)
            }
            Entry::Vacant(entry) => {
                Group::check_new(record)?;
                (entry.insert(Group::default()), false)
            }
        };
        if let Record::Remove { .. } = record {
            return Ok(self.remove(id));
        }
        let what = group.change(record, metas, source, &mut self.live);
        Ok(what.map(|what| Before { id, existed, what }))
    }

    /// Lets a record take effect, whatever it says.
    pub(crate) fn change(&mut self, record: &Record, metas: &[EntryMeta], source: &mut Source) {
        let Some(id) = record.group() else {
            return;
        };
        if let Record::Remove { .. } = record {
            self.remove(id);
            return;
        }
        let group = self.groups.entry(id).or_default();
        group.change(record, metas, source, &mut self.live);
    }

    fn remove(&mut self, id: GroupId) -> Option<Before> {
        let removed = self.groups.remove(&id)?;
        self.live.remove_all(&removed.extents);
        let what = Was::Removed(Box::new(removed));
        Some(Before {
            id,
            existed: true,
            what,
        })
    }

    /// Takes in what a sealed segment's summary says. The state at the beginning of a later segment follows, so what is
    /// not there any more by then does not matter.
    pub(crate) fn take_range(&mut self, segment: u64, run: &Run, bytes: u64) {
        let group = self.groups.entry(run.group).or_default();
        let place = Place::Written { segment };
        let extent = Extent::new(run, place, bytes, VecDeque::new());
        group.take_entries(run, extent, &mut self.live);
    }

    /// Takes in the states of all groups at the beginning of a segment: no others are there.
    pub(crate) fn begin_at(&mut self, states: &Records) {
        let mut before = std::mem::take(&mut self.groups);
        let live = &mut self.live;
        for record in &states.list {
            match record {
                Record::State {
                    group,
                    purged,
                    last,
                } => {
                    let mut found = before.remove(group).unwrap_or_default();
                    live.remove_all(&found.begin_at(*purged, *last));
                    self.groups.insert(*group, found);
                }
                Record::HardState { group, hard_state } => {
                    self.groups.entry(*group).or_default().hard_state = *hard_state;
                }
                Record::User { group, bytes } => {
                    self.groups.entry(*group).or_default().user_record = bytes.clone();
                }
                _ => {}
            }
        }
        before
            .values()
            .for_each(|removed| live.remove_all(&removed.extents));
    }

    /// Takes back the last records that were taken in.
    pub(crate) fn take_all_back<I>(&mut self, before: I)
    where
        I: IntoIterator<Item = Before, IntoIter: DoubleEndedIterator>,
    {
        before
            .into_iter()
            .rev()
            .for_each(|before| self.take_back(before));
    }

    fn take_back(&mut self, before: Before) {
        let Before { id, existed, what } = before;
        let live = &mut self.live;
        let group = self.groups.entry(id).or_default();
        match what {
            Was::HardState(hard_state) => group.hard_state = hard_state,
            Was::User(bytes) => group.user_record = bytes,
            Was::Extents {
                first,
                last,
                extents,
                purged,
            } => {
                group.replace(first, last, extents, live);
                group.purged = purged;
            }
            Was::Removed(removed) => {
                live.add_all(&removed.extents);
                *group = *removed;
            }
        }
        if !existed {
            self.groups.remove(&id);
        }
    }

    /// The entries of a batch are on disk now. Says whether all of them were found: those that were replaced meanwhile
    /// are in what takes the later batches back.
    pub(crate) fn written(&mut self, mut write: Write<'_>) -> bool {
        let mut all_found = true;
        let mut live = Live::default();
        for (run, metas) in write.runs() {
            let group = self.groups.get_mut(&run.group);
            let found = group.map_or(Live::default(), |group| group.written(run, &write, metas));
            all_found &= found.entries == u64::from(run.count);
            live.entries += found.entries;
            live.bytes += found.bytes;
            write.advance(run, metas);
        }
        self.live.add(write.segment, live);
        all_found
    }

    /// A segment is sealed: its table has the rows.
    pub(crate) fn strip(&mut self, segment: u64, group: GroupId) {
        let extents = self.groups.get_mut(&group).map(|group| &mut group.extents);
        let here = |extent: &&mut Extent| extent.place == Place::Written { segment };
        for extent in extents.into_iter().flatten().filter(here) {
            extent.rows = VecDeque::new();
        }
    }
}

impl Group {
    /// Lets a record of the group take effect. Gives what was there before; nothing for what is only in a replay.
    fn change(
        &mut self,
        record: &Record,
        metas: &[EntryMeta],
        source: &mut Source,
        live: &mut LiveBySegment,
    ) -> Option<Was> {
        let end = Index(u64::MAX);
        Some(match record {
            Record::Entries(run) => self.take_entries(run, source.take(run, metas), live),
            Record::Truncate { last, .. } => {
                let is_elsewhere = |extent: &Extent| match *source {
                    Source::Written { segment, .. } => extent.place != Place::Written { segment },
                    Source::Pending { .. } => false,
                };
                if planted("older_not_truncated")
                    && self.find(last.index.next()).is_some_and(is_elsewhere)
                {
                    return None;
                }
                let was = self.replace(last.index.next(), end, Vec::new(), live);
                self.end_gone(*last);
                was
            }
            Record::Purge { last, .. } => {
                let was = self.replace(Index(0), last.index, Vec::new(), live);
                self.purged = *last;
                was
            }
            Record::HardState { hard_state, .. } => {
                Was::HardState(std::mem::replace(&mut self.hard_state, *hard_state))
            }
            Record::User { bytes, .. } => {
                Was::User(std::mem::replace(&mut self.user_record, bytes.clone()))
            }
            Record::Suspect { first, count, .. } => {
                self.suspect(*first, Index(first.0 + count - 1));
                return None;
            }
            Record::State { .. }
            | Record::Range { .. }
            | Record::Remove { .. }
            | Record::Resume { .. } => return None,
        })
    }

    fn take_entries(&mut self, run: &Run, mut extent: Extent, live: &mut LiveBySegment) -> Was {
        let is_read_back = matches!(extent.place, Place::Written { .. });
        if run.how == How::Appended || is_read_back && planted("move_replayed_as_append") {
            let was = self.replace(run.first.index, Index(u64::MAX), Vec::new(), live);
            live.add_all([&extent]);
            self.push(extent);
            return was;
        }
        let (first, last) = (run.first.index, run.last());
        if run.how == How::Lost && !planted("suspect_lost_in_move") {
            let there = self.extents.iter().skip(self.position(first));
            extent.suspect = there
                .take_while(|there| there.first <= last)
                .any(|e| e.suspect);
        }
        self.replace(first, last, vec![extent], live)
    }

    fn replace(
        &mut self,
        first: Index,
        last: Index,
        new: Vec<Extent>,
        live: &mut LiveBySegment,
    ) -> Was {
        live.add_all(&new);
        let removed = self.splice(first, last, new);
        live.remove_all(&removed);
        Was::Extents {
            first,
            last,
            extents: removed,
            purged: self.purged,
        }
    }

    /// Finds the pending entries of a run and notes where they are.
    fn written(&mut self, run: &Run, write: &Write<'_>, metas: &[EntryMeta]) -> Live {
        let mut found = Live::default();
        let mut at = self.position(run.first.index);
        while let Some(extent) = self.extents.get_mut(at)
            && extent.first <= run.last()
        {
            if let Some(rows) = write.note(extent, run, metas) {
                found.entries += extent.count;
                found.bytes += extent.bytes;
                at -= usize::from(self.put_rows(at, rows));
            }
            at += 1;
        }
        found
    }
}

/// A batch that is on disk now.
#[derive(Clone)]
pub(crate) struct Write<'a> {
    pub(crate) records: &'a Records,
    /// The number of its next payload, and where that is.
    pub(crate) number: u64,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

impl<'a> Write<'a> {
    fn runs(&self) -> impl Iterator<Item = (&'a Run, &'a [EntryMeta])> + use<'a> {
        let records: &'a Records = self.records;
        records.iter().filter_map(|(record, metas)| match record {
            Record::Entries(run) => Some((run, metas)),
            _ => None,
        })
    }

    fn advance(&mut self, run: &Run, metas: &[EntryMeta]) {
        if run.has_payloads() {
            self.number += metas.len() as u64;
            self.offset += payload_bytes(metas);
        }
    }

    /// Notes where an extent is, if it is a part of `run`, the next one. Gives its rows.
    fn note<'m>(
        &self,
        extent: &mut Extent,
        run: &Run,
        metas: &'m [EntryMeta],
    ) -> Option<impl Iterator<Item = Row> + Clone + use<'m>> {
        if extent.first < run.first.index || extent.last() > run.last() || extent.how != run.how {
            return None;
        }
        let skipped = extent.first.0 - run.first.index.0;
        let number = match run.has_payloads() {
            true => self.number + skipped,
            false => self.number,
        };
        if extent.place != (Place::Pending { number }) {
            return None;
        }
        let rows = rows(run.how, metas, self.offset).skip(skipped as usize);
        let rows = rows.take(extent.count as usize);
        if extent.count != u64::from(run.count) {
            let bytes = rows.clone().map(|row| u64::from(row.meta.payload_bytes));
            extent.bytes = bytes.sum(); // It was estimated.
        }
        extent.place = Place::Written {
            segment: self.segment,
        };
        Some(rows)
    }

    /// The same for entries that were replaced since: they may come back.
    pub(crate) fn note_in(mut self, before: &mut Before) {
        let extents: &mut dyn Iterator<Item = &mut Extent> = match &mut before.what {
            Was::HardState(_) | Was::User(_) => return,
            Was::Extents { extents, .. } => &mut extents.iter_mut(),
            Was::Removed(group) => &mut group.extents.iter_mut(),
        };
        let mut extents: Vec<&mut Extent> = extents.collect();
        for (run, metas) in self.runs() {
            if run.group == before.id {
                for extent in &mut extents {
                    if let Some(rows) = self.note(extent, run, metas) {
                        extent.rows.extend(rows);
                    }
                }
            }
            self.advance(run, metas);
        }
    }
}

/// What a record changed, as it was before.
#[derive(Debug)]
pub(crate) struct Before {
    id: GroupId,
    existed: bool,
    what: Was,
}

impl Before {
    /// Whether the group did not exist before.
    pub(crate) fn made_group(&self) -> bool {
        !self.existed
    }
}

impl Before {
    /// Whether the user record is longer now.
    pub(crate) fn lengthened_record(&self, groups: &Groups) -> bool {
        let Was::User(before) = &self.what else {
            return false;
        };
        let group = groups.find(self.id);
        group.is_some_and(|group| group.user_record.len() > before.len())
    }
}

#[derive(Debug)]
enum Was {
    HardState(HardState),
    User(Bytes),
    /// From `first` to `last` there was this.
    Extents {
        first: Index,
        last: Index,
        extents: Vec<Extent>,
        purged: LogId,
    },
    Removed(Box<Group>),
}

impl LiveBySegment {
    fn add(&mut self, segment: u64, live: Live) {
        if live.entries > 0 {
            for sum in [self.segments.entry(segment).or_default(), &mut self.all] {
                sum.entries += live.entries;
                sum.bytes = sum.bytes.saturating_add(live.bytes);
            }
        }
    }

    fn add_all<'e>(&mut self, extents: impl IntoIterator<Item = &'e Extent>) {
        for extent in extents {
            if let Place::Written { segment } = extent.place {
                let (entries, bytes) = (extent.count, extent.bytes);
                self.add(segment, Live { entries, bytes });
            }
        }
    }

    fn remove_all<'e>(&mut self, extents: impl IntoIterator<Item = &'e Extent>) {
        for extent in extents {
            let Place::Written { segment } = extent.place else {
                continue;
            };
            if let Some(live) = self.segments.get_mut(&segment) {
                for sum in [&mut *live, &mut self.all] {
                    sum.entries -= extent.count;
                    sum.bytes = sum.bytes.saturating_sub(extent.bytes);
                }
                if live.entries == 0 {
                    self.segments.remove(&segment);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Context, Term};

    /// A summary has a checksum, and may be made up all the same.
    #[test]
    fn whatever_bytes_summaries_claim_their_sums_do_not_overflow() {
        let mut groups = Groups::default();
        let run = |index| Run {
            group: GroupId(1),
            how: How::Appended,
            first: LogId {
                term: Term(1),
                index: Index(index),
            },
            context: Context::EMPTY,
            count: 2,
        };
        for (segment, index) in [(1, 1), (1, 3), (2, 5), (2, 2)] {
            groups.take_range(segment, &run(index), u64::MAX);
        }
        assert_eq!(groups.all_live().entries, 3);
    }
}
