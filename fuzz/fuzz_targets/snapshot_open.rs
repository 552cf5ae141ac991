//! Any bytes in a store's files: `open` gives a store or a typed error, in bounded memory, without a panic; and a store that
//! it gives can be read, verified, written and opened again. What is read has the names that the manifest says.
//!
//! The input spoils a store that was right: a list of places, each with what is written there. Checksums and hashes are put
//! right afterwards if the input says so, else hardly anything would get behind them.
#![no_main]

use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use duramen_disk::{Disk, LOCK_FILE, SimDisk};
use duramen_snapshot::{ChunkName, Meta, Options, Published, Snapshot, SnapshotStore};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Spoil {
    file: u8,
    offset: u16,
    how: How,
}

#[derive(Debug, Arbitrary)]
enum How {
    Bytes(Vec<u8>),
    Copy { from: u16, len: u8 },
    Cut,
    Flip { bit: u8 },
}

#[derive(Debug, Arbitrary)]
struct Input {
    spoils: Vec<Spoil>,
    is_sealed: bool,
    keep: u8,
}

const DIR: &str = "/store";

fn options() -> Options {
    let mut options = Options::default();
    options.chunk_bytes = 256;
    options
}

fn open(disk: &SimDisk) -> duramen_snapshot::Result<SnapshotStore> {
    SnapshotStore::open_on(Arc::new(disk.clone()), DIR, options())
}

/// A state of some chunks, of which each `salt` changes some.
fn state(salt: u8) -> Vec<u8> {
    let mut word = 1_u64;
    let bytes = (0..6000).map(|n: u32| {
        let salt = if n % 2000 < 300 { u64::from(salt) } else { 0 };
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((word >> 33) ^ salt) as u8
    });
    bytes.collect()
}

fn write(store: &SnapshotStore, salt: u8) -> duramen_snapshot::Result<Published> {
    let mut writer = store.begin(Meta::new(1, salt.into()))?;
    writer.write_all(&state(salt)).expect("room");
    writer.publish()
}

/// Two snapshots, chunks of a dropped one, and half an install.
static STORE: LazyLock<SimDisk> = LazyLock::new(|| {
    let disk = SimDisk::new();
    let (peer, store) = (SimDisk::new(), open(&disk).expect("a store"));
    for salt in 1..=3 {
        write(&store, salt).expect("a snapshot");
    }
    store.drop_older(2).expect("a drop");
    let peer = open(&peer).expect("a store");
    let manifest = write(&peer, 9).expect("a snapshot").manifest;
    let mut install = store.begin_install(manifest).expect("an install");
    for name in install.missing().into_iter().step_by(2) {
        let bytes = peer.read_chunk(name).expect("a chunk");
        install.put(name, &bytes).expect("a chunk that is wanted");
    }
    drop((install, store));
    disk
});

fn spoil(disk: &SimDisk, names: &[String], spoil: Spoil) {
    let path = Path::new(DIR).join(&names[usize::from(spoil.file) % names.len()]);
    let file = disk.open(&path).expect("a file");
    let offset = u64::from(spoil.offset);
    match spoil.how {
        How::Bytes(bytes) => file.write_all_at(&bytes, offset).expect("a write"),
        How::Cut => file.set_len(offset).expect("a cut"),
        How::Copy { from, len } => {
            let mut bytes = vec![0; usize::from(len)];
            if file.read_exact_at(&mut bytes, u64::from(from)).is_ok() {
                file.write_all_at(&bytes, offset).expect("a write");
            }
        }
        How::Flip { bit } => {
            let mut byte = [0];
            if file.read_exact_at(&mut byte, offset).is_ok() {
                byte[0] ^= 1 << (bit % 8);
                file.write_all_at(&byte, offset).expect("a write");
            }
        }
    }
}

fn read_file(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open_read(&Path::new(DIR).join(name)).expect("a file");
    let mut bytes = vec![0; file.len().expect("a length") as usize];
    file.read_exact_at(&mut bytes, 0).expect("bytes");
    bytes
}

