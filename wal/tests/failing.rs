//! The disk fails or is full while the log is open.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::io::ErrorKind;

use duramen_disk::{Disk, SimDisk};
use duramen_wal::{Batch, Error, GroupId, Options, Term};
use support::*;

fn small() -> Options {
    options(12288)
}

/// Each vote that follows another one needs a segment of its own.
fn steps() -> Vec<Step> {
    vec![
        vec![append(1, 1, 2, 1, 2700), vote(1, 1, 1)],
        vec![append(1, 2, 5, 2, 300), purge(1, 1, 1)],
        vec![vote(1, 3, 3), append(2, 1, 1, 1, 5500)],
        vec![append(1, 6, 7, 2, 30), Change::Truncate(1, 6)],
        vec![vote(1, 4, 3), append(1, 6, 6, 3, 5400)],
    ]
}

/// What the disk said, if the log says that the disk said it.
fn io_kind(error: &Error) -> Option<ErrorKind> {
    match error {
        Error::Io { source, .. } => Some(source.kind()),
        Error::Poisoned { cause } => io_kind(cause),
        _ => None,
    }
}

#[test]
fn a_failed_sync_is_not_acknowledged_and_poisons_the_log() {
    let disk = disk_with(&small(), &steps()[..1]);
    let wal = open(&disk, &small()).unwrap();
    disk.fail_next_sync(ErrorKind::TimedOut);
    let failed = error(wal.write(batch(&steps()[1])));
    assert!(matches!(failed, Error::Poisoned { .. }), "{failed}");
    assert_eq!(io_kind(&failed), Some(ErrorKind::TimedOut), "{failed}");
    assert_eq!(
        state_of(&wal),
        states(&steps())[1],
        "reads end at what is durable"
    );

    // The next sync would succeed. It is not tried, nor anything else: not by writing, nor by closing.
    let operations = disk.operations();
    for step in [&steps()[1], &steps()[2]] {
        match error(wal.write(batch(step))) {
            Error::Poisoned { cause } => assert_eq!(io_kind(&cause), Some(ErrorKind::TimedOut)),
            other => panic!("{other}"),
        }
    }
    assert!(matches!(wal.drive(), Err(Error::Poisoned { .. })));
    assert!(matches!(wal.clone().close(), Err(Error::Poisoned { .. })));
    drop(wal);
    assert_eq!(disk.operations(), operations);
    disk.power_cut(0);
    assert_holds(&disk, &small(), &steps(), 1);
}

/// All is submitted at once, so that each batch changes what others before it put there and what is not written yet.
#[test]
fn after_a_failure_reads_give_what_is_durable_whatever_was_submitted_since() {
    let steps: Vec<Step> = vec![
        vec![append(1, 1, 6, 1, 100), user(1, b"one"), vote(2, 2, 2)],
        vec![append(1, 4, 5, 2, 100), vote(1, 2, 1)],
        vec![
            Change::Truncate(1, 3),
            append(2, 1, 2, 1, 50),
            vote(1, 3, 1),
        ],
        vec![
            append(1, 4, 6, 3, 100),
            append(1, 5, 5, 4, 10),
            user(1, b"two"),
        ],
        vec![purge(1, 2, 1), vote(1, 4, 1)],
        vec![purge(1, 4, 3), append(3, 1, 1, 1, 10), vote(1, 5, 1)],
        vec![Change::Remove(1), user(2, b"three")],
        vec![append(1, 1, 1, 9, 10), purge(2, 10, 5), vote(3, 1, 1)],
        vec![Change::Remove(2), vote(1, 10, 2)],
    ];
    let states = states(&steps);
    // All in one segment; and with segments so small that some are sealed while what changes their entries waits.
    for (options, outcomes_min) in [(options(1 << 17), 7), (small(), 7)] {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0.. {
            let _replay = Replay(|| format!("operation {n} fails"));
            let disk = SimDisk::new();
            let wal = create(&disk, &options).unwrap();
            disk.fail_after(n, ErrorKind::Other);
            // Who submits may prepare a segment, and meet with the failure.
            let submit = |step| wal.submit(batch(step)).ok();
            let tickets: Vec<_> = steps.iter().map_while(submit).collect();
            let outcomes = tickets.into_iter().map(|ticket| ticket.wait().is_ok());
            let durable = outcomes.take_while(|is_ok| *is_ok).count();
            assert_eq!(state_of(&wal), states[durable]);
            seen.insert(durable);
            if durable == steps.len() {
                break;
            }
        }
        assert!(seen.len() >= outcomes_min, "{seen:?}"); // a batch without a vote is written with the one before
    }
}

