//! The space that a batch will need is there before the batch is taken: so a full disk is told to whoever submits, and a
//! ticket never fails for it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{NO_PANIC, Pipeline, Shared};
use crate::batch::{Batch, Sizes};
use crate::canary::planted;
use crate::error::{Error, Result};
use crate::frame::Home;
use crate::recovery::Recovered;
use crate::segment::{Segment, segment_bytes};
use crate::spare::{SPARES_MAX, Spare, next_number};
use crate::states::{STATE_BYTES, STATE_COPIES};
use crate::sync::MutexGuard;
use crate::writer::{Writer, frame_space};

/// The space for what is queued or under way.
pub(super) struct Space {
    pub(super) taken: u64,
    /// The size of the segment that is written to, and what is left of it.
    segment_bytes: u64,
    room: u64,
    /// What the first frame of a segment takes.
    states: u64,
    /// The size that the log's user asks for in segments, and the one that they are to have.
    asked_for: u64,
    pub(super) preferred_bytes: u64,
    /// The next segments: they have their names, and no frames. More than one only after a crash.
    pub(super) prepared: VecDeque<Arc<Segment>>,
    /// The writer goes on in the next segment, and has not said how full that is.
    is_rotating: bool,
    /// A segment gets its name just now, or is made by whoever could not wait for the preparer.
    pub(super) is_promoting: bool,
    /// A file is being made in advance that will become a segment.
    pub(super) preparing: Option<Preparing>,
    log_id: u128,
    /// The number of the newest segment that has its name.
    newest: u64,
    /// Files that wait to become segments.
    pub(super) spares: Vec<Spare>,
    spares_made: u64,
    /// The segments, all but those in `prepared`, in bytes.
    pub(super) segments_bytes: u64,
    /// No segment could be prepared. Tried again after the next rotation.
    pub(super) gave_up: bool,
}

pub(super) struct Preparing {
    file_bytes: u64,
    /// Somebody needs it now, as far as it is written.
    is_awaited: bool,
}

/// How much of the last segment is kept for what must be written on a full disk too: votes, truncations, purges, and what the
/// caller says is vital. A vote takes less than 9 KiB.
fn reserve_bytes(segment_bytes: u64) -> u64 {
    (segment_bytes / 16).min(1 << 20)
}

/// The space that a batch needs.
#[derive(Clone, Copy)]
pub(super) struct BatchSpace {
    frame: u64,
    /// What it may add to the first frame of the next segment.
    states: u64,
}

/// The space that a batch needs, whatever the limits say.
pub(super) fn space_needed(batch: &Batch) -> BatchSpace {
    let Sizes {
        payloads,
        records,
        summary,
        ..
    } = batch.sizes;
    let groups = batch.records.list.len() as u64;
    BatchSpace {
        frame: frame_space(payloads, records, summary, batch.changes_vote),
        states: STATE_COPIES * records + STATE_BYTES * groups,
    }
}

/// Whether there is space for a batch.
pub(super) enum Reserved {
    Yes,
    /// Something has changed.
    AskAgain,
    /// There will be when what is under way is written.
    AfterWrites,
}

impl BatchSpace {
    pub(super) fn total(self) -> u64 {
        self.frame + self.states
    }
}

impl Pipeline {
    /// The space that a batch needs, if it is not over the limit.
    pub(super) fn space_of(&self, batch: &Batch) -> Result<BatchSpace> {
        let Sizes {
            payload_max: bytes,
            summary,
            ..
        } = batch.sizes;
        let bytes_max = self.options.entry_bytes_max;
        if bytes > bytes_max {
            return Err(Error::EntryTooLarge { bytes, bytes_max });
        }
        let space = space_needed(batch);
        let bytes_max = self.options.batch_bytes_max;
        match space.frame - summary {
            bytes if bytes > bytes_max => Err(Error::TooLarge { bytes, bytes_max }),
            _ => Ok(space),
        }
    }

    fn reserve_bytes(&self) -> u64 {
        match planted("no_reserve") {
            true => 0,
            false => reserve_bytes(self.options.segment_bytes),
        }
    }

