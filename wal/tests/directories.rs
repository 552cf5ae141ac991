//! Directories that were tampered with: segments that are missing, doubled, renamed, restored from older copies, of another
//! length, from a clone. Opening says which file it is and changes nothing. What is no part of the log is not read.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use duramen_disk::{Disk, OsDisk, SimDisk};
use duramen_wal::{Damage, Error, Options, Result, Wal};
use support::*;

/// Some entries in each segment.
fn small() -> Options {
    options(12288)
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A directory on some disk.
struct Place {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    _removed_at_the_end: Option<tempfile::TempDir>,
}

impl Place {
    fn simulated() -> Place {
        let disk = SimDisk::new();
        disk.create_dir_all(DIR.as_ref()).unwrap();
        Place {
            disk: Arc::new(disk),
            dir: DIR.into(),
            _removed_at_the_end: None,
        }
    }

    fn real() -> Place {
        let dir = tempfile::tempdir().unwrap();
        Place {
            disk: Arc::new(OsDisk::new()),
            dir: dir.path().to_owned(),
            _removed_at_the_end: Some(dir),
        }
    }

    fn open(&self) -> Result<Wal> {
        Wal::open_on(self.disk.clone(), &self.dir, small())
    }

    fn files(&self) -> Files {
        files(&*self.disk, &self.dir)
    }

    /// The directory holds these files and no others.
    fn restore(&self, files: &Files) {
        let here = self.files();
        for path in here.keys().filter(|path| !files.contains_key(*path)) {
            self.disk.remove(path).unwrap();
        }
        for (path, bytes) in files
            .iter()
            .filter(|(path, bytes)| here.get(*path) != Some(bytes))
        {
            write_file(&*self.disk, path, bytes);
        }
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.named(&format!("{number:016x}.wal"))
    }

    fn named(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn copy(&self, from: &Path, to: &Path) {
        write_file(&*self.disk, to, &read_file(&*self.disk, from));
    }

    fn assert_holds(&self, steps: &[Step]) {
        let wal = self.open().unwrap();
        assert!(state_of(&wal) == states(steps)[steps.len()]);
        assert_eq!(wal.recovery().cut, None);
        assert_eq!(wal.recovery().damaged, []);
    }
}

/// How the log came to be as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// It was closed.
    Closed,
    /// Its process was killed: nothing marks the last frame.
    Killed,
    /// Its first segments were freed and became later ones. It was closed.
    Purged,
}

const SHAPES: [Shape; 3] = [Shape::Closed, Shape::Killed, Shape::Purged];

/// A log, and its directory after each of its steps.
struct Log {
    place: Place,
    steps: Vec<Step>,
    after: Vec<Files>,
    whole: Files,
    segments: Vec<u64>,
}

fn steps_of(shape: Shape) -> Vec<Step> {
    let one = |i| vec![append(1, i, i, 1, 2400), user(2, b"state")];
    let mut steps: Vec<Step> = (1..=24).map(one).collect();
    if shape == Shape::Purged {
        steps.insert(14, vec![purge(1, 10, 1)]);
    }
    steps
}

impl Log {
    fn new(place: Place, shape: Shape) -> Log {
        let steps = steps_of(shape);
        let wal = Wal::create_on(place.disk.clone(), &place.dir, small()).unwrap();
        let mut after = Vec::new();
        for step in &steps {
            wal.write(batch(step)).unwrap();
            after.push(place.files());
        }
        let killed = place.files();
        drop(wal);
        if shape == Shape::Killed {
            place.restore(&killed);
        }
        let whole = place.files();
        let segments: Vec<u64> = whole.keys().filter_map(|path| number_of(path)).collect();
        assert!(segments.len() >= 4, "{segments:?}");
        assert_eq!(segments[0] > 1, shape == Shape::Purged);
        Log {
            place,
            steps,
            after,
            whole,
            segments,
        }
    }

    /// Of every shape, and on real files.
    fn all() -> impl Iterator<Item = Log> {
        let simulated = SHAPES.map(|shape| (Place::simulated(), shape));
        let real = SHAPES.map(|shape| (Place::real(), shape));
        let all = simulated.into_iter().chain(real);
        all.map(|(place, shape)| Log::new(place, shape))
    }

    fn newest(&self) -> u64 {
        *self.segments.last().unwrap()
    }

    /// The first, a middle and the last segment.
    fn positions(&self) -> [u64; 3] {
        let middle = self.segments[self.segments.len() / 2];
        [self.segments[0], middle, self.newest()]
    }

    /// Opening is refused with such an error, and changes nothing. When all is undone the log is whole.
    fn refused(&self, tamper: impl FnOnce(&Place), expected: impl Fn(&Error) -> bool) {
        tamper(&self.place);
        let before = self.place.files();
        assert!(before != self.whole, "it was tampered with");
        let refused = error(self.place.open());
        assert!(expected(&refused), "{refused}");
        assert!(self.place.files() == before, "{refused}");
        self.place.restore(&self.whole);
    }

    /// What was done does not matter: the log is whole.
    fn whole(&self, tamper: impl FnOnce(&Place)) {
        tamper(&self.place);
        assert!(self.place.files() != self.whole, "it was tampered with");
        self.place.assert_holds(&self.steps);
        self.place.restore(&self.whole);
    }
}

fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    u64::from_str_radix(name.strip_suffix(".wal")?, 16).ok()
}

