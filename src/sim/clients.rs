//! Clients that call one operation at a time, and remember when and what they were told.
//!
//! Half of them make their writes as calls of a session, and repeat each of them, at whichever node, until it is answered: it has
//! one effect then, between its first call and the answer, however often it was sent. The others leave it at an unknown outcome.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use duramen_wal::NodeId;

use super::linearizable::{self, Model, Operation, Verdict};
use super::recorder::Recorder;
use super::world::World;
use crate::kv::{Command, Output};
use crate::node::{Input, LogTime, NotDone};
use crate::session::{Action, CallRefused, Given, SessionId};

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
type Told = Arc<Mutex<Option<Result<Said, NotDone>>>>;

enum Said {
    Answer(Answer),
    Opened(SessionId),
    Refused(CallRefused),
}

#[derive(Default)]
struct Client {
    uses_sessions: bool,
    /// Its session, and the number of its last call.
    session: Option<(SessionId, u64)>,
    /// How long that lives, or the one that it asks for.
    lifetime_ms: u64,
    /// What it has called, until it is answered or given up.
    open: Option<Open>,
    /// What it waits for: the answer to that, or a session.
    asked: Option<Asked>,
    /// Whom it takes for the leader.
    leader: Option<NodeId>,
    /// It tries again then, in microseconds.
    waits_until: u64,
}

/// An operation.
struct Open {
    object: usize,
    called: u64,
    call: Call,
    /// As a call of this session, and of this number, it is repeated until it is answered.
    number: Option<(SessionId, u64)>,
    /// Whether it may have been carried out.
    is_undecided: bool,
}

/// A node was asked for something.
struct Asked {
    told: Told,
    /// Nobody waits longer, in microseconds.
    until: u64,
    /// Whether it did not lead.
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
    /// And the calls of sessions that had to be sent again, though they might have been carried out.
    pub(super) repeated: u64,
    /// Calls that were refused since their session had ended.
    pub(super) expired: u64,
}

/// A client asks no longer than this, in microseconds.
const PATIENCE_MICROS: u64 = 6_000_000;
/// Sessions live so long, some or others: clocks that jump end the short ones, and no others.
const LIFETIMES_MS: [u64; 2] = [5_000, LONG_MS];
const LONG_MS: u64 = 3_600_000;
/// Between two calls; most often much less, so that some come at the same time.
const PAUSE_MICROS: u64 = 1_000_000;

impl Clients {
    pub(super) fn new() -> Clients {
        Clients {
            clients: (0..CLIENTS).map(Client::new).collect(),
            histories: (0..OBJECTS).map(|_| Vec::new()).collect(),
            calls: 0,
            answered: 0,
            written: 0,
            follower_reads: 0,
            unknown: 0,
            repeated: 0,
            expired: 0,
        }
    }

    /// Lets the clients hear what they were told, and call, if they are to. What they repeat they repeat in any case.
    pub(super) fn step(&mut self, world: &mut World<Recorder>, is_calling: bool) {
        for at in 0..self.clients.len() {
            self.hear(at, world);
            let client = &self.clients[at];
            let is_free = client.asked.is_none() && client.waits_until <= world.now_micros();
            if is_free && (is_calling || client.open.is_some()) {
                self.ask(at, world);
            }
        }
    }

    /// How many operations were carried out, or may have been.
    pub(super) fn operations(&self) -> u64 {
        self.answered + self.unknown
    }

    /// Whether nobody waits for anything.
    pub(super) fn are_idle(&self) -> bool {
        let is_idle = |client: &Client| client.open.is_none() && client.asked.is_none();
        self.clients.iter().all(is_idle)
    }

    /// Takes what a client is told, if it is.
    fn hear(&mut self, at: usize, world: &mut World<Recorder>) {
        let now = world.now_micros();
        let client = &mut self.clients[at];
        let Some(asked) = client.asked.take() else {
            return;
        };
        let told = asked.told.lock().expect("one thread").take();
        match told {
            None if now < asked.until => {
                client.asked = Some(asked);
                return;
            }
            Some(Ok(Said::Opened(session))) => client.session = Some((session, 0)),
            Some(Ok(Said::Answer(answer))) => self.answered(at, &asked, answer, now),
            Some(Ok(Said::Refused(refused))) => self.refused(at, refused),
            // What was asked here was never done, and never will be.
            Some(Err(NotDone::NotLeader { leader })) => {
                client.leader = leader;
                client.open.take_if(|open| open.number.is_none());
            }
            Some(Err(NotDone::Full | NotDone::Failed | NotDone::TooLarge { .. })) => {
                client.leader = None;
                client.open.take_if(|open| open.number.is_none());
            }
            Some(Err(NotDone::Unknown)) | None => {
                client.leader = None;
                self.undecided(at);
            }
        }
        let pause = [PAUSE_MICROS / 50, PAUSE_MICROS][usize::from(world.rng.u32(..4) == 0)];
        self.clients[at].waits_until = now + world.rng.u64(..pause);
    }

    fn answered(&mut self, at: usize, asked: &Asked, answer: Answer, now: u64) {
        let open = self.clients[at].open.take().expect("it was answered");
        self.answered += 1;
        self.written += u64::from(!open.call.is_read());
        self.repeated += u64::from(open.is_undecided);
        self.follower_reads += u64::from(open.call.is_read() && asked.is_elsewhere);
        self.remember(&open, Some((now, answer)));
    }

