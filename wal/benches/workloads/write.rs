//! Writing to the log, in batches of every size, from one thread and from many.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use duramen_wal::{Batch, Entry, GroupId, Index, LogId, Options, Term, Wal};

use crate::floors::{floor, stream_floor};
use crate::harness::{Row, Workload, in_turn, per_second};

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        rows: &[Row::rate(
            "W1",
            "entries/s",
            "one writer, 1 x 256 B, durable each",
        )],
        is_large: false,
        prepare: |dir| {
            in_turn(
                dir,
                |dir| floor(dir, 256, 1, 2000),
                |dir| log(dir, 256, 1, 2000),
            )
        },
    },
    Workload {
        rows: &[Row::rate(
            "W2",
            "entries/s",
            "one writer, 64 x 256 B a batch",
        )],
        is_large: false,
        prepare: |dir| {
            in_turn(
                dir,
                |dir| floor(dir, 256, 64, 6000),
                |dir| log(dir, 256, 64, 6000),
            )
        },
    },
    Workload {
        rows: &[Row::rate(
            "W3",
            "entries/s",
            "one writer, 16 x 4 KiB a batch",
        )],
        is_large: false,
        prepare: |dir| {
            in_turn(
                dir,
                |dir| floor(dir, 4096, 16, 3000),
                |dir| log(dir, 4096, 16, 3000),
            )
        },
    },
    Workload {
        rows: &[Row::rate(
            "W3cold",
            "entries/s",
            "the same from the first byte of a new log",
        )],
        is_large: false,
        prepare: |dir| {
            in_turn(
                dir,
                |dir| floor(dir, 4096, 16, 1000),
                |dir| cold_log(dir, 4096, 16, 1000),
            )
        },
    },
    Workload {
        rows: &[Row::rate(
            "W9",
            "entries/s",
            "1,000 groups x 1 entry in one batch",
        )],
        is_large: false,
        prepare: |dir| {
            in_turn(
                dir,
                |dir| floor(dir, 256, 1000, 600),
                |dir| groups(dir, 1000, 600),
            )
        },
    },
    Workload {
        rows: &[Row::rate(
            "W5",
            "MB/s",
            "64 KiB batches, one wait at the end",
        )],
        is_large: false,
        prepare: |dir| {
            in_turn(
                dir,
                |dir| stream_floor(dir, 200 << 20),
                |dir| stream_log(dir, 200 << 20),
            )
        },
    },
];

fn options() -> Options {
    Options::default()
}

pub(crate) fn entry(index: u64, payload: &Bytes) -> Entry {
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

pub(crate) fn payload(bytes: usize) -> Bytes {
    vec![7; bytes].into()
}

/// A log as it is when it has been written to for a while: its segments were others before, and entries are purged as it
/// goes on. A cold one writes into its first segment, which is not prewritten.
pub(crate) fn warm(dir: &Path) -> Wal {
    let wal = Wal::create(dir.join("log"), options()).expect("a new log");
    let (group, payload) = (GroupId(u64::MAX), payload(1 << 20));
    for index in 1..=210 {
        let mut batch = Batch::new();
        let entry = entry(index, &payload);
        let id = entry.id;
        batch.append(group, [entry]);
        if index % 70 == 0 {
            batch.purge(group, id);
        }
        wal.write(batch).expect("a write");
    }
    wal
}

/// So many bytes are written between purges.
pub(crate) const PURGE_BYTES: u64 = 32 << 20;

fn log(dir: &Path, entry_bytes: usize, entries: u64, batches: u64) -> f64 {
    write_batches(&warm(dir), entry_bytes, entries, batches)
}

/// The first bytes of a new log, into a segment whose space is only reserved.
fn cold_log(dir: &Path, entry_bytes: usize, entries: u64, batches: u64) -> f64 {
    let wal = Wal::create(dir.join("log"), options()).expect("a new log");
    write_batches(&wal, entry_bytes, entries, batches)
}

pub(crate) fn write_batches(wal: &Wal, entry_bytes: usize, entries: u64, batches: u64) -> f64 {
    let payload = payload(entry_bytes);
    let purge_every = (PURGE_BYTES / (entry_bytes as u64 * entries)).max(1);
    let start = Instant::now();
    for n in 0..batches {
        let first = n * entries + 1;
        let mut batch = Batch::new();
        batch.append(
            GroupId(1),
            (first..first + entries).map(|index| entry(index, &payload)),
        );
        if n % purge_every == purge_every - 1 {
            batch.purge(GroupId(1), entry(first, &payload).id);
        }
        wal.write(batch).expect("a write");
    }
    per_second(batches * entries, start.elapsed())
}

fn groups(dir: &Path, groups: u64, batches: u64) -> f64 {
    let wal = warm(dir);
    let payload = payload(256);
    let start = Instant::now();
    for n in 0..batches {
        let mut batch = Batch::new();
        for group in 0..groups {
            let entry = entry(n + 1, &payload);
            let id = entry.id;
            batch.append(GroupId(group), [entry]);
            if n % 128 == 127 {
                batch.purge(GroupId(group), id);
            }
        }
        wal.write(batch).expect("a write");
    }
    per_second(batches * groups, start.elapsed())
}

fn stream_log(dir: &Path, bytes: u64) -> f64 {
    let wal = warm(dir);
    let start = Instant::now();
    stream(&wal, bytes);
    per_second(bytes, start.elapsed()) / 1e6
}

/// Entries of 1 KiB, 64 to a batch, and one wait at the end.
pub(crate) fn stream(wal: &Wal, bytes: u64) {
    let payload = payload(1 << 10);
    let (per_batch, batches) = (64, bytes / (64 << 10));
    let mut tickets = Vec::new();
    for n in 0..batches {
        let first = n * per_batch + 1;
        let mut batch = Batch::new();
        batch.append(
            GroupId(1),
            (first..first + per_batch).map(|index| entry(index, &payload)),
        );
        tickets.push(wal.submit(batch).expect("a batch"));
    }
    let last = tickets.pop().expect("a batch");
    last.wait().expect("a write");
}
