//! What single calls cost the processor, without a disk in the way: the log is on a simulated one.
//!
//! `cargo bench -p duramen-wal --bench calls`. For what the log costs beside the bare disk see `workloads`.

#![allow(missing_docs)] // of the function that criterion's macro makes

use std::hint::black_box;
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread::{self, Thread};

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

/// A batch is put together: a copy of nothing, and a checksum for each entry, which is nearly all that it costs.
fn compose(criterion: &mut Criterion) {
    for (name, bytes) in [("compose 64 x 256 B", 256), ("compose 64 x 4 KiB", 4096)] {
        let payload = Bytes::from(vec![7; bytes]);
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| black_box(batch(1, 64, &payload)));
        });
    }
}

/// A batch is taken, written and noted: a frame is encoded, and copied to the disk.
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

/// Where an entry is: its term is looked up, among few groups and among many, in one run of entries and in many.
fn look_up(criterion: &mut Criterion) {
    const RUNS: u64 = 1000;
    let payload = Bytes::new();
    for groups in [1_u64, 100_000] {
        let wal = Wal::create_on(Arc::new(SimDisk::new()), "/log", options()).expect("a new log");
        for thousand in 0..groups.div_ceil(1000) {
            let mut batch = Batch::new();
            for group in thousand * 1000..groups.min((thousand + 1) * 1000) {
                batch.append(GroupId(group), [entry(1, &payload)]);
            }
            wal.write(batch).expect("a write");
        }
        let mut group = 0;
        criterion.bench_function(&format!("look up in one of {groups} groups"), |bencher| {
            bencher.iter(|| {
                group = (group + 7919) % groups;
                black_box(wal.term(GroupId(group), Index(1)))
            });
        });
    }
    let (_disk, wal) = new_log();
    let mut runs = Batch::new();
    runs.append(
        GROUP,
        (1..=RUNS).map(|at| {
            let (term, index) = (Term(at), Index(at));
            let id = LogId { term, index };
            Entry {
                id,
                ..Entry::default()
            }
        }),
    );
    wal.write(runs).expect("a write");
    let mut index = 0;
    criterion.bench_function(&format!("look up in {RUNS} runs"), |bencher| {
        bencher.iter(|| {
            index = (index + 797) % RUNS;
            black_box(wal.term(GROUP, Index(index + 1)))
        });
    });
}

/// Who waits for a batch that the log's own thread writes is told: what handing over from one thread to the other costs.
fn wake_up(criterion: &mut Criterion) {
    let mut options = options();
    options.manual_drive = false;
    let wal = Wal::create_on(Arc::new(SimDisk::new()), "/log", options).expect("a new log");
    let payload = Bytes::from(vec![7; 256]);
    let mut index = 0;
    let mut submit = || {
        index += 1;
        let mut batch = batch(index, 1, &payload);
        if index > 1000 {
            batch.purge(GROUP, entry(index - 1, &payload).id);
        }
        wal.submit(batch).expect("a batch")
    };
    criterion.bench_function("write and wait", |bencher| {
        bencher.iter(|| submit().wait().expect("a write"));
    });
    let (tell, told) = mpsc::channel();
    criterion.bench_function("wake up by a callback", |bencher| {
        bencher.iter(|| {
            let tell = tell.clone();
            submit().on_durable(move |outcome| tell.send(outcome).expect("somebody waits"));
            told.recv().expect("an outcome").expect("a write");
        });
    });
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    criterion.bench_function("wake up a future", |bencher| {
        bencher.iter(|| {
            let mut ticket = std::pin::pin!(submit());
            let mut context = Context::from_waker(&waker);
            while ticket.as_mut().poll(&mut context).is_pending() {
                thread::park();
            }
        });
    });
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A log of two sealed segments and a tail is opened: the directories of the tail are parsed, and its payloads checked.
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

/// A log of small frames that is not sealed is opened: nearly all of it is directories.
fn parse(criterion: &mut Criterion) {
    const FRAMES: u64 = 8192;
    let payload = Bytes::from_static(b"x");
    let (disk, wal) = new_log();
    for index in 1..=FRAMES {
        wal.write(batch(index, 1, &payload)).expect("a write");
    }
    drop(wal);
    criterion.bench_function(&format!("parse {FRAMES} directories"), |bencher| {
        bencher.iter_batched(
            || disk.fork(),
            |disk| Wal::open_on(Arc::new(disk), "/log", options()).expect("the log"),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(calls, compose, write, read, look_up, wake_up, open, parse);
criterion_main!(calls);
