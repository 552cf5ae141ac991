//! One group, in memory: its hard state, its user record, its purge point, and where its entries are.
//!
//! # Invariants
//!
//! * Extents are in order and do not overlap. In a log they cover all from the purge point to the last entry, without a
//!   hole; in a table (`table.rs`) and while a log is read back there may be holes.
//! * The numbers of an extent go up.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::record::{How, Run};
use crate::rows::Rows;
use crate::table::Part;
use crate::types::{Context, GroupId, HardState, Index, LogId, Term};

#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) hard_state: HardState,
    pub(crate) user_record: Bytes,
    pub(crate) purged: LogId,
    pub(crate) extents: VecDeque<Extent>,
    /// How many extents are suspect.
    pub(crate) suspects: u32,
}

/// Consecutive entries of one term and context that came to one place in one way.
#[derive(Debug, Clone)]
pub(crate) struct Extent {
    pub(crate) first: Index,
    pub(crate) count: u64,
    pub(crate) term: Term,
    pub(crate) context: Context,
    pub(crate) how: How,
    /// It may never have been written whole: see `recovery.rs`.
    pub(crate) suspect: bool,
    pub(crate) place: Place,
}

/// Where the payloads of an extent are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// On their way to the disk or in segments that are not sealed: `rows.rs` knows, by the number of each.
    Numbered(VecDeque<u64>),
    /// In a segment whose table knows. Bytes of payload are estimated where the extent was split.
    Table { segment: u64, bytes: u64 },
    /// In a segment that was freed. Only while a log is read back: what follows takes them away or moves them.
    Gone,
}

impl Extent {
    pub(crate) fn new(run: &Run, place: Place) -> Extent {
        Extent {
            first: run.first.index,
            count: run.count.into(),
            term: run.first.term,
            context: run.context,
            how: run.how,
            suspect: false,
            place,
        }
    }

    fn gone(first: Index, last: Index, term: Term) -> Extent {
        Extent {
            first,
            count: last.0 - first.0 + 1,
            term,
            context: Context::EMPTY,
            how: How::Appended,
            suspect: false,
            place: Place::Gone,
        }
    }

    pub(crate) fn last(&self) -> Index {
        Index(self.first.0 + self.count - 1)
    }

    pub(crate) fn run(&self, group: GroupId) -> Run {
        Run {
            group,
            how: self.how,
            first: LogId {
                term: self.term,
                index: self.first,
            },
            context: self.context,
            count: self.count as u32,
        }
    }

    /// How many of its entries come before `index`, which it has.
    pub(crate) fn skipped(&self, index: Index) -> usize {
        (index.0 - self.first.0) as usize
    }

    /// Those of its entries, if they have any.
    pub(crate) fn numbers(&self) -> impl DoubleEndedIterator<Item = &u64> {
        let numbers = match &self.place {
            Place::Numbered(numbers) => Some(numbers),
            Place::Table { .. } | Place::Gone => None,
        };
        numbers.into_iter().flatten()
    }

    /// Splits off all from `index` on.
    fn split_off(&mut self, index: Index) -> Extent {
        let kept = index.0 - self.first.0;
        assert!(
            0 < kept && kept < self.count,
            "{index} splits {} entries from {}",
            self.count,
            self.first
        );
        let count = self.count - kept;
        let place = match &mut self.place {
            // Few stay: cheaper to take them out.
            Place::Numbered(numbers) if kept < count => {
                let front = numbers.drain(..kept as usize).collect();
                Place::Numbered(std::mem::replace(numbers, front))
            }
            Place::Numbered(numbers) => Place::Numbered(numbers.split_off(kept as usize)),
            Place::Table { segment, bytes } => {
                let of_those =
                    (u128::from(*bytes) * u128::from(count) / u128::from(self.count)) as u64;
                *bytes -= of_those;
                Place::Table {
                    segment: *segment,
                    bytes: of_those,
                }
            }
            Place::Gone => Place::Gone,
        };
        let after = Extent {
            first: index,
            count,
            place,
            ..*self
        };
        self.count = kept;
        after
    }

    /// Whether entries of this run that have numbers can become part of it.
    pub(crate) fn goes_on_with(&self, run: &Run) -> bool {
        let same = (self.how, self.term, self.suspect) == (run.how, run.first.term, false)
            && self.context == run.context;
        let fits = self.count + u64::from(run.count) <= u64::from(u32::MAX);
        same && fits && self.last().next() == run.first.index
    }
}

impl Group {
    /// The LogId of the last entry; the purge point if there is none.
    pub(crate) fn last(&self) -> LogId {
        self.extents.back().map_or(self.purged, |extent| LogId {
            term: extent.term,
            index: extent.last(),
        })
    }

    /// The number of the last entry, if it has one.
    pub(crate) fn last_number(&self) -> Option<u64> {
        self.extents.back()?.numbers().next_back().copied()
    }

    /// The LogId of the last entry that is durable, as long as what follows is not.
    pub(crate) fn durable(&self, rows: &Rows) -> LogId {
        let first_pending = |extent: &Extent| {
            let Place::Numbered(numbers) = &extent.place else {
                return None;
            };
            let written = numbers.partition_point(|number| !rows.is_pending(*number));
            (written < numbers.len()).then_some(Index(extent.first.0 + written as u64))
        };
        match self.extents.iter().find_map(first_pending) {
            None => self.last(),
            Some(pending) => {
                let index = pending.prev();
                let term = self.term_at(index).unwrap_or(self.purged.term);
                LogId { term, index }
            }
        }
    }

