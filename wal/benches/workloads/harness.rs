//! Rounds of floor and log in turn, and the medians of what they gave: as a table, and as JSON.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

pub(crate) const ROUNDS: usize = 7;

/// What is measured together: data is prepared once, then each round gives a [`Figure`] for every row.
pub(crate) struct Workload {
    pub(crate) rows: &'static [Row],
    /// Not among those that run when none is named.
    pub(crate) is_large: bool,
    /// Prepares in a directory that outlives the rounds, or says why not.
    pub(crate) prepare: fn(&Path) -> Result<Round, String>,
}

pub(crate) type Round = Box<dyn FnMut() -> Vec<Figure>>;

/// A line of the table.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) what: &'static str,
}

#[derive(Clone, Copy)]
pub(crate) enum Better {
    Higher,
    Lower,
}

impl Row {
    /// A rate: the ratio is the share of the floor's that the log reaches.
    pub(crate) const fn rate(name: &'static str, unit: &'static str, what: &'static str) -> Row {
        Row {
            name,
            unit,
            better: Better::Higher,
            what,
        }
    }

    /// A cost: the ratio says how many times the floor's the log's is.
    pub(crate) const fn cost(name: &'static str, unit: &'static str, what: &'static str) -> Row {
        Row {
            name,
            unit,
            better: Better::Lower,
            what,
        }
    }
}

/// What one round gave for one row.
#[derive(Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) floor: f64,
    pub(crate) log: f64,
}

/// A row's medians. That of the ratios is not the ratio of the medians: what drifts between rounds falls out of it.
pub(crate) struct Outcome {
    row: &'static Row,
    median: Figure,
    ratio: f64,
}

/// Floor and log in turn, each in a new directory.
pub(crate) fn in_turn(
    parent: &Path,
    floor: fn(&Path) -> f64,
    log: fn(&Path) -> f64,
) -> Result<Round, String> {
    let parent = parent.to_owned();
    Ok(Box::new(move || {
        let [floor, log] = [floor, log].map(|run| {
            let dir = tempfile::tempdir_in(&parent).expect("a directory for the files");
            run(dir.path())
        });
        vec![Figure { floor, log }]
    }))
}

impl Workload {
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.rows.iter().any(|row| row.name == name)
    }

    /// Runs all rounds; nothing but a line if it cannot.
    pub(crate) fn run(&self, parent: &Path) -> Vec<Outcome> {
        let dir = tempfile::tempdir_in(parent).expect("a directory for the files");
        let mut round = match (self.prepare)(dir.path()) {
            Ok(round) => round,
            Err(why) => {
                println!("{:8} skipped: {why}", self.rows[0].name);
                return Vec::new();
            }
        };
        let rounds: Vec<Vec<Figure>> = (0..ROUNDS).map(|_| round()).collect();
        let outcome = |(at, row)| {
            let of = |value: fn(Figure) -> f64| {
                median(rounds.iter().map(|round| value(round[at])).collect())
            };
            Outcome {
                row,
                median: Figure {
                    floor: of(|figure| figure.floor),
                    log: of(|figure| figure.log),
                },
                ratio: of(|figure| figure.log / figure.floor),
            }
        };
        self.rows.iter().enumerate().map(outcome).collect()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn print_head() {
    println!("Medians of {ROUNDS} interleaved rounds. The ratio is log / floor.");
    println!("{:8} {:>12} {:>12} {:>7}", "", "floor", "log", "ratio");
}

impl Outcome {
    pub(crate) fn print(&self) {
        let Outcome {
            row,
            median: Figure { floor, log },
            ratio,
        } = self;
        let better = match row.better {
            Better::Higher => "",
            Better::Lower => "; lower is better, the ratio is times the floor's",
        };
        println!(
            "{:8} {:>12} {:>12} {ratio:7.2}  {}, {}{better}",
            row.name,
            digits(*floor),
            digits(*log),
            row.unit,
            row.what
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

/// A list of `{workload, unit, better, floor, log, ratio}`. Names and units are ours: nothing in them is to be escaped.
pub(crate) fn json(outcomes: &[Outcome]) -> String {
    let mut text = String::from("[");
    for (at, outcome) in outcomes.iter().enumerate() {
        let Outcome { row, median, ratio } = outcome;
        let better = match row.better {
            Better::Higher => "higher",
            Better::Lower => "lower",
        };
        let comma = if at == 0 { "" } else { "," };
        let [floor, log, ratio] = [median.floor, median.log, *ratio].map(number);
        write!(
            text,
            "{comma}\n  {{\"workload\": \"{}\", \"unit\": \"{}\", \"better\": \"{better}\", \
             \"floor\": {floor}, \"log\": {log}, \"ratio\": {ratio}}}",
            row.name, row.unit
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

pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
