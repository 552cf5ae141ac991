//! The bytes of one simulated file.
//!
//! Invariants:
//! * `cache` is what every read sees, `media` is what a power cut shows.
//! * A sector that is not `dirty` is equal in both, but where something went wrong: a failed sync dropped it, its write
//!   was lost or misdirected, or the media was spoiled under it. No later sync writes it unless it is written again.
//! * `lens` holds every length the file had since `media`'s became durable.
//! * `clock` grows with every change, so that a sync that is under way knows what came after it began.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::Fate;
use super::image::{Image, SECTOR_BYTES, Sector, sectors, whole_sectors};
use super::names::FileId;

#[derive(Debug, Clone, Default)]
pub(super) struct FileBytes {
    cache: Image,
    media: Image,
    /// Of each sector what the media held before it was last written there.
    older: Image,
    dirty: BTreeMap<usize, Dirty>,
    lens: Vec<(u64, usize)>,
    clock: u64,
    /// Sectors that cannot be read, as the cache knows them, and on the media.
    bad: BTreeSet<usize>,
    bad_on_media: BTreeSet<usize>,
    astray: BTreeMap<usize, Astray>,
    /// Whole sectors that take no space.
    holes: BTreeSet<usize>,
    /// Whether a clean sector may differ between cache and media.
    diverged: bool,
}

/// When an unsynced sector was changed.
#[derive(Debug, Clone, Copy)]
struct Dirty {
    first: u64,
    last: u64,
}

/// Where a sector goes when it is written to the media, if not to its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Astray {
    Lost,
    /// So many sectors further on, in that file.
    To(FileId, isize),
}

/// A sync that has begun: what it promises to make durable.
#[derive(Debug)]
pub(super) struct Begun {
    clock: u64,
    cache: Image,
}

/// A sector that the disk wrote in the wrong place.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) file: FileId,
    pub(super) sector: usize,
    pub(super) bytes: Sector,
}

/// The sector cannot be read.
#[derive(Debug)]
pub(super) struct BadSector;

