//! A segment's table: which entries it holds, as of its end, and where in it each payload is. Made from the segment's
//! directories alone, whatever stands in other segments.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::error::{Damage, Error, Result};
use crate::frame::Directory;
use crate::group::Group;
use crate::record::{self, Record, Records, Run};
use crate::rows::{Row, Rows, Source};
use crate::scan::Scan;
use crate::segment::Segment;
use crate::types::{GroupId, Index};

/// Invariant: runs are in order, by group and index, and each has as many rows as entries.
#[derive(Debug, Default)]
pub(crate) struct Table {
    runs: Vec<Placed>,
    rows: Vec<Row>,
    /// A frame whose directory cannot be read, if there is one: its entries are not in the table.
    pub(crate) missing: Option<Error>,
    /// What it takes in memory, about.
    pub(crate) bytes: u64,
}

/// A run, and where its rows begin.
#[derive(Debug)]
struct Placed {
    run: Run,
    rows_at: usize,
}

impl Table {
    /// The table of segment `number`, from the directories of its frames, in order.
    pub(crate) fn of<'a>(
        number: u64,
        directories: impl IntoIterator<Item = &'a Directory>,
    ) -> std::result::Result<Table, Damage> {
        let mut rows = Rows::default();
        let mut changes = Vec::new();
        for directory in directories {
            let mut source = Source::Written {
                segment: number,
                offset: directory.payload_offset(),
            };
            let Records { list, metas } = record::decode(&directory.records)?;
            let mut metas = &metas[..];
            for record in list {
                let (of_record, after) = metas.split_at(record.entries());
                metas = after;
                let first = rows.push(&record, of_record, &mut source);
                changes.extend(change_of(&record).map(|group| (group, first, record)));
            }
        }
        let source = Source::Written {
            segment: number,
            offset: 0,
        };
        // One group after the other, each in order: with many groups that is much faster than as they come.
        changes.sort_by_key(|(group, ..)| *group);
        let mut table = Table::default();
        for changes in changes.chunk_by(|(one, ..), (other, ..)| one == other) {
            let mut group = Group::default();
            for (_, first, record) in changes {
                match record {
                    Record::Remove { .. } => group = Group::default(),
                    record => drop(group.change(record, *first, source, &mut rows)),
                }
            }
            table.add(changes[0].0, &group, &rows);
        }
        let bytes = table.runs.len() * size_of::<Placed>() + table.rows.len() * size_of::<Row>();
        table.bytes = bytes as u64;
        Ok(table)
    }

    /// Adds the entries of a group, the next one in order.
    fn add(&mut self, id: GroupId, group: &Group, rows: &Rows) {
        for extent in &group.extents {
            let (run, rows_at) = (extent.run(id), self.rows.len());
            self.runs.push(Placed { run, rows_at });
            self.rows.extend(rows.of(extent));
        }
    }

    /// Reads the table of a segment that is full: from its seal, or if that is damaged from its frames.
    pub(crate) fn load(segment: &Arc<Segment>) -> Result<Table> {
        let trailer = segment.trailer()?;
        let sealed = trailer.as_ref();
        let sealed = sealed.and_then(|trailer| segment.sealed_directories(trailer));
        let end = trailer.map_or(segment.header.file_bytes, |trailer| trailer.frames_end);
        let (directories, missing) = match sealed {
            Some(directories) => (directories, None),
            None => Scan::new(segment)?.directories(end)?,
        };
        let table = Table::of(segment.header.number, &directories);
        let mut table = table.map_err(|reason| Error::damaged(&segment.path, 0, reason))?;
        table.missing = missing.map(|missing| missing.error(segment));
        Ok(table)
    }

    /// The rows from an entry on that the segment holds, as far as its run goes: at least one.
    ///
    /// # Errors
    /// [`Error::DamagedDirectory`] if it is in a frame whose directory cannot be read, nor its copies.
    pub(crate) fn find_rows(
        &self,
        segment: &Segment,
        group: GroupId,
        from: Index,
    ) -> Result<&[Row]> {
        match self.rows(group, from) {
            [] => {
                let missing = self.missing.clone();
                Err(missing.unwrap_or_else(|| Error::damaged(&segment.path, 0, Damage::Content)))
            }
            rows => Ok(rows),
        }
    }

    pub(crate) fn row(&self, group: GroupId, index: Index) -> Option<Row> {
        self.rows(group, index).first().copied()
    }

    /// The same, or none if it is not there.
    fn rows(&self, group: GroupId, from: Index) -> &[Row] {
        self.rows_in(&self.runs, group, from)
    }

    /// The same, of these of its runs.
    fn rows_in(&self, runs: &[Placed], group: GroupId, from: Index) -> &[Row] {
        let is_before = |Placed { run, .. }: &Placed| (run.group, run.last()) < (group, from);
        match runs.get(runs.partition_point(is_before)) {
            Some(placed) if placed.run.group == group && placed.run.first.index <= from => {
                let skipped = (from.0 - placed.run.first.index.0) as usize;
                &self.rows_of(placed)[skipped..]
            }
            _ => &[],
        }
    }

    fn rows_of(&self, placed: &Placed) -> &[Row] {
        &self.rows[placed.rows_at..placed.rows_at + placed.run.count as usize]
    }

    /// What it has of each group, in ascending order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let same = |one: &Placed, other: &Placed| one.run.group == other.run.group;
        let runs = self.runs.chunk_by(same);
        runs.map(|runs| Part { table: self, runs })
    }

    /// The groups of which it has entries, in ascending order.
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        self.parts().map(|part| part.group()).collect()
    }

    /// What it says without the rows.
    pub(crate) fn summary(&self) -> Records {
        let ranges = self.runs.iter().map(|placed| {
            let rows = self.rows_of(placed).iter();
            let bytes = rows.map(|row| u64::from(row.meta.payload_bytes)).sum();
            let run = placed.run;
            Record::Range { run, bytes }
        });
        Records {
            list: ranges.collect(),
            metas: SmallVec::new(),
        }
    }
}

/// What a table has of one group.
#[derive(Clone, Copy)]
pub(crate) struct Part<'t> {
    table: &'t Table,
    /// At least one.
    runs: &'t [Placed],
}

impl Part<'_> {
    pub(crate) fn group(&self) -> GroupId {
        self.runs[0].run.group
    }

    /// Bytes of payload of entries of one run.
    pub(crate) fn payload_bytes(&self, entries: Range<Index>) -> u64 {
        let count = (entries.end.0 - entries.start.0) as usize;
        let (runs, group) = (self.runs, self.group());
        let rows = self.table.rows_in(runs, group, entries.start);
        let rows = rows.iter().take(count);
        rows.map(|row| u64::from(row.meta.payload_bytes)).sum()
    }
}

/// The group whose entries a record changes, if it does.
fn change_of(record: &Record) -> Option<GroupId> {
    let counts = matches!(
        record,
        Record::Entries(_) | Record::Truncate { .. } | Record::Purge { .. } | Record::Remove { .. }
    );
    record.group().filter(|_| counts)
}
