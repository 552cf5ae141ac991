//! Nodes that are not any more what they were: emptied, or set back.

use duramen::kv::Kv;
use duramen::node::{Error, Input, Member, Membership, Refusal};
use duramen::sim::World;
use duramen::wal::NodeId;

use super::cluster::{ELECTION, SECOND, append, cluster, others};

/// Three nodes of which one, the third, misses an election that the two others hold. Gives the leader and who voted for it, when
/// only the third and the voter are there.
fn election_without_third(world: &mut World<Kv>) -> (NodeId, NodeId) {
    let first = world.leader().unwrap();
    let [other, third] = others(first);
    world.isolate(third);
    world.cut_power(first);
    world.start(first);
    assert!(world.run_until(ELECTION, |world| world.leader().is_some()));
    let second = world.leader().unwrap();
    world.connect(third);
    world.isolate(second);
    (second, if second == other { first } else { other })
}

/// The voter came back without its vote: with the third node, which does not know of the election, it must not elect anybody. The
/// world would notice a second vote and a second leader of the term.
fn elects_nobody(
    world: &mut World<Kv>,
    leader: NodeId,
    voter: NodeId,
    is_expected: fn(&Refusal) -> bool,
) {
    let elections = world.leaders_seen();
    world.run_for(ELECTION);
    let ended = world.take_ended();
    assert!(
        matches!(&ended[..], [(id, Error::Refused { refusal, .. })] if *id == voter && is_expected(refusal)),
        "{ended:?}"
    );
    assert_eq!(
        world.leaders_seen(),
        elections,
        "one voter of three is left"
    );
    world.connect(leader);
    assert!(append(world, "x"));
    assert!(!world.is_up(voter));
}

#[test]
fn a_wiped_voter_that_votes_again_cannot_elect_a_second_leader() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let (leader, voter) = election_without_third(&mut world);
        wipe(&mut world, voter);
        elects_nobody(&mut world, leader, voter, |refusal| {
            matches!(refusal, Refusal::OtherNode { .. })
        });
    }
}

/// The same with the leader there for a while: catching up with its log does not give back a vote.
#[test]
fn a_wiped_voter_that_catches_up_and_votes_again_cannot_elect_a_second_leader() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let (leader, voter) = election_without_third(&mut world);
        let [_, third] = others(leader);
        let third = if third == voter {
            others(leader)[0]
        } else {
            third
        };
        world.connect(leader);
        world.isolate(third);
        wipe(&mut world, voter);
        world.run_for(SECOND);
        world.connect(third);
        world.isolate(leader);
        elects_nobody(&mut world, leader, voter, |refusal| {
            matches!(refusal, Refusal::OtherNode { .. })
        });
    }
}

fn wipe(world: &mut World<Kv>, id: NodeId) {
    world.cut_power(id);
    world.empty_disk(id);
    world.start(id);
}

#[test]
fn a_voter_that_was_set_back_cannot_elect_a_second_leader() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let ids = [1, 2, 3].map(NodeId);
        let backups = ids.map(|id| world.disk(id).fork());
        for id in ids.into_iter().chain(ids) {
            world.cut_power(id);
            world.start(id);
            world.run_for(ELECTION);
        }
        let (leader, voter) = election_without_third(&mut world);
        world.cut_power(voter);
        let backup = backups[voter.0 as usize - 1].fork();
        world.set_back_disk(voter, backup);
        world.start(voter);
        elects_nobody(&mut world, leader, voter, |refusal| {
            matches!(refusal, Refusal::SetBack { .. })
        });
    }
}

