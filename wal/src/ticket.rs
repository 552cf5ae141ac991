//! Waiting for a batch to become durable.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::Core;
use crate::error::Result;
use crate::pipeline::Waiter;

/// A batch on its way to the disk.
///
/// It can be waited for on this thread ([`wait`](Ticket::wait)), by a callback ([`on_durable`](Ticket::on_durable)), or as a
/// [`Future`], on any runtime. Tickets complete in the order of submission; each says that its batch *and all before it*
/// are durable. Dropping a ticket cancels nothing.
///
/// A ticket may outlive every [`Wal`](crate::Wal), and then keeps the directory locked. With
/// [`Options::manual_drive`](crate::Options::manual_drive) only [`wait`](Ticket::wait) and
/// [`Wal::drive`](crate::Wal::drive) write; a callback or a future waits for one of them.
///
/// ```
/// use duramen_wal::{Batch, GroupId, Options, Wal};
/// use std::sync::mpsc;
/// # let dir = tempfile::tempdir()?;
/// # let wal = Wal::create(dir.path().join("log"), Options::default())?;
/// let (told, tell) = mpsc::channel();
/// for n in 0..3 {
///     let mut batch = Batch::new();
///     batch.user_record(GroupId(n), "mine");
///     let told = told.clone();
///     wal.submit(batch)?.on_durable(move |outcome| {
///         let _ = told.send((n, outcome.is_ok())); // quick: the next one waits
///     });
/// }
/// let order: Vec<_> = tell.iter().take(3).collect();
/// assert_eq!(order, [(0, true), (1, true), (2, true)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a batch is durable only when its ticket says so"]
pub struct Ticket {
    core: Arc<Core>,
    number: u64,
    /// Who will be woken, once the future was polled.
    waker: Option<Waker>,
    is_attended: bool,
}

impl Ticket {
    pub(crate) fn new(core: Arc<Core>, number: u64) -> Ticket {
        Ticket {
            core,
            number,
            waker: None,
            is_attended: false,
        }
    }

    /// Waits until the batch is durable. If nobody writes, this thread does: a lone writer pays no hand-off.
    ///
    /// # Errors
    /// [`Error::Poisoned`](crate::Error::Poisoned): whether the batch is there will be known at the next open.
    pub fn wait(mut self) -> Result<()> {
        self.is_attended = true;
        self.core.pipeline.wait(self.number)
    }

    /// Calls `callback` once, when the batch is durable or has failed: on a thread that writes, or on this one if it is
    /// decided already. Callbacks are called one after the other, in the order of submission, and must be quick: the next
    /// one waits, and so does the thread. They may use the log. A panic ends the callback alone.
    pub fn on_durable(mut self, callback: impl FnOnce(Result<()>) + Send + 'static) {
        self.is_attended = true;
        let waiter = Waiter::Call(Box::new(callback));
        self.core.pipeline.when_durable(self.number, waiter);
    }

    /// Whether the batch is durable by now. If not, it is written soon, as if somebody waited. False for ever if the log was
    /// poisoned before.
    pub fn is_durable(&self) -> bool {
        self.core.pipeline.is_durable(self.number)
    }
}

impl Future for Ticket {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Ticket>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.is_attended = true;
        if let Some(outcome) = self.core.pipeline.outcome(self.number) {
            return Poll::Ready(outcome);
        }
        let waker = cx.waker();
        if self
            .waker
            .as_ref()
            .is_none_or(|before| !before.will_wake(waker))
        {
            let before = self.waker.replace(waker.clone());
            // If it was decided meanwhile, this wakes it at once.
            let pipeline = &self.core.pipeline;
            pipeline.wake_when_durable(self.number, waker.clone(), before);
        }
        Poll::Pending
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_attended {
            self.is_durable();
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
