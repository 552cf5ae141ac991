//! `verify` and `dump`: they change nothing, work on a read-only disk, and find what is damaged.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::sync::Arc;

use duramen_disk::{Disk, SimDisk};
use duramen_wal::{DumpItem, DumpRecord, Error, Options, Result, Verification, Wal};
use support::*;

fn small() -> Options {
    options(1 << 14)
}

/// Several segments, moved entries in the last one.
fn steps() -> Vec<Step> {
    let mut steps = vec![vec![
        append(1, 1, 2, 1, 50),
        append(2, 1, 4, 1, 20),
        vote(1, 1, 2),
        user(2, b"kept"),
    ]];
    for i in 1..=9 {
        let mut step = vec![append(3, i, i, i, 5000)];
        if i > 1 {
            step.push(purge(3, i - 1, i - 1));
        }
        steps.push(step);
    }
    steps.push(vec![Change::Truncate(2, 3), append(1, 3, 3, 4, 60)]);
    steps
}

fn verify(disk: &SimDisk) -> Result<Verification> {
    Wal::verify_on(Arc::new(disk.clone()), DIR, |_| true)
}

fn dump(disk: &SimDisk) -> Vec<DumpItem> {
    let mut items = Vec::new();
    let visit = |item| {
        items.push(item);
        true
    };
    Wal::dump_on(Arc::new(disk.clone()), DIR, visit).unwrap();
    items
}

#[test]
fn a_sound_log_is_verified_on_a_read_only_disk_and_stays_as_it_is() {
    let disk = disk_with(&small(), &steps());
    let before = files(&disk, DIR.as_ref());
    disk.set_read_only(true);
    let verification = verify(&disk).unwrap();
    assert!(
        !verification.is_damaged() && !verification.is_torn(),
        "{verification:?}"
    );
    let entries: usize = states(&steps())
        .pop()
        .unwrap()
        .values()
        .map(|c| c.entries.len())
        .sum();
    assert_eq!(verification.scrub.entries, entries as u64);
    assert_eq!(verification.groups, 3);
    assert!(verification.scrub.segments > 1);
    assert_eq!(verification.scrub.segments, verification.scrub.segments_all);
    assert!(!dump(&disk).is_empty());
    disk.set_read_only(false);
    assert_eq!(files(&disk, DIR.as_ref()), before);
}

#[test]
fn a_torn_end_is_said_and_left() {
    let disk = disk_with(&small(), &steps());
    let wal = open(&disk, &small()).unwrap();
    disk.crash_after(0);
    wal.write(batch(&vec![append(1, 4, 4, 4, 3000)]))
        .unwrap_err();
    drop(wal);
    disk.kill();
    let before = files(&disk, DIR.as_ref());
    for _ in 0..2 {
        let verification = verify(&disk).unwrap();
        assert!(
            verification.is_torn() && !verification.is_damaged(),
            "{verification:?}"
        );
        dump(&disk);
    }
    assert_eq!(files(&disk, DIR.as_ref()), before);
    let cut = verify(&disk).unwrap().recovery.cut;
    assert_eq!(open(&disk, &small()).unwrap().recovery().cut, cut);
}

/// So much of the last frame came to the disk that its entries can be named, but not its header.
#[test]
fn a_torn_end_whose_entries_have_names_is_no_damage() {
    let steps = [vec![append(1, 1, 2, 1, 100)], vec![append(1, 3, 3, 1, 300)]];
    let disk = killed_disk_with(&small(), &steps);
    let frame = frames(&read_file(&disk, &segment(1))).pop().unwrap();
    flip(&disk, &segment(1), frame.header);
    flip(&disk, &segment(1), frame.payload.start);
    let verification = verify(&disk).unwrap();
    assert!(
        verification.is_torn() && !verification.is_damaged(),
        "{verification:?}"
    );
}

/// Killed in the middle of a write that changes a vote, at any byte: one copy of its directory may be whole, and the other not.
#[test]
fn a_write_that_is_killed_between_its_copies_is_no_damage() {
    let steps = [vec![append(1, 1, 2, 1, 100)], vec![vote(1, 2, 1)]];
    let disk = killed_disk_with(&small(), &steps);
    let frame = frames(&read_file(&disk, &segment(1))).pop().unwrap();
    let (mut torn, mut kept) = (0, 0);
    for cut in frame.header..frame.end {
        let _replay = Replay(|| format!("cut at byte {cut}"));
        let killed = disk.fork();
        spoil(
            &killed,
            &segment(1),
            cut,
            |rest| rest.fill(0),
            frame.end - cut,
        );
        let verification = verify(&killed).unwrap();
        assert!(!verification.is_damaged(), "{verification:?}");
        match verification.is_torn() {
            true => torn += 1,
            false => kept += 1,
        }
        open(&killed, &small()).unwrap().close().unwrap();
        let verification = verify(&killed).unwrap();
        let is_clean = !verification.is_damaged() && !verification.is_torn();
        assert!(is_clean, "{verification:?}");
    }
    assert!(torn > 30 && kept > 30, "{torn} torn, {kept} kept");
}

