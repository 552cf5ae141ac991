//! Every length, every bit: a torn end is cut and reported, anything else is an error that names the place.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::path::Path;
use std::sync::Arc;

use duramen_disk::{Disk, OsDisk, SimDisk};
use duramen_wal::{Damage, Error, Options, Torn, Wal};
use support::*;

/// Three segments; the last holds three frames. The last frame is long and has no vote.
fn steps() -> Vec<Step> {
    vec![
        vec![append(1, 1, 2, 1, 30), vote(1, 1, 1)],
        vec![append(2, 1, 1, 1, 60)],
        vec![append(1, 2, 3, 2, 10), vote(1, 2, 1), vote(2, 3, 3)],
        vec![append(1, 4, 4, 2, 100)],
        vec![vote(1, 3, 2), user(1, b"keep")],
        vec![append(1, 5, 5, 2, 1), append(2, 2, 2, 3, 5)],
        vec![append(1, 6, 7, 3, 20), append(2, 1, 1, 5, 3)],
    ]
}

const SEGMENTS: u64 = 3;

fn small() -> Options {
    options(300)
}

/// A log on any disk, closed, and the frames of its last segment.
fn log_on(disk: Arc<dyn Disk>, dir: &Path) -> (Vec<u8>, Vec<usize>) {
    let wal = Wal::create_on(disk.clone(), dir, small()).unwrap();
    write_all(&wal, &steps());
    assert_eq!(wal.dir(), dir);
    drop(wal);
    let files = files(&*disk, dir);
    assert_eq!(files.len() as u64, SEGMENTS);
    let last = files.into_values().next_back().unwrap();
    let frames = frame_offsets(&last);
    assert_eq!(frames.len(), 3 + 1);
    (last, frames)
}

/// With its last segment as `bytes` the log opens with the first `k` batches, says that it cut `torn`, and goes on.
fn cut_and_reported(disk: &Arc<dyn Disk>, dir: &Path, bytes: &[u8], k: usize, torn: Option<Torn>) {
    let path = dir.join(segment(SEGMENTS).file_name().unwrap());
    write_file(&**disk, &path, bytes);
    let open = || Wal::open_on(disk.clone(), dir, small()).unwrap();
    let wal = open();
    let states = states(&steps());
    assert_eq!(wal.recovery().torn, torn);
    assert_eq!(wal.recovery().frames, k as u64);
    assert_eq!(state_of(&wal), states[k]);
    let end = torn.map_or(bytes.len() as u64, |torn| torn.offset);
    assert_eq!(disk.open(&path).unwrap().len().unwrap(), end);
    let Some(next) = steps().get(k).cloned() else {
        return;
    };
    wal.write(&batch(&next)).unwrap();
    assert_eq!(state_of(&wal), states[k + 1]);
    drop(wal);
    let wal = open();
    assert_eq!(wal.recovery().torn, None);
    assert_eq!(state_of(&wal), states[k + 1]);
}

/// The last frame cut off at every byte, and zeroed from every byte on.
fn a_torn_last_frame(disk: Arc<dyn Disk>, dir: &Path) {
    let (last, frames) = log_on(disk.clone(), dir);
    let path = dir.join(segment(SEGMENTS).file_name().unwrap());
    let (offset, end) = (frames[2], frames[3]);
    let torn = |bytes: usize| {
        Some(Torn {
            path: path.clone(),
            offset: offset as u64,
            bytes: bytes as u64,
        })
    };
    for len in offset..end {
        let _replay = Replay(|| format!("cut at byte {len} of {offset}..{end}"));
        let report = (len > offset).then(|| torn(len - offset)).flatten();
        cut_and_reported(&disk, dir, &last[..len], 6, report);

        let mut zeroed = last.clone();
        zeroed[len..].fill(0);
        let _replay = Replay(|| format!("zeros from byte {len} of {offset}..{end}"));
        match zeroed == last {
            true => cut_and_reported(&disk, dir, &zeroed, 7, None), // only padding was left
            false => cut_and_reported(&disk, dir, &zeroed, 6, torn(end - offset)),
        }
    }
}

#[test]
fn a_torn_last_frame_is_cut_and_reported() {
    a_torn_last_frame(Arc::new(SimDisk::new()), DIR.as_ref());
}

#[test]
fn a_torn_last_frame_is_cut_and_reported_on_real_files() {
    let dir = tempfile::tempdir().unwrap();
    a_torn_last_frame(Arc::new(OsDisk::new()), &dir.path().join("log"));
}

