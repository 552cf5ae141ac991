//! Who may take part in a cluster, with real nodes: a node that lost its disk, or was set back, does not return as what it was.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::{Nodes, ask_readonly, wait_for};

/// Longer than it takes to elect a leader.
const LONG: Duration = Duration::from_secs(2);

fn assert_nobody_leads(nodes: &Nodes) {
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        assert_eq!(nodes.find_leader(), None);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A follower's disk is emptied while it is down.
fn wipe_a_follower(nodes: &mut Nodes) -> u16 {
    let follower = nodes.follower();
    nodes.kill_9(follower);
    std::fs::remove_dir_all(nodes.data(follower)).unwrap();
    follower
}

#[test]
fn the_nodes_start_in_any_order_and_a_cluster_begins_when_all_have_met() {
    for order in [[3, 1, 2], [2, 3, 1]] {
        let mut nodes = Nodes::new();
        for (id, met) in order.into_iter().zip(1..) {
            nodes.start_one(id);
            if met < order.len() {
                assert_nobody_leads(&nodes);
            }
        }
        let mut client = nodes.client();
        client.until_done::<()>(&["SET", "a", "1"]);
        // From now on a majority is enough, whoever starts first.
        nodes.kill_9_all();
        nodes.start_one(order[2]);
        nodes.start_one(order[0]);
        assert_eq!(client.until_done::<String>(&["GET", "a"]), "1");
    }
}

#[test]
fn a_node_whose_disk_was_emptied_is_refused_and_the_others_go_on() {
    let mut nodes = Nodes::start();
    let mut client = nodes.client();
    client.until_done::<()>(&["SET", "a", "1"]);
    let wiped = wipe_a_follower(&mut nodes);
    for _ in 0..2 {
        let (code, error) = nodes.end_of(wiped);
        assert_eq!(code, Some(1), "{error}");
        let last = error.lines().last().unwrap();
        assert!(last.starts_with("error: refused by node "), "{error}");
        assert!(last.contains("its disk was emptied or replaced"), "{error}");
        assert!(last.contains("join anew, under a new number"), "{error}");
    }
    client.until_done::<()>(&["SET", "b", "2"]);
    assert_eq!(client.until_done::<String>(&["GET", "a"]), "1");
}

#[test]
fn a_blank_node_begins_no_cluster_where_there_is_one() {
    let mut nodes = Nodes::start();
    nodes.client().until_done::<()>(&["SET", "a", "1"]);
    let wiped = wipe_a_follower(&mut nodes);
    nodes.kill_9_all();
    nodes.start_one(wiped);
    assert_nobody_leads(&nodes);
    nodes.kill_9_all();
    // With one that knows better, neither the two of them are a majority.
    let other = nodes.ids().into_iter().find(|id| *id != wiped).unwrap();
    nodes.start_one(other);
    let (code, error) = nodes.end_of(wiped);
    assert_eq!(code, Some(1), "{error}");
    assert_nobody_leads(&nodes);
}

#[test]
fn a_node_whose_directory_was_set_back_is_refused_also_if_it_is_started_as_often_again() {
    for values in [&["2"][..], &["2", "3"]] {
        let mut nodes = Nodes::start();
        let mut client = nodes.client();
        client.until_done::<()>(&["SET", "a", "1"]);
        let follower = nodes.follower();
        nodes.kill_9(follower);
        let backup = backup_of(&nodes, follower);
        for value in values {
            nodes.start_one(follower);
            client.until_done::<()>(&["SET", "a", value]);
            nodes.wait_for_catching_up(follower);
            nodes.kill_9(follower);
        }
        std::fs::remove_dir_all(nodes.data(follower)).unwrap();
        std::fs::rename(&backup, nodes.data(follower)).unwrap();
        assert_is_set_back(nodes.end_of(follower));
        let last = values.last().copied().unwrap();
        assert_eq!(client.until_done::<String>(&["GET", "a"]), last);
    }
}

#[test]
fn of_two_copies_of_a_directory_the_one_that_comes_later_is_refused_and_the_other_goes_on() {
    for is_copy_first in [false, true] {
        let mut nodes = Nodes::start();
        let mut client = nodes.client();
        client.until_done::<()>(&["SET", "a", "1"]);
        let follower = nodes.follower();
        nodes.kill_9(follower);
        let copy = backup_of(&nodes, follower);
        match is_copy_first {
            true => nodes.start_copy(follower, &copy),
            false => nodes.start_one(follower),
        }
        client.until_done::<()>(&["SET", "a", "2"]);
        let address = nodes.address(follower + if is_copy_first { 5 } else { 0 });
        let until_it_has = |value: &str| {
            let value = redis::Value::BulkString(value.as_bytes().to_vec());
            wait_for("the first one to take part", || {
                let read = ask_readonly(&address, &["GET", "a"]).ok()?;
                (read == value).then_some(())
            });
        };
        until_it_has("2");
        assert_is_set_back(match is_copy_first {
            true => nodes.end_of(follower),
            false => nodes.end_of_copy(follower, &copy),
        });
        // The other one is needed for a majority.
        let third = nodes.ids().into_iter().find(|id| *id != follower).unwrap();
        nodes.kill_9(third);
        client.until_done::<()>(&["SET", "a", "3"]);
        until_it_has("3");
    }
}

fn backup_of(nodes: &Nodes, id: u16) -> PathBuf {
    let backup = nodes.data(id).with_extension("backup");
    copy_dir(&nodes.data(id), &backup);
    backup
}

fn assert_is_set_back((code, error): (Option<i32>, String)) {
    assert_eq!(code, Some(1), "{error}");
    let last = error.lines().last().unwrap();
    assert!(last.starts_with("error: refused by node "), "{error}");
    assert!(last.contains("its disk was set back"), "{error}");
    assert!(last.contains("join anew, under a new number"), "{error}");
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        match from.is_dir() {
            true => copy_dir(&from, &to),
            false => drop(std::fs::copy(&from, &to).unwrap()),
        }
    }
}
