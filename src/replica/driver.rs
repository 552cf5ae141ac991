//! Runs a node in real time: one thread, which waits for inputs and for the next tick, one that applies, and one for each job.
//!
//! The node's thread has a runtime, in which its connections to other nodes live too: from what reads a message to the node, and from
//! the node to what sends, it is a call. To wake another thread for that takes longer than most turns.

use std::pin::pin;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use duramen_wal::NodeId;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::node::{
    Applier, Change, Clock, Error, Input, Job, Node, NotDone, OnAdmitted, OnApplied, OnChange,
    OnIntroduction, OnReport, OnTransfer, StateMachine, Status, SystemClock, Work,
};
use crate::transport::{Endpoint, Introduction, Network, Packet, Refusal};

/// A way to talk to a running node. Cheap to clone. When the last one is dropped the node ends; but a network may have one, for
/// what it receives, as that of [`TcpTransport`](crate::transport) does.
pub struct Handle<S: StateMachine> {
    sender: Arc<LastWord<S>>,
}

/// What a node's thread takes its inputs from.
pub(super) struct Inbox<S: StateMachine> {
    receiver: UnboundedReceiver<Input<S>>,
    /// For what comes from the node's own disk and jobs.
    sender: UnboundedSender<Input<S>>,
}

/// Says stop when it goes.
struct LastWord<S: StateMachine>(UnboundedSender<Input<S>>);

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
    /// A handle, and the inbox to give to [`run`].
    pub(super) fn channel() -> (Handle<S>, Inbox<S>) {
        let (sender, receiver) = unbounded_channel();
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

/// Runs a node until it is stopped, every [`Handle`] is gone, or it must not go on.
///
/// `on_status` is called whenever the status has changed. On return its applier and its jobs have ended.
///
/// A turn may wait for the disk, and the end waits for threads. So this is for a runtime in which nothing is but what the node has to
/// do with other nodes, on a thread of its own.
///
/// # Errors
/// The node must not go on.
///
/// # Panics
/// In a thread without a tokio runtime; and if the state machine has panicked.
pub(super) async fn run<S: StateMachine, N: Network>(
    node: &mut Node<S, N, SystemClock>,
    inbox: Inbox<S>,
    mut on_status: impl FnMut(Status),
) -> Result<(), Error> {
    let Inbox {
        mut receiver,
        sender,
    } = inbox;
    let written = sender.clone();
    node.wake_with(move || {
        let _ = written.send(Input::Written); // A node that has ended does not want to know.
    });
    let mut jobs = Jobs::default();
    let applying = Applying::start(node.take_applier(), sender.clone())?;
    let mut status = node.status();
    on_status(status);
    let mut due = node.next_turn();
    let mut alarm = pin!(sleep(node.until_next_turn()));
    loop {
        while let Some(work) = node.take_work() {
            applying.put(work, node.is_applier_idle());
        }
        jobs.start(node, &sender);
        if status != node.status() {
            status = node.status();
            on_status(status);
        }
        if !receiver.is_empty() {
            yield_now().await; // However much clients ask, what other nodes say is read in between.
        }
        if due != node.next_turn() {
            due = node.next_turn();
            alarm
                .as_mut()
                .reset(Instant::now() + node.until_next_turn());
        }
        tokio::select! {
            biased;
            Some(first) = receiver.recv() => {
                let more = std::iter::from_fn(|| receiver.try_recv().ok());
                if !node.handle_some(std::iter::once(first).chain(more)) {
                    return Ok(());
                }
            }
            () = alarm.as_mut() => {}
        }
        node.turn()?;
    }
}

/// The thread that applies. When this is dropped, it has ended, and with it the state machine.
struct Applying<S: StateMachine> {
    applier: Arc<Mutex<Applier<S>>>,
    work: Option<Sender<Work<S>>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: StateMachine> Applying<S> {
    fn start(applier: Applier<S>, node: UnboundedSender<Input<S>>) -> Result<Applying<S>, Error> {
        let (sender, work) = mpsc::channel::<Work<S>>();
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
        sender: &UnboundedSender<Input<S>>,
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
