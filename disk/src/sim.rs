//! A disk in memory that can be killed, lose power, run full, fail and lie.
//!
//! Invariants:
//! * Nothing here is random but what a power cut leaves, and that follows from its seed and the state of the disk.
//! * What a disk does wrong was asked for by the test that owns it.

mod bytes;
mod control;
mod fate;
mod faults;
mod handles;
mod holes;
mod image;
mod names;
mod state;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use faults::{Failure, Hang, Op};

use fate::Fate;
use state::State;

/// A disk in memory, to see what a program leaves behind when it is killed, its machine loses power, or its disk fails.
///
/// # The model
///
/// It keeps *cache* and *media* apart. Writes, names and lengths change the cache, which all reads see;
/// [`sync_data`](crate::DiskFile::sync_data) and [`sync_dir`](crate::Disk::sync_dir) bring them to the media.
///
/// * [`kill`](SimDisk::kill): the process is gone, the machine goes on. The cache stays, all handles are dead and all
///   locks are free.
/// * [`power_cut`](SimDisk::power_cut): the cache is gone. Of what was not synced, each 512-byte sector is kept, lost or
///   torn on its own, each length kept or lost, each name of a file or a directory kept or lost, in any order. A sector that
///   was written more than once, or cut off, may be any of its last versions, and a length any that it was, since the
///   kernel writes when it likes. A byte that was written with the value it had is not harmed (power-safe overwrite), and a
///   rename is whole or not there.
///   [`power_cut_keeping`](SimDisk::power_cut_keeping) says of each unit whether it is kept.
///
/// Paths begin with `/`. Cloning gives another handle to the same disk; [`fork`](SimDisk::fork) gives another disk, and copies no bytes.
/// [`every_crash`](crate::every_crash()) tries a program at every point where it may die, in every way.
///
/// What a disk can do wrong, one call each:
///
/// | | |
/// |---|---|
/// | an operation fails | [`fail_after`](SimDisk::fail_after), [`fail_op`](SimDisk::fail_op) |
/// | a write or a read is short | [`fail_op`](SimDisk::fail_op) with [`Failure::SHORT`], [`set_write_bytes_max`](SimDisk::set_write_bytes_max), [`set_read_bytes_max`](SimDisk::set_read_bytes_max) |
/// | a sync fails, its pages are dropped | [`fail_next_sync`](SimDisk::fail_next_sync), [`fail_write_back`](SimDisk::fail_write_back), [`evict`](SimDisk::evict) |
/// | a sync is slow, or hangs | [`set_sync_time`](SimDisk::set_sync_time), [`hang_syncs`](SimDisk::hang_syncs) |
/// | the disk is full | [`set_free_bytes`](SimDisk::set_free_bytes), [`set_name_bytes`](SimDisk::set_name_bytes) |
/// | it is remounted read-only | [`set_read_only`](SimDisk::set_read_only) |
/// | a sector cannot be read | [`make_bad`](SimDisk::make_bad) |
/// | a bit flips | [`flip_bit`](SimDisk::flip_bit) |
/// | a write is lost or goes elsewhere | [`lose_write`](SimDisk::lose_write), [`misdirect_write`](SimDisk::misdirect_write) |
/// | old content comes back | [`make_stale`](SimDisk::make_stale) |
///
/// ```
/// use std::{io, path::Path};
/// use duramen_disk::{Disk, DiskFile, SimDisk};
///
/// let disk = SimDisk::new();
/// let file = disk.create(Path::new("/data"))?;
/// disk.sync_dir(Path::new("/"))?;
/// file.write_all_at(b"old", 0)?;
/// file.sync_data()?;
/// file.write_all_at(b"new", 0)?; // and no sync
///
/// disk.power_cut(0);
/// let mut bytes = [0; 3];
/// disk.open(Path::new("/data"))?.read_exact_at(&mut bytes, 0)?;
/// assert_eq!(&bytes, b"old");
/// # Ok::<(), io::Error>(())
/// ```
///
/// # What it leaves out
///
/// * Of the versions that a sector had since it was last synced, the last three and the newest are remembered.
/// * After a failed `sync_dir` the names are still unsynced, and the next one may succeed.
/// * A failed sync loses every sector it was to write; a real one may have written some. A sync that hangs has written
///   nothing until it is released.
/// * An unsynced change of names, of a length or of a sector waits for its own sync alone. On real file systems one sync
///   often brings others along; a program that relies on that fails here.
/// * No permissions, no links, no times; directories are neither renamed nor removed, only exchanged. Sectors are the only block size.
///   A file has at most 16 GiB.
#[derive(Debug, Clone)]
pub struct SimDisk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Some sync began or ended to hang.
    changed: Condvar,
}

