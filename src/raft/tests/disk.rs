//! A disk that is full, or has failed.

use bytes::Bytes;
use duramen_wal::types::{Entry, HardState, Index, LogId, NodeId, Term};

use super::repair::{answer, carry_out, node, say};
use super::{Cluster, as_in_the_paper, entry, id};
use crate::raft::Badness::Damaged;
use crate::raft::{
    Answer, AppendOutcome, ChangeRefused, Envelope, Membership, Message, NotLeader, Raft, ReadId,
    Ready, Refused, Round, Write, is_command,
};

/// Carries out what a core asks for, on a disk without space for commands. Gives what it sends.
fn carry_out_when_full(raft: &mut Raft) -> Vec<Envelope> {
    carry_out_on(raft, |write| !write.entries.iter().any(is_command))
}

/// The same on a disk that takes what `takes` says.
fn carry_out_on(raft: &mut Raft, takes: impl Fn(&Write) -> bool) -> Vec<Envelope> {
    let mut sent = Vec::new();
    loop {
        let ready = raft.ready();
        if ready.is_empty() {
            return sent;
        }
        let Ready {
            send_now,
            write,
            send_when_durable,
            ..
        } = ready;
        sent.extend(send_now);
        match write {
            Some(write) if !takes(&write) => raft.write_refused(&write, send_when_durable),
            write => {
                write.iter().for_each(|write| raft.durable(write.id));
                sent.extend(send_when_durable);
            }
        }
    }
}

fn messages(sent: Vec<Envelope>) -> Vec<Message> {
    sent.into_iter().map(|envelope| envelope.message).collect()
}

/// Node 2, which leads in term 3, sends these entries after `prev`.
fn append(raft: &mut Raft, prev: LogId, entries: Vec<Entry>, commit: u64) {
    let append = Message::Append {
        prev,
        entries,
        commit: Index(commit),
        round: Round(0),
    };
    say(raft, 2, 3, append).unwrap();
}

fn matched(index: u64) -> Message {
    Message::AppendReply {
        outcome: AppendOutcome::Matched(Index(index)),
        round: Round(0),
    }
}

/// Node 1 of so many, which leads in term 1. Everybody has its blank entry, and node 2 one more that it does not know of.
fn leader(nodes: u64) -> Raft {
    let mut raft = Raft::new(as_in_the_paper(1, nodes), HardState::default(), Vec::new());
    while raft.term() == Term(0) {
        raft.tick();
    }
    carry_out(&mut raft);
    for voter in 2..=nodes / 2 + 1 {
        say(&mut raft, voter, 1, Message::Vote { granted: true }).unwrap();
    }
    carry_out(&mut raft);
    for follower in 2..=nodes {
        say(&mut raft, follower, 1, matched(1)).unwrap();
    }
    carry_out(&mut raft);
    assert!(raft.is_leader() && raft.commit() == Index(1));
    raft
}

fn command() -> Bytes {
    Bytes::from_static(b"x")
}

/// Who is told to campaign.
fn told(sent: &[Envelope]) -> Vec<u64> {
    let told = sent
        .iter()
        .filter(|sent| sent.message == Message::TimeoutNow);
    told.map(|sent| sent.to.0).collect()
}

#[test]
fn a_leader_whose_write_is_refused_gives_way_and_forgets_the_entries() {
    let mut raft = leader(3);
    raft.propose(command()).unwrap();
    raft.propose(command()).unwrap();
    let sent = carry_out_when_full(&mut raft);
    assert_eq!((raft.is_leader(), raft.last()), (false, id(1, 1)));
    assert_eq!(told(&sent), [3], "it is as far as node 2");
    let refused = NotLeader { leader: None };
    assert_eq!(raft.propose(command()), Err(refused.into()));
}

