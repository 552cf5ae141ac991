//! Section 5.3.

use bytes::Bytes;
use duramen_wal::types::{Entry, HardState, Index, LogId, NodeId, Term};

use super::{Cluster, as_in_the_paper, entry, id};
use crate::raft::progress::Progress;
use crate::raft::{AppendOutcome, Config, Envelope, Ignored, Message, Raft, Round};

fn append(term: u64, prev: LogId, entries: Vec<Entry>, commit: u64) -> Envelope {
    Envelope {
        from: NodeId(2),
        to: NodeId(1),
        term: Term(term),
        message: Message::Append {
            prev,
            entries,
            commit: Index(commit),
            round: Round(0),
        },
    }
}

fn follower(term: u64, log: Vec<Entry>) -> Raft {
    let config = as_in_the_paper(1, 3);
    Raft::new(
        config,
        HardState {
            term: Term(term),
            voted_for: None,
            ..HardState::default()
        },
        log,
    )
}

fn outcome(raft: &mut Raft, message: Envelope) -> AppendOutcome {
    raft.step(message).unwrap();
    let ready = raft.ready();
    if let Some(write) = ready.write {
        raft.durable(write.id);
    }
    match ready.send_when_durable[..] {
        [
            Envelope {
                message: Message::AppendReply { outcome, .. },
                ..
            },
        ] => outcome,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn a_command_is_committed_and_applied_everywhere() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    for command in ["a", "b", "c"] {
        cluster.propose(leader, command);
    }
    cluster.heartbeat(leader);
    for node in cluster.ids() {
        assert_eq!(cluster.applied(node), ["a", "b", "c"]);
    }
}

#[test]
fn a_majority_is_enough_and_less_is_not() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.crash(3);
    cluster.propose(1, "with two of three");
    assert_eq!(cluster.applied(1), ["with two of three"]);
    cluster.crash(2);
    let before = cluster.raft(1).commit();
    cluster.propose(1, "alone");
    assert_eq!(cluster.raft(1).commit(), before);
    cluster.start(2);
    cluster.heartbeat(1);
    cluster.heartbeat(1);
    assert_eq!(cluster.applied(1), ["with two of three", "alone"]);
}

#[test]
fn a_leader_counts_itself_only_when_the_entry_is_durable() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.crash(3);
    let entry = cluster.raft(1).propose(Bytes::from_static(b"x")).unwrap();
    let ready = cluster.raft(1).ready();
    let write = ready.write.unwrap();
    for message in ready.send_now.into_iter().filter(|m| m.to == NodeId(2)) {
        cluster.raft(2).step(message).unwrap();
    }
    cluster.settle(2);
    for reply in cluster.take_messages() {
        cluster.raft(1).step(reply).unwrap();
    }
    assert!(
        cluster.raft(1).commit() < entry.index,
        "only node 2 has it durably"
    );
    cluster.raft(1).durable(write.id);
    assert_eq!(cluster.raft(1).commit(), entry.index);
}

#[test]
fn conflicting_entries_of_an_old_leader_are_overwritten() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "kept");
    cluster.connect(1, false);
    for lost in ["lost 1", "lost 2", "lost 3"] {
        cluster.propose(1, lost);
    }
    assert_eq!(cluster.applied(1), ["kept"]);
    cluster.elect(2);
    cluster.propose(2, "new 1");
    cluster.propose(2, "new 2");
    cluster.connect(1, true);
    cluster.heartbeat(2);
    cluster.heartbeat(2);
    for node in cluster.ids() {
        assert_eq!(cluster.applied(node), ["kept", "new 1", "new 2"]);
        assert_eq!(
            cluster.log(node),
            cluster.log(2),
            "on the disk of node {node}"
        );
    }
}

#[test]
fn a_restarted_node_has_what_was_durable_and_catches_up() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "before");
    cluster.crash(3);
    cluster.propose(1, "meanwhile");
    cluster.start(3);
    cluster.heartbeat(1);
    cluster.heartbeat(1);
    cluster.heartbeat(1);
    assert_eq!(cluster.applied(3), ["before", "meanwhile"]);
}

