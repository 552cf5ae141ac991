//! What was measured, in numbers: as Markdown and as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::engines::Engine;
use crate::log::Result;
use crate::measure::Measured;
use crate::workloads::Workload;

pub struct Table {
    machine: String,
    /// Writes with a sync each, in a second, at the beginning of each round.
    syncs: Vec<f64>,
    pub engines: Vec<&'static Engine>,
    pub workloads: Vec<&'static Workload>,
    /// By engine and workload, figures by round.
    rounds: BTreeMap<(&'static str, &'static str), BTreeMap<usize, Measured>>,
}

/// The medians of the rounds.
pub struct Medians {
    value: f64,
    /// Of each round's ratio to the floor's figure in the same round; above 1 is better than the floor.
    pub ratio: Option<f64>,
    p50_micros: Option<f64>,
    p99_micros: Option<f64>,
    cpu_micros: f64,
    device_bytes: Option<f64>,
    peak_mib: f64,
}

impl Table {
    pub fn new(
        dir: &Path,
        engines: Vec<&'static Engine>,
        workloads: Vec<&'static Workload>,
    ) -> Table {
        Table {
            machine: machine(dir),
            syncs: Vec::new(),
            engines,
            workloads,
            rounds: BTreeMap::new(),
        }
    }

    pub fn add_syncs(&mut self, per_second: f64) {
        self.syncs.push(per_second);
    }

    pub fn add(&mut self, round: usize, engine: &Engine, workload: &Workload, measured: Measured) {
        let rounds = self.rounds.entry((engine.name, workload.name));
        rounds.or_default().insert(round, measured);
    }

    pub fn medians(&self, engine: &Engine, workload: &Workload) -> Option<Medians> {
        let rounds = self.rounds.get(&(engine.name, workload.name))?;
        let of = |figure: fn(&Measured) -> Option<f64>| median(rounds.values().filter_map(figure));
        let floor = self.rounds.get(&("floor", workload.name));
        let ratios = rounds.iter().filter_map(|(round, this)| {
            let floor = floor?.get(round)?;
            Some(match workload.less_is_better {
                true => floor.value / this.value,
                false => this.value / floor.value,
            })
        });
        Some(Medians {
            value: of(|measured| Some(measured.value))?,
            ratio: median(ratios),
            p50_micros: of(|measured| measured.p50_micros),
            p99_micros: of(|measured| measured.p99_micros),
            cpu_micros: of(|measured| Some(measured.cpu_micros))?,
            device_bytes: of(|measured| measured.device_bytes),
            peak_mib: of(|measured| Some(measured.peak_mib))?,
        })
    }

    /// A list with an object for each engine at each workload.
    pub fn json(&self) -> Value {
        let mut list = Vec::new();
        for workload in &self.workloads {
            for engine in &self.engines {
                let Some(medians) = self.medians(engine, workload) else {
                    continue;
                };
                list.push(json!({
                    "workload": workload.name,
                    "engine": engine.name,
                    "median": medians.value,
                    "unit": workload.unit,
                    "ratio_to_floor": medians.ratio,
                    "p50_us": medians.p50_micros,
                    "p99_us": medians.p99_micros,
                    "cpu_us_per_operation": medians.cpu_micros,
                    "device_bytes_per_byte": medians.device_bytes,
                    "peak_mib": medians.peak_mib,
                }));
            }
        }
        Value::Array(list)
    }

