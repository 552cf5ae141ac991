//! A disk that completes nothing: the leadership moves, and who cannot store a vote does not campaign.

use bytes::Bytes;
use duramen_wal::types::{HardState, Index, LogId, NodeId, Term};

use super::{as_in_the_paper, entry, id};
use crate::raft::{
    AppendOutcome, Envelope, Ignored, Message, Raft, Ready, Refused, Round, WriteId,
};

fn say(raft: &mut Raft, from: u64, message: Message) -> Result<(), Ignored> {
    raft.step(Envelope {
        from: NodeId(from),
        to: NodeId(1),
        term: raft.term(),
        message,
    })
}

fn matched(raft: &mut Raft, from: u64, index: u64) {
    let outcome = AppendOutcome::Matched(Index(index));
    let round = Round::default();
    say(raft, from, Message::AppendReply { outcome, round }).unwrap();
}

fn settle(raft: &mut Raft) {
    loop {
        let ready = raft.ready();
        if ready.is_empty() {
            return;
        }
        ready.write.iter().for_each(|write| raft.durable(write.id));
    }
}

/// Node 1 of so many, which leads, and whose disk has been given an entry. The followers have acknowledged its blank one.
fn leader_that_writes(nodes: u64) -> (Raft, WriteId) {
    let mut raft = Raft::new(as_in_the_paper(1, nodes), HardState::default(), Vec::new());
    while raft.term() == Term(0) {
        raft.tick();
    }
    settle(&mut raft);
    for node in 2..=nodes {
        let _ = say(&mut raft, node, Message::Vote { granted: true });
    }
    settle(&mut raft);
    (2..=nodes).for_each(|node| matched(&mut raft, node, 1));
    settle(&mut raft);
    assert!(raft.is_leader() && raft.commit() == Index(1));
    raft.propose(Bytes::from_static(b"x")).unwrap();
    let write = raft.ready().write.expect("the entry");
    (raft, write.id)
}

/// Who is told to campaign in so many ticks, in which nothing becomes durable and these nodes say how far they are.
fn told(raft: &mut Raft, ticks: u32, active: &[(u64, u64)]) -> Vec<NodeId> {
    let mut told = Vec::new();
    for _ in 0..ticks {
        raft.tick();
        for (node, index) in active {
            if raft.is_leader() {
                matched(raft, *node, *index);
            }
        }
        let Ready { send_now, .. } = raft.ready();
        let is_told = |envelope: &Envelope| envelope.message == Message::TimeoutNow;
        told.extend(send_now.into_iter().filter(is_told).map(|sent| sent.to));
    }
    told
}

#[test]
fn a_leader_whose_disk_stalls_hands_over_to_the_active_voter_with_most_of_the_log() {
    for (active, expected) in [
        (&[(2, 1), (3, 2), (4, 1)][..], vec![NodeId(3)]),
        (&[(2, 2), (4, 1)], vec![NodeId(2)]),
        // Nobody is told before its log is complete.
        (&[(2, 1), (4, 1)], vec![]),
    ] {
        let (mut raft, first) = leader_that_writes(5);
        // Node 5 has most of the log, and then it goes.
        matched(&mut raft, 5, 2);
        told(&mut raft, 1, &[]);
        raft.propose(Bytes::from_static(b"y")).unwrap();
        assert!(raft.ready().write.is_some());
        raft.durable(first);
        assert_eq!(told(&mut raft, 24, active), []);
        raft.propose(Bytes::from_static(b"z")).unwrap();
        let active: Vec<_> = active
            .iter()
            .map(|(node, index)| (*node, index + 2))
            .collect();
        let found = told(&mut raft, 3, &active);
        assert_eq!(found, expected, "{active:?}");
        let refused = raft.propose(Bytes::from_static(b"more"));
        assert!(
            matches!(refused, Err(Refused::HandingOver(_))),
            "{refused:?}"
        );
    }
}

#[test]
fn a_leader_whose_disk_stalls_and_that_nobody_relieves_steps_down() {
    let (mut raft, write) = leader_that_writes(3);
    told(&mut raft, 49, &[(2, 2), (3, 2)]);
    assert!(raft.is_leader());
    told(&mut raft, 1, &[(2, 2), (3, 2)]);
    assert!(!raft.is_leader());
    assert_eq!(raft.leader(), None);
    // It does not campaign before its disk has come back.
    let term = raft.term();
    told(&mut raft, 500, &[]);
    assert_eq!(raft.term(), term);
    raft.durable(write);
    told(&mut raft, 60, &[]);
    assert!(raft.term() > term);
}

#[test]
fn a_disk_that_comes_back_in_time_changes_nothing() {
    let (mut raft, mut write) = leader_that_writes(3);
    for last in 2..100 {
        // Always one write is under way.
        assert_eq!(told(&mut raft, 20, &[(2, last), (3, last)]), []);
        raft.propose(Bytes::from_static(b"y")).unwrap();
        let next = raft.ready().write.expect("the next entry").id;
        raft.durable(write);
        write = next;
    }
    assert!(raft.is_leader());
}

#[test]
fn the_only_voter_goes_on_whatever_its_disk_does() {
    let (mut raft, write) = leader_that_writes(1);
    told(&mut raft, 500, &[]);
    raft.durable(write);
    assert!(raft.is_leader() && raft.commit() == Index(2));
}

#[test]
fn a_node_whose_disk_stalls_does_not_campaign_even_if_it_is_told_to() {
    for pre_vote in [false, true] {
        let mut config = as_in_the_paper(1, 3);
        config.pre_vote = pre_vote;
        let mut raft = Raft::new(config, HardState::default(), Vec::new());
        let append = Message::Append {
            prev: LogId::default(),
            entries: vec![entry(0, 1, "x")],
            commit: Index(0),
            round: Round::default(),
        };
        say(&mut raft, 2, append.clone()).unwrap();
        let write = raft.ready().write.expect("the entry").id;
        for _ in 0..500 {
            raft.tick();
            assert!(raft.ready().is_empty());
        }
        say(&mut raft, 2, append).unwrap();
        say(&mut raft, 2, Message::TimeoutNow).unwrap();
        assert_eq!((raft.term(), raft.last()), (Term(0), id(0, 1)));
        raft.durable(write);
        say(&mut raft, 2, Message::TimeoutNow).unwrap();
        assert_eq!(raft.term(), Term(1));
    }
}
