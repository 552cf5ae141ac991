//! Where the nodes are reached.
//!
//! What a node says of itself in a handshake counts most: it is what it was started with last. Then what this node was started
//! with, and then the membership, which is as old as the last change of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use duramen_wal::NodeId;

use crate::raft::Membership;

/// Where a node is reached. Empty: that is not known, or nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    /// By its peers.
    pub peer: String,
    /// By clients.
    pub client: String,
}

/// The addresses of the nodes of a cluster. Clones share it.
#[derive(Debug, Clone)]
pub struct AddressBook(Arc<RwLock<Pages>>);

/// Invariant: of those who are neither members nor given, at most [`STRANGERS_MAX`] are in `said`.
#[derive(Debug)]
struct Pages {
    id: NodeId,
    own: Addresses,
    /// By the nodes themselves.
    said: BTreeMap<NodeId, Addresses>,
    /// By whoever started this node.
    given: BTreeMap<NodeId, Addresses>,
    /// By the membership.
    members: BTreeMap<NodeId, Addresses>,
}

/// Of so many nodes that are not members an address is kept.
const STRANGERS_MAX: usize = 32;

/// A longer address is none.
pub const ADDRESS_BYTES_MAX: usize = 300;

impl AddressBook {
    /// A book in which node `id` has its own addresses, and those of others that it was started with.
    pub fn new(
        id: NodeId,
        own: Addresses,
        given: impl IntoIterator<Item = (NodeId, Addresses)>,
    ) -> AddressBook {
        AddressBook(Arc::new(RwLock::new(Pages {
            id,
            own,
            said: BTreeMap::new(),
            given: given.into_iter().collect(),
            members: BTreeMap::new(),
        })))
    }

    /// Where this node is reached.
    pub fn own(&self) -> Addresses {
        self.read().own.clone()
    }

    /// Where this node is reached, as far as nobody has said so before.
    pub(crate) fn complete_own(&self, peer: &str, client: &str) {
        let own = &mut self.write().own;
        for (own, known) in [(&mut own.peer, peer), (&mut own.client, client)] {
            if own.is_empty() {
                known.clone_into(own);
            }
        }
    }

    /// Where the peers of `node` reach it, if that is known.
    pub fn peer_address(&self, node: NodeId) -> Option<String> {
        self.read().find(node, |addresses| &addresses.peer)
    }

    /// All there is to try, the best first.
    pub(super) fn peer_addresses(&self, node: NodeId) -> Vec<String> {
        let pages = self.read();
        let mut addresses: Vec<String> = Vec::new();
        for address in pages.all(node, |addresses| &addresses.peer) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        addresses
    }

    /// Where clients reach `node`, if that is known.
    pub fn client_address(&self, node: NodeId) -> Option<String> {
        self.read().find(node, |addresses| &addresses.client)
    }

    /// Where clients reach this node and the members: everybody who is known, as long as nobody knows who the members are.
    pub fn client_addresses(&self) -> BTreeMap<NodeId, String> {
        let pages = self.read();
        let mut ids: BTreeSet<NodeId> = pages.members.keys().copied().collect();
        if ids.is_empty() {
            ids.extend(pages.said.keys().chain(pages.given.keys()));
        }
        ids.insert(pages.id);
        let known = ids.into_iter().filter_map(|id| {
            let address = pages.find(id, |addresses| &addresses.client)?;
            Some((id, address))
        });
        known.collect()
    }

    /// Where a node is reached, as far as that is known.
    pub fn addresses(&self, node: NodeId) -> Addresses {
        let pages = self.read();
        Addresses {
            peer: pages.find(node, |found| &found.peer).unwrap_or_default(),
            client: pages.find(node, |found| &found.client).unwrap_or_default(),
        }
    }

    /// Whether a node is a member, as far as this node knows; or was given, as long as it knows of none.
    pub fn is_member(&self, node: NodeId) -> bool {
        let pages = self.read();
        match pages.members.is_empty() {
            true => pages.given.contains_key(&node),
            false => pages.members.contains_key(&node),
        }
    }

    /// A node has said where it is.
    pub(super) fn said(&self, node: NodeId, addresses: Addresses) {
        let mut pages = self.write();
        if node == pages.id {
            return;
        }
        let is_stranger =
            |id: &NodeId| !pages.members.contains_key(id) && !pages.given.contains_key(id);
        let mut strangers = pages.said.keys().copied().filter(is_stranger);
        let first = strangers.next();
        let is_full = strangers.count() + 1 >= STRANGERS_MAX;
        if let Some(first) = first.filter(|_| is_full && is_stranger(&node)) {
            pages.said.remove(&first);
        }
        pages.said.insert(node, addresses);
    }

