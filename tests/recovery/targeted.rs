//! The paper's targeted experiment: three nodes, four entries that all of them have, and every combination of damaged copies.

use std::collections::BTreeSet;

use duramen::wal::LogId;

use super::cases::{is_proof, try_all};
use super::cluster::{Base, Cluster, NODES, Shape, nodes};
use super::damage::flip_payload;

const ENTRIES: u64 = 4;
const CASES: u64 = 1 << (NODES * ENTRIES);

fn four_entries() -> Base {
    let shape = Shape {
        writes: ENTRIES,
        value_bytes: 200,
        snapshot_bytes: 1 << 30, // No snapshot stands for them.
        keep_bytes: 1 << 30,
    };
    let base = Cluster::new(1, shape).stop();
    // The first entry of all is the membership.
    assert_eq!(base.committed.len() as u64, 1 + ENTRIES);
    base
}

/// Whether a node's copy of an entry is damaged in a case.
fn is_damaged(case: u64, node: u64, entry: u64) -> bool {
    case >> (node * ENTRIES + entry) & 1 == 1
}

/// Where every entry has a whole copy somewhere, 7^4 cases, the cluster serves, and all copies are whole again. In the other
/// cases it names the entries that nobody has.
#[test]
fn every_combination_of_damaged_copies_of_four_entries() {
    let base = four_entries();
    let step = if is_proof() { 1 } else { 37 };
    let numbers = || (0..CASES).step_by(step);
    let sum = try_all("damaged copies", numbers(), |case| {
        let base = base.fork();
        let mut damaged = 0;
        for (node, id) in (0..).zip(nodes()) {
            for (entry, log_id) in (0..).zip(&base.committed[1..]) {
                if is_damaged(case, node, entry) {
                    flip_payload(base.disk(id), *log_id);
                    damaged += 1;
                }
            }
        }
        let entries = base.committed[1..].to_vec();
        let outcome = base.start(case);
        assert_eq!(outcome.bad, damaged, "each is noticed");
        let is_somewhere = |entry: u64| (0..NODES).any(|node| !is_damaged(case, node, entry));
        let nowhere = (0..ENTRIES).filter(|entry| !is_somewhere(*entry));
        let nowhere: BTreeSet<LogId> = nowhere.map(|entry| entries[entry as usize]).collect();
        assert_eq!(outcome.is_served, nowhere.is_empty());
        assert_eq!(outcome.named, nowhere, "these alone are waited for");
        outcome
    });
    if is_proof() {
        assert_eq!((sum.served, sum.unavailable), (2401, 1695));
    }
    assert_eq!(sum.cases, numbers().count() as u64);
    assert!(sum.served > 0 && sum.unavailable > 0 && sum.refused == 0);
}
