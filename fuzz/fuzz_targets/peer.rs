//! Any bytes on a node's port for its peers, the real one, on a loopback socket: each connection ends, packets of whoever was
//! admitted come out or nothing does, and a length that is only claimed takes no memory.
//!
//! In most inputs the frames are whole and their checksums right, and a handshake that makes sense comes first.
#![no_main]

#[path = "memory.rs"]
mod memory;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arbitrary::Arbitrary;
use duramen::node::{Endpoint, Introduction, LogId, NodeId, Packet, Refusal};
use duramen::transport::{AddressBook, Addresses, TcpTransport};
use duramen::wal::Term;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;

#[derive(Debug, Arbitrary)]
struct Input {
    admits: bool,
    connections: Vec<Connection>,
}

#[derive(Debug, Arbitrary)]
struct Connection {
    hello: First,
    from: u8,
    frames: Vec<Frame>,
    /// The number of bytes that come first, before a pause.
    cut: u16,
}

/// What comes first.
#[derive(Debug, Arbitrary)]
enum First {
    Hello,
    LongHello { version: u8, to: u8, knows: u8 },
    SpoiltHello { at: u8, byte: u8 },
    Nothing,
}

#[derive(Debug, Arbitrary)]
enum Frame {
    Raw(Vec<u8>),
    Header {
        body_bytes: u32,
        checksum: u32,
    },
    Body(Vec<Field>),
    Message {
        kind: u8,
        from: Option<u8>,
        fields: Vec<Field>,
    },
    /// One that makes sense, but for some.
    Whole {
        shape: u8,
        contents: Vec<u8>,
    },
}

/// What messages of a kind consist of after their sender and receiver: numbers, flags, hashes, bytes with their length, numbers that
/// may be missing; so many ids; so many entries.
const SHAPES: [(u8, &str); 16] = [
    (1, "nnnf"),
    (2, "nf"),
    (3, "nnnnne"),
    (4, "nnfn"),
    (5, "nnn"),
    (6, "nf"),
    (7, "n"),
    (9, "nfoi"),
    (11, "nn"),
    (12, "nno"),
    (32, "hn"),
    (33, "hnb"),
    (34, "bh"),
    (35, "hb"),
    (36, "h"),
    (37, "nh"),
];

/// Appends the parts of a shape, out of any bytes.
fn put_shape(body: &mut Vec<u8>, shape: &str, mut from: &mut dyn Iterator<Item = u8>) {
    for part in shape.bytes() {
        let byte = from.next().unwrap_or_default();
        match part {
            b'n' => body.extend(u64::from(byte).to_le_bytes()),
            b'f' => body.push(byte & 1),
            b'h' => body.extend([byte; 32]),
            b'b' => {
                let len = u32::from(byte % 32);
                body.extend(len.to_le_bytes());
                let bytes = (&mut from).chain(std::iter::repeat(0));
                body.extend(bytes.take(len as usize));
            }
            b'o' => {
                body.push(byte & 1);
                put_shape(body, &"n"[..usize::from(byte & 1)], from);
            }
            b'i' => {
                body.extend(u32::from(byte % 8).to_le_bytes());
                (0..byte % 8).for_each(|_| put_shape(body, "nn", from));
            }
            _ => {
                body.extend(u32::from(byte % 8).to_le_bytes());
                for _ in 0..byte % 8 {
                    put_shape(body, "n", from);
                    body.push(0); // No context.
                    put_shape(body, "b", from);
                }
            }
        }
    }
}

/// What bodies are made of.
#[derive(Debug, Arbitrary)]
enum Field {
    Byte(u8),
    Flag(bool),
    Small(u8),
    Number(u64),
    Count(u8),
    Claim(u32),
    Short(Vec<u8>),
    Bytes(Vec<u8>),
    Hash(u8),
    Raw(Vec<u8>),
}

