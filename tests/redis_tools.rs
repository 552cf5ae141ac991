//! Stock tools against a cluster. They are not on every machine, so these tests are ignored by default; `.ci/run`
//! installs the tools and runs them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use redis::cluster::ClusterClient;
use support::{Nodes, wait_for};

fn redis_cli(port: &str, arguments: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-c", "-p", port])
        .args(arguments)
        .output();
    let output = output.expect("redis-cli is installed (Debian: redis-tools)");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
#[ignore = "needs redis-cli, which .ci/run installs"]
fn redis_cli_follows_the_leader_and_goes_on_when_it_is_killed() {
    let mut nodes = Nodes::start();
    let leader = nodes.leader();
    let follower = nodes.ids().into_iter().find(|id| *id != leader).unwrap();
    let address = nodes.address(follower);
    let port = address.rsplit_once(':').unwrap().1;
    wait_for("SET", || {
        (redis_cli(port, &["SET", "a", "1"]) == "OK").then_some(())
    });
    assert_eq!(redis_cli(port, &["GET", "a"]), "1");
    nodes.kill_9(leader);
    wait_for("SET without the old leader", || {
        (redis_cli(port, &["SET", "b", "2"]) == "OK").then_some(())
    });
    assert_eq!(redis_cli(port, &["GET", "a"]), "1");
    assert_eq!(redis_cli(port, &["GET", "b"]), "2");
}

#[test]
#[ignore = "needs redis-benchmark, which .ci/run installs"]
fn redis_benchmark_runs_at_the_leader() {
    let nodes = Nodes::start();
    let leader = nodes.address(nodes.leader());
    let port = leader.rsplit_once(':').unwrap().1;
    for pipelined in ["1", "16"] {
        let mut command = Command::new("redis-benchmark");
        command.args([
            "-p",
            port,
            "-t",
            "set,get,incr,mset",
            "-n",
            "20000",
            "-c",
            "32",
            "-q",
            "-P",
            pipelined,
        ]);
        let output = command
            .output()
            .expect("redis-benchmark is installed (Debian: redis-tools)");
        let text = String::from_utf8_lossy(&output.stdout).replace('\r', "\n");
        let results: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("requests per second"))
            .collect();
        println!("{pipelined} pipelined:\n  {}", results.join("\n  "));
        assert!(output.status.success() && results.len() == 4, "{text}");
        assert!(!text.contains("rror"), "{text}");
    }
}

#[test]
fn the_cluster_client_of_the_crate_redis_goes_on_when_the_leader_is_killed() {
    let mut nodes = Nodes::start();
    let leader = nodes.leader();
    let addresses = nodes
        .ids()
        .map(|id| format!("redis://{}", nodes.address(id)));
    let client = ClusterClient::new(addresses).unwrap();
    // The blocking client goes on asking the dead node, as it does with Redis: an application connects anew when that is refused.
    let mut connection = None;
    let mut until_done = |words: &[&str]| {
        let mut command = redis::Cmd::new();
        command.arg(words);
        wait_for(&format!("{words:?}"), || {
            if connection.is_none() {
                connection = client.get_connection().ok();
            }
            let answer = command.query::<Option<String>>(connection.as_mut()?);
            if answer.is_err() {
                connection = None;
            }
            answer.ok()
        })
    };
    assert_eq!(until_done(&["SET", "a", "1"]).as_deref(), Some("OK"));
    assert_eq!(until_done(&["GET", "a"]).as_deref(), Some("1"));
    nodes.kill_9(leader);
    assert_eq!(until_done(&["SET", "b", "2"]).as_deref(), Some("OK"));
    assert_eq!(until_done(&["GET", "a"]).as_deref(), Some("1"));
    assert_eq!(until_done(&["GET", "b"]).as_deref(), Some("2"));
}

/// A Python with redis-py as it is on PyPI: Debian 12's 4.3.4 breaks when it looks for the nodes of a cluster while one is down.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/redis-py/bin/python");

#[test]
#[ignore = "needs redis-py, which .ci/run installs"]
fn redis_py_reads_writes_pipelines_and_goes_on_when_the_leader_is_killed() {
    let mut nodes = Nodes::start();
    let leader = nodes.leader();
    let address = nodes.address(nodes.follower());
    let mut script = Command::new(PYTHON)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/redis_py.py"))
        .arg(address.rsplit_once(':').unwrap().1)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-py is in target/redis-py, where .ci/run installs it");
    let mut said = BufReader::new(script.stdout.take().unwrap()).lines();
    let ready = said.next().expect("it says why it failed above").unwrap();
    assert_eq!(ready, "ready");
    nodes.kill_9(leader);
    script.stdin.take().unwrap().write_all(b"\n").unwrap();
    let done = said.next().expect("it says why it failed above").unwrap();
    assert_eq!(done, "done");
    assert!(script.wait().unwrap().success());
}
