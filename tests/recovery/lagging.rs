//! Some nodes lag behind, a deposed leader has entries that nobody else has, and copies are damaged.

use super::cases::{count, is_proof, try_all};
use super::cluster::{Base, Cluster, Shape, nodes};
use super::damage::{Part, flip_in, parts};

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

#[test]
fn entries_are_damaged_on_nodes_of_which_some_lag() {
    let bases = bases();
    let sum = try_all("lagging and damaged", 0..count(5000), |number| {
        let mut rng = fastrand::Rng::with_seed(number);
        let base = bases[rng.usize(..bases.len())].fork();
        for id in nodes().filter(|_| number % 7 == 0 || number % 3 > 0) {
            let disk = base.disk(id);
            let mut payloads = parts(disk);
            payloads.retain(|place| matches!(place.part, Part::Payload(_)) && place.bytes > 0);
            rng.shuffle(&mut payloads);
            let many = rng.usize(..4);
            payloads
                .iter()
                .take(many)
                .for_each(|place| flip_in(disk, place, &mut rng));
        }
        base.start(number)
    });
    assert!(sum.served > sum.cases / 2 && sum.bad > sum.cases);
    assert!(!is_proof() || sum.unavailable > 100);
}
