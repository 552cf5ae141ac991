//! A disk that fills up at any byte: the snapshots that are there stay, the store says so, and goes on when there is room.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use duramen_disk::{Disk, SimDisk};
use duramen_snapshot::{Error, Result, SnapshotStore};
use support::*;

struct Story {
    start: SimDisk,
    states: States,
    peer: SnapshotStore,
    /// The snapshots at the start.
    old: Vec<u64>,
}

fn states() -> States {
    let first = noise(1, 3000);
    let second = edited(&first, 1500, 200, 2);
    States::from([
        (10, first),
        (20, second),
        (30, noise(3, 4000)),
        (40, noise(4, 2000)),
    ])
}

impl Story {
    fn new(states: States, old: &[u64]) -> Story {
        let (start, peer) = (SimDisk::new(), peer(&states));
        let store = open(&start).unwrap();
        for index in old {
            write(&store, *index, &states[index]).unwrap();
        }
        drop(store);
        start.power_cut(0);
        Story {
            start,
            states,
            peer,
            old: old.to_vec(),
        }
    }

    /// Lets the disk have ever more room, until a step is done. Gives how often it was not.
    fn fill(&self, stride: u64, step: impl Fn(&SnapshotStore) -> Result<()>) -> u64 {
        let mut full = 0;
        for room in (0..).step_by(stride as usize) {
            let disk = self.start.fork();
            let store = open(&disk).unwrap();
            disk.set_free_bytes(Some(room));
            match step(&store) {
                Ok(()) => {
                    self.goes_on(&disk, store, &step);
                    break;
                }
                Err(Error::Full { .. }) => full += 1,
                Err(error) => panic!("with {room} bytes: {error}"),
            }
            self.holds(&disk, &store);
            // The process may end while it is full, and opens again.
            let again = disk.fork();
            again.kill();
            let other = open(&again).unwrap();
            self.holds(&again, &other);
            drop(other);
            again.power_cut(room);
            self.holds(&again, &open(&again).unwrap());
            self.goes_on(&disk, store, &step);
        }
        assert!(full > 0);
        full
    }

    /// What was there is there, and nothing is left over.
    fn holds(&self, disk: &SimDisk, store: &SnapshotStore) {
        assert!(self.old.iter().all(|index| indexes(store).contains(index)));
        all_read_back(store, &self.states);
        let names = names(disk);
        assert!(
            !names.iter().any(|name| name.ends_with(".tmp")),
            "{names:?}"
        );
    }

    fn goes_on(
        &self,
        disk: &SimDisk,
        store: SnapshotStore,
        step: impl Fn(&SnapshotStore) -> Result<()>,
    ) {
        disk.set_free_bytes(None);
        step(&store).unwrap();
        all_read_back(&store, &self.states);
        space_is_bounded(&store);
        let there = indexes(&store);
        drop(store);
        disk.power_cut(0);
        let store = open(disk).unwrap();
        assert_eq!(indexes(&store), there);
        all_read_back(&store, &self.states);
    }

    fn install(&self, store: &SnapshotStore, index: u64) -> Result<()> {
        let mut install = store.begin_install(manifest(&self.peer, index))?;
        fetch(&mut install, &self.peer)?;
        install.publish().map(drop)
    }
}

#[test]
fn while_a_snapshot_is_written() {
    let story = Story::new(states(), &[10]);
    let full = story.fill(64, |store| write(store, 20, &story.states[&20]).map(drop));
    assert!(full > 5, "{full}");
    let full = story.fill(64, |store| write(store, 30, &story.states[&30]).map(drop));
    assert!(full > 50, "{full}");
}

#[test]
fn while_a_snapshot_arrives() {
    let story = Story::new(states(), &[10]);
    let full = story.fill(64, |store| story.install(store, 30));
    assert!(full > 50, "{full}");
    let full = story.fill(16, |store| story.install(store, 20));
    assert!(full > 20, "{full}");
}

#[test]
fn while_an_install_is_given_up_for_another() {
    let story = Story::new(states(), &[10]);
    let store = open(&story.start).unwrap();
    let mut install = store.begin_install(manifest(&story.peer, 30)).unwrap();
    fetch(&mut install, &story.peer).unwrap();
    drop((install, store));
    story.start.kill();
    let full = story.fill(32, |store| story.install(store, 40));
    assert!(full > 10, "{full}");
}

#[test]
fn while_a_chunk_is_repaired() {
    let story = Story::new(states(), &[10, 20]);
    let full = story.fill(16, |store| {
        let name = some_chunk(store);
        store.repair_chunk(name, &story.peer.read_chunk(name).unwrap())
    });
    assert!(full > 10, "{full}");
}

/// A drop needs no room. What lives of a mostly dead file is written together another time.
#[test]
fn a_drop_needs_no_room() {
    let first = noise(1, 48 << 10);
    let mut second = first.clone();
    for (at, block) in second.chunks_mut(4096).enumerate() {
        let len = block.len() - 1200;
        block[..len].copy_from_slice(&noise(7 + at as u64, len));
    }
    let story = Story::new(States::from([(10, first), (20, second)]), &[10, 20]);
    for room in (0..40_000).step_by(500) {
        let disk = story.start.fork();
        let store = open(&disk).unwrap();
        disk.set_free_bytes(Some(room));
        store.drop_older(1).unwrap();
        assert_eq!(indexes(&store), [20]);
        all_read_back(&store, &story.states);
        assert!(!names(&disk).iter().any(|name| name.ends_with(".tmp")));
        disk.set_free_bytes(None);
        assert_eq!(store.drop_older(1).unwrap(), []);
        space_is_bounded(&store);
        all_read_back(&store, &story.states);
    }
}

/// Each name takes space, so that not even an empty file can be made.
#[test]
fn no_room_for_a_name() {
    let story = Story::new(states(), &[10]);
    let disk = story.start.fork();
    disk.set_name_bytes(100);
    disk.set_free_bytes(Some(50));
    let store = open(&disk).unwrap();
    let error = write(&store, 20, &story.states[&20]).unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    let error = story.install(&store, 20).unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    story.holds(&disk, &store);
    assert_eq!(disk.list(DIR.as_ref()).unwrap().len(), 2);
    story.goes_on(&disk, store, |store| {
        write(store, 20, &story.states[&20]).map(drop)
    });
}

/// What has arrived fills the disk: it can be given up all the same, and then there is room.
#[test]
fn an_install_that_fills_the_disk_is_given_up_without_room() {
    let story = Story::new(states(), &[10]);
    let disk = story.start.fork();
    let store = open(&disk).unwrap();
    let peer = peer(&story.states);
    let mut install = store.begin_install(manifest(&peer, 20)).unwrap();
    disk.set_free_bytes(Some(1_000));
    let error = fetch(&mut install, &peer).unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    drop(install);
    disk.set_free_bytes(Some(0));
    store.give_up_installs().unwrap();
    assert_eq!(store.installs(), []);
    assert!(!names(&disk).iter().any(|name| name.ends_with(".install")));
    all_read_back(&store, &story.states);
    drop(store);
    disk.power_cut(1);
    disk.set_free_bytes(None);
    let store = open(&disk).unwrap();
    assert_eq!(store.installs(), []);
    story.install(&store, 20).unwrap();
    all_read_back(&store, &story.states);
}
