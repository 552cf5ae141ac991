//! Log and snapshots are brought to agree: each row of the table in `restore.rs`, and the crashes that lead there.

use duramen_disk::every_crash;

use super::*;

/// What matters of what was restored, beside the hard state.
#[derive(Debug, Clone, PartialEq)]
struct Content {
    base: LogId,
    membership: Membership,
    /// The last entry of the snapshot that comes with it.
    has_snapshot: bool,
    log: Vec<Entry>,
}

fn content(restored: &Restored) -> Content {
    assert!(restored.bad.is_empty());
    Content {
        base: restored.base,
        membership: restored.membership.clone(),
        has_snapshot: restored.snapshot.is_some(),
        log: restored.log.clone(),
    }
}

/// What is restored is durable: it is the same after a power cut.
fn restore_twice(disk: &SimDisk, seed: u64) -> Content {
    let (storage, first) = restored(disk);
    power_cut(disk, storage, seed);
    let (_, second) = restored(disk);
    assert_eq!(content(&first), content(&second));
    assert_eq!(first.hard_state, second.hard_state);
    content(&first)
}

#[test]
fn a_log_goes_on_after_a_snapshot_of_an_entry_that_it_holds() {
    for purged in [None, Some(id(2, 1)), Some(id(3, 1))] {
        let (disk, mut storage) = begun();
        persist(&mut storage, &append(entries(1, 5, 1), 1));
        publish(&storage, id(3, 1), &voters(4)).unwrap();
        if let Some(last) = purged {
            storage.purge(last).unwrap();
            storage.drive().unwrap();
        }
        kill(&disk, storage);
        let expected = Content {
            base: id(3, 1),
            membership: voters(4),
            has_snapshot: true,
            log: entries(4, 5, 1),
        };
        assert_eq!(restore_twice(&disk, 1), expected, "{purged:?}");
    }
}

#[test]
fn the_newest_of_several_snapshots_counts() {
    let (disk, mut storage) = begun();
    persist(&mut storage, &append(entries(1, 5, 1), 1));
    publish(&storage, id(2, 1), &voters(3)).unwrap();
    publish(&storage, id(5, 1), &voters(4)).unwrap();
    let named = storage.snapshots().list().pop().unwrap();
    kill(&disk, storage);
    let (_, restored) = restored(&disk);
    assert_eq!((restored.base, restored.log), (id(5, 1), Vec::new()));
    assert_eq!(restored.membership, voters(4));
    let (found, name) = restored.snapshot.unwrap();
    assert_eq!(found, named.id);
    assert_eq!(name, crate::storage::SnapshotName::of(&named.manifest));
    assert_eq!(
        crate::storage::SnapshotName::decode(&name.encode()),
        Some(name)
    );
}

/// The node died after the snapshot was installed, and before the log was reset.
#[test]
fn a_log_that_an_installed_snapshot_is_not_of_is_reset() {
    let longer = [entries(1, 5, 1), entries(6, 12, 2)].concat();
    for (log, term) in [
        (Vec::new(), 0),
        (entries(1, 5, 1), 1), // It ends before the snapshot.
        (entries(1, 8, 1), 1), // It ends there, in another term.
        (longer, 2),           // It goes on, in another term.
    ] {
        let (disk, mut storage) = begun();
        if !log.is_empty() {
            persist(&mut storage, &append(log, term));
        }
        // The term of the leader that sent it.
        persist(&mut storage, &append(Vec::new(), 4));
        publish(&storage, id(8, 3), &voters(4)).unwrap();
        kill(&disk, storage);
        let expected = Content {
            base: id(8, 3),
            membership: voters(4),
            has_snapshot: true,
            log: Vec::new(),
        };
        assert_eq!(restore_twice(&disk, 2), expected);
        // And the log goes on from there.
        let (mut storage, _) = restored(&disk);
        persist(&mut storage, &append(entries(9, 10, 4), 4));
        kill(&disk, storage);
        let expected = Content {
            log: entries(9, 10, 4),
            ..expected
        };
        assert_eq!(restore_twice(&disk, 3), expected);
        // The log knows the membership, also without the snapshot.
        remove_all_files(&disk, &Path::new(DIR).join("snapshots"));
        let expected = Content {
            has_snapshot: false,
            ..expected
        };
        assert_eq!(restore_twice(&disk, 4), expected);
    }
}

/// The log ends before it, or goes on after it with entries that conflict with it.
#[test]
fn an_installed_snapshot_is_taken_in_whole_or_not_at_all_whenever_the_node_dies() {
    for last in [5, 12] {
        install_over_log(last);
    }
}

