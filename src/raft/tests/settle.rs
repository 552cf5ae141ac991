//! A new leader and its bad entries: which are found, which are dropped, and for which it waits.

use std::collections::BTreeSet;

use bytes::Bytes;
use duramen_wal::types::{Entry, Index, LogId, NodeId, Term};

use super::repair::{answer, carry_out, questions, restored, say};
use super::{Cluster, as_in_the_paper, entry, id};
use crate::raft::Badness::{Damaged, Suspect};
use crate::raft::{
    Answer, Answers, AppendOutcome, Badness, ChangeRefused, Config, Envelope, Ignored, Membership,
    Message, Offer, OwnSnapshot, Raft, ReadId, Refused, Restored, Round, SnapshotFate,
};

/// Node 1 of some, just elected to term 4 by these voters, with entries 1.1, 1.2, 2.3, 2.4, 2.5, of which some are bad.
fn leader_of(config: Config, restored: Restored, by: &[u64]) -> Raft {
    let mut raft = Raft::restart(config, restored);
    while raft.term() == Term(3) {
        raft.tick();
    }
    carry_out(&mut raft);
    for voter in by {
        say(&mut raft, *voter, 4, Message::Vote { granted: true }).unwrap();
    }
    assert!(raft.is_leader());
    raft
}

pub(super) fn leader(nodes: u64, bad: &[(u64, Badness)]) -> Raft {
    let by: Vec<u64> = (2..=nodes / 2 + 1).collect();
    leader_of(as_in_the_paper(1, nodes), restored(bad), &by)
}

fn bad(id: LogId, badness: Badness) -> Answer {
    Answer::Bad { id, badness }
}

fn lack(id: LogId) -> Answer {
    Answer::Lack(id)
}

/// Whether it has its blank entry, and where.
fn blank(raft: &Raft) -> Option<Index> {
    let last = raft.last();
    (last.term == Term(4)).then_some(last.index)
}

#[test]
fn a_new_leader_finds_its_bad_entries_and_then_begins_its_term() {
    let mut raft = leader(3, &[(2, Damaged), (5, Suspect)]);
    assert_eq!(raft.unsettled(), [(id(1, 2), Damaged), (id(2, 5), Suspect)]);
    let asked = questions(&carry_out(&mut raft).messages);
    assert_eq!(asked.len(), 2);
    assert!(
        asked
            .iter()
            .all(|(_, question)| question.is_leader && question.ids.len() == 2)
    );
    answer(&mut raft, 2, 4, vec![Answer::Have(entry(1, 2, "b"))]);
    assert_eq!((blank(&raft), raft.unsettled().len()), (None, 1));
    answer(&mut raft, 3, 4, vec![Answer::Have(entry(2, 5, "e"))]);
    assert_eq!((blank(&raft), raft.unsettled().len()), (Some(Index(6)), 0));
    let write = carry_out(&mut raft).writes.remove(0);
    assert_eq!((write.repairs.len(), write.entries.len()), (2, 1));
}

#[test]
fn what_a_majority_lacks_is_dropped_with_all_after_it() {
    let mut raft = leader(3, &[(4, Damaged)]);
    answer(&mut raft, 2, 4, vec![lack(id(2, 4))]);
    assert_eq!(blank(&raft), None, "node 3 may have it");
    answer(&mut raft, 3, 4, vec![lack(id(2, 4))]);
    assert_eq!(raft.last(), id(4, 4));
    let done = carry_out(&mut raft);
    assert!(
        done.dropped.is_empty(),
        "it was never committed, so nothing is lost"
    );
    assert_eq!(done.writes[0].entries[0].id, id(4, 4));
}

/// The leader itself, and all who do not answer, may have acknowledged it.
#[test]
fn so_many_must_lack_it_that_the_rest_is_no_majority() {
    let mut raft = leader(5, &[(5, Suspect)]);
    for (voter, expected) in [(2, None), (3, None), (4, Some(Index(5)))] {
        answer(&mut raft, voter, 4, vec![lack(id(2, 5))]);
        assert_eq!(blank(&raft), expected, "after node {voter}");
    }
    let mut raft = leader(5, &[(5, Suspect)]);
    for outsider in [6, 7, 8, 2, 2, 2] {
        answer(&mut raft, outsider, 4, vec![lack(id(2, 5))]);
        assert_eq!(
            blank(&raft),
            None,
            "who does not vote, or votes once, says little"
        );
    }
}

