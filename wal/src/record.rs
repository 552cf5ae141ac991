//! The records of a directory: what a frame does to the groups, without the payloads.
//!
//! ```text
//! record, at a multiple of 8
//!      0  kind                  1
//!      1  context bytes         1     at most 31
//!      2  flags                 2     1: of the same group as the record before, and the group is left out
//!                                     2: moved, 4: lost (kinds 1 and 9)
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
//!      9 range        first index 8, term 8, payload bytes 8, context; in a seal's summary
//!     10 suspect      first index 8, entries 8; after a resume or a state
//! ```
//!
//! Context and bytes are padded with zeros to a multiple of 8. The checksum of an entry covers its group, index, term and
//! payload.
//!
//! Entries that are *moved* were there before and are unchanged: they stand here from now on, so that an older segment can
//! be freed. Entries that are *lost* are moved without their payloads, which are damaged and stand nowhere any more.

use bytes::{Buf, BufMut, Bytes};
use crc32fast::Hasher;
use smallvec::SmallVec;

use crate::error::Damage;
use crate::types::{Context, GroupId, HardState, Index, LogId, NodeId, Term};

/// Changes, in order.
///
/// Invariant: `metas` holds the entries of all runs, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) list: SmallVec<[Record; 1]>,
    pub(crate) metas: Metas,
}

pub(crate) type Metas = SmallVec<[EntryMeta; 1]>;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// If they are appended, they replace all from the first index on.
    Entries(Run),
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
    /// Entries that a sealed segment holds, as of its end.
    Range {
        run: Run,
        bytes: u64,
    },
    /// Entries that are kept though they may never have been written whole.
    Suspect {
        group: GroupId,
        first: Index,
        count: u64,
    },
}

/// Consecutive entries of one term and context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) group: GroupId,
    pub(crate) how: How,
    pub(crate) first: LogId,
    pub(crate) context: Context,
    pub(crate) count: u32,
}

/// How entries came to where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Appended,
    Moved,
    /// Moved, without payloads.
    Lost,
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
const KIND_RANGE: u8 = 9;
const KIND_SUSPECT: u8 = 10;

const FLAG_SAME_GROUP: u16 = 1;
const FLAG_MOVED: u16 = 2;
const FLAG_LOST: u16 = 4;

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

impl How {
    fn flags(self) -> u16 {
        match self {
            How::Appended => 0,
            How::Moved => FLAG_MOVED,
            How::Lost => FLAG_LOST,
        }
    }

    fn of(flags: u16) -> Result<How, Damage> {
        match flags & !FLAG_SAME_GROUP {
            0 => Ok(How::Appended),
            FLAG_MOVED => Ok(How::Moved),
            FLAG_LOST => Ok(How::Lost),
            _ => Err(Damage::Content),
        }
    }
}

impl Run {
    pub(crate) fn last(&self) -> Index {
        Index(self.first.index.0 + u64::from(self.count) - 1)
    }

    /// Whether payloads of its entries stand in the frame.
    pub(crate) fn has_payloads(&self) -> bool {
        self.how != How::Lost
    }
}

impl Records {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Each record with its entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Record, &[EntryMeta])> {
        let mut rest = &self.metas[..];
        self.list.iter().map(move |record| {
            let (metas, after) = rest.split_at(record.entries());
            rest = after;
            (record, metas)
        })
    }

    /// How many bytes of payload belong to them.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.iter()
            .map(|(record, metas)| match record {
                Record::Entries(run) if run.has_payloads() => payload_bytes(metas),
                _ => 0,
            })
            .sum()
    }

    /// The most bytes that [`encode`] makes of them.
    pub(crate) fn encoded_bytes_max(&self) -> u64 {
        let records = self.list.iter().map(Record::encoded_bytes_max);
        records.sum::<u64>() + META_BYTES * self.metas.len() as u64
    }

    /// The most bytes that the segment's summary takes for them.
    pub(crate) fn summary_bytes_max(&self) -> u64 {
        let runs = self.list.iter().filter(|record| record.entries() > 0);
        runs.count() as u64 * RANGE_BYTES_MAX
    }
}

pub(crate) fn payload_bytes(metas: &[EntryMeta]) -> u64 {
    metas.iter().map(|meta| u64::from(meta.payload_bytes)).sum()
}

