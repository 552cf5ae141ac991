//! Clusters whose machines are off, copies of their disks to be damaged, and what must become of a cluster that starts from
//! them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use duramen::disk::SimDisk;
use duramen::kv::{Command, Kv};
use duramen::node::{Error, Input, Report};
use duramen::sim::{Settings, World};
use duramen::wal::{Index, LogId, NodeId, Term, Wal};

use super::disks::{Struck, Whole};

const SECOND: Duration = Duration::from_secs(1);
/// A cluster that can serve does so within this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// One that cannot is watched for this time.
const WATCHED: Duration = Duration::from_secs(4);

pub(crate) const NODES: u64 = 3;

pub(crate) fn nodes() -> impl Iterator<Item = NodeId> {
    (1..=NODES).map(NodeId)
}

/// How the clusters of an experiment are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// How many writes are acknowledged.
    pub(crate) writes: u64,
    /// How long a value is, in bytes.
    pub(crate) value_bytes: usize,
    /// A snapshot is taken after so many bytes of commands.
    pub(crate) snapshot_bytes: u64,
    /// So much of the log is kept behind a snapshot, in bytes.
    pub(crate) keep_bytes: u64,
}

/// A cluster that runs, and what it acknowledged.
pub(crate) struct Cluster {
    pub(crate) world: World<Kv>,
    shape: Shape,
    rng: fastrand::Rng,
    acknowledged: Vec<(Bytes, Bytes)>,
}

/// A cluster whose machines are off.
#[derive(Clone)]
pub(crate) struct Base {
    /// Of nodes 1 to 3.
    pub(crate) disks: Vec<SimDisk>,
    /// The same, before anything was done to them.
    whole: Arc<Vec<Whole>>,
    /// Up to where the newest snapshot of each node stands for the log.
    pub(crate) snapshotted: Vec<Index>,
    shape: Shape,
    acknowledged: Vec<(Bytes, Bytes)>,
    /// All entries that are committed, from the first one on.
    pub(crate) committed: Vec<LogId>,
    /// Who led it last.
    pub(crate) leader: NodeId,
}

fn settings(shape: Shape) -> Settings {
    let mut settings = Settings::default();
    let log = &mut settings.storage.log;
    log.segment_bytes = 144 << 10; // The smallest: it is full soon.
    (log.batch_bytes_max, log.in_flight_bytes_max) = (64 << 10, 64 << 10);
    log.entry_bytes_max = 32 << 10;
    settings.node.snapshot_bytes = shape.snapshot_bytes;
    settings.config.keep_bytes = shape.keep_bytes;
    settings
}

impl Cluster {
    /// Nodes on empty disks, which have elected a leader and acknowledged the shape's writes.
    pub(crate) fn new(seed: u64, shape: Shape) -> Cluster {
        let mut cluster = Cluster {
            world: World::new(seed, NODES, settings(shape), |_| Kv::default()),
            shape,
            rng: fastrand::Rng::with_seed(seed),
            acknowledged: Vec::new(),
        };
        cluster.write(shape.writes);
        cluster.world.run_for(SECOND); // All have it, and their snapshots are written.
        cluster
    }

    /// Has so many writes acknowledged, one after the other.
    pub(crate) fn write(&mut self, times: u64) {
        for _ in 0..times {
            let key = Bytes::from(format!("key {}", self.acknowledged.len()));
            let value = std::iter::repeat_with(|| self.rng.u8(..)).take(self.shape.value_bytes);
            let value: Bytes = value.collect();
            let is_written = write(&mut self.world, key.clone(), value.clone(), PATIENCE);
            assert!(is_written, "the cluster is well");
            self.acknowledged.push((key, value));
        }
    }

    pub(crate) fn leader(&self) -> NodeId {
        self.world
            .leader()
            .expect("it has just acknowledged a write")
    }

    /// A node that does not lead.
    pub(crate) fn follower(&self) -> NodeId {
        let leader = self.leader();
        nodes().find(|id| *id != leader).expect("there are three")
    }

    /// Gives writes to a node and lets some time pass, in which nobody acknowledges them.
    pub(crate) fn write_in_vain(&mut self, id: NodeId, times: u64) {
        for _ in 0..times {
            let value = vec![b'x'; self.shape.value_bytes];
            propose(&mut self.world, id, Command::set("in vain", value));
            self.world.run_for(SECOND / 50);
        }
    }

    /// Switches the machines off. Their logs say of all that is there that it was durable.
    pub(crate) fn stop(mut self) -> Base {
        let mut base = self.kill();
        for disk in &base.disks {
            let mut options = settings(base.shape).storage.log;
            options.keep_suspects = true;
            let log = Wal::open_on(Arc::new(disk.clone()), "/node/log", options);
            log.unwrap().close().unwrap(); // It writes down how far it is durable.
        }
        base.whole = Arc::new(base.disks.iter().map(Whole::new).collect());
        base
    }

