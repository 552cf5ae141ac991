//! Handing over the leadership (thesis, 3.10).
//!
//! The leader takes no more commands, brings the follower's log up to date, and tells it to campaign at once. If that does not
//! succeed within an election timeout, the leader goes on.
//!
//! A leader hands over by itself when its disk stalls. Its heartbeats, which need no disk, would keep the others from electing a
//! better one, while nothing that it is given is ever answered.

use duramen_wal::types::{Index, NodeId};

use super::message::Message;
use super::{Ignored, Leadership, NotLeader, Raft, Role};
use crate::canary::planted;

/// A transfer that is under way.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) to: NodeId,
    elapsed: u32,
    is_told: bool,
}

/// Why the leadership is not handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferRefused {
    /// Only a leader can.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// The node does not vote, so it cannot lead.
    #[error("node {0} is no voter")]
    NoVoter(NodeId),
}

impl Leadership {
    /// Gives up a transfer that takes too long.
    pub(super) fn tick_transfer(&mut self, ticks_max: u32) {
        if let Some(transfer) = &mut self.transfer {
            transfer.elapsed += 1;
        }
        self.transfer
            .take_if(|transfer| transfer.elapsed >= ticks_max);
    }

    /// Who is to be told to campaign now.
    fn next_leader(&mut self, last: Index) -> Option<NodeId> {
        let transfer = self.transfer.as_mut()?;
        let follower = self.followers.get(&transfer.to)?;
        let is_due = !transfer.is_told && follower.match_index >= last;
        transfer.is_told |= is_due;
        is_due.then_some(transfer.to)
    }
}

impl Raft {
    /// Hands the leadership over to `to`, as soon as its log is complete. Commands are refused meanwhile. After an election
    /// timeout without success the leader goes on; to ask for the same again meanwhile changes nothing.
    pub fn transfer_leadership(&mut self, to: NodeId) -> Result<(), TransferRefused> {
        let is_voter = self.membership().voters().any(|voter| voter == to);
        let leader = self.leader;
        let Role::Leader(leadership) = &mut self.role else {
            return Err(NotLeader { leader }.into());
        };
        if !is_voter {
            return Err(TransferRefused::NoVoter(to));
        }
        let is_under_way = |transfer: &Transfer| transfer.to == to;
        if !leadership.transfer.as_ref().is_some_and(is_under_way) {
            leadership.transfer = (to != self.config.id).then_some(Transfer {
                to,
                elapsed: 0,
                is_told: false,
            });
        }
        Ok(())
    }

    /// Whether the disk has completed none of the writes under way for an election timeout, or takes none.
    pub(super) fn is_stalled(&self) -> bool {
        let is_slow = self.durability.stalled() >= u64::from(self.config.election_ticks);
        is_slow && !planted("stall_ignored") || !self.durability.can_write()
    }

    pub(super) fn give_way_if_stalled(&mut self) {
        let Role::Leader(leadership) = &self.role else {
            return;
        };
        if !self.is_stalled() || self.other_voters().is_empty() {
            return;
        }
        if self.durability.stalled() >= 2 * u64::from(self.config.election_ticks) {
            return self.step_down(); // Nobody took it. Without a leader, they elect one.
        }
        if leadership.transfer.is_some() {
            return;
        }
        if let Some(to) = self.successor() {
            let done = self.transfer_leadership(to);
            assert!(done.is_ok(), "a leader and a voter, and {done:?}");
        }
    }

    pub(super) fn go_on_with_transfer(&mut self) {
        // While the leader settles, its log is as complete there as it can be.
        let last = match self.is_settling() {
            true => self.settled_up_to(),
            false => self.log.last().index,
        };
        if let Role::Leader(leadership) = &mut self.role
            && let Some(to) = leadership.next_leader(last)
        {
            let told = self.envelope(to, Message::TimeoutNow);
            self.send_now.push(told);
        }
    }

    pub(super) fn on_timeout_now(&mut self, from: NodeId) -> Result<(), Ignored> {
        if self.leader != Some(from) || !self.membership().is_voter(self.config.id) {
            return Err(Ignored::Stale);
        }
        self.campaign(true);
        Ok(())
    }
}
