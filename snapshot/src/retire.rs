//! Dropping snapshots, and putting damaged chunks right.

use crate::SnapshotId;
use crate::canary::planted;
use crate::chunk::ChunkName;
use crate::error::{Error, Result};
use crate::format::CHUNK_BYTES_MAX;
use crate::manifest::Manifest;
use crate::names::Role;
use crate::store::{State, Store};

impl State {
    /// The snapshots that are older than the `keep` newest whole ones. None if there are not so many.
    ///
    /// One whose manifest cannot be read is older if it was published before all that are kept. If it came later it may be
    /// readable another time, and then it is the one to keep.
    fn older_than(&self, keep: usize) -> Vec<SnapshotId> {
        let in_order = self.in_order();
        let is_whole = |manifest: &Manifest| self.index.missing(manifest).is_empty();
        let newest_first = (0..in_order.len()).rev();
        let kept_from = match keep.checked_sub(1) {
            None => Some(in_order.len()),
            Some(others) => newest_first
                .filter(|at| is_whole(&in_order[*at].1))
                .nth(others),
        };
        let Some(kept_from) = kept_from else {
            return Vec::new();
        };
        let (older, kept) = in_order.split_at(kept_from);
        let oldest_kept = kept.iter().map(|(id, _)| id.0).min().unwrap_or(u64::MAX);
        let files = self
            .files
            .iter()
            .filter(|(_, file)| file.role == Role::Snapshot);
        let bad = files
            .map(|(number, _)| *number)
            .filter(|number| !self.snapshots.contains_key(number) && *number < oldest_kept);
        older
            .iter()
            .map(|(id, _)| *id)
            .chain(bad.map(SnapshotId))
            .collect()
    }
}

impl Store {
    pub(crate) fn drop_older(&self, keep: usize) -> Result<Vec<SnapshotId>> {
        let mut changes = self.changes()?;
        let state = self.state();
        let mut dropped = state.older_than(keep);
        drop(state);
        let mut full = None;
        for (at, id) in dropped.iter().enumerate() {
            match self.change_role(id.0, Role::Chunks) {
                Err(Error::Full { path }) => {
                    full = Some((at, Error::Full { path }));
                    break; // A longer name may take space. Those before are dropped.
                }
                changed => changed?,
            }
        }
        dropped.truncate(full.as_ref().map_or(dropped.len(), |(at, _)| *at));
        if !dropped.is_empty() && !planted("hole_before_drop") {
            self.sync_dir()?; // Only now may what they held be given back.
        }
        let mut state = self.state();
        for id in &dropped {
            if let Some(manifest) = state.snapshots.remove(&id.0) {
                state.index.release_all(&manifest);
            }
        }
        drop(state);
        self.reclaim_or_warn(&mut changes);
        match full {
            None => Ok(dropped),
            Some((_, error)) => Err(error),
        }
    }

    pub(crate) fn repair_chunk(&self, name: ChunkName, bytes: &[u8]) -> Result<()> {
        let found = ChunkName::of(bytes);
        let is_length = (1..=CHUNK_BYTES_MAX as usize).contains(&bytes.len());
        if found != name || !is_length {
            return Err(Error::WrongChunk {
                expected: name,
                found,
                bytes: bytes.len(),
            });
        }
        if !self.state().index.is_held(&name) {
            return Err(Error::UnknownChunk { name });
        }
        // Not where it was: the disk may not keep it there, and a file is never written again.
        let mut draft = self.draft()?;
        draft.put_chunk(name, bytes)?;
        draft.end_file()?;
        let mut changes = self.changes()?;
        self.publish(&mut changes, &mut draft, Role::Chunks, None)?;
        let mut state = self.state();
        state
            .files
            .values_mut()
            .for_each(|file| file.is_stuck = false);
        drop(state);
        self.reclaim_or_warn(&mut changes); // Of what was repaired before.
        Ok(())
    }
}