    /// Kills the processes.
    pub(crate) fn kill(&mut self) -> Base {
        let leader = self.leader();
        let raft = self.world.node(leader).unwrap().raft();
        let id_at = |index: u64| {
            let terms = (1..=raft.term().0).map(Term);
            let index = Index(index);
            let mut ids = terms.map(|term| LogId { term, index });
            ids.find(|id| raft.holds(*id)).expect("one of them")
        };
        let purged = raft.base().index.0;
        let committed = (purged + 1..=raft.commit().0).map(id_at).collect();
        let snapshotted = self.world.nodes().map(|node| {
            let newest = node.storage().snapshots().list().pop();
            newest.map_or(Index(0), |newest| Index(newest.manifest.meta().last_index))
        });
        let snapshotted = snapshotted.collect();
        nodes().for_each(|id| self.world.kill(id));
        let disks: Vec<SimDisk> = nodes().map(|id| self.world.disk(id).fork()).collect();
        Base {
            whole: Arc::new(disks.iter().map(Whole::new).collect()),
            disks,
            snapshotted,
            shape: self.shape,
            acknowledged: self.acknowledged.clone(),
            committed,
            leader,
        }
    }
}

/// What became of a cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// It serves, and all is there.
    pub(crate) is_served: bool,
    /// Nodes that cannot start.
    pub(crate) refused: u64,
    /// Entries of which a node had no whole copy when it started.
    pub(crate) bad: u64,
    /// Nodes whose snapshot could not be read.
    pub(crate) stateless: u64,
    /// The entries that the leader of a cluster that does not serve waits for.
    pub(crate) named: BTreeSet<LogId>,
}

impl Base {
    /// A copy, to be damaged.
    pub(crate) fn fork(&self) -> Base {
        let disks = self.disks.iter().map(SimDisk::fork).collect();
        Base {
            disks,
            ..self.clone()
        }
    }

    /// What was acknowledged last may be gone: nothing says yet that it was durable, and its copies are damaged.
    pub(crate) fn forgive_last(&mut self) {
        self.acknowledged.pop();
        self.committed.pop();
    }

    /// The disk of a node.
    pub(crate) fn disk(&self, id: NodeId) -> &SimDisk {
        &self.disks[id.0 as usize - 1]
    }

    /// Starts all nodes, and looks whether what must become of them does. Panics otherwise.
    pub(crate) fn start(self, seed: u64) -> Outcome {
        let copies = self.whole.iter().zip(&self.disks);
        let struck: Vec<Struck> = copies.map(|(whole, disk)| whole.compare(disk)).collect();
        let given = self.disks.iter().map(SimDisk::fork).collect();
        let mut trial = Trial {
            world: World::on_disks(seed, self.disks.clone(), settings(self.shape), |_| {
                Kv::default()
            }),
            given,
            base: self,
        };
        trial.world.work(); // Whether a state can be read, a node knows when it has tried.
        let refused = trial.refused();
        trial.nodes_say_what_is(&struck);
        let mut outcome = Outcome {
            refused,
            bad: trial
                .world
                .nodes()
                .map(|node| node.raft().bad_entries().count() as u64)
                .sum(),
            stateless: trial
                .world
                .nodes()
                .filter(|node| node.raft().lacks_state())
                .count() as u64,
            is_served: false,
            named: BTreeSet::new(),
        };
        outcome.is_served = match trial.fate() {
            Fate::Served => {
                let is_served = trial.is_served(PATIENCE);
                assert!(
                    is_served,
                    "every entry is somewhere, and a majority is up: {:?}",
                    trial.world.statuses()
                );
                true
            }
            Fate::Unavailable(nowhere) => {
                assert!(
                    !trial.is_served(WATCHED),
                    "committed, and nobody has it: {nowhere:?}"
                );
                outcome.named = trial.says_why(&nowhere);
                false
            }
            Fate::Open => {
                let is_served = trial.is_served(WATCHED);
                if !is_served {
                    outcome.named = trial.says_why(&BTreeSet::new());
                }
                is_served
            }
        };
        match outcome.is_served {
            true => trial.agrees(),
            false => trial.keeps_all(),
        }
        outcome
    }
}

/// What must become of a cluster.
enum Fate {
    Served,
    /// These are committed, and nobody who is up has them.
    Unavailable(BTreeSet<LogId>),
    /// It depends on who answers first.
    Open,
}

