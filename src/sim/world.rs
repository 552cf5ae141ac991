//! Nodes on simulated disks, a bad network between them, and one time.
//!
//! Everything follows from one seed: the same calls give the same messages and the same bytes on the disks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use duramen_disk::SimDisk;
use duramen_wal::{NodeId, Term};

use super::machine::{Machine, SimNode, Totals};

pub(super) use super::machine::Settings;
use super::network::{Faults, SimNetwork, Traffic};
use super::trace::{Event, Trace};
use crate::node::invariants::{self, History};
use crate::node::{
    Clock, Error, Input, Introduction, LogTime, Message, Packet, StateMachine, Status,
};

/// A cluster, its machines, and the network between them.
///
/// ```
/// use std::time::Duration;
/// use duramen::kv::Kv;
/// use duramen::sim::{Settings, World};
///
/// let mut world = World::new(7, 3, Settings::default(), |_| Kv::default());
/// world.run_for(Duration::from_secs(5));
/// let leader = world.leader().expect("there is one by now");
/// world.cut_power(leader);
/// world.run_for(Duration::from_secs(5));
/// assert!(world.leader().is_some_and(|next| next != leader));
/// ```
pub struct World<S: StateMachine> {
    pub(super) rng: fastrand::Rng,
    /// In microseconds.
    now: u64,
    machines: BTreeMap<NodeId, Machine<S>>,
    network: SimNetwork,
    settings: Settings,
    /// Which processes have a connection. It ends with either.
    connected: BTreeSet<(NodeId, NodeId)>,
    power_cuts: u64,
    /// Whom each node voted for, in each term.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// Nodes of another cluster.
    strangers: BTreeSet<NodeId>,
    history: History,
    /// Processes that ended by themselves, since this was asked.
    ended: Vec<(NodeId, Error)>,
    pub(super) trace: Trace,
    make_state: Box<dyn Fn(NodeId) -> S>,
}

/// How long the world goes on at a time, in microseconds.
pub(super) const STEP_MICROS: u64 = 1000;

/// Nodes without a connection try to make one each time so much has passed.
const CONNECT_MICROS: u64 = 50_000;

impl<S: StateMachine> World<S> {
    /// Nodes 1 to n, all up. `make_state` gives a state machine at its beginning, at each start of a node.
    pub fn new(
        seed: u64,
        nodes: u64,
        settings: Settings,
        make_state: impl Fn(NodeId) -> S + 'static,
    ) -> World<S> {
        let disks = (1..=nodes).map(|_| SimDisk::new()).collect();
        World::on_disks(seed, disks, settings, make_state)
    }

    /// Nodes 1 to n that find these on their disks, all started. Those that cannot start are among those that
    /// [ended](World::take_ended).
    pub fn on_disks(
        seed: u64,
        disks: Vec<SimDisk>,
        settings: Settings,
        make_state: impl Fn(NodeId) -> S + 'static,
    ) -> World<S> {
        let mut world = World {
            rng: fastrand::Rng::with_seed(seed),
            now: 0,
            machines: BTreeMap::new(),
            network: SimNetwork::default(),
            settings,
            connected: BTreeSet::new(),
            power_cuts: 0,
            votes: BTreeMap::new(),
            strangers: BTreeSet::new(),
            history: History::default(),
            ended: Vec::new(),
            trace: Trace::default(),
            make_state: Box::new(make_state),
        };
        let voters: Vec<NodeId> = (1..=disks.len() as u64).map(NodeId).collect();
        for (id, disk) in voters.iter().zip(disks) {
            world.add_machine(*id, disk, voters.clone());
        }
        voters.into_iter().for_each(|id| world.start(id));
        world
    }

    fn add_machine(&mut self, id: NodeId, disk: SimDisk, voters: Vec<NodeId>) {
        disk.seed_random(self.rng.u64(..));
        let before = self.machines.insert(id, Machine::new(id, disk, voters));
        assert!(before.is_none(), "there is a node {id} already");
    }

