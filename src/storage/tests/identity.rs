//! Whose directory it is, and what a node knows of itself and the others.

use std::collections::BTreeMap;

use duramen_disk::{Op, OsDisk, every_crash};
use duramen_wal::Batch;

use super::super::identity::Record;
use super::super::{Claim, GROUP};
use super::*;

fn boot(count: u64, number: u64) -> Boot {
    Boot { count, number }
}

#[test]
fn a_directory_of_another_node_or_cluster_is_refused_and_both_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let open = |identity: &Identity| {
        let disk = Arc::new(OsDisk::new());
        Storage::open(disk, dir.path(), identity, Options::default())
    };
    drop(open(&identity_of("mine", 1)).unwrap());
    for (cluster, node) in [("mine", 2), ("other", 1)] {
        let error = open(&identity_of(cluster, node)).map(|_| ()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("node 1 of cluster \"mine\""), "{text}");
        assert!(
            text.contains(&format!("node {node} of cluster {cluster:?}")),
            "{text}"
        );
    }
    let storage = open(&identity_of("mine", 1)).unwrap();
    assert_eq!(storage.boot(), 2, "the others have not started it");
}

#[test]
fn the_voters_are_those_of_the_first_start() {
    let disk = SimDisk::new();
    drop(open(&disk));
    let alone = Identity {
        voters: [NodeId(1)].into(),
        ..identity_of("c", 1)
    };
    let opened = Storage::open(Arc::new(disk), Path::new(DIR), &alone, options());
    let text = opened.map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("with the nodes 1, 2, 3"), "{text}");
}

#[test]
fn a_node_is_blank_until_its_cluster_has_begun() {
    let disk = SimDisk::new();
    let mut storage = open(&disk);
    assert!(storage.is_blank());
    let members = voters(3).with_member(
        NodeId(2),
        crate::raft::Member {
            uuid: 22,
            ..Default::default()
        },
    );
    storage.begin_with(&members).unwrap();
    assert!(!storage.is_blank());
    storage.drive().unwrap();
    power_cut(&disk, storage, 0);
    let (storage, restored) = restored(&disk);
    assert!(!storage.is_blank());
    assert_eq!(restored.membership, members);
}

#[test]
fn a_later_start_need_not_say_what_the_directory_knows() {
    let disk = SimDisk::new();
    let reopen = |claim: &Claim| {
        let disk = Arc::new(disk.clone());
        Storage::reopen(disk, Path::new(DIR), claim, options())
    };
    let open_claim = Claim {
        node: NodeId(1),
        cluster: None,
        voters: None,
    };
    assert!(reopen(&open_claim).unwrap().is_none(), "nothing is made");
    drop(open(&disk));
    let storage = reopen(&open_claim).unwrap().unwrap();
    assert_eq!(storage.identity(), identity_of("c", 1));
    assert_eq!(storage.boot(), 2);
    drop(storage);
    for wrong in [
        Claim {
            node: NodeId(2),
            ..open_claim.clone()
        },
        Claim {
            cluster: Some("d".to_owned()),
            ..open_claim.clone()
        },
        Claim {
            voters: Some([NodeId(1)].into()),
            ..open_claim.clone()
        },
    ] {
        let error = reopen(&wrong).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::OtherNode { .. }), "{wrong:?}");
    }
}

#[test]
fn made_up_numbers_do_not_use_up_the_record() {
    let mut record = Record::new(&identity_of("c", 1), 7);
    for peer in 0..5000 {
        record.start(1);
        record.meet(peer, BOOT);
    }
    assert!(record.encode().len() < 50_000);
    let later = boot(8, 88);
    assert!(record.meet(2, later));
    assert_eq!(record.met(2), Some(later));
}

#[test]
fn members_are_remembered_also_if_numbers_are_made_up() {
    let mut record = Record::new(&identity_of("c", 1), 7);
    record.start(1);
    let member = |uuid| crate::raft::Member {
        uuid,
        ..Default::default()
    };
    let members = voters(3).with_member(NodeId(2), member(7000));
    let members = members.with_member(NodeId(3), member(7001));
    record.reset(LogId::default(), &members.encode());
    record.meet(7000, BOOT);
    for peer in 0..5000 {
        record.meet(peer, BOOT);
    }
    record.meet(7001, BOOT);
    assert_eq!(record.met(7000), Some(BOOT));
    assert_eq!(record.met(7001), Some(BOOT));
}

