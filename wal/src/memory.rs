//! Batches in memory: those that are not durable yet, and as many of the last ones that are as a budget allows, for readers.
//!
//! Invariants: batches are in the order of submission; those that are written have their places and come first.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::writer::{Body, Written};

#[derive(Default)]
pub(crate) struct Memory {
    held: VecDeque<Held>,
    /// How many of them are written, and the bytes of their payloads.
    written: usize,
    written_bytes: u64,
    bytes_max: u64,
}

struct Held {
    body: Arc<Body>,
    place: Option<Written>,
}

impl Memory {
    pub(crate) fn new(bytes_max: u64) -> Memory {
        Memory {
            bytes_max,
            ..Memory::default()
        }
    }

    pub(crate) fn push(&mut self, body: Arc<Body>) {
        let last = self.held.back().map(|held| held.body.next_number());
        assert!(
            last.is_none_or(|last| last == body.number),
            "entry {} after {last:?}",
            body.number,
        );
        let place = None;
        self.held.push_back(Held { body, place });
    }

    /// The payload of the entry with this number, if it is here; empty if the entry is lost.
    pub(crate) fn numbered(&self, number: u64) -> Option<Bytes> {
        if number < self.held.front()?.body.number {
            return None; // Most reads are of older entries.
        }
        let after = self.held.partition_point(|held| held.body.number <= number);
        let body = &self.held.get(after.checked_sub(1)?)?.body;
        let at = (number - body.number) as usize;
        body.payloads.get(at).cloned()
    }

    /// The oldest batches that were not written are, at these places.
    pub(crate) fn written(&mut self, places: &[Written]) {
        for (held, place) in self.held.range_mut(self.written..).zip(places) {
            held.place = Some(*place);
            self.written_bytes += held.body.sizes.payloads;
        }
        self.written += places.len();
        while self.written > 0 && self.written_bytes > self.bytes_max {
            let oldest = self.held.pop_front().expect("some are written");
            self.written_bytes -= oldest.body.sizes.payloads;
            self.written -= 1;
        }
    }

    /// The payload of `len` bytes, not 0, that is written at this place, if it is here. For those that have no number any more.
    pub(crate) fn recent(&self, segment: u64, offset: u64, len: u32) -> Option<Bytes> {
        let wanted = Some(Written { segment, offset });
        if self.held.front()?.place > wanted {
            return None; // Most reads are of older entries.
        }
        let after = self
            .held
            .partition_point(|held| held.place <= wanted && held.place.is_some());
        // Batches without payloads share their place with the next one.
        let held = self.held.get(after.checked_sub(1)?)?;
        let mut at = held.place?;
        for payload in &held.body.payloads {
            if Some(at) == wanted && payload.len() == len as usize {
                return Some(payload.clone());
            }
            at.offset += payload.len() as u64;
        }
        None
    }

    /// The last so many batches will never be written.
    pub(crate) fn forget(&mut self, batches: usize) {
        let kept = self.held.len() - batches;
        assert!(
            kept >= self.written,
            "{} are written, {kept} are kept",
            self.written
        );
        self.held.truncate(kept);
    }
}
