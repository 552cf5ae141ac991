//! Whether what is on the disk is what the operations should have left: all of those that were acknowledged, and of the others as
//! many as survived, in order.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use duramen::snapshot::{Meta, SnapshotStore};
use duramen::wal::{Entry, GroupId, HardState, Index, LogId, Wal};

use super::Result;
use super::content;
use super::model::{Group, Id, Log, SNAPSHOTS_KEPT, Snapshots};

/// What the log holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FoundLog {
    pub(super) groups: BTreeMap<u64, FoundGroup>,
}

/// What the log holds of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FoundGroup {
    pub(super) hard_state: HardState,
    pub(super) purged: LogId,
    pub(super) entries: Vec<Entry>,
    pub(super) record: Bytes,
}

impl FoundLog {
    /// Reads all of it.
    pub(super) fn read(wal: &Wal) -> Result<FoundLog> {
        let groups = wal.groups().into_iter();
        let read = groups.map(|group| Ok((group.0, FoundGroup::read(wal, group)?)));
        let groups = read.collect::<Result<_>>()?;
        Ok(FoundLog { groups })
    }

    /// The first thing that is not as expected.
    pub(super) fn difference(&self, seed: u64, expected: &Log) -> Option<String> {
        let numbers = self.groups.keys();
        if !numbers.clone().eq(expected.groups.keys()) {
            let expected: Vec<_> = expected.groups.keys().collect();
            let found: Vec<_> = numbers.collect();
            return Some(format!("the groups are {found:?}, expected {expected:?}"));
        }
        // What costs no bytes first: most of the states that it is compared with differ there.
        let pairs = || self.groups.iter().zip(expected.groups.values());
        let of_state = pairs()
            .find_map(|((group, found), expected)| found.state_differs(seed, *group, expected));
        of_state.or_else(|| {
            pairs()
                .find_map(|((group, found), expected)| found.entry_differs(seed, *group, expected))
        })
    }
}

impl FoundGroup {
    fn read(wal: &Wal, group: GroupId) -> Result<FoundGroup> {
        let (purged, end) = (wal.purged(group), wal.last(group).index.next());
        let mut entries = Vec::new();
        let mut next = purged.index.next();
        while next < end {
            entries.extend(wal.entries(group, next..end, 1 << 20)?);
            next = Index(purged.index.0 + 1 + entries.len() as u64);
        }
        Ok(FoundGroup {
            hard_state: wal.hard_state(group),
            purged,
            entries,
            record: wal.user_record(group),
        })
    }

    fn state_differs(&self, seed: u64, group: u64, expected: &Group) -> Option<String> {
        let hard_state = content::hard_state_of(expected);
        if self.hard_state != hard_state {
            let found = self.hard_state;
            return Some(format!(
                "group {group} has {found:?}, expected {hard_state:?}"
            ));
        }
        let ids =
            |purged: LogId, last: LogId| format!("begins after {purged} and ends with {last}");
        let last = self.entries.last().map_or(self.purged, |entry| entry.id);
        let found = ids(self.purged, last);
        let expected_ids = ids(expected.purged.into(), expected.last().into());
        if found != expected_ids {
            return Some(format!("group {group} {found}, expected {expected_ids}"));
        }
        let record = expected.record;
        let record = record.map_or(Bytes::new(), |op| content::record(seed, op, group));
        (self.record != record).then(|| format!("group {group} has another user record"))
    }

    fn entry_differs(&self, seed: u64, group: u64, expected: &Group) -> Option<String> {
        let (found, held) = (self.entries.len(), expected.entries.len());
        if found != held {
            return Some(format!(
                "group {group} has {found} entries, expected {held}"
            ));
        }
        let indexes = expected.purged.index + 1..;
        let mut entries = self.entries.iter().zip(indexes.zip(&expected.entries));
        entries.find_map(|(found, (index, held))| {
            let term = held.term;
            let written = content::entry(seed, held.op, group, Id { term, index });
            (*found != written).then(|| {
                let id = written.id;
                format!("entry {id} of group {group} is another one: it has id {} and {} bytes of payload, expected {} bytes written by operation {}",
                    found.id, found.payload.len(), written.payload.len(), held.op)
            })
        })
    }
}

/// The snapshots that are there, with all their bytes, from the oldest to the newest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FoundSnapshots(pub(super) Vec<(Meta, Vec<u8>)>);

impl FoundSnapshots {
    pub(super) fn read(store: &SnapshotStore) -> Result<FoundSnapshots> {
        let read = store.list().into_iter().map(|snapshot| {
            let mut bytes = Vec::new();
            store.reader(snapshot.id)?.read_to_end(&mut bytes)?;
            Ok((snapshot.manifest.meta().clone(), bytes))
        });
        Ok(FoundSnapshots(read.collect::<Result<_>>()?))
    }

