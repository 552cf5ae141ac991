//! Schedules against whole nodes in the simulator, one for each thing that must not happen.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use duramen::disk::Disk;
use duramen::kv::{Command, Kv, Output};
use duramen::node::{Error, Input, NotDone, Refusal, Trouble};
use duramen::sim::{Settings, World};
use duramen::snapshot::ChunkName;
use duramen::wal::NodeId;

const SECOND: Duration = Duration::from_secs(1);
/// Within this time a cluster has a leader, if a majority is there.
const ELECTION: Duration = Duration::from_secs(5);

fn cluster(seed: u64) -> World<Kv> {
    let mut world = World::new(seed, 3, Settings::default(), |_| Kv::default());
    assert!(world.run_until(ELECTION, |world| world.leader().is_some()));
    world.run_for(SECOND);
    world
}

fn others(leader: NodeId) -> [NodeId; 2] {
    let mut others = [1, 2, 3].map(NodeId).into_iter().filter(|id| *id != leader);
    [others.next().unwrap(), others.next().unwrap()]
}

/// Appends to a key, again and again until somebody takes it. Says whether that was in time.
fn append(world: &mut World<Kv>, value: impl Into<Bytes>) -> bool {
    let told: Arc<Mutex<Option<Result<Output, NotDone>>>> = Arc::default();
    let command = Command::append("key", value).encode();
    let end = world.now() + 2 * ELECTION;
    while world.now() < end {
        let Some(leader) = world.leader() else {
            world.run_for(SECOND / 20);
            continue;
        };
        let tell = told.clone();
        let on_applied = Box::new(move |answer| *tell.lock().unwrap() = Some(answer));
        let command = command.clone();
        world.give(
            leader,
            Input::Propose {
                command,
                on_applied,
            },
        );
        world.run_until(SECOND * 6, |_| told.lock().unwrap().is_some());
        if matches!(told.lock().unwrap().take(), Some(Ok(_))) {
            return true;
        }
    }
    false
}

/// Three nodes of which one, the third, misses an election that the two others hold. Gives the leader and who voted for it, when
/// only the third and the voter are there.
fn election_without_third(world: &mut World<Kv>) -> (NodeId, NodeId) {
    let first = world.leader().unwrap();
    let [other, third] = others(first);
    world.isolate(third);
    world.cut_power(first);
    world.start(first);
    assert!(world.run_until(ELECTION, |world| world.leader().is_some()));
    let second = world.leader().unwrap();
    world.connect(third);
    world.isolate(second);
    (second, if second == other { first } else { other })
}

/// The voter came back without its vote: with the third node, which does not know of the election, it must not elect anybody. The
/// world would notice a second vote and a second leader of the term.
fn elects_nobody(
    world: &mut World<Kv>,
    leader: NodeId,
    voter: NodeId,
    is_expected: fn(&Refusal) -> bool,
) {
    let elections = world.leaders_seen();
    world.run_for(ELECTION);
    let ended = world.take_ended();
    assert!(
        matches!(&ended[..], [(id, Error::Refused { refusal, .. })] if *id == voter && is_expected(refusal)),
        "{ended:?}"
    );
    assert_eq!(
        world.leaders_seen(),
        elections,
        "one voter of three is left"
    );
    world.connect(leader);
    assert!(append(world, "x"));
    assert!(!world.is_up(voter));
}

#[test]
fn a_wiped_voter_that_votes_again_cannot_elect_a_second_leader() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let (leader, voter) = election_without_third(&mut world);
        wipe(&mut world, voter);
        elects_nobody(&mut world, leader, voter, |refusal| {
            matches!(refusal, Refusal::OtherNode { .. })
        });
    }
}

/// The same with the leader there for a while: catching up with its log does not give back a vote.
#[test]
fn a_wiped_voter_that_catches_up_and_votes_again_cannot_elect_a_second_leader() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let (leader, voter) = election_without_third(&mut world);
        let [_, third] = others(leader);
        let third = if third == voter {
            others(leader)[0]
        } else {
            third
        };
        world.connect(leader);
        world.isolate(third);
        wipe(&mut world, voter);
        world.run_for(SECOND);
        world.connect(third);
        world.isolate(leader);
        elects_nobody(&mut world, leader, voter, |refusal| {
            matches!(refusal, Refusal::OtherNode { .. })
        });
    }
}

fn wipe(world: &mut World<Kv>, id: NodeId) {
    world.cut_power(id);
    world.empty_disk(id);
    world.start(id);
}

