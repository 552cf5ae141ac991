//! The replicated key/value store: the state machine behind the Redis protocol.
//!
//! Invariant: what [`Kv::apply`](crate::node::StateMachine::apply) does depends on the state and the command alone, so
//! every node that applies the same log holds the same store.

mod command;
mod stored;

use std::io;

use bytes::Bytes;
use imbl::OrdMap;

use crate::node::{Frozen, StateMachine};

pub use command::Command;

/// A store of byte strings. A clone shares the map until one of the two changes, so it costs next to nothing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Kv {
    map: OrdMap<Bytes, Bytes>,
}

/// What a command gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// It was done.
    Done,
    /// The new value, the new length, or how many keys there were.
    Integer(i64),
    /// The value is not a decimal integer of 64 bits. Nothing was changed.
    NotAnInteger,
    /// The result would not fit in 64 bits. Nothing was changed.
    Overflow,
    /// The value would be longer than [`VALUE_BYTES_MAX`]. Nothing was changed.
    TooLong,
    /// Not a command that this program knows. Nothing was changed.
    Unknown,
}

/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 8 << 20;

impl Kv {
    /// The value of a key.
    pub fn find(&self, key: &[u8]) -> Option<&Bytes> {
        self.map.get(key)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    fn execute(&mut self, command: Command) -> Output {
        match command {
            Command::Set { key, value } => {
                self.map.insert(key, value);
                Output::Done
            }
            Command::Del { keys } => {
                let removed = keys.iter().filter(|key| self.map.remove(*key).is_some());
                Output::Integer(removed.count() as i64)
            }
            Command::IncrBy { key, by } => self.increment(key, by),
            Command::Append { key, value } => self.append(key, &value),
        }
    }

    fn increment(&mut self, key: Bytes, by: i64) -> Output {
        let before = match self.map.get(&key) {
            None => 0,
            Some(value) => match parse_integer(value) {
                Some(integer) => integer,
                None => return Output::NotAnInteger,
            },
        };
        let Some(after) = before.checked_add(by) else {
            return Output::Overflow;
        };
        self.map.insert(key, after.to_string().into());
        Output::Integer(after)
    }

    fn append(&mut self, key: Bytes, value: &[u8]) -> Output {
        let before = self.map.get(&key).map_or(&b""[..], |value| value);
        if before.len() + value.len() > VALUE_BYTES_MAX {
            return Output::TooLong;
        }
        let after = [before, value].concat();
        let len = after.len() as i64;
        self.map.insert(key, after.into());
        Output::Integer(len)
    }
}

impl StateMachine for Kv {
    type Output = Output;

    fn apply(&mut self, command: &[u8]) -> Output {
        match Command::decode(command) {
            Some(command) => self.execute(command),
            None => Output::Unknown,
        }
    }

    fn freeze(&self) -> Frozen {
        let map = self.map.clone();
        Box::new(move |to| stored::write(&map, to))
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        self.map = stored::read(from)?;
        Ok(())
    }
}

/// Redis's idea of an integer: the one decimal form, without sign but for minus, without spaces or leading zeros.
pub fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let integer: i64 = text.parse().ok()?;
    (integer.to_string() == text).then_some(integer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Bytes {
        Bytes::from_static(b"key")
    }

    fn run(kv: &mut Kv, command: &Command) -> Output {
        kv.apply(&command.encode())
    }

    #[test]
    fn set_append_and_delete() {
        let mut kv = Kv::default();
        let value = Bytes::from_static(b"value");
        assert_eq!(
            run(
                &mut kv,
                &Command::Set {
                    key: key(),
                    value: value.clone()
                }
            ),
            Output::Done
        );
        assert_eq!(
            run(&mut kv, &Command::Append { key: key(), value }),
            Output::Integer(10)
        );
        assert_eq!(kv.find(b"key").unwrap(), "valuevalue");
        let keys = vec![key(), key(), Bytes::from_static(b"other")];
        assert_eq!(run(&mut kv, &Command::Del { keys }), Output::Integer(1));
        assert!(kv.is_empty());
    }

    #[test]
    fn increments_stop_at_what_is_no_integer_and_at_the_limits() {
        let mut kv = Kv::default();
        let incr = |by| Command::IncrBy { key: key(), by };
        assert_eq!(run(&mut kv, &incr(1)), Output::Integer(1));
        assert_eq!(run(&mut kv, &incr(i64::MAX)), Output::Overflow);
        assert_eq!(run(&mut kv, &incr(-3)), Output::Integer(-2));
        for not_an_integer in ["", " 1", "01", "+1", "1.0", "9223372036854775808"] {
            let value = Bytes::from_static(not_an_integer.as_bytes());
            run(
                &mut kv,
                &Command::Set {
                    key: key(),
                    value: value.clone(),
                },
            );
            assert_eq!(
                run(&mut kv, &incr(1)),
                Output::NotAnInteger,
                "{not_an_integer:?}"
            );
            assert_eq!(kv.find(b"key"), Some(&value));
        }
    }

    #[test]
    fn bytes_that_are_no_command_change_nothing() {
        let mut kv = Kv::default();
        assert_eq!(kv.apply(b"\xff"), Output::Unknown);
        assert_eq!(kv.apply(b"\x00\x63"), Output::Unknown);
        assert!(kv.is_empty());
    }
}