/// A cluster that was started from damaged disks.
struct Trial {
    world: World<Kv>,
    /// The disks as they were when it was.
    given: Vec<SimDisk>,
    base: Base,
}

impl Trial {
    /// Nodes that have ended. Each must have said which file keeps it from going on.
    fn refused(&mut self) -> u64 {
        let failed = self.world.nodes().find_map(|node| node.trouble());
        assert!(
            failed.is_none(),
            "no write fails on these disks: {failed:?}"
        );
        let ended = self.world.take_ended();
        for (id, error) in &ended {
            let text = error.to_string();
            let is_named = matches!(error, Error::Storage(_)) && text.contains("/node");
            assert!(is_named, "{id} says {text}");
        }
        ended.len() as u64
    }

    /// What the nodes say of themselves is what their disks say. The rest relies on it.
    fn nodes_say_what_is(&self, struck: &[Struck]) {
        for (id, struck) in nodes().zip(struck) {
            let Some(node) = self.world.node(id) else {
                let why = struck.is_log_struck || struck.are_snapshots_struck;
                assert!(why, "{id} has not started, and nothing is wrong there");
                continue;
            };
            let raft = node.raft();
            let bad: BTreeSet<LogId> = raft.bad_entries().map(|(id, _)| id).collect();
            let is_in_log = |id: &&LogId| raft.holds(**id) && id.index > raft.base().index;
            let in_log = struck.payloads.iter().filter(is_in_log).copied();
            let struck_here: BTreeSet<LogId> = in_log.collect();
            let must_be_bad = &struck_here - &struck.memberships;
            let are_right = bad.is_subset(&struck_here) && bad.is_superset(&must_be_bad);
            assert!(are_right, "{id} calls bad {bad:?} of {struck_here:?}");
            for committed in &self.base.committed {
                let is_there = raft.holds(*committed) || committed.index <= raft.base().index;
                let is_whole = struck.whole.contains(committed);
                assert!(is_there || !is_whole, "{id} has cut {committed}");
            }
            let why = struck.are_snapshots_struck;
            assert!(why || !raft.lacks_state(), "{id}: its snapshot is whole");
        }
    }

    fn fate(&self) -> Fate {
        let up = || self.world.nodes();
        let is_whole = |id: LogId| {
            let has = |raft: &duramen::raft::Raft| {
                let is_bad = raft.bad_entries().any(|(bad, _)| bad == id);
                match id.index <= raft.base().index {
                    true => !raft.lacks_state(),
                    false => raft.holds(id) && !is_bad,
                }
            };
            up().any(|node| has(node.raft()))
        };
        let is_majority = 2 * up().count() as u64 > NODES;
        let is_somewhere = |index: Index| up().any(|node| node.raft().base().index >= index);
        let committed = self.base.committed.iter().copied();
        // A snapshot that cannot be read here may be put together again from the others'.
        let nowhere = committed.filter(|id| !is_whole(*id) && !is_somewhere(id.index));
        let nowhere: BTreeSet<LogId> = nowhere.collect();
        if !is_majority || !nowhere.is_empty() {
            return Fate::Unavailable(nowhere);
        }
        let all_whole = self.base.committed.iter().all(|id| is_whole(*id));
        let has_state = up().any(|node| !node.raft().lacks_state());
        let all_bad = up().flat_map(|node| node.raft().bad_entries());
        let mut uncommitted = all_bad.filter(|(id, _)| !self.base.committed.contains(id));
        let may_wait = uncommitted.any(|(id, _)| !is_whole(id));
        match all_whole && has_state && !may_wait {
            true => Fate::Served,
            false => Fate::Open,
        }
    }

    /// Whether a write is acknowledged within some time.
    fn is_served(&mut self, time: Duration) -> bool {
        write(&mut self.world, "after".into(), "x".into(), time)
    }

    /// A cluster that waits says for what: too few nodes are up, or the leader names entries, all that nobody has among them. Only
    /// where no leader has its state, it is enough that somebody says that its own is lost.
    fn says_why(&self, nowhere: &BTreeSet<LogId>) -> BTreeSet<LogId> {
        let reports: Vec<Report> = self.world.nodes().map(|node| node.report()).collect();
        if 2 * reports.len() as u64 <= NODES {
            return BTreeSet::new();
        }
        let is_lost = |report: &Report| report.snapshots.is_state_lost;
        let leads_well = |report: &&Report| report.is_leader() && !is_lost(report);
        let mut waiting = reports.iter().filter(leads_well);
        if reports.iter().any(is_lost) && waiting.clone().count() == 0 {
            return BTreeSet::new();
        }
        let named = waiting.find_map(|leader| {
            let named: BTreeSet<LogId> = leader.waits_for.iter().map(|(id, _)| *id).collect();
            (!named.is_empty() && named.is_superset(nowhere)).then_some(named)
        });
        named.unwrap_or_else(|| panic!("{nowhere:?} are nowhere: {reports:?}"))
    }

