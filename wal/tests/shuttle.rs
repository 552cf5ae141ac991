//! The commit pipeline under many schedules: who submits, waits, writes, calls back, seals, frees, moves, poisons, closes and
//! drops, in orders that a real machine seldom shows. A lost wake-up is a deadlock here, and the scheduler reports it.
//!
//! `RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle cargo test --release -p duramen-wal --test shuttle -- --nocapture`
//!
//! Half of a scenario's schedules choose a thread at random at each step, half go by random priorities that change three times
//! (PCT, <https://doi.org/10.1145/1736020.1736040>). A step ends before each lock, unlock, wait and notification, and before
//! each call to the disk. All follows from the seed: `DURAMEN_SHUTTLE_SEED=7` for another one, `DURAMEN_SHUTTLE_TIMES=50` for
//! more schedules.
//!
//! A failure names a file with its schedule. To run that one again, alone, as it was:
//! `DURAMEN_SHUTTLE_SCHEDULE=target/shuttle/tmp/schedule000.txt` (an absolute path), and the name of the test at the end of
//! the command.
//!
//! What it does not show: time (`Condvar::wait_timeout` never ends by itself, and idle logs are not marked), wake-ups
//! without a cause, and weak memory orders, of which the pipeline has none.

#![cfg(shuttle)]
#![allow(clippy::unwrap_used)] // helpers of tests, too

#[path = "shuttle/model.rs"]
mod model;
mod support;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use duramen_disk::{Failure, Op, SimDisk};
use duramen_wal::{Batch, Error, GroupId, Index, Options, Result, Term, Ticket, Wal};
use model::*;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::{self, JoinHandle};

const SMALL: u64 = 1 << 14;

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

/// A thread that uses the log.
fn with(wal: &Wal, run: impl FnOnce(&Wal) + Send + 'static) -> JoinHandle<()> {
    let wal = wal.clone();
    thread::spawn(move || run(&wal))
}

fn last(wal: &Wal, group: u64) -> u64 {
    wal.last(GroupId(group)).index.0
}

fn durable(wal: &Wal, group: u64) -> u64 {
    wal.durable(GroupId(group)).index.0
}

#[test]
fn what_each_of_several_writers_is_told_is_durable() {
    explore("writers", 20_000, || {
        let options = options(SMALL);
        let (disk, wal) = start(&options);
        let told = Acknowledged::default();
        let writers: Vec<_> = (1..=3)
            .map(|group| {
                let (disk, told) = (disk.clone(), told.clone());
                with(&wal, move |wal| {
                    for index in 1..=3 {
                        wal.write(one(group, index)).unwrap();
                        told.note(&disk, group, index);
                        assert!(durable(wal, group) >= index);
                    }
                })
            })
            .collect();
        join(writers);
        drop(wal);
        check_unlocked(&disk);
        told.check(&disk, &options);
    });
}

/// An entry, and a vote: a batch that begins a write, so the others go on waiting.
fn voting(group: u64, index: u64) -> Batch {
    let entry = support::append(group, index, index, 1, 100);
    support::batch(&vec![entry, support::vote(group, index, 1)])
}

#[test]
fn those_whose_batches_the_next_write_does_not_take_are_written_by_a_later_one() {
    explore("votes", 20_000, || {
        let options = options(1 << 16);
        let (disk, wal) = start(&options);
        let told = Acknowledged::default();
        let writers: Vec<_> = (1..=4)
            .map(|group| {
                let (disk, told) = (disk.clone(), told.clone());
                with(&wal, move |wal| {
                    for index in 1..=2 {
                        wal.write(voting(group, index)).unwrap();
                        told.note(&disk, group, index);
                        assert_eq!(wal.hard_state(GroupId(group)).term, Term(index));
                    }
                })
            })
            .collect();
        join(writers);
        drop(wal);
        check_unlocked(&disk);
        told.check(&disk, &options);
    });
}

/// Whoever submits next.
type Turn = Arc<shuttle::sync::Mutex<u64>>;

/// What came to be durable, in the order in which it was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<u64>>>);

impl Told {
    fn tell(&self, wal: &Wal, index: u64, outcome: Result<()>) {
        let is_durable = outcome.is_ok() && durable(wal, 1) >= index;
        // An assertion in a callback would end the callback alone.
        let told = if is_durable { index } else { u64::MAX };
        self.0.lock().unwrap().push(told);
    }
}

/// Submits the next entry, and has it told by a callback. Gives the ticket of the same batch, to be waited for otherwise.
fn submit_next(wal: &Wal, turn: &Turn, told: &Told) -> Ticket {
    let mut turn = turn.lock().unwrap();
    *turn += 1;
    let ticket = wal.submit(one(1, *turn)).unwrap();
    let (index, told, on) = (*turn, told.clone(), wal.clone());
    let same = wal.submit(Batch::new()).unwrap();
    same.on_durable(move |outcome| told.tell(&on, index, outcome));
    ticket
}

