//! A batch that was taken has its space, whatever else its segment has to hold.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use duramen_disk::SimDisk;
use support::*;

#[test]
fn the_states_of_groups_that_are_made_meanwhile_fit_into_the_next_segment() {
    // A segment begins with the state of every group. What is queued makes groups with user records, so the first frame of
    // the next segment grows while what it leaves is promised to others.
    for fill in (0..12_000).step_by(500) {
        let disk = SimDisk::new();
        let options = options(1 << 15);
        let wal = create(&disk, &options).unwrap();
        let mut steps: Vec<Step> = vec![vec![append(1, 1, 1, 1, fill)]];
        for n in 0..6 {
            let groups = 10 + 10 * n..20 + 10 * n;
            steps.push(groups.map(|group| user(group, &[7; 60])).collect());
            steps.push(vec![append(2 + n, 1, 1, 1, 6_000)]);
        }
        for step in &steps {
            drop(wal.submit(batch(step)).unwrap());
            if step.len() > 1 {
                drop(wal.submit(batch(&vec![append(1, 1, 1, 2, 3_000)])).unwrap());
                wal.drive().unwrap();
            }
        }
        drop(wal);
        let wal = open(&disk, &options).unwrap();
        assert_eq!(wal.groups().len(), 60 + 7, "fill {fill}");
        assert!(wal.recovery().segments > 1);
    }
}
