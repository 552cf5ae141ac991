//! What to read for a range of entries: looked up under the lock, in pieces that lie in one segment.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::Core;
use crate::error::{Damage, Error, Misuse, Result};
use crate::group::{Extent, Place, Row};
use crate::pipeline::Shared;
use crate::record::How;
use crate::segment::Segment;
use crate::table::Table;
use crate::types::{Context, Entry, GroupId, Index, LogId};

/// Entries of a plan.
pub(crate) enum Piece {
    /// One that is in memory.
    Memory(Entry),
    /// Consecutive ones of one term in one segment.
    Disk(DiskPiece),
}

pub(crate) struct DiskPiece {
    pub(crate) segment: Arc<Segment>,
    /// Nothing is written to the segment any more.
    pub(crate) is_sealed: bool,
    pub(crate) first: LogId,
    pub(crate) context: Context,
    pub(crate) rows: Vec<Row>,
}

impl DiskPiece {
    pub(crate) fn id(&self, at: usize) -> LogId {
        let index = Index(self.first.index.0 + at as u64);
        LogId {
            index,
            ..self.first
        }
    }

    pub(crate) fn damaged(&self, group: GroupId, at: usize, reason: Damage) -> Error {
        Error::DamagedEntry {
            group,
            id: self.id(at),
            path: self.segment.path.clone(),
            offset: self.rows[at].offset().unwrap_or(0),
            reason,
        }
    }
}

/// The tables that were read for the plan, by segment. They may be too large to be kept, and the plan needs all of them at
/// once: to read one when the other was just given up would never end.
type Loaded = BTreeMap<u64, Arc<Table>>;

impl Core {
    /// What is to be read for a range.
    pub(crate) fn plan(
        &self,
        group: GroupId,
        range: Range<Index>,
        bytes_max: u64,
    ) -> Result<Vec<Piece>> {
        let mut loaded = Loaded::new();
        loop {
            let mut shared = self.pipeline.shared();
            let mut plan = Plan {
                shared: &mut shared,
                group,
                loaded: &loaded,
                bytes_max,
                bytes: 0,
                entries: 0,
                is_full: false,
                pieces: Vec::new(),
            };
            let missing = plan.range(range.clone())?;
            let pieces = plan.pieces;
            drop(shared);
            let Some(segment) = missing else {
                return Ok(pieces);
            };
            let table = Arc::new(Table::load(&segment)?);
            let number = segment.header.number;
            self.pipeline.shared().tables.insert(number, table.clone());
            loaded.insert(number, table);
        }
    }
}

struct Plan<'a> {
    shared: &'a mut Shared,
    group: GroupId,
    loaded: &'a Loaded,
    bytes_max: u64,
    bytes: u64,
    entries: usize,
    /// No more is wanted.
    is_full: bool,
    pieces: Vec<Piece>,
}

