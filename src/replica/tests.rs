//! Tests of replicas in this process, on real disks and sockets.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::*;
use crate::node::{Frozen, NodeId, Standing};

/// Counts commands.
struct Counter(u64);

impl StateMachine for Counter {
    type Output = u64;

    fn apply(&mut self, _: &[u8]) -> u64 {
        self.0 += 1;
        self.0
    }

    fn freeze(&self) -> Frozen {
        let counted = self.0;
        Box::new(move |to| to.write_all(&counted.to_le_bytes()))
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

/// Addresses that nobody else uses now, for nodes 1 to `count`.
fn free_addresses(count: u64) -> Vec<(NodeId, String)> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses = listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap());
    (1..)
        .map(NodeId)
        .zip(addresses.map(|address| address.to_string()))
        .collect()
}

fn options(dir: &Path, id: u64, peers: &[(NodeId, String)]) -> Options {
    Options::new(NodeId(id), dir.join(id.to_string()), peers.to_vec())
}

async fn start_all(dir: &Path, peers: &[(NodeId, String)]) -> Vec<Replica<Counter>> {
    let mut replicas = Vec::new();
    for (id, _) in peers {
        let options = options(dir, id.0, peers);
        replicas.push(Replica::start(options, Counter(0)).await.unwrap());
    }
    replicas
}

/// Counts at whoever leads, until that succeeds.
async fn count(replicas: &[Replica<Counter>]) -> u64 {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        for replica in replicas {
            if let Ok(counted) = replica.propose("count".into()).await {
                return counted;
            }
        }
        assert!(Instant::now() < until, "nobody counts");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn leader(replicas: &[Replica<Counter>]) -> Option<usize> {
    replicas.iter().position(|replica| {
        let status = replica.status();
        status.leader == Some(status.id)
    })
}

async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_was_counted_is_read_and_is_there_after_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let peers = free_addresses(3);
    for expected in 1..=3 {
        let replicas = start_all(dir.path(), &peers).await;
        assert_eq!(count(&replicas).await, expected);
        let leading = &replicas[leader(&replicas).unwrap()];
        assert_eq!(leading.read(|counter| counter.0).await, Ok(expected));
        for replica in replicas {
            replica.stop().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_leader_that_is_stopped_hands_over_first() {
    let dir = tempfile::tempdir().unwrap();
    let peers = free_addresses(3);
    let mut replicas = start_all(dir.path(), &peers).await;
    count(&replicas).await;
    let stopped = replicas.remove(leader(&replicas).unwrap());
    let term = stopped.status().term;
    stopped.stop().await.unwrap();
    // It has been elected before the other one ended.
    let next = leader(&replicas).expect("somebody leads already");
    assert_eq!(replicas[next].status().term.0, term.0 + 1);
    assert_eq!(count(&replicas).await, 2);
}

#[tokio::test]
async fn a_replica_that_is_dropped_ends_too() {
    let dir = tempfile::tempdir().unwrap();
    let peers = free_addresses(1);
    let replica = Replica::start(options(dir.path(), 1, &peers), Counter(0)).await;
    drop(replica.unwrap());
    // It waits for the directory, and for the port that was given back by then.
    wait_until("the port", || TcpListener::bind(&peers[0].1).is_ok()).await;
    let again = Replica::start(options(dir.path(), 1, &peers), Counter(0)).await;
    again.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_later_start_needs_no_peers_and_a_first_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let peers = free_addresses(3);
    let again = |id: u64| Options::again(NodeId(id), dir.path().join(id.to_string()));
    let error = Replica::start(again(1), Counter(0))
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, Error::NotBegun { .. }), "{error}");
    let replicas = start_all(dir.path(), &peers).await;
    count(&replicas).await;
    for replica in replicas {
        replica.stop().await.unwrap();
    }
    let mut replicas = Vec::new();
    for id in 1..=3 {
        replicas.push(Replica::start(again(id), Counter(0)).await.unwrap());
    }
    assert_eq!(count(&replicas).await, 2);
}

#[tokio::test]
async fn what_cannot_start_says_why_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let peers = free_addresses(1);
    let taken = TcpListener::bind(&peers[0].1).unwrap();
    let start = |options| async { Replica::start(options, Counter(0)).await.map(|_| ()) };
    let error = start(options(dir.path(), 1, &peers)).await.unwrap_err();
    assert!(matches!(error, Error::Listen { .. }), "{error}");
    drop(taken);
    let error = start(options(dir.path(), 2, &peers)).await.unwrap_err();
    assert!(matches!(error, Error::NotAPeer(NodeId(2))), "{error}");
    let anywhere = [(NodeId(1), "0.0.0.0:7411".to_owned())];
    let error = start(options(dir.path(), 1, &anywhere)).await.unwrap_err();
    assert!(matches!(error, Error::NoAddress { .. }), "{error}");
    start(options(dir.path(), 1, &peers)).await.unwrap();
}

