//! Logs in odd places, and odd things in the place of a log.

use std::fs;
use std::process::Command;

use super::logs::{cut, map, node_with_log, verify};
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
