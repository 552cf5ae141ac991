//! A client that never has a command carried out twice.
//!
//! [`Client`] opens a session, and repeats a command, with the same number, at whichever node, until it is answered: after a broken
//! connection, a change of the leader, or an outcome that nobody could tell. The cluster remembers the number, so the command is carried
//! out once. It blocks, and needs no runtime.

mod connection;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use connection::Connection;
pub use value::Value;

/// A cluster, and a session there. One command at a time.
///
/// ```no_run
/// use duramen::client::Client;
///
/// let mut client = Client::new(["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"]);
/// client.call(&["INCR", "counter"])?; // Once, whatever happens meanwhile.
/// let counter = client.ask(&["GET", "counter"])?;
/// println!("{:?}", counter.text());
/// # Ok::<(), duramen::client::Error>(())
/// ```
pub struct Client {
    addresses: Vec<String>,
    /// Whom to ask: one of them, or somebody they have named.
    at: String,
    /// Which of them is asked next if that one does not answer.
    next: usize,
    connection: Option<Connection>,
    session: Option<Session>,
    password: Option<String>,
    patience: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    id: u64,
    /// Of its next call.
    sequence: u64,
}

/// Without the password.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Client");
        shown.field("addresses", &self.addresses);
        shown.field("at", &self.at);
        shown.field("session", &self.session);
        shown.finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The cluster has answered: it cannot be done, and nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// No node has taken the command in time. It was not carried out, and will not be.
    #[error(
        "no node has answered in {waited:?}, the last one at {at} ({last}): is a majority of the nodes up? Nothing was done"
    )]
    Unreachable {
        /// For how long it was tried.
        waited: Duration,
        /// Whom it was asked last.
        at: String,
        /// What came of that.
        last: String,
    },
    /// A node has taken the command, and it is not known what became of it: it was carried out once, or will be, or never.
    #[error(
        "the outcome is unknown after {waited:?}, the last node was asked at {at} ({last}): the command was carried out once, or not at all"
    )]
    Unknown {
        /// For how long it was tried.
        waited: Duration,
        /// Whom it was asked last.
        at: String,
        /// What came of that.
        last: String,
    },
}

/// Whether that is what a node says of a password, and not of something else that keeps it from listening.
fn is_refusal(text: &str) -> bool {
    text.starts_with("WRONGPASS ") || text.starts_with("ERR AUTH ")
}

impl Error {
    /// As a person reads it.
    fn refused(text: &str) -> Error {
        Error::Refused(text.strip_prefix("ERR ").unwrap_or(text).to_owned())
    }
}

/// What came of asking one node.
enum Asked {
    Answered(Value),
    /// It said no, and it is not the node's own fault.
    Refused(String),
    /// Certainly not done: ask again.
    NotDone(String),
    /// It may be done: ask again.
    Unknown(String),
    NoSession,
    /// The number was not that of the session's next call: certainly not done.
    BadSequence(String),
}

/// How long a node has for an answer. It needs five seconds to say that it does not know.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);

impl Client {
    /// A client of the cluster with these nodes; one of them is enough as long as it is up. Does not connect yet.
    ///
    /// # Panics
    /// If there are none.
    pub fn new<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> Client {
        let addresses: Vec<String> = addresses.into_iter().map(Into::into).collect();
        let at = addresses.first().expect("a cluster has a node").clone();
        Client {
            addresses,
            at,
            next: 0,
            connection: None,
            session: None,
            password: None,
            patience: PATIENCE,
        }
    }

