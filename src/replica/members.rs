//! Who belongs to the cluster, and who leads it: changed through the leader.

use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::{ChangeError, Handle, report_of};
use crate::node::{
    AddressBook, Introduction, LogId, Member, Membership, NodeId, Report, StateMachine, Status,
};
use crate::transport::{KNOWN_MAX, TcpTransport};

/// How long a change may take until it is committed.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a transfer may take until the other one leads.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);

/// Changes who belongs to the cluster, and who leads it. Cheap to clone.
///
/// Each change is answered when it is committed.
pub struct Members<S: StateMachine> {
    pub(super) handle: Handle<S>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) addresses: AddressBook,
    pub(super) transport: TcpTransport,
}

impl<S: StateMachine> Clone for Members<S> {
    fn clone(&self) -> Members<S> {
        Members {
            handle: self.handle.clone(),
            status: self.status.clone(),
            addresses: self.addresses.clone(),
            transport: self.transport.clone(),
        }
    }
}

impl<S: StateMachine> Members<S> {
    /// How this node is, and who belongs to the cluster.
    ///
    /// # Errors
    /// [`ChangeError::Ended`].
    pub async fn report(&self) -> Result<Report, ChangeError> {
        report_of(&self.handle).await.ok_or(ChangeError::Ended)
    }

    /// Where the nodes are reached.
    pub fn addresses(&self) -> &AddressBook {
        &self.addresses
    }

    /// Adds a node that was started to join, and is reached at `address`: as a learner, which gets the log and has no vote.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn add(&self, id: NodeId, address: &str) -> Result<(), ChangeError> {
        let report = self.leaders_report().await?;
        if report.membership.all().contains(&id) {
            return Err(ChangeError::MemberAlready(id));
        }
        if report.membership.all().len() >= KNOWN_MAX {
            return Err(ChangeError::Full);
        }
        let met = self.transport.meet(&self.handle, id, address).await;
        let address = || address.to_owned();
        let (introduction, addresses) = met.map_err(|source| match source.kind() {
            std::io::ErrorKind::PermissionDenied => ChangeError::Unfit {
                id,
                address: address(),
                source,
            },
            _ => ChangeError::NoAnswer {
                address: address(),
                source,
            },
        })?;
        if introduction.is_blank {
            return Err(ChangeError::BeginsAnother(address()));
        }
        if !is_new(&introduction) && introduction.knows.get(&report.id.0) != Some(&report.uuid) {
            return Err(ChangeError::OfAnother(address()));
        }
        let member = Member {
            uuid: introduction.uuid,
            peer_address: match addresses.peer.is_empty() {
                true => address(),
                false => addresses.peer,
            },
            client_address: addresses.client,
        };
        self.change(&report, move |members| {
            members.with_learner(id).with_member(id, member.clone())
        })
        .await
    }

    /// Gives a learner a vote. It must have caught up.
    ///
    /// # Errors
    /// See [`ChangeError`]; [`Behind`](crate::node::ChangeRefused::Behind) until it has caught up.
    pub async fn promote(&self, id: NodeId) -> Result<(), ChangeError> {
        let report = self.leaders_report().await?;
        check_learner(&report.membership, id)?;
        self.change(&report, move |members| members.with_voter(id))
            .await
    }

    /// Removes a node, be it voter or learner.
    ///
    /// # Errors
    /// See [`ChangeError`]. A leader that is to remove itself hands over first, if somebody else can lead, and says so with
    /// [`ChangeError::NotLeader`]: the next one is to be asked.
    pub async fn remove(&self, id: NodeId) -> Result<(), ChangeError> {
        let report = self.leaders_report().await?;
        check_member(&report.membership, id)?;
        self.give_way(&report, id).await?;
        self.change(&report, move |members| members.without(id))
            .await
    }

    /// Gives a learner that has caught up the place of another member, in one change.
    ///
    /// # Errors
    /// See [`ChangeError`], and what [`remove`](Members::remove) says of a leader.
    pub async fn replace(&self, old: NodeId, new: NodeId) -> Result<(), ChangeError> {
        let report = self.leaders_report().await?;
        check_member(&report.membership, old)?;
        check_learner(&report.membership, new)?;
        self.give_way(&report, old).await?;
        self.change(&report, move |members| members.without(old).with_voter(new))
            .await
    }

    /// Hands the leadership over to a voter; to the one with the most of the log, if none is named. Says who leads then.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<NodeId, ChangeError> {
        let report = self.leaders_report().await?;
        let to = to.or_else(|| report.best_successor());
        let to = to.ok_or(ChangeError::NoSuccessor)?;
        let (sender, begun) = oneshot::channel();
        let on_transfer = Box::new(|begun| {
            let _ = sender.send(begun);
        });
        self.handle.transfer_leadership(to, on_transfer);
        begun.await.map_err(|_| ChangeError::Ended)??;
        let mut status = self.status.clone();
        let leads = status.wait_for(|status| status.leader == Some(to));
        match timeout(TRANSFER_TIMEOUT, leads).await {
            Ok(Ok(_)) => Ok(to),
            Ok(Err(_)) => Err(ChangeError::Ended),
            Err(_) => Err(ChangeError::NotTakenOver(to)),
        }
    }

    /// A leader that leaves hands over before: else the others would wait for an election.
    async fn give_way(&self, report: &Report, leaving: NodeId) -> Result<(), ChangeError> {
        if leaving != report.id || report.best_successor().is_none() {
            return Ok(());
        }
        match self.transfer(None).await {
            Ok(leader) => Err(ChangeError::NotLeader {
                leader: Some(leader),
            }),
            Err(ChangeError::NotTakenOver(_)) => Ok(()), // Then it leads until it has gone.
            Err(error) => Err(error),
        }
    }

    async fn leaders_report(&self) -> Result<Report, ChangeError> {
        let report = self.report().await?;
        match report.is_leader() {
            true => Ok(report),
            false => Err(ChangeError::NotLeader {
                leader: report.leader,
            }),
        }
    }

    /// Changes the membership, and waits until that is committed. What is known of where the members are goes with it.
    async fn change(
        &self,
        report: &Report,
        change: impl Fn(Membership) -> Membership + Send + 'static,
    ) -> Result<(), ChangeError> {
        check_quorum(report, &change(report.membership.clone()))?;
        let (sender, begun) = oneshot::channel();
        let (target_sender, target) = oneshot::channel();
        let addresses = self.addresses.clone();
        let change = move |members: &Membership| {
            let target = with_addresses(change(members.clone()), &addresses);
            let _ = target_sender.send(target.clone()); // Who asked may be gone.
            target
        };
        let on_change = Box::new(|begun| {
            let _ = sender.send(begun);
        });
        self.handle.change_membership(Box::new(change), on_change);
        let begun = begun.await.map_err(|_| ChangeError::Ended)??;
        let target = target.await.map_err(|_| ChangeError::Ended)?;
        let committed = timeout(CHANGE_TIMEOUT, self.committed(begun, &target));
        committed.await.unwrap_or(Err(ChangeError::Pending))
    }

    /// Waits until a change that began at this entry is at its end.
    async fn committed(&self, begun: LogId, target: &Membership) -> Result<(), ChangeError> {
        let mut status = self.status.clone();
        loop {
            status.borrow_and_update();
            let report = self.report().await?;
            if report.commit >= begun.index && !report.is_changing_membership {
                return match are_alike(&report.membership, target) {
                    true => Ok(()),
                    false => Err(ChangeError::Unknown),
                };
            }
            status.changed().await.map_err(|_| ChangeError::Ended)?;
        }
    }
}

