//! What is fed: commands, of few keys, sessions and times, so that they meet.

use arbitrary::Arbitrary;
use bytes::Bytes;
use duramen::kv::{
    Command, Condition, ExpireCondition, Expiry, Request, SetGives, TtlForm, Version,
};
use duramen::node::LogTime;
use duramen::session::{Action, SessionId};

#[derive(Debug, Arbitrary)]
pub enum Input {
    Steps {
        steps: Vec<Step>,
        spoils: Vec<Spoil>,
    },
    /// Any bytes as a snapshot, and what comes after.
    Snapshot { bytes: Vec<u8>, then: Vec<Step> },
}

#[derive(Debug, Arbitrary)]
pub enum Step {
    /// Any bytes as an entry of the log.
    Raw(Vec<u8>),
    /// Any bytes as a command.
    RawCommand(u16, Vec<u8>),
    Plain(u16, Made),
    Open(u16, u16),
    Call {
        time: u16,
        session: u8,
        sequence: u8,
        command: Made,
    },
    Close(u16, u8),
    Tick(u16),
    /// One of the two machines goes on from a snapshot of the other.
    Snapshot,
}

#[derive(Debug, Arbitrary)]
pub enum Made {
    One(One),
    Batch(Vec<One>),
    Transaction(Vec<(u8, u8)>, Vec<One>),
}

#[derive(Debug, Arbitrary)]
pub enum One {
    Set(u8, Value, When, u8, u8),
    MSet(Vec<(u8, Value)>, bool),
    Del(Vec<u8>),
    GetDel(u8),
    GetEx(u8, When),
    IncrBy(u8, i64),
    IncrByFloat(u8, f64),
    Append(u8, Value),
    SetRange(u8, u16, Value),
    Expire(u8, When, u8),
    Persist(u8),
    Flush,
    Get(u8),
    MGet(Vec<u8>),
    StrLen(u8),
    GetRange(u8, i16, i16),
    Exists(Vec<u8>),
    Type(u8),
    Ttl(u8, u8),
    DbSize,
}

#[derive(Debug, Arbitrary)]
pub enum Value {
    Bytes(Vec<u8>),
    Integer(i64),
    Float(f64),
}

#[derive(Debug, Arbitrary)]
pub enum When {
    Never,
    Keep,
    At(u16),
    In(u16),
    InLong(u64),
}

/// A place of a snapshot's bytes, and what becomes of it.
#[derive(Debug, Arbitrary)]
pub enum Spoil {
    Byte(u16, u8),
    Cut(u16),
    Insert(u16, Vec<u8>),
    /// As if a part of it were there twice.
    Double(u16, u8),
}

impl Step {
    /// The entry of the log.
    pub fn command(&self) -> Option<Bytes> {
        let at = |time: &u16| LogTime((*time).into());
        let session = |session: &u8| SessionId(u64::from(session % 4));
        let command = match self {
            Step::Snapshot => return None,
            Step::Raw(bytes) => bytes.clone().into(),
            Step::RawCommand(time, command) => Action::Plain(command).encode(at(time)),
            Step::Plain(time, command) => Action::Plain(&command.encode()).encode(at(time)),
            Step::Open(time, lifetime) => {
                let lifetime_ms = (*lifetime).into();
                Action::Open { lifetime_ms }.encode(at(time))
            }
            Step::Call {
                time,
                session: id,
                sequence,
                command,
            } => {
                let command = &command.encode();
                let (session, sequence) = (session(id), u64::from(sequence % 8));
                let call = Action::Call {
                    session,
                    sequence,
                    command,
                };
                call.encode(at(time))
            }
            Step::Close(time, id) => Action::Close {
                session: session(id),
            }
            .encode(at(time)),
            Step::Tick(time) => Action::Tick.encode(at(time)),
        };
        (!is_large(&command)).then_some(command)
    }
}

/// All entries of the log.
pub fn commands(steps: &[Step]) -> Vec<Bytes> {
    steps.iter().filter_map(Step::command).collect()
}

/// Whether a command may make a long value out of a few bytes: a thousand of those would be all the memory there is.
fn is_large(entry: &[u8]) -> bool {
    let commands = [10, 26].into_iter().filter_map(|at| entry.get(at..));
    let requests = commands.filter_map(Request::decode);
    let mut commands = requests.flat_map(|request| match request {
        Request::One(command) => vec![command],
        Request::Batch(commands) | Request::Transaction { commands, .. } => commands,
    });
    commands.any(|command| matches!(command, Command::SetRange { offset, .. } if offset > 1 << 16))
}

