//! The rules of the house: who may import whom, how long a file may be, and that nothing but the crate `disk` touches the
//! file system.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module of the crate `duramen` may import from the others. Top to bottom: nobody imports upwards.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("client", &[]),
    ("server", &["kv", "session", "node", "replica"]),
    ("replica", &["node", "transport"]),
    ("sim", &["kv", "session", "node"]),
    ("kv", &["session", "node"]),
    ("session", &["node"]),
    ("node", &["boot", "raft", "storage", "transport"]),
    ("storage", &["boot", "raft"]),
    ("transport", &["boot", "raft"]),
    ("raft", &[]),
];

/// What each crate may depend on. The log engine alone needs no async runtime.
const MAY_DEPEND: &[(&str, &[&str])] = &[
    (
        "disk",
        &["fastrand", "fs2", "getrandom", "memmap2", "rustix"],
    ),
    (
        "wal",
        &[
            "duramen-disk",
            "bincode",
            "byteorder",
            "bytes",
            "crc32fast",
            "rustc-hash",
            "smallvec",
            "serde",
            "thiserror",
            "tracing",
        ],
    ),
    (
        "snapshot",
        &[
            "duramen-disk",
            "bincode",
            "blake3",
            "byteorder",
            "bytes",
            "crc32fast",
            "fastcdc",
            "serde",
            "thiserror",
            "tracing",
        ],
    ),
];

const LINES_MAX: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below `dir`, with their text.
fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    assert!(!found.is_empty(), "no sources in {}", dir.display());
    found
}

fn all_sources() -> Vec<(PathBuf, String)> {
    ["disk/src", "wal/src", "snapshot/src", "src"]
        .iter()
        .flat_map(|dir| sources(&root().join(dir)))
        .collect()
}

