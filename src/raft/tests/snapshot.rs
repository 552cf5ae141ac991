//! Section 7: log compaction and InstallSnapshot.

use bytes::Bytes;
use duramen_wal::types::{Entry, HardState, Index, LogId, NodeId, Term};

use super::{as_in_the_paper, entry, id};
use crate::raft::{
    AppendOutcome, Config, Envelope, Ignored, Membership, Message, Offer, Raft, Restored, Round,
    SnapshotFate, Write, is_command,
};

fn in_term(term: u64) -> HardState {
    HardState {
        term: Term(term),
        ..HardState::default()
    }
}

fn after_snapshot(
    config: Config,
    hard_state: HardState,
    base: LogId,
    manifest: Bytes,
    log: Vec<Entry>,
) -> Raft {
    let restored = Restored {
        hard_state,
        base,
        manifest: Some(manifest),
        log,
        ..Restored::default()
    };
    Raft::restart(config, restored)
}

/// Does what the core asks for, and gives the messages.
fn settle(raft: &mut Raft) -> (Vec<Envelope>, Vec<Write>) {
    let (mut messages, mut writes) = (Vec::new(), Vec::new());
    loop {
        let ready = raft.ready();
        if ready.is_empty() {
            return (messages, writes);
        }
        messages.extend(ready.send_now);
        if let Some(write) = ready.write {
            raft.durable(write.id);
            writes.push(write);
        }
        messages.extend(ready.send_when_durable);
    }
}

/// Node 1 of three, leader of term 3, with entries 1 to 5 committed and a snapshot of the first 4.
fn leader_with_snapshot() -> Raft {
    let log = (1..=4).map(|index| entry(1, index, "x")).collect();
    let mut raft = Raft::new(as_in_the_paper(1, 3), in_term(2), log);
    while raft.term() == Term(2) {
        raft.tick();
    }
    settle(&mut raft);
    say(&mut raft, 2, 3, Message::Vote { granted: true }).unwrap();
    settle(&mut raft);
    matched(&mut raft, 2, 5);
    settle(&mut raft);
    assert_eq!((raft.is_leader(), raft.commit()), (true, Index(5)));
    let _ = raft.snapshot_taken(Index(4), Bytes::from_static(b"of four"));
    raft.compact(Index(4));
    raft
}

/// Node 1 of three, in term 3, which holds these entries.
fn follower(log: Vec<Entry>) -> Raft {
    Raft::new(as_in_the_paper(1, 3), in_term(3), log)
}

fn say(raft: &mut Raft, from: u64, term: u64, message: Message) -> Result<(), Ignored> {
    raft.step(Envelope {
        from: NodeId(from),
        to: NodeId(1),
        term: Term(term),
        message,
    })
}

fn matched(raft: &mut Raft, from: u64, index: u64) {
    let outcome = AppendOutcome::Matched(Index(index));
    let round = Round::default();
    say(raft, from, 3, Message::AppendReply { outcome, round }).unwrap();
}

fn conflict(raft: &mut Raft, from: u64, prev: u64, first: u64) {
    let outcome = AppendOutcome::Conflict {
        prev: Index(prev),
        term: Term(0),
        first: Index(first),
    };
    let round = Round::default();
    let _ = say(raft, from, 3, Message::AppendReply { outcome, round });
}

fn install(last: LogId) -> Message {
    Message::InstallSnapshot {
        last,
        membership: Membership::of_voters([1, 2, 4].map(NodeId)),
        manifest: Bytes::from_static(b"where it is"),
    }
}

/// The follower's answers to the leader, node 2.
fn answers(raft: &mut Raft) -> Vec<AppendOutcome> {
    let messages = settle(raft).0.into_iter();
    messages
        .filter_map(|envelope| match envelope.message {
            Message::AppendReply { outcome, .. } => Some(outcome),
            _ => None,
        })
        .collect()
}

fn offers(messages: &[Envelope]) -> Vec<(NodeId, LogId)> {
    let offers = messages
        .iter()
        .filter_map(|envelope| match &envelope.message {
            Message::InstallSnapshot { last, .. } => Some((envelope.to, *last)),
            _ => None,
        });
    offers.collect()
}

