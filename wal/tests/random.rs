//! Random histories, held against the model: batches of all kinds queue up, segments are tiny and change their size, the
//! log is closed, killed, loses power, fails and fills up.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::collections::BTreeMap;
use std::io::ErrorKind;

use bytes::Bytes;
use duramen_disk::SimDisk;
use duramen_wal::{
    Context, Entry, Error, GroupId, HardState, LogId, NodeId, Options, Term, Ticket, Wal,
};
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

struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    /// Mostly small, and now and then up to the limit.
    fn bytes(&mut self) -> Vec<u8> {
        let limit = [20, 20, 20, 300, 300, 2500][self.below(6) as usize];
        let (byte, len) = (self.below(256) as u8, self.below(limit));
        vec![byte; len as usize]
    }

    fn context(&mut self) -> Context {
        let context = [&[][..], b"a", &[7; 31]][self.below(3) as usize];
        Context::new(context).unwrap()
    }

    fn options(&mut self) -> Options {
        options([4096, 8192, 8201, 12288, 1 << 14, 1 << 15][self.below(6) as usize])
    }
}

struct History {
    draw: Draw,
    disk: SimDisk,
    /// What the log holds after each batch that was submitted since it was known what is durable.
    states: Vec<State>,
    counts: Counts,
}

impl History {
    fn change(&mut self, groups: &State) -> Change {
        let group = self.draw.below(5) + 100 * (self.draw.below(8) / 7) * self.draw.below(40);
        let content = groups.get(&GroupId(group)).cloned().unwrap_or_default();
        let last = content
            .entries
            .last()
            .map_or(content.purged, |entry| entry.id);
        let count = last.index.0 - content.purged.index.0;
        // A group that does not exist is neither truncated nor removed.
        let exists = groups.contains_key(&GroupId(group));
        match self.draw.below(if exists { 20 } else { 15 }) {
            0..=9 => {
                let back = self.draw.below(5) / 4 * self.draw.below(count + 1);
                let first = last.index.0 + 1 - back;
                let before = match (first - 1).checked_sub(content.purged.index.0 + 1) {
                    Some(at) => content.entries[at as usize].id,
                    None => content.purged,
                };
                let term = before.term.0 + self.draw.below(4) / 3;
                let entries = (first..first + 1 + self.draw.below(4)).map(|index| Entry {
                    context: self.draw.context(),
                    ..entry(index, term, self.draw.bytes())
                });
                Change::Append(group, entries.collect())
            }
            10..=11 => {
                let hard_state = HardState {
                    term: Term(content.hard_state.term.0 + self.draw.below(2)),
                    voted_for: (self.draw.below(2) == 0).then_some(NodeId(group)),
                    context: self.draw.context(),
                };
                Change::Vote(group, hard_state)
            }
            12..=14 => Change::User(group, Bytes::from(self.draw.bytes())),
            15 => Change::Truncate(group, last.index.0 - self.draw.below(count + 1)),
            16..=18 => {
                let at = self.draw.below(count + 2);
                let last = match at
                    .checked_sub(1)
                    .and_then(|at| content.entries.get(at as usize))
                {
                    Some(entry) => entry.id,
                    None if at == 0 => content.purged,
                    None => LogId {
                        term: last.term,
                        index: last.index.next(),
                    },
                };
                Change::Purge(group, last)
            }
            _ => Change::Remove(group),
        }
    }

    /// Changes that are possible one after the other.
    fn step(&mut self) -> Step {
        let mut step = Step::new();
        let mut state = self.states.last().unwrap().clone();
        for _ in 0..1 + self.draw.below(4) {
            let change = self.change(&state);
            apply(&mut state, &change);
            step.push(change);
        }
        step
    }

    /// Runs a log for a while. What was submitted and is not known to be durable stays in `states`.
    fn run(&mut self, wal: &Wal, faults: bool) {
        let mut tickets = Vec::new();
        for _ in 0..self.draw.below(40) {
            if faults && self.draw.below(60) == 0 {
                let kind = [ErrorKind::Other, ErrorKind::StorageFull][self.draw.below(2) as usize];
                self.disk.fail_after(self.draw.below(12), kind);
            }
            let step = self.step();
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
            let step = self.step();
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