#[test]
fn bytes_after_the_last_frame_are_cut_and_reported() {
    for byte in [0, 1, 255] {
        for bytes in 1..100 {
            let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
            let (mut last, frames) = log_on(disk.clone(), DIR.as_ref());
            last.extend(vec![byte; bytes]);
            let torn = Torn {
                path: segment(SEGMENTS),
                offset: frames[3] as u64,
                bytes: bytes as u64,
            };
            cut_and_reported(&disk, DIR.as_ref(), &last, 7, Some(torn));
        }
    }
}

/// A segment that has a successor is whole, to the byte; of the last one the header is.
#[test]
fn a_segment_of_another_length_is_damaged() {
    let disk = disk_with(&small(), &steps());
    for number in 1..=SEGMENTS {
        let bytes = read_file(&disk, &segment(number));
        let lens = match number {
            SEGMENTS => 0..56,
            _ => 0..bytes.len() + 50,
        };
        for len in lens.filter(|&len| len != bytes.len()) {
            let _replay = Replay(|| format!("segment {number} with {len} bytes"));
            let mut other = bytes.clone();
            other.resize(len, 0);
            let error = damage_is_an_error(&disk, number, &other);
            // One that ends after a frame is noticed where the next segment should go on.
            let at_a_frame = len > 56 && frame_offsets(&bytes).contains(&len) || len == 56;
            let named = number + u64::from(at_a_frame && number < SEGMENTS);
            assert!(
                matches!(&error, Error::Damaged { path, .. } if *path == segment(named)),
                "{error}"
            );
        }
    }
}

/// Format 0 does not know how long the last segment was: it takes a lost end for a torn one. Reported, but for an end
/// that is lost from a frame on.
#[test]
fn a_shorter_last_segment_is_cut_after_its_last_whole_frame() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let (last, frames) = log_on(disk.clone(), DIR.as_ref());
    for len in 56..last.len() {
        let _replay = Replay(|| format!("{len} bytes"));
        let whole = frames.iter().filter(|&&frame| frame <= len).count() - 1;
        let offset = frames[whole];
        let torn = (len > offset).then(|| Torn {
            path: segment(SEGMENTS),
            offset: offset as u64,
            bytes: (len - offset) as u64,
        });
        cut_and_reported(&disk, DIR.as_ref(), &last[..len], 4 + whole, torn);
    }
}

/// Opens the log with `bytes` as a segment: it must refuse and leave everything as it is.
fn damage_is_an_error(disk: &SimDisk, number: u64, bytes: &[u8]) -> Error {
    let disk = disk.fork();
    write_file(&disk, &segment(number), bytes);
    let before = files(&disk, DIR.as_ref());
    let error = error(open(&disk, &small()));
    assert_eq!(files(&disk, DIR.as_ref()), before, "{error}");
    error
}

#[test]
fn a_flipped_bit_is_damage_or_a_reported_cut_of_the_last_frame() {
    let disk = disk_with(&small(), &steps());
    let states = states(&steps());
    let (mut damaged, mut cut, mut harmless) = (0, 0, 0);
    for number in 1..=SEGMENTS {
        let bytes = read_file(&disk, &segment(number));
        let frames = frame_offsets(&bytes);
        for bit in 0..bytes.len() * 8 {
            let _replay = Replay(|| format!("segment {number}, bit {bit} of byte {}", bit / 8));
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let spoiled = disk.fork();
            write_file(&spoiled, &segment(number), &flipped);
            let Ok(wal) = open(&spoiled, &small()) else {
                damaged += 1;
                let error = damage_is_an_error(&disk, number, &flipped);
                names_the_place(&error, number, &frames, bit / 8);
                continue;
            };
            let Some(torn) = &wal.recovery().torn else {
                harmless += 1;
                assert!(is_padding(&bytes, &frames, bit / 8));
                assert_eq!(state_of(&wal), states[7]);
                continue;
            };
            cut += 1;
            assert_eq!(number, SEGMENTS);
            assert!((frames[2]..frames[3]).contains(&(bit / 8)));
            assert_eq!(torn.path, segment(SEGMENTS));
            assert_eq!(torn.offset, frames[2] as u64);
            assert_eq!(torn.bytes, (frames[3] - frames[2]) as u64);
            assert_eq!(state_of(&wal), states[6]); // the newest votes with it
        }
    }
    println!("{damaged} bits are damage, {cut} a cut, {harmless} padding");
    assert!(
        damaged > 5000 && cut > 500 && harmless > 50,
        "{damaged} {cut} {harmless}"
    );
}