#[test]
fn a_voter_that_was_set_back_cannot_elect_a_second_leader() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let ids = [1, 2, 3].map(NodeId);
        let backups = ids.map(|id| world.disk(id).fork());
        for id in ids.into_iter().chain(ids) {
            world.cut_power(id);
            world.start(id);
            world.run_for(ELECTION);
        }
        let (leader, voter) = election_without_third(&mut world);
        world.cut_power(voter);
        let backup = backups[voter.0 as usize - 1].fork();
        world.set_back_disk(voter, backup);
        world.start(voter);
        elects_nobody(&mut world, leader, voter, |refusal| {
            matches!(refusal, Refusal::SetBack { .. })
        });
    }
}

/// It shows no lower counter then: what it drew when it was started is not what the others remember.
#[test]
fn a_voter_that_was_set_back_and_started_as_often_again_cannot_elect_a_second_leader() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let backups = [1, 2, 3].map(|id| world.disk(NodeId(id)).fork());
        for id in [1, 2, 3].map(NodeId) {
            world.cut_power(id);
            world.start(id);
            world.run_for(ELECTION);
        }
        let (leader, voter) = election_without_third(&mut world);
        let boot = |world: &World<Kv>| world.node(voter).unwrap().storage().boot();
        let before = boot(&world);
        world.cut_power(voter);
        let backup = backups[voter.0 as usize - 1].fork();
        world.set_back_disk(voter, backup);
        world.start(voter);
        while boot(&world) < before + seed % 3 {
            world.kill(voter);
            world.start(voter);
        }
        elects_nobody(&mut world, leader, voter, |refusal| {
            matches!(refusal, Refusal::OtherStart { .. })
        });
    }
}

/// Two of three do not reach each other when one of them is started for the last time.
#[test]
fn a_voter_that_was_set_back_is_refused_by_a_node_that_has_only_heard_of_its_last_start() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let between = world.leader().unwrap();
        let [voter, third] = others(between);
        let backup = world.disk(voter).fork();
        world.cut(voter, third);
        world.cut(third, voter);
        world.cut_power(voter);
        world.start(voter);
        world.run_for(ELECTION);
        world.heal_links();
        world.isolate(between);
        world.cut_power(voter);
        world.set_back_disk(voter, backup);
        world.start(voter);
        elects_nobody(&mut world, between, voter, |refusal| {
            matches!(refusal, Refusal::OtherStart { .. })
        });
    }
}

