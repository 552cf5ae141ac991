//! Every bit and every length of a small log, lost and misplaced sectors, torn ends. What was known to be durable is served
//! from a copy, reported entry by entry, or an error that names the place; never cut, never older. Only the last frame, which
//! nothing says was durable, may be cut.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use duramen_disk::{Disk, OsDisk, SimDisk};
use duramen_wal::{Damage, Error, GroupId, Index, Options, Wal};
use support::*;

fn small() -> Options {
    options(12288)
}

/// Three segments, two of them sealed; votes in each, entries that were replaced and purged. The last frame has no vote.
fn steps() -> Vec<Step> {
    vec![
        vec![append(1, 1, 2, 1, 30), vote(1, 1, 1)],
        vec![append(2, 1, 1, 1, 60)],
        vec![append(1, 3, 3, 1, 10), user(1, b"keep")],
        vec![append(2, 2, 3, 1, 2700)],
        vec![vote(2, 3, 3), append(2, 4, 4, 2, 20)],
        vec![purge(1, 1, 1), append(1, 4, 4, 1, 100)],
        vec![append(2, 5, 6, 3, 2700)],
        vec![vote(1, 2, 2), append(1, 5, 5, 2, 7)],
        vec![append(1, 6, 6, 2, 20), append(2, 6, 7, 5, 3)],
        vec![append(1, 7, 8, 3, 20), append(2, 8, 8, 5, 3)],
    ]
}

const TAIL: u64 = 3;

/// They leave the last segment so full that the next one is prepared, and not used yet.
fn steps_to_prepare() -> Vec<Step> {
    let mut steps = steps();
    steps.push(vec![append(2, 9, 9, 5, 5000)]);
    steps
}

const PREPARED: u64 = 4;

/// All is marked: the log was closed.
fn closed() -> SimDisk {
    let disk = disk_with(&small(), &steps());
    assert_eq!(files(&disk, DIR.as_ref()).len(), TAIL as usize + 1);
    disk
}

/// The last frame is not marked.
fn killed() -> SimDisk {
    killed_disk_with(&small(), &steps())
}

/// Behind the last segment with a frame there is one without.
fn prepared() -> [SimDisk; 2] {
    let (closed, killed) = (
        disk_with(&small(), &steps_to_prepare()),
        killed_disk_with(&small(), &steps_to_prepare()),
    );
    for disk in [&closed, &killed] {
        assert_eq!(frames(&read_file(disk, &segment(PREPARED))), []);
        assert!(!frames(&read_file(disk, &segment(TAIL))).is_empty());
        assert_eq!(files(disk, DIR.as_ref()).len(), PREPARED as usize + 1);
    }
    [closed, killed]
}

/// What a byte of a segment belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    SegmentHeader,
    FrameHeader,
    /// Of the frame that begins here.
    Payload(u64),
    /// The only directory of the frame that begins here, with this number in the segment.
    Directory(u64, usize),
    /// One of two.
    OneDirectory,
    Padding,
    /// No frame and no seal.
    Free,
    /// A copy of the directories, a summary of them, and where both are.
    Seal,
}

fn part(segment: &[u8], frames: &[FrameParts], byte: usize) -> Part {
    let frames_end = frames.last().map_or(64, |last| last.end);
    let seal = seal(segment).map_or(segment.len(), |seal| seal.directories.start);
    match byte {
        0..64 => return Part::SegmentHeader,
        _ if byte >= seal => return Part::Seal,
        _ if byte >= frames_end => return Part::Free,
        _ => {}
    }
    let number = frames.iter().position(|frame| byte < frame.end).unwrap();
    let frame = &frames[number];
    let in_copy = frame.copy.as_ref().is_some_and(|copy| copy.contains(&byte));
    match byte {
        _ if byte < frame.header + 40 => Part::FrameHeader,
        _ if frame.payload.contains(&byte) => Part::Payload(frame.header as u64),
        _ if frame.directory.contains(&byte) && frame.copy.is_some() => Part::OneDirectory,
        _ if frame.directory.contains(&byte) => Part::Directory(frame.header as u64, number),
        _ if in_copy => Part::OneDirectory,
        _ => Part::Padding,
    }
}

/// What a log gives, and which of its entries it does not.
struct Served {
    wal: Wal,
    state: State,
    /// Group, index, and where in which segment.
    damaged: Vec<(GroupId, Index, PathBuf, u64)>,
}

