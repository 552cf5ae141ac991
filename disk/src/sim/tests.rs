//! What a disk may lose, and what not.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::bytes::FileBytes;
use super::image::SECTOR_BYTES;
use super::*;
use crate::{Disk, DiskFile, LockMode, OsDisk};

const DIR: &str = "/dir";
const PATH: &str = "/dir/file";
const SEEDS: u64 = 200;

/// A disk with the durable file [`PATH`], full of `byte`.
fn disk_with(byte: u8, bytes: usize) -> (SimDisk, Box<dyn DiskFile>) {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    let file = disk.create(Path::new(PATH)).unwrap();
    file.write_all_at(&vec![byte; bytes], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    (disk, file)
}

fn content(disk: &SimDisk, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(Path::new(path))?;
    let mut bytes = vec![0; file.len()? as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// What is left after each of [`SEEDS`] power cuts of forks of `disk`.
fn power_cuts<T>(disk: &SimDisk, look: impl Fn(&SimDisk) -> T) -> Vec<T> {
    let cut = |seed| {
        let after = disk.fork();
        after.power_cut(seed);
        look(&after)
    };
    (0..SEEDS).map(cut).collect()
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    result.map(|_| ()).unwrap_err().kind()
}

#[test]
fn unsynced_bytes_may_be_lost_in_a_power_cut_and_never_in_a_kill() {
    let (disk, file) = disk_with(b'o', 2 * SECTOR_BYTES);
    file.write_all_at(&[b'n'; 2 * SECTOR_BYTES], 0).unwrap();

    let killed = disk.fork();
    killed.kill();
    assert_eq!(content(&killed, PATH).unwrap(), [b'n'; 2 * SECTOR_BYTES]);

    // Each of the two sectors old, new or torn, in each combination.
    let left = power_cuts(&disk, |after| content(after, PATH).unwrap());
    let what = |sector: &[u8]| match sector {
        all if all.iter().all(|&byte| byte == b'o') => 0,
        all if all.iter().all(|&byte| byte == b'n') => 1,
        _ => 2,
    };
    for expected in (0..3).flat_map(|a| (0..3).map(move |b| (a, b))) {
        let found = left.iter().any(|bytes| {
            let (a, b) = bytes.split_at(SECTOR_BYTES);
            (what(a), what(b)) == expected
        });
        assert!(found, "{expected:?} in none of {SEEDS} seeds");
    }
    assert_eq!(left[0], [b'o'; 2 * SECTOR_BYTES], "seed 0 loses all");
}

#[test]
fn synced_bytes_are_never_lost() {
    let (disk, file) = disk_with(b'o', 3 * SECTOR_BYTES);
    file.write_all_at(&[b'n'; 2 * SECTOR_BYTES], 100).unwrap();
    file.sync_data().unwrap();
    let synced = content(&disk, PATH).unwrap();
    // Bytes that are written again with the value they have, and bytes beside them, are not harmed either.
    file.write_all_at(&[b'n'; SECTOR_BYTES], 100).unwrap();
    file.write_all_at(b"end", 3 * SECTOR_BYTES as u64).unwrap();
    for (seed, left) in (0..).zip(power_cuts(&disk, |after| content(after, PATH).unwrap())) {
        assert!(left.starts_with(&synced), "seed {seed}");
    }
}

#[test]
fn an_unsynced_length_may_be_lost_and_bytes_never_written_are_zero() {
    let (disk, file) = disk_with(b'o', 100);
    file.write_all_at(&[b'n'; SECTOR_BYTES], 2000).unwrap();
    let left = power_cuts(&disk, |after| content(after, PATH).unwrap());
    for (seed, left) in left.iter().enumerate() {
        assert!((100..=2512).contains(&left.len()), "seed {seed}");
        let gap = &left[100.min(left.len())..2000.min(left.len())];
        // A torn sector may hold anything where it was being written, but the gap was zero and stays so.
        assert!(gap.iter().all(|&byte| byte == 0), "seed {seed}");
    }
    assert!(left.iter().any(|left| left.len() == 100));
    assert!(left.iter().any(|left| left.len() == 2512));
    let only_length = |left: &Vec<u8>| left.len() == 2512 && left[2000..].iter().all(|&b| b == 0);
    assert!(left.iter().any(only_length), "the length without the data");
}

#[test]
fn a_cut_file_is_as_long_as_before_or_as_after() {
    let (disk, file) = disk_with(b'o', 3000);
    file.set_len(1000).unwrap();
    let left = power_cuts(&disk, |after| content(after, PATH).unwrap());
    assert!(left.iter().any(|left| left.len() == 3000));
    assert!(left.iter().any(|left| left.len() == 1000));
    assert!(left.iter().all(|left| left.iter().all(|&b| b == b'o')));
    // Once the cut is durable, the bytes behind it never come back.
    file.sync_data().unwrap();
    file.set_len(3000).unwrap();
    for left in power_cuts(&disk, |after| content(after, PATH).unwrap()) {
        assert_eq!(left[..1000], [b'o'; 1000]);
        assert!(left[1000..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn a_length_that_was_taken_back_may_survive_until_that_is_synced() {
    let (disk, file) = disk_with(b'o', 1000);
    file.write_all_at(&[b'n'; 500], 1000).unwrap();
    file.set_len(1000).unwrap();
    let left = power_cuts(&disk, |after| content(after, PATH).unwrap());
    assert!(left.iter().any(|left| left.len() == 1500));
    assert_eq!(disk.unsynced_units(), 0, "old and new are the same");
    file.write_all_at(&[b'n'; 5000], 1000).unwrap();
    file.set_len(1000).unwrap();
    file.sync_data().unwrap();
    for left in power_cuts(&disk, |after| content(after, PATH).unwrap()) {
        assert_eq!(left, [b'o'; 1000]);
    }
}

#[test]
fn a_name_is_lost_until_its_directory_is_synced() {
    let (disk, _) = disk_with(b'o', 1);
    let other = Path::new("/dir/other");
    let file = disk.create(other).unwrap();
    file.write_all_at(b"new", 0).unwrap();
    file.sync_data().unwrap(); // the bytes, not the name
    disk.remove(Path::new(PATH)).unwrap();
    let listed = |after: &SimDisk| after.list(Path::new(DIR)).unwrap();
    let left = power_cuts(&disk, listed);
    for expected in [&["file"][..], &["other"], &["file", "other"], &[]] {
        assert!(left.iter().any(|left| left == expected), "{expected:?}");
    }
    let with_name = |after: &SimDisk| content(after, "/dir/other").ok();
    let bytes = power_cuts(&disk, with_name);
    assert!(bytes.iter().flatten().all(|bytes| bytes == b"new"));

    disk.sync_dir(Path::new(DIR)).unwrap();
    assert!(
        power_cuts(&disk, listed)
            .iter()
            .all(|left| left == &["other"])
    );
}

/// Also what is not synced in them: the directories are what they were.
#[test]
fn two_directories_change_places_at_once_and_for_good_when_their_parent_is_synced() {
    let disk = SimDisk::new();
    let (a, b) = (Path::new("/a"), Path::new("/b"));
    for dir in [a, b] {
        disk.create_dir_all(&dir.join("deep")).unwrap();
    }
    disk.create(&a.join("durable")).unwrap();
    disk.sync_dir(a).unwrap();
    disk.create(&b.join("deep/lost")).unwrap();
    let file = disk.create(&a.join("lost")).unwrap();
    disk.fail_op(Op::Exchange, 0, Failure::EIO);
    disk.exchange(a, b).unwrap_err();
    assert_eq!(disk.list(a).unwrap(), ["deep", "durable", "lost"]);
    disk.exchange(a, b).unwrap();
    assert_eq!(disk.list(a).unwrap(), ["deep"]);
    assert_eq!(disk.list(&a.join("deep")).unwrap(), ["lost"]);
    assert_eq!(disk.list(b).unwrap(), ["deep", "durable", "lost"]);
    file.write_all_at(b"the handle follows the file", 0)
        .unwrap();
    assert_eq!(disk.open(&b.join("lost")).unwrap().len().unwrap(), 27);
    let synced = disk.fork();
    synced.sync_dir(Path::new("/")).unwrap();
    synced.power_cut(0);
    assert_eq!(synced.list(a).unwrap(), ["deep"]);
    assert!(synced.list(&a.join("deep")).unwrap().is_empty());
    assert_eq!(synced.list(b).unwrap(), ["deep", "durable"]);
    let left = power_cuts(&disk, |after| {
        let names = [a, b].map(|dir| after.list(dir).unwrap());
        let is_exchanged = names[1].contains(&"durable".to_owned());
        assert_ne!(is_exchanged, names[0].contains(&"durable".to_owned()));
        is_exchanged
    });
    assert!(left.contains(&true) && left.contains(&false));
}

#[test]
fn a_rename_is_the_old_file_or_the_new_one_whole() {
    let (disk, _) = disk_with(b'o', 4);
    let file = disk.create(Path::new("/dir/new")).unwrap();
    file.write_all_at(b"nnnn", 0).unwrap();
    file.sync_data().unwrap();
    disk.rename(Path::new("/dir/new"), Path::new(PATH)).unwrap();
    let left = power_cuts(&disk, |after| content(after, PATH).unwrap());
    assert!(left.iter().any(|left| left == b"oooo"));
    assert!(left.iter().any(|left| left == b"nnnn"));
    assert!(left.iter().all(|left| left == b"oooo" || left == b"nnnn"));
    assert_eq!(disk.list(Path::new(DIR)).unwrap(), ["file"]);
}

#[test]
fn a_failed_sync_is_reported_once_and_drops_the_pages() {
    let (disk, file) = disk_with(b'o', 4);
    file.write_all_at(b"nnnn", 0).unwrap();
    disk.fail_next_sync(ErrorKind::Other);
    assert_eq!(kind(file.sync_data()), ErrorKind::Other);
    file.sync_data().unwrap(); // it lies
    assert_eq!(content(&disk, PATH).unwrap(), b"nnnn");
    let left = |disk: &SimDisk| power_cuts(disk, |after| content(after, PATH).unwrap());
    assert!(left(&disk).iter().all(|left| left == b"oooo"));

    // A kill does not bring them back, nor a sync by the next process; writing them again does.
    disk.kill();
    let file = disk.open(Path::new(PATH)).unwrap();
    file.sync_data().unwrap();
    assert_eq!(content(&disk, PATH).unwrap(), b"nnnn");
    assert!(left(&disk).iter().all(|left| left == b"oooo"));
    file.write_all_at(b"nnnn", 0).unwrap();
    file.sync_data().unwrap();
    assert!(left(&disk).iter().all(|left| left == b"nnnn"));
}

#[test]
fn a_crash_stops_everything_until_the_next_life() {
    let (disk, file) = disk_with(b'o', 4);
    let before = disk.operations();
    disk.crash_after(1);
    file.write_all_at(b"n", 0).unwrap();
    file.write_all_at(b"nn", 1).unwrap_err(); // half of it is done
    for result in [
        file.len().map(|_| ()),
        file.sync_data(),
        disk.sync_dir(Path::new(DIR)),
        disk.list(Path::new(DIR)).map(|_| ()),
        disk.open(Path::new(PATH)).map(|_| ()),
    ] {
        result.unwrap_err();
    }
    assert_eq!(disk.operations(), before + 2);
    disk.kill();
    assert_eq!(content(&disk, PATH).unwrap(), b"nnoo");
    file.len().unwrap_err(); // of an earlier life
    assert_eq!(disk.open(Path::new(PATH)).unwrap().len().unwrap(), 4);
}

#[test]
fn an_injected_error_comes_once_and_has_no_effect() {
    let (disk, file) = disk_with(b'o', 4);
    disk.fail_after(1, ErrorKind::PermissionDenied);
    file.write_all_at(b"n", 0).unwrap();
    let error = disk.rename(Path::new(PATH), Path::new("/dir/to"));
    assert_eq!(kind(error), ErrorKind::PermissionDenied);
    assert_eq!(content(&disk, PATH).unwrap(), b"nooo");
    disk.fail_after(0, ErrorKind::Other);
    file.write_all_at(b"x", 0).unwrap_err();
    file.sync_data().unwrap();
    assert_eq!(content(&disk, PATH).unwrap(), b"nooo");
}

#[test]
fn a_full_disk_takes_what_fits_and_overwrites_in_place() {
    let (disk, file) = disk_with(b'o', 4);
    disk.set_free_bytes(Some(3));
    assert_eq!(file.write_at(b"12345", 4).unwrap(), 3);
    assert_eq!(kind(file.write_at(b"45", 7)), ErrorKind::StorageFull);
    assert_eq!(kind(file.set_len(8)), ErrorKind::StorageFull);
    file.write_all_at(b"nnnn", 0).unwrap();
    file.sync_data().unwrap();
    file.set_len(5).unwrap();
    file.write_all_at(b"xx", 5).unwrap();
    assert_eq!(content(&disk, PATH).unwrap(), b"nnnn1xx");
    let other = disk.create(Path::new("/dir/other")).unwrap();
    assert_eq!(kind(other.write_at(b"x", 0)), ErrorKind::StorageFull);
    disk.remove(Path::new(PATH)).unwrap();
    assert_eq!(kind(other.write_at(b"x", 0)), ErrorKind::StorageFull);
    drop(file); // the last that refers to it
    other.write_all_at(b"1234567", 0).unwrap();
    assert_eq!(kind(other.write_at(b"8", 7)), ErrorKind::StorageFull);
    disk.set_free_bytes(None);
    other.write_all_at(b"8", 7).unwrap();
}

#[test]
fn short_writes_are_completed_by_the_trait() {
    let (disk, file) = disk_with(b'o', 0);
    disk.set_write_bytes_max(Some(3));
    assert_eq!(file.write_at(b"12345678", 0).unwrap(), 3);
    let before = disk.operations();
    file.write_all_at(b"12345678", 0).unwrap();
    assert_eq!(disk.operations() - before, 3);
    assert_eq!(content(&disk, PATH).unwrap(), b"12345678");
}

#[test]
fn a_fork_goes_its_own_way() {
    let (disk, file) = disk_with(b'o', 4);
    file.write_all_at(b"n", 0).unwrap();
    let guard = disk.lock(Path::new(DIR), LockMode::Exclusive).unwrap();
    let fork = disk.fork();
    file.write_all_at(b"nn", 0).unwrap();
    fork.lock(Path::new(DIR), LockMode::Exclusive).unwrap();
    assert_eq!(content(&fork, PATH).unwrap(), b"nooo");
    fork.power_cut(0);
    assert_eq!(content(&fork, PATH).unwrap(), b"oooo");
    assert_eq!(content(&disk, PATH).unwrap(), b"nnoo");
    drop(guard);
}

#[test]
fn a_power_cut_is_the_same_for_the_same_seed() {
    let (disk, file) = disk_with(b'o', 4000);
    file.write_all_at(&[b'n'; 5000], 300).unwrap();
    disk.create(Path::new("/dir/other")).unwrap();
    let look = |after: &SimDisk| {
        let names = after.list(Path::new(DIR)).unwrap();
        (names, content(after, PATH).unwrap())
    };
    assert_eq!(power_cuts(&disk, look), power_cuts(&disk, look));
}

#[test]
fn a_kill_frees_the_lock_and_an_old_guard_does_not_free_the_new_one() {
    let (disk, _) = disk_with(b'o', 0);
    let old = disk.lock(Path::new(DIR), LockMode::Exclusive).unwrap();
    assert_eq!(
        kind(disk.lock(Path::new(DIR), LockMode::Exclusive)),
        ErrorKind::WouldBlock
    );
    disk.kill();
    let new = disk.lock(Path::new(DIR), LockMode::Exclusive).unwrap();
    drop(old);
    assert_eq!(
        kind(disk.lock(Path::new(DIR), LockMode::Exclusive)),
        ErrorKind::WouldBlock
    );
    drop(new);
    disk.lock(Path::new(DIR), LockMode::Exclusive).unwrap();
}

/// Whatever a program does to a disk, the simulated one answers as the real one.
#[test]
fn it_answers_as_the_real_disk_does() {
    let dir = tempfile::tempdir().unwrap();
    let real = answers(&OsDisk::new(), &dir.path().join("a/b"));
    let simulated = answers(&SimDisk::new(), Path::new("/a/b"));
    assert_eq!(real, simulated);
    let real = answers_to_mistakes(&OsDisk::new(), &dir.path().join("c"));
    let simulated = answers_to_mistakes(&SimDisk::new(), Path::new("/c"));
    assert_eq!(real, simulated);
}

/// A file where a directory is meant, and a directory where a file is.
fn answers_to_mistakes(disk: &dyn Disk, dir: &Path) -> [Result<(), ErrorKind>; 17] {
    let (a, x) = (dir.join("a"), dir.join("a/x"));
    let none = |result: io::Result<Box<dyn DiskFile>>| result.map(|_| ());
    disk.create_dir_all(dir).unwrap();
    disk.create(&a).unwrap();
    let said = [
        disk.create_dir_all(&a),
        disk.create_dir_all(&a.join("deep")),
        disk.list(&a).map(|_| ()),
        none(disk.open(&x)),
        none(disk.create(&x)),
        disk.remove(&x),
        disk.rename(&x, &a.join("y")),
        disk.exchange(dir, &a),
        disk.exchange(dir, &dir.join("none")),
        disk.exchange(dir, dir),
        disk.sync_dir(&a),
        disk.lock(&a, LockMode::Shared).map(|_| ()),
        none(disk.open_read(dir)),
        disk.remove(dir),
        none(disk.open(dir)),
        none(disk.create(dir)),
        none(disk.open(&dir.join("none/x"))),
    ];
    said.map(|answer| answer.map_err(|error| error.kind()))
}

fn answers(disk: &dyn Disk, dir: &Path) -> Vec<Result<String, ErrorKind>> {
    let (a, b) = (dir.join("a"), dir.join("b"));
    let mut said = Vec::new();
    let mut say = |answer: io::Result<String>| said.push(answer.map_err(|error| error.kind()));
    let unit = |result: io::Result<()>| result.map(|()| String::new());
    let none = |result: io::Result<Box<dyn DiskFile>>| result.map(|_| String::new());
    let list = |dir: &Path| disk.list(dir).map(|names| format!("{names:?}"));
    say(list(dir));
    say(none(disk.create(&a)));
    say(unit(disk.sync_dir(dir)));
    say(disk.lock(dir, LockMode::Exclusive).map(|_| String::new()));
    say(unit(disk.create_dir_all(dir)));
    say(unit(disk.create_dir_all(dir)));
    say(list(dir));
    say(list(dir.parent().unwrap()));
    say(none(disk.open(&a)));
    say(unit(disk.remove(&a)));
    say(unit(disk.rename(&a, &b)));
    say(none(disk.create(&a)));
    say(none(disk.create(&a)));
    let file = disk.open(&a).unwrap();
    say(unit(file.write_all_at(b"0123", 6)));
    say(unit(file.set_len(8)));
    say(unit(file.write_all_at(b"x", 9)));
    say(unit(disk.rename(&a, &b)));
    say(list(dir));
    say(unit(file.set_len(12))); // the handle follows the file, not the name
    let file = disk.open(&b).unwrap();
    let mut bytes = vec![b'-'; 20];
    say(file
        .read_at(&mut bytes, 2)
        .map(|n| format!("{n} {bytes:?}")));
    say(file.read_at(&mut bytes, 12).map(|n| n.to_string()));
    say(file.read_at(&mut bytes, 99).map(|n| n.to_string()));
    say(unit(file.read_exact_at(&mut bytes, 2)));
    say(unit(file.sync_data()));
    say(unit(disk.remove(&b)));
    say(file.len().map(|n| n.to_string()));
    say(unit(disk.sync_dir(dir)));
    say(none(disk.open_read(&a)));
    disk.create(&a).unwrap().write_all_at(b"0123", 0).unwrap();
    let file = disk.open_read(&a).unwrap();
    say(file.write_at(b"x", 0).map(|n| n.to_string()));
    say(unit(file.set_len(9)));
    say(unit(file.allocate(9)));
    say(unit(file.sync_data()));
    say(file.len().map(|n| n.to_string()));
    let file = disk.open(&a).unwrap();
    for len in [2, 9, 0] {
        say(unit(file.allocate(len)));
        say(file
            .read_at(&mut bytes, 0)
            .map(|n| format!("{n} {bytes:?}")));
    }
    for (offset, len) in [(1, 2), (3, 99), (99, 1), (0, 0)] {
        say(unit(file.punch_hole(offset, len)));
        say(file.map().map(|map| format!("{:?}", &map[..])));
    }
    let guard = disk.lock(dir, LockMode::Exclusive).unwrap();
    say(disk.lock(dir, LockMode::Exclusive).map(|_| String::new()));
    say(disk.lock(dir, LockMode::Shared).map(|_| String::new()));
    drop(guard);
    let guards = [(); 2].map(|()| disk.lock(dir, LockMode::Shared).unwrap());
    say(disk.lock(dir, LockMode::Exclusive).map(|_| String::new()));
    drop(guards);
    say(disk.lock(dir, LockMode::Exclusive).map(|_| String::new()));
    say(list(dir));
    said
}

/// The kernel may write a page at any time, and what is written to it later need not follow.
#[test]
fn what_was_overwritten_or_cut_off_before_its_sync_may_be_what_survives() {
    let (disk, file) = disk_with(b'o', 2 * SECTOR_BYTES);
    for byte in [b'1', b'2', b'3'] {
        file.write_all_at(&[byte; SECTOR_BYTES], 0).unwrap();
    }
    file.write_all_at(&[b'x'; SECTOR_BYTES], 512).unwrap();
    file.set_len(512).unwrap();
    file.write_all_at(&[b'y'; SECTOR_BYTES], 1024).unwrap();
    file.set_len(512).unwrap();
    let left = power_cuts(&disk, |after| content(after, PATH).unwrap());
    let whole = |sector: usize, byte: u8| {
        let at = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
        let found = |left: &Vec<u8>| left.get(at.clone()) == Some(&[byte; SECTOR_BYTES][..]);
        left.iter().any(found)
    };
    let expected = [
        (0, b'o'),
        (0, b'1'),
        (0, b'2'),
        (0, b'3'),
        (1, b'o'),
        (1, b'x'),
        (2, b'y'),
    ];
    for (sector, byte) in expected {
        assert!(whole(sector, byte), "sector {sector}: {}", char::from(byte));
    }
    file.sync_data().unwrap();
    for left in power_cuts(&disk, |after| content(after, PATH).unwrap()) {
        assert_eq!(left, [b'3'; SECTOR_BYTES]);
    }
}

/// What a write or a reservation is granted is what it then takes.
#[test]
fn space_is_taken_as_it_was_granted_and_never_by_a_power_cut() {
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..300 {
        let mut file = FileBytes::default();
        for _ in 0..40 {
            let (at, n) = (rng.usize(..9000), rng.usize(1..3000));
            let before = file.used_bytes();
            let growth = match rng.u8(..6) {
                0 => {
                    let growth = file.len_growth(at);
                    let is_longer = at >= file.len();
                    file.set_len(at);
                    is_longer.then_some(growth)
                }
                1 => {
                    let growth = file.growth(0..at);
                    file.allocate(at);
                    Some(growth)
                }
                2 => {
                    file.punch_hole(at..at + n);
                    assert!(file.used_bytes() <= before);
                    None
                }
                3 => {
                    let begun = file.begin_sync();
                    file.sync(&begun);
                    assert!(!file.is_unsynced());
                    Some(0)
                }
                4 => {
                    file.power_cut(&mut Fate::new(rng.u64(..9)));
                    assert!(file.used_bytes() <= file.len() as u64);
                    None
                }
                _ => {
                    let growth = file.growth(at..at + n);
                    file.write(&vec![1; n], at).unwrap();
                    Some(growth)
                }
            };
            if let Some(growth) = growth {
                assert_eq!(file.used_bytes(), before + growth);
            }
        }
        // All of it can be written over when nothing is free but what it lacks.
        let len = file.len();
        let lacks = file.growth(0..len);
        assert_eq!(file.used_bytes() + lacks, len as u64);
    }
}

#[test]
fn what_is_wrong_with_a_fork_is_not_wrong_with_its_origin() {
    let (disk, file) = disk_with(b'o', 2048);
    file.write_all_at(b"unsynced", 0).unwrap();
    let fork = disk.fork();
    fork.set_free_bytes(Some(0));
    fork.set_read_only(true);
    fork.set_write_bytes_max(Some(1));
    fork.set_read_bytes_max(Some(1));
    fork.make_bad(Path::new(PATH), 1024..2048).unwrap();
    fork.flip_bit(Path::new(PATH), 600, 1).unwrap();
    fork.fail_after(0, ErrorKind::Other);
    fork.fail_next_sync(ErrorKind::Other);
    fork.hang_syncs(Hang::TimedOut);
    fork.slow_next_sync(Duration::from_secs(1));
    fork.power_cut(0);
    assert_eq!(file.write_at(&[b'n'; 4096], 8).unwrap(), 4096);
    file.sync_data().unwrap();
    disk.create(Path::new("/dir/other")).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(disk.elapsed(), Duration::ZERO);
    disk.power_cut(0);
    let mut expected = b"unsynced".to_vec();
    expected.extend([b'n'; 4096]);
    assert_eq!(content(&disk, PATH).unwrap(), expected);
    assert_eq!(fork.list(Path::new(DIR)).unwrap(), ["file"]);
    let left = fork.open_read(Path::new(PATH)).unwrap();
    assert_eq!(left.len().unwrap(), 2048);
}

#[test]
fn chance_follows_from_a_seed_and_goes_on_after_a_crash() {
    let drawn = |seed| {
        let disk = SimDisk::new();
        disk.seed_random(seed);
        let before = disk.random().unwrap();
        disk.power_cut(0);
        (before, disk.random().unwrap())
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
    assert_ne!(drawn(1).0, drawn(1).1);
    assert_ne!(
        SimDisk::new().random().unwrap(),
        SimDisk::new().random().unwrap()
    );
}
