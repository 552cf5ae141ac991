//! The servers that are compared, each with its data in one directory.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::wire::{Operation, Wire, put_command, put_post};

/// Which ones there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Duramen,
    Etcd,
    /// One alone, that syncs each write.
    Redis,
}

/// A system that runs. Its servers end with it.
pub struct System {
    pub kind: Kind,
    nodes: Vec<Node>,
    duramen: PathBuf,
}

struct Node {
    dir: PathBuf,
    client: String,
    peer: String,
    child: Option<Child>,
}

/// A server that does not serve in this time will not.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const ASK_PAUSE: Duration = Duration::from_millis(2);

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Duramen => "duramen",
            Kind::Etcd => "etcd",
            Kind::Redis => "redis",
        }
    }

    pub fn wire(self) -> Wire {
        match self {
            Kind::Duramen | Kind::Redis => Wire::Redis,
            Kind::Etcd => Wire::EtcdHttp,
        }
    }

    fn nodes(self) -> usize {
        match self {
            Kind::Duramen | Kind::Etcd => 3,
            Kind::Redis => 1,
        }
    }

    /// Whether the program is on this machine.
    pub fn is_installed(self) -> bool {
        let program = match self {
            Kind::Duramen => return true,
            Kind::Etcd => "etcd",
            Kind::Redis => "redis-server",
        };
        let version = Command::new(program).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    }
}

impl System {
    /// Starts all servers, and waits until they take a write.
    ///
    /// # Errors
    /// They do not start.
    pub fn start(kind: Kind, dir: &Path, duramen: &Path) -> io::Result<System> {
        let mut nodes = Vec::new();
        for number in 1..=kind.nodes() {
            let dir = dir.join(format!("{}-{number}", kind.name()));
            fs::create_dir_all(&dir)?;
            nodes.push(Node {
                dir,
                client: free_address()?,
                peer: free_address()?,
                child: None,
            });
        }
        let mut system = System {
            kind,
            nodes,
            duramen: duramen.to_owned(),
        };
        system.start_all()?;
        Ok(system)
    }

    /// Starts the servers that do not run; gives how long it took until a write was taken.
    pub fn start_all(&mut self) -> io::Result<Duration> {
        let begun = Instant::now();
        for number in 0..self.nodes.len() {
            if self.nodes[number].child.is_none() {
                let child = self.command(number)?.spawn()?;
                self.nodes[number].child = Some(child);
            }
        }
        self.until_written()?;
        Ok(begun.elapsed())
    }

    fn command(&self, number: usize) -> io::Result<Command> {
        let node = &self.nodes[number];
        let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
        let all = |form: &dyn Fn(usize, &Node) -> String| {
            let all = self.nodes.iter().enumerate();
            all.map(|(n, node)| form(n + 1, node))
                .collect::<Vec<_>>()
                .join(",")
        };
        let id = number + 1;
        let mut command = match self.kind {
            Kind::Duramen => {
                let mut command = Command::new(&self.duramen);
                command.args(["serve", "--id", &id.to_string(), "--resp", &node.client]);
                command.args(["--peers", &all(&|id, node| format!("{id}={}", node.peer))]);
                command.arg("--end-with-stdin").arg("--data").arg(&node.dir);
                command
            }
            Kind::Etcd => {
                let (client, peer) = (&node.client, &node.peer);
                let mut command = Command::new("etcd");
                command.args(["--name", &format!("n{id}")]);
                command.arg("--data-dir").arg(&node.dir);
                for flag in ["--listen-client-urls", "--advertise-client-urls"] {
                    command.args([flag, &format!("http://{client}")]);
                }
                for flag in ["--listen-peer-urls", "--initial-advertise-peer-urls"] {
                    command.args([flag, &format!("http://{peer}")]);
                }
                let members = all(&|id, node| format!("n{id}=http://{}", node.peer));
                command.args([
                    "--initial-cluster",
                    &members,
                    "--quota-backend-bytes",
                    "8589934592",
                ]);
                command
            }
            Kind::Redis => {
                let mut command = Command::new("redis-server");
                command.args(["--port", &port(&node.client), "--save", ""]);
                command.args(["--appendonly", "yes", "--appendfsync", "always"]);
                command.arg("--dir").arg(&node.dir);
                command
            }
        };
        let log = || {
            File::options()
                .create(true)
                .append(true)
                .open(node.dir.with_extension("log"))
        };
        command.stdin(Stdio::piped()).stdout(log()?).stderr(log()?);
        Ok(command)
    }

    /// Where clients go: the leader.
    ///
    /// # Errors
    /// There is none.
    pub fn leader(&self) -> io::Result<String> {
        let number = self.until_written()?;
        Ok(self.nodes[number].client.clone())
    }

