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
//! let vote = HardState { term: Term(1), voted_for: Some(NodeId(1)), ..HardState::default() };
//! let mut batch = Batch::new();
//! batch.hard_state(group, vote);
//! batch.append(group, [Entry { id, payload: "set x 1".into(), ..Entry::default() }]);
//! wal.write(batch)?; // durable, all of it
//! drop(wal);
//!
//! let wal = Wal::open(&dir, Options::default())?; // after a crash
//! assert_eq!(wal.last(group), id);
//! assert_eq!(wal.hard_state(group), vote);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! 1. When [`Wal::write`] returns Ok, or a [`Ticket`] completes, the batch and all before it survive a kill at any
//!    instruction and a power cut.
//! 2. A log that is opened again holds a prefix of the batches that were submitted, with every acknowledged one in it; each
//!    batch is there whole or not at all.
//! 3. An unfinished write at the end is cut off and reported ([`Wal::recovery`]). Bytes that were acknowledged and are
//!    damaged are never cut: entries that can still be named are reported and give [`Error::DamagedEntry`] when read, all
//!    others are readable; where not even the names are left, `open` is an error that names the place, and changes nothing.
//! 4. A term or vote is written twice, in two places, and only when all before it is durable.
//! 5. After a failed write or sync the log takes no more writes ([`Error::Poisoned`]); it is never synced again. A full
//!    disk is not a failure: [`Error::Full`], and the same batch may be submitted again.
//!
//! See `recovery.rs` for how, and `format.rs` for the bytes.
//!
//! # Which call when
//!
//! For somebody who writes a Raft of their own; the words are those of figure 2 of the paper.
//!
//! | Raft | call |
//! |---|---|
//! | first start | [`Wal::create`]; ever after [`Wal::open`], also after a crash: look at [`Wal::recovery`] |
//! | `currentTerm`, `votedFor` | [`Batch::hard_state`]; [`Wal::write`] before a vote or a reply leaves |
//! | a leader appends | [`Batch::append`], [`Wal::submit`]; send to the peers meanwhile; its own vote for the entry counts when the [`Ticket`] completes |
//! | AppendEntries, rules 3 to 5 | [`Wal::term`] at the previous index; [`Batch::append`] replaces what conflicts. Append only from the first entry on that differs: what follows is dropped. Answer when the ticket completes |
//! | `prevLogIndex` at the purge point | [`Wal::purged`] has its term; [`Wal::term`] does not |
//! | `lastLogIndex`, `lastLogTerm` | [`Wal::last`] |
//! | what may count for `matchIndex` | [`Wal::durable`], or the ticket |
//! | sending entries | [`Wal::entries`] with a limit in bytes |
//! | a snapshot was taken here | [`Batch::purge`], after the snapshot is durable |
//! | InstallSnapshot | hard state, truncation and purge in one batch: see [`Batch::purge`] |
//! | a group leaves this node | [`Batch::remove_group`] |
//! | a leader's blank entry, a membership change | [`Batch::vital`]: they persist on a full disk |
//! | [`Error::Full`], [`Error::Busy`] | step down or wait ([`Wal::look_for_space`]), then submit a clone of the batch again |
//! | [`Error::Poisoned`] | stop; open the log again: what was not acknowledged may or may not be there |
//! | [`Error::DamagedEntry`], [`Error::Suspect`] | ask a peer for the entry, [`Wal::repair`]; it still counts in votes and elections |
//! | now and then | [`Wal::scrub`], [`Wal::stats`] |
//!
//! # Three ways to wait
//!
//! ```
//! use duramen_wal::{Batch, Entry, GroupId, Index, LogId, Options, Term, Wal};
//! # let dir = tempfile::tempdir()?;
//! # let wal = Wal::create(dir.path().join("log"), Options::default())?;
//! let entry = |index| {
//!     let id = LogId { term: Term(1), index: Index(index) };
//!     Entry { id, payload: "x".into(), ..Entry::default() }
//! };
//! let batch = |index| {
//!     let mut batch = Batch::new();
//!     batch.append(GroupId(1), [entry(index)]);
//!     batch
//! };
//! let first = wal.submit(batch(1))?; // queued, and readers see it
//! let second = wal.submit(batch(2))?;
//! let third = wal.submit(batch(3))?;
//! assert_eq!(wal.last(GroupId(1)).index, Index(3));
//! second.on_durable(|outcome| println!("{outcome:?}")); // a callback
//! third.wait()?; // this thread, which writes all three with one sync
//! assert!(first.is_durable()); // or `first.await?`, on any runtime
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod batch;
mod canary;
mod check;
mod control;
mod cut;
mod dump;
mod error;
mod format;
mod frame;
mod group;
mod groups;
mod inspect;
mod live;
mod memory;
mod names;
mod pipeline;
mod plan;
mod read;
mod record;
mod recovery;
mod repair;
mod replay;
mod rows;
mod salvage;
mod scan;
mod seal;
mod segment;
mod spare;
mod states;
mod stats;
mod sync;
mod table;
mod tables;
mod ticket;
pub mod types;
mod window;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use duramen_disk::{Caution, DirLock, Disk, LockMode, OsDisk};

