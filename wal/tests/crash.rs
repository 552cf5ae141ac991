//! Every crash state of small workloads, and of the recovery from each.
//!
//! A workload runs until its n-th operation on the disk dies or fails, for every n. Then the process is killed, or the
//! power goes in several ways. Whatever is left must open, and hold a prefix of the submitted batches with every
//! acknowledged one in it. Opening it is interrupted in the same ways at each of *its* operations. What a completed
//! `open` returned is there after everything that follows, and the log goes on from it.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::ErrorKind;
use std::ops::RangeInclusive;

use duramen_disk::{Disk, SimDisk};
use duramen_wal::{Batch, Error, GroupId, HardState, Options, Term};
use rustc_hash::FxHasher;
use support::*;

struct Workload {
    name: &'static str,
    options: Options,
    /// So many of `steps` are acknowledged before anything happens.
    before: usize,
    /// So many are submitted before the first of them is waited for.
    together: usize,
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
    /// What happened while it was opened, and while that was opened.
    in_recovery: [Option<(Fault, u64, Then)>; 2],
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "workload {:?}, {:?} at operation {}, then {:?}",
            self.workload, self.fault, self.operation, self.then
        )?;
        for (fault, operation, then) in self.in_recovery.into_iter().flatten() {
            write!(
                f,
                "; opening it, {fault:?} at operation {operation}, then {then:?}"
            )?;
        }
        Ok(())
    }
}

