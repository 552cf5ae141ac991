//! `duramen log`: looking at a node's log, and cutting damage when nothing else is left.

mod dump;
mod dump_json;
mod repair;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::looking::find_dir;
use super::{Ended, Outcome};

/// Look at a node's log, and repair it when no peer can
///
/// DIR is a node's directory, or that of a log. `dump` and `verify` change nothing, and work on a read-only file system; so does
/// `repair` without --cut. While the node runs they say that its log is in use.
///
/// Exit codes: 0 the log is whole, 1 an error, or not a log, 2 wrong usage, 3 an unfinished write at the end and nothing else, which
/// the next start cuts off, 4 something is damaged.
#[derive(Debug, Args)]
pub(super) struct LogCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show all that stands in a log: segments, frames, records and entries, with their offsets
    ///
    /// As far as it can be read; what cannot is marked with `!!`. At the end it says what `verify` says, and ends with the same code.
    Dump {
        #[command(flatten)]
        at: At,
        /// Show all bytes of each payload, not just its beginning
        #[arg(long)]
        raw: bool,
    },
    /// Check every byte of a log that counts
    ///
    /// Exit codes: 0 the log is whole, 1 an error, or not a log, 3 an unfinished write at the end and nothing else, which the next start
    /// cuts off, 4 something is damaged.
    Verify {
        #[command(flatten)]
        at: At,
    },
    /// Say what cutting off damage would lose; with --cut, do it
    ///
    /// For a node that has no peers. A node of a cluster gets damaged entries from the others by itself: start it. A new log is
    /// made of what is whole, and the old one is set aside beside it, unchanged.
    ///
    /// Exit codes: 0 the log is whole, or was cut, 1 an error, 3 or 4 what `verify` says, and nothing was done.
    Repair {
        #[command(flatten)]
        at: At,
        /// Do it. Loses what was acknowledged
        #[arg(long)]
        cut: bool,
    },
}

/// What to look at, and how to say it.
#[derive(Debug, Args)]
struct At {
    /// A node's directory, or that of a log
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl At {
    fn log(&self) -> Outcome<PathBuf> {
        find_dir(&self.dir, "log", |names| {
            let is_log = |name: &String| name == "CONTROL" || name.ends_with(".wal");
            names.iter().any(is_log)
        })
    }
}

impl LogCommand {
    pub(super) fn run(self) -> Outcome<Ended> {
        match self.action {
            Action::Dump { at, raw } => match at.json {
                true => dump_json::run(&at.log()?, raw),
                false => dump::run(&at.log()?, raw),
            },
            Action::Verify { at } => verify::run(&at.log()?, at.json),
            Action::Repair { at, cut } => repair::run(&at.log()?, cut, at.json),
        }
    }
}