pub use batch::Batch;
pub use cut::{CutPlan, GroupCut};
pub use dump::{DumpItem, DumpRecord};
pub use error::{Damage, Error, Misuse, Result};
pub use inspect::Verification;
pub use recovery::{Cut, DamagedEntry, RecoveryReport};
pub use repair::{Scrub, ScrubReport};
pub use scan::BadEntry;
pub use stats::{Histogram, Stats};
pub use ticket::Ticket;
pub use types::{Context, Entry, GroupId, HardState, Index, LogId, NodeId, Term};

use canary::planted;
use control::{CONTROL_FILE, Control, ControlFile};
use frame::Home;
use inspect::must_be_a_log;
use names::Names;
use pipeline::Pipeline;
use recovery::look;
use segment::Access;
use spare::Spare;
use sync::Mutex;
use sync::thread::{self, JoinHandle};

/// How a log is written. Options are not kept in the log: each open may have others.
///
/// ```
/// use duramen_wal::Options;
/// let mut options = Options::default();
/// options.segment_bytes = 16 << 20;
/// options.batch_bytes_max = 8 << 20; // at most half of it
/// options.in_flight_bytes_max = 8 << 20;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The size of a segment file, in bytes, rounded up to pages of 4096; its space is reserved when it is made. A segment
    /// is larger if there are many groups, 2 KiB for each beyond the first 1,000: what it begins with, the state of every group,
    /// is a small part of it then. Default 64 MiB.
    pub segment_bytes: u64,
    /// The largest batch that is taken, in bytes, ids and checksums included, and a user record twice. At most half of
    /// `segment_bytes`, and not below 16 KiB, or votes are refused. Default 32 MiB.
    pub batch_bytes_max: u64,
    /// How much may be submitted and not durable, in bytes, before [`Wal::submit`] waits. A batch that is larger is taken
    /// when nothing else is under way. At most half of `segment_bytes`. Default 16 MiB.
    pub in_flight_bytes_max: u64,
    /// A log that has nothing to write for this long notes in CONTROL up to where it is durable, so that damage at its end
    /// is known as damage and not taken for a torn write. At most ten times a second. `None` for never, but for
    /// [`Wal::close`]. Default 5 ms.
    pub idle_mark: Option<Duration>,
    /// A segment that is freed becomes the next one, with its space and its place on the disk, unless somebody reads it
    /// just then. Turn it off where segments are hard-linked for a backup; it is off by itself on a file system that copies on
    /// write, where nothing is prewritten either. Default true.
    pub recycle: bool,
    /// The largest payload that is taken, in bytes. Its batch must be within `batch_bytes_max` too, where ids and checksums
    /// count. Default 32 MiB.
    pub entry_bytes_max: u64,
    /// How many groups there may be. Each takes about 50 bytes, three times, in each segment; the write that begins a segment
    /// writes two of them, which takes some 30 ms for 100,000 groups. A log that has more when it is opened keeps them.
    /// Default 262,144.
    pub groups_max: usize,
    /// How much of what was written last is kept in memory for readers, in bytes of payload. Default 8 MiB.
    pub recent_bytes_max: u64,
    /// How much memory may be taken by the tables that say where in a sealed segment each entry is, in bytes: 16 for an
    /// entry. They are read when they are needed, which takes about half a millisecond for a segment of 64 MiB with entries of
    /// 1 KiB: once for all that is read in order, and each time for what is read here and there in a log whose tables take
    /// more than this. Default 64 MiB.
    pub index_bytes_max: u64,
    /// Entries of sealed segments are read from a map of the file: without a copy and a call, and they hold the segment as
    /// long as they live. But a map turns a read error of the disk into SIGBUS, which ends the process; read as usual it is
    /// an [`Error::Io`]. Default false.
    pub map_sealed: bool,
    /// What to do with entries at the end of the log whose ids are whole and whose payloads are not: they were torn by a
    /// crash, or were acknowledged and are damaged. If false they are cut off, with all after them, and reported. If true
    /// they are kept: [`Wal::last`] counts them, reading one is [`Error::Suspect`], and nothing can be appended after them
    /// before they are truncated or repaired. For a node that can ask its peers. Default false.
    pub keep_suspects: bool,
    /// The log starts no threads of its own, and so prepares nothing and marks nothing in the background. What nobody waits
    /// for is written by [`Wal::drive`]. For simulations. Default false.
    pub manual_drive: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            batch_bytes_max: 32 << 20,
            in_flight_bytes_max: 16 << 20,
            idle_mark: Some(Duration::from_millis(5)),
            recycle: true,
            entry_bytes_max: 32 << 20,
            groups_max: 1 << 18,
            recent_bytes_max: 8 << 20,
            index_bytes_max: 64 << 20,
            map_sealed: false,
            keep_suspects: false,
            manual_drive: false,
        }
    }
}

