//! Random histories of a log whose payloads rot between its lives: kept suspects, damaged entries that are moved, truncated
//! and repaired, tiny budgets, reading through maps, scrubs, and a look by `verify` and `dump` at every end.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use duramen_disk::SimDisk;
use duramen_wal::{
    Context, DumpItem, DumpRecord, Entry, Error, GroupId, HardState, Index, LogId, Misuse, NodeId,
    Options, Scrub, Term, Ticket, Wal,
};
use support::*;

type Ids = BTreeSet<(GroupId, Index)>;

/// What the log holds, and what of it may be unreadable.
#[derive(Debug, Clone, Default)]
struct Model {
    state: State,
    /// Exactly these are suspect.
    suspects: Ids,
    /// A copy of these was spoiled. It may have been one that nobody needs.
    spoiled: Ids,
}

impl Model {
    fn apply(&mut self, change: &Change) {
        apply(&mut self.state, change);
        let (id, stays): (u64, Box<dyn Fn(Index) -> bool>) = match change.clone() {
            Change::Append(group, entries) => {
                let first = entries.first().map(|entry| entry.id.index);
                (
                    group,
                    Box::new(move |index| first.is_none_or(|first| index < first)),
                )
            }
            Change::Truncate(group, last) => (group, Box::new(move |index| index.0 <= last)),
            Change::Purge(group, last) => (group, Box::new(move |index| index > last.index)),
            Change::Remove(group) => (group, Box::new(|_| false)),
            Change::Vote(..) | Change::User(..) => return,
        };
        for ids in [&mut self.suspects, &mut self.spoiled] {
            ids.retain(|(group, index)| group.0 != id || stays(*index));
        }
    }

    fn ids(&self) -> Vec<(GroupId, LogId, LogId, Term, usize)> {
        let ids = self.state.iter().map(|(id, content)| {
            let last = content
                .entries
                .last()
                .map_or(content.purged, |entry| entry.id);
            let (term, len) = (content.hard_state.term, content.user_record.len());
            (*id, content.purged, last, term, len)
        });
        ids.collect()
    }

    fn after(&self, step: &Step) -> Model {
        let mut model = self.clone();
        step.iter().for_each(|change| model.apply(change));
        model
    }

    /// Whether this is what `wal` holds, but for what cannot be read.
    fn is_in(&self, wal: &Wal) -> bool {
        let groups: Vec<GroupId> = self.state.keys().copied().collect();
        groups == wal.groups()
            && self.state.iter().all(|(group, content)| {
                let last = content
                    .entries
                    .last()
                    .map_or(content.purged, |entry| entry.id);
                wal.purged(*group) == content.purged
                    && wal.last(*group) == last
                    && wal.hard_state(*group) == content.hard_state
                    && wal.user_record(*group) == content.user_record
                    && content
                        .entries
                        .iter()
                        .all(|entry| wal.term(*group, entry.id.index) == Some(entry.id.term))
            })
    }

