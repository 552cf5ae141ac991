//! Random histories of two stores, held against a model: states change and are written, dropped, read, sent from one to the
//! other, damaged and repaired, and processes end in all ways.
//!
//! `PROPTEST_CASES` for more of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::io::Read;

use duramen_disk::{Disk, SimDisk};
use duramen_snapshot::{Error, Manifest, SnapshotReader, SnapshotStore};
use proptest::prelude::*;
use support::*;

#[derive(Debug, Clone)]
enum Op {
    /// The state of a node changes in so many bytes at a place, is written, and some of the old ones are dropped.
    Write(usize, Edit),
    /// A snapshot is written by two writers at a time, each with a change of its own.
    WriteBoth(usize, Edit, Edit),
    Drop(usize, usize),
    /// A reader is opened, and reads so much at once.
    Open(usize, usize, usize),
    /// All readers read on.
    ReadOn(usize),
    Close,
    /// A snapshot of the other node arrives, up to so many chunks, in an order that follows from the seed.
    Arrive(usize, usize, u64),
    /// A bit of a chunk flips, and is put right.
    Damage(usize, usize),
    End(usize, End),
}

#[derive(Debug, Clone, Copy)]
struct Edit {
    at: usize,
    bytes: usize,
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Close,
    Kill,
    PowerCut(u64),
}

const STATE_BYTES: usize = 40 << 10;

