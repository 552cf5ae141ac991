//! Every subset of what a power cut can keep of a write, for logs drawn by a seed.
//!
//! What is not synced when the power goes is a handful of sectors, lengths and names, and the media may have any of them: each
//! subset is a disk of its own, as long as there are at most ten, and so is what is torn within a sector. Whatever is left must
//! open, and hold what was acknowledged, or that and the one batch that was under way.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use duramen_disk::{SimDisk, every_crash};
use duramen_wal::{GroupId, Options};

use support::drawn::Draw;
use support::*;

/// Batches of one log; the first ones are acknowledged before anything happens.
const STEPS: usize = 12;
const BEFORE: usize = 4;

/// Each batch has something for it, so that a write is of several sectors.
const LARGE: GroupId = GroupId(99);

struct Log {
    options: Options,
    steps: Vec<Step>,
    states: Vec<State>,
    /// With the first steps.
    disk: SimDisk,
}

impl Log {
    fn draw(seed: u64) -> Log {
        let mut draw = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let options = options([12288, 1 << 14, 1 << 15][draw.below(3) as usize]);
        let disk = SimDisk::new();
        disk.seed_random(seed);
        let wal = create(&disk, &options).unwrap();
        let (mut steps, mut state, mut before) = (Vec::new(), State::new(), None);
        while steps.len() < STEPS {
            let mut step = draw.step(&state);
            let last = state
                .get(&LARGE)
                .map_or(0, |large| large.entries.len() as u64);
            step.push(append(
                LARGE.0,
                last + 1,
                last + 1,
                1,
                1500 + draw.below(3000) as usize,
            ));
            if wal.write(batch(&step)).is_err() {
                continue; // too large for this log
            }
            step.iter().for_each(|change| apply(&mut state, change));
            steps.push(step);
            if steps.len() == BEFORE {
                before = Some(disk.fork());
            }
        }
        let disk = before.unwrap();
        disk.kill();
        Log {
            options,
            states: states(&steps),
            steps,
            disk,
        }
    }

    /// Goes on with the log until the disk fails. How many steps were acknowledged.
    fn run(&self, disk: &SimDisk) -> usize {
        let Ok(wal) = open(disk, &self.options) else {
            return BEFORE;
        };
        let rest = self.steps[BEFORE..].iter();
        BEFORE
            + rest
                .take_while(|step| wal.write(batch(step)).is_ok())
                .count()
    }

    /// Crashes it everywhere, and puts down what each disk was that was opened.
    fn explore(&self, seed: u64, seen: &mut HashSet<u64>) -> u64 {
        let _replay = Replay(|| format!("seed {seed}"));
        let mut opened = 0;
        for crash in every_crash(&self.disk, |disk| self.run(disk)) {
            opened += 1;
            if !seen.insert(fingerprint(&crash.disk)) {
                continue;
            }
            let wal = open(&crash.disk, &self.options).unwrap();
            assert_eq!(wal.recovery().damaged, []);
            let there = state_of(&wal);
            let mut allowed = self.states[crash.outcome..].iter().take(2);
            assert!(allowed.any(|state| *state == there), "{there:?}");
        }
        opened
    }
}

/// How many logs are drawn: `DURAMEN_SUBSETS` for more.
const SEEDS: u64 = 6;

#[test]
fn every_subset_of_what_is_not_synced_opens_with_what_was_acknowledged() {
    let given = std::env::var("DURAMEN_SUBSETS");
    let seeds = given.map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let (next, states) = (AtomicU64::new(0), Mutex::new((0, 0)));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    // Logs of different seeds have no state in common.
                    let mut seen = HashSet::new();
                    let opened = Log::draw(seed).explore(seed, &mut seen);
                    let mut states = states.lock().unwrap();
                    *states = (states.0 + opened, states.1 + seen.len() as u64);
                }
            });
        }
    });
    let (opened, distinct) = states.into_inner().unwrap();
    println!("{opened} crashes of {seeds} logs left\nproof: crash_states/subsets {distinct}");
    assert!(distinct > 1000 * seeds, "{distinct}");
}