impl Field {
    fn put(&self, body: &mut Vec<u8>) {
        match self {
            Field::Byte(byte) => body.push(*byte),
            Field::Flag(flag) => body.push(u8::from(*flag)),
            Field::Small(number) => body.extend(u64::from(*number).to_le_bytes()),
            Field::Number(number) => body.extend(number.to_le_bytes()),
            Field::Count(count) => body.extend(u32::from(*count).to_le_bytes()),
            Field::Claim(len) => body.extend(len.to_le_bytes()),
            Field::Short(bytes) => {
                body.push(bytes.len() as u8);
                body.extend(bytes);
            }
            Field::Bytes(bytes) => {
                body.extend((bytes.len() as u32).to_le_bytes());
                body.extend(bytes);
            }
            Field::Hash(byte) => body.extend([*byte; 32]),
            Field::Raw(bytes) => body.extend(bytes),
        }
    }
}

impl Connection {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let hello = |version, to, knows| {
            let said = (
                version,
                to,
                "client",
                "peer",
                introduction(self.from, knows),
            );
            bincode::serde::encode_to_vec(said, bincode::config::standard()).expect("a hello")
        };
        match self.hello {
            First::Hello => put_frame(&mut bytes, &hello(1_u16, SELF, 0)),
            First::LongHello { version, to, knows } => {
                put_frame(&mut bytes, &hello(version.into(), to.into(), knows));
            }
            First::SpoiltHello { at, byte } => {
                let mut body = hello(1, SELF, 2);
                let at = usize::from(at) % body.len();
                body[at] = byte;
                put_frame(&mut bytes, &body);
            }
            First::Nothing => {}
        }
        for frame in &self.frames {
            match frame {
                Frame::Raw(raw) => bytes.extend(raw),
                Frame::Header {
                    body_bytes,
                    checksum,
                } => {
                    bytes.extend(body_bytes.to_le_bytes());
                    bytes.extend(checksum.to_le_bytes());
                }
                Frame::Body(fields) => put_frame(&mut bytes, &body(fields)),
                Frame::Message { kind, from, fields } => {
                    let kind = match kind % 32 {
                        kind @ 0..16 => kind,
                        kind => kind + 16,
                    };
                    let mut message = head(kind, from.unwrap_or(self.from));
                    message.extend(body(fields));
                    put_frame(&mut bytes, &message);
                }
                Frame::Whole { shape, contents } => {
                    let (kind, shape) = SHAPES[usize::from(*shape) % SHAPES.len()];
                    let mut message = head(kind, self.from);
                    put_shape(&mut message, shape, &mut contents.iter().copied());
                    put_frame(&mut bytes, &message);
                }
            }
        }
        bytes
    }
}

fn head(kind: u8, from: u8) -> Vec<u8> {
    let mut head = vec![kind];
    head.extend(u64::from(from).to_le_bytes());
    head.extend(SELF.to_le_bytes());
    head
}

fn body(fields: &[Field]) -> Vec<u8> {
    let mut body = Vec::new();
    fields.iter().for_each(|field| field.put(&mut body));
    body
}

fn put_frame(bytes: &mut Vec<u8>, body: &[u8]) {
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(crc32fast::hash(body).to_le_bytes());
    bytes.extend(body);
}

/// The node whose port it is.
const SELF: u64 = 200;

fn introduction(from: u8, knows: u8) -> Introduction {
    Introduction {
        cluster: "c".to_owned(),
        from: NodeId(from.into()),
        uuid: 7,
        boots: [(1, 7)].into(),
        term: Term(0),
        last: LogId::default(),
        is_blank: false,
        leads: false,
        knows: (0..knows).map(|n| (n.into(), n.into())).collect(),
        met: BTreeMap::new(),
    }
}

/// Takes down who was admitted, and takes in packets of those alone.
#[derive(Clone)]
struct Node {
    admits: bool,
    admitted: Arc<Mutex<Vec<NodeId>>>,
}

impl Endpoint for Node {
    fn introduce(&self, on_introduction: Box<dyn FnOnce(Introduction) + Send>) {
        on_introduction(introduction(SELF as u8, 3));
    }

    fn admit(&self, other: Introduction, on_admitted: Box<dyn FnOnce(Result<(), Refusal>) + Send>) {
        let refusal = Refusal::SetBack {
            node: other.from,
            known: 2,
            found: 1,
        };
        let admitted = self.admits.then_some(()).ok_or(refusal);
        if admitted.is_ok() {
            self.admitted.lock().expect("no panic").push(other.from);
            count("admitted", 1);
        }
        on_admitted(admitted);
    }

