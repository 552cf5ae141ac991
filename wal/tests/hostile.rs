//! Bytes with checksums that are right and content that no log writes: a log or a typed error, never a panic, and no more
//! memory than the files have bytes.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::path::Path;

use duramen_disk::{Disk, SimDisk};
use duramen_wal::{Error, GroupId, Index, LogId, Misuse, Options, Term};
use support::*;

fn small() -> Options {
    options(16384)
}

/// The last frame has a record of each kind. The one before is the first one of its segment with entries.
fn steps() -> Vec<Step> {
    vec![
        vec![append(1, 1, 2, 1, 2500), vote(1, 1, 1)],
        vec![append(1, 3, 4, 2, 2500), user(2, b"two")],
        vec![purge(1, 1, 1), append(2, 1, 1, 1, 10), vote(2, 1, 1)],
        vec![append(1, 5, 5, 2, 5840)],
        vec![
            append(1, 6, 6, 2, 10),
            purge(1, 4, 2),
            append(3, 1, 3, 1, 10),
            Change::Truncate(3, 2),
            user(2, b"three"),
            append(2, 1, 1, 2, 10),
        ],
    ]
}

const VALUES: [u64; 16] = [
    0,
    1,
    2,
    3,
    8,
    255,
    4096,
    16_384,
    u32::MAX as u64,
    1 << 32,
    1 << 61,
    (1 << 62) - 1000,
    1 << 62,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put_checksum(bytes: &mut [u8], at: usize, covered: &[u8]) {
    bytes[at..at + 4].copy_from_slice(&crc32fast::hash(covered).to_le_bytes());
}

/// Of a segment header or a slot of CONTROL.
fn mend_header(bytes: &mut [u8]) {
    let covered = [&bytes[..12], &bytes[16..64]].concat();
    put_checksum(bytes, 12, &covered);
}

/// Of a frame header or directory (`len` bytes) at this place.
fn mend_head(segment: &mut [u8], at: usize, len: usize) {
    let (log_id, number) = (&segment[16..32], &segment[32..40]);
    let (epoch, place) = (&segment[at + 8..at + 16], (at as u64).to_le_bytes());
    let covered = [log_id, number, epoch, &place, &segment[at + 4..at + len]].concat();
    put_checksum(segment, at, &covered);
}

/// Opens the log, and writes on if it opens. Says whether it did.
fn try_it(disk: &SimDisk) -> bool {
    match open(disk, &small()) {
        Ok(wal) => {
            let more = [
                append(9, 1, 1, 1, 5500),
                append(10, 1, 1, 1, 5500), // no group of `VALUES`
                purge(9, 1, 1),
            ];
            for change in more {
                wal.write(batch(&vec![change])).unwrap();
            }
            for group in wal.groups() {
                let (purged, last) = (wal.purged(group).index, wal.last(group).index);
                if last.0 - purged.0 < 1000 {
                    let _ = wal.entries(group, purged.next()..last.next(), u64::MAX);
                }
            }
            drop(wal);
            // It was taken for a log, so it is one.
            open(disk, &small()).unwrap();
            true
        }
        Err(
            Error::Damaged { .. }
            | Error::DamagedDirectory { .. }
            | Error::MissingSegment { .. }
            | Error::NotALog { .. }
            | Error::Version { .. },
        ) => false,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn any_numbers_in_control() {
    let disk = disk_with(&small(), &steps());
    let bytes = read_file(&disk, &control());
    for field in (16..64).step_by(8) {
        for value in VALUES {
            for both in [false, true] {
                let _replay = Replay(|| format!("{value} at {field}, in both slots: {both}"));
                let mut bytes = bytes.clone();
                for slot in [0, 4096].into_iter().filter(|slot| both || *slot == 0) {
                    put(&mut bytes[slot..], field, value);
                    mend_header(&mut bytes[slot..slot + 64]);
                }
                let hostile = disk.fork();
                write_file(&hostile, &control(), &bytes);
                try_it(&hostile);
            }
        }
    }
}

#[test]
fn any_numbers_in_a_segment_header() {
    let disk = disk_with(&small(), &steps());
    let segments = files(&disk, DIR.as_ref()).into_iter();
    for (path, bytes) in segments.filter(|(path, _)| *path != control()) {
        for field in (16..64).step_by(8) {
            for value in VALUES {
                let _replay = Replay(|| format!("{value} at {field} of {}", path.display()));
                let mut bytes = bytes.clone();
                put(&mut bytes, field, value);
                mend_header(&mut bytes[..64]);
                let hostile = disk.fork();
                write_file(&hostile, &path, &bytes);
                try_it(&hostile);
            }
        }
    }
    // The only segment, under any number.
    for value in VALUES {
        for bytes_in_header in VALUES {
            let hostile = disk_with(&small(), &[]);
            let mut bytes = read_file(&hostile, &segment(1));
            put(&mut bytes, 32, value);
            put(&mut bytes, 40, bytes_in_header);
            mend_header(&mut bytes[..64]);
            hostile.remove(&segment(1)).unwrap();
            write_file(&hostile, &segment(value), &bytes);
            let mut control_bytes = read_file(&hostile, &control());
            for slot in [0, 4096] {
                put(&mut control_bytes[slot..], 40, value);
                put(&mut control_bytes[slot..], 48, value);
                put(&mut control_bytes[slot..], 56, 0);
                mend_header(&mut control_bytes[slot..slot + 64]);
            }
            write_file(&hostile, &control(), &control_bytes);
            let _replay = Replay(|| format!("segment {value} of {bytes_in_header} bytes"));
            try_it(&hostile);
        }
    }
}

/// Changes the frame, in both its directories if it has two, gives all its parts the checksums they need, and tries it: as a
/// frame with and without a header, and as the last thing that is known to be durable or not.
fn any_numbers_in(disk: &SimDisk, path: &Path, frame: &FrameParts) -> (u64, u64) {
    let whole = read_file(disk, path);
    let (directory, mut opened, mut refused) = (frame.directory.clone(), 0, 0);
    // Field by field: flags, epoch, sequence, lengths, mark, predecessor and offset, then the records.
    let words = (4..directory.len() - 4).step_by(4);
    for word in words {
        for value in VALUES {
            let _replay = Replay(|| format!("{value} at {word} of the directory of {frame:?}"));
            let mut bytes = whole.clone();
            let width = if word % 8 == 4 { 4 } else { 8 };
            let at = directory.start + word;
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            let records = bytes[directory.start + 56..directory.end].to_vec();
            if word != 44 {
                put_checksum(&mut bytes, directory.start + 44, &records);
            }
            mend_head(&mut bytes, directory.start, 56);
            if let Some(copy) = &frame.copy {
                bytes.copy_within(directory.clone(), copy.start);
                mend_head(&mut bytes, copy.start, 56);
            }
            let same = directory.start + 4..directory.start + 40;
            bytes.copy_within(same, frame.header + 4);
            mend_head(&mut bytes, frame.header, 40);
            let hostile = disk.fork();
            write_file(&hostile, path, &bytes);
            match try_it(&hostile) {
                true => opened += 1,
                false => refused += 1,
            }
            bytes[frame.header..frame.header + 40].fill(0);
            let hostile = disk.fork();
            write_file(&hostile, path, &bytes);
            try_it(&hostile);
        }
    }
    (opened, refused)
}

#[test]
fn any_numbers_in_the_last_frame() {
    for disk in [
        disk_with(&small(), &steps()),
        killed_disk_with(&small(), &steps()),
    ] {
        // Behind it there is a segment without frames.
        let segments = disk.list(DIR.as_ref()).unwrap().into_iter().rev();
        let segments = segments.filter(|name| name.ends_with(".wal"));
        let mut frames = segments.map(|name| {
            let path = Path::new(DIR).join(name);
            let frames = frames(&read_file(&disk, &path));
            (path, frames)
        });
        assert!(frames.next().unwrap().1.is_empty());
        let (path, mut frames) = frames.next().unwrap();
        assert_eq!(frames.len(), 3);
        let frame = frames.pop().unwrap();
        assert_eq!(frame.copy, None);
        let (opened, refused) = any_numbers_in(&disk, &path, &frame);
        println!("{opened} opened, {refused} refused");
        assert!(opened > 50 && refused > 100, "{opened} {refused}");
    }
}

/// It says what was in segments that are gone.
#[test]
fn any_numbers_in_the_first_frame_of_the_oldest_segment() {
    let mut steps = steps();
    steps.truncate(3);
    steps.push(vec![purge(1, 4, 2), append(2, 1, 1, 1, 5500)]);
    steps.push(vec![append(1, 5, 5, 2, 5840)]);
    steps.push(vec![purge(1, 5, 2), purge(2, 1, 1)]);
    steps.push(vec![append(1, 6, 6, 2, 7000)]); // in a segment that begins when nothing is left
    let closed = disk_with(&small(), &steps);
    let names = closed.list(DIR.as_ref()).unwrap();
    let segments = names.iter().filter(|name| name.ends_with(".wal"));
    assert_eq!(segments.count(), 1, "{names:?}");
    let path = Path::new(DIR).join(&names[0]);
    let frame = frames(&read_file(&closed, &path)).remove(0);
    assert!(u64_at(&read_file(&closed, &path), 32) > 1);
    assert!(frame.copy.is_some());
    for disk in [closed, killed_disk_with(&small(), &steps)] {
        let mut bytes = read_file(&disk, &path);
        bytes[frame.end..].fill(0);
        write_file(&disk, &path, &bytes);
        // And nothing known of what came after.
        for slot in [0, 4096] {
            let mend = |bytes: &mut [u8]| {
                put(bytes, 56, 0);
                mend_header(bytes);
            };
            spoil(&disk, &control(), slot, mend, 64);
        }
        let (opened, refused) = any_numbers_in(&disk, &path, &frame);
        println!("{opened} opened, {refused} refused");
        assert!(opened > 10 && refused > 100, "{opened} {refused}");
    }
}

/// Its trailer, its summary, and the directories that are copied there.
#[test]
fn any_numbers_in_a_seal() {
    let disk = disk_with(&small(), &steps()[..4]);
    let whole = read_file(&disk, &segment(1));
    let (seal, frames) = (seal(&whole).unwrap(), frames(&whole));
    let trailer = seal.trailer.start;
    let mend_seal = |bytes: &mut Vec<u8>| {
        for (checksum, covered) in [(40, &seal.directories), (44, &seal.summary)] {
            let covered = bytes[covered.clone()].to_vec();
            put_checksum(bytes, trailer + checksum, &covered);
        }
    };
    let mend_trailer = |bytes: &mut Vec<u8>| {
        let (log_id, number) = (&bytes[16..32], &bytes[32..40]);
        let place = [[0; 8], (trailer as u64).to_le_bytes()].concat();
        let covered = [log_id, number, &place, &bytes[trailer + 4..trailer + 128]].concat();
        put_checksum(bytes, trailer, &covered);
    };
    let (mut opened, mut refused) = (0, 0);
    for at in (seal.directories.start..trailer + 128).step_by(4) {
        for value in VALUES {
            let _replay = Replay(|| format!("{value} at {at}, trailer at {trailer}"));
            let mut bytes = whole.clone();
            let width = if at % 8 == 4 { 4 } else { 8 };
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            // A directory in a seal is checked as if it stood in its frame.
            let mut copy = seal.directories.start;
            for frame in &frames {
                let (here, there) = (copy..copy + frame.directory.len(), &frame.directory);
                copy = here.end;
                let mut in_frame = whole.clone();
                in_frame[there.clone()].copy_from_slice(&bytes[here.clone()]);
                let records = in_frame[there.start + 56..there.end].to_vec();
                if at != here.start + 44 {
                    put_checksum(&mut in_frame, there.start + 44, &records);
                }
                mend_head(&mut in_frame, there.start, 56);
                bytes[here].copy_from_slice(&in_frame[there.clone()]);
            }
            if at < trailer {
                mend_seal(&mut bytes);
            }
            mend_trailer(&mut bytes);
            let hostile = disk.fork();
            write_file(&hostile, &segment(1), &bytes);
            match try_it(&hostile) {
                true => opened += 1,
                false => refused += 1,
            }
        }
    }
    println!("{opened} opened, {refused} refused");
    assert!(opened > 500 && refused > 50, "{opened} {refused}");
}

/// A segment full of directories that claim to be the one that is looked for, each as long as all that follows.
#[test]
fn many_directories_that_claim_to_be_one_frame_take_no_time() {
    let disk = SimDisk::new();
    let options = options(1 << 22);
    write_all(
        &create(&disk, &options).unwrap(),
        &[vec![append(1, 1, 1, 1, 10)]],
    );
    let mut bytes = read_file(&disk, &segment(1));
    let frame = frames(&bytes).pop().unwrap();
    let head = bytes[frame.directory.start..][..56].to_vec();
    bytes[frame.header..frame.end].fill(0);
    let file_bytes = bytes.len();
    for at in (frame.directory.start..file_bytes - 64).step_by(56) {
        bytes[at..at + 56].copy_from_slice(&head);
        let payload_bytes = (at - frame.header - 40) as u32;
        let record_bytes = (file_bytes - at - 56) as u32;
        bytes[at + 24..at + 28].copy_from_slice(&payload_bytes.to_le_bytes());
        bytes[at + 28..at + 32].copy_from_slice(&record_bytes.to_le_bytes());
        mend_head(&mut bytes, at, 56);
    }
    write_file(&disk, &segment(1), &bytes);
    let begun = std::time::Instant::now();
    let error = error(open(&disk, &options));
    assert!(matches!(error, Error::DamagedDirectory { .. }), "{error}");
    let took = begun.elapsed();
    assert!(took.as_secs() < 10, "{took:?}"); // 75,000 times 4 MiB take minutes
}

/// What is refused when a log is read is refused when it is written.
#[test]
fn the_last_indexes_there_are_do_not_overflow() {
    let disk = SimDisk::new();
    let wal = create(&disk, &small()).unwrap();
    let last = u64::MAX - 1;
    let misuse = |step: Step| match error(wal.write(batch(&step))) {
        Error::Misuse { misuse, .. } => misuse,
        other => panic!("{other}"),
    };
    assert!(matches!(
        misuse(vec![purge(1, u64::MAX, 1)]),
        Misuse::NoSuchEntry { .. }
    ));
    wal.write(batch(&vec![purge(1, last - 1, 1)])).unwrap();
    let two = vec![Change::Append(
        1,
        vec![entry(last, 1, ""), entry(u64::MAX, 1, "")],
    )];
    assert!(matches!(misuse(two), Misuse::Gap { .. }));
    wal.write(batch(&vec![append(1, last, last, 1, 10)]))
        .unwrap();
    assert!(matches!(
        misuse(vec![append(1, u64::MAX, u64::MAX, 1, 1)]),
        Misuse::Gap { .. }
    ));
    drop(wal);
    let wal = open(&disk, &small()).unwrap();
    let id = LogId {
        term: Term(1),
        index: Index(last),
    };
    assert_eq!(wal.last(GroupId(1)), id);
    assert_eq!(
        wal.entries(GroupId(1), Index(last)..Index(last + 1), 0)
            .unwrap()
            .len(),
        1
    );
}
