//! What of the core's state is durable.
//!
//! The core hands out writes ([`Write`]) and is told when each is durable, in order. Meanwhile it goes on, and may
//! truncate and rewrite entries that an earlier write still carries.
//!
//! Invariants:
//! * `last <= issued`, and entries up to `last` are on disk as they are in the log.
//! * An index counts as durable only when the latest write that touched it is: a truncation takes the index back from
//!   every write under way, so a write of overwritten entries that completes late says nothing about the new ones.
//! * A hole is an entry whose place on the disk is bad. It ends when the write that repairs it is durable, or when the entry
//!   goes: a truncation takes the repairs back too, so that a late one says nothing about a new entry at that index.
//! * A write that is refused has never been: what it carried is to be written again, or is not in the log any more.
//! * While an entry is suspect, nothing is written after it: the log engine takes nothing there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use duramen_wal::types::{Entry, HardState, Index, LogId};

use super::log::Log;
use super::repair::Badness;
use crate::canary::planted;

/// A write, in the order of issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct WriteId(pub u64);

/// What is to be made durable: one batch. The entries replace what the log holds from the first of them on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// To be given back through [`Raft::durable`](super::Raft::durable).
    pub id: WriteId,
    /// The term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// A snapshot that was installed stands for all entries so far, up to this one: they go, and the log goes on after it.
    pub reset: Option<LogId>,
    /// A snapshot that was installed stands for bad entries up to this one: they go, what follows stays.
    pub purge: Option<LogId>,
    /// The true content of entries that were bad on this disk, to be put in their places, before `entries`.
    pub repairs: Vec<Entry>,
    /// Entries, consecutive.
    pub entries: Vec<Entry>,
}

/// What the disk takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disk {
    /// Everything.
    Well,
    /// It is full: what is vital still has a reserve. Those are term and vote, and entries that are no commands.
    Full,
    /// The reserve is used up too.
    Exhausted,
    /// A write has failed: nothing, for ever.
    Failed,
}

#[derive(Debug)]
pub(super) struct Durability {
    disk: Disk,
    latest: WriteId,
    issued_hard_state: HardState,
    issued: Index,
    /// To be issued with the next write.
    reset: Option<LogId>,
    purge: Option<LogId>,
    /// With what was bad about each.
    repairs: BTreeMap<Index, Badness>,
    under_way: VecDeque<UnderWay>,
    hard_state: HardState,
    last: Index,
    holes: BTreeSet<Index>,
    /// Ticks so far, and when a write was completed last.
    now: u64,
    completed: u64,
}

#[derive(Debug)]
struct UnderWay {
    id: WriteId,
    /// When it was issued.
    issued: u64,
    hard_state: HardState,
    last: Index,
    repairs: Vec<(Index, Badness)>,
}

impl Durability {
    /// All of what was read back from disk is durable, but for the holes.
    pub(super) fn new(hard_state: HardState, log: &Log) -> Durability {
        let last = log.last().index;
        Durability {
            disk: Disk::Well,
            latest: WriteId(0),
            issued_hard_state: hard_state,
            issued: last,
            reset: None,
            purge: None,
            repairs: BTreeMap::new(),
            under_way: VecDeque::new(),
            hard_state,
            last,
            holes: log.bad().map(|(id, _)| id.index).collect(),
            now: 0,
            completed: 0,
        }
    }

    /// One unit of time has passed.
    pub(super) fn tick(&mut self) {
        self.now += 1;
    }

    /// For how many ticks the disk has completed nothing, though it was given something: one that has much to do, and does it, has
    /// not stalled.
    pub(super) fn stalled(&self) -> u64 {
        let oldest = self.under_way.front();
        oldest.map_or(0, |write| self.now - write.issued.max(self.completed))
    }

    pub(super) fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// All up to here is durable and whole.
    pub(super) fn last(&self) -> Index {
        let hole = self.holes.first();
        hole.map_or(self.last, |hole| self.last.min(hole.prev()))
    }

    /// The true content of a hole is known, and to be written.
    pub(super) fn restored(&mut self, index: Index, was: Badness) {
        assert!(self.holes.contains(&index), "{index} is no hole");
        self.repairs.insert(index, was);
    }

    /// What the disk takes.
    pub(super) fn disk(&self) -> Disk {
        self.disk
    }

    /// It takes less, or more, than it did.
    pub(super) fn set_disk(&mut self, disk: Disk) {
        self.disk = disk;
    }

    /// Whether anything can become durable that is not on its way yet.
    pub(super) fn can_write(&self) -> bool {
        matches!(self.disk, Disk::Well | Disk::Full)
    }

    /// The write, which is the last that was issued, was not taken. Gives what it would have repaired.
    pub(super) fn refused(&mut self, write: &Write) -> Vec<(Index, Badness)> {
        let refused = self.under_way.pop_back();
        let refused = refused.filter(|refused| refused.id == write.id);
        let refused = refused.unwrap_or_else(|| panic!("write {} is not the last", write.id.0));
        let before = self.under_way.back();
        self.issued_hard_state = before.map_or(self.hard_state, |before| before.hard_state);
        (self.reset, self.purge) = (write.reset, write.purge);
        if let Some(first) = write.entries.first() {
            self.truncated(first.id.index);
        }
        refused.repairs
    }

