//! Section 8: ReadIndex.

use bytes::Bytes;
use duramen_wal::types::{Index, NodeId};

use super::Cluster;
use crate::raft::{NotLeader, ReadId, ReadReply};

#[test]
fn a_read_is_served_after_a_round_that_began_later() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let written = cluster.propose(1, "x");
    cluster.raft(1).read(ReadId(7)).unwrap();
    cluster.settle(1);
    assert!(cluster.reads(1).is_empty(), "nobody has confirmed it yet");
    cluster.deliver();
    assert_eq!(
        cluster.reads(1),
        [ReadReply {
            id: ReadId(7),
            index: Ok(written.index)
        }]
    );
}

#[test]
fn a_leader_that_is_cut_off_serves_no_reads_and_refuses_them_when_it_learns_of_the_new_one() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.connect(1, false);
    cluster.raft(1).read(ReadId(1)).unwrap();
    for _ in 0..50 {
        cluster.heartbeat(1);
    }
    assert!(cluster.reads(1).is_empty());
    cluster.elect(2);
    cluster.propose(2, "newer");
    cluster.connect(1, true);
    cluster.heartbeat(2);
    assert!(matches!(
        cluster.reads(1),
        [ReadReply {
            id: ReadId(1),
            index: Err(NotLeader { .. })
        }]
    ));
}

#[test]
fn an_answer_to_an_earlier_message_confirms_no_read() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.raft(1).propose(Bytes::from_static(b"x")).unwrap();
    cluster.settle(1);
    for message in cluster.take_messages() {
        let node = message.to.0;
        cluster.raft(node).step(message).unwrap();
        cluster.settle(node);
    }
    let earlier = cluster.take_messages();
    cluster.raft(1).read(ReadId(1)).unwrap();
    cluster.settle(1);
    for reply in earlier {
        cluster.raft(1).step(reply).unwrap();
    }
    cluster.settle(1);
    assert!(cluster.reads(1).is_empty());
}

#[test]
fn an_answer_to_a_message_of_an_earlier_term_confirms_no_read() {
    // Each term counts its rounds anew, so round 1 of an earlier term must not pass for round 1 of this one.
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.raft(1).read(ReadId(1)).unwrap();
    cluster.settle(1);
    let late = cluster.take_messages().swap_remove(0);
    assert_eq!(late.to, NodeId(2));
    cluster.elect(2);
    cluster.elect(1);
    // Node 2 answers the message of the earlier term, in the present one. The answer takes its time.
    let _ = cluster.raft(2).step(late);
    cluster.settle(2);
    let answer = cluster.take_messages().swap_remove(0);
    assert_eq!(answer.term, cluster.raft(1).term());
    // Now the others may elect another leader, and node 1 has to ask them before it serves a read.
    let before = cluster.reads(1).len();
    cluster.raft(1).read(ReadId(2)).unwrap();
    cluster.settle(1);
    let _ = cluster.take_messages();
    let _ = cluster.raft(1).step(answer);
    cluster.settle(1);
    assert_eq!(cluster.reads(1).len(), before);
}

#[test]
fn a_read_before_the_first_commit_of_the_term_waits_for_it() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "x");
    // Node 2 has "x" and does not know that it is committed.
    cluster.crash(1);
    cluster.elect(2);
    let blank = cluster.raft(2).last();
    cluster.raft(2).read(ReadId(1)).unwrap();
    cluster.deliver();
    let [
        ReadReply {
            index: Ok(index), ..
        },
    ] = *cluster.reads(2)
    else {
        panic!("{:?}", cluster.reads(2));
    };
    assert_eq!(index, blank.index);
}

#[test]
fn reads_that_wait_together_share_a_round() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    for read in 0..100 {
        cluster.raft(1).read(ReadId(read)).unwrap();
    }
    cluster.settle(1);
    assert_eq!(cluster.take_messages().len(), 2);
    cluster.heartbeat(1);
    assert_eq!(cluster.reads(1).len(), 100);
    assert_eq!(cluster.reads(1)[0].index, Ok(Index(1)));
}

#[test]
fn a_single_node_serves_reads_at_once() {
    let mut cluster = Cluster::new(1);
    cluster.elect(1);
    cluster.raft(1).read(ReadId(1)).unwrap();
    cluster.deliver();
    assert_eq!(cluster.reads(1).len(), 1);
}
