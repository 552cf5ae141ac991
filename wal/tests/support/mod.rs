//! What the integration tests share: a model of what was submitted, logs on a simulated disk, and files to spoil.

#![allow(clippy::unwrap_used)] // a helper of tests: it fails as a test does
#![allow(dead_code)] // each test file is a crate of its own and uses a part

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use duramen_disk::{Disk, LOCK_FILE, SimDisk};
use duramen_wal::{
    Batch, Entry, Error, GroupId, HardState, Index, LogId, NodeId, Options, Result, Term, Wal,
};

/// Where the logs are.
pub(crate) const DIR: &str = "/log";

/// One change to one group, as it is given to a batch and as the model takes it.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Append(u64, Vec<Entry>),
    Vote(u64, HardState),
    User(u64, Bytes),
}

/// A batch that can be looked into.
pub(crate) type Step = Vec<Change>;

/// What a group holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) hard_state: HardState,
    pub(crate) user_record: Bytes,
    pub(crate) entries: Vec<Entry>,
}

/// What a log holds.
pub(crate) type State = BTreeMap<GroupId, Content>;

pub(crate) fn entry(index: u64, term: u64, payload: impl Into<Bytes>) -> Entry {
    let id = LogId {
        term: Term(term),
        index: Index(index),
    };
    let payload = payload.into();
    Entry { id, payload }
}

/// Entries from `first` to `last`, of `term`, each with `bytes` bytes that no other has.
pub(crate) fn append(group: u64, first: u64, last: u64, term: u64, bytes: usize) -> Change {
    let payload = |index: u64| {
        let text = format!("{group}/{term}.{index} ");
        text.bytes().cycle().take(bytes).collect::<Vec<u8>>()
    };
    let entries = (first..=last).map(|index| entry(index, term, payload(index)));
    Change::Append(group, entries.collect())
}

pub(crate) fn vote(group: u64, term: u64, node: u64) -> Change {
    let hard_state = HardState {
        term: Term(term),
        voted_for: Some(NodeId(node)),
    };
    Change::Vote(group, hard_state)
}

pub(crate) fn user(group: u64, bytes: &'static [u8]) -> Change {
    Change::User(group, Bytes::from_static(bytes))
}

pub(crate) fn batch(step: &Step) -> Batch {
    let mut batch = Batch::new();
    for change in step {
        match change.clone() {
            Change::Append(group, entries) => batch.append(GroupId(group), entries),
            Change::Vote(group, hard_state) => batch.hard_state(GroupId(group), hard_state),
            Change::User(group, bytes) => batch.user_record(GroupId(group), bytes),
        };
    }
    batch
}

/// What a log holds after 0, 1, 2, .. of `steps`.
pub(crate) fn states(steps: &[Step]) -> Vec<State> {
    let mut state = State::new();
    let mut states = vec![state.clone()];
    for step in steps {
        for change in step {
            apply(&mut state, change);
        }
        states.push(state.clone());
    }
    states
}

fn apply(state: &mut State, change: &Change) {
    let (Change::Append(group, _) | Change::Vote(group, _) | Change::User(group, _)) = change;
    let content = state.entry(GroupId(*group)).or_default();
    match change {
        Change::Append(_, entries) => {
            for entry in entries {
                content.entries.truncate(entry.id.index.0 as usize - 1);
                content.entries.push(entry.clone());
            }
        }
        Change::Vote(_, hard_state) => content.hard_state = *hard_state,
        Change::User(_, bytes) => content.user_record = bytes.clone(),
    }
}

/// Everything that a log gives to a reader.
pub(crate) fn state_of(wal: &Wal) -> State {
    let content = |group| {
        let last = wal.last(group).index;
        let entries = wal.entries(group, Index(1)..last.next(), u64::MAX).unwrap();
        assert_eq!(entries.len() as u64, last.0, "{group}");
        for entry in &entries {
            assert_eq!(wal.term(group, entry.id.index), Some(entry.id.term));
        }
        Content {
            hard_state: wal.hard_state(group),
            user_record: wal.user_record(group),
            entries,
        }
    };
    let groups = wal.groups().into_iter();
    groups.map(|group| (group, content(group))).collect()
}

/// A log that is followed by a new segment after `segment_bytes`.
pub(crate) fn options(segment_bytes: u64) -> Options {
    let mut options = Options::default();
    options.segment_bytes = segment_bytes;
    options
}

pub(crate) fn create(disk: &SimDisk, options: &Options) -> Result<Wal> {
    Wal::create_on(Arc::new(disk.clone()), DIR, options.clone())
}

pub(crate) fn open(disk: &SimDisk, options: &Options) -> Result<Wal> {
    Wal::open_on(Arc::new(disk.clone()), DIR, options.clone())
}

/// The error of an operation that must fail. A log has no `Debug`.
pub(crate) fn error<T>(result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("it was to fail"),
        Err(error) => error,
    }
}

pub(crate) fn write_all(wal: &Wal, steps: &[Step]) {
    for step in steps {
        wal.write(&batch(step)).unwrap();
    }
}

/// A new simulated disk with a log in which `steps` are acknowledged. The log is closed.
pub(crate) fn disk_with(options: &Options, steps: &[Step]) -> SimDisk {
    let disk = SimDisk::new();
    write_all(&create(&disk, options).unwrap(), steps);
    disk
}

/// Opens a log, and says whether it holds exactly the first `k` of `steps`.
pub(crate) fn assert_holds(disk: &SimDisk, options: &Options, steps: &[Step], k: usize) {
    let wal = open(disk, options).unwrap();
    assert_eq!(state_of(&wal), states(steps)[k]);
    assert_eq!(wal.recovery().frames, k as u64);
    assert_eq!(wal.recovery().torn, None);
}

pub(crate) fn segment(number: u64) -> PathBuf {
    Path::new(DIR).join(format!("{number:016x}.wal"))
}

pub(crate) fn read_file(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    let file = disk.open(path).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Gives a file this content, durably; makes it if it is not there.
pub(crate) fn write_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) {
    let file = disk.open(path).or_else(|_| disk.create(path)).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path.parent().unwrap()).unwrap();
}

/// All files of a log but the lock's.
pub(crate) fn files(disk: &dyn Disk, dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let names = disk.list(dir).unwrap().into_iter();
    let paths = names
        .filter(|name| name != LOCK_FILE)
        .map(|name| dir.join(name));
    paths
        .map(|path| (path.clone(), read_file(disk, &path)))
        .collect()
}

/// Where the frames of a segment begin, and at last where it ends. Goes by the lengths in the frames' headers (wal's
/// `format.rs`), so only for a segment that is whole.
pub(crate) fn frame_offsets(segment: &[u8]) -> Vec<usize> {
    let mut offsets = vec![56];
    loop {
        let at = offsets[offsets.len() - 1];
        if at == segment.len() {
            return offsets;
        }
        let body = u32::from_le_bytes(segment[at + 4..at + 8].try_into().unwrap());
        offsets.push((at + 24 + body as usize).next_multiple_of(8));
    }
}

/// Says what is being tried, if it fails.
pub(crate) struct Replay<F: Fn() -> String>(pub(crate) F);

impl<F: Fn() -> String> Drop for Replay<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed at: {}", (self.0)());
        }
    }
}
