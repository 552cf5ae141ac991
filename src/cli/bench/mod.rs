//! `duramen bench`: how many requests a second a cluster, or any server that speaks as Redis does, answers, and how soon.

mod histogram;
mod load;

use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::Outcome;
use super::client::At;
use load::{Load, Measured, run};

/// Measure how fast a running cluster answers
///
/// Clients that each wait for their answers write to random keys, and read them, at the leader; any server that speaks the Redis protocol
/// will do. What is written is durable on a majority when it is answered, so a single client sees the latency of the disks and the
/// network, and many clients see how well their writes are put together.
///
/// The keys begin with `bench:`, and stay.
#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(flatten)]
    at: At,

    /// What the clients do, one after the other
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_values = ["set", "get"])]
    operations: Vec<Operation>,

    /// How many clients there are at a time
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: Vec<u32>,

    /// How many requests each sends before it waits for their answers
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pipeline: u32,

    /// How long requests are sent and measured; a quarter of it more comes first, which is not
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = parse_seconds)]
    seconds: f64,

    /// The size of a value
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=16 << 20))]
    value_bytes: u32,

    /// How many different keys there are
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Operation {
    /// Write each key once, however long it takes: for reads that find something, and a store of a given size
    Fill,
    /// Write a value to a random key
    Set,
    /// Read a random key
    Get,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Fill => "fill",
            Operation::Set => "set",
            Operation::Get => "get",
        }
    }
}

impl Bench {
    pub(super) fn run(&self) -> Outcome {
        let leader = self.find_leader()?;
        let loads = self.loads();
        let mut objects = Vec::new();
        let bar = ProgressBar::new(loads.len() as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        for load in loads {
            bar.set_message(title(&load));
            let measured = run(&leader, &load)?;
            match self.at.json {
                true => objects.push(object(&load, &measured)),
                false => bar.suspend(|| println!("{}", text(&load, &measured))),
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        if self.at.json {
            println!("{}", json!({ "at": leader, "measured": objects }));
        }
        Ok(())
    }

    /// Where the leader answers, or the one server that there is.
    fn find_leader(&self) -> Outcome<String> {
        let mut client = self.at.client();
        client.ask(&["GET", "bench:0"])?;
        Ok(client.at().to_owned())
    }

    fn loads(&self) -> Vec<Load> {
        let mut loads = Vec::new();
        for &operation in &self.operations {
            for &clients in &self.clients {
                loads.push(Load {
                    operation,
                    clients,
                    password: self.at.password.clone(),
                    pipeline: self.pipeline,
                    value_bytes: self.value_bytes as usize,
                    keys: self.keys,
                    time: Duration::from_secs_f64(self.seconds),
                });
            }
        }
        loads
    }
}

fn title(load: &Load) -> String {
    let pipeline = match load.pipeline {
        1 => String::new(),
        pipeline => format!(" x {pipeline} in a pipeline"),
    };
    let name = load.operation.name();
    format!("{name}, {} clients{pipeline}", load.clients)
}

fn text(load: &Load, measured: &Measured) -> String {
    format!(
        "{}: {:.0} a second\n{}",
        title(load),
        measured.per_second(),
        measured.latencies
    )
}

fn object(load: &Load, measured: &Measured) -> Value {
    let micros = |share| measured.latencies.quantile(share);
    json!({
        "operation": load.operation.name(),
        "clients": load.clients,
        "pipeline": load.pipeline,
        "value_bytes": load.value_bytes,
        "per_second": measured.per_second(),
        "p50_us": micros(0.5),
        "p90_us": micros(0.9),
        "p99_us": micros(0.99),
        "p999_us": micros(0.999),
        "max_us": micros(1.0),
        "client_cores": measured.client_cores,
    })
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is no number"))?;
    match (0.01..=3600.0).contains(&seconds) {
        true => Ok(seconds),
        false => Err("between 0.01 and 3600".to_owned()),
    }
}
