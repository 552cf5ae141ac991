//! What a simulated disk does wrong when it is asked to: errors, space, rot, and writes that go nowhere.

#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::io::{self, ErrorKind};
use std::path::Path;

use duramen_disk::{Disk, DiskFile, Failure, LOCK_FILE, LockMode, Op, SimDisk};

const DIR: &str = "/dir";
const PATH: &str = "/dir/file";
const SECTOR: usize = 512;

fn path(name: &str) -> &Path {
    Path::new(name)
}

/// A disk with the durable file [`PATH`]: sectors full of 1, 2, 3, ..
fn disk_with(sectors: u8) -> (SimDisk, Box<dyn DiskFile>) {
    let disk = SimDisk::new();
    disk.create_dir_all(path(DIR)).unwrap();
    let file = disk.create(path(PATH)).unwrap();
    for n in 0..sectors {
        file.write_all_at(&[n + 1; SECTOR], u64::from(n) * SECTOR as u64)
            .unwrap();
    }
    file.sync_data().unwrap();
    disk.sync_dir(path(DIR)).unwrap();
    (disk, file)
}

fn content(disk: &SimDisk, name: &str) -> io::Result<Vec<u8>> {
    Ok(disk.open_read(path(name))?.map()?.to_vec())
}

/// The first byte of each sector of [`PATH`].
fn firsts(disk: &SimDisk) -> Vec<u8> {
    let bytes = content(disk, PATH).unwrap();
    bytes.chunks(SECTOR).map(|sector| sector[0]).collect()
}

fn after_power_cut(disk: &SimDisk) -> SimDisk {
    let after = disk.fork();
    after.power_cut(0);
    after
}

fn number<T>(result: io::Result<T>) -> i32 {
    result.map(|_| ()).unwrap_err().raw_os_error().unwrap()
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    result.map(|_| ()).unwrap_err().kind()
}

const AT: [u64; 4] = [0, 512, 1024, 1536];

#[test]
fn each_kind_of_operation_fails_when_its_count_is_reached_and_once() {
    let (disk, file) = disk_with(1);
    let _ = disk.create(path("/dir/other")).unwrap();
    let run = |op: Op| -> io::Result<()> {
        match op {
            Op::List => disk.list(path(DIR)).map(|_| ()),
            Op::Open => disk.open(path(PATH)).map(|_| ()),
            Op::Read => file.read_at(&mut [0; 4], 0).map(|_| ()),
            Op::Close => disk.open_read(path(PATH))?.close(),
            Op::CreateDir => disk.create_dir_all(&path("/").join(disk.operations().to_string())),
            Op::Create => {
                let name = disk.operations().to_string();
                disk.create(&path(DIR).join(name)).map(|_| ())
            }
            Op::Lock => disk.lock(path(DIR), LockMode::Exclusive).map(|_| ()),
            Op::Write => file.write_at(b"x", 0).map(|_| ()),
            Op::SetLen => file.set_len(100),
            Op::Allocate => file.allocate(100),
            Op::PunchHole => file.punch_hole(0, 1),
            Op::Rename => disk.rename(path("/dir/other"), path("/dir/other")),
            Op::Remove => {
                let _ = disk.create(path("/dir/gone"));
                disk.remove(path("/dir/gone"))
            }
            Op::SyncData => file.sync_data(),
            _ => disk.sync_dir(path(DIR)),
        }
    };
    for op in [
        Op::List,
        Op::Open,
        Op::Read,
        Op::Close,
        Op::CreateDir,
        Op::Create,
        Op::Lock,
        Op::Write,
        Op::SetLen,
        Op::Allocate,
        Op::PunchHole,
        Op::Rename,
        Op::Remove,
        Op::SyncData,
        Op::SyncDir,
    ] {
        disk.fail_op(op, 2, Failure::EMFILE);
        disk.fail_op(op, 3, ErrorKind::Interrupted);
        let said = [(); 6].map(|()| run(op).map_err(|error| error.kind()));
        assert!(
            said[2].is_err() && said[3] == Err(ErrorKind::Interrupted),
            "{op:?}: {said:?}"
        );
        let others = [0, 1, 4, 5].map(|n: usize| said[n]);
        assert_eq!(others, [Ok(()); 4], "{op:?}");
    }
}

