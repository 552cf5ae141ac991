//! Disks that are full, or fail.

use duramen::kv::Kv;
use duramen::node::{NotDone, Trouble};
use duramen::sim::{Settings, World};
use duramen::wal::NodeId;

use super::cluster::{ELECTION, SECOND, append, cluster, others, read, write};

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
