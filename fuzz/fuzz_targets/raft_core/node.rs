//! A node of the cluster: its core, and what its disk holds.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use duramen::raft::{
    Badness, BaseState, Envelope, Membership, Offer, Raft, ReadId, Restored, Write, is_command,
    is_membership,
};
use duramen::wal::{Entry, HardState, Index, LogId};

use super::input::{Crash, Space};

#[derive(Default)]
pub(crate) struct Node {
    /// `None` while it is down.
    pub(crate) raft: Option<Raft>,
    pub(crate) disk: DiskModel,
    pub(crate) space: Space,
    /// What is on its way to the disk, with the messages that wait for it.
    pub(crate) writes: VecDeque<(Option<Write>, Vec<Envelope>)>,
    pub(crate) applied: LogId,
    /// Since the last check.
    pub(crate) applied_now: Vec<Entry>,
    /// A snapshot that is on its way here.
    pub(crate) offer: Option<Offer>,
    /// Open reads, with what had been committed when each was asked.
    pub(crate) reads: BTreeMap<ReadId, Index>,
}

#[derive(Default)]
pub(crate) struct DiskModel {
    hard_state: HardState,
    /// The newest snapshot: it stands for what was applied up to there.
    snapshot: Option<(LogId, Membership)>,
    lost_snapshot: bool,
    base: LogId,
    log: Vec<Entry>,
    /// What of it is bad. `log` has what it was.
    bad: BTreeMap<Index, Badness>,
}

impl Node {
    /// Whatever state the node started with has been read, or cannot be.
    pub(crate) fn end_reading(&mut self) {
        if let Some(raft) = &mut self.raft {
            let _is_needed = match self.disk.lost_snapshot {
                true => raft.state_lost(),
                false => raft.state_read(),
            };
        }
    }

    /// Whether there is space for a write.
    pub(crate) fn takes(&self, write: &Write) -> bool {
        match self.space {
            Space::Enough => true,
            Space::Reserve => write.repairs.is_empty() && !write.entries.iter().any(is_command),
            Space::Nothing => false,
        }
    }

    pub(crate) fn crash(&mut self, crash: Crash, may_look_torn: bool) -> [usize; 2] {
        let reached = usize::from(crash.reached) % (self.writes.len() + 1);
        let mut under_way = std::mem::take(&mut self.writes).into_iter();
        let reached = under_way.by_ref().take(reached);
        for write in reached.filter_map(|(write, _)| write) {
            self.disk.persist(&write);
        }
        let mut torn = 0;
        if crash.torn > 0
            && let Some(write) = under_way.find_map(|(write, _)| write)
        {
            torn = self.disk.tear(&write, crash.torn);
        }
        let damaged = self.disk.damage(crash, may_look_torn);
        *self = Node {
            disk: std::mem::take(&mut self.disk),
            ..Node::default()
        };
        [torn, damaged]
    }
}

impl DiskModel {
    fn position(&self, index: Index) -> usize {
        (index.0 - self.base.index.next().0) as usize
    }

    fn holds(&self, id: LogId) -> bool {
        let after_base = id.index.0.checked_sub(self.base.index.next().0);
        let entry = after_base.and_then(|at| self.log.get(at as usize));
        entry.is_some_and(|entry| entry.id == id)
    }

    pub(crate) fn holds_whole(&self, id: LogId) -> bool {
        self.holds(id) && !self.bad.contains_key(&id.index)
    }

    /// A snapshot is durable. What the log has of it goes with a later write.
    pub(crate) fn put_snapshot(&mut self, last: LogId, membership: Membership) {
        self.snapshot = Some((last, membership));
        self.lost_snapshot = false;
    }

    pub(crate) fn lost_snapshot(&self) -> bool {
        self.lost_snapshot
    }

    fn compact(&mut self, base: LogId) {
        let is_held = base == self.base || self.holds(base);
        self.log
            .retain(|entry| is_held && entry.id.index > base.index);
        self.bad.retain(|index, _| is_held && *index > base.index);
        self.base = base;
    }

    /// Says how many entries it repairs.
    pub(crate) fn persist(&mut self, write: &Write) -> usize {
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
            let (id, at) = (entry.id, self.position(entry.id.index));
            assert!(self.holds(id), "{id} is repaired and not there");
            let bad = self.bad.remove(&id.index);
            assert!(bad.is_some(), "{id} is repaired and was whole");
            self.log[at] = entry.clone();
        }
        if let Some(first) = write.entries.first() {
            let kept = self.position(first.id.index);
            assert!(kept <= self.log.len(), "a gap before {}", first.id);
            self.bad.split_off(&first.id.index);
            let suspect = self.bad.values().any(|bad| *bad == Badness::Suspect);
            assert!(!suspect, "{} is written after a suspect entry", first.id);
            self.log.truncate(kept);
            self.log.extend(write.entries.iter().cloned());
        }
        write.repairs.len()
    }

    /// The ids of a write are there, and not all of its payloads. Of a membership there is a second copy.
    fn tear(&mut self, write: &Write, bits: u8) -> usize {
        self.persist(write);
        let torn = write.entries.iter().enumerate();
        let torn = torn.filter(|(at, entry)| bits >> (at % 8) & 1 == 1 && !is_membership(entry));
        let torn: Vec<_> = torn.map(|(_, entry)| entry.id.index).collect();
        let suspect = torn.iter().map(|index| (*index, Badness::Suspect));
        self.bad.extend(suspect);
        torn.len()
    }

    /// What was acknowledged and looks torn may be dropped: see `settle.rs`.
    fn damage(&mut self, crash: Crash, may_look_torn: bool) -> usize {
        self.lost_snapshot |= crash.loses_snapshot && self.snapshot.is_some();
        let ends = self.log.iter().rev().take(8).enumerate();
        let hit = ends.filter(|(at, entry)| {
            let is_bad = self.bad.contains_key(&entry.id.index);
            crash.damaged >> at & 1 == 1 && !is_bad && !is_membership(entry)
        });
        let hit: Vec<_> = hit.map(|(_, entry)| entry.id.index).collect();
        let badness = match may_look_torn {
            true => Badness::Suspect,
            false => Badness::Damaged,
        };
        self.bad.extend(hit.iter().map(|index| (*index, badness)));
        hit.len()
    }

    /// What a start finds, with the membership of its snapshot if there is one.
    pub(crate) fn restored(&mut self) -> (Restored, Option<Membership>) {
        let membership = self.snapshot.clone().map(|(last, membership)| {
            self.compact(last); // The log may be as it was before the snapshot was installed.
            membership
        });
        let state = match self.snapshot {
            Some(_) => BaseState::Unread,
            None => BaseState::Whole,
        };
        let restored = Restored {
            hard_state: self.hard_state,
            base: self.base,
            manifest: self.snapshot.is_some().then(Bytes::new),
            state,
            log: self.log.clone(),
            bad: self.bad.clone(),
        };
        (restored, membership)
    }
}