fn names_the_place(error: &Error, number: u64, frames: &[usize], byte: usize) {
    let Error::Damaged {
        path,
        offset,
        reason,
    } = error
    else {
        panic!("{error}");
    };
    let start = frames.iter().rev().find(|&&start| start <= byte);
    assert_eq!(*path, segment(number));
    assert_eq!(*offset, start.map_or(0, |&start| start as u64));
    assert!(
        matches!(reason, Damage::Checksum | Damage::Magic),
        "{reason}"
    );
}

fn is_padding(segment: &[u8], frames: &[usize], byte: usize) -> bool {
    frames.windows(2).any(|frame| {
        let body = u32::from_le_bytes(segment[frame[0] + 4..frame[0] + 8].try_into().unwrap());
        (frame[0] + 24 + body as usize..frame[1]).contains(&byte)
    })
}

/// A write that the disk lost, and one that it put in the wrong place.
#[test]
fn a_lost_sector_before_the_last_frame_is_damage() {
    let long = [
        vec![append(1, 1, 1, 1, 1500), vote(1, 1, 1)],
        vec![append(1, 2, 3, 1, 700), vote(1, 2, 2)],
        vec![append(1, 4, 4, 1, 10)],
    ];
    let disk = disk_with(&Options::default(), &long);
    let bytes = read_file(&disk, &segment(1));
    let frames = frame_offsets(&bytes);
    for fill in [0, 0x5a] {
        for sector in 0..=(frames[2] - 1) / 512 {
            let mut spoiled = bytes.clone();
            let end = (sector * 512 + 512).min(frames[2]);
            spoiled[sector * 512..end].fill(fill);
            let error = damage_is_an_error(&disk, 1, &spoiled);
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
        }
    }
}

#[test]
fn damage_that_comes_while_the_log_is_open_is_found_by_reading() {
    let disk = disk_with(&small(), &steps());
    let wal = open(&disk, &small()).unwrap();
    let mut bytes = read_file(&disk, &segment(1));
    let text = b"1/1.1 ";
    let at = bytes
        .windows(text.len())
        .position(|window| window == text)
        .unwrap();
    bytes[at] ^= 1;
    write_file(&disk, &segment(1), &bytes);
    let read = |from, to| {
        let range = duramen_wal::Index(from)..duramen_wal::Index(to);
        wal.entries(duramen_wal::GroupId(1), range, u64::MAX)
    };
    match error(read(1, 2)) {
        Error::Damaged {
            path,
            offset,
            reason,
        } => {
            assert_eq!((path, offset), (segment(1), at as u64 - 4));
            assert_eq!(reason, Damage::Checksum);
        }
        other => panic!("{other}"),
    }
    assert_eq!(read(2, 8).unwrap().len(), 6);
}

/// Two histories of one log: it was copied, and both copies went on. Each frame is right where it is.
#[test]
fn a_frame_that_follows_another_one_is_not_taken() {
    let vote_for = |node| {
        (1..=4)
            .map(|term| vec![vote(1, term, node)])
            .collect::<Vec<_>>()
    };
    let (ours, theirs) = (vote_for(1), vote_for(2));
    let disk = disk_with(&Options::default(), &[]);
    let other = disk.fork();
    other.kill();
    write_all(&open(&disk, &Options::default()).unwrap(), &ours);
    write_all(&open(&other, &Options::default()).unwrap(), &theirs);
    let (our, their) = (
        read_file(&disk, &segment(1)),
        read_file(&other, &segment(1)),
    );
    let frames = frame_offsets(&our);
    assert_eq!(frames, frame_offsets(&their));

    let with = |taken: std::ops::Range<usize>| {
        let mut mixed = our.clone();
        mixed[taken.clone()].copy_from_slice(&their[taken]);
        mixed
    };
    // A frame in the middle, or all from there on: what is after them says that they are no torn end.
    for taken in [
        frames[1]..frames[2],
        frames[1]..frames[4],
        frames[2]..frames[3],
    ] {
        let at = taken.start as u64;
        let error = damage_is_an_error(&disk, 1, &with(taken));
        let order = |offset, reason| offset == at && reason == Damage::Order;
        assert!(
            matches!(error, Error::Damaged { offset, reason, .. } if order(offset, reason)),
            "{error}"
        );
    }
    // The last one alone could be the end of the other history: it is not taken.
    write_file(&disk, &segment(1), &with(frames[3]..frames[4]));
    let wal = open(&disk, &Options::default()).unwrap();
    assert_eq!(
        wal.recovery().torn.as_ref().unwrap().offset,
        frames[3] as u64
    );
    assert_eq!(state_of(&wal), states(&ours)[3]);
}
