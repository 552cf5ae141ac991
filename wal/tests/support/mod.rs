//! What the integration tests share: a model of what was submitted, logs on a simulated disk, and files to spoil.

#![allow(clippy::unwrap_used)] // a helper of tests: it fails as a test does
#![allow(dead_code)] // each test file is a crate of its own and uses a part

pub(crate) mod drawn;
pub(crate) mod golden;

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use duramen_disk::{Disk, LOCK_FILE, SimDisk};
use duramen_wal::{
    Batch, Context, Entry, Error, GroupId, HardState, Index, LogId, NodeId, Options, Result, Term,
    Wal,
};
use rustc_hash::FxHasher;

/// Where the logs are.
pub(crate) const DIR: &str = "/log";

/// One change to one group, as it is given to a batch and as the model takes it.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Append(u64, Vec<Entry>),
    Vote(u64, HardState),
    User(u64, Bytes),
    Truncate(u64, u64),
    Purge(u64, LogId),
    Remove(u64),
}

impl Change {
    fn group(&self) -> GroupId {
        match self {
            Change::Append(group, _)
            | Change::Vote(group, _)
            | Change::User(group, _)
            | Change::Truncate(group, _)
            | Change::Purge(group, _)
            | Change::Remove(group) => GroupId(*group),
        }
    }
}

/// A batch that can be looked into.
pub(crate) type Step = Vec<Change>;

/// What a group holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) purged: LogId,
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
    Entry {
        id,
        payload: payload.into(),
        ..Entry::default()
    }
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
        context: Context::new(&[node as u8; 5]).unwrap(),
    };
    Change::Vote(group, hard_state)
}

