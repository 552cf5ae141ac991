//! Random schedules: everything that Raft must bear, drawn from a seed, with the promises checked after every step.
//!
//! Messages are dropped, doubled, delayed and reordered, links are cut one way, writes become durable late and several at
//! once, nodes crash with what was not reported durable, in part or whole, and start again. Half of the seeds have the
//! elections of the paper alone; the others pre-votes and leaders that check their quorum, and of these half change the
//! membership, with two more nodes that know nobody, join and leave. Half of all take snapshots and compact their logs. In half of all the
//! write that a crash interrupts may be torn, and in three of five disks damage what was durable (see `faults.rs`). At the end
//! all is mended, and all members must agree soon, unless nobody has an entry any more that may have been committed.
//!
//! `RAFT_SEED=7` replays one seed, `RAFT_SEEDS=100000` runs more of them.

mod faults;
mod mend;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use duramen_wal::types::{Entry, Index, LogId, NodeId};

use self::faults::Rot;
use super::random_node::SimNode;
use crate::raft::invariants::{self, History};
use crate::raft::{
    Answer, BaseState, Config, Envelope, Membership, Message, Raft, ReadId, Ready, Restored,
    SnapshotFate, is_command,
};

#[test]
fn random_schedules_break_no_promise() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds = match number("RAFT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RAFT_SEEDS").unwrap_or(SEEDS),
    };
    let (many, mut seen) = (seeds.end - seeds.start >= SEEDS, Seen::default());
    for seed in seeds {
        let sim = std::panic::catch_unwind(|| Sim::run(seed)).unwrap_or_else(|panic| {
            eprintln!("replay: RAFT_SEED={seed} cargo test -p duramen --lib random_schedules");
            std::panic::resume_unwind(panic)
        });
        seen.elections += sim.history.leaders().len();
        seen.commits += sim.committed().0 as usize;
        seen.truncations += sim.seen.truncations;
        seen.reads += sim.seen.reads;
        seen.changes += sim.seen.changes;
        seen.transfers += sim.seen.transfers;
        seen.installs += sim.seen.installs;
        seen.torn += sim.seen.torn;
        seen.damaged += sim.seen.damaged;
        seen.repairs += sim.seen.repairs;
        seen.dropped += sim.seen.dropped;
        seen.lost += sim.seen.lost;
        seen.refusals += sim.seen.refusals;
        seen.failures += sim.seen.failures;
    }
    eprintln!("{seen:?}");
    // A schedule in which nothing happens breaks nothing.
    assert!(
        !many || seen.each_at_least(SEEDS as usize / 4),
        "too quiet: {seen:?}"
    );
}

fn is_membership(entry: &Entry) -> bool {
    !entry.payload.is_empty() && !is_command(entry)
}

const SEEDS: u64 = 1000;
const STEPS: usize = 4000;
const IN_FLIGHT_MAX: usize = 100;

#[derive(Debug, Default)]
struct Seen {
    elections: usize,
    commits: usize,
    truncations: usize,
    reads: usize,
    /// Changes of the voters that were committed, and nodes that were told to campaign.
    changes: usize,
    transfers: usize,
    installs: usize,
    /// Entries that a crash tore, that a disk damaged, that were repaired, and that were dropped as torn everywhere.
    torn: usize,
    damaged: usize,
    repairs: usize,
    dropped: usize,
    /// Schedules after which an entry was nowhere whole.
    lost: usize,
    /// Writes for which there was no space, and disks that failed.
    refusals: usize,
    failures: usize,
}

impl Seen {
    fn each_at_least(&self, least: usize) -> bool {
        let all = [
            self.elections,
            self.commits,
            self.truncations,
            self.reads,
            self.changes,
            self.transfers,
            self.installs,
            4 * self.torn,
            self.damaged,
            self.repairs,
            self.refusals,
            self.failures,
        ];
        all.iter().all(|&count| count >= least)
    }
}

