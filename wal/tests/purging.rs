//! Purging, freeing of segments, and what comes back when a log is opened whose entries were in freed segments.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use duramen_disk::{Disk, SimDisk};
use duramen_wal::{Error, GroupId, Index, LogId, Options, Term};
use support::*;

/// One large entry or vote, and some small ones, in each segment.
fn small() -> Options {
    options(16384)
}

/// One entry that fills a segment, of this term.
fn large(index: u64, term: u64) -> Step {
    vec![append(1, index, index, term, 7800)]
}

/// Writes steps one by one. After each the log is what it should be, open, killed and opened, and after a power cut.
fn holds_all_the_way(steps: &[Step]) -> SimDisk {
    let disk = SimDisk::new();
    drop(create(&disk, &small()).unwrap());
    for (k, step) in steps.iter().enumerate() {
        let _replay = Replay(|| format!("step {k}: {step:?}"));
        let wal = open(&disk, &small()).unwrap();
        wal.write(batch(step)).unwrap();
        assert_eq!(state_of(&wal), states(steps)[k + 1]);
        drop(wal);
        for then in 0..4 {
            let after = disk.fork();
            match then {
                0 => after.kill(),
                seed => after.power_cut(seed - 1),
            }
            assert_holds(&after, &small(), steps, k + 1);
        }
    }
    // And in one go.
    let at_once = disk_with(&small(), steps);
    assert_holds(&at_once, &small(), steps, steps.len());
    disk
}

fn segments(disk: &SimDisk) -> Vec<u64> {
    let names = disk.list(DIR.as_ref()).unwrap().into_iter();
    names
        .filter_map(|name| u64::from_str_radix(name.strip_suffix(".wal")?, 16).ok())
        .collect()
}

#[test]
fn a_purge_frees_the_segments_that_hold_nothing_else() {
    let wal_disk = SimDisk::new();
    let wal = create(&wal_disk, &small()).unwrap();
    let mut steps: Vec<Step> = (1..=6).map(|i| large(i, 1)).collect();
    write_all(&wal, &steps);
    assert_eq!(segments(&wal_disk), [1, 2, 3, 4, 5, 6]);
    let mut go_on = |step: Step, expected: &[u64]| {
        wal.write(batch(&step)).unwrap();
        steps.push(step);
        assert_eq!(segments(&wal_disk), expected);
        let after = wal_disk.fork();
        after.power_cut(0);
        assert_holds(&after, &small(), &steps, steps.len());
    };
    go_on(vec![purge(1, 2, 1)], &[3, 4, 5, 6]);
    go_on(vec![purge(1, 2, 1)], &[3, 4, 5, 6]); // again is no misuse
    go_on(vec![purge(1, 5, 1)], &[6]);
    go_on(vec![purge(1, 6, 1)], &[6]); // never the last one
    go_on(large(7, 1), &[7]);
}

/// As long as they take little: see `moving.rs`.
#[test]
fn a_group_that_lags_holds_its_segments() {
    let mut steps: Vec<Step> = (1..=3).map(|i| large(i, 1)).collect();
    steps.insert(2, vec![append(2, 1, 1, 1, 10)]);
    steps.push(vec![purge(1, 3, 1)]);
    let disk = disk_with(&small(), &steps);
    assert_eq!(segments(&disk), [2, 3]);
    assert_holds(&disk, &small(), &steps, 5);
    // An entry is let go by replacing it, truncating it and removing its group, too.
    for (last, left) in [
        (vec![append(2, 1, 1, 2, 10)], 3),
        (vec![Change::Truncate(2, 0)], 3),
        (vec![Change::Remove(2)], 4), // twice, like a vote: it begins a segment
        (vec![purge(2, 1, 1)], 3),
    ] {
        let disk = disk.fork();
        steps.push(last);
        let wal = open(&disk, &small()).unwrap();
        write_all(&wal, &steps[5..]);
        drop(wal);
        assert_eq!(segments(&disk), [left]);
        assert_holds(&disk, &small(), &steps, 6);
        steps.pop();
    }
}

