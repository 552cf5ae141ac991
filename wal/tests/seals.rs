//! Seals, and the directories of frames, that stand in for each other.

#![allow(clippy::unwrap_used)] // helpers of tests, too

#[path = "support/sealed.rs"]
mod sealed;
mod support;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use duramen_wal::{Damage, Error, GroupId, Index, Wal};
use sealed::*;
use support::*;

/// The log is opened by the frames.
const WITHOUT_A_SEAL: [Seal; 4] = [
    Seal::NoCopy,
    Seal::NoTrailer,
    Seal::Missing,
    Seal::Overwritten,
];

#[test]
fn frames_stand_in_for_a_seal_that_is_missing_or_damaged_which_is_written_again() {
    for how in WITHOUT_A_SEAL {
        let (disk, mut steps) = sealed();
        let whole = read_file(&disk, &segment(1));
        spoil_seal(&disk, how);
        let spoiled = read_file(&disk, &segment(1));
        assert_holds(&disk, &small(), &steps, 8);
        assert!(read_file(&disk, &segment(1)) == spoiled, "{how:?}");
        steps.push(vec![user(3, b"more")]);
        write_all(&open(&disk, &small()).unwrap(), &steps[8..]);
        assert!(read_file(&disk, &segment(1)) == whole, "{how:?}");
        assert_holds(&disk, &small(), &steps, 9);
    }
}

/// Each is enough to open the log and to read it, with the frames; and it is left to stay so.
#[test]
fn the_directories_and_the_summary_in_a_seal_stand_in_for_each_other() {
    for how in [Seal::NoDirectories, Seal::NoSummary] {
        let (disk, mut steps) = sealed();
        spoil_seal(&disk, how);
        let spoiled = read_file(&disk, &segment(1));
        assert_holds(&disk, &small(), &steps, 8);
        steps.push(vec![user(3, b"more")]);
        write_all(&open(&disk, &small()).unwrap(), &steps[8..]);
        assert_holds(&disk, &small(), &steps, 9);
        assert!(read_file(&disk, &segment(1)) == spoiled, "{how:?}");
    }
}

/// The sectors that hold nothing else.
fn sectors_in(bytes: &Range<usize>) -> impl Iterator<Item = Range<u64>> + use<> {
    let sectors = bytes.start.div_ceil(512) as u64..bytes.end as u64 / 512;
    sectors.map(|sector| sector * 512..sector * 512 + 512)
}

/// Row 9. What cannot be read is no worse than what is damaged. (Without its trailer, nobody knows what a seal says.)
#[test]
fn a_part_of_a_seal_that_cannot_be_read_is_stood_in_for() {
    let options = options(1 << 16);
    let steps: Vec<Step> = (1..=120).map(|i| vec![append(1, i, i, 1, 500)]).collect();
    let disk = disk_with(&options, &steps);
    let bytes = read_file(&disk, &segment(1));
    let parts = seal(&bytes).unwrap();
    let sectors = sectors_in(&(parts.directories.start..parts.trailer.start));
    assert!(sectors.size_hint().0 > 10);
    for sector in sectors {
        let bad = disk.fork();
        bad.make_bad(&segment(1), sector).unwrap();
        assert_holds(&bad, &options, &steps, 120);
        let found = Wal::verify_on(Arc::new(bad.clone()), DIR, |_| true).unwrap();
        assert_eq!(found.scrub.damaged_seals, [segment(1)]);
        let wal = open(&bad, &options).unwrap();
        let entries = wal.entries(GroupId(1), Index(1)..Index(2), u64::MAX);
        let first = entries.unwrap().remove(0);
        assert!(wal.is_entry(GroupId(1), &first).unwrap());
        wal.repair(GroupId(1), first).unwrap();
    }
}

#[test]
fn a_seal_stands_in_for_the_directories_of_its_frames() {
    let (disk, steps) = sealed();
    for frame in frames(&read_file(&disk, &segment(1))) {
        let copy = frame.copy.as_ref().map(|copy| copy.start);
        for byte in [frame.directory.start, frame.header]
            .into_iter()
            .chain(copy)
        {
            flip(&disk, &segment(1), byte);
        }
    }
    assert_holds(&disk, &small(), &steps, 8);
}

