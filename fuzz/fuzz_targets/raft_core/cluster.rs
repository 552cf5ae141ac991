//! Four nodes, and the messages between them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use duramen::raft::invariants::{self, History};
use duramen::raft::{Config, Envelope, Ignored, Membership, Raft, ReadId, Ready, SnapshotFate};
use duramen::wal::{Index, LogId, NodeId, Term};

use super::count;
use super::input::{Crash, Event, Fate, Input, Space, Step};
use super::node::Node;

const NODES: u64 = 4;
const IN_FLIGHT_MAX: usize = 100;

pub(crate) struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    network: VecDeque<Envelope>,
    /// Who belongs to it at the beginning of the log.
    membership: Membership,
    is_undisturbed: bool,
    seed: u64,
    /// A node has heard what nobody said: from now on there are no promises but not to panic.
    was_lied_to: bool,
    history: History,
    /// The numbers of commands and reads.
    clock: u64,
}

impl Cluster {
    pub(crate) fn new(input: &Input) -> Cluster {
        let mut membership = Membership::of_voters((1..NODES).map(NodeId));
        if input.has_learner {
            membership = membership.with_learner(NodeId(NODES));
        }
        let mut cluster = Cluster {
            nodes: ids().map(|id| (id, Node::default())).collect(),
            network: VecDeque::new(),
            membership,
            is_undisturbed: input.is_undisturbed,
            seed: input.seed.into(),
            was_lied_to: false,
            history: History::default(),
            clock: 0,
        };
        ids().for_each(|id| cluster.start(id));
        cluster
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("one of the four")
    }

    fn start(&mut self, id: NodeId) {
        let mut config = Config::new(id, []);
        if self.membership.all().contains(&id) {
            config.membership = self.membership.clone(); // Who joins knows nobody.
        }
        config.pre_vote = self.is_undisturbed;
        config.check_quorum = self.is_undisturbed;
        (config.heartbeat_ticks, config.election_ticks) = (2, 8);
        (config.append_bytes_max, config.window_entries) = (100, 6);
        (config.window_bytes, config.keep_bytes) = (200, 300);
        config.offer_ticks = 20;
        self.seed += 1;
        config.seed = self.seed;
        let node = self.node(id);
        let (restored, membership) = node.disk.restored();
        node.applied = restored.base;
        config.membership = membership.unwrap_or(config.membership);
        node.raft = Some(Raft::restart(config, restored));
    }

    fn crash(&mut self, id: NodeId, crash: Crash) {
        let may_look_torn = self.was_lied_to;
        let node = self.node(id);
        if node.raft.is_some() {
            let [torn, damaged] = node.crash(crash, may_look_torn);
            count("crashes", 1);
            count("torn", torn as u64);
            count("damaged", damaged as u64);
        }
    }

    pub(crate) fn step(&mut self, step: Step) {
        let leader = self.leader().filter(|_| step.at_leader);
        let id = leader.unwrap_or(NodeId(u64::from(step.node) + 1));
        match step.event {
            Event::Calm { among, rounds } => self.calm(among, rounds),
            Event::Busy { commands } => self.be_busy(commands),
            Event::PowerCut(crash) => {
                ids().for_each(|id| self.crash(id, crash));
                self.network.clear();
            }
            Event::Deliver { at, fate } => self.deliver_one(at, &fate),
            Event::Distort { at, from, term } => self.distort(id, at, from, term),
            Event::Start if self.node(id).raft.is_none() => self.start(id),
            event => self.happen(id, event),
        }
        if !step.shares_ready {
            self.carry_out(id);
        }
    }

    /// What happens to a node that is up.
    fn happen(&mut self, id: NodeId, event: Event) {
        self.clock += 1;
        let (clock, committed) = (self.clock, self.committed());
        let node = self.node(id);
        let Some(raft) = &mut node.raft else {
            return;
        };
        match event {
            Event::Tick(ticks) => {
                (0..=ticks).for_each(|_| raft.tick());
                node.end_reading();
            }
            Event::Complete(writes) => self.complete(id, writes.into()),
            Event::Crash(crash) => self.crash(id, crash),
            Event::Propose { count, bytes } => (0..=count).for_each(|n| {
                let mut command = format!("{clock} {n} ").into_bytes();
                command.resize(command.len() + usize::from(bytes), b'x');
                let _ = raft.propose(command.into());
            }),
            Event::Read => {
                if raft.read(ReadId(clock)).is_ok() {
                    node.reads.insert(ReadId(clock), committed);
                }
            }
            Event::Space { space, is_known } => {
                node.space = space;
                if is_known {
                    raft.set_disk_full(space != Space::Enough);
                }
            }
            Event::FailDisk => {
                node.writes.clear();
                raft.disk_failed();
                count("failed disks", 1);
            }
            Event::Change { roles } => {
                let changed = raft.change_membership(target(roles));
                count("changes", changed.is_ok().into());
            }
            Event::Transfer { to } => {
                let _ = raft.transfer_leadership(NodeId(u64::from(to % 5) + 1));
            }
            Event::TakeSnapshot { keep } => self.take_snapshot(id, keep),
            Event::InstallSnapshot => self.install(id),
            Event::Forge(envelope) => self.lie(Envelope { to: id, ..envelope }),
            _ => {}
        }
        self.check(id);
    }

