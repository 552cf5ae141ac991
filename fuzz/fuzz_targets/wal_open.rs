//! Any bytes in a log's files: `open` gives a log or a typed error, in bounded memory, without a panic; and a log that it
//! gives can be read, written and opened again.
//!
//! The input spoils a log that was right: a list of places, each with what is written there. So the fuzzer gets behind the
//! checksums by leaving most of them alone.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use duramen_disk::{Disk, SimDisk};
use duramen_wal::{
    Batch, Context, Entry, GroupId, HardState, Index, LogId, NodeId, Options, Term, Wal,
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

fuzz_target!(|spoils: Vec<Spoil>| {
    let disk = LOG.fork();
    let names = disk.list(Path::new(DIR)).expect("a directory");
    for spoil in spoils {
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
        }
    }
    for _ in 0..2 {
        let Ok(wal) = Wal::open_on(Arc::new(disk.clone()), DIR, options()) else {
            return;
        };
        for group in wal.groups() {
            let (first, last) = (wal.purged(group).index.next(), wal.last(group).index);
            assert!(
                last.0 - wal.purged(group).index.0 <= 1 << 16,
                "{last} of a few entries"
            );
            for index in (first.0..=last.0).map(Index) {
                let _ = wal.entries(group, index..index.next(), 1 << 20); // Some are damaged.
            }
        }
        let mut batch = Batch::new();
        batch.user_record(GROUPS[0], "here");
        wal.write(batch).expect("a log that opens can be written");
    }
});