#[test]
fn a_failed_rename_or_sync_of_a_directory_changes_nothing() {
    let (disk, _) = disk_with(1);
    disk.fail_op(Op::Rename, 0, Failure::EIO);
    assert_eq!(number(disk.rename(path(PATH), path("/dir/to"))), 5);
    assert_eq!(disk.list(path(DIR)).unwrap(), ["file"]);
    disk.rename(path(PATH), path("/dir/to")).unwrap();
    disk.fail_op(Op::SyncDir, 0, Failure::EIO);
    assert_eq!(number(disk.sync_dir(path(DIR))), 5);
    assert_eq!(after_power_cut(&disk).list(path(DIR)).unwrap(), ["file"]);
    disk.sync_dir(path(DIR)).unwrap();
    assert_eq!(after_power_cut(&disk).list(path(DIR)).unwrap(), ["to"]);
}

#[test]
fn interrupted_and_short_reads_and_writes_are_completed_by_the_trait() {
    let (disk, file) = disk_with(2);
    disk.set_read_bytes_max(Some(100));
    disk.set_write_bytes_max(Some(100));
    for op in [Op::Read, Op::Write] {
        disk.fail_op(op, 1, ErrorKind::Interrupted);
    }
    file.write_all_at(&[9; 700], 100).unwrap();
    let mut bytes = [0; 900];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 100);
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes[..100], [1; 100]);
    assert_eq!(bytes[100..800], [9; 700]);
    assert_eq!(bytes[800..], [2; 100]);
}

#[test]
fn a_read_or_a_write_is_short_when_its_count_is_reached() {
    let (disk, file) = disk_with(2);
    disk.fail_op(Op::Write, 1, Failure::SHORT);
    disk.fail_op(Op::Read, 0, Failure::SHORT);
    disk.fail_op(Op::SyncData, 0, Failure::SHORT); // no harm
    let written = [(); 3].map(|()| file.write_at(&[9; 101], 0).unwrap());
    assert_eq!(written, [101, 51, 101]);
    let mut bytes = [0; 4];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 2);
    assert_eq!(
        (bytes, file.read_at(&mut bytes, 0).unwrap()),
        ([9, 9, 0, 0], 4)
    );
    file.sync_data().unwrap();
    assert_eq!(firsts(&after_power_cut(&disk)), [9, 2]);
    // With an error after it, that is a write which fails on its way.
    disk.fail_op(Op::Write, 0, Failure::SHORT);
    disk.fail_op(Op::Write, 1, Failure::EIO);
    assert_eq!(number(file.write_all_at(&[7; 1024], 0)), 5);
    assert_eq!(content(&disk, PATH).unwrap()[510..514], [7, 7, 2, 2]);
}

#[test]
fn a_directory_that_was_not_synced_in_its_parent_is_lost_with_all_in_it() {
    let disk = SimDisk::new();
    disk.create_dir_all(path("/a")).unwrap();
    // sync /, mkdir b, sync a, mkdir c, sync b: the power goes before each.
    for (done, left) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
        let after = disk.fork();
        after.crash_before(done);
        let made = after.create_dir_all(path("/a/b/c"));
        assert_eq!(made.is_ok(), done == 5);
        after.power_cut(0);
        let there = ["/a", "/a/b", "/a/b/c"].map(|dir| after.list(path(dir)).is_ok());
        assert_eq!(there.iter().filter(|there| **there).count(), left, "{done}");
        after.create_dir_all(path("/a/b/c")).unwrap();
    }
    // Whatever is durable inside goes with it.
    let after = disk.fork();
    after.crash_before(2); // before the sync of /a
    after.create_dir_all(path("/a/b")).unwrap_err();
    after.kill();
    let file = after.create(path("/a/b/file")).unwrap();
    file.sync_data().unwrap();
    after.sync_dir(path("/a/b")).unwrap();
    assert_eq!(
        kind(after_power_cut(&after).open(path("/a/b/file"))),
        ErrorKind::NotFound
    );
    after.sync_dir(path("/a")).unwrap();
    after_power_cut(&after).open(path("/a/b/file")).unwrap();
}

