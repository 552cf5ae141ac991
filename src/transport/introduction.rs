//! What two nodes say to each other before anything else.

use std::collections::BTreeMap;

use duramen_wal::{Index, LogId, NodeId, Term};
use serde::{Deserialize, Serialize};

use crate::boot::Boot;

/// More members than this a node does not list.
pub const KNOWN_MAX: usize = 100;

/// More of its starts than this a node does not tell.
pub const BOOTS_MAX: usize = 128;

/// What a node says of itself when it meets another one. Both do.
///
/// This and [`Refusal`] travel in this form, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// The name of its cluster.
    pub cluster: String,
    /// Its number there.
    #[serde(with = "NodeIdBytes")]
    pub from: NodeId,
    /// Drawn at its first start.
    pub uuid: u128,
    /// Its starts that the other one may remember, by how often it was started until then, and what it drew at each. The last one is
    /// the present one. [`BOOTS_MAX`] at the most.
    pub boots: BTreeMap<u64, u64>,
    /// Its term.
    #[serde(with = "TermBytes")]
    pub term: Term,
    /// The last entry that it holds durably.
    #[serde(with = "LogIdBytes")]
    pub last: LogId,
    /// It has never taken part in a cluster.
    pub is_blank: bool,
    /// It leads, and the members that it knows are committed.
    pub leads: bool,
    /// The uuids of the members of its cluster by their numbers, as far as it knows them; [`KNOWN_MAX`] at the most.
    pub knows: BTreeMap<u64, u128>,
    /// How they had started when they were met last, by this node or another one, by their uuids.
    pub met: BTreeMap<u128, Boot>,
}

impl Introduction {
    /// How often it was started.
    pub fn boot(&self) -> u64 {
        self.boots.last_key_value().map_or(0, |(count, _)| *count)
    }
}

/// Why a node wants nothing to do with another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is of another cluster.
    #[error("it is of cluster {found:?}, and this node of {expected:?}")]
    OtherCluster {
        /// This node's.
        expected: String,
        /// The other one's.
        found: String,
    },
    /// The cluster knows this number as another node: its disk was emptied, or there are two of it.
    #[error(
        "node {node} is known as {known:032x}, and this one is {found:032x}: its disk was emptied or replaced, and it does not know for whom it voted, so it has to join anew, under a new number (or --peers names a node of another cluster of the same name)"
    )]
    OtherNode {
        /// The number.
        #[serde(with = "NodeIdBytes")]
        node: NodeId,
        /// What the cluster knows.
        known: u128,
        /// What it says.
        found: u128,
    },
    /// It was started more often already: its disk was set back.
    #[error(
        "node {node} says that it was started {found} times, and was known to have been started {known} times: its disk was set back; it does not know for whom it voted, so it has to join anew, under a new number"
    )]
    SetBack {
        /// The number.
        #[serde(with = "NodeIdBytes")]
        node: NodeId,
        /// How often it had been started before.
        known: u64,
        /// How often it says.
        found: u64,
    },
    /// It was started as often, and was not the one that was met then: its disk was set back and started as often again, or this is a
    /// copy of it.
    #[error(
        "node {node} drew {known:016x} at start {boot} when it was met, and this one {found:016x}: its disk was set back, or there are two copies of it; it does not know for whom it voted, so it has to join anew, under a new number"
    )]
    OtherStart {
        /// The number.
        #[serde(with = "NodeIdBytes")]
        node: NodeId,
        /// How often it had been started when it was met.
        boot: u64,
        /// What it had drawn at that start.
        known: u64,
        /// What it says that it drew. 0 if it does not know of that start.
        found: u64,
    },
    /// It had more of the log before: its disk was set back.
    #[error(
        "node {node} holds the log up to {found}, and had acknowledged {acknowledged}: its disk was set back; it has to join anew, under a new number"
    )]
    LostEntries {
        /// The number.
        #[serde(with = "NodeIdBytes")]
        node: NodeId,
        /// The last index that it had acknowledged.
        acknowledged: u64,
        /// The last entry that it holds.
        #[serde(with = "LogIdBytes")]
        found: LogId,
    },
}

impl Refusal {
    /// Whether it says that a node is not any more the one that it was, so that this node must end. Otherwise it came to the
    /// wrong place, and may be right elsewhere.
    pub fn is_final(&self) -> bool {
        match self {
            Refusal::OtherCluster { .. } => false,
            Refusal::OtherNode { .. }
            | Refusal::SetBack { .. }
            | Refusal::OtherStart { .. }
            | Refusal::LostEntries { .. } => true,
        }
    }
}

/// How the log's types travel.
#[derive(Serialize, Deserialize)]
#[serde(remote = "NodeId")]
struct NodeIdBytes(u64);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Term")]
struct TermBytes(u64);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Index")]
struct IndexBytes(u64);

#[derive(Serialize, Deserialize)]
#[serde(remote = "LogId")]
struct LogIdBytes {
    #[serde(with = "TermBytes")]
    term: Term,
    #[serde(with = "IndexBytes")]
    index: Index,
}
