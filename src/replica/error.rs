//! Why a replica does not start, has ended, or does not change its cluster.

use std::io;
use std::path::PathBuf;

use crate::node::{self, ChangeRefused, NodeId, StorageError, TransferRefused};

/// Why a replica does not start, or has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Its storage cannot be opened or written, or others want nothing to do with the node.
    #[error(transparent)]
    Node(#[from] node::Error),
    /// The directory does not say with whom the node begins, and nobody else does.
    #[error("{} has no node yet: say with which peers it begins (--peers), or which cluster it joins (--join)", dir.display())]
    NotBegun {
        /// The directory.
        dir: PathBuf,
    },
    /// The node is not among those that it is to begin with.
    #[error("node {0} is not among the peers that it begins with: add it with its address")]
    NotAPeer(NodeId),
    /// Nobody has said where the others reach this node.
    #[error("it is not known at which address the other nodes reach node {0}: say it (--peer)")]
    NoPeerAddress(NodeId),
    /// Nobody can connect to this.
    #[error(
        "nobody can reach this node at {address}: say at which address clients can (--announce), or the other nodes (--announce-peer)"
    )]
    NoAddress {
        /// What was given as an address.
        address: String,
    },
    /// The system said no.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where it was to listen.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system has no thread, or no files for one that waits for the network.
    #[error("cannot start the node's thread: {0}")]
    Thread(#[source] io::Error),
    /// There is a bug in this program, or in the state machine.
    #[error("the node's thread panicked")]
    Panicked,
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Error {
        Error::Node(error.into())
    }
}

/// Why it is not changed who belongs to the cluster, or who leads it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Only the leader can.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, if that is known.
        leader: Option<NodeId>,
    },
    /// Nobody is there.
    #[error(
        "no node answers at {address} ({source}): start it with `duramen serve --join`, or correct the address"
    )]
    NoAnswer {
        /// Where it was looked for.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else is there, or one does not like the other.
    #[error("the node at {address} cannot be node {id} of this cluster: {source}")]
    Unfit {
        /// Who was looked for.
        id: NodeId,
        /// Where.
        address: String,
        /// What is wrong.
        source: io::Error,
    },
    /// It was not started to join.
    #[error(
        "the node at {0} waits to begin a cluster of its own: start it on an empty directory with --join"
    )]
    BeginsAnother(String),
    /// There is nothing to do.
    #[error("node {0} is a member already")]
    MemberAlready(NodeId),
    /// It takes part in a cluster of the same name.
    #[error(
        "the node at {0} is of another cluster with the same name: start one on an empty directory with --join"
    )]
    OfAnother(String),
    /// More would not know each other.
    #[error("a cluster has at most {} members", crate::transport::KNOWN_MAX)]
    Full,
    /// There is nothing to do.
    #[error("node {0} votes already")]
    VoterAlready(NodeId),
    /// Only members can be changed.
    #[error("node {0} is no member: add it first")]
    NoMember(NodeId),
    /// Only members can be removed.
    #[error("node {0} is no member, so it cannot be removed or replaced")]
    NothingToRemove(NodeId),
    /// So many of those who would vote do not answer that nothing could be committed any more.
    #[error(
        "of the nodes that would vote, {0}, too few answer now: the cluster would stop; start them first, or remove those that are down"
    )]
    WouldStop(String),
    /// Nobody else can lead.
    #[error("no other voter answers, so nobody else can lead")]
    NoSuccessor,
    /// The core said no.
    #[error(transparent)]
    Refused(ChangeRefused),
    /// The core said no.
    #[error(transparent)]
    TransferRefused(TransferRefused),
    /// The node did not take over.
    #[error("node {0} did not take over in time: the leader goes on; try again")]
    NotTakenOver(NodeId),
    /// It may be committed yet.
    #[error(
        "the change has begun and is not committed yet: is a majority of the nodes up? `duramen member list` shows what becomes of it"
    )]
    Pending,
    /// Another leader decides what becomes of it.
    #[error(
        "the leader has changed meanwhile, and it is not known whether the change was made: look at `duramen member list`"
    )]
    Unknown,
    /// The node has ended.
    #[error("this node has ended")]
    Ended,
}

impl From<ChangeRefused> for ChangeError {
    fn from(refused: ChangeRefused) -> ChangeError {
        match refused {
            ChangeRefused::NotLeader(refused) => ChangeError::NotLeader {
                leader: refused.leader,
            },
            refused => ChangeError::Refused(refused),
        }
    }
}

impl From<TransferRefused> for ChangeError {
    fn from(refused: TransferRefused) -> ChangeError {
        match refused {
            TransferRefused::NotLeader(refused) => ChangeError::NotLeader {
                leader: refused.leader,
            },
            refused => ChangeError::TransferRefused(refused),
        }
    }
}
