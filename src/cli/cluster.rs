//! `duramen cluster`: a whole cluster on this machine, each node a process of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use clap::Args;
use duramen::disk::{Disk, OsDisk};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Outcome, asked_to_stop};

/// Start a cluster on this machine, to try it out
///
/// Each node is a process of its own, so that any of them can be killed. Node I answers Redis clients on port
/// BASE+I, and the other nodes on port BASE+10+I. The data stays when the cluster is stopped; the next start finds it.
#[derive(Debug, Args)]
pub(super) struct Cluster {
    /// Where the nodes keep their data
    #[arg(long, value_name = "DIR", default_value = "./duramen-data")]
    data: PathBuf,

    /// The first of the ports, less one
    #[arg(long, value_name = "PORT", default_value_t = 7400, value_parser = clap::value_parser!(u16).range(1..=65_500))]
    base_port: u16,

    /// How many nodes: of three, any one may be down; of five, any two
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
}

const PORTS_TAKEN: &str = "If this cluster is running already, end that first; if something else has its ports, choose others with --base-port";
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

impl Cluster {
    /// Three nodes, for others who start and kill them by themselves.
    pub(super) fn of_three(data: PathBuf, base_port: u16) -> Cluster {
        Cluster {
            data,
            base_port,
            nodes: 3,
        }
    }

    pub(super) async fn run(self) -> Outcome {
        self.check_directory()?;
        self.check_ports()?;
        self.mark_directory()?;
        let program = std::env::current_exe()?;
        let mut children = JoinSet::new();
        let mut pids = Vec::new();
        let mut stdins = Vec::new();
        for id in 1..=self.nodes {
            let mut child = self.command(&program, id).spawn()?;
            let pid = child.id().ok_or("a node ended at once")?;
            pids.push(pid);
            stdins.push(child.stdin.take());
            let restart = self.restart_line(&program, id);
            children.spawn(async move { tell_of_end(child, id, pid, &restart).await });
        }
        self.greet(&pids);
        let all_ended = tokio::select! {
            stop = asked_to_stop() => { stop?; false }
            () = all_end(&mut children) => true,
        };
        if all_ended {
            let ended = "no node is left, and each has said why";
            return Err(format!("{ended}. {PORTS_TAKEN}; otherwise the same command starts the nodes again with their data").into());
        }
        eprintln!("stopping the nodes");
        drop(stdins);
        if timeout(STOP_TIMEOUT, all_end(&mut children)).await.is_err() {
            return Err(
                "some nodes did not stop in 5 s and were killed; their data is safe".into(),
            );
        }
        Ok(())
    }

    /// A cluster that runs already is to be known before this one says that it runs.
    pub(super) fn check_ports(&self) -> Outcome {
        let ids = 1..=self.nodes;
        for address in ids.flat_map(|id| [self.client_address(id), self.peer_address(id)]) {
            TcpListener::bind(&address)
                .map_err(|error| format!("cannot listen on {address}: {error}. {PORTS_TAKEN}"))?;
        }
        Ok(())
    }

    /// A directory that was made by a cluster of another size is not started: the nodes would count other majorities.
    fn check_directory(&self) -> Outcome {
        let names = match OsDisk::new().list(&self.data) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            names => {
                names.map_err(|error| format!("cannot list {}: {error}", self.data.display()))?
            }
        };
        let numbers = names.iter().filter_map(|name| name.strip_prefix("node-"));
        let nodes = numbers.filter_map(|number| number.parse().ok()).max();
        let Some(nodes) = nodes.filter(|nodes: &u16| *nodes != self.nodes) else {
            return Ok(());
        };
        let data = self.data.display();
        Err(format!("{data} holds a cluster of {nodes} nodes: start it with --nodes {nodes}, or use another --data").into())
    }

    /// The last node's directory says how large the cluster is, also if the first start ends before all nodes are up.
    fn mark_directory(&self) -> Outcome {
        let last = self.directory(self.nodes);
        let made = OsDisk::new().create_dir_all(&last);
        made.map_err(|error| format!("cannot create {}: {error}", last.display()).into())
    }

    pub(super) fn directory(&self, id: u16) -> PathBuf {
        self.data.join(format!("node-{id}"))
    }

    fn command(&self, program: &Path, id: u16) -> Command {
        let mut command = Command::new(program);
        command.args(self.arguments(id)).arg("--end-with-stdin");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command
    }

    pub(super) fn arguments(&self, id: u16) -> Vec<String> {
        let peers: Vec<String> = (1..=self.nodes)
            .map(|id| format!("{id}={}", self.peer_address(id)))
            .collect();
        let data = self.directory(id);
        let arguments = [
            "serve",
            "--id",
            &id.to_string(),
            "--data",
            &data.to_string_lossy(),
        ]
        .map(str::to_owned);
        let addresses = [
            "--resp",
            &self.client_address(id),
            "--peers",
            &peers.join(","),
        ]
        .map(str::to_owned);
        arguments.into_iter().chain(addresses).collect()
    }

    fn restart_line(&self, program: &Path, id: u16) -> String {
        format!("{} {}", program.display(), self.arguments(id).join(" "))
    }

    pub(super) fn client_address(&self, id: u16) -> String {
        format!("127.0.0.1:{}", self.base_port + id)
    }

    fn peer_address(&self, id: u16) -> String {
        format!("127.0.0.1:{}", self.base_port + 10 + id)
    }

    fn greet(&self, pids: &[u32]) {
        println!(
            "A cluster of {} nodes in {}",
            self.nodes,
            self.data.display()
        );
        println!();
        println!("  node  pid       clients          peers");
        for (id, pid) in (1..).zip(pids) {
            println!(
                "  {id:<5} {pid:<9} {:<16} {}",
                self.client_address(id),
                self.peer_address(id)
            );
        }
        let port = self.base_port + 1;
        println!();
        println!("Write:  redis-cli -c -p {port} set a 1");
        println!("Read:   redis-cli -c -p {port} get a");
        if self.nodes > 1 {
            println!("Crash:  kill -9 {}      and read and write on", pids[0]);
        }
        println!("Stop:   Ctrl-C          the data stays; the next start finds it");
        println!();
    }
}

async fn tell_of_end(mut child: Child, id: u16, pid: u32, restart: &str) {
    match child.wait().await {
        Ok(status) if status.success() => eprintln!("node {id} (pid {pid}) stopped"),
        Ok(status) => {
            eprintln!(
                "node {id} (pid {pid}) {}; start it again with:\n  {restart}",
                how_it_ended(status)
            );
        }
        Err(error) => eprintln!("node {id} (pid {pid}): cannot tell how it ended: {error}"),
    }
}

fn how_it_ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}"),
        (None, Some(code)) => format!("ended with exit code {code}"),
        (None, None) => "ended".to_owned(),
    }
}

async fn all_end(children: &mut JoinSet<()>) {
    while children.join_next().await.is_some() {}
}