    /// A call was refused: its session has ended. If it was sent before, it may have been carried out by then.
    fn refused(&mut self, at: usize, refused: CallRefused) {
        let client = &mut self.clients[at];
        let (session, open) = (client.session.take(), client.open.take());
        let open = open.expect("a call was refused");
        assert_eq!(
            refused,
            CallRefused::NoSession,
            "call {:?} of session {session:?}",
            open.number
        );
        assert_ne!(
            client.lifetime_ms, LONG_MS,
            "session {session:?} ended early"
        );
        self.expired += 1;
        if open.is_undecided {
            self.unknown += 1;
            self.remember(&open, None);
        }
    }

    /// Nobody knows whether it was done. A call of a session is repeated; a session that may have been opened is left alone.
    fn undecided(&mut self, at: usize) {
        match &mut self.clients[at].open {
            Some(open) if open.number.is_some() => open.is_undecided = true,
            open => {
                if let Some(open) = open.take() {
                    self.unknown += 1;
                    self.remember(&open, None);
                }
            }
        }
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

    /// Asks some node for what a client has called, for another operation, or for a session.
    fn ask(&mut self, at: usize, world: &mut World<Recorder>) {
        let ids = world.ids().into_iter();
        let ids: Vec<NodeId> = ids.filter(|id| world.is_up(*id)).collect();
        let Some(any) = world.rng.choice(&ids).copied() else {
            self.clients[at].waits_until = world.now_micros() + PAUSE_MICROS / 50;
            return;
        };
        let client = &self.clients[at];
        let opens_session =
            client.uses_sessions && client.session.is_none() && client.open.is_none();
        if !opens_session && client.open.is_none() {
            self.call(at, world);
        }
        let client = &mut self.clients[at];
        let is_read = client.open.as_ref().is_some_and(|open| open.call.is_read());
        // Most often it asks whom it takes for the leader; about a read, half of the time whomever.
        let asks_any = world.rng.u32(..5) == 0 || is_read && world.rng.bool();
        let believed = client.leader.filter(|id| !asks_any && ids.contains(id));
        let asked = believed.unwrap_or(any);
        let time = world.log_time(asked);
        let told = Told::default();
        let mut patience = PATIENCE_MICROS;
        let input = match &client.open {
            Some(open) => {
                if open.number.is_some() {
                    patience = world.rng.u64(..PATIENCE_MICROS); // It may be sent again while it is under way.
                }
                open.input(time, told.clone())
            }
            None => {
                let lifetime_ms = LIFETIMES_MS[world.rng.usize(..LIFETIMES_MS.len())];
                client.lifetime_ms = lifetime_ms;
                propose(Action::Open { lifetime_ms }, time, told.clone())
            }
        };
        client.asked = Some(Asked {
            told,
            until: world.now_micros() + patience,
            is_elsewhere: world.node(asked).is_some_and(|it| !it.raft().is_leader()),
        });
        world.give(asked, input);
    }

    /// A client calls an operation.
    fn call(&mut self, at: usize, world: &mut World<Recorder>) {
        self.calls += 1;
        let (object, call) = self.draw(&mut world.rng);
        let client = &mut self.clients[at];
        let session = client.session.as_mut().filter(|_| !call.is_read());
        let number = session.map(|(session, last)| {
            *last += 1;
            (*session, *last)
        });
        client.open = Some(Open {
            object,
            called: world.now_micros(),
            call,
            number,
            is_undecided: false,
        });
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

impl Client {
    fn new(number: usize) -> Client {
        Client {
            uses_sessions: number.is_multiple_of(2),
            ..Client::default()
        }
    }
}

impl Open {
    /// What a node is given for it.
    fn input(&self, time: LogTime, told: Told) -> Input<Recorder> {
        let object = self.object;
        let key = move |key: usize| Bytes::from(format!("object {object}, key {key}"));
        let command = match self.call.clone() {
            Call::Get => {
                return Input::Read(Box::new(move |state: Result<&Recorder, NotDone>| {
                    let values = |state: &Recorder| {
                        let view = state.store().view();
                        Said::Answer(Answer::Values(
                            [0, 1].map(|at| view.find(&key(at)).cloned()),
                        ))
                    };
                    *told.lock().expect("one thread") = Some(state.map(values));
                }));
            }
            Call::Set(at, value) => Command::set(key(at), value),
            Call::Append(at, value) => Command::append(key(at), value),
            Call::Del => Command::Del {
                keys: (0..KEYS).map(key).collect(),
            },
        };
        let command = &command.encode();
        let action = match self.number {
            None => Action::Plain(command),
            Some((session, sequence)) => Action::Call {
                session,
                sequence,
                command,
            },
        };
        propose(action, time, told)
    }
}

fn propose(action: Action<'_>, time: LogTime, told: Told) -> Input<Recorder> {
    Input::Propose {
        command: action.encode(time),
        on_applied: Box::new(move |given| {
            *told.lock().expect("one thread") = Some(given.map(said));
        }),
    }
}

fn said(given: Given<Output>) -> Said {
    match given {
        Given::Output(Output::Integer(number)) => Said::Answer(Answer::Number(number)),
        Given::Output(Output::Done) => Said::Answer(Answer::Done),
        Given::Opened(session) => Said::Opened(session),
        Given::Refused(refused) => Said::Refused(refused),
        other => panic!("nobody has called for {other:?}"),
    }
}
