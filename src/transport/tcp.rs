//! TCP: one connection from each node to each other, used in one direction.
//!
//! Whoever connects says who it is, for whom, and of which cluster; a wrong one is refused with the reason. A connection
//! that breaks is made again, with growing pauses; what was queued meanwhile is dropped, since Raft sends anew.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use duramen_wal::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::codec::{
    BODY_BYTES_MAX, HELLO_BYTES_MAX, Hello, VERSION, Welcome, decode_handshake, decode_message,
    put_handshake, put_message, take_frame,
};
use super::{ClientAddresses, Network};
use crate::raft::Envelope;

/// The nodes of a cluster, with the addresses at which they listen for each other.
pub type Peers = BTreeMap<NodeId, String>;

/// Who this node is to its peers.
#[derive(Debug, Clone)]
pub struct TcpTransport {
    /// The cluster's name. Nodes of other clusters are refused.
    pub cluster: String,
    /// This node.
    pub id: NodeId,
    /// All nodes, this one included.
    pub peers: Peers,
    /// Where clients reach this node.
    pub client_address: String,
    /// Where clients reach the others. Filled in by handshakes.
    pub client_addresses: ClientAddresses,
}

/// The sending side: a queue for each peer.
#[derive(Debug)]
pub struct TcpNetwork {
    queues: BTreeMap<NodeId, mpsc::Sender<Envelope>>,
}

impl Network for TcpNetwork {
    fn send(&mut self, envelope: Envelope) {
        if let Some(queue) = self.queues.get(&envelope.to) {
            let _ = queue.try_send(envelope); // A full queue: the message is lost.
        }
    }
}

const QUEUED_MESSAGES_MAX: usize = 1024;
/// Messages that wait together are written together.
const WRITE_BYTES: usize = 256 << 10;
/// Read at once. The buffer grows beyond it only with what has arrived.
const READ_BYTES: usize = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Connections from peers, of whom there are few. Strangers shall not use up the memory.
const CONNECTIONS_MAX: usize = 64;

impl TcpTransport {
    /// Starts sending to the peers. Must be called in a tokio runtime; ends with it.
    pub fn connect(&self) -> TcpNetwork {
        let others = self.peers.iter().filter(|(id, _)| **id != self.id);
        let queues = others.map(|(&to, address)| {
            let (queue, messages) = mpsc::channel(QUEUED_MESSAGES_MAX);
            tokio::spawn(self.clone().send_forever(to, address.clone(), messages));
            (to, queue)
        });
        TcpNetwork {
            queues: queues.collect(),
        }
    }

    async fn send_forever(
        self,
        to: NodeId,
        address: String,
        mut messages: mpsc::Receiver<Envelope>,
    ) {
        let mut pause = PAUSE_MIN;
        loop {
            let connected =
                match timeout(CONNECT_TIMEOUT + HANDSHAKE_TIMEOUT, self.open(to, &address)).await {
                    Ok(connected) => connected,
                    Err(_) => Err(io::ErrorKind::TimedOut.into()),
                };
            match connected {
                Ok(stream) => {
                    pause = PAUSE_MIN;
                    tracing::debug!(%to, address, "connected");
                    match send_all(stream, &mut messages).await {
                        Ok(()) => return, // The node has ended.
                        Err(error) => tracing::debug!(%to, address, %error, "disconnected"),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    tracing::error!(%to, address, "refused: {error}");
                    pause = PAUSE_MAX;
                }
                Err(error) => tracing::debug!(%to, address, %error, "not connected"),
            }
            while messages.try_recv().is_ok() {}
            if messages.is_closed() {
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn open(&self, to: NodeId, address: &str) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let hello = Hello {
            version: VERSION,
            cluster: self.cluster.clone(),
            from: self.id.0,
            to: to.0,
            client_address: self.client_address.clone(),
        };
        write_handshake(&mut stream, &hello).await?;
        let mut buf = BytesMut::new();
        match read_handshake(&mut stream, &mut buf).await? {
            Welcome::Accepted { client_address } => {
                self.client_addresses.insert(to, client_address);
                Ok(stream)
            }
            Welcome::Refused { reason } => {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
            }
        }
    }

    /// Takes in the peers' connections and gives their messages to `deliver`, for ever.
    pub async fn listen(
        self,
        listener: TcpListener,
        deliver: impl Fn(Envelope) + Clone + Send + 'static,
    ) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let latest = Latest::default();
        loop {
            let place = places
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of a peer");
                    sleep(PAUSE_MAX).await; // Too many open files, perhaps: it is worth waiting.
                    continue;
                }
            };
            let (transport, deliver, latest) = (self.clone(), deliver.clone(), latest.clone());
            tokio::spawn(async move {
                if let Err(error) = transport.receive(stream, deliver, &latest).await {
                    tracing::debug!(%from, %error, "closed a connection of a peer");
                }
                drop(place);
            });
        }
    }

