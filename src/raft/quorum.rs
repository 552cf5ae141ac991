//! Who may disturb whom: a node that would not be elected does not campaign (thesis, 9.6), who hears a leader votes for nobody
//! else (4.2.3), and a leader that hears no majority steps down (6.2).
//!
//! The three belong together. A node that was cut off comes back with the term it had, since nobody would have voted for it;
//! one that was removed cannot depose anybody; and a leader that only thinks it is one ends soon, for those who ask it.
//! What is behind in its term is still told so: an `Append` of an earlier term is answered.

use std::collections::BTreeMap;

use duramen_wal::types::{LogId, NodeId};

use super::message::Message;
use super::{Ignored, Raft, Role};

impl Raft {
    pub(super) fn tick_election(&mut self) {
        self.election_elapsed = self.election_elapsed.saturating_add(1); // A learner never campaigns.
        let is_due = self.election_elapsed >= self.election_timeout;
        if !is_due
            || self.must_not_lead()
            || !self.memberships.may_campaign(self.config.id, self.commit)
        {
            return;
        }
        match self.config.pre_vote {
            true => self.ask_for_pre_votes(),
            false => self.campaign(false),
        }
    }

    pub(super) fn tick_leader(&mut self) {
        let Role::Leader(leadership) = &mut self.role else {
            return;
        };
        leadership.heartbeat_elapsed += 1;
        if leadership.heartbeat_elapsed >= self.config.heartbeat_ticks {
            leadership.heartbeat_elapsed = 0;
            leadership.heartbeat_due = true;
        }
        leadership.tick_transfer(self.config.election_ticks);
        for follower in leadership.followers.values_mut() {
            follower.tick(self.config.offer_ticks);
        }
        leadership.quorum_elapsed += 1;
        if self.config.check_quorum && leadership.quorum_elapsed >= self.config.election_ticks {
            self.check_quorum();
        }
    }

    /// Whether this node has heard a leader lately, or is one.
    pub(super) fn hears_leader(&self) -> bool {
        let lately = self.is_leader() || self.election_elapsed < self.config.election_ticks;
        self.config.check_quorum && self.leader.is_some() && lately
    }

    /// A leader that nobody answers can neither commit nor know whether there is another one.
    fn check_quorum(&mut self) {
        let own = self.config.id;
        let Role::Leader(leadership) = &mut self.role else {
            return;
        };
        leadership.quorum_elapsed = 0;
        let (followers, ticks) = (&leadership.followers, self.config.election_ticks);
        let is_active = |id| {
            let follower = followers.get(&id);
            id == own || follower.is_some_and(|follower| follower.is_active(ticks))
        };
        if !self.memberships.current().is_majority(is_active) {
            self.step_down();
        }
    }

    /// Asks whether it would be elected. Nothing changes by that, neither term nor vote.
    fn ask_for_pre_votes(&mut self) {
        let votes = BTreeMap::from([(self.config.id, true)]);
        self.role = Role::PreCandidate { votes };
        self.leader = None;
        self.reset_election_timer();
        let last = self.log.last();
        self.ask_voters(&Message::PreVote { last });
        self.count_pre_votes();
    }

    pub(super) fn on_pre_vote(&mut self, from: NodeId, last: LogId) -> Result<(), Ignored> {
        let granted = last >= self.log.last() && !self.is_leader();
        self.reply(from, Message::PreVoted { granted });
        Ok(())
    }

    pub(super) fn on_pre_voted(&mut self, from: NodeId, granted: bool) -> Result<(), Ignored> {
        let is_voter = self.membership().is_voter(from);
        let Role::PreCandidate { votes } = &mut self.role else {
            return Err(Ignored::Stale);
        };
        if !is_voter {
            return Err(Ignored::Stranger);
        }
        votes.insert(from, granted);
        self.count_pre_votes();
        Ok(())
    }

    fn count_pre_votes(&mut self) {
        let Role::PreCandidate { votes } = &self.role else {
            return;
        };
        let granted = |id| votes.get(&id) == Some(&true);
        if self.membership().is_majority(granted) {
            self.campaign(false);
        }
    }
}
