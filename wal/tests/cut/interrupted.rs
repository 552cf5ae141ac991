//! Crashes and errors in the middle of it: the old log as it was, or the new one whole.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use duramen_disk::{DirLock, Disk, DiskFile, Failure, LockMode, SimDisk, every_crash, every_error};
use duramen_wal::{Error, GroupId, Index, Wal};

use super::support::*;
use super::{cut, is_clean, plan, small};

/// A small log with a damaged entry.
fn crashing() -> (SimDisk, Vec<Step>) {
    let steps = vec![
        vec![append(1, 1, 1, 1, 600), vote(1, 1, 1)],
        vec![append(1, 2, 3, 1, 600), append(2, 1, 1, 1, 10)],
    ];
    let disk = disk_with(&small(), &steps);
    let frame = frames(&read_file(&disk, &segment(1))).pop().unwrap();
    flip(&disk, &segment(1), frame.payload.start + 300);
    (disk, steps)
}

/// After any crash the old log is as it was or the new one is whole, and the same call again makes it so.
fn assert_old_or_new(disk: &SimDisk, old: &BTreeMap<PathBuf, Vec<u8>>, new: &State) -> bool {
    let is_new = is_clean(disk);
    match is_new {
        true => assert_stays(disk, new),
        false => {
            assert_eq!(files(disk, DIR.as_ref()), *old);
            cut(disk).unwrap();
            assert!(is_clean(disk));
            assert_eq!(state_of(&open(disk, &small()).unwrap()), *new);
        }
    }
    // The old one is there in any case.
    let names = disk.list(Path::new("/")).unwrap();
    let aside = names.iter().filter(|name| name.starts_with("log.aside-"));
    let mut aside = aside.map(|name| files(disk, &Path::new("/").join(name)));
    assert!(
        aside.any(|files| files.values().eq(old.values())),
        "{names:?}"
    );
    is_new
}

/// It is the new log that opens, and whoever goes on with it finds what was acknowledged after any further crash.
fn assert_stays(disk: &SimDisk, new: &State) {
    let added = GroupId(9);
    let go_on = |disk: &SimDisk| {
        let wal = open(disk, &small())?;
        assert_eq!(state_of(&wal), *new);
        wal.write(batch(&vec![append(added.0, 1, 1, 1, 10)]))
    };
    for crash in every_crash(disk, |disk| go_on(disk).is_ok()).units_max(4) {
        let wal = open(&crash.disk, &small());
        let is_there = wal.is_ok_and(|wal| wal.last(added).index == Index(1));
        assert!(is_there || !crash.outcome, "it was acknowledged");
    }
}

#[test]
fn every_crash_while_cutting() {
    let (disk, _) = crashing();
    let old = files(&disk, DIR.as_ref());
    let after = disk.fork();
    cut(&after).unwrap();
    let new = state_of(&open(&after, &small()).unwrap());
    assert_eq!(new[&GroupId(1)].entries.len(), 1);
    let (mut olds, mut news) = (0, 0);
    let crashes = every_crash(&disk, |disk| cut(disk).is_ok())
        .units_max(4)
        .seeds(2);
    for crash in crashes.torn_seeds(1) {
        let is_new = assert_old_or_new(&crash.disk, &old, &new);
        assert!(is_new || !crash.outcome, "it was said to be done");
        olds += u64::from(!is_new);
        news += u64::from(is_new);
    }
    println!(
        "{olds} crashes left the old log, {news} the new one\nproof: cut_crash_states {}",
        olds + news
    );
    assert!(olds > 50 && news > 0, "{olds} {news}");
}

#[test]
fn every_error_while_cutting() {
    let (disk, _) = crashing();
    let old = files(&disk, DIR.as_ref());
    let after = disk.fork();
    cut(&after).unwrap();
    let new = state_of(&open(&after, &small()).unwrap());
    let mut failed = 0;
    for error in every_error(&disk, Failure::EIO, |disk| cut(disk).map(drop)) {
        failed += u64::from(error.outcome.is_err());
        if error.outcome.is_ok() {
            // A read that fails is one more entry that cannot be read; it is in the old log, aside.
            assert!(is_clean(&error.disk));
            continue;
        }
        assert_old_or_new(&error.disk, &old, &new);
    }
    assert!(failed > 20, "{failed}");
}

#[test]
fn a_full_disk_leaves_the_old_log_and_its_space() {
    let (disk, _) = crashing();
    let old = files(&disk, DIR.as_ref());
    disk.set_free_bytes(Some(64 << 10));
    let error = error(cut(&disk));
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert_eq!(files(&disk, DIR.as_ref()), old);
    assert_eq!(
        disk.list(Path::new("/log.aside-1")).unwrap(),
        Vec::<String>::new()
    );
    disk.set_free_bytes(None);
    assert_eq!(cut(&disk).unwrap().aside, Path::new("/log.aside-1"));
    assert_eq!(plan(&disk).unwrap().aside, Path::new("/log.aside-2"));
}

/// Files as they are, and no two directories change places.
struct NoExchange(SimDisk);

impl Disk for NoExchange {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.open(path)
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.open_read(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn lock(&self, dir: &Path, mode: LockMode) -> io::Result<Box<dyn DirLock>> {
        self.0.lock(dir, mode)
    }
}

#[test]
fn where_directories_cannot_change_places_the_new_log_stands_complete_beside_the_old_one() {
    let (disk, _) = crashing();
    let old = files(&disk, DIR.as_ref());
    let error = error(Wal::cut_on(Arc::new(NoExchange(disk.clone())), DIR, |_| ()));
    let text = error.to_string();
    assert!(
        text.contains("the new log, which stands beside it"),
        "{text}"
    );
    assert_eq!(files(&disk, DIR.as_ref()), old);
    let beside: Arc<dyn Disk> = Arc::new(disk);
    let found = Wal::verify_on(beside, "/log.aside-1", |_| true).unwrap();
    assert!(!found.is_damaged());
    assert_eq!(found.scrub.entries, 2);
}