#[test]
fn what_others_say_of_a_start_counts_until_the_node_was_met_later() {
    let mut record = Record::new(&identity_of("c", 1), 7);
    record.start(1);
    assert!(record.hear(22, boot(5, 55)));
    assert!(!record.hear(22, boot(5, 55)), "again");
    assert!(!record.hear(22, boot(4, 44)), "earlier");
    assert_eq!(
        (record.met(22), record.known_boot(22)),
        (None, Some(boot(5, 55)))
    );
    assert!(record.meet(22, boot(6, 66)));
    assert_eq!(
        (record.heard(22), record.known_boot(22)),
        (None, Some(boot(6, 66)))
    );
    assert!(!record.hear(22, boot(5, 55)) && !record.hear(22, boot(6, 66)));
    assert!(record.hear(22, boot(7, 77)));
    assert_eq!(
        (record.met(22), record.known_boot(22)),
        (Some(boot(6, 66)), Some(boot(7, 77)))
    );
}

/// In whatever order they are heard of.
#[test]
fn two_starts_with_one_count_are_ambiguous_whichever_is_met() {
    let ambiguous = boot(5, Boot::AMBIGUOUS);
    for (first, then) in [(55, 56), (56, 55), (55, 0), (0, 55)] {
        let mut record = Record::new(&identity_of("c", 1), 7);
        record.start(1);
        record.hear(22, boot(5, first));
        record.hear(22, boot(5, then));
        assert_eq!(record.known_boot(22), Some(ambiguous));
        let mut record = Record::new(&identity_of("c", 1), 7);
        record.start(1);
        record.meet(22, boot(5, 55));
        assert!(record.hear(22, boot(5, 56)) && !record.hear(22, boot(5, 56)));
        assert_eq!(
            (record.met(22), record.heard(22)),
            (Some(boot(5, 55)), Some(ambiguous))
        );
    }
}

/// What a peer remembers of this node is the start at which they met last, however long ago that is.
#[test]
fn the_last_starts_are_kept_and_those_at_which_a_peer_was_met_last() {
    let mut record = Record::new(&identity_of("c", 1), 7);
    for count in 1..=200 {
        record.start(1000 + count);
        if [5, 60].contains(&count) {
            record.meet(22, BOOT);
        }
        if count == 70 {
            record.meet(33, BOOT);
        }
    }
    let kept: Vec<u64> = record.boots().keys().copied().collect();
    let expected: Vec<u64> = [60, 70].into_iter().chain(169..=200).collect();
    assert_eq!(kept, expected);
    assert!(
        record
            .boots()
            .iter()
            .all(|(count, number)| *number == 1000 + count)
    );
    assert_eq!(record.boot(), 200);
}

/// Two copies of a directory, or a directory and what it is set back to, cannot have the same starts.
#[test]
fn each_start_draws_a_number_that_no_copy_of_the_directory_draws() {
    let disk = SimDisk::new();
    drop(open(&disk));
    let copy = disk.fork();
    copy.seed_random(8);
    let (one, other) = (open(&disk), open(&copy));
    assert_eq!(one.uuid(), other.uuid());
    assert_eq!((one.boot(), other.boot()), (2, 2));
    assert_eq!(one.boots()[&1], other.boots()[&1]);
    assert_ne!(one.boots()[&2], other.boots()[&2]);
}

/// A node that joins is not one that begins a cluster, however little it has.
#[test]
fn a_node_that_joins_is_never_blank() {
    let joining = Identity {
        voters: Default::default(),
        ..identity_of("c", 4)
    };
    let disk = Arc::new(SimDisk::new());
    let mut storage = Storage::open(disk, Path::new(DIR), &joining, options()).unwrap();
    assert!(!storage.is_blank());
    let membership = storage.restore().unwrap().membership;
    assert_eq!(membership.all().len(), 0);
}

#[test]
fn each_start_counts_and_an_emptied_disk_is_another_node() {
    let disk = SimDisk::new();
    let mut uuid = None;
    for boot in 1..=4 {
        let storage = open(&disk);
        assert_eq!(storage.boot(), boot);
        assert_eq!(*uuid.get_or_insert(storage.uuid()), storage.uuid());
        power_cut(&disk, storage, boot);
    }
    assert_ne!(Some(open(&SimDisk::new()).uuid()), uuid);
}

