//! A whole node, with its storage, network and thread, started and stopped as one: what replicates a state machine of one's own.
//!
//! ```no_run
//! # use duramen::node::{NodeId, StateMachine};
//! # use duramen::replica::{Options, Replica};
//! # async fn example<S: StateMachine>(state: S) -> Result<(), Box<dyn std::error::Error>> {
//! let peers = [(NodeId(1), "10.0.0.1:7411"), (NodeId(2), "10.0.0.2:7411"), (NodeId(3), "10.0.0.3:7411")];
//! let replica = Replica::start(Options::new(NodeId(1), "./node-1", peers), state).await?;
//! let output = replica.propose("a command".into()).await?;
//! replica.stop().await?;
//! # Ok(()) }
//! ```
//!
//! It needs a tokio runtime. `examples/counter.rs` is a program with it.
//!
//! # Invariants
//!
//! * When [`stop`](Replica::stop) has returned, nothing of the replica is left: no thread, no task, no socket, and the directory is
//!   unlocked. The same may be started again at once.
//! * A replica that is dropped without it ends too, a little later.

mod driver;
mod error;
mod members;
mod options;
mod starting;
#[cfg(test)]
mod tests;

use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::node::{AddressBook, NotDone, Report, StateMachine, Status};
use crate::transport::TcpTransport;

pub use driver::Handle;
pub use error::{ChangeError, Error};
pub use members::Members;
pub use options::{Beginning, Options};
use starting::on_thread;

/// A running node. See the [module's documentation](self).
pub struct Replica<S: StateMachine> {
    handle: Handle<S>,
    status: watch::Receiver<Status>,
    addresses: AddressBook,
    transport: TcpTransport,
    thread: Option<thread::JoinHandle<Result<(), Error>>>,
}

/// How long a leader that is stopped waits for another one.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one attempt may take: the core gives it up after an election timeout.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(400);

impl<S: StateMachine> Replica<S> {
    /// Starts a node. `state` is the state machine at its beginning: it takes on what the node's directory holds.
    ///
    /// Waits up to 5 s for a predecessor that is still ending.
    ///
    /// # Errors
    /// The directory cannot be opened or is another node's; nothing can listen at the address; see [`Error`].
    pub async fn start(options: Options, state: S) -> Result<Replica<S>, Error> {
        starting::start(options, state).await
    }

    /// Replicates a command, which must not be empty: what applying it gave. Only the leader can.
    ///
    /// # Errors
    /// [`NotDone::NotLeader`]: it was not applied, and never will be. [`NotDone::Unknown`]: nobody can tell.
    pub async fn propose(&self, command: Bytes) -> Result<S::Output, NotDone> {
        let (sender, answer) = oneshot::channel();
        let on_applied = Box::new(|output| drop(sender.send(output)));
        self.handle.propose(command, on_applied);
        answer.await.unwrap_or(Err(NotDone::Unknown))
    }

    /// Reads the state machine, linearizably: the query sees every command that was answered before, at whichever node. The query runs on the node's thread, so it must be quick.
    ///
    /// # Errors
    /// It was not read.
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&S) -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        let (sender, answer) = oneshot::channel();
        self.handle
            .read(|state| drop(sender.send(state.map(query))));
        answer.await.unwrap_or(Err(NotDone::Unknown))
    }

    /// How the node sees itself.
    pub fn status(&self) -> Status {
        *self.status.borrow()
    }

    /// The same, to wait for changes of it. It closes when the node has ended.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// How the node is, in full. `None` if it has ended.
    pub async fn report(&self) -> Option<Report> {
        report_of(&self.handle).await
    }

    /// A way to talk to the node without waiting.
    pub fn handle(&self) -> Handle<S> {
        self.handle.clone()
    }

    /// Where the nodes are reached.
    pub fn addresses(&self) -> AddressBook {
        self.addresses.clone()
    }

    /// Changes who belongs to the cluster, and who leads it.
    pub fn members(&self) -> Members<S> {
        Members {
            handle: self.handle.clone(),
            status: self.status.clone(),
            addresses: self.addresses.clone(),
            transport: self.transport.clone(),
        }
    }

    /// Waits until the node ends by itself: its storage has failed, or others want nothing to do with it.
    /// [`stop`](Replica::stop) says why.
    pub async fn ended(&self) {
        let mut status = self.status.clone();
        while status.changed().await.is_ok() {}
    }

    /// Hands the leadership over, if the node leads and another one can, for which it waits up to 2 s; then ends the node.
    ///
    /// # Errors
    /// Why the node had ended by itself.
    pub async fn stop(mut self) -> Result<(), Error> {
        let _ = timeout(HAND_OVER_TIMEOUT, self.hand_over()).await; // Else they elect one.
        self.handle.stop();
        let thread = self.thread.take().expect("it is taken here only");
        let ended = on_thread("stop", move || thread.join()).await?;
        ended.map_err(|_| Error::Panicked)?
    }

    /// Until somebody else leads, and what this node had begun as the leader is decided.
    async fn hand_over(&self) {
        while let Some(report) = self.report().await {
            let (true, Some(to)) = (report.is_leader(), report.best_successor()) else {
                return;
            };
            self.handle.transfer_leadership(to, Box::new(|_| ())); // If it is refused, time goes by.
            let mut status = self.status.clone();
            let is_done = |status: &Status| {
                let other = status.leader.filter(|leader| *leader != status.id);
                other.is_some() && status.applied >= report.last
            };
            if let Ok(_done) = timeout(ATTEMPT_TIMEOUT, status.wait_for(is_done)).await {
                return;
            }
        }
    }
}

impl<S: StateMachine> Drop for Replica<S> {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

async fn report_of<S: StateMachine>(node: &Handle<S>) -> Option<Report> {
    let (sender, report) = oneshot::channel();
    node.report(Box::new(|report| drop(sender.send(report))));
    report.await.ok()
}
