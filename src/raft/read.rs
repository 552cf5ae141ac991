//! Linearizable reads without a log entry (section 8): ReadIndex.
//!
//! A leader that has been replaced does not know it. So for each read it remembers its commit index and then asks: once a
//! majority has answered a message sent *after* the read arrived, no newer leader can have committed anything before the
//! read arrived. The read may be served when the state machine has applied up to the remembered index.
//!
//! Reads that arrive between two rounds share the next one.

use std::collections::VecDeque;

use duramen_wal::types::Index;

use super::message::Round;
use super::{NotLeader, Raft, Refused, Role};
use crate::canary::planted;

/// A read, as the driver calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReadId(pub u64);

/// What became of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadReply {
    /// Which one.
    pub id: ReadId,
    /// It may be served once the state machine has applied up to this index. Or it has to be asked elsewhere.
    pub index: Result<Index, NotLeader>,
}

/// A leader's open reads. Invariant: in the order of their rounds.
#[derive(Debug, Default)]
pub(super) struct Reads {
    open: VecDeque<OpenRead>,
    round: Round,
}

#[derive(Debug)]
struct OpenRead {
    id: ReadId,
    index: Index,
    /// Answered by a majority, this round confirms the read.
    round: Round,
}

impl Reads {
    /// The latest round that was started.
    pub(super) fn round(&self) -> Round {
        self.round
    }

    /// Starts a round if a read waits for it. Says whether it did.
    pub(super) fn start_round(&mut self) -> bool {
        let waiting = self.open.back().is_some_and(|read| read.round > self.round);
        if waiting {
            self.round = Round(self.round.0 + 1);
        }
        waiting
    }
}

impl Raft {
    /// Asks when a read may be served. The answer comes in [`Ready::reads`](super::Ready::reads).
    pub fn read(&mut self, id: ReadId) -> Result<(), Refused> {
        let commit = self.commit;
        let Role::Leader(leadership) = &mut self.role else {
            let leader = self.leader;
            return Err(NotLeader { leader }.into());
        };
        if leadership.settling.is_some() {
            return Err(Refused::Settling); // It is not known which entry a read would have to wait for.
        }
        // Before the term's first commit the leader's commit index may be behind. The term's first entry follows all that was
        // ever committed, so a read that waits for that to be applied sees it all.
        let index = match planted("read_before_the_first_commit") {
            true => commit,
            false => commit.max(leadership.term_start),
        };
        let round = Round(leadership.reads.round.0 + 1);
        leadership
            .reads
            .open
            .push_back(OpenRead { id, index, round });
        Ok(())
    }

    /// Answers the reads whose round a majority has answered.
    pub(super) fn decide_reads(&mut self) {
        let Role::Leader(leadership) = &self.role else {
            return;
        };
        if leadership.reads.open.is_empty() {
            return;
        }
        let answered = |id| match leadership.followers.get(&id) {
            Some(follower) => follower.round,
            None => leadership.reads.round, // The leader itself, if it votes.
        };
        let mut confirmed = self.membership().reached_by_majority(answered);
        if planted("read_without_a_round") {
            confirmed = leadership.reads.round;
        }
        let Role::Leader(leadership) = &mut self.role else {
            return;
        };
        let open = &mut leadership.reads.open;
        while let Some(read) = open.front().filter(|read| read.round <= confirmed) {
            self.read_replies.push(ReadReply {
                id: read.id,
                index: Ok(read.index),
            });
            open.pop_front();
        }
    }

    /// A leader that steps down cannot answer its open reads.
    pub(super) fn refuse_reads(&mut self, reads: Reads) {
        let leader = self.leader;
        self.read_replies
            .extend(reads.open.into_iter().map(|read| ReadReply {
                id: read.id,
                index: Err(NotLeader { leader }),
            }));
    }
}
