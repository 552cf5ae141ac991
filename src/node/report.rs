//! How a node is, for whoever looks after it.

use duramen_wal::{Index, LogId, NodeId, Stats, Term};

use super::mending::Mending;
use super::{
    Badness, Clock, Counts, Follower, Membership, Network, Node, RoleName, Standing, StateMachine,
    Trouble,
};

/// Takes a node's report.
pub type OnReport = Box<dyn FnOnce(Report) + Send>;

/// How a node is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The node.
    pub id: NodeId,
    /// Its cluster's name.
    pub cluster: String,
    /// Drawn at its first start.
    pub uuid: u128,
    /// How often it was started.
    pub boot: u64,
    /// Its term.
    pub term: Term,
    /// What it does in it.
    pub role: RoleName,
    /// The leader of the term, if known.
    pub leader: Option<NodeId>,
    /// The commit index.
    pub commit: Index,
    /// The last index that was applied.
    pub applied: Index,
    /// The first entry that is in the log: those before are in a snapshot only. One more than `last` if the log is empty.
    pub first: Index,
    /// The last entry of the log, durable or not.
    pub last: Index,
    /// The entries of the log that are in memory.
    pub entries: u64,
    /// About how many bytes their payloads have.
    pub entry_bytes: u64,
    /// Entries of the log that are damaged here, and not found elsewhere yet.
    pub bad_entries: u64,
    /// What a new leader waits for before it takes commands, if it does: entries that may have been committed, and of which nobody who
    /// answers has a whole copy. The first [`WAITED_FOR_MAX`] of them.
    pub waits_for: Vec<(LogId, Badness)>,
    /// Who belongs to the cluster, as of the last entry of the log.
    pub membership: Membership,
    /// The entry that says so; 0 if that is how the log began.
    pub membership_index: Index,
    /// That is not committed yet, or a joint membership on the way to another one.
    pub is_changing_membership: bool,
    /// Whether the node itself belongs to the cluster.
    pub standing: Standing,
    /// What a leader knows of the others.
    pub followers: Vec<Follower>,
    /// How the log's files are.
    pub log: Stats,
    /// What is wrong with its disk, if anything is.
    pub trouble: Option<String>,
    /// The snapshots in the node's directory.
    pub snapshots: SnapshotsReport,
    /// What the node has done since it started.
    pub counts: Counts,
}

/// The snapshots of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SnapshotsReport {
    /// How many there are.
    pub count: u64,
    /// The last entry that the newest one stands for; 0 if there is none.
    pub newest: Index,
    /// How many bytes the state in the newest one has.
    pub bytes: u64,
    /// Whether the state that the log goes on from cannot be read, and has not been found elsewhere yet.
    pub is_state_lost: bool,
    /// How many of its chunks are damaged here, as far as is known.
    pub missing_chunks: u64,
    /// See [`Node::diverged_at`].
    pub diverged_at: Option<Index>,
}

/// A report names so many of the entries that a leader waits for.
pub const WAITED_FOR_MAX: usize = 64;

impl Report {
    /// Whether the node is the leader, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.role == RoleName::Leader
    }

    /// What a leader knows of a follower.
    pub fn follower(&self, id: NodeId) -> Option<Follower> {
        let mut followers = self.followers.iter().copied();
        followers.find(|follower| follower.id == id)
    }

    /// The follower that should lead next: a voter that answers, with the most of the log.
    pub fn best_successor(&self) -> Option<NodeId> {
        let voters = self.followers.iter().filter(|follower| {
            let mut voters = self.membership.voters();
            follower.answers && voters.any(|voter| voter == follower.id)
        });
        let best = voters.max_by_key(|follower| follower.match_index);
        best.map(|follower| follower.id)
    }
}

impl<S: StateMachine, N: Network, C: Clock> Node<S, N, C> {
    /// How the node is.
    pub fn report(&self) -> Report {
        let (raft, storage) = (&self.raft, &self.storage);
        let (base, last) = (raft.base().index, raft.last().index);
        Report {
            id: raft.id(),
            cluster: storage.identity().cluster,
            uuid: storage.uuid(),
            boot: storage.boot(),
            term: raft.term(),
            role: raft.role(),
            leader: raft.leader(),
            commit: raft.commit(),
            applied: self.applied,
            first: base.next(),
            last,
            entries: last.0 - base.0,
            entry_bytes: raft.log_bytes(),
            bad_entries: raft.bad_entries().count() as u64,
            waits_for: self.waits_for(),
            membership: raft.membership().clone(),
            membership_index: raft.membership_index(),
            is_changing_membership: raft.is_changing_membership(),
            standing: self.standing,
            followers: raft.followers().collect(),
            log: storage.log_stats(),
            trouble: self.trouble().map(Trouble::to_string),
            snapshots: self.report_of_snapshots(),
            counts: self.counts(),
        }
    }

    pub(super) fn waits_for(&self) -> Vec<(LogId, Badness)> {
        let mut unsettled = self.raft.unsettled();
        unsettled.truncate(WAITED_FOR_MAX);
        unsettled
    }

    pub(super) fn missing_chunks(&self) -> u64 {
        self.snapshots.mending.as_ref().map_or(0, Mending::missing)
    }

    fn report_of_snapshots(&self) -> SnapshotsReport {
        let list = self.storage.snapshots().list();
        let newest = list.last().map(|snapshot| &snapshot.manifest);
        SnapshotsReport {
            count: list.len() as u64,
            newest: newest.map_or(Index(0), |manifest| Index(manifest.meta().last_index)),
            bytes: newest.map_or(0, |manifest| manifest.bytes()),
            is_state_lost: self.raft.lacks_state(),
            missing_chunks: self.missing_chunks(),
            diverged_at: self.diverged_at(),
        }
    }
}
