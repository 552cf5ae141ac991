//! What the integration tests share: states of a state machine, stores on a simulated disk, and what must hold of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code)] // each test file is a crate of its own and uses a part

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use duramen_disk::{Disk, LOCK_FILE, SimDisk};
use duramen_snapshot::{
    ChunkName, Error, Install, Manifest, Meta, Options, Published, Result, SnapshotId,
    SnapshotStore, SnapshotWriter,
};

/// Where the stores are.
pub(crate) const DIR: &str = "/snapshots";

pub(crate) const OWNER: u128 = 0xfeed;

/// Chunks of 64 bytes to 1 KiB.
pub(crate) fn options() -> Options {
    let mut options = Options::default();
    options.owner = OWNER;
    options.chunk_bytes = 256;
    options
}

pub(crate) fn open(disk: &SimDisk) -> Result<SnapshotStore> {
    SnapshotStore::open_on(Arc::new(disk.clone()), DIR, options())
}

/// Bytes without a pattern, the same for the same seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..bytes).map(step).collect()
}

/// The state with `bytes` other bytes at `at`.
pub(crate) fn edited(state: &[u8], at: usize, bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = state.to_vec();
    state[at..at + bytes].copy_from_slice(&noise(seed, bytes));
    state
}

/// States by the index of their last entry.
pub(crate) type States = BTreeMap<u64, Vec<u8>>;

/// The error of the store that is in one of the standard library.
pub(crate) fn inner(error: io::Error) -> Error {
    let inner = error.into_inner().expect("an error of the store");
    *inner.downcast::<Error>().expect("an error of the store")
}

/// A writer that was given the whole state.
pub(crate) fn begin(store: &SnapshotStore, index: u64, state: &[u8]) -> Result<SnapshotWriter> {
    let mut writer = store.begin(Meta::new(1, index))?;
    writer.write_all(state).map_err(inner)?;
    Ok(writer)
}

pub(crate) fn write(store: &SnapshotStore, index: u64, state: &[u8]) -> Result<Published> {
    begin(store, index, state)?.publish()
}

pub(crate) fn read(store: &SnapshotStore, id: SnapshotId) -> Result<Vec<u8>> {
    let mut state = Vec::new();
    let mut reader = store.reader(id)?;
    reader.read_to_end(&mut state).map_err(inner)?;
    Ok(state)
}

/// The indexes of the snapshots, from the oldest to the newest.
pub(crate) fn indexes(store: &SnapshotStore) -> Vec<u64> {
    let list = store.list().into_iter();
    list.map(|snapshot| snapshot.manifest.meta().last_index)
        .collect()
}

/// The snapshot of this index.
pub(crate) fn id_of(store: &SnapshotStore, index: u64) -> SnapshotId {
    let mut list = store.list().into_iter();
    let found = list.find(|snapshot| snapshot.manifest.meta().last_index == index);
    found.unwrap().id
}

/// A store that has snapshots of all states, as a peer may.
pub(crate) fn peer(states: &States) -> SnapshotStore {
    let store = open(&SimDisk::new()).unwrap();
    for (index, state) in states {
        write(&store, *index, state).unwrap();
    }
    store
}

pub(crate) fn manifest(store: &SnapshotStore, index: u64) -> Manifest {
    store.manifest(id_of(store, index)).unwrap()
}

/// Puts what is missing of an install, from a store that has it. Gives how many chunks that were.
pub(crate) fn fetch(install: &mut Install, peer: &SnapshotStore) -> Result<usize> {
    let missing = install.missing();
    for name in &missing {
        assert!(install.put(*name, &peer.read_chunk(*name).unwrap())?);
    }
    Ok(missing.len())
}

/// Every snapshot is whole, and is what was written.
pub(crate) fn all_read_back(store: &SnapshotStore, states: &States) {
    for snapshot in store.list() {
        let index = snapshot.manifest.meta().last_index;
        assert_eq!(snapshot.missing, 0, "snapshot {index}");
        assert!(
            read(store, snapshot.id).unwrap() == states[&index],
            "snapshot {index}"
        );
    }
    let report = store.verify(|_| {}).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

/// The names in the directory but that of the lock.
pub(crate) fn names(disk: &SimDisk) -> Vec<String> {
    let mut names = disk.list(DIR.as_ref()).unwrap();
    names.retain(|name| name != LOCK_FILE);
    names
}

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// All files take less than twice what is needed, and 16 KiB for each. After a power cut an install may take what it will
/// need, though it is not there.
pub(crate) fn space_is_bounded(store: &SnapshotStore) {
    let stats = store.stats();
    let installs = store.installs().into_iter();
    let arriving = installs.map(|manifest| manifest.bytes() + 112 * manifest.chunks().len() as u64);
    let arriving: u64 = arriving.sum();
    let bound = 2 * stats.live_bytes + arriving + (16 << 10) * stats.files;
    assert!(stats.used_bytes <= bound, "{stats:?}");
    // The table of what arrives is reckoned in, and written when it is complete.
    let is_written = store.installs().is_empty();
    assert!(
        !is_written || stats.live_bytes <= stats.used_bytes,
        "{stats:?}"
    );
}

/// The bytes of a file.
pub(crate) fn bytes_of(disk: &SimDisk, path: &Path) -> Vec<u8> {
    let file = disk.open_read(path).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Where a chunk lies: its newest file, and where in it its bytes begin, behind the head of its record.
pub(crate) fn place_of(disk: &SimDisk, bytes: &[u8]) -> (PathBuf, u64) {
    let len = (bytes.len() as u32).to_le_bytes();
    let head = [b"DCHK", &len, &ChunkName::of(bytes).as_bytes()[..]].concat();
    let found = names(disk).into_iter().rev().find_map(|name| {
        let file = bytes_of(disk, &path(&name));
        let at = file.windows(head.len()).position(|found| found == head)?;
        Some((path(&name), at as u64 + 48))
    });
    found.expect("the chunk is in some file")
}

/// A chunk that is in the first snapshot.
pub(crate) fn some_chunk(store: &SnapshotStore) -> ChunkName {
    store.list()[0].manifest.chunks()[0].name
}
