//! The commands as they stand in the log.
//!
//! ```text
//!   0  version 1
//!   1  a command, or
//!      kind 1: 64 batch, 65 transaction
//!      transaction: number of watched keys 4, then for each: key, version 8
//!      number of commands 4, commands
//!
//! command
//!   0  kind 1
//!      1 set          expiry, condition 1: 0 always, 1 none, 2 exists; gives 1: 0 done, 1 number, 2 old; key, value
//!      2 del          number of keys 4, keys
//!      3 incrby       by 8, key
//!      4 append       key, value
//!      5 mset         if none exists 1, number of pairs 4, then for each: key, value
//!      6 getdel       key
//!      7 getex        expiry, key
//!      8 incrbyfloat  by 8, key
//!      9 setrange     offset 8, key, value
//!     10 expire       expiry, condition 1: 0 always, 1 none, 2 some, 3 later, 4 earlier, 5 some and earlier;
//!                     key
//!     11 persist      key
//!     12 flush
//!     32 get, 34 strlen, 37 type: key
//!     33 mget, 36 exists: number of keys 4, keys
//!     35 getrange     first 8, last 8, key
//!     38 ttl          form 1: 0 seconds, 1 milliseconds, 2 at seconds, 3 at milliseconds; key
//!     39 dbsize
//! expiry              kind 1: 0 never, 1 keep, 2 at, 3 in; milliseconds 8 (0 if it has none)
//! key, value          length 4, bytes
//! ```
//!
//! Little-endian. They stand in the log for as long as the log does, so a kind is never given another meaning. Reads stand there
//! too, where they are between writes.

use bytes::{Buf, BufMut, Bytes};

use super::command::{
    Command, Condition, ExpireCondition, Expiry, Request, SetGives, TtlForm, Version,
};
use crate::node::LogTime;

/// What a command takes beside keys and values, at the most.
const COMMAND_BYTES: usize = 32;
const VERSION: u8 = 1;
const KIND_SET: u8 = 1;
const KIND_DEL: u8 = 2;
const KIND_INCR_BY: u8 = 3;
const KIND_APPEND: u8 = 4;
const KIND_MSET: u8 = 5;
const KIND_GET_DEL: u8 = 6;
const KIND_GET_EX: u8 = 7;
const KIND_INCR_BY_FLOAT: u8 = 8;
const KIND_SET_RANGE: u8 = 9;
const KIND_EXPIRE: u8 = 10;
const KIND_PERSIST: u8 = 11;
const KIND_FLUSH: u8 = 12;
const KIND_GET: u8 = 32;
const KIND_MGET: u8 = 33;
const KIND_STR_LEN: u8 = 34;
const KIND_GET_RANGE: u8 = 35;
const KIND_EXISTS: u8 = 36;
const KIND_TYPE: u8 = 37;
const KIND_TTL: u8 = 38;
const KIND_DB_SIZE: u8 = 39;
const KIND_BATCH: u8 = 64;
const KIND_TRANSACTION: u8 = 65;

impl Request {
    /// The bytes for the log.
    pub fn encode(&self) -> Bytes {
        let commands = match self {
            Request::One(command) => std::slice::from_ref(command),
            Request::Batch(commands) | Request::Transaction { commands, .. } => commands,
        };
        // What most bytes are in, so that they are not copied while the buffer grows.
        let bytes: usize = commands.iter().map(room).sum();
        let mut buf = Vec::with_capacity(bytes + COMMAND_BYTES);
        buf.put_u8(VERSION);
        match self {
            Request::One(command) => put_command(&mut buf, command),
            Request::Batch(commands) => {
                buf.put_u8(KIND_BATCH);
                put_commands(&mut buf, commands);
            }
            Request::Transaction { watched, commands } => {
                buf.put_u8(KIND_TRANSACTION);
                buf.put_u32_le(watched.len() as u32);
                for (key, version) in watched {
                    put_bytes(&mut buf, key);
                    buf.put_u64_le(version.0);
                }
                put_commands(&mut buf, commands);
            }
        }
        buf.into()
    }

