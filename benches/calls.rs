//! What single calls of the store cost: a request is parsed, a command is encoded and carried out.
//!
//! `cargo bench --bench store_calls`. For what the core costs see `core.rs`; the log and the snapshots have a `calls` of their own.
#![allow(missing_docs)] // of the function that criterion's macro makes
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use duramen::kv::{Command, Kv};
use duramen::node::StateMachine;
use duramen::server::RequestDecoder;

const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 256;
const REQUESTS: u64 = 16;

/// Requests as a client sends them in a pipeline.
fn requests() -> Vec<u8> {
    let value = "v".repeat(VALUE_BYTES);
    let set = |number| {
        let key = format!("key:{number:012}");
        let len = key.len();
        format!("*3\r\n$3\r\nSET\r\n${len}\r\n{key}\r\n${VALUE_BYTES}\r\n{value}\r\n")
    };
    (0..REQUESTS).map(set).collect::<String>().into_bytes()
}

fn parse(criterion: &mut Criterion) {
    let bytes = requests();
    let mut group = criterion.benchmark_group("resp");
    group.throughput(Throughput::Elements(REQUESTS));
    group.bench_function("parse 16 SET", |bencher| {
        bencher.iter_batched(
            || BytesMut::from(&bytes[..]),
            |mut bytes| {
                let mut decoder = RequestDecoder::default();
                while let Some(words) = decoder.decode(&mut bytes).unwrap() {
                    black_box(words);
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// As it stands in the log.
fn set(number: u64) -> Bytes {
    Command::set(format!("key:{number:012}"), vec![7; VALUE_BYTES]).encode()
}

fn apply(criterion: &mut Criterion) {
    let mut kv = Kv::default();
    (0..KEYS).for_each(|number| drop(kv.apply(&set(number))));
    let command = Command::set("key", Bytes::from(vec![7; VALUE_BYTES]));
    criterion.bench_function("encode a SET", |bencher| {
        bencher.iter(|| black_box(&command).clone().encode());
    });
    let commands: Vec<Bytes> = (0..1000).map(|at| set(at * 97 % KEYS)).collect();
    let mut next = commands.iter().cycle();
    let mut apply = |kv: &mut Kv| black_box(kv.apply(next.next().unwrap()));
    criterion.bench_function("apply a SET", |bencher| bencher.iter(|| apply(&mut kv)));
    // What a snapshot that is being taken shows: the first write to a part of the map copies it.
    criterion.bench_function("apply a SET beside a view", |bencher| {
        bencher.iter(|| {
            let view = kv.view().clone();
            apply(&mut kv);
            view
        });
    });
}

criterion_group!(calls, parse, apply);
criterion_main!(calls);
