//! Copy-on-write snapshot files for a Raft state machine.
//!
//! A Raft log cannot grow for ever (extended Raft paper, section 7): the state machine's state up to some index is written
//! to a snapshot, and the log before it is dropped. A [`SnapshotStore`] is a directory of them. A new snapshot writes only
//! the chunks that no other one holds, and a follower is sent only the chunks it lacks: the cost follows the change, not the
//! state.
//!
//! ```
//! use std::io::{Read, Write};
//! use duramen_snapshot::{Meta, Options, SnapshotStore};
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path().join("snapshots");
//! let store = SnapshotStore::open(&dir, Options::default())?;
//! let mut writer = store.begin(Meta::new(3, 1000))?; // the state up to entry 1000, of term 3
//! writer.write_all(b"all that the state machine knows")?;
//! let published = writer.publish()?; // durable, and only now may the log be purged
//!
//! let mut state = String::new();
//! store.reader(published.id)?.read_to_string(&mut state)?;
//! assert_eq!(state, "all that the state machine knows");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # To a follower
//!
//! The manifest goes first; the follower asks for the chunks it lacks, in any order, from whoever has them:
//!
//! ```
//! # use std::io::Write;
//! # use duramen_snapshot::{Manifest, Meta, Options, SnapshotStore};
//! # let dir = tempfile::tempdir()?;
//! # let leader = SnapshotStore::open(dir.path().join("leader"), Options::default())?;
//! # let follower = SnapshotStore::open(dir.path().join("follower"), Options::default())?;
//! # let mut writer = leader.begin(Meta::new(3, 1000))?;
//! # writer.write_all(&[7; 100_000])?;
//! # writer.publish()?;
//! let latest = leader.latest().expect("a snapshot");
//! let sent: Vec<u8> = latest.manifest.encode(); // over the network
//!
//! let mut install = follower.begin_install(Manifest::decode(&sent)?)?;
//! for name in install.missing() {
//!     install.put(name, &leader.read_chunk(name)?)?; // a crash here: `begin_install` goes on
//! }
//! let installed = install.publish()?; // durable
//! assert_eq!(installed.manifest, latest.manifest);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! * A crash at any instruction, or a power cut, leaves the snapshots as they were before a step or as they are after it:
//!   each is published, dropped or installed whole. What is being written and never got its name is removed at the next open.
//! * What is read is what was written: each chunk is checked against its name. A damaged one is named, never returned; the
//!   same bytes from anywhere put it right.
//! * What a kept snapshot, a writer, a reader or an install needs is not given back. An install needs it also after a crash.
//! * All files together take less than twice what is needed, and 16 KiB for each. An install may take at any time what it
//!   will need.
//! * A disk that fills in the middle of a snapshot leaves those that are there.
//!
//! The disk may do what `duramen-disk` says; a sector that is written again with the same bytes keeps them.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod batch;
mod canary;
mod chunk;
mod codec;
mod container;
mod draft;
mod error;
mod format;
mod index;
mod install;
mod manifest;
mod names;
mod open;
mod reader;
mod reclaim;
mod retire;
mod store;
mod verify;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use duramen_disk::{Disk, LockMode, OsDisk};

pub use chunk::ChunkName;
pub use container::BadFile;
pub use error::{BadManifest, Damage, Error, Result};
pub use install::Install;
pub use manifest::{ChunkRef, Manifest, ManifestName, Meta};
pub use open::OpenReport;
pub use reader::SnapshotReader;
pub use verify::{BadChunk, Progress, VerifyReport};
pub use writer::{Counts, Published, SnapshotWriter};

/// How a store is to be.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Whose store it is, for example the number of a cluster and a node in it: files of another owner are refused.
    pub owner: u128,
    /// How long chunks are on average, in bytes, rounded up to a power of two between 256 and 4 Mi; they come out about a fifth
    /// longer. Nodes that are to share chunks have the same.
    ///
    /// Small ones share more when changes are spread over the state; large ones cost less memory and time. For a state of
    /// 1 GiB in records of 256 bytes, of which 1 % change (`cargo bench -p duramen-snapshot --bench workloads`):
    ///
    /// | | 4 KiB | 16 KiB | 64 KiB |
    /// |---|---|---|---|
    /// | file, for each byte changed in one place | 1.7 | 1.2 | 1.1 |
    /// | file, for each byte changed at random places | 23 | 58 | 97 |
    /// | of it the manifest and tables, at 36 to 132 bytes a chunk | 12 MB | 5 MB | 2 MB |
    /// | peak memory, at 280 bytes a chunk | 57 MiB | 15 MiB | 4 MiB |
    /// | opening three snapshots | 0.3 s | 0.04 s | 0.01 s |
    /// | processor time to write it | 1.2 s | 0.9 s | 0.9 s |
    ///
    /// The default is 4 KiB: what goes to the disk, and to every follower, outweighs the rest. A state of tens of GiB, or one
    /// that changes in few places, is better off with more.
    pub chunk_bytes: u32,
    /// Whether each snapshot that is written has a thread that hashes, while the caller's cuts and writes: a quarter to a
    /// third of the work, where a core is idle. What is written is the same, and in the same order.
    pub hash_ahead: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            owner: 0,
            chunk_bytes: 4 << 10,
            hash_ahead: false,
        }
    }
}

