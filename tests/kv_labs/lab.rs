//! The labs' test harness, around the simulated cluster.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use duramen::kv::Kv;
use duramen::session::Sessions;
use duramen::sim::{Faults, Settings, World};
use duramen::wal::NodeId;

use super::clerk::{Answer, Call, Clerk, Counts, Store, Wire};

/// The labs' election timeout, as far as its scenarios wait for it.
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// The labs' limit on what a server keeps for Raft, where it takes snapshots; a log may have eight times as much.
pub(crate) const RAFT_STATE_MAX: u64 = 1000;
/// No call of a scenario that goes on by itself takes longer.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// A lossy network as the labs': a tenth of the requests and of the answers is lost, all are late.
const LOST_PERCENT: u32 = 10;
const DELAY_MILLIS: u64 = 26;

/// What stands around a command in a log, at the most: its session, its id, and the log's own.
const ENTRY_BYTES: u64 = 128;

/// How a cluster is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) servers: u64,
    pub(crate) is_unreliable: bool,
    /// Whether the servers take a snapshot for each [`RAFT_STATE_MAX`] bytes. They take none else.
    pub(crate) has_snapshots: bool,
}

impl Setup {
    pub(crate) fn of(servers: u64) -> Setup {
        Setup {
            servers,
            is_unreliable: false,
            has_snapshots: false,
        }
    }
}

/// A cluster of servers, numbered from 0 as in the labs.
pub(crate) struct Lab {
    pub(crate) world: World<Store>,
    pub(crate) rng: fastrand::Rng,
    servers: u64,
    wire: Wire,
    crashes: u64,
    partitions: u64,
    clerks: Counts,
    /// The longest of the clerks' commands: key and value.
    command_bytes_max: u64,
}

impl Lab {
    pub(crate) fn new(seed: u64, setup: Setup) -> Lab {
        let mut settings = Settings::default();
        if setup.has_snapshots {
            settings.node.snapshot_bytes = RAFT_STATE_MAX;
        }
        let make_state = |_| Sessions::new(Kv::default());
        let mut world = World::new(seed, setup.servers, settings, make_state);
        let mut wire = Wire {
            lost: 0,
            delay: Duration::ZERO,
        };
        if setup.is_unreliable {
            world.set_faults(Faults {
                lost: LOST_PERCENT,
                delay_millis: DELAY_MILLIS,
                ..Faults::default()
            });
            wire = Wire {
                lost: LOST_PERCENT,
                delay: Duration::from_millis(DELAY_MILLIS),
            };
        }
        // The labs' servers do not wait for each other at their first start.
        world.run_for(Duration::from_millis(100));
        Lab {
            world,
            rng: fastrand::Rng::with_seed(seed),
            servers: setup.servers,
            wire,
            crashes: 0,
            partitions: 0,
            clerks: Counts::default(),
            command_bytes_max: 0,
        }
    }

    pub(crate) fn servers(&self) -> Vec<u64> {
        (0..self.servers).collect()
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.world.run_for(time);
    }

    /// The server that leads, waiting for one.
    pub(crate) fn leader(&mut self) -> u64 {
        let is_led = self
            .world
            .run_until(CALL_LIMIT, |world| world.leader().is_some());
        assert!(is_led, "no leader within {CALL_LIMIT:?}");
        self.world.leader().unwrap().0 - 1
    }
}

fn id_of(server: u64) -> NodeId {
    NodeId(server + 1)
}

/// Network and processes.
impl Lab {
    /// Cuts the servers of each part off from those of the others.
    pub(crate) fn partition(&mut self, parts: &[Vec<u64>]) {
        self.partitions += 1;
        self.world.heal_links();
        for (at, part) in parts.iter().enumerate() {
            let others = parts.iter().enumerate().filter(|(other, _)| *other != at);
            for other in others.flat_map(|(_, other)| other) {
                part.iter()
                    .for_each(|one| self.world.cut(id_of(*one), id_of(*other)));
            }
        }
    }

    pub(crate) fn connect_all(&mut self) {
        self.world.heal_links();
    }

    /// All machines lose their power.
    pub(crate) fn crash_all(&mut self) {
        for server in self.servers() {
            self.crashes += 1;
            self.world.cut_power(id_of(server));
        }
    }

    pub(crate) fn start_all(&mut self) {
        for server in self.servers() {
            self.world.start(id_of(server));
        }
        let ended = self.world.take_ended();
        assert!(ended.is_empty(), "{ended:?}");
    }
}

/// Clerks.
impl Lab {
    /// A clerk that reaches all servers.
    pub(crate) fn clerk(&self) -> Clerk {
        self.clerk_of(&self.servers())
    }

    /// A clerk that reaches some servers.
    pub(crate) fn clerk_of(&self, servers: &[u64]) -> Clerk {
        Clerk::new(ids_of(servers))
    }

    /// A clerk reaches these servers from now on.
    pub(crate) fn let_reach(&self, clerk: &mut Clerk, servers: &[u64]) {
        clerk.reach(ids_of(servers));
    }

    /// Lets a clerk begin a call.
    pub(crate) fn begin(&mut self, clerk: &mut Clerk, call: Call) {
        if let Call::Put(key, value) | Call::Append(key, value) = &call {
            let bytes = (key.len() + value.len()) as u64;
            self.command_bytes_max = self.command_bytes_max.max(bytes);
        }
        clerk.begin(call);
    }

