//! `duramen log` and `duramen snapshot`, the real program on real files: what it says of each fault, and with which code it
//! ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use duramen::snapshot::{Meta, Options as StoreOptions, SnapshotStore};
use duramen::wal::{
    Batch, DumpItem, Entry, GroupId, HardState, Index, LogId, NodeId, Options, Term, Wal,
};
use serde_json::Value;
use tempfile::TempDir;

use support::{DURAMEN, ask, free_base_port, wait_for};

/// A process that another test begins just now has this one's locks until it is the program: so no two tests run at a time.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a command said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{}", self.out);
        serde_json::from_str(&self.out).unwrap()
    }

    /// With this code, these words on standard output, and nothing on standard error.
    fn expect(&self, code: i32, words: &[&str]) {
        let all = format!("{}\n{}", self.out, self.err);
        assert_eq!(self.code, code, "{all}");
        words
            .iter()
            .for_each(|word| assert!(self.out.contains(word), "no {word:?} in {all}"));
        assert_eq!(self.err, "");
    }

    /// An error, with these words.
    fn expect_error(&self, words: &[&str]) {
        assert_eq!((self.code, &self.out[..]), (1, ""), "{}", self.err);
        assert!(self.err.starts_with("error: "));
        words
            .iter()
            .for_each(|word| assert!(self.err.contains(word), "no {word:?} in {}", self.err));
    }
}

fn duramen(words: &[&str], dir: &Path) -> Said {
    let output = Command::new(DURAMEN).args(words).arg(dir).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

fn dump(dir: &Path) -> Said {
    duramen(&["log", "dump"], dir)
}

fn verify(dir: &Path) -> Said {
    duramen(&["log", "verify"], dir)
}

fn repair(dir: &Path) -> Said {
    duramen(&["log", "repair"], dir)
}

fn cut(dir: &Path) -> Said {
    duramen(&["log", "repair", "--cut"], dir)
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        term: Term(term),
        index: Index(index),
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.segment_bytes = 32 << 10;
    options.batch_bytes_max = 16 << 10;
    options.in_flight_bytes_max = 16 << 10;
    options.manual_drive = true;
    options
}

/// A node's directory with a log of several segments, of which the first ones are sealed: entries 1 to 40 of group 1.
fn node_with_log() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let wal = Wal::create(&log, options()).unwrap();
    for index in 1..=40 {
        let mut batch = Batch::new();
        if index == 1 {
            let voted_for = Some(NodeId(2));
            batch.hard_state(
                GroupId(1),
                HardState {
                    term: Term(3),
                    voted_for,
                    ..HardState::default()
                },
            );
        }
        let payload = format!("entry {index} ").repeat(300);
        batch.append(
            GroupId(1),
            [Entry {
                id: log_id(3, index),
                payload: payload.into(),
                ..Entry::default()
            }],
        );
        wal.write(batch).unwrap();
    }
    wal.close().unwrap();
    (dir, log)
}

/// Where the frames and the payloads of a log stand.
#[derive(Default)]
struct Map {
    frames: Vec<(PathBuf, u64, u64)>,
    entries: Vec<(PathBuf, u64, u64)>,
    sealed: Vec<PathBuf>,
}

fn map(log: &Path) -> Map {
    let mut map = Map::default();
    let mut file = PathBuf::new();
    Wal::dump(log, |item| {
        match item {
            DumpItem::Segment {
                path, is_sealed, ..
            } => {
                file = path;
                map.sealed.extend(is_sealed.then(|| file.clone()));
            }
            DumpItem::Frame { offset, bytes, .. } => map.frames.push((file.clone(), offset, bytes)),
            DumpItem::Entry {
                offset: Some(offset),
                bytes,
                ..
            } => {
                map.entries.push((file.clone(), offset, u64::from(bytes)));
            }
            _ => {}
        }
        true
    })
    .unwrap();
    assert!(map.sealed.len() > 2 && map.entries.len() == 40);
    map
}

fn spoil(path: &Path, at: u64, change: impl Fn(&mut [u8]), len: usize) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, at).unwrap();
}

fn flip(path: &Path, at: u64) {
    spoil(path, at, |bytes| bytes[0] ^= 1, 1);
}

/// All files below a directory, but for locks.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false if path.ends_with("LOCK") => {}
            false => found.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}

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
    verify(log).expect(0, &["clean", "All is well"]);
    let wal = Wal::open(log, options()).unwrap();
    assert_eq!(wal.last(GroupId(1)).index, Index(last));
}

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
fn a_log_with_a_stranger_in_it_is_not_cut() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    fs::write(log.join("stranger"), "x").unwrap();
    for said in [verify(&log), repair(&log), cut(&log)] {
        said.expect_error(&["stranger does not belong to the log: move it away"]);
    }
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
    mode(0o555);
    verify(&log).expect(4, &["entry 21 of term 3"]);
    dump(&log).expect(4, &["entry 21 of term 3"]);
    repair(&log).expect(4, &["entries 21 to 40"]);
    mode(0o755);
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