/// Reads all of a log, each damaged entry as the model has it. Everything else must be there.
fn served(wal: Wal, expected: &State) -> Served {
    let mut served = State::new();
    let mut damaged = Vec::new();
    for group in wal.groups() {
        let mut content = Content {
            purged: wal.purged(group),
            hard_state: wal.hard_state(group),
            user_record: wal.user_record(group),
            entries: Vec::new(),
        };
        let range = content.purged.index.next()..wal.last(group).index.next();
        if let Ok(entries) = wal.entries(group, range.clone(), u64::MAX) {
            content.entries = entries;
        } else {
            for index in range.start.0..range.end.0 {
                match wal.entries(group, Index(index)..Index(index + 1), 0) {
                    Ok(entry) => content.entries.extend(entry),
                    Err(Error::DamagedEntry {
                        group: named,
                        id,
                        path,
                        offset,
                        reason: Damage::Checksum,
                    }) => {
                        damaged.push((group, Index(index), path, offset));
                        let at = index - content.purged.index.0 - 1;
                        let entry = expected[&group].entries[at as usize].clone();
                        assert_eq!((named, id), (group, entry.id));
                        assert_eq!(wal.term(group, entry.id.index), Some(entry.id.term));
                        content.entries.push(entry);
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
        served.insert(group, content);
    }
    Served {
        wal,
        state: served,
        damaged,
    }
}

/// Opens the log with spoiled bytes. An error has changed nothing.
fn open_spoiled(spoiled: &SimDisk) -> Result<Wal, Error> {
    let opened = open(&spoiled.fork(), &small());
    if opened.is_err() {
        let before = files(spoiled, DIR.as_ref());
        assert!(open(spoiled, &small()).is_err());
        assert_eq!(files(spoiled, DIR.as_ref()), before);
    }
    opened
}

#[derive(Debug, Default)]
struct Counts {
    errors: u64,
    damaged: u64,
    cut: u64,
    same: u64,
}

/// Flips each bit of a segment, one after the other; where there is nothing, one of each byte.
fn every_bit(disk: &SimDisk, steps: &[Step], number: u64, last_is_marked: bool) -> Counts {
    let states = states(steps);
    let bytes = read_file(disk, &segment(number));
    let frames = frames(&bytes);
    let mut counts = Counts::default();
    for byte in 0..bytes.len() {
        let part = part(&bytes, &frames, byte);
        for bit in 0..8 {
            let nothing = matches!(part, Part::Free | Part::Padding);
            if nothing && bit != byte % 8 {
                continue;
            }
            let flipped = Flipped { number, byte, part };
            let _replay = Replay(|| format!("bit {bit} of {flipped:?}"));
            let spoiled = disk.fork();
            spoil(
                &spoiled,
                &segment(number),
                byte,
                |bytes| bytes[0] ^= 1 << bit,
                1,
            );
            one_bit(
                &spoiled,
                &states,
                &flipped,
                &frames,
                last_is_marked,
                &mut counts,
            );
        }
    }
    println!("segment {number}: {counts:?}");
    counts
}

/// Where a bit was flipped.
#[derive(Debug)]
struct Flipped {
    /// Of the segment.
    number: u64,
    byte: usize,
    part: Part,
}

fn one_bit(
    spoiled: &SimDisk,
    states: &[State],
    flipped: &Flipped,
    frames: &[FrameParts],
    last_is_marked: bool,
    counts: &mut Counts,
) {
    let Flipped { number, byte, part } = *flipped;
    let all = states.len() - 1;
    // Where the last frame is, and what follows it.
    let last = frames.last().map_or(64..64, |last| last.header..last.end);
    let is_unmarked = !last_is_marked && last.contains(&byte);
    let is_tail = number >= TAIL;
    let wal = match open_spoiled(spoiled) {
        Ok(wal) => wal,
        Err(error) => {
            counts.errors += 1;
            let expected = match (&error, part) {
                (
                    Error::Damaged {
                        path,
                        offset: 0,
                        reason,
                    },
                    Part::SegmentHeader,
                ) => *path == segment(number) && matches!(reason, Damage::Magic | Damage::Checksum),
                (Error::DamagedDirectory { path, offset, .. }, Part::Directory(at, _)) => {
                    *path == segment(number) && *offset == at && is_tail && !is_unmarked
                }
                _ => false,
            };
            assert!(expected, "{error}");
            return;
        }
    };
    let cut = wal.recovery().cut.clone();
    let reported = wal.recovery().damaged.clone();
    let is_cut = is_unmarked && matches!(part, Part::Payload(_) | Part::Directory(..));
    let served = served(wal, &states[all]);
    assert_eq!(served.state, states[if is_cut { all - 1 } else { all }]);
    match cut {
        Some(cut) => {
            counts.cut += 1;
            assert_eq!(cut.path, segment(number));
            let from = if is_cut { last.start } else { last.end };
            assert_eq!(cut.offset, from as u64);
            assert!(is_cut || is_tail && part == Part::Free);
            let is_suspect = matches!(part, Part::Payload(_));
            assert_eq!(cut.suspects.len(), usize::from(is_suspect));
        }
        None => assert!(!(is_cut || is_tail && part == Part::Free)),
    }
    assert!(served.damaged.len() <= 1);
    for (group, index, path, offset) in &served.damaged {
        counts.damaged += 1;
        assert!(matches!(part, Part::Payload(_)) && *path == segment(number));
        let len = served.state[group]
            .entries
            .iter()
            .find(|entry| entry.id.index == *index);
        let payload = *offset as usize..*offset as usize + len.unwrap().payload.len();
        assert!(payload.contains(&byte), "{payload:?}");
        // `open` looks at the payloads of the last segment only.
        let found = reported.iter().any(|reported| {
            let entry = &reported.entry;
            reported.path == *path
                && (entry.group, entry.id.index, entry.offset) == (*group, *index, *offset)
        });
        assert_eq!(found, is_tail, "{reported:?}");
    }
    let harmed = !served.damaged.is_empty();
    counts.same += u64::from(!harmed && !is_cut);
    drop(served.wal);
}

/// How many bits of payload a segment holds of entries that are still in the log.
fn live_payload_bits(number: u64, disk: &SimDisk) -> u64 {
    let bytes = read_file(disk, &segment(number));
    let state = states(&steps()).pop().unwrap();
    let entries = state.values().flat_map(|content| &content.entries);
    let here = entries.filter(|entry| {
        bytes
            .windows(entry.payload.len())
            .any(|at| at == entry.payload)
    });
    here.map(|entry| 8 * entry.payload.len() as u64).sum()
}

#[test]
fn every_bit_of_a_sealed_segment() {
    let disk = closed();
    for number in 1..TAIL {
        let bytes = read_file(&disk, &segment(number));
        let seal = seal(&bytes).unwrap();
        assert!(!seal.directories.is_empty() && !seal.summary.is_empty());
        let counts = every_bit(&disk, &steps(), number, true);
        assert_eq!(counts.errors, 64 * 8);
        assert_eq!(counts.damaged, live_payload_bits(number, &disk));
        assert_eq!(counts.cut, 0);
    }
}

#[test]
fn every_bit_of_the_last_segment_when_all_is_marked() {
    let disk = closed();
    let counts = every_bit(&disk, &steps(), TAIL, true);
    assert_eq!(counts.damaged, live_payload_bits(TAIL, &disk));
    assert!(counts.errors > 2000 && counts.cut > 5000, "{counts:?}");
}

#[test]
fn every_bit_of_the_last_segment_when_its_last_frame_is_not_marked() {
    let disk = killed();
    let counts = every_bit(&disk, &steps(), TAIL, false);
    assert!(counts.errors > 1000 && counts.cut > 6000, "{counts:?}");
}

/// Its header was durable before it had its name. Behind that are zeros: what else is there is cut, and nothing is lost.
#[test]
fn every_bit_of_a_segment_that_is_prepared() {
    for (disk, last_is_marked) in prepared().into_iter().zip([true, false]) {
        let bytes = read_file(&disk, &segment(PREPARED)).len() as u64;
        let counts = every_bit(&disk, &steps_to_prepare(), PREPARED, last_is_marked);
        assert_eq!(counts.errors, 64 * 8);
        assert_eq!((counts.damaged, counts.cut), (0, bytes - 64));
        assert_eq!(counts.same, counts.cut);
    }
}

#[test]
fn every_bit_of_control_is_served_by_the_other_slot() {
    for disk in [closed(), killed()] {
        for bit in 0..read_file(&disk, &control()).len() * 8 {
            let _replay = Replay(|| format!("bit {bit}"));
            let spoiled = disk.fork();
            spoil(
                &spoiled,
                &control(),
                bit / 8,
                |bytes| bytes[0] ^= 1 << (bit % 8),
                1,
            );
            assert_holds(&spoiled, &small(), &steps(), 10);
        }
    }
}

/// A segment has its full length before its first frame; a CONTROL both its slots.
#[test]
fn a_file_of_another_length_is_damaged() {
    let disk = closed();
    for (path, bytes) in files(&disk, DIR.as_ref()) {
        let lens = if path == control() {
            0..bytes.len()
        } else {
            0..bytes.len() + 50
        };
        for len in lens.filter(|len| *len != bytes.len()) {
            let _replay = Replay(|| format!("{} with {len} bytes", path.display()));
            let spoiled = disk.fork();
            let file = spoiled.open(&path).unwrap();
            file.set_len(len as u64).unwrap();
            let error = error(open(&spoiled, &small()));
            let expected = if len < bytes.len() {
                Damage::Short
            } else {
                Damage::Long
            };
            assert!(
                matches!(&error, Error::Damaged { path: named, reason, .. } if *named == path && *reason == expected),
                "{error}"
            );
            assert_eq!(file.len().unwrap(), len as u64);
        }
    }
}

/// Whatever was done to bytes that were marked: an error that names a segment, or all but the entries that are named.
fn sound(
    spoiled: &SimDisk,
    expected: &State,
    spoiled_bytes: &Range<usize>,
    frames_end: usize,
    counts: &mut Counts,
) {
    match open_spoiled(spoiled) {
        Err(Error::Damaged { path, .. } | Error::DamagedDirectory { path, .. }) => {
            counts.errors += 1;
            assert!(
                (1..=PREPARED).any(|number| path == segment(number)),
                "{path:?}"
            );
        }
        Err(other) => panic!("{other}"),
        Ok(wal) => {
            if let Some(cut) = wal.recovery().cut.clone() {
                assert_eq!(cut.offset, frames_end as u64);
                assert!(spoiled_bytes.end > frames_end);
            }
            let served = served(wal, expected);
            assert_eq!(served.state, *expected);
            counts.damaged += u64::from(!served.damaged.is_empty());
            counts.same += u64::from(served.damaged.is_empty());
        }
    }
}

#[test]
fn a_lost_or_misplaced_sector_is_named_or_harmless() {
    let [disk, _] = prepared();
    let expected = states(&steps_to_prepare()).pop().unwrap();
    let mut counts = Counts::default();
    for number in 1..=PREPARED {
        let bytes = read_file(&disk, &segment(number));
        let frames_end = frames(&bytes).last().map_or(64, |last| last.end);
        for sector in 0..bytes.len() / 512 {
            let range = sector * 512..sector * 512 + 512;
            let from_elsewhere =
                (0..bytes.len() / 512).map(|from| bytes[from * 512..][..512].to_vec());
            let foreign = [vec![0; 512], vec![0x5a; 512]]
                .into_iter()
                .chain(from_elsewhere);
            for with in foreign.filter(|with| *with != bytes[range.clone()]) {
                let _replay = Replay(|| format!("sector {sector} of segment {number}"));
                let spoiled = disk.fork();
                let path = segment(number);
                spoil(
                    &spoiled,
                    &path,
                    range.start,
                    |bytes| bytes.copy_from_slice(&with),
                    512,
                );
                sound(&spoiled, &expected, &range, frames_end, &mut counts);
            }
        }
    }
    println!("{counts:?}");
    assert!(
        counts.errors > 50 && counts.damaged > 100 && counts.same > 100,
        "{counts:?}"
    );
}

/// With its last segment as `bytes` the log holds the first `k` batches, says what it cut, and goes on.
fn cut_and_reported(disk: &Arc<dyn Disk>, dir: &Path, bytes: &[u8], k: usize, cut: Option<u64>) {
    let path = dir.join(segment(TAIL).file_name().unwrap());
    write_file(&**disk, &path, bytes);
    let open = || Wal::open_on(disk.clone(), dir, small()).unwrap();
    let wal = open();
    let states = states(&steps());
    let found = wal.recovery().cut.as_ref();
    assert_eq!(found.map(|cut| cut.offset), cut);
    assert_eq!(wal.recovery().damaged, []);
    assert_eq!(state_of(&wal), states[k]);
    write_all(&wal, &steps()[k..]);
    assert_eq!(state_of(&wal), states[10]);
    drop(wal);
    let wal = open();
    assert_eq!(wal.recovery().cut, None);
    assert_eq!(state_of(&wal), states[10]);
}

/// The last frame is zeros from every `step`-th byte on, or up to it.
fn a_torn_last_frame(disk: Arc<dyn Disk>, dir: &Path, step: usize) {
    for (path, bytes) in files(&killed(), DIR.as_ref()) {
        disk.create_dir_all(dir).unwrap();
        write_file(&*disk, &dir.join(path.file_name().unwrap()), &bytes);
    }
    let whole = files(&*disk, dir);
    let bytes = &whole[&dir.join(segment(TAIL).file_name().unwrap())];
    let frame = frames(bytes).pop().unwrap();
    for at in (frame.header..frame.end).step_by(step) {
        let _replay = Replay(|| format!("torn at byte {at} of {frame:?}"));
        for zeros in [at..frame.end, frame.header..at] {
            for (path, bytes) in &whole {
                write_file(&*disk, path, bytes);
            }
            let mut torn = bytes.clone();
            torn[zeros].fill(0);
            let lost = [&frame.payload, &frame.directory]
                .map(|range| torn[range.clone()] != bytes[range.clone()]);
            let is_cut = lost.contains(&true);
            // What is left of it is zeros.
            let is_empty = torn[frame.header..].iter().all(|byte| *byte == 0);
            let k = if is_cut { 9 } else { 10 };
            let cut = (is_cut && !is_empty).then_some(frame.header as u64);
            cut_and_reported(&disk, dir, &torn, k, cut);
        }
    }
}

#[test]
fn a_torn_last_frame_is_cut_and_reported() {
    a_torn_last_frame(Arc::new(SimDisk::new()), DIR.as_ref(), 1);
}

#[test]
fn a_torn_last_frame_is_cut_and_reported_on_real_files() {
    let dir = tempfile::tempdir().unwrap();
    a_torn_last_frame(Arc::new(OsDisk::new()), &dir.path().join("log"), 29);
}

#[test]
fn damage_that_comes_while_the_log_is_open_is_found_by_reading() {
    let disk = closed();
    let wal = open(&disk, &small()).unwrap();
    let bytes = read_file(&disk, &segment(1));
    let at = bytes
        .windows(6)
        .position(|window| window == b"1/1.2 ")
        .unwrap();
    flip(&disk, &segment(1), at);
    let read = |from, to| wal.entries(GroupId(1), Index(from)..Index(to), u64::MAX);
    for to in [3, 9] {
        match error(read(2, to)) {
            Error::DamagedEntry {
                group,
                id,
                path,
                offset,
                reason,
            } => {
                assert_eq!((group, id), (GroupId(1), entry(2, 1, "").id));
                assert_eq!(
                    (path, offset, reason),
                    (segment(1), at as u64, Damage::Checksum)
                );
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(read(3, 9).unwrap().len(), 6);
}

/// Two histories of one log: it was copied, and both copies went on. Each frame is right where it is.
#[test]
fn a_frame_of_another_history_is_not_taken() {
    let written =
        |node| -> Vec<Step> { (1..=5).map(|i| vec![append(1, i, i, node, 20)]).collect() };
    let (ours, theirs) = (written(1), written(2));
    let before = disk_with(&small(), &[]);
    let with = |steps: &[Step]| {
        let disk = before.fork();
        disk.kill();
        let wal = open(&disk, &small()).unwrap();
        write_all(&wal, steps);
        let killed = disk.fork();
        killed.kill();
        killed
    };
    let (disk, other) = (with(&ours), with(&theirs));
    let (our, their) = (
        read_file(&disk, &segment(1)),
        read_file(&other, &segment(1)),
    );
    let frames = frames(&our);
    assert_eq!(frames.len(), 2 + 5);
    for first in 1..frames.len() {
        for last in first..frames.len() {
            let taken = frames[first].header..frames[last].end;
            let mut mixed = our.clone();
            mixed[taken.clone()].copy_from_slice(&their[taken]);
            let spoiled = disk.fork();
            write_file(&spoiled, &segment(1), &mixed);
            // The first one that is taken begins an epoch, and follows what both have.
            let noticed = if first == 1 { last + 1 } else { first };
            let _replay = Replay(|| format!("frames {first} to {last}"));
            let is_last = |frame| frame == frames.len() - 1;
            if noticed == frames.len() {
                // From where they part on: it is the other history.
                assert_eq!(
                    state_of(&open(&spoiled, &small()).unwrap()),
                    states(&theirs)[5]
                );
            } else if is_last(noticed) {
                // One frame alone could be the end of the other history.
                let wal = open(&spoiled, &small()).unwrap();
                let at = frames[noticed].header as u64;
                assert_eq!(wal.recovery().cut.as_ref().unwrap().offset, at);
                let before = if first == 1 { &theirs } else { &ours };
                assert_eq!(state_of(&wal), states(before)[4]);
            } else {
                // What is after them, or they themselves, say that they are no torn end.
                match error(open_spoiled(&spoiled)) {
                    Error::DamagedDirectory {
                        path,
                        offset,
                        bytes,
                        sequence,
                    } => {
                        let at = frames[noticed].header as u64;
                        assert!(offset + bytes <= our.len() as u64);
                        assert_eq!(
                            (path, offset, sequence),
                            (segment(1), at, noticed as u64 + 1)
                        );
                    }
                    other => panic!("{other}"),
                }
            }
        }
    }
}
