//! Section 6: the membership with which a cluster begins, and a node that begins with none.

use bytes::Bytes;
use duramen_wal::types::{HardState, Index, LogId, NodeId, Term};

use super::{Cluster, as_in_the_paper, entry, id};
use crate::raft::{
    AppendOutcome, Config, Envelope, Member, Membership, Message, Raft, Ready, Restored, Round,
    is_command,
};

fn three() -> Membership {
    let voters = Membership::of_voters([1, 2, 3].map(NodeId));
    [1, 2, 3].into_iter().fold(voters, |members, node| {
        let member = Member {
            uuid: u128::from(node),
            peer_address: format!("10.0.0.{node}:7400"),
            client_address: String::new(),
        };
        members.with_member(NodeId(node), member)
    })
}

/// Node 4, which knows nobody.
fn joiner() -> Raft {
    Raft::new(Config::new(NodeId(4), []), HardState::default(), Vec::new())
}

/// Takes a message of node 1, which leads term 3, and makes everything durable.
fn say(raft: &mut Raft, message: Message) -> Ready {
    let taken = raft.step(Envelope {
        from: NodeId(1),
        to: NodeId(4),
        term: Term(3),
        message,
    });
    assert_eq!(taken, Ok(()));
    let ready = raft.ready();
    if let Some(write) = &ready.write {
        raft.durable(write.id);
    }
    ready
}

fn outcome(ready: &Ready) -> Option<AppendOutcome> {
    ready
        .send_when_durable
        .iter()
        .find_map(|envelope| match envelope.message {
            Message::AppendReply { outcome, .. } => Some(outcome),
            _ => None,
        })
}

#[test]
fn the_first_entry_of_a_log_is_the_membership_with_which_the_cluster_begins() {
    let mut config = as_in_the_paper(1, 0);
    config.membership = Membership::of_voters([NodeId(1)]);
    let mut raft = Raft::new(config.clone(), HardState::default(), Vec::new());
    while raft.term() == Term(0) {
        raft.tick();
    }
    let mut written = Vec::new();
    while let Some(write) = raft.ready().write {
        written.extend(write.entries);
        raft.durable(write.id);
    }
    let first = &written[0];
    assert_eq!((written.len(), first.id), (1, id(1, 1)));
    assert!(!is_command(first));
    let found = Membership::decode(&first.payload);
    assert_eq!(found.as_ref(), Some(&config.membership));

    // Where there is a log, the first entry of a term is blank: that of a later term too.
    let in_term_1 = HardState {
        term: Term(1),
        ..HardState::default()
    };
    let mut raft = Raft::new(config, in_term_1, written);
    while raft.term() == Term(1) {
        raft.tick();
    }
    let vote = raft.ready().write.unwrap();
    raft.durable(vote.id);
    let second = raft.ready().write.unwrap().entries;
    assert_eq!(second, [entry(2, 2, "")]);
}

#[test]
fn who_joins_later_finds_all_members_in_the_log() {
    let mut cluster = Cluster::with_membership(three());
    cluster.join(4);
    assert_eq!(*cluster.raft(4).membership(), Membership::default());
    cluster.elect(1);
    cluster.propose(1, "a");
    let target = cluster.raft(1).membership().clone();
    let target = target.with_learner(NodeId(4));
    cluster.raft(1).change_membership(target.clone()).unwrap();
    cluster.deliver();
    cluster.heartbeat(1);
    assert_eq!(*cluster.raft(4).membership(), target);
    assert_eq!(*cluster.raft(4).membership_at(Index(1)), three());
    assert_eq!(cluster.applied(4), ["a"]);
    // It knows them still when it starts anew, and what it knows is in its snapshots.
    cluster.crash(4);
    cluster.start(4);
    assert_eq!(*cluster.raft(4).membership(), target);
}

#[test]
fn who_knows_nobody_does_not_campaign_and_follows_whoever_leads() {
    let mut raft = joiner();
    for _ in 0..500 {
        raft.tick();
    }
    assert_eq!(raft.term(), Term(0));
    assert!(raft.ready().is_empty());
    let membership = three();
    let mut first = entry(1, 1, "");
    (first.payload, first.context) = (membership.encode().into(), Membership::mark());
    let ready = say(
        &mut raft,
        Message::Append {
            prev: LogId::default(),
            entries: vec![first, entry(3, 2, "a")],
            commit: Index(2),
            round: Round::default(),
        },
    );
    assert_eq!(outcome(&ready), Some(AppendOutcome::Matched(Index(2))));
    assert_eq!(raft.leader(), Some(NodeId(1)));
    assert_eq!(*raft.membership(), membership);
    assert_eq!(raft.ready().committed.len(), 2);
}

#[test]
fn who_knows_nobody_learns_the_membership_from_a_snapshot() {
    let mut raft = joiner();
    let install = Message::InstallSnapshot {
        last: id(2, 7),
        membership: three(),
        manifest: Bytes::new(),
    };
    let ready = say(&mut raft, install);
    let offer = ready.offer.or_else(|| raft.ready().offer).unwrap();
    let _ = raft.snapshot_installed(&offer);
    assert_eq!(*raft.membership(), three());
    assert_eq!(raft.last(), id(2, 7));
}

#[test]
#[should_panic(expected = "NoVoter")]
fn a_snapshot_of_nobody_is_no_beginning() {
    let restored = Restored {
        hard_state: HardState {
            term: Term(2),
            ..HardState::default()
        },
        base: id(2, 7),
        manifest: Some(Bytes::new()),
        ..Restored::default()
    };
    let _ = Raft::restart(Config::new(NodeId(4), []), restored);
}
