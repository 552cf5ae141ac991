//! What a Raft node must not forget: the log engine put to the core's use.
//!
//! A node's directory holds `log`, a [`Wal`] with one group: its hard state, its entries, and as user record whose log
//! it is ([`Identity`]). Snapshots will stand beside it.
//!
//! Invariants:
//! * What [`Storage::persist`] was given is durable when it returns.
//! * The log of one node or cluster is never opened as another's.

mod identity;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use duramen_disk::Disk;
use duramen_wal::{Batch, Entry, GroupId, HardState, Index, Options, RecoveryReport, Term, Wal};

use crate::raft::Write;

pub use identity::Identity;

/// Why a node's storage cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log said no.
    #[error(transparent)]
    Log(#[from] duramen_wal::Error),

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

    /// The log holds entries of a later term than the node has: the disk lost what was durable, or was rolled back.
    #[error("{} has term {term}, and its last entry is of term {last}: the term was lost, so this node may have voted already; give it a new identity", path.display())]
    LostTerm {
        /// The directory.
        path: PathBuf,
        /// The node's term.
        term: Term,
        /// That of the last entry.
        last: Term,
    },

    /// The record that says whose log it is cannot be read.
    #[error("{} does not say whose log it is", path.display())]
    NoIdentity {
        /// The directory.
        path: PathBuf,
    },
}

/// A node's durable state.
pub struct Storage {
    wal: Wal,
}

const GROUP: GroupId = GroupId(1);

/// A long list of entries goes into several batches of about this size. It stays well under
/// [`Options::batch_bytes_max`], also with one more entry of the largest size.
const BATCH_BYTES: usize = 8 << 20;
/// What an entry takes beside its payload, at the most.
const ENTRY_OVERHEAD_BYTES: usize = 128;

