//! A node of the random schedules: its core, and what its disk holds.

use std::collections::{BTreeMap, VecDeque};

use duramen_wal::types::{Entry, HardState, Index, LogId};

use crate::raft::{Badness, Envelope, Membership, Offer, Raft, ReadId, Write, is_command};

/// A node, what its disk holds, and what is on its way to the disk with the messages that wait for it.
#[derive(Default)]
pub(super) struct SimNode {
    pub(super) raft: Option<Raft>,
    pub(super) hard_state: HardState,
    /// The newest snapshot, durable: it stands for what was applied up to there.
    pub(super) snapshot: Option<(LogId, Membership)>,
    /// What the disk has no more of the log, and what it has.
    pub(super) base: LogId,
    pub(super) log: Vec<Entry>,
    /// What of it is bad. `log` has what it was.
    pub(super) bad: BTreeMap<Index, Badness>,
    /// The snapshot cannot be read.
    pub(super) lost_state: bool,
    pub(super) space: Space,
    /// A write has failed.
    pub(super) has_failed: bool,
    pub(super) writes: VecDeque<(Option<Write>, Vec<Envelope>)>,
    pub(super) commit: Index,
    pub(super) applied: Index,
    /// What was applied since the last check.
    pub(super) applied_now: Vec<Entry>,
    /// A snapshot that is on its way here.
    pub(super) offer: Option<Offer>,
    /// Open reads, with what had been committed when each was asked.
    pub(super) reads: BTreeMap<ReadId, Index>,
}

/// What a disk takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Space {
    #[default]
    Enough,
    /// Only what is vital.
    Reserve,
    Nothing,
}

impl Space {
    pub(super) fn takes(self, write: &Write) -> bool {
        match self {
            Space::Enough => true,
            Space::Reserve => write.repairs.is_empty() && !write.entries.iter().any(is_command),
            Space::Nothing => false,
        }
    }
}

impl SimNode {
    fn position(&self, index: Index) -> usize {
        (index.0 - self.base.index.next().0) as usize
    }

    /// What the entry at `index` of the log is, or was before it was damaged.
    pub(super) fn truth(&self, index: Index) -> &Entry {
        &self.log[self.position(index)]
    }

    /// The same as `holds`, of what can be read.
    pub(super) fn holds_whole(&self, id: LogId) -> bool {
        self.holds(id) && !self.bad.contains_key(&id.index)
    }

    /// Whether the disk has an entry that is known to be committed, in the log or in a snapshot.
    pub(super) fn holds(&self, id: LogId) -> bool {
        let in_snapshot = self
            .snapshot
            .as_ref()
            .is_some_and(|(last, _)| id.index <= last.index);
        let after_base = id.index.0.checked_sub(self.base.index.next().0);
        let at = after_base.and_then(|at| self.log.get(at as usize));
        in_snapshot || at.is_some_and(|entry| entry.id == id)
    }

    pub(super) fn last(&self) -> LogId {
        self.log.last().map_or(self.base, |entry| entry.id)
    }

    /// The snapshot stands for all up to `base`.
    pub(super) fn compact(&mut self, base: LogId) {
        let held = self.log.iter().any(|entry| entry.id == base);
        match held || base == self.base {
            true => self.log.retain(|entry| entry.id.index > base.index),
            false => self.log.clear(),
        }
        match held || base == self.base {
            true => self.bad = self.bad.split_off(&base.index.next()),
            false => self.bad.clear(),
        }
        self.base = base;
    }

    pub(super) fn persist(&mut self, write: &Write) -> bool {
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        if let Some(base) = write.reset {
            self.log.clear();
            self.bad.clear();
            self.base = base;
        }
        if let Some(base) = write.purge.filter(|base| base.index > self.base.index) {
            self.compact(base);
        }
        for entry in &write.repairs {
            assert_eq!(
                self.truth(entry.id.index),
                entry,
                "a repair with another entry"
            );
            let bad = self.bad.remove(&entry.id.index);
            assert!(bad.is_some(), "{} is repaired and was whole", entry.id);
        }
        let Some(first) = write.entries.first() else {
            return false;
        };
        let kept = self.position(first.id.index);
        self.bad.split_off(&first.id.index);
        let suspect = self
            .bad
            .values()
            .any(|badness| *badness == Badness::Suspect);
        assert!(!suspect, "{} is written after a suspect entry", first.id);
        assert!(kept <= self.log.len(), "a gap on disk before {}", first.id);
        let truncates = kept < self.log.len();
        self.log.truncate(kept);
        self.log.extend(write.entries.iter().cloned());
        truncates
    }
}