/// The pages of the failed sync count as clean, so `open` reads the batch and one more sync would not write it.
#[test]
fn what_open_read_after_a_failed_sync_is_durable_when_it_returns() {
    for killed in [false, true] {
        let disk = disk_with(&small(), &steps()[..1]);
        let wal = open(&disk, &small()).unwrap();
        disk.fail_next_sync(ErrorKind::Other);
        wal.write(batch(&steps()[1])).unwrap_err();
        drop(wal);
        if killed {
            disk.kill();
        }
        // The sync in `open` may fail as well. Then it gives no answer.
        disk.fail_next_sync(ErrorKind::TimedOut);
        let failed = error(open(&disk, &small()));
        assert_eq!(io_kind(&failed), Some(ErrorKind::TimedOut), "{failed}");
        assert_holds(&disk, &small(), &steps(), 2);
        for seed in 0..20 {
            let after = disk.fork();
            after.power_cut(seed);
            assert_holds(&after, &small(), &steps(), 2);
        }
    }
}

#[test]
fn any_failed_operation_poisons_the_log_and_opening_it_again_goes_on() {
    let states = states(&steps());
    let (mut operations, mut spares) = (0, 0);
    for n in 0.. {
        let _replay = Replay(|| format!("operation {n} fails"));
        let disk = disk_with(&small(), &[]);
        let wal = open(&disk, &small()).unwrap();
        disk.fail_after(n, ErrorKind::Other);
        let written = steps()
            .iter()
            .map(|step| wal.write(batch(step)))
            .collect::<Vec<_>>();
        let acknowledged = written.iter().take_while(|written| written.is_ok()).count();
        // The last seal is written when all is acknowledged.
        let after_all = wal.write(Batch::new());
        let mut outcomes = written.iter().chain([&after_all]);
        let Some(Err(failed)) = outcomes.find(|outcome| outcome.is_err()) else {
            break;
        };
        operations += 1;
        assert_eq!(io_kind(failed), Some(ErrorKind::Other), "{failed}");
        // What reserves space poisons nothing; then the next batches are as good as any.
        if after_all.is_ok() {
            assert!(
                matches!(failed, Error::Io { path, .. } if path.ends_with("spare-1.tmp") || path.ends_with("spare-2.tmp"))
            );
            spares += 1;
            continue;
        }
        for later in outcomes {
            assert!(matches!(later, Err(Error::Poisoned { .. })));
        }
        assert_eq!(state_of(&wal), states[acknowledged]);
        // Where the next segment gets its name the batch was not taken.
        let taken = usize::from(matches!(failed, Error::Poisoned { .. }));
        drop(wal);
        let wal = open(&disk, &small()).unwrap();
        let found = held(&wal, &states);
        assert!((acknowledged..=acknowledged + taken).contains(&found));
        write_all(&wal, &steps()[found..]);
        drop(wal);
        disk.power_cut(0);
        assert_holds(&disk, &small(), &steps(), steps().len());
    }
    println!("{operations} operations failed");
    // Each batch is a write and a sync. A spare: create, allocate, sync. A rotation: write, sync, rename, sync, CONTROL,
    // sync; seal, sync, trailer, sync.
    assert_eq!(operations, 5 * 2 + 2 * (3 + 6 + 4));
    assert_eq!(spares, 2 * 3);
}

#[test]
fn no_space_at_any_operation_refuses_one_batch_without_a_trace_or_poisons() {
    let (mut full, mut poisoned) = (0, 0);
    for n in 0.. {
        let _replay = Replay(|| format!("no space at operation {n}"));
        let disk = disk_with(&small(), &[]);
        let wal = open(&disk, &small()).unwrap();
        disk.fail_after(n, ErrorKind::StorageFull);
        let mut failed = false;
        for (k, step) in steps().iter().enumerate() {
            match wal.write(batch(step)) {
                Ok(()) => continue,
                Err(Error::Full { .. }) => full += 1,
                Err(Error::Poisoned { .. } | Error::Io { .. }) => {
                    poisoned += 1; // by a sync, or where space was reserved: nobody knows what it left
                    failed = true;
                    break;
                }
                Err(other) => panic!("{other}"),
            }
            failed = true;
            assert_eq!(state_of(&wal), states(&steps())[k]);
            for seed in 0..5 {
                let after = disk.fork();
                after.power_cut(seed);
                assert_holds(&after, &small(), &steps(), k);
            }
            wal.write(batch(step)).unwrap();
        }
        match wal.write(Batch::new()) {
            Ok(()) if !failed => break,
            // By the last seal: all is acknowledged.
            Err(Error::Poisoned { .. }) if !failed => {
                poisoned += 1;
                assert_eq!(state_of(&wal), states(&steps())[steps().len()]);
            }
            _ => {}
        }
    }
    println!("{full} times full, {poisoned} times poisoned");
    assert_eq!((full, poisoned), (2 * 2, 5 * 2 + 2 * (1 + 6 + 4)));
}

