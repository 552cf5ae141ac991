//! Calls that take their time: a sync that hangs, and fails in the end; a read that is under way while its segment is purged,
//! freed and becomes another one.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use duramen_disk::{DirLock, Disk, DiskFile, Failure, Hang, LockMode, Map, Op, OsDisk, SimDisk};
use duramen_wal::{Entry, Error, GroupId, Index, Options, Result, Ticket, Wal};
use support::*;

/// Nothing in these tests takes so long.
const LONG: Duration = Duration::from_secs(20);

/// Long enough for what must not happen to happen.
const A_WHILE: Duration = Duration::from_millis(50);

fn threaded(segment_bytes: u64) -> Options {
    let mut options = options(segment_bytes);
    options.manual_drive = false;
    options.idle_mark = None;
    options
}

fn one(index: u64) -> Step {
    vec![append(1, index, index, 1, 100)]
}

fn submit(wal: &Wal, index: u64) -> Ticket {
    wal.submit(batch(&one(index))).unwrap()
}

fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !happened() {
        assert!(Instant::now() < until, "waited 20 s for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A log with two durable batches, one whose sync hangs in a thread that waits for it, and some behind it.
struct Hanging {
    _released: Released,
    disk: SimDisk,
    wal: Wal,
    /// What became of the batch whose sync hangs.
    waiter: thread::JoinHandle<Result<()>>,
    /// The batches that were told of, in order, with what became of them.
    told: mpsc::Receiver<(u64, Result<()>)>,
    tell: mpsc::Sender<(u64, Result<()>)>,
}

/// A test that fails lets the syncs go, or it would not end.
struct Released(SimDisk);

impl Drop for Released {
    fn drop(&mut self) {
        self.0.release_all_syncs();
    }
}

impl Hanging {
    fn new(options: &Options, behind: u64) -> Hanging {
        let disk = SimDisk::new();
        let wal = create(&disk, options).unwrap();
        write_all(&wal, &[one(1), one(2)]);
        let released = Released(disk.clone());
        disk.hang_syncs(Hang::Block);
        let third = submit(&wal, 3);
        let waiter = thread::spawn(move || third.wait());
        wait_until("the sync", || disk.hanging_syncs() > 0);
        let (tell, told) = mpsc::channel();
        let hanging = Hanging {
            _released: released,
            disk,
            wal,
            waiter,
            told,
            tell,
        };
        (4..4 + behind).for_each(|index| hanging.submit(index));
        hanging
    }

    fn submit(&self, index: u64) {
        let tell = self.tell.clone();
        submit(&self.wal, index).on_durable(move |outcome| tell.send((index, outcome)).unwrap());
    }

    fn assert_nobody_is_told(&self) {
        thread::sleep(A_WHILE);
        assert!(self.told.try_recv().is_err());
        assert!(!self.waiter.is_finished());
    }
}

/// Row 37.
#[test]
fn while_a_sync_hangs_reads_and_submitters_go_on_and_nobody_is_told_that_it_is_durable() {
    let hanging = Hanging::new(&threaded(1 << 16), 20);
    let wal = &hanging.wal;
    // Reads do not wait: neither of what is durable nor of what is on its way.
    let steps: Vec<Step> = (1..=23).map(one).collect();
    assert_eq!(state_of(wal), states(&steps)[23]);
    assert!(!submit(wal, 24).is_durable());
    hanging.assert_nobody_is_told();
    // It shows: for how long the write has been under way, which is longer each time.
    let stats = wal.stats();
    assert!(
        stats.writing_for.is_some_and(|time| time >= A_WHILE) && stats.in_flight_bytes > 0,
        "{stats:?}"
    );
    thread::sleep(A_WHILE);
    let later = wal.stats().writing_for;
    let earlier = stats.writing_for.map(|time| time + A_WHILE);
    assert!(later >= earlier, "{later:?} after {earlier:?}");

    // A power cut now shows what was acknowledged, and whole batches of the rest.
    let after = hanging.disk.fork();
    after.power_cut(7);
    let options = threaded(1 << 16);
    let k = held(&open(&after, &options).unwrap(), &states(&steps));
    assert!(k >= 2, "{k}");

    hanging.disk.release_all_syncs();
    for expected in 4..=23 {
        let (index, outcome) = hanging.told.recv_timeout(LONG).unwrap();
        outcome.unwrap();
        assert_eq!(index, expected);
    }
    hanging.waiter.join().unwrap().unwrap();
}

/// Row 37. Who waited for so long as it liked, and then dropped the future, has taken nothing back, and holds nobody up.
#[test]
fn who_drops_a_future_while_the_sync_hangs_loses_nothing() {
    let hanging = Hanging::new(&threaded(1 << 16), 1);
    for index in 5..=6 {
        let mut ticket = submit(&hanging.wal, index);
        let polled = Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        drop(ticket);
    }
    hanging.submit(7);
    hanging.assert_nobody_is_told();
    hanging.disk.release_all_syncs();
    for expected in [4, 7] {
        let (index, outcome) = hanging.told.recv_timeout(LONG).unwrap();
        outcome.unwrap();
        assert_eq!(index, expected);
    }
    hanging.waiter.join().unwrap().unwrap();
    // What the power leaves has all of them.
    let after = hanging.disk.fork();
    after.power_cut(7);
    let steps: Vec<Step> = (1..=7).map(one).collect();
    let found = open(&after, &threaded(1 << 16)).unwrap();
    assert_eq!(held(&found, &states(&steps)), 7);
}

/// Row 37. Completion goes from sync to sync: what hangs later is not told with what is released before.
#[test]
fn a_sync_that_is_released_completes_its_own_batches_and_no_others() {
    let hanging = Hanging::new(&threaded(1 << 16), 3);
    hanging.assert_nobody_is_told();
    assert!(hanging.disk.release_sync(0));
    hanging.waiter.join().unwrap().unwrap();
    wait_until("the next sync", || hanging.disk.hanging_syncs() > 0);
    thread::sleep(A_WHILE);
    assert!(hanging.told.try_recv().is_err());
    hanging.disk.release_all_syncs();
    for expected in 4..=6 {
        let (index, outcome) = hanging.told.recv_timeout(LONG).unwrap();
        outcome.unwrap();
        assert_eq!(index, expected);
    }
}

/// Row 37. Memory is bounded: past `in_flight_bytes_max` a submitter waits, until the sync comes back.
#[test]
fn while_a_sync_hangs_submitters_are_taken_up_to_the_limit_and_then_wait() {
    let mut options = threaded(1 << 16);
    options.in_flight_bytes_max = 12_000;
    let hanging = Hanging::new(&options, 2);
    let (submitted, submits) = mpsc::channel();
    let wal = hanging.wal.clone();
    let submitter = thread::spawn(move || {
        for index in 6..=200 {
            drop(submit(&wal, index));
            submitted.send(index).unwrap();
        }
    });
    let taken = || {
        let mut taken = 5;
        while let Ok(index) = submits.recv_timeout(4 * A_WHILE) {
            taken = index;
        }
        taken
    };
    let last = taken();
    assert!((8..120).contains(&last), "{last} of 100 bytes each");
    assert!(!submitter.is_finished());
    assert_eq!(hanging.wal.last(GroupId(1)).index, Index(last));
    hanging.assert_nobody_is_told();
    hanging.disk.release_all_syncs();
    submitter.join().unwrap();
    hanging.waiter.join().unwrap().unwrap();
    hanging.wal.drive().unwrap();
    let steps: Vec<Step> = (1..=200).map(one).collect();
    assert_eq!(state_of(&hanging.wal), states(&steps)[200]);
}

/// What the disk said, if the log says that the disk said it.
fn code(error: &Error) -> Option<i32> {
    match error {
        Error::Io { source, .. } => source.raw_os_error(),
        Error::Poisoned { cause } => code(cause),
        _ => None,
    }
}

/// Rows 7 and 37. Meanwhile the kernel tried to write, failed, and dropped the pages: once the sync comes back it says so.
/// All who wait are told, and those behind them; the next sync, which would succeed, is not tried.
#[test]
fn a_write_back_that_fails_while_the_sync_hangs_fails_everybody_who_waits() {
    for by_the_kernel in [true, false] {
        let hanging = Hanging::new(&threaded(1 << 16), 4);
        let disk = &hanging.disk;
        match by_the_kernel {
            true => disk.fail_write_back(&segment(1), Failure::EIO).unwrap(),
            false => disk.fail_next_sync(Failure::EIO),
        }
        hanging.assert_nobody_is_told();
        let operations = disk.operations();
        disk.release_all_syncs();
        let outcome = hanging.waiter.join().unwrap();
        assert_eq!(code(&error(outcome)), Some(5));
        for expected in 4..=7 {
            let (index, outcome) = hanging.told.recv_timeout(LONG).unwrap();
            assert_eq!((index, code(&error(outcome))), (expected, Some(5)));
        }
        let refused = error(hanging.wal.submit(batch(&one(4))));
        assert!(matches!(refused, Error::Poisoned { .. }), "{refused}");
        assert_eq!(state_of(&hanging.wal), states(&[one(1), one(2)])[2]);
        drop(hanging.wal);
        assert_eq!(disk.operations(), operations);
        // The cache still has the third batch, and the disk has not: what `open` says is on the disk.
        let steps = [one(1), one(2), one(3)];
        let k = held(&open(disk, &options(1 << 16)).unwrap(), &states(&steps));
        disk.power_cut(0);
        assert_holds(disk, &options(1 << 16), &steps, k);
    }
}

/// Row 37. A process that is ended while a sync hangs.
#[test]
fn a_sync_that_hangs_until_the_process_is_killed_acknowledges_nothing() {
    for seed in 0..10 {
        let hanging = Hanging::new(&threaded(1 << 16), 4);
        match seed {
            0 => hanging.disk.kill(),
            _ => hanging.disk.power_cut(seed - 1),
        }
        hanging.waiter.join().unwrap().unwrap_err();
        drop(hanging.wal);
        let steps: Vec<Step> = (1..=7).map(one).collect();
        let options = options(1 << 16);
        let k = held(&open(&hanging.disk, &options).unwrap(), &states(&steps));
        assert!(k >= 2, "{k}");
        assert!(hanging.told.try_iter().all(|(_, outcome)| outcome.is_err()));
    }
}

/// Row 36. What prepares the next segment in the background fails: that is made up for when it is needed.
#[test]
fn a_segment_that_could_not_be_prepared_is_made_when_it_is_needed() {
    let calls = [
        Op::Create,
        Op::Allocate,
        Op::SyncData,
        Op::Rename,
        Op::SyncDir,
    ];
    let (mut written, mut refused) = (0, 0);
    for (call, n) in calls
        .iter()
        .flat_map(|call| (0..8).map(move |n| (*call, n)))
    {
        let _replay = Replay(|| format!("{call:?} {n} fails"));
        let disk = SimDisk::new();
        let options = threaded(1 << 14);
        let wal = create(&disk, &options).unwrap();
        disk.fail_op(call, n, Failure::EMFILE);
        let mut steps = Vec::new();
        let mut index = 1;
        while index <= 30 {
            let step = vec![append(1, index, index, 1, 2000)];
            match wal.write(batch(&step)) {
                Ok(()) => steps.push(step),
                // Refused, and as if it had not been tried.
                Err(error @ Error::Io { .. }) => {
                    refused += 1;
                    assert_eq!(code(&error), Some(24), "{error}");
                    continue;
                }
                Err(Error::Poisoned { .. }) => break,
                Err(error) => panic!("{error}"),
            }
            index += 1;
        }
        written += steps.len();
        drop(wal);
        disk.power_cut(n);
        let wal = open(&disk, &options).unwrap();
        let last = wal.last(GroupId(1)).index.0 as usize;
        assert!((steps.len()..=steps.len() + 1).contains(&last), "{last}");
    }
    println!("{written} batches written, {refused} refused");
    assert!(written > 500, "{written}");
}

/// A directory in which reads of one file wait at a gate.
#[derive(Clone)]
struct Gated {
    disk: OsDisk,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    /// Reads of this file wait.
    shut: Option<PathBuf>,
    waiting: usize,
}

impl Gate {
    fn shut(&self, path: &Path) {
        self.state.lock().unwrap().shut = Some(path.to_owned());
    }

    fn open(&self) {
        self.state.lock().unwrap().shut = None;
        self.changed.notify_all();
    }

    fn pass(&self, path: &Path) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        let is_shut = |state: &mut GateState| state.shut.as_deref() == Some(path);
        let waited = self.changed.wait_timeout_while(state, LONG, is_shut);
        let (mut state, timeout) = waited.unwrap();
        assert!(!timeout.timed_out(), "the writers waited for a reader");
        state.waiting -= 1;
    }

    fn waiting(&self) -> usize {
        self.state.lock().unwrap().waiting
    }
}

struct GatedFile {
    file: Box<dyn DiskFile>,
    /// Its name when it was opened. A segment's file is made under another one.
    path: PathBuf,
    gate: Arc<Gate>,
}

impl Gated {
    fn file(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        let (path, gate) = (path.to_owned(), self.gate.clone());
        Box::new(GatedFile { file, path, gate })
    }
}

impl Disk for Gated {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(path, self.disk.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(path, self.disk.open(path)?))
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(path, self.disk.open_read(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn lock(&self, dir: &Path, mode: LockMode) -> io::Result<Box<dyn DirLock>> {
        self.disk.lock(dir, mode)
    }
}

impl DiskFile for GatedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.gate.pass(&self.path);
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch_hole(offset, len)
    }
    fn map(&self) -> io::Result<Map> {
        self.file.map()
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// What a reader may be told of entries that were purged while it read them.
fn is_end(error: &Error) -> bool {
    matches!(error, Error::Misuse { .. })
}

/// When no other file waits to become a segment, the first one that is freed is taken. Gives the index of the next entry.
fn fill_until_no_spare(wal: &Wal, dir: &Path, first: u64, entry: impl Fn(u64) -> Step) -> u64 {
    let has_spare = || {
        let names = OsDisk.list(dir).unwrap();
        names.iter().any(|name| name.starts_with("spare-"))
    };
    let mut next = first;
    while next == first || (has_spare() && next < first + 12) {
        write_all(wal, &[entry(next)]);
        next += 1;
    }
    next
}

/// Row 35. What was read without a copy is the file's own bytes: the file is not taken for another segment while somebody has them.
#[test]
fn what_a_reader_holds_stays_when_its_segment_is_purged_and_files_are_recycled() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(12288);
    options.map_sealed = true;
    let wal = Wal::create(dir.path(), options.clone()).unwrap();
    let large = |index| vec![append(1, index, index, 1, 2600)];
    write_all(&wal, &(1..=12).map(large).collect::<Vec<_>>());
    drop(wal); // and what it has in memory
    let wal = Wal::open(dir.path(), options).unwrap();
    let path = dir.path().join(segment(1).file_name().unwrap());
    let read = wal.entries(GroupId(1), Index(1)..Index(5), u64::MAX);
    let held = read.unwrap();
    let expected: Vec<Entry> = (1..=4)
        .flat_map(|index| entries_of(&large(index)))
        .collect();
    let next = fill_until_no_spare(&wal, dir.path(), 13, large);
    write_all(&wal, &[vec![purge(1, 4, 1)]]);
    wait_until("it to be freed", || !path.exists());
    // The file would be among the spares by now, and be taken sooner or later.
    let other = |index| vec![append(1, index, index, 1, 2500)];
    fill_until_no_spare(&wal, dir.path(), next, other);
    assert!(held == expected, "other bytes");
}

/// Row 35. Readers are held up in a segment while all of it is purged and freed, and new segments are begun, for which its
/// file could have been taken. Then they read: the bytes that were there, or a typed end.
#[test]
fn readers_of_a_segment_that_is_purged_freed_and_recycled_meanwhile_read_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let disk = Gated {
        disk: OsDisk,
        gate: gate.clone(),
    };
    let options = options(12288);
    let large = |index| vec![append(1, index, index, 1, 2600)];
    let wal = Wal::create_on(Arc::new(disk.clone()), dir.path(), options.clone()).unwrap();
    write_all(&wal, &(1..=12).map(large).collect::<Vec<_>>());
    drop(wal);
    let wal = Wal::open_on(Arc::new(disk), dir.path(), options).unwrap();
    let (first, second) = (1..=2, 3..=4); // in the first segment, which holds four
    let path = dir.path().join(segment(1).file_name().unwrap());
    gate.shut(&path);
    let readers: Vec<_> = [first, second, 1..=4]
        .into_iter()
        .map(|range| {
            let wal = wal.clone();
            let expected: Vec<Entry> = range
                .clone()
                .flat_map(|index| entries_of(&large(index)))
                .collect();
            let (from, to) = (Index(*range.start()), Index(*range.end()).next());
            thread::spawn(move || (wal.entries(GroupId(1), from..to, u64::MAX), expected))
        })
        .collect();
    wait_until("the readers", || gate.waiting() == 3);
    let next = fill_until_no_spare(&wal, dir.path(), 13, large);
    write_all(&wal, &[vec![purge(1, 4, 1)]]);
    wait_until("it to be freed", || !path.exists());
    for index in next..40 {
        write_all(&wal, &[large(index), vec![purge(1, index - 4, 1)]]);
    }
    gate.open();
    let mut read = 0;
    for reader in readers {
        match reader.join().unwrap() {
            (Ok(entries), expected) => {
                read += 1;
                assert!(entries == expected, "other bytes");
            }
            (Err(error), _) => assert!(is_end(&error), "{error}"),
        }
    }
    println!("{read} of 3 readers read to the end");
    // Who comes later is told that it is gone.
    let gone = error(wal.entries(GroupId(1), Index(1)..Index(3), u64::MAX));
    assert!(is_end(&gone), "{gone}");
    assert_eq!(wal.last(GroupId(1)).index, Index(39));
}

fn entries_of(step: &Step) -> Vec<Entry> {
    let entries = step.iter().filter_map(|change| match change {
        Change::Append(_, entries) => Some(entries.clone()),
        _ => None,
    });
    entries.flatten().collect()
}

/// Row 37. It is made by whoever submits the batch that needs it.
#[test]
fn while_the_sync_of_a_new_segment_hangs_reads_go_on() {
    let disk = SimDisk::new();
    let wal = create(&disk, &options(1 << 14)).unwrap();
    let large = |index| vec![append(1, index, index, 1, 2500)];
    write_all(&wal, &[large(1), large(2), large(3)]);
    let released = Released(disk.clone());
    disk.hang_syncs(Hang::Block);
    let writer = wal.clone();
    let submitter = thread::spawn(move || {
        for index in 4..8 {
            drop(writer.submit(batch(&large(index))).unwrap());
        }
    });
    wait_until("the sync", || disk.hanging_syncs() > 0);
    let (told, tell) = mpsc::channel();
    let reader = wal.clone();
    let reader = thread::spawn(move || {
        let read = reader.entries(GroupId(1), Index(1)..Index(4), u64::MAX);
        told.send(read.unwrap().len()).unwrap();
    });
    let read = tell.recv_timeout(Duration::from_secs(2));
    drop(released);
    submitter.join().unwrap();
    reader.join().unwrap();
    assert_eq!(read, Ok(3), "the reader waited for the sync");
}