    /// Lets a clerk go on. Gives the answer to its call, once.
    pub(crate) fn step(&mut self, clerk: &mut Clerk) -> Option<Answer> {
        clerk.step(&mut self.world, self.wire, &mut self.rng)
    }

    /// Lets time pass until a clerk's call is answered, or for so long.
    pub(crate) fn wait_for(&mut self, clerk: &mut Clerk, time: Duration) -> Option<Answer> {
        let end = self.world.now() + time;
        while self.world.now() < end {
            if let Some(answer) = self.step(clerk) {
                return Some(answer);
            }
            self.world.step();
        }
        None
    }

    fn call(&mut self, clerk: &mut Clerk, call: Call) -> Answer {
        self.begin(clerk, call);
        let answer = self.wait_for(clerk, CALL_LIMIT);
        answer.unwrap_or_else(|| panic!("no answer within {CALL_LIMIT:?}"))
    }

    pub(crate) fn put(&mut self, clerk: &mut Clerk, key: &str, value: &str) {
        let call = Call::Put(bytes(key), bytes(value));
        assert_eq!(self.call(clerk, call), Answer::Done);
    }

    pub(crate) fn append(&mut self, clerk: &mut Clerk, key: &str, value: &str) {
        let answer = self.call(clerk, Call::Append(bytes(key), bytes(value)));
        assert!(matches!(answer, Answer::Length(_)), "{answer:?}");
    }

    pub(crate) fn get(&mut self, clerk: &mut Clerk, key: &str) -> Bytes {
        match self.call(clerk, Call::Get(bytes(key))) {
            Answer::Value(value) => value,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn check(&mut self, clerk: &mut Clerk, key: &str, expected: &str) {
        assert_eq!(self.get(clerk, key), expected, "key {key}");
    }

    /// A clerk is not used any more: what it did counts.
    pub(crate) fn dismiss(&mut self, clerk: Clerk) {
        self.clerks.answered += clerk.counts.answered;
        self.clerks.repeated += clerk.counts.repeated;
        self.clerks.follower_reads += clerk.counts.follower_reads;
    }
}

fn ids_of(servers: &[u64]) -> Vec<NodeId> {
    servers.iter().map(|server| id_of(*server)).collect()
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Limits.
impl Lab {
    /// The logs have no more than eight times what the labs allow.
    pub(crate) fn check_log_bytes(&self) {
        let lengths = self.world.nodes().map(|node| {
            let (base, last) = (node.raft().base(), node.raft().last());
            last.index.0 - base.index.0
        });
        let longest = lengths.max().unwrap_or(0);
        let bytes = longest * (ENTRY_BYTES + self.command_bytes_max);
        assert!(
            bytes <= 8 * RAFT_STATE_MAX,
            "a log of {longest} entries, up to {bytes} bytes"
        );
    }

    /// The largest of the servers' newest snapshots: the store, and its sessions.
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        let newest = self.world.nodes().filter_map(|node| {
            let all = node.storage().snapshots().list();
            all.into_iter()
                .map(|it| it.manifest)
                .max_by_key(|manifest| manifest.meta().last_index)
        });
        newest.map(|manifest| manifest.bytes()).max().unwrap_or(0)
    }

    /// What came up.
    pub(crate) fn seen(&self) -> Seen {
        let totals = self.world.totals();
        Seen {
            answered: self.clerks.answered,
            repeated: self.clerks.repeated,
            follower_reads: self.clerks.follower_reads,
            leaders: self.world.leaders_seen(),
            crashes: self.crashes,
            partitions: self.partitions,
            snapshots: totals.snapshots_taken,
            installs: totals.snapshots_installed,
            time: self.world.now(),
        }
    }
}

/// What came up in a scenario.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// Calls that were answered.
    pub(crate) answered: u64,
    /// Of those, the ones that had to be sent again, though they might have been done.
    pub(crate) repeated: u64,
    /// Reads that a server answered which did not lead.
    pub(crate) follower_reads: u64,
    /// Terms that had a leader.
    pub(crate) leaders: u64,
    /// Servers that crashed.
    pub(crate) crashes: u64,
    pub(crate) partitions: u64,
    /// Snapshots that were taken.
    pub(crate) snapshots: u64,
    /// Snapshots that were taken in from another server.
    pub(crate) installs: u64,
    /// In the clusters' own time.
    pub(crate) time: Duration,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} calls, {} sent again, {} reads on followers, {} leaders, {} crashes, {} partitions, {} snapshots, {} installs, {} s",
            self.answered,
            self.repeated,
            self.follower_reads,
            self.leaders,
            self.crashes,
            self.partitions,
            self.snapshots,
            self.installs,
            self.time.as_secs()
        )
    }
}

pub(crate) const SEEDS: u64 = 5;

/// Runs a scenario with several seeds. Each has other timeouts, delays and losses. Gives, and says, what came up in all of them.
pub(crate) fn each_seed(scenario: impl Fn(u64) -> Seen) -> Seen {
    let mut sum = Seen::default();
    for seen in (0..SEEDS).map(scenario) {
        sum.answered += seen.answered;
        sum.repeated += seen.repeated;
        sum.follower_reads += seen.follower_reads;
        sum.leaders += seen.leaders;
        sum.crashes += seen.crashes;
        sum.partitions += seen.partitions;
        sum.snapshots += seen.snapshots;
        sum.installs += seen.installs;
        sum.time += seen.time;
    }
    println!("{sum}");
    sum
}
