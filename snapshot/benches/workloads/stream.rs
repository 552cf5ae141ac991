//! A state that nothing of is there goes in, and is read back.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use duramen_snapshot::{ChunkName, Meta, Options, SnapshotStore};
use fastcdc::v2020::{FastCDC, Normalization};

use crate::harness::{Figure, Round, Row, Setup, Workload, gigabytes_per_second, timed};
use crate::state::{PIECE_BYTES, RECORD_BYTES, State, options};

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        rows: &[
            Row::rate(
                "cut",
                "GB/s",
                "cutting alone; the floor: BLAKE3 of chunk-sized pieces",
            ),
            Row::rate(
                "pwrite",
                "GB/s",
                "pwrite into the page cache; the same floor",
            ),
            Row::rate(
                "write",
                "GB/s",
                "stream in, without the sync; the same floor",
            ),
            Row::rate("small", "GB/s", "the same in writes of 256 bytes"),
            Row::rate("ahead", "GB/s", "the same with hash_ahead"),
            Row::rate(
                "in",
                "GB/s",
                "stream in and publish; the floor: pwrite and fdatasync",
            ),
        ],
        rounds: 3,
        prepare: stream_in,
    },
    Workload {
        rows: &[
            Row::rate(
                "out",
                "GB/s",
                "read back from the page cache; the floor: pread",
            ),
            Row::rate(
                "outhash",
                "GB/s",
                "the same; the floor: BLAKE3 of chunk-sized pieces",
            ),
        ],
        rounds: 5,
        prepare: read_back,
    },
];

fn stream_in(setup: &Setup) -> Round {
    let state: Rc<[u8]> = State::new(setup.state_bytes).in_memory().into();
    let (dir, chunk_bytes) = (setup.dir.clone(), setup.chunk_bytes);
    Box::new(move || {
        let floor = hash(&state, chunk_bytes);
        let run = |piece_bytes, ahead| {
            let mut options = options(chunk_bytes);
            options.hash_ahead = ahead;
            write(&dir, &state, piece_bytes, options)
        };
        let (cached, synced) = pwrite(&dir, &state);
        let (whole, published) = run(PIECE_BYTES, false);
        let small = run(RECORD_BYTES, false).0;
        let ahead = run(PIECE_BYTES, true).0;
        let beside_hash = [cut(&state, chunk_bytes), cached, whole, small, ahead];
        let figures = beside_hash.map(|store| Figure { floor, store });
        let beside_disk = Figure {
            floor: synced,
            store: published,
        };
        figures.into_iter().chain([beside_disk]).collect()
    })
}

fn hash(state: &[u8], chunk_bytes: u32) -> f64 {
    let ((), time) = timed(|| {
        for chunk in state.chunks(chunk_bytes as usize) {
            black_box(ChunkName::of(chunk));
        }
    });
    gigabytes_per_second(state.len() as u64, time)
}

/// As the store cuts.
fn cut(state: &[u8], chunk_bytes: u32) -> f64 {
    let average = chunk_bytes as usize;
    let level = Normalization::Level2;
    let cutter = FastCDC::with_level(state, average / 4 * 3, average, average * 4, level);
    let (chunks, time) = timed(|| cutter.count());
    assert!(chunks > state.len() / average / 4);
    gigabytes_per_second(state.len() as u64, time)
}

/// Without and with the sync.
fn pwrite(dir: &Path, state: &[u8]) -> (f64, f64) {
    let path = dir.join("floor");
    let file = File::create_new(&path).expect("a new file");
    let ((), write) = timed(|| {
        for (piece, n) in state.chunks(PIECE_BYTES).zip(0..) {
            let at = n * PIECE_BYTES as u64;
            file.write_all_at(piece, at).expect("a write");
        }
    });
    let ((), sync) = timed(|| file.sync_data().expect("a sync"));
    std::fs::remove_file(&path).expect("it is there");
    let speed = |time| gigabytes_per_second(state.len() as u64, time);
    (speed(write), speed(write + sync))
}

/// Without and with the publish.
fn write(dir: &Path, state: &[u8], piece_bytes: usize, options: Options) -> (f64, f64) {
    let dir = tempfile::tempdir_in(dir).expect("a directory for the store");
    let store = SnapshotStore::open(dir.path(), options).expect("a store");
    let mut writer = store.begin(Meta::new(1, 1)).expect("a snapshot");
    let ((), write) = timed(|| {
        for piece in state.chunks(piece_bytes) {
            writer.write_all(piece).expect("a write");
        }
    });
    let (published, publish) = timed(|| writer.publish().expect("a snapshot"));
    let bytes = state.len() as u64;
    assert_eq!(published.counts.bytes_written, bytes, "nothing is shared");
    let speed = |time| gigabytes_per_second(bytes, time);
    (speed(write), speed(write + publish))
}

fn read_back(setup: &Setup) -> Round {
    let state: Rc<[u8]> = State::new(setup.state_bytes).in_memory().into();
    let store = SnapshotStore::open(setup.dir.join("store"), options(setup.chunk_bytes));
    let store = store.expect("a store");
    let published = State::new(setup.state_bytes).publish(&store);
    let chunk_bytes = setup.chunk_bytes;
    let file = std::fs::read_dir(setup.dir.join("store")).expect("a directory");
    let paths = file.map(|file| file.expect("a directory's entry").path());
    let path = paths.max_by_key(|path| path.metadata().map_or(0, |data| data.len()));
    let file = File::open(path.expect("the snapshot's file")).expect("a file");
    let mut buf = vec![0; PIECE_BYTES];
    Box::new(move || {
        let bytes = state.len() as u64;
        let hash = hash(&state, chunk_bytes);
        let pread = timed(|| {
            for at in (0..bytes).step_by(PIECE_BYTES) {
                file.read_exact_at(&mut buf, at).expect("a read");
            }
        });
        let mut reader = store.reader(published.id).expect("the snapshot");
        let (read, time) = timed(|| {
            let mut read = 0;
            loop {
                match reader.read(&mut buf).expect("a read") {
                    0 => return read,
                    len => read += len as u64,
                }
            }
        });
        assert_eq!(read, bytes);
        let out = gigabytes_per_second(bytes, time);
        let floors = [gigabytes_per_second(bytes, pread.1), hash];
        floors.map(|floor| Figure { floor, store: out }).into()
    })
}
