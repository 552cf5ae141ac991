//! Taking in a snapshot from a peer, chunk by chunk.
//!
//! The manifest is durable before the first chunk is taken, and stands for it: it pins the chunks that are there, also after
//! a crash, and an install that is begun again goes on with what had arrived.

use std::collections::HashMap;
use std::sync::Arc;

use crate::SnapshotId;
use crate::canary::planted;
use crate::chunk::ChunkName;
use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::index::Place;
use crate::manifest::Manifest;
use crate::names::Role;
use crate::store::{Changes, State, Store};
use crate::writer::{Counts, Published};

/// An install that is not complete.
pub(crate) struct Arriving {
    pub(crate) manifest: Manifest,
    /// Nothing while somebody has it in hand.
    draft: Option<Draft>,
}

impl Arriving {
    pub(crate) fn new(manifest: Manifest, draft: Draft) -> Arriving {
        Arriving {
            manifest,
            draft: Some(draft),
        }
    }
}

/// A snapshot that arrives from a peer. See [`SnapshotStore::begin_install`](crate::SnapshotStore::begin_install).
///
/// Dropped before it is published, it stays, with what has arrived, until it is begun again, or another one is.
pub struct Install {
    store: Arc<Store>,
    number: u64,
    manifest: Manifest,
    lengths: HashMap<ChunkName, u32>,
    /// Something until it is dropped.
    draft: Option<Draft>,
    unsynced: u64,
    counts: Counts,
}

/// What has arrived is made durable each time it is so much.
const SYNC_BYTES: u64 = 32 << 20;

impl Install {
    pub(crate) fn begin(store: Arc<Store>, manifest: Manifest) -> Result<Install> {
        let mut changes = store.changes()?;
        let (number, draft) = match go_on(&store, &manifest)? {
            Some(there) => there,
            None => begin_anew(&store, &mut changes, &manifest)?,
        };
        let lengths = manifest
            .chunks()
            .iter()
            .map(|chunk| (chunk.name, chunk.bytes));
        let install = Install {
            lengths: lengths.collect(),
            number,
            manifest,
            draft: Some(draft),
            unsynced: 0,
            counts: Counts::default(),
            store: store.clone(),
        };
        give_up_others(&store, Some(number))?;
        store.reclaim_or_warn(&mut changes);
        drop(changes);
        Ok(install)
    }

    /// What the snapshot consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The chunks that are to be fetched still, each once, in no order. This goes through the whole manifest.
    pub fn missing(&self) -> Vec<ChunkName> {
        self.store.state().index.missing(&self.manifest)
    }

    /// Takes a chunk; they may come in any order, and more than once. Says whether it was missing. It is durable when the
    /// snapshot is published, and may be so before.
    ///
    /// # Errors
    /// [`Error::UnknownChunk`], [`Error::WrongChunk`]: it was not taken. [`Error::Full`], [`Error::Io`],
    /// [`Error::Poisoned`].
    pub fn put(&mut self, name: ChunkName, bytes: &[u8]) -> Result<bool> {
        let wanted = self
            .lengths
            .get(&name)
            .ok_or(Error::UnknownChunk { name })?;
        let found = ChunkName::of(bytes);
        if found != name || bytes.len() != *wanted as usize {
            return Err(Error::WrongChunk {
                expected: name,
                found,
                bytes: bytes.len(),
            });
        }
        self.counts.bytes_in += bytes.len() as u64;
        if self.store.state().index.find(&name).is_some() {
            self.counts.bytes_shared += bytes.len() as u64;
            return Ok(false);
        }
        let draft = self
            .draft
            .as_mut()
            .expect("it is there until it is dropped");
        let row = draft.put_through(name, bytes)?; // It can be read from now on.
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_BYTES {
            // A failed sync is told once. Whoever syncs the same bytes waits, and is told that the store is poisoned.
            let _changes = self.store.changes()?;
            let synced = draft.sync();
            synced.map_err(|error| self.store.poison(error))?;
            self.unsynced = 0;
        }
        self.counts.bytes_written += bytes.len() as u64;
        let place = Place {
            file: self.number,
            offset: row.offset,
            bytes: row.bytes,
        };
        let mut state = self.store.state();
        if state.index.find(&name).is_none() {
            state.index.put(&name, place); // Else it came another way meanwhile, and a snapshot may rely on that copy.
        }
        if let Some(file) = state.files.get_mut(&self.number) {
            file.file_bytes = draft.end();
        }
        Ok(true)
    }