#[test]
fn a_follower_that_lacks_what_is_gone_is_offered_the_snapshot_and_goes_on_after_it() {
    let mut raft = leader_with_snapshot();
    assert_eq!(raft.first(), Index(5));
    conflict(&mut raft, 3, 4, 1);
    let (messages, _) = settle(&mut raft);
    assert_eq!(offers(&messages), [(NodeId(3), id(1, 4))]);
    // Nothing else is sent to it meanwhile but heartbeats.
    raft.propose(Bytes::from_static(b"y")).unwrap();
    let (messages, _) = settle(&mut raft);
    assert!(messages.iter().all(|envelope| envelope.to == NodeId(2)));
    matched(&mut raft, 3, 4);
    let (messages, _) = settle(&mut raft);
    let [
        Envelope {
            message: Message::Append { prev, entries, .. },
            ..
        },
    ] = &messages[..]
    else {
        panic!("{messages:?}");
    };
    assert_eq!((*prev, entries.len()), (id(1, 4), 2));
}

#[test]
fn an_offer_is_made_again_and_again() {
    let mut raft = leader_with_snapshot();
    conflict(&mut raft, 3, 4, 1);
    settle(&mut raft);
    let mut made = Vec::new();
    for _ in 0..250 {
        raft.tick();
        made.extend(offers(&settle(&mut raft).0));
    }
    assert_eq!(made, [(NodeId(3), id(1, 4)); 2]);
}

/// A follower that takes long to fetch a snapshot is not sent after another one at each compaction.
#[test]
fn a_compaction_makes_no_offer_before_its_time() {
    let mut raft = leader_with_snapshot();
    conflict(&mut raft, 3, 4, 1);
    settle(&mut raft);
    let mut made = Vec::new();
    for last in 6..=50 {
        raft.propose(Bytes::from_static(b"y")).unwrap();
        settle(&mut raft);
        matched(&mut raft, 2, last);
        settle(&mut raft);
        let _ = raft.snapshot_taken(Index(last), Bytes::new());
        raft.compact(Index(last));
        raft.tick();
        made.extend(offers(&settle(&mut raft).0));
    }
    assert_eq!(made, []);
}

#[test]
fn an_installed_snapshot_is_the_beginning_of_the_log_whatever_was_there() {
    for log in [
        Vec::new(),
        vec![entry(1, 1, "a"), entry(1, 2, "lost"), entry(2, 3, "lost")],
    ] {
        let mut raft = follower(log);
        say(&mut raft, 2, 3, install(id(2, 8))).unwrap();
        let offer = raft.ready().offer.expect("it is needed");
        assert_eq!((offer.from, offer.last), (NodeId(2), id(2, 8)));
        assert_eq!(offer.manifest, "where it is");
        assert_eq!(raft.snapshot_installed(&offer), SnapshotFate::Newest);
        let (messages, writes) = settle(&mut raft);
        let resets: Vec<_> = writes.iter().map(|write| write.reset).collect();
        assert_eq!(resets, [Some(id(2, 8))]);
        assert!(matches!(
            messages[..],
            [Envelope {
                message: Message::AppendReply {
                    outcome: AppendOutcome::Matched(Index(8)),
                    ..
                },
                ..
            }]
        ));
        assert_eq!(
            (raft.last(), raft.commit(), raft.first()),
            (id(2, 8), Index(8), Index(9))
        );
        let voters: Vec<u64> = raft.membership().voters().map(|voter| voter.0).collect();
        assert_eq!(voters, [1, 2, 4]);
        // And the log goes on.
        let append = Message::Append {
            prev: id(2, 8),
            entries: vec![entry(3, 9, "b")],
            commit: Index(9),
            round: Round::default(),
        };
        say(&mut raft, 2, 3, append).unwrap();
        let ready = raft.ready();
        let write = ready.write.unwrap();
        assert_eq!(write.entries, [entry(3, 9, "b")]);
        raft.durable(write.id);
        let committed = raft.ready().committed;
        assert!(committed.len() == 1 && is_command(&committed[0]));
    }
}

