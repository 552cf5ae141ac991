//! The levers: what a test asks of a simulated disk.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::SimDisk;
use super::bytes::FileBytes;
use super::faults::{Detour, Failure, Hang, Op, Stop};
use super::state::sectors_of;

/// Crashes and errors.
impl SimDisk {
    /// How many operations were begun that change something: every call but `list`, `open`, `len`, `read_at`, `map` and
    /// `close`, also a call that failed. A write that is made in several pieces counts for each, and so does each
    /// directory that `create_dir_all` makes or syncs.
    pub fn operations(&self) -> u64 {
        self.state().armed.operations
    }

    /// Lets the process die in the operation that follows `operations` further ones: a write is done by half, anything
    /// else not at all. From then on every call fails, until [`kill`](SimDisk::kill) or a power cut. Replaces a crash or
    /// an error at the n-th operation that was armed before.
    pub fn crash_after(&self, operations: u64) {
        let mut state = self.state();
        state.armed.arm(operations, Stop::Crash { half: true });
    }

    /// Takes back all faults that were armed and have not struck: nothing fails any more but for what the disk is (full,
    /// slow, read-only, with bad sectors).
    pub fn disarm(&self) {
        self.state().armed.disarm();
    }

    /// As [`crash_after`](SimDisk::crash_after), but a write is not done at all either.
    pub fn crash_before(&self, operations: u64) {
        let mut state = self.state();
        state.armed.arm(operations, Stop::Crash { half: false });
    }

    /// In which operation on which path the process died, if it did and was not [killed](SimDisk::kill) since.
    pub fn crashed_in(&self) -> Option<(Op, PathBuf)> {
        self.state().crashed_in.clone()
    }

    /// Lets the operation that follows `operations` further ones fail, once; it has no effect. If it is a `sync_data`, it
    /// fails as with [`fail_next_sync`](SimDisk::fail_next_sync). Replaces a crash or an error at the n-th operation that
    /// was armed before.
    pub fn fail_after(&self, operations: u64, failure: impl Into<Failure>) {
        let mut state = self.state();
        state.armed.arm(operations, Stop::Error(failure.into()));
    }

    /// Lets the operation of this kind that follows `after` further ones of it fail, once. Several can be armed at a time.
    ///
    /// ```
    /// # use std::path::Path;
    /// # use duramen_disk::{Disk, Failure, Op, SimDisk};
    /// let disk = SimDisk::new();
    /// disk.create(Path::new("/file"))?;
    /// disk.fail_op(Op::Open, 1, Failure::EMFILE);
    /// let _first = disk.open(Path::new("/file"))?;
    /// assert!(disk.open(Path::new("/file")).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn fail_op(&self, op: Op, after: u64, failure: impl Into<Failure>) {
        self.state().armed.arm_kind(op, after, failure.into());
    }

    /// As [`fail_after`](SimDisk::fail_after), but every call counts.
    pub(crate) fn fail_call(&self, after: u64, failure: Failure) {
        let mut state = self.state();
        state.failed_in = None;
        state.armed.arm_call(after, failure);
    }

    /// How many calls were begun that can be made to fail.
    pub(crate) fn calls(&self) -> u64 {
        self.state().armed.calls()
    }

    /// In which operation on which path the last failure came that was asked for.
    pub(crate) fn failed_in(&self) -> Option<(Op, PathBuf)> {
        self.state().failed_in.clone()
    }

    /// Lets each `write_at` write no more than `bytes` (at least 1), or all it was given.
    pub fn set_write_bytes_max(&self, bytes: Option<usize>) {
        self.state().write_bytes_max = bytes.map(|max| max.max(1));
    }

    /// Lets each `read_at` read no more than `bytes` (at least 1), or all there is.
    pub fn set_read_bytes_max(&self, bytes: Option<usize>) {
        self.state().read_bytes_max = bytes.map(|max| max.max(1));
    }
}

