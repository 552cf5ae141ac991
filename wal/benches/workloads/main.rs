//! What the log costs beside the bare disk: each workload runs in turn on a file without any format (the floor) and on the
//! log, several rounds, and the median ratio counts. Absolute figures drift with the machine; ratios of one run do not.
//!
//! `cargo bench -p duramen-wal` runs all; `cargo bench -p duramen-wal -- W1 W4` some. Each floor writes the same payload
//! bytes, in the same pieces, with one `fdatasync` where the log has one, into a file that was written before.

mod commit;
mod floors;
mod harness;
mod write;

use std::path::PathBuf;

use commit::{FloorCommit, LogCommit, threads};
use floors::{floor, stream_floor};
use harness::Workload;
use write::{cold_log, groups, log, stream_log};

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
    harness::print_head();
    for workload in WORKLOADS {
        if wanted.is_empty() || wanted.iter().any(|name| name == workload.name) {
            workload.run(&parent);
        }
    }
}
