//! A new leader and its bad entries: which of them stay.
//!
//! A leader cannot send what it does not have, and it must not give up what may be committed. So before its first entry, with
//! which the term begins for everybody else, it settles every bad entry above its commit index: some node has it, or it can
//! never have been committed and is dropped, with all after it. Until then the leader sends heartbeats, and takes neither
//! commands nor reads. It would rather wait for ever than give up a committed entry.
//!
//! # Why dropping is safe
//!
//! Let `e` be a bad entry in the log of the leader of term `T`, of an earlier term. Nobody commits it in `T` before its first
//! entry: a leader counts only entries of its own term (5.4.2). So the question is whether a leader of an earlier term has
//! committed it, or still will.
//!
//! * That leader needs a majority that acknowledges `e`, or what follows it. A voter that says in term `T` that it lacks `e`
//!   has never acknowledged it: it would still have it, since what is committed is never truncated; and it never will,
//!   since it takes nothing from leaders before `T`. The answer leaves when the term is durable. All other voters may have
//!   acknowledged it: those that do not answer, whose copy is bad, and the leader itself.
//! * A majority of *which* voters? The leader that would commit `e` has `e` in its log, and so the same memberships up to it
//!   as we have. It may have later ones that we do not know; but a change begins only when the one before it is committed,
//!   so for the first commit at or after `e` at most one is later. From a membership without change it leads to a joint one,
//!   which needs a majority of the old voters too; from a joint one to that of the new voters alone. So it is enough that
//!   the new voters of the membership in force at `e` are no majority any more. To be on the safe side we ask more: in *no*
//!   set of voters, old or new, of *any* membership in our log from there on, may those who do not lack `e` be a majority.
//! * What is at or below the commit index of any node, or in anybody's snapshot, is never dropped.
//!
//! There is one more case, after a power cut at all nodes: every member of all these memberships has answered, none has
//! `e` whole, and all copies are *suspect*, none damaged. Then `e` was torn everywhere: it was never acknowledged, and it is
//! dropped and reported. (Were it acknowledged, then a majority of disks would have lost it in the one place and way that
//! looks like a torn write.) Learners are waited for too: one of them may have the only whole copy.
//!
//! # A log that becomes shorter
//!
//! This is the only time that a leader shortens its log, so a late reply of a follower must not be taken for one about the
//! entries that come into the places of the dropped ones. Therefore, until it has settled, a leader sends nothing that
//! reaches its first bad entry above its commit index, not as `prev` either: so no follower acknowledges that index.

use std::collections::BTreeMap;

use bytes::Bytes;
use duramen_wal::types::{Context, Index, LogId, NodeId, Term};

use super::progress::Progress;
use super::repair::Badness;
use super::{Raft, Role};
use crate::canary::planted;

/// What a new leader has heard of its bad entries.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// Of whole copies it has heard nothing: those are taken.
    copies: BTreeMap<Index, BTreeMap<NodeId, Copy>>,
    /// The largest commit index that anybody has told.
    commit: Index,
}

/// What a voter has of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    Lack,
    Bad(Badness),
}

/// Why an entry is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drop {
    /// So many lack it that it was never committed.
    Lacked,
    /// Every copy is torn.
    Torn,
}

impl Settling {
    /// Somebody knows that all up to `commit` is committed.
    pub(super) fn heard_of_commit(&mut self, commit: Index) {
        self.commit = self.commit.max(commit);
    }
}

