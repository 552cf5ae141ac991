//! Nodes on simulated disks, a bad network between them, and one clock.
//!
//! Everything follows from one seed, but for the random epochs that a log writes into its frames.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use duramen_disk::SimDisk;
use duramen_wal::{NodeId, Options};

use crate::node::{
    Clock, Config, Envelope, Identity, Input, Network, Node, StateMachine, Status, Storage,
};

/// How bad things are, in percent unless said.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Messages that are lost, and that come twice.
    pub lost: u32,
    /// See `lost`.
    pub doubled: u32,
    /// The longest time that a message is under way, in milliseconds. It is drawn for each, so they overtake each other.
    pub delay_millis: u64,
}

/// The time of the whole world, and how far each node's clock is ahead of it.
#[derive(Debug, Clone, Default)]
pub(super) struct SimClock(Arc<AtomicU64>);

impl Clock for SimClock {
    fn now(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// What a node sends, until the world takes it.
#[derive(Debug, Clone, Default)]
pub(super) struct Outbox(Arc<Mutex<Vec<Envelope>>>);

impl Network for Outbox {
    fn send(&mut self, envelope: Envelope) {
        self.0.lock().expect("one thread").push(envelope);
    }
}

struct Machine<S: StateMachine> {
    disk: SimDisk,
    clock: SimClock,
    outbox: Outbox,
    /// `None`: it is down.
    node: Option<Node<S, Outbox, SimClock>>,
    /// Until then the process stands still, as if it was not given the processor; what comes in waits for it.
    paused_until: u64,
    inbox: Vec<Input<S>>,
}

/// A message on its way: when it arrives, and which one it is.
type Arrival = Reverse<(u64, u64)>;

/// A cluster.
pub(super) struct World<S: StateMachine> {
    pub(super) rng: fastrand::Rng,
    pub(super) faults: Faults,
    /// In microseconds.
    pub(super) now: u64,
    machines: BTreeMap<NodeId, Machine<S>>,
    arrivals: BinaryHeap<Arrival>,
    on_the_way: BTreeMap<u64, Envelope>,
    sent: u64,
    /// Links that are cut, one way.
    cut: BTreeSet<(NodeId, NodeId)>,
    make_state: Box<dyn Fn(NodeId) -> S>,
}

/// How long the world goes on at a time, in microseconds.
pub(super) const STEP_MICROS: u64 = 1000;

impl<S: StateMachine> World<S> {
    /// Nodes 1 to n, all up. `make_state` gives a state machine at its beginning, at each start of a node.
    pub(super) fn new(
        seed: u64,
        nodes: u64,
        faults: Faults,
        make_state: impl Fn(NodeId) -> S + 'static,
    ) -> World<S> {
        let mut world = World {
            rng: fastrand::Rng::with_seed(seed),
            faults,
            now: 0,
            machines: BTreeMap::new(),
            arrivals: BinaryHeap::new(),
            on_the_way: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            make_state: Box::new(make_state),
        };
        for id in (1..=nodes).map(NodeId) {
            let machine = Machine {
                disk: SimDisk::new(),
                clock: SimClock::default(),
                outbox: Outbox::default(),
                node: None,
                paused_until: 0,
                inbox: Vec::new(),
            };
            world.machines.insert(id, machine);
        }
        world.ids().into_iter().for_each(|id| world.start(id));
        world
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.machines.keys().copied().collect()
    }

    pub(super) fn is_up(&self, id: NodeId) -> bool {
        self.machines[&id].node.is_some()
    }

    /// How the nodes that are up see themselves.
    pub(super) fn statuses(&self) -> Vec<Status> {
        let nodes = self
            .machines
            .values()
            .filter_map(|machine| machine.node.as_ref());
        nodes.map(Node::status).collect()
    }

    /// Starts a node that is down.
    pub(super) fn start(&mut self, id: NodeId) {
        let voters = self.ids();
        let mut config = Config::new(id, voters.iter().copied());
        config.seed = self.rng.u64(..);
        let identity = Identity {
            cluster: "sim".to_owned(),
            node: id,
            voters: voters.into_iter().collect(),
        };
        let state = (self.make_state)(id);
        let machine = self.machine(id);
        assert!(machine.node.is_none(), "{id} is up");
        let disk = Arc::new(machine.disk.clone());
        let opened = Storage::open_with(disk, Path::new("/node"), &identity, options());
        let storage = opened.unwrap_or_else(|error| panic!("{id} does not start: {error}"));
        let (outbox, clock) = (machine.outbox.clone(), machine.clock.clone());
        let node = Node::new(config, storage, state, outbox, clock);
        machine.node = Some(node.unwrap_or_else(|error| panic!("{id} does not start: {error}")));
    }

    /// The process ends, at once.
    pub(super) fn kill(&mut self, id: NodeId) {
        let machine = self.machine(id);
        machine.disk.crash_after(0);
        machine.node = None;
        machine.inbox.clear();
        machine.disk.kill();
    }

    /// A process stands still for a while, and does not notice.
    pub(super) fn pause(&mut self, id: NodeId, micros: u64) {
        self.machine(id).paused_until = self.now + micros;
    }

    /// The node dies in the middle of one of its next writes to the disk, if it makes any, and the power goes. What was not
    /// synced is there, or not, or torn.
    pub(super) fn cut_power_soon(&mut self, id: NodeId) {
        let operations = self.rng.u64(..8);
        self.machine(id).disk.crash_after(operations);
    }

    fn machine(&mut self, id: NodeId) -> &mut Machine<S> {
        self.machines.get_mut(&id).expect("a node of the cluster")
    }

    /// Cuts a link, one way.
    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    /// Cuts a node off from all others.
    pub(super) fn isolate(&mut self, id: NodeId) {
        for other in self.ids() {
            self.cut.extend([(id, other), (other, id)]);
        }
    }

    pub(super) fn heal_links(&mut self) {
        self.cut.clear();
    }

    /// Gives an input to a node. Says whether it was up.
    pub(super) fn give(&mut self, id: NodeId, input: Input<S>) -> bool {
        let machine = self.machine(id);
        if machine.node.is_none() {
            return false;
        }
        machine.inbox.push(input);
        self.turn(id); // It may die of it, and have done what it was given.
        true
    }

    /// Lets a little time pass. Gives the nodes that died in it.
    pub(super) fn step(&mut self) -> usize {
        let before = self.ids().into_iter().filter(|id| self.is_up(*id)).count();
        self.now += STEP_MICROS;
        for machine in self.machines.values() {
            machine.clock.0.store(self.now, Ordering::Relaxed);
        }
        while let Some(Reverse((_, number))) = self
            .arrivals
            .peek()
            .copied()
            .filter(|at| at.0.0 <= self.now)
        {
            self.arrivals.pop();
            if let Some(envelope) = self.on_the_way.remove(&number) {
                let to = envelope.to;
                self.give(to, Input::Message(envelope));
            }
        }
        self.ids().into_iter().for_each(|id| self.turn(id));
        before - self.ids().into_iter().filter(|id| self.is_up(*id)).count()
    }

    fn turn(&mut self, id: NodeId) {
        let seed = self.rng.u64(..);
        let now = self.now;
        let machine = self.machine(id);
        let Some(node) = machine
            .node
            .as_mut()
            .filter(|_| machine.paused_until <= now)
        else {
            return;
        };
        machine.inbox.drain(..).for_each(|input| node.handle(input));
        if node.turn().is_err() {
            machine.node = None;
            machine.inbox.clear();
            machine.disk.power_cut(seed);
            machine.outbox.0.lock().expect("one thread").clear();
            return;
        }
        let sent = std::mem::take(&mut *machine.outbox.0.lock().expect("one thread"));
        sent.into_iter().for_each(|envelope| self.send(envelope));
    }

    fn send(&mut self, envelope: Envelope) {
        if self.cut.contains(&(envelope.from, envelope.to)) {
            return;
        }
        let copies = match self.rng.u32(..100) {
            drawn if drawn < self.faults.lost => 0,
            drawn if drawn < self.faults.lost + self.faults.doubled => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = self.rng.u64(100..=self.faults.delay_millis.max(1) * 1000);
            self.sent += 1;
            self.arrivals.push(Reverse((self.now + delay, self.sent)));
            self.on_the_way.insert(self.sent, envelope.clone());
        }
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.manual_drive = true;
    options.segment_bytes = 256 << 10;
    options.batch_bytes_max = 64 << 10;
    options.entry_bytes_max = 32 << 10;
    options.in_flight_bytes_max = 64 << 10;
    options
}