#[test]
fn names_take_space_if_they_are_given_a_price() {
    let (disk, file) = disk_with(1);
    disk.set_name_bytes(100);
    disk.set_free_bytes(Some(250));
    disk.create_dir_all(path("/dir/deep")).unwrap();
    disk.create(path("/dir/deep/file")).unwrap();
    assert_eq!(kind(disk.create(path("/dir/no"))), ErrorKind::StorageFull);
    assert_eq!(
        kind(disk.create_dir_all(path("/no"))),
        ErrorKind::StorageFull
    );
    disk.rename(path(PATH), path("/dir/renamed")).unwrap();
    assert_eq!(file.write_at(&[9; 60], 512).unwrap(), 50);
    disk.remove(path("/dir/deep/file")).unwrap();
    disk.create(path("/dir/yes")).unwrap();
}

#[test]
fn a_hole_gives_its_space_back_until_it_is_written_or_reserved() {
    let (disk, file) = disk_with(4);
    let other = disk.create(path("/dir/other")).unwrap();
    disk.set_free_bytes(Some(0));
    assert_eq!(kind(other.write_at(b"x", 0)), ErrorKind::StorageFull);
    file.punch_hole(500, 1100).unwrap(); // two whole sectors
    assert_eq!(content(&disk, PATH).unwrap()[500..1600], [0; 1100]);
    other.write_all_at(&[1; 512], 0).unwrap();
    assert_eq!(kind(file.allocate(2048)), ErrorKind::StorageFull);
    file.write_all_at(b"x", 600).unwrap();
    assert_eq!(kind(file.write_at(b"x", 1100)), ErrorKind::StorageFull);
    other.set_len(0).unwrap();
    file.allocate(2048).unwrap();
    assert_eq!(kind(other.allocate(1)), ErrorKind::StorageFull);
    file.write_all_at(&[9; 2048], 0).unwrap();
    // An unsynced hole may not survive.
    file.sync_data().unwrap();
    file.punch_hole(0, 512).unwrap();
    assert_eq!(firsts(&after_power_cut(&disk)), [9; 4]);
    file.sync_data().unwrap();
    assert_eq!(firsts(&after_power_cut(&disk)), [0, 9, 9, 9]);
}

#[test]
fn a_disk_remounted_read_only_is_read_and_nothing_else() {
    let (disk, file) = disk_with(1);
    file.write_all_at(b"unsynced", 0).unwrap();
    disk.create(path("/dir/unsynced")).unwrap();
    disk.set_read_only(true);
    let refused: [io::Result<()>; 11] = [
        file.write_at(b"x", 0).map(|_| ()),
        file.set_len(1),
        file.allocate(1),
        file.punch_hole(0, 1),
        file.sync_data(),
        disk.sync_dir(path(DIR)),
        disk.create(path("/dir/new")).map(|_| ()),
        disk.open(path(PATH)).map(|_| ()),
        disk.rename(path(PATH), path("/dir/to")),
        disk.remove(path(PATH)),
        disk.lock(path(DIR), LockMode::Exclusive).map(|_| ()),
    ];
    for (n, refused) in refused.into_iter().enumerate() {
        assert_eq!(kind(refused), ErrorKind::ReadOnlyFilesystem, "{n}");
    }
    disk.create_dir_all(path("/new")).unwrap_err();
    disk.create_dir_all(path(DIR)).unwrap();
    assert!(content(&disk, PATH).unwrap().starts_with(b"unsynced"));
    assert_eq!(disk.list(path(DIR)).unwrap(), ["file", "unsynced"]);
    assert!(firsts(&after_power_cut(&disk)) == [1]);
    disk.set_read_only(false);
    file.sync_data().unwrap();
    assert_eq!(firsts(&after_power_cut(&disk)), [b'u']);
}

