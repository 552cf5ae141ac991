//! The replicated key/value store: the state machine behind the Redis protocol.
//!
//! # Invariants
//!
//! * What [`Kv::apply`](crate::node::StateMachine::apply) does depends on the state and the command alone, so every node that
//!   applies the same log holds the same store. Time too comes from the log: a key that has expired by it is not there, whether it
//!   is removed yet or not.
//! * A [`View`] of the store costs nothing and never changes, so that snapshots and long questions stop no writes.

mod codec;
mod command;
mod execute;
mod output;
mod pattern;
mod stored;
#[cfg(test)]
mod tests;
mod usage;
mod view;

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;

use crate::node::{Frozen, LogTime, StateMachine};

pub use command::{
    Command, Condition, ExpireCondition, Expiry, Request, SetGives, TtlForm, Version,
};
pub use output::{Failure, KeyType, Output};
pub use usage::Usage;
pub use view::{Page, View};

use view::{Item, Key};

/// A store of byte strings.
///
/// ```
/// use duramen::kv::{Command, Kv, Output};
/// use duramen::node::StateMachine;
///
/// let mut kv = Kv::default();
/// kv.apply(&Command::set("a", "1").encode());
/// assert_eq!(kv.view().find(b"a").unwrap(), "1");
/// ```
#[derive(Debug, Default)]
pub struct Kv {
    view: View,
    /// How often it was written to.
    writes: Version,
    /// The keys that expire, the first first.
    deadlines: BTreeSet<(LogTime, Key)>,
    bytes: u64,
    usage: Usage,
}

/// Equal if every command gives the same from now on.
impl PartialEq for Kv {
    fn eq(&self, other: &Kv) -> bool {
        (&self.view, self.writes) == (&other.view, other.writes)
    }
}

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 64 << 10;
/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 8 << 20;

/// What a key takes beside itself and its value: about.
const KEY_OVERHEAD_BYTES: u64 = 128;
/// How many expired keys are removed at a time: all nodes stand still for so long.
const EXPIRED_AT_A_TIME: usize = 1000;

impl Kv {
    /// The store as it is now.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// How large it is, now and later.
    pub fn usage(&self) -> Usage {
        self.usage.clone()
    }

    fn carry_out(&mut self, request: Request) -> Output {
        match request {
            Request::One(command) => self.execute(command),
            Request::Batch(commands) => self.execute_all(commands),
            Request::Transaction { watched, commands } => {
                let is_same = |(key, version): &(Bytes, _)| self.view.version(key) == *version;
                match watched.iter().all(is_same) {
                    true => self.execute_all(commands),
                    false => Output::Aborted,
                }
            }
        }
    }

    fn execute_all(&mut self, commands: Vec<Command>) -> Output {
        let outputs = commands.into_iter().map(|command| self.execute(command));
        Output::List(outputs.collect())
    }

    /// Puts a value at a key. One that expires at once is not there at all.
    fn insert(&mut self, key: &[u8], value: Bytes, expires: Option<LogTime>) {
        if expires.is_some_and(|at| at <= self.view.now) {
            self.remove(key);
            return;
        }
        self.writes.0 += 1;
        self.bytes += size(key, &value);
        if let Some(at) = expires {
            self.deadlines.insert((at, key.into()));
        }
        let item = Item {
            value,
            expires,
            version: self.writes,
        };
        let Some(old) = self.view.map.insert(key.into(), item) else {
            return;
        };
        self.bytes -= size(key, &old.value);
        if let Some(at) = old.expires.filter(|at| Some(*at) != expires) {
            self.deadlines.remove(&(at, key.into()));
        }
    }

    /// Removes what is at a key; gives it, if it had not expired.
    fn remove(&mut self, key: &[u8]) -> Option<Item> {
        let item = self.view.map.remove(key)?;
        self.writes.0 += 1;
        self.bytes -= size(key, &item.value);
        if let Some(at) = item.expires {
            self.deadlines.remove(&(at, key.into()));
        }
        Some(item).filter(|item| item.expires.is_none_or(|at| at > self.view.now))
    }

    fn clear(&mut self) {
        self.view.map.clear();
        self.writes.0 += 1;
        self.deadlines.clear();
        self.bytes = 0;
    }

    fn remove_expired(&mut self) {
        for _ in 0..EXPIRED_AT_A_TIME {
            match self.deadlines.first() {
                Some((at, key)) if *at <= self.view.now => {
                    let key = key.clone();
                    self.remove(&key);
                }
                _ => return,
            }
        }
    }

    fn publish_usage(&self) {
        let (keys, expiring) = (self.view.len(), self.deadlines.len());
        self.usage.set(keys, expiring, self.bytes);
    }
}

fn size(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + KEY_OVERHEAD_BYTES
}

impl StateMachine for Kv {
    type Output = Output;

    fn apply(&mut self, command: &[u8]) -> Output {
        let output = match Request::decode(command) {
            Some(request) => self.carry_out(request),
            None => Output::Failed(Failure::Unknown),
        };
        self.remove_expired();
        self.publish_usage();
        output
    }

    fn freeze(&self) -> Frozen {
        let (view, writes) = (self.view.clone(), self.writes);
        Box::new(move |to| stored::write(&view, writes, to))
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        (self.view, self.writes) = stored::read(from)?;
        let items = || self.view.map.iter();
        let expiring = items().filter_map(|(key, item)| Some((item.expires?, key.clone())));
        self.deadlines = expiring.collect();
        self.bytes = items().map(|(key, item)| size(key, &item.value)).sum();
        self.publish_usage();
        Ok(())
    }

    fn advance_to(&mut self, now: LogTime) {
        self.view.now = self.view.now.max(now);
        self.remove_expired();
        self.publish_usage();
    }

    fn next_deadline(&self) -> Option<LogTime> {
        self.deadlines.first().map(|(at, _)| *at)
    }
}

/// Redis's idea of an integer: the one decimal form, without sign but for minus, without spaces or leading zeros.
pub fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let integer: i64 = text.parse().ok()?;
    (integer.to_string() == text).then_some(integer)
}

/// Redis's idea of a number: decimal, with or without fraction and exponent, and finite.
pub fn parse_float(bytes: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(bytes).ok()?;
    text.parse().ok().filter(|number: &f64| number.is_finite())
}
