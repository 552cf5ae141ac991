//! What clients were told while nodes were killed with -9 is linearizable.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use duramen::sim::history::{Call, History};

use crate::support::{Client, Nodes, Outcome, ask, connect, wait_for};

/// Clients that note what they call and are told.
struct Record {
    history: History,
    stop: AtomicBool,
}

impl Record {
    fn new() -> Arc<Record> {
        Arc::new(Record {
            history: History::new(""),
            stop: AtomicBool::new(false),
        })
    }

    /// Calls until it is to stop.
    fn run(&self, mut carry_out: impl FnMut(u64, &str) -> (Call, Outcome<Option<i64>>)) {
        while !self.stop.load(Ordering::Relaxed) {
            let (number, key) = self.history.draw();
            let called = self.history.now();
            let (call, outcome) = carry_out(number, &key);
            self.history.note(key, called, call, outcome);
        }
    }

    fn wait_for_more(&self, more: u64) {
        let target = self.history.returned() + more;
        wait_for("operations to return", || {
            (self.history.returned() >= target).then_some(())
        });
    }
}

/// Writes, and reads by the leader.
fn call_at_leader(client: &mut Client, number: u64, key: &str) -> (Call, Outcome<Option<i64>>) {
    let call = History::call(number);
    let outcome = match call {
        Call::Set(value) => {
            let outcome = client.once::<()>(&["SET", key, &value.to_string()]);
            outcome.map(|()| Some(value))
        }
        Call::Increment => client.once(&["INCR", key]),
        Call::Get => client.once(&["GET", key]),
    };
    (call, outcome)
}

/// Reads by whichever node, as a client that has said READONLY.
fn reader(addresses: Vec<String>) -> impl FnMut(u64, &str) -> (Call, Outcome<Option<i64>>) {
    let mut connections = BTreeMap::new();
    move |number, key| {
        let address = &addresses[number as usize / 3 % addresses.len()];
        if !connections.contains_key(address) {
            let opened = connect(address).and_then(|mut connection| {
                redis::cmd("READONLY").query::<()>(&mut connection)?;
                Ok(connection)
            });
            match opened {
                Ok(connection) => connections.insert(address.clone(), connection),
                Err(_) => return (Call::Get, Outcome::Refused),
            };
        }
        let connection = connections.get_mut(address).unwrap();
        match redis::cmd("GET").arg(key).query(connection) {
            Ok(value) => (Call::Get, Outcome::Acknowledged(value)),
            Err(_) => {
                connections.remove(address);
                (Call::Get, Outcome::Refused)
            }
        }
    }
}

fn start_clients(nodes: &Nodes, record: &Arc<Record>) -> Vec<JoinHandle<()>> {
    let writers = (0..4).map(|_| {
        let (record, mut client) = (record.clone(), nodes.client());
        std::thread::spawn(move || {
            record.run(|number, key| call_at_leader(&mut client, number, key));
        })
    });
    let mut threads: Vec<_> = writers.collect();
    for _ in 0..2 {
        let (record, addresses) = (record.clone(), nodes.ids().map(|id| nodes.address(id)));
        let read = reader(addresses.to_vec());
        threads.push(std::thread::spawn(move || record.run(read)));
    }
    threads
}

#[test]
fn what_clients_were_told_while_nodes_were_killed_is_linearizable() {
    let mut nodes = Nodes::start();
    let record = Record::new();
    let threads = start_clients(&nodes, &record);
    record.wait_for_more(300);
    for victim in [Nodes::leader, Nodes::follower, Nodes::leader] {
        let victim = victim(&nodes);
        nodes.kill_9(victim);
        record.wait_for_more(300);
        nodes.start_one(victim);
        record.wait_for_more(300);
    }
    nodes.kill_9_all();
    nodes.start_all();
    record.wait_for_more(300);
    record.stop.store(true, Ordering::Relaxed);
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    let checked = record.history.check().unwrap();
    println!("linearizable: {checked:?}");
    assert!(checked.operations >= 2_400);
    assert!(
        checked.unknown > 0,
        "nothing was under way when nodes were killed"
    );
}

#[test]
fn a_read_by_a_follower_sees_what_was_acknowledged_before() {
    let nodes = Nodes::start();
    let (mut client, follower) = (nodes.client(), nodes.address(nodes.follower()));
    let mut connection = connect(&follower).unwrap();
    redis::cmd("READONLY").query::<()>(&mut connection).unwrap();
    for number in 0..100 {
        client.until_done::<()>(&["SET", "a", &number.to_string()]);
        let read: u64 = redis::cmd("GET").arg("a").query(&mut connection).unwrap();
        assert_eq!(read, number);
    }
    let refused = ask::<u64>(&follower, &["GET", "a"]).unwrap_err();
    assert!(refused.redirect_node().is_some(), "{refused}");
}
