//! The Raft core: the extended paper's algorithm and nothing else.
//!
//! It is pure: no I/O, no clock, no threads, no randomness but a given seed. A driver feeds it messages
//! ([`step`](Raft::step)), time ([`tick`](Raft::tick)), commands ([`propose`](Raft::propose)) and reads
//! ([`read`](Raft::read)), and carries out what [`ready`](Raft::ready) asks for. The same calls in the same order give
//! the same state.
//!
//! ```
//! # use duramen::raft::{Config, Raft};
//! # use duramen::wal::{Entry, HardState, Index, NodeId};
//! let mut raft = Raft::new(Config::new(NodeId(1), [NodeId(1)]), HardState::default(), Vec::new());
//! while raft.leader().is_none() {
//!     raft.tick();
//!     let ready = raft.ready();
//!     if let Some(write) = ready.write {
//!         // Make write.hard_state and write.entries durable here. Then:
//!         raft.durable(write.id);
//!     }
//! }
//! let id = raft.propose("set x 1".into())?;
//! let write = raft.ready().write.expect("the entry is to be written");
//! raft.durable(write.id);
//! let committed = raft.ready().committed;
//! assert_eq!(committed.last().map(|entry| entry.id), Some(id));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Three words, never mixed: an entry is *durable* when it is on this node's disk, *committed* when it is durable on a
//! majority in a way that no later leader can undo (section 5.4), *applied* when the state machine has executed it.
//!
//! # Invariants
//!
//! * Term, vote and entries are made durable before any message leaves that tells of them, with one exception: a leader
//!   sends new entries while it writes them itself, and counts itself only when they are durable (thesis, 10.2.1).
//! * `term` never goes down; `voted_for` changes only from nobody to somebody within a term.
//! * `commit` never goes down, and nothing at or below it is ever truncated: but for what a full disk did not take.
//! * What is handed out as committed is durable and whole on this node too.
//! * A bad entry counts as present in votes and elections, and as missing in acknowledgements. It is never sent, nor taken
//!   for a blank entry.
//!
//! # Where the paper is
//!
//! | paper | here |
//! |---|---|
//! | 5.2 leader election, 5.4.1 election restriction | `election.rs` |
//! | thesis 9.6 pre-vote, 6.2 and 4.2.3 who hears a leader | `quorum.rs` |
//! | thesis 3.10 leadership transfer | `transfer.rs` |
//! | 5.3 log replication, 5.4.2 committing entries from previous terms | `replication.rs`, `progress.rs`, `log.rs` |
//! | 7 log compaction | `snapshot.rs`, `log.rs` |
//! | 6 membership | `membership.rs`, `change.rs` |
//! | 8 linearizable reads; thesis 6.4 on followers | `read.rs`; `follower_read.rs` |
//! | Protocol-Aware Recovery (FAST'18): damaged entries and snapshots | `repair.rs`, `settle.rs` |
//! | figure 2, the messages | `message.rs` |
//! | figure 3, the properties | `invariants.rs`, for tests and the simulator |
//! | figure 2, persistent state | `durability.rs`, `start.rs`; a disk that does not take it: `disk.rs` |

mod change;
mod disk;
mod durability;
mod election;
mod follower_read;
mod ignored;
#[cfg(any(test, feature = "sim"))]
pub mod invariants;
mod log;
mod membership;
mod message;
mod outline;
mod progress;
mod quorum;
mod read;
mod refused;
mod repair;
mod replication;
mod settle;
mod snapshot;
mod start;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::BTreeMap;

use bytes::Bytes;
use duramen_wal::types::{Context, Entry, HardState, Index, LogId, NodeId, Term};

pub use change::ChangeRefused;
pub use durability::{Write, WriteId};
pub use ignored::{Ignored, IgnoredCounts};
pub use membership::{BadMembership, Member, Membership, is_command, is_membership};
pub use message::{AppendOutcome, Ask, Envelope, Message, Round};
pub use outline::{Follower, RoleName};
pub use read::{ReadId, ReadReply};
pub use refused::{NotLeader, Refused};
pub use repair::{Answer, Answers, Badness, BaseState, Question};
pub use snapshot::{Offer, OwnSnapshot, SnapshotFate};
pub use start::{Config, Restored};
pub use transfer::TransferRefused;

