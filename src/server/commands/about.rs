//! What the server says of itself.

use bytes::Bytes;

use super::words::unknown_subcommand;
use super::{COMMANDS, Plan, Spec, Steps, error, find};
use crate::node::LogTime;
use crate::server::Server;
use crate::server::client::Client;
use crate::server::reply::Reply;

pub(super) fn command(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    let all = || Plan::Reply(Reply::Array(COMMANDS.iter().map(describe).collect()));
    let sub = words.get(1).map(|sub| sub.to_ascii_lowercase());
    match (sub.as_deref(), words.get(2..).unwrap_or_default()) {
        (None, _) | (Some(b"info"), []) => all(),
        (Some(b"info"), names) => {
            let described = names
                .iter()
                .map(|name| find(name).map_or(Reply::NilArray, describe));
            Plan::Reply(Reply::Array(described.collect()))
        }
        (Some(b"count"), []) => Plan::Reply(Reply::Integer(COMMANDS.len() as i64)),
        (Some(b"list"), []) => {
            let names = COMMANDS.iter().map(|spec| spec.name);
            Plan::Reply(Reply::bulks(names))
        }
        (Some(b"docs"), _) => Plan::Reply(Reply::Map(Vec::new())),
        (Some(b"getkeys"), request @ [_, ..]) => get_keys(request),
        _ => unknown_subcommand("COMMAND", words),
    }
}

fn get_keys(request: &[Bytes]) -> Plan {
    let Some(spec) = find(&request[0]) else {
        return error("ERR Invalid command specified");
    };
    if !spec.fits(request.len()) {
        return error("ERR Invalid number of arguments specified for command");
    }
    let keys: Vec<Reply> = spec.keys_of(request).cloned().map(Reply::Bulk).collect();
    match keys.is_empty() {
        true => error("ERR The command has no key arguments"),
        false => Plan::Reply(Reply::Array(keys)),
    }
}

/// As Redis 7 describes a command; the last four are its categories, tips, other places of keys, and subcommands.
fn describe(spec: &Spec) -> Reply {
    let (first, last, step) = spec.keys;
    let nothing = || Reply::Array(Vec::new());
    Reply::Array(vec![
        Reply::bulk(spec.name),
        Reply::Integer(spec.arity),
        Reply::Array(spec.flags.iter().map(|flag| Reply::Simple(flag)).collect()),
        Reply::Integer(first),
        Reply::Integer(last),
        Reply::Integer(step),
        nothing(),
        nothing(),
        nothing(),
        nothing(),
    ])
}

/// Tools ask for settings of Redis that do not exist here.
pub(super) fn config(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    match words[1].eq_ignore_ascii_case(b"get") && words.len() > 2 {
        true => Plan::Reply(Reply::Map(Vec::new())),
        false => unknown_subcommand("CONFIG", words),
    }
}

/// Seconds and microseconds since 1970, by this node's clock.
pub(super) fn time(_: &Server, _: &mut Client, _: &[Bytes]) -> Plan {
    let millis = LogTime::now().0;
    let (seconds, micros) = (millis / 1000, millis % 1000 * 1000);
    Plan::Reply(Reply::bulks([seconds.to_string(), micros.to_string()]))
}

pub(super) fn info(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    Plan::Steps(Steps::Info(words[1..].to_vec()))
}
