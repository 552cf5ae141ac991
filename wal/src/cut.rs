//! Cutting damage: the last resort of somebody who has no peer to get the true entries from.
//!
//! Nothing else in this crate ever cuts what was acknowledged. [`Wal::cut`] makes a new log beside the old one, of what is
//! whole (`salvage.rs` says what that is), closes it, and lets the two directories change places in one step. So a crash at
//! any moment leaves the old log as it was or the new one whole, the old one is never written to, and it stands aside
//! afterwards, for whoever can read more out of it.
//!
//! Two empty files speak of it in the new log. `CUT` is there until it is durable that this log stands where it stands: who
//! opens it makes it so first, since a power cut could still bring the old one back, without what was acknowledged meanwhile.
//! `LOST` is there if something acknowledged is lost, until somebody accepts that.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use duramen_disk::{DirLock, Disk, LockMode, OsDisk};

use crate::canary::planted;
use crate::error::{Error, Result};
use crate::inspect::must_be_a_log;
use crate::names::Names;
use crate::recovery::Cut;
use crate::salvage::Salvage;
use crate::types::{GroupId, Index, LogId};
use crate::{Batch, Options, Wal, lock};

/// What [`Wal::cut`] does, or would do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CutPlan {
    /// Where the old log goes, whole: a directory beside it.
    pub aside: PathBuf,
    /// CONTROL, segments and frames that cannot be read: what else was in them is not known.
    pub lost: Vec<Error>,
    /// The end of the log is among it: newer votes, user records, entries and purges than those that are kept may have been
    /// there.
    pub is_end_lost: bool,
    /// The groups that lose entries.
    pub groups: Vec<GroupCut>,
    /// An unfinished write at the end, which is left out as by [`Wal::open`].
    pub torn: Option<Cut>,
    /// How many groups are kept.
    pub groups_kept: u64,
    /// How many entries are kept, and their payloads in bytes.
    pub entries_kept: u64,
    /// See `entries_kept`.
    pub bytes_kept: u64,
}

/// A group that loses entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupCut {
    /// Which one.
    pub group: GroupId,
    /// The last entry that it keeps; its purge point if there is none.
    pub kept: LogId,
    /// The last entry that it had, as far as it is known.
    pub end: LogId,
}

impl GroupCut {
    /// The first entry that is lost.
    pub fn first_lost(&self) -> Index {
        // An entry of another term stands where the last one did that is kept.
        self.kept.index.next().min(self.end.index)
    }
}

impl CutPlan {
    /// Whether what was acknowledged is lost, or may be.
    pub fn is_loss(&self) -> bool {
        self.is_end_lost || !self.groups.is_empty()
    }
}

/// There while it is not known whether it is durable that this log has taken the place of the old one.
pub(crate) const CUT_FILE: &str = "CUT";
/// There until the loss is accepted.
pub(crate) const LOST_FILE: &str = "LOST";

/// So much goes into one write, in bytes, if it is of several parts.
const WRITE_BYTES: usize = 1 << 20;
/// What a part takes beside its payload, about.
const BESIDE_BYTES: usize = 64;

impl Wal {
    /// Says what [`cut`](Wal::cut) would do. Changes nothing; works on a read-only file system, and beside others that look.
    /// `progress` is told how many entries were read.
    ///
    /// # Errors
    /// Those of [`cut`](Wal::cut).
    pub fn plan_cut(dir: impl AsRef<Path>, progress: impl FnMut(u64)) -> Result<CutPlan> {
        Wal::plan_cut_on(Arc::new(OsDisk::new()), dir, progress)
    }

    /// [`plan_cut`](Wal::plan_cut) on a given disk.
    pub fn plan_cut_on(
        disk: Arc<dyn Disk>,
        dir: impl AsRef<Path>,
        mut progress: impl FnMut(u64),
    ) -> Result<CutPlan> {
        let dir = dir.as_ref();
        let (_lock, _names, mut salvage, aside) = begin(&*disk, dir, LockMode::Shared)?;
        plan(&mut salvage, aside, None, &mut progress)
    }

