//! Handing out what is committed, and hearing what became of it.
//!
//! Who waits for a command goes with its entry. A read goes after the entries that it must see.

use std::io;

use bytes::Bytes;
use duramen_snapshot::SnapshotId;
use duramen_wal::{Entry, Index, LogId};

use super::applier::{Applier, Done, Effect, Kind, SnapshotFile, Work};
use super::job::Lost;
use super::{Clock, Error, Input, Node, NotDone, StateMachine};
use crate::raft::Offer;
use crate::transport::Network;

/// A state that is being read from a snapshot.
pub(super) enum Restoring {
    /// From the one that the node has started with.
    Found(SnapshotId),
    /// From one that the leader had.
    Installed(Offer),
    /// From this node's own, which was damaged and is whole again. The name is for the core.
    Own(Bytes),
}

impl<S: StateMachine, N: Network, C: Clock> Node<S, N, C> {
    /// The state machine, to look at: what it shows may be old.
    ///
    /// # Panics
    /// If the applier was taken.
    pub fn state(&self) -> &S {
        let applier = self.applier.as_ref();
        applier.expect("the applier was not taken").state()
    }

    /// Takes out what applies, to run it elsewhere: give it what [`take_work`](Node::take_work) gives.
    ///
    /// # Panics
    /// If it was taken already.
    pub fn take_applier(&mut self) -> Applier<S> {
        self.applier.take().expect("it is taken once")
    }

    /// Does here what there is for the applier to do. The next [`turn`](Node::turn) goes on from there.
    ///
    /// # Panics
    /// If the applier was taken.
    pub fn work(&mut self) {
        while let Some(work) = self.work.pop_front() {
            let applier = self.applier.as_mut().expect("the applier was not taken");
            if let Some(done) = applier.run(work) {
                self.handle(Input::Done(done));
            }
        }
    }

    /// Something to do for the applier, if there is. What it gives is to be given to [`handle`](Node::handle).
    pub fn take_work(&mut self) -> Option<Work<S>> {
        self.work.pop_front()
    }

    /// Puts a command into the core's log, unless the disk's log would not take it: there and at the followers, which would end.
    pub(super) fn propose(&mut self, command: Bytes) -> Result<LogId, NotDone> {
        let bytes_max = self.storage.command_bytes_max();
        match command.len() <= bytes_max {
            true => Ok(self.raft.propose(command)?),
            false => Err(NotDone::TooLarge { bytes_max }),
        }
    }

    /// These entries are committed. While a state is being restored they wait.
    pub(super) fn hand_out(&mut self, committed: Vec<Entry>) {
        self.backlog.extend(committed);
        if !self.restoring.is_empty() {
            return;
        }
        let leader = self.raft.leader();
        let mut entries = Vec::with_capacity(self.backlog.len());
        for entry in std::mem::take(&mut self.backlog) {
            let (id, before) = (entry.id, self.handed_out);
            assert!(id.index == before.next(), "handed out {before}, then {id}");
            self.handed_out = id.index;
            let answer = self.waiting.committed(id, leader);
            self.look_at_standing(&entry);
            let due = self.count_for_snapshot(&entry);
            entries.push((entry, answer));
            if let Some(meta) = due {
                self.put(Kind::Apply(std::mem::take(&mut entries)));
                self.put(Kind::Freeze(self.storage.snapshots().clone(), meta));
            }
        }
        if !entries.is_empty() {
            self.put(Kind::Apply(entries));
        }
        self.hand_out_reads();
    }

    /// Reads that may be served after what was handed out.
    pub(super) fn hand_out_reads(&mut self) {
        if self.restoring.is_empty() {
            while let Some(query) = self.waiting.readable(self.handed_out) {
                self.put(Kind::Query(query));
            }
        }
    }

    /// Whether all that was to be done is done, queries aside: then a query may be answered anywhere, at once.
    pub fn is_applier_idle(&self) -> bool {
        self.unfinished == 0
    }

    fn put(&mut self, kind: Kind<S>) {
        self.unfinished += u64::from(!matches!(kind, Kind::Query(_)));
        self.work.push_back(Work(kind));
    }

    /// The state is to be that of a snapshot, up to `last`.
    pub(super) fn restore(&mut self, file: SnapshotFile, last: Index, restoring: Restoring) {
        self.restoring.push_back(restoring);
        self.handed_out = last;
        self.backlog.retain(|entry| entry.id.index > last);
        self.snapshots.bytes = 0;
        self.put(Kind::Restore(file, last));
    }

    /// The state is that of the snapshot, if nothing of it is lost.
    fn restored(&mut self, lost: Lost) -> Result<(), Error> {
        match self.restoring.pop_front() {
            // If it is not needed, a newer one was installed meanwhile, and comes next.
            Some(Restoring::Found(_)) if lost.is_empty() => {
                if self.raft.state_read() {
                    self.applied = self.raft.base().index;
                }
            }
            Some(Restoring::Found(id)) => {
                if self.raft.state_lost() {
                    self.begin_mending(id, lost, None);
                }
            }
            Some(_) if !lost.is_empty() => {
                return Err(self.broken("read a snapshot in", io::ErrorKind::InvalidData.into()));
            }
            Some(Restoring::Installed(offer)) => {
                self.applied = offer.last.index;
                self.waiting.skipped(offer.last);
            }
            Some(Restoring::Own(name)) if self.raft.lacks_state() => {
                self.applied = self.raft.base().index;
                self.raft.state_restored(name);
            }
            Some(Restoring::Own(_)) => {} // A newer one was installed meanwhile, and comes next.
            None => unreachable!("a state was restored that nobody asked for"),
        }
        self.hand_out(Vec::new());
        Ok(())
    }

    /// The state machine may have something to say, if this node leads and it has not been asked already.
    pub(super) fn tick_state(&mut self) {
        let is_under_way =
            self.own_command.term == self.raft.term() && self.own_command.index > self.applied;
        let has_state = !self.raft.lacks_state();
        if self.raft.is_leader() && has_state && !is_under_way && !self.is_ticking {
            self.is_ticking = true;
            self.put(Kind::Tick(self.clock.log_time()));
        }
    }

    /// Takes in what became of something.
    pub(super) fn done(&mut self, done: Done) -> Result<(), Error> {
        self.unfinished -= 1;
        match done.0 {
            Effect::Applied(index) => self.applied = index,
            Effect::Frozen(job) => self.jobs.push_back(job),
            Effect::Restored(lost) => return self.restored(lost?),
            Effect::Ticked(command) => {
                self.is_ticking = false;
                if let Some(Ok(id)) = command.map(|command| self.propose(command)) {
                    self.own_command = id;
                }
            }
        }
        Ok(())
    }
}
