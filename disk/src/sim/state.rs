//! What a simulated disk holds, and what one call does to it.
//!
//! Invariants:
//! * Every directory but `/` has a name in its parent, in the cache; a file is kept as long as a name in cache or on the
//!   media, an unsynced change or an open handle refers to it.
//! * `files` and `dirs` are shared with the disk that this one was forked from, until one of them changes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::bytes::{Astray, BadSector, Begun, FileBytes};
use super::faults::{Armed, Detour, Failure, Hang, Op, Stop};
use super::image::SECTOR_BYTES;
use super::names::{FileId, Names, Node};
use crate::LockMode;

#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) dirs: Arc<BTreeMap<PathBuf, Arc<Names>>>,
    pub(super) files: Arc<BTreeMap<FileId, Arc<FileBytes>>>,
    files_made: u64,
    /// Who holds the lock of a directory.
    pub(super) locks: BTreeMap<PathBuf, Vec<(u64, LockMode)>>,
    /// The handles of the living process.
    pub(super) open: BTreeMap<u64, Description>,
    pub(super) keys_given: u64,
    /// How often the process died.
    pub(super) deaths: u64,
    pub(super) armed: Armed,
    /// Since the crash that was asked for everything fails.
    pub(super) crashed_in: Option<(Op, PathBuf)>,
    /// The last operation to which something happened that was asked for.
    pub(super) failed_in: Option<(Op, PathBuf)>,
    /// Where ids come from; from outside if this is none.
    pub(super) random: Option<fastrand::Rng>,
    pub(super) read_only: bool,
    pub(super) write_bytes_max: Option<usize>,
    pub(super) read_bytes_max: Option<usize>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) name_bytes: u64,
    pub(super) elapsed: Duration,
    pub(super) sync_time: Duration,
    pub(super) next_sync_time: Option<Duration>,
    pub(super) hang: Option<Hang>,
    /// The syncs that hang, in the order in which they began.
    pub(super) hanging: Vec<u64>,
}

/// An open file description.
#[derive(Debug, Clone)]
pub(super) struct Description {
    pub(super) file: FileId,
    /// A failed write-back of which this description has not been told.
    pub(super) untold: Option<Failure>,
}

const READ_ONLY: io::ErrorKind = io::ErrorKind::ReadOnlyFilesystem;

impl State {
    /// Counts a call that begins, and lets it fail if that is due.
    pub(super) fn begin(&mut self, op: Op, path: &Path) -> Result<(), Stop> {
        match self.due(op, path) {
            None | Some(Stop::Short) => Ok(()),
            Some(stop) => Err(stop),
        }
    }

    fn due(&mut self, op: Op, path: &Path) -> Option<Stop> {
        if self.crashed_in.is_some() {
            return Some(Stop::Crash { half: false });
        }
        let stop = self.armed.begin(op)?;
        let at = Some((op, path.to_owned()));
        match stop {
            Stop::Crash { .. } => {
                self.crashed_in = at;
                self.hanging.clear();
            }
            Stop::Error(_) | Stop::Short => self.failed_in = at,
        }
        Some(stop)
    }

    pub(super) fn writable(&self) -> io::Result<()> {
        match self.read_only {
            true => Err(READ_ONLY.into()),
            false => Ok(()),
        }
    }

    /// The process is gone.
    pub(super) fn die(&mut self) {
        self.deaths += 1;
        self.open.clear();
        self.locks.clear();
        self.hanging.clear();
        self.hang = None;
        self.next_sync_time = None;
        self.armed.disarm();
        self.crashed_in = None;
        self.failed_in = None;
        self.forget_unreferenced();
    }

    /// A sync begins.
    pub(super) fn pass_time(&mut self) {
        self.elapsed += self.next_sync_time.take().unwrap_or(self.sync_time);
    }

    pub(super) fn key(&mut self) -> u64 {
        self.keys_given += 1;
        self.keys_given
    }

