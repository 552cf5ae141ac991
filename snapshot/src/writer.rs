//! Writing a snapshot.

use std::collections::HashSet;
use std::io::{self, Write};
use std::mem;
use std::sync::Arc;

use crate::SnapshotId;
use crate::batch::{Batch, Namer};
use crate::chunk::{ChunkName, Cutter};
use crate::codec::{self, META_BYTES_MAX};
use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::format::CHUNKS_MAX;
use crate::manifest::{ChunkRef, Manifest, Meta};
use crate::names::Role;
use crate::store::{Held, Pin, Store};

/// A snapshot that is being written: the state machine's bytes go in with [`Write`], and are there when
/// [`publish`](SnapshotWriter::publish) has returned. Dropped before that, it leaves nothing.
///
/// Chunks that the store holds are pinned and referred to; the others go to a temporary file, in pieces of 256 KiB.
pub struct SnapshotWriter {
    draft: Draft,
    meta: Meta,
    cutter: Cutter,
    /// What is not cut yet.
    batch: Batch,
    /// An empty one, for its memory.
    spare: Batch,
    namer: Option<Namer>,
    chunks: Vec<ChunkRef>,
    /// What is in the draft.
    own: HashSet<ChunkName>,
    counts: Counts,
    /// After an error nothing is written any more.
    failed: Option<Error>,
    pin: Pin,
}

/// What a snapshot cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// What was written to the writer, in bytes.
    pub bytes_in: u64,
    /// What of it went to the disk, in bytes of chunks.
    pub bytes_written: u64,
    /// What of it was there already, in bytes of chunks.
    pub bytes_shared: u64,
    /// The length of the snapshot's file, manifest and all; 0 before it is published.
    pub file_bytes: u64,
}

/// A snapshot that is there.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Published {
    /// Which one.
    pub id: SnapshotId,
    /// What it consists of.
    pub manifest: Manifest,
    /// What it cost.
    pub counts: Counts,
}

impl SnapshotWriter {
    pub(crate) fn begin(store: Arc<Store>, meta: Meta) -> Result<SnapshotWriter> {
        if codec::encode(&meta).len() > META_BYTES_MAX {
            return Err(TOO_LARGE);
        }
        let cutter = Cutter::new(store.options.chunk_bytes);
        let namer = store.options.hash_ahead.then(Namer::start).transpose();
        let namer = namer.map_err(Error::io("start a thread for", &store.dir))?;
        Ok(SnapshotWriter {
            draft: store.draft()?,
            meta,
            cutter,
            batch: Batch::default(),
            spare: Batch::default(),
            namer,
            chunks: Vec::new(),
            own: HashSet::new(),
            counts: Counts::default(),
            failed: None,
            pin: Pin {
                store,
                held: Held::Chunks(Vec::new()),
            },
        })
    }

    /// What it cost so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Makes the snapshot durable and visible, whole, in one step: on return it is there after any crash. If this fails the
    /// snapshots are as they were, or, after [`Error::Poisoned`] or [`Error::Io`], the next open tells.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`], [`Error::Poisoned`]; what an earlier write said.
    pub fn publish(mut self) -> Result<Published> {
        self.cut(0)?;
        if let Some(last) = self.namer.as_mut().and_then(Namer::last) {
            self.put_all(&last)?;
        }
        let chunks = mem::take(&mut self.chunks);
        let meta = mem::take(&mut self.meta);
        let manifest = Manifest::new(meta, self.cutter.average(), chunks);
        self.draft.put_manifest(&manifest)?;
        self.draft.end_file()?;
        let store = self.pin.store.clone();
        let mut changes = store.changes()?;
        store.sync_installs(&manifest)?;
        let number = store.publish(
            &mut changes,
            &mut self.draft,
            Role::Snapshot,
            Some(manifest.clone()),
        )?;
        self.counts.file_bytes = self.draft.end();
        Ok(Published {
            id: SnapshotId(number),
            manifest,
            counts: self.counts,
        })
    }

    /// Cuts chunks off what was written, as long as more than `left` bytes follow, and sees to it that they get their names
    /// and are put.
    fn cut(&mut self, left: usize) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut batch = mem::replace(&mut self.batch, mem::take(&mut self.spare));
        batch.cut(self.cutter, left, &mut self.batch);
        let named = match &mut self.namer {
            Some(namer) => namer.swap(batch),
            None => {
                batch.name();
                Some(batch)
            }
        };
        if let Some(mut named) = named {
            self.put_all(&named)?;
            named.clear();
            self.spare = named;
        }
        Ok(())
    }

    fn put_all(&mut self, batch: &Batch) -> Result<()> {
        for (name, bytes) in batch.chunks() {
            let put = self.put(name, bytes);
            put.inspect_err(|error| self.failed = Some(error.clone()))?;
        }
        Ok(())
    }

    fn put(&mut self, name: ChunkName, bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u32;
        if self.own.contains(&name) || self.share(name) {
            self.counts.bytes_shared += u64::from(len);
        } else {
            self.draft.put_chunk(name, bytes)?;
            self.own.insert(name);
            self.counts.bytes_written += u64::from(len);
        }
        push(&mut self.chunks, ChunkRef { name, bytes: len }, CHUNKS_MAX)
    }

    /// Refers to a chunk that is there, if it is.
    fn share(&mut self, name: ChunkName) -> bool {
        let Pin { store, held } = &mut self.pin;
        let mut state = store.state();
        if state.index.find(&name).is_none() {
            return false;
        }
        state.index.hold(name);
        if let Held::Chunks(names) = held {
            names.push(name);
        }
        true
    }
}

const TOO_LARGE: Error = Error::TooLarge {
    chunks: CHUNKS_MAX,
    meta_bytes: META_BYTES_MAX,
};

fn push(chunks: &mut Vec<ChunkRef>, chunk: ChunkRef, max: usize) -> Result<()> {
    if chunks.len() >= max {
        return Err(TOO_LARGE);
    }
    chunks.push(chunk);
    Ok(())
}

impl Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = self.batch.fill(bytes, self.cutter);
        if taken < bytes.len() {
            self.cut(self.cutter.max())?;
            taken += self.batch.fill(&bytes[taken..], self.cutter);
        }
        self.counts.bytes_in += taken as u64;
        Ok(taken)
    }

    /// Does nothing: there is nothing between before and after [`publish`](SnapshotWriter::publish).
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use duramen_disk::SimDisk;

    use super::*;
    use crate::{Options, SnapshotStore};

    /// It was published, and no open found its manifest again.
    #[test]
    fn what_could_not_be_found_again_is_refused() {
        let disk = Arc::new(SimDisk::new());
        let store = SnapshotStore::open_on(disk, "/store", Options::default()).unwrap();
        let mut meta = Meta::new(1, 1);
        meta.extra = vec![0; META_BYTES_MAX - 8]; // The rest takes 8 bytes.
        let fits = store.begin(meta.clone()).unwrap().publish().unwrap();
        assert!(Manifest::decode(&fits.manifest.encode()).is_ok());
        meta.extra.push(0);
        assert!(matches!(store.begin(meta), Err(Error::TooLarge { .. })));

        let name = ChunkName::of(b"x");
        let mut chunks = Vec::new();
        assert!(push(&mut chunks, ChunkRef { name, bytes: 1 }, 1).is_ok());
        let second = push(&mut chunks, ChunkRef { name, bytes: 1 }, 1);
        assert!(matches!(second, Err(Error::TooLarge { .. })));
        assert_eq!(chunks.len(), 1);
    }
}
