//! What disks do to a log in the random schedules: they tear the last write in a crash, damage entries that were durable,
//! lose snapshots,
//! fill up and fail.

use duramen_wal::types::{Index, LogId, NodeId};

use super::Sim;
use crate::raft::tests::random_node::Space;
use crate::raft::{Badness, Envelope, Write};

/// Whose disks damage what was durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rot {
    Nowhere,
    /// At less than half of the first voters: so what was committed stays whole somewhere, unless the membership changes.
    Minority,
    Everywhere,
}

impl Rot {
    pub(super) fn any(rng: &mut fastrand::Rng) -> Rot {
        [
            Rot::Nowhere,
            Rot::Nowhere,
            Rot::Minority,
            Rot::Minority,
            Rot::Everywhere,
        ][rng.usize(..5)]
    }
}

impl Sim {
    /// All nodes crash at once.
    pub(super) fn cut_power(&mut self) {
        for id in self.ids() {
            if self.node(id).raft.is_some() {
                self.crash(id);
            }
        }
        self.network.clear();
    }

    /// The first write that did not reach the disk reached it in part: its ids, and not all of its payloads. It was reported
    /// to nobody, so nothing of it was acknowledged.
    pub(super) fn tear_write(&mut self, id: NodeId) {
        let tears = self.tears;
        let node = self.nodes.get_mut(&id).unwrap();
        let under_way = std::mem::take(&mut node.writes);
        let next = under_way.into_iter().find_map(|(write, _)| write);
        let Some(write) = next.filter(|write| tears && !write.entries.is_empty()) else {
            return;
        };
        node.persist(&write);
        let torn = self.rng.usize(..write.entries.len());
        for (at, entry) in write.entries.iter().enumerate() {
            // Of a membership there is a second copy.
            if !super::is_membership(entry) && (at == torn || self.rng.bool()) {
                node.bad.insert(entry.id.index, Badness::Suspect);
                self.seen.torn += 1;
            }
        }
    }

    /// Damages some of what is on a disk.
    pub(super) fn rot(&mut self, id: NodeId) {
        let minority = id.0 <= (self.membership.voters().count() as u64 - 1) / 2;
        let rots = match self.rot {
            Rot::Nowhere => false,
            Rot::Minority => minority,
            Rot::Everywhere => true,
        };
        if !rots || self.rng.bool() {
            return;
        }
        let percent = [5, 20, 60][self.rng.usize(..3)];
        let node = &self.nodes[&id];
        let last = node.last();
        let whole = node.log.iter().filter(|entry| {
            !node.bad.contains_key(&entry.id.index) && !super::is_membership(entry)
        });
        let ids: Vec<LogId> = whole.map(|entry| entry.id).collect();
        for entry in ids {
            if !self.chance(percent) {
                continue;
            }
            // The last entry may look torn. Were that so on all disks, an acknowledged one would be dropped: that case is
            // given up, see `settle.rs`. So we do not make it.
            let looks_torn = entry == last && self.rot == Rot::Minority && !self.changes;
            let badness = match looks_torn && self.rng.bool() {
                true => Badness::Suspect,
                false => Badness::Damaged,
            };
            self.node(id).bad.insert(entry.index, badness);
            self.seen.damaged += 1;
        }
        if self.nodes[&id].snapshot.is_some() && self.chance(20) {
            self.node(id).lost_state = true;
        }
    }

    /// Whether there is a whole copy of all that is bad on some of these nodes, so that they must get well again.
    pub(super) fn can_recover(&self, counts: impl Fn(NodeId) -> bool) -> bool {
        let disks = || {
            let counting = self.nodes.iter().filter(|(id, _)| counts(**id));
            counting.map(|(_, disk)| disk)
        };
        let in_snapshot = |index: Index| {
            disks().any(|disk| {
                let reaches = disk
                    .snapshot
                    .as_ref()
                    .is_some_and(|(last, _)| last.index >= index);
                reaches && !disk.lost_state
            })
        };
        let is_whole =
            |id: LogId| in_snapshot(id.index) || disks().any(|disk| disk.holds_whole(id));
        disks().all(|disk| {
            let lost = disk.snapshot.as_ref().filter(|_| disk.lost_state);
            let bad = disk
                .log
                .iter()
                .filter(|entry| disk.bad.contains_key(&entry.id.index));
            lost.is_none_or(|(last, _)| in_snapshot(last.index))
                && bad
                    .clone()
                    .all(|entry| is_whole(entry.id) || self.is_torn(entry.id))
        })
    }

    /// Whether no disk has more of an entry than a torn copy.
    fn is_torn(&self, id: LogId) -> bool {
        let held = self.nodes.values().filter(|disk| disk.holds(id));
        held.into_iter()
            .all(|disk| disk.bad.get(&id.index) == Some(&Badness::Suspect))
    }
}

/// Disks that take no more.
impl Sim {
    /// A disk fills up or gets its space back, and the driver may look for it; or a write fails.
    pub(super) fn change_space(&mut self, id: NodeId) {
        let spaces = [Space::Enough, Space::Enough, Space::Reserve, Space::Nothing];
        let space = spaces[self.rng.usize(..4)];
        let (looks, fails) = (self.rng.bool(), self.crash > 0 && self.chance(5));
        let node = self.node(id);
        node.space = space;
        if fails {
            return self.fail_disk(id);
        }
        if looks && let Some(raft) = &mut node.raft {
            raft.set_disk_full(space != Space::Enough);
        }
    }

    /// All disks are well.
    pub(super) fn mend_disks(&mut self) {
        for id in self.ids() {
            if self.node(id).has_failed {
                self.crash(id);
            }
            let node = self.node(id);
            node.space = Space::Enough;
            if let Some(raft) = &mut node.raft {
                raft.set_disk_full(false);
            }
        }
    }

    /// Some of what is under way reaches the disk, and nobody is ever told.
    fn fail_disk(&mut self, id: NodeId) {
        let reached = self.some_writes(id);
        let node = self.node(id);
        let writes = std::mem::take(&mut node.writes);
        for (write, _) in writes.into_iter().take(reached) {
            write.iter().for_each(|write| {
                node.persist(write);
            });
        }
        node.has_failed = true;
        node.raft.as_mut().unwrap().disk_failed();
        self.seen.failures += 1;
    }

    /// The disk does not take the write. Of several batches it may have taken the first, with term and vote, and they may still be
    /// there: that counts for nothing.
    pub(super) fn refuse(&mut self, id: NodeId, write: &Write, held: Vec<Envelope>) {
        let has_several = self.rng.bool() && !write.entries.is_empty();
        let some = self.rng.usize(..=write.entries.len());
        let node = self.node(id);
        if has_several {
            let left = Write {
                repairs: Vec::new(),
                entries: write.entries[..some].to_vec(),
                ..write.clone()
            };
            node.writes.push_back((Some(left), Vec::new()));
        }
        let raft = node.raft.as_mut().unwrap();
        raft.write_refused(write, held);
        node.commit = raft.commit(); // It may know of less, as after a crash.
        self.seen.refusals += 1;
    }
}
