//! What a node starts with: its settings, and what it had made durable before.

use std::collections::BTreeMap;

use bytes::Bytes;
use duramen_wal::types::{Entry, HardState, Index, LogId, NodeId};

use super::disk::Handover;
use super::durability::Durability;
use super::follower_read::FollowerReads;
use super::ignored::IgnoredCounts;
use super::log::Log;
use super::membership::{Membership, Memberships};
use super::message::Ask;
use super::repair::{Badness, BaseState, Repair};
use super::snapshot::OwnSnapshot;
use super::{Raft, Role};

/// What a node must know before it starts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The node itself.
    pub id: NodeId,
    /// Who belongs to the cluster at the beginning of the log. The first leader of all writes it there, and what is in the log
    /// counts from then on. A node that is to join a cluster begins with the empty one, `Membership::default()`: it does not
    /// campaign, and learns from its leader who belongs to the cluster.
    pub membership: Membership,
    /// A leader says that it is there after this many ticks. Default 5.
    pub heartbeat_ticks: u32,
    /// A follower that has heard nothing campaigns after this many ticks, or up to twice as many: the timeout is random
    /// (section 5.2). A leader whose disk completes nothing for so long hands over. Default 25.
    pub election_ticks: u32,
    /// Before a node campaigns it asks whether it would be elected, so that one that was cut off does not depose a leader when
    /// it comes back (thesis, 9.6). Default true.
    pub pre_vote: bool,
    /// A leader that hears no majority for `election_ticks` steps down, and who has heard a leader within that time votes for
    /// nobody else (thesis, 6.2 and 4.2.3). Default true.
    pub check_quorum: bool,
    /// The payload of one `Append`, in bytes, is at most this, or one entry. Default 1 MiB.
    pub append_bytes_max: usize,
    /// How many entries may be under way to a follower. Default 4096.
    pub window_entries: u64,
    /// How many bytes of payload may be under way to a follower: sent and not acknowledged. One entry may be, however large it
    /// is. Default 16 MiB.
    pub window_bytes: u64,
    /// At most so many bytes of payload that a snapshot has are kept in the log for followers that need them still: see
    /// [`Raft::compactable`]. Default 64 MiB.
    pub keep_bytes: u64,
    /// A follower that needs a snapshot is offered it again after this many ticks. Default 100.
    pub offer_ticks: u32,
    /// Of the random timeouts, and of what tells this process of the node from an earlier one. Nodes should not share it, and each
    /// start must have another one.
    pub seed: u64,
}

impl Config {
    /// The defaults, for node `id` of a cluster that begins with `voters`.
    pub fn new(id: NodeId, voters: impl IntoIterator<Item = NodeId>) -> Config {
        Config {
            id,
            membership: Membership::of_voters(voters),
            heartbeat_ticks: 5,
            election_ticks: 25,
            pre_vote: true,
            check_quorum: true,
            append_bytes_max: 1 << 20,
            window_entries: 4096,
            window_bytes: 16 << 20,
            keep_bytes: 64 << 20,
            offer_ticks: 100,
            seed: id.0,
        }
    }
}

/// What a node has when it starts.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// Its term and vote.
    pub hard_state: HardState,
    /// The last entry that the newest snapshot stands for, and its state machine; the log begins after it. Zero if there is no
    /// snapshot.
    pub base: LogId,
    /// What followers are offered with that snapshot. `None` if there is none, or it cannot be read.
    pub manifest: Option<Bytes>,
    /// Whether the state machine has what that snapshot stands for.
    pub state: BaseState,
    /// The log after `base`. Of what is bad there is a placeholder, with its id.
    pub log: Vec<Entry>,
    /// Entries of the log whose payload is lost. None of them is a membership: of those the storage has a second copy.
    pub bad: BTreeMap<Index, Badness>,
}

impl Raft {
    /// A node with what it had made durable before: nothing at its first start.
    ///
    /// # Panics
    /// If the membership of `config` is none, and not the empty one either; or `log` is not consecutive from index 1 with terms that never go down and end at most at the
    /// term of `hard_state`, or holds a membership that is none.
    pub fn new(config: Config, hard_state: HardState, log: Vec<Entry>) -> Raft {
        let restored = Restored {
            hard_state,
            log,
            ..Restored::default()
        };
        Raft::restart(config, restored)
    }

    /// The same with all that a node may have. `config` has the membership as of `base`. Nothing of the log up to `base` may be
    /// on the disk, unless `base` is in it and what follows it is in `log`: after a crash between an installed snapshot and the
    /// write that resets the log, the driver resets it first.
    ///
    /// # Panics
    /// See [`new`](Raft::new); or if what is bad is not in `log`.
    pub fn restart(config: Config, restored: Restored) -> Raft {
        let Restored {
            hard_state,
            base,
            manifest,
            state,
            log,
            bad: bad_entries,
        } = restored;
        let can_be = match state {
            BaseState::Whole => true,
            BaseState::Unread => manifest.is_some(),
            BaseState::Lost => base.index > Index(0) && manifest.is_none(),
        };
        assert!(can_be, "{state:?} at {base}, with {manifest:?}");
        let joins = base == LogId::default() && config.membership == Membership::default();
        assert!(
            joins || config.membership.can_be_decoded(),
            "{:?}, {} bytes",
            config.membership.check(),
            config.membership.encode().len()
        );
        assert!(
            config.election_ticks > config.heartbeat_ticks,
            "an election waits for more than one heartbeat"
        );
        let mut memberships = Memberships::new(base.index, config.membership.clone());
        for entry in &log {
            let membership = Membership::of_entry(entry).expect("a membership that was appended");
            membership
                .into_iter()
                .for_each(|membership| memberships.push(entry.id.index, membership));
        }
        let snapshot = manifest.map(|manifest| OwnSnapshot {
            last: base,
            membership: config.membership.clone(),
            manifest,
        });
        let mut log = Log::new(base, log);
        log.mark_bad(bad_entries);
        let (term, last) = (hard_state.term, log.last());
        assert!(term >= last.term, "{last} is of a term after {term}");
        let mut rng = fastrand::Rng::with_seed(config.seed);
        let mut raft = Raft {
            follower_reads: FollowerReads::new(Ask(rng.u64(..))),
            rng,
            durability: Durability::new(hard_state, &log),
            handover: Handover::new(),
            config,
            hard_state,
            log,
            memberships,
            snapshot,
            offer: None,
            repair: Repair::new(state),
            commit: base.index,
            handed_out: base.index,
            role: Role::Follower,
            leader: None,
            election_elapsed: 0,
            election_timeout: 0,
            send_now: Vec::new(),
            send_when_durable: Vec::new(),
            read_replies: Vec::new(),
            ignored: IgnoredCounts::default(),
        };
        raft.reset_election_timer();
        raft
    }
}
