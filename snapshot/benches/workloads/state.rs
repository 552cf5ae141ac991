//! The state that is written: keys in order, each with a value that nothing can guess; 256 bytes together.

use std::io::Write;

use duramen_snapshot::{Meta, Options, Published, SnapshotStore};

pub(crate) const RECORD_BYTES: usize = 256;
const KEY_BYTES: usize = 16;

/// A state is made and written in pieces of so many bytes.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// Which values are others than at first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changed {
    Nothing,
    /// Every hundredth, in one place.
    Local,
    /// Every hundredth, at random places.
    Random,
}

#[derive(Clone, Copy)]
pub(crate) struct State {
    pub(crate) bytes: u64,
    pub(crate) changed: Changed,
}

impl State {
    pub(crate) fn new(bytes: u64) -> State {
        State {
            bytes,
            changed: Changed::Nothing,
        }
    }

    fn records(self) -> u64 {
        self.bytes / RECORD_BYTES as u64
    }

    fn is_changed(self, record: u64) -> bool {
        let records = self.records();
        match self.changed {
            Changed::Nothing => false,
            Changed::Local => (records / 2..records / 2 + records / 100).contains(&record),
            Changed::Random => mix(record ^ 0x5eed).is_multiple_of(100),
        }
    }

    /// How many bytes are others than at first, the keys of those records reckoned in.
    pub(crate) fn changed_bytes(self) -> u64 {
        let changed = (0..self.records()).filter(|record| self.is_changed(*record));
        changed.count() as u64 * RECORD_BYTES as u64
    }

    /// Gives the state to `take`, piece by piece.
    pub(crate) fn pieces(self, mut take: impl FnMut(&[u8])) {
        let mut piece = vec![0; PIECE_BYTES];
        let per_piece = (PIECE_BYTES / RECORD_BYTES) as u64;
        for first in (0..self.records()).step_by(per_piece as usize) {
            let records = piece.chunks_exact_mut(RECORD_BYTES).zip(first..);
            records.for_each(|(buf, record)| self.record(record, buf));
            take(&piece);
        }
    }

    fn record(self, record: u64, buf: &mut [u8]) {
        let (mut key, value) = buf.split_at_mut(KEY_BYTES);
        write!(key, "key {record:012}").expect("a key of 16 bytes");
        let seed = mix(record << 1 | u64::from(self.is_changed(record)));
        for (word, n) in value.chunks_exact_mut(8).zip(1..) {
            word.copy_from_slice(&mix(seed.wrapping_add(n)).to_le_bytes());
        }
    }

    /// The whole of it, in memory.
    pub(crate) fn in_memory(self) -> Vec<u8> {
        let mut state = Vec::with_capacity(self.bytes as usize);
        self.pieces(|piece| state.extend_from_slice(piece));
        state
    }

    /// Writes it to a snapshot.
    pub(crate) fn publish(self, store: &SnapshotStore) -> Published {
        let mut writer = store.begin(Meta::new(1, 1)).expect("a snapshot");
        self.pieces(|piece| writer.write_all(piece).expect("a write"));
        writer.publish().expect("a snapshot")
    }
}

/// SplitMix64.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(crate) fn options(chunk_bytes: u32) -> Options {
    let mut options = Options::default();
    options.chunk_bytes = chunk_bytes;
    options
}
