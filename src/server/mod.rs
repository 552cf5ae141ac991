//! The face for clients: the Redis protocol, in the manner of a Redis Cluster.
//!
//! Each node answers. Only the leader serves keys; the others say `-MOVED` with its address, as a Redis Cluster does, so
//! that cluster clients follow the leader by themselves.
//!
//! # Undecided is not refused
//!
//! Stock clients send a command again when they hear `-MOVED`, `-TRYAGAIN` or `-CLUSTERDOWN`. So a node says that of a
//! write only when it will certainly never be applied. A write whose leader was lost under way is waited for; if that
//! takes too long, the answer is `-ERR outcome unknown`, and what to do then is up to the client.

mod cluster;
mod commands;
mod connection;
mod raft;
mod resp;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use duramen_wal::NodeId;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::kv::{Command, Kv, Output};
use crate::node::{AddressBook, Handle, NotDone, Status};
use crate::replica::Members;
use connection::Connection;
use resp::Reply;

/// Serves clients. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    node: Handle<Kv>,
    status: watch::Receiver<Status>,
    addresses: AddressBook,
    members: Option<Members<Kv>>,
}

/// How long a request waits for a leader to be elected.
const LEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before accepting again, when the system has no more connections to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const CONNECTIONS_MAX: usize = 10_000;

type Answer<T> = oneshot::Receiver<Result<T, NotDone>>;

impl Server {
    /// A server in front of `node`.
    pub fn new(
        node: Handle<Kv>,
        status: watch::Receiver<Status>,
        addresses: AddressBook,
    ) -> Server {
        Server {
            node,
            status,
            addresses,
            members: None,
        }
    }

    /// The same, which lets clients change who belongs to the cluster.
    #[must_use]
    pub fn with_members(mut self, members: Members<Kv>) -> Server {
        self.members = Some(members);
        self
    }

    /// Takes in clients, for ever. When this is dropped, all of them are.
    pub async fn listen(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut clients = JoinSet::new();
        let mut id = 0;
        loop {
            let place = places
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            let (stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            id += 1;
            while clients.try_join_next().is_some() {}
            let server = self.clone();
            clients.spawn(async move {
                let _ = stream.set_nodelay(true);
                if let Err(error) = Connection::new(&server, stream, id).serve().await {
                    tracing::debug!(%client, %error, "lost a client");
                }
                drop(place);
            });
        }
    }

    fn status(&self) -> Status {
        *self.status.borrow()
    }

    fn id(&self) -> NodeId {
        self.status().id
    }

    fn client_addresses(&self) -> BTreeMap<NodeId, String> {
        self.addresses.client_addresses()
    }

    fn propose(&self, command: &Command) -> Answer<Output> {
        let (sender, answer) = oneshot::channel();
        let on_applied = move |output| drop(sender.send(output));
        self.node.propose(command.encode(), Box::new(on_applied));
        answer
    }

    fn read(&self, key: Bytes) -> Answer<Option<Bytes>> {
        let (sender, answer) = oneshot::channel();
        self.node.read(move |kv: Result<&Kv, NotDone>| {
            let value = kv.map(|kv| kv.find(&key).cloned());
            drop(sender.send(value));
        });
        answer
    }

    /// Waits until a leader is known. `Err` is what a client is to be told if it is not this node.
    async fn wait_to_lead(&self, slot: u16) -> Result<(), Reply> {
        let mut status = self.status.clone();
        let known = status.wait_for(|status| self.leader_address(status.leader).is_some());
        let leader = match timeout(LEADER_TIMEOUT, known).await {
            Ok(Ok(status)) => status.leader,
            Ok(Err(_)) => return Err(Reply::error("CLUSTERDOWN this node has stopped")),
            Err(_) => {
                return Err(Reply::error(
                    "CLUSTERDOWN no leader for 2 s: is a majority of the nodes up?",
                ));
            }
        };
        match leader == Some(self.id()) {
            true => Ok(()),
            false => Err(self.moved(leader, slot)),
        }
    }

    fn reply_to_not_done(&self, not_done: NotDone, slot: u16) -> Reply {
        match not_done {
            NotDone::NotLeader { leader } => self.moved(leader, slot),
            NotDone::Full | NotDone::Failed => Reply::error(format!("MISCONF {not_done}")),
            NotDone::Unknown => {
                Reply::error("ERR outcome unknown: the command may have been applied or not")
            }
        }
    }

    fn moved(&self, leader: Option<NodeId>, slot: u16) -> Reply {
        let elsewhere = leader.filter(|leader| *leader != self.id());
        match self.leader_address(elsewhere) {
            Some(address) => Reply::error(format!("MOVED {slot} {address}")),
            None => Reply::error("TRYAGAIN the leader has changed, the command was not applied"),
        }
    }

    fn leader_address(&self, leader: Option<NodeId>) -> Option<String> {
        self.addresses.client_address(leader?)
    }
}
