//! What the same payload bytes cost without any format: the limit that the log is held against.
//!
//! Each floor writes in the same pieces as the log, with one `fdatasync` where the log has one, into a file that was
//! written before.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use crate::harness::per_second;

pub(crate) const FILE_BYTES: u64 = 256 << 20;

/// A file that was written before: its blocks are there, and writing them again changes no metadata.
pub(crate) fn prewritten(dir: &Path) -> File {
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

pub(crate) fn floor(dir: &Path, entry_bytes: usize, entries: usize, batches: u64) -> f64 {
    floor_batches(&prewritten(dir), entry_bytes, entries, batches)
}

pub(crate) fn floor_batches(file: &File, entry_bytes: usize, entries: usize, batches: u64) -> f64 {
    let buf = vec![7; entry_bytes * entries];
    let start = Instant::now();
    for n in 0..batches {
        file.write_all_at(&buf, n * buf.len() as u64 % (FILE_BYTES - buf.len() as u64))
            .expect("a write");
        file.sync_data().expect("a sync");
    }
    per_second(batches * entries as u64, start.elapsed())
}

pub(crate) fn stream_floor(dir: &Path, bytes: u64) -> f64 {
    let file = prewritten(dir);
    let buf = vec![7; 64 << 10];
    let start = Instant::now();
    for at in (0..bytes).step_by(buf.len()) {
        file.write_all_at(&buf, at).expect("a write");
    }
    file.sync_data().expect("a sync");
    per_second(bytes, start.elapsed()) / 1e6
}
