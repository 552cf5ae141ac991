//! The node: the only place where core, storage, network and clock meet.
//!
//! [`Node`] is one loop, generic over network and clock (and over the disk, through [`Storage`]), so that a simulator can
//! run the very code that the server runs. It does nothing by itself: whoever drives it calls [`handle`](Node::handle)
//! for each input and [`turn`](Node::turn) then, and does the [jobs](Node::take_job). A
//! [replica](crate::replica) drives one in real time.
//!
//! The way of one write: `handle(Propose)` puts it into the core's log; `turn` sends it to the followers and begins to write it
//! here at the same time; their replies come in through `handle(Message)`, and the log says when it is durable here; the next
//! `turn` finds it committed, applies it and answers the client. Everything that came in between two turns shares one write
//! and one sync, and while the disk is busy the node goes on.
//!
//! # Invariants
//!
//! * What tells of a write leaves when that write, and all before it, are durable.
//! * A client is told that a command was applied only after it was: committed, and executed here, by this proposal's own
//!   entry and not by another leader's at the same index.
//! * A client is told [`NotDone::NotLeader`] only if the command will certainly never be applied. As long as it may be,
//!   the client waits, and at its deadline hears [`NotDone::Unknown`].
//! * After an error of the storage nothing is sent, applied or answered any more: `turn` returns the error, and the node
//!   is at its end. A disk that is full, or a log that has failed, is none: see `disk.rs`.

mod admission;
mod applier;
mod applying;
mod boots;
mod clock;
mod disk;
mod input;
mod installing;
mod job;
mod machine;
mod mending;
mod report;
mod snapshots;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use duramen_wal::{Entry, Index, Term};

use crate::canary::planted;
use crate::raft::{self, BaseState, Raft, Ready, WriteId};
pub use crate::storage;

#[cfg(feature = "sim")]
pub use crate::raft::invariants;
pub use crate::raft::{
    AppendOutcome, BadMembership, Badness, ChangeRefused, Config, Envelope, Follower, Member,
    Membership, Message, RoleName, TransferRefused,
};
pub use crate::storage::{
    Claim, Error as StorageError, Identity, Options as StorageOptions, Storage,
};
#[cfg(feature = "server")]
pub use crate::transport::{ADDRESS_BYTES_MAX, AddressBook};
pub use crate::transport::{Endpoint, Fetch, Introduction, Network, Packet, Refusal};
pub use duramen_wal::{LogId, NodeId};

use admission::Bootstrap;
pub use admission::Standing;
use applier::SnapshotFile;
pub use applier::{Applier, Done, Work};
use applying::Restoring;
pub use clock::{Clock, SystemClock};
pub use disk::Trouble;
pub use input::{
    Change, Input, NotDone, OnAdmitted, OnApplied, OnChange, OnIntroduction, OnTransfer, Query,
};
pub use job::{Finished, Job};
pub use machine::{Frozen, LogTime, StateMachine};
pub use report::{OnReport, Report, SnapshotsReport, WAITED_FOR_MAX};
use snapshots::Snapshots;
use waiting::Waiting;

/// How a node is to be, beside its core.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// A snapshot is taken when the commands since the last one have so many bytes, payload and 64 for each. All nodes have the
    /// same. Default 64 MiB.
    pub snapshot_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            snapshot_bytes: 64 << 20,
        }
    }
}

/// Why a node is at its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Its storage failed, or says that the node must not take part.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The system gives it no thread to apply commands with.
    #[error("cannot start a thread: {0}")]
    NoThread(std::io::Error),
    /// Another node wants nothing to do with it.
    #[error("refused by node {by}: {refusal}")]
    Refused {
        /// Which one.
        by: NodeId,
        /// Why.
        refusal: Refusal,
    },
}

impl Error {
    /// Another process has the node's directory, or has not ended yet.
    pub fn is_locked(&self) -> bool {
        use duramen_wal::Error::Locked;
        matches!(self, Error::Storage(storage::Error::Log(Locked { .. })))
    }
}

impl From<duramen_snapshot::Error> for Error {
    fn from(error: duramen_snapshot::Error) -> Error {
        Error::Storage(error.into())
    }
}

/// How a node sees itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The node.
    pub id: NodeId,
    /// Its term.
    pub term: Term,
    /// The leader of the term, if known.
    pub leader: Option<NodeId>,
    /// The commit index.
    pub commit: Index,
    /// The last index that was applied.
    pub applied: Index,
}

/// What a node has done since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Snapshots that it took.
    pub snapshots_taken: u64,
    /// Snapshots that it took in from another node.
    pub snapshots_installed: u64,
    /// Entries that it dropped when it became the leader, since they were torn on every node: they were never acknowledged.
    pub torn_entries_dropped: u64,
}