    /// Takes a snapshot of what was applied, and gives up some of the log.
    fn take_snapshot(&mut self, id: NodeId, keep: Option<u8>) {
        let node = self.node(id);
        let (raft, last) = (node.raft.as_mut().expect("it is up"), node.applied);
        if last.index < raft.first() {
            return;
        }
        let _ = raft.snapshot_taken(last.index, Bytes::new());
        node.disk
            .put_snapshot(last, raft.membership_at(last.index).clone());
        raft.compact(match keep {
            Some(keep) => Index(last.index.0.saturating_sub(keep.into())),
            None => raft.compactable(),
        });
        count("snapshots", 1);
    }

    /// The snapshot that a node was offered, perhaps long ago, is durable there.
    fn install(&mut self, id: NodeId) {
        let known = |last: LogId| self.history.committed_at(last.index) == Some(last);
        let node = self.nodes.get_mut(&id).expect("one of the four");
        let (Some(raft), Some(offer)) = (&mut node.raft, node.offer.take()) else {
            return;
        };
        let last = offer.last;
        assert!(self.was_lied_to || known(last), "{id} installs {last}");
        if raft.snapshot_installed(&offer) == SnapshotFate::Newest {
            let goes_on = last.index > node.applied.index || node.disk.lost_snapshot();
            assert!(goes_on, "{id} goes back to {last}");
            node.disk.put_snapshot(last, offer.membership);
            node.applied = last;
            count("installed", 1);
        }
    }

    /// Nothing fails, and the others are cut off.
    fn calm(&mut self, among: u8, rounds: u8) {
        let is_in = |id: NodeId| among == 0 || among >> (id.0 - 1) & 1 == 1;
        for id in ids().filter(|id| is_in(*id)) {
            if self.node(id).raft.is_none() {
                self.start(id);
            }
        }
        for _ in 0..=rounds {
            for id in ids().filter(|id| is_in(*id)) {
                self.happen(id, Event::Tick(0));
                self.settle_down(id);
            }
            for envelope in std::mem::take(&mut self.network) {
                if is_in(envelope.to) && is_in(envelope.from) {
                    let to = envelope.to;
                    self.deliver(envelope);
                    self.settle_down(to);
                }
            }
        }
    }

    fn be_busy(&mut self, commands: u8) {
        if let Some(leader) = self.leader() {
            let (count, bytes) = (commands, commands);
            self.happen(leader, Event::Propose { count, bytes });
            self.carry_out(leader);
            for envelope in std::mem::take(&mut self.network) {
                let to = envelope.to;
                self.deliver(envelope);
                self.carry_out(to);
            }
        }
    }

    /// All that a node wants done is done.
    fn settle_down(&mut self, id: NodeId) {
        loop {
            self.carry_out(id);
            let node = self.node(id);
            match (node.writes.is_empty(), node.offer.is_none()) {
                (false, _) => self.complete(id, usize::MAX),
                (true, false) => self.happen(id, Event::InstallSnapshot),
                (true, true) => return,
            }
        }
    }

    fn deliver_one(&mut self, at: u8, fate: &Fate) {
        let at = usize::from(at) % self.network.len().max(1);
        let Some(envelope) = self.network.remove(at) else {
            return;
        };
        if *fate == Fate::ArrivesAgain {
            self.network.push_back(envelope.clone());
        }
        if *fate != Fate::Lost {
            let to = envelope.to;
            self.deliver(envelope);
            self.carry_out(to);
        }
    }

    fn deliver(&mut self, envelope: Envelope) {
        let to = envelope.to;
        if let Some(raft) = self.nodes.get_mut(&to).and_then(|node| node.raft.as_mut()) {
            let taken = raft.step(envelope);
            count("nonsense", (taken == Err(Ignored::Nonsense)).into());
            self.check(to);
        }
    }

    fn lie(&mut self, envelope: Envelope) {
        self.was_lied_to = true;
        count("lies", 1);
        self.deliver(envelope);
    }

