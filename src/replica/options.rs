//! How a replica is to be.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::node::{self, Config, Member, Membership, NodeId, StorageOptions};
use crate::transport::{Addresses, Peers};

/// How a [`Replica`](super::Replica) is to be.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The node's number in its cluster.
    pub id: NodeId,
    /// Its directory. It is made at the first start.
    pub dir: PathBuf,
    /// The cluster's name; nodes of another one are refused. `None`: as the directory says, and "duramen" at the first start.
    pub cluster: Option<String>,
    /// How the node begins. Only its first start needs it.
    pub beginning: Beginning,
    /// Where to listen for the other nodes. `None`: at `peer_address`.
    pub listen: Option<String>,
    /// Where the other nodes reach this one. `None`: as `beginning` says, or else the directory.
    pub peer_address: Option<String>,
    /// Where clients reach this node, for the others to know. Empty: nowhere.
    pub client_address: String,
    /// Of the core. Its id and membership are not looked at.
    pub config: Config,
    /// Of the node.
    pub node: node::Options,
    /// Of its storage.
    pub storage: StorageOptions,
}

/// How a node begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// It has begun: its directory knows.
    Before,
    /// With these nodes, all of which begin with the same.
    With(Peers),
    /// It joins a cluster that is there: it waits until it is made a member.
    Joining,
}

/// The name of a cluster that was given none.
const CLUSTER: &str = "duramen";

impl Options {
    /// For node `id` of a cluster that begins with these nodes, itself among them, with the addresses at which they reach each
    /// other.
    pub fn new<A: Into<String>>(
        id: NodeId,
        dir: impl Into<PathBuf>,
        peers: impl IntoIterator<Item = (NodeId, A)>,
    ) -> Options {
        let peers = peers.into_iter().map(|(id, address)| (id, address.into()));
        Options {
            beginning: Beginning::With(peers.collect()),
            ..Options::again(id, dir)
        }
    }

    /// For a node that joins a cluster that is there, under a new number, and is reached at `peer_address`.
    pub fn joining(
        id: NodeId,
        dir: impl Into<PathBuf>,
        peer_address: impl Into<String>,
    ) -> Options {
        Options {
            beginning: Beginning::Joining,
            peer_address: Some(peer_address.into()),
            ..Options::again(id, dir)
        }
    }

    /// For a node whose directory knows the rest.
    pub fn again(id: NodeId, dir: impl Into<PathBuf>) -> Options {
        Options {
            id,
            dir: dir.into(),
            cluster: None,
            beginning: Beginning::Before,
            listen: None,
            peer_address: None,
            client_address: String::new(),
            config: Config::new(id, []),
            node: node::Options::default(),
            storage: StorageOptions::default(),
        }
    }

    /// The cluster's name at the first start.
    pub(super) fn cluster_at_first(&self) -> String {
        self.cluster.clone().unwrap_or_else(|| CLUSTER.to_owned())
    }

    fn peers(&self) -> Option<&Peers> {
        match &self.beginning {
            Beginning::With(peers) => Some(peers),
            Beginning::Before | Beginning::Joining => None,
        }
    }

    /// Where this node is reached, as far as it was said.
    pub(super) fn own_addresses(&self) -> Addresses {
        let as_peer = || self.peers()?.get(&self.id).cloned();
        Addresses {
            peer: self
                .peer_address
                .clone()
                .or_else(as_peer)
                .unwrap_or_default(),
            client: self.client_address.clone(),
        }
    }

    /// Where the others are reached, as far as it was said.
    pub(super) fn given_addresses(&self) -> BTreeMap<NodeId, Addresses> {
        let peers = self.peers().into_iter().flatten();
        let given = peers.map(|(&id, peer)| {
            let (peer, client) = (peer.clone(), String::new());
            (id, Addresses { peer, client })
        });
        given.collect()
    }

    /// The members that the cluster begins with, and where they are.
    pub(super) fn membership(&self) -> Membership {
        let Some(peers) = self.peers() else {
            return Membership::default();
        };
        let voters = Membership::of_voters(peers.keys().copied());
        peers.iter().fold(voters, |members, (&id, address)| {
            let peer_address = address.clone();
            let member = Member {
                peer_address,
                ..Member::default()
            };
            members.with_member(id, member)
        })
    }
}
