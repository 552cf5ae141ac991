//! The records of a directory: what a frame does to the groups, without the payloads.
//!
//! ```text
//! record, at a multiple of 8
//!      0  kind                  1
//!      1  context bytes         1     at most 31
//!      2  flags                 2     1: of the same group as the record before, and the group is left out
//!      4  count or bytes        4
//!      8  [group                8]
//!
//!   then by kind
//!      1 entries      first index 8, term 8, context, for each: payload bytes 4, checksum 4
//!      2 hard state   term 8, voted for 8 (count: 0 nobody, 1 somebody), context
//!      3 truncate     index 8, term 8: the last entry that stays
//!      4 purge        index 8, term 8: the last entry that goes
//!      5 user record  bytes
//!      6 remove
//!      7 state        purged index 8, term 8, last index 8, term 8; in a segment's first frame, once for each group
//!      8 resume       epoch before 8; the first record after an `open`
//! ```
//!
//! Context and bytes are padded with zeros to a multiple of 8. The checksum of an entry covers its group, index, term and
//! payload.

use bytes::{Buf, BufMut, Bytes};
use crc32fast::Hasher;

use crate::error::Damage;
use crate::types::{Context, GroupId, HardState, Index, LogId, NodeId, Term};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// Consecutive entries of one term and context. They replace all from the first index on.
    Entries {
        group: GroupId,
        first: LogId,
        context: Context,
        entries: Vec<EntryMeta>,
    },
    HardState {
        group: GroupId,
        hard_state: HardState,
    },
    /// All after `last` goes.
    Truncate {
        group: GroupId,
        last: LogId,
    },
    /// All up to `last` goes. Past the end: the log is empty, and goes on after `last`.
    Purge {
        group: GroupId,
        last: LogId,
    },
    User {
        group: GroupId,
        bytes: Bytes,
    },
    Remove {
        group: GroupId,
    },
    State {
        group: GroupId,
        purged: LogId,
        last: LogId,
    },
    Resume {
        epoch_before: u64,
    },
}

/// What is known of an entry beside its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryMeta {
    pub(crate) payload_bytes: u32,
    pub(crate) checksum: u32,
}

const KIND_ENTRIES: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_TRUNCATE: u8 = 3;
const KIND_PURGE: u8 = 4;
const KIND_USER: u8 = 5;
const KIND_REMOVE: u8 = 6;
const KIND_STATE: u8 = 7;
const KIND_RESUME: u8 = 8;

const FLAG_SAME_GROUP: u16 = 1;

/// The checksum of an entry.
pub(crate) fn entry_checksum(group: GroupId, id: LogId, payload: &[u8]) -> u32 {
    let mut head = [0; 24];
    head[..8].copy_from_slice(&group.0.to_le_bytes());
    head[8..16].copy_from_slice(&id.index.0.to_le_bytes());
    head[16..].copy_from_slice(&id.term.0.to_le_bytes());
    let mut hasher = Hasher::new();
    hasher.update(&head);
    hasher.update(payload);
    hasher.finalize()
}

impl Record {
    pub(crate) fn group(&self) -> Option<GroupId> {
        match self {
            Record::Entries { group, .. }
            | Record::HardState { group, .. }
            | Record::Truncate { group, .. }
            | Record::Purge { group, .. }
            | Record::User { group, .. }
            | Record::Remove { group }
            | Record::State { group, .. } => Some(*group),
            Record::Resume { .. } => None,
        }
    }

    /// How many bytes of payload belong to it.
    pub(crate) fn payload_bytes(&self) -> u64 {
        match self {
            Record::Entries { entries, .. } => entries
                .iter()
                .map(|entry| u64::from(entry.payload_bytes))
                .sum(),
            _ => 0,
        }
    }

    /// The most bytes that [`encode`] makes of it.
    pub(crate) fn encoded_bytes_max(&self) -> u64 {
        16 + match self {
            Record::Entries { entries, .. } => 16 + 32 + 8 * entries.len() as u64,
            Record::HardState { .. } => 16 + 32,
            Record::User { bytes, .. } => (bytes.len() as u64).next_multiple_of(8),
            Record::State { .. } => 32,
            Record::Purge { .. } | Record::Truncate { .. } => 16,
            Record::Resume { .. } => 8,
            Record::Remove { .. } => 0,
        }
    }

    fn head(&self) -> (u8, Context, u32) {
        match self {
            Record::Entries {
                context, entries, ..
            } => (KIND_ENTRIES, *context, entries.len() as u32),
            Record::HardState { hard_state, .. } => (
                KIND_HARD_STATE,
                hard_state.context,
                u32::from(hard_state.voted_for.is_some()),
            ),
            Record::Truncate { .. } => (KIND_TRUNCATE, Context::EMPTY, 0),
            Record::Purge { .. } => (KIND_PURGE, Context::EMPTY, 0),
            Record::User { bytes, .. } => (KIND_USER, Context::EMPTY, bytes.len() as u32),
            Record::Remove { .. } => (KIND_REMOVE, Context::EMPTY, 0),
            Record::State { .. } => (KIND_STATE, Context::EMPTY, 0),
            Record::Resume { .. } => (KIND_RESUME, Context::EMPTY, 0),
        }
    }
}

