//! A disk in memory that can be killed, lose power, run full and fail.
//!
//! Invariants:
//! * Nothing here is random but what a power cut leaves, and that follows from its seed and the state of the disk.
//! * A handle or a lock that was given out before a kill does nothing after it.

mod bytes;
mod fate;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{DirLock, Disk, DiskFile, LOCK_FILE, LockMode, Map};
use bytes::FileBytes;
use fate::Fate;
use names::{FileId, Names};

/// A disk in memory, to see what a program leaves behind when it is killed or its machine loses power.
///
/// It keeps *cache* and *media* apart. Writes, names and lengths change the cache, which all reads see;
/// [`sync_data`](DiskFile::sync_data) and [`sync_dir`](Disk::sync_dir) bring them to the media.
///
/// * [`kill`](SimDisk::kill): the process is gone, the machine goes on. The cache stays, all handles are dead and all
///   locks are free.
/// * [`power_cut`](SimDisk::power_cut): the cache is gone. Of what was not synced, each 512-byte sector is kept, lost or
///   torn on its own, each length kept or lost, each name kept or lost. A byte that was written with the value it had
///   is not harmed (power-safe overwrite), and a rename is whole or not there.
///
/// Cloning gives another handle to the same disk; [`fork`](SimDisk::fork) gives another disk.
///
/// To try a program at every point where it may die, let it run into
/// [`crash_after`](SimDisk::crash_after) 0, 1, 2, .. operations:
///
/// ```
/// use std::{io, path::Path};
/// use duramen_disk::{Disk, DiskFile, SimDisk};
///
/// /// Replaces the file "data": the new bytes under a temporary name, then a rename.
/// fn replace(disk: &SimDisk, bytes: &[u8]) -> io::Result<()> {
///     let (dir, temporary, path) = (Path::new("/"), Path::new("/new"), Path::new("/data"));
///     let file = disk.create(temporary)?;
///     file.write_all_at(bytes, 0)?;
///     file.sync_data()?; // without this, some seed below finds an empty or a torn file
///     disk.rename(temporary, path)?;
///     disk.sync_dir(dir)
/// }
///
/// let disk = SimDisk::new();
/// replace(&disk, b"old")?;
/// for n in 0.. {
///     let crashed = disk.fork();
///     crashed.crash_after(n);
///     let replaced = replace(&crashed, b"new");
///     for seed in 0..20 {
///         let after = crashed.fork();
///         after.power_cut(seed);
///         let mut bytes = [0; 3];
///         after.open(Path::new("/data"))?.read_exact_at(&mut bytes, 0)?;
///         assert!(&bytes == b"new" || (&bytes == b"old" && replaced.is_err()), "operation {n}, seed {seed}");
///     }
///     if replaced.is_ok() {
///         assert_eq!(n, 5); // create, write, sync, rename, sync: one crash before each, and one after all
///         break;
///     }
/// }
/// # Ok::<(), io::Error>(())
/// ```
///
/// # What it leaves out
///
/// A failed sync reports its error to its caller alone and loses all unsynced sectors of the file; after a failed
/// `sync_dir` the names are still unsynced and the next one may succeed. Directories are durable when they are created.
/// Reads neither fail nor rot. Names use no space.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone, Default)]
struct State {
    dirs: BTreeMap<PathBuf, Names>,
    /// Every file ever created: one whose last name is gone may still be open, or come back in a power cut.
    files: BTreeMap<FileId, FileBytes>,
    /// Who holds the lock of a directory.
    locks: BTreeMap<PathBuf, Vec<(u64, LockMode)>>,
    locks_given: u64,
    /// Which life of the process this is. Handles of an earlier one are dead.
    life: u64,
    operations: u64,
    fault: Option<Fault>,
    fail_next_sync: Option<io::ErrorKind>,
    /// Since the crash that was asked for everything fails.
    crashed: bool,
    write_bytes_max: Option<usize>,
    capacity_bytes: Option<u64>,
}

