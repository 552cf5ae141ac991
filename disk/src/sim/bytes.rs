//! The bytes of one simulated file.
//!
//! Invariants:
//! * `cache` is what every read sees, `media` is what a power cut shows.
//! * A sector that is not `dirty` is equal in both, but for sectors that a failed sync dropped: there `media` is older,
//!   and no later sync will write them unless they are written again.
//! * `lens` holds every length the file had since `media`'s became durable.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Fate;

/// What a disk writes whole or tears.
pub(super) const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone, Default)]
pub(super) struct FileBytes {
    cache: Vec<u8>,
    media: Vec<u8>,
    dirty: BTreeSet<usize>,
    lens: Vec<usize>,
}

impl FileBytes {
    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: usize) -> usize {
        let from = offset.min(self.cache.len());
        let len = buf.len().min(self.cache.len() - from);
        buf[..len].copy_from_slice(&self.cache[from..from + len]);
        len
    }

    pub(super) fn write(&mut self, buf: &[u8], offset: usize) {
        if buf.is_empty() {
            return;
        }
        let end = offset + buf.len();
        if end > self.cache.len() {
            self.set_len(end);
        }
        self.cache[offset..end].copy_from_slice(buf);
        self.touch(offset..end);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        let before = self.cache.len();
        if len == before {
            return;
        }
        self.cache.resize(len, 0);
        self.lens.push(len);
        if len > before {
            self.touch(before..len);
        } else {
            // What was to be written behind the cut never will be.
            self.dirty.split_off(&len.div_ceil(SECTOR_BYTES));
        }
    }

    fn touch(&mut self, bytes: Range<usize>) {
        self.dirty
            .extend(bytes.start / SECTOR_BYTES..bytes.end.div_ceil(SECTOR_BYTES));
    }

    pub(super) fn sync(&mut self) {
        self.media.resize(self.cache.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let at = extent(sector, self.cache.len());
            self.media[at.clone()].copy_from_slice(&self.cache[at]);
        }
        self.lens.clear();
    }

    /// The pages are marked clean. The length is not a page: it reaches the media with the next sync.
    pub(super) fn fail_sync(&mut self) {
        self.dirty.clear();
    }

    /// What is left when the power goes: the media, and of each unsynced sector what `fate` leaves of it.
    pub(super) fn power_cut(&mut self, fate: &mut Fate) {
        let longest = self.cache.len().max(self.media.len());
        let mut left = self.media.clone();
        left.resize(longest, 0);
        fate.next_file();
        for &sector in &self.dirty {
            let at = extent(sector, self.cache.len());
            fate.sector(&mut left[at.clone()], &self.cache[at]);
        }
        left.resize(fate.len(self.media.len(), &self.lens), 0);
        *self = FileBytes {
            cache: left.clone(),
            media: left,
            ..FileBytes::default()
        };
    }
}

fn extent(sector: usize, file_bytes: usize) -> Range<usize> {
    let start = (sector * SECTOR_BYTES).min(file_bytes);
    start..(start + SECTOR_BYTES).min(file_bytes)
}
