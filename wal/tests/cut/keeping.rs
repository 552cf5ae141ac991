//! What each kind of damage costs.

use std::path::Path;
use std::sync::Arc;

use duramen_disk::{Disk, SimDisk};
use duramen_wal::{CutPlan, Error, GroupId, Index, LogId, Term, Wal};

use super::support::*;
use super::{assert_once_was, cut, cut_checked, damaged_disk, is_clean, plan, small, steps};

fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        term: Term(term),
        index: Index(index),
    }
}

/// The indexes that each group keeps and had, of those that lose something.
fn losses(plan: &CutPlan) -> Vec<(u64, u64, u64)> {
    let groups = plan.groups.iter();
    groups
        .map(|cut| (cut.group.0, cut.kept.index.0, cut.end.index.0))
        .collect()
}

/// The frame of a segment in which an entry of group 1 is.
fn flip_payload(disk: &SimDisk, number: u64, nth: usize) -> u64 {
    let bytes = read_file(disk, &segment(number));
    let with_entry: Vec<FrameParts> = frames(&bytes)
        .into_iter()
        .filter(|frame| frame.payload.len() == 2000)
        .collect();
    let payload = &with_entry[nth].payload;
    flip(disk, &segment(number), payload.start + 900);
    let text = String::from_utf8_lossy(&bytes[payload.start..][..8]).into_owned();
    let index = text.split('.').nth(1).unwrap().split(' ').next().unwrap();
    index.parse().unwrap()
}

#[test]
fn of_each_group_what_stands_before_its_first_damaged_entry_is_kept() {
    let (disk, last) = damaged_disk();
    assert!(last > 4);
    for number in [4, 3, 2] {
        let index = flip_payload(&disk, number, 1);
        let spoiled = disk.fork();
        let done = cut_checked(&spoiled, &states(&steps()));
        assert_eq!(losses(&done), [(1, index - 1, 24)], "segment {number}");
        assert!(done.lost.is_empty() && done.is_loss());
        assert_eq!(done.groups[0].kept, log_id(index - 1, index - 1));
        assert_eq!(done.groups[0].first_lost(), Index(index));
    }
}

/// Until somebody accepts it: also in the log of which this one is made when it is damaged again.
#[test]
fn a_log_says_that_something_was_cut_off_it() {
    let is_lossy = |disk: &SimDisk| open(disk, &small()).unwrap().recovery().is_lossy;
    let (disk, _) = damaged_disk();
    assert!(!is_lossy(&disk));
    let whole = disk.fork();
    let bytes = read_file(&disk, &segment(2));
    let seal = seal(&bytes).unwrap();
    flip(&whole, &segment(2), seal.directories.start + 70);
    cut(&whole).unwrap();
    assert!(!is_lossy(&whole));

    flip_payload(&disk, 2, 1);
    cut(&disk).unwrap();
    for _ in 0..2 {
        disk.power_cut(3);
        assert!(is_lossy(&disk));
        let verified = Wal::verify_on(Arc::new(disk.clone()), DIR, |_| true).unwrap();
        assert!(verified.recovery.is_lossy);
        flip(&disk, Path::new("/log/CONTROL"), 20);
        flip(&disk, Path::new("/log/CONTROL"), 4096 + 20);
        assert!(!cut(&disk).unwrap().is_loss());
    }
    let wal = open(&disk, &small()).unwrap();
    wal.accept_loss().unwrap();
    drop(wal);
    disk.power_cut(3);
    let wal = open(&disk, &small()).unwrap();
    assert!(!wal.recovery().is_lossy);
    wal.accept_loss().unwrap();
}

#[test]
fn a_damaged_seal_or_copy_loses_nothing() {
    let (disk, _) = damaged_disk();
    let bytes = read_file(&disk, &segment(2));
    let seal = seal(&bytes).unwrap();
    flip(&disk, &segment(2), seal.directories.start + 70);
    let doubled = frames(&bytes).into_iter().find(|f| f.copy.is_some());
    flip(&disk, &segment(2), doubled.unwrap().copy.unwrap().start);
    assert!(!is_clean(&disk));
    let done = cut_checked(&disk, &states(&steps()));
    assert!(!done.is_loss() && done.lost.is_empty(), "{done:?}");
}