/// Row 9.
#[test]
fn a_directory_that_cannot_be_read_is_stood_in_for_by_the_seal() {
    // No payloads, so that there are sectors with nothing but a directory.
    let many = |i: u64| vec![append(1, 200 * i - 199, 200 * i, 1, 0)];
    let steps: Vec<Step> = (1..=6).map(many).collect();
    let disk = disk_with(&small(), &steps);
    let bytes = read_file(&disk, &segment(1));
    assert!(is_sealed(&bytes));
    let mut spoiled = 0;
    for frame in frames(&bytes) {
        for sector in sectors_in(&frame.directory) {
            let bad = disk.fork();
            bad.make_bad(&segment(1), sector).unwrap();
            assert_holds(&bad, &small(), &steps, 6);
            let found = Wal::verify_on(Arc::new(bad), DIR, |_| true).unwrap();
            assert_eq!(found.bad_copies, [(segment(1), frame.header as u64)]);
            spoiled += 1;
        }
    }
    assert!(spoiled >= 6, "{spoiled}");
}

/// Row 9. Where there is no seal yet.
#[test]
fn the_directories_of_a_doubled_frame_that_cannot_be_read_stand_in_for_each_other() {
    let many = |i: u64| vec![append(1, 200 * i - 199, 200 * i, 1, 0), vote(1, 1, 1)];
    let (options, steps) = (options(1 << 16), [1, 2].map(many));
    let disk = disk_with(&options, &steps);
    let bytes = read_file(&disk, &segment(1));
    let doubled = frames(&bytes)
        .into_iter()
        .filter(|frame| frame.copy.is_some());
    let directories = doubled.flat_map(|frame| [Some(frame.directory), frame.copy]);
    let mut spoiled = 0;
    for sector in directories
        .flatten()
        .flat_map(|directory| sectors_in(&directory))
    {
        let bad = disk.fork();
        bad.make_bad(&segment(1), sector).unwrap();
        assert_holds(&bad, &options, &steps, 2);
        spoiled += 1;
    }
    assert!(spoiled >= 4, "{spoiled}");
}

/// Which frame cannot be read: the file, where in it, and its number.
fn missing(error: &Error) -> (PathBuf, Range<usize>, u64) {
    match error {
        Error::DamagedDirectory {
            path,
            offset,
            bytes,
            sequence,
        } => {
            let said = format!("offset {offset}, up to {bytes} bytes: frame {sequence} ");
            assert!(error.to_string().contains(&said), "{error}");
            let place = *offset as usize..(offset + bytes) as usize;
            (path.clone(), place, *sequence)
        }
        other => panic!("{other}"),
    }
}

/// Row 38. How long the frame is says its header, or the next frame; of the last one the seal, if that can be read, or what is
/// written behind it.
#[test]
fn a_directory_that_is_bad_in_its_frame_and_in_the_seal_is_named() {
    let (disk, _) = sealed();
    let whole = read_file(&disk, &segment(1));
    let frames = frames(&whole);
    for (n, frame) in frames.iter().enumerate() {
        for (how, header_is_bad) in WITHOUT_A_SEAL
            .into_iter()
            .flat_map(|how| [(how, false), (how, true)])
        {
            let _replay = Replay(|| format!("frame {n}, {how:?}, {header_is_bad}"));
            let spoiled = disk.fork();
            spoil_seal(&spoiled, how);
            let copy = frame.copy.as_ref().map(|copy| copy.start + 7);
            let header = header_is_bad.then_some(frame.header);
            for byte in [frame.directory.end - 8]
                .into_iter()
                .chain(copy)
                .chain(header)
            {
                flip(&spoiled, &segment(1), byte);
            }
            let before = files(&spoiled, DIR.as_ref());
            let is_last = n == frames.len() - 1;
            let end = match how {
                Seal::NoTrailer | Seal::Overwritten if is_last && header_is_bad => {
                    let written = read_file(&spoiled, &segment(1));
                    let last = written.iter().rposition(|byte| *byte != 0).unwrap();
                    (last + 1).next_multiple_of(8)
                }
                _ => frame.end,
            };
            let place = (segment(1), frame.header..end, n as u64 + 1);
            assert_eq!(missing(&error(open(&spoiled, &small()))), place);
            assert_eq!(files(&spoiled, DIR.as_ref()), before);
        }
    }
}

