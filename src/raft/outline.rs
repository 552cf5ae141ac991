//! What a node shows of itself to whoever looks after it.

use duramen_wal::types::{Index, NodeId};

use super::{Raft, Role};

/// What a node does in its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleName {
    /// It follows a leader, or waits for one.
    Follower,
    /// It asks whether it would be elected.
    PreCandidate,
    /// It asks for votes.
    Candidate,
    /// It leads.
    Leader,
}

/// What a leader knows of a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follower {
    /// Who it is.
    pub id: NodeId,
    /// Its log is known to equal the leader's up to here, durably.
    pub match_index: Index,
    /// It has answered within an election timeout.
    pub answers: bool,
}

impl Raft {
    /// What this node does.
    pub fn role(&self) -> RoleName {
        match self.role {
            Role::Follower => RoleName::Follower,
            Role::PreCandidate { .. } => RoleName::PreCandidate,
            Role::Candidate { .. } => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    /// The followers of a leader; nobody, if this node does not lead.
    pub fn followers(&self) -> impl Iterator<Item = Follower> + '_ {
        let followers = match &self.role {
            Role::Leader(leadership) => Some(&leadership.followers),
            _ => None,
        };
        let followers = followers.into_iter().flatten();
        followers.map(|(&id, progress)| Follower {
            id,
            match_index: progress.match_index,
            answers: progress.is_active(self.config.election_ticks),
        })
    }

    /// The index of the entry that set the membership in force; 0 if that is the one at the beginning of the log.
    pub fn membership_index(&self) -> Index {
        self.memberships.index()
    }

    /// The payload of the entries that are in memory, in bytes; one at least for each.
    pub fn log_bytes(&self) -> u64 {
        let (base, last) = (self.log.base().index, self.log.last().index);
        match base < last {
            true => self.log.weight(base.next(), last),
            false => 0,
        }
    }
}
