//! Clients that write to a cluster and read from it, each in its session, and note what they were told.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use duramen::client::{Client, Connection, Error, Value};
use duramen::sim::history::{Call, History, Outcome};

/// All of them. They stop when they are told.
pub(super) struct Load {
    history: Arc<History>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

const WRITERS: usize = 4;
/// A reader asks a node for no longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// And waits so long before it asks one again that did not answer.
const PAUSE: Duration = Duration::from_millis(10);

impl Load {
    /// Clients of these nodes, on keys that begin with `prefix`.
    pub(super) fn start(prefix: &str, addresses: &[String]) -> Load {
        let mut load = Load {
            history: Arc::new(History::new(prefix)),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..WRITERS {
            let mut client = Client::new(addresses);
            load.run(move |number, key| {
                let call = History::call(number);
                (call, carry_out(&mut client, key, call))
            });
        }
        let mut reader = Reader {
            addresses: addresses.to_vec(),
            connections: BTreeMap::new(),
        };
        load.run(move |number, key| (Call::Get, reader.read(number, key)));
        load
    }

    fn run(
        &mut self,
        mut carry_out: impl FnMut(u64, &str) -> (Call, Outcome<Option<i64>>) + Send + 'static,
    ) {
        let (history, stop) = (self.history.clone(), self.stop.clone());
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let (number, key) = history.draw();
                let called = history.now();
                let (call, outcome) = carry_out(number, &key);
                history.note(key, called, call, outcome);
            }
        }));
    }

    /// How many operations were answered.
    pub(super) fn returned(&self) -> u64 {
        self.history.returned()
    }

    /// Waits until the last operations have returned.
    pub(super) fn stop(self) -> Arc<History> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
        self.history
    }
}

fn carry_out(client: &mut Client, key: &str, call: Call) -> Outcome<Option<i64>> {
    let answer = match call {
        Call::Get => client.ask(&["GET", key]),
        Call::Set(value) => client.call(&["SET", key, &value.to_string()]),
        Call::Increment => client.call(&["INCR", key]),
    };
    match (answer, call) {
        (Ok(_), Call::Set(value)) => Outcome::Acknowledged(Some(value)),
        (Ok(answer), Call::Get | Call::Increment) => Outcome::Acknowledged(number(&answer)),
        (Err(Error::Unknown { .. }), _) => Outcome::Unknown,
        (Err(_), _) => Outcome::Refused,
    }
}

/// The number that a key has, or nothing.
pub(super) fn number(answer: &Value) -> Option<i64> {
    match answer {
        Value::Integer(number) => Some(*number),
        answer => answer.text()?.parse().ok(),
    }
}

/// Reads at all nodes in turn, whoever leads.
struct Reader {
    addresses: Vec<String>,
    connections: BTreeMap<String, Connection>,
}

impl Reader {
    fn read(&mut self, number: u64, key: &str) -> Outcome<Option<i64>> {
        let address = self.addresses[number as usize / 3 % self.addresses.len()].clone();
        match self.ask(&address, key) {
            Ok(Ok(value)) => Outcome::Acknowledged(self::number(&value)),
            // It knows no leader, or is not there.
            Ok(Err(_)) | Err(_) => {
                self.connections.remove(&address);
                thread::sleep(PAUSE);
                Outcome::Refused
            }
        }
    }

    fn ask(&mut self, address: &str, key: &str) -> io::Result<Result<Value, String>> {
        if !self.connections.contains_key(address) {
            let mut connection = Connection::open(address, ANSWER_TIMEOUT)?;
            connection.ask(&["READONLY"])?.map_err(io::Error::other)?;
            self.connections.insert(address.to_owned(), connection);
        }
        let connection = self.connections.get_mut(address);
        connection.expect("it was just inserted").ask(&["GET", key])
    }
}