/// All machines lose their power in the middle of a write; they serve again without help.
#[test]
fn three_nodes_that_are_cut_in_mid_batch_serve_again() {
    for seed in 0..50 {
        let mut world = cluster(seed);
        for _ in 0..5 {
            let leader = world.leader().unwrap();
            for id in [1, 2, 3].map(NodeId) {
                world.cut_power_soon(id);
            }
            for _ in 0..100 {
                if !world.is_up(leader) {
                    break;
                }
                let command = Command::append("key", vec![7; 3000]).encode();
                let on_applied = Box::new(|_| ());
                world.give(
                    leader,
                    Input::Propose {
                        command,
                        on_applied,
                    },
                );
                world.step();
            }
            world.stop_failing();
            let down = [1, 2, 3]
                .map(NodeId)
                .into_iter()
                .filter(|id| !world.is_up(*id));
            let down: Vec<NodeId> = down.collect();
            assert_eq!(down.len(), 3, "the power went, sooner or later");
            down.into_iter().for_each(|id| world.start(id));
            assert!(append(&mut world, "x"), "seed {seed}");
            assert!(world.take_ended().is_empty());
            assert!(world.run_until(ELECTION, |world| world.leader().is_some()));
        }
    }
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

/// What a node has at the key.
fn value(world: &World<Kv>, id: NodeId) -> Option<Bytes> {
    let kv = world.node(id).unwrap().state();
    kv.view().find(b"key").cloned()
}

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

/// Gives a write to a node, and says what became of it.
fn write(world: &mut World<Kv>, id: NodeId, value: Bytes) -> Option<Result<Output, NotDone>> {
    let told: Arc<Mutex<Option<_>>> = Arc::default();
    let tell = told.clone();
    let command = Command::set("large", value).encode();
    let on_applied = Box::new(move |answer| *tell.lock().unwrap() = Some(answer));
    world.give(
        id,
        Input::Propose {
            command,
            on_applied,
        },
    );
    world.run_until(SECOND * 6, |_| told.lock().unwrap().is_some());
    told.lock().unwrap().take()
}

/// What a key is, as a node says.
fn read(world: &mut World<Kv>, id: NodeId) -> Option<Result<Option<Bytes>, NotDone>> {
    let told: Arc<Mutex<Option<_>>> = Arc::default();
    let tell = told.clone();
    let query = move |kv: Result<&Kv, NotDone>| {
        let value = kv.map(|kv| kv.view().find(b"key").cloned());
        *tell.lock().unwrap() = Some(value);
    };
    world.give(id, Input::Read(Box::new(query)));
    world.run_until(SECOND * 6, |_| told.lock().unwrap().is_some());
    told.lock().unwrap().take()
}

/// Writes until a node finds no space for more.
fn write_until_full(world: &mut World<Kv>, id: NodeId) {
    let is_full = |world: &World<Kv>| {
        let node = world.node(id).unwrap();
        matches!(node.trouble(), Some(Trouble::Full))
    };
    for _ in 0..100 {
        let Some(leader) = world.leader().filter(|_| !is_full(world)) else {
            break;
        };
        write(world, leader, vec![b'x'; 20 << 10].into());
    }
    assert!(is_full(world));
}

#[test]
fn a_node_whose_disk_is_full_leads_no_more_and_catches_up_when_there_is_space() {
    let mut world = cluster(1);
    assert!(append(&mut world, "a"));
    let full = world.leader().unwrap();
    world.set_free_bytes(full, Some(0));
    write_until_full(&mut world, full);
    assert!(world.run_until(ELECTION, |world| {
        world.leader().is_some_and(|leader| leader != full)
    }));
    assert!(append(&mut world, "b"), "the others go on");
    assert_eq!(world.take_ended().len(), 0);
    world.set_free_bytes(full, None);
    let leader = world.leader().unwrap();
    assert!(world.run_until(ELECTION, |world| {
        let applied = |id| world.node(id).unwrap().status().applied;
        world.node(full).unwrap().trouble().is_none() && applied(full) == applied(leader)
    }));
    assert_eq!(read(&mut world, full), Some(Ok(Some("ab".into()))));
}

#[test]
fn with_all_disks_full_writes_are_refused_and_reads_and_elections_go_on() {
    let mut world = cluster(2);
    assert!(append(&mut world, "a"));
    for id in world.ids() {
        world.set_free_bytes(id, Some(0));
    }
    for _ in 0..3 {
        if let Some(leader) = world.leader() {
            write_until_full(&mut world, leader);
        }
        assert!(world.run_until(ELECTION, |world| world.leader().is_some()));
    }
    world.run_for(SECOND);
    let leader = world.leader().unwrap();
    for id in world.ids() {
        assert_eq!(read(&mut world, id), Some(Ok(Some("a".into()))), "{id}");
    }
    let refused = Some(Err(NotDone::Full));
    assert_eq!(write(&mut world, leader, "x".into()), refused);
    world.isolate(leader);
    assert!(world.run_until(ELECTION, |world| {
        world.leader().is_some_and(|next| next != leader)
    }));
    let next = world.leader().unwrap();
    assert_eq!(read(&mut world, next), Some(Ok(Some("a".into()))));
    world.connect(leader);
    for id in world.ids() {
        world.set_free_bytes(id, None);
    }
    world.run_for(2 * SECOND);
    assert!(append(&mut world, "b"));
}

#[test]
fn a_leader_whose_disk_fails_is_silent_until_it_is_started_anew() {
    let mut world = cluster(3);
    assert!(append(&mut world, "a"));
    let failed = world.leader().unwrap();
    world.disk(failed).fail_next_sync(std::io::ErrorKind::Other);
    assert!(append(&mut world, "b"));
    let trouble = world.node(failed).unwrap().trouble();
    assert!(matches!(trouble, Some(Trouble::Failed(_))), "{trouble:?}");
    assert_ne!(world.leader(), Some(failed));
    world.kill(failed);
    world.start(failed);
    world.run_for(2 * SECOND);
    assert_eq!(
        read(&mut world, failed),
        read(&mut world, others(failed)[0])
    );
}

#[test]
fn a_single_node_whose_disk_fails_serves_reads_and_refuses_writes() {
    let mut world = World::new(4, 1, Settings::default(), |_| Kv::default());
    assert!(append(&mut world, "a"));
    let only = world.leader().unwrap();
    world.disk(only).fail_next_sync(std::io::ErrorKind::Other);
    let unknown = Some(Err(NotDone::Unknown));
    assert_eq!(write(&mut world, only, "x".into()), unknown);
    assert_eq!(
        write(&mut world, only, "x".into()),
        Some(Err(NotDone::Failed))
    );
    assert_eq!(read(&mut world, only), Some(Ok(Some("a".into()))));
}