#[test]
fn what_was_lacked_in_an_earlier_term_says_nothing() {
    let mut raft = leader(3, &[(4, Damaged)]);
    for voter in [2, 3] {
        answer(&mut raft, voter, 3, vec![lack(id(2, 4))]);
    }
    assert_eq!(blank(&raft), None);
}

#[test]
fn a_damaged_copy_is_waited_for() {
    for (own, other) in [(Suspect, Damaged), (Damaged, Suspect), (Damaged, Damaged)] {
        let mut raft = leader(3, &[(5, own)]);
        answer(&mut raft, 2, 4, vec![bad(id(2, 5), other)]);
        answer(&mut raft, 3, 4, vec![lack(id(2, 5))]);
        // A later answer that was given earlier changes nothing.
        answer(&mut raft, 2, 4, vec![bad(id(2, 5), other)]);
        assert_eq!(
            (blank(&raft), raft.unsettled()),
            (None, vec![(id(2, 5), own)])
        );
    }
}

#[test]
fn a_silent_voter_is_waited_for() {
    let mut raft = leader(3, &[(5, Suspect)]);
    for _ in 0..100 {
        answer(&mut raft, 2, 4, vec![bad(id(2, 5), Suspect)]);
        raft.tick();
        carry_out(&mut raft);
    }
    assert_eq!((blank(&raft), raft.unsettled().len()), (None, 1));
}

#[test]
fn what_is_torn_everywhere_is_dropped_and_reported() {
    let mut raft = leader(3, &[(4, Suspect), (5, Suspect)]);
    for voter in [2, 3] {
        let answers = vec![bad(id(2, 4), Suspect), bad(id(2, 5), Suspect)];
        answer(&mut raft, voter, 4, answers);
    }
    assert_eq!(raft.last(), id(4, 4));
    assert_eq!(carry_out(&mut raft).dropped, [id(2, 4), id(2, 5)]);
}

#[test]
fn a_learner_that_may_have_the_only_copy_is_waited_for() {
    let mut config = as_in_the_paper(1, 1);
    config.membership = Membership::of_voters([NodeId(1)]).with_learner(NodeId(2));
    let mut raft = leader_of(config, restored(&[(5, Suspect)]), &[]);
    assert_eq!(blank(&raft), None);
    answer(&mut raft, 2, 4, vec![Answer::Have(entry(2, 5, "e"))]);
    assert_eq!(raft.last(), id(4, 6));
}

#[test]
fn a_node_alone_drops_what_is_torn_and_keeps_what_is_damaged() {
    for (badness, last) in [(Suspect, id(4, 5)), (Damaged, id(2, 5))] {
        let raft = leader_of(as_in_the_paper(1, 1), restored(&[(5, badness)]), &[]);
        assert_eq!(raft.last(), last);
    }
}

/// An answer tells how far its sender knows of commits: what is there, is never dropped, and not waited for either.
#[test]
fn what_anybody_knows_to_be_committed_stays() {
    let mut raft = leader(3, &[(3, Damaged), (5, Suspect)]);
    carry_out(&mut raft);
    let commit = Answers {
        commit: Index(3),
        ..Answers::default()
    };
    say(&mut raft, 3, 4, Message::Entries(commit)).unwrap();
    assert_eq!(raft.unsettled(), [(id(2, 5), Suspect)]);
    for voter in [2, 3] {
        answer(&mut raft, voter, 4, vec![lack(id(2, 3)), lack(id(2, 5))]);
    }
    assert_eq!(raft.last(), id(4, 5));
    let bad: Vec<_> = raft.bad_entries().collect();
    assert_eq!(bad, [(id(2, 3), Damaged)]);
    // The blank entry goes to those who have all before it, past the entry that is missing here.
    let messages = carry_out(&mut raft).messages;
    let sent = messages
        .iter()
        .filter_map(|envelope| match &envelope.message {
            Message::Append { prev, entries, .. } => Some((prev.index.0, entries.len())),
            _ => None,
        });
    assert_eq!(sent.collect::<Vec<_>>(), [(4, 1), (4, 1)]);
}

