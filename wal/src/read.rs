//! Reading, from any number of threads while writes go on.
//!
//! What to read is looked up under the lock; the disk is read without it. A segment that is freed meanwhile stays readable
//! for whoever holds it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::Wal;
use crate::error::{Damage, Error, Misuse, Result};
use crate::groups::Source;
use crate::pipeline::Shared;
use crate::record::{EntryMeta, entry_checksum};
use crate::segment::Segment;
use crate::types::{Entry, GroupId, HardState, Index, LogId, Term};

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

    /// The last entry that was purged; zero if none was. The group's entries begin right after it.
    pub fn purged(&self, group: GroupId) -> LogId {
        self.shared(|shared| {
            shared
                .groups
                .find(group)
                .map_or(LogId::default(), |group| group.purged())
        })
    }

    /// The term of an entry, if it is there.
    pub fn term(&self, group: GroupId, index: Index) -> Option<Term> {
        self.shared(|shared| {
            let (id, _) = shared.groups.find(group)?.id(index)?;
            Some(id.term)
        })
    }

    /// Reads the entries of `range`, up to `bytes_max` bytes of payload, but at least one if the range is not empty.
    ///
    /// Each is checked against its checksum.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the range is not in the log, [`Error::Damaged`], [`Error::Io`].
    pub fn entries(
        &self,
        group: GroupId,
        range: Range<Index>,
        bytes_max: u64,
    ) -> Result<Vec<Entry>> {
        let plan = self.shared(|shared| plan(shared, group, range, bytes_max))?;
        let mut entries = Vec::with_capacity(plan.len());
        let mut rest = &plan[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece_len(rest));
            read_piece(group, piece, &mut entries)?;
            rest = after;
        }
        Ok(entries)
    }

    fn shared<T>(&self, look: impl FnOnce(&Shared) -> T) -> T {
        look(&self.handle.core.pipeline.shared())
    }
}

/// An entry that is to be read.
struct Planned {
    entry: Entry,
    meta: EntryMeta,
    place: Option<(Arc<Segment>, u64)>,
}

/// Contiguous payloads are read together, up to so many bytes.
const PIECE_BYTES: u64 = 1 << 20;

fn plan(shared: &Shared, id: GroupId, range: Range<Index>, bytes_max: u64) -> Result<Vec<Planned>> {
    let mut planned = Vec::new();
    let mut bytes = 0;
    for index in (range.start.0..range.end.0).map(Index) {
        let group = shared.groups.find(id);
        let found = group.and_then(|group| Some((group.slot(index)?, group.id(index)?)));
        let Some((slot, (log_id, context))) = found else {
            let last = group.map_or(Index(0), |group| group.last().index);
            return Err(Error::misuse(id, Misuse::NoSuchEntry { index, last }));
        };
        bytes += u64::from(slot.meta.payload_bytes);
        if bytes > bytes_max && !planned.is_empty() {
            break;
        }
        let (payload, place) = match slot.source {
            Source::Pending { number } => (shared.pending(number), None),
            Source::Written { segment, offset } => {
                let segment = shared
                    .segments
                    .get(&segment)
                    .expect("a segment with live entries is open");
                (Bytes::new(), Some((segment.clone(), offset)))
            }
        };
        planned.push(Planned {
            entry: Entry {
                id: log_id,
                context,
                payload,
            },
            meta: slot.meta,
            place,
        });
    }
    Ok(planned)
}

/// How many of the first entries lie one after the other.
fn piece_len(planned: &[Planned]) -> usize {
    let mut bytes = 0;
    let mut end = None;
    let joins = |planned: &&Planned| {
        let Some((segment, offset)) = &planned.place else {
            return false;
        };
        let here = (segment.header.number, *offset);
        let len = u64::from(planned.meta.payload_bytes);
        let fits = end.is_none_or(|end| end == here && bytes + len <= PIECE_BYTES);
        bytes += len;
        end = Some((here.0, here.1 + len));
        fits
    };
    planned.iter().take_while(joins).count().max(1)
}

/// Reads entries that lie one after the other, or one that is in memory.
fn read_piece(group: GroupId, piece: &[Planned], entries: &mut Vec<Entry>) -> Result<()> {
    let Some((segment, offset)) = &piece[0].place else {
        entries.push(piece[0].entry.clone());
        return Ok(());
    };
    let len: u64 = piece
        .iter()
        .map(|planned| u64::from(planned.meta.payload_bytes))
        .sum();
    let mut buf = vec![0; len as usize];
    segment
        .file
        .read_exact_at(&mut buf, *offset)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::damaged(&segment.path, *offset, Damage::Short)
            }
            _ => Error::io("read", &segment.path)(error),
        })?;
    let mut payloads = Bytes::from(buf);
    for planned in piece {
        let payload = payloads.split_to(planned.meta.payload_bytes as usize);
        if entry_checksum(group, planned.entry.id, &payload) != planned.meta.checksum {
            let offset = planned.place.as_ref().map_or(0, |(_, offset)| *offset);
            return Err(Error::damaged(&segment.path, offset, Damage::Checksum));
        }
        entries.push(Entry {
            payload,
            ..planned.entry.clone()
        });
    }
    Ok(())
}
