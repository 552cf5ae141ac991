//! Every state that a crash can leave behind, for small programs.
//!
//! Invariant: a [`CrashId`], the disk at the start and the workload give the same state again, as long as the workload does
//! the same operations in the same order.

mod id;
pub(crate) mod start;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::{EveryError, Failure, Op, SimDisk};

use start::{Found, Start, shared};

pub use id::{CrashId, CrashIdError, CrashPoint, CrashState};

/// Runs `workload` on copies of `disk` again and again, lets it crash before each operation that changes something and in
/// the middle of each write, and gives every state in which the crash can leave the disk.
///
/// For each crash there is the state after a kill, and those after a power cut: if at most 10 units are not synced
/// ([`unsynced_units`](SimDisk::unsynced_units)) every subset of them, kept or lost, that makes a difference, and some
/// seeds for what is torn or was there for a while; if there are more, the extremes and more seeds. The last crash comes after the whole workload.
///
/// What `workload` returns is what it knew when it died: what it had acknowledged to somebody. Each [`Crash`] has it. It is
/// one life of a process: after the crash all its calls fail, and it should return; it does not kill the disk itself. For
/// an id to mean the same state twice it must do the same operations each time, so one thread, or threads that take turns.
///
/// ```
/// use std::{io, path::Path};
/// use duramen_disk::{Disk, DiskFile, SimDisk, every_crash};
///
/// /// A counter in a file: the new value under a temporary name, then a rename.
/// fn count_to(disk: &SimDisk, value: u8) -> io::Result<()> {
///     let file = disk.create(Path::new("/new"))?;
///     file.write_all_at(&[value; 700], 0)?;
///     file.sync_data()?; // without this, some state below has a torn file
///     disk.rename(Path::new("/new"), Path::new("/counter"))?;
///     disk.sync_dir(Path::new("/")) // and without this, an older one
/// }
///
/// fn read(disk: &SimDisk) -> io::Result<u8> {
///     let mut bytes = [0; 700];
///     disk.open(Path::new("/counter"))?.read_exact_at(&mut bytes, 0)?;
///     assert!(bytes.iter().all(|&byte| byte == bytes[0]), "torn");
///     Ok(bytes[0])
/// }
///
/// let disk = SimDisk::new();
/// count_to(&disk, 1)?;
/// let mut states = 0;
/// // The last value that was acknowledged before the crash.
/// for crash in every_crash(&disk, |disk| (2..5).take_while(|&n| count_to(disk, n).is_ok()).last().unwrap_or(1)) {
///     let (acknowledged, found) = (crash.outcome, read(&crash.disk)?);
///     assert!(found == acknowledged || found == acknowledged + 1, "{found}, acknowledged {acknowledged}");
///     states += 1;
/// }
/// assert!(states > 100, "{states}");
/// # Ok::<(), io::Error>(())
/// ```
///
/// # When a state is wrong
///
/// A panic while a [`Crash`] is alive prints its id. `DURAMEN_CRASH=id cargo test name_of_the_test` runs that state alone,
/// and so does [`only`](EveryCrash::only). To crash a recovery as well, go on from a state with
/// [`every_crash`](Crash::every_crash); the ids then name both.
pub fn every_crash<T, W>(disk: &SimDisk, workload: W) -> EveryCrash<T, W>
where
    W: FnMut(&SimDisk) -> T,
    T: Clone,
{
    EveryCrash::new(Start::of(disk), workload)
}

/// The crashes of a workload, one after the other. See [`every_crash`](every_crash()).
pub struct EveryCrash<T, W> {
    start: Start,
    workload: W,
    units_max: usize,
    seeds: u64,
    torn_seeds: u64,
    /// `None`: all was given.
    next: Option<CrashPoint>,
    crashed: Option<Crashed<T>>,
}

/// A workload that has crashed, and what of it was given.
struct Crashed<T> {
    disk: SimDisk,
    outcome: T,
    units: usize,
    /// Whether a drawn state can differ from those of the units.
    drawn: bool,
    /// `None`: it came to its end.
    died_in: Option<(Op, Arc<Path>)>,
    next: Option<CrashState>,
}