struct Sim {
    rng: fastrand::Rng,
    nodes: BTreeMap<NodeId, SimNode>,
    network: Vec<Envelope>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// How likely each kind of fault is, in percent; `crash` in thirds of one. Each seed has its own.
    drop: u32,
    reorder: u32,
    slow_disk: u32,
    crash: u32,
    is_undisturbed: bool,
    changes: bool,
    compacts: bool,
    fills: bool,
    tears: bool,
    rot: Rot,
    /// Who belongs to the cluster at the beginning of the log.
    membership: Membership,
    history: History,
    /// Up to where changes of the voters have been counted.
    counted: Index,
    proposals: u64,
    seen: Seen,
}

impl Sim {
    fn run(seed: u64) -> Sim {
        let mut sim = Sim::new(seed);
        for _ in 0..STEPS {
            sim.step();
        }
        sim.mend();
        sim
    }

    fn new(seed: u64) -> Sim {
        let mut rng = fastrand::Rng::with_seed(seed);
        let nodes = if rng.bool() { 3 } else { 5 };
        let is_undisturbed = rng.bool();
        let changes = is_undisturbed && rng.bool();
        let ids = (1..=nodes + 2 * u64::from(changes)).map(NodeId);
        let mut sim = Sim {
            is_undisturbed,
            changes,
            compacts: rng.bool(),
            fills: rng.u8(..4) == 0,
            tears: rng.bool(),
            rot: Rot::any(&mut rng),
            membership: Membership::of_voters((1..=nodes).map(NodeId)),
            nodes: ids.map(|id| (id, SimNode::default())).collect(),
            network: Vec::new(),
            cut: BTreeSet::new(),
            drop: [0, 5, 30][rng.usize(..3)],
            reorder: [0, 20, 100][rng.usize(..3)],
            slow_disk: [0, 50, 80][rng.usize(..3)],
            crash: [0, 1, 3][rng.usize(..3)],
            history: History::default(),
            counted: Index(1), // With the first entry the cluster begins.
            proposals: 0,
            seen: Seen::default(),
            rng,
        };
        for id in sim.ids() {
            sim.start(id);
        }
        sim
    }

    fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    fn node(&mut self, id: NodeId) -> &mut SimNode {
        self.nodes.get_mut(&id).unwrap()
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(..100) < percent
    }

    fn some_writes(&mut self, id: NodeId) -> usize {
        let all = self.node(id).writes.len();
        self.rng.usize(..=all)
    }

    fn start(&mut self, id: NodeId) {
        let mut config = Config::new(id, []);
        if self.membership.is_voter(id) {
            config.membership = self.membership.clone(); // Who joins knows nobody.
        }
        config.offer_ticks = 20;
        config.pre_vote = self.is_undisturbed;
        config.check_quorum = self.is_undisturbed;
        (config.heartbeat_ticks, config.election_ticks) = (2, 8);
        (config.append_bytes_max, config.window_entries) = (30, 6);
        (config.window_bytes, config.keep_bytes) = (70, 200);
        config.seed = self.rng.u64(..);
        let is_slow = self.rng.bool();
        let node = self.node(id);
        let mut base = LogId::default();
        if let Some((last, membership)) = node.snapshot.clone() {
            // Its driver finds the log as it was before the snapshot was installed, or after it.
            node.compact(last);
            (base, config.membership) = (last, membership);
        }
        let state = match (node.snapshot.is_some(), node.lost_state) {
            (true, _) if is_slow => BaseState::Unread,
            (_, true) => BaseState::Lost,
            (_, false) => BaseState::Whole,
        };
        let may_be_read = node.snapshot.is_some() && state != BaseState::Lost;
        let restored = Restored {
            hard_state: node.hard_state,
            base,
            manifest: may_be_read.then(Bytes::new),
            state,
            log: node.log.clone(),
            bad: node.bad.clone(),
        };
        node.raft = Some(Raft::restart(config, restored));
        (node.commit, node.applied) = (base.index, base.index);
    }

    /// The state that was being read, if one was, has been read; or it cannot be.
    fn end_reading(&mut self, id: NodeId) {
        let node = self.node(id);
        let (raft, is_lost) = (node.raft.as_mut().unwrap(), node.lost_state);
        let may_lead = raft.has_state() || raft.lacks_state();
        assert!(may_lead || !raft.is_leader(), "{id} leads too early");
        let _is_needed = match is_lost {
            true => raft.state_lost(),
            false => raft.state_read(),
        };
    }

