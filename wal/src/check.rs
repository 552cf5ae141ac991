//! The rules of a log. A batch that breaks one is refused before anything of it is written.

use std::collections::BTreeMap;

use crate::error::Misuse;
use crate::groups::{Group, Groups};
use crate::record::{Record, are_indexes};
use crate::types::{GroupId, HardState, Index, LogId, Term};

/// Checks the records of a batch, in order, without changing the log.
pub(crate) struct Check<'a> {
    groups: &'a Groups,
    ahead: BTreeMap<GroupId, Ahead<'a>>,
}

/// What the records so far would make of a group.
#[derive(Default)]
struct Ahead<'a> {
    now: Option<&'a Group>,
    term: Term,
    purged: LogId,
    /// The entries after `purged` up to here are those of `now`.
    kept: Index,
    /// The terms of the entries after `kept`.
    terms: Vec<Term>,
}

impl<'a> Check<'a> {
    pub(crate) fn new(groups: &'a Groups) -> Check<'a> {
        Check {
            groups,
            ahead: BTreeMap::new(),
        }
    }

    /// Checks a record. Fills in the term of a truncation, which its maker need not know.
    pub(crate) fn record(&mut self, record: &mut Record) -> Result<(), Misuse> {
        let Some(group) = record.group() else {
            return Ok(());
        };
        let now = self.groups.find(group);
        let ahead = self.ahead.entry(group).or_insert_with(|| Ahead {
            now,
            term: now.map_or(Term(0), |group| group.hard_state.term),
            purged: now.map_or(LogId::default(), Group::purged),
            kept: now.map_or(Index(0), |group| group.last().index),
            terms: Vec::new(),
        });
        match record {
            Record::Entries { first, entries, .. } => ahead.entries(*first, entries.len()),
            Record::HardState { hard_state, .. } => ahead.hard_state(*hard_state),
            Record::Truncate { last, .. } => ahead.truncate(last),
            Record::Purge { last, .. } => ahead.purge(*last),
            Record::Remove { .. } => {
                *ahead = Ahead::default();
                Ok(())
            }
            Record::User { .. } | Record::State { .. } | Record::Resume { .. } => Ok(()),
        }
    }
}

impl Ahead<'_> {
    fn last(&self) -> Index {
        Index(self.kept.0 + self.terms.len() as u64)
    }

    fn hard_state(&mut self, hard_state: HardState) -> Result<(), Misuse> {
        let (term, before) = (hard_state.term, self.term);
        if term < before {
            return Err(Misuse::TermBack { term, before });
        }
        self.term = term;
        Ok(())
    }

    fn entries(&mut self, first: LogId, count: usize) -> Result<(), Misuse> {
        let (index, last) = (first.index, self.last());
        if index <= self.purged.index || index > last.next() || !are_indexes(index, count) {
            return Err(Misuse::Gap { index, last });
        }
        let before = self.term_at(index.prev()).unwrap_or(Term(0));
        let term = first.term;
        if term < before {
            return Err(Misuse::TermBack { term, before });
        }
        self.cut_after(index.prev());
        self.terms.extend(std::iter::repeat_n(term, count));
        Ok(())
    }

    fn truncate(&mut self, to: &mut LogId) -> Result<(), Misuse> {
        let (index, last) = (to.index, self.last());
        if !self.is_gone(index) {
            let found = self.term_at(index).filter(|_| index <= last);
            to.term = found.ok_or(Misuse::NoSuchEntry { index, last })?;
        }
        self.cut_after(index);
        Ok(())
    }

    fn purge(&mut self, to: LogId) -> Result<(), Misuse> {
        let (index, last) = (to.index, self.last());
        if index < self.purged.index {
            let before = self.purged.index;
            return Err(Misuse::PurgeBack { index, before });
        }
        if index.0 == u64::MAX {
            return Err(Misuse::NoSuchEntry { index, last }); // Nothing could follow it.
        }
        if index <= last && !self.is_gone(index) {
            let found = self.term_at(index);
            let found = found.ok_or(Misuse::NoSuchEntry { index, last })?;
            if found != to.term {
                let term = to.term;
                return Err(Misuse::WrongTerm { index, term, found });
            }
        }
        self.purged = to;
        if index > self.kept {
            let gone = (index.0 - self.kept.0).min(self.terms.len() as u64);
            self.terms.drain(..gone as usize);
            self.kept = index;
        }
        Ok(())
    }

    fn cut_after(&mut self, last: Index) {
        self.kept = self.kept.min(last);
        self.terms.truncate((last.0 - self.kept.0) as usize);
    }

