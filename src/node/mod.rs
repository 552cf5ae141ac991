//! The node: the only place where core, storage, network and clock meet.
//!
//! [`Node`] is one loop, generic over network and clock (and over the disk, through [`Storage`]), so that a simulator can
//! run the very code that the server runs. It does nothing by itself: whoever drives it calls [`handle`](Node::handle)
//! for each input and [`turn`](Node::turn) then. [`spawn`] is the driver for real time: a thread.
//!
//! The way of one write: `handle(Propose)` puts it into the core's log; `turn` sends it to the followers and makes it
//! durable here at the same time; their replies come in through `handle(Message)`; the next `turn` finds it committed,
//! applies it and answers the client. Everything that came in between two turns shares one write and one sync.
//!
//! # Invariants
//!
//! * A client is told that a command was applied only after it was: committed, and executed here, by this proposal's own
//!   entry and not by another leader's at the same index.
//! * A client is told [`NotDone::NotLeader`] only if the command will certainly never be applied. As long as it may be,
//!   the client waits, and at its deadline hears [`NotDone::Unknown`].
//! * After an error of the storage nothing is sent, applied or answered any more: `turn` returns the error, and the node
//!   is at its end.

mod driver;
#[cfg(test)]
mod tests;
mod waiting;

use std::time::Duration;

use bytes::Bytes;
use duramen_wal::{Entry, Index, NodeId, Term};

use crate::raft::{Raft, Ready, is_command};
use crate::storage;

pub use crate::raft::{Config, Envelope};
pub use crate::storage::{Identity, Storage};
pub use crate::transport::{ClientAddresses, Network};
pub use driver::{Handle, spawn};
use waiting::Waiting;

/// What a cluster replicates. All nodes apply the same commands in the same order, so it must be deterministic: no
/// clock, no randomness, nothing from outside.
pub trait StateMachine: Send + 'static {
    /// What applying a command gives: the answer to the client.
    type Output: Send + 'static;

    /// Applies a committed command. It may be bytes that another version of the program made; it must not panic.
    fn apply(&mut self, command: &[u8]) -> Self::Output;
}

/// Where time comes from.
pub trait Clock: Send {
    /// The time since some fixed moment. Never goes back.
    fn now(&self) -> Duration;
}

/// The operating system's clock.
#[derive(Debug)]
pub struct SystemClock(std::time::Instant);

