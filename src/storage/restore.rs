//! Reading a node's state back: log and snapshots are brought to agree, and what is damaged is named.
//!
//! | the newest snapshot is of | and the log | then |
//! |---|---|---|
//! | an entry that the log holds, or begins after | | the log goes on after it |
//! | an entry that the log does not hold, at or after its beginning | ends before it, or conflicts with it | it was installed, and the node died before the log was reset: it is reset now |
//! | an entry before the log's beginning, or there is none | begins after an entry | the newest one is lost: the node has no state, and asks its peers |

use std::collections::BTreeMap;
use std::ops::Range;

use duramen_snapshot::{Snapshot, SnapshotId};
use duramen_wal::{Batch, Entry, HardState, Index, LogId, Term};

use super::writing::put_record;
use super::{Error, GROUP, SnapshotName, Storage};
use crate::canary::planted;
use crate::raft::{Badness, Membership};

/// What a node had made durable before.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Restored {
    /// Term and vote.
    pub hard_state: HardState,
    /// The last entry that is not in `log`, since a snapshot stands for it.
    pub base: LogId,
    /// Who belongs to the cluster as of `base`.
    pub membership: Membership,
    /// The snapshot of the state at `base`; none if the log begins at the beginning, or if it cannot be read.
    pub snapshot: Option<(SnapshotId, SnapshotName)>,
    /// The log after `base`. Entries that are `bad` have no payload.
    pub log: Vec<Entry>,
    /// The entries whose payloads could not be read.
    pub bad: BTreeMap<Index, Badness>,
}

/// So much is read at a time, in bytes.
const READ_BYTES: u64 = 4 << 20;
/// And not more entries: one that is bad is looked for by halves.
const READ_ENTRIES: u64 = 1024;

impl Storage {
    /// Reads back what is durable. To be called once, before anything is submitted.
    ///
    /// # Errors
    /// [`Error::LostTerm`], [`Error::Lossy`], [`Error::NoMembership`]: this node must not take part. [`Error::Log`], [`Error::Snapshots`].
    pub fn restore(&mut self) -> Result<Restored, Error> {
        let purged = self.wal.purged(GROUP);
        let newest = self.snapshots.list().pop();
        let newest = newest.filter(|newest| last_of(newest).index >= purged.index);
        let base = newest.as_ref().map_or(purged, last_of);
        self.check_term(base.term.max(self.wal.last(GROUP).term))?;
        let holds_base = base == purged || self.wal.term(GROUP, base.index) == Some(base.term);
        let membership = match &newest {
            Some(newest) => Membership::decode(&newest.manifest.meta().membership)
                .or_else(|| self.record.membership_at(base.index)),
            None => self.record.membership_at(base.index),
        };
        let at_first = || Membership::of_voters(self.record.identity().voters);
        let membership = match base.index {
            Index(0) => membership.unwrap_or_else(at_first),
            _ => membership.ok_or_else(|| Error::NoMembership {
                path: self.dir.clone(),
                base,
            })?,
        };
        self.check_loss(&membership)?;
        if !holds_base && !planted("half_an_install") {
            let mut batch = Batch::new();
            if self.put_reset(&mut batch, base) {
                put_record(&mut batch, &self.record);
            }
            self.wal.write(batch)?;
        }
        let (log, bad) = self.read_log(base.index.next()..self.wal.last(GROUP).index.next())?;
        Ok(Restored {
            hard_state: self.hard_state(),
            base,
            membership,
            snapshot: newest.map(|newest| (newest.id, SnapshotName::of(&newest.manifest))),
            log,
            bad,
        })
    }

    /// No entry is durable before the term in which it was received.
    fn check_term(&self, last: Term) -> Result<(), Error> {
        let term = self.hard_state().term;
        let path = self.dir.clone();
        match term < last {
            true => Err(Error::LostTerm { path, term, last }),
            false => Ok(()),
        }
    }

    /// Whoever has nobody else in its cluster takes a loss upon itself. `at_base` is the membership where the log begins.
    fn check_loss(&self, at_base: &Membership) -> Result<(), Error> {
        if !self.wal.recovery().is_lossy || planted("loss_is_ignored") {
            return Ok(());
        }
        let newest = self.record.newest_membership();
        let members = newest.as_ref().unwrap_or(at_base).all();
        if members.iter().any(|id| *id != self.record.identity().node) {
            let path = self.dir.join("log");
            return Err(Error::Lossy { path });
        }
        Ok(self.wal.accept_loss()?)
    }

    fn read_log(
        &self,
        range: Range<Index>,
    ) -> Result<(Vec<Entry>, BTreeMap<Index, Badness>), Error> {
        let mut log = Vec::new();
        let mut bad = BTreeMap::new();
        let mut next = range.start;
        let mut end = next; // Up to there entries are read together.
        while next < range.end {
            if end <= next {
                end = range.end.min(Index(next.0 + READ_ENTRIES));
            }
            match self.wal.entries(GROUP, next..end, READ_BYTES) {
                Ok(entries) => {
                    next = Index(next.0 + entries.len() as u64);
                    log.extend(entries);
                }
                Err(_) if next.next() < end => end = Index(next.0 + (end.0 - next.0) / 2),
                Err(error) => {
                    log.push(self.bad_entry(next, error, &mut bad)?);
                    next = next.next();
                }
            }
        }
        Ok((log, bad))
    }

    /// An entry that cannot be read is there by its id, and noted as bad; or the record has a copy.
    fn bad_entry(
        &self,
        index: Index,
        error: duramen_wal::Error,
        bad: &mut BTreeMap<Index, Badness>,
    ) -> Result<Entry, Error> {
        let badness = match error {
            duramen_wal::Error::Suspect { .. } => Badness::Suspect,
            duramen_wal::Error::DamagedEntry { .. } | duramen_wal::Error::Io { .. } => {
                Badness::Damaged
            }
            error => return Err(error.into()),
        };
        let term = self.wal.term(GROUP, index);
        let term = term.expect("an entry in the log has a term, readable or not");
        let id = LogId { term, index };
        if let Some(membership) = self.record.membership_entry(id) {
            match self.wal.repair(GROUP, membership.clone()) {
                Ok(()) => return Ok(membership),
                Err(duramen_wal::Error::Misuse { .. }) => {} // It is another one.
                Err(error) => return Err(error.into()),
            }
        }
        bad.insert(index, badness);
        Ok(Entry {
            id,
            ..Entry::default()
        })
    }
}

pub(super) fn last_of(snapshot: &Snapshot) -> LogId {
    let meta = snapshot.manifest.meta();
    LogId {
        term: Term(meta.last_term),
        index: Index(meta.last_index),
    }
}