/// The files that are the log, and not space for it.
fn log_of(files: &Files) -> Vec<(&PathBuf, &Vec<u8>)> {
    let is_spare = |path: &PathBuf| path.extension().is_some_and(|end| end == "tmp");
    files.iter().filter(|(path, _)| !is_spare(path)).collect()
}

/// The file that an error is about.
fn path_of(error: &Error) -> Option<&Path> {
    match error {
        Error::Io { path, .. }
        | Error::Damaged { path, .. }
        | Error::DamagedDirectory { path, .. }
        | Error::MissingSegment { path }
        | Error::Foreign { path } => Some(path),
        _ => None,
    }
}

fn missing(expected: PathBuf) -> impl Fn(&Error) -> bool {
    move |error| matches!(error, Error::MissingSegment { path } if *path == expected)
}

fn foreign(expected: PathBuf) -> impl Fn(&Error) -> bool {
    move |error| matches!(error, Error::Foreign { path } if *path == expected)
}

fn damaged(expected: PathBuf) -> impl Fn(&Error) -> bool {
    move |error| {
        let is_damage = matches!(
            error,
            Error::Damaged { .. } | Error::DamagedDirectory { .. }
        );
        is_damage && path_of(error) == Some(&expected)
    }
}

#[test]
fn a_missing_segment_is_named_whatever_became_of_the_log() {
    for log in Log::all() {
        for number in log.positions() {
            let path = log.place.segment(number);
            log.refused(
                |place| place.disk.remove(&path).unwrap(),
                missing(path.clone()),
            );
        }
        log.place.assert_holds(&log.steps);
    }
}

/// Names that a person or a tool gives to a copy.
fn copies(place: &Place, number: u64) -> [PathBuf; 3] {
    [".wal.bak", " (copy).wal", ".wal~"].map(|end| place.named(&format!("{number:016x}{end}")))
}

#[test]
fn a_doubled_segment_is_named_or_not_read() {
    for log in Log::all() {
        for number in log.positions() {
            let original = log.place.segment(number);
            let next = log.place.segment(log.newest() + 1);
            log.refused(
                |place| place.copy(&original, &next),
                |error| {
                    damaged(next.clone())(error)
                        && matches!(
                            error,
                            Error::Damaged {
                                reason: Damage::Stranger,
                                ..
                            }
                        )
                },
            );
            for copy in copies(&log.place, number) {
                log.refused(|place| place.copy(&original, &copy), foreign(copy.clone()));
            }
            // As if it were left of a killed process: a file that waits to become a segment, a segment that was freed.
            log.whole(|place| place.copy(&original, &place.named("spare-77.tmp")));
            if log.segments[0] > 1 {
                log.whole(|place| place.copy(&original, &place.segment(1)));
            }
        }
        log.place.assert_holds(&log.steps);
    }
}

