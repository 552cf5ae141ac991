//! The log as the core sees it (section 5.3), without what a snapshot stands for (section 7).
//!
//! Invariants:
//! * Indexes are consecutive from the one after `base` on; terms never go down.
//! * An index in `bad` is in `entries`, as a placeholder: its id is true, and its payload, which is lost, empty.

use std::collections::{BTreeMap, VecDeque, vec_deque};

use bytes::Bytes;
use duramen_wal::types::{Entry, Index, LogId, Term};

use super::repair::Badness;

#[derive(Debug, Default)]
pub(super) struct Log {
    /// The last entry that a snapshot stands for; zero if there is none.
    base: LogId,
    /// Compaction takes from the front, and must not move what stays.
    entries: VecDeque<Entry>,
    bad: BTreeMap<Index, Badness>,
    /// For each entry, what all entries up to it weigh, from some entry in the past on: so the weight of any range is one
    /// subtraction.
    weights: VecDeque<u64>,
    /// The same for the base.
    base_weight: u64,
}

/// What an entry counts where payload is bounded: its bytes, but one at least, so that blank ones are bounded too.
fn weight(entry: &Entry) -> u64 {
    entry.payload.len().max(1) as u64
}

impl Log {
    pub(super) fn new(base: LogId, entries: Vec<Entry>) -> Log {
        let mut log = Log {
            base,
            entries: VecDeque::with_capacity(entries.len()),
            bad: BTreeMap::new(),
            weights: VecDeque::with_capacity(entries.len()),
            base_weight: 0,
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
        self.entries.back().map_or(self.base, |entry| entry.id)
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

    /// Marks entries as bad, when the log is read from disk.
    pub(super) fn mark_bad(&mut self, bad: BTreeMap<Index, Badness>) {
        for &index in bad.keys() {
            let position = self.position_after_base(index);
            let entry = self.entries.get(position);
            let entry = entry.unwrap_or_else(|| panic!("{index} is bad and not in the log"));
            let placeholder = Entry {
                payload: Bytes::new(), // Whatever it was: nobody is to see it.
                ..entry.clone()
            };
            self.replace(position, placeholder);
        }
        self.bad = bad;
    }

    /// The entries that are bad, in order.
    pub(super) fn bad(&self) -> impl Iterator<Item = (LogId, Badness)> + '_ {
        self.bad_after(Index(0))
    }

    /// The same of those after `index`.
    pub(super) fn bad_after(&self, index: Index) -> impl Iterator<Item = (LogId, Badness)> + '_ {
        let bad = self.bad.range(index.next()..);
        bad.map(|(&index, &badness)| {
            let term = self.term_at(index).expect("what is bad is in the log");
            (LogId { term, index }, badness)
        })
    }

    /// Whether `id` is one of them.
    pub(super) fn is_bad(&self, id: LogId) -> bool {
        self.bad.contains_key(&id.index) && self.holds(id)
    }

    pub(super) fn badness(&self, index: Index) -> Option<Badness> {
        self.bad.get(&index).copied()
    }

    /// Whether one of them may never have been written whole.
    pub(super) fn has_suspects(&self) -> bool {
        self.bad
            .values()
            .any(|badness| *badness == Badness::Suspect)
    }

    pub(super) fn first_bad(&self) -> Option<Index> {
        self.bad.keys().next().copied()
    }

    /// Puts the true content in the place of a bad entry.
    pub(super) fn restore(&mut self, entry: Entry) {
        assert!(self.is_bad(entry.id), "{} is not bad", entry.id);
        let position = self.position_after_base(entry.id.index);
        self.bad.remove(&entry.id.index);
        self.replace(position, entry);
    }

    /// Takes a restored entry back: its true content could not be written.
    pub(super) fn spoil(&mut self, index: Index, badness: Badness) {
        let position = self.position_after_base(index);
        let placeholder = Entry {
            payload: Bytes::new(),
            ..self.entries[position].clone()
        };
        self.replace(position, placeholder);
        self.bad.insert(index, badness);
    }

    fn replace(&mut self, position: usize, entry: Entry) {
        let (before, now) = (weight(&self.entries[position]), weight(&entry));
        self.entries[position] = entry;
        if before != now {
            for up_to in self.weights.range_mut(position..) {
                *up_to = *up_to - before + now;
            }
        }
    }

    /// The entry at `index`, whole or not.
    pub(super) fn entry(&self, index: Index) -> Option<&Entry> {
        self.entries.get(self.position(index)?)
    }

