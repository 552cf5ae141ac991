//! Reading everything, to see whether it is whole.

use std::path::PathBuf;

use crate::SnapshotId;
use crate::chunk::ChunkName;
use crate::container::BadFile;
use crate::error::{Damage, Result};
use crate::store::{Held, Pin, State, Store};
use std::sync::Arc;

/// What [`SnapshotStore::verify`](crate::SnapshotStore::verify) found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// How many files were looked at.
    pub files: u64,
    /// How many chunks were read.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Headers, tables, manifests and trailers that are damaged.
    pub bad_files: Vec<BadFile>,
    /// Chunks that are damaged or missing.
    pub bad_chunks: Vec<BadChunk>,
}

/// A chunk that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadChunk {
    /// Which one.
    pub name: ChunkName,
    /// The snapshots that need it, from the oldest to the newest.
    pub snapshots: Vec<SnapshotId>,
    /// Where its bytes are, and what is wrong with them; `None`: it is missing.
    pub found: Option<(PathBuf, u64, Damage)>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.bad_files.is_empty() && self.bad_chunks.is_empty()
    }
}

/// How far a [`SnapshotStore::verify`](crate::SnapshotStore::verify) is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of chunks that were read.
    pub done: u64,
    /// Of so many.
    pub all: u64,
}

impl Store {
    pub(crate) fn verify(
        self: &Arc<Store>,
        mut progress: impl FnMut(Progress),
    ) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let mut state = self.state();
        let files: Vec<_> = state
            .files
            .values()
            .map(|f| (f.role, f.container.clone()))
            .collect();
        let mut chunks: Vec<_> = state.index.iter().collect();
        let snapshots = state.in_order();
        // What is dropped from here on is not missing.
        let missing = snapshots.iter();
        let missing = missing.flat_map(|(_, manifest)| state.index.missing(manifest));
        let missing: Vec<ChunkName> = missing.collect();
        let pin = self.pin(&mut state, chunks.iter().map(|(name, _)| *name).collect());
        drop(state);
        for (role, container) in files {
            if role != crate::names::Role::Install {
                let contents = container.look(role, self.options.owner)?;
                report.bad_files.extend(contents.bad);
            }
            report.files += 1;
        }
        chunks.sort_unstable_by_key(|(_, place)| (place.file, place.offset));
        let all = chunks.iter().map(|(_, place)| u64::from(place.bytes)).sum();
        for (name, place) in chunks {
            if let Err(crate::Error::DamagedChunk {
                path,
                offset,
                reason,
                ..
            }) = self.chunk(name, None)
            {
                report.bad_chunks.push(BadChunk {
                    name,
                    snapshots: Vec::new(),
                    found: Some((path, offset, reason)),
                });
            }
            report.chunks += 1;
            report.bytes += u64::from(place.bytes);
            progress(Progress {
                done: report.bytes,
                all,
            });
        }
        drop(pin);
        report
            .bad_chunks
            .extend(missing.into_iter().map(|name| BadChunk {
                name,
                snapshots: Vec::new(),
                found: None,
            }));
        report.bad_chunks.sort_by_key(|bad| bad.name);
        report.bad_chunks.dedup_by_key(|bad| bad.name);
        for (id, manifest) in &snapshots {
            for chunk in manifest.chunks() {
                let bad = &mut report.bad_chunks;
                if let Ok(at) = bad.binary_search_by_key(&chunk.name, |bad| bad.name)
                    && bad[at].snapshots.last() != Some(id)
                {
                    bad[at].snapshots.push(*id);
                }
            }
        }
        Ok(report)
    }

    /// Holds chunks that are held.
    fn pin(self: &Arc<Store>, state: &mut State, held: Vec<ChunkName>) -> Pin {
        held.iter().for_each(|name| state.index.hold(*name));
        Pin {
            store: self.clone(),
            held: Held::Chunks(held),
        }
    }
}