use crate::canary::planted;
use disk::Handover;
use durability::Durability;
use follower_read::FollowerReads;
use log::Log;
use membership::Memberships;
use progress::Progress;
use read::Reads;
use repair::Repair;
use settle::Settling;
use transfer::Transfer;

/// A node of a Raft group, without disk, network and clock. See the [module's documentation](self).
#[derive(Debug)]
pub struct Raft {
    config: Config,
    rng: fastrand::Rng,
    hard_state: HardState,
    log: Log,
    memberships: Memberships,
    /// The newest snapshot of this node.
    snapshot: Option<OwnSnapshot>,
    /// The leader's, which this node needs.
    offer: Option<Offer>,
    repair: Repair,
    durability: Durability,
    handover: Handover,
    /// Known to be committed up to here.
    commit: Index,
    /// Handed out as committed up to here.
    handed_out: Index,
    role: Role,
    /// The leader of this term, if known.
    leader: Option<NodeId>,
    /// Ticks since the election timer was reset, and how many start an election.
    election_elapsed: u32,
    election_timeout: u32,
    send_now: Vec<Envelope>,
    send_when_durable: Vec<Envelope>,
    follower_reads: FollowerReads,
    read_replies: Vec<ReadReply>,
    ignored: IgnoredCounts,
}

#[derive(Debug)]
enum Role {
    Follower,
    /// About to campaign, if a majority would vote for it.
    PreCandidate {
        /// What each node that answered said.
        votes: BTreeMap<NodeId, bool>,
    },
    Candidate {
        /// What each node that answered said.
        votes: BTreeMap<NodeId, bool>,
    },
    Leader(Leadership),
}

/// What only a leader has (figure 2, "Volatile state on leaders").
#[derive(Debug)]
struct Leadership {
    followers: BTreeMap<NodeId, Progress>,
    /// The first entry of the term (section 8).
    term_start: Index,
    /// Until the term begins: which of the bad entries stay.
    settling: Option<Settling>,
    heartbeat_elapsed: u32,
    /// Ticks since it was looked who answers.
    quorum_elapsed: u32,
    /// To whom the leadership is being handed over.
    transfer: Option<Transfer>,
    /// Whether each follower is to be sent something, be it empty.
    heartbeat_due: bool,
    reads: Reads,
}

/// What the driver has to do, in any order but for what is said at each part.
#[derive(Debug, Default)]
#[must_use]
pub struct Ready {
    /// Messages that may leave at once.
    pub send_now: Vec<Envelope>,
    /// What is to be made durable, and then reported through [`Raft::durable`]. Writes are carried out in order.
    pub write: Option<Write>,
    /// Messages that leave when `write`, and all writes before it, are durable.
    pub send_when_durable: Vec<Envelope>,
    /// Entries to apply, in order. Those of which [`is_command`] says no are the core's own.
    pub committed: Vec<Entry>,
    /// Decided reads.
    pub reads: Vec<ReadReply>,
    /// Entries that a new leader has dropped from its log, since every node's copy of them was torn: they were never
    /// acknowledged. For the operator.
    pub dropped: Vec<LogId>,
    /// Nobody but a snapshot has the entries or the state that this node lacks: fetch this snapshot, make it durable, and then call
    /// [`Raft::snapshot_installed`]. It is offered again as long as it is needed, perhaps a newer one.
    pub offer: Option<Offer>,
}

impl Ready {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.send_now.is_empty()
            && self.write.is_none()
            && self.send_when_durable.is_empty()
            && self.committed.is_empty()
            && self.reads.is_empty()
            && self.dropped.is_empty()
            && self.offer.is_none()
    }
}

/// How many committed entries one [`Ready`] hands out.
const COMMITTED_ENTRIES_MAX: usize = 1024;

impl Raft {
    /// Who this node is.
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// The leader of the current term, if known.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// Whether this node is the leader, as far as it knows.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// The commit index.
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// The last entry of the log, durable or not.
    pub fn last(&self) -> LogId {
        self.log.last()
    }

    /// Whether an entry is in the log, or the last one before it.
    pub fn holds(&self, id: LogId) -> bool {
        self.log.holds(id)
    }

    /// Up to where a leader knows that a follower's log equals its own, durably; `None` if this node does not lead.
    pub fn match_index(&self, follower: NodeId) -> Option<Index> {
        match &self.role {
            Role::Leader(leadership) => Some(leadership.followers.get(&follower)?.match_index),
            _ => None,
        }
    }

