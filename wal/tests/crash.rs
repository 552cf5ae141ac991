//! Every crash state of small workloads, and of the recovery from each.
//!
//! A workload runs until its n-th operation on the disk dies or fails, for every n. Then the process is killed, or the
//! power goes in several ways. Whatever is left must open, and hold a prefix of the submitted batches with every
//! acknowledged one in it. Opening it is interrupted in the same ways at each of *its* operations. What a completed
//! `open` returned is there after everything that follows, and the log goes on from it.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::fmt;
use std::io::ErrorKind;
use std::ops::RangeInclusive;

use duramen_disk::{Disk, SimDisk};
use duramen_wal::{Batch, Error, GroupId, HardState, Options, Term};
use support::*;

struct Workload {
    name: &'static str,
    options: Options,
    /// So many of `steps` are acknowledged before anything happens.
    before: usize,
    steps: Vec<Step>,
}

/// What happens to an operation.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The process dies in it.
    Crash,
    /// It fails; a failed sync drops its pages.
    Error,
}

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// The process closes the log and opens it again.
    Close,
    Kill,
    /// With this seed.
    PowerCut(u64),
}

/// What is needed to do it again.
#[derive(Clone, Copy)]
struct At {
    workload: &'static str,
    fault: Fault,
    operation: u64,
    then: Then,
    in_recovery: Option<(Fault, u64, Then)>,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "workload {:?}, {:?} at operation {}, then {:?}",
            self.workload, self.fault, self.operation, self.then
        )?;
        match self.in_recovery {
            None => Ok(()),
            Some((fault, operation, then)) => write!(
                f,
                "; opening it, {fault:?} at operation {operation}, then {then:?}"
            ),
        }
    }
}

const FAULTS: [Fault; 2] = [Fault::Crash, Fault::Error];

impl Fault {
    fn arm(self, disk: &SimDisk, operation: u64) {
        match self {
            Fault::Crash => disk.crash_after(operation),
            Fault::Error => disk.fail_after(operation, ErrorKind::Other),
        }
    }

    /// What can come after it. A crash leaves nobody to close the log.
    fn then(self, seeds: u64) -> impl Iterator<Item = Then> {
        let close = matches!(self, Fault::Error).then_some(Then::Close);
        let cuts = (0..seeds).map(Then::PowerCut);
        close.into_iter().chain([Then::Kill]).chain(cuts)
    }
}

impl Then {
    fn happen(self, disk: &SimDisk) -> SimDisk {
        let after = disk.fork();
        match self {
            Then::Close => {}
            Then::Kill => after.kill(),
            Then::PowerCut(seed) => after.power_cut(seed),
        }
        after
    }
}

/// What came up, to know that it did.
#[derive(Debug, Default)]
struct Counts {
    states: u64,
    torn: u64,
    /// A batch was submitted, not acknowledged, and is there.
    kept: u64,
    /// A batch was submitted, not acknowledged, and is not there.
    lost: u64,
}

struct Explorer {
    workload: Workload,
    states: Vec<State>,
    counts: Counts,
}

/// No workload writes to it.
const NEW_GROUP: GroupId = GroupId(9);

const SEEDS: u64 = 8;
const SEEDS_IN_RECOVERY: u64 = 2;

fn explore(workload: Workload) {
    let name = workload.name;
    let mut explorer = Explorer {
        states: states(&workload.steps),
        workload,
        counts: Counts::default(),
    };
    for fault in FAULTS {
        explorer.every_operation(fault);
    }
    let counts = explorer.counts;
    println!("{name}: {counts:?}");
    assert!(counts.states > 5_000, "{counts:?}");
    assert!(
        counts.torn > 100 && counts.kept > 100 && counts.lost > 100,
        "{counts:?}"
    );
}

impl Explorer {
    fn every_operation(&mut self, fault: Fault) {
        let before = disk_with(
            &self.workload.options,
            &self.workload.steps[..self.workload.before],
        );
        for operation in 0.. {
            let disk = before.fork();
            fault.arm(&disk, operation);
            let allowed = self.run(&disk);
            let done = *allowed.start() == self.workload.steps.len();
            for then in fault.then(SEEDS) {
                if done && matches!(then, Then::Close) {
                    continue; // the fault would come now
                }
                let at = At {
                    workload: self.workload.name,
                    fault,
                    operation,
                    then,
                    in_recovery: None,
                };
                self.recover(&then.happen(&disk), &allowed, at);
            }
            if done {
                return; // the fault came after the last operation
            }
        }
    }

    /// Runs the workload until an operation fails. How many batches may be there afterwards: from the acknowledged to
    /// the submitted ones.
    fn run(&self, disk: &SimDisk) -> RangeInclusive<usize> {
        let mut acknowledged = self.workload.before;
        let Ok(wal) = open(disk, &self.workload.options) else {
            return acknowledged..=acknowledged;
        };
        for step in &self.workload.steps[acknowledged..] {
            match wal.write(&batch(step)) {
                Ok(()) => acknowledged += 1,
                Err(Error::Io { .. }) => return acknowledged..=acknowledged + 1,
                Err(other) => panic!("operation of {:?}: {other}", self.workload.name),
            }
        }
        acknowledged..=acknowledged
    }

