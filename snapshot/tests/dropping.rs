//! Dropping snapshots: which go, and what of their files stays.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{ErrorKind, Read};

use duramen_disk::{Disk, Op, SimDisk};
use support::*;

/// States of 48 KiB of which each shares a fourth of each block with the one before.
fn worn_states(count: u64) -> States {
    let mut state = noise(1, 48 << 10);
    let mut states = States::new();
    for n in 1..=count {
        states.insert(10 * n, state.clone());
        for (at, block) in state.chunks_mut(4096).enumerate() {
            let len = block.len() - 1200;
            block[..len].copy_from_slice(&noise(1000 * n + at as u64, len));
        }
    }
    states
}

#[test]
fn the_newest_stay_by_index_not_by_when_they_came() {
    let store = open(&SimDisk::new()).unwrap();
    for index in [30, 10, 20] {
        write(&store, index, &noise(index, 500)).unwrap();
    }
    assert_eq!(indexes(&store), [10, 20, 30]);
    let ids: Vec<_> = store.list().iter().map(|snapshot| snapshot.id).collect();
    assert_eq!(store.drop_older(3).unwrap(), []);
    assert_eq!(store.drop_older(1).unwrap(), ids[..2]);
    assert_eq!(indexes(&store), [30]);
}

/// Its manifest may be readable again another time. Dropped, it is gone.
#[test]
fn a_newest_snapshot_that_cannot_be_read_is_not_dropped_for_an_older_one() {
    let disk = SimDisk::new();
    let states = States::from([
        (10, noise(1, 2000)),
        (20, noise(2, 2000)),
        (30, noise(3, 2000)),
    ]);
    let store = open(&disk).unwrap();
    write(&store, 10, &states[&10]).unwrap();
    write(&store, 20, &states[&20]).unwrap();
    drop(store);
    let newest = path(&names(&disk)[1]);
    let at = bytes_of(&disk, &newest)
        .windows(8)
        .position(|magic| magic == b"DURAMANI");
    let at = at.unwrap() as u64 + 60;
    disk.flip_bit(&newest, at, 0).unwrap();
    let store = open(&disk).unwrap();
    assert_eq!(indexes(&store), [10]);
    assert_eq!(store.drop_older(1).unwrap(), []);
    drop(store);

    let well = disk.fork();
    well.flip_bit(&newest, at, 0).unwrap();
    let store = open(&well).unwrap();
    assert_eq!(indexes(&store), [10, 20]);
    all_read_back(&store, &states);

    // When a newer one is there it goes.
    let store = open(&disk).unwrap();
    write(&store, 30, &states[&30]).unwrap();
    assert_eq!(store.drop_older(1).unwrap().len(), 2);
    all_read_back(&store, &states);
    assert_eq!(names(&disk).len(), 1);
}

/// Nobody knows what it needs.
#[test]
fn nothing_is_given_back_while_a_manifest_cannot_be_read() {
    let disk = SimDisk::new();
    let first = noise(1, 48 << 10);
    let states = States::from([(10, first.clone()), (20, edited(&first, 700, 100, 2))]);
    let store = open(&disk).unwrap();
    write(&store, 10, &states[&10]).unwrap();
    write(&store, 20, &states[&20]).unwrap();
    store.drop_older(1).unwrap();
    drop(store);
    let newest = path(&names(&disk)[1]);
    let block = bytes_of(&disk, &newest);
    let block = block.windows(8).position(|magic| magic == b"DURAMANI");
    let at = block.unwrap() as u64 + 60;
    disk.flip_bit(&newest, at, 0).unwrap();
    for _ in 0..2 {
        let store = open(&disk).unwrap();
        assert_eq!(store.list(), []);
        let before = store.stats().used_bytes;
        assert_eq!(store.drop_older(1).unwrap(), []);
        assert_eq!(store.stats().used_bytes, before);
    }
    disk.flip_bit(&newest, at, 0).unwrap();
    let store = open(&disk).unwrap();
    assert_eq!(indexes(&store), [20]);
    all_read_back(&store, &states);
}

#[test]
fn files_wear_out_and_are_written_together_with_holes_and_without() {
    for no_holes in [false, true] {
        let (disk, states) = (SimDisk::new(), worn_states(6));
        if no_holes {
            disk.fail_op(Op::PunchHole, 0, ErrorKind::Unsupported);
        }
        let store = open(&disk).unwrap();
        for (index, state) in &states {
            write(&store, *index, state).unwrap();
            store.drop_older(2).unwrap();
            space_is_bounded(&store);
            all_read_back(&store, &states);
        }
        store.drop_older(1).unwrap();
        space_is_bounded(&store);
        all_read_back(&store, &states);
        let used = store.stats().used_bytes;
        drop(store);
        disk.power_cut(0);
        let store = open(&disk).unwrap();
        all_read_back(&store, &states);
        assert!(store.stats().used_bytes <= used);
        store.drop_older(0).unwrap();
        assert_eq!(names(&disk).len(), 0);
    }
}

