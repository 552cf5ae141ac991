//! Waiting for what was submitted: by ticket, callback and future, from many threads; limits; closing; poison.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::future::Future;
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use duramen_disk::{Disk, SimDisk};
use duramen_wal::{Error, GroupId, Index, Options, Result, Ticket, Wal};
use support::*;

fn manual() -> Options {
    options(1 << 16)
}

/// The log has its thread.
fn threaded() -> Options {
    let mut options = manual();
    options.manual_drive = false;
    options
}

fn one(index: u64) -> Step {
    vec![append(1, index, index, 1, 20)]
}

fn submit(wal: &Wal, index: u64) -> Ticket {
    wal.submit(batch(&one(index))).unwrap()
}

/// Nothing in these tests takes so long.
const LONG: Duration = Duration::from_secs(20);

#[test]
fn waiting_for_a_ticket_makes_it_and_all_before_it_durable() {
    let disk = SimDisk::new();
    let wal = create(&disk, &manual()).unwrap();
    let tickets: Vec<Ticket> = (1..=5).map(|i| submit(&wal, i)).collect();
    assert!(tickets.iter().all(|ticket| !ticket.is_durable()));
    let mut tickets = tickets.into_iter();
    let third = tickets.nth(2).unwrap();
    third.wait().unwrap();
    drop(wal.clone());
    // A batch without a vote goes with the one before.
    assert!(tickets.all(|ticket| ticket.is_durable()));
    let steps: Vec<Step> = (1..=5).map(one).collect();
    disk.power_cut(0);
    drop(wal);
    assert_holds(&disk, &manual(), &steps, 5);
}

#[test]
fn many_batches_that_wait_together_cost_one_write_and_one_sync() {
    let disk = SimDisk::new();
    let wal = create(&disk, &manual()).unwrap();
    let before = disk.operations();
    let tickets: Vec<Ticket> = (1..=25).map(|i| submit(&wal, i)).collect();
    assert_eq!(disk.operations(), before);
    tickets
        .into_iter()
        .rev()
        .for_each(|ticket| ticket.wait().unwrap());
    assert_eq!(disk.operations(), before + 2);
}

#[test]
fn a_vote_is_written_when_all_before_it_is_durable() {
    let disk = SimDisk::new();
    let wal = create(&disk, &manual()).unwrap();
    let first = submit(&wal, 1);
    let vote = wal.submit(batch(&vec![vote(1, 1, 1)])).unwrap();
    let before = disk.operations();
    first.wait().unwrap();
    assert_eq!(disk.operations(), before + 2);
    assert!(!vote.is_durable());
    vote.wait().unwrap();
    assert_eq!(disk.operations(), before + 4);
}

#[test]
fn an_empty_batch_has_the_ticket_of_the_batch_before() {
    let wal = create(&SimDisk::new(), &manual()).unwrap();
    assert!(wal.submit(duramen_wal::Batch::new()).unwrap().is_durable());
    let first = submit(&wal, 1);
    let empty = wal.submit(duramen_wal::Batch::new()).unwrap();
    assert!(!empty.is_durable());
    empty.wait().unwrap();
    assert!(first.is_durable());
}

#[test]
fn dropping_a_ticket_cancels_nothing() {
    let disk = SimDisk::new();
    let wal = create(&disk, &manual()).unwrap();
    drop(submit(&wal, 1));
    drop(submit(&wal, 2));
    wal.drive().unwrap();
    disk.power_cut(0);
    drop(wal);
    assert_holds(&disk, &manual(), &[one(1), one(2)], 2);

    // With a thread it is written though nobody waits.
    let wal = create(&SimDisk::new(), &threaded()).unwrap();
    drop(submit(&wal, 1));
    let last = submit(&wal, 2);
    let (told, tell) = mpsc::channel();
    last.on_durable(move |outcome| told.send(outcome).unwrap());
    tell.recv_timeout(LONG).unwrap().unwrap();
}

