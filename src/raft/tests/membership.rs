//! Section 6: changes of the membership.

use bytes::Bytes;
use duramen_wal::types::{Index, NodeId};

use super::{Cluster, id};
use crate::raft::{BadMembership, ChangeRefused, Member, Membership};

fn voters(ids: &[u64]) -> Membership {
    Membership::of_voters(ids.iter().copied().map(NodeId))
}

fn is_settled(cluster: &mut Cluster, node: u64, voters: &[u64]) -> bool {
    let raft = cluster.raft(node);
    let found: Vec<u64> = raft.membership().voters().map(|id| id.0).collect();
    !raft.membership().is_joint() && found == voters
}

/// A cluster of three with an elected node 1, and these learners.
fn led_by_1(learners: &[u64]) -> Cluster {
    let mut cluster = Cluster::new(3);
    learners.iter().for_each(|node| cluster.join(*node));
    cluster.elect(1);
    cluster.learn(1, learners);
    cluster
}

#[test]
fn a_learner_receives_the_log_and_is_not_counted() {
    let mut cluster = led_by_1(&[4]);
    cluster.propose(1, "a");
    cluster.heartbeat(1);
    assert_eq!(cluster.applied(4), ["a"]);
    // Leader and learner are not a majority of three.
    cluster.crash(2);
    cluster.crash(3);
    let commit = cluster.raft(1).commit();
    cluster.propose(1, "b");
    assert_eq!(cluster.raft(1).commit(), commit);
    assert_eq!(cluster.log(4).last().unwrap().payload, "b");
}

#[test]
fn a_learner_does_not_campaign() {
    let mut cluster = led_by_1(&[4]);
    let term = cluster.raft(4).term();
    for _ in 0..500 {
        cluster.raft(4).tick();
    }
    assert_eq!(cluster.raft(4).term(), term);
}

#[test]
fn voters_are_changed_through_a_joint_membership() {
    let mut cluster = led_by_1(&[4, 5]);
    cluster
        .raft(1)
        .change_membership(voters(&[1, 4, 5]))
        .unwrap();
    assert!(cluster.raft(1).membership().is_joint());
    cluster.deliver();
    cluster.heartbeat(1);
    for node in [1, 4, 5] {
        assert!(is_settled(&mut cluster, node, &[1, 4, 5]), "node {node}");
    }
    // The old nodes are not needed any more.
    cluster.crash(2);
    cluster.crash(3);
    cluster.propose(1, "a");
    cluster.heartbeat(1);
    assert_eq!(cluster.applied(4), ["a"]);
}

#[test]
fn in_a_joint_membership_both_majorities_are_needed() {
    for (cut, commits) in [(&[2, 3][..], false), (&[4, 5], false), (&[2, 4], true)] {
        let mut cluster = led_by_1(&[4, 5]);
        cut.iter().for_each(|node| cluster.crash(*node));
        let joint = cluster
            .raft(1)
            .change_membership(voters(&[1, 4, 5]))
            .unwrap();
        cluster.deliver();
        assert_eq!(cluster.raft(1).commit() >= joint.index, commits, "{cut:?}");
        assert_eq!(is_settled(&mut cluster, 1, &[1, 4, 5]), commits, "{cut:?}");
    }
}

#[test]
fn a_leader_that_is_removed_leads_until_that_is_committed_and_steps_down() {
    let mut cluster = led_by_1(&[]);
    cluster.raft(1).change_membership(voters(&[2, 3])).unwrap();
    assert!(cluster.raft(1).is_leader());
    cluster.deliver();
    assert!(!cluster.raft(1).is_leader());
    let term = cluster.raft(1).term();
    // Nobody leads. The removed one never campaigns.
    for _ in 0..500 {
        cluster.raft(1).tick();
    }
    assert_eq!(cluster.raft(1).term(), term);
    let leader = cluster.leader();
    assert_ne!(leader, 1);
    assert!(is_settled(&mut cluster, leader, &[2, 3]));
}

#[test]
fn a_new_leader_ends_a_change_that_the_old_one_began() {
    let mut cluster = led_by_1(&[4]);
    cluster
        .raft(1)
        .change_membership(voters(&[1, 2, 4]))
        .unwrap();
    // The joint entry reaches all, and the leader dies before it sends the second one.
    cluster.settle(1);
    let messages = cluster.take_messages();
    cluster.crash(1);
    for envelope in messages {
        cluster.deliver_one(envelope);
    }
    assert!(cluster.raft(2).membership().is_joint());
    cluster.elect(2);
    cluster.heartbeat(2);
    assert!(is_settled(&mut cluster, 2, &[1, 2, 4]));
}

