//! Cutting damage: what is kept is what was, what is lost is said, the old log stands aside, and no crash leaves half of it.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use duramen_disk::{DirLock, Disk, DiskFile, Failure, LockMode, SimDisk, every_crash, every_error};
use duramen_wal::{CutPlan, Error, GroupId, Index, LogId, Options, Result, Term, Wal};
use support::*;

fn small() -> Options {
    options(1 << 14)
}

/// Group 1 has entries in all segments, group 2 in the first, group 3 in the last one alone; group 1 votes first and last. Its terms go
/// up, so that what is lost is not made up from what stands around it.
fn steps() -> Vec<Step> {
    let mut steps = vec![vec![
        append(2, 1, 3, 1, 100),
        vote(2, 1, 1),
        user(2, b"two"),
    ]];
    for i in 1..=24 {
        steps.push(vec![append(1, i, i, i, 2000)]);
    }
    steps[2].push(vote(1, 2, 1));
    steps.push(vec![vote(1, 24, 2)]);
    steps.push(vec![append(3, 1, 2, 7, 50), user(3, b"three")]);
    steps
}

fn damaged_disk() -> (SimDisk, u64) {
    let disk = disk_with(&small(), &steps());
    let names = disk.list(DIR.as_ref()).unwrap();
    let segments = names.iter().filter(|name| name.ends_with(".wal"));
    let with_frames =
        segments.filter(|name| !frames(&read_file(&disk, &Path::new(DIR).join(name))).is_empty());
    let last = with_frames.count() as u64;
    assert!(
        last >= 4 && disk.open_read(&segment(1)).is_ok(),
        "{names:?}"
    );
    (disk, last)
}

fn cut(disk: &SimDisk) -> Result<CutPlan> {
    Wal::cut_on(Arc::new(disk.clone()), DIR, |_| ())
}

fn plan(disk: &SimDisk) -> Result<CutPlan> {
    Wal::plan_cut_on(Arc::new(disk.clone()), DIR, |_| ())
}

fn is_clean(disk: &SimDisk) -> bool {
    let verified = Wal::verify_on(Arc::new(disk.clone()), DIR, |_| true);
    verified.is_ok_and(|found| !found.is_damaged() && !found.is_torn())
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        term: Term(term),
        index: Index(index),
    }
}

/// The indexes that each group keeps and had, of those that lose something.
fn losses(plan: &CutPlan) -> Vec<(u64, u64, u64)> {
    let groups = plan.groups.iter();
    groups
        .map(|cut| (cut.group.0, cut.kept.index.0, cut.end.index.0))
        .collect()
}

/// Plans and cuts. What was planned is done, the plan changed nothing, the old log stands aside unchanged, and the new one is
/// sound and holds for each group what it once held, up to some entry.
fn cut_checked(disk: &SimDisk, states: &[State]) -> CutPlan {
    cut_and_look(disk, states, true)
}

/// `all_is_said`: and what is lost was said.
fn cut_and_look(disk: &SimDisk, states: &[State], all_is_said: bool) -> CutPlan {
    let before = files(disk, DIR.as_ref());
    disk.set_read_only(true);
    let planned = plan(disk).unwrap();
    disk.set_read_only(false);
    assert_eq!(files(disk, DIR.as_ref()), before);
    let done = cut(disk).unwrap();
    assert_eq!(format!("{done:?}"), format!("{planned:?}"));
    let aside = files(disk, &done.aside).into_values();
    assert!(
        aside.eq(before.into_values()),
        "the old log is not as it was"
    );
    assert!(is_clean(disk));
    let wal = open(disk, &small()).unwrap();
    assert_once_was(&done, &state_of(&wal), states, all_is_said);
    done
}

