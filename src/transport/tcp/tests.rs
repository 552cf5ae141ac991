//! Tests of connections and handshakes, between endpoints that admit what they are told to.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use duramen_wal::{LogId, Term};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::listening::{READ_BYTES, STRANGERS_MAX, UNKNOWN_MAX, deliver_all};
use super::*;
use crate::raft::{Envelope, Membership, Message};
use crate::transport::codec::BODY_BYTES_MAX;
use crate::transport::{Network, Packet, Refusal};

/// A node as its transport knows it.
#[derive(Clone)]
struct Node {
    introduction: Introduction,
    /// What it says to everybody that is not itself.
    admits: Result<(), Refusal>,
    /// What it heard.
    heard: mpsc::UnboundedSender<Heard>,
}

#[derive(Debug, PartialEq)]
enum Heard {
    Admitted(NodeId),
    Refused(NodeId, u128, Refusal),
    Packet(Packet),
}

impl Endpoint for Node {
    fn introduce(&self, on_introduction: Box<dyn FnOnce(Introduction) + Send>) {
        on_introduction(self.introduction.clone());
    }

    fn admit(&self, other: Introduction, on_admitted: Box<dyn FnOnce(Result<(), Refusal>) + Send>) {
        if self.admits.is_ok() {
            let _ = self.heard.send(Heard::Admitted(other.from));
        }
        on_admitted(self.admits.clone());
    }

    fn refused(&self, by: NodeId, by_uuid: u128, refusal: Refusal) {
        let _ = self.heard.send(Heard::Refused(by, by_uuid, refusal));
    }

    fn deliver(&self, packet: Packet) {
        let _ = self.heard.send(Heard::Packet(packet));
    }
}

/// A node that admits everybody, and what it hears.
fn node(id: u64) -> (Node, mpsc::UnboundedReceiver<Heard>) {
    let (heard, inbox) = mpsc::unbounded_channel();
    let introduction = Introduction {
        cluster: "c".to_owned(),
        from: NodeId(id),
        uuid: 100 + u128::from(id),
        boots: [(1, 7)].into(),
        term: Term(0),
        last: LogId::default(),
        is_blank: true,
        leads: false,
        knows: BTreeMap::new(),
        met: BTreeMap::new(),
    };
    let node = Node {
        introduction,
        admits: Ok(()),
        heard,
    };
    (node, inbox)
}

/// Node `id`, which was started with these peers.
fn transport(id: u64, peers: &Peers) -> TcpTransport {
    let own = Addresses {
        peer: peers.get(&NodeId(id)).cloned().unwrap_or_default(),
        client: format!("client-of-{id}"),
    };
    let given = peers.iter().map(|(&id, peer)| {
        let (peer, client) = (peer.clone(), String::new());
        (id, Addresses { peer, client })
    });
    TcpTransport::new(NodeId(id), AddressBook::new(NodeId(id), own, given))
}

fn listen(transport: TcpTransport, listener: TcpListener, node: impl Endpoint) {
    tokio::spawn(async move { transport.listen(listener, node).await });
}

/// A connection as `node`, without messages.
async fn open(
    transport: &TcpTransport,
    node: &impl Endpoint,
    to: u64,
    address: &str,
) -> io::Result<TcpStream> {
    let opened = transport.handshakes.open(node, NodeId(to), address);
    let opened = timeout(Duration::from_secs(5), opened).await;
    Ok(opened.expect("an answer")?.stream)
}

fn voters(ids: &[u64]) -> Membership {
    Membership::of_voters(ids.iter().copied().map(NodeId))
}

fn request_vote(from: u64, to: u64) -> Packet {
    Packet::Raft(Envelope {
        from: NodeId(from),
        to: NodeId(to),
        term: Term(7),
        message: Message::RequestVote {
            last: LogId::default(),
            is_transfer: false,
        },
    })
}

async fn listener() -> (TcpListener, Peers) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let peers = Peers::from([(NodeId(1), "127.0.0.1:1".to_owned()), (NodeId(2), address)]);
    (listener, peers)
}

async fn heard(inbox: &mut mpsc::UnboundedReceiver<Heard>) -> Heard {
    let heard = timeout(Duration::from_secs(10), inbox.recv()).await;
    heard.unwrap().unwrap()
}

fn other_node(node: u64) -> Refusal {
    Refusal::OtherNode {
        node: NodeId(node),
        known: 1,
        found: 2,
    }
}

