//! Every state that a crash, or an error, leaves in short lives of a store, and every crash of opening it again.
//!
//! Whatever is left must open, and hold the snapshots as they were before the step that was interrupted or after it, each
//! whole. What had arrived of an install before a kill is not asked for again. The store goes on, and gives back what nobody
//! needs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::io::ErrorKind;

use duramen_disk::{Crash, CrashState, Failure, Op, SimDisk, every_crash, every_error};
use duramen_snapshot::{Error, Result, SnapshotStore};
use support::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    Write(u64),
    /// Two writers at a time.
    WriteBoth(u64, u64),
    DropOlder(usize),
    /// From begin to publish, as far as it is missing.
    Install(u64),
    /// So many chunks of it.
    Arrive(u64, usize),
    /// The first chunk of the oldest snapshot.
    Repair,
}

/// What was known when the life ended.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The snapshots that must be there, and those that may.
    sure: BTreeSet<u64>,
    perhaps: BTreeSet<u64>,
    /// The install that was under way, and how many of its chunks were taken.
    arrived: Option<(u64, usize)>,
}

struct Story {
    states: States,
    peer: SnapshotStore,
    start: SimDisk,
    steps: Vec<Step>,
    /// Every crash of the open is tried after each of so many.
    sampled: u64,
}

/// What came up, to know that it did.
#[derive(Debug, Default)]
struct Counts {
    states: u64,
    old: u64,
    new: u64,
    resumed: u64,
}

impl Story {
    /// The steps `before` are done before anything happens.
    fn new(states: States, before: &[Step], steps: &[Step]) -> Story {
        let mut story = Story {
            peer: peer(&states),
            states,
            start: SimDisk::new(),
            steps: before.to_vec(),
            sampled: 11,
        };
        let (_, ended) = story.live(&story.start);
        ended.unwrap();
        story.start.power_cut(0);
        story.steps = steps.to_vec();
        story
    }

    /// One life, up to the first error.
    fn live(&self, disk: &SimDisk) -> (Known, Result<()>) {
        let mut known = Known {
            sure: self.at_start(),
            ..Known::default()
        };
        let store = match open(disk) {
            Ok(store) => store,
            Err(error) => return (known, Err(error)),
        };
        for step in &self.steps {
            if let Err(error) = self.step(&store, *step, &mut known) {
                return (known, Err(error));
            }
            known.sure = indexes(&store).into_iter().collect();
            known.perhaps.clear();
            if !store.report().damaged.is_empty() {
                known.perhaps = self.at_start(); // One could not be read, once.
            }
        }
        (known, Ok(()))
    }

    fn at_start(&self) -> BTreeSet<u64> {
        let store = open(&self.start.fork()).unwrap();
        indexes(&store).into_iter().collect()
    }

    fn step(&self, store: &SnapshotStore, step: Step, known: &mut Known) -> Result<()> {
        match step {
            Step::Write(index) => {
                known.perhaps.insert(index);
                drop(write(store, index, &self.states[&index])?);
            }
            Step::WriteBoth(first, second) => {
                known.perhaps.extend([first, second]);
                let one = begin(store, first, &self.states[&first])?;
                let other = begin(store, second, &self.states[&second])?;
                other.publish()?;
                known.sure.insert(second);
                one.publish()?;
            }
            Step::DropOlder(keep) => {
                let there = indexes(store);
                let older = &there[..there.len().saturating_sub(keep)];
                known.perhaps.extend(older);
                known.sure.retain(|index| !older.contains(index));
                store.drop_older(keep)?;
            }
            Step::Install(index) => {
                known.arrived = None;
                let mut install = store.begin_install(manifest(&self.peer, index))?;
                known.arrived = Some((index, 0));
                for name in install.missing() {
                    install.put(name, &self.peer.read_chunk(name).unwrap())?;
                    known.arrived = known.arrived.map(|(index, arrived)| (index, arrived + 1));
                }
                known.arrived = None;
                known.perhaps.insert(index);
                install.publish()?;
            }
            Step::Arrive(index, chunks) => {
                known.arrived = None;
                let mut install = store.begin_install(manifest(&self.peer, index))?;
                known.arrived = Some((index, 0));
                for name in install.missing().into_iter().take(chunks) {
                    install.put(name, &self.peer.read_chunk(name).unwrap())?;
                    known.arrived = known.arrived.map(|(index, arrived)| (index, arrived + 1));
                }
            }
            Step::Repair => {
                let name = some_chunk(store);
                store.repair_chunk(name, &self.peer.read_chunk(name).unwrap())?;
            }
        }
        Ok(())
    }

