//! The face for clients: the Redis protocol, in the manner of a Redis Cluster.
//!
//! Each node answers. Only the leader serves keys; the others say `-MOVED` with its address, as a Redis Cluster does, so
//! that cluster clients follow the leader by themselves. A client that has said `READONLY` reads at any node, and what it reads is as new
//! as at the leader.
//!
//! # Undecided is not refused
//!
//! Stock clients send a command again when they hear `-MOVED`, `-TRYAGAIN` or `-CLUSTERDOWN`. So a node says that of a
//! write only when it will certainly never be applied. A write whose leader was lost under way is waited for; if that
//! takes too long, the answer is `-ERR outcome unknown`, and what to do then is up to the client. With a session it may ask again.
//!
//! # What bad input gets
//!
//! What is no command is answered as Redis does, and the connection goes on. What is not even a request (`-ERR Protocol error`) ends it.
//! Limits: a key has 64 KiB, a value and an argument 8 MiB, a request and a transaction 16 MiB, a request 65,536 arguments and a
//! transaction 1,024 commands; 10,000 clients are served, or as many as the system has files for, and 512 MiB of what they send is kept
//! at a time.

mod ask;
mod budget;
mod client;
mod cluster;
mod commands;
mod connection;
mod cursors;
mod info;
mod raft;
mod reply;
mod request;
mod room;
mod steps;
mod undone;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use duramen_wal::NodeId;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::kv::{Kv, Usage};
use crate::node::{AddressBook, Report, Status};
use crate::replica::{Handle, Members, Replica};
use crate::session::{OpenSessions, Sessions};

pub use request::{ProtocolError, RequestDecoder, Words};

use budget::Budget;
use connection::Connection;
use cursors::Cursors;

/// What the program replicates: the store, with sessions around it.
pub type Machine = Sessions<Kv>;

/// What a machine shows of itself while the node has it.
#[derive(Debug, Clone)]
pub struct Gauges {
    usage: Usage,
    sessions: OpenSessions,
}

impl Gauges {
    /// Those of a machine, to be taken before the node has it.
    pub fn of(machine: &Machine) -> Gauges {
        Gauges {
            usage: machine.inner().usage(),
            sessions: machine.open_sessions(),
        }
    }
}

/// How a server is to be.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// What clients must say first (`AUTH`). By default anybody is served.
    pub password: Option<String>,
    /// Commands that may make the store larger are refused while it has more bytes than this. Unlimited by default.
    pub memory_bytes_max: Option<u64>,
}

/// Without the password.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Options");
        shown.field("memory_bytes_max", &self.memory_bytes_max);
        shown.finish_non_exhaustive()
    }
}

/// Serves clients. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    node: Handle<Machine>,
    status: watch::Receiver<Status>,
    addresses: AddressBook,
    members: Members<Machine>,
    gauges: Gauges,
    /// The hash of the password.
    password: Option<blake3::Hash>,
    memory_bytes_max: Option<u64>,
    budget: Budget,
    cursors: Cursors,
    /// 0 for nobody.
    last_leader: Arc<AtomicU64>,
    started: Instant,
    /// So many clients may be there, and a permit for each that may still come.
    places_max: usize,
    places: Arc<Semaphore>,
}

/// The version of Redis whose commands these are, for clients that ask.
const REDIS_VERSION: &str = "7.0.0";
/// How long to wait before accepting again, when the system has no more connections to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A client that says nothing for so long is asked by the system whether it is still there, as in Redis.
const KEEPALIVE: Duration = Duration::from_secs(300);
/// What clients have sent and is not carried out yet.
const QUEUED_BYTES_MAX: usize = 512 << 20;

impl Server {
    /// A server in front of a node, whose machine has these gauges. Lets this process open as many files as it may, for its clients.
    pub fn new(replica: &Replica<Machine>, gauges: Gauges, options: &Options) -> Server {
        let hash = |password: &String| blake3::hash(password.as_bytes());
        let places_max = room::for_clients();
        Server {
            node: replica.handle(),
            status: replica.watch(),
            addresses: replica.addresses(),
            members: replica.members(),
            gauges,
            password: options.password.as_ref().map(hash),
            memory_bytes_max: options.memory_bytes_max,
            budget: Budget::new(QUEUED_BYTES_MAX),
            cursors: Cursors::default(),
            last_leader: Arc::default(),
            started: Instant::now(),
            places_max,
            places: Arc::new(Semaphore::new(places_max)),
        }
    }

    /// Takes in clients, for ever. If this is dropped they are all disconnected.
    pub async fn listen(self, listener: TcpListener) {
        let mut clients = JoinSet::new();
        let mut id = 0;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = clients.join_next() => continue,
            };
            let (stream, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // At once: each that waits to be refused would have a file meanwhile.
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                let _ = stream.try_write(b"-ERR max number of clients reached\r\n"); // If it is not heard, it is seen.
                continue;
            };
            id += 1;
            let server = self.clone();
            clients.spawn(async move {
                if let Err(error) = server.serve(stream, id).await {
                    tracing::debug!(%client, %error, "lost a client");
                }
                drop(place);
            });
        }
    }

    async fn serve(&self, stream: TcpStream, id: u64) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
        Connection::new(self, stream, id).serve().await
    }

    fn connected(&self) -> usize {
        self.places_max - self.places.available_permits()
    }

    fn status(&self) -> Status {
        let status = *self.status.borrow();
        if let Some(leader) = status.leader {
            self.last_leader.store(leader.0, Ordering::Relaxed);
        }
        status
    }

    fn id(&self) -> NodeId {
        self.status().id
    }

    fn leads(&self) -> bool {
        let status = self.status();
        status.leader == Some(status.id)
    }

    /// How the node is. `None` if it has ended.
    async fn report(&self) -> Option<Report> {
        self.members.report().await.ok()
    }

    /// Who led last, as far as somebody has asked meanwhile.
    fn last_leader(&self) -> Option<NodeId> {
        let last = NodeId(self.last_leader.load(Ordering::Relaxed));
        Some(last).filter(|last| last.0 != 0)
    }

    fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// Takes as long for a wrong one.
    fn is_password(&self, password: &[u8]) -> bool {
        let is_it = |hash| hash == blake3::hash(password);
        self.password.is_none_or(is_it)
    }

    fn memory_bytes_max(&self) -> Option<u64> {
        self.memory_bytes_max
    }

    /// Whether the store has as much as it may have.
    fn is_full(&self) -> bool {
        self.memory_bytes_max
            .is_some_and(|bytes_max| self.gauges.usage.bytes() > bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_not_shown() {
        let options = Options {
            password: Some("secret".to_owned()),
            ..Options::default()
        };
        assert!(!format!("{options:?}").contains("secret"));
    }
}