/// Puts right all checksums, and the hashes of manifests, but not the names of chunks.
fn seal(bytes: &mut [u8]) {
    for at in (0..bytes.len().saturating_sub(64)).step_by(8) {
        match &bytes[at..at + 8] {
            b"DURASNAP" => checksum(bytes, at, 60),
            b"DURAMANI" => {
                let len = number(bytes, at + 8);
                if let Some(manifest) = bytes[at + 56..].get(..len) {
                    let hash = ChunkName::of(manifest);
                    bytes[at + 16..at + 48].copy_from_slice(hash.as_bytes());
                }
                checksum(bytes, at, 48);
            }
            [b'D', b'C', b'H', b'K', ..] => checksum(bytes, at, 40),
            _ => {}
        }
    }
    let Some(tail) = bytes.len().checked_sub(64) else {
        return;
    };
    if &bytes[tail..tail + 8] != b"DURATAIL" {
        return;
    }
    let table = bytes.get(number(bytes, tail + 8)..tail);
    let sum = crc32fast::hash(table.unwrap_or(&[]));
    bytes[tail + 48..tail + 52].copy_from_slice(&sum.to_le_bytes());
    checksum(bytes, tail, 60);
}

fn number(bytes: &[u8], at: usize) -> usize {
    let number = bytes[at..at + 8].try_into().expect("eight bytes");
    u64::from_le_bytes(number) as usize
}

fn checksum(bytes: &mut [u8], at: usize, len: usize) {
    let sum = crc32fast::hash(&bytes[at..at + len]);
    bytes[at + len..at + len + 4].copy_from_slice(&sum.to_le_bytes());
}

/// Everything that reads: gives what has the name that is told, or a typed error.
fn read_all(store: &SnapshotStore) {
    for Snapshot { id, manifest, .. } in store.list() {
        for chunk in manifest.chunks() {
            if let Ok(bytes) = store.read_chunk(chunk.name) {
                assert!(ChunkName::of(&bytes) == chunk.name);
            }
        }
        let mut bytes = Vec::new();
        let mut reader = store.reader(id).expect("it is listed");
        if reader.read_to_end(&mut bytes).is_ok() {
            assert_eq!(bytes.len() as u64, manifest.bytes());
            let mut rest = &bytes[..];
            for chunk in manifest.chunks() {
                let (bytes, others) = rest.split_at(chunk.bytes as usize);
                assert!(ChunkName::of(bytes) == chunk.name);
                rest = others;
            }
        }
    }
    let report = store.verify(|_| {}).expect("a length");
    for bad in report.bad_chunks {
        assert!(store.read_chunk(bad.name).is_err(), "{} is whole", bad.name);
    }
}

fuzz_target!(|input: Input| {
    let disk = STORE.fork();
    let mut names = disk.list(Path::new(DIR)).expect("a directory");
    names.retain(|name| name != LOCK_FILE);
    for each in input.spoils {
        spoil(&disk, &names, each);
    }
    if input.is_sealed {
        for name in &names {
            let mut bytes = read_file(&disk, name);
            seal(&mut bytes);
            let file = disk.open(&Path::new(DIR).join(name)).expect("a file");
            file.write_all_at(&bytes, 0).expect("a write");
        }
    }
    let looked = SnapshotStore::open_read(Arc::new(disk.clone()), DIR, options());
    if let Ok(store) = &looked {
        read_all(store);
    }
    let is_ok = looked.is_ok();
    drop(looked);
    for round in 0..2 {
        let store = match open(&disk) {
            Ok(store) => store,
            Err(error) => return assert!(!is_ok, "it could be read: {error}"),
        };
        read_all(&store);
        for manifest in store.installs() {
            let _ = store
                .begin_install(manifest)
                .expect("it is there")
                .publish();
        }
        write(&store, 20 + round).expect("a store that opens can be written");
        store
            .drop_older(usize::from(input.keep % 4))
            .expect("a drop");
        read_all(&store);
    }
});
