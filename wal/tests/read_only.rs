//! Directories that nobody may write to, or no longer: writing is an error and what is there stays; reading goes on.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use duramen_disk::{Disk, OsDisk, SimDisk};
use duramen_wal::{Error, Options, Wal};
use support::*;

/// Some entries in each segment.
fn small() -> Options {
    options(12288)
}

/// Segments are filled, freed, and become other ones.
fn steps() -> Vec<Step> {
    let one = |i| vec![append(1, i, i, 1, 2400), user(2, b"state")];
    let mut steps: Vec<Step> = (1..=24).map(one).collect();
    steps.insert(14, vec![purge(1, 10, 1)]);
    steps
}

/// What the operating system said to a write that it does not allow.
fn is_read_only(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => matches!(
            source.kind(),
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
        ),
        Error::Poisoned { cause } => is_read_only(cause),
        _ => false,
    }
}

#[test]
fn a_log_on_a_read_only_disk_is_not_opened_nor_made_and_not_changed() {
    let steps = steps();
    for disk in [
        disk_with(&small(), &steps),
        killed_disk_with(&small(), &steps),
    ] {
        let before = files(&disk, DIR.as_ref());
        disk.set_read_only(true);
        let refused = error(open(&disk, &small()));
        assert!(is_read_only(&refused), "{refused}");
        assert!(refused.to_string().contains(DIR), "{refused}");
        assert!(files(&disk, DIR.as_ref()) == before);
        disk.set_read_only(false);
        assert_holds(&disk, &small(), &steps, steps.len());
    }
    let disk = SimDisk::new();
    for made in [false, true] {
        if made {
            disk.create_dir_all(DIR.as_ref()).unwrap();
        }
        disk.set_read_only(true);
        let refused = error(create(&disk, &small()));
        assert!(is_read_only(&refused), "{refused}");
        disk.set_read_only(false);
    }
    create(&disk, &small()).unwrap();
}

/// As a kernel does it that has found its file system damaged. The log says so to whoever writes, and goes on being read.
#[test]
fn on_a_disk_remounted_read_only_writing_ends_and_reading_does_not() {
    let steps = steps();
    let states = states(&steps);
    for written in 0..steps.len() {
        for together in 1..=3.min(steps.len() - written) {
            let _replay = Replay(|| format!("after {written} steps, {together} at once"));
            let disk = SimDisk::new();
            let wal = create(&disk, &small()).unwrap();
            write_all(&wal, &steps[..written]);
            let more = &steps[written..written + together];
            let tickets: Vec<_> = more.iter().map(|step| wal.submit(batch(step))).collect();
            disk.set_read_only(true);
            let tickets: Vec<_> = tickets.into_iter().map(|ticket| ticket.unwrap()).collect();
            // Whoever submits more than may be under way writes what others submitted.
            let durable = written + tickets.iter().filter(|ticket| ticket.is_durable()).count();
            assert!(durable < written + together);
            for ticket in tickets.into_iter().skip(durable - written) {
                let refused = error(ticket.wait());
                assert!(is_read_only(&refused), "{refused}");
            }
            assert!(state_of(&wal) == states[durable]);
            for _ in 0..2 {
                let refused = error(wal.write(batch(&steps[durable])));
                assert!(is_read_only(&refused), "{refused}");
            }
            assert!(state_of(&wal) == states[durable]);
            disk.set_read_only(false); // what was poisoned stays so
            assert!(matches!(wal.drive(), Err(Error::Poisoned { .. })));
            assert!(matches!(wal.clone().close(), Err(Error::Poisoned { .. })));
            drop(wal);
            disk.power_cut(written as u64);
            assert_holds(&disk, &small(), &steps, durable);
        }
    }
}

/// The same with the log's own threads, which write CONTROL and prepare space meanwhile.
#[test]
fn on_a_disk_remounted_read_only_every_callback_is_told_and_the_log_can_be_dropped() {
    let steps = steps();
    let mut options = small();
    options.manual_drive = false;
    options.idle_mark = Some(Duration::from_millis(1));
    for written in [1, 3, 8, 20] {
        let disk = SimDisk::new();
        let wal = create(&disk, &options).unwrap();
        write_all(&wal, &steps[..written]);
        disk.set_read_only(true);
        let (told, tell) = mpsc::channel();
        for step in &steps[written..] {
            let told = told.clone();
            match wal.submit(batch(step)) {
                Ok(ticket) => ticket.on_durable(move |outcome| told.send(outcome).unwrap()),
                Err(refused) => {
                    told.send(Err(refused)).unwrap();
                    break; // what follows would not follow
                }
            }
        }
        drop(told);
        while let Ok(outcome) = tell.recv_timeout(Duration::from_secs(20)) {
            let refused = error(outcome);
            assert!(is_read_only(&refused), "{refused}");
        }
        assert!(matches!(
            tell.try_recv(),
            Err(mpsc::TryRecvError::Disconnected)
        ));
        assert!(state_of(&wal) == states(&steps)[written]);
        drop(wal);
        disk.set_read_only(false);
        disk.power_cut(0);
        assert_holds(&disk, &small(), &steps, written);
    }
}

/// A directory that cannot be written to: mounted so, which takes root, or by its permissions, which do not bind root.
struct ReadOnly {
    dir: PathBuf,
    is_mounted: bool,
}

fn run(program: &str, arguments: &[&str], dir: &Path) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).arg(dir).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl ReadOnly {
    /// `None`: this process may write anyway.
    fn new(dir: &Path) -> Option<ReadOnly> {
        let bind = ["--bind", dir.to_str()?];
        let mut read_only = ReadOnly {
            dir: dir.to_owned(),
            is_mounted: run("mount", &bind, dir),
        };
        let remounted = read_only.is_mounted && run("mount", &["-o", "remount,bind,ro"], dir);
        if !remounted {
            read_only.unmount();
            read_only.permit(0o555, 0o444);
        }
        let is_writable = fs::write(dir.join("CONTROL.tmp"), "").is_ok();
        (!is_writable).then_some(read_only)
    }

    fn unmount(&mut self) {
        if std::mem::take(&mut self.is_mounted) {
            run("umount", &[], &self.dir);
        }
    }

    fn permit(&self, of_dir: u32, of_files: u32) {
        let all = fs::read_dir(&self.dir).unwrap();
        for path in all.map(|entry| entry.unwrap().path()) {
            fs::set_permissions(path, Permissions::from_mode(of_files)).unwrap();
        }
        fs::set_permissions(&self.dir, Permissions::from_mode(of_dir)).unwrap();
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        if self.is_mounted {
            self.unmount();
        } else {
            self.permit(0o755, 0o644);
        }
    }
}

#[test]
fn a_log_in_a_real_directory_that_is_read_only_is_not_opened_and_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let steps = steps();
    let wal = Wal::create(dir.path(), small()).unwrap();
    write_all(&wal, &steps);
    drop(wal);
    let before = files(&OsDisk, dir.path());
    let Some(read_only) = ReadOnly::new(dir.path()) else {
        // Past the capturing of what tests print: nobody is to believe that this was seen.
        let mut loudly = std::io::stderr();
        writeln!(loudly, "SKIPPED: a real directory that is read-only").unwrap();
        return;
    };
    let refused = error(Wal::open(dir.path(), small()));
    assert!(is_read_only(&refused), "{refused}");
    assert!(files(&OsDisk, dir.path()) == before);
    drop(read_only);
    let wal = Wal::open(dir.path(), small()).unwrap();
    assert!(state_of(&wal) == states(&steps)[steps.len()]);
}
