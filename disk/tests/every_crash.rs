//! The enumeration of crash states: that it is complete, that it finds what is broken, and that its ids replay.

#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use duramen_disk::{Crash, CrashId, CrashState, Disk, Op, SimDisk, every_crash};

const SECTOR: usize = 512;

fn path(name: &str) -> &Path {
    Path::new(name)
}

/// All names and all bytes in `/`.
fn content(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.list(path("/")).unwrap().into_iter();
    let bytes = |name: &str| disk.open(&path("/").join(name)).unwrap().map().unwrap();
    names
        .map(|name| (name.clone(), bytes(&name).to_vec()))
        .collect()
}

/// A file with two durable sectors of zeros, and its name durable.
fn disk_with_file() -> SimDisk {
    let disk = SimDisk::new();
    let file = disk.create(path("/file")).unwrap();
    file.set_len(2 * SECTOR as u64).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    disk
}

#[test]
fn every_subset_of_unsynced_units_comes_once() {
    let workload = |disk: &SimDisk| -> io::Result<()> {
        let file = disk.open(path("/file"))?;
        file.write_all_at(&[1; 2 * SECTOR], 0)?; // two sectors
        file.write_all_at(&[2; SECTOR], 2 * SECTOR as u64)?; // a length and a sector
        disk.create(path("/new"))?; // a name
        Ok(())
    };
    let kept = |crash: Crash<_>| {
        let (_, state) = crash.id.steps()[0];
        matches!(state, CrashState::Keep(_)).then(|| content(&crash.disk))
    };
    let disk = disk_with_file();
    let last = every_crash(&disk, |disk| workload(disk).is_ok()).filter(|crash| crash.outcome);
    let found: Vec<_> = last.filter_map(kept).collect();
    let distinct: BTreeSet<_> = found.iter().cloned().collect();
    // 2 x 2 for the sectors, 3 for the length with and without its sector, 2 for the name.
    assert_eq!((found.len(), distinct.len()), (24, 24));
}

#[test]
fn bytes_without_a_name_make_no_state_of_their_own() {
    let workload = |disk: &SimDisk| -> io::Result<()> {
        let file = disk.create(path("/new"))?;
        file.write_all_at(&[1; 2 * SECTOR], 0)
    };
    let disk = disk_with_file();
    let last = every_crash(&disk, |disk| workload(disk).is_ok()).filter(|crash| crash.outcome);
    let kept = last.filter(|crash| matches!(crash.id.steps()[0].1, CrashState::Keep(_)));
    // No name; or a name, and no length, or a length and two sectors.
    assert_eq!(kept.count(), 1 + 1 + 4);

    let in_dir = |disk: &SimDisk| {
        disk.create(path("/dir/file")).is_ok() && disk.create(path("/dir/other")).is_ok()
    };
    let disk = SimDisk::new();
    disk.crash_before(1); // after mkdir
    disk.create_dir_all(path("/dir")).unwrap_err();
    disk.kill();
    let last = every_crash(&disk, in_dir).filter(|crash| crash.outcome);
    let kept = last.filter(|crash| matches!(crash.id.steps()[0].1, CrashState::Keep(_)));
    assert_eq!(kept.count(), 1 + 4);
}

#[test]
fn a_crash_comes_before_each_operation_and_inside_each_write() {
    let workload = |disk: &SimDisk| -> io::Result<()> {
        let file = disk.open(path("/file"))?;
        file.write_at(b"1234", 0)?;
        file.sync_data()?;
        disk.remove(path("/file"))
    };
    let mut seen = Vec::new();
    for crash in every_crash(&disk_with_file(), |disk| workload(disk).is_ok()) {
        let (point, state) = crash.id.steps()[0];
        if state == CrashState::Kill {
            let files = content(&crash.disk);
            let bytes = files.first().map(|(_, bytes)| bytes[..4].to_vec());
            let op = crash.died_in.as_ref().map(|(op, _)| *op);
            seen.push((point.operation, op, bytes, crash.outcome));
        }
    }
    let bytes = |bytes: &[u8; 4]| Some(bytes.to_vec());
    let expected = [
        (0, Some(Op::Write), bytes(&[0; 4]), false),
        (0, Some(Op::Write), bytes(b"12\0\0"), false),
        (1, Some(Op::SyncData), bytes(b"1234"), false),
        (2, Some(Op::Remove), bytes(b"1234"), false),
        (3, None, None, true),
    ];
    assert_eq!(seen, expected);
}

