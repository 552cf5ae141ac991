//! A state that is still being read from the newest snapshot when the node starts.

use bytes::Bytes;
use duramen_wal::types::{Entry, Index, NodeId};

use super::repair::{append, carry_out, commands, in_term, matched, questions, say, snapshot};
use super::{as_in_the_paper, entry, id};
use crate::raft::{
    BaseState, Envelope, Message, NotLeader, Raft, ReadId, Refused, Restored, SnapshotFate,
};

/// Node 1 of three, in term 3, which reads its newest snapshot, up to entry 4, and has this log after it.
fn node(log: Vec<Entry>) -> Raft {
    let unread = Restored {
        hard_state: in_term(3),
        base: id(2, 4),
        manifest: Some(Bytes::from_static(b"where it is")),
        state: BaseState::Unread,
        log,
        ..Restored::default()
    };
    Raft::restart(as_in_the_paper(1, 3), unread)
}

#[test]
fn a_node_that_reads_its_state_votes_and_replicates_and_does_neither_campaign_nor_hand_out() {
    let is_election = |envelope: &Envelope| envelope.asks_for_vote();
    for is_whole in [true, false] {
        let mut raft = node(vec![entry(2, 5, "e")]);
        append(&mut raft, id(2, 5), vec![entry(3, 6, "f")], 6);
        let done = carry_out(&mut raft);
        assert_eq!((matched(&done.messages), done.committed), (vec![6], vec![]));
        let refused = Refused::NotLeader(NotLeader {
            leader: Some(NodeId(2)),
        });
        assert_eq!(raft.read(ReadId(1)), Err(refused));
        say(&mut raft, 2, 3, Message::TimeoutNow).unwrap();
        (0..200).for_each(|_| raft.tick());
        let done = carry_out(&mut raft);
        assert!(!done.messages.iter().any(is_election));
        assert_eq!(questions(&done.messages), [], "nothing is lost yet");
        let last = id(3, 6);
        let is_transfer = false;
        say(&mut raft, 3, 4, Message::RequestVote { last, is_transfer }).unwrap();
        let granted = Message::Vote { granted: true };
        assert!(
            carry_out(&mut raft)
                .messages
                .iter()
                .any(|it| it.message == granted)
        );
        match is_whole {
            true => assert!(raft.state_read()),
            false => assert!(raft.state_lost()),
        }
        assert_eq!(
            (raft.has_state(), raft.lacks_state()),
            (is_whole, !is_whole)
        );
        let done = carry_out(&mut raft);
        let committed = commands(&done.committed);
        (0..200).for_each(|_| raft.tick());
        let later = carry_out(&mut raft);
        assert!(later.messages.iter().any(is_election));
        let expected = match is_whole {
            true => vec!["e", "f"],
            false => vec![],
        };
        assert_eq!(committed, expected);
        let asked = questions(&later.messages);
        assert_eq!(asked.is_empty(), is_whole);
        assert!(asked.iter().all(|(_, it)| it.state == Some(Index(4))));
    }
}

#[test]
fn a_state_that_cannot_be_read_is_no_loss_if_a_newer_snapshot_was_installed_meanwhile() {
    let mut raft = node(Vec::new());
    let snapshot = snapshot(id(3, 9));
    let offer = Message::InstallSnapshot {
        last: snapshot.last,
        membership: snapshot.membership,
        manifest: snapshot.manifest,
    };
    say(&mut raft, 2, 3, offer).unwrap();
    let offer = carry_out(&mut raft).offers.remove(0);
    assert_eq!(raft.snapshot_installed(&offer), SnapshotFate::Newest);
    assert!(raft.has_state() && !raft.state_lost());
    assert!(raft.has_state() && !raft.lacks_state());
}
