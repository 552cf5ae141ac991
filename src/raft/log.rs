//! The log as the core sees it (section 5.3).
//!
//! Invariants: entry `i` is at position `i - 1`; indexes are consecutive from 1; terms never go down.

use duramen_wal::types::{Entry, Index, LogId, Term};

#[derive(Debug, Default)]
pub(super) struct Log {
    entries: Vec<Entry>,
}

impl Log {
    pub(super) fn new(entries: Vec<Entry>) -> Log {
        let mut log = Log::default();
        for entry in entries {
            log.push(entry);
        }
        log
    }

    /// The LogId of the last entry; zero if there is none.
    pub(super) fn last(&self) -> LogId {
        self.entries
            .last()
            .map_or(LogId::default(), |entry| entry.id)
    }

    /// The term of the entry at `index`; term 0 at index 0, so that the consistency check holds there.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == Index(0) {
            return Some(Term(0));
        }
        let at = usize::try_from(index.0 - 1).ok()?;
        self.entries.get(at).map(|entry| entry.id.term)
    }

    /// Whether the log holds `id`. By the Log Matching property it then equals the other log up to there.
    pub(super) fn holds(&self, id: LogId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The entries from `from` on, at most `entries_max`, and no more than `bytes_max` of payload, but at least one if
    /// there is one.
    pub(super) fn slice(&self, from: Index, entries_max: usize, bytes_max: usize) -> Vec<Entry> {
        let rest = &self.entries[(from.0 - 1) as usize..];
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
        &self.entries[(from.0 - 1) as usize..to.0 as usize]
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
        self.entries.truncate((from.0 - 1) as usize);
    }

    /// The first index of the entries whose term is `term` or later; one past the end if there is none.
    pub(super) fn first_of(&self, term: Term) -> Index {
        Index(self.entries.partition_point(|entry| entry.id.term < term) as u64 + 1)
    }

    /// The last index of the entries whose term is `term`, if there are any.
    pub(super) fn last_of(&self, term: Term) -> Option<Index> {
        let last = Index(self.entries.partition_point(|entry| entry.id.term <= term) as u64);
        (last != Index(0) && self.term_at(last) == Some(term)).then_some(last)
    }
}