fn assert_once_was(done: &CutPlan, found: &State, states: &[State], all_is_said: bool) {
    let last = states.last().unwrap();
    let is_end_known = !done.is_end_lost && all_is_said;
    if is_end_known {
        let groups: Vec<&GroupId> = last.keys().collect();
        assert_eq!(found.keys().collect::<Vec<_>>(), groups);
    }
    for (id, content) in found {
        let once = states.iter().filter_map(|state| state.get(id));
        let is_prefix = |once: &Content| {
            let from = |index: Index| index > content.purged.index;
            let entries: Vec<_> = once.entries.iter().filter(|e| from(e.id.index)).collect();
            content.entries.len() <= entries.len()
                && content
                    .entries
                    .iter()
                    .eq(&mut entries.into_iter().take(content.entries.len()))
        };
        assert!(once.clone().any(is_prefix), "group {id} never was so");
        if is_end_known {
            let last = &last[id];
            assert_eq!(content.hard_state, last.hard_state, "vote of group {id}");
            assert_eq!(content.user_record, last.user_record);
            assert_eq!(content.purged, last.purged);
            let loses = done.groups.iter().any(|cut| cut.group == *id);
            assert_eq!(!loses, content.entries == last.entries, "group {id}");
        }
    }
}

/// The frame of a segment in which an entry of group 1 is.
fn flip_payload(disk: &SimDisk, number: u64, nth: usize) -> u64 {
    let bytes = read_file(disk, &segment(number));
    let with_entry: Vec<FrameParts> = frames(&bytes)
        .into_iter()
        .filter(|frame| frame.payload.len() == 2000)
        .collect();
    let payload = &with_entry[nth].payload;
    flip(disk, &segment(number), payload.start + 900);
    let text = String::from_utf8_lossy(&bytes[payload.start..][..8]).into_owned();
    let index = text.split('.').nth(1).unwrap().split(' ').next().unwrap();
    index.parse().unwrap()
}

#[test]
fn of_each_group_what_stands_before_its_first_damaged_entry_is_kept() {
    let (disk, last) = damaged_disk();
    assert!(last > 4);
    for number in [4, 3, 2] {
        let index = flip_payload(&disk, number, 1);
        let spoiled = disk.fork();
        let done = cut_checked(&spoiled, &states(&steps()));
        assert_eq!(losses(&done), [(1, index - 1, 24)], "segment {number}");
        assert!(done.lost.is_empty() && done.is_loss());
        assert_eq!(done.groups[0].kept, log_id(index - 1, index - 1));
        assert_eq!(done.groups[0].first_lost(), Index(index));
    }
}

#[test]
fn a_damaged_seal_or_copy_loses_nothing() {
    let (disk, _) = damaged_disk();
    let bytes = read_file(&disk, &segment(2));
    let seal = seal(&bytes).unwrap();
    flip(&disk, &segment(2), seal.directories.start + 70);
    let doubled = frames(&bytes).into_iter().find(|f| f.copy.is_some());
    flip(&disk, &segment(2), doubled.unwrap().copy.unwrap().start);
    assert!(!is_clean(&disk));
    let done = cut_checked(&disk, &states(&steps()));
    assert!(!done.is_loss() && done.lost.is_empty(), "{done:?}");
}

#[test]
fn control_is_not_needed() {
    for spoil_control in [
        |disk: &SimDisk| disk.remove(&control()).unwrap(),
        |disk: &SimDisk| write_file(disk, &control(), &[0; 8192]),
        |disk: &SimDisk| write_file(disk, &control(), b""),
    ] {
        let (disk, _) = damaged_disk();
        spoil_control(&disk);
        let done = cut_checked(&disk, &states(&steps()));
        assert!(!done.is_loss(), "{done:?}");
        assert_eq!(done.lost.len(), 1);
    }
}

/// All copies of the directory of a segment's frame.
fn spoil_directories(disk: &SimDisk, number: u64, nth: usize) {
    let bytes = read_file(disk, &segment(number));
    let frame = frames(&bytes)[nth].clone();
    flip(disk, &segment(number), frame.directory.start);
    if let Some(copy) = frame.copy {
        flip(disk, &segment(number), copy.start);
    }
    if let Some(seal) = seal(&bytes) {
        flip(disk, &segment(number), seal.directories.start + 70);
    }
}

#[test]
fn a_frame_of_the_tail_that_cannot_be_named_ends_the_log_before_it_and_votes_are_in_doubt() {
    let (disk, last) = damaged_disk();
    spoil_directories(&disk, last, 1);
    assert!(matches!(
        open(&disk, &small()),
        Err(Error::DamagedDirectory { .. })
    ));
    let done = cut_checked(&disk, &states(&steps()));
    assert!(done.is_end_lost && done.is_loss());
    assert!(matches!(done.lost[..], [Error::DamagedDirectory { .. }]));
    let wal = open(&disk, &small()).unwrap();
    assert_eq!(wal.last(GroupId(2)), log_id(1, 3));
    assert!(wal.last(GroupId(1)).index > Index(10));
}

