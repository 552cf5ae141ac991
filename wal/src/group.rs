//! One group, in memory: its hard state, its user record, its purge point, and where its entries are.
//!
//! # Invariants
//!
//! * Extents are in order and do not overlap. In a log they cover all from the purge point to the last entry, without a
//!   hole; in a table (`table.rs`) and while a log is read back there may be holes.
//! * An extent has a row for each of its entries, or none: then it is pending, or its segment is sealed and has the rows.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::record::{EntryMeta, How, Record, Run};
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
    pub(crate) place: Place,
    /// It may never have been written whole: see `recovery.rs`.
    pub(crate) suspect: bool,
    /// Of payload. Estimated where it was split without its rows.
    pub(crate) bytes: u64,
    pub(crate) rows: VecDeque<Row>,
}

/// Where the payloads of an extent are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Written {
        segment: u64,
    },
    /// In memory, on their way to the disk: the first one has this number. If they are lost, the next one would.
    Pending {
        number: u64,
    },
    /// In a segment that was freed. Only while a log is read back: what follows takes them away or moves them.
    Gone,
}

/// Where in its segment an entry's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    offset: u64,
    pub(crate) meta: EntryMeta,
}

impl Row {
    /// The offset of an entry that is lost.
    const NOWHERE: u64 = u64::MAX;

    /// Where the payload is; `None` if it is lost.
    pub(crate) fn offset(&self) -> Option<u64> {
        (self.offset != Row::NOWHERE).then_some(self.offset)
    }
}

/// Gives the payloads of a frame their rows, one after the other.
pub(crate) fn rows(
    how: How,
    metas: &[EntryMeta],
    mut offset: u64,
) -> impl Iterator<Item = Row> + Clone + '_ {
    metas.iter().map(move |&meta| match how {
        How::Lost => Row {
            offset: Row::NOWHERE,
            meta,
        },
        How::Appended | How::Moved => {
            let row = Row { offset, meta };
            offset += u64::from(meta.payload_bytes);
            row
        }
    })
}

impl Extent {
    pub(crate) fn new(run: &Run, place: Place, bytes: u64, rows: VecDeque<Row>) -> Extent {
        Extent {
            first: run.first.index,
            count: run.count.into(),
            term: run.first.term,
            context: run.context,
            how: run.how,
            place,
            suspect: false,
            bytes,
            rows,
        }
    }

    fn gone(first: Index, last: Index, term: Term) -> Extent {
        Extent {
            first,
            count: last.0 - first.0 + 1,
            term,
            context: Context::EMPTY,
            how: How::Appended,
            place: Place::Gone,
            suspect: false,
            bytes: 0,
            rows: VecDeque::new(),
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

    pub(crate) fn row(&self, index: Index) -> Option<Row> {
        let at = index.0.checked_sub(self.first.0)?;
        self.rows.get(at as usize).copied()
    }

    /// The number of the payload at `index`, if it is pending.
    pub(crate) fn number(&self, index: Index) -> Option<u64> {
        match (self.place, self.how) {
            (Place::Pending { number }, How::Lost) => Some(number),
            (Place::Pending { number }, _) => Some(number + (index.0 - self.first.0)),
            _ => None,
        }
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
        let rows = match self.rows.len() / 2 > kept as usize {
            _ if self.rows.is_empty() => VecDeque::new(),
            false => self.rows.split_off(kept as usize),
            // Few stay: cheaper to take them out.
            true => {
                let front = self.rows.drain(..kept as usize).collect();
                std::mem::replace(&mut self.rows, front)
            }
        };
        let bytes = match rows.is_empty() {
            true => estimate(self.bytes, self.count - kept, self.count),
            false => {
                let fewer = rows.len().min(self.rows.len());
                let (some, of_kept) = match fewer == rows.len() {
                    true => (&rows, false),
                    false => (&self.rows, true),
                };
                let sum = some.iter().map(|row| u64::from(row.meta.payload_bytes));
                let sum: u64 = sum.sum();
                if of_kept { self.bytes - sum } else { sum }
            }
        };
        let place = match self.number(index) {
            Some(number) => Place::Pending { number },
            None => self.place,
        };
        let after = Extent {
            first: index,
            count: self.count - kept,
            place,
            bytes,
            rows,
            ..*self
        };
        self.count = kept;
        self.bytes -= bytes;
        after
    }

    /// Whether `next` begins where this one ends, and can be one with it.
    fn joins(&self, next: &Extent) -> bool {
        self.rows.is_empty() == next.rows.is_empty() && self.goes_on_with(next)
    }

    /// The same, whatever rows they have.
    fn goes_on_with(&self, next: &Extent) -> bool {
        let is_written = matches!(self.place, Place::Written { .. });
        let same = (self.place, self.how, self.term, self.suspect)
            == (next.place, next.how, next.term, next.suspect)
            && self.context == next.context;
        let fits = self.count + next.count <= u64::from(u32::MAX);
        is_written && same && fits && self.last().next() == next.first
    }

    fn join(&mut self, next: Extent) {
        self.count += next.count;
        self.bytes = self.bytes.saturating_add(next.bytes);
        self.rows.extend(next.rows);
    }
}

/// `part` of `count` entries of together so many bytes.
fn estimate(bytes: u64, part: u64, count: u64) -> u64 {
    (u128::from(bytes) * u128::from(part) / u128::from(count)) as u64
}

impl Group {
    /// The LogId of the last entry; the purge point if there is none.
    pub(crate) fn last(&self) -> LogId {
        self.extents.back().map_or(self.purged, |extent| LogId {
            term: extent.term,
            index: extent.last(),
        })
    }

    /// The LogId of the last entry that is durable, as long as what follows is not.
    pub(crate) fn durable(&self) -> LogId {
        let is_pending = |extent: &&Extent| matches!(extent.place, Place::Pending { .. });
        match self.extents.iter().find(is_pending) {
            None => self.last(),
            Some(pending) => {
                let index = pending.first.prev();
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

    /// Puts an extent at the end.
    pub(crate) fn push(&mut self, extent: Extent) {
        self.suspects += u32::from(extent.suspect);
        match self.extents.back_mut() {
            Some(last) if last.joins(&extent) => last.join(extent),
            _ => self.extents.push_back(extent),
        }
    }

    /// Gives the extent at `at` its rows. If it belongs together with the one before, they become one; says whether they did.
    pub(crate) fn put_rows(&mut self, at: usize, rows: impl Iterator<Item = Row>) -> bool {
        let joins = |before: &usize| {
            let before = &self.extents[*before];
            !before.rows.is_empty() && before.goes_on_with(&self.extents[at])
        };
        let Some(before) = at.checked_sub(1).filter(joins) else {
            self.extents[at].rows.extend(rows);
            return false;
        };
        let joined = self.extents.remove(at).expect("it was just looked at");
        self.suspects -= u32::from(joined.suspect);
        let before = &mut self.extents[before];
        before.join(joined);
        before.rows.extend(rows);
        true
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

    /// What a segment's summary says of the group.
    pub(crate) fn ranges(&self, group: GroupId) -> impl Iterator<Item = Record> {
        self.extents.iter().map(move |extent| Record::Range {
            run: extent.run(group),
            bytes: extent.bytes,
        })
    }
}