    /// More is known of the nodes that belong to the cluster at the beginning of the log, which is empty.
    ///
    /// # Panics
    /// If the log has begun.
    pub fn begin_with(&mut self, membership: Membership) {
        assert!(
            self.log.last() == LogId::default(),
            "the log has begun: {}",
            self.log.last()
        );
        self.memberships = Memberships::new(Index(0), membership);
    }

    /// Who belongs to the cluster, as of the last entry of the log.
    pub fn membership(&self) -> &Membership {
        self.memberships.current()
    }

    /// Whether that, or a joint membership on the way to another one, is not committed yet: as far as this node knows.
    pub fn is_changing_membership(&self) -> bool {
        self.memberships.index() > self.commit || self.membership().is_joint()
    }

    /// One unit of time has passed.
    ///
    /// A leader whose disk has completed nothing of its writes for an election timeout hands the leadership over, to the voter that has
    /// most of the log; if that does not succeed within another one, it steps down. A node whose disk stalls does not campaign.
    pub fn tick(&mut self) {
        self.durability.tick();
        match &self.role {
            Role::Leader(_) => {
                self.tick_leader();
                self.give_way_if_stalled();
            }
            _ => self.tick_election(),
        }
        self.hand_over_if_full();
        self.tick_follower_reads();
        self.tick_repair();
    }

    /// Takes in a message of a peer. A message that makes no sense changes nothing,
    /// but for the term if that is absurd.
    pub fn step(&mut self, envelope: Envelope) -> Result<(), Ignored> {
        let taken = self.take_in(envelope);
        if let Err(reason) = taken {
            self.ignored.count(reason);
        }
        taken
    }

    /// How many messages were not looked at since the start, and why.
    pub fn ignored(&self) -> IgnoredCounts {
        self.ignored
    }

    fn take_in(&mut self, envelope: Envelope) -> Result<(), Ignored> {
        if envelope.to != self.config.id {
            return Err(Ignored::NotForMe);
        }
        if envelope.from == self.config.id {
            return Err(Ignored::Stranger);
        }
        if !envelope.is_sane() {
            return Err(Ignored::Nonsense);
        }
        if envelope.asks_for_vote() && self.hears_leader() {
            return Err(Ignored::HasLeader); // Its term too is let be.
        }
        if envelope.term > self.hard_state.term && envelope.spreads_term() {
            if !envelope.has_term_near(self.hard_state.term) {
                // Perhaps others were brought so far while this node was away. As near as this, the next message is believed.
                self.become_follower(message::TERM_MAX.max(self.hard_state.term));
                return Err(Ignored::Nonsense);
            }
            self.become_follower(envelope.term); // figure 2, "All servers"
        }
        let Envelope {
            from,
            term,
            message,
            ..
        } = envelope;
        if term < self.hard_state.term && !message.is_of_any_term() {
            return self.answer_stale(from, message);
        }
        match message {
            Message::AskEntries(question) => self.on_ask_entries(from, &question),
            Message::Entries(answers) => self.on_entries(from, term, answers),
            Message::PreVote { last } => self.on_pre_vote(from, last),
            Message::PreVoted { granted } => self.on_pre_voted(from, granted),
            Message::RequestVote { last, .. } => self.on_request_vote(from, last),
            Message::Vote { granted } => self.on_vote(from, granted),
            Message::TimeoutNow => self.on_timeout_now(from),
            Message::InstallSnapshot {
                last,
                membership,
                manifest,
            } => self.on_install_snapshot(Offer {
                from,
                last,
                membership,
                manifest,
            }),
            Message::Append {
                prev,
                entries,
                commit,
                round,
            } => self.on_append(from, prev, entries, commit, round),
            Message::AppendReply { outcome, round } => self.on_append_reply(from, outcome, round),
            Message::AskReadIndex { ask } => self.on_ask_read_index(from, ask),
            Message::ReadIndex { ask, index } => self.on_read_index(from, ask, index),
        }
    }

