//! What the log's own threads do: mark an idle log, and prepare the next segment.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use duramen_disk::{Disk, SimDisk};
use duramen_wal::{Error, GroupId, Index, Options, Wal};
use support::*;

fn with_threads(segment_bytes: u64) -> Options {
    let mut options = options(segment_bytes);
    options.manual_drive = false;
    options
}

/// Waits for something that only a fault keeps from happening.
fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !happened() {
        assert!(Instant::now() < until, "waited 20 s for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn control(disk: &SimDisk) -> Vec<u8> {
    read_file(disk, &Path::new(DIR).join("CONTROL"))
}

/// Flips a bit in the last byte of the log that is part of the payload "rotten".
fn rot(disk: &SimDisk) {
    let path = segment(1);
    let mut bytes = read_file(disk, &path);
    let at = bytes
        .windows(6)
        .rposition(|window| window == b"rotten")
        .unwrap();
    bytes[at] ^= 1;
    write_file(disk, &path, &bytes);
}

fn write_rotten(wal: &Wal) {
    wal.write(batch(&vec![Change::Append(1, vec![entry(1, 1, "rotten")])]))
        .unwrap();
}

#[test]
fn damage_at_the_end_of_an_idle_log_is_damage() {
    let disk = SimDisk::new();
    let options = with_threads(1 << 16);
    let wal = create(&disk, &options).unwrap();
    let before = control(&disk);
    write_rotten(&wal);
    wait_until("the mark", || control(&disk) != before);
    disk.kill();
    rot(&disk);
    let wal = open(&disk, &options).unwrap();
    assert_eq!(wal.recovery().cut, None);
    assert_eq!(wal.recovery().damaged.len(), 1);
    let read = wal.entries(GroupId(1), Index(1)..Index(2), u64::MAX);
    assert!(matches!(error(read), Error::DamagedEntry { .. }));
}

#[test]
fn without_a_mark_it_is_cut_and_named_as_suspect() {
    let disk = SimDisk::new();
    let mut options = with_threads(1 << 16);
    options.idle_mark = None;
    let wal = create(&disk, &options).unwrap();
    write_rotten(&wal);
    disk.kill();
    rot(&disk);
    let wal = open(&disk, &options).unwrap();
    let cut = wal.recovery().cut.clone().unwrap();
    assert_eq!(cut.suspects.len(), 1);
    assert_eq!(cut.suspects[0].id.index, Index(1));
    assert_eq!(wal.last(GroupId(1)).index, Index(0));
}

#[test]
fn a_log_that_is_written_without_a_pause_is_not_marked_in_between() {
    let disk = SimDisk::new();
    let mut options = with_threads(1 << 20);
    options.idle_mark = Some(Duration::from_secs(3600));
    let wal = create(&disk, &options).unwrap();
    let before = control(&disk);
    for index in 1..=100 {
        wal.write(batch(&vec![append(1, index, index, 1, 10)]))
            .unwrap();
    }
    assert_eq!(control(&disk), before);
    wal.close().unwrap();
    assert_ne!(control(&disk), before);
}

#[test]
fn the_next_segment_is_ready_before_it_is_needed() {
    let disk = SimDisk::new();
    let wal = create(&disk, &with_threads(1 << 16)).unwrap();
    let segments = || {
        let paths = files(&disk, DIR.as_ref()).into_iter();
        let segments = paths.filter(|(path, _)| path.extension().is_some_and(|end| end == "wal"));
        segments
            .map(|(_, bytes)| (bytes.len(), frames(&bytes).len()))
            .collect::<Vec<_>>()
    };
    let names = || disk.list(DIR.as_ref()).unwrap().len();
    wal.write(batch(&vec![append(1, 1, 1, 1, 20_000)])).unwrap();
    assert_eq!(names(), 3, "a small log prepares nothing");
    wal.write(batch(&vec![append(1, 2, 2, 1, 20_000)])).unwrap();
    wait_until("the next segment", || wal.stats().has_next_segment);
    assert_eq!(segments(), [(1 << 16, 3), (1 << 16, 0)]);
    drop(wal);
    // It stays prepared when it is not used.
    let wal = open(&disk, &with_threads(1 << 16)).unwrap();
    assert_eq!(wal.recovery().segments, 1);
    assert_eq!(wal.recovery().cut, None);
    assert!(wal.stats().has_next_segment);
    wal.write(batch(&vec![append(1, 3, 3, 1, 20_000)])).unwrap();
    wal.write(batch(&vec![append(1, 4, 4, 1, 20_000)])).unwrap();
    assert!(!wal.stats().has_next_segment, "it is used");
    wait_until("the seal", || wal.stats().unsealed == 0);
    drop(wal);
    let wal = open(&disk, &with_threads(1 << 16)).unwrap();
    assert_eq!(wal.recovery().segments, 2);
    assert_eq!(wal.last(GroupId(1)).index, Index(4));
    assert_eq!(segments(), [(1 << 16, 5), (1 << 16, 3)]);
    assert_eq!(names(), 4, "nothing else was made");
}

/// What a segment begins with, the state of all groups, is a small part of it.
#[test]
fn segments_grow_with_the_number_of_groups() {
    let (groups, for_groups) = (2000, 2048 * 1000);
    let disk = SimDisk::new();
    let options = with_threads(1 << 17);
    let wal = create(&disk, &options).unwrap();
    for first in (1..=groups).step_by(100) {
        let step = (first..first + 100).map(|group| append(group, 1, 1, 1, 10));
        wal.write(batch(&step.collect())).unwrap();
    }
    let mut last = 1;
    wait_until("a segment for many groups", || {
        last += 1;
        wal.write(batch(&vec![append(1, last, last, 1, 1000)]))
            .unwrap();
        wal.stats().spare_bytes >= for_groups
    });
    wal.close().unwrap();
    let wal = open(&disk, &options).unwrap();
    assert!(wal.stats().spare_bytes >= for_groups);
    assert_eq!(wal.groups().len(), groups as usize);
    assert_eq!(wal.last(GroupId(1)).index, Index(last));
}
