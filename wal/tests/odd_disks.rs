//! Disks that fail a read, write by pieces, lose or misdirect a write, are full while the log opens, or fail any one call:
//! an error or poison for whoever asked, and nothing that was acknowledged is gone or something else.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use duramen_disk::{Disk, Failure, Op, SimDisk};
use duramen_wal::{Entry, Error, GroupId, Index, Options, Wal};
use support::*;

fn small() -> Options {
    options(12288)
}

/// Segments are filled, freed, and become other ones; entries are replaced; votes.
fn steps() -> Vec<Step> {
    vec![
        vec![append(1, 1, 2, 1, 1700), vote(1, 1, 1)],
        vec![append(2, 1, 3, 1, 900)],
        vec![append(1, 3, 4, 1, 2400), user(1, b"kept")],
        vec![append(1, 4, 5, 2, 2300)],
        vec![vote(2, 3, 3), append(2, 4, 4, 2, 20)],
        vec![append(1, 6, 7, 2, 1200), Change::Truncate(1, 6)],
        vec![purge(1, 4, 2), purge(2, 3, 1)],
        vec![append(1, 7, 9, 3, 1800)],
        vec![append(2, 5, 5, 2, 2500), vote(1, 4, 2)],
        vec![purge(1, 8, 3), purge(2, 4, 2)],
        vec![append(1, 10, 11, 4, 1500)],
        vec![append(1, 12, 12, 4, 1500), append(2, 6, 6, 5, 700)],
    ]
}

/// Everything stays where it was written.
fn steps_without_purges() -> Vec<Step> {
    let kept = |step: Step| {
        let kept = step.into_iter();
        kept.filter(|change| !matches!(change, Change::Purge(..)))
            .collect::<Step>()
    };
    let steps = steps().into_iter().map(kept);
    steps.filter(|step| !step.is_empty()).collect()
}

/// What the disk said, if the log says that the disk said it.
fn source(error: &Error) -> Option<&std::io::Error> {
    match error {
        Error::Io { source, .. } => Some(source),
        Error::Poisoned { cause } => source(cause),
        _ => None,
    }
}

const EIO: i32 = 5;

fn is_eio(error: &Error) -> bool {
    source(error).and_then(std::io::Error::raw_os_error) == Some(EIO)
}

/// The file that an error is about.
fn path_of(error: &Error) -> Option<&Path> {
    match error {
        Error::Io { path, .. }
        | Error::Full { path }
        | Error::Damaged { path, .. }
        | Error::DamagedDirectory { path, .. }
        | Error::MissingSegment { path } => Some(path),
        Error::Poisoned { cause } => path_of(cause),
        _ => None,
    }
}

fn is_in_the_log(error: &Error) -> bool {
    let path = path_of(error);
    path.is_some_and(|path| path == Path::new(DIR) || path.parent() == Some(Path::new(DIR)))
}

/// Writes a sector with what is in it: then it can be read again.
fn heal(disk: &SimDisk, path: &Path, sector: u64, bytes: &[u8]) {
    let at = sector * 512;
    let end = bytes.len().min(at as usize + 512);
    let file = disk.open(path).unwrap();
    file.write_all_at(&bytes[at as usize..end], at).unwrap();
    file.sync_data().unwrap();
}

fn each_sector(files: &BTreeMap<PathBuf, Vec<u8>>) -> impl Iterator<Item = (&PathBuf, u64)> {
    let sectors = |bytes: &Vec<u8>| 0..(bytes.len() as u64).div_ceil(512);
    files
        .iter()
        .flat_map(move |(path, bytes)| sectors(bytes).map(move |sector| (path, sector)))
}

