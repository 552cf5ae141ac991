//! Entries that are kept and suspect ([`Options::keep_suspects`]) and what the same unmarked end says of them later.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use duramen_disk::SimDisk;
use duramen_wal::{GroupId, Index, Options, Wal};
use support::*;

const GROUP: GroupId = GroupId(1);

fn keeping() -> Options {
    let mut options = options(1 << 14);
    options.keep_suspects = true;
    options
}

/// A log whose last write, of `last`, is marked nowhere: the payload of its first entry is torn, all ids are whole.
fn torn(last: &[Step]) -> SimDisk {
    let disk = SimDisk::new();
    let wal = create(&disk, &keeping()).unwrap();
    wal.write(batch(&vec![append(1, 1, 1, 1, 30)])).unwrap();
    let tickets: Vec<_> = last
        .iter()
        .map(|step| wal.submit(batch(step)).unwrap())
        .collect();
    tickets
        .into_iter()
        .for_each(|ticket| ticket.wait().unwrap());
    let killed = disk.fork();
    killed.kill();
    let bytes = read_file(&killed, &segment(1));
    let at = bytes.windows(6).position(|at| at == b"1/1.2 ");
    flip(&killed, &segment(1), at.unwrap());
    killed
}

/// What is opened again and again, and written to in between.
fn opens(disk: &SimDisk, check: impl Fn(&Wal)) {
    for n in 1..=3 {
        let wal =
            open(disk, &keeping()).unwrap_or_else(|error| panic!("opened {n} times: {error}"));
        check(&wal);
        wal.write(batch(&vec![append(9, n, n, 1, 10)])).unwrap();
        drop(wal);
        disk.kill();
    }
}

/// An entry that is suspect and was truncated, purged, replaced or removed with its group, later in the same write: it is not
/// there, so nothing is suspect.
#[test]
fn a_suspect_entry_that_a_later_batch_takes_away_is_forgotten() {
    let append = || vec![append(1, 2, 2, 1, 30)];
    let cases = [
        (vec![Change::Truncate(1, 1)], 1),
        (vec![purge(1, 2, 1)], 2),
        (vec![support::append(1, 2, 2, 2, 40)], 2),
        (vec![Change::Remove(1)], 0),
    ];
    for (later, last) in cases {
        let _replay = Replay(|| format!("{later:?}"));
        let steps = [append(), later.clone()];
        let check = |wal: &Wal| {
            assert_eq!(wal.last(GROUP).index, Index(last));
            assert_eq!(wal.suspect(GROUP), None);
            assert_eq!(wal.recovery().suspects, []);
            assert_eq!(wal.groups().contains(&GROUP), last > 0);
        };
        opens(&torn(&steps), check);
        let one = steps.concat();
        opens(&torn(&[one]), check);
    }
}