/// A log with the first batch, on a disk with space for `free` more bytes.
fn full_disk(free: u64) -> SimDisk {
    let disk = disk_with(&small(), &steps()[..1]);
    disk.set_free_bytes(Some(free));
    disk
}

/// Less than what a segment takes, in steps that no size divides.
fn too_little() -> impl Iterator<Item = u64> {
    (0..12288).step_by(97).chain([12287])
}

#[test]
fn a_full_disk_takes_no_batch_that_needs_a_segment_and_goes_on_when_there_is_space() {
    for free in too_little() {
        let _replay = Replay(|| format!("{free} bytes free"));
        let disk = full_disk(free);
        let wal = open(&disk, &small()).unwrap();
        wal.write(batch(&steps()[1])).unwrap(); // there is space in the segment
        for _ in 0..2 {
            let full = error(wal.submit(batch(&steps()[2])));
            assert!(matches!(full, Error::Full { .. }), "{full}");
            assert_eq!(state_of(&wal), states(&steps())[2]);
        }
        let mut taken = steps()[..2].to_vec();
        taken.push(vec![append(1, 6, 6, 2, 10)]);
        write_all(&wal, &taken[2..]); // small ones go on
        disk.set_free_bytes(None);
        // Another one that needs a segment: nothing of the refused one is left.
        taken.push(vec![vote(1, 7, 7), append(2, 1, 1, 7, 5500)]);
        write_all(&wal, &taken[3..]);
        drop(wal);
        disk.power_cut(0);
        assert_holds(&disk, &small(), &taken, 4);
    }
}

#[test]
fn a_batch_that_a_full_disk_refused_never_comes_back() {
    for free in too_little() {
        let disk = full_disk(free);
        let wal = open(&disk, &small()).unwrap();
        wal.write(batch(&steps()[1])).unwrap();
        wal.write(batch(&steps()[2])).unwrap_err();
        for seed in 0..6 {
            let after = disk.fork();
            match seed {
                0 => after.kill(),
                1 => after.power_cut(0),
                _ => after.power_cut(free * 100 + seed), // not the same few draws for each `free`
            }
            after.set_free_bytes(None);
            assert_holds(&after, &small(), &steps(), 2); // and nothing is torn
            assert_eq!(files(&after, DIR.as_ref()).len(), 2, "no spare is left");
        }
    }
}

#[test]
fn a_full_disk_does_not_keep_the_log_from_opening() {
    let disk = full_disk(0);
    let wal = open(&disk, &small()).unwrap();
    disk.crash_after(0); // in the write, half of which is there
    wal.write(batch(&steps()[1])).unwrap_err();
    drop(wal);
    disk.kill();
    let wal = open(&disk, &small()).unwrap();
    assert!(wal.recovery().cut.is_some());
    assert_eq!(state_of(&wal), states(&steps())[1]);
}

/// Each time it is opened a frame is written. When the segment is full of them it says so, changes nothing, and opens as
/// soon as there is space.
#[test]
fn a_log_that_is_full_to_the_last_byte_says_so_and_opens_when_there_is_space() {
    let disk = full_disk(0);
    let full = (0..1000).find_map(|_| open(&disk, &small()).err()).unwrap();
    assert!(matches!(full, Error::Full { .. }), "{full}");
    let before = files(&disk, DIR.as_ref());
    assert!(matches!(error(open(&disk, &small())), Error::Full { .. }));
    assert_eq!(files(&disk, DIR.as_ref()), before);
    disk.set_free_bytes(None);
    assert_holds(&disk, &small(), &steps(), 1);
    write_all(&open(&disk, &small()).unwrap(), &steps()[1..]);
    assert_holds(&disk, &small(), &steps(), 5);
}

