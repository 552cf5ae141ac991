//! What `create` and `open` take, and what they refuse: by name, without changing anything.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::path::{Path, PathBuf};

use duramen_disk::{Disk, LOCK_FILE, SimDisk};
use duramen_wal::{Damage, Error, Options, Wal};
use support::*;

/// One step in each segment.
fn small() -> Options {
    options(12288)
}

fn steps() -> Vec<Step> {
    let one = |index| vec![append(1, index, index, 1, 5500), vote(1, index, 1)];
    (1..=4).map(one).collect()
}

/// Opening is refused, with this error, and changes nothing; the log is whole again when what was done is undone.
fn refused(spoil: impl Fn(&SimDisk), expected: impl Fn(&Error) -> bool) {
    let disk = disk_with(&small(), &steps());
    let whole = files(&disk, DIR.as_ref());
    assert_eq!(whole.len(), 4 + 1);
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

fn damaged(expected_path: PathBuf, expected: Damage) -> impl Fn(&Error) -> bool {
    move |error| matches!(error, Error::Damaged { path, reason, .. } if *path == expected_path && *reason == expected)
}

fn missing(number: u64) -> impl Fn(&Error) -> bool {
    move |error| matches!(error, Error::MissingSegment { path } if *path == segment(number))
}

#[test]
fn a_missing_segment_is_named_also_the_last() {
    for number in 1..=4 {
        refused(
            |disk| disk.remove(&segment(number)).unwrap(),
            missing(number),
        );
    }
    refused(
        |disk| (1..=4).for_each(|number| disk.remove(&segment(number)).unwrap()),
        missing(1),
    );
    refused(
        |disk| (3..=4).for_each(|number| disk.remove(&segment(number)).unwrap()),
        missing(3),
    );
}

/// CONTROL knows of a segment before anything is written to it. Nothing else does, if the process is killed before the one
/// before is sealed.
#[test]
fn the_newest_segment_is_missed_though_no_seal_tells_of_it() {
    let disk = SimDisk::new();
    let wal = create(&disk, &small()).unwrap();
    let mut steps = Vec::new();
    let mut states = Vec::new();
    while states.last() != Some(&"written to") {
        let index = steps.len() as u64 + 1;
        steps.push(vec![append(1, index, index, 1, 500)]);
        wal.write(batch(steps.last().unwrap())).unwrap();
        let killed = disk.fork();
        killed.kill();
        if killed.open(&segment(2)).is_err() {
            continue;
        }
        let is_prepared = frames(&read_file(&killed, &segment(2))).is_empty();
        states.push(if is_prepared {
            "prepared"
        } else {
            "written to"
        });
        let trailer = read_file(&killed, &segment(1)).len() - 128;
        spoil(&killed, &segment(1), trailer, |bytes| bytes.fill(0), 128);
        let whole = killed.fork();
        assert_holds(&whole, &small(), &steps, steps.len());
        killed.remove(&segment(2)).unwrap();
        let error = error(open(&killed, &small()));
        assert!(missing(2)(&error), "{states:?}: {error}");
    }
    assert_eq!(states[0], "prepared");
}

#[test]
fn a_segment_under_another_number_is_a_stranger() {
    for from in 1..=4 {
        let doubled =
            |disk: &SimDisk| write_file(disk, &segment(5), &read_file(disk, &segment(from)));
        refused(doubled, damaged(segment(5), Damage::Stranger));
        for to in (1..=4).filter(|to| *to != from) {
            let over =
                |disk: &SimDisk| write_file(disk, &segment(to), &read_file(disk, &segment(from)));
            refused(over, damaged(segment(to), Damage::Stranger));
        }
        let renamed = |disk: &SimDisk| disk.rename(&segment(from), &segment(5)).unwrap();
        refused(renamed, missing(from));
    }
    let swapped = |disk: &SimDisk| {
        let (two, three) = (read_file(disk, &segment(2)), read_file(disk, &segment(3)));
        write_file(disk, &segment(2), &three);
        write_file(disk, &segment(3), &two);
    };
    refused(swapped, damaged(segment(2), Damage::Stranger));
    // Before the first one: it is known which is the oldest, so that is what a killed process left of a freed segment.
    let disk = disk_with(&small(), &steps());
    write_file(&disk, &segment(0), &read_file(&disk, &segment(1)));
    assert_holds(&disk, &small(), &steps(), 4);
    assert_eq!(files(&disk, DIR.as_ref()).len(), 4 + 1);
}

#[test]
fn a_segment_of_another_log_is_a_stranger() {
    let other = disk_with(&small(), &steps());
    for number in 1..=4 {
        refused(
            |disk| write_file(disk, &segment(number), &read_file(&other, &segment(number))),
            damaged(segment(number), Damage::Stranger),
        );
    }
    refused(
        |disk| write_file(disk, &control(), &read_file(&other, &control())),
        damaged(segment(1), Damage::Stranger),
    );
}

/// When it was copied, the segment ended earlier, or had no frame: what was acknowledged later is missing.
#[test]
fn an_older_copy_of_a_segment_does_not_fit_what_is_known_of_it() {
    let steps: Vec<Step> = (1..=24).map(|i| vec![append(1, i, i, 1, 1000)]).collect();
    let (mut without_frames, mut without_seal) = (0, 0);
    for written in 1..24 {
        let before = disk_with(&small(), &steps[..written]);
        let after = before.fork();
        after.kill();
        write_all(&open(&after, &small()).unwrap(), &steps[written..]);
        let is_segment = |path: &Path| path.extension().is_some_and(|end| end == "wal");
        let old = files(&before, DIR.as_ref()).into_iter();
        for (path, bytes) in old.filter(|(path, bytes)| is_segment(path) && !is_sealed(bytes)) {
            without_frames += usize::from(frames(&bytes).is_empty());
            let disk = after.fork();
            disk.kill();
            let _replay = Replay(|| format!("{} as of {written} steps", path.display()));
            let as_it_was = frames(&bytes) == frames(&read_file(&disk, &path));
            write_file(&disk, &path, &bytes);
            if as_it_was {
                // It was full already: what is missing is its seal.
                without_seal += 1;
                assert_holds(&disk, &small(), &steps, 24);
                continue;
            }
            let before = files(&disk, DIR.as_ref());
            let sequence = match error(open(&disk, &small())) {
                Error::DamagedDirectory {
                    path: named,
                    sequence,
                    offset,
                    ..
                } => {
                    assert_eq!(named, path);
                    let end = frames(&bytes).last().map_or(64, |last| last.end);
                    assert_eq!(offset, end as u64);
                    sequence
                }
                other => panic!("{other}"),
            };
            assert!(sequence > written as u64, "{sequence}");
            assert_eq!(files(&disk, DIR.as_ref()), before);
        }
    }
    assert!(without_frames > 0 && without_seal == 1);
}

#[test]
fn an_older_control_is_a_lower_bound_and_names_what_it_misses() {
    let disk = disk_with(&small(), &steps()[..1]);
    let old = read_file(&disk, &control());
    write_all(&open(&disk, &small()).unwrap(), &steps()[1..]);
    write_file(&disk, &control(), &old);
    assert_holds(&disk, &small(), &steps(), 4);

    let wal = open(&disk, &small()).unwrap();
    wal.write(batch(&vec![purge(1, 4, 1)])).unwrap();
    drop(wal);
    assert!(disk.open(&segment(1)).is_err(), "it was freed");
    write_file(&disk, &control(), &old);
    let error = error(open(&disk, &small()));
    assert!(missing(1)(&error), "{error}");
}

#[test]
fn a_missing_control_is_named() {
    refused(
        |disk| disk.remove(&control()).unwrap(),
        |error| matches!(error, Error::Io { path, source, .. } if *path == control() && source.kind() == std::io::ErrorKind::NotFound),
    );
}

#[test]
fn either_slot_of_control_is_enough_and_without_both_it_is_damaged() {
    for slot in [0, 4096] {
        let disk = disk_with(&small(), &steps());
        flip(&disk, &control(), slot + 50);
        assert_holds(&disk, &small(), &steps(), 4);
        flip(&disk, &control(), 4096 - slot + 50);
        assert_holds(&disk, &small(), &steps(), 4); // the first one was written again
    }
    refused(
        |disk| {
            [50, 4096 + 50]
                .iter()
                .for_each(|at| flip(disk, &control(), *at))
        },
        damaged(control(), Damage::Checksum),
    );
}

#[test]
fn a_file_that_is_not_part_of_a_log_is_foreign() {
    for name in [
        "notes.txt",
        "0000000000000001.WAL",
        "1.wal",
        "0000000000000002.wal~",
        "control",
    ] {
        let path = Path::new(DIR).join(name);
        refused(
            |disk| write_file(disk, &path, b"mine"),
            |error| matches!(error, Error::Foreign { path: named } if *named == path),
        );
    }
}

/// Gives a segment header or CONTROL slot another version, with a checksum that is right.
fn with_version(bytes: &mut [u8], version: u8) {
    bytes[8] = version;
    let covered = [&bytes[..12], &bytes[16..64]].concat();
    bytes[12..16].copy_from_slice(&crc32fast::hash(&covered).to_le_bytes());
}

#[test]
fn another_version_is_refused_with_its_number() {
    for version in [0, 2, 7] {
        for (path, offset) in [
            (segment(1), 0),
            (segment(2), 0),
            (segment(4), 0),
            (control(), 0),
            (control(), 4096),
        ] {
            refused(
                |disk| {
                    spoil(
                        disk,
                        &path,
                        offset,
                        |bytes| with_version(bytes, version),
                        64,
                    )
                },
                |error| {
                    let is_named = matches!(error, Error::Version { path: named, found, expected: 1 } if *named == path && *found == u32::from(version));
                    let said = error.to_string();
                    is_named
                        && [version, 1]
                            .iter()
                            .all(|version| said.contains(&format!("version {version}")))
                },
            );
        }
    }
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
    write_file(&disk, &PathBuf::from(DIR).join("spare-0.tmp"), b"");
    assert!(not_a_log(error(open(&disk, &small()))));
}

#[test]
fn create_refuses_a_directory_that_holds_something() {
    let refused = |disk: &SimDisk, name: &str| {
        let before = files(disk, DIR.as_ref());
        let refused = error(create(disk, &small()));
        assert!(
            matches!(&refused, Error::NotEmpty { found, .. } if *found == name),
            "{refused}"
        );
        assert_eq!(files(disk, DIR.as_ref()), before);
    };
    let disk = disk_with(&small(), &steps());
    refused(&disk, "0000000000000001.wal");
    // A log that lost all its segments is not an empty directory.
    (1..=4).for_each(|number| disk.remove(&segment(number)).unwrap());
    refused(&disk, "CONTROL");

    let disk = SimDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    write_file(&disk, &Path::new(DIR).join("notes.txt"), b"mine");
    refused(&disk, "notes.txt");
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