/// The list of its chunks and the head of one are damaged since the store was opened.
#[test]
fn a_file_of_which_a_chunk_is_not_found_any_more_stays() {
    let (disk, states) = (SimDisk::new(), worn_states(2));
    let store = open(&disk).unwrap();
    write(&store, 10, &states[&10]).unwrap();
    write(&store, 20, &states[&20]).unwrap();
    let chunks = store.list()[1].manifest.clone();
    let old = store.list()[0].manifest.clone();
    let shared = chunks
        .chunks()
        .iter()
        .find(|chunk| old.chunks().contains(chunk));
    let bytes = store.read_chunk(shared.unwrap().name).unwrap();
    let (file, at) = place_of(&disk, &bytes);
    let len = disk.open(&file).unwrap().len().unwrap();
    disk.flip_bit(&file, at - 30, 0).unwrap(); // its record's head
    disk.flip_bit(&file, len - 100, 0).unwrap(); // the table
    store.drop_older(1).unwrap();
    assert!(read(&store, id_of(&store, 20)).unwrap() == states[&20]);
    drop(store);
    assert_eq!(names(&disk).len(), 2);
    let store = open(&disk).unwrap();
    assert_eq!(store.report().incomplete.len(), 1);
    store.repair_chunk(shared.unwrap().name, &bytes).unwrap();
    assert!(read(&store, id_of(&store, 20)).unwrap() == states[&20]);
}

#[test]
fn a_reader_reads_to_the_end_what_is_dropped_meanwhile() {
    let (disk, states) = (SimDisk::new(), worn_states(3));
    let store = open(&disk).unwrap();
    write(&store, 10, &states[&10]).unwrap();
    let mut reader = store.reader(id_of(&store, 10)).unwrap();
    let mut begun = vec![0; 1000];
    reader.read_exact(&mut begun).unwrap();
    write(&store, 20, &states[&20]).unwrap();
    store.drop_older(1).unwrap();
    write(&store, 30, &states[&30]).unwrap();
    store.drop_older(1).unwrap();
    reader.read_to_end(&mut begun).unwrap();
    assert!(begun == states[&10]);
    drop(reader);
    store.drop_older(1).unwrap();
    space_is_bounded(&store);
    store.drop_older(0).unwrap();
    assert_eq!(names(&disk).len(), 0);
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing() {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    let mut states = States::from([(10, noise(1, 2000))]);
    write(&store, 10, &states[&10]).unwrap();
    let before = names(&disk);
    drop(begin(&store, 20, &noise(2, 3 << 20)).unwrap());
    assert_eq!(names(&disk), before);
    // It holds what it refers to as long as it is there, and no longer.
    let writer = begin(&store, 20, &[&states[&10][..], &noise(3, 2 << 20)].concat()).unwrap();
    store.drop_older(0).unwrap();
    assert!(names(&disk).iter().any(|name| name.ends_with(".chunks")));
    states.insert(20, [&states[&10][..], &noise(3, 2 << 20)].concat());
    writer.publish().unwrap();
    all_read_back(&store, &states);
    store.drop_older(0).unwrap();
    assert_eq!(names(&disk).len(), 0);
}

/// A file of the newer one is gone: the older one is the only whole one, and stays.
#[test]
fn a_snapshot_that_lacks_chunks_is_not_counted_among_those_to_keep() {
    let disk = SimDisk::new();
    let states = States::from([
        (10, noise(1, 4000)),
        (20, edited(&noise(1, 4000), 0, 2000, 2)),
    ]);
    let store = open(&disk).unwrap();
    write(&store, 20, &states[&20]).unwrap();
    write(&store, 10, &states[&10]).unwrap(); // Shares with the newer one, which came first.
    let lost = some_chunk_of_only(&store, 20);
    drop(store);
    let (file, at) = place_of(&disk, &lost);
    assert_eq!(file, path(&names(&disk)[0]));
    // Its record is not found any more, nor the table that tells of it.
    disk.flip_bit(&file, at - 10, 0).unwrap();
    let bytes = bytes_of(&disk, &file);
    disk.flip_bit(&file, bytes.len() as u64 - 70, 0).unwrap();
    let store = open(&disk).unwrap();
    let lacking: Vec<bool> = store
        .list()
        .iter()
        .map(|snapshot| snapshot.missing > 0)
        .collect();
    assert_eq!(lacking, [false, true]);
    assert_eq!(store.latest().unwrap().manifest.meta().last_index, 10);
    assert_eq!(store.drop_older(1).unwrap(), []);
    assert_eq!(read(&store, id_of(&store, 10)).unwrap(), states[&10]);
    // 0 is everything.
    assert_eq!(store.drop_older(0).unwrap().len(), 2);
    assert_eq!(indexes(&store), []);
}

/// The bytes of a chunk that the snapshot of `index` alone has.
fn some_chunk_of_only(store: &duramen_snapshot::SnapshotStore, index: u64) -> Vec<u8> {
    let all = store.list();
    let of = |wanted: bool| {
        let chosen = all
            .iter()
            .filter(move |s| (s.manifest.meta().last_index == index) == wanted);
        chosen.flat_map(|snapshot| snapshot.manifest.chunks().iter().map(|chunk| chunk.name))
    };
    let name = of(true)
        .find(|name| of(false).all(|other| other != *name))
        .unwrap();
    store.read_chunk(name).unwrap().to_vec()
}
