//! What single calls cost the processor, without a disk in the way: the store is on a simulated one.
//!
//! `cargo bench -p duramen-snapshot --bench calls`. For what a snapshot costs beside the bare disk see `workloads`.

#![allow(missing_docs)] // of the function that criterion's macro makes

use std::hint::black_box;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use duramen_disk::SimDisk;
use duramen_snapshot::{ChunkName, Manifest, Meta, Options, Published, SnapshotStore};
use fastcdc::v2020::{FastCDC, Normalization};

const STATE_BYTES: usize = 16 << 20;
const READ_BYTES: usize = 4 << 10;

/// Bytes without a pattern: Knuth's MMIX generator, of which the upper bits are good.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let step = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..bytes).map(step).collect()
}

fn write(store: &SnapshotStore, state: &[u8]) -> Published {
    let mut writer = store.begin(Meta::new(1, 1)).expect("a snapshot");
    writer.write_all(state).expect("a write");
    writer.publish().expect("a snapshot")
}

fn new_store(state: &[u8]) -> (SnapshotStore, Published) {
    let store = SnapshotStore::open_on(Arc::new(SimDisk::new()), "/store", Options::default());
    let store = store.expect("a store");
    let published = write(&store, state);
    (store, published)
}

/// As the store cuts.
fn cut(bytes: &[u8], average: usize) -> usize {
    let level = Normalization::Level2;
    FastCDC::with_level(bytes, average / 4 * 3, average, average * 4, level).count()
}

/// Where chunks end, and the name of one.
fn chunk(criterion: &mut Criterion) {
    let state = noise(1 << 20);
    for kib in [4, 16, 64] {
        let average = kib << 10;
        criterion.bench_function(&format!("cut 1 MiB into {kib} KiB"), |bencher| {
            bencher.iter(|| cut(&state, average));
        });
        criterion.bench_function(&format!("name {kib} KiB"), |bencher| {
            bencher.iter(|| ChunkName::of(black_box(&state[..average])));
        });
    }
}

/// All chunks of a state are looked for, and found; the state is written again, and nothing is new.
fn look_up(criterion: &mut Criterion) {
    let state = noise(STATE_BYTES);
    let (store, published) = new_store(&state);
    let chunks = published.manifest.chunks().len();
    criterion.bench_function(&format!("look up {chunks} chunks"), |bencher| {
        bencher.iter(|| black_box(store.missing(&published.manifest)));
    });
    criterion.bench_function("write 16 MiB that are there", |bencher| {
        bencher.iter(|| {
            let mut writer = store.begin(Meta::new(1, 1)).expect("a snapshot");
            writer.write_all(&state).expect("a write");
            assert_eq!(writer.counts().bytes_written, 0);
        });
    });
}

fn manifest(criterion: &mut Criterion) {
    let (_, published) = new_store(&noise(STATE_BYTES));
    let chunks = published.manifest.chunks().len();
    criterion.bench_function(&format!("encode a manifest of {chunks}"), |bencher| {
        bencher.iter(|| black_box(published.manifest.encode()));
    });
    let encoded = published.manifest.encode();
    criterion.bench_function(&format!("decode a manifest of {chunks}"), |bencher| {
        bencher.iter(|| Manifest::decode(black_box(&encoded)).expect("a manifest"));
    });
}

/// A read at any place takes the chunk it lies in from the disk, and hashes it.
fn seek(criterion: &mut Criterion) {
    let (store, published) = new_store(&noise(STATE_BYTES));
    let mut reader = store.reader(published.id).expect("the snapshot");
    let (mut at, mut buf) = (0, [0; READ_BYTES]);
    criterion.bench_function("seek and read 4 KiB", |bencher| {
        bencher.iter(|| {
            at = (at + 7_654_321) % (STATE_BYTES - READ_BYTES) as u64;
            reader.seek(SeekFrom::Start(at)).expect("a place");
            reader.read_exact(&mut buf).expect("a read");
            black_box(&buf);
        });
    });
}

criterion_group!(calls, chunk, look_up, manifest, seek);
criterion_main!(calls);
