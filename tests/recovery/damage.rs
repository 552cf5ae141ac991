//! What is done to a disk while its machine is off.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use duramen::disk::{Disk, SimDisk};
use duramen::wal::{DumpItem, LogId, Wal};

const LOG: &str = "/node/log";
const SNAPSHOTS: &str = "/node/snapshots";

/// Something in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// The payload of an entry.
    Payload(LogId),
    /// All of a frame, header and directory included.
    Frame,
    /// What follows the last frame of a sealed segment.
    Seal,
}

/// Where something is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) part: Part,
    pub(crate) path: PathBuf,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// What stands in a log, in order.
pub(crate) fn parts(disk: &SimDisk) -> Vec<Place> {
    let mut parts = Vec::new();
    let mut segment = (PathBuf::new(), 0, false);
    let dump = Wal::dump_on(Arc::new(disk.clone()), LOG, |item| {
        let (path, file_bytes, is_sealed) = segment.clone();
        let place = |part, offset, bytes| Place {
            part,
            path,
            offset,
            bytes,
        };
        match item {
            DumpItem::Segment {
                path,
                file_bytes,
                is_sealed,
                ..
            } => segment = (path, file_bytes, is_sealed),
            DumpItem::Frame { offset, bytes, .. } => parts.push(place(Part::Frame, offset, bytes)),
            DumpItem::Entry {
                id,
                offset: Some(offset),
                bytes,
                ..
            } => parts.push(place(Part::Payload(id), offset, bytes.into())),
            DumpItem::End { offset, .. } if is_sealed => {
                parts.push(place(Part::Seal, offset, file_bytes - offset));
            }
            _ => {}
        }
        true
    });
    dump.unwrap();
    parts
}

/// What stands at a place; `None` if it cannot be read.
pub(crate) fn bytes_of(disk: &SimDisk, place: &Place) -> Option<Vec<u8>> {
    let mut bytes = vec![0; place.bytes as usize];
    let file = disk.open(&place.path).ok()?;
    file.read_exact_at(&mut bytes, place.offset).ok()?;
    Some(bytes)
}

/// Flips a bit of an entry's payload.
pub(crate) fn flip_payload(disk: &SimDisk, id: LogId) {
    let parts = parts(disk);
    let place = parts.iter().find(|place| place.part == Part::Payload(id));
    let place = place.unwrap_or_else(|| panic!("{id} is not in the log"));
    disk.flip_bit(&place.path, place.offset, 3).unwrap();
}

/// Flips a bit somewhere in these bytes.
pub(crate) fn flip_in(disk: &SimDisk, place: &Place, rng: &mut fastrand::Rng) {
    let offset = place.offset + rng.u64(..place.bytes);
    disk.flip_bit(&place.path, offset, rng.u8(..8)).unwrap();
}

/// The files of the log and of the snapshots, with their lengths in bytes; but for locks.
pub(crate) fn files(disk: &SimDisk) -> Vec<Place> {
    let mut files = Vec::new();
    for dir in [LOG, SNAPSHOTS].map(Path::new) {
        for name in disk.list(dir).unwrap() {
            let path = dir.join(name);
            let bytes = disk.open(&path).unwrap().len().unwrap();
            if bytes > 0 {
                files.push(Place {
                    part: Part::Frame,
                    path,
                    offset: 0,
                    bytes,
                });
            }
        }
    }
    files
}

/// Whether a file is one of the log's.
pub(crate) fn is_of_log(file: &Place) -> bool {
    file.path.starts_with(LOG)
}

/// The manifest in a snapshot file, with the head of its block.
pub(crate) fn manifest(disk: &SimDisk, file: Place) -> Place {
    const MAGIC: &[u8] = b"DURAMANI";
    let mut bytes = vec![0; file.bytes as usize];
    disk.open(&file.path)
        .unwrap()
        .read_exact_at(&mut bytes, 0)
        .unwrap();
    let at = bytes.windows(MAGIC.len()).position(|bytes| bytes == MAGIC);
    let at = at.expect("a snapshot has one");
    let length: [u8; 8] = bytes[at + 8..at + 16].try_into().unwrap();
    Place {
        offset: at as u64,
        bytes: 56 + u64::from_le_bytes(length),
        ..file
    }
}

/// A block of a file that is not all zeros. Those that are were never written.
pub(crate) fn block_in_use(disk: &SimDisk, block_bytes: u64, rng: &mut fastrand::Rng) -> Place {
    let mut blocks = Vec::new();
    for file in files(disk) {
        let reader = disk.open(&file.path).unwrap();
        for offset in (0..file.bytes).step_by(block_bytes as usize) {
            let mut bytes = vec![0; block_bytes.min(file.bytes - offset) as usize];
            // A sector that cannot be read is in use.
            let is_read = reader.read_exact_at(&mut bytes, offset).is_ok();
            if !is_read || bytes.iter().any(|byte| *byte != 0) {
                let bytes = bytes.len() as u64;
                blocks.push(Place {
                    offset,
                    bytes,
                    ..file.clone()
                });
            }
        }
    }
    blocks.swap_remove(rng.usize(..blocks.len()))
}

/// Writes zeros, or what comes up, over these bytes.
pub(crate) fn overwrite(disk: &SimDisk, place: &Place, rng: &mut fastrand::Rng) {
    let is_zero = rng.bool();
    let bytes = std::iter::repeat_with(|| if is_zero { 0 } else { rng.u8(..) });
    let bytes: Vec<u8> = bytes.take(place.bytes as usize).collect();
    let file = disk.open(&place.path).unwrap();
    file.write_all_at(&bytes, place.offset).unwrap();
    file.sync_data().unwrap();
}
