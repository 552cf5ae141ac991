//! What a segment's first frame says of each group, so that no older segment is needed for it.
//!
//! It follows the frames as they are written, while [`Groups`] is ahead by what was submitted and waits.

use std::collections::HashMap;

use bytes::Bytes;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

use crate::groups::Groups;
use crate::record::{How, Record, Records};
use crate::types::{GroupId, HardState, Index, LogId};

#[derive(Debug, Default)]
pub(crate) struct States {
    states: HashMap<GroupId, State, FxBuildHasher>,
    /// Of all user records and suspects together, encoded.
    extra_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    hard_state: HardState,
    user_record: Bytes,
    purged: LogId,
    last: LogId,
    /// First and last of suspect entries, in no order.
    suspects: Vec<(Index, Index)>,
}

/// What a group takes in a segment's first frame, whose directory stands there twice, and in the seal; user record and
/// suspects aside.
pub(crate) const STATE_BYTES: u64 = 512;
/// Its directories and the seal hold everything so often.
pub(crate) const STATE_COPIES: u64 = 3;
const SUSPECT_BYTES: u64 = 32;
/// Where there are many groups a segment has so much for each of them: about a tenth of that is what it begins with, its copies
/// reckoned in.
const SEGMENT_BYTES_PER_GROUP: u64 = 2048;
const MANY_GROUPS: u64 = 1000;

impl State {
    fn extra_bytes(&self) -> u64 {
        self.user_record.len() as u64 + SUSPECT_BYTES * self.suspects.len() as u64
    }

    fn unsuspect(&mut self, first: Index, last: Index) {
        if self.suspects.is_empty() {
            return;
        }
        let left = self.suspects.drain(..).flat_map(|(from, to)| {
            let before = (from, to.min(first.prev()));
            let after = (from.max(Index(last.0.saturating_add(1))), to);
            [before, after].into_iter().filter(|(from, to)| from <= to)
        });
        self.suspects = left.collect();
    }

    /// Takes in a record of its group.
    fn apply(&mut self, record: &Record) {
        let end = Index(u64::MAX);
        match record {
            Record::Entries(run) => {
                let (term, index) = (run.first.term, run.last());
                match run.how {
                    How::Appended => {
                        self.unsuspect(run.first.index, end);
                        self.last = LogId { term, index };
                    }
                    How::Moved => self.unsuspect(run.first.index, index),
                    How::Lost => {}
                }
            }
            Record::HardState { hard_state, .. } => self.hard_state = *hard_state,
            Record::User { bytes, .. } => self.user_record = bytes.clone(),
            Record::Truncate { last, .. } => {
                self.unsuspect(last.index.next(), end);
                self.last = *last;
            }
            Record::Purge { last, .. } => {
                self.unsuspect(Index(0), last.index);
                self.purged = *last;
                if last.index >= self.last.index {
                    self.last = *last;
                }
            }
            Record::State { purged, last, .. } => (self.purged, self.last) = (*purged, *last),
            Record::Suspect { first, count, .. } => {
                let last = Index(first.0 + count - 1);
                self.unsuspect(*first, last);
                self.suspects.push((*first, last));
            }
            Record::Range { .. } | Record::Remove { .. } | Record::Resume { .. } => {}
        }
    }
}

impl States {
    pub(crate) fn of(groups: &Groups) -> States {
        let states: HashMap<_, _, _> = groups
            .iter()
            .map(|(id, group)| {
                let suspects = group.extents.iter().filter(|extent| extent.suspect);
                let state = State {
                    hard_state: group.hard_state,
                    user_record: group.user_record.clone(),
                    purged: group.purged,
                    last: group.last(),
                    suspects: suspects.map(|e| (e.first, e.last())).collect(),
                };
                (id, state)
            })
            .collect();
        let extra_bytes = states.values().map(State::extra_bytes).sum();
        States {
            states,
            extra_bytes,
        }
    }

    /// Looks at the states that records change, which are taken in next: see [`Groups::touch`].
    pub(crate) fn touch<'r>(&self, records: impl Iterator<Item = &'r Record>) {
        let states = records.filter_map(|record| self.states.get(&record.group()?));
        std::hint::black_box(states.map(|state| state.last.index).max());
    }

    /// Takes in a record, as it is written.
    pub(crate) fn apply(&mut self, record: &Record) {
        let Some(id) = record.group() else {
            return;
        };
        if let Record::Remove { .. } = record {
            let removed = self.states.remove(&id).unwrap_or_default();
            self.extra_bytes -= removed.extra_bytes();
            return;
        }
        let state = self.states.entry(id).or_default();
        let before = state.extra_bytes();
        state.apply(record);
        self.extra_bytes = self.extra_bytes - before + state.extra_bytes();
    }

    /// The records of a segment's first frame, by group.
    pub(crate) fn records(&self) -> Records {
        let states = self.states.iter();
        let mut states: Vec<_> = states.map(|(&group, state)| (group, state)).collect();
        states.sort_unstable_by_key(|(group, _)| *group);
        let mut list = SmallVec::with_capacity(3 * states.len());
        for (group, state) in states {
            let State { purged, last, .. } = *state;
            list.push(Record::State {
                group,
                purged,
                last,
            });
            if state.hard_state != HardState::default() {
                let hard_state = state.hard_state;
                list.push(Record::HardState { group, hard_state });
            }
            if !state.user_record.is_empty() {
                let bytes = state.user_record.clone();
                list.push(Record::User { group, bytes });
            }
            list.extend(state.suspects.iter().map(|&(first, last)| Record::Suspect {
                group,
                first,
                count: last.0 - first.0 + 1,
            }));
        }
        let metas = SmallVec::new();
        Records { list, metas }
    }

    /// The most space that a frame of [`records`](States::records) takes.
    pub(crate) fn space(&self) -> u64 {
        // The second directory stands at a distance from the first.
        let distance = crate::format::COPY_DISTANCE;
        distance + STATE_BYTES * (self.states.len() as u64 + 1) + STATE_COPIES * self.extra_bytes
    }

    /// The size that segments are to have, of which the log's user asks for so much.
    pub(crate) fn segment_bytes(&self, asked_for: u64) -> u64 {
        let many = (self.states.len() as u64).saturating_sub(MANY_GROUPS);
        asked_for.max(SEGMENT_BYTES_PER_GROUP * many)
    }

    /// Whether `record`, of the first frame of a segment, says what is known already.
    pub(crate) fn agrees(&self, record: &Record) -> bool {
        let state = record.group().and_then(|group| self.states.get(&group));
        let Some(state) = state else {
            return matches!(record, Record::Resume { .. });
        };
        match record {
            Record::State { purged, last, .. } => (state.purged, state.last) == (*purged, *last),
            Record::HardState { hard_state, .. } => state.hard_state == *hard_state,
            Record::User { bytes, .. } => state.user_record == *bytes,
            Record::Suspect { .. } => true, // An `open` may just have found it.
            _ => false,
        }
    }
}
