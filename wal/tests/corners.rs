//! Corners of the interface: limits and one above, ranges that are none, handles that go at odd moments.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use duramen_disk::SimDisk;
use duramen_wal::{
    Batch, Entry, Error, GroupId, HardState, Index, Misuse, Options, Scrub, Term, Ticket, Wal,
};
use support::*;

const G: GroupId = GroupId(1);
const LONG: Duration = Duration::from_secs(60);

fn small() -> Options {
    options(1 << 16)
}

fn threaded() -> Options {
    let mut options = small();
    options.manual_drive = false;
    options
}

fn one(index: u64) -> Batch {
    batch(&vec![append(1, index, index, 1, 10)])
}

fn misuse<T>(result: duramen_wal::Result<T>) -> Misuse {
    match error(result) {
        Error::Misuse { misuse, .. } => misuse,
        other => panic!("{other}"),
    }
}

#[test]
fn the_types_go_where_threads_go() {
    fn everywhere<T: Send + Sync + 'static>() {}
    fn cloned<T: Clone>() {}
    everywhere::<Wal>();
    everywhere::<Ticket>();
    everywhere::<Batch>();
    everywhere::<Error>();
    everywhere::<Options>();
    cloned::<Wal>();
    cloned::<Batch>();
}

#[test]
fn an_empty_batch_changes_nothing_also_in_a_new_log() {
    let disk = SimDisk::new();
    let wal = create(&disk, &small()).unwrap();
    assert!(wal.submit(Batch::new()).unwrap().is_durable());
    wal.write(Batch::new()).unwrap();
    let mut nothing = Batch::new();
    nothing.append(G, []);
    assert!(nothing.is_empty());
    wal.write(nothing).unwrap();
    assert_eq!(wal.groups(), []);
    assert_eq!(wal.stats().batches_submitted, 0);
}

#[test]
fn clones_may_be_closed_one_after_the_other() {
    for options in [small(), threaded()] {
        let disk = SimDisk::new();
        let wal = create(&disk, &options).unwrap();
        let (second, third) = (wal.clone(), wal.clone());
        drop(wal.submit(one(1)).unwrap());
        wal.close().unwrap();
        second.write(one(2)).unwrap(); // other handles go on
        second.close().unwrap();
        third.close().unwrap();
        assert_eq!(open(&disk, &options).unwrap().last(G).index, Index(2));
    }
}

#[test]
fn a_ticket_outlives_the_log_and_holds_its_lock() {
    for options in [small(), threaded()] {
        let disk = SimDisk::new();
        let wal = create(&disk, &options).unwrap();
        let (first, second) = (wal.submit(one(1)).unwrap(), wal.submit(one(2)).unwrap());
        drop(wal);
        assert!(first.is_durable());
        assert!(matches!(error(open(&disk, &options)), Error::Locked { .. }));
        let (told, tell) = mpsc::channel();
        second.on_durable(move |outcome| told.send(outcome.is_ok()).unwrap());
        assert!(tell.try_recv().unwrap()); // at once
        first.wait().unwrap();
        assert_eq!(open(&disk, &options).unwrap().last(G).index, Index(2));
    }
}

#[test]
fn the_last_handle_may_go_in_a_callback_of_any_thread() {
    for options in [small(), threaded()] {
        for waits in [false, true] {
            let disk = SimDisk::new();
            let wal = create(&disk, &options).unwrap();
            let ticket = wal.submit(one(1)).unwrap();
            let second = wal.submit(one(2)).unwrap();
            let (told, tell) = mpsc::channel();
            let last = wal.clone();
            ticket.on_durable(move |outcome| {
                drop(last.submit(one(3)).unwrap());
                drop(last);
                told.send(outcome.is_ok()).unwrap();
            });
            drop(wal);
            if waits || options.manual_drive {
                second.wait().unwrap();
            } else {
                drop(second);
            }
            assert!(tell.recv_timeout(LONG).unwrap());
            let opened = (0..1000).find_map(|_| {
                std::thread::sleep(Duration::from_millis(1));
                open(&disk, &options).ok()
            });
            assert_eq!(opened.unwrap().last(G).index, Index(3));
        }
    }
}