#[test]
fn a_create_on_a_full_disk_is_full_and_can_be_done_again() {
    for free in (4160..4160 + 12288).step_by(89) {
        let disk = SimDisk::new();
        disk.set_free_bytes(Some(free));
        let full = error(create(&disk, &small()));
        assert!(matches!(full, Error::Full { .. }), "{full}");
        disk.set_free_bytes(None);
        write_all(&create(&disk, &small()).unwrap(), &steps());
        disk.power_cut(0);
        assert_holds(&disk, &small(), &steps(), 5);
    }
}

#[test]
fn a_disk_error_in_open_is_no_answer_and_changes_nothing_for_the_next_one() {
    let unsynced = disk_with(&small(), &steps()[..2]);
    let wal = open(&unsynced, &small()).unwrap();
    unsynced.crash_after(3 + 6 + 1); // the new segment, and the sync of its frames
    wal.write(batch(&steps()[2])).unwrap_err();
    drop(wal);
    for n in 0.. {
        let _replay = Replay(|| format!("operation {n} of open fails"));
        let disk = unsynced.fork();
        disk.kill();
        disk.fail_after(n, ErrorKind::Other);
        let Err(failed) = open(&disk, &small()) else {
            // lock; CONTROL again, sync; both frames again, sync; directory; a frame, sync; CONTROL, sync; directory
            assert_eq!(n, 12);
            break;
        };
        assert_eq!(io_kind(&failed), Some(ErrorKind::Other), "{failed}");
        assert_holds(&disk, &small(), &steps(), 3);
        disk.power_cut(0);
        assert_holds(&disk, &small(), &steps(), 3);
    }
    assert!(
        unsynced.list(DIR.as_ref()).is_err(),
        "crashed until it is killed"
    );
}

fn roomy() -> Options {
    options(1 << 18)
}

