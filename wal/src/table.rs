//! A segment's table: which entries it holds, as of its end, and where in it each payload is. Made from the segment's
//! directories alone, whatever stands in other segments.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::error::{Damage, Error, Result};
use crate::frame::Directory;
use crate::group::{Extent, Row};
use crate::groups::{Groups, Source};
use crate::record::{self, Record, Records};
use crate::scan::Scan;
use crate::segment::Segment;
use crate::types::{GroupId, Index};

#[derive(Debug, Default)]
pub(crate) struct Table {
    groups: Groups,
    /// A frame whose directory cannot be read, if there is one: its entries are not in the table.
    pub(crate) missing: Option<Error>,
    /// What it takes in memory, about.
    pub(crate) bytes: u64,
}

impl Table {
    /// The table of segment `number`, from the directories of its frames, in order.
    pub(crate) fn of<'a>(
        number: u64,
        directories: impl IntoIterator<Item = &'a Directory>,
    ) -> std::result::Result<Table, Damage> {
        let mut table = Table::default();
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
                    table.groups.change(record, metas, &mut source);
                }
            }
        }
        let extents = table.groups.iter().flat_map(|(_, group)| &group.extents);
        let bytes = extents.map(|extent| {
            size_of::<Extent>() + size_of::<Row>() * extent.count as usize // has all rows
        });
        table.bytes = bytes.sum::<usize>() as u64;
        Ok(table)
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

    /// Where an entry is that the segment holds.
    ///
    /// # Errors
    /// [`Error::DamagedDirectory`] if it is in a frame whose directory cannot be read, nor its copies.
    pub(crate) fn find_row(&self, segment: &Segment, group: GroupId, index: Index) -> Result<Row> {
        self.row(group, index).ok_or_else(|| {
            let missing = self.missing.clone();
            missing.unwrap_or_else(|| Error::damaged(&segment.path, 0, Damage::Content))
        })
    }

    pub(crate) fn row(&self, group: GroupId, index: Index) -> Option<Row> {
        self.groups.find(group)?.find(index)?.row(index)
    }

    /// The rows from an entry on, as far as its extent goes.
    pub(crate) fn rows(&self, group: GroupId, from: Index) -> impl Iterator<Item = &Row> {
        let extent = self.groups.find(group).and_then(|group| group.find(from));
        let rows = extent.map(|extent| extent.rows.range((from.0 - extent.first.0) as usize..));
        rows.into_iter().flatten()
    }

    /// The groups of which it has entries, in ascending order.
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        let groups = self.groups.iter();
        let mut groups: Vec<GroupId> = groups
            .filter(|(_, group)| !group.extents.is_empty())
            .map(|(id, _)| id)
            .collect();
        groups.sort_unstable();
        groups
    }

    /// What it says without the rows.
    pub(crate) fn summary(&self) -> Records {
        let ranges = self.groups().into_iter().flat_map(|id| {
            let group = self.groups.find(id);
            group.into_iter().flat_map(move |group| group.ranges(id))
        });
        Records {
            list: ranges.collect(),
            metas: SmallVec::new(),
        }
    }
}