/// Figure 7: a leader with the top log, and followers that lack entries, have extra ones, or both.
#[test]
fn figure_7_any_follower_is_brought_into_line() {
    let log = |terms: &[u64]| -> Vec<Entry> {
        let numbered = (1..).zip(terms);
        numbered
            .map(|(index, &term)| entry(term, index, "x"))
            .collect()
    };
    let mut cluster = Cluster::with_logs([
        (1, log(&[1, 1, 1, 4, 4, 5, 5, 6, 6, 6])),
        (2, log(&[1, 1, 1, 4, 4, 5, 5, 6, 6])),
        (3, log(&[1, 1, 1, 4])),
        (4, log(&[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6])),
        (5, log(&[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7])),
        (6, log(&[1, 1, 1, 4, 4, 4, 4])),
        (7, log(&[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3])),
    ]);
    // The figure's leader is of term 8; d and f's terms are later than what they can vote for, so it needs the others.
    while cluster.raft(1).term() < Term(8) {
        cluster.raft(1).tick();
    }
    cluster.deliver();
    assert!(cluster.raft(1).is_leader());
    for _ in 0..10 {
        cluster.heartbeat(1);
    }
    assert_eq!(cluster.log(1).len(), 11);
    for node in cluster.ids() {
        assert_eq!(cluster.log(node), cluster.log(1), "node {node}");
    }
}

#[test]
fn a_follower_refuses_what_does_not_fit_and_says_where_to_try() {
    let log = || vec![entry(1, 1, "a"), entry(2, 2, "b"), entry(2, 3, "c")];
    let refused = |prev, term, first| AppendOutcome::Conflict {
        prev: Index(prev),
        term: Term(term),
        first: Index(first),
    };
    for (prev, expected) in [
        (id(3, 9), refused(9, 0, 4)),
        (id(3, 3), refused(3, 2, 2)),
        (id(1, 2), refused(2, 2, 2)),
        (id(0, 1), refused(1, 1, 1)),
    ] {
        let mut raft = follower(2, log());
        assert_eq!(
            outcome(&mut raft, append(3, prev, vec![], 0)),
            expected,
            "after {prev}"
        );
        assert_eq!(raft.last(), id(2, 3), "nothing is cut by a refusal");
    }
}

#[test]
fn a_shorter_or_older_append_cuts_nothing() {
    // Figure 2, AppendEntries 3: only an entry that conflicts is deleted.
    let mut raft = follower(
        1,
        vec![entry(1, 1, "a"), entry(1, 2, "b"), entry(1, 3, "c")],
    );
    let matched = outcome(&mut raft, append(1, id(0, 0), vec![entry(1, 1, "a")], 0));
    assert_eq!(
        matched,
        AppendOutcome::Matched(Index(1)),
        "what was sent, not the end of the log"
    );
    assert_eq!(raft.last(), id(1, 3));
}

#[test]
fn a_follower_commits_no_further_than_what_was_matched() {
    // Entry 2 may be of another leader: the message says nothing about it.
    let mut raft = follower(1, vec![entry(1, 1, "a"), entry(1, 2, "b")]);
    outcome(&mut raft, append(2, id(1, 1), vec![], 2));
    assert_eq!(raft.commit(), Index(1));
}

