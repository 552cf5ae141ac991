//! `duramen member` and `duramen transfer`: who belongs to a running cluster, and who leads it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use duramen::client::Value;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::Outcome;
use super::address::parse_peer;
use super::client::{At, Client, Error};

/// See and change who belongs to a running cluster
///
/// Any node may be asked with --at; the commands find the leader. Exit codes: 0 when the change is committed, 1 if it was not made or that
/// is not known (the error says which), 2 for wrong usage.
///
/// A node joins in three steps: start it with `duramen serve --join`, add it (it gets the log, and has no vote), and promote it when it
/// has caught up. `replace` does the last two, and removes the node whose place it takes.
#[derive(Debug, Args)]
pub(super) struct MemberCommand {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    at: At,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the members, and how far each is
    List,
    /// Add a node that was started with --join, without a vote
    Add {
        /// Its number, and the address at which the other nodes reach it
        #[arg(value_name = "ID=PEER_ADDR", value_parser = parse_peer)]
        node: (u64, String),
    },
    /// Give a node a vote, as soon as it has caught up
    Promote {
        /// Its number
        id: u64,
    },
    /// Remove a node, be it up or down
    Remove {
        /// Its number
        id: u64,
    },
    /// Let a node that was started with --join take the place of another one, be that up or down
    Replace {
        /// The number of the one that goes
        old: u64,
        /// The number of the one that comes, and the address at which the other nodes reach it
        #[arg(value_name = "NEW=PEER_ADDR", value_parser = parse_peer)]
        new: (u64, String),
    },
}

/// Hand the leadership over to another node
///
/// It ends well when the other node leads. Nothing is lost, and clients follow.
#[derive(Debug, Args)]
pub(super) struct Transfer {
    /// Its number [default: the voter that has the most of the log]
    #[arg(long, value_name = "ID")]
    to: Option<u64>,

    #[command(flatten)]
    at: At,
}

impl MemberCommand {
    pub(super) fn run(&self) -> Outcome {
        let mut client = self.at.client();
        let done = match &self.action {
            Action::List => return list(&mut client, self.at.json),
            Action::Add { node: (id, peer) } => {
                client.ask(&["RAFT", "ADD", &id.to_string(), peer])?;
                format!(
                    "node {id} is a member, and has no vote yet: `duramen member promote {id}` gives it one"
                )
            }
            Action::Promote { id } => {
                let id = id.to_string();
                when_caught_up(&mut client, &id, &["RAFT", "PROMOTE", &id])?;
                format!("node {id} votes")
            }
            Action::Remove { id } => {
                client.ask(&["RAFT", "REMOVE", &id.to_string()])?;
                format!(
                    "node {id} is no member any more: it may be stopped, and its directory deleted"
                )
            }
            Action::Replace { old, new } => {
                replace(&mut client, &old.to_string(), &new.0.to_string(), &new.1)?;
                format!("node {} votes in the place of node {old}", new.0)
            }
        };
        self.at.say(&done);
        Ok(())
    }
}

impl Transfer {
    pub(super) fn run(&self) -> Outcome {
        let to = self.to.map(|to| to.to_string());
        let words: Vec<&str> = ["RAFT", "TRANSFER"]
            .into_iter()
            .chain(to.as_deref())
            .collect();
        let leader = self.at.client().ask(&words)?;
        let leader = leader.number().ok_or("the answer makes no sense")?;
        match self.at.json {
            true => println!("{}", json!({ "leader": leader })),
            false => println!("node {leader} leads"),
        }
        Ok(())
    }
}

/// Adds the new node, unless an earlier attempt has, waits until it has caught up, and lets it take the other one's place.
fn replace(client: &mut Client, old: &str, new: &str, peer: &str) -> Outcome {
    let members = Members::ask(client)?;
    if members.find(old).is_none() {
        return Err(format!("node {old} is no member, so it cannot be replaced").into());
    }
    if members.find(new).is_none() {
        client.ask(&["RAFT", "ADD", new, peer])?;
    }
    when_caught_up(client, new, &["RAFT", "REPLACE", old, new])
}

