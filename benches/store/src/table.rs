//! What was measured: medians, ratios, and what is wanted.

use std::fmt;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::systems::Kind;

/// All of it.
pub struct Table {
    machine: String,
    kinds: Vec<Kind>,
    rows: Vec<Row>,
}

/// One thing that was measured, several times for each system.
pub struct Row {
    name: String,
    unit: Unit,
    target: &'static str,
    values: Vec<(Kind, f64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    PerSecond,
    Micros,
    Millis,
    MiB,
    Cores,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::PerSecond => "/s",
            Unit::Micros => "us",
            Unit::Millis => "ms",
            Unit::MiB => "MiB",
            Unit::Cores => "cores",
        }
    }

    fn decimals(self) -> usize {
        match self {
            Unit::PerSecond | Unit::Micros | Unit::Millis => 0,
            Unit::MiB => 1,
            Unit::Cores => 2,
        }
    }
}

impl Row {
    pub fn new(name: &str, unit: Unit, target: &'static str) -> Row {
        Row {
            name: name.to_owned(),
            unit,
            target,
            values: Vec::new(),
        }
    }

    pub fn add(&mut self, kind: Kind, value: f64) {
        self.values.push((kind, value));
    }

    /// The median, or the largest if that is what is asked for.
    fn value(&self, kind: Kind) -> Option<f64> {
        let of_kind = self.values.iter().filter(|(of, _)| *of == kind);
        let mut values: Vec<f64> = of_kind.map(|(_, value)| *value).collect();
        values.sort_by(f64::total_cmp);
        match self.name.ends_with("worst") {
            true => values.last().copied(),
            false => values.get(values.len().saturating_sub(1) / 2).copied(),
        }
    }

    /// Duramen's by the other's.
    fn ratio(&self, other: Kind) -> Option<f64> {
        Some(self.value(Kind::Duramen)? / self.value(other)?)
    }
}

impl Table {
    /// `dir` is where the data is.
    pub fn new(dir: &Path, kinds: Vec<Kind>) -> Table {
        Table {
            machine: machine(dir),
            kinds,
            rows: Vec::new(),
        }
    }

    /// The row of this name.
    pub fn row(&mut self, row: Row) -> &mut Row {
        let place = self.rows.iter().position(|other| other.name == row.name);
        let place = place.unwrap_or_else(|| {
            self.rows.push(row);
            self.rows.len() - 1
        });
        &mut self.rows[place]
    }

    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let medians = self
                .kinds
                .iter()
                .filter_map(|kind| Some((kind.name().to_owned(), json!(row.value(*kind)?))));
            let ratios = self
                .others()
                .filter_map(|kind| Some((kind.name().to_owned(), json!(row.ratio(kind)?))));
            json!({
                "name": row.name,
                "unit": row.unit.name(),
                "target": row.target,
                "values": medians.collect::<Map<_, _>>(),
                "ratios": ratios.collect::<Map<_, _>>(),
            })
        });
        json!({ "machine": self.machine, "notes": NOTES, "rows": rows.collect::<Vec<_>>() })
    }

    fn others(&self) -> impl Iterator<Item = Kind> {
        self.kinds
            .iter()
            .copied()
            .filter(|kind| *kind != Kind::Duramen)
    }
}

/// What has to be known to read the figures.
const NOTES: [&str; 4] = [
    "Medians of the rounds; all servers and all clients are on this machine, and all systems run all the time.",
    "duramen: three nodes, clients at the leader, linearizable reads. redis: one, alone, --appendfsync always.",
    "etcd: three members, clients at the leader, through its HTTP/JSON gateway, which costs it more than gRPC does.",
    "Values have 256 bytes, and the keys are 100,000.",
];

/// Markdown.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.machine)?;
        write!(f, "| | |")?;
        for kind in &self.kinds {
            write!(f, " {} |", kind.name())?;
        }
        for kind in self.others() {
            write!(f, " / {} |", kind.name())?;
        }
        writeln!(f, " wanted |")?;
        let columns = self.kinds.len() + self.others().count() + 3;
        writeln!(f, "|{}", "---|".repeat(columns))?;
        for row in &self.rows {
            write!(f, "| {} | {} |", row.name, row.unit.name())?;
            let shown = |value: Option<f64>, decimals: usize| {
                value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
            };
            for kind in &self.kinds {
                write!(f, " {} |", shown(row.value(*kind), row.unit.decimals()))?;
            }
            for kind in self.others() {
                write!(f, " {} |", shown(row.ratio(kind), 2))?;
            }
            writeln!(f, " {} |", row.target)?;
        }
        writeln!(f)?;
        NOTES.iter().try_for_each(|note| writeln!(f, "* {note}"))
    }
}

/// When and where it was measured, and how many writes with an fdatasync each the disk does in a second at the beginning.
fn machine(dir: &Path) -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let cpu = cpu.map_or("", |line| line.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let dir_name = dir.to_string_lossy();
    let mount = ["-n", "-o", "FSTYPE,SOURCE,OPTIONS", "-T", &dir_name];
    let syncs = syncs_per_second(dir).map_or(String::new(), |syncs| format!("{syncs:.0}"));
    format!(
        "{}: {cores} cores ({cpu}), Linux {}, {}; writes of 4 KiB with an fdatasync each: {syncs} a second.",
        today(),
        said_by("uname", &["-r"]),
        said_by("findmnt", &mount),
    )
}

fn syncs_per_second(dir: &Path) -> std::io::Result<f64> {
    use std::os::unix::fs::FileExt;
    const BYTES: usize = 4096;
    const TIMES: u64 = 256;
    let path = dir.join("syncs");
    let file = std::fs::File::create_new(&path)?;
    file.write_all_at(&vec![0; BYTES * TIMES as usize], 0)?;
    file.sync_all()?;
    let since = std::time::Instant::now();
    for number in 0..TIMES {
        file.write_all_at(&[1; BYTES], number * BYTES as u64)?;
        file.sync_data()?;
    }
    let seconds = since.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(TIMES as f64 / seconds)
}

pub fn today() -> String {
    said_by("date", &["-u", "+%Y-%m-%d"])
}

fn said_by(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let said = output.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}