/// A restart would find a log of a later term than the node's own: FAULTS, "entry durable before its term".
#[test]
fn a_snapshot_is_not_fetched_before_its_term_is_durable() {
    let mut raft = follower(Vec::new());
    say(&mut raft, 2, 4, install(id(4, 8))).unwrap();
    let ready = raft.ready();
    assert_eq!(ready.offer, None);
    raft.durable(ready.write.expect("the term is written").id);
    assert_eq!(raft.ready().offer.map(|offer| offer.last), Some(id(4, 8)));
}

/// Figure 13, step 6: "retain log entries following it".
#[test]
fn a_snapshot_that_is_a_prefix_of_the_log_takes_nothing_away() {
    let log: Vec<Entry> = (1..=5).map(|index| entry(1, index, "x")).collect();
    let mut raft = follower(log);
    say(&mut raft, 2, 3, install(id(1, 3))).unwrap();
    assert_eq!(answers(&mut raft), [AppendOutcome::Matched(Index(3))]);
    assert_eq!(
        (raft.last(), raft.commit(), raft.first()),
        (id(1, 5), Index(3), Index(1))
    );
}

#[test]
fn a_log_that_caught_up_while_the_snapshot_came_keeps_what_it_has() {
    let mut raft = follower(vec![entry(1, 1, "x")]);
    say(&mut raft, 2, 3, install(id(1, 3))).unwrap();
    let offer = raft.ready().offer.unwrap();
    let append = Message::Append {
        prev: id(1, 1),
        entries: (2..=5).map(|index| entry(1, index, "x")).collect(),
        commit: Index(4),
        round: Round::default(),
    };
    say(&mut raft, 2, 3, append).unwrap();
    settle(&mut raft);
    assert_eq!(raft.snapshot_installed(&offer), SnapshotFate::Overtaken);
    assert_eq!(answers(&mut raft), [AppendOutcome::Matched(Index(4))]);
    assert_eq!((raft.last(), raft.first()), (id(1, 5), Index(1)));
}

/// What the snapshot stands for was appended, and is not even on its way to the disk: there the log would have a gap.
#[test]
fn a_snapshot_of_entries_that_were_never_written_is_written_as_the_beginning_of_the_log() {
    let mut raft = follower(vec![entry(1, 1, "x")]);
    say(&mut raft, 2, 3, install(id(1, 3))).unwrap();
    let offer = raft.ready().offer.unwrap();
    let append = Message::Append {
        prev: id(1, 1),
        entries: (2..=5).map(|index| entry(1, index, "x")).collect(),
        commit: Index(1),
        round: Round::default(),
    };
    say(&mut raft, 2, 3, append).unwrap();
    assert_eq!(raft.snapshot_installed(&offer), SnapshotFate::Newest);
    let (_, writes) = settle(&mut raft);
    let [write] = &writes[..] else {
        panic!("{writes:?}");
    };
    let rest = [entry(1, 4, "x"), entry(1, 5, "x")];
    assert_eq!(
        (write.reset, &write.entries[..]),
        (Some(id(1, 3)), &rest[..])
    );
}

/// It was offered one that no correct leader has, and was elected before that was here.
#[test]
fn a_leader_does_not_give_up_its_log_for_a_snapshot() {
    let mut raft = leader_with_snapshot();
    let offer = Offer {
        from: NodeId(2),
        last: id(2, 8),
        membership: Membership::of_voters([1, 2, 3].map(NodeId)),
        manifest: Bytes::new(),
    };
    assert_eq!(raft.snapshot_installed(&offer), SnapshotFate::Overtaken);
    raft.propose(Bytes::from_static(b"y")).unwrap();
    settle(&mut raft);
    assert_eq!((raft.last(), raft.commit()), (id(3, 6), Index(5)));
}

#[test]
fn a_snapshot_never_moves_the_state_backwards() {
    let log: Vec<Entry> = (1..=5).map(|index| entry(1, index, "x")).collect();
    let mut raft = follower(log);
    say(&mut raft, 2, 3, install(id(1, 5))).unwrap();
    settle(&mut raft);
    assert_eq!(raft.commit(), Index(5));
    say(&mut raft, 2, 3, install(id(1, 2))).unwrap();
    assert!(raft.ready().offer.is_none());
    let stale = Offer {
        from: NodeId(2),
        last: id(1, 2),
        membership: Membership::of_voters([NodeId(1)]),
        manifest: Bytes::new(),
    };
    assert_eq!(raft.snapshot_installed(&stale), SnapshotFate::Overtaken);
    assert_eq!((raft.commit(), raft.last()), (Index(5), id(1, 5)));
}

