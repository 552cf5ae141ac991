//! Who may take part.
//!
//! A vote, once lost, is not given back by catching up with the log: a node whose disk was emptied or set back may have voted
//! already, and would vote twice. So a node is known by a uuid, and by its starts (`boots.rs`), and whoever comes back as another one is
//! refused as the voter it was.
//!
//! A node begins to take part when it has met all others, and they are blank, or know it already; or when one that takes part knows
//! it already. So a blank node cannot begin a cluster anew while the others have an old one, and a node that was there at the
//! beginning need not wait for one that has died since.
//!
//! Who is removed does not hear of it through the log: the leader sends it nothing any more. So it learns of it when it meets the
//! leader again, and says so.

use std::collections::BTreeMap;

use duramen_wal::{Entry, NodeId};

use super::{Clock, Error, Node, StateMachine};
use crate::canary::planted;
use crate::raft::{Member, Membership, is_membership};
use crate::transport::{BOOTS_MAX, Introduction, KNOWN_MAX, Network, Refusal};

/// The uuids of the nodes that were met, until all were.
#[derive(Debug)]
pub(super) struct Bootstrap {
    met: BTreeMap<NodeId, u128>,
    voters: Membership,
}

impl Bootstrap {
    pub(super) fn new(own: NodeId, uuid: u128, voters: Membership) -> Bootstrap {
        let met = BTreeMap::from([(own, uuid)]);
        Bootstrap { met, voters }
    }

    /// Whether all were met.
    fn is_complete(&self) -> bool {
        self.voters.all().iter().all(|id| self.met.contains_key(id))
    }

    /// The members, with the uuids of those that were met.
    fn members(self) -> Membership {
        self.met
            .into_iter()
            .fold(self.voters, |members, (id, uuid)| {
                let known = members.member(id).cloned().unwrap_or_default();
                let member = Member { uuid, ..known };
                members.with_member(id, member)
            })
    }
}

/// Whether a node belongs to its cluster, as far as it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not yet: it is to join.
    Outside,
    /// It does.
    Member,
    /// It did, and was removed.
    Removed,
}

impl Standing {
    /// That of a node that starts where these are the members.
    pub(super) fn at_start(node: NodeId, membership: &Membership) -> Standing {
        match membership.all().contains(&node) {
            true => Standing::Member,
            false => Standing::Outside,
        }
    }
}

impl<S: StateMachine, N: Network, C: Clock> Node<S, N, C> {
    /// Whether the node belongs to its cluster.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// An entry was applied: perhaps it adds this node to the cluster, or removes it. What was before it was added says nothing.
    pub(super) fn look_at_standing(&mut self, entry: &Entry) {
        let index = entry.id.index;
        if is_membership(entry) && index == self.raft.membership_index() {
            let counts = |index| {
                let membership = self.raft.membership_at(index);
                membership.all().contains(&self.raft.id())
            };
            let (before, now) = (counts(index.prev()), counts(index));
            if before || now {
                self.set_standing(now);
            }
        }
    }

    /// Another node has said whom it knows: perhaps it is the leader, and does not know this one. The leader of an earlier term may not
    /// know it yet.
    fn hear_of_standing(&mut self, other: &Introduction) {
        let leads = other.leads && other.term >= self.raft.term();
        if leads && !self.raft.is_leader() {
            let (own, uuid) = (self.raft.id(), self.storage.uuid());
            self.set_standing(other.knows.get(&own.0) == Some(&uuid));
        }
    }

    fn set_standing(&mut self, is_member: bool) {
        match (self.standing, is_member) {
            (_, true) => self.standing = Standing::Member,
            (Standing::Outside | Standing::Removed, false) => {}
            (Standing::Member, false) => {
                self.standing = Standing::Removed;
                tracing::warn!(
                    "node {} is no member of the cluster any more: it may be stopped, and its directory deleted",
                    self.raft.id()
                );
            }
        }
    }

    /// What this node says of itself to others.
    pub fn introduction(&self) -> Introduction {
        let newest = self.storage.boots().clone().into_iter().rev();
        Introduction {
            cluster: self.storage.identity().cluster,
            from: self.raft.id(),
            uuid: self.storage.uuid(),
            boots: newest.take(BOOTS_MAX).collect(),
            term: self.raft.term(),
            last: self.storage.durable(),
            is_blank: self.bootstrap.is_some(),
            leads: self.raft.is_leader() && !self.raft.is_changing_membership(),
            knows: self.known_uuids(),
            met: self.known_boots(),
        }
    }

    pub(super) fn known_uuids(&self) -> BTreeMap<u64, u128> {
        let members = self.raft.membership().all();
        let known = members.into_iter().map(|id| (id.0, self.known_uuid(id)));
        known
            .filter(|(_, uuid)| *uuid != 0)
            .take(KNOWN_MAX)
            .collect()
    }

    pub(super) fn known_uuid(&self, node: NodeId) -> u128 {
        let met = self
            .bootstrap
            .as_ref()
            .and_then(|bootstrap| bootstrap.met.get(&node).copied());
        let member = self.raft.membership().member(node);
        met.or(member.map(|member| member.uuid)).unwrap_or(0)
    }

