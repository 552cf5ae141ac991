//! `duramen torture`, for a few seconds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use duramen::disk::{Disk, LockMode, OsDisk};
use serde_json::Value;

use support::{DURAMEN, wait_for};

fn command(arguments: &[&str], dir: Option<&Path>) -> Command {
    let mut command = Command::new(DURAMEN);
    command.arg("torture").args(arguments);
    if let Some(dir) = dir {
        command.arg("--dir").arg(dir);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn torture(arguments: &[&str], dir: Option<&Path>) -> Output {
    command(arguments, dir).output().unwrap()
}

fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// It ends well, and says so in one line of JSON.
fn summary(arguments: &[&str], dir: Option<&Path>) -> Value {
    let output = torture(&[arguments, &["--json"]].concat(), dir);
    assert!(output.status.success(), "{}", error_of(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    serde_json::from_str(&said).unwrap()
}

fn count(summary: &Value, key: &str) -> u64 {
    let value = summary.get(key).and_then(Value::as_u64);
    value.unwrap_or_else(|| panic!("no {key} in {summary}"))
}

#[test]
fn a_log_and_snapshots_bear_torture() {
    let summary = summary(&["--rounds", "20", "--seed", "1"], None);
    println!("{summary}");
    assert_eq!(count(&summary, "rounds"), 20);
    assert_eq!(count(&summary, "lost"), 0);
    assert_eq!(count(&summary, "wrong"), 0);
    assert!(count(&summary, "acknowledged") > 50, "{summary}");
    assert!(count(&summary, "recovered") >= count(&summary, "acknowledged"));
    assert!(count(&summary, "torn") <= 20);
    assert!(count(&summary, "killed") + count(&summary, "killed_while_opening") > 10);
}

#[test]
fn a_cluster_bears_torture() {
    let summary = summary(&["--cluster", "--rounds", "4", "--seed", "2"], None);
    println!("{summary}");
    assert_eq!(count(&summary, "rounds"), 4);
    assert_eq!(count(&summary, "lost"), 0);
    assert_eq!(count(&summary, "wrong"), 0);
    assert!(count(&summary, "torn") <= count(&summary, "killed"));
    assert!(count(&summary, "killed") >= 4);
    assert!(count(&summary, "acknowledged") > 400, "{summary}");
    assert_eq!(
        count(&summary, "recovered"),
        count(&summary, "acknowledged")
    );
}

#[test]
fn torture_goes_on_in_a_directory_of_its_own_and_leaves_others_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("torture");
    let first = summary(&["--rounds", "3", "--seed", "5"], Some(&dir));
    let next = summary(&["--rounds", "3"], Some(&dir));
    assert_eq!(count(&first, "seed"), 5);
    assert_eq!(count(&next, "seed"), 5);

    let refused = torture(&["--rounds", "3", "--seed", "6"], Some(&dir));
    assert_eq!(refused.status.code(), Some(1));
    assert!(error_of(&refused).contains("--seed 5"), "{refused:?}");

    let refused = torture(&["--rounds", "3", "--cluster"], Some(&dir));
    assert_eq!(refused.status.code(), Some(1));
    assert!(error_of(&refused).contains("another mode"), "{refused:?}");

    let foreign = parent.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("letter"), "dear").unwrap();
    let refused = torture(&["--rounds", "3"], Some(&foreign));
    assert_eq!(refused.status.code(), Some(1));
    let error = error_of(&refused);
    assert!(
        error.contains("letter") && error.contains("empty"),
        "{error}"
    );
    let left = std::fs::read_dir(&foreign).unwrap();
    assert_eq!(left.count(), 1);
}

/// What it has acknowledged is taken away behind its back.
#[test]
fn what_is_lost_is_told_with_the_directory_and_the_command_that_repeats_it() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, old) = (parent.path().join("torture"), parent.path().join("old"));
    summary(&["--rounds", "2", "--seed", "5"], Some(&dir));
    copy(&dir.join("log"), &old);
    summary(&["--rounds", "5"], Some(&dir));
    std::fs::remove_dir_all(dir.join("log")).unwrap();
    copy(&old, &dir.join("log"));

    let output = torture(&["--rounds", "1", "--json"], Some(&dir));
    let error = error_of(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        count(&summary, "lost") + count(&summary, "wrong") > 0,
        "{summary}"
    );
    assert!(error.contains(&*dir.to_string_lossy()), "{error}");
    assert!(
        error.contains("duramen torture --seed 5 --rounds 7"),
        "{error}"
    );
    assert!(dir.join("log").exists());
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn ctrl_c_ends_it_after_the_round_with_the_summary_so_far() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("torture");
    let child = command(&["--rounds", "100000", "--json"], Some(&dir))
        .spawn()
        .unwrap();
    let log = dir.join("log");
    wait_for("a round", || log.exists().then_some(()));
    let pid = child.id().to_string();
    Command::new("kill").args(["-INT", &pid]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", error_of(&output));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        (1..100_000).contains(&count(&summary, "rounds")),
        "{summary}"
    );
}

#[test]
fn no_rounds_at_all_is_wrong_usage() {
    let refused = torture(&["--rounds", "0"], None);
    assert_eq!(refused.status.code(), Some(2));
}

/// The last child may still be ending when the next torture begins.
#[test]
fn torture_whose_parent_was_killed_goes_on_when_the_last_child_has_ended() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("torture");
    summary(&["--rounds", "2", "--seed", "5"], Some(&dir));
    let child = OsDisk::new()
        .lock(&dir.join("log"), LockMode::Exclusive)
        .unwrap();
    let mut next = command(&["--rounds", "1", "--json"], Some(&dir))
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut errors = BufReader::new(next.stderr.take().unwrap());
    errors.read_line(&mut said).unwrap();
    assert!(said.contains("waiting"), "{said}");
    drop(child);
    errors.read_to_string(&mut said).unwrap();
    assert!(next.wait().unwrap().success(), "{said}");
}
