//! Planted bugs, each caught by the layer that is meant for it: a proof that the tests can see.
//!
//! `RUSTFLAGS="--cfg canary" CARGO_TARGET_DIR=target/canary cargo test --profile proof -p duramen-snapshot --test canaries -- --nocapture`

#![cfg(canary)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../wal/tests/support/planted.rs"]
mod planted;

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

#[test]
fn each_planted_bug_is_caught() {
    planted::each_is_caught("duramen-snapshot", CANARIES);
}