/// The summary is enough to open the log. The frames before the bad one are served, and others are named.
#[test]
fn a_directory_that_is_bad_in_its_frame_and_in_the_seal_is_named_by_reading() {
    let (disk, steps) = sealed();
    let state = states(&steps).pop().unwrap();
    let frames = frames(&read_file(&disk, &segment(1)));
    for (n, frame) in frames.iter().enumerate() {
        let _replay = Replay(|| format!("frame {n}: {frame:?}"));
        let spoiled = disk.fork();
        spoil_seal(&spoiled, Seal::NoDirectories);
        let copy = frame.copy.as_ref().map(|copy| copy.start + 7);
        for byte in [frame.directory.end - 8].into_iter().chain(copy) {
            flip(&spoiled, &segment(1), byte);
        }
        let wal = open(&spoiled, &small()).unwrap();
        assert_eq!(
            (&wal.recovery().cut, &wal.recovery().damaged[..]),
            (&None, &[][..])
        );
        for (group, content) in &state {
            assert_eq!(wal.hard_state(*group), content.hard_state);
            for entry in &content.entries {
                let index = entry.id.index;
                // Each frame after the first one is a step.
                let of_frame = 2 * index.0 as usize - usize::from(*group == GroupId(1));
                match wal.entries(*group, index..index.next(), 0) {
                    Ok(read) => {
                        assert!(of_frame != n);
                        assert_eq!(read[0], *entry);
                    }
                    Err(error) => {
                        assert!((n..frames.len()).contains(&of_frame));
                        let place = (segment(1), frame.header..frame.end, n as u64 + 1);
                        assert_eq!(missing(&error), place);
                    }
                }
            }
        }
    }
}

/// Payloads of a segment whose frames stand in for its seal are looked at, as those of the last one.
#[test]
fn a_damaged_payload_of_a_segment_without_a_seal_is_reported_and_never_cut() {
    let (disk, steps) = sealed();
    let frames = frames(&read_file(&disk, &segment(1)));
    for frame in frames.iter().filter(|frame| !frame.payload.is_empty()) {
        let spoiled = disk.fork();
        spoil_seal(&spoiled, Seal::NoTrailer);
        flip(&spoiled, &segment(1), frame.payload.start);
        let wal = open(&spoiled, &small()).unwrap();
        assert_eq!(wal.recovery().cut, None);
        assert_eq!(wal.recovery().damaged.len(), 1);
        let damaged = &wal.recovery().damaged[0];
        assert_eq!(
            (&damaged.path, damaged.entry.offset),
            (&segment(1), frame.payload.start as u64)
        );
        let index = damaged.entry.id.index;
        let read = wal.entries(damaged.entry.group, index..index.next(), 0);
        match error(read) {
            Error::DamagedEntry {
                group,
                id,
                path,
                offset,
                reason: Damage::Checksum,
            } => {
                assert_eq!((group, id), (damaged.entry.group, damaged.entry.id));
                assert_eq!((&path, offset), (&damaged.path, damaged.entry.offset));
            }
            other => panic!("{other}"),
        }
        assert_eq!(
            wal.hard_state(GroupId(1)),
            states(&steps)[8][&GroupId(1)].hard_state
        );
    }
}

/// Row 5: the length of a sealed segment is there, and of its bytes those before some byte, whatever that is. It is no clean
/// end: the first frame whose directory is gone is named, and nothing is cut.
#[test]
fn a_sealed_segment_that_ends_in_zeros_is_served_whole_or_named() {
    let (disk, steps) = sealed();
    let whole = read_file(&disk, &segment(1));
    let frames = frames(&whole);
    let (mut errors, mut same) = (0, 0);
    let written = 64..whole.iter().rposition(|byte| *byte != 0).unwrap();
    for at in written.step_by(7) {
        let _replay = Replay(|| format!("zeros from {at} on"));
        let spoiled = disk.fork();
        let len = whole.len() - at;
        spoil(&spoiled, &segment(1), at, |bytes| bytes.fill(0), len);
        let lost = at + whole[at..].iter().position(|byte| *byte != 0).unwrap();
        // Of two directories the first one is enough.
        let Some(named) = frames.iter().position(|frame| lost < frame.directory.end) else {
            assert_holds(&spoiled, &small(), &steps, steps.len());
            same += 1;
            continue;
        };
        let before = files(&spoiled, DIR.as_ref());
        let (path, place, sequence) = missing(&error(open(&spoiled, &small())));
        let frame = &frames[named];
        let expected = (segment(1), frame.header, named as u64 + 1);
        assert_eq!((path, place.start, sequence), expected);
        let header_is_whole = lost >= frame.header + 40;
        assert!(place.end == frame.end || !header_is_whole, "{place:?}");
        assert_eq!(files(&spoiled, DIR.as_ref()), before);
        errors += 1;
    }
    assert!(errors > 1900 && same > 300, "{errors} errors, {same} same");
}
