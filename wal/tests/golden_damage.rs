//! Every bit and every length of each file of the golden logs. All in them was acknowledged but for a torn end, so there are
//! three answers: everything is there (from a copy of what was hit), an error that names the file, or the entry that was hit
//! is named. Never an older vote, a shorter log, other bytes, a panic; and an error changes nothing on the disk.
//!
//! Some of them; all with `DURAMEN_EVERY_BIT=1`, which takes minutes if it is not optimized.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use duramen_disk::{Disk, SimDisk};
use duramen_wal::{Error, GroupId};
use support::golden::*;
use support::*;

/// How often each answer was given.
#[derive(Debug, Default)]
struct Counts {
    tried: u64,
    /// Everything is there.
    all: u64,
    /// It is not opened.
    errors: u64,
    /// An entry is named when it is read.
    named: u64,
    /// What follows the last frame was cut off, and nothing else.
    cut: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.tried += other.tried;
        self.all += other.all;
        self.errors += other.errors;
        self.named += other.named;
        self.cut += other.cut;
    }
}

struct Golden {
    disk: SimDisk,
    files: BTreeMap<PathBuf, Vec<u8>>,
    given: BTreeMap<GroupId, Given>,
}

impl Golden {
    fn new(name: &str) -> Golden {
        let disk = golden_disk(name);
        let wal = open(&disk.fork(), &keeping()).unwrap();
        Golden {
            files: files(&disk, DIR.as_ref()),
            given: given(&wal).unwrap(),
            disk,
        }
    }

    /// All bytes of all files.
    fn bytes(&self) -> u64 {
        self.files.values().map(|bytes| bytes.len() as u64).sum()
    }

    /// The file in which the n-th byte of all is, and where.
    fn place(&self, n: u64) -> (&Path, usize) {
        let mut at = n as usize;
        for (path, bytes) in &self.files {
            match at < bytes.len() {
                true => return (path, at),
                false => at -= bytes.len(),
            }
        }
        panic!("{n} is past the end");
    }

    /// Opens the log on a disk on which a file was spoiled.
    fn try_it(&self, spoiled: &SimDisk, path: &Path, n: u64, counts: &mut Counts) {
        counts.tried += 1;
        let is_looked_at = n.is_multiple_of(101);
        let before = is_looked_at.then(|| files(spoiled, DIR.as_ref()));
        let wal = match open(spoiled, &keeping()) {
            Ok(wal) => wal,
            Err(
                Error::Damaged { path: named, .. } | Error::DamagedDirectory { path: named, .. },
            ) => {
                assert_eq!(named, path);
                if let Some(before) = before {
                    assert_eq!(files(spoiled, DIR.as_ref()), before);
                }
                counts.errors += 1;
                return;
            }
            Err(other) => panic!("{other}"),
        };
        counts.cut += u64::from(wal.recovery().cut.is_some());
        match self.named(&given(&wal).unwrap()) {
            0 => counts.all += 1,
            _ => counts.named += 1,
        }
    }

    /// How many entries are given as damaged that are not. All else is as it was.
    fn named(&self, found: &BTreeMap<GroupId, Given>) -> usize {
        let groups: Vec<&GroupId> = self.given.keys().collect();
        assert_eq!(found.keys().collect::<Vec<_>>(), groups);
        let mut named = 0;
        for (id, expected) in &self.given {
            let mut found = found[id].clone();
            for (index, read) in &expected.entries {
                let now = found.entries.get_mut(index).unwrap();
                if let (_, Err(Bad::Damaged | Bad::NoDirectory)) = now
                    && now != read
                {
                    assert_eq!(now.0, read.0, "term of {index} of group {id}");
                    named += 1;
                    *now = read.clone();
                }
            }
            assert_eq!(found, *expected, "group {id}");
        }
        named
    }
}

fn is_full() -> bool {
    std::env::var_os("DURAMEN_EVERY_BIT").is_some()
}

/// Tries each `step`-th of so many, if not all, on two threads.
fn each(count: u64, step: u64, try_one: impl Fn(u64, &mut Counts) + Sync) -> Counts {
    let step = if is_full() { 1 } else { step };
    let threads = 2;
    let some = |thread: u64| {
        let mut counts = Counts::default();
        let first = thread * step + step / 3;
        for n in (first..count).step_by((threads * step) as usize) {
            try_one(n, &mut counts);
        }
        counts
    };
    let mut all = Counts::default();
    std::thread::scope(|scope| {
        let some = &some;
        let threads = [0, 1].map(|thread| scope.spawn(move || some(thread)));
        for thread in threads {
            all += thread.join().unwrap();
        }
    });
    // None was left out.
    assert!(all.tried >= count / step - 1, "{all:?} of {count}");
    assert_eq!(all.tried, all.all + all.errors + all.named);
    all
}

fn every_bit(name: &str) -> Counts {
    let golden = Golden::new(name);
    let counts = each(8 * golden.bytes(), 17, |n, counts| {
        let (path, byte) = golden.place(n / 8);
        let _replay = Replay(|| format!("bit {} of byte {byte} of {}", n % 8, path.display()));
        let spoiled = golden.disk.fork();
        spoil(&spoiled, path, byte, |bytes| bytes[0] ^= 1 << (n % 8), 1);
        golden.try_it(&spoiled, path, n, counts);
    });
    println!(
        "{name}: {counts:?}\nproof: golden_bits/{name} {}",
        counts.tried
    );
    counts
}

fn every_length(name: &str) -> Counts {
    let golden = Golden::new(name);
    let counts = each(golden.bytes(), 13, |n, counts| {
        let (path, len) = golden.place(n);
        let _replay = Replay(|| format!("{} cut to {len} bytes", path.display()));
        let spoiled = golden.disk.fork();
        let file = spoiled.open(path).unwrap();
        file.set_len(len as u64).unwrap();
        file.sync_data().unwrap();
        golden.try_it(&spoiled, path, n, counts);
    });
    println!(
        "{name}: {counts:?}\nproof: golden_lengths/{name} {}",
        counts.tried
    );
    counts
}

/// A floor of all, or of the part that is tried otherwise.
fn floor(all: u64, step: u64) -> u64 {
    if is_full() { all } else { all / step }
}

#[test]
fn every_bit_of_a_golden_log_that_was_closed() {
    let counts = every_bit("closed");
    assert!(counts.tried >= floor(8 * (64 << 10), 17), "{counts:?}");
}

#[test]
fn every_bit_of_a_golden_log_whose_process_was_killed() {
    let counts = every_bit("killed");
    assert!(counts.tried >= floor(8 * (32 << 10), 17), "{counts:?}");
}

#[test]
fn every_length_of_a_golden_log_that_was_closed() {
    let counts = every_length("closed");
    assert!(counts.tried >= floor(64 << 10, 13), "{counts:?}");
    assert_eq!(counts.errors, counts.tried);
}

#[test]
fn every_length_of_a_golden_log_whose_process_was_killed() {
    let counts = every_length("killed");
    assert!(counts.tried >= floor(32 << 10, 13), "{counts:?}");
    assert_eq!(counts.errors, counts.tried);
}