impl Made {
    fn encode(&self) -> Bytes {
        let all = |commands: &Vec<One>| commands.iter().map(One::command).collect();
        let request = match self {
            Made::One(command) => Request::One(command.command()),
            Made::Batch(commands) => Request::Batch(all(commands)),
            Made::Transaction(watched, commands) => Request::Transaction {
                watched: watched
                    .iter()
                    .map(|(name, version)| (key(*name), Version((*version).into())))
                    .collect(),
                commands: all(commands),
            },
        };
        let bytes = request.encode();
        assert_eq!(Request::decode(&bytes), Some(request));
        bytes
    }
}

impl One {
    fn command(&self) -> Command {
        match self {
            One::Set(name, value, when, condition, gives) => Command::Set {
                key: key(*name),
                value: value.bytes(),
                expiry: when.expiry(),
                condition: [Condition::Always, Condition::IfNone, Condition::IfExists]
                    [usize::from(condition % 3)],
                gives: [SetGives::Done, SetGives::Number, SetGives::Old][usize::from(gives % 3)],
            },
            One::MSet(pairs, if_none_exists) => Command::MSet {
                pairs: pairs
                    .iter()
                    .map(|(name, value)| (key(*name), value.bytes()))
                    .collect(),
                if_none_exists: *if_none_exists,
            },
            One::GetEx(name, when) => Command::GetEx {
                key: key(*name),
                expiry: when.expiry(),
            },
            One::IncrBy(name, by) => Command::IncrBy {
                key: key(*name),
                by: *by,
            },
            One::IncrByFloat(name, by) => Command::IncrByFloat {
                key: key(*name),
                by: if by.is_finite() { *by } else { 0.5 },
            },
            One::Append(name, value) => Command::append(key(*name), value.bytes()),
            One::SetRange(name, offset, value) => Command::SetRange {
                key: key(*name),
                offset: (*offset).into(),
                value: value.bytes(),
            },
            One::Expire(name, when, condition) => Command::Expire {
                key: key(*name),
                expiry: when.expiry(),
                condition: [
                    ExpireCondition::Always,
                    ExpireCondition::IfNone,
                    ExpireCondition::IfSome,
                    ExpireCondition::IfLater,
                    ExpireCondition::IfEarlier,
                    ExpireCondition::IfSomeAndEarlier,
                ][usize::from(condition % 6)],
            },
            One::Flush => Command::Flush,
            One::GetRange(name, first, last) => Command::GetRange {
                key: key(*name),
                first: (*first).into(),
                last: (*last).into(),
            },
            One::Ttl(name, form) => Command::Ttl {
                key: key(*name),
                form: [
                    TtlForm::Seconds,
                    TtlForm::Millis,
                    TtlForm::AtSeconds,
                    TtlForm::AtMillis,
                ][usize::from(form % 4)],
            },
            One::DbSize => Command::DbSize,
            One::Del(names) => Command::Del { keys: keys(names) },
            One::MGet(names) => Command::MGet { keys: keys(names) },
            One::Exists(names) => Command::Exists { keys: keys(names) },
            One::GetDel(name) => Command::GetDel { key: key(*name) },
            One::Persist(name) => Command::Persist { key: key(*name) },
            One::Get(name) => Command::get(key(*name)),
            One::StrLen(name) => Command::StrLen { key: key(*name) },
            One::Type(name) => Command::Type { key: key(*name) },
        }
    }
}

/// One of a few.
fn key(name: u8) -> Bytes {
    vec![b'a' + name % 8; usize::from(name % 3)].into()
}

fn keys(names: &[u8]) -> Vec<Bytes> {
    names.iter().map(|name| key(*name)).collect()
}

impl Value {
    fn bytes(&self) -> Bytes {
        match self {
            Value::Bytes(bytes) => bytes.clone().into(),
            Value::Integer(integer) => integer.to_string().into(),
            Value::Float(float) => float.to_string().into(),
        }
    }
}

impl When {
    fn expiry(&self) -> Expiry {
        match self {
            When::Never => Expiry::Never,
            When::Keep => Expiry::Keep,
            When::At(time) => Expiry::At(LogTime((*time).into())),
            When::In(millis) => Expiry::In((*millis).into()),
            When::InLong(millis) => Expiry::In(*millis),
        }
    }
}

impl Spoil {
    pub fn put(self, bytes: &mut Vec<u8>) {
        let place = |at: u16, len: usize| usize::from(at) % (len + 1);
        match self {
            Spoil::Byte(at, byte) => {
                let at = place(at, bytes.len());
                bytes[at..].iter_mut().take(1).for_each(|old| *old = byte);
            }
            Spoil::Cut(at) => bytes.truncate(place(at, bytes.len())),
            Spoil::Insert(at, what) => {
                let at = place(at, bytes.len());
                bytes.splice(at..at, what);
            }
            Spoil::Double(at, len) => {
                let at = place(at, bytes.len());
                let what: Vec<u8> = bytes[at..].iter().copied().take(len.into()).collect();
                bytes.splice(at..at, what);
            }
        }
    }
}
