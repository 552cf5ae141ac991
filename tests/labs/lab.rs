//! The labs' test harness, around the simulated cluster.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes};
use duramen::node::{Frozen, Input, StateMachine};
use duramen::sim::{Faults, Settings, SimNode, Traffic, World};
use duramen::wal::{NodeId, Term};

/// The labs' election timeout, as far as its scenarios wait for it.
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
const LEADER_LIMIT: Duration = Duration::from_secs(5);
const AGREEMENT_LIMIT: Duration = Duration::from_secs(10);
/// A command that was not committed in this time is proposed again.
const RETRY_TIME: Duration = Duration::from_secs(2);

/// The commands of each server, in the order in which it applied them; compared with those of the others as they come.
pub(crate) struct Log {
    applied: Vec<Bytes>,
    all: Arc<Mutex<Vec<Bytes>>>,
}

impl Log {
    fn check(&self, from: usize) {
        let mut all = self.all.lock().unwrap();
        for (at, command) in self.applied.iter().enumerate().skip(from) {
            match all.get(at) {
                None => all.push(command.clone()),
                Some(known) => assert_eq!(known, command, "two commands at index {}", at + 1),
            }
        }
    }
}

impl StateMachine for Log {
    /// Its index.
    type Output = usize;

    fn apply(&mut self, command: &[u8]) -> usize {
        self.applied.push(Bytes::copy_from_slice(command));
        self.check(self.applied.len() - 1);
        self.applied.len()
    }

    fn freeze(&self) -> Frozen {
        let applied = self.applied.clone();
        Box::new(move |to| {
            for command in &applied {
                to.write_all(&(command.len() as u32).to_le_bytes())?;
                to.write_all(command)?;
            }
            Ok(())
        })
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let mut bytes = Bytes::from(bytes);
        self.applied.clear();
        while !bytes.is_empty() {
            let len = bytes.get_u32_le() as usize;
            self.applied.push(bytes.split_to(len));
        }
        self.check(0);
        Ok(())
    }
}

/// Runs a scenario with several seeds. Each has other timeouts, delays and losses.
pub(crate) fn each_seed(scenario: impl Fn(u64)) {
    (0..5).for_each(scenario);
}

/// A cluster of servers, numbered from 0 as in the labs.
pub(crate) struct Lab {
    pub(crate) world: World<Log>,
    pub(crate) rng: fastrand::Rng,
    servers: usize,
    disconnected: BTreeSet<usize>,
    commands: u64,
}

impl Lab {
    pub(crate) fn new(seed: u64, servers: usize) -> Lab {
        Lab::with_settings(seed, servers, Settings::default())
    }

    pub(crate) fn unreliable(seed: u64, servers: usize) -> Lab {
        let mut lab = Lab::new(seed, servers);
        lab.world.set_faults(UNRELIABLE);
        lab
    }

    /// A snapshot every ten commands.
    pub(crate) fn with_snapshots(seed: u64, servers: usize) -> Lab {
        let mut settings = Settings::default();
        settings.node.snapshot_bytes = 10 * (8 + 64);
        Lab::with_settings(seed, servers, settings)
    }

    fn with_settings(seed: u64, servers: usize, settings: Settings) -> Lab {
        let all: Arc<Mutex<Vec<Bytes>>> = Arc::default();
        let make_log = move |_| Log {
            applied: Vec::new(),
            all: all.clone(),
        };
        let mut lab = Lab {
            world: World::new(seed, servers as u64, settings, make_log),
            rng: fastrand::Rng::with_seed(seed),
            servers,
            disconnected: BTreeSet::new(),
            commands: 0,
        };
        // The labs' servers do not wait for each other at their first start.
        lab.pass(Duration::from_millis(100));
        lab
    }

    pub(crate) fn servers(&self) -> std::ops::Range<usize> {
        0..self.servers
    }

    pub(crate) fn after(&self, server: usize, steps: usize) -> usize {
        (server + steps) % self.servers
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.world.run_for(time);
    }

    pub(crate) fn pass_millis(&mut self, millis: u64) {
        self.pass(Duration::from_millis(millis));
    }

    fn node(&self, server: usize) -> Option<&SimNode<Log>> {
        self.world.node(id_of(server))
    }

    fn connected(&self) -> impl Iterator<Item = usize> + '_ {
        self.servers().filter(|server| {
            !self.disconnected.contains(server) && self.world.is_up(id_of(*server))
        })
    }
}

/// A lossy network as the labs': a tenth of the requests and of the replies is lost, all are late.
pub(crate) const UNRELIABLE: Faults = Faults {
    lost: 10,
    doubled: 0,
    delay_millis: 26,
    late: 0,
};

/// The labs' "long reordering": two thirds of the replies take up to two seconds.
pub(crate) const LONG_REORDERING: Faults = Faults {
    late: 33,
    ..UNRELIABLE
};

fn id_of(server: usize) -> NodeId {
    NodeId(server as u64 + 1)
}

/// Network and processes.
impl Lab {
    pub(crate) fn disconnect(&mut self, server: usize) {
        self.disconnected.insert(server);
        self.world.isolate(id_of(server));
    }

    pub(crate) fn connect(&mut self, server: usize) {
        self.disconnected.remove(&server);
        self.world.heal_links();
        for &server in &self.disconnected {
            self.world.isolate(id_of(server));
        }
    }

    pub(crate) fn is_connected(&self, server: usize) -> bool {
        !self.disconnected.contains(&server)
    }

    pub(crate) fn is_up(&self, server: usize) -> bool {
        self.world.is_up(id_of(server))
    }

    /// The machine loses its power.
    pub(crate) fn crash(&mut self, server: usize) {
        if self.is_up(server) {
            self.world.cut_power(id_of(server));
        }
    }

