//! Where the payloads are that no table knows yet: those on their way to the disk, and those of segments that are not sealed.
//!
//! Each entry gets a number when it is taken in, and numbers follow each other as entries do in the log's one stream. So a
//! batch that is written is noted here in one place, whatever groups it is for: the groups (`group.rs`) hold numbers, which do
//! not change. A segment has the numbers between its first and that of the next segment. When it is sealed its table has the
//! rows, and they go; to which segment a number belongs stays known.
//!
//! Here is counted too what of each segment is needed, because what is not written yet belongs to none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use crate::group::{Extent, Place};
use crate::record::{EntryMeta, How, Record};
use crate::types::Index;

/// # Invariants
///
/// * `rows` begin with number `first` and go up to the last number there is; those below `written` are on disk.
/// * `segments` has the first number of each segment that was written, in order.
/// * `live` counts the entries that some extent in the log points at. Of those that are not written yet, `unwanted` are not
///   counted when they are.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    rows: VecDeque<Row>,
    first: u64,
    written: u64,
    segments: VecDeque<(u64, u64)>,
    unwanted: BTreeSet<u64>,
    live: LiveBySegment,
}

/// Where in its segment an entry's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    offset: u64,
    pub(crate) meta: EntryMeta,
}

/// Where an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    /// On its way to the disk.
    Pending { number: u64 },
    /// In a segment that is not sealed.
    Tail { segment: u64, row: Row, number: u64 },
    /// In a segment whose table has the row.
    Table { segment: u64 },
    /// In a segment that was freed.
    Gone,
}

/// Where the next payload of a frame or batch is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    Written { segment: u64, offset: u64 },
    Pending,
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

impl Row {
    /// The offset of an entry that is lost.
    const NOWHERE: u64 = u64::MAX;

    /// Of an entry of which nobody knows yet where it is written.
    fn new(how: How, meta: EntryMeta) -> Row {
        let offset = match how {
            How::Lost => Row::NOWHERE,
            How::Appended | How::Moved => 0,
        };
        Row { offset, meta }
    }

    /// Where the payload is; `None` if it is lost.
    pub(crate) fn offset(&self) -> Option<u64> {
        (self.offset != Row::NOWHERE).then_some(self.offset)
    }

    /// It is written at `next`, if it is written; the next one is behind it.
    fn place_at(&mut self, next: &mut u64) {
        if self.offset != Row::NOWHERE {
            self.offset = *next;
            *next += u64::from(self.meta.payload_bytes);
        }
    }
}

impl Where {
    /// The segment, if it is in one that was not freed.
    pub(crate) fn segment(self) -> Option<u64> {
        match self {
            Where::Tail { segment, .. } | Where::Table { segment } => Some(segment),
            Where::Pending { .. } | Where::Gone => None,
        }
    }
}

impl Rows {
    /// The number of the next entry.
    pub(crate) fn next_number(&self) -> u64 {
        self.first + self.rows.len() as u64
    }

    /// Takes in the entries of a record, if it has any. Gives the first number.
    pub(crate) fn push(
        &mut self,
        record: &Record,
        metas: &[EntryMeta],
        source: &mut Source,
    ) -> u64 {
        let number = self.next_number();
        if let Record::Entries(run) = record {
            self.rows
                .extend(metas.iter().map(|meta| Row::new(run.how, *meta)));
            if let Source::Written { segment, offset } = source {
                *offset = self.written(number, metas.len() as u64, *segment, *offset);
            }
        }
        number
    }

    /// So many entries from `number` on, the oldest that were not written, are: their payloads are one after the other in a
    /// segment. Gives where they end.
    pub(crate) fn written(&mut self, number: u64, count: u64, segment: u64, offset: u64) -> u64 {
        if count == 0 {
            return offset;
        }
        if self
            .segments
            .back()
            .is_none_or(|(_, last)| *last != segment)
        {
            self.segments.push_back((number, segment));
        }
        let mut next = offset;
        let mut live = Live::default();
        let from = (number - self.first) as usize;
        for (row, number) in self
            .rows
            .range_mut(from..from + count as usize)
            .zip(number..)
        {
            row.place_at(&mut next);
            if self.unwanted.is_empty() || !self.unwanted.remove(&number) {
                live.entries += 1;
                live.bytes += u64::from(row.meta.payload_bytes);
            }
        }
        self.live.add(segment, live);
        self.written = number + count;
        next
    }

    /// The entries from `number` on were not taken after all. No extent has their numbers.
    pub(crate) fn forget_from(&mut self, number: u64) {
        self.rows.truncate((number - self.first) as usize);
        self.unwanted.split_off(&number);
    }

    /// Where entry `index` is, of an extent that has it.
    pub(crate) fn find(&self, extent: &Extent, index: Index) -> Where {
        match &extent.place {
            Place::Numbered(numbers) => self.of_number(numbers[extent.skipped(index)]),
            Place::Table { segment, .. } => Where::Table { segment: *segment },
            Place::Gone => Where::Gone,
        }
    }

