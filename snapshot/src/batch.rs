//! Chunks on their way to a snapshot: many are cut, then named, then written; naming may be left to another thread.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::{io, mem, thread};

use crate::chunk::{ChunkName, Cutter};

/// Bytes, the chunks they were cut into, and the names of these.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Where each chunk ends in `bytes`.
    ends: Vec<usize>,
    names: Vec<ChunkName>,
}

/// So many bytes are cut at a time: few enough to stay in a processor's cache until they are named and written.
const CUT_BYTES: usize = 256 << 10;

impl Batch {
    /// Takes what there is room for, and says how much that is: nothing when it is time to cut.
    pub(crate) fn fill(&mut self, bytes: &[u8], cutter: Cutter) -> usize {
        let room = cutter.max() + CUT_BYTES - self.bytes.len();
        let taken = bytes.len().min(room);
        self.bytes.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// Cuts chunks as long as more than `left` bytes follow, and moves what is left to `next`, which is empty.
    pub(crate) fn cut(&mut self, cutter: Cutter, left: usize, next: &mut Batch) {
        let mut end = 0;
        while self.bytes.len() - end > left {
            end += cutter.cut(&self.bytes[end..]);
            self.ends.push(end);
        }
        next.bytes.extend_from_slice(&self.bytes[end..]);
    }

    pub(crate) fn name(&mut self) {
        let mut start = 0;
        for &end in &self.ends {
            self.names.push(ChunkName::of(&self.bytes[start..end]));
            start = end;
        }
    }

    /// The chunks, each with its name.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (ChunkName, &[u8])> {
        let mut start = 0;
        self.ends.iter().zip(&self.names).map(move |(&end, name)| {
            let chunk = &self.bytes[start..end];
            start = end;
            (*name, chunk)
        })
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.names.clear();
    }
}

/// A thread that names batches while the next one is cut, and the one before is written. It ends when this is dropped.
///
/// It touches no disk, and a batch comes back when the next one is given: what is written, and when, does not depend on it.
pub(crate) struct Namer {
    cut: SyncSender<Batch>,
    named: Receiver<Batch>,
    has_one: bool,
}

impl Namer {
    pub(crate) fn start() -> io::Result<Namer> {
        let (cut, to_name) = sync_channel::<Batch>(1);
        let (done, named) = sync_channel(1);
        let name = move || {
            for mut batch in to_name {
                batch.name();
                if done.send(batch).is_err() {
                    return; // The writer is gone.
                }
            }
        };
        let thread = thread::Builder::new().name("duramen-snapshot".to_owned());
        thread.spawn(name)?;
        Ok(Namer {
            cut,
            named,
            has_one: false,
        })
    }

    /// Takes a batch, and gives the one before, named.
    pub(crate) fn swap(&mut self, batch: Batch) -> Option<Batch> {
        self.cut.send(batch).expect(STAYS);
        mem::replace(&mut self.has_one, true).then(|| self.named.recv().expect(STAYS))
    }

    /// Gives the last one.
    pub(crate) fn last(&mut self) -> Option<Batch> {
        mem::take(&mut self.has_one).then(|| self.named.recv().expect(STAYS))
    }
}

const STAYS: &str = "hashing does not panic, and the thread stays as long as the channel";

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;
    use std::sync::Arc;

    use duramen_disk::{Disk, SimDisk};

    use super::*;
    use crate::{Meta, Options, SnapshotStore};

    fn noise(bytes: usize) -> Vec<u8> {
        let mut hash = blake3::Hasher::new().finalize_xof();
        let mut noise = vec![0; bytes];
        hash.fill(&mut noise);
        noise
    }

    /// The bytes of the file to which `state` is written, so many bytes at a time.
    fn file(state: &[u8], piece_bytes: usize, hash_ahead: bool) -> Vec<u8> {
        let options = Options {
            chunk_bytes: 4096,
            hash_ahead,
            ..Options::default()
        };
        let disk = SimDisk::new();
        let store = SnapshotStore::open_on(Arc::new(disk.clone()), "/store", options).unwrap();
        let mut writer = store.begin(Meta::new(1, 1)).unwrap();
        for piece in state.chunks(piece_bytes) {
            writer.write_all(piece).unwrap();
        }
        let published = writer.publish().unwrap();
        assert_eq!(published.counts.bytes_in, state.len() as u64);
        let path = Path::new("/store").join(format!("{:016x}.snap", published.id.0));
        let mut bytes = vec![0; published.counts.file_bytes as usize];
        let file = disk.open(&path).unwrap();
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn neither_pieces_nor_a_thread_change_what_is_written() {
        for bytes in [0, 1, 16 << 10, CUT_BYTES + (16 << 10), 3_000_000] {
            let state = noise(bytes);
            let whole = file(&state, usize::MAX, false);
            assert!(whole == file(&state, 1000, false), "{bytes} in pieces");
            assert!(whole == file(&state, 1000, true), "{bytes} ahead");
            assert!(whole == file(&state, usize::MAX, true), "{bytes} ahead");
        }
    }

    #[test]
    fn a_batch_comes_back_when_the_next_is_given() {
        let cutter = Cutter::new(4096);
        let batch = |bytes: &[u8]| {
            let mut batch = Batch::default();
            assert_eq!(batch.fill(bytes, cutter), bytes.len());
            batch.cut(cutter, 0, &mut Batch::default());
            batch
        };
        let mut namer = Namer::start().unwrap();
        assert!(namer.last().is_none());
        assert!(namer.swap(batch(b"one")).is_none());
        let one = namer.swap(batch(b"two")).unwrap();
        let two = namer.last().unwrap();
        for (batch, bytes) in [(one, &b"one"[..]), (two, b"two")] {
            let chunks: Vec<_> = batch.chunks().collect();
            assert_eq!(chunks, [(ChunkName::of(bytes), bytes)]);
        }
    }
}
