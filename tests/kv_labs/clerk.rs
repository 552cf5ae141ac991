//! The labs' clients. A call is sent again until it is answered, to whichever server, and is carried out once: it is a numbered one
//! of a session.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use duramen::kv::{Command, Kv, Output};
use duramen::node::{Input, LogTime, NotDone};
use duramen::session::{Action, Given, SessionId, Sessions};
use duramen::sim::World;
use duramen::wal::NodeId;

/// What the servers replicate.
pub(crate) type Store = Sessions<Kv>;

/// What a clerk is asked for.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Get(Bytes),
    Put(Bytes, Bytes),
    Append(Bytes, Bytes),
}

/// What a call gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// How long the value is now.
    Length(usize),
    /// The value, empty if there is none.
    Value(Bytes),
}

/// What a server said.
enum Told {
    Opened(SessionId),
    Answered(Answer),
    /// It was not done, and will not be. Perhaps this one leads.
    Elsewhere(Option<NodeId>),
    /// It may be done, now or later, or never.
    Unknown,
    /// It is not done, and will not be, wherever. No clerk does anything for which its own call is refused.
    Refused(Given<Output>),
}

/// Where a server puts what it says.
type Mailbox = Arc<Mutex<Option<Told>>>;

/// The network between clerks and servers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wire {
    /// Of the requests, and of the answers, in percent.
    pub(crate) lost: u32,
    /// The longest time under way.
    pub(crate) delay: Duration,
}

/// A request on its way, or its answer.
struct Attempt {
    server: NodeId,
    /// When the request arrives; none if it has, or is lost.
    arrives: Option<Duration>,
    is_answer_lost: bool,
    /// Whether its server did not lead when it arrived.
    is_of_follower: bool,
    mailbox: Mailbox,
    /// An answer on its way, and when it arrives.
    answer: Option<(Duration, Told)>,
    /// Then the clerk takes it for lost.
    until: Duration,
}

/// A client with one call under way at a time.
pub(crate) struct Clerk {
    /// The servers that it reaches.
    servers: Vec<NodeId>,
    /// Whom it asks next.
    asks: NodeId,
    session: Option<SessionId>,
    /// How many calls it has made in its session, the present one included.
    sequence: u64,
    /// What it was asked for, until that is answered.
    call: Option<Call>,
    /// Whether what was sent of it before may have been done.
    is_undecided: bool,
    attempt: Option<Attempt>,
    waits_until: Duration,
    pub(crate) counts: Counts,
}

/// What clerks did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Calls that were answered.
    pub(crate) answered: u64,
    /// Of those, the ones of a session that had to be sent again, though they might have been done.
    pub(crate) repeated: u64,
    /// Reads that a server answered which did not lead.
    pub(crate) follower_reads: u64,
}

/// An answer that takes longer is taken for lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// Before the next server is asked.
const PAUSE: Duration = Duration::from_millis(10);
/// No session ends before its clerk.
const LIFETIME_MS: u64 = 3_600_000;

impl Clerk {
    /// A clerk that reaches these servers.
    pub(crate) fn new(servers: Vec<NodeId>) -> Clerk {
        Clerk {
            asks: servers[0],
            servers,
            session: None,
            sequence: 0,
            call: None,
            is_undecided: false,
            attempt: None,
            waits_until: Duration::ZERO,
            counts: Counts::default(),
        }
    }

    /// It reaches other servers from now on.
    pub(crate) fn reach(&mut self, servers: Vec<NodeId>) {
        if !servers.contains(&self.asks) {
            self.asks = servers[0];
        }
        self.servers = servers;
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.call.is_some()
    }

    /// Begins a call. The answer comes from [`step`](Clerk::step).
    pub(crate) fn begin(&mut self, call: Call) {
        assert!(!self.is_busy(), "one call at a time");
        if !matches!(call, Call::Get(_)) {
            self.sequence += 1;
        }
        self.is_undecided = false;
        self.call = Some(call);
    }

    /// Does what there is to do at this time. Gives the answer to its call, once.
    pub(crate) fn step(
        &mut self,
        world: &mut World<Store>,
        wire: Wire,
        rng: &mut fastrand::Rng,
    ) -> Option<Answer> {
        let call = self.call.clone()?;
        let now = world.now();
        let Some(mut attempt) = self.attempt.take() else {
            if self.waits_until <= now {
                self.attempt = Some(self.send(&call, now, wire, rng));
            }
            return None;
        };
        if attempt.arrives.take_if(|at| *at <= now).is_some() {
            attempt.is_of_follower = world
                .node(attempt.server)
                .is_some_and(|it| !it.raft().is_leader());
            self.arrive(&call, &attempt, world);
        }
        match attempt.hear(now, wire, rng) {
            None => self.attempt = Some(attempt),
            Some(Told::Opened(session)) => self.session = Some(session),
            Some(Told::Answered(answer)) => {
                self.call = None;
                self.counts.answered += 1;
                self.counts.repeated += u64::from(self.is_undecided);
                let is_value = matches!(answer, Answer::Value(_));
                self.counts.follower_reads += u64::from(is_value && attempt.is_of_follower);
                return Some(answer);
            }
            Some(Told::Elsewhere(leader)) => self.ask_next(leader, now),
            Some(Told::Unknown) => {
                // A session that may have been opened is left alone.
                self.is_undecided = self.session.is_some() && !matches!(call, Call::Get(_));
                self.ask_next(None, now);
            }
            Some(Told::Refused(given)) => {
                panic!("{:?}, {}: {call:?}: {given:?}", self.session, self.sequence)
            }
        }
        None
    }

