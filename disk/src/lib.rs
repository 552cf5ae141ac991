//! The seam between a log and the operating system.
//!
//! [`Disk`] and [`DiskFile`] are the few things a log asks of a file system, in a form that another implementation can
//! take over: real files ([`OsDisk`]), or a simulated disk that can be killed, have its power cut, fail and lie
//! ([`SimDisk`]).
//! Nothing above this crate calls `std::fs`.
//!
//! What each call promises about a crash is part of its contract, because that is what a log is built from:
//!
//! * Bytes written are durable only after [`DiskFile::sync_data`] returned Ok.
//! * A name created, renamed or removed is durable only after [`Disk::sync_dir`] of its directory returned Ok.
//! * After a failed `sync_data` nothing is known about any byte written since the last one that succeeded: Linux
//!   reports the error once and marks the pages clean, so the next sync succeeds without having written them. Nobody may
//!   call it again and believe the answer.
//!
//! ```
//! use duramen_disk::{Disk, OsDisk};
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! let disk = OsDisk::new();
//! let file = disk.create(&dir.join("hello"))?;
//! file.write_all_at(b"durable", 0)?;
//! file.sync_data()?; // the bytes
//! disk.sync_dir(dir)?; // the name
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Testing a store of your own
//!
//! A program that does its input and output through a `dyn Disk` can be run on a [`SimDisk`], and then:
//!
//! * [`every_crash`](every_crash()) runs it again and again, lets it die at each operation, and gives every state that a
//!   kill or a power cut can leave: open your store on it, and look whether what was acknowledged is there. Begin with its
//!   example.
//! * [`every_error`](every_error()) runs it again and again, and lets each of its calls to the disk fail once, or be short.
//! * [`SimDisk::fail_op`] and its like let any call fail, the disk run full, a sync fail as Linux does it, or hang.
//! * [`SimDisk::flip_bit`], [`make_bad`](SimDisk::make_bad), [`lose_write`](SimDisk::lose_write) and their like spoil
//!   what is on the media.
//!
//! Everything is deterministic: the same calls on the same disk leave the same state, and what is drawn follows from its
//! seed. What is not simulated is [listed](SimDisk#what-it-leaves-out).

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod caution;
mod every_crash;
mod every_error;
mod map;
mod os;
mod sim;

use std::io;
use std::path::Path;

pub use caution::Caution;
pub use every_crash::{
    Crash, CrashId, CrashIdError, CrashPoint, CrashState, EveryCrash, every_crash,
};
pub use every_error::{EveryError, Failed, every_error};
pub use map::Map;
pub use os::OsDisk;
pub use sim::{Failure, Hang, Op, SimDisk};

/// What a log asks of a file system: names.
///
/// Every method takes full paths. Errors are plain [`io::Error`]s; callers add the operation and the path.
pub trait Disk: Send + Sync + 'static {
    /// Creates `dir` and its missing parents, and makes their names durable. No error if it exists; `AlreadyExists` or
    /// `NotADirectory` if a file is in the way.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Lists the names in `dir`, sorted; without `.` and `..`.
    ///
    /// A name that is not UTF-8 is listed with replacement characters, so that a caller who looks for strangers sees it.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates a new file and opens it for reading and writing.
    ///
    /// `AlreadyExists` if the name is taken. The name is durable only after [`sync_dir`](Disk::sync_dir).
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading and writing; `NotFound` or `IsADirectory` if there is none. Each call gives an open file description of its own: what a
    /// failed write-back has to say is told to each of them once.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading, also one that may not be written. Everything that would change the file is an
    /// error.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Renames `from` to `to` in the same directory, replacing `to`: after a crash `to` is the old file or the new one,
    /// whole. Durable only after [`sync_dir`](Disk::sync_dir). A new name may take space: `StorageFull`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Exchanges two directories that stand in one parent, with all that is in them: after a crash both have changed places
    /// or neither. Durable only after [`sync_dir`](Disk::sync_dir) of their parent. `Unsupported` where the file system cannot do it.
    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        let _ = (a, b);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Removes a file's name. Durable only after [`sync_dir`](Disk::sync_dir).
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes all names created, renamed or removed in `dir` durable. After an error each of them may be or not, and as with
    /// [`sync_data`](DiskFile::sync_data) the Ok of a second call is not to be believed.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Locks `dir` for this process until the returned guard is dropped or the process ends, however it ends.
    ///
    /// Does not wait: `WouldBlock` if somebody holds it in a way that excludes `mode`. Leaves a file named
    /// [`LOCK_FILE`] in `dir`; see [`LockMode::Shared`] for where it cannot.
    fn lock(&self, dir: &Path, mode: LockMode) -> io::Result<Box<dyn DirLock>>;

    /// A number that nobody else draws, for ids: from the operating system, as far as a disk does not say otherwise.
    fn random(&self) -> io::Result<u128> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(u128::from_le_bytes(bytes))
    }

    /// What is known against keeping a log in `dir`. Nothing, as far as a disk does not say otherwise.
    fn cautions(&self, dir: &Path) -> io::Result<Vec<Caution>> {
        let _ = dir;
        Ok(Vec::new())
    }
}

