//! Who may take part, and who belongs to the cluster.

use super::*;
use crate::boot::Boot;

/// What node 2 says of itself, at its third start.
fn introduction(term: u64, last_term: u64, last_index: u64) -> Introduction {
    Introduction {
        cluster: "c".to_owned(),
        from: NodeId(2),
        uuid: 22,
        boots: [(2, 12), (3, 13)].into(),
        term: Term(term),
        last: LogId {
            term: Term(last_term),
            index: Index(last_index),
        },
        is_blank: false,
        leads: false,
        knows: BTreeMap::new(),
        met: BTreeMap::new(),
    }
}

#[test]
fn a_node_that_lost_what_it_acknowledged_to_the_leader_is_refused() {
    let mut fixture = Fixture::leader();
    let term = fixture.node.status().term.0;
    fixture.propose();
    fixture.turn();
    fixture.write();
    fixture.matched(2, 0);
    let lost = introduction(term, term, 1);
    let refusal = Refusal::LostEntries {
        node: NodeId(2),
        acknowledged: 2,
        found: lost.last,
    };
    assert_eq!(fixture.node.admit(&lost), Err(refusal.clone()));
    assert_eq!(fixture.node.admit(&lost), Err(refusal), "and again");
    assert_eq!(fixture.node.admit(&introduction(term, term, 2)), Ok(()));
}

/// A leader that was cut off does not know that another one, of a later term, had the node truncate its log. What is there
/// in its place may be shorter, and of an earlier term than what was acknowledged.
#[test]
fn a_node_whose_log_a_later_leader_truncated_is_not_refused() {
    let mut fixture = Fixture::leader();
    let term = fixture.node.status().term.0;
    fixture.propose();
    fixture.turn();
    fixture.write();
    fixture.matched(2, 0);
    let truncated = introduction(term + 1, term - 1, 1);
    assert_eq!(fixture.node.admit(&truncated), Ok(()));
}

#[test]
fn a_node_that_is_not_what_it_was_is_refused_and_so_is_another_clusters() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.node.admit(&introduction(0, 0, 0)), Ok(()));
    let mut set_back = introduction(0, 0, 0);
    set_back.boots.pop_last();
    let (node, known, found) = (NodeId(2), 3, 2);
    let refusal = Refusal::SetBack { node, known, found };
    assert_eq!(fixture.node.admit(&set_back), Err(refusal));
    let mut emptied = introduction(0, 0, 0);
    (emptied.uuid, emptied.is_blank) = (23, true);
    let (known, found) = (22, 23);
    let refusal = Refusal::OtherNode { node, known, found };
    assert_eq!(fixture.node.admit(&emptied), Err(refusal));
    let mut stranger = introduction(0, 0, 0);
    stranger.cluster = "d".to_owned();
    let refusal = Refusal::OtherCluster {
        expected: "c".to_owned(),
        found: "d".to_owned(),
    };
    assert_eq!(fixture.node.admit(&stranger), Err(refusal));
}

/// It was set back and started as often again, or more often; or it is a copy that was started as often.
#[test]
fn a_node_that_does_not_come_from_the_start_at_which_it_was_met_is_refused() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.node.admit(&introduction(0, 0, 0)), Ok(()));
    let other_start = |found| Refusal::OtherStart {
        node: NodeId(2),
        boot: 3,
        known: 13,
        found,
    };
    for (boots, found) in [
        (vec![(2, 12), (3, 14)], 14),
        (vec![(2, 12), (3, 14), (4, 15), (5, 16)], 14),
        (vec![(4, 15), (5, 16)], 0), // It does not know any more, and nobody can tell.
    ] {
        let mut copy = introduction(0, 0, 0);
        copy.boots = boots.into_iter().collect();
        assert_eq!(fixture.node.admit(&copy), Err(other_start(found)));
        assert_eq!(fixture.node.admit(&copy), Err(other_start(found)), "again");
    }
    assert_eq!(fixture.node.admit(&introduction(0, 0, 0)), Ok(()));
    let mut later = introduction(0, 0, 0);
    later.boots = [(3, 13), (90, 17)].into();
    assert_eq!(fixture.node.admit(&later), Ok(()));
    let text = other_start(14).to_string();
    assert!(text.contains("was set back, or there are two copies of it"));
    assert!(text.contains("join anew, under a new number"), "{text}");
}

