//! The sending side: a queue for each node, and a task that empties it into a connection.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use duramen_wal::NodeId;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::handshake::Handshakes;
use super::listening::Latest;
use super::queue::{Queue, Queued, queue, write_all};
use crate::raft::Membership;
use crate::transport::{Endpoint, Network, Packet};

const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection lasts between nodes of which one does not know yet that the other takes part, or that it does not any
/// more. Then they meet again.
const PASSING_LIFE: Duration = Duration::from_secs(1);
/// So long after its last message there is no connection any more to a node that is no member.
const STRANGER_LIFE: Duration = Duration::from_secs(10);
/// Nodes that are not members and are answered.
const STRANGERS_MAX: usize = 32;
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The tasks that send.
pub(super) type Senders = Arc<Mutex<JoinSet<()>>>;

/// The network as a node sees it: a queue for each member, and one for each other node that it has to answer.
#[derive(Debug)]
pub struct TcpNetwork<E> {
    node: E,
    handshakes: Handshakes,
    latest: Latest,
    tasks: Senders,
    runtime: runtime::Handle,
    members: BTreeMap<NodeId, Queue>,
    strangers: BTreeMap<NodeId, Queue>,
}

impl<E: Endpoint> Network for TcpNetwork<E> {
    fn send(&mut self, packet: Packet) {
        let to = packet.to();
        if let Some(queue) = self.members.get(&to) {
            return queue.put(packet);
        }
        self.strangers.retain(|_, queue| !queue.is_closed());
        if !self.strangers.contains_key(&to) {
            let is_known = self.handshakes.addresses.peer_address(to).is_some();
            if !is_known || self.strangers.len() >= STRANGERS_MAX {
                return;
            }
            let queue = self.start(to, Some(STRANGER_LIFE));
            self.strangers.insert(to, queue);
        }
        if let Some(queue) = self.strangers.get(&to) {
            queue.put(packet);
        }
    }

    fn members_changed(&mut self, membership: &Membership) {
        let addresses = self.handshakes.addresses.clone();
        addresses.set_members(membership);
        let mut all = membership.all();
        all.remove(&self.handshakes.id);
        let gone: Vec<NodeId> = self
            .members
            .keys()
            .copied()
            .filter(|id| !all.contains(id))
            .collect();
        for id in gone {
            self.members.remove(&id);
            self.latest.end(id); // When it comes again, it is told.
        }
        for id in all {
            self.strangers.remove(&id);
            if !self.members.contains_key(&id) {
                let queue = self.start(id, None);
                self.members.insert(id, queue);
            }
        }
    }
}

impl<E: Endpoint> TcpNetwork<E> {
    pub(super) fn new(
        node: E,
        handshakes: Handshakes,
        latest: Latest,
        tasks: Senders,
    ) -> TcpNetwork<E> {
        TcpNetwork {
            node,
            handshakes,
            latest,
            tasks,
            runtime: runtime::Handle::current(),
            members: BTreeMap::new(),
            strangers: BTreeMap::new(),
        }
    }

    /// Starts to send to a node, until the queue goes or there has been nothing to send for `idle_max`.
    fn start(&self, to: NodeId, idle_max: Option<Duration>) -> Queue {
        let (queue, messages) = queue();
        let sender = Sender {
            handshakes: self.handshakes.clone(),
            to,
            messages,
            idle_max,
            failures: 0,
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(sender.send_forever(self.node.clone()), &self.runtime);
        queue
    }
}

struct Sender {
    handshakes: Handshakes,
    to: NodeId,
    messages: Queued,
    idle_max: Option<Duration>,
    /// Connections that were not made: the next address is tried then.
    failures: usize,
}

/// Why a connection is not used any more.
enum Over {
    /// There will be nothing more to send.
    Ended,
    /// There was nothing to send for long.
    Idle,
    /// It is time to meet anew.
    Passed,
}

impl Sender {
    async fn send_forever(mut self, node: impl Endpoint) {
        let mut pause = PAUSE_MIN;
        let mut denied = String::new();
        loop {
            match self.send_once(&node).await {
                Ok(Over::Ended | Over::Idle) => return,
                Ok(Over::Passed) => {
                    pause = PAUSE_MIN;
                    continue;
                }
                Err((error, was_open)) => {
                    match was_open {
                        true => pause = PAUSE_MIN,
                        false => self.failures += 1,
                    }
                    self.tell(&error, &mut denied);
                    if error.kind() == io::ErrorKind::PermissionDenied {
                        pause = PAUSE_MAX;
                    }
                }
            }
            self.messages.clear();
            if self.messages.is_closed() || self.idle_max.is_some() {
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Says what is wrong, once.
    fn tell(&self, error: &io::Error, denied: &mut String) {
        let to = self.to;
        tracing::debug!(%to, %error, "not connected");
        if error.kind() == io::ErrorKind::PermissionDenied && *denied != error.to_string() {
            *denied = error.to_string();
            tracing::error!(%to, "{error}");
        }
    }

    /// Connects, and sends as long as the connection stands. With the error it is said whether it did.
    async fn send_once(&mut self, node: &impl Endpoint) -> Result<Over, (io::Error, bool)> {
        // Each time: it may have said another one meanwhile.
        let addresses = self.handshakes.addresses.peer_addresses(self.to);
        if addresses.is_empty() {
            let error = io::Error::new(io::ErrorKind::NotFound, "its address is not known");
            return Err((error, false));
        }
        let address = &addresses[self.failures % addresses.len()];
        let opened = self.handshakes.open(node, self.to, address).await;
        let opened = opened.map_err(|error| (error, false))?;
        tracing::debug!(to = %self.to, address, "connected");
        let until = opened.is_passing.then(|| Instant::now() + PASSING_LIFE);
        let over = self.send_all(opened.stream, until).await;
        self.messages.detach();
        over.map_err(|error| (error, true))
    }

    /// Sends what is queued, until the connection breaks; or until a moment without messages after `until`.
    async fn send_all(&mut self, stream: TcpStream, until: Option<Instant>) -> io::Result<Over> {
        let (mut incoming, outgoing) = stream.into_split();
        let outgoing = Arc::new(outgoing);
        // Of those that may be idle, it has to be seen when they are.
        let idle = self.idle_max.is_none().then_some(&outgoing);
        let mut buf = BytesMut::new();
        let mut unexpected = [0; 1];
        loop {
            let idle_until = self.idle_max.map(|idle_max| Instant::now() + idle_max);
            tokio::select! {
                biased;
                is_there = self.messages.next(&mut buf, idle) => if !is_there {
                    return Ok(Over::Ended);
                },
                // The peer never sends anything here, so this is its end.
                read = incoming.read(&mut unexpected) => {
                    read?;
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                () = end_of(until) => return Ok(Over::Passed),
                () = end_of(idle_until) => return Ok(Over::Idle),
            }
            timeout(WRITE_TIMEOUT, write_all(&outgoing, &buf)).await??;
            buf.clear();
        }
    }
}

/// Waits until then; for ever, if there is no such moment.
async fn end_of(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
