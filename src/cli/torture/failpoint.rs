//! Real files, under a process that kills itself: in the middle of a write, or at any other call.
//!
//! What was written stays, as after any `kill -9`: the page cache survives the process.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use duramen::disk::{Caution, DirLock, Disk, DiskFile, LockMode, Map, OsDisk};
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

use super::said::{Line, say};

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    /// A segment of the log, or a file that becomes one.
    Segment,
    /// The log's CONTROL file.
    Control,
    /// A file of the snapshot store.
    Snapshot,
}

impl Place {
    fn of(path: &Path) -> Place {
        let has = |end: &str| path.file_name().is_some_and(|name| name == end);
        let is_in = |dir: &str| path.parent().is_some_and(|parent| parent.ends_with(dir));
        match (has("CONTROL") || has("control.tmp"), is_in("snapshots")) {
            (true, _) => Place::Control,
            (false, true) => Place::Snapshot,
            (false, false) => Place::Segment,
        }
    }
}

/// Where the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Failpoint {
    /// In the `nth` write to such a file, after `part` / 65536 of its bytes.
    Write { place: Place, nth: u64, part: u16 },
    /// Before or after the `nth` call of those that change something and write no bytes.
    Call { nth: u64, is_before: bool },
}

/// The real disk, with a failpoint.
pub(super) struct FailingDisk {
    disk: OsDisk,
    fuse: Arc<Fuse>,
}

/// Counts down to the failpoint.
struct Fuse {
    failpoint: Option<Failpoint>,
    /// Writes to the place, or calls.
    counted: AtomicU64,
}

impl FailingDisk {
    pub(super) fn new(failpoint: Option<Failpoint>) -> FailingDisk {
        let fuse = Fuse {
            failpoint,
            counted: AtomicU64::new(0),
        };
        FailingDisk {
            disk: OsDisk::new(),
            fuse: Arc::new(fuse),
        }
    }

    fn file(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FailingFile {
            file,
            place: Place::of(path),
            fuse: self.fuse.clone(),
        })
    }
}

impl Fuse {
    fn count(&self) -> u64 {
        self.counted.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A call that writes no bytes.
    fn call<T>(&self, name: &str, call: impl FnOnce() -> T) -> T {
        let Some(Failpoint::Call { nth, is_before }) = self.failpoint else {
            return call();
        };
        let is_here = self.count() == nth;
        if is_here && is_before {
            die(&Line::DiedAtCall(format!("before {name}")));
        }
        let done = call();
        if is_here {
            die(&Line::DiedAtCall(format!("after {name}")));
        }
        done
    }

    /// How many of a write's bytes are written before the end, if this is the last one.
    fn last_bytes(&self, at: Place, bytes: usize) -> Option<usize> {
        let Some(Failpoint::Write { place, nth, part }) = self.failpoint else {
            return None;
        };
        let is_here = at == place && self.count() == nth;
        is_here.then(|| (bytes * usize::from(part)) >> 16)
    }
}

/// Ends the process as `kill -9` does, with all its threads.
fn die(last_words: &Line) -> ! {
    say(last_words);
    let _ = kill_process(getpid(), Signal::KILL); // One may always kill oneself.
    loop {
        std::thread::park();
    }
}

impl Disk for FailingDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.fuse
            .call("create_dir_all", || self.disk.create_dir_all(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let created = self.fuse.call("create", || self.disk.create(path));
        Ok(self.file(path, created?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(path, self.disk.open(path)?))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open_read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fuse.call("rename", || self.disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.fuse.call("remove", || self.disk.remove(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.fuse.call("sync_dir", || self.disk.sync_dir(dir))
    }

    fn lock(&self, dir: &Path, mode: LockMode) -> io::Result<Box<dyn DirLock>> {
        self.disk.lock(dir, mode)
    }

    fn random(&self) -> io::Result<u128> {
        self.disk.random()
    }

    fn cautions(&self, dir: &Path) -> io::Result<Vec<Caution>> {
        self.disk.cautions(dir)
    }
}

struct FailingFile {
    file: Box<dyn DiskFile>,
    place: Place,
    fuse: Arc<Fuse>,
}

impl DiskFile for FailingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        if let Some(bytes) = self.fuse.last_bytes(self.place, buf.len()) {
            let written = self.file.write_all_at(&buf[..bytes], offset);
            if let Err(error) = written {
                say(&Line::of_error(&error));
            }
            die(&Line::DiedInWrite {
                place: self.place,
                bytes: bytes as u64,
                of: buf.len() as u64,
            });
        }
        self.file.write_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fuse.call("set_len", || self.file.set_len(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.fuse.call("allocate", || self.file.allocate(len))
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.fuse
            .call("punch_hole", || self.file.punch_hole(offset, len))
    }

    fn map(&self) -> io::Result<Map> {
        self.file.map()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fuse.call("sync_data", || self.file.sync_data())
    }
}
