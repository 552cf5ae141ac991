//! Claims of the paper that the other tests do not name. `PAPER.md` says which test holds the core to which claim.

use bytes::Bytes;
use duramen_wal::types::{Entry, HardState, Index, NodeId, Term};

use super::{Cluster, as_in_the_paper, entry, id};
use crate::raft::{AppendOutcome, Envelope, Ignored, Message, Raft, Ready, Role, Round};

fn node_1_of_3(term: u64, log: Vec<Entry>) -> Raft {
    let hard_state = HardState {
        term: Term(term),
        ..HardState::default()
    };
    Raft::new(as_in_the_paper(1, 3), hard_state, log)
}

fn from(node: u64, term: u64, message: Message) -> Envelope {
    Envelope {
        from: NodeId(node),
        to: NodeId(1),
        term: Term(term),
        message,
    }
}

fn heartbeat() -> Message {
    append(Vec::new())
}

fn append(entries: Vec<Entry>) -> Message {
    Message::Append {
        prev: id(0, 0),
        entries,
        commit: Index(0),
        round: Round::default(),
    }
}

fn reply(outcome: AppendOutcome) -> Message {
    let round = Round::default();
    Message::AppendReply { outcome, round }
}

fn request_vote() -> Message {
    Message::RequestVote {
        last: id(0, 0),
        is_transfer: false,
    }
}

/// Does what the core asks for, and gives the messages.
fn settle(raft: &mut Raft) -> Vec<Envelope> {
    let mut messages = Vec::new();
    loop {
        let Ready {
            send_now,
            write,
            send_when_durable,
            ..
        } = raft.ready();
        let count = messages.len();
        messages.extend(send_now);
        messages.extend(send_when_durable);
        match write {
            Some(write) => raft.durable(write.id),
            None if count == messages.len() => return messages,
            None => {}
        }
    }
}

fn campaign(raft: &mut Raft) -> Vec<Envelope> {
    let term = raft.term();
    while raft.term() == term {
        raft.tick();
    }
    settle(raft)
}

fn leader(term: u64, log: Vec<Entry>) -> Raft {
    let mut raft = node_1_of_3(term - 1, log);
    campaign(&mut raft);
    raft.step(from(2, term, Message::Vote { granted: true }))
        .unwrap();
    settle(&mut raft);
    assert!(raft.is_leader());
    raft
}

/// 5.1: whoever sees a later term takes it over, and is a follower then.
#[test]
fn a_later_term_in_any_message_makes_a_follower() {
    let messages = || {
        [
            heartbeat(),
            reply(AppendOutcome::Matched(Index(0))),
            request_vote(),
            Message::Vote { granted: true },
            Message::TimeoutNow,
        ]
    };
    for message in messages() {
        let mut candidate = node_1_of_3(4, Vec::new());
        campaign(&mut candidate);
        assert!(matches!(candidate.role, Role::Candidate { .. }));
        for mut raft in [leader(5, Vec::new()), candidate] {
            let _ = raft.step(from(2, 9, message.clone()));
            assert_eq!(raft.term(), Term(9), "{message:?}");
            assert!(matches!(raft.role, Role::Follower), "{message:?}");
            let _ = raft.step(from(2, 8, message.clone()));
            assert_eq!(raft.term(), Term(9), "{message:?}");
        }
    }
}

/// 5.2.
#[test]
fn a_campaign_is_a_new_term_a_vote_for_itself_and_a_request_to_everybody_else() {
    let mut raft = node_1_of_3(4, vec![entry(3, 1, "a")]);
    while raft.term() == Term(4) {
        raft.tick();
    }
    let ready = raft.ready();
    let write = ready.write.unwrap().hard_state.unwrap();
    assert_eq!((write.term, write.voted_for), (Term(5), Some(NodeId(1))));
    let asked = ready.send_when_durable.iter().map(|envelope| {
        let last = id(3, 1);
        let is_transfer = false;
        let expected = Message::RequestVote { last, is_transfer };
        assert_eq!((&envelope.message, envelope.term), (&expected, Term(5)));
        envelope.to.0
    });
    assert_eq!(asked.collect::<Vec<_>>(), [2, 3]);
}

/// 5.2.
#[test]
fn a_candidate_follows_the_leader_of_its_term_and_refuses_one_of_an_earlier_term() {
    let mut raft = node_1_of_3(4, Vec::new());
    campaign(&mut raft);
    let earlier = raft.step(from(2, 4, heartbeat()));
    assert_eq!(earlier, Err(Ignored::Stale));
    assert!(matches!(raft.role, Role::Candidate { .. }));
    raft.step(from(2, 5, heartbeat())).unwrap();
    assert!(matches!(raft.role, Role::Follower));
    assert_eq!((raft.term(), raft.leader()), (Term(5), Some(NodeId(2))));
}

