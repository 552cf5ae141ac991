//! What a leader knows of one follower: figure 2's nextIndex and matchIndex, and how it sends.

use duramen_wal::types::Index;

use super::message::Round;
use crate::canary::planted;

/// Invariant: `match_index < next_index`.
#[derive(Debug)]
pub(super) struct Progress {
    /// The follower's log is known to equal the leader's up to here, durably.
    pub(super) match_index: Index,
    /// The next entry to send.
    pub(super) next_index: Index,
    pub(super) mode: Mode,
    /// The latest round of reads the follower has answered.
    pub(super) round: Round,
    /// Ticks since it answered.
    pub(super) silent: u32,
}

/// How entries are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Where the logs agree is not known: one message at a time, until one is accepted.
    Probe {
        /// Whether that message is under way.
        sent: bool,
    },
    /// It lacks entries that are in a snapshot only, which was offered so many ticks ago.
    Snapshot {
        /// 0: it is to be offered.
        offered: u32,
        /// The end of the snapshot that it may be installing; 0 if none was offered. Newer ones may have been offered since: who
        /// has begun with one may well go on with it.
        last: Index,
    },
    /// The logs agree up to `match_index`: messages follow each other without waiting for the replies.
    Replicate,
}

impl Progress {
    /// At the start of a term (figure 2, "Volatile state on leaders").
    pub(super) fn new(last: Index) -> Progress {
        Progress {
            match_index: Index(0),
            next_index: last.next(),
            mode: Mode::Probe { sent: false },
            round: Round(0),
            silent: 0,
        }
    }

    /// One unit of time has passed. Makes an offer due again that was made `offer_ticks` ago.
    pub(super) fn tick(&mut self, offer_ticks: u32) {
        self.silent = self.silent.saturating_add(1);
        if let Mode::Snapshot {
            offered: offered @ 1..,
            ..
        } = &mut self.mode
        {
            *offered = if *offered >= offer_ticks {
                0
            } else {
                *offered + 1
            };
        }
    }

    /// Whether it has answered within so many ticks.
    pub(super) fn is_active(&self, ticks: u32) -> bool {
        self.silent <= ticks
    }

    /// The snapshot that ends at `newest` is to be offered to it. Says whether it is due.
    pub(super) fn take_due_offer(&mut self, newest: Index, base: Index) -> bool {
        let Mode::Snapshot {
            offered: offered @ 0,
            last,
        } = &mut self.mode
        else {
            return false;
        };
        *offered = 1;
        if *last < base {
            *last = newest; // What followed an earlier one is gone.
        }
        true
    }

    /// It will need what is after this index, as far as is known.
    pub(super) fn needs_after(&self) -> Option<Index> {
        match self.mode {
            Mode::Snapshot { last, .. } => Some(last).filter(|last| *last > Index(0)),
            Mode::Probe { .. } | Mode::Replicate => Some(self.match_index),
        }
    }

    /// The follower accepted everything up to `index`. A reply may be overtaken by a later one, so nothing goes back.
    pub(super) fn matched(&mut self, index: Index) {
        self.match_index = self.match_index.max(index);
        self.next_index = self.next_index.max(self.match_index.next());
        self.mode = Mode::Replicate;
    }

    /// Whether a rejection of `prev` is news: not one that a later success has overtaken, nor one for a message that is
    /// no longer the one waited for.
    pub(super) fn is_fresh_rejection(&self, prev: Index) -> bool {
        let expected = match self.mode {
            Mode::Probe { .. } => prev == self.next_index.prev(),
            Mode::Replicate => prev < self.next_index,
            Mode::Snapshot { .. } => false,
        };
        (prev > self.match_index || planted("stale_rejection_counts")) && expected
    }

    /// The follower does not hold `prev`; try at `next`.
    pub(super) fn rejected(&mut self, prev: Index, next: Index) {
        let least = match planted("stale_rejection_counts") {
            true => Index(1),
            false => self.match_index.next(),
        };
        self.next_index = next.clamp(least, prev.max(least));
        self.mode = Mode::Probe { sent: false };
    }
}
