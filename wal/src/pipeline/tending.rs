//! What segments need beside being written to: the full ones are sealed, the dead ones freed, the next one is prepared. A
//! thread of the log does it, so that no writer waits for it; without threads it is done after each write.

use std::sync::Arc;

use super::{NO_PANIC, Pipeline, Shared};
use crate::Options;
use crate::canary::planted;
use crate::error::{Error, Result};
use crate::seal::Full;
use crate::segment::Segment;
use crate::spare::Spare;
use crate::sync::MutexGuard;
use crate::table::Part;

/// So many groups at a time are told that a segment is sealed: readers and writers come in between.
const SEAL_GROUPS: usize = 64;

impl Shared {
    /// Whether there is something to do for segments.
    pub(super) fn wants_tending(&self, options: &Options) -> bool {
        let prepares = !options.manual_drive && self.space.wants_segment();
        let moves = || self.to_be_moved(options).is_some();
        self.poison.is_none() && (!self.full.is_empty() || self.may_free() || prepares || moves())
    }

    fn may_free(&self) -> bool {
        let decided =
            |(_, submitted): &(u64, u64)| *submitted <= self.durable || planted("freed_early");
        self.dead.as_ref().is_some_and(decided)
    }
}

/// Whether a file can become a segment of so many bytes, without wasting space.
fn fits(file_bytes: u64, wanted: u64) -> bool {
    (wanted..=2 * wanted).contains(&file_bytes)
}

impl Pipeline {
    /// The log's other thread: does what there is to do, until it is told to stop.
    pub(crate) fn tend(&self) {
        let mut shared = self.shared();
        while !shared.stop {
            shared = match shared.wants_tending(&self.options) {
                true => self.tend_once(shared),
                false => self.space_work.wait(shared).expect(NO_PANIC),
            };
        }
        // The next `open` reads whole what is not sealed.
        while shared.poison.is_none()
            && let Some(full) = shared.full.pop_front()
        {
            shared = self.seal(shared, &full);
        }
    }

