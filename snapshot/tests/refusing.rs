//! What a store refuses, and that it changes nothing then.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use duramen_disk::{Disk, SimDisk};
use duramen_snapshot::{Error, Meta, SnapshotStore};
use support::*;

fn states() -> States {
    let first = noise(1, 3000);
    let second = edited(&first, 1000, 100, 2);
    States::from([(10, first), (20, second)])
}

/// A store with two snapshots, one that is dropped, and an install.
fn store_with_all(disk: &SimDisk) -> States {
    let (states, store) = (states(), open(disk).unwrap());
    write(&store, 5, &states[&10]).unwrap();
    for (index, state) in &states {
        write(&store, *index, state).unwrap();
    }
    store.drop_older(2).unwrap();
    let other = States::from([(30, noise(3, 2000))]);
    let peer = peer(&other);
    let mut install = store.begin_install(manifest(&peer, 30)).unwrap();
    fetch(&mut install, &peer).unwrap();
    states
}

/// The files and their bytes.
fn files(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let names = names(disk).into_iter();
    names
        .map(|name| (name.clone(), bytes_of(disk, &path(&name))))
        .collect()
}

fn put_file(disk: &SimDisk, name: &str, bytes: &[u8]) {
    let file = disk.create(&path(name)).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

#[test]
fn a_newer_version_is_refused_with_both_versions() {
    let disk = SimDisk::new();
    store_with_all(&disk);
    for name in names(&disk) {
        let disk = disk.fork();
        let file = disk.open(&path(&name)).unwrap();
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0).unwrap();
        header[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let checksum = crc32fast::hash(&header[..60]);
        header[60..].copy_from_slice(&checksum.to_le_bytes());
        file.write_all_at(&header, 0).unwrap();
        let before = files(&disk);
        let error = open(&disk).err().unwrap();
        let Error::Version {
            path: told,
            found,
            expected,
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!((told, *found, *expected), (&path(&name), 2, 1));
        assert!(error.to_string().contains("version 2") && error.to_string().contains("version 1"));
        assert!(files(&disk) == before);
    }
}

#[test]
fn the_files_of_another_owner_are_refused() {
    let disk = SimDisk::new();
    let states = store_with_all(&disk);
    let before = files(&disk);
    let mut other = options();
    other.owner = OWNER + 1;
    let opened = SnapshotStore::open_on(Arc::new(disk.clone()), DIR, other);
    let error = opened.err().unwrap();
    assert!(
        matches!(error, Error::OtherOwner { found: OWNER, expected, .. } if expected == OWNER + 1)
    );
    assert!(files(&disk) == before);
    all_read_back(&open(&disk).unwrap(), &states);

    // One file of another store among ours.
    let name = "00000000000000aa.snap";
    let mut stranger = before[0].1.clone();
    stranger[16] ^= 1;
    let checksum = crc32fast::hash(&stranger[..60]);
    stranger[60..64].copy_from_slice(&checksum.to_le_bytes());
    put_file(&disk, name, &stranger);
    let error = open(&disk).err().unwrap();
    assert!(matches!(error, Error::OtherOwner { path: told, .. } if told == path(name)));
    disk.remove(&path(name)).unwrap();
    all_read_back(&open(&disk).unwrap(), &states);
}

#[test]
fn two_files_of_one_number_are_refused() {
    let disk = SimDisk::new();
    let states = store_with_all(&disk);
    for (name, bytes) in files(&disk) {
        let (number, kind) = name.split_once('.').unwrap();
        for other in ["snap", "chunks", "install"]
            .into_iter()
            .filter(|other| *other != kind)
        {
            let copy = format!("{number}.{other}");
            put_file(&disk, &copy, &bytes);
            let error = open(&disk).err().unwrap();
            assert!(matches!(error, Error::Doubled { .. }), "{error}");
            disk.remove(&path(&copy)).unwrap();
        }
    }
    all_read_back(&open(&disk).unwrap(), &states);
}

#[test]
fn strangers_are_named_and_let_alone() {
    let disk = SimDisk::new();
    let states = store_with_all(&disk);
    let strangers = [
        "1.snap",
        "00000000000000FF.snap",
        "notes.txt",
        "x.tmp",
        "ffffffffffffffff.snap",
    ];
    for name in strangers {
        put_file(&disk, name, b"mine");
    }
    let store = open(&disk).unwrap();
    let told = &store.report().strangers;
    assert!(
        strangers.iter().all(|name| told.contains(&path(name))),
        "{told:?}"
    );
    assert_eq!(told.len(), strangers.len());
    all_read_back(&store, &states);
    write(&store, 40, &noise(4, 100)).unwrap();
    store.drop_older(1).unwrap();
    for name in strangers {
        assert_eq!(bytes_of(&disk, &path(name)), b"mine");
    }
}

#[test]
fn what_was_being_written_is_removed_and_told() {
    let disk = SimDisk::new();
    let states = store_with_all(&disk);
    put_file(&disk, "0000000000000001.tmp", &[7; 100]);
    let read_only = SnapshotStore::open_read(Arc::new(disk.clone()), DIR, options()).unwrap();
    assert_eq!(read_only.report().leftovers.len(), 0);
    drop(read_only);
    let store = open(&disk).unwrap();
    assert_eq!(store.report().leftovers, [path("0000000000000001.tmp")]);
    all_read_back(&store, &states);
    assert!(disk.open(&path("0000000000000001.tmp")).is_err());
}

#[test]
fn a_second_opener_is_told_that_it_is_locked() {
    let disk = SimDisk::new();
    let states = store_with_all(&disk);
    let look = || SnapshotStore::open_read(Arc::new(disk.clone()), DIR, options());
    let store = open(&disk).unwrap();
    assert!(matches!(open(&disk), Err(Error::Locked { path }) if path.to_str() == Some(DIR)));
    assert!(matches!(look(), Err(Error::Locked { .. })));
    // What is in hand keeps the lock, too.
    let reader = store.reader(id_of(&store, 10)).unwrap();
    drop(store);
    assert!(matches!(open(&disk), Err(Error::Locked { .. })));
    drop(reader);

    let (one, other) = (look().unwrap(), look().unwrap());
    assert!(matches!(open(&disk), Err(Error::Locked { .. })));
    all_read_back(&one, &states);
    all_read_back(&other, &states);
    drop((one, other));
    open(&disk).unwrap();
}

#[test]
fn who_only_looks_changes_nothing() {
    let disk = SimDisk::new();
    let states = store_with_all(&disk);
    let before = files(&disk);
    let operations = disk.operations();
    let store = SnapshotStore::open_read(Arc::new(disk.clone()), DIR, options()).unwrap();
    all_read_back(&store, &states);
    let manifest = store.installs().remove(0);
    let name = some_chunk(&store);
    let chunk = store.read_chunk(name).unwrap();
    let errors = [
        store.begin(Meta::new(1, 50)).err(),
        store.drop_older(0).err(),
        store.begin_install(manifest).err(),
        store.repair_chunk(name, &chunk).err(),
    ];
    for error in errors {
        assert!(matches!(error, Some(Error::ReadOnly { .. })), "{error:?}");
    }
    drop(store);
    assert!(files(&disk) == before);
    assert_eq!(disk.operations() - operations, 1, "more than the lock");
}