/// Whether a log holds this, but for entries that cannot be read: `bad` says of which, with which error, that may be. How many.
fn agrees(wal: &Wal, state: &State, bad: impl Fn(&Entry, &Error) -> bool) -> Option<u64> {
    let groups: Vec<_> = state.keys().copied().collect();
    let mut unread = 0;
    if wal.groups() != groups {
        return None;
    }
    for (&group, content) in state {
        let last = content.entries.last();
        let is_same = wal.purged(group) == content.purged
            && wal.last(group) == last.map_or(content.purged, |entry| entry.id)
            && wal.hard_state(group) == content.hard_state
            && wal.user_record(group) == content.user_record;
        if !is_same {
            return None;
        }
        for entry in &content.entries {
            let index = entry.id.index;
            assert_eq!(wal.term(group, index), Some(entry.id.term));
            match wal.entries(group, index..index.next(), 0) {
                Ok(read) if read[0] == *entry => {}
                Ok(_) => return None,
                Err(error) if bad(entry, &error) => unread += 1,
                Err(error) => panic!("entry {index} of group {group}: {error}"),
            }
        }
    }
    Some(unread)
}

/// Row 9. A sector goes bad under an open log. Entries in it cannot be read, all others can, and the log takes writes.
#[test]
fn a_sector_that_goes_bad_under_an_open_log_is_an_error_of_its_entries_alone() {
    let disk = disk_with(&small(), &steps());
    let whole = files(&disk, DIR.as_ref());
    // The one that is written to, and the next.
    let last_segments: Vec<_> = whole.keys().rev().skip(1).take(2).collect();
    let expected = states(&steps()).pop().unwrap();
    let mut unread = 0;
    for (path, sector) in each_sector(&whole) {
        let _replay = Replay(|| format!("sector {sector} of {}", path.display()));
        let disk = disk.fork();
        let wal = open(&disk, &small()).unwrap();
        let now = read_file(&disk, path);
        disk.make_bad(path, sector * 512..sector * 512 + 512)
            .unwrap();
        let here = |entry: &Entry, error: &Error| {
            is_eio(error) && path_of(error) == Some(path) && is_hit(&now, &entry.payload, sector)
        };
        unread += agrees(&wal, &expected, here).unwrap();
        if !last_segments.contains(&path) && path.extension().is_some() {
            wal.write(batch(&vec![user(9, b"new")])).unwrap();
        }
        drop(wal);
        heal(&disk, path, sector, &now);
        let wal = open(&disk, &small()).unwrap();
        assert_eq!(wal.recovery().cut, None);
        let kept = state_of(&wal).into_iter().filter(|(group, _)| group.0 != 9);
        assert!(kept.collect::<State>() == expected);
    }
    println!("{unread} times an entry could not be read");
    assert!(unread > 10, "{unread}");
}

/// Row 9. The sector stays as it is, and the entry is read from where it is written anew.
#[test]
fn an_entry_in_a_sector_that_cannot_be_read_is_repaired() {
    // The end of the log must be readable: so there is more of it.
    let steps: Vec<Step> = (1..=6)
        .map(|index| vec![append(1, index, index, 1, 3000)])
        .collect();
    let disk = disk_with(&small(), &steps);
    let Change::Append(_, first) = &steps[0][0] else {
        unreachable!();
    };
    let mut no_cache = small();
    no_cache.recent_bytes_max = 0;
    let read = |wal: &Wal| wal.entries(GroupId(1), Index(1)..Index(2), u64::MAX);
    disk.make_bad(&segment(1), 1024..1536).unwrap(); // in the middle of its payload
    let wal = open(&disk, &no_cache).unwrap();
    assert!(is_eio(&error(read(&wal))));
    wal.repair(GroupId(1), first[0].clone()).unwrap();
    assert_eq!(read(&wal).unwrap(), *first);
    drop(wal);
    let wal = open(&disk, &no_cache).unwrap();
    assert_eq!(read(&wal).unwrap(), *first);
}