    /// Nobody has given up anything that is committed, nor has anything else in its place.
    fn keeps_all(&mut self) {
        for id in &self.base.committed {
            let keeps =
                |raft: &duramen::raft::Raft| id.index <= raft.base().index || raft.holds(*id);
            let keepers = self.world.nodes().filter(|node| keeps(node.raft())).count() as u64;
            let refused = nodes().filter(|node| self.world.node(*node).is_none());
            let keeps = |node: &NodeId| {
                let number = node.0 as usize - 1;
                let (then, now) = (&self.given[number], &self.base.disks[number]);
                self.base.whole[number].is_kept(*id, then, now)
            };
            let keepers = keepers + refused.filter(keeps).count() as u64;
            assert!(2 * keepers > NODES, "{id} is given up");
        }
        for node in self.world.nodes() {
            let view = node.state().view();
            for (key, value) in &self.base.acknowledged {
                let found = view.find(key);
                let is_right = found.is_none_or(|found| found == value);
                assert!(is_right, "{key:?} at {}", node.status().id);
            }
        }
        self.reads_are_right();
    }

    /// Whoever answers a read has all that was acknowledged.
    fn reads_are_right(&mut self) {
        let expected = Arc::new(self.base.acknowledged.clone());
        let wrong: Arc<Mutex<Option<Bytes>>> = Arc::default();
        for id in nodes()
            .filter(|id| self.world.node(*id).is_some())
            .collect::<Vec<_>>()
        {
            let (expected, wrong) = (expected.clone(), wrong.clone());
            let look = move |state: Result<&Kv, _>| {
                let Ok(state) = state else {
                    return;
                };
                let view = state.view();
                let differs = expected
                    .iter()
                    .find(|(key, value)| view.find(key) != Some(value));
                *wrong.lock().unwrap() = differs.map(|(key, _)| key.clone());
            };
            self.world.give(id, Input::Read(Box::new(look)));
        }
        self.world.run_for(SECOND);
        let wrong = wrong.lock().unwrap().take();
        assert_eq!(wrong, None, "a read was answered without it");
    }

    /// All who are up have the same: all that was acknowledged, and nothing bad.
    fn agrees(&mut self) {
        let is_well = |world: &World<Kv>| {
            let Some(leader) = world.leader().and_then(|id| world.node(id)) else {
                return false;
            };
            world.nodes().all(|node| {
                let raft = node.raft();
                let is_whole = raft.bad_entries().next().is_none() && !raft.lacks_state();
                is_whole && node.status().applied == leader.raft().last().index
            })
        };
        let is_well = self.world.run_until(PATIENCE, is_well);
        assert!(
            is_well,
            "somebody stays behind: {:?}",
            self.world.statuses()
        );
        assert_eq!(self.refused(), 0, "who could start goes on");
        for node in self.world.nodes() {
            let view = node.state().view();
            for (key, value) in &self.base.acknowledged {
                assert_eq!(
                    view.find(key),
                    Some(value),
                    "{key:?} at {}",
                    node.status().id
                );
            }
            assert!(node.diverged_at().is_none());
        }
    }
}

/// Has a write acknowledged, whoever leads. Says whether that was in time.
fn write(world: &mut World<Kv>, key: Bytes, value: Bytes, time: Duration) -> bool {
    let end = world.now() + time;
    while world.now() < end {
        let Some(leader) = world.leader() else {
            world.step();
            continue;
        };
        let told = propose(world, leader, Command::set(key.clone(), value.clone()));
        let is_told = |_: &World<Kv>| told.lock().unwrap().is_some();
        world.run_until(end.saturating_sub(world.now()).min(SECOND), is_told);
        if told.lock().unwrap().take() == Some(true) {
            return true;
        }
        world.step(); // It may refuse at once, again and again.
    }
    false
}

/// Gives a command to a node. It will say whether it was applied.
fn propose(world: &mut World<Kv>, id: NodeId, command: Command) -> Arc<Mutex<Option<bool>>> {
    let told: Arc<Mutex<Option<bool>>> = Arc::default();
    let tell = told.clone();
    let on_applied = Box::new(move |answer: Result<_, _>| {
        *tell.lock().unwrap() = Some(answer.is_ok());
    });
    let command = command.encode();
    world.give(
        id,
        Input::Propose {
            command,
            on_applied,
        },
    );
    told
}
