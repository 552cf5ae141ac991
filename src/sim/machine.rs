//! A machine: a disk, a clock, and a process that runs a node, or does not.

use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use duramen_disk::SimDisk;
use duramen_wal::{LogId, NodeId};

use crate::node::{
    Clock, Config, Error, Identity, Input, Job, LogTime, Network, Node, Options, Packet,
    StateMachine, Storage, StorageOptions,
};

/// A node's own clock. It may be ahead of the world's, and jump; what time it says it is may go back, as well.
#[derive(Debug, Clone, Default)]
pub struct SimClock {
    now: Arc<AtomicU64>,
    /// How wrong it is about what time it is, in milliseconds.
    wrong_by: Arc<AtomicI64>,
}

/// What time it is when the world begins, in milliseconds since 1970.
const BEGINNING_MS: u64 = 1_600_000_000_000;

impl SimClock {
    fn set(&self, micros: u64) {
        self.now.fetch_max(micros, Ordering::Relaxed); // It never goes back.
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        Duration::from_micros(self.now.load(Ordering::Relaxed))
    }

    fn log_time(&self) -> LogTime {
        let now = BEGINNING_MS + self.now.load(Ordering::Relaxed) / 1000;
        LogTime(now.saturating_add_signed(self.wrong_by.load(Ordering::Relaxed)))
    }
}

/// What a node sends, until the world takes it.
#[derive(Debug, Clone, Default)]
pub struct Outbox(Arc<Mutex<Vec<Packet>>>);

impl Outbox {
    fn take(&self) -> Vec<Packet> {
        std::mem::take(&mut *self.0.lock().expect("one thread"))
    }
}

impl Network for Outbox {
    fn send(&mut self, packet: Packet) {
        self.0.lock().expect("one thread").push(packet);
    }
}

/// A node as the simulator runs it.
pub type SimNode<S> = Node<S, Outbox, SimClock>;

pub(super) struct Machine<S: StateMachine> {
    pub(super) id: NodeId,
    pub(super) disk: SimDisk,
    pub(super) clock: SimClock,
    /// How far its clock is ahead of the world's, in microseconds.
    ahead: u64,
    outbox: Outbox,
    /// Who begins the cluster; nobody for a node that joins it.
    voters: Vec<NodeId>,
    process: Option<Process<S>>,
    /// Whether the next error of the disk is the power that goes.
    is_power_failing: bool,
    pub(super) disk_time: DiskTime,
    /// What its processes have done, but for the present one.
    totals: Totals,
}

/// What nodes have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Logs of which something was truncated.
    pub truncations: u64,
    /// Snapshots that were taken.
    pub snapshots_taken: u64,
    /// Snapshots that were taken in from another node.
    pub snapshots_installed: u64,
    /// Starts with damaged or suspect entries, or a damaged snapshot.
    pub repairs: u64,
}

impl Totals {
    pub(super) fn add(&mut self, other: Totals) {
        self.truncations += other.truncations;
        self.snapshots_taken += other.snapshots_taken;
        self.snapshots_installed += other.snapshots_installed;
        self.repairs += other.repairs;
    }
}

/// How long the disk takes, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct DiskTime {
    /// A sync takes up to this.
    pub(super) sync: u64,
    /// Until then none ends.
    pub(super) stalled_until: u64,
}

struct Process<S: StateMachine> {
    node: SimNode<S>,
    /// Until then it stands still, as if it was not given the processor; what comes in waits for it.
    paused_until: u64,
    inbox: Vec<Input<S>>,
    /// When the write under way is durable.
    written_at: Option<u64>,
    /// When each job is done.
    jobs: Vec<(u64, Job)>,
    /// Until then nothing is applied.
    applies_at: u64,
    /// The end of its log, as it was seen last.
    last: LogId,
    totals: Totals,
}

