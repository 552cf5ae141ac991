//! Group commit: batches queue while one write is under way, and the next write takes them all.
//!
//! A batch is checked and takes effect in memory when it is submitted, in the order of submission. Whoever waits for a
//! ticket first writes the queue, on its own thread; others wait for it. If nobody waits, a thread of the log writes.
//!
//! # Invariants
//!
//! * `submitted - durable` batches are in the queue or under way, in order; tickets complete in order.
//! * A batch that was taken has its space reserved. Only a failure of the disk can fail it.
//! * Only one thread at a time writes (`is_writing`), and one calls back (`is_calling`), without the lock: callbacks may use
//!   the log.
//! * After the first failure (`poison`) nothing is written any more, and what was not durable is forgotten.

mod background;
mod space;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use duramen_disk::Disk;

use crate::Options;
use crate::batch::Batch;
use crate::canary::planted;
use crate::error::{Error, Result};
use crate::groups::{Groups, Source, Sources};
use crate::record::Record;
use crate::segment::{Segment, Spare, segment_bytes};
use crate::writer::{Batches, Queued, Writer, Written};
use background::IdleMark;
use space::Space;

pub(crate) struct Pipeline {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    shared: Mutex<Shared>,
    /// Told when a write has completed.
    changed: Condvar,
    /// Told when there is something to do for the log's thread: to write what nobody waits for, or to mark an idle log.
    work: Condvar,
    /// Told when the next segment is to be prepared.
    space_wanted: Condvar,
    /// Held by whoever writes. Whoever holds `shared` does not wait for it.
    writer: Mutex<Writer>,
}

/// What all threads see.
pub(crate) struct Shared {
    pub(crate) groups: Groups,
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    /// The payloads that are not written yet; the first one has the number `first_pending`.
    pending: VecDeque<Bytes>,
    first_pending: u64,
    queue: VecDeque<Queued>,
    /// How many batches were submitted, and how many of them are durable.
    submitted: u64,
    durable: u64,
    is_writing: bool,
    /// Nobody waits for some of what is queued.
    is_unattended: bool,
    mark: IdleMark,
    callbacks: BTreeMap<u64, Vec<Callback>>,
    /// Callbacks of batches that are decided, in order, and whether a thread is calling one.
    due: VecDeque<(Callback, Result<()>)>,
    is_calling: bool,
    poison: Option<Arc<Error>>,
    space: Space,
    /// The oldest segments below this one are dead as soon as so many batches are durable.
    dead: Option<(u64, u64)>,
    oldest: u64,
    stop: bool,
}

/// Told once what became of a batch.
pub(crate) type Callback = Box<dyn FnOnce(Result<()>) + Send>;

const NO_PANIC: &str = "nobody panics while holding the lock";

/// One write takes so much at the most, so that those who wait for its first batch do not wait for all.
const WRITE_SPACE: u64 = 8 << 20;

impl Pipeline {
    pub(crate) fn new(
        writer: Writer,
        spare: Option<Spare>,
        groups: Groups,
        segments: BTreeMap<u64, Arc<Segment>>,
        options: Options,
    ) -> Pipeline {
        let shared = Shared {
            groups,
            segments,
            pending: VecDeque::new(),
            first_pending: 0,
            queue: VecDeque::new(),
            submitted: 0,
            durable: 0,
            is_writing: false,
            is_unattended: false,
            mark: IdleMark::default(),
            callbacks: BTreeMap::new(),
            due: VecDeque::new(),
            is_calling: false,
            poison: None,
            space: Space {
                taken: 0,
                segment_bytes: writer.segment.header.file_bytes,
                room: writer.room(),
                states: writer.states.space(),
                spares_made: spare.as_ref().map_or(0, Spare::number),
                spare,
                gave_up: false,
            },
            dead: None,
            oldest: writer.control.oldest,
            stop: false,
        };
        Pipeline {
            disk: writer.disk.clone(),
            dir: writer.dir.clone(),
            options,
            shared: Mutex::new(shared),
            changed: Condvar::new(),
            work: Condvar::new(),
            space_wanted: Condvar::new(),
            writer: Mutex::new(writer),
        }
    }

