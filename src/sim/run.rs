//! One run: a cluster of key/value stores, clients that know what they were told, faults, and what must hold.
//!
//! After every step: no term has two leaders, and the nodes apply the same commands in the same order (paper, figure 3). At
//! the end everything is mended: within a stated time all nodes must agree and a write succeed. Then the history of each key
//! must be linearizable.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use duramen_wal::{NodeId, Term};

use super::linearizable::{self, Model, Operation, Verdict};
use super::world::{Faults, STEP_MICROS, World};
use crate::kv::{Command, Kv, Output};
use crate::node::{Input, NotDone, StateMachine};

/// What came up in a run, to know that it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen {
    /// Operations that were answered, and those of unknown outcome.
    pub answered: u64,
    /// See `answered`.
    pub unknown: u64,
    /// Terms that had a leader.
    pub leaders: u64,
    /// Processes that were killed, and nodes whose power was cut in mid-write.
    pub kills: u64,
    /// See `kills`.
    pub power_cuts: u64,
    /// Processes that stood still for a while.
    pub pauses: u64,
}

/// A key/value store that remembers what it applied.
struct Recorder {
    id: NodeId,
    kv: Kv,
    applied: usize,
    all: Arc<Mutex<Vec<Bytes>>>,
}

impl StateMachine for Recorder {
    type Output = Output;

    fn apply(&mut self, command: &[u8]) -> Output {
        let mut all = self.all.lock().expect("one thread");
        match all.get(self.applied) {
            None => all.push(Bytes::copy_from_slice(command)),
            Some(known) => assert_eq!(known, command, "State Machine Safety, at {}", self.id),
        }
        self.applied += 1;
        self.kv.apply(command)
    }
}

/// One key of the store.
struct Key;

#[derive(Debug, Clone)]
enum Call {
    Get,
    Set(Bytes),
    Append(Bytes),
}

#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Done,
    Length(i64),
    Value(Option<Bytes>),
}

impl Model for Key {
    type State = Option<Bytes>;
    type Call = Call;
    type Output = Answer;

    fn step(state: &Option<Bytes>, call: &Call) -> (Option<Bytes>, Answer) {
        match call {
            Call::Get => (state.clone(), Answer::Value(state.clone())),
            Call::Set(value) => (Some(value.clone()), Answer::Done),
            Call::Append(more) => {
                let before = state.as_deref().unwrap_or_default();
                let after = Bytes::from([before, more].concat());
                let len = after.len() as i64;
                (Some(after), Answer::Length(len))
            }
        }
    }
}

/// What a client was told, once it was.
type Told = Arc<Mutex<Option<Result<Answer, NotDone>>>>;

/// A client: one operation at a time.
#[derive(Default)]
struct Client {
    open: Option<(usize, usize, Told)>,
    /// Whom it takes for the leader.
    leader: u64,
}

const KEYS: usize = 4;
const CLIENTS: usize = 6;
/// When everything is mended, all is well within this time.
const MEND_MICROS: u64 = 30_000_000;
/// A client asks no longer than this.
const PATIENCE_MICROS: u64 = 6_000_000;

struct Run {
    world: World<Recorder>,
    all: Arc<Mutex<Vec<Bytes>>>,
    clients: Vec<Client>,
    histories: Vec<Vec<Operation<Call, Answer>>>,
    leaders: BTreeMap<Term, NodeId>,
    calls: u64,
    seen: Seen,
}