#[test]
fn a_purge_past_the_end_empties_the_log_which_goes_on_after_it() {
    let disk = holds_all_the_way(&[
        large(1, 1),
        vec![purge(1, 100, 7), append(1, 101, 101, 7, 10)],
        vec![purge(2, 1 << 60, 3)],
        vec![
            append(2, (1 << 60) + 1, (1 << 60) + 2, 4, 10),
            vote(2, 4, 1),
        ],
        vec![Change::Truncate(2, 1 << 60)],
        large(102, 9),
        vec![purge(1, 102, 9)],
        vec![purge(1, 103, 9)],
    ]);
    let wal = open(&disk, &small()).unwrap();
    let id = |term, index| LogId {
        term: Term(term),
        index: Index(index),
    };
    assert_eq!(wal.last(GroupId(1)), id(9, 103));
    assert_eq!(wal.last(GroupId(2)), id(3, 1 << 60));
    assert_eq!(wal.purged(GroupId(2)), id(3, 1 << 60));
    assert_eq!(wal.term(GroupId(2), Index(1 << 60)), None);
}

#[test]
fn the_state_of_a_group_outlives_the_segment_it_was_written_in() {
    let disk = holds_all_the_way(&[
        vec![vote(1, 3, 2), user(1, b"kept"), user(2, b"alone")],
        vec![vote(3, 9, 9)],
        large(1, 1),
        large(2, 1),
        large(3, 1),
        vec![purge(1, 3, 1)],
        large(4, 2),
        large(5, 2),
    ]);
    assert!(segments(&disk)[0] > 3, "{:?}", segments(&disk));
}

/// The terms of entries in freed segments are not known when the log is opened. What takes them away names its own.
#[test]
fn entries_of_several_terms_in_freed_segments_are_taken_away_by_what_follows() {
    let terms = [1, 2, 3, 4].map(|term| large(term, term));
    let last: [Vec<Step>; 7] = [
        vec![vec![purge(1, 4, 4)]],
        vec![vec![purge(1, 2, 2)], vec![purge(1, 4, 4)]],
        vec![vec![Change::Truncate(1, 2)], vec![purge(1, 2, 2)]],
        vec![vec![Change::Truncate(1, 0)], vec![append(1, 1, 1, 1, 10)]],
        vec![
            vec![Change::Truncate(1, 3)],
            vec![append(1, 4, 4, 3, 10), Change::Truncate(1, 3)],
            vec![append(1, 2, 2, 1, 10)],
            vec![purge(1, 1, 1)],
        ],
        vec![vec![append(1, 1, 3, 1, 10)]],
        vec![vec![Change::Remove(1)], vec![append(1, 1, 1, 1, 10)]],
    ];
    for last in last {
        let steps = [&terms[..], &last].concat();
        let disk = holds_all_the_way(&steps);
        // Truncating the whole log away may leave nothing in any segment but the last.
        assert!(segments(&disk)[0] > 1, "{:?}", segments(&disk));
    }
}

/// Row 33: the truncation is in another segment than what it truncates.
#[test]
fn truncated_entries_never_come_back_whether_their_segment_is_freed_or_not() {
    let before: Vec<Step> = vec![
        vec![append(1, 1, 2, 1, 2000), append(2, 1, 1, 1, 10)],
        large(3, 1),
        large(4, 2),
        vec![Change::Truncate(1, 2), vote(1, 3, 1)],
    ];
    for freed in [false, true] {
        let mut steps = before.clone();
        if freed {
            steps.push(vec![purge(1, 2, 1), purge(2, 1, 1)]);
        }
        steps.push(vec![append(1, 3, 3, 3, 30)]);
        steps.push(vec![append(1, 4, 4, 3, 5500)]);
        steps.push(vec![append(1, 4, 4, 4, 5500)]);
        let disk = holds_all_the_way(&steps);
        assert_eq!(segments(&disk).contains(&1), !freed);
    }
}

/// CONTROL says which segments were freed before they are removed. A process that is killed in between leaves them.
#[test]
fn a_freed_segment_that_is_still_there_is_removed_and_not_read() {
    let steps: Vec<Step> = (1..=4).map(|i| large(i, 1)).collect();
    let disk = disk_with(&small(), &steps);
    let old = read_file(&disk, &segment(1));
    let wal = open(&disk, &small()).unwrap();
    write_all(&wal, &[vec![purge(1, 4, 1)]]);
    drop(wal);
    for bytes in [&old[..], b"not even a segment"] {
        write_file(&disk, &segment(1), bytes);
        let wal = open(&disk, &small()).unwrap();
        assert_eq!(wal.last(GroupId(1)).index, Index(4));
        assert_eq!(segments(&disk), [4]);
    }
}