    /// These are the members now. Who was one and is none any more is forgotten.
    pub(super) fn set_members(&self, membership: &Membership) {
        let mut pages = self.write();
        let all = membership.all();
        let before = std::mem::take(&mut pages.members);
        for gone in before.keys().filter(|id| !all.contains(id)) {
            pages.said.remove(gone);
        }
        let members = all.into_iter().map(|id| {
            let member = membership.member(id);
            let addresses = member.map(|member| Addresses {
                peer: member.peer_address.clone(),
                client: member.client_address.clone(),
            });
            (id, addresses.unwrap_or_default())
        });
        pages.members = members.collect();
    }

    fn read(&self) -> RwLockReadGuard<'_, Pages> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Pages> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn find(&self, node: NodeId, which: fn(&Addresses) -> &String) -> Option<String> {
        self.all(node, which).next().cloned()
    }

    /// What is known of a node, what counts most first.
    fn all(&self, node: NodeId, which: fn(&Addresses) -> &String) -> impl Iterator<Item = &String> {
        let own = (node == self.id).then_some(&self.own);
        let sources = [
            own,
            self.said.get(&node),
            self.given.get(&node),
            self.members.get(&node),
        ];
        let known = sources.into_iter().flatten().map(which);
        known.filter(|address| !address.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Member;

    fn at(peer: &str) -> Addresses {
        Addresses {
            peer: peer.to_owned(),
            client: format!("client-{peer}"),
        }
    }

    fn members(ids: &[u64]) -> Membership {
        let voters = Membership::of_voters(ids.iter().copied().map(NodeId));
        ids.iter().fold(voters, |membership, &id| {
            let member = Member {
                peer_address: format!("member-{id}"),
                ..Member::default()
            };
            membership.with_member(NodeId(id), member)
        })
    }

    #[test]
    fn what_a_node_says_counts_more_than_the_flags_and_these_more_than_the_membership() {
        let book = AddressBook::new(NodeId(1), at("own"), [(NodeId(2), at("given"))]);
        book.set_members(&members(&[1, 2, 3]));
        let peer = |id| book.peer_address(NodeId(id));
        assert_eq!(peer(1).as_deref(), Some("own"));
        assert_eq!(peer(2).as_deref(), Some("given"));
        assert_eq!(peer(3).as_deref(), Some("member-3"));
        assert_eq!(book.client_address(NodeId(3)), None);
        for id in [1, 2, 3] {
            book.said(NodeId(id), at("said"));
        }
        assert_eq!(peer(1).as_deref(), Some("own"));
        assert_eq!(peer(2).as_deref(), Some("said"));
        assert_eq!(peer(3).as_deref(), Some("said"));
        assert_eq!(peer(4), None);
    }

    #[test]
    fn clients_are_told_of_members_only_and_who_has_gone_is_forgotten() {
        let book = AddressBook::new(NodeId(1), at("own"), [(NodeId(2), at("given"))]);
        book.said(NodeId(4), at("said"));
        let ids = || {
            book.client_addresses()
                .into_keys()
                .map(|id| id.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(), [1, 2, 4], "nobody knows who the members are");
        book.set_members(&members(&[1, 2, 4]));
        assert_eq!(ids(), [1, 2, 4]);
        book.set_members(&members(&[1, 2]));
        assert_eq!(ids(), [1, 2]);
        assert_eq!(book.peer_address(NodeId(4)), None);
        assert!(!book.is_member(NodeId(4)));
        book.set_members(&members(&[2, 3]));
        assert_eq!(ids(), [1, 2], "it knows where it is itself");
    }

    #[test]
    fn strangers_do_not_use_up_the_memory_nor_push_members_out() {
        let book = AddressBook::new(NodeId(1), at("own"), []);
        book.set_members(&members(&[1, 2]));
        book.said(NodeId(2), at("said"));
        for id in 3..1000 {
            book.said(NodeId(id), at("stranger"));
            assert!(book.peer_address(NodeId(id)).is_some());
        }
        assert_eq!(book.read().said.len(), 1 + STRANGERS_MAX);
        assert_eq!(book.peer_address(NodeId(2)).as_deref(), Some("said"));
    }
}
