//! Bad entries, and a lost state: asking the peers for them (protocol-aware recovery, FAST'18).
//!
//! A node may start with *bad* entries: their ids are known and their payloads are lost. The log keeps placeholders for them.
//! In votes and elections a bad entry counts as present: the node may have acknowledged it. For everything else it counts as
//! missing: it is sent to nobody, handed out to nobody, and what the node acknowledges, as a follower or to itself as a
//! leader, stops before it, until the true content is there *and* durable.
//!
//! The content comes from whoever has it: all members are asked again and again, a few entries at a time; an `Append` may
//! happen to carry it too. A peer that has only a snapshot of it gives that. The same questions ask for a snapshot if the state
//! itself is lost, since the node's newest snapshot cannot be read.
//!
//! To read a large state takes a while, in which the node may start already: it votes and replicates, and hands out nothing. It does not
//! campaign, since a leader without its state can serve nobody while another one may have read its own.
//!
//! # Terms
//!
//! An id names one entry for ever, since a term has one leader and that leader never makes two entries for an index. So
//! content is taken in whatever term it was asked for or answered. That an entry is *not* there means something only to a
//! leader that settles its log (see `settle.rs`), and only in its own term: the answer then comes from a node that takes
//! nothing any more from leaders of earlier terms.
//!
//! Therefore a question does not spread its term, unless a leader asks, which spreads it anyway: a node that was removed asks
//! as often as it likes and deposes nobody. The answer has the term of its sender, and spreads it like all messages.
//!
//! # Assumption
//!
//! No bad entry is a membership: the storage has a second copy of those. So memberships are known whatever is bad, and an
//! answer that says otherwise is not taken.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use duramen_wal::types::{Entry, Index, LogId, NodeId, Term};

use super::membership::Membership;
use super::message::Message;
use super::settle::Copy;
use super::snapshot::{Offer, OwnSnapshot};
use super::{Ignored, Raft, Role};
use crate::canary::planted;

/// How much is known of a bad entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Badness {
    /// It was durable here, so it may have been acknowledged, and is damaged.
    Damaged,
    /// It may be damaged; or it was never written whole, and so never acknowledged.
    Suspect,
}

impl fmt::Display for Badness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Badness::Damaged => "damaged",
            Badness::Suspect => "suspect",
        })
    }
}

/// What a node has of the state at the beginning of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BaseState {
    /// All of it.
    #[default]
    Whole,
    /// It is in a snapshot that is still being read: then [`Raft::state_read`] says so, or [`Raft::state_lost`].
    Unread,
    /// Nothing: the snapshot cannot be read. Nothing is handed out as committed before a peer's snapshot, which
    /// [`Ready::offer`](super::Ready::offer) tells of, is installed, or the own one is [restored](Raft::state_restored).
    Lost,
}

/// Asks for the content of entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Question {
    /// Which, in ascending order, at most 64.
    pub ids: Vec<LogId>,
    /// The sender's state is lost: it needs a snapshot that stands for all up to here, or more.
    pub state: Option<Index>,
    /// Whether the sender leads its term.
    pub is_leader: bool,
}

/// What is known of one entry that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Here it is.
    Have(Entry),
    /// The sender's log has another entry at that index, or ends before it.
    Lack(LogId),
    /// The sender's own copy is bad.
    Bad {
        /// Which.
        id: LogId,
        /// In which way.
        badness: Badness,
    },
    /// The sender's log begins after it, so it was committed.
    Purged(LogId),
}

impl Answer {
    /// What was asked for.
    pub fn id(&self) -> LogId {
        match self {
            Answer::Have(entry) => entry.id,
            Answer::Lack(id) | Answer::Bad { id, .. } | Answer::Purged(id) => *id,
        }
    }
}

/// The answer to a [`Question`]. Of entries with more payload than one message takes, only some; the rest is asked for again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// One for each entry, in the order of the question.
    pub entries: Vec<Answer>,
    /// The sender's commit index.
    pub commit: Index,
    /// The sender's newest snapshot, if what was asked for is in it only, and it has one.
    pub snapshot: Option<OwnSnapshot>,
}

/// How many entries one question asks for.
pub(super) const IDS_MAX: usize = 64;

