//! What nodes say to each other: the two RPCs of figure 2 and their replies.

use super::membership::Membership;
use super::repair::{Answer, Answers, IDS_MAX, Question};
use bytes::Bytes;
use duramen_wal::types::{Entry, Index, LogId, NodeId, Term};

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Who sends it.
    pub from: NodeId,
    /// Who is to receive it.
    pub to: NodeId,
    /// The sender's term.
    pub term: Term,
    /// What it says.
    pub message: Message,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Whether the receiver would vote for the sender in a next term (thesis, 9.6). Binds nobody.
    PreVote {
        /// The sender's last entry.
        last: LogId,
    },
    /// The reply to `PreVote`.
    PreVoted {
        /// Whether it would.
        granted: bool,
    },
    /// RequestVote (section 5.2).
    RequestVote {
        /// The candidate's last entry (section 5.4.1).
        last: LogId,
        /// The leader asked for this election: it is answered also by those who hear the leader.
        is_transfer: bool,
    },
    /// The reply to `RequestVote`.
    Vote {
        /// Whether the sender voted for the candidate.
        granted: bool,
    },
    /// InstallSnapshot (section 7): the follower lacks entries that the leader has no more. The snapshot's bytes do not come
    /// with it; how the receiver gets them is between the drivers.
    InstallSnapshot {
        /// The last entry that the snapshot stands for.
        last: LogId,
        /// The membership as of that entry.
        membership: Membership,
        /// What the drivers need to find the snapshot.
        manifest: Bytes,
    },
    /// Asks for entries that are bad at the sender, or for a snapshot if its state is lost.
    AskEntries(Question),
    /// The reply to `AskEntries`.
    Entries(Answers),
    /// From the leader: the receiver is to campaign at once, its log is complete (thesis, 3.10).
    TimeoutNow,
    /// Asks the leader up to where reads that arrived at the sender have to see the log (thesis, 6.4).
    AskReadIndex {
        /// Which question it is.
        ask: Ask,
    },
    /// The reply to `AskReadIndex`, once the sender knows that it led when it was asked.
    ReadIndex {
        /// The question.
        ask: Ask,
        /// Whoever asked may serve the reads when it has applied up to there. `None`: the leader does not know its log yet.
        index: Option<Index>,
    },
    /// AppendEntries (section 5.3). Without entries it is a heartbeat.
    Append {
        /// The entry right before `entries`.
        prev: LogId,
        /// Entries to store, consecutive from `prev` on.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: Index,
        /// The leader's latest round of reads (section 8). The reply repeats it.
        round: Round,
    },
    /// The reply to `Append`.
    AppendReply {
        /// What the follower made of it.
        outcome: AppendOutcome,
        /// The round of the `Append`; 0 if that was of an earlier term.
        round: Round,
    },
}

/// What a follower made of an `Append`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The follower's log equals the leader's up to this index: `prev` and the entries sent, never more.
    Matched(Index),
    /// The follower's log does not hold `prev`.
    Conflict {
        /// The index of the `prev` that was refused.
        prev: Index,
        /// The term of the follower's entry there; 0 if it has none.
        term: Term,
        /// The first index the follower stores for that term; if it has no entry there, the one after its last.
        first: Index,
    },
}

/// Counts a leader's rounds of reads. Only compared within one term, and a node leads a term only once, without a
/// restart in between; so no round is mistaken for an older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Round(pub u64);

/// Numbers a node's questions for a read index. Each process of a node begins with a random number: an answer to an earlier one
/// says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask(pub u64);

/// No log comes so far. After a snapshot that claimed to, there would be no index left for what follows it.
const SNAPSHOT_INDEX_MAX: Index = Index(u64::MAX / 2);

/// No cluster comes so far by elections. A peer that claims a later term would leave none for the next election.
///
/// What remains: a peer that lies brings a cluster to this term, by one message. From there elections go on, for 2^31 more lies.
pub(super) const TERM_MAX: Term = Term(u64::MAX / 2);

/// Beyond [`TERM_MAX`], a term is believed that is not further from the own one than this.
const TERM_STEP_MAX: u64 = 1 << 32;

impl Message {
    /// Whether it says something in whatever term it was sent: see `repair.rs`.
    pub(super) fn is_of_any_term(&self) -> bool {
        matches!(self, Message::AskEntries(_) | Message::Entries(_))
    }
}

impl Envelope {
    /// Whether a node in the term `own` can believe the sender's.
    pub(super) fn has_term_near(&self, own: Term) -> bool {
        self.term <= TERM_MAX || self.term.0 <= own.0.saturating_add(TERM_STEP_MAX)
    }

    /// Whether it asks for a vote without the leader's wish.
    pub(super) fn asks_for_vote(&self) -> bool {
        matches!(
            self.message,
            Message::PreVote { .. }
                | Message::RequestVote {
                    is_transfer: false,
                    ..
                }
        )
    }

    /// Whether its term is taken over. A question of whoever is no leader spreads none: see `repair.rs`.
    pub(super) fn spreads_term(&self) -> bool {
        match &self.message {
            Message::AskEntries(question) => question.is_leader,
            _ => true,
        }
    }

    /// Whether the numbers in it agree with each other. Peers are not trusted to.
    pub(super) fn is_sane(&self) -> bool {
        let (prev, entries) = match &self.message {
            Message::Append { prev, entries, .. } => (prev, entries),
            Message::InstallSnapshot {
                last, membership, ..
            } => return self.is_sane_snapshot(*last, membership),
            Message::AskEntries(question) => return are_ascending(question.ids.iter().copied()),
            Message::Entries(answers) => return self.are_sane_answers(answers),
            _ => return true,
        };
        let mut before = *prev;
        entries.iter().all(|entry| {
            let follows = before.index.0.checked_add(1) == Some(entry.id.index.0);
            let sane = follows
                && before.term <= entry.id.term
                && entry.id.term <= self.term
                && Membership::of_entry(entry).is_ok();
            before = entry.id;
            sane
        })
    }

    fn is_sane_snapshot(&self, last: LogId, membership: &Membership) -> bool {
        let is_index = last.index > Index(0) && last.index <= SNAPSHOT_INDEX_MAX;
        is_index && last.term <= self.term && membership.check().is_ok()
    }

    fn are_sane_answers(&self, answers: &Answers) -> bool {
        let is_sane = |answer: &Answer| match answer {
            Answer::Have(entry) => {
                entry.id.term <= self.term && Membership::of_entry(entry).is_ok()
            }
            _ => true,
        };
        let snapshot = answers.snapshot.as_ref();
        // There is an index after each that is committed.
        answers.commit < Index(u64::MAX)
            && are_ascending(answers.entries.iter().map(Answer::id))
            && answers.entries.iter().all(is_sane)
            && snapshot.is_none_or(|own| self.is_sane_snapshot(own.last, &own.membership))
    }
}

/// Whether these can be the ids of one question.
fn are_ascending(ids: impl Iterator<Item = LogId>) -> bool {
    let (mut before, mut count) = (Index(0), 0);
    let mut ids = ids.map(|id| id.index);
    ids.all(|index| {
        let follows = index > before && count < IDS_MAX;
        (before, count) = (index, count + 1);
        follows
    })
}