    /// Looks for space for one more batch: in the segment, or in the next one, which could take all that is under way. Makes
    /// the next one if there is none, without the lock.
    ///
    /// What is left then is the reserve, which only vital batches enter, and only when the disk is full. They too leave
    /// something: opening a log takes a frame.
    pub(super) fn reserve<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
        more: u64,
        is_vital: bool,
    ) -> (MutexGuard<'a, Shared>, Result<Reserved>) {
        let reserve = self.reserve_bytes();
        let wanted = shared.space.taken + more;
        if shared.space.has(wanted + reserve) {
            return (shared, Ok(Reserved::Yes));
        }
        if shared.space.is_promoting {
            shared = self.prepared.wait(shared).expect(NO_PANIC);
            return (shared, Ok(Reserved::AskAgain));
        }
        if !shared.space.prepared.is_empty() && shared.space.taken > 0 {
            // It is too small, but what is under way may go into it.
            return (shared, Ok(Reserved::AfterWrites));
        }
        let submitted = shared.submitted;
        let made;
        (shared, made) = self.make_segment(shared, wanted + reserve);
        let wanted = shared.space.taken + more;
        let reserved = match made {
            Ok(()) => Ok(Reserved::AskAgain),
            // Other batches were taken meanwhile: what the caller knows of the log is out of date.
            Err(Error::Full { .. })
                if is_vital && (shared.submitted != submitted || shared.is_poisoned()) =>
            {
                Ok(Reserved::AskAgain)
            }
            Err(Error::Full { .. }) if is_vital && shared.space.has(wanted + reserve / 4) => {
                Ok(Reserved::Yes)
            }
            Err(error) => Err(error),
        };
        (shared, reserved)
    }

    /// The preparer was too slow, or the next segment is too small: takes what there is of the one that is being prepared, or
    /// makes it now, not prewritten.
    fn make_segment<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
        wanted: u64,
    ) -> (MutexGuard<'a, Shared>, Result<()>) {
        let space = &mut shared.space;
        let file_bytes = segment_bytes(self.options.segment_bytes, space.states + wanted);
        if space.ask_for_prepared(file_bytes) {
            shared = self.prepared.wait(shared).expect(NO_PANIC);
            return (shared, Ok(()));
        }
        space.is_promoting = true;
        let spare = space
            .spares
            .pop_if(|spare| spare.file_bytes() >= file_bytes);
        let spare_number = space.next_spare_number();
        drop(shared);
        let (disk, dir) = (&*self.disk, &self.dir);
        let made = spare.map_or_else(
            || Spare::create(disk, dir, spare_number, file_bytes, None),
            Ok,
        );
        let mut shared = self.shared();
        // Batches were taken meanwhile that may go into the segment that is to be replaced.
        let is_used = !shared.space.prepared.is_empty() && shared.space.taken > 0;
        let outcome = match made {
            Ok(spare) if is_used || shared.is_poisoned() => {
                self.offer_spare(&mut shared, spare);
                Ok(())
            }
            Ok(spare) => {
                let home = shared.space.begin_promoting();
                drop(shared);
                let promoted = self.promote(spare, home);
                return self.end_promoting(self.shared(), promoted);
            }
            Err(error) => Err(error),
        };
        shared.space.is_promoting = false;
        self.prepared.notify_all();
        (shared, outcome)
    }

    /// The next segment has its name, or it is not known whether it has.
    pub(super) fn end_promoting<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
        promoted: Result<Arc<Segment>>,
    ) -> (MutexGuard<'a, Shared>, Result<()>) {
        shared.space.is_promoting = false;
        match promoted {
            Ok(segment) => {
                shared.space.prepared.push_front(segment);
                self.prepared.notify_all();
                (shared, Ok(()))
            }
            Err(error) => (self.poisoned(shared, error.clone()), Err(error)),
        }
    }

    /// Makes a spare the next segment. Durable on return, and CONTROL knows of it: it would be missed.
    pub(super) fn promote(&self, spare: Spare, home: Home) -> Result<Arc<Segment>> {
        let segment = spare.into_segment(&*self.disk, &self.dir, home)?;
        let mut control = self.control.lock().expect(NO_PANIC);
        if !planted("newest_not_written") {
            control.update(|control| control.newest = control.newest.max(home.segment))?;
        }
        Ok(Arc::new(segment))
    }

    /// Keeps a file for a later segment, unless there are enough by now.
    pub(super) fn offer_spare(&self, shared: &mut Shared, spare: Spare) {
        match shared.spares_wanted(spare.file_bytes()) {
            // If this fails, the next `open` does it.
            0 => drop(spare.remove(&*self.disk)),
            _ => shared.space.spares.push(spare),
        }
    }

    /// The next segment, for the writer.
    pub(super) fn next_segment(&self) -> Result<Arc<Segment>> {
        let mut shared = self.shared();
        let next = shared.space.prepared.pop_front();
        shared.space.is_rotating = true;
        Ok(next.expect("space was reserved when the batch was submitted"))
    }
}

