//! What the log holds, in memory, group by group.
//!
//! Submitting and recovery go through the same [`Groups::take_in`], so that replaying the frames gives the state that writing
//! them gave. A segment's table (`table.rs`) is made by the same replay, of this segment alone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::Bytes;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use crate::canary::planted;
use crate::error::Misuse;
use crate::group::{Extent, Group, Place};
use crate::record::{EntryMeta, How, Record, Records, Run};
use crate::rows::{Rows, Source, Where};
use crate::scan::BadEntry;
use crate::table::Part;
use crate::types::{GroupId, HardState, Index, LogId};

#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: HashMap<GroupId, Group, FxBuildHasher>,
    pub(crate) rows: Rows,
}

impl Groups {
    /// In no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (GroupId, &Group)> + '_ {
        self.groups.iter().map(|(id, group)| (*id, group))
    }

    /// The groups, in no order, and where their entries are.
    pub(crate) fn into_parts(self) -> (impl Iterator<Item = (GroupId, Group)>, Rows) {
        (self.groups.into_iter(), self.rows)
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn find(&self, group: GroupId) -> Option<&Group> {
        self.groups.get(&group)
    }

    /// Looks at groups that are used next. What is not in the processor's cache is fetched for many of them at a time then,
    /// and not for one after the other.
    pub(crate) fn touch(&self, groups: impl Iterator<Item = GroupId>) {
        let found = groups.filter_map(|group| self.find(group));
        let seen = found.map(|group| (group.purged.index, group.suspects, group.last_number()));
        std::hint::black_box(seen.max());
    }

    /// Where an entry is that the group has.
    pub(crate) fn locate(&self, group: GroupId, index: Index) -> Option<Where> {
        let extent = self.find(group)?.find(index)?;
        Some(self.rows.find(extent, index))
    }

    /// A group one of whose entries is gone. After a replay that is damage.
    pub(crate) fn with_gone_entries(&self) -> Option<GroupId> {
        let is_gone = |group: &Group| group.extents.iter().any(|e| e.place == Place::Gone);
        let mut groups = self.iter();
        groups.find(|(_, group)| is_gone(group)).map(|(id, _)| id)
    }

    /// Whether an entry is there, with the payload that was found to be bad in this segment, which is not sealed.
    pub(crate) fn stands_at(&self, bad: &BadEntry, in_segment: u64) -> bool {
        let group = self.find(bad.group);
        let extent = group.and_then(|group| group.find(bad.id.index));
        extent.is_some_and(|extent| match self.rows.find(extent, bad.id.index) {
            Where::Tail { segment, row, .. } => {
                (extent.term, segment) == (bad.id.term, in_segment)
                    && row.offset() == Some(bad.offset)
            }
            _ => false,
        })
    }

    /// Takes in a record, unless it breaks a rule (`check.rs`). What takes it back is put to `undo`.
    pub(crate) fn take_in(
        &mut self,
        record: &mut Record,
        metas: &[EntryMeta],
        source: &mut Source,
        undo: &mut Undo,
    ) -> Result<(), Misuse> {
        let Some(id) = record.group() else {
            return Ok(());
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
            undo.extend(self.remove(id));
            return Ok(());
        }
        let number = self.rows.push(record, metas, source);
        if let Some(what) = group.change(record, number, *source, &mut self.rows) {
            undo.push(Before { id, existed, what });
        }
        Ok(())
    }

    /// Entries that are there are suspect. They are in the tail.
    pub(crate) fn suspect(&mut self, record: &Record) {
        let group = record.group().and_then(|id| self.groups.get_mut(&id));
        if let Some(group) = group {
            group.change(record, 0, Source::Pending, &mut self.rows);
        }
    }

    fn remove(&mut self, id: GroupId) -> Option<Before> {
        let removed = self.groups.remove(&id)?;
        self.rows.unwant(&removed.extents);
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
        let place = Place::Table { segment, bytes };
        group.take_extent(Extent::new(run, place), &mut self.rows);
    }

    /// Takes in the states of all groups at the beginning of a segment: no others are there.
    pub(crate) fn begin_at(&mut self, states: &Records) {
        let mut before = std::mem::take(&mut self.groups);
        let rows = &mut self.rows;
        for record in &states.list {
            match record {
                Record::State {
                    group,
                    purged,
                    last,
                } => {
                    let mut found = before.remove(group).unwrap_or_default();
                    rows.unwant(&found.begin_at(*purged, *last));
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
            .for_each(|removed| rows.unwant(&removed.extents));
    }

    /// Takes back the records of a batch that is refused, whose entries would have numbers from this one on.
    pub(crate) fn refuse<I>(&mut self, number: u64, before: I)
    where
        I: IntoIterator<Item = Before, IntoIter: DoubleEndedIterator>,
    {
        self.take_all_back(before);
        self.rows.forget_from(number);
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
        let rows = &mut self.rows;
        let group = self.groups.entry(id).or_default();
        match what {
            Was::Shorter { end } => drop(group.replace(end, Index(u64::MAX), Vec::new(), rows)),
            Was::Extents(was) => {
                group.replace(was.first, was.last, was.extents, rows);
                group.purged = was.purged;
            }
            Was::HardState(hard_state) => group.hard_state = *hard_state,
            Was::User(bytes) => group.user_record = *bytes,
            Was::Removed(removed) => {
                rows.want(&removed.extents);
                *group = *removed;
            }
        }
        if !existed {
            self.groups.remove(&id);
        }
    }

    /// A segment is sealed: its table has the rows of this group.
    pub(crate) fn seal(&mut self, segment: u64, part: Part<'_>) {
        if let Some(group) = self.groups.get_mut(&part.group()) {
            group.seal(segment, part, &self.rows);
        }
    }
}

impl Group {
    /// Lets a record of the group take effect, whose entries have numbers from `number` on. Gives what was there before;
    /// nothing for what is only in a replay.
    pub(crate) fn change(
        &mut self,
        record: &Record,
        number: u64,
        source: Source,
        rows: &mut Rows,
    ) -> Option<Was> {
        let end = Index(u64::MAX);
        Some(match record {
            Record::Entries(run) => self.take_entries(run, number, source, rows),
            Record::Truncate { last, .. } => {
                let is_elsewhere = |extent: &Extent| match source {
                    Source::Written { segment, .. } => {
                        rows.find(extent, last.index.next()).segment() != Some(segment)
                    }
                    Source::Pending => false,
                };
                if planted("older_not_truncated")
                    && self.find(last.index.next()).is_some_and(is_elsewhere)
                {
                    return None;
                }
                let was = self.replace(last.index.next(), end, Vec::new(), rows);
                self.end_gone(*last);
                was
            }
            Record::Purge { last, .. } => {
                let was = self.replace(Index(0), last.index, Vec::new(), rows);
                self.purged = *last;
                was
            }
            Record::HardState { hard_state, .. } => {
                let was = std::mem::replace(&mut self.hard_state, *hard_state);
                Was::HardState(Box::new(was))
            }
            Record::User { bytes, .. } => {
                let was = std::mem::replace(&mut self.user_record, bytes.clone());
                Was::User(Box::new(was))
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

    fn take_entries(&mut self, run: &Run, number: u64, source: Source, rows: &mut Rows) -> Was {
        let is_read_back = matches!(source, Source::Written { .. });
        if run.how == How::Appended || is_read_back && planted("move_replayed_as_append") {
            let end = run.first.index;
            let was = match self.last().index < end {
                true => Was::Shorter { end },
                false => self.replace(end, Index(u64::MAX), Vec::new(), rows),
            };
            self.push(run, number);
            return was;
        }
        let numbers = number..number + u64::from(run.count);
        let mut extent = Extent::new(run, Place::Numbered(numbers.collect()));
        let (first, last) = (run.first.index, run.last());
        if run.how == How::Lost && !planted("suspect_lost_in_move") {
            let there = self.extents.iter().skip(self.position(first));
            extent.suspect = there
                .take_while(|there| there.first <= last)
                .any(|e| e.suspect);
        }
        let extents = self.splice(first, last, vec![extent]);
        rows.unwant(&extents);
        self.was(first, last, extents)
    }

    /// Takes in entries of a segment that has a table, as if they were appended or moved.
    fn take_extent(&mut self, extent: Extent, rows: &mut Rows) {
        let last = match extent.how {
            How::Moved | How::Lost if !planted("move_replayed_as_append") => extent.last(),
            _ => Index(u64::MAX),
        };
        self.replace(extent.first, last, vec![extent], rows);
    }

    /// Puts extents in the place of others, from `first` to `last`.
    fn replace(&mut self, first: Index, last: Index, new: Vec<Extent>, rows: &mut Rows) -> Was {
        rows.want(&new);
        let extents = self.splice(first, last, new);
        rows.unwant(&extents);
        self.was(first, last, extents)
    }

    fn was(&self, first: Index, last: Index, extents: Vec<Extent>) -> Was {
        let purged = self.purged;
        Was::Extents(Box::new(Replaced {
            first,
            last,
            extents,
            purged,
        }))
    }
}

/// What takes a batch back.
pub(crate) type Undo = SmallVec<[Before; 1]>;

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

/// Small, since most only append.
#[derive(Debug)]
pub(crate) enum Was {
    /// Nothing was there from `end` on.
    Shorter {
        end: Index,
    },
    Extents(Box<Replaced>),
    HardState(Box<HardState>),
    User(Box<Bytes>),
    Removed(Box<Group>),
}

/// From `first` to `last` there were these.
#[derive(Debug)]
pub(crate) struct Replaced {
    first: Index,
    last: Index,
    extents: Vec<Extent>,
    purged: LogId,
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
        assert_eq!(groups.rows.all_live().entries, 3);
    }
}
