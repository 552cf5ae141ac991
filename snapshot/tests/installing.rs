//! Taking in a snapshot: what is asked for, what is refused, and what others need of one that is not complete.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use duramen_disk::{Disk, Failure, SimDisk};
use duramen_snapshot::{BadManifest, ChunkName, Error, Manifest};
use support::*;

const FIRST_BYTES: usize = 48 << 10;

/// Two states that share their second half.
fn halves() -> States {
    let first = noise(1, FIRST_BYTES);
    let second = edited(&first, 0, FIRST_BYTES / 2, 2);
    States::from([(10, first), (20, second)])
}

#[test]
fn chunks_come_in_any_order_and_more_than_once() {
    let (disk, states) = (SimDisk::new(), halves());
    let (store, peer) = (open(&disk).unwrap(), peer(&states));
    let mut install = store.begin_install(manifest(&peer, 10)).unwrap();
    let missing = install.missing();
    for name in missing.iter().rev() {
        let bytes = peer.read_chunk(*name).unwrap();
        assert!(install.put(*name, &bytes).unwrap());
        assert!(!install.put(*name, &bytes).unwrap());
    }
    let published = install.publish().unwrap();
    assert_eq!(published.manifest, manifest(&peer, 10));
    assert_eq!(published.counts.bytes_written, FIRST_BYTES as u64);
    assert_eq!(published.counts.bytes_shared, FIRST_BYTES as u64);
    all_read_back(&store, &states);

    // Of the next one, only what changed is missing.
    let next = manifest(&peer, 20);
    let mut install = store.begin_install(next).unwrap();
    assert!(install.missing().len() < missing.len() * 2 / 3);
    fetch(&mut install, &peer).unwrap();
    install.publish().unwrap();
    all_read_back(&store, &states);
    space_is_bounded(&store);
}

#[test]
fn what_is_not_asked_for_is_refused() {
    let (disk, states) = (SimDisk::new(), halves());
    let (store, peer) = (open(&disk).unwrap(), peer(&states));
    let all = manifest(&peer, 10);
    let mut install = store.begin_install(all.clone()).unwrap();
    let (one, other) = (all.chunks()[0].name, all.chunks()[1].name);
    let (bytes, strange) = (peer.read_chunk(one).unwrap(), ChunkName::of(b"strange"));
    let error = install.put(other, &bytes).unwrap_err();
    assert!(
        matches!(error, Error::WrongChunk { expected, found, .. } if (expected, found) == (other, one))
    );
    let error = install.put(strange, b"strange").unwrap_err();
    assert!(matches!(error, Error::UnknownChunk { name } if name == strange));
    let error = store.begin_install(all.clone()).err().unwrap();
    assert!(matches!(error, Error::Installing { name } if name == all.name()));
    install.put(one, &bytes).unwrap();
    let missing = install.missing().len();
    let error = install.publish().unwrap_err();
    assert!(matches!(error, Error::Incomplete { missing: told } if told == missing));
    // And all of this took nothing away.
    let mut install = store.begin_install(all).unwrap();
    assert_eq!(install.missing().len(), missing);
    fetch(&mut install, &peer).unwrap();
    install.publish().unwrap();
    all_read_back(&store, &states);
}

#[test]
fn a_hole_is_not_taken_for_a_chunk_that_arrived() {
    let (disk, states) = (SimDisk::new(), halves());
    let (store, peer) = (open(&disk).unwrap(), peer(&states));
    write(&store, 10, &states[&10]).unwrap();
    write(&store, 20, &states[&20]).unwrap();
    let before = store.stats().used_bytes;
    store.drop_older(1).unwrap();
    let given_back = before - store.stats().used_bytes;
    assert!(given_back > 16 << 10, "{given_back}");
    assert_eq!(
        names(&disk).len(),
        2,
        "a file was moved, so that there are no holes"
    );
    // The first one comes back from a peer. What it needs of the half that is a hole now is missing, and stays so when
    // the process is killed before it arrives.
    let install = store.begin_install(manifest(&peer, 10)).unwrap();
    let missing = install.missing();
    assert!(missing.len() > 50);
    drop((install, store));
    for power_cut in [false, true] {
        let disk = disk.fork();
        match power_cut {
            true => disk.power_cut(0),
            false => disk.kill(),
        }
        let store = open(&disk).unwrap();
        let mut install = store.begin_install(manifest(&peer, 10)).unwrap();
        fetch(&mut install, &peer).unwrap();
        install.publish().unwrap();
        all_read_back(&store, &states);
    }
}

