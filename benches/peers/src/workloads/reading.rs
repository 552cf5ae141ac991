//! Workloads that read what another process has written.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Instant;

use super::Scale;
use crate::engines::{Engine, floor};
use crate::log::{Log, Result};
use crate::measure::{Measured, Meter};

/// Reads all files once: what is measured is not the disk.
pub fn warm(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => warm(&entry.path())?,
            false => drop(io::copy(&mut File::open(entry.path())?, &mut io::empty())?),
        }
    }
    Ok(())
}

pub fn open(engine: &Engine, dir: &Path) -> Result<Measured> {
    let meter = Meter::start(dir)?;
    if engine.is_floor() {
        floor::recover(dir)?;
        return meter.stop(1, 0, |_, seconds| seconds * 1e3);
    }
    let log = (engine.open)(dir)?;
    let measured = meter.stop(1, 0, |_, seconds| seconds * 1e3)?;
    log.close()?;
    Ok(measured)
}

pub fn random(log: &dyn Log, dir: &Path, scale: Scale) -> Result<Measured> {
    const UNTIMED: u64 = 99;
    let mut rng = fastrand::Rng::with_seed(2);
    let mut read = || {
        let index = rng.u64(1..=scale.bulk_entries());
        let bytes = log.read(1, index..index + 1)?;
        check(bytes, 1)
    };
    for _ in 0..10_000 {
        read()?;
    }
    let mut meter = Meter::start(dir)?;
    let mut times = 0;
    while meter.elapsed() < scale.time {
        // One of a hundred is timed by itself: to time each would take as long as some reads.
        for _ in 0..UNTIMED {
            read()?;
        }
        let since = Instant::now();
        read()?;
        meter.took(since.elapsed());
        times += UNTIMED + 1;
    }
    meter.stop(times, 0, |done, seconds| seconds * 1e6 / done)
}

pub fn scan(log: &dyn Log, dir: &Path, scale: Scale) -> Result<Measured> {
    const PIECE: u64 = 128;
    let mut meter = Meter::start(dir)?;
    let (mut first, mut entries, mut bytes) = (1, 0, 0);
    while meter.elapsed() < scale.time {
        let since = Instant::now();
        let read = log.read(1, first..first + PIECE)?;
        meter.took(since.elapsed());
        check(read, PIECE)?;
        entries += PIECE;
        bytes += read;
        first += PIECE;
        if first + PIECE > scale.bulk_entries() {
            first = 1;
        }
    }
    meter.stop(entries, 0, |_, seconds| bytes as f64 / 1e6 / seconds)
}

fn check(bytes: u64, entries: u64) -> Result<()> {
    match bytes == entries * floor::ENTRY_BYTES {
        true => Ok(()),
        false => Err(format!("{bytes} bytes are not {entries} entries").into()),
    }
}
