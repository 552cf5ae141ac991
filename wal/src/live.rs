//! The entries that are needed of a segment: to move them, or to look whether they are whole.

use bytes::Bytes;

use crate::batch::Batch;
use crate::canary::planted;
use crate::error::{Damage, Error, Result};
use crate::groups::Groups;
use crate::record::entry_checksum;
use crate::rows::{Row, Where};
use crate::segment::Segment;
use crate::table::Table;
use crate::types::{Context, GroupId, Index, LogId};

/// An entry that is needed, and where its payload is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LiveEntry {
    pub(crate) group: GroupId,
    pub(crate) id: LogId,
    pub(crate) context: Context,
    pub(crate) row: Row,
}

/// Where to go on: the position of a group in a list, and an index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) group: usize,
    pub(crate) index: Index,
}

/// The entries of `ids` that are needed of a segment, from `cursor` on, about `bytes_max` bytes of them. `table` is that of a
/// sealed segment. The cursor goes on behind them; when it is at the end of the list there are no more.
pub(crate) fn live_in(
    groups: &Groups,
    segment: u64,
    table: Option<&Table>,
    ids: &[GroupId],
    cursor: &mut Cursor,
    bytes_max: u64,
) -> Vec<LiveEntry> {
    let mut found = Vec::new();
    let mut bytes = 0;
    while let Some(&id) = ids.get(cursor.group) {
        let start = cursor.index;
        let extents = groups
            .find(id)
            .into_iter()
            .flat_map(|group| group.extents.iter().skip(group.position(start)));
        for extent in extents {
            let there = groups.rows.part_in(extent, segment);
            for index in (there.start.max(start).0..there.end.0).map(Index) {
                let row = match groups.rows.find(extent, index) {
                    Where::Tail { row, .. } => Some(row),
                    _ => table.and_then(|table| table.row(id, index)),
                };
                let Some(row) = row else {
                    continue;
                };
                let term = extent.term;
                found.push(LiveEntry {
                    group: id,
                    id: LogId { term, index },
                    context: extent.context,
                    row,
                });
                cursor.index = index.next();
                bytes += u64::from(row.meta.payload_bytes) + ENTRY_BYTES;
                if bytes >= bytes_max {
                    return found;
                }
            }
        }
        *cursor = Cursor {
            group: cursor.group + 1,
            index: Index(0),
        };
    }
    found
}

/// What an entry counts beside its payload.
pub(crate) const ENTRY_BYTES: u64 = 24;

impl LiveEntry {
    /// Reads the payload. The inner error says that it is damaged, the outer one that nothing is known.
    pub(crate) fn read(&self, segment: &Segment) -> Result<std::result::Result<Bytes, Damage>> {
        let Some(offset) = self.row.offset() else {
            return Ok(Err(Damage::Lost));
        };
        let end = offset + u64::from(self.row.meta.payload_bytes);
        if end > segment.header.file_bytes {
            return Ok(Err(Damage::Content));
        }
        let mut payload = vec![0; self.row.meta.payload_bytes as usize];
        let read = segment.file.read_exact_at(&mut payload, offset);
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Ok(Err(Damage::Short));
            }
            read => read.map_err(Error::io("read", &segment.path))?,
        }
        let is_right = entry_checksum(self.group, self.id, &payload) == self.row.meta.checksum;
        Ok(match is_right {
            true => Ok(payload.into()),
            false => Err(Damage::Checksum),
        })
    }

    /// Whether it is still there, in this segment.
    pub(crate) fn is_in(&self, segment: u64, groups: &Groups) -> bool {
        let index = self.id.index;
        let extent = groups.find(self.group).and_then(|group| group.find(index));
        extent.is_some_and(|extent| {
            groups.rows.find(extent, index).segment() == Some(segment)
                && extent.term == self.id.term
        })
    }

    /// Moves it with `batch`: with its payload, or without if that is damaged.
    pub(crate) fn put(&self, batch: &mut Batch, payload: Option<Bytes>) {
        let (mut meta, mut payload) = (self.row.meta, payload);
        if payload.is_none() && planted("lost_forgotten") {
            (meta.payload_bytes, payload) = (0, Some(Bytes::new()));
            meta.checksum = entry_checksum(self.group, self.id, b"");
        }
        batch.move_entry(self.group, self.id, self.context, meta, payload);
    }
}