    /// `None` if the bytes are no request of this version.
    pub fn decode(mut bytes: &[u8]) -> Option<Request> {
        let bytes = &mut bytes;
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let request = match *bytes.first()? {
            KIND_BATCH => {
                bytes.advance(1);
                Request::Batch(take_commands(bytes)?)
            }
            KIND_TRANSACTION => {
                bytes.advance(1);
                Request::Transaction {
                    watched: take_many(bytes, |bytes| {
                        Some((take_bytes(bytes)?, Version(bytes.try_get_u64_le().ok()?)))
                    })?,
                    commands: take_commands(bytes)?,
                }
            }
            _ => Request::One(take_command(bytes)?),
        };
        bytes.is_empty().then_some(request)
    }
}

/// About how many bytes a command takes.
fn room(command: &Command) -> usize {
    COMMAND_BYTES
        + match command {
            Command::Set { key, value, .. }
            | Command::Append { key, value }
            | Command::SetRange { key, value, .. } => key.len() + value.len(),
            Command::MSet { pairs, .. } => {
                let bytes = |(key, value): &(Bytes, Bytes)| key.len() + value.len() + 8;
                pairs.iter().map(bytes).sum()
            }
            _ => 0,
        }
}

fn put_commands(buf: &mut Vec<u8>, commands: &[Command]) {
    buf.put_u32_le(commands.len() as u32);
    commands
        .iter()
        .for_each(|command| put_command(buf, command));
}

fn put_command(buf: &mut Vec<u8>, command: &Command) {
    match command {
        Command::Set {
            key,
            value,
            expiry,
            condition,
            gives,
        } => {
            put_kind_and_expiry(buf, KIND_SET, *expiry);
            buf.put_u8(*condition as u8);
            buf.put_u8(*gives as u8);
            put_bytes(buf, key);
            put_bytes(buf, value);
        }
        Command::Append { key, value } => put_key(buf, KIND_APPEND, key, Some(value)),
        Command::MSet {
            pairs,
            if_none_exists,
        } => {
            buf.put_u8(KIND_MSET);
            buf.put_u8(u8::from(*if_none_exists));
            buf.put_u32_le(pairs.len() as u32);
            for (key, value) in pairs {
                put_bytes(buf, key);
                put_bytes(buf, value);
            }
        }
        Command::GetEx { key, expiry } => {
            put_kind_and_expiry(buf, KIND_GET_EX, *expiry);
            put_bytes(buf, key);
        }
        Command::IncrBy { key, by } => {
            buf.put_u8(KIND_INCR_BY);
            buf.put_i64_le(*by);
            put_bytes(buf, key);
        }
        Command::IncrByFloat { key, by } => {
            buf.put_u8(KIND_INCR_BY_FLOAT);
            buf.put_f64_le(*by);
            put_bytes(buf, key);
        }
        Command::SetRange { key, offset, value } => {
            buf.put_u8(KIND_SET_RANGE);
            buf.put_u64_le(*offset);
            put_bytes(buf, key);
            put_bytes(buf, value);
        }
        Command::Expire {
            key,
            expiry,
            condition,
        } => {
            put_kind_and_expiry(buf, KIND_EXPIRE, *expiry);
            buf.put_u8(*condition as u8);
            put_bytes(buf, key);
        }
        Command::Del { keys } => put_keys(buf, KIND_DEL, keys),
        Command::GetDel { key } => put_key(buf, KIND_GET_DEL, key, None),
        Command::Persist { key } => put_key(buf, KIND_PERSIST, key, None),
        Command::Flush => buf.put_u8(KIND_FLUSH),
        read => put_read(buf, read),
    }
}

fn put_read(buf: &mut Vec<u8>, command: &Command) {
    match command {
        Command::Get { key } => put_key(buf, KIND_GET, key, None),
        Command::MGet { keys } => put_keys(buf, KIND_MGET, keys),
        Command::StrLen { key } => put_key(buf, KIND_STR_LEN, key, None),
        Command::GetRange { key, first, last } => {
            buf.put_u8(KIND_GET_RANGE);
            buf.put_i64_le(*first);
            buf.put_i64_le(*last);
            put_bytes(buf, key);
        }
        Command::Exists { keys } => put_keys(buf, KIND_EXISTS, keys),
        Command::Type { key } => put_key(buf, KIND_TYPE, key, None),
        Command::Ttl { key, form } => {
            buf.put_u8(KIND_TTL);
            buf.put_u8(*form as u8);
            put_bytes(buf, key);
        }
        Command::DbSize => buf.put_u8(KIND_DB_SIZE),
        write => unreachable!("a write: {write:?}"),
    }
}

