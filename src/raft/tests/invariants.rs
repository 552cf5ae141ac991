//! Figure 3: for each property, a violation that [`check`] finds. A correct core makes none, so they are made by hand.

use duramen_wal::types::{Entry, HardState, Index, NodeId, Term};

use super::{as_in_the_paper, entry, id};
use crate::raft::invariants::{History, Node, Violation, check};
use crate::raft::{Badness, Config, Envelope, Message, Raft, Restored};

/// Node `node` of three, in `term`, with this log.
fn follower(node: u64, term: u64, log: Vec<Entry>) -> Raft {
    restarted(node, term, log, Restored::default())
}

fn restarted(node: u64, term: u64, log: Vec<Entry>, restored: Restored) -> Raft {
    let hard_state = HardState {
        term: Term(term),
        ..HardState::default()
    };
    let restored = Restored {
        hard_state,
        log,
        ..restored
    };
    Raft::restart(as_in_the_paper(node, 3), restored)
}

/// The same, elected in the next term: by a vote of whoever is next to it.
fn leader(node: u64, term: u64, log: Vec<Entry>) -> Raft {
    let mut raft = follower(node, term, log);
    elect(&mut raft);
    raft
}

fn elect(raft: &mut Raft) {
    let (before, own) = (raft.term(), raft.id());
    while raft.term() == before {
        raft.tick();
    }
    write(raft);
    let vote = Envelope {
        from: NodeId(own.0 % 3 + 1),
        to: own,
        term: raft.term(),
        message: Message::Vote { granted: true },
    };
    raft.step(vote).unwrap();
    assert!(raft.is_leader());
}

fn write(raft: &mut Raft) {
    while let Some(write) = raft.ready().write {
        raft.durable(write.id);
    }
}

/// The only voter, which has committed its log and one entry more.
fn alone(node: u64, term: u64, log: Vec<Entry>) -> Raft {
    let hard_state = HardState {
        term: Term(term),
        ..HardState::default()
    };
    let mut raft = Raft::new(Config::new(NodeId(node), [NodeId(node)]), hard_state, log);
    while !raft.is_leader() {
        raft.tick();
        write(&mut raft);
    }
    write(&mut raft);
    assert_eq!(raft.commit(), raft.last().index);
    raft
}

fn look(history: &mut History, raft: &Raft) -> Result<(), Violation> {
    check(history, &[Node { raft, applied: &[] }])
}

/// `a` and `b` after each other: it makes no difference whether both are up.
fn look_at_both(a: &Raft, b: &Raft) -> Result<(), Violation> {
    let node = |raft| Node { raft, applied: &[] };
    let together = check(&mut History::default(), &[node(a), node(b)]);
    let mut history = History::default();
    let apart = look(&mut history, a).and_then(|()| look(&mut history, b));
    assert_eq!(together, apart);
    together
}

fn ab() -> Vec<Entry> {
    vec![entry(1, 1, "a"), entry(1, 2, "b")]
}

#[test]
fn two_leaders_of_a_term_are_found() {
    let (one, two) = (leader(1, 1, ab()), leader(2, 1, ab()));
    let violation = Violation::ElectionSafety {
        term: Term(2),
        first: NodeId(1),
        second: NodeId(2),
    };
    assert_eq!(look_at_both(&one, &two), Err(violation));
    assert_eq!(look_at_both(&one, &leader(2, 2, ab())), Ok(()));
}

#[test]
fn a_leader_that_takes_back_an_entry_is_found() {
    let (mut raft, mut history) = (leader(1, 1, ab()), History::default());
    assert_eq!(look(&mut history, &raft), Ok(()));
    raft.propose("c".into()).unwrap();
    raft.log.compact(id(1, 1)); // What a snapshot has may go.
    assert_eq!(look(&mut history, &raft), Ok(()));
    raft.log.truncate(Index(4));
    let violation = Violation::LeaderAppendOnly {
        leader: NodeId(1),
        had: id(2, 4),
    };
    assert_eq!(look(&mut history, &raft), Err(violation));
}

/// Until the term begins; and not what is settled.
#[test]
fn a_leader_may_drop_its_bad_entries_and_what_follows_them() {
    let log = [ab(), vec![entry(1, 3, "c"), entry(1, 4, "d")]].concat();
    let bad = || Restored {
        bad: [(Index(3), Badness::Damaged)].into(),
        ..Restored::default()
    };
    for (from, allowed) in [(3, true), (2, false)] {
        let mut raft = restarted(1, 1, log.clone(), bad());
        elect(&mut raft);
        let mut history = History::default();
        assert_eq!(look(&mut history, &raft), Ok(()));
        raft.log.truncate(Index(from));
        let found = look(&mut history, &raft);
        assert_eq!(found.is_ok(), allowed, "{from}: {found:?}");
    }
}