#[test]
fn a_success_counts_though_next_index_has_moved_on_and_stale_rejections_do_not() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let first = cluster.propose(1, "a");
    let last = cluster.propose(1, "b");
    let term = cluster.raft(1).term().0;
    let reply = |outcome| Envelope {
        from: NodeId(2),
        to: NodeId(1),
        term: Term(term),
        message: Message::AppendReply {
            outcome,
            round: Round(0),
        },
    };
    let stale = AppendOutcome::Conflict {
        prev: first.index,
        term: Term(0),
        first: Index(1),
    };
    assert_eq!(cluster.raft(1).step(reply(stale)), Err(Ignored::Stale));
    let unsent = AppendOutcome::Matched(last.index.next());
    assert_eq!(cluster.raft(1).step(reply(unsent)), Err(Ignored::Nonsense));
    let mut unasked = reply(AppendOutcome::Matched(last.index));
    if let Message::AppendReply { round, .. } = &mut unasked.message {
        *round = Round(99);
    }
    assert_eq!(cluster.raft(1).step(unasked), Err(Ignored::Nonsense));
    let ignored = cluster.raft(1).ignored();
    let late_vote = 1;
    assert_eq!((ignored.stale, ignored.nonsense), (late_vote + 1, 2));
    cluster
        .raft(1)
        .step(reply(AppendOutcome::Matched(first.index)))
        .unwrap();
    cluster.propose(1, "c");
    cluster.heartbeat(1);
    assert_eq!(cluster.applied(2), ["a", "b", "c"]);
}

#[test]
fn a_success_that_was_overtaken_takes_nothing_back() {
    let mut follower = Progress::new(Index(9));
    follower.matched(Index(9));
    follower.matched(Index(7));
    assert_eq!(follower.match_index, Index(9));
    assert_eq!(follower.next_index, Index(10));
}

#[test]
fn no_more_than_the_window_is_under_way_to_a_follower() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let window = Config::new(NodeId(1), [NodeId(1)]).window_entries as usize;
    for _ in 0..window + 10 {
        let command = Bytes::from_static(b"x");
        cluster.raft(1).propose(command).unwrap();
    }
    cluster.settle(1);
    let mut under_way = 0;
    for envelope in cluster.take_messages() {
        if let (NodeId(2), Message::Append { entries, .. }) = (envelope.to, envelope.message) {
            under_way += entries.len();
        }
    }
    assert_eq!(under_way, window);
}

/// Entries of so many bytes each that are under way from a leader to its one follower, of twenty proposed ones, and what an
/// acknowledgement of the first brings.
fn under_way(entry_bytes: usize, window_bytes: u64) -> (usize, usize) {
    let mut config = as_in_the_paper(1, 2);
    config.append_bytes_max = 250;
    config.window_bytes = window_bytes;
    let mut raft = Raft::new(config, HardState::default(), Vec::new());
    while raft.term() == Term(0) {
        raft.tick();
    }
    let say = |raft: &mut Raft, message| {
        raft.step(Envelope {
            from: NodeId(2),
            to: NodeId(1),
            term: Term(1),
            message,
        })
        .unwrap();
        let ready = raft.ready();
        if let Some(write) = ready.write {
            raft.durable(write.id);
        }
        let appends = ready.send_now.into_iter().map(|sent| match sent.message {
            Message::Append { entries, .. } => entries.len(),
            other => panic!("{other:?}"),
        });
        appends.sum()
    };
    let matched = |index| Message::AppendReply {
        outcome: AppendOutcome::Matched(Index(index)),
        round: Round(0),
    };
    let write = raft.ready().write.unwrap();
    raft.durable(write.id);
    let _: usize = say(&mut raft, Message::Vote { granted: true });
    for _ in 0..20 {
        raft.propose(vec![7; entry_bytes].into()).unwrap();
    }
    (say(&mut raft, matched(1)), say(&mut raft, matched(2)))
}

#[test]
fn no_more_bytes_than_the_window_are_under_way_to_a_follower() {
    for (entry_bytes, window_bytes, expected) in [
        (100, 1000, (10, 1)),
        (100, 1050, (10, 1)),
        (100, 999, (9, 1)),
        (1, 1000, (20, 0)),
        // Whatever the window, the follower gets on.
        (100, 99, (1, 1)),
        (100, 0, (1, 1)),
    ] {
        let found = under_way(entry_bytes, window_bytes);
        assert_eq!(found, expected, "{entry_bytes} in {window_bytes}");
    }
}