impl<S: StateMachine> Machine<S> {
    pub(super) fn new(id: NodeId, disk: SimDisk, voters: Vec<NodeId>) -> Machine<S> {
        Machine {
            id,
            disk,
            clock: SimClock::default(),
            ahead: 0,
            outbox: Outbox::default(),
            voters,
            process: None,
            is_power_failing: false,
            disk_time: DiskTime {
                sync: 1000,
                stalled_until: 0,
            },
            totals: Totals::default(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn node(&self) -> Option<&SimNode<S>> {
        self.process.as_ref().map(|process| &process.node)
    }

    pub(super) fn node_mut(&mut self) -> Option<&mut SimNode<S>> {
        self.process.as_mut().map(|process| &mut process.node)
    }

    /// Starts a process.
    ///
    /// # Errors
    /// The node cannot start from what is on its disk.
    pub(super) fn start(&mut self, settings: &Settings, seed: u64, state: S) -> Result<(), Error> {
        assert!(!self.is_up(), "{} is up", self.id);
        let mut config = settings.config.clone();
        config.id = self.id;
        config.seed = seed;
        let identity = Identity {
            cluster: "sim".to_owned(),
            node: self.id,
            voters: self.voters.iter().copied().collect(),
        };
        let disk = Arc::new(self.disk.clone());
        let dir = Path::new("/node");
        let storage = Storage::open(disk, dir, &identity, settings.storage.clone())?;
        let (outbox, clock) = (self.outbox.clone(), self.clock.clone());
        let node = Node::new(config, settings.node.clone(), storage, state, outbox, clock)?;
        let is_bad = node.raft().bad_entries().next().is_some();
        self.process = Some(Process {
            last: node.raft().last(),
            totals: Totals {
                repairs: is_bad.into(),
                ..Totals::default()
            },
            node,
            paused_until: 0,
            inbox: Vec::new(),
            written_at: None,
            jobs: Vec::new(),
            applies_at: 0,
        });
        Ok(())
    }

    /// What its processes have done.
    pub(super) fn totals(&self) -> Totals {
        let mut totals = self.totals;
        if let Some(process) = &self.process {
            let counts = process.node.counts();
            totals.add(Totals {
                snapshots_taken: counts.snapshots_taken,
                snapshots_installed: counts.snapshots_installed,
                ..process.totals
            });
        }
        totals
    }

    /// The disk is reliable from now on.
    pub(super) fn stop_failing(&mut self) {
        self.disk.disarm();
        self.disk.set_free_bytes(None);
        self.disk_time.stalled_until = 0;
    }

    /// The process ends, at once; what it wrote is there.
    pub(super) fn kill(&mut self) {
        self.end_process();
        self.disk.kill();
    }

    /// The power goes, at once: of what was not synced, anything may be there.
    pub(super) fn cut_power(&mut self, seed: u64) {
        self.end_process();
        self.disk.power_cut(seed);
    }

    fn end_process(&mut self) {
        self.disk.crash_after(0); // What it does while it ends does not reach the disk.
        self.totals = self.totals();
        self.process = None;
        self.outbox.take();
        self.is_power_failing = false;
    }

    /// The power goes in the middle of one of the next operations of the disk, if there are any.
    pub(super) fn cut_power_after(&mut self, operations: u64) {
        self.is_power_failing = true;
        self.disk.crash_after(operations);
    }

    /// Whether the power has gone, in the middle of something.
    pub(super) fn has_lost_power(&self) -> bool {
        self.is_power_failing && self.disk.crashed_in().is_some()
    }

    /// Whether the next failure is the power's.
    pub(super) fn is_power_failing(&self) -> bool {
        self.is_power_failing
    }

    /// A disk that never was in use takes the place of this one.
    pub(super) fn replace_disk(&mut self, disk: SimDisk) {
        assert!(!self.is_up(), "{} is up", self.id);
        self.disk = disk;
    }

    pub(super) fn pause(&mut self, until: u64) {
        if let Some(process) = &mut self.process {
            process.paused_until = until;
        }
    }

    pub(super) fn stall_applier(&mut self, until: u64) {
        if let Some(process) = &mut self.process {
            process.applies_at = until;
        }
    }

    /// Its clock jumps.
    pub(super) fn jump(&mut self, micros: u64) {
        self.ahead += micros;
    }

    /// Its clock is set, ahead or back.
    pub(super) fn set_clock(&mut self, millis: i64) {
        self.clock.wrong_by.fetch_add(millis, Ordering::Relaxed);
    }

    /// What comes in.
    pub(super) fn give(&mut self, input: Input<S>) {
        if let Some(process) = &mut self.process {
            process.inbox.push(input);
        }
    }

    /// Lets the process do what there is to do at this time, and gives what it sent.
    ///
    /// # Errors
    /// It has ended by itself: the process is to be buried.
    pub(super) fn turn(&mut self, now: u64, rng: &mut fastrand::Rng) -> Result<Vec<Packet>, Error> {
        self.clock.set(now + self.ahead);
        let Some(process) = self
            .process
            .as_mut()
            .filter(|process| process.paused_until <= now)
        else {
            return Ok(Vec::new());
        };
        let is_over = |at: u64| at.max(self.disk_time.stalled_until) <= now;
        if process.written_at.take_if(|at| is_over(*at)).is_some() {
            process.node.drive()?;
        }
        let (done, open): (Vec<_>, Vec<_>) = std::mem::take(&mut process.jobs)
            .into_iter()
            .partition(|job| is_over(job.0));
        process.jobs = open;
        process
            .inbox
            .extend(done.into_iter().map(|(_, job)| Input::Finished(job.run())));
        let may_apply = process.applies_at <= now;
        if may_apply {
            process.node.work(); // What was left over.
        }
        for input in process.inbox.drain(..) {
            process.node.handle(input);
        }
        process.node.turn()?;
        if may_apply && rng.u32(..3) > 0 {
            process.node.work(); // Else later: what applies is not always as fast as the node.
        }
        process.look_at_node();
        while let Some(job) = process.node.take_job() {
            // Some tens of syncs' time: so the world goes on while a snapshot is written.
            process
                .jobs
                .push((now + rng.u64(1..=self.disk_time.sync * 30), job));
        }
        if process.written_at.is_none() && process.node.is_writing() {
            process.written_at = Some(now + rng.u64(1..=self.disk_time.sync));
        }
        Ok(self.outbox.take())
    }
}

impl<S: StateMachine> Process<S> {
    fn look_at_node(&mut self) {
        let raft = self.node.raft();
        self.totals.repairs |= u64::from(raft.lacks_state());
        if self.last.index > raft.base().index && !raft.holds(self.last) {
            self.totals.truncations += 1;
        }
        self.last = raft.last();
    }
}

/// How the nodes of a world are to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of the cores. Id, seed and membership are each node's own.
    pub config: Config,
    /// Of the nodes.
    pub node: Options,
    /// Of their disks. The logs have no threads.
    pub storage: StorageOptions,
}

impl Default for Settings {
    fn default() -> Settings {
        let mut storage = StorageOptions::default();
        let log = &mut storage.log;
        log.manual_drive = true;
        log.segment_bytes = 256 << 10;
        log.batch_bytes_max = 128 << 10;
        log.entry_bytes_max = 64 << 10;
        log.in_flight_bytes_max = 128 << 10;
        storage.chunk_bytes = 256;
        Settings {
            config: Config::new(NodeId(0), [NodeId(1)]),
            node: Options::default(),
            storage,
        }
    }
}
