//! Duramen's log beside other engines that people put under a Raft, and beside what the disk can do, on one machine in one run.
//!
//! Each measurement is a process of its own, so that memory and threads of one engine are not another's. Within a round the engines take
//! turns at each workload, and what counts are the medians of the rounds and their ratios to the floor: whatever else the machine does
//! meanwhile meets all of them.

mod chart;
mod engines;
mod log;
mod measure;
mod table;
mod workloads;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use engines::{ENGINES, Engine};
use log::Result;
use measure::Measured;
use table::Table;
use workloads::{Scale, WORKLOADS, Workload};

/// Compare Duramen's log with other engines and with the disk's limit on this machine
#[derive(Debug, Parser)]
struct Options {
    /// Only these engines, by name; the floor is always measured
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,

    /// Only these workloads
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    workloads: Vec<String>,

    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,

    /// How long each measurement of writing takes, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    millis: u64,

    /// How much is written in one go, and read, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    bulk_mib: u64,

    /// Where to keep the logs, in a directory that is removed in the end
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    /// Write the figures here too, as a list of JSON objects
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write table, figures and chart into this directory, under today's date
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,

    /// One engine at one workload, in this process: prepare or measure
    #[arg(long, hide = true)]
    step: Option<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match options.step.as_deref() {
        Some(step) => one_step(&options, step),
        None => compare(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn scale(&self) -> Scale {
        Scale {
            time: Duration::from_millis(self.millis),
            bulk_bytes: self.bulk_mib << 20,
        }
    }

    fn engines(&self) -> Result<Vec<&'static Engine>> {
        for name in &self.only {
            if engines::find(name).is_none() {
                let names: Vec<&str> = ENGINES.iter().map(|engine| engine.name).collect();
                return Err(format!("there is no engine {name}, but {}", names.join(", ")).into());
            }
        }
        let is_meant = |engine: &&Engine| {
            let is_named = self.only.iter().any(|name| name == engine.name);
            self.only.is_empty() || is_named || engine.name == "floor"
        };
        Ok(ENGINES.iter().filter(is_meant).collect())
    }

    fn workloads(&self) -> Result<Vec<&'static Workload>> {
        let find = |name: &String| {
            let found = WORKLOADS.iter().find(|workload| workload.name == *name);
            let names: Vec<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
            found.ok_or_else(|| {
                format!("there is no workload {name}, but {}", names.join(", ")).into()
            })
        };
        match self.workloads.is_empty() {
            true => Ok(WORKLOADS.iter().collect()),
            false => self.workloads.iter().map(find).collect(),
        }
    }
}

/// Measures, prints, and writes what was measured.
fn compare(options: &Options) -> Result<()> {
    let (engines, workloads) = (options.engines()?, options.workloads()?);
    let dir = tempfile::tempdir_in(&options.dir)?;
    let mut table = Table::new(dir.path(), engines.clone(), workloads.clone());
    // Those that read the same log are measured one after the other, or the logs of all engines would have to be kept.
    let turns = workloads.chunk_by(|one, next| one.work.reads() && next.work.reads());
    let turns: Vec<&[&Workload]> = turns.collect();
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} of about {duration}  {msg}")?;
    let steps = options.rounds * engines.len() * workloads.len();
    let bar = ProgressBar::new(steps as u64).with_style(style);
    for round in 0..options.rounds {
        table.add_syncs(measure::syncs_per_second(dir.path())?);
        let mut in_turn = engines.clone();
        in_turn.rotate_left(round % engines.len()); // Nobody always comes after the same one.
        for workloads in &turns {
            for engine in &in_turn {
                let names: Vec<&str> = workloads.iter().map(|workload| workload.name).collect();
                bar.set_message(format!("{} {}", names.join(","), engine.name));
                let add = |workload: &Workload, measured| {
                    table.add(round, engine, workload, measured);
                };
                if let Err(error) = take_turn(options, engine, workloads, dir.path(), add) {
                    bar.suspend(|| eprintln!("{} at {}: {error}", engine.name, names.join(",")));
                }
                bar.inc(workloads.len() as u64);
            }
        }
    }
    bar.finish_and_clear();
    println!("{table}");
    if let Some(path) = &options.json {
        fs::write(path, format!("{:#}\n", table.json()))?;
    }
    if let Some(dir) = &options.results {
        write_results(&table, dir)?;
    }
    Ok(())
}

/// Lets an engine do one workload, or those that read the same log, each in a process of its own. What it cannot do is left out.
fn take_turn(
    options: &Options,
    engine: &Engine,
    workloads: &[&Workload],
    parent: &Path,
    mut add: impl FnMut(&Workload, Measured),
) -> Result<()> {
    let workloads = workloads
        .iter()
        .filter(|workload| workload.work.is_for(engine));
    let dir = tempfile::tempdir_in(parent)?;
    for (number, workload) in workloads.enumerate() {
        if number == 0 && workload.work.reads() {
            step(options, "prepare", engine, workload, dir.path())?;
        }
        let said = step(options, "measure", engine, workload, dir.path())?;
        let measured: Option<Measured> = serde_json::from_slice(&said)?;
        if let Some(measured) = measured {
            add(workload, measured);
        }
    }
    Ok(())
}

/// Writes `engines-DATE.md`, `.json` and `.svg`.
fn write_results(table: &Table, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let path = |kind| Ok::<_, log::Error>(dir.join(format!("engines-{}.{kind}", table::today()?)));
    fs::write(path("md")?, table.to_string())?;
    fs::write(path("json")?, format!("{:#}\n", table.json()))?;
    fs::write(path("svg")?, chart::chart(table))?;
    Ok(())
}

fn step(
    options: &Options,
    step: &str,
    engine: &Engine,
    workload: &Workload,
    dir: &Path,
) -> Result<Vec<u8>> {
    let scale = [options.millis.to_string(), options.bulk_mib.to_string()];
    let output = Command::new(std::env::current_exe()?)
        .args([
            "--step",
            step,
            "--only",
            engine.name,
            "--workloads",
            workload.name,
        ])
        .args(["--millis", &scale[0], "--bulk-mib", &scale[1], "--dir"])
        .arg(dir)
        .stderr(Stdio::piped())
        .output()?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{}: {}", output.status, said.trim()).into())
        }
    }
}

/// What a process does that measures.
fn one_step(options: &Options, step: &str) -> Result<()> {
    let engine = options.only.first().and_then(|name| engines::find(name));
    let engine = engine.ok_or("no engine")?;
    let workload = options.workloads()?[0];
    let (dir, scale) = (&options.dir, options.scale());
    match step {
        "prepare" => workloads::prepare(engine, dir, scale),
        _ => {
            let measured = workloads::run(workload.work, engine, dir, scale)?;
            println!("{}", serde_json::to_string(&measured)?);
            Ok(())
        }
    }
}
