//! The unit of writing.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::record::{
    EntryMeta, How, META_BYTES, RANGE_BYTES_MAX, Record, Records, Run, entry_checksum,
};
use crate::types::{Context, Entry, GroupId, HardState, Index, LogId, Term};

/// Changes to one or more groups that become durable together: after a crash all of a batch is there, or none.
///
/// They take effect in the order in which they were added, and are checked against the rules when the batch is submitted;
/// if one breaks a rule, none takes effect. Entries are checksummed when they are added. Cloning copies no payloads.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(crate) records: Records,
    /// One for each entry; empty where it is lost.
    pub(crate) payloads: SmallVec<[Bytes; 1]>,
    pub(crate) sizes: Sizes,
    pub(crate) changes_vote: bool,
    /// The caller says that it must be written also when the disk is full.
    vital: bool,
}

/// How large a batch is, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sizes {
    /// Of all payloads, and of the largest one.
    pub(crate) payloads: u64,
    pub(crate) payload_max: u64,
    /// The most that its records take, and what they take in a segment's summary.
    pub(crate) records: u64,
    pub(crate) summary: u64,
}

impl Sizes {
    /// What is written for the batch itself, at the most.
    pub(crate) fn written(&self) -> u64 {
        self.payloads + self.records
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Appends entries to a group's log, which begins to exist if it did not. An entry at or below the last index replaces
    /// the log from there on: the conflicting suffix is gone (paper, figure 2, AppendEntries 3 and 4).
    ///
    /// Refused are gaps, terms that go down, and what is at or below the purge point or after a suspect entry. The last
    /// index there can be is `u64::MAX - 1`.
    ///
    /// ```
    /// # use duramen_wal::{Batch, Entry, GroupId, Index, LogId, Options, Term, Wal};
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = Wal::create(dir.path().join("log"), Options::default())?;
    /// let entry = |term, index| {
    ///     let id = LogId { term: Term(term), index: Index(index) };
    ///     Entry { id, payload: "set x 1".into(), ..Entry::default() }
    /// };
    /// let mut batch = Batch::new();
    /// batch.append(GroupId(1), [entry(1, 1), entry(1, 2), entry(1, 3)]);
    /// batch.append(GroupId(1), [entry(2, 2)]); // takes the place of 2 and 3
    /// wal.write(batch)?;
    /// assert_eq!(wal.last(GroupId(1)), entry(2, 2).id);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append(
        &mut self,
        group: GroupId,
        entries: impl IntoIterator<Item = Entry>,
    ) -> &mut Batch {
        for entry in entries {
            let len = entry.payload.len() as u64;
            self.sizes.payloads += len;
            self.sizes.payload_max = self.sizes.payload_max.max(len);
            let Ok(payload_bytes) = u32::try_from(len) else {
                return self; // It is over any limit, and will be refused.
            };
            let meta = EntryMeta {
                payload_bytes,
                checksum: entry_checksum(group, entry.id, &entry.payload),
            };
            self.put(group, How::Appended, entry.id, entry.context, meta);
            self.payloads.push(entry.payload);
        }
        self
    }

    /// Lets an entry that is there stand here from now on. `payload` is `None` if it is damaged, and stands nowhere.
    pub(crate) fn move_entry(
        &mut self,
        group: GroupId,
        id: LogId,
        context: Context,
        meta: EntryMeta,
        payload: Option<Bytes>,
    ) {
        let how = match payload {
            Some(_) => How::Moved,
            None => How::Lost,
        };
        self.put(group, how, id, context, meta);
        self.sizes.payloads += payload.as_ref().map_or(0, |payload| payload.len() as u64);
        self.payloads.push(payload.unwrap_or_default());
    }

    fn push(&mut self, record: Record) {
        self.sizes.records += record.encoded_bytes_max();
        if record.entries() > 0 {
            self.sizes.summary += RANGE_BYTES_MAX;
        }
        self.records.list.push(record);
    }