/// Row 9. In a segment without a seal, whose payloads are looked at by `open`: each sector that is all payload.
#[test]
fn a_sector_of_a_durable_payload_at_the_end_of_the_log_is_an_error_of_its_entry_alone() {
    let steps: Vec<Step> = (1..=3)
        .map(|index| vec![append(1, index, index, 1, 2000)])
        .collect();
    let disk = disk_with(&small(), &steps);
    let bytes = read_file(&disk, &segment(1));
    let expected = &states(&steps).pop().unwrap()[&GroupId(1)].entries;
    let mut hit = 0;
    let frames = frames(&bytes).into_iter();
    let frames = frames.filter(|frame| !frame.payload.is_empty());
    for (frame, entry) in frames.zip(expected) {
        let sectors = frame.payload.start.div_ceil(512)..frame.payload.end / 512;
        for sector in sectors.map(|sector| sector as u64 * 512) {
            let _replay = Replay(|| format!("{}, the sector at {sector}", entry.id));
            let disk = disk.fork();
            disk.make_bad(&segment(1), sector..sector + 512).unwrap();
            let wal = open(&disk, &small()).unwrap();
            let [damaged] = &wal.recovery().damaged[..] else {
                panic!("{:?}", wal.recovery());
            };
            assert_eq!(damaged.entry.id, entry.id);
            for one in expected {
                let read = wal.entries(GroupId(1), one.id.index..one.id.index.next(), u64::MAX);
                match one.id == entry.id {
                    true => assert!(is_eio(&error(read))),
                    false => assert_eq!(read.unwrap()[0], *one),
                }
            }
            wal.write(batch(&vec![append(1, 4, 4, 1, 100)])).unwrap();
            wal.repair(GroupId(1), entry.clone()).unwrap();
            drop(wal);
            let wal = open(&disk, &small()).unwrap();
            let read = wal.entries(GroupId(1), Index(1)..Index(4), u64::MAX);
            assert_eq!(read.unwrap(), *expected);
            hit += 1;
        }
    }
    assert_eq!(hit, 9);
}

/// Row 9. Also where nothing marks the last frame: what cannot be read is not torn.
#[test]
fn a_sector_of_an_unmarked_end_that_cannot_be_read_is_never_cut() {
    let disk = killed_disk_with(&small(), &steps());
    let whole = files(&disk, DIR.as_ref());
    let (mut refused, mut opened) = (0, 0);
    for (path, sector) in each_sector(&whole) {
        let _replay = Replay(|| format!("sector {sector} of {}", path.display()));
        let disk = disk.fork();
        disk.make_bad(path, sector * 512..sector * 512 + 512)
            .unwrap();
        match open(&disk, &small()) {
            Err(error) => {
                refused += 1;
                assert!(is_eio(&error) && path_of(&error) == Some(path), "{error}");
                heal(&disk, path, sector, &whole[path]);
            }
            Ok(wal) => {
                opened += 1;
                assert_eq!(wal.recovery().cut, None);
                drop(wal);
                // Unless it was written by the log itself.
                let is_bad = disk
                    .open(path)
                    .unwrap()
                    .read_exact_at(&mut [0], sector * 512);
                if is_bad.is_err() {
                    heal(&disk, path, sector, &whole[path]);
                }
            }
        }
        assert_holds(&disk, &small(), &steps(), steps().len());
    }
    println!("{refused} refused, {opened} opened");
    assert!(refused > 20 && opened > 10, "{refused} {opened}");
}

