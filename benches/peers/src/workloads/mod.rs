//! The workloads: what each engine is made to do, and what is measured of it.

mod keeping;
mod reading;
mod writing;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use crate::engines::{Engine, Part, floor};
use crate::log::{Log, Result, Run};
use crate::measure::Measured;
use keeping::Keeping;

/// What is done.
#[derive(Clone, Copy)]
pub enum Work {
    /// One writer, batches of so many entries of so many bytes, durable each.
    Write { entries: usize, bytes: usize },
    /// So many threads, each with a group of its own, one entry at a time.
    Threads(u64),
    /// One thread with so many appends under way.
    Tickets(u64),
    /// Batches with one entry for each of 1,000 groups, of so many.
    Groups(u64),
    /// As much as is read later, in batches of 64 KiB, and one sync.
    Bulk,
    /// Other work, with what is old purged: so files are used again.
    Keeping(&'static Work),
    /// As much as is kept, some times over, with what is old purged.
    Recycle,
    /// Opens what `Bulk` has left.
    Open,
    /// Reads random single entries of it.
    Random,
    /// Reads it in pieces of 128 entries.
    Scan,
}

impl Work {
    /// What is measured needs another process to have written.
    pub fn reads(self) -> bool {
        matches!(self, Work::Open | Work::Random | Work::Scan)
    }

    /// Whether an engine takes part.
    pub fn is_for(self, engine: &Engine) -> bool {
        match engine.part {
            Part::All => true,
            Part::Reading => self.reads(),
            Part::Writing => !self.reads(),
        }
    }
}

pub struct Workload {
    pub name: &'static str,
    pub what: &'static str,
    pub unit: &'static str,
    pub less_is_better: bool,
    pub work: Work,
    /// Of Duramen, in words.
    pub wanted: &'static str,
}

const fn rate(
    name: &'static str,
    what: &'static str,
    work: Work,
    wanted: &'static str,
) -> Workload {
    Workload {
        name,
        what,
        unit: "entries/s",
        less_is_better: false,
        work,
        wanted,
    }
}

const fn write(entries: usize, bytes: usize) -> Work {
    Work::Write { entries, bytes }
}

pub const WORKLOADS: &[Workload] = &[
    rate(
        "W1",
        "one writer, 1 entry of 256 B, durable each",
        write(1, 256),
        "0.97, and no peer better",
    ),
    rate(
        "W2",
        "one writer, 64 of 256 B in a batch",
        write(64, 256),
        "0.97, and no peer better",
    ),
    rate(
        "W3",
        "one writer, 16 of 4 KiB in a batch",
        write(16, 4096),
        "0.97, and no peer better",
    ),
    rate(
        "W4",
        "32 threads, 1 entry of 256 B each",
        Work::Threads(32),
        "1.0",
    ),
    rate(
        "W4-64",
        "one thread, 64 appends of 256 B under way",
        Work::Tickets(64),
        "0.8",
    ),
    rate(
        "W4-256",
        "one thread, 256 appends of 256 B under way",
        Work::Tickets(256),
        "0.8",
    ),
    Workload {
        name: "W5",
        what: "all in batches of 64 entries of 1 KiB, one sync",
        unit: "MB/s",
        less_is_better: false,
        work: Work::Bulk,
        wanted: "0.6, under 64 MiB of memory",
    },
    Workload {
        name: "W6",
        what: "open that log",
        unit: "ms",
        less_is_better: true,
        work: Work::Open,
        wanted: "a tenth of the best Raft log's time, 40 MiB",
    },
    Workload {
        name: "W7",
        what: "read a random entry of it",
        unit: "us",
        less_is_better: true,
        work: Work::Random,
        wanted: "1.3 us, by map 0.5",
    },
    Workload {
        name: "W7-scan",
        what: "read it in pieces of 128 entries",
        unit: "MB/s",
        less_is_better: false,
        work: Work::Scan,
        wanted: "by map 1.5",
    },
    Workload {
        name: "W8",
        what: "bytes for the device for each byte of payload: W2 for long, files used again",
        unit: "bytes",
        less_is_better: true,
        work: Work::Recycle,
        wanted: "the floor's",
    },
    rate(
        "W2-steady",
        "W2, with what is older than 128 MiB purged",
        Work::Keeping(&write(64, 256)),
        "",
    ),
    rate(
        "W3-steady",
        "W3, with what is older than 128 MiB purged",
        Work::Keeping(&write(16, 4096)),
        "",
    ),
    rate(
        "W4-256-steady",
        "W4-256, with what is older than 128 MiB purged",
        Work::Keeping(&Work::Tickets(256)),
        "",
    ),
    rate(
        "W9",
        "1 entry of 256 B for each of 1,000 groups in a batch",
        Work::Groups(1000),
        "0.8",
    ),
    rate(
        "W9-many",
        "1 entry of 256 B for each of 1,000 of 100,000 groups in a batch",
        Work::Groups(100_000),
        "",
    ),
    rate(
        "W9-steady",
        "W9, with what is older than 128 MiB purged",
        Work::Keeping(&Work::Groups(1000)),
        "",
    ),
];

const ENTRY_BYTES: usize = 256;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// How long writing is measured.
    pub time: Duration,
    /// How much is written to be read.
    pub bulk_bytes: u64,
}

