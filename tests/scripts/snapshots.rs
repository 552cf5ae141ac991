//! Snapshots that are damaged, and what the peers have of them.

use std::path::Path;

use duramen::disk::Disk;
use duramen::kv::Kv;
use duramen::sim::{Settings, World};
use duramen::snapshot::ChunkName;
use duramen::wal::NodeId;

use super::cluster::{ELECTION, SECOND, append, others, value};

fn with_snapshots(seed: u64, nodes: u64) -> World<Kv> {
    let mut settings = Settings::default();
    settings.node.snapshot_bytes = 8 << 10;
    settings.storage.chunk_bytes = 256;
    World::new(seed, nodes, settings, |_| Kv::default())
}

fn append_noise(world: &mut World<Kv>, rng: &mut fastrand::Rng, times: usize) {
    for _ in 0..times {
        let value: String = std::iter::repeat_with(|| rng.alphanumeric())
            .take(32)
            .collect();
        assert!(append(world, value));
    }
    world.run_for(SECOND); // A snapshot takes a while.
}

/// A snapshot that cannot be read is mended with the peers' chunks, also if each node's is damaged in another place.
#[test]
fn damaged_snapshots_are_mended_by_the_peers() {
    for seed in 0..20 {
        let mut world = with_snapshots(seed, 3);
        assert!(world.run_until(ELECTION, |world| world.leader().is_some()));
        let mut rng = fastrand::Rng::with_seed(seed);
        append_noise(&mut world, &mut rng, 200);
        world.run_for(SECOND);
        let ids = [1, 2, 3].map(NodeId);
        ids.iter().for_each(|id| world.kill(*id));
        for id in ids {
            damage_a_snapshot(&world, id, &mut rng);
        }
        ids.iter().for_each(|id| world.start(*id));
        assert!(append(&mut world, "x"), "seed {seed}");
        world.run_for(ELECTION);
        let kv = |id| world.node(id).unwrap().state();
        assert!(kv(ids[0]) == kv(ids[1]) && kv(ids[1]) == kv(ids[2]));
        assert_eq!(kv(ids[0]).view().find(b"key").unwrap().len(), 200 * 32 + 1);
    }
}

/// The log is purged on the strength of a new snapshot, which refers to chunks of earlier ones.
#[test]
fn what_a_new_snapshot_shares_with_a_damaged_one_is_written_anew() {
    for seed in 0..20 {
        let mut world = with_snapshots(seed, 1);
        assert!(world.run_until(ELECTION, |world| world.leader().is_some()));
        let (only, mut rng) = (NodeId(1), fastrand::Rng::with_seed(seed));
        append_noise(&mut world, &mut rng, 100);
        let damaged = damage_the_second_chunk(&world, only);
        append_noise(&mut world, &mut rng, 300);
        let newest = world
            .node(only)
            .unwrap()
            .storage()
            .snapshots()
            .list()
            .pop()
            .unwrap();
        assert_eq!(newest.manifest.chunks()[1].name, damaged, "it is shared");
        let before = value(&world, only);
        world.kill(only);
        world.start(only);
        assert!(world.run_until(ELECTION, |world| world.leader().is_some()));
        assert!(append(&mut world, ""), "seed {seed}");
        assert_eq!(value(&world, only), before);
    }
}

#[test]
fn a_chunk_that_the_leader_cannot_read_comes_from_another_node() {
    for seed in 0..20 {
        let mut world = with_snapshots(seed, 3);
        assert!(world.run_until(ELECTION, |world| world.leader().is_some()));
        let leader = world.leader().unwrap();
        let [follower, _] = others(leader);
        let mut rng = fastrand::Rng::with_seed(seed);
        world.isolate(follower);
        append_noise(&mut world, &mut rng, 200);
        assert_eq!(world.leader(), Some(leader));
        damage_a_snapshot(&world, leader, &mut rng);
        world.connect(follower);
        let applied = world.node(leader).unwrap().status().applied;
        let is_there =
            |world: &World<Kv>| world.node(follower).unwrap().status().applied >= applied;
        assert!(world.run_until(2 * ELECTION, is_there), "seed {seed}");
        assert!(world.node(follower).unwrap().counts().snapshots_installed > 0);
    }
}

/// Flips a bit of the second chunk of the state, wherever it lies. Gives its name. (The first one has the length of the value.)
fn damage_the_second_chunk(world: &World<Kv>, id: NodeId) -> ChunkName {
    let store = world.node(id).unwrap().storage().snapshots();
    let name = store.list().pop().unwrap().manifest.chunks()[1].name;
    let (disk, dir) = (world.disk(id), Path::new("/node/snapshots"));
    for file in disk.list(dir).unwrap() {
        let path = dir.join(file);
        let bytes = disk.open(&path).unwrap().len().unwrap();
        for at in (0..bytes).step_by(64) {
            disk.flip_bit(&path, at, 3).unwrap();
            if store.read_chunk(name).is_err() {
                return name;
            }
            disk.flip_bit(&path, at, 3).unwrap();
        }
    }
    panic!("there is no such chunk");
}

/// Flips a bit in a chunk of the newest snapshot file: another one in each node's.
fn damage_a_snapshot(world: &World<Kv>, id: NodeId, rng: &mut fastrand::Rng) {
    let (disk, dir) = (world.disk(id), Path::new("/node/snapshots"));
    let files = disk
        .list(dir)
        .unwrap()
        .into_iter()
        .filter(|name| name.ends_with(".snap"));
    let path = dir.join(files.max().expect("there is a snapshot"));
    // The chunks come first, and a chunk has some 256 bytes, 1024 at the most.
    let at = 1300 * id.0 - 1200 + rng.u64(..200);
    disk.flip_bit(&path, at, rng.u8(..8)).unwrap();
}
