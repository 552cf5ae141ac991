//! How a schedule is tried, the disk it runs on, and what must hold afterwards.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use duramen_disk::{DirLock, Disk, DiskFile, LockMode, Map, SimDisk};
use duramen_wal::{Batch, Error, GroupId, Index, LogId, Options, Result, Term, Wal};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};
use shuttle::{Config, FailurePersistence, Runner};

use crate::support::{self, DIR, append, state_of};

/// How many orderings the second half of the schedules aims at: so many times less one the priorities change.
const PCT_DEPTH: usize = 3;

/// Every payload: five of them fill a small segment.
pub(crate) const BYTES: usize = 3000;

/// Runs a scenario under so many schedules: one half with threads chosen at random at each step, one by priorities.
pub(crate) fn explore(name: &str, schedules: usize, scenario: fn()) {
    let mut config = Config::new();
    config.stack_size = 256 << 10; // recovery nests deeper than what the default is meant for
    config.failure_persistence = FailurePersistence::File(Some(env!("CARGO_TARGET_TMPDIR").into()));
    if let Ok(schedule) = std::env::var("DURAMEN_SHUTTLE_SCHEDULE") {
        let replayed = ReplayScheduler::new_from_file(schedule).unwrap();
        Runner::new(replayed, config).run(scenario);
        return;
    }
    let seed = number("DURAMEN_SHUTTLE_SEED").unwrap_or(1);
    let times: f64 = number("DURAMEN_SHUTTLE_TIMES").unwrap_or(1.0);
    let each = (schedules as f64 * times / 2.0) as usize;
    let start = Instant::now();
    let random = RandomScheduler::new_from_seed(seed, each);
    Runner::new(random, config.clone()).run(scenario);
    let by_priority = PctScheduler::new_from_seed(seed, PCT_DEPTH, each);
    Runner::new(by_priority, config).run(scenario);
    let seconds = start.elapsed().as_secs_f64();
    println!("{name}: {} schedules in {seconds:.1} s", 2 * each);
}

fn number<T: FromStr<Err: Debug>>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap())
}

/// A disk at whose every call another thread may go on. Tells of a CONTROL file that is written after one of its syncs failed.
pub(crate) struct Steps {
    disk: SimDisk,
    control_failed: Arc<AtomicBool>,
}

struct StepFile {
    file: Box<dyn DiskFile>,
    /// For CONTROL, whether a write or a sync of it failed.
    control_failed: Option<Arc<AtomicBool>>,
}

/// Here another thread may go on. Not `yield_now`: that would say that another one should.
fn step() {
    shuttle::sync::atomic::AtomicBool::new(false).load(Ordering::SeqCst);
}

impl Steps {
    fn file(
        &self,
        path: &Path,
        file: io::Result<Box<dyn DiskFile>>,
    ) -> io::Result<Box<dyn DiskFile>> {
        let is_control = path.ends_with("CONTROL");
        let control_failed = is_control.then(|| self.control_failed.clone());
        let file = file?;
        Ok(Box::new(StepFile {
            file,
            control_failed,
        }))
    }
}

impl StepFile {
    fn noted<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        if let (Some(failed), Err(_)) = (&self.control_failed, &outcome) {
            failed.store(true, Ordering::SeqCst);
        }
        outcome
    }
}

