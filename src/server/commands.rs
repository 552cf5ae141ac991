//! The commands: their names, how many arguments they take, where their keys are, and what each means for the store.

use std::pin::Pin;

use bytes::Bytes;

use super::resp::{Reply, Request};
use super::{Server, cluster, connection::Session, raft};
use crate::kv::{Command, Output, VALUE_BYTES_MAX, parse_integer};

/// What is to be done about a request.
pub(super) enum Plan {
    /// It is answered from what the connection knows.
    Reply(Reply),
    /// The last reply of a connection.
    Quit(Reply),
    /// It changes the store: through the log.
    Write { key: Bytes, command: Command },
    /// It reads the store, linearizably.
    Read { key: Bytes },
    /// It takes its time, and nothing overtakes it.
    Later(Pin<Box<dyn Future<Output = Reply> + Send>>),
}

/// A command, as `COMMAND` describes it.
pub(super) struct Spec {
    pub(super) name: &'static str,
    /// How many words, the command's name included; at least so many if negative.
    pub(super) arity: i64,
    pub(super) flags: &'static [&'static str],
    /// Where its keys are: first, last (-1 is the last argument), step.
    pub(super) keys: (i64, i64, i64),
    plan: fn(&Server, &mut Session, &[Bytes]) -> Plan,
}

const NO_KEYS: (i64, i64, i64) = (0, 0, 0);
const ONE_KEY: (i64, i64, i64) = (1, 1, 1);

#[rustfmt::skip]
pub(super) const COMMANDS: &[Spec] = &[
    Spec { name: "append",  arity: 3,  flags: &["write", "denyoom", "fast"],   keys: ONE_KEY,    plan: append },
    Spec { name: "client",  arity: -2, flags: &["loading", "stale", "fast"],   keys: NO_KEYS,    plan: client },
    Spec { name: "cluster", arity: -2, flags: &["stale"],                      keys: NO_KEYS,    plan: cluster::plan },
    Spec { name: "command", arity: -1, flags: &["loading", "stale"],           keys: NO_KEYS,    plan: command },
    Spec { name: "config",  arity: -2, flags: &["loading", "stale"],           keys: NO_KEYS,    plan: config },
    Spec { name: "decr",    arity: 2,  flags: &["write", "denyoom", "fast"],   keys: ONE_KEY,    plan: decr },
    Spec { name: "decrby",  arity: 3,  flags: &["write", "denyoom", "fast"],   keys: ONE_KEY,    plan: decrby },
    Spec { name: "del",     arity: -2, flags: &["write"],                      keys: (1, -1, 1), plan: del },
    Spec { name: "echo",    arity: 2,  flags: &["loading", "stale", "fast"],   keys: NO_KEYS,    plan: echo },
    Spec { name: "get",     arity: 2,  flags: &["readonly", "fast"],           keys: ONE_KEY,    plan: get },
    Spec { name: "hello",   arity: -1, flags: &["loading", "stale", "fast"],   keys: NO_KEYS,    plan: hello },
    Spec { name: "incr",    arity: 2,  flags: &["write", "denyoom", "fast"],   keys: ONE_KEY,    plan: incr },
    Spec { name: "incrby",  arity: 3,  flags: &["write", "denyoom", "fast"],   keys: ONE_KEY,    plan: incrby },
    Spec { name: "info",    arity: -1, flags: &["loading", "stale"],           keys: NO_KEYS,    plan: info },
    Spec { name: "ping",    arity: -1, flags: &["fast"],                       keys: NO_KEYS,    plan: ping },
    Spec { name: "quit",    arity: -1, flags: &["loading", "stale", "fast"],   keys: NO_KEYS,    plan: quit },
    Spec { name: "raft",    arity: -2, flags: &["admin", "stale"],             keys: NO_KEYS,    plan: raft::plan },
    Spec { name: "select",  arity: 2,  flags: &["loading", "stale", "fast"],   keys: NO_KEYS,    plan: select },
    Spec { name: "set",     arity: 3,  flags: &["write", "denyoom"],           keys: ONE_KEY,    plan: set },
];

const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// Long arguments are not repeated in an error.
const SHOWN_BYTES_MAX: usize = 128;

/// What a request means.
pub(super) fn plan(server: &Server, session: &mut Session, request: &Request) -> Plan {
    let Some(spec) = find(&request[0]) else {
        return error(unknown_command(request));
    };
    let words = request.len() as i64;
    let fits = if spec.arity < 0 {
        words >= -spec.arity
    } else {
        words == spec.arity
    };
    if !fits {
        return error(format!(
            "ERR wrong number of arguments for '{}' command",
            spec.name
        ));
    }
    (spec.plan)(server, session, request)
}