#[test]
fn a_commit_index_that_no_log_reaches_is_nonsense() {
    let mut raft = leader(3, &[(5, Damaged)]);
    let answers = Answers {
        commit: Index(u64::MAX),
        ..Answers::default()
    };
    let taken = say(&mut raft, 2, 4, Message::Entries(answers));
    assert_eq!(taken, Err(Ignored::Nonsense));
    assert_eq!(raft.unsettled(), [(id(2, 5), Damaged)]);
}

#[test]
fn what_is_purged_somewhere_is_committed_and_comes_with_its_snapshot() {
    let mut raft = leader(3, &[(2, Damaged), (4, Damaged)]);
    let purged = Answers {
        entries: vec![Answer::Purged(id(1, 2)), lack(id(2, 4))],
        commit: Index(3),
        snapshot: Some(OwnSnapshot {
            last: id(2, 3),
            membership: Membership::of_voters([1, 2, 3].map(NodeId)),
            manifest: Bytes::new(),
        }),
    };
    say(&mut raft, 2, 4, Message::Entries(purged)).unwrap();
    assert_eq!(raft.unsettled(), [(id(2, 4), Damaged)]);
    let offer: Offer = carry_out(&mut raft).offers.remove(0);
    assert_eq!(
        raft.snapshot_installed(&offer),
        SnapshotFate::Newest,
        "a leader takes what its log holds"
    );
    assert_eq!((raft.first(), raft.last()), (Index(4), id(2, 5)));
    answer(&mut raft, 3, 4, vec![lack(id(2, 4))]);
    assert_eq!(raft.last(), id(4, 4));
}

/// Entry 3 puts a joint membership in force, of the old voters 1 to 3 and the new ones 1, 4 and 5. Either majority may have been
/// enough: the new voters' alone, if the change has ended at the leader of that time.
#[test]
fn in_a_joint_membership_a_majority_of_each_side_must_lack_it() {
    let joint = Membership::of_voters([1, 2, 3].map(NodeId))
        .towards(Membership::of_voters([1, 4, 5].map(NodeId)));
    let log = |index: usize| {
        let mut restored = restored(&[(5, Damaged)]);
        restored.log[index] = Entry {
            context: Membership::mark(),
            payload: joint.encode().into(),
            ..restored.log[index].clone()
        };
        restored
    };
    for first in [[2, 3], [4, 5]] {
        let mut raft = leader_of(as_in_the_paper(1, 3), log(2), &[2, 4]);
        let asked = questions(&carry_out(&mut raft).messages);
        assert_eq!(
            asked.iter().map(|(to, _)| *to).collect::<Vec<_>>(),
            [2, 3, 4, 5]
        );
        for voter in first {
            answer(&mut raft, voter, 4, vec![lack(id(2, 5))]);
            assert_eq!(blank(&raft), None, "after node {voter}");
        }
        for voter in [2, 3, 4, 5] {
            answer(&mut raft, voter, 4, vec![lack(id(2, 5))]);
        }
        assert_eq!(blank(&raft), Some(Index(5)));
    }
}

/// A membership that came after the entry goes with it.
#[test]
fn a_membership_after_what_is_dropped_is_taken_back() {
    let joint = Membership::of_voters([1, 2, 3].map(NodeId))
        .towards(Membership::of_voters([1, 4, 5].map(NodeId)));
    let mut restored = restored(&[(4, Damaged)]);
    restored.log[4] = Entry {
        context: Membership::mark(),
        payload: joint.encode().into(),
        ..restored.log[4].clone()
    };
    let mut raft = leader_of(as_in_the_paper(1, 3), restored, &[2, 4]);
    for voter in [2, 3, 4] {
        answer(&mut raft, voter, 4, vec![lack(id(2, 4))]);
        assert_eq!(blank(&raft), None, "after node {voter}");
    }
    answer(&mut raft, 5, 4, vec![lack(id(2, 4))]);
    assert_eq!(raft.last(), id(4, 4));
    assert!(!raft.membership().is_joint());
}

