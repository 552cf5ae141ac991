//! A durable log for Raft: segmented, checksummed, crash-recoverable.
//!
//! One [`Wal`] is one directory and one stream of writes. It holds the logs of any number of Raft groups: for each its
//! entries, its [`HardState`] (figure 2's currentTerm and votedFor) and a small user record.
//!
//! ```
//! use duramen_wal::{Batch, Entry, GroupId, HardState, Index, LogId, NodeId, Options, Term, Wal};
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path().join("log");
//! let group = GroupId(1);
//! let wal = Wal::create(&dir, Options::default())?;
//! let id = LogId { term: Term(1), index: Index(1) };
//! let mut batch = Batch::new();
//! batch.hard_state(group, HardState { term: Term(1), voted_for: Some(NodeId(1)) });
//! batch.append(group, [Entry { id, payload: "set x 1".into() }]);
//! wal.write(&batch)?; // durable, all of it
//! drop(wal);
//!
//! let wal = Wal::open(&dir, Options::default())?; // after a crash
//! assert_eq!(wal.last(group), id);
//! assert_eq!(wal.hard_state(group).voted_for, Some(NodeId(1)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! 1. When [`Wal::write`] returns Ok, the batch and all before it survive a kill at any instruction and a power cut.
//! 2. A log that is opened again holds a prefix of the batches that were written, with every acknowledged one in it; each
//!    batch is there whole or not at all.
//! 3. A torn last write is cut off and reported ([`Wal::recovery`]). Damage before it is an error that names the place;
//!    nothing is changed then.
//! 4. After a failed write or sync the log takes no more writes ([`Error::Poisoned`]); it is never synced again. A full
//!    disk is not a failure: [`Error::Full`], and the same write may be tried again.

mod batch;
mod error;
mod format;
mod groups;
mod recovery;
mod segment;
pub mod types;
mod window;
mod writer;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use duramen_disk::{DirLock, Disk, LockMode, OsDisk};

pub use batch::Batch;
pub use error::{Damage, Error, Misuse, Result};
pub use recovery::{RecoveryReport, Torn};
pub use types::{Entry, GroupId, HardState, Index, LogId, NodeId, Term};

use format::{Link, SegmentHeader, entry_checksum};
use segment::{Name, Segment};
use writer::Writer;

/// How a log is written.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// A segment that has reached this many bytes is followed by a new one. Default 64 MiB.
    pub segment_bytes: u64,
    /// The largest batch that is taken, in bytes, headers included. Default 64 MiB.
    pub batch_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            batch_bytes_max: 64 << 20,
        }
    }
}

/// A durable log. See the [crate's documentation](crate).
///
/// Cloning gives another handle to the same log. The directory is unlocked when the last one is dropped.
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    report: RecoveryReport,
    writer: Mutex<Writer>,
    _lock: Box<dyn DirLock>,
}

impl Wal {
    /// Makes a log in `dir`, which must be empty or not exist. Durable on return.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], [`Error::Locked`], [`Error::Full`], [`Error::Io`].
    pub fn create(dir: impl AsRef<Path>, options: Options) -> Result<Wal> {
        Wal::create_on(Arc::new(OsDisk::new()), dir, options)
    }

    /// [`create`](Wal::create) on a given disk.
    pub fn create_on(disk: Arc<dyn Disk>, dir: impl AsRef<Path>, options: Options) -> Result<Wal> {
        let dir = dir.as_ref();
        disk.create_dir_all(dir).map_err(Error::io("create", dir))?;
        let lock = lock(&*disk, dir)?;
        for name in disk.list(dir).map_err(Error::io("list", dir))? {
            // A temporary segment is all that a `create` leaves that was killed on its way.
            if !matches!(Name::parse(&name), Name::Lock | Name::Temporary) {
                return Err(Error::NotEmpty {
                    path: dir.to_owned(),
                    found: name,
                });
            }
        }
        let header = SegmentHeader {
            log_id: random_log_id(dir)?,
            number: 1,
            first_sequence: Link::FIRST.sequence,
            predecessor: Link::FIRST.predecessor,
        };
        Segment::create(&*disk, dir, header)?;
        Wal::open_locked(disk, dir, options, lock)
    }

    /// Opens the log in `dir`. What it says afterwards is durable. Never makes a log.
    ///
    /// # Errors
    /// [`Error::NotALog`], [`Error::Locked`], [`Error::Damaged`], [`Error::MissingSegment`], [`Error::Foreign`],
    /// [`Error::Version`], [`Error::Full`], [`Error::Io`].
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Wal> {
        Wal::open_on(Arc::new(OsDisk::new()), dir, options)
    }