#[test]
fn a_callback_that_comes_after_poison_is_told_the_cause() {
    for options in [small(), threaded()] {
        let disk = SimDisk::new();
        let wal = create(&disk, &options).unwrap();
        let durable = wal.submit(one(1)).unwrap();
        wal.drive().unwrap();
        disk.fail_next_sync(duramen_disk::Failure::EIO);
        let failed = wal.submit(one(2)).unwrap();
        let later = wal.submit(one(3)).unwrap();
        assert!(wal.drive().is_err());
        let (told, tell) = mpsc::channel();
        for (name, ticket) in [durable, failed, later].into_iter().enumerate() {
            let told = told.clone();
            ticket.on_durable(move |outcome| told.send((name, outcome)).unwrap());
        }
        let outcomes: Vec<_> = tell.try_iter().collect();
        assert_eq!(outcomes.len(), 3);
        assert!(outcomes[0].1.is_ok());
        for (name, outcome) in &outcomes[1..] {
            assert!(matches!(outcome, Err(Error::Poisoned { .. })), "{name}");
        }
        assert!(matches!(
            error(wal.submit(Batch::new())),
            Error::Poisoned { .. }
        ));
        assert!(matches!(
            error(wal.try_submit(one(2))),
            Error::Poisoned { .. }
        ));
        assert!(matches!(error(wal.clone().close()), Error::Poisoned { .. }));
        assert_eq!(wal.last(G).index, Index(1));
    }
}

#[test]
fn trying_on_a_full_disk_is_full_and_not_busy() {
    let disk = disk_with(&small(), &[]);
    disk.set_free_bytes(Some(0));
    let wal = open(&disk, &small()).unwrap();
    let refused = (1..).find_map(|i| {
        let submitted = wal.try_submit(batch(&vec![append(1, i, i, 1, 4000)]));
        match submitted {
            Ok(ticket) => ticket.wait().err(),
            Err(error) => Some(error),
        }
    });
    assert!(matches!(refused, Some(Error::Full { .. })), "{refused:?}");
    disk.set_free_bytes(None);
    let next = wal.last(G).index.0 + 1;
    let ticket = wal.try_submit(batch(&vec![append(1, next, next, 1, 4000)]));
    ticket.unwrap().wait().unwrap();
}

#[test]
fn an_entry_and_a_batch_are_taken_at_the_limit_and_not_above() {
    let mut options = small();
    options.entry_bytes_max = 1000;
    let disk = SimDisk::new();
    let wal = create(&disk, &options).unwrap();
    wal.write(batch(&vec![append(1, 1, 1, 1, 1000)])).unwrap();
    let refused = error(wal.write(batch(&vec![append(1, 2, 2, 1, 1001)])));
    assert!(
        matches!(
            refused,
            Error::EntryTooLarge {
                bytes: 1001,
                bytes_max: 1000
            }
        ),
        "{refused}"
    );
    drop(wal);

    // The smallest payload that is refused, and the limit that then just takes it.
    let disk = SimDisk::new();
    let mut options = small();
    let wal = create(&disk, &options).unwrap();
    let refused = error(wal.write(batch(&vec![append(1, 1, 1, 1, 33_000)])));
    let Error::TooLarge { bytes, bytes_max } = refused else {
        panic!("{refused}");
    };
    assert!(bytes > 33_000 && bytes_max == 1 << 15);
    let spare = bytes - 33_000;
    for (limit, is_taken) in [(bytes, true), (bytes - 1, false)] {
        options.segment_bytes = 1 << 17;
        options.batch_bytes_max = limit;
        let disk = SimDisk::new();
        let wal = create(&disk, &options).unwrap();
        let written = wal.write(batch(&vec![append(1, 1, 1, 1, 33_000)]));
        assert_eq!(
            written.is_ok(),
            is_taken,
            "{limit}, {spare} beside the payload"
        );
    }
}