#[test]
fn while_it_settles_a_leader_takes_nothing_and_says_that_it_is_there() {
    let mut raft = leader(3, &[(4, Damaged)]);
    let refused = Refused::Settling;
    assert_eq!(raft.propose(Bytes::from_static(b"x")), Err(refused));
    assert_eq!(raft.read(ReadId(1)), Err(refused));
    let target = Membership::of_voters([NodeId(1)]);
    assert_eq!(raft.change_membership(target), Err(ChangeRefused::TooEarly));
    let mut heartbeats = 0;
    for _ in 0..50 {
        raft.tick();
        for envelope in carry_out(&mut raft).messages {
            if let Message::Append { prev, entries, .. } = envelope.message {
                assert_eq!(
                    (prev, entries.len()),
                    (id(2, 3), 0),
                    "it reaches what may be dropped"
                );
                heartbeats += 1;
            }
        }
    }
    assert!(heartbeats >= 20, "{heartbeats}");
}

/// A follower that lacks what is before the bad entry gets it, and no placeholder.
#[test]
fn a_leader_sends_what_is_before_its_first_bad_entry() {
    let mut raft = leader(3, &[(4, Damaged)]);
    carry_out(&mut raft);
    let outcome = AppendOutcome::Conflict {
        prev: Index(3),
        term: Term(0),
        first: Index(1),
    };
    let round = Round(0);
    say(&mut raft, 2, 4, Message::AppendReply { outcome, round }).unwrap();
    let messages = carry_out(&mut raft).messages;
    let Message::Append { prev, entries, .. } = &messages[0].message else {
        panic!("{messages:?}");
    };
    assert_eq!((prev.index, entries.len()), (Index(0), 3));
    let outcome = AppendOutcome::Matched(Index(3));
    say(&mut raft, 2, 4, Message::AppendReply { outcome, round }).unwrap();
    assert!(carry_out(&mut raft).messages.is_empty());
    answer(&mut raft, 3, 4, vec![Answer::Have(entry(2, 4, "d"))]);
    let messages = carry_out(&mut raft).messages.into_iter();
    let sent = messages.filter_map(|envelope| match envelope.message {
        Message::Append { entries, .. } if envelope.to == NodeId(2) => Some(entries),
        _ => None,
    });
    let sent: Vec<LogId> = sent.flatten().map(|entry| entry.id).collect();
    assert_eq!(sent, [id(2, 4), id(2, 5), id(4, 6)]);
}

/// The leader counts itself only before its first bad entry.
#[test]
fn a_leader_with_a_bad_entry_does_not_count_itself() {
    let mut raft = leader(3, &[(3, Damaged)]);
    let commit = Answers {
        commit: Index(3),
        ..Answers::default()
    };
    say(&mut raft, 3, 4, Message::Entries(commit)).unwrap();
    assert_eq!(raft.last(), id(4, 6));
    carry_out(&mut raft);
    let (outcome, round) = (AppendOutcome::Matched(Index(6)), Round(0));
    say(&mut raft, 2, 4, Message::AppendReply { outcome, round }).unwrap();
    assert_eq!(raft.commit(), Index(0));
    answer(&mut raft, 3, 4, vec![Answer::Have(entry(2, 3, "c"))]);
    assert_eq!(raft.commit(), Index(0), "not before the repair is durable");
    carry_out(&mut raft);
    assert_eq!(raft.commit(), Index(6));
}

/// It may have all that this leader lacks.
#[test]
fn a_leader_that_settles_hands_over() {
    // As much as it may be sent; or more, since it knows that to be committed.
    for matched in [3, 5] {
        let mut raft = leader(3, &[(4, Damaged)]);
        raft.transfer_leadership(NodeId(2)).unwrap();
        carry_out(&mut raft);
        let (outcome, round) = (AppendOutcome::Matched(Index(matched)), Round(0));
        say(&mut raft, 2, 4, Message::AppendReply { outcome, round }).unwrap();
        let messages = carry_out(&mut raft).messages;
        let told = |envelope: &Envelope| envelope.message == Message::TimeoutNow;
        assert!(messages.iter().any(told), "{matched}");
    }
}

