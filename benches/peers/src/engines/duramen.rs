//! Duramen's log.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use duramen_wal::{Batch, Entry, GroupId, Index, LogId, Options, Term, Ticket, Wal};

use crate::log::{Log, Result, Run};

struct Duramen {
    wal: Wal,
    /// Submitted and not waited for.
    tickets: Mutex<VecDeque<Ticket>>,
}

pub fn open(dir: &Path) -> Result<Box<dyn Log>> {
    with(dir, Options::default())
}

pub fn open_mapped(dir: &Path) -> Result<Box<dyn Log>> {
    let mut options = Options::default();
    options.map_sealed = true;
    with(dir, options)
}

fn with(dir: &Path, options: Options) -> Result<Box<dyn Log>> {
    let is_new = dir.read_dir()?.next().is_none();
    let wal = match is_new {
        true => Wal::create(dir, options)?,
        false => Wal::open(dir, options)?,
    };
    let tickets = Mutex::default();
    Ok(Box::new(Duramen { wal, tickets }))
}

fn add(batch: &mut Batch, run: &Run) {
    let entries = run.payloads.iter().zip(run.first..);
    let entries = entries.map(|(payload, index)| Entry {
        id: id(index),
        payload: payload.clone(),
        ..Entry::default()
    });
    batch.append(GroupId(run.group), entries);
}

fn batch(runs: &[Run]) -> Batch {
    let mut batch = Batch::new();
    runs.iter().for_each(|run| add(&mut batch, run));
    batch
}

fn id(index: u64) -> LogId {
    LogId {
        term: Term(1),
        index: Index(index),
    }
}

impl Log for Duramen {
    fn append(&self, runs: &[Run]) -> Result<()> {
        Ok(self.wal.write(batch(runs))?)
    }

    fn append_unsynced(&self, runs: &[Run]) -> Result<()> {
        let ticket = self.wal.submit(batch(runs))?;
        // What was submitted later is durable later: one ticket is enough.
        let mut tickets = self.tickets.lock().expect("no panic");
        tickets.clear();
        tickets.push_back(ticket);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.wait_for_oldest()
    }

    fn submit(&self, run: &Run) -> Result<bool> {
        let ticket = self.wal.submit(batch(std::slice::from_ref(run)))?;
        self.tickets.lock().expect("no panic").push_back(ticket);
        Ok(true)
    }

    fn wait_for_oldest(&self) -> Result<()> {
        let ticket = self.tickets.lock().expect("no panic").pop_front();
        Ok(ticket.map_or(Ok(()), Ticket::wait)?)
    }

    fn read(&self, group: u64, range: Range<u64>) -> Result<u64> {
        let range = Index(range.start)..Index(range.end);
        let entries = self.wal.entries(GroupId(group), range, u64::MAX)?;
        Ok(entries.iter().map(|entry| entry.payload.len() as u64).sum())
    }

    fn purge(&self, groups: &[(u64, u64)]) -> Result<()> {
        let mut batch = Batch::new();
        for &(group, last) in groups {
            batch.purge(GroupId(group), id(last));
        }
        drop(self.wal.submit(batch)?); // It goes with the next write.
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.wal.close()?)
    }
}