#[test]
fn groups_are_taken_up_to_the_limit_whichever_way_a_batch_makes_them() {
    let mut options = small();
    options.groups_max = 3;
    let disk = SimDisk::new();
    let wal = create(&disk, &options).unwrap();
    let too_many = |batch: Batch| {
        let before = state_of(&wal);
        let refused = error(wal.write(batch));
        assert!(
            matches!(refused, Error::TooManyGroups { groups_max: 3 }),
            "{refused}"
        );
        assert_eq!(state_of(&wal), before);
    };
    too_many(batch(&(1..=4).map(|g| user(g, b"x")).collect()));
    wal.write(batch(&(1..=3).map(|g| user(g, b"x")).collect()))
        .unwrap();
    too_many(batch(&vec![append(1, 1, 1, 1, 9), user(4, b"x")]));
    // One goes and one comes, in either order.
    wal.write(batch(&vec![Change::Remove(1), user(4, b"x")]))
        .unwrap();
    wal.write(batch(&vec![user(5, b"x"), Change::Remove(2)]))
        .unwrap();
    wal.write(batch(&vec![Change::Remove(3), user(3, b"y")]))
        .unwrap();
    too_many(batch(&vec![
        Change::Remove(3),
        user(3, b"z"),
        user(6, b"x"),
    ]));
    assert_eq!(wal.groups(), [3, 4, 5].map(GroupId));
    drop(wal);
    // A log that has more than it may is opened and written to; it makes no new ones.
    options.groups_max = 1;
    let wal = open(&disk, &options).unwrap();
    wal.write(batch(&vec![append(4, 1, 1, 1, 9)])).unwrap();
    assert!(wal.write(batch(&vec![user(7, b"x")])).is_err());
    assert_eq!(wal.groups().len(), 3);
}

#[test]
fn a_range_that_is_empty_or_reversed_has_no_entries() {
    let disk = SimDisk::new();
    let wal = create(&disk, &small()).unwrap();
    wal.write(batch(&vec![append(1, 1, 9, 1, 10)])).unwrap();
    wal.write(batch(&vec![purge(1, 3, 1)])).unwrap();
    let read = |from, to, bytes| wal.entries(G, Index(from)..Index(to), bytes);
    for (from, to) in [(5, 5), (9, 2), (u64::MAX, u64::MAX), (u64::MAX, 0), (0, 0)] {
        assert_eq!(read(from, to, 100).unwrap(), []);
    }
    let purged = Misuse::Purged {
        index: Index(3),
        purged: Index(3),
    };
    assert_eq!(misuse(read(3, 5, u64::MAX)), purged);
    for (from, to) in [(0, 5), (10, 11), (4, u64::MAX), (u64::MAX - 1, u64::MAX)] {
        assert!(matches!(
            misuse(read(from, to, u64::MAX)),
            Misuse::NoSuchEntry { .. }
        ));
    }
    assert_eq!(read(4, 10, 0).unwrap().len(), 1);
    assert_eq!(read(4, u64::MAX, 0).unwrap().len(), 1);
    assert_eq!(read(4, 10, u64::MAX).unwrap().len(), 6);
}

#[test]
fn entries_without_payloads_are_read_under_any_limit() {
    let disk = SimDisk::new();
    let wal = create(&disk, &small()).unwrap();
    wal.write(batch(&vec![append(1, 1, 5, 1, 0)])).unwrap();
    assert_eq!(wal.entries(G, Index(1)..Index(6), 0).unwrap().len(), 5);
}

