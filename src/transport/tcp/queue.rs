//! What waits to be sent to a peer. It is bounded in messages and in bytes: a peer that takes nothing costs no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::raft::{Answer, Answers, Message};
use crate::transport::{Fetch, Packet};

const MESSAGES_MAX: usize = 1024;
/// Twice what a leader has under way to a follower, if it is not told otherwise.
pub(super) const BYTES_MAX: usize = 32 << 20;
/// What a message takes beside payloads.
const OVERHEAD_BYTES: usize = 64;

/// A queue, and its two ends.
pub(super) fn queue() -> (Queue, Queued) {
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    let bytes = Arc::new(AtomicUsize::new(0));
    let queue = Queue {
        sender,
        bytes: bytes.clone(),
    };
    (queue, Queued { receiver, bytes })
}

/// Where messages are put.
#[derive(Debug)]
pub(super) struct Queue {
    sender: mpsc::Sender<Packet>,
    bytes: Arc<AtomicUsize>,
}

impl Queue {
    /// Puts a message into it, or loses it if the queue is full. One goes into an empty queue however large it is.
    pub(super) fn put(&self, packet: Packet) {
        let more = weight(&packet);
        let queued = self.bytes.load(Ordering::Relaxed); // Only this end makes it more.
        if queued > 0 && queued + more > BYTES_MAX {
            return;
        }
        self.bytes.fetch_add(more, Ordering::Relaxed);
        if self.sender.try_send(packet).is_err() {
            self.bytes.fetch_sub(more, Ordering::Relaxed);
        }
    }

    /// Nobody takes anything out any more.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// Where they are taken.
#[derive(Debug)]
pub(super) struct Queued {
    receiver: mpsc::Receiver<Packet>,
    bytes: Arc<AtomicUsize>,
}

impl Queued {
    /// The next one. `None` if there will be none.
    pub(super) async fn next(&mut self) -> Option<Packet> {
        let packet = self.receiver.recv().await;
        packet.inspect(|packet| self.took(packet))
    }

    /// The next one, if it is there.
    pub(super) fn try_next(&mut self) -> Option<Packet> {
        let packet = self.receiver.try_recv().ok();
        packet.inspect(|packet| self.took(packet))
    }

    fn took(&self, packet: &Packet) {
        self.bytes.fetch_sub(weight(packet), Ordering::Relaxed);
    }

    /// Nobody puts anything in any more.
    pub(super) fn is_closed(&self) -> bool {
        self.receiver.is_closed()
    }
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
    use duramen_wal::NodeId;

    use super::*;

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
        let mut taken = 0;
        while queued.try_next().is_some() {
            taken += 1;
        }
        assert_eq!(taken, 31, "each a little more than a MiB");
        queue.put(chunk(1 << 20));
        assert!(queued.try_next().is_some(), "there is room again");
    }

    #[test]
    fn a_queue_is_bounded_in_messages_and_one_message_may_have_any_size() {
        let (queue, mut queued) = queue();
        queue.put(chunk(2 * BYTES_MAX));
        queue.put(chunk(0));
        assert!(queued.try_next().is_some());
        assert!(queued.try_next().is_none(), "there was no room for it");
        for _ in 0..2 * MESSAGES_MAX {
            queue.put(chunk(0));
        }
        let mut taken = 0;
        while queued.try_next().is_some() {
            taken += 1;
        }
        assert_eq!(taken, MESSAGES_MAX);
        assert_eq!(queue.bytes.load(Ordering::Relaxed), 0);
    }
}