    /// All that can be read is right, and all that must be can be.
    fn check(&self, wal: &Wal, draw: &mut Draw) {
        assert!(self.is_in(wal), "{self:?}");
        for (&group, content) in &self.state {
            let suspect = self.suspects.iter().find(|(id, _)| *id == group);
            assert_eq!(wal.suspect(group), suspect.map(|(_, index)| *index));
            let Some(first) = content.entries.first().map(|entry| entry.id.index) else {
                continue;
            };
            let from = draw.below(content.entries.len() as u64) as usize;
            let bytes_max = [0, 100, 3000, u64::MAX][draw.below(4) as usize];
            let range = Index(first.0 + from as u64)..wal.last(group).index.next();
            if let Ok(entries) = wal.entries(group, range, bytes_max) {
                assert!(!entries.is_empty());
                assert_eq!(entries, content.entries[from..][..entries.len()]);
            } else {
                let of_group = |ids: &Ids| ids.iter().any(|(id, _)| *id == group);
                assert!(
                    of_group(&self.suspects) || of_group(&self.spoiled),
                    "{group}"
                );
            }
            for entry in &content.entries {
                let index = entry.id.index;
                let id = (group, index);
                match wal.entries(group, index..index.next(), 0) {
                    Ok(read) => {
                        assert_eq!(read, std::slice::from_ref(entry));
                        assert!(!self.suspects.contains(&id), "{id:?}");
                    }
                    Err(Error::Suspect { group, id }) => {
                        assert!(self.suspects.contains(&(group, id.index)), "{group} {id}");
                    }
                    Err(Error::DamagedEntry { group, id, .. }) => {
                        assert!(self.spoiled.contains(&(group, id.index)), "{group} {id}");
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn options(&mut self) -> Options {
        let mut options =
            options([4096, 8192, 8201, 12288, 1 << 14, 1 << 15][self.below(6) as usize]);
        options.index_bytes_max = [0, 200, 64 << 20][self.below(3) as usize];
        options.recent_bytes_max = [0, 500, 8 << 20][self.below(3) as usize];
        options.map_sealed = self.below(2) == 0;
        options.keep_suspects = self.below(3) > 0;
        options.recycle = self.below(4) > 0;
        options
    }
}

/// The entry with this id: there is one only, as in any Raft log.
fn entry_of(group: u64, index: u64, term: u64) -> Entry {
    let mut draw =
        Draw(((group + 1) * 0x9e37_79b9) ^ (index * 0x85eb_ca6b) ^ ((term + 1) * 0xc2b2_ae35_27d4));
    for _ in 0..4 {
        draw.below(2);
    }
    let limit = [1, 20, 20, 300, 300, 1800][draw.below(6) as usize];
    let len = draw.below(limit) as usize;
    let payload: Vec<u8> = (0..len).map(|_| draw.below(256) as u8).collect();
    let context = [&[][..], &[], b"a", &[7; 31]][draw.below(4) as usize];
    Entry {
        context: Context::new(context).unwrap(),
        ..entry(index, term, payload)
    }
}

struct History {
    draw: Draw,
    disk: SimDisk,
    /// What the log held in this life, and how much of that is known to be durable.
    models: Vec<Model>,
    durable: usize,
    counts: BTreeMap<&'static str, u64>,
}

impl History {
    fn count(&mut self, what: &'static str, more: u64) {
        *self.counts.entry(what).or_default() += more;
    }

    fn last(&self) -> &Model {
        self.models.last().unwrap()
    }

    fn change(&mut self, groups: &State) -> Change {
        let draw = &mut self.draw;
        let group = draw.below(5) + 100 * (draw.below(8) / 7) * draw.below(40);
        let content = groups.get(&GroupId(group)).cloned().unwrap_or_default();
        let last = content
            .entries
            .last()
            .map_or(content.purged, |entry| entry.id);
        let count = last.index.0 - content.purged.index.0;
        let exists = groups.contains_key(&GroupId(group));
        match draw.below(if exists { 20 } else { 15 }) {
            0..=9 => {
                let back = draw.below(5) / 4 * draw.below(count + 1);
                let first = last.index.0 + 1 - back;
                let before = match (first - 1).checked_sub(content.purged.index.0 + 1) {
                    Some(at) => content.entries[at as usize].id,
                    None => content.purged,
                };
                let more = if exists {
                    draw.below(4) / 3
                } else {
                    draw.below(50)
                };
                let term = before.term.0 + more;
                let entries =
                    (first..first + 1 + draw.below(4)).map(|index| entry_of(group, index, term));
                Change::Append(group, entries.collect())
            }
            10..=11 => Change::Vote(
                group,
                HardState {
                    term: Term(content.hard_state.term.0 + draw.below(2)),
                    voted_for: (draw.below(2) == 0).then_some(NodeId(group)),
                    context: Context::EMPTY,
                },
            ),
            12..=14 => {
                let len = [0, 10, 700][draw.below(3) as usize];
                Change::User(group, Bytes::from(vec![draw.below(256) as u8; len]))
            }
            15 => Change::Truncate(group, last.index.0 - draw.below(count + 1)),
            16..=18 => {
                let at = draw.below(count + 2);
                let entry = at
                    .checked_sub(1)
                    .and_then(|at| content.entries.get(at as usize));
                let last = match entry {
                    Some(entry) => entry.id,
                    None if at == 0 => content.purged,
                    None => LogId {
                        term: last.term,
                        index: Index(last.index.0 + 1 + draw.below(3)),
                    },
                };
                Change::Purge(group, last)
            }
            _ => Change::Remove(group),
        }
    }

    fn step(&mut self) -> Step {
        let mut step = Step::new();
        let mut state = self.last().state.clone();
        for _ in 0..1 + self.draw.below(4) {
            let change = self.change(&state);
            apply(&mut state, &change);
            step.push(change);
        }
        step
    }

    /// Says whether the log goes on.
    fn submit(&mut self, wal: &Wal, tickets: &mut Vec<Ticket>) -> bool {
        let step = self.step();
        match wal.submit(batch(&step)) {
            Ok(ticket) => {
                tickets.push(ticket);
                self.count("batches", 1);
                let model = self.last().after(&step);
                self.models.push(model);
                true
            }
            Err(Error::Misuse {
                group,
                misuse: Misuse::Suspect { .. },
            }) => {
                let suspects = &self.last().suspects;
                assert!(suspects.iter().any(|(id, _)| *id == group), "{group}");
                true
            }
            Err(Error::Full { .. } | Error::Io { .. } | Error::TooLarge { .. }) => true,
            Err(Error::Poisoned { .. }) => false,
            Err(other) => panic!("{step:?}: {other}"),
        }
    }

    /// Says whether the log goes on.
    fn repair(&mut self, wal: &Wal) -> bool {
        let Model {
            spoiled, suspects, ..
        } = self.last();
        let bad: Vec<_> = spoiled.union(suspects).copied().collect();
        if bad.is_empty() {
            return true;
        }
        let id = bad[self.draw.below(bad.len() as u64) as usize];
        let content = &self.last().state[&id.0];
        let at = id.1.0 - content.purged.index.0 - 1;
        let entry = content.entries[at as usize].clone();
        match wal.repair(id.0, entry.clone()) {
            Ok(()) => {
                let read = wal.entries(id.0, id.1..id.1.next(), 0);
                assert_eq!(read.unwrap(), [entry]);
                // It was durable: so is all before it.
                let was_bad = self.last().suspects.contains(&id);
                self.count("repaired", 1);
                self.count("suspects repaired", u64::from(was_bad));
                let mut model = self.last().clone();
                model.suspects.remove(&id);
                model.spoiled.remove(&id);
                self.models.push(model);
                true
            }
            Err(Error::Poisoned { .. }) => {
                // It may be durable: no more is known than that it may still be bad.
                let mut model = self.last().clone();
                model.suspects.remove(&id);
                self.models.push(model);
                false
            }
            // It was taken under other options.
            Err(Error::Full { .. } | Error::Io { .. } | Error::TooLarge { .. }) => true,
            Err(other) => panic!("{other}"),
        }
    }

    fn run(&mut self, wal: &Wal, faults: bool) {
        let mut tickets = Vec::new();
        let mut at = Vec::new();
        for _ in 0..self.draw.below(40) {
            if faults && self.draw.below(60) == 0 {
                let kind = [ErrorKind::Other, ErrorKind::StorageFull][self.draw.below(2) as usize];
                self.disk.fail_after(self.draw.below(12), kind);
            }
            let goes_on = match self.draw.below(6) {
                0 => self.repair(wal),
                _ => self.submit(wal, &mut tickets),
            };
            while at.len() < tickets.len() {
                at.push(self.models.len() - 1);
            }
            if !goes_on {
                break;
            }
            if self.draw.below(3) == 0 && !faults {
                let model = self.last().clone();
                model.check(wal, &mut self.draw);
            }
            if self.draw.below(3) == 0 {
                let _ = wal.drive();
            }
            if self.draw.below(30) == 0 {
                let report = wal.scrub(Scrub::default(), |_| true);
                if let (Ok(report), false) = (report, faults) {
                    let spoiled = |entry: &duramen_wal::DamagedEntry| {
                        let id = (entry.entry.group, entry.entry.id.index);
                        self.last().spoiled.contains(&id) || self.last().suspects.contains(&id)
                    };
                    assert!(report.damaged.iter().all(spoiled), "{report:?}");
                    assert!(
                        report.unreadable.is_empty() && report.damaged_seals.is_empty(),
                        "{report:?}"
                    );
                }
            }
        }
        let durable = tickets.iter().filter(|ticket| ticket.is_durable()).count();
        self.durable = durable.checked_sub(1).map_or(0, |last| at[last]);
        if wal.drive().is_ok() {
            self.durable = self.models.len() - 1;
            let model = self.last().clone();
            model.check(wal, &mut self.draw);
        } else {
            self.count("poisoned", 1);
        }
        self.count("moved", wal.stats().entries_moved);
    }

    /// Spoils the payloads of some entries. Gives them.
    fn rot(&mut self) -> Vec<(GroupId, LogId)> {
        let mut all: Vec<(PathBuf, GroupId, LogId, u64)> = Vec::new();
        let (mut path, mut group) = (PathBuf::new(), GroupId(0));
        let disk: Arc<dyn duramen_disk::Disk> = Arc::new(self.disk.clone());
        Wal::dump_on(disk, DIR, |item| {
            match item {
                DumpItem::Segment { path: of, .. } => path = of,
                DumpItem::Record(DumpRecord::Entries { group: of, .. }) => group = of,
                DumpItem::Entry {
                    id,
                    offset: Some(offset),
                    bytes,
                    is_whole: true,
                    ..
                } if bytes > 0 => {
                    all.push((path.clone(), group, id, offset));
                }
                _ => {}
            }
            true
        })
        .unwrap();
        let mut rotten = Vec::new();
        if all.is_empty() {
            return rotten;
        }
        for _ in 0..1 + self.draw.below(3) {
            // Mostly near the end.
            let back = self.draw.below(all.len() as u64) >> (4 * self.draw.below(2));
            let (path, group, id, offset) = all[all.len() - 1 - back as usize].clone();
            if !rotten.contains(&(group, id)) {
                flip(&self.disk, &path, offset as usize);
                rotten.push((group, id));
            }
        }
        rotten
    }

    fn look(&mut self, faults: bool) {
        let disk: Arc<dyn duramen_disk::Disk> = Arc::new(self.disk.clone());
        let before = files(&self.disk, DIR.as_ref());
        let verified = Wal::verify_on(disk, DIR, |_| true).unwrap();
        assert_eq!(before, files(&self.disk, DIR.as_ref()));
        assert!(faults || verified.bad_copies.is_empty(), "{verified:?}");
        assert!(verified.missing.is_empty(), "{verified:?}");
        assert!(verified.scrub.unreadable.is_empty(), "{verified:?}");
        let may_be = |entry: &duramen_wal::DamagedEntry| {
            let id = (entry.entry.group, entry.entry.id.index);
            let models = self.models.iter();
            models
                .rev()
                .any(|model| model.spoiled.contains(&id) || model.suspects.contains(&id))
        };
        assert!(verified.scrub.damaged.iter().all(may_be), "{verified:?}");
    }

    fn life(&mut self, faults: bool) {
        let options = self.draw.options();
        let wal = match open(&self.disk, &options) {
            Ok(wal) => wal,
            Err(error) => panic!("{error}"),
        };
        let model = self.recognised(&wal, options.keep_suspects);
        model.check(&wal, &mut self.draw);
        self.models = vec![model];
        self.durable = 0;
        self.run(&wal, faults);
        let closed = self.end(wal, faults);
        if self.draw.below(3) == 0 {
            self.rot_some(closed);
        }
        self.look(faults);
    }

    /// What a log that was opened holds: a state that was, with more or less of it spoiled.
    fn recognised(&mut self, wal: &Wal, keep_suspects: bool) -> Model {
        let mut fits = (self.durable..self.models.len()).filter(|&k| self.models[k].is_in(wal));
        let k = fits.next();
        let k = k.unwrap_or_else(|| {
            for model in &self.models {
                println!("{:?}", model.ids());
            }
            let found = wal.groups().into_iter().map(|id| {
                (
                    id,
                    wal.purged(id),
                    wal.last(id),
                    wal.hard_state(id).term,
                    wal.user_record(id).len(),
                )
            });
            let (durable, recovery) = (self.durable, wal.recovery());
            panic!(
                "a state that never was: {:?}, {durable}, {recovery:?}",
                found.collect::<Vec<_>>()
            )
        });
        // The same ids, more of them settled.
        let found: Ids = wal
            .recovery()
            .suspects
            .iter()
            .map(|(group, id)| (*group, id.index))
            .collect();
        let mut model = self.models[k].clone();
        for other in fits {
            model.suspects = model
                .suspects
                .intersection(&self.models[other].suspects)
                .copied()
                .collect();
            model.spoiled.extend(&self.models[other].spoiled);
        }
        assert!(
            model.suspects.is_subset(&found),
            "{:?} {found:?}",
            model.suspects
        );
        assert!(
            keep_suspects || found.is_subset(&self.models[k].suspects),
            "{found:?}"
        );
        self.count("suspects", found.difference(&model.suspects).count() as u64);
        self.count("reported", wal.recovery().damaged.len() as u64);
        self.count("cut", u64::from(wal.recovery().cut.is_some()));
        self.count("lives", 1);
        model.spoiled.extend(&found);
        model.suspects = found;
        for damaged in &wal.recovery().damaged {
            let id = (damaged.entry.group, damaged.entry.id.index);
            assert!(model.spoiled.contains(&id), "{damaged:?}");
        }
        model
    }

    /// The process ends in some way. Whether it closed the log.
    fn end(&mut self, wal: Wal, faults: bool) -> bool {
        let mut closed = false;
        if faults && self.draw.below(3) == 0 {
            self.disk.crash_after(self.draw.below(8));
            let mut tickets = Vec::new();
            self.submit(&wal, &mut tickets);
            let _ = tickets.pop().map(|ticket| ticket.wait());
        } else if self.draw.below(2) == 0 {
            closed = wal.clone().close().is_ok();
        }
        drop(wal);
        match self.draw.below(2) {
            0 => self.disk.kill(),
            _ => self.disk.power_cut(self.draw.below(1000)),
        }
        closed
    }

    fn rot_some(&mut self, closed: bool) {
        let rotten = self.rot();
        self.count("rotten", rotten.len() as u64);
        for model in &mut self.models {
            for (group, id) in &rotten {
                let content = model.state.get(group);
                let is_it = content
                    .is_some_and(|content| content.entries.iter().any(|entry| entry.id == *id));
                if is_it {
                    model.spoiled.insert((*group, id.index));
                }
            }
        }
        if !closed {
            self.durable = 0; // What is acknowledged and not marked may be cut now.
        }
    }
}

fn histories(seeds: std::ops::Range<u64>, faults: bool) {
    let mut totals = BTreeMap::new();
    for seed in seeds {
        let _replay = Replay(|| format!("seed {seed}"));
        let mut draw = Draw((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let disk = SimDisk::new();
        drop(create(&disk, &draw.options()).unwrap());
        let mut history = History {
            draw,
            disk,
            models: vec![Model::default()],
            durable: 0,
            counts: BTreeMap::new(),
        };
        for _ in 0..8 {
            history.life(faults);
        }
        for (name, count) in history.counts {
            *totals.entry(name).or_insert(0) += count;
        }
    }
    println!("{totals:?}");
    let floors = [
        ("batches", 3000),
        ("moved", 10_000),
        ("repaired", 50),
        ("reported", 50),
        ("rotten", 100),
    ];
    let with_faults = [("poisoned", 20), ("cut", 5), ("suspects", 5)];
    for (name, floor) in floors.iter().chain(with_faults.iter().filter(|_| faults)) {
        assert!(totals[name] > *floor, "{name}: {totals:?}");
    }
}

#[test]
fn random_histories_with_rot_hold() {
    histories(0..60, false);
}

#[test]
fn random_histories_with_rot_and_faults_hold() {
    histories(1000..1060, true);
}
