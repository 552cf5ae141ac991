//! What all threads see: how batches take effect, are written, and end, under the lock.

use std::sync::Arc;
use std::time::Instant;

use super::{Counts, Queued, Shared};
use crate::batch::Batch;
use crate::canary::planted;
use crate::error::{Error, Result};
use crate::format::STATES_BYTES_MAX;
use crate::groups::{Before, Undo};
use crate::record::{Record, Records};
use crate::rows::Source;
use crate::segment::Segment;
use crate::types::{GroupId, LogId};
use crate::writer::{Batches, Body, Writer};

/// One write takes so much at the most, so that those who wait for its first batch do not wait for all.
const WRITE_SPACE: u64 = 8 << 20;

impl Counts {
    /// Counts a write.
    fn count(&mut self, bodies: &[Arc<Body>], writer: &Writer) {
        for body in bodies {
            self.batch_bytes.add(body.sizes.payloads);
            if body.is_move() {
                self.bytes_moved += body.sizes.payloads;
            }
        }
        for sync in &writer.syncs {
            self.sync_micros.add(sync.as_micros() as u64);
        }
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

    /// Whether nothing more may be begun.
    pub(super) fn is_poisoned(&self) -> bool {
        self.poison.is_some() && !planted("poison_forgotten")
    }

    /// Whether a segment is full and was sealed.
    pub(crate) fn is_sealed(&self, segment: u64) -> bool {
        let mut unsealed = self.full.iter().map(|full| full.segment.header.number);
        let last = self.segments.last_key_value().map(|(number, _)| *number);
        last != Some(segment) && !self.is_sealing && unsealed.all(|number| number != segment)
    }

    pub(super) fn outcome(&self, number: u64) -> Option<Result<()>> {
        match self.durable >= number {
            true => Some(Ok(())),
            false => self.check_poison().err().map(Err),
        }
    }

    /// The log takes no more writes. Nothing of what was to be written, with `failed` first, counts any more; what is under
    /// way is decided when its write ends.
    pub(super) fn poison(&mut self, error: Error, failed: Vec<Undo>) {
        tracing::error!(%error, "the log takes no more writes");
        self.poison.get_or_insert(Arc::new(error));
        let under_way = match failed.is_empty() {
            true => self.submitted - self.queue.len() as u64,
            false => self.durable,
        };
        self.jumps.retain(|_, (number, _)| *number <= under_way);
        self.memory.forget(failed.len() + self.queue.len());
        self.queued_bytes = 0;
        let queued = self.queue.drain(..).map(|queued| queued.undo);
        let undo: Vec<Before> = failed.into_iter().chain(queued).flatten().collect();
        self.groups.take_all_back(undo);
    }

    /// Lets a batch take effect. One that breaks a rule has none.
    pub(super) fn take_in(&mut self, batch: Batch, space: u64) -> Result<Queued> {
        let number = self.groups.rows.next_number();
        let mut source = Source::Pending;
        let Records { mut list, metas } = batch.records;
        let mut undo = Undo::with_capacity(list.len());
        if list.len() > 1 {
            self.groups.touch(list.iter().filter_map(Record::group));
        }
        let mut rest = &metas[..];
        let mut jumps = Vec::new();
        for record in &mut list {
            jumps.extend(self.jump(record));
            let (of_record, after) = rest.split_at(record.entries());
            rest = after;
            let taken = self
                .groups
                .take_in(record, of_record, &mut source, &mut undo);
            if let Err(misuse) = taken {
                self.groups.refuse(number, undo);
                return Err(Error::misuse(record.group().unwrap_or_default(), misuse));
            }
        }
        let body = Arc::new(Body {
            sizes: batch.sizes,
            records: Records { list, metas },
            payloads: batch.payloads,
            number,
            changes_vote: batch.changes_vote,
            space,
        });
        Ok(Queued { body, undo, jumps })
    }

    /// Whether what a batch has added to groups is within the limits. What makes groups and records fewer always is.
    pub(super) fn check_growth(
        &self,
        queued: &Queued,
        space: u64,
        groups_max: usize,
    ) -> Result<()> {
        let made_group = queued.undo.iter().any(Before::made_group);
        if made_group && self.groups.len() > groups_max {
            return Err(Error::TooManyGroups { groups_max });
        }
        let mut grown = queued.undo.iter();
        let grows = made_group || grown.any(|before| before.lengthened_record(&self.groups));
        match self.space.states_with(space) {
            bytes if grows && bytes > STATES_BYTES_MAX => Err(Error::TooMuchState {
                bytes,
                bytes_max: STATES_BYTES_MAX,
            }),
            _ => Ok(()),
        }
    }

    /// Whether a record takes a group's purge point past what is durable of it, and up to where that was. Its entries do
    /// not show it any more.
    fn jump(&self, record: &Record) -> Option<(GroupId, LogId)> {
        match record {
            Record::Purge { group, last } => {
                let before = self.durable_of(*group);
                (last.index > before.index).then_some((*group, before))
            }
            // If it comes again, that is from nothing.
            Record::Remove { group } => Some((*group, LogId::default())),
            _ => None,
        }
    }

    /// Up to where a group is durable.
    pub(crate) fn durable_of(&self, group: GroupId) -> LogId {
        let Some(found) = self.groups.find(group) else {
            return LogId::default();
        };
        match self.jumps.get(&group) {
            Some((_, before)) => *before,
            None => found.durable(&self.groups.rows),
        }
    }

    pub(super) fn queue(&mut self, queued: Queued) {
        self.space.taken += queued.body.space;
        self.queued_bytes += queued.body.sizes.written();
        self.submitted += 1;
        for &(group, before) in &queued.jumps {
            let jump = self.jumps.entry(group).or_insert((0, before));
            *jump = (self.submitted, before.min(jump.1));
        }
        self.memory.push(queued.body.clone());
        self.queue.push_back(queued);
    }

    /// A batch that changes a vote begins a write: all before it is durable then.
    pub(super) fn take_from_queue(&mut self) -> (Vec<Arc<Body>>, Vec<Undo>) {
        let mut space = 0;
        let mut count = 0;
        for Queued { body, .. } in &self.queue {
            space += body.space;
            if count > 0 && (body.changes_vote || space > WRITE_SPACE) {
                break;
            }
            count += 1;
        }
        let taken = self.queue.drain(..count);
        let (bodies, undo): (Vec<_>, _) = taken.map(|queued| (queued.body, queued.undo)).unzip();
        self.queued_bytes -= bodies.iter().map(|body| body.sizes.written()).sum::<u64>();
        self.is_unattended &= !self.queue.is_empty();
        (bodies, undo)
    }

    pub(super) fn complete(&mut self, bodies: &[Arc<Body>], written: Batches, writer: &Writer) {
        for (body, place) in bodies.iter().zip(&written.places) {
            let entries = body.payloads.len() as u64;
            let rows = &mut self.groups.rows;
            rows.written(body.number, entries, place.segment, place.offset);
        }
        self.memory.written(&written.places);
        self.durable += bodies.len() as u64;
        self.counts.count(bodies, writer);
        self.jumps.retain(|_, (number, _)| *number > self.durable);
        let bytes = bodies
            .iter()
            .filter(|body| !body.is_move())
            .map(|body| body.sizes.payloads);
        self.round.wrote(bytes.sum());
        self.mark.unmarked_since = Some(Instant::now());
        self.mark_durable = writer.mark;
        for segment in written.new_segments {
            self.space.gave_up = false;
            self.round.blocked = None;
            self.space.segments_bytes += segment.header.file_bytes;
            self.segments.insert(segment.header.number, segment);
        }
        self.full.extend(written.full);
        self.space.taken = self.queue.iter().map(|queued| queued.body.space).sum();
        self.space.follow(writer);
        self.find_dead(writer.segment.header.number);
    }

    /// Looks for segments that nothing points into any more: purged, truncated or replaced, by batches up to the last one
    /// that was submitted.
    fn find_dead(&mut self, current: u64) {
        if self.dead.is_some() {
            return;
        }
        let alive =
            (self.oldest..current).find(|&number| self.groups.rows.live(number).entries > 0);
        let below = alive.unwrap_or(current);
        if below > self.oldest {
            self.dead = Some((below, self.submitted));
        }
    }

    /// The segments that may be freed now. A segment is sealed before it is freed.
    pub(super) fn freed(&mut self) -> Option<Vec<Arc<Segment>>> {
        let is_decided = |submitted: u64| submitted <= self.durable || planted("freed_early");
        let (below, _) = self.dead.take_if(|(_, submitted)| is_decided(*submitted))?;
        for number in std::mem::replace(&mut self.oldest, below)..below {
            self.tables.remove(number);
        }
        self.groups.rows.forget_segments(below);
        let live = self.segments.split_off(&below);
        let freed = std::mem::replace(&mut self.segments, live);
        let bytes = freed.values().map(|segment| segment.header.file_bytes);
        self.space.segments_bytes -= bytes.sum::<u64>();
        Some(freed.into_values().collect())
    }

    /// Finds those whose batches are decided.
    pub(super) fn find_due(&mut self) {
        let failed = self.check_poison();
        let decided = match failed {
            Ok(()) => self
                .waiters
                .partition_point(|(number, _)| *number <= self.durable),
            Err(_) => self.waiters.len(),
        };
        for (number, waiter) in self.waiters.drain(..decided) {
            let outcome = match number <= self.durable {
                true => Ok(()),
                false => failed.clone(),
            };
            self.due.push_back((waiter, outcome));
        }
    }
}