    fn every_crash(&self) -> Counts {
        let mut counts = Counts::default();
        for crash in every_crash(&self.start, |disk| self.live(disk).0) {
            self.hold(&crash, &mut counts);
            if counts.states % self.sampled == 0 {
                for deeper in crash.every_crash(|disk| drop(open(disk))) {
                    self.settle(&deeper.disk, &crash.outcome, &mut counts);
                }
                self.every_error_in_the_open(&crash, &mut counts);
            }
        }
        println!("crashes: {counts:?}");
        counts
    }

    /// Each call fails once. The store says so, and nothing is wrong after it.
    fn every_error(&self, failure: impl Into<Failure>, is_fine: impl Fn(Op, &Result<()>) -> bool) {
        let mut calls = 0;
        for failed in every_error(&self.start, failure, |disk| self.live(disk)) {
            let (known, ended) = &failed.outcome;
            let op = failed.failed_in.0;
            assert!(is_fine(op, ended), "{ended:?} after {:?}", failed.failed_in);
            for power_cut in [false, true] {
                let disk = failed.disk.fork();
                match power_cut {
                    true => disk.power_cut(0),
                    false => disk.kill(),
                }
                self.settle(&disk, known, &mut Counts::default());
            }
            calls += 1;
        }
        println!("errors: {calls}");
        assert!(calls > 0);
    }

    fn every_kind_of_error(&self) {
        let told = |_, ended: &Result<()>| matches!(ended, Ok(()) | Err(Error::Io { .. }));
        self.every_error(Failure::EIO, told);
        let full = |_, ended: &Result<()>| {
            matches!(
                ended,
                Ok(()) | Err(Error::Full { .. } | Error::Poisoned { .. })
            )
        };
        self.every_error(ErrorKind::StorageFull, full);
        self.every_error(Failure::SHORT, |_, ended| ended.is_ok());
        // Reads and writes go on after a signal; of other calls the disk sees to that.
        let completed = |op, ended: &Result<()>| match op {
            Op::Read | Op::Write => ended.is_ok(),
            _ => told(op, ended),
        };
        self.every_error(ErrorKind::Interrupted, completed);
    }

    /// What cannot be read once is there when it can be read again.
    fn every_error_in_the_open(&self, crash: &Crash<Known>, counts: &mut Counts) {
        for failed in crash.every_error(Failure::EIO, |disk| open(disk).map(drop)) {
            let opened = &failed.outcome;
            assert!(
                matches!(opened, Ok(()) | Err(Error::Io { .. })),
                "{opened:?}"
            );
            let disk = failed.disk.fork();
            match counts.states % 2 {
                0 => disk.kill(),
                _ => disk.power_cut(counts.states),
            }
            self.settle(&disk, &crash.outcome, counts);
        }
    }

    fn hold(&self, crash: &Crash<Known>, counts: &mut Counts) {
        let disk = crash.disk.fork();
        let known = &crash.outcome;
        if let (Some((index, arrived)), Some((_, CrashState::Kill))) =
            (known.arrived, crash.id.steps().last())
        {
            let store = open(&disk.fork()).unwrap();
            let install = store.begin_install(manifest(&self.peer, index)).unwrap();
            let missing = install.missing().len();
            let (all, here) = (manifest(&self.peer, index), self.at_start_chunks(index));
            let wanted = distinct(&all) - here - arrived;
            assert!(missing <= wanted, "{missing} instead of {wanted}");
            counts.resumed += 1;
        }
        self.settle(&disk, known, counts);
    }

