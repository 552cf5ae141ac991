//! The commands as they stand in the log.
//!
//! ```text
//!   0  version 1
//!   1  kind    1     1 set: key, value; 2 del: number of keys 4, keys; 3 incrby: by 8, key; 4 append: key, value
//!      key or value: length 4, bytes
//! ```
//!
//! Little-endian. They stand in the log for as long as the log does, so a kind is never given another meaning.

use bytes::{Buf, BufMut, Bytes};

/// A command that changes the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Sets a key.
    Set {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Removes keys; gives how many there were.
    Del {
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// Adds to an integer, 0 if the key does not exist; gives the sum.
    IncrBy {
        /// The key.
        key: Bytes,
        /// What to add.
        by: i64,
    },
    /// Appends to a value, empty if the key does not exist; gives the new length.
    Append {
        /// The key.
        key: Bytes,
        /// What to append.
        value: Bytes,
    },
}

const VERSION: u8 = 0;
const KIND_SET: u8 = 1;
const KIND_DEL: u8 = 2;
const KIND_INCR_BY: u8 = 3;
const KIND_APPEND: u8 = 4;

impl Command {
    /// The bytes for the log.
    pub fn encode(&self) -> Bytes {
        let mut buf = vec![VERSION];
        match self {
            Command::Set { key, value } => {
                buf.put_u8(KIND_SET);
                put_bytes(&mut buf, key);
                put_bytes(&mut buf, value);
            }
            Command::Del { keys } => {
                buf.put_u8(KIND_DEL);
                buf.put_u32_le(keys.len() as u32);
                keys.iter().for_each(|key| put_bytes(&mut buf, key));
            }
            Command::IncrBy { key, by } => {
                buf.put_u8(KIND_INCR_BY);
                buf.put_i64_le(*by);
                put_bytes(&mut buf, key);
            }
            Command::Append { key, value } => {
                buf.put_u8(KIND_APPEND);
                put_bytes(&mut buf, key);
                put_bytes(&mut buf, value);
            }
        }
        buf.into()
    }

    /// `None` if the bytes are no command of this version.
    pub fn decode(mut bytes: &[u8]) -> Option<Command> {
        let bytes = &mut bytes;
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let command = match bytes.try_get_u8().ok()? {
            KIND_SET => Command::Set {
                key: take_bytes(bytes)?,
                value: take_bytes(bytes)?,
            },
            KIND_DEL => {
                let count = bytes.try_get_u32_le().ok()?;
                let keys = (0..count)
                    .map(|_| take_bytes(bytes))
                    .collect::<Option<_>>()?;
                Command::Del { keys }
            }
            KIND_INCR_BY => Command::IncrBy {
                by: bytes.try_get_i64_le().ok()?,
                key: take_bytes(bytes)?,
            },
            KIND_APPEND => Command::Append {
                key: take_bytes(bytes)?,
                value: take_bytes(bytes)?,
            },
            _ => return None,
        };
        bytes.is_empty().then_some(command)
    }
}

fn put_bytes(buf: &mut Vec<u8>, bytes: &[u8]) {
    buf.put_u32_le(bytes.len() as u32);
    buf.put_slice(bytes);
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

    fn command() -> impl Strategy<Value = Command> {
        prop_oneof![
            (string(), string()).prop_map(|(key, value)| Command::Set { key, value }),
            vec(string(), 0..5).prop_map(|keys| Command::Del { keys }),
            (string(), any::<i64>()).prop_map(|(key, by)| Command::IncrBy { key, by }),
            (string(), string()).prop_map(|(key, value)| Command::Append { key, value }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(command in command()) {
            prop_assert_eq!(Command::decode(&command.encode()), Some(command));
        }

        #[test]
        fn any_bytes_are_a_command_or_none(bytes in vec(any::<u8>(), 0..60)) {
            if let Some(command) = Command::decode(&bytes) {
                prop_assert_eq!(command.encode(), bytes);
            }
        }
    }

    /// Frozen.
    #[test]
    fn the_commands_are_these_bytes() {
        let key = Bytes::from_static(b"k");
        let value = Bytes::from_static(b"vv");
        for (command, bytes) in [
            (
                Command::Set {
                    key: key.clone(),
                    value: value.clone(),
                },
                &b"\0\x01\x01\0\0\0k\x02\0\0\0vv"[..],
            ),
            (
                Command::Del {
                    keys: vec![key.clone()],
                },
                b"\0\x02\x01\0\0\0\x01\0\0\0k",
            ),
            (
                Command::IncrBy {
                    key: key.clone(),
                    by: -1,
                },
                b"\0\x03\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0k",
            ),
            (
                Command::Append { key, value },
                b"\0\x04\x01\0\0\0k\x02\0\0\0vv",
            ),
        ] {
            assert_eq!(command.encode(), bytes, "{command:?}");
        }
    }
}
