//! Reading, from any number of threads while writes go on.
//!
//! What to read is looked up under the lock; the disk is read without it. A segment that is freed meanwhile stays readable
//! for whoever holds it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Damage, Error, Misuse, Result};
use crate::group::{Group, Place, Row};
use crate::pipeline::Shared;
use crate::record::{How, entry_checksum};
use crate::segment::Segment;
use crate::table::Table;
use crate::types::{Entry, GroupId, HardState, Index, LogId, Term};
use crate::{Core, Wal};

/// Reads answer for what was submitted, durable or not; after a failure, for what is durable.
impl Wal {
    /// The groups that the log holds, in ascending order.
    pub fn groups(&self) -> Vec<GroupId> {
        let mut groups: Vec<GroupId> =
            self.shared(|shared| shared.groups.iter().map(|(id, _)| id).collect());
        groups.sort_unstable();
        groups
    }

    /// A group's term and vote. Term 0 and no vote for a group that was never written to.
    pub fn hard_state(&self, group: GroupId) -> HardState {
        self.shared(|shared| {
            let found = shared.groups.find(group);
            found.map_or(HardState::default(), |group| group.hard_state)
        })
    }

    /// A group's user record; empty if it has none.
    pub fn user_record(&self, group: GroupId) -> Bytes {
        self.shared(|shared| {
            let found = shared.groups.find(group);
            found.map_or(Bytes::new(), |group| group.user_record.clone())
        })
    }

    /// The LogId of a group's last entry; the last one that was purged if it has none, zero if it never had any.
    pub fn last(&self, group: GroupId) -> LogId {
        self.shared(|shared| {
            shared
                .groups
                .find(group)
                .map_or(LogId::default(), |group| group.last())
        })
    }

    /// The LogId up to which a group's log, as readers see it, is durable. It goes back when entries are replaced.
    pub fn durable(&self, group: GroupId) -> LogId {
        self.shared(|shared| {
            let found = shared.groups.find(group);
            found.map_or(LogId::default(), Group::durable)
        })
    }

    /// The last entry that was purged; zero if none was. The group's entries begin right after it.
    pub fn purged(&self, group: GroupId) -> LogId {
        self.shared(|shared| {
            let found = shared.groups.find(group);
            found.map_or(LogId::default(), |group| group.purged)
        })
    }

    /// The first entry of a group that is suspect, if one is: see [`Options::keep_suspects`](crate::Options::keep_suspects).
    pub fn suspect(&self, group: GroupId) -> Option<Index> {
        self.shared(|shared| shared.groups.find(group)?.first_suspect())
    }

    /// The term of an entry, if it is there.
    pub fn term(&self, group: GroupId, index: Index) -> Option<Term> {
        self.shared(|shared| Some(shared.groups.find(group)?.find(index)?.term))
    }

    /// Reads the entries of `range`, up to `bytes_max` bytes of payload, but at least one if the range is not empty.
    ///
    /// Each is checked against its checksum, unless it is still in memory.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the range is not in the log, [`Error::DamagedEntry`], [`Error::Suspect`], [`Error::Io`];
    /// [`Error::DamagedDirectory`] if all copies of what says where it is are damaged.
    pub fn entries(
        &self,
        group: GroupId,
        range: Range<Index>,
        bytes_max: u64,
    ) -> Result<Vec<Entry>> {
        let core = &self.handle.core;
        let plan = core.plan(group, range, bytes_max)?;
        let read = read(group, &plan);
        if let Err(Error::DamagedEntry { .. }) = read {
            core.pipeline.shared().counts.damage_found += 1;
        }
        read
    }

    fn shared<T>(&self, look: impl FnOnce(&Shared) -> T) -> T {
        look(&self.handle.core.pipeline.shared())
    }
}

/// An entry that is to be read.
pub(crate) struct Planned {
    pub(crate) entry: Entry,
    /// Where its payload is, if that is not in memory.
    pub(crate) place: Option<(Arc<Segment>, Row)>,
}

impl Planned {
    fn damaged(&self, group: GroupId, segment: &Segment, offset: u64, reason: Damage) -> Error {
        Error::DamagedEntry {
            group,
            id: self.entry.id,
            path: segment.path.clone(),
            offset,
            reason,
        }
    }
}

/// Where a payload is.
enum Payload {
    Memory(Bytes),
    Disk(Arc<Segment>, Row),
    /// In a segment whose table is missing.
    Unknown(Arc<Segment>),
}

/// Contiguous payloads are read together, up to so many bytes.
const PIECE_BYTES: u64 = 1 << 20;

impl Core {
    /// What is to be read for a range.
    pub(crate) fn plan(
        &self,
        group: GroupId,
        range: Range<Index>,
        bytes_max: u64,
    ) -> Result<Vec<Planned>> {
        let mut loaded = None;
        loop {
            let mut shared = self.pipeline.shared();
            let segment = match plan(&mut shared, group, range.clone(), bytes_max, &loaded)? {
                Ok(planned) => return Ok(planned),
                Err(segment) => segment,
            };
            drop(shared);
            let table = Arc::new(Table::load(&segment)?);
            let number = segment.header.number;
            self.pipeline.shared().tables.insert(number, table.clone());
            loaded = Some((number, table));
        }
    }
}