impl<T, W> EveryCrash<T, W>
where
    W: FnMut(&SimDisk) -> T,
    T: Clone,
{
    pub(crate) fn new(start: Start, workload: W) -> Self {
        EveryCrash {
            start,
            workload,
            units_max: 10,
            seeds: 32,
            torn_seeds: 4,
            next: Some(CrashPoint::before(0)),
            crashed: None,
        }
    }

    /// Takes every subset of up to so many unsynced units (at first 10, at most 63), and draws above.
    #[must_use]
    pub fn units_max(mut self, units: usize) -> Self {
        assert!(units < 64, "2^{units} states");
        self.units_max = units;
        self
    }

    /// Draws so many states where there are more units (at first 32).
    #[must_use]
    pub fn seeds(mut self, seeds: u64) -> Self {
        self.seeds = seeds;
        self
    }

    /// Draws so many states, with torn sectors and lengths between the old and the new, where every subset is taken as well
    /// (at first 4).
    #[must_use]
    pub fn torn_seeds(mut self, seeds: u64) -> Self {
        self.torn_seeds = seeds;
        self
    }

    /// Gives the state with this id alone.
    #[must_use]
    pub fn only(mut self, id: CrashId) -> Self {
        self.start.only = Some(id);
        self
    }

    fn crash_at(&mut self, point: CrashPoint) -> Crashed<T> {
        let disk = self.start.fork();
        match point.half {
            false => disk.crash_before(point.operation),
            true => disk.crash_after(point.operation),
        }
        let outcome = (self.workload)(&disk);
        let crashed_in = disk.crashed_in();
        Crashed {
            units: disk.unsynced_units(),
            drawn: disk.has_past() || disk.unsynced_units() > 0,
            outcome,
            died_in: crashed_in.map(shared),
            next: Some(CrashState::Kill),
            disk,
        }
    }

    /// What comes after a state of the same crash.
    fn after(&self, state: CrashState, crashed: &Crashed<T>) -> Option<CrashState> {
        let units = crashed.units;
        let every_subset = units <= self.units_max;
        let seeds = match every_subset {
            true if !crashed.drawn => 0,
            true => self.torn_seeds,
            false => self.seeds,
        };
        let seed = |seed| (seed <= seeds).then_some(CrashState::Seed(seed));
        match state {
            CrashState::Kill => Some(CrashState::Keep(0)),
            CrashState::Keep(subset) if every_subset && subset + 1 < 1 << units => {
                Some(CrashState::Keep(subset + 1))
            }
            CrashState::Keep(_) if every_subset => seed(1),
            CrashState::Keep(_) => Some(CrashState::KeepAll),
            CrashState::KeepAll => seed(1),
            CrashState::Seed(n) => seed(n + 1),
            CrashState::Error => None,
        }
    }

    /// What a crash at `point` leaves; `None` if an earlier state is the same.
    fn leave(crashed: &Crashed<T>, state: CrashState) -> Option<SimDisk> {
        let disk = crashed.disk.fork();
        let distinct = match state {
            CrashState::Kill => {
                disk.kill();
                true
            }
            CrashState::Keep(subset) => {
                disk.power_cut_keeping(|unit| unit < 64 && subset >> unit & 1 == 1)
            }
            CrashState::KeepAll => disk.power_cut_keeping(|_| true),
            CrashState::Seed(seed) => {
                disk.power_cut(seed);
                true
            }
            CrashState::Error => return None, // no crash
        };
        // Keeping all is asked for once only, so it is given in any case.
        (distinct || state == CrashState::KeepAll).then_some(disk)
    }

    fn give(&self, point: CrashPoint, state: CrashState, crashed: &Crashed<T>) -> Option<Crash<T>> {
        let disk = Self::leave(crashed, state)?;
        let found = self.start.found(point, state);
        Some(Crash {
            id: found.id.clone(),
            outcome: crashed.outcome.clone(),
            died_in: crashed.died_in.clone(),
            disk,
            found,
        })
    }

    /// The one state that was asked for.
    fn replay(&mut self, point: CrashPoint, state: CrashState) -> Option<Crash<T>> {
        self.next.take()?;
        if state == CrashState::Error {
            return None; // no crash
        }
        let crashed = self.crash_at(point);
        let crash = self.give(point, state, &crashed);
        let id = self.start.found(point, state).id;
        assert!(crash.is_some(), "{id}: there is no such state");
        crash
    }
}

impl<T, W> Iterator for EveryCrash<T, W>
where
    W: FnMut(&SimDisk) -> T,
    T: Clone,
{
    type Item = Crash<T>;

    fn next(&mut self) -> Option<Crash<T>> {
        if let Some((point, state)) = self.start.only_step() {
            return self.replay(point, state);
        }
        loop {
            let point = self.next?;
            let mut crashed = match self.crashed.take() {
                Some(crashed) => crashed,
                None => self.crash_at(point),
            };
            if let Some(state) = crashed.next {
                crashed.next = self.after(state, &crashed);
                let crash = self.give(point, state, &crashed);
                self.crashed = Some(crashed);
                match crash {
                    Some(crash) => return Some(crash),
                    None => continue,
                }
            }
            self.next = match crashed.died_in {
                None => None,
                Some((Op::Write, _)) if !point.half => Some(CrashPoint::half(point.operation)),
                Some(_) => Some(CrashPoint::before(point.operation + 1)),
            };
        }
    }
}

/// One state that a crash can leave. See [`every_crash`](every_crash()).
pub struct Crash<T> {
    /// What names the state, to come back to it.
    pub id: CrashId,
    /// The disk after the crash. The next life may begin on it.
    pub disk: SimDisk,
    /// What the workload returned.
    pub outcome: T,
    /// The operation in which it died, and on what; `None` if it had come to its end.
    pub died_in: Option<(Op, Arc<Path>)>,
    found: Found,
}

impl<T> Crash<T> {
    /// Every crash of a workload that begins in this state, such as recovery. The disk of this crash is not changed.
    pub fn every_crash<U, W>(&self, workload: W) -> EveryCrash<U, W>
    where
        W: FnMut(&SimDisk) -> U,
        U: Clone,
    {
        EveryCrash::new(self.found.start(&self.disk), workload)
    }

    /// Every error of a workload that begins in this state, such as recovery: see [`every_error`](crate::every_error()).
    /// The disk of this crash is not changed.
    pub fn every_error<U, W>(&self, failure: impl Into<Failure>, workload: W) -> EveryError<U, W>
    where
        W: FnMut(&SimDisk) -> U,
    {
        EveryError::new(self.found.start(&self.disk), failure.into(), workload)
    }
}

impl<T: fmt::Debug> fmt::Debug for Crash<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut crash = f.debug_struct("Crash");
        crash.field("id", &format_args!("{}", self.id));
        crash.field("died_in", &self.died_in);
        crash.field("outcome", &self.outcome);
        crash.finish_non_exhaustive()
    }
}

impl<T> Drop for Crash<T> {
    fn drop(&mut self) {
        self.found.tell_if_panicking("crash", self.died_in.as_ref());
    }
}