    /// What is under way to the disk may have reached it, as far as chance wants it, and nobody has been told.
    fn crash(&mut self, id: NodeId) {
        let reached = self.some_writes(id);
        let node = self.node(id);
        let under_way: Vec<_> = node.writes.drain(..reached).collect();
        for write in under_way.into_iter().filter_map(|(write, _)| write) {
            node.persist(&write);
        }
        self.tear_write(id);
        self.rot(id);
        let node = self.node(id);
        (node.raft, node.offer) = (None, None);
        (node.commit, node.applied) = (Index(0), Index(0));
        node.reads.clear();
        node.has_failed = false;
    }

    fn step(&mut self) {
        let ids = self.ids();
        let id = ids[self.rng.usize(..ids.len())];
        if self.node(id).raft.is_none() {
            if self.chance(5) {
                self.start(id);
            }
            return;
        }
        match self.rng.u32(..100) {
            0 if self.crash > self.rng.u32(..3) => match self.tears && self.chance(20) {
                true => self.cut_power(),
                false => self.crash(id),
            },
            1 if self.drop > 0 => self.cut_or_heal(id),
            2 if self.changes => self.change_membership(id),
            3 if self.is_undisturbed => self.transfer(id),
            4..=25 => self.node(id).raft.as_mut().unwrap().tick(),
            26 => self.end_reading(id),
            27 if self.compacts => self.take_snapshot(id),
            28..=31 => self.propose(id),
            32..=35 => self.read(id),
            36 if self.fills => self.change_space(id),
            37..=48 if !self.chance(self.slow_disk) => {
                let some = self.some_writes(id);
                self.complete(id, some);
            }
            49..=99 => self.deliver_any(),
            _ => {}
        }
        // Several inputs may share a Ready.
        if self.chance(80) {
            self.carry_out(id);
        }
    }

    /// Cuts one link one way, or all of a node's, or heals everything.
    fn cut_or_heal(&mut self, id: NodeId) {
        let ids = self.ids();
        match self.rng.u32(..6) {
            0 => drop(self.cut.insert((id, ids[self.rng.usize(..ids.len())]))),
            1 => {
                let links = |&other| [(id, other), (other, id)];
                self.cut.extend(ids.iter().flat_map(links));
            }
            2 => self.cut.clear(),
            _ => {}
        }
    }

    fn propose(&mut self, id: NodeId) {
        self.proposals += 1;
        let command = Bytes::from(format!("command {}", self.proposals));
        let _ = self.node(id).raft.as_mut().unwrap().propose(command);
    }

    /// Proposes other voters, and perhaps a learner.
    fn change_membership(&mut self, id: NodeId) {
        let raft = self.nodes[&id].raft.as_ref().unwrap();
        let members = raft.membership().all();
        let mut target = Membership::default();
        let is_strict = self.rng.u8(..10) > 0;
        for other in self.ids() {
            // Who is no member cannot vote, and is made a learner.
            let may_vote = members.contains(&other) || !is_strict;
            target = match self.rng.u8(..4) {
                0 => target,
                1 => target.with_learner(other),
                _ if may_vote => target.with_voter(other),
                _ => target.with_learner(other),
            };
        }
        let _ = self
            .node(id)
            .raft
            .as_mut()
            .unwrap()
            .change_membership(target);
    }

    /// Takes a snapshot of what was applied, and gives up some of the log.
    fn take_snapshot(&mut self, id: NodeId) {
        let some = self.rng.u64(..5);
        let node = self.node(id);
        let (raft, applied) = (node.raft.as_mut().unwrap(), node.applied);
        if applied < raft.first() {
            return;
        }
        let _ = raft.snapshot_taken(applied, Bytes::new());
        let membership = raft.membership_at(applied).clone();
        let up_to = match some {
            0 => raft.compactable(),
            some => Index((applied.0 + 1).saturating_sub(some)),
        };
        raft.compact(up_to);
        let last = self.history.committed_at(applied).unwrap();
        self.node(id).snapshot = Some((last, membership));
    }