impl FileBytes {
    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }

    pub(super) fn used_bytes(&self) -> u64 {
        (self.len() - self.hole_bytes(0..self.len())) as u64
    }

    /// How many of these bytes take no space.
    fn hole_bytes(&self, bytes: Range<usize>) -> usize {
        let holes = self.holes.range(sectors(bytes));
        holes.map(|&sector| extent(sector, self.len()).len()).sum()
    }

    /// How much space it takes to write these bytes, or to reserve them.
    pub(super) fn growth(&self, bytes: Range<usize>) -> u64 {
        let inside = bytes.start.min(self.len())..bytes.end.min(self.len());
        (bytes.end.saturating_sub(self.len()) + self.hole_bytes(inside)) as u64
    }

    /// Reads up to the first bad sector.
    pub(super) fn read(&self, buf: &mut [u8], offset: usize) -> Result<usize, BadSector> {
        let end = self.len().min(offset.saturating_add(buf.len()));
        let bad = match self.bad.is_empty() || offset >= end {
            true => None,
            false => self.bad.range(sectors(offset..end)).next(),
        };
        match bad {
            None => Ok(self.cache.read(buf, offset)),
            Some(&sector) if sector * SECTOR_BYTES > offset => {
                let n = sector * SECTOR_BYTES - offset;
                Ok(self.cache.read(&mut buf[..n], offset))
            }
            Some(_) => Err(BadSector),
        }
    }

    /// A bad sector is mended by writing all of it; a part cannot be written, since the rest would have to be read.
    pub(super) fn write(&mut self, buf: &[u8], offset: usize) -> Result<(), BadSector> {
        if buf.is_empty() {
            return Ok(());
        }
        let end = offset + buf.len();
        let touched = sectors(offset..end);
        if !self.bad.is_empty() {
            let whole = whole_sectors(offset..end, self.len().max(end));
            let part = |sector: &&usize| !whole.contains(sector);
            if self.bad.range(touched.clone()).any(|bad| part(&bad)) {
                return Err(BadSector);
            }
            self.bad.retain(|bad| !touched.contains(bad));
        }
        if end > self.len() {
            self.set_len(end);
        }
        self.cache.write(buf, offset);
        self.touch(touched);
        Ok(())
    }

    pub(super) fn set_len(&mut self, len: usize) {
        let before = self.len();
        if len == before {
            return;
        }
        self.cache.set_len(len);
        self.clock += 1;
        self.lens.push((self.clock, len));
        if len > before {
            // Where the media has nothing, a longer length is all that zeros need.
            self.touch(sectors(before..len.min(self.media.len())));
        } else {
            // What was to be written behind the cut never will be.
            let behind = len.div_ceil(SECTOR_BYTES);
            self.dirty.split_off(&behind);
            self.astray.split_off(&behind);
            self.holes.split_off(&behind);
            self.bad.split_off(&behind);
        }
    }

    /// Space for all of it, holes too.
    pub(super) fn allocate(&mut self, len: usize) {
        if len > self.len() {
            self.set_len(len);
        }
        self.holes = self.holes.split_off(&len.div_ceil(SECTOR_BYTES));
    }

    pub(super) fn punch_hole(&mut self, bytes: Range<usize>) {
        let bytes = bytes.start..bytes.end.min(self.len());
        if bytes.is_empty() {
            return;
        }
        self.cache.fill_zeros(bytes.clone());
        self.touch(sectors(bytes.clone()));
        for sector in whole_sectors(bytes, self.len()) {
            self.holes.insert(sector);
            self.bad.remove(&sector);
        }
    }

    fn touch(&mut self, touched: Range<usize>) {
        self.clock += 1;
        let last = self.clock;
        for sector in touched {
            self.dirty
                .entry(sector)
                .and_modify(|dirty| dirty.last = last)
                .or_insert(Dirty { first: last, last });
            self.holes.remove(&sector);
        }
    }

    /// The sectors of these bytes go astray when they are next written to the media.
    pub(super) fn lead_astray(&mut self, bytes: Range<usize>, astray: Astray) {
        for sector in sectors(bytes) {
            self.astray.insert(sector, astray);
        }
    }

    pub(super) fn begin_sync(&self) -> Begun {
        Begun {
            clock: self.clock,
            cache: self.cache.clone(),
        }
    }

    /// Brings to the media what was there when the sync began. Gives what the disk wrote in the wrong place.
    pub(super) fn sync(&mut self, begun: &Begun) -> Vec<Stray> {
        let mut strays = Vec::new();
        if self.media.len() != begun.cache.len() {
            self.media.set_len(begun.cache.len());
        }
        self.lens.retain(|(clock, _)| *clock > begun.clock);
        let written: Vec<usize> = self.take_dirty(begun);
        for sector in written {
            let bytes = *begun.cache.sector(sector);
            let astray = self.astray.remove(&sector);
            self.diverged |= astray.is_some();
            match astray {
                None => {
                    self.write_media(sector, &bytes);
                    let clean = !self.dirty.contains_key(&sector);
                    assert!(
                        !clean || self.media.sector(sector) == self.cache.sector(sector),
                        "sector {sector} is clean and differs"
                    );
                }
                Some(Astray::Lost) => {}
                Some(Astray::To(file, by)) => {
                    let Some(sector) = sector.checked_add_signed(by) else {
                        continue;
                    };
                    strays.push(Stray {
                        file,
                        sector,
                        bytes,
                    });
                }
            }
        }
        strays
    }

    /// The pages are marked clean. The length is not a page: it reaches the media with the next sync.
    pub(super) fn fail_sync(&mut self, begun: &Begun) {
        for sector in self.take_dirty(begun) {
            self.astray.remove(&sector);
            self.diverged = true;
        }
    }

    /// Takes the sectors that were dirty when the sync began. One that was changed since stays dirty as well.
    fn take_dirty(&mut self, begun: &Begun) -> Vec<usize> {
        let mut taken = Vec::with_capacity(self.dirty.len());
        self.dirty.retain(|&sector, dirty| {
            if dirty.first > begun.clock {
                return true;
            }
            taken.push(sector);
            dirty.first = begun.clock + 1;
            dirty.last > begun.clock
        });
        taken
    }

    /// A sector that was meant for another place. The cache does not see it.
    pub(super) fn take_stray(&mut self, sector: usize, bytes: &Sector) {
        self.write_media(sector, bytes);
        self.diverged = true;
    }

    fn write_media(&mut self, sector: usize, bytes: &Sector) {
        if self.older.len() < self.media.len() {
            self.older.set_len(self.media.len());
        }
        self.older.set_sector(sector, self.media.sector(sector));
        self.media.set_sector(sector, bytes);
        self.bad_on_media.remove(&sector);
    }

    pub(super) fn make_bad(&mut self, bytes: Range<usize>) {
        self.diverged = true;
        for sector in sectors(bytes.start..bytes.end.min(self.len())) {
            self.bad_on_media.insert(sector);
            if !self.dirty.contains_key(&sector) {
                self.bad.insert(sector);
            }
        }
    }

    /// Flips a bit on the media. It shows at once unless a newer sector waits to be written over it.
    pub(super) fn flip(&mut self, offset: usize, bit: u8) {
        assert!(
            offset < self.media.len(),
            "{offset} is past the durable end"
        );
        let mut bytes = *self.media.sector(offset / SECTOR_BYTES);
        bytes[offset % SECTOR_BYTES] ^= 1 << bit;
        self.media.set_sector(offset / SECTOR_BYTES, &bytes);
        self.diverged = true;
        self.reread(offset / SECTOR_BYTES);
    }

    /// The media goes back to what it held before each sector's last write.
    pub(super) fn make_stale(&mut self, bytes: Range<usize>) {
        for sector in sectors(bytes.start..bytes.end.min(self.media.len())) {
            let older = *self.older.sector(sector);
            self.diverged = true;
            self.media.set_sector(sector, &older);
            self.reread(sector);
        }
    }

    /// Clean pages leave the cache and are read from the media again.
    pub(super) fn evict(&mut self) {
        for sector in sectors(0..self.len()) {
            self.reread(sector);
        }
        self.bad.extend(
            self.bad_on_media
                .difference(&self.dirty.keys().copied().collect()),
        );
    }

    fn reread(&mut self, sector: usize) {
        if !self.dirty.contains_key(&sector) {
            self.cache.set_sector(sector, self.media.sector(sector));
        }
    }

    /// Whether a power cut changes anything.
    pub(super) fn is_exposed(&self) -> bool {
        self.diverged || self.is_unsynced()
    }

    /// Whether a sync would change anything.
    pub(super) fn is_unsynced(&self) -> bool {
        !self.dirty.is_empty() || !self.lens.is_empty()
    }

    /// What a power cut keeps or loses on its own, in the order in which [`FileBytes::keep`] asks: the length, then the
    /// sectors that would be seen to change.
    pub(super) fn units(&self) -> (bool, impl Iterator<Item = usize>) {
        let changed = |&sector: &usize| {
            !self.astray.contains_key(&sector)
                && self.cache.sector(sector) != self.media.sector(sector)
        };
        let sectors = self.dirty.keys().copied().filter(changed);
        (self.len() != self.media.len(), sectors)
    }

    /// A power cut that keeps of each unit what `keep` says. `false`: another answer leaves the same.
    pub(super) fn keep(&mut self, mut keep: impl FnMut() -> bool) -> bool {
        let (has_len, units) = self.units();
        let units: Vec<usize> = units.collect();
        let mut left = self.media.clone();
        if has_len && keep() {
            left.set_len(self.len());
        }
        let mut distinct = true;
        let mut bad = self.bad_on_media.clone();
        for sector in units {
            if !keep() {
                continue;
            }
            distinct &= sector * SECTOR_BYTES < left.len();
            left.set_sector(sector, self.cache.sector(sector));
            bad.remove(&sector);
        }
        self.restart(left, bad);
        distinct
    }

    /// What is left when the power goes: the media, and of each unsynced sector what `fate` leaves of it.
    pub(super) fn power_cut(&mut self, fate: &mut Fate) {
        let (_, units) = self.units();
        let units: Vec<usize> = units.collect();
        let mut left = self.media.clone();
        left.set_len(self.len().max(self.media.len()));
        let mut bad = self.bad_on_media.clone();
        fate.next_file();
        for sector in units {
            let mut bytes = *left.sector(sector);
            let n = extent(sector, self.len()).len();
            if fate.sector(&mut bytes[..n], &self.cache.sector(sector)[..n]) {
                bad.remove(&sector);
            }
            left.set_sector(sector, &bytes);
        }
        let since: Vec<usize> = self.lens.iter().map(|(_, len)| *len).collect();
        left.set_len(fate.len(self.media.len(), &since));
        self.restart(left, bad);
    }

    fn restart(&mut self, left: Image, mut bad: BTreeSet<usize>) {
        bad.split_off(&left.len().div_ceil(SECTOR_BYTES));
        self.holes.split_off(&left.len().div_ceil(SECTOR_BYTES));
        *self = FileBytes {
            cache: left.clone(),
            media: left,
            older: std::mem::take(&mut self.older),
            bad: bad.clone(),
            bad_on_media: bad,
            holes: std::mem::take(&mut self.holes),
            ..FileBytes::default()
        };
    }
}

fn extent(sector: usize, file_bytes: usize) -> Range<usize> {
    let start = (sector * SECTOR_BYTES).min(file_bytes);
    start..(start + SECTOR_BYTES).min(file_bytes)
}