/// What an entry takes in its record.
pub(crate) const META_BYTES: u64 = 8;
const HEAD_BYTES_MAX: u64 = 16;
const CONTEXT_BYTES_MAX: u64 = 32;
/// What a run of entries takes in a summary.
pub(crate) const RANGE_BYTES_MAX: u64 = HEAD_BYTES_MAX + 24 + CONTEXT_BYTES_MAX;

impl Record {
    pub(crate) fn group(&self) -> Option<GroupId> {
        match self {
            Record::Entries(run) | Record::Range { run, .. } => Some(run.group),
            Record::HardState { group, .. }
            | Record::Truncate { group, .. }
            | Record::Purge { group, .. }
            | Record::User { group, .. }
            | Record::Remove { group }
            | Record::State { group, .. }
            | Record::Suspect { group, .. } => Some(*group),
            Record::Resume { .. } => None,
        }
    }

    /// How many entries belong to it.
    pub(crate) fn entries(&self) -> usize {
        match self {
            Record::Entries(run) => run.count as usize,
            _ => 0,
        }
    }

    /// The most bytes that [`encode`] makes of it, its entries aside.
    pub(crate) fn encoded_bytes_max(&self) -> u64 {
        HEAD_BYTES_MAX
            + match self {
                Record::Entries(_) => 16 + CONTEXT_BYTES_MAX,
                Record::HardState { .. } => 16 + CONTEXT_BYTES_MAX,
                Record::User { bytes, .. } => (bytes.len() as u64).next_multiple_of(8),
                Record::State { .. } => 32,
                Record::Range { .. } => 24 + CONTEXT_BYTES_MAX,
                Record::Purge { .. } | Record::Truncate { .. } | Record::Suspect { .. } => 16,
                Record::Resume { .. } => 8,
                Record::Remove { .. } => 0,
            }
    }

    fn head(&self) -> Head {
        let head = |kind, context: &Context, count| Head {
            kind,
            context_bytes: context.as_bytes().len() as u8,
            flags: 0,
            count,
        };
        match self {
            Record::Entries(run) => Head {
                flags: run.how.flags(),
                ..head(KIND_ENTRIES, &run.context, run.count)
            },
            Record::Range { run, .. } => Head {
                flags: run.how.flags(),
                ..head(KIND_RANGE, &run.context, run.count)
            },
            Record::HardState { hard_state, .. } => head(
                KIND_HARD_STATE,
                &hard_state.context,
                u32::from(hard_state.voted_for.is_some()),
            ),
            Record::User { bytes, .. } => head(KIND_USER, &Context::EMPTY, bytes.len() as u32),
            Record::Truncate { .. } => head(KIND_TRUNCATE, &Context::EMPTY, 0),
            Record::Purge { .. } => head(KIND_PURGE, &Context::EMPTY, 0),
            Record::Remove { .. } => head(KIND_REMOVE, &Context::EMPTY, 0),
            Record::State { .. } => head(KIND_STATE, &Context::EMPTY, 0),
            Record::Resume { .. } => head(KIND_RESUME, &Context::EMPTY, 0),
            Record::Suspect { .. } => head(KIND_SUSPECT, &Context::EMPTY, 0),
        }
    }
}

/// How a record begins.
struct Head {
    kind: u8,
    context_bytes: u8,
    flags: u16,
    count: u32,
}

/// Appends records to `buf`, whose length is a multiple of 8 and stays one. `group` is that of the record before, and
/// becomes that of the last one.
pub(crate) fn encode(buf: &mut Vec<u8>, records: &Records, group: &mut Option<GroupId>) {
    for (record, metas) in records.iter() {
        let head = record.head();
        let new_group = record.group().filter(|new| Some(*new) != *group);
        let flags = head.flags
            | if new_group.is_none() {
                FLAG_SAME_GROUP
            } else {
                0
            };
        let mut bytes = [0; HEAD_BYTES_MAX as usize];
        bytes[0] = head.kind;
        bytes[1] = head.context_bytes;
        bytes[2..4].copy_from_slice(&flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&head.count.to_le_bytes());
        match new_group {
            None => buf.extend_from_slice(&bytes[..8]),
            Some(new) => {
                bytes[8..].copy_from_slice(&new.0.to_le_bytes());
                buf.extend_from_slice(&bytes);
                *group = Some(new);
            }
        }
        encode_body(buf, record, metas);
        pad(buf);
    }
}