/// A peer remembers a start for as long as it is away.
#[test]
fn a_node_is_known_again_by_a_peer_that_missed_any_number_of_its_starts() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.node.admit(&introduction(0, 0, 0)), Ok(()));
    let (met, mut disk) = (fixture.node.introduction(), fixture.disk);
    fixture.node.drive().unwrap();
    drop(fixture.node);
    for _ in 0..100 {
        disk.kill();
        let again = Fixture::open(disk, |_| ());
        let now = again.node.introduction();
        assert_eq!(now.boots.get(&met.boot()), met.boots.get(&met.boot()));
        disk = again.disk;
    }
}

fn boot(count: u64, number: u64) -> Boot {
    Boot { count, number }
}

fn say_boots(fixture: &mut Fixture, from: u64, boots: &[(u128, Boot)]) {
    fixture.node.handle(Input::Packet(Packet::Boots {
        from: NodeId(from),
        to: NodeId(1),
        boots: boots.iter().copied().collect(),
    }));
}

/// What the node has told others of starts since this was asked, and whom.
fn told_boots(fixture: &Fixture) -> Vec<(NodeId, BTreeMap<u128, Boot>)> {
    let sent = std::mem::take(&mut *fixture.world.sent.lock().unwrap());
    let told = sent.into_iter().filter_map(|packet| match packet {
        Packet::Boots { to, boots, .. } => Some((to, boots)),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_start_of_a_member_is_told_to_all_members_when_it_is_news_and_to_whom_one_meets() {
    let mut fixture = Fixture::new();
    let told = |known: Boot| [2, 3].map(|to| (NodeId(to), [(22, known)].into()));
    assert_eq!(fixture.node.admit(&introduction(0, 0, 0)), Ok(()));
    assert_eq!(told_boots(&fixture), told(boot(3, 13)));
    assert_eq!(fixture.node.admit(&introduction(0, 0, 0)), Ok(()));
    say_boots(&mut fixture, 3, &[(22, boot(3, 13)), (22, boot(2, 12))]);
    say_boots(&mut fixture, 3, &[(99, boot(9, 99))]); // Who is no member is nobody's business.
    assert_eq!(told_boots(&fixture), []);
    say_boots(&mut fixture, 3, &[(22, boot(5, 15))]);
    assert_eq!(told_boots(&fixture), told(boot(5, 15)));
    assert_eq!(fixture.node.introduction().met, [(22, boot(5, 15))].into());
    let mut third = introduction(0, 0, 0);
    (third.from, third.uuid) = (NodeId(3), 33);
    third.met = [(22, boot(6, 16))].into();
    assert_eq!(fixture.node.admit(&third), Ok(()));
    let both = [(22, boot(6, 16)), (33, boot(3, 13))].into();
    assert_eq!(told_boots(&fixture).last(), Some(&(NodeId(3), both)));
}

#[test]
fn who_was_started_since_as_others_say_is_not_listened_to_before_it_is_met_again() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.node.admit(&introduction(0, 0, 0)), Ok(()));
    say_boots(&mut fixture, 3, &[(22, boot(4, 14))]);
    fixture.node.handle(request_vote());
    assert_eq!(fixture.node.status().term, Term(0));
    let (node, known, found) = (NodeId(2), 4, 3);
    let refusal = Refusal::SetBack { node, known, found };
    assert_eq!(fixture.node.admit(&introduction(0, 0, 0)), Err(refusal));
    let mut again = introduction(0, 0, 0);
    again.boots.insert(4, 14);
    assert_eq!(fixture.node.admit(&again), Ok(()));
    fixture.node.handle(request_vote());
    assert_eq!(fixture.node.status().term, Term(7));
}

#[test]
fn two_copies_that_different_nodes_have_met_are_both_refused() {
    let mut fixture = Fixture::new();
    let one = introduction(0, 0, 0);
    let mut other = introduction(0, 0, 0);
    other.boots.insert(3, 14);
    assert_eq!(fixture.node.admit(&one), Ok(()));
    say_boots(&mut fixture, 3, &[(22, boot(3, 14))]);
    fixture.node.handle(request_vote());
    assert_eq!(
        fixture.node.status().term,
        Term(0),
        "it may be the other one"
    );
    let told = told_boots(&fixture);
    let ambiguous = [(22, boot(3, Boot::AMBIGUOUS))].into();
    assert_eq!(told.last(), Some(&(NodeId(3), ambiguous)));
    for copy in [one, other] {
        let refused = fixture.node.admit(&copy).unwrap_err();
        assert!(matches!(refused, Refusal::OtherStart { boot: 3, .. }));
    }
}

#[test]
fn a_node_that_hears_of_a_start_of_its_own_that_it_never_made_is_at_its_end() {
    let is_end = |heard: fn(u64, u64) -> Boot| {
        let mut fixture = Fixture::leader();
        let own = fixture.node.introduction();
        let heard = heard(own.boot(), own.boots[&own.boot()]);
        say_boots(&mut fixture, 2, &[(own.uuid, heard)]);
        match fixture.node.turn() {
            Ok(()) => false,
            Err(Error::Refused { by, .. }) => by == NodeId(2),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(!is_end(boot));
    assert!(!is_end(|count, drawn| boot(count - 1, drawn)), "long ago");
    assert!(is_end(|count, drawn| boot(count, drawn + 1)));
    assert!(is_end(|count, _| boot(count, Boot::AMBIGUOUS)));
    assert!(is_end(|count, drawn| boot(count + 1, drawn)));
}

#[test]
fn a_node_whose_start_is_not_the_one_that_was_met_is_at_its_end() {
    let mut fixture = Fixture::leader();
    let own = fixture.node.introduction();
    let (node, boot) = (own.from, own.boot());
    let drawn = own.boots[&boot];
    let refused = |boot, found| Input::Refused {
        by: NodeId(2),
        by_uuid: 22,
        refusal: Refusal::OtherStart {
            node,
            boot,
            known: 7,
            found,
        },
    };
    fixture.node.handle(refused(boot, drawn + 1)); // Somebody else is meant.
    fixture.node.handle(refused(boot + 1, drawn));
    fixture.turn();
    fixture.node.handle(refused(boot, drawn));
    fixture.sent();
    let error = fixture.node.turn().unwrap_err();
    assert!(matches!(error, Error::Refused { by: NodeId(2), .. }));
    assert_eq!(fixture.sent(), []);
}

#[test]
fn a_node_that_is_refused_for_what_it_is_is_at_its_end() {
    let mut fixture = Fixture::leader();
    let own = fixture.node.introduction();
    let (node, known) = (own.from, own.boot() + 1);
    let refused = |found| Input::Refused {
        by: NodeId(2),
        by_uuid: 22,
        refusal: Refusal::SetBack { node, known, found },
    };
    fixture.node.handle(refused(own.boot() + 7)); // Somebody else is meant.
    fixture.turn();
    fixture.node.handle(refused(own.boot()));
    fixture.sent();
    let error = fixture.node.turn().unwrap_err();
    assert!(matches!(error, Error::Refused { by: NodeId(2), .. }));
    assert_eq!(fixture.sent(), []);
}

#[test]
fn a_blank_node_that_is_known_to_one_that_takes_part_begins_with_what_that_one_knows() {
    let mut fixture = Fixture::blank();
    let own = fixture.node.introduction();
    assert!(own.is_blank);
    let mut other = introduction(1, 1, 1);
    other.knows = [(1, own.uuid + 1), (2, 22), (3, 33)].into();
    assert_eq!(fixture.node.admit(&other), Ok(()));
    assert!(
        fixture.node.introduction().is_blank,
        "it does not name this node"
    );
    other.knows.insert(1, own.uuid);
    assert_eq!(fixture.node.admit(&other), Ok(()));
    let begun = fixture.node.introduction();
    assert_eq!((begun.is_blank, begun.knows), (false, other.knows));
}

#[test]
fn a_blank_node_begins_when_it_has_met_all_others_and_they_are_blank() {
    let mut fixture = Fixture::blank();
    let mut other = introduction(0, 0, 0);
    assert_eq!(fixture.node.admit(&other), Ok(()), "it is no longer blank");
    other.from = NodeId(3);
    other.is_blank = true;
    assert_eq!(fixture.node.admit(&other), Ok(()));
    assert!(fixture.node.introduction().is_blank, "one is missing");
    other.from = NodeId(2);
    assert_eq!(fixture.node.admit(&other), Ok(()));
    assert!(!fixture.node.introduction().is_blank);
}

#[test]
fn the_network_is_told_of_the_members_at_the_start_and_at_each_change_before_anything_is_sent() {
    let mut fixture = Fixture::leader();
    fixture.turn();
    fixture.write();
    fixture.matched(1, 0); // What a leader has committed nothing of its term before is refused.
    let told = |fixture: &Fixture| std::mem::take(&mut *fixture.world.members.lock().unwrap());
    let before = fixture.node.raft().membership().clone();
    assert_eq!(told(&fixture), [before]);
    fixture.sent();
    fixture.node.handle(Input::ChangeMembership {
        change: Box::new(|members| members.clone().with_learner(NodeId(4))),
        on_change: Box::new(|begun| assert!(begun.is_ok(), "{begun:?}")),
    });
    fixture.turn();
    let after = fixture.node.raft().membership().clone();
    assert!(after.all().contains(&NodeId(4)));
    assert_eq!(told(&fixture), [after], "once");
    assert!(!fixture.sent().is_empty());
    let report = fixture.node.report();
    assert!(report.is_leader() && report.is_changing_membership);
    assert_eq!(report.membership_index, Index(2));
    assert_eq!((report.first, report.last), (Index(1), Index(2)));
    assert_eq!(report.best_successor(), Some(NodeId(2)));
}

#[test]
fn a_node_that_was_removed_hears_of_it_from_the_leader_only() {
    let mut fixture = Fixture::new();
    let uuid = fixture.node.introduction().uuid;
    let mut say = |knows: &[(u64, u128)], leads| {
        let mut other = introduction(1, 1, 1);
        (other.knows, other.leads) = (knows.iter().copied().collect(), leads);
        fixture.node.admit(&other).unwrap();
        fixture.node.standing()
    };
    assert_eq!(say(&[(2, 22)], false), Standing::Member, "it may be behind");
    assert_eq!(say(&[(1, uuid), (2, 22)], true), Standing::Member);
    assert_eq!(say(&[(2, 22)], true), Standing::Removed);
    assert_eq!(say(&[(1, uuid), (2, 22)], true), Standing::Member, "again");
    fixture.node.handle(request_vote());
    fixture.turn();
    fixture.write();
    let mut old = introduction(1, 1, 1);
    (old.knows, old.leads) = ([(2, 22)].into(), true);
    fixture.node.admit(&old).unwrap();
    assert_eq!(fixture.node.standing(), Standing::Member, "an old leader");
}

/// A node that joins gets the log of the time before it was added, also when it has heard that it is a member.
#[test]
fn memberships_of_the_time_before_a_node_was_added_do_not_say_that_it_was_removed() {
    let mut fixture = Fixture::new();
    let index = |index| LogId {
        term: Term(1),
        index: Index(index),
    };
    let mut standing_after = |at: u64, members: &[u64]| {
        let membership = Membership::of_voters(members.iter().copied().map(NodeId));
        let append = Message::Append {
            prev: if at == 1 {
                LogId::default()
            } else {
                index(at - 1)
            },
            entries: vec![membership.to_entry(index(at))],
            commit: Index(at),
            round: Round(0),
        };
        fixture.node.handle(said(Term(1), append));
        fixture.turn();
        fixture.write();
        assert_eq!(fixture.node.status().applied, Index(at));
        fixture.node.standing()
    };
    assert_eq!(standing_after(1, &[1, 2, 3]), Standing::Member);
    assert_eq!(standing_after(2, &[2, 3]), Standing::Removed);
    assert_eq!(standing_after(3, &[1, 2]), Standing::Member);
    // Of the time before: whoever has met the leader knows better.
    let mut fixture = Fixture::joining();
    let uuid = fixture.node.introduction().uuid;
    assert_eq!(fixture.node.standing(), Standing::Outside);
    let mut leader = introduction(1, 1, 2);
    (leader.knows, leader.leads) = ([(1, uuid)].into(), true);
    fixture.node.admit(&leader).unwrap();
    let append = Message::Append {
        prev: LogId::default(),
        entries: vec![Membership::of_voters([NodeId(2)]).to_entry(index(1))],
        commit: Index(1),
        round: Round(0),
    };
    fixture.node.handle(said(Term(1), append));
    fixture.turn();
    fixture.write();
    assert_eq!(fixture.node.status().applied, Index(1));
    assert_eq!(fixture.node.standing(), Standing::Member);
}

/// The number is another cluster's too: either node may be the one in the wrong place.
#[test]
fn a_node_is_at_its_end_by_strangers_only_when_they_are_most_of_its_cluster() {
    let mut fixture = Fixture::leader();
    let own = fixture.node.introduction();
    let refused = |by| Input::Refused {
        by: NodeId(by),
        by_uuid: 99,
        refusal: Refusal::OtherNode {
            node: own.from,
            known: 98,
            found: own.uuid,
        },
    };
    fixture.node.handle(refused(2));
    fixture.node.handle(refused(2));
    fixture.turn();
    let known = fixture.node.introduction().last;
    let known = introduction(1, known.term.0, known.index.0);
    fixture.node.admit(&known).unwrap(); // Whom it knows is there again.
    fixture.node.handle(refused(3));
    fixture.turn();
    fixture.node.handle(refused(2));
    let error = fixture.node.turn().unwrap_err();
    assert!(matches!(error, Error::Refused { by: NodeId(2), .. }));
}

/// It has forgotten at which start of this node it met this one last: it is the one that was set back.
#[test]
fn a_node_is_not_at_its_end_by_a_peer_that_was_set_back() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.node.admit(&introduction(0, 0, 0)), Ok(()));
    let long_ago = fixture.node.introduction();
    fixture.node.drive().unwrap();
    for _ in 0..40 {
        fixture.disk.kill();
        fixture = Fixture::open(fixture.disk, |_| ());
    }
    let mut later = introduction(0, 0, 0);
    later.boots.insert(4, 14);
    assert_eq!(fixture.node.admit(&later), Ok(()));
    fixture.node.drive().unwrap();
    for _ in 0..40 {
        fixture.disk.kill();
        fixture = Fixture::open(fixture.disk, |_| ());
    }
    let (node, boot) = (NodeId(1), long_ago.boot());
    assert!(!fixture.node.introduction().boots.contains_key(&boot));
    fixture.node.handle(Input::Refused {
        by: NodeId(2),
        by_uuid: 22,
        refusal: Refusal::OtherStart {
            node,
            boot,
            known: long_ago.boots[&boot],
            found: 0,
        },
    });
    fixture.node.turn().unwrap();
}

/// A number was given again while one of three was away. If two do not know it, this node is the one that had the number before.
#[test]
fn a_node_is_not_at_its_end_by_a_member_that_was_away_when_it_was_added() {
    let mut fixture = Fixture::with(|storage| {
        let of = |uuid| Member {
            uuid,
            ..Member::default()
        };
        let members = Membership::of_voters([1, 2, 3].map(NodeId))
            .with_member(NodeId(1), of(storage.uuid()))
            .with_member(NodeId(2), of(22))
            .with_member(NodeId(3), of(33));
        storage.begin_with(&members).unwrap();
    });
    let own = fixture.node.introduction();
    for (by, is_end) in [(2, false), (2, false), (3, true)] {
        fixture.node.handle(Input::Refused {
            by: NodeId(by),
            by_uuid: u128::from(11 * by),
            refusal: Refusal::OtherNode {
                node: own.from,
                known: 98,
                found: own.uuid,
            },
        });
        assert_eq!(fixture.node.turn().is_err(), is_end, "{by}");
    }
}
