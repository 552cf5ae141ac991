//! Real processes: two that want one log, and one that is killed while it writes. The children are this test program again.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use duramen_disk::OsDisk;
use duramen_wal::{Error, GroupId, Index, Options, Wal};
use support::*;

/// The child works in this directory. Without it the tests that are children do nothing.
const DIR_OF_CHILD: &str = "DURAMEN_TEST_DIR";

fn small() -> Options {
    let mut options = options(1 << 16);
    options.manual_drive = false;
    options
}

/// Nobody purges the last so many entries.
const KEPT: u64 = 40;

/// What is written as the `index`-th batch.
fn step(index: u64) -> Step {
    let term = 1 + index / 50;
    let mut step = vec![append(1, index, index, term, (index * 37 % 2000) as usize)];
    if index.is_multiple_of(10) {
        step.push(vote(2, index, index % 3));
    }
    if index.is_multiple_of(KEPT) && index > KEPT {
        let purged = index - KEPT;
        step.push(purge(1, purged, 1 + purged / 50));
    }
    step
}

/// One test at a time: a child that one starts holds, from its fork to its exec, what is open in this process, so also the
/// lock of a log that another test has just dropped.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that runs one of the tests here. It ends with its standard input, so at the latest with this process.
struct OtherProcess {
    child: Child,
    input: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

impl OtherProcess {
    fn run(test: &str, dir: &Path) -> OtherProcess {
        OtherProcess::run_by(Command::new(std::env::current_exe().unwrap()), test, dir)
    }

    /// No file may have more than so many blocks of 512 bytes: what would be behind is an error.
    fn run_with_file_size_limit(blocks: u64, test: &str, dir: &Path) -> OtherProcess {
        let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command
            .args(["-c", &limited])
            .arg(std::env::current_exe().unwrap());
        OtherProcess::run_by(command, test, dir)
    }

    fn run_by(mut command: Command, test: &str, dir: &Path) -> OtherProcess {
        command
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env(DIR_OF_CHILD, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap());
        OtherProcess {
            child,
            input,
            lines,
        }
    }

    /// Waits until it says so.
    fn wait_for(&mut self, word: &str) {
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            let read = self.lines.read_line(&mut line).unwrap();
            assert!(read > 0, "it ended and never said {word:?}");
        }
    }

    /// Tells it to end.
    fn end(mut self) {
        drop(self.input.take());
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
    }

    /// `kill -9`. Gives what it had said and nobody had read.
    fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        rest
    }
}

/// What a child says, past the capturing of what tests print.
fn say(word: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word}").unwrap();
    out.flush().unwrap();
}

fn wait_for_the_end_of_input() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

#[test]
#[ignore = "a child of other tests"]
fn child_that_holds_the_log() {
    let Some(dir) = std::env::var_os(DIR_OF_CHILD) else {
        return;
    };
    let wal = Wal::open(dir, small()).unwrap();
    say("open");
    wait_for_the_end_of_input();
    wal.write(batch(&step(2))).unwrap();
}

#[test]
#[ignore = "a child of other tests"]
fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR_OF_CHILD) else {
        return;
    };
    std::thread::spawn(|| {
        wait_for_the_end_of_input();
        std::process::exit(1); // Nobody is left to kill it.
    });
    let wal = Wal::open(dir, small()).unwrap();
    say("open");
    // Several are under way at a time: what is acknowledged is said in order.
    let mut tickets = std::collections::VecDeque::new();
    for index in wal.last(GroupId(1)).index.0 + 1.. {
        tickets.push_back((index, wal.submit(batch(&step(index))).unwrap()));
        if tickets.len() > 4 {
            let (index, ticket) = tickets.pop_front().unwrap();
            ticket.wait().unwrap();
            say(&format!("acknowledged {index} ."));
        }
    }
}

#[test]
#[ignore = "a child of other tests"]
fn child_that_writes_up_to_its_file_size_limit() {
    let Some(dir) = std::env::var_os(DIR_OF_CHILD) else {
        return;
    };
    let wal = Wal::open(dir, small()).unwrap();
    for index in wal.last(GroupId(1)).index.0 + 1.. {
        let Err(error) = wal.write(batch(&step(index))) else {
            continue;
        };
        say(&format!("acknowledged {} .", index - 1));
        let mut cause = &error;
        while let Error::Poisoned { cause: inner } = cause {
            cause = inner;
        }
        println!("{error}");
        let is_told = matches!(cause, Error::Io { op: "write", source, .. } if source.kind() == ErrorKind::FileTooLarge);
        assert!(is_told, "{error}");
        return;
    }
}

