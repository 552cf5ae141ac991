//! Entries of a group that lags are moved, so that old segments can be freed; damaged ones keep their ids, and can be
//! repaired.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use duramen_disk::{Disk, SimDisk};
use duramen_wal::{Damage, Entry, Error, GroupId, Index, Misuse, Options, Scrub, ScrubReport, Wal};
use support::*;

const SEGMENT_BYTES: u64 = 1 << 15;

fn small() -> Options {
    options(SEGMENT_BYTES)
}

const LAGGARD: u64 = 1;
const BUSY: u64 = 2;

/// What the group that lags holds.
fn laggard() -> Step {
    vec![
        append(LAGGARD, 1, 3, 1, 100),
        append(LAGGARD, 4, 6, 2, 0),
        vote(LAGGARD, 2, 1),
        append(LAGGARD, 7, 7, 2, 3000),
    ]
}

/// Another group writes `bytes` and purges all but the last entry, so that old segments are needed for the laggard alone.
fn busy(from: u64, bytes: u64) -> Vec<Step> {
    (from..from + bytes / 4000)
        .map(|i| {
            let mut step = vec![append(BUSY, i, i, 1, 4000)];
            if i > 1 {
                step.push(purge(BUSY, i - 1, 1));
            }
            step
        })
        .collect()
}

fn files_bytes(disk: &SimDisk) -> u64 {
    let files = files(disk, DIR.as_ref()).into_iter();
    let segments = files.filter(|(path, _)| *path != control());
    segments.map(|(_, bytes)| bytes.len() as u64).sum()
}

#[test]
fn a_group_that_lags_pins_no_segment_and_loses_nothing() {
    let disk = SimDisk::new();
    let mut steps = vec![laggard()];
    let wal = create(&disk, &small()).unwrap();
    write_all(&wal, &steps);
    for step in busy(1, 60 * SEGMENT_BYTES) {
        wal.write(batch(&step)).unwrap();
        steps.push(step);
        // Live: the laggard's 3,300 bytes and one entry of 4,000, ids aside.
        assert!(files_bytes(&disk) <= 2 * 8_000 + 3 * SEGMENT_BYTES + SEGMENT_BYTES);
    }
    assert!(
        disk.open(&segment(1)).is_err(),
        "the first segment is freed"
    );
    let moved = wal.stats().entries_moved;
    assert!(moved >= 7, "{moved}");
    // Not again and again for nothing: about once for what three segments take.
    assert!(moved < 60 * 8, "{moved}");
    assert_eq!(state_of(&wal), *states(&steps).last().unwrap());
    drop(wal);
    assert_holds(&disk, &small(), &steps, steps.len());
}

/// What follows the moved entries stays where it is: a move cuts nothing off, in memory or when it is read back.
/// Together they are more than a batch may be, in payload or in what stands beside it.
#[test]
fn entries_that_no_batch_could_take_together_are_moved_in_several() {
    let large = vec![
        vec![append(LAGGARD, 1, 1, 1, 3900)],
        vec![append(LAGGARD, 2, 2, 1, 15_000)],
    ];
    let many = (100..270).map(|group| vec![append(group, 1, 1, 1, 0)]);
    for mut steps in [large, many.collect()] {
        steps.extend(busy(1, 30 * SEGMENT_BYTES));
        let disk = SimDisk::new();
        let wal = create(&disk, &small()).unwrap();
        write_all(&wal, &steps);
        assert!(wal.stats().entries_moved > 0);
        assert!(wal.stats().segments < 8, "{:?}", wal.stats());
        assert_eq!(state_of(&wal), *states(&steps).last().unwrap());
    }
}