fn edit() -> impl Strategy<Value = Edit> {
    let bytes = prop_oneof![3 => 1..500_usize, 1 => 500..STATE_BYTES];
    (0..STATE_BYTES, bytes, any::<u64>()).prop_map(|(at, bytes, seed)| Edit {
        at,
        bytes: bytes.min(STATE_BYTES - at),
        seed,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0..2_usize;
    let end = prop_oneof![
        Just(End::Close),
        Just(End::Kill),
        any::<u64>().prop_map(End::PowerCut)
    ];
    prop_oneof![
        6 => (node.clone(), edit()).prop_map(|(node, edit)| Op::Write(node, edit)),
        1 => (node.clone(), edit(), edit()).prop_map(|(node, a, b)| Op::WriteBoth(node, a, b)),
        4 => (node.clone(), 0..4_usize).prop_map(|(node, keep)| Op::Drop(node, keep)),
        2 => (node.clone(), any::<usize>(), 0..9000_usize).prop_map(|(n, w, b)| Op::Open(n, w, b)),
        1 => (1..9000_usize).prop_map(Op::ReadOn),
        1 => Just(Op::Close),
        4 => (node.clone(), 0..200_usize, any::<u64>()).prop_map(|(n, c, s)| Op::Arrive(n, c, s)),
        1 => (node.clone(), any::<usize>()).prop_map(|(node, which)| Op::Damage(node, which)),
        2 => (node, end).prop_map(|(node, end)| Op::End(node, end)),
    ]
}

struct Node {
    disk: SimDisk,
    store: Option<SnapshotStore>,
    /// What its state machine holds.
    state: Vec<u8>,
    /// The indexes of the snapshots that are there.
    kept: BTreeSet<u64>,
    readers: Vec<(SnapshotReader, u64, Vec<u8>)>,
    /// What has arrived of an install.
    arriving: Option<Manifest>,
}

impl Node {
    fn new() -> Node {
        let disk = SimDisk::new();
        Node {
            store: Some(open(&disk).unwrap()),
            disk,
            state: noise(1, STATE_BYTES),
            kept: BTreeSet::new(),
            readers: Vec::new(),
            arriving: None,
        }
    }

    fn store(&self) -> &SnapshotStore {
        self.store.as_ref().unwrap()
    }

    fn apply(&mut self, edit: Edit) {
        self.state = edited(&self.state, edit.at, edit.bytes, edit.seed);
    }

    fn end(&mut self, end: End) {
        self.readers.clear();
        self.store = None;
        match end {
            End::Close => {}
            End::Kill => self.disk.kill(),
            End::PowerCut(seed) => self.disk.power_cut(seed),
        }
        let store = open(&self.disk).unwrap();
        assert_eq!(store.report().damaged, []);
        assert_eq!(store.report().incomplete, []);
        let installs: Vec<_> = self.arriving.iter().cloned().collect();
        assert_eq!(store.installs(), installs);
        self.store = Some(store);
    }

    fn damage(&self, which: usize) {
        let list = self.store().list();
        let chunks = list.iter().flat_map(|snapshot| snapshot.manifest.chunks());
        let chunks: Vec<_> = chunks.collect();
        if chunks.is_empty() {
            return;
        }
        let name = chunks[which % chunks.len()].name;
        let bytes = self.store().read_chunk(name).unwrap();
        let (file, at) = place_of(&self.disk, &bytes);
        self.disk.open(&file).unwrap().sync_data().unwrap();
        self.disk.flip_bit(&file, at, 3).unwrap();
        for bad in self.store().verify(|_| {}).unwrap().bad_chunks {
            assert_eq!(bad.name, name);
            assert!(!bad.snapshots.is_empty());
            let read = self.store().read_chunk(name);
            assert!(matches!(read, Err(Error::DamagedChunk { .. })));
            self.store().repair_chunk(name, &bytes).unwrap();
        }
    }

    fn look(&self, states: &States) {
        let found: BTreeSet<u64> = indexes(self.store()).into_iter().collect();
        assert_eq!(found, self.kept);
        all_read_back(self.store(), states);
        let stats = self.store().stats();
        let lens = names(&self.disk).into_iter();
        let lens = lens.map(|name| self.disk.open(&path(&name)).unwrap().len().unwrap());
        let (files, bytes) = lens.fold((0, 0), |(files, bytes), len| (files + 1, bytes + len));
        assert_eq!(stats.snapshots as usize, self.kept.len());
        assert_eq!(stats.files, files, "{stats:?}");
        assert!(stats.used_bytes <= bytes, "{stats:?}, {bytes} bytes");
    }
}

struct History {
    nodes: [Node; 2],
    states: States,
    next: u64,
}

impl History {
    fn run(ops: &[Op]) {
        let mut history = History {
            nodes: [Node::new(), Node::new()],
            states: States::new(),
            next: 1,
        };
        for op in ops {
            history.step(op);
            history
                .nodes
                .iter()
                .for_each(|node| node.look(&history.states));
        }
        history.end();
    }

    fn index(&mut self, state: &[u8]) -> u64 {
        self.states.insert(self.next, state.to_vec());
        self.next += 1;
        self.next - 1
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Write(node, edit) => {
                self.nodes[node].apply(edit);
                let index = self.index(&self.nodes[node].state.clone());
                let node = &mut self.nodes[node];
                write(node.store(), index, &node.state).unwrap();
                node.kept.insert(index);
            }
            Op::WriteBoth(node, one, other) => {
                self.nodes[node].apply(one);
                let one = self.index(&self.nodes[node].state.clone());
                self.nodes[node].apply(other);
                let other = self.index(&self.nodes[node].state.clone());
                let node = &mut self.nodes[node];
                let first = begin(node.store(), one, &self.states[&one]).unwrap();
                let second = begin(node.store(), other, &self.states[&other]).unwrap();
                second.publish().unwrap();
                first.publish().unwrap();
                node.kept.extend([one, other]);
            }
            Op::Drop(node, keep) => {
                let node = &mut self.nodes[node];
                let dropped = node.store().drop_older(keep).unwrap();
                let before = node.kept.len();
                while node.kept.len() > keep {
                    node.kept.pop_first();
                }
                assert_eq!(dropped.len(), before - node.kept.len());
                space_is_bounded(node.store());
            }
            Op::Open(node, which, bytes) => self.open(node, which, bytes),
            Op::ReadOn(bytes) => self.read_on(bytes),
            Op::Close => self.nodes.iter_mut().for_each(|node| node.readers.clear()),
            Op::Arrive(node, chunks, seed) => self.arrive(node, chunks, seed),
            Op::Damage(node, which) => self.nodes[node].damage(which),
            Op::End(node, end) => self.nodes[node].end(end),
        }
    }

    fn open(&mut self, node: usize, which: usize, bytes: usize) {
        let node = &mut self.nodes[node];
        let kept: Vec<u64> = node.kept.iter().copied().collect();
        if kept.is_empty() || node.readers.len() > 2 {
            return;
        }
        let index = kept[which % kept.len()];
        let reader = node.store().reader(id_of(node.store(), index)).unwrap();
        node.readers.push((reader, index, Vec::new()));
        self.read_on(bytes);
    }

    /// What was dropped meanwhile reads on as it was.
    fn read_on(&mut self, bytes: usize) {
        for node in &mut self.nodes {
            for (reader, index, read) in &mut node.readers {
                reader.take(bytes as u64).read_to_end(read).unwrap();
                assert!(self.states[index].starts_with(read), "reading {index}");
            }
        }
    }

    fn arrive(&mut self, to: usize, chunks: usize, seed: u64) {
        let (from, to) = match &mut self.nodes {
            [one, other] if to == 0 => (&*other, one),
            [one, other] => (&*one, other),
        };
        let Some(latest) = from.store().latest() else {
            return;
        };
        let index = latest.manifest.meta().last_index;
        if to.kept.contains(&index) {
            return;
        }
        let mut install = to.store().begin_install(latest.manifest.clone()).unwrap();
        to.arriving = Some(latest.manifest);
        let mut missing = install.missing();
        missing.sort_by_key(|name| name.as_bytes().map(|byte| byte ^ seed as u8));
        for name in missing.iter().take(chunks) {
            let bytes = from.store().read_chunk(*name).unwrap();
            assert!(install.put(*name, &bytes).unwrap());
        }
        let left = missing.len().saturating_sub(chunks);
        match install.publish() {
            Ok(_) => {
                assert_eq!(left, 0);
                to.arriving = None;
                to.kept.insert(index);
            }
            Err(Error::Incomplete { missing }) => assert_eq!(missing, left),
            Err(error) => panic!("{error}"),
        }
    }

    /// When nobody needs anything, nothing is there.
    fn end(mut self) {
        self.read_on(usize::MAX);
        for node in &mut self.nodes {
            let readers = std::mem::take(&mut node.readers);
            for (_, index, read) in readers {
                assert!(read == self.states[&index], "reading {index}");
            }
            node.end(End::PowerCut(0));
            node.look(&self.states);
            node.store().drop_older(0).unwrap();
            if node.arriving.is_none() {
                assert_eq!(names(&node.disk), [""; 0]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_stores_hold_what_the_model_holds(ops in prop::collection::vec(op(), 1..40)) {
        History::run(&ops);
    }
}
