//! Stock tools against a cluster. They are not on every machine, so these tests are ignored by default; `.ci/run`
//! installs the tools and runs them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;

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
            "set,get,incr",
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
        assert!(output.status.success() && results.len() == 3, "{text}");
        assert!(!text.contains("rror"), "{text}");
    }
}
