//! Thesis, 6.4: reads on nodes that do not lead.

use bytes::Bytes;
use duramen_wal::types::{Index, NodeId, Term};

use super::repair::{append, carry_out, in_term, node, say};
use super::{Cluster, as_in_the_paper, id, settle};
use crate::raft::Badness::Damaged;
use crate::raft::{
    Ask, BaseState, Envelope, Ignored, Message, NotLeader, Raft, ReadId, ReadReply, Refused,
    Restored, Round,
};

/// Three nodes, led by node 1, and the log that all of them hold.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "x");
    cluster.heartbeat(1);
    cluster
}

fn read(cluster: &mut Cluster, node: u64, read: u64) {
    cluster.raft(node).read(ReadId(read)).unwrap();
    cluster.settle(node);
}

/// What became of the reads of a node: `Err` if they were refused.
fn decided(cluster: &Cluster, node: u64) -> Vec<(u64, Result<u64, Option<NodeId>>)> {
    let replies = cluster.reads(node).iter();
    replies
        .map(|reply| {
            let index = reply.index.map(|index| index.0);
            (reply.id.0, index.map_err(|refused| refused.leader))
        })
        .collect()
}

/// The messages under way that ask for a read index, or say one. All are lost but for those that are delivered here.
fn take_about_reads(cluster: &mut Cluster) -> Vec<Envelope> {
    let mut messages = cluster.take_messages();
    messages.retain(|envelope| {
        matches!(
            envelope.message,
            Message::AskReadIndex { .. } | Message::ReadIndex { .. }
        )
    });
    messages
}

/// Delivers all but what says a read index: that comes back.
fn deliver_all_but_answers(cluster: &mut Cluster) -> Vec<Envelope> {
    let mut answers = Vec::new();
    while let Some(envelope) = cluster.queue.pop_front() {
        match envelope.message {
            Message::ReadIndex { .. } => answers.push(envelope),
            _ => cluster.deliver_one(envelope),
        }
    }
    answers
}

#[test]
fn a_follower_serves_a_read_up_to_what_the_leader_had_committed() {
    let mut cluster = cluster();
    cluster.connect(3, false);
    let newer = cluster.propose(1, "newer"); // Node 2 does not know that it is committed.
    assert!(cluster.raft(2).commit() < newer.index);
    read(&mut cluster, 2, 7);
    assert_eq!(decided(&cluster, 2), [], "nobody has confirmed it yet");
    cluster.deliver();
    assert_eq!(decided(&cluster, 2), [(7, Ok(newer.index.0))]);
}

#[test]
fn a_learner_serves_reads_too() {
    let mut cluster = cluster();
    cluster.join(4);
    cluster.learn(1, &[4]);
    read(&mut cluster, 4, 1);
    cluster.deliver();
    let commit = cluster.raft(1).commit().0;
    assert_eq!(decided(&cluster, 4), [(1, Ok(commit))]);
}

#[test]
fn the_leader_answers_after_a_round_that_began_after_the_question() {
    let mut cluster = cluster();
    cluster.raft(1).propose(Bytes::from_static(b"y")).unwrap();
    cluster.settle(1);
    let appends = cluster.take_messages();
    for append in appends {
        cluster.deliver_one(append);
    }
    let earlier = cluster.take_messages();
    read(&mut cluster, 2, 1);
    for question in take_about_reads(&mut cluster) {
        cluster.deliver_one(question);
    }
    let round = cluster.take_messages();
    earlier
        .into_iter()
        .for_each(|reply| cluster.deliver_one(reply));
    assert!(take_about_reads(&mut cluster).is_empty(), "no round yet");
    for append in round {
        cluster.deliver_one(append);
    }
    cluster.deliver();
    assert_eq!(decided(&cluster, 2).len(), 1);
}

#[test]
fn a_deposed_leader_confirms_no_read_of_a_follower_that_is_cut_off_with_it() {
    let mut cluster = Cluster::new(5);
    cluster.elect(1);
    for here in [1, 2] {
        for there in [3, 4, 5] {
            cluster.cut.extend([(here, there), (there, here)]);
        }
    }
    cluster.elect(3);
    cluster.propose(3, "newer");
    read(&mut cluster, 2, 1);
    for _ in 0..5 {
        cluster.heartbeat(1);
    }
    assert_eq!(decided(&cluster, 2), []);
    cluster.cut.clear();
    cluster.heartbeat(3);
    assert!(matches!(decided(&cluster, 2)[..], [(1, Err(_))]));
}

#[test]
fn a_late_or_doubled_answer_confirms_no_other_read() {
    let mut cluster = cluster();
    read(&mut cluster, 2, 1);
    let answers = deliver_all_but_answers(&mut cluster);
    assert_eq!(answers.len(), 1);
    cluster.deliver_one(answers[0].clone());
    assert_eq!(decided(&cluster, 2).len(), 1);
    // From now on another node may lead.
    read(&mut cluster, 2, 2);
    cluster.take_messages();
    let taken = cluster.raft(2).step(answers[0].clone());
    assert_eq!(taken, Err(Ignored::Stale));
    cluster.settle(2);
    assert_eq!(decided(&cluster, 2).len(), 1);
}

