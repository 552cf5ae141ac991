//! What is written is read back: overwriting, truncating, hard states, several groups, several segments. And what is
//! refused.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::sync::Arc;

use duramen_disk::{Disk, OsDisk, SimDisk};
use duramen_wal::{
    Batch, Context, Entry, Error, GroupId, HardState, Index, Misuse, NodeId, Options, Term, Wal,
};
use support::*;

const G: GroupId = GroupId(1);

/// Segments that hold a few small batches each, or one vote.
fn small() -> Options {
    options(12288)
}

fn large() -> Options {
    options(1 << 17)
}

/// Writes `steps`, looks, and looks again after each way to come back.
fn written_is_read_back(options: &Options, steps: &[Step]) -> SimDisk {
    let disk = SimDisk::new();
    let wal = create(&disk, options).unwrap();
    for (step, state) in steps.iter().zip(&states(steps)[1..]) {
        let ticket = wal.submit(batch(step)).unwrap();
        assert_eq!(&state_of(&wal), state, "before it is durable");
        ticket.wait().unwrap();
        assert_eq!(&state_of(&wal), state);
    }
    drop(wal);
    assert_holds(&disk, options, steps, steps.len());
    disk.power_cut(0);
    assert_holds(&disk, options, steps, steps.len());
    disk
}

#[test]
fn a_conflicting_entry_replaces_the_log_from_there_on_within_a_segment() {
    let steps = [
        vec![append(1, 1, 6, 1, 20)],
        vec![append(1, 3, 4, 2, 30)],
        vec![append(1, 5, 5, 2, 0)],
        vec![append(1, 1, 1, 3, 9)],
    ];
    written_is_read_back(&large(), &steps);
}

#[test]
fn a_conflicting_entry_replaces_the_log_from_there_on_across_segments() {
    let steps: Vec<Step> = (1..=8)
        .map(|index| vec![append(1, index, index, 1, 2000)])
        .chain([
            vec![append(1, 3, 3, 2, 2000)],
            vec![append(1, 4, 9, 2, 400)],
            vec![append(1, 2, 2, 5, 2000)],
        ])
        .collect();
    let disk = written_is_read_back(&small(), &steps);
    // Some were begun and are empty again: what was needed of them was moved.
    let names = disk.list(DIR.as_ref()).unwrap();
    assert!(
        names.contains(&"0000000000000004.wal".to_owned()),
        "{names:?}"
    );
}

#[test]
fn a_batch_may_replace_its_own_entries() {
    let steps = [
        vec![append(1, 1, 2, 1, 10)],
        vec![
            append(1, 3, 6, 2, 10),
            append(1, 4, 5, 3, 10),
            append(1, 2, 3, 4, 10),
            append(2, 1, 1, 1, 10),
        ],
    ];
    written_is_read_back(&large(), &steps);
}

#[test]
fn a_truncation_cuts_the_log_off_and_it_goes_on_from_there() {
    let mut steps: Vec<Step> = (1..=8)
        .map(|index| vec![append(1, index, index, index, 2000)])
        .collect();
    steps.extend([
        vec![Change::Truncate(1, 8)],
        vec![Change::Truncate(1, 3)],
        vec![
            append(1, 4, 5, 4, 100),
            Change::Truncate(1, 4),
            append(1, 5, 5, 4, 7),
        ],
        vec![Change::Truncate(1, 0), user(1, b"nothing is left")],
        vec![append(1, 1, 1, 1, 10)],
    ]);
    written_is_read_back(&small(), &steps);
    written_is_read_back(&large(), &steps);
}

#[test]
fn a_group_that_is_removed_is_forgotten_and_may_begin_anew() {
    let steps = [
        vec![append(1, 1, 4, 3, 500), vote(1, 5, 1), user(1, b"one")],
        vec![append(2, 1, 4, 3, 500), vote(2, 5, 1)],
        vec![Change::Remove(1)],
        vec![append(1, 1, 1, 1, 10), Change::Remove(2), vote(2, 1, 1)],
    ];
    written_is_read_back(&small(), &steps);
    written_is_read_back(&large(), &steps);
}

#[test]
fn the_newest_term_and_vote_come_back() {
    let steps = [
        vec![vote(1, 1, 3)],
        vec![vote(1, 2, 2), append(1, 1, 1, 2, 5)],
        vec![vote(2, 9, 1)],
        vec![vote(1, 4, 7), vote(1, 5, 1)],
        vec![append(1, 2, 2, 2, 5)],
    ];
    let disk = written_is_read_back(&small(), &steps);
    let wal = open(&disk, &small()).unwrap();
    let newest = HardState {
        term: Term(5),
        voted_for: Some(NodeId(1)),
        context: Context::new(&[1; 5]).unwrap(),
    };
    assert_eq!(wal.hard_state(G), newest);
    // A newer term without a vote takes the vote away.
    let unvoted = HardState {
        term: Term(6),
        ..HardState::default()
    };
    let mut batch = Batch::new();
    batch.hard_state(G, unvoted);
    wal.write(batch).unwrap();
    drop(wal);
    disk.power_cut(0);
    let wal = open(&disk, &small()).unwrap();
    assert_eq!(wal.hard_state(G), unvoted);
}

