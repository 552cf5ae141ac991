//! Entries that cannot be read: they are there by their ids, until somebody has the true ones.

use std::collections::BTreeMap;

use super::*;
use crate::raft::Badness;

/// What stands in the place of an entry that cannot be read.
fn without_payload(entry: &Entry) -> Entry {
    Entry {
        id: entry.id,
        ..Entry::default()
    }
}

fn assert_bad(disk: &SimDisk, log: &[Entry], bad: &[u64], badness: Badness) -> Storage {
    let (storage, restored) = restored(disk);
    let expected: BTreeMap<Index, Badness> =
        bad.iter().map(|index| (Index(*index), badness)).collect();
    assert_eq!(restored.bad, expected);
    let log: Vec<Entry> = log
        .iter()
        .map(|entry| match bad.contains(&entry.id.index.0) {
            true => without_payload(entry),
            false => entry.clone(),
        })
        .collect();
    assert_eq!(restored.log, log);
    storage
}

/// Entries in a frame that is marked as durable by a later one.
fn marked(log: &[Entry]) -> SimDisk {
    let (disk, mut storage) = begun();
    persist(&mut storage, &append(log.to_vec(), 1));
    drop(storage); // It says how far it is durable.
    disk
}

/// Entries in the last frame, of which nothing says that it was durable.
fn unmarked(log: &[Entry]) -> SimDisk {
    let (disk, mut storage) = begun();
    persist(&mut storage, &append(log.to_vec(), 1));
    kill(&disk, storage);
    disk
}

#[test]
fn damaged_entries_are_named_and_the_others_are_there() {
    let log = entries(1, 20, 1);
    for bad in [&[7][..], &[1], &[20], &[3, 4, 5, 11], &[1, 2, 19, 20]] {
        let disk = marked(&log);
        for index in bad {
            damage(&disk, id(*index, 1));
        }
        let storage = assert_bad(&disk, &log, bad, Badness::Damaged);
        assert_eq!(storage.durable(), id(20, 1), "they count as present");
        power_cut(&disk, storage, 3);
        assert_bad(&disk, &log, bad, Badness::Damaged);
    }
}

/// However many entries there are, the search for the bad ones ends soon.
#[test]
fn a_damaged_entry_is_found_among_many() {
    let log: Vec<Entry> = (1..=5000).map(|index| entry(index, 1, "x")).collect();
    let disk = marked(&log);
    for index in [1, 1500, 1501, 4999] {
        damage(&disk, id(index, 1));
    }
    assert_bad(&disk, &log, &[1, 1500, 1501, 4999], Badness::Damaged);
}

#[test]
fn an_entry_whose_sector_cannot_be_read_is_damaged() {
    // More than a segment: that of the sector is sealed, and not read when the log is opened.
    let log: Vec<Entry> = (1..=100)
        .map(|index| entry(index, 1, vec![b'a'; 4096]))
        .collect();
    let disk = marked(&log);
    let (path, offset) = place_of(&disk, id(3, 1));
    // A sector with nothing but its payload.
    let sector = (offset + 1024).next_multiple_of(512);
    disk.make_bad(&path, sector..sector + 512).unwrap();
    assert_bad(&disk, &log, &[3], Badness::Damaged);
}

/// The end of a log is read when it is opened. A sector that cannot be read there may be readable later: nothing is said of it.
#[test]
fn a_sector_at_the_end_that_cannot_be_read_keeps_the_log_from_opening() {
    let log = entries(1, 6, 1);
    let disk = marked(&log);
    let (path, offset) = place_of(&disk, id(3, 1));
    let sector = offset / 512 * 512;
    disk.make_bad(&path, sector..sector + 512).unwrap();
    let error = try_open(&disk).map(|_| ()).unwrap_err();
    assert!(
        matches!(error, Error::Log(duramen_wal::Error::Io { .. })),
        "{error}"
    );
}

/// It may never have been written whole, nor acknowledged: only the peers can tell.
#[test]
fn an_entry_at_the_end_that_may_be_torn_is_suspect() {
    let log = entries(1, 6, 1);
    let disk = unmarked(&log);
    damage(&disk, id(5, 1));
    let storage = assert_bad(&disk, &log, &[5], Badness::Suspect);
    assert_eq!(storage.durable(), id(6, 1), "it counts as present");
    power_cut(&disk, storage, 3);
    let storage = assert_bad(&disk, &log, &[5], Badness::Suspect);
    // What the peers decide, if none has it: another entry in its place.
    let mut storage = storage;
    persist(&mut storage, &append(entries(5, 5, 2), 2));
    power_cut(&disk, storage, 0);
    let expected = [entries(1, 4, 1), entries(5, 5, 2)].concat();
    assert_bad(&disk, &expected, &[], Badness::Suspect);
}