#[test]
fn dropping_the_last_handle_writes_what_is_queued() {
    for options in [manual(), threaded()] {
        let disk = SimDisk::new();
        let wal = create(&disk, &options).unwrap();
        let tickets: Vec<Ticket> = (1..=3).map(|i| submit(&wal, i)).collect();
        let other = wal.clone();
        drop(wal);
        drop(other);
        assert!(tickets.iter().all(Ticket::is_durable));
        assert!(
            matches!(error(open(&disk, &options)), Error::Locked { .. }),
            "a ticket is left"
        );
        drop(tickets);
        disk.power_cut(0);
        assert_holds(&disk, &options, &[one(1), one(2), one(3)], 3);
    }
}

#[test]
fn close_writes_what_is_queued_and_reports() {
    let disk = SimDisk::new();
    let wal = create(&disk, &manual()).unwrap();
    let ticket = submit(&wal, 1);
    wal.clone().close().unwrap();
    assert!(ticket.is_durable());
    let _unwritten = submit(&wal, 2);
    disk.fail_next_sync(ErrorKind::Other);
    assert!(matches!(wal.clone().close(), Err(Error::Poisoned { .. })));
    assert!(matches!(
        wal.write(batch(&one(2))),
        Err(Error::Poisoned { .. })
    ));
}

/// The last step of closing writes CONTROL. If it fails, that is said once, and nothing is tried again.
#[test]
fn after_a_failed_close_nothing_is_written_again() {
    for n in 0..2 {
        let disk = SimDisk::new();
        let wal = create(&disk, &manual()).unwrap();
        wal.write(batch(&one(1))).unwrap();
        disk.fail_after(n, ErrorKind::Other);
        assert!(matches!(wal.clone().close(), Err(Error::Io { .. })));
        let operations = disk.operations();
        assert!(matches!(wal.clone().close(), Err(Error::Poisoned { .. })));
        drop(wal);
        assert_eq!(disk.operations(), operations);
        disk.power_cut(0);
        assert_holds(&disk, &manual(), &[one(1)], 1);
    }
}

/// A segment is freed after what freed it is durable. If freeing fails, that batch is acknowledged; nothing follows.
#[test]
fn after_freeing_failed_the_batch_is_durable_and_nothing_is_written_again() {
    let options = options(12288);
    let steps: Vec<Step> = vec![
        vec![append(1, 1, 1, 1, 5840)],
        vec![append(1, 2, 2, 1, 5840)],
        vec![purge(1, 1, 1)],
    ];
    for n in 2..6 {
        let disk = disk_with(&options, &steps[..2]);
        let wal = open(&disk, &options).unwrap();
        disk.fail_after(n, ErrorKind::Other);
        wal.write(batch(&steps[2])).unwrap();
        let operations = disk.operations();
        assert!(
            matches!(wal.write(batch(&one(3))), Err(Error::Poisoned { .. })),
            "{n}"
        );
        assert_eq!(state_of(&wal), states(&steps)[3]);
        drop(wal);
        assert_eq!(disk.operations(), operations, "{n}");
        disk.power_cut(0);
        assert_holds(&disk, &options, &steps, 3);
    }
}

#[test]
fn callbacks_come_once_each_in_order_on_the_thread_that_writes() {
    let wal = create(&SimDisk::new(), &manual()).unwrap();
    let called = Arc::new(Mutex::new(Vec::new()));
    let tell = |ticket: Ticket, name: u64| {
        let called = called.clone();
        let here = thread::current().id();
        ticket.on_durable(move |outcome| {
            outcome.unwrap();
            assert_eq!(thread::current().id(), here);
            called.lock().unwrap().push(name);
        });
    };
    let tickets: Vec<(u64, Ticket)> = (1..=9).map(|i| (i, submit(&wal, i))).collect();
    // In the order of submission, however they were asked for.
    for (name, ticket) in tickets.into_iter().rev() {
        tell(ticket, name);
    }
    assert!(called.lock().unwrap().is_empty());
    wal.drive().unwrap();
    let done = submit(&wal, 10);
    wal.drive().unwrap();
    tell(done, 10); // at once
    assert_eq!(*called.lock().unwrap(), (1..=10).collect::<Vec<_>>());
}

