//! The paper's random experiments: a block of any file, on any of the nodes, is overwritten or cannot be read.

use duramen::disk::SimDisk;

use super::cases::{Sum, count, is_proof, try_all};
use super::cluster::{Base, Cluster, Outcome, Shape, nodes};
use super::damage::{Place, block_in_use, files, overwrite};

/// Clusters of all kinds, whose logs end marked: small entries and large ones, with snapshots and without, with a purged log and
/// a kept one.
pub(crate) fn bases() -> Vec<Base> {
    let mut shapes = Vec::new();
    for (writes, value_bytes) in [(12, 300), (60, 3000), (130, 1500)] {
        for snapshot_bytes in [1 << 30, 32 << 10] {
            for keep_bytes in [0, 1 << 30] {
                shapes.push(Shape {
                    writes,
                    value_bytes,
                    snapshot_bytes,
                    keep_bytes,
                });
            }
        }
    }
    let clusters = (0..).zip(shapes);
    let clusters = clusters.map(|(seed, shape)| Cluster::new(seed, shape).stop());
    clusters.collect()
}

/// Strikes one to three of the nodes.
pub(crate) fn strike(
    base: &Base,
    rng: &mut fastrand::Rng,
    blow: impl Fn(&Base, usize, &mut fastrand::Rng),
) {
    let mask = rng.usize(1..8);
    for (node, _) in nodes()
        .enumerate()
        .filter(|(node, _)| mask >> node & 1 == 1)
    {
        blow(base, node, rng);
    }
}

fn try_random(
    name: &str,
    bases: &[Base],
    all: u64,
    blow: impl Fn(&Base, usize, &mut fastrand::Rng) + Sync,
) -> Sum {
    let case = |number: u64| -> Outcome {
        let mut rng = fastrand::Rng::with_seed(number);
        let base = bases[rng.usize(..bases.len())].fork();
        strike(&base, &mut rng, &blow);
        base.start(number)
    };
    try_all(name, 0..count(all), case)
}

#[test]
fn a_block_of_any_file_is_overwritten_on_any_nodes() {
    let sum = try_random("block corruptions", &bases(), 5000, |base, node, rng| {
        let disk = &base.disks[node];
        let block_bytes = [512, 4096][rng.usize(..2)];
        let place = block_in_use(disk, block_bytes, rng);
        overwrite(disk, &place, rng);
    });
    assert!(sum.served > sum.cases / 2 && sum.bad > sum.cases / 10);
    assert!(!is_proof() || sum.unavailable > 100 && sum.stateless > 100 && sum.refused > 100);
}

#[test]
fn a_sector_of_any_file_cannot_be_read_on_any_nodes() {
    let sum = try_random("read errors", &bases(), 5000, |base, node, rng| {
        let disk = &base.disks[node];
        let block_bytes = [512, 4096][rng.usize(..2)];
        let place = block_in_use(disk, block_bytes, rng);
        let bytes = place.offset..place.offset + place.bytes;
        disk.make_bad(&place.path, bytes).unwrap();
    });
    assert!(sum.served > sum.cases / 2);
    assert!(!is_proof() || sum.unavailable > 100 && sum.stateless > 100 && sum.refused > 100);
}

/// The files of a node's snapshots.
fn snapshot_files(disk: &SimDisk) -> Vec<Place> {
    let mut files: Vec<Place> = files(disk);
    files.retain(|file| file.path.starts_with("/node/snapshots"));
    files
}

/// In every fourth case it is the same bit on all nodes, as far as their files are alike.
#[test]
fn any_bit_of_the_snapshots_is_flipped_on_any_nodes() {
    let mut bases = bases();
    bases.retain(|base| {
        base.disks
            .iter()
            .all(|disk| !snapshot_files(disk).is_empty())
    });
    assert!(bases.len() > 3, "{}", bases.len());
    let flip = |disk: &SimDisk, rng: &mut fastrand::Rng| {
        let files = snapshot_files(disk);
        let file = &files[rng.usize(..files.len())];
        let offset = rng.u64(..file.bytes);
        disk.flip_bit(&file.path, offset, rng.u8(..8)).unwrap();
    };
    let sum = try_all("snapshot damages", 0..count(1000), |number| {
        let mut rng = fastrand::Rng::with_seed(number);
        let base = bases[rng.usize(..bases.len())].fork();
        match number % 4 {
            0 => base
                .disks
                .iter()
                .for_each(|disk| flip(disk, &mut rng.clone())),
            _ => strike(&base, &mut rng, |base, node, rng| {
                flip(&base.disks[node], rng)
            }),
        }
        base.start(number)
    });
    assert!(sum.served > sum.cases / 2 && sum.stateless > sum.cases / 3);
    assert!(!is_proof() || sum.unavailable > 10);
}