    /// Opens a log after a crash: undisturbed, and with a fault at each operation.
    fn recover(&mut self, disk: &SimDisk, allowed: &RangeInclusive<usize>, at: At) {
        for fault in FAULTS {
            for operation in 0.. {
                let again = disk.fork();
                fault.arm(&again, operation);
                if open(&again, &self.workload.options).is_ok() {
                    assert!(operation > 4, "{at}: open was not disturbed");
                    break;
                }
                for then in fault.then(SEEDS_IN_RECOVERY) {
                    let in_recovery = Some((fault, operation, then));
                    let at = At { in_recovery, ..at };
                    self.settle(&then.happen(&again), allowed, at);
                }
            }
        }
        self.settle(disk, allowed, at);
    }

    /// Opens a log undisturbed. What it says is allowed, and is there ever after.
    fn settle(&mut self, disk: &SimDisk, allowed: &RangeInclusive<usize>, at: At) {
        let _replay = Replay(|| at.to_string());
        let wal = open(disk, &self.workload.options).unwrap();
        let found = wal.recovery().frames as usize;
        assert!(allowed.contains(&found), "{found} of {allowed:?} batches");
        assert_eq!(state_of(&wal), self.states[found]);

        self.counts.states += 1;
        self.counts.torn += u64::from(wal.recovery().torn.is_some());
        let undecided = allowed.start() != allowed.end();
        self.counts.kept += u64::from(undecided && found == *allowed.end());
        self.counts.lost += u64::from(undecided && found == *allowed.start());

        for then in [
            Then::Kill,
            Then::PowerCut(0),
            Then::PowerCut(1 + at.operation),
        ] {
            self.holds(&then.happen(disk), found, None);
        }
        // It goes on, also with a shorter batch than the one that was cut off.
        let next = HardState {
            term: Term(1),
            voted_for: None,
        };
        wal.write(Batch::new().hard_state(NEW_GROUP, next)).unwrap();
        drop(wal);
        disk.power_cut(0);
        self.holds(disk, found + 1, Some(next));
    }

    /// The log opens with so many batches, the last of them perhaps a vote in [`NEW_GROUP`], and with nothing torn.
    fn holds(&self, disk: &SimDisk, batches: usize, vote: Option<HardState>) {
        let wal = open(disk, &self.workload.options).unwrap();
        assert_eq!(wal.recovery().frames, batches as u64);
        assert_eq!(wal.recovery().torn, None);
        let names = disk.list(DIR.as_ref()).unwrap();
        assert_eq!(names.len() as u64, wal.recovery().segments + 1, "{names:?}"); // and the lock
        assert_eq!(wal.hard_state(NEW_GROUP), vote.unwrap_or_default());
        let mut state = state_of(&wal);
        state.remove(&NEW_GROUP);
        assert_eq!(state, self.states[batches - usize::from(vote.is_some())]);
    }
}

#[test]
fn every_crash_while_appending() {
    explore(Workload {
        name: "append",
        options: Options::default(),
        before: 1,
        steps: vec![
            vec![append(1, 1, 1, 1, 100)],
            vec![append(1, 2, 3, 1, 700)],
            vec![append(1, 4, 4, 1, 0)],
            vec![append(1, 5, 30, 2, 40)],
            vec![append(1, 31, 31, 2, 3000)],
        ],
    });
}

#[test]
fn every_crash_while_overwriting() {
    explore(Workload {
        name: "overwrite",
        options: options(1500),
        before: 2,
        steps: vec![
            vec![append(1, 1, 8, 1, 100)],
            vec![append(1, 9, 12, 2, 100)],
            vec![append(1, 6, 6, 3, 100)],
            vec![append(1, 7, 9, 3, 100), append(1, 8, 8, 4, 600)],
            vec![append(1, 1, 1, 5, 1)],
        ],
    });
}

#[test]
fn every_crash_while_rotating() {
    explore(Workload {
        name: "rotate",
        options: options(1),
        before: 0,
        steps: (1..=4)
            .map(|i| vec![append(1, i, i, i, 300), vote(1, i, i)])
            .collect(),
    });
}

#[test]
fn every_crash_while_voting() {
    let votes = (1..=14).map(|term| vec![vote(1, term, term % 3)]);
    explore(Workload {
        name: "vote",
        options: options(400),
        before: 3,
        steps: votes.collect(),
    });
}

#[test]
fn every_crash_while_writing_several_groups() {
    explore(Workload {
        name: "groups",
        options: options(900),
        before: 1,
        steps: vec![
            vec![
                append(1, 1, 2, 1, 50),
                append(2, 1, 2, 1, 50),
                vote(3, 1, 1),
            ],
            vec![append(2, 2, 4, 2, 200), vote(2, 2, 1), user(1, b"one")],
            vec![
                append(1, 3, 3, 1, 600),
                append(3, 1, 1, 1, 600),
                append(2, 4, 4, 2, 600),
            ],
            vec![
                vote(1, 5, 1),
                vote(2, 6, 2),
                vote(3, 7, 3),
                user(3, b"three"),
            ],
            vec![
                append(3, 1, 2, 7, 500),
                append(1, 2, 2, 5, 10),
                user(1, b""),
            ],
        ],
    });
}
