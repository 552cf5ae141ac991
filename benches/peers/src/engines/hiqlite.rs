//! Hiqlite's log store for openraft. What it is told through openraft's traits goes to its writer as here; it is read through them only, so
//! reading is not compared.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use hiqlite_wal::{Action, LogStore, LogSync};
use openraft::declare_raft_types;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::log::{Log, Result, Run};

declare_raft_types!(
    pub Kinds: D = String, R = String, NodeId = u64, Node = openraft::BasicNode, Entry = openraft::Entry<Kinds>,
        SnapshotData = std::io::Cursor<Vec<u8>>, AsyncRuntime = openraft::TokioRuntime
);

const FILE_BYTES: u32 = 64 << 20;

struct Hiqlite {
    runtime: Runtime,
    store: LogStore<Kinds>,
    next: Mutex<u64>,
    /// Submitted and not waited for.
    submitted: Mutex<VecDeque<Receiver<io::Result<()>>>>,
}

pub fn open(dir: &Path) -> Result<Box<dyn Log>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()?;
    let dir = dir.to_str().ok_or("a directory without a name")?.to_owned();
    let store = runtime.block_on(LogStore::<Kinds>::start(
        dir,
        LogSync::Immediate,
        FILE_BYTES,
    ))?;
    Ok(Box::new(Hiqlite {
        runtime,
        store,
        next: Mutex::new(1),
        submitted: Mutex::default(),
    }))
}

impl Hiqlite {
    /// Appends to the one group that there is, whoever's entries they are. It is told when they are durable.
    fn put(&self, runs: &[Run]) -> Result<Receiver<io::Result<()>>> {
        let [run] = runs else {
            return Err("it has one group".into());
        };
        let (sender, entries) = flume::unbounded();
        let (durable, is_durable) = channel();
        let (ack, _acked) = oneshot::channel();
        let callback = Box::new(move |flushed| drop(durable.send(flushed)));
        let mut next = self.next.lock().expect("no panic");
        for payload in &run.payloads {
            sender.send(Some((*next, payload.to_vec())))?;
            *next += 1;
        }
        sender.send(None)?;
        let append = Action::Append {
            rx: entries,
            callback,
            ack,
        };
        let sent = self.store.writer.send(append);
        sent.map_err(|_| "its writer has ended")?;
        Ok(is_durable)
    }
}

impl Log for Hiqlite {
    fn append(&self, runs: &[Run]) -> Result<()> {
        Ok(self.put(runs)?.recv()??)
    }

    /// It cannot wait with the sync.
    fn append_unsynced(&self, runs: &[Run]) -> Result<()> {
        self.append(runs)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn submit(&self, run: &Run) -> Result<bool> {
        let is_durable = self.put(std::slice::from_ref(run))?;
        self.submitted
            .lock()
            .expect("no panic")
            .push_back(is_durable);
        Ok(true)
    }

    fn wait_for_oldest(&self) -> Result<()> {
        let oldest = self.submitted.lock().expect("no panic").pop_front();
        Ok(oldest.ok_or("nothing was submitted")?.recv()??)
    }

    fn read(&self, _: u64, _: Range<u64>) -> Result<u64> {
        Err("it is read through openraft only".into())
    }

    fn purge(&self, _: &[(u64, u64)]) -> Result<()> {
        Err("it is purged through openraft only".into())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.runtime.block_on(self.store.stop())?)
    }
}
