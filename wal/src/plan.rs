//! What to read for a range of entries: looked up under the lock, in pieces that lie in one segment.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};

use crate::Core;
use crate::error::{Damage, Error, Misuse, Result};
use crate::pipeline::Shared;
use crate::record::How;
use crate::rows::{Row, Where};
use crate::segment::Segment;
use crate::table::Table;
use crate::types::{Context, Entry, GroupId, Index, LogId};

/// Most reads are of one.
pub(crate) type Pieces = SmallVec<[Piece; 1]>;

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
    pub(crate) rows: SmallVec<[Row; 1]>,
}

impl DiskPiece {
    pub(crate) fn id(&self, at: usize) -> LogId {
        let index = Index(self.first.index.0 + at as u64);
        LogId {
            index,
            ..self.first
        }
    }

    /// Whether an entry, the next one of the group, can become part of it.
    fn goes_on_with(&self, next: Head, segment: &Arc<Segment>) -> bool {
        let same = (self.first.term, self.context) == (next.id.term, next.context);
        same && Arc::ptr_eq(&self.segment, segment) && self.id(self.rows.len()) == next.id
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
    ) -> Result<Pieces> {
        let mut loaded = Loaded::new();
        loop {
            let mut shared = self.pipeline.shared();
            let mut plan = Plan {
                shared: &mut shared,
                group,
                loaded: &loaded,
                wanted: Wanted {
                    bytes_max,
                    bytes: 0,
                    is_full: false,
                    pieces: SmallVec::new(),
                },
            };
            let missing = plan.range(range.clone())?;
            let pieces = plan.wanted.pieces;
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
    wanted: Wanted,
}

/// What was found so far.
struct Wanted {
    bytes_max: u64,
    bytes: u64,
    /// No more is wanted.
    is_full: bool,
    pieces: Pieces,
}

/// What is known of an entry before its payload is.
#[derive(Clone, Copy)]
struct Head {
    id: LogId,
    context: Context,
}

impl Head {
    fn at(self, index: Index) -> Head {
        let id = LogId { index, ..self.id };
        Head { id, ..self }
    }
}

impl Plan<'_> {
    /// Plans a range, or gives a segment whose table is needed for it.
    fn range(&mut self, range: Range<Index>) -> Result<Option<Arc<Segment>>> {
        let mut index = range.start;
        while index < range.end && !self.wanted.is_full {
            let groups = &self.shared.groups;
            let Some(group) = groups.find(self.group) else {
                return Err(Error::misuse(self.group, Misuse::UnknownGroup));
            };
            let Some(extent) = group.find(index) else {
                return Err(Error::misuse(self.group, group.missing(index)));
            };
            let last = extent.last().min(range.end.prev());
            let term = extent.term;
            let id = LogId { term, index };
            if extent.suspect {
                let group = self.group;
                return Err(Error::Suspect { group, id });
            }
            let context = extent.context;
            let head = Head { id, context };
            match groups.rows.find(extent, index) {
                Where::Pending { .. } | Where::Tail { .. } => index = self.numbered(head, last)?,
                Where::Table { segment } => match self.in_table(segment, head, last)? {
                    Ok(next) => index = next,
                    Err(segment) => return Ok(Some(segment)),
                },
                Where::Gone => unreachable!("a log with entries that are gone is not opened"),
            }
        }
        Ok(None)
    }

    /// Plans entries of one extent from `first` on that are in no table. Gives the index to go on with.
    fn numbered(&mut self, first: Head, last: Index) -> Result<Index> {
        let shared = &*self.shared;
        let group = shared.groups.find(self.group);
        let extent = group.and_then(|group| group.find(first.id.index));
        let extent = extent.expect("it was just found");
        for index in (first.id.index.0..=last.0).map(Index) {
            let head = first.at(index);
            match shared.groups.rows.find(extent, index) {
                Where::Pending { .. } if extent.how == How::Lost => return Err(self.lost(head.id)),
                Where::Pending { number } => {
                    let payload = shared.memory.numbered(number);
                    let payload = payload.expect("what is not written is in memory");
                    if self.wanted.wants(payload.len() as u64) {
                        self.wanted.put_payload(head, payload);
                    }
                }
                Where::Tail {
                    segment,
                    row,
                    number,
                } => {
                    let segment = shared.segments.get(&segment).expect(IS_OPEN);
                    let recent = row.offset().and_then(|_| shared.memory.numbered(number));
                    self.wanted.put_row(head, row, recent, segment, false);
                }
                Where::Table { .. } | Where::Gone => return Ok(index),
            }
            if self.wanted.is_full {
                break;
            }
        }
        Ok(last.next())
    }

    /// Plans entries of one extent from `first` on that are in the table of a segment. Gives the index to go on with, or the
    /// segment if its table is not here.
    fn in_table(
        &mut self,
        number: u64,
        first: Head,
        last: Index,
    ) -> Result<std::result::Result<Index, Arc<Segment>>> {
        let is_sealed = self.shared.is_sealed(number);
        let Shared {
            segments,
            tables,
            memory,
            ..
        } = &mut *self.shared;
        let segment = segments.get(&number).expect(IS_OPEN);
        let Some(table) = self.loaded.get(&number).or_else(|| tables.find(number)) else {
            return Ok(Err(segment.clone()));
        };
        let index = first.id.index;
        let rows = table.find_rows(segment, self.group, index)?;
        let mut next = index;
        for (row, at) in rows.iter().zip(index.0..=last.0) {
            let head = first.at(Index(at));
            let len = row.meta.payload_bytes;
            let recent = row.offset().and_then(|at| memory.recent(number, at, len));
            self.wanted.put_row(head, *row, recent, segment, is_sealed);
            if self.wanted.is_full {
                break;
            }
            next = head.id.index.next();
        }
        Ok(Ok(next))
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

const IS_OPEN: &str = "a segment with live entries is open";

impl Wanted {
    /// Whether an entry of so many bytes is still wanted.
    fn wants(&mut self, bytes: u64) -> bool {
        self.is_full = !self.pieces.is_empty() && self.bytes + bytes > self.bytes_max;
        if !self.is_full {
            self.bytes += bytes;
        }
        !self.is_full
    }

    fn put_payload(&mut self, head: Head, payload: Bytes) {
        let Head { id, context } = head;
        self.pieces.push(Piece::Memory(Entry {
            id,
            context,
            payload,
        }));
    }

    /// An entry that is in a segment, and perhaps in memory too.
    fn put_row(
        &mut self,
        head: Head,
        row: Row,
        recent: Option<Bytes>,
        segment: &Arc<Segment>,
        is_sealed: bool,
    ) {
        if !self.wants(row.meta.payload_bytes.into()) {
            return;
        }
        if let Some(payload) = recent {
            return self.put_payload(head, payload);
        }
        if let Some(Piece::Disk(piece)) = self.pieces.last_mut()
            && piece.goes_on_with(head, segment)
        {
            return piece.rows.push(row);
        }
        self.pieces.push(Piece::Disk(DiskPiece {
            segment: segment.clone(),
            is_sealed,
            first: head.id,
            context: head.context,
            rows: smallvec![row],
        }));
    }
}
