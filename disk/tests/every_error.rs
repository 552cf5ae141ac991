//! The enumeration of errors: that it is complete, that it finds what is careless, and that its ids replay.

#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::io::{self, ErrorKind};
use std::path::Path;

use duramen_disk::{
    CrashId, CrashState, Disk, Failure, LockMode, Op, SimDisk, every_crash, every_error,
};

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn content(disk: &SimDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.list(path("/")).unwrap().into_iter();
    let bytes = |name: &str| disk.open(&path("/").join(name)).unwrap().map().unwrap();
    names
        .map(|name| (name.clone(), bytes(&name).to_vec()))
        .collect()
}

/// A file with 1024 durable bytes of 1.
fn disk_with_file() -> SimDisk {
    let disk = SimDisk::new();
    let file = disk.create(path("/file")).unwrap();
    file.write_all_at(&[1; 1024], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    disk
}

/// A call of each kind, in this order.
fn calls(disk: &SimDisk) -> io::Result<()> {
    let _guard = disk.lock(path("/"), LockMode::Exclusive)?;
    disk.list(path("/"))?;
    let file = disk.open(path("/file"))?;
    file.read_at(&mut [0; 8], 0)?;
    file.map()?;
    file.close()?;
    let file = disk.create(path("/new"))?;
    file.allocate(2048)?;
    file.write_at(&[2; 1024], 0)?;
    file.punch_hole(0, 512)?;
    file.set_len(1024)?;
    file.sync_data()?;
    disk.rename(path("/new"), path("/file"))?;
    disk.remove(path("/LOCK"))?;
    disk.sync_dir(path("/"))?;
    disk.create_dir_all(path("/dir"))
}

const CALLS: [Op; 17] = [
    Op::Lock,
    Op::List,
    Op::Open,
    Op::Read,
    Op::Read,
    Op::Close,
    Op::Create,
    Op::Allocate,
    Op::Write,
    Op::PunchHole,
    Op::SetLen,
    Op::SyncData,
    Op::Rename,
    Op::Remove,
    Op::SyncDir,
    Op::CreateDir,
    Op::SyncDir,
];

#[test]
fn each_call_of_any_kind_fails_once_and_in_turn() {
    let disk = disk_with_file();
    let mut seen = Vec::new();
    for (n, failed) in (0..).zip(every_error(&disk, Failure::EMFILE, calls)) {
        let told = failed.outcome.as_ref().unwrap_err();
        assert_eq!(told.raw_os_error(), Some(24), "{failed:?}");
        assert_eq!(failed.id.to_string(), format!("{n}.error"));
        seen.push(failed.failed_in.0);
        // It was the only one: the rest goes on.
        failed.disk.open(path("/file")).unwrap();
    }
    assert_eq!(seen, CALLS);
    let files = content(&disk);
    assert_eq!(files, [("file".to_owned(), vec![1; 1024])], "untouched");
}

#[test]
fn a_file_that_is_open_after_the_error_still_works() {
    let append = |disk: &SimDisk| {
        let file = disk.open(path("/file")).ok()?;
        let done = file
            .write_all_at(&[2; 512], 0)
            .and_then(|()| file.sync_data());
        Some((file, done.is_ok()))
    };
    let mut failures = 0;
    for failed in every_error(&disk_with_file(), Failure::EIO, append) {
        if let Some((file, done)) = &failed.outcome {
            assert!(!done);
            file.write_all_at(&[3; 512], 0).unwrap();
            file.sync_data().unwrap();
            failed.disk.power_cut(0);
            assert_eq!(content(&failed.disk)[0].1[..512], [3; 512]);
            file.len().unwrap_err();
        }
        failures += 1;
    }
    assert_eq!(failures, 3);
}

/// Writes and syncs; if the sync fails it is repeated, or everything is.
fn persistent(disk: &SimDisk, repeats_sync_alone: bool) -> io::Result<()> {
    let file = disk.open(path("/file"))?;
    for _ in 0..2 {
        file.write_all_at(&[2; 1024], 0)?;
        match file.sync_data() {
            Err(_) if repeats_sync_alone => return file.sync_data(),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
    }
    Err(ErrorKind::Other.into())
}

#[test]
fn a_program_that_believes_a_repeated_sync_is_found_out() {
    for careless in [false, true] {
        let runs = every_error(&disk_with_file(), Failure::EIO, |disk| {
            persistent(disk, careless)
        });
        let broken = runs.filter(|failed| {
            failed.disk.power_cut(0);
            failed.outcome.is_ok() && content(&failed.disk)[0].1 != [2; 1024]
        });
        let broken: Vec<Op> = broken.map(|failed| failed.failed_in.0).collect();
        let expected: &[Op] = if careless { &[Op::SyncData] } else { &[] };
        assert_eq!(broken, expected);
    }
}

#[test]
fn each_read_and_each_write_is_short_once() {
    let copy = |disk: &SimDisk| -> io::Result<[usize; 2]> {
        let (from, to) = (disk.open(path("/file"))?, disk.create(path("/to"))?);
        let mut bytes = [0; 1023];
        let read = from.read_at(&mut bytes, 0)?;
        from.read_exact_at(&mut bytes, 0)?;
        let written = to.write_at(&bytes, 0)?;
        to.write_all_at(&bytes, 0)?;
        to.sync_data()?;
        Ok([read, written])
    };
    let mut seen = Vec::new();
    for failed in every_error(&disk_with_file(), Failure::SHORT, copy) {
        assert_eq!(content(&failed.disk)[1].1, [1; 1023]);
        seen.push((failed.failed_in.0, *failed.outcome.as_ref().unwrap()));
    }
    let expected = [
        (Op::Read, [512, 1023]),
        (Op::Read, [1023, 1023]),
        (Op::Write, [1023, 512]),
        (Op::Write, [1023, 1023]),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn an_interrupted_read_or_write_is_done_again_by_the_trait() {
    let run = |disk: &SimDisk| -> io::Result<()> {
        let file = disk.open(path("/file"))?;
        file.write_all_at(&[2; 1024], 0)?;
        file.read_exact_at(&mut [0; 1024], 0)
    };
    let runs = every_error(&disk_with_file(), ErrorKind::Interrupted, run);
    let said: Vec<_> = runs
        .map(|failed| (failed.failed_in.0, failed.outcome.is_ok()))
        .collect();
    assert_eq!(
        said,
        [(Op::Open, false), (Op::Write, true), (Op::Read, true)]
    );
}

#[test]
fn an_id_gives_its_run_again_also_inside_a_crash_and_before_one() {
    let disk = disk_with_file();
    let run = |disk: &SimDisk| calls(disk).is_ok();
    let recover = |disk: &SimDisk| calls(disk).is_ok();
    let mut ids = Vec::new();
    for failed in every_error(&disk, Failure::EIO, run) {
        for crash in failed.every_crash(recover).torn_seeds(1) {
            ids.push((crash.id.clone(), content_or_dir(&crash.disk)));
        }
    }
    for crash in every_crash(&disk, run).torn_seeds(1) {
        for failed in crash.every_error(Failure::EIO, recover) {
            ids.push((failed.id.clone(), content_or_dir(&failed.disk)));
        }
    }
    println!("{} states", ids.len());
    assert!(ids.len() > 1000, "{}", ids.len());
    for (id, left) in ids.iter().step_by(41) {
        let again: CrashId = id.to_string().parse().unwrap();
        assert_eq!(again, *id);
        let mut found = Vec::new();
        for failed in every_error(&disk, Failure::EIO, run).only(again.clone()) {
            let crashes = failed.every_crash(recover);
            found.extend(crashes.map(|crash| (crash.id.clone(), content_or_dir(&crash.disk))));
        }
        for crash in every_crash(&disk, run).only(again) {
            let errors = crash.every_error(Failure::EIO, recover);
            found.extend(errors.map(|failed| (failed.id.clone(), content_or_dir(&failed.disk))));
        }
        assert_eq!(found, [(id.clone(), left.clone())]);
    }
}

/// The names, and what the two files hold.
fn content_or_dir(disk: &SimDisk) -> (Vec<String>, Vec<Option<Vec<u8>>>) {
    let bytes = |name| Some(disk.open(path(name)).ok()?.map().unwrap().to_vec());
    let names = disk.list(path("/")).unwrap();
    (names, vec![bytes("/file"), bytes("/new")])
}

#[test]
fn an_error_is_no_crash_and_a_crash_is_no_error() {
    let disk = disk_with_file();
    let run = |disk: &SimDisk| calls(disk).is_ok();
    let error: CrashId = "3.error".parse().unwrap();
    assert_eq!(error.steps()[0].1, CrashState::Error);
    assert_eq!(every_crash(&disk, run).only(error).count(), 0);
    let crash: CrashId = "3.kill".parse().unwrap();
    let none = every_error(&disk, Failure::EIO, run).only(crash);
    assert_eq!(none.count(), 0);
    "3h.error".parse::<CrashId>().unwrap_err();
}
