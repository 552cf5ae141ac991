//! The face of a Redis Cluster: one shard with all slots, whose master is the leader. As long as nobody leads, it is the last leader that
//! is known, or else this node, so that clients always have somebody to ask.

use bytes::Bytes;
use crc::{CRC_16_XMODEM, Crc};
use duramen_wal::NodeId;

use super::Server;
use super::client::Client;
use super::commands::{Plan, Steps, unknown_subcommand};
use super::reply::Reply;
use crate::node::Report;

const SLOTS: u16 = 16384;

/// The slot of a key: of the part in braces, if there is one that is not empty.
pub(super) fn slot(key: &[u8]) -> u16 {
    const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
    let tag = key.iter().position(|&byte| byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|&byte| byte == b'}')?;
        (close > 0).then_some(&rest[..close])
    });
    CRC.checksum(tag.unwrap_or(key)) % SLOTS
}

/// What a client wants to know about the cluster.
#[derive(Debug, Clone, Copy)]
pub(super) enum Question {
    Slots,
    Shards,
    Nodes,
    Info,
    MyId,
}

pub(super) fn plan(_: &Server, _: &mut Client, request: &[Bytes]) -> Plan {
    let sub = request[1].to_ascii_lowercase();
    Plan::Steps(Steps::Cluster(match (&sub[..], request.len()) {
        (b"slots", 2) => Question::Slots,
        (b"shards", 2) => Question::Shards,
        (b"nodes", 2) => Question::Nodes,
        (b"info", 2) => Question::Info,
        (b"myid", 2) => Question::MyId,
        (b"keyslot", 3) => return Plan::Reply(Reply::Integer(slot(&request[2]).into())),
        _ => return unknown_subcommand("CLUSTER", request),
    }))
}

/// Answers a question.
pub(super) async fn answer(server: &Server, question: Question) -> Reply {
    let Some(report) = server.report().await else {
        return Reply::error("CLUSTERDOWN the node has stopped");
    };
    let face = Face::new(server, &report);
    match question {
        Question::Slots => face.slots(),
        Question::Shards => face.shards(),
        Question::Nodes => face.nodes(),
        Question::Info => face.info(),
        Question::MyId => Reply::bulk(id_of(report.id, report.uuid)),
    }
}

/// A node as clients see it.
struct Member {
    node: NodeId,
    id: String,
    host: String,
    port: i64,
    is_master: bool,
}

/// The cluster as clients see it.
struct Face<'a> {
    report: &'a Report,
    /// The master is the first.
    members: Vec<Member>,
}

impl Face<'_> {
    /// All nodes of which it is known where clients reach them.
    fn new<'a>(server: &Server, report: &'a Report) -> Face<'a> {
        let reached = |node: NodeId| {
            let member = report.membership.member(node);
            let known = server.addresses.client_address(node);
            let address = known.or(member.map(|member| member.client_address.clone()))?;
            let (host, port) = address.rsplit_once(':')?;
            let host = host.trim_matches(['[', ']']).to_owned();
            let uuid = match node == report.id {
                true => report.uuid,
                false => member.map_or(0, |member| member.uuid),
            };
            Some(Member {
                node,
                id: id_of(node, uuid),
                host,
                port: port.parse().ok()?,
                is_master: false,
            })
        };
        let mut all = report.membership.all();
        all.insert(report.id);
        let mut members: Vec<Member> = all.into_iter().filter_map(reached).collect();
        let leader = report.leader.or(server.last_leader());
        let is_there = |leader: &NodeId| members.iter().any(|member| member.node == *leader);
        let master = leader.filter(is_there).unwrap_or(report.id);
        for member in &mut members {
            member.is_master = member.node == master;
        }
        members.sort_by_key(|member| (!member.is_master, member.node));
        Face { report, members }
    }

    fn slots(&self) -> Reply {
        let mut range = vec![Reply::Integer(0), Reply::Integer(i64::from(SLOTS) - 1)];
        range.extend(self.members.iter().map(|member| {
            Reply::Array(vec![
                Reply::bulk(member.host.clone()),
                Reply::Integer(member.port),
                Reply::bulk(member.id.clone()),
                Reply::Array(Vec::new()),
            ])
        }));
        Reply::Array(vec![Reply::Array(range)])
    }

    fn shards(&self) -> Reply {
        let applied = self.report.applied.0 as i64;
        let nodes = self.members.iter().map(|member| {
            let role = if member.is_master {
                "master"
            } else {
                "replica"
            };
            Reply::map([
                ("id", Reply::bulk(member.id.clone())),
                ("port", Reply::Integer(member.port)),
                ("ip", Reply::bulk(member.host.clone())),
                ("endpoint", Reply::bulk(member.host.clone())),
                ("role", Reply::bulk(role)),
                ("replication-offset", Reply::Integer(applied)),
                ("health", Reply::bulk("online")),
            ])
        });
        let all = vec![Reply::Integer(0), Reply::Integer(i64::from(SLOTS) - 1)];
        let shard = Reply::map([
            ("slots", Reply::Array(all)),
            ("nodes", Reply::Array(nodes.collect())),
        ]);
        Reply::Array(vec![shard])
    }

    /// One line a node: id, address, flags, master, ping sent, pong received, epoch, link, slots.
    fn nodes(&self) -> Reply {
        let master = self.members.first().map_or("-", |master| &master.id);
        let term = self.report.term;
        let lines = self.members.iter().map(|member| {
            let (id, host, port) = (&member.id, &member.host, member.port);
            let bus = port + 10_000;
            let myself = if member.node == self.report.id {
                "myself,"
            } else {
                ""
            };
            let (role, of, slots) = match member.is_master {
                true => ("master", "-", format!(" 0-{}", SLOTS - 1)),
                false => ("slave", master, String::new()),
            };
            format!("{id} {host}:{port}@{bus} {myself}{role} {of} 0 0 {term} connected{slots}\n")
        });
        Reply::Verbatim(lines.collect())
    }

    fn info(&self) -> Reply {
        let state = match self.report.leader {
            Some(_) => "ok",
            None => "fail",
        };
        let (slots, known, term) = (SLOTS, self.members.len(), self.report.term);
        Reply::Verbatim(format!(
            "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:{slots}\r\ncluster_slots_ok:{slots}\r\n\
             cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:{known}\r\ncluster_size:1\r\n\
             cluster_current_epoch:{term}\r\ncluster_my_epoch:{term}\r\n"
        ))
    }
}

/// Redis wants 40 hex digits: those of the uuid, or of the node's number as long as that is not known.
fn id_of(node: NodeId, uuid: u128) -> String {
    match uuid {
        0 => format!("{:040x}", node.0),
        uuid => format!("{uuid:040x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // From redis-cli: CLUSTER KEYSLOT.
        for (key, expected) in [("a", 15495), ("foo", 12182), ("somekey", 11058), ("", 0)] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_eq!(slot(b"foo{hash_tag}"), 2515);
        assert_eq!(slot(b"{user1000}.following"), slot(b"{user1000}.followers"));
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
    }
}