/// The part of a file that is not its tests, without comments.
fn product(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = product
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The names that follow `prefix` in a text.
fn names_after<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let rests = text.split(prefix).skip(1);
    rests
        .map(|rest| rest.split(|c| !is_name(c)).next().unwrap())
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn modules_import_only_what_is_below_them() {
    for (module, allowed) in MAY_IMPORT {
        for (path, text) in sources(&root().join("src").join(module)) {
            let product = product(&text);
            assert!(
                !product.contains("crate::{"),
                "{}: import from one module at a time",
                path.display()
            );
            for imported in names_after(&product, "crate::") {
                let fine = imported == *module || allowed.contains(&imported);
                let fine = fine || imported == "canary"; // Planted bugs are wherever a bug may be.
                assert!(
                    fine,
                    "{} imports {imported}; {module} may import {allowed:?}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn every_module_has_its_rule() {
    let listed: BTreeSet<&str> = MAY_IMPORT.iter().map(|(module, _)| *module).collect();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let is_module = entry.path().is_dir() && name != "cli"; // The program may import everything.
        assert!(
            !is_module || listed.contains(&name[..]),
            "src/{name} is not in MAY_IMPORT"
        );
    }
}

#[test]
fn the_core_is_pure() {
    for (path, text) in sources(&root().join("src/raft")) {
        let product = product(&text);
        for impure in [
            "std::fs",
            "std::io",
            "std::net",
            "std::thread",
            "std::time",
            "std::sync",
            "tokio",
            "tracing",
        ] {
            assert!(
                !product.contains(impure),
                "{} uses {impure}",
                path.display()
            );
        }
        for imported in names_after(&product, "duramen_wal::") {
            assert_eq!(
                imported,
                "types",
                "{} imports more of the log than its types",
                path.display()
            );
        }
        assert!(
            !product.contains("duramen_disk"),
            "{} uses the disk",
            path.display()
        );
        let random: BTreeSet<&str> = names_after(&product, "fastrand::");
        assert!(
            random.iter().all(|name| *name == "Rng"),
            "{} draws from a seed that was not given",
            path.display()
        );
    }
}

#[test]
fn only_the_crate_disk_touches_the_file_system() {
    for (path, text) in all_sources() {
        if path.starts_with(root().join("disk")) {
            continue;
        }
        let product = product(&text);
        for call in [
            "std::fs",
            "tokio::fs",
            "fs::File",
            ".is_dir()",
            ".is_file()",
            ".exists()",
            ".canonicalize()",
        ] {
            assert!(!product.contains(call), "{} calls {call}", path.display());
        }
    }
}

#[test]
fn only_transport_replica_server_and_program_know_the_async_runtime() {
    for (path, text) in all_sources() {
        let fine = ["src/transport", "src/replica", "src/server", "src/cli"]
            .iter()
            .any(|dir| path.starts_with(root().join(dir)));
        assert!(
            fine || !product(&text).contains("tokio"),
            "{} uses tokio",
            path.display()
        );
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for (path, text) in all_sources() {
        let lines = product(&text)
            .lines()
            .filter(|line| !line.trim().is_empty())
            .count();
        assert!(
            lines <= LINES_MAX,
            "{}: {lines} lines, the limit is {LINES_MAX}",
            path.display()
        );
        assert!(
            text.starts_with("//!"),
            "{} does not begin with what it is",
            path.display()
        );
    }
}

#[test]
fn crates_depend_on_little_and_say_why() {
    for (name, allowed) in MAY_DEPEND {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let Some((_, section)) = manifest.split_once("[dependencies]\n") else {
            continue;
        };
        for line in section
            .split("\n[")
            .next()
            .unwrap()
            .lines()
            .filter(|line| line.contains('='))
        {
            let dependency = line.split('=').next().unwrap().trim();
            assert!(
                allowed.contains(&dependency),
                "{name} depends on {dependency}"
            );
            let own = dependency.starts_with("duramen-");
            assert!(
                own || line.contains(" # "),
                "{name}: no reason beside {dependency}"
            );
        }
    }
}

#[test]
fn unsafe_code_and_unwrap_are_denied_everywhere() {
    for manifest in [
        "Cargo.toml",
        "disk/Cargo.toml",
        "wal/Cargo.toml",
        "snapshot/Cargo.toml",
    ] {
        let text = fs::read_to_string(root().join(manifest)).unwrap();
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "{manifest} does not take the workspace's lints"
        );
    }
}

/// The page that says which tests hold the log to its promises names tests that exist.
#[test]
fn the_tests_that_are_named_for_the_contracts_exist() {
    for (dir, page, at_least) in [
        ("wal/tests", "CONTRACTS.md", 50),
        ("snapshot/tests", "FAULTS.md", 35),
        ("src/raft/tests", "PAPER.md", 75),
        ("tests", "FAULTS.md", 120),
    ] {
        let dir = root().join(dir);
        let named = named_tests(&dir, page);
        assert!(named > at_least, "{named} tests are named in {page}");
    }
}

/// The fault matrix has 40 rows, and each a test, and a bug that is planted to see that it sees.
#[test]
fn each_row_of_the_fault_matrix_has_a_test_that_catches_its_planted_bugs() {
    let planted = ["", "wal/tests/", "snapshot/tests/"].map(planted_bugs);
    let page = fs::read_to_string(root().join("tests/FAULTS.md")).unwrap();
    for row in 1..=40 {
        let line = page
            .lines()
            .find(|line| line.starts_with(&format!("| {row} |")));
        let line = line.unwrap_or_else(|| panic!("there is no row {row}"));
        let cells: Vec<&str> = line.split(" | ").collect();
        let [_, _, _, tests, bugs] = cells[..] else {
            panic!("{line}");
        };
        for bug in bugs.trim_end_matches(" |").split(", ") {
            let catching: Vec<&String> = planted
                .iter()
                .flatten()
                .filter(|(name, _)| name == bug)
                .map(|(_, test)| test)
                .collect();
            assert!(!catching.is_empty(), "row {row}: {bug} is planted nowhere");
            let is_named = |test: &&String| {
                let (file, _) = test.split_once("::").unwrap();
                let is_of_a_whole_file = tests.split(", ").any(|named| {
                    named.starts_with(&format!("`{file}::"))
                        && named.contains(" and all of that file")
                });
                tests.contains(&format!("`{test}`")) || is_of_a_whole_file
            };
            let is_caught = catching.iter().any(is_named);
            assert!(is_caught, "row {row}: {bug} is caught by {catching:?}");
        }
    }
}

/// The bugs that are planted for the tests in a directory, and the tests that catch them, as they are named on the page.
fn planted_bugs(dir: &str) -> Vec<(String, String)> {
    let tests = if dir.is_empty() { "tests/" } else { dir };
    let text = fs::read_to_string(root().join(tests).join("canaries.rs")).unwrap();
    let (_, lists) = text.split_once("const ").unwrap();
    let mut planted = Vec::new();
    for list in lists.split("const ") {
        let list = list.split("];").next().unwrap();
        let mut words = list.split('"').skip(1).step_by(2);
        if list.starts_with("IN_THE_SIMULATOR") {
            let test = "sim/tests::clusters_bear_what_they_must";
            planted.extend(words.map(|bug| (bug.to_owned(), test.to_owned())));
            continue;
        }
        while list.contains(": &[(&str, &str, &str)]")
            && let (Some(bug), Some(layer), Some(test)) = (words.next(), words.next(), words.next())
        {
            let (modules, test) = test.rsplit_once("::").unwrap_or(("", test));
            let modules = modules.replace("::", "/");
            let file = match layer {
                "lib" => modules,
                _ if modules.is_empty() => format!("{dir}{layer}"),
                _ => format!("{dir}{layer}/{modules}"),
            };
            planted.push((bug.to_owned(), format!("{file}::{test}")));
            // Tests in the file that they are about are named by that file.
            if let Some(file) = file.strip_suffix("/tests") {
                planted.push((bug.to_owned(), format!("{file}::{test}")));
            }
        }
    }
    planted
}

/// How many tests a page names. They are there: beside it, or in the crate `duramen`, or where their whole path says.
fn named_tests(dir: &Path, page: &str) -> usize {
    let page = fs::read_to_string(dir.join(page)).unwrap();
    let mut named = 0;
    for name in page.split('`').skip(1).step_by(2) {
        let Some((file, test)) = name.split_once("::") else {
            continue;
        };
        let places = [dir.to_path_buf(), root().join("src"), root()];
        let paths = places.map(|place| place.join(format!("{file}.rs")));
        let path = paths.iter().find(|path| path.exists());
        let text = fs::read_to_string(path.unwrap_or_else(|| panic!("{name}"))).unwrap();
        assert!(text.contains(&format!("fn {test}(")), "{name}");
        named += 1;
    }
    named
}

/// Seeds are checked in, and so they are few and small.
#[test]
fn each_fuzz_target_has_seeds_and_is_run() {
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    let gate = fs::read_to_string(root().join(".ci/run")).unwrap();
    let run: BTreeSet<&str> = gate
        .lines()
        .filter_map(|line| line.strip_prefix("    fuzz_together "))
        .flat_map(|targets| targets.split(' '))
        .collect();
    let targets = names_after(&manifest, "[[bin]]\nname = \"");
    assert_eq!(targets, run);
    for target in targets {
        let seeds = fs::read_dir(root().join("fuzz/seeds").join(target)).unwrap();
        let sizes: Vec<u64> = seeds
            .map(|seed| seed.unwrap().metadata().unwrap().len())
            .collect();
        let bytes: u64 = sizes.iter().sum();
        assert!(
            (1..=25).contains(&sizes.len()),
            "{target}: {} seeds",
            sizes.len()
        );
        assert!(bytes <= 60_000, "{target}: {bytes} bytes");
    }
}