impl SystemClock {
    /// Starts at zero.
    pub fn new() -> SystemClock {
        SystemClock(std::time::Instant::now())
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Why a command was not applied or a read not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// The command was not applied and never will be; the read was not served. Ask the leader.
    #[error("not the leader")]
    NotLeader {
        /// Who is, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The command may have been applied, or may be later.
    #[error("the outcome is unknown")]
    Unknown,
}

/// Takes the answer to a command. Called once; dropped without a call when the node ends, which means the same as
/// [`NotDone::Unknown`].
pub type OnApplied<S> = Box<dyn FnOnce(Result<<S as StateMachine>::Output, NotDone>) + Send>;

/// Runs on the state machine, in a state that is linearizable. Called once; dropped without a call when the node ends.
pub type Query<S> = Box<dyn FnOnce(Result<&S, NotDone>) + Send>;

/// What a node is fed with.
pub enum Input<S: StateMachine> {
    /// A message of a peer.
    Message(Envelope),
    /// A command of a client.
    Propose {
        /// What to replicate. Not empty.
        command: Bytes,
        /// Where the answer goes.
        on_applied: OnApplied<S>,
    },
    /// A read of a client.
    Read(Query<S>),
    /// The end.
    Stop,
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

/// A node. See the [module's documentation](self).
pub struct Node<S: StateMachine, N: Network, C: Clock> {
    raft: Raft,
    storage: Storage,
    network: N,
    clock: C,
    state: S,
    applied: Index,
    waiting: Waiting<S>,
    /// The time up to which the core has been given ticks.
    ticked: Duration,
}

/// A tick of the core.
pub const TICK: Duration = Duration::from_millis(10);

/// How long a client waits for a command or a read to be decided.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// After a pause, of the process or of its disk, time goes on in steps: what peers sent meanwhile is looked at before it
/// is held against them that they sent nothing.
const TICKS_PER_TURN_MAX: u32 = 5;

impl<S: StateMachine, N: Network, C: Clock> Node<S, N, C> {
    /// A node with what its storage holds. `state` is the state machine at its beginning: the log will be applied to it
    /// again, as far as it turns out to be committed.
    pub fn new(
        config: Config,
        storage: Storage,
        state: S,
        network: N,
        clock: C,
    ) -> Result<Node<S, N, C>, storage::Error> {
        let raft = Raft::new(config, storage.hard_state(), storage.entries()?);
        Ok(Node {
            raft,
            storage,
            network,
            state,
            applied: Index(0),
            waiting: Waiting::default(),
            ticked: clock.now(),
            clock,
        })
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

    /// Takes in one input. Nothing is done about it before the next [`turn`](Node::turn).
    pub fn handle(&mut self, input: Input<S>) {
        let deadline = self.clock.now() + ANSWER_TIMEOUT;
        match input {
            Input::Message(envelope) => {
                let (from, to) = (envelope.from, envelope.to);
                if let Err(reason) = self.raft.step(envelope) {
                    tracing::trace!(%from, %to, ?reason, "ignored a message");
                }
            }
            Input::Propose {
                command,
                on_applied,
            } => match self.raft.propose(command) {
                Ok(id) => self.waiting.command(id, on_applied, deadline),
                Err(refused) => on_applied(Err(refused.into())),
            },
            Input::Read(query) => {
                let id = self.waiting.next_read_id();
                match self.raft.read(id) {
                    Ok(()) => self.waiting.read(id, query, deadline),
                    Err(refused) => query(Err(refused.into())),
                }
            }
            Input::Stop => {}
        }
    }

    /// Lets time pass, and does all there is to do.
    ///
    /// # Errors
    /// The storage failed: the node must not go on.
    pub fn turn(&mut self) -> Result<(), storage::Error> {
        loop {
            // Each time: applying a long log takes long, and a leader's heartbeats must leave meanwhile.
            self.pass_time();
            let ready = self.raft.ready();
            if ready.is_empty() {
                return Ok(());
            }
            self.carry_out(ready)?;
        }
    }

    /// When the next [`turn`](Node::turn) is due, if nothing comes in before.
    pub fn next_turn(&self) -> Duration {
        self.ticked + TICK
    }

    fn pass_time(&mut self) {
        let now = self.clock.now();
        for _ in 0..TICKS_PER_TURN_MAX {
            if self.ticked + TICK > now {
                break;
            }
            self.ticked += TICK;
            self.raft.tick();
        }
        if self.ticked + TICK <= now {
            self.ticked = now; // Lost time is not made up for.
        }
        self.waiting.expire(now);
    }

    fn carry_out(&mut self, ready: Ready) -> Result<(), storage::Error> {
        for envelope in ready.send_now {
            self.network.send(envelope);
        }
        if let Some(write) = ready.write {
            self.storage.persist(&write)?;
            self.raft.durable(write.id);
        }
        for envelope in ready.send_when_durable {
            self.network.send(envelope);
        }
        for entry in &ready.committed {
            self.apply(entry);
        }
        for id in ready.dropped {
            tracing::warn!(%id, "dropped an entry that is torn on every node: it was never acknowledged");
        }
        if let Some(offer) = ready.offer {
            // Nodes take no snapshots yet, so this one is of a newer program.
            tracing::warn!(from = %offer.from, last = %offer.last, "cannot install a snapshot");
        }
        for read in ready.reads {
            self.waiting.read_decided(read, &self.state, self.applied);
        }
        Ok(())
    }

    fn apply(&mut self, entry: &Entry) {
        assert!(
            entry.id.index == self.applied.next(),
            "applied {}, then {}",
            self.applied,
            entry.id
        );
        self.applied = entry.id.index;
        let leader = self.raft.leader();
        let output = is_command(entry).then(|| self.state.apply(&entry.payload));
        self.waiting.applied(entry.id, output, leader, &self.state);
    }
}