/// A log's first segment is smaller, so that a small log costs little, and the next one, which is prewritten, comes soon.
const FIRST_SEGMENT_BYTES: u64 = 4 << 20;

impl Options {
    fn check(&self) {
        let half = self.segment_bytes / 2;
        let Options {
            batch_bytes_max: batch,
            in_flight_bytes_max: in_flight,
            ..
        } = *self;
        assert!(
            batch <= half,
            "batch_bytes_max {batch} is over half of segment_bytes, {half}"
        );
        assert!(
            in_flight <= half,
            "in_flight_bytes_max {in_flight} is over half of segment_bytes, {half}"
        );
        assert!(
            half < 1 << 31,
            "segment_bytes {} is not under 4 GiB",
            self.segment_bytes
        );
    }
}

/// A durable log. See the [crate's documentation](crate).
///
/// It may be used from any number of threads. Cloning gives another handle to the same log. When the last one is dropped, what is queued is written, the log's thread
/// is joined, and the directory is unlocked as soon as no [`Ticket`] is left either; [`close`](Wal::close) tells of errors.
#[derive(Clone)]
pub struct Wal {
    handle: Arc<Handle>,
}

/// Ends the log's threads when the last [`Wal`] is dropped. Tickets and the threads themselves hold only the core.
struct Handle {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

pub(crate) struct Core {
    dir: PathBuf,
    report: RecoveryReport,
    pipeline: Pipeline,
    _lock: Box<dyn DirLock>,
}

impl Wal {
    /// Makes a log in `dir`, which must be empty or not exist. Durable on return. If a crash or an error comes between, it
    /// can be called again.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], also if there is a log already; [`Error::Locked`], [`Error::Full`], [`Error::Io`].
    ///
    /// # Panics
    /// If the limits in `options` contradict each other.
    pub fn create(dir: impl AsRef<Path>, options: Options) -> Result<Wal> {
        Wal::create_on(Arc::new(OsDisk::new()), dir, options)
    }

    /// [`create`](Wal::create) on a given disk.
    pub fn create_on(disk: Arc<dyn Disk>, dir: impl AsRef<Path>, options: Options) -> Result<Wal> {
        options.check();
        let dir = dir.as_ref();
        disk.create_dir_all(dir).map_err(Error::io("create", dir))?;
        let lock = lock(&*disk, dir, LockMode::Exclusive)?;
        clear_the_way(&*disk, dir)?;
        let control = Control {
            log_id: random(&*disk, dir)?,
            generation: 1,
            oldest: 1,
            newest: 0,
            mark: 0,
        };
        ControlFile::create(&*disk, dir, &control)?;
        let home = Home {
            log_id: control.log_id,
            segment: 1,
        };
        let file_bytes = segment::segment_bytes(options.segment_bytes.min(FIRST_SEGMENT_BYTES), 0);
        Spare::create(&*disk, dir, 0, file_bytes, None)?.into_segment(&*disk, dir, home)?;
        Wal::open_locked(disk, dir, options, lock)
    }

    /// Opens the log in `dir`. What it says afterwards is durable. Never makes a log: an emptied directory is not a new one.
    ///
    /// Cuts off an unfinished write at the end and says so in [`recovery`](Wal::recovery).
    ///
    /// # Errors
    /// [`Error::NotALog`], [`Error::Locked`], [`Error::Damaged`], [`Error::DamagedDirectory`],
    /// [`Error::MissingSegment`], [`Error::Foreign`], [`Error::Version`], [`Error::Full`], [`Error::Io`].
    ///
    /// # Panics
    /// If the limits in `options` contradict each other.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Wal> {
        Wal::open_on(Arc::new(OsDisk::new()), dir, options)
    }