#[test]
fn a_read_that_arrives_after_the_question_waits_for_the_next_one() {
    let mut cluster = cluster();
    read(&mut cluster, 2, 1);
    let answers = deliver_all_but_answers(&mut cluster);
    read(&mut cluster, 2, 2);
    read(&mut cluster, 2, 3);
    assert!(cluster.take_messages().is_empty(), "one question at a time");
    answers
        .into_iter()
        .for_each(|answer| cluster.deliver_one(answer));
    assert_eq!(decided(&cluster, 2).len(), 1);
    assert_eq!(cluster.queue.len(), 1, "the two share a question");
    cluster.deliver();
    assert_eq!(decided(&cluster, 2).len(), 3);
}

#[test]
fn an_answer_to_an_earlier_process_of_the_node_confirms_nothing() {
    let mut cluster = cluster();
    read(&mut cluster, 2, 1);
    let answers = deliver_all_but_answers(&mut cluster);
    cluster.crash(2);
    cluster.start(2);
    cluster.heartbeat(1);
    read(&mut cluster, 2, 2);
    cluster.take_messages();
    for answer in answers {
        assert_eq!(cluster.raft(2).step(answer), Err(Ignored::Stale));
    }
    cluster.settle(2);
    assert_eq!(decided(&cluster, 2), []);
}

#[test]
fn a_question_that_is_lost_is_asked_again_and_two_questions_are_one_round() {
    let mut cluster = cluster();
    read(&mut cluster, 2, 1);
    let lost = take_about_reads(&mut cluster);
    for _ in 0..5 {
        cluster.raft(2).tick();
    }
    cluster.settle(2);
    assert_eq!(take_about_reads(&mut cluster), lost);
    cluster.deliver_one(lost[0].clone());
    let round = cluster.take_messages();
    assert_eq!(round.len(), 2);
    cluster.deliver_one(lost[0].clone());
    assert!(cluster.take_messages().is_empty(), "its round is under way");
    round
        .into_iter()
        .for_each(|append| cluster.deliver_one(append));
    cluster.deliver();
    assert_eq!(decided(&cluster, 2).len(), 1);
}

#[test]
fn a_read_that_the_leader_does_not_answer_is_refused_in_time() {
    let mut cluster = cluster();
    cluster.cut.insert((2, 1));
    read(&mut cluster, 2, 1);
    for _ in 0..9 {
        cluster.heartbeat(1);
        (0..5).for_each(|_| cluster.raft(2).tick());
    }
    cluster.settle(2);
    assert_eq!(decided(&cluster, 2), []);
    cluster.heartbeat(1);
    (0..5).for_each(|_| cluster.raft(2).tick());
    cluster.settle(2);
    assert_eq!(decided(&cluster, 2), [(1, Err(Some(NodeId(1))))]);
}

#[test]
fn reads_are_refused_when_the_leader_changes() {
    let mut cluster = cluster();
    for reader in [2, 3] {
        cluster.cut.insert((reader, 1));
        read(&mut cluster, reader, 1);
        read(&mut cluster, reader, 2);
    }
    cluster.elect(3);
    for reader in [2, 3] {
        let replies = decided(&cluster, reader);
        assert!(replies.iter().all(|reply| reply.1.is_err()), "{replies:?}");
        assert_eq!(replies.len(), 2);
    }
    read(&mut cluster, 2, 3);
    cluster.deliver();
    assert!(matches!(decided(&cluster, 2)[..], [.., (3, Ok(_))]));
}

#[test]
fn a_leader_that_has_committed_nothing_yet_names_its_first_entry() {
    let mut cluster = cluster();
    cluster.connect(2, false);
    cluster.crash(1);
    cluster.connect(2, true);
    let term = cluster.raft(2).term();
    while cluster.raft(2).term() == term {
        cluster.raft(2).tick();
    }
    cluster.settle(2);
    // Node 3 votes, and gets no entry of the new term.
    for _ in 0..2 {
        for envelope in cluster.take_messages() {
            cluster.deliver_one(envelope);
        }
    }
    assert!(cluster.raft(2).is_leader());
    let first = cluster.raft(2).last().index;
    assert!(cluster.raft(2).commit() < first);
    cluster.take_messages();
    let heartbeat = Message::Append {
        prev: id(1, 1),
        entries: Vec::new(),
        commit: Index(0),
        round: Round(0),
    };
    let term = cluster.raft(2).term();
    say(cluster.raft(3), 2, term.0, heartbeat).unwrap();
    cluster.settle(3);
    read(&mut cluster, 3, 1);
    for _ in 0..10 {
        cluster.raft(2).tick();
    }
    cluster.deliver();
    assert_eq!(decided(&cluster, 3), [(1, Ok(first.0))]);
}

/// What a core says of read indexes.
fn about_reads(messages: Vec<Envelope>) -> Vec<Message> {
    let messages = messages.into_iter().map(|envelope| envelope.message);
    let is_about = |message: &Message| {
        matches!(
            message,
            Message::AskReadIndex { .. } | Message::ReadIndex { .. }
        )
    };
    messages.filter(is_about).collect()
}

