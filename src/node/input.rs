//! What a node is fed with, and how it answers.

use bytes::Bytes;
use duramen_wal::LogId;

use super::{
    ChangeRefused, Done, Finished, Introduction, Membership, NodeId, OnReport, Packet, Refusal,
    StateMachine, TransferRefused,
};

/// Why a command was not applied or a read not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// The command was not applied and never will be; the read was not served. Ask the leader.
    #[error("not the leader")]
    NotLeader {
        /// Who is, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The command may have been applied, or may be later.
    #[error("the outcome is unknown")]
    Unknown,
    /// The command was not applied and never will be, or the read was not served: this node's disk is full.
    #[error("this node's disk is full: free some space, then try again")]
    Full,
    /// The command was not applied and never will be, since this is the only node that can lead, or the read was not served: its disk
    /// has failed.
    #[error("this node's disk has failed: repair it and start the node again")]
    Failed,
    /// The command was not applied and never will be: the log takes none of its size. See
    /// [`Storage::command_bytes_max`](super::Storage::command_bytes_max).
    #[error("the command is too large for the log, the limit is {bytes_max} bytes")]
    TooLarge {
        /// The largest that it takes.
        bytes_max: usize,
    },
}

/// Takes the answer to a command. Called once; dropped without a call when the node ends, which means the same as
/// [`NotDone::Unknown`].
pub type OnApplied<S> = Box<dyn FnOnce(Result<<S as StateMachine>::Output, NotDone>) + Send>;

/// Runs on the state machine, in a state that is linearizable. Called once; dropped without a call when the node ends.
pub type Query<S> = Box<dyn FnOnce(Result<&S, NotDone>) + Send>;

/// What the members are to be, by what they are.
pub type Change = Box<dyn FnOnce(&Membership) -> Membership + Send>;

/// Takes the answer to a change of the membership: where its first entry is.
pub type OnChange = Box<dyn FnOnce(Result<LogId, ChangeRefused>) + Send>;

/// Takes the answer to a transfer of the leadership: whether it has begun.
pub type OnTransfer = Box<dyn FnOnce(Result<(), TransferRefused>) + Send>;

/// Takes what a node says of itself.
pub type OnIntroduction = Box<dyn FnOnce(Introduction) + Send>;

/// Takes the answer to an introduction.
pub type OnAdmitted = Box<dyn FnOnce(Result<(), Refusal>) + Send>;

/// What a node is fed with.
pub enum Input<S: StateMachine> {
    /// What a peer sent.
    Packet(Packet),
    /// A command of a client.
    Propose {
        /// What to replicate. Not empty.
        command: Bytes,
        /// Where the answer goes.
        on_applied: OnApplied<S>,
    },
    /// A read of a client: linearizable, on any node that knows a leader.
    Read(Query<S>),
    /// The members are to be others: see [`Raft::change_membership`](crate::raft::Raft::change_membership).
    ChangeMembership {
        /// Who is to belong to the cluster.
        change: Change,
        /// Where the answer goes.
        on_change: OnChange,
    },
    /// Another node is to lead: see [`Raft::transfer_leadership`](crate::raft::Raft::transfer_leadership).
    TransferLeadership {
        /// Which one.
        to: NodeId,
        /// Where the answer goes.
        on_transfer: OnTransfer,
    },
    /// Whoever looks after the node wants to know how it is.
    Report(OnReport),
    /// Another node wants to know who this one is.
    Introduce {
        /// Where the answer goes.
        on_introduction: OnIntroduction,
    },
    /// Another node has introduced itself: see [`Node::admit`](super::Node::admit).
    Admit {
        /// What it says of itself.
        introduction: Introduction,
        /// Where the answer goes.
        on_admitted: OnAdmitted,
    },
    /// Another node wants nothing to do with this one: see [`Node::refused`](super::Node::refused).
    Refused {
        /// Which one.
        by: NodeId,
        /// Its uuid.
        by_uuid: u128,
        /// Why.
        refusal: Refusal,
    },
    /// A job is done.
    Finished(Finished),
    /// The applier has done something.
    Done(Done),
    /// The log has something to say: a write is durable, or has failed.
    Written,
    /// The end.
    Stop,
}