    pub(crate) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect(NO_PANIC)
    }

    /// Takes a batch. Gives its number, for [`wait`](Pipeline::wait). Waits as long as too much is under way.
    pub(crate) fn submit(&self, batch: Batch) -> Result<u64> {
        let mut shared = self.shared();
        loop {
            if !planted("poison_forgotten") {
                shared.check_poison()?;
            }
            if batch.is_empty() {
                return Ok(shared.submitted);
            }
            // The check is of the state at this moment, so it is made again after each wait.
            let space = self.space_of(&batch)?;
            if shared.space.taken == 0
                || shared.space.taken + space.total() <= self.options.in_flight_bytes_max
            {
                let is_vital = batch.is_vital();
                let queued = shared.take_in(batch, space.total())?;
                if let Err(full) = self.reserve(&mut shared.space, space.total(), is_vital) {
                    shared.groups.take_all_back(queued.before);
                    return Err(full);
                }
                shared.queue(queued);
                return Ok(shared.submitted);
            }
            shared = self.write_or_wait(shared);
        }
    }

    /// Waits until batch `number` is durable; writes the queue if nobody else does.
    pub(crate) fn wait(&self, number: u64) -> Result<()> {
        let mut shared = self.shared();
        loop {
            if shared.durable >= number {
                return Ok(());
            }
            shared.check_poison()?;
            shared = self.write_or_wait(shared);
        }
    }

    fn write_or_wait<'a>(&'a self, shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        match shared.is_writing {
            true => self.changed.wait(shared).expect(NO_PANIC),
            false => self.write_queue(shared),
        }
    }

    /// Calls `callback` when batch `number` is durable or has failed: at once, or on a thread that writes.
    pub(crate) fn when_durable(&self, number: u64, callback: Callback) {
        let mut shared = self.shared();
        match shared.outcome(number) {
            Some(outcome) => {
                shared.due.push_back((callback, outcome));
                drop(self.call_back(shared));
            }
            None => shared.callbacks.entry(number).or_default().push(callback),
        }
    }

    /// What became of batch `number`, once it is decided.
    pub(crate) fn outcome(&self, number: u64) -> Option<Result<()>> {
        self.shared().outcome(number)
    }

    /// Whether batch `number` is durable.
    pub(crate) fn is_durable(&self, number: u64) -> bool {
        self.shared().durable >= number
    }

    /// Writes all that was submitted so far.
    pub(crate) fn flush(&self) -> Result<()> {
        let submitted = self.shared().submitted;
        self.wait(submitted)
    }

    /// Writes all that was submitted, and CONTROL: the log is being closed.
    pub(crate) fn close(&self) -> Result<()> {
        self.flush()?;
        let mut shared = self.shared();
        while shared.is_writing {
            shared = self.changed.wait(shared).expect(NO_PANIC);
        }
        shared.check_poison()?; // CONTROL may be what failed.
        match &self.write_mark(shared).poison {
            None => Ok(()),
            Some(cause) => Err(Error::clone(cause)),
        }
    }

    /// Writes one write's worth of the queue. Nobody else is writing.
    fn write_queue<'a>(&'a self, mut shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        let batches = shared.take_from_queue();
        shared.is_writing = true;
        drop(shared);
        let mut writer = self.writer.lock().expect(NO_PANIC);
        let outcome = writer.write(&batches, || self.next_spare());
        let mut shared = self.shared();
        match outcome {
            Ok(written) => {
                shared.complete(&batches, &written, &writer);
                if let Some(freed) = shared.freed() {
                    shared = self.free(shared, &mut writer, freed);
                }
            }
            Err(error) => shared.poison(error, batches),
        }
        drop(writer);
        self.end_write(shared)
    }

    /// Gives the space of dead segments back, or to the next segment.
    fn free<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
        writer: &mut Writer,
        dead: Vec<Arc<Segment>>,
    ) -> MutexGuard<'a, Shared> {
        let wanted = self.options.recycle && shared.space.spare.is_none();
        let file_bytes = segment_bytes(self.options.segment_bytes, shared.space.states);
        let recycle = wanted.then(|| (shared.space.next_number(), file_bytes));
        drop(shared);
        let freed = writer.free(dead, recycle);
        let mut shared = self.shared();
        match freed {
            Ok(Some(spare)) => self.offer_spare(&mut shared, spare),
            Ok(None) => {}
            Err(error) => shared.poison(error, Vec::new()),
        }
        shared
    }

    /// Lets the next write begin, and tells everybody what became of this one.
    fn end_write<'a>(&'a self, mut shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        shared.is_writing = false;
        self.changed.notify_all();
        if shared.has_work() {
            self.work.notify_one();
        }
        if shared.space.wants_spare() {
            self.space_wanted.notify_one();
        }
        shared.find_due();
        self.call_back(shared)
    }

    /// Calls what is due, without the lock. One thread at a time does, so that the order is kept; what becomes due
    /// meanwhile, be it through the callbacks themselves, it calls too.
    fn call_back<'a>(&'a self, mut shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        if shared.is_calling {
            return shared;
        }
        while let Some((callback, outcome)) = shared.due.pop_front() {
            shared.is_calling = true;
            drop(shared);
            // The log's thread has others to call. The panic has been told on standard error.
            let called = catch_unwind(AssertUnwindSafe(|| callback(outcome)));
            if called.is_err() {
                tracing::error!("a callback panicked");
            }
            shared = self.shared();
            shared.is_calling = false;
        }
        shared
    }
}

impl Shared {
    pub(crate) fn check_poison(&self) -> Result<()> {
        match &self.poison {
            None => Ok(()),
            Some(cause) => Err(Error::Poisoned {
                cause: cause.clone(),
            }),
        }
    }

    fn outcome(&self, number: u64) -> Option<Result<()>> {
        match self.durable >= number {
            true => Some(Ok(())),
            false => self.check_poison().err().map(Err),
        }
    }

    /// A payload that is not written yet.
    pub(crate) fn pending(&self, number: u64) -> Bytes {
        let at = number
            .checked_sub(self.first_pending)
            .expect("a pending payload is in memory");
        self.pending[at as usize].clone()
    }

