//! The commands: their names, how many arguments they take, where their keys are, and what each means for the store.

mod about;
mod expiry;
mod greeting;
mod several;
mod strings;
mod words;

use std::borrow::Cow;

use bytes::Bytes;

use super::Server;
use super::client::Client;
use super::cluster;
use super::raft;
use super::reply::Reply;
use super::request::Words;
use crate::kv::{Command, KEY_BYTES_MAX};
use crate::session::SessionId;

pub(super) use words::unknown_subcommand;
use words::{NOT_AN_INTEGER, SYNTAX_ERROR};

/// What is to be done about a request.
#[derive(Debug)]
pub(super) enum Plan {
    /// It is no command that can be carried out: a transaction with it is not, either.
    Refused(Reply),
    /// It is answered from what the connection knows.
    Reply(Reply),
    /// The last reply of a connection.
    Quit(Reply),
    /// It asks the store, or changes it.
    Store(Command),
    /// It takes more than one step.
    Steps(Steps),
}

/// What takes more than one step, and does not go together with other commands.
#[derive(Debug)]
pub(super) enum Steps {
    Multi,
    Exec,
    Discard,
    Watch(Vec<Bytes>),
    Scan {
        cursor: u64,
        pattern: Bytes,
        count: usize,
        /// Whether the type that is asked for is one that there is.
        is_any: bool,
    },
    Keys(Bytes),
    OpenSession {
        lifetime_ms: u64,
    },
    Call {
        session: SessionId,
        sequence: u64,
        command: Command,
        slot: u16,
    },
    CloseSession(SessionId),
    Info(Vec<Bytes>),
    Cluster(cluster::Question),
    Raft(raft::Command),
}

/// A command, as `COMMAND` describes it.
pub(super) struct Spec {
    pub(super) name: &'static str,
    /// How many words, the command's name included; at least so many if negative.
    pub(super) arity: i64,
    pub(super) flags: &'static [&'static str],
    /// Where its keys are: first, last (-1 is the last argument), step.
    pub(super) keys: (i64, i64, i64),
    plan: fn(&Server, &mut Client, &[Bytes]) -> Plan,
}

const NONE: (i64, i64, i64) = (0, 0, 0);
const ONE: (i64, i64, i64) = (1, 1, 1);
const ALL: (i64, i64, i64) = (1, -1, 1);
const PAIRS: (i64, i64, i64) = (1, -1, 2);

const GROWS: &[&str] = &["write", "denyoom", "fast"];
const WRITES: &[&str] = &["write", "fast"];
const READS: &[&str] = &["readonly", "fast"];
/// Needs no leader, and nothing that is in the store.
const ALWAYS: &[&str] = &["loading", "stale", "fast"];
/// The same before the password too.
const GREETS: &[&str] = &["loading", "stale", "fast", "no_auth"];
const SLOW_READS: &[&str] = &["readonly"];
const ADMIN: &[&str] = &["admin", "loading", "stale"];
const SESSION: &[&str] = &["write", "denyoom", "movablekeys"];

