//! Clients that call one operation at a time, and remember when and what they were told.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use duramen_wal::NodeId;

use super::linearizable::{self, Model, Operation, Verdict};
use super::recorder::Recorder;
use super::world::World;
use crate::kv::{Command, Output};
use crate::node::{Input, NotDone};

/// What the histories are of: one key, or two of them that some operations read or change together. Each is one object, which
/// must be linearizable for itself.
struct Object;

/// How many keys an object has at the most.
const KEYS: usize = 2;
/// The objects: all but the last one have one key.
const OBJECTS: usize = 6;
const CLIENTS: usize = 6;

#[derive(Debug, Clone)]
enum Call {
    /// Reads all keys of the object.
    Get,
    Set(usize, Bytes),
    Append(usize, Bytes),
    /// Removes all keys of the object.
    Del,
}

impl Call {
    fn is_read(&self) -> bool {
        matches!(self, Call::Get)
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Done,
    Number(i64),
    Values([Option<Bytes>; KEYS]),
}

impl Model for Object {
    type State = [Option<Bytes>; KEYS];
    type Call = Call;
    type Output = Answer;

    fn step(state: &Self::State, call: &Call) -> (Self::State, Answer) {
        let mut after = state.clone();
        let answer = match call {
            Call::Get => Answer::Values(state.clone()),
            Call::Set(key, value) => {
                after[*key] = Some(value.clone());
                Answer::Done
            }
            Call::Append(key, more) => {
                let whole = [state[*key].as_deref().unwrap_or_default(), more].concat();
                let len = whole.len() as i64;
                after[*key] = Some(whole.into());
                Answer::Number(len)
            }
            Call::Del => {
                after = Default::default();
                Answer::Number(state.iter().flatten().count() as i64)
            }
        };
        (after, answer)
    }
}

/// What a client was told, once it was.
type Told = Arc<Mutex<Option<Result<Answer, NotDone>>>>;

#[derive(Default)]
struct Client {
    open: Option<Open>,
    /// Whom it takes for the leader.
    leader: Option<NodeId>,
    /// It tries again then, in microseconds.
    waits_until: u64,
}

struct Open {
    object: usize,
    called: u64,
    call: Call,
    told: Told,
    /// Whoever was asked did not lead.
    is_elsewhere: bool,
}

/// All clients, and what they know.
pub(super) struct Clients {
    clients: Vec<Client>,
    histories: Vec<Vec<Operation<Call, Answer>>>,
    /// How often they called.
    calls: u64,
    pub(super) answered: u64,
    /// Of those that were answered, the ones that change something.
    pub(super) written: u64,
    /// And the reads that a node served which did not lead.
    pub(super) follower_reads: u64,
    pub(super) unknown: u64,
}

/// A client asks no longer than this, in microseconds.
const PATIENCE_MICROS: u64 = 6_000_000;
/// Between two calls; most often much less, so that some come at the same time.
const PAUSE_MICROS: u64 = 1_000_000;

impl Clients {
    pub(super) fn new() -> Clients {
        Clients {
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            histories: (0..OBJECTS).map(|_| Vec::new()).collect(),
            calls: 0,
            answered: 0,
            written: 0,
            follower_reads: 0,
            unknown: 0,
        }
    }

    /// Lets the clients hear what they were told, and call, if they are to.
    pub(super) fn step(&mut self, world: &mut World<Recorder>, is_calling: bool) {
        for at in 0..self.clients.len() {
            self.hear(at, world);
            let client = &self.clients[at];
            if is_calling && client.open.is_none() && client.waits_until <= world.now_micros() {
                self.call(at, world);
            }
        }
    }

    /// How many operations were carried out, or may have been.
    pub(super) fn operations(&self) -> u64 {
        self.answered + self.unknown
    }

    /// Whether nobody waits for anything.
    pub(super) fn are_idle(&self) -> bool {
        self.clients.iter().all(|client| client.open.is_none())
    }

