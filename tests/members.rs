//! A running cluster whose nodes come and go, with real processes: joining, replacing, handing over.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use support::{Nodes, Outcome, wait_for};

/// The members with this role, as the program lists them.
fn members(nodes: &Nodes, role: &str, at: u16) -> Vec<u64> {
    let line = nodes.run_well(&["member", "list", "--json"], at);
    let list: serde_json::Value = serde_json::from_str(&line).unwrap();
    let members = list["members"].as_array().unwrap().iter();
    let members = members.filter(|member| member["role"] == role);
    members
        .map(|member| member["id"].as_u64().unwrap())
        .collect()
}

fn others(nodes: &Nodes, than: &[u16]) -> Vec<u16> {
    let ids = nodes.ids().into_iter();
    ids.filter(|id| !than.contains(id)).collect()
}

#[test]
fn a_node_whose_disk_was_emptied_joins_anew_and_takes_the_place_that_it_had() {
    let mut nodes = Nodes::start();
    let mut client = nodes.client_of(&[1, 2, 3, 4]);
    client.until_done::<()>(&["SET", "a", "1"]);
    let wiped = nodes.follower();
    nodes.kill_9(wiped);
    std::fs::remove_dir_all(nodes.data(wiped)).unwrap();
    let (code, error) = nodes.end_of(wiped);
    assert_eq!(code, Some(1), "{error}");
    std::fs::remove_dir_all(nodes.data(wiped)).unwrap();
    let rest = others(&nodes, &[wiped]);

    nodes.start_joining(4, rest[0]);
    let wanted = format!("duramen member add 4={}", nodes.peer_address(4));
    wait_for("what to type", || {
        nodes.said(4).contains(&wanted).then_some(())
    });
    let new = format!("4={}", nodes.peer_address(4));
    nodes.run_well(&["member", "replace", &wiped.to_string(), &new], rest[0]);
    let mut voters: Vec<u64> = rest.iter().map(|&id| id.into()).collect();
    voters.push(4);
    assert_eq!(members(&nodes, "voter", rest[1]), voters);

    // The new one is needed for a majority now.
    let leader = nodes.leader();
    nodes.kill_9(if leader == 4 { rest[0] } else { leader });
    client.until_done::<()>(&["SET", "b", "2"]);
    assert_eq!(client.until_done::<String>(&["GET", "a"]), "1");
}

#[test]
fn nodes_are_added_promoted_led_by_and_removed() {
    let mut nodes = Nodes::start();
    let leader = nodes.leader();
    nodes.client().until_done::<()>(&["SET", "a", "1"]);
    nodes.start_joining(4, leader);
    let new = format!("4={}", nodes.peer_address(4));
    wait_for("the node to listen", || nodes.info(4, "role"));
    let follower = others(&nodes, &[leader])[0];
    nodes.run_well(&["member", "add", &new], follower);
    // Until it knows a leader it shows what it knows itself.
    wait_for("the new node to see itself", || {
        (members(&nodes, "learner", 4) == [4]).then_some(())
    });
    nodes.run_well(&["member", "promote", "4"], follower);
    assert_eq!(members(&nodes, "voter", leader), [1, 2, 3, 4]);

    // Its directory knows the rest.
    nodes.kill_9(4);
    nodes.start_again(4);
    nodes.wait_for_catching_up(4);
    assert!(
        !nodes.said(4).contains("waits to be added"),
        "{}",
        nodes.said(4)
    );
    assert_eq!(
        nodes.run_well(&["transfer", "--to", "4"], 4),
        "node 4 leads\n"
    );
    assert_eq!(nodes.leader(), 4);
    assert!(nodes.run_well(&["transfer"], 4).ends_with("leads\n"));
    assert_ne!(nodes.leader(), 4);

    // One that leads hands over before it goes.
    nodes.run_well(&["transfer", "--to", "4"], follower);
    nodes.run_well(&["member", "remove", "4"], follower);
    assert!(nodes.find_leader().is_some_and(|leader| leader != 4));
    assert_eq!(members(&nodes, "voter", leader), [1, 2, 3]);
    let notice = "node 4 is no member of the cluster any more";
    wait_for("the notice", || {
        nodes.said(4).contains(notice).then_some(())
    });
    let leads = nodes.info(leader, "raft_term");
    assert_eq!(
        nodes.said(4).matches(notice).count(),
        1,
        "{}",
        nodes.said(4)
    );
    assert_eq!(nodes.terminate(4), Some(0));
    assert_eq!(nodes.info(leader, "raft_term"), leads, "it disturbs nobody");
}