/// While one thread calls back for one write, another thread writes the next and must not overtake it.
#[test]
fn callbacks_of_a_later_write_wait_for_those_of_an_earlier_one() {
    let wal = create(&SimDisk::new(), &manual()).unwrap();
    let called = Arc::new(Mutex::new(Vec::new()));
    let (begun, is_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let first = called.clone();
    submit(&wal, 1).on_durable(move |_| {
        begun.send(()).unwrap();
        may_go_on.recv_timeout(LONG).unwrap();
        first.lock().unwrap().push(1);
    });
    let writer = wal.clone();
    let writer = thread::spawn(move || writer.drive().unwrap());
    is_begun.recv_timeout(LONG).unwrap();
    let second = called.clone();
    submit(&wal, 2).on_durable(move |_| second.lock().unwrap().push(2));
    let (drive, driven) = (wal.clone(), Arc::new(AtomicBool::new(false)));
    let is_driven = driven.clone();
    let other = thread::spawn(move || {
        drive.drive().unwrap();
        is_driven.store(true, Ordering::SeqCst);
    });
    // It has the time to overtake.
    thread::sleep(Duration::from_millis(100));
    assert_eq!(*called.lock().unwrap(), []);
    go_on.send(()).unwrap();
    writer.join().unwrap();
    other.join().unwrap();
    assert!(driven.load(Ordering::SeqCst));
    assert_eq!(*called.lock().unwrap(), [1, 2]);
}

/// A callback may use the log: submit, write, wait, ask for another callback, and drop the last handle.
#[test]
fn a_callback_may_use_the_log_it_comes_from() {
    for options in [manual(), threaded()] {
        let disk = SimDisk::new();
        let wal = create(&disk, &options).unwrap();
        let (told, tell) = mpsc::channel();
        let inner = wal.clone();
        let ticket = submit(&wal, 1);
        drop(wal);
        let kicked = inner.clone();
        ticket.on_durable(move |_| {
            let told_2 = told.clone();
            inner.write(batch(&one(2))).unwrap();
            submit(&inner, 3).on_durable(move |_| told_2.send(3).unwrap());
            submit(&inner, 4).wait().unwrap();
            told.send(1).unwrap();
            drop(inner);
        });
        if options.manual_drive {
            kicked.drive().unwrap();
        }
        drop(kicked);
        let mut order = [
            tell.recv_timeout(LONG).unwrap(),
            tell.recv_timeout(LONG).unwrap(),
        ];
        order.sort_unstable();
        assert_eq!(order, [1, 3]);
        let steps: Vec<Step> = (1..=4).map(one).collect();
        // The log's thread may still hold the lock for a moment.
        let opened = (0..1000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            open(&disk, &options).is_ok()
        });
        assert!(opened);
        assert_holds(&disk, &options, &steps, 4);
    }
}

/// The panic is the caller's. What comes after it is called, and the log goes on.
#[test]
fn a_callback_that_panics_does_not_keep_others_from_being_called() {
    let wal = create(&SimDisk::new(), &threaded()).unwrap();
    for round in 0..2 {
        let (told, tell) = mpsc::channel();
        let panics = submit(&wal, 3 * round + 1);
        let second = submit(&wal, 3 * round + 2);
        panics.on_durable(|_| panic!("on purpose"));
        let told_too = told.clone();
        second.on_durable(move |_| told_too.send(2).unwrap());
        submit(&wal, 3 * round + 3).on_durable(move |_| told.send(3).unwrap());
        assert_eq!(tell.recv_timeout(LONG), Ok(2));
        assert_eq!(tell.recv_timeout(LONG), Ok(3));
    }
}

/// Wakes a thread that waits.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

/// The smallest executor.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let rung = bell.rung.lock().unwrap();
        let (mut rung, timeout) = bell
            .changed
            .wait_timeout_while(rung, LONG, |rung| !*rung)
            .unwrap();
        assert!(!timeout.timed_out(), "nobody woke it");
        *rung = false;
    }
}

#[test]
fn a_ticket_is_a_future() {
    let wal = create(&SimDisk::new(), &threaded()).unwrap();
    for i in 1..=100 {
        block_on(submit(&wal, i)).unwrap();
    }
    let tickets: Vec<Ticket> = (101..=200).map(|i| submit(&wal, i)).collect();
    for ticket in tickets {
        block_on(ticket).unwrap();
    }
    assert_eq!(wal.last(GroupId(1)).index, Index(200));
}

