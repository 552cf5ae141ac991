//! What a leader knows of one follower: figure 2's nextIndex and matchIndex, and how it sends.

use duramen_wal::types::Index;

use super::message::Round;

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
    /// It has answered since the leader last looked.
    pub(super) is_active: bool,
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
            is_active: true,
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
        prev > self.match_index && expected
    }

    /// The follower does not hold `prev`; try at `next`.
    pub(super) fn rejected(&mut self, prev: Index, next: Index) {
        self.next_index = next.clamp(self.match_index.next(), prev);
        self.mode = Mode::Probe { sent: false };
    }
}
