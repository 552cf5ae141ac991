//! The rules of a log. A batch that breaks one is refused before anything of it is written.

use crate::error::Misuse;
use crate::group::{Group, Place};
use crate::record::{How, Record, Run, are_indexes};
use crate::types::{HardState, Index, LogId, Term};

impl Group {
    /// Checks what a record would do to the group. Fills in the term of a truncation, which its maker need not know.
    pub(crate) fn check(&self, record: &mut Record) -> Result<(), Misuse> {
        match record {
            Record::Entries(run) if run.how == How::Appended => {
                self.check_entries(run.first, run.count)
            }
            Record::Entries(run) => self.check_moved(run),
            Record::HardState { hard_state, .. } => self.check_hard_state(*hard_state),
            Record::Truncate { last, .. } => self.check_truncate(last),
            Record::Purge { last, .. } => self.check_purge(*last),
            Record::Suspect { first, count, .. } => self.check_present(*first, *count),
            Record::User { .. }
            | Record::Remove { .. }
            | Record::State { .. }
            | Record::Range { .. }
            | Record::Resume { .. } => Ok(()),
        }
    }

    /// The same for a group that does not exist yet.
    pub(crate) fn check_new(record: &mut Record) -> Result<(), Misuse> {
        match record {
            Record::Truncate { .. } | Record::Remove { .. } => Err(Misuse::UnknownGroup),
            _ => Group::default().check(record),
        }
    }

    fn check_hard_state(&self, hard_state: HardState) -> Result<(), Misuse> {
        let (term, before) = (hard_state.term, self.hard_state.term);
        match term < before {
            true => Err(Misuse::TermBack { term, before }),
            false => Ok(()),
        }
    }

    fn check_entries(&self, first: LogId, count: u32) -> Result<(), Misuse> {
        let (index, last) = (first.index, self.last().index);
        if index <= self.purged.index || index > last.next() || !are_indexes(index, count.into()) {
            return Err(Misuse::Gap { index, last });
        }
        if let Some(suspect) = self.first_suspect().filter(|suspect| *suspect < index) {
            return Err(Misuse::Suspect { index: suspect });
        }
        let before = self.term_at(index.prev()).unwrap_or(Term(0));
        let term = first.term;
        match term < before {
            true => Err(Misuse::TermBack { term, before }),
            false => Ok(()),
        }
    }

    /// Entries that are moved are there, and are the same.
    fn check_moved(&self, run: &Run) -> Result<(), Misuse> {
        self.check_present(run.first.index, run.count.into())?;
        let at = self.position(run.first.index);
        let extents = self.extents.iter().skip(at);
        for extent in extents.take_while(|extent| extent.first <= run.last()) {
            let is_known = extent.place != Place::Gone || extent.term != Term(0);
            let (index, term, found) = (extent.first, run.first.term, extent.term);
            if is_known && term != found {
                return Err(Misuse::WrongTerm { index, term, found });
            }
        }
        Ok(())
    }

    fn check_present(&self, first: Index, count: u64) -> Result<(), Misuse> {
        let last = self.last().index;
        let end = first.0.checked_add(count);
        let is_there = first > self.purged.index && end.is_some_and(|end| end <= last.next().0);
        match is_there {
            true => Ok(()),
            false => Err(self.missing(first)),
        }
    }

    /// Why there is no entry `index`.
    pub(crate) fn missing(&self, index: Index) -> Misuse {
        let (purged, last) = (self.purged.index, self.last().index);
        match index > Index(0) && index <= purged {
            true => Misuse::Purged { index, purged },
            false => Misuse::NoSuchEntry { index, last },
        }
    }

    fn check_truncate(&self, to: &mut LogId) -> Result<(), Misuse> {
        if !self.is_gone(to.index) {
            let term = self.term_at(to.index);
            to.term = term.ok_or_else(|| self.missing(to.index))?;
        }
        Ok(())
    }

    fn check_purge(&self, to: LogId) -> Result<(), Misuse> {
        let (index, last) = (to.index, self.last().index);
        let before = self.purged.index;
        if index < before {
            return Err(Misuse::PurgeBack { index, before });
        }
        if index == Index(u64::MAX) {
            return Err(Misuse::NoSuchEntry { index, last }); // Nothing could follow it.
        }
        if index > last || self.is_gone(index) {
            return Ok(());
        }
        let found = self.term_at(index);
        let found = found.ok_or_else(|| self.missing(index))?;
        let term = to.term;
        match found == term {
            true => Ok(()),
            false => Err(Misuse::WrongTerm { index, term, found }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::{Groups, Undo};
    use crate::record::EntryMeta;
    use crate::rows::Source;
    use crate::types::{Context, GroupId};

    const GROUP: GroupId = GroupId(1);

    fn log_id(term: u64, index: u64) -> LogId {
        LogId {
            term: Term(term),
            index: Index(index),
        }
    }

    fn entry(index: u64, term: u64) -> Record {
        Record::Entries(Run {
            group: GROUP,
            how: How::Appended,
            first: log_id(term, index),
            context: Context::EMPTY,
            count: 1,
        })
    }

    fn entries(ids: &[(u64, u64)]) -> Vec<Record> {
        ids.iter()
            .map(|&(index, term)| entry(index, term))
            .collect()
    }

    fn check(records: impl IntoIterator<Item = Record>) -> Result<(), Misuse> {
        let meta = EntryMeta {
            payload_bytes: 0,
            checksum: 0,
        };
        let mut groups = Groups::default();
        let (mut source, mut undo) = (Source::Pending, Undo::new());
        records.into_iter().try_for_each(|mut record| {
            let metas = &[meta][..record.entries()];
            groups.take_in(&mut record, metas, &mut source, &mut undo)
        })
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
                Misuse::Purged {
                    index: Index(1),
                    purged: Index(2),
                },
            ),
        ] {
            assert_eq!(with(more), Err(misuse));
        }
    }
}