impl Plan<'_> {
    /// Plans a range, or gives a segment whose table is needed for it.
    fn range(&mut self, range: Range<Index>) -> Result<Option<Arc<Segment>>> {
        let mut index = range.start;
        while index < range.end && !self.is_full {
            let Some(group) = self.shared.groups.find(self.group) else {
                return Err(Error::misuse(self.group, Misuse::UnknownGroup));
            };
            let Some(extent) = group.find(index) else {
                return Err(Error::misuse(self.group, group.missing(index)));
            };
            let last = extent.last().min(range.end.prev());
            let id = LogId {
                term: extent.term,
                index,
            };
            if extent.suspect {
                let group = self.group;
                return Err(Error::Suspect { group, id });
            }
            match extent.place {
                Place::Pending { .. } => {
                    let extent = Extent {
                        rows: Default::default(),
                        ..*extent
                    };
                    index = self.pending(&extent, index, last)?;
                }
                Place::Written { segment } => match self.written(segment, index, last)? {
                    Ok(next) => index = next,
                    Err(segment) => return Ok(Some(segment)),
                },
                Place::Gone => unreachable!("a log with entries that are gone is not opened"),
            }
        }
        Ok(None)
    }

    /// Whether an entry of so many bytes is still wanted.
    fn wants(&mut self, bytes: u64) -> bool {
        self.is_full = self.entries > 0 && self.bytes + bytes > self.bytes_max;
        if !self.is_full {
            self.entries += 1;
            self.bytes += bytes;
        }
        !self.is_full
    }

    fn pending(&mut self, extent: &Extent, from: Index, last: Index) -> Result<Index> {
        for index in (from.0..=last.0).map(Index) {
            let term = extent.term;
            let id = LogId { term, index };
            let number = extent.number(index).filter(|_| extent.how != How::Lost);
            // Without a number it is lost, and its record is not written yet.
            let number = number.ok_or_else(|| self.lost(id))?;
            let payload = self.shared.memory.pending(number);
            if !self.wants(payload.len() as u64) {
                break;
            }
            self.pieces.push(Piece::Memory(Entry {
                id,
                context: extent.context,
                payload,
            }));
        }
        Ok(last.next())
    }

    /// Plans entries of one extent in a segment. Gives the index to go on with, or the segment if its table is needed.
    fn written(
        &mut self,
        number: u64,
        from: Index,
        last: Index,
    ) -> Result<std::result::Result<Index, Arc<Segment>>> {
        let Shared {
            groups,
            segments,
            tables,
            ..
        } = &mut *self.shared;
        let segment = segments.get(&number);
        let segment = segment
            .expect("a segment with live entries is open")
            .clone();
        let group = groups.find(self.group);
        let extent = group.and_then(|group| group.find(from));
        let extent = extent.expect("it was just found");
        let (term, context) = (extent.term, extent.context);
        let count = (last.0 - from.0 + 1) as usize;
        let rows: Vec<Row> = match extent.rows.is_empty() {
            false => {
                let skipped = (from.0 - extent.first.0) as usize;
                extent
                    .rows
                    .iter()
                    .skip(skipped)
                    .take(count)
                    .copied()
                    .collect()
            }
            true => {
                let loaded = self.loaded.get(&number).cloned();
                let Some(table) = loaded.or_else(|| tables.find(number)) else {
                    return Ok(Err(segment));
                };
                table.find_row(&segment, self.group, from)?;
                let rows = table.rows(self.group, from).take(count);
                rows.copied().collect()
            }
        };
        let next = Index(from.0 + rows.len() as u64);
        self.rows(&segment, LogId { term, index: from }, context, rows);
        Ok(Ok(next))
    }

    fn rows(&mut self, segment: &Arc<Segment>, first: LogId, context: Context, rows: Vec<Row>) {
        let number = segment.header.number;
        let is_sealed = self.shared.is_sealed(number);
        let mut piece: Option<DiskPiece> = None;
        for (row, index) in rows.into_iter().zip(first.index.0..) {
            let index = Index(index);
            if !self.wants(row.meta.payload_bytes.into()) {
                break;
            }
            let id = LogId { index, ..first };
            let memory = &self.shared.memory;
            let offset = row.offset();
            let recent = offset.and_then(|at| memory.recent(number, at, row.meta.payload_bytes));
            if let Some(payload) = recent {
                self.pieces.extend(piece.take().map(Piece::Disk));
                self.pieces.push(Piece::Memory(Entry {
                    id,
                    context,
                    payload,
                }));
                continue;
            }
            let piece = piece.get_or_insert_with(|| DiskPiece {
                segment: segment.clone(),
                is_sealed,
                first: id,
                context,
                rows: Vec::new(),
            });
            piece.rows.push(row);
        }
        self.pieces.extend(piece.map(Piece::Disk));
    }

    fn lost(&self, id: LogId) -> Error {
        let path = self.shared.segments.values().next().map(|s| s.path.clone());
        Error::DamagedEntry {
            group: self.group,
            id,
            path: path.unwrap_or_default(),
            offset: 0,
            reason: Damage::Lost,
        }
    }
}