/// What a careless program leaves out when it replaces a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Without {
    Nothing,
    SyncData,
    SyncDir,
    Rename,
}

fn replace(disk: &SimDisk, value: u8, without: Without) -> io::Result<()> {
    let name = match without {
        Without::Rename => path("/file"),
        _ => path("/new"),
    };
    let file = disk.create(name).or_else(|_| disk.open(name))?;
    file.write_all_at(&[value; 2 * SECTOR], 0)?;
    if without != Without::SyncData {
        file.sync_data()?;
    }
    if without != Without::Rename {
        disk.rename(path("/new"), path("/file"))?;
    }
    if without != Without::SyncDir {
        disk.sync_dir(path("/"))?;
    }
    Ok(())
}

/// The value in the file, if it is whole.
fn value(disk: &SimDisk) -> Option<u8> {
    let bytes = disk.open(path("/file")).ok()?.map().unwrap();
    let whole = bytes.len() == 2 * SECTOR && bytes.iter().all(|byte| *byte == bytes[0]);
    whole.then(|| bytes[0])
}

/// Where a program that replaces a file twice breaks its promise.
fn broken(without: Without) -> Vec<CrashId> {
    let run = |disk: &SimDisk| {
        (1..3)
            .take_while(|&n| replace(disk, n, without).is_ok())
            .count()
    };
    let keeps = |crash: &Crash<usize>| {
        value(&crash.disk).is_some_and(|found| {
            let found = usize::from(found);
            found == crash.outcome || found == crash.outcome + 1
        })
    };
    every_crash(&disk_with_file(), run)
        .filter(|crash| !keeps(crash))
        .map(|crash| crash.id.clone())
        .collect()
}

#[test]
fn a_program_that_syncs_too_little_is_found_out_and_one_that_does_not_is_not() {
    assert_eq!(broken(Without::Nothing), []);
    for without in [Without::SyncData, Without::SyncDir, Without::Rename] {
        assert!(!broken(without).is_empty(), "{without:?}");
    }
}

#[test]
fn an_id_gives_its_state_again() {
    let disk = disk_with_file();
    let run = |disk: &SimDisk| replace(disk, 1, Without::SyncData).is_ok();
    let mut states = 0;
    for crash in every_crash(&disk, run) {
        let id: CrashId = crash.id.to_string().parse().unwrap();
        let mut only = every_crash(&disk, run).only(id);
        let again = only.next().unwrap();
        assert_eq!(again.id, crash.id);
        assert_eq!(content(&again.disk), content(&crash.disk));
        assert!(only.next().is_none());
        states += 1;
    }
    assert!(states > 30, "{states}");
}

#[test]
fn a_crash_in_the_recovery_from_a_crash_has_an_id_of_two_steps() {
    let disk = disk_with_file();
    let run = |disk: &SimDisk| replace(disk, 1, Without::Nothing).is_ok();
    let recover = |disk: &SimDisk| replace(disk, 7, Without::Nothing).is_ok();
    let mut seen = BTreeSet::new();
    let mut last = None;
    for crash in every_crash(&disk, run) {
        for second in crash.every_crash(recover) {
            let found = value(&second.disk);
            assert!(if second.outcome {
                found == Some(7)
            } else {
                found.is_some()
            });
            let id = second.id.to_string();
            assert_eq!(id.split('/').next(), Some(&crash.id.to_string()[..]));
            assert!(seen.insert(id), "twice: {}", second.id);
            last = Some((second.id.clone(), content(&second.disk)));
        }
    }
    assert!(seen.len() > 1000, "{}", seen.len());
    let (id, found) = last.unwrap();
    let mut again = Vec::new();
    for crash in every_crash(&disk, run).only(id.clone()) {
        let second = crash.every_crash(recover);
        again.extend(second.map(|second| (second.id.clone(), content(&second.disk))));
    }
    assert_eq!(again, [(id, found)]);
}