    /// Makes the log anew from what is whole, and puts the old one aside, unchanged. Durable on return; after a crash, or an
    /// error, the log is the old one or the new one, and it can be called again. An unfinished copy may be left beside it.
    ///
    /// **This loses what was acknowledged**: of each group all entries from the first one on that cannot be read; where a
    /// frame or a segment is lost and what was in it is not known, entries, votes and user records may be as they were before
    /// it. A Raft node that goes on with such a log can vote twice in a term, and its vote no longer counts for what it had
    /// acknowledged: it must not return to its cluster as the same voter. The new log says so itself, whenever it is opened
    /// ([`RecoveryReport::is_lossy`](crate::RecoveryReport::is_lossy)). Whoever has peers lets them repair the
    /// entries ([`repair`](Wal::repair)), or begins anew under another number.
    ///
    /// ```
    /// # use duramen_disk::SimDisk;
    /// # use duramen_wal::{Batch, Entry, GroupId, Index, LogId, Options, Term, Wal};
    /// # use std::sync::Arc;
    /// # let disk = SimDisk::new();
    /// # let mut options = Options::default();
    /// # options.manual_drive = true;
    /// # let wal = Wal::create_on(Arc::new(disk.clone()), "/log", options.clone())?;
    /// # for index in 1..=3 {
    /// #     let id = LogId { term: Term(1), index: Index(index) };
    /// #     let mut batch = Batch::new();
    /// #     batch.append(GroupId(1), [Entry { id, payload: vec![7; 4096].into(), ..Entry::default() }]);
    /// #     wal.write(batch)?;
    /// # }
    /// # wal.close()?;
    /// disk.flip_bit("/log/0000000000000001.wal".as_ref(), 6000, 3)?; // in the middle of entry 2 of 3
    /// let done = Wal::cut_on(Arc::new(disk.clone()), "/log", |_| ())?;
    /// assert_eq!(done.groups[0].kept.index, Index(1));
    /// assert_eq!(done.groups[0].end.index, Index(3));
    ///
    /// let wal = Wal::open_on(Arc::new(disk.clone()), "/log", options)?;
    /// assert_eq!(wal.last(GroupId(1)).index, Index(1));
    /// assert!(Wal::verify_on(Arc::new(disk), done.aside, |_| true)?.is_damaged()); // the old one, as it was
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotALog`], [`Error::Locked`], [`Error::Version`], [`Error::Foreign`]; what is wrong with the log, if nothing
    /// of it can be read; [`Error::Full`], and [`Error::Io`], also where the file system cannot let two directories change
    /// places, or `dir` is one that it is mounted on.
    pub fn cut(dir: impl AsRef<Path>, progress: impl FnMut(u64)) -> Result<CutPlan> {
        Wal::cut_on(Arc::new(OsDisk::new()), dir, progress)
    }

    /// [`cut`](Wal::cut) on a given disk.
    pub fn cut_on(
        disk: Arc<dyn Disk>,
        dir: impl AsRef<Path>,
        mut progress: impl FnMut(u64),
    ) -> Result<CutPlan> {
        let dir = dir.as_ref();
        let (_lock, names, mut salvage, aside) = begin(&*disk, dir, LockMode::Exclusive)?;
        let exchange = || {
            let op = "put the new log, which stands beside it, in the place of";
            disk.exchange(&aside, dir).map_err(Error::io(op, dir))?;
            keep_place(&*disk, dir)
        };
        let is_early = planted("cut_before_durable");
        let mut make = || {
            let new = Wal::create_on(disk.clone(), &aside, new_options(&salvage))?;
            add_file(&*disk, &aside, CUT_FILE)?;
            if is_early {
                exchange()?;
            }
            let done = plan(&mut salvage, aside.clone(), Some(&new), &mut progress)?;
            new.close()?;
            if (done.is_loss() || names.is_lossy) && !planted("loss_not_said") {
                add_file(&*disk, &aside, LOST_FILE)?;
            }
            // Nobody is to acknowledge anything in the new log before it is durable that it stands in the place of the old one.
            Ok((done, lock(&*disk, &aside, LockMode::Exclusive)?))
        };
        let (done, _new_lock) = make().inspect_err(|_| remove_all(&*disk, &aside))?;
        if !is_early {
            exchange()?;
        }
        Ok(done)
    }

    /// Goes on with a log that [`cut`](Wal::cut) has made without all that had been acknowledged: for one who has no peers, or is
    /// sure that none counts on what is lost. From now on [`RecoveryReport::is_lossy`](crate::RecoveryReport::is_lossy) is false
    /// when it is opened. Durable on return; does nothing to any other log.
    ///
    /// # Errors
    /// [`Error::Io`]: it may be accepted or not, and can be again.
    pub fn accept_loss(&self) -> Result<()> {
        let core = &self.handle.core;
        let disk = core.pipeline.disk();
        match Names::list(disk, &core.dir)?.is_lossy {
            true => remove_file(disk, &core.dir, LOST_FILE),
            false => Ok(()),
        }
    }
}

/// Makes it durable that a log which was cut stands in `dir`.
pub(crate) fn keep_place(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let parent = parent_of(dir);
    disk.sync_dir(&parent).map_err(Error::io("sync", &parent))?;
    remove_file(disk, dir, CUT_FILE)
}

fn add_file(disk: &dyn Disk, dir: &Path, name: &str) -> Result<()> {
    let path = dir.join(name);
    let file = disk.create(&path).map_err(Error::io("create", &path))?;
    file.sync_data().map_err(Error::io("sync", &path))?;
    disk.sync_dir(dir).map_err(Error::io("sync", dir))
}

fn remove_file(disk: &dyn Disk, dir: &Path, name: &str) -> Result<()> {
    let path = dir.join(name);
    disk.remove(&path).map_err(Error::io("remove", &path))?;
    disk.sync_dir(dir).map_err(Error::io("sync", dir))
}

/// The directory that `dir` stands in.
fn parent_of(dir: &Path) -> PathBuf {
    match (dir.parent(), dir.file_name()) {
        (Some(here), Some(_)) if here.as_os_str().is_empty() => PathBuf::from("."),
        (Some(parent), Some(_)) => parent.to_owned(),
        _ => dir.join(".."), // of `.`, say
    }
}

/// Locks the log. Gives what is left of it, and the name that the old one is to have.
fn begin(
    disk: &dyn Disk,
    dir: &Path,
    mode: LockMode,
) -> Result<(Box<dyn DirLock>, Names, Salvage, PathBuf)> {
    must_be_a_log(disk, dir)?;
    let lock = lock(disk, dir, mode)?;
    let names = Names::list(disk, dir)?;
    Ok((lock, names, Salvage::of(disk, dir)?, free_name(disk, dir)?))
}

/// Gives the space of an unfinished copy back, as far as that goes.
fn remove_all(disk: &dyn Disk, aside: &Path) {
    let names = disk.list(aside).unwrap_or_default();
    for name in names {
        if let Err(error) = disk.remove(&aside.join(&name)) {
            tracing::warn!(%error, dir = %aside.display(), "an unfinished copy stays: remove it");
        }
    }
}

/// Large enough for whatever was in the old log, whose options are not known.
fn new_options(salvage: &Salvage) -> Options {
    let mut options = Options::default();
    let largest = SEGMENT_BYTES_MAX.min(salvage.segment_bytes());
    options.segment_bytes = options.segment_bytes.max(largest);
    options.batch_bytes_max = options.segment_bytes / 2;
    options.in_flight_bytes_max = options.segment_bytes / 2;
    options.entry_bytes_max = options.segment_bytes / 2;
    options.groups_max = usize::MAX;
    options.manual_drive = true;
    options
}

/// No log's are larger.
const SEGMENT_BYTES_MAX: u64 = (4 << 30) - 8192;

/// Reads what is left, and puts it into a new log, if there is one.
fn plan(
    salvage: &mut Salvage,
    aside: PathBuf,
    new: Option<&Wal>,
    progress: &mut dyn FnMut(u64),
) -> Result<CutPlan> {
    let mut plan = CutPlan {
        aside,
        lost: std::mem::take(&mut salvage.lost),
        is_end_lost: salvage.is_end_lost,
        groups: Vec::new(),
        torn: salvage.torn.take(),
        groups_kept: salvage.groups.len() as u64,
        entries_kept: 0,
        bytes_kept: 0,
    };
    let ids: Vec<GroupId> = salvage.groups.keys().copied().collect();
    let mut writer = Writer {
        new,
        batch: Batch::new(),
        bytes: 0,
    };
    for id in ids {
        let (group, end) = &salvage.groups[&id];
        let end = *end;
        writer.make_room(group.user_record.len())?;
        writer.batch.hard_state(id, group.hard_state);
        writer.batch.user_record(id, group.user_record.clone());
        if group.purged.index > Index(0) {
            writer.batch.purge(id, group.purged);
        }
        let kept = salvage.entries(id, &mut |entry| {
            plan.entries_kept += 1;
            plan.bytes_kept += entry.payload.len() as u64;
            progress(plan.entries_kept);
            writer.make_room(entry.payload.len())?;
            writer.batch.append(id, [entry]);
            Ok(())
        })?;
        if kept != end {
            let group = id;
            plan.groups.push(GroupCut { group, kept, end });
        }
    }
    writer.write()?;
    Ok(plan)
}

/// Gathers batches for the new log, if there is one.
struct Writer<'a> {
    new: Option<&'a Wal>,
    batch: Batch,
    bytes: usize,
}

impl Writer<'_> {
    /// For something of so many bytes. What is large goes into a batch of its own.
    fn make_room(&mut self, bytes: usize) -> Result<()> {
        if self.bytes + bytes > WRITE_BYTES {
            self.write()?;
        }
        self.bytes += bytes + BESIDE_BYTES;
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        self.new.map_or(Ok(()), |new| new.write(batch))
    }
}

/// A name beside `dir` that is not taken, or by an empty directory.
fn free_name(disk: &dyn Disk, dir: &Path) -> Result<PathBuf> {
    let no_name = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let name = dir
        .file_name()
        .ok_or_else(no_name)
        .map_err(Error::io("find a place beside", dir))?;
    let beside = parent_of(dir);
    let taken = disk.list(&beside).map_err(Error::io("list", &beside))?;
    let numbered = |number: u64| format!("{}.aside-{number}", name.to_string_lossy());
    let is_free = |name: &String| {
        let is_empty = |names: Vec<String>| names.is_empty();
        !taken.contains(name) || disk.list(&beside.join(name)).is_ok_and(is_empty)
    };
    let free = (1..).map(numbered).find(is_free);
    Ok(dir.with_file_name(free.expect("there are more numbers than names")))
}
