//! Fetching a snapshot from the one that offered it.

use std::io::Write;

use duramen_snapshot::{ChunkName, Manifest, Meta, Options as SnapshotOptions, SnapshotStore};
use duramen_wal::HardState;

use super::*;
use crate::node::Job;
use crate::raft::{Write as CoreWrite, WriteId};
use crate::storage::SnapshotName;
use crate::transport::Fetch;

/// That of a snapshot that node 2 has, up to entry 9.
fn manifest(membership: &Membership) -> Manifest {
    let disk = Arc::new(SimDisk::new());
    let store =
        SnapshotStore::open_on(disk, Path::new("/other"), SnapshotOptions::default()).unwrap();
    let mut meta = Meta::new(1, 9);
    meta.membership = membership.encode();
    let mut writer = store.begin(meta).unwrap();
    writer.write_all(&9_u64.to_le_bytes()).unwrap();
    writer.publish().unwrap().manifest
}

impl Fixture {
    /// What was said about snapshots since this was asked, and to whom.
    fn fetches(&self) -> Vec<(NodeId, Fetch)> {
        let sent = std::mem::take(&mut *self.world.sent.lock().unwrap());
        let fetches = sent.into_iter().filter_map(|packet| match packet {
            Packet::Raft(_) | Packet::Boots { .. } => None,
            Packet::Fetch { to, fetch, .. } => Some((to, fetch)),
        });
        fetches.collect()
    }

    /// Node 2 says something about a snapshot.
    fn hear(&mut self, fetch: Fetch) {
        let (from, to) = (NodeId(2), NodeId(1));
        self.node
            .handle(Input::Packet(Packet::Fetch { from, to, fetch }));
        self.turn();
        self.write();
    }
}

#[test]
fn a_chunk_that_the_offerer_does_not_have_is_asked_of_the_others_only() {
    let mut it = Fixture::new();
    let membership = it.node.raft().membership().clone();
    let manifest = manifest(&membership);
    let offer = Message::InstallSnapshot {
        last: LogId {
            term: Term(1),
            index: Index(9),
        },
        membership,
        manifest: SnapshotName::of(&manifest).encode(),
    };
    it.node.handle(said(Term(1), offer));
    it.turn();
    it.write();
    let name = *manifest.name().as_bytes();
    let question = Fetch::AskManifest {
        manifest: name,
        offset: 0,
    };
    assert_eq!(it.fetches(), [(NodeId(2), question)]);
    it.hear(Fetch::Manifest {
        manifest: name,
        offset: 0,
        bytes: manifest.encode().into(),
    });
    let chunk = *manifest.chunks()[0].name.as_bytes();
    let question = Fetch::AskChunks {
        chunks: vec![chunk],
    };
    assert_eq!(it.fetches(), [(NodeId(2), question.clone())]);
    it.hear(Fetch::Gone { hash: chunk });
    assert_eq!(it.fetches(), [(NodeId(3), question)]);
}

/// The state in node 1's own snapshot, up to entry 5.
const OWN_STATE: [u8; 8] = 0x1122_3344_5566_7788_u64.to_le_bytes();

/// Node 1 in term 1, whose own snapshot is damaged.
fn with_a_damaged_snapshot() -> Fixture {
    let mut it = with_a_snapshot(false);
    it.node.work(); // It is tried to read it.
    assert!(it.node.raft().lacks_state());
    it
}

/// Node 1 in term 1, which has not read its own snapshot yet.
fn with_a_snapshot(is_whole: bool) -> Fixture {
    let disk = SimDisk::new();
    drop(Fixture::open(disk.clone(), |storage| {
        let voters = Membership::of_voters([1, 2, 3].map(NodeId));
        storage.begin_with(&voters).unwrap();
        let write = CoreWrite {
            id: WriteId(1),
            hard_state: Some(HardState {
                term: Term(1),
                ..HardState::default()
            }),
            reset: None,
            purge: None,
            repairs: Vec::new(),
            entries: (1..=5).map(entry).collect(),
        };
        storage.submit(&write).unwrap();
        storage.drive().unwrap();
        let mut meta = Meta::new(1, 5);
        meta.membership = voters.encode();
        let mut writer = storage.snapshots().begin(meta).unwrap();
        writer.write_all(&OWN_STATE).unwrap();
        writer.publish().unwrap();
        storage.purge(entry(5).id).unwrap();
        storage.drive().unwrap();
    }));
    disk.kill();
    let dir = Path::new("/node/snapshots");
    for name in disk.list(dir).unwrap().into_iter().filter(|_| !is_whole) {
        let path = dir.join(name);
        let file = disk.open(&path).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        if let Some(at) = bytes.windows(8).position(|window| window == OWN_STATE) {
            disk.flip_bit(&path, at as u64, 3).unwrap();
        }
    }
    Fixture::open(disk, |_| ())
}