impl Storage {
    /// Opens the storage of `identity` in `dir`, or makes it at the node's first start.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, identity: &Identity) -> Result<Storage, Error> {
        Storage::open_with(disk, dir, identity, Options::default())
    }

    /// The same with other options for the log: a simulation's has no threads.
    pub fn open_with(
        disk: Arc<dyn Disk>,
        dir: &Path,
        identity: &Identity,
        options: Options,
    ) -> Result<Storage, Error> {
        let log = dir.join("log");
        let wal = match Wal::open_on(disk.clone(), &log, options.clone()) {
            Err(duramen_wal::Error::NotALog { .. }) => Wal::create_on(disk, &log, options)?,
            opened => opened?,
        };
        let storage = Storage { wal };
        storage.check_identity(dir, identity)?;
        let (term, last) = (storage.hard_state().term, storage.wal.last(GROUP).term);
        match term < last {
            true => Err(Error::LostTerm {
                path: dir.to_owned(),
                term,
                last,
            }),
            false => Ok(storage),
        }
    }

    fn check_identity(&self, dir: &Path, expected: &Identity) -> Result<(), Error> {
        let record = self.wal.user_record(GROUP);
        if record.is_empty() && self.wal.groups().is_empty() {
            // A new log; or one whose maker was killed before this line.
            let mut batch = Batch::new();
            batch.user_record(GROUP, expected.encode());
            return Ok(self.wal.write(batch)?);
        }
        let path = dir.to_owned();
        match Identity::decode(&record) {
            None => Err(Error::NoIdentity { path }),
            Some(found) if found == *expected => Ok(()),
            Some(found) => Err(Error::OtherNode {
                path,
                found: Box::new(found),
                expected: Box::new(expected.clone()),
            }),
        }
    }

    /// What was found when the log was opened.
    pub fn recovery(&self) -> &RecoveryReport {
        self.wal.recovery()
    }

    /// The durable term and vote.
    pub fn hard_state(&self) -> HardState {
        self.wal.hard_state(GROUP)
    }

    /// All durable entries.
    pub fn entries(&self) -> Result<Vec<Entry>, Error> {
        let end = self.wal.last(GROUP).index.next();
        Ok(self.wal.entries(GROUP, Index(1)..end, u64::MAX)?)
    }

    /// Makes a write of the core durable.
    ///
    /// Term and vote go first, with the first entries: no entry is ever durable before the term it was received in.
    /// After an error nothing is known of the write, and the node must stop.
    pub fn persist(&mut self, write: &Write) -> Result<(), Error> {
        for entry in &write.repairs {
            self.wal.repair(GROUP, entry.clone())?;
        }
        let mut batch = Batch::new();
        if let Some(hard_state) = write.hard_state {
            batch.hard_state(GROUP, hard_state);
        }
        if let Some(last) = write.reset {
            batch.truncate(GROUP, self.wal.purged(GROUP).index); // all
            batch.purge(GROUP, last);
        }
        if let Some(last) = write
            .purge
            .filter(|last| last.index > self.wal.purged(GROUP).index)
        {
            batch.purge(GROUP, last);
        }
        let mut bytes = 0;
        for entry in &write.entries {
            if bytes >= BATCH_BYTES {
                self.wal.write(std::mem::take(&mut batch))?;
                bytes = 0;
            }
            bytes += entry.payload.len() + ENTRY_OVERHEAD_BYTES;
            batch.append(GROUP, [entry.clone()]);
        }
        Ok(self.wal.write(batch)?)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use duramen_disk::OsDisk;
    use duramen_wal::{LogId, NodeId};

    use super::*;
    use crate::raft::WriteId;

    fn open(dir: &Path, cluster: &str, node: u64) -> Result<Storage, Error> {
        let identity = Identity {
            cluster: cluster.to_owned(),
            node: NodeId(node),
            voters: [1, 2, 3].map(NodeId).into(),
        };
        Storage::open(Arc::new(OsDisk::new()), dir, &identity)
    }

    fn entry(index: u64, term: u64, payload: Vec<u8>) -> Entry {
        let id = LogId {
            term: Term(term),
            index: Index(index),
        };
        Entry {
            id,
            payload: Bytes::from(payload),
            ..Entry::default()
        }
    }

    #[test]
    fn a_write_of_the_core_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut storage = open(dir.path(), "c", 1).unwrap();
        let hard_state = HardState {
            term: Term(3),
            voted_for: Some(NodeId(2)),
            ..HardState::default()
        };
        let mut write = Write {
            id: WriteId(1),
            hard_state: Some(hard_state),
            reset: None,
            purge: None,
            repairs: Vec::new(),
            entries: vec![
                entry(1, 1, vec![1]),
                entry(2, 1, vec![2]),
                entry(3, 2, vec![3]),
            ],
        };
        storage.persist(&write).unwrap();
        write.hard_state = None;
        write.entries = vec![entry(2, 3, vec![4])];
        storage.persist(&write).unwrap();
        drop(storage);
        let storage = open(dir.path(), "c", 1).unwrap();
        assert_eq!(storage.hard_state(), hard_state);
        assert_eq!(
            storage.entries().unwrap(),
            [entry(1, 1, vec![1]), entry(2, 3, vec![4])]
        );
    }

    #[test]
    fn a_log_that_is_ahead_of_its_term_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut storage = open(dir.path(), "c", 1).unwrap();
        let write = Write {
            id: WriteId(1),
            hard_state: None,
            reset: None,
            purge: None,
            repairs: Vec::new(),
            entries: vec![entry(1, 3, vec![1])],
        };
        storage.persist(&write).unwrap();
        drop(storage);
        let refused = open(dir.path(), "c", 1).map(|_| ()).unwrap_err();
        assert!(
            matches!(refused, Error::LostTerm { term, last, .. } if (term, last) == (Term(0), Term(3)))
        );
    }

    #[test]
    fn more_entries_than_a_batch_takes_go_into_several() {
        let dir = tempfile::tempdir().unwrap();
        let mut storage = open(dir.path(), "c", 1).unwrap();
        let entries: Vec<Entry> = (1..=9)
            .map(|index| entry(index, 1, vec![0; 10 << 20]))
            .collect();
        let write = Write {
            id: WriteId(1),
            hard_state: None,
            reset: None,
            purge: None,
            repairs: Vec::new(),
            entries: entries.clone(),
        };
        storage.persist(&write).unwrap();
        assert!(storage.entries().unwrap() == entries);
    }

    #[test]
    fn a_directory_of_another_node_or_cluster_is_refused_and_both_are_named() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), "mine", 1).unwrap());
        for (cluster, node) in [("mine", 2), ("other", 1)] {
            let error = open(dir.path(), cluster, node).map(|_| ()).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("node 1 of cluster \"mine\""), "{text}");
            assert!(
                text.contains(&format!("node {node} of cluster {cluster:?}")),
                "{text}"
            );
        }
        open(dir.path(), "mine", 1).unwrap();
    }

    #[test]
    fn the_voters_are_those_of_the_first_start() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), "mine", 1).unwrap());
        let alone = Identity {
            cluster: "mine".to_owned(),
            node: NodeId(1),
            voters: [NodeId(1)].into(),
        };
        let opened = Storage::open(Arc::new(OsDisk::new()), dir.path(), &alone);
        let text = opened.map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("with the nodes 1, 2, 3"), "{text}");
    }
}
