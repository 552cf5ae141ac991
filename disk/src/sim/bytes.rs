//! The bytes of one simulated file.
//!
//! Invariants:
//! * `cache` is what every read sees, `media` is what a power cut shows.
//! * A sector that is not `dirty` is equal in both, but where something went wrong: a failed sync dropped it, its write
//!   was lost or misdirected, or the media was spoiled under it. No later sync writes it unless it is written again.
//! * `lens` holds every length the file had since `media`'s became durable.
//! * `former` holds what a sector was, unsynced, before it was changed again or cut off: the kernel may have written that.
//! * `clock` grows with every change, so that a sync that is under way knows what came after it began.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::Fate;
use super::holes::Holes;
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
    former: BTreeMap<usize, Vec<Former>>,
    clock: u64,
    /// When the sync began that made `media` what it is.
    synced: u64,
    /// Sectors that cannot be read, as the cache knows them, and on the media.
    bad: BTreeSet<usize>,
    bad_on_media: BTreeSet<usize>,
    astray: BTreeMap<usize, Astray>,
    /// Whole sectors that take no space, now and after a power cut.
    holes: Holes,
    holes_on_media: Holes,
    /// Whether a clean sector may differ between cache and media.
    diverged: bool,
}

/// When an unsynced sector was changed.
#[derive(Debug, Clone, Copy)]
struct Dirty {
    first: u64,
    last: u64,
}

/// What an unsynced sector was for a while.
#[derive(Debug, Clone)]
struct Former {
    /// When it became so.
    clock: u64,
    /// As far as the file went.
    bytes: Arc<[u8]>,
}

