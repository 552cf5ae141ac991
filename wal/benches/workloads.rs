//! What the log costs beside the bare disk: each workload runs in turn on a file without any format (the floor) and on the
//! log, several rounds, and the median ratio counts. Absolute figures drift with the machine; ratios of one run do not.
//!
//! `cargo bench -p duramen-wal` runs all; `cargo bench -p duramen-wal -- W1 W4` some. Each floor writes the same payload
//! bytes, in the same pieces, with one `fdatasync` where the log has one, into a file that was written before.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use duramen_wal::{Batch, Entry, GroupId, Index, LogId, Options, Term, Wal};

const ROUNDS: usize = 7;
const FILE_BYTES: u64 = 256 << 20;

type Run = fn(&Path) -> f64;

struct Workload {
    name: &'static str,
    what: &'static str,
    floor: Run,
    log: Run,
}

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "W1",
        what: "entries/s, one writer, 1 x 256 B, durable each",
        floor: |dir| floor(dir, 256, 1, 2000),
        log: |dir| log(dir, 256, 1, 2000),
    },
    Workload {
        name: "W2",
        what: "entries/s, one writer, 64 x 256 B a batch",
        floor: |dir| floor(dir, 256, 64, 6000),
        log: |dir| log(dir, 256, 64, 6000),
    },
    Workload {
        name: "W3",
        what: "entries/s, one writer, 16 x 4 KiB a batch",
        floor: |dir| floor(dir, 4096, 16, 3000),
        log: |dir| log(dir, 4096, 16, 3000),
    },
    Workload {
        name: "W3cold",
        what: "the same from the first byte of a new log",
        floor: |dir| floor(dir, 4096, 16, 1000),
        log: |dir| cold_log(dir, 4096, 16, 1000),
    },
    Workload {
        name: "W4",
        what: "entries/s, 32 threads, 1 x 256 B each",
        floor: |dir| threads(&FloorCommit::new(dir), 32, 300),
        log: |dir| threads(&LogCommit::new(dir), 32, 300),
    },
    Workload {
        name: "W9",
        what: "entries/s, 1,000 groups x 1 entry in one batch",
        floor: |dir| floor(dir, 256, 1000, 600),
        log: |dir| groups(dir, 1000, 600),
    },
    Workload {
        name: "W5",
        what: "MB/s, 64 KiB batches, one wait at the end",
        floor: |dir| stream_floor(dir, 200 << 20),
        log: |dir| stream_log(dir, 200 << 20),
    },
];

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| arg.starts_with('W'))
        .collect();
    let parent =
        std::env::var_os("CARGO_TARGET_TMPDIR").map_or(std::env::temp_dir(), PathBuf::from);
    println!(
        "{:4} {:>12} {:>12} {:>7}  (medians of {ROUNDS} interleaved rounds)",
        "", "floor", "log", "ratio"
    );
    for workload in WORKLOADS {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == workload.name) {
            continue;
        }
        let (mut floors, mut logs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let [floor, log] = [workload.floor, workload.log].map(|run| {
                let dir = tempfile::tempdir_in(&parent).expect("a directory for the files");
                run(dir.path())
            });
            floors.push(floor);
            logs.push(log);
            ratios.push(log / floor);
        }
        let [floor, log, ratio] = [floors, logs, ratios].map(median);
        println!(
            "{:4} {floor:12.0} {log:12.0} {ratio:7.2}  {}",
            workload.name, workload.what
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A file that was written before: its blocks are there, and writing them again changes no metadata.
fn prewritten(dir: &Path) -> File {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(dir.join("floor"))
        .expect("a new file");
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at).expect("space for the floor");
    }
    file.sync_all().expect("a sync");
    file
}

fn floor(dir: &Path, entry_bytes: usize, entries: usize, batches: u64) -> f64 {
    let file = prewritten(dir);
    let buf = vec![7; entry_bytes * entries];
    let start = Instant::now();
    for n in 0..batches {
        file.write_all_at(&buf, n * buf.len() as u64 % (FILE_BYTES - buf.len() as u64))
            .expect("a write");
        file.sync_data().expect("a sync");
    }
    per_second(batches * entries as u64, start.elapsed())
}

fn options() -> Options {
    Options::default()
}

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

fn payload(bytes: usize) -> Bytes {
    vec![7; bytes].into()
}

/// A log as it is when it has been written to for a while: its segments were others before, and entries are purged as it
/// goes on. A cold one writes into its first segment, which is not prewritten.
fn warm(dir: &Path) -> Wal {
    let wal = Wal::create(dir.join("log"), options()).expect("a new log");
    let (group, payload) = (GroupId(u64::MAX), payload(1 << 20));
    for index in 1..=210 {
        let mut batch = Batch::new();
        let entry = entry(index, &payload);
        let id = entry.id;
        batch.append(group, [entry]);
        if index % 10 == 0 {
            batch.purge(group, id);
        }
        wal.write(batch).expect("a write");
    }
    wal
}

/// So many bytes are written between purges.
const PURGE_BYTES: u64 = 32 << 20;

fn log(dir: &Path, entry_bytes: usize, entries: u64, batches: u64) -> f64 {
    write_batches(&warm(dir), entry_bytes, entries, batches)
}

/// The first bytes of a new log, into a segment whose space is only reserved.
fn cold_log(dir: &Path, entry_bytes: usize, entries: u64, batches: u64) -> f64 {
    let wal = Wal::create(dir.join("log"), options()).expect("a new log");
    write_batches(&wal, entry_bytes, entries, batches)
}

fn write_batches(wal: &Wal, entry_bytes: usize, entries: u64, batches: u64) -> f64 {
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

fn stream_floor(dir: &Path, bytes: u64) -> f64 {
    let file = prewritten(dir);
    let buf = vec![7; 64 << 10];
    let start = Instant::now();
    for at in (0..bytes).step_by(buf.len()) {
        file.write_all_at(&buf, at).expect("a write");
    }
    file.sync_data().expect("a sync");
    per_second(bytes, start.elapsed()) / 1e6
}

fn stream_log(dir: &Path, bytes: u64) -> f64 {
    let wal = warm(dir);
    let payload = payload(1 << 10);
    let (per_batch, batches) = (64, bytes / (64 << 10));
    let start = Instant::now();
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
    per_second(bytes, start.elapsed()) / 1e6
}

/// One entry made durable, together with those of other threads.
trait Commit: Sync {
    fn commit(&self, thread: u64, n: u64);
}

fn threads(commit: &impl Commit, threads: u64, each: u64) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
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

fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