    /// What the entries of `from..=to` weigh; those that are in the snapshot count nothing.
    pub(super) fn weight(&self, from: Index, to: Index) -> u64 {
        self.weight_up_to(to) - self.weight_up_to(from.prev())
    }

    /// The first index from `from` on such that what is after it, up to `to`, weighs at most `bytes_max`.
    pub(super) fn within(&self, from: Index, to: Index, bytes_max: u64) -> Index {
        let may_go = self.weight_up_to(to).saturating_sub(bytes_max);
        let too_early = self.weights.partition_point(|weight| *weight < may_go) as u64;
        let first = match self.base_weight < may_go {
            true => Index(self.first().0 + too_early),
            false => self.base.index,
        };
        from.max(first)
    }

    fn weight_up_to(&self, index: Index) -> u64 {
        match self.position(index) {
            None => self.base_weight,
            Some(at) => self.weights[at],
        }
    }

    /// The entries from `from` on, at most `entries_max`, and no more than `bytes_max` of payload, but at least one if
    /// there is one. It stops before the first bad one.
    pub(super) fn slice(&self, from: Index, entries_max: usize, bytes_max: usize) -> Vec<Entry> {
        let whole = match self.bad.range(from..).next() {
            Some((bad, _)) => (bad.0 - from.0) as usize,
            None => usize::MAX,
        };
        let rest = self.entries.range(self.position_after_base(from)..);
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += weight(entry);
            first || bytes <= bytes_max as u64
        };
        rest.take(entries_max.min(whole))
            .take_while(fits)
            .cloned()
            .collect()
    }

    /// The entries of `from..=to`.
    pub(super) fn range(&self, from: Index, to: Index) -> vec_deque::Iter<'_, Entry> {
        let from = self.position_after_base(from);
        self.entries
            .range(from..self.position_after_base(to.next()))
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
        let before = self.weights.back().copied().unwrap_or(self.base_weight);
        self.weights.push_back(before + weight(&entry));
        self.entries.push_back(entry);
    }

    /// Drops `from` and all after it.
    pub(super) fn truncate(&mut self, from: Index) {
        let kept = self.position_after_base(from);
        self.entries.truncate(kept);
        self.weights.truncate(kept);
        self.bad.split_off(&from);
    }

    /// A snapshot stands for all up to `base`, which is in the log: what is after it stays (section 7).
    pub(super) fn compact(&mut self, base: LogId) {
        assert!(self.holds(base), "{base} is not in the log");
        let gone = self.position(base.index.next()).unwrap_or(0);
        self.base_weight = self.weight_up_to(base.index);
        self.entries.drain(..gone);
        self.weights.drain(..gone);
        self.bad = self.bad.split_off(&base.index.next());
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_range_weighs_what_its_entries_do_also_after_cuts() {
        let entry = |index, bytes| Entry {
            id: LogId {
                term: Term(1),
                index: Index(index),
            },
            payload: Bytes::from(vec![0; bytes]),
            ..Entry::default()
        };
        let mut log = Log::new(LogId::default(), vec![entry(1, 10), entry(2, 0)]);
        log.push(entry(3, 30));
        log.push(entry(4, 40));
        let weight = |log: &Log, from, to| log.weight(Index(from), Index(to));
        assert_eq!([weight(&log, 1, 4), weight(&log, 2, 3)], [81, 31]);
        assert_eq!([weight(&log, 1, 0), weight(&log, 5, 4)], [0, 0]);
        let within = |bytes| log.within(Index(0), Index(4), bytes).0;
        assert_eq!(
            [0, 39, 40, 69, 70, 71, 80, 81, 99].map(within),
            [4, 4, 3, 3, 2, 1, 1, 0, 0]
        );
        assert_eq!(log.within(Index(3), Index(4), 99), Index(3));
        log.truncate(Index(4));
        log.push(entry(4, 5));
        assert_eq!(weight(&log, 1, 4), 46);
        let base = entry(2, 0).id;
        log.compact(base);
        assert_eq!([weight(&log, 3, 4), weight(&log, 1, 4)], [35, 35]);
        log.reset(base);
        log.push(entry(3, 7));
        assert_eq!(weight(&log, 2, 3), 7);
        log.push(entry(4, 8));
        log.mark_bad([(Index(3), Badness::Damaged)].into());
        assert_eq!(weight(&log, 3, 4), 9);
        log.restore(entry(3, 7));
        assert_eq!([weight(&log, 3, 4), weight(&log, 4, 4)], [15, 8]);
    }
}
