//! Whatever happens to the bytes of a small store: each snapshot reads back as it was written, or what is damaged is named.
//! Opening does no harm: with the right bytes back, all is well again.
//!
//! `DURAMEN_EVERY_BIT=1` takes all bits, where otherwise it is one in a few.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use duramen_disk::{Disk, SimDisk};
use duramen_snapshot::{Error, SnapshotStore};
use support::*;

/// Three snapshots that share chunks, one that is dropped and of which they need some, and an install of a fourth.
struct Golden {
    disk: SimDisk,
    states: States,
    peer: SnapshotStore,
    files: Vec<PathBuf>,
    /// What the install lacks.
    missing: usize,
}

const ARRIVING: u64 = 50;

fn golden() -> Golden {
    let first = noise(1, 1200);
    let second = edited(&first, 900, 100, 2);
    let third = edited(&second, 100, 100, 3);
    let states = States::from([
        (10, first.clone()),
        (20, second),
        (30, third),
        (40, first),
        (ARRIVING, noise(5, 1500)),
    ]);
    let (disk, peer) = (SimDisk::new(), peer(&states));
    let store = open(&disk).unwrap();
    for index in [10, 20, 30, 40] {
        write(&store, index, &states[&index]).unwrap();
    }
    store.drop_older(3).unwrap();
    let mut install = store.begin_install(manifest(&peer, ARRIVING)).unwrap();
    let missing = install.missing();
    for name in &missing[1..] {
        install
            .put(*name, &peer.read_chunk(*name).unwrap())
            .unwrap();
    }
    drop((install, store));
    let files: Vec<PathBuf> = names(&disk).iter().map(|name| path(name)).collect();
    for file in &files {
        disk.open(file).unwrap().sync_data().unwrap();
    }
    disk.power_cut(0);
    let kinds = files.iter().map(|file| file.extension().unwrap());
    let kinds: BTreeSet<_> = kinds.collect();
    assert_eq!(kinds.len(), 3, "{files:?}");
    Golden {
        disk,
        states,
        peer,
        files,
        missing: 1,
    }
}

