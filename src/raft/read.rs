//! Linearizable reads without a log entry (section 8): ReadIndex.
//!
//! A leader that has been replaced does not know it. So for each read it remembers its commit index and then asks: once a
//! majority has answered a message sent *after* the read arrived, no newer leader can have committed anything before the
//! read arrived. The read may be served when the state machine has applied up to the remembered index.
//!
//! Reads that arrive between two rounds share the next one. A follower's question for a read index is a read too, answered by a
//! message; `follower_read.rs` has the follower's side.

use std::collections::{BTreeMap, VecDeque};

use duramen_wal::types::{Index, NodeId};

use super::message::{Ask, Message, Round};
use super::{Ignored, NotLeader, Raft, Refused, Role};
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
    open: VecDeque<OpenRead<ReadId>>,
    /// The followers' questions: one for each, the last that it asked.
    asked: BTreeMap<NodeId, OpenRead<Ask>>,
    round: Round,
}

/// A read, or a question, that waits for its round.
#[derive(Debug)]
struct OpenRead<T> {
    id: T,
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
        let waiting = self.open.back().is_some_and(|read| read.round > self.round)
            || self.asked.values().any(|ask| ask.round > self.round);
        if waiting {
            self.round = Round(self.round.0 + 1);
        }
        waiting
    }

    /// The round that begins after what arrives now.
    fn next_round(&self) -> Round {
        Round(self.round.0 + 1)
    }
}

impl Raft {
    /// Asks when a read may be served. The answer comes in [`Ready::reads`](super::Ready::reads). On a node that does not lead the
    /// leader is asked.
    ///
    /// # Errors
    /// No leader is known, or it cannot say yet; or this node does not lead and has lost its state.
    pub fn read(&mut self, id: ReadId) -> Result<(), Refused> {
        let index = self.read_index();
        let Role::Leader(leadership) = &mut self.role else {
            return Ok(self.read_through_leader(id)?);
        };
        let index = index.ok_or(Refused::Settling)?;
        let round = leadership.reads.next_round();
        leadership
            .reads
            .open
            .push_back(OpenRead { id, index, round });
        Ok(())
    }

    /// Up to where a read that arrives now has to see the log. `None` if this node does not lead, or settles: then it is not known
    /// which entry a read would have to wait for.
    fn read_index(&self) -> Option<Index> {
        let Role::Leader(leadership) = &self.role else {
            return None;
        };
        if leadership.settling.is_some() {
            return None;
        }
        // Before the term's first commit the leader's commit index may be behind. The term's first entry follows all that was
        // ever committed, so a read that waits for that to be applied sees it all.
        Some(match planted("read_before_the_first_commit") {
            true => self.commit,
            false => self.commit.max(leadership.term_start),
        })
    }

    /// A follower asks when it may serve reads.
    pub(super) fn on_ask_read_index(&mut self, from: NodeId, ask: Ask) -> Result<(), Ignored> {
        let index = self.read_index();
        let Role::Leader(leadership) = &mut self.role else {
            return Err(Ignored::Stale);
        };
        if !leadership.followers.contains_key(&from) {
            return Err(Ignored::Stranger);
        }
        let Some(index) = index else {
            let unknown = self.envelope(from, Message::ReadIndex { ask, index: None });
            self.send_now.push(unknown);
            return Ok(());
        };
        let round = leadership.reads.next_round();
        let asked = &mut leadership.reads.asked;
        // Asked again, it is the same question still: its round begins after it arrived the first time.
        if asked.get(&from).is_none_or(|open| open.id != ask) {
            let id = ask;
            asked.insert(from, OpenRead { id, index, round });
        }
        Ok(())
    }

    /// Answers the reads whose round a majority has answered.
    pub(super) fn decide_reads(&mut self) {
        let Role::Leader(leadership) = &self.role else {
            return;
        };
        if leadership.reads.open.is_empty() && leadership.reads.asked.is_empty() {
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
        let asked = &mut leadership.reads.asked;
        let mut answers = Vec::new();
        asked.retain(|&to, open| {
            let is_open = open.round > confirmed;
            if !is_open {
                answers.push((to, open.id, Some(open.index)));
            }
            is_open
        });
        for (to, ask, index) in answers {
            let answer = self.envelope(to, Message::ReadIndex { ask, index });
            self.send_now.push(answer);
        }
    }

    /// A leader that steps down cannot answer its open reads. Followers that asked learn it by the next leader, or in time.
    pub(super) fn refuse_reads(&mut self, reads: Reads) {
        let leader = self.leader;
        self.read_replies
            .extend(reads.open.into_iter().map(|read| ReadReply {
                id: read.id,
                index: Err(NotLeader { leader }),
            }));
    }
}