#[test]
fn control_is_not_needed() {
    for spoil_control in [
        |disk: &SimDisk| disk.remove(&control()).unwrap(),
        |disk: &SimDisk| write_file(disk, &control(), &[0; 8192]),
        |disk: &SimDisk| write_file(disk, &control(), b""),
    ] {
        let (disk, _) = damaged_disk();
        spoil_control(&disk);
        let done = cut_checked(&disk, &states(&steps()));
        assert!(!done.is_loss(), "{done:?}");
        assert_eq!(done.lost.len(), 1);
    }
}

/// All copies of the directory of a segment's frame.
fn spoil_directories(disk: &SimDisk, number: u64, nth: usize) {
    let bytes = read_file(disk, &segment(number));
    let frame = frames(&bytes)[nth].clone();
    flip(disk, &segment(number), frame.directory.start);
    if let Some(copy) = frame.copy {
        flip(disk, &segment(number), copy.start);
    }
    if let Some(seal) = seal(&bytes) {
        flip(disk, &segment(number), seal.directories.start + 70);
    }
}

#[test]
fn a_frame_of_the_tail_that_cannot_be_named_ends_the_log_before_it_and_votes_are_in_doubt() {
    let (disk, last) = damaged_disk();
    spoil_directories(&disk, last, 1);
    assert!(matches!(
        open(&disk, &small()),
        Err(Error::DamagedDirectory { .. })
    ));
    let done = cut_checked(&disk, &states(&steps()));
    assert!(done.is_end_lost && done.is_loss());
    assert!(matches!(done.lost[..], [Error::DamagedDirectory { .. }]));
    let wal = open(&disk, &small()).unwrap();
    assert_eq!(wal.last(GroupId(2)), log_id(1, 3));
    assert!(wal.last(GroupId(1)).index > Index(10));
}

/// In a sealed one its entries have names, as long as the summary is whole.
#[test]
fn a_frame_of_a_sealed_segment_that_cannot_be_read_ends_its_groups_before_it() {
    let (disk, _) = damaged_disk();
    spoil_directories(&disk, 2, 3);
    let done = cut_checked(&disk, &states(&steps()));
    assert!(!done.is_end_lost);
    let [(1, kept, 24)] = losses(&done)[..] else {
        panic!("{done:?}")
    };
    assert!((1..20).contains(&kept));
}

/// A segment without seal, with a frame that cannot be named, in the middle.
#[test]
fn votes_that_can_be_read_behind_what_is_lost_are_kept() {
    let (disk, _) = damaged_disk();
    spoil_directories(&disk, 2, 3);
    let summary = seal(&read_file(&disk, &segment(2))).unwrap().summary;
    flip(&disk, &segment(2), summary.end - 20);
    assert!(matches!(
        open(&disk, &small()),
        Err(Error::DamagedDirectory { .. })
    ));
    let done = cut_checked(&disk, &states(&steps()));
    assert!(!done.is_end_lost);
    assert!(matches!(losses(&done)[..], [(1, 1.., 24)]), "{done:?}");
    let wal = open(&disk, &small()).unwrap();
    assert_eq!(wal.hard_state(GroupId(1)).term, Term(24));
    assert_eq!(wal.last(GroupId(3)), log_id(7, 2));
}

