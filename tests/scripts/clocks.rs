//! Clocks that are wrong, and go back. What time it is counts for nothing but how long sessions and keys live.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use duramen::kv::{Command, Condition, Expiry, Kv, Output, SetGives};
use duramen::node::Input;
use duramen::session::{Action, CallRefused, Given, SessionId, Sessions};
use duramen::sim::{Settings, World};

use super::cluster::{ELECTION, SECOND, others};

type Clients = World<Sessions<Kv>>;

const HOUR_MS: i64 = 3_600_000;
const LIFETIME_MS: u64 = 10_000;

fn cluster(seed: u64) -> Clients {
    let make_state = |_| Sessions::new(Kv::default());
    let mut world = World::new(seed, 3, Settings::default(), make_state);
    assert!(world.run_until(ELECTION, |world| world.leader().is_some()));
    world
}

/// Has the leader take something, stamped by its clock, and says what it gave.
fn act(world: &mut Clients, action: Action<'_>) -> Given<Output> {
    let leader = world.leader().unwrap();
    let told = Arc::new(Mutex::new(None));
    let tell = told.clone();
    let command = action.encode(world.log_time(leader));
    let on_applied = Box::new(move |given| *tell.lock().unwrap() = Some(given));
    world.give(
        leader,
        Input::Propose {
            command,
            on_applied,
        },
    );
    world.run_until(SECOND, |_| told.lock().unwrap().is_some());
    told.lock().unwrap().take().unwrap().unwrap()
}

fn open(world: &mut Clients, lifetime_ms: u64) -> SessionId {
    match act(world, Action::Open { lifetime_ms }) {
        Given::Opened(session) => session,
        other => panic!("{other:?}"),
    }
}

/// Appends a byte to the key, as a call of a session.
fn call(world: &mut Clients, session: SessionId, sequence: u64) -> Given<Output> {
    let command = &Command::append("key", "x").encode();
    let action = Action::Call {
        session,
        sequence,
        command,
    };
    act(world, action)
}

/// Makes a call, and makes it again: it is carried out once, as the one that makes the value so long.
fn call_twice(world: &mut Clients, session: SessionId, sequence: u64) {
    for _ in 0..2 {
        let length = Output::Integer(sequence as i64);
        assert_eq!(call(world, session, sequence), Given::Output(length));
    }
}

/// How long the value of the key is, at each node.
fn lengths(world: &Clients) -> Vec<usize> {
    let length = |kv: &Kv| kv.view().find(b"key").map_or(0, |value| value.len());
    let nodes = world.nodes();
    nodes.map(|node| length(node.state().inner())).collect()
}

/// Sets the clock of the leader to a time.
fn set_clock_to(world: &mut Clients, time: u64) {
    let leader = world.leader().unwrap();
    let by = time as i64 - world.log_time(leader).0 as i64;
    world.set_clock(leader, by);
}

/// Row 21. The leader's clock goes back by an hour, and by another one. The time in the log stands still until it has caught up: a
/// session that was used meanwhile lives for all of its lifetime from then on, and not a moment longer.
#[test]
fn a_clock_that_goes_back_ends_no_session_early_and_repeats_no_call() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let leader = world.leader().unwrap();
        let session = open(&mut world, LIFETIME_MS);
        let newest = world.log_time(leader).0; // The time in the log, until the clock is right again.
        call_twice(&mut world, session, 1);
        let newest = newest.max(world.log_time(leader).0);
        let mut sequence = 1;
        for _ in 0..2 {
            world.set_clock(leader, -HOUR_MS);
            for _ in 0..5 {
                sequence += 1;
                call_twice(&mut world, session, sequence);
                world.run_for(3 * SECOND); // In all, longer than the session lives.
            }
        }
        assert!(world.log_time(leader).0 < newest, "the clock is wrong");
        set_clock_to(&mut world, newest + LIFETIME_MS - 1000);
        call_twice(&mut world, session, sequence + 1);
        let last_used = world.log_time(leader).0;
        assert_eq!(world.leader(), Some(leader), "this is about its clock");

        set_clock_to(&mut world, last_used + LIFETIME_MS);
        for by in [0, -HOUR_MS, -HOUR_MS, 2 * HOUR_MS] {
            world.set_clock(leader, by);
            for sequence in [sequence + 1, sequence + 2] {
                let refused = Given::Refused(CallRefused::NoSession);
                assert_eq!(call(&mut world, session, sequence), refused, "{by}");
            }
        }
        world.run_for(SECOND);
        assert_eq!(lengths(&world), [sequence as usize + 1; 3]);
    }
}

/// Row 21. A key that has expired does not come back.
#[test]
fn a_clock_that_goes_back_revives_no_key() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let leader = world.leader().unwrap();
        let command = Command::Set {
            key: "key".into(),
            value: "x".into(),
            expiry: Expiry::In(LIFETIME_MS),
            condition: Condition::Always,
            gives: SetGives::default(),
        };
        let command = command.encode();
        act(&mut world, Action::Plain(&command));
        world.set_clock(leader, LIFETIME_MS as i64);
        act(&mut world, Action::Tick);
        world.run_for(SECOND);
        assert_eq!(lengths(&world), [0; 3], "it has expired");
        world.set_clock(leader, -HOUR_MS);
        for _ in 0..2 {
            act(&mut world, Action::Tick);
            world.run_for(SECOND);
            assert_eq!(lengths(&world), [0; 3]);
        }
    }
}

/// Row 21. The clocks of two nodes are behind, by one hour and by two, and the nodes lead one after the other.
#[test]
fn leaders_whose_clocks_are_hours_apart_end_no_session_early() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let first = world.leader().unwrap(); // Its clock is right.
        for (hours, id) in (1..).zip(others(first)) {
            world.set_clock(id, -HOUR_MS * hours);
        }
        let session = open(&mut world, HOUR_MS as u64 / 2);
        let mut led = BTreeSet::new();
        for sequence in 1..=12 {
            let leader = world.leader().unwrap();
            led.insert(leader);
            call_twice(&mut world, session, sequence);
            world.isolate(leader);
            let is_replaced = |world: &Clients| world.leader().is_some_and(|id| id != leader);
            assert!(world.run_until(ELECTION, is_replaced));
            world.connect(leader);
            world.run_for(SECOND); // It hears who leads.
            assert!(world.run_until(ELECTION, |world| world.leader().is_some()));
        }
        assert!(led.len() > 1, "{led:?}");
        assert_eq!(lengths(&world), [12; 3]);
    }
}