impl Scale {
    fn bulk_entries(&self) -> u64 {
        self.bulk_bytes / floor::ENTRY_BYTES
    }
}

/// Writes what another process is to read.
pub fn prepare(engine: &Engine, dir: &Path, scale: Scale) -> Result<()> {
    let log = (engine.open)(dir)?;
    writing::bulk(&*log, scale)?;
    log.close()
}

/// Does the work, in a directory that is empty or was prepared. `None` if the engine cannot.
pub fn run(work: Work, engine: &Engine, dir: &Path, scale: Scale) -> Result<Option<Measured>> {
    if work.reads() {
        reading::warm(dir)?;
    }
    if let Work::Open = work {
        return reading::open(engine, dir).map(Some);
    }
    let log = (engine.open)(dir)?;
    let measured = write_or_read(work, &*log, dir, scale)?;
    log.close()?;
    Ok(measured)
}

fn write_or_read(work: Work, log: &dyn Log, dir: &Path, scale: Scale) -> Result<Option<Measured>> {
    match work {
        Work::Keeping(work) => write_or_read(*work, &Keeping::of(log), dir, scale),
        Work::Write { entries, bytes } => writing::write(log, dir, scale, entries, bytes).map(Some),
        Work::Threads(threads) => writing::on_threads(log, dir, scale, threads).map(Some),
        Work::Tickets(under_way) => writing::tickets(log, dir, scale, under_way),
        Work::Groups(groups) => writing::for_groups(log, dir, scale, groups).map(Some),
        Work::Bulk => writing::all(log, dir, scale).map(Some),
        Work::Recycle => writing::recycle(log, dir).map(Some),
        Work::Random => reading::random(log, dir, scale).map(Some),
        Work::Scan => reading::scan(log, dir, scale).map(Some),
        Work::Open => unreachable!("it was opened above"),
    }
}

/// Payloads that do not compress, cut from one piece of memory.
struct Payloads {
    bytes: Bytes,
    at: usize,
}

impl Payloads {
    fn new() -> Payloads {
        let mut bytes = vec![0; 1 << 20];
        fastrand::Rng::with_seed(1).fill(&mut bytes);
        let bytes = bytes.into();
        Payloads { bytes, at: 0 }
    }

    fn next(&mut self, len: usize) -> Bytes {
        self.at = (self.at + 97) % (self.bytes.len() - len);
        self.bytes.slice(self.at..self.at + len)
    }

    fn run(&mut self, group: u64, first: u64, entries: usize, len: usize) -> Run {
        let payloads = (0..entries).map(|_| self.next(len)).collect();
        Run {
            group,
            first,
            payloads,
        }
    }
}
