//! Runs tests with bugs planted. For the planted bugs of more than one crate.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A bug is to be seen within this time.
pub(crate) const SECONDS_MAX: Duration = Duration::from_secs(10);

/// Without a bug, the tests of one file take less.
const SECONDS_MAX_SOUND: Duration = Duration::from_secs(120);

/// Plants each bug in the tests of `package`: the bug, and the test that must fail, its file and its name. One bug may be there
/// for several tests. Without a bug they must pass: what fails anyhow has seen nothing.
pub(crate) fn each_is_caught(package: &str, canaries: &[(&str, &str, &str)]) {
    all_pass_without(package, canaries);
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

/// Runs each test once with no bug planted, those of a file together.
fn all_pass_without(package: &str, canaries: &[(&str, &str, &str)]) {
    let start = Instant::now();
    let mut layers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for &(_, layer, test) in canaries {
        layers.entry(layer).or_default().insert(test);
    }
    let mut passed = 0;
    for (layer, tests) in layers {
        let tests: Vec<&str> = tests.into_iter().collect();
        let said = said_by(package, "none", layer, &tests, SECONDS_MAX_SOUND);
        let said = said.unwrap_or_else(|| panic!("{layer} takes too long: {tests:?}"));
        let expected = format!("test result: ok. {} passed; 0 failed", tests.len());
        assert!(said.contains(&expected), "without a bug, {layer}: {said}");
        passed += tests.len();
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("without a bug {passed} tests passed, after {seconds:.1} s");
}

/// Whether a test fails with a bug planted. One that finds nothing in time has not failed.
fn fails(package: &str, canary: &str, layer: &str, test: &str) -> bool {
    let Some(said) = said_by(package, canary, layer, &[test], SECONDS_MAX) else {
        return false;
    };
    assert!(
        said.contains("running 1 test"),
        "no test {layer}::{test}: {said}"
    );
    said.contains("test result: FAILED. 0 passed; 1 failed")
}

/// What tests say with a bug planted, if they end in time.
fn said_by(
    package: &str,
    canary: &str,
    layer: &str,
    tests: &[&str],
    limit: Duration,
) -> Option<String> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--profile", "proof", "--locked", "-p", package]);
    match layer {
        "lib" => command.arg("--lib"),
        _ => command.args(["--test", layer]),
    };
    command
        .args(["--", "--exact"])
        .args(tests)
        .current_dir(workspace())
        .env("DURAMEN_CANARY", canary)
        .env("DURAMEN_CRASH_SEEDS", "1")
        .stderr(Stdio::null());
    ends_in_time(command, Output::Stdout, limit)
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
pub(crate) fn ends_in_time(
    mut command: Command,
    output: Output,
    limit: Duration,
) -> Option<String> {
    let mut out = tempfile::tempfile().unwrap();
    let copy = out.try_clone().unwrap();
    match output {
        Output::Stdout => command.stdout(copy),
        Output::Stderr => command.stderr(copy),
    };
    let mut child = command.process_group(0).spawn().unwrap();
    let start = Instant::now();
    while start.elapsed() < limit {
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
