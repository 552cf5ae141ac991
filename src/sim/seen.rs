//! What came up in runs: to know that they were not too quiet.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// What came up in a run, or in several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Seen {
    /// Operations that were answered.
    pub answered: u64,
    /// Operations whose outcome remained unknown.
    pub unknown: u64,
    /// Reads that were served by a node that did not lead.
    pub follower_reads: u64,
    /// Calls of sessions that were answered after they had been sent again, though they might have been carried out.
    pub repeated: u64,
    /// Calls that were refused since their session had ended.
    pub expired: u64,
    /// Terms that had a leader.
    pub leaders: u64,
    /// Logs of which something was truncated.
    pub truncations: u64,
    /// Snapshots that were taken.
    pub snapshots: u64,
    /// Snapshots that were taken in from another node.
    pub installs: u64,
    /// Changes of the membership that were begun.
    pub changes: u64,
    /// Nodes that were replaced by new ones.
    pub replacements: u64,
    /// Leaderships that were handed over.
    pub transfers: u64,
    /// Nodes that met with damaged or suspect entries, or a damaged snapshot, when they started.
    pub repairs: u64,
    /// Processes that were killed.
    pub kills: u64,
    /// Machines whose power was cut.
    pub power_cuts: u64,
    /// Processes that stood still for a while, clocks that jumped or were set back, disks that stalled.
    pub pauses: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// Nodes that met with a full disk, and stayed.
    pub full_disks: u64,
    /// Disks with a flipped bit or an unreadable sector.
    pub damaged: u64,
    /// Disks that were emptied, or set back to an earlier state.
    pub lost_disks: u64,
    /// How long it took, in the clusters' own time.
    pub virtual_time: Duration,
}

/// Runs were quieter than they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the runs were too quiet to show much: {found} {what}, and {floor} at the least were expected"
)]
pub struct TooQuiet {
    /// What was too rare.
    pub what: &'static str,
    /// How often it came up.
    pub found: u64,
    /// How often it should.
    pub floor: u64,
}

/// Less than so many operations are no measure.
const OPERATIONS_MIN: u64 = 100_000;

impl Seen {
    /// Adds what came up in another run.
    pub fn add(&mut self, other: &Seen) {
        let sums = self.counts_mut().into_iter().zip(other.counts());
        sums.for_each(|(sum, (_, more))| *sum += more);
        self.virtual_time += other.virtual_time;
    }

    /// Whether so many runs, of so many operations each, have shown enough. A few are no measure.
    ///
    /// # Errors
    /// [`TooQuiet`].
    pub fn check_floors(&self, runs: u64, operations: u64) -> Result<(), TooQuiet> {
        let total = runs * operations;
        if total < OPERATIONS_MIN {
            return Ok(());
        }
        for ((what, found), per_million) in self.counts().into_iter().zip(FLOORS_PER_MILLION) {
            let floor = total * per_million / 1_000_000;
            if found < floor {
                return Err(TooQuiet { what, found, floor });
            }
        }
        Ok(())
    }

    fn counts(&self) -> [(&'static str, u64); COUNTS] {
        [
            ("answered", self.answered),
            ("of unknown outcome", self.unknown),
            ("reads on followers", self.follower_reads),
            ("repeated calls", self.repeated),
            ("expired sessions", self.expired),
            ("leaders", self.leaders),
            ("truncations", self.truncations),
            ("snapshots", self.snapshots),
            ("installs", self.installs),
            ("membership changes", self.changes),
            ("replaced nodes", self.replacements),
            ("transfers", self.transfers),
            ("repairs", self.repairs),
            ("kills", self.kills),
            ("power cuts", self.power_cuts),
            ("pauses", self.pauses),
            ("failed syncs", self.failed_syncs),
            ("full disks", self.full_disks),
            ("damaged disks", self.damaged),
            ("lost disks", self.lost_disks),
        ]
    }

    fn counts_mut(&mut self) -> [&mut u64; COUNTS] {
        [
            &mut self.answered,
            &mut self.unknown,
            &mut self.follower_reads,
            &mut self.repeated,
            &mut self.expired,
            &mut self.leaders,
            &mut self.truncations,
            &mut self.snapshots,
            &mut self.installs,
            &mut self.changes,
            &mut self.replacements,
            &mut self.transfers,
            &mut self.repairs,
            &mut self.kills,
            &mut self.power_cuts,
            &mut self.pauses,
            &mut self.failed_syncs,
            &mut self.full_disks,
            &mut self.damaged,
            &mut self.lost_disks,
        ]
    }
}

const COUNTS: usize = 20;
/// Of a million operations, in the order of [`Seen::counts`].
const FLOORS_PER_MILLION: [u64; COUNTS] = [
    900_000, 12_000, 60_000, 10_000, 1_000, 15_000, 1_200, 15_000, 4_000, 4_000, 2_000, 2_500, 120,
    10_000, 15_000, 20_000, 3_000, 1_000, 300, 200,
];

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, found) in self.counts() {
            write!(f, "{found} {what}, ")?;
        }
        write!(f, "in {} s of their time", self.virtual_time.as_secs())
    }
}