    /// Starts a server; one that is up crashes first.
    pub(crate) fn start(&mut self, server: usize) {
        self.crash(server);
        self.world.start(id_of(server));
        let ended = self.world.take_ended();
        assert!(ended.is_empty(), "{ended:?}");
    }

    pub(crate) fn crash_all(&mut self) {
        self.servers().for_each(|server| self.crash(server));
        self.servers().for_each(|server| self.start(server));
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.world.traffic()
    }
}

/// Elections.
impl Lab {
    fn leads(&self, server: usize) -> Option<Term> {
        let status = self.node(server)?.status();
        (status.leader == Some(status.id)).then_some(status.term)
    }

    /// The leader of the connected servers; within 5 s there must be one.
    pub(crate) fn check_one_leader(&mut self) -> usize {
        let start = self.world.now();
        loop {
            let leaders = self
                .connected()
                .filter_map(|server| Some((self.leads(server)?, server)));
            if let Some((term, leader)) = leaders.max() {
                let is_newest = self.connected().all(|server| {
                    self.node(server)
                        .is_none_or(|node| node.status().term <= term)
                });
                if is_newest {
                    return leader;
                }
            }
            assert!(
                self.world.now() < start + LEADER_LIMIT,
                "no leader within {LEADER_LIMIT:?}"
            );
            self.pass_millis(1);
        }
    }

    pub(crate) fn check_no_leader(&self) {
        let leaders: Vec<usize> = self
            .connected()
            .filter(|server| self.leads(*server).is_some())
            .collect();
        assert_eq!(leaders, [], "they lead no majority");
    }

    /// The term in which all connected servers are.
    pub(crate) fn check_terms(&self) -> Term {
        let terms: BTreeSet<Term> = self
            .connected()
            .filter_map(|server| Some(self.node(server)?.status().term))
            .collect();
        assert_eq!(
            terms.len(),
            1,
            "the servers disagree on the term: {terms:?}"
        );
        *terms.first().unwrap()
    }
}

/// Agreement.
impl Lab {
    /// A command that was never used.
    pub(crate) fn command(&mut self) -> Bytes {
        self.commands += 1;
        Bytes::copy_from_slice(&self.commands.to_be_bytes())
    }

    /// Proposes a command at a server. Says whether that leads, and took it.
    pub(crate) fn propose(&mut self, server: usize, command: &Bytes) -> bool {
        self.propose_for(server, command, |_| ())
    }

    /// The same; `on_applied` hears when it is applied there.
    pub(crate) fn propose_for(
        &mut self,
        server: usize,
        command: &Bytes,
        on_applied: impl FnOnce(usize) + Send + 'static,
    ) -> bool {
        if self.leads(server).is_none() {
            return false;
        }
        let input = Input::Propose {
            command: command.clone(),
            on_applied: Box::new(|output| {
                if let Ok(index) = output {
                    on_applied(index);
                }
            }),
        };
        self.world.give(id_of(server), input)
    }

    /// The index of a command that a server has applied.
    pub(crate) fn index_of(&self, server: usize, command: &Bytes) -> Option<usize> {
        let applied = &self.node(server)?.state().applied;
        applied
            .iter()
            .rposition(|it| it == command)
            .map(|at| at + 1)
    }

    pub(crate) fn applied(&self, server: usize) -> &[Bytes] {
        &self.node(server).expect("it is up").state().applied
    }

    /// How many servers have applied a command at this index.
    pub(crate) fn count_committed(&self, index: usize) -> usize {
        let has_it = |server: &usize| {
            self.node(*server)
                .is_some_and(|node| node.state().applied.len() >= index)
        };
        self.servers().filter(has_it).count()
    }

    fn count_applied(&self, command: &Bytes) -> usize {
        self.servers()
            .filter(|server| self.index_of(*server, command).is_some())
            .count()
    }

    /// Agreement on a new command, by so many servers at the least, within 10 s. Gives its index.
    pub(crate) fn agree(&mut self, expected: usize) -> usize {
        let command = self.command();
        self.agree_on(&command, expected)
    }

    pub(crate) fn agree_on(&mut self, command: &Bytes, expected: usize) -> usize {
        let end = self.world.now() + AGREEMENT_LIMIT;
        while self.world.now() < end {
            let connected: Vec<usize> = self.connected().collect();
            let is_taken = connected
                .into_iter()
                .any(|server| self.propose(server, command));
            if !is_taken {
                self.pass_millis(50);
                continue;
            }
            let retry = (self.world.now() + RETRY_TIME).min(end);
            while self.world.now() < retry {
                if self.count_applied(command) >= expected {
                    let index = self
                        .servers()
                        .find_map(|server| self.index_of(server, command));
                    return index.expect("it was applied");
                }
                self.pass_millis(1);
            }
        }
        panic!("no agreement of {expected} servers within {AGREEMENT_LIMIT:?}");
    }

    /// Waits until so many servers have applied what is at an index.
    pub(crate) fn wait_for(&mut self, index: usize, expected: usize) {
        let end = self.world.now() + AGREEMENT_LIMIT;
        while self.count_committed(index) < expected {
            assert!(
                self.world.now() < end,
                "index {index} is not at {expected} servers"
            );
            self.pass_millis(1);
        }
    }
}

/// What an entry of eight bytes takes in a log: its payload, its id, and what stands around them.
const ENTRY_BYTES: u64 = 64;

impl Lab {
    /// The longest log, in bytes.
    pub(crate) fn log_bytes(&self) -> u64 {
        let logs = self
            .world
            .nodes()
            .map(|node| (node.raft().last().index.0 - node.raft().base().index.0) * ENTRY_BYTES);
        logs.max().unwrap_or(0)
    }
}
