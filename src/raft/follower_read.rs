//! Linearizable reads on a node that does not lead (thesis, 6.4).
//!
//! It asks its leader for a read index. The leader treats the question as a read of its own, see `read.rs`: once a majority has
//! answered a message that it sent after the question arrived, no newer leader had committed anything before the question was
//! sent. What arrived here before that may then be served when this node has applied up to the index that the answer names.
//!
//! One question is under way at a time, and the reads that arrive meanwhile share the next one. A question that is lost is sent
//! again under its number; one that is not answered within two election timeouts is given up, and its reads are refused, as are
//! all that are open when the leader changes.
//!
//! # Invariants
//!
//! * The reads of a question arrived before it was sent the first time.
//! * No two questions of a node have the same number, across restarts either: so an answer to another one, however late or often it
//!   comes, confirms nothing.
//! * A question tells of the term, so it leaves when that is durable.

use duramen_wal::types::{Index, NodeId, Term};

use super::durability::Disk;
use super::message::{Ask, Message};
use super::read::{ReadId, ReadReply};
use super::{Ignored, NotLeader, Raft};
use crate::canary::planted;

/// The open reads of a node that does not lead. Without a leader there are none.
#[derive(Debug)]
pub(super) struct FollowerReads {
    /// Whom they are asked of, in which term.
    leader: Option<(Term, NodeId)>,
    /// They arrived after the question was sent.
    waiting: Vec<ReadId>,
    question: Option<Question>,
    /// The number of the next question.
    next: Ask,
}

/// What the leader is asked.
#[derive(Debug)]
struct Question {
    ask: Ask,
    reads: Vec<ReadId>,
    /// Ticks since it was asked first.
    elapsed: u32,
    /// It is to be sent, perhaps again.
    is_due: bool,
}

impl FollowerReads {
    /// None are open. `first` is random: an earlier process of this node has numbered its questions too.
    pub(super) fn new(first: Ask) -> FollowerReads {
        FollowerReads {
            leader: None,
            waiting: Vec::new(),
            question: None,
            next: first,
        }
    }

    /// The reads that wait become a question, unless there is one under way.
    fn begin_question(&mut self) {
        if self.question.is_some() || self.waiting.is_empty() {
            return;
        }
        self.question = Some(Question {
            ask: self.next,
            reads: std::mem::take(&mut self.waiting),
            elapsed: 0,
            is_due: true,
        });
        self.next = Ask(self.next.0.wrapping_add(1));
    }
}

impl Raft {
    /// Takes a read that the leader is to be asked about.
    pub(super) fn read_through_leader(&mut self, id: ReadId) -> Result<(), NotLeader> {
        self.refuse_reads_of_earlier_leader();
        // What this node has not got back yet, it cannot show, whatever the index.
        if self.follower_reads.leader.is_none() || !self.has_state() {
            return Err(self.not_leader());
        }
        if planted("follower_reads_its_own_commit") {
            let index = Ok(self.commit);
            self.read_replies.push(ReadReply { id, index });
            return Ok(());
        }
        let reads = &mut self.follower_reads;
        match &mut reads.question {
            Some(question) if planted("read_joins_an_earlier_question") => question.reads.push(id),
            _ => reads.waiting.push(id),
        }
        Ok(())
    }

    /// One unit of time has passed.
    pub(super) fn tick_follower_reads(&mut self) {
        let Some(question) = &mut self.follower_reads.question else {
            return;
        };
        question.elapsed += 1;
        question.is_due |= question.elapsed % self.config.heartbeat_ticks == 0;
        if question.elapsed >= 2 * self.config.election_ticks {
            let unanswered = self.follower_reads.question.take();
            let reads = unanswered.into_iter().flat_map(|question| question.reads);
            let refused = Err(self.not_leader());
            self.decide_follower_reads(reads.collect(), refused);
        }
    }

    /// Asks the leader, if there is something to ask.
    pub(super) fn ask_for_read_index(&mut self) {
        self.refuse_reads_of_earlier_leader();
        self.follower_reads.begin_question();
        let is_term_durable = self.durability.hard_state().term == self.hard_state.term;
        let due = self.follower_reads.question.as_mut();
        if let Some((_, leader)) = self.follower_reads.leader
            && let Some(question) = due.filter(|question| question.is_due && is_term_durable)
        {
            question.is_due = false;
            let ask = question.ask;
            let asked = self.envelope(leader, Message::AskReadIndex { ask });
            self.send_now.push(asked);
        }
    }

    pub(super) fn on_read_index(
        &mut self,
        from: NodeId,
        ask: Ask,
        index: Option<Index>,
    ) -> Result<(), Ignored> {
        let reads = &mut self.follower_reads;
        if reads.leader != Some((self.hard_state.term, from)) {
            return Err(Ignored::Stale);
        }
        let answers = |question: &mut Question| {
            question.ask == ask || planted("any_answer_confirms_a_follower_read")
        };
        let Some(question) = reads.question.take_if(answers) else {
            return Err(Ignored::Stale);
        };
        // A leader that settles cannot say, and it is not known who else could.
        let index = index.ok_or(NotLeader { leader: None });
        let index = index.and_then(|index| match self.will_apply(index) {
            true => Ok(index),
            false => Err(self.not_leader()),
        });
        self.decide_follower_reads(question.reads, index);
        Ok(())
    }

    /// Only the leader that was to be asked can confirm them: another one may have been elected because this node was cut off.
    fn refuse_reads_of_earlier_leader(&mut self) {
        let leader = self.leader.filter(|leader| *leader != self.config.id);
        let leader = leader.map(|leader| (self.hard_state.term, leader));
        if leader == self.follower_reads.leader {
            return;
        }
        self.follower_reads.leader = leader;
        let question = self.follower_reads.question.take();
        let mut open = question.map_or(Vec::new(), |question| question.reads);
        open.append(&mut self.follower_reads.waiting);
        let refused = Err(self.not_leader());
        self.decide_follower_reads(open, refused);
    }

    /// What the disk does not take, this node will not apply: never if it has failed, and not soon if it is full.
    fn will_apply(&self, index: Index) -> bool {
        let last = match self.durability.disk() {
            Disk::Well => return true,
            Disk::Full | Disk::Exhausted => self.log.last().index,
            Disk::Failed => self.durability.last(),
        };
        index <= last
    }

    fn decide_follower_reads(&mut self, reads: Vec<ReadId>, index: Result<Index, NotLeader>) {
        let decided = reads.into_iter().map(|id| ReadReply { id, index });
        self.read_replies.extend(decided);
    }
}