fn put_kind_and_expiry(buf: &mut Vec<u8>, kind: u8, expiry: Expiry) {
    buf.put_u8(kind);
    let (kind, millis) = match expiry {
        Expiry::Never => (0, 0),
        Expiry::Keep => (1, 0),
        Expiry::At(time) => (2, time.0),
        Expiry::In(millis) => (3, millis),
    };
    buf.put_u8(kind);
    buf.put_u64_le(millis);
}

fn put_key(buf: &mut Vec<u8>, kind: u8, key: &[u8], value: Option<&[u8]>) {
    buf.put_u8(kind);
    put_bytes(buf, key);
    if let Some(value) = value {
        put_bytes(buf, value);
    }
}

fn put_keys(buf: &mut Vec<u8>, kind: u8, keys: &[Bytes]) {
    buf.put_u8(kind);
    buf.put_u32_le(keys.len() as u32);
    keys.iter().for_each(|key| put_bytes(buf, key));
}

fn put_bytes(buf: &mut Vec<u8>, bytes: &[u8]) {
    buf.put_u32_le(bytes.len() as u32);
    buf.put_slice(bytes);
}

fn take_commands(bytes: &mut &[u8]) -> Option<Vec<Command>> {
    take_many(bytes, take_command)
}

fn take_command(bytes: &mut &[u8]) -> Option<Command> {
    Some(match bytes.try_get_u8().ok()? {
        KIND_SET => Command::Set {
            expiry: take_expiry(bytes)?,
            condition: match bytes.try_get_u8().ok()? {
                0 => Condition::Always,
                1 => Condition::IfNone,
                2 => Condition::IfExists,
                _ => return None,
            },
            gives: match bytes.try_get_u8().ok()? {
                0 => SetGives::Done,
                1 => SetGives::Number,
                2 => SetGives::Old,
                _ => return None,
            },
            key: take_bytes(bytes)?,
            value: take_bytes(bytes)?,
        },
        KIND_DEL => Command::Del {
            keys: take_keys(bytes)?,
        },
        KIND_INCR_BY => Command::IncrBy {
            by: bytes.try_get_i64_le().ok()?,
            key: take_bytes(bytes)?,
        },
        KIND_APPEND => Command::Append {
            key: take_bytes(bytes)?,
            value: take_bytes(bytes)?,
        },
        KIND_MSET => Command::MSet {
            if_none_exists: match bytes.try_get_u8().ok()? {
                0 => false,
                1 => true,
                _ => return None,
            },
            pairs: take_many(bytes, |bytes| {
                Some((take_bytes(bytes)?, take_bytes(bytes)?))
            })?,
        },
        KIND_GET_DEL => Command::GetDel {
            key: take_bytes(bytes)?,
        },
        KIND_GET_EX => Command::GetEx {
            expiry: take_expiry(bytes)?,
            key: take_bytes(bytes)?,
        },
        KIND_INCR_BY_FLOAT => Command::IncrByFloat {
            by: bytes.try_get_f64_le().ok()?,
            key: take_bytes(bytes)?,
        },
        KIND_SET_RANGE => Command::SetRange {
            offset: bytes.try_get_u64_le().ok()?,
            key: take_bytes(bytes)?,
            value: take_bytes(bytes)?,
        },
        KIND_EXPIRE => Command::Expire {
            expiry: take_expiry(bytes)?,
            condition: take_expire_condition(bytes)?,
            key: take_bytes(bytes)?,
        },
        KIND_PERSIST => Command::Persist {
            key: take_bytes(bytes)?,
        },
        KIND_FLUSH => Command::Flush,
        kind => return take_read(kind, bytes),
    })
}