    /// Adds a machine with an empty disk, for a node that is to join the cluster, and starts it.
    pub fn join(&mut self, id: NodeId) {
        self.add_machine(id, SimDisk::new(), Vec::new());
        self.start(id);
    }

    /// All nodes there ever were.
    pub fn ids(&self) -> Vec<NodeId> {
        self.machines.keys().copied().collect()
    }

    /// Whether a node's process is there.
    pub fn is_up(&self, id: NodeId) -> bool {
        self.machines[&id].is_up()
    }

    /// A node whose process is there, to look at.
    pub fn node(&self, id: NodeId) -> Option<&SimNode<S>> {
        self.machines[&id].node()
    }

    /// The nodes whose processes are there.
    pub fn nodes(&self) -> impl Iterator<Item = &SimNode<S>> {
        self.machines.values().filter_map(Machine::node)
    }

    /// How they see themselves.
    pub fn statuses(&self) -> Vec<Status> {
        self.nodes().map(SimNode::status).collect()
    }

    /// The leader, if there is one that none of its members knows to be deposed.
    pub fn leader(&self) -> Option<NodeId> {
        let leading = self.nodes().filter(|node| node.raft().is_leader());
        let newest = leading.max_by_key(|node| node.raft().term())?;
        let (term, members) = (newest.raft().term(), newest.raft().membership().all());
        let is_known = |id: &NodeId| self.node(*id).is_none_or(|node| node.raft().term() <= term);
        members.iter().all(is_known).then(|| newest.raft().id())
    }

    /// How often the power of a machine went.
    pub fn power_cuts(&self) -> u64 {
        self.power_cuts
    }

    /// How many terms had a leader.
    pub fn leaders_seen(&self) -> u64 {
        self.history.leaders().len() as u64
    }

    /// Since the beginning.
    pub fn now(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    pub(super) fn now_micros(&self) -> u64 {
        self.now
    }

    /// What time it is for a node: what it would stamp into the log.
    pub fn log_time(&self, id: NodeId) -> LogTime {
        self.machines[&id].clock.log_time()
    }

    /// What all nodes have done so far.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.machines
            .values()
            .for_each(|machine| totals.add(machine.totals()));
        totals
    }

    /// What went over the network so far.
    pub fn traffic(&self) -> Traffic {
        self.network.traffic
    }

    /// The disk of a machine.
    pub fn disk(&self, id: NodeId) -> &SimDisk {
        &self.machines[&id].disk
    }

    fn machine(&mut self, id: NodeId) -> &mut Machine<S> {
        self.machines.get_mut(&id).expect("a node of the cluster")
    }
}

/// Processes and machines.
impl<S: StateMachine> World<S> {
    /// Starts a node that is down. If it cannot start, it is among those that [ended](World::take_ended).
    pub fn start(&mut self, id: NodeId) {
        let seed = self.rng.u64(..);
        let state = (self.make_state)(id);
        let settings = self.settings.clone();
        if let Err(error) = self.machine(id).start(&settings, seed, state) {
            self.bury(id, error);
        }
        self.note(Event::Started(id));
    }

    /// The process ends, at once. What it wrote is there.
    pub fn kill(&mut self, id: NodeId) {
        self.note(Event::Killed(id));
        self.disconnect(id);
        self.machine(id).kill();
    }

    /// The power goes, at once. What was not synced is there, or not, or torn.
    pub fn cut_power(&mut self, id: NodeId) {
        self.note(Event::PowerCut(id));
        self.power_cuts += 1;
        self.disconnect(id);
        let seed = self.rng.u64(..);
        self.machine(id).cut_power(seed);
    }

    /// The power goes in the middle of one of the next operations of the disk, if it makes any.
    pub fn cut_power_soon(&mut self, id: NodeId) {
        let operations = self.rng.u64(..8);
        self.cut_power_after(id, operations);
    }

