//! What is written, and what became of it.

use std::sync::{Mutex, PoisonError};

use duramen_wal::{Batch, Entry, Index, LogId};

use super::identity::Record;
use super::restore::last_of;
use super::{Error, GROUP, Storage};
use crate::boot::Boot;
use crate::canary::planted;
use crate::raft::{Membership, Write, WriteId, is_command};

/// What became of the writes, as the log's threads say.
#[derive(Default)]
pub(super) struct Completions {
    state: Mutex<Completed>,
}

#[derive(Default)]
struct Completed {
    /// The latest durable write, since this was looked at.
    latest: Option<WriteId>,
    failure: Option<duramen_wal::Error>,
    wake: Option<Box<dyn Fn() + Send>>,
}

/// The default of what goes into one batch. Smaller logs take less.
pub(super) const BATCH_BYTES: u64 = 8 << 20;
/// What an entry takes beside its payload, at the most.
const ENTRY_OVERHEAD_BYTES: usize = 128;
/// And a batch, with a vote in it.
const BATCH_OVERHEAD_BYTES: u64 = 16 << 10;

impl Storage {
    /// Calls `wake`, on a thread of the log, whenever [`completed`](Storage::completed) has something new to say.
    pub fn wake_with(&mut self, wake: impl Fn() + Send + 'static) {
        self.completions.lock().wake = Some(Box::new(wake));
    }

    /// Begins to write what the core asks for.
    ///
    /// Term and vote go first, with the first entries: no entry is ever durable before the term it was received in.
    ///
    /// # Errors
    /// If [`is_full`](Error::is_full), the write is to be taken for one that was never submitted, but that term and vote may be on
    /// the disk, and what its entries were to replace may be gone. Otherwise nothing is known of it.
    pub fn submit(&mut self, write: &Write) -> Result<(), Error> {
        let record = self.record.clone();
        let submitted = self.submit_batches(write);
        if submitted.is_err() {
            let is_held = |id: LogId| self.wal.term(GROUP, id.index) == Some(id.term);
            match write.entries.first().filter(|first| is_held(first.id)) {
                None => self.record = record,
                Some(first) => self.take_back(first.id.index)?, // The first of several batches was taken.
            }
            let bytes = |entry: &Entry| entry.payload.len() + ENTRY_OVERHEAD_BYTES;
            let all: usize = write.entries.iter().map(bytes).sum();
            let largest = write.entries.iter().map(bytes).max().unwrap_or(0);
            let batch = all.min(self.batch_bytes.max(largest));
            self.refused_bytes = batch as u64 + BATCH_OVERHEAD_BYTES;
        }
        submitted
    }

    /// The entries from this one on are not to be in the log, nor in the record. If there is no space for that either, those that are
    /// written next take their place.
    fn take_back(&mut self, from: Index) -> Result<(), Error> {
        self.record.truncated(from);
        let mut batch = Batch::new();
        batch.truncate(GROUP, from.prev());
        self.submit_record_with(batch).or_else(|error| match error {
            error if error.is_full() => Ok(()),
            error => Err(error),
        })
    }

    fn submit_batches(&mut self, write: &Write) -> Result<(), Error> {
        self.is_idle = false;
        for entry in &write.repairs {
            self.wal.repair(GROUP, entry.clone())?;
        }
        let mut batch = Batch::new();
        if let Some(mut hard_state) = write.hard_state {
            if planted("term_without_vote") {
                hard_state.voted_for = None;
            }
            batch.hard_state(GROUP, hard_state);
        }
        let mut is_record_new = self.is_record_new;
        if let Some(last) = write.reset {
            is_record_new |= self.put_reset(&mut batch, last);
        }
        is_record_new |= self.record.appended(&write.entries);
        let purged = self.wal.purged(GROUP).index;
        if let Some(last) = write.purge.filter(|last| last.index > purged) {
            batch.purge(GROUP, last);
            is_record_new |= self.record.purged(last.index);
        }
        if is_record_new {
            put_record(&mut batch, &self.record);
        }
        if !write.entries.iter().any(is_command) {
            batch.vital(); // Also if the record is in it.
        }
        let batch = self.put_entries(batch, &write.entries)?;
        let ticket = self.wal.submit(batch)?;
        self.is_record_new = false;
        let (completions, id) = (self.completions.clone(), write.id);
        ticket.on_durable(move |outcome| completions.put(id, outcome));
        Ok(())
    }