    fn distort(&mut self, to: NodeId, at: u8, from: Option<u64>, term: Option<u64>) {
        let at = usize::from(at) % self.network.len().max(1);
        if let Some(envelope) = self.network.get(at).cloned() {
            self.lie(Envelope {
                from: from.map_or(envelope.from, NodeId),
                term: term.map_or(envelope.term, Term),
                to,
                ..envelope
            });
        }
    }

    /// The one of the latest term.
    fn leader(&self) -> Option<NodeId> {
        let up = self.nodes.values().filter_map(|node| node.raft.as_ref());
        let latest = up
            .filter(|raft| raft.is_leader())
            .max_by_key(|raft| raft.term());
        latest.map(Raft::id)
    }

    fn carry_out(&mut self, id: NodeId) {
        while let Some(raft) = &mut self.node(id).raft {
            let ready = raft.ready();
            if ready.is_empty() {
                break;
            }
            self.take(id, ready);
        }
        if !self.node(id).applied_now.is_empty() {
            self.check(id);
        }
    }

    fn take(&mut self, id: NodeId, mut ready: Ready) {
        self.send(ready.send_now);
        let promises = !self.was_lied_to;
        let node = self.node(id);
        if let Some(refused) = ready.write.take_if(|write| !node.takes(write)) {
            let held = std::mem::take(&mut ready.send_when_durable);
            let raft = node.raft.as_mut().expect("it has just asked for this");
            raft.write_refused(&refused, held);
            count("refused", 1);
        }
        if ready.write.is_some() || !ready.send_when_durable.is_empty() {
            node.writes
                .push_back((ready.write, ready.send_when_durable));
        }
        for entry in ready.committed {
            assert_eq!(entry.id.index, node.applied.index.next(), "at {id}");
            let is_there = node.disk.holds_whole(entry.id);
            assert!(is_there, "{id} applies {}, not on its disk", entry.id);
            assert!(!node.disk.lost_snapshot(), "{id} has nothing to apply to");
            node.applied = entry.id;
            node.applied_now.push(entry);
        }
        for reply in ready.reads {
            let floor = node.reads.remove(&reply.id).expect("one answer to a read");
            if let Ok(index) = reply.index {
                assert!(!promises || index >= floor, "{id}: {index} before {floor}");
                count("reads", 1);
            }
        }
        node.offer = ready.offer.or(node.offer.take());
        count("dropped", ready.dropped.len() as u64);
    }

    /// The first writes are durable, and the core is told of them all at once.
    fn complete(&mut self, id: NodeId, writes: usize) {
        let node = self.node(id);
        let Some(raft) = &mut node.raft else {
            return;
        };
        let (mut last, mut released, mut repaired) = (None, Vec::new(), 0);
        let writes = writes.min(node.writes.len());
        if writes == 0 {
            return;
        }
        for (write, messages) in node.writes.drain(..writes) {
            if let Some(write) = write {
                repaired += node.disk.persist(&write);
                last = Some(write.id);
            }
            released.extend(messages);
        }
        if let Some(last) = last {
            raft.durable(last);
        }
        count("repaired", repaired as u64);
        self.send(released);
        self.check(id);
    }

    fn send(&mut self, messages: Vec<Envelope>) {
        let known = messages.into_iter();
        let known = known.filter(|envelope| ids().any(|id| id == envelope.to));
        self.network.extend(known);
        let too_many = self.network.len().saturating_sub(IN_FLIGHT_MAX);
        self.network.drain(..too_many);
    }

    /// Figure 3, of a node to which something has happened and of all leaders.
    fn check(&mut self, id: NodeId) {
        let applied = std::mem::take(&mut self.node(id).applied_now);
        if self.was_lied_to {
            return;
        }
        let nodes = self.nodes.iter().filter_map(|(&other, node)| {
            let raft = node.raft.as_ref()?;
            let applied = if other == id { &applied[..] } else { &[] };
            (other == id || raft.is_leader()).then_some(invariants::Node { raft, applied })
        });
        let nodes: Vec<_> = nodes.collect();
        let found = invariants::check(&mut self.history, &nodes);
        found.unwrap_or_else(|violation| panic!("{violation}"));
    }

    /// All up to here was ever known to be committed, by anybody.
    fn committed(&self) -> Index {
        self.history.committed().map_or(Index(0), |last| last.index)
    }

    /// Counts what has come of it.
    pub(crate) fn end(&self) {
        count("leaders", self.history.leaders().len() as u64);
        count("committed", self.committed().0);
    }
}

fn ids() -> impl Iterator<Item = NodeId> {
    (1..=NODES).map(NodeId)
}

fn target(roles: u8) -> Membership {
    let role = |id: NodeId| roles >> (2 * (id.0 - 1)) & 3;
    ids().fold(Membership::default(), |target, id| match role(id) {
        0 => target,
        1 => target.with_learner(id),
        _ => target.with_voter(id),
    })
}
