//! Every call of a small program fails once.
//!
//! Invariant: as for crashes, an id, the disk at the start, the failure and the workload give the same run again.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use crate::every_crash::start::{Found, Start, shared};
use crate::{CrashId, CrashPoint, CrashState, EveryCrash, Failure, Op, SimDisk};

/// Runs `workload` on copies of `disk` again and again, lets each of its calls to the disk fail once with `failure`, the
/// first one in the first run, and gives what each run leaves.
///
/// Every call counts, also one that changes nothing: a `list`, an `open`, a `read_at` ([`Op`] has them all). The call has no
/// effect, but a failed `sync_data` loses what it was to write, as by [`SimDisk::fail_next_sync`]. What the program calls
/// after it succeeds again: whether it may go on, retry or must stop is its own affair, and what is tested. With
/// [`Failure::SHORT`] each read and each write is short once.
///
/// Nothing is killed: the disk that is given is the one on which the workload ran, and what it returned may hold files
/// that are open. So the same life can be looked at first; [`SimDisk::power_cut`] or [`Failed::every_crash`] goes on from
/// there.
///
/// ```
/// use std::{io, path::Path};
/// use duramen_disk::{Disk, DiskFile, Failure, SimDisk, every_error};
///
/// /// Replaces a file, whole or not at all.
/// fn set(disk: &SimDisk, value: u8) -> io::Result<()> {
///     let file = match disk.create(Path::new("/new")) {
///         Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.open(Path::new("/new"))?,
///         file => file?,
///     };
///     file.write_all_at(&[value; 700], 0)?;
///     file.sync_data()?; // not to be repeated: the second one says Ok
///     disk.rename(Path::new("/new"), Path::new("/value"))?;
///     disk.sync_dir(Path::new("/"))
/// }
///
/// fn get(disk: &SimDisk) -> io::Result<u8> {
///     let mut bytes = [0; 700];
///     disk.open(Path::new("/value"))?.read_exact_at(&mut bytes, 0)?;
///     assert!(bytes.iter().all(|&byte| byte == bytes[0]), "torn");
///     Ok(bytes[0])
/// }
///
/// let disk = SimDisk::new();
/// set(&disk, 1)?;
/// let mut calls = 0;
/// for failed in every_error(&disk, Failure::EIO, |disk| set(disk, 2)) {
///     assert!(failed.outcome.is_err(), "untold: {:?}", failed.failed_in);
///     set(&failed.disk, 3)?; // all of it may be tried again
///     failed.disk.power_cut(0);
///     assert_eq!(get(&failed.disk)?, 3, "after {:?}", failed.failed_in);
///     calls += 1;
/// }
/// assert_eq!(calls, 5);
/// # Ok::<(), io::Error>(())
/// ```
///
/// A panic while a [`Failed`] is alive prints its id, such as `3.error`, and `DURAMEN_CRASH=3.error` runs that alone, as it
/// does for [`every_crash`](crate::every_crash()). Errors in the recovery from a crash are
/// [`Crash::every_error`](crate::Crash::every_error).
pub fn every_error<T, W>(
    disk: &SimDisk,
    failure: impl Into<Failure>,
    workload: W,
) -> EveryError<T, W>
where
    W: FnMut(&SimDisk) -> T,
{
    EveryError::new(Start::of(disk), failure.into(), workload)
}

/// The runs of a workload in each of which one call fails. See [`every_error`](every_error()).
pub struct EveryError<T, W> {
    start: Start,
    workload: W,
    failure: Failure,
    /// The call that fails in the next run. `None`: all was given.
    next: Option<u64>,
    outcome: PhantomData<fn() -> T>,
}

impl<T, W> EveryError<T, W>
where
    W: FnMut(&SimDisk) -> T,
{
    pub(crate) fn new(start: Start, failure: Failure, workload: W) -> Self {
        EveryError {
            start,
            workload,
            failure,
            next: Some(0),
            outcome: PhantomData,
        }
    }

    /// Gives the run with this id alone.
    #[must_use]
    pub fn only(mut self, id: CrashId) -> Self {
        self.start.only = Some(id);
        self
    }

    /// Lets the call with this number fail. Gives the run, if there was something to fail, and whether there was such a
    /// call at all.
    fn run(&mut self, call: u64) -> (Option<Failed<T>>, bool) {
        let disk = self.start.fork();
        let before = disk.calls();
        disk.fail_call(call, self.failure);
        let outcome = (self.workload)(&disk);
        let is_call = disk.calls() - before > call;
        let failed = disk.failed_in().map(|at| {
            let point = CrashPoint::before(call);
            let found = self.start.found(point, CrashState::Error);
            Failed {
                id: found.id.clone(),
                disk,
                outcome,
                failed_in: shared(at),
                found,
            }
        });
        (failed, is_call)
    }
}

impl<T, W> Iterator for EveryError<T, W>
where
    W: FnMut(&SimDisk) -> T,
{
    type Item = Failed<T>;

    fn next(&mut self) -> Option<Failed<T>> {
        if let Some((point, state)) = self.start.only_step() {
            self.next.take()?;
            return match state {
                CrashState::Error => self.run(point.operation).0,
                _ => None, // it is a crash that is wanted
            };
        }
        while let Some(call) = self.next {
            let (failed, is_call) = self.run(call);
            self.next = is_call.then_some(call + 1);
            if failed.is_some() {
                return failed;
            }
        }
        None
    }
}

/// What a workload left in which one call failed. See [`every_error`](every_error()).
pub struct Failed<T> {
    /// What names the run, to come back to it.
    pub id: CrashId,
    /// The disk on which it ran, and still runs.
    pub disk: SimDisk,
    /// What the workload returned.
    pub outcome: T,
    /// The operation that failed, and on what.
    pub failed_in: (Op, Arc<Path>),
    found: Found,
}

impl<T> Failed<T> {
    /// Every crash of a workload that goes on from here, the first one before it did anything: what the error left behind
    /// may be killed or lose power at once. The disk of this run is not changed.
    pub fn every_crash<U, W>(&self, workload: W) -> EveryCrash<U, W>
    where
        W: FnMut(&SimDisk) -> U,
        U: Clone,
    {
        EveryCrash::new(self.found.start(&self.disk), workload)
    }
}

impl<T: fmt::Debug> fmt::Debug for Failed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut failed = f.debug_struct("Failed");
        failed.field("id", &format_args!("{}", self.id));
        failed.field("failed_in", &self.failed_in);
        failed.field("outcome", &self.outcome);
        failed.finish_non_exhaustive()
    }
}

impl<T> Drop for Failed<T> {
    fn drop(&mut self) {
        self.found.tell_if_panicking("error", Some(&self.failed_in));
    }
}