#[test]
fn groups_do_not_mix_and_a_batch_covers_several() {
    let steps = [
        vec![
            append(1, 1, 2, 1, 10),
            append(2, 1, 3, 7, 10),
            vote(3, 1, 1),
        ],
        vec![
            append(2, 2, 2, 8, 10),
            user(1, b"one"),
            append(1, 3, 3, 1, 10),
        ],
        vec![user(u64::MAX, b"all bits"), user(1, b""), vote(0, 0, 0)],
    ];
    written_is_read_back(&large(), &steps);
    written_is_read_back(&small(), &steps);
}

#[test]
fn the_contexts_of_entries_come_back() {
    let with = |index, context: &[u8]| Entry {
        context: Context::new(context).unwrap(),
        ..entry(index, 1, "payload")
    };
    let steps = [
        vec![Change::Append(
            1,
            vec![with(1, b"leader 1"), with(2, b"leader 1"), with(3, b"")],
        )],
        vec![Change::Append(1, vec![with(4, &[255; 31])])],
        vec![
            Change::Append(1, vec![with(2, b"leader 2")]),
            purge(1, 1, 1),
        ],
    ];
    written_is_read_back(&large(), &steps);
}

/// What a frame takes is known from `format.rs`; what is reckoned for one is a little more.
#[test]
fn a_segment_is_followed_by_a_new_one_when_it_is_full() {
    // Large enough that little of a segment is overhead: nothing is moved.
    const PAYLOAD: u64 = 1000;
    let steps: Vec<Step> = (1..=80)
        .map(|i| vec![append(1, i, i, 1, PAYLOAD as usize)])
        .collect();
    let (header, trailer, records) = (64, 128, 8 + 8 + 16 + 8);
    let frame: u64 = 40 + PAYLOAD + 2 * (56 + records);
    let summary = 16 + 24 + 32;
    let reckoned = frame + 2 * 32 + summary; // a context may take so much more
    let may_add_to_states = 3 * (records + 32) + 512;
    let resume = 40 + 2 * (56 + 16);
    let states = 4096 + 2 * (56 + 48); // its second directory, and that in the seal
    for segment_bytes in [12288, 1 << 14, 1 << 15, 1 << 17] {
        let reserve = segment_bytes / 16;
        // The next one is prepared when the reserve would be entered, and begun when this one is full.
        let (mut begun, mut is_prepared) = (1, false);
        let (mut file_bytes, mut first, mut frames) = (segment_bytes, resume, 0);
        for _ in &steps {
            let summaries = (frames * summary).min(file_bytes / 16);
            let room = file_bytes - header - trailer - first - frames * frame - summaries;
            is_prepared |= room < reckoned + may_add_to_states + reserve;
            if room < reckoned {
                (begun, is_prepared) = (begun + 1, false);
                (file_bytes, first, frames) = (segment_bytes.max(8192), states, 0);
            }
            frames += 1;
        }
        assert!(begun > 1 || segment_bytes == 1 << 17);
        let disk = SimDisk::new();
        write_all(&create(&disk, &options(segment_bytes)).unwrap(), &steps);
        let names = disk.list(DIR.as_ref()).unwrap();
        let segments = begun + usize::from(is_prepared);
        assert_eq!(names.len(), segments + 2, "{segment_bytes}"); // and CONTROL and the lock
        assert_holds(&disk, &options(segment_bytes), &steps, 80);
    }
}

#[test]
fn a_log_goes_on_in_the_segments_of_other_options() {
    let steps: Vec<Step> = (1..=9).map(|i| vec![append(1, i, i, 1, 1500)]).collect();
    let disk = SimDisk::new();
    write_all(&create(&disk, &small()).unwrap(), &steps[..3]);
    write_all(&open(&disk, &large()).unwrap(), &steps[3..6]);
    write_all(&open(&disk, &options(4096)).unwrap(), &steps[6..]);
    assert_holds(&disk, &small(), &steps, 9);
}

