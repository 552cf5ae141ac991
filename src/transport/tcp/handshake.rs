//! The first words of a connection: who is there, and whether each takes the other for what it says.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use duramen_wal::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::transport::codec::{
    HELLO_BYTES_MAX, Hello, VERSION, Welcome, decode_handshake, put_handshake, take_frame,
};
use crate::transport::{
    ADDRESS_BYTES_MAX, AddressBook, Addresses, Endpoint, Introduction, Refusal,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Introduces a node, and has others introduce themselves to it.
#[derive(Debug, Clone)]
pub(super) struct Handshakes {
    pub(super) id: NodeId,
    pub(super) addresses: AddressBook,
}

/// A connection to a node that has taken this one for what it is.
pub(super) struct Opened {
    pub(super) stream: TcpStream,
    /// What the other one says of itself.
    pub(super) introduction: Introduction,
    pub(super) addresses: Addresses,
    /// It is of use to meet again soon: one of the two may know more by then.
    pub(super) is_passing: bool,
}

impl Handshakes {
    /// Connects to `to`. [`PermissionDenied`](io::ErrorKind::PermissionDenied) if either refuses the other.
    pub(super) async fn open(
        &self,
        node: &impl Endpoint,
        to: NodeId,
        address: &str,
    ) -> io::Result<Opened> {
        let mut stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let greeting = self.greet(node, to, &mut stream);
        let (introduction, addresses, is_passing) = timeout(HANDSHAKE_TIMEOUT, greeting).await??;
        Ok(Opened {
            stream,
            introduction,
            addresses,
            is_passing,
        })
    }

    /// The handshake of the side that connects.
    async fn greet(
        &self,
        node: &impl Endpoint,
        to: NodeId,
        stream: &mut TcpStream,
    ) -> io::Result<(Introduction, Addresses, bool)> {
        let own = introduction(node).await?;
        let is_blank = own.is_blank;
        let addresses = self.addresses.own();
        let hello = Hello {
            version: VERSION,
            to: to.0,
            client_address: addresses.client,
            peer_address: addresses.peer,
            introduction: own,
        };
        write_handshake(stream, &hello).await?;
        let denied = |what| io::Error::new(io::ErrorKind::PermissionDenied, what);
        match read_handshake(stream, &mut BytesMut::new()).await? {
            Welcome::Accepted {
                client_address: client,
                peer_address: peer,
                introduction,
            } => {
                if introduction.from != to {
                    return Err(denied(format!("node {} answers", introduction.from)));
                }
                let admitted = admit(node, introduction.clone()).await?;
                admitted.map_err(|refusal| denied(format!("refuses node {to}: {refusal}")))?;
                let addresses = Addresses { peer, client };
                self.note(to, &addresses);
                let is_passing = is_blank || !introduction.knows.contains_key(&self.id.0);
                Ok((introduction, addresses, is_passing))
            }
            Welcome::Astray { reason } => Err(denied(format!("turned away: {reason}"))),
            Welcome::Refused { by_uuid, refusal } => {
                let error = denied(format!("refused: {refusal}"));
                if refusal.is_final() {
                    node.refused(to, by_uuid, refusal);
                }
                Err(error)
            }
        }
    }

    /// The handshake of the side that listens: who is there, if it may talk. `has_room` says whether there is room for a node
    /// that is no member.
    pub(super) async fn welcome(
        &self,
        node: &impl Endpoint,
        has_room: bool,
        stream: &mut TcpStream,
        buf: &mut BytesMut,
    ) -> io::Result<Option<NodeId>> {
        let hello: Hello = read_handshake(stream, buf).await?;
        let from = hello.introduction.from;
        if let Err(reason) = self.check(&hello, has_room) {
            tracing::warn!(%from, "turned a node away: {reason}");
            write_handshake(stream, &Welcome::Astray { reason }).await?;
            return Ok(None);
        }
        if let Err(refusal) = admit(node, hello.introduction).await? {
            tracing::warn!(%from, "refused a node: {refusal}");
            let by_uuid = introduction(node).await?.uuid;
            write_handshake(stream, &Welcome::Refused { by_uuid, refusal }).await?;
            return Ok(None);
        }
        let theirs = Addresses {
            peer: hello.peer_address,
            client: hello.client_address,
        };
        self.note(from, &theirs);
        let own = self.addresses.own();
        let accepted = Welcome::Accepted {
            client_address: own.client,
            peer_address: own.peer,
            introduction: introduction(node).await?,
        };
        write_handshake(stream, &accepted).await?;
        Ok(Some(from))
    }

    /// Whether a node has come to the right place. Both sides' views are in the reason.
    fn check(&self, hello: &Hello, has_room: bool) -> Result<(), String> {
        let from = hello.introduction.from;
        if hello.version != VERSION {
            let ours = VERSION;
            return Err(format!(
                "it speaks version {} between nodes, this node {ours}",
                hello.version
            ));
        }
        if hello.to != self.id.0 {
            return Err(format!(
                "it looks for node {}, this is node {}",
                hello.to, self.id
            ));
        }
        if from == self.id {
            return Err(format!("this is node {from} itself"));
        }
        if !has_room && !self.addresses.is_member(from) {
            return Err(format!(
                "node {from} is no member, and node {} has no room for more such nodes",
                self.id
            ));
        }
        Ok(())
    }

    fn note(&self, node: NodeId, addresses: &Addresses) {
        let short = |address: &String| match address.len() {
            0..=ADDRESS_BYTES_MAX => address.clone(),
            _ => String::new(),
        };
        let addresses = Addresses {
            peer: short(&addresses.peer),
            client: short(&addresses.client),
        };
        self.addresses.said(node, addresses);
    }
}

async fn introduction(node: &impl Endpoint) -> io::Result<Introduction> {
    let (sender, answer) = oneshot::channel();
    // Who asked may be gone by then.
    node.introduce(Box::new(|introduction| drop(sender.send(introduction))));
    answer.await.map_err(|_| ended())
}

async fn admit(node: &impl Endpoint, other: Introduction) -> io::Result<Result<(), Refusal>> {
    let (sender, answer) = oneshot::channel();
    node.admit(other, Box::new(|admitted| drop(sender.send(admitted))));
    answer.await.map_err(|_| ended())
}

fn ended() -> io::Error {
    io::Error::other("this node has ended")
}

async fn write_handshake(
    stream: &mut TcpStream,
    message: &impl serde::Serialize,
) -> io::Result<()> {
    let mut buf = BytesMut::new();
    put_handshake(&mut buf, message);
    stream.write_all(&buf).await
}

async fn read_handshake<T: serde::de::DeserializeOwned>(
    stream: &mut TcpStream,
    buf: &mut BytesMut,
) -> io::Result<T> {
    loop {
        if let Some(body) = take_frame(buf, HELLO_BYTES_MAX)? {
            return decode_handshake(&body);
        }
        if stream.read_buf(buf).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