/// Nodes with the same four entries, all committed once.
fn three() -> Cluster {
    let log: Vec<Entry> = (1..=4)
        .map(|index| entry(1, index, COMMANDS[index as usize - 1]))
        .collect();
    Cluster::with_logs((1..=3).map(|node| (node, log.clone())))
}

const COMMANDS: [&str; 4] = ["a", "b", "c", "d"];

#[test]
fn after_a_power_cut_of_all_nodes_a_torn_tail_is_dropped_and_the_cluster_serves() {
    let mut cluster = three();
    for node in [1, 2, 3] {
        cluster.restart_with_bad(node, &[(4, Suspect)]);
    }
    let leader = cluster.leader();
    cluster.propose(leader, "new");
    cluster.heartbeat(leader);
    for node in [1, 2, 3] {
        assert_eq!(cluster.applied(node), ["a", "b", "c", "new"]);
        assert!(cluster.bad(node).is_empty());
    }
    assert_eq!(cluster.dropped(leader), [id(1, 4)]);
}

#[test]
fn a_silent_voter_that_comes_back_ends_the_wait() {
    let mut cluster = three();
    cluster.restart_with_bad(1, &[(2, Damaged)]);
    cluster.restart_with_bad(2, &[(2, Damaged)]);
    cluster.crash(3);
    let leader = cluster.leader();
    (0..200).for_each(|_| cluster.tick());
    assert_eq!(cluster.raft(leader).unsettled(), [(id(1, 2), Damaged)]);
    cluster.restart_with_bad(3, &[(4, Damaged)]);
    (0..100).for_each(|_| cluster.tick());
    for node in [1, 2, 3] {
        assert_eq!(cluster.applied(node), COMMANDS);
    }
}

/// FAST'18, section 5.2.1 there, at the core: three nodes hold four committed entries, and every combination of their twelve
/// copies is damaged once. The cluster recovers if and only if each entry has a whole copy: in 7^4 of 2^12 cases.
#[test]
fn of_all_combinations_of_damaged_copies_exactly_those_recover_that_can() {
    let (mut recovered, mut unavailable) = (0, 0);
    for bits in 0..1_u32 << 12 {
        let is_damaged = |node: u64, index: u64| bits >> ((node - 1) * 4 + index - 1) & 1 == 1;
        let mut cluster = three();
        for node in 1..=3 {
            let bad = (1..=4).filter(|index| is_damaged(node, *index));
            cluster.restart_with_bad(node, &bad.map(|index| (index, Damaged)).collect::<Vec<_>>());
        }
        let lost: BTreeSet<u64> = (1..=4)
            .filter(|index| (1..=3).all(|node| is_damaged(node, *index)))
            .collect();
        let leader = cluster.leader();
        (0..20).for_each(|_| cluster.tick());
        let term = cluster.raft(leader).term();
        let unsettled = cluster.raft(leader).unsettled().into_iter();
        let unsettled: BTreeSet<u64> = unsettled.map(|(id, _)| id.index.0).collect();
        assert_eq!(unsettled, lost, "{bits:012b}");
        let began = cluster.raft(leader).last().term == term;
        assert_eq!(began, lost.is_empty(), "{bits:012b}");
        if !began {
            unavailable += 1;
            let logs = (1..=3).map(|node| cluster.log(node).len());
            assert!(logs.eq([4, 4, 4]), "{bits:012b}: something was given up");
            continue;
        }
        cluster.propose(leader, "e");
        cluster.heartbeat(leader);
        for node in 1..=3 {
            assert_eq!(
                cluster.applied(node),
                ["a", "b", "c", "d", "e"],
                "{bits:012b}"
            );
            assert!(cluster.bad(node).is_empty(), "{bits:012b}");
        }
        recovered += 1;
    }
    assert_eq!((recovered, unavailable), (2401, 1695));
}
