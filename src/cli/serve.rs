//! `duramen serve`: one node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use duramen::disk::OsDisk;
use duramen::kv::Kv;
use duramen::node::{AddressBook, Handle, Node, Options, Status, SystemClock, spawn};
use duramen::raft::Config;
use duramen::server::Server;
use duramen::storage::{self, Identity, Storage};
use duramen::transport::{Addresses, Peers, TcpTransport};
use duramen::wal::NodeId;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{Outcome, asked_to_stop};

/// Run one node of a cluster
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// This node's number in the cluster
    #[arg(long, value_name = "N")]
    id: u64,

    /// The node's directory. It is made at the first start
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Where to listen for clients
    #[arg(long, value_name = "ADDR")]
    resp: String,

    /// All nodes of the cluster, this one included, with the addresses at which they listen for each other
    #[arg(long, value_name = "1=ADDR,2=ADDR,..", value_delimiter = ',', required = true, value_parser = parse_peer)]
    peers: Vec<(u64, String)>,

    /// Where to listen for the other nodes [default: this node's address in --peers]
    #[arg(long, value_name = "ADDR")]
    peer: Option<String>,

    /// The address at which clients reach this node [default: that of --resp]
    #[arg(long, value_name = "ADDR")]
    announce: Option<String>,

    /// The cluster's name. Nodes of another one are refused
    #[arg(long, value_name = "NAME", default_value = "duramen", value_parser = parse_name)]
    cluster_id: String,

    /// End when standard input does: for a parent that must leave no nodes behind
    #[arg(long, hide = true)]
    end_with_stdin: bool,
}

/// How long to wait for a predecessor that is still ending.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const NODES_MAX: usize = 99;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

impl Serve {
    pub(super) async fn run(self) -> Outcome {
        let (peers, addresses) = self.addresses()?;
        let id = NodeId(self.id);
        let transport = TcpTransport::new(id, addresses.clone());
        // The directory first: a predecessor that still ends has the ports too.
        let storage = self.open_storage(&peers).await?;
        let own = addresses.own().peer;
        let peer_listener = listen(self.peer.as_ref().unwrap_or(&own)).await?;
        let client_listener = listen(&self.resp).await?;

        let mut config = Config::new(id, peers.keys().copied());
        config.seed = fastrand::u64(..);
        let (handle, inbox) = Handle::channel();
        let node = Node::new(
            config,
            Options::default(),
            storage,
            Kv::default(),
            transport.connect(&handle),
            SystemClock::new(),
        )?;
        let (sender, status) = watch::channel(node.status());
        let thread = spawn(node, inbox, move |status| publish(&sender, status))?;
        let server = Server::new(handle.clone(), status.clone(), addresses);
        let peer = handle.clone();
        tokio::spawn(async move { transport.listen(peer_listener, peer).await });
        tokio::spawn(server.listen(client_listener));

        tokio::select! {
            stop = asked_to_stop() => stop?,
            () = stdin_ended(), if self.end_with_stdin => {}
            () = node_ended(status) => {}
        }
        handle.stop();
        let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
        Ok(ended.map_err(|_| "the node's thread panicked")??)
    }

    fn addresses(&self) -> Result<(Peers, AddressBook), String> {
        let mut peers = BTreeMap::new();
        for (id, address) in &self.peers {
            if peers.insert(NodeId(*id), address.clone()).is_some() {
                return Err(format!("--peers names node {id} twice"));
            }
        }
        let id = NodeId(self.id);
        if peers.len() > NODES_MAX {
            return Err(format!(
                "--peers names {} nodes, the limit is {NODES_MAX}",
                peers.len()
            ));
        }
        if !peers.contains_key(&id) {
            return Err(format!(
                "--peers does not name this node: add {id}=ADDR to it, or change --id"
            ));
        }
        let client_address = self.announce.clone().unwrap_or_else(|| self.resp.clone());
        if client_address.starts_with("0.0.0.0:") || client_address.starts_with("[::]:") {
            return Err(format!(
                "no client can reach {client_address}: say at which address with --announce"
            ));
        }
        let own = Addresses {
            peer: peers[&id].clone(),
            client: client_address,
        };
        let given = peers.iter().map(|(&id, address)| {
            let peer = address.clone();
            (
                id,
                Addresses {
                    peer,
                    ..Addresses::default()
                },
            )
        });
        let addresses = AddressBook::new(id, own, given);
        Ok((peers, addresses))
    }

    async fn open_storage(&self, peers: &Peers) -> Result<Storage, storage::Error> {
        let identity = Identity {
            cluster: self.cluster_id.clone(),
            node: NodeId(self.id),
            voters: peers.keys().copied().collect(),
        };
        let until = Instant::now() + LOCK_TIMEOUT;
        loop {
            let disk = Arc::new(OsDisk::new());
            let dir = Path::new(&self.data);
            match Storage::open(disk, dir, &identity, storage::Options::default()) {
                Err(storage::Error::Log(duramen::wal::Error::Locked { .. }))
                    if Instant::now() < until =>
                {
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                Ok(storage) => {
                    tell_of_recovery(NodeId(self.id), &storage);
                    return Ok(storage);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn tell_of_recovery(id: NodeId, storage: &Storage) {
    let report = storage.recovery();
    if let Some(cut) = &report.cut {
        tracing::warn!(
            "node {id} cut off an unfinished write of {} bytes at offset {} of {}",
            cut.bytes,
            cut.offset,
            cut.path.display()
        );
    }
    for damaged in &report.damaged {
        let (entry, path) = (&damaged.entry, damaged.path.display());
        tracing::error!(
            "node {id}: entry {} is damaged, at offset {} of {path}",
            entry.id,
            entry.offset
        );
    }
    tracing::debug!(
        "node {id} read {} frames from {} segments",
        report.frames,
        report.segments
    );
}

/// Passes a status on, and says so when the node has become the leader.
fn publish(sender: &watch::Sender<Status>, status: Status) {
    let before = sender.send_replace(status);
    if status.leader == Some(status.id)
        && (before.leader, before.term) != (status.leader, status.term)
    {
        tracing::info!("node {} leads, term {}", status.id, status.term);
    }
}

async fn listen(address: &str) -> Result<TcpListener, String> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| format!("cannot listen on {address}: {error}"))
}

async fn stdin_ended() {
    let (sender, ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(sender);
    });
    let _ = ended.await;
}

/// The node's thread holds the other end of the status, and drops it when it ends.
async fn node_ended(mut status: watch::Receiver<Status>) {
    while status.changed().await.is_ok() {}
}

fn parse_peer(text: &str) -> Result<(u64, String), String> {
    let wanted = "write it as NUMBER=HOST:PORT, for example 1=127.0.0.1:7411";
    let (id, address) = text.split_once('=').ok_or(wanted)?;
    let id = id.trim().parse().map_err(|_| wanted)?;
    let port = address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse::<u16>().ok());
    port.ok_or(wanted)?;
    Ok((id, address.trim().to_owned()))
}

fn parse_name(text: &str) -> Result<String, String> {
    match text.len() {
        1..=NAME_BYTES_MAX => Ok(text.to_owned()),
        _ => Err(format!("a name has 1 to {NAME_BYTES_MAX} bytes")),
    }
}

const NAME_BYTES_MAX: usize = 64;
