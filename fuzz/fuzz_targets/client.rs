//! Any requests at a node's port for clients, the real one, on a loopback socket, with a node behind it: each request gets one
//! whole reply, a connection ends when the client is done or has said `QUIT` or what is no request, and the node goes on.
//!
//! Most inputs are commands that the node names itself, with about as many arguments as they take, out of words that mean something.
#![no_main]

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::{Bytes, BytesMut};
use duramen::kv::Kv;
use duramen::node::NodeId;
use duramen::replica::{Options, Replica};
use duramen::server::{self, Gauges, Machine, RequestDecoder, Server};
use duramen::session::Sessions;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;

#[derive(Debug, Arbitrary)]
struct Input {
    /// Of the port that wants a password.
    is_locked: bool,
    parts: Vec<Part>,
    /// The number of bytes that come first, before a pause.
    cut: u16,
}

#[derive(Debug, Arbitrary)]
enum Part {
    /// Adds as many words as the command takes at least, if there are fewer.
    Command {
        command: u8,
        words: Vec<Word>,
    },
    Request(Vec<Word>),
    Line(Vec<Word>),
    Raw(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
enum Word {
    Key(u8),
    Small(i8),
    Number(i64),
    Float(f64),
    Command(u8),
    Option(u8),
    /// The session that is open at first.
    Session,
    Raw(Vec<u8>),
}

/// What commands know beside keys, values and numbers.
const OPTIONS: &[&str] = &[
    "ex",
    "px",
    "exat",
    "pxat",
    "nx",
    "xx",
    "gt",
    "lt",
    "get",
    "keepttl",
    "persist",
    "match",
    "count",
    "type",
    "string",
    "async",
    "sync",
    "open",
    "call",
    "close",
    "info",
    "id",
    "getname",
    "setname",
    "setinfo",
    "lib-name",
    "docs",
    "getkeys",
    "list",
    "auth",
    "default",
    PASSWORD,
    "2",
    "3",
    "slots",
    "shards",
    "nodes",
    "myid",
    "keyslot",
    "members",
    "server",
    "replication",
    "maxmemory",
    "*",
    "?",
    "a[bc]*",
    "inf",
    "help",
];
const PASSWORD: &str = "secret";

/// A node of its own, with two ports' worth of servers in front of it.
struct Node {
    replica: Replica<Machine>,
    open: Server,
    locked: Server,
    /// The commands that it has, and how many words each takes at least.
    commands: Vec<(Bytes, usize)>,
}

/// A directory in memory, if there is a place for it: what this is about needs no disk. It stays behind, since nothing runs
/// when a fuzzer ends, until the next one begins: so one runs at a time.
fn dir() -> PathBuf {
    let in_memory = PathBuf::from("/dev/shm");
    let parent = match in_memory.is_dir() {
        true => in_memory,
        false => std::env::temp_dir(),
    };
    let dir = parent.join("duramen-fuzz-client");
    let _ = std::fs::remove_dir_all(&dir); // Of the one before.
    dir
}

impl Node {
    async fn start() -> Node {
        let machine = Sessions::new(Kv::default());
        let gauges = Gauges::of(&machine);
        let mut options = Options::new(NodeId(1), dir(), [(NodeId(1), "127.0.0.1:0")]);
        options.node.snapshot_bytes = 1 << 20;
        let replica = Replica::start(options, machine).await.expect("a node");
        let mut status = replica.watch();
        let leads = status.wait_for(|status| status.leader.is_some());
        drop(leads.await.expect("it leads"));
        let mut with_password = server::Options::default();
        with_password.password = Some(PASSWORD.to_owned());
        let mut node = Node {
            open: Server::new(&replica, gauges.clone(), &server::Options::default()),
            locked: Server::new(&replica, gauges, &with_password),
            replica,
            commands: Vec::new(),
        };
        let described = node.say(&node.open, b"command\r\n", 0).await;
        let described = replies(&described.expect("all was heard"));
        let [Reply::Parts(described)] = &described[..] else {
            panic!("{described:?}");
        };
        node.commands = described.iter().map(command).collect();
        assert!(node.commands.len() > 50);
        node
    }

    /// Says all of it at a port of its own, and waits for the other end to close. Gives the answer; none if it is lost, since the other
    /// end had closed while there was more to come.
    async fn say(&self, server: &Server, bytes: &[u8], cut: usize) -> Option<Vec<u8>> {
        let listener = listener().await;
        let address = listener.local_addr().expect("bound");
        let listening = tokio::spawn(server.clone().listen(listener));
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        let (mut from, mut to) = stream.split();
        let (first, rest) = bytes.split_at(cut.min(bytes.len()));
        let saying = async {
            to.write_all(first).await?;
            tokio::task::yield_now().await;
            to.write_all(rest).await?;
            to.shutdown().await
        };
        let mut answer = Vec::new();
        let (said, heard) = tokio::join!(saying, from.read_to_end(&mut answer));
        listening.abort();
        said.and(heard).is_ok().then_some(answer)
    }

    fn bytes(&self, parts: &[Part], session: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let all = |words: &[Word]| -> Vec<Vec<u8>> {
            let words = words.iter();
            words.map(|word| self.word(word, session)).collect()
        };
        for part in parts {
            match part {
                Part::Command { command, words } => {
                    let (name, words_min) =
                        &self.commands[usize::from(*command) % self.commands.len()];
                    let mut request = vec![name.to_vec()];
                    request.extend(all(words));
                    let len = request.len().max(*words_min);
                    request.resize(len, b"a".to_vec());
                    put_request(&mut bytes, &request);
                }
                Part::Request(words) => put_request(&mut bytes, &all(words)),
                Part::Line(words) => {
                    bytes.extend(all(words).join(&b' '));
                    bytes.extend(b"\r\n");
                }
                Part::Raw(raw) => bytes.extend(raw),
            }
        }
        bytes
    }

    fn word(&self, word: &Word, session: &[u8]) -> Vec<u8> {
        match word {
            Word::Key(key) => vec![b'a' + key % 4],
            Word::Small(number) => number.to_string().into(),
            Word::Number(number) => number.to_string().into(),
            Word::Float(number) => number.to_string().into(),
            Word::Command(command) => self.commands[usize::from(*command) % self.commands.len()]
                .0
                .to_vec(),
            Word::Option(option) => OPTIONS[usize::from(*option) % OPTIONS.len()].into(),
            Word::Session => session.to_vec(),
            Word::Raw(raw) => raw.clone(),
        }
    }

    async fn run(&self, input: &Input) {
        let server = match input.is_locked {
            true => &self.locked,
            false => &self.open,
        };
        let begun = self
            .say(&self.open, b"flushall\r\nsession open 1\r\n", 0)
            .await;
        let begun = replies(&begun.expect("all was heard"));
        let [Reply::Text(_), Reply::Text(session)] = &begun[..] else {
            panic!("{begun:?}");
        };
        let (bytes, requests, is_end) = what_counts(self.bytes(&input.parts, session));
        let Some(answer) = self.say(server, &bytes, input.cut.into()).await else {
            return assert!(is_end, "the connection was lost");
        };
        let replies = replies(&answer);
        assert_eq!(
            replies.len(),
            requests,
            "{} {replies:?}",
            bytes.escape_ascii()
        );
        assert!(
            self.replica
                .report()
                .await
                .is_some_and(|report| report.is_leader())
        );
    }
}

fn put_request(bytes: &mut Vec<u8>, words: &[Vec<u8>]) {
    bytes.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend(word);
        bytes.extend(b"\r\n");
    }
}

/// The bytes up to the first request that would change who belongs to the cluster, how many replies they get, and whether the
/// connection ends with the last one.
fn what_counts(bytes: Vec<u8>) -> (Vec<u8>, usize, bool) {
    let (mut decoder, mut buf) = (RequestDecoder::default(), BytesMut::from(&bytes[..]));
    let mut requests = 0;
    loop {
        let before = buf.len();
        match decoder.decode(&mut buf) {
            Ok(None) => return (bytes, requests, false),
            Ok(Some(words)) if words[0].eq_ignore_ascii_case(b"raft") => {
                return (bytes[..bytes.len() - before].to_vec(), requests, false);
            }
            Ok(Some(words)) => {
                requests += 1;
                if words[0].eq_ignore_ascii_case(b"quit") {
                    return (bytes, requests, true);
                }
            }
            Err(_) => return (bytes, requests + 1, true),
        }
    }
}

/// A reply, as far as it matters here.
#[derive(Debug)]
enum Reply {
    /// A line without its kind, or a string.
    Text(Vec<u8>),
    Parts(Vec<Reply>),
}

/// All replies. What is none, or no whole one, is not there.
fn replies(mut bytes: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        replies.push(
            reply(&mut bytes).unwrap_or_else(|| panic!("no reply: {}", bytes.escape_ascii())),
        );
    }
    replies
}