#[test]
fn more_units_than_can_be_counted_are_drawn() {
    let run = |disk: &SimDisk| {
        let file = disk.open(path("/file")).unwrap();
        file.write_all_at(&[1; 100 * SECTOR], 0).is_ok()
    };
    let disk = disk_with_file();
    let crashes = every_crash(&disk, run).units_max(10).seeds(50);
    let last = crashes.filter(|crash| crash.outcome);
    let drawn: Vec<_> = last
        .map(|crash| content(&crash.disk)[0].1.clone())
        .collect();
    assert_eq!(drawn.len(), 1 + 2 + 50); // killed, nothing and everything kept, drawn
    assert_eq!(drawn[1], [0; 2 * SECTOR]);
    assert_eq!(drawn[2], [1; 100 * SECTOR]);
    assert!(drawn.iter().collect::<BTreeSet<_>>().len() > 30);
}

#[test]
fn a_length_that_was_taken_back_is_among_the_states() {
    let run = |disk: &SimDisk| {
        let file = disk.open(path("/file")).unwrap();
        file.write_all_at(&[7; 3 * SECTOR], 0).is_ok()
            && file.set_len(2 * SECTOR as u64).is_ok()
            && file.write_all_at(&[0; 2 * SECTOR], 0).is_ok()
    };
    let last = every_crash(&disk_with_file(), run)
        .torn_seeds(50)
        .filter(|crash| crash.outcome);
    let left: Vec<_> = last
        .map(|crash| content(&crash.disk)[0].1.clone())
        .collect();
    assert!(
        left.iter().any(|bytes| bytes.len() == 3 * SECTOR),
        "the length"
    );
    assert!(
        left.iter().any(|bytes| bytes.starts_with(&[7; SECTOR])),
        "the bytes"
    );
}

#[test]
fn a_text_that_is_no_id_is_refused() {
    for text in [
        "", "1", "kill", "1.", "1.keep", "1.keep-g", "x.kill", "1h2.kill", "1.kill/",
    ] {
        let error = text.parse::<CrashId>().unwrap_err();
        assert!(error.to_string().contains("is not a crash"), "{text}");
    }
}

#[test]
fn a_panic_over_a_state_passes_through() {
    let run = |disk: &SimDisk| replace(disk, 1, Without::Nothing).is_ok();
    let look = || {
        for crash in every_crash(&disk_with_file(), run) {
            assert!(value(&crash.disk) != Some(1), "as intended");
        }
    };
    catch_unwind(AssertUnwindSafe(look)).unwrap_err();
}

/// Millions of states in minutes: otherwise nobody lets it run to the end.
#[test]
fn states_are_cheap() {
    let disk = SimDisk::new();
    let log = disk.create(path("/log")).unwrap();
    log.write_all_at(&[0; 1 << 20], 0).unwrap();
    log.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    let run = |disk: &SimDisk| {
        let log = disk.open(path("/log")).unwrap();
        let append = |n: u8| {
            log.write_all_at(&[n; 4000], u64::from(n) * 4000)?;
            log.sync_data()
        };
        (1..20).take_while(|&n| append(n).is_ok()).count()
    };
    let started = Instant::now();
    let states = every_crash(&disk, run).count();
    let rate = states as f64 / started.elapsed().as_secs_f64();
    println!("{states} states, {rate:.0} a second");
    assert!(states > 5_000, "{states}");
    assert!(started.elapsed() < Duration::from_secs(30));
}