    /// A node has made the snapshot durable that it was offered, perhaps long ago.
    fn install(&mut self, id: NodeId) {
        let node = self.node(id);
        let raft = node.raft.as_mut().unwrap();
        let Some(offer) = node.offer.take() else {
            return;
        };
        let (last, is_news) = (offer.last, offer.last.index > raft.commit());
        let is_taken = raft.snapshot_installed(&offer) == SnapshotFate::Newest;
        assert!(is_taken || !is_news, "{id} does not take {last}");
        if !is_taken {
            return;
        }
        assert!(
            last.index > node.applied || node.lost_state,
            "{id} goes back to {last}"
        );
        node.snapshot = Some((last, offer.membership.clone()));
        node.lost_state = false;
        (node.commit, node.applied) = (node.commit.max(last.index), last.index);
        let known = self.history.committed_at(last.index);
        assert_eq!(known, Some(last), "{id} installs what was not committed");
        self.seen.installs += 1;
    }

    fn transfer(&mut self, id: NodeId) {
        let ids = self.ids();
        let to = ids[self.rng.usize(..ids.len())];
        let _ = self.node(id).raft.as_mut().unwrap().transfer_leadership(to);
    }

    fn read(&mut self, id: NodeId) {
        self.proposals += 1;
        let (read, floor) = (ReadId(self.proposals), self.committed());
        let node = self.node(id);
        if node.raft.as_mut().unwrap().read(read).is_ok() {
            node.reads.insert(read, floor);
        }
    }

    fn deliver_any(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let any = self.rng.usize(..self.network.len());
        let at = if self.chance(self.reorder) { any } else { 0 };
        let envelope = match self.chance(self.drop / 3) {
            true => self.network[at].clone(), // Comes again.
            false => self.network.remove(at),
        };
        if !self.chance(self.drop) && !self.cut.contains(&(envelope.from, envelope.to)) {
            self.deliver(envelope);
        }
    }

    fn deliver(&mut self, envelope: Envelope) {
        let to = envelope.to;
        if let Some(raft) = &mut self.node(to).raft {
            let _ = raft.step(envelope);
            self.check(to);
            if self.nodes[&to].offer.is_some() && self.chance(20) {
                self.install(to);
            }
            self.carry_out(to);
        }
    }

    fn carry_out(&mut self, id: NodeId) {
        while let Some(raft) = &mut self.node(id).raft {
            let Ready {
                send_now,
                write,
                mut send_when_durable,
                committed,
                reads,
                dropped,
                offer,
            } = raft.ready();
            let idle =
                send_now.is_empty() && committed.is_empty() && write.is_none() && offer.is_none();
            self.seen.dropped += dropped.len();
            self.send(id, send_now);
            let space = self.node(id).space;
            let (write, refused) = match write {
                Some(write) if !space.takes(&write) => (None, Some(write)),
                write => (write, None),
            };
            if let Some(refused) = refused {
                self.refuse(id, &refused, std::mem::take(&mut send_when_durable));
            }
            let node = self.node(id);
            if write.is_some() || !send_when_durable.is_empty() {
                node.writes.push_back((write, send_when_durable));
            }
            for entry in committed {
                assert_eq!(entry.id.index, node.applied.next(), "{id} skips or repeats");
                assert!(
                    node.holds_whole(entry.id),
                    "{id} applies what is not on its disk"
                );
                assert!(
                    !node.lost_state,
                    "{id} has nothing to apply {} to",
                    entry.id
                );
                node.applied = entry.id.index;
                node.applied_now.push(entry);
            }
            for reply in reads {
                let floor = self.node(id).reads.remove(&reply.id);
                let floor = floor.expect("one answer to a read");
                if let Ok(index) = reply.index {
                    assert!(index >= floor, "{id} reads at {index}, {floor} was known");
                    self.seen.reads += 1;
                }
            }
            if let Some(offer) = offer {
                self.node(id).offer = Some(offer);
                if self.chance(100 - 3 * self.drop) {
                    self.install(id);
                }
            }
            if self.slow_disk == 0 {
                let all = self.node(id).writes.len();
                self.complete(id, all);
            }
            self.check(id);
            if idle {
                return;
            }
        }
    }

