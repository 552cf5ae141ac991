//! Planted bugs, each caught by the layer that is meant for it: a proof that the tests can see.
//!
//! `RUSTFLAGS="--cfg canary" CARGO_TARGET_DIR=target/canary cargo test --profile proof -p duramen-wal --test canaries -- --nocapture`

#![cfg(canary)]
#![allow(clippy::unwrap_used)] // helpers of tests, too

#[path = "support/planted.rs"]
mod planted;

/// The bug, and the test that must fail: its file and its name.
const CANARIES: &[(&str, &str, &str)] = &[
    (
        "acknowledged_unwritten",
        "processes",
        "what_was_acknowledged_is_there_after_kill_9",
    ),
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
        "seals",
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
    ("cut_before_durable", "cut", "every_crash_while_cutting"),
    (
        "cut_joins_anything",
        "cut",
        "entries_that_may_have_been_replaced_are_not_joined_with_later_ones",
    ),
    (
        "cut_with_old_votes",
        "cut",
        "votes_that_can_be_read_behind_what_is_lost_are_kept",
    ),
];

#[test]
fn each_planted_bug_is_caught() {
    planted::each_is_caught("duramen-wal", CANARIES);
}
