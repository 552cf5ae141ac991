//! What the commands that look after a running cluster ask it.
//!
//! They follow the leader, and ask again when they are told that nothing was done. Other than
//! [`Client::ask`](duramen::client::Client::ask) they give up at once where nobody answers: a person may have mistyped the address.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use duramen::client::{Connection, Value};
use serde_json::json;

use super::address::parse_address;

/// Whom to ask.
#[derive(Debug, Args)]
pub(super) struct At {
    /// Where any node of the cluster answers clients
    #[arg(long, global = true, value_name = "ADDR", default_value = "127.0.0.1:7401", value_parser = parse_address)]
    pub(super) at: String,

    /// What the nodes want to hear first, if they were started with --requirepass
    #[arg(
        long,
        global = true,
        value_name = "PASSWORD",
        env = "DURAMEN_PASSWORD",
        hide_env_values = true
    )]
    pub(super) password: Option<String>,

    /// Print one line of JSON
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl At {
    pub(super) fn client(&self) -> Client {
        Client::new(&self.at, self.password.as_deref())
    }

    /// Says what was done.
    pub(super) fn say(&self, done: &str) {
        match self.json {
            true => println!("{}", json!({ "done": done })),
            false => println!("{done}"),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// Nobody is there.
    #[error(
        "cannot reach a node at {at}: {source}; is it running? --at (or --join, of a node that starts) may name any other member, by its address for clients"
    )]
    Unreachable { at: String, source: io::Error },
    /// The connection broke before the answer came.
    #[error(
        "the node at {at} went away before it answered ({source}): it is not known whether that was done; `duramen member list` shows it"
    )]
    Lost { at: String, source: io::Error },
    /// It wants a password, and was told none.
    #[error(
        "the node at {at} wants a password: say it with --password, or in the environment as DURAMEN_PASSWORD"
    )]
    NoPassword { at: String },
    /// It wants another password, or none.
    #[error("the node at {at} does not take the password: {text}")]
    WrongPassword { at: String, text: String },
    /// A learner lacks too much of the log.
    #[error("{0}")]
    Behind(String),
    /// The node said no.
    #[error("{0}")]
    Refused(String),
    /// It is not what it should be.
    #[error(
        "{at} does not answer as a node of duramen does: a node answers clients at the address that its --resp says"
    )]
    Nonsense { at: String },
}

/// A cluster, as seen from one of its nodes.
pub(super) struct Client {
    /// Where a person has said that a node is, and who is asked: that one, or the leader.
    given: String,
    at: String,
    password: Option<String>,
}

/// A change is answered within 10 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long it is asked again while there is no leader.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

impl Client {
    /// Of a node's address for clients, and what it wants to hear first.
    pub(super) fn new(at: &str, password: Option<&str>) -> Client {
        Client {
            given: at.to_owned(),
            at: at.to_owned(),
            password: password.map(str::to_owned),
        }
    }

    /// Where the node is that has answered last.
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    /// Asks whoever leads.
    pub(super) fn ask(&mut self, words: &[&str]) -> Result<Value, Error> {
        let until = Instant::now() + PATIENCE;
        loop {
            let text = match self.ask_once(words) {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(text)) => text,
                // The leader may have gone, and who named it does not know that yet.
                Err(Error::Unreachable { .. })
                    if self.at != self.given && Instant::now() < until =>
                {
                    self.at.clone_from(&self.given);
                    sleep(PAUSE);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (kind, rest) = text.split_once(' ').unwrap_or((&text, ""));
            match kind {
                "MOVED" => {
                    let address = rest.rsplit(' ').next().unwrap_or_default();
                    address.clone_into(&mut self.at);
                }
                "TRYAGAIN" | "CLUSTERDOWN" => {}
                "BEHIND" => return Err(Error::Behind(rest.to_owned())),
                "NOAUTH" => {
                    return Err(Error::NoPassword {
                        at: self.at.clone(),
                    });
                }
                "ERR" => return Err(Error::Refused(rest.to_owned())),
                _ => return Err(Error::Refused(text)),
            }
            if Instant::now() >= until {
                return Err(Error::Refused(rest.to_owned()));
            }
            sleep(PAUSE);
        }
    }

    /// One question, and the answer; `Err` in it is what the node says of an error.
    fn ask_once(&self, words: &[&str]) -> Result<Result<Value, String>, Error> {
        let connection = Connection::open(&self.at, ANSWER_TIMEOUT);
        let mut connection = connection.map_err(|source| Error::Unreachable {
            at: self.at.clone(),
            source,
        })?;
        if let Some(password) = &self.password {
            let said = self.exchange(&mut connection, &["AUTH", password])?;
            said.map_err(|text| Error::WrongPassword {
                at: self.at.clone(),
                text,
            })?;
        }
        self.exchange(&mut connection, words)
    }

    fn exchange(
        &self,
        connection: &mut Connection,
        words: &[&str],
    ) -> Result<Result<Value, String>, Error> {
        connection.ask(words).map_err(|source| {
            let at = self.at.clone();
            match source.kind() {
                io::ErrorKind::InvalidData => Error::Nonsense { at },
                _ => Error::Lost { at, source },
            }
        })
    }
}