/// An older purge, which freed nothing, is gone with the CONTROL that says so: nobody can tell, and nothing is served.
#[test]
fn entries_of_a_segment_that_is_gone_are_missed_and_named() {
    let steps: Vec<Step> = (1..=4).map(|i| large(i, 1)).collect();
    let disk = disk_with(&small(), &steps);
    // CONTROL says that the log begins with the second segment, as if it had been written too early.
    for slot in [0, 4096] {
        spoil(
            &disk,
            &control(),
            slot,
            |bytes| {
                bytes[40..48].copy_from_slice(&2_u64.to_le_bytes());
                let covered = [&bytes[..12], &bytes[16..64]].concat();
                bytes[12..16].copy_from_slice(&crc32fast::hash(&covered).to_le_bytes());
            },
            64,
        );
    }
    let before = files(&disk, DIR.as_ref());
    match error(open(&disk, &small())) {
        Error::MissingSegment { path } => assert_eq!(path, segment(1)),
        other => panic!("{other}"),
    }
    assert_eq!(files(&disk, DIR.as_ref()), before);
}

/// How many segments were another one before, by the flag in their headers.
fn recycled(disk: &SimDisk) -> usize {
    let paths = segments(disk).into_iter().map(segment);
    paths.filter(|path| read_file(disk, path)[48] == 1).count()
}

#[test]
fn a_freed_segment_becomes_the_next_one() {
    for recycle in [true, false] {
        let mut options = small();
        options.recycle = recycle;
        let disk = SimDisk::new();
        let wal = create(&disk, &options).unwrap();
        let mut steps = Vec::new();
        for i in 1..=8 {
            steps.push(large(i, 1));
            steps.push(vec![purge(1, i, 1)]);
        }
        write_all(&wal, &steps);
        assert_eq!(recycled(&disk), usize::from(recycle));
        drop(wal);
        let spares = disk.list(DIR.as_ref()).unwrap();
        let spares = spares.iter().filter(|name| name.starts_with("spare-"));
        assert_eq!(spares.count(), usize::from(recycle));
        disk.power_cut(0);
        assert_holds(&disk, &options, &steps, steps.len());
    }
}

/// Frames of the segment's earlier life and zeros of the disk's both stand behind the last frame: neither is torn.
#[test]
fn what_stood_in_a_recycled_segment_is_not_reported_as_cut() {
    let mut steps = Vec::new();
    for i in 1..=5 {
        steps.push(large(i, 1));
        steps.push(vec![purge(1, i, 1)]);
    }
    steps.push(vec![append(1, 6, 6, 1, 100)]);
    let disk = disk_with(&small(), &steps);
    disk.power_cut(0);
    let wal = open(&disk, &small()).unwrap();
    assert_eq!(wal.recovery().cut, None);
    assert_eq!(wal.last(GroupId(1)).index, Index(6));
    assert_eq!(recycled(&disk), 1);
}

#[test]
fn a_spare_is_taken_over_by_the_next_open() {
    let mut steps = vec![large(1, 1), large(2, 1), vec![purge(1, 1, 1)]];
    let disk = disk_with(&small(), &steps);
    let wal = open(&disk, &small()).unwrap();
    steps.push(large(3, 1));
    steps.push(large(4, 1));
    write_all(&wal, &steps[3..]);
    drop(wal);
    assert_eq!(recycled(&disk), 1);
    assert_holds(&disk, &small(), &steps, steps.len());
}

/// Nothing is closed and no later write marks it: CONTROL alone knows that the purge was durable when segments were freed.
#[test]
fn what_freed_a_segment_is_never_cut_off() {
    let mut steps: Vec<Step> = (1..=4).map(|i| large(i, 1)).collect();
    steps.push(vec![purge(1, 3, 1), append(2, 1, 1, 1, 100)]);
    let disk = killed_disk_with(&small(), &steps);
    let numbers = segments(&disk);
    assert!(numbers[0] > 1, "{numbers:?}");
    let ends = numbers.iter().map(|number| segment(*number));
    let mut ends = ends.filter_map(|path| Some((frames(&read_file(&disk, &path)).pop()?, path)));
    let (frame, last) = ends.next_back().unwrap();
    flip(&disk, &last, frame.payload.start);
    let wal = open(&disk, &small()).unwrap();
    assert_eq!(wal.recovery().cut, None);
    assert_eq!(wal.recovery().damaged.len(), 1);
    assert_eq!(wal.purged(GroupId(1)).index, Index(3));
}
