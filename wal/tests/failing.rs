//! The disk fails or is full while the log is open.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::io::ErrorKind;

use duramen_disk::{Disk, SimDisk};
use duramen_wal::{Error, Options};
use support::*;

fn steps() -> Vec<Step> {
    vec![
        vec![append(1, 1, 2, 1, 300), vote(1, 1, 1)],
        vec![append(1, 2, 5, 2, 300), vote(1, 2, 2)],
        vec![vote(1, 3, 3), append(2, 1, 1, 1, 30)],
    ]
}

/// What the disk said, if the log says that the disk said it.
fn io_kind(error: &Error) -> Option<ErrorKind> {
    match error {
        Error::Io { source, .. } => Some(source.kind()),
        _ => None,
    }
}

#[test]
fn a_failed_sync_is_not_acknowledged_and_poisons_the_log() {
    let disk = disk_with(&Options::default(), &steps()[..1]);
    let wal = open(&disk, &Options::default()).unwrap();
    disk.fail_next_sync(ErrorKind::TimedOut);
    let failed = error(wal.write(&batch(&steps()[1])));
    assert_eq!(io_kind(&failed), Some(ErrorKind::TimedOut), "{failed}");
    assert_eq!(
        state_of(&wal),
        states(&steps())[1],
        "reads end at what is durable"
    );

    // The next sync would succeed. It is not tried, nor anything else.
    let operations = disk.operations();
    for step in [&steps()[1], &steps()[2]] {
        match error(wal.write(&batch(step))) {
            Error::Poisoned { cause } => assert_eq!(io_kind(&cause), Some(ErrorKind::TimedOut)),
            other => panic!("{other}"),
        }
    }
    assert_eq!(disk.operations(), operations);
    drop(wal);
    disk.power_cut(0);
    assert_holds(&disk, &Options::default(), &steps(), 1);
}

/// The pages of the failed sync count as clean, so `open` reads the batch and one more sync would not write it.
#[test]
fn what_open_read_after_a_failed_sync_is_durable_when_it_returns() {
    for killed in [false, true] {
        let disk = disk_with(&Options::default(), &steps()[..1]);
        let wal = open(&disk, &Options::default()).unwrap();
        disk.fail_next_sync(ErrorKind::Other);
        wal.write(&batch(&steps()[1])).unwrap_err();
        drop(wal);
        if killed {
            disk.kill();
        }
        // The sync in `open` may fail as well. Then it gives no answer.
        disk.fail_next_sync(ErrorKind::TimedOut);
        let failed = error(open(&disk, &Options::default()));
        assert_eq!(io_kind(&failed), Some(ErrorKind::TimedOut), "{failed}");
        assert_holds(&disk, &Options::default(), &steps(), 2);
        for seed in 0..20 {
            let after = disk.fork();
            after.power_cut(seed);
            assert_holds(&after, &Options::default(), &steps(), 2);
        }
    }
}

#[test]
fn any_failed_operation_poisons_the_log_and_opening_it_again_goes_on() {
    let options = options(200);
    let mut operations = 0;
    for n in 0.. {
        let _replay = Replay(|| format!("operation {n} fails"));
        let disk = disk_with(&options, &[]);
        let wal = open(&disk, &options).unwrap();
        disk.fail_after(n, ErrorKind::Other);
        let written = steps()
            .iter()
            .map(|step| wal.write(&batch(step)))
            .collect::<Vec<_>>();
        let acknowledged = written.iter().take_while(|written| written.is_ok()).count();
        if acknowledged == 3 {
            break;
        }
        operations += 1;
        let failed = written[acknowledged].as_ref().unwrap_err();
        assert_eq!(io_kind(failed), Some(ErrorKind::Other), "{failed}");
        for later in &written[acknowledged + 1..] {
            assert!(matches!(later, Err(Error::Poisoned { .. })));
        }
        assert_eq!(state_of(&wal), states(&steps())[acknowledged]);
        drop(wal);
        let wal = open(&disk, &options).unwrap();
        let found = wal.recovery().frames as usize;
        assert!((acknowledged..=acknowledged + 1).contains(&found));
        write_all(&wal, &steps()[found..]);
        drop(wal);
        disk.power_cut(0);
        assert_holds(&disk, &options, &steps(), 3);
    }
    // Each batch a write and a sync; before two of them a segment is made in six.
    assert_eq!(operations, 3 * 2 + 2 * 6);
}

#[test]
fn no_space_at_any_operation_refuses_one_batch_without_a_trace_or_poisons() {
    let options = options(200);
    let (mut full, mut poisoned) = (0, 0);
    for n in 0.. {
        let _replay = Replay(|| format!("no space at operation {n}"));
        let disk = disk_with(&options, &[]);
        let wal = open(&disk, &options).unwrap();
        disk.fail_after(n, ErrorKind::StorageFull);
        let mut failed = false;
        for (k, step) in steps().iter().enumerate() {
            match wal.write(&batch(step)) {
                Ok(()) => continue,
                Err(Error::Full { .. }) => full += 1,
                Err(Error::Io { .. }) => {
                    poisoned += 1; // by a sync: nobody knows what it left
                    failed = true;
                    break;
                }
                Err(other) => panic!("{other}"),
            }
            failed = true;
            for seed in 0..5 {
                let after = disk.fork();
                after.power_cut(seed);
                assert_holds(&after, &options, &steps(), k);
            }
            wal.write(&batch(step)).unwrap();
        }
        if !failed {
            break;
        }
    }
    // Each batch is written; before two of them a segment is created, written and renamed. Poison: 3 + 2 syncs, and two
    // each of removing what an earlier attempt left, and of syncing the directory.
    assert_eq!((full, poisoned), (3 + 2 * 3, 5 + 2 * 2));
}

