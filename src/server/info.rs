//! `INFO`.

use std::fmt::Write;

use bytes::Bytes;

use super::reply::Reply;
use super::{REDIS_VERSION, Server};

/// The sections that are asked for, or all.
pub(super) fn info(server: &Server, wanted: &[Bytes]) -> Reply {
    let is_wanted = |name: &str| {
        let all = ["all", "default", "everything"];
        let is = |word: &Bytes, name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        wanted.is_empty()
            || wanted
                .iter()
                .any(|word| is(word, name) || all.iter().any(|all| is(word, all)))
    };
    let mut text = String::new();
    for (name, fields) in sections(server).iter().filter(|(name, _)| is_wanted(name)) {
        if !text.is_empty() {
            text += "\r\n";
        }
        let _ = write!(text, "# {name}\r\n"); // A string takes all.
        for (field, value) in fields {
            let _ = write!(text, "{field}:{value}\r\n");
        }
    }
    Reply::Verbatim(text)
}

type Fields = Vec<(&'static str, String)>;

fn sections(server: &Server) -> Vec<(&'static str, Fields)> {
    let status = server.status();
    let (usage, sessions) = (&server.gauges.usage, &server.gauges.sessions);
    let role = if server.leads() { "master" } else { "slave" };
    let leader = status
        .leader
        .map_or("none".to_owned(), |leader| leader.to_string());
    let (keys, expires) = (usage.keys(), usage.keys_that_expire());
    vec![
        (
            "Server",
            vec![
                ("redis_version", REDIS_VERSION.to_owned()),
                ("redis_mode", "cluster".to_owned()),
                ("duramen_version", env!("CARGO_PKG_VERSION").to_owned()),
                ("process_id", std::process::id().to_string()),
            ],
        ),
        (
            "Clients",
            vec![("connected_clients", server.connected().to_string())],
        ),
        (
            "Memory",
            vec![
                ("used_memory", usage.bytes().to_string()),
                (
                    "maxmemory",
                    server.memory_bytes_max().unwrap_or(0).to_string(),
                ),
                ("maxmemory_policy", "noeviction".to_owned()),
            ],
        ),
        ("Replication", vec![("role", role.to_owned())]),
        ("Cluster", vec![("cluster_enabled", "1".to_owned())]),
        (
            "Keyspace",
            vec![("db0", format!("keys={keys},expires={expires},avg_ttl=0"))],
        ),
        (
            "Raft",
            vec![
                ("open_sessions", sessions.count().to_string()),
                ("raft_node", status.id.to_string()),
                ("raft_leader", leader),
                ("raft_term", status.term.to_string()),
                ("raft_commit", status.commit.to_string()),
                ("raft_applied", status.applied.to_string()),
            ],
        ),
    ]
}
