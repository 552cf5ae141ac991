//! Reading entries: one by one, those that were just written, and a run of them.
//!
//! All bytes are in the page cache. The floor is `pread` into a buffer that is used again; the log finds the entry, and
//! checks it.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use duramen_wal::{Batch, GroupId, Index, Options, Wal};

use crate::floors::{FILE_BYTES, prewritten};
use crate::harness::{Figure, Round, Row, Workload, per_second};
use crate::write::{entry, payload, stream};

pub(crate) const WORKLOADS: &[Workload] = &[Workload {
    rows: &[
        Row::cost("W7", "us", "reading a random entry of 1 KiB out of 256 MiB"),
        Row::cost(
            "W7mem",
            "us",
            "reading one of the 1,024 that were just written",
        ),
        Row::rate(
            "W7scan",
            "GB/s",
            "reading 128 entries of 1 KiB at a random place",
        ),
        Row::cost(
            "W7map",
            "us",
            "reading a random entry through a map (map_sealed)",
        ),
        Row::rate("W7mapscan", "GB/s", "reading 128 entries through a map"),
    ],
    is_large: false,
    prepare,
}];

const ENTRY_BYTES: u64 = 1 << 10;
const ENTRIES: u64 = FILE_BYTES / ENTRY_BYTES;
const READS: u64 = 100_000;
const JUST_WRITTEN: u64 = 1024;
const SCANS: u64 = 3000;
const SCAN_ENTRIES: u64 = 128;

fn prepare(dir: &Path) -> Result<Round, String> {
    let file = prewritten(dir);
    let wal = written(&dir.join("log"), Options::default());
    let mut options = Options::default();
    options.map_sealed = true;
    let mapped = written(&dir.join("mapped"), options);
    let mut buf = vec![0; (SCAN_ENTRIES * ENTRY_BYTES) as usize];
    Ok(Box::new(move || {
        let mut pread = |place, count| pread(&file, place, count, &mut buf);
        let reads = Figure {
            floor: micros(|place| pread(place, 1), ENTRIES),
            log: micros(|place| read(&wal, place, 1), ENTRIES),
        };
        let scans = Figure {
            floor: gigabytes(|place| pread(place, SCAN_ENTRIES)),
            log: gigabytes(|place| read(&wal, place, SCAN_ENTRIES)),
        };
        let first = append(&wal);
        let just_written = Figure {
            floor: micros(|place| pread(place, 1), JUST_WRITTEN),
            log: micros(|place| read(&wal, first + place, 1), JUST_WRITTEN),
        };
        let map_reads = Figure {
            floor: reads.floor,
            log: micros(|place| read(&mapped, place, 1), ENTRIES),
        };
        let map_scans = Figure {
            floor: scans.floor,
            log: gigabytes(|place| read(&mapped, place, SCAN_ENTRIES)),
        };
        vec![reads, just_written, scans, map_reads, map_scans]
    }))
}

/// A log of 256 MiB. Opened again: nothing is in memory because it was written lately.
fn written(path: &Path, options: Options) -> Wal {
    let wal = Wal::create(path, options.clone()).expect("a new log");
    stream(&wal, FILE_BYTES);
    wal.close().expect("a close");
    Wal::open(path, options).expect("the log")
}

/// Writes what is then read at once; where it begins.
fn append(wal: &Wal) -> u64 {
    let payload = payload(ENTRY_BYTES as usize);
    let first = wal.last(GroupId(1)).index.0 + 1;
    for at in (first..first + JUST_WRITTEN).step_by(64) {
        let mut batch = Batch::new();
        batch.append(
            GroupId(1),
            (at..at + 64).map(|index| entry(index, &payload)),
        );
        wal.write(batch).expect("a write");
    }
    first - 1
}

/// Microseconds for a read at a random place under `end`.
fn micros(mut read: impl FnMut(u64), end: u64) -> f64 {
    let mut places = Places::new();
    let start = Instant::now();
    (0..READS).for_each(|_| read(places.below(end)));
    1e6 / per_second(READS, start.elapsed())
}

fn gigabytes(mut scan: impl FnMut(u64)) -> f64 {
    let mut places = Places::new();
    let start = Instant::now();
    (0..SCANS).for_each(|_| scan(places.below(ENTRIES - SCAN_ENTRIES)));
    per_second(SCANS * SCAN_ENTRIES * ENTRY_BYTES, start.elapsed()) / 1e9
}

fn pread(file: &File, place: u64, count: u64, buf: &mut [u8]) {
    let buf = &mut buf[..(count * ENTRY_BYTES) as usize];
    file.read_exact_at(buf, place * ENTRY_BYTES)
        .expect("a read");
    black_box(buf);
}

fn read(wal: &Wal, place: u64, count: u64) {
    let first = place + 1;
    let range = Index(first)..Index(first + count);
    let entries = wal.entries(GroupId(1), range, u64::MAX).expect("a read");
    assert_eq!(entries.len() as u64, count);
    black_box(entries);
}

/// Places to read at: the same ones for floor and log in each run.
struct Places(u64);

impl Places {
    fn new() -> Places {
        Places(1)
    }

    /// The next place, under `end`. Knuth's MMIX generator, of which the upper bits are good.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}