/// Appends records to `buf`, whose length is a multiple of 8 and stays one. `group` is that of the record before, and
/// becomes that of the last one.
pub(crate) fn encode(buf: &mut Vec<u8>, records: &[Record], group: &mut Option<GroupId>) {
    for record in records {
        let (kind, context, count) = record.head();
        let same_group = record.group().is_none() || record.group() == *group;
        buf.put_u8(kind);
        buf.put_u8(context.as_bytes().len() as u8);
        buf.put_u16_le(if same_group { FLAG_SAME_GROUP } else { 0 });
        buf.put_u32_le(count);
        if let Some(new) = record.group().filter(|_| !same_group) {
            buf.put_u64_le(new.0);
            *group = Some(new);
        }
        encode_body(buf, record);
        buf.put_bytes(0, buf.len().next_multiple_of(8) - buf.len());
    }
}

fn encode_body(buf: &mut Vec<u8>, record: &Record) {
    match record {
        Record::Entries {
            first,
            context,
            entries,
            ..
        } => {
            put_log_id(buf, *first);
            buf.put_slice(context.as_bytes());
            buf.put_bytes(0, buf.len().next_multiple_of(8) - buf.len());
            for entry in entries {
                buf.put_u32_le(entry.payload_bytes);
                buf.put_u32_le(entry.checksum);
            }
        }
        Record::HardState { hard_state, .. } => {
            buf.put_u64_le(hard_state.term.0);
            buf.put_u64_le(hard_state.voted_for.map_or(0, |node| node.0));
            buf.put_slice(hard_state.context.as_bytes());
        }
        Record::Truncate { last, .. } | Record::Purge { last, .. } => put_log_id(buf, *last),
        Record::User { bytes, .. } => buf.put_slice(bytes),
        Record::Remove { .. } => {}
        Record::State { purged, last, .. } => {
            put_log_id(buf, *purged);
            put_log_id(buf, *last);
        }
        Record::Resume { epoch_before } => buf.put_u64_le(*epoch_before),
    }
}

fn put_log_id(buf: &mut Vec<u8>, id: LogId) {
    buf.put_u64_le(id.index.0);
    buf.put_u64_le(id.term.0);
}

/// Reads all records of a directory, whose checksum was right: what does not make sense is a bug of the writer, and an
/// error all the same.
pub(crate) fn decode(records: &[u8]) -> Result<Vec<Record>, Damage> {
    let mut reader = Reader { rest: records };
    let mut group = None;
    let mut decoded = Vec::new();
    while !reader.rest.is_empty() {
        decoded.push(reader.record(&mut group)?);
    }
    Ok(decoded)
}

/// Whether so many entries can have consecutive indexes from `first` on, and another one after them.
pub(crate) fn are_indexes(first: Index, count: usize) -> bool {
    first.0 > 0 && count > 0 && first.0.checked_add(count as u64).is_some()
}

