//! Exactly-once sessions around any state machine (paper, section 8; thesis, 6.3).
//!
//! A client that does not hear the answer to a command cannot know whether it was carried out, and if it sends it again it may be
//! carried out twice. So it opens a *session*, through the log, and gives each command a number: 1, 2, and so on, one at a time.
//! The state machine remembers, for each session, the last number and what it gave. The same number again gives the same again.
//!
//! [`Sessions`] is that memory, put around a state machine of any kind. It is part of the replicated state, and so of each snapshot.
//!
//! # Invariants
//!
//! * A call is carried out at most once, whichever leaders it goes through, and however often.
//! * Time comes from the log and never goes back. A session ends when it was not used for its lifetime by that time, on every node
//!   alike; a call of a session that has ended is refused, not carried out.

mod command;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::node::{Frozen, LogTime, StateMachine};

pub use command::Action;

use crate::canary::planted;
use table::{Table, Verdict};

/// A session, as the log numbers them. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A state machine with sessions around it. Its commands are [`Action`]s, encoded.
///
/// ```
/// use duramen::kv::{Command, Kv, Output};
/// use duramen::node::{LogTime, StateMachine};
/// use duramen::session::{Action, Given, Sessions};
///
/// let mut machine = Sessions::new(Kv::default());
/// let time = LogTime::now();
/// let Given::Opened(session) = machine.apply(&Action::Open { lifetime_ms: 60_000 }.encode(time)) else {
///     panic!("a session is always opened");
/// };
/// let command = Command::append("key", "x").encode();
/// let call = Action::Call { session, sequence: 1, command: &command }.encode(time);
/// let once = machine.apply(&call);
/// assert_eq!(once, Given::Output(Output::Integer(1)));
/// assert_eq!(machine.apply(&call), once); // Again: nothing is appended.
/// ```
pub struct Sessions<S: StateMachine> {
    table: Table<S::Output>,
    inner: S,
    open: OpenSessions,
}

/// How many sessions are open, for whoever wants to know it without asking the node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct OpenSessions(Arc<AtomicUsize>);

impl OpenSessions {
    /// How many.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// What an [`Action`] gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given<O> {
    /// What the command gave, now or when it was carried out.
    Output(O),
    /// A session was opened.
    Opened(SessionId),
    /// A session was closed.
    Closed,
    /// Time has gone on.
    Ticked,
    /// Nothing was done.
    Refused(CallRefused),
    /// Nothing was done: a later version of the program asks for it.
    Unknown,
}

/// Why a call was not carried out, and will not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallRefused {
    /// The session was closed, or not used for its lifetime, or never opened. What became of its last call is not known any more.
    #[error("no such session: it was closed, or has expired; open another one")]
    NoSession,
    /// The number is neither that of the last call nor the next one.
    #[error("call {sequence} is out of order: the last one of this session was {last}")]
    OutOfOrder {
        /// The number of the call.
        sequence: u64,
        /// That of the last one.
        last: u64,
    },
    /// The last call had this number, and another command.
    #[error("call {sequence} was made with another command")]
    OtherCommand {
        /// The number of the call.
        sequence: u64,
    },
}

const VERSION: u8 = 1;

impl<S: StateMachine> Sessions<S>
where
    S::Output: Clone,
{
    /// No sessions, and a state machine at its beginning.
    pub fn new(inner: S) -> Sessions<S> {
        Sessions {
            table: Table::default(),
            inner,
            open: OpenSessions::default(),
        }
    }

    /// The state machine, to look at.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// How many sessions are open, now and later.
    pub fn open_sessions(&self) -> OpenSessions {
        self.open.clone()
    }

    fn call(&mut self, session: SessionId, sequence: u64, command: &[u8]) -> Given<S::Output> {
        match self.table.judge(session, sequence, command) {
            Verdict::Repeat(_) if planted("call_is_repeated") => {
                Given::Output(self.inner.apply(command))
            }
            Verdict::Repeat(output) => Given::Output(output),
            Verdict::Refuse(refused) => Given::Refused(refused),
            Verdict::Execute => {
                let output = self.inner.apply(command);
                self.table
                    .remember(session, sequence, command, output.clone());
                Given::Output(output)
            }
        }
    }
}

impl<S: StateMachine> StateMachine for Sessions<S>
where
    S::Output: Clone + Serialize + DeserializeOwned + Sync,
{
    type Output = Given<S::Output>;

    fn apply(&mut self, command: &[u8]) -> Given<S::Output> {
        let Some((time, action)) = command::decode(command) else {
            return Given::Unknown;
        };
        self.advance_to(time);
        let given = match action {
            Action::Plain(command) => Given::Output(self.inner.apply(command)),
            Action::Open { lifetime_ms } => Given::Opened(self.table.open(lifetime_ms)),
            Action::Call {
                session,
                sequence,
                command,
            } => self.call(session, sequence, command),
            Action::Close { session } => match self.table.close(session) {
                true => Given::Closed,
                false => Given::Refused(CallRefused::NoSession),
            },
            Action::Tick => Given::Ticked,
        };
        self.open.0.store(self.table.len(), Ordering::Relaxed);
        given
    }

    /// A byte for the version, the sessions, the state machine.
    fn freeze(&self) -> Frozen {
        let (table, inner) = (self.table.freeze(), self.inner.freeze());
        Box::new(move |to| {
            to.write_all(&[VERSION])?;
            if !planted("snapshot_without_sessions") {
                table.write(to)?;
            } else {
                Table::<S::Output>::default().freeze().write(to)?;
            }
            inner(to)
        })
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        let mut version = [0];
        from.read_exact(&mut version)?;
        if version != [VERSION] {
            let [version] = version;
            let what = format!(
                "the sessions have format version {version}, this program reads version {VERSION}"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        self.table = Table::read(from)?;
        self.open.0.store(self.table.len(), Ordering::Relaxed);
        self.inner.restore(from)
    }

    fn advance_to(&mut self, now: LogTime) {
        self.table.advance_to(now);
        self.inner.advance_to(self.table.now);
    }

    fn next_deadline(&self) -> Option<LogTime> {
        let deadlines = [self.table.next_deadline(), self.inner.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    fn tick(&self, now: LogTime) -> Option<Bytes> {
        let is_due = self.next_deadline().is_some_and(|at| at <= now);
        is_due.then(|| Action::Tick.encode(now))
    }
}
