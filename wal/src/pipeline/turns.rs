//! Taking turns at writing: who waits for a write to end, and who does the next one.
//!
//! A batch is in the write that is under way, or waits for the next one. Who waits for the one and who waits for the other
//! wait apart, so the end of a write wakes all whose batches were in it and, of the others, one: that one writes. Nobody else is
//! woken for nothing, and nobody into a lock that is still held.
//!
//! # No wake-up is lost
//!
//! Writes have numbers; whoever waits for write n waits at place n % 2.
//!
//! * Who waits found, under the lock, that a write is under way. At its end all at its place are told; of those at the other
//!   place one is told, if anything is queued.
//! * That is told after the lock was given back, so it may come late, when a later write has begun or has ended. Whoever is
//!   told looks again at what there is, and waits again or writes.
//! * The one that is told to do write n + 1 may be one whose batch was in write n - 1, at the same place, who was not told of its
//!   end yet: it returns and does not write. But then that telling is still to come, and it is for all at this place.

use super::{NO_PANIC, Shared};
use crate::sync::{Condvar, MutexGuard};

pub(super) struct Turns {
    places: [Condvar; 2],
}

impl Turns {
    pub(super) fn new() -> Turns {
        Turns {
            places: [Condvar::new(), Condvar::new()],
        }
    }

    fn place(&self, write: u64) -> &Condvar {
        &self.places[(write % 2) as usize]
    }

    /// Waits until a write ends: the one that is under way, or the one after it, which may be this thread's to do.
    pub(super) fn wait<'a>(
        &self,
        write: u64,
        shared: MutexGuard<'a, Shared>,
    ) -> MutexGuard<'a, Shared> {
        assert!(shared.is_writing, "nobody would tell of write {write}");
        self.place(write).wait(shared).expect(NO_PANIC)
    }

    /// A write has ended. If batches wait for the next one, tells one of those who wait for it to do it.
    pub(super) fn end(&self, write: u64, has_next: bool) {
        if has_next {
            self.place(write + 1).notify_one(); // First: until then the disk has nothing to do.
        }
        self.place(write).notify_all();
    }

    /// Nothing is written any more.
    pub(super) fn end_all(&self) {
        self.places.iter().for_each(Condvar::notify_all);
    }
}

impl Shared {
    pub(super) fn begin_write(&mut self) {
        assert!(!self.is_writing, "two write");
        self.is_writing = true;
        self.writes += 1;
    }

    /// The write that batch `number` is in or, if it is queued, may be in, while one is under way.
    pub(super) fn write_of(&self, number: u64) -> u64 {
        let is_queued = number > self.submitted - self.queue.len() as u64;
        self.writes + u64::from(is_queued)
    }
}