#[test]
fn a_read_only_directory_is_locked_by_lookers_with_or_without_its_lock_file() {
    let (disk, _) = disk_with(1);
    disk.set_read_only(true);
    let lookers = [(); 2].map(|()| disk.lock(path(DIR), LockMode::Shared).unwrap());
    assert_eq!(disk.list(path(DIR)).unwrap(), ["file"]);
    drop(lookers);
    disk.set_read_only(false);
    drop(disk.lock(path(DIR), LockMode::Exclusive).unwrap());
    assert_eq!(disk.list(path(DIR)).unwrap(), [LOCK_FILE, "file"]);
    disk.set_read_only(true);
    let _looker = disk.lock(path(DIR), LockMode::Shared).unwrap();
    disk.set_read_only(false);
    let writer = disk.lock(path(DIR), LockMode::Exclusive);
    assert_eq!(kind(writer), ErrorKind::WouldBlock);
}

#[test]
fn a_bad_sector_fails_until_it_is_written_whole() {
    let (disk, file) = disk_with(3);
    disk.make_bad(path(PATH), 600..601).unwrap();
    let mut bytes = [0; 3 * SECTOR];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 512, "up to it");
    assert_eq!(number(file.read_exact_at(&mut bytes, 0)), 5);
    assert_eq!(number(file.map()), 5);
    file.read_exact_at(&mut bytes[..SECTOR], 1024).unwrap();
    assert_eq!(number(file.write_at(b"part", 700)), 5);
    disk.kill(); // and a restart does not help
    assert_eq!(number(content(&disk, PATH)), 5);
    assert_eq!(number(content(&after_power_cut(&disk), PATH)), 5);

    let file = disk.open(path(PATH)).unwrap();
    file.write_all_at(&[9; SECTOR], 512).unwrap();
    assert_eq!(firsts(&disk), [1, 9, 3]);
    let unsynced = after_power_cut(&disk);
    assert_eq!(
        number(content(&unsynced, PATH)),
        5,
        "the cure was not synced"
    );
    file.sync_data().unwrap();
    assert_eq!(firsts(&after_power_cut(&disk)), [1, 9, 3]);
}

#[test]
fn a_flipped_bit_is_read_and_stays() {
    let (disk, file) = disk_with(2);
    disk.flip_bit(path(PATH), 513, 7).unwrap();
    for disk in [&disk, &after_power_cut(&disk)] {
        let bytes = content(disk, PATH).unwrap();
        assert_eq!(bytes[513], 2 ^ 0x80);
        assert_eq!(bytes.iter().filter(|byte| **byte > 2).count(), 1);
    }
    // Where a newer sector waits to be written, that one wins.
    file.write_all_at(&[9; SECTOR], 0).unwrap();
    disk.flip_bit(path(PATH), 0, 0).unwrap();
    assert_eq!(firsts(&disk)[0], 9);
    assert_eq!(firsts(&after_power_cut(&disk))[0], 1 ^ 1);
    file.sync_data().unwrap();
    assert_eq!(firsts(&after_power_cut(&disk))[0], 9);
    assert_eq!(
        kind(disk.flip_bit(path("/dir/no"), 0, 0)),
        ErrorKind::NotFound
    );
}

#[test]
fn a_lost_write_is_acknowledged_and_synced_and_not_there() {
    let (disk, file) = disk_with(3);
    disk.lose_write(1);
    for at in &AT[..3] {
        file.write_all_at(&[9; SECTOR], *at).unwrap();
    }
    file.sync_data().unwrap();
    assert_eq!(firsts(&disk), [9, 9, 9], "the cache does not know");
    assert_eq!(firsts(&after_power_cut(&disk)), [9, 2, 9]);
    disk.evict(path(PATH)).unwrap();
    assert_eq!(firsts(&disk), [9, 2, 9]);
    file.write_all_at(&[8; SECTOR], 512).unwrap();
    file.sync_data().unwrap();
    assert_eq!(firsts(&after_power_cut(&disk)), [9, 8, 9]);
}