/// Row 9. A read fails once, in `open` or later. It is told, and is not remembered.
#[test]
fn any_read_that_fails_once_is_an_error_and_changes_nothing() {
    let expected = states(&steps()).pop().unwrap();
    let (mut failed, mut stood_in_for) = ([0, 0], 0);
    for disk in [
        disk_with(&small(), &steps()),
        killed_disk_with(&small(), &steps()),
    ] {
        for n in 0.. {
            let _replay = Replay(|| format!("read {n} fails"));
            let disk = disk.fork();
            disk.fail_op(Op::Read, n, Failure::EIO);
            let opened = open(&disk, &small());
            if let Err(error) = &opened {
                failed[0] += 1;
                assert!(is_eio(error) && is_in_the_log(error), "{error}");
                disk.power_cut(n);
                assert_holds(&disk, &small(), &steps(), steps().len());
                continue;
            }
            let wal = opened.unwrap();
            let unread = agrees(&wal, &expected, |_, error| is_eio(error)).unwrap();
            let is_still_to_come = || {
                let file = disk.open_read(&Path::new(DIR).join("CONTROL")).unwrap();
                (0..=n).any(|_| file.read_exact_at(&mut [0], 0).is_err())
            };
            if unread == 0 && is_still_to_come() {
                break;
            }
            if unread == 0 {
                stood_in_for += 1; // a part of a seal, or nobody had asked for it yet
                continue;
            }
            failed[1] += unread;
            assert_eq!(unread, 1);
            assert_eq!(agrees(&wal, &expected, |_, _| false), Some(0));
        }
    }
    println!("{failed:?} reads failed while opening and later, {stood_in_for} did not matter");
    assert!(failed[0] > 10 && failed[1] > 10, "{failed:?}");
    assert!(stood_in_for > 0);
}

/// Row 19.
#[test]
fn short_and_interrupted_reads_and_writes_are_completed() {
    let written_and_read_back = |disk: &SimDisk| {
        write_all(&create(disk, &small()).unwrap(), &steps()[..6]);
        write_all(&open(disk, &small()).unwrap(), &steps()[6..]);
        disk.power_cut(0);
        assert_holds(disk, &small(), &steps(), steps().len());
        disk.operations()
    };
    let operations = written_and_read_back(&SimDisk::new());
    for (write, read) in [(1, 1), (7, 3), (64, 4096), (511, 513), (4096, 100)] {
        let _replay = Replay(|| format!("at most {write} and {read} bytes"));
        let disk = SimDisk::new();
        disk.set_write_bytes_max(Some(write));
        disk.set_read_bytes_max(Some(read));
        assert!(written_and_read_back(&disk) > operations);
    }
    for n in 0..operations {
        for op in [Op::Read, Op::Write] {
            let _replay = Replay(|| format!("{op:?} {n} is interrupted"));
            let disk = SimDisk::new();
            disk.fail_op(op, n, ErrorKind::Interrupted);
            disk.fail_op(op, n + 1, ErrorKind::Interrupted);
            disk.fail_op(op, n + 5, ErrorKind::Interrupted);
            written_and_read_back(&disk);
        }
    }
}

/// Where a write goes that does not go where it should.
#[derive(Debug, Clone, Copy)]
enum Astray {
    Lost,
    /// So many sectors further on in its own file.
    Shifted(i64),
    /// Into this segment, so many sectors further on.
    Into(u64, i64),
}

const ASTRAY: [Astray; 8] = [
    Astray::Lost,
    Astray::Shifted(-1),
    Astray::Shifted(1),
    Astray::Shifted(5),
    Astray::Shifted(8),
    Astray::Into(1, 0),
    Astray::Into(2, 1),
    Astray::Into(3, -3),
];

impl Astray {
    fn arm(self, disk: &SimDisk, write: u64) {
        match self {
            Astray::Lost => disk.lose_write(write),
            Astray::Shifted(sectors) => disk.misdirect_write(write, None, 512 * sectors),
            Astray::Into(number, sectors) => {
                disk.misdirect_write(write, Some(&segment(number)), 512 * sectors);
            }
        }
    }
}