/// Polls with a waker that nobody listens to, then with one that counts.
fn poll_twice(mut ticket: Ticket) -> Result<()> {
    let polled = Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
    match polled.is_pending() {
        true => shuttle::future::block_on(ticket),
        false => Ok(()),
    }
}

#[test]
fn however_it_is_waited_for_it_is_told_once_and_in_order() {
    explore("waiting", 50_000, || {
        let (disk, wal) = start(&options(1 << 16));
        let (turn, told) = (Turn::default(), Told::default());
        let wait: [fn(Ticket); 4] = [
            |ticket| ticket.wait().unwrap(),
            |ticket| shuttle::future::block_on(ticket).unwrap(),
            |ticket| poll_twice(ticket).unwrap(),
            drop,
        ];
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (turn, told) = (turn.clone(), told.clone());
                let ways = [0; 2].map(|_| wait[thread_rng().gen_range(0..wait.len())]);
                with(&wal, move |wal| {
                    for way in ways {
                        way(submit_next(wal, &turn, &told));
                    }
                })
            })
            .collect();
        join(threads);
        drop(wal);
        check_unlocked(&disk);
        assert_eq!(*told.0.lock().unwrap(), [1, 2, 3, 4, 5, 6]);
    });
}

/// Appends, and purges what is three back. Stops when the log is poisoned.
fn write_until_poisoned(wal: &Wal, group: u64, count: u64, told: impl Fn(u64)) {
    for index in 1..=count {
        let mut batch = one(group, index);
        if index > 3 {
            purge(&mut batch, group, index - 3);
        }
        let outcome = match index % 2 {
            0 => wal.write(batch),
            _ => wal.submit(batch).and_then(shuttle::future::block_on),
        };
        check_poisoned(wal, &outcome);
        match outcome {
            Ok(()) => told(index),
            Err(Error::Poisoned { .. }) => return,
            Err(Error::Io { .. } | Error::Full { .. }) => {
                assert!(last(wal, group) < index, "nothing has changed");
                return;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Reads all of a group, now and then. What is purged meanwhile is not there.
fn read_some(wal: &Wal, group: u64) {
    for _ in 0..4 {
        let (from, to) = (
            wal.purged(GroupId(group)).index.next(),
            wal.last(GroupId(group)).index.next(),
        );
        if from >= to {
            thread::yield_now();
            continue;
        }
        match wal.entries(GroupId(group), from..to, u64::MAX) {
            Ok(entries) => assert!(entries.iter().all(|entry| entry.payload.len() == BYTES)),
            Err(Error::Misuse { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A failure on the way of two writers, of callbacks, of the reader and of the space thread.
fn fail(arm: fn(&SimDisk)) {
    let options = options(SMALL);
    let (disk, wal) = start(&options);
    let (told, called) = (Acknowledged::default(), Arc::new(Mutex::new(Vec::new())));
    arm(&disk);
    let mut threads: Vec<_> = (1..=2)
        .map(|group| {
            let (disk, told) = (disk.clone(), told.clone());
            with(&wal, move |wal| {
                write_until_poisoned(wal, group, 6, |index| told.note(&disk, group, index));
            })
        })
        .collect();
    threads.push(with(&wal, |wal| read_some(wal, 1)));
    let submitted = Arc::new(Mutex::new(0));
    let (calls, counted) = (called.clone(), submitted.clone());
    threads.push(with(&wal, move |wal| {
        for index in 1..=3 {
            let Ok(ticket) = wal.submit(one(3, index)) else {
                return;
            };
            let calls = calls.clone();
            *counted.lock().unwrap() = index;
            ticket.on_durable(move |_| calls.lock().unwrap().push(index));
        }
    }));
    join(threads);
    let _ = wal.drive();
    while wal.stats().writing_for.is_some() {
        thread::yield_now(); // It began before the failure of another thread.
    }
    if wal.stats().poison.is_some() {
        for group in 1..=3 {
            assert_eq!(
                last(&wal, group),
                durable(&wal, group),
                "reads end at the durable point"
            );
        }
        assert!(wal.submit(one(4, 1)).is_err());
    }
    check_entries(&wal);
    drop(wal);
    check_unlocked(&disk);
    let called = called.lock().unwrap();
    assert!(
        called.iter().copied().eq(1..=*submitted.lock().unwrap()),
        "{called:?}"
    );
    told.check(&disk, &options);
}

#[test]
fn after_any_operation_fails_all_are_told_the_same_and_nothing_is_lost() {
    explore("any failure", 30_000, || {
        fail(|disk| disk.fail_after(thread_rng().gen_range(0..80), Failure::EIO));
    });
}

#[test]
fn after_a_sync_fails_all_are_told_the_same_and_nothing_is_lost() {
    explore("failed syncs", 30_000, || {
        fail(|disk| disk.fail_op(Op::SyncData, thread_rng().gen_range(0..40), Failure::EIO));
    });
}

#[test]
fn too_much_under_way_is_waited_for_or_told() {
    explore("back pressure", 20_000, || {
        let mut options = options(SMALL);
        options.in_flight_bytes_max = 7500;
        let in_flight_max = options.in_flight_bytes_max;
        let (disk, wal) = start(&options);
        let submitters: Vec<_> = (1..=3)
            .map(|group| {
                with(&wal, move |wal| {
                    for index in 1..=3 {
                        let mut tried = wal.try_submit(one(group, index));
                        if let Err(error) = &tried {
                            assert!(matches!(error, Error::Busy { .. }), "{error}");
                            tried = wal.submit(one(group, index));
                        }
                        let in_flight = wal.stats().in_flight_bytes;
                        assert!(
                            in_flight <= in_flight_max,
                            "{in_flight} bytes are under way"
                        );
                        drop(tried.unwrap());
                    }
                })
            })
            .collect();
        join(submitters);
        drop(wal);
        check_held(&disk, &options, &BTreeMap::from([(1, 3), (2, 3), (3, 3)]));
    });
}

#[test]
fn segments_are_sealed_freed_and_moved_while_others_write_and_read() {
    explore("segments", 8_000, || {
        let mut options = options(SMALL);
        options.recent_bytes_max = thread_rng().gen_range(0..4) * BYTES as u64;
        options.map_sealed = thread_rng().gen_range(0..2) == 0;
        let (disk, wal) = start(&options);
        let told = Acknowledged::default();
        wal.write(one(9, 1)).unwrap(); // It lags: it is moved.
        let mut threads: Vec<_> = (1..=2)
            .map(|group| {
                let (disk, told) = (disk.clone(), told.clone());
                with(&wal, move |wal| {
                    write_until_poisoned(wal, group, 14, |index| told.note(&disk, group, index));
                })
            })
            .collect();
        threads.push(with(&wal, |wal| read_some(wal, 1)));
        threads.push(with(&wal, |wal| {
            for _ in 0..4 {
                let read = wal.entries(GroupId(9), Index(1)..Index(2), u64::MAX);
                assert_eq!(read.unwrap()[0].payload.len(), BYTES);
            }
        }));
        join(threads);
        check_entries(&wal);
        wal.close().unwrap();
        told.note(&disk, 9, 1);
        told.check(&disk, &options);
    });
}

#[test]
fn tickets_outlive_the_last_handle() {
    explore("last handle", 30_000, || {
        let (disk, wal) = start(&options(1 << 16));
        let waiters: Vec<_> = (1..=3)
            .map(|index| wal.submit(one(1, index)).unwrap())
            .map(|ticket| match thread_rng().gen_range(0..2) {
                0 => thread::spawn(move || ticket.wait().unwrap()),
                _ => thread::spawn(move || shuttle::future::block_on(ticket).unwrap()),
            })
            .collect();
        drop(wal);
        join(waiters);
        check_unlocked(&disk);
        check_held(&disk, &options(1 << 16), &BTreeMap::from([(1, 3)]));
    });
}

#[test]
fn a_log_is_closed_while_others_write() {
    explore("closing", 30_000, || {
        let options = options(SMALL);
        let (disk, wal) = start(&options);
        let told = Acknowledged::default();
        let mut threads: Vec<_> = (1..=2)
            .map(|group| {
                let (disk, told) = (disk.clone(), told.clone());
                with(&wal, move |wal| {
                    for index in 1..=3 {
                        wal.write(one(group, index)).unwrap();
                        told.note(&disk, group, index);
                    }
                    wal.clone().close().unwrap();
                })
            })
            .collect();
        let (on, noted) = (disk.clone(), told.clone());
        threads.push(with(&wal, move |wal| {
            drop(wal.submit(one(3, 1)).unwrap());
            wal.clone().close().unwrap();
            noted.note(&on, 3, 1);
        }));
        drop(wal);
        join(threads);
        check_unlocked(&disk);
        told.check(&disk, &options);
    });
}

#[test]
fn the_last_handle_may_go_in_a_callback() {
    explore("drop in a callback", 30_000, || {
        let (disk, wal) = start(&options(SMALL));
        let called = Arc::new(Mutex::new(0));
        let mut waiters = Vec::new();
        for index in 1..=3 {
            let (on, called) = (wal.clone(), called.clone());
            let ticket = wal.submit(one(1, index)).unwrap();
            let same = wal.submit(Batch::new()).unwrap();
            waiters.push(thread::spawn(move || ticket.wait().unwrap()));
            same.on_durable(move |outcome| {
                let then = on.submit(one(2, last(&on, 2) + 1)).unwrap();
                let again = called.clone();
                then.on_durable(move |_| *again.lock().unwrap() += 1);
                drop(on);
                *called.lock().unwrap() += u64::from(outcome.is_ok());
            });
        }
        drop(wal);
        join(waiters);
        check_unlocked(&disk);
        assert_eq!(*called.lock().unwrap(), 6);
        check_held(&disk, &options(SMALL), &BTreeMap::from([(1, 3), (2, 3)]));
    });
}

/// Submitters who need segments at once, while the preparer makes one.
fn make_segments(disk: &SimDisk, wal: &Wal, batches: [fn(u64) -> Batch; 3], options: &Options) {
    let told = Acknowledged::default();
    let submitters: Vec<_> = (1..)
        .zip(batches)
        .map(|(group, batch)| {
            let (disk, told) = (disk.clone(), told.clone());
            with(wal, move |wal| {
                for index in 1..=4 {
                    match wal.write(batch(index)) {
                        Ok(()) => told.note(&disk, group, index),
                        Err(Error::Full { .. }) => return,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    join(submitters);
    assert!(wal.stats().poison.is_none());
    told.check(&disk.fork(), options);
}

#[test]
fn a_submitter_takes_the_segment_that_is_being_prepared_and_makes_none_beside_it() {
    explore("who makes a segment", 20_000, || {
        let options = options(2 * SMALL); // What is under way fits the one that is prepared.
        let (disk, wal) = start(&options);
        make_segments(
            &disk,
            &wal,
            [|i| one(1, i), |i| one(2, i), |i| one(3, i)],
            &options,
        );
        let stats = wal.stats();
        let next = u64::from(stats.has_next_segment);
        assert_eq!(stats.spares, next, "a file was made in vain");
    });
}

#[test]
fn a_prepared_segment_that_is_too_small_is_replaced_while_others_write() {
    explore("too small", 8_000, || {
        let disk = SimDisk::new();
        let wal = Wal::create_on(steps(&disk), support::DIR, options(SMALL)).unwrap();
        for index in 1..=3 {
            wal.write(one(9, index)).unwrap();
        }
        while !wal.stats().has_next_segment {
            thread::yield_now();
        }
        drop(wal);
        let options = options(4 * SMALL);
        let wal = Wal::open_on(steps(&disk), support::DIR, options.clone()).unwrap();
        let large = |index| support::batch(&vec![support::append(1, index, index, 1, 20_000)]);
        make_segments(&disk, &wal, [large, |i| one(2, i), |i| one(3, i)], &options);
    });
}

/// An entry of up to 2000 bytes.
fn some_bytes(group: u64, index: u64) -> Batch {
    let bytes = thread_rng().gen_range(1..2000);
    support::batch(&vec![support::append(group, index, index, 1, bytes)])
}

#[test]
fn on_a_full_disk_vital_batches_and_others_take_what_is_left() {
    explore("full disk", 24_000, || {
        let options = options(SMALL);
        let (disk, wal) = start(&options);
        for index in 1..=thread_rng().gen_range(1..=4) {
            wal.write(one(9, index)).unwrap();
        }
        disk.set_free_bytes(Some(0));
        let vital = |index| {
            let mut batch = some_bytes(3, index);
            batch.vital();
            batch
        };
        make_segments(
            &disk,
            &wal,
            [|i| some_bytes(1, i), |i| some_bytes(2, i), vital],
            &options,
        );
        disk.set_free_bytes(None);
        wal.write(one(4, 1)).unwrap();
    });
}

/// A group that lags is moved on a disk that is nearly full, while somebody purges it and appends to it.
#[test]
fn what_is_purged_meanwhile_is_not_moved() {
    explore("purged moves", 16_000, || {
        let options = options(SMALL);
        let (disk, wal) = start(&options);
        (1..=4).for_each(|index| wal.write(one(9, index)).unwrap());
        disk.set_free_bytes(Some(thread_rng().gen_range(0..6 * SMALL)));
        let writer = with(&wal, |wal| {
            for index in 1..=12 {
                let mut batch = one(1, index);
                batch.vital();
                purge(&mut batch, 1, index);
                if wal.write(batch).is_err() {
                    break;
                }
            }
        });
        let purger = with(&wal, |wal| {
            for index in 1..=3 {
                let mut batch = Batch::new();
                purge(&mut batch, 9, index);
                if let Err(error) = wal.write(batch) {
                    assert!(matches!(error, Error::Full { .. }), "{error}");
                    return;
                }
                assert_eq!((wal.purged(GroupId(9)).index.0, last(wal, 9)), (index, 4));
            }
        });
        join([writer, purger]);
        assert!(wal.stats().poison.is_none());
        check_entries(&wal);
        drop(wal);
        check_held(&disk, &options, &BTreeMap::from([(9, 4)]));
    });
}
