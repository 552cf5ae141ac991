//! What the core writes comes back, and is completed in order.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use duramen_disk::OsDisk;

use super::*;

#[test]
fn a_write_of_the_core_comes_back() {
    let (disk, mut storage) = begun();
    persist(&mut storage, &append(entries(1, 3, 2), 2));
    let replacing = Write {
        entries: vec![entry(2, 3, "another")],
        ..append(Vec::new(), 3)
    };
    persist(&mut storage, &replacing);
    assert_eq!(storage.durable(), id(2, 3));
    kill(&disk, storage);
    let (storage, restored) = restored(&disk);
    assert_eq!(restored.hard_state, hard_state(3));
    assert_eq!(
        restored.log,
        [entries(1, 1, 2), vec![entry(2, 3, "another")]].concat()
    );
    assert_eq!(restored.base, LogId::default());
    assert_eq!(restored.membership, voters(3));
    assert!(restored.snapshot.is_none() && restored.bad.is_empty());
    assert_eq!(storage.durable(), id(2, 3));
}

#[test]
fn writes_are_completed_when_they_are_durable_and_in_order() {
    let (disk, mut storage) = begun();
    assert!(!storage.is_writing());
    for (write_id, index) in [(1, 1), (2, 2), (3, 3)] {
        let entries = vec![entry(index, 1, "x")];
        let id = WriteId(write_id);
        let write = Write {
            id,
            ..append(entries, 1)
        };
        storage.submit(&write).unwrap();
    }
    assert!(storage.is_writing());
    assert_eq!(storage.completed().unwrap(), None);
    assert_eq!(storage.durable(), LogId::default());
    storage.drive().unwrap();
    assert_eq!(storage.completed().unwrap(), Some(WriteId(3)));
    assert_eq!(storage.completed().unwrap(), None, "each is said once");
    assert!(!storage.is_writing());
    power_cut(&disk, storage, 0);
    assert_eq!(restored(&disk).1.log.len(), 3);
}

/// What a single batch does not take, and what it takes just so.
#[test]
fn entries_of_all_sizes_go_into_as_many_batches_as_they_need() {
    let large = options().log.entry_bytes_max as usize;
    for sizes in [
        vec![8 << 10; 60],
        vec![large; 5],
        vec![1, large, 1, (128 << 10) / 4 - 400, large, 0],
    ] {
        let (disk, mut storage) = begun();
        let written: Vec<Entry> = (1..)
            .zip(&sizes)
            .map(|(index, bytes)| entry(index, 1, vec![b'x'; *bytes]))
            .collect();
        persist(&mut storage, &append(written.clone(), 1));
        power_cut(&disk, storage, 1);
        assert_eq!(restored(&disk).1.log, written, "{sizes:?}");
    }
}

/// A crash between two batches of a write leaves the first of its entries, with the term in which they were received.
#[test]
fn of_a_write_in_several_batches_a_crash_leaves_the_first_ones() {
    let (disk, storage) = begun();
    kill(&disk, storage);
    let written: Vec<Entry> = (1..=8)
        .map(|index| entry(index, 4, vec![b'x'; 30 << 10]))
        .collect();
    let mut found = std::collections::BTreeSet::new();
    for operations in 0.. {
        let disk = disk.fork();
        let mut storage = open(&disk);
        disk.crash_after(operations);
        let done = try_persist(&mut storage, &append(written.clone(), 4)).is_ok();
        power_cut(&disk, storage, operations);
        let (_, restored) = restored(&disk);
        for (found, written) in restored.log.iter().zip(&written) {
            // A torn one is there by its id.
            assert!(found == written || restored.bad.contains_key(&found.id.index));
        }
        if !restored.log.is_empty() {
            assert_eq!(restored.hard_state, hard_state(4));
        }
        found.insert(restored.log.len());
        if done {
            assert_eq!(restored.log, written);
            break;
        }
    }
    assert!(found.len() > 1, "{found:?}");
}

#[test]
fn after_a_failed_sync_the_write_is_failed() {
    let (disk, mut storage) = begun();
    disk.fail_next_sync(io::ErrorKind::Other);
    storage.submit(&append(entries(1, 1, 1), 1)).unwrap();
    storage.drive().unwrap_err();
    assert!(matches!(storage.completed(), Err(Error::Log(_))));
    let next = storage.submit(&append(entries(2, 2, 1), 1));
    assert!(matches!(
        next,
        Err(Error::Log(duramen_wal::Error::Poisoned { .. }))
    ));
}

#[test]
fn whoever_waits_is_woken_when_a_write_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(OsDisk::new());
    let identity = identity_of("c", 1);
    let mut storage = Storage::open(disk, dir.path(), &identity, Options::default()).unwrap();
    let (woken, wakes) = mpsc::channel();
    storage.wake_with(move || woken.send(()).unwrap());
    storage.submit(&append(entries(1, 1, 1), 1)).unwrap();
    wakes.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(storage.completed().unwrap(), Some(WriteId(1)));
}