#[test]
fn the_beginning_of_a_group_is_moved_and_what_follows_it_stays() {
    let disk = SimDisk::new();
    let mut steps = vec![laggard()];
    let wal = create(&disk, &small()).unwrap();
    write_all(&wal, &steps);
    for (i, mut step) in (0..).zip(busy(1, 30 * SEGMENT_BYTES)) {
        let next = 8 + i / 4;
        match i % 8 {
            0 => step.push(append(LAGGARD, next, next + 1, 3 + i, 20)),
            4 => step.push(append(LAGGARD, next, next, 3 + i, 30)), // one of the two is replaced
            _ => {}
        }
        wal.write(batch(&step)).unwrap();
        steps.push(step);
        if i % 8 > 5 {
            let killed = disk.fork();
            killed.kill();
            assert_holds(&killed, &small(), &steps, steps.len());
        }
    }
    let moved = wal.stats().entries_moved;
    assert!(moved > 100, "{moved}");
    assert_eq!(state_of(&wal), *states(&steps).last().unwrap());
}

/// Space is bounded for a log of any mixture: twice what is live, and three segments.
#[test]
fn space_stays_under_twice_what_is_live_and_three_segments() {
    let disk = SimDisk::new();
    let options = options(1 << 17);
    let wal = create(&disk, &options).unwrap();
    let (groups, bytes) = (20, 700);
    let mut last = vec![0; groups];
    let mut purged = vec![0; groups];
    let mut draw = 1_u64;
    for n in 0..12_000_u64 {
        draw ^= draw << 13;
        draw ^= draw >> 7;
        draw ^= draw << 17;
        // The higher the group, the seldomer it is written to and purged.
        let group = (draw % groups as u64).min(draw / 64 % groups as u64) as usize;
        last[group] += 1;
        let mut step = vec![append(group as u64, last[group], last[group], 1, bytes)];
        if last[group] - purged[group] > 30 {
            purged[group] = last[group] - 10;
            step.push(purge(group as u64, purged[group], 1));
        }
        wal.write(batch(&step)).unwrap();
        let live: u64 = (0..groups).map(|group| last[group] - purged[group]).sum();
        let limit = 2 * live * (bytes as u64 + 24) + 3 * options.segment_bytes;
        // One more while the oldest is being emptied.
        let taken = files_bytes(&disk);
        assert!(
            taken <= limit + options.segment_bytes,
            "{n}: {taken} for {live} entries"
        );
    }
    let stats = wal.stats();
    println!("{} of 12000 entries moved", stats.entries_moved);
    assert!(stats.entries_moved > 100);
    assert!(
        stats.entries_moved < 12_000,
        "it moves more than is written"
    );
}

fn read(wal: &Wal, index: u64) -> Result<Entry, Error> {
    let range = Index(index)..Index(index + 1);
    let entries = wal.entries(GroupId(LAGGARD), range, 0)?;
    Ok(entries.into_iter().next().unwrap())
}

fn is_damaged(result: Result<Entry, Error>, index: u64, expected: Damage) -> bool {
    match result {
        Err(Error::DamagedEntry {
            group, id, reason, ..
        }) => (group, id.index, reason) == (GroupId(LAGGARD), Index(index), expected),
        _ => false,
    }
}

/// Flips a byte of an entry of the laggard where it stands in the first segment.
fn spoil_entry(disk: &SimDisk, entry: &[u8]) {
    let bytes = read_file(disk, &segment(1));
    let at = bytes.windows(entry.len()).position(|at| at == entry);
    flip(disk, &segment(1), at.unwrap());
}

fn scrub(wal: &Wal) -> ScrubReport {
    wal.scrub(Scrub::default(), |_| true).unwrap()
}

fn entry_of_laggard(index: u64) -> Entry {
    let mut state = states(&[laggard()]).pop().unwrap();
    let content = state.remove(&GroupId(LAGGARD)).unwrap();
    content.entries[index as usize - 1].clone()
}

