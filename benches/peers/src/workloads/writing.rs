//! Workloads that write.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::keeping::{KEPT_BYTES, Keeping};
use super::{ENTRY_BYTES, Payloads, Scale};
use crate::engines::floor;
use crate::log::{Log, Result};
use crate::measure::{Measured, Meter};

/// Of the log that is read.
const BULK_BATCH: u64 = 64;
/// How much each log gets before it is measured, in a group of its own: so much that files are exchanged, and what is measured is what
/// goes on for long. Whatever an engine has prepared for later files counts then.
const BEFORE_BYTES: u64 = 160 << 20;
const BEFORE_GROUP: u64 = 1 << 40;
/// Of a batch for many groups.
const GROUPS_AT_A_TIME: u64 = 1000;

fn write_before(log: &dyn Log) -> Result<()> {
    write_unsynced(log, BEFORE_GROUP, BEFORE_BYTES)
}

/// In batches of 64 KiB, with one sync.
fn write_unsynced(log: &dyn Log, group: u64, bytes: u64) -> Result<()> {
    let mut payloads = Payloads::new();
    let entries = bytes / floor::ENTRY_BYTES;
    for first in (1..=entries).step_by(BULK_BATCH as usize) {
        let run = payloads.run(
            group,
            first,
            BULK_BATCH as usize,
            floor::ENTRY_BYTES as usize,
        );
        log.append_unsynced(&[run])?;
    }
    log.sync()
}

/// Does `once` again and again, a while unmeasured and then measured; it says how long something took, if it has timed that. Gives the
/// meter and how often it was done.
fn repeat<'a>(
    dir: &'a Path,
    scale: Scale,
    mut once: impl FnMut() -> Result<Option<Duration>>,
) -> Result<(Meter<'a>, u64)> {
    let since = Instant::now();
    while since.elapsed() < scale.time / 4 {
        once()?;
    }
    let mut meter = Meter::start(dir)?;
    let mut times = 0;
    while meter.elapsed() < scale.time {
        once()?.into_iter().for_each(|time| meter.took(time));
        times += 1;
    }
    Ok((meter, times))
}

/// Times each.
fn timed(mut once: impl FnMut() -> Result<()>) -> impl FnMut() -> Result<Option<Duration>> {
    move || {
        let since = Instant::now();
        once()?;
        Ok(Some(since.elapsed()))
    }
}

/// So many entries of `len` bytes were written.
fn rate(meter: Meter<'_>, entries: u64, len: usize) -> Result<Measured> {
    meter.stop(entries, entries * len as u64, |done, seconds| {
        done / seconds
    })
}

pub fn write(
    log: &dyn Log,
    dir: &Path,
    scale: Scale,
    entries: usize,
    len: usize,
) -> Result<Measured> {
    write_before(log)?;
    let (mut payloads, mut next) = (Payloads::new(), 1);
    let once = || {
        let run = payloads.run(1, next, entries, len);
        next = run.last() + 1;
        log.append(&[run])
    };
    let (meter, times) = repeat(dir, scale, timed(once))?;
    rate(meter, times * entries as u64, len)
}

/// The groups take turns.
pub fn for_groups(log: &dyn Log, dir: &Path, scale: Scale, groups: u64) -> Result<Measured> {
    write_before(log)?;
    let mut payloads = Payloads::new();
    let mut batch = 0;
    let mut once = || {
        let first = batch * GROUPS_AT_A_TIME;
        let indexed = (first..first + GROUPS_AT_A_TIME).map(|at| (at % groups, at / groups + 1));
        let runs: Vec<_> = indexed
            .map(|(group, index)| payloads.run(group + 1, index, 1, ENTRY_BYTES))
            .collect();
        batch += 1;
        log.append(&runs)
    };
    for _ in 0..groups / GROUPS_AT_A_TIME {
        once()?; // The groups are there.
    }
    let (meter, times) = repeat(dir, scale, timed(once))?;
    rate(meter, times * GROUPS_AT_A_TIME, ENTRY_BYTES)
}