#[test]
fn the_last_indexes_there_are() {
    const END: u64 = u64::MAX;
    let disk = SimDisk::new();
    let wal = create(&disk, &small()).unwrap();
    assert!(matches!(
        misuse(wal.write(batch(&vec![purge(1, END, 1)]))),
        Misuse::NoSuchEntry { .. }
    ));
    assert_eq!(wal.groups(), []);
    wal.write(batch(&vec![
        purge(1, END - 3, 1),
        append(1, END - 2, END - 1, 1, 10),
    ]))
    .unwrap();
    let last = |payload: &'static [u8]| vec![Change::Append(1, vec![entry(END, 1, payload)])];
    assert!(matches!(
        misuse(wal.write(batch(&last(b"")))),
        Misuse::Gap { .. }
    ));
    assert_eq!(
        wal.entries(G, Index(END - 2)..Index(END), END)
            .unwrap()
            .len(),
        2
    );
    let before = state_of(&wal);
    drop(wal);
    let wal = open(&disk, &small()).unwrap();
    assert_eq!(state_of(&wal), before);
    wal.write(batch(&vec![Change::Truncate(1, END - 2)]))
        .unwrap();
    wal.write(batch(&vec![purge(1, END - 1, 1)])).unwrap();
    assert!(matches!(
        misuse(wal.write(batch(&last(b"")))),
        Misuse::Gap { .. }
    ));
    drop(wal);
    let wal = open(&disk, &small()).unwrap();
    assert_eq!(
        (wal.last(G).index, wal.purged(G).index),
        (Index(END - 1), Index(END - 1))
    );
}

#[test]
fn truncating_to_before_the_purge_point_is_a_misuse() {
    let disk = SimDisk::new();
    let wal = create(&disk, &small()).unwrap();
    wal.write(batch(&vec![append(1, 1, 9, 1, 10), purge(1, 4, 1)]))
        .unwrap();
    let refused = |to| misuse(wal.write(batch(&vec![Change::Truncate(1, to)])));
    for to in [0, 10, u64::MAX] {
        assert!(matches!(refused(to), Misuse::NoSuchEntry { .. }), "{to}");
    }
    assert!(matches!(refused(3), Misuse::Purged { .. }));
    wal.write(batch(&vec![Change::Truncate(1, 4)])).unwrap();
    assert_eq!(
        (wal.last(G).index, wal.purged(G).index),
        (Index(4), Index(4))
    );
}

#[test]
fn a_group_is_removed_and_begun_anew_in_one_batch() {
    let disk = SimDisk::new();
    let wal = create(&disk, &small()).unwrap();
    let anew = vec![Change::Remove(1), append(1, 1, 2, 1, 10)];
    let steps = vec![
        vec![append(1, 1, 9, 3, 10), vote(1, 3, 1), user(1, b"old")],
        anew.clone(),
        vec![append(1, 3, 3, 2, 10)],
    ];
    for step in &steps {
        drop(wal.submit(batch(step)).unwrap());
    }
    wal.drive().unwrap();
    assert_eq!(wal.hard_state(G), HardState::default());
    assert_eq!(state_of(&wal), states(&steps)[3]);
    assert_eq!(wal.durable(G).index, Index(3));
    drop(wal);
    assert_holds(&disk, &small(), &steps, 3);
    // A batch that fails after it has removed takes that back.
    let wal = open(&disk, &small()).unwrap();
    let refused = [anew, vec![append(1, 9, 9, 9, 9)]].concat();
    assert!(matches!(
        misuse(wal.write(batch(&refused))),
        Misuse::Gap { .. }
    ));
    assert_eq!(state_of(&wal), states(&steps)[3]);
}

#[test]
fn a_large_user_record_comes_along_into_every_segment() {
    let mut options = options(8 << 20);
    options.entry_bytes_max = 1 << 20;
    let disk = SimDisk::new();
    let wal = create(&disk, &options).unwrap();
    let bytes = |n: usize| Bytes::from(vec![7; n]);
    let refused = error(wal.write(batch(&vec![Change::User(1, bytes(5 << 20))])));
    assert!(matches!(refused, Error::TooLarge { .. }), "{refused}");
    // Together they are larger than a segment.
    let mut steps: Vec<Step> = (1..=6)
        .map(|g| vec![Change::User(g, bytes(3 << 19))])
        .collect();
    steps.extend((1..=16).map(|i| vec![append(7, i, i, 1, 1 << 20)]));
    write_all(&wal, &steps);
    assert!(wal.stats().segments > 2, "{}", wal.stats().segments);
    drop(wal);
    assert_holds(&disk, &options, &steps, steps.len());
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let refuses = |change: fn(&mut Options)| {
        let mut options = Options::default();
        change(&mut options);
        let create = || Wal::create_on(std::sync::Arc::new(SimDisk::new()), DIR, options.clone());
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(create)).is_err()
    };
    assert!(refuses(|options| options.batch_bytes_max = (32 << 20) + 1));
    assert!(refuses(
        |options| options.in_flight_bytes_max = (32 << 20) + 1
    ));
    assert!(refuses(|options| options.segment_bytes = 1 << 32));
    assert!(!refuses(|options| options.in_flight_bytes_max = 0));
    assert!(!refuses(|options| options.groups_max = 0));
}

