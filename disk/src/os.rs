//! Real files.
//!
//! Invariant: nothing here retries a sync, and nothing here caches.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::{Caution, DirLock, Disk, DiskFile, LOCK_FILE, LockMode, Map, caution};

/// Files and directories of the operating system.
///
/// On macOS a sync is `F_FULLFSYNC`, which reaches the media and not only the drive's cache. A sync that a signal
/// interrupts is an error like any other. Windows is not supported.
///
/// # What was seen
///
/// On Linux 6.18, with small file systems of their own (`tests/full_by_hand.rs` shows the first five again):
///
/// | | ext4 | xfs | btrfs |
/// |---|---|---|---|
/// | a [`write_at`](DiskFile::write_at) with no space left | `StorageFull` | the same | the same |
/// | an [`allocate`](DiskFile::allocate) that does not fit | `StorageFull`; the file is longer, the disk is full | `StorageFull`, nothing else | `StorageFull`, nothing else |
/// | writing into what was allocated, the disk being full | Ok | Ok | Ok the first time, then `StorageFull` |
/// | [`set_len`](DiskFile::set_len) on a full disk; writing there | Ok; `StorageFull` | the same | the same |
/// | [`rename`](Disk::rename) to a new name on a full disk | can be `StorageFull` | Ok | Ok |
/// | the file system has given up (an aborted journal, a shutdown) | `ReadOnlyFilesystem` for everything but reading, each sync included | `EIO` for everything, reading included | not tried |
///
/// Where the file system cannot reserve space (`EOPNOTSUPP`), `allocate` writes zeros behind the end of the file; holes
/// before it stay holes. Off Linux, too, only what is behind the end is reserved, and holes are not punched.
#[derive(Debug, Default, Clone, Copy)]
pub struct OsDisk;

impl OsDisk {
    /// The real file system.
    pub fn new() -> OsDisk {
        OsDisk
    }
}

