//! A disk that is full, or has failed.
//!
//! A **full** disk refuses a write, and nothing of it is there. Then the node is like one that lost the unwritten end of its log in a
//! crash, and kept its term and vote: the write's entries leave the log, which nobody was told of, and so does what was about to
//! be said of them. A leader gives way: the others may have its entries, so nothing is decided by that.
//!
//! As long as the disk is full a node takes no commands, neither from clients nor from its leader, but for that it is what it was:
//! the log keeps a reserve for term and vote, blank entries and memberships. So there are elections, and a leader that serves
//! reads, even if all disks are full. A follower answers an `Append` that it does not take by what it knows to be committed: the
//! leader then sends no more than the window lets it, and goes back when the logs are compared again. If the reserve is
//! used up too, the node is silent until there is space.
//!
//! On a disk that has **failed** nothing becomes durable any more, and nothing is said that would have to be. A leader gives way,
//! unless nobody else votes: what it has committed it can show. Nobody is voted for. The node goes on hearing its leader, and
//! serves reads through it of what was durable before; those of a later term, which it cannot tell of, are sent to that leader.

use std::collections::BTreeSet;

use duramen_wal::types::{Entry, NodeId};

use super::durability::{Disk, Write};
use super::message::{Envelope, Message};
use super::{Raft, Refused, Role, is_command};
use crate::canary::planted;

/// When a leader whose disk is full hands over again. Each time costs all of them some of their reserve, so ever more rarely.
#[derive(Debug)]
pub(super) struct Handover {
    wait: u64,
    pause: u64,
    /// To whom it has handed over. Their disks may be full too.
    told: BTreeSet<NodeId>,
}

/// In election timeouts: with the defaults 10 s.
const HANDOVER_PAUSE: u64 = 40;

impl Handover {
    pub(super) fn new() -> Handover {
        Handover {
            wait: 0,
            pause: HANDOVER_PAUSE,
            told: BTreeSet::new(),
        }
    }

    /// One unit of time has passed, of so many in an election timeout. Says whether the next handover may be.
    fn tick(&mut self) -> bool {
        self.wait = self.wait.saturating_sub(1);
        self.wait == 0
    }

    fn begin(&mut self, to: NodeId, election_ticks: u32) {
        self.told.insert(to);
        self.wait = self.pause * u64::from(election_ticks);
        self.pause = self.pause.saturating_mul(2).min(u64::from(u32::MAX));
    }
}

impl Raft {
    /// The disk is full and has not taken `write`, which came with the last [`Ready`](super::Ready); nor will it ever. `held` is
    /// what was to leave when it is durable. Term and vote, if they are in it, are issued once more, alone.
    ///
    /// # Panics
    /// If it is not the last write that was issued.
    pub fn write_refused(&mut self, write: &Write, held: Vec<Envelope>) {
        for (index, badness) in self.durability.refused(write) {
            self.log.spoil(index, badness);
        }
        if let Some(first) = write.entries.first() {
            let first = first.id.index;
            self.log.truncate(first);
            self.memberships.truncated(first);
            self.commit = self.commit.min(first.prev()); // As after a crash. It is heard of again.
        }
        self.durability.set_disk(match self.durability.disk() {
            Disk::Well => Disk::Full,
            _ => Disk::Exhausted,
        });
        self.give_way();
        let kept = held.into_iter().filter(|held| !tells_of_log(&held.message));
        let later = std::mem::take(&mut self.send_when_durable);
        self.send_when_durable = kept.chain(later).collect();
    }

    /// What was found out about the space on a disk that refused a write: whether there still is none but for what is vital.
    pub fn set_disk_full(&mut self, is_full: bool) {
        if self.durability.disk() == Disk::Failed {
            return;
        }
        self.durability.set_disk(match is_full {
            true => Disk::Full,
            false => Disk::Well,
        });
        if !is_full {
            self.handover = Handover::new();
        }
    }

    /// A write has failed, and so will all others. What was to leave when one is durable must not. From now on the node says
    /// nothing that a disk must remember: it leads no more, unless it is the only voter, and votes for nobody. It serves reads of
    /// what was durable.
    pub fn disk_failed(&mut self) {
        self.durability.set_disk(Disk::Failed);
        self.send_when_durable.clear();
        let leads_alone = self.is_leader() && self.other_voters().is_empty();
        if !leads_alone {
            self.give_way();
        }
    }

    /// Leads no more, nor tries to. Whoever has most of the log may campaign at once; who will be elected, the votes say.
    fn give_way(&mut self) {
        if let Some(to) = self.successor() {
            let told = self.envelope(to, Message::TimeoutNow);
            self.send_now.push(told);
            self.handover.begin(to, self.config.election_ticks);
        }
        match self.role {
            Role::Follower => {}
            _ => self.step_down(),
        }
    }

    /// One unit of time has passed. A leader on a full disk, which can take no commands, hands over: another one may.
    pub(super) fn hand_over_if_full(&mut self) {
        if !self.handover.tick() || self.durability.disk() != Disk::Full {
            return;
        }
        if let Some(to) = self.next_in_turn() {
            self.handover.begin(to, self.config.election_ticks);
            let done = self.transfer_leadership(to);
            assert!(done.is_ok(), "a leader and a voter, and {done:?}");
        }
    }

    pub(super) fn takes_commands(&self) -> Result<(), Refused> {
        match self.durability.disk() {
            Disk::Well => Ok(()),
            Disk::Full | Disk::Exhausted => Err(Refused::DiskFull),
            Disk::Failed => Err(Refused::DiskFailed),
        }
    }

    /// Leaves of the entries that a leader sent, from position `new_from` on, only what the disk takes. Says whether that is all.
    pub(super) fn leave_what_fits(&self, entries: &mut Vec<Entry>, new_from: usize) -> bool {
        let new = entries.len() - new_from;
        let fit = match self.durability.disk() {
            Disk::Well => new,
            Disk::Full => {
                let vital = |entry: &&Entry| !is_command(entry);
                entries[new_from..].iter().take_while(vital).count()
            }
            Disk::Exhausted | Disk::Failed => 0,
        };
        entries.truncate(new_from + fit);
        fit == new
    }

    /// Whom a leader on a full disk hands over to: to one after the other, since it is not known who has space.
    fn next_in_turn(&mut self) -> Option<NodeId> {
        let next = self.successor_but(&self.handover.told);
        next.or_else(|| {
            self.handover.told.clear();
            self.successor()
        })
    }

    /// Of the other voters that answer a leader, the one that has most of the log.
    pub(super) fn successor(&self) -> Option<NodeId> {
        self.successor_but(&BTreeSet::new())
    }

    fn successor_but(&self, not: &BTreeSet<NodeId>) -> Option<NodeId> {
        let Role::Leader(leadership) = &self.role else {
            return None;
        };
        let others = self.other_voters().into_iter();
        let active = others.filter(|id| !not.contains(id)).filter_map(|id| {
            let follower = leadership.followers.get(&id)?;
            let is_active = follower.is_active(self.config.election_ticks);
            is_active.then_some((follower.match_index, id))
        });
        active.max().map(|(_, id)| id)
    }

    pub(super) fn other_voters(&self) -> Vec<NodeId> {
        let own = self.config.id;
        self.membership().voters().filter(|id| *id != own).collect()
    }
}

/// Whether a message says that entries are durable, or where the log ends.
fn tells_of_log(message: &Message) -> bool {
    match message {
        Message::AppendReply { .. } => !planted("refused_write_acknowledged"),
        Message::RequestVote { .. } | Message::PreVote { .. } => true,
        _ => false,
    }
}