#[test]
fn an_acknowledgement_of_refused_entries_never_leaves() {
    let mut raft = node(&[]);
    append(&mut raft, id(2, 5), vec![entry(3, 6, "f")], 6);
    assert_eq!(messages(carry_out_when_full(&mut raft)), []);
    assert_eq!((raft.last(), raft.commit()), (id(2, 5), Index(5)));
    // Nor does it by a heartbeat, or when something else is durable.
    append(&mut raft, id(3, 6), Vec::new(), 6);
    assert_eq!(messages(carry_out_when_full(&mut raft)), [matched(5)]);
    append(&mut raft, id(2, 5), Vec::new(), 5);
    assert_eq!(messages(carry_out_when_full(&mut raft)), [matched(5)]);
}

#[test]
fn a_full_disk_takes_blank_entries_and_memberships_and_no_commands() {
    let mut raft = node(&[]);
    append(&mut raft, id(2, 5), vec![entry(3, 6, "f")], 5);
    carry_out_when_full(&mut raft);
    let change = Membership::of_voters([1, 2].map(NodeId)).to_entry(id(3, 7));
    let entries = vec![entry(3, 6, ""), change, entry(3, 8, "h"), entry(3, 9, "")];
    append(&mut raft, id(2, 5), entries, 9);
    assert_eq!(messages(carry_out_when_full(&mut raft)), [matched(7)]);
    assert_eq!((raft.last(), raft.commit()), (id(3, 7), Index(7)));
    // What is there already is acknowledged, and a command after it is not taken.
    append(&mut raft, id(3, 7), vec![entry(3, 8, "h")], 9);
    assert_eq!(messages(carry_out_when_full(&mut raft)), [matched(7)]);
}

#[test]
fn when_there_is_space_again_entries_are_taken_from_where_they_are_missing() {
    let mut raft = node(&[]);
    append(&mut raft, id(2, 5), vec![entry(3, 6, "f")], 5);
    carry_out_when_full(&mut raft);
    raft.set_disk_full(false);
    append(&mut raft, id(3, 6), Vec::new(), 6);
    let conflict = AppendOutcome::Conflict {
        prev: Index(6),
        term: Term(0),
        first: Index(6),
    };
    let round = Round(0);
    let outcome = conflict;
    let said = messages(carry_out(&mut raft).messages);
    assert_eq!(said, [Message::AppendReply { outcome, round }]);
    append(&mut raft, id(2, 5), vec![entry(3, 6, "f")], 6);
    assert_eq!(messages(carry_out(&mut raft).messages), [matched(6)]);
}

#[test]
fn a_vote_leaves_when_its_term_is_durable_without_the_entries_that_came_with_it() {
    let mut raft = node(&[]);
    append(&mut raft, id(2, 5), vec![entry(3, 6, "f")], 5);
    let request = Message::RequestVote {
        last: id(3, 9),
        is_transfer: true,
    };
    say(&mut raft, 3, 4, request).unwrap();
    let ready = raft.ready();
    let refused = ready.write.expect("an entry and a vote");
    assert!(refused.hard_state.is_some() && refused.entries.len() == 1);
    raft.write_refused(&refused, ready.send_when_durable);
    let ready = raft.ready();
    let again = ready.write.expect("the vote");
    assert_eq!(again.hard_state, refused.hard_state);
    assert!(again.entries.is_empty() && again.id > refused.id);
    let said = messages(ready.send_when_durable);
    assert_eq!(said, [Message::Vote { granted: true }]);
}

/// It would be elected for a log that it does not have.
#[test]
fn a_candidate_whose_last_entries_are_refused_asks_for_no_votes() {
    let mut raft = node(&[]);
    append(&mut raft, id(2, 5), vec![entry(3, 6, "f")], 5);
    while raft.term() == Term(3) {
        raft.tick();
    }
    assert_eq!(messages(carry_out_when_full(&mut raft)), []);
    while raft.term() == Term(4) {
        raft.tick();
    }
    let last = id(2, 5);
    let is_transfer = false;
    let asked = messages(carry_out_when_full(&mut raft));
    assert_eq!(asked, vec![Message::RequestVote { last, is_transfer }; 2]);
}