#[test]
fn an_entry_that_is_another_one_elsewhere_is_found() {
    let other_payload = vec![entry(1, 1, "a"), entry(1, 2, "x")];
    let another_before = vec![entry(0, 1, "a"), entry(1, 2, "b")];
    for log in [other_payload, another_before] {
        let (one, two) = (follower(1, 1, ab()), follower(2, 1, log));
        let violation = Violation::LogMatching {
            node: NodeId(2),
            id: id(1, 2),
        };
        assert_eq!(look_at_both(&one, &two), Err(violation));
    }
    let longer = [ab(), vec![entry(1, 3, "c")]].concat();
    assert_eq!(
        look_at_both(&follower(1, 1, ab()), &follower(2, 1, longer)),
        Ok(())
    );
    let diverging = vec![entry(1, 1, "a"), entry(2, 2, "x")];
    assert_eq!(
        look_at_both(&follower(1, 1, ab()), &follower(2, 2, diverging)),
        Ok(())
    );
}

#[test]
fn of_a_bad_entry_the_id_is_compared() {
    let bad = || Restored {
        bad: [(Index(2), Badness::Damaged)].into(),
        ..Restored::default()
    };
    let (whole, placeholder) = (follower(1, 1, ab()), restarted(2, 1, ab(), bad()));
    assert_eq!(look_at_both(&whole, &placeholder), Ok(()));
    assert_eq!(look_at_both(&placeholder, &whole), Ok(()));
    let another_before = vec![entry(0, 1, "a"), entry(1, 2, "b")];
    let elsewhere = restarted(2, 1, another_before, bad());
    assert!(look_at_both(&whole, &elsewhere).is_err());
}

/// It changed where nothing should, behind an entry that is as it was.
#[test]
fn an_entry_that_changes_in_its_place_is_found_in_time() {
    let (mut raft, mut history) = (follower(1, 1, ab()), History::default());
    assert_eq!(look(&mut history, &raft), Ok(()));
    raft.log.truncate(Index(1));
    raft.log.push(entry(1, 1, "x"));
    raft.log.push(entry(1, 2, "b"));
    let found = (0..2).find_map(|_| look(&mut history, &raft).err());
    let violation = Violation::LogMatching {
        node: NodeId(1),
        id: id(1, 1),
    };
    assert_eq!(found, Some(violation));
}

#[test]
fn a_leader_without_what_was_committed_is_found() {
    let committed = alone(1, 1, ab()); // And entry 3, in term 2.
    let violation = Violation::LeaderCompleteness {
        leader: NodeId(2),
        lacks: id(2, 3),
    };
    let lacks = leader(2, 2, ab());
    assert_eq!(look_at_both(&committed, &lacks), Err(violation));
    // It leads in an earlier term than the one that committed.
    let committed = alone(1, 3, ab());
    assert_eq!(look_at_both(&committed, &leader(2, 2, ab())), Ok(()));
    // A snapshot has it.
    let mut has = follower(
        2,
        2,
        vec![entry(1, 1, "a"), entry(1, 2, "b"), entry(2, 3, "")],
    );
    has.log.compact(id(2, 3));
    elect(&mut has);
    assert_eq!(look_at_both(&alone(1, 1, ab()), &has), Ok(()));
}

#[test]
fn two_entries_that_are_committed_at_an_index_are_found() {
    let (one, two) = (alone(1, 1, ab()), alone(2, 2, ab()));
    let violation = Violation::StateMachineSafety {
        node: NodeId(2),
        id: id(3, 3),
    };
    assert_eq!(look_at_both(&one, &two), Err(violation));
    // The end of a snapshot is compared too.
    let mut compacted = alone(2, 2, ab());
    compacted.log.compact(id(3, 3));
    assert_eq!(look_at_both(&one, &compacted), Err(violation));
}

#[test]
fn an_applied_entry_that_is_not_the_committed_one_is_found() {
    let raft = alone(1, 1, ab());
    for (applied, is_right) in [
        (entry(1, 2, "b"), true),
        (entry(1, 2, "x"), false),
        (entry(2, 2, "b"), false),
        (entry(2, 4, "d"), false), // Committed nowhere.
    ] {
        let applied = [applied];
        let nodes = [Node {
            raft: &raft,
            applied: &applied,
        }];
        let violation = Violation::StateMachineSafety {
            node: NodeId(1),
            id: applied[0].id,
        };
        let expected = if is_right { Ok(()) } else { Err(violation) };
        assert_eq!(check(&mut History::default(), &nodes), expected);
    }
}