#[test]
fn a_misdirected_write_lands_elsewhere() {
    let (disk, file) = disk_with(4);
    disk.misdirect_write(0, None, 1024);
    file.write_all_at(&[9; SECTOR], 512).unwrap();
    file.sync_data().unwrap();
    assert_eq!(firsts(&disk), [1, 9, 3, 4], "the cache does not know");
    assert_eq!(firsts(&after_power_cut(&disk)), [1, 2, 3, 9]);

    let other = disk.create(path("/dir/other")).unwrap();
    other.write_all_at(&[7; SECTOR], 0).unwrap();
    other.sync_data().unwrap();
    disk.sync_dir(path(DIR)).unwrap();
    disk.misdirect_write(0, Some(path(PATH)), 0);
    other.write_all_at(&[8; SECTOR], 0).unwrap();
    other.sync_data().unwrap();
    let after = after_power_cut(&disk);
    assert_eq!(firsts(&after), [8, 2, 3, 9]);
    assert_eq!(content(&after, "/dir/other").unwrap(), [7; SECTOR]);
    // Outside of the file it is lost.
    disk.misdirect_write(0, None, -4096);
    file.write_all_at(&[6; SECTOR], 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(firsts(&after_power_cut(&disk)), [8, 2, 3, 9]);
}

#[test]
fn a_stale_sector_is_what_it_was_before_its_last_write() {
    let (disk, file) = disk_with(3);
    file.write_all_at(&[9; 2 * SECTOR], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[8; SECTOR], 0).unwrap();
    file.sync_data().unwrap();
    disk.make_stale(path(PATH), 0..1024).unwrap();
    assert_eq!(firsts(&disk), [9, 2, 3]);
    assert_eq!(firsts(&after_power_cut(&disk)), [9, 2, 3]);
    disk.make_stale(path(PATH), 1024..1025).unwrap();
    assert_eq!(firsts(&disk), [9, 2, 0], "before its only write");
}

#[test]
fn a_file_that_would_be_too_large_is_refused() {
    let (disk, file) = disk_with(1);
    for far in [1 << 40, u64::MAX] {
        assert_eq!(kind(file.write_at(b"x", far)), ErrorKind::FileTooLarge);
        assert_eq!(kind(file.set_len(far)), ErrorKind::FileTooLarge);
        assert_eq!(kind(file.allocate(far)), ErrorKind::FileTooLarge);
        file.punch_hole(far, far).unwrap();
        assert_eq!(file.read_at(&mut [0], far).unwrap(), 0);
    }
    assert_eq!(firsts(&disk), [1]);
}

#[test]
fn a_mere_length_takes_no_space_and_reserves_none() {
    let (_, reserved) = disk_with(0);
    reserved.allocate(4096).unwrap();
    let (disk, file) = disk_with(1);
    disk.set_free_bytes(Some(512));
    file.set_len(1 << 30).unwrap();
    file.write_all_at(&[9; 512], 8192).unwrap();
    assert_eq!(kind(file.write_at(b"x", 4096)), ErrorKind::StorageFull);
    file.write_all_at(&[8; 512], 8192).unwrap();
    // A gap before a write is none either, and cutting off gives back what was taken.
    file.set_len(512).unwrap();
    file.write_all_at(&[9; 512], 1 << 20).unwrap();
    assert_eq!(kind(file.write_at(b"x", 512)), ErrorKind::StorageFull);
    // What is reserved is not sparse.
    file.set_len(0).unwrap();
    file.set_len(1024).unwrap();
    file.allocate(1024).unwrap();
    let other = disk.create(path("/dir/other")).unwrap();
    assert_eq!(kind(other.write_at(b"x", 0)), ErrorKind::StorageFull);
    file.write_all_at(&[9; 1024], 0).unwrap();
}

#[test]
fn a_failed_allocate_takes_what_there_is_until_it_is_given_back() {
    let (disk, file) = disk_with(1);
    let other = disk.create(path("/dir/other")).unwrap();
    disk.set_free_bytes(Some(1000));
    assert_eq!(kind(file.allocate(4096)), ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 1512);
    assert_eq!(firsts(&disk), [1, 0, 0]);
    assert_eq!(kind(other.write_at(b"x", 0)), ErrorKind::StorageFull);
    file.set_len(512).unwrap();
    other.write_all_at(&[9; 1000], 0).unwrap();
}

#[test]
fn a_power_cut_gives_and_takes_space_with_the_bytes() {
    // A punch that is lost: the bytes are there, and so is their space.
    let (disk, file) = disk_with(4);
    file.punch_hole(0, 2048).unwrap();
    let after = after_power_cut(&disk);
    after.set_free_bytes(Some(0));
    let again = after.open(path(PATH)).unwrap();
    again.write_all_at(&[9; 2048], 0).unwrap();
    // A write into a durable hole that is lost: the hole takes no space again.
    file.sync_data().unwrap();
    file.write_all_at(&[9; 512], 0).unwrap();
    file.allocate(2048).unwrap();
    let after = after_power_cut(&disk);
    after.set_free_bytes(Some(0));
    let again = after.open(path(PATH)).unwrap();
    assert_eq!(kind(again.write_at(b"x", 0)), ErrorKind::StorageFull);
    assert_eq!(kind(again.write_at(b"x", 600)), ErrorKind::StorageFull);
    // Once it is synced, the reservation stays.
    file.sync_data().unwrap();
    let after = after_power_cut(&disk);
    after.set_free_bytes(Some(0));
    let again = after.open(path(PATH)).unwrap();
    again.write_all_at(&[7; 2048], 0).unwrap();
}

#[test]
fn a_length_without_its_reservation_may_survive() {
    let (disk, file) = disk_with(0);
    file.allocate(2048).unwrap();
    let writes = |seed| {
        let after = disk.fork();
        after.power_cut(seed);
        after.set_free_bytes(Some(0));
        let file = after.open(path(PATH)).unwrap();
        (file.len().unwrap() == 2048).then(|| file.write_at(&[1; 2048], 0).is_ok())
    };
    let written: Vec<bool> = (0..100).filter_map(writes).collect();
    assert!(written.contains(&true) && written.contains(&false));
}

#[test]
fn a_bad_sector_that_was_cut_off_does_not_come_back() {
    let (disk, file) = disk_with(3);
    disk.make_bad(path(PATH), 1024..1536).unwrap();
    file.set_len(512).unwrap();
    file.sync_data().unwrap();
    file.set_len(1536).unwrap();
    disk.evict(path(PATH)).unwrap();
    assert_eq!(firsts(&disk), [1, 0, 0]);
    file.sync_data().unwrap();
    assert_eq!(firsts(&after_power_cut(&disk)), [1, 0, 0]);
}

#[test]
fn a_sector_that_a_power_cut_kept_goes_stale_to_what_it_was_before() {
    let (disk, file) = disk_with(2);
    file.write_all_at(&[9; 1024], 0).unwrap();
    assert!(disk.power_cut_keeping(|unit| unit == 0));
    assert_eq!(firsts(&disk), [9, 2]);
    disk.make_stale(path(PATH), 0..1024).unwrap();
    assert_eq!(firsts(&disk), [1, 0]);
}

#[test]
fn a_removed_file_keeps_its_bytes_for_open_handles_and_for_a_power_cut() {
    for over in [false, true] {
        let (disk, file) = disk_with(2);
        let other = disk.create(path("/dir/other")).unwrap();
        match over {
            false => disk.remove(path(PATH)).unwrap(),
            true => disk.rename(path("/dir/other"), path(PATH)).unwrap(),
        }
        file.write_all_at(&[9; SECTOR], 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(firsts(&after_power_cut(&disk)), [9, 2], "the name is back");
        disk.sync_dir(path(DIR)).unwrap();
        let mut bytes = [0; 2 * SECTOR];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!([bytes[0], bytes[SECTOR]], [9, 2]);
        file.write_all_at(&[8; SECTOR], 4 * SECTOR as u64).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.len().unwrap(), 5 * SECTOR as u64);
        assert_eq!(other.len().unwrap(), 0);
    }
}

#[test]
fn whichever_rename_is_lost_a_file_has_one_name() {
    let (disk, _) = disk_with(1);
    disk.rename(path(PATH), path("/dir/b")).unwrap();
    disk.rename(path("/dir/b"), path("/dir/c")).unwrap();
    let left = [0b00, 0b01, 0b10, 0b11].map(|kept: usize| {
        let after = disk.fork();
        let distinct = after.power_cut_keeping(|unit| kept >> unit & 1 == 1);
        (after.list(path(DIR)).unwrap().join(" "), distinct)
    });
    assert_eq!(left.map(|(names, _)| names), ["file", "b", "c", "c"]);
}