    /// [`open`](Wal::open) on a given disk.
    pub fn open_on(disk: Arc<dyn Disk>, dir: impl AsRef<Path>, options: Options) -> Result<Wal> {
        options.check();
        let dir = dir.as_ref();
        must_be_a_log(&*disk, dir)?;
        let lock = lock(&*disk, dir, LockMode::Exclusive)?;
        Wal::open_locked(disk, dir, options, lock)
    }

    fn open_locked(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        lock: Box<dyn DirLock>,
    ) -> Result<Wal> {
        let cautions = cautions(&*disk, dir);
        let found = look(&*disk, dir, Access::Write, options.keep_suspects)?;
        let epoch = random_epoch(&*disk, dir)?;
        let mut recovered = found.settle(&*disk, dir, epoch, options.segment_bytes)?;
        let is_cow = |caution: &Caution| matches!(caution, Caution::CopyOnWrite { .. });
        let copies_on_write = cautions.iter().any(is_cow);
        recovered.report.cautions = cautions;
        let manual_drive = options.manual_drive;
        let core = Core {
            dir: dir.to_owned(),
            report: std::mem::take(&mut recovered.report),
            pipeline: Pipeline::new(disk, dir.to_owned(), recovered, options, copies_on_write),
            _lock: lock,
        };
        let core = Arc::new(core);
        let threads = match manual_drive {
            true => Vec::new(),
            false => vec![
                core.spawn("wal", Pipeline::run)?,
                core.spawn("wal-space", Pipeline::tend)?,
            ],
        };
        let threads = Mutex::new(threads);
        let handle = Arc::new(Handle { core, threads });
        Ok(Wal { handle })
    }

    /// Queues a batch. It takes effect for readers at once, and becomes durable together with what else is queued: the
    /// [`Ticket`] says when.
    ///
    /// Waits while more than [`Options::in_flight_bytes_max`] is under way. An empty batch does nothing; its ticket is that
    /// of the batch before. Whoever may want to submit a batch again keeps a clone; payloads are not copied.
    ///
    /// # Errors
    /// [`Error::Misuse`], [`Error::EntryTooLarge`], [`Error::TooLarge`], [`Error::TooManyGroups`],
    /// [`Error::TooMuchState`], [`Error::Full`]: nothing has changed, the log goes on. On a full disk votes, truncations
    /// and purges are still taken, and what is [`vital`](Batch::vital): a sixteenth of a segment, at most 1 MiB, is kept
    /// for them.
    /// [`Error::Poisoned`]: an earlier write failed. [`Error::Io`]: the next segment could not be made; the log is
    /// poisoned if it is not known what became of it.
    pub fn submit(&self, batch: Batch) -> Result<Ticket> {
        let core = &self.handle.core;
        let number = core.pipeline.submit(batch, true)?;
        Ok(Ticket::new(core.clone(), number))
    }

    /// [`submit`](Wal::submit) that does not wait for writes. It may still wait for the disk: when the next segment is not
    /// ready by the time it is needed, it is made here.
    ///
    /// # Errors
    /// Those of [`submit`](Wal::submit), and [`Error::Busy`]: too much is under way.
    pub fn try_submit(&self, batch: Batch) -> Result<Ticket> {
        let core = &self.handle.core;
        let number = core.pipeline.submit(batch, false)?;
        Ok(Ticket::new(core.clone(), number))
    }

    /// Looks whether there is space again after [`Error::Full`]: for a batch that takes so many bytes, with what stands around its
    /// entries. Makes the next segment, if there is none, but writes nothing to the log.
    ///
    /// # Errors
    /// [`Error::Full`]: there is none. [`Error::Poisoned`], [`Error::Io`].
    pub fn look_for_space(&self, bytes: u64) -> Result<()> {
        self.handle.core.pipeline.look_for_space(bytes)
    }

    /// Writes a batch. Durable on return, whole, with all that was submitted before.
    ///
    /// # Errors
    /// Those of [`submit`](Wal::submit) and of [`Ticket::wait`].
    pub fn write(&self, batch: Batch) -> Result<()> {
        let pipeline = &self.handle.core.pipeline;
        let number = pipeline.submit(batch, true)?;
        pipeline.wait(number)
    }