/// What a life of a node knew when it died.
#[derive(Debug, Clone, Default)]
struct Known {
    uuid: Option<u128>,
    boots: BTreeMap<u64, u64>,
    boot_of_2: Option<Boot>,
    has_begun: bool,
}

fn live(disk: &SimDisk, known: &mut Known) -> Result<(), Error> {
    let mut storage = try_open(disk)?;
    *known = Known {
        uuid: Some(storage.uuid()),
        boots: storage.boots().clone(),
        ..known.clone()
    };
    storage.meet(22, boot(5, 55))?;
    storage.drive()?;
    known.boot_of_2.get_or_insert(boot(5, 55));
    storage.begin_with(&voters(3))?;
    storage.drive()?;
    known.has_begun = true;
    storage.meet(22, boot(9, 99))?;
    storage.drive()?;
    known.boot_of_2 = Some(boot(9, 99));
    Ok(())
}

#[test]
fn what_a_node_knows_of_itself_and_the_others_survives_every_crash() {
    let disk = SimDisk::new();
    disk.seed_random(3);
    let workload = |disk: &SimDisk| {
        let mut known = Known::default();
        let _ = live(disk, &mut known).and_then(|()| live(disk, &mut known));
        known
    };
    let mut states = 0;
    for crash in every_crash(&disk, workload).units_max(4).seeds(4) {
        let (known, storage) = (&crash.outcome, open(&crash.disk));
        let (before, now) = (known.boots.len() as u64, storage.boots());
        assert!((before + 1..=before + 2).contains(&storage.boot()));
        assert!(
            known
                .boots
                .iter()
                .all(|known| now.get(known.0) == Some(known.1))
        );
        assert!(known.uuid.is_none_or(|uuid| uuid == storage.uuid()));
        let count = |boot: Option<Boot>| boot.map_or(0, |boot| boot.count);
        assert!(count(storage.met(22)) >= count(known.boot_of_2));
        assert!(!known.has_begun || !storage.is_blank());
        states += 1;
    }
    assert!(states > 100, "{states}");
}

#[test]
fn snapshots_without_a_log_are_refused() {
    let (disk, mut storage) = begun();
    persist(&mut storage, &append(entries(1, 3, 1), 1));
    publish(&storage, id(2, 1), &voters(3)).unwrap();
    kill(&disk, storage);
    remove_all_files(&disk, &Path::new(DIR).join("log"));
    let error = try_open(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::NoLog { .. }), "{error}");
    assert!(error.to_string().contains("join anew, under a new number"));
    let error = try_open(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::NoLog { .. }), "again: {error}");
}

/// It might have snapshots: then a node that begins anew would have lost its vote.
#[test]
fn a_directory_that_cannot_be_listed_is_not_an_empty_one() {
    let (disk, mut storage) = begun();
    persist(&mut storage, &append(entries(1, 3, 1), 1));
    publish(&storage, id(2, 1), &voters(3)).unwrap();
    kill(&disk, storage);
    remove_all_files(&disk, &Path::new(DIR).join("log"));
    for lists in 0..5 {
        disk.fail_op(Op::List, lists, std::io::ErrorKind::Other);
        assert!(try_open(&disk).is_err(), "list {lists}");
        disk.kill();
        assert_eq!(disk.list(&Path::new(DIR).join("log")).unwrap().len(), 0);
    }
}

#[test]
fn no_node_begins_where_something_else_is() {
    let disk = SimDisk::new();
    let dir = Path::new(DIR);
    disk.create_dir_all(&dir.join("lost+found")).unwrap();
    disk.create(&dir.join("0000000000000001.wal")).unwrap();
    let error = try_open(&disk).map(|_| ()).unwrap_err();
    assert!(
        matches!(&error, Error::NotEmpty { found, .. } if found == "0000000000000001.wal"),
        "{error}"
    );
    disk.remove(&dir.join("0000000000000001.wal")).unwrap();
    open(&disk);
}

#[test]
fn a_log_that_does_not_say_whose_it_is_is_refused() {
    let disk = SimDisk::new();
    drop(open(&disk));
    let log = Path::new(DIR).join("log");
    let wal = Wal::open_on(Arc::new(disk.clone()), log, options().log).unwrap();
    let mut batch = Batch::new();
    batch.user_record(GROUP, "nobody's");
    wal.write(batch).unwrap();
    drop(wal);
    let error = try_open(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::NoIdentity { .. }), "{error}");
}