/// Thesis, 4.2.2: the old leader holds the only copy of the entry that removes it. Its log is longer than those of the others,
/// who need its vote; so it must be elected once more.
#[test]
fn a_node_that_its_own_log_removes_campaigns_as_long_as_that_may_not_be_committed() {
    let mut cluster = Cluster::new(2);
    cluster.join(3);
    cluster.elect(1);
    cluster.learn(1, &[3]);
    cluster.raft(1).change_membership(voters(&[3])).unwrap();
    // The joint entry is committed, and what follows it is lost.
    for _ in 0..20 {
        cluster.settle(1);
        if !cluster.raft(1).membership().is_joint() {
            break;
        }
        for envelope in cluster.take_messages() {
            cluster.deliver_one(envelope);
        }
    }
    assert!(is_settled(&mut cluster, 1, &[3]));
    cluster.take_messages();
    cluster.crash(1);
    cluster.start(1);
    assert!(cluster.raft(2).membership().is_joint() && cluster.raft(3).membership().is_joint());
    let mut ticks = 0;
    while !(cluster.raft(3).is_leader() && is_settled(&mut cluster, 3, &[3])) {
        cluster.tick();
        ticks += 1;
        assert!(ticks < 1000, "no leader");
    }
}

#[test]
fn a_membership_is_taken_back_with_its_entry() {
    let mut cluster = led_by_1(&[4, 5]);
    cluster.connect(1, false);
    cluster
        .raft(1)
        .change_membership(voters(&[1, 4, 5]))
        .unwrap();
    cluster.deliver();
    assert!(cluster.raft(1).membership().is_joint());
    cluster.elect(2);
    cluster.propose(2, "a");
    cluster.connect(1, true);
    cluster.heartbeat(2);
    cluster.heartbeat(2);
    assert!(is_settled(&mut cluster, 1, &[1, 2, 3]));
    assert_eq!(cluster.log(1).last().unwrap().payload, "a");
}

#[test]
fn a_restart_finds_the_membership_in_the_log() {
    let mut cluster = led_by_1(&[4]);
    cluster
        .raft(1)
        .change_membership(voters(&[1, 2, 4]))
        .unwrap();
    cluster.deliver();
    cluster.heartbeat(1);
    cluster.crash(4);
    cluster.start(4);
    assert!(is_settled(&mut cluster, 4, &[1, 2, 4]));
}

#[test]
fn a_vote_is_given_to_whoever_asks_for_it_also_to_somebody_unknown() {
    // The voter has not received the entry that makes node 4 one.
    let mut cluster = led_by_1(&[4]);
    cluster.connect(3, false);
    cluster
        .raft(1)
        .change_membership(voters(&[1, 2, 3, 4]))
        .unwrap();
    cluster.deliver();
    cluster.connect(3, true);
    cluster.crash(1);
    cluster.elect(4);
    assert!(is_settled(&mut cluster, 4, &[1, 2, 3, 4]));
}

#[test]
fn a_change_that_breaks_the_rules_is_refused() {
    let mut cluster = Cluster::new(3);
    let change = |cluster: &mut Cluster, node, target| cluster.raft(node).change_membership(target);
    let refused = change(&mut cluster, 1, voters(&[1]));
    assert!(matches!(refused, Err(ChangeRefused::NotLeader(_))));
    cluster.elect(1);
    for (target, bad) in [
        (voters(&[]), BadMembership::NoVoter),
        (
            voters(&[1, 2]).with_learner(NodeId(2)),
            BadMembership::VoterAndLearner(NodeId(2)),
        ),
    ] {
        assert_eq!(
            change(&mut cluster, 1, target),
            Err(ChangeRefused::Bad(bad))
        );
    }
    cluster.crash(2);
    cluster.crash(3);
    let first = change(&mut cluster, 1, voters(&[1, 2])).unwrap();
    assert_eq!(
        change(&mut cluster, 1, voters(&[1, 3])),
        Err(ChangeRefused::InProgress { index: first.index })
    );
    assert_eq!(first, id(1, 2));
}

#[test]
fn a_membership_that_would_not_be_read_back_is_refused() {
    let mut cluster = led_by_1(&[]);
    let verbose = Member {
        peer_address: "x".repeat(1 << 20),
        ..Member::default()
    };
    let target = voters(&[1, 2, 3]).with_member(NodeId(2), verbose);
    let refused = cluster.raft(1).change_membership(target);
    assert_eq!(refused, Err(ChangeRefused::Bad(BadMembership::TooLarge)));
}