    /// Adds entries to a batch. If they are many it is submitted, and what is left over comes in another one.
    fn put_entries(&self, mut batch: Batch, entries: &[Entry]) -> Result<Batch, Error> {
        let mut bytes = 0;
        for entry in entries {
            let more = entry.payload.len() + ENTRY_OVERHEAD_BYTES;
            if bytes > 0 && bytes + more > self.batch_bytes {
                drop(self.wal.submit(std::mem::take(&mut batch))?);
                bytes = 0;
            }
            bytes += more;
            if !is_command(entry) {
                batch.vital(); // Without it the group cannot go on, not even on a full disk.
            }
            batch.append(GROUP, [entry.clone()]);
        }
        Ok(batch)
    }

    /// Whether there is space again, for a batch as large as the one that was refused. If so, what could not be written of the
    /// record is.
    ///
    /// # Errors
    /// Those of [`submit`](Storage::submit), but for a full disk.
    pub fn has_space(&mut self) -> Result<bool, Error> {
        let mut found = self
            .wal
            .look_for_space(self.refused_bytes)
            .map_err(Error::from);
        if found.is_ok() && self.is_record_new {
            found = self.submit_record();
        }
        match found {
            Err(error) if error.is_full() => Ok(false),
            found => found.map(|()| true),
        }
    }

    /// Lets a batch take everything out of the log: a snapshot stands for all up to `last`. Says whether the record has changed.
    pub(super) fn put_reset(&mut self, batch: &mut Batch, last: LogId) -> bool {
        if !planted("install_keeps_the_tail") {
            batch.truncate(GROUP, self.wal.purged(GROUP).index); // all
        }
        batch.purge(GROUP, last);
        let mut snapshots = self.snapshots.list().into_iter().rev();
        let Some(snapshot) = snapshots.find(|snapshot| last_of(snapshot) == last) else {
            return false;
        };
        self.record
            .reset(last, &snapshot.manifest.meta().membership);
        true
    }

    /// The latest write that became durable since this was asked. All before it are durable too.
    ///
    /// # Errors
    /// A write failed: the node must stop.
    pub fn completed(&mut self) -> Result<Option<WriteId>, Error> {
        let mut state = self.completions.lock();
        match state.failure.take() {
            Some(failure) => Err(failure.into()),
            None => Ok(state.latest.take()),
        }
    }

