//! Any schedule for a cluster of four cores: messages lost, doubled, reordered, crashes that leave some of what was written,
//! damaged entries, changes of the membership, snapshots. What figure 3 promises holds after every step, until a node is told
//! what nobody has said: from then on nothing is promised, but that no core panics.
#![no_main]

#[path = "raft_core/cluster.rs"]
mod cluster;
#[path = "raft_core/forged.rs"]
mod forged;
#[path = "raft_core/input.rs"]
mod input;
#[path = "raft_core/node.rs"]
mod node;

use std::sync::atomic::{AtomicU64, Ordering};

use cluster::Cluster;
use input::Input;
use libfuzzer_sys::fuzz_target;

/// What came up in all inputs, to know that it did.
static COUNTS: [(&str, AtomicU64); 16] = [
    ("inputs", AtomicU64::new(0)),
    ("leaders", AtomicU64::new(0)),
    ("committed", AtomicU64::new(0)),
    ("reads", AtomicU64::new(0)),
    ("changes", AtomicU64::new(0)),
    ("snapshots", AtomicU64::new(0)),
    ("installed", AtomicU64::new(0)),
    ("crashes", AtomicU64::new(0)),
    ("torn", AtomicU64::new(0)),
    ("damaged", AtomicU64::new(0)),
    ("repaired", AtomicU64::new(0)),
    ("dropped", AtomicU64::new(0)),
    ("refused", AtomicU64::new(0)),
    ("failed disks", AtomicU64::new(0)),
    ("lies", AtomicU64::new(0)),
    ("nonsense", AtomicU64::new(0)),
];

fn count(what: &str, by: u64) -> u64 {
    let (_, counter) = COUNTS
        .iter()
        .find(|(name, _)| *name == what)
        .expect("a name");
    counter.fetch_add(by, Ordering::Relaxed) + by
}

/// Says what came up after 128, 256, 512, .. inputs.
fn count_input() {
    let inputs = count("inputs", 1);
    if inputs >= 128 && inputs.is_power_of_two() {
        let counts = COUNTS
            .iter()
            .map(|(name, counter)| format!("{name} {}", counter.load(Ordering::Relaxed)));
        eprintln!("{}", counts.collect::<Vec<_>>().join(", "));
    }
}

fuzz_target!(|input: Input| {
    count_input();
    let mut cluster = Cluster::new(&input);
    for step in input.steps {
        cluster.step(step);
    }
    cluster.end();
});
