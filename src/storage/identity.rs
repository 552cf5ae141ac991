//! Whose log it is, and what else a node must know of itself and its cluster.
//!
//! It stands in the log's user record, in bincode's standard form. Frozen; a change makes a new version.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use duramen_wal::{Entry, Index, LogId, NodeId};
use serde::{Deserialize, Serialize};

use crate::boot::Boot;
use crate::canary::planted;
use crate::raft::{Membership, is_membership};

/// A node and its cluster. Two nodes of one cluster, and nodes of two clusters, never share a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// The node in it.
    pub node: NodeId,
    /// The nodes that vote at the beginning of the log, the same for all that begin with it. None for a node that joins a
    /// cluster: it learns from the log who belongs to it.
    pub voters: BTreeSet<NodeId>,
}

/// What whoever starts a node again says of it. What is left open is as its directory says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The node.
    pub node: NodeId,
    /// The cluster's name.
    pub cluster: Option<String>,
    /// The nodes that vote at the beginning of the log.
    pub voters: Option<BTreeSet<NodeId>>,
}

impl From<&Identity> for Claim {
    /// Nothing is left open.
    fn from(identity: &Identity) -> Claim {
        Claim {
            node: identity.node,
            cluster: Some(identity.cluster.clone()),
            voters: Some(identity.voters.clone()),
        }
    }
}

impl Claim {
    /// The whole of it, if a directory says this.
    pub(super) fn completed_by(&self, found: &Identity) -> Identity {
        let (cluster, voters) = (self.cluster.as_ref(), self.voters.as_ref());
        Identity {
            cluster: cluster.unwrap_or(&found.cluster).clone(),
            node: self.node,
            voters: voters.unwrap_or(&found.voters).clone(),
        }
    }
}

/// What the node's own disk says of it. A node whose disk was emptied has another uuid, and is another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u8,
    cluster: String,
    node: u64,
    voters: Vec<u64>,
    /// Drawn at the first start.
    pub(super) uuid: u128,
    /// The starts that a peer may remember, by how often the node was started until then, and what was drawn at each. The last
    /// one is the present one.
    boots: BTreeMap<u64, u64>,
    /// The memberships of the log, and the one at its beginning: their entries may be damaged, and without them nobody
    /// knows what a majority is.
    memberships: Vec<SetMembership>,
    /// The nodes that were met, by their uuids.
    peers: BTreeMap<u128, Met>,
    /// What others say of how members had started, where that is not what this node has met, nor earlier.
    heard: BTreeMap<u128, Boot>,
}

/// How a peer was met last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Met {
    /// Its start. Whoever says to be it, and did not start so, was set back, or is a copy.
    boot: Boot,
    /// The count of this node's own start: that is the one which the peer remembers.
    own: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SetMembership {
    index: u64,
    term: u64,
    encoded: Vec<u8>,
}

/// So many peers are remembered.
const PEERS_MAX: usize = 1000;
/// So many of the last starts are kept, whether a peer was met since or not: one may remember a start that this node did not live long
/// enough to note.
const LAST_BOOTS: u64 = 32;
/// What a record is not longer than, whatever its bytes claim.
const RECORD_BYTES_MAX: usize = 8 << 20;

impl Record {
    pub(super) const VERSION: u8 = 1;

