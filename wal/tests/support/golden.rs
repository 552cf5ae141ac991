//! The golden files: logs as version 1 of the format wrote them. They are made once and never change; see `golden.rs` for
//! what is in them, and how they were made.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use duramen_disk::{Disk, OsDisk, SimDisk};
use duramen_wal::{DumpItem, Entry, Error, GroupId, HardState, Index, LogId, Options, Term, Wal};

use super::{DIR, files, options, write_file};

/// A log that was closed, and one as a process leaves it that is killed in a write.
pub(crate) const GOLDEN: [&str; 2] = ["closed", "killed"];

pub(crate) const SEGMENT_BYTES: u64 = 1 << 14;

/// Nothing is read from memory, and nothing that may be an entry is cut.
pub(crate) fn keeping() -> Options {
    let mut options = options(SEGMENT_BYTES);
    options.keep_suspects = true;
    options.recent_bytes_max = 0;
    options
}

pub(crate) fn golden_path(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1");
    dir.join(name)
}

/// Copies a golden log into a directory.
pub(crate) fn copy_golden(name: &str, disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(dir).unwrap();
    for (path, bytes) in files(&OsDisk::new(), &golden_path(name)) {
        write_file(disk, &dir.join(path.file_name().unwrap()), &bytes);
    }
}

pub(crate) fn golden_disk(name: &str) -> SimDisk {
    let disk = SimDisk::new();
    copy_golden(name, &disk, DIR.as_ref());
    disk
}

/// What reading an entry gives, if not the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bad {
    Damaged,
    Suspect,
    /// It is in a frame that cannot be named.
    NoDirectory,
}

/// What a group gives to a reader, with entries that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) purged: LogId,
    pub(crate) last: LogId,
    pub(crate) hard_state: HardState,
    pub(crate) user_record: Vec<u8>,
    pub(crate) entries: BTreeMap<Index, Read>,
}

/// A term; context and payload.
pub(crate) type Read = (Term, Result<(Vec<u8>, Vec<u8>), Bad>);

/// All that a log gives. What is bad must be named by its id and, if damaged, by a file of the log; any other error is given
/// back.
pub(crate) fn given(wal: &Wal) -> Result<BTreeMap<GroupId, Given>, Error> {
    let groups = wal.groups().into_iter();
    groups.map(|id| Ok((id, given_of(wal, id)?))).collect()
}

fn given_of(wal: &Wal, group: GroupId) -> Result<Given, Error> {
    let (purged, last) = (wal.purged(group), wal.last(group));
    let range = purged.index.next()..last.index.next();
    let mut entries = BTreeMap::new();
    if let Ok(all) = wal.entries(group, range.clone(), u64::MAX) {
        entries.extend(all.into_iter().map(|entry| (entry.id.index, read(entry))));
    } else {
        for index in (range.start.0..range.end.0).map(Index) {
            entries.insert(index, read_one(wal, group, index)?);
        }
    }
    assert_eq!(entries.len() as u64, last.index.0 - purged.index.0);
    Ok(Given {
        purged,
        last,
        hard_state: wal.hard_state(group),
        user_record: wal.user_record(group).to_vec(),
        entries,
    })
}

fn read(entry: Entry) -> Read {
    let context = entry.context.as_bytes().to_vec();
    (entry.id.term, Ok((context, entry.payload.to_vec())))
}

fn read_one(wal: &Wal, group: GroupId, index: Index) -> Result<Read, Error> {
    let (named, id, bad) = match wal.entries(group, index..index.next(), 0) {
        Ok(entries) => return Ok(read(entries[0].clone())),
        Err(Error::DamagedEntry {
            group, id, path, ..
        }) => {
            assert!(path.starts_with(wal.dir()), "{}", path.display());
            (group, id, Bad::Damaged)
        }
        Err(Error::Suspect { group, id }) => (group, id, Bad::Suspect),
        Err(Error::DamagedDirectory { path, .. }) => {
            assert!(path.starts_with(wal.dir()), "{}", path.display());
            let term = wal.term(group, index).unwrap();
            (group, LogId { term, index }, Bad::NoDirectory)
        }
        Err(other) => return Err(other),
    };
    assert_eq!((named, id.index), (group, index));
    assert_eq!(wal.term(group, index), Some(id.term));
    Ok((id.term, Err(bad)))
}

/// What a log gives, as text.
pub(crate) fn shown(given: &BTreeMap<GroupId, Given>) -> String {
    let mut text = String::new();
    for (id, group) in given {
        let HardState {
            term,
            voted_for,
            context,
        } = group.hard_state;
        let vote = voted_for.map_or("nobody".to_owned(), |node| node.to_string());
        let user = group.user_record.escape_ascii();
        let (purged, last) = (group.purged, group.last);
        writeln!(text, "group {id}: purged {purged}, last {last}, term {term}, voted for {vote} {context:?}, user \"{user}\"").unwrap();
        for (index, (term, read)) in &group.entries {
            let what = match read {
                Err(bad) => format!("{bad:?}"),
                Ok((context, payload)) => {
                    let (context, checksum) = (context.escape_ascii(), crc32fast::hash(payload));
                    let start = payload[..payload.len().min(12)].escape_ascii();
                    let len = payload.len();
                    format!("\"{context}\" {len} bytes {checksum:08x} \"{start}\"")
                }
            };
            writeln!(text, "  {term}.{index} {what}").unwrap();
        }
    }
    text
}

/// All that stands in a log, as text.
pub(crate) fn dumped(disk: &SimDisk) -> String {
    let mut text = String::new();
    let visit = |item| {
        writeln!(text, "{}", line(&item)).unwrap();
        true
    };
    Wal::dump_on(Arc::new(disk.clone()), DIR, visit).unwrap();
    text
}

fn line(item: &DumpItem) -> String {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    match item {
        DumpItem::Control {
            log_id,
            oldest,
            newest,
            mark,
        } => format!("control {log_id:032x} oldest {oldest} newest {newest} mark {mark}"),
        DumpItem::Segment {
            path,
            number,
            file_bytes,
            is_recycled,
            is_sealed,
        } => {
            let (recycled, sealed) = (yes(*is_recycled, " recycled"), yes(*is_sealed, " sealed"));
            format!(
                "segment {number} {} {file_bytes}{recycled}{sealed}",
                name(path)
            )
        }
        DumpItem::Frame {
            offset,
            bytes,
            sequence,
            epoch,
            mark,
            is_doubled,
        } => {
            let doubled = yes(*is_doubled, " doubled");
            format!(" frame {sequence} at {offset} {bytes} epoch {epoch:016x} mark {mark}{doubled}")
        }
        DumpItem::Record(record) => format!("  {record:?}"),
        DumpItem::Entry {
            id,
            offset,
            bytes,
            checksum,
            payload,
            is_whole,
        } => {
            let start = payload
                .as_ref()
                .filter(|_| *is_whole)
                .map(|payload| &payload[..payload.len().min(12)]);
            let start = start.map_or("none".to_owned(), |start| start.escape_ascii().to_string());
            format!("   {id} at {offset:?} {bytes} {checksum:08x} {start}")
        }
        DumpItem::End { offset, .. } => format!(" end {offset}"),
        DumpItem::Bad { path, error } => format!("bad {} {error}", name(path)),
        other => format!("{other:?}"),
    }
}

fn yes(is: bool, word: &str) -> &str {
    if is { word } else { "" }
}