/// Names a snapshot of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(
    /// Counts up in the order in which snapshots are published; where an install was begun, that counts. After the newest one
    /// was dropped and the store was opened again, its number may be given once more.
    pub u64,
);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A snapshot that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Which one.
    pub id: SnapshotId,
    /// What it consists of.
    pub manifest: Manifest,
    /// How many of its chunks no file holds. Not 0 only after files were lost or damaged.
    pub missing: usize,
}

/// What a store takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Snapshots that are kept.
    pub snapshots: u64,
    /// Files.
    pub files: u64,
    /// Different chunks that something needs.
    pub chunks: u64,
    /// What they take, with what says where they are, and the manifests of the snapshots, in bytes.
    pub live_bytes: u64,
    /// What all files take, holes not counted, in bytes.
    pub used_bytes: u64,
}

/// A directory of snapshots. Cloning gives another handle; the last one unlocks the directory, when the writers, readers and
/// installs are gone too.
#[derive(Clone)]
pub struct SnapshotStore {
    store: Arc<store::Store>,
    report: Arc<OpenReport>,
}

impl SnapshotStore {
    /// Opens the store in `dir`, or makes one if the directory is empty or missing.
    ///
    /// This takes time in proportion to the number of chunks, not to their bytes; what has arrived of an install is read.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Io`]; [`Error::Version`], [`Error::OtherOwner`], [`Error::Doubled`]: nothing was changed.
    /// Damage is no error: see [`report`](SnapshotStore::report).
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<SnapshotStore> {
        SnapshotStore::open_on(Arc::new(OsDisk::new()), dir, options)
    }

