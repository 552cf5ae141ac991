//! Planted bugs of core, storage, node and sessions, each caught by the layer that is meant for it: a proof that the tests and the
//! simulator can see.
//!
//! `RUSTFLAGS="--cfg canary" CARGO_TARGET_DIR=target/canary cargo test --profile proof -p duramen --test canaries -- --nocapture`

#![cfg(canary)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../wal/tests/support/planted.rs"]
mod planted;

use std::process::{Command, Stdio};
use std::time::Instant;

/// What the simulator must see, in no more seeds than it comes to in ten seconds.
const IN_THE_SIMULATOR: &[&str] = &[
    "applied_without_state",
    "commit_past_matched",
    "follower_reads_its_own_commit",
    "matched_is_the_end_of_the_log",
    "own_entries_count_unwritten",
    "own_vote_forgotten",
    "read_before_the_first_commit",
    "sent_before_durable",
    "stale_append_truncates",
    "term_without_vote",
    "undecided_is_refused",
    "vote_for_any_log",
];

/// The bug, and the test that must fail: its file and its name. Of these the simulator sees some too, but not in ten seconds
/// on any machine.
const IN_TESTS: &[(&str, &str, &str)] = &[
    (
        "any_answer_confirms_a_follower_read",
        "lib",
        "raft::tests::follower_reads::an_answer_to_an_earlier_process_of_the_node_confirms_nothing",
    ),
    (
        "answered_by_index",
        "lib",
        "node::waiting::tests::a_waiter_is_answered_by_its_own_entry_only",
    ),
    (
        "bad_entry_acknowledged",
        "lib",
        "raft::tests::repair::acknowledgements_and_what_is_handed_out_stop_before_the_first_bad_entry",
    ),
    ("call_is_repeated", "kv_labs", "service::unreliable"),
    (
        "commit_by_counting_earlier_terms",
        "lib",
        "raft::tests::figure8::figure_8_d_an_entry_on_a_majority_is_not_committed_and_may_be_overwritten",
    ),
    (
        "claims_are_believed",
        "lib",
        "transport::codec::tests::half_a_frame_is_waited_for_and_a_large_one_refused",
    ),
    (
        "claims_are_believed",
        "commands",
        "half_requests_that_claim_the_largest_length_hold_no_more_than_was_sent",
    ),
    (
        "damaged_counts_as_lacked",
        "recovery",
        "targeted::every_combination_of_damaged_copies_of_four_entries",
    ),
    (
        "divergence_ignored",
        "scripts",
        "machines::a_state_machine_that_diverges_raises_an_alarm",
    ),
    (
        "half_an_install",
        "lib",
        "storage::tests::restoring::an_installed_snapshot_is_taken_in_whole_or_not_at_all_whenever_the_node_dies",
    ),
    (
        "install_keeps_the_tail",
        "lib",
        "storage::tests::restoring::a_log_that_an_installed_snapshot_is_not_of_is_reset",
    ),
    (
        "late_write_counts",
        "lib",
        "raft::durability::tests::a_late_write_of_overwritten_entries_makes_nothing_durable",
    ),
    (
        "membership_not_rolled_back",
        "lib",
        "raft::tests::membership::a_membership_is_taken_back_with_its_entry",
    ),
    (
        "one_majority_is_enough",
        "lib",
        "raft::tests::membership::in_a_joint_membership_both_majorities_are_needed",
    ),
    (
        "read_without_a_round",
        "scripts",
        "machines::a_leader_that_stood_still_and_whose_clock_jumps_serves_nothing_stale",
    ),
    (
        "read_joins_an_earlier_question",
        "lib",
        "raft::tests::follower_reads::a_read_that_arrives_after_the_question_waits_for_the_next_one",
    ),
    (
        "read_without_a_round",
        "lib",
        "raft::tests::reads::a_read_is_served_after_a_round_that_began_later",
    ),
    (
        "refused_write_acknowledged",
        "lib",
        "raft::tests::disk::an_acknowledgement_of_refused_entries_never_leaves",
    ),
    (
        "set_back_voter_returns",
        "scripts",
        "identity::a_voter_that_was_set_back_cannot_elect_a_second_leader",
    ),
    (
        "snapshot_moves_back",
        "lib",
        "raft::tests::snapshot::a_snapshot_never_moves_the_state_backwards",
    ),
    (
        "snapshot_without_sessions",
        "kv_labs",
        "snapshots::snapshot_recover",
    ),
    (
        "stall_ignored",
        "lib",
        "raft::tests::stall::a_leader_whose_disk_stalls_hands_over_to_the_active_voter_with_most_of_the_log",
    ),
    (
        "stall_ignored",
        "scripts",
        "machines::a_leader_whose_sync_hangs_hands_over",
    ),
    (
        "stale_rejection_counts",
        "lib",
        "raft::tests::replication::a_success_counts_though_next_index_has_moved_on_and_stale_rejections_do_not",
    ),
    (
        "stale_round_confirms",
        "lib",
        "raft::tests::reads::an_answer_to_a_message_of_an_earlier_term_confirms_no_read",
    ),
    (
        "start_number_ignored",
        "scripts",
        "identity::a_voter_that_was_set_back_and_started_as_often_again_cannot_elect_a_second_leader",
    ),
    (
        "who_was_away_is_believed",
        "scripts",
        "identity::a_node_that_was_added_anew_under_its_number_is_not_ended_by_a_member_that_was_away",
    ),
    (
        "newer_record_is_read",
        "lib",
        "storage::tests::identity::a_newer_record_is_refused_with_both_versions",
    ),
    (
        "loss_is_ignored",
        "lib",
        "storage::tests::restoring::a_log_that_was_cut_is_no_members_any_more",
    ),
    (
        "set_back_peer_is_believed",
        "lib",
        "node::tests::admission::a_node_is_not_at_its_end_by_a_peer_that_was_set_back",
    ),
    (
        "strangers_are_believed",
        "scripts",
        "identity::a_stranger_under_a_members_number_is_refused_and_ends_nobody_else",
    ),
    (
        "time_goes_back",
        "scripts",
        "clocks::a_clock_that_goes_back_ends_no_session_early_and_repeats_no_call",
    ),
    (
        "torn_everywhere_is_kept",
        "scripts",
        "machines::three_nodes_on_which_the_same_batch_is_torn_serve_again",
    ),
    (
        "two_changes_at_once",
        "lib",
        "raft::tests::membership::a_change_that_breaks_the_rules_is_refused",
    ),
    (
        "vote_cleared_in_term",
        "lib",
        "raft::tests::election::a_same_term_step_down_keeps_the_vote",
    ),
    (
        "what_was_heard_is_ignored",
        "scripts",
        "identity::a_voter_that_was_set_back_is_refused_by_a_node_that_has_only_heard_of_its_last_start",
    ),
    (
        "wiped_voter_returns",
        "scripts",
        "identity::a_wiped_voter_that_votes_again_cannot_elect_a_second_leader",
    ),
];

