//! Log compaction and InstallSnapshot (section 7).
//!
//! The driver takes snapshots of the state machine and says so; what the log holds of them may go. A follower that lacks
//! entries which are gone is offered the newest snapshot. How its bytes get there is up to the drivers; when they are durable
//! there, the follower's core takes the snapshot for the beginning of its log.

use bytes::Bytes;
use duramen_wal::types::{Index, LogId, NodeId};

use super::membership::{Membership, Memberships};
use super::message::{AppendOutcome, Message, Round};
use super::repair::BaseState;
use super::{Ignored, Raft, Role};
use crate::canary::planted;

/// A durable snapshot of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnSnapshot {
    /// The last entry that it stands for.
    pub last: LogId,
    /// The membership as of that entry.
    pub membership: Membership,
    /// What the node's driver gave to [`Raft::snapshot_taken`].
    pub manifest: Bytes,
}

/// A snapshot that the leader offers: see [`Ready::offer`](super::Ready::offer).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Who has it.
    pub from: NodeId,
    /// The last entry that it stands for.
    pub last: LogId,
    /// The membership as of that entry.
    pub membership: Membership,
    /// What the leader's driver gave to [`Raft::snapshot_taken`].
    pub manifest: Bytes,
}

/// What a snapshot that is durable here is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum SnapshotFate {
    /// It is the newest of this node: its followers are offered it.
    Newest,
    /// This node has come further without it: it may be dropped.
    Overtaken,
}

impl Raft {
    /// A snapshot of the state machine up to `index`, which was handed out as committed, is durable. It is what followers are
    /// offered from now on; `manifest` is for the drivers. A snapshot that takes long may be overtaken by one that is installed.
    ///
    /// # Panics
    /// If `index` was not handed out.
    pub fn snapshot_taken(&mut self, index: Index, manifest: Bytes) -> SnapshotFate {
        assert!(index <= self.handed_out, "{index} was not handed out");
        let newest = self
            .snapshot
            .as_ref()
            .map_or(Index(0), |own| own.last.index);
        let Some(term) = self.log.term_at(index).filter(|_| index > newest) else {
            return SnapshotFate::Overtaken;
        };
        self.snapshot = Some(OwnSnapshot {
            last: LogId { term, index },
            membership: self.memberships.at(index).clone(),
            manifest,
        });
        SnapshotFate::Newest
    }

    /// The membership as of an entry that was handed out and is in the log, or at its base: it belongs to a snapshot.
    pub fn membership_at(&self, index: Index) -> &Membership {
        self.memberships.at(index)
    }

    /// The log up to `index` is not needed any more: a snapshot that was taken or installed stands for it. Less may go, so
    /// that followers that are a little behind need no snapshot.
    ///
    /// # Panics
    /// If no snapshot stands for it.
    pub fn compact(&mut self, index: Index) {
        let snapshot = self
            .snapshot
            .as_ref()
            .map_or(Index(0), |own| own.last.index);
        assert!(
            index <= snapshot,
            "the snapshot is of {snapshot}, not of {index}"
        );
        if let Some(term) = self.log.term_at(index) {
            self.log.compact(LogId { term, index });
            self.memberships.compacted(index);
        }
    }

    /// Up to where [`compact`](Raft::compact) may be called now: as far as the newest snapshot goes, but a leader keeps what its
    /// followers need still. A follower that replicates needs what it has not acknowledged, and one that is offered a snapshot
    /// what follows it: else it would need another one as soon as it has installed the first. One that has not answered
    /// within an election timeout keeps nothing, and all of them no more than [`Config::keep_bytes`](super::Config::keep_bytes).
    pub fn compactable(&self) -> Index {
        let base = self.log.base().index;
        let newest = self.snapshot.as_ref().map_or(base, |own| own.last.index);
        let Role::Leader(leadership) = &self.role else {
            return newest;
        };
        let followers = leadership.followers.values();
        let needed_after = followers
            .filter(|follower| follower.is_active(self.config.election_ticks))
            .filter_map(|follower| follower.needs_after())
            .min();
        let needed_after = needed_after.unwrap_or(newest).clamp(base, newest);
        let keep_bytes = self.config.keep_bytes;
        self.log.within(needed_after, newest, keep_bytes)
    }

