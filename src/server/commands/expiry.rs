//! Commands about when keys expire.

use bytes::Bytes;

use super::Plan;
use super::words::{Read, integer, is, planned, syntax_error};
use crate::kv::{Command, Condition, ExpireCondition, Expiry, SetGives, TtlForm};
use crate::node::LogTime;
use crate::server::Server;
use crate::server::client::Client;

/// The option that a time comes with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Ex,
    Px,
    ExAt,
    PxAt,
}

impl Unit {
    pub(super) fn read(option: &[u8]) -> Option<Unit> {
        let units = [
            ("ex", Unit::Ex),
            ("px", Unit::Px),
            ("exat", Unit::ExAt),
            ("pxat", Unit::PxAt),
        ];
        let unit = units.into_iter().find(|(name, _)| is(option, name));
        unit.map(|(_, unit)| unit)
    }

    pub(super) fn expiry(self, number: &[u8], command: &str) -> Read<Expiry> {
        let millis = |each| positive_millis(number, each, command);
        Ok(match self {
            Unit::Ex => from_now(millis(1000)?, command)?,
            Unit::Px => from_now(millis(1)?, command)?,
            Unit::ExAt => Expiry::At(LogTime(millis(1000)?)),
            Unit::PxAt => Expiry::At(LogTime(millis(1)?)),
        })
    }
}

fn positive_millis(number: &[u8], millis_each: i64, command: &str) -> Read<u64> {
    let millis = integer(number)?.checked_mul(millis_each);
    let positive = millis.filter(|millis| *millis > 0);
    match positive {
        Some(millis) => Ok(millis as u64),
        None => Err(invalid(command)),
    }
}

/// As in Redis, the moment then has to fit in 63 bits.
fn from_now(millis: u64, command: &str) -> Read<Expiry> {
    let at = millis.checked_add(LogTime::now().0);
    match at.is_some_and(|at| i64::try_from(at).is_ok()) {
        true => Ok(Expiry::In(millis)),
        false => Err(invalid(command)),
    }
}

fn invalid(command: &str) -> String {
    format!("ERR invalid expire time in '{command}' command")
}

pub(super) fn setex(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    planned(set_for(words, 1000, "setex"))
}

pub(super) fn psetex(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    planned(set_for(words, 1, "psetex"))
}

fn set_for(words: &[Bytes], millis_each: i64, command: &str) -> Read<Plan> {
    Ok(Plan::Store(Command::Set {
        key: words[1].clone(),
        value: words[3].clone(),
        expiry: from_now(positive_millis(&words[2], millis_each, command)?, command)?,
        condition: Condition::Always,
        gives: SetGives::Done,
    }))
}

/// `GETEX key [EX seconds | PX milliseconds | EXAT seconds | PXAT milliseconds | PERSIST]`
pub(super) fn getex(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    planned(read_getex(words))
}

fn read_getex(words: &[Bytes]) -> Read<Plan> {
    let key = words[1].clone();
    let expiry = match &words[2..] {
        [] => return Ok(Plan::Store(Command::Get { key })),
        [option] if is(option, "persist") => Expiry::Never,
        [option, number] => match Unit::read(option) {
            Some(unit) => unit.expiry(number, "getex")?,
            None => return syntax_error(),
        },
        _ => return syntax_error(),
    };
    Ok(Plan::Store(Command::GetEx { key, expiry }))
}

pub(super) fn expire(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    planned(expire_at(words, 1000, false, "expire"))
}

pub(super) fn pexpire(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    planned(expire_at(words, 1, false, "pexpire"))
}

pub(super) fn expireat(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    planned(expire_at(words, 1000, true, "expireat"))
}

pub(super) fn pexpireat(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    planned(expire_at(words, 1, true, "pexpireat"))
}

fn read_condition(options: &[Bytes]) -> Read<ExpireCondition> {
    let known = ["nx", "xx", "gt", "lt"];
    if let Some(unknown) = options
        .iter()
        .find(|option| !known.iter().any(|name| is(option, name)))
    {
        let shown = String::from_utf8_lossy(&unknown[..unknown.len().min(32)]);
        return Err(format!("ERR Unsupported option {shown}"));
    }
    let [nx, xx, gt, lt] = known.map(|name| options.iter().any(|option| is(option, name)));
    if nx && (xx || gt || lt) {
        return Err(
            "ERR NX and XX, GT or LT options at the same time are not compatible".to_owned(),
        );
    }
    Ok(match (gt, lt) {
        (true, true) => {
            let text = "ERR GT and LT options at the same time are not compatible";
            return Err(text.to_owned());
        }
        (true, false) => ExpireCondition::IfLater, // What has no expiry lives for ever: nothing is later.
        (false, true) if xx => ExpireCondition::IfSomeAndEarlier,
        (false, true) => ExpireCondition::IfEarlier,
        (false, false) if nx => ExpireCondition::IfNone,
        (false, false) if xx => ExpireCondition::IfSome,
        (false, false) => ExpireCondition::Always,
    })
}

/// `EXPIRE key number [NX | XX | GT | LT]`. What is in the past removes the key.
fn expire_at(words: &[Bytes], millis_each: i64, is_absolute: bool, command: &str) -> Read<Plan> {
    let condition = read_condition(&words[3..])?;
    let millis = integer(&words[2])?.checked_mul(millis_each);
    let millis = millis.ok_or_else(|| invalid(command))?.max(0) as u64;
    let expiry = match is_absolute {
        true => Expiry::At(LogTime(millis)),
        false => from_now(millis, command)?,
    };
    Ok(Plan::Store(Command::Expire {
        key: words[1].clone(),
        expiry,
        condition,
    }))
}

pub(super) fn persist(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    let key = words[1].clone();
    Plan::Store(Command::Persist { key })
}

pub(super) fn ttl(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    show(words, TtlForm::Seconds)
}

pub(super) fn pttl(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    show(words, TtlForm::Millis)
}

pub(super) fn expiretime(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    show(words, TtlForm::AtSeconds)
}

pub(super) fn pexpiretime(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    show(words, TtlForm::AtMillis)
}

fn show(words: &[Bytes], form: TtlForm) -> Plan {
    let key = words[1].clone();
    Plan::Store(Command::Ttl { key, form })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_ends_after_all_times_is_invalid() {
        let words = |time: &'static str| ["COMMAND", "key", time, "value"].map(Bytes::from);
        for time in ["9223372036854775807", "9223372036854775806"] {
            let refused = invalid("it");
            let words = words(time);
            assert_eq!(Unit::Px.expiry(&words[2], "it").unwrap_err(), refused);
            assert_eq!(set_for(&words, 1, "it").unwrap_err(), refused);
            assert_eq!(expire_at(&words[..3], 1, false, "it").unwrap_err(), refused);
            assert!(Unit::PxAt.expiry(&words[2], "it").is_ok());
        }
        let words = words("9223372036854775");
        assert_eq!(Unit::Ex.expiry(&words[2], "it").unwrap_err(), invalid("it"));
        assert!(Unit::Px.expiry(&words[2], "it").is_ok());
    }
}
