//! What stands in the log around the commands of a state machine.
//!
//! ```text
//!   0  version 1
//!   1  kind    1
//!   2  time    8, in milliseconds since 1970, by the clock of the leader that took it
//!  10  1 plain: command
//!      2 open:  lifetime 8, in milliseconds
//!      3 call:  session 8, sequence 8, command
//!      4 close: session 8
//!      5 tick
//! ```
//!
//! Little-endian. Frozen: they stand in the log for as long as the log does.

use bytes::{Buf, BufMut, Bytes};

use super::SessionId;
use crate::node::LogTime;

/// What a client, or a leader by itself, asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// A command outside of any session.
    Plain(&'a [u8]),
    /// A new session, that ends when it was not used for so long.
    Open {
        /// How long, in milliseconds.
        lifetime_ms: u64,
    },
    /// A command that is to be carried out once.
    Call {
        /// In which session.
        session: SessionId,
        /// Which one of the session's, from 1 on.
        sequence: u64,
        /// The command.
        command: &'a [u8],
    },
    /// The session is not needed any more.
    Close {
        /// Which one.
        session: SessionId,
    },
    /// Time goes on.
    Tick,
}

const VERSION: u8 = 1;
const KIND_PLAIN: u8 = 1;
const KIND_OPEN: u8 = 2;
const KIND_CALL: u8 = 3;
const KIND_CLOSE: u8 = 4;
const KIND_TICK: u8 = 5;

impl Action<'_> {
    /// The bytes for the log.
    pub fn encode(&self, time: LogTime) -> Bytes {
        let mut buf = Vec::with_capacity(HEADER_BYTES + self.command().len());
        buf.put_u8(VERSION);
        buf.put_u8(match self {
            Action::Plain(_) => KIND_PLAIN,
            Action::Open { .. } => KIND_OPEN,
            Action::Call { .. } => KIND_CALL,
            Action::Close { .. } => KIND_CLOSE,
            Action::Tick => KIND_TICK,
        });
        buf.put_u64_le(time.0);
        match self {
            Action::Plain(_) | Action::Tick => {}
            Action::Open { lifetime_ms } => buf.put_u64_le(*lifetime_ms),
            Action::Call {
                session, sequence, ..
            } => {
                buf.put_u64_le(session.0);
                buf.put_u64_le(*sequence);
            }
            Action::Close { session } => buf.put_u64_le(session.0),
        }
        buf.put_slice(self.command());
        buf.into()
    }

    fn command(&self) -> &[u8] {
        match self {
            Action::Plain(command) | Action::Call { command, .. } => command,
            Action::Open { .. } | Action::Close { .. } | Action::Tick => &[],
        }
    }
}

/// What stands before a command, at the most.
const HEADER_BYTES: usize = 26;

/// Reads what [`Action::encode`] wrote. `None` if the bytes are nothing of this version.
pub(super) fn decode(bytes: &[u8]) -> Option<(LogTime, Action<'_>)> {
    let mut rest = bytes;
    if rest.try_get_u8().ok()? != VERSION {
        return None;
    }
    let kind = rest.try_get_u8().ok()?;
    let time = LogTime(rest.try_get_u64_le().ok()?);
    let action = match kind {
        KIND_PLAIN => return Some((time, Action::Plain(rest))),
        KIND_CALL => {
            let session = SessionId(rest.try_get_u64_le().ok()?);
            let sequence = rest.try_get_u64_le().ok()?;
            let command = rest;
            return Some((
                time,
                Action::Call {
                    session,
                    sequence,
                    command,
                },
            ));
        }
        KIND_OPEN => Action::Open {
            lifetime_ms: rest.try_get_u64_le().ok()?,
        },
        KIND_CLOSE => Action::Close {
            session: SessionId(rest.try_get_u64_le().ok()?),
        },
        KIND_TICK => Action::Tick,
        _ => return None,
    };
    rest.is_empty().then_some((time, action))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Frozen.
    #[test]
    fn actions_are_these_bytes() {
        let session = SessionId(7);
        for (action, bytes) in [
            (Action::Plain(b"c"), &b"\x01\x01\x05\0\0\0\0\0\0\0c"[..]),
            (
                Action::Open { lifetime_ms: 9 },
                b"\x01\x02\x05\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0",
            ),
            (
                Action::Call {
                    session,
                    sequence: 2,
                    command: b"c",
                },
                b"\x01\x03\x05\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0c",
            ),
            (
                Action::Close { session },
                b"\x01\x04\x05\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0",
            ),
            (Action::Tick, b"\x01\x05\x05\0\0\0\0\0\0\0"),
        ] {
            assert_eq!(action.encode(LogTime(5)), bytes, "{action:?}");
            assert_eq!(decode(bytes), Some((LogTime(5), action)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_action_or_none(kind in 0..7_u8, bytes in vec(any::<u8>(), 0..40)) {
            let bytes = [&[VERSION, kind][..], &bytes].concat();
            if let Some((time, action)) = decode(&bytes) {
                prop_assert_eq!(action.encode(time), bytes);
            }
        }
    }
}