#[test]
fn votes_blank_entries_and_memberships_are_written_when_the_disk_is_full() {
    let (disk, mut storage) = begun();
    let mut index = 0;
    disk.set_free_bytes(Some(0));
    let is_full = |outcome| matches!(outcome, Err(Error::Log(duramen_wal::Error::Full { .. })));
    for bytes in [30 << 10, 1000, 1] {
        let next = |index| append(vec![entry(index + 1, 1, vec![b'x'; bytes])], 1);
        while !is_full(try_persist(&mut storage, &next(index))) {
            index += 1;
        }
    }
    // A leader's blank entry, a membership, a vote.
    let blank = entry(index + 1, 1, "");
    let membership = voters(5).to_entry(id(index + 2, 1));
    for entry in [&blank, &membership] {
        let write = Write {
            entries: vec![entry.clone()],
            ..write(1)
        };
        persist(&mut storage, &write);
    }
    persist(&mut storage, &append(Vec::new(), 2));
    kill(&disk, storage);
    let (_, restored) = restored(&disk);
    assert_eq!(restored.hard_state, hard_state(2));
    assert_eq!(restored.log[index as usize..], [blank, membership]);
}

/// Fills the log on a disk without space. Gives the next index.
fn fill(disk: &SimDisk, storage: &mut Storage) -> u64 {
    disk.set_free_bytes(Some(0));
    for index in 1.. {
        let entries = vec![entry(index, 1, vec![b'x'; 8 << 10])];
        match try_persist(storage, &append(entries, 1)) {
            Ok(()) => {}
            Err(error) => {
                assert!(error.is_full(), "{error}");
                return index;
            }
        }
    }
    unreachable!("the disk is full some time");
}

#[test]
fn a_write_that_does_not_fit_has_never_been_and_a_vote_fits() {
    let (disk, mut storage) = begun();
    let next = fill(&disk, &mut storage);
    assert!(!storage.has_space().unwrap());
    // With a membership, of which the record must not say anything then.
    let change = voters(5).to_entry(id(next, 2));
    let large = entry(next + 1, 2, vec![b'x'; 24 << 10]);
    let refused = storage.submit(&append(vec![change, large], 2));
    assert!(refused.unwrap_err().is_full());
    let vote = Write {
        hard_state: Some(hard_state(3)),
        ..write(9)
    };
    persist(&mut storage, &vote);
    storage.meet(22, BOOT).unwrap();
    storage.drive().unwrap();
    disk.set_free_bytes(None);
    assert!(storage.has_space().unwrap());
    power_cut(&disk, storage, 3);
    let (storage, restored) = restored(&disk);
    assert_eq!(restored.log.len() as u64, next - 1);
    assert_eq!(restored.hard_state, hard_state(3));
    assert_eq!(restored.membership, voters(3));
    assert_eq!(storage.met(22), Some(BOOT));
}

/// Of a write in several batches the first may fit: they are taken back, and so is what the record says of them.
#[test]
fn of_a_write_that_did_not_fit_whole_nothing_is_left() {
    let (disk, mut storage) = begun();
    persist(&mut storage, &append(entries(1, 3, 1), 1));
    disk.set_free_bytes(Some(0));
    let mut entries: Vec<Entry> = (3..=30)
        .map(|index| entry(index, 2, vec![b'x'; 30 << 10]))
        .collect();
    entries.push(voters(5).to_entry(id(31, 2)));
    assert!(storage.submit(&append(entries, 2)).unwrap_err().is_full());
    storage.drive().unwrap();
    assert_eq!(storage.completed().unwrap(), None);
    assert_eq!(storage.hard_state(), hard_state(2), "some of it fits");
    assert_eq!(storage.durable(), id(2, 1), "and entry 3 is gone");
    // The log goes on, with another entry in the place of the membership.
    disk.set_free_bytes(None);
    let blank = (3..=40).map(|index| entry(index, 3, "")).collect();
    persist(&mut storage, &append(blank, 3));
    storage.purge(id(35, 3)).unwrap();
    storage.drive().unwrap();
    power_cut(&disk, storage, 3);
    let (_, restored) = restored(&disk);
    assert_eq!(restored.base, id(35, 3));
    assert_eq!(restored.membership, voters(3));
}

/// With the log reset in the first of them, which stays: the snapshot stands for all that was there.
#[test]
fn a_reset_with_more_than_fits_is_tried_again() {
    let (disk, mut storage) = begun();
    persist(&mut storage, &append(entries(1, 3, 1), 1));
    publish(&storage, id(8, 2), &voters(5)).unwrap();
    disk.set_free_bytes(Some(0));
    let large = |index| entry(index, 2, vec![b'x'; 30 << 10]);
    let write = Write {
        hard_state: Some(hard_state(2)),
        ..reset(id(8, 2), (9..=40).map(large).collect())
    };
    assert!(storage.submit(&write).unwrap_err().is_full());
    storage.drive().unwrap();
    assert_eq!(storage.completed().unwrap(), None);
    disk.set_free_bytes(None);
    persist(&mut storage, &write);
    power_cut(&disk, storage, 3);
    let (_, restored) = restored(&disk);
    assert_eq!(restored.base, id(8, 2));
    assert_eq!(restored.membership, voters(5));
    assert_eq!(restored.log, write.entries);
}
