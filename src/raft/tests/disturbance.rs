//! Pre-vote, check-quorum and leadership transfer: what practice has added to elections (thesis, 3.10, 4.2.3, 6.2, 9.6).

use bytes::Bytes;
use duramen_wal::types::{Index, LogId, NodeId, Term};

use super::{Cluster, id};
use crate::raft::{Envelope, Ignored, Membership, Message, NotLeader, Refused, TransferRefused};

/// Nodes 1 to n, with a leader.
fn undisturbed(nodes: u64) -> (Cluster, u64) {
    let mut cluster = Cluster::undisturbed(nodes);
    let leader = cluster.leader();
    (cluster, leader)
}

fn others(cluster: &Cluster, leader: u64) -> Vec<u64> {
    let ids = cluster.ids().into_iter();
    ids.filter(|node| *node != leader).collect()
}

#[test]
fn a_node_that_was_cut_off_comes_back_with_its_term_and_deposes_nobody() {
    let (mut cluster, leader) = undisturbed(3);
    let cut = others(&cluster, leader)[0];
    let term = cluster.raft(leader).term();
    cluster.connect(cut, false);
    for _ in 0..500 {
        cluster.tick();
    }
    assert_eq!(cluster.raft(cut).term(), term);
    cluster.connect(cut, true);
    for _ in 0..200 {
        cluster.tick();
    }
    assert!(cluster.raft(leader).is_leader());
    assert_eq!(cluster.raft(cut).leader(), Some(NodeId(leader)));
    assert_eq!(cluster.raft(leader).term(), term);
}

#[test]
fn a_leader_that_hears_no_majority_steps_down() {
    let (mut cluster, leader) = undisturbed(3);
    let id = cluster
        .raft(leader)
        .propose(Bytes::from_static(b"lost"))
        .unwrap();
    cluster.connect(leader, false);
    for _ in 0..60 {
        cluster.tick();
    }
    assert!(!cluster.raft(leader).is_leader());
    assert_eq!(cluster.raft(leader).leader(), None);
    let new = others(&cluster, leader)
        .into_iter()
        .find(|node| cluster.raft(*node).is_leader());
    assert!(new.is_some(), "the others have a leader by then");
    assert!(cluster.raft(leader).commit() < id.index);
}

#[test]
fn a_leader_that_hears_a_majority_goes_on() {
    let (mut cluster, leader) = undisturbed(5);
    others(&cluster, leader)[..2]
        .iter()
        .for_each(|node| cluster.crash(*node));
    for _ in 0..500 {
        cluster.tick();
    }
    assert!(cluster.raft(leader).is_leader());
}

#[test]
fn learners_are_no_majority() {
    let (mut cluster, leader) = undisturbed(3);
    cluster.join(4);
    cluster.join(5);
    let target = Membership::of_voters([1, 2, 3].map(NodeId));
    let target = target.with_learner(NodeId(4)).with_learner(NodeId(5));
    cluster.raft(leader).change_membership(target).unwrap();
    cluster.deliver();
    others(&cluster, leader)
        .into_iter()
        .filter(|node| *node < 4)
        .for_each(|node| cluster.crash(node));
    for _ in 0..60 {
        cluster.tick();
    }
    assert!(!cluster.raft(leader).is_leader());
}

fn request_vote(from: u64, to: u64, term: Term, last: LogId, is_transfer: bool) -> Envelope {
    Envelope {
        from: NodeId(from),
        to: NodeId(to),
        term,
        message: Message::RequestVote { last, is_transfer },
    }
}

#[test]
fn who_hears_a_leader_votes_for_nobody_else_and_keeps_its_term() {
    let (mut cluster, leader) = undisturbed(3);
    let [follower, other] = others(&cluster, leader)[..] else {
        panic!("three nodes");
    };
    let (term, last) = (cluster.raft(follower).term(), cluster.raft(follower).last());
    let later = Term(term.0 + 5);
    for to in [leader, follower] {
        let refused = cluster
            .raft(to)
            .step(request_vote(other, to, later, last, false));
        assert_eq!(refused, Err(Ignored::HasLeader));
        assert_eq!(cluster.raft(to).term(), term);
        assert_eq!(cluster.raft(to).ignored().has_leader, 1);
    }
    // But for the leader's own wish.
    cluster
        .raft(follower)
        .step(request_vote(other, follower, later, last, true))
        .unwrap();
    assert_eq!(cluster.raft(follower).term(), later);
}

#[test]
fn who_has_heard_no_leader_for_long_votes() {
    let (mut cluster, leader) = undisturbed(3);
    let [follower, other] = others(&cluster, leader)[..] else {
        panic!("three nodes");
    };
    for _ in 0..25 {
        cluster.raft(follower).tick();
    }
    let (term, last) = (cluster.raft(follower).term(), cluster.raft(follower).last());
    let request = request_vote(other, follower, Term(term.0 + 1), last, false);
    cluster.raft(follower).step(request).unwrap();
    cluster.settle(follower);
    let votes = cluster.take_messages();
    let granted = |envelope: &Envelope| envelope.message == Message::Vote { granted: true };
    assert!(votes.iter().any(granted));
}