/// A node. See the [module's documentation](self).
pub struct Node<S: StateMachine, N: Network, C: Clock> {
    raft: Raft,
    storage: Storage,
    network: N,
    clock: C,
    options: Options,
    /// Until somebody takes it.
    applier: Option<Applier<S>>,
    /// What it is to do, in order.
    work: applier::Queue<S>,
    /// How much of it has not been heard of again. Queries are not counted: nothing is heard of them.
    unfinished: u64,
    /// Entries up to here were handed out to it, and it has said that it has applied up to here.
    handed_out: Index,
    applied: Index,
    /// The states that it is to restore, and what is committed and waits for that.
    restoring: VecDeque<Restoring>,
    backlog: VecDeque<Entry>,
    /// It was asked whether the state machine has something to say.
    is_ticking: bool,
    /// For so many ticks this node has waited for what nobody has.
    waited_ticks: u32,
    waiting: Waiting<S>,
    snapshots: Snapshots,
    jobs: VecDeque<Job>,
    /// What leaves when a write is durable, in the order of the writes.
    held: VecDeque<(WriteId, Vec<Envelope>)>,
    /// The last write that was submitted, and the last that is durable.
    submitted: WriteId,
    durable: WriteId,
    /// The time up to which the core has been given ticks.
    ticked: Duration,
    /// The state machine's own command that was proposed last: see [`StateMachine::tick`].
    own_command: LogId,
    /// Until the cluster has begun.
    bootstrap: Option<Bootstrap>,
    /// The members that the network knows of.
    members: Membership,
    standing: Standing,
    /// By whom it was refused that is not the node known by that number.
    strangers: BTreeSet<NodeId>,
    /// The members that know another node by this one's number.
    unknown_to: BTreeSet<NodeId>,
    /// Entries that it dropped, see [`Counts`].
    torn_dropped: u64,
    /// What `handle` has met with, for the next turn.
    failure: Option<Error>,
    trouble: Option<Trouble>,
    /// If the disk is full: when it is looked whether there is space again.
    look_for_space_at: Duration,
}

/// A tick of the core.
pub const TICK: Duration = Duration::from_millis(10);

/// How long a client waits for a command or a read to be decided.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// After a pause, of the process or of its disk, time goes on in steps: what peers sent meanwhile is looked at before it
/// is held against them that they sent nothing.
const TICKS_PER_TURN_MAX: u32 = 5;

/// Bounds the size of a write, and how long a tick may be late.
const INPUTS_PER_TURN_MAX: usize = 4096;
/// The same for large commands: a write that is larger than what the log has under way makes the node wait for the disk, and no
/// heartbeat leaves meanwhile.
const COMMAND_BYTES_PER_TURN_MAX: usize = 4 << 20;

impl<S: StateMachine, N: Network, C: Clock> Node<S, N, C> {
    /// A node with what its storage holds. `state` is the state machine at its beginning: it takes on the newest snapshot, which is the
    /// first thing that there is for the [`Applier`] to do, and the log will be applied to it again, as far as it turns out to be
    /// committed. Meanwhile the node takes part already, but does not campaign. Who belongs to the cluster is what the
    /// storage says, whatever is in `config`; but where the members of a cluster that begins are reached is taken from there.
    ///
    /// # Errors
    /// The storage cannot be read, or this node must not take part.
    pub fn new(
        mut config: Config,
        options: Options,
        mut storage: Storage,
        state: S,
        network: N,
        clock: C,
    ) -> Result<Node<S, N, C>, Error> {
        let restored = storage.restore()?;
        let (id, mut voters, base) = (config.id, restored.membership, restored.base);
        if storage.is_blank() {
            voters = voters.with_members_of(&config.membership);
        }
        config.membership = voters.clone();
        let bootstrap = || Bootstrap::new(id, storage.uuid(), voters);
        let bootstrap = storage.is_blank().then(bootstrap);
        let state_at_base = match restored.snapshot {
            Some(_) => BaseState::Unread,
            None if base.index > Index(0) => BaseState::Lost,
            None => BaseState::Whole,
        };
        let raft = raft::Restored {
            hard_state: restored.hard_state,
            base,
            manifest: restored.snapshot.as_ref().map(|(_, name)| name.encode()),
            state: state_at_base,
            log: restored.log,
            bad: restored.bad,
        };
        let mut node = Node {
            raft: Raft::restart(config, raft),
            storage,
            network,
            options,
            applier: Some(Applier::new(state, base.index)),
            work: VecDeque::new(),
            unfinished: 0,
            handed_out: base.index,
            applied: Index(0),
            restoring: VecDeque::new(),
            backlog: VecDeque::new(),
            is_ticking: false,
            waited_ticks: 0,
            waiting: Waiting::default(),
            snapshots: Snapshots::default(),
            jobs: VecDeque::new(),
            held: VecDeque::new(),
            submitted: WriteId::default(),
            durable: WriteId::default(),
            ticked: clock.now(),
            clock,
            own_command: LogId::default(),
            bootstrap,
            members: Membership::default(),
            standing: Standing::Outside,
            strangers: BTreeSet::new(),
            unknown_to: BTreeSet::new(),
            torn_dropped: 0,
            failure: None,
            trouble: None,
            look_for_space_at: Duration::ZERO,
        };
        node.standing = Standing::at_start(id, node.raft.membership());
        node.tell_network();
        if let Some((id, _)) = restored.snapshot {
            let file = SnapshotFile::of(&node.storage, id)?;
            node.restore(file, base.index, Restoring::Found(id));
        }
        node.begin_if_complete();
        Ok(node)
    }

