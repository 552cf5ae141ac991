//! Who belongs to the cluster, and what a majority of it is (section 6).
//!
//! A change of the voters goes through a *joint* membership, in which the old and the new voters each need a majority, for
//! elections and for commitment: so there is no moment at which two majorities could decide apart from each other. *Learners*
//! receive the log and have no vote.
//!
//! # Invariants
//!
//! * A membership takes effect when its entry is appended, committed or not, and is taken back when the entry is truncated.
//! * There is at least one voter; but a node that is to join a cluster begins with a membership of nobody, and has no other
//!   one before its leader's log or snapshot tells it.

use std::collections::{BTreeMap, BTreeSet};

use duramen_wal::types::{Context, Entry, Index, LogId, NodeId};
use serde::{Deserialize, Serialize};

use crate::canary::planted;

/// How a node is known and reached. The core only carries it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Member {
    /// Made at the node's first start: a node whose disk was emptied has another one, and is another node.
    pub uuid: u128,
    /// Where its peers reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
}

/// The members of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Membership {
    /// Who votes. In a joint membership: who will.
    voters: BTreeSet<u64>,
    /// In a joint membership: who voted before, and does still. Otherwise nobody.
    outgoing: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    members: BTreeMap<u64, Member>,
}

/// Why there can be no such membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadMembership {
    /// Nobody would vote.
    #[error("there would be no voter")]
    NoVoter,
    /// A node would be both.
    #[error("node {0} would be voter and learner")]
    VoterAndLearner(NodeId),
    /// It would take more than 1 MiB, alone or together with the one before it.
    #[error("the membership would take more than {ENCODED_BYTES_MAX} bytes")]
    TooLarge,
}

/// Marks an entry whose payload is a membership.
const MARK: &[u8] = b"m";

/// A membership has fewer members than this, whatever bytes claim.
const ENCODED_BYTES_MAX: usize = 1 << 20;

impl Membership {
    /// These voters, and nobody else.
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Membership {
        Membership {
            voters: voters.into_iter().map(|id| id.0).collect(),
            ..Membership::default()
        }
    }

    /// The same with one more learner.
    #[must_use]
    pub fn with_learner(mut self, id: NodeId) -> Membership {
        self.learners.insert(id.0);
        self
    }

    /// The same with one more voter: a learner that is promoted.
    #[must_use]
    pub fn with_voter(mut self, id: NodeId) -> Membership {
        self.learners.remove(&id.0);
        self.voters.insert(id.0);
        self
    }

    /// The same without this node, voter or learner. So `without(old).with_voter(new)` replaces a voter, in one change.
    #[must_use]
    pub fn without(mut self, id: NodeId) -> Membership {
        self.learners.remove(&id.0);
        self.voters.remove(&id.0);
        self.members.remove(&id.0);
        self
    }

    /// The same with what is known of a node.
    #[must_use]
    pub fn with_member(mut self, id: NodeId, member: Member) -> Membership {
        self.members.insert(id.0, member);
        self
    }

    /// The same with what another membership knows of these nodes.
    #[must_use]
    pub fn with_members_of(mut self, other: &Membership) -> Membership {
        let all = self.all();
        let known = other.members.iter();
        let known = known.filter(|(id, _)| all.contains(&NodeId(**id)));
        self.members
            .extend(known.map(|(&id, member)| (id, member.clone())));
        self
    }

