//! Any bytes in a log's files: `open` gives a log or a typed error, in bounded memory, without a panic; and a log that it
//! gives can be read, written and opened again. `cut` gives what it planned, and a log that is whole, or a typed error.
//!
//! The input spoils a log that was right: a list of places, each with what is written there. So the fuzzer gets behind the
//! checksums by leaving most of them alone.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use duramen_disk::{Disk, LOCK_FILE, SimDisk};
use duramen_wal::{
    Batch, Context, Entry, GroupId, HardState, Index, LogId, NodeId, Options, Scrub, Term,
    Verification, Wal,
};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Spoil {
    file: u8,
    offset: u16,
    how: How,
}

#[derive(Debug, Arbitrary)]
enum How {
    Bytes(Vec<u8>),
    /// As if the checksum had been right: bytes of another place.
    Copy {
        from: u16,
        len: u8,
    },
    Cut,
    Flip {
        bit: u8,
    },
}

#[derive(Debug, Arbitrary)]
struct Input {
    log: u8,
    keep_suspects: bool,
    spoils: Vec<Spoil>,
}

const DIR: &str = "/log";
const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(7)];

fn options() -> Options {
    let mut options = Options::default();
    options.manual_drive = true;
    options.segment_bytes = 1 << 14;
    options.batch_bytes_max = 1 << 13;
    options.in_flight_bytes_max = 1 << 13;
    options
}

static LOG: LazyLock<SimDisk> = LazyLock::new(|| {
    let disk = SimDisk::new();
    let wal = Wal::create_on(Arc::new(disk.clone()), DIR, options()).expect("a log");
    for n in 1..=24 {
        let mut batch = Batch::new();
        let id = LogId {
            term: Term(1 + n / 5),
            index: Index(n),
        };
        let context = Context::new(&[n as u8; 3]).expect("three bytes");
        batch.append(
            GROUPS[0],
            [Entry {
                id,
                context,
                payload: vec![n as u8; 900].into(),
            }],
        );
        if n % 5 == 0 {
            let term = Term(1 + n / 5);
            batch.hard_state(
                GROUPS[1],
                HardState {
                    term,
                    voted_for: Some(NodeId(n)),
                    context,
                },
            );
            batch.user_record(GROUPS[1], vec![n as u8; 10]);
        }
        if n == 18 {
            batch.purge(
                GROUPS[0],
                LogId {
                    term: Term(1 + 8 / 5),
                    index: Index(8),
                },
            );
        }
        wal.write(batch).expect("a write");
    }
    wal.close().expect("a close");
    disk.kill();
    disk
});

/// The golden files, byte for byte: moved, lost and suspect entries; a torn end.
static CLOSED: LazyLock<SimDisk> = LazyLock::new(|| {
    golden(&[
        (
            "CONTROL",
            include_bytes!("../../wal/tests/golden/v1/closed/CONTROL"),
        ),
        (
            "000000000000000e.wal",
            include_bytes!("../../wal/tests/golden/v1/closed/000000000000000e.wal"),
        ),
        (
            "000000000000000f.wal",
            include_bytes!("../../wal/tests/golden/v1/closed/000000000000000f.wal"),
        ),
        (
            "0000000000000010.wal",
            include_bytes!("../../wal/tests/golden/v1/closed/0000000000000010.wal"),
        ),
        (
            "0000000000000011.wal",
            include_bytes!("../../wal/tests/golden/v1/closed/0000000000000011.wal"),
        ),
        (
            "0000000000000012.wal",
            include_bytes!("../../wal/tests/golden/v1/closed/0000000000000012.wal"),
        ),
    ])
});
static KILLED: LazyLock<SimDisk> = LazyLock::new(|| {
    golden(&[
        (
            "CONTROL",
            include_bytes!("../../wal/tests/golden/v1/killed/CONTROL"),
        ),
        (
            "0000000000000001.wal",
            include_bytes!("../../wal/tests/golden/v1/killed/0000000000000001.wal"),
        ),
        (
            "0000000000000002.wal",
            include_bytes!("../../wal/tests/golden/v1/killed/0000000000000002.wal"),
        ),
    ])
});

fn golden(files: &[(&str, &[u8])]) -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new(DIR)).expect("a directory");
    for (name, bytes) in files {
        let file = disk.create(&Path::new(DIR).join(name)).expect("a file");
        file.write_all_at(bytes, 0).expect("a write");
        file.sync_data().expect("a sync");
    }
    disk.sync_dir(Path::new(DIR)).expect("a sync");
    disk
}

/// Everything that reads: gives an answer or a typed error.
fn read_all(wal: &Wal) {
    for group in wal.groups() {
        let (first, last) = (wal.purged(group).index.next(), wal.last(group).index);
        let count = last.0 - wal.purged(group).index.0;
        assert!(count <= 1 << 16, "{count} of a few entries");
        let _ = wal.entries(group, first..last.next(), 1 << 20);
        for index in (first.0..=last.0).map(Index) {
            let _ = wal.entries(group, index..index.next(), 1 << 20); // Some are damaged.
            assert!(wal.term(group, index).is_some());
        }
    }
    let report = wal.scrub(Scrub::default(), |_| true);
    for damaged in report.map_or(Vec::new(), |report| report.damaged) {
        let (group, id) = (damaged.entry.group, damaged.entry.id);
        let other = Entry {
            id,
            payload: "another one".into(),
            ..Entry::default()
        };
        assert!(wal.repair(group, other).is_err(), "{id} of group {group}");
    }
}