/// A log on a disk with no space left, that has taken what it takes of ordinary entries. And how many it took.
fn log_on_a_full_disk() -> (SimDisk, Vec<Step>) {
    let disk = disk_with(&roomy(), &[]);
    disk.set_free_bytes(Some(0));
    let wal = open(&disk, &roomy()).unwrap();
    let mut steps = Vec::new();
    for i in 1.. {
        let step = vec![append(1, i, i, 1, 1000)];
        match wal.write(batch(&step)) {
            Ok(()) => steps.push(step),
            Err(Error::Full { .. }) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(steps.len() > 150, "{}", steps.len());
    (disk, steps)
}

#[test]
fn on_a_full_disk_votes_truncations_purges_and_vital_entries_are_taken() {
    let (disk, mut steps) = log_on_a_full_disk();
    let last = steps.len() as u64;
    let wal = open(&disk, &roomy()).unwrap();
    let mut go_on = |step: Step, is_vital: bool| {
        let mut batch = batch(&step);
        if is_vital {
            assert!(matches!(
                error(wal.submit(batch.clone())),
                Error::Full { .. }
            ));
            batch.vital();
        }
        wal.write(batch).unwrap();
        steps.push(step);
        let after = disk.fork();
        after.power_cut(steps.len() as u64);
        assert_holds(&after, &roomy(), &steps, steps.len());
    };
    go_on(vec![vote(1, 2, 1)], false);
    go_on(vec![Change::Truncate(1, last - 1)], false);
    go_on(vec![append(1, last, last, 2, 0)], true);
    go_on(vec![purge(1, 5, 1)], false);
    go_on(vec![append(1, last + 1, last + 1, 2, 100)], true); // a change of membership
    let large = batch(&vec![append(1, last + 2, last + 2, 2, 1000)]);
    assert!(matches!(
        error(wal.submit(large.clone())),
        Error::Full { .. }
    ));
    assert!(matches!(
        error(wal.look_for_space(1000)),
        Error::Full { .. }
    ));
    disk.set_free_bytes(None);
    wal.look_for_space(1000).unwrap();
    let found = wal.last(GroupId(1)).index.0;
    assert_eq!(found, last + 1, "to look is to write nothing");
    wal.write(large).unwrap(); // without opening it anew
}

/// A purge frees a segment, whose file is the next one: no space is needed for it.
#[test]
fn on_a_full_disk_a_purge_makes_space() {
    let disk = disk_with(&roomy(), &[]);
    let wal = open(&disk, &roomy()).unwrap();
    let fill: Vec<Step> = (1..=400).map(|i| vec![append(1, i, i, 1, 1000)]).collect();
    write_all(&wal, &fill);
    disk.set_free_bytes(Some(0));
    let mut next = 401;
    let full = loop {
        match wal.write(batch(&vec![append(1, next, next, 1, 1000)])) {
            Ok(()) => next += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Full { .. }), "{full}");
    wal.write(batch(&vec![purge(1, next - 1, 1)])).unwrap();
    for i in next..next + 200 {
        wal.write(batch(&vec![append(1, i, i, 1, 1000)])).unwrap();
    }
}

#[test]
fn on_a_full_disk_the_log_opens_after_votes_took_all_they_may() {
    let (disk, steps) = log_on_a_full_disk();
    let wal = open(&disk, &roomy()).unwrap();
    let mut term = 1;
    while wal.write(batch(&vec![vote(1, term, 1)])).is_ok() {
        term += 1;
    }
    assert!(term > 2, "no vote was taken");
    drop(wal);
    for _ in 0..10 {
        disk.power_cut(term);
        let wal = open(&disk, &roomy()).unwrap();
        assert_eq!(wal.hard_state(GroupId(1)).term, Term(term - 1));
        assert_eq!(wal.last(GroupId(1)).index.0, steps.len() as u64);
    }
}

/// A sync of CONTROL fails, so that only the cache has the newer slot. The older one, which is all there is on the disk, may
/// not be overwritten before the newer one is there.
#[test]
fn a_slot_of_control_that_was_read_from_the_cache_is_written_again_first() {
    let mut steps: Vec<Step> = Vec::new();
    for i in 1..=4 {
        steps.push(vec![append(1, i, i, i, 5000), vote(1, i, i)]);
        steps.push(vec![purge(1, i, i)]);
    }
    let rotates = vec![append(1, 5, 5, 5, 5000), vote(1, 4, 4)];
    let (frees, before) = steps.split_last().unwrap();
    let before = disk_with(&small(), before);
    for failing in 0..30 {
        let failed = before.fork();
        let wal = open(&failed, &small()).unwrap();
        wal.write(batch(frees)).unwrap();
        failed.fail_after(failing, ErrorKind::Other);
        let _ = wal.write(batch(&rotates));
        drop(wal);
        for crashing in 0..12 {
            let disk = failed.fork();
            disk.crash_after(crashing);
            drop(open(&disk, &small()));
            for seed in 0..4 {
                let _replay = Replay(|| format!("{failing} {crashing} {seed}"));
                let left = disk.fork();
                left.power_cut(seed);
                let wal = open(&left, &small()).unwrap();
                assert_eq!(wal.hard_state(GroupId(1)).term, Term(4));
            }
        }
    }
}

/// What lags holds the oldest segment, and no segment can be made: the reserve takes the move, which frees one.
#[test]
fn on_a_full_disk_what_lags_is_moved_by_the_reserve_and_frees_a_segment() {
    const LAGGARD: u64 = 2;
    let mut steps = vec![vec![append(LAGGARD, 1, 3, 1, 100)]];
    let disk = disk_with(&roomy(), &steps);
    let wal = open(&disk, &roomy()).unwrap();
    disk.set_free_bytes(Some(4 * roomy().segment_bytes));
    // Ever smaller ones, so that nothing is left but the reserve.
    let mut last = 0;
    for bytes in [1000, 100, 0] {
        loop {
            let step = vec![append(1, last + 1, last + 1, 1, bytes)];
            match wal.write(batch(&step)) {
                Ok(()) => steps.push(step),
                Err(Error::Full { .. }) => break,
                Err(other) => panic!("{other}"),
            }
            last += 1;
        }
    }
    assert!(last > 500, "{last}");
    assert!(disk.open_read(&segment(1)).is_ok());
    disk.set_free_bytes(Some(0));
    assert_eq!(wal.stats().entries_moved, 0);
    let segments = wal.stats().segments;

    steps.push(vec![purge(1, last, 1)]);
    wal.write(batch(steps.last().unwrap())).unwrap();
    assert_eq!(wal.stats().entries_moved, 3);
    assert!(disk.open_read(&segment(1)).is_err());
    assert!(wal.stats().segments < segments, "{:?}", wal.stats());
    assert_eq!(state_of(&wal), *states(&steps).last().unwrap());

    // The freed file is the next segment.
    steps.push(vec![append(1, last + 1, last + 1, 1, 1000)]);
    wal.write(batch(steps.last().unwrap())).unwrap();
    for seed in 0..4 {
        let after = disk.fork();
        after.power_cut(seed);
        assert_holds(&after, &roomy(), &steps, steps.len());
    }
}
