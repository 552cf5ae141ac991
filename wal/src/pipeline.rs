//! Group commit: batches queue while one write is under way, and the next write takes them all.
//!
//! A batch is checked and takes effect in memory when it is submitted, in the order of submission. Whoever waits for a
//! ticket first writes the queue, on its own thread; others wait for it. If nobody waits, a thread of the log writes.
//!
//! # Invariants
//!
//! * `submitted - durable` batches are in the queue or under way, in order; tickets complete in order.
//! * A batch that was taken has its space reserved. Only a failure of the disk can fail it.
//! * CONTROL's lock is taken last, and `shared` never while it is held.
//! * Only one thread at a time writes (`is_writing`), and one calls back (`is_calling`), without the lock: callbacks may use
//!   the log.
//! * After the first failure (`poison`) nothing is written any more, and what was not durable is forgotten.

mod background;
mod moving;
mod shared;
mod space;
mod tending;
mod turns;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use duramen_disk::Disk;

use crate::Options;
use crate::batch::Batch;
use crate::canary::planted;
use crate::control::ControlFile;
use crate::error::{Error, Result};
use crate::groups::{Groups, Undo};
use crate::memory::Memory;
use crate::recovery::Recovered;
use crate::seal::Full;
use crate::segment::Segment;
use crate::stats::{Histogram, Stats};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::tables::Tables;
use crate::types::{GroupId, LogId};
use crate::writer::{Body, Writer};
use background::IdleMark;
use moving::Round;
use space::{Reserved, Space};
use turns::Turns;

pub(crate) struct Pipeline {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    /// Segments are written once before they are used: then a write changes no metadata, and its sync is cheaper.
    prewrites: bool,
    shared: Mutex<Shared>,
    /// Told when a write has ended.
    turns: Turns,
    /// Told when a segment was prepared, or could not be.
    prepared: Condvar,
    /// Told when there is something to do for the log's thread: to write what nobody waits for, or to mark an idle log.
    work: Condvar,
    /// Told when there is something to do for segments: to seal, free, prepare or empty one.
    space_work: Condvar,
    /// Held by whoever writes. Whoever holds `shared` does not wait for it.
    writer: Mutex<Writer>,
    control: Mutex<ControlFile>,
}

/// What all threads see.
pub(crate) struct Shared {
    pub(crate) groups: Groups,
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    pub(crate) tables: Tables,
    pub(crate) memory: Memory,
    queue: VecDeque<Queued>,
    /// Of the frames that it makes, about.
    queued_bytes: u64,
    /// How many batches were submitted, and how many of them are durable.
    submitted: u64,
    durable: u64,
    is_writing: bool,
    /// The number of the write that is under way, or of the last one.
    writes: u64,
    /// Nobody waits for some of what is queued.
    is_unattended: bool,
    mark: IdleMark,
    /// Who waits for which batch, in order.
    waiters: VecDeque<(u64, Waiter)>,
    /// Those whose batches are decided, in order, and whether a thread is telling them.
    due: VecDeque<(Waiter, Result<()>)>,
    is_calling: bool,
    poison: Option<Arc<Error>>,
    space: Space,
    /// Segments to be sealed, the oldest first.
    full: VecDeque<Full>,
    is_sealing: bool,
    /// Without threads of the log: somebody does what segments need.
    is_tending: bool,
    round: Round,
    /// The oldest segments below this one are dead as soon as so many batches are durable.
    dead: Option<(u64, u64)>,
    oldest: u64,
    /// All frames up to this one are durable.
    mark_durable: u64,
    /// Groups whose purge point went past what was durable, and is not durable yet: the batch that did it, and up to where
    /// the group was durable before.
    jumps: HashMap<GroupId, (u64, LogId)>,
    writing_since: Option<Instant>,
    pub(crate) counts: Counts,
    stop: bool,
}

/// What [`Stats`] says of the past.
#[derive(Default)]
pub(crate) struct Counts {
    batch_bytes: Histogram,
    write_micros: Histogram,
    sync_micros: Histogram,
    batches_per_write: Histogram,
    pub(crate) entries_moved: u64,
    bytes_moved: u64,
    pub(crate) damage_found: u64,
    pub(crate) scrubbed_bytes: u64,
    pub(crate) scrubs: u64,
    pub(crate) scrubbed_at: Option<Instant>,
}

