//! What a log has done, in numbers.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::live::ENTRY_BYTES;

/// What a log has done since it was opened, and how it is. See [`Wal::stats`](crate::Wal::stats).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Batches that were submitted, and those that are durable. The log's own are counted too: those that move entries.
    pub batches_submitted: u64,
    /// See `batches_submitted`.
    pub batches_durable: u64,
    /// Batches that wait for a write to begin. Those of the write that is under way are not among them.
    pub batches_queued: u64,
    /// Bytes that were submitted and are not durable, headers and directories included.
    pub in_flight_bytes: u64,
    /// How large each durable batch was, in bytes of payload.
    pub batch_bytes: Histogram,
    /// How long each write took with its syncs, in microseconds.
    pub write_micros: Histogram,
    /// How long each sync of a segment took, in microseconds. A write has one, and one more for each segment it fills.
    pub sync_micros: Histogram,
    /// How many batches each write took.
    pub batches_per_write: Histogram,
    /// Since when a write has been under way, if one is: a sync that hangs shows here.
    pub writing_for: Option<Duration>,
    /// Segment files with entries, and the bytes they take.
    pub segments: u64,
    /// See `segments`.
    pub segment_bytes: u64,
    /// Of `segment_bytes`, what frames take or took; the rest is space that is reserved.
    pub used_bytes: u64,
    /// The payload bytes of entries that are needed.
    pub live_bytes: u64,
    /// Those entries. `dead_share` counts 24 bytes for each beside its payload.
    pub live_entries: u64,
    /// How many groups there are.
    pub groups: u64,
    /// Segments that are full and not sealed yet.
    pub unsealed: u64,
    /// Whether the next segment is ready.
    pub has_next_segment: bool,
    /// Files that wait to become segments, the next segment included, and the bytes they take.
    pub spares: u64,
    /// See `spares`.
    pub spare_bytes: u64,
    /// Entries that were moved, so that an old segment could be freed, and their payloads in bytes.
    pub entries_moved: u64,
    /// See `entries_moved`.
    pub bytes_moved: u64,
    /// Entries of which a scrub, a move or a reader found that they are damaged.
    pub damage_found: u64,
    /// Payload bytes that scrubs have read.
    pub scrubbed_bytes: u64,
    /// Scrubs that went through the whole log, and for how long the last one has been over.
    pub scrubs: u64,
    /// See `scrubs`.
    pub scrubbed_for: Option<Duration>,
    /// Memory that tables of sealed segments take, in bytes.
    pub table_bytes: u64,
    /// For how long the log is durable beyond the last mark in CONTROL, if it is.
    pub unmarked_for: Option<Duration>,
    /// Why the log takes no more writes.
    pub poison: Option<Arc<Error>>,
}

impl Stats {
    /// How much of `used_bytes` nobody needs any more, 0.0 to 1.0: entries that were purged, truncated, replaced or moved,
    /// and, in a small part, headers and directories. 0.0 for a log without entries that was just made.
    pub fn dead_share(&self) -> f64 {
        let needed = self.live_bytes + ENTRY_BYTES * self.live_entries;
        let dead = self.used_bytes.saturating_sub(needed);
        dead as f64 / self.used_bytes.max(1) as f64
    }
}

/// Counts by powers of two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// The n-th counts values from `2^(n-1)` up to but not including `2^n`; the first one zeros.
    buckets: Vec<u64>,
}

impl Histogram {
    pub(crate) fn add(&mut self, value: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// An upper bound, at most twice too high, of the value below which `fraction` (0.0 to 1.0) of the values are. 0 if
    /// there are none.
    pub fn quantile(&self, fraction: f64) -> u64 {
        let wanted = (self.count() as f64 * fraction).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return (1_u64 << bucket.min(63)) - 1;
            }
        }
        0
    }

    /// The number of values by their upper bounds: `(bound, count)`, in ascending order.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let bounds =
            (0..).map(|bucket: u32| 1_u64.checked_shl(bucket).unwrap_or(0).wrapping_sub(1));
        bounds.zip(self.buckets.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_at_most_twice_too_high() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        for value in 0..1000 {
            histogram.add(value);
        }
        assert_eq!(histogram.count(), 1000);
        assert_eq!(histogram.quantile(0.5), 511);
        assert_eq!(histogram.quantile(1.0), 1023);
        assert_eq!(histogram.buckets().next(), Some((0, 1)));
        histogram.add(u64::MAX);
        assert_eq!(histogram.buckets().last(), Some((u64::MAX, 1)));
    }
}
