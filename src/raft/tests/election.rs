//! Section 5.2 and 5.4.1.

use bytes::Bytes;
use duramen_wal::types::{HardState, Index, NodeId, Term};

use super::{Cluster, as_in_the_paper, entry, id};
use crate::raft::{
    AppendOutcome, Config, Envelope, Ignored, IgnoredCounts, Message, NotLeader, Raft, Round,
};

fn request_vote(from: u64, term: u64, last: duramen_wal::types::LogId) -> Envelope {
    envelope(
        from,
        term,
        Message::RequestVote {
            last,
            is_transfer: false,
        },
    )
}

fn envelope(from: u64, term: u64, message: Message) -> Envelope {
    Envelope {
        from: NodeId(from),
        to: NodeId(1),
        term: Term(term),
        message,
    }
}

fn node_1_of_3(hard_state: HardState, log: Vec<duramen_wal::types::Entry>) -> Raft {
    Raft::new(as_in_the_paper(1, 3), hard_state, log)
}

/// Steps a message and returns the one reply, which must wait until the write is durable.
fn reply(raft: &mut Raft, message: Envelope) -> Message {
    raft.step(message).unwrap();
    let mut ready = raft.ready();
    assert!(ready.send_now.is_empty());
    if let Some(write) = ready.write {
        raft.durable(write.id);
    }
    assert_eq!(ready.send_when_durable.len(), 1);
    ready.send_when_durable.remove(0).message
}

#[test]
fn three_nodes_elect_one_leader_and_keep_it() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let term = cluster.raft(leader).term();
    for _ in 0..500 {
        cluster.tick();
    }
    assert_eq!(cluster.leader(), leader);
    assert_eq!(cluster.raft(leader).term(), term);
    for node in cluster.ids() {
        assert_eq!(cluster.raft(node).leader(), Some(NodeId(leader)));
    }
}

#[test]
fn a_new_leader_is_elected_when_the_old_one_crashes() {
    let mut cluster = Cluster::new(3);
    let old = cluster.leader();
    cluster.crash(old);
    let new = cluster.leader();
    assert_ne!(new, old);
    cluster.start(old);
    cluster.heartbeat(new);
    assert_eq!(cluster.raft(old).leader(), Some(NodeId(new)));
}

#[test]
fn one_node_of_three_is_never_elected() {
    let mut cluster = Cluster::new(3);
    cluster.crash(2);
    cluster.crash(3);
    for _ in 0..500 {
        cluster.tick();
    }
    assert!(!cluster.raft(1).is_leader());
}

#[test]
fn a_single_node_leads_only_when_its_vote_is_durable_and_commits_only_what_is() {
    let mut raft = Raft::new(
        Config::new(NodeId(1), [NodeId(1)]),
        HardState::default(),
        Vec::new(),
    );
    while raft.term() == Term(0) {
        raft.tick();
    }
    let vote = raft.ready().write.unwrap();
    assert_eq!(
        vote.hard_state,
        Some(HardState {
            term: Term(1),
            voted_for: Some(NodeId(1)),
            ..HardState::default()
        })
    );
    assert!(!raft.is_leader());
    raft.durable(vote.id);
    assert!(raft.is_leader());
    let blank = raft.ready().write.unwrap();
    assert_eq!(raft.commit(), Index(0));
    raft.durable(blank.id);
    assert_eq!(raft.commit(), Index(1));
}

#[test]
fn requests_for_votes_leave_only_when_the_own_vote_is_durable() {
    let mut raft = node_1_of_3(HardState::default(), Vec::new());
    while raft.term() == Term(0) {
        raft.tick();
    }
    let ready = raft.ready();
    assert!(ready.write.is_some());
    assert!(ready.send_now.is_empty());
    assert_eq!(ready.send_when_durable.len(), 2);
}

#[test]
fn a_vote_of_others_does_not_elect_before_the_own_one_is_durable() {
    let mut raft = node_1_of_3(HardState::default(), Vec::new());
    while raft.term() == Term(0) {
        raft.tick();
    }
    let write = raft.ready().write.unwrap();
    for peer in [2, 3] {
        raft.step(envelope(peer, 1, Message::Vote { granted: true }))
            .unwrap();
    }
    assert!(!raft.is_leader());
    raft.durable(write.id);
    assert!(raft.is_leader());
}