#[test]
fn a_future_wakes_the_waker_of_its_last_poll() {
    let wal = create(&SimDisk::new(), &manual()).unwrap();
    let (old, new) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let mut ticket = pin!(submit(&wal, 1));
    for bell in [&old, &new] {
        let waker = Waker::from(bell.clone());
        assert!(
            ticket
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
    }
    wal.drive().unwrap();
    assert!(!*old.rung.lock().unwrap() && *new.rung.lock().unwrap());
    let waker = Waker::from(old);
    assert!(ticket.poll(&mut Context::from_waker(&waker)).is_ready());
}

#[test]
fn poison_reaches_every_waiter_callback_and_future_with_its_cause() {
    let disk = SimDisk::new();
    let wal = create(&disk, &manual()).unwrap();
    wal.write(batch(&one(1))).unwrap();
    let waiting: Vec<Ticket> = (2..=4).map(|i| submit(&wal, i)).collect();
    let outcomes = Arc::new(Mutex::new(Vec::<Result<()>>::new()));
    for i in 5..=6 {
        let outcomes = outcomes.clone();
        submit(&wal, i).on_durable(move |outcome| outcomes.lock().unwrap().push(outcome));
    }
    let mut future = pin!(submit(&wal, 7));
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    assert!(
        future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    disk.fail_next_sync(ErrorKind::TimedOut);
    let threads: Vec<_> = waiting
        .into_iter()
        .map(|ticket| thread::spawn(|| ticket.wait()))
        .collect();
    let mut outcomes_of_threads: Vec<Result<()>> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    assert!(*bell.rung.lock().unwrap());
    let Poll::Ready(outcome) = future.poll(&mut Context::from_waker(&waker)) else {
        panic!("it is decided");
    };
    outcomes_of_threads.push(outcome);
    outcomes_of_threads.append(&mut outcomes.lock().unwrap());
    assert_eq!(outcomes_of_threads.len(), 3 + 1 + 2);
    for outcome in outcomes_of_threads {
        match error(outcome) {
            Error::Poisoned { cause } => match &*cause {
                Error::Io { op, source, .. } => {
                    assert_eq!((*op, source.kind()), ("sync", ErrorKind::TimedOut));
                }
                other => panic!("{other}"),
            },
            other => panic!("{other}"),
        }
    }
    assert_eq!(state_of(&wal), states(&[one(1)])[1]);
}

#[test]
fn submitting_waits_while_too_much_is_under_way() {
    let mut options = manual();
    options.in_flight_bytes_max = 4000;
    let disk = SimDisk::new();
    let wal = create(&disk, &options).unwrap();
    let before = disk.operations();
    for index in 1..=200 {
        drop(submit(&wal, index)); // nobody drives: whoever submits writes
    }
    let written = (disk.operations() - before) / 2;
    assert!((10..=100).contains(&written), "{written}");
    // One that is larger than the limit goes alone.
    wal.write(batch(&vec![append(1, 201, 201, 1, 9000)]))
        .unwrap();
    assert_eq!(wal.last(GroupId(1)).index, Index(201));
}

/// Threads that wait while another one's write fails are all told.
#[test]
fn poison_wakes_every_thread() {
    for n in 0..30 {
        let disk = SimDisk::new();
        let wal = create(&disk, &threaded()).unwrap();
        disk.fail_after(n, ErrorKind::Other);
        let threads: Vec<_> = (1..=6)
            .map(|group| {
                let wal = wal.clone();
                thread::spawn(move || {
                    let steps = (1..=20).map(|index| vec![append(group, index, index, 1, 30)]);
                    steps
                        .take_while(|step| wal.write(batch(step)).is_ok())
                        .count() as u64
                })
            })
            .collect();
        let written: Vec<u64> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        for (group, written) in (1..).zip(&written) {
            assert_eq!(wal.last(GroupId(group)).index, Index(*written));
        }
        drop(wal);
        disk.power_cut(0);
        let wal = open(&disk, &threaded()).unwrap();
        for (group, written) in (1..).zip(written) {
            assert_eq!(wal.last(GroupId(group)).index, Index(written));
        }
        assert_eq!(disk.list(DIR.as_ref()).unwrap().len(), 3);
    }
}