#[test]
fn a_dump_as_json_is_the_same_tree() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    let (file, at, _) = map(&log).entries[20].clone();
    flip(&file, at);
    let said = duramen(&["log", "dump", "--json", "--raw"], &log);
    assert_eq!(said.code, 4);
    let json = said.json();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let frames: Vec<Value> = list(&json["segments"])
        .iter()
        .flat_map(|segment| list(&segment["frames"]))
        .collect();
    let records: Vec<Value> = frames
        .iter()
        .flat_map(|frame| list(&frame["records"]))
        .collect();
    let entries: Vec<Value> = records
        .iter()
        .flat_map(|record| list(&record["entries"]))
        .collect();
    assert_eq!(entries.len(), 40);
    let whole = entries.iter().filter(|entry| entry["whole"] == true);
    assert_eq!(whole.count(), 39);
    assert!(
        entries[0]["hex"]
            .as_str()
            .unwrap()
            .starts_with("656e7472792031")
    );
    assert!(
        records
            .iter()
            .any(|record| record["kind"] == "hard_state" && record["voted_for"] == 2)
    );
    assert_eq!(
        (&json["verdict"], &json["exit"]),
        (&"damaged".into(), &4.into())
    );
    let ends = list(&json["segments"])
        .into_iter()
        .map(|segment| segment["end"]["bytes"] == 0);
    assert!(ends.len() > 2 && ends.into_iter().all(|is_end| is_end));
}

#[test]
fn json_is_whole_whatever_cannot_be_read() {
    let _alone = one_at_a_time();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("wal/tests/golden/v1");
    for name in ["closed", "killed"] {
        for spoiled in [None, Some("CONTROL"), Some("second"), Some("frame")] {
            let dir = tempfile::tempdir().unwrap();
            for (path, bytes) in files(&golden.join(name)) {
                fs::write(dir.path().join(path.file_name().unwrap()), bytes).unwrap();
            }
            let mut segments = files(dir.path()).into_iter().map(|(path, _)| path);
            let last = segments.rfind(|path| path.extension().is_some()).unwrap();
            match spoiled {
                None => {}
                Some("CONTROL") => fs::remove_file(dir.path().join("CONTROL")).unwrap(),
                Some("second") => flip(&last, 20),
                Some(_) => spoil(&last, 64, |bytes| bytes.fill(1), 6000),
            }
            let said = duramen(&["log", "dump", "--json"], dir.path());
            let json = said.json();
            assert_eq!(json["exit"], said.code, "{name} {spoiled:?}");
            assert!(json["segments"].as_array().unwrap().len() > 1);
        }
    }
}

/// Golden: what stands in a small log of version 1, as a person sees it.
#[test]
fn a_dump_of_a_golden_log_reads_so() {
    let _alone = one_at_a_time();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("wal/tests/golden/v1/killed");
    let copy = tempfile::tempdir().unwrap();
    for (path, bytes) in files(&dir) {
        fs::write(copy.path().join(path.file_name().unwrap()), bytes).unwrap();
    }
    let said = dump(copy.path());
    assert_eq!(said.code, 3);
    let shown = said.out.replace(&copy.path().display().to_string(), "DIR");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verbs/killed.txt");
    if let Some(out) = std::env::var_os("DURAMEN_GOLDEN_OUT") {
        fs::write(Path::new(&out).join("killed.txt"), &shown).unwrap();
    }
    assert_eq!(shown, fs::read_to_string(golden).unwrap());
    let raw = duramen(&["log", "dump", "--raw"], copy.path()).out;
    let line =
        "               232  31 20 31 2f 31 2e 31 20 31 2f 31 2e 31 20        1 1/1.1 1/1.1 \n";
    assert!(raw.contains(line), "no {line:?}");
    let without = |line: &&str| !line.starts_with("        ");
    let lines: Vec<&str> = raw.lines().filter(without).collect();
    assert!(lines.len() == said.out.lines().count());
}

/// `duramen log dump DIR | head`: it ends, without a word.
#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let _alone = one_at_a_time();
    let (_node, log) = node_with_log();
    for words in [
        &["log", "dump", "--raw"][..],
        &["log", "dump", "--raw", "--json"],
    ] {
        let mut command = Command::new(DURAMEN);
        command.args(words).arg(&log);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut some = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        assert_eq!(output.status.code(), Some(1));
    }
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
    verify(&data).expect(0, &[]);
    let node = Alone::start(&data, port);
    let get = |key: &str| ask::<Option<String>>(&address, &["GET", key]);
    let before = wait_for("the node to lead again", || get("before").ok());
    assert_eq!(before, Some("before".repeat(100)));
    assert_eq!(get("damaged").unwrap(), None);
    assert_eq!(get("behind").unwrap(), None);
    set("after").unwrap();
    drop(node);
}

/// A node's directory with two snapshots of some owner.
fn node_with_snapshots() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = dir.path().join("snapshots");
    let mut options = StoreOptions::default();
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
    let mut options = StoreOptions::default();
    options.owner = 77;
    let store = SnapshotStore::open(&snapshots, options).unwrap();
    duramen(&["snapshot", "list"], node.path()).expect_error(&["is in use by another process"]);
    drop(store);
}

#[test]
fn the_codes_are_in_the_help() {
    let _alone = one_at_a_time();
    for words in [
        &["log", "--help"][..],
        &["log", "verify", "--help"],
        &["snapshot", "--help"],
    ] {
        let output = Command::new(DURAMEN).args(words).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let one_line = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(one_line.contains("Exit codes: 0 "), "{said}");
        assert!(one_line.contains("4 something is damaged"), "{said}");
    }
}