#[test]
fn a_leader_that_settles_says_that_it_cannot_say() {
    let mut raft = settle::leader(3, &[(2, Damaged)]);
    carry_out(&mut raft);
    let ask = Ask(5);
    say(&mut raft, 2, 4, Message::AskReadIndex { ask }).unwrap();
    let said = about_reads(carry_out(&mut raft).messages);
    assert_eq!(said, [Message::ReadIndex { ask, index: None }]);
}

/// Node 1 of three, in term 3, with node 2 as its leader, and the question that it asks about read 1.
fn asking() -> (Raft, Ask) {
    let mut raft = node(&[]);
    append(&mut raft, id(2, 5), Vec::new(), 5);
    raft.read(ReadId(1)).unwrap();
    let said = about_reads(carry_out(&mut raft).messages);
    let [Message::AskReadIndex { ask }] = said[..] else {
        panic!("{said:?}");
    };
    (raft, ask)
}

#[test]
fn an_answer_counts_once_from_the_leader_that_was_asked_in_its_term() {
    let (mut raft, ask) = asking();
    let index = Some(Index(5));
    let answer = Message::ReadIndex { ask, index };
    let stale = Err(Ignored::Stale);
    assert_eq!(say(&mut raft, 3, 3, answer.clone()), stale);
    assert_eq!(say(&mut raft, 2, 2, answer.clone()), stale);
    let other = Ask(ask.0.wrapping_sub(1));
    let to_another = Message::ReadIndex { ask: other, index };
    assert_eq!(say(&mut raft, 2, 3, to_another), stale);
    assert_eq!(carry_out(&mut raft).reads, []);
    say(&mut raft, 2, 3, answer.clone()).unwrap();
    assert_eq!(say(&mut raft, 2, 3, answer), stale);
    let served = ReadReply {
        id: ReadId(1),
        index: Ok(Index(5)),
    };
    assert_eq!(carry_out(&mut raft).reads, [served]);
}

#[test]
fn a_read_is_refused_if_the_leader_cannot_say() {
    let (mut raft, ask) = asking();
    say(&mut raft, 2, 3, Message::ReadIndex { ask, index: None }).unwrap();
    let refused = ReadReply {
        id: ReadId(1),
        index: Err(NotLeader { leader: None }),
    };
    assert_eq!(carry_out(&mut raft).reads, [refused]);
}

#[test]
fn a_question_leaves_when_its_term_is_durable() {
    let (mut raft, _) = asking();
    let heartbeat = Message::Append {
        prev: id(2, 5),
        entries: Vec::new(),
        commit: Index(5),
        round: Round(0),
    };
    say(&mut raft, 3, 4, heartbeat).unwrap();
    raft.read(ReadId(2)).unwrap();
    let ready = raft.ready();
    assert_eq!(ready.reads.len(), 1, "the first one is refused");
    assert_eq!(about_reads(ready.send_now), []);
    raft.durable(ready.write.unwrap().id);
    assert_eq!(about_reads(raft.ready().send_now).len(), 1);
}

#[test]
fn a_node_without_a_leader_or_without_its_state_refuses_reads() {
    let refused = |leader| Err(Refused::NotLeader(NotLeader { leader }));
    let mut raft = node(&[]);
    assert_eq!(raft.read(ReadId(1)), refused(None));
    let lost = Restored {
        hard_state: in_term(3),
        base: id(2, 5),
        state: BaseState::Lost,
        ..Restored::default()
    };
    let mut raft = Raft::restart(as_in_the_paper(1, 3), lost);
    append(&mut raft, id(2, 5), Vec::new(), 5);
    assert_eq!(raft.read(ReadId(1)), refused(Some(NodeId(2))));
}

/// A leader remembers one question of each member, and nobody else's.
#[test]
fn a_leader_answers_the_last_question_of_each_member() {
    let mut cluster = cluster();
    let (leader, term) = (cluster.raft(1), Term(1));
    assert_eq!(leader.term(), term);
    for ask in [7, 8] {
        say(leader, 2, 1, Message::AskReadIndex { ask: Ask(ask) }).unwrap();
    }
    let ask = Message::AskReadIndex { ask: Ask(9) };
    assert_eq!(say(leader, 4, 1, ask), Err(Ignored::Stranger));
    cluster.settle(1);
    let answers = deliver_all_but_answers(&mut cluster);
    let asks: Vec<_> = answers.iter().map(|answer| &answer.message).collect();
    let index = Some(cluster.raft(1).commit());
    let ask = Ask(8);
    assert_eq!(asks, [&Message::ReadIndex { ask, index }]);
}

/// Who asked the leader of an earlier term learns of the present one.
#[test]
fn a_question_of_an_earlier_term_is_answered_with_the_later_one() {
    let mut raft = node(&[]);
    let ask = Ask(1);
    let asked = say(&mut raft, 2, 2, Message::AskReadIndex { ask });
    assert_eq!(asked, Err(Ignored::Stale));
    let said = carry_out(&mut raft).messages;
    assert_eq!(said[0].term, Term(3));
    assert_eq!(said[0].message, Message::ReadIndex { ask, index: None });
}
