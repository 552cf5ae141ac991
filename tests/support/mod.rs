//! Real nodes in real processes, and a client that follows the leader.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub(crate) use duramen::sim::history::Outcome;
use redis::{FromRedisValue, RedisError, ServerErrorKind, Value};

/// The program under test.
pub(crate) const DURAMEN: &str = env!("CARGO_BIN_EXE_duramen");

/// Waits until something is there. Panics after a deadline that only a fault can reach.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited 30 s for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A range of ports that nobody uses: `base + 1..=base + 19`. Below those that the system gives to outgoing connections.
pub(crate) fn free_base_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let process = (std::process::id() % 400) as u16;
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = 12_000 + (process * 40 + next * 20) % 18_000;
        if (1..20).all(|port| TcpListener::bind(("127.0.0.1", base + port)).is_ok()) {
            return base;
        }
    }
}

/// Three nodes, each a process.
pub(crate) struct Nodes {
    dir: tempfile::TempDir,
    base_port: u16,
    /// Where the others reach a node, if that is not where it listens.
    announced: BTreeMap<u16, String>,
    running: BTreeMap<u16, Child>,
}

impl Nodes {
    /// None of them runs yet.
    pub(crate) fn new() -> Nodes {
        Nodes {
            dir: tempfile::tempdir().unwrap(),
            base_port: free_base_port(),
            announced: BTreeMap::new(),
            running: BTreeMap::new(),
        }
    }

    pub(crate) fn start() -> Nodes {
        let mut nodes = Nodes::new();
        nodes.start_all();
        nodes
    }

    pub(crate) fn start_all(&mut self) {
        for id in self.ids() {
            self.start_one(id);
        }
    }

    /// Has the others reach node `id` at another address than that at which it listens.
    pub(crate) fn announce(&mut self, id: u16, address: String) {
        self.announced.insert(id, address);
    }

    pub(crate) fn ids(&self) -> [u16; 3] {
        [1, 2, 3]
    }

    pub(crate) fn start_one(&mut self, id: u16) {
        let child = self.command(id).spawn().unwrap();
        self.running.insert(id, child);
    }

    /// Starts a node and waits until it ends by itself: its exit code, and what it said on standard error.
    pub(crate) fn end_of(&self, id: u16) -> (Option<i32>, String) {
        Nodes::end(self.command(id))
    }

    /// The same of a copy of node `id`, in this directory, while the node itself may run.
    pub(crate) fn end_of_copy(&self, id: u16, data: &Path) -> (Option<i32>, String) {
        Nodes::end(self.copy(id, data))
    }

