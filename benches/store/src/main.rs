//! Duramen's replicated store beside etcd and a lone Redis, on one machine, in one run.
//!
//! The systems take turns at each piece of work, in several rounds, and what is shown is the median of the rounds: whatever else the
//! machine does meanwhile meets all of them. All clients are on one thread, whose use of the processor is shown: where that is near one core,
//! the clients are what is measured.

mod load;
mod systems;
mod table;
mod wire;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use load::{Load, Measured};
use systems::{Kind, System};
use table::{Row, Table, Unit};
use wire::Operation;

/// Compare Duramen's replicated store with etcd and Redis on this machine
#[derive(Debug, Parser)]
struct Options {
    /// The program, built with `cargo build --release`
    #[arg(long, value_name = "FILE", default_value = "target/release/duramen")]
    duramen: PathBuf,

    /// Where to keep the data, in a directory that is removed in the end
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    /// Leave etcd out
    #[arg(long)]
    no_etcd: bool,

    /// Leave Redis out
    #[arg(long)]
    no_redis: bool,

    /// One short round, and little data: to see that all of it works
    #[arg(long)]
    quick: bool,

    /// How much state a restart has to read, in MiB
    #[arg(long, value_name = "MIB")]
    restart_mib: Option<u64>,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,

    /// Write table and figures into this directory too, under today's date
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
}

/// How much is done.
struct Plan {
    rounds: usize,
    time: Duration,
    failovers: usize,
    restart_mib: u64,
}

const RESTART_VALUE_BYTES: usize = 4096;

fn main() -> io::Result<()> {
    let options = Options::parse();
    let plan = Plan {
        rounds: if options.quick { 1 } else { 3 },
        time: Duration::from_millis(if options.quick { 500 } else { 4000 }),
        failovers: if options.quick { 2 } else { 10 },
        restart_mib: options
            .restart_mib
            .unwrap_or(if options.quick { 32 } else { 1024 }),
    };
    let dir = tempfile::tempdir_in(&options.dir)?;
    let mut systems = Vec::new();
    for (kind, is_wanted) in [
        (Kind::Duramen, true),
        (Kind::Etcd, !options.no_etcd),
        (Kind::Redis, !options.no_redis),
    ] {
        if is_wanted && kind.is_installed() {
            eprintln!("starting {}", kind.name());
            systems.push(System::start(kind, dir.path(), &options.duramen)?);
        } else if is_wanted {
            eprintln!("{} is not installed, and left out", kind.name());
        }
    }
    let kinds = systems.iter().map(|system| system.kind).collect();
    let mut table = Table::new(dir.path(), kinds);
    idle_memory(&systems, &mut table);
    throughput(&systems, &plan, &options, &mut table)?;
    slow_follower(&systems, &plan, &options, &mut table)?;
    failover(&mut systems, &plan, &mut table)?;
    restart(&mut systems, &plan, &options, &mut table)?;
    match options.json {
        true => println!("{:#}", table.json()),
        false => println!("{table}"),
    }
    if let Some(dir) = &options.results {
        std::fs::create_dir_all(dir)?;
        let path = |kind| dir.join(format!("stores-{}.{kind}", table::today()));
        std::fs::write(path("md"), table.to_string())?;
        std::fs::write(path("json"), format!("{:#}\n", table.json()))?;
    }
    Ok(())
}

fn idle_memory(systems: &[System], table: &mut Table) {
    let row = table.row(Row::new("memory, empty store", Unit::MiB, "under 40 MiB"));
    for system in systems {
        row.add(system.kind, system.memory_mib("VmRSS"));
    }
}

/// Pieces of work with what is wanted of them.
fn loads(time: Duration) -> Vec<(String, Load, &'static str)> {
    let mut loads = Vec::new();
    for clients in [1, 16, 64, 256] {
        let target = match clients {
            1 => "2 x etcd",
            _ => "4 x etcd, p99 below etcd's",
        };
        let load = Load::new(Operation::Put, clients, 1, time);
        loads.push((format!("put, {clients} clients"), load, target));
    }
    let load = Load::new(Operation::Put, 64, 16, time);
    let target = "0.8 x redis";
    loads.push(("put, 64 clients x 16".to_owned(), load, target));
    for clients in [1, 16, 64, 256] {
        let target = match clients {
            1 => "2 x etcd",
            _ => "5 x etcd, 0.7 x redis",
        };
        let load = Load::new(Operation::Get, clients, 1, time);
        loads.push((format!("get, {clients} clients"), load, target));
    }
    loads
}