#[test]
fn one_batch_at_a_time_is_taken_when_nothing_may_be_in_flight() {
    for mut options in [small(), threaded()] {
        options.in_flight_bytes_max = 0;
        let wal = create(&SimDisk::new(), &options).unwrap();
        for i in 1..=20 {
            drop(wal.submit(one(i)).unwrap());
        }
        wal.drive().unwrap();
        assert_eq!(wal.durable(G).index, Index(20));
    }
}

#[test]
fn an_entry_that_is_far_too_large_is_refused_whatever_the_term() {
    let wal = create(&SimDisk::new(), &small()).unwrap();
    let entry = Entry {
        payload: Bytes::from(vec![0; 1 << 20]),
        ..entry(1, 1, "")
    };
    let mut batch = Batch::new();
    batch.append(G, [entry]);
    assert!(matches!(error(wal.write(batch)), Error::TooLarge { .. }));
    assert_eq!(wal.term(G, Index(1)), None::<Term>);
}

#[test]
fn what_is_durable_does_not_run_ahead_of_a_purge_past_the_end() {
    let disk = SimDisk::new();
    let wal = create(&disk, &small()).unwrap();
    wal.write(batch(&vec![append(1, 1, 3, 1, 10)])).unwrap();
    let ticket = wal.submit(batch(&vec![purge(1, 100, 2)])).unwrap();
    assert!(wal.durable(G).index <= Index(3), "{:?}", wal.durable(G));
    drop(
        wal.submit(batch(&vec![append(1, 101, 101, 2, 10)]))
            .unwrap(),
    );
    assert_eq!(wal.durable(G).index, Index(3));
    ticket.wait().unwrap();
    assert_eq!(wal.durable(G).index, Index(101));
}

#[test]
fn what_is_durable_of_a_group_that_is_removed_and_begun_anew() {
    let wal = create(&SimDisk::new(), &small()).unwrap();
    wal.write(batch(&vec![append(1, 1, 9, 1, 10)])).unwrap();
    let anew = vec![purge(1, 20, 1), Change::Remove(1), purge(1, 5, 1)];
    drop(wal.submit(batch(&anew)).unwrap());
    assert_eq!(wal.durable(G).index, Index(0));
    drop(wal.submit(batch(&vec![purge(1, 30, 1)])).unwrap());
    assert_eq!(wal.durable(G).index, Index(0));
    wal.drive().unwrap();
    assert_eq!(wal.durable(G).index, Index(30));
}

#[test]
fn a_purge_that_is_refused_or_fails_leaves_what_is_durable_as_it_was() {
    let disk = SimDisk::new();
    let mut options = small();
    options.groups_max = 1;
    let wal = create(&disk, &options).unwrap();
    wal.write(batch(&vec![append(1, 1, 3, 1, 10)])).unwrap();
    assert!(
        wal.submit(batch(&vec![purge(1, 100, 2), user(2, b"x")]))
            .is_err()
    );
    wal.write(batch(&vec![append(1, 4, 4, 1, 10)])).unwrap();
    assert_eq!(wal.durable(G).index, Index(4));
    drop(wal.submit(batch(&vec![purge(1, 100, 2)])).unwrap());
    disk.fail_next_sync(duramen_disk::Failure::EIO);
    assert!(wal.drive().is_err());
    assert_eq!(
        (wal.durable(G).index, wal.last(G).index),
        (Index(4), Index(4))
    );
}

