//! `duramen bench`, of a cluster, of a Redis, and of nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;

use support::{DURAMEN, Node, Nodes, ask};

/// Its exit code, and what it printed on standard output and standard error.
fn bench(arguments: &[&str], at: &str) -> (Option<i32>, String, String) {
    let output = Command::new(DURAMEN)
        .args(["bench", "--seconds", "0.1", "--at", at])
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_follower_leads_it_to_the_leader_where_each_load_is_measured() {
    let nodes = Nodes::start();
    let at = nodes.address(nodes.follower());
    let (code, out, err) = bench(&["--json", "--clients", "1,8", "--pipeline", "4"], &at);
    assert_eq!(code, Some(0), "{err}");
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["at"], nodes.address(nodes.leader()));
    let measured = said["measured"].as_array().unwrap();
    let loads: Vec<_> = measured
        .iter()
        .map(|one| {
            (
                one["operation"].as_str().unwrap(),
                one["clients"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(loads, [("set", 1), ("set", 8), ("get", 1), ("get", 8)]);
    for one in measured {
        assert_eq!(one["pipeline"], 4);
        assert!(one["per_second"].as_f64().unwrap() > 0.0, "{one}");
        let micros = |key: &str| one[key].as_u64().unwrap();
        assert!(0 < micros("p50_us") && micros("p50_us") <= micros("p90_us"));
        assert!(micros("p90_us") <= micros("p99_us") && micros("p99_us") <= micros("p999_us"));
        assert!(micros("p999_us") <= micros("max_us"));
    }
}

#[test]
fn its_values_have_the_size_that_was_asked_for_and_people_see_the_quantiles() {
    let node = Node::start_with(&["--requirepass", "secret"]);
    let load = [
        "--operations",
        "set",
        "--clients",
        "2",
        "--keys",
        "1",
        "--value-bytes",
        "9",
    ];
    let (code, out, err) = bench(
        &[&load[..], &["--password", "secret"]].concat(),
        &node.address(),
    );
    assert_eq!(code, Some(0), "{err}");
    assert!(out.starts_with("set, 2 clients: "), "{out}");
    for word in ["a second", "p50", "p99.9", "max", "#"] {
        assert!(out.contains(word), "{out}");
    }
    let (code, _, err) = bench(&load, &node.address());
    assert_eq!(code, Some(1));
    assert!(err.contains("--password"), "{err}");
    let open = Node::start();
    assert_eq!(bench(&load, &open.address()).0, Some(0));
    let bytes: u64 = ask(&open.address(), &["STRLEN", "bench:0"]).unwrap();
    assert_eq!(bytes, 9);
}

#[test]
fn nobody_there_is_an_error_and_nonsense_is_wrong_usage() {
    let (code, _, err) = bench(&[], "127.0.0.1:1");
    assert_eq!(code, Some(1));
    assert!(err.contains("cannot reach a node at 127.0.0.1:1"), "{err}");
    for wrong in [
        ["--clients", "0"],
        ["--pipeline", "0"],
        ["--keys", "0"],
        ["--operations", "del"],
        ["--value-bytes", "-1"],
    ] {
        let (code, _, err) = bench(&wrong, "127.0.0.1:1");
        assert_eq!(code, Some(2), "{err}");
    }
}

#[test]
fn filling_writes_each_key_once_and_then_reads_find_them() {
    let node = Node::start();
    let load = ["--json", "--clients", "3", "--pipeline", "7"];
    let fill = ["--operations", "fill,get", "--keys", "100"];
    let (code, out, err) = bench(&[&load[..], &fill[..]].concat(), &node.address());
    assert_eq!(code, Some(0), "{err}");
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["measured"][0]["operation"], "fill");
    assert_eq!(said["measured"][1]["operation"], "get");
    let keys: u64 = ask(&node.address(), &["DBSIZE"]).unwrap();
    assert_eq!(keys, 100);
}