/// In a sealed one its entries have names, as long as the summary is whole.
#[test]
fn a_frame_of_a_sealed_segment_that_cannot_be_read_ends_its_groups_before_it() {
    let (disk, _) = damaged_disk();
    spoil_directories(&disk, 2, 3);
    let done = cut_checked(&disk, &states(&steps()));
    assert!(!done.is_end_lost);
    let [(1, kept, 24)] = losses(&done)[..] else {
        panic!("{done:?}")
    };
    assert!((1..20).contains(&kept));
}

/// A segment without seal, with a frame that cannot be named, in the middle.
#[test]
fn votes_that_can_be_read_behind_what_is_lost_are_kept() {
    let (disk, _) = damaged_disk();
    spoil_directories(&disk, 2, 3);
    let summary = seal(&read_file(&disk, &segment(2))).unwrap().summary;
    flip(&disk, &segment(2), summary.end - 20);
    assert!(matches!(
        open(&disk, &small()),
        Err(Error::DamagedDirectory { .. })
    ));
    let done = cut_checked(&disk, &states(&steps()));
    assert!(!done.is_end_lost);
    assert!(matches!(losses(&done)[..], [(1, 1.., 24)]), "{done:?}");
    let wal = open(&disk, &small()).unwrap();
    assert_eq!(wal.hard_state(GroupId(1)).term, Term(24));
    assert_eq!(wal.last(GroupId(3)), log_id(7, 2));
}

#[test]
fn a_segment_that_is_not_there_or_cannot_be_opened() {
    let spoil_file: [fn(&SimDisk, &Path); 3] = [
        |disk, path| disk.remove(path).unwrap(),
        |disk, path| flip(disk, path, 20),
        |disk, path| write_file(disk, path, b"short"),
    ];
    let (_, last) = damaged_disk();
    for number in 1..=last {
        for spoil_file in spoil_file {
            let (disk, _) = damaged_disk();
            spoil_file(&disk, &segment(number));
            assert!(open(&disk, &small()).is_err());
            let done = cut_checked(&disk, &states(&steps()));
            assert!(!done.lost.is_empty() && done.is_loss());
            assert_eq!(done.is_end_lost, number == last, "segment {number}");
            let wal = open(&disk, &small()).unwrap();
            match number {
                1 => assert_eq!(losses(&done), [(1, 0, 24), (2, 0, 3)]),
                _ => assert_eq!(wal.last(GroupId(2)), log_id(1, 3)),
            }
            assert_eq!(number > 1, wal.last(GroupId(1)).index > Index(0));
        }
    }
}

#[test]
fn what_the_disk_does_not_give_is_lost_like_what_is_damaged() {
    let (_, last) = damaged_disk();
    for (number, byte) in [(1, 0), (2, 9000), (3, 9000), (last, 200), (last, 2000)] {
        let (disk, _) = damaged_disk();
        disk.make_bad(&segment(number), byte..byte + 1).unwrap();
        let done = cut(&disk).unwrap();
        assert!(done.is_loss() && is_clean(&disk), "{done:?}");
        let found = state_of(&open(&disk, &small()).unwrap());
        assert_once_was(&done, &found, &states(&steps()), true);
    }
}

/// One term all along: what stands before the lost segment and what stands behind it belong together.
#[test]
fn groups_that_had_nothing_in_a_lost_segment_lose_nothing() {
    let mut steps = vec![vec![append(1, 1, 3, 5, 100), vote(1, 5, 1)]];
    for i in 1..=14 {
        steps.push(vec![append(2, i, i, 5, 2000)]);
    }
    steps.push(vec![append(1, 4, 6, 5, 100)]);
    let disk = disk_with(&small(), &steps);
    disk.remove(&segment(2)).unwrap();
    let done = cut_checked(&disk, &states(&steps));
    assert!(matches!(losses(&done)[..], [(2, 1.., 14)]), "{done:?}");
    let wal = open(&disk, &small()).unwrap();
    assert_eq!(wal.last(GroupId(1)), log_id(5, 6));
}