/// Sorted by name.
#[rustfmt::skip]
pub(super) const COMMANDS: &[Spec] = &[
    Spec { name: "append",      arity: 3,  flags: GROWS,      keys: ONE,   plan: strings::append },
    Spec { name: "asking",      arity: 1,  flags: ALWAYS,     keys: NONE,  plan: greeting::asking },
    Spec { name: "auth",        arity: -2, flags: GREETS,     keys: NONE,  plan: greeting::auth },
    Spec { name: "client",      arity: -2, flags: ALWAYS,     keys: NONE,  plan: greeting::client },
    Spec { name: "cluster",     arity: -2, flags: ALWAYS,     keys: NONE,  plan: cluster::plan },
    Spec { name: "command",     arity: -1, flags: ALWAYS,     keys: NONE,  plan: about::command },
    Spec { name: "config",      arity: -2, flags: ALWAYS,     keys: NONE,  plan: about::config },
    Spec { name: "dbsize",      arity: 1,  flags: READS,      keys: NONE,  plan: several::dbsize },
    Spec { name: "decr",        arity: 2,  flags: GROWS,      keys: ONE,   plan: strings::decr },
    Spec { name: "decrby",      arity: 3,  flags: GROWS,      keys: ONE,   plan: strings::decrby },
    Spec { name: "del",         arity: -2, flags: WRITES,     keys: ALL,   plan: several::del },
    Spec { name: "discard",     arity: 1,  flags: ALWAYS,     keys: NONE,  plan: several::discard },
    Spec { name: "echo",        arity: 2,  flags: ALWAYS,     keys: NONE,  plan: greeting::echo },
    Spec { name: "exec",        arity: 1,  flags: ALWAYS,     keys: NONE,  plan: several::exec },
    Spec { name: "exists",      arity: -2, flags: READS,      keys: ALL,   plan: several::exists },
    Spec { name: "expire",      arity: -3, flags: WRITES,     keys: ONE,   plan: expiry::expire },
    Spec { name: "expireat",    arity: -3, flags: WRITES,     keys: ONE,   plan: expiry::expireat },
    Spec { name: "expiretime",  arity: 2,  flags: READS,      keys: ONE,   plan: expiry::expiretime },
    Spec { name: "flushall",    arity: -1, flags: WRITES,     keys: NONE,  plan: several::flush },
    Spec { name: "flushdb",     arity: -1, flags: WRITES,     keys: NONE,  plan: several::flush },
    Spec { name: "get",         arity: 2,  flags: READS,      keys: ONE,   plan: strings::get },
    Spec { name: "getdel",      arity: 2,  flags: WRITES,     keys: ONE,   plan: strings::getdel },
    Spec { name: "getex",       arity: -2, flags: WRITES,     keys: ONE,   plan: expiry::getex },
    Spec { name: "getrange",    arity: 4,  flags: SLOW_READS, keys: ONE,   plan: strings::getrange },
    Spec { name: "getset",      arity: 3,  flags: GROWS,      keys: ONE,   plan: strings::getset },
    Spec { name: "hello",       arity: -1, flags: GREETS,     keys: NONE,  plan: greeting::hello },
    Spec { name: "incr",        arity: 2,  flags: GROWS,      keys: ONE,   plan: strings::incr },
    Spec { name: "incrby",      arity: 3,  flags: GROWS,      keys: ONE,   plan: strings::incrby },
    Spec { name: "incrbyfloat", arity: 3,  flags: GROWS,      keys: ONE,   plan: strings::incrbyfloat },
    Spec { name: "info",        arity: -1, flags: ALWAYS,     keys: NONE,  plan: about::info },
    Spec { name: "keys",        arity: 2,  flags: SLOW_READS, keys: NONE,  plan: several::keys },
    Spec { name: "mget",        arity: -2, flags: READS,      keys: ALL,   plan: several::mget },
    Spec { name: "mset",        arity: -3, flags: GROWS,      keys: PAIRS, plan: several::mset },
    Spec { name: "msetnx",      arity: -3, flags: GROWS,      keys: PAIRS, plan: several::msetnx },
    Spec { name: "multi",       arity: 1,  flags: ALWAYS,     keys: NONE,  plan: several::multi },
    Spec { name: "persist",     arity: 2,  flags: WRITES,     keys: ONE,   plan: expiry::persist },
    Spec { name: "pexpire",     arity: -3, flags: WRITES,     keys: ONE,   plan: expiry::pexpire },
    Spec { name: "pexpireat",   arity: -3, flags: WRITES,     keys: ONE,   plan: expiry::pexpireat },
    Spec { name: "pexpiretime", arity: 2,  flags: READS,      keys: ONE,   plan: expiry::pexpiretime },
    Spec { name: "ping",        arity: -1, flags: ALWAYS,     keys: NONE,  plan: greeting::ping },
    Spec { name: "psetex",      arity: 4,  flags: GROWS,      keys: ONE,   plan: expiry::psetex },
    Spec { name: "pttl",        arity: 2,  flags: READS,      keys: ONE,   plan: expiry::pttl },
    Spec { name: "quit",        arity: -1, flags: GREETS,     keys: NONE,  plan: greeting::quit },
    Spec { name: "raft",        arity: -2, flags: ADMIN,      keys: NONE,  plan: raft::plan },
    Spec { name: "readonly",    arity: 1,  flags: ALWAYS,     keys: NONE,  plan: greeting::readonly },
    Spec { name: "readwrite",   arity: 1,  flags: ALWAYS,     keys: NONE,  plan: greeting::readwrite },
    Spec { name: "reset",       arity: 1,  flags: GREETS,     keys: NONE,  plan: greeting::reset },
    Spec { name: "scan",        arity: -2, flags: SLOW_READS, keys: NONE,  plan: several::scan },
    Spec { name: "select",      arity: 2,  flags: ALWAYS,     keys: NONE,  plan: greeting::select },
    Spec { name: "session",     arity: -2, flags: SESSION,    keys: NONE,  plan: several::session },
    Spec { name: "set",         arity: -3, flags: GROWS,      keys: ONE,   plan: strings::set },
    Spec { name: "setex",       arity: 4,  flags: GROWS,      keys: ONE,   plan: expiry::setex },
    Spec { name: "setnx",       arity: 3,  flags: GROWS,      keys: ONE,   plan: strings::setnx },
    Spec { name: "setrange",    arity: 4,  flags: GROWS,      keys: ONE,   plan: strings::setrange },
    Spec { name: "strlen",      arity: 2,  flags: READS,      keys: ONE,   plan: strings::strlen },
    Spec { name: "substr",      arity: 4,  flags: SLOW_READS, keys: ONE,   plan: strings::getrange },
    Spec { name: "time",        arity: 1,  flags: ALWAYS,     keys: NONE,  plan: about::time },
    Spec { name: "touch",       arity: -2, flags: READS,      keys: ALL,   plan: several::exists },
    Spec { name: "ttl",         arity: 2,  flags: READS,      keys: ONE,   plan: expiry::ttl },
    Spec { name: "type",        arity: 2,  flags: READS,      keys: ONE,   plan: strings::kind },
    Spec { name: "unlink",      arity: -2, flags: WRITES,     keys: ALL,   plan: several::del },
    Spec { name: "unwatch",     arity: 1,  flags: ALWAYS,     keys: NONE,  plan: several::unwatch },
    Spec { name: "watch",       arity: -2, flags: ALWAYS,     keys: ALL,   plan: several::watch },
];

