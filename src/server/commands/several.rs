//! Commands about several keys, or several commands.

use bytes::Bytes;

use super::words::{Read, integer, is, planned, syntax_error, unknown_subcommand};
use super::{Plan, Steps, error, find, plan, slot};
use crate::kv::Command;
use crate::server::Server;
use crate::server::client::Client;
use crate::server::reply::Reply;
use crate::session::SessionId;

pub(super) fn mget(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    let keys = words[1..].to_vec();
    Plan::Store(Command::MGet { keys })
}

pub(super) fn exists(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    let keys = words[1..].to_vec();
    Plan::Store(Command::Exists { keys })
}

pub(super) fn del(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    let keys = words[1..].to_vec();
    Plan::Store(Command::Del { keys })
}

pub(super) fn mset(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    set_all(words, false, "mset")
}

pub(super) fn msetnx(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    set_all(words, true, "msetnx")
}

fn set_all(words: &[Bytes], if_none_exists: bool, command: &str) -> Plan {
    let (pairs, rest) = words[1..].as_chunks::<2>();
    if !rest.is_empty() {
        return error(format!(
            "ERR wrong number of arguments for '{command}' command"
        ));
    }
    let pairs = pairs.iter().cloned().map(|[key, value]| (key, value));
    Plan::Store(Command::MSet {
        pairs: pairs.collect(),
        if_none_exists,
    })
}

/// `FLUSHALL [ASYNC | SYNC]`: the store is dropped beside the node either way.
pub(super) fn flush(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    match &words[1..] {
        [] => Plan::Store(Command::Flush),
        [option] if is(option, "async") || is(option, "sync") => Plan::Store(Command::Flush),
        _ => error(super::SYNTAX_ERROR),
    }
}

pub(super) fn dbsize(_: &Server, _: &mut Client, _: &[Bytes]) -> Plan {
    Plan::Store(Command::DbSize)
}

pub(super) fn keys(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    Plan::Steps(Steps::Keys(words[1].clone()))
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`
pub(super) fn scan(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    planned(read_scan(words))
}

fn read_scan(words: &[Bytes]) -> Read<Plan> {
    let cursor = str::from_utf8(&words[1]).ok();
    let cursor = cursor.and_then(|cursor| cursor.parse().ok());
    let cursor = cursor.ok_or_else(|| "ERR invalid cursor".to_owned())?;
    let (mut pattern, mut count, mut is_any) = (Bytes::from_static(b"*"), 10, true);
    let (options, rest) = words[2..].as_chunks::<2>();
    if !rest.is_empty() {
        return syntax_error();
    }
    for [option, value] in options {
        if is(option, "match") {
            pattern = value.clone();
        } else if is(option, "count") {
            count = integer(value)?;
        } else if is(option, "type") {
            is_any = is(value, "string");
        } else {
            return syntax_error();
        }
    }
    if count < 1 {
        return syntax_error();
    }
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    Ok(Plan::Steps(Steps::Scan {
        cursor,
        pattern,
        count: count.min(SCAN_COUNT_MAX),
        is_any,
    }))
}

/// The node's own work waits while keys are looked at.
const SCAN_COUNT_MAX: usize = 10_000;

pub(super) fn multi(_: &Server, _: &mut Client, _: &[Bytes]) -> Plan {
    Plan::Steps(Steps::Multi)
}

pub(super) fn exec(_: &Server, _: &mut Client, _: &[Bytes]) -> Plan {
    Plan::Steps(Steps::Exec)
}

pub(super) fn discard(_: &Server, _: &mut Client, _: &[Bytes]) -> Plan {
    Plan::Steps(Steps::Discard)
}

pub(super) fn watch(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    // Copies: what is kept would keep all that was read with it.
    let keys = words[1..].iter().map(|key| Bytes::copy_from_slice(key));
    Plan::Steps(Steps::Watch(keys.collect()))
}

pub(super) fn unwatch(_: &Server, client: &mut Client, _: &[Bytes]) -> Plan {
    if client.transaction.is_none() {
        client.watched.clear(); // Within a transaction EXEC does it.
    }
    Plan::Reply(Reply::OK)
}

/// `SESSION OPEN [seconds]`, `SESSION CALL id sequence command ..`, `SESSION CLOSE id`
pub(super) fn session(server: &Server, client: &mut Client, words: &[Bytes]) -> Plan {
    match (words[1].to_ascii_lowercase().as_slice(), &words[2..]) {
        (b"open", []) => open(SESSION_SECONDS),
        (b"open", [seconds]) => match integer(seconds) {
            Ok(seconds @ 1..=SESSION_SECONDS_MAX) => open(seconds),
            Ok(_) => error(format!(
                "ERR a session lives 1 to {SESSION_SECONDS_MAX} seconds after it was used last"
            )),
            Err(text) => error(text),
        },
        (b"call", [id, sequence, command @ ..]) if !command.is_empty() => {
            planned(read_call(server, client, [id, sequence], command))
        }
        (b"close", [id]) => match number(id) {
            Ok(id) => Plan::Steps(Steps::CloseSession(SessionId(id))),
            Err(text) => error(text),
        },
        _ => unknown_subcommand("SESSION", words),
    }
}

/// How long a session lives when it is not used, in seconds.
const SESSION_SECONDS: i64 = 60 * 60;
const SESSION_SECONDS_MAX: i64 = 7 * 24 * SESSION_SECONDS;

fn open(seconds: i64) -> Plan {
    let lifetime_ms = seconds as u64 * 1000;
    Plan::Steps(Steps::OpenSession { lifetime_ms })
}

fn number(word: &[u8]) -> Read<u64> {
    u64::try_from(integer(word)?).map_err(|_| super::NOT_AN_INTEGER.to_owned())
}

fn read_call(
    server: &Server,
    client: &mut Client,
    [id, sequence]: [&Bytes; 2],
    command: &[Bytes],
) -> Read<Plan> {
    let (session, sequence) = (SessionId(number(id)?), number(sequence)?);
    // What is no write is not even looked at: that may change what the connection knows of its client, and a call in a call in a call
    // has no end.
    let spec = find(&command[0]);
    if spec.is_some_and(|spec| !spec.flags.contains(&"write") || spec.name == "session") {
        return Err(NO_WRITE.to_owned());
    }
    let command = command.to_vec();
    let slot = slot(&command);
    match plan(server, client, &command) {
        Plan::Store(command) if command.is_write() => Ok(Plan::Steps(Steps::Call {
            session,
            sequence,
            command,
            slot,
        })),
        Plan::Refused(Reply::Error(error)) | Plan::Reply(Reply::Error(error)) => {
            Err(error.into_owned())
        }
        _ => Err(NO_WRITE.to_owned()),
    }
}

const NO_WRITE: &str = "ERR a session is for commands that change the store; send this one without";