    /// The first `count` writes are durable, and the core is told of them all at once.
    fn complete(&mut self, id: NodeId, count: usize) {
        let node = self.node(id);
        let (mut last, mut released, mut truncations) = (None, Vec::new(), 0);
        let mut repairs = 0;
        for (write, messages) in node.writes.drain(..count).collect::<Vec<_>>() {
            if let Some(write) = write {
                truncations += usize::from(node.persist(&write));
                repairs += write.repairs.len();
                last = Some(write.id);
            }
            released.extend(messages);
        }
        if let Some(last) = last {
            node.raft.as_mut().unwrap().durable(last);
        }
        self.seen.truncations += truncations;
        self.seen.repairs += repairs;
        self.send(id, released);
        self.check(id);
    }

    /// No message tells of a term or a vote that is not on disk (5.2: a crash would let the node vote twice).
    fn send(&mut self, id: NodeId, messages: Vec<Envelope>) {
        let disk = self.node(id).hard_state;
        for envelope in messages {
            self.seen.transfers += usize::from(envelope.message == Message::TimeoutNow);
            let vote = match envelope.message {
                Message::RequestVote { .. } => Some(id),
                Message::Vote { granted: true } => Some(envelope.to),
                _ => None,
            };
            let same_term = envelope.term == disk.term;
            assert!(
                envelope.term < disk.term
                    || same_term && (vote.is_none() || vote == disk.voted_for),
                "{id} has {disk:?} on disk and says {envelope:?}"
            );
            self.check_content(&envelope);
            self.network.push(envelope);
        }
        while self.network.len() > IN_FLIGHT_MAX {
            let any = self.rng.usize(..self.network.len());
            self.network.remove(any);
        }
    }

    /// No placeholder is sent.
    fn check_content(&self, envelope: &Envelope) {
        let entries: Vec<&Entry> = match &envelope.message {
            Message::Append { entries, .. } => entries.iter().collect(),
            Message::Entries(answers) => {
                let found = answers.entries.iter().filter_map(|answer| match answer {
                    Answer::Have(entry) => Some(entry),
                    _ => None,
                });
                found.collect()
            }
            _ => return,
        };
        for entry in entries {
            let known = self.history.entry(entry.id);
            let is_true = known.is_none_or(|known| known == entry);
            assert!(is_true, "{} sends another {}", envelope.from, entry.id);
        }
    }

    /// Figure 3; and by which rule the commit index advances.
    fn check(&mut self, id: NodeId) {
        let applied = std::mem::take(&mut self.node(id).applied_now);
        let is_looked_at = |other: NodeId, raft: &Raft| other == id || raft.is_leader();
        let nodes = self.nodes.iter().filter_map(|(&other, node)| {
            let raft = node
                .raft
                .as_ref()
                .filter(|raft| is_looked_at(other, raft))?;
            let applied = if other == id { &applied[..] } else { &[] };
            Some(invariants::Node { raft, applied })
        });
        let nodes: Vec<_> = nodes.collect();
        let found = invariants::check(&mut self.history, &nodes);
        found.unwrap_or_else(|violation| panic!("{violation}"));

        let node = &self.nodes[&id];
        let raft = node.raft.as_ref().unwrap();
        let (before, commit) = (node.commit, raft.commit());
        assert!(commit >= before, "{id} goes back from {before} to {commit}");
        if commit > before && raft.is_leader() {
            let last = self.history.committed_at(commit).unwrap();
            let own_term = last.term == raft.term();
            assert!(own_term, "{id} counts an entry of an earlier term: {last}");
            let holds = |id| self.nodes[&id].holds(last);
            assert!(
                raft.membership().is_majority(holds),
                "{id} commits {last}, which no majority of {:?} has on disk",
                raft.membership()
            );
        }
        self.node(id).commit = commit;
        self.count_changes();
    }

    fn count_changes(&mut self) {
        while let Some(id) = self.history.committed_at(self.counted.next()) {
            let changes = self.history.entry(id).is_some_and(is_membership);
            self.seen.changes += usize::from(changes);
            self.counted = id.index;
        }
    }

    /// All up to here was ever known to be committed, by anybody.
    fn committed(&self) -> Index {
        self.history.committed().map_or(Index(0), |last| last.index)
    }
}
