//! One run: a cluster of key/value stores, clients that know what they were told, faults, and what must hold.
//!
//! After every step the five properties of the paper's figure 3 must hold, and nobody may have voted twice. At the end
//! everything is mended: within a stated time all nodes must agree and a write succeed. Then what the clients were told must be
//! linearizable, object by object.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use duramen_wal::NodeId;

use super::clients::Clients;
use super::network::Faults;
use super::operator::Operator;
use super::recorder::{Applied, Recorder};
use super::seen::Seen;
use super::weather::Weather;
use super::world::{Settings, World};

/// A run in which something did not hold.
#[derive(Debug, Clone, thiserror::Error)]
#[error("seed {seed}: {why}\n\nthe nodes:\n{nodes}\nthe last events:\n{trace}\nreplay: duramen sim --seeds {seed}..{} --ops {operations}", seed + 1)]
pub struct Failure {
    /// The run.
    pub seed: u64,
    /// How many operations it was to have.
    pub operations: u64,
    /// What did not hold.
    pub why: String,
    /// How the nodes were, at the end.
    pub nodes: String,
    /// What happened last.
    pub trace: String,
}

/// When everything is mended, all is well within this time.
pub const MEND_TIME: Duration = Duration::from_secs(60);

/// Runs a cluster until its clients have called so many operations. The same seed gives the same run.
///
/// # Errors
/// Something did not hold: what panicked is caught.
pub fn run(seed: u64, operations: u64) -> Result<Seen, Failure> {
    let mut run = Run::new(seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| run.whole(operations)));
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let why = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Failure {
            seed,
            operations,
            why: why.unwrap_or_else(|| "a panic without words".to_owned()),
            nodes: run.world.describe(),
            trace: run.world.trace.to_string(),
        }
    })
}

pub(super) struct Run {
    pub(super) world: World<Recorder>,
    clients: Clients,
    operator: Operator,
    weather: Weather,
}

impl Run {
    pub(super) fn new(seed: u64) -> Run {
        let mut rng = fastrand::Rng::with_seed(seed);
        let nodes = if rng.bool() { 3 } else { 5 };
        let mut settings = Settings::default();
        if rng.bool() {
            let log = &mut settings.storage.log;
            log.segment_bytes = 144 << 10; // It needs the next one soon.
            (log.batch_bytes_max, log.in_flight_bytes_max) = (64 << 10, 64 << 10);
            log.entry_bytes_max = 32 << 10;
        }
        settings.node.snapshot_bytes = [2 << 10, 8 << 10, 32 << 10][rng.usize(..3)];
        settings.config.append_bytes_max = [100, 1 << 20][rng.usize(..2)];
        settings.config.window_entries = [2, 16, 4096][rng.usize(..3)];
        settings.config.keep_bytes = [1 << 10, 64 << 20][rng.usize(..2)];
        settings.config.pre_vote = rng.u32(..4) > 0;
        settings.config.check_quorum = rng.u32(..4) > 0;
        let applied = Applied::default();
        let make_state = move |id| Recorder::new(id, applied.clone());
        let mut world = World::new(rng.u64(..), nodes, settings, make_state);
        world.set_faults(Weather::draw_network(&mut rng));
        for (one, other) in [(1, 2), (1, 3), (2, 3)] {
            if rng.u32(..4) == 0 {
                world.cut(NodeId(one), NodeId(other)); // So they do not all meet at once.
            }
        }
        for id in world.ids() {
            world.set_sync_time(id, Duration::from_micros(rng.u64(1..8000)));
        }
        Run {
            world,
            clients: Clients::new(),
            operator: Operator::default(),
            weather: Weather::new(),
        }
    }

    fn whole(&mut self, operations: u64) -> Seen {
        while self.clients.operations() < operations {
            self.weather.strike(&mut self.world, &mut self.operator);
            self.step(true);
        }
        self.mend();
        self.clients.check();
        self.seen()
    }

    fn seen(&self) -> Seen {
        let totals = self.world.totals();
        Seen {
            answered: self.clients.answered,
            unknown: self.clients.unknown,
            follower_reads: self.clients.follower_reads,
            repeated: self.clients.repeated,
            expired: self.clients.expired,
            leaders: self.world.leaders_seen(),
            truncations: totals.truncations,
            snapshots: totals.snapshots_taken,
            installs: totals.snapshots_installed,
            changes: self.operator.changes,
            replacements: self.operator.replacements,
            transfers: self.operator.transfers,
            repairs: totals.repairs,
            virtual_time: self.world.now(),
            power_cuts: self.world.power_cuts(),
            ..self.weather.struck
        }
    }

    fn step(&mut self, is_calling: bool) {
        self.world.step();
        self.weather.bury(&mut self.world, &mut self.operator);
        self.weather.get_over(&mut self.world, &mut self.operator);
        self.operator.step(&mut self.world);
        self.clients.step(&mut self.world, is_calling);
    }

    /// No more faults: soon all agree, and a write succeeds.
    fn mend(&mut self) {
        // Before space is given back: who has just ended for the lack of it had a reason.
        self.weather.bury(&mut self.world, &mut self.operator);
        self.world.heal_links();
        self.world.set_faults(Faults::default());
        self.world.stop_failing();
        self.weather.free_all();
        let end = self.world.now() + MEND_TIME;
        let written = self.clients.written;
        loop {
            for id in self.world.ids() {
                let has_failed = super::weather::has_failed(&self.world, id);
                if (!self.world.is_up(id) || has_failed) && !self.operator.is_out(id) {
                    self.weather.start(&mut self.world, id);
                }
            }
            let is_written = self.clients.written > written;
            self.step(!is_written);
            if is_written && self.clients.are_idle() && self.agree() {
                return;
            }
            assert!(
                self.world.now() < end,
                "no agreement {MEND_TIME:?} after all was mended; a write succeeded: {is_written}"
            );
        }
    }

    /// Whether all members are up and have applied the same, and nobody is to be replaced.
    fn agree(&self) -> bool {
        let Some(leader) = self.world.leader().and_then(|id| self.world.node(id)) else {
            return false;
        };
        let wanted = leader.status();
        let has_all = |id: NodeId| {
            self.world.node(id).is_some_and(|node| {
                let status = node.status();
                let is_as_far = (status.applied, status.commit) == (wanted.applied, wanted.commit);
                let is_well = node.trouble().is_none();
                is_as_far
                    && is_well
                    && node.state().store() == leader.state().store()
                    && node.diverged_at().is_none()
            })
        };
        let is_over = !leader.raft().membership().is_joint() && !self.operator.is_replacing();
        is_over
            && leader.raft().last().index == wanted.applied
            && leader.raft().membership().all().into_iter().all(has_all)
    }
}