    /// The voters; in a joint membership those to come.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.iter().copied().map(NodeId)
    }

    /// In a joint membership: those who voted before, and do still. Otherwise nobody.
    pub fn outgoing(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.outgoing.iter().copied().map(NodeId)
    }

    /// Those who receive the log and do not vote.
    pub fn learners(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.learners.iter().copied().map(NodeId)
    }

    /// How a node is known and reached.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.get(&id.0)
    }

    /// Whether old and new voters decide together.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether a node's vote counts.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters.contains(&id.0) || self.outgoing.contains(&id.0)
    }

    /// All who receive the log, each once.
    pub fn all(&self) -> BTreeSet<NodeId> {
        let all = self
            .voters
            .iter()
            .chain(&self.outgoing)
            .chain(&self.learners);
        all.copied().map(NodeId).collect()
    }

    /// Whether these are a majority: of the old voters and of the new ones, if there are both.
    pub fn is_majority(&self, is_in: impl Fn(NodeId) -> bool) -> bool {
        self.deciding().all(|voters| is_most_of(voters, &is_in))
    }

    /// Whether these are a majority of the old voters or of the new ones.
    pub(super) fn has_any_majority(&self, is_in: impl Fn(NodeId) -> bool) -> bool {
        self.deciding().any(|voters| is_most_of(voters, &is_in))
    }

    /// The largest value that a majority has reached.
    pub fn reached_by_majority<T: Ord + Copy>(&self, value: impl Fn(NodeId) -> T) -> T {
        let reached = self.deciding().map(|voters| {
            let mut values: Vec<T> = voters.iter().map(|id| value(NodeId(*id))).collect();
            values.sort_unstable_by(|a, b| b.cmp(a));
            values[voters.len() / 2]
        });
        let reached = match planted("one_majority_is_enough") {
            true => reached.max(),
            false => reached.min(),
        };
        reached.expect("there is at least one voter")
    }

    /// The sets of which each needs a majority.
    fn deciding(&self) -> impl Iterator<Item = &BTreeSet<u64>> {
        let outgoing = Some(&self.outgoing).filter(|outgoing| !outgoing.is_empty());
        std::iter::once(&self.voters).chain(outgoing)
    }

    /// Who is asked for a vote.
    pub(super) fn all_voters(&self) -> BTreeSet<NodeId> {
        self.deciding().flatten().copied().map(NodeId).collect()
    }

    /// The membership that leads to another one: a joint one, unless the voters stay the same.
    /// What is known of a member stays known.
    pub(super) fn towards(&self, target: Membership) -> Membership {
        let mut members = self.members.clone();
        members.extend(target.members);
        let joint = Membership {
            outgoing: self.voters.clone(),
            members,
            ..target
        };
        match joint.voters == joint.outgoing {
            true => joint.settled(),
            false => joint,
        }
    }

    /// The membership that ends a joint one.
    pub(super) fn settled(&self) -> Membership {
        let mut settled = self.clone();
        settled.outgoing.clear();
        let all = settled.all();
        settled.members.retain(|id, _| all.contains(&NodeId(*id)));
        settled
    }

    pub(super) fn check(&self) -> Result<(), BadMembership> {
        if self.voters.is_empty() {
            return Err(BadMembership::NoVoter);
        }
        match self.voters.intersection(&self.learners).next() {
            None => Ok(()),
            Some(id) => Err(BadMembership::VoterAndLearner(NodeId(*id))),
        }
    }

    /// The membership as bytes, in bincode's standard form.
    pub fn encode(&self) -> Vec<u8> {
        let encoded = bincode::serde::encode_to_vec(self, bincode::config::standard());
        encoded.expect("sets and strings can be encoded")
    }

    /// What [`encode`](Membership::encode) gave; `None` for anything else, and if nobody votes.
    pub fn decode(payload: &[u8]) -> Option<Membership> {
        let config = bincode::config::standard().with_limit::<ENCODED_BYTES_MAX>();
        let decoded = bincode::serde::decode_from_slice(payload, config);
        let (membership, read): (Membership, usize) = decoded.ok()?;
        (read == payload.len() && membership.check().is_ok()).then_some(membership)
    }

    /// The entry that sets this membership, at `id`.
    pub fn to_entry(&self, id: LogId) -> Entry {
        Entry {
            id,
            context: Membership::mark(),
            payload: self.encode().into(),
        }
    }

    /// Whether [`decode`](Membership::decode) takes what [`encode`](Membership::encode) gives.
    pub(super) fn can_be_decoded(&self) -> bool {
        Membership::decode(&self.encode()).is_some()
    }

    /// The mark of an entry that sets a membership.
    pub(super) fn mark() -> Context {
        Context::new(MARK).expect("the mark is short")
    }

    /// The membership that an entry sets. `Err`: it says that it does, and makes no sense.
    pub(super) fn of_entry(entry: &Entry) -> Result<Option<Membership>, BadEntry> {
        match is_membership(entry) {
            true => Membership::decode(&entry.payload).map(Some).ok_or(BadEntry),
            false => Ok(None),
        }
    }
}