impl Shared {
    /// How many more files of so many bytes are worth keeping. One always is; as segments often become free two at a time,
    /// another one if all files together stay within what they may take.
    pub(super) fn spares_wanted(&self, file_bytes: u64) -> usize {
        let there = self.space.spares.len();
        let (files_bytes, allowed) = (self.space.files_bytes(), self.bytes_allowed());
        (there..SPARES_MAX)
            .take_while(|&kept| {
                let more = (kept + 1 - there) as u64 * file_bytes;
                kept == 0 || files_bytes + more <= allowed
            })
            .count()
    }
}

impl Space {
    pub(super) fn of(recovered: &mut Recovered, asked_for: u64) -> Space {
        let segments = recovered.segments.values();
        let mut space = Space {
            taken: 0,
            segment_bytes: 0,
            room: 0,
            states: 0,
            asked_for,
            preferred_bytes: 0,
            prepared: std::mem::take(&mut recovered.prepared),
            is_rotating: false,
            is_promoting: false,
            preparing: None,
            log_id: recovered.control.control.log_id,
            newest: recovered.newest,
            spares: std::mem::take(&mut recovered.spares),
            segments_bytes: segments.map(|segment| segment.header.file_bytes).sum(),
            spares_made: 0,
            gave_up: false,
        };
        space.spares_made = next_number(&space.spares) - 1;
        space.follow(&recovered.writer);
        space
    }

    /// What all files of the log take, in bytes.
    pub(super) fn files_bytes(&self) -> u64 {
        self.segments_bytes + self.waiting().1
    }

    /// How many files wait to become segments, and their bytes.
    pub(super) fn waiting(&self) -> (u64, u64) {
        let prepared = self
            .prepared
            .iter()
            .map(|segment| segment.header.file_bytes);
        let files = prepared.chain(self.spares.iter().map(Spare::file_bytes));
        files.fold((0, 0), |(files, sum), bytes| (files + 1, sum + bytes))
    }

    /// The most that a segment may have to begin with, once all that is under way and so much more is written.
    pub(super) fn states_with(&self, more: u64) -> u64 {
        self.states + self.taken + more
    }

    /// What frames took of the segments, in bytes.
    pub(super) fn used_bytes(&self) -> u64 {
        self.segments_bytes.saturating_sub(self.room)
    }

    /// The writer has written.
    pub(super) fn follow(&mut self, writer: &Writer) {
        self.segment_bytes = writer.segment.header.file_bytes;
        self.room = writer.room();
        self.is_rotating = false;
        self.states = writer.states.space();
        self.preferred_bytes = writer.states.segment_bytes(self.asked_for);
    }

    /// Whether frames of so many bytes have a place.
    fn has(&self, bytes: u64) -> bool {
        let enough = segment_bytes(0, self.states + bytes);
        let next = self.prepared.front();
        bytes <= self.room || next.is_some_and(|next| next.header.file_bytes >= enough)
    }

    /// The next segment is prepared when this one is half full: a small log never pays for it.
    pub(super) fn wants_segment(&self) -> bool {
        self.prepared.is_empty()
            && self.preparing.is_none()
            && !self.is_promoting
            && !self.is_rotating
            && self.room < self.segment_bytes / 2
            && !self.gave_up
    }

    pub(super) fn begin_preparing(&mut self, file_bytes: u64) {
        self.preparing = Some(Preparing {
            file_bytes,
            is_awaited: false,
        });
    }

    /// Asks for the file that is being prepared. False if there is none that is large enough.
    fn ask_for_prepared(&mut self, file_bytes: u64) -> bool {
        match &mut self.preparing {
            Some(preparing) if preparing.file_bytes >= file_bytes => {
                preparing.is_awaited = true;
                true
            }
            _ => false,
        }
    }

    /// Whether somebody asked for the file that is being prepared.
    pub(super) fn awaits_prepared(&self) -> bool {
        let preparing = self.preparing.as_ref();
        preparing.is_some_and(|preparing| preparing.is_awaited)
    }

    /// What the next segment is to be. It replaces one that is too small, into which nothing goes.
    pub(super) fn begin_promoting(&mut self) -> Home {
        self.is_promoting = true;
        let too_small = self.prepared.pop_front();
        let number = too_small.map_or(self.newest + 1, |segment| segment.header.number);
        self.newest = self.newest.max(number);
        let log_id = self.log_id;
        Home {
            log_id,
            segment: number,
        }
    }

    /// The size of a segment that is made in advance.
    pub(super) fn wanted_bytes(&self) -> u64 {
        segment_bytes(self.preferred_bytes, self.states)
    }

    /// A number that no spare had.
    pub(super) fn next_spare_number(&mut self) -> u64 {
        self.spares_made += 1;
        self.spares_made
    }
}
