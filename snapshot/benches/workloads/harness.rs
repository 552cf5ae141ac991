//! Rounds of floor and store in turn, and the medians of what they gave: as a table, and as JSON.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is measured together, for each average: data is prepared once, then each round gives a [`Figure`] for every row.
pub(crate) struct Workload {
    pub(crate) rows: &'static [Row],
    /// One is enough where nothing depends on time.
    pub(crate) rounds: usize,
    pub(crate) prepare: fn(&Setup) -> Round,
}

pub(crate) type Round = Box<dyn FnMut() -> Vec<Figure>>;

/// What a workload works with.
pub(crate) struct Setup {
    /// Outlives the rounds.
    pub(crate) dir: PathBuf,
    pub(crate) chunk_bytes: u32,
    pub(crate) state_bytes: u64,
}

/// A line of the table.
pub(crate) struct Row {
    /// In front of the average.
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: &'static str,
    pub(crate) what: &'static str,
}

impl Row {
    /// A rate: the ratio is the share of the floor's that the store reaches.
    pub(crate) const fn rate(name: &'static str, unit: &'static str, what: &'static str) -> Row {
        Row {
            name,
            unit,
            better: "higher",
            what,
        }
    }

    /// A cost: the ratio says how many times the floor's the store's is.
    pub(crate) const fn cost(name: &'static str, unit: &'static str, what: &'static str) -> Row {
        Row {
            name,
            unit,
            better: "lower",
            what,
        }
    }
}

/// What one round gave for one row.
#[derive(Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) floor: f64,
    pub(crate) store: f64,
}

/// A row's medians. That of the ratios is not the ratio of the medians: what drifts between rounds falls out of it.
pub(crate) struct Outcome {
    row: &'static Row,
    kib: u32,
    median: Figure,
    ratio: f64,
}

impl Workload {
    /// Whether `name` is that of a row, with or without the average.
    pub(crate) fn is_named(&self, name: &str, kib: u32) -> bool {
        let is_it = |row: &Row| {
            let average = name.strip_prefix(row.name);
            average.is_some_and(|average| average.is_empty() || average == kib.to_string())
        };
        self.rows.iter().any(is_it)
    }

    /// Runs all rounds.
    pub(crate) fn run(&self, setup: &Setup) -> Vec<Outcome> {
        let dir = tempfile::tempdir_in(&setup.dir).expect("a directory for the files");
        let mut round = (self.prepare)(&Setup {
            dir: dir.path().to_owned(),
            ..*setup
        });
        let rounds: Vec<Vec<Figure>> = (0..self.rounds).map(|_| round()).collect();
        let outcome = |(at, row)| {
            let of = |value: fn(Figure) -> f64| {
                median(rounds.iter().map(|round| value(round[at])).collect())
            };
            Outcome {
                row,
                kib: setup.chunk_bytes >> 10,
                median: Figure {
                    floor: of(|figure| figure.floor),
                    store: of(|figure| figure.store),
                },
                ratio: of(|figure| figure.store / figure.floor),
            }
        };
        self.rows.iter().enumerate().map(outcome).collect()
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn print_head(state_bytes: u64) {
    let mib = state_bytes >> 20;
    println!("A state of {mib} MiB. Medians of interleaved rounds; the ratio is store / floor.");
    println!("{:10} {:>9} {:>9} {:>7}", "", "floor", "store", "ratio");
}

impl Outcome {
    fn name(&self) -> String {
        format!("{}{}", self.row.name, self.kib)
    }

    pub(crate) fn print(&self) {
        let Outcome {
            row,
            median: Figure { floor, store },
            ratio,
            ..
        } = self;
        println!(
            "{:10} {:>9} {:>9} {ratio:7.2}  {}, {}; {} is better",
            self.name(),
            digits(*floor),
            digits(*store),
            row.unit,
            row.what,
            row.better,
        );
    }
}

/// Three digits that count, and no fractions of what is large.
fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.1.. => 3,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

/// A list of `{workload, unit, better, floor, store, ratio}`. Names and units are ours: nothing in them is to be escaped.
pub(crate) fn json(outcomes: &[Outcome]) -> String {
    let mut text = String::from("[");
    for (at, outcome) in outcomes.iter().enumerate() {
        let Outcome {
            row, median, ratio, ..
        } = outcome;
        let comma = if at == 0 { "" } else { "," };
        let [floor, store, ratio] = [median.floor, median.store, *ratio].map(number);
        write!(
            text,
            "{comma}\n  {{\"workload\": \"{}\", \"unit\": \"{}\", \"better\": \"{}\", \
             \"floor\": {floor}, \"store\": {store}, \"ratio\": {ratio}}}",
            outcome.name(),
            row.unit,
            row.better,
        )
        .expect("a string takes all");
    }
    text.push_str("\n]\n");
    text
}

/// JSON knows no infinity.
fn number(value: f64) -> String {
    match value.is_finite() {
        true => value.to_string(),
        false => "null".to_owned(),
    }
}

/// What `run` does, and how long it takes.
pub(crate) fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = run();
    (done, start.elapsed())
}

pub(crate) fn gigabytes_per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / 1e9
}