/// Row 20. The disk acknowledges a write and does not do it, or does it elsewhere; nobody can tell until the cache is gone.
/// What a later frame or CONTROL marks is then named; only what nothing marks any more is cut.
#[test]
fn a_lost_or_misdirected_write_is_named_or_was_past_the_mark() {
    let steps = steps_without_purges();
    let states = states(&steps);
    let before = disk_with(&small(), &steps[..1]);
    let (mut refused, mut damaged, mut whole, mut cut) = (0, 0, 0, 0);
    for astray in ASTRAY {
        for write in 0..40 {
            for closed in [true, false] {
                let _replay = Replay(|| format!("{astray:?}, write {write}, closed: {closed}"));
                let disk = before.fork();
                astray.arm(&disk, write);
                let wal = open(&disk, &small()).unwrap();
                write_all(&wal, &steps[1..]);
                let disk = match closed {
                    true => {
                        drop(wal);
                        disk
                    }
                    false => disk.fork(),
                };
                disk.power_cut(0);
                let was = files(&disk, DIR.as_ref());
                let wal = match open(&disk, &small()) {
                    Ok(wal) => wal,
                    Err(error) => {
                        refused += 1;
                        assert!(!matches!(error, Error::Io { .. }), "{error}");
                        assert!(is_in_the_log(&error), "{error}");
                        assert!(files(&disk, DIR.as_ref()) == was, "{error}");
                        continue;
                    }
                };
                // A seal that went astray over the end of the frames took both copies of a directory with it; one that is
                // merely missing takes none.
                let is_damaged = |error: &Error| match error {
                    Error::DamagedEntry { .. } => true,
                    Error::DamagedDirectory { .. } => !matches!(astray, Astray::Lost),
                    _ => false,
                };
                // The last write alone is past the mark. If it went over the one before, nothing marks that one either.
                let past = match (closed, astray) {
                    (true, _) => 0,
                    (false, Astray::Lost) => 1,
                    (false, _) => 2,
                };
                let last = steps.len();
                let fits = (last - past..=last).rev();
                let mut fits = fits.filter_map(|k| {
                    Some((k, agrees(&wal, &states[k], |_, error| is_damaged(error))?))
                });
                let (k, bad) = fits.next().expect("a state that may be");
                cut += u64::from(k < last);
                damaged += u64::from(k == last && bad > 0);
                whole += u64::from(k == last && bad == 0);
            }
        }
    }
    println!("{refused} refused, {damaged} with damaged entries, {whole} whole, {cut} cut");
    assert!(refused > 50 && damaged > 10 && whole > 50 && cut > 2);
}

/// What a crash in operation `n` leaves of a log that is being written. How many steps it may hold.
fn crashed(options: &Options, n: u64) -> (SimDisk, RangeInclusive<usize>) {
    let disk = disk_with(options, &[]);
    let wal = open(&disk, options).unwrap();
    disk.crash_after(n);
    let steps = steps();
    let written = steps.iter().map(|step| wal.write(batch(step)));
    let acknowledged = written.take_while(|written| written.is_ok()).count();
    drop(wal);
    (disk, acknowledged..=steps.len().min(acknowledged + 1))
}

/// Row 22. Whatever a crash left: as long as there is the reserve, no space is needed to open.
#[test]
fn after_a_crash_anywhere_the_log_opens_on_a_full_disk() {
    let options = options(1 << 15);
    let states = states(&steps());
    for n in 0.. {
        let (crashed, allowed) = crashed(&options, n);
        for seed in 0..6 {
            let _replay = Replay(|| format!("crash in operation {n}, then {seed}"));
            let disk = crashed.fork();
            match seed {
                0 => disk.kill(),
                _ => disk.power_cut(seed - 1),
            }
            disk.set_free_bytes(Some(0));
            disk.set_name_bytes(1);
            let k = held(&open(&disk, &options).unwrap(), &states);
            assert!(allowed.contains(&k), "{k}");
            disk.power_cut(seed);
            disk.set_free_bytes(None);
            assert_holds(&disk, &options, &steps(), k);
        }
        if *allowed.start() == steps().len() {
            assert!(n > 30, "{n}");
            break;
        }
    }
}

