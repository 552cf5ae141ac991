//! Which operations are carried out: drawn from the seed, the number of the operation, and what the ones before have left. So the
//! same seed gives the same operations, as far as the same of them survived.

use fastrand::Rng;

use super::content::{Purpose, rng};
use super::model::{BLOCKS, Change, Group, Id, Log, Model, NODE_GROUP, Operation, Snapshot};

/// The operation with the number `op`, after what `model` says.
pub(super) fn draw(seed: u64, op: u64, model: &Model) -> Operation {
    let mut rng = rng(seed, Purpose::Operation, [op, 0, 0]);
    if let Some(snapshot) = draw_snapshot(&mut rng, op, model) {
        return Operation::Snapshot(snapshot);
    }
    let count = rng.usize(1..=3);
    let mut drawing = Drawing {
        op,
        rng,
        snapshot_last: model.snapshot_last(),
        log: model.log.clone(),
        changes: Vec::new(),
    };
    if !drawing.is_reset_to_the_snapshot() {
        (0..count).for_each(|_| drawing.draw());
    }
    Operation::Log(drawing.changes)
}

/// The node's group has a snapshot after so many entries at the latest.
const SNAPSHOT_ENTRIES: u64 = 64;

/// A snapshot of what is in the log, or one from a peer that is ahead.
fn draw_snapshot(rng: &mut Rng, op: u64, model: &Model) -> Option<Snapshot> {
    let group = model.log.group(NODE_GROUP);
    let (newest, end) = (model.snapshot_last(), group.last());
    if !group.holds(newest) {
        return None; // The log is to be reset to the newest one first.
    }
    let new_entries = end.index - newest.index;
    let is_installed = rng.u8(0..60) == 0;
    let is_due = new_entries > SNAPSHOT_ENTRIES || rng.u8(0..24) == 0;
    let last = match (is_installed, is_due && new_entries > 0) {
        (true, _) => Id {
            term: group.term + rng.u64(1..3),
            index: newest.index + 1 + rng.u64(0..2 * SNAPSHOT_ENTRIES),
        },
        (false, true) => {
            let index = newest.index + rng.u64(1..=new_entries);
            let term = group.term_at(index)?;
            Id { term, index }
        }
        (false, false) => return None,
    };
    let before = model.snapshots.last().map(|it| it.blocks.clone());
    let mut blocks = before.unwrap_or_else(|| vec![op; BLOCKS]);
    for _ in 0..rng.usize(1..6) {
        blocks[rng.usize(0..BLOCKS)] = op;
    }
    Some(Snapshot {
        op,
        last,
        blocks,
        is_installed,
    })
}

/// A group holds about so many entries, so that all of them can be looked at after each death.
const ENTRIES_MAX: usize = 48;
/// The last group is written to so seldom that its entries have to be moved.
const LAGGING_GROUP: u64 = 4;
const LAGGING_ENTRIES_MAX: usize = 8;

/// A batch that is being drawn.
struct Drawing {
    op: u64,
    rng: Rng,
    snapshot_last: Id,
    /// As the changes so far leave it.
    log: Log,
    changes: Vec<Change>,
}

impl Drawing {
    fn put(&mut self, change: Change) {
        self.log.change(self.op, &change);
        self.changes.push(change);
    }

    /// A snapshot that the log does not hold was taken in, or its entries were not durable: the log goes on after it.
    fn is_reset_to_the_snapshot(&mut self) -> bool {
        let last = self.snapshot_last;
        if self.log.group(NODE_GROUP).holds(last) {
            return false;
        }
        self.reset(NODE_GROUP, last);
        self.put(Change::Record { group: NODE_GROUP });
        true
    }

    /// InstallSnapshot: all of the log goes.
    fn reset(&mut self, group: u64, last: Id) {
        let held = self.log.group(group);
        let term = (held.term + 1).max(last.term);
        self.set_hard_state(group, term);
        self.put(Change::Truncate {
            group,
            last: held.purged.index,
        });
        self.put(Change::Purge { group, last });
    }

    fn set_hard_state(&mut self, group: u64, term: u64) {
        let voted_for = self.rng.bool().then(|| self.rng.u64(1..=5));
        self.put(Change::HardState {
            group,
            term,
            voted_for,
        });
    }

    fn draw(&mut self) {
        let group = match self.rng.u8(0..40) {
            0..20 => NODE_GROUP,
            20..31 => 2,
            31..39 => 3,
            _ => LAGGING_GROUP,
        };
        let held = self.log.group(group);
        if held.term == 0 {
            self.set_hard_state(group, 1);
            return self.append(group, 1);
        }
        let entries_max = match group {
            LAGGING_GROUP => LAGGING_ENTRIES_MAX,
            _ => ENTRIES_MAX,
        };
        if held.entries.len() > entries_max && self.is_purged(group, &held) {
            return;
        }
        let is_nodes = group == NODE_GROUP;
        let done = match self.rng.u8(0..100) {
            0..10 => {
                self.vote(group, &held);
                true
            }
            10..18 => self.is_replaced(group, &held),
            18..22 => self.is_truncated(group, &held),
            22..28 => self.is_purged(group, &held),
            28..32 => {
                self.put(Change::Record { group });
                true
            }
            32 if group == 3 => {
                self.put(Change::Remove { group });
                true
            }
            33 if !is_nodes => {
                let (term, index) = (held.term, held.last().index + self.rng.u64(1..20));
                self.reset(group, Id { term, index });
                true
            }
            _ => false,
        };
        if !done {
            let count = match self.changes.is_empty() {
                true => self.rng.u64(1..=4),
                false => 1, // A batch has a limit.
            };
            self.append(group, count);
        }
    }

