//! Machines that lose their power, stand still, or hear little of each other; and a state machine that is not like the others.

use std::io;
use std::time::Duration;

use duramen::kv::{Command, Kv, Output};
use duramen::node::{Frozen, Input, NotDone, StateMachine};
use duramen::sim::{Faults, Settings, World};
use duramen::wal::{Index, NodeId};

use super::cluster::{ELECTION, SECOND, append, cluster, others, read, value};

/// Row 31. All machines lose their power in the middle of a write; they serve again without help.
#[test]
fn three_nodes_that_are_cut_in_mid_batch_serve_again() {
    for seed in 0..50 {
        let mut world = cluster(seed);
        for _ in 0..5 {
            let leader = world.leader().unwrap();
            nodes().for_each(|id| world.cut_power_soon(id));
            for _ in 0..100 {
                if world.is_up(leader) {
                    append_soon(&mut world, leader);
                }
                world.step();
            }
            world.stop_failing();
            assert!(are_all_down(&world), "the power went, sooner or later");
            serves_again(&mut world, seed);
        }
    }
}

/// Row 31. All have the same batch, and none of them has it whole: only the three together know that it was never acknowledged.
#[test]
fn three_nodes_on_which_the_same_batch_is_torn_serve_again() {
    let mut dropped = 0;
    for seed in 0..50 {
        let mut world = cluster(seed);
        for _ in 0..5 {
            world.run_for(SECOND); // until nothing is written any more
            let leader = world.leader().unwrap();
            nodes().for_each(|id| world.cut_power_after(id, 1)); // in the sync of what was written
            world.stall_disk(leader, SECOND / 20); // until the others have the batch too
            append_soon(&mut world, leader);
            assert!(world.run_until(SECOND, are_all_down));
            world.stop_failing();
            serves_again(&mut world, seed);
            let counts = world.nodes().map(|node| node.counts());
            dropped += counts
                .map(|counts| counts.torn_entries_dropped)
                .sum::<u64>();
        }
    }
    println!("{dropped} entries were torn everywhere");
    assert!(dropped > 10);
}

fn append_soon(world: &mut World<Kv>, leader: NodeId) {
    let command = Command::append("key", vec![7; 3000]).encode();
    let on_applied = Box::new(|_| ());
    world.give(
        leader,
        Input::Propose {
            command,
            on_applied,
        },
    );
}

fn are_all_down(world: &World<Kv>) -> bool {
    nodes().all(|id| !world.is_up(id))
}

fn serves_again(world: &mut World<Kv>, seed: u64) {
    nodes().for_each(|id| world.start(id));
    assert!(append(world, "x"), "seed {seed}");
    assert!(world.take_ended().is_empty());
    assert!(world.run_until(ELECTION, |world| world.leader().is_some()));
}

/// Row 21. A process that stood still believes that it leads, with a clock that has jumped ahead: nobody reads an old value there.
#[test]
fn a_leader_that_stood_still_and_whose_clock_jumps_serves_nothing_stale() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        assert!(append(&mut world, "a"));
        let first = world.leader().unwrap();
        let is_cut_off = seed % 2 == 0;
        if is_cut_off {
            world.isolate(first);
        }
        world.pause(first, 3 * SECOND);
        world.jump_clock(first, Duration::from_secs(3600));
        let is_replaced = |world: &World<Kv>| world.leader().is_some_and(|id| id != first);
        assert!(world.run_until(ELECTION, is_replaced), "seed {seed}");
        assert!(append(&mut world, "b"));
        match read(&mut world, first) {
            None | Some(Err(_)) => {}
            Some(Ok(value)) => assert_eq!(value, Some("ab".into()), "seed {seed}"),
        }
        if is_cut_off {
            world.connect(first);
        }
        assert!(append(&mut world, "c"));
        world.run_for(SECOND);
        assert!(nodes().all(|id| value(&world, id) == Some("abc".into())));
    }
}