#[test]
fn a_damaged_entry_is_found_by_a_scrub_moved_by_its_id_and_repaired() {
    let disk = disk_with(&small(), &[laggard()]);
    let mut no_cache = small();
    no_cache.recent_bytes_max = 0;
    spoil_entry(&disk, &entry_of_laggard(2).payload);
    let wal = open(&disk, &no_cache).unwrap();
    assert_eq!(wal.recovery().damaged.len(), 1);
    assert!(is_damaged(read(&wal, 2), 2, Damage::Checksum));
    let report = scrub(&wal);
    assert_eq!((report.entries, report.damaged.len()), (7, 1));
    assert_eq!(report.damaged, wal.recovery().damaged);

    // It is moved, and moved again, and the log opened: it keeps its id.
    let mut from = 1;
    for _ in 0..3 {
        write_all(&wal, &busy(from, 8 * SEGMENT_BYTES));
        from += 8 * SEGMENT_BYTES / 4000;
        assert!(
            is_damaged(read(&wal, 2), 2, Damage::Lost),
            "{:?}",
            read(&wal, 2)
        );
        assert_eq!(read(&wal, 3).unwrap(), entry_of_laggard(3));
    }
    assert!(
        disk.open(&segment(1)).is_err(),
        "the first segment is freed"
    );
    drop(wal);
    let wal = open(&disk, &no_cache).unwrap();
    assert!(is_damaged(read(&wal, 2), 2, Damage::Lost));
    assert_eq!(scrub(&wal).damaged.len(), 1);

    // Another entry is not taken for it.
    let group = GroupId(LAGGARD);
    for other in [
        entry(2, 1, "something else"),
        entry(2, 2, entry_of_laggard(2).payload),
        entry(9, 2, "past the end"),
    ] {
        let index = other.id.index;
        assert!(!wal.is_entry(group, &other).unwrap());
        match error(wal.repair(group, other)) {
            Error::Misuse {
                misuse: Misuse::OtherEntry { index: named },
                ..
            } => assert_eq!((named, index), (Index(2), Index(2))),
            Error::Misuse {
                misuse: Misuse::NoSuchEntry { .. },
                ..
            } => assert_eq!(index, Index(9)),
            error => panic!("{error}"),
        }
    }
    let unknown = error(wal.repair(GroupId(77), entry_of_laggard(2)));
    assert!(matches!(
        unknown,
        Error::Misuse {
            misuse: Misuse::UnknownGroup,
            ..
        }
    ));
    assert!(wal.is_entry(group, &entry_of_laggard(2)).unwrap());
    wal.repair(group, entry_of_laggard(2)).unwrap();
    wal.repair(group, entry_of_laggard(3)).unwrap(); // whole: nothing to do
    assert_eq!(scrub(&wal).damaged.len(), 0);
    disk.power_cut(0); // It was durable.
    drop(wal);
    disk.kill();
    let wal = open(&disk, &no_cache).unwrap();
    for index in 1..=7 {
        assert_eq!(read(&wal, index).unwrap(), entry_of_laggard(index));
    }
    assert_eq!(scrub(&wal).damaged.len(), 0);
}

