//! What clients say of themselves, and ask before anything else.

use bytes::Bytes;

use super::words::{is, unknown_subcommand};
use super::{NOT_AN_INTEGER, Plan, SYNTAX_ERROR, error};
use crate::kv::parse_integer;
use crate::server::client::Client;
use crate::server::reply::{Protocol, Reply};
use crate::server::{REDIS_VERSION, Server};

pub(super) fn ping(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    match words {
        [_] => Plan::Reply(Reply::Simple("PONG")),
        [_, text] => Plan::Reply(Reply::Bulk(text.clone())),
        _ => error("ERR wrong number of arguments for 'ping' command"),
    }
}

pub(super) fn echo(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    Plan::Reply(Reply::Bulk(words[1].clone()))
}

pub(super) fn quit(_: &Server, _: &mut Client, _: &[Bytes]) -> Plan {
    Plan::Quit(Reply::OK)
}

pub(super) fn reset(server: &Server, client: &mut Client, _: &[Bytes]) -> Plan {
    client.reset(!server.has_password());
    Plan::Reply(Reply::Simple("RESET"))
}

pub(super) fn select(_: &Server, _: &mut Client, words: &[Bytes]) -> Plan {
    match parse_integer(&words[1]) {
        Some(0) => Plan::Reply(Reply::OK),
        Some(_) => error("ERR SELECT is not allowed in cluster mode"),
        None => error(NOT_AN_INTEGER),
    }
}

/// Linearizable reads by any node from now on.
pub(super) fn readonly(_: &Server, client: &mut Client, _: &[Bytes]) -> Plan {
    client.is_readonly = true;
    Plan::Reply(Reply::OK)
}

pub(super) fn readwrite(_: &Server, client: &mut Client, _: &[Bytes]) -> Plan {
    client.is_readonly = false;
    Plan::Reply(Reply::OK)
}

/// Slots never move here, so nobody is ever told to ask.
pub(super) fn asking(_: &Server, _: &mut Client, _: &[Bytes]) -> Plan {
    Plan::Reply(Reply::OK)
}

/// `AUTH [user] password`
pub(super) fn auth(server: &Server, client: &mut Client, words: &[Bytes]) -> Plan {
    let (user, password) = match words {
        [_, password] => (None, password),
        [_, user, password] => (Some(user), password),
        _ => return error(SYNTAX_ERROR),
    };
    match log_in(server, client, user, password) {
        Ok(()) => Plan::Reply(Reply::OK),
        Err(text) => error(text),
    }
}

fn log_in(
    server: &Server,
    client: &mut Client,
    user: Option<&Bytes>,
    password: &[u8],
) -> Result<(), &'static str> {
    if !server.has_password() && user.is_none() {
        return Err(NO_PASSWORD);
    }
    let is_user = user.is_none_or(|user| &user[..] == b"default");
    match is_user && server.is_password(password) {
        true => client.is_trusted = true,
        false => return Err("WRONGPASS invalid username-password pair or user is disabled."),
    }
    Ok(())
}

const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. \
                           Are you sure your configuration is correct?";

/// `HELLO [2 | 3 [AUTH user password] [SETNAME name]]`
pub(super) fn hello(server: &Server, client: &mut Client, words: &[Bytes]) -> Plan {
    let protocol = match words.get(1).map(|version| &version[..]) {
        None => client.protocol,
        Some(b"2") => Protocol::Resp2,
        Some(b"3") => Protocol::Resp3,
        Some(version) if parse_integer(version).is_none() => {
            return error("ERR Protocol version is not an integer or out of range");
        }
        Some(_) => return error("NOPROTO unsupported protocol version"),
    };
    let mut options = words.get(2..).unwrap_or_default();
    let mut name = None;
    while let [option, rest @ ..] = options {
        options = match rest {
            [user, password, rest @ ..] if is(option, "auth") => {
                if let Err(text) = log_in(server, client, Some(user), password) {
                    return error(text);
                }
                rest
            }
            [new, rest @ ..] if is(option, "setname") => {
                name = Some(new.clone());
                rest
            }
            _ => {
                let option = String::from_utf8_lossy(&option[..option.len().min(32)]);
                return error(format!("ERR Syntax error in HELLO option '{option}'"));
            }
        };
    }
    if !client.is_trusted {
        return error(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> \
             option can be used to authenticate the client and select the RESP protocol version at the same time",
        );
    }
    if let Some(name) = name {
        if !is_name(&name) {
            return error(BAD_NAME);
        }
        client.name = Some(copy(&name));
    }
    client.protocol = protocol;
    Plan::Reply(greet(server, client))
}

fn greet(server: &Server, client: &Client) -> Reply {
    let proto = match client.protocol {
        Protocol::Resp2 => 2,
        Protocol::Resp3 => 3,
    };
    let role = if server.leads() { "master" } else { "replica" };
    Reply::map([
        ("server", Reply::bulk("redis")),
        ("version", Reply::bulk(REDIS_VERSION)),
        ("proto", Reply::Integer(proto)),
        ("id", Reply::Integer(client.id as i64)),
        ("mode", Reply::bulk("cluster")),
        ("role", Reply::bulk(role)),
        ("modules", Reply::Array(Vec::new())),
    ])
}

const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

fn is_name(name: &[u8]) -> bool {
    name.len() <= NAME_BYTES_MAX && name.iter().all(u8::is_ascii_graphic)
}

const NAME_BYTES_MAX: usize = 256;

/// A name that is kept: as a part of what was read it would keep all of that.
fn copy(name: &[u8]) -> Bytes {
    Bytes::copy_from_slice(name)
}

pub(super) fn client(_: &Server, client: &mut Client, words: &[Bytes]) -> Plan {
    match (words[1].to_ascii_lowercase().as_slice(), &words[2..]) {
        (b"id", []) => Plan::Reply(Reply::Integer(client.id as i64)),
        (b"getname", []) => Plan::Reply(client.name.clone().map_or(Reply::Nil, Reply::Bulk)),
        (b"setname", [name]) => match is_name(name) {
            true => {
                client.name = Some(copy(name)).filter(|name| !name.is_empty());
                Plan::Reply(Reply::OK)
            }
            false => error(BAD_NAME),
        },
        // The name and version of the client's library. Nobody asks for them.
        (b"setinfo", [_, _]) => Plan::Reply(Reply::OK),
        (b"no-evict" | b"no-touch", [_]) => Plan::Reply(Reply::OK),
        (b"info", []) => Plan::Reply(Reply::Verbatim(describe(client))),
        _ => unknown_subcommand("CLIENT", words),
    }
}

fn describe(client: &Client) -> String {
    let name = client.name.as_deref().unwrap_or_default();
    let resp = match client.protocol {
        Protocol::Resp2 => 2,
        Protocol::Resp3 => 3,
    };
    let (id, name) = (client.id, String::from_utf8_lossy(name));
    format!("id={id} name={name} db=0 resp={resp}\n")
}
