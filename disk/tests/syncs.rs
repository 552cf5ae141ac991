//! Syncs that fail, take time, hang and overlap.

#![allow(clippy::unwrap_used)] // helpers of tests, too

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use duramen_disk::{Disk, DiskFile, Failure, Hang, SimDisk};

const PATH: &str = "/file";

fn path() -> &'static Path {
    Path::new(PATH)
}

/// A disk with the durable file [`PATH`], four sectors of 1.
fn disk_with_file() -> (SimDisk, Arc<dyn DiskFile>) {
    let disk = SimDisk::new();
    let file = disk.create(path()).unwrap();
    file.write_all_at(&[1; 2048], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    (disk, Arc::from(file))
}

/// The first byte of each sector that a power cut leaves.
fn durable(disk: &SimDisk) -> Vec<u8> {
    let after = disk.fork();
    after.power_cut(0);
    let bytes = after.open_read(path()).unwrap().map().unwrap();
    bytes.chunks(512).map(|sector| sector[0]).collect()
}

/// Begins a sync in a thread of its own, and returns when it hangs there.
fn begin_sync(disk: &SimDisk, file: &Arc<dyn DiskFile>) -> JoinHandle<io::Result<()>> {
    let file = Arc::clone(file);
    let syncs = disk.hanging_syncs();
    let sync = thread::spawn(move || file.sync_data());
    disk.wait_for_hanging_syncs(syncs + 1);
    sync
}

#[test]
fn a_write_back_error_is_told_once_to_each_handle_that_was_open() {
    let (disk, file) = disk_with_file();
    let other = disk.open(path()).unwrap();
    let reader = disk.open_read(path()).unwrap();
    let stranger = disk.create(Path::new("/stranger")).unwrap();
    file.write_all_at(&[2; 2048], 0).unwrap();
    disk.fail_write_back(path(), Failure::EIO).unwrap();
    let late = disk.open(path()).unwrap();
    late.sync_data().unwrap();
    for handle in [&*file, &*other, &*reader] {
        assert_eq!(handle.sync_data().unwrap_err().raw_os_error(), Some(5));
        handle.sync_data().unwrap();
    }
    stranger.sync_data().unwrap();
    assert_eq!(durable(&disk), [1; 4]);
}

#[test]
fn a_failed_sync_tells_the_other_handles_too() {
    let (disk, file) = disk_with_file();
    let other = disk.open(path()).unwrap();
    file.write_all_at(&[2; 2048], 0).unwrap();
    disk.fail_next_sync(ErrorKind::Other);
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    other.sync_data().unwrap_err();
    other.sync_data().unwrap();
}

#[test]
fn an_evicted_page_shows_what_the_failed_sync_did_not_write() {
    let (disk, file) = disk_with_file();
    file.write_all_at(&[2; 2048], 0).unwrap();
    disk.fail_next_sync(ErrorKind::Other);
    file.sync_data().unwrap_err();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [2], "the cache");
    disk.evict(path()).unwrap();
    file.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [1], "the media");
}

#[test]
fn of_the_syncs_under_way_on_one_handle_one_learns_of_the_error() {
    let (disk, file) = disk_with_file();
    disk.hang_syncs(Hang::Block);
    file.write_all_at(&[2; 512], 0).unwrap();
    let first = begin_sync(&disk, &file);
    file.write_all_at(&[3; 512], 512).unwrap();
    let second = begin_sync(&disk, &file);
    disk.fail_next_sync(Failure::EIO);
    // The second ends first: it takes the error of the first one's page, too.
    assert!(disk.release_sync(1));
    second.join().unwrap().unwrap_err();
    assert!(disk.release_sync(0));
    first.join().unwrap().unwrap(); // though its page was never written
    assert_eq!(durable(&disk), [1; 4]);
}

#[test]
fn with_a_handle_each_all_syncs_under_way_learn_of_the_error() {
    let (disk, file) = disk_with_file();
    let other: Arc<dyn DiskFile> = Arc::from(disk.open(path()).unwrap());
    disk.hang_syncs(Hang::Block);
    file.write_all_at(&[2; 512], 0).unwrap();
    let first = begin_sync(&disk, &file);
    other.write_all_at(&[3; 512], 512).unwrap();
    let second = begin_sync(&disk, &other);
    disk.fail_next_sync(Failure::EIO);
    assert!(disk.release_sync(1));
    second.join().unwrap().unwrap_err();
    assert!(disk.release_sync(0));
    first.join().unwrap().unwrap_err();
    assert_eq!(durable(&disk), [1; 4]);
}

#[test]
fn a_sync_makes_durable_what_was_written_before_it_began_and_no_more() {
    let (disk, file) = disk_with_file();
    file.write_all_at(&[2; 1024], 0).unwrap();
    disk.hang_syncs(Hang::Block);
    let sync = begin_sync(&disk, &file);
    file.write_all_at(&[3; 1024], 512).unwrap();
    file.write_all_at(&[3; 512], 2048).unwrap();
    assert_eq!(durable(&disk), [1; 4], "while it hangs");
    disk.release_all_syncs();
    sync.join().unwrap().unwrap();
    assert_eq!(durable(&disk), [2, 2, 1, 1]);
    let longer = (0..50).any(|seed| {
        let after = disk.fork();
        after.power_cut(seed);
        after.open(path()).unwrap().len().unwrap() == 2560
    });
    assert!(longer, "the new length may survive, too");
    file.sync_data().unwrap();
    assert_eq!(durable(&disk), [2, 3, 3, 1, 3]);
}