/// A batch on its way to the disk.
struct Queued {
    body: Arc<Body>,
    undo: Undo,
    /// The groups whose purge point it takes past what is durable of them, and up to where that is.
    jumps: Vec<(GroupId, LogId)>,
}

/// Told once what became of a batch.
pub(crate) enum Waiter {
    Call(Box<dyn FnOnce(Result<()>) + Send>),
    Wake(Waker),
}

impl Waiter {
    fn tell(self, outcome: Result<()>) {
        match self {
            Waiter::Call(callback) => callback(outcome),
            Waiter::Wake(waker) => waker.wake(),
        }
    }
}

const NO_PANIC: &str = "nobody panics while holding the lock";

impl Pipeline {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        mut recovered: Recovered,
        mut options: Options,
        copies_on_write: bool,
    ) -> Pipeline {
        options.recycle &= !copies_on_write;
        let space = Space::of(&mut recovered, options.segment_bytes);
        let Recovered {
            writer, control, ..
        } = recovered;
        let shared = Shared {
            groups: recovered.groups,
            segments: recovered.segments,
            tables: Tables::new(options.index_bytes_max),
            memory: Memory::new(options.recent_bytes_max),
            queue: VecDeque::new(),
            queued_bytes: 0,
            submitted: 0,
            durable: 0,
            is_writing: false,
            writes: 0,
            is_unattended: false,
            mark: IdleMark::default(),
            waiters: VecDeque::new(),
            due: VecDeque::new(),
            is_calling: false,
            poison: None,
            space,
            full: recovered.full.into(),
            is_sealing: false,
            is_tending: false,
            round: Round::default(),
            dead: None,
            oldest: control.control.oldest,
            mark_durable: writer.mark,
            jumps: HashMap::new(),
            writing_since: None,
            counts: Counts::default(),
            stop: false,
        };
        Pipeline {
            disk,
            dir,
            options,
            prewrites: !copies_on_write,
            shared: Mutex::new(shared),
            turns: Turns::new(),
            prepared: Condvar::new(),
            work: Condvar::new(),
            space_work: Condvar::new(),
            writer: Mutex::new(writer),
            control: Mutex::new(control),
        }
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    pub(crate) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect(NO_PANIC)
    }

    /// Takes a batch. Gives its number, for [`wait`](Pipeline::wait). As long as too much is under way it waits, or is
    /// [`Error::Busy`] if `may_wait` is not set.
    pub(crate) fn submit(&self, batch: Batch, may_wait: bool) -> Result<u64> {
        let mut shared = self.shared();
        loop {
            if !planted("poison_forgotten") {
                shared.check_poison()?;
            }
            if batch.is_empty() {
                return Ok(shared.submitted);
            }
            // The check is of the state at this moment, so it is made again after each wait.
            let space = self.space_of(&batch)?.total();
            let taken = shared.space.taken;
            if taken > 0 && taken + space > self.options.in_flight_bytes_max {
                shared = self.wait_for_space(shared, may_wait)?;
                continue;
            }
            let next;
            (shared, next) = self.reserve(shared, space, batch.is_vital());
            match next? {
                Reserved::Yes => {
                    let number = self.take(&mut shared, batch, space)?;
                    self.kick_if_much(&mut shared);
                    return Ok(number);
                }
                Reserved::AskAgain => {}
                Reserved::AfterWrites => shared = self.wait_for_space(shared, may_wait)?,
            }
        }
    }

    /// Looks for space for a batch of this size that is not vital, as [`submit`](Pipeline::submit) would.
    pub(crate) fn look_for_space(&self, bytes: u64) -> Result<()> {
        let mut shared = self.shared();
        loop {
            shared.check_poison()?;
            let found;
            (shared, found) = self.reserve(shared, bytes, false);
            match found? {
                Reserved::Yes | Reserved::AfterWrites => return Ok(()),
                Reserved::AskAgain => {}
            }
        }
    }

    fn wait_for_space<'a>(
        &'a self,
        shared: MutexGuard<'a, Shared>,
        may_wait: bool,
    ) -> Result<MutexGuard<'a, Shared>> {
        match may_wait {
            true => Ok(self.write_or_wait(shared)),
            false => Err(Error::Busy {
                in_flight_bytes: shared.space.taken,
            }),
        }
    }

    /// Takes a batch for which there is space.
    fn take(&self, shared: &mut Shared, batch: Batch, space: u64) -> Result<u64> {
        let queued = shared.take_in(batch, space)?;
        if let Err(error) = shared.check_growth(&queued, space, self.options.groups_max) {
            shared.groups.refuse(queued.body.number, queued.undo);
            return Err(error);
        }
        shared.queue(queued);
        Ok(shared.submitted)
    }

    /// Waits until batch `number` is durable; writes the queue if nobody else does.
    pub(crate) fn wait(&self, number: u64) -> Result<()> {
        let mut shared = self.shared();
        loop {
            if shared.durable >= number || planted("acknowledged_unwritten") {
                return Ok(());
            }
            shared.check_poison()?;
            shared = match shared.is_writing {
                true => self.turns.wait(shared.write_of(number), shared),
                false => self.write_queue(shared),
            };
        }
    }

    fn write_or_wait<'a>(&'a self, shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        match shared.is_writing {
            true => self.turns.wait(shared.writes, shared),
            false => self.write_queue(shared),
        }
    }

    pub(crate) fn may_map(&self) -> bool {
        self.options.map_sealed
    }

    /// Tells `waiter` when batch `number` is durable or has failed: at once, or on a thread that writes.
    pub(crate) fn when_durable(&self, number: u64, waiter: Waiter) {
        let mut shared = self.shared();
        if let Some(outcome) = shared.outcome(number) {
            shared.due.push_back((waiter, outcome));
            drop(self.call_back(shared));
            return;
        }
        let at = shared
            .waiters
            .partition_point(|(other, _)| *other <= number);
        shared.waiters.insert(at, (number, waiter));
        self.kick(&mut shared);
    }

    /// The same for a waker, in the place of the one of an earlier poll.
    pub(crate) fn wake_when_durable(&self, number: u64, waker: Waker, before: Option<Waker>) {
        if let Some(before) = before {
            let mut shared = self.shared();
            let from = shared.waiters.partition_point(|(other, _)| *other < number);
            let of_batch = shared.waiters.range_mut(from..);
            for (_, waiter) in of_batch.take_while(|(other, _)| *other == number) {
                if matches!(waiter, Waiter::Wake(found) if found.will_wake(&before)) {
                    *waiter = Waiter::Wake(waker);
                    return;
                }
            }
        }
        self.when_durable(number, Waiter::Wake(waker));
    }

    /// What became of batch `number`, once it is decided.
    pub(crate) fn outcome(&self, number: u64) -> Option<Result<()>> {
        self.shared().outcome(number)
    }

    /// Whether batch `number` is durable. Whoever asks waits for it.
    pub(crate) fn is_durable(&self, number: u64) -> bool {
        let mut shared = self.shared();
        let is_durable = shared.durable >= number;
        if !is_durable {
            self.kick(&mut shared);
        }
        is_durable
    }

    pub(crate) fn stats(&self) -> Stats {
        let shared = self.shared();
        let segments = shared.segments.values();
        let live = shared.groups.rows.all_live();
        let (spares, spare_bytes) = shared.space.waiting();
        Stats {
            batches_submitted: shared.submitted,
            batches_durable: shared.durable,
            batches_queued: shared.queue.len() as u64,
            in_flight_bytes: shared.space.taken,
            batch_bytes: shared.counts.batch_bytes.clone(),
            write_micros: shared.counts.write_micros.clone(),
            sync_micros: shared.counts.sync_micros.clone(),
            batches_per_write: shared.counts.batches_per_write.clone(),
            writing_for: shared.writing_since.map(|since| since.elapsed()),
            segments: shared.segments.len() as u64,
            segment_bytes: segments.map(|segment| segment.header.file_bytes).sum(),
            used_bytes: shared.space.used_bytes(),
            live_bytes: live.bytes,
            live_entries: live.entries,
            groups: shared.groups.len() as u64,
            unsealed: shared.full.len() as u64,
            has_next_segment: !shared.space.prepared.is_empty(),
            spares,
            spare_bytes,
            entries_moved: shared.counts.entries_moved,
            bytes_moved: shared.counts.bytes_moved,
            damage_found: shared.counts.damage_found,
            scrubbed_bytes: shared.counts.scrubbed_bytes,
            scrubs: shared.counts.scrubs,
            scrubbed_for: shared.counts.scrubbed_at.map(|at| at.elapsed()),
            table_bytes: shared.tables.bytes(),
            unmarked_for: shared.mark.unmarked_since.map(|since| since.elapsed()),
            poison: shared.poison.clone(),
        }
    }

    /// Writes all that was submitted so far.
    pub(crate) fn flush(&self) -> Result<()> {
        let submitted = self.shared().submitted;
        self.wait(submitted)?;
        self.shared().check_poison()
    }

    /// Writes all that was submitted, and CONTROL: the log is being closed.
    pub(crate) fn close(&self) -> Result<()> {
        self.flush()?;
        let mut shared = self.shared();
        while shared.is_writing {
            shared = self.turns.wait(shared.writes, shared);
        }
        shared.check_poison()?; // CONTROL may be what failed.
        match &self.write_mark(shared).poison {
            None => Ok(()),
            Some(cause) => Err(Error::clone(cause)),
        }
    }

    /// Writes one write's worth of the queue. Nobody else is writing. Without threads, does what segments need then.
    fn write_queue<'a>(&'a self, shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        let shared = self.write_once(shared);
        match self.options.manual_drive {
            true => self.tend_all(shared),
            false => shared,
        }
    }

    fn write_once<'a>(&'a self, mut shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        let (bodies, undo) = shared.take_from_queue();
        let since = Instant::now();
        shared.begin_write();
        shared.writing_since = Some(since);
        drop(shared);
        let mut writer = self.writer.lock().expect(NO_PANIC);
        let outcome = writer.write(&bodies, || self.next_segment());
        let mut shared = self.shared();
        match outcome {
            Ok(written) => {
                let counts = &mut shared.counts;
                counts.batches_per_write.add(bodies.len() as u64);
                counts.write_micros.add(since.elapsed().as_micros() as u64);
                shared.complete(&bodies, written, &writer);
            }
            Err(error) => shared.poison(error, undo),
        }
        drop(writer);
        shared.writing_since = None;
        self.end_write(shared)
    }

    /// Lets the next write begin, and tells everybody what became of this one.
    fn end_write<'a>(&'a self, mut shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        shared.is_writing = false;
        if shared.has_work() {
            self.work.notify_one();
        }
        if !self.options.manual_drive && shared.wants_tending(&self.options) {
            self.space_work.notify_one();
        }
        shared.find_due();
        let (write, has_next) = (shared.writes, !shared.queue.is_empty());
        let is_poisoned = shared.poison.is_some();
        drop(shared);
        match is_poisoned {
            true => self.turns.end_all(),
            false => self.turns.end(write, has_next),
        }
        self.call_back(self.shared())
    }

    /// Tells who is due, without the lock. One thread at a time does, so that the order is kept; what becomes due
    /// meanwhile, be it through those who are told, it tells too.
    fn call_back<'a>(&'a self, mut shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        if shared.is_calling {
            return shared;
        }
        while !shared.due.is_empty() {
            let due = std::mem::take(&mut shared.due);
            shared.is_calling = true;
            drop(shared);
            for (waiter, outcome) in due {
                // The log's thread has others to tell. The panic has been told on standard error.
                if catch_unwind(AssertUnwindSafe(|| waiter.tell(outcome))).is_err() {
                    tracing::error!("a callback panicked");
                }
            }
            shared = self.shared();
            shared.is_calling = false;
        }
        shared
    }
}