    fn send(&self, call: &Call, now: Duration, wire: Wire, rng: &mut fastrand::Rng) -> Attempt {
        // A read may be asked of any server.
        let server = match call {
            Call::Get(_) if rng.bool() => *rng.choice(&self.servers).expect("it reaches some"),
            _ => self.asks,
        };
        let is_lost = rng.u32(..100) < wire.lost;
        Attempt {
            server,
            arrives: (!is_lost).then(|| now + wire.draw_delay(rng)),
            is_answer_lost: rng.u32(..100) < wire.lost,
            is_of_follower: false,
            mailbox: Mailbox::default(),
            answer: None,
            until: now + PATIENCE,
        }
    }

    /// A request arrives.
    fn arrive(&self, call: &Call, attempt: &Attempt, world: &mut World<Store>) {
        let mailbox = attempt.mailbox.clone();
        let time = world.log_time(attempt.server);
        let input = match call {
            Call::Get(key) => read(key.clone(), mailbox),
            Call::Put(key, value) => {
                let command = Command::set(key.clone(), value.clone());
                self.write(command, time, mailbox)
            }
            Call::Append(key, value) => {
                let command = Command::append(key.clone(), value.clone());
                self.write(command, time, mailbox)
            }
        };
        if !world.give(attempt.server, input) {
            *attempt.mailbox.lock().unwrap() = Some(Told::Unknown);
        }
    }

    /// A call of its session, or first the opening of one.
    fn write(&self, command: Command, time: LogTime, mailbox: Mailbox) -> Input<Store> {
        let command = command.encode();
        let action = match self.session {
            None => Action::Open {
                lifetime_ms: LIFETIME_MS,
            },
            Some(session) => Action::Call {
                session,
                sequence: self.sequence,
                command: &command,
            },
        };
        Input::Propose {
            command: action.encode(time),
            on_applied: Box::new(move |given| {
                *mailbox.lock().unwrap() = Some(match given {
                    Ok(given) => told(given),
                    Err(why) => why.into(),
                });
            }),
        }
    }

    fn ask_next(&mut self, leader: Option<NodeId>, now: Duration) {
        let at = self.servers.iter().position(|server| *server == self.asks);
        let next = at.map_or(0, |at| (at + 1) % self.servers.len());
        let leader = leader.filter(|leader| *leader != self.asks && self.servers.contains(leader));
        self.asks = leader.unwrap_or(self.servers[next]);
        self.waits_until = now + PAUSE;
    }
}

impl Wire {
    fn draw_delay(&self, rng: &mut fastrand::Rng) -> Duration {
        self.delay.mul_f64(rng.f64())
    }
}

impl Attempt {
    /// What the clerk is told by now.
    fn hear(&mut self, now: Duration, wire: Wire, rng: &mut fastrand::Rng) -> Option<Told> {
        if let Some(told) = self.mailbox.lock().unwrap().take()
            && !self.is_answer_lost
        {
            self.answer = Some((now + wire.draw_delay(rng), told));
        }
        match self.answer.take_if(|(at, _)| *at <= now) {
            Some((_, told)) => Some(told),
            None => (self.until <= now).then_some(Told::Unknown),
        }
    }
}

impl From<NotDone> for Told {
    fn from(why: NotDone) -> Told {
        match why {
            NotDone::NotLeader { leader } => Told::Elsewhere(leader),
            NotDone::Full | NotDone::Failed | NotDone::TooLarge { .. } => Told::Elsewhere(None),
            NotDone::Unknown => Told::Unknown,
        }
    }
}

fn told(given: Given<Output>) -> Told {
    match given {
        Given::Opened(session) => Told::Opened(session),
        Given::Output(Output::Done) => Told::Answered(Answer::Done),
        Given::Output(Output::Integer(len)) => Told::Answered(Answer::Length(len as usize)),
        other => Told::Refused(other),
    }
}

fn read(key: Bytes, mailbox: Mailbox) -> Input<Store> {
    Input::Read(Box::new(move |state: Result<&Store, NotDone>| {
        *mailbox.lock().unwrap() = Some(match state {
            Ok(state) => {
                let value = state.inner().view().find(&key).cloned();
                Told::Answered(Answer::Value(value.unwrap_or_default()))
            }
            Err(why) => why.into(),
        });
    }))
}
