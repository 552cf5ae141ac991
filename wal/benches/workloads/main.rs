//! What the log costs beside the bare disk: each workload runs in turn on a file without any format (the floor) and on the
//! log, several rounds, and the median ratio counts. Absolute figures drift with the machine; ratios of one run do not.
//!
//! `cargo bench -p duramen-wal --bench workloads` runs all but the large ones; `cargo bench -p duramen-wal --bench workloads -- W1 W4` some: a name stands for
//! all rows that are measured with it. `--json FILE` writes the rows as a list of `{workload, unit, better, floor, log,
//! ratio}`; `--dir DIR` puts the files elsewhere than in the target directory. Both are relative to `wal/`, where cargo
//! runs a bench. What is on the same disk and works meanwhile disturbs the absolute figures, and W8 most of all.

mod commit;
mod device;
mod floors;
mod harness;
mod open;
mod read;
mod write;

use std::path::PathBuf;

use harness::Workload;

const TABLES: &[&[Workload]] = &[
    write::WORKLOADS,
    commit::WORKLOADS,
    open::WORKLOADS,
    read::WORKLOADS,
    device::WORKLOADS,
];

struct Args {
    names: Vec<String>,
    json: Option<PathBuf>,
    dir: PathBuf,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, child @ ..] = &args[..]
        && flag == open::CHILD
    {
        return open::child(child);
    }
    let Args { names, json, dir } = match parse(args) {
        Ok(args) => args,
        Err(why) => {
            eprintln!("{why}");
            std::process::exit(2);
        }
    };
    let is_wanted = |workload: &&Workload| match names.is_empty() {
        true => !workload.is_large,
        false => names.iter().any(|name| workload.is_named(name)),
    };
    harness::print_head();
    let mut outcomes = Vec::new();
    for workload in TABLES.iter().copied().flatten().filter(is_wanted) {
        let rows = workload.run(&dir);
        rows.iter().for_each(harness::Outcome::print);
        outcomes.extend(rows);
    }
    if let Some(path) = json {
        std::fs::write(&path, harness::json(&outcomes)).expect("a place for the JSON");
    }
}

fn parse(args: Vec<String>) -> Result<Args, String> {
    let mut parsed = Args {
        names: Vec::new(),
        json: None,
        dir: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let mut path = || args.next().ok_or(format!("{arg} wants a path"));
        match &arg[..] {
            "--bench" => {} // cargo says so
            "--json" => parsed.json = Some(path()?.into()),
            "--dir" => parsed.dir = path()?.into(),
            name if TABLES.iter().copied().flatten().any(|w| w.is_named(name)) => {
                parsed.names.push(arg);
            }
            _ => {
                let rows = TABLES.iter().copied().flatten().flat_map(|w| w.rows);
                let names: Vec<&str> = rows.map(|row| row.name).collect();
                return Err(format!("{arg}: not one of {}", names.join(" ")));
            }
        }
    }
    Ok(parsed)
}
