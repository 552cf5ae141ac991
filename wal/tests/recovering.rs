//! The table of cases in `recovery.rs`, row by row; what is suspect; sectors that cannot be read.

#![allow(clippy::unwrap_used)] // helpers of tests, too

#[path = "support/sealed.rs"]
mod sealed;
mod support;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use duramen_disk::{DirLock, Disk, DiskFile, LockMode, Map, SimDisk};
use duramen_wal::{Damage, Entry, Error, GroupId, Index, LogId, Misuse, Options, Wal};
use sealed::{sealed, small};
use support::*;

fn keeping(keep_suspects: bool) -> Options {
    let mut options = small();
    options.keep_suspects = keep_suspects;
    options
}

/// What says that a frame was durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marked {
    Nothing,
    LaterFrame,
    Control,
}

/// What is left of a frame's directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directories {
    Whole,
    FirstBad,
    SecondBad,
    Bad,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    directories: Directories,
    payload_is_bad: bool,
    header_is_bad: bool,
    marked: Marked,
    doubled: bool,
    keep_suspects: bool,
}

impl Case {
    fn is_suspect(&self) -> bool {
        let is_named = self.directories != Directories::Bad;
        is_named && self.payload_is_bad && self.marked == Marked::Nothing
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let all = [
        Directories::Whole,
        Directories::FirstBad,
        Directories::SecondBad,
        Directories::Bad,
    ];
    for directories in all {
        for marked in [Marked::Nothing, Marked::LaterFrame, Marked::Control] {
            for bits in 0..16 {
                let [payload_is_bad, header_is_bad, doubled, keep_suspects] =
                    [1, 2, 4, 8].map(|bit| bits & bit != 0);
                let one = matches!(directories, Directories::FirstBad | Directories::SecondBad);
                if !one || doubled {
                    cases.push(Case {
                        directories,
                        payload_is_bad,
                        header_is_bad,
                        marked,
                        doubled,
                        keep_suspects,
                    });
                }
            }
        }
    }
    cases
}

/// The frame in question is that of the second step, the third in its segment.
const VICTIM: usize = 2;

fn steps(case: &Case) -> Vec<Step> {
    let mut victim = vec![append(1, 2, 3, 1, 20)];
    if case.doubled {
        victim.push(vote(1, 2, 2));
    }
    let mut steps = vec![vec![append(1, 1, 1, 1, 20), vote(2, 1, 1)], victim];
    if case.marked == Marked::LaterFrame {
        steps.push(vec![append(1, 4, 4, 1, 20)]);
    }
    steps
}

fn spoil_frame(disk: &SimDisk, case: &Case, frame: &FrameParts) {
    let directory = frame.directory.start + 30;
    let copy = frame.copy.as_ref().map(|copy| copy.start + 30);
    let mut bytes = Vec::new();
    match case.directories {
        Directories::Whole => {}
        Directories::FirstBad => bytes.push(directory),
        Directories::SecondBad => bytes.extend(copy),
        Directories::Bad => bytes.extend(copy.into_iter().chain([directory])),
    }
    if case.payload_is_bad {
        bytes.push(frame.payload.start + 25); // of the second entry
    }
    if case.header_is_bad {
        bytes.push(frame.header + 20);
    }
    for byte in bytes {
        flip(disk, &segment(1), byte);
    }
}

#[test]
fn each_row_of_the_table_of_cases() {
    let cases = cases();
    assert_eq!(cases.len(), 2 * 3 * (2 * 8 + 2 * 4));
    let kept = cases
        .iter()
        .filter(|case| case.is_suspect() && case.keep_suspects);
    assert_eq!(kept.count(), 4 + 2 * 2);
    for case in cases {
        let _replay = Replay(|| format!("{case:?}"));
        let steps = steps(&case);
        let disk = match case.marked {
            Marked::Control => disk_with(&small(), &steps),
            Marked::Nothing | Marked::LaterFrame => killed_disk_with(&small(), &steps),
        };
        let whole = read_file(&disk, &segment(1));
        let frame = frames(&whole)[VICTIM].clone();
        spoil_frame(&disk, &case, &frame);
        one_case(&disk, &case, &steps, &whole, &frame);
    }
}

fn one_case(disk: &SimDisk, case: &Case, steps: &[Step], whole: &[u8], frame: &FrameParts) {
    let before = files(disk, DIR.as_ref());
    let opened = open(disk, &keeping(case.keep_suspects));
    let is_marked = case.marked != Marked::Nothing;
    if case.directories == Directories::Bad && is_marked {
        match error(opened) {
            Error::DamagedDirectory {
                path,
                offset,
                bytes,
                sequence,
            } => {
                let place = (segment(1), frame.header as u64, VICTIM as u64 + 1);
                assert_eq!((path, offset, sequence), place);
                assert_eq!(bytes, (frame.end - frame.header) as u64);
            }
            other => panic!("{other}"),
        }
        assert_eq!(files(disk, DIR.as_ref()), before);
        return;
    }
    let wal = opened.unwrap();
    let report = wal.recovery().clone();
    if case.is_suspect() && case.keep_suspects {
        is_mended_if_unmarked(disk, case, whole, frame);
        drop(wal);
        it_is_kept_until_it_is_settled(disk, &report.suspects, steps);
        assert_eq!((report.cut, report.damaged), (None, vec![]));
        return;
    }
    assert_eq!(report.suspects, []);
    if case.directories == Directories::Bad || case.is_suspect() {
        is_cut(disk, case, steps, frame, wal);
        return;
    }
    assert_eq!(report.cut, None);
    let damaged: Vec<_> = report
        .damaged
        .iter()
        .map(|damaged| damaged.entry.id.index.0)
        .collect();
    assert_eq!(damaged, if case.payload_is_bad { vec![3] } else { vec![] });
    let group = GroupId(1);
    let state = states(steps).pop().unwrap();
    let last = state[&group].entries.len() as u64;
    assert_eq!(wal.last(group).index, Index(last));
    assert_eq!(wal.hard_state(group), state[&group].hard_state);
    for entry in &state[&group].entries {
        let index = entry.id.index;
        let read = wal.entries(group, index..index.next(), 0);
        match damaged.contains(&index.0) {
            false => assert_eq!(read.unwrap()[0], *entry),
            true => match error(read) {
                Error::DamagedEntry {
                    group: named,
                    id,
                    path,
                    offset,
                    reason: Damage::Checksum,
                } => {
                    assert_eq!((named, id), (group, entry.id));
                    let place = (segment(1), frame.payload.start as u64 + 20);
                    assert_eq!((path, offset), place);
                }
                other => panic!("{other}"),
            },
        }
    }
    is_mended_if_unmarked(disk, case, whole, frame);
}

/// From the victim on all is gone, and something else goes on there.
fn is_cut(disk: &SimDisk, case: &Case, steps: &[Step], frame: &FrameParts, wal: Wal) {
    let cut = wal.recovery().cut.clone().unwrap();
    assert_eq!((cut.path, cut.offset), (segment(1), frame.header as u64));
    assert_eq!(cut.bytes, (frame.end - frame.header) as u64);
    let suspects: Vec<_> = cut.suspects.iter().map(|entry| entry.id.index.0).collect();
    let named = case.directories != Directories::Bad;
    assert_eq!(suspects, if named { vec![3] } else { vec![] });
    assert_eq!(state_of(&wal), states(steps)[1]);
    drop(wal);
    disk.power_cut(0);
    let other = [steps[0].clone(), vec![append(1, 2, 2, 5, 9)]];
    write_all(&open(disk, &small()).unwrap(), &other[1..]);
    assert_holds(disk, &small(), &other, 2);
}

/// What was not known to be durable is written again, with a header that is right. Damage is left as it is.
fn is_mended_if_unmarked(disk: &SimDisk, case: &Case, whole: &[u8], frame: &FrameParts) {
    let header = frame.header..frame.header + 40;
    let is_mended = read_file(disk, &segment(1))[header.clone()] == whole[header];
    let is_marked = case.marked != Marked::Nothing;
    assert_eq!(is_mended, !case.header_is_bad || !is_marked);
}

/// A log in which the second entry of the victim is suspect.
struct Kept {
    /// What it holds, with the suspect entry as it was meant.
    whole: Content,
    suspect: LogId,
}

const GROUP: GroupId = GroupId(1);

impl Kept {
    /// The entry counts, and is neither read nor built upon.
    fn check(&self, wal: &Wal) {
        let Kept { whole, suspect } = self;
        assert_eq!(wal.last(GROUP), *suspect);
        assert_eq!(wal.suspect(GROUP), Some(suspect.index));
        assert_eq!(wal.hard_state(GROUP), whole.hard_state);
        let read = |from, to| wal.entries(GROUP, Index(from)..Index(to), u64::MAX);
        assert_eq!(read(1, 3).unwrap(), whole.entries[..2]);
        for (from, to) in [(3, 4), (1, 4)] {
            match error(read(from, to)) {
                Error::Suspect { group, id } => assert_eq!((group, id), (GROUP, *suspect)),
                other => panic!("{other}"),
            }
        }
        match error(wal.write(batch(&vec![append(1, 4, 4, 1, 1)]))) {
            Error::Misuse { group, misuse } => {
                let index = suspect.index;
                assert_eq!((group, misuse), (GROUP, Misuse::Suspect { index }));
            }
            other => panic!("{other}"),
        }
    }

