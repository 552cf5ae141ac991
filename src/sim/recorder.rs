//! A state machine that is watched: whatever node applies it, and whenever.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use duramen_wal::NodeId;

use crate::kv::{Kv, Output};
use crate::node::{Frozen, LogTime, StateMachine};
use crate::session::{Given, Sessions};

/// All commands that were ever applied, in order, with what they gave.
pub(super) type Applied = Arc<Mutex<Vec<(Bytes, Given<Output>)>>>;

/// A key/value store with sessions that compares what it applies with what the others applied (State Machine Safety, figure 3), across snapshots
/// too.
pub(super) struct Recorder {
    sessions: Sessions<Kv>,
    id: NodeId,
    /// How many commands are in the state.
    applied: usize,
    all: Applied,
}

impl Recorder {
    pub(super) fn new(id: NodeId, all: Applied) -> Recorder {
        Recorder {
            sessions: Sessions::new(Kv::default()),
            id,
            applied: 0,
            all,
        }
    }

    /// The store, to look at.
    pub(super) fn store(&self) -> &Kv {
        self.sessions.inner()
    }
}

impl StateMachine for Recorder {
    type Output = Given<Output>;

    fn apply(&mut self, command: &[u8]) -> Given<Output> {
        let output = self.sessions.apply(command);
        let mut all = self.all.lock().expect("one thread");
        match all.get(self.applied) {
            None => all.push((Bytes::copy_from_slice(command), output.clone())),
            Some((known, gave)) => {
                let number = self.applied;
                assert_eq!(known, command, "command {number} at {}", self.id);
                assert_eq!(*gave, output, "of command {number} at {}", self.id);
            }
        }
        self.applied += 1;
        output
    }

    fn freeze(&self) -> Frozen {
        let (applied, sessions) = (self.applied as u64, self.sessions.freeze());
        Box::new(move |to| {
            to.write_all(&applied.to_le_bytes())?;
            sessions(to)
        })
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        let mut applied = [0; 8];
        from.read_exact(&mut applied)?;
        self.applied = u64::from_le_bytes(applied) as usize;
        self.sessions.restore(from)
    }

    fn advance_to(&mut self, now: LogTime) {
        self.sessions.advance_to(now);
    }

    fn next_deadline(&self) -> Option<LogTime> {
        self.sessions.next_deadline()
    }

    fn tick(&self, now: LogTime) -> Option<Bytes> {
        self.sessions.tick(now)
    }
}
