//! Bytes that reach the block device, for each byte of payload.
//!
//! Counted by the device itself: what a process is charged with counts whole folios of the page cache, and no metadata.
//! The device counts everybody's writes: what is dirty on the file system is written before each count, and a busy
//! neighbour still shows.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::floors::{floor_batches, prewritten};
use crate::harness::{Figure, Round, Row, Workload};
use crate::write::{warm, write_batches};

pub(crate) const WORKLOADS: &[Workload] = &[Workload {
    rows: &[
        Row::cost(
            "W8",
            "bytes/byte",
            "to the block device per payload byte, W2",
        ),
        Row::cost(
            "W8id",
            "bytes/byte",
            "the same, the floor having 28 bytes beside each entry",
        ),
    ],
    is_large: false,
    prepare,
}];

const ENTRY_BYTES: u64 = 256;
const ENTRIES: u64 = 64;
const BATCHES: u64 = 6000;
/// Group, index, term and a checksum, as a log keeps them for each entry in one form or another. Bare payloads end where a
/// page does, so that no page is written twice, and that is true of no log.
const ID_BYTES: u64 = 28;

fn prepare(dir: &Path) -> Result<Round, String> {
    let device = Device::of(dir)?;
    let dir = dir.to_owned();
    Ok(Box::new(move || {
        let in_new_dir = |run: &dyn Fn(&Path) -> u64| {
            let dir = tempfile::tempdir_in(&dir).expect("a directory for the files");
            run(dir.path()) as f64 / (ENTRY_BYTES * ENTRIES * BATCHES) as f64
        };
        let floor = |entry_bytes: u64| {
            in_new_dir(&|dir| {
                let file = prewritten(dir);
                device.written(|| {
                    floor_batches(&file, entry_bytes as usize, ENTRIES as usize, BATCHES);
                })
            })
        };
        let log = in_new_dir(&|dir| {
            let wal = warm(dir);
            device.written(|| {
                write_batches(&wal, ENTRY_BYTES as usize, ENTRIES, BATCHES);
                wal.close().expect("a close");
            })
        });
        [ENTRY_BYTES, ENTRY_BYTES + ID_BYTES]
            .map(|bytes| Figure {
                floor: floor(bytes),
                log,
            })
            .to_vec()
    }))
}

/// The block device that holds a directory.
struct Device {
    /// Of the directory: to sync its file system.
    dir: File,
    /// `/sys/dev/block/MAJOR:MINOR/stat`, of a partition if it is one.
    stat: PathBuf,
}

impl Device {
    fn of(dir: &Path) -> Result<Device, String> {
        let file = File::open(dir).map_err(|error| error.to_string())?;
        let number = file.metadata().map_err(|error| error.to_string())?.dev();
        let name = system::name(number)?;
        let device = Device {
            dir: file,
            stat: format!("/sys/dev/block/{name}/stat").into(),
        };
        match device.bytes() {
            Some(_) => Ok(device),
            None => Err(format!(
                "no counters in {}, for the device that holds the files",
                device.stat.display()
            )),
        }
    }

    /// The bytes that are written while `run` does, when all before is written and the log's threads have come to rest.
    fn written(&self, run: impl FnOnce()) -> u64 {
        std::thread::sleep(Duration::from_millis(500));
        system::sync_file_system(&self.dir);
        let before = self.bytes().expect("counters that were there");
        run();
        self.bytes().expect("counters that were there") - before
    }

    /// Written since the machine started: the seventh field is sectors of 512 bytes, whatever the device's are.
    fn bytes(&self) -> Option<u64> {
        let text = std::fs::read_to_string(&self.stat).ok()?;
        let sectors: u64 = text.split_whitespace().nth(6)?.parse().ok()?;
        Some(sectors * 512)
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::File;

    use rustix::fs::{major, minor, syncfs};

    /// As the files of /sys are named.
    pub(super) fn name(device: u64) -> Result<String, String> {
        Ok(format!("{}:{}", major(device), minor(device)))
    }

    pub(super) fn sync_file_system(dir: &File) {
        syncfs(dir).expect("a sync of the file system");
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::fs::File;

    pub(super) fn name(_: u64) -> Result<String, String> {
        Err("a device's counters are read on Linux alone".to_owned())
    }

    pub(super) fn sync_file_system(_: &File) {}
}
