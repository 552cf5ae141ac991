//! The log as the core sees it (section 5.3), without what a snapshot stands for (section 7).
//!
//! Invariants: indexes are consecutive from the one after `base` on; terms never go down.

use duramen_wal::types::{Entry, Index, LogId, Term};

#[derive(Debug, Default)]
pub(super) struct Log {
    /// The last entry that a snapshot stands for; zero if there is none.
    base: LogId,
    entries: Vec<Entry>,
}

impl Log {
    pub(super) fn new(base: LogId, entries: Vec<Entry>) -> Log {
        let mut log = Log {
            base,
            entries: Vec::with_capacity(entries.len()),
        };
        for entry in entries {
            log.push(entry);
        }
        log
    }

    /// The last entry that is not here any more, since a snapshot has it.
    pub(super) fn base(&self) -> LogId {
        self.base
    }

    /// The LogId of the last entry; that of the base if there is none.
    pub(super) fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// Where the entry at `index` is, if it is after the base; past the end too.
    fn position(&self, index: Index) -> Option<usize> {
        let after_base = index.0.checked_sub(self.base.index.next().0)?;
        usize::try_from(after_base).ok()
    }

    /// The same for an index that is known to be after the base.
    fn position_after_base(&self, index: Index) -> usize {
        let position = self.position(index);
        position.unwrap_or_else(|| panic!("{index} is in the snapshot up to {}", self.base))
    }

    /// The term of the entry at `index`, also at the base: there the consistency check holds.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let entry = self.entries.get(self.position(index)?)?;
        Some(entry.id.term)
    }

    /// Whether the log holds `id`. By the Log Matching property it then equals the other log up to there.
    pub(super) fn holds(&self, id: LogId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The entries from `from` on, at most `entries_max`, and no more than `bytes_max` of payload, but at least one if
    /// there is one.
    pub(super) fn slice(&self, from: Index, entries_max: usize, bytes_max: usize) -> Vec<Entry> {
        let rest = &self.entries[self.position_after_base(from)..];
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.payload.len().max(1);
            first || bytes <= bytes_max
        };
        rest.iter()
            .take(entries_max)
            .take_while(fits)
            .cloned()
            .collect()
    }

    /// The entries of `from..=to`.
    pub(super) fn range(&self, from: Index, to: Index) -> &[Entry] {
        let from = self.position_after_base(from);
        &self.entries[from..self.position_after_base(to.next())]
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let last = self.last();
        assert!(
            entry.id.index == last.index.next(),
            "gap: {last} then {}",
            entry.id
        );
        assert!(
            entry.id.term >= last.term,
            "term goes back: {last} then {}",
            entry.id
        );
        self.entries.push(entry);
    }

    /// Drops `from` and all after it.
    pub(super) fn truncate(&mut self, from: Index) {
        self.entries.truncate(self.position_after_base(from));
    }

    /// A snapshot stands for all up to `base`, which is in the log: what is after it stays (section 7).
    pub(super) fn compact(&mut self, base: LogId) {
        assert!(self.holds(base), "{base} is not in the log");
        let kept = self.position(base.index.next()).unwrap_or(0);
        self.entries.drain(..kept);
        self.base = base;
    }

    /// A snapshot stands for the whole log.
    pub(super) fn reset(&mut self, base: LogId) {
        *self = Log::new(base, Vec::new());
    }

    fn first(&self) -> Index {
        self.base.index.next()
    }

    /// The first index of the entries whose term is `term` or later; one past the end if there is none.
    pub(super) fn first_of(&self, term: Term) -> Index {
        let before = self.entries.partition_point(|entry| entry.id.term < term);
        Index(self.first().0 + before as u64)
    }

    /// The last index of the entries whose term is `term`, if there are any; the base too.
    pub(super) fn last_of(&self, term: Term) -> Option<Index> {
        let up_to = self.entries.partition_point(|entry| entry.id.term <= term);
        let last = Index(self.base.index.0 + up_to as u64);
        (last != Index(0) && self.term_at(last) == Some(term)).then_some(last)
    }
}
