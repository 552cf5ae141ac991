//! What all handles of a store share, and the steps that change its directory.
//!
//! # Invariants
//!
//! * `changes` is taken before `state`, and `state` is never held while the disk is waited for. Whoever holds `changes` is
//!   the only one who names, renames or removes files.
//! * A file gets its name when all its bytes are durable, and counts when its name is.
//! * A step that fails so that nobody knows whether it happened is the last one (`poison`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use duramen_disk::{DirLock, Disk};

use crate::canary::planted;
use crate::chunk::ChunkName;
use crate::container::Container;
use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::index::{Index, Place};
use crate::install::Arriving;
use crate::manifest::Manifest;
use crate::names::{NUMBERS_MAX, Role};
use crate::{Options, SnapshotId};

pub(crate) struct Store {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) may_change: bool,
    pub(crate) changes: Mutex<Changes>,
    pub(crate) state: Mutex<State>,
    /// What was held by somebody who is gone: they may not wait for `state`.
    released: Mutex<Vec<Held>>,
    pub(crate) _lock: Box<dyn DirLock>,
}

/// What only whoever holds `changes` needs.
#[derive(Default)]
pub(crate) struct Changes {
    /// Temporary files have numbers of their own.
    pub(crate) drafts: u64,
    /// The file system makes no holes.
    pub(crate) no_holes: bool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) files: BTreeMap<u64, File>,
    pub(crate) snapshots: BTreeMap<u64, Manifest>,
    pub(crate) installs: BTreeMap<u64, Arriving>,
    /// The number of the next file.
    pub(crate) next: u64,
    pub(crate) poison: Option<Arc<Error>>,
}

/// A file that has its name.
pub(crate) struct File {
    pub(crate) container: Arc<Container>,
    pub(crate) role: Role,
    pub(crate) file_bytes: u64,
    pub(crate) hole_bytes: u64,
    /// What was needed of it when holes were made last.
    pub(crate) live_then: u64,
    /// Some of its chunks are damaged: they cannot be written elsewhere.
    pub(crate) is_stuck: bool,
    /// It may hold chunks that were not found.
    pub(crate) is_damaged: bool,
}

/// What somebody held.
pub(crate) enum Held {
    Manifest(Manifest),
    Chunks(Vec<ChunkName>),
}

/// Lets go of what it holds when it is dropped.
pub(crate) struct Pin {
    pub(crate) store: Arc<Store>,
    pub(crate) held: Held,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let held = std::mem::replace(&mut self.held, Held::Chunks(Vec::new()));
        self.store.released.lock().expect(NO_PANIC).push(held);
        // Else whoever only reads would leave more and more. What is given back must not change meanwhile.
        if let Ok(_changes) = self.store.changes.try_lock()
            && let Ok(mut state) = self.store.state.try_lock()
        {
            self.store.let_go(&mut state);
        }
    }
}

pub(crate) const NO_PANIC: &str = "nobody panics while holding the lock";

impl File {
    pub(crate) fn new(container: Container, role: Role, file_bytes: u64) -> File {
        File {
            container: Arc::new(container),
            role,
            file_bytes,
            hole_bytes: 0,
            live_then: u64::MAX,
            is_stuck: false,
            is_damaged: false,
        }
    }

    /// What it takes on the disk, in bytes.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.file_bytes - self.hole_bytes
    }
}

impl State {
    /// A snapshot whose manifest cannot be read needs chunks that nobody knows of: nothing may be given back.
    pub(crate) fn has_unknown(&self) -> bool {
        let mut snapshots = self
            .files
            .iter()
            .filter(|(_, file)| file.role == Role::Snapshot);
        snapshots.any(|(number, _)| !self.snapshots.contains_key(number))
    }

    /// Whether a snapshot lacks chunks: they may lie in a damaged file.
    pub(crate) fn lacks_chunks(&self) -> bool {
        let mut manifests = self.snapshots.values();
        manifests.any(|manifest| !self.index.missing(manifest).is_empty())
    }

