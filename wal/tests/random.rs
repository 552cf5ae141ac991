//! Random histories, held against the model: batches of all kinds queue up, segments are tiny and change their size, the
//! log is closed, killed, loses power, fails and fills up.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::collections::BTreeMap;
use std::io::ErrorKind;

use duramen_disk::SimDisk;
use duramen_wal::{Error, Ticket, Wal};
use support::drawn::Draw;
use support::*;

/// What came up, to know that it did.
#[derive(Debug, Default)]
struct Counts {
    batches: u64,
    reopened: u64,
    cut: u64,
    poisoned: u64,
    full: u64,
    segments: u64,
    moved: u64,
}

struct History {
    draw: Draw,
    disk: SimDisk,
    /// What the log holds after each batch that was submitted since it was known what is durable.
    states: Vec<State>,
    counts: Counts,
}

impl History {
    /// Runs a log for a while. What was submitted and is not known to be durable stays in `states`.
    fn run(&mut self, wal: &Wal, faults: bool) {
        let mut tickets = Vec::new();
        for _ in 0..self.draw.below(40) {
            if faults && self.draw.below(60) == 0 {
                let kind = [ErrorKind::Other, ErrorKind::StorageFull][self.draw.below(2) as usize];
                self.disk.fail_after(self.draw.below(12), kind);
            }
            let step = self.draw.step(self.states.last().unwrap());
            match wal.submit(batch(&step)) {
                Ok(ticket) => tickets.push(ticket),
                Err(Error::Full { .. } | Error::Io { .. }) => {
                    self.counts.full += 1;
                    continue;
                }
                Err(Error::TooLarge { .. }) => continue,
                Err(Error::Poisoned { .. }) => break,
                Err(other) => panic!("{step:?}: {other}"),
            }
            self.counts.batches += 1;
            let mut state = self.states.last().unwrap().clone();
            step.iter().for_each(|change| apply(&mut state, change));
            self.states.push(state);
            assert_eq!(state_of(wal), *self.states.last().unwrap());
            if self.draw.below(3) == 0 {
                wait(&mut self.states, &mut tickets, self.draw.below(4));
            }
        }
        if self.draw.below(2) == 0 && wal.drive().is_err() {
            self.counts.poisoned += 1;
        }
        // After a failure reads end at what is durable, or at what was submitted if there was none.
        let driven = wal.drive();
        let durable = tickets.iter().filter(|ticket| ticket.is_durable()).count();
        self.states.drain(..durable);
        if driven.is_err() {
            assert_eq!(state_of(wal), self.states[0]);
        } else {
            self.states.drain(..self.states.len() - 1);
        }
    }

    fn life(&mut self, faults: bool) {
        let options = self.draw.options();
        let wal = match open(&self.disk, &options) {
            Ok(wal) => wal,
            Err(error) => {
                assert!(faults, "{error}");
                return;
            }
        };
        let found = state_of(&wal);
        let k = self.states.iter().position(|state| *state == found);
        let k = k.unwrap_or_else(|| panic!("a state that never was: {found:?}"));
        self.states = self.states.split_off(k);
        self.states.truncate(1);
        assert_eq!(wal.recovery().damaged, []);
        self.counts.reopened += 1;
        self.counts.cut += u64::from(wal.recovery().cut.is_some());
        self.counts.segments += wal.recovery().segments;
        self.run(&wal, faults);
        self.counts.moved += wal.stats().entries_moved;
        if faults && self.draw.below(3) == 0 {
            self.disk.crash_after(self.draw.below(6));
            let step = self.draw.step(self.states.last().unwrap());
            if let Ok(ticket) = wal.submit(batch(&step)) {
                let mut state = self.states.last().unwrap().clone();
                step.iter().for_each(|change| apply(&mut state, change));
                self.states.push(state);
                let _ = ticket.wait();
            }
        }
        drop(wal);
        match self.draw.below(3) {
            0 => self.disk.kill(),
            1 => self.disk.power_cut(self.draw.below(1000)),
            _ => self.disk.kill(),
        }
    }
}

/// Waits for all but the last few tickets.
fn wait(states: &mut Vec<State>, tickets: &mut Vec<Ticket>, left: u64) {
    let count = tickets.len().saturating_sub(left as usize);
    for ticket in tickets.drain(..count) {
        if ticket.wait().is_ok() {
            states.remove(0);
        }
    }
}

fn histories(seeds: std::ops::Range<u64>, faults: bool) {
    let mut totals = BTreeMap::new();
    for seed in seeds {
        let _replay = Replay(|| format!("seed {seed}"));
        let mut draw = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let disk = SimDisk::new();
        drop(create(&disk, &draw.options()).unwrap());
        let mut history = History {
            draw,
            disk,
            states: vec![State::new()],
            counts: Counts::default(),
        };
        for _ in 0..8 {
            history.life(faults);
        }
        let counts = history.counts;
        for (name, count) in [
            ("batches", counts.batches),
            ("reopened", counts.reopened),
            ("cut", counts.cut),
            ("poisoned", counts.poisoned),
            ("full", counts.full),
            ("segments", counts.segments),
            ("moved", counts.moved),
        ] {
            *totals.entry(name).or_insert(0) += count;
        }
    }
    println!("{totals:?}");
    assert!(
        totals["batches"] > 10_000 && totals["moved"] > 500,
        "{totals:?}"
    );
    assert!(faults || totals["cut"] == 0, "{totals:?}");
    assert!(
        !faults || totals["cut"] > 20 && totals["poisoned"] > 20,
        "{totals:?}"
    );
}

#[test]
fn random_histories_hold() {
    histories(1..200, false);
}

#[test]
fn random_histories_with_faults_hold() {
    histories(1000..1300, true);
}