fn is_most_of(voters: &BTreeSet<u64>, is_in: impl Fn(NodeId) -> bool) -> bool {
    let count = voters.iter().filter(|id| is_in(NodeId(**id))).count();
    count > voters.len() / 2
}

/// An entry that is marked as a membership and is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadEntry;

/// Whether an entry says that it sets a membership.
pub fn is_membership(entry: &Entry) -> bool {
    entry.context.as_bytes() == MARK
}

/// Whether an entry is a command of a client: neither a leader's blank entry nor a membership.
pub fn is_command(entry: &Entry) -> bool {
    !entry.payload.is_empty() && !is_membership(entry)
}

/// The memberships of a log, by the index of their entries.
///
/// Invariant: in ascending order; the first one is that of the log's beginning.
#[derive(Debug)]
pub(super) struct Memberships {
    list: Vec<(Index, Membership)>,
}

impl Memberships {
    pub(super) fn new(index: Index, membership: Membership) -> Memberships {
        Memberships {
            list: vec![(index, membership)],
        }
    }

    fn latest(&self) -> &(Index, Membership) {
        self.list.last().expect("there always is one")
    }

    /// The one in force.
    pub(super) fn current(&self) -> &Membership {
        &self.latest().1
    }

    /// The index of the entry that set it.
    pub(super) fn index(&self) -> Index {
        self.latest().0
    }

    /// Whether a node votes in the membership that is known to be committed, or in a later one. It may hold the only entry
    /// that removes it: then nobody else can be elected (thesis, 4.2.2).
    pub(super) fn may_campaign(&self, id: NodeId, commit: Index) -> bool {
        let later = self.list.partition_point(|(index, _)| *index <= commit);
        let from_committed = &self.list[later.saturating_sub(1)..];
        from_committed
            .iter()
            .any(|(_, membership)| membership.is_voter(id))
    }

    pub(super) fn push(&mut self, index: Index, membership: Membership) {
        assert!(index > self.index(), "{} then {index}", self.index());
        self.list.push((index, membership));
    }

    /// A snapshot stands for the log up to `base`: what came before the membership that was in force there is not needed.
    pub(super) fn compacted(&mut self, base: Index) {
        let later = self.list.partition_point(|(index, _)| *index <= base);
        self.list.drain(..later.saturating_sub(1));
    }

    /// The membership that was in force at `index`, which is not before the first one.
    pub(super) fn at(&self, index: Index) -> &Membership {
        let later = self.list.partition_point(|(set, _)| *set <= index);
        &self.list[later.saturating_sub(1)].1
    }

    /// The one that was in force at `index`, and all later ones.
    pub(super) fn since(&self, index: Index) -> &[(Index, Membership)] {
        let later = self.list.partition_point(|(set, _)| *set <= index);
        &self.list[later.saturating_sub(1)..]
    }

