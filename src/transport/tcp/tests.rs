//! Tests of connections and handshakes, between endpoints that admit what they are told to.

use duramen_wal::{LogId, Term};

use super::*;
use crate::raft::{Envelope, Message};

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
    Refused(NodeId, Refusal),
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

    fn refused(&self, by: NodeId, refusal: Refusal) {
        let _ = self.heard.send(Heard::Refused(by, refusal));
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
        boot: 1,
        term: Term(0),
        last: LogId::default(),
        is_blank: true,
        knows: BTreeMap::new(),
    };
    let node = Node {
        introduction,
        admits: Ok(()),
        heard,
    };
    (node, inbox)
}

fn transport(id: u64, peers: &Peers) -> TcpTransport {
    TcpTransport {
        id: NodeId(id),
        peers: peers.clone(),
        client_address: format!("client-of-{id}"),
        client_addresses: ClientAddresses::default(),
    }
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
    let learned = two.client_addresses.clone();
    tokio::spawn(two.listen(listener, node_2));
    let mut network = one.connect(&node_1);
    assert_eq!(heard(&mut inbox_2).await, Heard::Admitted(NodeId(1)));
    assert_eq!(heard(&mut inbox_1).await, Heard::Admitted(NodeId(2)));
    let received = loop {
        // What is sent before the connection stands is lost.
        network.send(request_vote(1, 2));
        if let Ok(received) = timeout(Duration::from_millis(50), inbox_2.recv()).await {
            break received.unwrap();
        }
    };
    assert_eq!(received, Heard::Packet(request_vote(1, 2)));
    assert_eq!(learned.find(NodeId(1)).as_deref(), Some("client-of-1"));
    assert_eq!(
        one.client_addresses.find(NodeId(2)).as_deref(),
        Some("client-of-2")
    );
}

#[tokio::test]
async fn a_peer_that_connects_anew_leaves_no_connection_behind() {
    let (listener, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    let (one, two) = (transport(1, &peers), transport(2, &peers));
    let ((node_1, _inbox_1), (node_2, _inbox_2)) = (node(1), node(2));
    tokio::spawn(two.listen(listener, node_2));
    let mut forgotten = Vec::new();
    for _ in 0..2 * CONNECTIONS_MAX {
        let opened = one.open(&node_1, NodeId(2), &address);
        let opened = timeout(Duration::from_secs(5), opened).await;
        forgotten.push(opened.unwrap().unwrap());
    }
}

/// Opens a connection that is refused, and gives the reason.
async fn open_error(transport: &TcpTransport, node: &Node, to: u64, address: &str) -> String {
    let opened = transport.open(node, NodeId(to), address).await;
    let error = opened.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    error.to_string()
}

#[tokio::test]
async fn whoever_came_to_the_wrong_place_is_told_why_and_goes_on() {
    let (listener, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    let (node_2, mut inbox_2) = node(2);
    tokio::spawn(transport(2, &peers).listen(listener, node_2));
    for (id, to, reason) in [
        (3, 2, "node 3 is not a peer of node 2"),
        (2, 2, "node 2 is not a peer of node 2"),
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
    tokio::spawn(transport(2, &peers).listen(listener, node_2));
    let one = transport(1, &peers);
    let error = open_error(&one, &node_1, 2, &address).await;
    assert_eq!(error, format!("refused: {}", other_node(1)));
    let refused = Heard::Refused(NodeId(2), other_node(1));
    assert_eq!(heard(&mut inbox_1).await, refused);
    assert!(inbox_2.try_recv().is_err());
    assert_eq!(one.client_addresses.find(NodeId(2)), None);
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
    tokio::spawn(transport(2, &peers).listen(listener, node_2));
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
    tokio::spawn(transport(2, &peers).listen(listener, node_2));
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
    tokio::spawn(transport(2, &peers).listen(listener, impostor));
    let error = open_error(&transport(1, &peers), &node_1, 2, &address).await;
    assert_eq!(error, "node 3 answers");
}

/// A node that has ended, and drops what it is asked.
#[derive(Clone)]
struct Ended;

impl Endpoint for Ended {
    fn introduce(&self, _: Box<dyn FnOnce(Introduction) + Send>) {}

    fn admit(&self, _: Introduction, _: Box<dyn FnOnce(Result<(), Refusal>) + Send>) {}

    fn refused(&self, _: NodeId, _: Refusal) {}

    fn deliver(&self, packet: Packet) {
        panic!("{packet:?} came to a node that admits nobody");
    }
}

#[tokio::test]
async fn a_node_that_has_ended_connects_to_nobody_and_admits_nobody() {
    let (listener, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    tokio::spawn(transport(2, &peers).listen(listener, Ended));
    let one = transport(1, &peers);
    let error = one.open(&Ended, NodeId(2), &address).await.map(|_| ());
    assert_eq!(error.unwrap_err().to_string(), "this node has ended");
    let (node_1, mut inbox_1) = node(1);
    let error = one.open(&node_1, NodeId(2), &address).await.map(|_| ());
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(inbox_1.try_recv().is_err());
}

#[tokio::test]
async fn garbage_closes_the_connection() {
    let (listener, peers) = listener().await;
    let address = peers[&NodeId(2)].clone();
    let (node_2, mut inbox_2) = node(2);
    tokio::spawn(transport(2, &peers).listen(listener, node_2));
    for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0xff; 100], &[0; 8]] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        // Closed, or reset because not everything was read.
        let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer))
            .await
            .unwrap();
        assert!(answer.is_empty());
    }
    assert!(inbox_2.try_recv().is_err());
}