/// Write-back: failed, slow, hanging.
impl SimDisk {
    /// Lets the next `sync_data` that ends fail as Linux does it: nothing is written, and the pages count as clean. Reads
    /// still see the new bytes, the media has the old ones, and the next sync succeeds without writing them; only bytes
    /// that are written again reach the media.
    ///
    /// Each open file description of the file is told once, at its own next sync, this one now. So if several syncs of one
    /// handle are under way, the error reaches one caller; with a handle each it reaches all. A handle that is opened
    /// later is told nothing. (Linux tells it if nobody was told before, and may forget that it has to.)
    pub fn fail_next_sync(&self, failure: impl Into<Failure>) {
        self.state().armed.next_sync = Some(failure.into());
    }

    /// Lets the kernel write back the file's unsynced bytes on its own, and fail: they are dropped as by
    /// [`fail_next_sync`](SimDisk::fail_next_sync), and every open file description is told at its next sync.
    ///
    /// `NotFound` if there is no such file.
    pub fn fail_write_back(&self, path: &Path, failure: impl Into<Failure>) -> io::Result<()> {
        let mut state = self.state();
        let file = state.find(path)?;
        let begun = state.file(file).begin_sync();
        state.fail_write_back(file, &begun, failure.into());
        Ok(())
    }

    /// Drops all clean pages of a file: the next read shows what the media has.
    ///
    /// `NotFound` if there is no such file.
    pub fn evict(&self, path: &Path) -> io::Result<()> {
        self.edit(path, FileBytes::evict)
    }

    /// Lets each `sync_data` and `sync_dir` from now on take so long, in [virtual time](SimDisk::elapsed).
    pub fn set_sync_time(&self, time: Duration) {
        self.state().sync_time = time;
    }

    /// Lets the next `sync_data` or `sync_dir` take so long, in [virtual time](SimDisk::elapsed).
    pub fn slow_next_sync(&self, time: Duration) {
        self.state().next_sync_time = Some(time);
    }

    /// The virtual time that all syncs took, one after the other. Nobody waits for it: a simulator takes the difference
    /// before and after a call, and lets it pass on its own clock.
    pub fn elapsed(&self) -> Duration {
        self.state().elapsed
    }

    /// Lets each `sync_data` and `sync_dir` that begins from now on hang, until [`release_sync`](SimDisk::release_sync),
    /// [`release_all_syncs`](SimDisk::release_all_syncs) or the end of the process. What it makes durable is what was
    /// written, or named, before it began.
    pub fn hang_syncs(&self, hang: Hang) {
        self.state().hang = Some(hang);
    }

    /// How many syncs hang in their threads.
    pub fn hanging_syncs(&self) -> usize {
        self.state().hanging.len()
    }

    /// Waits until so many syncs hang in their threads.
    pub fn wait_for_hanging_syncs(&self, syncs: usize) {
        let mut state = self.state();
        while state.hanging.len() < syncs {
            state = self.wait(state);
        }
    }

    /// Lets the `n`-th of the syncs that hang, in the order in which they began, go on. Whether there was one.
    pub fn release_sync(&self, n: usize) -> bool {
        let mut state = self.state();
        let found = n < state.hanging.len();
        if found {
            state.hanging.remove(n);
        }
        self.changed();
        found
    }

    /// Lets all syncs go on, and hangs no more.
    pub fn release_all_syncs(&self) {
        let mut state = self.state();
        state.hang = None;
        state.hanging.clear();
        self.changed();
    }
}

/// Space.
impl SimDisk {
    /// Lets files grow by `bytes` in sum, or without limit. A write that needs more is cut short, the next one is
    /// `StorageFull`, and an `allocate` that needs more takes all there is (as ext4 does) and is `StorageFull`.
    ///
    /// A file takes its length, less the whole sectors that were punched, or skipped by a `set_len` or a write further on.
    /// Shrinking, punching and removing give space back, removing when the last handle is gone; overwriting needs none. A
    /// power cut keeps or loses space with the bytes, and may lose space that was reserved and not synced.
    pub fn set_free_bytes(&self, bytes: Option<u64>) {
        let mut state = self.state();
        let used = state.used_bytes();
        state.capacity_bytes = bytes.map(|free| used.saturating_add(free));
    }

