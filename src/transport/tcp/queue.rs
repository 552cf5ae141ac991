//! What waits to be sent to a peer. It is bounded in messages and in bytes: a peer that takes nothing costs no more.
//!
//! While nothing waits, whoever has a short message writes it into the connection itself: to wake the task that sends takes longer
//! than to send.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BytesMut};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use crate::boot::Boot;
use crate::raft::{Answer, Answers, Message};
use crate::transport::codec::put_packet;
use crate::transport::{Fetch, Packet};

const MESSAGES_MAX: usize = 1024;
/// Twice what a leader has under way to a follower, if it is not told otherwise.
pub(super) const BYTES_MAX: usize = 32 << 20;
/// Messages that wait together are written together.
const WRITE_BYTES: usize = 256 << 10;
/// To copy more into the system's buffers would hold up the node.
const SHORT_BYTES_MAX: usize = 16 << 10;
/// What a message takes beside payloads.
const OVERHEAD_BYTES: usize = 64;

/// A queue, and its two ends.
pub(super) fn queue() -> (Queue, Queued) {
    let shared = Arc::new(Shared::default());
    (Queue(shared.clone()), Queued(shared))
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to send, or there will be nothing more.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Packet>,
    /// What they weigh.
    bytes: usize,
    /// The connection, while nothing waits.
    idle: Option<Arc<OwnedWriteHalf>>,
    /// What it did not take of a short message.
    rest: BytesMut,
    /// One of the two ends has gone.
    is_closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.idle = None;
        drop(state);
        self.changed.notify_one();
    }
}

impl State {
    /// Writes a short message, if nothing else is to be sent before it. Says whether that was so; what the connection does not take, or
    /// that it is broken, is for the task.
    fn write_at_once(&mut self, packet: &Packet) -> bool {
        let Some(connection) = &self.idle else {
            return false;
        };
        if weight(packet) > SHORT_BYTES_MAX {
            return false;
        }
        put_packet(&mut self.rest, packet);
        match connection.try_write(&self.rest) {
            Ok(written) if written == self.rest.len() => self.rest.clear(),
            Ok(written) => self.rest.advance(written),
            Err(_) => {}
        }
        true
    }
}

/// Where messages are put.
#[derive(Debug)]
pub(super) struct Queue(Arc<Shared>);

impl Queue {
    /// Puts a message into it, or loses it if the queue is full. One goes into an empty queue however large it is.
    pub(super) fn put(&self, packet: Packet) {
        let mut state = self.0.lock();
        if state.write_at_once(&packet) {
            if state.rest.is_empty() {
                return;
            }
        } else {
            let bytes = state.bytes + weight(&packet);
            let is_full = state.bytes > 0 && bytes > BYTES_MAX;
            if is_full || state.waiting.len() >= MESSAGES_MAX || state.is_closed {
                return;
            }
            state.bytes = bytes;
            state.waiting.push_back(packet);
        }
        state.idle = None;
        drop(state);
        self.0.changed.notify_one();
    }

    /// Nobody takes anything out any more.
    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().is_closed
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Where they are taken.
#[derive(Debug)]
pub(super) struct Queued(Arc<Shared>);

impl Queued {
    /// Waits until there is something to send, and puts it into `buf`. Meanwhile short messages go into the connection `idle`, if
    /// there is one. Says whether there will be anything.
    pub(super) async fn next(
        &mut self,
        buf: &mut BytesMut,
        idle: Option<&Arc<OwnedWriteHalf>>,
    ) -> bool {
        loop {
            {
                let mut state = self.0.lock();
                take(&mut state, buf);
                if !buf.is_empty() {
                    return true;
                }
                if state.is_closed {
                    return false;
                }
                state.idle = idle.cloned();
            }
            self.0.changed.notified().await;
        }
    }

    /// The connection is not used any more. The message of which it has a part is lost.
    pub(super) fn detach(&mut self) {
        let mut state = self.0.lock();
        state.idle = None;
        state.rest.clear();
    }

    /// Loses what waits.
    pub(super) fn clear(&mut self) {
        let mut state = self.0.lock();
        state.waiting.clear();
        state.bytes = 0;
    }

