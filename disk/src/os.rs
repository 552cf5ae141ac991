//! Real files.
//!
//! Invariant: nothing here retries a sync, and nothing here caches.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{DirLock, Disk, DiskFile, LOCK_FILE};

/// Files and directories of the operating system.
///
/// On macOS the standard library's `sync_data` is `F_FULLFSYNC`, which reaches the media and not only the drive's
/// cache. Windows is not supported.
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
        let parent = match dir.parent() {
            // The parent of the relative path `a` is "", which means the current directory.
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Ok(()), // the root
        };
        if !dir.is_dir() {
            self.create_dir_all(parent)?;
            match fs::create_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
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

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(LOCK_FILE))?;
        fs2::FileExt::try_lock_exclusive(&file)?;
        Ok(Box::new(OsLock { _file: file }))
    }
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

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// The kernel releases the lock when the file is closed, by us or by the end of the process.
struct OsLock {
    _file: File,
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
    fn a_directory_is_created_with_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        OsDisk.create_dir_all(&deep).unwrap();
        OsDisk.create_dir_all(&deep).unwrap();
        assert!(OsDisk.list(&deep).unwrap().is_empty());
        assert_eq!(OsDisk.list(dir.path()).unwrap(), ["a"]);
    }

    #[test]
    fn a_locked_directory_is_refused_until_the_guard_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let guard = OsDisk.lock(dir.path()).unwrap();
        let error = OsDisk.lock(dir.path()).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(guard);
        OsDisk.lock(dir.path()).unwrap();
    }
}