/// All files but the lock.
fn files(disk: &SimDisk, dir: &Path) -> Vec<(String, Vec<u8>)> {
    let names = disk.list(dir).expect("a directory").into_iter();
    let files = names.filter(|name| name != LOCK_FILE).map(|name| {
        let file = disk.open_read(&dir.join(&name)).expect("a file");
        let mut bytes = vec![0; file.len().expect("a length") as usize];
        file.read_exact_at(&mut bytes, 0).expect("bytes");
        (name, bytes)
    });
    files.collect()
}

/// Looking changes nothing. Says whether the log can be opened.
fn look(disk: &SimDisk) -> bool {
    let before = files(disk, DIR.as_ref());
    let mut items = 0;
    let visit = |_| {
        items += 1;
        true
    };
    let _ = Wal::dump_on(Arc::new(disk.clone()), DIR, visit);
    assert!(items <= 1 << 16, "{items} items of a few frames");
    let verified = Wal::verify_on(Arc::new(disk.clone()), DIR, |_| true);
    assert!(files(disk, DIR.as_ref()) == before);
    verified.is_ok()
}

/// Cuts the log: what was planned is done, the old one stands aside as it was, and the new one is whole and holds what the plan says.
fn cut(disk: &SimDisk, options: &Options) {
    let dir = Path::new(DIR);
    let before = files(disk, dir);
    let verified = Wal::verify_on(Arc::new(disk.clone()), DIR, |_| true);
    let is_whole = |found: &Verification| !found.is_damaged() && !found.is_torn();
    let planned = Wal::plan_cut_on(Arc::new(disk.clone()), DIR, |_| ());
    assert!(files(disk, dir) == before, "a plan changed the disk");
    let done = Wal::cut_on(Arc::new(disk.clone()), DIR, |_| ());
    let (planned, done) = match (planned, done) {
        (Ok(planned), Ok(done)) => (planned, done),
        (Err(planned), Err(done)) => {
            assert_eq!(planned.to_string(), done.to_string());
            assert!(files(disk, dir) == before, "an error changed the disk");
            return;
        }
        differ => panic!("{differ:?}"),
    };
    assert_eq!(format!("{planned:?}"), format!("{done:?}"));
    assert!(files(disk, &done.aside) == before, "the old log changed");
    if verified.as_ref().is_ok_and(is_whole) {
        assert!(!done.is_loss() && done.lost.is_empty(), "{done:?}");
    }
    let verified = Wal::verify_on(Arc::new(disk.clone()), DIR, |_| true);
    assert!(verified.as_ref().is_ok_and(is_whole), "{verified:?}");
    let wal = Wal::open_on(Arc::new(disk.clone()), DIR, options.clone());
    let wal = wal.expect("a log that was cut opens");
    assert_eq!(wal.groups().len() as u64, done.groups_kept);
    for cut in &done.groups {
        assert_eq!(wal.last(cut.group), cut.kept);
    }
    let (mut entries, mut bytes) = (0, 0);
    for group in wal.groups() {
        let range = wal.purged(group).index.next()..wal.last(group).index.next();
        let found = wal.entries(group, range, u64::MAX).expect("all is whole");
        entries += found.len() as u64;
        bytes += found
            .iter()
            .map(|entry| entry.payload.len() as u64)
            .sum::<u64>();
    }
    assert_eq!((entries, bytes), (done.entries_kept, done.bytes_kept));
}

fuzz_target!(|input: Input| {
    let disk = match input.log % 3 {
        0 => LOG.fork(),
        1 => CLOSED.fork(),
        _ => KILLED.fork(),
    };
    let names = disk.list(Path::new(DIR)).expect("a directory");
    for spoil in input.spoils {
        let path = Path::new(DIR).join(&names[usize::from(spoil.file) % names.len()]);
        let file = disk.open(&path).expect("a file");
        let offset = u64::from(spoil.offset);
        match spoil.how {
            How::Bytes(bytes) => file.write_all_at(&bytes, offset).expect("a write"),
            How::Cut => file.set_len(offset).expect("a cut"),
            How::Copy { from, len } => {
                let mut bytes = vec![0; usize::from(len)];
                if file.read_exact_at(&mut bytes, u64::from(from)).is_ok() {
                    file.write_all_at(&bytes, offset).expect("a write");
                }
            }
            How::Flip { bit } => {
                let mut byte = [0];
                if file.read_exact_at(&mut byte, offset).is_ok() {
                    file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], offset)
                        .expect("a write");
                }
            }
        }
    }
    let mut options = options();
    options.keep_suspects = input.keep_suspects;
    options.recent_bytes_max = 0;
    cut(&disk.fork(), &options);
    for _ in 0..2 {
        let is_verified = look(&disk);
        let before = files(&disk, DIR.as_ref());
        let Ok(wal) = Wal::open_on(Arc::new(disk.clone()), DIR, options.clone()) else {
            assert!(
                !is_verified || input.keep_suspects,
                "verified, and not opened"
            );
            assert!(
                files(&disk, DIR.as_ref()) == before,
                "an error changed the disk"
            );
            return;
        };
        read_all(&wal);
        let mut batch = Batch::new();
        batch.user_record(GROUPS[0], "here");
        wal.write(batch).expect("a log that opens can be written");
    }
});