    pub(super) fn take_lock(&mut self, dir: &Path, mode: LockMode) -> io::Result<u64> {
        let key = self.key();
        let holders = self.locks.entry(dir.to_owned()).or_default();
        let both_shared = |held: LockMode| held == mode && mode == LockMode::Shared;
        if !holders.iter().all(|(_, held)| both_shared(*held)) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        holders.push((key, mode));
        Ok(key)
    }

    /// Does nothing to the lock of a later life: its key is another.
    pub(super) fn free_lock(&mut self, dir: &Path, key: u64) {
        if let Some(holders) = self.locks.get_mut(dir) {
            holders.retain(|(held, _)| *held != key);
        }
    }

    pub(super) fn names(&self, dir: &Path) -> io::Result<&Names> {
        let names = self.dirs.get(dir).map(|names| &**names);
        names.ok_or_else(|| self.no_dir(dir).into())
    }

    /// What a call is told that names this directory, which is none: it is not there, or a file is in its way.
    fn no_dir(&self, dir: &Path) -> io::ErrorKind {
        let is_file = |path: &Path| {
            let Ok((parent, name)) = split(path) else {
                return false;
            };
            let names = self.dirs.get(parent);
            matches!(
                names.and_then(|names| names.get(&name)),
                Some(Node::File(_))
            )
        };
        match dir.ancestors().any(is_file) {
            true => io::ErrorKind::NotADirectory,
            false => io::ErrorKind::NotFound,
        }
    }

    pub(super) fn names_mut(&mut self, dir: &Path) -> io::Result<&mut Names> {
        if !self.dirs.contains_key(dir) {
            return Err(self.no_dir(dir).into());
        }
        let names = Arc::make_mut(&mut self.dirs).get_mut(dir);
        Ok(Arc::make_mut(names.expect("it was there just now")))
    }

    pub(super) fn file(&self, file: FileId) -> &FileBytes {
        let bytes = self.files.get(&file);
        bytes.expect("a file stays while a live handle or a name refers to it")
    }