/// Of a log that a later program has written.
#[test]
fn a_newer_record_is_refused_with_both_versions() {
    let (disk, storage) = begun();
    kill(&disk, storage);
    let wal = Wal::open_on(
        Arc::new(disk.clone()),
        Path::new(DIR).join("log"),
        options().log,
    )
    .unwrap();
    let mut newer = wal.user_record(GROUP).to_vec();
    newer[0] = 2;
    let mut batch = Batch::new();
    batch.user_record(GROUP, newer.clone());
    wal.write(batch).unwrap();
    drop(wal);
    let error = try_open(&disk).map(|_| ()).unwrap_err();
    assert!(
        matches!(&error, Error::Version { path, found: 2, expected: 1 } if path == Path::new(DIR)),
        "{error}"
    );
    let wal = Wal::open_on(Arc::new(disk), Path::new(DIR).join("log"), options().log).unwrap();
    assert_eq!(wal.user_record(GROUP), newer, "it is as it was");
}

fn record() -> Record {
    let mut record = Record::new(&identity_of("c", 1), 9);
    record.start(5);
    record.start(6);
    record.meet(8, BOOT);
    record.meet(8, boot(6, 66)); // Which is late.
    record.hear(10, boot(5, 55));
    record.reset(id(4, 2), &voters(1).encode());
    record
}

/// Frozen: a change makes a new version, and must read this one.
#[test]
fn the_record_is_these_bytes() {
    let membership = voters(1).encode();
    let expected = [
        &b"\x01\x01c\x01\x03\x01\x02\x03\x09\x02\x01\x05\x02\x06\x01\x04\x02"[..],
        &[membership.len() as u8],
        &membership,
        b"\x01\x08\x07\x4d\x02\x01\x0a\x05\x37",
    ];
    assert_eq!(record().encode(), expected.concat());
    assert_eq!(Record::decode(&expected.concat()), Some(record()));
}

#[test]
fn any_other_bytes_are_no_record() {
    let bytes = record().encode();
    for len in 0..bytes.len() {
        assert_eq!(Record::decode(&bytes[..len]), None);
    }
    assert_eq!(Record::decode(&[&bytes[..], b"x"].concat()), None);
    let mut newer = bytes.clone();
    newer[0] = 2;
    assert_eq!(Record::decode(&newer), None);
    for byte in 0..bytes.len() {
        let mut spoiled = bytes.clone();
        spoiled[byte] = 0xff;
        let _ = Record::decode(&spoiled);
    }
}

/// The memberships of a log are those of its entries, whatever replaces them; and the last one before its beginning.
#[test]
fn the_record_follows_the_memberships_of_the_log() {
    let mut record = Record::new(&identity_of("c", 1), 9);
    assert!(!record.has_begun());
    record.reset(LogId::default(), &voters(3).encode());
    let set = |index, term, count| voters(count).to_entry(id(index, term));
    assert!(record.appended(&[
        entry(1, 1, "x"),
        set(2, 1, 4),
        entry(3, 1, "y"),
        set(4, 1, 5)
    ]));
    assert!(!record.appended(&[entry(5, 1, "z")]), "nothing has changed");
    assert!(!record.appended(&[]));
    let all = |record: &Record| -> BTreeMap<u64, usize> {
        let voters = |base| record.membership_at(Index(base)).map(|m| m.all().len());
        (0..6)
            .filter_map(|base| Some((base, voters(base)?)))
            .collect()
    };
    assert_eq!(
        all(&record),
        BTreeMap::from([(0, 3), (1, 3), (2, 4), (3, 4), (4, 5), (5, 5)])
    );
    assert!(record.appended(&[entry(4, 2, "instead")]));
    assert_eq!(record.membership_entry(id(4, 1)), None);
    assert_eq!(record.membership_entry(id(2, 1)), Some(set(2, 1, 4)));
    assert_eq!(record.membership_entry(id(2, 2)), None);
    assert!(!record.purged(Index(1)));
    assert!(record.purged(Index(3)));
    assert_eq!(
        all(&record),
        BTreeMap::from([(2, 4), (3, 4), (4, 4), (5, 4)])
    );
}