/// Each byte that counts: a flipped bit is an error, or damage that is named; nothing is changed by finding it.
#[test]
fn no_flipped_bit_is_overlooked() {
    let mut options = small();
    options.recycle = false; // No old frames behind those that count.
    let disk = disk_with(&options, &steps());
    let live: Vec<bytes::Bytes> = states(&steps())
        .pop()
        .unwrap()
        .values()
        .flat_map(|content| content.entries.iter().map(|entry| entry.payload.clone()))
        .collect();
    let (mut errors, mut damaged, mut dead) = (0, 0, 0);
    for (path, bytes) in files(&disk, DIR.as_ref()) {
        for (at, frame) in frames_of(&path, &bytes) {
            let _replay = Replay(|| format!("byte {at} of {}", path.display()));
            let spoiled = disk.fork();
            spoil(&spoiled, &path, at, |bytes| bytes[0] ^= 1 << (at % 8), 1);
            let before = files(&spoiled, DIR.as_ref());
            let is_payload = frame.payload.contains(&at);
            match verify(&spoiled) {
                Err(Error::Damaged { .. } | Error::DamagedDirectory { .. }) => errors += 1,
                Err(other) => panic!("{other}"),
                Ok(found) if found.is_damaged() => damaged += 1,
                Ok(_) => {
                    // Padding, or an entry that is not needed any more.
                    let payload = &bytes[frame.payload.clone()];
                    let here = at.wrapping_sub(frame.payload.start);
                    let needed = live.iter().filter(|live| !live.is_empty()).any(|live| {
                        let mut windows = payload.windows(live.len()).enumerate();
                        windows.any(|(from, window)| {
                            window == live && (from..from + live.len()).contains(&here)
                        })
                    });
                    let is_padding = !is_payload && is_padding(&frame, at);
                    assert!(is_padding || is_payload && !needed);
                    dead += 1;
                }
            }
            dump(&spoiled);
            assert_eq!(files(&spoiled, DIR.as_ref()), before);
        }
    }
    println!("{errors} errors, {damaged} damaged, {dead} not needed");
    assert!(errors > 50 && damaged > 1000, "{errors} {damaged}");
}

/// Every third byte of every frame.
fn frames_of(path: &std::path::Path, bytes: &[u8]) -> Vec<(usize, FrameParts)> {
    if *path == control() || path.extension().is_some_and(|e| e == "tmp") {
        return Vec::new();
    }
    let frames = frames(bytes).into_iter();
    frames
        .flat_map(|frame| {
            let bytes = (frame.header..frame.end).step_by(3);
            bytes.map(move |at| (at, frame.clone()))
        })
        .collect()
}

fn is_padding(frame: &FrameParts, at: usize) -> bool {
    let in_copy = frame.copy.as_ref().is_some_and(|copy| copy.contains(&at));
    let in_header = (frame.header..frame.header + 40).contains(&at);
    !in_header && !frame.directory.contains(&at) && !in_copy
}

#[test]
fn a_dump_shows_every_change_in_its_order() {
    let disk = disk_with(&small(), &steps()[..1]);
    let items = dump(&disk);
    assert!(matches!(items[0], DumpItem::Control { oldest: 1, .. }));
    assert!(matches!(
        items[1],
        DumpItem::Segment {
            number: 1,
            is_sealed: false,
            ..
        }
    ));
    let records: Vec<&DumpRecord> = items
        .iter()
        .filter_map(|item| match item {
            DumpItem::Record(record) => Some(record),
            _ => None,
        })
        .collect();
    assert!(matches!(records[0], DumpRecord::Resume { .. }));
    assert!(matches!(
        records[1],
        DumpRecord::Entries {
            count: 2,
            is_moved: false,
            ..
        }
    ));
    assert!(matches!(records[2], DumpRecord::Entries { count: 4, .. }));
    assert!(matches!(records[3], DumpRecord::HardState { .. }));
    assert!(matches!(records[4], DumpRecord::User { .. }));
    assert_eq!(records.len(), 5);
    let payloads = items.iter().filter_map(|item| match item {
        DumpItem::Entry {
            payload, offset, ..
        } => Some((payload.clone().unwrap(), offset.unwrap())),
        _ => None,
    });
    let bytes = read_file(&disk, &segment(1));
    let mut count = 0;
    for (payload, offset) in payloads {
        assert_eq!(bytes[offset as usize..][..payload.len()], payload);
        count += 1;
    }
    assert_eq!(count, 6);
    assert!(matches!(items.last(), Some(DumpItem::End { .. })));
}