/// Row 22. Where `open` does need space and there is none: an error, everything stays, and it can be tried again.
#[test]
fn no_space_at_any_operation_of_open_removes_no_segment_and_can_be_tried_again() {
    let states = states(&steps());
    let mut refused = 0;
    for n in 0.. {
        let (crashed, allowed) = crashed(&small(), n);
        crashed.kill();
        let undisturbed = held(&open(&crashed.fork(), &small()).unwrap(), &states);
        assert!(allowed.contains(&undisturbed), "{undisturbed}");
        for operation in 0.. {
            let _replay = Replay(|| format!("crash in operation {n}, no space in {operation}"));
            let disk = crashed.fork();
            disk.fail_after(operation, ErrorKind::StorageFull);
            let error = match open(&disk, &small()) {
                Ok(_) => break,
                Err(error) => error,
            };
            refused += 1;
            let is_full =
                source(&error).is_some_and(|error| error.kind() == ErrorKind::StorageFull);
            assert!(is_full || matches!(error, Error::Full { .. }), "{error}");
            assert!(is_in_the_log(&error), "{error}");
            assert_eq!(held(&open(&disk, &small()).unwrap(), &states), undisturbed);
        }
        if *allowed.start() == steps().len() {
            break;
        }
    }
    println!("{refused} times refused");
    assert!(refused > 300, "{refused}");
}

/// Every call there is, and what it may fail with that says nothing about bytes.
const CALLS: [(Op, Failure); 12] = [
    (Op::List, Failure::EMFILE),
    (Op::Open, Failure::EMFILE),
    (Op::Create, Failure::EMFILE),
    (Op::Lock, Failure::EMFILE),
    (Op::SyncDir, Failure::EMFILE),
    (Op::SyncDir, Failure::EIO),
    (Op::Close, Failure::EIO),
    (Op::Read, Failure::EIO),
    (Op::SyncData, Failure::EIO),
    (Op::Allocate, Failure::EIO),
    (Op::Rename, Failure::EIO),
    (Op::Remove, Failure::EIO),
];

/// Opens or makes a log and writes; the process ends at the first error. The error, and how many steps may be there.
fn life(disk: &SimDisk, from: usize) -> (Option<Error>, RangeInclusive<usize>) {
    let steps = steps();
    let wal = match from {
        0 => create(disk, &small()),
        _ => open(disk, &small()),
    };
    let wal = match wal {
        Ok(wal) => wal,
        Err(error) => return (Some(error), from..=from),
    };
    for (k, step) in steps.iter().enumerate().skip(from) {
        if let Err(error) = wal.write(batch(step)) {
            let refused = error.to_string();
            assert!(state_of(&wal) == states(&steps)[k], "{refused}");
            return (Some(error), k..=k + 1);
        }
    }
    (wal.close().err(), steps.len()..=steps.len())
}

/// Row 36.
#[test]
fn an_error_of_any_call_is_told_or_does_no_harm_and_nothing_acknowledged_is_lost() {
    let states = states(&steps());
    let started = killed_disk_with(&small(), &steps()[..5]);
    for (call, failure) in CALLS {
        let (mut told, mut harmless) = (0, 0);
        for (n, from) in (0..60).flat_map(|n| [(n, 0), (n, 5)]) {
            let _replay = Replay(|| format!("{call:?} {n} fails, from step {from}"));
            let disk = match from {
                0 => SimDisk::new(),
                _ => started.fork(),
            };
            disk.fail_op(call, n, failure);
            let (failed, allowed) = life(&disk, from);
            if let Some(error) = &failed {
                told += 1;
                let said = source(error).and_then(std::io::Error::raw_os_error);
                assert_eq!(
                    said,
                    std::io::Error::from(failure).raw_os_error(),
                    "{error}"
                );
                assert!(is_in_the_log(error) || call == Op::SyncDir, "{error}");
            } else {
                harmless += 1;
            }
            for seed in 0..3 {
                let disk = disk.fork();
                match seed {
                    0 => disk.kill(),
                    _ => disk.power_cut(seed),
                }
                match open(&disk, &small()) {
                    Ok(wal) => assert!(allowed.contains(&held(&wal, &states))),
                    Err(Error::NotALog { .. }) if *allowed.end() == 0 => {
                        drop(create(&disk, &small()).unwrap()); // it was not made: it can be now
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        println!("{call:?}: told {told} times, harmless {harmless} times or not called");
        assert!(told > 0 || call == Op::Close, "{call:?}");
    }
}