    /// The first thing that is not as expected. The oldest may be dropped already.
    pub(super) fn difference(&self, seed: u64, expected: &Snapshots) -> Option<String> {
        let (found, all) = (self.0.len(), expected.len());
        let least = all.min(SNAPSHOTS_KEPT);
        if !(least..=all).contains(&found) {
            return Some(format!("there are {found} snapshots, expected {least}"));
        }
        let expected = &expected[all - found..];
        self.0.iter().zip(expected).find_map(|((meta, bytes), it)| {
            let (op, last) = (it.op, LogId::from(it.last));
            if *meta != content::meta(it) {
                return Some(format!(
                    "a snapshot is of {}.{}, expected that of operation {op}, of {last}",
                    meta.last_term, meta.last_index
                ));
            }
            let written = content::blocks(seed, it).flatten();
            (!written.eq(bytes.iter().copied())).then(|| {
                format!("the snapshot of {last} has other bytes than operation {op} wrote")
            })
        })
    }
}

/// The states that the operations of one kind have left, one after the other.
#[derive(Debug, Clone)]
pub(super) struct History<S> {
    /// The number of each operation, and the state after it; the first one is what was found last.
    states: Vec<(u64, S)>,
    /// How many of them, at the beginning, had been found after the last death.
    found: usize,
    /// How many of them, at the beginning, were found or acknowledged.
    acknowledged: usize,
}

/// What became of the operations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict<S> {
    /// All that were acknowledged are there, and those that follow up to this one.
    Kept {
        /// How many are new.
        operations: u64,
        state: S,
    },
    /// So many that were acknowledged, or had been found before, are gone.
    Lost { operations: u64 },
    /// This state there never was.
    Wrong,
}

/// States from before the last death are kept, to know what is lost if it is set back further. So many at the least.
const STATES_BEFORE: usize = 200;

impl<S: Clone> History<S> {
    pub(super) fn new(op: u64, state: S) -> History<S> {
        History {
            states: vec![(op, state)],
            found: 1,
            acknowledged: 1,
        }
    }

    /// An operation was submitted.
    pub(super) fn push(&mut self, op: u64, state: S) {
        self.states.push((op, state));
    }

    /// An operation was acknowledged: if it is of this kind, with all of this kind before it.
    pub(super) fn acknowledge(&mut self, op: u64) {
        if let Ok(place) = self.states.binary_search_by_key(&op, |(number, _)| *number) {
            self.acknowledged = self.acknowledged.max(place + 1);
        }
    }

    /// The last state that was acknowledged.
    pub(super) fn acknowledged(&self) -> &S {
        &self.states[self.acknowledged - 1].1
    }

    /// What was found is the last of the states that it is like. From there on it goes on; nothing else has happened.
    pub(super) fn settle(&mut self, is_found: impl Fn(&S) -> bool) -> Verdict<S> {
        let Some(found) = self.states.iter().rposition(|(_, state)| is_found(state)) else {
            return Verdict::Wrong;
        };
        let count = found + 1;
        if count < self.acknowledged {
            let operations = (self.acknowledged - count) as u64;
            return Verdict::Lost { operations };
        }
        let operations = (count - self.found) as u64;
        let state = self.states[found].1.clone();
        self.states.truncate(count);
        self.states.drain(..count.saturating_sub(STATES_BEFORE));
        (self.found, self.acknowledged) = (self.states.len(), self.states.len());
        Verdict::Kept { operations, state }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Model, Operation};
    use super::super::plan;
    use super::*;

    const SEED: u64 = 7;

    /// What a log that holds this has.
    fn found(log: &Log) -> FoundLog {
        let group = |(number, group): (&u64, &Group)| {
            let id = |index, term| Id { term, index };
            let entries = (group.purged.index + 1..).zip(&group.entries);
            let entries = entries
                .map(|(index, held)| content::entry(SEED, held.op, *number, id(index, held.term)));
            let record = group.record.map(|op| content::record(SEED, op, *number));
            let found = FoundGroup {
                hard_state: content::hard_state_of(group),
                purged: group.purged.into(),
                entries: entries.collect(),
                record: record.unwrap_or_default(),
            };
            (*number, found)
        };
        FoundLog {
            groups: log.groups.iter().map(group).collect(),
        }
    }

    fn found_snapshots(snapshots: &Snapshots) -> FoundSnapshots {
        let bytes = |it| content::blocks(SEED, it).flatten().collect();
        let snapshots = snapshots.iter().map(|it| (content::meta(it), bytes(it)));
        FoundSnapshots(snapshots.collect())
    }