    /// The log takes no more writes. Nothing of what was to be written, with `failed` first, counts any more.
    fn poison(&mut self, error: Error, failed: Vec<Queued>) {
        tracing::error!(%error, "the log takes no more writes");
        self.poison.get_or_insert(Arc::new(error));
        let batches = failed.into_iter().chain(self.queue.drain(..));
        let before = batches.flat_map(|batch| batch.before).collect();
        self.groups.take_all_back(before);
        self.pending.clear();
    }

    /// Lets a batch take effect. One that breaks a rule has none.
    fn take_in(&mut self, batch: Batch, space: u64) -> Result<Queued> {
        let mut queued = Queued {
            records: batch.records,
            payloads: batch.payloads,
            number: self.first_pending + self.pending.len() as u64,
            changes_vote: batch.changes_vote,
            space,
            before: Vec::new(),
        };
        let mut sources = Sources(Source::Pending {
            number: queued.number,
        });
        queued.before.reserve(queued.records.len());
        for record in &mut queued.records {
            match self.groups.take_in(record, &mut sources) {
                Ok(before) => queued.before.extend(before),
                Err(misuse) => {
                    self.groups.take_all_back(queued.before);
                    return Err(Error::misuse(record.group().unwrap_or_default(), misuse));
                }
            }
        }
        Ok(queued)
    }

    fn queue(&mut self, queued: Queued) {
        self.pending.extend(queued.payloads.iter().cloned());
        self.space.taken += queued.space;
        self.submitted += 1;
        self.queue.push_back(queued);
    }

    /// A batch that changes a vote begins a write: all before it is durable then.
    fn take_from_queue(&mut self) -> Vec<Queued> {
        let mut space = 0;
        let mut count = 0;
        for batch in &self.queue {
            space += batch.space;
            if count > 0 && (batch.changes_vote || space > WRITE_SPACE) {
                break;
            }
            count += 1;
        }
        let taken = self.queue.drain(..count).collect();
        self.is_unattended &= !self.queue.is_empty();
        taken
    }

    fn complete(&mut self, batches: &[Queued], written: &Batches, writer: &Writer) {
        let places = places(batches, written);
        for queued in &mut self.queue {
            let before = queued.before.iter_mut();
            before.for_each(|before| before.written(self.first_pending, &places));
        }
        for (batch, place) in batches.iter().zip(&written.places) {
            self.groups
                .written(&batch.records, batch.number, place.segment, place.offset);
            self.pending.drain(..batch.payloads.len());
            self.first_pending += batch.payloads.len() as u64;
        }
        self.durable += batches.len() as u64;
        self.mark.unmarked_since = Some(Instant::now());
        self.space.gave_up &= written.new_segments.is_empty();
        for segment in &written.new_segments {
            self.segments.insert(segment.header.number, segment.clone());
        }
        self.space.taken = self.queue.iter().map(|batch| batch.space).sum();
        self.space.segment_bytes = writer.segment.header.file_bytes;
        self.space.room = writer.room();
        self.space.states = writer.states.space();
        self.find_dead(writer.segment.header.number);
    }

    /// Looks for segments that nothing points into any more: purged, truncated or replaced, by batches up to the last one
    /// that was submitted.
    fn find_dead(&mut self, current: u64) {
        if self.dead.is_some() {
            return;
        }
        let alive = (self.oldest..current).find(|&number| !self.groups.is_dead(number));
        let below = alive.unwrap_or(current);
        if below > self.oldest {
            self.dead = Some((below, self.submitted));
        }
    }

    /// The segments that may be freed now.
    fn freed(&mut self) -> Option<Vec<Arc<Segment>>> {
        let (below, _) = self
            .dead
            .take_if(|(_, submitted)| *submitted <= self.durable || planted("freed_early"))?;
        self.oldest = below;
        let live = self.segments.split_off(&below);
        let freed = std::mem::replace(&mut self.segments, live);
        Some(freed.into_values().collect())
    }

    /// Finds the callbacks of batches that are decided.
    fn find_due(&mut self) {
        let outcome = self.check_poison();
        let waiting = match outcome {
            Ok(()) => self.callbacks.split_off(&(self.durable + 1)),
            Err(_) => BTreeMap::new(),
        };
        for (number, callbacks) in std::mem::replace(&mut self.callbacks, waiting) {
            let outcome = match number <= self.durable {
                true => Ok(()),
                false => outcome.clone(),
            };
            let due = callbacks.into_iter();
            self.due
                .extend(due.map(|callback| (callback, outcome.clone())));
        }
    }
}

/// Where each payload of these batches is, one after the other.
fn places(batches: &[Queued], written: &Batches) -> Vec<Source> {
    let mut places = Vec::new();
    for (batch, &Written { segment, offset }) in batches.iter().zip(&written.places) {
        let mut sources = Sources(Source::Written { segment, offset });
        for record in &batch.records {
            if let Record::Entries { entries, .. } = record {
                places.extend(entries.iter().map(|&meta| sources.next(meta)));
            }
        }
    }
    places
}
