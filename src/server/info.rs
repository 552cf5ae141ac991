//! `INFO`.

use std::fmt::Write;

use bytes::Bytes;

use super::reply::Reply;
use super::{REDIS_VERSION, Server};
use crate::node::{NodeId, Report};

/// The sections that are asked for, or all.
pub(super) async fn info(server: &Server, wanted: &[Bytes]) -> Reply {
    let is_wanted = |name: &str| {
        let all = ["all", "default", "everything"];
        let is = |word: &Bytes, name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        wanted.is_empty()
            || wanted
                .iter()
                .any(|word| is(word, name) || all.iter().any(|all| is(word, all)))
    };
    let mut sections = about_server(server);
    if let Some(report) = server.report().await {
        sections.extend(about_node(server, &report));
        sections.extend(about_storage(&report));
    }
    let mut text = String::new();
    for (name, fields) in sections.iter().filter(|(name, _)| is_wanted(name)) {
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

type Section = (&'static str, Vec<(String, String)>);

fn section<const N: usize>(
    name: &'static str,
    fields: [(&'static str, &dyn std::fmt::Display); N],
) -> Section {
    let fields = fields.into_iter();
    let fields = fields.map(|(field, value)| (field.to_owned(), value.to_string()));
    (name, fields.collect())
}

fn about_server(server: &Server) -> Vec<Section> {
    let (usage, sessions) = (&server.gauges.usage, &server.gauges.sessions);
    let uptime = server.started.elapsed().as_secs();
    let (keys, expires) = (usage.keys(), usage.keys_that_expire());
    vec![
        section(
            "Server",
            [
                ("redis_version", &REDIS_VERSION),
                ("redis_mode", &"cluster"),
                ("duramen_version", &env!("CARGO_PKG_VERSION")),
                ("os", &std::env::consts::OS),
                ("process_id", &std::process::id()),
                ("uptime_in_seconds", &uptime),
            ],
        ),
        section(
            "Clients",
            [
                ("connected_clients", &server.connected()),
                ("maxclients", &server.places_max),
                ("open_sessions", &sessions.count()),
            ],
        ),
        section(
            "Memory",
            [
                ("used_memory", &usage.bytes()),
                ("maxmemory", &server.memory_bytes_max().unwrap_or(0)),
                ("maxmemory_policy", &"noeviction"),
            ],
        ),
        section("Cluster", [("cluster_enabled", &1)]),
        section(
            "Keyspace",
            [("db0", &format!("keys={keys},expires={expires},avg_ttl=0"))],
        ),
    ]
}

fn about_node(server: &Server, report: &Report) -> Vec<Section> {
    let name = |node: Option<NodeId>| node.map_or("none".to_owned(), |node| node.to_string());
    let list = |nodes: Vec<String>| nodes.join(",");
    let voters = list(
        report
            .membership
            .voters()
            .map(|id| id.to_string())
            .collect(),
    );
    let learners = list(
        report
            .membership
            .learners()
            .map(|id| id.to_string())
            .collect(),
    );
    let waits_for = report.waits_for.iter();
    let waits_for = list(
        waits_for
            .map(|(id, badness)| format!("{id}={badness}"))
            .collect(),
    );
    vec![
        replication(server, report),
        section(
            "Raft",
            [
                ("raft_node", &report.id),
                ("raft_cluster", &report.cluster),
                ("raft_uuid", &format!("{:032x}", report.uuid)),
                ("raft_boot", &report.boot),
                ("raft_leader", &name(report.leader)),
                ("raft_term", &report.term),
                ("raft_commit", &report.commit),
                ("raft_applied", &report.applied),
                ("raft_voters", &voters),
                ("raft_learners", &learners),
                ("raft_waits_for", &waits_for),
                ("raft_torn_dropped", &report.counts.torn_entries_dropped),
            ],
        ),
    ]
}

fn about_storage(report: &Report) -> Vec<Section> {
    let (log, snapshots, counts) = (&report.log, &report.snapshots, &report.counts);
    let diverged_at = snapshots.diverged_at;
    let diverged_at = diverged_at.map_or("none".to_owned(), |index| index.to_string());
    let writing_ms = log.writing_for.map_or(0, |time| time.as_millis());
    vec![
        section(
            "Log",
            [
                ("log_first", &report.first),
                ("log_last", &report.last),
                ("log_entries_in_memory", &report.entries),
                ("log_bytes_in_memory", &report.entry_bytes),
                ("log_damaged_entries", &report.bad_entries),
                ("log_batches", &log.batches_durable),
                ("log_batches_queued", &log.batches_queued),
                ("log_in_flight_bytes", &log.in_flight_bytes),
                (
                    "log_batches_per_write_p50",
                    &log.batches_per_write.quantile(0.5),
                ),
            ],
        ),
        section(
            "Disk",
            [
                ("disk_trouble", &report.trouble.as_deref().unwrap_or("none")),
                ("disk_sync_micros_p50", &log.sync_micros.quantile(0.5)),
                ("disk_sync_micros_p99", &log.sync_micros.quantile(0.99)),
                ("disk_writing_for_ms", &writing_ms),
                ("disk_log_segments", &log.segments),
                ("disk_log_bytes", &log.segment_bytes),
                ("disk_log_spare_bytes", &log.spare_bytes),
                ("disk_log_dead_share", &format!("{:.2}", log.dead_share())),
            ],
        ),
        section(
            "Snapshots",
            [
                ("snapshots", &snapshots.count),
                ("snapshot_newest", &snapshots.newest),
                ("snapshot_bytes", &snapshots.bytes),
                ("snapshots_taken", &counts.snapshots_taken),
                ("snapshots_installed", &counts.snapshots_installed),
                ("snapshot_state_lost", &u8::from(snapshots.is_state_lost)),
                ("snapshot_missing_chunks", &snapshots.missing_chunks),
                ("snapshot_diverged_at", &diverged_at),
            ],
        ),
    ]
}

/// As Redis says it: a line for each follower, or who the master is.
fn replication(server: &Server, report: &Report) -> Section {
    let split = |node: NodeId| {
        let address = server.addresses.client_address(node)?;
        let (host, port) = address.rsplit_once(':')?;
        Some((host.to_owned(), port.to_owned()))
    };
    let mut fields = Vec::new();
    let mut add = |field: &str, value: String| fields.push((field.to_owned(), value));
    if report.is_leader() {
        add("role", "master".to_owned());
        add("connected_slaves", report.followers.len().to_string());
        for (number, follower) in report.followers.iter().enumerate() {
            let (host, port) = split(follower.id).unwrap_or_default();
            let state = if follower.answers { "online" } else { "down" };
            let (node, offset) = (follower.id, follower.match_index);
            let value = format!("ip={host},port={port},state={state},offset={offset},node={node}");
            add(&format!("slave{number}"), value);
        }
    } else {
        add("role", "slave".to_owned());
        if let Some((host, port)) = report.leader.and_then(split) {
            add("master_host", host);
            add("master_port", port);
        }
        let status = if report.leader.is_some() {
            "up"
        } else {
            "down"
        };
        add("master_link_status", status.to_owned());
    }
    add("master_repl_offset", report.applied.to_string());
    ("Replication", fields)
}