/// The manifest with another length for its chunk `at`, and one that fits as their sum.
fn with_length(manifest: &Manifest, at: usize, bytes: u32) -> Result<Manifest, Error> {
    let mut encoded = manifest.encode();
    let sum = manifest.bytes() - u64::from(manifest.chunks()[at].bytes) + u64::from(bytes);
    encoded[24..32].copy_from_slice(&sum.to_le_bytes());
    let refs = encoded.len() - 36 * manifest.chunks().len();
    encoded[refs + 36 * at + 32..][..4].copy_from_slice(&bytes.to_le_bytes());
    Manifest::decode(&encoded)
}

#[test]
fn a_manifest_that_lies_about_a_length_is_never_complete() {
    let (disk, states) = (SimDisk::new(), halves());
    let (store, peer) = (open(&disk).unwrap(), peer(&states));
    write(&store, 10, &states[&10]).unwrap();
    let whole = manifest(&peer, 10);
    let honest = whole.chunks()[3];
    for bytes in [honest.bytes - 1, honest.bytes + 1] {
        let lie = with_length(&whole, 3, bytes).unwrap();
        let mut install = store.begin_install(lie).unwrap();
        assert_eq!(install.missing(), [honest.name]);
        let real = peer.read_chunk(honest.name).unwrap();
        let error = install.put(honest.name, &real).unwrap_err();
        assert!(matches!(error, Error::WrongChunk { .. }), "{error}");
        assert!(matches!(
            install.publish(),
            Err(Error::Incomplete { missing: 1 })
        ));
    }
    for bytes in [0, (16 << 20) + 1] {
        let error = with_length(&whole, 3, bytes).unwrap_err();
        let length = BadManifest::ChunkLength;
        assert!(matches!(error, Error::BadManifest { reason } if reason == length));
    }
    all_read_back(&store, &states);
}

#[test]
fn bytes_that_are_no_manifest_are_refused() {
    let encoded = manifest(&peer(&halves()), 10).encode();
    for len in 0..encoded.len() {
        let error = Manifest::decode(&encoded[..len]).unwrap_err();
        assert!(matches!(error, Error::BadManifest { .. }), "{len}: {error}");
    }
    let mut longer = encoded.clone();
    longer.push(0);
    assert!(Manifest::decode(&longer).is_err());
    // Each bit either makes another manifest or none; the name tells them apart.
    let whole = Manifest::decode(&encoded).unwrap();
    for bit in 0..8 * 200 {
        let mut other = encoded.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = Manifest::decode(&other) {
            assert_ne!(other.name(), whole.name(), "bit {bit}");
        }
    }
}

/// A snapshot may refer to a chunk that has arrived of an install.
#[test]
fn an_install_whose_manifest_is_damaged_keeps_what_a_snapshot_needs() {
    let (disk, states) = (SimDisk::new(), halves());
    let (store, peer) = (open(&disk).unwrap(), peer(&states));
    let mut install = store.begin_install(manifest(&peer, 10)).unwrap();
    fetch(&mut install, &peer).unwrap();
    drop(install);
    write(&store, 20, &states[&20]).unwrap();
    drop(store);
    disk.power_cut(0);
    let file = path(&names(&disk)[0]);
    assert!(file.to_str().unwrap().ends_with(".install"), "{file:?}");
    disk.flip_bit(&file, 200, 0).unwrap();

    for _ in 0..2 {
        let store = open(&disk).unwrap();
        assert_eq!(store.report().damaged.len(), 1);
        assert_eq!(indexes(&store), [20]);
        assert_eq!(read(&store, id_of(&store, 20)).unwrap(), states[&20]);
        assert_eq!(store.installs(), []);
        drop(store);
        disk.power_cut(0);
    }
    // Another one begins, and takes from it what it can, durably.
    let store = open(&disk).unwrap();
    let mut install = store.begin_install(manifest(&peer, 10)).unwrap();
    assert!(install.missing().len() < 200);
    fetch(&mut install, &peer).unwrap();
    install.publish().unwrap();
    drop(store);
    disk.power_cut(0);
    let store = open(&disk).unwrap();
    assert_eq!(indexes(&store), [10, 20]);
    for index in [10, 20] {
        assert_eq!(read(&store, id_of(&store, index)).unwrap(), states[&index]);
    }
    // When nobody needs what is in it, it goes.
    write(&store, 30, b"a new world").unwrap();
    store.drop_older(1).unwrap();
    drop(store);
    let store = open(&disk).unwrap();
    assert_eq!(names(&disk).len(), 1, "{:?}", names(&disk));
    assert!(store.verify(|_| {}).unwrap().is_clean());
}

