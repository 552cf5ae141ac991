//! The unit of writing.

use bytes::Bytes;

use crate::types::{Entry, GroupId, HardState};

/// Changes to one or more groups that become durable together: after a crash all of a batch is there, or none.
///
/// They take effect in the order in which they were added.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(crate) records: Vec<Record>,
}

/// One change. Also the unit of the format: a frame is the records of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Entry {
        group: GroupId,
        entry: Entry,
    },
    HardState {
        group: GroupId,
        hard_state: HardState,
    },
    User {
        group: GroupId,
        bytes: Bytes,
    },
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Appends entries to a group's log. An entry at or below the last index replaces the log from there on: the
    /// conflicting suffix is gone (paper, figure 2, AppendEntries 3 and 4).
    pub fn append(
        &mut self,
        group: GroupId,
        entries: impl IntoIterator<Item = Entry>,
    ) -> &mut Batch {
        let records = entries
            .into_iter()
            .map(|entry| Record::Entry { group, entry });
        self.records.extend(records);
        self
    }

    /// Sets a group's term and vote.
    pub fn hard_state(&mut self, group: GroupId, hard_state: HardState) -> &mut Batch {
        self.records.push(Record::HardState { group, hard_state });
        self
    }

    /// Sets a group's user record: a few bytes that the log keeps for the caller.
    pub fn user_record(&mut self, group: GroupId, record: impl Into<Bytes>) -> &mut Batch {
        let bytes = record.into();
        self.records.push(Record::User { group, bytes });
        self
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

impl Record {
    pub(crate) fn group(&self) -> GroupId {
        match self {
            Record::Entry { group, .. }
            | Record::HardState { group, .. }
            | Record::User { group, .. } => *group,
        }
    }
}
