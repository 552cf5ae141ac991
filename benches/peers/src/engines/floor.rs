//! No engine: what the disk and the kernel take for the payloads alone.
//!
//! Nothing but payloads is written, without ids and checksums, and they can be read because all have one length.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::log::{Log, Result, Run};

/// What an entry of the log has that another process reads: this remembers nothing.
pub const ENTRY_BYTES: u64 = 1024;

/// A file is begun anew after so many bytes, if not more are expected.
const FILE_BYTES: u64 = 256 << 20;

struct Floor {
    file: File,
    is_prewritten: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What is to be written next.
    buffer: Vec<u8>,
    /// The buffer that is being written, and is used again.
    spare: Vec<u8>,
    end: u64,
    /// How long it was written before.
    file_bytes: u64,
    submitted: u64,
    durable: u64,
    is_writing: bool,
    /// The numbers of what was submitted and not waited for, the oldest first.
    tickets: VecDeque<u64>,
}

pub fn open_prewritten(dir: &Path) -> Result<Box<dyn Log>> {
    open(dir, true)
}

pub fn open_growing(dir: &Path) -> Result<Box<dyn Log>> {
    open(dir, false)
}

fn open(dir: &Path, prewrites: bool) -> Result<Box<dyn Log>> {
    let path = dir.join("floor");
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)?;
    let floor = Floor {
        file,
        is_prewritten: prewrites,
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    floor.state().file_bytes = floor.file.metadata()?.len();
    floor.expect_bytes(FILE_BYTES)?;
    Ok(Box::new(floor))
}

impl Floor {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// Puts payloads into the buffer. Gives the number that must be durable.
    fn put(&self, state: &mut State, runs: &[Run]) -> u64 {
        for payload in runs.iter().flat_map(|run| &run.payloads) {
            state.buffer.extend_from_slice(payload);
        }
        state.submitted += 1;
        state.submitted
    }

    /// Whoever comes first writes for all who have come until then.
    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        number: u64,
        syncs: bool,
    ) -> Result<()> {
        while state.durable < number {
            if state.is_writing {
                state = self.changed.wait(state).expect("no panic");
                continue;
            }
            state.is_writing = true;
            let spare = std::mem::take(&mut state.spare);
            let buffer = std::mem::replace(&mut state.buffer, spare);
            let (submitted, mut at) = (state.submitted, state.end);
            if self.is_prewritten && at + buffer.len() as u64 > state.file_bytes {
                at = 0; // What stood there is not read any more.
            }
            state.end = at + buffer.len() as u64;
            drop(state);
            self.file.write_all_at(&buffer, at)?;
            if syncs {
                self.file.sync_data()?;
            }
            state = self.state();
            state.spare = buffer;
            state.spare.clear();
            state.durable = submitted;
            state.is_writing = false;
            self.changed.notify_all();
        }
        Ok(())
    }
}

impl Log for Floor {
    fn expect_bytes(&self, bytes: u64) -> Result<()> {
        let state = &mut *self.state();
        let zeros = vec![0; 1 << 20];
        while self.is_prewritten && state.file_bytes < bytes {
            self.file.write_all_at(&zeros, state.file_bytes)?;
            state.file_bytes += zeros.len() as u64;
        }
        Ok(self.file.sync_all()?)
    }

    fn append(&self, runs: &[Run]) -> Result<()> {
        let mut state = self.state();
        let number = self.put(&mut state, runs);
        self.wait(state, number, true)
    }

    fn append_unsynced(&self, runs: &[Run]) -> Result<()> {
        let mut state = self.state();
        let number = self.put(&mut state, runs);
        self.wait(state, number, false)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.file.sync_data()?)
    }

    fn submit(&self, run: &Run) -> Result<bool> {
        let mut state = self.state();
        let number = self.put(&mut state, std::slice::from_ref(run));
        state.tickets.push_back(number);
        Ok(true)
    }

    fn wait_for_oldest(&self) -> Result<()> {
        let mut state = self.state();
        let number = state.tickets.pop_front().ok_or("nothing was submitted")?;
        self.wait(state, number, true)
    }

    fn read(&self, group: u64, range: Range<u64>) -> Result<u64> {
        let _ = group;
        let len = (range.end - range.start) * ENTRY_BYTES;
        let mut buffer = vec![0; len as usize];
        self.file
            .read_exact_at(&mut buffer, (range.start - 1) * ENTRY_BYTES)?;
        Ok(buffer.len() as u64)
    }

    fn purge(&self, _: &[(u64, u64)]) -> Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Reads all of a file from front to back and checks it as a recovery does: the limit of opening a log that nothing indexes.
pub fn recover(dir: &Path) -> Result<u32> {
    let file = File::open(dir.join("floor"))?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(hasher.finalize()),
            n => {
                hasher.update(&buffer[..n]);
                at += n as u64;
            }
        }
    }
}