    /// A hundred batches; eighty of them were acknowledged.
    fn history() -> (History<Log>, Vec<Log>) {
        let (mut model, mut states) = (Model::default(), vec![Log::default()]);
        let mut history = History::new(0, Log::default());
        for op in 1.. {
            let operation = plan::draw(SEED, op, &model);
            model.apply(op, &operation);
            if let Operation::Log(_) = operation {
                history.push(op, model.log.clone());
                states.push(model.log.clone());
            }
            match states.len() {
                81 => history.acknowledge(op),
                101 => return (history, states),
                _ => {}
            }
        }
        unreachable!("there are always more");
    }

    fn verdict(found: &FoundLog) -> Verdict<Log> {
        history()
            .0
            .settle(|state| found.difference(SEED, state).is_none())
    }

    #[test]
    fn what_was_acknowledged_and_more_is_kept() {
        let (_, states) = history();
        for count in 80..=100 {
            let kept = Verdict::Kept {
                operations: count,
                state: states[count as usize].clone(),
            };
            assert_eq!(verdict(&found(&states[count as usize])), kept);
        }
    }

    #[test]
    fn what_was_acknowledged_and_is_gone_is_lost() {
        let (_, states) = history();
        for (operations, state) in (1..=80).rev().zip(&states) {
            let lost = verdict(&found(state));
            assert_eq!(lost, Verdict::Lost { operations });
        }
    }

    #[test]
    fn what_was_found_once_and_is_gone_later_is_lost() {
        let (mut history, states) = history();
        let settle = |history: &mut History<Log>, count: usize| {
            let found = found(&states[count]);
            history.settle(|state| found.difference(SEED, state).is_none())
        };
        assert!(matches!(settle(&mut history, 90), Verdict::Kept { .. }));
        let lost = settle(&mut history, 85);
        assert_eq!(lost, Verdict::Lost { operations: 5 });
    }

    #[test]
    fn a_state_that_there_never_was_is_wrong() {
        let (_, states) = history();
        let whole = found(&states[90]);
        let group = 1;
        let spoil: [fn(&mut FoundGroup); 8] = [
            |group| drop(group.entries.pop()),
            |group| drop(group.entries.remove(0)),
            |group| {
                let entry = group.entries.last_mut().unwrap();
                entry.payload = [&entry.payload[..], &[0]].concat().into();
            },
            |group| group.entries.last_mut().unwrap().id.term.0 += 1,
            |group| group.entries.last_mut().unwrap().context = Default::default(),
            |group| group.hard_state.voted_for = Some(duramen::wal::NodeId(9)),
            |group| group.hard_state.term.0 -= 1,
            |group| group.record = Bytes::from_static(b"another"),
        ];
        for (number, spoil) in spoil.into_iter().enumerate() {
            let mut doctored = whole.clone();
            spoil(doctored.groups.get_mut(&group).unwrap());
            assert_ne!(doctored, whole, "{number}");
            assert_eq!(verdict(&doctored), Verdict::Wrong, "{number}");
        }
        let mut without = whole.clone();
        without.groups.remove(&group);
        assert_eq!(verdict(&without), Verdict::Wrong);
    }

    /// A batch that changed several groups is there in one of them.
    #[test]
    fn half_a_batch_is_wrong() {
        let (_, states) = history();
        let mut halves = 0;
        for (before, after) in states.iter().zip(&states[1..]) {
            let (before, after) = (found(before), found(after));
            let changed = |group: &&u64| before.groups.get(group) != after.groups.get(group);
            let changed: Vec<_> = after.groups.keys().filter(changed).collect();
            if let [first, _, ..] = changed[..] {
                let mut half = before.clone();
                half.groups.insert(*first, after.groups[first].clone());
                assert_eq!(verdict(&half), Verdict::Wrong);
                halves += 1;
            }
        }
        assert!(halves > 10, "{halves}");
    }

    #[test]
    fn a_snapshot_that_is_missing_older_or_damaged_is_noticed() {
        let (mut model, mut states) = (Model::default(), vec![Snapshots::new()]);
        for op in 1..400 {
            let operation = plan::draw(SEED, op, &model);
            model.apply(op, &operation);
            if let Operation::Snapshot(_) = operation {
                states.push(model.snapshots.clone());
            }
        }
        let expected = states.pop().unwrap();
        let difference = |found: &FoundSnapshots| found.difference(SEED, &expected);
        let mut whole = found_snapshots(&expected);
        assert_eq!(difference(&whole), None);
        whole.0.remove(0); // The oldest may go, and no other.
        assert_eq!(difference(&whole), None);
        let mut fewer = whole.clone();
        fewer.0.remove(0);
        assert!(difference(&fewer).is_some());
        let older = found_snapshots(&states.pop().unwrap());
        assert!(difference(&older).is_some());
        for place in 0..whole.0.len() {
            let mut damaged = whole.clone();
            damaged.0[place].1[5000] ^= 1;
            assert!(difference(&damaged).is_some());
            let mut other = whole.clone();
            other.0[place].0.last_term += 1;
            assert!(difference(&other).is_some());
        }
    }
}