#[test]
fn a_repair_makes_a_bad_entry_whole_durably() {
    let log = entries(1, 6, 1);
    for (disk, badness) in [
        (marked(&log), Badness::Damaged),
        (unmarked(&log), Badness::Suspect),
    ] {
        damage(&disk, id(2, 1));
        damage(&disk, id(5, 1));
        let mut storage = assert_bad(&disk, &log, &[2, 5], badness);
        let repair = |indexes: &[usize], entries: Vec<Entry>| Write {
            repairs: indexes.iter().map(|index| log[index - 1].clone()).collect(),
            entries,
            ..write(1)
        };
        persist(&mut storage, &repair(&[2], Vec::new()));
        power_cut(&disk, storage, 0);
        let mut storage = assert_bad(&disk, &log, &[5], badness);
        // The last one, and what follows it.
        persist(&mut storage, &repair(&[5], entries(7, 7, 1)));
        power_cut(&disk, storage, 0);
        assert_bad(&disk, &entries(1, 7, 1), &[], badness);
    }
}

/// Its peers were wrong, or it was: nothing is put in the place of an entry but that entry.
#[test]
fn a_repair_with_another_entry_is_refused() {
    let log = entries(1, 6, 1);
    let disk = marked(&log);
    damage(&disk, id(2, 1));
    let mut storage = assert_bad(&disk, &log, &[2], Badness::Damaged);
    let wrong = Write {
        repairs: vec![entry(2, 1, "the payload of entry 1.X")],
        ..write(1)
    };
    storage.submit(&wrong).unwrap_err();
    drop(storage);
    assert_bad(&disk, &log, &[2], Badness::Damaged);
}

#[test]
fn bad_memberships_are_restored_from_the_second_copy() {
    let set = |index, count| voters(count).to_entry(id(index, 1));
    let log = [
        entries(1, 1, 1),
        vec![set(2, 4), set(3, 5)],
        entries(4, 5, 1),
    ]
    .concat();
    for disk in [marked(&log), unmarked(&log)] {
        let whole = disk.fork();
        for index in 2..=4 {
            damage(&disk, id(index, 1));
        }
        let (storage, found) = restored(&disk);
        assert_eq!(found.log[..3], log[..3]);
        assert_eq!(found.bad.keys().collect::<Vec<_>>(), [&Index(4)]);
        // Durably: the copy is not needed any more.
        power_cut(&disk, storage, 0);
        let log_dir = Path::new(DIR).join("log");
        let wal = Wal::open_on(Arc::new(disk.clone()), log_dir, keeping_suspects()).unwrap();
        let read = wal.entries(crate::storage::GROUP, Index(1)..Index(4), u64::MAX);
        assert_eq!(read.unwrap(), log[..3]);
        drop(wal);
        assert_eq!(restored(&whole).1.log, log);
    }
}

fn keeping_suspects() -> duramen_wal::Options {
    let mut options = options().log;
    options.keep_suspects = true;
    options
}

#[test]
fn bad_memberships_are_known_when_the_disk_is_full() {
    let (disk, mut storage) = begun();
    let set = voters(4).to_entry(id(2, 1));
    let mut log = [entries(1, 1, 1), vec![set], entries(3, 4, 1)].concat();
    persist(&mut storage, &append(log.clone(), 1));
    disk.set_free_bytes(Some(0));
    loop {
        let next = entry(log.len() as u64 + 1, 1, vec![b'x'; 1000]);
        if try_persist(&mut storage, &append(vec![next.clone()], 1)).is_err() {
            break;
        }
        log.push(next);
    }
    drop(storage);
    damage(&disk, id(2, 1));
    assert_bad(&disk, &log, &[], Badness::Damaged);
}

/// A membership that was replaced is none any more, though its damaged entry still stands somewhere.
#[test]
fn a_membership_that_was_truncated_is_not_restored() {
    let (disk, mut storage) = begun();
    let set = voters(4).to_entry(id(2, 1));
    persist(
        &mut storage,
        &append([entries(1, 1, 1), vec![set]].concat(), 1),
    );
    persist(&mut storage, &append(entries(2, 3, 2), 2));
    drop(storage);
    damage(&disk, id(2, 2));
    let log = [entries(1, 1, 1), entries(2, 3, 2)].concat();
    assert_bad(&disk, &log, &[2], Badness::Damaged);
}

#[test]
fn bad_entries_below_a_snapshot_do_not_matter() {
    let log = entries(1, 6, 1);
    let (disk, mut storage) = begun();
    persist(&mut storage, &append(log.clone(), 1));
    publish(&storage, id(4, 1), &voters(3)).unwrap();
    drop(storage);
    damage(&disk, id(2, 1));
    damage(&disk, id(6, 1));
    let (_, restored) = restored(&disk);
    assert_eq!(restored.base, id(4, 1));
    assert_eq!(restored.log, [log[4].clone(), without_payload(&log[5])]);
    assert_eq!(restored.bad, BTreeMap::from([(Index(6), Badness::Damaged)]));
}
