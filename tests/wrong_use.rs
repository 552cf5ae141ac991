//! What people get wrong with the program, and what it answers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use support::{DURAMEN, Node, ask, free_base_port, wait_for};

fn duramen(arguments: &[&str]) -> Command {
    let mut command = Command::new(DURAMEN);
    command
        .args(arguments)
        .env("DURAMEN_TRACE", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Its exit code, and all that it said.
fn outcome(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn members_of_a_cluster_with_a_password_are_seen_and_changed_with_it() {
    let node = Node::start_with(&["--requirepass", "secret"]);
    let list = ["member", "list", "--at", &node.address()];
    let (code, said) = outcome(duramen(&list));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("--password"), "{said}");
    for command in [&list[..], &["transfer", "--at", &node.address()]] {
        let (code, said) = outcome(duramen(&[command, &["--password", "wrong"]].concat()));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("does not take the password"), "{said}");
    }
    let (code, said) = outcome(duramen(&[&list[..], &["--password", "secret"]].concat()));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("cluster \"duramen\""), "{said}");
    let mut from_environment = duramen(&list);
    from_environment.env("DURAMEN_PASSWORD", "secret");
    assert_eq!(outcome(from_environment).0, Some(0));
}

#[test]
fn a_node_joins_a_cluster_with_a_password() {
    let node = Node::start_with(&["--requirepass", "secret"]);
    let (dir, port) = (tempfile::tempdir().unwrap(), free_base_port());
    let join = |password: &[&str]| {
        let mut command = duramen(&["serve", "--id", "2", "--join", &node.address()]);
        command.args(["--resp", &format!("127.0.0.1:{}", port + 2)]);
        command.args(["--peer", &format!("127.0.0.1:{}", port + 12)]);
        command.arg("--data").arg(dir.path()).args(password);
        command
    };
    let (code, said) = outcome(join(&[]));
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("cannot join") && said.contains("--password"),
        "{said}"
    );
    for (flags, environment) in [
        (&["--password", "secret"][..], ""),
        (&["--requirepass", "secret"], ""),
        (&[], "secret"),
    ] {
        let mut command = join(flags);
        command.env("DURAMEN_REQUIREPASS", environment);
        let mut joining = command.spawn().unwrap();
        let mut said = joining.stderr.take().unwrap();
        let mut first = [0; 64];
        said.read_exact(&mut first).unwrap();
        joining.kill().unwrap();
        joining.wait().unwrap();
        let first = String::from_utf8_lossy(&first);
        assert!(first.contains("node 2 waits to be added"), "{first}");
    }
}

#[test]
fn addresses_at_which_nobody_or_something_else_answers_are_named() {
    let node = Node::start();
    // The address at which nodes talk to each other is often mistaken for that for clients.
    for (at, hint) in [
        (format!("127.0.0.1:{}", free_base_port()), "is it running"),
        (node.peer_address(), "went away"),
    ] {
        let (code, said) = outcome(duramen(&["member", "list", "--at", &at]));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&at) && said.contains(hint), "{said}");
    }
}

#[test]
fn addresses_that_are_none_and_flags_that_need_others_are_wrong_usage() {
    for (flags, hint) in [
        (&["--resp", "7401", "--peers", "1=h:1"][..], "HOST:PORT"),
        (
            &["--resp", "h:1", "--announce", "h", "--peers", "1=h:2"],
            "HOST:PORT",
        ),
        (&["--resp", "h:1", "--join", "h:2"], "--peer <ADDR>"),
        (&["--resp", "127.0.0.1:0", "--peers", "1=h:1"], "HOST:PORT"),
    ] {
        let serve = ["serve", "--id", "1", "--data", "/nowhere"];
        let (code, said) = outcome(duramen(&[&serve[..], flags].concat()));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(hint), "{said}");
    }
}

#[test]
fn a_directory_that_is_a_file_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let serve = ["serve", "--id", "1", "--resp", "127.0.0.1:1", "--peers"];
    for command in [&["cluster"][..], &[&serve[..], &["1=127.0.0.1:1"]].concat()] {
        let (code, said) = outcome(duramen(&[command, &["--data", path]].concat()));
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains(path) && said.contains("Not a directory"),
            "{said}"
        );
    }
}

fn start_cluster(data: &str, base_port: u16) -> Child {
    let base_port = base_port.to_string();
    let mut command = duramen(&["cluster", "--data", data, "--base-port", &base_port]);
    command.process_group(0).spawn().unwrap()
}

#[test]
fn a_second_cluster_in_the_same_place_says_so_and_ctrl_c_ends_the_first_one_well() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let base_port = free_base_port();
    let first = start_cluster(dir.path().to_str().unwrap(), base_port);
    let address = format!("127.0.0.1:{}", base_port + 1);
    wait_for("a node", || ask::<String>(&address, &["PING"]).ok());
    for (data, base_port, hint) in [
        (&dir, free_base_port(), "in use"),
        (&other, base_port, "cannot listen"),
    ] {
        let second = start_cluster(data.path().to_str().unwrap(), base_port);
        let output = second.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(hint), "{said}");
        assert!(said.contains("is running already"), "{said}");
        assert_eq!(
            output.stdout.is_empty(),
            hint == "cannot listen",
            "it greets"
        );
    }
    assert_eq!(ask::<String>(&address, &["PING"]).unwrap(), "PONG");
    // A terminal sends it to the parent and to the nodes.
    let group = format!("-{}", first.id());
    let mut kill = Command::new("kill");
    kill.args(["-INT", "--", &group]).status().unwrap();
    let output = first.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let stopped = said.lines().filter(|line| line.ends_with(" stopped"));
    assert_eq!(stopped.count(), 3, "{said}");
}