/// The first frame of a segment holds the state of every group, so a segment may have to be larger than it was meant to.
#[test]
fn the_state_of_many_groups_has_its_space_in_segments_of_any_size() {
    let with = |group| vec![user(group, &[b'x'; 700]), append(group, 1, 1, 1, 10)];
    let steps: Vec<Step> = (1..=60).map(with).collect();
    let disk = disk_with(&large(), &steps);
    let sizes = [1, 4096, 8192, 1 << 16].into_iter().cycle();
    for segment_bytes in sizes.take(200) {
        // Each time a frame is written, until the segment is full.
        assert_holds(&disk, &options(segment_bytes), &steps, 60);
    }
    let wal = open(&disk, &options(4096)).unwrap();
    assert!(wal.recovery().segments > 1);
    let more: Vec<Step> = (61..=90).map(with).collect();
    for pair in more.chunks(2) {
        let tickets = [0, 1].map(|i| wal.submit(batch(&pair[i])).unwrap());
        tickets
            .into_iter()
            .for_each(|ticket| ticket.wait().unwrap());
    }
    drop(wal);
    assert_holds(&disk, &options(4096), &[steps, more].concat(), 90);
}

/// What is behind the last frame is zeros, whatever the size.
#[test]
fn a_batch_of_many_votes_has_its_space() {
    let options = options(1 << 16);
    let disk = SimDisk::new();
    let wal = create(&disk, &options).unwrap();
    for term in 1..100 {
        let step: Step = (1..=40).map(|group| vote(group, term, 3)).collect();
        wal.write(batch(&step)).unwrap();
    }
    let state = state_of(&wal);
    drop(wal);
    assert_eq!(state_of(&open(&disk, &options).unwrap()), state);
}

#[test]
fn a_segment_that_is_full_of_votes_has_space_for_its_seal() {
    for filler in (0..4400).step_by(8) {
        let options = options(1 << 15);
        let disk = SimDisk::new();
        let wal = create(&disk, &options).unwrap();
        wal.write(batch(&vec![append(1, 1, 1, 1, filler)])).unwrap();
        for term in 1..20 {
            wal.write(batch(&vec![vote(1, term, 3)])).unwrap();
        }
        let state = state_of(&wal);
        drop(wal);
        assert_eq!(state_of(&open(&disk, &options).unwrap()), state, "{filler}");
    }
}

#[test]
fn nothing_is_cut_off_a_log_whose_segments_have_an_odd_size() {
    let steps = [vec![append(1, 1, 1, 1, 10)], vec![append(1, 2, 2, 1, 10)]];
    for segment_bytes in 9001..9009 {
        let disk = killed_disk_with(&options(segment_bytes), &steps);
        assert_holds(&disk, &options(segment_bytes), &steps, 2);
    }
}

#[test]
fn short_writes_are_completed() {
    let steps = [vec![append(1, 1, 3, 1, 50)], vec![vote(1, 2, 2)]];
    let disk = SimDisk::new();
    disk.set_write_bytes_max(Some(7));
    write_all(&create(&disk, &small()).unwrap(), &steps);
    disk.power_cut(0);
    assert_holds(&disk, &small(), &steps, 2);
}

#[test]
fn a_misuse_is_a_typed_error_and_writes_nothing() {
    let steps = [vec![append(1, 1, 3, 4, 10), vote(1, 5, 1)]];
    let disk = disk_with(&small(), &steps);
    let wal = open(&disk, &small()).unwrap();
    let index = Index;
    let gap = |index, last| Misuse::Gap {
        index: Index(index),
        last: Index(last),
    };
    let back = |term, before| Misuse::TermBack {
        term: Term(term),
        before: Term(before),
    };
    let missing = |at| Misuse::NoSuchEntry {
        index: index(at),
        last: index(3),
    };
    let wrong = Misuse::WrongTerm {
        index: index(2),
        term: Term(5),
        found: Term(4),
    };
    let purge_back = Misuse::PurgeBack {
        index: index(1),
        before: index(2),
    };
    let table = [
        (vec![append(1, 5, 5, 4, 1)], gap(5, 3)),
        (
            vec![append(1, 4, 4, 4, 1), append(1, 6, 6, 4, 1)],
            gap(6, 4),
        ),
        (
            vec![append(1, 2, 2, 4, 1), append(1, 4, 4, 4, 1)],
            gap(4, 2),
        ),
        (vec![append(1, 0, 0, 4, 1)], gap(0, 3)),
        (vec![append(1, u64::MAX, u64::MAX, 4, 1)], gap(u64::MAX, 3)),
        (vec![append(1, 4, 4, 3, 1)], back(3, 4)),
        (vec![append(1, 2, 2, 3, 1)], back(3, 4)),
        (
            vec![append(1, 4, 4, 9, 1), append(1, 5, 5, 8, 1)],
            back(8, 9),
        ),
        (vec![vote(1, 4, 1)], back(4, 5)),
        (vec![vote(1, 7, 1), vote(1, 6, 1)], back(6, 7)),
        (vec![user(2, b"good"), append(1, 5, 5, 4, 1)], gap(5, 3)),
        (vec![Change::Truncate(1, 4)], missing(4)),
        (vec![purge(1, 2, 5)], wrong),
        (vec![purge(1, 2, 4), purge(1, 1, 4)], purge_back),
        (vec![purge(1, 2, 4), append(1, 2, 2, 4, 1)], gap(2, 3)),
    ];
    let (before, operations) = (files(&disk, DIR.as_ref()), disk.operations());
    for (step, expected) in table {
        match error(wal.write(batch(&step))) {
            Error::Misuse { group, misuse } => assert_eq!((group, misuse), (G, expected)),
            other => panic!("{step:?}: {other}"),
        }
    }
    match error(wal.write(batch(&vec![append(1, 4, 4, 4, 6100)]))) {
        // 6100 of payload, a frame header, and the directory, which is reckoned with a context and for the seal too.
        Error::TooLarge { bytes, bytes_max } => {
            assert_eq!((bytes, bytes_max), (6104 + 40 + 2 * (56 + 72), 6144));
        }
        other => panic!("{other}"),
    }
    wal.write(Batch::new()).unwrap(); // nothing is nothing
    assert_eq!(disk.operations(), operations);
    assert_eq!(files(&disk, DIR.as_ref()), before);
    assert_eq!(state_of(&wal), states(&steps)[1]);
    wal.write(batch(&vec![append(1, 4, 4, 4, 1)])).unwrap();
}