/// What happens to the operation with number `at`.
#[derive(Debug, Clone, Copy)]
struct Fault {
    at: u64,
    stop: Stop,
}

/// Why an operation does not happen.
#[derive(Debug, Clone, Copy)]
enum Stop {
    Crash,
    Error(io::ErrorKind),
}

impl From<Stop> for io::Error {
    fn from(stop: Stop) -> io::Error {
        match stop {
            Stop::Crash => io::Error::other("the simulated process has crashed"),
            Stop::Error(kind) => kind.into(),
        }
    }
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty disk with the directory `/`.
    pub fn new() -> SimDisk {
        let mut state = State::default();
        state.dirs.insert(PathBuf::from("/"), Names::default());
        SimDisk::of(state)
    }

    fn of(state: State) -> SimDisk {
        let state = Arc::new(Mutex::new(state));
        SimDisk { state }
    }

    /// Another disk that is now in the same state, armed faults included, but with no open handles and no locks. What
    /// happens to one does not happen to the other.
    pub fn fork(&self) -> SimDisk {
        let mut state = self.state().clone();
        state.locks.clear();
        SimDisk::of(state)
    }

    /// How many operations were begun that change something: every call but `list`, `open`, `len` and `read_at`, also a
    /// call that failed. A write that is made in several pieces counts for each.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Lets the process die in the operation that follows `operations` further ones: a write is done by half, anything
    /// else not at all. From then on every call fails, until [`kill`](SimDisk::kill) or
    /// [`power_cut`](SimDisk::power_cut). Replaces a fault that was armed before.
    pub fn crash_after(&self, operations: u64) {
        self.arm(operations, Stop::Crash);
    }

    /// Lets the operation that follows `operations` further ones fail with `kind`, once; it has no effect. If it is a
    /// `sync_data`, it fails as with [`fail_next_sync`](SimDisk::fail_next_sync). Replaces a fault that was armed before.
    pub fn fail_after(&self, operations: u64, kind: io::ErrorKind) {
        self.arm(operations, Stop::Error(kind));
    }

    fn arm(&self, operations: u64, stop: Stop) {
        let mut state = self.state();
        let at = state.operations + operations;
        state.fault = Some(Fault { at, stop });
    }

    /// Lets the next `sync_data` fail as Linux does it: the error is reported once, nothing is written, and the pages
    /// count as clean. Reads still see the new bytes, the media has the old ones, and the next sync succeeds without
    /// writing them; only bytes that are written again reach the media.
    pub fn fail_next_sync(&self, kind: io::ErrorKind) {
        self.state().fail_next_sync = Some(kind);
    }

    /// Lets files grow by `bytes` in sum, or without limit. A write that needs more is cut short, the next one is
    /// `StorageFull`. Shrinking and removing files gives space back; overwriting needs none.
    pub fn set_free_bytes(&self, bytes: Option<u64>) {
        let mut state = self.state();
        let used = state.used_bytes();
        state.capacity_bytes = bytes.map(|free| used.saturating_add(free));
    }

    /// Lets each `write_at` write no more than `bytes` (at least 1), or all it was given.
    pub fn set_write_bytes_max(&self, bytes: Option<usize>) {
        self.state().write_bytes_max = bytes.map(|max| max.max(1));
    }

    /// Kills the process: everything written stays, synced or not. Its handles are dead, its locks are free, and armed
    /// faults are gone.
    ///
    /// Drop what used the disk before the next life begins: a dead handle does nothing, but a clone of the disk itself
    /// works on.
    pub fn kill(&self) {
        self.state().die();
    }

