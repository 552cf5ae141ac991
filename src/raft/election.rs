//! Leader election (section 5.2) and its restriction (section 5.4.1).

use std::collections::BTreeMap;

use duramen_wal::types::{HardState, LogId, NodeId, Term};

use super::message::Message;
use super::read::Reads;
use super::repair::BaseState;
use super::settle::Settling;
use super::{Ignored, Leadership, Raft, Role};
use crate::canary::planted;

impl Raft {
    /// A new random timeout at each reset, so that split votes are rare and do not repeat.
    pub(super) fn reset_election_timer(&mut self) {
        let ticks = self.config.election_ticks;
        self.election_elapsed = 0;
        self.election_timeout = self.rng.u32(ticks..=2 * ticks);
    }

    /// Goes back to being a follower. A newer term comes with no vote yet; within a term the vote stays what it is.
    pub(super) fn become_follower(&mut self, term: Term) {
        assert!(
            term >= self.hard_state.term,
            "term goes back: {} then {term}",
            self.hard_state.term
        );
        if term > self.hard_state.term {
            self.hard_state = HardState {
                term,
                voted_for: None,
                ..HardState::default()
            };
            self.leader = None;
        } else if planted("vote_cleared_in_term") {
            self.hard_state.voted_for = None;
        }
        if let Role::Leader(leadership) = std::mem::replace(&mut self.role, Role::Follower) {
            self.refuse_reads(leadership.reads);
            self.reset_election_timer();
        }
    }

    /// A leader that is none any more in its own eyes. Who will be is not known.
    pub(super) fn step_down(&mut self) {
        self.leader = None;
        self.become_follower(self.hard_state.term);
    }

    /// Whether it would do harm to be elected, or to try.
    pub(super) fn must_not_lead(&self) -> bool {
        let is_unread = self.repair.state == BaseState::Unread; // Others may be able to serve already.
        // A vote that does not become durable would only leave term after term behind.
        self.is_stalled() || is_unread
    }

    /// Starts an election: a new term, a vote for itself, and a request to everybody else. The requests leave when the
    /// vote is durable, and the vote counts only then.
    pub(super) fn campaign(&mut self, is_transfer: bool) {
        if self.must_not_lead() {
            return;
        }
        let Some(term) = self.hard_state.term.0.checked_add(1) else {
            return; // A hostile peer can bring us to the last term. There is no election after it.
        };
        self.hard_state = HardState {
            term: Term(term),
            voted_for: Some(self.config.id).filter(|_| !planted("own_vote_forgotten")),
            ..HardState::default()
        };
        self.role = Role::Candidate {
            votes: BTreeMap::new(),
        };
        self.leader = None;
        self.reset_election_timer();
        let last = self.log.last();
        self.ask_voters(&Message::RequestVote { last, is_transfer });
    }

    /// Asks all voters but itself, when what was decided before is durable.
    pub(super) fn ask_voters(&mut self, message: &Message) {
        let mut voters = self.membership().all_voters();
        voters.remove(&self.config.id);
        for voter in voters {
            self.reply(voter, message.clone());
        }
    }

    pub(super) fn on_request_vote(&mut self, from: NodeId, last: LogId) -> Result<(), Ignored> {
        let free = self
            .hard_state
            .voted_for
            .is_none_or(|voted_for| voted_for == from);
        // 5.4.1: at least as up-to-date
        let granted = free && (last >= self.log.last() || planted("vote_for_any_log"));
        if granted {
            self.hard_state.voted_for = Some(from);
            self.reset_election_timer();
        }
        self.reply(from, Message::Vote { granted });
        Ok(())
    }

    pub(super) fn on_vote(&mut self, from: NodeId, granted: bool) -> Result<(), Ignored> {
        let is_voter = self.membership().is_voter(from);
        let Role::Candidate { votes } = &mut self.role else {
            return Err(Ignored::Stale);
        };
        if !is_voter {
            return Err(Ignored::Stranger);
        }
        votes.insert(from, granted);
        self.count_votes();
        Ok(())
    }

    /// The candidate's own vote counts from when it is durable.
    pub(super) fn count_own_vote(&mut self) {
        if let Role::Candidate { votes } = &mut self.role
            && self.durability.hard_state() == self.hard_state
        {
            votes.insert(self.config.id, true);
            self.count_votes();
        }
    }

    fn count_votes(&mut self) {
        let Role::Candidate { votes } = &self.role else {
            return;
        };
        // Without its own vote a candidate is not elected, whoever else voted for it.
        let own = votes.contains_key(&self.config.id);
        let granted = |id| votes.get(&id).is_some_and(|granted| *granted);
        if own && self.membership().is_majority(granted) {
            self.become_leader();
        }
    }

    /// The new leader settles its bad entries if it has any, and then begins its term.
    fn become_leader(&mut self) {
        let last = self.log.last().index;
        self.leader = Some(self.config.id);
        self.role = Role::Leader(Leadership {
            followers: BTreeMap::new(),
            term_start: last.next(),
            settling: Some(Settling::default()),
            heartbeat_elapsed: 0,
            quorum_elapsed: 0,
            transfer: None,
            heartbeat_due: true,
            reads: Reads::default(),
        });
        self.follow_membership();
        self.settle();
        if self.is_settling() {
            self.ask_peers();
        }
    }
}
