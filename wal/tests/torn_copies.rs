//! What is written twice, and of which a crash left one copy: it counts, and is twice again when the log was opened.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::sync::Arc;

use duramen_wal::{Options, Wal};
use support::*;

fn small() -> Options {
    options(1 << 14)
}

/// The power went in the middle of a vote: one of its directories reached the disk. It is kept, since it may have been
/// acknowledged; then it is written again, whole, and nobody takes the torn copy for damage.
#[test]
fn the_copy_of_a_vote_that_a_crash_tore_is_written_again() {
    let steps = [vec![append(1, 1, 2, 1, 30)], vec![vote(1, 1, 1)]];
    let whole = killed_disk_with(&small(), &steps);
    let frame = frames(&read_file(&whole, &segment(1))).pop().unwrap();
    let copy = frame.copy.clone().unwrap();
    for torn in [frame.header..frame.directory.end, copy] {
        let _replay = Replay(|| format!("{torn:?} of {frame:?}"));
        let disk = whole.fork();
        disk.kill();
        let len = torn.len();
        spoil(&disk, &segment(1), torn.start, |bytes| bytes.fill(0), len);
        let wal = open(&disk, &small()).unwrap();
        assert_eq!(state_of(&wal), states(&steps)[2]);
        assert_eq!(wal.recovery().cut, None);
        wal.close().unwrap();
        let found = Wal::verify_on(Arc::new(disk.clone()), DIR, |_| true).unwrap();
        assert!(!found.is_damaged(), "{found:?}");
        let (now, then) = (
            read_file(&disk, &segment(1)),
            read_file(&whole, &segment(1)),
        );
        assert!(now[..frame.end] == then[..frame.end]);
    }
}