/// It shows no lower counter then: what it drew when it was started is not what the others remember.
#[test]
fn a_voter_that_was_set_back_and_started_as_often_again_cannot_elect_a_second_leader() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let backups = [1, 2, 3].map(|id| world.disk(NodeId(id)).fork());
        for id in [1, 2, 3].map(NodeId) {
            world.cut_power(id);
            world.start(id);
            world.run_for(ELECTION);
        }
        let (leader, voter) = election_without_third(&mut world);
        let boot = |world: &World<Kv>| world.node(voter).unwrap().storage().boot();
        let before = boot(&world);
        world.cut_power(voter);
        let backup = backups[voter.0 as usize - 1].fork();
        world.set_back_disk(voter, backup);
        world.start(voter);
        while boot(&world) < before + seed % 3 {
            world.kill(voter);
            world.start(voter);
        }
        elects_nobody(&mut world, leader, voter, |refusal| {
            matches!(refusal, Refusal::OtherStart { .. })
        });
    }
}

/// Two of three do not reach each other when one of them is started for the last time.
#[test]
fn a_voter_that_was_set_back_is_refused_by_a_node_that_has_only_heard_of_its_last_start() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let between = world.leader().unwrap();
        let [voter, third] = others(between);
        let backup = world.disk(voter).fork();
        world.cut(voter, third);
        world.cut(third, voter);
        world.cut_power(voter);
        world.start(voter);
        world.run_for(ELECTION);
        world.heal_links();
        world.isolate(between);
        world.cut_power(voter);
        world.set_back_disk(voter, backup);
        world.start(voter);
        elects_nobody(&mut world, between, voter, |refusal| {
            matches!(refusal, Refusal::OtherStart { .. })
        });
    }
}

/// Its directory came from another cluster of the same name, in which it had the same number.
#[test]
fn a_stranger_under_a_members_number_is_refused_and_ends_nobody_else() {
    for seed in 0..20 {
        let (mut world, other) = (cluster(2 * seed), cluster(2 * seed + 1));
        let leader = world.leader().unwrap();
        let [_, stranger] = others(leader);
        world.cut_power(stranger);
        world.exchange_disk(stranger, other.disk(stranger).fork());
        world.start(stranger);
        world.run_for(ELECTION);
        let ended = world.take_ended();
        let [(id, Error::Refused { refusal, .. })] = &ended[..] else {
            panic!("{ended:?}");
        };
        let Refusal::OtherNode { node, known, found } = refusal else {
            panic!("{refusal}");
        };
        assert_eq!((*id, *node), (stranger, stranger));
        let text = refusal.to_string();
        assert!(text.contains(&format!("{known:032x}")), "{text}");
        assert!(text.contains(&format!("{found:032x}")), "{text}");
        assert!(append(&mut world, "x"));
    }
}

/// A number is given again: its node is removed, emptied, and added anew, while another member is away. That one still knows the old
/// node by the number when it comes back, and has it from nobody yet that there is a new one.
#[test]
fn a_node_that_was_added_anew_under_its_number_is_not_ended_by_a_member_that_was_away() {
    for seed in 0..20 {
        let mut world = cluster(seed);
        let again = NodeId(4);
        let [away, _] = others(world.leader().unwrap());
        world.join(again);
        change(&mut world, again, with_learner);
        world.kill(away);
        change(&mut world, again, |members, id, _| members.without(id));
        wipe(&mut world, again);
        world.run_for(SECOND);
        world.take_ended(); // The old one, if it has heard of its end.
        change(&mut world, again, with_learner);
        assert!(append(&mut world, "x"));
        world.start(away);
        world.run_for(ELECTION);
        let ended = world.take_ended();
        assert!(ended.is_empty(), "seed {seed}: {ended:?}");
    }
}

fn with_learner(members: Membership, id: NodeId, uuid: u128) -> Membership {
    let member = Member {
        uuid,
        ..Member::default()
    };
    members.with_learner(id).with_member(id, member)
}

/// Has the leader change the membership in what concerns one node.
fn change(world: &mut World<Kv>, id: NodeId, to: fn(Membership, NodeId, u128) -> Membership) {
    let uuid = world.node(id).unwrap().storage().uuid();
    let leader = world.leader().unwrap();
    world.give(
        leader,
        Input::ChangeMembership {
            change: Box::new(move |members| to(members.clone(), id, uuid)),
            on_change: Box::new(|begun| assert!(begun.is_ok(), "{begun:?}")),
        },
    );
    world.run_for(SECOND);
}
