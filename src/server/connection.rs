//! One client's connection.
//!
//! Requests that have arrived together are taken together. Replies go out in the order of the requests, and so do the
//! effects: writes that follow each other are under way at once, reads that follow each other too, but a read waits for
//! the writes before it and a write for the reads, so that a client that pipelines sees its own order.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::commands::{self, Plan, reply_to_write};
use super::resp::{Reply, Request, RequestDecoder};
use super::{Server, cluster};
use crate::kv::Output;
use crate::node::NotDone;

/// What a connection knows of its client.
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) name: Option<Bytes>,
}

/// A reply that is there, or that the node owes.
enum Pending {
    Reply(Reply),
    Write {
        answer: oneshot::Receiver<Result<Output, NotDone>>,
        slot: u16,
    },
    Read {
        answer: oneshot::Receiver<Result<Option<Bytes>, NotDone>>,
        slot: u16,
    },
}

/// What is under way, so that nothing of the other kind overtakes it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    None,
    Writes,
    Reads,
}

pub(super) struct Connection<'a> {
    server: &'a Server,
    session: Session,
    stream: TcpStream,
    decoder: RequestDecoder,
    input: BytesMut,
    output: BytesMut,
    pending: Vec<Pending>,
    /// The size of the requests that are pending.
    pending_bytes: usize,
    run: Run,
}

/// A client that pipelines more than this waits for the first of them.
const PENDING_MAX: usize = 1024;
const PENDING_BYTES_MAX: usize = 32 << 20;
/// Replies of this size are sent before more are made.
const OUTPUT_BYTES: usize = 1 << 20;
const READ_BYTES: usize = 16 << 10;

impl Connection<'_> {
    pub(super) fn new(server: &Server, stream: TcpStream, id: u64) -> Connection<'_> {
        Connection {
            server,
            session: Session { id, name: None },
            stream,
            decoder: RequestDecoder::default(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            run: Run::None,
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
            self.input.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Begins all requests that have arrived whole. Says whether the connection goes on.
    async fn take_requests(&mut self) -> io::Result<bool> {
        loop {
            let request = match self.decoder.decode(&mut self.input) {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(true),
                Err(error) => {
                    let reply = Reply::error(format!("ERR Protocol error: {error}"));
                    self.pending.push(Pending::Reply(reply));
                    return Ok(false);
                }
            };
            self.pending_bytes += request.iter().map(Bytes::len).sum::<usize>();
            if !self.begin(request).await? {
                return Ok(false);
            }
            if self.pending.len() >= PENDING_MAX || self.pending_bytes >= PENDING_BYTES_MAX {
                self.settle().await?;
            }
        }
    }

    async fn begin(&mut self, request: Request) -> io::Result<bool> {
        match commands::plan(self.server, &mut self.session, &request) {
            Plan::Reply(reply) => self.pending.push(Pending::Reply(reply)),
            Plan::Quit(reply) => {
                self.pending.push(Pending::Reply(reply));
                return Ok(false);
            }
            Plan::Write { key, command } => {
                let slot = cluster::slot(&key);
                if self.leads(Run::Writes, slot).await? {
                    let answer = self.server.propose(&command);
                    self.pending.push(Pending::Write { answer, slot });
                }
            }
            Plan::Read { key } => {
                let slot = cluster::slot(&key);
                if self.leads(Run::Reads, slot).await? {
                    let answer = self.server.read(key);
                    self.pending.push(Pending::Read { answer, slot });
                }
            }
            Plan::Later(reply) => {
                self.settle().await?;
                self.pending.push(Pending::Reply(reply.await));
            }
        }
        Ok(true)
    }

    /// Before a write or read: waits for the other kind to be done, and for a leader to be known. If it is not this node,
    /// the client is told, and `false` is returned.
    async fn leads(&mut self, run: Run, slot: u16) -> io::Result<bool> {
        if self.run != run {
            self.settle().await?;
            self.run = run;
        }
        match self.server.wait_to_lead(slot).await {
            Ok(()) => Ok(true),
            Err(elsewhere) => {
                self.pending.push(Pending::Reply(elsewhere));
                Ok(false)
            }
        }
    }

    /// Waits for all that is under way.
    async fn settle(&mut self) -> io::Result<()> {
        self.run = Run::None;
        self.pending_bytes = 0;
        for pending in std::mem::take(&mut self.pending) {
            let reply = match pending {
                Pending::Reply(reply) => reply,
                Pending::Write { answer, slot } => {
                    match answer.await.unwrap_or(Err(NotDone::Unknown)) {
                        Ok(output) => reply_to_write(output),
                        Err(not_done) => self.server.reply_to_not_done(not_done, slot),
                    }
                }
                Pending::Read { answer, slot } => {
                    match answer.await.unwrap_or(Err(NotDone::Unknown)) {
                        Ok(value) => value.map_or(Reply::Nil, Reply::Bulk),
                        // A read changes nothing, so it may be asked again whatever became of it.
                        Err(NotDone::Unknown) => {
                            Reply::error("TRYAGAIN the read could not be confirmed in time")
                        }
                        Err(not_done) => self.server.reply_to_not_done(not_done, slot),
                    }
                }
            };
            reply.encode(&mut self.output);
            if self.output.len() >= OUTPUT_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        Ok(())
    }
}
