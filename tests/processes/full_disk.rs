//! The disk of a node is full: a small file system of its own, that something else has filled.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use redis::Value;

use crate::support::{DURAMEN, Nodes, ask_readonly, wait_for};

/// A file system in memory, which needs root.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> SmallDisk {
        fs::create_dir_all(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        assert!(mount.arg(&at).status().unwrap().success(), "needs root");
        SmallDisk(at)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Takes all that is left.
    fn fill(&self) {
        let mut filler = fs::File::create(self.filler()).unwrap();
        for block in [1 << 20, 4096] {
            while filler.write_all(&vec![1; block]).is_ok() {}
        }
    }

    /// Gives some back.
    fn leave(&self, bytes: u64) {
        let filler = fs::File::options().write(true).open(self.filler()).unwrap();
        let filled = filler.metadata().unwrap().len();
        filler.set_len(filled - bytes).unwrap();
    }

    fn empty(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Its node may be up yet: what it has open stays until it ends.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
#[ignore = "mounts a file system, which needs root; .ci/run runs it"]
fn a_leader_whose_disk_is_full_is_replaced_reads_nothing_stale_and_catches_up_when_there_is_space()
{
    let mut nodes = Nodes::new();
    let disk = SmallDisk::mount(nodes.data(1), "192m");
    nodes.start_all();
    nodes.leader();
    nodes.run_well(&["transfer", "--to", "1"], 2);
    let mut client = nodes.client();
    client.until_done::<()>(&["SET", "a", "before"]);
    assert_eq!(nodes.leader(), 1);
    disk.fill();

    // The log has some space of its own left. A key that is overwritten fills logs, and no memory.
    let value = "v".repeat(1 << 20);
    wait_for("another leader", || {
        client.until_done::<()>(&["SET", "large", &value]);
        (nodes.leader() != 1).then_some(())
    });
    for number in 0..100 {
        client.until_done::<()>(&["SET", "a", &number.to_string()]);
    }
    // It cannot take what was written since, so it cannot answer with it: the leader can.
    let stale = ask_readonly(&nodes.address(1), &["GET", "a"]);
    let refused = stale.expect_err("a node without the write answers");
    let leader = nodes.address(nodes.leader());
    assert!(refused.to_string().ends_with(&leader), "{refused}");

    disk.empty();
    nodes.wait_for_catching_up(1);
    let read = ask_readonly(&nodes.address(1), &["GET", "a"]).unwrap();
    assert_eq!(read, Value::BulkString(b"99".to_vec()));
    wait_for("it to lead again", || {
        let (code, _) = nodes.run(&["transfer", "--to", "1"], 2);
        (code == Some(0)).then_some(())
    });
    client.until_done::<()>(&["SET", "a", "after"]);
    assert_eq!(nodes.leader(), 1);
    nodes.kill_9_all();
}

/// It is no fault of the log, and goes on when there is space.
#[test]
#[ignore = "mounts a file system, which needs root; .ci/run runs it"]
fn torture_of_a_full_disk_says_so_and_counts_nothing_as_lost_or_wrong() {
    let parent = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(parent.path().join("disk"), "24m");
    let torture = |rounds: &str| {
        let mut command = Command::new(DURAMEN);
        command.args(["torture", "--rounds", rounds, "--seed", "3", "--dir"]);
        let output = command.arg(disk.0.join("torture")).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), error)
    };
    assert_eq!(torture("2"), (Some(0), String::new()));
    disk.fill();
    for left in [0, 200 << 10] {
        disk.leave(left);
        let (code, error) = torture("1000");
        assert_eq!(code, Some(1), "{error}");
        assert!(error.starts_with("error: the disk is full"), "{error}");
        // It is the child who finds none, or torture itself.
        assert!(error.to_lowercase().contains("no space left"), "{error}");
    }
    disk.empty();
    assert_eq!(torture("2"), (Some(0), String::new()));
}