/// Bugs of the log that `duramen torture` must see: those that a killed process leaves something of.
const IN_TORTURE: &[&str] = &[
    "acknowledged_unwritten",
    "move_replayed_as_append",
    "removed_before_control",
];

#[test]
fn tests_see_each_planted_bug() {
    planted::each_is_caught("duramen", IN_TESTS);
}

#[test]
fn the_simulator_sees_each_planted_bug() {
    let missed: Vec<&&str> = IN_THE_SIMULATOR
        .iter()
        .filter(|bug| !is_seen(bug))
        .collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
    println!("proof: planted_bugs/simulator {}", IN_THE_SIMULATOR.len());
}

#[test]
fn torture_sees_each_planted_bug() {
    let missed: Vec<&&str> = IN_TORTURE.iter().filter(|bug| !is_felt(bug)).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
    // Those of the log, once more.
    println!("proof: planted_bugs_tortured {}", IN_TORTURE.len());
}

/// Tortures a log with a bug planted.
fn is_felt(bug: &str) -> bool {
    let (start, dir) = (Instant::now(), tempfile::tempdir().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_duramen"));
    command
        .args(["torture", "--rounds", "100000", "--seed", "1", "--dir"])
        .arg(dir.path().join("torture"))
        .env("DURAMEN_CANARY", bug)
        .stderr(Stdio::null());
    let said = planted::ends_in_time(command, planted::Output::Stdout, planted::SECONDS_MAX);
    let seconds = start.elapsed().as_secs_f64();
    let Some(said) = said else {
        println!("{bug:32} NOT CAUGHT by torture");
        return false;
    };
    assert!(!said.contains(" 0 lost, 0 wrong"), "{bug}: {said}");
    let rounds = said.split(' ').next().unwrap_or_default();
    println!("{bug:32} caught by torture, in round {rounds}, after {seconds:.1} s");
    true
}

/// Runs the simulator with a bug planted.
fn is_seen(bug: &str) -> bool {
    let start = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_duramen"));
    command
        .args(["sim", "--seeds", "0..100000", "--ops", "1000"])
        .env("DURAMEN_CANARY", bug)
        .stdout(Stdio::null());
    let Some(said) = planted::ends_in_time(command, planted::Output::Stderr, planted::SECONDS_MAX)
    else {
        println!("{bug:32} NOT CAUGHT by the simulator");
        return false;
    };
    let seed = said
        .lines()
        .find_map(|line| line.strip_prefix("error: seed "));
    let seed = seed.and_then(|rest| rest.split(':').next());
    let seed = seed.unwrap_or_else(|| panic!("{bug}: {said}"));
    let seconds = start.elapsed().as_secs_f64();
    println!("{bug:32} caught by the simulator, in seed {seed}, after {seconds:.1} s");
    true
}
