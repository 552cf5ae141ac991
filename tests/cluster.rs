//! Three real nodes under load, killed with -9: nothing that was acknowledged is lost.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use support::{Client, DURAMEN, Nodes, Outcome, ask, free_base_port, last_segment, wait_for};

/// Clients that write, and note what was acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    counts: Arc<Mutex<Counts>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    keys: BTreeSet<String>,
    /// Increments of the key "counter" that were acknowledged, and those that may have been applied.
    increments: u64,
    increments_unknown: u64,
}

impl Load {
    fn start(nodes: &Nodes, clients: u64) -> Load {
        let mut load = Load {
            stop: Arc::default(),
            acknowledged: Arc::default(),
            counts: Arc::default(),
            threads: Vec::new(),
        };
        for client in 0..clients {
            let (stop, acknowledged, counts) = (
                load.stop.clone(),
                load.acknowledged.clone(),
                load.counts.clone(),
            );
            let mut connection = nodes.client();
            load.threads.push(std::thread::spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    write_once(
                        &mut connection,
                        &format!("key-{client}-{n}"),
                        &counts,
                        &acknowledged,
                    );
                }
            }));
        }
        load
    }

    /// Waits until so many more writes have been acknowledged.
    fn wait_for_more(&self, more: u64) {
        let target = self.acknowledged.load(Ordering::Relaxed) + more;
        wait_for("writes to be acknowledged", || {
            (self.acknowledged.load(Ordering::Relaxed) >= target).then_some(())
        });
    }

    fn stop(self) -> Counts {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        std::mem::take(&mut *self.counts.lock().unwrap())
    }
}

fn write_once(client: &mut Client, key: &str, counts: &Mutex<Counts>, acknowledged: &AtomicU64) {
    if let Outcome::Acknowledged(()) = client.once(&["SET", key, key]) {
        counts.lock().unwrap().keys.insert(key.to_owned());
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    let increment = client.once::<u64>(&["INCR", "counter"]);
    let mut counts = counts.lock().unwrap();
    match increment {
        Outcome::Acknowledged(_) => counts.increments += 1,
        Outcome::Unknown => counts.increments_unknown += 1,
        Outcome::Refused => {}
    }
}

fn check(client: &mut Client, counts: &Counts) {
    for key in &counts.keys {
        let value: Option<String> = client.until_done(&["GET", key]);
        assert_eq!(value.as_ref(), Some(key), "an acknowledged write is lost");
    }
    let counter: u64 = client.until_done(&["GET", "counter"]);
    let (least, most) = (
        counts.increments,
        counts.increments + counts.increments_unknown,
    );
    assert!(
        (least..=most).contains(&counter),
        "{counter} increments, {least} to {most} were acknowledged"
    );
}

#[test]
fn what_was_acknowledged_survives_kill_9_of_the_leader_and_then_of_all() {
    let mut nodes = Nodes::start();
    let load = Load::start(&nodes, 4);
    load.wait_for_more(200);
    for _ in 0..3 {
        let leader = nodes.leader();
        nodes.kill_9(leader);
        load.wait_for_more(200); // Writes go on with two of three.
        nodes.start_one(leader);
        load.wait_for_more(200);
    }
    nodes.kill_9_all();
    nodes.start_all();
    load.wait_for_more(200);
    let counts = load.stop();
    assert!(counts.keys.len() >= 1_600);
    println!(
        "{} keys and {} increments were acknowledged",
        counts.keys.len(),
        counts.increments
    );
    check(&mut nodes.client(), &counts);

    // And once more, now that nothing is under way.
    nodes.kill_9_all();
    nodes.start_all();
    check(&mut nodes.client(), &counts);
}

#[test]
fn a_follower_names_the_leader_and_the_slot_of_the_key() {
    let nodes = Nodes::start();
    let leader = nodes.leader();
    let follower = nodes.ids().into_iter().find(|id| *id != leader).unwrap();
    for command in [&["SET", "a", "1"][..], &["GET", "a"], &["DEL", "a", "b"]] {
        let error = wait_for("the follower to know the leader", || {
            let error = ask::<String>(&nodes.address(follower), command).unwrap_err();
            error.redirect_node().is_some().then_some(error)
        });
        assert_eq!(
            error.redirect_node(),
            Some((&nodes.address(leader)[..], 15495))
        );
    }
}

#[test]
fn commands_answer_as_redis_does() {
    let nodes = Nodes::start();
    let leader = nodes.address(nodes.leader());
    assert_eq!(ask::<String>(&leader, &["SET", "k", "10"]).unwrap(), "OK");
    assert_eq!(ask::<i64>(&leader, &["INCR", "k"]).unwrap(), 11);
    assert_eq!(ask::<i64>(&leader, &["APPEND", "k", "x"]).unwrap(), 3);
    assert_eq!(ask::<String>(&leader, &["GET", "k"]).unwrap(), "11x");
    assert_eq!(ask::<i64>(&leader, &["DEL", "k", "k", "l"]).unwrap(), 1);
    assert_eq!(ask::<Option<String>>(&leader, &["GET", "k"]).unwrap(), None);
    ask::<()>(&leader, &["SET", "k", "x"]).unwrap();
    for (command, error) in [
        (
            &["INCR", "k"][..],
            "value is not an integer or out of range",
        ),
        (&["GET"], "wrong number of arguments for 'get' command"),
        (
            &["NOSUCH", "x"],
            "unknown command 'NOSUCH', with args beginning with: 'x'",
        ),
        (&["SELECT", "1"], "SELECT is not allowed in cluster mode"),
    ] {
        let text = ask::<String>(&leader, command).unwrap_err().to_string();
        assert!(text.contains(error), "{command:?}: {text}");
    }
}

#[test]
fn pipelined_commands_are_answered_in_order_and_see_each_other() {
    let nodes = Nodes::start();
    let leader = nodes.address(nodes.leader());
    let client = redis::Client::open(format!("redis://{leader}")).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut pipeline = redis::pipe();
    for n in 0..500 {
        pipeline.cmd("SET").arg("k").arg(n).ignore();
        pipeline.cmd("GET").arg("k");
        pipeline.cmd("INCR").arg("n");
        pipeline.cmd("ECHO").arg(n);
    }
    let replies: Vec<u64> = pipeline.query(&mut connection).unwrap();
    let expected: Vec<u64> = (0..500).flat_map(|n| [n, n + 1, n]).collect();
    assert_eq!(replies, expected);
}

/// Where the last byte is that is not zero, at a multiple of 8.
fn end_of_nonzero(bytes: &[u8]) -> u64 {
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    (last as u64 + 1).next_multiple_of(8)
}

#[test]
fn a_torn_write_is_cut_off_at_the_start_and_the_node_catches_up() {
    let mut nodes = Nodes::start();
    let mut client = nodes.client();
    client.until_done::<()>(&["SET", "before", "1"]);
    let follower = nodes.follower();
    nodes.kill_9(follower);
    // What a write leaves that was killed on its way: bytes right behind the last frame.
    let segment = nodes.last_segment(follower);
    let end = end_of_nonzero(&std::fs::read(&segment).unwrap());
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(segment)
        .unwrap();
    file.write_all_at(&[0xab; 1000], end).unwrap();
    client.until_done::<()>(&["SET", "meanwhile", "1"]);
    nodes.start_one(follower);
    nodes.wait_for_catching_up(follower);
}

#[test]
fn a_directory_of_another_node_is_refused() {
    let mut nodes = Nodes::start();
    nodes.leader();
    nodes.kill_9_all();
    let mut command = nodes.command_on(1, &nodes.data(2));
    let output = command.stderr(Stdio::piped()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("node 2 of cluster") && error.contains("node 1 of cluster"),
        "{error}"
    );
}

#[test]
fn wrong_flags_say_what_to_write_instead() {
    let serve = [
        "serve",
        "--id",
        "1",
        "--data",
        "/nowhere",
        "--resp",
        "127.0.0.1:1",
    ];
    for (arguments, code, hint) in [
        (
            &["--peers", "127.0.0.1:7411"][..],
            2,
            "write it as NUMBER=HOST:PORT",
        ),
        (&["--peers", "2=127.0.0.1:7412"], 1, "add 1=ADDR to it"),
        (
            &["--peers", "1=h:1", "--cluster-id", ""],
            2,
            "a name has 1 to 64 bytes",
        ),
        (&["--join", "127.0.0.1:1", "--peers", "1=h:1"], 2, "--peers"),
        (&["--join", "127.0.0.1"], 2, "write it as HOST:PORT"),
        (&[], 1, "(--peers)"),
    ] {
        let output = Command::new(DURAMEN)
            .args(serve)
            .args(arguments)
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(hint), "{error}");
    }
}

