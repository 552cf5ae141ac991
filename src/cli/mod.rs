//! The command line.
//!
//! Exit codes: 0 after a clean end, 1 after an error, 2 for wrong usage.

mod address;
mod client;
mod cluster;
mod member;
mod serve;
mod sim;
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
    Sim(sim::Sim),
    Torture(torture::Torture),
}

/// Runs the program with the arguments of the process.
pub(crate) fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Cluster(cluster) => block_on(cluster.run()),
        Command::Serve(serve) => block_on(serve.run()),
        Command::Member(member) => member.run(),
        Command::Transfer(transfer) => transfer.run(),
        Command::Sim(sim) => sim.run(), // Its nodes are too many to listen to.
        Command::Torture(torture) => torture.run(), // And so are its processes.
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // In one write: several nodes may share a terminal.
            let line = format!("error: {error}\n");
            eprint!("{line}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

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