fn install_over_log(last: u64) {
    let (disk, mut storage) = begun();
    persist(&mut storage, &append(entries(1, last, 1), 4));
    kill(&disk, storage);
    let before = Content {
        base: LogId::default(),
        membership: voters(3),
        has_snapshot: false,
        log: entries(1, last, 1),
    };
    let installed = Content {
        base: id(8, 3),
        membership: voters(4),
        has_snapshot: true,
        log: Vec::new(),
    };
    let after = Content {
        log: entries(9, 9, 4),
        ..installed.clone()
    };
    /// How far it came.
    #[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
    enum Step {
        Begun,
        Published,
        Reset,
    }
    let workload = |disk: &SimDisk| {
        let mut step = Step::Begun;
        let Ok(mut storage) = try_open(disk) else {
            return step;
        };
        if storage.restore().is_err() || publish(&storage, id(8, 3), &voters(4)).is_err() {
            return step;
        }
        step = Step::Published;
        let mut write = reset(id(8, 3), entries(9, 9, 4));
        write.hard_state = None;
        if try_persist(&mut storage, &write).is_ok() {
            step = Step::Reset;
        }
        step
    };
    let mut found = [0; 3];
    for crash in every_crash(&disk, workload).units_max(4).seeds(4) {
        let content = restore_twice(&crash.disk, 5);
        let state = [&before, &installed, &after]
            .iter()
            .position(|state| **state == content);
        let state = state.unwrap_or_else(|| panic!("{content:?}"));
        assert!(
            state >= crash.outcome as usize,
            "{:?}, {state}",
            crash.outcome
        );
        found[state] += 1;
        goes_on(&crash.disk, content);
    }
    assert!(found.iter().all(|states| *states > 10), "{found:?}");
}

/// Entries are appended to what was restored, and are there when it is restored again.
fn goes_on(disk: &SimDisk, mut content: Content) {
    let last = content.log.last().map_or(content.base, |last| last.id);
    let more = entries(last.index.0 + 1, last.index.0 + 2, 4);
    let (mut storage, _) = restored(disk);
    persist(&mut storage, &append(more.clone(), 4));
    kill(disk, storage);
    content.log.extend(more);
    assert_eq!(restore_twice(disk, 6), content);
}

/// The same for a node's own snapshot, and the purge that relies on it.
#[test]
fn a_purge_never_leaves_less_than_the_snapshot_has() {
    let (disk, mut storage) = begun();
    let set = voters(4).to_entry(id(2, 1));
    let log = [entries(1, 1, 1), vec![set], entries(3, 6, 1)].concat();
    persist(&mut storage, &append(log.clone(), 1));
    kill(&disk, storage);
    let workload = |disk: &SimDisk| -> Result<(), Error> {
        let mut storage = try_open(disk)?;
        publish(&storage, id(4, 1), &voters(4))?;
        storage.purge(id(4, 1))?;
        storage.drive()
    };
    let run = |disk: &SimDisk| workload(disk).is_ok();
    let mut found = [0; 2];
    for crash in every_crash(&disk, run).units_max(4).seeds(4) {
        let content = restore_twice(&crash.disk, 6);
        match content.has_snapshot {
            true => assert_eq!((content.base, &content.log), (id(4, 1), &log[4..].to_vec())),
            false => assert_eq!((content.base, &content.log), (id(0, 0), &log)),
        }
        let members = if content.has_snapshot { 4 } else { 3 };
        assert_eq!(content.membership, voters(members));
        assert!(content.has_snapshot || !crash.outcome);
        found[usize::from(content.has_snapshot)] += 1;
    }
    assert!(found.iter().all(|states| *states > 10), "{found:?}");
}

#[test]
fn without_the_snapshot_that_its_log_relies_on_a_node_has_no_state_and_knows_the_membership() {
    for keeps_older in [false, true] {
        let (disk, mut storage) = begun();
        let set = voters(4).to_entry(id(2, 1));
        let log = [entries(1, 1, 1), vec![set], entries(3, 6, 1)].concat();
        persist(&mut storage, &append(log, 1));
        if keeps_older {
            publish(&storage, id(1, 1), &voters(3)).unwrap();
        }
        storage.purge(id(4, 1)).unwrap();
        storage.drive().unwrap();
        kill(&disk, storage);
        let expected = Content {
            base: id(4, 1),
            membership: voters(4),
            has_snapshot: false,
            log: entries(5, 6, 1),
        };
        assert_eq!(restore_twice(&disk, 7), expected);
    }
}

