//! Who is elected, and what is committed: the core against counting, for all kinds of memberships, joint ones too
//! (sections 5.2, 5.3, 5.4.2 and 6).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use duramen_wal::types::{HardState, Index, NodeId, Term};
use proptest::prelude::*;

use super::{as_in_the_paper, entry};
use crate::raft::{AppendOutcome, Envelope, Membership, Message, Raft, Round};

/// Up to seven voters of nine nodes, old and new; node 1 is a new one. Without old ones the membership is not joint.
fn sides() -> impl Strategy<Value = (BTreeSet<u64>, BTreeSet<u64>)> {
    let side = |least| prop::collection::btree_set(1..=9_u64, least..=7);
    (prop::collection::btree_set(2..=9_u64, 0..=6), side(0)).prop_map(|(mut new, old)| {
        new.insert(1);
        (new, old)
    })
}

/// More than half of each side that there is.
fn is_majority(sides: &(BTreeSet<u64>, BTreeSet<u64>), set: &BTreeSet<u64>) -> bool {
    let (new, old) = sides;
    let has_most_of = |side: &BTreeSet<u64>| 2 * side.intersection(set).count() > side.len();
    has_most_of(new) && (old.is_empty() || has_most_of(old))
}

fn membership(sides: &(BTreeSet<u64>, BTreeSet<u64>)) -> Membership {
    let of = |side: &BTreeSet<u64>| Membership::of_voters(side.iter().copied().map(NodeId));
    match sides.1.is_empty() {
        true => of(&sides.0),
        false => of(&sides.1).towards(of(&sides.0)),
    }
}

/// Node 1 in term 1, with one entry of it.
fn follower(membership: Membership) -> Raft {
    let mut config = as_in_the_paper(1, 0);
    config.membership = membership;
    let hard_state = HardState {
        term: Term(1),
        ..HardState::default()
    };
    Raft::new(config, hard_state, vec![entry(1, 1, "x")])
}

fn say(raft: &mut Raft, from: u64, message: Message) {
    let _ = raft.step(Envelope {
        from: NodeId(from),
        to: NodeId(1),
        term: Term(2),
        message,
    });
}

fn write(raft: &mut Raft) {
    while let Some(write) = raft.ready().write {
        raft.durable(write.id);
    }
}

/// It campaigns, and these nodes answer, in this order.
fn campaign(raft: &mut Raft, answers: &[(u64, bool)]) {
    while raft.term() == Term(1) {
        raft.tick();
    }
    write(raft);
    for &(from, granted) in answers {
        say(raft, from, Message::Vote { granted });
    }
}

proptest! {
    #[test]
    fn who_is_elected_has_a_majority_of_each_side(
        sides in sides(),
        answers in prop::collection::btree_map(2..=9_u64, any::<bool>(), 0..=8),
    ) {
        let mut raft = follower(membership(&sides));
        campaign(&mut raft, &answers.clone().into_iter().collect::<Vec<_>>());
        let granted = answers.iter().filter(|(_, granted)| **granted);
        let mut granted: BTreeSet<u64> = granted.map(|(from, _)| *from).collect();
        granted.insert(1);
        prop_assert_eq!(raft.is_leader(), is_majority(&sides, &granted));
    }

    #[test]
    fn what_is_committed_is_what_a_majority_of_each_side_has_of_this_term(
        sides in sides(),
        matched in prop::collection::btree_map(2..=9_u64, 0..=6_u64, 0..=8),
        own_is_first in any::<bool>(),
    ) {
        let mut raft = follower(membership(&sides));
        let is_joint = raft.membership().is_joint();
        campaign(&mut raft, &(2..=9).map(|from| (from, true)).collect::<Vec<_>>());
        prop_assert!(raft.is_leader());
        // The first entry of the term is at 2; who votes alone has written it.
        for _ in 3..=6 {
            raft.propose(Bytes::from_static(b"x")).unwrap();
        }
        let pending = raft.ready().write.unwrap();
        let mut events: Vec<(u64, u64)> = matched.into_iter().collect();
        let at = if own_is_first { 0 } else { events.len() };
        events.insert(at, (1, 6));
        let mut has = BTreeMap::from([(1, raft.durability.last().0)]);
        for (from, index) in events {
            if from == 1 {
                raft.durable(pending.id);
            } else {
                let outcome = AppendOutcome::Matched(Index(index));
                let round = Round::default();
                say(&mut raft, from, Message::AppendReply { outcome, round });
            }
            has.insert(from, index);
            let reached = |index| {
                let reached = has.iter().filter(|(_, has)| **has >= index);
                reached.map(|(id, _)| *id).collect()
            };
            let expected = (2..=6).rev().find(|index| is_majority(&sides, &reached(*index)));
            prop_assert_eq!(raft.commit(), Index(expected.unwrap_or(0)));
            if is_joint && expected.is_some() {
                break; // The change has ended: from now on others count.
            }
        }
    }
}
