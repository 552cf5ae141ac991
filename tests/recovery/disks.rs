//! What the disks say, whatever the nodes say.

use std::collections::{BTreeMap, BTreeSet};

use duramen::disk::SimDisk;
use duramen::raft::Membership;
use duramen::wal::LogId;

use super::damage::{Part, Place, bytes_of, files, is_of_log, parts};

/// A disk before anything was done to it.
#[derive(Debug)]
pub(crate) struct Whole {
    disk: SimDisk,
    payloads: Vec<(LogId, Place)>,
}

/// What was done to a disk.
#[derive(Debug, Default)]
pub(crate) struct Struck {
    /// Entries in the log whose bytes are not what they were, or cannot be read.
    pub(crate) payloads: BTreeSet<LogId>,
    /// Those of them that are memberships: a node has these in its own record, too.
    pub(crate) memberships: BTreeSet<LogId>,
    /// Entries in the log whose bytes are what they were.
    pub(crate) whole: BTreeSet<LogId>,
    /// Something else of the log.
    pub(crate) is_log_struck: bool,
    /// Something of the snapshots.
    pub(crate) are_snapshots_struck: bool,
}

const SECTOR_BYTES: u64 = 512;

impl Whole {
    pub(crate) fn new(disk: &SimDisk) -> Whole {
        let disk = disk.fork();
        let parts = parts(&disk).into_iter();
        let payloads = parts.filter_map(|place| match place.part {
            Part::Payload(id) => Some((id, place)),
            Part::Frame | Part::Seal => None,
        });
        Whole {
            payloads: payloads.collect(),
            disk,
        }
    }

    /// What was done to a copy of it.
    pub(crate) fn compare(&self, now: &SimDisk) -> Struck {
        let is_struck = |place: &Place| bytes_of(now, place) != bytes_of(&self.disk, place);
        let mut struck = Struck::default();
        for file in files(&self.disk) {
            if !is_struck(&file) {
                continue;
            }
            if !is_of_log(&file) {
                struck.are_snapshots_struck = true;
                continue;
            }
            let mut sectors = sectors(&file).filter(is_struck);
            struck.is_log_struck |= sectors.any(|sector| self.is_log(now, &sector));
        }
        // Where it was written last, it is read.
        let newest: BTreeMap<LogId, &Place> = self
            .payloads
            .iter()
            .map(|(id, place)| (*id, place))
            .collect();
        for (id, place) in newest {
            if !is_struck(place) {
                struck.whole.insert(id);
                continue;
            }
            struck.payloads.insert(id);
            let payload = bytes_of(&self.disk, place).unwrap();
            if Membership::decode(&payload).is_some() {
                struck.memberships.insert(id);
            }
        }
        struck
    }

    /// Whether these entries stand there as before.
    pub(crate) fn is_kept(&self, id: LogId, then: &SimDisk, now: &SimDisk) -> bool {
        let mut places = self.payloads.iter().filter(|(of, _)| *of == id);
        places.all(|(_, place)| bytes_of(then, place) == bytes_of(now, place))
    }

    /// Whether what was done to a sector was not only done to payloads.
    fn is_log(&self, now: &SimDisk, sector: &Place) -> bool {
        let (before, after) = (bytes_of(&self.disk, sector), bytes_of(now, sector));
        let is_payload = |at: u64| {
            let here = |place: &Place| (place.offset..place.offset + place.bytes).contains(&at);
            let mut places = self.payloads.iter().map(|(_, place)| place);
            places.any(|place| place.path == sector.path && here(place))
        };
        let byte = |bytes: &Option<Vec<u8>>, at| bytes.as_ref().map(|bytes| bytes[at]);
        (0..sector.bytes as usize).any(|at| {
            let differs = after.is_none() || byte(&before, at) != byte(&after, at);
            differs && !is_payload(sector.offset + at as u64)
        })
    }
}

fn sectors(file: &Place) -> impl Iterator<Item = Place> {
    let offsets = (0..file.bytes).step_by(SECTOR_BYTES as usize);
    offsets.map(|offset| Place {
        offset,
        bytes: SECTOR_BYTES.min(file.bytes - offset),
        ..file.clone()
    })
}