    /// Whether this is the entry that was written with this id, as far as its length and checksum say: its payload may be lost. What
    /// cannot be compared, since that cannot be read either, is none.
    pub fn is_true_content(&self, entry: &Entry) -> bool {
        let outcome = self.wal.is_entry(GROUP, entry);
        outcome.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot compare an entry with what was written");
            false
        })
    }

    /// A durable snapshot stands for the log up to `last`: it may go. Nothing, if it has gone already.
    ///
    /// # Errors
    /// If [`is_full`](Error::is_full), nothing has happened. Otherwise see [`submit`](Storage::submit).
    pub fn purge(&mut self, last: LogId) -> Result<(), Error> {
        let is_held = self.wal.term(GROUP, last.index) == Some(last.term);
        if last.index <= self.wal.purged(GROUP).index || !is_held {
            return Ok(()); // It has gone, or the write that resets the log is to come.
        }
        let record = self.record.clone();
        let mut batch = Batch::new();
        batch.purge(GROUP, last);
        if self.record.purged(last.index) {
            put_record(&mut batch, &self.record);
        }
        let submitted = self.submit_unwatched(batch);
        if submitted.is_err() {
            self.record = record; // The log begins where it did.
        }
        submitted
    }

    /// How the node of this uuid had started when it was met last.
    pub fn met(&self, peer: u128) -> Option<Boot> {
        self.record.met(peer)
    }

    /// At which of this node's own starts it met the node of this uuid last.
    pub fn met_at(&self, peer: u128) -> Option<u64> {
        self.record.met_at(peer)
    }

    /// What others say of how the node of this uuid had started, if that is not what was met, nor earlier.
    pub fn heard(&self, peer: u128) -> Option<Boot> {
        self.record.heard(peer)
    }

    /// The last start of the node of this uuid that is known, met or heard of.
    pub fn known_boot(&self, peer: u128) -> Option<Boot> {
        self.record.known_boot(peer)
    }

    /// The node of this uuid was met, had started so, and does not contradict what was heard of it. It is durable with the next
    /// write: no entry is durable here, that it may have helped to commit, before this is.
    ///
    /// # Errors
    /// Those of [`submit`](Storage::submit).
    pub fn meet(&mut self, peer: u128, boot: Boot) -> Result<(), Error> {
        match self.record.meet(peer, boot) {
            true => self.submit_record(),
            false => Ok(()),
        }
    }

    /// Others say that the node of this uuid has started so. Says whether that is news. It is durable with the next write; lost before,
    /// they say it again.
    ///
    /// # Errors
    /// Those of [`submit`](Storage::submit).
    pub fn hear(&mut self, peer: u128, boot: Boot) -> Result<bool, Error> {
        let is_news = self.record.hear(peer, boot);
        if is_news {
            self.submit_record()?;
        }
        Ok(is_news)
    }

    /// Who belongs to the cluster at the beginning of the log, with what is known of each. No later write is durable before this is.
    ///
    /// # Errors
    /// Those of [`submit`](Storage::submit).
    pub fn begin_with(&mut self, membership: &Membership) -> Result<(), Error> {
        self.record.reset(LogId::default(), &membership.encode());
        self.submit_record()
    }

    /// If there is no space, the record comes with the next write.
    fn submit_record(&mut self) -> Result<(), Error> {
        self.submit_record_with(Batch::new())
    }

    fn submit_record_with(&mut self, mut batch: Batch) -> Result<(), Error> {
        put_record(&mut batch, &self.record);
        self.is_record_new = true;
        self.submit_unwatched(batch)?;
        self.is_record_new = false;
        Ok(())
    }

    /// Submits a batch that nobody waits for. All of them are vital.
    fn submit_unwatched(&mut self, mut batch: Batch) -> Result<(), Error> {
        self.is_idle = false;
        drop(self.wal.submit(std::mem::take(batch.vital()))?);
        Ok(())
    }

    /// Whether something is on its way to the disk, as far as [`drive`](Storage::drive) knows.
    pub fn is_writing(&self) -> bool {
        !self.is_idle
    }

    /// Writes what was submitted, on this thread: for a log without threads, see
    /// [`manual_drive`](duramen_wal::Options::manual_drive).
    ///
    /// # Errors
    /// A write failed: the node must stop.
    pub fn drive(&mut self) -> Result<(), Error> {
        self.is_idle = true;
        Ok(self.wal.drive()?)
    }
}

impl Completions {
    fn lock(&self) -> std::sync::MutexGuard<'_, Completed> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, id: WriteId, outcome: duramen_wal::Result<()>) {
        let mut state = self.lock();
        match outcome {
            Ok(()) => state.latest = Some(id),
            Err(failure) => state.failure = Some(failure),
        }
        if let Some(wake) = &state.wake {
            wake();
        }
    }
}

/// A record is written on a full disk too: without it a node cannot even start.
pub(super) fn put_record(batch: &mut Batch, record: &Record) {
    batch.user_record(GROUP, record.encode()).vital();
}
