//! Many threads at once: writers with several groups each, who wait in different ways, readers, a purger, and the log's own
//! threads. Each entry that is read is what its writer wrote; what was acknowledged is there afterwards, also after a power
//! cut in the middle.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use duramen_disk::{Disk, OsDisk, SimDisk};
use duramen_wal::{Batch, Error, GroupId, HardState, Index, LogId, Options, Term, Ticket, Wal};
use support::*;

const WRITERS: u64 = 4;
const GROUPS_EACH: u64 = 3;
/// So many batches each, at least.
const BATCHES: u64 = 400;
const POWER_CUTS: u64 = 10;
const READERS: u64 = 3;

/// A purge leaves so many entries.
const KEPT: u64 = 40;

/// No batch replaces more of the last entries.
const REPLACED_MAX: u64 = 4;

fn small() -> Options {
    let mut options = options(1 << 16);
    options.manual_drive = false;
    options.idle_mark = Some(Duration::from_millis(1));
    options
}

struct Draw(u64);

impl Draw {
    fn new(seed: u64) -> Draw {
        Draw(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// What an entry holds follows from its name.
fn payload(group: GroupId, index: u64, term: u64) -> Bytes {
    let mut draw = Draw::new(group.0 << 40 ^ index << 20 ^ term);
    let len = [20, 200, 1500][draw.below(3) as usize];
    let len = draw.below(len) as usize;
    let text = format!("{group}/{term}.{index} ");
    text.bytes().cycle().take(len).collect()
}

/// What one writer has submitted after some batches, and what it submits next. The same each time.
struct Writer {
    number: u64,
    batches: u64,
    /// For each of its groups the terms of all entries, the purged ones too.
    terms: Vec<Vec<u64>>,
    voted: u64,
}

impl Writer {
    fn new(number: u64) -> Writer {
        Writer {
            number,
            batches: 0,
            terms: vec![Vec::new(); GROUPS_EACH as usize],
            voted: 0,
        }
    }

    /// After so many batches.
    fn after(number: u64, batches: u64) -> Writer {
        let mut writer = Writer::new(number);
        (0..batches).for_each(|_| drop(writer.next()));
        writer
    }

    fn group(&self, n: usize) -> GroupId {
        GroupId(100 * self.number + n as u64)
    }

    /// Some entries for some groups, of which some replace others; now and then a vote. The first group's user record is the
    /// number of the batch.
    fn next(&mut self) -> Batch {
        self.batches += 1;
        let mut draw = Draw::new(self.number << 32 ^ self.batches);
        let mut batch = Batch::new();
        let first = self.group(0);
        batch.user_record(first, self.batches.to_le_bytes().to_vec());
        if self.batches.is_multiple_of(25) {
            self.voted = self.batches;
            let vote = HardState {
                term: Term(self.voted),
                ..HardState::default()
            };
            batch.hard_state(first, vote);
        }
        for n in 0..self.terms.len() {
            let group = self.group(n);
            let terms = &mut self.terms[n];
            if draw.below(3) == 0 {
                continue;
            }
            let back = draw.below(6) / 5 * draw.below(REPLACED_MAX + 1);
            let back = back.min(terms.len() as u64);
            let mut term = terms.last().copied().unwrap_or(1);
            if back > 0 || draw.below(20) == 0 {
                term += 1;
            }
            let first = terms.len() as u64 + 1 - back;
            terms.truncate(first as usize - 1);
            let count = back.max(1) + draw.below(2); // The log never gets shorter.
            let entries = (first..first + count).map(|index| {
                terms.push(term);
                entry(index, term, payload(group, index, term))
            });
            batch.append(group, entries.collect::<Vec<_>>());
        }
        batch
    }

    /// Submits batches until it is enough, and says in `acknowledged` how many were. Gives their number.
    fn run(mut self, wal: &Wal, is_enough: &AtomicBool, acknowledged: &Arc<AtomicU64>) -> u64 {
        let mut waiting: VecDeque<(u64, Ticket)> = VecDeque::new();
        while self.batches < BATCHES || !is_enough.load(SeqCst) {
            let ticket = wal.submit(self.next()).unwrap();
            let batches = self.batches;
            match self.number {
                1 => {
                    ticket.wait().unwrap();
                    acknowledged.store(batches, SeqCst);
                }
                2 => {
                    let acknowledged = acknowledged.clone();
                    ticket.on_durable(move |outcome| {
                        // Once each, in order. A panic here would be caught.
                        let before = acknowledged.swap(batches, SeqCst);
                        if outcome.is_err() || before != batches - 1 {
                            acknowledged.store(u64::MAX / 2, SeqCst);
                        }
                    });
                }
                3 => {
                    waiting.push_back((batches, ticket));
                    if waiting.len() > 8 {
                        let (batches, ticket) = waiting.pop_front().unwrap();
                        ticket.wait().unwrap();
                        acknowledged.store(batches, SeqCst);
                    }
                }
                _ if batches.is_multiple_of(16) => {
                    ticket.wait().unwrap();
                    acknowledged.store(batches, SeqCst);
                }
                _ => drop(ticket),
            }
        }
        self.batches
    }

    /// Whether the log holds all of this writer's groups as they were after one of these numbers of batches.
    fn assert_held(number: u64, wal: &Wal, allowed: RangeInclusive<u64>) {
        let record = wal.user_record(GroupId(100 * number));
        let held = record.as_ref().try_into().map_or(0, u64::from_le_bytes);
        assert!(
            allowed.contains(&held),
            "writer {number}: {held} of {allowed:?}"
        );
        let writer = Writer::after(number, held);
        assert_eq!(wal.hard_state(writer.group(0)).term.0, writer.voted);
        for (n, terms) in writer.terms.iter().enumerate() {
            let group = writer.group(n);
            let (purged, last) = (wal.purged(group).index, wal.last(group).index);
            assert_eq!(last.0, terms.len() as u64, "{group} after {held} batches");
            let entries = wal
                .entries(group, purged.next()..last.next(), u64::MAX)
                .unwrap();
            let held = entries.iter().map(|entry| entry.id.term.0);
            assert!(
                held.eq(terms[purged.0 as usize..].iter().copied()),
                "{group}"
            );
            let is_right = |entry: &duramen_wal::Entry| {
                entry.payload == payload(group, entry.id.index.0, entry.id.term.0)
            };
            assert!(entries.iter().all(is_right), "{group}");
        }
    }
}

fn any_group(draw: &mut Draw) -> GroupId {
    GroupId(100 * (1 + draw.below(WRITERS)) + draw.below(GROUPS_EACH))
}

/// What came up, to know that it did.
#[derive(Debug, Default)]
struct Counts {
    read: u64,
    /// A range was purged before it was read.
    ended: u64,
    purges: u64,
}

/// Reads ranges, often the oldest there is, and checks every entry.
fn read(wal: &Wal, seed: u64, done: &AtomicBool) -> Counts {
    let mut draw = Draw::new(seed);
    let mut counts = Counts::default();
    while !done.load(SeqCst) {
        let group = any_group(&mut draw);
        let (purged, last) = (wal.purged(group).index.0, wal.last(group).index.0);
        let Some(settled) = last.checked_sub(purged + REPLACED_MAX).filter(|n| *n > 0) else {
            thread::yield_now();
            continue;
        };
        let first = purged + 1 + draw.below(2) * draw.below(settled);
        let end = (first + 1 + draw.below(20)).min(last - REPLACED_MAX + 1);
        let bytes_max = [0, 1000, u64::MAX][draw.below(3) as usize];
        match wal.entries(group, Index(first)..Index(end), bytes_max) {
            Ok(entries) => {
                let count = entries.len() as u64;
                assert!((1..=end - first).contains(&count));
                assert!(count == end - first || bytes_max < u64::MAX);
                let mut before = Term(0);
                for (index, entry) in (first..).zip(&entries) {
                    assert_eq!(entry.id.index.0, index, "{group}");
                    let expected = payload(group, index, entry.id.term.0);
                    assert!(entry.payload == expected, "{group}: {}", entry.id.index);
                    assert!(entry.id.term >= before);
                    before = entry.id.term;
                }
                counts.read += count;
            }
            Err(Error::Misuse { .. }) => {
                assert!(
                    wal.purged(group).index.0 >= first,
                    "{group}: no entry {first}"
                );
                counts.ended += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    counts
}

/// Purges all groups again and again, but for their last entries.
fn purge_all(wal: &Wal, done: &AtomicBool) -> Counts {
    let mut counts = Counts::default();
    while !done.load(SeqCst) {
        for group in (1..=WRITERS).flat_map(|n| (0..GROUPS_EACH).map(move |m| 100 * n + m)) {
            let group = GroupId(group);
            let (purged, last) = (wal.purged(group).index.0, wal.last(group).index.0);
            if last < purged + KEPT + 10 {
                continue;
            }
            let index = Index(last - KEPT);
            let term = wal.term(group, index).unwrap();
            let mut batch = Batch::new();
            batch.purge(group, LogId { term, index });
            wal.write(batch).unwrap();
            counts.purges += 1;
            let gone = wal.entries(group, index..index.next(), 0);
            assert!(matches!(gone, Err(Error::Misuse { .. })));
        }
        thread::sleep(Duration::from_micros(200));
    }
    counts
}

/// How many batches of each writer were acknowledged.
type Acknowledged = Vec<Arc<AtomicU64>>;

/// Runs all threads. `meanwhile` is called again and again, until it says that it is enough. Gives how many batches each
/// writer wrote.
fn run(wal: &Wal, mut meanwhile: impl FnMut(&Acknowledged) -> bool) -> (Vec<u64>, Counts) {
    let (is_enough, is_done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let acknowledged: Acknowledged = (0..WRITERS).map(|_| Arc::default()).collect();
    let writers: Vec<_> = (1..=WRITERS)
        .zip(acknowledged.clone())
        .map(|(number, acknowledged)| {
            let (wal, is_enough) = (wal.clone(), is_enough.clone());
            thread::spawn(move || Writer::new(number).run(&wal, &is_enough, &acknowledged))
        })
        .collect();
    let mut others: Vec<_> = (0..READERS)
        .map(|seed| {
            let (wal, is_done) = (wal.clone(), is_done.clone());
            thread::spawn(move || read(&wal, seed, &is_done))
        })
        .collect();
    let (purger, purging) = (wal.clone(), is_done.clone());
    others.push(thread::spawn(move || purge_all(&purger, &purging)));
    let is_stuck = || writers.iter().all(|writer| writer.is_finished());
    while !meanwhile(&acknowledged) && !is_stuck() {}
    is_enough.store(true, SeqCst);
    let written: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
    is_done.store(true, SeqCst); // also after a panic of a writer
    let written: Vec<u64> = written
        .into_iter()
        .map(|written| written.unwrap())
        .collect();
    let mut sum = Counts::default();
    for counts in others.into_iter().map(|other| other.join().unwrap()) {
        sum.read += counts.read;
        sum.ended += counts.ended;
        sum.purges += counts.purges;
    }
    wal.drive().unwrap();
    let told = acknowledged[1].load(SeqCst);
    assert_eq!(told, written[1], "each callback came once");
    (written, sum)
}

/// The segments that there are.
fn segments(disk: &dyn Disk, dir: &Path) -> RangeInclusive<u64> {
    let names = disk.list(dir).unwrap();
    let numbers = names
        .iter()
        .filter_map(|name| u64::from_str_radix(name.strip_suffix(".wal")?, 16).ok());
    let numbers: Vec<u64> = numbers.collect();
    numbers[0]..=*numbers.last().unwrap()
}

fn assert_much_happened(counts: &Counts, segments: &RangeInclusive<u64>) {
    println!("{counts:?}, segments {segments:?} are left");
    assert!(*segments.end() > 20, "{segments:?}");
    assert!(*segments.start() > 3, "{segments:?}");
    assert!(counts.read > 1000 && counts.purges > 10, "{counts:?}");
}

/// The log holds so many batches of each writer.
fn assert_held(wal: &Wal, written: &[u64]) {
    for (number, &written) in (1..).zip(written) {
        Writer::assert_held(number, wal, written..=written);
    }
}

#[test]
fn many_threads_write_read_and_purge_a_real_directory_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::create(dir.path(), small()).unwrap();
    let (written, counts) = run(&wal, |_| true);
    assert_held(&wal, &written);
    assert_much_happened(&counts, &segments(&OsDisk, dir.path()));
    wal.close().unwrap();
    let wal = Wal::open(dir.path(), small()).unwrap();
    assert_eq!(wal.recovery().cut, None);
    assert_eq!(wal.recovery().damaged, []);
    assert_held(&wal, &written);
}

/// Each writer's batches are there up to one of them, in all its groups; at least those that were acknowledged before.
#[test]
fn a_power_cut_while_many_threads_write_leaves_what_was_acknowledged() {
    let disk = SimDisk::new();
    let wal = create(&disk, &small()).unwrap();
    let mut cuts = 0;
    let (written, counts) = run(&wal, |acknowledged| {
        let before: Vec<u64> = acknowledged.iter().map(|one| one.load(SeqCst)).collect();
        if before.iter().sum::<u64>() < cuts * 200 {
            thread::sleep(Duration::from_micros(100));
            return false;
        }
        let after = disk.fork();
        match cuts % 4 {
            0 => after.kill(),
            _ => after.power_cut(cuts),
        }
        let wal = open(&after, &options(1 << 16)).unwrap();
        assert_eq!(wal.recovery().damaged, []);
        for (number, acknowledged) in (1..).zip(before) {
            Writer::assert_held(number, &wal, acknowledged..=u64::MAX);
        }
        cuts += 1;
        cuts == POWER_CUTS
    });
    assert_much_happened(&counts, &segments(&disk, DIR.as_ref()));
    println!("{written:?} batches written");
    disk.power_cut(0);
    drop(wal);
    assert_held(&open(&disk, &small()).unwrap(), &written);
}
