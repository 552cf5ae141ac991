//! `duramen torture`: real processes on real files, killed with -9 again and again.
//!
//! The parent never writes what it looks at: a child does, the same program with a hidden flag, and says over a pipe what it submits
//! and what is durable. Since all operations, and all their bytes, follow from a seed, the parent knows what must be there after the
//! child's death: all operations that were acknowledged, and of the others as many as survived, in order.
//!
//! This shows what a process crash does. The page cache survives it, so it says nothing of power cuts: those are the simulated
//! disk's.

mod child;
mod cluster;
mod compare;
mod content;
mod deaths;
mod engine;
mod failpoint;
mod full;
mod load;
mod marker;
mod model;
mod plan;
mod said;
mod summary;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Args;
use duramen::disk::{Disk, OsDisk};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::spawn_blocking;

use super::{Outcome, asked_to_stop, block_on_quietly};
use cluster::Tortured;
use engine::Engine;
use full::DiskFull;
use marker::{Marker, Mode};
use said::{Life, lines_of};
use summary::{Summary, check_floors};

/// Why torture cannot go on. What it finds wrong is no error of this kind: that is counted.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Kill processes that write to real files, again and again, and check that they lose nothing
///
/// Each round starts a process that writes to a log and to snapshots as a node does, and kills it: at any moment, or in the middle
/// of a write, or before or after any other call to the disk, also while it opens what the last one has left. Then all that it
/// was told to be durable must be there, byte by byte. The first round in which something is not ends it all; the directory is kept
/// and named, with the command that does the same again.
///
/// With --cluster there are three nodes, and clients that write to them and read from them; each round kills one, two or all nodes, and
/// starts them again. What the clients were told must be linearizable, and what was acknowledged must be there.
///
/// A full disk ends it with an error: that is no loss.
///
/// Ctrl-C ends it after the round, with the summary so far.
#[derive(Debug, Args)]
pub(super) struct Torture {
    /// How many rounds [default: 200; 20 with --cluster, where each takes some seconds]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,

    /// Kill nodes of a cluster
    #[arg(long)]
    cluster: bool,

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
    #[arg(long, hide = true, requires = "dir", conflicts_with = "cluster")]
    child: bool,

    /// Compare what is there with what a child has said: what it was told to do and then its lines are read from standard input. For
    /// `tests/power_cut.py`.
    #[arg(long, hide = true, requires = "dir", conflicts_with_all = ["cluster", "child"])]
    check: bool,
}

impl Torture {
    pub(super) fn run(self) -> Outcome {
        match &self.dir {
            Some(dir) if self.child => child::run(dir),
            Some(dir) if self.check => check(dir),
            _ => block_on_quietly(self.run_until_stopped()),
        }
    }

    async fn run_until_stopped(self) -> Outcome {
        let stop = Arc::<AtomicBool>::default();
        let to_stop = stop.clone();
        let work = async move { spawn_blocking(move || self.run_in_a_directory(&to_stop)).await? };
        let mut work = pin!(work);
        tokio::select! {
            biased; // Ctrl-C is heard before anything begins.
            asked = asked_to_stop() => asked?,
            outcome = &mut work => return outcome,
        }
        stop.store(true, Ordering::Relaxed);
        work.await
    }

    fn run_in_a_directory(&self, stop: &AtomicBool) -> Outcome {
        let summary = match &self.dir {
            Some(dir) => self.torture(dir, stop)?,
            None => {
                let builder = tempfile::Builder::new()
                    .prefix("duramen-torture-")
                    .tempdir();
                let temporary = builder?;
                let outcome = self.torture(temporary.path(), stop);
                // What went wrong is to be looked at.
                if outcome.as_ref().is_err_and(|error| !error.is::<DiskFull>()) {
                    let _ = temporary.keep();
                }
                outcome?
            }
        };
        match stop.load(Ordering::Relaxed) {
            true => Ok(()), // It was cut short.
            false => Ok(check_floors(&summary)?),
        }
    }

