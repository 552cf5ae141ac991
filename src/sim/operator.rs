//! Who looks after the cluster: replaces nodes that must not come back, or that are to go, by new ones under new numbers.

use std::collections::{BTreeMap, BTreeSet};

use duramen_wal::NodeId;

use super::recorder::Recorder;
use super::world::World;
use crate::node::{Input, Member, Membership};

/// Who is being replaced.
#[derive(Default)]
pub(super) struct Operator {
    /// Who goes, and who comes in its place. Of those who have gone, the second has come.
    replaced: BTreeMap<NodeId, NodeId>,
    /// Of those who go: who must not come back.
    lost: BTreeSet<NodeId>,
    /// Of those who go: who is no member any more.
    gone: BTreeSet<NodeId>,
    /// The members that are to lead, and until when that counts as done.
    handed_to: Option<(NodeId, u64)>,
    /// Changes of the membership that were begun, and nodes that were replaced.
    pub(super) changes: u64,
    pub(super) replacements: u64,
    /// Leaderships that were handed over, and taken on.
    pub(super) transfers: u64,
}

/// A transfer that takes longer has failed.
const TRANSFER_MICROS: u64 = 2_000_000;

impl Operator {
    /// A member is to be replaced.
    pub(super) fn replace(&mut self, world: &mut World<Recorder>, old: NodeId) {
        if self.has_replaced(old) {
            return;
        }
        let last = world.ids().into_iter().max().unwrap_or(NodeId(0));
        let new = NodeId(last.0 + 1);
        self.replaced.insert(old, new);
        world.say(format!("{old} is to be replaced by {new}"));
        world.join(new);
    }

    /// Whether somebody is being replaced.
    pub(super) fn is_replacing(&self) -> bool {
        self.replaced.keys().any(|old| !self.gone.contains(old))
    }

    /// A member must not come back, and is to be replaced.
    pub(super) fn replace_lost(&mut self, world: &mut World<Recorder>, old: NodeId) {
        self.lost.insert(old);
        self.replace(world, old);
    }

    /// Whether a node is to go, or has gone.
    pub(super) fn has_replaced(&self, id: NodeId) -> bool {
        self.replaced.contains_key(&id)
    }

    /// Whether a node is not to be started any more.
    pub(super) fn is_out(&self, id: NodeId) -> bool {
        self.lost.contains(&id) || self.gone.contains(&id)
    }

    /// Does the next thing there is to do, if that is possible now.
    pub(super) fn step(&mut self, world: &mut World<Recorder>) {
        let Some(leader) = world.leader() else {
            return;
        };
        self.look_at_transfer(leader, world.now_micros());
        let raft = world.node(leader).expect("it leads").raft();
        let (membership, is_decided) = (raft.membership().clone(), !raft.is_changing_membership());
        for (old, new) in self.replaced.clone() {
            if membership.all().contains(&old) {
                if let Some(target) = next_membership(world, leader, old, new) {
                    self.change(world, leader, target);
                }
                return; // One after the other.
            }
            if is_decided && self.gone.insert(old) {
                self.stop(world, old);
            }
        }
    }

    /// Counts a transfer that has succeeded, and forgets one that has not.
    fn look_at_transfer(&mut self, leader: NodeId, now: u64) {
        if let Some((to, until)) = self.handed_to {
            self.transfers += u64::from(to == leader);
            if to == leader || until < now {
                self.handed_to = None;
            }
        }
    }

    /// Whoever is no member any more is not needed.
    fn stop(&mut self, world: &mut World<Recorder>, old: NodeId) {
        self.replacements += 1;
        if world.is_up(old) {
            world.kill(old);
        }
    }

    fn change(&mut self, world: &mut World<Recorder>, leader: NodeId, target: Membership) {
        let before = world.node(leader).map(|node| node.raft().last());
        let on_change = Box::new(|_| ());
        let change = Box::new(|_: &Membership| target);
        world.give(leader, Input::ChangeMembership { change, on_change });
        let after = world.node(leader).map(|node| node.raft().last());
        self.changes += u64::from(before != after);
    }

    /// Asks the leader to hand over to somebody.
    pub(super) fn hand_over(&mut self, world: &mut World<Recorder>) {
        let Some(leader) = world.leader() else {
            return;
        };
        let voters = world
            .node(leader)
            .expect("it leads")
            .raft()
            .membership()
            .voters();
        let others: Vec<NodeId> = voters.filter(|id| *id != leader).collect();
        let Some(to) = world.rng.choice(others) else {
            return;
        };
        world.say(format!("{leader} is to hand over to {to}"));
        self.handed_to = Some((to, world.now_micros() + TRANSFER_MICROS));
        let on_transfer = Box::new(|_| ());
        world.give(leader, Input::TransferLeadership { to, on_transfer });
    }
}

/// What the membership is to be next, so that `new` takes the place of `old`: first it learns, then it votes.
fn next_membership(
    world: &World<Recorder>,
    leader: NodeId,
    old: NodeId,
    new: NodeId,
) -> Option<Membership> {
    let raft = world.node(leader)?.raft();
    let membership = raft.membership().clone();
    if !membership.all().contains(&new) {
        let member = Member {
            uuid: world.node(new)?.storage().uuid(),
            ..Member::default()
        };
        return Some(membership.with_learner(new).with_member(new, member));
    }
    let matched = raft.match_index(new)?.0;
    let has_caught_up = matched + BEHIND_MAX >= raft.last().index.0;
    has_caught_up.then(|| membership.without(old).with_voter(new))
}

/// A learner that is so many entries behind has caught up.
const BEHIND_MAX: u64 = 50;
