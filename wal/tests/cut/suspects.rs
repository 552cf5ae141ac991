//! The end that no mark covers: what is bad there may be torn, and may have been acknowledged.

use std::sync::Arc;

use duramen_wal::{GroupId, Index, Term, Wal};

use super::support::*;
use super::{assert_once_was, cut, is_clean, small};

/// A payload that cannot be read takes no vote with it: the directory of its frame is whole. A node opens such a log with the vote.
#[test]
fn a_vote_beside_an_entry_that_may_be_torn_is_kept() {
    let steps = [
        vec![append(1, 1, 1, 1, 100), vote(1, 1, 1)],
        vec![append(1, 2, 2, 2, 2000), vote(1, 2, 2)],
    ];
    let disk = killed_disk_with(&small(), &steps);
    let bytes = read_file(&disk, &segment(1));
    let frames = frames(&bytes);
    let payload = &frames
        .iter()
        .find(|frame| frame.payload.len() == 2000)
        .unwrap()
        .payload;
    flip(&disk, &segment(1), payload.start + 900);
    let verified = Wal::verify_on(Arc::new(disk.clone()), DIR, |_| true).unwrap();
    assert!(verified.is_torn() && !verified.is_damaged());
    let done = cut(&disk).unwrap();
    assert!(done.is_loss(), "it may have been acknowledged: {done:?}");
    assert!(is_clean(&disk));
    let wal = open(&disk, &small()).unwrap();
    assert_eq!(wal.last(GroupId(1)).index, Index(1));
    assert_eq!(wal.hard_state(GroupId(1)).term, Term(2));
    assert_once_was(&done, &state_of(&wal), &states(&steps), true);
}
