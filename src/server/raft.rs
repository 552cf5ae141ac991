//! `RAFT`: who belongs to the cluster and who leads it, for whoever looks after it.
//!
//! * `RAFT MEMBERS`
//! * `RAFT ADD id peer-address`, `RAFT PROMOTE id`, `RAFT REMOVE id`, `RAFT REPLACE old new`
//! * `RAFT TRANSFER [id]`
//!
//! The leader answers; another node says `-MOVED 0 address`. A change is answered when it is committed. `-TRYAGAIN` and
//! `-BEHIND` mean that nothing was changed, and that it may be later.

use bytes::Bytes;

use super::client::Client;
use super::commands::{Plan, Steps, error, unknown_subcommand};
use super::reply::Reply;
use super::{Machine, Server};
use crate::node::{ADDRESS_BYTES_MAX, ChangeRefused, NodeId, Report};
use crate::replica::{ChangeError, Members};

/// What is to be done about the members.
#[derive(Debug)]
pub(super) enum Command {
    Members,
    Add { id: NodeId, address: String },
    Promote(NodeId),
    Remove(NodeId),
    Replace { old: NodeId, new: NodeId },
    Transfer(Option<NodeId>),
}

pub(super) fn plan(_: &Server, _: &mut Client, request: &[Bytes]) -> Plan {
    let sub = request[1].to_ascii_lowercase();
    let command = match (&sub[..], &request[2..]) {
        (b"members", []) => Some(Command::Members),
        (b"add", [id, address]) => id_of(id)
            .zip(text_of(address))
            .map(|(id, address)| Command::Add { id, address }),
        (b"promote", [id]) => id_of(id).map(Command::Promote),
        (b"remove", [id]) => id_of(id).map(Command::Remove),
        (b"replace", [old, new]) => id_of(old)
            .zip(id_of(new))
            .map(|(old, new)| Command::Replace { old, new }),
        (b"transfer", []) => Some(Command::Transfer(None)),
        (b"transfer", [id]) => id_of(id).map(|id| Command::Transfer(Some(id))),
        _ => return unknown_subcommand("RAFT", request),
    };
    match command {
        Some(command) => Plan::Steps(Steps::Raft(command)),
        None => error("ERR a node is a number, and an address is HOST:PORT"),
    }
}

/// Carries out a command.
pub(super) async fn run(server: &Server, command: Command) -> Reply {
    let members = &server.members;
    let done = carry_out(members, command).await;
    done.unwrap_or_else(|error| reply_to_error(members, &error))
}

fn id_of(word: &Bytes) -> Option<NodeId> {
    std::str::from_utf8(word).ok()?.parse().ok().map(NodeId)
}

fn text_of(word: &Bytes) -> Option<String> {
    let text = std::str::from_utf8(word).ok()?;
    let is_address = text.contains(':') && text.len() <= ADDRESS_BYTES_MAX;
    is_address.then(|| text.to_owned())
}

async fn carry_out(members: &Members<Machine>, command: Command) -> Result<Reply, ChangeError> {
    match command {
        Command::Members => return list(members).await,
        Command::Add { id, address } => members.add(id, &address).await?,
        Command::Promote(id) => members.promote(id).await?,
        Command::Remove(id) => members.remove(id).await?,
        Command::Replace { old, new } => members.replace(old, new).await?,
        Command::Transfer(to) => {
            let leader = members.transfer(to).await?;
            return Ok(Reply::Integer(leader.0 as i64));
        }
    }
    Ok(Reply::OK)
}

fn reply_to_error(members: &Members<Machine>, error: &ChangeError) -> Reply {
    match error {
        ChangeError::NotLeader { leader } => {
            let leader = leader.and_then(|leader| members.addresses().client_address(leader));
            match leader {
                Some(address) => Reply::error(format!("MOVED 0 {address}")),
                None => {
                    Reply::error("CLUSTERDOWN no leader is known: is a majority of the nodes up?")
                }
            }
        }
        ChangeError::Refused(ChangeRefused::Behind { .. }) => {
            Reply::error(format!("BEHIND {error}"))
        }
        ChangeError::Refused(
            ChangeRefused::InProgress { .. }
            | ChangeRefused::HandingOver(_)
            | ChangeRefused::TooEarly,
        ) => Reply::error(format!("TRYAGAIN {error}")),
        error => Reply::error(format!("ERR {error}")),
    }
}

/// The leader's view; or this node's, if it knows of no leader that clients can reach.
async fn list(members: &Members<Machine>) -> Result<Reply, ChangeError> {
    let report = members.report().await?;
    let leader = report.leader.filter(|leader| *leader != report.id);
    let reached = leader.and_then(|leader| members.addresses().client_address(leader));
    if reached.is_some() {
        return Err(ChangeError::NotLeader { leader });
    }
    let all = report.membership.all();
    let described = all.into_iter().map(|id| describe(members, &report, id));
    Ok(Reply::map([
        ("cluster", Reply::bulk(report.cluster.clone())),
        ("node", number(report.id.0)),
        (
            "leader",
            report.leader.map_or(Reply::Nil, |leader| number(leader.0)),
        ),
        ("term", number(report.term.0)),
        ("commit", number(report.commit.0)),
        ("last", number(report.last.0)),
        ("changing", number(report.is_changing_membership.into())),
        ("members", Reply::Array(described.collect())),
    ]))
}

fn describe(members: &Members<Machine>, report: &Report, id: NodeId) -> Reply {
    let membership = &report.membership;
    let role = if membership.voters().any(|voter| voter == id) {
        "voter"
    } else if membership.is_voter(id) {
        "outgoing"
    } else {
        "learner"
    };
    let member = membership.member(id).cloned().unwrap_or_default();
    let known = members.addresses().addresses(id);
    let or = |known: String, other| if known.is_empty() { other } else { known };
    let follower = report.follower(id);
    let is_own = id == report.id;
    let matched = follower.map(|follower| follower.match_index.0);
    let matched = matched.or(is_own.then_some(report.last.0));
    let answers = follower
        .map(|follower| follower.answers)
        .or(is_own.then_some(true));
    Reply::map([
        ("id", number(id.0)),
        ("role", Reply::bulk(role)),
        ("peer", Reply::bulk(or(known.peer, member.peer_address))),
        (
            "client",
            Reply::bulk(or(known.client, member.client_address)),
        ),
        ("uuid", Reply::bulk(format!("{:032x}", member.uuid))),
        ("matched", matched.map_or(Reply::Nil, number)),
        (
            "answers",
            answers.map_or(Reply::Nil, |answers| number(answers.into())),
        ),
    ])
}

fn number(number: u64) -> Reply {
    Reply::Integer(number as i64)
}
