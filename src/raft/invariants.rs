//! The five properties of figure 3, as a function to be called after every step of a test or a simulation.
//!
//! [`check`] looks at the nodes that are up, and [`History`] remembers what it has seen: so a property also holds between a
//! node now and another one, or the same one, at any time before. A check costs what has changed since the last one: the new
//! end of each log, what is newly known to be committed, and what was applied; and one more entry of each log, from its first
//! to its last and round again, for what may have changed where nothing should.
//!
//! | property | what is compared |
//! |---|---|
//! | Election Safety | each leader with the one of its term so far |
//! | Leader Append-Only | the log of a leader with itself, as long as it leads |
//! | Log Matching | each entry of each log with the one of the same term and index so far, and the ones before both |
//! | Leader Completeness | each leader with the last entry that was committed up to its term |
//! | State Machine Safety | what each node holds for committed or has applied with what is known to be committed |
//!
//! Of a bad entry only the id is compared, and what a snapshot stands for is compared by its last entry. A leader that has
//! bad entries may drop them until its term begins (see `settle.rs`): up to there its log is looked at as far as it is settled.

use std::collections::{BTreeMap, VecDeque};

use duramen_wal::types::{Entry, Index, LogId, NodeId, Term};

use super::Raft;

/// A node that is up.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    /// Its core.
    pub raft: &'a Raft,
    /// What its state machine has applied since the last check.
    pub applied: &'a [Entry],
}

/// A property of figure 3 that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Two nodes led in one term.
    #[error("Election Safety: {first} and {second} lead in term {term}")]
    ElectionSafety {
        /// The term.
        term: Term,
        /// Who led first.
        first: NodeId,
        /// Who leads too.
        second: NodeId,
    },
    /// A leader has deleted or overwritten an entry of its log.
    #[error("Leader Append-Only: {leader} had {had} in its log")]
    LeaderAppendOnly {
        /// The leader.
        leader: NodeId,
        /// What it has no more.
        had: LogId,
    },
    /// Two entries with the same term and index differ, or the ones before them do.
    #[error("Log Matching: at {node}, {id} is another entry, or follows another one")]
    LogMatching {
        /// Whose log it is.
        node: NodeId,
        /// The entry.
        id: LogId,
    },
    /// A leader lacks an entry that was committed in its term or before.
    #[error("Leader Completeness: {leader} lacks {lacks}, which is committed")]
    LeaderCompleteness {
        /// The leader.
        leader: NodeId,
        /// What it lacks.
        lacks: LogId,
    },
    /// Another entry than the one that is committed at its index is held for committed, or was applied.
    #[error("State Machine Safety: {node} takes {id} for committed")]
    StateMachineSafety {
        /// Who does.
        node: NodeId,
        /// Which entry.
        id: LogId,
    },
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct History {
    leaders: BTreeMap<Term, NodeId>,
    /// Every entry that was in any log.
    entries: BTreeMap<LogId, Known>,
    /// What is known to be committed.
    committed: BTreeMap<Index, Term>,
    /// Up to where that was known to a node in a term. Both ascend.
    committed_in: BTreeMap<Term, Index>,
    nodes: BTreeMap<NodeId, Seen>,
}

#[derive(Debug)]
struct Known {
    before: LogId,
    /// `None` if all copies that were seen are bad.
    content: Option<Entry>,
}

/// A node at the last check.
#[derive(Debug, Default)]
struct Seen {
    /// The ids of its log, after `base`.
    base: Index,
    terms: VecDeque<Term>,
    commit: Index,
    /// If it led: in which term, and the last entry that must stay.
    led: Option<(Term, LogId)>,
    /// Which entry is looked at again next.
    again: Index,
}

impl History {
    /// The leader that each term has had.
    pub fn leaders(&self) -> &BTreeMap<Term, NodeId> {
        &self.leaders
    }

    /// The last entry that is known to be committed.
    pub fn committed(&self) -> Option<LogId> {
        let last = self.committed.last_key_value();
        last.map(|(&index, &term)| LogId { term, index })
    }

    /// What is known to be committed at `index`.
    pub fn committed_at(&self, index: Index) -> Option<LogId> {
        let term = self.committed.get(&index);
        term.map(|&term| LogId { term, index })
    }

    /// The entry with this id, if it was whole in some log.
    pub fn entry(&self, id: LogId) -> Option<&Entry> {
        self.entries.get(&id)?.content.as_ref()
    }

    /// The last index that was committed when some node was in `term`, or an earlier one.
    fn committed_up_to(&self, term: Term) -> Option<LogId> {
        let (_, &index) = self.committed_in.range(..=term).next_back()?;
        self.committed_at(index)
    }

    fn commit(&mut self, node: NodeId, id: LogId) -> Result<(), Violation> {
        match *self.committed.entry(id.index).or_insert(id.term) == id.term {
            true => Ok(()),
            false => Err(Violation::StateMachineSafety { node, id }),
        }
    }

    fn committed_by(&mut self, term: Term, commit: Index) {
        let known = self.committed_in.range(..=term).next_back();
        if known.is_none_or(|(_, &known)| known < commit) {
            while let Some((&later, &known)) = self.committed_in.range(term..).next()
                && known <= commit
            {
                self.committed_in.remove(&later);
            }
            self.committed_in.insert(term, commit);
        }
    }

