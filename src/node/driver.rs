//! Runs a node in real time: one thread, which waits for inputs and for the next tick.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::{Clock, Input, Node, NotDone, OnApplied, StateMachine, Status, SystemClock};
use crate::raft::Envelope;
use crate::storage;
use crate::transport::Network;

/// A way to talk to a running node. Cheap to clone.
pub struct Handle<S: StateMachine> {
    inbox: Sender<Input<S>>,
}

impl<S: StateMachine> Clone for Handle<S> {
    fn clone(&self) -> Handle<S> {
        Handle {
            inbox: self.inbox.clone(),
        }
    }
}

impl<S: StateMachine> Handle<S> {
    /// A handle, and the inbox to give to [`spawn`].
    pub fn channel() -> (Handle<S>, Receiver<Input<S>>) {
        let (inbox, receiver) = channel();
        (Handle { inbox }, receiver)
    }

    /// Takes in a message of a peer.
    pub fn message(&self, envelope: Envelope) {
        self.put(Input::Message(envelope));
    }

    /// Replicates a command, which must not be empty. `on_applied` is called on the node's thread, so it must be quick;
    /// it is dropped without a call if the node has ended.
    pub fn propose(&self, command: Bytes, on_applied: OnApplied<S>) {
        self.put(Input::Propose {
            command,
            on_applied,
        });
    }

    /// Runs a query on the state machine, linearizably: it sees every command that was answered before this call. Runs
    /// on the node's thread, so it must be quick; it is dropped without a call if the node has ended.
    pub fn read(&self, query: impl FnOnce(Result<&S, NotDone>) + Send + 'static) {
        self.put(Input::Read(Box::new(query)));
    }

    /// Ends the node. What was proposed before and not answered has an unknown outcome.
    pub fn stop(&self) {
        self.put(Input::Stop);
    }

    fn put(&self, input: Input<S>) {
        // A node that has ended takes nothing. The input is dropped, and whoever waits learns of it by that.
        let _ = self.inbox.send(input);
    }
}

/// Starts a thread that runs a node until it is stopped, every [`Handle`] is gone, or its storage fails.
///
/// `on_status` is called on that thread whenever the status has changed. When the thread has ended, so has the node, and
/// its directory is unlocked.
pub fn spawn<S: StateMachine, N: Network + 'static>(
    mut node: Node<S, N, SystemClock>,
    inbox: Receiver<Input<S>>,
    mut on_status: impl FnMut(Status) + Send + 'static,
) -> std::io::Result<thread::JoinHandle<Result<(), storage::Error>>> {
    thread::Builder::new()
        .name("node".to_owned())
        .spawn(move || {
            let mut status = node.status();
            on_status(status);
            loop {
                let wait = node.next_turn().saturating_sub(node.clock.now());
                if !take_inputs(&mut node, &inbox, wait) {
                    return Ok(());
                }
                node.turn()?;
                if status != node.status() {
                    status = node.status();
                    on_status(status);
                }
            }
        })
}

/// Waits for an input, then takes all that are there: they share a write. Says whether the node is to go on.
fn take_inputs<S: StateMachine, N: Network, C: Clock>(
    node: &mut Node<S, N, C>,
    inbox: &Receiver<Input<S>>,
    wait: Duration,
) -> bool {
    let first = match inbox.recv_timeout(wait) {
        Ok(input) => input,
        Err(RecvTimeoutError::Timeout) => return true,
        Err(RecvTimeoutError::Disconnected) => return false,
    };
    for input in std::iter::once(first)
        .chain(inbox.try_iter())
        .take(INPUTS_PER_TURN_MAX)
    {
        if matches!(input, Input::Stop) {
            return false;
        }
        node.handle(input);
    }
    true
}

/// Bounds the size of a write, and how long a tick may be late.
const INPUTS_PER_TURN_MAX: usize = 4096;