/// Node 2 offers a snapshot up to entry 9, and gives all of it. What is left to do is to make it durable.
fn fetch_all(it: &mut Fixture) -> Job {
    let membership = it.node.raft().membership().clone();
    let manifest = manifest(&membership);
    let last = LogId {
        term: Term(1),
        index: Index(9),
    };
    it.say(Message::InstallSnapshot {
        last,
        membership,
        manifest: SnapshotName::of(&manifest).encode(),
    });
    it.hear(Fetch::Manifest {
        manifest: *manifest.name().as_bytes(),
        offset: 0,
        bytes: manifest.encode().into(),
    });
    it.hear(chunk(&9_u64.to_le_bytes()));
    it.node.take_job().expect("all of it is here")
}

fn chunk(bytes: &[u8]) -> Fetch {
    Fetch::Chunk {
        chunk: *ChunkName::of(bytes).as_bytes(),
        bytes: Bytes::copy_from_slice(bytes),
    }
}

/// The node goes on, and what applies does not.
fn give(it: &mut Fixture, input: Input<Counter>) {
    it.node.handle(input);
    it.node.turn().unwrap();
}

fn mended() -> Input<Counter> {
    Input::Packet(Packet::Fetch {
        from: NodeId(3),
        to: NodeId(1),
        fetch: chunk(&OWN_STATE),
    })
}

/// Both are asked for at the same time, and to read a state takes long.
#[test]
fn a_state_that_is_mended_while_a_newer_one_is_read_is_not_needed_any_more() {
    for mended_first in [true, false] {
        let mut it = with_a_damaged_snapshot();
        it.pass(10);
        let installed = Input::Finished(fetch_all(&mut it).run());
        let inputs = match mended_first {
            true => [mended(), installed],
            false => [installed, mended()],
        };
        inputs.into_iter().for_each(|input| give(&mut it, input));
        it.turn();
        it.write();
        let status = it.node.status();
        assert_eq!(
            (it.node.state().0, status.applied),
            (9, Index(9)),
            "{mended_first}"
        );
        assert!(!it.node.raft().lacks_state());
    }
}

/// To read a state takes long, and the leader has come further.
#[test]
fn a_newer_snapshot_may_be_installed_while_the_own_state_is_read() {
    for is_whole in [true, false] {
        let mut it = with_a_snapshot(is_whole);
        let found = it.node.take_work().expect("there is a state to be read");
        it.pass(10);
        let job = fetch_all(&mut it);
        give(&mut it, Input::Finished(job.run()));
        let mut applier = it.node.take_applier();
        let installed = it.node.take_work().expect("there is a newer one");
        for work in [found, installed] {
            let done = applier.run(work).expect("the node hears of it");
            give(&mut it, Input::Done(done));
        }
        assert_eq!(
            (applier.state().0, it.node.status().applied),
            (9, Index(9)),
            "{is_whole}"
        );
        assert!(it.node.raft().has_state() && it.node.take_work().is_none());
    }
}

/// So it was, with an applier that stood still while two more were installed, in the simulator's seed 838.
#[test]
fn a_state_that_waits_to_be_read_is_there_when_newer_snapshots_have_taken_its_place() {
    let mut it = with_a_damaged_snapshot();
    it.pass(10);
    let installed = Input::Finished(fetch_all(&mut it).run());
    give(&mut it, installed);
    let store = it.node.storage().snapshots().clone();
    for index in [10, 11] {
        let writer = store.begin(Meta::new(1, index)).unwrap();
        writer.publish().unwrap();
    }
    store.drop_older(2).unwrap();
    assert!(
        store
            .list()
            .iter()
            .all(|it| it.manifest.meta().last_index > 9)
    );
    it.turn();
    it.write();
    assert_eq!((it.node.state().0, it.node.status().applied), (9, Index(9)));
}

/// It has arrived, and is gone before the node hears of it.
#[test]
fn a_snapshot_whose_place_newer_ones_have_taken_before_it_is_told_of_is_asked_for_again() {
    let mut it = with_a_damaged_snapshot();
    it.pass(10);
    let installed = Input::Finished(fetch_all(&mut it).run());
    it.node.storage().snapshots().drop_older(0).unwrap();
    give(&mut it, installed);
    assert!(it.node.take_work().is_none() && it.node.raft().lacks_state());
    let again = fetch_all(&mut it).run();
    it.node.handle(Input::Finished(again));
    it.turn();
    it.write();
    assert_eq!((it.node.state().0, it.node.status().applied), (9, Index(9)));
}

#[test]
fn a_state_that_is_mended_is_applied_to() {
    let mut it = with_a_damaged_snapshot();
    it.pass(10);
    it.node.handle(mended());
    it.turn();
    it.write();
    assert_eq!(it.node.status().applied, Index(5));
    assert_eq!(it.node.state().0.to_le_bytes(), OWN_STATE);
}

/// What a snapshot that cannot be read has left of the state is not to be used.
#[test]
fn a_leader_without_its_state_asks_it_nothing() {
    let mut it = with_a_damaged_snapshot();
    while it.node.status().term == Term(1) {
        it.pass(10);
    }
    it.say(Message::Vote { granted: true });
    assert!(it.node.raft().is_leader() && it.node.raft().lacks_state());
    it.world.millis.fetch_add(100, Ordering::Relaxed);
    it.node.turn().unwrap();
    assert!(it.node.take_work().is_none());
}
