//! Commands about one key and its value.

use bytes::Bytes;

use super::expiry::Unit;
use super::words::{self, Read, integer, is, planned, syntax_error};
use super::{Plan, error};
use crate::kv::{Command, Condition, Expiry, SetGives, parse_float};
use crate::server::Server;
use crate::server::client::Client;

pub(super) fn get(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    Plan::Store(Command::get(words[1].clone()))
}

pub(super) fn strlen(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    let key = words[1].clone();
    Plan::Store(Command::StrLen { key })
}

pub(super) fn kind(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    let key = words[1].clone();
    Plan::Store(Command::Type { key })
}

pub(super) fn getrange(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    planned((|| {
        Ok(Plan::Store(Command::GetRange {
            key: words[1].clone(),
            first: integer(&words[2])?,
            last: integer(&words[3])?,
        }))
    })())
}

/// `SET key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT seconds | PXAT milliseconds | KEEPTTL]`
pub(super) fn set(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    planned(read_set(words))
}

/// As in Redis, an option may be said twice, and then the last one counts; what contradicts another is an error.
fn read_set(words: &[Bytes]) -> Read<Plan> {
    let (mut condition, mut gives, mut keeps) = (Condition::Always, SetGives::Done, false);
    let mut time: Option<(Unit, &Bytes)> = None;
    let mut options = words[3..].iter();
    while let Some(option) = options.next() {
        let fits = if is(option, "nx") {
            set_condition(&mut condition, Condition::IfNone)
        } else if is(option, "xx") {
            set_condition(&mut condition, Condition::IfExists)
        } else if is(option, "get") {
            gives = SetGives::Old;
            true
        } else if is(option, "keepttl") {
            keeps = true;
            time.is_none()
        } else if let (Some(unit), Some(number)) = (Unit::read(option), options.next()) {
            let before = time.replace((unit, number));
            !keeps && before.is_none_or(|(before, _)| before == unit)
        } else {
            false
        };
        if !fits {
            return syntax_error();
        }
    }
    let expiry = match time {
        Some((unit, number)) => unit.expiry(number, "set")?,
        None if keeps => Expiry::Keep,
        None => Expiry::Never,
    };
    Ok(Plan::Store(Command::Set {
        key: words[1].clone(),
        value: words[2].clone(),
        expiry,
        condition,
        gives,
    }))
}

/// Says whether that does not contradict what was there.
fn set_condition(condition: &mut Condition, new: Condition) -> bool {
    let before = std::mem::replace(condition, new);
    before == Condition::Always || before == new
}

pub(super) fn setnx(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    let condition = Condition::IfNone;
    set_and_give(words, condition, SetGives::Number)
}

pub(super) fn getset(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    set_and_give(words, Condition::Always, SetGives::Old)
}

fn set_and_give(words: &[Bytes], condition: Condition, gives: SetGives) -> Plan {
    Plan::Store(Command::Set {
        key: words[1].clone(),
        value: words[2].clone(),
        expiry: Expiry::Never,
        condition,
        gives,
    })
}

pub(super) fn getdel(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    let key = words[1].clone();
    Plan::Store(Command::GetDel { key })
}

pub(super) fn append(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    Plan::Store(Command::append(words[1].clone(), words[2].clone()))
}

pub(super) fn setrange(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    planned((|| {
        let offset = u64::try_from(integer(&words[2])?);
        Ok(Plan::Store(Command::SetRange {
            key: words[1].clone(),
            offset: offset.map_err(|_| "ERR offset is out of range".to_owned())?,
            value: words[3].clone(),
        }))
    })())
}

pub(super) fn incr(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    increment(&words[1], Ok(1))
}

pub(super) fn decr(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    increment(&words[1], Ok(-1))
}

pub(super) fn incrby(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    increment(&words[1], integer(&words[2]))
}

pub(super) fn decrby(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    let negated = integer(&words[2]).and_then(|by| {
        by.checked_neg()
            .ok_or_else(|| "ERR decrement would overflow".to_owned())
    });
    increment(&words[1], negated)
}

fn increment(key: &Bytes, by: Read<i64>) -> Plan {
    match by {
        Ok(by) => Plan::Store(Command::IncrBy {
            key: key.clone(),
            by,
        }),
        Err(text) => error(text),
    }
}

pub(super) fn incrbyfloat(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    match parse_float(&words[2]) {
        Some(by) => Plan::Store(Command::IncrByFloat {
            key: words[1].clone(),
            by,
        }),
        None => error(words::NOT_A_FLOAT),
    }
}