#[test]
fn a_repair_that_does_not_fit_leaves_the_entry_bad() {
    let mut raft = node(&[(2, Damaged)]);
    append(&mut raft, id(2, 5), Vec::new(), 5);
    carry_out(&mut raft);
    answer(&mut raft, 3, 3, vec![Answer::Have(entry(1, 2, "b"))]);
    assert_eq!(raft.bad_entries().count(), 0);
    carry_out_on(&mut raft, |write| write.repairs.is_empty());
    let bad: Vec<_> = raft.bad_entries().collect();
    assert_eq!(bad, [(id(1, 2), Damaged)]);
    raft.set_disk_full(false);
    answer(&mut raft, 3, 3, vec![Answer::Have(entry(1, 2, "b"))]);
    let done = carry_out(&mut raft);
    assert_eq!(done.writes[0].repairs, [entry(1, 2, "b")]);
    assert_eq!(done.committed.len(), 4, "2 to 5");
}

#[test]
fn a_membership_goes_with_the_entries_before_it() {
    let mut raft = node(&[]);
    let before = raft.membership().clone();
    let change = Membership::of_voters([1, 2].map(NodeId)).to_entry(id(3, 7));
    append(&mut raft, id(2, 5), vec![entry(3, 6, "f"), change], 5);
    assert_ne!(*raft.membership(), before);
    carry_out_when_full(&mut raft);
    assert_eq!(*raft.membership(), before);
}

#[test]
fn without_any_space_nothing_is_said_that_must_be_remembered() {
    let mut raft = node(&[]);
    let request = Message::RequestVote {
        last: id(3, 9),
        is_transfer: true,
    };
    say(&mut raft, 3, 4, request.clone()).unwrap();
    assert_eq!(carry_out_on(&mut raft, |_| false), []);
    for _ in 0..200 {
        raft.tick();
    }
    assert_eq!(raft.term(), Term(4), "nor does it campaign");
    say(&mut raft, 3, 4, request).unwrap();
    assert_eq!(carry_out_on(&mut raft, |_| false), []);
    raft.set_disk_full(true); // It is tried again.
    let done = carry_out(&mut raft);
    assert_eq!(done.writes.len(), 1, "the vote");
    assert_eq!(
        done.writes[0].hard_state.unwrap().voted_for,
        Some(NodeId(3))
    );
}

#[test]
fn a_leader_on_a_full_disk_serves_reads_and_hands_over_ever_more_rarely() {
    let mut raft = leader(3);
    raft.set_disk_full(true);
    assert_eq!(raft.propose(command()), Err(Refused::DiskFull));
    raft.read(ReadId(1)).unwrap();
    carry_out_when_full(&mut raft);
    let round = Round(1);
    let outcome = AppendOutcome::Matched(Index(1));
    say(&mut raft, 2, 1, Message::AppendReply { outcome, round }).unwrap();
    assert_eq!(carry_out(&mut raft).reads.len(), 1);
    let mut handovers = Vec::new();
    for tick in 0..10_000_u64 {
        raft.tick();
        for follower in [2, 3] {
            say(&mut raft, follower, 1, matched(1)).unwrap();
        }
        handovers.extend(told(&carry_out_when_full(&mut raft)).iter().map(|_| tick));
    }
    assert_eq!(handovers, [0, 1000, 3000, 7000]);
}

