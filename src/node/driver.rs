//! Runs a node in real time: one thread, which waits for inputs and for the next tick, one that applies, and one for each job.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use duramen_wal::NodeId;

use super::job::Job;
use super::{
    Applier, Change, Clock, Error, Input, Node, NotDone, OnAdmitted, OnApplied, OnChange,
    OnIntroduction, OnReport, OnTransfer, StateMachine, Status, SystemClock, Work,
};
use crate::transport::{Endpoint, Introduction, Network, Packet, Refusal};

/// A way to talk to a running node. Cheap to clone. When the last one is dropped the node ends; but a network may have one, for
/// what it receives, as that of [`TcpTransport`](crate::transport) does.
pub struct Handle<S: StateMachine> {
    sender: Arc<LastWord<S>>,
}

/// What a node's thread takes its inputs from.
pub struct Inbox<S: StateMachine> {
    receiver: Receiver<Input<S>>,
    /// For what comes from the node's own disk and jobs.
    sender: Sender<Input<S>>,
}

/// Says stop when it goes.
struct LastWord<S: StateMachine>(Sender<Input<S>>);

impl<S: StateMachine> Drop for LastWord<S> {
    fn drop(&mut self) {
        let _ = self.0.send(Input::Stop); // It may have ended already.
    }
}

impl<S: StateMachine> Clone for Handle<S> {
    fn clone(&self) -> Handle<S> {
        Handle {
            sender: self.sender.clone(),
        }
    }
}

impl<S: StateMachine> Handle<S> {
    /// A handle, and the inbox to give to [`spawn`].
    pub fn channel() -> (Handle<S>, Inbox<S>) {
        let (sender, receiver) = channel();
        let handle = Handle {
            sender: Arc::new(LastWord(sender.clone())),
        };
        (handle, Inbox { receiver, sender })
    }

    /// Replicates a command. `on_applied` is called on the thread that applies, or on the node's if the command was not applied, so
    /// it must be quick; it is dropped without a call if the node has ended.
    ///
    /// # Panics
    /// If the command is empty.
    pub fn propose(&self, command: Bytes, on_applied: OnApplied<S>) {
        assert!(!command.is_empty(), "a command has at least one byte");
        self.put(Input::Propose {
            command,
            on_applied,
        });
    }

    /// Runs a query on the state machine, linearizably: it sees every command that was answered before this call, by whatever
    /// node. A node that does not lead asks its leader what that is. The query runs on the thread that applies, or on the node's, so
    /// it must be quick; it is dropped without a call if the node has ended.
    pub fn read(&self, query: impl FnOnce(Result<&S, NotDone>) + Send + 'static) {
        self.put(Input::Read(Box::new(query)));
    }

    /// Changes who belongs to the cluster: see [`Raft::change_membership`](crate::raft::Raft::change_membership). `on_change` is
    /// called on the node's thread when the change has begun, or is refused.
    pub fn change_membership(&self, change: Change, on_change: OnChange) {
        self.put(Input::ChangeMembership { change, on_change });
    }

    /// Hands the leadership over: see [`Raft::transfer_leadership`](crate::raft::Raft::transfer_leadership). `on_transfer` is called
    /// on the node's thread when that has begun, or is refused.
    pub fn transfer_leadership(&self, to: NodeId, on_transfer: OnTransfer) {
        self.put(Input::TransferLeadership { to, on_transfer });
    }

    /// Asks how the node is. `on_report` is called on its thread; it is dropped without a call if the node has ended.
    pub fn report(&self, on_report: OnReport) {
        self.put(Input::Report(on_report));
    }

    /// Ends the node. What was proposed before and not answered has an unknown outcome.
    pub fn stop(&self) {
        self.put(Input::Stop);
    }

    fn put(&self, input: Input<S>) {
        // A node that has ended takes nothing. The input is dropped, and whoever waits learns of it by that.
        let _ = self.sender.0.send(input);
    }
}

/// What a transport asks a running node.
impl<S: StateMachine> Endpoint for Handle<S> {
    fn introduce(&self, on_introduction: OnIntroduction) {
        self.put(Input::Introduce { on_introduction });
    }

    fn admit(&self, introduction: Introduction, on_admitted: OnAdmitted) {
        self.put(Input::Admit {
            introduction,
            on_admitted,
        });
    }

    fn refused(&self, by: NodeId, by_uuid: u128, refusal: Refusal) {
        self.put(Input::Refused {
            by,
            by_uuid,
            refusal,
        });
    }

    fn deliver(&self, packet: Packet) {
        self.put(Input::Packet(packet));
    }
}

/// Starts a thread that runs a node until it is stopped, every [`Handle`] is gone, or it must not go on.
///
/// `on_status` is called on that thread whenever the status has changed. When the thread has ended, so have the node and its
/// jobs, and its directory is unlocked.
pub fn spawn<S: StateMachine, N: Network + 'static>(
    mut node: Node<S, N, SystemClock>,
    inbox: Inbox<S>,
    mut on_status: impl FnMut(Status) + Send + 'static,
) -> std::io::Result<JoinHandle<Result<(), Error>>> {
    let written = inbox.sender.clone();
    node.storage.wake_with(move || {
        let _ = written.send(Input::Written); // A node that has ended does not want to know.
    });
    let run = move || {
        let mut jobs = Jobs::default();
        let applying = Applying::start(node.take_applier(), inbox.sender.clone())?;
        let mut status = node.status();
        on_status(status);
        loop {
            let wait = node.next_turn().saturating_sub(node.clock.now());
            if !take_inputs(&mut node, &inbox.receiver, wait) {
                return Ok(());
            }
            node.turn()?;
            while let Some(work) = node.take_work() {
                applying.put(work, node.is_applier_idle());
            }
            jobs.start(&mut node, &inbox.sender);
            if status != node.status() {
                status = node.status();
                on_status(status);
            }
        }
    };
    thread::Builder::new().name("node".to_owned()).spawn(run)
}

