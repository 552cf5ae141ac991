//! The core alone: three nodes in memory, with disks that are done at once. What is left is what Raft itself costs.
//!
//! `cargo bench --bench raft_core` prints committed entries per second, for logs of a thousand and of a million entries: the two
//! must be about the same, and above a million. `cargo bench --bench raft_core -- --ratio` prints their ratio alone, and fails if
//! it is above 2: what is old has left the caches, but nothing is gone through.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use duramen::raft::{Config, Envelope, Raft, SnapshotFate};
use duramen_wal::types::{HardState, Index, NodeId};

const BATCH: u64 = 64;
const PAYLOAD_BYTES: usize = 16;
const SHORT: u64 = 1_000;
const LONG: u64 = 1_000_000;
/// How much of the log goes at once, when a snapshot was taken.
const COMPACT_ENTRIES: u64 = 1024;

/// Three nodes, of which one leads.
struct Cluster {
    nodes: Vec<Raft>,
    leader: usize,
    applied: [Index; 3],
    /// How long the logs are.
    keep: u64,
    under_way: Vec<Envelope>,
}

impl Cluster {
    fn new(keep: u64) -> Cluster {
        let ids = || (1..=3).map(NodeId);
        let nodes = ids().map(|id| {
            let config = Config::new(id, ids());
            Raft::new(config, HardState::default(), Vec::new())
        });
        let mut cluster = Cluster {
            nodes: nodes.collect(),
            leader: 0,
            applied: [Index(0); 3],
            keep,
            under_way: Vec::new(),
        };
        while !cluster.nodes[0].is_leader() {
            cluster.nodes[0].tick();
            cluster.settle();
        }
        while cluster.applied[0] < Index(keep) {
            cluster.commit_batch();
        }
        cluster
    }

    /// Proposes a batch at the leader, which has it committed and applied afterwards.
    fn commit_batch(&mut self) {
        for _ in 0..BATCH {
            let payload = Bytes::copy_from_slice(&[b'x'; PAYLOAD_BYTES]);
            self.nodes[self.leader].propose(payload).unwrap();
        }
        let last = self.nodes[self.leader].last().index;
        self.settle();
        assert_eq!(self.applied[self.leader], last);
        if last.0 % COMPACT_ENTRIES < BATCH {
            self.compact();
        }
    }

    fn settle(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.carry_out(node));
        while !self.under_way.is_empty() {
            for envelope in std::mem::take(&mut self.under_way) {
                let node = envelope.to.0 as usize - 1;
                let _ = self.nodes[node].step(envelope); // A second vote comes too late.
                self.carry_out(node);
            }
        }
    }

    fn carry_out(&mut self, node: usize) {
        let raft = &mut self.nodes[node];
        loop {
            let ready = raft.ready();
            if ready.is_empty() {
                return;
            }
            self.under_way.extend(ready.send_now);
            if let Some(write) = ready.write {
                raft.durable(write.id);
            }
            self.under_way.extend(ready.send_when_durable);
            if let Some(entry) = ready.committed.last() {
                self.applied[node] = entry.id.index;
            }
        }
    }

    fn compact(&mut self) {
        for (raft, applied) in self.nodes.iter_mut().zip(self.applied) {
            let taken = raft.snapshot_taken(applied, Bytes::new());
            assert_eq!(taken, SnapshotFate::Newest);
            raft.compact(Index(applied.0.saturating_sub(self.keep)));
        }
    }
}

fn replicate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replicate");
    group.throughput(Throughput::Elements(BATCH));
    for entries in [SHORT, LONG] {
        let mut cluster = Cluster::new(entries);
        group.bench_function(BenchmarkId::new("log of", entries), |bencher| {
            bencher.iter(|| cluster.commit_batch());
        });
    }
    group.finish();
}

/// The shortest of several runs each, in turn: so that what else the machine does counts little.
fn ratio() -> f64 {
    const BATCHES: u32 = 2_000;
    let mut clusters = [SHORT, LONG].map(Cluster::new);
    let mut shortest = [Duration::MAX; 2];
    for _ in 0..10 {
        for (cluster, shortest) in clusters.iter_mut().zip(&mut shortest) {
            let start = Instant::now();
            (0..BATCHES).for_each(|_| cluster.commit_batch());
            *shortest = start.elapsed().min(*shortest);
        }
    }
    let entries = f64::from(BATCHES) * BATCH as f64;
    for (length, shortest) in [SHORT, LONG].iter().zip(shortest) {
        let per_second = entries / shortest.as_secs_f64();
        println!("log of {length}: {per_second:.0} committed entries/s");
    }
    shortest[1].as_secs_f64() / shortest[0].as_secs_f64()
}

fn main() {
    if std::env::args().any(|arg| arg == "--ratio") {
        let ratio = ratio();
        println!("a log a thousand times longer costs {ratio:.2} times as much");
        assert!(ratio <= 2.0, "the cost follows the length of the log");
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    replicate(&mut criterion);
    criterion.final_summary();
}