/// Runs a cluster until its clients have made so many calls.
///
/// # Panics
/// If something does not hold.
pub fn run(seed: u64, operations: u64) -> Seen {
    let mut run = Run::new(seed);
    while run.calls < operations {
        run.break_something();
        run.step(true);
    }
    run.mend();
    for (key, history) in run.histories.iter().enumerate() {
        let verdict = linearizable::check::<Key>(history);
        assert_eq!(verdict, Verdict::Linearizable, "key {key}: {history:#?}");
    }
    run.seen.leaders = run.leaders.len() as u64;
    run.seen
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut rng = fastrand::Rng::with_seed(seed);
        let faults = Faults {
            lost: [0, 5, 20][rng.usize(..3)],
            doubled: [0, 10][rng.usize(..2)],
            delay_millis: [1, 10, 60][rng.usize(..3)],
        };
        let nodes = if rng.bool() { 3 } else { 5 };
        let all: Arc<Mutex<Vec<Bytes>>> = Arc::default();
        let applied = all.clone();
        let make_state = move |id| Recorder {
            id,
            kv: Kv::default(),
            applied: 0,
            all: applied.clone(),
        };
        Run {
            world: World::new(rng.u64(..), nodes, faults, make_state),
            all,
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            histories: vec![Vec::new(); KEYS],
            leaders: BTreeMap::new(),
            calls: 0,
            seen: Seen::default(),
        }
    }

    /// Draws a fault, or none.
    fn break_something(&mut self) {
        let ids = self.world.ids();
        let rng = &mut self.world.rng;
        let (id, other) = (ids[rng.usize(..ids.len())], ids[rng.usize(..ids.len())]);
        match rng.u32(..3000) {
            0..=2 if self.world.is_up(id) => {
                self.world.kill(id);
                self.seen.kills += 1;
            }
            3..=8 if self.world.is_up(id) => self.world.cut_power_soon(id),
            9..=11 => self.world.isolate(id),
            12..=14 => self.world.cut(id, other),
            15..=20 => self.world.heal_links(),
            36..=41 => {
                let micros = self.world.rng.u64(1..2_000_000);
                self.world.pause(id, micros);
                self.seen.pauses += 1;
            }
            21..=35 if !self.world.is_up(id) => self.world.start(id),
            _ => {}
        }
    }

    fn step(&mut self, calls: bool) {
        self.seen.power_cuts += self.world.step() as u64;
        for status in self.world.statuses() {
            if status.leader == Some(status.id) {
                let leader = *self.leaders.entry(status.term).or_insert(status.id);
                assert_eq!(leader, status.id, "Election Safety, term {}", status.term);
            }
        }
        for client in 0..self.clients.len() {
            self.hear(client);
            if calls && self.clients[client].open.is_none() && self.world.rng.u32(..20) == 0 {
                self.call(client);
            }
        }
    }

    /// Takes the answer to a client's call, if there is one.
    fn hear(&mut self, client: usize) {
        let Some((key, at, told)) = self.clients[client].open.clone() else {
            return;
        };
        let told = told.lock().expect("one thread").take();
        let called = self.histories[key][at].called;
        match told {
            Some(Ok(answer)) => {
                self.histories[key][at].returned = Some((self.world.now, answer));
                self.seen.answered += 1;
            }
            // It was never done, and never will be.
            Some(Err(NotDone::NotLeader { leader })) => {
                self.forget(key, at);
                self.clients[client].leader = leader.map_or(0, |id| id.0);
            }
            Some(Err(NotDone::Unknown)) => self.seen.unknown += 1,
            None if self.world.now < called + PATIENCE_MICROS => return,
            None => self.seen.unknown += 1,
        }
        self.clients[client].open = None;
    }

    fn forget(&mut self, key: usize, at: usize) {
        self.histories[key].remove(at);
        for (of, index, _) in self
            .clients
            .iter_mut()
            .filter_map(|client| client.open.as_mut())
        {
            if *of == key && *index > at {
                *index -= 1;
            }
        }
    }

    fn call(&mut self, client: usize) {
        self.calls += 1;
        let ids = self.world.ids();
        let (key, kind, any) = {
            let rng = &mut self.world.rng;
            (rng.usize(..KEYS), rng.u32(..3), ids[rng.usize(..ids.len())])
        };
        let believed = NodeId(self.clients[client].leader);
        let to = if ids.contains(&believed) {
            believed
        } else {
            any
        };
        let value = Bytes::from(format!("{},", self.calls));
        let call =
            [Call::Get, Call::Set(value.clone()), Call::Append(value)][kind as usize].clone();
        let told = Told::default();
        let input = input(key, &call, told.clone());
        let at = self.histories[key].len();
        self.histories[key].push(Operation {
            called: self.world.now,
            call,
            returned: None,
        });
        self.clients[client].open = Some((key, at, told));
        if !self.world.give(to, input) {
            self.forget(key, at);
            self.clients[client].open = None;
            self.clients[client].leader = 0;
        }
    }

    /// No more faults: soon all agree, and a write succeeds.
    fn mend(&mut self) {
        self.world.heal_links();
        self.world.faults = Faults {
            lost: 0,
            doubled: 0,
            delay_millis: 2,
        };
        let end = self.world.now + MEND_MICROS;
        let answered = self.seen.answered;
        loop {
            for id in self.world.ids() {
                if !self.world.is_up(id) {
                    self.world.start(id);
                }
            }
            let calls = self.seen.answered == answered;
            self.step(calls);
            let statuses = self.world.statuses();
            let all = self.world.ids().len();
            let agrees = statuses.len() == all
                && statuses.iter().all(|status| {
                    status.applied == statuses[0].applied && status.commit == status.applied
                });
            let is_idle = self.clients.iter().all(|client| client.open.is_none());
            if agrees && is_idle && !calls {
                return;
            }
            assert!(
                self.world.now < end,
                "no agreement after {} s: {statuses:?}, {} commands",
                MEND_MICROS / 1_000_000,
                self.all.lock().expect("one thread").len()
            );
        }
    }
}