/// 5.2: two candidates with half of the votes each wait, and try again at different times.
#[test]
fn a_split_vote_ends_with_another_election() {
    let mut cluster = Cluster::new(4);
    for node in [1, 2] {
        while cluster.raft(node).term() == Term(0) {
            cluster.raft(node).tick();
        }
    }
    // Each candidate's first request is delivered before the other's: to 3 from 1, and to 4 from 2.
    cluster.settle(1);
    cluster.settle(2);
    let requests = cluster.take_messages();
    let (first, second): (Vec<_>, Vec<_>) = requests
        .into_iter()
        .partition(|request| matches!((request.from.0, request.to.0), (1, 3) | (2, 4)));
    for request in first.into_iter().chain(second) {
        let to = request.to.0;
        let _ = cluster.raft(to).step(request);
        cluster.settle(to);
    }
    cluster.deliver();
    assert!((1..=4).all(|node| !cluster.raft(node).is_leader()));
    assert!((1..=4).all(|node| cluster.raft(node).term() == Term(1)));
    let leader = cluster.leader();
    assert!(cluster.raft(leader).term() > Term(1));
}

/// 5.2: from one interval to twice as long, and drawn anew each time.
#[test]
fn election_timeouts_are_random() {
    let mut raft = node_1_of_3(0, Vec::new());
    let mut timeouts = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let (term, mut ticks) = (raft.term(), 0);
        while raft.term() == term {
            raft.tick();
            ticks += 1;
        }
        settle(&mut raft);
        timeouts.insert(ticks);
    }
    let expected = 25..=50;
    assert!(timeouts.iter().all(|ticks| expected.contains(ticks)));
    assert!(timeouts.len() > 20, "{timeouts:?}");
}

/// 5.5: a follower that crashed after it had done what was asked, and before it answered, is asked again.
#[test]
fn a_message_that_comes_twice_does_no_more_than_once() {
    let entries = vec![entry(2, 1, "a"), entry(2, 2, "b")];
    for message in [append(entries.clone()), request_vote()] {
        let mut raft = node_1_of_3(1, Vec::new());
        raft.step(from(2, 2, message.clone())).unwrap();
        let first = settle(&mut raft);
        let (hard_state, last) = (raft.hard_state, raft.last());
        raft.step(from(2, 2, message)).unwrap();
        let ready = raft.ready();
        assert_eq!(ready.write, None);
        assert_eq!(ready.send_when_durable, first);
        assert_eq!((raft.hard_state, raft.last()), (hard_state, last));
    }
}

/// What a follower had in an earlier term, it may have lost to another leader since.
#[test]
fn a_success_of_an_earlier_term_is_not_counted() {
    let mut raft = leader(5, vec![entry(1, 1, "a")]);
    raft.propose(Bytes::from_static(b"b")).unwrap();
    settle(&mut raft);
    let matched = || reply(AppendOutcome::Matched(Index(3)));
    assert_eq!(raft.step(from(2, 4, matched())), Err(Ignored::Stale));
    assert_eq!(raft.commit(), Index(0));
    raft.step(from(2, 5, matched())).unwrap();
    assert_eq!(raft.commit(), Index(3));
}

/// The node layer lets no node back whose disk was emptied, under its old id: it knows it by its uuid. It has a new id, and
/// what the core makes of that is this.
#[test]
fn a_wiped_voter_that_catches_up_and_votes_again_cannot_elect_a_second_leader() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.connect(3, false);
    cluster.propose(1, "on 1 and 2");
    cluster.crash(2);
    // Node 2 has lost its disk, and with it the entry that it acknowledged. It comes again, as node 4.
    cluster.join(4);
    cluster.connect(1, false);
    campaign_and_get_vote_of(&mut cluster, 4);
    // Nor does it help when it is a learner and has caught up.
    cluster.connect(1, true);
    cluster.connect(3, true);
    cluster.heartbeat(1); // It learns of the later term.
    cluster.elect(1);
    cluster.learn(1, &[4]);
    assert_eq!(cluster.applied(4), ["on 1 and 2"]);
    cluster.connect(1, false);
    campaign_and_get_vote_of(&mut cluster, 4);
    // It votes again when a joint change has put it into the place of node 2: what it has then, no candidate may lack.
    cluster.connect(1, true);
    cluster.heartbeat(1);
    cluster.elect(1);
    cluster.change(1, |membership| {
        membership.without(NodeId(2)).with_voter(NodeId(4))
    });
    cluster.connect(3, false);
    cluster.propose(1, "on 1 and 4");
    assert_eq!(cluster.raft(1).commit(), cluster.raft(1).last().index);
    cluster.crash(1);
    cluster.connect(3, true);
    campaign_and_get_vote_of(&mut cluster, 2); // Whoever it is.
    cluster.deliver();
    assert!(!cluster.raft(3).is_leader());
    cluster.elect(4);
    assert_eq!(cluster.applied(4), ["on 1 and 2", "on 1 and 4"]);
}

/// Node 3 campaigns, and a node that is no voter votes for it.
fn campaign_and_get_vote_of(cluster: &mut Cluster, node: u64) {
    let term = cluster.raft(3).term();
    while cluster.raft(3).term() == term {
        cluster.raft(3).tick();
    }
    cluster.settle(3);
    let vote = Envelope {
        from: NodeId(node),
        to: NodeId(3),
        term: cluster.raft(3).term(),
        message: Message::Vote { granted: true },
    };
    assert_eq!(cluster.raft(3).step(vote), Err(Ignored::Stranger));
    assert!(!cluster.raft(3).is_leader());
}