/// What a log asks of a file system: bytes. Reads and writes name their offset; there is no cursor.
pub trait DiskFile: Send + Sync {
    /// The length of the file in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads up to `buf.len()` bytes at `offset`, says how many; 0 only at the end of the file or for an empty `buf`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes up to `buf.len()` bytes at `offset`, says how many. Not durable before [`sync_data`](DiskFile::sync_data).
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;

    /// Sets the length of the file in bytes: cuts it off, or extends it with zeros. That reserves no space, see
    /// [`allocate`](DiskFile::allocate). Durable only after [`sync_data`](DiskFile::sync_data).
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves space, so that the file is at least `len` bytes long and writing below `len` cannot run out of it; new
    /// bytes read as zeros, and what is there stays. `StorageFull` or `QuotaExceeded` if there is not enough; then the
    /// file may be longer than before, and have taken all the space there was (ext4): cut it off or remove it. Like any
    /// length it is durable only after [`sync_data`](DiskFile::sync_data).
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Gives back the space of these bytes. They read as zeros; the length stays, and bytes past it are none. Durable only
    /// after [`sync_data`](DiskFile::sync_data). `Unsupported` where the file system cannot do it: then nothing happened.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Where the next bytes are, at `offset` or after it, that take space: up to there are zeros, and with `None` to the end. So
    /// that nobody reads through a hole, however long a file says that it is. Where that is not known, it is `offset`.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset))
    }

    /// The whole file as memory, read-only.
    ///
    /// Only for a file that nobody writes, cuts off or punches from now on; removing it is fine. A read error under the
    /// map has no way to be returned: it ends the process (SIGBUS).
    fn map(&self) -> io::Result<Map>;

    /// Makes every byte written so far durable, and the length needed to read it back. Never to be repeated after an
    /// error (see the crate's documentation).
    fn sync_data(&self) -> io::Result<()>;

    /// Closes the handle. Dropping it does so too, and says nothing.
    ///
    /// Nothing that was synced depends on it; an error may be the first word of a failed write-back. Real files say Ok in
    /// any case: the standard library does not tell.
    fn close(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }

    /// Reads exactly `buf.len()` bytes at `offset`; `UnexpectedEof` if the file ends before. Goes on after a short read
    /// and after `Interrupted`.
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `buf` at `offset`. Goes on after a short write and after `Interrupted`. After an error any part of
    /// `buf` may have been written.
    fn write_all_at(&self, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.write_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    buf = &buf[n..];
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// How [`Disk::lock`] locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockMode {
    /// Nobody else has the directory, neither like this nor shared: for whoever changes something.
    Exclusive,
    /// Any number of holders at a time, and no exclusive one: for looking.
    ///
    /// Where [`LOCK_FILE`] does not exist and may not be created (a directory that this process cannot write, or a
    /// read-only file system), nothing is locked and the guard is empty: looking must work there, and the file is
    /// missing only if no writer ever locked the directory.
    Shared,
}

/// Holds a directory's lock until it is dropped.
pub trait DirLock: Send + Sync {}

/// The name of the file that [`Disk::lock`] leaves in the directory it locks.
pub const LOCK_FILE: &str = "LOCK";