/// Also not under a name that `open` would clear away.
#[test]
fn a_renamed_segment_is_missed_under_its_name_and_not_removed() {
    for log in Log::all() {
        for number in log.positions() {
            let path = log.place.segment(number);
            let others = [
                log.place.segment(log.newest() + 1),
                log.place.named("spare-77.tmp"),
                log.place.named("segment.tmp"),
            ];
            for other in others {
                log.refused(
                    |place| place.disk.rename(&path, &other).unwrap(),
                    missing(path.clone()),
                );
            }
            for copy in copies(&log.place, number) {
                log.refused(
                    |place| place.disk.rename(&path, &copy).unwrap(),
                    foreign(copy.clone()),
                );
            }
        }
        log.place.assert_holds(&log.steps);
    }
}

/// When it was copied the segment ended earlier. If it lacks frames that is said; if it lacks its seal alone, nothing is lost.
#[test]
fn a_segment_restored_from_an_older_copy_is_named() {
    let (mut refused, mut harmless) = (0, 0);
    for shape in SHAPES {
        let log = Log::new(Place::simulated(), shape);
        for (k, then) in log.after.iter().enumerate().rev().skip(1) {
            for number in log.segments.iter().copied() {
                let path = log.place.segment(number);
                let Some(bytes) = then.get(&path).filter(|bytes| log.whole[&path] != **bytes)
                else {
                    continue;
                };
                let _replay = Replay(|| format!("{shape:?}: {number} as after step {k}"));
                if number == log.newest() && shape == Shape::Killed {
                    continue; // past every mark that is left
                }
                let restore = |place: &Place| write_file(&*place.disk, &path, bytes);
                let whole = &log.whole[&path];
                let frames_end = seal(whole).map_or(whole.len(), |seal| seal.directories.start);
                if bytes[..frames_end] == whole[..frames_end] {
                    harmless += 1;
                    log.whole(restore);
                } else {
                    refused += 1;
                    log.refused(restore, damaged(path.clone()));
                }
            }
        }
        log.place.assert_holds(&log.steps);
    }
    println!("{refused} older copies refused, {harmless} harmless");
    assert!(refused > 30, "{refused}");
}

/// A backup was put over a log that had gone on, all of it or some files. It never gives a state that no backup was of.
#[test]
fn a_log_restored_in_part_is_refused_or_whole() {
    let (mut refused, mut whole) = (0, 0);
    for shape in [Shape::Closed, Shape::Purged] {
        let log = Log::new(Place::simulated(), shape);
        let states = states(&log.steps);
        for (k, backup) in log.after.iter().enumerate() {
            let paths: Vec<&PathBuf> = backup.keys().collect();
            for chosen in 1..1_u32 << paths.len() {
                let _replay = Replay(|| format!("{shape:?}: files {chosen:b} as after step {k}"));
                let is_chosen = |n: &usize| chosen & 1 << n != 0;
                for n in (0..paths.len()).filter(is_chosen) {
                    write_file(&*log.place.disk, paths[n], &backup[paths[n]]);
                }
                let before = log.place.files();
                match log.place.open() {
                    Ok(wal) => {
                        // All of the log is as it was then: the backup, which no file can tell.
                        let is_backup = log_of(&before) == log_of(backup);
                        let held = if is_backup { k + 1 } else { log.steps.len() };
                        assert!(state_of(&wal) == states[held], "not {held} steps");
                        assert_eq!(wal.recovery().damaged, []);
                        whole += u64::from(!is_backup);
                    }
                    Err(error) => {
                        refused += 1;
                        let path = path_of(&error).unwrap_or_else(|| panic!("{error}"));
                        assert!(path.parent() == Some(&log.place.dir), "{error}");
                        assert!(log.place.files() == before, "{error}");
                    }
                }
                log.place.restore(&log.whole);
            }
        }
    }
    println!("{refused} refused, {whole} whole");
    assert!(refused > 200 && whole > 30, "{refused} {whole}");
}

