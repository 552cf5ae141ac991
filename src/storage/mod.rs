//! What a Raft node must not forget: the log engine and the snapshot files put to the core's use.
//!
//! A node's directory holds
//!
//! * `log`, a [`Wal`] with one group: its hard state, its entries, and as user record whose log it is ([`Identity`]), who
//!   belongs to the cluster, and how the node is known again: what it drew at its first start, and at each since;
//! * `snapshots`, a [`SnapshotStore`]: the state machine's states up to some entries.
//!
//! Writes of the core go to the log in the order in which they are submitted, and several may be under way:
//! [`completed`](Storage::completed) says up to which one they are durable.
//!
//! # Invariants
//!
//! * A write that is completed is durable, and so are all before it.
//! * A snapshot is durable before the log is purged, or reset, that it stands for. After a crash between the two,
//!   [`restore`](Storage::restore) does the second step.
//! * The log of one node or cluster is never opened as another's.
//! * What is damaged or suspect is reported by its id, never cut off.

mod identity;
mod restore;
mod snapshot_name;
#[cfg(test)]
mod tests;
mod writing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use duramen_disk::Disk;
use duramen_snapshot::SnapshotStore;
use duramen_wal::{Batch, GroupId, HardState, LogId, RecoveryReport, Stats, Term, Wal};

pub use crate::boot::Boot;
pub use identity::{Claim, Identity};
pub use restore::Restored;
pub use snapshot_name::SnapshotName;

use identity::Record;
use writing::{BATCH_BYTES, Completions, put_record};

/// How a node's storage is to be.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Of the log. Suspect entries are kept in any case, for the peers to decide.
    pub log: duramen_wal::Options,
    /// How long the chunks of snapshots are on average, in bytes. All nodes have the same.
    pub chunk_bytes: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            log: duramen_wal::Options::default(),
            chunk_bytes: duramen_snapshot::Options::default().chunk_bytes,
        }
    }
}

/// Why a node's storage cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log said no.
    #[error(transparent)]
    Log(#[from] duramen_wal::Error),

    /// The snapshots said no.
    #[error(transparent)]
    Snapshots(#[from] duramen_snapshot::Error),

    /// The operating system said no.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was to be done.
        op: &'static str,
        /// To which directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },

    /// The directory belongs to another node, or to a node of another cluster.
    #[error("{} belongs to {found}, and this is {expected}: start it with its own flags, or use another directory", path.display())]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: Box<Identity>,
        /// Who wants it.
        expected: Box<Identity>,
    },

    /// There is no node's log, and something else: perhaps the directory above is meant, or one below.
    #[error("{} has {found} and no node's log: a node begins in a directory of its own, so use an empty one, or the one that was meant", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// What is there.
        found: String,
    },

    /// There are snapshots and no log: without it the node does not know for whom it voted.
    #[error("{} has snapshots and no log: this node may have voted, and does not know for whom; empty the directory and let the node join anew, under a new number", path.display())]
    NoLog {
        /// The directory.
        path: PathBuf,
    },

    /// The log, or a snapshot, holds entries of a later term than the node has: the disk lost what was durable, or was
    /// rolled back.
    #[error("{} has term {term}, and its last entry is of term {last}: the term was lost, so this node may have voted already; empty the directory and let the node join anew, under a new number", path.display())]
    LostTerm {
        /// The directory.
        path: PathBuf,
        /// The node's term.
        term: Term,
        /// That of the last entry.
        last: Term,
    },

    /// The log was cut, and what was acknowledged is lost. Others in the cluster may count on it.
    #[error("{} was cut, and what was acknowledged is lost: in a cluster with others this node could vote twice in a term; empty the directory and let the node join anew, under a new number", path.display())]
    Lossy {
        /// The log's directory.
        path: PathBuf,
    },

    /// The record that says whose log it is cannot be read.
    #[error("{} does not say whose log it is", path.display())]
    NoIdentity {
        /// The directory.
        path: PathBuf,
    },

    /// The record was written by a later version of this program.
    #[error("{} has a node's record of version {found}, this program reads version {expected}: use the program that wrote it, or a newer one", path.display())]
    Version {
        /// The directory.
        path: PathBuf,
        /// The version that it says to have.
        found: u8,
        /// The version that this program reads.
        expected: u8,
    },

    /// Neither a snapshot nor the log says who belongs to the cluster.
    #[error("{} does not say who belongs to the cluster as of entry {base}", path.display())]
    NoMembership {
        /// The directory.
        path: PathBuf,
        /// Where the log begins.
        base: LogId,
    },
}