impl Golden {
    /// Opens a damaged store, and looks at all there is. Whether anything was said to be damaged.
    fn look(&self, disk: &SimDisk) -> bool {
        let store = open(disk).unwrap();
        let mut told = !store.report().damaged.is_empty();
        let mut lost = BTreeSet::from([20, 30, 40]);
        for snapshot in store.list() {
            let index = snapshot.manifest.meta().last_index;
            assert!(lost.remove(&index), "{index} was dropped");
            match read(&store, snapshot.id) {
                Ok(state) => assert!(state == self.states[&index], "other bytes in {index}"),
                Err(Error::DamagedChunk { name, .. } | Error::MissingChunk { name, .. }) => {
                    let mut chunks = snapshot.manifest.chunks().iter();
                    assert!(chunks.any(|chunk| chunk.name == name));
                    let report = store.verify(|_| {}).unwrap();
                    let bad = report.bad_chunks.iter().find(|bad| bad.name == name);
                    assert!(bad.unwrap().snapshots.contains(&snapshot.id));
                    told = true;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(lost.is_empty() || !store.report().damaged.is_empty());
        told || !store.verify(|_| {}).unwrap().is_clean()
    }

    /// All that was there is there, but for what has arrived, if `arrived` is false.
    fn is_well(&self, disk: &SimDisk, arrived: bool) {
        let store = open(disk).unwrap();
        assert_eq!(store.report().damaged, []);
        assert_eq!(indexes(&store), [20, 30, 40]);
        all_read_back(&store, &self.states);
        if arrived {
            let installs = store.installs();
            assert_eq!(store.missing(&installs[0]).len(), self.missing);
        }
    }

    /// All that is damaged comes from a peer.
    fn repair(&self, disk: &SimDisk) {
        let store = open(disk).unwrap();
        let report = store.verify(|_| {}).unwrap();
        for bad in &report.bad_chunks {
            let bytes = self.peer.read_chunk(bad.name).unwrap();
            store.repair_chunk(bad.name, &bytes).unwrap();
        }
        let report = store.verify(|_| {}).unwrap();
        assert_eq!(report.bad_chunks, []);
        for snapshot in store.list() {
            let index = snapshot.manifest.meta().last_index;
            assert!(read(&store, snapshot.id).unwrap() == self.states[&index]);
        }
        drop(store);
        disk.power_cut(0);
        let store = open(disk).unwrap();
        assert_eq!(store.verify(|_| {}).unwrap().bad_chunks, []);
        store.drop_older(1).unwrap();
    }
}

fn is_install(file: &Path) -> bool {
    file.extension().unwrap() == "install"
}

#[test]
fn every_bit_of_every_file() {
    let golden = golden();
    let stride = match std::env::var_os("DURAMEN_EVERY_BIT") {
        Some(_) => 1,
        None => 5,
    };
    let (mut told, mut untold) = (0, 0);
    for file in &golden.files {
        let bits = 8 * bytes_of(&golden.disk, file).len();
        for bit in (0..bits).step_by(stride) {
            let (at, bit) = (bit as u64 / 8, bit as u8 % 8);
            let disk = golden.disk.fork();
            disk.flip_bit(file, at, bit).unwrap();
            match golden.look(&disk) {
                true => told += 1,
                false => untold += 1,
            }
            disk.power_cut(0);
            let fork = disk.fork();
            if let Ok(()) = disk.flip_bit_of(file, at, bit) {
                golden.is_well(&disk, true);
            } else {
                assert!(is_install(file), "{} is gone", file.display());
                golden.is_well(&disk, false);
            }
            if (at + u64::from(bit)).is_multiple_of(13) {
                golden.repair(&fork);
            }
        }
    }
    println!(
        "{told} bits were told of, {untold} not\nproof: snapshot_bits {}",
        told + untold
    );
    // Of what is in no snapshot, which is not looked at: dead chunks, what has arrived, padding, second copies.
    assert!(told > untold, "{told} {untold}");
}

trait Restore {
    fn flip_bit_of(&self, file: &Path, at: u64, bit: u8) -> std::io::Result<()>;
}

impl Restore for SimDisk {
    /// As `flip_bit`, where the file is there.
    fn flip_bit_of(&self, file: &Path, at: u64, bit: u8) -> std::io::Result<()> {
        self.open(file)?;
        self.flip_bit(file, at, bit)
    }
}

#[test]
fn every_length_of_every_file() {
    let golden = golden();
    for file in &golden.files {
        let bytes = bytes_of(&golden.disk, file);
        for len in 0..bytes.len() {
            let disk = golden.disk.fork();
            cut_to(&disk, file, len as u64);
            golden.look(&disk);
            disk.power_cut(0);
            if len % 37 == 0 {
                golden.repair(&disk.fork());
            }
            if disk.open(file).is_err() {
                assert!(is_install(file), "{} is gone", file.display());
                golden.is_well(&disk, false);
                continue;
            }
            let opened = disk.open(file).unwrap();
            opened.write_all_at(&bytes, 0).unwrap();
            opened.sync_data().unwrap();
            golden.is_well(&disk, true);
        }
    }
}

fn cut_to(disk: &SimDisk, file: &Path, len: u64) {
    let opened = disk.open(file).unwrap();
    opened.set_len(len).unwrap();
    opened.sync_data().unwrap();
}

#[test]
fn every_sector_that_cannot_be_read() {
    let golden = golden();
    let mut told = 0;
    for file in &golden.files {
        let len = bytes_of(&golden.disk, file).len() as u64;
        for at in (0..len).step_by(512) {
            let disk = golden.disk.fork();
            disk.make_bad(file, at..at + 512).unwrap();
            told += u64::from(golden.look(&disk));
            disk.power_cut(0);
            golden.repair(&disk.fork());
            let store = open(&disk).unwrap();
            let mut install = store
                .begin_install(manifest(&golden.peer, ARRIVING))
                .unwrap();
            fetch(&mut install, &golden.peer).unwrap();
            install.publish().unwrap();
            let arrived = id_of(&store, ARRIVING);
            assert!(read(&store, arrived).unwrap() == golden.states[&ARRIVING]);
        }
    }
    assert!(told > 3, "{told}");
}

/// Writes three snapshots, of which the third shares much. The last one that was acknowledged.
fn life(disk: &SimDisk, states: &States) {
    let store = open(disk).unwrap();
    for index in [20, 30, 40] {
        write(&store, index, &states[&index]).unwrap();
    }
}

#[test]
fn writes_that_are_lost_or_go_astray_are_told() {
    let golden = golden();
    let mut told = 0;
    for write in 0..4 {
        for detour in [None, Some(-1024), Some(-512), Some(512), Some(1024)] {
            for other in [None, Some(path("0000000000000000.snap"))] {
                let disk = SimDisk::new();
                match detour {
                    None => disk.lose_write(write),
                    Some(bytes) => disk.misdirect_write(write, other.as_deref(), bytes),
                }
                life(&disk, &golden.states);
                disk.power_cut(0);
                told += u64::from(golden.look(&disk));
                disk.power_cut(0);
                golden.repair(&disk);
            }
        }
    }
    println!("{told} were told");
    assert!(told >= 20, "{told}");
}

#[test]
fn a_stale_sector_is_told() {
    let golden = golden();
    for file in &golden.files {
        let len = bytes_of(&golden.disk, file).len() as u64;
        for at in (0..len).step_by(512) {
            let disk = golden.disk.fork();
            disk.make_stale(file, at..at + 512).unwrap();
            let told = golden.look(&disk);
            assert!(told || file.extension().unwrap() != "snap", "{at}");
        }
    }
}
