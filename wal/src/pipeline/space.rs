//! The space that a batch will need is there before the batch is taken: so a full disk is told to whoever submits, and a
//! ticket never fails for it.

use super::{Pipeline, Shared};
use crate::batch::Batch;
use crate::canary::planted;
use crate::error::{Error, Result};
use crate::record::Record;
use crate::segment::{Spare, segment_bytes};
use crate::states::STATE_BYTES;
use crate::writer::frame_space;

/// The space for what is queued or under way.
pub(super) struct Space {
    pub(super) taken: u64,
    /// The size of the segment that is written to, and what is left of it.
    pub(super) segment_bytes: u64,
    pub(super) room: u64,
    /// What the first frame of a segment takes.
    pub(super) states: u64,
    /// A file that waits to become a segment.
    pub(super) spare: Option<Spare>,
    pub(super) spares_made: u64,
    /// No spare could be prepared. Tried again after the next rotation.
    pub(super) gave_up: bool,
}

/// How much of the last segment is kept for what must be written on a full disk too: votes, truncations, purges, and what the
/// caller says is vital. A vote takes less than 9 KiB.
fn reserve_bytes(segment_bytes: u64) -> u64 {
    (segment_bytes / 16).min(1 << 20)
}

/// The space that a batch needs.
#[derive(Clone, Copy)]
pub(super) struct BatchSpace {
    pub(super) frame: u64,
    /// What it may add to the first frame of the next segment.
    states: u64,
}

impl BatchSpace {
    pub(super) fn total(self) -> u64 {
        self.frame + self.states
    }
}

impl Pipeline {
    /// The space that a batch needs, if it is not over the limit.
    pub(super) fn space_of(&self, batch: &Batch) -> Result<BatchSpace> {
        let payload_bytes: u64 = batch
            .payloads
            .iter()
            .map(|payload| payload.len() as u64)
            .sum();
        let record_bytes = batch.records.iter().map(Record::encoded_bytes_max).sum();
        let space = BatchSpace {
            frame: frame_space(payload_bytes, record_bytes, batch.changes_vote),
            states: 2 * record_bytes + STATE_BYTES * batch.records.len() as u64,
        };
        let bytes_max = self.options.batch_bytes_max;
        match batch.oversize.unwrap_or(space.frame) {
            bytes if bytes > bytes_max => Err(Error::TooLarge { bytes, bytes_max }),
            _ => Ok(space),
        }
    }

    /// Makes sure that there is space for one more batch: in the segment, or in a file that waits to become one, which
    /// could take all that is under way.
    ///
    /// What is left then is the reserve, which only vital batches enter, and only when the disk is full. They too leave
    /// something: opening a log takes a frame.
    pub(super) fn reserve(&self, space: &mut Space, more: u64, is_vital: bool) -> Result<()> {
        let reserve = match planted("no_reserve") {
            true => 0,
            false => reserve_bytes(self.options.segment_bytes),
        };
        let wanted = space.taken + more;
        if space.has(wanted + reserve) {
            return Ok(());
        }
        match self.make_spare(space, wanted + reserve) {
            Err(Error::Full { .. }) if is_vital && space.has(wanted + reserve / 4) => Ok(()),
            made => made,
        }
    }

    fn make_spare(&self, space: &mut Space, wanted: u64) -> Result<()> {
        let file_bytes = segment_bytes(self.options.segment_bytes, space.states + wanted);
        let number = space.next_number();
        let spare = Spare::create(&*self.disk, &self.dir, number, file_bytes, None)?;
        match space.spare.replace(spare) {
            Some(too_small) => too_small.remove(&*self.disk),
            None => Ok(()),
        }
    }

    /// Keeps a file for the next segment, unless there is one by now.
    pub(super) fn offer_spare(&self, shared: &mut Shared, spare: Spare) {
        match &shared.space.spare {
            None => shared.space.spare = Some(spare),
            // If this fails, the next `open` does it.
            Some(_) => drop(spare.remove(&*self.disk)),
        }
    }

    /// The file for the next segment.
    pub(super) fn next_spare(&self) -> Result<Spare> {
        let mut shared = self.shared();
        let spare = shared.space.spare.take();
        Ok(spare.expect("space was reserved when the batch was submitted"))
    }
}

impl Space {
    /// Whether frames of so many bytes have a place.
    fn has(&self, bytes: u64) -> bool {
        let is_enough = |spare: &Spare| spare.file_bytes() >= segment_bytes(0, self.states + bytes);
        bytes <= self.room || self.spare.as_ref().is_some_and(is_enough)
    }

    /// The next segment is prepared when this one is half full: a small log never pays for it.
    pub(super) fn wants_spare(&self) -> bool {
        self.spare.is_none() && self.room < self.segment_bytes / 2 && !self.gave_up
    }

    /// A number that no spare had.
    pub(super) fn next_number(&mut self) -> u64 {
        self.spares_made += 1;
        self.spares_made
    }
}
