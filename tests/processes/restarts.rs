//! A client that repeats what was not answered sees nodes come and go, and no command is carried out twice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use duramen::client::{Client, Value};

use crate::support::{Nodes, wait_for};

/// Clients that count, each in its session.
struct Counting {
    stop: Arc<AtomicBool>,
    counted: Arc<AtomicU64>,
    threads: Vec<JoinHandle<u64>>,
}

impl Counting {
    fn start(nodes: &Nodes, clients: usize) -> Counting {
        let (stop, counted) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let threads = (0..clients).map(|_| {
            let (stop, counted) = (stop.clone(), counted.clone());
            let mut client = Client::new(nodes.ids().map(|id| nodes.address(id)));
            std::thread::spawn(move || {
                let (mut calls, mut last) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    let value = client.call(&["INCR", "counter"]).unwrap();
                    let value = value.number().unwrap();
                    assert!(value > last, "{value} after {last}");
                    (calls, last) = (calls + 1, value);
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                client.close().unwrap();
                calls
            })
        });
        let threads = threads.collect();
        Counting {
            stop,
            counted,
            threads,
        }
    }

    fn wait_for_more(&self, more: u64) {
        let target = self.counted.load(Ordering::Relaxed) + more;
        wait_for("calls to return", || {
            let failed = self.threads.iter().any(JoinHandle::is_finished);
            assert!(!failed, "a call failed");
            (self.counted.load(Ordering::Relaxed) >= target).then_some(())
        });
    }

    /// The counter is what was counted: none was lost, and none counted twice.
    fn check(self, nodes: &Nodes) {
        self.stop.store(true, Ordering::Relaxed);
        let calls: u64 = self
            .threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum();
        let mut client = Client::new(nodes.ids().map(|id| nodes.address(id)));
        let counter = client.ask(&["GET", "counter"]).unwrap();
        println!("{calls} calls");
        assert_eq!(counter, Value::Bulk(calls.to_string().into_bytes()));
    }
}

#[test]
fn no_call_fails_and_each_counts_once_while_the_nodes_are_restarted_in_turn() {
    let mut nodes = Nodes::start();
    let counting = Counting::start(&nodes, 3);
    counting.wait_for_more(50);
    for id in nodes.ids() {
        assert_eq!(nodes.terminate(id), Some(0), "node {id} ends well");
        counting.wait_for_more(50);
        nodes.start_one(id);
        wait_for("the node to know the leader", || {
            (nodes.info(id, "raft_leader")? != "none").then_some(())
        });
        counting.wait_for_more(50);
    }
    counting.check(&nodes);
}

#[test]
fn each_call_counts_once_while_leaders_are_killed_with_9_and_then_all() {
    let mut nodes = Nodes::start();
    let counting = Counting::start(&nodes, 3);
    counting.wait_for_more(50);
    for _ in 0..3 {
        let leader = nodes.leader();
        nodes.kill_9(leader);
        counting.wait_for_more(50);
        nodes.start_one(leader);
        counting.wait_for_more(50);
    }
    nodes.kill_9_all();
    nodes.start_all();
    counting.wait_for_more(50);
    counting.check(&nodes);
}
