//! What was measured: medians, ratios, and what is wanted.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::systems::Kind;

/// All of it.
pub struct Table {
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
            false => values.get(values.len() / 2).copied(),
        }
    }

    /// Duramen's by the other's.
    fn ratio(&self, other: Kind) -> Option<f64> {
        Some(self.value(Kind::Duramen)? / self.value(other)?)
    }
}

impl Table {
    pub fn new(kinds: Vec<Kind>) -> Table {
        Table {
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
        json!({ "notes": NOTES, "rows": rows.collect::<Vec<_>>() })
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

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:38} {:6}", "", "")?;
        for kind in &self.kinds {
            write!(f, "{:>10}", kind.name())?;
        }
        for kind in self.others() {
            write!(f, "{:>10}", format!("/ {}", kind.name()))?;
        }
        writeln!(f, "  wanted")?;
        for row in &self.rows {
            write!(f, "{:38} {:6}", row.name, row.unit.name())?;
            let shown = |value: Option<f64>, decimals: usize| {
                value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
            };
            for kind in &self.kinds {
                write!(f, "{:>10}", shown(row.value(*kind), row.unit.decimals()))?;
            }
            for kind in self.others() {
                write!(f, "{:>10}", shown(row.ratio(kind), 2))?;
            }
            writeln!(f, "  {}", row.target)?;
        }
        NOTES.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}
