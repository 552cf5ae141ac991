//! A log of which only the newest part is kept, as a Raft that takes snapshots keeps its log.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use crate::log::{Log, Result, Run};

/// How much is kept, in bytes of payload.
pub const KEPT_BYTES: u64 = 128 << 20;
/// What is kept is so many pieces: the oldest one is purged when another one was written.
const PIECES: usize = 16;

/// Purges what is old as more is written.
pub struct Keeping<'a> {
    log: &'a dyn Log,
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    /// The last index of each group that the newest piece has, and its bytes.
    lasts: HashMap<u64, u64>,
    bytes: u64,
    /// Of the pieces before, the oldest first.
    pieces: VecDeque<HashMap<u64, u64>>,
}

impl<'a> Keeping<'a> {
    pub fn of(log: &'a dyn Log) -> Keeping<'a> {
        let written = Mutex::default();
        Keeping { log, written }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().expect("no panic")
    }

    fn wrote(&self, runs: &[Run]) -> Result<()> {
        let mut written = self.written();
        for run in runs {
            written.lasts.insert(run.group, run.last());
            written.bytes += run.payloads.iter().map(|p| p.len() as u64).sum::<u64>();
        }
        if written.bytes < KEPT_BYTES / PIECES as u64 {
            return Ok(());
        }
        written.bytes = 0;
        let piece = std::mem::take(&mut written.lasts);
        written.pieces.push_back(piece);
        if written.pieces.len() <= PIECES {
            return Ok(());
        }
        let oldest = written.pieces.pop_front().into_iter().flatten();
        self.log.purge(&oldest.collect::<Vec<_>>())
    }
}

impl Log for Keeping<'_> {
    fn append(&self, runs: &[Run]) -> Result<()> {
        self.log.append(runs)?;
        self.wrote(runs)
    }

    fn append_unsynced(&self, runs: &[Run]) -> Result<()> {
        self.log.append_unsynced(runs)?;
        self.wrote(runs)
    }

    fn sync(&self) -> Result<()> {
        self.log.sync()
    }

    fn submit(&self, run: &Run) -> Result<bool> {
        let can = self.log.submit(run)?;
        self.wrote(std::slice::from_ref(run))?;
        Ok(can)
    }

    fn wait_for_oldest(&self) -> Result<()> {
        self.log.wait_for_oldest()
    }

    fn read(&self, group: u64, range: Range<u64>) -> Result<u64> {
        self.log.read(group, range)
    }

    fn purge(&self, groups: &[(u64, u64)]) -> Result<()> {
        self.log.purge(groups)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