/// It may never have been written whole, and its payload is gone: nothing but its id is moved. It still holds up its group,
/// wherever it stands, until it is repaired.
#[test]
fn a_suspect_entry_is_moved_and_stays_suspect() {
    let mut keeping = small();
    (keeping.keep_suspects, keeping.recent_bytes_max) = (true, 0);
    let suspect = vec![append(LAGGARD, 8, 8, 3, 50)];
    let disk = killed_disk_with(&small(), &[laggard(), suspect.clone()]);
    let payload =
        states(&[laggard(), suspect]).pop().unwrap()[&GroupId(LAGGARD)].entries[7].clone();
    spoil_entry(&disk, &payload.payload);
    let group = GroupId(LAGGARD);
    let is_suspect = |wal: &Wal| {
        assert_eq!(wal.suspect(group), Some(Index(8)));
        match error(read(wal, 8)) {
            Error::Suspect { group: named, id } => assert_eq!((named, id), (group, payload.id)),
            other => panic!("{other}"),
        }
        let above = error(wal.write(batch(&vec![append(LAGGARD, 9, 9, 3, 1)])));
        assert!(
            matches!(above, Error::Misuse { misuse: Misuse::Suspect { index }, .. } if index == Index(8)),
            "{above}"
        );
    };
    let mut from = 1;
    for keep_suspects in [true, false, true] {
        keeping.keep_suspects = keep_suspects || from == 1;
        let wal = open(&disk, &keeping).unwrap();
        assert_eq!(wal.recovery().suspects, [(group, payload.id)]);
        is_suspect(&wal);
        write_all(&wal, &busy(from, 8 * SEGMENT_BYTES));
        from += 8 * SEGMENT_BYTES / 4000;
        assert!(wal.stats().entries_moved >= 8, "{:?}", wal.stats());
        is_suspect(&wal);
        disk.kill();
    }
    assert!(
        disk.open(&segment(1)).is_err(),
        "the first segment is freed"
    );
    let wal = open(&disk, &keeping).unwrap();
    is_suspect(&wal);
    wal.repair(group, payload.clone()).unwrap();
    assert_eq!(wal.suspect(group), None);
    disk.power_cut(0);
    let wal = open(&disk, &keeping).unwrap();
    assert_eq!(wal.recovery().suspects, []);
    assert_eq!(read(&wal, 8).unwrap(), payload);
}

/// Moves race appends, truncations and readers: what a group holds never changes by them.
#[test]
fn moves_race_truncations_appends_and_readers() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::default();
    options.segment_bytes = 1 << 17;
    options.batch_bytes_max = 1 << 16;
    options.in_flight_bytes_max = 1 << 16;
    options.recent_bytes_max = 0;
    let wal = Wal::create(dir.path().join("log"), options.clone()).unwrap();
    write_all(&wal, &[laggard()]);
    let done = AtomicBool::new(false);
    let mut steps = vec![laggard()];
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for index in 1..=3 {
                        assert_eq!(read(&wal, index).unwrap(), entry_of_laggard(index));
                    }
                }
            });
        }
        // The end of the laggard changes all the time, while its beginning is moved.
        for (i, step) in busy(1, 1000 * 4000).into_iter().enumerate() {
            let i = i as u64;
            let mut step = step;
            match i % 5 {
                0 => step.push(append(LAGGARD, 5, 8, 3 + i, 30)),
                3 => step.push(Change::Truncate(LAGGARD, 4 + i % 2)),
                _ => {}
            }
            let written = wal.write(batch(&step));
            done.store(written.is_err(), Ordering::Relaxed); // or the readers would never end
            written.unwrap();
            steps.push(step);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(wal.stats().entries_moved > 20, "{:?}", wal.stats());
    let expected = states(&steps).pop().unwrap();
    assert_eq!(state_of(&wal), expected);
    drop(wal);
    let wal = Wal::open(dir.path().join("log"), options).unwrap();
    assert_eq!(state_of(&wal), expected);
}

/// An entry that was taken under larger limits is moved and repaired under smaller ones.
#[test]
fn an_entry_over_the_limits_of_today_is_moved() {
    let disk = SimDisk::new();
    let mut steps = vec![vec![append(LAGGARD, 1, 2, 1, 40_000)]];
    write_all(&create(&disk, &options(1 << 18)).unwrap(), &steps);
    let wal = open(&disk, &small()).unwrap();
    for step in busy(1, 24 * SEGMENT_BYTES) {
        wal.write(batch(&step)).unwrap();
        steps.push(step);
    }
    assert!(
        disk.open(&segment(1)).is_err(),
        "the first segment is freed"
    );
    assert!(wal.stats().entries_moved >= 2);
    assert_eq!(state_of(&wal), *states(&steps).last().unwrap());
    drop(wal);
    assert_holds(&disk, &small(), &steps, steps.len());
}
