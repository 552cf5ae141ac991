//! The labs' generic test: clients that append to their keys and read them, while the network is bad, the servers are partitioned at
//! random, and all crash, three times.

use std::time::Duration;

use bytes::Bytes;
use duramen::sim::linearizable::{self, Model, Operation, Verdict};

use super::clerk::{Answer, Call, Clerk};
use super::lab::{ELECTION_TIMEOUT, Lab, SEEDS, Seen, Setup, each_seed};

/// What clients meet with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Generic {
    pub(crate) clients: usize,
    pub(crate) setup: Setup,
    pub(crate) is_partitioned: bool,
    pub(crate) crashes: bool,
    /// Whether each client uses all keys, not only its own: what they are told must be linearizable then.
    pub(crate) has_shared_keys: bool,
}

/// A client alone, and nothing happens.
pub(crate) const GENERIC: Generic = Generic {
    clients: 1,
    setup: Setup {
        servers: 5,
        is_unreliable: false,
        has_snapshots: false,
    },
    is_partitioned: false,
    crashes: false,
    has_shared_keys: false,
};

const ROUNDS: u64 = 3;
const LOAD_TIME: Duration = Duration::from_secs(5);
/// Of the load without partitions, before they begin.
const QUIET_TIME: Duration = Duration::from_secs(1);
/// A client waits up to this before its next call, so that values do not grow without end.
const THINK_MICROS_MAX: u64 = 20_000;
/// When all is well, what was begun ends within this time.
const END_LIMIT: Duration = Duration::from_secs(20);

impl Generic {
    /// With each seed; enough must have come up.
    pub(crate) fn run(self) {
        let seen = each_seed(|seed| Run::new(self, seed).whole());
        let crashes = if self.crashes {
            ROUNDS * self.setup.servers
        } else {
            0
        };
        assert_eq!(seen.crashes, SEEDS * crashes);
        // What is lost is missed for half a second, and without a majority there is no answer at all.
        let per_second = match (self.setup.is_unreliable, self.is_partitioned) {
            (false, false) => 40,
            (false, true) => 25,
            (true, _) => 2,
        };
        let load_seconds = SEEDS * ROUNDS * LOAD_TIME.as_secs();
        let floor = load_seconds * per_second * self.clients as u64;
        assert!(seen.answered >= floor, "{seen}");
        assert!(seen.follower_reads * 8 >= seen.answered, "{seen}");
        if self.setup.is_unreliable {
            assert!(seen.repeated * 20 >= seen.answered, "{seen}");
        }
        if self.is_partitioned {
            assert!(seen.partitions >= SEEDS * ROUNDS * 4, "{seen}");
            assert!(
                seen.leaders >= SEEDS * ROUNDS && seen.repeated > 0,
                "{seen}"
            );
        }
        if self.setup.has_snapshots {
            assert!(seen.snapshots >= 10 * SEEDS * ROUNDS, "{seen}");
        }
        if self.setup.has_snapshots && self.is_partitioned {
            assert!(seen.installs >= SEEDS * ROUNDS, "{seen}");
        }
    }
}

struct Client {
    number: usize,
    clerk: Clerk,
    /// How many values it has made.
    made: u64,
    /// What is at its own key.
    last: String,
    /// The object of its call, and when it began.
    under_way: Option<(usize, Call, u64)>,
    waits_until: Duration,
}

/// A key of several clients: one object.
struct Register;

impl Model for Register {
    type State = Bytes;
    type Call = Call;
    type Output = Answer;

    fn step(state: &Bytes, call: &Call) -> (Bytes, Answer) {
        match call {
            Call::Get(_) => (state.clone(), Answer::Value(state.clone())),
            Call::Put(_, value) => (value.clone(), Answer::Done),
            Call::Append(_, more) => {
                let whole = Bytes::from([&state[..], more].concat());
                let len = whole.len();
                (whole, Answer::Length(len))
            }
        }
    }
}

struct Run {
    what: Generic,
    lab: Lab,
    clients: Vec<Client>,
    /// Of each key.
    histories: Vec<Vec<Operation<Call, Answer>>>,
}

impl Run {
    fn new(what: Generic, seed: u64) -> Run {
        Run {
            what,
            lab: Lab::new(seed, what.setup),
            clients: Vec::new(),
            histories: vec![Vec::new(); what.clients],
        }
    }

    fn whole(mut self) -> Seen {
        let mut reader = self.lab.clerk();
        for _ in 0..ROUNDS {
            self.clients = (0..self.what.clients)
                .map(|number| Client::new(number, self.lab.clerk()))
                .collect();
            self.load();
            if self.what.crashes {
                self.lab.crash_all();
                self.lab.pass(ELECTION_TIMEOUT);
                self.lab.start_all();
            }
            self.end();
            for client in std::mem::take(&mut self.clients) {
                if !self.what.has_shared_keys {
                    self.lab
                        .check(&mut reader, &key(client.number), &client.last);
                }
                self.lab.dismiss(client.clerk);
            }
            if self.what.setup.has_snapshots {
                self.lab.check_log_bytes();
            }
        }
        if !self.what.setup.has_snapshots {
            assert_eq!(self.lab.snapshot_bytes(), 0, "there should be no snapshot");
        }
        self.lab.dismiss(reader);
        self.check_histories();
        self.lab.seen()
    }

