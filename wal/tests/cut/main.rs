//! Cutting damage: what is kept is what was, what is lost is said, the old log stands aside, and no crash leaves half of it.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod interrupted;
mod keeping;
mod random;
mod refused;
#[path = "../support/mod.rs"]
mod support;
mod suspects;

use std::path::Path;
use std::sync::Arc;

use duramen_disk::{Disk, SimDisk};
use duramen_wal::{CutPlan, GroupId, Index, Options, Result, Wal};

use support::*;

fn small() -> Options {
    options(1 << 14)
}

/// Group 1 has entries in all segments, group 2 in the first, group 3 in the last one alone; group 1 votes first and last. Its terms go
/// up, so that what is lost is not made up from what stands around it.
fn steps() -> Vec<Step> {
    let mut steps = vec![vec![
        append(2, 1, 3, 1, 100),
        vote(2, 1, 1),
        user(2, b"two"),
    ]];
    for i in 1..=24 {
        steps.push(vec![append(1, i, i, i, 2000)]);
    }
    steps[2].push(vote(1, 2, 1));
    steps.push(vec![vote(1, 24, 2)]);
    steps.push(vec![append(3, 1, 2, 7, 50), user(3, b"three")]);
    steps
}

fn damaged_disk() -> (SimDisk, u64) {
    let disk = disk_with(&small(), &steps());
    let names = disk.list(DIR.as_ref()).unwrap();
    let segments = names.iter().filter(|name| name.ends_with(".wal"));
    let with_frames =
        segments.filter(|name| !frames(&read_file(&disk, &Path::new(DIR).join(name))).is_empty());
    let last = with_frames.count() as u64;
    assert!(
        last >= 4 && disk.open_read(&segment(1)).is_ok(),
        "{names:?}"
    );
    (disk, last)
}

fn cut(disk: &SimDisk) -> Result<CutPlan> {
    Wal::cut_on(Arc::new(disk.clone()), DIR, |_| ())
}

fn plan(disk: &SimDisk) -> Result<CutPlan> {
    Wal::plan_cut_on(Arc::new(disk.clone()), DIR, |_| ())
}

fn is_clean(disk: &SimDisk) -> bool {
    let verified = Wal::verify_on(Arc::new(disk.clone()), DIR, |_| true);
    verified.is_ok_and(|found| !found.is_damaged() && !found.is_torn())
}

/// Plans and cuts. What was planned is done, the plan changed nothing, the old log stands aside unchanged, and the new one is
/// sound and holds for each group what it once held, up to some entry.
fn cut_checked(disk: &SimDisk, states: &[State]) -> CutPlan {
    cut_and_look(disk, states, true)
}

/// `all_is_said`: and what is lost was said.
fn cut_and_look(disk: &SimDisk, states: &[State], all_is_said: bool) -> CutPlan {
    let before = files(disk, DIR.as_ref());
    disk.set_read_only(true);
    let planned = plan(disk).unwrap();
    disk.set_read_only(false);
    assert_eq!(files(disk, DIR.as_ref()), before);
    let done = cut(disk).unwrap();
    assert_eq!(format!("{done:?}"), format!("{planned:?}"));
    let aside = files(disk, &done.aside).into_values();
    assert!(
        aside.eq(before.into_values()),
        "the old log is not as it was"
    );
    assert!(is_clean(disk));
    let wal = open(disk, &small()).unwrap();
    assert_once_was(&done, &state_of(&wal), states, all_is_said);
    done
}

fn assert_once_was(done: &CutPlan, found: &State, states: &[State], all_is_said: bool) {
    let last = states.last().unwrap();
    let is_end_known = !done.is_end_lost && all_is_said;
    if is_end_known {
        let groups: Vec<&GroupId> = last.keys().collect();
        assert_eq!(found.keys().collect::<Vec<_>>(), groups);
    }
    for (id, content) in found {
        let once = states.iter().filter_map(|state| state.get(id));
        let is_prefix = |once: &Content| {
            let from = |index: Index| index > content.purged.index;
            let entries: Vec<_> = once.entries.iter().filter(|e| from(e.id.index)).collect();
            content.entries.len() <= entries.len()
                && content
                    .entries
                    .iter()
                    .eq(&mut entries.into_iter().take(content.entries.len()))
        };
        assert!(once.clone().any(is_prefix), "group {id} never was so");
        if is_end_known {
            let last = &last[id];
            assert_eq!(content.hard_state, last.hard_state, "vote of group {id}");
            assert_eq!(content.user_record, last.user_record);
            assert_eq!(content.purged, last.purged);
            let loses = done.groups.iter().any(|cut| cut.group == *id);
            assert_eq!(!loses, content.entries == last.entries, "group {id}");
        }
    }
}
