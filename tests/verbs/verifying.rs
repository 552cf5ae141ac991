//! `duramen log verify`: the verdict on each fault, and what is no log at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use duramen::wal::{GroupId, Index, Wal};

use super::logs::{cut, dump, flip, map, node_with_log, options, repair, spoil, verify};
use super::support::DURAMEN;
use super::{duramen, files, one_at_a_time};

#[test]
fn a_whole_log_is_clean_by_each_name() {
    let _alone = one_at_a_time();
    let (node, log) = node_with_log();
    let before = files(node.path());
    for dir in [node.path(), &log] {
        verify(dir).expect(0, &["log: clean", "40 entries of 1 group", "All is well"]);
        dump(dir).expect(
            0,
            &[
                "CONTROL: log ",
                "entry 40 of term 3 at ",
                "\"entry 40 entry 40",
                "vote for 2",
                "log: clean",
            ],
        );
        repair(dir).expect(0, &["Nothing is to be repaired"]);
        cut(dir).expect(0, &["Nothing is to be repaired"]);
    }
    assert_eq!(files(node.path()), before);
}

#[test]
fn a_torn_end_is_3_and_the_next_start_mends_it() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    let (file, at, bytes) = map(&log).frames.last().unwrap().clone();
    // A write behind the last one that came to the disk in part.
    spoil(&file, at + bytes, |bytes| bytes.fill(7), 104);
    let unfinished = format!("unfinished write: 104 bytes at {}", at + bytes);
    verify(&log).expect(3, &["log: torn", &unfinished, "cuts it off by itself"]);
    let behind = format!("!! end at {}, and 104 bytes behind it", at + bytes);
    dump(&log).expect(3, &[&behind, "log: torn"]);
    repair(&log).expect(
        3,
        &[
            "Nothing that was acknowledged is lost",
            "mends an unfinished write by itself",
        ],
    );
    let json = duramen(&["log", "verify", "--json"], &log).json();
    assert_eq!(
        (&json["verdict"], &json["exit"]),
        (&"torn".into(), &3.into())
    );
    assert_eq!(json["cut"]["offset"], at + bytes);
    let wal = Wal::open(&log, options()).unwrap();
    assert_eq!(wal.last(GroupId(1)).index, Index(40));
    drop(wal);
    verify(&log).expect(0, &[]);
}

#[test]
fn what_is_no_log_is_1() {
    let _alone = one_at_a_time();
    let (node, log) = node_with_log();
    let stranger = node.path().join("stranger");
    fs::write(&stranger, "x").unwrap();
    let empty = tempfile::tempdir().unwrap();
    for action in ["dump", "verify", "repair"] {
        let say = |dir: &Path| duramen(&["log", action], dir);
        say(empty.path()).expect_error(&["holds no log"]);
        say(&empty.path().join("none")).expect_error(&["cannot list", "No such file"]);
        say(&stranger).expect_error(&["cannot list", "Not a directory"]);
    }
    assert_eq!(
        fs::read_dir(empty.path()).unwrap().count(),
        0,
        "looking left something"
    );
    // An emptied log is none, and no new one.
    fs::read_dir(&log)
        .unwrap()
        .for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
    verify(node.path()).expect_error(&["holds no log"]);
    let output = Command::new(DURAMEN)
        .args(["log", "verify"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_log_in_use_is_said_to_be_and_left_alone() {
    let _alone = one_at_a_time();
    let (node, log) = node_with_log();
    let wal = Wal::open(&log, options()).unwrap();
    for said in [
        dump(node.path()),
        verify(node.path()),
        repair(node.path()),
        cut(node.path()),
    ] {
        assert_eq!(said.code, 1);
        assert!(
            said.err.contains("is in use by another process"),
            "{}",
            said.err
        );
    }
    drop(wal);
    verify(node.path()).expect(0, &[]);
}

/// Root may write it all the same; `wal/tests/read_only.rs` has a disk that nobody may.
#[test]
fn a_directory_that_cannot_be_written_is_looked_at_and_not_changed() {
    let _alone = one_at_a_time();
    let (node, log) = node_with_log();
    let (file, at, _) = map(&log).entries[20].clone();
    flip(&file, at);
    let mode = |mode| {
        for dir in [node.path(), &log] {
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    let lock = log.join("LOCK");
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o444)).unwrap();
    let before = files(node.path());
    mode(0o555);
    verify(&log).expect(4, &["entry 21 of term 3"]);
    dump(&log).expect(4, &["entry 21 of term 3"]);
    repair(&log).expect(4, &["entries 21 to 40"]);
    mode(0o755);
    assert_eq!(files(node.path()), before);
}

#[test]
fn a_newer_version_is_refused_with_both_numbers() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    let segment = map(&log).sealed[1].clone();
    let newer = |bytes: &mut [u8]| {
        bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
        let checksum = crc32fast::hash(&[&bytes[..12], &bytes[16..]].concat());
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    };
    spoil(&segment, 0, newer, 64);
    for said in [verify(&log), repair(&log), cut(&log)] {
        said.expect_error(&["has format version 2, this program reads version 1"]);
    }
}

#[test]
fn verify_as_json_is_one_object_with_these_keys() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    let (file, at, _) = map(&log).entries[20].clone();
    flip(&file, at);
    let said = duramen(&["log", "verify", "--json"], &log);
    assert_eq!(said.code, 4);
    let json = said.json();
    let keys: Vec<&str> = json
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "bad_copies",
        "bytes",
        "cut",
        "damaged",
        "damaged_seals",
        "dir",
        "entries",
        "error",
        "exit",
        "file",
        "frames",
        "groups",
        "lossy",
        "lost_frames",
        "segments",
        "suspects",
        "unreadable",
        "verdict",
    ];
    assert_eq!(keys, expected);
    let name = file.file_name().unwrap().to_str().unwrap();
    let damaged = format!(r#"[{{"file":"{name}","group":1,"index":21,"offset":{at},"term":3}}]"#);
    assert_eq!(json["damaged"].to_string(), damaged);
}