#[test]
fn an_earlier_write_does_not_make_the_own_vote_durable() {
    let mut raft = node_1_of_3(HardState::default(), Vec::new());
    while raft.term() == Term(0) {
        raft.tick();
    }
    let first = raft.ready().write.unwrap();
    // Another one leads, and hands over.
    let heartbeat = Message::Append {
        prev: id(0, 0),
        entries: Vec::new(),
        commit: Index(0),
        round: Round(0),
    };
    raft.step(envelope(2, 2, heartbeat)).unwrap();
    raft.step(envelope(2, 2, Message::TimeoutNow)).unwrap();
    assert_eq!(raft.term(), Term(3));
    let second = raft.ready().write.unwrap();
    raft.step(envelope(2, 3, Message::Vote { granted: true }))
        .unwrap();
    raft.durable(first.id);
    assert!(!raft.is_leader(), "the vote of term 3 is not durable");
    raft.durable(second.id);
    assert!(raft.is_leader());
}

#[test]
fn one_vote_per_term_first_come_first_served() {
    let mut raft = node_1_of_3(HardState::default(), Vec::new());
    assert_eq!(
        reply(&mut raft, request_vote(2, 1, id(0, 0))),
        Message::Vote { granted: true }
    );
    assert_eq!(
        reply(&mut raft, request_vote(3, 1, id(0, 0))),
        Message::Vote { granted: false }
    );
    assert_eq!(
        reply(&mut raft, request_vote(2, 1, id(0, 0))),
        Message::Vote { granted: true }
    );
    assert_eq!(
        reply(&mut raft, request_vote(3, 2, id(0, 0))),
        Message::Vote { granted: true }
    );
}

#[test]
fn who_gives_a_vote_waits_for_the_winner_and_who_refuses_one_does_not() {
    for (granted, term) in [(true, 1), (false, 2)] {
        let log = vec![entry(1, 1, "a")];
        let mut raft = node_1_of_3(
            HardState {
                term: Term(1),
                ..HardState::default()
            },
            log,
        );
        let last = if granted { id(1, 1) } else { id(0, 0) };
        // More ticks than any timeout, none of them in a row that is as long as the shortest.
        for _ in 0..4 {
            let vote = reply(&mut raft, request_vote(2, 1, last));
            assert_eq!(vote, Message::Vote { granted });
            for _ in 0..20 {
                raft.tick();
            }
            if raft.term() > Term(1) {
                break;
            }
        }
        assert_eq!(raft.term(), Term(term), "granted: {granted}");
    }
}

#[test]
fn a_vote_survives_a_restart() {
    let voted = HardState {
        term: Term(4),
        voted_for: Some(NodeId(2)),
        ..HardState::default()
    };
    let mut raft = node_1_of_3(voted, Vec::new());
    assert_eq!(
        reply(&mut raft, request_vote(3, 4, id(0, 0))),
        Message::Vote { granted: false }
    );
}

#[test]
fn votes_go_to_logs_that_are_at_least_as_up_to_date() {
    // 5.4.1: the later last term wins; with equal terms the longer log.
    let log = || vec![entry(1, 1, "a"), entry(2, 2, "b")];
    for (last, granted) in [
        (id(2, 2), true),
        (id(2, 3), true),
        (id(3, 1), true),
        (id(2, 1), false),
        (id(1, 9), false),
        (id(0, 0), false),
    ] {
        let mut raft = node_1_of_3(
            HardState {
                term: Term(2),
                voted_for: None,
                ..HardState::default()
            },
            log(),
        );
        let message = reply(&mut raft, request_vote(2, 5, last));
        assert_eq!(message, Message::Vote { granted }, "for {last}");
        assert_eq!(
            raft.term(),
            Term(5),
            "a newer term is adopted even when the vote is refused"
        );
    }
}

#[test]
fn a_same_term_step_down_keeps_the_vote() {
    let mut raft = node_1_of_3(HardState::default(), Vec::new());
    while raft.term() == Term(0) {
        raft.tick();
    }
    let write = raft.ready().write.unwrap();
    raft.durable(write.id);
    // Node 2 has won term 1.
    let heartbeat = Message::Append {
        prev: id(0, 0),
        entries: vec![],
        commit: Index(0),
        round: Round(0),
    };
    raft.step(envelope(2, 1, heartbeat)).unwrap();
    let _ = raft.ready();
    assert_eq!(
        reply(&mut raft, request_vote(3, 1, id(0, 0))),
        Message::Vote { granted: false }
    );
}

