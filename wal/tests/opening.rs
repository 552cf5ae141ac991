//! What `create` and `open` take, and what they refuse: by name, without changing anything.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::path::{Path, PathBuf};

use duramen_disk::{Disk, LOCK_FILE, SimDisk};
use duramen_wal::{Damage, Error, Options, Wal};
use support::*;

/// One frame in each segment.
fn small() -> Options {
    options(1)
}

fn steps() -> Vec<Step> {
    let one = |index| vec![append(1, index, index, 1, 10), vote(1, index, 1)];
    (1..=4).map(one).collect()
}

/// Opening is refused, with this error, and changes nothing; the log is whole again when what was done is undone.
fn refused(spoil: impl Fn(&SimDisk), expected: impl Fn(&Error) -> bool) {
    let disk = disk_with(&small(), &steps());
    let whole = files(&disk, DIR.as_ref());
    spoil(&disk);
    let spoiled = files(&disk, DIR.as_ref());
    let error = error(open(&disk, &small()));
    assert!(expected(&error), "{error}");
    assert_eq!(files(&disk, DIR.as_ref()), spoiled, "{error}");

    for path in spoiled.keys().filter(|path| !whole.contains_key(*path)) {
        disk.remove(path).unwrap();
    }
    for (path, bytes) in &whole {
        write_file(&disk, path, bytes);
    }
    assert_holds(&disk, &small(), &steps(), 4);
}

fn damaged(number: u64, expected: Damage) -> impl Fn(&Error) -> bool {
    move |error| matches!(error, Error::Damaged { path, reason, .. } if *path == segment(number) && *reason == expected)
}

#[test]
fn a_missing_segment_is_named() {
    for number in 1..=3 {
        refused(
            |disk| disk.remove(&segment(number)).unwrap(),
            |error| matches!(error, Error::MissingSegment { path } if *path == segment(number)),
        );
    }
}

/// Format 0 does not know how many segments there are.
#[test]
fn a_missing_last_segment_is_not_seen_by_format_0() {
    let disk = disk_with(&small(), &steps());
    disk.remove(&segment(4)).unwrap();
    assert_holds(&disk, &small(), &steps(), 3);
}

#[test]
fn a_segment_under_another_number_is_a_stranger() {
    for from in 1..=4 {
        refused(
            |disk| write_file(disk, &segment(5), &read_file(disk, &segment(from))),
            damaged(5, Damage::Stranger),
        );
    }
    refused(
        |disk| {
            let (two, three) = (read_file(disk, &segment(2)), read_file(disk, &segment(3)));
            write_file(disk, &segment(2), &three);
            write_file(disk, &segment(3), &two);
        },
        damaged(2, Damage::Stranger),
    );
}

#[test]
fn a_segment_of_another_log_is_a_stranger() {
    let other = disk_with(&small(), &steps());
    // If it is the first, the second is the first that does not belong to it.
    for (number, noticed) in [(1, 2), (2, 2), (3, 3), (4, 4)] {
        refused(
            |disk| write_file(disk, &segment(number), &read_file(&other, &segment(number))),
            damaged(noticed, Damage::Stranger),
        );
    }
}

#[test]
fn an_older_copy_of_a_segment_does_not_fit_what_follows_it() {
    let options = options(200);
    let steps: Vec<Step> = (1..=9).map(|i| vec![append(1, i, i, 1, 30)]).collect();
    let disk = disk_with(&options, &steps[..1]);
    let old = read_file(&disk, &segment(1));
    write_all(&open(&disk, &options).unwrap(), &steps[1..]);
    write_file(&disk, &segment(1), &old);
    let error = error(open(&disk, &options));
    assert!(damaged(2, Damage::Order)(&error), "{error}");
}

#[test]
fn a_file_that_is_not_part_of_a_log_is_foreign() {
    for name in [
        "notes.txt",
        "0000000000000001.WAL",
        "1.wal",
        "0000000000000002.wal~",
    ] {
        let path = Path::new(DIR).join(name);
        refused(
            |disk| write_file(disk, &path, b"mine"),
            |error| matches!(error, Error::Foreign { path: named } if *named == path),
        );
    }
}

