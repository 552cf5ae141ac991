//! Planted bugs, each caught by the layer that is meant for it: a proof that the tests can see.
//!
//! `RUSTFLAGS="--cfg canary" CARGO_TARGET_DIR=target/canary cargo test --release -p duramen-wal --test canaries -- --nocapture`

#![cfg(canary)]
#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The bug, and the test that must fail: its file and its name.
const CANARIES: &[(&str, &str, &str)] = &[
    ("no_sync", "crash", "every_crash_while_appending"),
    ("no_dir_sync", "crash", "every_crash_while_rotating"),
    (
        "damage_cut",
        "damage",
        "every_bit_of_the_last_segment_when_all_is_marked",
    ),
    (
        "old_frames",
        "damage",
        "a_frame_of_another_history_is_not_taken",
    ),
    ("freed_early", "crash", "every_crash_while_a_purge_waits"),
    (
        "removed_before_control",
        "purging",
        "a_purge_frees_the_segments_that_hold_nothing_else",
    ),
    (
        "control_not_again",
        "failing",
        "a_slot_of_control_that_was_read_from_the_cache_is_written_again_first",
    ),
    ("tail_not_again", "crash", "every_crash_while_appending"),
    (
        "poison_forgotten",
        "failing",
        "a_failed_sync_is_not_acknowledged_and_poisons_the_log",
    ),
    ("one_vote", "recovering", "each_row_of_the_table_of_cases"),
    (
        "mark_ahead",
        "crash",
        "every_crash_while_many_wait_together",
    ),
    (
        "recycled_unsaid",
        "purging",
        "what_stood_in_a_recycled_segment_is_not_reported_as_cut",
    ),
    (
        "no_reserve",
        "failing",
        "on_a_full_disk_votes_truncations_purges_and_vital_entries_are_taken",
    ),
    (
        "move_replayed_as_append",
        "moving",
        "the_beginning_of_a_group_is_moved_and_what_follows_it_stays",
    ),
    ("moved_before_durable", "crash", "every_crash_while_moving"),
    ("header_not_synced", "crash", "every_crash_while_rotating"),
    ("sealed_early", "crash", "every_crash_while_rotating"),
    (
        "suspect_forgotten",
        "recovering",
        "each_row_of_the_table_of_cases",
    ),
    (
        "suspect_lost_in_move",
        "moving",
        "a_suspect_entry_is_moved_and_stays_suspect",
    ),
    (
        "repair_unchecked",
        "moving",
        "a_damaged_entry_is_found_by_a_scrub_moved_by_its_id_and_repaired",
    ),
    (
        "seal_not_checked",
        "recovering",
        "the_directories_and_the_summary_in_a_seal_stand_in_for_each_other",
    ),
    (
        "newest_not_written",
        "opening",
        "the_newest_segment_is_missed_though_no_seal_tells_of_it",
    ),
    (
        "lost_forgotten",
        "moving",
        "a_damaged_entry_is_found_by_a_scrub_moved_by_its_id_and_repaired",
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
        .args(["test", "--release", "--locked", "-p", "duramen-wal"])
        .args(["--test", layer, "--", "--exact", test])
        // Where the tests are built already: a relative CARGO_TARGET_DIR is meant from here.
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .env("DURAMEN_CANARY", canary)
        .env("DURAMEN_CRASH_SEEDS", "1")
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
