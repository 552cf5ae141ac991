//! What happens while a call waits for the disk.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use duramen_disk::{DirLock, Disk, DiskFile, Failure, LockMode, Map, SimDisk};
use duramen_snapshot::{Error, SnapshotStore};
use support::*;

type Hook = Box<dyn FnOnce() + Send>;

/// Runs something once in the middle of a call.
#[derive(Clone, Default)]
struct Hooks {
    before_write: Arc<Mutex<Option<Hook>>>,
    after_sync: Arc<Mutex<Option<Hook>>>,
}

fn run(hook: &Mutex<Option<Hook>>) {
    let hook = hook.lock().unwrap().take();
    hook.into_iter().for_each(|hook| hook());
}

struct HookedDisk(SimDisk, Hooks);

struct HookedFile(Box<dyn DiskFile>, Hooks);

impl HookedDisk {
    fn file(&self, file: io::Result<Box<dyn DiskFile>>) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(HookedFile(file?, self.1.clone())))
    }
}

impl Disk for HookedDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(self.0.create(path))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(self.0.open(path))
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(self.0.open_read(path))
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

impl DiskFile for HookedFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        run(&self.1.before_write);
        self.0.write_at(buf, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.punch_hole(offset, len)
    }
    fn map(&self) -> io::Result<Map> {
        self.0.map()
    }
    fn sync_data(&self) -> io::Result<()> {
        let synced = self.0.sync_data();
        run(&self.1.after_sync);
        synced
    }
}

fn hooked(chunk_bytes: u32) -> (SimDisk, Hooks, SnapshotStore) {
    let (disk, hooks) = (SimDisk::new(), Hooks::default());
    let hooked_disk = Arc::new(HookedDisk(disk.clone(), hooks.clone()));
    let mut options = options();
    options.chunk_bytes = chunk_bytes;
    let store = SnapshotStore::open_on(hooked_disk, DIR, options).unwrap();
    (disk, hooks, store)
}

/// Two installs get the same chunk at the same time, and a snapshot relies on the copy of the first.
#[test]
fn a_copy_that_is_not_durable_does_not_replace_one_that_a_snapshot_relies_on() {
    let state = b"one chunk".to_vec();
    let mut states: States = [10, 20, 30].map(|index| (index, state.clone())).into();
    let peer = peer(&states);
    states.insert(40, b"another".to_vec());
    let (disk, hooks, store) = hooked(256);
    let mut first = store.begin_install(manifest(&peer, 10)).unwrap();
    let mut second = store.begin_install(manifest(&peer, 20)).unwrap();
    let name = first.missing()[0];
    let meanwhile = store.clone();
    *hooks.before_write.lock().unwrap() = Some(Box::new(move || {
        assert!(first.put(name, b"one chunk").unwrap());
        let published = write(&meanwhile, 30, b"one chunk").unwrap();
        assert_eq!(published.counts.bytes_written, 0);
    }));
    second.put(name, &state).unwrap();
    // The first install is given up.
    drop(store.begin_install(manifest(&peer, 30)).unwrap());
    drop((second, store));
    for is_opened_before in [false, true] {
        let disk = disk.fork();
        if is_opened_before {
            disk.kill();
            let store = open(&disk).unwrap(); // It finds both copies.
            write(&store, 40, b"another").unwrap(); // What was removed stays so.
        }
        disk.power_cut_keeping(|_| false);
        let store = open(&disk).unwrap();
        assert!(indexes(&store).starts_with(&[30]));
        all_read_back(&store, &states);
    }
}

/// A failed sync is told once: whoever relies on the same bytes must hear of it.
#[test]
fn no_snapshot_is_published_on_bytes_whose_sync_just_failed() {
    let states = States::from([(10, noise(1, 40 << 20))]);
    let mut long = options();
    long.chunk_bytes = 1 << 20;
    let peer = SnapshotStore::open_on(Arc::new(SimDisk::new()), DIR, long).unwrap();
    write(&peer, 10, &states[&10]).unwrap();
    let (disk, hooks, store) = hooked(1 << 20);
    let all = manifest(&peer, 10);
    let mut install = store.begin_install(all.clone()).unwrap();
    let shared = all.chunks()[0];
    install
        .put(shared.name, &peer.read_chunk(shared.name).unwrap())
        .unwrap();
    let writer = begin(&store, 30, &states[&10][..shared.bytes as usize]).unwrap();
    let (done, published) = mpsc::channel();
    *hooks.after_sync.lock().unwrap() = Some(Box::new(move || {
        std::thread::spawn(move || {
            done.send(writer.publish()).unwrap();
        });
        // Time enough to be told Ok by a sync of the same bytes, if nothing holds it up. It cannot be seen that something does.
        std::thread::sleep(Duration::from_millis(300));
    }));
    disk.fail_next_sync(Failure::EIO);
    let names = install.missing();
    let mut put = names
        .into_iter()
        .map(|name| install.put(name, &peer.read_chunk(name).unwrap()));
    assert!(put.any(|put| matches!(put, Err(Error::Io { .. }))));
    let published = published.recv().unwrap();
    assert!(
        matches!(published, Err(Error::Poisoned { .. })),
        "{published:?}"
    );
}
