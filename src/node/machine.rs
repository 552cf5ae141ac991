//! What a cluster replicates.

use std::io;

use bytes::Bytes;

/// A time as it stands in the log, in milliseconds since 1970. A leader takes it from its clock; whoever applies it lets it never go
/// back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogTime(pub u64);

impl LogTime {
    /// That of the operating system's clock.
    pub fn now() -> LogTime {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = since.map_or(0, |since| since.as_millis());
        LogTime(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

/// What a cluster replicates. All nodes apply the same commands in the same order, so it must be deterministic: no
/// clock, no randomness, nothing from outside.
///
/// ```
/// use std::io::{self, Read, Write};
/// use duramen::node::{Frozen, StateMachine};
///
/// struct Counter(u64);
///
/// impl StateMachine for Counter {
///     type Output = u64;
///
///     fn apply(&mut self, _command: &[u8]) -> u64 {
///         self.0 += 1;
///         self.0
///     }
///
///     fn freeze(&self) -> Frozen {
///         let counted = self.0;
///         Box::new(move |to| to.write_all(&counted.to_le_bytes()))
///     }
///
///     fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
///         let mut bytes = [0; 8];
///         from.read_exact(&mut bytes)?;
///         self.0 = u64::from_le_bytes(bytes);
///         Ok(())
///     }
/// }
/// ```
pub trait StateMachine: Send + 'static {
    /// What applying a command gives: the answer to the client.
    type Output: Send + 'static;

    /// Applies a committed command. It may be bytes that another version of the program made; it must not panic.
    fn apply(&mut self, command: &[u8]) -> Self::Output;

    /// The state as it is now, to be written to a snapshot on another thread while new commands are applied here. So this
    /// should be quick whatever the size of the state, and the bytes should be alike where the states are: unchanged pieces
    /// of them are not written again, nor sent. Equal states have equal bytes.
    fn freeze(&self) -> Frozen;

    /// The time in the log has gone on: it is that of the next command. Called by what stamps times into the log, as
    /// [`Sessions`](crate::session::Sessions) do; never with an earlier one. Nothing is done about it by default.
    fn advance_to(&mut self, _now: LogTime) {}

    /// When something is to be done without a command, as letting a key expire: at about that time
    /// [`advance_to`](StateMachine::advance_to) is called. Never, by default.
    fn next_deadline(&self) -> Option<LogTime> {
        None
    }

    /// What a leader is to replicate by itself at this time, so that what has a deadline comes to its end. Nothing, by default.
    fn tick(&self, _now: LogTime) -> Option<Bytes> {
        None
    }

    /// Takes on the state that [`freeze`](StateMachine::freeze) wrote, whatever the state was before.
    ///
    /// # Errors
    /// What reading gave, or `InvalidData`. Then the state is not used before this has been called again.
    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()>;
}

/// Writes a state: the same bytes each time, which most often is once.
pub type Frozen = Box<dyn Fn(&mut dyn io::Write) -> io::Result<()> + Send>;