/// A node joins, takes the place of another one, and goes through a start without anything but its directory.
#[tokio::test]
async fn a_node_joins_replaces_another_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = free_addresses(4);
    let (peers, joining) = (&addresses[..3], &addresses[3]);
    let mut replicas = start_all(dir.path(), peers).await;
    count(&replicas).await;
    let options = Options::joining(joining.0, dir.path().join("4"), joining.1.clone());
    let joined = Replica::start(options, Counter(0)).await.unwrap();
    let at = leader(&replicas).unwrap();
    let members = replicas[at].members();
    let (lead, new) = (replicas[at].status().id, joining.0);
    let old = if lead == NodeId(3) {
        NodeId(2)
    } else {
        NodeId(3)
    };
    let behind = members.promote(new).await.unwrap_err();
    assert!(matches!(behind, ChangeError::NoMember(_)), "{behind}");
    let nobody = members.add(NodeId(5), "127.0.0.1:1").await.unwrap_err();
    assert!(matches!(nobody, ChangeError::NoAnswer { .. }), "{nobody}");
    let other = members.add(NodeId(5), &joining.1).await.unwrap_err();
    assert!(matches!(other, ChangeError::Unfit { .. }), "{other}");
    members.add(new, &joining.1).await.unwrap();
    let twice = members.add(new, &joining.1).await.unwrap_err();
    assert!(matches!(twice, ChangeError::MemberAlready(_)), "{twice}");
    let until = Instant::now() + Duration::from_secs(20);
    while let Err(error) = members.replace(old, new).await {
        let refused = matches!(error, ChangeError::Refused(_));
        assert!(refused && Instant::now() < until, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let report = members.report().await.unwrap();
    assert!(report.membership.is_voter(new) && !report.membership.all().contains(&old));
    let member = report.membership.member(new).unwrap();
    assert_eq!(member.peer_address, joining.1);
    let removed = replicas.remove(
        replicas
            .iter()
            .position(|replica| replica.status().id == old)
            .unwrap(),
    );
    loop {
        let report = removed.report().await.unwrap();
        if report.standing == Standing::Removed {
            break;
        }
        assert!(Instant::now() < until, "it hears of it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    removed.stop().await.unwrap();
    joined.stop().await.unwrap();
    let again = Options::again(new, dir.path().join("4"));
    replicas.push(Replica::start(again, Counter(0)).await.unwrap());
    // Of the three that are left the new one is needed for a majority.
    let at = replicas
        .iter()
        .position(|replica| replica.status().id == lead)
        .unwrap();
    replicas.remove(at).stop().await.unwrap();
    assert_eq!(count(&replicas).await, 2);
}

/// The log that it lacks is in a snapshot only, which it fetches before it knows of any member.
#[tokio::test]
async fn a_node_that_joins_late_gets_a_snapshot_and_can_lead() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = free_addresses(2);
    let with_snapshots = |mut options: Options| {
        options.node.snapshot_bytes = 1000;
        options
    };
    let alone = with_snapshots(options(dir.path(), 1, &addresses[..1]));
    let first = Replica::start(alone, Counter(0)).await.unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let mut counted = 0;
    while first.report().await.unwrap().first.0 == 1 {
        counted = count(std::slice::from_ref(&first)).await;
        assert!(Instant::now() < until, "no snapshot");
    }
    let (id, address) = &addresses[1];
    let joining = Options::joining(*id, dir.path().join("2"), address.clone());
    let second = Replica::start(with_snapshots(joining), Counter(0)).await;
    let second = second.unwrap();
    let members = first.members();
    members.add(*id, address).await.unwrap();
    while let Err(error) = members.promote(*id).await {
        assert!(Instant::now() < until, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let report = second.report().await.unwrap();
    assert_eq!(report.counts.snapshots_installed, 1);
    assert!(report.snapshots.newest.0 > 0);
    assert_eq!(members.transfer(None).await.unwrap(), *id);
    assert_eq!(second.read(|counter| counter.0).await, Ok(counted));
    assert_eq!(
        second.addresses().peer_address(NodeId(1)).as_ref(),
        Some(&addresses[0].1)
    );
}

/// Its log would be cut off.
#[tokio::test]
async fn a_node_of_another_cluster_with_the_same_name_is_not_added() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = free_addresses(3);
    let mut replicas = Vec::new();
    for peer in &addresses[..2] {
        let options = options(dir.path(), peer.0.0, std::slice::from_ref(peer));
        replicas.push(Replica::start(options, Counter(0)).await.unwrap());
        count(&replicas[replicas.len() - 1..]).await;
    }
    let (id, address) = &addresses[1];
    let error = replicas[0].members().add(*id, address).await.unwrap_err();
    assert!(matches!(error, ChangeError::OfAnother(_)), "{error}");
    // One that waits for others to begin with.
    let (id, address) = &addresses[2];
    let beginning = [
        (*id, address.clone()),
        (NodeId(4), "127.0.0.1:1".to_owned()),
    ];
    let beginning = options(dir.path(), id.0, &beginning);
    replicas.push(Replica::start(beginning, Counter(0)).await.unwrap());
    let error = replicas[0].members().add(*id, address).await.unwrap_err();
    assert!(matches!(error, ChangeError::BeginsAnother(_)), "{error}");
    assert_eq!(count(&replicas[1..2]).await, 2, "it goes on");
}

#[test]
#[should_panic(expected = "at least one byte")]
fn an_empty_command_is_the_mistake_of_who_proposes_it() {
    let (handle, _inbox) = Handle::<Counter>::channel();
    handle.propose(Bytes::new(), Box::new(|_| ()));
}

#[tokio::test]
async fn however_much_clients_ask_of_a_node_its_connections_have_their_turn() {
    const TURNS: u64 = 100;
    let dir = tempfile::tempdir().unwrap();
    let options = options(dir.path(), 1, &free_addresses(3));
    let addresses = AddressBook::new(
        NodeId(1),
        options.own_addresses(),
        options.given_addresses(),
    );
    let (handle, inbox) = Handle::channel();
    let network = TcpTransport::new(NodeId(1), addresses).connect(&handle);
    let mut node = starting::open(&options, Counter(0), network).unwrap();
    for _ in 0..TURNS * 4096 {
        handle.read(|_| ());
    }
    handle.stop();
    let turns = Arc::new(AtomicU64::new(0));
    let connection = turns.clone();
    tokio::spawn(async move {
        loop {
            connection.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    driver::run(&mut node, inbox, |_| ()).await.unwrap();
    let turns = turns.load(Ordering::Relaxed);
    assert!(turns > TURNS / 2, "{turns} of {TURNS}");
}

#[tokio::test]
async fn one_that_started_when_nobody_waited_for_it_any_more_ends() {
    let dir = tempfile::tempdir().unwrap();
    let peers = free_addresses(1);
    let mut start = Box::pin(Replica::start(options(dir.path(), 1, &peers), Counter(0)));
    let polled = std::future::poll_fn(|context| Poll::Ready(start.as_mut().poll(context))).await;
    assert!(polled.is_pending(), "it takes a while");
    // It answers, so it was given out, and was not taken.
    wait_until("it closes a connection that sends garbage", || {
        let Ok(mut connection) = std::net::TcpStream::connect(&peers[0].1) else {
            return false;
        };
        let patience = Some(Duration::from_secs(5));
        connection.set_read_timeout(patience).unwrap();
        connection.write_all(&[0xff; 64]).unwrap();
        let read = connection.read_to_end(&mut Vec::new());
        read.map_or_else(
            |error| error.kind() == io::ErrorKind::ConnectionReset,
            |_| true,
        )
    })
    .await;
    drop(start);
    let replicas = start_all(dir.path(), &peers).await;
    assert_eq!(count(&replicas).await, 1);
}

#[tokio::test]
async fn one_that_was_dropped_may_be_started_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let peers = free_addresses(1);
    for expected in 1..=20 {
        let replicas = start_all(dir.path(), &peers).await;
        assert_eq!(count(&replicas).await, expected);
    }
}
