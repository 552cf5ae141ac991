//! Tests of the loop: one node of three on a disk, a network and a clock that note what happens, and fail when told to.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use duramen_disk::{Disk, SimDisk};
use duramen_wal::{Entry, Index, LogId, NodeId, Term};

use super::{
    COMMAND_BYTES_PER_TURN_MAX, Clock, Error, Frozen, Input, Node, NotDone, Options, Standing,
    StateMachine, Trouble,
};
use crate::raft::{
    self, Answer, AppendOutcome, Config, Envelope, Member, Membership, Message, Round,
};
use crate::storage::{self, Identity, Storage};
use crate::transport::{Introduction, Network, Packet, Refusal};

mod admission;
mod fetching;

/// The world around the node.
#[derive(Clone, Default)]
struct World {
    sent: Arc<Mutex<Vec<Packet>>>,
    members: Arc<Mutex<Vec<Membership>>>,
    millis: Arc<AtomicU64>,
}

impl Network for World {
    fn send(&mut self, packet: Packet) {
        self.sent.lock().unwrap().push(packet);
    }

    fn members_changed(&mut self, membership: &Membership) {
        self.members.lock().unwrap().push(membership.clone());
    }
}

impl Clock for World {
    fn now(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }

    fn log_time(&self) -> crate::node::LogTime {
        crate::node::LogTime(self.millis.load(Ordering::Relaxed))
    }
}