impl Disk for Steps {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        step();
        self.file(path, self.disk.create(path))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(path, self.disk.open(path))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(path, self.disk.open_read(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        step();
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        step();
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        step();
        self.disk.sync_dir(dir)
    }

    fn lock(&self, dir: &Path, mode: LockMode) -> io::Result<Box<dyn DirLock>> {
        self.disk.lock(dir, mode)
    }
}

impl DiskFile for StepFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        step();
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        step();
        let failed = self.control_failed.as_ref();
        let in_doubt = failed.is_some_and(|failed| failed.load(Ordering::SeqCst));
        assert!(
            !in_doubt,
            "CONTROL is written while its other slot is in doubt"
        );
        self.noted(self.file.write_at(buf, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        step();
        self.file.allocate(len)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch_hole(offset, len)
    }

    fn map(&self) -> io::Result<Map> {
        // No step: whoever maps holds a lock that the scheduler knows nothing of.
        self.file.map()
    }

    fn sync_data(&self) -> io::Result<()> {
        step();
        self.noted(self.file.sync_data())
    }
}

/// Logs with threads of their own, that mark nothing by the clock, on small segments.
pub(crate) fn options(segment_bytes: u64) -> Options {
    let mut options = support::options(segment_bytes);
    options.manual_drive = false;
    options.idle_mark = None;
    options
}

/// A new log.
pub(crate) fn start(options: &Options) -> (SimDisk, Wal) {
    let disk = SimDisk::new();
    let wal = Wal::create_on(steps(&disk), DIR, options.clone()).unwrap();
    (disk, wal)
}

pub(crate) fn steps(disk: &SimDisk) -> Arc<Steps> {
    Arc::new(Steps {
        disk: disk.clone(),
        control_failed: Arc::default(),
    })
}

/// The entry `index` of a group, of [`BYTES`] bytes.
pub(crate) fn one(group: u64, index: u64) -> Batch {
    support::batch(&vec![append(group, index, index, 1, BYTES)])
}

pub(crate) fn purge(batch: &mut Batch, group: u64, index: u64) {
    let (term, index) = (Term(1), Index(index));
    batch.purge(GroupId(group), LogId { term, index });
}

/// What was acknowledged: up to which index of which group, and what a power cut at that moment would leave, at worst.
#[derive(Clone, Default)]
pub(crate) struct Acknowledged(Arc<Mutex<Vec<(SimDisk, Held)>>>);

/// Up to which index each group is held.
pub(crate) type Held = BTreeMap<u64, u64>;

impl Acknowledged {
    pub(crate) fn note(&self, disk: &SimDisk, group: u64, index: u64) {
        let mut noted = self.0.lock().unwrap();
        let mut held = noted
            .last()
            .map(|(_, held)| held.clone())
            .unwrap_or_default();
        let last = held.entry(group).or_default();
        *last = index.max(*last);
        noted.push((disk.fork(), held));
    }

    /// Whether it is there: after what was left at some acknowledgement, and at the end, when `disk` is as it is.
    pub(crate) fn check(&self, disk: &SimDisk, options: &Options) {
        let noted = std::mem::take(&mut *self.0.lock().unwrap());
        let Some((_, all)) = noted.last() else {
            return;
        };
        let one = thread_rng().gen_range(0..noted.len());
        for (disk, held) in [&noted[one], &(disk.fork(), all.clone())] {
            let cut = disk.fork();
            assert!(cut.power_cut_keeping(|_| false));
            check_held(&cut, options, held);
            disk.kill();
            check_held(disk, options, held);
        }
    }
}

/// Opens a log and looks whether it holds at least so many entries of each group, each the one that was written.
pub(crate) fn check_held(disk: &SimDisk, options: &Options, held: &Held) {
    let mut options = options.clone();
    options.manual_drive = true;
    let wal = support::open(disk, &options).unwrap();
    check_entries(&wal);
    for (&group, &index) in held {
        let last = wal.last(GroupId(group)).index.0;
        assert!(
            last >= index,
            "group {group} ends at {last}, {index} was acknowledged"
        );
    }
    assert!(wal.recovery().damaged.is_empty());
}

/// Reads everything; each entry must be the one that was written.
pub(crate) fn check_entries(wal: &Wal) {
    for (group, content) in state_of(wal) {
        for entry in content.entries {
            let index = entry.id.index.0;
            let support::Change::Append(_, written) =
                append(group.0, index, index, 1, entry.payload.len())
            else {
                unreachable!()
            };
            assert_eq!(entry, written[0]);
        }
    }
}

/// The directory of a log is free as soon as its last thread has ended.
pub(crate) fn check_unlocked(disk: &SimDisk) {
    let path = PathBuf::from(DIR);
    while disk.lock(&path, LockMode::Exclusive).is_err() {
        shuttle::thread::yield_now();
    }
}

/// The failure that poisoned the log is the one that everybody is told.
pub(crate) fn check_poisoned(wal: &Wal, outcome: &Result<()>) {
    if let Err(Error::Poisoned { cause }) = outcome {
        let poison = wal.stats().poison.expect("the log is poisoned");
        assert!(
            Arc::ptr_eq(cause, &poison),
            "told {cause}, poisoned by {poison}"
        );
    }
}