#[test]
fn an_install_goes_on_behind_a_sector_that_cannot_be_read() {
    let (disk, states) = (SimDisk::new(), halves());
    let (store, peer) = (open(&disk).unwrap(), peer(&states));
    let mut install = store.begin_install(manifest(&peer, 10)).unwrap();
    fetch(&mut install, &peer).unwrap();
    write(&store, 30, b"makes it durable").unwrap();
    drop((install, store));
    let file = path(&names(&disk)[0]);
    let len = disk.open(&file).unwrap().len().unwrap();
    disk.open(&file).unwrap().sync_data().unwrap();
    for from in (4096..len).step_by(512) {
        let disk = disk.fork();
        disk.make_bad(&file, from..from + 512).unwrap();
        let store = open(&disk).unwrap();
        let mut install = store.begin_install(manifest(&peer, 10)).unwrap();
        assert!(fetch(&mut install, &peer).unwrap() > 0, "{from}");
        install.publish().unwrap();
        assert_eq!(read(&store, id_of(&store, 10)).unwrap(), states[&10]);
    }
}

/// The pages of a failed sync count as clean, and no later sync writes them.
#[test]
fn what_a_failed_sync_lost_is_durable_when_the_next_process_publishes_it() {
    let states = halves();
    let (disk, peer) = (SimDisk::new(), peer(&states));
    let store = open(&disk).unwrap();
    let mut install = store.begin_install(manifest(&peer, 10)).unwrap();
    fetch(&mut install, &peer).unwrap();
    disk.fail_next_sync(Failure::EIO);
    assert!(matches!(install.publish(), Err(Error::Io { .. })));
    let again = store.begin_install(manifest(&peer, 10));
    assert!(matches!(again, Err(Error::Poisoned { .. })));
    drop(store);
    disk.kill(); // The cache stays.
    let store = open(&disk).unwrap();
    let install = store.begin_install(manifest(&peer, 10)).unwrap();
    assert_eq!(install.missing(), []);
    install.publish().unwrap();
    drop(store);
    disk.power_cut(0);
    let store = open(&disk).unwrap();
    assert_eq!(indexes(&store), [10]);
    all_read_back(&store, &states);
}

#[test]
fn what_others_need_of_an_install_that_is_given_up_stays() {
    let (disk, states) = (SimDisk::new(), halves());
    let (store, peer) = (open(&disk).unwrap(), peer(&states));
    let mut install = store.begin_install(manifest(&peer, 10)).unwrap();
    fetch(&mut install, &peer).unwrap();
    let written = write(&store, 20, &states[&20]).unwrap();
    assert!(written.counts.bytes_shared > 0);
    let in_hand = store.installs();
    store.give_up_installs().unwrap(); // Somebody has it in hand.
    assert_eq!(store.installs(), in_hand);
    drop(install);
    store.give_up_installs().unwrap();
    assert_eq!(store.installs(), []);
    all_read_back(&store, &states);
    space_is_bounded(&store);
    drop(store);
    disk.power_cut(1);
    let store = open(&disk).unwrap();
    assert_eq!(indexes(&store), [20]);
    all_read_back(&store, &states);
}