/// How Redis words what a command gave.
pub(super) fn reply_to_write(output: Output) -> Reply {
    match output {
        Output::Done => Reply::OK,
        Output::Integer(integer) => Reply::Integer(integer),
        Output::NotAnInteger => Reply::error(NOT_AN_INTEGER),
        Output::Overflow => Reply::error("ERR increment or decrement would overflow"),
        Output::TooLong => Reply::error(format!(
            "ERR string exceeds maximum allowed size ({VALUE_BYTES_MAX} bytes)"
        )),
        Output::Unknown => {
            Reply::error("ERR this version of the program does not know the command")
        }
    }
}

fn find(name: &[u8]) -> Option<&'static Spec> {
    COMMANDS
        .iter()
        .find(|spec| name.eq_ignore_ascii_case(spec.name.as_bytes()))
}

fn unknown_command(request: &Request) -> String {
    let shown = |bytes: &Bytes| {
        String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]).into_owned()
    };
    let mut arguments = String::new();
    for argument in &request[1..] {
        if arguments.len() >= SHOWN_BYTES_MAX {
            break;
        }
        arguments += &format!("'{}' ", shown(argument));
    }
    let name = shown(&request[0]);
    format!("ERR unknown command '{name}', with args beginning with: {arguments}")
}

pub(super) fn error(text: impl Into<std::borrow::Cow<'static, str>>) -> Plan {
    Plan::Reply(Reply::error(text))
}

fn set(_: &Server, _: &mut Session, request: &[Bytes]) -> Plan {
    let (key, value) = (request[1].clone(), request[2].clone());
    let command = Command::Set {
        key: key.clone(),
        value,
    };
    Plan::Write { key, command }
}

fn append(_: &Server, _: &mut Session, request: &[Bytes]) -> Plan {
    let (key, value) = (request[1].clone(), request[2].clone());
    let command = Command::Append {
        key: key.clone(),
        value,
    };
    Plan::Write { key, command }
}

fn del(_: &Server, _: &mut Session, request: &[Bytes]) -> Plan {
    let keys = request[1..].to_vec();
    Plan::Write {
        key: keys[0].clone(),
        command: Command::Del { keys },
    }
}

fn incr(_: &Server, _: &mut Session, request: &[Bytes]) -> Plan {
    increment(&request[1], Some(1))
}

fn decr(_: &Server, _: &mut Session, request: &[Bytes]) -> Plan {
    increment(&request[1], Some(-1))
}

fn incrby(_: &Server, _: &mut Session, request: &[Bytes]) -> Plan {
    increment(&request[1], parse_integer(&request[2]))
}

fn decrby(_: &Server, _: &mut Session, request: &[Bytes]) -> Plan {
    increment(
        &request[1],
        parse_integer(&request[2]).and_then(i64::checked_neg),
    )
}

fn increment(key: &Bytes, by: Option<i64>) -> Plan {
    match by {
        Some(by) => Plan::Write {
            key: key.clone(),
            command: Command::IncrBy {
                key: key.clone(),
                by,
            },
        },
        None => error(NOT_AN_INTEGER),
    }
}

fn get(_: &Server, _: &mut Session, request: &[Bytes]) -> Plan {
    Plan::Read {
        key: request[1].clone(),
    }
}

fn ping(_: &Server, _: &mut Session, request: &[Bytes]) -> Plan {
    match request {
        [_] => Plan::Reply(Reply::Simple("PONG")),
        [_, text] => Plan::Reply(Reply::Bulk(text.clone())),
        _ => error("ERR wrong number of arguments for 'ping' command"),
    }
}

fn echo(_: &Server, _: &mut Session, request: &[Bytes]) -> Plan {
    Plan::Reply(Reply::Bulk(request[1].clone()))
}

fn quit(_: &Server, _: &mut Session, _: &[Bytes]) -> Plan {
    Plan::Quit(Reply::OK)
}

fn select(_: &Server, _: &mut Session, request: &[Bytes]) -> Plan {
    match parse_integer(&request[1]) {
        Some(0) => Plan::Reply(Reply::OK),
        Some(_) => error("ERR SELECT is not allowed in cluster mode"),
        None => error(NOT_AN_INTEGER),
    }
}

/// Only RESP2 so far: a client that asks for more is told so and stays with it.
fn hello(_: &Server, session: &mut Session, request: &[Bytes]) -> Plan {
    match request.get(1).map(|version| &version[..]) {
        None | Some(b"2") => {}
        Some(_) => return error("NOPROTO unsupported protocol version"),
    }
    if request.len() > 2 {
        return error("ERR syntax error in HELLO: no options are offered");
    }
    let id = session.id as i64;
    Plan::Reply(Reply::Array(vec![
        Reply::bulk("server"),
        Reply::bulk("redis"),
        Reply::bulk("version"),
        Reply::bulk(REDIS_VERSION),
        Reply::bulk("proto"),
        Reply::Integer(2),
        Reply::bulk("id"),
        Reply::Integer(id),
        Reply::bulk("mode"),
        Reply::bulk("cluster"),
        Reply::bulk("role"),
        Reply::bulk("master"),
        Reply::bulk("modules"),
        Reply::Array(Vec::new()),
    ]))
}