#[test]
fn a_node_that_took_in_a_snapshot_and_lost_it_knows_the_membership() {
    let (disk, mut storage) = begun();
    persist(&mut storage, &append(entries(1, 5, 1), 1));
    publish(&storage, id(8, 3), &voters(4)).unwrap();
    persist(&mut storage, &reset(id(8, 3), entries(9, 9, 3)));
    kill(&disk, storage);
    remove_all_files(&disk, &Path::new(DIR).join("snapshots"));
    let expected = Content {
        base: id(8, 3),
        membership: voters(4),
        has_snapshot: false,
        log: entries(9, 9, 3),
    };
    assert_eq!(restore_twice(&disk, 8), expected);
}

/// A snapshot that came in for the bad entries at the beginning of the log: the rest stays.
#[test]
fn a_purge_that_comes_with_a_write_leaves_what_follows() {
    let (disk, mut storage) = begun();
    let set = voters(5).to_entry(id(2, 1));
    let log = [entries(1, 1, 1), vec![set], entries(3, 6, 1)].concat();
    persist(&mut storage, &append(log, 1));
    publish(&storage, id(4, 1), &voters(5)).unwrap();
    let purging = Write {
        purge: Some(id(4, 1)),
        ..append(entries(7, 7, 1), 1)
    };
    persist(&mut storage, &purging);
    let purging_less = Write {
        purge: Some(id(3, 1)), // It was purged already.
        entries: entries(8, 8, 1),
        ..purging.clone()
    };
    persist(&mut storage, &purging_less);
    power_cut(&disk, storage, 0);
    let expected = Content {
        base: id(4, 1),
        membership: voters(5),
        has_snapshot: true,
        log: entries(5, 8, 1),
    };
    assert_eq!(restore_twice(&disk, 9), expected);
    let record = open(&disk).record;
    assert_eq!(record.membership_at(Index(1)), None, "it is forgotten");
    assert_eq!(record.membership_at(Index(4)), Some(voters(5)));
}

#[test]
fn a_node_that_does_not_know_its_membership_is_refused() {
    let disk = SimDisk::new();
    let mut storage = open(&disk);
    persist(&mut storage, &append(entries(1, 6, 1), 1));
    storage.purge(id(4, 1)).unwrap();
    storage.drive().unwrap();
    kill(&disk, storage);
    let error = open(&disk).restore().map(|_| ()).unwrap_err();
    assert!(
        matches!(error, Error::NoMembership { base, .. } if base == id(4, 1)),
        "{error}"
    );
}

#[test]
fn entries_or_a_snapshot_of_a_later_term_than_the_nodes_are_a_lost_term() {
    let (disk, mut storage) = begun();
    let write = Write {
        entries: entries(1, 2, 3),
        ..write(1)
    };
    persist(&mut storage, &write);
    kill(&disk, storage);
    assert_lost_term(&disk, 0, 3);

    let (disk, mut storage) = begun();
    persist(&mut storage, &append(entries(1, 2, 1), 1));
    publish(&storage, id(8, 2), &voters(3)).unwrap();
    kill(&disk, storage);
    assert_lost_term(&disk, 1, 2);

    // Purged to that term, and no snapshot.
    let (disk, mut storage) = begun();
    let write = Write {
        reset: Some(id(9, 5)),
        ..write
    };
    let write = Write {
        entries: Vec::new(),
        ..write
    };
    persist(&mut storage, &write);
    kill(&disk, storage);
    assert_lost_term(&disk, 0, 5);
}

fn assert_lost_term(disk: &SimDisk, has: u64, found: u64) {
    let error = open(disk).restore().map(|_| ()).unwrap_err();
    assert!(
        matches!(error, Error::LostTerm { term, last, .. } if (term, last) == (Term(has), Term(found))),
        "{error}"
    );
    assert!(error.to_string().contains("join anew, under a new number"));
}

/// It could vote twice in a term, and has forgotten what others count on. Alone it is the only one whom that concerns.
#[test]
fn a_log_that_was_cut_is_no_members_any_more() {
    for (members, is_alone) in [
        (voters(3), false),
        (voters(1).with_learner(NodeId(2)), false),
        (voters(1), true),
    ] {
        let (disk, mut storage) = begun();
        persist(&mut storage, &append(vec![members.to_entry(id(1, 1))], 1));
        persist(&mut storage, &append(entries(2, 5, 1), 1));
        kill(&disk, storage);
        damage(&disk, id(3, 1));
        let log = Path::new(DIR).join("log");
        let done = Wal::cut_on(Arc::new(disk.clone()), log, |_| ()).unwrap();
        assert!(done.is_loss());
        let restored = open(&disk).restore();
        match is_alone {
            true => assert_eq!(restored.unwrap().log.len(), 2),
            false => assert!(matches!(restored, Err(Error::Lossy { .. })), "{members:?}"),
        }
        // It has accepted it: there may be others later.
        assert_eq!(open(&disk).recovery().is_lossy, !is_alone);
    }
}