fn throughput(
    systems: &[System],
    plan: &Plan,
    options: &Options,
    table: &mut Table,
) -> io::Result<()> {
    for round in 1..=plan.rounds {
        for (name, load, target) in loads(plan.time) {
            for system in systems {
                if load.is_pipelined() && system.kind == Kind::Etcd {
                    continue; // HTTP/1.1 answers one after the other.
                }
                let kind = system.kind;
                let measured = load.run(kind.wire(), &system.leader()?, &options.duramen)?;
                eprintln!("round {round}: {name}: {}: {measured}", kind.name());
                add(table, kind, &name, target, &measured);
            }
        }
    }
    Ok(())
}

/// One of three nodes stands still: all that is written has to be on both others.
fn slow_follower(
    systems: &[System],
    plan: &Plan,
    options: &Options,
    table: &mut Table,
) -> io::Result<()> {
    let name = "put, 64 clients, a follower stands still";
    let load = Load::new(Operation::Put, 64, 1, plan.time);
    for round in 1..=plan.rounds {
        for system in systems.iter().filter(|system| system.kind != Kind::Redis) {
            let kind = system.kind;
            let run = |leader: &str| load.run(kind.wire(), leader, &options.duramen);
            let measured = system.without_a_follower(run)?;
            eprintln!("round {round}: {name}: {}: {measured}", kind.name());
            add(table, kind, name, "4 x etcd", &measured);
        }
    }
    Ok(())
}

fn add(table: &mut Table, kind: Kind, name: &str, target: &'static str, measured: &Measured) {
    let mut row = |what: &str, unit, target, value| {
        let row = table.row(Row::new(&format!("{name}{what}"), unit, target));
        row.add(kind, value);
    };
    row("", Unit::PerSecond, target, measured.per_second);
    row(", p50", Unit::Micros, "", measured.p50_us.into());
    row(", p99", Unit::Micros, "", measured.p99_us.into());
    row(", clients' CPU", Unit::Cores, "", measured.client_cores);
}

fn failover(systems: &mut [System], plan: &Plan, table: &mut Table) -> io::Result<()> {
    for number in 1..=plan.failovers {
        for system in systems
            .iter_mut()
            .filter(|system| system.kind != Kind::Redis)
        {
            let kind = system.kind;
            let millis = system.fail_over()?.as_secs_f64() * 1000.0;
            eprintln!("failover {number}: {}: {millis:.0} ms", kind.name());
            for (name, target) in [
                ("failover, median", "500 ms"),
                ("failover, worst", "1000 ms"),
            ] {
                table
                    .row(Row::new(name, Unit::Millis, target))
                    .add(kind, millis);
            }
        }
    }
    Ok(())
}

/// Writes that much, kills all, and starts all again.
fn restart(
    systems: &mut [System],
    plan: &Plan,
    options: &Options,
    table: &mut Table,
) -> io::Result<()> {
    let keys = (plan.restart_mib << 20) / RESTART_VALUE_BYTES as u64;
    for system in systems
        .iter_mut()
        .filter(|system| system.kind != Kind::Etcd)
    {
        let (kind, mib) = (system.kind, plan.restart_mib);
        eprintln!("restart: filling {} with {mib} MiB", kind.name());
        let load = Load::filling(keys, RESTART_VALUE_BYTES);
        load.run(kind.wire(), &system.leader()?, &options.duramen)?;
        system.kill_all()?;
        let took = system.start_all()?.as_secs_f64() * 1000.0;
        let name = format!("restart with {mib} MiB, until a write");
        table
            .row(Row::new(&name, Unit::Millis, "2000 ms"))
            .add(kind, took);
        let name = format!("restart with {mib} MiB, peak memory");
        let row = table.row(Row::new(&name, Unit::MiB, "1.5 x the state"));
        row.add(kind, system.memory_mib("VmHWM"));
    }
    Ok(())
}