    /// How many of the chunks of a snapshot the store has at the start.
    fn at_start_chunks(&self, index: u64) -> usize {
        let store = open(&self.start.fork()).unwrap();
        let manifest = manifest(&self.peer, index);
        distinct(&manifest) - store.missing(&manifest).len()
    }

    /// Opens what a crash left, looks at it, and goes on.
    fn settle(&self, disk: &SimDisk, known: &Known, counts: &mut Counts) {
        let store = open(disk).unwrap();
        let found: BTreeSet<u64> = indexes(&store).into_iter().collect();
        let allowed: BTreeSet<u64> = known.sure.union(&known.perhaps).copied().collect();
        assert!(known.sure.is_subset(&found), "{found:?} {known:?}");
        assert!(found.is_subset(&allowed), "{found:?} {known:?}");
        assert_eq!(store.report().damaged, []);
        assert_eq!(store.report().incomplete, []);
        all_read_back(&store, &self.states);
        counts.states += 1;
        counts.old += u64::from(found == known.sure && found != allowed);
        counts.new += u64::from(found == allowed && found != known.sure);
        is_tidy(disk, &store);
        drop(store);

        disk.power_cut(0);
        let store = open(disk).unwrap();
        assert_eq!(
            found,
            indexes(&store).into_iter().collect(),
            "changed its mind"
        );
        self.go_on(disk, &store);
    }

    /// Ends what was under way, writes one more, and drops all but that.
    fn go_on(&self, disk: &SimDisk, store: &SnapshotStore) {
        for manifest in store.installs() {
            let mut install = store.begin_install(manifest).unwrap();
            fetch(&mut install, &self.peer).unwrap();
            install.publish().unwrap();
        }
        let (newest, state) = self.states.last_key_value().unwrap();
        let mut states = self.states.clone();
        let next = edited(state, 0, 100, 99);
        write(store, newest + 1, &next).unwrap();
        states.insert(newest + 1, next);
        all_read_back(store, &states);
        store.drop_older(1).unwrap();
        assert_eq!(indexes(store), [newest + 1]);
        all_read_back(store, &states);
        is_tidy(disk, store);
        assert!(!names(disk).iter().any(|name| name.ends_with(".install")));
    }
}

fn distinct(manifest: &duramen_snapshot::Manifest) -> usize {
    let chunks = manifest.chunks().iter().map(|chunk| chunk.name);
    chunks.collect::<BTreeSet<_>>().len()
}

/// No file is there that nothing is about.
fn is_tidy(disk: &SimDisk, store: &SnapshotStore) {
    let names = names(disk);
    let with = |end: &str| names.iter().filter(|name| name.ends_with(end)).count();
    let (snapshots, chunks, installs) = (with(".snap"), with(".chunks"), with(".install"));
    assert_eq!(snapshots + chunks + installs, names.len(), "{names:?}");
    assert_eq!(snapshots, store.list().len(), "{names:?}");
    assert_eq!(installs, store.installs().len(), "{names:?}");
    assert!(chunks <= 4, "{names:?}");
    space_is_bounded(store);
}

/// A state, one with a small change, one with another, and one that shares nothing.
fn states() -> States {
    let first = noise(1, 3000);
    let second = edited(&first, 1500, 200, 2);
    let third = edited(&second, 300, 200, 3);
    States::from([(10, first), (20, second), (30, third), (40, noise(4, 2000))])
}

fn explore(before: &[Step], steps: &[Step]) -> Counts {
    let story = Story::new(states(), before, steps);
    story.every_kind_of_error();
    let counts = story.every_crash();
    assert!(counts.states > 100, "{counts:?}");
    counts
}

#[test]
fn every_crash_while_publishing_the_first() {
    let counts = explore(&[], &[Step::Write(10)]);
    assert!(counts.old > 10 && counts.new > 1, "{counts:?}");
}