    /// The power goes in the middle of the operation of the disk that comes after so many others.
    pub fn cut_power_after(&mut self, id: NodeId, operations: u64) {
        self.machine(id).cut_power_after(operations);
    }

    /// Whether the power of any machine is about to go.
    pub fn is_power_failing(&self) -> bool {
        self.machines.values().any(Machine::is_power_failing)
    }

    /// A process stands still for a while, and does not notice.
    pub fn pause(&mut self, id: NodeId, time: Duration) {
        self.note(Event::Paused(id));
        let until = self.now + micros(time);
        self.machine(id).pause(until);
    }

    /// A node's clock jumps ahead: so much time has passed for it at once, as for one that was asleep.
    pub fn jump_clock(&mut self, id: NodeId, time: Duration) {
        self.machine(id).jump(micros(time));
    }

    /// A node's clock is set ahead, or back: what time it is for it changes, and not how much time has passed.
    pub fn set_clock(&mut self, id: NodeId, millis: i64) {
        self.note(Event::Said(format!("{id} sets its clock by {millis} ms")));
        self.machine(id).set_clock(millis);
    }

    /// No write of the disk ends for a while.
    pub fn stall_disk(&mut self, id: NodeId, time: Duration) {
        self.note(Event::Stalled(id));
        let until = self.now + micros(time);
        self.machine(id).disk_time.stalled_until = until;
    }

    /// What applies is busy with something else for a while, as with a large state that it reads from a snapshot.
    pub fn stall_applier(&mut self, id: NodeId, time: Duration) {
        self.note(Event::Said(format!("{id} applies nothing")));
        let until = self.now + micros(time);
        self.machine(id).stall_applier(until);
    }

    /// The disk has only so much space left, or enough again.
    pub fn set_free_bytes(&mut self, id: NodeId, bytes: Option<u64>) {
        self.note(Event::Said(match bytes {
            Some(bytes) => format!("{id} has {bytes} bytes left"),
            None => format!("{id} has space"),
        }));
        self.disk(id).set_free_bytes(bytes);
    }

    /// How long a sync takes from now on, at the most.
    pub fn set_sync_time(&mut self, id: NodeId, time: Duration) {
        self.machine(id).disk_time.sync = micros(time).max(1);
    }

    /// Power and disks are reliable from now on.
    pub fn stop_failing(&mut self) {
        for id in self.ids() {
            if self.machine(id).is_power_failing() {
                self.cut_power(id); // Now or never.
            }
            self.machine(id).stop_failing();
        }
    }

    /// An empty disk takes the place of a machine's, whose process is down. It draws other numbers.
    pub fn empty_disk(&mut self, id: NodeId) {
        self.note(Event::Emptied(id));
        let disk = SimDisk::new();
        disk.seed_random(self.rng.u64(..));
        self.machine(id).replace_disk(disk);
    }

    /// An earlier state of the disk takes its place: a backup, as it were. The process must be down.
    pub fn set_back_disk(&mut self, id: NodeId, backup: SimDisk) {
        self.note(Event::SetBack(id));
        backup.seed_random(self.rng.u64(..));
        self.machine(id).replace_disk(backup);
    }

    /// The disk of a node of the same number in another cluster takes its place. Nothing is asked of that node, but that it is
    /// refused. The process must be down.
    pub fn exchange_disk(&mut self, id: NodeId, other: SimDisk) {
        self.strangers.insert(id);
        self.set_back_disk(id, other);
    }

    /// The processes that ended by themselves, or could not start, since this was asked.
    pub fn take_ended(&mut self) -> Vec<(NodeId, Error)> {
        std::mem::take(&mut self.ended)
    }

    fn disconnect(&mut self, id: NodeId) {
        self.connected
            .retain(|(one, other)| *one != id && *other != id);
    }

