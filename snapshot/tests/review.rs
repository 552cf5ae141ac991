//! What a reviewer found: retries on a full disk, files that cannot be read for a while, numbers and lengths that lie.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{ErrorKind, Write};
use std::sync::Arc;

use duramen_disk::{Disk, Op, SimDisk};
use duramen_snapshot::{BadManifest, Error, Manifest, Meta, SnapshotStore};
use support::*;

const STATE_BYTES: usize = 48 << 10;

fn two_states() -> States {
    States::from([(10, noise(1, STATE_BYTES)), (20, noise(2, STATE_BYTES))])
}

/// A store with an install of snapshot 10 that has all its chunks, and a snapshot 30 of the same state, that needs them.
fn shared_with_an_install(disk: &SimDisk) -> States {
    let mut states = two_states();
    let (store, peer) = (open(disk).unwrap(), peer(&states));
    let mut install = store.begin_install(manifest(&peer, 10)).unwrap();
    fetch(&mut install, &peer).unwrap();
    let published = write(&store, 30, &states[&10]).unwrap();
    assert_eq!(published.counts.bytes_written, 0);
    states.insert(30, states[&10].clone());
    states
}

/// Flips a bit in the manifest of a file.
fn spoil_manifest(disk: &SimDisk, name: &str) {
    let bytes = bytes_of(disk, &path(name));
    let at = bytes.windows(8).position(|found| found == b"DURAMANI");
    disk.flip_bit(&path(name), at.unwrap() as u64 + 60, 0)
        .unwrap();
}

fn has_file(disk: &SimDisk, number: &str) -> bool {
    names(disk).iter().any(|name| name.starts_with(number))
}

/// Chunks of 768 KiB and more, which go to the file before they are padded.
#[test]
fn a_long_chunk_that_had_no_room_leaves_the_others_where_they_can_be_found() {
    let mut long = options();
    long.chunk_bytes = 1 << 20;
    let peer = SnapshotStore::open_on(Arc::new(SimDisk::new()), DIR, long).unwrap();
    let states = States::from([(10, noise(1, 6 << 20))]);
    write(&peer, 10, &states[&10]).unwrap();
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    let mut install = store.begin_install(manifest(&peer, 10)).unwrap();
    for name in install.missing() {
        let bytes = peer.read_chunk(name).unwrap();
        disk.set_free_bytes(Some(0));
        assert!(matches!(install.put(name, &bytes), Err(Error::Full { .. })));
        disk.set_free_bytes(None);
        assert!(install.put(name, &bytes).unwrap());
    }
    install.publish().unwrap();
    drop(store);
    let store = open(&disk).unwrap();
    assert_eq!(store.report().damaged, []);
    all_read_back(&store, &states);
}

#[test]
fn what_is_put_again_when_there_is_room_is_written_once() {
    let states = two_states();
    let peer = peer(&states);
    let file_bytes = |tries: usize| {
        let disk = SimDisk::new();
        let store = open(&disk).unwrap();
        let mut install = store.begin_install(manifest(&peer, 10)).unwrap();
        for name in install.missing() {
            let bytes = peer.read_chunk(name).unwrap();
            disk.set_free_bytes(Some(0));
            for _ in 0..tries {
                assert!(install.put(name, &bytes).is_err());
            }
            disk.set_free_bytes(None);
            assert!(install.put(name, &bytes).unwrap());
        }
        let published = install.publish().unwrap();
        all_read_back(&store, &states);
        published.counts.file_bytes
    };
    assert_eq!(file_bytes(10), file_bytes(0));
}

