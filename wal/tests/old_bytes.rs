//! Row 6: what stood in a file before is never taken for what was written there last, whatever stands around it.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::path::Path;

use duramen_disk::SimDisk;
use duramen_wal::Options;
use support::*;

fn small() -> Options {
    options(1 << 14)
}

/// How the last frame is torn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Torn {
    Payload,
    Directory,
    AllButHeader,
}

fn tear(disk: &SimDisk, how: Torn) -> FrameParts {
    let frame = frames(&read_file(disk, &segment(1))).pop().unwrap();
    match how {
        Torn::Payload => flip(disk, &segment(1), frame.payload.start),
        Torn::Directory => flip(disk, &segment(1), frame.directory.start + 20),
        Torn::AllButHeader => {
            let from = frame.payload.start;
            let len = frame.end - from;
            spoil(disk, &segment(1), from, |bytes| bytes.fill(0), len);
        }
    }
    frame
}

/// Puts back what a frame left on the disk that was cut off, behind the frame that has its place now.
fn put_back(disk: &SimDisk, cut: &FrameParts, bytes: &[u8]) {
    let resume = frames(&read_file(disk, &segment(1))).pop().unwrap();
    assert_eq!(resume.header, cut.header);
    if resume.end < cut.end {
        let old = &bytes[resume.end..cut.end];
        let put = |bytes: &mut [u8]| bytes.copy_from_slice(old);
        spoil(disk, &segment(1), resume.end, put, old.len());
    }
}

/// The last frame is cut, the same is appended again, in another epoch, and cut again, four times. Also where the zeros that
/// are written over what is cut never reach the disk.
#[test]
fn what_was_cut_and_is_appended_again_and_cut_is_the_newest_or_not_there() {
    let mut cuts = 0;
    for bytes in (1..200).step_by(3) {
        for (how, zeros_are_lost) in [Torn::Payload, Torn::Directory, Torn::AllButHeader]
            .into_iter()
            .flat_map(|how| [(how, false), (how, true)])
        {
            let _replay = Replay(|| format!("{bytes} bytes, {how:?}, {zeros_are_lost}"));
            let steps = [
                vec![append(1, 1, 1, 1, 10)],
                vec![append(1, 2, 2, 1, bytes)],
            ];
            let states = states(&steps);
            let mut disk = killed_disk_with(&small(), &steps);
            for _ in 0..4 {
                let cut = tear(&disk, how);
                let torn = read_file(&disk, &segment(1));
                let wal = open(&disk, &small()).unwrap();
                assert_eq!(
                    wal.recovery().cut.as_ref().unwrap().offset,
                    cut.header as u64
                );
                cuts += 1;
                assert_eq!(state_of(&wal), states[1]);
                drop(wal);
                if zeros_are_lost {
                    put_back(&disk, &cut, &torn);
                }
                disk.kill();
                let wal = open(&disk, &small()).unwrap();
                assert_eq!(state_of(&wal), states[1]);
                wal.write(batch(&steps[1])).unwrap();
                let next = disk.fork();
                next.kill();
                let again = open(&next.fork(), &small()).unwrap();
                assert_eq!(state_of(&again), states[2]);
                disk = next;
            }
        }
    }
    assert_eq!(cuts, 67 * 3 * 2 * 4);
}

/// One entry that fills a segment.
fn large(index: u64) -> Step {
    vec![append(1, index, index, 1, 7800)]
}

/// The segments were restored from an older copy, and a file that waits to become one was not: it holds frames of this log
/// that have higher numbers and marks than any that is written into it. Nothing but the number of the segment that they stood
/// in tells them from frames that follow.
#[test]
fn frames_of_a_later_history_in_a_spare_are_not_read_when_it_is_a_segment_again() {
    let mut steps = vec![large(1)];
    let older = disk_with(&small(), &steps);
    let disk = older.fork();
    let purged = |index| vec![purge(1, index - 1, 1)];
    let many = (12..112).map(|index| vec![append(1, index, index, 1, 10)]);
    let later = (2..12).map(|index| [large(index), purged(index)].concat());
    let last = [large(112), large(113), purged(113)];
    write_all(
        &open(&disk, &small()).unwrap(),
        &later.chain(many).chain(last).collect::<Vec<_>>(),
    );
    let files = files(&disk, DIR.as_ref()).into_iter();
    let spares = files.filter(|(path, _)| path.extension().is_some_and(|name| name == "tmp"));
    let (path, spare) = spares.max_by_key(|(_, bytes)| frames(bytes).len()).unwrap();
    let number = spare[32];
    assert!(frames(&spare).len() > 40);
    assert!(number > 2, "segment {number} becomes segment 2");
    write_file(&older, &path, &spare);

    steps.extend((2..60).map(|index| vec![append(1, index, index, 1, 200)]));
    assert_goes_on_in_the_spare(&older, &steps);
}

/// The log holds the first step. The others are written, and are there after each, with the spare as its second segment.
fn assert_goes_on_in_the_spare(disk: &SimDisk, steps: &[Step]) {
    let wal = open(disk, &small()).unwrap();
    for k in 1..steps.len() {
        wal.write(batch(&steps[k])).unwrap();
        let killed = disk.fork();
        killed.kill();
        assert_holds(&killed, &small(), &steps[..=k], k + 1);
    }
    assert_eq!(read_file(disk, &segment(2))[48], 1, "it is the spare");
}

/// The same, and the spare gets the number again that it had when it was a segment, and was sealed.
#[test]
fn the_seal_of_a_spare_that_becomes_the_segment_again_that_it_was_in_a_later_history_is_none() {
    let mut steps = vec![large(1)];
    let older = disk_with(&small(), &steps);
    let disk = older.fork();
    let later = [
        large(2),
        large(3),
        [large(4), vec![purge(1, 3, 1)]].concat(),
    ];
    write_all(&open(&disk, &small()).unwrap(), &later);
    let mut files = files(&disk, DIR.as_ref()).into_iter();
    let was_second = |path: &Path, bytes: &[u8]| {
        path.extension().is_some_and(|name| name == "tmp") && bytes[32] == 2
    };
    let (path, spare) = files
        .find(|(path, bytes)| was_second(path, bytes))
        .expect("the second segment is a spare");
    let trailer = &spare[spare.len() - 128..];
    assert_eq!(trailer[8..16], *b"DURAMENS", "it was sealed");
    write_file(&older, &path, &spare);

    steps.extend((2..20).map(|index| vec![append(1, index, index, 1, 100)]));
    assert_goes_on_in_the_spare(&older, &steps);
}
