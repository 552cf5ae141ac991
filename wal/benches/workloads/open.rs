//! Opening a log: how long it takes and how much memory it needs, in a process of its own.
//!
//! The floor reads once what an open cannot do without: the bytes of the segment that is not sealed yet.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use duramen_wal::{GroupId, Index, Options, Wal};
use rustix::fs::statvfs;

use crate::harness::{Figure, Round, Row, Workload};
use crate::write::stream;

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        rows: &[
            Row::cost("W6", "s", "opening 1 GiB of 1 KiB entries"),
            Row::cost("W6mem", "MiB", "peak memory of the process meanwhile"),
            Row::cost("W6cold", "s", "opening it, nothing in the page cache"),
        ],
        is_large: false,
        prepare: one_gib,
    },
    Workload {
        rows: &[Row::cost(
            "W6tail",
            "s",
            "opening 60 MiB, most of it in a segment that is not sealed",
        )],
        is_large: false,
        prepare: tail_only,
    },
    Workload {
        rows: &[
            Row::cost("W6big", "s", "opening 10 GiB of 1 KiB entries"),
            Row::cost("W6bigmem", "MiB", "peak memory of the process meanwhile"),
            Row::cost(
                "W6grow",
                "s",
                "opening 10 GiB, the floor being the log's 1 GiB",
            ),
        ],
        is_large: true,
        prepare: ten_gib,
    },
];

fn one_gib(dir: &Path) -> Result<Round, String> {
    let log = Made::new(dir.join("1"), 1 << 30);
    Ok(Box::new(move || {
        let (floor, opened) = (log.read_tail(), log.open());
        let cold = |run: fn(&Made) -> Spent| match log.evict() {
            true => run(&log),
            false => Spent::UNKNOWN,
        };
        vec![
            seconds(floor, opened),
            peak(floor, opened),
            seconds(cold(Made::read_tail), cold(Made::open)),
        ]
    }))
}

fn tail_only(dir: &Path) -> Result<Round, String> {
    let log = Made::new(dir.join("tail"), 60 << 20);
    Ok(Box::new(move || vec![seconds(log.read_tail(), log.open())]))
}

/// Four where there is no room for ten, on the disk or in memory, and says so.
fn ten_gib(dir: &Path) -> Result<Round, String> {
    let has_room = |gib: u64| {
        let space = statvfs(dir).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
        space >= (gib + 4) << 30 && available_memory() >= (gib + 2) << 30
    };
    let gib = match (has_room(10), has_room(4)) {
        (true, _) => 10,
        (false, true) => {
            println!("W6big: 4 GiB, there is no room for 10 with the page cache");
            4
        }
        (false, false) => return Err("no room for 4 GiB with the page cache".to_owned()),
    };
    let small = Made::new(dir.join("1"), 1 << 30);
    let large = Made::new(dir.join("10"), gib << 30);
    Ok(Box::new(move || {
        let (floor, small) = (large.read_tail(), small.open());
        let opened = large.open();
        vec![
            seconds(floor, opened),
            peak(floor, opened),
            seconds(small, opened),
        ]
    }))
}

/// A log on disk, closed, with the part of its last segment that was written.
struct Made {
    dir: PathBuf,
    tail: PathBuf,
    tail_bytes: u64,
}

impl Made {
    fn new(dir: PathBuf, bytes: u64) -> Made {
        let wal = Wal::create(&dir, Options::default()).expect("a new log");
        stream(&wal, bytes);
        let last = wal.last(GroupId(1)).index;
        assert_eq!(last, Index(bytes >> 10), "entries that were not written");
        wal.close().expect("a close");
        let tail = files(&dir)
            .filter(|path| path.extension().is_some_and(|suffix| suffix == "wal"))
            .max()
            .expect("a log has a segment");
        let tail_bytes = written_bytes(&tail);
        println!(
            "         ({} MiB of entries, of which the last segment holds {})",
            bytes >> 20,
            tail_bytes >> 20
        );
        Made {
            dir,
            tail,
            tail_bytes,
        }
    }

