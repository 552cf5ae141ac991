//! Log replication (section 5.3) and the commit rule (section 5.4.2).

use bytes::Bytes;
use duramen_wal::types::{Context, Entry, Index, LogId, NodeId, Term};

use super::log::Log;
use super::membership::Membership;
use super::message::{AppendOutcome, Envelope, Message, Round};
use super::progress::{Mode, Progress};
use super::{Config, Ignored, Raft, Role};
use crate::canary::planted;

/// The follower's side.
impl Raft {
    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        prev: LogId,
        entries: Vec<Entry>,
        commit: Index,
        round: Round,
    ) -> Result<(), Ignored> {
        if self.leader.is_some_and(|leader| leader != from) {
            return Err(Ignored::Nonsense); // Two leaders in one term.
        }
        let mut matched = Index(prev.index.0 + entries.len() as u64);
        let Some((prev, mut entries)) = self.after_base(prev, entries) else {
            self.follow(from);
            let outcome = AppendOutcome::Matched(matched); // A snapshot stands for all of it.
            self.reply(from, Message::AppendReply { outcome, round });
            return Ok(());
        };
        if !self.log.holds(prev) {
            self.follow(from);
            let outcome = match self.takes_commands() {
                Ok(()) => self.conflict(prev.index),
                Err(_) => self.matched_commit(), // What it would send now does not fit.
            };
            self.reply(from, Message::AppendReply { outcome, round });
            return Ok(());
        }
        if planted("matched_is_the_end_of_the_log") {
            matched = matched.max(self.log.last().index);
        }
        if planted("stale_append_truncates")
            && matched >= self.commit
            && matched < self.log.last().index
        {
            self.log.truncate(matched.next());
            self.memberships.truncated(matched.next());
            self.durability.truncated(matched.next());
        }
        let new_from = entries.iter().position(|entry| !self.log.holds(entry.id));
        if let Some(at) = new_from
            && entries[at].id.index <= self.commit
        {
            return Err(Ignored::Nonsense); // It would take back what is committed.
        }
        self.follow(from);
        if let Some(at) = new_from
            && !self.leave_what_fits(&mut entries, at)
        {
            matched = Index(prev.index.0 + entries.len() as u64);
        }
        let new_from = new_from.filter(|at| *at < entries.len());
        let held = &entries[..new_from.unwrap_or(entries.len())];
        for entry in held
            .iter()
            .filter(|entry| self.log.is_bad(entry.id))
            .cloned()
            .collect::<Vec<_>>()
        {
            self.restore(entry);
        }
        if let Some(at) = new_from {
            self.store(entries, at);
        }
        // Figure 2, AppendEntries 5: min with the last entry that is known to be the leader's, not with our last one.
        let known = if planted("commit_past_matched") {
            self.log.last().index
        } else {
            matched
        };
        self.commit = self.commit.max(commit.min(known));
        // The reply leaves when all that was restored until now is durable.
        let outcome = AppendOutcome::Matched(self.whole_up_to(matched));
        self.reply(from, Message::AppendReply { outcome, round });
        Ok(())
    }

    /// What of an `Append` is after the base of the log: what is before it is committed, and so the same here as there.
    fn after_base(&self, prev: LogId, mut entries: Vec<Entry>) -> Option<(LogId, Vec<Entry>)> {
        let before = self.log.base().index.0.saturating_sub(prev.index.0) as usize;
        let prev = match before.checked_sub(1) {
            None => prev,
            Some(at) => entries.get(at)?.id,
        };
        entries.drain(..before);
        Some((prev, entries))
    }

    /// Whoever sends a valid `Append` in the current term is its leader.
    pub(super) fn follow(&mut self, leader: NodeId) {
        self.become_follower(self.hard_state.term);
        self.leader = Some(leader);
        self.reset_election_timer();
    }

    /// Stores `entries` from position `at` on. Entries that conflict with them go (figure 2, AppendEntries 3); entries
    /// that equal them stay, with all after them: the message may be an old one (4).
    fn store(&mut self, entries: Vec<Entry>, at: usize) {
        let first = entries[at].id.index;
        if first <= self.log.last().index {
            assert!(first > self.commit, "{first} is committed");
            self.log.truncate(first);
            self.memberships.truncated(first);
            self.durability.truncated(first);
        }
        for entry in entries.into_iter().skip(at) {
            self.push(entry);
        }
    }

    /// Tells the leader where to try next (end of section 5.3).
    pub(super) fn conflict(&self, prev: Index) -> AppendOutcome {
        match self.log.term_at(prev) {
            Some(term) => AppendOutcome::Conflict {
                prev,
                term,
                first: self.log.first_of(term),
            },
            None => AppendOutcome::Conflict {
                prev,
                term: Term(0),
                first: self.log.last().index.next(),
            },
        }
    }
}

/// The leader's side.
impl Raft {
    /// Appends an entry of the leader's own term.
    pub(super) fn append_own(&mut self, payload: Bytes, context: Context) -> LogId {
        let id = LogId {
            term: self.hard_state.term,
            index: self.log.last().index.next(),
        };
        self.push(Entry {
            id,
            context,
            payload,
        });
        id
    }

    /// Puts an entry at the end of the log. A membership is in force from then on (section 6).
    fn push(&mut self, entry: Entry) {
        let membership = Membership::of_entry(&entry).expect("what makes no sense was refused");
        let index = entry.id.index;
        self.log.push(entry);
        if let Some(membership) = membership {
            self.memberships.push(index, membership);
            self.follow_membership();
        }
    }