    /// A process has ended by itself.
    fn bury(&mut self, id: NodeId, error: Error) {
        if self.machine(id).is_power_failing() {
            return self.lose_power(id);
        }
        self.disconnect(id);
        self.machine(id).kill();
        self.note(Event::Ended(id, error.to_string()));
        self.ended.push((id, error));
    }

    /// The power that was about to go has gone.
    fn lose_power(&mut self, id: NodeId) {
        self.disconnect(id);
        let seed = self.rng.u64(..);
        self.machine(id).cut_power(seed);
        self.power_cuts += 1;
        self.note(Event::PowerCut(id));
    }
}

/// The network.
impl<S: StateMachine> World<S> {
    /// How bad the network is from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.network.faults = faults;
    }

    /// Cuts a link, one way.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        self.note(Event::Cut(from, to));
        self.network.cut(from, to);
    }

    /// Cuts a node off from all others.
    pub fn isolate(&mut self, id: NodeId) {
        self.note(Event::Isolated(id));
        for other in self.ids() {
            self.network.cut(id, other);
            self.network.cut(other, id);
        }
    }

    /// Mends all links of a node.
    pub fn connect(&mut self, id: NodeId) {
        for other in self.ids() {
            self.network.mend(id, other);
            self.network.mend(other, id);
        }
    }

    /// Mends all links.
    pub fn heal_links(&mut self) {
        self.note(Event::Healed);
        self.network.heal();
    }
}

/// Time.
impl<S: StateMachine> World<S> {
    /// Lets all nodes do at once what their state machines have to do: after a start, read their states.
    pub fn work(&mut self) {
        let nodes = self.machines.values_mut().filter_map(Machine::node_mut);
        nodes.for_each(SimNode::work);
    }

    /// Gives an input to a node. Says whether it was up.
    pub fn give(&mut self, id: NodeId, input: Input<S>) -> bool {
        if !self.is_up(id) {
            return false;
        }
        self.machine(id).give(input);
        self.turn(id); // It may die of it, and have done what it was given.
        true
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + micros(time);
        while self.now < end {
            self.step();
        }
    }

    /// Lets time pass until something is so. Says whether it is, in that time.
    pub fn run_until(&mut self, time: Duration, is_so: impl Fn(&World<S>) -> bool) -> bool {
        let end = self.now + micros(time);
        while !is_so(self) {
            if self.now >= end {
                return false;
            }
            self.step();
        }
        true
    }

    /// Lets a millisecond pass.
    ///
    /// # Panics
    /// If a property of the paper's figure 3 does not hold, or a node votes twice in a term.
    pub fn step(&mut self) {
        self.now += STEP_MICROS;
        if self.now.is_multiple_of(CONNECT_MICROS) {
            self.connect_all();
        }
        while let Some(packet) = self.network.arrived(self.now) {
            let to = packet.to();
            if self.is_up(to) {
                self.trace.note(self.now, || Event::Arrived(packet.clone()));
                self.give(to, Input::Packet(packet));
            }
        }
        for id in self.ids() {
            self.turn(id);
        }
        for id in self.ids() {
            if self.machine(id).has_lost_power() {
                self.lose_power(id); // While it met another node.
            }
        }
        self.check_invariants();
    }

    fn turn(&mut self, id: NodeId) {
        let now = self.now;
        let machine = self.machines.get_mut(&id).expect("a node of the cluster");
        match machine.turn(now, &mut self.rng) {
            Ok(_) if machine.has_lost_power() => self.lose_power(id), // The node takes it for a disk that failed.
            Ok(sent) => sent.into_iter().for_each(|packet| self.send(packet)),
            Err(error) => self.bury(id, error),
        }
    }

    fn send(&mut self, packet: Packet) {
        self.check_vote(&packet);
        let (from, to) = (packet.from(), packet.to());
        let is_reached = !self.network.is_cut(from, to) && self.machines.contains_key(&to);
        if is_reached && self.are_connected(from, to) {
            self.network.send(&mut self.rng, self.now, &packet);
        }
    }