#[test]
fn the_numbers_of_a_log_that_has_written_moved_and_scrubbed() {
    let disk = SimDisk::new();
    let wal = create(&disk, &small()).unwrap();
    assert_eq!(wal.stats().groups, 0);
    let lags = vec![append(2, 1, 20, 1, 1000)];
    wal.write(batch(&lags)).unwrap();
    for i in 1..=600 {
        let step = vec![append(1, i, i, 1, 900), purge(1, i, 1)];
        wal.write(batch(&step)).unwrap();
    }
    let queued = wal.submit(batch(&vec![append(1, 601, 601, 1, 9)])).unwrap();
    let stats = wal.stats();
    assert_eq!((stats.batches_queued, stats.groups), (1, 2));
    assert_eq!(stats.batches_submitted, stats.batches_durable + 1);
    assert_eq!(stats.batch_bytes.count(), stats.batches_durable);
    assert!(stats.sync_micros.count() >= stats.write_micros.count());
    assert_eq!((stats.live_entries, stats.live_bytes), (20, 20_000));
    assert!(stats.used_bytes > 20_000 && stats.used_bytes <= stats.segment_bytes);
    assert!(stats.entries_moved >= 20, "{}", stats.entries_moved);
    assert_eq!(stats.bytes_moved, 1000 * stats.entries_moved);
    assert!(
        (0.3..1.0).contains(&stats.dead_share()),
        "{}",
        stats.dead_share()
    );
    assert_eq!((stats.scrubs, stats.scrubbed_for), (0, None));
    queued.wait().unwrap();
    wal.scrub(Scrub::default(), |_| false).unwrap();
    assert_eq!(wal.stats().scrubs, 0); // It was stopped.
    wal.scrub(Scrub::default(), |_| true).unwrap();
    let stats = wal.stats();
    assert_eq!((stats.scrubs, stats.scrubbed_bytes), (1, 20_009));
    assert!(stats.scrubbed_for.is_some());
    assert!(stats.sync_micros.quantile(0.99) >= stats.sync_micros.quantile(0.5));
}

/// Also if nobody let it come to its end.
#[test]
fn damage_that_a_scrub_found_is_counted() {
    let steps = vec![vec![append(1, 1, 3, 1, 300 << 10)]];
    let options = options(1 << 22);
    let disk = disk_with(&options, &steps);
    let wal = open(&disk, &options).unwrap();
    disk.flip_bit(&segment(1), 1000, 1).unwrap();
    let mut calls = 0;
    let report = wal.scrub(Scrub::default(), |_| {
        calls += 1;
        calls < 2
    });
    assert_eq!(report.unwrap().damaged.len(), 1);
    assert_eq!(wal.stats().damage_found, 1);
}

/// Each segment begins with it, three times.
#[test]
fn what_groups_have_beside_their_entries_is_limited() {
    let mut options = options((1 << 32) - 4096);
    options.groups_max = 10;
    let disk = SimDisk::new();
    let wal = create(&disk, &options).unwrap();
    wal.write(batch(&vec![user(1, b"mine")])).unwrap();
    // 750 MiB; in memory once, and not written.
    let record = Bytes::from(vec![0; 150 << 20]);
    let step = |groups: std::ops::RangeInclusive<u64>| -> Step {
        groups.map(|g| Change::User(g, record.clone())).collect()
    };
    let refused = error(wal.submit(batch(&step(1..=5))));
    let limit = 1 << 31;
    let is_it = matches!(refused, Error::TooMuchState { bytes, bytes_max } if bytes > limit && bytes_max == limit);
    assert!(is_it, "{refused}");
    assert_eq!(wal.groups(), [G]);
    assert_eq!(&wal.user_record(G)[..], b"mine");
    wal.write(batch(&vec![user(1, b"yours")])).unwrap();
}