/// What was replaced in the lost segment is not put before what follows it.
#[test]
fn entries_that_may_have_been_replaced_are_not_joined_with_later_ones() {
    let mut steps = vec![vec![append(1, 1, 3, 5, 100)]];
    for i in 1..=7 {
        steps.push(vec![append(2, i, i, 5, 2000)]);
    }
    steps.push(vec![Change::Truncate(1, 1), append(1, 2, 3, 6, 100)]); // in segment 2
    for i in 8..=14 {
        steps.push(vec![append(2, i, i, 5, 2000)]);
    }
    steps.push(vec![append(1, 4, 6, 6, 100)]);
    let disk = disk_with(&small(), &steps);
    assert!(String::from_utf8_lossy(&read_file(&disk, &segment(2))).contains("1/6.2 "));
    disk.remove(&segment(2)).unwrap();
    let done = cut_checked(&disk, &states(&steps));
    assert!(losses(&done).contains(&(1, 3, 6)), "{done:?}");
    assert_eq!(done.groups[0].kept, log_id(5, 3));
}

#[test]
fn an_unfinished_write_is_left_out_and_is_no_loss() {
    let disk = killed_disk_with(&small(), &steps());
    let (_, last) = damaged_disk();
    let frame = frames(&read_file(&disk, &segment(last))).pop().unwrap();
    flip(&disk, &segment(last), frame.directory.start);
    if let Some(copy) = frame.copy {
        flip(&disk, &segment(last), copy.start);
    }
    let planned = plan(&disk).unwrap();
    assert!(planned.torn.is_some() && !planned.is_loss(), "{planned:?}");
    let done = cut(&disk).unwrap();
    assert!(is_clean(&disk));
    assert_eq!(done.groups_kept, 2); // The third began with that write.
}

#[test]
fn what_cannot_be_cut_is_refused_and_left_as_it_is() {
    type Spoil = fn(&SimDisk);
    type IsIt = fn(&Error) -> bool;
    let refused: [(Spoil, IsIt); 5] = [
        (
            |disk| (1..9).for_each(|number| drop(disk.remove(&segment(number)))),
            |error| matches!(error, Error::MissingSegment { .. }),
        ),
        (
            |disk| write_file(disk, &Path::new(DIR).join("stranger"), b"x"),
            |error| matches!(error, Error::Foreign { .. }),
        ),
        (
            |disk| {
                let names = disk.list(DIR.as_ref()).unwrap().into_iter();
                names.for_each(|name| disk.remove(&Path::new(DIR).join(name)).unwrap());
            },
            |error| matches!(error, Error::NotALog { .. }),
        ),
        (
            |disk| newer(disk, &segment(2), 64),
            |error| matches!(error, Error::Version { found: 2, .. }),
        ),
        (
            |disk| newer(disk, &control(), 64),
            |error| matches!(error, Error::Version { found: 2, .. }),
        ),
    ];
    for (spoil, is_it) in refused {
        let (disk, _) = damaged_disk();
        spoil(&disk);
        let before = files(&disk, DIR.as_ref());
        for outcome in [plan(&disk), cut(&disk)] {
            let error = error(outcome);
            assert!(is_it(&error), "{error:?}");
        }
        assert_eq!(files(&disk, DIR.as_ref()), before);
        assert_eq!(disk.list(Path::new("/")).unwrap(), ["log"]);
    }
    let (disk, _) = damaged_disk();
    let wal = open(&disk, &small()).unwrap();
    for outcome in [plan(&disk), cut(&disk)] {
        assert!(matches!(outcome, Err(Error::Locked { .. })));
    }
    drop(wal);
}

/// Says that a header of so many bytes is of version 2, with the right checksum.
fn newer(disk: &SimDisk, path: &Path, len: usize) {
    spoil(
        disk,
        path,
        0,
        |bytes| {
            bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&bytes[..12]);
            hasher.update(&bytes[16..]);
            bytes[12..16].copy_from_slice(&hasher.finalize().to_le_bytes());
        },
        len,
    );
}