    /// Takes the answer to a client's call, if there is one.
    fn hear(&mut self, at: usize, world: &mut World<Recorder>) {
        let now = world.now_micros();
        let Some(open) = self.clients[at].open.take() else {
            return;
        };
        let told = open.told.lock().expect("one thread").take();
        match told {
            None if now < open.called + PATIENCE_MICROS => {
                self.clients[at].open = Some(open);
                return;
            }
            Some(Ok(answer)) => {
                self.answered += 1;
                self.written += u64::from(!open.call.is_read());
                self.follower_reads += u64::from(open.call.is_read() && open.is_elsewhere);
                self.remember(&open, Some((now, answer)));
            }
            // It was never done, and never will be.
            Some(Err(NotDone::NotLeader { leader })) => self.clients[at].leader = leader,
            Some(Err(NotDone::Full | NotDone::Failed)) => self.clients[at].leader = None,
            Some(Err(NotDone::Unknown)) | None => {
                self.unknown += 1;
                self.clients[at].leader = None;
                self.remember(&open, None);
            }
        }
        let pause = [PAUSE_MICROS / 50, PAUSE_MICROS][usize::from(world.rng.u32(..4) == 0)];
        self.clients[at].waits_until = now + world.rng.u64(..pause);
    }

    fn remember(&mut self, open: &Open, returned: Option<(u64, Answer)>) {
        if returned.is_none() && open.call.is_read() {
            return; // It has changed nothing, and says nothing.
        }
        self.histories[open.object].push(Operation {
            called: open.called,
            call: open.call.clone(),
            returned,
        });
    }

    fn call(&mut self, at: usize, world: &mut World<Recorder>) {
        self.calls += 1;
        let ids = world.ids().into_iter();
        let ids: Vec<NodeId> = ids.filter(|id| world.is_up(*id)).collect();
        let Some(any) = world.rng.choice(&ids).copied() else {
            self.clients[at].waits_until = world.now_micros() + PAUSE_MICROS / 50;
            return;
        };
        let (object, call) = self.draw(&mut world.rng);
        // Most often it asks whom it takes for the leader; about a read, half of the time whomever.
        let asks_any = world.rng.u32(..5) == 0 || call.is_read() && world.rng.bool();
        let believed = self.clients[at].leader;
        let believed = believed.filter(|id| !asks_any && ids.contains(id));
        let asked = believed.unwrap_or(any);
        let told = Told::default();
        let open = Open {
            object,
            called: world.now_micros(),
            call: call.clone(),
            told: told.clone(),
            is_elsewhere: world.node(asked).is_some_and(|it| !it.raft().is_leader()),
        };
        self.clients[at].open = Some(open);
        world.give(asked, input(object, call, told));
    }

    /// Draws an object, and what is to be done with it.
    fn draw(&self, rng: &mut fastrand::Rng) -> (usize, Call) {
        let object = rng.usize(..OBJECTS);
        let key = if object == OBJECTS - 1 {
            rng.usize(..KEYS)
        } else {
            0
        };
        let value = Bytes::from(format!("{},", self.calls));
        let call = match rng.u32(..100) {
            0..30 => Call::Get,
            30..50 => Call::Set(key, value),
            50..97 => Call::Append(key, value),
            _ => Call::Del,
        };
        (object, call)
    }

    /// # Panics
    /// If a history is not linearizable, or it cannot be said whether it is.
    pub(super) fn check(&mut self) {
        // What is not answered by now may still be done.
        for open in self
            .clients
            .iter_mut()
            .filter_map(|client| client.open.take())
            .collect::<Vec<_>>()
        {
            self.remember(&open, None);
        }
        for (object, history) in self.histories.iter_mut().enumerate() {
            history.sort_by_key(|operation| operation.called);
            let verdict = linearizable::check::<Object>(history);
            assert_eq!(
                verdict,
                Verdict::Linearizable,
                "object {object}: {history:#?}"
            );
        }
    }
}

fn input(object: usize, call: Call, told: Told) -> Input<Recorder> {
    let key = move |key: usize| Bytes::from(format!("object {object}, key {key}"));
    let tell = move |answer| *told.lock().expect("one thread") = Some(answer);
    let command = match call {
        Call::Get => {
            return Input::Read(Box::new(move |state: Result<&Recorder, NotDone>| {
                let values =
                    |state: &Recorder| [0, 1].map(|at| state.kv.view().find(&key(at)).cloned());
                tell(state.map(|state| Answer::Values(values(state))));
            }));
        }
        Call::Set(at, value) => Command::set(key(at), value),
        Call::Append(at, value) => Command::append(key(at), value),
        Call::Del => Command::Del {
            keys: (0..KEYS).map(key).collect(),
        },
    };
    Input::Propose {
        command: command.encode(),
        on_applied: Box::new(move |output| {
            tell(output.map(|output| match output {
                Output::Integer(number) => Answer::Number(number),
                _ => Answer::Done,
            }));
        }),
    }
}