impl Raft {
    /// What a new leader waits for before it takes commands: entries that are bad here, may have been committed, and
    /// that nobody who answered has. Empty if this node does not lead.
    pub fn unsettled(&self) -> Vec<(LogId, Badness)> {
        match &self.role {
            Role::Leader(leadership) => match &leadership.settling {
                Some(settling) => self
                    .log
                    .bad_after(self.commit.max(settling.commit))
                    .collect(),
                None => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// Up to here a leader's log will not change any more.
    pub(super) fn settled_up_to(&self) -> Index {
        let bad = self.log.bad_after(self.commit).next();
        let last = self.log.last().index;
        bad.map_or(last, |(id, _)| id.index.prev())
    }

    /// A voter has no whole copy of a bad entry. It counts if it says so in the leader's own term.
    pub(super) fn heard_of_copy(&mut self, from: NodeId, term: Term, id: LogId, copy: Copy) {
        let is_now = term == self.hard_state.term;
        if let Role::Leader(leadership) = &mut self.role
            && let Some(settling) = leadership.settling.as_mut().filter(|_| is_now)
        {
            let copies = settling.copies.entry(id.index).or_default();
            let known = copies.entry(from).or_insert(copy);
            // Answers may overtake each other. What was damaged once does not become torn.
            if *known != Copy::Bad(Badness::Damaged) {
                *known = copy;
            }
        }
    }

    /// Somebody knows that all up to `commit` is committed.
    pub(super) fn heard_of_commit(&mut self, commit: Index) {
        if let Role::Leader(leadership) = &mut self.role
            && let Some(settling) = &mut leadership.settling
        {
            settling.heard_of_commit(commit);
        }
    }

    /// Drops what was never committed; and when nothing is open any more, begins the term.
    pub(super) fn settle(&mut self) {
        if !self.is_settling() {
            return;
        }
        let unsettled = self.unsettled().into_iter();
        let mut fates = unsettled.map(|(id, badness)| (id.index, self.why_drop(id.index, badness)));
        if let Some((from, Some(why))) = fates.find(|(_, why)| why.is_some()) {
            self.drop_from(from, why);
        }
        if self.unsettled().is_empty() {
            self.begin_term();
        }
    }

    /// Whether an entry that is bad here was certainly never committed.
    fn why_drop(&self, index: Index, own: Badness) -> Option<Drop> {
        let Role::Leader(leadership) = &self.role else {
            return None;
        };
        let copies = leadership.settling.as_ref()?.copies.get(&index);
        let copy = |voter: NodeId| match voter == self.config.id {
            true => Some(Copy::Bad(own)),
            false => copies?.get(&voter).copied(),
        };
        let mut memberships = self.memberships.since(index).iter().map(|(_, set)| set);
        let may_have = |voter| match copy(voter) {
            Some(Copy::Bad(_)) => !planted("damaged_counts_as_lacked"),
            copy => copy != Some(Copy::Lack),
        };
        if memberships
            .clone()
            .all(|set| !set.has_any_majority(may_have))
        {
            return Some(Drop::Lacked);
        }
        let is_torn =
            |voter: &NodeId| matches!(copy(*voter), Some(Copy::Lack | Copy::Bad(Badness::Suspect)));
        let all_torn = memberships.all(|set| set.all().iter().all(is_torn));
        let drops = all_torn && !planted("torn_everywhere_is_kept");
        drops.then_some(Drop::Torn)
    }

    fn drop_from(&mut self, from: Index, why: Drop) {
        assert!(from > self.commit, "{from} is committed");
        if why == Drop::Torn {
            let dropped = self.log.range(from, self.log.last().index);
            self.repair.dropped.extend(dropped.map(|entry| entry.id));
        }
        self.log.truncate(from);
        self.memberships.truncated(from);
        self.durability.truncated(from);
        if let Role::Leader(leadership) = &mut self.role {
            for (id, follower) in &leadership.followers {
                let acknowledged = follower.match_index;
                assert!(
                    acknowledged < from,
                    "{id} has {acknowledged}, and {from} is dropped"
                );
            }
            if let Some(settling) = &mut leadership.settling {
                settling.copies.split_off(&from);
            }
        }
        self.follow_membership();
    }

    /// Appends the first entry of the term: only with an entry of its own term can a leader commit (5.4.2), and only then
    /// does it know which entries are committed (section 8). It is blank; but the first of the whole log is the membership
    /// with which the cluster begins, so that whoever joins later finds it there, or in a snapshot, with all its addresses.
    fn begin_term(&mut self) {
        let last = self.log.last().index;
        let is_whole = self.log.first_bad().is_none();
        if let Role::Leader(leadership) = &mut self.role {
            leadership.settling = None;
            leadership.term_start = last.next();
            // Entries that are bad and committed may stand between a follower and what it lacks: it is asked anew how far it
            // is.
            let followers = leadership.followers.values_mut().filter(|_| !is_whole);
            followers.for_each(|follower| follower.probe_from(last));
        }
        match last {
            Index(0) => self.append_membership(&self.membership().clone()),
            _ => self.append_own(Bytes::new(), Context::EMPTY),
        };
    }
}

impl Progress {
    /// Looks anew from the end where the logs agree.
    fn probe_from(&mut self, last: Index) {
        *self = Progress {
            match_index: self.match_index,
            round: self.round,
            silent: self.silent,
            ..Progress::new(last)
        };
    }
}
