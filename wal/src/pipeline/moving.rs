//! Moving: the entries of a group that lags would pin the oldest segment, and all after it. When too much of the space is
//! dead, what is needed of the oldest segment is written again at the end of the log, so that it can be freed.
//!
//! A move is a batch like any other, composed and taken in one step, so that it fits the log at its place in the order. It
//! never changes what a group holds. A damaged entry is moved without its payload, which keeps its id and checksum: it can
//! still be named and repaired.

use std::sync::Arc;

use bytes::Bytes;

use super::space::{Reserved, space_needed};
use super::{Pipeline, Shared};
use crate::Options;
use crate::batch::Batch;
use crate::canary::planted;
use crate::error::{Error, Result};
use crate::live::{Cursor, ENTRY_BYTES, LiveEntry, live_in};
use crate::segment::Segment;
use crate::sync::MutexGuard;
use crate::table::Table;

/// One move takes about so much.
const MOVE_BYTES: u64 = 1 << 20;

/// Which segments may be moved. Each entry is moved once, and again only when enough else was written: so moving ends, also
/// where it does not help.
#[derive(Default)]
pub(super) struct Round {
    /// The newest segment when the round began, if one is under way.
    until: Option<u64>,
    /// What was written since the last round began, in bytes of payload, moves aside.
    written_bytes: u64,
    /// The entries of this segment cannot be moved. Tried again after the next rotation.
    pub(super) blocked: Option<u64>,
}

impl Round {
    pub(super) fn wrote(&mut self, bytes: u64) {
        self.written_bytes += bytes;
    }

    /// Whether a segment that should be moved may be.
    fn allows(&self, segment: u64, options: &Options) -> bool {
        let in_round = self.until.is_some_and(|until| segment <= until);
        let may_begin = self.written_bytes >= options.segment_bytes / 2;
        self.blocked != Some(segment) && (in_round || may_begin)
    }

    fn moves(&mut self, segment: u64, newest: u64) {
        if self.until.is_none_or(|until| segment > until) {
            self.until = Some(newest);
            self.written_bytes = 0;
        }
    }
}

impl Shared {
    /// What all files together may take: twice what is needed and three segments.
    pub(super) fn bytes_allowed(&self) -> u64 {
        let live = self.groups.rows.all_live();
        let needed = live.bytes.saturating_add(ENTRY_BYTES * live.entries);
        let twice = needed.saturating_mul(2);
        twice.saturating_add(3 * self.space.preferred_bytes)
    }

    /// The oldest segment, if what is needed of it is to be moved: all files together take more than they may.
    pub(super) fn to_be_moved(&self, options: &Options) -> Option<&Arc<Segment>> {
        if self.space.files_bytes() <= self.bytes_allowed() {
            return None;
        }
        let (&number, oldest) = self.segments.first_key_value()?;
        let is_full = self.segments.len() > 1 && self.dead.is_none();
        let is_sealed = !self
            .full
            .iter()
            .any(|full| full.segment.header.number == number);
        let has_live = self.groups.rows.live(number).entries > 0;
        let is_next = is_full && is_sealed && has_live && self.round.allows(number, options);
        is_next.then_some(oldest)
    }
}

impl Pipeline {
    /// Moves some entries of the oldest segment. They are durable when this returns, or the log is poisoned, or it goes on
    /// with less space.
    pub(super) fn move_some<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
        segment: &Arc<Segment>,
    ) -> MutexGuard<'a, Shared> {
        let number = segment.header.number;
        let newest = shared
            .segments
            .last_key_value()
            .map_or(0, |(newest, _)| *newest);
        shared.round.moves(number, newest);
        let table = shared.tables.find(number).cloned();
        drop(shared);
        let moved = table.map_or_else(|| Table::load(segment).map(Arc::new), Ok);
        let moved = moved.and_then(|table| {
            let mut shared = self.shared();
            shared.tables.insert(number, table.clone());
            let bytes_max = MOVE_BYTES.min(self.options.batch_bytes_max / 4);
            let (ids, cursor) = (table.groups(), &mut Cursor::default());
            let entries = live_in(
                &shared.groups,
                number,
                Some(&table),
                &ids,
                cursor,
                bytes_max,
            );
            drop(shared);
            self.rewrite(segment, &entries)
        });
        let mut shared = self.shared();
        if let Err(error) = moved {
            tracing::warn!(%error, path = %segment.path.display(), "entries cannot be moved; their segment stays");
            shared.round.blocked = Some(number);
        }
        shared
    }

    /// Reads entries of a segment and writes them again at the end of the log.
    fn rewrite(&self, segment: &Segment, entries: &[LiveEntry]) -> Result<()> {
        let mut payloads = Vec::with_capacity(entries.len());
        for entry in entries {
            let read = entry.read(segment)?;
            if let Err(reason) = &read {
                tracing::error!(group = %entry.group, id = %entry.id, %reason, "a damaged entry is moved without its payload");
                self.shared().counts.damage_found += 1;
            }
            payloads.push(read.ok());
        }
        let entries: Vec<_> = entries.iter().copied().zip(payloads).collect();
        self.move_in_batches(segment.header.number, &entries)
    }

    /// In as many batches as it takes: how large one gets is not known before it is made.
    fn move_in_batches(&self, segment: u64, entries: &[(LiveEntry, Option<Bytes>)]) -> Result<()> {
        match self.move_entries(segment, entries) {
            Err(Error::TooLarge { .. }) if entries.len() > 1 => {
                let (some, others) = entries.split_at(entries.len() / 2);
                self.move_in_batches(segment, some)?;
                self.move_in_batches(segment, others)
            }
            moved => moved,
        }
    }

    /// Writes entries of a segment again, with these payloads. Those that are not there any more are left out. Durable on
    /// return.
    pub(crate) fn move_entries(
        &self,
        segment: u64,
        entries: &[(LiveEntry, Option<Bytes>)],
    ) -> Result<()> {
        let mut shared = self.shared();
        let (number, moved) = loop {
            shared.check_poison()?;
            let mut batch = Batch::new();
            for (entry, payload) in entries {
                if entry.is_in(segment, &shared.groups) {
                    entry.put(&mut batch, payload.clone());
                }
            }
            if batch.is_empty() {
                return Ok(());
            }
            batch.vital();
            let moved = batch.records.metas.len() as u64;
            // One entry was taken once, when the limit was another one.
            let space = match self.space_of(&batch) {
                Err(Error::TooLarge { .. }) if moved == 1 => space_needed(&batch),
                space => space?,
            };
            let space = space.total();
            let reserved;
            (shared, reserved) = self.reserve(shared, space, true);
            match reserved? {
                Reserved::Yes => break (self.take(&mut shared, batch, space)?, moved),
                Reserved::AskAgain => {}
                Reserved::AfterWrites => shared = self.write_or_wait_once(shared),
            }
        };
        shared.counts.entries_moved += moved;
        if planted("moved_before_durable") {
            shared.dead = Some((segment + 1, 0));
            return Ok(());
        }
        while shared.durable < number {
            shared.check_poison()?;
            shared = self.write_or_wait_once(shared);
        }
        Ok(())
    }

    /// Without what segments need after a write: this is part of it.
    fn write_or_wait_once<'a>(&'a self, shared: MutexGuard<'a, Shared>) -> MutexGuard<'a, Shared> {
        match shared.is_writing {
            true => self.turns.wait(shared.writes, shared),
            false => self.write_once(shared),
        }
    }
}