    /// Cuts the power: what was synced stays, the rest follows from `seed` as the [type](SimDisk) says. Seed 0 loses all
    /// of it. The process is dead as after [`kill`](SimDisk::kill).
    pub fn power_cut(&self, seed: u64) {
        let mut state = self.state();
        state.die();
        let mut fate = Fate::new(seed);
        for names in state.dirs.values_mut() {
            names.power_cut(&mut fate);
        }
        let named = state.named_files();
        state.files.retain(|file, _| named.contains(file));
        for file in state.files.values_mut() {
            file.power_cut(&mut fate);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed an assertion while it held the lock has left no half-made change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, file: FileId, life: u64, read_only: bool) -> Box<dyn DiskFile> {
        let disk = self.clone();
        Box::new(SimFile {
            disk,
            file,
            life,
            read_only,
        })
    }

    fn find(&self, path: &Path, read_only: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.look()?;
        let (names, name) = state.split(path)?;
        let file = names.find(&name)?;
        Ok(self.handle(file, state.life, read_only))
    }
}

impl State {
    /// For a call that changes nothing.
    fn look(&self) -> io::Result<()> {
        if self.crashed {
            return Err(Stop::Crash.into());
        }
        Ok(())
    }

    /// For a call that changes something: counts it.
    fn begin(&mut self) -> Result<(), Stop> {
        if self.crashed {
            return Err(Stop::Crash);
        }
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            Some(fault) if fault.at == number => {
                self.fault = None;
                self.crashed = matches!(fault.stop, Stop::Crash);
                Err(fault.stop)
            }
            _ => Ok(()),
        }
    }

    fn die(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.fault = None;
        self.fail_next_sync = None;
        self.crashed = false;
    }