    /// The entries of an extent that are in this segment.
    pub(crate) fn part_in(&self, extent: &Extent, in_segment: u64) -> Range<Index> {
        let first = extent.first.0;
        let part = match &extent.place {
            Place::Table { segment, .. } if *segment == in_segment => 0..extent.count,
            Place::Numbered(numbers) => {
                let of_segment = self.numbers_of(in_segment);
                let below = |end: u64| numbers.partition_point(|number| *number < end) as u64;
                below(of_segment.start)..below(of_segment.end)
            }
            Place::Table { .. } | Place::Gone => 0..0,
        };
        Index(first + part.start)..Index(first + part.end)
    }

    /// Where the entry of this number is.
    fn of_number(&self, number: u64) -> Where {
        if number >= self.written {
            return Where::Pending { number };
        }
        let Some((segment, _)) = self.segment_of(number) else {
            return Where::Gone;
        };
        match number.checked_sub(self.first) {
            Some(at) => {
                let row = self.rows[at as usize];
                Where::Tail {
                    segment,
                    row,
                    number,
                }
            }
            None => Where::Table { segment },
        }
    }

    pub(crate) fn is_pending(&self, number: u64) -> bool {
        number >= self.written
    }

    /// The segment that a written number belongs to, and where its numbers end.
    fn segment_of(&self, number: u64) -> Option<(u64, u64)> {
        let after = match self.segments.back() {
            Some((first, _)) if *first <= number => self.segments.len(),
            _ => self.segments.partition_point(|(first, _)| *first <= number),
        };
        let (_, segment) = self.segments[after.checked_sub(1)?];
        Some((segment, self.first_of(after)))
    }

    /// The first number of the segment at this position; if none was begun there, that of what is written next.
    fn first_of(&self, at: usize) -> u64 {
        let segment = self.segments.get(at);
        segment.map_or(self.written, |(first, _)| *first)
    }

    /// The numbers that a segment has.
    pub(crate) fn numbers_of(&self, segment: u64) -> Range<u64> {
        let at = self.segments.binary_search_by_key(&segment, |(_, s)| *s);
        at.map_or(0..0, |at| self.first_of(at)..self.first_of(at + 1))
    }

    /// A segment is sealed and its table has the rows; so it is with all before it.
    pub(crate) fn drop_rows(&mut self, segment: u64) {
        let end = self.numbers_of(segment).end;
        if end > self.first {
            self.rows.drain(..(end - self.first) as usize);
            self.first = end;
        }
    }

    /// Segments below this one are freed: no extent has a number of theirs.
    pub(crate) fn forget_segments(&mut self, below: u64) {
        let freed = self
            .segments
            .partition_point(|(_, segment)| *segment < below);
        self.segments.drain(..freed);
    }

    /// Takes in those of a later part of the log, all written, which have numbers from 0 on. Gives what is to be added to them.
    /// What is needed of segments is not known then.
    pub(crate) fn append(&mut self, later: Rows) -> u64 {
        let shift = self.next_number();
        self.rows.extend(later.rows);
        let segments = later.segments.into_iter();
        self.segments
            .extend(segments.map(|(first, segment)| (first + shift, segment)));
        self.written = self.next_number();
        shift
    }

    /// The rows of an extent with numbers that are here.
    pub(crate) fn of(&self, extent: &Extent) -> impl Iterator<Item = Row> {
        let at = |number: &u64| (number - self.first) as usize;
        extent.numbers().map(move |number| self.rows[at(number)])
    }