    fn end(mut command: Command) -> (Option<i32>, String) {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        wait_for("the node to end", || child.try_wait().unwrap());
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), error)
    }

    /// Starts a copy of node `id`, in this directory, in its place.
    pub(crate) fn start_copy(&mut self, id: u16, data: &Path) {
        let child = self.copy(id, data).spawn().unwrap();
        self.running.insert(id, child);
    }

    /// A copy of node `id` is where no node is.
    fn copy(&self, id: u16, data: &Path) -> Command {
        let mut command = Command::new(DURAMEN);
        command.args(["serve", "--id", &id.to_string(), "--end-with-stdin"]);
        command.arg("--data").arg(data);
        command.args(["--resp", &self.address(id + 5)]);
        let peer = self.peer_address(id + 5);
        command.args(["--peer", &peer, "--announce-peer", &peer]);
        command.stdin(Stdio::piped()).env("DURAMEN_TRACE", "warn");
        command
    }

    fn command(&self, id: u16) -> Command {
        self.command_on(id, &self.data(id))
    }

    /// Node `id` on this directory.
    pub(crate) fn command_on(&self, id: u16, data: &Path) -> Command {
        let announced = |id| self.announced.get(&id).cloned();
        let peers = self.ids().map(|id| {
            let address = announced(id).unwrap_or_else(|| self.peer_address(id));
            format!("{id}={address}")
        });
        let mut command = Command::new(DURAMEN);
        command.args(["serve", "--id", &id.to_string(), "--end-with-stdin"]);
        command.arg("--data").arg(data);
        command.args(["--resp", &self.address(id), "--peers", &peers.join(",")]);
        if self.announced.contains_key(&id) {
            command.args(["--peer", &self.peer_address(id)]);
        }
        command.stdin(Stdio::piped()).env("DURAMEN_TRACE", "warn");
        command
    }

    /// Starts a node that is to join, and asks node `member` with whom.
    pub(crate) fn start_joining(&mut self, id: u16, member: u16) {
        let mut command = self.plain_command(id);
        command.args(["--peer", &self.peer_address(id)]);
        command.args(["--join", &self.address(member)]);
        self.running.insert(id, command.spawn().unwrap());
    }

    /// Starts a node of which its directory knows the rest.
    pub(crate) fn start_again(&mut self, id: u16) {
        let child = self.plain_command(id).spawn().unwrap();
        self.running.insert(id, child);
    }

    /// Node `id`, of which nothing is said about the others. What it says on standard error goes to a file.
    fn plain_command(&self, id: u16) -> Command {
        let mut command = Command::new(DURAMEN);
        command.args(["serve", "--id", &id.to_string(), "--end-with-stdin"]);
        command.arg("--data").arg(self.data(id));
        command.args(["--resp", &self.address(id)]);
        command.stdin(Stdio::piped()).env("DURAMEN_TRACE", "warn");
        let errors = std::fs::File::create(self.errors(id)).unwrap();
        command.stderr(errors);
        command
    }

    fn errors(&self, id: u16) -> PathBuf {
        self.dir.path().join(format!("errors-{id}"))
    }

    /// What a node that was started by these has said on standard error.
    pub(crate) fn said(&self, id: u16) -> String {
        std::fs::read_to_string(self.errors(id)).unwrap()
    }

    /// Ends a node as an operator does: its exit code.
    pub(crate) fn terminate(&mut self, id: u16) -> Option<i32> {
        let mut child = self.running.remove(&id).expect("the node is running");
        let pid = child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        child.wait().unwrap().code()
    }

    /// Runs the program with other arguments, on node `at`: its exit code, and what it said.
    pub(crate) fn run(&self, arguments: &[&str], at: u16) -> (Option<i32>, String) {
        let mut command = Command::new(DURAMEN);
        command.args(arguments).args(["--at", &self.address(at)]);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    /// Runs it, and it ends well.
    pub(crate) fn run_well(&self, arguments: &[&str], at: u16) -> String {
        let (code, said) = self.run(arguments, at);
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        said
    }

    pub(crate) fn peer_address(&self, id: u16) -> String {
        format!("127.0.0.1:{}", self.base_port + 10 + id)
    }

    pub(crate) fn data(&self, id: u16) -> PathBuf {
        self.dir.path().join(format!("node-{id}"))
    }

    /// The file that a node writes its log to.
    pub(crate) fn last_segment(&self, id: u16) -> PathBuf {
        last_segment(&self.data(id).join("log"))
    }

    pub(crate) fn address(&self, id: u16) -> String {
        format!("127.0.0.1:{}", self.base_port + id)
    }

    pub(crate) fn kill_9(&mut self, id: u16) {
        let mut child = self.running.remove(&id).expect("the node is running");
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
    }

    pub(crate) fn kill_9_all(&mut self) {
        // All at once, then wait.
        self.running
            .values_mut()
            .for_each(|child| child.kill().unwrap());
        self.running.values_mut().for_each(|child| {
            child.wait().unwrap();
        });
        self.running.clear();
    }

    pub(crate) fn client(&self) -> Client {
        self.client_of(&self.ids())
    }

    /// A client that knows these nodes.
    pub(crate) fn client_of(&self, ids: &[u16]) -> Client {
        Client {
            addresses: ids.iter().map(|&id| self.address(id)).collect(),
            connections: BTreeMap::new(),
            next: 0,
        }
    }

    /// The leader, as it says itself.
    pub(crate) fn leader(&self) -> u16 {
        wait_for("a leader", || self.find_leader())
    }

    pub(crate) fn find_leader(&self) -> Option<u16> {
        let mut running = self.running.keys().copied();
        running.find(|&id| self.info(id, "role").as_deref() == Some("master"))
    }

    /// One that does not lead.
    pub(crate) fn follower(&self) -> u16 {
        let leader = self.leader();
        let mut running = self.running.keys().copied();
        running
            .find(|id| *id != leader)
            .expect("more than one runs")
    }

    /// What a node says of itself.
    pub(crate) fn info(&self, id: u16, field: &str) -> Option<String> {
        let info: String = ask(&self.address(id), &["INFO"]).ok()?;
        let mut fields = info.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = fields.find(|(name, _)| *name == field)?;
        Some(value.to_owned())
    }

    /// Waits until a node has applied what the leader has.
    pub(crate) fn wait_for_catching_up(&self, id: u16) {
        let leader = self.leader();
        wait_for("the node to catch up", || {
            let applied = |id| self.info(id, "raft_applied");
            (applied(id)? == applied(leader)?).then_some(())
        });
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.kill_9_all();
    }
}

pub(crate) fn last_segment(log: &Path) -> PathBuf {
    let names = std::fs::read_dir(log)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let segments =
        names.filter(|path| path.extension().is_some_and(|extension| extension == "wal"));
    segments.max().expect("a log has a segment")
}

/// Asks one node, without following anybody.
pub(crate) fn ask<T: FromRedisValue>(address: &str, command: &[&str]) -> Result<T, RedisError> {
    request(command).query(&mut connect(address)?)
}

/// Asks one node, as a client that takes what a follower answers.
pub(crate) fn ask_readonly(address: &str, command: &[&str]) -> Result<Value, RedisError> {
    let mut connection = connect(address)?;
    redis::cmd("READONLY").query::<()>(&mut connection)?;
    request(command).query(&mut connection)
}