    /// What the nodes are told first.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Client {
        self.password = Some(password.into());
        self
    }

    /// How long a command is tried. Default 30 s.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Client {
        self.patience = patience;
        self
    }

    /// Where the node is that is asked first.
    pub fn at(&self) -> &str {
        &self.at
    }

    /// Has a command carried out that changes the store, once. What it gave is durable.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unreachable`]: nothing was changed. [`Error::Unknown`].
    pub fn call(&mut self, command: &[impl AsRef<[u8]>]) -> Result<Value, Error> {
        let start = Instant::now();
        let mut is_sent = false;
        loop {
            let session = self.open_session(start)?;
            let (id, sequence) = (session.id.to_string(), session.sequence.to_string());
            let head = ["SESSION", "CALL", &id, &sequence].map(str::as_bytes);
            let command = command.iter().map(AsRef::as_ref);
            let words: Vec<&[u8]> = head.into_iter().chain(command).collect();
            match self.ask_patiently(&words, start, &mut is_sent) {
                Ok(Asked::NoSession) if is_sent => {
                    // It has expired while nobody answered.
                    self.session = None;
                    return Err(self.unknown(start, "the session has expired meanwhile"));
                }
                Ok(Asked::NoSession) => self.session = None,
                Ok(Asked::Answered(value)) => {
                    let sequence = session.sequence + 1;
                    self.session = Some(Session {
                        sequence,
                        ..session
                    });
                    return Ok(value);
                }
                // Not what the command gave, but what kept a node from it: an earlier attempt may be on its way all the same.
                Ok(Asked::Refused(text)) if is_sent && !text.starts_with("ERR ") => {
                    self.abandon(session);
                    return Err(self.unknown(start, &text));
                }
                Ok(
                    Asked::Refused(text)
                    | Asked::BadSequence(text)
                    | Asked::NotDone(text)
                    | Asked::Unknown(text),
                ) => {
                    self.abandon(session);
                    return Err(Error::refused(&text));
                }
                Err(error) => {
                    self.session = None; // Its number may be used, or not.
                    return Err(error);
                }
            }
        }
    }

    /// Asks for something that may be asked twice: a read, or a command for the operator.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unreachable`], [`Error::Unknown`].
    pub fn ask(&mut self, words: &[impl AsRef<[u8]>]) -> Result<Value, Error> {
        match self.ask_patiently(words, Instant::now(), &mut false)? {
            Asked::Answered(value) => Ok(value),
            Asked::Refused(text)
            | Asked::BadSequence(text)
            | Asked::NotDone(text)
            | Asked::Unknown(text) => Err(Error::refused(&text)),
            Asked::NoSession => Err(Error::Refused("no such session".to_owned())),
        }
    }

    /// Ends the session. One that is not closed expires, an hour after it was used last.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Unknown`]: then it will expire.
    pub fn close(mut self) -> Result<(), Error> {
        match self.session.take() {
            None => Ok(()),
            Some(session) => match self.ask(&["SESSION", "CLOSE", &session.id.to_string()]) {
                Ok(_) | Err(Error::Refused(_)) => Ok(()),
                Err(error) => Err(error),
            },
        }
    }

    fn open_session(&mut self, start: Instant) -> Result<Session, Error> {
        if let Some(session) = self.session {
            return Ok(session);
        }
        let asked = self.ask_patiently(&["SESSION", "OPEN"], start, &mut false);
        // One that was opened and not heard of costs nothing, and expires.
        let opened = match asked {
            Ok(Asked::Answered(value)) => value,
            Ok(Asked::Refused(text)) => return Err(Error::refused(&text)),
            Ok(_) => return Err(self.unreachable(start, "no session could be opened")),
            Err(Error::Unknown { waited, at, last }) => {
                return Err(Error::Unreachable { waited, at, last });
            }
            Err(error) => return Err(error),
        };
        let id = opened.number();
        let id = id.ok_or_else(|| Error::Refused(format!("no session: {opened:?}")))?;
        Ok(*self.session.insert(Session { id, sequence: 1 }))
    }

    /// After an error it is not known whether the number was used. With another one, a call that is on its way still could be carried
    /// out beside a later one; so the session ends, and the next call has a new one.
    fn abandon(&mut self, session: Session) {
        self.session = None;
        let id = session.id.to_string();
        let _ = self.ask_one(&["SESSION", "CLOSE", &id]); // Else it expires.
    }

    /// Asks until there is an answer. Says whether a node may have taken it.
    fn ask_patiently(
        &mut self,
        words: &[impl AsRef<[u8]>],
        start: Instant,
        is_sent: &mut bool,
    ) -> Result<Asked, Error> {
        loop {
            let last = match self.ask_one(words) {
                Asked::NotDone(last) => last,
                Asked::Unknown(last) => {
                    *is_sent = true;
                    last
                }
                asked => return Ok(asked),
            };
            if start.elapsed() >= self.patience {
                return Err(match *is_sent {
                    true => self.unknown(start, &last),
                    false => self.unreachable(start, &last),
                });
            }
            sleep(PAUSE);
        }
    }

    fn unknown(&self, start: Instant, last: &str) -> Error {
        Error::Unknown {
            waited: start.elapsed(),
            at: self.at.clone(),
            last: last.to_owned(),
        }
    }

    fn unreachable(&self, start: Instant, last: &str) -> Error {
        Error::Unreachable {
            waited: start.elapsed(),
            at: self.at.clone(),
            last: last.to_owned(),
        }
    }

    /// Asks a node once. If that does not do, the next one is another one.
    fn ask_one(&mut self, words: &[impl AsRef<[u8]>]) -> Asked {
        let connection = match self.connected() {
            Ok(connection) => connection,
            Err(asked) => {
                self.try_next();
                return asked;
            }
        };
        let text = match connection.ask(words) {
            Ok(Ok(value)) => return Asked::Answered(value),
            Ok(Err(text)) => text,
            Err(error) => {
                self.try_next();
                return Asked::Unknown(error.to_string());
            }
        };
        let (kind, rest) = text.split_once(' ').unwrap_or((&text, ""));
        match kind {
            "MOVED" => {
                let address = rest.rsplit(' ').next().unwrap_or_default();
                self.turn_to(address.to_owned());
                Asked::NotDone(text)
            }
            "TRYAGAIN" | "CLUSTERDOWN" | "MISCONF" => {
                self.try_next();
                Asked::NotDone(text)
            }
            "ERR" if rest.starts_with("outcome unknown") => Asked::Unknown(text),
            "NOSESSION" => Asked::NoSession,
            "BADSEQUENCE" => Asked::BadSequence(text),
            "ERR" if rest.starts_with("max number of clients") => {
                self.try_next();
                Asked::NotDone(text)
            }
            _ => Asked::Refused(text),
        }
    }

    /// A connection to the node that is asked; or what came of that.
    fn connected(&mut self) -> Result<&mut Connection, Asked> {
        if self.connection.is_none() {
            let not_done = |error: io::Error| Asked::NotDone(error.to_string());
            let mut connection = Connection::open(&self.at, ANSWER_TIMEOUT).map_err(not_done)?;
            if let Some(password) = &self.password {
                let said = connection.ask(&["AUTH", password]).map_err(not_done)?;
                let at = &self.at;
                said.map_err(|text| match is_refusal(&text) {
                    true => Asked::Refused(format!(
                        "the node at {at} does not take the password: {text}"
                    )),
                    false => Asked::NotDone(text),
                })?;
            }
            self.connection = Some(connection);
        }
        Ok(self.connection.as_mut().expect("it was just opened"))
    }

    fn try_next(&mut self) {
        self.next = (self.next + 1) % self.addresses.len();
        self.turn_to(self.addresses[self.next].clone());
    }

    fn turn_to(&mut self, address: String) {
        self.connection = None;
        self.at = address;
    }
}
