//! `duramen torture`: real processes on real files, killed with -9 again and again.
//!
//! The parent never writes what it looks at: a child does, the same program with a hidden flag, and says over a pipe what it submits
//! and what is durable. Since all operations, and all their bytes, follow from a seed, the parent knows what must be there after the
//! child's death: all operations that were acknowledged, and of the others as many as survived, in order.
//!
//! This shows what a process crash does. The page cache survives it, so it says nothing of power cuts: those are the simulated
//! disk's.

mod child;
mod compare;
mod content;
mod deaths;
mod engine;
mod failpoint;
mod marker;
mod model;
mod plan;
mod said;
mod summary;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Args;
use duramen::disk::{Disk, OsDisk};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::spawn_blocking;

use super::{Outcome, asked_to_stop, block_on_quietly};
use engine::Engine;
use marker::{Marker, Mode};
use summary::{Summary, check_floors};

/// Kill processes that write to real files, again and again, and check that they lose nothing
///
/// Each round starts a process that writes to a log and to snapshots as a node does, and kills it: at any moment, or in the middle
/// of a write, or before or after any other call to the disk, also while it opens what the last one has left. Then all that it
/// was told to be durable must be there, byte by byte. The first round in which something is not ends it all; the directory is kept
/// and named, with the command that does the same again.
///
/// Ctrl-C ends it after the round, with the summary so far.
#[derive(Debug, Args)]
pub(super) struct Torture {
    /// How many rounds
    #[arg(long, value_name = "NUMBER", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,

    /// What is written and how it ends is drawn from this number [default: any, or that of --dir]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// Where: in a directory that is empty, or does not exist, or was used for this before; then it goes on there
    /// [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Print what came of it as one line of JSON
    #[arg(long)]
    json: bool,

    /// Be the process that is killed.
    #[arg(long, hide = true, requires = "dir")]
    child: bool,
}

impl Torture {
    pub(super) fn run(self) -> Outcome {
        match (&self.dir, self.child) {
            (Some(dir), true) => child::run(dir),
            _ => block_on_quietly(self.run_until_stopped()),
        }
    }

    async fn run_until_stopped(self) -> Outcome {
        let stop = Arc::<AtomicBool>::default();
        let to_stop = stop.clone();
        tokio::spawn(async move {
            if asked_to_stop().await.is_ok() {
                to_stop.store(true, Ordering::Relaxed);
            }
        });
        spawn_blocking(move || self.run_in_a_directory(&stop)).await?
    }

    fn run_in_a_directory(&self, stop: &AtomicBool) -> Outcome {
        let temporary = match self.dir {
            Some(_) => None,
            None => Some(
                tempfile::Builder::new()
                    .prefix("duramen-torture-")
                    .tempdir()?,
            ),
        };
        let dir = match (&self.dir, &temporary) {
            (Some(dir), _) => dir.as_path(),
            (None, Some(temporary)) => temporary.path(),
            (None, None) => unreachable!("one of them is there"),
        };
        let outcome = self.torture(dir, stop);
        if let (Err(_), Some(temporary)) = (&outcome, temporary) {
            let _ = temporary.keep(); // What went wrong is to be looked at.
        }
        outcome
    }

    fn torture(&self, dir: &Path, stop: &AtomicBool) -> Outcome {
        let marker = self.marker(dir)?;
        let (seed, rounds_before) = (marker.seed, marker.round);
        let again = |rounds: u64| format!("duramen torture --seed {seed} --rounds {rounds}");
        let start = Instant::now();
        let progress = progress(self.rounds);
        let run = || -> Result<Summary, Box<dyn std::error::Error + Send + Sync>> {
            let mut engine = Engine::new(dir, marker)?;
            engine.run(self.rounds, stop, |summary| show(&progress, summary))?;
            Ok(engine.summary)
        };
        let run = run();
        progress.finish_and_clear();
        let mut summary =
            run.map_err(|error| format!("{error}\nThe directory is {}", dir.display()))?;
        summary.seconds = start.elapsed().as_secs_f64();
        self.print(&summary)?;
        if summary.is_bad() {
            let rounds = rounds_before + summary.rounds;
            return Err(format!(
                "{} operations that were acknowledged are gone, and {} things are wrong:\n  {}\nThe directory is kept: {}\nThe same again: {}",
                summary.lost, summary.wrong, summary.blamed.join("\n  "), dir.display(), again(rounds)
            )
            .into());
        }
        match stop.load(Ordering::Relaxed) {
            true => Ok(()), // It was cut short.
            false => Ok(check_floors(&summary)?),
        }
    }

    /// How far the directory has come; it is made, if it is not there.
    fn marker(&self, dir: &Path) -> Result<Marker, String> {
        let mode = Mode::Engine;
        match (Marker::read(dir)?, self.seed) {
            (Some(marker), _) if marker.mode != mode => Err(format!(
                "{} was used with another mode of torture: name another directory",
                dir.display()
            )),
            (Some(marker), Some(seed)) if marker.seed != seed => Err(format!(
                "{} was begun with --seed {}: say that, or nothing, or name another directory",
                dir.display(),
                marker.seed
            )),
            (Some(marker), _) => Ok(marker),
            (None, seed) => {
                OsDisk::new()
                    .create_dir_all(dir)
                    .map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
                let marker = Marker::new(mode, seed.unwrap_or_else(|| fastrand::u64(..)));
                marker
                    .save(dir)
                    .map_err(|error| format!("cannot write to {}: {error}", dir.display()))?;
                Ok(marker)
            }
        }
    }

    fn print(&self, summary: &Summary) -> Outcome {
        match self.json {
            true => println!("{}", serde_json::to_string(summary)?),
            false => println!("{summary}"),
        }
        Ok(())
    }
}

fn progress(rounds: u64) -> ProgressBar {
    let template = "{bar:30} {pos}/{len} rounds, {msg}, {eta} to go";
    let bar = ProgressBar::new(rounds);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn show(bar: &ProgressBar, summary: &Summary) {
    let (acknowledged, torn) = (summary.acknowledged, summary.torn);
    bar.set_message(format!("{acknowledged} acknowledged, {torn} torn ends"));
    bar.set_position(summary.rounds);
}
