//! A segment's table: which entries it holds, as of its end, and where in it each payload is. Made from the segment's
//! directories alone, whatever stands in other segments.

use std::collections::HashMap;
use std::sync::Arc;

use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use crate::error::{Damage, Error, Result};
use crate::frame::Directory;
use crate::groups::Groups;
use crate::record::{self, Record, Records, Run};
use crate::rows::{Row, Source};
use crate::scan::Scan;
use crate::segment::Segment;
use crate::types::{GroupId, Index};

/// Invariant: the runs of a group are in order, and each has as many rows as entries.
#[derive(Debug, Default)]
pub(crate) struct Table {
    groups: HashMap<GroupId, SmallVec<[Placed; 1]>, FxBuildHasher>,
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
        let mut groups = Groups::default();
        for directory in directories {
            let records = record::decode(&directory.records)?;
            let mut source = Source::Written {
                segment: number,
                offset: directory.payload_offset(),
            };
            for (record, metas) in records.iter() {
                let counts = matches!(
                    record,
                    Record::Entries(_)
                        | Record::Truncate { .. }
                        | Record::Purge { .. }
                        | Record::Remove { .. }
                );
                if counts {
                    groups.change(record, metas, &mut source);
                }
            }
        }
        Ok(Table::of_groups(&groups))
    }

    fn of_groups(groups: &Groups) -> Table {
        let mut table = Table::default();
        table
            .rows
            .reserve_exact(groups.rows.all_live().entries as usize);
        let mut runs = 0;
        for (id, group) in groups.iter().filter(|(_, group)| !group.extents.is_empty()) {
            let placed = group.extents.iter().map(|extent| {
                let rows_at = table.rows.len();
                table.rows.extend(groups.rows.of(extent));
                let run = extent.run(id);
                Placed { run, rows_at }
            });
            let placed: SmallVec<_> = placed.collect();
            runs += placed.len();
            table.groups.insert(id, placed);
        }
        let bytes = runs * size_of::<Placed>() + table.rows.len() * size_of::<Row>();
        table.bytes = bytes as u64;
        table
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
        let runs = self.groups.get(&group).map_or(&[][..], |runs| runs);
        let at = runs.partition_point(|placed| placed.run.last() < from);
        match runs.get(at) {
            Some(Placed { run, rows_at }) if run.first.index <= from => {
                let skipped = (from.0 - run.first.index.0) as usize;
                &self.rows[rows_at + skipped..rows_at + run.count as usize]
            }
            _ => &[],
        }
    }

    /// The groups of which it has entries, in ascending order.
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        let mut groups: Vec<GroupId> = self.groups.keys().copied().collect();
        groups.sort_unstable();
        groups
    }

    /// What it says without the rows.
    pub(crate) fn summary(&self) -> Records {
        let groups = self.groups();
        let runs = groups.iter().flat_map(|group| &self.groups[group]);
        let ranges = runs.map(|&Placed { run, rows_at }| {
            let rows = &self.rows[rows_at..rows_at + run.count as usize];
            let bytes = rows.iter().map(|row| u64::from(row.meta.payload_bytes));
            let bytes = bytes.sum();
            Record::Range { run, bytes }
        });
        Records {
            list: ranges.collect(),
            metas: SmallVec::new(),
        }
    }
}