    /// Makes the snapshot durable and visible, whole, in one step.
    ///
    /// # Errors
    /// [`Error::Incomplete`]: what has arrived stays, for the next [`begin_install`](crate::SnapshotStore::begin_install).
    /// [`Error::Full`], [`Error::Io`], [`Error::Poisoned`].
    pub fn publish(mut self) -> Result<Published> {
        let missing = self.missing().len();
        if missing > 0 && !planted("published_incomplete") {
            return Err(Error::Incomplete { missing });
        }
        let store = self.store.clone();
        let mut changes = store.changes()?;
        store.sync_installs(&self.manifest)?;
        let draft = self
            .draft
            .as_mut()
            .expect("it is there until it is dropped");
        end_file(&store, self.number, draft)?;
        store.change_role(self.number, Role::Snapshot)?;
        store.sync_dir()?;
        let mut state = store.state();
        state.installs.remove(&self.number);
        state.snapshots.insert(self.number, self.manifest.clone());
        drop(state);
        self.counts.file_bytes = draft.end();
        self.draft = None; // It is no install any more.
        store.reclaim_or_warn(&mut changes);
        Ok(Published {
            id: SnapshotId(self.number),
            manifest: self.manifest.clone(),
            counts: self.counts,
        })
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        if let Some(draft) = self.draft.take()
            && let Some(arriving) = self.store.state().installs.get_mut(&self.number)
        {
            arriving.draft = Some(draft);
        }
    }
}

/// Takes an install of this snapshot in hand, if there is one.
fn go_on(store: &Store, manifest: &Manifest) -> Result<Option<(u64, Draft)>> {
    let mut state = store.state();
    let mut installs = state.installs.iter_mut();
    let there = installs.find(|(_, arriving)| arriving.manifest == *manifest);
    let Some((number, arriving)) = there else {
        return Ok(None);
    };
    let name = manifest.name();
    let draft = arriving.draft.take().ok_or(Error::Installing { name })?;
    Ok(Some((*number, draft)))
}

/// Makes a file with the manifest in front, durably.
fn begin_anew(store: &Store, changes: &mut Changes, manifest: &Manifest) -> Result<(u64, Draft)> {
    changes.drafts += 1;
    let owner = store.options.owner;
    let mut draft = Draft::create(&store.disk, &store.dir, changes.drafts, owner)?;
    draft.put_manifest(manifest)?;
    draft.sync()?;
    let number = store.publish(changes, &mut draft, Role::Install, Some(manifest.clone()))?;
    let arriving = Arriving {
        manifest: manifest.clone(),
        draft: None,
    };
    store.state().installs.insert(number, arriving);
    Ok((number, draft))
}

/// Ends the file of an install.
fn end_file(store: &Store, number: u64, draft: &mut Draft) -> Result<()> {
    match draft.put_end() {
        Ok(()) => {}
        Err(Error::Full { path }) => return Err(Error::Full { path }),
        Err(error) => return Err(store.poison(error)),
    }
    // What had arrived may be gone, also where the sync had no space: it is not to be tried again.
    draft.sync().map_err(|error| store.poison(error))?;
    if let Some(file) = store.state().files.get_mut(&number) {
        file.file_bytes = draft.end();
    }
    Ok(())
}

/// Gives up the installs that nobody has in hand, but for one. What has arrived of them stays if something needs it.
pub(crate) fn give_up_others(store: &Store, but: Option<u64>) -> Result<()> {
    store.settle_released();
    let mut guard = store.state();
    // A snapshot may need what could not be read of it, and no table would tell of that.
    let lacks_chunks = guard.lacks_chunks();
    let State {
        installs, files, ..
    } = &mut *guard;
    let is_to_stay = |number| lacks_chunks && files.get(number).is_some_and(|file| file.is_damaged);
    let others = installs.iter_mut();
    let others: Vec<(u64, Draft)> = others
        .filter(|(other, _)| Some(**other) != but && !is_to_stay(*other))
        .filter_map(|(other, arriving)| Some((*other, arriving.draft.take()?)))
        .collect();
    drop(guard);
    for (other, mut draft) in others {
        let given_up = give_up(store, other, &mut draft);
        let mut state = store.state();
        match given_up {
            Ok(()) => {
                if let Some(arriving) = state.installs.remove(&other) {
                    state.index.release_all(&arriving.manifest);
                }
            }
            Err(error) => {
                // It can be given up another time.
                if let Some(arriving) = state.installs.get_mut(&other) {
                    arriving.draft = Some(draft);
                }
                if !matches!(error, Error::Full { .. }) {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// Durably: on return the install does not come back. Where nothing else needs what has arrived, this takes no space.
fn give_up(store: &Store, number: u64, draft: &mut Draft) -> Result<()> {
    let mut state = store.state();
    let arriving = state.installs.get(&number);
    let manifest = arriving.map(|arriving| arriving.manifest.clone());
    // As long as a snapshot's manifest cannot be read, nobody knows whether something else needs what is in it.
    let unshared = manifest
        .filter(|manifest| !state.has_unknown() && !state.index.is_shared(number, manifest));
    if let Some(manifest) = unshared {
        // From now on nobody can refer to what is in it.
        state.index.lose_all_in(number, &manifest);
        state.files.remove(&number);
        drop(state);
        let removed = store.disk.remove(&draft.path);
        removed.map_err(|error| store.poison(Error::io("remove", &draft.path)(error)))?;
    } else {
        drop(state);
        end_file(store, number, draft)?;
        store.change_role(number, Role::Chunks)?;
    }
    store.sync_dir()
}
