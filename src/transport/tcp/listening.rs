//! The receiving side: connections of other nodes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use duramen_wal::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::handshake::{HANDSHAKE_TIMEOUT, Handshakes};
use crate::transport::Endpoint;
use crate::transport::codec::{BODY_BYTES_MAX, decode_packet, take_frame};

/// Connections whose other end is not known yet.
pub(super) const UNKNOWN_MAX: usize = 64;
/// Connections of nodes that are not members. A member has one.
pub(super) const STRANGERS_MAX: usize = 32;
/// Read at once. The buffer grows beyond it only with what has arrived.
pub(super) const READ_BYTES: usize = 64 << 10;
/// How long to wait before accepting again, when the system has no more connections to give.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Takes in connections. Clones share all but the handshakes.
#[derive(Debug, Clone)]
pub(super) struct Reception {
    pub(super) handshakes: Handshakes,
    latest: Latest,
    unknown: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Reception {
    pub(super) fn new(handshakes: Handshakes, latest: Latest) -> Reception {
        Reception {
            handshakes,
            latest,
            unknown: Arc::new(Semaphore::new(UNKNOWN_MAX)),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
        }
    }

    /// Takes in connections and gives their messages to `node`, until it is told to end. Then all of them are closed.
    pub(super) async fn listen(
        self,
        listener: TcpListener,
        node: impl Endpoint,
        ended: CancellationToken,
    ) {
        let mut connections = JoinSet::new();
        tokio::select! {
            () = ended.cancelled() => {}
            () = self.accept_forever(&listener, &node, &mut connections) => {}
        }
        connections.shutdown().await;
    }

    async fn accept_forever(
        &self,
        listener: &TcpListener,
        node: &impl Endpoint,
        connections: &mut JoinSet<()>,
    ) {
        loop {
            let place = self.unknown.clone().acquire_owned().await;
            let place = place.expect("the semaphore is never closed");
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of a node");
                    sleep(ACCEPT_PAUSE).await; // Too many open files, perhaps: it is worth waiting.
                    continue;
                }
            };
            while connections.try_join_next().is_some() {}
            let (reception, node) = (self.clone(), node.clone());
            connections.spawn(async move {
                if let Err(error) = reception.receive(stream, &node, place).await {
                    tracing::debug!(%from, %error, "closed a connection of a node");
                }
            });
        }
    }

    /// Serves one connection, until its other end closes it. What is wrong with it is returned, and closes it.
    pub(super) async fn receive(
        &self,
        mut stream: TcpStream,
        node: &impl Endpoint,
        place: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buf = BytesMut::new();
        // Whether it is needed is known when it has been said who is there.
        let stranger = self.strangers.clone().try_acquire_owned().ok();
        let has_room = stranger.is_some();
        let welcome = self
            .handshakes
            .welcome(node, has_room, &mut stream, &mut buf);
        let Some(from) = timeout(HANDSHAKE_TIMEOUT, welcome).await?? else {
            return Ok(());
        };
        drop(place);
        let _stranger = stranger.filter(|_| !self.handshakes.addresses.is_member(from));
        let replaced = self.latest.replace(from);
        tokio::select! {
            ended = deliver_all(&mut stream, &mut buf, from, node) => ended,
            _ = replaced => Err(io::Error::other("the node has connected anew, or is no member any more")),
        }
    }
}

/// Gives the messages of `from` to `node`, until the stream ends behind one of them.
pub(super) async fn deliver_all(
    stream: &mut (impl AsyncRead + Unpin),
    buf: &mut BytesMut,
    from: NodeId,
    node: &impl Endpoint,
) -> io::Result<()> {
    loop {
        while let Some(body) = take_frame(buf, BODY_BYTES_MAX)? {
            let packet = decode_packet(body)?;
            if packet.from() != from {
                let what = format!("node {from} sent a message of node {}", packet.from());
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            node.deliver(packet);
        }
        buf.reserve(READ_BYTES);
        if stream.read_buf(buf).await? == 0 {
            return match buf.is_empty() {
                true => Ok(()),
                false => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
    }
}

/// The latest connection of each node. A node uses one at a time. An earlier one that is still here has lost its other end
/// without a word, as when the machine lost power, and would be here for ever.
#[derive(Debug, Clone, Default)]
pub(super) struct Latest(Arc<Mutex<BTreeMap<NodeId, oneshot::Sender<()>>>>);

impl Latest {
    /// Ends the connection that `from` had, and gives what ends when the new one is to end.
    fn replace(&self, from: NodeId) -> oneshot::Receiver<()> {
        let (here, replaced) = oneshot::channel();
        let mut latest = self.lock();
        latest.retain(|_, connection| !connection.is_closed());
        latest.insert(from, here);
        replaced
    }

    /// Ends the connection of a node.
    pub(super) fn end(&self, from: NodeId) {
        self.lock().remove(&from);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
