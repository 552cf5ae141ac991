//! `duramen log repair`: what it would cut, and what is there when it has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use duramen::disk::{Disk, LockMode, OsDisk};
use duramen::wal::{DumpItem, GroupId, Index, Wal};

use super::logs::{cut, dump, flip, map, node_with_log, options, repair, spoil, verify};
use super::support::{DURAMEN, ask, free_base_port, wait_for};
use super::{duramen, files, one_at_a_time};

/// Cuts, and looks whether the log is whole then, with entries up to `last`, and the old one stands aside as it was.
fn cut_and_look(log: &Path, last: u64) {
    let before = files(log);
    let said = repair(log);
    assert_eq!(said.code, 4);
    assert!(said.out.contains("Nothing was done"), "{}", said.out);
    assert_eq!(files(log), before);
    cut(log).expect(0, &["Has written the log anew", "log.aside-1"]);
    let aside = log.with_file_name("log.aside-1");
    let contents = |files: Vec<(PathBuf, Vec<u8>)>| files.into_iter().map(|(_, bytes)| bytes);
    assert!(contents(files(&aside)).eq(contents(before)));
    let says = if last < 40 { "lossy: " } else { "All is well" };
    verify(log).expect(0, &["clean", says]);
    let wal = Wal::open(log, options()).unwrap();
    assert_eq!(wal.last(GroupId(1)).index, Index(last));
}

#[test]
fn a_torn_end_can_be_cut_too() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    let (file, at, bytes) = map(&log).frames.last().unwrap().clone();
    spoil(&file, at + bytes, |bytes| bytes.fill(7), 104);
    cut(&log).expect(0, &["Has written the log anew, with 40 entries"]);
    verify(&log).expect(0, &[]);
}

#[test]
fn a_flipped_bit_of_a_payload_is_named_and_cut_off_with_what_follows() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    let (file, at, bytes) = map(&log).entries[20].clone();
    flip(&file, at + bytes / 2);
    let name = file.file_name().unwrap().to_str().unwrap();
    let place = format!("damaged: group 1, entry 21 of term 3, in {name} at {at}");
    verify(&log).expect(
        4,
        &[
            "log: damaged",
            &place,
            "fetches these entries from the others",
        ],
    );
    dump(&log).expect(
        4,
        &[
            "   !! entry 21 of term 3 at ",
            "DAMAGED: there stands \"entry 21",
            "log: damaged",
        ],
    );
    let lost = "LOST: group 1, entries 21 to 40: the group ends after entry 20 of term 3";
    repair(&log).expect(
        4,
        &[
            lost,
            &format!("{name}: 1 damaged entry"),
            "could vote twice in a term",
        ],
    );
    let json = duramen(&["log", "repair", "--json"], &log).json();
    let object = json.as_object().unwrap();
    let keys: Vec<&str> = object.keys().map(String::as_str).collect();
    let expected = [
        "aside",
        "bytes",
        "cut",
        "dir",
        "done",
        "end_lost",
        "entries",
        "exit",
        "files",
        "groups",
        "lost",
        "unreadable",
        "verdict",
    ];
    assert_eq!(keys, expected);
    assert_eq!(
        json["lost"].to_string(),
        r#"[{"end":40,"first":21,"group":1,"kept":{"index":20,"term":3}}]"#
    );
    assert_eq!(json["exit"], 4);
    cut_and_look(&log, 20);
}

#[test]
fn a_flipped_bit_of_a_seal_or_of_one_copy_loses_nothing() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    let sealed = map(&log).sealed[1].clone();
    let len = fs::metadata(&sealed).unwrap().len();
    flip(&sealed, len - 140); // The summary.
    let said = verify(&log);
    said.expect(
        4,
        &[
            "damaged seal: ",
            "Nothing is lost",
            "duramen log repair --cut",
        ],
    );
    cut_and_look(&log, 40);
}

#[test]
fn a_frame_that_cannot_be_named_keeps_the_log_from_being_opened_and_ends_it_when_it_is_cut() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    let frames = map(&log).frames;
    let (file, at, bytes) = frames[frames.len() - 2].clone();
    flip(&file, at + bytes - 20); // The records in its directory.
    assert!(Wal::open(&log, options()).is_err());
    verify(&log).expect(
        4,
        &[
            "it cannot be opened: damaged: ",
            &format!("at offset {at}"),
            "under a new number",
        ],
    );
    dump(&log).expect(
        4,
        &[
            &format!("!! at {at}, {bytes} bytes: NO FRAME"),
            "entry 40 of term 3",
        ],
    );
    repair(&log).expect(
        4,
        &[
            "LOST: what was written last",
            "cannot be read, or not all of it",
        ],
    );
    let json = duramen(&["log", "verify", "--json"], &log).json();
    assert_eq!(json["file"], file.file_name().unwrap().to_str().unwrap());
    assert_eq!(json["verdict"], "damaged");
    cut_and_look(&log, 38);
}