    /// Sends each follower what it lacks, or a heartbeat if one is due. Entries leave before they are durable here.
    pub(super) fn send_appends(&mut self) {
        let Role::Leader(leadership) = &mut self.role else {
            return;
        };
        let heartbeat =
            std::mem::take(&mut leadership.heartbeat_due) | leadership.reads.start_round();
        let mut sender = Sender {
            log: &self.log,
            config: &self.config,
            term: self.hard_state.term,
            commit: self.commit,
            round: leadership.reads.round(),
            messages: &mut self.send_now,
        };
        for (&id, follower) in &mut leadership.followers {
            sender.send(id, follower, heartbeat);
        }
    }

    pub(super) fn on_append_reply(
        &mut self,
        from: NodeId,
        outcome: AppendOutcome,
        round: Round,
    ) -> Result<(), Ignored> {
        let (last, settled) = (self.log.last().index, self.settled_up_to());
        let Role::Leader(leadership) = &mut self.role else {
            return Err(Ignored::Stale);
        };
        let sane_round = round <= leadership.reads.round();
        let sane_index = !matches!(outcome, AppendOutcome::Matched(index) if index > last);
        let Some(follower) = leadership
            .followers
            .get_mut(&from)
            .filter(|_| sane_round && sane_index)
        else {
            return Err(Ignored::Nonsense);
        };
        // Also a rejection says that its sender took us for the leader of this term.
        follower.silent = 0;
        follower.round = follower.round.max(round);
        match outcome {
            AppendOutcome::Matched(index) => {
                if let Some(settling) = leadership.settling.as_mut().filter(|_| index > settled) {
                    settling.heard_of_commit(index); // More than it was sent: so it knows that it is committed.
                }
                follower.matched(index);
                self.advance_commit();
            }
            AppendOutcome::Conflict { prev, term, first } => {
                if !follower.is_fresh_rejection(prev) {
                    return Err(Ignored::Stale);
                }
                // If we hold entries of the conflicting term, the logs may agree up to the last of them.
                let next = self.log.last_of(term).map_or(first, Index::next);
                follower.rejected(prev, next);
            }
        }
        Ok(())
    }

    /// Figure 2, "Leaders", the last rule: what a majority holds durably is committed, if it is of this term. Entries of
    /// earlier terms are committed by what follows them, never by counting (figure 8).
    pub(super) fn advance_commit(&mut self) {
        let Role::Leader(leadership) = &self.role else {
            return;
        };
        let matched = |id| match leadership.followers.get(&id) {
            Some(follower) => follower.match_index,
            None if planted("own_entries_count_unwritten") => self.log.last().index,
            None => self.durability.last(), // The leader itself, if it votes.
        };
        let index = self.membership().reached_by_majority(matched);
        let is_of_term = self.log.term_at(index) == Some(self.hard_state.term);
        if index > self.commit && (is_of_term || planted("commit_by_counting_earlier_terms")) {
            self.commit = index;
            self.go_on_with_change();
        }
    }
}

/// Makes the `Append`s to the followers.
struct Sender<'a> {
    log: &'a Log,
    config: &'a Config,
    term: Term,
    commit: Index,
    round: Round,
    messages: &'a mut Vec<Envelope>,
}

impl Sender<'_> {
    fn send(&mut self, to: NodeId, follower: &mut Progress, mut heartbeat: bool) {
        loop {
            if follower.next_index.prev() < self.log.base().index {
                // It lacks entries that are gone. Its heartbeats say how far the snapshot reaches at least.
                follower.next_index = self.log.base().index.next();
                if !matches!(follower.mode, Mode::Snapshot { .. }) {
                    let last = Index(0);
                    follower.mode = Mode::Snapshot { offered: 0, last };
                }
            }
            let entries = match follower.mode {
                Mode::Probe { sent: true } | Mode::Snapshot { .. } => Vec::new(),
                Mode::Probe { sent: false } | Mode::Replicate => self.entries(follower),
            };
            let probe = follower.mode == Mode::Probe { sent: false };
            if entries.is_empty() && !heartbeat && !probe {
                return;
            }
            heartbeat = false;
            let prev_index = follower.next_index.prev();
            let prev = LogId {
                term: self
                    .log
                    .term_at(prev_index)
                    .expect("next_index is at most one past the end"),
                index: prev_index,
            };
            match follower.mode {
                Mode::Probe { .. } => follower.mode = Mode::Probe { sent: true },
                Mode::Snapshot { .. } => {}
                Mode::Replicate => {
                    follower.next_index = Index(follower.next_index.0 + entries.len() as u64)
                }
            }
            self.messages.push(Envelope {
                from: self.config.id,
                to,
                term: self.term,
                message: Message::Append {
                    prev,
                    entries,
                    commit: self.commit,
                    round: self.round,
                },
            });
        }
    }

    /// The next entries for a follower, as far as the window is open. If nothing is under way, one entry goes anyway.
    fn entries(&self, follower: &Progress) -> Vec<Entry> {
        let (next, config) = (follower.next_index, self.config);
        let acknowledged = match follower.mode {
            Mode::Replicate => follower.match_index,
            Mode::Probe { .. } | Mode::Snapshot { .. } => next.prev(), // What was sent before does not count.
        };
        let entries_under_way = next.prev().0 - acknowledged.0;
        let bytes_under_way = self.log.weight(acknowledged.next(), next.prev());
        let entries = config.window_entries.saturating_sub(entries_under_way);
        let bytes = config.window_bytes.saturating_sub(bytes_under_way);
        let fits = next <= self.log.last().index && self.log.weight(next, next) <= bytes;
        if entries_under_way > 0 && !fits {
            return Vec::new();
        }
        let bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.log.slice(
            next,
            entries as usize,
            config.append_bytes_max.min(bytes_max),
        )
    }
}
