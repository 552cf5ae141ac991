//! `duramen serve`: one node.

use std::error::Error;
use std::path::PathBuf;

use clap::Args;
use duramen::kv::Kv;
use duramen::node::Standing;
use duramen::replica::{self, Beginning, Options, Replica};
use duramen::server::{self, Gauges, Machine, Server};
use duramen::transport::Peers;
use duramen::wal::NodeId;
use tokio::net::TcpListener;
use tokio::task::{JoinSet, spawn_blocking};

use super::address::{parse_address, parse_bytes, parse_name, parse_peer};
use super::client::Client;
use super::member::Members;
use super::{Outcome, asked_to_stop};

/// Run one node of a cluster
///
/// Its first start needs either --peers, which begins a cluster with these nodes, or --join, with which it waits until it is added to a
/// cluster that is there. Later its directory knows its cluster, and --id, --data and --resp are enough; what is said
/// nevertheless must be the same.
///
/// On SIGTERM or Ctrl-C the node hands the leadership over, if it leads, and ends.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// This node's number in the cluster
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,

    /// The node's directory. It is made at the first start
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Where to listen for clients
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    resp: String,

    /// All nodes that the cluster begins with, this one included, with the addresses at which they listen for each other
    #[arg(long, value_name = "1=ADDR,2=ADDR,..", value_delimiter = ',', value_parser = parse_peer)]
    peers: Vec<(u64, String)>,

    /// Join the cluster of which any member answers clients at this address, under a number that no member ever had. Needs --peer
    #[arg(long, value_name = "ADDR", conflicts_with = "peers", requires = "peer", value_parser = parse_address)]
    join: Option<String>,

    /// Where to listen for the other nodes [default: this node's address in --peers, or the one its cluster knows]
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    peer: Option<String>,

    /// The address at which the other nodes reach this one [default: its own in --peers, or the one its cluster knows, or that of
    /// --peer]
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    announce_peer: Option<String>,

    /// The address at which clients reach this node [default: that of --resp]
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    announce: Option<String>,

    /// The cluster's name. Nodes of another one are refused [default: duramen, at the first start]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    cluster_id: Option<String>,

    /// What clients must say before anything else (AUTH) [default: nothing]. In the environment nobody else on the machine sees it
    #[arg(
        long,
        value_name = "PASSWORD",
        env = "DURAMEN_REQUIREPASS",
        hide_env_values = true
    )]
    requirepass: Option<String>,

    /// What the member that --join names wants to hear first [default: what --requirepass says]
    #[arg(
        long,
        value_name = "PASSWORD",
        env = "DURAMEN_PASSWORD",
        hide_env_values = true
    )]
    password: Option<String>,

    /// Refuse commands that need memory when keys and values take more than this, in bytes; 0 is no limit [default: 0]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    maxmemory: Option<u64>,

    /// End when standard input does: for a parent that must leave no nodes behind
    #[arg(long, hide = true)]
    end_with_stdin: bool,
}

const NODES_MAX: usize = 99;

impl Serve {
    pub(super) async fn run(self) -> Outcome {
        let (replica, gauges) = self.start().await?;
        self.tell_how_to_join(&replica).await;
        let mut server = JoinSet::new();
        let served = match self.listen(&replica, gauges).await {
            Ok(serving) => {
                server.spawn(serving);
                self.until_the_end(&replica).await
            }
            Err(error) => Err(error),
        };
        // Clients are answered until another node leads.
        let stopped = replica.stop().await;
        server.shutdown().await;
        served.and(stopped.map_err(Into::into))
    }

    async fn start(&self) -> Result<(Replica<Machine>, Gauges), Box<dyn Error + Send + Sync>> {
        let options = self.options()?;
        match (start(options.clone()).await, &self.join) {
            (Err(replica::Error::NotBegun { .. }), Some(member)) => {
                let password = self.password.as_ref().or(self.requirepass.as_ref());
                let (client, id) = (
                    Client::new(member, password.map(String::as_str)),
                    self.id.to_string(),
                );
                let asked = spawn_blocking(move || cluster_to_join(client, &id)).await?;
                let cluster = asked?;
                let joining = self.options_to_join(options, cluster)?;
                Ok(start(joining).await?)
            }
            (started, _) => Ok(started?),
        }
    }

