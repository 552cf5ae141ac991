//! What the server asks of the node: writes through the log, reads by a question to the leader's peers, and whether there is a leader.

use std::time::Duration;

use duramen_wal::NodeId;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::undone::Undone;
use super::{Machine, Server};
use crate::kv::{Command, Failure, Kv, Output, Request};
use crate::node::{LogTime, NotDone, Status};
use crate::session::{Action, Given};

/// How long a request waits for a leader to be elected.
const LEADER_TIMEOUT: Duration = Duration::from_secs(2);

impl Server {
    /// Carries out commands, in order. With a write among them, through the log. Each has its output then.
    pub(super) async fn carry_out(
        &self,
        mut commands: Vec<Command>,
        is_readonly: bool,
    ) -> Result<Vec<Output>, Undone> {
        let count = commands.len();
        if !commands.iter().any(Command::is_write) {
            self.wait_to_read(is_readonly).await?;
            let query = move |kv: &Kv| {
                let outputs = commands.iter().map(|command| kv.view().query(command));
                outputs.collect()
            };
            return self.read(query).await;
        }
        self.wait_to_lead().await?;
        if count > 1 {
            return match self.change(&Request::Batch(commands)).await? {
                Output::List(outputs) if outputs.len() == count => Ok(outputs),
                other => Ok(vec![other; count]),
            };
        }
        let command = commands.pop().expect("there is one");
        Ok(vec![self.change(&Request::One(command)).await?])
    }

    /// Puts a request into the log, and waits until it is applied.
    pub(super) async fn change(&self, request: &Request) -> Result<Output, Undone> {
        match self.act(Action::Plain(&request.encode())).await? {
            Given::Output(output) => Ok(output),
            _ => Ok(Output::Failed(Failure::Unknown)),
        }
    }

    pub(super) async fn act(&self, action: Action<'_>) -> Result<Given<Output>, Undone> {
        let (sender, answer) = oneshot::channel();
        let on_applied = move |output| drop(sender.send(output)); // The client may have left.
        let command = action.encode(LogTime::now());
        self.node.propose(command, Box::new(on_applied));
        let answer = answer.await.unwrap_or(Err(NotDone::Unknown));
        answer.map_err(|not_done| self.undone(not_done))
    }

    /// Looks at the store, as new as it is anywhere.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Kv) -> T + Send + 'static,
    ) -> Result<T, Undone> {
        let (sender, answer) = oneshot::channel();
        self.node.read(move |machine: Result<&Machine, NotDone>| {
            drop(sender.send(machine.map(|machine| query(machine.inner()))));
        });
        match answer.await.unwrap_or(Err(NotDone::Unknown)) {
            Ok(found) => Ok(found),
            // A read changes nothing, so it may be asked again whatever became of it.
            Err(NotDone::Unknown) => {
                Err(Undone::TryAgain("the read could not be confirmed in time"))
            }
            Err(not_done) => Err(self.undone(not_done)),
        }
    }

    fn undone(&self, not_done: NotDone) -> Undone {
        match not_done {
            NotDone::NotLeader { leader } => {
                let elsewhere = leader.filter(|leader| *leader != self.id());
                match elsewhere.and_then(|leader| self.addresses.client_address(leader)) {
                    Some(address) => Undone::Moved(address),
                    None => Undone::TryAgain("the leader has changed, the command was not applied"),
                }
            }
            NotDone::Full | NotDone::Failed => Undone::CannotWrite(not_done.to_string()),
            NotDone::TooLarge { .. } => Undone::TooLarge(not_done.to_string()),
            NotDone::Unknown => Undone::Unknown,
        }
    }

    /// Waits until this node may be asked for a read.
    pub(super) async fn wait_to_read(&self, is_readonly: bool) -> Result<(), Undone> {
        match is_readonly {
            true => self.wait_for_leader().await.map(|_| ()),
            false => self.wait_to_lead().await,
        }
    }

    /// Waits until a leader is known. It is an error if it is not this node.
    pub(super) async fn wait_to_lead(&self) -> Result<(), Undone> {
        let leader = self.wait_for_leader().await?;
        match leader == self.id() {
            true => Ok(()),
            false => Err(self.undone(NotDone::NotLeader {
                leader: Some(leader),
            })),
        }
    }

    /// Waits until a leader is known, and where clients reach it.
    async fn wait_for_leader(&self) -> Result<NodeId, Undone> {
        let is_known = |status: &Status| {
            let leader = status.leader?;
            (leader == status.id || self.addresses.client_address(leader).is_some())
                .then_some(leader)
        };
        if let Some(leader) = is_known(&self.status()) {
            return Ok(leader);
        }
        let mut status = self.status.clone();
        let known = status.wait_for(|status| is_known(status).is_some());
        match timeout(LEADER_TIMEOUT, known).await {
            Ok(Ok(status)) => is_known(&status).ok_or(Undone::NoLeader),
            Ok(Err(_)) => Err(Undone::TryAgain("the node has stopped")),
            Err(_) => Err(Undone::NoLeader),
        }
    }
}