/// So many of them are remembered of each sector, the latest ones.
const FORMERS_MAX: usize = 3;

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
    holes: Holes,
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
        (self.len() - self.holes.bytes(0..usize::MAX, self.len())) as u64
    }

    /// How much space it takes to write these bytes, or to reserve them.
    pub(super) fn growth(&self, bytes: Range<usize>) -> u64 {
        let (before, after) = (self.len(), self.len().max(bytes.end));
        let gap = before.div_ceil(SECTOR_BYTES)..bytes.start / SECTOR_BYTES;
        let filled = self.holes.bytes(sectors(bytes), after);
        let holes = self.holes.bytes(0..usize::MAX, after) - filled + gap.len() * SECTOR_BYTES;
        (after - holes) as u64 - self.used_bytes()
    }

    /// How much space it takes to have this length: what is left of the last sector, if that takes any.
    pub(super) fn len_growth(&self, len: usize) -> u64 {
        let last = self.len() / SECTOR_BYTES;
        let end = self.len().next_multiple_of(SECTOR_BYTES);
        match self.holes.contains(last) {
            true => 0,
            false => len.min(end).saturating_sub(self.len()) as u64,
        }
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
        self.remember(touched.clone());
        self.cache.write(buf, offset);
        self.holes.remove(touched.clone());
        self.touch(touched);
        Ok(())
    }

    pub(super) fn set_len(&mut self, len: usize) {
        let before = self.len();
        if len == before {
            return;
        }
        let end = |len: usize| len.div_ceil(SECTOR_BYTES);
        if len < before {
            self.remember(len / SECTOR_BYTES..end(before));
            // What was to be written behind the cut never will be.
            self.dirty.split_off(&end(len));
            self.astray.split_off(&end(len));
            self.bad.split_off(&end(len));
            self.holes.remove(end(len)..usize::MAX);
        }
        self.cache.set_len(len);
        self.clock += 1;
        self.lens.push((self.clock, len));
        if len > before {
            // Where the media has nothing, a longer length is all that zeros need.
            self.touch(sectors(before..len.min(self.media.len())));
            self.holes.insert(end(before)..end(len));
        }
    }

    /// Space for all of it, holes too.
    pub(super) fn allocate(&mut self, len: usize) {
        if len > self.len() {
            self.set_len(len);
        }
        self.holes.remove(0..len.div_ceil(SECTOR_BYTES));
    }

    pub(super) fn punch_hole(&mut self, bytes: Range<usize>) {
        let bytes = bytes.start..bytes.end.min(self.len());
        if bytes.is_empty() {
            return;
        }
        self.remember(sectors(bytes.clone()));
        self.cache.fill_zeros(bytes.clone());
        self.touch(sectors(bytes.clone()));
        let whole = whole_sectors(bytes, self.len());
        self.bad.retain(|bad| !whole.contains(bad));
        self.holes.insert(whole);
    }

    /// These sectors are about to change: what is unsynced in them may be on the media already.
    fn remember(&mut self, sectors: Range<usize>) {
        for (&sector, dirty) in self.dirty.range(sectors) {
            if self.astray.contains_key(&sector)
                || self.cache.sector(sector) == self.media.sector(sector)
            {
                continue;
            }
            let bytes = &self.cache.sector(sector)[..extent(sector, self.cache.len()).len()];
            let former = self.former.entry(sector).or_default();
            if former.len() == FORMERS_MAX {
                former.remove(0);
            }
            former.push(Former {
                clock: dirty.last,
                bytes: bytes.into(),
            });
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
            holes: self.holes.clone(),
        }
    }

    /// Brings to the media what was there when the sync began. Gives what the disk wrote in the wrong place.
    pub(super) fn sync(&mut self, begun: &Begun) -> Vec<Stray> {
        let mut strays = Vec::new();
        if begun.clock < self.synced {
            return strays; // one that began later has ended, and made durable all that this one is about
        }
        self.synced = begun.clock;
        if self.media.len() != begun.cache.len() {
            self.media.set_len(begun.cache.len());
            let end = begun.cache.len().div_ceil(SECTOR_BYTES);
            self.bad_on_media.split_off(&end);
        }
        self.lens.retain(|(clock, _)| *clock > begun.clock);
        self.holes_on_media.clone_from(&begun.holes);
        // A sector that was cut off since is not dirty any more, and the cut may be lost.
        let cut = self.forget_former(begun);
        let mut written = self.take_dirty(begun);
        written.extend(&cut);
        for sector in written {
            let bytes = *begun.cache.sector(sector);
            let astray = self.astray.remove(&sector);
            self.diverged |= astray.is_some();
            match astray {
                None => {
                    self.write_media(sector, &bytes);
                    let clean = !cut.contains(&sector) && !self.dirty.contains_key(&sector);
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
        self.forget_former(begun);
        for sector in self.take_dirty(begun) {
            self.astray.remove(&sector);
            self.diverged = true;
        }
    }

    /// What was replaced before the sync began, or is what it writes, will not be written any more. Gives the sectors that
    /// are not dirty.
    fn forget_former(&mut self, begun: &Begun) -> BTreeSet<usize> {
        let mut forgotten = BTreeSet::new();
        self.former.retain(|&sector, former| {
            let before = former.len();
            former.retain(|former| former.clock > begun.clock);
            if former.len() < before && !self.dirty.contains_key(&sector) {
                forgotten.insert(sector);
            }
            !former.is_empty()
        });
        forgotten
    }

    /// Takes the sectors that were dirty when the sync began. One that was changed since stays dirty as well.
    fn take_dirty(&mut self, begun: &Begun) -> BTreeSet<usize> {
        let mut taken = BTreeSet::new();
        self.dirty.retain(|&sector, dirty| {
            if dirty.first > begun.clock {
                return true;
            }
            taken.insert(sector);
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
        let end = self.len().div_ceil(SECTOR_BYTES);
        let clean = |sector: &&usize| !self.dirty.contains_key(sector);
        self.bad
            .extend(self.bad_on_media.range(..end).filter(clean));
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
        !self.dirty.is_empty() || !self.lens.is_empty() || self.holes != self.holes_on_media
    }

    /// Whether a power cut may leave more than the [units](FileBytes::units) say: a length or a sector that was, for a
    /// while.
    pub(super) fn has_past(&self) -> bool {
        !self.former.is_empty() || self.lens.iter().any(|(_, len)| *len != self.media.len())
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
        let mut written = BTreeSet::new();
        for sector in units {
            if !keep() {
                continue;
            }
            distinct &= sector * SECTOR_BYTES < left.len();
            left.set_sector(sector, self.cache.sector(sector));
            bad.remove(&sector);
            written.insert(sector);
        }
        self.restart(left, bad, &written, true);
        distinct
    }

    /// What is left when the power goes: the media, and of each unsynced sector what `fate` leaves of it.
    pub(super) fn power_cut(&mut self, fate: &mut Fate) {
        let (_, units) = self.units();
        let units: BTreeSet<usize> = units.collect();
        let since: Vec<usize> = self.lens.iter().map(|(_, len)| *len).collect();
        let longest = since.iter().copied().max().unwrap_or(0);
        let mut left = self.media.clone();
        left.set_len(longest.max(self.len()).max(self.media.len()));
        let mut bad = self.bad_on_media.clone();
        let mut written = BTreeSet::new();
        fate.next_file();
        let former = self.former.keys().copied();
        for sector in units.iter().copied().chain(former).collect::<BTreeSet<_>>() {
            let n = extent(sector, self.len()).len();
            let latest = &self.cache.sector(sector)[..n];
            let former = self.former.get(&sector).into_iter().flatten();
            let mut versions: Vec<&[u8]> = former.map(|former| &*former.bytes).collect();
            if units.contains(&sector) {
                versions.push(latest);
            }
            let new = versions[fate.version(versions.len())];
            let mut bytes = *left.sector(sector);
            if fate.sector(&mut bytes[..new.len()], new) {
                bad.remove(&sector);
                written.insert(sector);
            }
            left.set_sector(sector, &bytes);
        }
        left.set_len(fate.len(self.media.len(), &since));
        let reserved = self.len() <= self.media.len() || fate.space();
        self.restart(left, bad, &written, reserved);
    }

    /// Begins the next life with what is left; `written` reached the media. `reserved`: space that was reserved along with
    /// an unsynced length is there if the length is.
    fn restart(
        &mut self,
        left: Image,
        mut bad: BTreeSet<usize>,
        written: &BTreeSet<usize>,
        reserved: bool,
    ) {
        let end = left.len().div_ceil(SECTOR_BYTES);
        bad.split_off(&end);
        let mut older = std::mem::take(&mut self.older);
        older.set_len(older.len().max(left.len()));
        for &sector in written {
            older.set_sector(sector, self.media.sector(sector));
        }
        let holes = self.holes_left(end, written, reserved);
        *self = FileBytes {
            cache: left.clone(),
            media: left,
            older,
            bad: bad.clone(),
            bad_on_media: bad,
            holes: holes.clone(),
            holes_on_media: holes,
            ..FileBytes::default()
        };
    }

    fn holes_left(&self, end: usize, written: &BTreeSet<usize>, reserved: bool) -> Holes {
        let durable = self.media.len().div_ceil(SECTOR_BYTES);
        let mut holes = self.holes_on_media.clone();
        holes.remove(end..usize::MAX);
        if reserved {
            // Beyond the durable length, what took space does so still.
            let known = end.min(self.len().div_ceil(SECTOR_BYTES));
            for hole in self.holes.within(durable..known) {
                holes.insert(hole);
            }
            holes.insert(durable.max(known)..end);
        } else {
            holes.insert(durable..end);
        }
        for &sector in written.range(..end) {
            match self.holes.contains(sector) {
                true => holes.insert(sector..sector + 1),
                false => holes.remove(sector..sector + 1),
            }
        }
        holes
    }
}

fn extent(sector: usize, file_bytes: usize) -> Range<usize> {
    let start = (sector * SECTOR_BYTES).min(file_bytes);
    start..(start + SECTOR_BYTES).min(file_bytes)
}