    /// [`open`](Wal::open) on a given disk.
    pub fn open_on(disk: Arc<dyn Disk>, dir: impl AsRef<Path>, options: Options) -> Result<Wal> {
        let dir = dir.as_ref();
        // Before the lock, which would leave a file in a directory that is no log.
        let names = match disk.list(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(Error::io("list", dir))?,
        };
        if !names
            .iter()
            .any(|name| matches!(Name::parse(name), Name::Segment(_)))
        {
            return Err(Error::NotALog {
                path: dir.to_owned(),
            });
        }
        let lock = lock(&*disk, dir)?;
        Wal::open_locked(disk, dir, options, lock)
    }

    fn open_locked(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        lock: Box<dyn DirLock>,
    ) -> Result<Wal> {
        assert!(
            options.batch_bytes_max <= u64::from(u32::MAX),
            "batch_bytes_max is less than 4 GiB"
        );
        let recovered = recovery::recover(&*disk, dir)?;
        let report = recovered.report.clone();
        let writer = Writer::new(disk, dir, options, recovered);
        Ok(Wal {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                report,
                writer: Mutex::new(writer),
                _lock: lock,
            }),
        })
    }

    /// Writes a batch. Durable on return, whole; an empty batch does nothing.
    ///
    /// # Errors
    /// [`Error::Misuse`], [`Error::TooLarge`], [`Error::Full`]: nothing was written, the log goes on.
    /// [`Error::Io`]: whether the batch is there will be known at the next [`open`](Wal::open); from now on every write
    /// is [`Error::Poisoned`].
    pub fn write(&self, batch: &Batch) -> Result<()> {
        self.writer().write(batch)
    }

    /// What [`open`](Wal::open) found.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.inner.report
    }

    /// The log's directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The groups that were ever written to.
    pub fn groups(&self) -> Vec<GroupId> {
        self.writer().groups().ids().collect()
    }

    /// A group's term and vote. Term 0 and no vote for a group that was never written to.
    pub fn hard_state(&self, group: GroupId) -> HardState {
        let writer = self.writer();
        writer
            .groups()
            .find(group)
            .map_or(HardState::default(), |g| g.hard_state)
    }

    /// A group's user record; empty if it has none.
    pub fn user_record(&self, group: GroupId) -> Bytes {
        let writer = self.writer();
        writer
            .groups()
            .find(group)
            .map_or(Bytes::new(), |g| g.user_record.clone())
    }

    /// The LogId of a group's last entry; term 0 and index 0 if it has none.
    pub fn last(&self, group: GroupId) -> LogId {
        let writer = self.writer();
        writer
            .groups()
            .find(group)
            .map_or(LogId::default(), |g| g.last())
    }

    /// The term of an entry, if it is there.
    pub fn term(&self, group: GroupId, index: Index) -> Option<Term> {
        let writer = self.writer();
        Some(writer.groups().find(group)?.slot(index)?.term)
    }

    /// Reads the entries of `range`, up to `bytes_max` bytes of payload, but at least one if the range is not empty.
    ///
    /// Each is checked against its checksum.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the range is not in the log, [`Error::Damaged`], [`Error::Io`].
    pub fn entries(
        &self,
        group: GroupId,
        range: Range<Index>,
        bytes_max: u64,
    ) -> Result<Vec<Entry>> {
        let writer = self.writer();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in (range.start.0..range.end.0).map(Index) {
            let found = writer.groups().find(group);
            let Some(slot) = found.and_then(|g| g.slot(index)) else {
                let last = found.map_or(Index(0), |g| g.last().index);
                return Err(Error::misuse(group, Misuse::NoSuchEntry { index, last }));
            };
            bytes += u64::from(slot.payload_bytes);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            let id = LogId {
                term: slot.term,
                index,
            };
            let payload =
                writer.read_payload(slot, |payload| entry_checksum(group, id, payload))?;
            entries.push(Entry { id, payload });
        }
        Ok(entries)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.inner
            .writer
            .lock()
            .expect("nobody panicked while writing the log")
    }
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn DirLock>> {
    disk.lock(dir, LockMode::Exclusive)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => Error::Locked {
                path: dir.to_owned(),
            },
            _ => Error::io("lock", dir)(error),
        })
}

fn random_log_id(dir: &Path) -> Result<u128> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| Error::io("draw an id for", dir)(std::io::Error::other(error)))?;
    Ok(u128::from_le_bytes(id))
}