    /// Adds an entry, to the run before if it goes on with it.
    fn put(&mut self, group: GroupId, how: How, id: LogId, context: Context, meta: EntryMeta) {
        self.records.metas.push(meta);
        self.sizes.records += META_BYTES;
        if let Some(Record::Entries(run)) = self.records.list.last_mut() {
            let goes_on = (run.group, run.how, run.first.term) == (group, how, id.term)
                && run.context == context
                && run.count < u32::MAX
                && run.first.index.0.checked_add(run.count.into()) == Some(id.index.0);
            if goes_on {
                run.count += 1;
                return;
            }
        }
        self.push(Record::Entries(Run {
            group,
            how,
            first: id,
            context,
            count: 1,
        }));
    }

    /// Cuts a group's log off after `last`, which must be there or be the purge point (0 if nothing was ever purged). The
    /// group must exist.
    pub fn truncate(&mut self, group: GroupId, last: Index) -> &mut Batch {
        let term = Term(0); // Filled in when the batch is submitted.
        let last = LogId { term, index: last };
        self.push(Record::Truncate { group, last });
        self
    }

    /// Drops a group's entries up to and with `last`: a snapshot has them. `last` may be past the end: then the log is
    /// empty, and goes on after `last` (paper, section 7, InstallSnapshot). The space is given back in the background, once
    /// the purge is durable.
    ///
    /// `last` must be of the term that the log has there, and never goes back. The log relies on the caller for one thing:
    /// that the snapshot is durable before the batch is submitted.
    ///
    /// ```
    /// # use duramen_wal::{Batch, Entry, GroupId, HardState, Index, LogId, Options, Term, Wal};
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = Wal::create(dir.path().join("log"), Options::default())?;
    /// # let group = GroupId(1);
    /// // InstallSnapshot: whatever the log holds, it goes on after the snapshot.
    /// let last_included = LogId { term: Term(3), index: Index(100) };
    /// let mut batch = Batch::new();
    /// // The hard state first: it makes the group, if this node had none, and an unknown group cannot be truncated.
    /// batch.hard_state(group, HardState { term: Term(3), ..HardState::default() });
    /// batch.truncate(group, wal.purged(group).index); // all
    /// batch.purge(group, last_included);
    /// wal.write(batch)?;
    /// assert_eq!(wal.last(group), last_included);
    /// assert_eq!(wal.purged(group), last_included);
    ///
    /// let id = LogId { term: Term(3), index: Index(101) };
    /// let mut batch = Batch::new();
    /// batch.append(group, [Entry { id, ..Entry::default() }]);
    /// wal.write(batch)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn purge(&mut self, group: GroupId, last: LogId) -> &mut Batch {
        self.push(Record::Purge { group, last });
        self
    }

    /// Sets a group's term and vote. The term never goes down. Whether a vote may change within a term is up to the caller.
    ///
    /// Such a batch begins a write of its own, after all before it is durable, and takes 4 KiB more.
    pub fn hard_state(&mut self, group: GroupId, hard_state: HardState) -> &mut Batch {
        self.changes_vote = true;
        self.push(Record::HardState { group, hard_state });
        self
    }

    /// Sets a group's user record: a few bytes that the log keeps for the caller. It is kept in memory, and written again
    /// three times for each segment: so it had better be small. At most about half of
    /// [`Options::batch_bytes_max`](crate::Options::batch_bytes_max).
    pub fn user_record(&mut self, group: GroupId, record: impl Into<Bytes>) -> &mut Batch {
        let bytes = record.into();
        self.push(Record::User { group, bytes });
        self
    }

    /// Forgets a group, all of it: entries, hard state, purge point and user record. It must exist. It may be begun anew, in
    /// the same batch too; whether it may vote again is up to the caller.
    pub fn remove_group(&mut self, group: GroupId) -> &mut Batch {
        self.changes_vote = true;
        self.push(Record::Remove { group });
        self
    }

    /// Lets the batch use the space that is kept for when the disk is full. For the few small entries without which a Raft
    /// group cannot go on: a leader's blank entry, a change of membership.
    ///
    /// Batches without entries and user records need not ask: votes, truncations and purges may always use it.
    pub fn vital(&mut self) -> &mut Batch {
        self.vital = true;
        self
    }

    /// Whether it may use the reserve.
    pub(crate) fn is_vital(&self) -> bool {
        let adds = |record: &Record| matches!(record, Record::Entries(_) | Record::User { .. });
        self.vital || !self.records.list.iter().any(adds)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}