#[test]
fn a_hanging_sync_ends_with_its_process() {
    for power in [false, true] {
        let (disk, file) = disk_with_file();
        file.write_all_at(&[2; 2048], 0).unwrap();
        disk.hang_syncs(Hang::Block);
        let sync = begin_sync(&disk, &file);
        match power {
            false => disk.kill(),
            true => disk.power_cut(0),
        }
        sync.join().unwrap().unwrap_err();
        disk.open(path()).unwrap().sync_data().unwrap();
        assert_eq!(durable(&disk), [if power { 1 } else { 2 }; 4]);
    }
}

#[test]
fn a_crash_in_another_thread_ends_a_hanging_sync() {
    let (disk, file) = disk_with_file();
    disk.hang_syncs(Hang::Block);
    let sync = begin_sync(&disk, &file);
    disk.crash_before(0);
    file.write_at(b"x", 0).unwrap_err();
    sync.join().unwrap().unwrap_err();
}

#[test]
fn without_threads_a_hanging_sync_times_out_and_leaves_its_bytes_unsynced() {
    let (disk, file) = disk_with_file();
    file.write_all_at(&[2; 2048], 0).unwrap();
    disk.hang_syncs(Hang::TimedOut);
    for _ in 0..2 {
        assert_eq!(file.sync_data().unwrap_err().kind(), ErrorKind::TimedOut);
    }
    assert_eq!(durable(&disk), [1; 4]);
    assert_eq!(disk.unsynced_units(), 4);
    disk.release_all_syncs();
    file.sync_data().unwrap();
    assert_eq!(durable(&disk), [2; 4]);
}

#[test]
fn syncs_take_virtual_time() {
    let (disk, file) = disk_with_file();
    assert_eq!(disk.elapsed(), Duration::ZERO);
    disk.set_sync_time(Duration::from_millis(2));
    file.sync_data().unwrap();
    disk.slow_next_sync(Duration::from_secs(3600));
    file.sync_data().unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.elapsed(), Duration::from_millis(3_600_004));
}

#[test]
fn a_sync_that_ends_after_a_later_one_takes_nothing_back() {
    let (disk, file) = disk_with_file();
    disk.hang_syncs(Hang::Block);
    file.write_all_at(&[2; 1024], 2048).unwrap();
    let first = begin_sync(&disk, &file);
    file.write_all_at(&[3; 1024], 3072).unwrap();
    file.write_all_at(&[3; 512], 0).unwrap();
    let second = begin_sync(&disk, &file);
    assert!(disk.release_sync(1));
    second.join().unwrap().unwrap();
    let all = [3, 1, 1, 1, 2, 2, 3, 3];
    assert_eq!(durable(&disk), all);
    file.write_all_at(&[4; 512], 512).unwrap();
    assert!(disk.release_sync(0));
    first.join().unwrap().unwrap();
    assert_eq!(durable(&disk), all);
}

#[test]
fn a_sync_keeps_its_word_although_the_file_is_cut_while_it_hangs() {
    let (disk, file) = disk_with_file();
    file.write_all_at(&[2; 2048], 0).unwrap();
    disk.hang_syncs(Hang::Block);
    let sync = begin_sync(&disk, &file);
    file.set_len(512).unwrap();
    disk.release_all_syncs();
    sync.join().unwrap().unwrap();
    assert_eq!(durable(&disk), [2; 4], "the cut is lost");
    file.sync_data().unwrap();
    assert_eq!(durable(&disk), [2]);
}

#[test]
fn the_sync_of_a_directory_takes_time_too() {
    let disk = SimDisk::new();
    disk.set_sync_time(Duration::from_millis(2));
    disk.sync_dir(Path::new("/")).unwrap();
    disk.slow_next_sync(Duration::from_millis(30));
    disk.create_dir_all(Path::new("/a/b")).unwrap(); // two names, each synced
    assert_eq!(disk.elapsed(), Duration::from_millis(2 + 30 + 2));
}

#[test]
fn the_sync_of_a_directory_hangs_and_makes_durable_what_was_named_before_it_began() {
    let names = |disk: &SimDisk| {
        let after = disk.fork();
        after.power_cut(0);
        after.list(Path::new("/")).unwrap().join(" ")
    };
    for killed in [false, true] {
        let (disk, _file) = disk_with_file();
        disk.create(Path::new("/a")).unwrap();
        disk.hang_syncs(Hang::TimedOut);
        let timed_out = disk.sync_dir(Path::new("/")).unwrap_err();
        assert_eq!(timed_out.kind(), ErrorKind::TimedOut);
        disk.hang_syncs(Hang::Block);
        let other = disk.clone();
        let sync = thread::spawn(move || other.sync_dir(Path::new("/")));
        disk.wait_for_hanging_syncs(1);
        disk.rename(Path::new("/a"), Path::new("/b")).unwrap();
        assert_eq!(names(&disk), "file", "while it hangs");
        match killed {
            false => disk.release_all_syncs(),
            true => disk.kill(),
        }
        assert_eq!(sync.join().unwrap().is_ok(), !killed);
        assert_eq!(names(&disk), if killed { "file" } else { "a file" });
        disk.sync_dir(Path::new("/")).unwrap();
        assert_eq!(names(&disk), "b file");
    }
}
