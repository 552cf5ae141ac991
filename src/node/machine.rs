//! What a cluster replicates.

use std::io;

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

    /// Takes on the state that [`freeze`](StateMachine::freeze) wrote, whatever the state was before.
    ///
    /// # Errors
    /// What reading gave, or `InvalidData`. Then the state is not used before this has been called again.
    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()>;
}

/// Writes a state: the same bytes each time, which most often is once.
pub type Frozen = Box<dyn Fn(&mut dyn io::Write) -> io::Result<()> + Send>;
