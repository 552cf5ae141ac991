//! What two processes do to each other.

#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::env;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use duramen_disk::{Disk, LockMode, OsDisk};

const DIR: &str = "DURAMEN_TEST_LOCK_DIR";

/// Not a test of its own: the process that [`holder`] starts.
#[test]
fn holds_a_lock_when_it_is_told_to() {
    if let Ok(dir) = env::var(DIR) {
        let _guard = OsDisk.lock(Path::new(&dir), LockMode::Shared).unwrap();
        println!("\nlocked");
        let _ = io::stdin().read(&mut [0]);
    }
}

/// A process that has the directory locked.
fn holder(dir: &Path) -> Child {
    let mut holder = Command::new(env::current_exe().unwrap())
        .args(["--exact", "holds_a_lock_when_it_is_told_to", "--nocapture"])
        .env(DIR, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(holder.stdout.take().unwrap()).lines();
    let mut said = said.map(|line| line.unwrap());
    assert!(said.any(|line| line == "locked"));
    holder
}

#[test]
fn a_directory_is_locked_against_another_process_until_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let lock = |mode| OsDisk.lock(dir.path(), mode).map(|_| ());
    let mut holders = [(); 2].map(|()| holder(dir.path()));
    lock(LockMode::Shared).unwrap();
    for holder in &mut holders {
        let refused = lock(LockMode::Exclusive).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        holder.kill().unwrap();
        holder.wait().unwrap();
    }
    lock(LockMode::Exclusive).unwrap();
}