impl Error {
    /// Whether there was no space on the disk: nothing has happened, and there may be some later.
    pub fn is_full(&self) -> bool {
        matches!(self, Error::Log(duramen_wal::Error::Full { .. }))
    }

    /// Whether the log could not be written: it takes nothing any more, and what it holds is what was durable before.
    pub fn is_failed_write(&self) -> bool {
        use duramen_wal::Error::{Io, Poisoned};
        matches!(self, Error::Log(Poisoned { .. } | Io { .. }))
    }
}

/// A node's durable state.
pub struct Storage {
    dir: PathBuf,
    wal: Wal,
    snapshots: SnapshotStore,
    record: Record,
    completions: Arc<Completions>,
    /// A long list of entries goes into several batches of about this size.
    batch_bytes: usize,
    command_bytes_max: usize,
    /// Something was submitted since the log was driven.
    is_idle: bool,
    /// The record has changed since it was written last: there was no space for it.
    is_record_new: bool,
    /// The size of the last batch for which there was no space.
    refused_bytes: u64,
}

const GROUP: GroupId = GroupId(1);

/// What a directory may have in which a node begins: directories that it made before it was killed, and what a file system has.
const MAY_BE_THERE: [&str; 3] = ["log", "snapshots", "lost+found"];

impl Storage {
    /// Opens the storage of `identity` in `dir`, or makes it at the node's first start. That it was started once more, and what it
    /// drew, is durable on return: nobody has heard of it before.
    ///
    /// # Errors
    /// [`Error::OtherNode`], [`Error::NoLog`], [`Error::NotEmpty`], [`Error::NoIdentity`], [`Error::Version`]: this node must not take part with this
    /// directory.
    /// [`Error::Log`], [`Error::Snapshots`], [`Error::Io`].
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        identity: &Identity,
        options: Options,
    ) -> Result<Storage, Error> {
        let claim = Claim::from(identity);
        if let Some(storage) = Storage::reopen(disk.clone(), dir, &claim, options.clone())? {
            return Ok(storage);
        }
        let (log, snapshots) = (dir.join("log"), dir.join("snapshots"));
        check_blank(&*disk, dir, &snapshots)?;
        let wal = Wal::create_on(disk.clone(), &log, log_options(&options))?;
        let record = new_record(&*disk, dir, identity)?;
        Storage::started(disk, dir, options, wal, record)
    }

    /// Opens the storage of a node that was started before. `None` if there is none in `dir`.
    ///
    /// # Errors
    /// See [`open`](Storage::open).
    pub fn reopen(
        disk: Arc<dyn Disk>,
        dir: &Path,
        claim: &Claim,
        options: Options,
    ) -> Result<Option<Storage>, Error> {
        let wal = match Wal::open_on(disk.clone(), dir.join("log"), log_options(&options)) {
            Err(duramen_wal::Error::NotALog { .. }) => return Ok(None),
            opened => opened?,
        };
        let record = match read_record(&wal, dir, claim)? {
            Some(record) => record,
            // Its maker was killed before it could say whose log it is.
            None => match (&claim.cluster, &claim.voters) {
                (Some(cluster), Some(voters)) => {
                    let identity = Identity {
                        cluster: cluster.clone(),
                        node: claim.node,
                        voters: voters.clone(),
                    };
                    new_record(&*disk, dir, &identity)?
                }
                _ => return Ok(None),
            },
        };
        Storage::started(disk, dir, options, wal, record).map(Some)
    }

    /// The node is started once more.
    fn started(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        wal: Wal,
        mut record: Record,
    ) -> Result<Storage, Error> {
        let batch_bytes_max = options.log.batch_bytes_max;
        let batch_bytes = BATCH_BYTES.min(batch_bytes_max / 4) as usize;
        let command_bytes_max = options.log.entry_bytes_max.min(batch_bytes_max / 4 * 3);
        let drawn = draw(&*disk, dir)? as u64;
        record.start(if drawn == Boot::AMBIGUOUS { 1 } else { drawn });
        let mut batch = Batch::new();
        put_record(&mut batch, &record);
        wal.write(batch)?;
        let mut snapshot_options = duramen_snapshot::Options::default();
        snapshot_options.owner = record.uuid;
        snapshot_options.chunk_bytes = options.chunk_bytes;
        Ok(Storage {
            dir: dir.to_owned(),
            wal,
            snapshots: SnapshotStore::open_on(disk, dir.join("snapshots"), snapshot_options)?,
            record,
            completions: Arc::default(),
            batch_bytes,
            command_bytes_max: usize::try_from(command_bytes_max).unwrap_or(usize::MAX),
            is_idle: true,
            is_record_new: false,
            refused_bytes: 0,
        })
    }

    /// Whose it is.
    pub fn identity(&self) -> Identity {
        self.record.identity()
    }

    /// Whether the node has never taken part in a cluster, and begins one.
    pub fn is_blank(&self) -> bool {
        !self.record.has_begun() && !self.identity().voters.is_empty()
    }

    /// The last durable entry, or the one that the log begins after.
    pub fn durable(&self) -> LogId {
        self.wal.durable(GROUP).max(self.wal.purged(GROUP))
    }

    /// Drawn at the node's first start: a node whose disk was emptied has another one.
    pub fn uuid(&self) -> u128 {
        self.record.uuid
    }

    /// How often the node was started.
    pub fn boot(&self) -> u64 {
        self.record.boot()
    }

    /// The node's starts that a peer may remember, by how often it was started until then, and what it drew at each. A directory
    /// that was set back, or a copy of it, has drawn something else since.
    pub fn boots(&self) -> &BTreeMap<u64, u64> {
        self.record.boots()
    }

    /// The size of the largest command that the log takes: what else may have to be in its batch has room then.
    pub fn command_bytes_max(&self) -> usize {
        self.command_bytes_max
    }

    /// The node's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The node's snapshots.
    pub fn snapshots(&self) -> &SnapshotStore {
        &self.snapshots
    }

    /// How the log's files are.
    pub fn log_stats(&self) -> Stats {
        self.wal.stats()
    }

    /// What was found when the log was opened.
    pub fn recovery(&self) -> &RecoveryReport {
        self.wal.recovery()
    }

    /// The term and vote, durable if [`is_writing`](Storage::is_writing) is false.
    pub fn hard_state(&self) -> HardState {
        self.wal.hard_state(GROUP)
    }
}