fn encode_body(buf: &mut Vec<u8>, record: &Record, metas: &[EntryMeta]) {
    match record {
        Record::Entries(run) => {
            put_log_id(buf, run.first);
            put_context(buf, &run.context);
            buf.reserve(metas.len() * META_BYTES as usize);
            for meta in metas {
                buf.put_u32_le(meta.payload_bytes);
                buf.put_u32_le(meta.checksum);
            }
        }
        Record::Range { run, bytes } => {
            put_log_id(buf, run.first);
            buf.put_u64_le(*bytes);
            put_context(buf, &run.context);
        }
        Record::HardState { hard_state, .. } => {
            buf.put_u64_le(hard_state.term.0);
            buf.put_u64_le(hard_state.voted_for.map_or(0, |node| node.0));
            put_context(buf, &hard_state.context);
        }
        Record::Truncate { last, .. } | Record::Purge { last, .. } => put_log_id(buf, *last),
        Record::User { bytes, .. } => buf.put_slice(bytes),
        Record::Remove { .. } => {}
        Record::State { purged, last, .. } => {
            put_log_id(buf, *purged);
            put_log_id(buf, *last);
        }
        Record::Resume { epoch_before } => buf.put_u64_le(*epoch_before),
        Record::Suspect { first, count, .. } => {
            buf.put_u64_le(first.0);
            buf.put_u64_le(*count);
        }
    }
}

fn put_log_id(buf: &mut Vec<u8>, id: LogId) {
    buf.put_u64_le(id.index.0);
    buf.put_u64_le(id.term.0);
}

fn put_context(buf: &mut Vec<u8>, context: &Context) {
    buf.put_slice(context.as_bytes());
    pad(buf);
}

fn pad(buf: &mut Vec<u8>) {
    buf.put_bytes(0, buf.len().next_multiple_of(8) - buf.len());
}

/// Reads all records of a directory, whose checksum was right: what does not make sense is a bug of the writer, and an
/// error all the same.
pub(crate) fn decode(records: &[u8]) -> Result<Records, Damage> {
    let mut reader = Reader {
        rest: records,
        metas: Metas::new(),
    };
    let mut group = None;
    let mut list = SmallVec::new();
    while !reader.rest.is_empty() {
        list.push(reader.record(&mut group)?);
    }
    let metas = reader.metas;
    Ok(Records { list, metas })
}

/// Whether so many entries can have consecutive indexes from `first` on, and another one after them.
pub(crate) fn are_indexes(first: Index, count: u64) -> bool {
    first.0 > 0 && count > 0 && first.0.checked_add(count).is_some()
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
    metas: Metas,
}

