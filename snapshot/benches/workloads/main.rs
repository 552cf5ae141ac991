//! What snapshots cost beside what they cannot do without: hashing the bytes, cutting them, and giving them to the disk. Each
//! workload runs in turn without a store (the floor) and with one, several rounds, and the median ratio counts. Absolute
//! figures drift with the machine; ratios of one run do not.
//!
//! `cargo bench -p duramen-snapshot --bench workloads` runs all of them for chunks of 4, 16 and 64 KiB; names behind `--`
//! run some: a name stands for all rows that are measured with it, `in16` for one average and `in` for each. `--mib N` takes
//! another state than that of 1 GiB; `--json FILE` writes the rows as a list of `{workload, unit, better, floor, store,
//! ratio}`; `--dir DIR` puts the files elsewhere than in the target directory. Both are relative to `snapshot/`, where cargo
//! runs a bench. What is on the same disk and works meanwhile disturbs all that waits for the disk.

mod change;
mod harness;
mod memory;
mod state;
mod stream;

use std::path::PathBuf;

use harness::{Setup, Workload};

const TABLES: &[&[Workload]] = &[stream::WORKLOADS, change::WORKLOADS, memory::WORKLOADS];

/// The averages of chunks, in KiB.
const AVERAGES: [u32; 3] = [4, 16, 64];

struct Args {
    names: Vec<String>,
    json: Option<PathBuf>,
    dir: PathBuf,
    state_bytes: u64,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, child @ ..] = &args[..]
        && flag == memory::CHILD
    {
        return memory::child(child);
    }
    let args = match parse(args) {
        Ok(args) => args,
        Err(why) => {
            eprintln!("{why}");
            std::process::exit(2);
        }
    };
    harness::print_head(args.state_bytes);
    let mut outcomes = Vec::new();
    for workload in TABLES.iter().copied().flatten() {
        for kib in AVERAGES {
            if !args.names.is_empty() && !args.names.iter().any(|name| workload.is_named(name, kib))
            {
                continue;
            }
            let rows = workload.run(&Setup {
                dir: args.dir.clone(),
                chunk_bytes: kib << 10,
                state_bytes: args.state_bytes,
            });
            rows.iter().for_each(harness::Outcome::print);
            outcomes.extend(rows);
        }
    }
    if let Some(path) = args.json {
        std::fs::write(&path, harness::json(&outcomes)).expect("a place for the JSON");
    }
}

fn parse(args: Vec<String>) -> Result<Args, String> {
    let mut parsed = Args {
        names: Vec::new(),
        json: None,
        dir: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
        state_bytes: 1 << 30,
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} wants a value"));
        match &arg[..] {
            "--bench" => {} // cargo says so
            "--json" => parsed.json = Some(value()?.into()),
            "--dir" => parsed.dir = value()?.into(),
            "--mib" => {
                let mib = value()?.parse::<u64>().ok();
                let mib = mib.filter(|mib| (4..=1 << 20).contains(mib));
                parsed.state_bytes = mib.ok_or("--mib wants a number, of 4 or more")? << 20;
            }
            name if is_known(name) => parsed.names.push(arg),
            _ => {
                let rows = TABLES.iter().copied().flatten().flat_map(|w| w.rows);
                let names: Vec<&str> = rows.map(|row| row.name).collect();
                return Err(format!("{arg}: not one of {}", names.join(" ")));
            }
        }
    }
    Ok(parsed)
}

fn is_known(name: &str) -> bool {
    let mut workloads = TABLES.iter().copied().flatten();
    workloads.any(|workload| AVERAGES.iter().any(|kib| workload.is_named(name, *kib)))
}
