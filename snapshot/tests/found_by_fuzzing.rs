//! What the fuzz target `snapshot_open` found, one by one.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use duramen_disk::{Disk, SimDisk};
use duramen_snapshot::{Meta, Options, SnapshotStore};

fn open(disk: &SimDisk) -> SnapshotStore {
    let mut options = Options::default();
    options.chunk_bytes = 256;
    SnapshotStore::open_on(Arc::new(disk.clone()), "/store", options).expect("a store")
}

/// Bytes without a pattern, all but the last the same in every state.
fn state(last: u8) -> Vec<u8> {
    let mut word = 1_u64;
    let next = |_| {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (word >> 33) as u8
    };
    let shared = (0..6000).map(next);
    shared.chain([last]).collect()
}

/// The file of a dropped snapshot holds its manifest still. When its trailer was bad, and it was searched for chunks, that
/// was found, and the snapshot was back; once nothing of the file was needed any more, dropping it again panicked.
#[test]
fn a_dropped_snapshot_stays_dropped_when_its_file_is_damaged() {
    let disk = SimDisk::new();
    let store = open(&disk);
    for last in 1..=2 {
        let mut writer = store.begin(Meta::new(1, last.into())).unwrap();
        writer.write_all(&state(last)).unwrap();
        writer.publish().unwrap();
    }
    let [dropped] = store.drop_older(1).unwrap()[..] else {
        panic!("one is older");
    };
    drop(store);
    let path = Path::new("/store").join(format!("{:016x}.chunks", dropped.0));
    let file = disk.open(&path).unwrap();
    file.set_len(file.len().unwrap() + 1).unwrap();

    let store = open(&disk);
    assert_eq!(store.report().damaged.len(), 1);
    let [ref kept] = store.list()[..] else {
        panic!("{:?}", store.list());
    };
    assert_eq!((kept.manifest.meta().last_index, kept.missing), (2, 0));
    assert_eq!(store.drop_older(0).unwrap(), [kept.id]);
}