#[test]
fn late_votes_change_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let term = cluster.raft(1).term();
    let vote = envelope(3, term.0, Message::Vote { granted: true });
    assert_eq!(cluster.raft(1).step(vote), Err(Ignored::Stale));
    let old = envelope(3, term.0 - 1, Message::Vote { granted: true });
    assert_eq!(cluster.raft(1).step(old), Err(Ignored::Stale));
    assert!(cluster.raft(1).is_leader());
}

#[test]
fn an_old_leader_is_told_the_new_term() {
    let mut raft = node_1_of_3(
        HardState {
            term: Term(7),
            voted_for: None,
            ..HardState::default()
        },
        Vec::new(),
    );
    let heartbeat = Message::Append {
        prev: id(0, 0),
        entries: vec![],
        commit: Index(0),
        round: Round(3),
    };
    assert_eq!(raft.step(envelope(2, 6, heartbeat)), Err(Ignored::Stale));
    let answer = raft.ready().send_when_durable.remove(0);
    assert_eq!(answer.term, Term(7));
    assert!(matches!(
        answer.message,
        Message::AppendReply {
            outcome: AppendOutcome::Conflict { .. },
            ..
        }
    ));
}

#[test]
fn echoes_and_strays_are_ignored() {
    let mut raft = node_1_of_3(HardState::default(), Vec::new());
    assert_eq!(
        raft.step(request_vote(1, 5, id(0, 0))),
        Err(Ignored::Stranger)
    );
    let mut stray = request_vote(2, 5, id(0, 0));
    stray.to = NodeId(3);
    assert_eq!(raft.step(stray), Err(Ignored::NotForMe));
    assert_eq!(raft.term(), Term(0));
    assert!(raft.ready().is_empty());
    let expected = IgnoredCounts {
        stranger: 1,
        not_for_me: 1,
        ..IgnoredCounts::default()
    };
    assert_eq!(raft.ignored(), expected);
}

/// It would be the last one: there is no term for another election.
#[test]
fn a_term_that_no_cluster_reaches_does_not_end_elections() {
    const FAR: u64 = u64::MAX / 2;
    for (lie, believed) in [(FAR, true), (FAR + 1, false), (u64::MAX, false)] {
        let mut cluster = Cluster::new(3);
        let leader = cluster.leader();
        cluster.propose(leader, "a");
        let mut request = request_vote(leader % 3 + 1, lie, id(0, 0));
        request.to = NodeId(leader);
        let expected = if believed {
            Ok(())
        } else {
            Err(Ignored::Nonsense)
        };
        let before = cluster.raft(leader).ignored().nonsense;
        assert_eq!(cluster.raft(leader).step(request), expected);
        let raft = cluster.raft(leader);
        assert_eq!(raft.term(), Term(FAR));
        assert_eq!(raft.ignored().nonsense - before, u64::from(!believed));
        // One node is away while elections go on, and finds back; each in its turn.
        for away in cluster.ids() {
            cluster.crash(away);
            let leader = cluster.leader();
            cluster.propose(leader, "b");
            cluster.start(away);
        }
        let leader = cluster.leader();
        cluster.heartbeat(leader);
        cluster.heartbeat(leader);
        for node in cluster.ids() {
            assert!(cluster.raft(node).term() > Term(FAR));
            assert_eq!(cluster.applied(node).len(), 4, "node {node}, {lie}");
        }
    }
}

#[test]
fn the_last_term_of_all_is_no_panic() {
    let last = HardState {
        term: Term(u64::MAX),
        ..HardState::default()
    };
    let mut raft = node_1_of_3(last, Vec::new());
    raft.step(request_vote(2, u64::MAX, id(0, 0))).unwrap();
    for _ in 0..100 {
        raft.tick();
    }
    assert_eq!(raft.term(), Term(u64::MAX));
    assert!(!raft.is_leader());
}

#[test]
fn a_proposal_at_a_follower_names_the_leader() {
    let mut cluster = Cluster::new(3);
    cluster.elect(2);
    let refused = cluster.raft(1).propose(Bytes::from_static(b"x"));
    assert_eq!(
        refused,
        Err(NotLeader {
            leader: Some(NodeId(2))
        }
        .into())
    );
}

/// It would be elected in a term before that of its last entry.
#[test]
#[should_panic(expected = "is of a term after 1")]
fn a_node_whose_term_was_lost_does_not_start() {
    let hard_state = HardState {
        term: Term(1),
        ..HardState::default()
    };
    node_1_of_3(hard_state, vec![entry(2, 1, "a")]);
}
