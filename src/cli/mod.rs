//! The command line.
//!
//! Exit codes of every command: 0 after a clean end, 1 after an error, 2 for wrong usage. `log` and `snapshot` look for
//! damage, and say 3 if there is nothing but an unfinished write at the end, and 4 if something is damaged; 1 if that
//! cannot be told, or the directory is not what was meant.

mod address;
mod bench;
mod client;
mod cluster;
mod log;
mod looking;
mod member;
mod serve;
mod sim;
mod snapshot;
mod torture;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A replicated key/value store that any Redis client can talk to. What it has acknowledged survives any crash.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Cluster(cluster::Cluster),
    Serve(serve::Serve),
    Member(member::MemberCommand),
    Transfer(member::Transfer),
    Log(log::LogCommand),
    Snapshot(snapshot::SnapshotCommand),
    Sim(sim::Sim),
    Torture(torture::Torture),
    Bench(bench::Bench),
}

/// Runs the program with the arguments of the process.
pub(crate) fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Cluster(cluster) => block_on(cluster.run()).map(Ended::from),
        Command::Serve(serve) => block_on(serve.run()).map(Ended::from),
        Command::Member(member) => member.run().map(Ended::from),
        Command::Transfer(transfer) => transfer.run().map(Ended::from),
        Command::Log(log) => log.run(),
        Command::Snapshot(snapshot) => snapshot.run(),
        Command::Sim(sim) => sim.run().map(Ended::from), // Its nodes are too many to listen to.
        Command::Torture(torture) => torture.run().map(Ended::from), // And so are its processes.
        Command::Bench(bench) => bench.run().map(Ended::from),
    };
    match outcome {
        Ok(ended) => ExitCode::from(ended.code()),
        // Whoever read has gone, and wants to hear no more.
        Err(error) if is_closed_pipe(&*error) => ExitCode::FAILURE,
        Err(error) => {
            // In one write: several nodes may share a terminal.
            let line = format!("error: {error}\n");
            eprint!("{line}");
            ExitCode::FAILURE
        }
    }
}

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// How a command came to its end that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// All is well.
    Clean,
    /// An unfinished write is at the end, and all else is well.
    Torn,
    /// Something is damaged.
    Damaged,
}

impl From<()> for Ended {
    fn from((): ()) -> Ended {
        Ended::Clean
    }
}

impl Ended {
    fn code(self) -> u8 {
        match self {
            Ended::Clean => 0,
            Ended::Torn => 3,
            Ended::Damaged => 4,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Ended::Clean => "clean",
            Ended::Torn => "torn",
            Ended::Damaged => "damaged",
        }
    }
}

fn is_closed_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    trace_to_stderr();
    block_on_quietly(command)
}

fn block_on_quietly(command: impl Future<Output = Outcome>) -> Outcome {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(command);
    // A thread that waits for standard input cannot be waited for.
    runtime.shutdown_background();
    outcome
}

/// What the program does goes to standard error, as much as `DURAMEN_TRACE` says: `info` by default.
fn trace_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_env_var("DURAMEN_TRACE")
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .compact()
        .init();
}

/// Waits for Ctrl-C or SIGTERM.
async fn asked_to_stop() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