/// A sync that has no space (delayed allocation) has failed as any other: its pages count as clean.
#[test]
fn a_sync_without_space_is_never_tried_again() {
    let (disk, states) = (SimDisk::new(), two_states());
    let (store, peer) = (open(&disk).unwrap(), peer(&states));
    let mut install = store.begin_install(manifest(&peer, 10)).unwrap();
    fetch(&mut install, &peer).unwrap();
    drop(install);
    // Somebody needs what has arrived, so that giving up the install keeps it.
    let mut writer = store.begin(Meta::new(1, 30)).unwrap();
    writer.write_all(&states[&10]).unwrap();
    writer.write_all(&vec![0; 1 << 20]).unwrap();
    assert!(writer.counts().bytes_shared > 0);
    // The first one is that of the new install's manifest.
    disk.fail_op(Op::SyncData, 1, ErrorKind::StorageFull);
    let other = store.begin_install(manifest(&peer, 20));
    drop((other, writer));
    let again = store.begin_install(manifest(&peer, 10));
    if let Ok(install) = again {
        install.publish().unwrap();
        drop(store);
        disk.power_cut(0);
        all_read_back(&open(&disk).unwrap(), &states);
        panic!("it was not the sync of the first install that failed");
    }
    assert!(matches!(again, Err(Error::Poisoned { .. })));
}

#[test]
fn an_install_that_cannot_be_read_stays_while_a_snapshot_lacks_chunks() {
    let disk = SimDisk::new();
    shared_with_an_install(&disk);
    let file = path(&names(&disk)[0]);
    disk.power_cut(0); // Everything is durable.
    let len = disk.open(&file).unwrap().len().unwrap();
    disk.make_bad(&file, 0..len).unwrap();
    let store = open(&disk).unwrap();
    assert_eq!(store.report().incomplete.len(), 1);
    assert!(has_file(&disk, "0000000000000001"), "{:?}", names(&disk));
}

#[test]
fn an_install_without_manifest_stays_while_nobody_knows_what_a_snapshot_needs() {
    let disk = SimDisk::new();
    shared_with_an_install(&disk);
    disk.power_cut(0);
    for name in names(&disk) {
        spoil_manifest(&disk, &name);
    }
    drop(open(&disk).unwrap());
    assert!(has_file(&disk, "0000000000000001"), "{:?}", names(&disk));
}

#[test]
fn an_install_is_given_up_and_stays_while_nobody_knows_what_a_snapshot_needs() {
    let disk = SimDisk::new();
    let states = shared_with_an_install(&disk);
    disk.power_cut(0);
    spoil_manifest(&disk, "0000000000000002.snap");
    let store = open(&disk).unwrap();
    store
        .begin_install(manifest(&peer(&two_states()), 20))
        .unwrap();
    drop(store);
    assert!(has_file(&disk, "0000000000000001"), "{:?}", names(&disk));
    spoil_manifest(&disk, "0000000000000002.snap"); // It is what it was.
    let store = open(&disk).unwrap();
    assert_eq!(indexes(&store), [30]);
    all_read_back(&store, &states);
}

#[test]
fn a_file_with_the_last_number_hides_no_snapshot() {
    let disk = SimDisk::new();
    let states = States::from([(10, noise(1, STATE_BYTES))]);
    write(&open(&disk).unwrap(), 10, &states[&10]).unwrap();
    disk.rename(
        &path("0000000000000001.snap"),
        &path("3fffffffffffffff.snap"),
    )
    .unwrap();
    let store = open(&disk).unwrap();
    let published = write(&store, 20, b"the next one");
    drop(store);
    let is_there = indexes(&open(&disk).unwrap()).contains(&20);
    assert_eq!(is_there, published.is_ok());
}

/// An install of it is never complete; as a snapshot it can only come from a file that somebody made.
#[test]
fn a_snapshot_that_lies_about_a_length_is_not_read_short() {
    let states = two_states();
    let (disk, peer) = (SimDisk::new(), peer(&states));
    for by in [-1_i64, 1] {
        let disk = disk.fork();
        let mut encoded = manifest(&peer, 10).encode();
        let refs = encoded.len() - 36 * manifest(&peer, 10).chunks().len();
        let bytes = manifest(&peer, 10).chunks()[0].bytes as i64 + by;
        encoded[refs + 32..][..4].copy_from_slice(&(bytes as u32).to_le_bytes());
        let sum = (STATE_BYTES as i64 + by) as u64;
        encoded[24..32].copy_from_slice(&sum.to_le_bytes());
        let lying = Manifest::decode(&encoded).unwrap();
        let store = open(&disk).unwrap();
        write(&store, 10, &states[&10]).unwrap();
        drop(store.begin_install(lying).unwrap());
        drop(store);
        disk.rename(
            &path("0000000000000002.install"),
            &path("0000000000000002.snap"),
        )
        .unwrap();
        let store = open(&disk).unwrap();
        let list = store.list();
        let liar = list.iter().find(|snapshot| snapshot.missing == 1).unwrap();
        let error = read(&store, liar.id).unwrap_err();
        assert!(matches!(error, Error::MissingChunk { snapshot, .. } if snapshot == Some(liar.id)));
    }
}