    /// Asks one after the other until one takes a write. Says which.
    fn until_written(&self) -> io::Result<usize> {
        let begun = Instant::now();
        let mut last = io::Error::other("no server runs");
        while begun.elapsed() < START_TIMEOUT {
            let running = self
                .nodes
                .iter()
                .enumerate()
                .filter(|(_, node)| node.child.is_some());
            for (number, node) in running {
                match self.write_as_leader(&node.client) {
                    Ok(()) => return Ok(number),
                    Err(error) => last = error,
                }
            }
            std::thread::sleep(ASK_PAUSE);
        }
        Err(last)
    }

    fn write_as_leader(&self, address: &str) -> io::Result<()> {
        let wire = self.kind.wire();
        if wire == Wire::EtcdHttp {
            // Any member would take it, and pass it on.
            let mut question = Vec::new();
            put_post(&mut question, "maintenance/status", "{}");
            let answer = ask(wire, address, &question)?;
            let body = answer
                .splitn(2, |byte| *byte == b'{')
                .nth(1)
                .unwrap_or_default();
            let status: Value = serde_json::from_slice(&[b"{", body].concat())?;
            if status["leader"] != status["header"]["member_id"] {
                return Err(io::Error::other("not the leader"));
            }
        }
        let mut question = Vec::new();
        wire.put_request(&mut question, Operation::Put, "written", b"w");
        ask(wire, address, &question).map(drop)
    }

    /// Kills the leader with -9; gives how long it took until another took a write. Then the killed one is started again, and has
    /// caught up.
    ///
    /// # Errors
    /// No other takes writes, or it does not start again.
    pub fn fail_over(&mut self) -> io::Result<Duration> {
        let leader = self.until_written()?;
        self.kill(leader)?;
        let begun = Instant::now();
        self.until_written()?;
        let took = begun.elapsed();
        self.start_all()?;
        self.until_caught_up(leader)?;
        Ok(took)
    }

    /// Does something while a follower stands still, which has caught up afterwards. `work` is told where the leader is.
    ///
    /// # Errors
    /// Those of `work`; there is no leader.
    pub fn without_a_follower<T>(&self, work: impl FnOnce(&str) -> io::Result<T>) -> io::Result<T> {
        let leader = self.until_written()?;
        let follower = (leader + 1) % self.nodes.len();
        self.signal(follower, "-STOP")?;
        let done = work(&self.nodes[leader].client);
        self.signal(follower, "-CONT")?;
        self.until_caught_up(follower)?;
        done
    }

    fn signal(&self, number: usize, signal: &str) -> io::Result<()> {
        if let Some(child) = &self.nodes[number].child {
            let id = child.id().to_string();
            Command::new("kill").args([signal, &id]).status()?;
        }
        Ok(())
    }

    /// Waits until a node answers a linearizable read.
    fn until_caught_up(&self, number: usize) -> io::Result<()> {
        let (wire, address) = (self.kind.wire(), &self.nodes[number].client);
        let mut question = Vec::new();
        if self.kind == Kind::Duramen {
            put_command(&mut question, &[b"READONLY"]);
        }
        wire.put_request(&mut question, Operation::Get, "written", b"");
        let begun = Instant::now();
        loop {
            match ask(wire, address, &question) {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > START_TIMEOUT => return Err(error),
                Err(_) => std::thread::sleep(ASK_PAUSE),
            }
        }
    }

    fn kill(&mut self, number: usize) -> io::Result<()> {
        if let Some(mut child) = self.nodes[number].child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Kills all servers with -9.
    pub fn kill_all(&mut self) -> io::Result<()> {
        (0..self.nodes.len()).try_for_each(|number| self.kill(number))
    }

    /// A line of `/proc/PID/status`, in MiB, of the largest server.
    pub fn memory_mib(&self, line: &str) -> f64 {
        let of = |child: &Child| {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
            let found = status.lines().find_map(|found| found.strip_prefix(line))?;
            let kib: f64 = found
                .trim_start_matches(':')
                .trim()
                .split(' ')
                .next()?
                .parse()
                .ok()?;
            Some(kib / 1024.0)
        };
        let children = self.nodes.iter().filter_map(|node| node.child.as_ref());
        children.filter_map(of).fold(0.0, f64::max)
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let Err(error) = self.kill_all() {
            eprintln!("{} may still run: {error}", self.kind.name());
        }
    }
}

/// Asks, and gives the last answer.
fn ask(wire: Wire, address: &str, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ASK_TIMEOUT))?;
    stream.write_all(question)?;
    let asked = match question.starts_with(b"*1\r\n$8\r\nREADONLY") {
        true => 2,
        false => 1,
    };
    let mut answer = Vec::new();
    for number in 1..=asked {
        loop {
            if let Some(len) = wire.answer_bytes(&answer)? {
                if number == asked {
                    return Ok(answer);
                }
                answer.drain(..len);
                break;
            }
            let mut bytes = [0; 4096];
            match stream.read(&mut bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => answer.extend(&bytes[..read]),
            }
        }
    }
    Ok(answer)
}

/// Nobody else should take it in the meantime.
fn free_address() -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.to_string())
}
