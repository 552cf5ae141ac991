//! Runs tests with bugs planted. For the planted bugs of more than one crate.

use std::collections::BTreeSet;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A bug is to be seen within this time.
const SECONDS_MAX: Duration = Duration::from_secs(10);

/// Plants each bug in the tests of `package`: the bug, and the test that must fail, its file and its name. One bug may be there
/// for several tests.
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
    let bugs: BTreeSet<&str> = canaries.iter().map(|(canary, _, _)| *canary).collect();
    println!("proof: planted_bugs/{package} {}", bugs.len());
}

/// Runs a test with a bug planted. A test that finds nothing in time has not failed.
fn fails(package: &str, canary: &str, layer: &str, test: &str) -> bool {
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--profile", "proof", "--locked", "-p", package]);
    match layer {
        "lib" => command.arg("--lib"),
        _ => command.args(["--test", layer]),
    };
    command
        .args(["--", "--exact", test])
        .current_dir(workspace())
        .env("DURAMEN_CANARY", canary)
        .env("DURAMEN_CRASH_SEEDS", "1")
        .stderr(Stdio::null());
    let Some(said) = ends_in_time(command, Output::Stdout) else {
        return false;
    };
    assert!(
        said.contains("running 1 test"),
        "no test {layer}::{test}: {said}"
    );
    said.contains("test result: FAILED. 0 passed; 1 failed")
}

/// Where the tests are built already: a relative CARGO_TARGET_DIR is meant from here.
fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_root = |dir: &&Path| dir.join("Cargo.lock").exists();
    package.ancestors().find(is_root).expect("a workspace")
}

/// Where a process says what is to be read.
pub(crate) enum Output {
    Stdout,
    #[allow(dead_code, reason = "each crate's canaries use some of this")]
    Stderr,
}

/// Runs a command, and gives what it said; `None` if it had to be killed, with all that it started, since it took too long.
pub(crate) fn ends_in_time(mut command: Command, output: Output) -> Option<String> {
    let mut out = tempfile::tempfile().unwrap();
    let copy = out.try_clone().unwrap();
    match output {
        Output::Stdout => command.stdout(copy),
        Output::Stderr => command.stderr(copy),
    };
    let mut child = command.process_group(0).spawn().unwrap();
    let start = Instant::now();
    while start.elapsed() < SECONDS_MAX {
        if child.try_wait().unwrap().is_some() {
            let mut said = String::new();
            out.rewind().unwrap();
            out.read_to_string(&mut said).unwrap();
            return Some(said);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let group = format!("-{}", child.id());
    Command::new("kill").args(["--", &group]).status().unwrap();
    child.wait().unwrap();
    None
}