#[test]
fn every_crash_while_publishing_one_that_shares() {
    let counts = explore(&[Step::Write(10)], &[Step::Write(20), Step::Write(30)]);
    assert!(counts.old > 10 && counts.new > 1, "{counts:?}");
}

#[test]
fn every_crash_while_publishing_and_dropping() {
    let steps = [
        Step::Write(30),
        Step::DropOlder(1),
        Step::Write(40),
        Step::DropOlder(1),
    ];
    let counts = explore(&[Step::Write(10), Step::Write(20)], &steps);
    assert!(counts.old > 10 && counts.new > 10, "{counts:?}");
}

#[test]
fn every_crash_while_a_snapshot_arrives() {
    let steps = [Step::Arrive(40, 3), Step::Install(40), Step::DropOlder(1)];
    let counts = explore(&[Step::Write(10)], &steps);
    assert!(counts.resumed > 10 && counts.new > 1, "{counts:?}");
}

#[test]
fn every_crash_while_the_first_snapshot_arrives() {
    let counts = explore(&[], &[Step::Install(40)]);
    assert!(counts.resumed > 10 && counts.new > 1, "{counts:?}");
}

#[test]
fn every_crash_while_an_install_is_given_up_for_another() {
    let steps = [Step::Arrive(40, 4), Step::Install(30), Step::DropOlder(1)];
    explore(&[Step::Write(10)], &steps);
    // What has arrived of the one that is given up is needed by the other.
    let steps = [Step::Arrive(20, 4), Step::Install(30), Step::DropOlder(1)];
    explore(&[Step::Write(40)], &steps);
}

#[test]
fn every_crash_while_a_snapshot_is_published_that_shares_with_an_install() {
    let steps = [
        Step::Arrive(10, 6),
        Step::Write(20),
        Step::DropOlder(1),
        Step::Install(10),
    ];
    explore(&[Step::Write(40)], &steps);
}

#[test]
fn every_crash_while_a_chunk_is_repaired() {
    explore(
        &[Step::Write(10), Step::Write(20)],
        &[Step::Repair, Step::DropOlder(1)],
    );
}

#[test]
fn every_crash_while_two_snapshots_are_written_at_a_time() {
    let steps = [Step::WriteBoth(20, 30), Step::DropOlder(1)];
    explore(&[Step::Write(10)], &steps);
}

/// The first one was dropped, and holes made of half of it, when it arrives again.
#[test]
fn every_crash_while_a_snapshot_arrives_of_which_holes_were_made() {
    let first = noise(1, 24 << 10);
    let second = edited(&first, 0, 12 << 10, 2);
    let states = States::from([(10, first), (20, second)]);
    let before = [Step::Write(10), Step::Write(20), Step::DropOlder(1)];
    let mut story = Story::new(states, &before, &[Step::Arrive(10, 3), Step::Install(10)]);
    story.sampled = 200;
    let counts = story.every_crash();
    assert!(counts.resumed > 50, "{counts:?}");
}

/// Only a little of each block of the old one is needed, so that no holes can be made.
fn mostly_dead() -> States {
    let first = noise(1, 48 << 10);
    let mut second = first.clone();
    for block in second.chunks_mut(4096) {
        let (len, seed) = (block.len() - 1200, u64::from(block[0]) + 7);
        block[..len].copy_from_slice(&noise(seed, len));
    }
    States::from([(10, first), (20, second)])
}

#[test]
fn every_crash_while_what_lives_of_a_mostly_dead_file_is_moved() {
    let steps = [Step::Write(20), Step::DropOlder(1)];
    let mut story = Story::new(mostly_dead(), &[Step::Write(10)], &steps);
    story.sampled = 200;
    let disk = story.start.fork();
    story.live(&disk).1.unwrap();
    let moved = names(&disk);
    let names: Vec<&str> = moved.iter().map(|name| &name[..]).collect();
    assert_eq!(names, ["0000000000000002.snap", "0000000000000003.chunks"]);
    story.every_kind_of_error();
    let counts = story.every_crash();
    assert!(counts.states > 500, "{counts:?}");
}
