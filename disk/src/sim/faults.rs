//! What can go wrong: which operation, and with what.

use std::io;
use std::path::PathBuf;

/// A call to a disk or a file, by what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Op {
    /// [`Disk::list`](crate::Disk::list).
    List,
    /// [`Disk::open`](crate::Disk::open) and [`Disk::open_read`](crate::Disk::open_read).
    Open,
    /// [`DiskFile::read_at`](crate::DiskFile::read_at), and once for all of a [`DiskFile::map`](crate::DiskFile::map).
    Read,
    /// [`DiskFile::close`](crate::DiskFile::close).
    Close,
    /// Each directory that [`Disk::create_dir_all`](crate::Disk::create_dir_all) makes; it makes them durable by
    /// [`SyncDir`](Op::SyncDir).
    CreateDir,
    /// [`Disk::create`](crate::Disk::create).
    Create,
    /// [`Disk::lock`](crate::Disk::lock).
    Lock,
    /// [`DiskFile::write_at`](crate::DiskFile::write_at).
    Write,
    /// [`DiskFile::set_len`](crate::DiskFile::set_len).
    SetLen,
    /// [`DiskFile::allocate`](crate::DiskFile::allocate).
    Allocate,
    /// [`DiskFile::punch_hole`](crate::DiskFile::punch_hole).
    PunchHole,
    /// [`Disk::rename`](crate::Disk::rename).
    Rename,
    /// [`Disk::exchange`](crate::Disk::exchange).
    Exchange,
    /// [`Disk::remove`](crate::Disk::remove).
    Remove,
    /// [`DiskFile::sync_data`](crate::DiskFile::sync_data).
    SyncData,
    /// [`Disk::sync_dir`](crate::Disk::sync_dir).
    SyncDir,
}

impl Op {
    pub(super) const COUNT: usize = Op::SyncDir as usize + 1;

    /// Whether a crash before it and one after it can differ.
    pub(super) fn changes(self) -> bool {
        !matches!(self, Op::List | Op::Open | Op::Read | Op::Close)
    }
}

/// The error that an operation is made to return: an [`io::ErrorKind`], or a number of the operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Named(io::ErrorKind),
    Numbered(i32),
    Short,
}

impl Failure {
    /// The disk cannot read or write it (`EIO`).
    pub const EIO: Failure = Failure(Kind::Numbered(5));
    /// A write through a handle for reading (`EBADF`).
    pub const EBADF: Failure = Failure(Kind::Numbered(9));
    /// The process has too many open files (`EMFILE`).
    pub const EMFILE: Failure = Failure(Kind::Numbered(24));
    /// No error: a read or a write of more than one byte does half of what it was given, and says so. Any other operation
    /// is not harmed; where only an error makes sense it is `WriteZero`.
    pub const SHORT: Failure = Failure(Kind::Short);
}

impl From<io::ErrorKind> for Failure {
    fn from(kind: io::ErrorKind) -> Failure {
        Failure(Kind::Named(kind))
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        match failure.0 {
            Kind::Named(kind) => kind.into(),
            Kind::Numbered(number) => io::Error::from_raw_os_error(number),
            Kind::Short => io::ErrorKind::WriteZero.into(),
        }
    }
}

/// What a sync does while syncs [hang](crate::SimDisk::hang_syncs).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hang {
    /// It blocks its thread until it is [released](crate::SimDisk::release_sync).
    Block,
    /// For a program with one thread: it returns `TimedOut` at once, and what it was to write stays unsynced.
    TimedOut,
}

/// Why an operation does not happen.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stop {
    Crash {
        /// A write is done by half.
        half: bool,
    },
    Error(Failure),
    /// A read or a write does half of what it was given.
    Short,
}

impl From<Stop> for io::Error {
    fn from(stop: Stop) -> io::Error {
        match stop {
            Stop::Crash { .. } => io::Error::other("the simulated process has crashed"),
            Stop::Error(failure) => failure.into(),
            Stop::Short => Failure::SHORT.into(),
        }
    }
}

/// What waits for an operation to come.
#[derive(Debug, Clone, Default)]
pub(super) struct Armed {
    /// How many operations that change something were begun.
    pub(super) operations: u64,
    seen: [u64; Op::COUNT],
    /// What happens to the call with this number, of all that were begun.
    call: Option<(u64, Failure)>,
    /// What happens to the operation with this number.
    at: Option<(u64, Stop)>,
    /// What happens to the n-th of a kind.
    of_kind: Vec<(Op, u64, Failure)>,
    /// What happens to the n-th write on its way to the media: lost, or so many sectors further on in that file, or in
    /// its own.
    astray: Vec<(u64, Option<Detour>)>,
    pub(super) next_sync: Option<Failure>,
}

/// Where a misdirected write goes.
#[derive(Debug, Clone)]
pub(super) struct Detour {
    pub(super) path: Option<PathBuf>,
    pub(super) sectors: isize,
}

impl Armed {
    pub(super) fn arm(&mut self, after: u64, stop: Stop) {
        self.at = Some((self.operations + after, stop));
    }

    pub(super) fn arm_kind(&mut self, op: Op, after: u64, failure: Failure) {
        let at = self.seen[op as usize] + after;
        self.of_kind.push((op, at, failure));
    }

    pub(super) fn arm_astray(&mut self, after: u64, detour: Option<Detour>) {
        let at = self.seen[Op::Write as usize] + after;
        self.astray.push((at, detour));
    }

    pub(super) fn arm_call(&mut self, after: u64, failure: Failure) {
        self.call = Some((self.calls() + after, failure));
    }

    /// How many calls were begun, also those that change nothing.
    pub(super) fn calls(&self) -> u64 {
        self.seen.iter().sum()
    }

    /// Counts an operation that begins, and says what happens to it.
    pub(super) fn begin(&mut self, op: Op) -> Option<Stop> {
        match self.next(op)? {
            Stop::Error(Failure::SHORT) => match op {
                Op::Read | Op::Write => Some(Stop::Short),
                _ => None,
            },
            stop => Some(stop),
        }
    }

    fn next(&mut self, op: Op) -> Option<Stop> {
        let calls = self.calls();
        let seen = self.seen[op as usize];
        self.seen[op as usize] += 1;
        let mut stop = None;
        if op.changes() {
            let due = self.at.take_if(|(at, _)| *at == self.operations);
            stop = due.map(|(_, stop)| stop);
            self.operations += 1;
        }
        let due = |(kind, at, _): &(Op, u64, Failure)| *kind == op && *at == seen;
        if let Some(n) = self.of_kind.iter().position(due) {
            let (_, _, failure) = self.of_kind.swap_remove(n);
            stop = stop.or(Some(Stop::Error(failure)));
        }
        if let Some((_, failure)) = self.call.take_if(|(at, _)| *at == calls) {
            stop = stop.or(Some(Stop::Error(failure)));
        }
        stop
    }

    /// What happens on its way to the media to the write that has just begun.
    pub(super) fn astray(&mut self) -> Option<Option<Detour>> {
        let this = self.seen[Op::Write as usize] - 1;
        let n = self.astray.iter().position(|(at, _)| *at == this)?;
        Some(self.astray.swap_remove(n).1)
    }

    /// Nothing waits any more; the counts stay.
    pub(super) fn disarm(&mut self) {
        *self = Armed {
            operations: self.operations,
            seen: self.seen,
            ..Armed::default()
        };
    }
}