    fn refused(&self, by: NodeId, _: u128, refusal: Refusal) {
        panic!("{by} was not asked: {refusal}");
    }

    fn deliver(&self, packet: Packet) {
        let admitted = self.admitted.lock().expect("no panic");
        assert!(admitted.contains(&packet.from()), "{packet:?}");
        count("delivered", 1);
    }
}

/// What came up in all inputs, to know that it did.
static COUNTS: [(&str, AtomicU64); 4] = [
    ("inputs", AtomicU64::new(0)),
    ("connections", AtomicU64::new(0)),
    ("admitted", AtomicU64::new(0)),
    ("delivered", AtomicU64::new(0)),
];

fn count(what: &str, by: u64) -> u64 {
    let found = COUNTS.iter().find(|(name, _)| *name == what);
    let (_, counter) = found.expect("a name");
    counter.fetch_add(by, Ordering::Relaxed) + by
}

/// Says what came up after 128, 256, 512, .. inputs.
fn count_input() {
    let inputs = count("inputs", 1);
    if inputs >= 128 && inputs.is_power_of_two() {
        let counts = COUNTS
            .iter()
            .map(|(name, counter)| format!("{name} {}", counter.load(Ordering::Relaxed)));
        eprintln!("{}", counts.collect::<Vec<_>>().join(", "));
    }
}

/// Says all of it, and waits for the other end to close. Gives the answer.
async fn say(address: &str, bytes: &[u8], cut: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("a socket");
    let (first, rest) = bytes.split_at(cut.min(bytes.len()));
    let mut answer = Vec::new();
    // It may be closed in the middle: that is an answer too.
    if stream.write_all(first).await.is_ok() {
        tokio::task::yield_now().await;
        let _ = stream.write_all(rest).await;
    }
    let _ = stream.shutdown().await;
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

/// One frame at the most: the answer to the handshake.
fn assert_answer(answer: &[u8]) {
    let Some((header, body)) = answer.split_first_chunk::<8>() else {
        return assert!(answer.is_empty(), "{answer:?}");
    };
    let number = |at: usize| u32::from_le_bytes(*header[at..].first_chunk().expect("4 bytes"));
    assert_eq!(number(0) as usize, body.len());
    assert_eq!(number(4), crc32fast::hash(body));
}

/// Read buffers and sockets, and what is decoded beside its bytes.
const BYTES_AT_LEAST: usize = 1 << 20;
const BYTES_PER_BYTE: usize = 64;

/// A port of an address of this input's own: what was closed keeps its port for a minute, and tens of thousands are closed in one.
async fn listener() -> TcpListener {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let [.., high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let address = Ipv4Addr::new(127, 0, high, low.max(1));
    TcpListener::bind((address, 0)).await.expect("a port")
}

async fn run(input: &Input) {
    let listener = listener().await;
    let address = listener.local_addr().expect("bound").to_string();
    let node = Node {
        admits: input.admits,
        admitted: Arc::default(),
    };
    let book = AddressBook::new(NodeId(SELF), Addresses::default(), BTreeMap::new());
    let transport = TcpTransport::new(NodeId(SELF), book);
    let listening = tokio::spawn({
        let transport = transport.clone();
        async move { transport.listen(listener, node).await }
    });
    for connection in input.connections.iter().take(4) {
        count("connections", 1);
        let said = connection.bytes();
        let answer = say(&address, &said, connection.cut.into()).await;
        assert_answer(&answer);
    }
    transport.end().await;
    listening.await.expect("no panic");
}

fuzz_target!(|input: Input| {
    count_input();
    thread_local! {
        static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
    }
    let said: usize = input
        .connections
        .iter()
        .map(|connection| connection.bytes().len())
        .sum();
    RUNTIME.with(|runtime| {
        memory::within(BYTES_AT_LEAST + said * BYTES_PER_BYTE, || {
            runtime.block_on(async {
                let run = timeout(Duration::from_secs(10), run(&input));
                run.await.expect("each connection ends");
            });
        });
    });
});
