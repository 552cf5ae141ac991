//! Planted bugs, each caught by the layer that is meant for it: a proof that the tests can see.
//!
//! `RUSTFLAGS="--cfg canary" CARGO_TARGET_DIR=target/canary cargo test --release -p duramen-snapshot --test canaries -- --nocapture`

#![cfg(canary)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The bug, and the test that must fail: its file and its name.
const CANARIES: &[(&str, &str, &str)] = &[
    ("no_sync", "crash", "every_crash_while_publishing_the_first"),
    (
        "no_dir_sync",
        "crash",
        "every_crash_while_publishing_the_first",
    ),
    (
        "hole_before_drop",
        "crash",
        "every_crash_while_publishing_and_dropping",
    ),
    (
        "shared_not_synced",
        "crash",
        "every_crash_while_a_snapshot_is_published_that_shares_with_an_install",
    ),
    (
        "install_holds_nothing",
        "crash",
        "every_crash_while_a_snapshot_arrives",
    ),
    (
        "arrived_not_again",
        "installing",
        "what_a_failed_sync_lost_is_durable_when_the_next_process_publishes_it",
    ),
    (
        "published_incomplete",
        "installing",
        "what_is_not_asked_for_is_refused",
    ),
    ("name_not_checked", "damage", "every_bit_of_every_file"),
    (
        "oldest_copy",
        "reading",
        "a_reader_names_a_damaged_chunk_and_goes_on_when_it_is_repaired",
    ),
    (
        "reader_holds_nothing",
        "dropping",
        "a_reader_reads_to_the_end_what_is_dropped_meanwhile",
    ),
    (
        "unknown_forgotten",
        "dropping",
        "nothing_is_given_back_while_a_manifest_cannot_be_read",
    ),
];

/// A bug is to be seen within this time.
const SECONDS_MAX: Duration = Duration::from_secs(10);

#[test]
fn each_planted_bug_is_caught() {
    let mut missed = Vec::new();
    for &(canary, layer, test) in CANARIES {
        let start = Instant::now();
        let is_caught = fails(canary, layer, test);
        let seconds = start.elapsed().as_secs_f64();
        let outcome = if is_caught {
            "caught by"
        } else {
            "NOT CAUGHT by"
        };
        println!("{canary:24} {outcome} {layer}::{test} after {seconds:.1} s");
        if !is_caught {
            missed.push(canary);
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

/// Runs a test with a bug planted. A test that finds nothing in time has not failed.
fn fails(canary: &str, layer: &str, test: &str) -> bool {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["test", "--release", "--locked", "-p", "duramen-snapshot"])
        .args(["--test", layer, "--", "--exact", test])
        // Where the tests are built already: a relative CARGO_TARGET_DIR is meant from here.
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .env("DURAMEN_CANARY", canary)
        .stderr(Stdio::null())
        .process_group(0);
    let mut out = tempfile::tempfile().unwrap();
    command.stdout(out.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while start.elapsed() < SECONDS_MAX {
        if child.try_wait().unwrap().is_some() {
            let mut said = String::new();
            out.rewind().unwrap();
            out.read_to_string(&mut said).unwrap();
            assert!(
                said.contains("running 1 test"),
                "no test {layer}::{test}: {said}"
            );
            return said.contains("test result: FAILED. 0 passed; 1 failed");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let group = format!("-{}", child.id());
    Command::new("kill").args(["--", &group]).status().unwrap();
    child.wait().unwrap();
    false
}