    pub(crate) fn find(&self, index: Index) -> Option<&Extent> {
        let extent = self.extents.get(self.position(index))?;
        (extent.first <= index).then_some(extent)
    }

    /// The position of the first extent that ends at `index` or later.
    pub(crate) fn position(&self, index: Index) -> usize {
        match self.extents.back() {
            Some(last) if last.first <= index => {
                self.extents.len() - usize::from(index <= last.last())
            }
            _ => self.extents.partition_point(|extent| extent.last() < index),
        }
    }

    /// The term at `index`, also at the purge point. 0 if it is not known, in a segment that was freed.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.purged.index {
            return Some(self.purged.term);
        }
        self.find(index).map(|extent| extent.term)
    }

    /// Whether the entry is in a segment that was freed.
    pub(crate) fn is_gone(&self, index: Index) -> bool {
        self.find(index)
            .is_some_and(|extent| extent.place == Place::Gone)
    }

    /// The first entry that is suspect.
    pub(crate) fn first_suspect(&self) -> Option<Index> {
        if self.suspects == 0 {
            return None;
        }
        let suspect = self.extents.iter().find(|extent| extent.suspect)?;
        Some(suspect.first)
    }

    /// Puts `new` in the place of all from `first` to `last`. Gives what was there.
    pub(crate) fn splice(&mut self, first: Index, last: Index, new: Vec<Extent>) -> Vec<Extent> {
        let suspects = |extents: &[Extent]| extents.iter().filter(|e| e.suspect).count() as u32;
        self.suspects += suspects(&new);
        if self.last().index < first {
            self.extents.extend(new);
            return Vec::new();
        }
        self.split_at(first);
        self.split_at(Index(last.0.saturating_add(1)));
        let from = self.position(first);
        let to = self.extents.partition_point(|extent| extent.first <= last);
        let removed: Vec<Extent> = self.extents.drain(from..to.max(from)).collect();
        for (i, extent) in new.into_iter().enumerate() {
            self.extents.insert(from + i, extent);
        }
        self.suspects -= suspects(&removed);
        removed
    }

    /// Makes an extent begin at `index`, if one reaches over it.
    fn split_at(&mut self, index: Index) {
        let at = self.position(index);
        if let Some(extent) = self.extents.get_mut(at)
            && extent.first < index
        {
            let after = extent.split_off(index);
            self.suspects += u32::from(after.suspect);
            self.extents.insert(at + 1, after);
        }
    }

    /// Puts entries with consecutive numbers at the end.
    pub(crate) fn push(&mut self, run: &Run, number: u64) {
        let new = number..number + u64::from(run.count);
        if let Some(last) = self
            .extents
            .back_mut()
            .filter(|last| last.goes_on_with(run))
            && let Place::Numbered(numbers) = &mut last.place
        {
            last.count += u64::from(run.count);
            numbers.extend(new);
            return;
        }
        let place = Place::Numbered(new.collect());
        self.extents.push_back(Extent::new(run, place));
    }

    /// The rows are behind others now.
    pub(crate) fn shift_numbers(&mut self, by: u64) {
        for extent in &mut self.extents {
            if let Place::Numbered(numbers) = &mut extent.place {
                numbers.iter_mut().for_each(|number| *number += by);
            }
        }
    }

    /// A segment is sealed: its table has the rows of this group.
    pub(crate) fn seal(&mut self, segment: u64, part: Part<'_>, rows: &Rows) {
        let mut at = 0;
        while let Some(extent) = self.extents.get(at) {
            at += 1;
            let Place::Numbered(_) = extent.place else {
                continue;
            };
            let sealed = rows.part_in(extent, segment);
            if !sealed.is_empty() {
                self.split_at(sealed.end);
                self.split_at(sealed.start);
                at = self.position(sealed.start);
                let bytes = part.payload_bytes(sealed);
                self.extents[at].place = Place::Table { segment, bytes };
                at += 1;
            }
        }
    }

    /// Marks entries as suspect. They are there, or in a segment that was freed.
    pub(crate) fn suspect(&mut self, first: Index, last: Index) {
        let mut extents = self.splice(first, last, Vec::new());
        extents.iter_mut().for_each(|extent| extent.suspect = true);
        self.splice(first, last, extents);
    }

    /// The state at the beginning of a segment: nothing else is there, and what is not found is in segments that were
    /// freed. Gives what is not there any more.
    pub(crate) fn begin_at(&mut self, purged: LogId, last: LogId) -> Vec<Extent> {
        let mut removed = self.splice(Index(0), purged.index, Vec::new());
        removed.extend(self.splice(last.index.next(), Index(u64::MAX), Vec::new()));
        self.purged = purged;
        let mut next = purged.index.next();
        let mut filled = VecDeque::new();
        for extent in std::mem::take(&mut self.extents) {
            if next < extent.first {
                filled.push_back(Extent::gone(next, extent.first.prev(), Term(0)));
            }
            next = extent.last().next();
            filled.push_back(extent);
        }
        if next <= last.index {
            filled.push_back(Extent::gone(next, last.index, Term(0)));
        }
        self.extents = filled;
        self.end_gone(last);
        removed
    }

    /// Of the last entry the term is known, also if it is in a segment that was freed.
    pub(crate) fn end_gone(&mut self, last: LogId) {
        if last.index > self.purged.index && self.is_gone(last.index) {
            let end = Extent::gone(last.index, last.index, last.term);
            self.splice(last.index, last.index, vec![end]);
        }
    }
}