    /// Whether another node may talk to this one, by what it says of itself.
    ///
    /// # Errors
    /// [`Refusal`]. It is to be told, through [`refused`](Node::refused).
    pub fn admit(&mut self, other: &Introduction) -> Result<(), Refusal> {
        let cluster = self.storage.identity().cluster;
        let (node, found) = (other.from, other.uuid);
        if other.cluster != cluster {
            return Err(Refusal::OtherCluster {
                expected: cluster,
                found: other.cluster.clone(),
            });
        }
        let known = self.known_uuid(node);
        if known != 0 && known != found && !planted("wiped_voter_returns") {
            return Err(Refusal::OtherNode { node, known, found });
        }
        self.check_boots_of(other)?;
        self.strangers.remove(&node);
        self.remember(other);
        self.hear_of_boots(node, &other.met);
        self.hear_of_standing(other);
        self.meet(other);
        Ok(())
    }

    /// What it acknowledged to this leader before it was started anew, it must hold. Others do not know; nor does this one, if a
    /// leader of a later term may have had it truncate its log.
    pub(super) fn check_log_of(&self, other: &Introduction) -> Result<(), Refusal> {
        match self.raft.match_index(other.from) {
            Some(acknowledged)
                if other.last.index < acknowledged && other.term <= self.raft.term() =>
            {
                Err(Refusal::LostEntries {
                    node: other.from,
                    acknowledged: acknowledged.0,
                    found: other.last,
                })
            }
            _ => Ok(()),
        }
    }

    /// A node that has never taken part waits until it has met all others.
    fn meet(&mut self, other: &Introduction) {
        let Some(bootstrap) = &mut self.bootstrap else {
            return;
        };
        if !bootstrap.voters.all().contains(&other.from) {
            return;
        }
        let (own, uuid) = (self.raft.id(), self.storage.uuid());
        let knows_this = other.knows.get(&own.0) == Some(&uuid);
        if other.is_blank || knows_this || planted("wiped_voter_returns") {
            bootstrap.met.insert(other.from, other.uuid);
        }
        if knows_this && !other.is_blank {
            // It had met all others, or has it from one that had.
            let known = other.knows.iter().map(|(&id, &uuid)| (NodeId(id), uuid));
            bootstrap.met.extend(known);
            self.begin();
        }
        self.begin_if_complete();
    }

    /// Begins to take part, if everybody was met.
    pub(super) fn begin_if_complete(&mut self) {
        if self.bootstrap.as_ref().is_some_and(Bootstrap::is_complete) {
            self.begin();
        }
    }

    fn begin(&mut self) {
        let Some(bootstrap) = self.bootstrap.take() else {
            return;
        };
        let membership = bootstrap.members();
        let noted = self.storage.begin_with(&membership);
        let noted = self.survive(noted).map(drop);
        self.note(noted);
        self.raft.begin_with(membership);
        self.tell_network();
    }

    /// Another node, of this uuid, wants nothing to do with this one, by what this one says of itself: that is the end of it. What is
    /// about somebody else is not believed.
    pub fn refused(&mut self, by: NodeId, by_uuid: u128, refusal: Refusal) {
        let (id, uuid, boot) = (self.raft.id(), self.storage.uuid(), self.storage.boot());
        let drawn_at = |boot: &u64| self.storage.boots().get(boot).copied().unwrap_or(0);
        let is_about_this = match &refusal {
            Refusal::OtherCluster { found, .. } => *found == self.storage.identity().cluster,
            Refusal::OtherNode { node, found, .. } => (*node, *found) == (id, uuid),
            Refusal::SetBack { node, found, .. } => (*node, *found) == (id, boot),
            Refusal::OtherStart {
                node, boot, found, ..
            } => (*node, *found) == (id, drawn_at(boot)),
            Refusal::LostEntries { node, .. } => *node == id,
        };
        if !is_about_this {
            tracing::warn!(%by, %refusal, "refused for what this node is not");
        } else if self.is_stranger(by, by_uuid) {
            self.strangers.insert(by);
            let is_stranger = |id| self.strangers.contains(&id);
            let is_most = self.raft.membership().is_majority(is_stranger);
            match is_most || planted("strangers_are_believed") {
                true => self.note(Err(Error::Refused { by, refusal })),
                false => {
                    tracing::warn!(%by, %refusal, "refused by a node that is not the one known by this number")
                }
            }
        } else if self.is_behind(by, by_uuid, &refusal) {
            tracing::warn!(%by, %refusal, "refused by a node that was away, or was set back");
        } else {
            self.note(Err(Error::Refused { by, refusal }));
        }
    }

    /// Whether a member refuses this one by what was true once.
    ///
    /// * It remembers a start that nobody here does, and it was met at a later one: it has forgotten that, and was set back.
    /// * It knows by this number the node that had it before. It was away when that one was removed, as can be true of a minority:
    ///   the removal was committed before the number was given again. If a majority does not know this node, it is the one that was
    ///   removed.
    fn is_behind(&mut self, by: NodeId, by_uuid: u128, refusal: &Refusal) -> bool {
        match refusal {
            Refusal::OtherStart { boot, found: 0, .. } => {
                let met_at = self.storage.met_at(by_uuid);
                met_at.is_some_and(|met_at| *boot < met_at) && !planted("set_back_peer_is_believed")
            }
            Refusal::OtherNode { node, found, .. } if !planted("who_was_away_is_believed") => {
                self.unknown_to.insert(by);
                let members = self.raft.membership();
                let is_member = members.member(*node).is_some_and(|own| own.uuid == *found);
                is_member && !members.is_majority(|id| self.unknown_to.contains(&id))
            }
            _ => false,
        }
    }

    /// Whether a node that refuses this one is not the one that is known by its number. Then one of the two is of another cluster,
    /// and this one is if the same is true of a majority of its voters.
    fn is_stranger(&self, node: NodeId, uuid: u128) -> bool {
        let known = self.known_uuid(node);
        known != 0 && known != uuid
    }
}