    pub(super) fn file_mut(&mut self, file: FileId) -> &mut FileBytes {
        let bytes = Arc::make_mut(&mut self.files).get_mut(&file);
        Arc::make_mut(bytes.expect("a file stays while a live handle or a name refers to it"))
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<FileId> {
        let (dir, name) = split(path)?;
        self.names(dir)?.find(&name)
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<FileId> {
        let (dir, name) = split(path)?;
        if self.names(dir)?.get(&name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.writable()?;
        self.grant_name()?;
        self.files_made += 1;
        let file = FileId(self.files_made);
        self.names_mut(dir)?.create(name, Node::File(file));
        Arc::make_mut(&mut self.files).insert(file, Arc::default());
        Ok(file)
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = split(path)?;
        if self.names(dir)?.get(&name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.writable()?;
        self.grant_name()?;
        self.names_mut(dir)?.create(name, Node::Dir);
        Arc::make_mut(&mut self.dirs).insert(path.to_owned(), Arc::default());
        Ok(())
    }

    /// Two directories change places, with the names below that are not synced: they are what they were, under other names.
    /// Locks stay with the names.
    pub(super) fn exchange(&mut self, a: &Path, b: &Path) -> io::Result<()> {
        let ((dir, name_of_a), (_, name_of_b)) = (split(a)?, split(b)?);
        self.names_mut(dir)?.exchange(name_of_a, name_of_b);
        exchange(Arc::make_mut(&mut self.dirs), a, b);
        Ok(())
    }

    /// Ends a sync of `dir` that began when there had been so many changes of its names.
    pub(super) fn sync_dir(&mut self, dir: &Path, changes: u64) -> io::Result<()> {
        if self.names(dir)?.units() > 0 {
            self.writable()?;
            self.names_mut(dir)?.sync(changes);
            self.forget_unreferenced();
        }
        Ok(())
    }

    /// Files with neither name nor handle are gone.
    pub(super) fn forget_unreferenced(&mut self) {
        let named = self.dirs.values().flat_map(|names| names.files());
        let open = self.open.values().map(|description| description.file);
        let live: BTreeSet<FileId> = named.chain(open).collect();
        if live.len() < self.files.len() {
            Arc::make_mut(&mut self.files).retain(|file, _| live.contains(file));
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let cached = self.dirs.values().flat_map(|names| names.iter());
        let named = cached.filter_map(|(_, node)| match node {
            Node::File(file) => Some(file),
            Node::Dir => None,
        });
        let open = self.open.values().map(|description| description.file);
        let live: BTreeSet<FileId> = named.chain(open).collect();
        let names: usize = self.dirs.values().map(|names| names.len()).sum();
        let files = live.iter().map(|&file| self.file(file).used_bytes());
        files.sum::<u64>() + names as u64 * self.name_bytes
    }

    /// How much of a growth by `bytes` there is space for.
    fn grant(&self, bytes: u64) -> u64 {
        match self.capacity_bytes {
            Some(capacity) => bytes.min(capacity.saturating_sub(self.used_bytes())),
            None => bytes,
        }
    }

    fn grant_name(&self) -> io::Result<()> {
        match self.grant(self.name_bytes) {
            granted if granted < self.name_bytes => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn read_at(
        &mut self,
        file: FileId,
        path: &Path,
        buf: &mut [u8],
        offset: u64,
    ) -> io::Result<usize> {
        let all = match self.due(Op::Read, path) {
            None => buf.len(),
            Some(Stop::Short) => buf.len().div_ceil(2),
            Some(stop) => return Err(stop.into()),
        };
        let n = all.min(self.read_bytes_max.unwrap_or(usize::MAX));
        self.read(file, &mut buf[..n], offset)
    }

    pub(super) fn read(&self, file: FileId, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let read = self.file(file).read(buf, offset);
        read.map_err(|BadSector| Failure::EIO.into())
    }

    pub(super) fn write(
        &mut self,
        file: FileId,
        path: &Path,
        buf: &[u8],
        offset: u64,
    ) -> io::Result<usize> {
        let stop = self.due(Op::Write, path);
        let all = match stop {
            None => buf.len(),
            Some(Stop::Short) => buf.len().div_ceil(2),
            Some(Stop::Crash { half: true }) => buf.len() / 2,
            Some(stop) => return Err(stop.into()),
        };
        self.writable()?;
        let (all, astray) = match stop {
            Some(Stop::Crash { .. }) => (all, None),
            _ => (
                all.min(self.write_bytes_max.unwrap_or(usize::MAX)),
                self.armed.astray(),
            ),
        };
        let end = file_size(offset.saturating_add(all as u64))?;
        let offset = end - all;
        let fits = self.fitting(file, offset..end);
        let bytes = self.file_mut(file);
        bytes
            .write(&buf[..fits], offset)
            .map_err(|BadSector| Failure::EIO)?;
        if let Some(detour) = astray {
            let astray = self.detour(file, detour);
            self.file_mut(file)
                .lead_astray(offset..offset + fits, astray);
        }
        match fits {
            _ if self.crashed_in.is_some() => Err(Stop::Crash { half: true }.into()),
            0 if !buf.is_empty() => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(fits),
        }
    }

    /// How many of these bytes, from the first on, there is space for.
    fn fitting(&self, file: FileId, bytes: Range<usize>) -> usize {
        let growth = self.file(file).growth(bytes.clone());
        let granted = self.grant(growth);
        if granted == growth {
            return bytes.len();
        }
        let (mut fits, mut too_many) = (0, bytes.len());
        while fits + 1 < too_many {
            let middle = usize::midpoint(fits, too_many);
            let end = bytes.start + middle;
            match self.file(file).growth(bytes.start..end) <= granted {
                true => fits = middle,
                false => too_many = middle,
            }
        }
        fits
    }

    fn detour(&self, file: FileId, detour: Option<Detour>) -> Astray {
        let Some(Detour { path, sectors }) = detour else {
            return Astray::Lost;
        };
        let to = match path {
            None => Some(file),
            Some(path) => self.find(&path).ok(),
        };
        to.map_or(Astray::Lost, |to| Astray::To(to, sectors))
    }

    pub(super) fn set_len(&mut self, file: FileId, len: u64) -> io::Result<()> {
        self.writable()?;
        let len = file_size(len)?;
        let growth = self.file(file).len_growth(len);
        if self.grant(growth) < growth {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file_mut(file).set_len(len);
        Ok(())
    }

    pub(super) fn allocate(&mut self, file: FileId, len: u64) -> io::Result<()> {
        self.writable()?;
        let len = file_size(len)?;
        let fits = self.fitting(file, 0..len);
        self.file_mut(file).allocate(fits); // so much, as ext4 does
        match fits < len {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    pub(super) fn punch_hole(&mut self, file: FileId, offset: u64, len: u64) -> io::Result<()> {
        self.writable()?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.file_mut(file)
            .punch_hole(start..start.saturating_add(len));
        Ok(())
    }

    /// Ends a sync of `file` that began as `begun`, through the description `key`.
    pub(super) fn end_sync(
        &mut self,
        key: u64,
        file: FileId,
        begun: &Begun,
        failure: Option<Failure>,
    ) -> io::Result<()> {
        if self.file(file).is_unsynced() {
            self.writable()?;
        }
        match failure {
            Some(failure) => self.fail_write_back(file, begun, failure),
            None if self.file(file).is_unsynced() => {
                for stray in self.file_mut(file).sync(begun) {
                    if self.files.contains_key(&stray.file) {
                        self.file_mut(stray.file)
                            .take_stray(stray.sector, &stray.bytes);
                    }
                }
            }
            None => {}
        }
        let told = self.open.get_mut(&key).and_then(|own| own.untold.take());
        told.map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// The pages are clean, and everybody who has the file open is told once.
    pub(super) fn fail_write_back(&mut self, file: FileId, begun: &Begun, failure: Failure) {
        self.file_mut(file).fail_sync(begun);
        for description in self.open.values_mut() {
            if description.file == file {
                description.untold = Some(failure);
            }
        }
    }
}

/// What a power cut may keep or lose.
impl State {
    /// How many names, sectors and lengths may each be kept or lost on their own.
    pub(super) fn units(&self) -> usize {
        let names: usize = self.dirs.values().map(|names| names.units()).sum();
        let files = self.files.values().filter(|file| file.is_unsynced());
        let bytes = files.map(|file| {
            let (len, sectors) = file.units();
            usize::from(len) + sectors.count()
        });
        names + bytes.sum::<usize>()
    }

    /// A power cut. `names` and `bytes` decide what is left of each directory and of each file.
    pub(super) fn cut(
        &mut self,
        mut names: impl FnMut(&mut Names),
        mut bytes: impl FnMut(&mut FileBytes),
    ) {
        self.cut_names(|_, dir| names(dir));
        for (_, file) in self.exposed_files() {
            bytes(file);
        }
        self.forget_unreferenced();
    }

    /// A power cut that keeps the units for which `keep` says so. `false`: keeping fewer leaves the same.
    pub(super) fn cut_keeping(&mut self, mut keep: impl FnMut(usize) -> bool) -> bool {
        self.die();
        let mut number = 0;
        let mut next = || {
            number += 1;
            keep(number - 1)
        };
        let mut distinct = true;
        let mut kept_in = Vec::new();
        self.cut_names(|path, dir| {
            let mut any = false;
            distinct &= dir.keep(|| {
                let keep = next();
                any |= keep;
                keep
            });
            if any {
                kept_in.push(path.to_owned());
            }
        });
        distinct &= kept_in.iter().all(|dir| self.dirs.contains_key(dir));
        let mut written = Vec::new();
        for (id, file) in self.exposed_files() {
            let mut any = false;
            distinct &= file.keep(|| {
                let keep = next();
                any |= keep;
                keep
            });
            if any {
                written.push(id);
            }
        }
        self.forget_unreferenced();
        distinct && written.iter().all(|id| self.files.contains_key(id))
    }

    fn cut_names(&mut self, mut cut: impl FnMut(&Path, &mut Names)) {
        if self.dirs.values().all(|names| names.units() == 0) {
            return;
        }
        let all = Arc::make_mut(&mut self.dirs);
        for (path, dir) in all.iter_mut().filter(|(_, dir)| dir.units() > 0) {
            cut(path, Arc::make_mut(dir));
        }
        undo_exchanges(all);
        // Parents come first, so whatever is below a lost one is lost with it.
        let paths: Vec<PathBuf> = all.keys().cloned().collect();
        for path in paths {
            let Ok((parent, name)) = split(&path) else {
                continue; // the root
            };
            let names = all.get(parent);
            if names.and_then(|names| names.get(&name)) != Some(Node::Dir) {
                all.remove(&path);
            }
        }
    }

    fn exposed_files(&mut self) -> impl Iterator<Item = (FileId, &mut FileBytes)> {
        let any = self.files.values().any(|file| file.is_exposed());
        let files = any.then(|| Arc::make_mut(&mut self.files));
        let exposed = files
            .into_iter()
            .flatten()
            .filter(|(_, file)| file.is_exposed());
        exposed.map(|(id, file)| (*id, Arc::make_mut(file)))
    }
}

/// A simulated file is no longer: one write far out would take all the memory there is.
const FILE_BYTES_MAX: u64 = 16 << 30;

fn file_size(bytes: u64) -> io::Result<usize> {
    match usize::try_from(bytes) {
        Ok(size) if bytes <= FILE_BYTES_MAX => Ok(size),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

/// Undoes the exchanges of directories that a power cut has lost: those deep below first, at the paths that they had.
fn undo_exchanges(dirs: &mut BTreeMap<PathBuf, Arc<Names>>) {
    let parents = dirs.iter().rev().filter(|(_, names)| names.has_undone());
    let parents: Vec<PathBuf> = parents.map(|(path, _)| path.clone()).collect();
    for parent in parents {
        let names = dirs.get_mut(&parent).map(Arc::make_mut);
        for (a, b) in names.map(Names::take_undone).unwrap_or_default() {
            exchange(dirs, &parent.join(a), &parent.join(b));
        }
    }
}

/// What is in two directories, and below, changes places.
fn exchange(dirs: &mut BTreeMap<PathBuf, Arc<Names>>, a: &Path, b: &Path) {
    let exchanged = std::mem::take(dirs).into_iter().map(|(dir, names)| {
        let moved = match (dir.strip_prefix(a), dir.strip_prefix(b)) {
            (Ok(below), _) => Some(join(b, below)),
            (_, Ok(below)) => Some(join(a, below)),
            _ => None,
        };
        (moved.unwrap_or(dir), names)
    });
    *dirs = exchanged.collect();
}

/// `below` may be empty, for `dir` itself.
fn join(dir: &Path, below: &Path) -> PathBuf {
    dir.components().chain(below.components()).collect()
}

/// The directory and the name in it.
pub(super) fn split(path: &Path) -> io::Result<(&Path, String)> {
    match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => Ok((dir, name.to_string_lossy().into_owned())),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Bytes as the sectors of one file see them: a distance in whole sectors.
pub(super) fn sectors_of(bytes: i64) -> isize {
    let sector = SECTOR_BYTES as i64;
    assert!(bytes % sector == 0, "{bytes} bytes are not whole sectors");
    isize::try_from(bytes / sector).expect("an offset in memory fits")
}
