//! TCP: one connection from each node to each other, used in one direction.
//!
//! Whoever connects says for whom, and introduces itself; who is there judges it, and introduces itself too. Either may refuse
//! the other. One that came to the wrong place is told why, and tries again; one that is not any more the node that it was
//! is told so, and ends. A connection that breaks is made again, with growing pauses; what was queued meanwhile is
//! dropped, since Raft sends anew.

#[cfg(test)]
mod tests;

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
    BODY_BYTES_MAX, HELLO_BYTES_MAX, Hello, VERSION, Welcome, decode_handshake, decode_packet,
    put_handshake, put_packet, take_frame,
};
use super::{ClientAddresses, Endpoint, Introduction, Network, Packet, Refusal};

/// The nodes of a cluster, with the addresses at which they listen for each other.
pub type Peers = BTreeMap<NodeId, String>;

/// Who this node is to its peers.
#[derive(Debug, Clone)]
pub struct TcpTransport {
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
    queues: BTreeMap<NodeId, mpsc::Sender<Packet>>,
}

impl Network for TcpNetwork {
    fn send(&mut self, packet: Packet) {
        if let Some(queue) = self.queues.get(&packet.to()) {
            let _ = queue.try_send(packet); // A full queue: the message is lost.
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
/// A connection of a node that has not begun to take part.
const BLANK_LIFE: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Connections from peers, of whom there are few. Strangers shall not use up the memory.
const CONNECTIONS_MAX: usize = 64;

impl TcpTransport {
    /// Starts sending to the peers, as `node`. Must be called in a tokio runtime; ends with it.
    pub fn connect(&self, node: &impl Endpoint) -> TcpNetwork {
        let others = self.peers.iter().filter(|(id, _)| **id != self.id);
        let queues = others.map(|(&to, address)| {
            let (queue, messages) = mpsc::channel(QUEUED_MESSAGES_MAX);
            let transport = self.clone();
            tokio::spawn(transport.send_forever(node.clone(), to, address.clone(), messages));
            (to, queue)
        });
        TcpNetwork {
            queues: queues.collect(),
        }
    }

    async fn send_forever(
        self,
        node: impl Endpoint,
        to: NodeId,
        address: String,
        mut messages: mpsc::Receiver<Packet>,
    ) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.open(&node, to, &address).await {
                Ok((stream, life)) => {
                    pause = PAUSE_MIN;
                    tracing::debug!(%to, address, "connected");
                    match timeout(life, send_all(stream, &mut messages)).await {
                        Ok(Ok(())) => return, // The node has ended.
                        Ok(Err(error)) => tracing::debug!(%to, address, %error, "disconnected"),
                        Err(_) => {} // To hear what the peer knows by now.
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    tracing::error!(%to, address, "{error}");
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

    /// Connects, and says for how long: a node that waits for others to begin with is introduced again and again.
    async fn open(
        &self,
        node: &impl Endpoint,
        to: NodeId,
        address: &str,
    ) -> io::Result<(TcpStream, Duration)> {
        let mut stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let is_blank = timeout(HANDSHAKE_TIMEOUT, self.greet(node, to, &mut stream)).await??;
        let life = if is_blank { BLANK_LIFE } else { Duration::MAX };
        Ok((stream, life))
    }

    /// The handshake of the side that connects. Says whether this node was blank then.
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) if either refuses the other.
    async fn greet(
        &self,
        node: &impl Endpoint,
        to: NodeId,
        stream: &mut TcpStream,
    ) -> io::Result<bool> {
        let own = introduction(node).await?;
        let is_blank = own.is_blank;
        let hello = Hello {
            version: VERSION,
            to: to.0,
            client_address: self.client_address.clone(),
            introduction: own,
        };
        write_handshake(stream, &hello).await?;
        let denied = |what| io::Error::new(io::ErrorKind::PermissionDenied, what);
        match read_handshake(stream, &mut BytesMut::new()).await? {
            Welcome::Accepted {
                client_address,
                introduction,
            } => {
                if introduction.from != to {
                    return Err(denied(format!("node {} answers", introduction.from)));
                }
                let admitted = admit(node, introduction).await?;
                admitted.map_err(|refusal| denied(format!("refuses node {to}: {refusal}")))?;
                self.client_addresses.insert(to, client_address);
                Ok(is_blank)
            }
            Welcome::Astray { reason } => Err(denied(format!("turned away: {reason}"))),
            Welcome::Refused(refusal) => {
                let error = denied(format!("refused: {refusal}"));
                if refusal.is_final() {
                    node.refused(to, refusal);
                }
                Err(error)
            }
        }
    }

    /// Takes in the peers' connections and gives their messages to `node`, for ever.
    pub async fn listen(self, listener: TcpListener, node: impl Endpoint) {
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
            let (transport, node, latest) = (self.clone(), node.clone(), latest.clone());
            tokio::spawn(async move {
                if let Err(error) = transport.receive(stream, &node, &latest).await {
                    tracing::debug!(%from, %error, "closed a connection of a peer");
                }
                drop(place);
            });
        }
    }

    async fn receive(
        &self,
        mut stream: TcpStream,
        node: &impl Endpoint,
        latest: &Latest,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buf = BytesMut::new();
        let handshake = self.welcome(node, &mut stream, &mut buf);
        let Some(from) = timeout(HANDSHAKE_TIMEOUT, handshake).await?? else {
            return Ok(());
        };
        let mut replaced = latest.replace(from);
        loop {
            while let Some(body) = take_frame(&mut buf, BODY_BYTES_MAX)? {
                let packet = decode_packet(body)?;
                if packet.from() != from {
                    let what = format!("node {from} sent a message of node {}", packet.from());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
                node.deliver(packet);
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

    /// The handshake of the side that listens: who is there, if it may talk.
    async fn welcome(
        &self,
        node: &impl Endpoint,
        stream: &mut TcpStream,
        buf: &mut BytesMut,
    ) -> io::Result<Option<NodeId>> {
        let hello: Hello = read_handshake(stream, buf).await?;
        let from = hello.introduction.from;
        if let Err(reason) = self.check(&hello) {
            tracing::warn!(%from, "turned a peer away: {reason}");
            write_handshake(stream, &Welcome::Astray { reason }).await?;
            return Ok(None);
        }
        if let Err(refusal) = admit(node, hello.introduction).await? {
            tracing::warn!(%from, "refused a peer: {refusal}");
            write_handshake(stream, &Welcome::Refused(refusal)).await?;
            return Ok(None);
        }
        self.client_addresses.insert(from, hello.client_address);
        let accepted = Welcome::Accepted {
            client_address: self.client_address.clone(),
            introduction: introduction(node).await?,
        };
        write_handshake(stream, &accepted).await?;
        Ok(Some(from))
    }

    /// Whether a node has come to the right place. Both sides' views are in the reason.
    fn check(&self, hello: &Hello) -> Result<(), String> {
        let from = hello.introduction.from;
        if hello.version != VERSION {
            let ours = VERSION;
            return Err(format!(
                "it speaks version {} between nodes, this node {ours}",
                hello.version
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
        Ok(())
    }
}

async fn introduction(node: &impl Endpoint) -> io::Result<Introduction> {
    let (sender, answer) = oneshot::channel();
    // Who asked may be gone by then.
    node.introduce(Box::new(|introduction| drop(sender.send(introduction))));
    answer.await.map_err(|_| ended())
}

async fn admit(node: &impl Endpoint, other: Introduction) -> io::Result<Result<(), Refusal>> {
    let (sender, answer) = oneshot::channel();
    node.admit(other, Box::new(|admitted| drop(sender.send(admitted))));
    answer.await.map_err(|_| ended())
}

fn ended() -> io::Error {
    io::Error::other("this node has ended")
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
async fn send_all(stream: TcpStream, messages: &mut mpsc::Receiver<Packet>) -> io::Result<()> {
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
        put_packet(&mut buf, &first);
        while buf.len() < WRITE_BYTES
            && let Ok(message) = messages.try_recv()
        {
            put_packet(&mut buf, &message);
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
