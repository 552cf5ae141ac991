//! Tests of the core: a few nodes in memory, with messages that the test delivers, drops or holds back.
//!
//! `PAPER.md` says which test holds the core to which claim of the paper, and which one catches which fault.

mod disk;
mod disturbance;
mod election;
mod figure8;
mod follower_reads;
mod invariants;
mod joining;
mod membership;
mod paper;
mod quorum;
mod random;
mod random_node;
mod reads;
mod repair;
mod replication;
mod settle;
mod snapshot;
mod stall;
mod unread;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use duramen_wal::types::{Entry, HardState, Index, LogId, NodeId, Term};

use super::{
    Badness, Config, Envelope, Membership, Raft, ReadReply, Ready, Restored, Write, is_command,
};

pub(super) fn id(term: u64, index: u64) -> LogId {
    LogId {
        term: Term(term),
        index: Index(index),
    }
}

pub(super) fn entry(term: u64, index: u64, payload: &'static str) -> Entry {
    Entry {
        id: id(term, index),
        payload: Bytes::from_static(payload.as_bytes()),
        ..Entry::default()
    }
}

/// Node `node` of nodes 1 to n, with the elections of the paper alone.
pub(super) fn as_in_the_paper(node: u64, nodes: u64) -> Config {
    let mut config = Config::new(NodeId(node), (1..=nodes).map(NodeId));
    config.pre_vote = false;
    config.check_quorum = false;
    config
}

/// A node with what is on its disk and what it applied.
struct TestNode {
    raft: Option<Raft>,
    hard_state: HardState,
    log: Vec<Entry>,
    /// What of the log is bad on its disk.
    bad: BTreeMap<Index, Badness>,
    applied: Vec<Entry>,
    reads: Vec<ReadReply>,
    dropped: Vec<LogId>,
    starts: u64,
}

impl TestNode {
    /// In the term of its last entry.
    fn new(log: Vec<Entry>) -> TestNode {
        let term = log.last().map_or(Term(0), |entry| entry.id.term);
        TestNode {
            raft: None,
            hard_state: HardState {
                term,
                voted_for: None,
                ..HardState::default()
            },
            log,
            bad: BTreeMap::new(),
            applied: Vec::new(),
            reads: Vec::new(),
            dropped: Vec::new(),
            starts: 0,
        }
    }

    fn raft(&mut self) -> &mut Raft {
        self.raft.as_mut().expect("the node is up")
    }

    fn write(&mut self, write: &Write) {
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        for entry in &write.repairs {
            assert_eq!(
                self.log[entry.id.index.0 as usize - 1],
                *entry,
                "another entry"
            );
            assert!(
                self.bad.remove(&entry.id.index).is_some(),
                "{} is whole",
                entry.id
            );
        }
        if let Some(first) = write.entries.first() {
            self.bad.split_off(&first.id.index);
            let suspect = self
                .bad
                .values()
                .any(|badness| *badness == Badness::Suspect);
            assert!(!suspect, "an entry after a suspect one");
            self.log.truncate((first.id.index.0 - 1) as usize);
            self.log.extend(write.entries.iter().cloned());
        }
    }
}

/// Nodes 1 to n, which begin as voters, and those that join. A node that is down, and a link that is cut, loses its messages.
pub(super) struct Cluster {
    nodes: BTreeMap<u64, TestNode>,
    /// Who belongs to the cluster at the beginning of the log, as its members know it.
    membership: Membership,
    /// With pre-votes and a leader that checks its quorum: what practice has added to elections.
    is_disturbed_by_nobody: bool,
    down: BTreeSet<u64>,
    /// Links that are cut, as (from, to).
    cut: BTreeSet<(u64, u64)>,
    queue: VecDeque<Envelope>,
    /// The leader that each term has had: never two (5.2, Election Safety).
    leaders: BTreeMap<Term, u64>,
}

impl Cluster {
    pub(super) fn new(nodes: u64) -> Cluster {
        let logs = (1..=nodes).map(|node| (node, Vec::new()));
        Cluster::with_logs(logs)
    }

    /// The same, with what practice has added to elections.
    pub(super) fn undisturbed(nodes: u64) -> Cluster {
        let mut cluster = Cluster::new(0);
        cluster.is_disturbed_by_nobody = true;
        cluster.begin(Membership::of_voters((1..=nodes).map(NodeId)));
        cluster
    }

