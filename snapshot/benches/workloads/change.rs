//! A hundredth of the state changes: what the next snapshot writes, and how long a store of three takes to open.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use duramen_snapshot::{Counts, SnapshotStore};

use crate::harness::{Figure, Round, Row, Setup, Workload, timed};
use crate::state::{Changed, State, options};

pub(crate) const WORKLOADS: &[Workload] = &[Workload {
    rows: &[
        Row::cost(
            "local",
            "MB",
            "chunks written after a change of 1 % in one place; the floor: what changed",
        ),
        Row::cost("localf", "MB", "the file of that snapshot"),
        Row::cost(
            "random",
            "MB",
            "chunks written after a change of 1 % at random places",
        ),
        Row::cost("randomf", "MB", "the file of that snapshot"),
        Row::cost(
            "open",
            "ms",
            "opening a store of the three snapshots; the floor: reading as much as is not chunks",
        ),
    ],
    rounds: 5,
    prepare,
}];

fn prepare(setup: &Setup) -> Round {
    let (dir, chunk_bytes) = (setup.dir.join("store"), setup.chunk_bytes);
    let store = SnapshotStore::open(&dir, options(chunk_bytes)).expect("a store");
    let states = [Changed::Nothing, Changed::Local, Changed::Random].map(|changed| State {
        bytes: setup.state_bytes,
        changed,
    });
    let counts = states.map(|state| state.publish(&store).counts);
    drop(store);
    let meta_bytes = counts.map(|counts| counts.file_bytes - counts.bytes_written);
    let written = [1, 2].map(|n| written(states[n].changed_bytes(), counts[n]));
    Box::new(move || {
        let ((), floor) = timed(|| files(&dir).iter().zip(meta_bytes).for_each(read_end));
        let (store, open) = timed(|| SnapshotStore::open(&dir, options(chunk_bytes)));
        assert_eq!(store.expect("the store").list().len(), 3);
        let open = Figure {
            floor: floor.as_secs_f64() * 1e3,
            store: open.as_secs_f64() * 1e3,
        };
        written.into_iter().flatten().chain([open]).collect()
    })
}

fn written(changed_bytes: u64, counts: Counts) -> [Figure; 2] {
    [counts.bytes_written, counts.file_bytes].map(|bytes| Figure {
        floor: changed_bytes as f64 / 1e6,
        store: bytes as f64 / 1e6,
    })
}

/// The snapshots' files, in the order in which they were written.
fn files(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).expect("a directory");
    let paths = files.map(|file| file.expect("a directory's entry").path());
    let mut snapshots: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "snap"))
        .collect();
    snapshots.sort_unstable();
    snapshots
}

/// Reads the last `bytes` of a file: its manifest and its table are among them.
fn read_end((path, bytes): (&PathBuf, u64)) {
    let file = File::open(path).expect("a snapshot's file");
    let len = file.metadata().expect("a length").len();
    let mut buf = vec![0; bytes as usize];
    file.read_exact_at(&mut buf, len - bytes).expect("a read");
}