pub fn on_threads(log: &dyn Log, dir: &Path, scale: Scale, threads: u64) -> Result<Measured> {
    write_before(log)?;
    let one = |group: u64, until: Instant, next: &mut u64| -> Result<Vec<Duration>> {
        let (mut payloads, mut times) = (Payloads::new(), Vec::new());
        while Instant::now() < until {
            let since = Instant::now();
            log.append(&[payloads.run(group, *next, 1, ENTRY_BYTES)])?;
            *next += 1;
            times.push(since.elapsed());
        }
        Ok(times)
    };
    let mut nexts = vec![1; threads as usize];
    let mut all = |time: Duration| -> Result<Vec<Duration>> {
        let until = Instant::now() + time;
        thread::scope(|scope| {
            let groups = nexts.iter_mut().zip(1..);
            let running: Vec<_> = groups
                .map(|(next, group)| scope.spawn(move || one(group, until, next)))
                .collect();
            let mut times = Vec::new();
            for thread in running {
                times.extend(thread.join().expect("no panic")?);
            }
            Ok(times)
        })
    };
    all(scale.time / 4)?;
    let mut meter = Meter::start(dir)?;
    let times = all(scale.time)?;
    let done = times.len() as u64;
    meter.took_all(times);
    rate(meter, done, ENTRY_BYTES)
}

pub fn tickets(
    log: &dyn Log,
    dir: &Path,
    scale: Scale,
    under_way: u64,
) -> Result<Option<Measured>> {
    write_before(log)?;
    let mut payloads = Payloads::new();
    let mut submit = |index| log.submit(&payloads.run(1, index, 1, ENTRY_BYTES));
    for index in 1..=under_way {
        if !submit(index)? {
            return Ok(None);
        }
    }
    let mut oldest = 1;
    // To time each would take as long as some appends: one of those that are under way is timed.
    let mut timed = None;
    let once = || -> Result<Option<Duration>> {
        log.wait_for_oldest()?;
        let (index, now) = (oldest + under_way, Instant::now);
        let took = timed.and_then(|(timed, since)| (timed == oldest).then(|| now() - since));
        if timed.is_none() || took.is_some() {
            timed = Some((index, now()));
        }
        submit(index)?;
        oldest += 1;
        Ok(took)
    };
    let (meter, times) = repeat(dir, scale, once)?;
    let measured = rate(meter, times, ENTRY_BYTES)?;
    for _ in 0..under_way {
        log.wait_for_oldest()?;
    }
    Ok(Some(measured))
}

pub fn bulk(log: &dyn Log, scale: Scale) -> Result<()> {
    log.expect_bytes(scale.bulk_bytes)?;
    write_unsynced(log, 1, scale.bulk_bytes)
}

/// The bulk, measured.
pub fn all(log: &dyn Log, dir: &Path, scale: Scale) -> Result<Measured> {
    log.expect_bytes(scale.bulk_bytes)?;
    let meter = Meter::start(dir)?;
    bulk(log, scale)?;
    let megabytes = scale.bulk_bytes as f64 / 1e6;
    meter.stop(scale.bulk_entries(), scale.bulk_bytes, |_, seconds| {
        megabytes / seconds
    })
}

/// The bytes for the device: twice as much as is kept is written before it is measured, and then four times as much.
pub fn recycle(log: &dyn Log, dir: &Path) -> Result<Measured> {
    const BATCH: usize = 64;
    let log = Keeping::of(log);
    let (mut payloads, mut next) = (Payloads::new(), 1);
    let mut write = |bytes: u64| -> Result<u64> {
        let first = next;
        while (next - first) * (ENTRY_BYTES as u64) < bytes {
            let run = payloads.run(1, next, BATCH, ENTRY_BYTES);
            next = run.last() + 1;
            log.append(&[run])?;
        }
        Ok(next - first)
    };
    write(2 * KEPT_BYTES)?;
    let meter = Meter::start(dir)?;
    let written = write(4 * KEPT_BYTES)?;
    let mut measured = rate(meter, written, ENTRY_BYTES)?;
    measured.value = measured.device_bytes.unwrap_or(0.0);
    Ok(measured)
}