/// Counts what it applies.
#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    type Output = u64;

    fn apply(&mut self, _: &[u8]) -> u64 {
        self.0 += 1;
        self.0
    }

    fn freeze(&self) -> Frozen {
        let counted = self.0;
        Box::new(move |to| to.write_all(&counted.to_le_bytes()))
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

type Answers = Arc<Mutex<Vec<Result<u64, NotDone>>>>;

struct Fixture {
    world: World,
    disk: SimDisk,
    node: Node<Counter, World, World>,
    answers: Answers,
}

/// An entry of term 1, with a command.
fn entry(index: u64) -> Entry {
    Entry {
        id: LogId {
            term: Term(1),
            index: Index(index),
        },
        payload: Bytes::from_static(b"count"),
        ..Entry::default()
    }
}

impl Fixture {
    /// Node 1 of three that have met.
    fn new() -> Fixture {
        Fixture::with(|storage| {
            let member = |uuid| Member {
                uuid,
                ..Member::default()
            };
            let voters = Membership::of_voters([1, 2, 3].map(NodeId));
            let known = voters.with_member(NodeId(2), member(22));
            let known = known.with_member(NodeId(3), member(33));
            storage.begin_with(&known).unwrap();
            storage.drive().unwrap();
        })
    }

    /// Node 1 of three at its first start.
    fn blank() -> Fixture {
        Fixture::with(|_| ())
    }

    /// Node 1 at its first start, which is to join a cluster.
    fn joining() -> Fixture {
        Fixture::begin(SimDisk::new(), &[], |_| ())
    }

    fn with(prepare: impl FnOnce(&mut Storage)) -> Fixture {
        Fixture::open(SimDisk::new(), prepare)
    }

    /// Node 1 on a disk that it may have written before.
    fn open(disk: SimDisk, prepare: impl FnOnce(&mut Storage)) -> Fixture {
        Fixture::begin(disk, &[1, 2, 3].map(NodeId), prepare)
    }

    fn begin(disk: SimDisk, voters: &[NodeId], prepare: impl FnOnce(&mut Storage)) -> Fixture {
        let world = World::default();
        let identity = Identity {
            cluster: "c".to_owned(),
            node: NodeId(1),
            voters: voters.iter().copied().collect(),
        };
        let mut options = storage::Options::default();
        options.log.manual_drive = true;
        options.log.segment_bytes = 1 << 20;
        options.log.batch_bytes_max = 256 << 10;
        options.log.entry_bytes_max = 128 << 10;
        options.log.in_flight_bytes_max = 256 << 10;
        let dir = Path::new("/node");
        let mut storage = Storage::open(Arc::new(disk.clone()), dir, &identity, options).unwrap();
        prepare(&mut storage);
        let mut config = Config::new(NodeId(1), voters.iter().copied());
        config.pre_vote = false;
        config.check_quorum = false;
        let (network, clock) = (world.clone(), world.clone());
        let (options, state) = (Options::default(), Counter::default());
        Fixture {
            node: Node::new(config, options, storage, state, network, clock).unwrap(),
            world,
            disk,
            answers: Answers::default(),
        }
    }

    /// Node 1 as the leader of its term, with the votes of node 2. Nobody has its blank entry.
    fn leader() -> Fixture {
        let mut fixture = Fixture::new();
        while fixture.node.status().term == Term(0) {
            fixture.pass(10);
        }
        fixture.say(Message::Vote { granted: true });
        assert_eq!(fixture.node.status().leader, Some(NodeId(1)));
        fixture
    }

    /// Lets the node do what there is to do, but for what is on its way to the disk.
    fn turn(&mut self) {
        self.node.turn().unwrap();
        self.node.work();
    }

    /// Lets the disk end its writes, and the node go on.
    fn write(&mut self) {
        while self.node.is_writing() {
            self.node.drive().unwrap();
            self.turn();
        }
    }

    fn pass(&mut self, millis: u64) {
        self.world.millis.fetch_add(millis, Ordering::Relaxed);
        self.turn();
        self.write();
    }

    /// Node 2 says something, in the node's term.
    fn say(&mut self, message: Message) {
        let term = self.node.status().term;
        self.node.handle(said(term, message));
        self.turn();
        self.write();
    }

    fn matched(&mut self, index: u64, round: u64) {
        self.say(Message::AppendReply {
            outcome: AppendOutcome::Matched(Index(index)),
            round: Round(round),
        });
    }

    fn propose(&mut self) {
        self.propose_of(5);
    }

    fn propose_of(&mut self, bytes: usize) {
        let answers = self.answers.clone();
        self.node.handle(Input::Propose {
            command: vec![b'x'; bytes].into(),
            on_applied: Box::new(move |answer| answers.lock().unwrap().push(answer)),
        });
    }

    fn read(&mut self) {
        let answers = self.answers.clone();
        self.node.handle(Input::Read(Box::new(move |counter| {
            answers
                .lock()
                .unwrap()
                .push(counter.map(|counter| counter.0));
        })));
    }

    fn answers(&self) -> Vec<Result<u64, NotDone>> {
        self.answers.lock().unwrap().clone()
    }

    fn sent(&self) -> Vec<Message> {
        let sent = std::mem::take(&mut *self.world.sent.lock().unwrap());
        let messages = sent.into_iter().filter_map(|packet| match packet {
            Packet::Raft(envelope) => Some(envelope.message),
            Packet::Fetch { .. } => panic!("there is no snapshot"),
            Packet::Boots { .. } => None,
        });
        messages.collect()
    }
}

fn said(term: Term, message: Message) -> Input<Counter> {
    Input::Packet(Packet::Raft(Envelope {
        from: NodeId(2),
        to: NodeId(1),
        term,
        message,
    }))
}

fn request_vote() -> Input<Counter> {
    let last = LogId::default();
    said(
        Term(7),
        Message::RequestVote {
            last,
            is_transfer: false,
        },
    )
}

#[test]
fn a_vote_leaves_when_it_is_on_disk() {
    let mut fixture = Fixture::new();
    fixture.node.handle(request_vote());
    fixture.turn();
    fixture.turn();
    assert_eq!(fixture.sent(), [], "it is not written yet");
    fixture.write();
    assert_eq!(fixture.sent(), [Message::Vote { granted: true }]);
    assert_eq!(fixture.disk.unsynced_units(), 0);
}

#[test]
fn a_leader_sends_its_entries_while_it_writes_them() {
    let mut fixture = Fixture::leader();
    fixture.matched(1, 0);
    fixture.sent();
    fixture.propose();
    fixture.turn();
    assert!(fixture.node.is_writing());
    assert!(
        matches!(&fixture.sent()[..], [Message::Append { entries, .. }, ..] if entries.len() == 1)
    );
}

#[test]
fn what_waits_for_a_write_waits_for_those_before_it_only() {
    let mut fixture = Fixture::new();
    fixture.node.handle(request_vote());
    fixture.turn();
    // It changes nothing on the disk; but that it is refused says that the other vote was given.
    fixture.node.handle(said(
        Term(7),
        Message::RequestVote {
            last: LogId::default(),
            is_transfer: false,
        },
    ));
    fixture.turn();
    assert_eq!(fixture.sent(), []);
    fixture.write();
    assert_eq!(
        fixture.sent(),
        [
            Message::Vote { granted: true },
            Message::Vote { granted: true }
        ]
    );
}

#[test]
fn after_a_failed_sync_nothing_is_sent_or_answered() {
    let mut fixture = Fixture::new();
    fixture.disk.fail_next_sync(io::ErrorKind::Other);
    fixture.node.handle(request_vote());
    fixture.turn();
    fixture.node.drive().unwrap();
    fixture.pass(5_000);
    assert_eq!(fixture.sent(), []);
    assert!(matches!(fixture.node.trouble(), Some(Trouble::Failed(_))));

    let mut fixture = Fixture::leader();
    fixture.matched(1, 0);
    fixture.disk.fail_next_sync(io::ErrorKind::Other);
    fixture.propose();
    fixture.turn();
    fixture.node.drive().unwrap();
    fixture.turn();
    fixture.matched(2, 0);
    assert_eq!(fixture.answers(), [], "nobody knows what became of it");
    fixture.propose();
    fixture.pass(5_000);
    let refused = Err(NotDone::NotLeader { leader: None });
    assert_eq!(fixture.answers(), [refused, Err(NotDone::Unknown)]);
}

#[test]
fn a_command_is_answered_when_it_is_applied() {
    let mut fixture = Fixture::leader();
    fixture.propose();
    fixture.turn();
    fixture.write();
    fixture.matched(1, 0);
    assert_eq!(
        fixture.answers(),
        [],
        "only the blank entry is on a majority"
    );
    fixture.matched(2, 0);
    assert_eq!(fixture.answers(), [Ok(1)]);
}

/// The log would take none of them, at no node: all would end.
#[test]
fn a_command_that_is_too_large_for_the_log_is_refused() {
    let mut fixture = Fixture::leader();
    fixture.matched(1, 0);
    let most = fixture.node.storage().command_bytes_max();
    for bytes in [1 << 20, most + 1, most] {
        fixture.propose_of(bytes);
        fixture.turn();
        fixture.write();
    }
    let too_large = NotDone::TooLarge { bytes_max: most };
    assert_eq!(fixture.answers(), [Err(too_large); 2]);
    fixture.matched(2, 0);
    assert_eq!(fixture.answers()[2..], [Ok(1)]);
}

/// Together they would be one write, and no heartbeat would leave until the log takes it.
#[test]
fn of_large_commands_a_turn_takes_some() {
    let mut fixture = Fixture::leader();
    let (sender, inbox) = mpsc::channel();
    for _ in 0..5 {
        let answers = fixture.answers.clone();
        let propose = Input::Propose {
            command: vec![b'x'; COMMAND_BYTES_PER_TURN_MAX / 2].into(),
            // The log of this node is so small that it takes none of them: each is answered when it is taken.
            on_applied: Box::new(move |answer| answers.lock().unwrap().push(answer)),
        };
        assert!(sender.send(propose).is_ok());
    }
    for taken in [2, 4, 5] {
        assert!(fixture.node.handle_some(inbox.try_iter()));
        assert_eq!(fixture.answers().len(), taken);
    }
}

#[test]
fn while_a_command_is_applied_the_node_goes_on_and_a_read_waits_for_it() {
    let mut it = Fixture::leader();
    it.matched(1, 0);
    it.propose();
    it.turn();
    it.write();
    it.read();
    it.turn(); // A round of questions begins.
    let term = it.node.status().term;
    let outcome = AppendOutcome::Matched(Index(2));
    let round = Round(1);
    it.node
        .handle(said(term, Message::AppendReply { outcome, round }));
    it.node.turn().unwrap();
    let status = it.node.status();
    assert_eq!((status.commit, status.applied), (Index(2), Index(1)));
    assert_eq!(it.answers(), []);
    // Heartbeats leave meanwhile.
    it.sent();
    it.world.millis.fetch_add(200, Ordering::Relaxed);
    it.node.turn().unwrap();
    assert!(!it.sent().is_empty());
    it.node.work();
    assert_eq!(it.answers(), [Ok(1), Ok(1)]);
    assert_eq!(it.node.status().applied, Index(2));
}

#[test]
fn a_confirmed_read_waits_for_what_is_not_applied_yet() {
    let mut fixture = Fixture::leader();
    fixture.read();
    fixture.turn();
    // Node 2 confirms the round, and does not have the blank entry.
    fixture.matched(0, 1);
    assert_eq!(fixture.answers(), []);
    fixture.matched(1, 1);
    assert_eq!(fixture.answers(), [Ok(0)]);
}

#[test]
fn a_node_that_does_not_lead_serves_a_read_when_it_has_applied_up_to_the_leaders_index() {
    let mut fixture = Fixture::new();
    fixture.read();
    let refused = Err(NotDone::NotLeader { leader: None });
    assert_eq!(fixture.answers(), [refused], "no leader is known");
    let append = |prev, entries: &[Entry], commit| Message::Append {
        prev,
        entries: entries.to_vec(),
        commit: Index(commit),
        round: Round(0),
    };
    let first = append(LogId::default(), &[entry(1)], 0);
    fixture.node.handle(said(Term(1), first));
    fixture.turn();
    fixture.write();
    fixture.sent();
    fixture.read();
    fixture.turn();
    let [Message::AskReadIndex { ask }] = fixture.sent()[..] else {
        panic!("it does not ask");
    };
    let index = Some(Index(2));
    fixture.say(Message::ReadIndex { ask, index });
    fixture.say(append(entry(1).id, &[], 1));
    assert_eq!(fixture.answers().len(), 1, "only entry 1 is applied");
    fixture.say(append(entry(1).id, &[entry(2)], 2));
    assert_eq!(fixture.answers()[1..], [Ok(2)]);
}

#[test]
fn what_is_not_decided_in_time_has_an_unknown_outcome() {
    let mut fixture = Fixture::leader();
    fixture.propose();
    fixture.read();
    fixture.pass(4_900);
    assert_eq!(fixture.answers(), []);
    fixture.pass(200);
    assert_eq!(fixture.answers(), [Err(NotDone::Unknown); 2]);
    fixture.matched(2, 1);
    assert_eq!(fixture.answers().len(), 2, "each is answered once");
}

#[test]
fn a_pause_of_the_process_is_not_held_against_the_leader() {
    let mut fixture = Fixture::new();
    fixture.pass(60_000);
    assert_eq!(fixture.node.status().term, Term(0));
}

/// The core knows entries by their ids; what was written, the log's checksum says.
#[test]
fn a_false_entry_does_not_take_the_place_of_a_damaged_one() {
    let entry = |payload: &'static [u8]| Entry {
        id: LogId {
            term: Term(1),
            index: Index(1),
        },
        payload: payload.into(),
        ..Entry::default()
    };
    let (lie, truth) = (entry(&[6; 500]), entry(&[7; 500]));
    let mut fixture = Fixture::new();
    let append = |entry: &Entry| Message::Append {
        prev: LogId::default(),
        entries: vec![entry.clone()],
        commit: Index(0),
        round: Round(0),
    };
    fixture.node.handle(said(Term(1), append(&truth)));
    fixture.turn();
    fixture.write();
    let disk = fixture.disk.clone();
    drop(fixture);
    disk.kill();
    flip_a_bit_of(&disk, &truth.payload);
    let mut fixture = Fixture::open(disk, |_| ());
    assert_eq!(fixture.node.raft().bad_entries().count(), 1);
    let have = |entry: &Entry| {
        Message::Entries(raft::Answers {
            entries: vec![Answer::Have(entry.clone())],
            ..raft::Answers::default()
        })
    };
    for message in [have(&lie), append(&lie)] {
        fixture.node.handle(said(Term(1), message));
        fixture.turn();
        fixture.write();
        assert_eq!(fixture.node.raft().bad_entries().count(), 1);
    }
    fixture.node.handle(said(Term(1), have(&truth)));
    fixture.turn();
    fixture.write();
    assert_eq!(fixture.node.raft().bad_entries().count(), 0);
}

/// Damages what a log has written.
fn flip_a_bit_of(disk: &SimDisk, payload: &[u8]) {
    let path = Path::new("/node/log/0000000000000001.wal");
    let file = disk.open(path).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let at = bytes
        .windows(payload.len())
        .position(|window| window == payload);
    disk.flip_bit(path, at.unwrap() as u64, 3).unwrap();
}