    /// The last entry that is not in the log any more; zero if none has gone.
    pub fn base(&self) -> LogId {
        self.log.base()
    }

    /// The first index of the log; what is before it, a snapshot has.
    pub fn first(&self) -> Index {
        self.log.base().index.next()
    }

    pub(super) fn on_install_snapshot(&mut self, offer: Offer) -> Result<(), Ignored> {
        if self.leader.is_some_and(|leader| leader != offer.from) {
            return Err(Ignored::Nonsense); // Two leaders in one term.
        }
        self.follow(offer.from);
        if offer.last.index > self.commit && self.log.holds(offer.last) {
            self.commit = offer.last.index; // The log has all of it, and more (section 7, step 6).
        }
        match offer.last.index <= self.commit && !self.needs_snapshot(offer.last.index) {
            true => self.matched_by_commit(offer.from),
            false => self.offer = Some(offer),
        }
        Ok(())
    }

    /// The snapshot that was offered is durable here, with its manifest for whoever is offered it next. If it is the newest,
    /// it is the beginning of the log now, and the state machine is to be replaced by it; otherwise the log has come further
    /// meanwhile. It is taken also for what is committed, by a leader too, if it stands for bad entries or for a state that was
    /// lost.
    pub fn snapshot_installed(&mut self, offer: &Offer) -> SnapshotFate {
        let index = offer.last.index;
        let holds = self.log.holds(offer.last);
        // A leader has all that is committed: what it lacks, no correct node has offered.
        let may_reset = index > self.commit && !self.is_leader();
        let is_wanted = index > self.commit || self.needs_snapshot(index);
        let is_news = (is_wanted && (holds || may_reset)) || planted("snapshot_moves_back");
        if is_news {
            match holds {
                true => self.log.compact(offer.last),
                false => self.log.reset(offer.last),
            }
            // What the snapshot has will not be written any more, so without a reset the disk's log would have a gap.
            match !holds || self.durability.issued() < index {
                true => self.durability.reset(offer.last),
                false => self.durability.compacted(offer.last),
            }
            let membership = offer.membership.clone();
            match self.memberships.index() <= index || self.log.last() == offer.last {
                true => self.memberships = Memberships::new(index, membership),
                false => self.memberships.compacted(index),
            }
            self.commit = self.commit.max(index);
            self.handed_out = index;
            self.repair.state = BaseState::Whole;
            self.snapshot = Some(OwnSnapshot {
                last: offer.last,
                membership: offer.membership.clone(),
                manifest: offer.manifest.clone(),
            });
        }
        if let Some(leader) = self.leader.filter(|leader| *leader != self.config.id) {
            self.matched_by_commit(leader);
        }
        self.settle();
        match is_news {
            true => SnapshotFate::Newest,
            false => SnapshotFate::Overtaken,
        }
    }

    /// What is committed is the same everywhere, so it equals the leader's log.
    fn matched_by_commit(&mut self, leader: NodeId) {
        let outcome = self.matched_commit();
        let round = Round::default();
        self.reply(leader, Message::AppendReply { outcome, round });
    }

    pub(super) fn matched_commit(&self) -> AppendOutcome {
        AppendOutcome::Matched(self.whole_up_to(self.commit))
    }

    /// Offers the snapshot to those who need it: again and again, since they may have been started anew.
    pub(super) fn offer_snapshots(&mut self) {
        let (Role::Leader(leadership), Some(own)) = (&mut self.role, &self.snapshot) else {
            return;
        };
        let (newest, base) = (own.last.index, self.log.base().index);
        let due: Vec<NodeId> = leadership
            .followers
            .iter_mut()
            .filter_map(|(id, follower)| follower.take_due_offer(newest, base).then_some(*id))
            .collect();
        for to in due {
            let offer = Message::InstallSnapshot {
                last: own.last,
                membership: own.membership.clone(),
                manifest: own.manifest.clone(),
            };
            let envelope = self.envelope(to, offer);
            self.send_now.push(envelope);
        }
    }
}