    /// That of a node at its first start.
    pub(super) fn new(identity: &Identity, uuid: u128) -> Record {
        Record {
            version: Record::VERSION,
            cluster: identity.cluster.clone(),
            node: identity.node.0,
            voters: identity.voters.iter().map(|voter| voter.0).collect(),
            uuid,
            boots: BTreeMap::new(),
            memberships: Vec::new(),
            peers: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity {
            cluster: self.cluster.clone(),
            node: NodeId(self.node),
            voters: self.voters.iter().copied().map(NodeId).collect(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let encoded = bincode::serde::encode_to_vec(self, bincode::config::standard());
        encoded.expect("strings and numbers can be encoded")
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Record> {
        let config = bincode::config::standard().with_limit::<RECORD_BYTES_MAX>();
        let decoded = bincode::serde::decode_from_slice(bytes, config);
        let (record, read): (Record, usize) = decoded.ok()?;
        let is_read = record.version == Record::VERSION || planted("newer_record_is_read");
        (is_read && read == bytes.len()).then_some(record)
    }

    /// The version that bytes begin with which are no record, if there may be one. They may be somebody else's, a text say.
    pub(super) fn later_version(bytes: &[u8]) -> Option<u8> {
        let first = bytes.first().copied()?;
        (Record::VERSION < first && first < b' ').then_some(first)
    }

    /// Whether it is known who belongs to the cluster.
    pub(super) fn has_begun(&self) -> bool {
        !self.memberships.is_empty()
    }
}

/// How nodes are known again.
impl Record {
    /// How often the node was started.
    pub(super) fn boot(&self) -> u64 {
        self.boots.last_key_value().map_or(0, |(count, _)| *count)
    }

    /// See [`Storage::boots`](super::Storage::boots).
    pub(super) fn boots(&self) -> &BTreeMap<u64, u64> {
        &self.boots
    }

    /// The node is started once more. Earlier starts are forgotten, but for the last ones, and those at which a peer was met that was
    /// not met since: they are what peers remember of this node.
    pub(super) fn start(&mut self, number: u64) {
        let now = self.boot().saturating_add(1);
        self.boots.insert(now, number);
        let remembered: BTreeSet<u64> = self.peers.values().map(|met| met.own).collect();
        self.boots
            .retain(|count, _| now - count < LAST_BOOTS || remembered.contains(count));
    }

    /// How a peer had started when it was met last.
    pub(super) fn met(&self, peer: u128) -> Option<Boot> {
        self.peers.get(&peer).map(|met| met.boot)
    }

    /// At which start of this node a peer was met last.
    pub(super) fn met_at(&self, peer: u128) -> Option<u64> {
        self.peers.get(&peer).map(|met| met.own)
    }

    /// What others say of how a peer had started, if that is news.
    pub(super) fn heard(&self, peer: u128) -> Option<Boot> {
        self.heard.get(&peer).copied()
    }

    /// The last start of a peer that is known.
    pub(super) fn known_boot(&self, peer: u128) -> Option<Boot> {
        self.heard(peer).or(self.met(peer)) // What is earlier than what was met is not kept.
    }

    /// Others say that a peer has started so. Says whether that is news.
    pub(super) fn hear(&mut self, peer: u128, boot: Boot) -> bool {
        let number = match self.known_boot(peer) {
            Some(known) if boot.count < known.count || boot == known => return false,
            Some(known) if boot.count == known.count => Boot::AMBIGUOUS,
            _ => boot.number,
        };
        let news = Boot { number, ..boot };
        let has_room = self.heard.len() < PEERS_MAX || self.heard.contains_key(&peer);
        has_room && self.heard.insert(peer, news) != Some(news)
    }

    /// A peer was met that does not contradict what was heard of it. Says whether that is anything new.
    pub(super) fn meet(&mut self, peer: u128, boot: Boot) -> bool {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            self.forget_strangers();
        }
        let is_late = self.met(peer).is_some_and(|met| boot.count < met.count);
        if is_late || self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            return false;
        }
        let met = Met {
            boot,
            own: self.boot(),
        };
        let is_explained = self
            .heard(peer)
            .is_some_and(|heard| heard.count <= boot.count);
        if is_explained {
            self.heard.remove(&peer);
        }
        self.peers.insert(peer, met) != Some(met) || is_explained
    }

    /// There are not so many nodes: somebody makes numbers up, or has had many join in vain. Members are not forgotten.
    fn forget_strangers(&mut self) {
        let Some(members) = self.newest_membership() else {
            return;
        };
        let uuid = |id| members.member(id).map(|member| member.uuid);
        let known: BTreeSet<u128> = members.all().into_iter().filter_map(uuid).collect();
        self.peers.retain(|uuid, _| known.contains(uuid));
        self.heard.retain(|uuid, _| known.contains(uuid));
    }
}

/// The second copy of the memberships.
impl Record {
    /// These entries were appended, in the place of what was there. Says whether anything has changed.
    pub(super) fn appended(&mut self, entries: &[Entry]) -> bool {
        let Some(first) = entries.first() else {
            return false;
        };
        let before = self.memberships.len();
        self.truncated(first.id.index);
        let kept = self.memberships.len();
        for entry in entries.iter().filter(|entry| is_membership(entry)) {
            self.memberships.push(SetMembership {
                index: entry.id.index.0,
                term: entry.id.term.0,
                encoded: entry.payload.to_vec(),
            });
        }
        kept != before || self.memberships.len() != kept
    }

    /// The log was cut off before `from`.
    pub(super) fn truncated(&mut self, from: Index) {
        self.memberships.retain(|set| set.index < from.0);
    }

    /// A snapshot stands for the log up to `last`, and has this membership.
    pub(super) fn reset(&mut self, last: LogId, membership: &[u8]) {
        self.memberships = vec![SetMembership {
            index: last.index.0,
            term: last.term.0,
            encoded: membership.to_vec(),
        }];
    }

    /// A snapshot stands for the log up to `last`. Says whether anything has changed.
    pub(super) fn purged(&mut self, last: Index) -> bool {
        let later = self
            .memberships
            .partition_point(|set| set.index <= last.0)
            .saturating_sub(1);
        self.memberships.drain(..later);
        later > 0
    }

    /// The last membership, committed or not.
    pub(super) fn newest_membership(&self) -> Option<Membership> {
        Membership::decode(&self.memberships.last()?.encoded)
    }

    /// The membership at the beginning of a log that begins after `base`.
    pub(super) fn membership_at(&self, base: Index) -> Option<Membership> {
        let later = self.memberships.partition_point(|set| set.index <= base.0);
        let set = self.memberships.get(later.checked_sub(1)?)?;
        Membership::decode(&set.encoded)
    }

    /// The entry `id`, if it sets a membership.
    pub(super) fn membership_entry(&self, id: LogId) -> Option<Entry> {
        let is_it = |set: &&SetMembership| (set.index, set.term) == (id.index.0, id.term.0);
        let set = self.memberships.iter().find(is_it)?;
        Some(Membership::decode(&set.encoded)?.to_entry(id))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let voters: Vec<String> = self.voters.iter().map(NodeId::to_string).collect();
        write!(f, "node {} of cluster {:?}", self.node, self.cluster)?;
        match voters.is_empty() {
            true => write!(f, " that joined it"),
            false => write!(f, " with the nodes {}", voters.join(", ")),
        }
    }
}