/// A log with the first batch, on a disk with space for `free` more bytes.
fn full_disk(options: &Options, free: u64) -> SimDisk {
    let disk = disk_with(options, &steps()[..1]);
    disk.set_free_bytes(Some(free));
    disk
}

/// With one segment, and with a new one for each batch.
fn both(check: impl Fn(&Options, u64)) {
    for options in [Options::default(), options(1)] {
        let disk = full_disk(&options, u64::MAX);
        let before: usize = files(&disk, DIR.as_ref()).values().map(Vec::len).sum();
        write_all(&open(&disk, &options).unwrap(), &steps()[1..2]);
        let after: usize = files(&disk, DIR.as_ref()).values().map(Vec::len).sum();
        for free in 0..(after - before) as u64 {
            let _replay = Replay(|| format!("{free} bytes free, {options:?}"));
            check(&options, free);
        }
    }
}

#[test]
fn a_full_disk_refuses_the_batch_and_the_log_goes_on_when_there_is_space() {
    both(|options, free| {
        let disk = full_disk(options, free);
        let wal = open(&disk, options).unwrap();
        for _ in 0..2 {
            let full = error(wal.write(&batch(&steps()[1])));
            assert!(matches!(full, Error::Full { .. }), "{full}");
            assert_eq!(state_of(&wal), states(&steps())[1]);
        }
        disk.set_free_bytes(None);
        // Another batch at the same place, a shorter one: nothing of the refused one is left behind it.
        let other = [steps()[0].clone(), vec![vote(1, 7, 7)]];
        write_all(&wal, &other[1..]);
        drop(wal);
        disk.power_cut(0);
        assert_holds(&disk, options, &other, 2);
    });
}

#[test]
fn a_batch_that_a_full_disk_refused_never_comes_back() {
    both(|options, free| {
        let disk = full_disk(options, free);
        let wal = open(&disk, options).unwrap();
        wal.write(&batch(&steps()[1])).unwrap_err();
        for seed in 0..6 {
            let after = disk.fork();
            match seed {
                0 => after.kill(),
                1 => after.power_cut(0),
                _ => after.power_cut(free * 100 + seed), // not the same few draws for each `free`
            }
            assert_holds(&after, options, &steps(), 1); // and nothing is torn
        }
    });
}

#[test]
fn a_full_disk_does_not_keep_the_log_from_opening() {
    let disk = full_disk(&Options::default(), 100);
    let wal = open(&disk, &Options::default()).unwrap();
    disk.crash_after(0); // in the write, half of which is there
    wal.write(&batch(&steps()[1])).unwrap_err();
    drop(wal);
    disk.kill();
    disk.set_free_bytes(Some(0));
    let wal = open(&disk, &Options::default()).unwrap();
    assert!(wal.recovery().torn.is_some());
    assert_eq!(state_of(&wal), states(&steps())[1]);
}

#[test]
fn a_create_on_a_full_disk_is_full_and_can_be_done_again() {
    for free in 0..56 {
        let disk = SimDisk::new();
        disk.set_free_bytes(Some(free));
        let full = error(create(&disk, &Options::default()));
        assert!(matches!(full, Error::Full { .. }), "{full}");
        disk.set_free_bytes(None);
        write_all(&create(&disk, &Options::default()).unwrap(), &steps());
        disk.power_cut(0);
        assert_holds(&disk, &Options::default(), &steps(), 3);
    }
}

#[test]
fn a_disk_error_in_open_is_no_answer_and_changes_nothing_for_the_next_one() {
    let unsynced = disk_with(&options(200), &steps()[..2]);
    let wal = open(&unsynced, &options(200)).unwrap();
    unsynced.crash_after(6 + 1); // the new segment, and the sync of its frame
    wal.write(&batch(&steps()[2])).unwrap_err();
    drop(wal);
    for n in 0.. {
        let _replay = Replay(|| format!("operation {n} of open fails"));
        let disk = unsynced.fork();
        disk.kill();
        disk.fail_after(n, ErrorKind::Other);
        let Err(failed) = open(&disk, &options(200)) else {
            assert_eq!(n, 7); // lock, remove, header, frame, cut, sync, directory
            break;
        };
        assert_eq!(io_kind(&failed), Some(ErrorKind::Other), "{failed}");
        assert_holds(&disk, &options(200), &steps(), 3);
        disk.power_cut(0);
        assert_holds(&disk, &options(200), &steps(), 3);
    }
    assert!(
        unsynced.list(DIR.as_ref()).is_err(),
        "crashed until it is killed"
    );
}
