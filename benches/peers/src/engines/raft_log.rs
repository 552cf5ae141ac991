//! Databend's log: one group, an index in memory, a thread that syncs.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fmt, io};

use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::{Config, RaftLog, Types};

use crate::log::{Log, Result, Run};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Kinds;

impl Types for Kinds {
    type LogId = (u64, u64);
    type LogPayload = Payload;
    type Vote = (u64, u64);
    type UserData = String;
    type Callback = SyncSender<io::Result<()>>;

    fn log_index(log_id: &(u64, u64)) -> u64 {
        log_id.1
    }

    fn payload_size(payload: &Payload) -> u64 {
        payload.0.len() as u64
    }
}

/// Shared in memory; on disk a length and bytes.
#[derive(Clone, PartialEq, Eq)]
struct Payload(bytes::Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl codeq::Encode for Payload {
    fn encode<W: io::Write>(&self, mut to: W) -> io::Result<usize> {
        to.write_all(&(self.0.len() as u32).to_be_bytes())?;
        to.write_all(&self.0)?;
        Ok(4 + self.0.len())
    }
}

impl codeq::Decode for Payload {
    fn decode<R: io::Read>(mut from: R) -> io::Result<Payload> {
        let mut len = [0; 4];
        from.read_exact(&mut len)?;
        let mut bytes = vec![0; u32::from_be_bytes(len) as usize];
        from.read_exact(&mut bytes)?;
        Ok(Payload(bytes.into()))
    }
}

struct OneGroup {
    inner: Mutex<Inner>,
    /// Submitted and not waited for.
    submitted: Mutex<VecDeque<Receiver<io::Result<()>>>>,
}

struct Inner {
    log: RaftLog<Kinds>,
    next: u64,
}

pub fn open(dir: &Path) -> Result<Box<dyn Log>> {
    let mut config = Config::new(dir.to_str().ok_or("a directory without a name")?);
    // So long that it takes what waits: with none at all each append would have a sync of its own.
    config.wal.flush_batch_wait = Some(Duration::from_micros(20));
    let log = RaftLog::<Kinds>::open(Arc::new(config))?;
    let next = Kinds::next_log_index(log.log_state().last()).max(1);
    Ok(Box::new(OneGroup {
        inner: Mutex::new(Inner { log, next }),
        submitted: Mutex::default(),
    }))
}

impl OneGroup {
    /// Appends to the one group that there is, whoever's entries they are.
    fn put(&self, runs: &[Run], callback: Option<SyncSender<io::Result<()>>>) -> Result<()> {
        let [run] = runs else {
            return Err("it has one group".into());
        };
        let mut inner = self.inner.lock().expect("no panic");
        let first = inner.next;
        inner.next += run.payloads.len() as u64;
        let entries = run.payloads.iter().zip(first..);
        let entries = entries.map(|(payload, index)| ((1, index), Payload(payload.clone())));
        inner.log.append(entries.collect::<Vec<_>>())?;
        if callback.is_some() {
            inner.log.flush(true, callback)?;
        }
        Ok(())
    }
}

impl Log for OneGroup {
    fn append(&self, runs: &[Run]) -> Result<()> {
        let (sender, done) = sync_channel(1);
        self.put(runs, Some(sender))?;
        Ok(done.recv()??)
    }

    fn append_unsynced(&self, runs: &[Run]) -> Result<()> {
        self.put(runs, None)
    }

    fn sync(&self) -> Result<()> {
        let (sender, done) = sync_channel(1);
        self.inner
            .lock()
            .expect("no panic")
            .log
            .flush(true, Some(sender))?;
        Ok(done.recv()??)
    }

    fn submit(&self, run: &Run) -> Result<bool> {
        let (sender, done) = sync_channel(1);
        self.put(std::slice::from_ref(run), Some(sender))?;
        self.submitted.lock().expect("no panic").push_back(done);
        Ok(true)
    }

    fn wait_for_oldest(&self) -> Result<()> {
        let oldest = self.submitted.lock().expect("no panic").pop_front();
        Ok(oldest.ok_or("nothing was submitted")?.recv()??)
    }

    fn read(&self, _: u64, range: Range<u64>) -> Result<u64> {
        let inner = self.inner.lock().expect("no panic");
        let mut bytes = 0;
        for entry in inner.log.read(range.start, range.end) {
            let (_, payload) = entry?;
            bytes += payload.0.len() as u64;
        }
        Ok(bytes)
    }

    fn purge(&self, groups: &[(u64, u64)]) -> Result<()> {
        for &(_, last) in groups {
            self.inner.lock().expect("no panic").log.purge((1, last))?;
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