impl At {
    /// Whether the recovery from a disturbed recovery is disturbed too: that multiplies the states, so not everywhere.
    fn is_sampled(&self, operation: u64, then: Then) -> bool {
        matches!(then, Then::PowerCut(1)) && (7 * self.operation + operation).is_multiple_of(3)
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
    /// Disks that a crash left and that were opened, each different from the others.
    states: HashSet<u64>,
    /// Those whose recovery was disturbed.
    disturbed: HashSet<u64>,
    cut: u64,
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

/// How many power cuts are drawn after each fault; `DURAMEN_CRASH_SEEDS` for more.
const SEEDS: u64 = 6;
const SEEDS_IN_RECOVERY: u64 = 4;

fn seeds() -> u64 {
    let given = std::env::var("DURAMEN_CRASH_SEEDS");
    given.map_or(SEEDS, |seeds| seeds.parse().unwrap())
}

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
    let Counts {
        states,
        disturbed,
        cut,
        kept,
        lost,
    } = counts;
    let (states, disturbed) = (states.len(), disturbed.len());
    let said = format!("{disturbed} recoveries disturbed, {cut} cut, {kept} kept, {lost} lost");
    let label = name.replace(' ', "_");
    println!("{name}: {said}\nproof: crash_states/{label} {states}");
    assert!(states > 200 && disturbed > 50, "{states}, {said}");
    assert!(cut > 100 && kept > 100 && lost > 100, "{said}");
}

impl Explorer {
    fn every_operation(&mut self, fault: Fault) {
        let before = disk_with(
            &self.workload.options,
            &self.workload.steps[..self.workload.before],
        );
        before.seed_random(1); // Else no two disks would be alike.
        for operation in 0.. {
            let disk = before.fork();
            fault.arm(&disk, operation);
            let allowed = self.run(&disk);
            let done = *allowed.start() == self.workload.steps.len();
            for then in fault.then(seeds()) {
                if done && matches!(then, Then::Close) {
                    continue; // the fault would come now
                }
                let at = At {
                    workload: self.workload.name,
                    fault,
                    operation,
                    then,
                    in_recovery: [None; 2],
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
        for steps in self.workload.steps[acknowledged..].chunks(self.workload.together) {
            let mut tickets = Vec::new();
            for step in steps {
                match wal.submit(batch(step)) {
                    Ok(ticket) => tickets.push(ticket),
                    Err(Error::Io { .. } | Error::Poisoned { .. }) => break,
                    Err(other) => panic!("operation of {:?}: {other}", self.workload.name),
                }
            }
            let submitted = acknowledged + tickets.len();
            let wanted = acknowledged + steps.len();
            for ticket in tickets {
                match ticket.wait() {
                    Ok(()) => acknowledged += 1,
                    Err(Error::Poisoned { .. }) => return acknowledged..=submitted,
                    Err(other) => panic!("operation of {:?}: {other}", self.workload.name),
                }
            }
            if acknowledged < wanted {
                return acknowledged..=submitted;
            }
        }
        acknowledged..=acknowledged
    }

    /// Opens a log after a crash: undisturbed, and with a fault at each operation, and some of what that leaves likewise.
    fn recover(&mut self, disk: &SimDisk, allowed: &RangeInclusive<usize>, at: At) {
        let is_new = self.counts.disturbed.insert(identity(disk, allowed));
        for fault in FAULTS.into_iter().filter(|_| is_new) {
            for operation in 0.. {
                let again = disk.fork();
                fault.arm(&again, operation);
                if open(&again, &self.workload.options).is_ok() {
                    assert!(operation > 4, "{at}: open was not disturbed");
                    break;
                }
                for then in fault.then(SEEDS_IN_RECOVERY) {
                    let disturbed = Some((fault, operation, then));
                    let left = then.happen(&again);
                    let deeper = at.in_recovery[0].is_none() && at.is_sampled(operation, then);
                    let in_recovery = match at.in_recovery {
                        [None, _] => [disturbed, None],
                        [first, _] => [first, disturbed],
                    };
                    let at = At { in_recovery, ..at };
                    match deeper {
                        true => self.recover(&left, allowed, at),
                        false => self.settle(&left, allowed, at),
                    }
                }
            }
        }
        self.settle(disk, allowed, at);
    }

    /// Opens a log undisturbed. What it says is allowed, and is there ever after.
    fn settle(&mut self, disk: &SimDisk, allowed: &RangeInclusive<usize>, at: At) {
        let _replay = Replay(|| at.to_string());
        if !self.counts.states.insert(identity(disk, allowed)) {
            return; // a crash while something is read, say, leaves what was there before
        }
        let wal = open(disk, &self.workload.options).unwrap();
        let found = held(&wal, &self.states);
        assert!(allowed.contains(&found), "{found} of {allowed:?} batches");
        assert_eq!(wal.recovery().damaged, []);

        self.counts.cut += u64::from(wal.recovery().cut.is_some());
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
            ..HardState::default()
        };
        let mut batch = Batch::new();
        batch.hard_state(NEW_GROUP, next);
        wal.write(batch).unwrap();
        drop(wal);
        disk.power_cut(0);
        self.holds(disk, found, Some(next));
    }

    /// The log opens with so many batches, and perhaps a vote in [`NEW_GROUP`].
    fn holds(&self, disk: &SimDisk, batches: usize, vote: Option<HardState>) {
        let wal = open(disk, &self.workload.options).unwrap();
        // What is cut off here again are bytes that were cut before: the zeros over them were lost with a failed sync.
        assert_eq!(wal.recovery().damaged, []);
        let names = disk.list(DIR.as_ref()).unwrap();
        // CONTROL, the lock, at most two files that wait to become segments, and one that has its name.
        let with = |end: &str| names.iter().filter(|name| name.ends_with(end)).count() as u64;
        let (spares, segments) = (with(".tmp"), with(".wal"));
        let prepared = segments - wal.recovery().segments;
        assert!(
            spares <= 2 && prepared <= 1 && segments + spares + 2 == names.len() as u64,
            "{names:?}"
        );
        assert_eq!(wal.hard_state(NEW_GROUP), vote.unwrap_or_default());
        let mut state = state_of(&wal);
        state.remove(&NEW_GROUP);
        assert_eq!(state, self.states[batches]);
    }
}

/// What is there, what a power cut would leave of it, and what it must hold.
fn identity(disk: &SimDisk, allowed: &RangeInclusive<usize>) -> u64 {
    let durable = disk.fork();
    durable.power_cut_keeping(|_| false);
    let mut hasher = FxHasher::default();
    (fingerprint(disk), fingerprint(&durable), allowed).hash(&mut hasher);
    hasher.finish()
}

#[test]
fn every_crash_while_appending() {
    explore(Workload {
        name: "append",
        options: options(1 << 16),
        before: 1,
        together: 1,
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
        options: options(1 << 14),
        before: 2,
        together: 1,
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
        options: options(1 << 14),
        before: 0,
        together: 1,
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
        options: options(1 << 15),
        before: 3,
        together: 1,
        steps: votes.collect(),
    });
}

#[test]
fn every_crash_while_writing_several_groups() {
    explore(Workload {
        name: "groups",
        options: options(1 << 14),
        before: 1,
        together: 1,
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

#[test]
fn every_crash_while_many_wait_together() {
    explore(Workload {
        name: "together",
        options: options(1 << 14),
        before: 1,
        together: 4,
        steps: vec![
            vec![append(1, 1, 2, 1, 100)],
            vec![append(1, 3, 4, 1, 700)],
            vec![append(2, 1, 1, 1, 50), vote(2, 1, 1)],
            vec![append(1, 4, 4, 2, 300)],
            vec![append(1, 5, 5, 2, 300)],
            vec![vote(1, 3, 1)],
            vec![append(1, 5, 9, 3, 300)],
            vec![append(2, 2, 2, 1, 900)],
            vec![user(2, b"two")],
        ],
    });
}

#[test]
fn every_crash_while_purging_and_freeing() {
    let mut steps = Vec::new();
    for i in 1..=6 {
        let first = 4 * i - 3;
        steps.push(vec![append(1, first, first + 3, 1, 1200)]);
        steps.push(vec![purge(1, first + 1, 1), append(2, i, i, i, 10)]);
    }
    steps.push(vec![Change::Truncate(1, 23)]);
    steps.push(vec![
        purge(1, 40, 2),
        append(1, 41, 41, 2, 100),
        vote(1, 2, 3),
    ]);
    steps.push(vec![Change::Remove(2)]);
    explore(Workload {
        name: "purge",
        options: options(1 << 14),
        before: 5,
        together: 1,
        steps,
    });
}

/// Each segment but the first two was another one before, and what stood there are frames that were good.
#[test]
fn every_crash_in_recycled_segments() {
    let mut steps = vec![vec![append(1, 1, 1, 1, 5000), vote(1, 1, 1)]];
    for i in 2..=9 {
        steps.push(vec![purge(1, i - 1, i - 1)]);
        steps.push(vec![append(1, i, i, i, 5000), vote(1, i, i)]);
    }
    explore(Workload {
        name: "recycle",
        options: options(12288),
        before: 6,
        together: 1,
        steps,
    });
}

/// A write of two frames, the second of which begins a segment.
#[test]
fn every_crash_while_a_write_spans_segments() {
    let mut steps = Vec::new();
    for i in 1..=3 {
        steps.push(vec![append(1, i, i, i, 300), vote(1, i, i)]);
        steps.push(vec![append(2, i, i, i, 8000)]);
    }
    explore(Workload {
        name: "span",
        options: options(1 << 15),
        before: 2,
        together: 2,
        steps,
    });
}

/// What a purge kills is dead in memory before the purge is written: a vote waits for the write before it.
#[test]
fn every_crash_while_a_purge_waits() {
    let mut steps = vec![vec![append(1, 1, 1, 1, 8000)], vec![vote(2, 1, 1)]];
    for i in 2..=4 {
        steps.push(vec![append(1, i, i, i, 8000)]);
        steps.push(vec![vote(2, i, 1), purge(1, i - 1, i - 1)]);
    }
    explore(Workload {
        name: "purge waits",
        options: options(1 << 15),
        before: 2,
        together: 2,
        steps,
    });
}

/// A group that lags: its entries are moved so that the segments they stand in can be freed, and are moved again, while it is
/// truncated and written to.
#[test]
fn every_crash_while_moving() {
    let mut steps = vec![vec![
        append(1, 1, 3, 1, 40),
        append(2, 1, 2, 1, 900),
        vote(1, 1, 1),
    ]];
    for i in 2..=16 {
        steps.push(vec![append(3, i - 1, i - 1, i, 5000)]);
        steps.push(match i {
            5 => vec![purge(3, i - 1, i), append(1, 3, 4, 2, 50)],
            9 => vec![purge(3, i - 1, i), Change::Truncate(2, 1)],
            12 => vec![purge(3, i - 1, i), append(2, 2, 2, 3, 10), purge(1, 1, 1)],
            _ => vec![purge(3, i - 1, i)],
        });
    }
    explore(Workload {
        name: "move",
        options: options(1 << 14),
        // All of it where there is time for it.
        before: if std::env::var_os("DURAMEN_CRASH_SEEDS").is_none() {
            24
        } else {
            10
        },
        together: 1,
        steps,
    });
}
