//! What a segment's first frame says of each group, so that no older segment is needed for it.
//!
//! It follows the frames as they are written, while [`Groups`] is ahead by what was submitted and waits.

use std::collections::HashMap;

use bytes::Bytes;
use rustc_hash::FxBuildHasher;

use crate::groups::Groups;
use crate::record::Record;
use crate::types::{GroupId, HardState, Index, LogId};

#[derive(Debug, Default)]
pub(crate) struct States {
    states: HashMap<GroupId, State, FxBuildHasher>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    hard_state: HardState,
    user_record: Bytes,
    purged: LogId,
    last: LogId,
}

/// What a group takes in a segment's first frame and its part of the seal, user record aside.
pub(crate) const STATE_BYTES: u64 = 512;

impl States {
    pub(crate) fn of(groups: &Groups) -> States {
        let states = groups.iter().map(|(id, group)| {
            let state = State {
                hard_state: group.hard_state,
                user_record: group.user_record.clone(),
                purged: group.purged(),
                last: group.last(),
            };
            (id, state)
        });
        States {
            states: states.collect(),
        }
    }

    /// Takes in a record, as it is written.
    pub(crate) fn apply(&mut self, record: &Record) {
        let Some(id) = record.group() else {
            return;
        };
        if let Record::Remove { .. } = record {
            self.states.remove(&id);
            return;
        }
        let state = self.states.entry(id).or_default();
        match record {
            Record::Entries { first, entries, .. } => {
                let index = Index(first.index.0 + entries.len() as u64 - 1);
                state.last = LogId {
                    term: first.term,
                    index,
                };
            }
            Record::HardState { hard_state, .. } => state.hard_state = *hard_state,
            Record::User { bytes, .. } => state.user_record = bytes.clone(),
            Record::Truncate { last, .. } => state.last = *last,
            Record::Purge { last, .. } => {
                state.purged = *last;
                if last.index >= state.last.index {
                    state.last = *last;
                }
            }
            Record::State { purged, last, .. } => (state.purged, state.last) = (*purged, *last),
            Record::Remove { .. } | Record::Resume { .. } => {}
        }
    }

    /// The records of a segment's first frame, by group.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut states: Vec<_> = self.states.iter().collect();
        states.sort_unstable_by_key(|(group, _)| **group);
        let records = states.into_iter().flat_map(|(&group, state)| {
            [
                Record::State {
                    group,
                    purged: state.purged,
                    last: state.last,
                },
                Record::HardState {
                    group,
                    hard_state: state.hard_state,
                },
                Record::User {
                    group,
                    bytes: state.user_record.clone(),
                },
            ]
        });
        records.collect()
    }

    /// The most space that a frame of [`records`](States::records) takes.
    pub(crate) fn space(&self) -> u64 {
        let users = self
            .states
            .values()
            .map(|state| state.user_record.len() as u64);
        STATE_BYTES * (self.states.len() as u64 + 1) + 2 * users.sum::<u64>()
    }

    /// Whether `record`, of the first frame of a segment that is not the oldest, says what is known already.
    pub(crate) fn agrees(&self, record: &Record) -> bool {
        let state = record.group().and_then(|group| self.states.get(&group));
        let Some(state) = state else {
            return matches!(record, Record::Resume { .. });
        };
        match record {
            Record::State { purged, last, .. } => (state.purged, state.last) == (*purged, *last),
            Record::HardState { hard_state, .. } => state.hard_state == *hard_state,
            Record::User { bytes, .. } => state.user_record == *bytes,
            _ => false,
        }
    }
}