    /// How the node sees itself.
    pub fn status(&self) -> Status {
        Status {
            id: self.raft.id(),
            term: self.raft.term(),
            leader: self.raft.leader(),
            commit: self.raft.commit(),
            applied: self.applied,
        }
    }

    /// What it has done.
    pub fn counts(&self) -> Counts {
        Counts {
            snapshots_taken: self.snapshots.taken,
            snapshots_installed: self.snapshots.installed,
            torn_entries_dropped: self.torn_dropped,
        }
    }

    /// The core, to look at.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The storage, to look at.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Takes in one input. Nothing is done about it before the next [`turn`](Node::turn).
    pub fn handle(&mut self, input: Input<S>) {
        let deadline = self.clock.now() + ANSWER_TIMEOUT;
        match input {
            Input::Packet(_) if self.bootstrap.is_some() => {}
            Input::Packet(packet) if self.is_in_doubt(packet.from()) => {}
            Input::Packet(Packet::Raft(mut envelope)) => {
                let (from, to) = (envelope.from, envelope.to);
                self.take_out_false_entries(&mut envelope);
                if let Err(reason) = self.raft.step(envelope) {
                    tracing::trace!(%from, %to, ?reason, "ignored a message");
                }
            }
            Input::Packet(Packet::Fetch { from, to, fetch }) => {
                if to == self.raft.id() {
                    let done = self.on_fetch(from, fetch);
                    self.note(done);
                }
            }
            Input::Packet(Packet::Boots { from, boots, .. }) => self.hear_of_boots(from, &boots),
            Input::Propose {
                command,
                on_applied,
            } => match self.propose(command) {
                Ok(id) => self.waiting.command(id, on_applied, deadline),
                Err(not_done) => on_applied(Err(not_done)),
            },
            Input::Read(query) => {
                let id = self.waiting.next_read_id();
                match self.raft.read(id) {
                    Ok(()) => self.waiting.read(id, query, deadline),
                    Err(refused) => query(Err(refused.into())),
                }
            }
            Input::ChangeMembership { change, on_change } => {
                let target = change(self.raft.membership());
                on_change(self.raft.change_membership(target));
            }
            Input::Report(on_report) => on_report(self.report()),
            Input::TransferLeadership { to, on_transfer } => {
                on_transfer(self.raft.transfer_leadership(to));
            }
            Input::Introduce { on_introduction } => on_introduction(self.introduction()),
            Input::Admit {
                introduction,
                on_admitted,
            } => on_admitted(self.admit(&introduction)),
            Input::Refused {
                by,
                by_uuid,
                refusal,
            } => self.refused(by, by_uuid, refusal),
            Input::Finished(finished) => {
                let done = self.finished(finished);
                self.note(done);
            }
            Input::Done(done) => {
                let done = self.done(done);
                self.note(done);
            }
            Input::Written | Input::Stop => {}
        }
    }

    /// Takes in what there is, as much of it as is good for one turn: it shares a write. Says whether the node is to go on.
    pub fn handle_some(&mut self, inputs: impl Iterator<Item = Input<S>>) -> bool {
        let mut bytes = 0;
        for input in inputs.take(INPUTS_PER_TURN_MAX) {
            bytes += match &input {
                Input::Stop => return false,
                Input::Propose { command, .. } => command.len(),
                _ => 0,
            };
            self.handle(input);
            if bytes >= COMMAND_BYTES_PER_TURN_MAX {
                break;
            }
        }
        true
    }