pub(crate) fn purge(group: u64, index: u64, term: u64) -> Change {
    let last = LogId {
        term: Term(term),
        index: Index(index),
    };
    Change::Purge(group, last)
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
            Change::Truncate(group, last) => batch.truncate(GroupId(group), Index(last)),
            Change::Purge(group, last) => batch.purge(GroupId(group), last),
            Change::Remove(group) => batch.remove_group(GroupId(group)),
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

pub(crate) fn apply(state: &mut State, change: &Change) {
    if let Change::Remove(group) = change {
        state.remove(&GroupId(*group));
        return;
    }
    let content = state.entry(change.group()).or_default();
    let keep_to = |content: &mut Content, last: u64| {
        let kept = last - content.purged.index.0;
        content.entries.truncate(kept as usize);
    };
    match change {
        Change::Append(_, entries) => {
            for entry in entries {
                keep_to(content, entry.id.index.0 - 1);
                content.entries.push(entry.clone());
            }
        }
        Change::Vote(_, hard_state) => content.hard_state = *hard_state,
        Change::User(_, bytes) => content.user_record = bytes.clone(),
        Change::Truncate(_, last) => keep_to(content, *last),
        Change::Purge(_, last) => {
            content.entries.retain(|entry| entry.id.index > last.index);
            content.purged = *last;
        }
        Change::Remove(_) => unreachable!(),
    }
}

/// Everything that a log gives to a reader.
pub(crate) fn state_of(wal: &Wal) -> State {
    let content = |group| {
        let (purged, last) = (wal.purged(group), wal.last(group).index);
        let range = purged.index.next()..last.next();
        let entries = wal.entries(group, range, u64::MAX).unwrap();
        assert_eq!(entries.len() as u64, last.0 - purged.index.0, "{group}");
        for entry in &entries {
            assert_eq!(wal.term(group, entry.id.index), Some(entry.id.term));
        }
        Content {
            purged,
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
    options.manual_drive = true;
    options.segment_bytes = segment_bytes;
    options.batch_bytes_max = segment_bytes / 2;
    options.in_flight_bytes_max = segment_bytes / 2;
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
        wal.write(batch(step)).unwrap();
    }
}

/// A new simulated disk with a log in which `steps` are acknowledged. The log is closed.
pub(crate) fn disk_with(options: &Options, steps: &[Step]) -> SimDisk {
    let disk = SimDisk::new();
    write_all(&create(&disk, options).unwrap(), steps);
    disk
}

/// How many of the steps that gave `states` a log holds: the only number that fits.
pub(crate) fn held(wal: &Wal, states: &[State]) -> usize {
    let state = state_of(wal);
    let fits: Vec<usize> = (0..states.len()).filter(|&k| states[k] == state).collect();
    match fits[..] {
        [k] => k,
        [] => panic!("a state that never was: {state:?}"),
        _ => panic!("the workload comes through one state twice: {fits:?}"),
    }
}

/// Opens a log, and says whether it holds exactly the first `k` of `steps`.
pub(crate) fn assert_holds(disk: &SimDisk, options: &Options, steps: &[Step], k: usize) {
    let wal = open(disk, options).unwrap();
    assert_eq!(state_of(&wal), states(steps)[k]);
    assert_eq!(wal.recovery().cut, None);
    assert_eq!(wal.recovery().damaged, []);
}

/// The same, for a process that was killed after the last of `steps`: the last frame is marked nowhere.
pub(crate) fn killed_disk_with(options: &Options, steps: &[Step]) -> SimDisk {
    let disk = SimDisk::new();
    let wal = create(&disk, options).unwrap();
    write_all(&wal, steps);
    let killed = disk.fork();
    killed.kill();
    killed
}

pub(crate) fn control() -> PathBuf {
    Path::new(DIR).join("CONTROL")
}

pub(crate) fn segment(number: u64) -> PathBuf {
    Path::new(DIR).join(format!("{number:016x}.wal"))
}

pub(crate) fn read_file(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    let file = disk.open_read(path).unwrap();
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

/// What a log's files are, in a number.
pub(crate) fn fingerprint(disk: &SimDisk) -> u64 {
    let mut hasher = FxHasher::default();
    for (path, bytes) in files(disk, DIR.as_ref()) {
        hasher.write(path.as_os_str().as_encoded_bytes());
        hasher.write_usize(bytes.len());
        hasher.write_u32(crc32fast::hash(&bytes));
    }
    hasher.finish()
}

/// A frame as it lies in a segment: where its parts begin, and where the next frame would. Goes by the lengths in the
/// frames' headers (wal's `format.rs`), so only for a segment that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FrameParts {
    pub(crate) header: usize,
    pub(crate) payload: Range<usize>,
    pub(crate) directory: Range<usize>,
    pub(crate) copy: Option<Range<usize>>,
    pub(crate) end: usize,
}

pub(crate) fn number_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Whether a segment is sealed.
pub(crate) fn is_sealed(segment: &[u8]) -> bool {
    &trailer(segment)[8..16] == b"DURAMENS"
}

fn trailer(segment: &[u8]) -> &[u8] {
    &segment[segment.len() - 128..]
}

/// What a sealed segment ends in: the copies of its directories, the summary, and the trailer.
pub(crate) struct SealParts {
    pub(crate) directories: Range<usize>,
    pub(crate) summary: Range<usize>,
    pub(crate) trailer: Range<usize>,
}

pub(crate) fn seal(segment: &[u8]) -> Option<SealParts> {
    let number = |at| number_at(trailer(segment), at);
    is_sealed(segment).then(|| {
        let directories = number(16)..number(16) + number(24);
        let summary = directories.end..directories.end + number(32);
        let trailer = segment.len() - 128..segment.len();
        assert_eq!(summary.end, trailer.start);
        SealParts {
            directories,
            summary,
            trailer,
        }
    })
}

pub(crate) fn frames(segment: &[u8]) -> Vec<FrameParts> {
    let limit = match is_sealed(segment) {
        true => number_at(trailer(segment), 48),
        false => segment.len(),
    };
    let mut frames = Vec::new();
    let mut at = 64;
    while at + 40 <= limit && segment[at..at + 40].iter().any(|byte| *byte != 0) {
        let (payload_bytes, record_bytes) =
            (number_at(segment, at + 24), number_at(segment, at + 28));
        let payload = at + 40..at + 40 + payload_bytes;
        let directory = payload.end.next_multiple_of(8);
        let directory_bytes = 56 + record_bytes.next_multiple_of(8);
        let directory = directory..directory + directory_bytes;
        let copy = (number_at(segment, at + 4) == 1).then(|| {
            let copy = directory.end.max(at + 4096);
            copy..copy + directory_bytes
        });
        let end = copy.as_ref().map_or(directory.end, |copy| copy.end);
        frames.push(FrameParts {
            header: at,
            payload,
            directory,
            copy,
            end,
        });
        at = end;
    }
    frames
}

/// Whether an entry of a segment cannot be read where this sector cannot: it has some of its bytes, or the trailer, without
/// which nobody knows whether there is a seal, and where.
pub(crate) fn is_hit(segment: &[u8], payload: &[u8], sector: u64) -> bool {
    let (begin, bytes) = (sector as usize * 512, payload.len());
    let from = (begin + 1).saturating_sub(bytes);
    let to = (begin + 511 + bytes).min(segment.len());
    let has_some = bytes > 0 && segment[from..to].windows(bytes).any(|at| at == payload);
    has_some || begin + 512 == segment.len()
}

/// Changes bytes of a file, durably.
pub(crate) fn spoil(
    disk: &dyn Disk,
    path: &Path,
    offset: usize,
    change: impl Fn(&mut [u8]),
    len: usize,
) {
    let file = disk.open(path).unwrap();
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset as u64).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, offset as u64).unwrap();
    file.sync_data().unwrap();
}

/// Flips the lowest bit of a byte, durably.
pub(crate) fn flip(disk: &dyn Disk, path: &Path, byte: usize) {
    spoil(disk, path, byte, |bytes| bytes[0] ^= 1, 1);
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
