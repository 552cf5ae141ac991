//! A node's log, its faults, and what the program does with it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use duramen::wal::{
    Batch, DumpItem, Entry, GroupId, HardState, Index, LogId, NodeId, Options, Term, Wal,
};
use tempfile::TempDir;

use super::{Said, duramen};

pub(crate) fn dump(dir: &Path) -> Said {
    duramen(&["log", "dump"], dir)
}

pub(crate) fn verify(dir: &Path) -> Said {
    duramen(&["log", "verify"], dir)
}

pub(crate) fn repair(dir: &Path) -> Said {
    duramen(&["log", "repair"], dir)
}

pub(crate) fn cut(dir: &Path) -> Said {
    duramen(&["log", "repair", "--cut"], dir)
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        term: Term(term),
        index: Index(index),
    }
}

pub(crate) fn options() -> Options {
    let mut options = Options::default();
    options.segment_bytes = 32 << 10;
    options.batch_bytes_max = 16 << 10;
    options.in_flight_bytes_max = 16 << 10;
    options.manual_drive = true;
    options
}

/// A node's directory with a log of several segments, of which the first ones are sealed: entries 1 to 40 of group 1.
pub(crate) fn node_with_log() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let wal = Wal::create(&log, options()).unwrap();
    for index in 1..=40 {
        let mut batch = Batch::new();
        if index == 1 {
            let voted_for = Some(NodeId(2));
            batch.hard_state(
                GroupId(1),
                HardState {
                    term: Term(3),
                    voted_for,
                    ..HardState::default()
                },
            );
        }
        let payload = format!("entry {index} ").repeat(300);
        batch.append(
            GroupId(1),
            [Entry {
                id: log_id(3, index),
                payload: payload.into(),
                ..Entry::default()
            }],
        );
        wal.write(batch).unwrap();
    }
    wal.close().unwrap();
    (dir, log)
}

/// Where the frames and the payloads of a log stand.
#[derive(Default)]
pub(crate) struct Map {
    pub(crate) frames: Vec<(PathBuf, u64, u64)>,
    pub(crate) entries: Vec<(PathBuf, u64, u64)>,
    pub(crate) sealed: Vec<PathBuf>,
}

pub(crate) fn map(log: &Path) -> Map {
    let mut map = Map::default();
    let mut file = PathBuf::new();
    Wal::dump(log, |item| {
        match item {
            DumpItem::Segment {
                path, is_sealed, ..
            } => {
                file = path;
                map.sealed.extend(is_sealed.then(|| file.clone()));
            }
            DumpItem::Frame { offset, bytes, .. } => map.frames.push((file.clone(), offset, bytes)),
            DumpItem::Entry {
                offset: Some(offset),
                bytes,
                ..
            } => {
                map.entries.push((file.clone(), offset, u64::from(bytes)));
            }
            _ => {}
        }
        true
    })
    .unwrap();
    assert!(map.sealed.len() > 2 && map.entries.len() == 40);
    map
}

pub(crate) fn spoil(path: &Path, at: u64, change: impl Fn(&mut [u8]), len: usize) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, at).unwrap();
}

pub(crate) fn flip(path: &Path, at: u64) {
    spoil(path, at, |bytes| bytes[0] ^= 1, 1);
}
