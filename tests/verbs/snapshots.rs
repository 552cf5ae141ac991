//! `duramen snapshot list` and `verify`.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use duramen::snapshot::{Meta, Options, SnapshotStore};
use tempfile::TempDir;

use super::logs::{flip, node_with_log};
use super::{duramen, files, one_at_a_time};

/// A node's directory with two snapshots of some owner.
fn node_with_snapshots() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = dir.path().join("snapshots");
    let mut options = Options::default();
    options.owner = 77;
    let store = SnapshotStore::open(&snapshots, options).unwrap();
    for (index, byte) in [(10, 1), (20, 2)] {
        let mut writer = store.begin(Meta::new(3, index)).unwrap();
        writer.write_all(&[byte; 5000]).unwrap();
        writer.publish().unwrap();
    }
    drop(store);
    (dir, snapshots)
}

#[test]
fn snapshots_are_listed_and_verified_by_each_name() {
    let _alone = one_at_a_time();
    let (node, snapshots) = node_with_snapshots();
    let before = files(node.path());
    for dir in [node.path(), &snapshots] {
        for action in ["list", "verify"] {
            let said = duramen(&["snapshot", action], dir);
            said.expect(
                0,
                &[
                    "snapshots: clean",
                    "up to entry 10 of term 3",
                    "up to entry 20 of term 3, 4.88 KiB",
                ],
            );
            let said = duramen(&["snapshot", action, "--json"], dir);
            assert_eq!(said.code, 0);
            let json = said.json();
            assert_eq!(json["snapshots"][1]["index"], 20);
            assert_eq!(json["exit"], 0);
            assert_eq!(json["damaged_chunks"].is_null(), action == "list");
        }
    }
    assert_eq!(files(node.path()), before);
}

#[test]
fn a_damaged_chunk_is_named_and_is_4() {
    let _alone = one_at_a_time();
    let (node, snapshots) = node_with_snapshots();
    let (path, bytes) = files(&snapshots).swap_remove(0);
    let at = bytes
        .windows(100)
        .position(|window| window == [1; 100])
        .unwrap();
    flip(&path, at as u64 + 50);
    duramen(&["snapshot", "list"], node.path()).expect(0, &[]); // It reads no chunks.
    duramen(&["snapshot", "verify"], node.path()).expect(
        4,
        &[
            "snapshots: damaged",
            "damaged: chunk ",
            "do not have the chunk's name",
        ],
    );
    let json = duramen(&["snapshot", "verify", "--json"], node.path()).json();
    assert_eq!(json["damaged_chunks"].as_array().unwrap().len(), 1);
    assert_eq!(json["exit"], 4);
    let len = bytes.len() as u64;
    flip(&path, len - 10); // The trailer: what the file is of, the snapshot itself.
    duramen(&["snapshot", "list"], node.path()).expect(4, &["damaged: "]);
}

/// A length is a claim, of bytes that nobody wrote: reading through 4 TiB of them would take an hour.
#[test]
fn a_file_that_claims_to_be_very_long_is_damaged_and_takes_no_time() {
    let _alone = one_at_a_time();
    let (node, snapshots) = node_with_snapshots();
    let (first, _) = files(&snapshots).swap_remove(0);
    let empty = snapshots.join("00000000000000ff.chunks");
    for path in [first, empty] {
        let mut open = fs::OpenOptions::new();
        let file = open.write(true).create(true).truncate(false).open(path);
        file.unwrap().set_len(4 << 40).unwrap();
    }
    for action in ["list", "verify"] {
        duramen(&["snapshot", action], node.path()).expect(
            4,
            &[
                "snapshots: damaged",
                "up to entry 10 of term 3",
                "up to entry 20 of term 3",
                "damaged: 00000000000000ff.chunks at 0: the header is bad",
                "the trailer is bad",
            ],
        );
    }
}

#[test]
fn what_holds_no_snapshots_is_1_and_stays_as_it_is() {
    let _alone = one_at_a_time();
    let empty = tempfile::tempdir().unwrap();
    let (node, log) = node_with_log();
    for action in ["list", "verify"] {
        duramen(&["snapshot", action], empty.path()).expect_error(&["holds no snapshots"]);
        duramen(&["snapshot", action], &log).expect_error(&["holds no snapshots"]);
        duramen(&["snapshot", action], node.path()).expect_error(&["holds no snapshots"]);
        duramen(&["snapshot", action], &log.join("CONTROL")).expect_error(&["cannot list"]);
    }
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    let (node, snapshots) = node_with_snapshots();
    let mut options = Options::default();
    options.owner = 77;
    let store = SnapshotStore::open(&snapshots, options).unwrap();
    duramen(&["snapshot", "list"], node.path()).expect_error(&["is in use by another process"]);
    drop(store);
}
