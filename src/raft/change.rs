//! Changes of the membership (section 6).
//!
//! The leader appends a joint membership; when that is committed, it appends the new one; when that is committed, it steps
//! down if it is not a member any more. Any leader does the second step, also one that was elected in between.

use std::collections::BTreeMap;

use duramen_wal::types::{Index, LogId, NodeId};

use super::membership::{BadMembership, Membership};
use super::progress::Progress;
use super::{Leadership, NotLeader, Raft, Refused, Role};
use crate::canary::planted;

/// Why a membership is not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeRefused {
    /// Only a leader can.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// There can be no such membership.
    #[error(transparent)]
    Bad(#[from] BadMembership),
    /// Another change is under way: wait until it has ended.
    #[error("another change of the membership is under way, at index {index}")]
    InProgress {
        /// Where its latest entry is.
        index: Index,
    },
    /// The leader's disk has failed.
    #[error("the leader's disk has failed: repair it, then start the node again")]
    DiskFailed,
    /// The leader is handing over to this node. Who will lead is not known yet.
    #[error("the leadership is being handed over to node {0}")]
    HandingOver(NodeId),
    /// The node would vote, and is no learner: make it one first, so that it receives the log.
    #[error("node {0} is no learner: it cannot vote before it has the log")]
    NotALearner(NodeId),
    /// The node would vote, and lacks too much of the log, or has not answered for long: it might hold up commitment.
    #[error("learner {learner} has the log up to {matched} only, or does not answer")]
    Behind {
        /// Who is to vote.
        learner: NodeId,
        /// What it is known to have.
        matched: Index,
    },
    /// The leader has committed nothing yet: until then it may not know of a change that is under way.
    #[error("the leader has committed nothing in its term yet: try again")]
    TooEarly,
}

impl Raft {
    /// Changes who belongs to the cluster. A joint membership comes in between if the voters change, so the change takes two
    /// entries; the index of the first is returned. It is at its end when [`membership`](Raft::membership) is `target` and
    /// the commit index has reached the entry that set it.
    ///
    /// Who is to vote must be a learner first, and have caught up: it must lack no more of the log than may be under way to it
    /// ([`Config::window_entries`](super::Config::window_entries)), and have answered within an election timeout (thesis, 4.2.1).
    pub fn change_membership(&mut self, target: Membership) -> Result<LogId, ChangeRefused> {
        let leadership = self.leadership()?;
        if let Some(transfer) = &leadership.transfer {
            return Err(ChangeRefused::HandingOver(transfer.to));
        }
        if self.takes_commands() == Err(Refused::DiskFailed) {
            return Err(ChangeRefused::DiskFailed); // On a full one there is space for a membership.
        }
        let target = target.settled();
        target.check()?;
        if self.commit < leadership.term_start {
            return Err(ChangeRefused::TooEarly);
        }
        let index = self.memberships.index();
        if self.is_changing_membership() && !planted("two_changes_at_once") {
            return Err(ChangeRefused::InProgress { index });
        }
        self.check_new_voters(leadership, &target)?;
        let next = self.membership().towards(target);
        if !next.can_be_decoded() {
            return Err(BadMembership::TooLarge.into());
        }
        Ok(self.append_membership(&next))
    }

    /// Nobody votes who is not about as far as the others.
    fn check_new_voters(
        &self,
        leadership: &Leadership,
        target: &Membership,
    ) -> Result<(), ChangeRefused> {
        let config = &self.config;
        let is_new = |voter: &NodeId| !self.membership().is_voter(*voter) && *voter != config.id;
        for learner in target.voters().filter(is_new) {
            let follower = leadership.followers.get(&learner);
            let follower = follower.ok_or(ChangeRefused::NotALearner(learner))?;
            let matched = follower.match_index;
            let lacks = self.log.last().index.0 - matched.0;
            if lacks > config.window_entries || !follower.is_active(config.election_ticks) {
                return Err(ChangeRefused::Behind { learner, matched });
            }
        }
        Ok(())
    }

    pub(super) fn append_membership(&mut self, membership: &Membership) -> LogId {
        self.append_own(membership.encode().into(), Membership::mark())
    }

    /// The commit index has advanced: takes the next step of a change.
    pub(super) fn go_on_with_change(&mut self) {
        if self.memberships.index() > self.commit {
            return;
        }
        if self.membership().is_joint() {
            let settled = self.membership().settled();
            self.append_membership(&settled);
        } else if !self.membership().is_voter(self.config.id) {
            // It has led until here without counting itself.
            self.step_down();
        }
    }

    /// A leader sends to all members, whatever they are.
    pub(super) fn follow_membership(&mut self) {
        let mut members = self.membership().all();
        members.remove(&self.config.id);
        let last = self.settled_up_to();
        if let Role::Leader(leadership) = &mut self.role {
            let before = std::mem::take(&mut leadership.followers);
            let mut followers: BTreeMap<_, _> = before
                .into_iter()
                .filter(|(id, _)| members.contains(id))
                .collect();
            for id in members {
                followers.entry(id).or_insert_with(|| Progress::new(last));
            }
            leadership.followers = followers;
        }
    }
}