#[test]
fn a_newer_version_is_refused_with_its_number() {
    refused(
        |disk| {
            let mut bytes = read_file(disk, &segment(2));
            bytes[8] = 7;
            let mut covered = bytes[..12].to_vec();
            covered.extend_from_slice(&bytes[16..56]);
            bytes[12..16].copy_from_slice(&crc32fast::hash(&covered).to_le_bytes());
            write_file(disk, &segment(2), &bytes);
        },
        |error| matches!(error, Error::Version { path, found: 7, expected: 0 } if *path == segment(2)),
    );
}

#[test]
fn an_open_log_is_locked_until_it_is_dropped() {
    let disk = SimDisk::new();
    let wal = create(&disk, &small()).unwrap();
    let locked = |error: &Error| matches!(error, Error::Locked { path } if path == Path::new(DIR));
    assert!(locked(&error(open(&disk, &small()))));
    assert!(locked(&error(create(&disk, &small()))));
    let clone = wal.clone();
    drop(wal);
    assert!(locked(&error(open(&disk, &small()))));
    drop(clone);
    open(&disk, &small()).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::create(dir.path(), small()).unwrap();
    let refused = error(Wal::open(dir.path(), small()));
    assert!(matches!(refused, Error::Locked { .. }), "{refused}");
    drop(wal);
    Wal::open(dir.path(), small()).unwrap();
}

#[test]
fn an_empty_or_missing_directory_is_not_a_log_and_stays_as_it_is() {
    let disk = SimDisk::new();
    let not_a_log =
        |error: Error| matches!(error, Error::NotALog { path } if path == Path::new(DIR));
    assert!(not_a_log(error(open(&disk, &small()))));
    assert!(disk.list(Path::new("/")).unwrap().is_empty());
    disk.create_dir_all(Path::new(DIR)).unwrap();
    assert!(not_a_log(error(open(&disk, &small()))));
    assert!(disk.list(Path::new(DIR)).unwrap().is_empty());
    // Only what a killed `create` leaves.
    write_file(&disk, &PathBuf::from(DIR).join(LOCK_FILE), b"");
    assert!(not_a_log(error(open(&disk, &small()))));
}

#[test]
fn create_refuses_a_directory_that_holds_something() {
    let disk = disk_with(&small(), &steps());
    let before = files(&disk, DIR.as_ref());
    let refused = error(create(&disk, &small()));
    assert!(
        matches!(&refused, Error::NotEmpty { found, .. } if *found == "0000000000000001.wal"),
        "{refused}"
    );
    assert_eq!(files(&disk, DIR.as_ref()), before);

    let disk = SimDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    write_file(&disk, &Path::new(DIR).join("notes.txt"), b"mine");
    let refused = error(create(&disk, &small()));
    assert!(
        matches!(&refused, Error::NotEmpty { found, .. } if found == "notes.txt"),
        "{refused}"
    );
}

#[test]
fn a_create_that_died_anywhere_can_be_done_again_or_has_made_the_log() {
    let (mut again, mut made) = (0, 0);
    for n in 0.. {
        let disk = SimDisk::new();
        disk.crash_after(n);
        let created = create(&disk, &small()).is_ok();
        for seed in 0..50 {
            let _replay = Replay(|| format!("crash at operation {n}, seed {seed}"));
            let after = disk.fork();
            match seed {
                0 => after.kill(),
                _ => after.power_cut(seed - 1),
            }
            let opened = open(&after, &small());
            if matches!(opened, Err(Error::NotALog { .. })) {
                assert!(!created);
                again += 1;
                create(&after, &small()).unwrap();
            } else {
                opened.unwrap();
                made += 1;
            }
            write_all(&open(&after, &small()).unwrap(), &steps());
            after.power_cut(0);
            assert_holds(&after, &small(), &steps(), 4);
        }
        if created {
            break;
        }
    }
    println!("{again} times nothing was there, {made} times a log");
    assert!(again > 200 && made > 200, "{again} {made}");
}
