//! A simulated disk as a [`Disk`], its files and its locks.
//!
//! Invariant: a handle or a lock that was given out before a kill does nothing after it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

use super::SimDisk;
use super::faults::{Failure, Hang, Op, Stop};
use super::names::FileId;
use super::state::{Description, State, split};
use crate::{DirLock, Disk, DiskFile, LOCK_FILE, LockMode, Map, OsDisk};

impl SimDisk {
    fn handle(
        &self,
        state: &mut State,
        file: FileId,
        path: &Path,
        read_only: bool,
    ) -> Box<dyn DiskFile> {
        let key = state.key();
        let untold = None;
        state.open.insert(key, Description { file, untold });
        Box::new(SimFile {
            disk: self.clone(),
            file,
            path: path.to_owned(),
            key,
            read_only,
        })
    }

    /// Waits while the sync that has just begun hangs. When it goes on, its process may be dead.
    fn hang<'a>(&'a self, mut state: MutexGuard<'a, State>) -> io::Result<MutexGuard<'a, State>> {
        match state.hang {
            None => Ok(state),
            Some(Hang::TimedOut) => Err(io::ErrorKind::TimedOut.into()),
            Some(Hang::Block) => {
                let ticket = state.key();
                state.hanging.push(ticket);
                self.changed();
                while state.hanging.contains(&ticket) {
                    state = self.wait(state);
                }
                Ok(state)
            }
        }
    }

    fn open_as(&self, path: &Path, read_only: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.begin(Op::Open, path)?;
        let file = state.find(path)?;
        if !read_only {
            state.writable()?;
        }
        Ok(self.handle(&mut state, file, path, read_only))
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let Some(parent) = dir.parent() else {
            return Ok(()); // the root
        };
        let state = self.state();
        let known = state.dirs.contains_key(dir);
        if let Err(error) = state.names(parent)
            && error.kind() == io::ErrorKind::NotADirectory
        {
            return Err(error);
        }
        drop(state);
        if !known {
            self.create_dir_all(parent)?;
            let mut state = self.state();
            state.begin(Op::CreateDir, dir)?;
            match state.create_dir(dir) {
                // Another thread may have made it just now; a file in its place stays an error.
                Err(error) if !state.dirs.contains_key(dir) => return Err(error),
                _ => {}
            }
        }
        self.sync_dir(parent)
    }

    fn random(&self) -> io::Result<u128> {
        let seeded = self.state().random.as_mut().map(|random| random.u128(..));
        match seeded {
            Some(drawn) => Ok(drawn),
            None => OsDisk::new().random(),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.begin(Op::List, dir)?;
        let names = state.names(dir)?.iter();
        Ok(names.map(|(name, _)| name.to_owned()).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.begin(Op::Create, path)?;
        let file = state.create(path)?;
        Ok(self.handle(&mut state, file, path, false))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open_as(path, false)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open_as(path, true)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Op::Rename, from)?;
        let ((dir, from), (to_dir, to)) = (split(from)?, split(to)?);
        if dir != to_dir {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        state.names(dir)?.find(&from)?;
        state.writable()?;
        state.names_mut(dir)?.rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Op::Exchange, a)?;
        for dir in [a, b] {
            state.names(dir)?;
        }
        if a == b || a.parent() != b.parent() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        state.writable()?;
        state.exchange(a, b)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Op::Remove, path)?;
        state.find(path)?;
        state.writable()?;
        let (dir, name) = split(path)?;
        state.names_mut(dir)?.remove(name)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Op::SyncDir, dir)?;
        let (changes, life) = (state.names(dir)?.changes(), state.deaths);
        state.pass_time();
        let mut state = self.hang(state)?;
        match state.crashed_in.is_some() || state.deaths > life {
            true => Err(Stop::Crash { half: false }.into()),
            false => state.sync_dir(dir, changes),
        }
    }

    fn lock(&self, dir: &Path, mode: LockMode) -> io::Result<Box<dyn DirLock>> {
        let mut state = self.state();
        state.begin(Op::Lock, dir)?;
        match state.create(&dir.join(LOCK_FILE)) {
            Ok(_) => {}
            Err(error) => match (error.kind(), mode) {
                (io::ErrorKind::AlreadyExists, LockMode::Shared) => {}
                (io::ErrorKind::AlreadyExists, LockMode::Exclusive) => state.writable()?,
                (io::ErrorKind::ReadOnlyFilesystem, LockMode::Shared) => {
                    return Ok(Box::new(SimLock(None)));
                }
                _ => return Err(error),
            },
        }
        let key = state.take_lock(dir, mode)?;
        let held = (self.clone(), dir.to_owned(), key);
        Ok(Box::new(SimLock(Some(held))))
    }
}

struct SimFile {
    disk: SimDisk,
    file: FileId,
    path: PathBuf,
    key: u64,
    read_only: bool,
}

impl SimFile {
    fn alive<'a>(&self, state: MutexGuard<'a, State>) -> io::Result<MutexGuard<'a, State>> {
        if state.crashed_in.is_some() {
            return Err(Stop::Crash { half: false }.into());
        }
        if !state.open.contains_key(&self.key) {
            return Err(io::Error::other("the handle of a process that was killed"));
        }
        Ok(state)
    }

    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        self.alive(self.disk.state())
    }

    /// For a call that changes the file; `refused` is what it is told if the handle is for reading.
    fn writable(&self, refused: Failure) -> io::Result<MutexGuard<'_, State>> {
        match self.read_only {
            true => Err(refused.into()),
            false => self.state(),
        }
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.file(self.file).len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state()?;
        state.read_at(self.file, &self.path, buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.writable(Failure::EBADF)?;
        state.write(self.file, &self.path, buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.writable(io::ErrorKind::InvalidInput.into())?;
        state.begin(Op::SetLen, &self.path)?;
        state.set_len(self.file, len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.writable(Failure::EBADF)?;
        state.begin(Op::Allocate, &self.path)?;
        state.allocate(self.file, len)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.writable(Failure::EBADF)?;
        state.begin(Op::PunchHole, &self.path)?;
        state.punch_hole(self.file, offset, len)
    }

    fn map(&self) -> io::Result<Map> {
        let mut state = self.state()?;
        state.begin(Op::Read, &self.path)?;
        let mut bytes = vec![0; state.file(self.file).len()];
        let mut done = 0;
        while done < bytes.len() {
            done += state.read(self.file, &mut bytes[done..], done as u64)?;
        }
        Ok(Map::copied(bytes))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        let failing = match state.begin(Op::SyncData, &self.path) {
            Ok(()) => None,
            Err(Stop::Error(failure)) => Some(failure),
            Err(stop) => return Err(stop.into()),
        };
        let begun = state.file(self.file).begin_sync();
        state.pass_time();
        let mut state = self.alive(self.disk.hang(state)?)?;
        let failure = failing.or_else(|| state.armed.next_sync.take());
        state.end_sync(self.key, self.file, &begun, failure)
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        let closed = self.state()?.begin(Op::Close, &self.path);
        Ok(closed?)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        state.open.remove(&self.key);
        // Its bytes stay until the next sync of a directory, or the next crash, looks whether anybody needs them.
    }
}

/// `None`: a directory that nobody can have locked, see [`LockMode::Shared`].
struct SimLock(Option<(SimDisk, PathBuf, u64)>);

impl DirLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Some((disk, dir, key)) = &self.0 {
            disk.state().free_lock(dir, *key);
        }
    }
}
