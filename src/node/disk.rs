//! A disk that takes no more: full, or failed.
//!
//! | what happens | the node |
//! |---|---|
//! | there is no space for a write of the log | stays, takes no commands, and looks for space every second |
//! | there is no space for a snapshot | goes on; the next one may have it |
//! | a write or sync of the log has failed | stays, silent: it says nothing that a disk must remember; it leads no more, unless it is the only voter. It serves reads of what was durable, until there is another term. Only a start anew ends that, since nobody knows what reached the disk |
//! | the disk does not hold what it must: a lost term, another node's log, damage without a name; a snapshot cannot be written or read | ends, with the error |
//!
//! The first three cost no promise, and a node that ended would take its part of the reads with it, and its peers' addresses of the
//! leader. In the last one there is something that the node must not act on.

use std::time::Duration;

use super::{Clock, Error, Node, NotDone, StateMachine};
use crate::raft::{Envelope, Write};
use crate::storage;
use crate::transport::Network;

/// What is wrong with a node's disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Trouble {
    /// It is full. The node takes no commands until there is space.
    #[error("full: no commands are taken until there is space")]
    Full,
    /// A write has failed. The node is silent until it is started again.
    #[error("failed: {0}; repair it and start the node again")]
    Failed(storage::Error),
}

/// How often a node looks whether there is space again.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);

impl<S: StateMachine, N: Network, C: Clock> Node<S, N, C> {
    /// What is wrong with its disk, if anything is.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.trouble, Some(Trouble::Failed(_)))
    }

    /// Why a read was not served in time. Without space the log, and so the state, stays behind what the read has to see.
    pub(super) fn why_unread(&self) -> NotDone {
        match self.trouble {
            Some(Trouble::Full) => NotDone::Full,
            Some(Trouble::Failed(_)) => NotDone::Failed,
            None => NotDone::Unknown,
        }
    }

    /// Begins to write what the core asks for. If the disk does not take it, what was to leave then must not, or not yet.
    pub(super) fn submit(&mut self, write: &Write, held: &mut Vec<Envelope>) -> Result<(), Error> {
        match self.storage.submit(write) {
            Ok(()) => self.submitted = write.id,
            Err(error) if error.is_full() => {
                self.raft.write_refused(write, std::mem::take(held));
                self.tell_network(); // A membership may have gone with it.
                self.is_full(&error);
            }
            Err(error) => {
                held.clear();
                self.survive::<()>(Err(error))?;
            }
        }
        Ok(())
    }

    fn is_full(&mut self, error: &storage::Error) {
        self.look_for_space_at = self.clock.now() + SPACE_INTERVAL;
        if self.trouble.is_none() {
            tracing::warn!(%error, "the disk is full: no commands are taken until there is space");
            self.trouble = Some(Trouble::Full);
        }
    }

    /// What the log said, unless there is no space, which it will be looked for, or it has failed: with that the node goes on, in
    /// silence.
    ///
    /// # Errors
    /// Any other: the node must not go on.
    pub(super) fn survive<T>(
        &mut self,
        done: Result<T, storage::Error>,
    ) -> Result<Option<T>, Error> {
        let error = match done {
            Ok(done) => return Ok(Some(done)),
            Err(error) => error,
        };
        if error.is_full() {
            self.raft.set_disk_full(true);
            self.is_full(&error);
            return Ok(None);
        }
        if !error.is_failed_write() {
            return Err(error.into());
        }
        if !self.has_failed() {
            tracing::error!(%error, "the disk has failed, and this node is silent from now on: repair the disk, then start the node again");
            self.trouble = Some(Trouble::Failed(error));
            self.held.clear();
            self.raft.disk_failed();
        }
        Ok(None)
    }

    /// Now and then looks whether a full disk has space again.
    pub(super) fn look_for_space(&mut self, now: Duration) -> Result<(), Error> {
        let is_due = now >= self.look_for_space_at && self.submitted <= self.durable;
        if !matches!(self.trouble, Some(Trouble::Full)) || !is_due {
            return Ok(());
        }
        self.look_for_space_at = now + SPACE_INTERVAL;
        self.compact()?; // That may give some.
        let found = self.storage.has_space();
        if let Some(has_space) = self.survive(found)? {
            self.raft.set_disk_full(!has_space);
            if has_space {
                tracing::info!("the disk has space again");
                self.trouble = None;
            }
        }
        Ok(())
    }
}
