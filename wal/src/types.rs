//! The words of the Raft paper, as types. They are defined here once, for the log and for the core.

use std::fmt;

use bytes::Bytes;

/// A term: Raft's logical clock (paper, section 5.1). 0 is before the first election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

/// The index of an entry in a Raft log (paper, section 5.3). The first entry has index 1; 0 is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Index(pub u64);

impl Index {
    /// The index after this one.
    ///
    /// # Panics
    /// At `u64::MAX`. Indexes that come from a peer or from disk are checked before they get here.
    pub fn next(self) -> Index {
        Index(self.0.checked_add(1).expect("an index below u64::MAX"))
    }

    /// The index before this one; 0 stays 0.
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }
}

/// A Raft group: one log among the many that one [`Wal`](crate::Wal) holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupId(pub u64);

/// A member of a Raft group, as its peers call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// The position of an entry and the term it was made in. Two logs that share a LogId are equal up to it (paper,
/// section 5.3, Log Matching).
///
/// The order is that of "up-to-date" in section 5.4.1: the later term first, then the longer log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId {
    /// The term of the leader that made the entry.
    pub term: Term,
    /// Its index.
    pub index: Index,
}

/// One entry of a Raft log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// Where it is, and the term it was made in.
    pub id: LogId,
    /// A few bytes of the caller's that belong to the id, and are protected like it.
    pub context: Context,
    /// The caller's bytes.
    pub payload: Bytes,
}

/// A few bytes of the caller's beside an id or a vote, under the same protection: for a Raft whose leader ids and votes say
/// more than the paper's.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Context {
    len: u8,
    bytes: [u8; Context::BYTES_MAX],
}

impl Context {
    /// How many bytes there may be.
    pub const BYTES_MAX: usize = 31;

    /// No bytes.
    pub const EMPTY: Context = Context {
        len: 0,
        bytes: [0; Context::BYTES_MAX],
    };

    /// `None` if there are more than [`BYTES_MAX`](Context::BYTES_MAX).
    pub fn new(context: &[u8]) -> Option<Context> {
        let mut bytes = [0; Context::BYTES_MAX];
        bytes.get_mut(..context.len())?.copy_from_slice(context);
        let len = context.len() as u8;
        Some(Context { len, bytes })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// What a Raft node must not forget beside its log: figure 2's `currentTerm` and `votedFor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    /// The latest term the node has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub voted_for: Option<NodeId>,
    /// A few bytes of the caller's that belong to the vote, and are protected like it.
    pub context: Context,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LogId {
    /// `term.index`, as `3.17`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}