impl Disk for OsDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let Some(parent) = parent_of(dir) else {
            return Ok(()); // the root
        };
        match fs::metadata(dir) {
            Ok(it) if it.is_dir() => {}
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.create_dir_all(parent)?;
                match fs::create_dir(dir) {
                    // Somebody else may have made it just now; a link to nowhere stays an error.
                    Err(error) if !dir.is_dir() => return Err(error),
                    _ => {}
                }
            }
            Err(error) => return Err(error),
        }
        // Also where it existed: an earlier attempt may have been killed between the two steps.
        self.sync_dir(parent)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        Ok(Box::new(OsFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(OsFile(file)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        // To open a pipe would be to wait for who writes to it.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)?;
        let kind = file.metadata()?.file_type();
        match (kind.is_file(), kind.is_dir()) {
            (true, _) => Ok(Box::new(OsFile(file))),
            (_, true) => Err(io::ErrorKind::IsADirectory.into()),
            (false, false) => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        for dir in [a, b] {
            // Of a link, not what it leads to but the link itself would change places.
            if !fs::symlink_metadata(dir)?.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
        }
        match a != b && parent_of(a) == parent_of(b) {
            true => exchange(a, b),
            false => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        sync_all(&rustix::fs::open(dir, flags, Mode::empty())?)
    }

    fn lock(&self, dir: &Path, mode: LockMode) -> io::Result<Box<dyn DirLock>> {
        let path = dir.join(LOCK_FILE);
        let file = match (open_or_create(&path), mode) {
            (Ok(file), _) => Some(file),
            (Err(error), LockMode::Shared) if is_read_only(&error) => match File::open(&path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            },
            (Err(error), _) => return Err(error),
        };
        if let Some(file) = &file {
            lock_file(file, &path, mode)?;
        }
        Ok(Box::new(OsLock { _file: file }))
    }

    fn cautions(&self, dir: &Path) -> io::Result<Vec<Caution>> {
        caution::cautions(dir)
    }
}

/// The directory that has the name `path`.
fn parent_of(path: &Path) -> Option<&Path> {
    path.parent().map(|parent| match parent.as_os_str() {
        // The parent of the relative path `a` is "", which means the current directory.
        empty if empty.is_empty() => Path::new("."),
        _ => parent,
    })
}

fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path)
}

/// Locks the file at `path`, which was opened just now. If another one is there by then, since two directories have changed
/// places, then it is not known whether that one is locked: it is for the caller to come again, as if it were.
fn lock_file(file: &File, path: &Path, mode: LockMode) -> io::Result<()> {
    match mode {
        LockMode::Exclusive => fs2::FileExt::try_lock_exclusive(file)?,
        LockMode::Shared => fs2::FileExt::try_lock_shared(file)?,
    }
    let (locked, there) = (file.metadata()?, fs::metadata(path)?);
    match (locked.dev(), locked.ino()) == (there.dev(), there.ino()) {
        true => Ok(()),
        false => Err(io::ErrorKind::WouldBlock.into()),
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// By number too: where `ENOTSUP` and `EOPNOTSUPP` differ, the standard library may know one of them alone.
fn is_unsupported(error: &io::Error) -> bool {
    let number = rustix::io::Errno::NOTSUP.raw_os_error();
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(number)
}

struct OsFile(File);

impl DiskFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        loop {
            match allocate(&self.0, len) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_unsupported(&error) => return self.fill(len),
                done => return done,
            }
        }
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let len = len.min(self.len()?.saturating_sub(offset));
        if len == 0 {
            return Ok(()); // which `fallocate` refuses
        }
        loop {
            match punch_hole(&self.0, offset, len) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_unsupported(&error) => {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                done => return done,
            }
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        // Nothing else uses the cursor.
        match rustix::fs::seek(&self.0, SeekFrom::Data(offset)) {
            Ok(next) => Ok(Some(next)),
            Err(Errno::NXIO) => Ok(None),
            Err(_) => Ok(Some(offset)), // Whatever it is, reading tells.
        }
    }

    fn map(&self) -> io::Result<Map> {
        Map::of(&self.0)
    }

    fn sync_data(&self) -> io::Result<()> {
        sync_data(&self.0)
    }
}

impl OsFile {
    /// Takes space by using it, where the file system knows no other way.
    fn fill(&self, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut end = self.len()?;
        while end < len {
            let bytes = ZEROS
                .len()
                .min(usize::try_from(len - end).unwrap_or(usize::MAX));
            self.write_all_at(&ZEROS[..bytes], end)?;
            end += bytes as u64;
        }
        Ok(())
    }
}

/// Not the standard library's `sync_data`: it calls again when a signal comes in between (`EINTR`), and a first call may
/// have taken the word of a failed write-back with it.
#[cfg(not(target_vendor = "apple"))]
fn sync_data(file: &impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fdatasync(file)?)
}

/// For directories: their entries are metadata, which `fdatasync` may leave.
#[cfg(not(target_vendor = "apple"))]
fn sync_all(dir: &impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fsync(dir)?)
}

/// `fsync` reaches the drive alone, and its cache may be lost.
#[cfg(target_vendor = "apple")]
fn sync_data(file: &impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fcntl_fullfsync(file)?)
}

#[cfg(target_vendor = "apple")]
fn sync_all(dir: &impl AsFd) -> io::Result<()> {
    sync_data(dir)
}

/// Not fs2: it looks for the error of `posix_fallocate` in `errno`, where that function does not leave it, so a full disk
/// would look like anything.
#[cfg(target_os = "linux")]
fn allocate(file: &File, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(()); // which `fallocate` refuses
    }
    let mode = rustix::fs::FallocateFlags::empty();
    Ok(rustix::fs::fallocate(file, mode, 0, len)?)
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &File, len: u64) -> io::Result<()> {
    fs2::FileExt::allocate(file, len)
}

#[cfg(target_os = "linux")]
fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, mode, offset, len)?)
}

