//! Reading a snapshot: from everywhere to everywhere, also of states that are hardly one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};

use duramen_disk::SimDisk;
use duramen_snapshot::{Error, Meta, SnapshotId};
use support::*;

#[test]
fn empty_small_and_even_states_read_back() {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    let states = States::from([
        (1, Vec::new()),
        (2, vec![7]),
        (3, vec![0; 100_000]),
        (4, noise(1, 64)),
        (5, noise(2, 1024)),
        (6, noise(3, 3 << 20)), // more than is cut at a time
    ]);
    for (index, state) in &states {
        let published = write(&store, *index, state).unwrap();
        assert_eq!(published.manifest.bytes(), state.len() as u64);
        let counts = published.counts;
        assert_eq!(counts.bytes_in, state.len() as u64);
        assert_eq!(counts.bytes_written + counts.bytes_shared, counts.bytes_in);
    }
    let zeros = manifest(&store, 3);
    assert!(zeros.chunks().len() > 90);
    assert!(store.stats().used_bytes < 5 << 20);
    all_read_back(&store, &states);
    drop(store);
    disk.power_cut(0);
    let store = open(&disk).unwrap();
    all_read_back(&store, &states);
    store.drop_older(0).unwrap();
    assert_eq!(names(&disk).len(), 0);
    assert_eq!(store.stats(), Default::default());
    assert_eq!(store.latest(), None);
}

/// One chunk of zeros many times: it is there once, and held as often as it comes.
#[test]
fn a_chunk_that_comes_many_times_is_there_once_and_arrives_once() {
    let states = States::from([(1, vec![0; 50_000]), (2, vec![0; 20_000])]);
    let (disk, peer) = (SimDisk::new(), peer(&states));
    let store = open(&disk).unwrap();
    let mut install = store.begin_install(manifest(&peer, 1)).unwrap();
    assert!(fetch(&mut install, &peer).unwrap() <= 2);
    install.publish().unwrap();
    write(&store, 2, &states[&2]).unwrap();
    store.drop_older(1).unwrap();
    all_read_back(&store, &states);
    store.drop_older(0).unwrap();
    assert_eq!(names(&disk).len(), 0);
}

#[test]
fn writes_of_any_size_make_the_same_snapshot() {
    let state = noise(1, 20_000);
    let expected = manifest(&peer(&States::from([(1, state.clone())])), 1);
    for size in [1, 7, 255, 256, 257, 4096, 19_999] {
        let store = open(&SimDisk::new()).unwrap();
        let mut writer = store.begin(Meta::new(1, 1)).unwrap();
        for piece in state.chunks(size) {
            writer.write_all(piece).unwrap();
            writer.flush().unwrap();
        }
        assert_eq!(writer.publish().unwrap().manifest, expected);
    }
}

#[test]
fn a_reader_seeks_as_a_file_does() {
    let state = noise(1, 5000);
    let store = open(&SimDisk::new()).unwrap();
    let id = write(&store, 1, &state).unwrap().id;
    let mut reader = store.reader(id).unwrap();
    let ends: Vec<u64> = store.list()[0]
        .manifest
        .chunks()
        .iter()
        .map(|c| c.bytes.into())
        .collect();
    let mut wanted: Vec<u64> = ends
        .iter()
        .scan(0, |end, bytes| {
            *end += bytes;
            Some(*end)
        })
        .flat_map(|end| [end - 1, end, end + 1])
        .collect();
    wanted.extend([0, 1, 4999, 5000, 5001, 1 << 40, u64::MAX]);
    for position in wanted {
        assert_eq!(reader.seek(SeekFrom::Start(position)).unwrap(), position);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        let from = position.min(5000) as usize;
        assert!(rest == state[from..], "{position}");
    }
    assert_eq!(reader.seek(SeekFrom::End(-1)).unwrap(), 4999);
    assert_eq!(reader.seek(SeekFrom::Current(-4999)).unwrap(), 0);
    assert_eq!(reader.seek(SeekFrom::End(3)).unwrap(), 5003);
    assert_eq!(reader.read(&mut [0; 10]).unwrap(), 0);
    for to in [
        SeekFrom::End(-5001),
        SeekFrom::Current(-5004),
        SeekFrom::End(i64::MIN),
    ] {
        assert_eq!(reader.seek(to).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(reader.stream_position().unwrap(), 5003, "{to:?}");
    }
    reader.seek(SeekFrom::Start(u64::MAX)).unwrap();
    assert!(reader.seek(SeekFrom::Current(1)).is_err());
    reader.rewind().unwrap();
    assert_eq!(reader.read(&mut []).unwrap(), 0);
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert!(all == state);
}

#[test]
fn a_reader_names_a_damaged_chunk_and_goes_on_when_it_is_repaired() {
    let states = States::from([(1, noise(1, 5000))]);
    let (disk, peer) = (SimDisk::new(), peer(&states));
    let store = open(&disk).unwrap();
    let id = write(&store, 1, &states[&1]).unwrap().id;
    let chunk = store.list()[0].manifest.chunks()[3];
    let bytes = peer.read_chunk(chunk.name).unwrap();
    let (file, at) = place_of(&disk, &bytes);
    disk.flip_bit(&file, at + 5, 3).unwrap();

    let mut reader = store.reader(id).unwrap();
    let mut state = Vec::new();
    let error = inner(reader.read_to_end(&mut state).unwrap_err());
    let Error::DamagedChunk {
        snapshot,
        name,
        path,
        offset,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(
        (snapshot, name, path, offset),
        (Some(id), chunk.name, file, at)
    );
    assert!(state == states[&1][..state.len()]);
    assert_eq!(reader.stream_position().unwrap(), state.len() as u64);
    // Behind it all is well.
    reader.seek(SeekFrom::Current(chunk.bytes.into())).unwrap();
    reader.read_to_end(&mut Vec::new()).unwrap();
    assert!(matches!(
        store.read_chunk(chunk.name),
        Err(Error::DamagedChunk { .. })
    ));

    let error = store.repair_chunk(chunk.name, b"not this").unwrap_err();
    assert!(matches!(error, Error::WrongChunk { .. }));
    store.repair_chunk(chunk.name, &bytes).unwrap();
    reader.seek(SeekFrom::Start(state.len() as u64)).unwrap();
    reader.read_to_end(&mut state).unwrap();
    assert!(state == states[&1]);
    drop((reader, store));
    disk.power_cut(0);
    all_read_back(&open(&disk).unwrap(), &states);
}

#[test]
fn what_is_not_there_is_told() {
    let store = open(&SimDisk::new()).unwrap();
    let none = SnapshotId(7);
    assert!(matches!(store.reader(none), Err(Error::NoSuchSnapshot { id }) if id == none));
    assert!(matches!(store.manifest(none), Err(Error::NoSuchSnapshot { id }) if id == none));
    let name = duramen_snapshot::ChunkName::of(b"x");
    assert!(matches!(
        store.read_chunk(name),
        Err(Error::UnknownChunk { .. })
    ));
    assert!(matches!(
        store.repair_chunk(name, b"x"),
        Err(Error::UnknownChunk { .. })
    ));
    assert_eq!(store.drop_older(0).unwrap(), []);
    assert!(store.verify(|_| {}).unwrap().is_clean());
}