#[tokio::test]
async fn both_are_admitted_then_messages_arrive_and_the_client_addresses_are_learned() {
    let (listener, peers) = listener().await;
    let (one, two) = (transport(1, &peers), transport(2, &peers));
    let ((node_1, mut inbox_1), (node_2, mut inbox_2)) = (node(1), node(2));
    let (book_1, book_2) = (
        one.handshakes.addresses.clone(),
        two.handshakes.addresses.clone(),
    );
    listen(two, listener, node_2);
    let mut network = one.connect(&node_1);
    network.members_changed(&voters(&[1, 2]));
    assert_eq!(heard(&mut inbox_2).await, Heard::Admitted(NodeId(1)));
    assert_eq!(heard(&mut inbox_1).await, Heard::Admitted(NodeId(2)));
    network.send(request_vote(1, 2));
    assert_eq!(heard(&mut inbox_2).await, Heard::Packet(request_vote(1, 2)));
    for (book, id) in [(book_2, 1), (book_1, 2)] {
        let said = Addresses {
            peer: peers[&NodeId(id)].clone(),
            client: format!("client-of-{id}"),
        };
        assert_eq!(book.addresses(NodeId(id)), said);
    }
}

#[tokio::test]
async fn a_peer_that_connects_anew_leaves_no_connection_behind() {
    let (listener, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    let (one, two) = (transport(1, &peers), transport(2, &peers));
    let ((node_1, _inbox_1), (node_2, _inbox_2)) = (node(1), node(2));
    listen(two, listener, node_2);
    let mut forgotten = Vec::new();
    for _ in 0..2 * UNKNOWN_MAX {
        forgotten.push(open(&one, &node_1, 2, &address).await.unwrap());
    }
    let (last, replaced) = forgotten.split_last_mut().unwrap();
    for stream in replaced {
        let read = timeout(Duration::from_secs(5), stream.read(&mut [0; 1])).await;
        assert_eq!(read.unwrap().unwrap(), 0, "it was closed");
    }
    let read = timeout(Duration::from_millis(20), last.read(&mut [0; 1])).await;
    assert!(read.is_err(), "the last one stands");
}

/// Opens a connection that is refused, and gives the reason.
async fn open_error(transport: &TcpTransport, node: &Node, to: u64, address: &str) -> String {
    let error = open(transport, node, to, address).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    error.to_string()
}

#[tokio::test]
async fn whoever_came_to_the_wrong_place_is_told_why_and_goes_on() {
    let (listener, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    let (node_2, mut inbox_2) = node(2);
    listen(transport(2, &peers), listener, node_2);
    for (id, to, reason) in [
        (2, 2, "this is node 2 itself"),
        (1, 4, "it looks for node 4, this is node 2"),
    ] {
        let (stranger, mut inbox) = node(id);
        let error = open_error(&transport(id, &peers), &stranger, to, &address).await;
        assert_eq!(error, format!("turned away: {reason}"));
        assert!(inbox.try_recv().is_err(), "nothing ends because of it");
    }
    assert!(inbox_2.try_recv().is_err());
}

#[tokio::test]
async fn a_node_that_is_not_any_more_what_it_was_is_told_so() {
    let (listener, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    let ((node_1, mut inbox_1), (mut node_2, mut inbox_2)) = (node(1), node(2));
    node_2.admits = Err(other_node(1));
    listen(transport(2, &peers), listener, node_2);
    let one = transport(1, &peers);
    let error = open_error(&one, &node_1, 2, &address).await;
    assert_eq!(error, format!("refused: {}", other_node(1)));
    let refused = Heard::Refused(NodeId(2), 102, other_node(1));
    assert_eq!(heard(&mut inbox_1).await, refused);
    assert!(inbox_2.try_recv().is_err());
    assert_eq!(one.handshakes.addresses.client_address(NodeId(2)), None);
}

#[tokio::test]
async fn a_node_of_another_cluster_is_told_so_and_goes_on() {
    let (listener, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    let ((node_1, mut inbox_1), (mut node_2, _)) = (node(1), node(2));
    let refusal = Refusal::OtherCluster {
        expected: "c".to_owned(),
        found: "d".to_owned(),
    };
    node_2.admits = Err(refusal);
    listen(transport(2, &peers), listener, node_2);
    let error = open_error(&transport(1, &peers), &node_1, 2, &address).await;
    assert_eq!(
        error,
        "refused: it is of cluster \"d\", and this node of \"c\""
    );
    assert!(inbox_1.try_recv().is_err());
}

#[tokio::test]
async fn a_node_that_connects_refuses_who_answers() {
    let (listener, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    let ((mut node_1, mut inbox_1), (node_2, mut inbox_2)) = (node(1), node(2));
    node_1.admits = Err(other_node(2));
    listen(transport(2, &peers), listener, node_2);
    let error = open_error(&transport(1, &peers), &node_1, 2, &address).await;
    assert_eq!(error, format!("refuses node 2: {}", other_node(2)));
    assert!(inbox_1.try_recv().is_err(), "that is not its own end");
    assert_eq!(heard(&mut inbox_2).await, Heard::Admitted(NodeId(1)));
    // The other one learns of it when it connects by itself.
}

#[tokio::test]
async fn whoever_answers_must_be_who_was_looked_for() {
    let (listener, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    let ((node_1, _inbox_1), (impostor, _inbox)) = (node(1), node(3));
    listen(transport(2, &peers), listener, impostor);
    let error = open_error(&transport(1, &peers), &node_1, 2, &address).await;
    assert_eq!(error, "node 3 answers");
}

/// A node that has ended, and drops what it is asked.
#[derive(Clone)]
struct Ended;

impl Endpoint for Ended {
    fn introduce(&self, _: Box<dyn FnOnce(Introduction) + Send>) {}

    fn admit(&self, _: Introduction, _: Box<dyn FnOnce(Result<(), Refusal>) + Send>) {}

    fn refused(&self, _: NodeId, _: u128, _: Refusal) {}

    fn deliver(&self, packet: Packet) {
        panic!("{packet:?} came to a node that admits nobody");
    }
}

#[tokio::test]
async fn a_node_that_has_ended_connects_to_nobody_and_admits_nobody() {
    let (listener, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    listen(transport(2, &peers), listener, Ended);
    let one = transport(1, &peers);
    let error = open(&one, &Ended, 2, &address).await;
    assert_eq!(error.unwrap_err().to_string(), "this node has ended");
    let (node_1, mut inbox_1) = node(1);
    let error = open(&one, &node_1, 2, &address).await;
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(inbox_1.try_recv().is_err());
}

/// Row 26.
#[tokio::test]
async fn garbage_closes_the_connection_with_a_reason() {
    let (listener, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    let (node_2, mut inbox_2) = node(2);
    let transport = transport(2, &peers);
    let reception = Reception::new(transport.handshakes.clone(), transport.latest.clone());
    for (garbage, reason) in [
        (
            &b"GET / HTTP/1.0\r\n\r\n"[..],
            "a frame of 542393671 bytes, the limit is 16384",
        ),
        (
            &[0xff; 100],
            "a frame of 4294967295 bytes, the limit is 16384",
        ),
        (&[0; 8], "a bad handshake: UnexpectedEnd { additional: 1 }"),
        (&[4, 0, 0, 0], "unexpected end of file"),
    ] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let received = reception.receive(accepted, &node_2, place);
        let ended = timeout(Duration::from_secs(5), received).await.unwrap();
        assert_eq!(ended.unwrap_err().to_string(), reason);
        let mut answer = Vec::new();
        // Closed, or reset because not everything was read.
        let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer))
            .await
            .unwrap();
        assert!(answer.is_empty());
    }
    assert!(inbox_2.try_recv().is_err());
}

/// Row 26.
#[tokio::test]
async fn half_a_frame_that_claims_the_largest_length_holds_no_more_than_was_sent() {
    let (node_2, mut inbox_2) = node(2);
    for sent in [0, 1, 1000, 3 << 20] {
        let mut half = (BODY_BYTES_MAX as u32).to_le_bytes().to_vec();
        half.extend([0; 4]); // The checksum, of what never comes.
        half.resize(half.len() + sent, 7);
        let mut buf = BytesMut::new();
        let ended = deliver_all(&mut &half[..], &mut buf, NodeId(1), &node_2).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(buf, half);
        assert!(buf.capacity() <= 2 * half.len() + 2 * READ_BYTES, "{sent}");
    }
    assert!(inbox_2.try_recv().is_err());
}

#[tokio::test]
async fn a_node_that_is_known_from_its_handshake_only_is_answered() {
    let (listener_2, peers) = listener().await;
    let listener_4 = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener_4.local_addr().unwrap().to_string();
    let ((node_2, mut inbox_2), (node_4, mut inbox_4)) = (node(2), node(4));
    let leader = transport(2, &peers);
    let peers_of_4 = Peers::from([(NodeId(4), address.clone())]);
    let joining = transport(4, &peers_of_4);
    let mut answers = joining.connect(&node_4);
    listen(leader.clone(), listener_2, node_2.clone());
    listen(joining, listener_4, node_4);
    answers.send(request_vote(4, 2)); // Nobody knows yet where node 2 is: it is lost.
    leader.meet(&node_2, NodeId(4), &address).await.unwrap();
    assert_eq!(heard(&mut inbox_4).await, Heard::Admitted(NodeId(2)));
    assert_eq!(heard(&mut inbox_2).await, Heard::Admitted(NodeId(4)));
    answers.send(request_vote(4, 2));
    assert_eq!(heard(&mut inbox_2).await, Heard::Admitted(NodeId(4)));
    assert_eq!(heard(&mut inbox_2).await, Heard::Packet(request_vote(4, 2)));
}

#[tokio::test]
async fn who_is_removed_loses_its_connection_and_gets_nothing_more() {
    let (listener_2, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    let ((node_1, _inbox_1), (node_2, _inbox_2)) = (node(1), node(2));
    let (one, two) = (transport(1, &peers), transport(2, &peers));
    let mut network = two.connect(&node_2);
    listen(two, listener_2, node_2);
    network.members_changed(&voters(&[1, 2]));
    let mut stream = open(&one, &node_1, 2, &address).await.unwrap();
    network.members_changed(&voters(&[2, 3]));
    let read = timeout(Duration::from_secs(5), stream.read(&mut [0; 1])).await;
    assert_eq!(read.unwrap().unwrap(), 0);
    let again = open(&one, &node_1, 2, &address).await;
    assert!(again.is_ok(), "it may come, and is told");
}

#[tokio::test]
async fn strangers_leave_room_for_members() {
    let (listener_2, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    let (node_2, _inbox_2) = node(2);
    listen(transport(2, &peers), listener_2, node_2);
    let mut connections = Vec::new();
    for id in (10..).take(STRANGERS_MAX) {
        let (stranger, _inbox) = node(id);
        let opened = open(&transport(id, &peers), &stranger, 2, &address).await;
        connections.push(opened.unwrap());
    }
    let (stranger, _inbox) = node(9);
    let error = open_error(&transport(9, &peers), &stranger, 2, &address).await;
    assert!(
        error.contains("node 2 has no room for more such nodes"),
        "{error}"
    );
    let (member, _inbox) = node(1);
    let opened = open(&transport(1, &peers), &member, 2, &address).await;
    assert!(opened.is_ok());
    connections.pop();
    let (late, _inbox) = node(9);
    let until = std::time::Instant::now() + Duration::from_secs(10);
    // The other end has to notice first.
    while open(&transport(9, &peers), &late, 2, &address)
        .await
        .is_err()
    {
        assert!(std::time::Instant::now() < until);
    }
}

#[tokio::test]
async fn an_address_that_does_not_work_does_not_hide_one_that_does() {
    let (listener_2, peers) = listener().await;
    let ((node_1, _inbox_1), (node_2, mut inbox_2)) = (node(1), node(2));
    let one = transport(1, &peers);
    listen(transport(2, &peers), listener_2, node_2);
    let wrong = Addresses {
        peer: "127.0.0.1:1".to_owned(),
        client: String::new(),
    };
    one.handshakes.addresses.said(NodeId(2), wrong);
    let mut network = one.connect(&node_1);
    network.members_changed(&voters(&[1, 2]));
    assert_eq!(heard(&mut inbox_2).await, Heard::Admitted(NodeId(1)));
}

#[tokio::test]
async fn after_the_end_no_connection_is_left() {
    let (listener_2, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    let ((node_1, _inbox_1), (node_2, mut inbox_2)) = (node(1), node(2));
    let (one, two) = (transport(1, &peers), transport(2, &peers));
    let mut network = one.connect(&node_1);
    network.members_changed(&voters(&[1, 2]));
    let (ending, hearing) = (two.clone(), node_2.clone());
    let listening = tokio::spawn(async move { ending.listen(listener_2, hearing).await });
    assert_eq!(heard(&mut inbox_2).await, Heard::Admitted(NodeId(1)));
    let mut stream = open(&transport(3, &peers), &node(3).0, 2, &address)
        .await
        .unwrap();
    two.end().await;
    listening.await.unwrap();
    let read = timeout(Duration::from_secs(5), stream.read(&mut [0; 1])).await;
    assert!(matches!(read.unwrap(), Ok(0) | Err(_)));
    one.end().await;
    TcpListener::bind(&address).await.unwrap();
}