    /// The voters of this membership, with the elections of the paper alone.
    pub(super) fn with_membership(membership: Membership) -> Cluster {
        let mut cluster = Cluster::new(0);
        cluster.begin(membership);
        cluster
    }

    fn begin(&mut self, membership: Membership) {
        let voters: Vec<NodeId> = membership.voters().collect();
        self.membership = membership;
        voters.iter().for_each(|voter| self.join(voter.0));
    }

    /// Nodes that start with these logs, each in the term of its last entry.
    pub(super) fn with_logs(logs: impl IntoIterator<Item = (u64, Vec<Entry>)>) -> Cluster {
        let nodes = logs
            .into_iter()
            .map(|(node, log)| (node, TestNode::new(log)));
        let nodes: BTreeMap<_, _> = nodes.collect();
        let mut cluster = Cluster {
            membership: Membership::of_voters(nodes.keys().copied().map(NodeId)),
            is_disturbed_by_nobody: false,
            nodes,
            down: BTreeSet::new(),
            cut: BTreeSet::new(),
            queue: VecDeque::new(),
            leaders: BTreeMap::new(),
        };
        for node in cluster.ids() {
            cluster.start(node);
        }
        cluster
    }

    pub(super) fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub(super) fn start(&mut self, node: u64) {
        let mut config = as_in_the_paper(node, 0);
        if self.membership.is_voter(NodeId(node)) {
            config.membership = self.membership.clone(); // Who joins knows nobody.
        }
        config.pre_vote = self.is_disturbed_by_nobody;
        config.check_quorum = self.is_disturbed_by_nobody;
        let state = self.nodes.get_mut(&node).unwrap();
        state.applied.clear();
        config.seed += 1000 * state.starts; // Another one at each start.
        state.starts += 1;
        let restored = Restored {
            hard_state: state.hard_state,
            log: state.log.clone(),
            bad: state.bad.clone(),
            ..Restored::default()
        };
        state.raft = Some(Raft::restart(config, restored));
        self.down.remove(&node);
    }

    /// Starts a node anew, with entries that are bad on its disk.
    pub(super) fn restart_with_bad(&mut self, node: u64, bad: &[(u64, Badness)]) {
        let state = self.nodes.get_mut(&node).unwrap();
        state.bad = bad
            .iter()
            .map(|&(index, badness)| (Index(index), badness))
            .collect();
        self.start(node);
    }

    /// What is bad on a node's disk.
    pub(super) fn bad(&self, node: u64) -> Vec<u64> {
        self.nodes[&node].bad.keys().map(|index| index.0).collect()
    }

    /// What a node has dropped as torn.
    pub(super) fn dropped(&self, node: u64) -> &[LogId] {
        &self.nodes[&node].dropped
    }

    /// Starts a node that belongs to nobody yet.
    pub(super) fn join(&mut self, node: u64) {
        self.nodes.insert(node, TestNode::new(Vec::new()));
        self.start(node);
    }

    /// Makes learners of nodes that have joined, and lets them catch up.
    pub(super) fn learn(&mut self, leader: u64, learners: &[u64]) {
        for learner in learners {
            self.change(leader, |membership| {
                membership.with_learner(NodeId(*learner))
            });
        }
    }

    /// Changes the membership, and lets all members learn of it.
    pub(super) fn change(&mut self, leader: u64, change: impl Fn(Membership) -> Membership) {
        let target = change(self.raft(leader).membership().clone());
        self.raft(leader).change_membership(target).unwrap();
        self.deliver();
        self.heartbeat(leader);
    }

    /// Everything in memory is gone; what was durable stays.
    pub(super) fn crash(&mut self, node: u64) {
        self.nodes.get_mut(&node).unwrap().raft = None;
        self.down.insert(node);
    }

    /// Cuts a node off from all others, or connects it again.
    pub(super) fn connect(&mut self, node: u64, connected: bool) {
        for other in self.ids() {
            for link in [(node, other), (other, node)] {
                match connected {
                    true => self.cut.remove(&link),
                    false => self.cut.insert(link),
                };
            }
        }
    }

    pub(super) fn raft(&mut self, node: u64) -> &mut Raft {
        self.nodes.get_mut(&node).unwrap().raft()
    }