#[test]
fn an_append_that_begins_in_the_snapshot_counts_for_what_is_after_it() {
    let mut raft = after_snapshot(
        as_in_the_paper(1, 3),
        in_term(3),
        id(2, 4),
        Bytes::new(),
        Vec::new(),
    );
    for (entries, expected) in [
        (vec![entry(1, 2, "x")], 2),
        ((2..=4).map(|index| entry(2, index, "x")).collect(), 4),
        ((2..=6).map(|index| entry(2, index, "x")).collect(), 6),
    ] {
        let append = Message::Append {
            prev: id(1, 1),
            entries,
            commit: Index(6),
            round: Round::default(),
        };
        say(&mut raft, 2, 3, append).unwrap();
        let outcomes = answers(&mut raft);
        assert_eq!(outcomes, [AppendOutcome::Matched(Index(expected))]);
    }
    assert_eq!((raft.last(), raft.commit()), (id(2, 6), Index(6)));
}

#[test]
fn an_offer_of_the_leader_resets_the_election_timer_and_one_of_an_earlier_term_is_answered() {
    let mut raft = follower(Vec::new());
    for _ in 0..20 {
        for _ in 0..24 {
            raft.tick();
        }
        say(&mut raft, 2, 3, install(id(2, 8))).unwrap();
    }
    assert_eq!((raft.term(), raft.leader()), (Term(3), Some(NodeId(2))));
    settle(&mut raft);
    assert_eq!(say(&mut raft, 3, 2, install(id(2, 8))), Err(Ignored::Stale));
    let (messages, _) = settle(&mut raft);
    assert_eq!(messages[0].term, Term(3));
}

#[test]
fn a_snapshot_that_makes_no_sense_is_ignored() {
    let mut raft = follower(Vec::new());
    for last in [id(0, 0), id(9, 4), id(1, u64::MAX - 1), id(1, u64::MAX)] {
        assert_eq!(say(&mut raft, 2, 3, install(last)), Err(Ignored::Nonsense));
    }
    let nobody = Message::InstallSnapshot {
        last: id(1, 4),
        membership: Membership::default(),
        manifest: Bytes::new(),
    };
    assert_eq!(say(&mut raft, 2, 3, nobody), Err(Ignored::Nonsense));
    assert_eq!(raft.ignored().nonsense, 5);
}

#[test]
fn a_node_starts_with_its_snapshot_and_what_follows_it() {
    let log = vec![entry(2, 5, "x"), entry(2, 6, "y")];
    let raft = after_snapshot(
        as_in_the_paper(1, 3),
        in_term(3),
        id(1, 4),
        Bytes::new(),
        log,
    );
    assert_eq!(
        (raft.commit(), raft.last(), raft.first()),
        (Index(4), id(2, 6), Index(5))
    );
}

#[test]
#[should_panic(expected = "the snapshot is of 4, not of 5")]
fn what_no_snapshot_has_is_not_given_up() {
    leader_with_snapshot().compact(Index(5));
}

/// It took long, and one that was installed overtook it.
#[test]
fn a_snapshot_that_was_overtaken_is_none() {
    let mut raft = leader_with_snapshot();
    assert_eq!(
        raft.snapshot_taken(Index(3), Bytes::new()),
        SnapshotFate::Overtaken
    );
    assert_eq!(
        raft.snapshot_taken(Index(4), Bytes::new()),
        SnapshotFate::Overtaken
    );
    assert_eq!(
        raft.snapshot_taken(Index(5), Bytes::new()),
        SnapshotFate::Newest
    );
}