/// What a request means.
pub(super) fn plan(server: &Server, client: &mut Client, words: &Words) -> Plan {
    let Some(spec) = find(&words[0]) else {
        return refused(words::unknown_command(words));
    };
    if !spec.fits(words.len()) {
        let text = format!("wrong number of arguments for '{}' command", spec.name);
        if spec.name != "exec" {
            return refused(format!("ERR {text}"));
        }
        // As in Redis that is the end of the transaction.
        client.watched.clear();
        client.transaction = None;
        return refused(format!(
            "EXECABORT Transaction discarded because of: {text}"
        ));
    }
    if !client.is_trusted && !spec.flags.contains(&"no_auth") {
        return refused("NOAUTH Authentication required.");
    }
    let lengths = spec.keys_of(words).map(Bytes::len);
    if let Some(bytes) = lengths.max().filter(|bytes| *bytes > KEY_BYTES_MAX) {
        return refused(format!(
            "ERR the key has {bytes} bytes, the limit is {KEY_BYTES_MAX}"
        ));
    }
    let planned = (spec.plan)(server, client, words);
    match &planned {
        Plan::Store(command) | Plan::Steps(Steps::Call { command, .. })
            if command.grows() && server.is_full() =>
        {
            refused("OOM command not allowed when used memory > 'maxmemory'.")
        }
        _ => planned,
    }
}

/// The slot of a request: that of its first key, 0 if it has none.
pub(super) fn slot(words: &[Bytes]) -> u16 {
    let first = find(&words[0]).and_then(|spec| spec.keys_of(words).next());
    first.map_or(0, |key| cluster::slot(key))
}

pub(super) fn find(name: &[u8]) -> Option<&'static Spec> {
    let name = name.iter().map(u8::to_ascii_lowercase);
    let at = COMMANDS.binary_search_by(|spec| spec.name.bytes().cmp(name.clone()));
    at.ok().map(|at| &COMMANDS[at])
}

impl Spec {
    fn fits(&self, words: usize) -> bool {
        let words = words as i64;
        match self.arity < 0 {
            true => words >= -self.arity,
            false => words == self.arity,
        }
    }

    /// The keys among the words of a request.
    fn keys_of<'a>(&self, words: &'a [Bytes]) -> impl Iterator<Item = &'a Bytes> {
        let (mut words, mut keys) = (words, self.keys);
        // The command of a call is a request of its own.
        if self.name == "session"
            && let [_, _, _, _, command @ ..] = words
            && let Some(inner) = command.first().and_then(|name| find(name))
        {
            (words, keys) = (command, inner.keys);
        }
        let (first, last, step) = keys;
        let last = if last < 0 {
            words.len() as i64 + last
        } else {
            last
        };
        let count = if first == 0 { 0 } else { last + 1 - first };
        words
            .iter()
            .skip(first as usize)
            .take(count.max(0) as usize)
            .step_by(step.max(1) as usize)
    }
}

fn refused(text: impl Into<Cow<'static, str>>) -> Plan {
    Plan::Refused(Reply::error(text))
}

pub(super) fn error(text: impl Into<Cow<'static, str>>) -> Plan {
    Plan::Reply(Reply::error(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_any_case_and_sorted() {
        assert_eq!(find(b"GeT").unwrap().name, "get");
        assert!(find(b"gett").is_none());
        assert!(find(&[b'x'; 1000]).is_none());
        assert!(COMMANDS.is_sorted_by_key(|spec| spec.name));
    }

    #[test]
    fn keys_are_where_the_table_says() {
        let words = |text: &str| -> Words {
            text.split(' ')
                .map(|word| Bytes::copy_from_slice(word.as_bytes()))
                .collect()
        };
        for (text, keys) in [
            ("get a", "a"),
            ("mset a 1 b 2", "a b"),
            ("mget a b c", "a b c"),
            ("ping a", ""),
            ("set a b ex 5", "a"),
            ("session call 7 1 mset a 1 b 2", "a b"),
            ("session open 7", ""),
        ] {
            let words = words(text);
            let found = find(&words[0]).unwrap().keys_of(&words);
            let found: Vec<&str> = found.map(|key| str::from_utf8(key).unwrap()).collect();
            assert_eq!(found.join(" "), keys, "{text}");
        }
    }
}
