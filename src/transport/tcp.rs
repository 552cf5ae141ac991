//! TCP: one connection from each node to each other, used in one direction.
//!
//! Whoever connects says for whom, introduces itself, and says where it is reached; who is there judges it, and does the same.
//! Either may refuse the other. One that came to the wrong place is told why, and tries again; one that is not any more the node
//! that it was is told so, and ends. A connection that breaks is made again, with growing pauses; what was queued meanwhile is
//! dropped, since Raft sends anew.
//!
//! A node connects to the members, as the membership in force has them. Others of its cluster may connect to it: one that is to
//! join, one that was removed and does not know it yet. They are answered, and few of them have room.

mod handshake;
mod listening;
mod queue;
mod sending;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::PoisonError;

use duramen_wal::NodeId;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{AddressBook, Addresses, Endpoint, Introduction};
use handshake::Handshakes;
use listening::{Latest, Reception};
use sending::Senders;

pub use sending::TcpNetwork;

/// The nodes of a cluster, with the addresses at which they listen for each other.
pub type Peers = BTreeMap<NodeId, String>;

/// Both sides of a node's connections. Clones share them.
#[derive(Debug, Clone)]
pub struct TcpTransport {
    handshakes: Handshakes,
    latest: Latest,
    senders: Senders,
    ended: CancellationToken,
}

impl TcpTransport {
    /// For node `id`, which is reached, and reaches others, as the book says.
    pub fn new(id: NodeId, addresses: AddressBook) -> TcpTransport {
        TcpTransport {
            handshakes: Handshakes { id, addresses },
            latest: Latest::default(),
            senders: Senders::default(),
            ended: CancellationToken::new(),
        }
    }

    /// What a node sends through. Must be called in a tokio runtime.
    pub fn connect<E: Endpoint>(&self, node: &E) -> TcpNetwork<E> {
        TcpNetwork::new(
            node.clone(),
            self.handshakes.clone(),
            self.latest.clone(),
            self.senders.clone(),
        )
    }

    /// Takes in connections and gives their messages to `node`, until [`end`](TcpTransport::end). Then all of them are closed.
    pub async fn listen(&self, listener: TcpListener, node: impl Endpoint) {
        let reception = Reception::new(self.handshakes.clone(), self.latest.clone());
        reception.listen(listener, node, self.ended.clone()).await;
    }

    /// Meets another node, as `node`: what it says of itself, and where it is reached.
    ///
    /// # Errors
    /// It does not answer; or one refuses the other: [`PermissionDenied`](io::ErrorKind::PermissionDenied).
    pub async fn meet(
        &self,
        node: &impl Endpoint,
        other: NodeId,
        address: &str,
    ) -> io::Result<(Introduction, Addresses)> {
        let opened = self.handshakes.open(node, other, address).await?;
        Ok((opened.introduction, opened.addresses))
    }

    /// Ends what listens, and what sends for a node that has ended. On return no connection is left.
    pub async fn end(&self) {
        self.ended.cancel();
        let mut senders = {
            let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *senders)
        };
        senders.shutdown().await;
    }
}