#[test]
fn a_node_that_starts_with_a_snapshot_offers_it_when_it_leads() {
    let log = vec![entry(2, 5, "x")];
    let manifest = Bytes::from_static(b"where it is");
    let config = as_in_the_paper(1, 3);
    let mut raft = after_snapshot(config, in_term(2), id(1, 4), manifest, log);
    while raft.term() == Term(2) {
        raft.tick();
    }
    settle(&mut raft);
    say(&mut raft, 2, 3, Message::Vote { granted: true }).unwrap();
    settle(&mut raft);
    conflict(&mut raft, 3, 5, 1);
    let (messages, _) = settle(&mut raft);
    assert_eq!(offers(&messages), [(NodeId(3), id(1, 4))]);
}

/// A leader whose node 2 has entries 1 to 20, of which a snapshot was taken, and whose node 3 was offered the one of the first 4.
fn leader_with_a_follower_that_installs() -> Raft {
    let mut raft = leader_with_snapshot();
    conflict(&mut raft, 3, 4, 1);
    assert_eq!(offers(&settle(&mut raft).0), [(NodeId(3), id(1, 4))]);
    for _ in 6..=20 {
        raft.propose(Bytes::from_static(b"y")).unwrap();
    }
    settle(&mut raft);
    matched(&mut raft, 2, 20);
    settle(&mut raft);
    assert_eq!(
        raft.snapshot_taken(Index(20), Bytes::new()),
        SnapshotFate::Newest
    );
    raft
}

#[test]
fn a_follower_that_installs_a_snapshot_goes_on_from_the_log() {
    let mut raft = leader_with_a_follower_that_installs();
    assert_eq!(raft.compactable(), Index(4));
    // A newer one is offered, and the follower goes on with the one that it has begun with.
    let mut made = Vec::new();
    for _ in 0..100 {
        raft.tick();
        conflict(&mut raft, 3, 4, 1);
        made.extend(offers(&settle(&mut raft).0));
    }
    assert_eq!(made, [(NodeId(3), id(3, 20))]);
    assert_eq!(raft.compactable(), Index(4));
    raft.compact(raft.compactable());
    matched(&mut raft, 3, 4);
    let (messages, _) = settle(&mut raft);
    assert_eq!(offers(&messages), []);
    assert!(messages.iter().any(|envelope| matches!(
        &envelope.message,
        Message::Append { prev, entries, .. } if *prev == id(1, 4) && entries.len() == 16
    )));
    // What it has acknowledged is not kept, but for the snapshot's end.
    for (acknowledged, expected) in [(10, 10), (20, 20)] {
        matched(&mut raft, 3, acknowledged);
        assert_eq!(raft.compactable(), Index(expected));
    }
}

#[test]
fn a_follower_that_is_down_keeps_nothing() {
    for is_down in [false, true] {
        let mut raft = leader_with_a_follower_that_installs();
        for _ in 0..60 {
            raft.tick();
            if !is_down {
                conflict(&mut raft, 3, 4, 1);
            }
            settle(&mut raft);
        }
        let expected = if is_down { 20 } else { 4 };
        assert_eq!(raft.compactable(), Index(expected), "down: {is_down}");
    }
}

#[test]
fn no_more_than_the_bound_is_kept_for_followers() {
    let mut raft = leader_with_a_follower_that_installs();
    for (keep_bytes, expected) in [(0, 20), (5, 15), (15, 5), (16, 4), (1000, 4)] {
        raft.config.keep_bytes = keep_bytes;
        assert_eq!(raft.compactable(), Index(expected), "{keep_bytes} bytes");
    }
    // What the first offer was followed by is gone: now it is the newest that counts.
    raft.compact(Index(15));
    for _ in 0..100 {
        raft.tick();
        conflict(&mut raft, 3, 15, 1);
        settle(&mut raft);
    }
    assert_eq!(raft.compactable(), Index(20));
}

#[test]
fn who_does_not_lead_keeps_nothing_for_others() {
    let mut raft = follower(vec![entry(1, 1, "x")]);
    assert_eq!(raft.compactable(), Index(0), "there is no snapshot");
    say(&mut raft, 2, 3, install(id(2, 8))).unwrap();
    let offer = raft.ready().offer.unwrap();
    let _ = raft.snapshot_installed(&offer);
    assert_eq!(raft.compactable(), Index(8));
}
