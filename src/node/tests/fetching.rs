//! Fetching a snapshot from the one that offered it.

use std::io::Write;

use duramen_snapshot::{Manifest, Meta, Options as SnapshotOptions, SnapshotStore};

use super::*;
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
            Packet::Raft(_) => None,
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