    /// Appends a command to the leader's log. Returns where: if an entry of another term is committed at that index, or
    /// an entry of a later term at a lower one, the command will never be applied.
    ///
    /// # Panics
    /// If `command` is empty: that is the mark of a blank entry.
    pub fn propose(&mut self, command: Bytes) -> Result<LogId, Refused> {
        assert!(!command.is_empty(), "a command is not empty");
        let leadership = self.leadership()?;
        if let Some(transfer) = &leadership.transfer {
            return Err(Refused::HandingOver(transfer.to));
        }
        if leadership.settling.is_some() {
            return Err(Refused::Settling);
        }
        self.takes_commands()?;
        Ok(self.append_own(command, Context::EMPTY))
    }

    fn leadership(&self) -> Result<&Leadership, NotLeader> {
        match &self.role {
            Role::Leader(leadership) => Ok(leadership),
            _ => Err(self.not_leader()),
        }
    }

    /// Says who is the leader instead.
    fn not_leader(&self) -> NotLeader {
        let leader = self.leader;
        NotLeader { leader }
    }

    /// The write `id`, and all before it, are durable.
    ///
    /// # Panics
    /// If no such write was asked for.
    pub fn durable(&mut self, id: WriteId) {
        self.durability.durable(id);
        self.count_own_vote();
        self.advance_commit();
    }

    /// What is to be done now. Call it after any of the other calls, until it is empty.
    pub fn ready(&mut self) -> Ready {
        self.send_appends();
        self.offer_snapshots();
        self.go_on_with_transfer();
        self.decide_reads();
        self.ask_for_read_index();
        // A snapshot must not be durable before the term it is of: a restart would find the log ahead of the term.
        let term = self.durability.hard_state().term;
        let mut offer = self.offer.take_if(|offer| offer.last.term <= term);
        if !self.durability.can_write() {
            // What these tell of will not be durable, so they are lost; whoever waits for one asks again.
            self.send_when_durable.clear();
            offer = None;
        }
        Ready {
            send_now: std::mem::take(&mut self.send_now),
            write: self.durability.issue(self.hard_state, &self.log),
            send_when_durable: std::mem::take(&mut self.send_when_durable),
            committed: self.hand_out_committed(),
            reads: std::mem::take(&mut self.read_replies),
            dropped: std::mem::take(&mut self.repair.dropped),
            offer,
        }
    }

    fn hand_out_committed(&mut self) -> Vec<Entry> {
        let up_to = self.commit.min(self.durability.last());
        if self.handed_out >= up_to || !self.has_state() {
            return Vec::new();
        }
        let all = self.log.range(self.handed_out.next(), up_to);
        let committed: Vec<Entry> = all.take(COMMITTED_ENTRIES_MAX).cloned().collect();
        self.handed_out = Index(self.handed_out.0 + committed.len() as u64);
        committed
    }

    /// A message of an earlier term: its sender is told the present one. Replies are not answered.
    fn answer_stale(&mut self, from: NodeId, message: Message) -> Result<(), Ignored> {
        match message {
            Message::PreVote { .. } => self.reply(from, Message::PreVoted { granted: false }),
            Message::RequestVote { .. } => self.reply(from, Message::Vote { granted: false }),
            Message::AskReadIndex { ask } => {
                self.reply(from, Message::ReadIndex { ask, index: None });
            }
            Message::Append {
                prev: LogId { index, .. },
                ..
            }
            | Message::InstallSnapshot {
                last: LogId { index, .. },
                ..
            } => {
                let outcome = self.conflict(index);
                // The round is of the earlier term, and the reply of the present one: repeated, it would confirm reads
                // that its receiver, elected meanwhile, asked about later.
                let round = match message {
                    Message::Append { round, .. } if planted("stale_round_confirms") => round,
                    _ => Round::default(),
                };
                self.reply(from, Message::AppendReply { outcome, round });
            }
            Message::PreVoted { .. }
            | Message::Vote { .. }
            | Message::AskEntries(_)
            | Message::Entries(_)
            | Message::TimeoutNow
            | Message::ReadIndex { .. }
            | Message::AppendReply { .. } => {}
        }
        Err(Ignored::Stale)
    }

    /// Replies tell of the term, the vote or the log, so they leave when those are durable.
    fn reply(&mut self, to: NodeId, message: Message) {
        let envelope = self.envelope(to, message);
        self.send_when_durable.push(envelope);
    }

    fn envelope(&self, to: NodeId, message: Message) -> Envelope {
        Envelope {
            from: self.config.id,
            to,
            term: self.hard_state.term,
            message,
        }
    }
}