#[test]
fn control_that_is_damaged_or_missing_is_damage_and_loses_nothing() {
    let _alone = one_at_a_time();
    let spoil_control: [fn(&Path); 2] = [
        |path| fs::write(path, vec![0; 8192]).unwrap(),
        |path| fs::remove_file(path).unwrap(),
    ];
    for spoil_control in spoil_control {
        let (_node, log) = node_with_log();
        spoil_control(&log.join("CONTROL"));
        verify(&log).expect(4, &["it cannot be opened", "CONTROL"]);
        dump(&log).expect(4, &["!! CONTROL: CANNOT BE READ", "entry 40 of term 3"]);
        cut_and_look(&log, 40);
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    fs::remove_file(&map(&log).sealed[1]).unwrap();
    verify(&log).expect(4, &["segment missing: ", "0000000000000002.wal"]);
    dump(&log).expect(4, &["segment 1: ", "segment 3: "]);
    repair(&log).expect(4, &["0000000000000002.wal: is not there", "to 40"]);
    cut(&log).expect(0, &[]);
    verify(&log).expect(0, &[]);
}

#[test]
fn a_log_with_a_stranger_in_it_is_not_cut() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    fs::write(log.join("stranger"), "x").unwrap();
    for said in [verify(&log), repair(&log), cut(&log)] {
        said.expect_error(&["stranger does not belong to the log: move it away"]);
    }
}

/// Before it is done a node of a cluster is to be started, which mends it. Afterwards it must not be.
#[test]
fn who_has_cut_off_what_was_acknowledged_is_not_told_to_start_the_node() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    let (file, at, bytes) = map(&log).entries[20].clone();
    flip(&file, at + bytes / 2);
    repair(&log).expect(4, &["Of a cluster: start the node"]);
    let said = cut(&log);
    said.expect(0, &["could vote twice in a term", "under a new number"]);
    assert!(!said.out.contains("start the node"), "{}", said.out);
    verify(&log).expect(0, &["lossy: ", "under a new number"]);
}

#[test]
fn a_log_is_not_given_up_because_it_cannot_be_cut_just_now() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    let (file, at, bytes) = map(&log).entries[20].clone();
    flip(&file, at + bytes / 2);
    let somebody = OsDisk::new().lock(&log, LockMode::Shared).unwrap();
    let said = cut(&log);
    said.expect_error(&["log is in use"]);
    assert!(!said.err.contains("new number"), "{}", said.err);
    drop(somebody);
    cut_and_look(&log, 20);
}

/// The new log would come to stand where the link does, perhaps on another disk.
#[test]
fn the_log_behind_a_link_is_not_cut() {
    let _alone = one_at_a_time();
    let (node, log) = node_with_log();
    let (file, at, bytes) = map(&log).entries[20].clone();
    flip(&file, at + bytes / 2);
    let link = node.path().join("link");
    std::os::unix::fs::symlink(&log, &link).unwrap();
    verify(&link).expect(4, &[]);
    let before = files(&log);
    cut(&link).expect_error(&["link"]);
    assert_eq!(files(&log), before);
    assert!(link.is_symlink());
    cut_and_look(&log, 20);
}

/// A cluster of one node. It is killed when it goes out of scope.
struct Alone(Child);

impl Alone {
    fn start(dir: &Path, port: u16) -> Alone {
        let mut command = Command::new(DURAMEN);
        command.args(["serve", "--id", "1", "--data"]).arg(dir);
        command.args(["--resp", &format!("127.0.0.1:{}", port + 1)]);
        command.args(["--peers", &format!("1=127.0.0.1:{}", port + 11)]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        Alone(command.spawn().unwrap())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What it is for: a node that has no peers waits for ever for an entry that is damaged. Cut off, it serves what was before it.
#[test]
fn a_node_without_peers_serves_again_when_the_damage_is_cut_off() {
    let _alone = one_at_a_time();
    let (dir, port) = (tempfile::tempdir().unwrap(), free_base_port());
    let address = format!("127.0.0.1:{}", port + 1);
    let data = dir.path().join("node-1");
    let node = Alone::start(&data, port);
    let set = |key: &str| ask::<String>(&address, &["SET", key, &key.repeat(100)]).ok();
    wait_for("the node to lead", || set("before"));
    for key in ["damaged", "behind"] {
        set(key).unwrap();
    }
    drop(node);
    let log = data.join("log");
    let mut damaged = None;
    let mut file = PathBuf::new();
    Wal::dump(&log, |item| {
        match item {
            DumpItem::Segment { path, .. } => file = path,
            DumpItem::Entry {
                offset: Some(offset),
                payload: Some(payload),
                ..
            } if payload.windows(14).any(|bytes| bytes == b"damageddamaged") => {
                damaged = Some((file.clone(), offset + payload.len() as u64 / 2));
            }
            _ => {}
        }
        true
    })
    .unwrap();
    let (file, at) = damaged.unwrap();
    flip(&file, at);
    verify(&data).expect(4, &["damaged: group 1, entry "]);
    cut(&data).expect(0, &["LOST: group 1, entries "]);
    verify(&data).expect(0, &["lossy: "]);
    let node = Alone::start(&data, port);
    let get = |key: &str| ask::<Option<String>>(&address, &["GET", key]);
    let before = wait_for("the node to lead again", || get("before").ok());
    assert_eq!(before, Some("before".repeat(100)));
    assert_eq!(get("damaged").unwrap(), None);
    assert_eq!(get("behind").unwrap(), None);
    set("after").unwrap();
    drop(node);
    assert!(!verify(&data).out.contains("lossy"));
}
