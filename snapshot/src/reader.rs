//! Reading a snapshot.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;

use crate::SnapshotId;
use crate::canary::planted;
use crate::error::{Error, Result};
use crate::manifest::{ChunkRef, Manifest};
use crate::store::{Held, Pin, Store};

/// A snapshot's bytes, with [`Read`] and [`Seek`]. Each chunk is checked against its name before any of it is given.
///
/// The snapshot can be read to its end also when it is dropped meanwhile. Errors hold an [`Error`]: a damaged chunk is named,
/// and [`SnapshotStore::repair_chunk`](crate::SnapshotStore::repair_chunk) puts it right; then reading goes on.
pub struct SnapshotReader {
    id: SnapshotId,
    manifest: Manifest,
    /// Where each chunk ends in the stream.
    ends: Vec<u64>,
    position: u64,
    /// The chunk that was read last.
    chunk: Option<(usize, Bytes)>,
    pin: Pin,
}

impl SnapshotReader {
    pub(crate) fn open(store: Arc<Store>, id: SnapshotId) -> Result<SnapshotReader> {
        let mut state = store.state();
        let found = state.snapshots.get(&id.0).cloned();
        let manifest = found.ok_or(Error::NoSuchSnapshot { id })?;
        let held = match planted("reader_holds_nothing") {
            true => Held::Chunks(Vec::new()),
            false => {
                state.index.hold_all(&manifest);
                Held::Manifest(manifest.clone())
            }
        };
        drop(state);
        let lengths = manifest.chunks().iter().map(|chunk| u64::from(chunk.bytes));
        let ends = lengths.scan(0, |end, bytes| {
            *end += bytes;
            Some(*end)
        });
        Ok(SnapshotReader {
            id,
            ends: ends.collect(),
            position: 0,
            chunk: None,
            pin: Pin { store, held },
            manifest,
        })
    }

    /// What the snapshot consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What is left of the chunk at the position; empty at the end.
    fn rest(&mut self) -> Result<&[u8]> {
        let at = self.ends.partition_point(|end| *end <= self.position);
        if at == self.ends.len() {
            return Ok(&[]);
        }
        if self.chunk.as_ref().is_none_or(|(held, _)| *held != at) {
            let ChunkRef { name, bytes } = self.manifest.chunks()[at];
            let snapshot = Some(self.id);
            let chunk = self.pin.store.chunk(name, snapshot)?;
            if chunk.len() != bytes as usize {
                // The manifest lies: there is no such chunk.
                return Err(Error::MissingChunk { snapshot, name });
            }
            self.chunk = Some((at, chunk));
        }
        let start = self.ends[at] - u64::from(self.manifest.chunks()[at].bytes);
        let chunk = self.chunk.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        Ok(chunk.get((self.position - start) as usize..).unwrap_or(&[]))
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.rest()?;
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        self.position += len as u64;
        Ok(len)
    }
}

impl Seek for SnapshotReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => self.manifest.bytes().checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
