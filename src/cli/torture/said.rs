//! What parent and child say to each other: the parent one line on the child's standard input, the child a line for each
//! thing that happens on its standard output.

use std::io::Write;

use serde::{Deserialize, Serialize};

use super::failpoint::{Failpoint, Place};
use super::full::DiskFull;
use super::model::Model;

/// What a child is to do. It ends with its standard input at the latest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Life {
    pub(super) seed: u64,
    /// What is on the disk.
    pub(super) model: Model,
    /// The number of the first operation.
    pub(super) first: u64,
    /// How many there are. With none it opens everything, and ends.
    pub(super) operations: u64,
    /// How many batches are under way at a time.
    pub(super) window: usize,
    pub(super) failpoint: Option<Failpoint>,
}

/// What a child says. All of them are short, so that each is written whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Line {
    /// The log and the snapshots are open.
    Opened {
        /// Something at the end of the log was cut off.
        is_torn: bool,
    },
    /// Before an operation is submitted.
    Submitted(u64),
    /// After it is durable.
    Acknowledged(u64),
    /// So many entries were moved so far.
    Moved(u64),
    /// Something that should not fail did.
    Failed(String),
    /// There was no space for something.
    Full(String),
    /// The failpoint, in a write.
    DiedInWrite { place: Place, bytes: u64, of: u64 },
    /// The failpoint, before or after another call.
    DiedAtCall(String),
}

impl Line {
    pub(super) fn of_error(error: &(dyn std::error::Error + 'static)) -> Line {
        match DiskFull::of(error) {
            Some(DiskFull(what)) => Line::Full(what),
            None => Line::Failed(error.to_string()),
        }
    }
}

/// Says it in one write, so that a kill does not cut the line.
pub(super) fn say(line: &Line) {
    let mut text = serde_json::to_string(line).expect("plain data has a text");
    text.push('\n');
    // Nobody to say it to: the parent is gone, and so is this process soon.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// The lines that a child has said. One that is not whole is none.
pub(super) fn lines_of(said: &str) -> Vec<Line> {
    let whole = said.split_inclusive('\n');
    whole
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}
