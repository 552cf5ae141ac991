//! What single calls cost the processor, without a disk in the way: the log is on a simulated one.
//!
//! `cargo bench -p duramen-wal --bench calls`. For what the log costs beside the bare disk see `workloads`.

#![allow(missing_docs)] // of the function that criterion's macro makes

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use duramen_disk::SimDisk;
use duramen_wal::{Batch, Entry, GroupId, HardState, Index, LogId, Options, Term, Wal};

const GROUP: GroupId = GroupId(1);

fn entry(index: u64, payload: &Bytes) -> Entry {
    let id = LogId {
        term: Term(1),
        index: Index(index),
    };
    Entry {
        id,
        payload: payload.clone(),
        ..Entry::default()
    }
}

fn batch(first: u64, entries: u64, payload: &Bytes) -> Batch {
    let mut batch = Batch::new();
    let indexes = first..first + entries;
    batch.append(GROUP, indexes.map(|index| entry(index, payload)));
    batch
}

fn new_log() -> (SimDisk, Wal) {
    let disk = SimDisk::new();
    let wal = Wal::create_on(Arc::new(disk.clone()), "/log", options()).expect("a new log");
    (disk, wal)
}

/// Segments that a simulated disk holds easily, and no threads.
fn options() -> Options {
    let mut options = Options::default();
    options.segment_bytes = 4 << 20;
    options.batch_bytes_max = 2 << 20;
    options.in_flight_bytes_max = 2 << 20;
    options.manual_drive = true;
    options
}

/// A batch is put together: a copy of nothing, and a checksum for each entry.
fn compose(criterion: &mut Criterion) {
    for (name, bytes) in [("compose 64 x 256 B", 256), ("compose 64 x 4 KiB", 4096)] {
        let payload = Bytes::from(vec![7; bytes]);
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| black_box(batch(1, 64, &payload)));
        });
    }
}

/// A batch is taken, written and noted.
fn write(criterion: &mut Criterion) {
    let payload = Bytes::from(vec![7; 256]);
    for (name, entries) in [("write 1 x 256 B", 1), ("write 64 x 256 B", 64)] {
        let (_disk, wal) = new_log();
        let mut first = 1;
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut batch = batch(first, entries, &payload);
                if first > 1000 && (first / entries).is_multiple_of(64) {
                    let last = entry(first - 1, &payload).id;
                    batch.purge(GROUP, last);
                }
                wal.write(batch).expect("a write");
                first += entries;
            });
        });
    }
    let (_disk, wal) = new_log();
    let mut term = 0;
    criterion.bench_function("write a vote", |bencher| {
        bencher.iter(|| {
            term += 1;
            let vote = HardState {
                term: Term(term),
                ..HardState::default()
            };
            let mut batch = Batch::new();
            batch.hard_state(GROUP, vote);
            wal.write(batch).expect("a write");
        });
    });
}

/// Entries are read from memory, and from the disk through the table of a sealed segment.
fn read(criterion: &mut Criterion) {
    let payload = Bytes::from(vec![7; 1024]);
    for (name, recent_bytes_max) in [("read from memory", 64 << 20), ("read from disk", 0)] {
        let mut options = options();
        options.recent_bytes_max = recent_bytes_max;
        let wal = Wal::create_on(Arc::new(SimDisk::new()), "/log", options).expect("a new log");
        for first in (1..8192).step_by(64) {
            wal.write(batch(first, 64, &payload)).expect("a write");
        }
        let mut index = 0;
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                index = (index + 4099) % 8192;
                let range = Index(index + 1)..Index(index + 2);
                black_box(wal.entries(GROUP, range, 0).expect("a read"));
            });
        });
    }
}

/// A log of two sealed segments and a tail is opened.
fn open(criterion: &mut Criterion) {
    let payload = Bytes::from(vec![7; 1024]);
    let (disk, wal) = new_log();
    for first in (1..9000).step_by(64) {
        wal.write(batch(first, 64, &payload)).expect("a write");
    }
    drop(wal);
    criterion.bench_function("open 9 MiB", |bencher| {
        bencher.iter_batched(
            || disk.fork(),
            |disk| Wal::open_on(Arc::new(disk), "/log", options()).expect("the log"),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(calls, compose, write, read, open);
criterion_main!(calls);
