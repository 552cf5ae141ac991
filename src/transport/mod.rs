//! How messages travel between nodes.
//!
//! Raft asks little of a network: messages may be lost, doubled, delayed and reordered. They must not be forged or
//! garbled: frames carry a checksum, and a handshake keeps other clusters' nodes out.

mod codec;
#[cfg(feature = "server")]
mod tcp;

use crate::raft::Envelope;

#[cfg(feature = "server")]
pub use tcp::{ClientAddresses, Peers, TcpNetwork, TcpTransport};

/// Sends messages.
pub trait Network: Send {
    /// Sends a message if it can, and never waits. A message that cannot be sent is lost, which Raft expects.
    fn send(&mut self, envelope: Envelope);
}