/// Whether a node has never been in a cluster. The log of one that has would be cut off.
fn is_new(introduction: &Introduction) -> bool {
    introduction.knows.is_empty() && introduction.last == LogId::default()
}

fn check_member(membership: &Membership, id: NodeId) -> Result<(), ChangeError> {
    match membership.all().contains(&id) {
        true => Ok(()),
        false => Err(ChangeError::NothingToRemove(id)),
    }
}

fn check_learner(membership: &Membership, id: NodeId) -> Result<(), ChangeError> {
    match (membership.is_voter(id), membership.all().contains(&id)) {
        (true, _) => Err(ChangeError::VoterAlready(id)),
        (false, false) => Err(ChangeError::NoMember(id)),
        (false, true) => Ok(()),
    }
}

/// Nothing would be committed any more, this change included, without a majority of those who would vote.
fn check_quorum(report: &Report, target: &Membership) -> Result<(), ChangeError> {
    let answers = |id| report.follower(id).is_some_and(|follower| follower.answers);
    let voters: Vec<String> = target.voters().map(|id| id.to_string()).collect();
    match voters.is_empty() || target.is_majority(|id| id == report.id || answers(id)) {
        true => Ok(()), // That nobody would vote, the core says.
        false => Err(ChangeError::WouldStop(voters.join(", "))),
    }
}

fn with_addresses(membership: Membership, addresses: &AddressBook) -> Membership {
    membership
        .all()
        .into_iter()
        .fold(membership, |members, id| {
            let mut member = members.member(id).cloned().unwrap_or_default();
            let known = addresses.addresses(id);
            if !known.peer.is_empty() {
                member.peer_address = known.peer;
            }
            if !known.client.is_empty() {
                member.client_address = known.client;
            }
            members.with_member(id, member)
        })
}

/// Whether the same nodes vote, and the same learn.
fn are_alike(one: &Membership, other: &Membership) -> bool {
    one.voters().eq(other.voters()) && one.learners().eq(other.learners())
}