    fn open(&self) -> Spent {
        spent(&["open".as_ref(), self.dir.as_ref()])
    }

    fn read_tail(&self) -> Spent {
        let bytes = self.tail_bytes.to_string();
        spent(&["tail".as_ref(), self.tail.as_ref(), bytes.as_ref()])
    }

    /// Takes the files out of the page cache; false where that cannot be asked for.
    fn evict(&self) -> bool {
        files(&self.dir).all(|path| {
            let file = File::open(&path).expect("a file of the log");
            file.sync_all().expect("a sync");
            forget(&file)
        })
    }
}

#[cfg(target_os = "linux")]
fn forget(file: &File) -> bool {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn forget(_: &File) -> bool {
    false
}

fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let found = std::fs::read_dir(dir).expect("a directory");
    found.map(|file| file.expect("a directory's entry").path())
}

const PIECE_BYTES: usize = 256 << 10;

/// Up to the last byte that is not zero: the segments of a log that never purged were none before.
fn written_bytes(path: &Path) -> u64 {
    let file = File::open(path).expect("a segment");
    let mut buf = vec![0; PIECE_BYTES];
    let (mut at, mut end) = (0, 0);
    loop {
        let len = file.read_at(&mut buf, at).expect("a read");
        if len == 0 {
            return end;
        }
        if let Some(last) = buf[..len].iter().rposition(|byte| *byte != 0) {
            end = at + last as u64 + 1;
        }
        at += len as u64;
    }
}

/// What a child took.
#[derive(Clone, Copy)]
struct Spent {
    seconds: f64,
    peak_mib: f64,
}

impl Spent {
    const UNKNOWN: Spent = Spent {
        seconds: f64::NAN,
        peak_mib: f64::NAN,
    };
}

fn seconds(floor: Spent, log: Spent) -> Figure {
    Figure {
        floor: floor.seconds,
        log: log.seconds,
    }
}

fn peak(floor: Spent, log: Spent) -> Figure {
    Figure {
        floor: floor.peak_mib,
        log: log.peak_mib,
    }
}

/// Runs this program once more: the peak of a process's memory never goes down.
fn spent(args: &[&std::ffi::OsStr]) -> Spent {
    let this = std::env::current_exe().expect("a running program");
    let mut command = Command::new(this);
    let output = command.arg(CHILD).args(args).output().expect("a child");
    assert!(output.status.success(), "a child failed: {output:?}");
    let text = String::from_utf8(output.stdout).expect("figures");
    let mut figures = text.split_whitespace().map(str::parse);
    let mut figure = || figures.next().and_then(Result::ok).expect("two figures");
    Spent {
        seconds: figure(),
        peak_mib: figure(),
    }
}

pub(crate) const CHILD: &str = "--child";

/// What a child does, and prints: seconds, and peak memory in MiB.
pub(crate) fn child(args: &[String]) {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let start = Instant::now();
    let wal = match args[..] {
        ["open", dir] => Some(Wal::open(dir, Options::default()).expect("a log")),
        ["tail", path, bytes] => {
            read_once(path.as_ref(), bytes.parse().expect("a length"));
            None
        }
        _ => panic!("a child that is to do {args:?}"),
    };
    let seconds = start.elapsed().as_secs_f64();
    let peak_mib = field("/proc/self/status", "VmHWM:") as f64 / 1024.0;
    println!("{seconds} {peak_mib}");
    if let Some(wal) = wal {
        assert!(wal.last(GroupId(1)).index > Index(0), "an empty log");
    }
}

fn read_once(path: &Path, bytes: u64) {
    let file = File::open(path).expect("a segment");
    let mut buf = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < bytes {
        let len = PIECE_BYTES.min((bytes - at) as usize);
        file.read_exact_at(&mut buf[..len], at).expect("a read");
        at += len as u64;
    }
}

fn available_memory() -> u64 {
    field("/proc/meminfo", "MemAvailable:") * 1024
}

/// A field in KiB of a file of /proc; 0 where there is none.
fn field(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}
