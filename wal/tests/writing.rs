//! What is written is read back: overwriting, hard states, several groups, several segments. And what is refused.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use duramen_disk::{Disk, SimDisk};
use duramen_wal::{Batch, Error, GroupId, HardState, Index, Misuse, NodeId, Options, Term};
use support::*;

const G: GroupId = GroupId(1);

/// Writes `steps`, looks, and looks again after each way to come back.
fn written_is_read_back(options: &Options, steps: &[Step]) -> SimDisk {
    let disk = SimDisk::new();
    let wal = create(&disk, options).unwrap();
    for (step, state) in steps.iter().zip(&states(steps)[1..]) {
        wal.write(&batch(step)).unwrap();
        assert_eq!(&state_of(&wal), state);
    }
    drop(wal);
    assert_holds(&disk, options, steps, steps.len());
    disk.power_cut(0);
    assert_holds(&disk, options, steps, steps.len());
    disk
}

#[test]
fn a_conflicting_entry_replaces_the_log_from_there_on_within_a_segment() {
    let steps = [
        vec![append(1, 1, 6, 1, 20)],
        vec![append(1, 3, 4, 2, 30)],
        vec![append(1, 5, 5, 2, 0)],
        vec![append(1, 1, 1, 3, 9)],
    ];
    written_is_read_back(&Options::default(), &steps);
}

#[test]
fn a_conflicting_entry_replaces_the_log_from_there_on_across_segments() {
    let steps: Vec<Step> = (1..=8)
        .map(|index| vec![append(1, index, index, 1, 40)])
        .chain([
            vec![append(1, 3, 3, 2, 40)],
            vec![append(1, 4, 9, 2, 40)],
            vec![append(1, 2, 2, 5, 40)],
        ])
        .collect();
    let disk = written_is_read_back(&options(100), &steps);
    assert_eq!(disk.list(DIR.as_ref()).unwrap().len(), 11 + 1); // one frame each, and the lock
}

#[test]
fn a_batch_may_replace_its_own_entries() {
    let steps = [
        vec![append(1, 1, 2, 1, 10)],
        vec![
            append(1, 3, 6, 2, 10),
            append(1, 4, 5, 3, 10),
            append(1, 2, 3, 4, 10),
            append(2, 1, 1, 1, 10),
        ],
    ];
    written_is_read_back(&Options::default(), &steps);
}

#[test]
fn the_newest_term_and_vote_come_back() {
    let steps = [
        vec![vote(1, 1, 3)],
        vec![vote(1, 2, 2), append(1, 1, 1, 2, 5)],
        vec![vote(2, 9, 1)],
        vec![vote(1, 4, 7), vote(1, 5, 1)],
        vec![append(1, 2, 2, 2, 5)],
    ];
    let disk = written_is_read_back(&options(100), &steps);
    let wal = open(&disk, &options(100)).unwrap();
    let newest = HardState {
        term: Term(5),
        voted_for: Some(NodeId(1)),
    };
    assert_eq!(wal.hard_state(G), newest);
    // A newer term without a vote takes the vote away.
    let unvoted = HardState {
        term: Term(6),
        voted_for: None,
    };
    wal.write(Batch::new().hard_state(G, unvoted)).unwrap();
    drop(wal);
    disk.power_cut(0);
    let wal = open(&disk, &options(100)).unwrap();
    assert_eq!(wal.hard_state(G), unvoted);
}

#[test]
fn groups_do_not_mix_and_a_batch_covers_several() {
    let steps = [
        vec![
            append(1, 1, 2, 1, 10),
            append(2, 1, 3, 7, 10),
            vote(3, 1, 1),
        ],
        vec![
            append(2, 2, 2, 8, 10),
            user(1, b"one"),
            append(1, 3, 3, 1, 10),
        ],
        vec![user(u64::MAX, b"all bits"), user(1, b"")],
    ];
    written_is_read_back(&Options::default(), &steps);
    written_is_read_back(&options(1), &steps);
}

#[test]
fn a_segment_is_followed_by_a_new_one_when_it_has_its_bytes() {
    let steps: Vec<Step> = (1..=20).map(|i| vec![append(1, i, i, 1, 30)]).collect();
    // Each frame has 24 + 33 + 30 bytes and 1 of padding.
    for (segment_bytes, segments) in [(1, 20), (56 + 88, 20), (56 + 89, 10), (56 + 5 * 88, 4)] {
        let disk = written_is_read_back(&options(segment_bytes), &steps);
        let wal = open(&disk, &options(segment_bytes)).unwrap();
        assert_eq!(wal.recovery().segments, segments, "{segment_bytes}");
    }
}

