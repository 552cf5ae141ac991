//! `duramen log dump`: all that stands in a log, for people and as JSON.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::logs::{dump, flip, map, node_with_log, spoil};
use super::support::DURAMEN;
use super::{duramen, files, one_at_a_time};

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
