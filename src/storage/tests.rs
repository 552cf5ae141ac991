//! Tests of what comes back from a disk, after kills and power cuts, with damage and without.

mod bad;
mod identity;
mod restoring;
mod writing;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use duramen_disk::{Disk, SimDisk};
use duramen_snapshot::Meta;
use duramen_wal::{DumpItem, Entry, HardState, Index, LogId, NodeId, Term, Wal};

use super::{Boot, Error, Identity, Options, Restored, Storage};
use crate::raft::{Membership, Write, WriteId};

const DIR: &str = "/node";
/// A start of another node.
const BOOT: Boot = Boot {
    count: 7,
    number: 77,
};

fn id(index: u64, term: u64) -> LogId {
    LogId {
        term: Term(term),
        index: Index(index),
    }
}

fn entry(index: u64, term: u64, payload: impl Into<Bytes>) -> Entry {
    Entry {
        id: id(index, term),
        payload: payload.into(),
        ..Entry::default()
    }
}

/// Entries with payloads that no other has.
fn entries(first: u64, last: u64, term: u64) -> Vec<Entry> {
    let payload = |index| format!("the payload of entry {term}.{index}");
    (first..=last)
        .map(|index| entry(index, term, payload(index)))
        .collect()
}

/// A membership of the nodes 1 to `count`.
fn voters(count: u64) -> Membership {
    Membership::of_voters((1..=count).map(NodeId))
}

fn hard_state(term: u64) -> HardState {
    HardState {
        term: Term(term),
        voted_for: Some(NodeId(2)),
        ..HardState::default()
    }
}

fn write(write_id: u64) -> Write {
    Write {
        id: WriteId(write_id),
        hard_state: None,
        reset: None,
        purge: None,
        repairs: Vec::new(),
        entries: Vec::new(),
    }
}

/// A write of entries in `term`.
fn append(entries: Vec<Entry>, term: u64) -> Write {
    Write {
        hard_state: Some(hard_state(term)),
        entries,
        ..write(1)
    }
}

/// A write that takes everything out of the log.
fn reset(last: LogId, entries: Vec<Entry>) -> Write {
    Write {
        reset: Some(last),
        ..append(entries, last.term.0)
    }
}

fn identity_of(cluster: &str, node: u64) -> Identity {
    Identity {
        cluster: cluster.to_owned(),
        node: NodeId(node),
        voters: [1, 2, 3].map(NodeId).into(),
    }
}

fn options() -> Options {
    let mut options = Options {
        chunk_bytes: 256,
        ..Options::default()
    };
    options.log.manual_drive = true;
    options.log.segment_bytes = 256 << 10;
    options.log.batch_bytes_max = 128 << 10;
    options.log.entry_bytes_max = 112 << 10;
    options.log.in_flight_bytes_max = 128 << 10;
    options
}

fn try_open(disk: &SimDisk) -> Result<Storage, Error> {
    let disk = Arc::new(disk.clone());
    Storage::open(disk, Path::new(DIR), &identity_of("c", 1), options())
}

fn open(disk: &SimDisk) -> Storage {
    try_open(disk).unwrap()
}

/// A disk with the storage of a node whose cluster has begun, with three voters.
fn begun() -> (SimDisk, Storage) {
    let disk = SimDisk::new();
    disk.seed_random(7);
    let mut storage = open(&disk);
    storage.begin_with(&voters(3)).unwrap();
    storage.drive().unwrap();
    (disk, storage)
}

/// Writes, until it is durable.
fn persist(storage: &mut Storage, write: &Write) {
    try_persist(storage, write).unwrap();
}

fn try_persist(storage: &mut Storage, write: &Write) -> Result<(), Error> {
    storage.submit(write)?;
    storage.drive()?;
    let completed = storage.completed()?;
    assert_eq!(completed, Some(write.id));
    Ok(())
}

/// The process is killed, so that nothing is said at its end, and the power cut.
fn power_cut(disk: &SimDisk, storage: Storage, seed: u64) {
    disk.crash_after(0);
    drop(storage);
    disk.power_cut(seed);
}

fn kill(disk: &SimDisk, storage: Storage) {
    disk.crash_after(0);
    drop(storage);
    disk.kill();
}

/// What a new process finds.
fn restored(disk: &SimDisk) -> (Storage, Restored) {
    let mut storage = open(disk);
    let restored = storage.restore().unwrap();
    (storage, restored)
}

/// A snapshot of the state at `last`, taken here or installed: the storage does not tell.
fn publish(storage: &Storage, last: LogId, membership: &Membership) -> Result<(), Error> {
    let mut meta = Meta::new(last.term.0, last.index.0);
    meta.membership = membership.encode();
    let mut writer = storage.snapshots().begin(meta)?;
    writer
        .write_all(format!("the state at {last}").repeat(50).as_bytes())
        .map_err(|source| Error::Io {
            op: "write to",
            path: DIR.into(),
            source,
        })?;
    writer.publish()?;
    Ok(())
}

/// The place of an entry's payload in the log: of the last one written with this id.
fn place_of(disk: &SimDisk, wanted: LogId) -> (PathBuf, u64) {
    let mut segment = None;
    let mut place = None;
    let log = Path::new(DIR).join("log");
    Wal::dump_on(Arc::new(disk.clone()), log, |item| {
        match item {
            DumpItem::Segment { path, .. } => segment = Some(path),
            DumpItem::Entry {
                id,
                offset: Some(offset),
                ..
            } if id == wanted => place = Some((segment.clone().unwrap(), offset)),
            _ => {}
        }
        true
    })
    .unwrap();
    place.unwrap()
}

/// Damages an entry's payload. Nobody has the log open.
fn damage(disk: &SimDisk, wanted: LogId) {
    let (path, offset) = place_of(disk, wanted);
    disk.flip_bit(&path, offset, 3).unwrap();
}

fn remove_all_files(disk: &SimDisk, dir: &Path) {
    for name in disk.list(dir).unwrap() {
        disk.remove(&dir.join(name)).unwrap();
    }
    disk.sync_dir(dir).unwrap();
}