/// An entry can come after this one.
fn is_followed(last: LogId) -> Result<(), Damage> {
    match last.index.0 {
        u64::MAX => Err(Damage::Content),
        _ => Ok(()),
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn record(&mut self, group: &mut Option<GroupId>) -> Result<Record, Damage> {
        let head = self.u64()?.to_le_bytes();
        let [kind, context_bytes, flag, flag_high, ..] = head;
        let flags = u16::from_le_bytes([flag, flag_high]);
        let count = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if flags & FLAG_SAME_GROUP == 0 {
            *group = Some(GroupId(self.u64()?));
        }
        if kind == KIND_RESUME {
            let epoch_before = self.u64()?;
            return Ok(Record::Resume { epoch_before });
        }
        let group = group.ok_or(Damage::Content)?;
        match kind {
            KIND_ENTRIES => self.entries(group, context_bytes, count),
            KIND_HARD_STATE => self.hard_state(group, context_bytes, count),
            KIND_TRUNCATE => Ok(Record::Truncate {
                group,
                last: self.log_id()?,
            }),
            KIND_PURGE => {
                let last = self.log_id()?;
                is_followed(last)?;
                Ok(Record::Purge { group, last })
            }
            KIND_USER => {
                let bytes = Bytes::copy_from_slice(self.padded_bytes(count as usize)?);
                Ok(Record::User { group, bytes })
            }
            KIND_REMOVE => Ok(Record::Remove { group }),
            KIND_STATE => {
                let (purged, last) = (self.log_id()?, self.log_id()?);
                is_followed(last)?;
                match purged.index <= last.index {
                    true => Ok(Record::State {
                        group,
                        purged,
                        last,
                    }),
                    false => Err(Damage::Content),
                }
            }
            _ => Err(Damage::Content),
        }
    }

    fn entries(&mut self, group: GroupId, context_bytes: u8, count: u32) -> Result<Record, Damage> {
        let first = self.log_id()?;
        let context = self.context(context_bytes)?;
        let metas = self.padded_bytes((count as usize).checked_mul(8).ok_or(Damage::Content)?)?;
        if !are_indexes(first.index, count as usize) {
            return Err(Damage::Content);
        }
        let entries = metas.chunks_exact(8).map(|mut meta| EntryMeta {
            payload_bytes: meta.get_u32_le(),
            checksum: meta.get_u32_le(),
        });
        Ok(Record::Entries {
            group,
            first,
            context,
            entries: entries.collect(),
        })
    }

    fn hard_state(
        &mut self,
        group: GroupId,
        context_bytes: u8,
        count: u32,
    ) -> Result<Record, Damage> {
        let term = Term(self.u64()?);
        let node = NodeId(self.u64()?);
        let voted_for = match count {
            0 => None,
            1 => Some(node),
            _ => return Err(Damage::Content),
        };
        let context = self.context(context_bytes)?;
        let hard_state = HardState {
            term,
            voted_for,
            context,
        };
        Ok(Record::HardState { group, hard_state })
    }

    fn context(&mut self, context_bytes: u8) -> Result<Context, Damage> {
        Context::new(self.padded_bytes(context_bytes.into())?).ok_or(Damage::Content)
    }

    fn log_id(&mut self) -> Result<LogId, Damage> {
        Ok(LogId {
            index: Index(self.u64()?),
            term: Term(self.u64()?),
        })
    }

    fn u64(&mut self) -> Result<u64, Damage> {
        self.rest.try_get_u64_le().map_err(|_| Damage::Content)
    }

    fn padded_bytes(&mut self, len: usize) -> Result<&[u8], Damage> {
        let padded = len.checked_next_multiple_of(8).ok_or(Damage::Content)?;
        let (taken, rest) = self.rest.split_at_checked(padded).ok_or(Damage::Content)?;
        self.rest = rest;
        Ok(&taken[..len])
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn log_id() -> impl Strategy<Value = LogId> {
        (1..u64::MAX / 2, any::<u64>()).prop_map(|(index, term)| LogId {
            term: Term(term),
            index: Index(index),
        })
    }

    fn context() -> impl Strategy<Value = Context> {
        vec(any::<u8>(), 0..=Context::BYTES_MAX).prop_map(|bytes| Context::new(&bytes).unwrap())
    }

    fn record() -> impl Strategy<Value = Record> {
        let group = (0..3_u64).prop_map(GroupId);
        let meta = any::<(u32, u32)>().prop_map(|(payload_bytes, checksum)| EntryMeta {
            payload_bytes,
            checksum,
        });
        prop_oneof![
            (group.clone(), log_id(), context(), vec(meta, 1..5)).prop_map(
                |(group, first, context, entries)| Record::Entries {
                    group,
                    first,
                    context,
                    entries
                }
            ),
            (group.clone(), any::<u64>(), any::<Option<u64>>(), context()).prop_map(
                |(group, term, node, context)| {
                    let voted_for = node.map(NodeId);
                    let hard_state = HardState {
                        term: Term(term),
                        voted_for,
                        context,
                    };
                    Record::HardState { group, hard_state }
                }
            ),
            (group.clone(), log_id()).prop_map(|(group, last)| Record::Truncate { group, last }),
            (group.clone(), log_id()).prop_map(|(group, last)| Record::Purge { group, last }),
            (group.clone(), vec(any::<u8>(), 0..20)).prop_map(|(group, bytes)| Record::User {
                group,
                bytes: bytes.into()
            }),
            group.clone().prop_map(|group| Record::Remove { group }),
            (group, log_id(), log_id()).prop_map(|(group, one, other)| {
                let in_order = one.index <= other.index;
                let (purged, last) = if in_order { (one, other) } else { (other, one) };
                Record::State {
                    group,
                    purged,
                    last,
                }
            }),
            any::<u64>().prop_map(|epoch_before| Record::Resume { epoch_before }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(records in vec(record(), 0..8)) {
            let mut buf = Vec::new();
            encode(&mut buf, &records, &mut None);
            prop_assert_eq!(buf.len() % 8, 0);
            let most: u64 = records.iter().map(Record::encoded_bytes_max).sum();
            prop_assert!(buf.len() as u64 <= most);
            prop_assert_eq!(decode(&buf), Ok(records));
        }

        #[test]
        fn any_bytes_are_records_or_an_error(bytes in vec(prop_oneof![any::<u8>(), 0..9_u8], 0..200)) {
            let _ = decode(&bytes);
        }
    }

    /// Contract: ids cost at most 8 bytes an entry and 24 a run of terms (and 8 where the group changes).
    #[test]
    fn ids_are_small() {
        let group = GroupId(1);
        let first = LogId {
            term: Term(1),
            index: Index(1),
        };
        let entries = vec![
            EntryMeta {
                payload_bytes: 1,
                checksum: 2
            };
            100
        ];
        let run = Record::Entries {
            group,
            first,
            context: Context::EMPTY,
            entries,
        };
        let mut buf = Vec::new();
        encode(&mut buf, &[run], &mut Some(group));
        assert_eq!(buf.len(), 24 + 8 * 100);
    }
}