#[test]
fn a_log_goes_on_in_the_segments_of_other_options() {
    let steps: Vec<Step> = (1..=9).map(|i| vec![append(1, i, i, 1, 30)]).collect();
    let disk = SimDisk::new();
    write_all(&create(&disk, &options(100)).unwrap(), &steps[..3]);
    write_all(&open(&disk, &Options::default()).unwrap(), &steps[3..6]);
    write_all(&open(&disk, &options(1)).unwrap(), &steps[6..]);
    assert_holds(&disk, &options(100), &steps, 9);
}

#[test]
fn short_writes_are_completed() {
    let steps = [vec![append(1, 1, 3, 1, 50)], vec![vote(1, 2, 2)]];
    let disk = SimDisk::new();
    disk.set_write_bytes_max(Some(7));
    write_all(&create(&disk, &options(100)).unwrap(), &steps);
    disk.power_cut(0);
    assert_holds(&disk, &options(100), &steps, 2);
}

#[test]
fn a_misuse_is_a_typed_error_and_writes_nothing() {
    let steps = [vec![append(1, 1, 3, 4, 10), vote(1, 5, 1)]];
    let mut options = Options::default();
    options.batch_bytes_max = 400;
    let disk = disk_with(&options, &steps);
    let wal = open(&disk, &options).unwrap();
    let gap = |index, last| Misuse::Gap {
        index: Index(index),
        last: Index(last),
    };
    let back = |term, before| Misuse::TermBack {
        term: Term(term),
        before: Term(before),
    };
    let table = [
        (vec![append(1, 5, 5, 4, 1)], gap(5, 3)),
        (
            vec![append(1, 4, 4, 4, 1), append(1, 6, 6, 4, 1)],
            gap(6, 4),
        ),
        (
            vec![append(1, 2, 2, 4, 1), append(1, 4, 4, 4, 1)],
            gap(4, 2),
        ),
        (vec![append(1, 0, 0, 4, 1)], gap(0, 3)),
        (vec![append(1, u64::MAX, u64::MAX, 4, 1)], gap(u64::MAX, 3)),
        (vec![append(1, 4, 4, 3, 1)], back(3, 4)),
        (vec![append(1, 2, 2, 3, 1)], back(3, 4)),
        (
            vec![append(1, 4, 4, 9, 1), append(1, 5, 5, 8, 1)],
            back(8, 9),
        ),
        (vec![vote(1, 4, 1)], back(4, 5)),
        (vec![vote(1, 7, 1), vote(1, 6, 1)], back(6, 7)),
        (vec![user(2, b"good"), append(1, 5, 5, 4, 1)], gap(5, 3)),
    ];
    let (before, operations) = (files(&disk, DIR.as_ref()), disk.operations());
    for (step, expected) in table {
        match error(wal.write(&batch(&step))) {
            Error::Misuse { group, misuse } => assert_eq!((group, misuse), (G, expected)),
            other => panic!("{step:?}: {other}"),
        }
    }
    let large = batch(&vec![append(1, 4, 4, 4, 400)]);
    match error(wal.write(&large)) {
        Error::TooLarge { bytes, bytes_max } => assert_eq!((bytes, bytes_max), (464, 400)),
        other => panic!("{other}"),
    }
    wal.write(&Batch::new()).unwrap(); // nothing is nothing
    assert_eq!(disk.operations(), operations);
    assert_eq!(files(&disk, DIR.as_ref()), before);
    assert_eq!(state_of(&wal), states(&steps)[1]);
    wal.write(&batch(&vec![append(1, 4, 4, 4, 1)])).unwrap();
}

#[test]
fn entries_are_read_by_range_and_by_bytes() {
    let disk = disk_with(&options(100), &[vec![append(1, 1, 9, 1, 10)]]);
    let wal = open(&disk, &options(100)).unwrap();
    let indexes = |from, to, bytes_max| {
        let entries = wal.entries(G, Index(from)..Index(to), bytes_max).unwrap();
        entries
            .iter()
            .map(|entry| entry.id.index.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(indexes(3, 5, u64::MAX), [3, 4]);
    assert_eq!(indexes(3, 9, 29), [3, 4]);
    assert_eq!(indexes(3, 9, 30), [3, 4, 5]);
    assert_eq!(indexes(3, 9, 0), [3]);
    assert!(indexes(5, 5, 100).is_empty());
    for (from, to, missing) in [(0, 2, 0), (9, 11, 10), (50, 51, 50)] {
        match error(wal.entries(G, Index(from)..Index(to), u64::MAX)) {
            Error::Misuse { misuse, .. } => {
                let (index, last) = (Index(missing), Index(9));
                assert_eq!(misuse, Misuse::NoSuchEntry { index, last });
            }
            other => panic!("{other}"),
        }
    }
}