const A_WHILE: Duration = Duration::from_millis(10);

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty disk with the directory `/`.
    pub fn new() -> SimDisk {
        let mut state = State::default();
        Arc::make_mut(&mut state.dirs).insert(PathBuf::from("/"), Arc::default());
        SimDisk::of(state)
    }

    fn of(state: State) -> SimDisk {
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let inner = Arc::new(Inner { state, changed });
        SimDisk { inner }
    }

    /// Another disk that is now in the same state, armed faults included, but with no open handles and no locks. What
    /// happens to one does not happen to the other. The cost is that of a few reference counts: the bytes are shared
    /// until they change.
    pub fn fork(&self) -> SimDisk {
        let mut state = self.state().clone();
        state.locks.clear();
        state.open.clear();
        state.hanging.clear();
        SimDisk::of(state)
    }

    /// Kills the process: everything written stays, synced or not. Its handles are dead, its locks are free, and armed
    /// faults are gone; what the disk is (full, slow, read-only, with bad sectors) it stays.
    ///
    /// Drop what used the disk before the next life begins: a dead handle does nothing, but a clone of the disk itself
    /// works on.
    pub fn kill(&self) {
        self.state().die();
        self.changed();
    }

    /// Cuts the power: what was synced stays, the rest follows from `seed` as the [type](SimDisk) says. Seed 0 loses all
    /// of it. The process is dead as after [`kill`](SimDisk::kill).
    pub fn power_cut(&self, seed: u64) {
        let mut fate = Fate::new(seed);
        let fate = std::cell::RefCell::new(&mut fate);
        let mut state = self.state();
        state.die();
        state.cut(
            |names| names.power_cut(&mut fate.borrow_mut()),
            |bytes| bytes.power_cut(&mut fate.borrow_mut()),
        );
        drop(state);
        self.changed();
    }

    /// How many units are not synced, each of which a power cut may keep or lose on its own: changes of names, files whose
    /// length is not durable, sectors.
    pub fn unsynced_units(&self) -> usize {
        self.state().units()
    }

    /// Cuts the power and keeps of the [units](SimDisk::unsynced_units) those for which `keep` says so; it is asked for
    /// each in turn, first the names. Nothing is torn.
    ///
    /// `false`: what is left is also left by a cut that keeps fewer of them (a sector past the length, the content of a
    /// file whose name is lost), so an enumeration can pass it over.
    pub fn power_cut_keeping(&self, keep: impl FnMut(usize) -> bool) -> bool {
        let distinct = self.state().cut_keeping(keep);
        self.changed();
        distinct
    }

    /// Whether a power cut may leave something that was there for a while, and that no unit is about.
    pub(crate) fn has_past(&self) -> bool {
        let state = self.state();
        state.files.values().any(|file| file.has_past())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed an assertion while it held the lock has left no half-made change.
        let state = self.inner.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever waits for a sync to begin or to end hanging.
    fn changed(&self) {
        self.inner.changed.notify_all();
    }

    /// Waits until something changed, or a while: a crash in an operation of another thread wakes nobody.
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let state = self.inner.changed.wait_timeout(state, A_WHILE);
        state.unwrap_or_else(PoisonError::into_inner).0
    }
}