/// Looks up what is to be read, or a segment whose table is needed for it. `loaded` is a table that may be too large to be
/// kept.
fn plan(
    shared: &mut Shared,
    id: GroupId,
    range: Range<Index>,
    bytes_max: u64,
    loaded: &Option<(u64, Arc<Table>)>,
) -> Result<std::result::Result<Vec<Planned>, Arc<Segment>>> {
    let mut planned: Vec<Planned> = Vec::new();
    let mut bytes = 0;
    for index in (range.start.0..range.end.0).map(Index) {
        let Some(group) = shared.groups.find(id) else {
            return Err(Error::misuse(id, Misuse::UnknownGroup));
        };
        let Some(extent) = group.find(index) else {
            let last = group.last().index;
            return Err(Error::misuse(id, Misuse::NoSuchEntry { index, last }));
        };
        let (context, term) = (extent.context, extent.term);
        let log_id = LogId { term, index };
        if extent.suspect {
            return Err(Error::Suspect {
                group: id,
                id: log_id,
            });
        }
        let (place, row) = (extent.place, extent.row(index));
        let number = extent.number(index).filter(|_| extent.how != How::Lost);
        let found = match place {
            Place::Written { segment } => written(shared, id, index, segment, row, loaded)?,
            // Without a number it is lost, and its record is not written yet.
            Place::Pending { .. } => match number {
                Some(number) => Payload::Memory(shared.memory.pending(number)),
                None => return Err(lost(shared, id, log_id)),
            },
            Place::Gone => unreachable!("a log with entries that are gone is not opened"),
        };
        let (payload, place) = match found {
            Payload::Memory(payload) => (payload, None),
            Payload::Disk(segment, row) => (Bytes::new(), Some((segment, row))),
            Payload::Unknown(segment) => return Ok(Err(segment)),
        };
        let payload_bytes = place.as_ref().map(|(_, row)| row.meta.payload_bytes);
        bytes += payload_bytes.map_or(payload.len() as u64, u64::from);
        if bytes > bytes_max && !planned.is_empty() {
            break;
        }
        let entry = Entry {
            id: log_id,
            context,
            payload,
        };
        planned.push(Planned { entry, place });
    }
    Ok(Ok(planned))
}

/// The payload of an entry that is written. `row` is that of a segment that is not sealed.
fn written(
    shared: &mut Shared,
    group: GroupId,
    index: Index,
    number: u64,
    row: Option<Row>,
    loaded: &Option<(u64, Arc<Table>)>,
) -> Result<Payload> {
    let segment = shared.segments.get(&number);
    let segment = segment.expect("a segment with live entries is open");
    let row = match row {
        Some(row) => row,
        None => {
            let loaded = loaded.as_ref().filter(|(loaded, _)| *loaded == number);
            let loaded = loaded.map(|(_, table)| table.clone());
            let Some(table) = loaded.or_else(|| shared.tables.find(number)) else {
                return Ok(Payload::Unknown(segment.clone()));
            };
            table.find_row(segment, group, index)?
        }
    };
    let recent = row.offset().and_then(|offset| {
        let memory = &shared.memory;
        memory.recent(number, offset, row.meta.payload_bytes)
    });
    Ok(match recent {
        Some(payload) => Payload::Memory(payload),
        None => Payload::Disk(segment.clone(), row),
    })
}

fn lost(shared: &Shared, group: GroupId, id: LogId) -> Error {
    let path = shared.segments.values().next().map(|s| s.path.clone());
    Error::DamagedEntry {
        group,
        id,
        path: path.unwrap_or_default(),
        offset: 0,
        reason: Damage::Lost,
    }
}

/// Reads what was planned.
pub(crate) fn read(group: GroupId, plan: &[Planned]) -> Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(plan.len());
    let mut rest = plan;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(piece_len(rest));
        read_piece(group, piece, &mut entries)?;
        rest = after;
    }
    Ok(entries)
}

/// How many of the first entries lie one after the other.
fn piece_len(planned: &[Planned]) -> usize {
    let mut bytes = 0;
    let mut end = None;
    let joins = |planned: &&Planned| {
        let Some((segment, row)) = &planned.place else {
            return false;
        };
        let Some(offset) = row.offset() else {
            return false;
        };
        let number = segment.header.number;
        let len = u64::from(row.meta.payload_bytes);
        let fits = end.is_none_or(|end| end == (number, offset) && bytes + len <= PIECE_BYTES);
        bytes += len;
        end = Some((number, offset + len));
        fits
    };
    planned.iter().take_while(joins).count().max(1)
}

/// Reads entries that lie one after the other, or one that is in memory.
fn read_piece(group: GroupId, piece: &[Planned], entries: &mut Vec<Entry>) -> Result<()> {
    let Some((segment, first)) = &piece[0].place else {
        entries.push(piece[0].entry.clone());
        return Ok(());
    };
    let Some(offset) = first.offset() else {
        return Err(piece[0].damaged(group, segment, 0, Damage::Lost));
    };
    let rows = || piece.iter().flat_map(|planned| &planned.place);
    let len: u64 = rows()
        .map(|(_, row)| u64::from(row.meta.payload_bytes))
        .sum();
    let mut buf = vec![0; len as usize];
    let read = segment.file.read_exact_at(&mut buf, offset);
    read.map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            piece[0].damaged(group, segment, offset, Damage::Short)
        }
        _ => Error::io("read", &segment.path)(error),
    })?;
    let mut payloads = Bytes::from(buf);
    for (planned, (_, row)) in piece.iter().zip(rows()) {
        let payload = payloads.split_to(row.meta.payload_bytes as usize);
        if entry_checksum(group, planned.entry.id, &payload) != row.meta.checksum {
            let offset = row.offset().unwrap_or(0);
            return Err(planned.damaged(group, segment, offset, Damage::Checksum));
        }
        let entry = planned.entry.clone();
        entries.push(Entry { payload, ..entry });
    }
    Ok(())
}
