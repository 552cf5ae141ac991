//! Tests of the loop: one node of three on a disk, a network and a clock that note what happens, and fail when told to.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use duramen_disk::{DirLock, Disk, DiskFile, LockMode, Map, OsDisk};
use duramen_wal::{Index, LogId, NodeId, Term};

use super::{Clock, Input, Node, NotDone, StateMachine};
use crate::raft::{AppendOutcome, Config, Envelope, Message, Round};
use crate::storage::{Identity, Storage};
use crate::transport::Network;

/// What disk and network have done, in order.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Synced,
    Sent(Envelope),
}

/// The world around the node.
#[derive(Clone, Default)]
struct World {
    events: Arc<Mutex<Vec<Event>>>,
    disk_fails: Arc<AtomicBool>,
    millis: Arc<AtomicU64>,
}

impl Disk for World {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        OsDisk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsDisk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File(OsDisk.create(path)?, self.clone())))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File(OsDisk.open(path)?, self.clone())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.sync_dir(dir)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        OsDisk.open_read(path)
    }

    fn lock(&self, dir: &Path, mode: LockMode) -> io::Result<Box<dyn DirLock>> {
        OsDisk.lock(dir, mode)
    }
}

struct File(Box<dyn DiskFile>, World);

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.punch_hole(offset, len)
    }

    fn map(&self) -> io::Result<Map> {
        self.0.map()
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.1.disk_fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk is broken"));
        }
        self.0.sync_data()?;
        self.1.events.lock().unwrap().push(Event::Synced);
        Ok(())
    }
}

impl Network for World {
    fn send(&mut self, envelope: Envelope) {
        self.events.lock().unwrap().push(Event::Sent(envelope));
    }
}

impl Clock for World {
    fn now(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::Relaxed))
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
}

type Answers = Arc<Mutex<Vec<Result<u64, NotDone>>>>;

struct Fixture {
    world: World,
    node: Node<Counter, World, World>,
    answers: Answers,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let (world, dir) = (World::default(), tempfile::tempdir().unwrap());
        let identity = Identity {
            cluster: "c".to_owned(),
            node: NodeId(1),
            voters: [NodeId(1)].into(),
        };
        let storage = Storage::open(Arc::new(world.clone()), dir.path(), &identity).unwrap();
        let mut config = Config::new(NodeId(1), [1, 2, 3].map(NodeId));
        config.pre_vote = false;
        config.check_quorum = false;
        let (network, clock) = (world.clone(), world.clone());
        Fixture {
            node: Node::new(config, storage, Counter::default(), network, clock).unwrap(),
            world,
            answers: Answers::default(),
            _dir: dir,
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

    fn pass(&mut self, millis: u64) {
        self.world.millis.fetch_add(millis, Ordering::Relaxed);
        self.node.turn().unwrap();
    }

    /// Node 2 says something, in the node's term.
    fn say(&mut self, message: Message) {
        let term = self.node.status().term;
        self.node.handle(said(term, message));
        self.node.turn().unwrap();
    }

    fn matched(&mut self, index: u64, round: u64) {
        self.say(Message::AppendReply {
            outcome: AppendOutcome::Matched(Index(index)),
            round: Round(round),
        });
    }

    fn propose(&mut self) {
        let answers = self.answers.clone();
        self.node.handle(Input::Propose {
            command: Bytes::from_static(b"count"),
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

    fn events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.world.events.lock().unwrap())
    }
}

fn said(term: Term, message: Message) -> Input<Counter> {
    Input::Message(Envelope {
        from: NodeId(2),
        to: NodeId(1),
        term,
        message,
    })
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
    fixture.events();
    fixture.node.handle(request_vote());
    fixture.node.turn().unwrap();
    let [Event::Synced, Event::Sent(vote)] = &fixture.events()[..] else {
        panic!("not one sync and then the vote");
    };
    assert_eq!(vote.message, Message::Vote { granted: true });
}

#[test]
fn a_leader_sends_its_entries_while_it_writes_them() {
    let mut fixture = Fixture::leader();
    fixture.matched(1, 0);
    fixture.events();
    fixture.propose();
    fixture.node.turn().unwrap();
    assert!(matches!(
        fixture.events()[..],
        [Event::Sent(_), .., Event::Synced]
    ));
}

#[test]
fn after_a_failed_sync_nothing_is_sent_or_answered() {
    let mut fixture = Fixture::new();
    fixture.events();
    fixture.world.disk_fails.store(true, Ordering::Relaxed);
    fixture.node.handle(request_vote());
    fixture.node.turn().unwrap_err();
    assert_eq!(fixture.events(), []);

    let mut fixture = Fixture::leader();
    fixture.world.disk_fails.store(true, Ordering::Relaxed);
    fixture.propose();
    fixture.node.turn().unwrap_err();
    assert_eq!(fixture.answers(), []);
}

#[test]
fn a_command_is_answered_when_it_is_applied() {
    let mut fixture = Fixture::leader();
    fixture.propose();
    fixture.node.turn().unwrap();
    fixture.matched(1, 0);
    assert_eq!(
        fixture.answers(),
        [],
        "only the blank entry is on a majority"
    );
    fixture.matched(2, 0);
    assert_eq!(fixture.answers(), [Ok(1)]);
}

#[test]
fn a_confirmed_read_waits_for_what_is_not_applied_yet() {
    let mut fixture = Fixture::leader();
    fixture.read();
    fixture.node.turn().unwrap();
    // Node 2 confirms the round, and does not have the blank entry.
    fixture.matched(0, 1);
    assert_eq!(fixture.answers(), []);
    fixture.matched(1, 1);
    assert_eq!(fixture.answers(), [Ok(0)]);
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
