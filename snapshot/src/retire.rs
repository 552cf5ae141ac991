//! Dropping snapshots, and putting damaged chunks right.

use crate::SnapshotId;
use crate::canary::planted;
use crate::chunk::ChunkName;
use crate::error::{Error, Result};
use crate::names::Role;
use crate::store::Store;

impl Store {
    pub(crate) fn drop_older(&self, keep: usize) -> Result<Vec<SnapshotId>> {
        let mut changes = self.changes()?;
        let state = self.state();
        let in_order = state.in_order();
        let older = in_order.len().saturating_sub(keep);
        let mut dropped: Vec<SnapshotId> = in_order[..older].iter().map(|(id, _)| *id).collect();
        if let Some(oldest) = in_order[older..].iter().map(|(id, _)| *id).min()
            && in_order.len() >= keep
        {
            // Nobody can read them, and enough others are there that came later. One that came later than those may be
            // readable another time, and then it is the one to keep.
            let snapshots = state
                .files
                .iter()
                .filter(|(_, file)| file.role == Role::Snapshot);
            let numbers = snapshots.map(|(number, _)| *number);
            let bad = numbers.filter(|number| !state.snapshots.contains_key(number));
            dropped.extend(bad.map(SnapshotId).filter(|id| *id < oldest));
        }
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
        self.reclaim(&mut changes)?;
        match full {
            None => Ok(dropped),
            Some((_, error)) => Err(error),
        }
    }

    pub(crate) fn repair_chunk(&self, name: ChunkName, bytes: &[u8]) -> Result<()> {
        let found = ChunkName::of(bytes);
        if found != name {
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
        Ok(())
    }
}