fn take_read(kind: u8, bytes: &mut &[u8]) -> Option<Command> {
    Some(match kind {
        KIND_GET => Command::Get {
            key: take_bytes(bytes)?,
        },
        KIND_MGET => Command::MGet {
            keys: take_keys(bytes)?,
        },
        KIND_STR_LEN => Command::StrLen {
            key: take_bytes(bytes)?,
        },
        KIND_GET_RANGE => Command::GetRange {
            first: bytes.try_get_i64_le().ok()?,
            last: bytes.try_get_i64_le().ok()?,
            key: take_bytes(bytes)?,
        },
        KIND_EXISTS => Command::Exists {
            keys: take_keys(bytes)?,
        },
        KIND_TYPE => Command::Type {
            key: take_bytes(bytes)?,
        },
        KIND_TTL => Command::Ttl {
            form: match bytes.try_get_u8().ok()? {
                0 => TtlForm::Seconds,
                1 => TtlForm::Millis,
                2 => TtlForm::AtSeconds,
                3 => TtlForm::AtMillis,
                _ => return None,
            },
            key: take_bytes(bytes)?,
        },
        KIND_DB_SIZE => Command::DbSize,
        _ => return None,
    })
}

fn take_expiry(bytes: &mut &[u8]) -> Option<Expiry> {
    let kind = bytes.try_get_u8().ok()?;
    Some(match (kind, bytes.try_get_u64_le().ok()?) {
        (0, 0) => Expiry::Never,
        (1, 0) => Expiry::Keep,
        (2, millis) => Expiry::At(LogTime(millis)),
        (3, millis) => Expiry::In(millis),
        _ => return None,
    })
}

fn take_expire_condition(bytes: &mut &[u8]) -> Option<ExpireCondition> {
    Some(match bytes.try_get_u8().ok()? {
        0 => ExpireCondition::Always,
        1 => ExpireCondition::IfNone,
        2 => ExpireCondition::IfSome,
        3 => ExpireCondition::IfLater,
        4 => ExpireCondition::IfEarlier,
        5 => ExpireCondition::IfSomeAndEarlier,
        _ => return None,
    })
}

fn take_keys(bytes: &mut &[u8]) -> Option<Vec<Bytes>> {
    take_many(bytes, take_bytes)
}

/// A list grows as its items are there, whatever number is claimed.
fn take_many<T>(bytes: &mut &[u8], take: impl Fn(&mut &[u8]) -> Option<T>) -> Option<Vec<T>> {
    let count = bytes.try_get_u32_le().ok()?;
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(take(bytes)?);
    }
    Some(all)
}