/// A directory was copied, and both copies went on. Both are logs. A file of one in the other is noticed, unless the whole
/// log is that of the other then: no file says which of two histories is the right one.
#[test]
fn files_of_a_cloned_directory_do_not_mix_with_those_of_the_original() {
    let ours = steps_of(Shape::Closed);
    let common = &ours[..10];
    let theirs: Vec<Step> = (11..=24).map(|i| vec![append(1, i, i, 2, 2300)]).collect();
    let theirs = [common, &theirs].concat();

    let (original, clone) = (Place::simulated(), Place::simulated());
    let wal = Wal::create_on(original.disk.clone(), &original.dir, small()).unwrap();
    write_all(&wal, common);
    clone.restore(&original.files());
    // At the same time: the lock of one is not that of the other.
    let other = clone.open().unwrap();
    write_all(&wal, &ours[10..]);
    write_all(&other, &theirs[10..]);
    drop((wal, other));
    original.assert_holds(&ours);
    clone.assert_holds(&theirs);

    let (mut refused, mut opened) = (0, 0);
    let histories = [states(&ours).pop().unwrap(), states(&theirs).pop().unwrap()];
    let (whole, strange) = (original.files(), clone.files());
    for (path, bytes) in strange
        .iter()
        .filter(|(path, bytes)| whole.get(*path) != Some(bytes))
    {
        let _replay = Replay(|| path.display().to_string());
        write_file(&*original.disk, path, bytes);
        let before = original.files();
        match original.open() {
            Ok(wal) => {
                opened += 1;
                assert!(histories.contains(&state_of(&wal)));
            }
            Err(error) => {
                refused += 1;
                let path = path_of(&error).unwrap_or_else(|| panic!("{error}"));
                assert_eq!(path.parent(), Some(&*original.dir));
                assert!(original.files() == before, "{error}");
            }
        }
        original.restore(&whole);
    }
    println!("{refused} files refused, {opened} harmless");
    assert!(refused >= 2, "{refused}");
    original.assert_holds(&ours);
}

/// A segment has its full length before its first frame.
#[test]
fn a_segment_of_another_length_is_damaged_also_where_nothing_marks_its_end() {
    for shape in SHAPES {
        let log = Log::new(Place::simulated(), shape);
        for number in log.positions() {
            let path = log.place.segment(number);
            let full = log.whole[&path].len();
            let is_unmarked = shape == Shape::Killed && number == log.newest();
            let shorter = (0..full).step_by(if is_unmarked { 1 } else { 97 });
            for len in shorter.chain([full + 1, full + 4096, 2 * full]) {
                let _replay = Replay(|| format!("{shape:?}: {number} with {len} bytes"));
                let file = log.place.disk.open(&path).unwrap();
                file.set_len(len as u64).unwrap();
                let refused = error(log.place.open());
                assert!(damaged(path.clone())(&refused), "{refused}");
                assert_eq!(file.len().unwrap(), len as u64);
                write_file(&*log.place.disk, &path, &log.whole[&path]);
            }
        }
        assert!(log.place.files() == log.whole);
        log.place.assert_holds(&log.steps);
    }
}

/// A segment is sealed when its successor is durable: the seal says that there was one, also where CONTROL is too old to.
#[test]
fn a_missing_last_segment_is_noticed_by_the_seal_before_it_when_control_is_older() {
    for shape in [Shape::Closed, Shape::Purged] {
        let log = Log::new(Place::simulated(), shape);
        let control = log.place.named("CONTROL");
        let last = log.place.segment(log.newest());
        let before_last = |then: &&Files| !then.contains_key(&log.place.segment(log.newest() - 1));
        let old = &log.after.iter().rfind(before_last).unwrap()[&control];
        let tamper = |place: &Place| {
            write_file(&*place.disk, &control, old);
            place.disk.remove(&last).unwrap();
        };
        log.refused(tamper, missing(last.clone()));
    }
}