#[test]
fn what_cannot_be_changed_says_what_to_do() {
    let mut nodes = Nodes::start();
    let leader = nodes.leader();
    let port = nodes.peer_address(5);
    let nobody = format!("5={port}");
    let other = format!("5={}", nodes.peer_address(leader));
    for (arguments, code, hint) in [
        (
            &["member", "add", &nobody][..],
            1,
            "start it with `duramen serve --join`",
        ),
        (
            &["member", "add", &other],
            1,
            "it looks for node 5, this is node",
        ),
        (&["member", "add", "1=h:1"], 1, "node 1 is a member already"),
        (&["member", "add", "5"], 2, "write it as NUMBER=HOST:PORT"),
        (&["member", "promote", "1"], 1, "node 1 votes already"),
        (
            &["member", "promote", "5"],
            1,
            "node 5 is no member: add it first",
        ),
        (&["member", "remove", "5"], 1, "node 5 is no member"),
        (
            &["member", "replace", "6", &nobody],
            1,
            "node 6 is no member, so it cannot be replaced",
        ),
        (&["transfer", "--to", "5"], 1, "node 5 is no voter"),
    ] {
        let (found, said) = nodes.run(arguments, leader);
        assert_eq!(found, Some(code), "{arguments:?}: {said}");
        assert!(said.contains(hint), "{arguments:?}: {said}");
    }
    let (code, said) = nodes.run(&["member", "list"], 5);
    assert_eq!(code, Some(1));
    assert!(said.contains("is it running?"), "{said}");
    // A number that is taken.
    let taken = others(&nodes, &[leader])[0];
    nodes.kill_9(taken);
    wait_for("the leader to notice", || {
        let list = nodes.run_well(&["member", "list"], leader);
        list.contains(" no ").then_some(())
    });
    // One of the two that would be left is down.
    let alive = others(&nodes, &[leader, taken])[0].to_string();
    let (code, said) = nodes.run(&["member", "remove", &alive], leader);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the cluster would stop"), "{said}");
    nodes.client().until_done::<()>(&["SET", "a", "1"]);
    std::fs::remove_dir_all(nodes.data(taken)).unwrap();
    nodes.start_joining(taken, leader);
    let hint = "choose a number for --id that no member ever had";
    wait_for("the error", || {
        nodes.said(taken).contains(hint).then_some(())
    });
}

#[test]
fn a_leader_that_has_just_gone_is_not_taken_for_a_wrong_address() {
    let mut nodes = Nodes::start();
    nodes.client().until_done::<()>(&["SET", "a", "1"]);
    let (leader, follower) = (nodes.leader(), nodes.follower());
    wait_for("the follower to know the leader", || {
        (nodes.info(follower, "raft_leader")? == leader.to_string()).then_some(())
    });
    nodes.kill_9(leader);
    assert_eq!(members(&nodes, "voter", follower), [1, 2, 3]);
}

#[test]
fn a_rolling_restart_hands_over_and_loses_nothing() {
    let mut nodes = Nodes::start();
    let mut client = nodes.client();
    client.until_done::<i64>(&["INCR", "a"]);
    let is_over = AtomicBool::new(false);
    let (acknowledged, unknown) = thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let (mut acknowledged, mut unknown) = (1, 0);
            while !is_over.load(Ordering::Relaxed) {
                match client.once::<i64>(&["INCR", "a"]) {
                    Outcome::Acknowledged(_) => acknowledged += 1,
                    Outcome::Unknown => unknown += 1,
                    Outcome::Refused => {}
                }
            }
            (acknowledged, unknown)
        });
        for _ in 0..4 {
            let leader = nodes.leader();
            let term = nodes.info(leader, "raft_term");
            assert_eq!(nodes.terminate(leader), Some(0));
            let next = nodes.find_leader().expect("somebody leads already");
            assert_ne!(nodes.info(next, "raft_term"), term);
            nodes.start_again(leader);
            nodes.wait_for_catching_up(leader);
        }
        is_over.store(true, Ordering::Relaxed);
        counting.join().unwrap()
    });
    let counted: i64 = nodes.client().until_done(&["GET", "a"]);
    assert!(acknowledged <= counted, "{acknowledged} of {counted}");
    assert!(
        counted <= acknowledged + unknown,
        "{acknowledged} and {unknown} of {counted}"
    );
}