#[test]
fn lost_messages_are_sent_again() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "a");
    cluster
        .raft(1)
        .propose(Bytes::from_static(b"lost on the way"))
        .unwrap();
    cluster.settle(1);
    assert_eq!(cluster.take_messages().len(), 2);
    cluster.heartbeat(1);
    cluster.heartbeat(1);
    cluster.heartbeat(1);
    assert_eq!(cluster.applied(3), ["a", "lost on the way"]);
}

#[test]
fn messages_that_contradict_themselves_change_nothing() {
    let log = || vec![entry(1, 1, "a"), entry(1, 2, "b")];
    let nonsense = [
        append(2, id(1, 2), vec![entry(1, 4, "gap")], 0),
        append(
            2,
            id(1, 2),
            vec![entry(3, 3, "of a later term than the message")],
            0,
        ),
        append(
            2,
            id(1, 2),
            vec![entry(0, 3, "of an earlier term than the one before")],
            0,
        ),
        append(
            2,
            id(1, u64::MAX),
            vec![entry(1, 0, "past the last index")],
            0,
        ),
    ];
    for message in nonsense {
        let mut raft = follower(1, log());
        assert_eq!(raft.step(message), Err(Ignored::Nonsense));
        assert_eq!((raft.term(), raft.last()), (Term(1), id(1, 2)));
        assert_eq!(raft.ignored().nonsense, 1);
    }
}

#[test]
fn what_is_committed_is_never_taken_back() {
    let mut raft = follower(1, vec![entry(1, 1, "a"), entry(1, 2, "b")]);
    outcome(&mut raft, append(1, id(1, 2), vec![], 2));
    assert_eq!(raft.commit(), Index(2));
    let hostile = append(9, id(1, 1), vec![entry(9, 2, "other")], 0);
    assert_eq!(raft.step(hostile), Err(Ignored::Nonsense));
    assert_eq!((raft.last(), raft.ignored().nonsense), (id(1, 2), 1));
}

#[test]
fn a_large_backlog_goes_out_in_several_messages() {
    let config = |id| {
        let mut config = as_in_the_paper(id, 2);
        config.append_bytes_max = 100;
        config
    };
    let log: Vec<Entry> = (1..=50)
        .map(|index| Entry {
            id: id(1, index),
            payload: Bytes::from(vec![7; 30]),
            ..Entry::default()
        })
        .collect();
    let mut leader = Raft::new(
        config(1),
        HardState {
            term: Term(1),
            voted_for: None,
            ..HardState::default()
        },
        log,
    );
    let mut other = Raft::new(config(2), HardState::default(), Vec::new());
    while leader.term() == Term(1) {
        leader.tick();
    }
    let mut messages = 0;
    while other.last() != id(2, 51) {
        exchange(&mut leader, &mut other, &mut messages);
        exchange(&mut other, &mut leader, &mut messages);
    }
    assert!(messages > 50 / 3, "{messages}");
}

fn exchange(from: &mut Raft, to: &mut Raft, messages: &mut usize) {
    let ready = from.ready();
    if let Some(write) = ready.write {
        from.durable(write.id);
    }
    for message in ready.send_now.into_iter().chain(ready.send_when_durable) {
        if let Message::Append { entries, .. } = &message.message {
            let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
            assert!(bytes <= 100);
            *messages += 1;
        }
        to.step(message).unwrap();
    }
}

/// It cannot be, unless a node lost its vote: then the first one counts, and the second is not helped.
#[test]
fn a_second_leader_of_a_term_is_not_followed() {
    let mut raft = follower(3, Vec::new());
    raft.step(append(3, id(0, 0), Vec::new(), 0)).unwrap();
    let mut second = append(3, id(0, 0), vec![entry(3, 1, "x")], 0);
    second.from = NodeId(3);
    assert_eq!(raft.step(second), Err(Ignored::Nonsense));
    assert_eq!((raft.leader(), raft.last()), (Some(NodeId(2)), id(0, 0)));
    assert_eq!(raft.ignored().nonsense, 1);
}