    fn options_to_join(&self, mut options: Options, cluster: String) -> Result<Options, String> {
        if let Some(wanted) = self
            .cluster_id
            .as_ref()
            .filter(|wanted| **wanted != cluster)
        {
            return Err(format!(
                "the cluster is called {cluster:?}, and --cluster-id says {wanted:?}"
            ));
        }
        options.cluster = Some(cluster);
        options.beginning = Beginning::Joining;
        Ok(options)
    }

    /// What the operator has to type, if the node waits for that.
    async fn tell_how_to_join(&self, replica: &Replica<Machine>) {
        let report = replica.report().await;
        let Some(report) = report.filter(|report| report.standing == Standing::Outside) else {
            return;
        };
        let (id, peer) = (self.id, replica.addresses().own().peer);
        let at = self.join.as_deref().unwrap_or("ADDR");
        eprintln!(
            "node {id} waits to be added to cluster {:?}: type\n  duramen member add {id}={peer} --at {at}",
            report.cluster
        );
    }

    /// What serves clients, for ever.
    async fn listen(
        &self,
        replica: &Replica<Machine>,
        gauges: Gauges,
    ) -> Result<impl Future<Output = ()> + Send + use<>, Box<dyn Error + Send + Sync>> {
        let listener = TcpListener::bind(&self.resp).await;
        let listener =
            listener.map_err(|error| format!("cannot listen on {}: {error}", self.resp))?;
        let mut options = server::Options::default();
        options.password = self.requirepass.clone().filter(|it| !it.is_empty());
        options.memory_bytes_max = self.maxmemory.filter(|bytes| *bytes > 0); // As in Redis.
        Ok(Server::new(replica, gauges, &options).listen(listener))
    }

    /// Waits until the node is to stop, or has ended.
    async fn until_the_end(&self, replica: &Replica<Machine>) -> Outcome {
        tokio::select! {
            stop = asked_to_stop() => stop?,
            () = stdin_ended(), if self.end_with_stdin => {}
            () = replica.ended() => {}
        }
        Ok(())
    }

    fn options(&self) -> Result<Options, String> {
        let (id, peers) = (NodeId(self.id), self.peers()?);
        let mut options = match peers.is_empty() {
            false => Options::new(id, &self.data, peers),
            true => Options::again(id, &self.data),
        };
        options.cluster = self.cluster_id.clone();
        options.listen = self.peer.clone();
        options.peer_address = self.announce_peer.clone();
        options.client_address = self.announce.clone().unwrap_or_else(|| self.resp.clone());
        Ok(options)
    }

    fn peers(&self) -> Result<Peers, String> {
        let mut peers = Peers::new();
        for (id, address) in &self.peers {
            if peers.insert(NodeId(*id), address.clone()).is_some() {
                return Err(format!("--peers names node {id} twice"));
            }
        }
        if peers.len() > NODES_MAX {
            return Err(format!(
                "--peers names {} nodes, the limit is {NODES_MAX}",
                peers.len()
            ));
        }
        if !peers.is_empty() && !peers.contains_key(&NodeId(self.id)) {
            return Err(format!(
                "--peers does not name this node: add {}=ADDR to it, or change --id",
                self.id
            ));
        }
        Ok(peers)
    }
}

/// Asks a member for the name of its cluster. `id` must be free there.
fn cluster_to_join(mut member: Client, id: &str) -> Result<String, String> {
    let members = Members::ask(&mut member);
    let members = members.map_err(|error| format!("cannot join: {error}"))?;
    match members.find(id) {
        None => Ok(members.cluster().to_owned()),
        Some(_) => Err(format!(
            "node {id} is a member of cluster {:?} already, and its directory is not this one: choose a number for --id that no member ever had",
            members.cluster()
        )),
    }
}

/// A replica of an empty store, which takes on what the directory has.
async fn start(options: Options) -> Result<(Replica<Machine>, Gauges), replica::Error> {
    let machine = Machine::new(Kv::default());
    let gauges = Gauges::of(&machine);
    Ok((Replica::start(options, machine).await?, gauges))
}

async fn stdin_ended() {
    let (sender, ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        drop(sender);
    });
    let _ = ended.await;
}