#[test]
fn a_dump_goes_on_after_a_segment_that_cannot_be_read() {
    let disk = disk_with(&small(), &steps());
    let mut numbers = Vec::new();
    for item in dump(&disk) {
        if let DumpItem::Segment { number, .. } = item {
            numbers.push(number);
        }
    }
    flip(&disk, &segment(numbers[0]), 20);
    let items = dump(&disk);
    let bad = items
        .iter()
        .filter(|item| matches!(item, DumpItem::Bad { path, .. } if *path == segment(numbers[0])));
    assert_eq!(bad.count(), 1);
    let segments = items
        .iter()
        .filter(|item| matches!(item, DumpItem::Segment { .. }));
    assert_eq!(segments.count(), numbers.len() - 1);
}

#[test]
fn looking_is_shared_with_those_who_look_and_not_with_a_writer() {
    let disk = disk_with(&small(), &steps());
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut inner = None;
    let outer = Wal::verify_on(shared.clone(), DIR, |_| {
        inner.get_or_insert_with(|| verify(&disk).map(drop));
        true
    });
    assert!(outer.is_ok() && matches!(inner, Some(Ok(()))));
    let wal = open(&disk, &small()).unwrap();
    assert!(matches!(verify(&disk), Err(Error::Locked { .. })));
    let dumped = Wal::dump_on(shared.clone(), DIR, |_| true);
    assert!(matches!(dumped, Err(Error::Locked { .. })));
    drop(wal);
    let nothing = Wal::verify_on(shared, "/elsewhere", |_| true);
    assert!(matches!(nothing, Err(Error::NotALog { .. })));
}

/// The sequence of each frame, and the gaps.
fn outline(items: &[DumpItem]) -> Vec<String> {
    let line = |item: &DumpItem| match item {
        DumpItem::Frame { sequence, .. } => Some(format!("{sequence}")),
        DumpItem::Gap { offset, bytes } => Some(format!("gap {offset}+{bytes}")),
        DumpItem::End { offset, bytes } => Some(format!("end {offset}+{bytes}")),
        DumpItem::Bad { .. } => Some("bad".to_owned()),
        _ => None,
    };
    items.iter().filter_map(line).collect()
}

#[test]
fn a_dump_shows_where_a_frame_cannot_be_read_and_goes_on_behind_it() {
    let steps = [1, 2, 3].map(|index| vec![append(1, index, index, 1, 100)]);
    let disk = disk_with(&small(), &steps);
    let frames = frames(&read_file(&disk, &segment(1)));
    assert_eq!(frames.len(), 4);
    let lost = &frames[2];
    flip(&disk, &segment(1), lost.directory.start);
    let gap = format!("gap {}+{}", lost.header, lost.end - lost.header);
    let end = format!("end {}+0", frames[3].end);
    assert_eq!(outline(&dump(&disk)), ["1", "2", &gap, "4", &end]);
    // The header too: it is looked for the next one.
    flip(&disk, &segment(1), lost.header);
    assert_eq!(outline(&dump(&disk)), ["1", "2", &gap, "4", &end]);
    // And the last one: nothing follows, but something was there.
    flip(&disk, &segment(1), frames[3].header);
    flip(&disk, &segment(1), frames[3].directory.start);
    let end = format!("end {}+{}", lost.header, frames[3].end - lost.header);
    assert_eq!(outline(&dump(&disk)), ["1", "2", &end]);
}

#[test]
fn a_dump_shows_what_stands_in_the_place_of_a_damaged_payload() {
    let disk = disk_with(&small(), &[vec![append(1, 1, 2, 1, 100)]]);
    let payload = frames(&read_file(&disk, &segment(1)))[1].payload.clone();
    flip(&disk, &segment(1), payload.start);
    let entries = dump(&disk).into_iter().filter_map(|item| match item {
        DumpItem::Entry {
            payload, is_whole, ..
        } => Some((payload.unwrap(), is_whole)),
        _ => None,
    });
    let entries: Vec<(bytes::Bytes, bool)> = entries.collect();
    assert!(entries[0].0.starts_with(b"0/1.1 ") && !entries[0].1);
    assert!(entries[1].0.starts_with(b"1/1.2 ") && entries[1].1);
}

#[test]
fn a_dump_goes_on_in_the_next_segment_where_the_disk_does_not_give_one() {
    let disk = disk_with(&small(), &steps());
    let whole = outline(&dump(&disk));
    let mut numbers = dump(&disk).into_iter().filter_map(|item| match item {
        DumpItem::Segment { number, .. } => Some(number),
        _ => None,
    });
    let first = numbers.next().unwrap();
    let directory = frames(&read_file(&disk, &segment(first)))[1]
        .directory
        .start as u64;
    disk.make_bad(&segment(first), directory..directory + 1)
        .unwrap();
    let spoiled = outline(&dump(&disk));
    assert_eq!(spoiled.iter().filter(|line| *line == "bad").count(), 1);
    assert_eq!(spoiled.last(), whole.last());
}