    /// A snapshot stands for all up to `base`, and what is after it stays.
    pub(super) fn compacted(&mut self, base: LogId) {
        let first = base.index.next();
        if self.holes.first().is_some_and(|hole| *hole < first) {
            self.purge = Some(base);
        }
        self.holes = self.holes.split_off(&first);
        self.repairs = self.repairs.split_off(&first);
        for write in &mut self.under_way {
            write.repairs.retain(|(index, _)| *index >= first);
        }
    }

    /// The last index that was given out to be written.
    pub(super) fn issued(&self) -> Index {
        self.issued
    }

    /// The log was cut off before `from`.
    pub(super) fn truncated(&mut self, from: Index) {
        let kept = from.prev();
        self.issued = self.issued.min(kept);
        self.last = self.last.min(kept);
        self.holes.split_off(&from);
        self.repairs.split_off(&from);
        for write in self
            .under_way
            .iter_mut()
            .filter(|_| !planted("late_write_counts"))
        {
            write.last = write.last.min(kept);
            write.repairs.retain(|(index, _)| *index < from);
        }
    }

    /// A durable snapshot stands for all that was issued.
    pub(super) fn reset(&mut self, base: LogId) {
        self.truncated(Index(1));
        (self.reset, self.purge) = (Some(base), None);
        (self.issued, self.last) = (base.index, base.index);
    }

    /// What is to be written next, if anything.
    pub(super) fn issue(&mut self, hard_state: HardState, log: &Log) -> Option<Write> {
        if !self.can_write() {
            return None;
        }
        let last = match log.has_suspects() {
            true => self.issued,
            false => log.last().index,
        };
        let hard_state_changed = hard_state != self.issued_hard_state;
        let nothing_goes = self.reset.is_none() && self.purge.is_none();
        if !hard_state_changed && last == self.issued && nothing_goes && self.repairs.is_empty() {
            return None;
        }
        let repairs: Vec<_> = std::mem::take(&mut self.repairs).into_iter().collect();
        let repaired = repairs.iter().filter_map(|(index, _)| log.entry(*index));
        let repaired = repaired.cloned().collect();
        let entries = log.range(self.issued.next(), last).cloned().collect();
        self.latest = WriteId(self.latest.0 + 1);
        self.issued_hard_state = hard_state;
        self.issued = last;
        self.under_way.push_back(UnderWay {
            id: self.latest,
            issued: self.now,
            hard_state,
            last,
            repairs,
        });
        Some(Write {
            id: self.latest,
            hard_state: hard_state_changed.then_some(hard_state),
            reset: self.reset.take(),
            purge: self.purge.take(),
            repairs: repaired,
            entries,
        })
    }

    /// The write `id` and all before it are durable.
    pub(super) fn durable(&mut self, id: WriteId) {
        assert!(
            id <= self.latest,
            "write {} is durable, only {} were issued",
            id.0,
            self.latest.0
        );
        while let Some(write) = self.under_way.front().filter(|write| write.id <= id) {
            self.hard_state = write.hard_state;
            self.last = self.last.max(write.last);
            write.repairs.iter().for_each(|(index, _)| {
                self.holes.remove(index);
            });
            self.under_way.pop_front();
            self.completed = self.now;
        }
    }
}

#[cfg(test)]
mod tests {
    use duramen_wal::types::Term;

    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        let id = LogId {
            term: Term(term),
            index: Index(index),
        };
        Entry {
            id,
            ..Entry::default()
        }
    }

    /// The ABA of FAULTS: index 2 is written, truncated and written anew; the first write completes late.
    #[test]
    fn a_late_write_of_overwritten_entries_makes_nothing_durable() {
        let hard_state = HardState {
            term: Term(2),
            voted_for: None,
            ..HardState::default()
        };
        let mut durability = Durability::new(hard_state, &Log::default());
        let mut log = Log::new(LogId::default(), vec![entry(1, 1), entry(2, 1)]);
        let first = durability.issue(hard_state, &log).unwrap();
        assert_eq!(first.entries.len(), 2);
        log.truncate(Index(2));
        durability.truncated(Index(2));
        log.push(entry(2, 2));
        log.push(entry(3, 2));
        let second = durability.issue(hard_state, &log).unwrap();
        assert_eq!(second.entries, [entry(2, 2), entry(3, 2)]);
        durability.durable(first.id);
        assert_eq!(durability.last(), Index(1));
        durability.durable(second.id);
        assert_eq!(durability.last(), Index(3));
    }

    #[test]
    fn a_disk_has_stalled_since_it_was_given_something_or_completed_something() {
        let mut log = Log::new(LogId::default(), Vec::new());
        let mut durability = Durability::new(HardState::default(), &log);
        log.push(entry(1, 0));
        let first = durability.issue(HardState::default(), &log).unwrap();
        durability.tick();
        durability.tick();
        log.push(entry(2, 0));
        let second = durability.issue(HardState::default(), &log).unwrap();
        durability.tick();
        assert_eq!(durability.stalled(), 3);
        durability.durable(first.id);
        assert_eq!(durability.stalled(), 0, "it goes on");
        durability.tick();
        assert_eq!(durability.stalled(), 1);
        durability.durable(second.id);
        assert_eq!(durability.stalled(), 0);
    }

    #[test]
    fn nothing_new_is_no_write() {
        let log = Log::new(LogId::default(), vec![entry(1, 1)]);
        let mut durability = Durability::new(HardState::default(), &log);
        assert_eq!(durability.issue(HardState::default(), &log), None);
    }
}