/// Opening and creating; by its name and by another one.
#[test]
fn a_log_that_another_process_holds_is_locked_and_free_when_that_ends_or_is_killed() {
    let _alone = alone();
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    let other_name = parent.path().join("link");
    std::os::unix::fs::symlink(&dir, &other_name).unwrap();
    let wal = Wal::create(&dir, small()).unwrap();
    wal.write(batch(&step(1))).unwrap();
    drop(wal);
    for killed in [true, false] {
        let mut other = OtherProcess::run("child_that_holds_the_log", &dir);
        other.wait_for("open");
        let before = files(&OsDisk, &dir);
        for name in [&dir, &other_name] {
            let refusals = [Wal::open(name, small()), Wal::create(name, small())];
            for refused in refusals.map(error) {
                let is_named = matches!(&refused, Error::Locked { path } if path == name);
                assert!(is_named, "{refused}");
                assert!(refused.to_string().contains("process"), "{refused}");
            }
        }
        assert!(files(&OsDisk, &dir) == before);
        match killed {
            true => drop(other.kill()),
            false => other.end(),
        }
        let written = if killed { 1 } else { 2 };
        let wal = Wal::open(&other_name, small()).unwrap();
        let steps: Vec<Step> = (1..=written).map(step).collect();
        assert!(state_of(&wal) == states(&steps)[steps.len()]);
    }
}

/// The number in the last whole line that acknowledges a batch.
fn last_acknowledged(said: &str) -> Option<u64> {
    let mut lines = said.lines().rev();
    lines.find_map(|line| {
        let (_, number) = line.split_once("acknowledged ")?;
        number.strip_suffix(" .")?.parse().ok()
    })
}

/// The last entries, and the vote, of a log that holds the first `count` batches; group 1's first entry goes by its purge.
fn assert_holds_batches(wal: &Wal, count: u64) {
    let last_purge = (1..=count)
        .rev()
        .find(|index| index.is_multiple_of(KEPT) && *index > KEPT);
    let purged = last_purge.map_or(0, |index| index - KEPT);
    assert_eq!(wal.purged(GroupId(1)).index, Index(purged));
    for index in purged + 1..=count {
        let read = wal.entries(GroupId(1), Index(index)..Index(index + 1), 0);
        let step = step(index);
        let Change::Append(_, expected) = &step[0] else {
            unreachable!();
        };
        assert_eq!(read.unwrap(), *expected);
    }
    let voted = count / 10 * 10;
    assert_eq!(wal.hard_state(GroupId(2)).term.0, voted);
}

/// Row 1, with a real process: again and again in one directory, at no moment in particular.
#[test]
fn what_was_acknowledged_is_there_after_kill_9() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    drop(Wal::create(dir.path(), small()).unwrap());
    let (mut acknowledged, mut unacknowledged, mut segments) = (0, 0, 0);
    for round in 0..12 {
        let mut other = OtherProcess::run("child_that_writes_until_it_is_killed", dir.path());
        other.wait_for("open");
        std::thread::sleep(Duration::from_millis(10 + 17 * (round % 5)));
        let said = other.kill();
        acknowledged = last_acknowledged(&said).unwrap_or(acknowledged);
        let wal = Wal::open(dir.path(), small()).unwrap();
        let held = wal.last(GroupId(1)).index.0;
        println!("round {round}: {acknowledged} acknowledged, {held} held");
        assert!((acknowledged..=acknowledged + 5).contains(&held));
        assert_eq!(wal.recovery().damaged, []);
        assert_holds_batches(&wal, held);
        unacknowledged += held - acknowledged;
        acknowledged = held; // what was said by `open` is there from now on
        segments = segments.max(wal.recovery().segments);
    }
    assert!(acknowledged > 200, "{acknowledged}");
    println!("{acknowledged} batches, {unacknowledged} of them not acknowledged");
    assert!(segments >= 2, "{segments}");
}

/// Row 19, with a real limit, in the middle of a segment: a write is short there, the rest of it is an error.
#[test]
fn a_write_that_a_file_size_limit_cuts_short_is_an_error_and_loses_nothing() {
    let _alone = alone();
    for blocks in [40, 57, 90] {
        let dir = tempfile::tempdir().unwrap();
        drop(Wal::create(dir.path(), small()).unwrap());
        let child = "child_that_writes_up_to_its_file_size_limit";
        let mut other = OtherProcess::run_with_file_size_limit(blocks, child, dir.path());
        let mut said = String::new();
        other.lines.read_to_string(&mut said).unwrap();
        other.end();
        let acknowledged = last_acknowledged(&said).unwrap();
        assert!(acknowledged > 10, "{acknowledged}");
        let wal = Wal::open(dir.path(), small()).unwrap();
        // The last one may be whole by one of its two directories.
        let held = wal.last(GroupId(1)).index.0;
        assert!((acknowledged..=acknowledged + 1).contains(&held));
        assert_eq!(wal.recovery().damaged, []);
        assert_holds_batches(&wal, held);
        wal.write(batch(&step(held + 1))).unwrap();
        assert_holds_batches(&wal, held + 1);
    }
}