    /// The same on any disk.
    ///
    /// # Errors
    /// See [`open`](SnapshotStore::open).
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: impl AsRef<Path>,
        options: Options,
    ) -> Result<SnapshotStore> {
        SnapshotStore::open_as(disk, dir.as_ref(), options, LockMode::Exclusive)
    }

    /// Opens a store to look at it: nothing is changed, and whatever would change it is [`Error::ReadOnly`]. Makes none.
    ///
    /// # Errors
    /// [`Error::NotAStore`], and those of [`open`](SnapshotStore::open).
    pub fn open_read(
        disk: Arc<dyn Disk>,
        dir: impl AsRef<Path>,
        options: Options,
    ) -> Result<SnapshotStore> {
        SnapshotStore::open_as(disk, dir.as_ref(), options, LockMode::Shared)
    }

    fn open_as(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        mode: LockMode,
    ) -> Result<SnapshotStore> {
        let (store, report) = open::open(disk, dir, options, mode)?;
        if mode == LockMode::Exclusive {
            store.reclaim(&mut *store.changes()?)?;
        }
        Ok(SnapshotStore {
            store: Arc::new(store),
            report: Arc::new(report),
        })
    }

    /// What was found when the store was opened.
    pub fn report(&self) -> &OpenReport {
        &self.report
    }

    /// Begins a snapshot. Others may be begun meanwhile, and all else goes on.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`], [`Error::ReadOnly`], [`Error::Poisoned`]; [`Error::TooLarge`] for its metadata.
    pub fn begin(&self, meta: Meta) -> Result<SnapshotWriter> {
        SnapshotWriter::begin(self.store.clone(), meta)
    }

    /// The snapshots, from the oldest to the newest: by the index of the last entry they hold, then by when they were
    /// published.
    pub fn list(&self) -> Vec<Snapshot> {
        let state = self.store.state();
        let snapshot = |(id, manifest)| Snapshot {
            id,
            missing: state.index.missing(&manifest).len(),
            manifest,
        };
        state.in_order().into_iter().map(snapshot).collect()
    }

    /// The newest snapshot that lacks nothing.
    pub fn latest(&self) -> Option<Snapshot> {
        let state = self.store.state();
        let mut newest_first = state.in_order().into_iter().rev();
        let whole = newest_first.find(|(_, manifest)| state.index.missing(manifest).is_empty());
        whole.map(|(id, manifest)| Snapshot {
            id,
            manifest,
            missing: 0,
        })
    }

    /// What a snapshot consists of.
    ///
    /// # Errors
    /// [`Error::NoSuchSnapshot`].
    pub fn manifest(&self, id: SnapshotId) -> Result<Manifest> {
        let state = self.store.state();
        let found = state.snapshots.get(&id.0).cloned();
        found.ok_or(Error::NoSuchSnapshot { id })
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    /// [`Error::NoSuchSnapshot`]. Damage is told by the reader.
    pub fn reader(&self, id: SnapshotId) -> Result<SnapshotReader> {
        SnapshotReader::open(self.store.clone(), id)
    }

    /// Drops all snapshots that are older than the `keep` newest whole ones, durably, and gives back what nothing else needs.
    /// Those that lack chunks do not count, so this never drops the only whole one; where the manifest is damaged, what was
    /// published after all that are kept stays. 0 drops everything. Gives what was dropped.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Full`], [`Error::ReadOnly`], [`Error::Poisoned`].
    pub fn drop_older(&self, keep: usize) -> Result<Vec<SnapshotId>> {
        self.store.drop_older(keep)
    }

    /// The different chunks of a manifest that the store lacks, in no order.
    pub fn missing(&self, manifest: &Manifest) -> Vec<ChunkName> {
        self.store.state().index.missing(manifest)
    }

    /// The bytes of a chunk, checked: for a peer.
    ///
    /// # Errors
    /// [`Error::UnknownChunk`] if nothing here needs it, [`Error::MissingChunk`], [`Error::DamagedChunk`].
    pub fn read_chunk(&self, name: ChunkName) -> Result<Bytes> {
        let is_held = || self.store.state().index.is_held(&name);
        if !is_held() {
            return Err(Error::UnknownChunk { name });
        }
        // Nothing is held meanwhile: a leader reads all its chunks, and what it held would add up until space is given back.
        match self.store.chunk(name, None) {
            Err(_) if !is_held() => Err(Error::UnknownChunk { name }),
            read => read,
        }
    }

    /// Begins to take in a snapshot from a peer, or goes on with it: what had arrived, also before a crash, is there. An
    /// install of another snapshot that nobody has in hand is given up; what it has of this one is kept.
    ///
    /// The caller sees to it that the snapshot is one to be taken in: newer than what it has, and of its cluster.
    ///
    /// # Errors
    /// [`Error::Installing`], [`Error::Full`], [`Error::Io`], [`Error::ReadOnly`], [`Error::Poisoned`].
    pub fn begin_install(&self, manifest: Manifest) -> Result<Install> {
        Install::begin(self.store.clone(), manifest)
    }

    /// The manifests of installs that are not complete.
    pub fn installs(&self) -> Vec<Manifest> {
        let state = self.store.state();
        let installs = state.installs.values();
        installs.map(|arriving| arriving.manifest.clone()).collect()
    }

    /// Gives up the installs that are not complete and that nobody has in hand, durably. Where nothing else needs what has
    /// arrived, this takes no space, and gives some back.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::ReadOnly`], [`Error::Poisoned`].
    pub fn give_up_installs(&self) -> Result<()> {
        let mut changes = self.store.changes()?;
        install::give_up_others(&self.store, None)?;
        self.store.reclaim_or_warn(&mut changes);
        Ok(())
    }

    /// Puts a damaged or missing chunk right, with bytes from a peer. Durable on return.
    ///
    /// # Errors
    /// [`Error::WrongChunk`] if the bytes have another name, [`Error::UnknownChunk`] if nothing needs the chunk;
    /// [`Error::Full`], [`Error::Io`], [`Error::ReadOnly`], [`Error::Poisoned`].
    pub fn repair_chunk(&self, name: ChunkName, bytes: &[u8]) -> Result<()> {
        self.store.repair_chunk(name, bytes)
    }

    /// Reads all that is needed, and says what is damaged. Changes nothing. `progress` is told after each chunk.
    ///
    /// # Errors
    /// [`Error::Io`] where not even the length of a file can be known.
    pub fn verify(&self, progress: impl FnMut(Progress)) -> Result<VerifyReport> {
        self.store.verify(progress)
    }

    /// What the store takes.
    pub fn stats(&self) -> Stats {
        let state = self.store.state();
        let files = state.files.values();
        let manifests = state.snapshots.values().map(Manifest::encoded_bytes);
        let chunks = state.files.keys().map(|number| state.index.live(*number));
        Stats {
            snapshots: state.snapshots.len() as u64,
            files: state.files.len() as u64,
            chunks: state.index.iter().count() as u64,
            live_bytes: chunks.chain(manifests).sum(),
            used_bytes: files.map(store::File::used_bytes).sum(),
        }
    }
}