#[test]
fn a_pre_vote_changes_nothing_and_goes_to_logs_that_are_at_least_as_up_to_date() {
    let mut cluster = Cluster::undisturbed(3);
    let leader = cluster.leader();
    cluster.propose(leader, "a");
    cluster.heartbeat(leader);
    cluster.crash(leader);
    let [node, other] = others(&cluster, leader)[..] else {
        panic!("three nodes");
    };
    for _ in 0..25 {
        cluster.raft(node).tick();
    }
    cluster.settle(node);
    cluster.take_messages();
    let (term, last) = (cluster.raft(node).term(), cluster.raft(node).last());
    for (asked, expected) in [(last, true), (id(last.term.0, last.index.0 - 1), false)] {
        let pre_vote = Envelope {
            from: NodeId(other),
            to: NodeId(node),
            term,
            message: Message::PreVote { last: asked },
        };
        for _ in 0..2 {
            cluster.raft(node).step(pre_vote.clone()).unwrap();
            let ready = cluster.raft(node).ready();
            assert_eq!(ready.write, None);
            let answers: Vec<_> = ready.send_when_durable.iter().map(|e| &e.message).collect();
            assert_eq!(answers, [&Message::PreVoted { granted: expected }]);
        }
    }
    assert_eq!(cluster.raft(node).term(), term);
}

#[test]
fn a_node_with_a_later_term_is_told_of_by_its_answer_and_joins_again() {
    let (mut cluster, leader) = undisturbed(3);
    let [strange, _] = others(&cluster, leader)[..] else {
        panic!("three nodes");
    };
    // As if it had campaigned without asking.
    let last = cluster.raft(strange).last();
    let term = Term(cluster.raft(strange).term().0 + 7);
    let request = request_vote(leader, strange, term, last, true);
    cluster.raft(strange).step(request).unwrap();
    for _ in 0..200 {
        cluster.tick();
    }
    let leader = cluster.leader();
    cluster.heartbeat(leader);
    let terms: Vec<Term> = cluster
        .ids()
        .into_iter()
        .map(|node| cluster.raft(node).term())
        .collect();
    assert!(
        terms
            .iter()
            .all(|found| *found == terms[0] && *found >= term),
        "{terms:?}"
    );
}

#[test]
fn the_leadership_is_handed_over_at_once_to_a_complete_log() {
    let (mut cluster, leader) = undisturbed(3);
    let to = others(&cluster, leader)[0];
    cluster.connect(to, false);
    cluster.propose(leader, "a");
    cluster.connect(to, true);
    cluster
        .raft(leader)
        .transfer_leadership(NodeId(to))
        .unwrap();
    let refused = cluster.raft(leader).propose(Bytes::from_static(b"b"));
    assert_eq!(refused, Err(Refused::HandingOver(NodeId(to))));
    // A heartbeat finds what it lacks.
    cluster.heartbeat(leader);
    cluster.heartbeat(leader);
    assert!(cluster.raft(to).is_leader());
    assert!(!cluster.raft(leader).is_leader());
    cluster.propose(to, "c");
    cluster.heartbeat(to);
    assert_eq!(cluster.applied(leader), ["a", "c"]);
}

#[test]
fn a_transfer_that_does_not_succeed_is_given_up() {
    let (mut cluster, leader) = undisturbed(3);
    let to = others(&cluster, leader)[0];
    cluster.crash(to);
    cluster
        .raft(leader)
        .transfer_leadership(NodeId(to))
        .unwrap();
    for _ in 0..25 {
        cluster.tick();
    }
    let id = cluster.propose(leader, "a");
    assert!(cluster.raft(leader).is_leader());
    assert!(cluster.raft(leader).commit() >= id.index && id.index > Index(1));
}

#[test]
fn to_ask_again_for_a_transfer_gives_it_no_more_time() {
    let (mut cluster, leader) = undisturbed(3);
    let to = others(&cluster, leader)[0];
    cluster.crash(to);
    cluster
        .raft(leader)
        .transfer_leadership(NodeId(to))
        .unwrap();
    for ticks in 0..25 {
        if ticks == 20 {
            cluster
                .raft(leader)
                .transfer_leadership(NodeId(to))
                .unwrap();
        }
        cluster.tick();
    }
    cluster.propose(leader, "a");
}

#[test]
fn only_a_leader_hands_over_and_only_to_a_voter() {
    let (mut cluster, leader) = undisturbed(3);
    let follower = others(&cluster, leader)[0];
    let refused = cluster.raft(follower).transfer_leadership(NodeId(leader));
    let leader_known = Some(NodeId(leader));
    assert_eq!(
        refused,
        Err(TransferRefused::NotLeader(NotLeader {
            leader: leader_known
        }))
    );
    let refused = cluster.raft(leader).transfer_leadership(NodeId(9));
    assert_eq!(refused, Err(TransferRefused::NoVoter(NodeId(9))));
    cluster
        .raft(leader)
        .transfer_leadership(NodeId(leader))
        .unwrap();
    cluster
        .raft(leader)
        .propose(Bytes::from_static(b"a"))
        .unwrap();
}

#[test]
fn who_is_not_the_leader_makes_nobody_campaign() {
    let (mut cluster, leader) = undisturbed(3);
    let [follower, other] = others(&cluster, leader)[..] else {
        panic!("three nodes");
    };
    let told = Envelope {
        from: NodeId(other),
        to: NodeId(follower),
        term: cluster.raft(follower).term(),
        message: Message::TimeoutNow,
    };
    let before = cluster.raft(follower).ignored().stale;
    assert_eq!(cluster.raft(follower).step(told), Err(Ignored::Stale));
    assert_eq!(cluster.raft(follower).ignored().stale, before + 1);
}

/// A learner never campaigns, however long it hears nobody.
#[test]
fn the_election_timer_does_not_run_over() {
    let mut cluster = Cluster::undisturbed(3);
    cluster.join(4);
    cluster.raft(4).election_elapsed = u32::MAX;
    cluster.raft(4).tick();
    assert!(!cluster.raft(4).hears_leader());
}
