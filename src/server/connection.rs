//! One client's connection.
//!
//! Requests that have arrived together are carried out together: reads in one round of questions to the others, and if there is a
//! write among them, all in one entry of the log. They see each other in their order, and nothing comes between them; but
//! each succeeds or fails by itself. Replies go out in the order of the requests.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Server;
use super::budget::Share;
use super::client::{Client, Queued};
use super::commands::{self, Plan, Steps};
use super::reply::{Encoder, Protocol, Reply};
use super::request::{REQUEST_BYTES_MAX, RequestDecoder, Words};
use crate::kv::Command;

/// The requests that are carried out together.
#[derive(Default)]
struct Burst {
    /// With the protocol in which each is to be said: HELLO changes it for what follows.
    replies: Vec<(Protocol, Pending)>,
    commands: Vec<Command>,
    bytes: usize,
}

/// A reply that is there, or that the next of the commands will give.
enum Pending {
    Reply(Reply),
    Owed { slot: u16 },
}

pub(super) struct Connection<'a> {
    pub(super) server: &'a Server,
    pub(super) client: Client,
    stream: TcpStream,
    decoder: RequestDecoder,
    input: BytesMut,
    output: BytesMut,
    burst: Burst,
    share: Share,
}

/// More requests than this are not carried out together, nor more bytes.
const BURST_MAX: usize = 1024;
const BURST_BYTES_MAX: usize = 1 << 20;
/// Replies of this size are sent before more are made.
const OUTPUT_BYTES: usize = 256 << 10;
const READ_BYTES: usize = 16 << 10;
/// A long request is read in larger pieces.
const READ_BYTES_MAX: usize = 1 << 20;