    pub(super) fn log(&self, node: u64) -> &[Entry] {
        &self.nodes[&node].log
    }

    pub(super) fn applied(&self, node: u64) -> Vec<&str> {
        let applied = self.nodes[&node].applied.iter();
        let commands = applied.filter(|entry| is_command(entry));
        commands
            .map(|entry| std::str::from_utf8(&entry.payload).unwrap())
            .collect()
    }

    pub(super) fn reads(&self, node: u64) -> &[ReadReply] {
        &self.nodes[&node].reads
    }

    /// Does what a node asks for: makes its write durable, queues its messages.
    pub(super) fn settle(&mut self, node: u64) {
        loop {
            let ready = self.raft(node).ready();
            if ready.is_empty() {
                break;
            }
            self.carry_out(node, ready);
        }
        let raft = self.raft(node);
        if raft.is_leader() {
            let term = raft.term();
            let leader = *self.leaders.entry(term).or_insert(node);
            assert_eq!(leader, node, "two leaders in term {term}");
        }
    }

    fn carry_out(&mut self, node: u64, ready: Ready) {
        self.queue.extend(ready.send_now);
        let state = self.nodes.get_mut(&node).unwrap();
        if let Some(write) = &ready.write {
            state.write(write);
            state.raft().durable(write.id);
        }
        state.applied.extend(ready.committed);
        state.reads.extend(ready.reads);
        state.dropped.extend(ready.dropped);
        self.queue.extend(ready.send_when_durable);
        self.check_applied();
    }

    /// Figure 3, State Machine Safety.
    fn check_applied(&self) {
        for (a, one) in &self.nodes {
            for (b, other) in &self.nodes {
                let both = one.applied.iter().zip(&other.applied);
                both.for_each(|(x, y)| {
                    assert_eq!(x, y, "nodes {a} and {b} applied different entries")
                });
            }
        }
    }

    /// Delivers messages until none is left.
    pub(super) fn deliver(&mut self) {
        for node in self.up() {
            self.settle(node);
        }
        while let Some(envelope) = self.queue.pop_front() {
            self.deliver_one(envelope);
        }
    }

    fn deliver_one(&mut self, envelope: Envelope) {
        let (from, to) = (envelope.from.0, envelope.to.0);
        if self.down.contains(&to) || self.cut.contains(&(from, to)) {
            return;
        }
        let _ = self.raft(to).step(envelope);
        self.settle(to);
    }

    /// The messages that are under way. They are lost.
    pub(super) fn take_messages(&mut self) -> Vec<Envelope> {
        self.queue.drain(..).collect()
    }

    fn up(&self) -> Vec<u64> {
        let ids = self.ids().into_iter();
        ids.filter(|node| !self.down.contains(node)).collect()
    }

    /// Lets time pass for one node until it campaigns, and delivers the messages.
    pub(super) fn elect(&mut self, node: u64) {
        let term = self.raft(node).term();
        while self.raft(node).term() == term {
            self.raft(node).tick();
        }
        self.deliver();
        assert!(self.raft(node).is_leader(), "node {node} was not elected");
    }

    /// Lets one unit of time pass for all nodes, and delivers the messages.
    pub(super) fn tick(&mut self) {
        for node in self.up() {
            self.raft(node).tick();
        }
        self.deliver();
    }

    /// Lets time pass until there is one leader that all connected nodes follow.
    pub(super) fn leader(&mut self) -> u64 {
        for _ in 0..1000 {
            self.tick();
            let leaders: Vec<u64> = self
                .up()
                .into_iter()
                .filter(|&node| self.raft(node).is_leader())
                .collect();
            if let [leader] = leaders[..] {
                return leader;
            }
        }
        panic!("no leader after 1000 ticks");
    }

    /// Proposes at a leader and delivers the messages, then lets the followers learn of the commit.
    pub(super) fn propose(&mut self, leader: u64, command: &'static str) -> LogId {
        let id = self
            .raft(leader)
            .propose(Bytes::from_static(command.as_bytes()))
            .unwrap();
        self.deliver();
        id
    }

    /// Lets a heartbeat go round.
    pub(super) fn heartbeat(&mut self, leader: u64) {
        for _ in 0..5 {
            self.raft(leader).tick();
        }
        self.deliver();
    }
}
