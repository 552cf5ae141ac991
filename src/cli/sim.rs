//! `duramen sim`: simulated clusters, one for each seed.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::Outcome;
use duramen::sim::{Failure, Seen, run};

/// Run simulated clusters that meet with every fault, and check that they keep what they promise
///
/// Each seed is a cluster of its own: the same seed gives the same run. The first one in which something does not hold ends it all,
/// and is shown with its last events and with the command that replays it.
#[derive(Debug, Args)]
pub(super) struct Sim {
    /// Which seeds, as FIRST..END; END is not run.
    #[arg(long, value_name = "FIRST..END", default_value = "0..20", value_parser = parse_range)]
    seeds: Range<u64>,
    /// How many operations the clients of each cluster call.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    ops: u64,
    /// How many clusters run side by side. As many as there are cores, if this is not said.
    #[arg(long, value_name = "NUMBER")]
    jobs: Option<usize>,
    /// Print what came up as one line of JSON.
    #[arg(long)]
    json: bool,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let numbers = text.split_once("..").and_then(|(first, end)| {
        let range = first.parse().ok()?..end.parse().ok()?;
        (range.start < range.end).then_some(range)
    });
    numbers
        .ok_or_else(|| "write it as 0..20: the first seed, and the one after the last".to_owned())
}

impl Sim {
    pub(super) fn run(&self) -> Outcome {
        let jobs = match self.jobs {
            Some(jobs) => jobs.max(1),
            None => thread::available_parallelism().map_or(1, usize::from),
        };
        let progress = progress(self.seeds.end - self.seeds.start);
        let (next, failure, sum) = (
            AtomicU64::new(self.seeds.start),
            Mutex::new(None),
            Mutex::new(Seen::default()),
        );
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.seeds.end {
                    return;
                }
                match run(seed, self.ops) {
                    Ok(seen) => lock(&sum).add(&seen),
                    Err(failed) => {
                        next.store(self.seeds.end, Ordering::Relaxed);
                        first_of(&mut lock(&failure), failed);
                    }
                }
                progress.inc(1);
            }
        };
        thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(work))));
        progress.finish_and_clear();
        if let Some(failure) = lock(&failure).take() {
            return Err(Box::new(failure));
        }
        let sum = *lock(&sum);
        self.print(&sum)?;
        Ok(sum.check_floors(self.seeds.end - self.seeds.start, self.ops)?)
    }

    fn print(&self, sum: &Seen) -> Outcome {
        if self.json {
            println!("{}", serde_json::to_string(sum)?);
            return Ok(());
        }
        println!(
            "{} clusters, all well: {sum}",
            self.seeds.end - self.seeds.start
        );
        Ok(())
    }
}

/// Of several failures the one with the lowest seed.
fn first_of(first: &mut Option<Failure>, failed: Failure) {
    if first.as_ref().is_none_or(|first| failed.seed < first.seed) {
        *first = Some(failed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn progress(seeds: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} clusters, {eta} to go");
    let bar = ProgressBar::new(seeds);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