/// The thread that applies. When this is dropped, it has ended, and with it the state machine.
struct Applying<S: StateMachine> {
    applier: Arc<Mutex<Applier<S>>>,
    work: Option<Sender<Work<S>>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: StateMachine> Applying<S> {
    fn start(applier: Applier<S>, node: Sender<Input<S>>) -> Result<Applying<S>, Error> {
        let (sender, work) = channel::<Work<S>>();
        let applier = Arc::new(Mutex::new(applier));
        let shared = applier.clone();
        let run = move || {
            for work in work {
                let done = lock(&shared).run(work);
                if let Some(done) = done {
                    let _ = node.send(Input::Done(done)); // A node that has ended does not want to know.
                }
            }
        };
        let thread = thread::Builder::new().name("apply".to_owned()).spawn(run);
        Ok(Applying {
            applier,
            work: Some(sender),
            thread: Some(thread.map_err(Error::NoThread)?),
        })
    }

    /// Has something done. A query is quick, and to wake a thread takes longer: while the applier is idle it is answered here.
    ///
    /// # Panics
    /// If the state machine has panicked: the node ends as it does.
    fn put(&self, work: Work<S>, is_idle: bool) {
        if is_idle && work.is_query() {
            let done = lock(&self.applier).run(work);
            assert!(done.is_none(), "nothing is heard of a query");
            return;
        }
        let sender = self.work.as_ref().expect("it is taken at the end only");
        let put = sender.send(work);
        assert!(put.is_ok(), "the state machine has panicked");
    }
}

fn lock<S: StateMachine>(applier: &Mutex<Applier<S>>) -> MutexGuard<'_, Applier<S>> {
    applier.lock().expect("a state machine does not panic")
}

impl<S: StateMachine> Drop for Applying<S> {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // If it panicked, that was said on standard error.
        }
    }
}

/// The threads of a node's jobs. When this is dropped, they have ended.
#[derive(Default)]
struct Jobs(Vec<JoinHandle<()>>);

impl Jobs {
    fn start<S: StateMachine, N: Network, C: Clock>(
        &mut self,
        node: &mut Node<S, N, C>,
        sender: &Sender<Input<S>>,
    ) {
        while let Some(job) = node.take_job() {
            self.0.retain(|job| !job.is_finished());
            let sender = sender.clone();
            let job = Arc::new(Mutex::new(Some(job)));
            let here = job.clone();
            let run = move || {
                if let Some(finished) = run_job(&job) {
                    let _ = sender.send(finished); // Nor does it want to know this.
                }
            };
            match thread::Builder::new()
                .name("snapshot".to_owned())
                .spawn(run)
            {
                Ok(thread) => self.0.push(thread),
                Err(error) => {
                    tracing::error!(%error, "cannot start a thread: a snapshot holds up the node");
                    run_job(&here)
                        .into_iter()
                        .for_each(|finished| node.handle(finished));
                }
            }
        }
    }
}

/// Runs a job, unless somebody has.
fn run_job<S: StateMachine>(job: &Mutex<Option<Job>>) -> Option<Input<S>> {
    let job = job.lock().unwrap_or_else(PoisonError::into_inner).take();
    job.map(|job| Input::Finished(job.run()))
}

impl Drop for Jobs {
    fn drop(&mut self) {
        for job in self.0.drain(..) {
            let _ = job.join(); // It does not panic; if it does, that is said on standard error.
        }
    }
}

/// Waits for an input, then takes all that are there: they share a write. Says whether the node is to go on.
pub(super) fn take_inputs<S: StateMachine, N: Network, C: Clock>(
    node: &mut Node<S, N, C>,
    inbox: &Receiver<Input<S>>,
    wait: Duration,
) -> bool {
    let first = match inbox.recv_timeout(wait) {
        Ok(input) => input,
        Err(RecvTimeoutError::Timeout) => return true,
        Err(RecvTimeoutError::Disconnected) => return false,
    };
    let mut bytes = 0;
    for input in std::iter::once(first)
        .chain(inbox.try_iter())
        .take(INPUTS_PER_TURN_MAX)
    {
        bytes += match &input {
            Input::Stop => return false,
            Input::Propose { command, .. } => command.len(),
            _ => 0,
        };
        node.handle(input);
        if bytes >= COMMAND_BYTES_PER_TURN_MAX {
            break;
        }
    }
    true
}

/// Bounds the size of a write, and how long a tick may be late.
const INPUTS_PER_TURN_MAX: usize = 4096;
/// The same for large commands: a write that is larger than what the log has under way makes the node wait for the disk, and no
/// heartbeat leaves meanwhile.
pub(super) const COMMAND_BYTES_PER_TURN_MAX: usize = 4 << 20;
