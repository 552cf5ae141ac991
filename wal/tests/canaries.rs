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
        "padding_counts",
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
        "older_not_truncated",
        "purging",
        "truncated_entries_never_come_back_whether_their_segment_is_freed_or_not",
    ),
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
        "number_not_checked",
        "old_bytes",
        "frames_of_a_later_history_in_a_spare_are_not_read_when_it_is_a_segment_again",
    ),
    (
        "no_reserve",
        "failing",
        "on_a_full_disk_votes_truncations_purges_and_vital_entries_are_taken",
    ),
    (
        "no_reserve",
        "failing",
        "on_a_full_disk_what_lags_is_moved_by_the_reserve_and_frees_a_segment",
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
    (
        "unreadable_is_zeros",
        "recovering",
        "a_sector_that_cannot_be_read_is_an_error_and_nothing_is_cut",
    ),
    (
        "length_not_checked",
        "damage",
        "a_file_of_another_length_is_damaged",
    ),
    (
        "other_logs_taken",
        "opening",
        "a_segment_of_another_log_is_a_stranger",
    ),
    (
        "locked_for_looking",
        "processes",
        "a_log_that_another_process_holds_is_locked_and_free_when_that_ends_or_is_killed",
    ),
    (
        "poison_forgotten",
        "read_only",
        "on_a_disk_remounted_read_only_writing_ends_and_reading_does_not",
    ),
    (
        "short_write_is_whole",
        "odd_disks",
        "short_and_interrupted_reads_and_writes_are_completed",
    ),
    (
        "damage_cut",
        "odd_disks",
        "a_lost_or_misdirected_write_is_named_or_was_past_the_mark",
    ),
    (
        "open_needs_space",
        "odd_disks",
        "after_a_crash_anywhere_the_log_opens_on_a_full_disk",
    ),
    (
        "recycled_under_readers",
        "hanging",
        "what_a_reader_holds_stays_when_its_segment_is_purged_and_files_are_recycled",
    ),
    (
        "error_of_dir_sync_ignored",
        "odd_disks",
        "an_error_of_any_call_is_told_or_does_no_harm_and_nothing_acknowledged_is_lost",
    ),
    (
        "seal_not_checked",
        "seals",
        "a_directory_that_is_bad_in_its_frame_and_in_the_seal_is_named",
    ),
    (
        "version_not_checked",
        "golden",
        "a_newer_version_is_refused_with_both_numbers_and_left_as_it_is",
    ),
    (
        "cut_before_durable",
        "cut",
        "interrupted::every_crash_while_cutting",
    ),
    (
        "place_not_kept",
        "cut",
        "interrupted::every_crash_while_cutting",
    ),
    (
        "loss_not_said",
        "cut",
        "keeping::a_log_says_that_something_was_cut_off_it",
    ),
    (
        "cut_drops_suspects",
        "cut",
        "suspects::a_vote_beside_an_entry_that_may_be_torn_is_kept",
    ),
    (
        "cut_joins_anything",
        "cut",
        "keeping::entries_that_may_have_been_replaced_are_not_joined_with_later_ones",
    ),
    (
        "cut_with_old_votes",
        "cut",
        "keeping::votes_that_can_be_read_behind_what_is_lost_are_kept",
    ),
];

#[test]
fn each_planted_bug_is_caught() {
    planted::each_is_caught("duramen-wal", CANARIES);
}