    /// Nodes connect to all others they know by themselves, and try again and again.
    fn connect_all(&mut self) {
        let ids = self.ids();
        for &one in &ids {
            for &other in ids.iter().filter(|other| **other < one) {
                let _ = !self.network.is_cut(one, other) && self.are_connected(one, other);
            }
        }
    }

    /// Whether the two have a connection, or can make one.
    fn are_connected(&mut self, one: NodeId, other: NodeId) -> bool {
        let (Some(a), Some(b)) = (self.node(one), self.node(other)) else {
            return false;
        };
        if self.connected.contains(&(one, other)) {
            return true;
        }
        if self.network.is_cut(other, one) {
            return false;
        }
        let (from_a, from_b) = (a.introduction(), b.introduction());
        let by_b = self.admit(other, &from_a);
        let by_a = self.admit(one, &from_b);
        let is_mutual = by_a && by_b;
        // A node that has not begun yet comes again: the other one may know more by then.
        if is_mutual && !from_a.is_blank && !from_b.is_blank {
            self.connected.extend([(one, other), (other, one)]);
        }
        is_mutual
    }

    /// Shows an introduction to a node. If it does not like it, the other one is told.
    fn admit(&mut self, id: NodeId, introduction: &Introduction) -> bool {
        let node = self.machine(id).node_mut().expect("it is up");
        let Err(refusal) = node.admit(introduction) else {
            return true;
        };
        let by_uuid = node.introduction().uuid;
        let refused = introduction.from;
        self.note(Event::Refused(refused, refusal.to_string()));
        if let Some(node) = self.machine(refused).node_mut() {
            node.refused(id, by_uuid, refusal);
        }
        false
    }

    fn note(&mut self, event: Event) {
        self.trace.note(self.now, || event);
    }

    /// How the nodes are, a line for each.
    pub(super) fn describe(&self) -> String {
        let lines = self.machines.values().map(|machine| match machine.node() {
            None => format!("{}: down\n", machine.id),
            Some(node) => {
                let (status, raft) = (node.status(), node.raft());
                let (base, last) = (raft.base(), raft.last());
                let bad = raft.bad_entries().count();
                format!(
                    "{}: term {}, leader {:?}, log {base} to {last}, {bad} bad, lacks state: {}, commit {}, applied {}, {:?}\n",
                    status.id,
                    status.term,
                    status.leader,
                    raft.lacks_state(),
                    status.commit,
                    status.applied,
                    raft.membership()
                )
            }
        });
        lines.collect()
    }

    /// Notes something in the trace.
    pub(super) fn say(&mut self, what: String) {
        self.note(Event::Said(what));
    }
}

/// What holds at any time.
impl<S: StateMachine> World<S> {
    /// The five properties of figure 3.
    fn check_invariants(&mut self) {
        let nodes: Vec<invariants::Node<'_>> = self
            .machines
            .values()
            .filter(|machine| !self.strangers.contains(&machine.id))
            .filter_map(Machine::node)
            .map(|node| invariants::Node {
                raft: node.raft(),
                applied: &[], // What is applied is handed out as committed.
            })
            .collect();
        if let Err(violation) = invariants::check(&mut self.history, &nodes) {
            panic!("{violation}");
        }
    }

    /// Nobody votes twice in a term, across restarts too.
    fn check_vote(&mut self, packet: &Packet) {
        let Packet::Raft(envelope) = packet else {
            return;
        };
        let candidate = match envelope.message {
            Message::Vote { granted: true } => envelope.to,
            Message::RequestVote { .. } => envelope.from,
            _ => return,
        };
        let vote = (envelope.from, envelope.term);
        let first = *self.votes.entry(vote).or_insert(candidate);
        let (voter, term) = vote;
        assert_eq!(first, candidate, "{voter} votes twice in term {term}");
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