fn input(key: usize, call: &Call, told: Told) -> Input<Recorder> {
    let key = Bytes::from(format!("key {key}"));
    let tell = move |answer| *told.lock().expect("one thread") = Some(answer);
    let command = match call.clone() {
        Call::Get => {
            return Input::Read(Box::new(move |state: Result<&Recorder, NotDone>| {
                tell(state.map(|state| Answer::Value(state.kv.find(&key).cloned())));
            }));
        }
        Call::Set(value) => Command::Set { key, value },
        Call::Append(value) => Command::Append { key, value },
    };
    Input::Propose {
        command: command.encode(),
        on_applied: Box::new(move |output| {
            tell(output.map(|output| match output {
                Output::Integer(length) => Answer::Length(length),
                _ => Answer::Done,
            }));
        }),
    }
}

/// The time of the world goes on in steps of this, in microseconds.
pub const RESOLUTION_MICROS: u64 = STEP_MICROS;

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: u64 = 20;

    /// `SIM_SEED=7` replays one seed, `SIM_SEEDS=1000` runs more of them.
    #[test]
    fn clusters_bear_what_they_must() {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let seeds = match number("SIM_SEED") {
            Some(seed) => seed..seed + 1,
            None => 0..number("SIM_SEEDS").unwrap_or(SEEDS),
        };
        let is_many = seeds.end - seeds.start >= SEEDS;
        let mut all = Seen::default();
        for seed in seeds {
            let seen = std::panic::catch_unwind(|| run(seed, 300)).unwrap_or_else(|panic| {
                eprintln!("replay: SIM_SEED={seed} cargo test -p duramen --lib clusters_bear");
                std::panic::resume_unwind(panic)
            });
            all.answered += seen.answered;
            all.unknown += seen.unknown;
            all.leaders += seen.leaders;
            all.kills += seen.kills;
            all.power_cuts += seen.power_cuts;
            all.pauses += seen.pauses;
        }
        println!("{all:?}");
        let least = [
            all.answered / 50,
            all.unknown,
            all.leaders,
            all.kills,
            all.power_cuts,
            all.pauses,
        ];
        assert!(
            !is_many || least.iter().all(|count| *count >= SEEDS),
            "too quiet: {all:?}"
        );
    }
}