/// A small log with a damaged entry.
fn crashing() -> (SimDisk, Vec<Step>) {
    let steps = vec![
        vec![append(1, 1, 1, 1, 600), vote(1, 1, 1)],
        vec![append(1, 2, 3, 1, 600), append(2, 1, 1, 1, 10)],
    ];
    let disk = disk_with(&small(), &steps);
    let frame = frames(&read_file(&disk, &segment(1))).pop().unwrap();
    flip(&disk, &segment(1), frame.payload.start + 300);
    (disk, steps)
}

/// After any crash the old log is as it was or the new one is whole, and the same call again makes it so.
fn assert_old_or_new(disk: &SimDisk, old: &BTreeMap<PathBuf, Vec<u8>>, new: &State) -> bool {
    let is_new = is_clean(disk);
    match is_new {
        true => assert_eq!(state_of(&open(disk, &small()).unwrap()), *new),
        false => {
            assert_eq!(files(disk, DIR.as_ref()), *old);
            cut(disk).unwrap();
            assert!(is_clean(disk));
            assert_eq!(state_of(&open(disk, &small()).unwrap()), *new);
        }
    }
    // The old one is there in any case.
    let names = disk.list(Path::new("/")).unwrap();
    let aside = names.iter().filter(|name| name.starts_with("log.aside-"));
    let mut aside = aside.map(|name| files(disk, &Path::new("/").join(name)));
    assert!(
        aside.any(|files| files.values().eq(old.values())),
        "{names:?}"
    );
    is_new
}

#[test]
fn every_crash_while_cutting() {
    let (disk, _) = crashing();
    let old = files(&disk, DIR.as_ref());
    let after = disk.fork();
    cut(&after).unwrap();
    let new = state_of(&open(&after, &small()).unwrap());
    assert_eq!(new[&GroupId(1)].entries.len(), 1);
    let (mut olds, mut news) = (0, 0);
    let crashes = every_crash(&disk, |disk| cut(disk).is_ok())
        .units_max(4)
        .seeds(2);
    for crash in crashes.torn_seeds(1) {
        let is_new = assert_old_or_new(&crash.disk, &old, &new);
        assert!(is_new || !crash.outcome, "it was said to be done");
        olds += u64::from(!is_new);
        news += u64::from(is_new);
    }
    println!("proof: {olds} crashes left the old log, {news} the new one");
    assert!(olds > 50 && news > 0, "{olds} {news}");
}

#[test]
fn every_error_while_cutting() {
    let (disk, _) = crashing();
    let old = files(&disk, DIR.as_ref());
    let after = disk.fork();
    cut(&after).unwrap();
    let new = state_of(&open(&after, &small()).unwrap());
    let mut failed = 0;
    for error in every_error(&disk, Failure::EIO, |disk| cut(disk).map(drop)) {
        failed += u64::from(error.outcome.is_err());
        if error.outcome.is_ok() {
            // A read that fails is one more entry that cannot be read; it is in the old log, aside.
            assert!(is_clean(&error.disk));
            continue;
        }
        assert_old_or_new(&error.disk, &old, &new);
    }
    assert!(failed > 20, "{failed}");
}

#[test]
fn a_full_disk_leaves_the_old_log_and_its_space() {
    let (disk, _) = crashing();
    let old = files(&disk, DIR.as_ref());
    disk.set_free_bytes(Some(64 << 10));
    let error = error(cut(&disk));
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert_eq!(files(&disk, DIR.as_ref()), old);
    assert_eq!(
        disk.list(Path::new("/log.aside-1")).unwrap(),
        Vec::<String>::new()
    );
    disk.set_free_bytes(None);
    assert_eq!(cut(&disk).unwrap().aside, Path::new("/log.aside-1"));
    assert_eq!(plan(&disk).unwrap().aside, Path::new("/log.aside-2"));
}