#[test]
fn what_is_known_of_a_member_stays_known_if_a_change_does_not_say_it_again() {
    for target in [
        voters(&[1, 2, 3]).with_learner(NodeId(4)),
        voters(&[1, 2, 4]),
    ] {
        let mut cluster = led_by_1(&[4]);
        let member = Member {
            uuid: 7,
            ..Member::default()
        };
        cluster.change(1, |membership| {
            membership.with_member(NodeId(2), member.clone())
        });
        cluster.raft(1).change_membership(target).unwrap();
        cluster.deliver();
        cluster.heartbeat(1);
        let membership = cluster.raft(1).membership();
        assert_eq!(membership.member(NodeId(2)), Some(&member));
    }
}

/// The new leader's log would lack the entry, or it would be kept from being elected by who has it.
#[test]
fn a_leader_that_hands_over_changes_nothing() {
    let mut cluster = led_by_1(&[]);
    cluster.raft(1).transfer_leadership(NodeId(2)).unwrap();
    let refused = cluster.raft(1).change_membership(voters(&[1, 2]));
    assert_eq!(refused, Err(ChangeRefused::HandingOver(NodeId(2))));
}

#[test]
fn a_leader_that_has_committed_nothing_changes_nothing() {
    let mut cluster = led_by_1(&[]);
    // Node 2 is elected, and cut off before its blank entry is anywhere.
    cluster.connect(1, false);
    let term = cluster.raft(2).term();
    while cluster.raft(2).term() == term {
        cluster.raft(2).tick();
    }
    cluster.settle(2);
    for envelope in cluster.take_messages() {
        cluster.deliver_one(envelope);
    }
    for vote in cluster.take_messages() {
        let _ = cluster.raft(2).step(vote);
    }
    assert!(cluster.raft(2).is_leader());
    let refused = cluster.raft(2).change_membership(voters(&[2, 3]));
    assert_eq!(refused, Err(ChangeRefused::TooEarly));
    assert!(
        cluster
            .raft(2)
            .propose(Bytes::from_static(b"a"))
            .unwrap()
            .index
            > Index(1)
    );
}

#[test]
fn who_is_no_learner_gets_no_vote() {
    let mut cluster = led_by_1(&[4]);
    cluster.join(5);
    let target = cluster.raft(1).membership().clone().with_voter(NodeId(5));
    let refused = cluster.raft(1).change_membership(target);
    assert_eq!(refused, Err(ChangeRefused::NotALearner(NodeId(5))));
    // Nor does a voter that was removed get it back in one step.
    cluster.change(1, |membership| membership.without(NodeId(3)));
    let target = cluster.raft(1).membership().clone().with_voter(NodeId(3));
    let refused = cluster.raft(1).change_membership(target);
    assert_eq!(refused, Err(ChangeRefused::NotALearner(NodeId(3))));
}

#[test]
fn a_learner_that_is_behind_gets_no_vote() {
    let mut cluster = led_by_1(&[4]);
    let matched = cluster.raft(1).last().index;
    cluster.connect(4, false);
    let window = cluster.raft(1).config.window_entries;
    for _ in 0..window {
        cluster.propose(1, "a");
    }
    let promote = |cluster: &mut Cluster| {
        let target = cluster.raft(1).membership().clone().with_voter(NodeId(4));
        cluster.raft(1).change_membership(target)
    };
    let learner = NodeId(4);
    cluster.propose(1, "a");
    let behind = Err(ChangeRefused::Behind { learner, matched });
    assert_eq!(promote(&mut cluster), behind);
    cluster.connect(4, true);
    cluster.heartbeat(1);
    cluster.heartbeat(1);
    // It has everything, and has not answered for an election timeout.
    let matched = cluster.raft(1).last().index;
    cluster.connect(4, false);
    (0..6).for_each(|_| cluster.heartbeat(1));
    let behind = Err(ChangeRefused::Behind { learner, matched });
    assert_eq!(promote(&mut cluster), behind);
    cluster.connect(4, true);
    cluster.heartbeat(1);
    assert!(promote(&mut cluster).is_ok());
}

#[test]
fn a_voter_is_replaced_in_one_change() {
    let mut cluster = led_by_1(&[4]);
    let member = Member {
        uuid: 4,
        ..Member::default()
    };
    cluster.change(1, |membership| {
        membership.with_member(NodeId(4), member.clone())
    });
    cluster.change(1, |membership| {
        membership.without(NodeId(3)).with_voter(NodeId(4))
    });
    assert!(is_settled(&mut cluster, 1, &[1, 2, 4]));
    let membership = cluster.raft(1).membership();
    assert_eq!(membership.learners().count(), 0);
    assert_eq!(membership.member(NodeId(4)), Some(&member));
}
