//! Row 18: the disk is remounted read-only at any moment of a write, an install or a drop. Who writes is told so, what is there
//! is read, and it goes on when the disk can be written again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::cell::Cell;
use std::io::{ErrorKind, Write};

use duramen_disk::SimDisk;
use duramen_snapshot::{Error, Meta, Result, SnapshotStore};
use support::*;

fn states() -> States {
    let first = noise(1, 3000);
    let second = edited(&first, 1500, 200, 2);
    States::from([(10, first), (20, second), (30, noise(3, 9000))])
}

/// Snapshots 10 and 20 are there.
fn disk_with_two() -> SimDisk {
    let disk = SimDisk::new();
    let store = open(&disk).unwrap();
    for index in [10, 20] {
        write(&store, index, &states()[&index]).unwrap();
    }
    drop(store);
    disk
}

fn is_read_only(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => source.kind() == ErrorKind::ReadOnlyFilesystem,
        Error::Poisoned { cause } => is_read_only(cause),
        _ => false,
    }
}

/// Lets `work` come ever further before the disk is read-only: it is given what to call before each step. Gives how often it
/// was refused.
fn at_each_step(work: impl Fn(&SnapshotStore, &dyn Fn()) -> Result<()>) -> u64 {
    let states = states();
    for steps in 0.. {
        let _replay = Step(steps);
        let disk = disk_with_two();
        let store = open(&disk).unwrap();
        let before = indexes(&store);
        let left = Cell::new(Some(steps));
        let step = || {
            left.set(left.get().and_then(|more| more.checked_sub(1)));
            disk.set_read_only(left.get().is_none());
        };
        let done = work(&store, &step);
        if left.get().is_some() {
            done.unwrap();
            return steps;
        }
        let refused = done.unwrap_err();
        assert!(is_read_only(&refused), "{refused}");
        assert_eq!(indexes(&store), before);
        all_read_back(&store, &states);
        let refused = write(&store, 30, &states[&30]).unwrap_err();
        assert!(is_read_only(&refused), "{refused}");

        // In the same process, unless a file is not known to be as it should: then opened anew. After a power cut, too.
        disk.set_read_only(false);
        let cut = disk.fork();
        cut.power_cut(steps);
        match work(&store, &|| ()) {
            Ok(()) => all_read_back(&store, &states),
            Err(Error::Poisoned { cause }) => assert!(is_read_only(&cause), "{cause}"),
            Err(other) => panic!("{other}"),
        }
        drop(store);
        disk.kill();
        for disk in [disk, cut] {
            let store = open(&disk).unwrap();
            all_read_back(&store, &states);
            work(&store, &|| ()).unwrap();
            all_read_back(&store, &states);
            space_is_bounded(&store);
        }
    }
    unreachable!()
}

/// Says at which step it failed.
struct Step(u64);

impl Drop for Step {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed at step {}", self.0);
        }
    }
}

#[test]
fn on_a_disk_remounted_read_only_a_write_ends_and_what_is_there_is_read() {
    let state = &states()[&30];
    let refused = at_each_step(|store, step| {
        step();
        let mut writer = store.begin(Meta::new(1, 30))?;
        for piece in state.chunks(500) {
            step();
            writer.write_all(piece).map_err(inner)?;
        }
        step();
        writer.publish().map(drop)
    });
    assert_eq!(refused, 1 + 18 + 1);
}

#[test]
fn on_a_disk_remounted_read_only_an_install_ends_and_what_is_there_is_read() {
    let peer = peer(&states());
    let refused = at_each_step(|store, step| {
        step();
        let mut install = store.begin_install(manifest(&peer, 30))?;
        for name in install.missing() {
            step();
            install.put(name, &peer.read_chunk(name)?)?;
        }
        step();
        install.publish().map(drop)
    });
    assert!(refused > 10, "{refused}");
}

#[test]
fn on_a_disk_remounted_read_only_a_drop_is_refused_and_nothing_is_lost() {
    let refused = at_each_step(|store, step| {
        step();
        store.drop_older(1).map(drop)
    });
    assert_eq!(refused, 1);
}
