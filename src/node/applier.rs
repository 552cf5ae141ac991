//! What applies the committed entries: the state machine, beside the node.
//!
//! The node hands out [`Work`] in the order of the log, and goes on: it replicates, writes and votes while a slow command is applied, or
//! a large state is read from a snapshot. A driver runs the work on a thread of its own, or, in the simulator, some time later.
//!
//! # Invariants
//!
//! * Work is done in the order in which it was handed out, so a query sees what was handed out before it, and a snapshot what it
//!   stands for.
//! * After a state could not be restored, nothing is applied: the node hands out nothing before another one was.

use std::collections::VecDeque;
use std::path::PathBuf;

use bytes::Bytes;
use duramen_snapshot::{Manifest, Meta, SnapshotId, SnapshotReader, SnapshotStore};
use duramen_wal::{Entry, Index};

use super::job::{Job, Lost, damaged_chunks};
use super::{Error, LogTime, OnApplied, Query, StateMachine};
use crate::canary::planted;
use crate::raft::is_command;
use crate::storage::{self, Storage};

/// The state machine, and how far it is.
pub struct Applier<S: StateMachine> {
    state: S,
    applied: Index,
}

/// Something for the [`Applier`] to do.
#[must_use]
pub struct Work<S: StateMachine>(pub(super) Kind<S>);

pub(super) enum Kind<S: StateMachine> {
    /// Committed entries, with who waits for what they give.
    Apply(Vec<(Entry, Option<OnApplied<S>>)>),
    Query(Query<S>),
    /// A snapshot is due, of the state as it is then.
    Freeze(SnapshotStore, Meta),
    /// The state is that of a snapshot, up to this index.
    Restore(SnapshotFile, Index),
    /// Whether the state machine has something to replicate by itself.
    Tick(LogTime),
}

/// A snapshot that is to be read. It is held until then: newer ones may take its place before the applier comes to it.
pub(super) struct SnapshotFile {
    reader: SnapshotReader,
    store: SnapshotStore,
    /// The node's directory, for errors.
    dir: PathBuf,
}

/// What became of [`Work`]. To be given to [`Node::handle`](super::Node::handle).
pub struct Done(pub(super) Effect);

pub(super) enum Effect {
    /// All up to here is applied.
    Applied(Index),
    /// A snapshot is to be written.
    Frozen(Job),
    /// The chunks of the snapshot that cannot be read: none, if the state has been restored.
    Restored(Result<Lost, Error>),
    /// What the state machine wants to have replicated.
    Ticked(Option<Bytes>),
}

impl<S: StateMachine> Work<S> {
    /// Whether it only looks at the state machine.
    pub fn is_query(&self) -> bool {
        matches!(self.0, Kind::Query(_))
    }
}

impl<S: StateMachine> Applier<S> {
    pub(super) fn new(state: S, applied: Index) -> Applier<S> {
        Applier { state, applied }
    }

    /// The state machine, to look at.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Does it. Gives what the node has to hear.
    pub fn run(&mut self, work: Work<S>) -> Option<Done> {
        let effect = match work.0 {
            Kind::Apply(entries) => {
                for (entry, answer) in entries {
                    self.apply(&entry, answer);
                }
                Effect::Applied(self.applied)
            }
            Kind::Query(query) => {
                query(Ok(&self.state));
                return None;
            }
            Kind::Freeze(store, meta) => {
                Effect::Frozen(Job::take(store, meta, self.state.freeze()))
            }
            Kind::Restore(file, last) => {
                let restored = match planted("applied_without_state") {
                    true => Ok(Lost::new()),
                    false => file.read(&mut self.state),
                };
                self.applied = last;
                Effect::Restored(restored)
            }
            Kind::Tick(now) => Effect::Ticked(self.state.tick(now)),
        };
        Some(Done(effect))
    }

    fn apply(&mut self, entry: &Entry, answer: Option<OnApplied<S>>) {
        let (id, applied) = (entry.id, self.applied);
        assert!(id.index == applied.next(), "applied {applied}, then {id}");
        self.applied = id.index;
        if !is_command(entry) {
            return;
        }
        let output = self.state.apply(&entry.payload);
        if let Some(answer) = answer {
            answer(Ok(output));
        }
    }
}

impl SnapshotFile {
    pub(super) fn of(
        storage: &Storage,
        id: SnapshotId,
    ) -> Result<SnapshotFile, duramen_snapshot::Error> {
        let store = storage.snapshots().clone();
        Ok(SnapshotFile {
            reader: store.reader(id)?,
            store,
            dir: storage.dir().to_owned(),
        })
    }

    pub(super) fn manifest(&self) -> &Manifest {
        self.reader.manifest()
    }

    /// Reads the state that is in it. What of it is damaged is the answer, and then the state is not to be used.
    pub(super) fn read<S: StateMachine>(mut self, state: &mut S) -> Result<Lost, Error> {
        let Err(source) = state.restore(&mut self.reader) else {
            return Ok(Lost::new());
        };
        let lost = damaged_chunks(&self.store, self.manifest());
        let (op, path) = ("read a snapshot in", self.dir);
        match lost.is_empty() {
            true => Err(storage::Error::Io { op, path, source }.into()),
            false => Ok(lost),
        }
    }
}

/// What is to be done, in order.
pub(super) type Queue<S> = VecDeque<Work<S>>;
