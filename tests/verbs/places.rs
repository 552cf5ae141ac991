//! Logs in odd places, and odd things in the place of a log.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::logs::{cut, flip, map, node_with_log, verify};
use super::one_at_a_time;

/// A pipe has nothing to read until somebody writes to it.
#[test]
fn a_pipe_in_the_place_of_a_segment_is_an_error_and_nobody_waits_for_it() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    let (file, _, _) = map(&log).entries[0].clone();
    fs::remove_file(&file).unwrap();
    let made = Command::new("mkfifo").arg(&file).status().unwrap();
    assert!(made.success());
    for said in [verify(&log), cut(&log)] {
        assert_eq!(said.code, 1);
        assert!(said.err.contains("it is no file"), "{}", said.err);
    }
}

#[test]
fn a_log_that_cannot_be_listed_is_not_said_to_be_missing() {
    let _alone = one_at_a_time();
    let node = tempfile::tempdir().unwrap();
    symlink("log", node.path().join("log")).unwrap();
    verify(node.path()).expect_error(&["cannot list"]);
}

/// Its name leaves no room for another one beside it; it could as well be a full disk.
#[test]
fn who_cannot_put_a_new_log_beside_the_old_one_is_not_told_that_nothing_can_be_kept() {
    let _alone = one_at_a_time();
    let (node, log) = node_with_log();
    let (file, at, _) = map(&log).entries[20].clone();
    flip(&file, at);
    let named = node.path().join("l".repeat(250));
    fs::rename(&log, &named).unwrap();
    let said = cut(&named);
    said.expect_error(&["Try again"]);
    assert!(!said.err.contains("can be kept"), "{}", said.err);
    assert_eq!(fs::read_dir(node.path()).unwrap().count(), 1);
}