#[test]
fn a_leader_whose_disk_has_failed_gives_way_and_is_silent() {
    let mut raft = leader(3);
    raft.propose(command()).unwrap();
    let write = raft.ready().write;
    assert!(write.is_some());
    raft.disk_failed();
    let sent = carry_out(&mut raft).messages;
    assert_eq!((raft.is_leader(), told(&sent)), (false, vec![3]));
    let request = Message::RequestVote {
        last: id(1, 9),
        is_transfer: true,
    };
    say(&mut raft, 3, 2, request).unwrap();
    let heartbeat = Message::Append {
        prev: id(1, 1),
        entries: vec![entry(2, 2, "y")],
        commit: Index(2),
        round: Round(0),
    };
    say(&mut raft, 3, 2, heartbeat).unwrap();
    (0..200).for_each(|_| raft.tick());
    let done = carry_out(&mut raft);
    assert_eq!((done.messages, done.writes), (vec![], vec![]));
    assert_eq!(raft.term(), Term(2), "it does not campaign");
    raft.set_disk_full(false);
    assert!(raft.propose(command()).is_err());
}

#[test]
fn a_node_whose_disk_has_failed_serves_reads_of_what_was_durable() {
    let mut raft = node(&[]);
    append(&mut raft, id(2, 5), Vec::new(), 5);
    carry_out(&mut raft);
    raft.disk_failed();
    append(&mut raft, id(2, 5), vec![entry(3, 6, "f")], 6);
    for (read, index, expected) in [(1, 5, true), (2, 6, false)] {
        raft.read(ReadId(read)).unwrap();
        let sent = messages(carry_out(&mut raft).messages);
        let [Message::AskReadIndex { ask }] = sent[..] else {
            panic!("{sent:?}");
        };
        let index = Some(Index(index));
        say(&mut raft, 2, 3, Message::ReadIndex { ask, index }).unwrap();
        let reads = carry_out(&mut raft).reads;
        assert_eq!(reads[0].index.is_ok(), expected);
    }
}

/// What it lacks may come when there is space: until then others have it.
#[test]
fn a_node_whose_disk_is_full_serves_reads_of_what_it_has_and_sends_others_to_the_leader() {
    let mut raft = node(&[]);
    append(&mut raft, id(2, 5), vec![entry(3, 6, "f")], 6);
    carry_out_when_full(&mut raft);
    for (read, index, expected) in [
        (1, 5, Ok(Index(5))),
        (
            2,
            6,
            Err(NotLeader {
                leader: Some(NodeId(2)),
            }),
        ),
    ] {
        raft.read(ReadId(read)).unwrap();
        let sent = messages(carry_out_when_full(&mut raft));
        let [Message::AskReadIndex { ask }] = sent[..] else {
            panic!("{sent:?}");
        };
        let index = Some(Index(index));
        say(&mut raft, 2, 3, Message::ReadIndex { ask, index }).unwrap();
        assert_eq!(carry_out(&mut raft).reads[0].index, expected);
    }
}

/// Logs that are alike do not say whose disk is full.
#[test]
fn leaders_on_full_disks_do_not_hand_over_to_each_other_for_ever() {
    let mut cluster = Cluster::new(5);
    cluster.elect(5);
    cluster.heartbeat(5);
    for full in [4, 5] {
        cluster.raft(full).set_disk_full(true);
    }
    let has_space = |cluster: &mut Cluster| (1..=3).any(|node| cluster.raft(node).is_leader());
    for _ in 0..4000 {
        if has_space(&mut cluster) {
            return;
        }
        cluster.tick();
    }
    panic!("only nodes without space have led");
}

#[test]
fn the_only_voter_leads_on_without_its_disk_and_takes_nothing() {
    let mut raft = leader(1);
    raft.propose(command()).unwrap();
    assert!(raft.ready().write.is_some());
    raft.disk_failed();
    assert_eq!(raft.propose(command()), Err(Refused::DiskFailed));
    let target = raft.membership().clone().with_learner(NodeId(2));
    let changed = raft.change_membership(target);
    assert_eq!(changed, Err(ChangeRefused::DiskFailed));
    raft.read(ReadId(1)).unwrap();
    let done = carry_out(&mut raft);
    assert_eq!(done.reads[0].index, Ok(Index(1)));
    assert_eq!(done.committed, [], "the entry is not durable");
}