    /// Duramen beside the limit, what is wanted of it, and the best peer.
    fn put_summary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| | | limit | Duramen | ratio | wanted | best peer | its ratio |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        let find = |name| self.engines.iter().find(|engine| engine.name == name);
        for workload in &self.workloads {
            let Some(floor) = find("floor").and_then(|floor| self.medians(floor, workload)) else {
                continue;
            };
            let peers = self.engines.iter();
            let peers = peers.filter(|engine| engine.is_peer() && engine.is_durable);
            let ratios = peers.filter_map(|peer| Some((peer.name, self.ratio(peer, workload)?)));
            let best = ratios.max_by(|one, other| one.1.total_cmp(&other.1));
            let (best, its) = best.map_or(("", String::new()), |(name, ratio)| {
                (name, format!("{ratio:.2}"))
            });
            for engine in self.engines.iter().filter(|engine| engine.is_duramen()) {
                let Some(medians) = self.medians(engine, workload) else {
                    continue;
                };
                let (name, what) = (workload.name, workload.what);
                let by = engine.name.strip_prefix("duramen").unwrap_or_default();
                let limit = in_three_digits(floor.value);
                let (unit, wanted) = (workload.unit, workload.wanted);
                let value = in_three_digits(medians.value);
                let ratio = or_nothing(medians.ratio, 2);
                writeln!(
                    f,
                    "| {name}{by} | {what} | {limit} {unit} | {value} | **{ratio}** | {wanted} | {best} | {its} |"
                )?;
            }
        }
        writeln!(f)
    }

    fn ratio(&self, engine: &Engine, workload: &Workload) -> Option<f64> {
        self.medians(engine, workload)?.ratio
    }

    fn put_workload(&self, f: &mut fmt::Formatter<'_>, workload: &Workload) -> fmt::Result {
        writeln!(f, "**{}**: {}\n", workload.name, workload.what)?;
        writeln!(
            f,
            "| engine | {} | ratio to floor | p50 us | p99 us | CPU us | device bytes / byte | peak MiB |",
            workload.unit
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for engine in &self.engines {
            let Some(medians) = self.medians(engine, workload) else {
                if workload.work.is_for(engine) {
                    writeln!(f, "| {} | cannot | | | | | | |", engine.name)?;
                }
                continue;
            };
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} | {} | {:.0} |",
                engine.name,
                in_three_digits(medians.value),
                or_nothing(medians.ratio, 2),
                or_nothing(medians.p50_micros, 1),
                or_nothing(medians.p99_micros, 1),
                in_three_digits(medians.cpu_micros),
                or_nothing(medians.device_bytes, 2),
                medians.peak_mib,
            )?;
        }
        writeln!(f)
    }
}

/// Markdown.
impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let syncs = |of: fn(f64, f64) -> f64, none| self.syncs.iter().copied().fold(none, of);
        let (least, most) = (syncs(f64::min, f64::INFINITY), syncs(f64::max, 0.0));
        writeln!(
            f,
            "{}. Writes of 4 KiB with an fdatasync each, in a file written before: {least:.0} to {most:.0} a second at the \
             beginnings of the {} rounds.\n",
            self.machine,
            self.syncs.len()
        )?;
        writeln!(
            f,
            "A ratio is the median of those in each round, and above 1 where the engine is better than the limit.\n"
        )?;
        self.put_summary(f)?;
        writeln!(
            f,
            "p50 and p99 are of a call: a batch, a read. CPU is of all threads, for each entry or read.\n"
        )?;
        for workload in &self.workloads {
            self.put_workload(f, workload)?;
        }
        writeln!(f, "Settings:\n")?;
        for engine in &self.engines {
            writeln!(f, "* {}: {}", engine.name, engine.settings)?;
        }
        Ok(())
    }
}

/// Of an even number the lower one.
fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len().saturating_sub(1) / 2).copied()
}

fn in_three_digits(value: f64) -> String {
    let digits = 2 - value.abs().max(1e-3).log10().floor() as i32;
    let power = 10f64.powi(digits);
    format!(
        "{:.*}",
        digits.max(0) as usize,
        (value * power).round() / power
    )
}

fn or_nothing(figure: Option<f64>, digits: usize) -> String {
    figure.map_or(String::new(), |figure| format!("{figure:.digits$}"))
}

/// When and where it was measured.
fn machine(dir: &Path) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let cpu = cpu.map_or("", |line| line.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let dir = dir.to_string_lossy();
    let mount = said_by(
        "findmnt",
        &["-n", "-o", "FSTYPE,SOURCE,OPTIONS", "-T", &dir],
    );
    format!(
        "{}: {cores} cores ({cpu}), Linux {}, {}",
        today().unwrap_or_default(),
        said_by("uname", &["-r"]).unwrap_or_default(),
        mount.unwrap_or_default()
    )
}

pub fn today() -> Result<String> {
    said_by("date", &["-u", "+%Y-%m-%d"])
}

fn said_by(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.split_whitespace().collect::<Vec<_>>().join(" "))
}