/// Whether a node without a log may begin here.
fn check_blank(disk: &dyn Disk, dir: &Path, snapshots: &Path) -> Result<(), Error> {
    let path = dir.to_owned();
    if !list(disk, snapshots)?.is_empty() {
        return Err(Error::NoLog { path });
    }
    let is_strange = |name: &String| !MAY_BE_THERE.contains(&name.as_str());
    match list(disk, dir)?.into_iter().find(is_strange) {
        Some(found) => Err(Error::NotEmpty { path, found }),
        None => Ok(()),
    }
}

/// What is in a directory, which need not be there. One that cannot be read is not an empty one.
fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, Error> {
    match disk.list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|source| Error::Io {
            op: "list",
            path: dir.to_owned(),
            source,
        }),
    }
}

/// Suspect entries are for the peers to decide.
fn log_options(options: &Options) -> duramen_wal::Options {
    let mut options = options.log.clone();
    options.keep_suspects = true;
    options
}

fn new_record(disk: &dyn Disk, dir: &Path, identity: &Identity) -> Result<Record, Error> {
    Ok(Record::new(identity, draw(disk, dir)?))
}

fn draw(disk: &dyn Disk, dir: &Path) -> Result<u128, Error> {
    disk.random().map_err(|source| Error::Io {
        op: "draw a random number for",
        path: dir.to_owned(),
        source,
    })
}

/// Reads whose log it is. `None` if that was not written yet.
fn read_record(wal: &Wal, dir: &Path, claim: &Claim) -> Result<Option<Record>, Error> {
    let bytes = wal.user_record(GROUP);
    let path = dir.to_owned();
    if bytes.is_empty() && wal.groups().is_empty() {
        return Ok(None);
    }
    let Some(record) = Record::decode(&bytes) else {
        return Err(match Record::later_version(&bytes) {
            Some(found) => Error::Version {
                path,
                found,
                expected: Record::VERSION,
            },
            None => Error::NoIdentity { path },
        });
    };
    let found = record.identity();
    let expected = claim.completed_by(&found);
    match found == expected {
        true => Ok(Some(record)),
        false => Err(Error::OtherNode {
            path,
            found: Box::new(found),
            expected: Box::new(expected),
        }),
    }
}