#[cfg(not(target_os = "linux"))]
fn punch_hole(_: &File, _: u64, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The kernel releases the lock when the file is closed, by us or by the end of the process.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    let exchanged = renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
    exchanged.map_err(|errno| match errno {
        // An old kernel; a file system that knows no such flag.
        Errno::NOSYS | Errno::INVAL | Errno::NOTSUP => io::ErrorKind::Unsupported.into(),
        errno => errno.into(),
    })
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

struct OsLock {
    /// `None`: a directory that nobody can have locked, see [`LockMode::Shared`].
    _file: Option<File>,
}

impl DirLock for OsLock {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::new();
        let path = dir.path().join("file");
        let file = disk.create(&path).unwrap();
        file.write_all_at(b"0123456789", 5).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(dir.path()).unwrap();
        let file = disk.open(&path).unwrap();
        assert_eq!(file.len().unwrap(), 15);
        let mut buf = [0; 4];
        file.read_exact_at(&mut buf, 4).unwrap();
        assert_eq!(&buf, b"\x00012");
        let error = file.read_exact_at(&mut buf, 13).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn create_refuses_a_taken_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        OsDisk.create(&path).unwrap();
        let error = OsDisk.create(&path).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn two_directories_change_places_with_all_that_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for (dir, name) in [(&a, "of a"), (&b, "of b")] {
            OsDisk.create_dir_all(dir).unwrap();
            OsDisk.create(&dir.join(name)).unwrap();
        }
        OsDisk.exchange(&a, &b).unwrap();
        assert_eq!(OsDisk.list(&a).unwrap(), ["of b"]);
        assert_eq!(OsDisk.list(&b).unwrap(), ["of a"]);
        let kind = |a: &Path, b: &Path| OsDisk.exchange(a, b).unwrap_err().kind();
        assert_eq!(kind(&a, &dir.path().join("c")), io::ErrorKind::NotFound);
        assert_eq!(kind(&a, &b.join("of a")), io::ErrorKind::NotADirectory);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&b, &link).unwrap();
        assert_eq!(kind(&a, &link), io::ErrorKind::NotADirectory);
        let deep = b.join("deep");
        OsDisk.create_dir_all(&deep).unwrap();
        assert_eq!(kind(&a, &deep), io::ErrorKind::InvalidInput);
        assert_eq!(kind(&a, &a), io::ErrorKind::InvalidInput);
        assert_eq!(OsDisk.list(&a).unwrap(), ["of b"]);
    }

    #[test]
    fn a_directory_is_created_with_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        OsDisk.create_dir_all(&deep).unwrap();
        OsDisk.create_dir_all(&deep).unwrap();
        assert!(OsDisk.list(&deep).unwrap().is_empty());
        assert_eq!(OsDisk.list(dir.path()).unwrap(), ["a"]);
    }

    #[test]
    fn no_directory_is_made_over_a_file_or_a_link_to_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("nowhere"), &link).unwrap();
        for path in [&file, &link] {
            let error = OsDisk.create_dir_all(path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        }
        let there = dir.path().join("there");
        std::os::unix::fs::symlink(dir.path(), &there).unwrap();
        OsDisk.create_dir_all(&there).unwrap();
        OsDisk.sync_dir(&there).unwrap();
        let error = OsDisk.sync_dir(&file).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn a_locked_directory_is_refused_until_the_guard_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let lock = |mode| OsDisk.lock(dir.path(), mode);
        let guard = lock(LockMode::Exclusive).unwrap();
        for mode in [LockMode::Exclusive, LockMode::Shared] {
            let error = lock(mode).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
        drop(guard);
        let one = lock(LockMode::Shared).unwrap();
        let other = lock(LockMode::Shared).unwrap();
        let error = lock(LockMode::Exclusive).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop((one, other));
        lock(LockMode::Exclusive).unwrap();
    }

    /// Who has opened the one just before it went, and locks it just after, has locked nothing that is there.
    #[test]
    fn the_lock_of_a_directory_that_has_changed_places_is_not_that_of_the_one_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for dir in [&a, &b] {
            OsDisk.create_dir_all(dir).unwrap();
            open_or_create(&dir.join(LOCK_FILE)).unwrap();
        }
        for mode in [LockMode::Exclusive, LockMode::Shared] {
            let path = a.join(LOCK_FILE);
            let file = open_or_create(&path).unwrap();
            OsDisk.exchange(&a, &b).unwrap();
            let error = lock_file(&file, &path, mode).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            drop(file);
            OsDisk.lock(&a, mode).unwrap();
        }
    }

    #[test]
    fn a_file_opened_for_reading_is_not_changed_through_that() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        OsDisk
            .create(&path)
            .unwrap()
            .write_all_at(b"old", 0)
            .unwrap();
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions).unwrap();
        let file = OsDisk.open_read(&path).unwrap();
        file.write_at(b"new", 0).unwrap_err();
        file.set_len(0).unwrap_err();
        file.allocate(10).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn allocated_space_reads_as_zeros_and_is_really_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = OsDisk.create(&path).unwrap();
        file.write_all_at(b"old", 0).unwrap();
        for len in [1 << 20, 100, 0] {
            file.allocate(len).unwrap();
            assert_eq!(file.len().unwrap(), 1 << 20);
        }
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.starts_with(b"old") && bytes[3..].iter().all(|&byte| byte == 0));
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 1 << 20);
        let error = file.allocate(1 << 60).unwrap_err().kind();
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::FileTooLarge];
        assert!(full.contains(&error), "{error}");
    }

    #[test]
    fn a_punched_hole_reads_as_zeros_and_gives_its_space_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = OsDisk.create(&path).unwrap();
        file.write_all_at(&[1; 1 << 20], 0).unwrap();
        file.sync_data().unwrap();
        let blocks = || fs::metadata(&path).unwrap().blocks() * 512;
        let before = blocks();
        match file.punch_hole(100, 900_000) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
            done => done.unwrap(),
        }
        file.punch_hole(1 << 20, 10).unwrap();
        file.punch_hole(1000, 0).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 1 << 20);
        let hole = |n: usize| (100..900_100).contains(&n);
        assert!(
            (0..)
                .zip(&bytes)
                .all(|(n, &byte)| byte == u8::from(!hole(n)))
        );
        assert!(blocks() < before - 800_000, "{before}, now {}", blocks());
    }

    #[test]
    fn a_hole_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&dir.path().join("file")).unwrap();
        let data = 1 << 39;
        file.write_all_at(b"data", data).unwrap();
        file.set_len(1 << 40).unwrap();
        file.sync_data().unwrap();
        if file.next_data(0).unwrap() == Some(0) {
            return; // The file system has no holes.
        }
        assert_eq!(file.next_data(0).unwrap(), Some(data));
        assert_eq!(file.next_data(data + 2).unwrap(), Some(data + 2));
        assert_eq!(file.next_data(data + (1 << 20)).unwrap(), None);
        assert_eq!(file.next_data(1 << 40).unwrap(), None);
    }

    #[test]
    fn a_map_outlives_the_name_and_the_handle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = OsDisk.create(&path).unwrap();
        assert!(file.map().unwrap().is_empty());
        file.write_all_at(b"0123", 0).unwrap();
        let map = OsDisk.open_read(&path).unwrap().map().unwrap();
        drop(file);
        OsDisk.remove(&path).unwrap();
        assert_eq!(&map[1..], b"123");
    }

    #[test]
    fn space_is_taken_by_zeros_where_it_cannot_be_reserved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = OsFile(open_or_create(&path).unwrap());
        file.write_all_at(b"old", 0).unwrap();
        file.fill(100_000).unwrap();
        file.fill(1).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 100_000);
        assert!(bytes.starts_with(b"old") && bytes[3..].iter().all(|&byte| byte == 0));
    }
}
