//! Some nodes lag behind, a deposed leader has entries that nobody else has, and copies are damaged.

use duramen::wal::Index;

use super::cases::{count, is_proof, try_all};
use super::cluster::{Base, Cluster, Shape};
use super::damage::{Part, Place, flip_in, parts};
use super::random::strike;

/// A cluster of which one node missed the last writes; and in every second one the leader has entries that are committed
/// nowhere.
fn bases() -> Vec<Base> {
    let base = |seed: u64| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let shape = Shape {
            writes: rng.u64(1..10),
            value_bytes: [100, 3000][rng.usize(..2)],
            snapshot_bytes: [1 << 30, 16 << 10][rng.usize(..2)],
            keep_bytes: 1 << 30,
        };
        let mut cluster = Cluster::new(seed, shape);
        let laggard = cluster.follower();
        cluster.world.isolate(laggard);
        cluster.write(rng.u64(1..10));
        if rng.bool() {
            let leader = cluster.leader();
            cluster.world.isolate(leader);
            cluster.write_in_vain(leader, rng.u64(1..4));
        }
        cluster.stop()
    };
    (0..32).map(base).collect()
}

/// What a node has of entries for which nothing else stands: no snapshot, nor for the first one, a membership, the node's record.
fn needed_payloads(base: &Base, node: usize) -> Vec<Place> {
    let snapshotted = base.snapshotted[node];
    let is_needed = |place: &Place| match place.part {
        Part::Payload(id) => id.index > snapshotted.max(Index(1)) && place.bytes > 0,
        Part::Frame | Part::Seal => false,
    };
    parts(&base.disks[node])
        .into_iter()
        .filter(is_needed)
        .collect()
}

#[test]
fn entries_are_damaged_on_nodes_of_which_some_lag() {
    let mut bases = bases();
    bases.retain(|base| (0..3).all(|node| !needed_payloads(base, node).is_empty()));
    assert!(bases.len() > 16, "{}", bases.len());
    let sum = try_all("lagging and damaged", 0..count(5000), |number| {
        let mut rng = fastrand::Rng::with_seed(number);
        let base = bases[rng.usize(..bases.len())].fork();
        strike(&base, &mut rng, |base, node, rng| {
            let mut payloads = needed_payloads(base, node);
            rng.shuffle(&mut payloads);
            let many = rng.usize(1..4);
            payloads
                .iter()
                .take(many)
                .for_each(|place| flip_in(&base.disks[node], place, rng));
        });
        let outcome = base.start(number);
        assert!(outcome.bad > 0, "something was damaged");
        outcome
    });
    assert!(sum.served > sum.cases / 2 && sum.bad > sum.cases);
    assert!(!is_proof() || sum.unavailable > 100);
}