    /// Does all there is to do, on this thread, unless another one does: the order counts.
    pub(crate) fn tend_all<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
    ) -> MutexGuard<'a, Shared> {
        while !shared.is_tending && shared.wants_tending(&self.options) {
            shared.is_tending = true;
            shared = self.tend_once(shared);
            shared.is_tending = false;
        }
        shared
    }

    fn tend_once<'a>(&'a self, mut shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        // Sealing first: what is freed is sealed, or recovery would look for what follows it.
        if let Some(full) = shared.full.pop_front() {
            return self.seal(shared, &full);
        }
        if let Some(dead) = shared.freed() {
            return self.free(shared, dead);
        }
        if shared.space.wants_segment() && !self.options.manual_drive {
            return self.prepare(shared);
        }
        match shared.to_be_moved(&self.options).cloned() {
            Some(segment) => self.move_some(shared, &segment),
            None => shared,
        }
    }

    fn seal<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
        full: &Full,
    ) -> MutexGuard<'a, Shared> {
        shared.is_sealing = true;
        drop(shared);
        let sealed = full.seal();
        let mut shared = self.shared();
        shared.is_sealing = false;
        let table = match sealed {
            Ok(table) => Arc::new(table),
            Err(error) => return self.poisoned(shared, error),
        };
        let number = full.segment.header.number;
        if !shared.segments.contains_key(&number) {
            return shared;
        }
        shared.tables.insert(number, table.clone());
        let parts: Vec<Part<'_>> = table.parts().collect();
        for parts in parts.chunks(SEAL_GROUPS) {
            shared.groups.touch(parts.iter().map(Part::group));
            for part in parts {
                shared.groups.seal(number, *part);
            }
            drop(shared);
            shared = self.shared();
        }
        shared.groups.rows.drop_rows(number);
        shared
    }

    /// Gives the space of dead segments back, or to a later segment.
    fn free<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
        dead: Vec<Arc<Segment>>,
    ) -> MutexGuard<'a, Shared> {
        let file_bytes = shared.space.wanted_bytes();
        let wanted = match self.options.recycle {
            true => shared.spares_wanted(file_bytes),
            false => 0,
        };
        let numbers = (0..wanted).map(|_| shared.space.next_spare_number());
        let numbers = numbers.collect();
        let mark = shared.mark_durable;
        drop(shared);
        let freed = self.give_back(dead, mark, numbers, file_bytes);
        let mut shared = self.shared();
        match freed {
            Ok(spares) => spares
                .into_iter()
                .for_each(|spare| self.offer_spare(&mut shared, spare)),
            Err(error) => return self.poisoned(shared, error),
        }
        shared
    }

    /// Frees the oldest segments: no extent lies in them, durably. Gives back as many of their files as there are numbers for
    /// spares, of those of the right size that nobody reads.
    ///
    /// CONTROL says so first. If a crash comes between, the next `open` removes the files. It says too up to where the log
    /// is durable: what made the segments dead must never be cut off as torn, or their entries would be missed.
    fn give_back(
        &self,
        dead: Vec<Arc<Segment>>,
        mark: u64,
        mut numbers: Vec<u64>,
        file_bytes: u64,
    ) -> Result<Vec<Spare>> {
        if !planted("removed_before_control") {
            let mut control = self.control.lock().expect(NO_PANIC);
            control.update(|control| {
                control.oldest += dead.len() as u64;
                control.mark = control.mark.max(mark);
            })?;
        }
        let mut spares = Vec::new();
        for segment in dead {
            let path = segment.path.clone();
            let unread = match planted("recycled_under_readers") {
                true => Some(reopen(&*self.disk, &segment)?),
                false => Arc::into_inner(segment),
            };
            let fitting = unread.filter(|segment| fits(segment.header.file_bytes, file_bytes));
            match fitting.and_then(|segment| Some((segment, numbers.pop()?))) {
                Some((segment, number)) => {
                    spares.push(Spare::recycle(&*self.disk, &self.dir, number, segment)?);
                }
                _ => self
                    .disk
                    .remove(&path)
                    .map_err(Error::io("remove", &path))?,
            }
        }
        self.disk
            .sync_dir(&self.dir)
            .map_err(Error::io("sync", &self.dir))?;
        Ok(spares)
    }

    /// Has the next segment ready before it is needed, written once, so that a rotation waits for nothing.
    fn prepare<'a>(&'a self, mut shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        let number = shared.space.next_spare_number();
        let file_bytes = shared.space.wanted_bytes();
        let spare = shared.space.spares.pop();
        shared.space.begin_preparing(file_bytes);
        drop(shared);
        let goes_on = || {
            let shared = self.shared();
            !shared.stop && !shared.space.awaits_prepared()
        };
        let fill: Option<&dyn Fn() -> bool> = match self.prewrites {
            true => Some(&goes_on),
            false => None,
        };
        let made = match spare {
            Some(spare) if spare.file_bytes() >= file_bytes => Ok(spare),
            too_small => {
                // If it cannot be removed, the next `open` does it.
                let _ = too_small.map(|spare| spare.remove(&*self.disk));
                Spare::create(&*self.disk, &self.dir, number, file_bytes, fill)
            }
        };
        let mut shared = self.shared();
        shared.space.preparing = None;
        self.prepared.notify_all();
        let spare = match made {
            Ok(spare) => spare,
            Err(error) => {
                tracing::debug!(%error, "cannot prepare a segment");
                shared.space.gave_up = true;
                return shared;
            }
        };
        let space = &shared.space;
        let is_late = !space.prepared.is_empty() || space.is_promoting; // A writer could not wait.
        if is_late || shared.stop || shared.poison.is_some() {
            self.offer_spare(&mut shared, spare);
            return shared;
        }
        let home = shared.space.begin_promoting();
        drop(shared);
        let promoted = self.promote(spare, home);
        self.end_promoting(self.shared(), promoted).0
    }

    /// Something failed that was not a write of batches: nothing more is written, and everybody is told.
    pub(super) fn poisoned<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
        error: Error,
    ) -> MutexGuard<'a, Shared> {
        shared.poison(error, Vec::new());
        self.prepared.notify_all();
        self.turns.end_all();
        shared.find_due();
        self.call_back(shared)
    }
}

/// For a planted bug: another hold of a segment that others hold.
fn reopen(disk: &dyn duramen_disk::Disk, segment: &Segment) -> Result<Segment> {
    let path = segment.path.clone();
    let file = disk.open(&path).map_err(Error::io("open", &path))?;
    Ok(Segment::new(segment.header, path, file))
}
