//! Each call that random histories make to the disk fails once, by a countdown from the first to the last: nothing that was
//! acknowledged is lost, and after an error of space the log goes on.
//!
//! `DURAMEN_PROOF=1` tries 100,000 errors and more: then the optimized build is right.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::io::ErrorKind;
use std::ops::RangeInclusive;

use bytes::Bytes;
use duramen_disk::{Failed, Failure, SimDisk, every_error};
use duramen_wal::{Error, Options, Wal};
use support::drawn::Draw;
use support::*;

/// No group that is drawn.
const NUMBERS: u64 = 9999;

/// What is written, and how the log is.
struct History {
    options: Options,
    steps: Vec<Step>,
    states: Vec<State>,
    /// As many steps were written before.
    from: usize,
    disk: SimDisk,
}

/// How a life ended, and how many steps may be there.
#[derive(Debug)]
struct Life {
    error: Option<Error>,
    /// How often the log took no batch, and would take it later.
    refused: u64,
    held: RangeInclusive<usize>,
}

impl History {
    fn draw(seed: u64) -> History {
        let mut draw = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let options = draw.options();
        let wal = create(&SimDisk::new(), &options).unwrap();
        let (mut steps, mut states) = (Vec::new(), vec![State::new()]);
        for number in 0..4 + draw.below(16) {
            let mut step = draw.step(states.last().unwrap());
            // So each state is another one.
            step.push(Change::User(NUMBERS, Bytes::from(number.to_string())));
            match wal.write(batch(&step)) {
                Err(Error::TooLarge { .. }) => continue,
                written => written.unwrap(),
            }
            let mut state = states.last().unwrap().clone();
            step.iter().for_each(|change| apply(&mut state, change));
            steps.push(step);
            states.push(state);
        }
        let from = draw.below(2) as usize * draw.below(1 + steps.len() as u64) as usize;
        let disk = match from {
            0 => SimDisk::new(),
            _ => killed_disk_with(&options, &steps[..from]),
        };
        History {
            options,
            steps,
            states,
            from,
            disk,
        }
    }

    /// Opens or makes a log and writes all; it ends at the first error, but for that of space.
    fn live(&self, disk: &SimDisk) -> Life {
        let opened = match self.from {
            0 => create(disk, &self.options),
            _ => open(disk, &self.options),
        };
        let wal = match opened {
            Ok(wal) => wal,
            Err(error) => {
                return Life {
                    error: Some(error),
                    refused: 0,
                    held: self.from..=self.from,
                };
            }
        };
        let mut refused = 0;
        for (k, step) in self.steps.iter().enumerate().skip(self.from) {
            let mut written = wal.write(batch(step));
            if matches!(written, Err(Error::Full { .. } | Error::Io { .. })) {
                refused += 1;
                assert_eq!(
                    state_of(&wal),
                    self.states[k],
                    "a refused batch is not there"
                );
                written = wal.write(batch(step)); // There is space, or a free file, again.
            }
            if let Err(error) = written {
                assert_eq!(
                    state_of(&wal),
                    self.states[k],
                    "reads end at what is durable"
                );
                let next = support::error(wal.write(batch(step)));
                assert!(
                    matches!(next, Error::Poisoned { .. }),
                    "{error}, then {next}"
                );
                return Life {
                    error: Some(error),
                    refused,
                    held: k..=k + 1,
                };
            }
        }
        let all = self.steps.len();
        Life {
            error: wal.close().err(),
            refused,
            held: all..=all,
        }
    }

    /// What is there after the error, whatever becomes of the machine.
    fn check(&self, failed: Failed<Life>) {
        let life = &failed.outcome;
        for seed in 0..2 {
            let disk = failed.disk.fork();
            match seed {
                0 => disk.kill(),
                _ => disk.power_cut(seed),
            }
            match open(&disk, &self.options) {
                Ok(wal) => assert_holds_one_of(&wal, &self.states, life.held.clone()),
                Err(Error::NotALog { .. }) if *life.held.end() == 0 => {
                    drop(create(&disk, &self.options).unwrap()); // It was not made: it can be now.
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn assert_holds_one_of(wal: &Wal, states: &[State], held: RangeInclusive<usize>) {
    let state = state_of(wal);
    let is_allowed = held.clone().any(|k| states[k] == state);
    assert!(
        is_allowed,
        "not what there was after {held:?} steps: {state:?}"
    );
}

/// Tries histories until so many calls have failed, and counts them under this name.
fn fail_each_call(
    name: &str,
    wanted_as_proof: u64,
    failure: impl Into<Failure>,
    is_fine: fn(&Life) -> bool,
) {
    let failure = failure.into();
    let wanted = match std::env::var_os("DURAMEN_PROOF") {
        Some(_) => wanted_as_proof,
        None => 500,
    };
    let (mut errors, mut told, mut refused) = (0, 0, 0);
    for seed in 1.. {
        let _replay = Replay(|| format!("seed {seed}"));
        let history = History::draw(seed);
        for failed in every_error(&history.disk, failure, |disk| history.live(disk)) {
            let life = &failed.outcome;
            assert!(is_fine(life), "{:?}: {life:?}", failed.failed_in);
            errors += 1;
            told += u64::from(life.error.is_some());
            refused += life.refused;
            history.check(failed);
        }
        if errors >= wanted {
            break;
        }
    }
    println!("{name}: {errors} calls failed, {told} times told, {refused} times refused");
    println!("proof: {name} {errors}");
}

fn names_its_place(life: &Life) -> bool {
    let mut errors = life.error.iter();
    errors.all(|error| error.to_string().contains(DIR))
}

/// Rows 7, 9 and 36.
#[test]
fn a_call_that_fails() {
    let name = "countdown_errors/EIO";
    fail_each_call(name, 50_000, Failure::EIO, names_its_place);
}

/// Row 8. What a full disk refuses can be written when there is space; only a sync that says so poisons.
#[test]
fn a_call_that_finds_no_space() {
    let name = "countdown_errors/ENOSPC";
    fail_each_call(name, 50_000, ErrorKind::StorageFull, names_its_place);
}

/// Row 19. No error: it is counted apart.
#[test]
fn a_call_that_does_half() {
    let is_fine = |life: &Life| life.error.is_none();
    fail_each_call("countdown_short_calls", 34_000, Failure::SHORT, is_fine);
}
