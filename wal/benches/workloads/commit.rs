//! Group commit: entries of many writers, made durable by one sync.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use duramen_wal::{Batch, GroupId, Ticket, Wal};

use crate::floors::{FILE_BYTES, prewritten};
use crate::harness::{Figure, Round, Row, Workload, in_turn, per_second};
use crate::write::{PURGE_BYTES, entry, payload, warm};

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        rows: &[Row::rate("W4", "entries/s", "32 threads, 1 x 256 B each")],
        is_large: false,
        prepare: |dir| {
            in_turn(
                dir,
                |dir| threads(&FloorCommit::new(dir), 32, 300),
                |dir| threads(&LogCommit::new(dir), 32, 300),
            )
        },
    },
    Workload {
        rows: &[
            Row::rate(
                "W4p",
                "entries/s",
                "64 tickets polled by one thread, which drives the log",
            ),
            Row::rate(
                "W4p256",
                "entries/s",
                "256 tickets polled by one thread, which drives the log",
            ),
            Row::rate("W4c", "entries/s", "64 tickets with callbacks, one thread"),
            Row::rate(
                "W4c256",
                "entries/s",
                "256 tickets with callbacks, one thread",
            ),
        ],
        is_large: false,
        prepare: one_thread,
    },
];

/// One entry made durable, together with those of other threads.
trait Commit: Sync {
    fn commit(&self, thread: u64, n: u64);
}

fn threads(commit: &impl Commit, threads: u64, each: u64) -> f64 {
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || (1..=each).for_each(|n| commit.commit(thread, n)));
        }
    });
    per_second(threads * each, start.elapsed())
}

struct LogCommit {
    wal: Wal,
    payload: Bytes,
}

impl LogCommit {
    fn new(dir: &Path) -> LogCommit {
        LogCommit {
            wal: warm(dir),
            payload: payload(256),
        }
    }
}

impl Commit for LogCommit {
    fn commit(&self, thread: u64, n: u64) {
        let mut batch = Batch::new();
        batch.append(GroupId(thread), [entry(n, &self.payload)]);
        self.wal.write(batch).expect("a write");
    }
}

/// Group commit without a log: a buffer under a mutex, and a condition variable.
struct FloorCommit {
    file: File,
    state: Mutex<FloorState>,
    changed: Condvar,
}

#[derive(Default)]
struct FloorState {
    buffer: Vec<u8>,
    end: u64,
    submitted: u64,
    durable: u64,
    is_writing: bool,
}

impl FloorCommit {
    fn new(dir: &Path) -> FloorCommit {
        FloorCommit {
            file: prewritten(dir),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }
}

impl Commit for FloorCommit {
    fn commit(&self, _: u64, _: u64) {
        let mut state = self.state.lock().expect("no panic");
        state.buffer.extend_from_slice(&[7; 256]);
        state.submitted += 1;
        let number = state.submitted;
        while state.durable < number {
            if state.is_writing {
                state = self.changed.wait(state).expect("no panic");
                continue;
            }
            state.is_writing = true;
            let (buffer, at, up_to) = (
                std::mem::take(&mut state.buffer),
                state.end,
                state.submitted,
            );
            drop(state);
            self.file.write_all_at(&buffer, at).expect("a write");
            self.file.sync_data().expect("a sync");
            state = self.state.lock().expect("no panic");
            state.end += buffer.len() as u64;
            state.durable = up_to;
            state.is_writing = false;
            self.changed.notify_all();
        }
    }
}

/// One thread that keeps so many entries in flight, and so many in all.
const IN_FLIGHT: [(u64, u64); 2] = [(64, 64 * 3000), (256, 256 * 2000)];

const ENTRY_BYTES: usize = 256;

fn one_thread(parent: &Path) -> Result<Round, String> {
    let parent = parent.to_owned();
    Ok(Box::new(move || {
        let run = |run: fn(&Path, u64, u64) -> f64, (in_flight, total)| {
            let dir = tempfile::tempdir_in(&parent).expect("a directory for the files");
            run(dir.path(), in_flight, total)
        };
        let floors = IN_FLIGHT.map(|size| run(raw_loop, size));
        let polled = IN_FLIGHT.map(|size| run(polled, size));
        let called = IN_FLIGHT.map(|size| run(called_back, size));
        let figure = |(floor, log)| Figure { floor, log };
        let figures = |logs: [f64; 2]| floors.into_iter().zip(logs).map(figure);
        figures(polled).chain(figures(called)).collect()
    }))
}

/// The floor: what is outstanding is gathered, written at once, and synced.
fn raw_loop(dir: &Path, in_flight: u64, total: u64) -> f64 {
    let file = prewritten(dir);
    let (payload, mut buffer, mut at) = ([7; ENTRY_BYTES], Vec::new(), 0);
    let start = Instant::now();
    for _ in 0..total / in_flight {
        buffer.clear();
        (0..in_flight).for_each(|_| buffer.extend_from_slice(&payload));
        file.write_all_at(&buffer, at).expect("a write");
        file.sync_data().expect("a sync");
        at = (at + buffer.len() as u64) % (FILE_BYTES - buffer.len() as u64);
    }
    per_second(total, start.elapsed())
}

/// A group's entries, one to a batch, as fast as the caller asks for them.
struct Submitter {
    wal: Wal,
    payload: Bytes,
    submitted: u64,
}

impl Submitter {
    fn new(dir: &Path) -> Submitter {
        Submitter {
            wal: warm(dir),
            payload: payload(ENTRY_BYTES),
            submitted: 0,
        }
    }

    fn next(&mut self) -> Ticket {
        self.submitted += 1;
        let entry = entry(self.submitted, &self.payload);
        let id = entry.id;
        let mut batch = Batch::new();
        batch.append(GroupId(1), [entry]);
        if self
            .submitted
            .is_multiple_of(PURGE_BYTES / ENTRY_BYTES as u64)
        {
            batch.purge(GroupId(1), id);
        }
        self.wal.submit(batch).expect("a batch")
    }
}

/// An event loop that has nothing else to do writes the log itself ([`Wal::drive`]), and then asks its tickets.
fn polled(dir: &Path, in_flight: u64, total: u64) -> f64 {
    let mut submitter = Submitter::new(dir);
    let start = Instant::now();
    let mut outstanding: VecDeque<Ticket> = VecDeque::new();
    while submitter.submitted < total || !outstanding.is_empty() {
        while submitter.submitted < total && (outstanding.len() as u64) < in_flight {
            outstanding.push_back(submitter.next());
        }
        submitter.wal.drive().expect("a write");
        while outstanding.front().is_some_and(Ticket::is_durable) {
            outstanding.pop_front();
        }
    }
    per_second(total, start.elapsed())
}

/// Each ticket's callback counts and wakes.
fn called_back(dir: &Path, in_flight: u64, total: u64) -> f64 {
    let mut submitter = Submitter::new(dir);
    let (thread, done) = (thread::current(), Arc::new(AtomicU64::new(0)));
    let start = Instant::now();
    let mut seen = 0;
    while seen < total {
        while submitter.submitted < total.min(seen + in_flight) {
            let (thread, done) = (thread.clone(), done.clone());
            submitter.next().on_durable(move |outcome| {
                outcome.expect("a write");
                done.fetch_add(1, Ordering::Release);
                thread.unpark();
            });
        }
        let now = done.load(Ordering::Acquire);
        if now == seen {
            thread::park();
        }
        seen = now;
    }
    per_second(total, start.elapsed())
}