    /// Writes what is queued, on this thread, calls back, and does what segments need: sealing, freeing, moving. Only
    /// needed with [`Options::manual_drive`]. All that was submitted before is durable on return.
    ///
    /// ```
    /// use duramen_disk::SimDisk;
    /// use duramen_wal::{Batch, GroupId, Options, Wal};
    /// # use std::sync::Arc;
    /// let disk = SimDisk::new(); // in memory; it can lose power
    /// let mut options = Options::default();
    /// options.manual_drive = true; // no threads: the same calls give the same bytes
    /// let wal = Wal::create_on(Arc::new(disk.clone()), "/log", options.clone())?;
    /// let mut batch = Batch::new();
    /// batch.user_record(GroupId(1), "me");
    /// let ticket = wal.submit(batch)?;
    /// assert!(!ticket.is_durable()); // nobody writes
    /// wal.drive()?;
    /// assert!(ticket.is_durable());
    ///
    /// disk.power_cut(7);
    /// let wal = Wal::open_on(Arc::new(disk), "/log", options)?;
    /// assert_eq!(&wal.user_record(GroupId(1))[..], b"me");
    /// # Ok::<(), duramen_wal::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    pub fn drive(&self) -> Result<()> {
        self.handle.core.pipeline.flush()
    }

    /// Writes what is queued and marks the log as durable up to its end. Both are durable on return. Other handles may still
    /// be used; if this is the last one, the log's threads have ended on return too.
    ///
    /// Dropping the last handle does the same, and cannot tell of errors.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Io`].
    pub fn close(self) -> Result<()> {
        self.handle.core.pipeline.close()
    }

    /// What [`open`](Wal::open) found, and what it did about it.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.handle.core.report
    }

    /// What the log has done since it was opened, and how it is.
    pub fn stats(&self) -> Stats {
        self.handle.core.pipeline.stats()
    }

    /// The log's directory.
    pub fn dir(&self) -> &Path {
        &self.handle.core.dir
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = &self.handle.core.dir;
        f.debug_struct("Wal")
            .field("dir", dir)
            .finish_non_exhaustive()
    }
}

impl Core {
    fn spawn(self: &Arc<Core>, name: &str, run: fn(&Pipeline)) -> Result<JoinHandle<()>> {
        let core = self.clone();
        let builder = thread::Builder::new().name(name.to_owned());
        let spawned = builder.spawn(move || run(&core.pipeline));
        spawned.map_err(Error::io("start a thread for", &self.dir))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.pipeline.stop();
        let threads = self.threads.get_mut();
        for thread in threads.unwrap_or_else(PoisonError::into_inner).drain(..) {
            // The last handle may go in a callback, on the log's own thread.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join(); // It does not panic; if it does, that is said on standard error.
            }
        }
        if let Err(error) = self.core.pipeline.close() {
            tracing::debug!(%error, "closed a log that is poisoned");
        }
    }
}

/// What speaks against keeping a log here. It is said once, and in the report.
fn cautions(disk: &dyn Disk, dir: &Path) -> Vec<Caution> {
    let cautions = disk.cautions(dir).unwrap_or_else(|error| {
        tracing::debug!(%error, "cannot tell the file system");
        Vec::new()
    });
    for caution in &cautions {
        tracing::warn!(dir = %dir.display(), "{caution}");
    }
    cautions
}

fn lock(disk: &dyn Disk, dir: &Path, mode: LockMode) -> Result<Box<dyn DirLock>> {
    let mode = match planted("locked_for_looking") {
        true => LockMode::Shared,
        false => mode,
    };
    disk.lock(dir, mode).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => Error::Locked {
            path: dir.to_owned(),
        },
        _ => Error::io("lock", dir)(error),
    })
}

/// Makes sure that a directory is empty, but for what a `create` leaves that was killed on its way.
fn clear_the_way(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let names = Names::list(disk, dir)?;
    let has_control = names.has_control;
    let in_the_way = names.remove_unfinished(disk, dir)?;
    // `create` makes CONTROL before the first segment, which CONTROL does not know of yet.
    let emptied = has_control && ControlFile::open(disk, dir, Access::Look)?.control.newest > 0;
    let found = in_the_way.or_else(|| emptied.then(|| CONTROL_FILE.to_owned()));
    match found {
        Some(found) => Err(Error::NotEmpty {
            path: dir.to_owned(),
            found,
        }),
        None => Ok(()),
    }
}

fn random(disk: &dyn Disk, dir: &Path) -> Result<u128> {
    disk.random().map_err(Error::io("draw an id for", dir))
}

/// Never 0, which is before the first epoch, nor the number that stands for any.
fn random_epoch(disk: &dyn Disk, dir: &Path) -> Result<u64> {
    let epoch = random(disk, dir)? as u64;
    Ok(epoch.clamp(1, frame::Link::ANY_EPOCH - 1))
}