#[test]
fn a_segment_that_is_not_there_or_cannot_be_opened() {
    let spoil_file: [fn(&SimDisk, &Path); 3] = [
        |disk, path| disk.remove(path).unwrap(),
        |disk, path| flip(disk, path, 20),
        |disk, path| write_file(disk, path, b"short"),
    ];
    let (_, last) = damaged_disk();
    for number in 1..=last {
        for spoil_file in spoil_file {
            let (disk, _) = damaged_disk();
            spoil_file(&disk, &segment(number));
            assert!(open(&disk, &small()).is_err());
            let done = cut_checked(&disk, &states(&steps()));
            assert!(!done.lost.is_empty() && done.is_loss());
            assert_eq!(done.is_end_lost, number == last, "segment {number}");
            let wal = open(&disk, &small()).unwrap();
            match number {
                1 => assert_eq!(losses(&done), [(1, 0, 24), (2, 0, 3)]),
                _ => assert_eq!(wal.last(GroupId(2)), log_id(1, 3)),
            }
            assert_eq!(number > 1, wal.last(GroupId(1)).index > Index(0));
        }
    }
}

#[test]
fn what_the_disk_does_not_give_is_lost_like_what_is_damaged() {
    let (disk, last) = damaged_disk();
    let payload = frames(&read_file(&disk, &segment(last)))[1].payload.start as u64;
    for (number, byte) in [(1, 0), (2, 9000), (3, 9000), (last, 200), (last, payload)] {
        let (disk, _) = damaged_disk();
        disk.make_bad(&segment(number), byte..byte + 1).unwrap();
        let done = cut(&disk).unwrap();
        assert!(done.is_loss() && is_clean(&disk), "{done:?}");
        let found = state_of(&open(&disk, &small()).unwrap());
        assert_once_was(&done, &found, &states(&steps()), true);
    }
}

/// One term all along: what stands before the lost segment and what stands behind it belong together.
#[test]
fn groups_that_had_nothing_in_a_lost_segment_lose_nothing() {
    let mut steps = vec![vec![append(1, 1, 3, 5, 100), vote(1, 5, 1)]];
    for i in 1..=14 {
        steps.push(vec![append(2, i, i, 5, 2000)]);
    }
    steps.push(vec![append(1, 4, 6, 5, 100)]);
    let disk = disk_with(&small(), &steps);
    disk.remove(&segment(2)).unwrap();
    let done = cut_checked(&disk, &states(&steps));
    assert!(matches!(losses(&done)[..], [(2, 1.., 14)]), "{done:?}");
    let wal = open(&disk, &small()).unwrap();
    assert_eq!(wal.last(GroupId(1)), log_id(5, 6));
}

/// What was replaced in the lost segment is not put before what follows it.
#[test]
fn entries_that_may_have_been_replaced_are_not_joined_with_later_ones() {
    let mut steps = vec![vec![append(1, 1, 3, 5, 100)]];
    for i in 1..=7 {
        steps.push(vec![append(2, i, i, 5, 2000)]);
    }
    steps.push(vec![Change::Truncate(1, 1), append(1, 2, 3, 6, 100)]); // in segment 2
    for i in 8..=14 {
        steps.push(vec![append(2, i, i, 5, 2000)]);
    }
    steps.push(vec![append(1, 4, 6, 6, 100)]);
    let disk = disk_with(&small(), &steps);
    assert!(String::from_utf8_lossy(&read_file(&disk, &segment(2))).contains("1/6.2 "));
    disk.remove(&segment(2)).unwrap();
    let done = cut_checked(&disk, &states(&steps));
    assert!(losses(&done).contains(&(1, 3, 6)), "{done:?}");
    assert_eq!(done.groups[0].kept, log_id(5, 3));
}

#[test]
fn an_unfinished_write_is_left_out_and_is_no_loss() {
    let disk = killed_disk_with(&small(), &steps());
    let (_, last) = damaged_disk();
    let frame = frames(&read_file(&disk, &segment(last))).pop().unwrap();
    flip(&disk, &segment(last), frame.directory.start);
    if let Some(copy) = frame.copy {
        flip(&disk, &segment(last), copy.start);
    }
    let planned = plan(&disk).unwrap();
    assert!(planned.torn.is_some() && !planned.is_loss(), "{planned:?}");
    let done = cut(&disk).unwrap();
    assert!(is_clean(&disk));
    assert_eq!(done.groups_kept, 2); // The third began with that write.
}