    /// The directory and the name in it.
    fn split(&mut self, path: &Path) -> io::Result<(&mut Names, String)> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok((self.dir(dir)?, name.to_string_lossy().into_owned()))
    }

    fn dir(&mut self, dir: &Path) -> io::Result<&mut Names> {
        let names = self.dirs.get_mut(dir);
        names.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&mut self, file: FileId) -> &mut FileBytes {
        let bytes = self.files.get_mut(&file);
        bytes.expect("a file stays while a live handle or a name refers to it")
    }

    fn create(&mut self, path: &Path) -> io::Result<FileId> {
        let file = FileId(self.files.keys().next_back().map_or(1, |last| last.0 + 1));
        let is_dir = self.dirs.contains_key(path);
        let (names, name) = self.split(path)?;
        if is_dir || names.find(&name).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        names.create(name, file);
        self.files.insert(file, FileBytes::default());
        Ok(file)
    }

    fn named_files(&self) -> Vec<FileId> {
        let names = self.dirs.values().flat_map(Names::iter);
        names.map(|(_, file)| file).collect()
    }

    fn used_bytes(&self) -> u64 {
        let files = self.named_files();
        files.iter().map(|file| self.files[file].len() as u64).sum()
    }

    /// How much of a growth by `bytes` there is space for.
    fn grant(&self, bytes: u64) -> u64 {
        match self.capacity_bytes {
            Some(capacity) => bytes.min(capacity.saturating_sub(self.used_bytes())),
            None => bytes,
        }
    }

    fn write(&mut self, file: FileId, buf: &[u8], offset: u64) -> io::Result<usize> {
        let stop = self.begin();
        let all = match stop {
            Err(Stop::Error(_)) => 0,
            Err(Stop::Crash) => buf.len() / 2,
            Ok(()) => buf.len().min(self.write_bytes_max.unwrap_or(usize::MAX)),
        };
        let len = self.file(file).len() as u64;
        let end = offset + all as u64;
        let granted = len + self.grant(end.saturating_sub(len));
        let fits = end.min(granted.max(len)).saturating_sub(offset) as usize;
        self.file(file).write(&buf[..fits], offset as usize);
        stop?;
        match fits {
            0 if !buf.is_empty() => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(fits),
        }
    }

    fn set_len(&mut self, file: FileId, len: u64) -> io::Result<()> {
        self.begin()?;
        let growth = len.saturating_sub(self.file(file).len() as u64);
        if self.grant(growth) < growth {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file(file).set_len(len as usize);
        Ok(())
    }

    fn sync_data(&mut self, file: FileId) -> io::Result<()> {
        let failed = match self.begin() {
            Err(Stop::Crash) => return Err(Stop::Crash.into()),
            Err(Stop::Error(kind)) => Some(kind),
            Ok(()) => self.fail_next_sync.take(),
        };
        match failed {
            Some(kind) => {
                self.file(file).fail_sync();
                Err(kind.into())
            }
            None => {
                self.file(file).sync();
                Ok(())
            }
        }
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        for dir in dir.ancestors() {
            state.dirs.entry(dir.to_owned()).or_default();
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.look()?;
        let files = state.dir(dir)?.iter().map(|(name, _)| name.to_owned());
        let mut names: Vec<String> = files.collect();
        let inside = state.dirs.keys().filter(|path| path.parent() == Some(dir));
        names.extend(
            inside.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())),
        );
        names.sort();
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.begin()?;
        let file = state.create(path)?;
        Ok(self.handle(file, state.life, false))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.find(path, false)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.find(path, true)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        if from.parent() != to.parent() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (_, to) = state.split(to)?;
        let (names, from) = state.split(from)?;
        names.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        let (names, name) = state.split(path)?;
        names.remove(name)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        state.dir(dir)?.sync();
        Ok(())
    }

    fn lock(&self, dir: &Path, mode: LockMode) -> io::Result<Box<dyn DirLock>> {
        let mut state = self.state();
        state.begin()?;
        match state.create(&dir.join(LOCK_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let holders = state.locks.entry(dir.to_owned()).or_default();
        let both_shared = |held: LockMode| held == mode && mode == LockMode::Shared;
        if !holders.iter().all(|(_, held)| both_shared(*held)) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locks_given += 1;
        let key = state.locks_given;
        state
            .locks
            .entry(dir.to_owned())
            .or_default()
            .push((key, mode));
        let (disk, dir) = (self.clone(), dir.to_owned());
        Ok(Box::new(SimLock { disk, dir, key }))
    }
}

struct SimFile {
    disk: SimDisk,
    file: FileId,
    life: u64,
    read_only: bool,
}

/// What Linux says to a write through a handle for reading.
const EBADF: i32 = 9;

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.life != self.life {
            return Err(io::Error::other("the handle of a process that was killed"));
        }
        state.look()?;
        Ok(state)
    }

    fn writable(&self, refused: io::Error) -> io::Result<MutexGuard<'_, State>> {
        match self.read_only {
            true => Err(refused),
            false => self.state(),
        }
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.file(self.file).len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.state()?.file(self.file).read(buf, offset as usize))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let refused = io::Error::from_raw_os_error(EBADF);
        self.writable(refused)?.write(self.file, buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let refused = io::ErrorKind::InvalidInput.into();
        self.writable(refused)?.set_len(self.file, len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let refused = io::Error::from_raw_os_error(EBADF);
        let mut state = self.writable(refused)?;
        let longer = len.max(state.file(self.file).len() as u64);
        state.set_len(self.file, longer)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let refused = io::Error::from_raw_os_error(EBADF);
        let mut state = self.writable(refused)?;
        let end = (state.file(self.file).len() as u64).min(offset.saturating_add(len));
        let zeros = vec![0; end.saturating_sub(offset) as usize];
        match zeros.len() {
            0 => Ok(()),
            _ => state.write(self.file, &zeros, offset).map(|_| ()),
        }
    }

    fn map(&self) -> io::Result<Map> {
        let mut bytes = vec![0; self.len()? as usize];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(Map::copied(bytes))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.state()?.sync_data(self.file)
    }
}

struct SimLock {
    disk: SimDisk,
    dir: PathBuf,
    key: u64,
}

impl DirLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        // Not the lock of a later life.
        if let Some(holders) = state.locks.get_mut(&self.dir) {
            holders.retain(|(key, _)| *key != self.key);
        }
    }
}
