//! Many threads use one store: snapshots are written, dropped, read, verified, sent and taken in at the same time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::HashMap;
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::scope;

use duramen_disk::SimDisk;
use duramen_snapshot::{Error, SnapshotStore};
use support::*;

/// What the threads share.
struct Shared {
    store: SnapshotStore,
    /// What was written, before it is there.
    states: Mutex<HashMap<u64, Vec<u8>>>,
    is_done: AtomicBool,
    read: AtomicU64,
    sent: AtomicU64,
}

/// The state of an index: each differs a little from the one before.
fn state(index: u64) -> Vec<u8> {
    let mut state = noise(1, 48 << 10);
    for change in index.saturating_sub(20)..=index {
        let at = (change * 7919 % (47 << 10)) as usize;
        state = edited(&state, at, 600, change);
    }
    state
}

impl Shared {
    fn write_and_drop(&self, indexes: impl Iterator<Item = u64>) {
        for index in indexes {
            let state = state(index);
            self.states.lock().unwrap().insert(index, state.clone());
            write(&self.store, index, &state).unwrap();
            self.store.drop_older(2).unwrap();
            space_is_bounded_with(&self.store, 3);
        }
    }

    /// A snapshot that was opened is read to its end, whatever is dropped.
    fn read_all(&self) {
        while !self.is_done.load(Ordering::Relaxed) {
            let Some(latest) = self.store.latest() else {
                continue;
            };
            let mut reader = match self.store.reader(latest.id) {
                Ok(reader) => reader,
                Err(Error::NoSuchSnapshot { .. }) => continue,
                Err(error) => panic!("{error}"),
            };
            let mut found = Vec::new();
            reader.read_to_end(&mut found).unwrap();
            let index = latest.manifest.meta().last_index;
            assert!(self.states.lock().unwrap()[&index] == found, "{index}");
            self.read.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A follower takes in whatever is the latest, unless it is dropped meanwhile.
    fn send_all(&self) {
        let follower = open(&SimDisk::new()).unwrap();
        while !self.is_done.load(Ordering::Relaxed) {
            let Some(latest) = self.store.latest() else {
                continue;
            };
            let mut install = follower.begin_install(latest.manifest.clone()).unwrap();
            let missing = install.missing();
            let all = missing
                .iter()
                .all(|name| match self.store.read_chunk(*name) {
                    Ok(bytes) => install.put(*name, &bytes).unwrap(),
                    Err(Error::UnknownChunk { .. }) => false,
                    Err(error) => panic!("{error}"),
                });
            if all {
                let published = install.publish().unwrap();
                let index = latest.manifest.meta().last_index;
                let found = read(&follower, published.id).unwrap();
                assert!(self.states.lock().unwrap()[&index] == found, "{index}");
                follower.drop_older(1).unwrap();
                self.sent.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn verify_all(&self) {
        while !self.is_done.load(Ordering::Relaxed) {
            let report = self.store.verify(|_| {}).unwrap();
            assert_eq!(report.bad_chunks, []);
        }
    }
}

/// As [`space_is_bounded`], where so many writers may each have written the same.
fn space_is_bounded_with(store: &SnapshotStore, writers: u64) {
    let stats = store.stats();
    let bound = writers * stats.live_bytes + (16 << 10) * stats.files;
    assert!(stats.used_bytes <= bound, "{stats:?}");
}

#[test]
fn all_at_the_same_time() {
    let disk = SimDisk::new();
    let shared = Shared {
        store: open(&disk).unwrap(),
        states: Mutex::default(),
        is_done: AtomicBool::new(false),
        read: AtomicU64::new(0),
        sent: AtomicU64::new(0),
    };
    scope(|threads| {
        let (even, odd) = ((2..400).step_by(2), (1..400).step_by(2));
        let writers = [
            threads.spawn(|| shared.write_and_drop(even)),
            threads.spawn(|| shared.write_and_drop(odd)),
        ];
        threads.spawn(|| shared.read_all());
        threads.spawn(|| shared.send_all());
        threads.spawn(|| shared.verify_all());
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        shared.is_done.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    let (read, sent) = (shared.read.into_inner(), shared.sent.into_inner());
    println!("{read} snapshots were read, {sent} sent");
    assert!(read > 0, "{read}");
    shared.store.drop_older(0).unwrap();
    assert_eq!(names(&disk), [""; 0]);
}