    /// What settles it, and what is left then.
    fn settled(&self) -> [(Change, Vec<Entry>); 4] {
        let before = &self.whole.entries[..2];
        let replaced = entry(3, 5, "replaced");
        [
            (Change::Truncate(1, 2), before.to_vec()),
            (
                Change::Append(1, vec![replaced.clone()]),
                [before, &[replaced]].concat(),
            ),
            (append(1, 2, 2, 1, 20), before.to_vec()),
            (purge(1, 3, 1), vec![]),
        ]
    }

    fn settle(&self, disk: &SimDisk, settling: Change, left: &[Entry], keep: bool) {
        let is_settled = |wal: &Wal, left: &[Entry]| {
            assert_eq!(wal.suspect(GROUP), None);
            assert_eq!(state_of(wal)[&GROUP].entries, left);
        };
        let wal = open(disk, &keeping(keep)).unwrap();
        wal.write(batch(&vec![settling])).unwrap();
        is_settled(&wal, left);
        let next = wal.last(GROUP).index.next();
        let more = vec![entry(next.0, 7, "more")];
        let left = [left, &more].concat();
        wal.write(batch(&vec![Change::Append(1, more)])).unwrap();
        drop(wal);
        for again in [keep, !keep] {
            disk.power_cut(0);
            let wal = open(disk, &keeping(again)).unwrap();
            assert_eq!(wal.recovery().suspects, []);
            is_settled(&wal, &left);
        }
    }
}

/// However often the log is opened, and in whichever segment it is, until something takes its place.
fn it_is_kept_until_it_is_settled(disk: &SimDisk, reported: &[(GroupId, LogId)], steps: &[Step]) {
    let kept = Kept {
        whole: states(steps).pop().unwrap()[&GROUP].clone(),
        suspect: entry(3, 1, "").id,
    };
    assert_eq!(reported, [(GROUP, kept.suspect)]);
    for rotated in [false, true] {
        if rotated {
            let wal = open(disk, &small()).unwrap();
            // Others go on, into the next segment and the one after.
            for index in 1..=3 {
                let step = vec![append(9, index, index, 1, 7000)];
                wal.write(batch(&step)).unwrap();
                kept.check(&wal);
            }
            assert!(is_sealed(&read_file(disk, &segment(1))));
            assert!(!frames(&read_file(disk, &segment(2))).is_empty());
        }
        for keep in [false, true] {
            for seed in 0..3 {
                disk.power_cut(seed);
                let wal = open(disk, &keeping(keep)).unwrap();
                assert_eq!(wal.recovery().suspects, reported);
                assert_eq!(wal.recovery().cut, None);
                kept.check(&wal);
            }
            for (settling, left) in kept.settled() {
                let _replay = Replay(|| format!("rotated: {rotated}, {left:?} is left"));
                let disk = disk.fork();
                disk.kill();
                kept.settle(&disk, settling, &left, keep);
            }
        }
    }
}

/// What is suspect was never durable, as far as is known: also when later frames say that its frame is.
#[test]
fn what_is_kept_as_suspect_is_not_reported_as_damaged() {
    let case = cases()
        .into_iter()
        .find(|case| case.is_suspect() && case.keep_suspects)
        .unwrap();
    let steps = steps(&case);
    let disk = killed_disk_with(&small(), &steps);
    let frame = frames(&read_file(&disk, &segment(1)))[VICTIM].clone();
    spoil_frame(&disk, &case, &frame);
    for _ in 0..3 {
        let wal = open(&disk, &keeping(true)).unwrap();
        assert_eq!(wal.recovery().suspects, [(GROUP, entry(3, 1, "").id)]);
        assert_eq!(wal.recovery().damaged, []);
    }
    // Nor when it is gone.
    let wal = open(&disk, &small()).unwrap();
    wal.write(batch(&vec![Change::Truncate(1, 2)])).unwrap();
    drop(wal);
    let wal = open(&disk, &small()).unwrap();
    assert_eq!(wal.recovery().suspects, []);
    assert_eq!(wal.recovery().damaged, []);
}

/// A disk on which a part of a file cannot be read.
#[derive(Clone)]
struct BadSector {
    disk: SimDisk,
    path: PathBuf,
    bytes: Range<u64>,
}

struct BadFile {
    file: Box<dyn DiskFile>,
    bytes: Range<u64>,
}

impl BadSector {
    fn file(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        match *path == self.path {
            true => Box::new(BadFile {
                file,
                bytes: self.bytes.clone(),
            }),
            false => file,
        }
    }
}

impl Disk for BadSector {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(path, self.disk.open(path)?))
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(path, self.disk.open_read(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn lock(&self, dir: &Path, mode: LockMode) -> io::Result<Box<dyn DirLock>> {
        self.disk.lock(dir, mode)
    }
}

impl DiskFile for BadFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = offset + buf.len() as u64;
        match offset < self.bytes.end && end > self.bytes.start {
            true => Err(io::Error::from_raw_os_error(5)),
            false => self.file.read_at(buf, offset),
        }
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch_hole(offset, len)
    }
    fn map(&self) -> io::Result<Map> {
        self.file.map()
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[test]
fn a_sector_that_cannot_be_read_is_an_error_and_nothing_is_cut() {
    let (disk, steps) = sealed();
    let expected = states(&steps).pop().unwrap();
    let (mut refused, mut opened) = (0, 0);
    for (path, bytes) in files(&disk, DIR.as_ref()) {
        for sector in 0..bytes.len() as u64 / 512 {
            let _replay = Replay(|| format!("sector {sector} of {}", path.display()));
            let disk = disk.fork();
            let bad = BadSector {
                disk: disk.clone(),
                path: path.clone(),
                bytes: sector * 512..sector * 512 + 512,
            };
            let is_io = |error: &Error| matches!(error, Error::Io { path: named, source, .. } if *named == path && source.raw_os_error() == Some(5));
            match Wal::open_on(Arc::new(bad), DIR, small()) {
                Err(error) => {
                    refused += 1;
                    assert!(is_io(&error), "{error}");
                }
                Ok(wal) => {
                    opened += 1;
                    assert_eq!(wal.recovery().cut, None);
                    for (group, content) in &expected {
                        for entry in &content.entries {
                            let index = entry.id.index;
                            match wal.entries(*group, index..index.next(), 0) {
                                Ok(read) => assert_eq!(read[0], *entry),
                                Err(error) => {
                                    let is_hit = is_hit(&bytes, &entry.payload, sector);
                                    assert!(is_io(&error) && is_hit, "{group}, {index}: {error}");
                                }
                            }
                        }
                    }
                }
            }
            assert_holds(&disk, &small(), &steps, 8);
        }
    }
    println!("{refused} times refused, {opened} times opened");
    assert!(refused > 10 && opened > 10, "{refused} {opened}");
}

/// Its payload is bad, and nobody needs it.
#[test]
fn what_its_own_frame_takes_away_is_not_suspect() {
    let gone = [
        Change::Remove(2),
        Change::Truncate(2, 0),
        purge(2, 3, 1),
        append(2, 1, 3, 2, 300),
    ];
    for change in gone {
        let _replay = Replay(|| format!("{change:?}"));
        let steps = [
            vec![append(1, 1, 2, 1, 100)],
            vec![append(2, 1, 3, 1, 300), change.clone()],
        ];
        let disk = killed_disk_with(&small(), &steps);
        let last = frames(&read_file(&disk, &segment(1))).pop().unwrap();
        flip(&disk, &segment(1), last.payload.start);
        for _ in 0..2 {
            let wal = open(&disk, &keeping(true)).unwrap();
            assert_eq!(wal.recovery().suspects, []);
            assert_eq!(state_of(&wal), states(&steps)[2]);
            assert_eq!(wal.suspect(GroupId(2)), None);
            drop(wal);
            disk.kill();
        }
    }
}
