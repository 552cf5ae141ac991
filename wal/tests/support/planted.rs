//! Runs tests with bugs planted. For the planted bugs of more than one crate.

use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A bug is to be seen within this time.
const SECONDS_MAX: Duration = Duration::from_secs(10);

/// Plants each bug in the tests of `package`: the bug, and the test that must fail, its file and its name.
pub(crate) fn each_is_caught(package: &str, canaries: &[(&str, &str, &str)]) {
    let mut missed = Vec::new();
    for &(canary, layer, test) in canaries {
        let start = Instant::now();
        let is_caught = fails(package, canary, layer, test);
        let seconds = start.elapsed().as_secs_f64();
        let outcome = if is_caught {
            "caught by"
        } else {
            "NOT CAUGHT by"
        };
        println!("{canary:24} {outcome} {layer}::{test} after {seconds:.1} s");
        if !is_caught {
            missed.push(canary.to_owned());
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

/// Runs a test with a bug planted. A test that finds nothing in time has not failed.
fn fails(package: &str, canary: &str, layer: &str, test: &str) -> bool {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["test", "--release", "--locked", "-p", package])
        .args(["--test", layer, "--", "--exact", test])
        // Where the tests are built already: a relative CARGO_TARGET_DIR is meant from here.
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .env("DURAMEN_CANARY", canary)
        .env("DURAMEN_CRASH_SEEDS", "1")
        .stderr(Stdio::null())
        .process_group(0);
    let mut out = tempfile::tempfile().unwrap();
    command.stdout(out.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while start.elapsed() < SECONDS_MAX {
        if child.try_wait().unwrap().is_some() {
            let mut said = String::new();
            out.rewind().unwrap();
            out.read_to_string(&mut said).unwrap();
            assert!(
                said.contains("running 1 test"),
                "no test {layer}::{test}: {said}"
            );
            return said.contains("test result: FAILED. 0 passed; 1 failed");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let group = format!("-{}", child.id());
    Command::new("kill").args(["--", &group]).status().unwrap();
    child.wait().unwrap();
    false
}