    /// Keeps the first failure for the next turn.
    fn note(&mut self, done: Result<(), Error>) {
        if let Err(failure) = done {
            self.failure.get_or_insert(failure);
        }
    }

    /// Lets time pass, and does all there is to do.
    ///
    /// # Errors
    /// The node must not go on: `disk.rs` says what ends it.
    pub fn turn(&mut self) -> Result<(), Error> {
        loop {
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            // Each time: applying a long log takes long, and a leader's heartbeats must leave meanwhile.
            self.pass_time()?;
            self.take_completed()?;
            let ready = self.raft.ready();
            if ready.is_empty() {
                return Ok(());
            }
            self.carry_out(ready)?;
        }
    }

    /// Something to do on another thread, if there is. What became of it is to be given to [`handle`](Node::handle).
    pub fn take_job(&mut self) -> Option<Job> {
        self.jobs.pop_front()
    }

    /// When the next turn is due, if nothing comes in before.
    pub fn next_turn(&self) -> Duration {
        self.ticked + TICK
    }

    /// How long that is from now on.
    pub fn until_next_turn(&self) -> Duration {
        self.next_turn().saturating_sub(self.clock.now())
    }

    /// Calls `wake`, on a thread of the log, whenever something that was written lets the node go on: with a
    /// [`turn`](Node::turn).
    pub fn wake_with(&mut self, wake: impl Fn() + Send + 'static) {
        self.storage.wake_with(wake);
    }

    fn pass_time(&mut self) -> Result<(), Error> {
        let now = self.clock.now();
        for _ in 0..TICKS_PER_TURN_MAX {
            if self.ticked + TICK > now {
                break;
            }
            self.ticked += TICK;
            if self.bootstrap.is_none() {
                self.raft.tick();
            }
            self.tick_state();
            self.tick_snapshots();
            self.tick_waiting();
            if self.trouble.is_none() {
                self.compact()?;
            }
        }
        if self.ticked + TICK <= now {
            self.ticked = now; // Lost time is not made up for.
        }
        self.waiting.expire(now, self.why_unread());
        self.look_for_space(now)
    }

    /// Tells the core what has become durable, and sends what waited for it.
    fn take_completed(&mut self) -> Result<(), Error> {
        let completed = self.storage.completed();
        let Some(durable) = self.survive(completed)?.flatten() else {
            return Ok(());
        };
        if self.has_failed() {
            return Ok(()); // What waited for it has been given up.
        }
        self.durable = durable;
        self.raft.durable(durable);
        while self.held.front().is_some_and(|(id, _)| *id <= durable) {
            let (_, envelopes) = self.held.pop_front().expect("it was just seen");
            self.send(envelopes);
        }
        Ok(())
    }

    fn send(&mut self, envelopes: Vec<Envelope>) {
        for envelope in envelopes {
            self.network.send(Packet::Raft(envelope));
        }
    }

    /// Tells the network of the membership in force, if it is a new one.
    fn tell_network(&mut self) {
        if self.members != *self.raft.membership() {
            self.members = self.raft.membership().clone();
            self.network.members_changed(&self.members);
        }
    }

    fn carry_out(&mut self, mut ready: Ready) -> Result<(), Error> {
        if ready.write.is_some() {
            self.tell_network(); // Only what is written changes it.
        }
        self.send(ready.send_now);
        if let Some(write) = ready.write {
            self.submit(&write, &mut ready.send_when_durable)?;
        }
        if self.submitted <= self.durable || planted("sent_before_durable") {
            self.send(ready.send_when_durable);
        } else if !ready.send_when_durable.is_empty() {
            self.held
                .push_back((self.submitted, ready.send_when_durable));
        }
        if !ready.committed.is_empty() {
            self.hand_out(ready.committed);
        }
        self.torn_dropped += ready.dropped.len() as u64;
        for id in ready.dropped {
            tracing::warn!(%id, "dropped an entry that is torn on every node: it was never acknowledged");
        }
        if let Some(offer) = ready.offer {
            self.take_offer(offer);
        }
        for read in ready.reads {
            self.waiting.read_decided(read);
        }
        self.hand_out_reads();
        Ok(())
    }
}

/// A node whose log has no threads of its own.
impl<S: StateMachine, N: Network, C: Clock> Node<S, N, C> {
    /// Whether something is on its way to the disk.
    pub fn is_writing(&self) -> bool {
        self.storage.is_writing()
    }

    /// Writes it, on this thread. The next [`turn`](Node::turn) goes on from there.
    ///
    /// # Errors
    /// The node must not go on: `disk.rs` says what ends it.
    pub fn drive(&mut self) -> Result<(), Error> {
        let driven = self.storage.drive();
        self.survive(driven).map(drop)
    }
}
