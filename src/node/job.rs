//! What takes long and needs not be waited for: it is done beside the node.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use duramen_snapshot::{ChunkRef, Install, Manifest, Meta, SnapshotId, SnapshotStore};

use super::machine::Frozen;
use crate::raft::Offer;
use crate::transport::Hash;

/// Something to do on another thread. The node goes on meanwhile, and is told through
/// [`Input::Finished`](super::Input::Finished).
#[must_use]
pub struct Job(Kind);

enum Kind {
    Take {
        store: SnapshotStore,
        meta: Meta,
        frozen: Frozen,
    },
    Install {
        store: SnapshotStore,
        install: Box<Install>,
        offer: Offer,
    },
}

/// What became of a [`Job`].
pub struct Finished(pub(super) Outcome);

pub(super) enum Outcome {
    /// A snapshot was taken of the state at this index.
    Taken(u64, io::Result<Manifest>),
    /// A snapshot that was offered is durable here.
    Installed(Offer, io::Result<(SnapshotId, Lost)>),
}

/// The newest one, and the one before it: a follower may be fetching it.
const SNAPSHOTS_KEPT: usize = 2;

impl Job {
    pub(super) fn take(store: SnapshotStore, meta: Meta, frozen: Frozen) -> Job {
        Job(Kind::Take {
            store,
            meta,
            frozen,
        })
    }

    pub(super) fn install(store: SnapshotStore, install: Install, offer: Offer) -> Job {
        Job(Kind::Install {
            store,
            install: Box::new(install),
            offer,
        })
    }

    /// Does it. A panic counts as a failure: the node must hear of it.
    pub fn run(self) -> Finished {
        Finished(match self.0 {
            Kind::Take {
                store,
                meta,
                frozen,
            } => {
                let index = meta.last_index;
                Outcome::Taken(index, caught(|| take(&store, meta, &frozen)))
            }
            Kind::Install {
                store,
                install,
                offer,
            } => Outcome::Installed(offer, caught(|| take_in(&store, *install))),
        })
    }
}

fn caught<T>(job: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let outcome = catch_unwind(AssertUnwindSafe(job));
    outcome.unwrap_or_else(|_| Err(io::Error::other("it panicked")))
}

fn take_in(store: &SnapshotStore, install: Install) -> io::Result<(SnapshotId, Lost)> {
    let published = install.publish()?;
    // Before older ones go: it may be one of them, if newer ones were taken while it came. What has gone is not damaged.
    let lost = damaged_chunks(store, &published.manifest);
    store.drop_older(SNAPSHOTS_KEPT)?;
    Ok((published.id, lost))
}

/// The log will be purged on the strength of this snapshot, so all of it is read again: of what it shares with earlier ones,
/// something may be damaged, and here are the true bytes.
fn take(store: &SnapshotStore, meta: Meta, frozen: &Frozen) -> io::Result<Manifest> {
    let mut writer = BufWriter::with_capacity(WRITE_BYTES, store.begin(meta)?);
    frozen(&mut writer)?;
    let manifest = writer.into_inner()?.publish()?.manifest;
    let lost = damaged_chunks(store, &manifest);
    if !lost.is_empty() {
        tracing::error!(
            chunks = lost.len(),
            "an earlier snapshot is damaged: writing anew what this one shares"
        );
        let mut repair = Repair::new(store, &manifest, lost);
        frozen(&mut repair)?;
        repair.end()?;
    }
    store.drop_older(SNAPSHOTS_KEPT)?;
    Ok(manifest)
}

/// Takes the bytes of a snapshot, and puts right the chunks of it that are lost.
struct Repair<'a> {
    store: &'a SnapshotStore,
    lost: Lost,
    /// The chunks that follow, and what has come of the first of them.
    chunks: std::slice::Iter<'a, ChunkRef>,
    current: Option<&'a ChunkRef>,
    bytes: Vec<u8>,
}

impl<'a> Repair<'a> {
    fn new(store: &'a SnapshotStore, manifest: &'a Manifest, lost: Lost) -> Repair<'a> {
        let mut chunks = manifest.chunks().iter();
        Repair {
            store,
            lost,
            current: chunks.next(),
            chunks,
            bytes: Vec::new(),
        }
    }

    /// All was written: nothing may be lost any more.
    fn end(self) -> io::Result<()> {
        match self.lost.is_empty() {
            true => Ok(()),
            false => Err(io::Error::other(
                "a state was written in another way the second time",
            )),
        }
    }
}

impl Write for Repair<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(chunk) = self.current else {
            return Ok(bytes.len()); // More than the first time: `end` says so.
        };
        let taken = bytes.len().min(chunk.bytes as usize - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..taken]);
        if self.bytes.len() == chunk.bytes as usize {
            if self.lost.remove(chunk.name.as_bytes()) {
                self.store.repair_chunk(chunk.name, &self.bytes)?;
            }
            self.bytes.clear();
            self.current = self.chunks.next();
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The chunks of a snapshot that cannot be read.
pub(super) type Lost = BTreeSet<Hash>;

/// Reads a whole snapshot to find them: of what it shares with an earlier one, something may be damaged.
pub(super) fn damaged_chunks(store: &SnapshotStore, manifest: &Manifest) -> Lost {
    let names = manifest.chunks().iter().map(|chunk| chunk.name);
    let damaged = names.filter(|name| store.read_chunk(*name).is_err());
    damaged.map(|name| *name.as_bytes()).collect()
}

const WRITE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use duramen_disk::SimDisk;

    use super::*;

    fn store() -> SnapshotStore {
        let options = duramen_snapshot::Options::default();
        SnapshotStore::open_on(Arc::new(SimDisk::new()), "/snapshots", options).unwrap()
    }

    fn publish(store: &SnapshotStore, index: u64) -> Manifest {
        let mut writer = store.begin(Meta::new(1, index)).unwrap();
        writer.write_all(&index.to_le_bytes().repeat(100)).unwrap();
        writer.publish().unwrap().manifest
    }

    #[test]
    fn a_snapshot_that_is_overtaken_while_it_comes_is_dropped_and_not_damaged() {
        let (there, here) = (store(), store());
        let manifest = publish(&there, 3);
        let mut install = here.begin_install(manifest).unwrap();
        for name in install.missing() {
            install.put(name, &there.read_chunk(name).unwrap()).unwrap();
        }
        publish(&here, 5);
        publish(&here, 6);
        let (id, lost) = take_in(&here, install).unwrap();
        assert!(here.manifest(id).is_err(), "it is the third newest");
        assert!(lost.is_empty());
    }
}