    /// Lets each name of a file or a directory take so many bytes, those that exist included; at first 0. Then creating
    /// can be `StorageFull`; renaming never is (on ext4 it can be: let [`fail_op`](SimDisk::fail_op) do that).
    pub fn set_name_bytes(&self, bytes: u64) {
        self.state().name_bytes = bytes;
    }

    /// Remounts the file system read-only, as it happens when it finds itself damaged, or takes that back. Whatever would
    /// change it is `ReadOnlyFilesystem`, and so are opening for writing and the sync of what is not synced. (An ext4 that found
    /// itself damaged fails every sync.)
    pub fn set_read_only(&self, read_only: bool) {
        self.state().read_only = read_only;
    }
}

/// Chance.
impl SimDisk {
    /// Lets [`Disk::random`](crate::Disk::random) follow from `seed`: the same calls then give the same bytes on the disk. At
    /// first it asks the operating system.
    ///
    /// It goes on after a crash. But forks of a disk draw the same numbers: only one of them should live on, or each be given a seed.
    pub fn seed_random(&self, seed: u64) {
        self.state().random = Some(fastrand::Rng::with_seed(seed));
    }
}

/// The media.
impl SimDisk {
    /// Lets the sectors of these bytes be unreadable (`EIO`) until each is written anew as a whole. Writing a part of one
    /// is `EIO` as well. Where a newer sector waits to be written, only a power cut shows it.
    ///
    /// `NotFound` if there is no such file.
    pub fn make_bad(&self, path: &Path, bytes: Range<u64>) -> io::Result<()> {
        self.edit(path, |file| file.make_bad(range(bytes)))
    }

    /// Flips bit `bit` (0 to 7) of the byte at `offset` on the media; reads see it, unless a newer sector waits to be
    /// written there.
    ///
    /// `NotFound` if there is no such file.
    ///
    /// # Panics
    ///
    /// If the durable file is not so long, or a byte has no such bit.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        assert!(bit < 8, "a byte has no bit {bit}");
        self.edit(path, |file| file.flip(range(offset..offset).start, bit))
    }

    /// Lets the sectors of these bytes hold again what they held before each was last written to the media: as if that
    /// write had never happened, though it was acknowledged and synced. Reads see it, unless a newer sector waits to be
    /// written there.
    ///
    /// `NotFound` if there is no such file.
    pub fn make_stale(&self, path: &Path, bytes: Range<u64>) -> io::Result<()> {
        self.edit(path, |file| file.make_stale(range(bytes)))
    }

    /// Lets the disk lose the `write_at` that follows `writes` further ones: it is acknowledged and synced, reads see it
    /// until the cache is [gone](SimDisk::evict), and the media never gets its sectors.
    pub fn lose_write(&self, writes: u64) {
        self.state().armed.arm_astray(writes, None);
    }

    /// Lets the disk misdirect the `write_at` that follows `writes` further ones: it is acknowledged and synced, and its
    /// sectors land `bytes` further on (or before) in the file `path`, or in its own file. What would land outside the
    /// file is lost. The cache shows it nowhere until it is [gone](SimDisk::evict).
    ///
    /// # Panics
    ///
    /// If `bytes` is not a multiple of 512.
    pub fn misdirect_write(&self, writes: u64, path: Option<&Path>, bytes: i64) {
        let path = path.map(Path::to_owned);
        let sectors = sectors_of(bytes);
        let mut state = self.state();
        state
            .armed
            .arm_astray(writes, Some(Detour { path, sectors }));
    }

    fn edit(&self, path: &Path, edit: impl FnOnce(&mut FileBytes)) -> io::Result<()> {
        let mut state = self.state();
        let file = state.find(path)?;
        edit(state.file_mut(file));
        Ok(())
    }
}

fn range(bytes: Range<u64>) -> Range<usize> {
    let end = |end: u64| usize::try_from(end).unwrap_or(usize::MAX);
    end(bytes.start)..end(bytes.end)
}
