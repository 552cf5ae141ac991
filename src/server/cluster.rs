//! The face of a Redis Cluster: one shard with all slots, whose master is the leader.

use bytes::Bytes;
use crc::{CRC_16_XMODEM, Crc};
use duramen_wal::NodeId;

use super::Server;
use super::client::Client;
use super::commands::{Plan, unknown_subcommand};
use super::reply::Reply;

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

pub(super) fn plan(server: &Server, _: &mut Client, request: &[Bytes]) -> Plan {
    let sub = request[1].to_ascii_lowercase();
    let reply = match (&sub[..], request.len()) {
        (b"slots", 2) => slots(server),
        (b"shards", 2) => shards(server),
        (b"nodes", 2) => nodes(server),
        (b"info", 2) => info(server),
        (b"myid", 2) => Reply::bulk(id_of(server.id())),
        (b"keyslot", 3) => Reply::Integer(slot(&request[2]).into()),
        _ => return unknown_subcommand("CLUSTER", request),
    };
    Plan::Reply(reply)
}

/// A node as clients see it.
struct Member {
    id: NodeId,
    host: String,
    port: i64,
    is_master: bool,
}

/// All nodes whose client address is known, the master first: the leader, or this node as long as there is none.
fn members(server: &Server) -> Vec<Member> {
    let addresses = server.client_addresses();
    let leader = server
        .status()
        .leader
        .filter(|leader| addresses.contains_key(leader));
    let master = leader.unwrap_or(server.id());
    let mut members: Vec<Member> = addresses
        .into_iter()
        .filter_map(|(id, address)| {
            let (host, port) = address.rsplit_once(':')?;
            Some(Member {
                id,
                host: host.trim_matches(['[', ']']).to_owned(),
                port: port.parse().ok()?,
                is_master: id == master,
            })
        })
        .collect();
    members.sort_by_key(|member| (!member.is_master, member.id));
    members
}

/// Redis wants 40 hex digits.
fn id_of(node: NodeId) -> String {
    format!("{:040x}", node.0)
}

fn slots(server: &Server) -> Reply {
    let mut range = vec![Reply::Integer(0), Reply::Integer(i64::from(SLOTS) - 1)];
    range.extend(members(server).into_iter().map(|member| {
        Reply::Array(vec![
            Reply::bulk(member.host),
            Reply::Integer(member.port),
            Reply::bulk(id_of(member.id)),
        ])
    }));
    Reply::Array(vec![Reply::Array(range)])
}

fn shards(server: &Server) -> Reply {
    let nodes = members(server).into_iter().map(|member| {
        Reply::Array(vec![
            Reply::bulk("id"),
            Reply::bulk(id_of(member.id)),
            Reply::bulk("port"),
            Reply::Integer(member.port),
            Reply::bulk("ip"),
            Reply::bulk(member.host.clone()),
            Reply::bulk("endpoint"),
            Reply::bulk(member.host),
            Reply::bulk("role"),
            Reply::bulk(if member.is_master {
                "master"
            } else {
                "replica"
            }),
            Reply::bulk("replication-offset"),
            Reply::Integer(server.status().applied.0 as i64),
            Reply::bulk("health"),
            Reply::bulk("online"),
        ])
    });
    Reply::Array(vec![Reply::Array(vec![
        Reply::bulk("slots"),
        Reply::Array(vec![
            Reply::Integer(0),
            Reply::Integer(i64::from(SLOTS) - 1),
        ]),
        Reply::bulk("nodes"),
        Reply::Array(nodes.collect()),
    ])])
}

/// One line a node: id, address, flags, master, ping sent, pong received, epoch, link, slots.
fn nodes(server: &Server) -> Reply {
    let members = members(server);
    let master = members
        .first()
        .map_or("-".to_owned(), |master| id_of(master.id));
    let term = server.status().term;
    let lines = members.iter().map(|member| {
        let (id, host, port) = (id_of(member.id), &member.host, member.port);
        let bus = port + 10_000;
        let myself = if member.id == server.id() {
            "myself,"
        } else {
            ""
        };
        let (role, of, slots) = match member.is_master {
            true => ("master", "-", format!(" 0-{}", SLOTS - 1)),
            false => ("slave", &master[..], String::new()),
        };
        format!("{id} {host}:{port}@{bus} {myself}{role} {of} 0 0 {term} connected{slots}\n")
    });
    Reply::bulk(lines.collect::<String>())
}

fn info(server: &Server) -> Reply {
    let status = server.status();
    let state = if status.leader.is_some() {
        "ok"
    } else {
        "fail"
    };
    let known = server.client_addresses().len();
    let (slots, term) = (SLOTS, status.term);
    Reply::bulk(format!(
        "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:{slots}\r\ncluster_slots_ok:{slots}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:{known}\r\ncluster_size:1\r\n\
         cluster_current_epoch:{term}\r\ncluster_my_epoch:{term}\r\n"
    ))
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