/// A learner that has not moved for so long does not catch up.
const STUCK: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// Asks for something until the learner is far enough.
fn when_caught_up(client: &mut Client, learner: &str, words: &[&str]) -> Outcome {
    let progress = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        progress.set_style(style);
    }
    let mut moved = (None, Instant::now());
    loop {
        match client.ask(words) {
            Err(Error::Behind(_)) => {}
            done => {
                progress.finish_and_clear();
                return Ok(done.map(drop)?);
            }
        }
        let members = Members::ask(client)?;
        let matched = members
            .find(learner)
            .and_then(|node| node.field("matched")?.number());
        if matched != moved.0 {
            moved = (matched, Instant::now());
        }
        let has = matched.unwrap_or(0);
        progress.set_message(format!(
            "node {learner} has entry {has} of {}",
            members.last()
        ));
        progress.tick();
        if moved.1.elapsed() > STUCK {
            progress.finish_and_clear();
            return Err(format!("node {learner} has been at entry {has} of {} for 30 s: is it running, and can the leader reach it?", members.last()).into());
        }
        sleep(PAUSE);
    }
}

/// What `RAFT MEMBERS` says.
pub(super) struct Members(Value);

impl Members {
    /// Asks for it.
    pub(super) fn ask(client: &mut Client) -> Result<Members, Error> {
        let members = Members(client.ask(&["RAFT", "MEMBERS"])?);
        match members.cluster().is_empty() {
            false => Ok(members),
            true => Err(Error::Nonsense {
                at: client.at().to_owned(),
            }),
        }
    }

    /// The cluster's name.
    pub(super) fn cluster(&self) -> &str {
        self.0
            .field("cluster")
            .and_then(Value::text)
            .unwrap_or_default()
    }

    /// A member, by its number.
    pub(super) fn find(&self, id: &str) -> Option<&Value> {
        let mut all = self.all().iter();
        all.find(|member| number(member, "id").to_string() == id)
    }

    fn all(&self) -> &[Value] {
        match self.0.field("members") {
            Some(Value::Array(members)) => members,
            _ => &[],
        }
    }

    fn last(&self) -> u64 {
        number(&self.0, "last")
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value.field(name).and_then(Value::number).unwrap_or(0)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.field(name).and_then(Value::text).unwrap_or_default()
}

fn list(client: &mut Client, as_json: bool) -> Outcome {
    let members = Members::ask(client)?;
    let whole = &members.0;
    let leader = whole.field("leader").and_then(Value::number);
    if as_json {
        println!("{}", to_json(whole));
        return Ok(());
    }
    let led = leader.map_or("no leader".to_owned(), |leader| {
        format!("node {leader} leads")
    });
    println!(
        "cluster {:?}, term {}, {led}, {} entries",
        members.cluster(),
        number(whole, "term"),
        members.last()
    );
    if number(whole, "changing") == 1 {
        println!("a change of the members is under way");
    }
    println!(
        "{:<5} {:<9} {:<9} {:<10} {:<21} peers",
        "node", "role", "answers", "has entry", "clients"
    );
    for member in members.all() {
        let id = number(member, "id");
        let role = match leader == Some(id) {
            true => "leader",
            false => text(member, "role"),
        };
        let answers = match member.field("answers").and_then(Value::number) {
            Some(1) => "yes",
            Some(_) => "no",
            None => "?",
        };
        let matched = member.field("matched").and_then(Value::number);
        let matched = matched.map_or("?".to_owned(), |matched| matched.to_string());
        let (clients, peers) = (text(member, "client"), text(member, "peer"));
        println!("{id:<5} {role:<9} {answers:<9} {matched:<10} {clients:<21} {peers}");
    }
    Ok(())
}

/// Arrays of names and values as objects.
fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Nil => serde_json::Value::Null,
        Value::Integer(integer) => json!(integer),
        Value::Status(_) | Value::Bulk(_) => json!(value.text()),
        Value::Array(values) if values.first().is_some_and(|first| first.text().is_some()) => {
            let pairs = values.chunks_exact(2);
            let pairs = pairs.map(|pair| {
                let name = pair[0].text().unwrap_or_default();
                (name.to_owned(), to_json(&pair[1]))
            });
            pairs.collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(values) => values.iter().map(to_json).collect(),
    }
}