    async fn receive(
        &self,
        mut stream: TcpStream,
        deliver: impl Fn(Envelope),
        latest: &Latest,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buf = BytesMut::new();
        let hello = timeout(
            HANDSHAKE_TIMEOUT,
            read_handshake::<Hello>(&mut stream, &mut buf),
        )
        .await??;
        let from = match self.check(&hello) {
            Ok(from) => from,
            Err(reason) => {
                tracing::warn!(
                    from = hello.from,
                    cluster = hello.cluster,
                    "refused a peer: {reason}"
                );
                return write_handshake(&mut stream, &Welcome::Refused { reason }).await;
            }
        };
        self.client_addresses.insert(from, hello.client_address);
        let mut replaced = latest.replace(from);
        let client_address = self.client_address.clone();
        write_handshake(&mut stream, &Welcome::Accepted { client_address }).await?;
        loop {
            while let Some(body) = take_frame(&mut buf, BODY_BYTES_MAX)? {
                let envelope = decode_message(body)?;
                if envelope.from != from {
                    let what = format!("node {from} sent a message of node {}", envelope.from);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                deliver(envelope);
            }
            buf.reserve(READ_BYTES);
            let read = tokio::select! {
                read = stream.read_buf(&mut buf) => read?,
                _ = &mut replaced => return Err(io::Error::other("the peer has connected anew")),
            };
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// Whether a node may talk to us. Both sides' views are in the reason.
    fn check(&self, hello: &Hello) -> Result<NodeId, String> {
        let from = NodeId(hello.from);
        if hello.version != VERSION {
            let ours = VERSION;
            return Err(format!(
                "it speaks version {} between nodes, this node {ours}",
                hello.version
            ));
        }
        if hello.cluster != self.cluster {
            return Err(format!(
                "it is of cluster {:?}, this node of {:?}",
                hello.cluster, self.cluster
            ));
        }
        if hello.to != self.id.0 {
            return Err(format!(
                "it looks for node {}, this is node {}",
                hello.to, self.id
            ));
        }
        if from == self.id || !self.peers.contains_key(&from) {
            return Err(format!("node {from} is not a peer of node {}", self.id));
        }
        Ok(from)
    }
}

/// The latest connection of each peer. A peer uses one at a time. An earlier one that is still here has lost its other end
/// without a word, as when the machine lost power, and would be here for ever.
#[derive(Clone, Default)]
struct Latest(Arc<Mutex<BTreeMap<NodeId, oneshot::Sender<()>>>>);

impl Latest {
    /// Ends the connection that `from` had, and gives what ends when the new one is replaced.
    fn replace(&self, from: NodeId) -> oneshot::Receiver<()> {
        let (here, replaced) = oneshot::channel();
        let mut latest = self.0.lock().expect("no one panics with the lock");
        latest.insert(from, here);
        replaced
    }
}

/// Sends what is queued until the connection breaks. `Ok` if there will be nothing more to send.
async fn send_all(stream: TcpStream, messages: &mut mpsc::Receiver<Envelope>) -> io::Result<()> {
    let (mut incoming, mut outgoing) = stream.into_split();
    let mut buf = BytesMut::new();
    let mut unexpected = [0; 1];
    loop {
        let first = tokio::select! {
            message = messages.recv() => match message {
                Some(message) => message,
                None => return Ok(()),
            },
            // The peer never sends anything here, so this is its end.
            read = incoming.read(&mut unexpected) => {
                read?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        };
        put_message(&mut buf, &first);
        while buf.len() < WRITE_BYTES
            && let Ok(message) = messages.try_recv()
        {
            put_message(&mut buf, &message);
        }
        timeout(WRITE_TIMEOUT, outgoing.write_all(&buf)).await??;
        buf.clear();
    }
}

async fn write_handshake(
    stream: &mut TcpStream,
    message: &impl serde::Serialize,
) -> io::Result<()> {
    let mut buf = BytesMut::new();
    put_handshake(&mut buf, message);
    stream.write_all(&buf).await
}

async fn read_handshake<T: serde::de::DeserializeOwned>(
    stream: &mut TcpStream,
    buf: &mut BytesMut,
) -> io::Result<T> {
    loop {
        if let Some(body) = take_frame(buf, HELLO_BYTES_MAX)? {
            return decode_handshake(&body);
        }
        if stream.read_buf(buf).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use duramen_wal::{LogId, Term};

    use super::*;
    use crate::raft::Message;

    fn transport(cluster: &str, id: u64, peers: &Peers) -> TcpTransport {
        TcpTransport {
            cluster: cluster.to_owned(),
            id: NodeId(id),
            peers: peers.clone(),
            client_address: format!("client-of-{id}"),
            client_addresses: ClientAddresses::default(),
        }
    }

    fn request_vote(from: u64, to: u64) -> Envelope {
        Envelope {
            from: NodeId(from),
            to: NodeId(to),
            term: Term(7),
            message: Message::RequestVote {
                last: LogId::default(),
                is_transfer: false,
            },
        }
    }

    async fn listener() -> (TcpListener, Peers) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let peers = Peers::from([(NodeId(1), "127.0.0.1:1".to_owned()), (NodeId(2), address)]);
        (listener, peers)
    }

    #[tokio::test]
    async fn messages_arrive_and_the_client_addresses_are_learned() {
        let (listener, peers) = listener().await;
        let (one, two) = (transport("c", 1, &peers), transport("c", 2, &peers));
        let (delivered, mut inbox) = mpsc::unbounded_channel();
        let learned = two.client_addresses.clone();
        tokio::spawn(two.listen(listener, move |envelope| delivered.send(envelope).unwrap()));
        let mut network = one.connect();
        let received = loop {
            // What is sent before the connection stands is lost.
            network.send(request_vote(1, 2));
            if let Ok(received) = timeout(Duration::from_millis(50), inbox.recv()).await {
                break received.unwrap();
            }
        };
        assert_eq!(received, request_vote(1, 2));
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
        let (one, two) = (transport("c", 1, &peers), transport("c", 2, &peers));
        tokio::spawn(two.listen(listener, |envelope| panic!("{envelope:?}")));
        let mut forgotten = Vec::new();
        for _ in 0..2 * CONNECTIONS_MAX {
            let opened = timeout(Duration::from_secs(5), one.open(NodeId(2), &address)).await;
            forgotten.push(opened.unwrap().unwrap());
        }
    }

    #[tokio::test]
    async fn strangers_are_refused_with_the_reason() {
        let (listener, peers) = listener().await;
        let address = peers[&NodeId(2)].clone();
        let two = transport("c", 2, &peers);
        tokio::spawn(two.listen(listener, |envelope| panic!("{envelope:?}")));
        for (stranger, to, reason) in [
            (
                transport("other", 1, &peers),
                2,
                "it is of cluster \"other\", this node of \"c\"",
            ),
            (
                transport("c", 3, &peers),
                2,
                "node 3 is not a peer of node 2",
            ),
            (
                transport("c", 2, &peers),
                2,
                "node 2 is not a peer of node 2",
            ),
            (
                transport("c", 1, &peers),
                4,
                "it looks for node 4, this is node 2",
            ),
        ] {
            let error = stranger
                .open(NodeId(to), &address)
                .await
                .map(|_| ())
                .unwrap_err();
            assert_eq!(error.to_string(), reason);
        }
    }

    #[tokio::test]
    async fn garbage_closes_the_connection() {
        let (listener, peers) = listener().await;
        let address = peers[&NodeId(2)].clone();
        let two = transport("c", 2, &peers);
        tokio::spawn(two.listen(listener, |envelope| panic!("{envelope:?}")));
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
    }
}
