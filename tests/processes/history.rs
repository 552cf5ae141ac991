//! What clients were told while nodes were killed with -9 is linearizable.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use duramen::sim::linearizable::{Model, Operation, Verdict, check};

use crate::support::{Client, Nodes, Outcome, ask, connect, wait_for};

/// One key: a number, or nothing.
struct Number;

#[derive(Debug, Clone, Copy)]
enum Call {
    Get,
    Set(i64),
    Increment,
}

impl Model for Number {
    type State = Option<i64>;
    type Call = Call;
    /// The number after the call.
    type Output = Option<i64>;

    fn step(state: &Option<i64>, call: &Call) -> (Option<i64>, Option<i64>) {
        let after = match call {
            Call::Get => *state,
            Call::Set(to) => Some(*to),
            Call::Increment => Some(state.unwrap_or(0) + 1),
        };
        (after, after)
    }
}

type History = Vec<Operation<Call, Option<i64>>>;

/// The checker is for short histories: after so many operations on these keys, others take their place.
const OPERATIONS_OF_A_KEY: u64 = 200;
const KEYS_AT_A_TIME: u64 = 3;

/// What all clients have called, each key by itself.
struct Record {
    start: Instant,
    drawn: AtomicU64,
    returned: AtomicU64,
    stop: AtomicBool,
    histories: Mutex<BTreeMap<String, History>>,
}

impl Record {
    fn new() -> Arc<Record> {
        Arc::new(Record {
            start: Instant::now(),
            drawn: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            histories: Mutex::default(),
        })
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// The number of the next operation, and its key.
    fn draw(&self) -> (u64, String) {
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
        let generation = drawn / (OPERATIONS_OF_A_KEY * KEYS_AT_A_TIME);
        (drawn, format!("{generation}-{}", drawn % KEYS_AT_A_TIME))
    }

    /// Notes how an operation ended. One that is certainly not done, and a read of which nothing came, explain nothing.
    fn note(&self, key: String, called: u64, call: Call, outcome: Outcome<Option<i64>>) {
        let returned = match (outcome, call) {
            (Outcome::Acknowledged(after), _) => {
                self.returned.fetch_add(1, Ordering::Relaxed);
                Some((self.now(), after))
            }
            (Outcome::Refused, _) | (Outcome::Unknown, Call::Get) => return,
            (Outcome::Unknown, _) => None,
        };
        let operation = Operation {
            called,
            call,
            returned,
        };
        let mut histories = self.histories.lock().unwrap();
        histories.entry(key).or_default().push(operation);
    }

    /// Calls until it is to stop.
    fn run(&self, mut carry_out: impl FnMut(u64, &str) -> (Call, Outcome<Option<i64>>)) {
        while !self.stop.load(Ordering::Relaxed) {
            let (number, key) = self.draw();
            let called = self.now();
            let (call, outcome) = carry_out(number, &key);
            self.note(key, called, call, outcome);
        }
    }

    fn wait_for_more(&self, more: u64) {
        let target = self.returned.load(Ordering::Relaxed) + more;
        wait_for("operations to return", || {
            (self.returned.load(Ordering::Relaxed) >= target).then_some(())
        });
    }

    /// How many operations are part of the histories, and how many of these have an outcome that nobody knows.
    fn check(&self) -> (usize, usize) {
        let histories = self.histories.lock().unwrap();
        for (key, history) in histories.iter() {
            let verdict = check::<Number>(history);
            assert_eq!(verdict, Verdict::Linearizable, "key {key}: {history:#?}");
        }
        let all = || histories.values().flatten();
        let unknown = all().filter(|operation| operation.returned.is_none());
        (all().count(), unknown.count())
    }
}

/// Writes, and reads by the leader.
fn call_at_leader(client: &mut Client, number: u64, key: &str) -> (Call, Outcome<Option<i64>>) {
    match number / KEYS_AT_A_TIME % 3 {
        0 => {
            let outcome = client.once::<()>(&["SET", key, &number.to_string()]);
            let value = number as i64;
            (Call::Set(value), outcome.map(|()| Some(value)))
        }
        1 => (Call::Increment, client.once(&["INCR", key])),
        _ => (Call::Get, client.once(&["GET", key])),
    }
}

/// Reads by whichever node, as a client that has said READONLY.
fn reader(addresses: Vec<String>) -> impl FnMut(u64, &str) -> (Call, Outcome<Option<i64>>) {
    let mut connections = BTreeMap::new();
    move |number, key| {
        let address = &addresses[(number / KEYS_AT_A_TIME) as usize % addresses.len()];
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
    let (operations, unknown) = record.check();
    println!("{operations} operations are linearizable, {unknown} of them with an unknown outcome");
    assert!(operations >= 2_400);
    assert!(unknown > 0, "nothing was under way when nodes were killed");
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
