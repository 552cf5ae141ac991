//! A bad network: messages are lost, doubled, late and out of order, and links are cut one way.
//!
//! Nodes introduce themselves before the first message of a connection, as they do over TCP. A connection ends with either
//! process; messages that are under way still arrive, also at a process that was started meanwhile.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use duramen_wal::NodeId;

use crate::node::{AppendOutcome, Fetch, Message, Packet};

/// How bad a network is, in percent unless said.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Messages that are lost.
    pub lost: u32,
    /// Messages that come twice.
    pub doubled: u32,
    /// The longest time that a message is under way, in milliseconds. It is drawn for each, so they overtake each other.
    pub delay_millis: u64,
    /// Messages that take up to two seconds more.
    pub late: u32,
}

/// What went over the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages that ask for something; the others answer them.
    pub requests: u64,
    /// Of all messages, in bytes: payloads, and what stands around them, about.
    pub bytes: u64,
    /// Snapshots that were offered.
    pub offers: u64,
    /// Rejections of entries that do not follow the follower's log.
    pub rejections: u64,
}

const LATE_MILLIS: u64 = 2000;

/// A message on its way: when it arrives, in microseconds, and which one it is.
type Arrival = Reverse<(u64, u64)>;

#[derive(Default)]
pub(super) struct SimNetwork {
    pub(super) faults: Faults,
    pub(super) traffic: Traffic,
    arrivals: BinaryHeap<Arrival>,
    on_the_way: BTreeMap<u64, Packet>,
    sent: u64,
    /// Links that are cut, one way.
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl SimNetwork {
    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    pub(super) fn mend(&mut self, from: NodeId, to: NodeId) {
        self.cut.remove(&(from, to));
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(super) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Takes a message on its way, or loses it.
    pub(super) fn send(&mut self, rng: &mut fastrand::Rng, now: u64, packet: &Packet) {
        self.traffic.note(packet);
        let copies = match rng.u32(..100) {
            drawn if drawn < self.faults.lost => 0,
            drawn if drawn < self.faults.lost + self.faults.doubled => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let is_late = rng.u32(..100) < self.faults.late;
            let millis = self.faults.delay_millis.max(1) + if is_late { LATE_MILLIS } else { 0 };
            let delay = rng.u64(100..=millis * 1000);
            self.sent += 1;
            self.arrivals.push(Reverse((now + delay, self.sent)));
            self.on_the_way.insert(self.sent, packet.clone());
        }
    }

    /// The next message that has arrived by now.
    pub(super) fn arrived(&mut self, now: u64) -> Option<Packet> {
        let Reverse((at, number)) = *self.arrivals.peek()?;
        if at > now {
            return None;
        }
        self.arrivals.pop();
        self.on_the_way.remove(&number)
    }
}

/// What stands around a payload between nodes.
const OVERHEAD_BYTES: usize = 33;

impl Traffic {
    fn note(&mut self, packet: &Packet) {
        let mut bytes = OVERHEAD_BYTES;
        match packet {
            Packet::Raft(envelope) => match &envelope.message {
                Message::Append { entries, .. } => {
                    self.requests += 1;
                    let payloads = entries.iter().map(|entry| entry.payload.len() + 13);
                    bytes += 36 + payloads.sum::<usize>();
                }
                Message::InstallSnapshot { manifest, .. } => {
                    self.requests += 1;
                    self.offers += 1;
                    bytes += manifest.len();
                }
                Message::RequestVote { .. } | Message::PreVote { .. } | Message::TimeoutNow => {
                    self.requests += 1;
                }
                Message::AppendReply { outcome, .. } => {
                    bytes += 33;
                    self.rejections += u64::from(matches!(outcome, AppendOutcome::Conflict { .. }));
                }
                _ => {}
            },
            Packet::Fetch { fetch, .. } => match fetch {
                Fetch::AskManifest { .. } | Fetch::AskChunks { .. } => self.requests += 1,
                Fetch::Manifest { bytes: piece, .. } | Fetch::Chunk { bytes: piece, .. } => {
                    bytes += piece.len();
                }
                Fetch::Gone { .. } | Fetch::Taken { .. } => {}
            },
            Packet::Boots { boots, .. } => bytes += 32 * boots.len(),
        }
        self.bytes += bytes as u64;
    }
}