/// A file of it could be written, and not be found again.
#[test]
fn a_manifest_of_more_chunks_than_a_snapshot_can_have_is_refused() {
    let chunks = (1_usize << 24) + 1;
    let mut encoded = manifest(&peer(&two_states()), 10).encode();
    encoded[16..24].copy_from_slice(&(chunks as u64).to_le_bytes());
    let meta_bytes = u64::from_le_bytes(encoded[8..16].try_into().unwrap()) as usize;
    let mut long = vec![0; 32 + meta_bytes.next_multiple_of(4) + 36 * chunks];
    long[..64].copy_from_slice(&encoded[..64]);
    let error = Manifest::decode(&long).unwrap_err();
    assert!(matches!(
        error,
        Error::BadManifest {
            reason: BadManifest::Length
        }
    ));
}

/// A lone repair is given back with its file when the next one replaces it.
#[test]
fn chunks_that_are_repaired_again_and_again_take_no_more_space() {
    let mut long = options();
    long.chunk_bytes = 64 << 10;
    let store = SnapshotStore::open_on(Arc::new(SimDisk::new()), DIR, long).unwrap();
    let state = noise(1, 512 << 10);
    write(&store, 10, &state).unwrap();
    let name = some_chunk(&store);
    let bytes = store.read_chunk(name).unwrap();
    for _ in 0..50 {
        store.repair_chunk(name, &bytes).unwrap();
    }
    space_is_bounded(&store);
}

#[test]
fn a_repair_of_a_length_that_no_chunk_has_is_refused() {
    let (disk, states) = (SimDisk::new(), two_states());
    let (store, peer) = (open(&disk).unwrap(), peer(&states));
    let name = duramen_snapshot::ChunkName::of(b"");
    let mut encoded = manifest(&peer, 10).encode();
    let refs = encoded.len() - 36 * manifest(&peer, 10).chunks().len();
    encoded[refs..][..32].copy_from_slice(name.as_bytes());
    let install = store.begin_install(Manifest::decode(&encoded).unwrap());
    let repaired = store.repair_chunk(name, b"");
    assert!(matches!(repaired, Err(Error::WrongChunk { .. })));
    drop((install, store));
    assert_eq!(open(&disk).unwrap().report().damaged, []);
}

/// A state machine that only ever appends: each snapshot's own chunks are needed for ever.
#[test]
fn the_number_of_files_does_not_grow_with_the_number_of_snapshots() {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    let state = noise(1, 300 * 2048);
    for at in 1..=300 {
        write(&store, at as u64, &state[..at * 2048]).unwrap();
        store.drop_older(1).unwrap();
    }
    let stats = store.stats();
    assert!(stats.files < 50, "{stats:?}");
}

#[test]
fn an_install_that_cannot_be_read_is_not_given_up_while_a_snapshot_lacks_chunks() {
    let (disk, states) = (SimDisk::new(), two_states());
    shared_with_an_install(&disk);
    disk.power_cut(0);
    let file = path("0000000000000001.install");
    disk.make_bad(&file, 32768..33280).unwrap();
    let store = open(&disk).unwrap();
    assert_eq!(store.report().incomplete.len(), 1);
    drop(store.begin_install(manifest(&peer(&states), 20)).unwrap());
    store.give_up_installs().unwrap();
    assert!(disk.open(&file).is_ok(), "{:?}", names(&disk));
    // When nothing is missing any more it is given up.
    for name in store.missing(&manifest(&peer(&states), 10)) {
        let bytes = peer(&states).read_chunk(name).unwrap();
        store.repair_chunk(name, &bytes).unwrap();
    }
    store.give_up_installs().unwrap();
    assert!(disk.open(&file).is_err(), "{:?}", names(&disk));
    assert_eq!(read(&store, id_of(&store, 30)).unwrap(), states[&10]);
}
