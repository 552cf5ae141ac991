//! How messages travel between nodes.
//!
//! Raft asks little of a network: messages may be lost, doubled, delayed and reordered. They must not be forged or
//! garbled: frames carry a checksum. And a node must be the one that it was: before the first message both sides introduce
//! themselves, and each [judges](Endpoint::admit) the other.

#[cfg(feature = "server")]
mod addresses;
#[cfg(feature = "server")]
mod codec;
mod fetch;
mod introduction;
#[cfg(feature = "server")]
mod tcp;

use std::collections::BTreeMap;

use duramen_wal::NodeId;

use crate::raft::{Envelope, Membership};

pub use crate::boot::Boot;
#[cfg(feature = "server")]
pub use tcp::{Peers, TcpNetwork, TcpTransport};

#[cfg(feature = "server")]
pub use addresses::{ADDRESS_BYTES_MAX, AddressBook, Addresses};
pub use fetch::{CHUNKS_ASKED_MAX, Fetch, Hash, MANIFEST_PIECE_BYTES};
pub use introduction::{BOOTS_MAX, Introduction, KNOWN_MAX, Refusal};

/// What travels from a node to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// A message of the core.
    Raft(Envelope),
    /// About a snapshot.
    Fetch {
        /// The sender.
        from: NodeId,
        /// The receiver.
        to: NodeId,
        /// What it says.
        fetch: Fetch,
    },
    /// How members had started when they were met last, by their uuids; [`KNOWN_MAX`] at the most.
    Boots {
        /// The sender.
        from: NodeId,
        /// The receiver.
        to: NodeId,
        /// What it knows.
        boots: BTreeMap<u128, Boot>,
    },
}

impl Packet {
    /// The sender.
    pub fn from(&self) -> NodeId {
        match self {
            Packet::Raft(envelope) => envelope.from,
            Packet::Fetch { from, .. } | Packet::Boots { from, .. } => *from,
        }
    }

    /// The receiver.
    pub fn to(&self) -> NodeId {
        match self {
            Packet::Raft(envelope) => envelope.to,
            Packet::Fetch { to, .. } | Packet::Boots { to, .. } => *to,
        }
    }
}

/// Sends messages.
pub trait Network: Send {
    /// Sends a packet if it can, and never waits. One that cannot be sent is lost, which Raft expects.
    fn send(&mut self, packet: Packet);

    /// The node's membership has changed, or the node has just begun: these are whom it talks to. Others it may have to answer.
    fn members_changed(&mut self, membership: &Membership) {
        let _ = membership;
    }
}

/// The node that a transport carries for, as its peers get to know it. Answers come on its own thread.
///
/// An answer is dropped without a call when the node has ended.
pub trait Endpoint: Clone + Send + Sync + 'static {
    /// Asks what the node says of itself to others.
    fn introduce(&self, on_introduction: Box<dyn FnOnce(Introduction) + Send>);

    /// Asks whether another one may talk to the node, by what it says of itself.
    fn admit(&self, other: Introduction, on_admitted: Box<dyn FnOnce(Result<(), Refusal>) + Send>);

    /// Another one, of this uuid, wants nothing to do with the node, which must end if that is a node that it knows.
    fn refused(&self, by: NodeId, by_uuid: u128, refusal: Refusal);

    /// Takes in what an admitted peer sent.
    fn deliver(&self, packet: Packet);
}