    /// Compares an entry with what is known of it.
    fn compare(
        &mut self,
        node: NodeId,
        entry: &Entry,
        before: LogId,
        is_bad: bool,
    ) -> Result<(), Violation> {
        let id = entry.id;
        let known = self.entries.entry(id).or_insert(Known {
            before,
            content: None,
        });
        let is_same = is_bad || known.content.get_or_insert_with(|| entry.clone()) == entry;
        match is_same && known.before == before {
            true => Ok(()),
            false => Err(Violation::LogMatching { node, id }),
        }
    }

    fn compare_at(&mut self, raft: &Raft, index: Index) -> Result<(), Violation> {
        let entry = raft.log.entry(index).expect("an index of the log");
        let before = LogId {
            term: raft.log.term_at(index.prev()).expect("no gaps"),
            index: index.prev(),
        };
        self.compare(raft.id(), entry, before, raft.log.is_bad(entry.id))
    }

    /// The entries of a log that were not there before, and one more.
    fn look_at_log(&mut self, raft: &Raft, seen: &mut Seen) -> Result<(), Violation> {
        let (base, last) = (raft.log.base(), raft.log.last().index);
        seen.forget_before(base.index);
        seen.terms.truncate((last.0 - base.index.0) as usize);
        let mut index = last;
        while index > base.index && seen.term_at(index) != raft.log.term_at(index) {
            self.compare_at(raft, index)?;
            index = index.prev();
        }
        seen.terms.truncate((index.0 - base.index.0) as usize);
        if index < last {
            let new = raft.log.range(index.next(), last);
            seen.terms.extend(new.map(|entry| entry.id.term));
        }
        seen.again = match seen.again > base.index && seen.again < last {
            true => seen.again.next(),
            false => base.index.next().min(last),
        };
        match seen.again > base.index {
            true => self.compare_at(raft, seen.again),
            false => Ok(()),
        }
    }

    /// What a node takes for committed, and what it has applied.
    fn look_at_commits(&mut self, node: Node<'_>, seen: &mut Seen) -> Result<(), Violation> {
        let (raft, id) = (node.raft, node.raft.id());
        let (base, commit) = (raft.log.base(), raft.commit());
        if base.index > Index(0) {
            self.commit(id, base)?;
        }
        // After a restart it may know of less.
        let from = seen.commit.min(commit).max(base.index).next();
        if from <= commit {
            for entry in raft.log.range(from, commit) {
                self.commit(id, entry.id)?;
            }
        }
        seen.commit = commit;
        self.committed_by(raft.term(), commit);
        for entry in node.applied {
            let known = self.committed_at(entry.id.index) == Some(entry.id);
            let content = self.entry(entry.id);
            if !known || content.is_some_and(|content| content != entry) {
                return Err(Violation::StateMachineSafety {
                    node: id,
                    id: entry.id,
                });
            }
        }
        Ok(())
    }

    fn look_at_leader(&mut self, raft: &Raft, seen: &mut Seen) -> Result<(), Violation> {
        let led = seen.led.take();
        if !raft.is_leader() {
            return Ok(());
        }
        let (leader, term) = (raft.id(), raft.term());
        let first = *self.leaders.entry(term).or_insert(leader);
        if first != leader {
            return Err(Violation::ElectionSafety {
                term,
                first,
                second: leader,
            });
        }
        let has = |id: LogId| id.index < raft.log.base().index || raft.log.holds(id);
        if let Some((_, had)) = led.filter(|(led_in, had)| *led_in == term && !has(*had)) {
            return Err(Violation::LeaderAppendOnly { leader, had });
        }
        if let Some(lacks) = self.committed_up_to(term).filter(|id| !has(*id)) {
            return Err(Violation::LeaderCompleteness { leader, lacks });
        }
        let stays = match raft.is_settling() {
            true => raft.settled_up_to(),
            false => raft.log.last().index,
        };
        let stays = raft
            .log
            .term_at(stays)
            .map(|term| LogId { term, index: stays });
        seen.led = stays.map(|stays| (term, stays));
        Ok(())
    }
}

impl Seen {
    fn forget_before(&mut self, base: Index) {
        let gone = base
            .0
            .saturating_sub(self.base.0)
            .min(self.terms.len() as u64);
        self.terms.drain(..gone as usize);
        if base < self.base {
            self.terms.clear(); // Another disk, with more of the log.
        }
        self.base = base;
    }

    fn term_at(&self, index: Index) -> Option<Term> {
        let at = index.0.checked_sub(self.base.next().0)?;
        self.terms.get(at as usize).copied()
    }
}

/// Looks at nodes that are up, once each: all of them, or those to which something has happened. They are of the same cluster
/// in all checks with this `history`, which begins with the cluster.
pub fn check(history: &mut History, nodes: &[Node<'_>]) -> Result<(), Violation> {
    let mut all_seen = std::mem::take(&mut history.nodes);
    let mut look = || {
        for node in nodes {
            let seen = all_seen.entry(node.raft.id()).or_default();
            history.look_at_log(node.raft, seen)?;
            history.look_at_commits(*node, seen)?;
        }
        // Leaders are looked at when all that is committed is known.
        for node in nodes {
            let seen = all_seen.entry(node.raft.id()).or_default();
            history.look_at_leader(node.raft, seen)?;
        }
        Ok(())
    };
    let found = look();
    history.nodes = all_seen;
    found
}