#[test]
fn cluster_serves_finds_its_data_again_and_leaves_no_process_behind() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let base_port = free_base_port();
    let start = || {
        let mut command = Command::new(DURAMEN);
        command
            .args(["cluster", "--base-port", &base_port.to_string(), "--data"])
            .arg(&data);
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let any_node = |command: &[&str]| {
        let mut addresses = (1..=3).map(|id| format!("127.0.0.1:{}", base_port + id));
        addresses.find_map(|address| ask::<String>(&address, command).ok())
    };
    let mut parent = start();
    wait_for("a write", || any_node(&["SET", "a", "1"]));
    parent.kill().unwrap(); // The children see their standard input end.
    parent.wait().unwrap();
    for id in 1..=3 {
        let address = format!("127.0.0.1:{}", base_port + id);
        wait_for("the children to end", || {
            std::net::TcpStream::connect(&address)
                .is_err()
                .then_some(())
        });
    }
    let mut parent = start();
    assert_eq!(wait_for("the data", || any_node(&["GET", "a"])), "1");
    let pid = parent.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    let status = parent.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    assert!(last_segment(&data.join("node-1/log")).exists());
}

#[test]
fn a_cluster_of_another_size_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("node-1")).unwrap();
    let mut command = Command::new(DURAMEN);
    let output = command
        .arg("cluster")
        .arg("--data")
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("start it with --nodes 1")
    );
}

#[test]
fn a_first_start_that_was_cut_short_does_not_change_the_size_of_the_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let base_port = free_base_port();
    let cluster = |nodes: &str| {
        let mut command = Command::new(DURAMEN);
        command.args(["cluster", "--base-port", &base_port.to_string()]);
        command
            .args(["--nodes", nodes, "--data"])
            .arg(dir.path())
            .stdout(Stdio::null());
        command
    };
    let mut parent = cluster("3").spawn().unwrap();
    let is_there = |id| dir.path().join(format!("node-{id}")).exists();
    wait_for("node 1", || is_there(1).then_some(()));
    assert!(is_there(3), "before the nodes start");
    parent.kill().unwrap();
    parent.wait().unwrap();
    let mut refused = cluster("2").stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let _ = refused.kill(); // If it was not refused, it would serve for ever.
    let output = refused.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("start it with --nodes 3"), "{error}");
}