    /// The snapshots from the oldest to the newest: by what they are of, then by when they were published.
    pub(crate) fn in_order(&self) -> Vec<(SnapshotId, Manifest)> {
        let snapshots = self.snapshots.iter();
        let mut snapshots: Vec<_> = snapshots
            .map(|(number, manifest)| (SnapshotId(*number), manifest.clone()))
            .collect();
        snapshots.sort_by_key(|(id, manifest)| (manifest.meta().last_index, *id));
        snapshots
    }
}

impl Store {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        may_change: bool,
        state: State,
        lock: Box<dyn DirLock>,
    ) -> Store {
        Store {
            disk,
            dir: dir.to_owned(),
            options,
            may_change,
            changes: Mutex::default(),
            state: Mutex::new(state),
            released: Mutex::default(),
            _lock: lock,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(NO_PANIC)
    }

    /// Begins a change of the directory.
    pub(crate) fn changes(&self) -> Result<MutexGuard<'_, Changes>> {
        if !self.may_change {
            return Err(Error::ReadOnly {
                path: self.dir.clone(),
            });
        }
        let changes = self.changes.lock().expect(NO_PANIC);
        match &self.state().poison {
            None => Ok(changes),
            Some(cause) => Err(Error::Poisoned {
                cause: cause.clone(),
            }),
        }
    }

    /// It is not known whether a change happened: no other may rely on it. Gives what is to be told: also where it was for
    /// want of space, that nothing changed is not to be said.
    pub(crate) fn poison(&self, error: Error) -> Error {
        tracing::error!(%error, "the snapshot store takes no more changes");
        let mut state = self.state();
        let cause = state.poison.get_or_insert_with(|| Arc::new(error.clone()));
        match error {
            Error::Full { .. } => Error::Poisoned {
                cause: cause.clone(),
            },
            error => error,
        }
    }

    /// Lets go of what was held by those who are gone.
    pub(crate) fn settle_released(&self) {
        self.let_go(&mut self.state());
    }

    fn let_go(&self, state: &mut State) {
        let released = std::mem::take(&mut *self.released.lock().expect(NO_PANIC));
        for held in released {
            match held {
                Held::Manifest(manifest) => state.index.release_all(&manifest),
                Held::Chunks(names) => names.iter().for_each(|name| state.index.release(name)),
            }
        }
    }

    pub(crate) fn draft(&self) -> Result<Draft> {
        let mut changes = self.changes()?;
        changes.drafts += 1;
        let number = changes.drafts;
        drop(changes);
        Draft::create(&self.disk, &self.dir, number, self.options.owner)
    }

    /// Gives a file that is durable its name, durably. A full disk changes nothing.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        match self
            .disk
            .rename(from, to)
            .map_err(Error::io("rename", from))
        {
            Err(Error::Full { path }) => return Err(Error::Full { path }),
            renamed => renamed.map_err(|error| self.poison(error))?,
        }
        self.sync_dir()
    }

    pub(crate) fn sync_dir(&self) -> Result<()> {
        if planted("no_dir_sync") {
            return Ok(());
        }
        let synced = self.disk.sync_dir(&self.dir);
        synced.map_err(|error| self.poison(Error::io("sync", &self.dir)(error)))
    }

    /// Names a file that was ended, as the newest of all. Gives its number; its chunks count from now on.
    pub(crate) fn publish(
        &self,
        _: &mut Changes,
        draft: &mut Draft,
        role: Role,
        manifest: Option<Manifest>,
    ) -> Result<u64> {
        let number = self.next_number()?;
        let path = role.path(&self.dir, number);
        self.rename(&draft.path, &path)?;
        draft.keep_as(path);
        let mut state = self.state();
        let state = &mut *state;
        let file = File::new(draft.container(), role, draft.end());
        state.files.insert(number, file);
        if let Some(manifest) = manifest {
            state.index.hold_all(&manifest);
            match role {
                Role::Install => {}
                _ => drop(state.snapshots.insert(number, manifest)),
            }
        }
        for row in draft.rows() {
            let place = Place {
                file: number,
                offset: row.offset,
                bytes: row.bytes,
            };
            state.index.put(&row.name, place);
        }
        Ok(number)
    }

    /// None above those that the next open takes for numbers.
    fn next_number(&self) -> Result<u64> {
        let mut state = self.state();
        let number = state.next.max(1);
        if number >= NUMBERS_MAX {
            let none_left = io::Error::other("a file has the last number");
            return Err(Error::io("add a file to", &self.dir)(none_left));
        }
        state.next = number + 1;
        Ok(number)
    }

    /// Gives a file another role. Durable on return, if it was so before.
    pub(crate) fn change_role(&self, number: u64, role: Role) -> Result<()> {
        let path = self
            .state()
            .files
            .get(&number)
            .map(|file| file.container.path.clone());
        let from = path.expect("a file that is known");
        let to = role.path(&self.dir, number);
        let renamed = self
            .disk
            .rename(&from, &to)
            .map_err(Error::io("rename", &from));
        match renamed {
            Err(Error::Full { path }) => return Err(Error::Full { path }),
            renamed => renamed.map_err(|error| self.poison(error))?,
        }
        if let Some(file) = self.state().files.get_mut(&number) {
            file.role = role;
            file.container = Arc::new(Container {
                path: to,
                file: file.container.file.clone(),
            });
        }
        Ok(())
    }

    /// Makes durable what a manifest needs of installs that are under way.
    pub(crate) fn sync_installs(&self, manifest: &Manifest) -> Result<()> {
        let state = self.state();
        let installs = state
            .files
            .iter()
            .filter(|(_, file)| file.role == Role::Install);
        let arriving: Vec<_> = installs
            .map(|(number, file)| (*number, file.container.clone()))
            .collect();
        let needed = |number: u64| {
            let mut places = manifest
                .chunks()
                .iter()
                .filter_map(|chunk| state.index.find(&chunk.name));
            places.any(|place| place.file == number)
        };
        let needed: Vec<_> = arriving
            .into_iter()
            .filter(|(number, _)| needed(*number))
            .collect();
        drop(state);
        for (_, container) in needed {
            if planted("shared_not_synced") {
                continue;
            }
            let synced = container.file.sync_data();
            synced.map_err(|error| self.poison(Error::io("sync", &container.path)(error)))?;
        }
        Ok(())
    }

    /// The bytes of a chunk that the caller holds, checked.
    pub(crate) fn chunk(&self, name: ChunkName, snapshot: Option<SnapshotId>) -> Result<Bytes> {
        let mut before = None;
        loop {
            let state = self.state();
            let Some(place) = state.index.find(&name) else {
                return Err(Error::MissingChunk { snapshot, name });
            };
            let file = state
                .files
                .get(&place.file)
                .map(|file| file.container.clone());
            drop(state);
            let container = file.expect("a file in which chunks lie is open");
            match container.chunk(&place.row(name)) {
                Ok(bytes) => return Ok(bytes),
                // It may have been written elsewhere meanwhile, and a hole made here.
                Err(_) if before != Some(place) => before = Some(place),
                Err(reason) => {
                    return Err(Error::DamagedChunk {
                        snapshot,
                        name,
                        path: container.path.clone(),
                        offset: place.row(name).bytes_offset(),
                        reason,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use duramen_disk::SimDisk;

    use super::*;
    use crate::{Meta, SnapshotStore};

    #[test]
    fn whoever_only_reads_leaves_nothing() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        let open = |read| match read {
            true => SnapshotStore::open_read(disk.clone(), "/store", Options::default()),
            false => SnapshotStore::open_on(disk.clone(), "/store", Options::default()),
        };
        let store = open(false).unwrap();
        let id = store.begin(Meta::new(1, 1)).unwrap().publish().unwrap().id;
        drop(store);
        for read in [false, true] {
            let store = open(read).unwrap();
            store.verify(|_| {}).unwrap();
            drop(store.reader(id).unwrap());
            assert_eq!(store.store.released.lock().unwrap().len(), 0);
        }
    }
}