/// What a node knows of its repair.
#[derive(Debug, Default)]
pub(super) struct Repair {
    pub(super) state: BaseState,
    /// Where the next question begins, so that entries that nobody has do not keep from asking for others.
    next: Index,
    /// Ticks since the last question.
    elapsed: u32,
    /// So many ticks from now an offer of a peer is handed out again.
    offer_wait: u32,
    /// To be reported: see [`Ready::dropped`](super::Ready::dropped).
    pub(super) dropped: Vec<LogId>,
}

impl Repair {
    /// The first question is asked at the first tick.
    pub(super) fn new(state: BaseState) -> Repair {
        Repair {
            state,
            elapsed: u32::MAX,
            ..Repair::default()
        }
    }
}

/// The side that asks.
impl Raft {
    /// The entries whose content is lost here, and not found yet. For those that a new leader waits for, see
    /// [`unsettled`](Raft::unsettled).
    pub fn bad_entries(&self) -> impl Iterator<Item = (LogId, Badness)> + '_ {
        self.log.bad()
    }

    /// Whether the state at the beginning of the log is lost, and no snapshot has been found yet.
    pub fn lacks_state(&self) -> bool {
        self.repair.state == BaseState::Lost
    }

    /// Whether the state at the beginning of the log is there: neither lost nor still being read.
    pub fn has_state(&self) -> bool {
        self.repair.state == BaseState::Whole
    }

    /// The state with which the node started, and which was [being read](BaseState::Unread), has been. Says whether it is needed: not if
    /// a newer snapshot was installed meanwhile.
    pub fn state_read(&mut self) -> bool {
        let is_needed = self.repair.state == BaseState::Unread;
        if is_needed {
            self.repair.state = BaseState::Whole;
        }
        is_needed
    }

    /// The state with which the node started, and which was [being read](BaseState::Unread), cannot be. Says whether it is needed: not if
    /// a newer snapshot was installed meanwhile.
    pub fn state_lost(&mut self) -> bool {
        let is_needed = self.repair.state == BaseState::Unread;
        if is_needed {
            self.repair = Repair::new(BaseState::Lost);
            self.snapshot = None;
        }
        is_needed
    }

    /// The state at the beginning of the log could be read after all, with the help of the peers. `manifest` is for whoever is
    /// offered its snapshot.
    ///
    /// # Panics
    /// If it is not [lacking](Raft::lacks_state).
    pub fn state_restored(&mut self, manifest: Bytes) {
        assert!(self.lacks_state(), "the state is there");
        self.repair.state = BaseState::Whole;
        let last = self.log.base();
        let membership = self.memberships.at(last.index).clone();
        self.snapshot = Some(OwnSnapshot {
            last,
            membership,
            manifest,
        });
    }

    /// The largest index up to `index` before which nothing is bad.
    pub(super) fn whole_up_to(&self, index: Index) -> Index {
        let bad = self
            .log
            .first_bad()
            .filter(|_| !planted("bad_entry_acknowledged"));
        bad.map_or(index, |bad| index.min(bad.prev()))
    }

    pub(super) fn tick_repair(&mut self) {
        let repair = &mut self.repair;
        repair.offer_wait = repair.offer_wait.saturating_sub(1);
        repair.elapsed = repair.elapsed.saturating_add(1);
        if repair.elapsed >= self.config.heartbeat_ticks {
            self.ask_peers();
        }
    }

    /// Asks all members: also those of the memberships in which a bad entry may have been committed.
    pub(super) fn ask_peers(&mut self) {
        self.repair.elapsed = 0;
        let Some(question) = self.question() else {
            return;
        };
        let since = self.log.first_bad().unwrap_or(self.commit);
        let memberships = self.memberships.since(since).iter();
        let mut members: BTreeSet<NodeId> = memberships.flat_map(|(_, m)| m.all()).collect();
        members.remove(&self.config.id);
        for member in members {
            self.reply(member, Message::AskEntries(question.clone()));
        }
    }

    /// The next question, if anything is needed.
    fn question(&mut self) -> Option<Question> {
        let bad_from = |index: Index| {
            let bad = self.log.bad_after(index.prev()).take(IDS_MAX);
            bad.map(|(id, _)| id).collect::<Vec<LogId>>()
        };
        let mut ids = bad_from(self.repair.next);
        if ids.is_empty() {
            ids = bad_from(Index(1));
        }
        self.repair.next = ids.last().map_or(Index(0), |id| id.index.next());
        let needs_state = self.lacks_state() && self.repair.offer_wait == 0;
        let question = Question {
            ids,
            state: needs_state.then(|| self.log.base().index),
            is_leader: self.is_leader(),
        };
        (needs_state || !question.ids.is_empty()).then_some(question)
    }

    pub(super) fn on_entries(
        &mut self,
        from: NodeId,
        term: Term,
        answers: Answers,
    ) -> Result<(), Ignored> {
        let mut restored = false;
        for answer in answers.entries {
            let id = answer.id();
            if !self.log.is_bad(id) {
                continue; // It was not asked for, or is here by now.
            }
            match answer {
                Answer::Have(entry) => restored |= self.restore(entry),
                Answer::Lack(_) => self.heard_of_copy(from, term, id, Copy::Lack),
                Answer::Bad { badness, .. } => {
                    self.heard_of_copy(from, term, id, Copy::Bad(badness));
                }
                Answer::Purged(_) => self.heard_of_commit(id.index),
            }
        }
        self.heard_of_commit(answers.commit);
        if let Some(snapshot) = answers.snapshot {
            self.take_offer(from, snapshot);
        }
        self.settle();
        // Whoever was the first to give something new is asked for more at once.
        if restored && let Some(question) = self.question() {
            self.reply(from, Message::AskEntries(question));
        }
        Ok(())
    }

    /// Takes the content of an entry that is bad here, if this is one.
    pub(super) fn restore(&mut self, entry: Entry) -> bool {
        let is_needed = self.log.is_bad(entry.id) && Membership::of_entry(&entry) == Ok(None);
        let is_needed = is_needed && self.takes_commands().is_ok(); // Else it will be asked for again.
        if let Some(was) = self.log.badness(entry.id.index).filter(|_| is_needed) {
            self.durability.restored(entry.id.index, was);
            self.log.restore(entry);
        }
        is_needed
    }

    /// Whether a snapshot that stands for all up to `index` makes something good.
    pub(super) fn needs_snapshot(&self, index: Index) -> bool {
        let has_state = self.lacks_state() && index >= self.log.base().index;
        has_state || self.log.first_bad().is_some_and(|bad| bad <= index)
    }

    /// The snapshot of a peer, if it is needed: the first of several, and another one only after a while.
    fn take_offer(&mut self, from: NodeId, snapshot: OwnSnapshot) {
        let last = snapshot.last;
        // A leader never gives up its log; and what is committed here is in every true snapshot.
        let may_reset = last.index > self.commit && !self.is_leader();
        let fits = self.log.holds(last) || may_reset;
        let is_free = self.offer.is_none() && self.repair.offer_wait == 0;
        if fits && is_free && self.needs_snapshot(last.index) {
            self.repair.offer_wait = self.config.offer_ticks;
            self.offer = Some(Offer {
                from,
                last,
                membership: snapshot.membership,
                manifest: snapshot.manifest,
            });
        }
    }
}

