//! What the log holds, in memory: for each group its hard state, its user record, and where each entry is on disk.
//!
//! Writing and recovery go through the same [`Groups::apply`], so replaying the frames gives the state that writing them
//! gave.
//!
//! Invariants of a group: slot `i` belongs to index `i + 1`; terms never go down along the slots.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::batch::Record;
use crate::error::Misuse;
use crate::format::{FRAME_HEADER_BYTES, record_bytes};
use crate::types::{GroupId, HardState, Index, LogId, Term};

#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: BTreeMap<GroupId, Group>,
}

#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) hard_state: HardState,
    pub(crate) user_record: Bytes,
    slots: Vec<Slot>,
}

/// Where an entry's payload is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) term: Term,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) payload_bytes: u32,
}

impl Groups {
    pub(crate) fn ids(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied()
    }

    pub(crate) fn find(&self, group: GroupId) -> Option<&Group> {
        self.groups.get(&group)
    }

    /// Takes in the records of a durable frame, which [`Check`] has passed. The frame is at `frame_offset` of `segment`.
    pub(crate) fn apply(&mut self, records: &[Record], segment: u64, frame_offset: u64) {
        let mut offset = frame_offset + FRAME_HEADER_BYTES as u64;
        for record in records {
            offset += record_bytes(record);
            match record {
                Record::HardState { group, hard_state } => {
                    self.group(*group).hard_state = *hard_state
                }
                Record::User { group, bytes } => {
                    // A copy: the slice would keep the whole buffer it was read from.
                    self.group(*group).user_record = Bytes::copy_from_slice(bytes);
                }
                Record::Entry { group, entry } => {
                    let slots = &mut self.group(*group).slots;
                    slots.truncate(entry.id.index.prev().0 as usize);
                    let payload_bytes = entry.payload.len() as u32;
                    slots.push(Slot {
                        term: entry.id.term,
                        segment,
                        offset: offset - u64::from(payload_bytes), // a record ends with its payload
                        payload_bytes,
                    });
                }
            }
        }
    }

    fn group(&mut self, group: GroupId) -> &mut Group {
        self.groups.entry(group).or_default()
    }
}

impl Group {
    /// The LogId of the last entry; zero for an empty log.
    pub(crate) fn last(&self) -> LogId {
        LogId {
            term: self.slots.last().map_or(Term(0), |slot| slot.term),
            index: Index(self.slots.len() as u64),
        }
    }

    pub(crate) fn slot(&self, index: Index) -> Option<&Slot> {
        let at = index.0.checked_sub(1)?;
        self.slots.get(usize::try_from(at).ok()?)
    }
}

/// Checks the records of a batch against the rules of a log, in order, without changing the log: a batch is refused
/// before anything of it is written.
pub(crate) struct Check<'a> {
    groups: &'a Groups,
    ahead: BTreeMap<GroupId, Ahead<'a>>,
}

/// What the records so far would make of a group.
struct Ahead<'a> {
    now: Option<&'a Group>,
    term: Term,
    /// The entries up to here are those of `now`.
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

    pub(crate) fn record(&mut self, record: &Record) -> Result<(), Misuse> {
        match record {
            Record::User { .. } => Ok(()),
            Record::HardState { group, hard_state } => self.ahead(*group).hard_state(*hard_state),
            Record::Entry { group, entry } => self.ahead(*group).entry(entry.id),
        }
    }

    fn ahead(&mut self, group: GroupId) -> &mut Ahead<'a> {
        let now = self.groups.find(group);
        self.ahead.entry(group).or_insert_with(|| Ahead {
            now,
            term: now.map_or(Term(0), |group| group.hard_state.term),
            kept: now.map_or(Index(0), |group| group.last().index),
            terms: Vec::new(),
        })
    }
}

impl Ahead<'_> {
    fn hard_state(&mut self, hard_state: HardState) -> Result<(), Misuse> {
        let (term, before) = (hard_state.term, self.term);
        if term < before {
            return Err(Misuse::TermBack { term, before });
        }
        self.term = term;
        Ok(())
    }

    fn entry(&mut self, id: LogId) -> Result<(), Misuse> {
        let last = Index(self.kept.0 + self.terms.len() as u64);
        if id.index == Index(0) || id.index > last.next() {
            let index = id.index;
            return Err(Misuse::Gap { index, last });
        }
        let (term, before) = (id.term, self.term_at(id.index.prev()));
        if term < before {
            return Err(Misuse::TermBack { term, before });
        }
        self.kept = self.kept.min(id.index.prev());
        self.terms
            .truncate((id.index.prev().0 - self.kept.0) as usize);
        self.terms.push(term);
        Ok(())
    }

    /// The term of an entry that is there; 0 before the first.
    fn term_at(&self, index: Index) -> Term {
        if index > self.kept {
            return self.terms[(index.0 - self.kept.0 - 1) as usize];
        }
        let slot = self.now.and_then(|group| group.slot(index));
        slot.map_or(Term(0), |slot| slot.term)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Entry;

    fn check(terms: &[(u64, u64)]) -> Result<(), Misuse> {
        let groups = Groups::default();
        let mut check = Check::new(&groups);
        terms.iter().try_for_each(|&(index, term)| {
            check.record(&Record::Entry {
                group: GroupId(1),
                entry: Entry {
                    id: LogId {
                        term: Term(term),
                        index: Index(index),
                    },
                    payload: Bytes::new(),
                },
            })
        })
    }

    #[test]
    fn entries_follow_each_other() {
        assert_eq!(check(&[(1, 1), (2, 1), (3, 4)]), Ok(()));
        let gap = |index, last| Misuse::Gap {
            index: Index(index),
            last: Index(last),
        };
        assert_eq!(check(&[(2, 1)]), Err(gap(2, 0)));
        assert_eq!(check(&[(0, 1)]), Err(gap(0, 0)));
        assert_eq!(check(&[(1, 1), (u64::MAX, 1)]), Err(gap(u64::MAX, 1)));
    }

    #[test]
    fn terms_do_not_go_back_also_where_a_batch_replaces_its_own_entries() {
        let back = |term, before| Misuse::TermBack {
            term: Term(term),
            before: Term(before),
        };
        assert_eq!(check(&[(1, 2), (2, 1)]), Err(back(1, 2)));
        assert_eq!(check(&[(1, 2), (2, 3), (2, 2), (3, 2)]), Ok(()));
        assert_eq!(check(&[(1, 2), (2, 3), (3, 3), (2, 1)]), Err(back(1, 2)));
        assert_eq!(check(&[(1, 2), (2, 3), (1, 1), (2, 1)]), Ok(()));
    }
}