impl Connection<'_> {
    pub(super) fn new(server: &Server, stream: TcpStream, id: u64) -> Connection<'_> {
        Connection {
            server,
            client: Client::new(id, !server.has_password()),
            stream,
            decoder: RequestDecoder::default(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            burst: Burst::default(),
            share: server.budget.share(),
        }
    }

    /// Serves the client until it leaves.
    pub(super) async fn serve(mut self) -> io::Result<()> {
        loop {
            let goes_on = self.take_requests().await?;
            self.settle().await?;
            self.flush().await?;
            if !goes_on {
                return self.stream.shutdown().await;
            }
            // What was carried out is given back before the client is waited for.
            if !self.hold().await? || self.read().await? == 0 || !self.hold().await? {
                return Ok(());
            }
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        let bytes = self.input.len().clamp(READ_BYTES, READ_BYTES_MAX);
        self.input.reserve(bytes);
        self.stream.read_buf(&mut self.input).await
    }

    /// Holds as much of the budget as is kept of what the client has sent. If there is not so much, the client is sent away.
    async fn hold(&mut self) -> io::Result<bool> {
        let queued = self.client.transaction.as_ref().map_or(0, |it| it.bytes);
        let bytes = self.input.len() + self.decoder.held_bytes() + queued;
        if self.share.hold(bytes).await {
            return Ok(true);
        }
        let reply = "TRYAGAIN too much is waiting at this node to be carried out";
        self.send(Reply::error(reply), self.client.protocol).await?;
        self.flush().await?;
        self.stream.shutdown().await?;
        Ok(false)
    }

    /// Takes all requests that have arrived whole. Says whether the connection goes on.
    async fn take_requests(&mut self) -> io::Result<bool> {
        loop {
            let words = match self.decoder.decode(&mut self.input) {
                Ok(Some(words)) => words,
                Ok(None) => return Ok(true),
                Err(error) => {
                    self.reply(Reply::error(format!("ERR Protocol error: {error}")));
                    return Ok(false);
                }
            };
            if !self.take(&words).await? {
                return Ok(false);
            }
            if self.burst.replies.len() >= BURST_MAX || self.burst.bytes >= BURST_BYTES_MAX {
                self.settle().await?;
            }
        }
    }

    async fn take(&mut self, words: &Words) -> io::Result<bool> {
        let plan = commands::plan(self.server, &mut self.client, words);
        if self.client.transaction.is_some() && !ends_transaction(&plan) {
            self.queue(plan, words).await;
            return Ok(true);
        }
        match plan {
            Plan::Refused(reply) | Plan::Reply(reply) => self.reply(reply),
            Plan::Quit(reply) => {
                self.reply(reply);
                return Ok(false);
            }
            Plan::Store(command) => self.add(command, words).await?,
            Plan::Steps(steps) => {
                self.settle().await?;
                let reply = self.go(steps, commands::slot(words)).await;
                self.reply(reply);
            }
        }
        Ok(true)
    }

    fn reply(&mut self, reply: Reply) {
        self.owe(Pending::Reply(reply));
    }

    fn owe(&mut self, pending: Pending) {
        self.burst.replies.push((self.client.protocol, pending));
    }

    /// Adds a command to those that are carried out together.
    async fn add(&mut self, command: Command, words: &Words) -> io::Result<()> {
        let bytes = weight(words);
        let is_other = |before: &Command| before.is_write() != command.is_write();
        // A node that does not lead carries out the reads, and not the writes.
        let is_apart = self.client.is_readonly && self.burst.commands.last().is_some_and(is_other);
        if is_apart || self.burst.bytes + bytes > REQUEST_BYTES_MAX {
            self.settle().await?;
        }
        self.burst.bytes += bytes;
        let slot = commands::slot(words);
        self.owe(Pending::Owed { slot });
        self.burst.commands.push(command);
        Ok(())
    }

    /// Carries out what was taken, and sends the replies.
    async fn settle(&mut self) -> io::Result<()> {
        let burst = std::mem::take(&mut self.burst);
        let is_readonly = self.client.is_readonly;
        let outcome = match burst.commands.is_empty() {
            true => Ok(Vec::new()),
            false => self.server.carry_out(burst.commands, is_readonly).await,
        };
        let (mut outputs, undone) = match outcome {
            Ok(outputs) => (outputs.into_iter(), None),
            Err(undone) => (Vec::new().into_iter(), Some(undone)),
        };
        for (protocol, pending) in burst.replies {
            let reply = match (pending, &undone) {
                (Pending::Reply(reply), _) => reply,
                (Pending::Owed { slot }, Some(undone)) => undone.reply(slot),
                (Pending::Owed { .. }, None) => {
                    Reply::of(outputs.next().expect("each command has an output"))
                }
            };
            self.send(reply, protocol).await?;
        }
        Ok(())
    }

    async fn send(&mut self, reply: Reply, protocol: Protocol) -> io::Result<()> {
        let mut encoder = Encoder::new(reply, protocol);
        while encoder.encode(&mut self.output, OUTPUT_BYTES) {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        if self.output.capacity() > 2 * OUTPUT_BYTES {
            self.output = BytesMut::new(); // There was something large in it, and is not always.
        }
        Ok(())
    }

    /// Keeps a command for EXEC.
    async fn queue(&mut self, plan: Plan, words: &Words) {
        let bytes = weight(words);
        let slot = commands::slot(words);
        let is_broken =
            |client: &Client| client.transaction.as_ref().is_some_and(|it| it.is_broken);
        let queued = match plan {
            // Nothing will come of it, and to look for a leader each time takes long.
            Plan::Store(command) if is_broken(&self.client) => Ok(Queued::Command(command)),
            Plan::Store(command) => match self.server.wait_to_lead().await {
                Ok(()) => Ok(Queued::Command(command)),
                Err(undone) => Err(undone.reply(slot)),
            },
            Plan::Refused(error) => Err(error),
            Plan::Reply(reply) => Ok(Queued::Reply(reply)),
            Plan::Steps(Steps::Multi) => {
                // Redis does not break the transaction for this.
                return self.reply(Reply::error("ERR MULTI calls can not be nested"));
            }
            Plan::Steps(Steps::Watch(_)) => {
                return self.reply(Reply::error("ERR WATCH inside MULTI is not allowed"));
            }
            Plan::Steps(_) | Plan::Quit(_) => {
                Err(Reply::error("ERR Command not allowed inside a transaction"))
            }
        };
        let transaction = self.client.transaction.as_mut().expect("there is one");
        transaction.bytes += bytes;
        let is_large =
            transaction.bytes > REQUEST_BYTES_MAX || transaction.queued.len() >= BURST_MAX;
        let reply = match queued {
            Ok(_) if is_large => Reply::error(format!(
                "ERR a transaction has at most {BURST_MAX} commands and {REQUEST_BYTES_MAX} bytes"
            )),
            Ok(queued) => {
                transaction.queued.push(queued);
                return self.reply(Reply::Simple("QUEUED"));
            }
            Err(reply) => reply,
        };
        transaction.is_broken = true;
        self.reply(reply);
    }
}

/// About what a request takes in memory, and in the log.
fn weight(words: &Words) -> usize {
    let weight = |word: &Bytes| word.len() + size_of::<Bytes>();
    words.iter().map(weight).sum()
}

/// Whether a command ends the transaction that is under way, or the connection.
fn ends_transaction(plan: &Plan) -> bool {
    matches!(
        plan,
        Plan::Steps(Steps::Exec | Steps::Discard) | Plan::Quit(_)
    )
}
