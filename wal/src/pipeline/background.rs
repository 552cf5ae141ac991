//! The log's own thread: writes what nobody waits for, and marks an idle log.

use std::time::{Duration, Instant};

use super::{NO_PANIC, Pipeline, Shared};
use crate::sync::MutexGuard;

/// When an idle log is to be marked.
#[derive(Default)]
pub(super) struct IdleMark {
    /// The last write, if CONTROL does not know of it.
    pub(super) unmarked_since: Option<Instant>,
    marked_at: Option<Instant>,
    /// The log's thread wakes by itself when the mark is due.
    is_timed: bool,
}

/// An idle log is not marked more often than this.
const MARK_INTERVAL: Duration = Duration::from_millis(100);

/// What is submitted and not waited for is written when it has so many bytes, if not before.
const KICK_BYTES: u64 = 1 << 20;

impl Pipeline {
    /// What was submitted is to be written, though nobody waits for it on a thread.
    pub(super) fn kick(&self, shared: &mut Shared) {
        if shared.queue.is_empty() {
            return; // It is being written.
        }
        // Whoever writes looks for more afterwards, and whoever was told already need not be told again.
        if !std::mem::replace(&mut shared.is_unattended, true) && !shared.is_writing {
            self.work.notify_one();
        }
    }

    /// So much waits that it is worth a write of its own: the next batches are made while it is under way.
    pub(super) fn kick_if_much(&self, shared: &mut Shared) {
        if shared.queued_bytes >= KICK_BYTES && !shared.is_writing && !self.options.manual_drive {
            self.kick(shared);
        }
    }

    /// The log's thread: writes what nobody waits for and marks an idle log, until it is told to stop.
    pub(crate) fn run(&self) {
        let mut shared = self.shared();
        while !shared.stop {
            if shared.is_writing || shared.poison.is_some() {
                shared = self.work.wait(shared).expect(NO_PANIC);
            } else if shared.is_unattended && !shared.queue.is_empty() {
                shared = self.write_queue(shared);
            } else {
                shared = self.mark_or_wait(shared);
            }
        }
    }

    fn mark_or_wait<'a>(&'a self, mut shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        let Some(due) = shared.mark.due(self.options.idle_mark) else {
            return self.work.wait(shared).expect(NO_PANIC);
        };
        let wait = due.saturating_duration_since(Instant::now());
        if wait.is_zero() && shared.queue.is_empty() {
            return self.write_mark(shared);
        }
        if wait.is_zero() {
            return self.work.wait(shared).expect(NO_PANIC); // Whoever waits for the queue writes it, and tells.
        }
        shared.mark.is_timed = true;
        let (mut shared, _) = self.work.wait_timeout(shared, wait).expect(NO_PANIC);
        shared.mark.is_timed = false;
        shared
    }

    /// Writes CONTROL. Nobody else is writing.
    pub(super) fn write_mark<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
    ) -> MutexGuard<'a, Shared> {
        shared.begin_write();
        shared.mark.unmarked_since = None;
        drop(shared);
        let mark = self.writer.lock().expect(NO_PANIC).mark;
        let mut control = self.control.lock().expect(NO_PANIC);
        let outcome = control.update(|control| control.mark = mark);
        drop(control);
        let mut shared = self.shared();
        shared.mark.marked_at = Some(Instant::now());
        if let Err(error) = outcome {
            shared.poison(error, Vec::new());
        }
        self.end_write(shared)
    }

    /// Tells the log's threads to end.
    pub(crate) fn stop(&self) {
        self.shared().stop = true;
        self.work.notify_all();
        self.space_work.notify_all();
    }
}

impl IdleMark {
    /// When the mark is to be written, if ever.
    fn due(&self, idle_mark: Option<Duration>) -> Option<Instant> {
        let idle = self.unmarked_since? + idle_mark?;
        let next = self.marked_at.map(|at| at + MARK_INTERVAL);
        Some(next.map_or(idle, |next| next.max(idle)))
    }
}

impl Shared {
    /// Whether there is something to do for the log's thread, and it does not know.
    pub(super) fn has_work(&self) -> bool {
        let unmarked = self.mark.unmarked_since.is_some() && !self.mark.is_timed;
        (self.is_unattended && !self.queue.is_empty()) || unmarked
    }
}
