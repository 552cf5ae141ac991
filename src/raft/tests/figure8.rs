//! Figure 8: an entry of an earlier term may be on a majority and still be overwritten, so it is never committed by
//! counting (section 5.4.2). The steps (a) to (e) of the figure, with five nodes.

use duramen_wal::types::{Entry, Index, NodeId, Term};

use super::{Cluster, entry, id};
use crate::raft::{Envelope, Message, Round};

/// The state of the figure at (c), before the leader of term 4 replicates: S1 has entry 2 of term 2, S5 has entry 2 of
/// term 3, and S2 has S1's.
fn at_c() -> Cluster {
    let one = || entry(1, 1, "1");
    let log_2 = || vec![one(), entry(2, 2, "2")];
    let log_3 = vec![one(), entry(3, 2, "3")];
    let logs: [(u64, Vec<Entry>); 5] = [
        (1, log_2()),
        (2, log_2()),
        (3, vec![one()]),
        (4, vec![one()]),
        (5, log_3),
    ];
    let mut cluster = Cluster::with_logs(logs);
    cluster.crash(5);
    // S1 is elected for term 4 while S5 is down.
    while cluster.raft(1).term() < Term(4) {
        cluster.raft(1).tick();
    }
    cluster
}

#[test]
fn figure_8_d_an_entry_on_a_majority_is_not_committed_and_may_be_overwritten() {
    let mut cluster = at_c();
    // (c) S1 wins, but only the entry of term 2 reaches S3: the blank entry of term 4 stays with S1.
    cluster.settle(1);
    for request in cluster.take_messages() {
        if request.to.0 != 5 {
            cluster.raft(request.to.0).step(request.clone()).unwrap();
            cluster.settle(request.to.0);
        }
    }
    for vote in cluster.take_messages() {
        let _ = cluster.raft(1).step(vote);
    }
    assert!(cluster.raft(1).is_leader());
    cluster.settle(1);
    let _ = cluster.take_messages();
    // What reaches S2 says that it has entry 2 too: without its answer the leader would not count it.
    let append = |to, prev, entries| Envelope {
        from: NodeId(1),
        to: NodeId(to),
        term: Term(4),
        message: Message::Append {
            prev,
            entries,
            commit: Index(0),
            round: Round(0),
        },
    };
    let appends = [
        append(2, id(2, 2), vec![]),
        append(3, id(1, 1), vec![entry(2, 2, "2")]),
    ];
    for message in appends {
        let to = message.to.0;
        cluster.raft(to).step(message).unwrap();
        cluster.settle(to);
    }
    for reply in cluster.take_messages() {
        cluster.raft(1).step(reply).unwrap();
    }
    cluster.settle(1);
    let _ = cluster.take_messages();
    let holders = [1, 2, 3].map(|node| cluster.log(node)[1].id.term);
    assert_eq!(holders, [Term(2); 3], "entry 2 is on a majority");
    assert_eq!(cluster.raft(1).commit(), Index(0), "and not committed");
    assert!(cluster.applied(1).is_empty());

    // (d) S1 crashes, S5 comes back and is elected by S2, S3 and S4: its last entry is of term 3.
    cluster.crash(1);
    cluster.start(5);
    while cluster.raft(5).term() < Term(5) {
        cluster.raft(5).tick();
    }
    cluster.deliver();
    assert!(cluster.raft(5).is_leader());
    cluster.start(1);
    for _ in 0..5 {
        cluster.heartbeat(5);
    }
    for node in cluster.ids() {
        assert_eq!(cluster.applied(node), ["1", "3"], "node {node}");
    }
}

#[test]
fn figure_8_e_an_entry_of_the_own_term_on_a_majority_commits_all_before_it() {
    let mut cluster = at_c();
    // (e) S1 replicates its entry of term 4 to a majority before it crashes.
    cluster.deliver();
    assert!(cluster.raft(1).is_leader());
    for _ in 0..5 {
        cluster.heartbeat(1);
    }
    assert_eq!(cluster.applied(1), ["1", "2"]);
    cluster.crash(1);
    cluster.start(5);
    // S5 cannot win any more.
    for _ in 0..3 {
        let term = cluster.raft(5).term();
        while cluster.raft(5).term() == term {
            cluster.raft(5).tick();
        }
        cluster.deliver();
        assert!(!cluster.raft(5).is_leader());
    }
    let leader = cluster.leader();
    for _ in 0..5 {
        cluster.heartbeat(leader);
    }
    assert_eq!(cluster.applied(5), ["1", "2"]);
}
