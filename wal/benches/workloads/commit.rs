//! Group commit: entries of many writers, made durable by one sync.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use duramen_wal::{Batch, GroupId, Wal};

use crate::floors::prewritten;
use crate::harness::{Row, Workload, in_turn, per_second};
use crate::write::{entry, payload, warm};

pub(crate) const WORKLOADS: &[Workload] = &[Workload {
    rows: &[Row::rate("W4", "entries/s", "32 threads, 1 x 256 B each")],
    is_large: false,
    prepare: |dir| {
        in_turn(
            dir,
            |dir| threads(&FloorCommit::new(dir), 32, 300),
            |dir| threads(&LogCommit::new(dir), 32, 300),
        )
    },
}];

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
