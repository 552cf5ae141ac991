//! Which chunks are needed, and where each is.
//!
//! # Invariants
//!
//! * A chunk has an entry as long as something holds it: a kept snapshot, a writer, a reader or an install. What has no
//!   entry may be given back.
//! * A chunk that lies in several files is taken from the one with the highest number. A copy is given back only when nothing
//!   holds the chunk, and whoever needs it later writes it anew, into a file that gets its number later: so the copy with
//!   the highest number is whole, and a file need not say where it has holes. But an install needs chunks before they are
//!   written, and after a crash only that is known: so then what it alone needs of older files is read.

use std::collections::HashMap;

use crate::canary::planted;
use crate::chunk::ChunkName;
use crate::format::{Row, chunk_space};
use crate::manifest::Manifest;

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of its file.
    pub(crate) file: u64,
    /// Of its record.
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
}

impl Place {
    pub(crate) fn row(&self, name: ChunkName) -> Row {
        Row {
            name,
            offset: self.offset,
            bytes: self.bytes,
        }
    }
}

#[derive(Debug, Default)]
struct Entry {
    holders: u32,
    /// `None`: it is missing.
    place: Option<Place>,
}

#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: HashMap<ChunkName, Entry>,
    /// What is needed of each file, in bytes.
    live: HashMap<u64, u64>,
}

impl Index {
    /// Where a chunk is that something holds.
    pub(crate) fn find(&self, name: &ChunkName) -> Option<Place> {
        self.entries.get(name)?.place
    }

    pub(crate) fn is_held(&self, name: &ChunkName) -> bool {
        self.entries.contains_key(name)
    }

    pub(crate) fn hold(&mut self, name: ChunkName) {
        self.entries.entry(name).or_default().holders += 1;
    }

    /// One holder less.
    pub(crate) fn release(&mut self, name: &ChunkName) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        entry.holders -= 1;
        if entry.holders == 0 {
            let gone = self.entries.remove(name).and_then(|entry| entry.place);
            gone.into_iter().for_each(|place| self.discount(place));
        }
    }

    pub(crate) fn hold_all(&mut self, manifest: &Manifest) {
        for chunk in manifest.chunks() {
            self.hold(chunk.name);
        }
    }

    pub(crate) fn release_all(&mut self, manifest: &Manifest) {
        for chunk in manifest.chunks() {
            self.release(&chunk.name);
        }
    }

    /// A chunk is there now. It counts if something holds it, and if it is not in a file of a higher number already.
    pub(crate) fn put(&mut self, name: &ChunkName, place: Place) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let is_newer = |before: Place| before.file <= place.file && !planted("oldest_copy");
        if entry.place.is_none_or(is_newer) {
            let before = entry.place.replace(place);
            before.into_iter().for_each(|before| self.discount(before));
            self.count(place);
        }
    }

    /// Whether something but one holder of `manifest` needs chunks that lie in `file`.
    pub(crate) fn is_shared(&self, file: u64, manifest: &Manifest) -> bool {
        let mut held: HashMap<ChunkName, u32> = HashMap::new();
        for chunk in manifest.chunks() {
            *held.entry(chunk.name).or_default() += 1;
        }
        let mut needed_here = self.entries.iter().filter(|(_, entry)| {
            let place = entry.place;
            place.is_some_and(|place| place.file == file)
        });
        needed_here.any(|(name, entry)| held.get(name).is_none_or(|held| entry.holders > *held))
    }

    /// A chunk is not where it was said to be: it is missing.
    pub(crate) fn lose(&mut self, name: &ChunkName) {
        let entry = self.entries.get_mut(name);
        let gone = entry.and_then(|entry| entry.place.take());
        gone.into_iter().for_each(|place| self.discount(place));
    }

    /// The same for all chunks of a manifest that are in `file`.
    pub(crate) fn lose_all_in(&mut self, file: u64, manifest: &Manifest) {
        for chunk in manifest.chunks() {
            if self
                .find(&chunk.name)
                .is_some_and(|place| place.file == file)
            {
                self.lose(&chunk.name);
            }
        }
    }

    fn count(&mut self, place: Place) {
        *self.live.entry(place.file).or_default() += chunk_space(place.bytes);
    }

    fn discount(&mut self, place: Place) {
        if let Some(live) = self.live.get_mut(&place.file) {
            *live -= chunk_space(place.bytes);
            if *live == 0 {
                self.live.remove(&place.file);
            }
        }
    }

    /// What is needed of a file, in bytes, the rows of its table reckoned in.
    pub(crate) fn live(&self, file: u64) -> u64 {
        self.live.get(&file).copied().unwrap_or(0)
    }

    /// All chunks that are somewhere.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ChunkName, Place)> + '_ {
        let entries = self.entries.iter();
        entries.filter_map(|(name, entry)| Some((*name, entry.place?)))
    }

    /// The different chunks of a manifest that are missing. Also one of which the manifest tells another length: a peer may
    /// lie, and a snapshot with it would be read wrong.
    pub(crate) fn missing(&self, manifest: &Manifest) -> Vec<ChunkName> {
        let mut missing: Vec<ChunkName> = manifest
            .chunks()
            .iter()
            .filter(|chunk| {
                let place = self.find(&chunk.name);
                place.is_none_or(|place| place.bytes != chunk.bytes)
            })
            .map(|chunk| chunk.name)
            .collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }
}