#[test]
fn to_truncate_remove_or_read_an_unknown_group_is_a_misuse_and_writes_nothing() {
    let disk = disk_with(&small(), &[vec![append(1, 1, 1, 1, 1)]]);
    let wal = open(&disk, &small()).unwrap();
    let (before, operations) = (files(&disk, DIR.as_ref()), disk.operations());
    let steps: [Step; 3] = [
        vec![Change::Truncate(7, 0)],
        vec![Change::Remove(7)],
        vec![append(7, 1, 1, 1, 1), Change::Remove(7), Change::Remove(7)],
    ];
    let read = wal.entries(GroupId(7), Index(1)..Index(2), 0).map(drop);
    let written = steps.map(|step| wal.write(batch(&step)));
    for refused in written.into_iter().chain([read]) {
        match error(refused) {
            Error::Misuse { group, misuse } => {
                assert_eq!((group, misuse), (GroupId(7), Misuse::UnknownGroup));
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(wal.groups(), [GroupId(1)]);
    assert_eq!(disk.operations(), operations);
    assert_eq!(files(&disk, DIR.as_ref()), before);
}

#[test]
fn entries_are_read_by_range_and_by_bytes() {
    let disk = disk_with(&small(), &[vec![append(1, 1, 9, 1, 10)]]);
    let wal = open(&disk, &small()).unwrap();
    let _pending = wal.submit(batch(&vec![append(1, 10, 12, 1, 10)])).unwrap();
    let indexes = |from, to, bytes_max| {
        let entries = wal.entries(G, Index(from)..Index(to), bytes_max).unwrap();
        entries
            .iter()
            .map(|entry| entry.id.index.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(indexes(3, 5, u64::MAX), [3, 4]);
    assert_eq!(indexes(3, 9, 29), [3, 4]);
    assert_eq!(indexes(3, 9, 30), [3, 4, 5]);
    assert_eq!(indexes(3, 9, 0), [3]);
    assert_eq!(indexes(9, 12, 25), [9, 10]);
    assert!(indexes(5, 5, 100).is_empty());
    for (from, to, missing) in [(0, 2, 0), (9, 14, 13), (50, 51, 50)] {
        match error(wal.entries(G, Index(from)..Index(to), u64::MAX)) {
            Error::Misuse { misuse, .. } => {
                let (index, last) = (Index(missing), Index(12));
                assert_eq!(misuse, Misuse::NoSuchEntry { index, last });
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn what_is_written_to_real_files_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("new/log");
    let steps: Vec<Step> = (1..=9)
        .map(|i| vec![append(1, i, i, i, 1500), vote(2, i, i)])
        .collect();
    let wal = Wal::create_on(Arc::new(OsDisk::new()), &dir, small()).unwrap();
    assert_eq!(wal.dir(), dir);
    write_all(&wal, &steps);
    drop(wal);
    let wal = Wal::open(&dir, small()).unwrap();
    assert_eq!(state_of(&wal), states(&steps)[9]);
    assert!(dir.join("0000000000000005.wal").exists()); // Some before it are empty again.
}

/// Two tables are needed, and the budget holds none of them.
#[test]
fn a_range_over_several_sealed_segments_is_read_under_any_index_budget() {
    let steps: Vec<Step> = (1..=20).map(|i| vec![append(1, i, i, 1, 1500)]).collect();
    let disk = disk_with(&small(), &steps);
    for index_bytes_max in [0, 1, 500] {
        let mut options = small();
        options.index_bytes_max = index_bytes_max;
        options.recent_bytes_max = 0;
        assert_holds(&disk, &options, &steps, 20);
    }
}
