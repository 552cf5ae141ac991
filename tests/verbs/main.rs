//! `duramen log` and `duramen snapshot`, the real program on real files: what it says of each fault, and with which code it
//! ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dumping;
mod logs;
mod places;
mod repairing;
mod snapshots;
#[path = "../support/mod.rs"]
mod support;
mod verifying;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use support::DURAMEN;

/// A process that another test begins just now has this one's locks until it is the program: so no two tests run at a time.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a command said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{}", self.out);
        serde_json::from_str(&self.out).unwrap()
    }

    /// With this code, these words on standard output, and nothing on standard error.
    pub(crate) fn expect(&self, code: i32, words: &[&str]) {
        let all = format!("{}\n{}", self.out, self.err);
        assert_eq!(self.code, code, "{all}");
        words
            .iter()
            .for_each(|word| assert!(self.out.contains(word), "no {word:?} in {all}"));
        assert_eq!(self.err, "");
    }

    /// An error, with these words.
    pub(crate) fn expect_error(&self, words: &[&str]) {
        assert_eq!((self.code, &self.out[..]), (1, ""), "{}", self.err);
        assert!(self.err.starts_with("error: "));
        words
            .iter()
            .for_each(|word| assert!(self.err.contains(word), "no {word:?} in {}", self.err));
    }
}

pub(crate) fn duramen(words: &[&str], dir: &Path) -> Said {
    let output = Command::new(DURAMEN).args(words).arg(dir).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// All files below a directory, but for locks.
pub(crate) fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
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