    /// Nobody puts anything in any more.
    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().is_closed
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn take(state: &mut State, buf: &mut BytesMut) {
    state.idle = None;
    buf.extend_from_slice(&state.rest);
    state.rest.clear();
    while buf.len() < WRITE_BYTES
        && let Some(packet) = state.waiting.pop_front()
    {
        state.bytes -= weight(&packet);
        put_packet(buf, &packet);
    }
}

/// Writes all of it into the connection.
pub(super) async fn write_all(connection: &OwnedWriteHalf, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        connection.writable().await?;
        match connection.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// About how many bytes a message holds in memory.
fn weight(packet: &Packet) -> usize {
    let payload = match packet {
        Packet::Raft(envelope) => match &envelope.message {
            Message::Append { entries, .. } => entries
                .iter()
                .map(|entry| entry.payload.len() + OVERHEAD_BYTES)
                .sum(),
            Message::InstallSnapshot { manifest, .. } => manifest.len(),
            Message::Entries(answers) => answers_weight(answers),
            _ => 0,
        },
        Packet::Fetch { fetch, .. } => match fetch {
            Fetch::Manifest { bytes, .. } | Fetch::Chunk { bytes, .. } => bytes.len(),
            Fetch::AskChunks { chunks } => chunks.len() * size_of::<crate::transport::Hash>(),
            Fetch::AskManifest { .. } | Fetch::Gone { .. } | Fetch::Taken { .. } => 0,
        },
        Packet::Boots { boots, .. } => boots.len() * size_of::<(u128, Boot)>(),
    };
    payload + OVERHEAD_BYTES
}

fn answers_weight(answers: &Answers) -> usize {
    let entries = answers.entries.iter().map(|answer| match answer {
        Answer::Have(entry) => entry.payload.len() + OVERHEAD_BYTES,
        _ => OVERHEAD_BYTES,
    });
    entries.sum()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use duramen_wal::NodeId;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::transport::codec::{BODY_BYTES_MAX, decode_packet, take_frame};

    fn chunk(bytes: usize) -> Packet {
        Packet::Fetch {
            from: NodeId(1),
            to: NodeId(2),
            fetch: Fetch::Chunk {
                chunk: [0; 32],
                bytes: vec![7; bytes].into(),
            },
        }
    }

    #[test]
    fn a_queue_that_nobody_empties_is_bounded_in_bytes() {
        let (queue, mut queued) = queue();
        for _ in 0..100 {
            queue.put(chunk(1 << 20));
        }
        let waiting = || queue.0.lock().waiting.len();
        assert_eq!(waiting(), 31, "each a little more than a MiB");
        queued.clear();
        queue.put(chunk(1 << 20));
        assert_eq!(waiting(), 1, "there is room again");
    }

    #[test]
    fn a_queue_is_bounded_in_messages_and_one_message_may_have_any_size() {
        let (queue, mut queued) = queue();
        queue.put(chunk(2 * BYTES_MAX));
        queue.put(chunk(0));
        let waiting = || queue.0.lock().waiting.len();
        assert_eq!(waiting(), 1, "there was no room for the second");
        queued.clear();
        for _ in 0..2 * MESSAGES_MAX {
            queue.put(chunk(0));
        }
        assert_eq!(waiting(), MESSAGES_MAX);
        let mut buf = BytesMut::new();
        take(&mut queue.0.lock(), &mut buf);
        let state = queue.0.lock();
        assert_eq!((state.waiting.len(), state.bytes), (0, 0));
    }

    async fn connection() -> (Arc<OwnedWriteHalf>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (_, outgoing) = stream.unwrap().into_split();
        (Arc::new(outgoing), listener.accept().await.unwrap().0)
    }

    /// As the task that sends does while there is nothing to send.
    async fn wait_in_vain(queued: &mut Queued, idle: &Arc<OwnedWriteHalf>) {
        let mut buf = BytesMut::new();
        let mut next = pin!(queued.next(&mut buf, Some(idle)));
        let polled = poll_fn(|context| Poll::Ready(next.as_mut().poll(context))).await;
        assert!(polled.is_pending(), "nothing is there");
    }

    /// Reads messages, and gives the lengths of their chunks.
    async fn lengths(stream: &mut TcpStream, buf: &mut BytesMut, count: usize) -> Vec<usize> {
        let mut lengths = Vec::new();
        while lengths.len() < count {
            match take_frame(buf, BODY_BYTES_MAX).unwrap() {
                Some(body) => match decode_packet(body).unwrap() {
                    Packet::Fetch {
                        fetch: Fetch::Chunk { bytes, .. },
                        ..
                    } => lengths.push(bytes.len()),
                    other => panic!("{other:?}"),
                },
                None => assert!(stream.read_buf(buf).await.unwrap() > 0),
            }
        }
        lengths
    }

    #[tokio::test]
    async fn while_nothing_waits_a_short_message_needs_no_task() {
        let (queue, mut queued) = queue();
        let (outgoing, mut stream) = connection().await;
        let mut received = BytesMut::new();
        wait_in_vain(&mut queued, &outgoing).await;
        queue.put(chunk(5));
        assert_eq!(lengths(&mut stream, &mut received, 1).await, [5]);
        queue.put(chunk(SHORT_BYTES_MAX));
        queue.put(chunk(6));
        assert_eq!(queue.0.lock().waiting.len(), 2, "not before a long one");
        queued.detach();
        assert!(queue.0.lock().idle.is_none());
    }

    #[tokio::test]
    async fn what_a_connection_does_not_take_at_once_follows_in_order() {
        let (queue, mut queued) = queue();
        let (outgoing, mut stream) = connection().await;
        let (mut buf, mut received) = (BytesMut::new(), BytesMut::new());
        wait_in_vain(&mut queued, &outgoing).await;
        let mut put = Vec::new();
        while queue.0.lock().waiting.len() < 10 {
            put.push(10_000 + put.len());
            queue.put(chunk(10_000 + put.len() - 1));
        }
        assert!(!queue.0.lock().rest.is_empty(), "a part of one was written");
        let sends = async {
            assert!(queued.next(&mut buf, Some(&outgoing)).await);
            write_all(&outgoing, &buf).await.unwrap();
        };
        let (lengths, ()) = tokio::join!(lengths(&mut stream, &mut received, put.len()), sends);
        assert_eq!(lengths, put);
    }
}
