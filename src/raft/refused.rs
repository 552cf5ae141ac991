//! Why the core does not take what it is asked for, where several calls share the reason.

use duramen_wal::types::NodeId;

/// Only a leader can do that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the leader")]
pub struct NotLeader {
    /// Who is, as far as this node knows.
    pub leader: Option<NodeId>,
}

/// Why a command or a read is not taken. It has left no trace: it may be tried again, here or elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Only a leader can.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// The leader is handing over to this node. Who will lead is not known yet.
    #[error("the leadership is being handed over to node {0}")]
    HandingOver(NodeId),
    /// The leader has bad entries that may have been committed: see [`Raft::unsettled`](super::Raft::unsettled).
    #[error("the leader does not know its log yet: entries are damaged")]
    Settling,
    /// The leader's disk is full.
    #[error("the leader's disk is full: free some space")]
    DiskFull,
    /// The leader's disk has failed, and nobody else can lead.
    #[error("the leader's disk has failed: repair it, then start the node again")]
    DiskFailed,
}