/// What was done to a log, drawn.
fn random_steps(random: &mut fastrand::Rng) -> Vec<Step> {
    let mut state = State::new();
    let mut steps: Vec<Step> = Vec::new();
    let mut term = 1;
    for _ in 0..random.u64(5..60) {
        term += random.u64(0..2) * random.u64(0..2);
        let id = random.u64(1..4);
        let group = state.entry(GroupId(id)).or_default();
        let first = group.purged.index.0 + 1;
        let last = group.purged.index.0 + group.entries.len() as u64;
        let (many, bytes) = (random.u64(0..3), random.usize(0..1500));
        let change = match random.u8(0..10) {
            0 => vote(id, term, random.u64(1..4)),
            1 if last >= first => {
                let purged = random.u64(first..=last);
                let of = group.entries[(purged - first) as usize].id.term.0;
                purge(id, purged, of)
            }
            // Replaced by another leader's.
            2 | 3 if last >= first => {
                term += 1;
                append(
                    id,
                    random.u64(first.max(last.saturating_sub(2))..=last),
                    last + many,
                    term,
                    bytes,
                )
            }
            _ => append(id, last + 1, last + 1 + many, term, bytes),
        };
        apply(&mut state, &change);
        steps.push(vec![change]);
    }
    steps
}

fn spoil_anything(disk: &SimDisk, random: &mut fastrand::Rng) -> String {
    let files: Vec<(PathBuf, Vec<u8>)> = files(disk, DIR.as_ref()).into_iter().collect();
    let (path, bytes) = &files[random.usize(..files.len())];
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    let used = match is_sealed_or_control(bytes) {
        true => bytes.len(),
        false => written + 1,
    };
    let at = random.usize(..used.max(1));
    let what = match bytes.is_empty() {
        true => 0,
        false => random.u8(0..8),
    };
    match what {
        0 => disk.remove(path).unwrap(),
        1 => write_file(disk, path, &bytes[..at]),
        2 | 3 => {
            let sector = at / 512 * 512;
            let len = (bytes.len() - sector).min(512);
            spoil(disk, path, sector, |bytes| bytes.fill(0), len);
        }
        _ => flip(disk, path, at),
    }
    format!("{what} at {at} of {}", path.display())
}

fn is_sealed_or_control(bytes: &[u8]) -> bool {
    bytes.len() <= 8192 || is_sealed(bytes)
}

/// Whatever is damaged: what is kept once was, and if one place is damaged all that is lost is said.
#[test]
fn random_logs_with_random_damage() {
    let (mut cuts, mut losses, mut refused) = (0, 0, 0);
    for seed in 0..600 {
        let mut random = fastrand::Rng::with_seed(seed);
        let steps = random_steps(&mut random);
        let disk = disk_with(&small(), &steps);
        let places = random.u64(1..3);
        let spoiled: Vec<String> = (0..places)
            .map(|_| spoil_anything(&disk, &mut random))
            .collect();
        let _replay = Replay(|| format!("seed {seed}: {spoiled:?}"));
        if let Err(error) = plan(&disk) {
            // Nothing is left: what is wrong is what `open` says, or the one segment that has frames is lost.
            assert!(open(&disk, &small()).is_err(), "{error}");
            refused += 1;
            continue;
        }
        let done = cut_and_look(&disk, &states(&steps), places == 1);
        cuts += 1;
        losses += u64::from(done.is_loss());
    }
    println!("proof: {cuts} cuts, {losses} with losses, {refused} refused");
    assert!(cuts > 400 && losses > 100, "{cuts} {losses} {refused}");
}

/// Files as they are, and no two directories change places.
struct NoExchange(SimDisk);

impl Disk for NoExchange {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.open(path)
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.open_read(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn lock(&self, dir: &Path, mode: LockMode) -> io::Result<Box<dyn DirLock>> {
        self.0.lock(dir, mode)
    }
}

#[test]
fn where_directories_cannot_change_places_the_new_log_stands_complete_beside_the_old_one() {
    let (disk, _) = crashing();
    let old = files(&disk, DIR.as_ref());
    let error = error(Wal::cut_on(Arc::new(NoExchange(disk.clone())), DIR, |_| ()));
    let text = error.to_string();
    assert!(
        text.contains("the new log, which stands beside it"),
        "{text}"
    );
    assert_eq!(files(&disk, DIR.as_ref()), old);
    let beside: Arc<dyn Disk> = Arc::new(disk);
    let found = Wal::verify_on(beside, "/log.aside-1", |_| true).unwrap();
    assert!(!found.is_damaged());
    assert_eq!(found.scrub.entries, 2);
}