    /// The clients call, and the servers are partitioned time and again.
    fn load(&mut self) {
        if self.what.is_partitioned {
            self.pass(QUIET_TIME, true);
        }
        let end = self.lab.world.now() + LOAD_TIME;
        while self.lab.world.now() < end {
            if self.what.is_partitioned {
                self.partition();
                let more = Duration::from_millis(self.lab.rng.u64(..200));
                self.pass(ELECTION_TIMEOUT + more, true);
            } else {
                self.pass(LOAD_TIME, true);
            }
        }
        if self.what.is_partitioned {
            self.lab.connect_all();
            self.pass(ELECTION_TIMEOUT, false);
        }
    }

    fn partition(&mut self) {
        let mut parts = [Vec::new(), Vec::new()];
        for server in self.lab.servers() {
            parts[self.lab.rng.usize(..2)].push(server);
        }
        self.lab.partition(&parts);
    }

    fn pass(&mut self, time: Duration, is_calling: bool) {
        let end = self.lab.world.now() + time;
        while self.lab.world.now() < end {
            self.step(is_calling);
        }
    }

    /// What was begun ends.
    fn end(&mut self) {
        let end = self.lab.world.now() + END_LIMIT;
        while self.clients.iter().any(|client| client.clerk.is_busy()) {
            assert!(
                self.lab.world.now() < end,
                "a call is open after {END_LIMIT:?}"
            );
            self.step(false);
        }
    }

    fn step(&mut self, is_calling: bool) {
        self.lab.world.step();
        let now = self.lab.world.now();
        for client in &mut self.clients {
            if !client.clerk.is_busy() && is_calling && client.waits_until <= now {
                let (key, call) = match self.what.has_shared_keys {
                    true => client.draw(&mut self.lab.rng, self.what.clients),
                    false => (client.number, client.draw_own(&mut self.lab.rng)),
                };
                self.lab.begin(&mut client.clerk, call.clone());
                client.under_way = Some((key, call, micros(now)));
            }
            let Some(answer) = self.lab.step(&mut client.clerk) else {
                continue;
            };
            let think = self.lab.rng.u64(..THINK_MICROS_MAX);
            client.waits_until = now + Duration::from_micros(think);
            let (key, call, called) = client.under_way.take().expect("it called");
            match self.what.has_shared_keys {
                true => self.histories[key].push(Operation {
                    called,
                    call,
                    returned: Some((micros(now), answer)),
                }),
                false => client.check_own(&call, &answer),
            }
        }
    }

    fn check_histories(&self) {
        for (key, history) in self.histories.iter().enumerate() {
            let verdict = linearizable::check::<Register>(history);
            assert_eq!(verdict, Verdict::Linearizable, "key {key}: {history:#?}");
        }
    }
}

impl Client {
    fn new(number: usize, clerk: Clerk) -> Client {
        Client {
            number,
            clerk,
            made: 0,
            last: String::new(),
            under_way: None,
            waits_until: Duration::ZERO,
        }
    }

    /// A value that no other client makes.
    fn value(&mut self) -> Bytes {
        self.made += 1;
        format!("x {} {} y", self.number, self.made).into()
    }

    /// Half of the calls append to the client's own key, half read it; the first one empties it.
    fn draw_own(&mut self, rng: &mut fastrand::Rng) -> Call {
        let key = key(self.number).into();
        match self.made {
            0 => {
                self.made = 1;
                Call::Put(key, Bytes::new())
            }
            _ if rng.bool() => Call::Append(key, self.value()),
            _ => Call::Get(key),
        }
    }

    /// Half of the calls append to any key, and one in twenty sets it.
    fn draw(&mut self, rng: &mut fastrand::Rng, keys: usize) -> (usize, Call) {
        let object = rng.usize(..keys);
        let key = key(object).into();
        let call = match rng.u32(..100) {
            0..50 => Call::Append(key, self.value()),
            50..55 => Call::Put(key, self.value()),
            _ => Call::Get(key),
        };
        (object, call)
    }

    /// At its own key are exactly its values, in order.
    fn check_own(&mut self, call: &Call, answer: &Answer) {
        let expected = match call {
            Call::Get(_) => Answer::Value(self.last.clone().into()),
            Call::Put(..) => Answer::Done,
            Call::Append(_, more) => {
                self.last += std::str::from_utf8(more).unwrap();
                Answer::Length(self.last.len())
            }
        };
        assert_eq!(*answer, expected, "{call:?} of client {}", self.number);
    }
}

fn key(number: usize) -> String {
    number.to_string()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}