fn reply(bytes: &mut &[u8]) -> Option<Reply> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    let (line, rest) = bytes.split_at(end);
    let (kind, line) = line.split_first()?;
    *bytes = &rest[2..];
    let number = || str::from_utf8(line).ok()?.parse::<i64>().ok();
    let parts_of_one = match kind {
        b'+' | b'-' | b'_' | b'#' | b',' => return Some(Reply::Text(line.to_vec())),
        b':' => return number().map(|_| Reply::Text(line.to_vec())),
        b'$' | b'=' if line == b"-1" => return Some(Reply::Text(Vec::new())),
        b'$' | b'=' => {
            let (text, rest) = bytes.split_at_checked(usize::try_from(number()?).ok()?)?;
            *bytes = rest.strip_prefix(b"\r\n")?;
            return Some(Reply::Text(text.to_vec()));
        }
        b'*' | b'~' | b'>' => 1,
        b'%' => 2,
        _ => return None,
    };
    let parts = number()?.max(0) * parts_of_one; // -1: there is no array.
    (0..parts)
        .map(|_| reply(bytes))
        .collect::<Option<_>>()
        .map(Reply::Parts)
}

/// A command's name and the number of words that it takes at least, as `COMMAND` describes it.
fn command(described: &Reply) -> (Bytes, usize) {
    match described {
        Reply::Parts(parts) => match &parts[..] {
            [Reply::Text(name), Reply::Text(arity), ..] => {
                let arity: i64 = str::from_utf8(arity)
                    .expect("a number")
                    .parse()
                    .expect("a number");
                (name.clone().into(), arity.unsigned_abs() as usize)
            }
            _ => panic!("{parts:?}"),
        },
        Reply::Text(_) => panic!("{described:?}"),
    }
}

/// A port of an address of this input's own: what was closed keeps its port for a minute, and tens of thousands are closed in one.
async fn listener() -> TcpListener {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let [.., high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let address = Ipv4Addr::new(127, 1, high, low.max(1));
    TcpListener::bind((address, 0)).await.expect("a port")
}

fuzz_target!(|input: Input| {
    thread_local! {
        static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
    }
    static NODE: OnceLock<Node> = OnceLock::new();
    RUNTIME.with(|runtime| {
        let node = NODE.get_or_init(|| runtime.block_on(Node::start()));
        runtime.block_on(async {
            let run = timeout(Duration::from_secs(10), node.run(&input));
            run.await.expect("each request is answered");
        });
    });
});
