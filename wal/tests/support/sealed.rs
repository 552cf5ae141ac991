//! A log with a sealed segment, and what can be wrong with its seal.

#![allow(dead_code)] // each test file is a crate of its own and uses a part

use duramen_disk::{Disk, SimDisk};
use duramen_wal::Options;

use crate::support::*;

pub(crate) fn small() -> Options {
    options(16384)
}

/// A full segment with votes, and one that is not full.
pub(crate) fn sealed() -> (SimDisk, Vec<Step>) {
    let mut steps: Vec<Step> = Vec::new();
    for i in 1..=4 {
        steps.push(vec![append(1, i, i, i, 1000), vote(1, i, i)]);
        steps.push(vec![append(2, i, i, 1, 300), user(2, b"user")]);
    }
    let disk = disk_with(&small(), &steps);
    assert!(disk.open(&segment(2)).is_ok() && disk.open(&segment(3)).is_err());
    assert!(is_sealed(&read_file(&disk, &segment(1))));
    (disk, steps)
}

pub(crate) fn spoil_seal(disk: &SimDisk, how: Seal) {
    let bytes = read_file(disk, &segment(1));
    let seal = seal(&bytes).unwrap();
    let (begin, end) = (seal.directories.start, bytes.len());
    if matches!(how, Seal::NoDirectories | Seal::NoCopy) {
        flip(disk, &segment(1), begin + 70);
    }
    if matches!(how, Seal::NoSummary | Seal::NoCopy) {
        flip(disk, &segment(1), seal.summary.end - 20);
    }
    match how {
        Seal::NoDirectories | Seal::NoSummary | Seal::NoCopy => {}
        Seal::NoTrailer => flip(disk, &segment(1), end - 20),
        Seal::Missing => spoil(disk, &segment(1), begin, |bytes| bytes.fill(0), end - begin),
        Seal::Overwritten => spoil(disk, &segment(1), end - 128, |bytes| bytes.fill(255), 128),
    }
}

/// What is wrong with a seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seal {
    NoDirectories,
    NoSummary,
    /// Neither.
    NoCopy,
    NoTrailer,
    /// As if the process was killed before.
    Missing,
    Overwritten,
}
