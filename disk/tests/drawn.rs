//! Drawn sequences of calls: the simulated disk against the real one, and against what a sync promises.

#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::io::{self, ErrorKind};
use std::path::Path;

use duramen_disk::{Disk, DiskFile, OsDisk, SimDisk};
use fastrand::Rng;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// One drawn call, done to a disk, and what it said.
fn call(disk: &dyn Disk, dir: &Path, rng: &mut Rng) -> Result<String, ErrorKind> {
    let mut name = || dir.join(NAMES[rng.usize(..NAMES.len())]);
    let (path, other) = (name(), name());
    let unit = |result: io::Result<()>| result.map(|()| String::new());
    let said = match rng.u8(..12) {
        0 => disk.create(&path).map(|_| String::new()),
        1 => unit(disk.remove(&path)),
        2 => unit(disk.rename(&path, &other)),
        3 => disk.list(dir).map(|names| names.join(" ")),
        4 => unit(disk.sync_dir(dir)),
        5 => disk.open_read(&path).and_then(|file| {
            let bytes = file.map()?;
            Ok(format!("{:?}", &bytes[..]))
        }),
        kind => disk.open(&path).and_then(|file| {
            let (at, n) = (rng.u64(..9000), rng.usize(..5000));
            match kind {
                6 => unit(file.set_len(at)),
                7 => unit(file.allocate(at)),
                8 => unit(file.punch_hole(at, n as u64)),
                9 => unit(file.sync_data()),
                10 => {
                    let mut bytes = vec![0; n];
                    let read = file.read_at(&mut bytes, at)?;
                    Ok(format!("{:?}", &bytes[..read]))
                }
                _ => unit(file.write_all_at(&vec![rng.u8(..); n], at)),
            }
        }),
    };
    said.map_err(|error| error.kind())
}

#[test]
fn a_simulated_disk_answers_as_the_real_one() {
    let mut fine = 0;
    for seed in 0..60 {
        let temporary = tempfile::tempdir().unwrap();
        let (real, simulated) = (OsDisk::new(), SimDisk::new());
        simulated.create_dir_all(Path::new("/dir")).unwrap();
        let [mut one, mut other] = [Rng::with_seed(seed), Rng::with_seed(seed)];
        for n in 0..60 {
            let expected = call(&real, temporary.path(), &mut one);
            let said = call(&simulated, Path::new("/dir"), &mut other);
            assert_eq!(said, expected, "seed {seed}, call {n}");
            fine += u32::from(said.is_ok());
        }
    }
    assert!(fine > 1000, "{fine}");
}

const SECTOR: usize = 512;
const PATH: &str = "/file";

/// What is known of each sector of a file: it is durable, or it was written since.
#[derive(Default)]
struct Known {
    durable: Vec<u8>,
    written: Vec<bool>,
    len_changed: bool,
}

impl Known {
    fn assert_allows(&self, left: &[u8], said: &str) {
        assert!(
            self.len_changed || left.len() == self.durable.len(),
            "{said}"
        );
        for (n, expected) in self.durable.chunks_exact(SECTOR).enumerate() {
            let at = n * SECTOR..(n + 1) * SECTOR;
            let written = self.written.get(n).is_some_and(|written| *written);
            if !written && left.len() >= at.end {
                assert_eq!(&left[at], expected, "{said}: sector {n}");
            }
        }
    }
}

#[test]
fn what_was_synced_and_not_written_since_survives_every_power_cut() {
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let disk = SimDisk::new();
        let file = disk.create(Path::new(PATH)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let mut known = Known::default();
        for n in 0..30 {
            change(&disk, &*file, &mut known, &mut rng);
            for cut in 0..3 {
                let after = disk.fork();
                match cut {
                    0 => drop(after.power_cut_keeping(|unit| seed >> (unit % 9) & 1 == 1)),
                    _ => after.power_cut(seed * 10 + cut),
                }
                let left = after.open(Path::new(PATH)).unwrap().map().unwrap();
                known.assert_allows(&left, &format!("seed {seed}, change {n}, cut {cut}"));
            }
        }
    }
}

fn change(disk: &SimDisk, file: &dyn DiskFile, known: &mut Known, rng: &mut Rng) {
    let (at, n) = (rng.usize(..9000), rng.usize(1..3000));
    let len = file.len().unwrap() as usize;
    let touched = match rng.u8(..6) {
        0 => {
            file.set_len(at as u64).unwrap();
            at.min(len)..at.max(len)
        }
        1 => {
            file.punch_hole(at as u64, n as u64).unwrap();
            at..at + n
        }
        2 | 3 => {
            file.sync_data().unwrap();
            assert_eq!(disk.unsynced_units(), 0);
            known.durable = file.map().unwrap().to_vec();
            known.written.clear();
            known.len_changed = false;
            return;
        }
        _ => {
            file.write_all_at(&vec![rng.u8(..); n], at as u64).unwrap();
            at.min(len)..at + n
        }
    };
    known.len_changed |= file.len().unwrap() as usize != len;
    let end = touched.end.div_ceil(SECTOR);
    known.written.resize(known.written.len().max(end), false);
    known.written[touched.start / SECTOR..end].fill(true);
}

/// A byte on which all that the file was since its last sync agree is never harmed, whatever is torn around it.
#[test]
fn a_byte_that_never_changed_survives_every_power_cut_and_every_length_was_possible() {
    let mut bytes_checked = 0;
    for seed in 0..400 {
        let mut rng = Rng::with_seed(seed);
        let disk = SimDisk::new();
        let file = disk.create(Path::new(PATH)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        // What the file was, as far as it went.
        let mut versions = vec![Vec::new()];
        for n in 0..20 {
            let (at, n_bytes, byte) = (rng.u64(..4000), rng.usize(1..1500), rng.u8(..3));
            match rng.u8(..8) {
                0 => file.set_len(at).unwrap(),
                1 => file.allocate(at).unwrap(),
                2 => file.punch_hole(at, n_bytes as u64).unwrap(),
                3 => {
                    file.sync_data().unwrap();
                    versions.clear();
                }
                _ => file.write_all_at(&vec![byte; n_bytes], at).unwrap(),
            }
            versions.push(file.map().unwrap().to_vec());
            for cut in 0..6 {
                let after = disk.fork();
                match cut {
                    0 => drop(after.power_cut_keeping(|unit| seed >> (unit % 9) & 1 == 1)),
                    _ => after.power_cut(rng.u64(..)),
                }
                let left = after.open(Path::new(PATH)).unwrap().map().unwrap();
                let said = format!("seed {seed}, change {n}, cut {cut}");
                let lens = versions.iter().map(Vec::len);
                let (min, max) = (lens.clone().min().unwrap(), lens.max().unwrap());
                assert!((min..=max).contains(&left.len()), "{said}");
                for (at, byte) in left.iter().enumerate() {
                    let mut was = versions.iter().map(|v| v.get(at).copied().unwrap_or(0));
                    let first = was.next().unwrap();
                    if was.all(|byte| byte == first) {
                        assert_eq!(*byte, first, "{said}: byte {at}");
                        bytes_checked += 1;
                    }
                }
            }
        }
    }
    assert!(bytes_checked > 10_000_000, "{bytes_checked}");
}
