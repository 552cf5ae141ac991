//! What a piece of work takes: time, processor, memory, and bytes that the device is given.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::log::Result;

/// What one process has measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    /// In the workload's unit.
    pub value: f64,
    /// How long an operation takes, in microseconds, where each is measured.
    pub p50_micros: Option<f64>,
    pub p99_micros: Option<f64>,
    /// Time of the processor for each operation, in microseconds.
    pub cpu_micros: f64,
    /// Bytes that the device was given for each byte of payload, if anything was written.
    pub device_bytes: Option<f64>,
    /// The most memory that the process took, in MiB.
    pub peak_mib: f64,
}

/// Measures from now on.
pub struct Meter<'a> {
    dir: &'a Path,
    since: Instant,
    cpu: Duration,
    sectors: Option<u64>,
    /// In nanoseconds. What it takes is counted as the engine's memory.
    latencies: Vec<u32>,
}

impl Meter<'_> {
    pub fn start(dir: &Path) -> Result<Meter<'_>> {
        Ok(Meter {
            dir,
            cpu: cpu_time(),
            sectors: sectors_written(dir)?,
            latencies: Vec::new(),
            since: Instant::now(),
        })
    }

    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    pub fn took(&mut self, time: Duration) {
        let nanos = u32::try_from(time.as_nanos());
        self.latencies.push(nanos.unwrap_or(u32::MAX));
    }

    pub fn took_all(&mut self, times: Vec<Duration>) {
        times.into_iter().for_each(|time| self.took(time));
    }

    /// `operations` were done, with so many bytes of payload. `value` is made of their number and the seconds they took.
    pub fn stop(
        mut self,
        operations: u64,
        bytes: u64,
        value: impl FnOnce(f64, f64) -> f64,
    ) -> Result<Measured> {
        let seconds = self.since.elapsed().as_secs_f64();
        let cpu = (cpu_time() - self.cpu).as_secs_f64();
        let written = sectors_written(self.dir)?
            .zip(self.sectors)
            .map(|(now, before)| (now - before) * 512);
        self.latencies.sort_unstable();
        let quantile = |fraction: f64| {
            let at = (self.latencies.len() as f64 * fraction) as usize;
            Some(f64::from(*self.latencies.get(at)?) / 1e3)
        };
        Ok(Measured {
            value: value(operations as f64, seconds),
            p50_micros: quantile(0.5),
            p99_micros: quantile(0.99),
            cpu_micros: cpu * 1e6 / operations as f64,
            device_bytes: written
                .filter(|_| bytes > 0)
                .map(|written| written as f64 / bytes as f64),
            peak_mib: peak_mib()?,
        })
    }
}

/// How many writes of 4 KiB, each with its fdatasync, the disk does in a second: in a file that was written before.
pub fn syncs_per_second(dir: &Path) -> Result<f64> {
    const BYTES: usize = 4096;
    const TIMES: u64 = 256;
    let path = dir.join("syncs");
    let file = File::create_new(&path)?;
    file.write_all_at(&vec![0; BYTES * TIMES as usize], 0)?;
    file.sync_all()?;
    let since = Instant::now();
    for number in 0..TIMES {
        file.write_all_at(&[1; BYTES], number * BYTES as u64)?;
        file.sync_data()?;
    }
    let seconds = since.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(TIMES as f64 / seconds)
}

/// Of all threads of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn peak_mib() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.ok_or("no VmHWM")?.trim().parse::<f64>()? / 1024.0)
}

/// Of the block device below the directory, if there is one: what the kernel counts for a process may be whole folios of the page cache.
fn sectors_written(dir: &Path) -> Result<Option<u64>> {
    let device = rustix::fs::stat(dir)?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let Ok(stat) = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")) else {
        return Ok(None);
    };
    let sectors = stat
        .split_whitespace()
        .nth(6)
        .ok_or("no count of sectors")?;
    Ok(Some(sectors.parse()?))
}