    fn append(&mut self, group: u64, count: u64) {
        let held = self.log.group(group);
        let first = Id {
            term: held.term,
            index: held.last().index + 1,
        };
        self.put(Change::Append {
            group,
            first,
            count,
        });
    }

    /// A vote in this term, if there is none yet, or a later term.
    fn vote(&mut self, group: u64, held: &Group) {
        match held.voted_for {
            None => self.put(Change::HardState {
                group,
                term: held.term,
                voted_for: Some(self.op % 5 + 1),
            }),
            Some(_) => {
                let term = held.term + self.rng.u64(1..3);
                self.set_hard_state(group, term);
            }
        }
    }

    /// An index above which entries may be replaced: they are not in a snapshot.
    fn draw_end(&mut self, group: u64, held: &Group) -> Option<u64> {
        let floor = match group {
            NODE_GROUP => held.purged.index.max(self.snapshot_last.index),
            _ => held.purged.index,
        };
        let last = held.last().index;
        (floor < last).then(|| self.rng.u64(floor..last))
    }

    /// A new leader's entries take the place of others (figure 2, AppendEntries 3).
    fn is_replaced(&mut self, group: u64, held: &Group) -> bool {
        let Some(prev) = self.draw_end(group, held) else {
            return false;
        };
        let term = held.term + 1;
        self.set_hard_state(group, term);
        let index = prev + 1;
        let first = Id { term, index };
        let count = self.rng.u64(1..=2);
        self.put(Change::Append {
            group,
            first,
            count,
        });
        true
    }

    fn is_truncated(&mut self, group: u64, held: &Group) -> bool {
        let Some(last) = self.draw_end(group, held) else {
            return false;
        };
        self.put(Change::Truncate { group, last });
        true
    }

    /// What a snapshot stands for goes. Other groups than the node's are told that there is one.
    fn is_purged(&mut self, group: u64, held: &Group) -> bool {
        let end = match group {
            NODE_GROUP => self.snapshot_last.index,
            _ => held.last().index,
        };
        let first = held.purged.index + 1;
        if end < first {
            return false;
        }
        let index = self.rng.u64(first.midpoint(end)..=end);
        let Some(term) = held.term_at(index) else {
            return false;
        };
        let last = Id { term, index };
        self.put(Change::Purge { group, last });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64, count: u64) -> (Vec<Operation>, Model) {
        let (mut model, mut operations) = (Model::default(), Vec::new());
        for op in 1..=count {
            let operation = draw(seed, op, &model);
            model.apply(op, &operation);
            operations.push(operation);
        }
        (operations, model)
    }

    #[test]
    fn the_same_seed_gives_the_same_operations_and_another_one_others() {
        assert_eq!(run(7, 500), run(7, 500));
        assert_ne!(run(7, 500), run(8, 500));
    }

    #[test]
    fn all_kinds_of_operations_come_up_and_the_log_stays_small() {
        let (operations, model) = run(1, 5000);
        let changes = operations.iter().flat_map(|operation| match operation {
            Operation::Log(changes) => changes.clone(),
            Operation::Snapshot(_) => Vec::new(),
        });
        let changes: Vec<Change> = changes.collect();
        let count = |is: fn(&Change) -> bool| changes.iter().filter(|change| is(change)).count();
        assert!(count(|it| matches!(it, Change::Append { .. })) > 3000);
        assert!(count(|it| matches!(it, Change::HardState { .. })) > 500);
        assert!(count(|it| matches!(it, Change::Truncate { .. })) > 100);
        assert!(count(|it| matches!(it, Change::Purge { .. })) > 100);
        assert!(count(|it| matches!(it, Change::Record { .. })) > 100);
        assert!(count(|it| matches!(it, Change::Remove { .. })) > 3);
        let installs = operations
            .iter()
            .filter(|it| matches!(it, Operation::Snapshot(snapshot) if snapshot.is_installed));
        assert!(installs.count() > 30);
        for (group, held) in &model.log.groups {
            assert!(held.entries.len() < 200, "{group}: {}", held.entries.len());
        }
    }

    #[test]
    fn the_last_entry_of_a_snapshot_never_goes_back_and_nothing_below_it_is_replaced() {
        let mut model = Model::default();
        for op in 1..5000 {
            let (before, held) = (model.snapshot_last(), model.log.group(NODE_GROUP));
            let operation = draw(3, op, &model);
            model.apply(op, &operation);
            assert!(model.snapshot_last() >= before);
            let after = model.log.group(NODE_GROUP);
            if held.holds(before) {
                assert!(after.holds(before) || after.purged > before, "{op}");
            }
            assert!(after.purged.index <= model.snapshot_last().index, "{op}");
        }
    }
}