    fn torture(&self, dir: &Path, stop: &AtomicBool) -> Result<Summary> {
        let marker = self.marker(dir)?;
        let (seed, rounds_before) = (marker.seed, marker.round);
        let start = Instant::now();
        let progress = progress(self.rounds());
        let run = self.run_rounds(dir, marker, stop, &progress);
        progress.finish_and_clear();
        let mode = if self.cluster { " --cluster" } else { "" };
        let again = |rounds: u64| {
            let rounds = rounds_before + rounds;
            let command = format!("duramen torture{mode} --seed {seed} --rounds {rounds}");
            format!(
                "The directory is kept: {}\nThe same again: {command}",
                dir.display()
            )
        };
        let mut summary = run.map_err(|error| {
            DiskFull::or(&*error, || format!("{error}\n{}", again(self.rounds())))
        })?;
        summary.seconds = start.elapsed().as_secs_f64();
        self.print(&summary)?;
        if summary.is_bad() {
            let (lost, wrong, blamed) = (summary.lost, summary.wrong, summary.blamed.join("\n  "));
            let what = format!(
                "{lost} operations that were acknowledged are gone, and {wrong} things are wrong"
            );
            return Err(format!("{what}:\n  {blamed}\n{}", again(summary.rounds)).into());
        }
        Ok(summary)
    }

    fn run_rounds(
        &self,
        dir: &Path,
        marker: Marker,
        stop: &AtomicBool,
        bar: &ProgressBar,
    ) -> Result<Summary> {
        let rounds = self.rounds();
        let progress = |summary: &Summary| show(bar, summary);
        match marker.mode {
            Mode::Engine => {
                let mut engine = Engine::new(dir, marker)?;
                engine.run(rounds, stop, progress)?;
                Ok(engine.summary)
            }
            Mode::Cluster => {
                let mut tortured = Tortured::new(dir, marker)?;
                tortured.run(rounds, stop, progress)?;
                Ok(std::mem::take(&mut tortured.summary))
            }
        }
    }

    fn rounds(&self) -> u64 {
        let default = if self.cluster { 20 } else { 200 };
        self.rounds.unwrap_or(default)
    }

    /// How far the directory has come; it is made, if it is not there.
    fn marker(&self, dir: &Path) -> Result<Marker> {
        let mode = match self.cluster {
            true => Mode::Cluster,
            false => Mode::Engine,
        };
        let path = dir.display();
        match (Marker::read(dir)?, self.seed) {
            (Some(marker), _) if marker.mode != mode => {
                let what = "was used with another mode of torture: name another directory";
                Err(format!("{path} {what}").into())
            }
            (Some(marker), Some(seed)) if marker.seed != seed => {
                let what = format!("was begun with --seed {}", marker.seed);
                Err(
                    format!("{path} {what}: say that, or nothing, or name another directory")
                        .into(),
                )
            }
            (Some(marker), _) => Ok(marker),
            (None, seed) => {
                let marker = Marker::new(mode, seed.unwrap_or_else(|| fastrand::u64(..)));
                let made = OsDisk::new().create_dir_all(dir);
                made.and_then(|()| marker.save(dir)).map_err(|error| {
                    DiskFull::or(&error, || format!("cannot use {path}: {error}"))
                })?;
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

/// Looks once at what a child has left that died elsewhere, and prints the summary as JSON.
fn check(dir: &Path) -> Outcome {
    let said = std::io::read_to_string(std::io::stdin())?;
    let (life, said) = said.split_once('\n').ok_or("nothing was said")?;
    let life: Life = serde_json::from_str(life)?;
    let mut engine = Engine::new(dir, Marker::new(Mode::Engine, life.seed))?;
    engine.look_once(&lines_of(said))?;
    println!("{}", serde_json::to_string(&engine.summary)?);
    match engine.summary.is_bad() {
        true => Err(engine.summary.blamed.join("\n").into()),
        false => Ok(()),
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