/// A copy: the store keeps a value for longer than the log keeps the entry.
fn take_bytes(bytes: &mut &[u8]) -> Option<Bytes> {
    let len = bytes.try_get_u32_le().ok()? as usize;
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(Bytes::copy_from_slice(taken))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn string() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..20).prop_map(Bytes::from)
    }

    fn expiry() -> impl Strategy<Value = Expiry> {
        prop_oneof![
            Just(Expiry::Never),
            Just(Expiry::Keep),
            any::<u64>().prop_map(|millis| Expiry::At(LogTime(millis))),
            any::<u64>().prop_map(Expiry::In),
        ]
    }

    fn write() -> impl Strategy<Value = Command> {
        let condition = prop_oneof![
            Just(Condition::Always),
            Just(Condition::IfNone),
            Just(Condition::IfExists)
        ];
        let gives = prop_oneof![
            Just(SetGives::Done),
            Just(SetGives::Number),
            Just(SetGives::Old)
        ];
        let expire_condition = (0..6_u8).prop_map(|number| {
            take_expire_condition(&mut &[number][..]).expect("one of the conditions")
        });
        let set = (string(), string(), expiry(), condition, gives);
        let mset = (vec((string(), string()), 0..4), any::<bool>());
        let expire = (string(), expiry(), expire_condition);
        prop_oneof![
            set.prop_map(|(key, value, expiry, condition, gives)| Command::Set {
                key,
                value,
                expiry,
                condition,
                gives
            }),
            mset.prop_map(|(pairs, if_none_exists)| Command::MSet {
                pairs,
                if_none_exists
            }),
            vec(string(), 0..5).prop_map(|keys| Command::Del { keys }),
            string().prop_map(|key| Command::GetDel { key }),
            (string(), expiry()).prop_map(|(key, expiry)| Command::GetEx { key, expiry }),
            (string(), any::<i64>()).prop_map(|(key, by)| Command::IncrBy { key, by }),
            (string(), -1e300..1e300).prop_map(|(key, by)| Command::IncrByFloat { key, by }),
            (string(), string()).prop_map(|(key, value)| Command::Append { key, value }),
            (string(), any::<u64>(), string()).prop_map(|(key, offset, value)| Command::SetRange {
                key,
                offset,
                value
            }),
            expire.prop_map(|(key, expiry, condition)| Command::Expire {
                key,
                expiry,
                condition
            }),
            string().prop_map(|key| Command::Persist { key }),
            Just(Command::Flush),
        ]
    }

    fn read() -> impl Strategy<Value = Command> {
        let form = prop_oneof![
            Just(TtlForm::Seconds),
            Just(TtlForm::Millis),
            Just(TtlForm::AtSeconds),
            Just(TtlForm::AtMillis)
        ];
        prop_oneof![
            string().prop_map(|key| Command::Get { key }),
            vec(string(), 0..5).prop_map(|keys| Command::MGet { keys }),
            string().prop_map(|key| Command::StrLen { key }),
            (string(), any::<i64>(), any::<i64>())
                .prop_map(|(key, first, last)| Command::GetRange { key, first, last }),
            vec(string(), 0..5).prop_map(|keys| Command::Exists { keys }),
            string().prop_map(|key| Command::Type { key }),
            (string(), form).prop_map(|(key, form)| Command::Ttl { key, form }),
            Just(Command::DbSize),
        ]
    }

    fn request() -> impl Strategy<Value = Request> {
        let command = || prop_oneof![3 => write(), 1 => read()];
        let watched = vec((string(), any::<u64>().prop_map(Version)), 0..3);
        prop_oneof![
            command().prop_map(Request::One),
            vec(command(), 0..4).prop_map(Request::Batch),
            (watched, vec(command(), 0..4))
                .prop_map(|(watched, commands)| Request::Transaction { watched, commands }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(request in request()) {
            prop_assert_eq!(Request::decode(&request.encode()), Some(request));
        }

        #[test]
        fn any_bytes_are_a_request_or_none(kind in 0..70_u8, bytes in vec(0..6_u8, 0..60)) {
            let bytes = [&[VERSION, kind][..], &bytes].concat();
            if let Some(request) = Request::decode(&bytes) {
                prop_assert_eq!(request.encode(), bytes);
            }
        }

        #[test]
        fn what_is_cut_off_is_no_request(request in request(), cut in any::<prop::sample::Index>()) {
            let bytes = request.encode();
            prop_assert_eq!(Request::decode(&bytes[..cut.index(bytes.len())]), None);
        }
    }

    /// Frozen.
    #[test]
    fn the_commands_are_these_bytes() {
        let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"vv"));
        let set = Command::Set {
            key: key.clone(),
            value: value.clone(),
            expiry: Expiry::In(2),
            condition: Condition::IfExists,
            gives: SetGives::Old,
        };
        let watched = vec![(key.clone(), Version(7))];
        for (request, bytes) in [
            (
                Request::One(set),
                &b"\x01\x01\x03\x02\0\0\0\0\0\0\0\x02\x02\x01\0\0\0k\x02\0\0\0vv"[..],
            ),
            (
                Request::One(Command::IncrBy {
                    key: key.clone(),
                    by: -1,
                }),
                b"\x01\x03\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0k",
            ),
            (
                Request::Batch(vec![Command::Flush, Command::get(key.clone())]),
                b"\x01\x40\x02\0\0\0\x0c\x20\x01\0\0\0k",
            ),
            (
                Request::Transaction {
                    watched,
                    commands: vec![Command::append(key, value)],
                },
                b"\x01\x41\x01\0\0\0\x01\0\0\0k\x07\0\0\0\0\0\0\0\x01\0\0\0\x04\x01\0\0\0k\x02\0\0\0vv",
            ),
        ] {
            assert_eq!(request.encode(), bytes, "{request:?}");
        }
    }
}