/// The version of Redis whose commands these are, for clients that ask.
const REDIS_VERSION: &str = "7.0.0";

fn client(_: &Server, session: &mut Session, request: &[Bytes]) -> Plan {
    let sub = request[1].to_ascii_lowercase();
    match (&sub[..], request.len()) {
        (b"id", 2) => Plan::Reply(Reply::Integer(session.id as i64)),
        (b"getname", 2) => Plan::Reply(session.name.clone().map_or(Reply::Nil, Reply::Bulk)),
        (b"setname", 3) => {
            session.name = Some(request[2].clone()).filter(|name| !name.is_empty());
            Plan::Reply(Reply::OK)
        }
        (b"setinfo", 4) => Plan::Reply(Reply::OK),
        _ => unknown_subcommand("CLIENT", &request[1]),
    }
}

pub(super) fn unknown_subcommand(command: &str, sub: &Bytes) -> Plan {
    let shown = String::from_utf8_lossy(&sub[..sub.len().min(SHOWN_BYTES_MAX)]);
    error(format!(
        "ERR unknown subcommand or wrong number of arguments for '{shown}' of {command}"
    ))
}

fn command(_: &Server, _: &mut Session, request: &[Bytes]) -> Plan {
    let sub = request.get(1).map(|sub| sub.to_ascii_lowercase());
    match sub.as_deref() {
        None => Plan::Reply(Reply::Array(COMMANDS.iter().map(describe).collect())),
        Some(b"count") => Plan::Reply(Reply::Integer(COMMANDS.len() as i64)),
        Some(b"docs") => Plan::Reply(Reply::Array(Vec::new())),
        Some(b"info") if request.len() == 2 => {
            Plan::Reply(Reply::Array(COMMANDS.iter().map(describe).collect()))
        }
        Some(b"info") => {
            let described = request[2..]
                .iter()
                .map(|name| find(name).map_or(Reply::Nil, describe));
            Plan::Reply(Reply::Array(described.collect()))
        }
        Some(_) => unknown_subcommand("COMMAND", &request[1]),
    }
}

/// Tools ask for settings of Redis that do not exist here.
fn config(_: &Server, _: &mut Session, request: &[Bytes]) -> Plan {
    match request[1].eq_ignore_ascii_case(b"get") && request.len() > 2 {
        true => Plan::Reply(Reply::Array(Vec::new())),
        false => unknown_subcommand("CONFIG", &request[1]),
    }
}

fn describe(spec: &Spec) -> Reply {
    let (first, last, step) = spec.keys;
    Reply::Array(vec![
        Reply::bulk(spec.name),
        Reply::Integer(spec.arity),
        Reply::Array(spec.flags.iter().map(|flag| Reply::Simple(flag)).collect()),
        Reply::Integer(first),
        Reply::Integer(last),
        Reply::Integer(step),
    ])
}

fn info(server: &Server, _: &mut Session, _: &[Bytes]) -> Plan {
    let status = server.status();
    let role = if status.leader == Some(status.id) {
        "master"
    } else {
        "slave"
    };
    let leader = status
        .leader
        .map_or("none".to_owned(), |leader| leader.to_string());
    let text = format!(
        "# Server\r\nredis_version:{REDIS_VERSION}\r\nredis_mode:cluster\r\nduramen_version:{}\r\n\r\n\
         # Replication\r\nrole:{role}\r\n\r\n\
         # Cluster\r\ncluster_enabled:1\r\n\r\n\
         # Raft\r\nraft_node:{}\r\nraft_leader:{leader}\r\nraft_term:{}\r\nraft_commit:{}\r\nraft_applied:{}\r\n",
        env!("CARGO_PKG_VERSION"),
        status.id,
        status.term,
        status.commit,
        status.applied,
    );
    Plan::Reply(Reply::bulk(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_any_case_and_sorted() {
        assert_eq!(find(b"GeT").unwrap().name, "get");
        assert!(find(b"gett").is_none());
        assert!(COMMANDS.is_sorted_by_key(|spec| spec.name));
    }

    #[test]
    fn an_unknown_command_is_named_with_its_first_arguments() {
        let request = ["FOO", "a", "b"].map(Bytes::from).to_vec();
        let text = "ERR unknown command 'FOO', with args beginning with: 'a' 'b' ";
        assert_eq!(unknown_command(&request), text);
        let long = vec![Bytes::from("x".repeat(1000)); 1000];
        assert!(unknown_command(&long).len() < 500);
    }
}