fn request(command: &[&str]) -> redis::Cmd {
    let mut cmd = redis::Cmd::new();
    command.iter().for_each(|word| {
        cmd.arg(word);
    });
    cmd
}

pub(crate) fn connect(address: &str) -> Result<redis::Connection, RedisError> {
    let client = redis::Client::open(format!("redis://{address}"))?;
    let connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(connection)
}

/// A client that follows `-MOVED`, and knows what it does not know.
pub(crate) struct Client {
    addresses: Vec<String>,
    connections: BTreeMap<String, redis::Connection>,
    next: usize,
}

impl Client {
    /// Sends a command once; follows the leader.
    pub(crate) fn once<T: FromRedisValue>(&mut self, command: &[&str]) -> Outcome<T> {
        let mut address = self.addresses[self.next].clone();
        for _ in 0..5 {
            let error = match self.send(&address, command) {
                Ok(reply) => return Outcome::Acknowledged(reply),
                Err(None) => break,
                Err(Some(error)) => error,
            };
            match (error.kind(), error.redirect_node()) {
                (redis::ErrorKind::Server(ServerErrorKind::Moved), Some((to, _))) => {
                    address = to.to_owned()
                }
                (
                    redis::ErrorKind::Server(
                        ServerErrorKind::TryAgain | ServerErrorKind::ClusterDown,
                    ),
                    _,
                ) => {
                    break;
                }
                (redis::ErrorKind::Server(ServerErrorKind::ResponseError), _) => {
                    assert!(error.to_string().contains("outcome unknown"), "{error}");
                    return Outcome::Unknown;
                }
                _ => {
                    // The connection broke with the command on its way.
                    self.connections.clear();
                    self.try_another();
                    return Outcome::Unknown;
                }
            }
        }
        self.try_another();
        Outcome::Refused
    }

    /// Sends a command until it is acknowledged. It may be applied more than once.
    pub(crate) fn until_done<T: FromRedisValue>(&mut self, command: &[&str]) -> T {
        wait_for(&format!("{command:?}"), || match self.once(command) {
            Outcome::Acknowledged(reply) => Some(reply),
            Outcome::Refused | Outcome::Unknown => None,
        })
    }

    /// `Err(None)` if there was no connection to send it on.
    fn send<T: FromRedisValue>(
        &mut self,
        address: &str,
        command: &[&str],
    ) -> Result<T, Option<RedisError>> {
        if !self.connections.contains_key(address) {
            let connection = connect(address).map_err(|_| None)?;
            self.connections.insert(address.to_owned(), connection);
        }
        let connection = self
            .connections
            .get_mut(address)
            .expect("it was just inserted");
        request(command).query(connection).map_err(Some)
    }

    fn try_another(&mut self) {
        self.next = (self.next + 1) % self.addresses.len();
    }
}

/// A cluster of one node.
pub(crate) struct Node {
    child: Child,
    base_port: u16,
    _dir: tempfile::TempDir,
}

impl Node {
    /// Starts it, and waits until it leads.
    pub(crate) fn start() -> Node {
        Node::start_with(&[])
    }

    /// The same with more arguments.
    pub(crate) fn start_with(arguments: &[&str]) -> Node {
        Node::start_by(Command::new(DURAMEN), arguments)
    }

    /// The same, and it may have only so many files open.
    pub(crate) fn start_with_files(files: u32) -> Node {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {files} && exec \"$@\"");
        command.args(["-c", &script, "sh", DURAMEN]);
        Node::start_by(command, &[])
    }

    fn start_by(mut command: Command, arguments: &[&str]) -> Node {
        let (dir, base_port) = (tempfile::tempdir().unwrap(), free_base_port());
        command.args(["serve", "--id", "1", "--end-with-stdin", "--data"]);
        command.arg(dir.path().join("node-1"));
        let peers = format!("1=127.0.0.1:{}", base_port + 11);
        command.args(["--resp", &format!("127.0.0.1:{}", base_port + 1)]);
        command.args(["--peers", &peers]).args(arguments);
        command.stdin(Stdio::piped()).env("DURAMEN_TRACE", "warn");
        let node = Node {
            child: command.spawn().unwrap(),
            base_port,
            _dir: dir,
        };
        wait_for("the node to lead", || {
            let error = ask::<Value>(&node.address(), &["GET", "a"]).err();
            let is_up = |error: RedisError| error.to_string().contains("Authentication required");
            error.is_none_or(is_up).then_some(())
        });
        node
    }

    /// What its process has in memory, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.status_bytes("VmRSS:")
    }

    /// What its process has asked for, whether it uses that or not, in bytes.
    pub(crate) fn asked_bytes(&self) -> usize {
        self.status_bytes("VmData:")
    }

    fn status_bytes(&self, field: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let line = line.unwrap();
        let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib << 10
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.base_port + 1)
    }

    pub(crate) fn peer_address(&self) -> String {
        format!("127.0.0.1:{}", self.base_port + 11)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
