//! What came of it.

use std::fmt;

use duramen::sim::TooQuiet;
use serde::Serialize;

use super::model::Change;

/// What came of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Summary {
    /// Rounds that were run to their end.
    pub(super) rounds: u64,
    /// Operations that were acknowledged.
    pub(super) acknowledged: u64,
    /// Operations that were found again: those, and some that nobody was told of.
    pub(super) recovered: u64,
    /// Rounds after which the end of a log was torn.
    pub(super) torn: u64,
    /// Operations that were acknowledged and are gone.
    pub(super) lost: u64,
    /// Anything else that is not as it was written.
    pub(super) wrong: u64,
    /// What was wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) blamed: Vec<String>,
    pub(super) seed: u64,
    pub(super) seconds: f64,
    /// Of log and snapshots.
    #[serde(flatten)]
    pub(super) seen: Option<Seen>,
    /// Of a cluster.
    #[serde(flatten)]
    pub(super) nodes: Option<Nodes>,
}

/// What came up when a cluster was tortured.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Nodes {
    /// Nodes that were killed.
    pub(super) killed: u64,
    /// How often the leader was among them, and how often all of them at once.
    pub(super) leaders: u64,
    pub(super) blackouts: u64,
}

/// What came up when log and snapshots were tortured.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Seen {
    /// Segments that the log has had.
    pub(super) segments: u64,
    /// Processes that were killed when all was open, and before.
    pub(super) killed: u64,
    pub(super) killed_while_opening: u64,
    /// Of all those, the ones that ended in the middle of a write, and at another call to the disk.
    pub(super) cut_segment_writes: u64,
    pub(super) cut_control_writes: u64,
    pub(super) cut_snapshot_writes: u64,
    pub(super) killed_at_calls: u64,
    pub(super) votes: u64,
    pub(super) truncations: u64,
    pub(super) purges: u64,
    pub(super) moves: u64,
    pub(super) snapshots: u64,
    pub(super) installs: u64,
}

impl Seen {
    pub(super) fn count(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::HardState { .. } => self.votes += 1,
                Change::Truncate { .. } => self.truncations += 1,
                Change::Purge { .. } => self.purges += 1,
                Change::Append { .. } | Change::Record { .. } | Change::Remove { .. } => {}
            }
        }
    }
}

impl Summary {
    pub(super) fn is_bad(&self) -> bool {
        self.lost > 0 || self.wrong > 0
    }

    /// Operations that were acknowledged are gone.
    pub(super) fn lose(&mut self, operations: u64, what: String) {
        self.lost += operations;
        self.blamed.push(what);
    }

    pub(super) fn blame(&mut self, what: String) {
        self.wrong += 1;
        self.blamed.push(what);
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rounds in {:.0} s: {} operations acknowledged, {} recovered, {} torn ends cut, {} lost, {} wrong",
            self.rounds,
            self.seconds,
            self.acknowledged,
            self.recovered,
            self.torn,
            self.lost,
            self.wrong
        )
    }
}

/// Fewer rounds are no measure.
const ROUNDS_MIN: u64 = 100;
/// Nor fewer with a cluster, which take longer.
const CLUSTER_ROUNDS_MIN: u64 = 20;

/// Whether a run has shown enough.
pub(super) fn check_floors(summary: &Summary) -> Result<(), TooQuiet> {
    if let Some(seen) = summary.seen.filter(|_| summary.rounds >= ROUNDS_MIN) {
        check(summary.rounds, &floors_of_engine(summary, &seen))?;
    }
    if let Some(nodes) = summary
        .nodes
        .filter(|_| summary.rounds >= CLUSTER_ROUNDS_MIN)
    {
        check(summary.rounds, &floors_of_cluster(summary, &nodes))?;
    }
    Ok(())
}

/// What came up, how often, and how often it should in a thousand rounds.
type Floor = (&'static str, u64, u64);

fn floors_of_engine(summary: &Summary, seen: &Seen) -> [Floor; 15] {
    [
        ("acknowledged operations", summary.acknowledged, 8_000),
        ("torn ends", summary.torn, 30),
        ("segments", seen.segments, 150),
        ("processes that were killed", seen.killed, 200),
        ("of them while they opened", seen.killed_while_opening, 100),
        ("cut writes to segments", seen.cut_segment_writes, 60),
        ("cut writes to CONTROL", seen.cut_control_writes, 15),
        ("cut writes to snapshots", seen.cut_snapshot_writes, 15),
        ("deaths at other calls", seen.killed_at_calls, 80),
        ("votes", seen.votes, 3_000),
        ("truncations", seen.truncations, 800),
        ("purges", seen.purges, 900),
        ("moves of entries", seen.moves, 40),
        ("snapshots", seen.snapshots, 300),
        ("installs", seen.installs, 100),
    ]
}

fn floors_of_cluster(summary: &Summary, nodes: &Nodes) -> [Floor; 4] {
    [
        ("acknowledged operations", summary.acknowledged, 100_000),
        ("nodes that were killed", nodes.killed, 1_000),
        ("of them leaders", nodes.leaders, 300),
        ("times that all were killed", nodes.blackouts, 50),
    ]
}

fn check(rounds: u64, floors: &[Floor]) -> Result<(), TooQuiet> {
    for (what, found, per_thousand) in floors {
        let (what, found, floor) = (*what, *found, rounds * per_thousand / 1000);
        if found < floor {
            return Err(TooQuiet { what, found, floor });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_too_quiet_says_so_and_a_short_one_is_no_measure() {
        let mut summary = Summary {
            rounds: 99,
            seen: Some(Seen::default()),
            ..Summary::default()
        };
        assert_eq!(check_floors(&summary), Ok(()));
        summary.rounds = 1000;
        summary.acknowledged = 8_000;
        let quiet = check_floors(&summary).unwrap_err();
        assert_eq!((quiet.what, quiet.found), ("torn ends", 0));
        summary.seen = None;
        summary.nodes = Some(Nodes::default());
        let quiet = check_floors(&summary).unwrap_err();
        assert_eq!(quiet.what, "acknowledged operations");
    }
}