    /// Whether an entry is there whose term is not known: only when a log is replayed.
    fn is_gone(&self, index: Index) -> bool {
        let is_there = index > self.purged.index && index <= self.kept;
        is_there && self.now.is_some_and(|group| group.is_gone(index))
    }

    /// The term of an entry that is there, or at the purge point.
    fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.purged.index {
            return Some(self.purged.term);
        }
        if index < self.purged.index {
            return None;
        }
        match index.0.checked_sub(self.kept.0 + 1) {
            Some(at) => self.terms.get(at as usize).copied(),
            None => self.now?.term_at(index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::EntryMeta;
    use crate::types::Context;

    const GROUP: GroupId = GroupId(1);

    fn log_id(term: u64, index: u64) -> LogId {
        LogId {
            term: Term(term),
            index: Index(index),
        }
    }

    fn entry(index: u64, term: u64) -> Record {
        let meta = EntryMeta {
            payload_bytes: 0,
            checksum: 0,
        };
        Record::Entries {
            group: GROUP,
            first: log_id(term, index),
            context: Context::EMPTY,
            entries: vec![meta],
        }
    }

    fn entries(ids: &[(u64, u64)]) -> Vec<Record> {
        ids.iter()
            .map(|&(index, term)| entry(index, term))
            .collect()
    }

    fn check(records: impl IntoIterator<Item = Record>) -> Result<(), Misuse> {
        let groups = Groups::default();
        let mut check = Check::new(&groups);
        records
            .into_iter()
            .try_for_each(|mut record| check.record(&mut record))
    }

    #[test]
    fn entries_follow_each_other() {
        assert_eq!(check(entries(&[(1, 1), (2, 1), (3, 4)])), Ok(()));
        let gap = |index, last| Misuse::Gap {
            index: Index(index),
            last: Index(last),
        };
        assert_eq!(check(entries(&[(2, 1)])), Err(gap(2, 0)));
        assert_eq!(check(entries(&[(0, 1)])), Err(gap(0, 0)));
        assert_eq!(
            check(entries(&[(1, 1), (u64::MAX, 1)])),
            Err(gap(u64::MAX, 1))
        );
    }

    #[test]
    fn terms_do_not_go_back_also_where_a_batch_replaces_its_own_entries() {
        let back = |term, before| Misuse::TermBack {
            term: Term(term),
            before: Term(before),
        };
        assert_eq!(check(entries(&[(1, 2), (2, 1)])), Err(back(1, 2)));
        assert_eq!(check(entries(&[(1, 2), (2, 3), (2, 2), (3, 2)])), Ok(()));
        assert_eq!(
            check(entries(&[(1, 2), (2, 3), (3, 3), (2, 1)])),
            Err(back(1, 2))
        );
        assert_eq!(check(entries(&[(1, 2), (2, 3), (1, 1), (2, 1)])), Ok(()));
    }

    #[test]
    fn purges_and_truncations_go_where_entries_are_or_past_the_end() {
        let purge = |term, index| Record::Purge {
            group: GROUP,
            last: log_id(term, index),
        };
        let truncate = |index| Record::Truncate {
            group: GROUP,
            last: log_id(0, index),
        };
        let log = || entries(&[(1, 1), (2, 1), (3, 2)]);
        let with = |more: Vec<Record>| check(log().into_iter().chain(more));
        assert_eq!(
            with(vec![purge(1, 2), entry(4, 2), truncate(3), entry(4, 3)]),
            Ok(())
        );
        assert_eq!(with(vec![purge(7, 9), entry(10, 7)]), Ok(()));
        assert_eq!(with(vec![purge(2, 3), truncate(3), entry(4, 2)]), Ok(()));
        for (more, misuse) in [
            (
                vec![purge(2, 2)],
                Misuse::WrongTerm {
                    index: Index(2),
                    term: Term(2),
                    found: Term(1),
                },
            ),
            (
                vec![purge(1, 2), purge(1, 1)],
                Misuse::PurgeBack {
                    index: Index(1),
                    before: Index(2),
                },
            ),
            (
                vec![purge(1, 2), entry(2, 1)],
                Misuse::Gap {
                    index: Index(2),
                    last: Index(3),
                },
            ),
            (
                vec![purge(7, 9), entry(10, 6)],
                Misuse::TermBack {
                    term: Term(6),
                    before: Term(7),
                },
            ),
            (
                vec![truncate(4)],
                Misuse::NoSuchEntry {
                    index: Index(4),
                    last: Index(3),
                },
            ),
            (
                vec![purge(1, 2), truncate(1)],
                Misuse::NoSuchEntry {
                    index: Index(1),
                    last: Index(3),
                },
            ),
        ] {
            assert_eq!(with(more), Err(misuse));
        }
    }
}