fn nodes() -> impl Iterator<Item = NodeId> {
    [1, 2, 3].map(NodeId).into_iter()
}

/// Row 25. A third of all messages is lost, others come twice and in any order, and the leader hears nothing from one node.
#[test]
fn in_a_bad_network_with_a_link_that_is_cut_one_way_writes_go_on() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let mut faults = Faults::default();
        (
            faults.lost,
            faults.doubled,
            faults.delay_millis,
            faults.late,
        ) = (30, 20, 30, 2);
        world.set_faults(faults);
        let leader = world.leader().unwrap();
        world.cut(others(leader)[0], leader);
        for _ in 0..10 {
            assert!(append(&mut world, "x"), "seed {seed}");
        }
        world.set_faults(Faults::default());
        world.heal_links();
        world.run_for(ELECTION);
        let first = value(&world, NodeId(1)).unwrap();
        assert!(first.len() >= 10, "{first:?}");
        assert!(nodes().all(|id| value(&world, id).as_ref() == Some(&first)));
    }
}

/// Rows 28 and 37. Its network is well: the others hear of it all the time.
#[test]
fn a_leader_whose_sync_hangs_hands_over() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        assert!(append(&mut world, "a"));
        let hanging = world.leader().unwrap();
        world.stall_disk(hanging, Duration::from_secs(60));
        let command = Command::append("key", "b").encode();
        let on_applied = Box::new(|_| ());
        world.give(
            hanging,
            Input::Propose {
                command,
                on_applied,
            },
        );
        let is_relieved = |world: &World<Kv>| world.leader().is_some_and(|id| id != hanging);
        assert!(world.run_until(ELECTION, is_relieved), "seed {seed}");
        let node = world.node(hanging).unwrap();
        assert!(node.is_writing() && node.trouble().is_none());
        assert!(append(&mut world, "c"), "seed {seed}");
        world.stall_disk(hanging, Duration::ZERO);
        world.run_for(2 * SECOND);
        let first = value(&world, NodeId(1));
        assert!(first.is_some() && nodes().all(|id| value(&world, id) == first));
    }
}

/// A store that forgets one command, at one of the nodes.
struct Forgetful {
    kv: Kv,
    forgets: bool,
}

impl StateMachine for Forgetful {
    type Output = Output;

    fn apply(&mut self, command: &[u8]) -> Output {
        match self.forgets && command.windows(6).any(|bytes| bytes == b"forget") {
            true => Output::Nil,
            false => self.kv.apply(command),
        }
    }

    fn freeze(&self) -> Frozen {
        self.kv.freeze()
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        self.kv.restore(from)
    }
}

/// Row 39. Snapshots are taken at the same entries everywhere, so states are compared by their names.
#[test]
fn a_state_machine_that_diverges_raises_an_alarm() {
    for seed in 0..10 {
        let mut settings = Settings::default();
        settings.node.snapshot_bytes = 2 << 10;
        let make_state = |id| Forgetful {
            kv: Kv::default(),
            forgets: id == NodeId(2),
        };
        let mut world = World::new(seed, 3, settings, make_state);
        for number in 0..60 {
            assert!(world.run_until(ELECTION, |world| world.leader().is_some()));
            let leader = world.leader().unwrap();
            let value = if number == 30 {
                "forget me"
            } else {
                "remember me"
            };
            let command = Command::set(format!("key {number}"), value).encode();
            let on_applied = Box::new(|_: Result<Output, NotDone>| ());
            world.give(
                leader,
                Input::Propose {
                    command,
                    on_applied,
                },
            );
            world.run_for(SECOND / 20);
            let alarm = world.nodes().find_map(|node| node.diverged_at());
            assert!(
                alarm.is_none() || number >= 30,
                "{alarm:?}, and they are the same"
            );
        }
        world.run_for(ELECTION);
        let alarms: Vec<Index> = world
            .nodes()
            .filter_map(|node| node.report().snapshots.diverged_at)
            .collect();
        assert!(!alarms.is_empty(), "seed {seed}");
    }
}