    /// Bytes of payload of the entries of these numbers, as far as their rows are here.
    pub(crate) fn payload_bytes<'n>(&self, numbers: impl IntoIterator<Item = &'n u64>) -> u64 {
        let row = |number: &u64| self.rows.get(number.checked_sub(self.first)? as usize);
        let rows = numbers.into_iter().filter_map(row);
        rows.map(|row| u64::from(row.meta.payload_bytes)).sum()
    }

    pub(crate) fn live(&self, segment: u64) -> Live {
        let live = self.live.segments.get(&segment);
        live.copied().unwrap_or_default()
    }

    /// What is needed of all segments.
    pub(crate) fn all_live(&self) -> Live {
        self.live.all
    }

    /// Extents are in the log again.
    pub(crate) fn want<'e>(&mut self, extents: impl IntoIterator<Item = &'e Extent>) {
        for extent in extents {
            self.each_live(extent, LiveBySegment::add);
            if !self.unwanted.is_empty() {
                for number in extent.numbers() {
                    self.unwanted.remove(number);
                }
            }
        }
    }

    /// Extents are in the log no more.
    pub(crate) fn unwant<'e>(&mut self, extents: impl IntoIterator<Item = &'e Extent>) {
        for extent in extents {
            self.each_live(extent, LiveBySegment::remove);
            let written = self.written;
            let pending = extent.numbers().rev().take_while(|n| **n >= written);
            self.unwanted.extend(pending);
        }
    }

    /// What an extent has in each segment.
    fn each_live(&mut self, extent: &Extent, change: fn(&mut LiveBySegment, u64, Live)) {
        match &extent.place {
            Place::Table { segment, bytes } => {
                let (entries, bytes) = (extent.count, *bytes);
                change(&mut self.live, *segment, Live { entries, bytes });
            }
            Place::Numbered(numbers) => {
                let mut from = 0;
                while let Some(number) = numbers.get(from).filter(|n| !self.is_pending(**n))
                    && let Some((segment, end)) = self.segment_of(*number)
                {
                    let to = numbers.partition_point(|number| *number < end);
                    let bytes = self.payload_bytes(numbers.range(from..to));
                    let entries = (to - from) as u64;
                    change(&mut self.live, segment, Live { entries, bytes });
                    from = to;
                }
            }
            Place::Gone => {}
        }
    }
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

    fn remove(&mut self, segment: u64, less: Live) {
        let Some(live) = self.segments.get_mut(&segment) else {
            return;
        };
        let entries = live.entries - less.entries;
        let bytes = match entries {
            0 => 0, // What was estimated adds up in the end.
            _ => live.bytes.saturating_sub(less.bytes),
        };
        self.all.entries -= less.entries;
        self.all.bytes = self.all.bytes.saturating_sub(live.bytes - bytes);
        *live = Live { entries, bytes };
        if entries == 0 {
            self.segments.remove(&segment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Run;
    use crate::types::{Context, GroupId, LogId, Term};

    const META: EntryMeta = EntryMeta {
        payload_bytes: 10,
        checksum: 0,
    };

    fn run(first: u64, count: u32) -> Run {
        let (term, index) = (Term(1), Index(first));
        Run {
            group: GroupId(1),
            how: How::Appended,
            first: LogId { term, index },
            context: Context::EMPTY,
            count,
        }
    }

    /// Takes in so many entries that are not written yet, and gives them as an extent.
    fn push(rows: &mut Rows, first: u64, count: u32) -> Extent {
        let run = run(first, count);
        let metas = vec![META; count as usize];
        let number = rows.push(&Record::Entries(run), &metas, &mut Source::Pending);
        let numbers = number..number + u64::from(count);
        Extent::new(&run, Place::Numbered(numbers.collect()))
    }

    fn live(entries: u64) -> Live {
        let bytes = 10 * entries;
        Live { entries, bytes }
    }

    #[test]
    fn what_is_replaced_before_it_is_written_is_not_needed_then() {
        let mut rows = Rows::default();
        let kept = push(&mut rows, 1, 3);
        let replaced = push(&mut rows, 4, 2);
        let back = push(&mut rows, 6, 1);
        rows.unwant([&replaced, &back]);
        rows.want([&back]);
        assert_eq!(rows.all_live(), Live::default());
        assert_eq!(rows.written(0, 6, 1, 100), 160);
        assert_eq!(rows.live(1), live(4));
        rows.unwant([&kept]);
        assert_eq!(rows.all_live(), live(1));
        rows.want([&replaced]); // Its batch is taken back.
        assert_eq!(rows.live(1), live(3));
    }

    #[test]
    fn an_entry_is_found_in_its_segment_also_when_the_table_has_its_row() {
        let mut rows = Rows::default();
        let extent = push(&mut rows, 1, 5);
        rows.written(0, 2, 7, 100);
        rows.written(2, 2, 8, 64);
        let find = |rows: &Rows, index| rows.find(&extent, Index(index));
        let offset = |place| match place {
            Where::Tail { row, .. } => row.offset(),
            _ => None,
        };
        assert_eq!(offset(find(&rows, 2)), Some(110));
        assert_eq!(offset(find(&rows, 3)), Some(64));
        assert_eq!(find(&rows, 5), Where::Pending { number: 4 });
        assert_eq!(rows.part_in(&extent, 7), Index(1)..Index(3));
        assert_eq!(rows.part_in(&extent, 8), Index(3)..Index(5));
        rows.drop_rows(7);
        assert_eq!(find(&rows, 2), Where::Table { segment: 7 });
        assert_eq!(offset(find(&rows, 3)), Some(64));
        rows.unwant([&extent]);
        assert_eq!(rows.all_live(), Live::default());
        assert_eq!(rows.written(4, 1, 8, 84), 94);
        assert_eq!(rows.all_live(), Live::default());
        rows.drop_rows(8);
        rows.forget_segments(9);
        assert_eq!(find(&rows, 2), Where::Gone);
    }

    #[test]
    fn the_numbers_of_a_refused_batch_are_given_again() {
        let mut rows = Rows::default();
        push(&mut rows, 1, 2);
        let number = rows.next_number();
        let refused = push(&mut rows, 3, 2);
        rows.unwant([&refused]);
        rows.forget_from(number);
        push(&mut rows, 3, 1);
        rows.written(0, 3, 1, 0);
        assert_eq!(rows.live(1), live(3));
    }
}