/// The side that answers, whoever asks: what it says is true for everybody.
impl Raft {
    pub(super) fn on_ask_entries(
        &mut self,
        from: NodeId,
        question: &Question,
    ) -> Result<(), Ignored> {
        let own = self.snapshot.as_ref().map(|own| own.last.index);
        let mut wants_snapshot = question.state.is_some_and(|state| own >= Some(state));
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for &id in &question.ids {
            let answer = self.answer(id);
            wants_snapshot |= matches!(answer, Answer::Purged(_));
            if let Answer::Have(entry) = &answer {
                let first = bytes == 0;
                bytes += entry.payload.len().max(1);
                if !first && bytes > self.config.append_bytes_max {
                    continue; // It will be asked for again.
                }
            }
            entries.push(answer);
        }
        let answers = Answers {
            entries,
            commit: self.commit,
            snapshot: self.snapshot.clone().filter(|_| wants_snapshot),
        };
        self.reply(from, Message::Entries(answers));
        Ok(())
    }

    fn answer(&self, id: LogId) -> Answer {
        if id.index <= self.log.base().index {
            return Answer::Purged(id);
        }
        if !self.log.holds(id) {
            return Answer::Lack(id);
        }
        let entry = self.log.entry(id.index).expect("it is held");
        match self.log.badness(id.index) {
            Some(badness) => Answer::Bad { id, badness },
            None => Answer::Have(entry.clone()),
        }
    }

    /// Whether this node leads and has not settled its log yet.
    pub(super) fn is_settling(&self) -> bool {
        matches!(&self.role, Role::Leader(leadership) if leadership.settling.is_some())
    }
}
