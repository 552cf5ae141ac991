//! What the operations should have left: the state of the log and of the snapshots, without their bytes.
//!
//! Of each entry, record and block it is known which operation wrote it. Its bytes follow from that, see
//! [`content`](super::content).

use std::collections::BTreeMap;

use duramen::wal::{Index, LogId, Term};
use serde::{Deserialize, Serialize};

/// The group whose snapshots are in the snapshot store, as if it were a node's.
pub(super) const NODE_GROUP: u64 = 1;

/// How many blocks a snapshot's state has.
pub(super) const BLOCKS: usize = 16;

/// A LogId, as the parent tells it to the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(super) struct Id {
    pub(super) term: u64,
    pub(super) index: u64,
}

impl From<Id> for LogId {
    fn from(id: Id) -> LogId {
        LogId {
            term: Term(id.term),
            index: Index(id.index),
        }
    }
}

/// A change of one group. Several of them are a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Append {
        group: u64,
        first: Id,
        count: u64,
    },
    HardState {
        group: u64,
        term: u64,
        voted_for: Option<u64>,
    },
    Truncate {
        group: u64,
        last: u64,
    },
    Purge {
        group: u64,
        last: Id,
    },
    Record {
        group: u64,
    },
    Remove {
        group: u64,
    },
}

/// One step: a batch for the log, or a snapshot for the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Log(Vec<Change>),
    Snapshot(Snapshot),
}

impl Operation {
    /// Whether it drops what only a snapshot holds then, so that the snapshot must be durable first.
    pub(super) fn relies_on_a_snapshot(&self) -> bool {
        let purges = |change: &Change| {
            matches!(
                change,
                Change::Purge {
                    group: NODE_GROUP,
                    ..
                }
            )
        };
        matches!(self, Operation::Log(changes) if changes.iter().any(purges))
    }
}

/// An entry that is held: its term, and the operation that appended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) term: u64,
    pub(super) op: u64,
}

/// One group of the log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) term: u64,
    pub(super) voted_for: Option<u64>,
    /// The operation that set term and vote.
    pub(super) vote_op: u64,
    pub(super) purged: Id,
    /// The entries after `purged`.
    pub(super) entries: Vec<Held>,
    /// The operation that wrote the user record, if there is one.
    pub(super) record: Option<u64>,
}

impl Group {
    pub(super) fn last(&self) -> Id {
        match self.entries.last() {
            Some(held) => Id {
                term: held.term,
                index: self.purged.index + self.entries.len() as u64,
            },
            None => self.purged,
        }
    }

    pub(super) fn term_at(&self, index: u64) -> Option<u64> {
        let place = index.checked_sub(self.purged.index + 1)?;
        let held = self.entries.get(usize::try_from(place).ok()?)?;
        Some(held.term)
    }

    /// Whether the log goes on after this entry: it is there, or was the last to be purged.
    pub(super) fn holds(&self, id: Id) -> bool {
        id == self.purged || self.term_at(id.index) == Some(id.term)
    }

    /// Keeps the entries up to and with `last`.
    fn keep(&mut self, last: u64) {
        let kept = last.saturating_sub(self.purged.index);
        self.entries
            .truncate(usize::try_from(kept).unwrap_or(usize::MAX));
    }
}

/// The log: its groups.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Log {
    pub(super) groups: BTreeMap<u64, Group>,
}

impl Log {
    /// A group, as it is or as it would begin.
    pub(super) fn group(&self, group: u64) -> Group {
        self.groups.get(&group).cloned().unwrap_or_default()
    }

    /// The effect of a change that is part of the operation `op`.
    pub(super) fn change(&mut self, op: u64, change: &Change) {
        let (Change::Append { group, .. }
        | Change::HardState { group, .. }
        | Change::Truncate { group, .. }
        | Change::Purge { group, .. }
        | Change::Record { group }
        | Change::Remove { group }) = change;
        let held = self.groups.entry(*group).or_default();
        match *change {
            Change::Append { first, count, .. } => {
                held.keep(first.index - 1);
                let term = first.term;
                held.entries.extend((0..count).map(|_| Held { term, op }));
            }
            Change::HardState {
                term, voted_for, ..
            } => (held.term, held.voted_for, held.vote_op) = (term, voted_for, op),
            Change::Truncate { last, .. } => held.keep(last),
            Change::Purge { last, .. } => {
                let gone = (last.index - held.purged.index) as usize;
                held.entries.drain(..gone.min(held.entries.len()));
                held.purged = last;
            }
            Change::Record { .. } => held.record = Some(op),
            Change::Remove { group } => drop(self.groups.remove(&group)),
        }
    }
}

/// A snapshot of the node's group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// The operation that published it.
    pub(super) op: u64,
    pub(super) last: Id,
    /// The operations that wrote the blocks of the state.
    pub(super) blocks: Vec<u64>,
    /// Whether it is taken in from a peer.
    pub(super) is_installed: bool,
}

/// So many are dropped down to after each new one.
pub(super) const SNAPSHOTS_KEPT: usize = 2;

/// The snapshots, from the oldest to the newest; one more than are kept, since the process may be killed before it drops that.
pub(super) type Snapshots = Vec<Snapshot>;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Model {
    pub(super) log: Log,
    pub(super) snapshots: Snapshots,
}

impl Model {
    pub(super) fn apply(&mut self, op: u64, operation: &Operation) {
        match operation {
            Operation::Log(changes) => changes
                .iter()
                .for_each(|change| self.log.change(op, change)),
            Operation::Snapshot(snapshot) => {
                self.snapshots.push(snapshot.clone());
                let dropped = self.snapshots.len().saturating_sub(SNAPSHOTS_KEPT + 1);
                self.snapshots.drain(..dropped);
            }
        }
    }

    /// The last entry that the newest snapshot stands for.
    pub(super) fn snapshot_last(&self) -> Id {
        self.snapshots.last().map_or(Id::default(), |it| it.last)
    }
}