impl<'a> Reader<'a> {
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
            KIND_ENTRIES => self.entries(group, flags, context_bytes, count),
            KIND_RANGE => self.range(group, flags, context_bytes, count),
            KIND_HARD_STATE => self.hard_state(group, context_bytes, count),
            KIND_TRUNCATE => {
                let last = self.log_id()?;
                is_followed(last)?;
                Ok(Record::Truncate { group, last })
            }
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
            KIND_STATE => self.state(group),
            KIND_SUSPECT => {
                let (first, count) = (Index(self.u64()?), self.u64()?);
                match are_indexes(first, count) {
                    true => Ok(Record::Suspect {
                        group,
                        first,
                        count,
                    }),
                    false => Err(Damage::Content),
                }
            }
            _ => Err(Damage::Content),
        }
    }

    fn entries(
        &mut self,
        group: GroupId,
        flags: u16,
        context_bytes: u8,
        count: u32,
    ) -> Result<Record, Damage> {
        let first = self.log_id()?;
        let context = self.context(context_bytes)?;
        let metas = self.padded_bytes((count as usize).checked_mul(8).ok_or(Damage::Content)?)?;
        let metas = metas.chunks_exact(8).map(|mut meta| EntryMeta {
            payload_bytes: meta.get_u32_le(),
            checksum: meta.get_u32_le(),
        });
        self.metas.extend(metas);
        self.run(group, flags, first, context, count)
            .map(Record::Entries)
    }

    fn range(
        &mut self,
        group: GroupId,
        flags: u16,
        context_bytes: u8,
        count: u32,
    ) -> Result<Record, Damage> {
        let first = self.log_id()?;
        let bytes = self.u64()?;
        let context = self.context(context_bytes)?;
        let run = self.run(group, flags, first, context, count)?;
        // An entry has less than 4 GiB.
        match bytes <= u64::from(count) << 32 {
            true => Ok(Record::Range { run, bytes }),
            false => Err(Damage::Content),
        }
    }

    fn run(
        &self,
        group: GroupId,
        flags: u16,
        first: LogId,
        context: Context,
        count: u32,
    ) -> Result<Run, Damage> {
        let how = How::of(flags)?;
        match are_indexes(first.index, count.into()) {
            true => Ok(Run {
                group,
                how,
                first,
                context,
                count,
            }),
            false => Err(Damage::Content),
        }
    }

    fn state(&mut self, group: GroupId) -> Result<Record, Damage> {
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

    fn padded_bytes(&mut self, len: usize) -> Result<&'a [u8], Damage> {
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
    use smallvec::smallvec;

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

    fn run() -> impl Strategy<Value = Run> {
        let how = prop_oneof![Just(How::Appended), Just(How::Moved), Just(How::Lost)];
        (0..3_u64, how, log_id(), context(), 1..5_u32).prop_map(
            |(group, how, first, context, count)| Run {
                group: GroupId(group),
                how,
                first,
                context,
                count,
            },
        )
    }

    /// A record, with metas for up to five entries.
    fn record() -> impl Strategy<Value = Record> {
        let group = (0..3_u64).prop_map(GroupId);
        prop_oneof![
            run().prop_map(Record::Entries),
            (run(), 0..1_u64 << 32).prop_map(|(run, bytes)| Record::Range { run, bytes }),
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
            (group.clone(), log_id(), log_id()).prop_map(|(group, one, other)| {
                let in_order = one.index <= other.index;
                let (purged, last) = if in_order { (one, other) } else { (other, one) };
                Record::State {
                    group,
                    purged,
                    last,
                }
            }),
            (group, 1..u64::MAX / 2, 1..u64::MAX / 2).prop_map(|(group, first, count)| {
                let first = Index(first);
                Record::Suspect {
                    group,
                    first,
                    count,
                }
            }),
            any::<u64>().prop_map(|epoch_before| Record::Resume { epoch_before }),
        ]
    }

    fn records() -> impl Strategy<Value = Records> {
        (vec(record(), 0..8), vec(any::<(u32, u32)>(), 40)).prop_map(|(list, metas)| {
            let count = list.iter().map(Record::entries).sum();
            let metas = metas
                .into_iter()
                .take(count)
                .map(|(payload_bytes, checksum)| EntryMeta {
                    payload_bytes,
                    checksum,
                });
            Records {
                list: list.into(),
                metas: metas.collect(),
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(records in records()) {
            let mut buf = Vec::new();
            encode(&mut buf, &records, &mut None);
            prop_assert_eq!(buf.len() % 8, 0);
            prop_assert!(buf.len() as u64 <= records.encoded_bytes_max());
            prop_assert_eq!(decode(&buf), Ok(records));
        }

        #[test]
        fn any_bytes_are_records_or_an_error(bytes in vec(prop_oneof![any::<u8>(), 0..11_u8], 0..200)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn no_record_ends_at_an_index_that_none_can_follow() {
        let (group, purged) = (GroupId(1), LogId::default());
        let last = LogId {
            term: Term(1),
            index: Index(u64::MAX),
        };
        for record in [
            Record::Truncate { group, last },
            Record::Purge { group, last },
            Record::State {
                group,
                purged,
                last,
            },
        ] {
            let mut buf = Vec::new();
            let (list, metas) = (smallvec![record], Metas::new());
            encode(&mut buf, &Records { list, metas }, &mut None);
            assert_eq!(decode(&buf), Err(Damage::Content));
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
        let run = Run {
            group,
            how: How::Appended,
            first,
            context: Context::EMPTY,
            count: 100,
        };
        let meta = EntryMeta {
            payload_bytes: 1,
            checksum: 2,
        };
        let records = Records {
            list: smallvec![Record::Entries(run)],
            metas: smallvec![meta; 100],
        };
        let mut buf = Vec::new();
        encode(&mut buf, &records, &mut Some(group));
        assert_eq!(buf.len(), 24 + 8 * 100);
    }
}