    /// The log was cut off before `from`.
    pub(super) fn truncated(&mut self, from: Index) {
        if planted("membership_not_rolled_back") {
            return;
        }
        self.list.retain(|(index, _)| *index < from);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn membership(voters: &[u64], outgoing: &[u64]) -> Membership {
        Membership {
            voters: voters.iter().copied().collect(),
            outgoing: outgoing.iter().copied().collect(),
            ..Membership::default()
        }
    }

    /// Every set of more than half, of each side.
    fn is_majority_by_counting(membership: &Membership, set: &BTreeSet<u64>) -> bool {
        let more_than_half = |voters: &BTreeSet<u64>| {
            voters.is_empty() || 2 * voters.intersection(set).count() > voters.len()
        };
        more_than_half(&membership.voters) && more_than_half(&membership.outgoing)
    }

    proptest! {
        /// The definition: the largest value such that those who have reached it are a majority.
        #[test]
        fn what_a_majority_has_reached_is_found_by_trying(
            voters in prop::collection::btree_set(1..10_u64, 1..=7),
            outgoing in prop::collection::btree_set(1..10_u64, 0..=7),
            values in prop::collection::vec(0..9_u64, 10),
        ) {
            let joint = Membership { voters, outgoing, ..Membership::default() };
            let at_least = |value| {
                let reached = (1..10).filter(|&id| values[id as usize] >= value);
                is_majority_by_counting(&joint, &reached.collect())
            };
            let expected = (0..9).rev().find(|&value| at_least(value));
            prop_assert_eq!(Some(joint.reached_by_majority(|id| values[id.0 as usize])), expected);
        }

        #[test]
        fn two_majorities_have_a_voter_in_common_also_across_a_change(
            voters in prop::collection::btree_set(1..8_u64, 1..6),
            target in prop::collection::btree_set(1..8_u64, 1..6),
        ) {
            let old = Membership { voters, ..Membership::default() };
            let joint = old.towards(Membership { voters: target, ..Membership::default() });
            let steps = [old, joint.clone(), joint.settled()];
            for pair in steps.windows(2) {
                for one in subsets() {
                    for other in subsets() {
                        let both = pair[0].is_majority(|id| one.contains(&id.0))
                            && pair[1].is_majority(|id| other.contains(&id.0));
                        prop_assert!(!both || !one.is_disjoint(&other), "{one:?} {other:?}");
                    }
                }
            }
        }
    }

    fn subsets() -> impl Iterator<Item = BTreeSet<u64>> {
        (0..128_u64).map(|bits| (1..8).filter(|id| bits >> (id - 1) & 1 == 1).collect())
    }

    #[test]
    fn a_membership_comes_back_from_its_entry_and_nonsense_does_not() {
        let mut joint = membership(&[1, 2, 4], &[1, 2, 3]);
        joint.members.insert(
            4,
            Member {
                uuid: 7,
                peer_address: "10.0.0.4:7400".to_owned(),
                client_address: String::new(),
            },
        );
        let (payload, context) = (joint.encode(), Membership::mark());
        let entry = |payload: &[u8], context| Entry {
            payload: payload.to_vec().into(),
            context,
            ..Entry::default()
        };
        let of = |payload: &[u8]| Membership::of_entry(&entry(payload, context));
        assert_eq!(of(&payload), Ok(Some(joint)));
        assert_eq!(of(&payload[..payload.len() - 1]), Err(BadEntry));
        assert_eq!(of(b""), Err(BadEntry));
        assert_eq!(of(&membership(&[], &[1]).encode()), Err(BadEntry));
        assert_eq!(
            Membership::of_entry(&entry(&payload, Context::EMPTY)),
            Ok(None)
        );
    }

    #[test]
    fn a_change_of_learners_alone_is_not_joint() {
        let old = membership(&[1, 2, 3], &[]);
        let mut target = old.clone();
        target.learners.insert(4);
        assert!(!old.towards(target.clone()).is_joint());
        assert_eq!(old.towards(target.clone()), target);
        assert!(old.towards(membership(&[1, 2], &[])).is_joint());
    }

    #[test]
    fn what_is_truncated_takes_its_membership_with_it() {
        let mut memberships = Memberships::new(Index(0), membership(&[1], &[]));
        memberships.push(Index(3), membership(&[2], &[]));
        memberships.push(Index(5), membership(&[3], &[]));
        memberships.truncated(Index(4));
        assert_eq!(
            (memberships.index(), memberships.current()),
            (Index(3), &membership(&[2], &[]))
        );
        memberships.truncated(Index(1));
        assert_eq!(memberships.index(), Index(0));
    }
}
