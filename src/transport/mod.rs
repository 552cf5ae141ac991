//! How messages travel between nodes.
//!
//! Raft asks little of a network: messages may be lost, doubled, delayed and reordered. They must not be forged or
//! garbled: frames carry a checksum, and a handshake keeps other clusters' nodes out.

#[cfg(feature = "server")]
mod codec;
#[cfg(feature = "server")]
mod tcp;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use duramen_wal::NodeId;

use crate::raft::Envelope;

#[cfg(feature = "server")]
pub use tcp::{Peers, TcpNetwork, TcpTransport};

/// Sends messages.
pub trait Network: Send {
    /// Sends a message if it can, and never waits. A message that cannot be sent is lost, which Raft expects.
    fn send(&mut self, envelope: Envelope);
}

/// Where clients reach the nodes, as each node says in its handshake.
#[derive(Debug, Clone, Default)]
pub struct ClientAddresses(Arc<RwLock<BTreeMap<NodeId, String>>>);

impl ClientAddresses {
    /// Where clients reach `node`, if it has said so.
    pub fn find(&self, node: NodeId) -> Option<String> {
        self.all().remove(&node)
    }

    /// All that are known.
    pub fn all(&self) -> BTreeMap<NodeId, String> {
        self.0.read().expect("no one panics with the lock").clone()
    }

    /// Where clients reach `node`.
    pub fn insert(&self, node: NodeId, address: String) {
        self.0
            .write()
            .expect("no one panics with the lock")
            .insert(node, address);
    }
}
