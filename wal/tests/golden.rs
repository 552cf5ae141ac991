//! Logs that version 1 of the format wrote: they stay readable for ever. The files in `golden/v1` are made once; their
//! content is written down here, and what stands in them, frame by frame, in `closed.txt` and `killed.txt` beside them.
//!
//! How they were made is [`closed`] and [`killed`]: `DURAMEN_GOLDEN_OUT=<directory>` writes such logs there. Ids and epochs
//! are random, so they differ; a change of the format needs files of its own, beside these.

#![allow(clippy::unwrap_used)] // helpers of tests, too

mod support;

use std::path::Path;
use std::sync::Arc;

use duramen_disk::{Disk, OsDisk, SimDisk};
use duramen_wal::{Context, Entry, Error, GroupId, HardState, Index, Options, Term, Wal};
use support::golden::*;
use support::*;

const BUSY: u64 = 2;
const SUSPECT: u64 = 5;
const LARGEST: u64 = u64::MAX;

/// What lies in the first segment, which is freed: its entries are moved, one of them damaged.
fn beginning() -> Vec<Step> {
    let with_context = Entry {
        context: Context::new(b"thirty-one bytes beside the id.").unwrap(),
        ..entry(1, 9, "of the group with the largest id")
    };
    let lagging = HardState {
        term: Term(2),
        voted_for: None,
        context: Context::EMPTY,
    };
    vec![
        vec![append(1, 1, 3, 1, 30), vote(1, 1, 1)],
        vec![append(1, 4, 5, 2, 50), Change::Vote(1, lagging)],
        vec![Change::Append(LARGEST, vec![with_context])],
        vec![append(3, 1, 4, 1, 20), user(3, b"replaced")],
        vec![append(4, 1, 2, 1, 10), vote(4, 7, 7), user(4, b"gone")],
        vec![Change::Truncate(3, 2), append(3, 3, 3, 3, 25)],
        vec![purge(6, 1000, 7), vote(6, 8, 3)],
        vec![append(1, 6, 6, 2, 0), user(3, b"the user record")],
        vec![Change::Remove(4), append(3, 4, 4, 3, 9)],
    ]
}

/// What lies in the segments that are left.
fn ending() -> Vec<Step> {
    vec![
        vec![append(7, 1, 2, 1, 10), user(7, b"gone, too")],
        vec![Change::Remove(7), append(3, 5, 6, 3, 30)],
        vec![Change::Truncate(3, 5)],
        vec![append(3, 5, 5, 4, 10), user(3, b"another"), vote(3, 4, 3)],
        vec![purge(6, 2000, 9), append(9, 1, 3, 6, 30)],
    ]
}

/// Another group writes and purges, so that segments are filled, and needed for the others alone.
fn busy(from: u64, to: u64) -> Vec<Step> {
    let step = |i: u64| {
        let last = (i > 1).then(|| purge(BUSY, i - 1, (i - 1) / 4));
        let mut step = vec![append(BUSY, i, i, i / 4, 3900)];
        step.extend(last);
        step
    };
    (from..=to).map(step).collect()
}

/// Flips a bit of a payload.
fn spoil_payload(disk: &SimDisk, number: u64, payload: &[u8]) {
    let bytes = read_file(disk, &segment(number));
    let at = bytes.windows(payload.len()).rposition(|at| at == payload);
    flip(disk, &segment(number), at.unwrap());
}

/// The number of the segment that is written to.
fn last_with_frames(disk: &SimDisk) -> u64 {
    let numbers = files(disk, DIR.as_ref()).into_keys().filter_map(|path| {
        let number = path.file_name()?.to_str()?.strip_suffix(".wal")?;
        u64::from_str_radix(number, 16).ok()
    });
    let has_frames = |number: &u64| !frames(&read_file(disk, &segment(*number))).is_empty();
    numbers.filter(has_frames).max().unwrap()
}

/// Several segments: sealed, recycled, one prepared; entries that were moved, one without its payload; a suspect one; several
/// epochs.
fn closed() -> SimDisk {
    let disk = SimDisk::new();
    let wal = create(&disk, &keeping()).unwrap();
    write_all(&wal, &beginning());
    wal.close().unwrap();
    spoil_payload(&disk, 1, b"1/1.2 1/1.2 1/1.2 1/1.2 1/1.2 ");
    let wal = open(&disk, &keeping()).unwrap();
    write_all(
        &wal,
        &[
            vec![append(8, 1, 2, 1, 3500)],
            vec![append(8, 3, 4, 2, 3500)],
        ],
    );
    write_all(&wal, &busy(1, 16));
    write_all(
        &wal,
        &[vec![append(SUSPECT, 1, 2, 4, 40), vote(SUSPECT, 5, 2)]],
    );
    write_all(&wal, &[vec![append(SUSPECT, 3, 4, 5, 40)]]);
    disk.kill();
    spoil_payload(&disk, last_with_frames(&disk), b"5/5.4 5/5.4 ");
    let wal = open(&disk, &keeping()).unwrap();
    assert_eq!(wal.suspect(GroupId(SUSPECT)), Some(Index(4)));
    write_all(&wal, &ending());
    wal.close().unwrap();
    disk.kill();
    disk
}

/// One segment is full, and a write into the next one was torn: its directory did not reach the disk.
fn killed() -> SimDisk {
    let disk = SimDisk::new();
    let wal = create(&disk, &keeping()).unwrap();
    write_all(
        &wal,
        &[
            vec![append(1, 1, 3, 1, 30), vote(1, 1, 1), user(1, b"user")],
            vec![append(2, 1, 1, 1, 6000), vote(2, 1, 3)],
            vec![append(1, 4, 8, 1, 70), purge(1, 2, 1)],
            vec![append(1, 7, 8, 3, 70), vote(1, 3, 2)],
            vec![append(2, 2, 2, 2, 900)],
        ],
    );
    write_all(&wal, &[vec![append(1, 9, 12, 3, 700)]]);
    let killed = disk.fork();
    killed.kill();
    let last = segment(last_with_frames(&killed));
    let torn = frames(&read_file(&killed, &last)).pop().unwrap();
    let from = (torn.payload.start + 900).next_multiple_of(512);
    spoil(&killed, &last, from, |bytes| bytes.fill(0), torn.end - from);
    killed
}

const CLOSED: &str = r#"
group 1: purged 0.0, last 2.6, term 2, voted for nobody "", user ""
  1.1 "" 30 bytes 153d2332 "1/1.1 1/1.1 "
  1.2 Damaged
  1.3 "" 30 bytes 5bc4bf83 "1/1.3 1/1.3 "
  2.4 "" 50 bytes 4f4cc3b6 "1/2.4 1/2.4 "
  2.5 "" 50 bytes 54c89f43 "1/2.5 1/2.5 "
  2.6 "" 0 bytes 00000000 ""
group 2: purged 3.15, last 4.16, term 0, voted for nobody "", user ""
  4.16 "" 3900 bytes 1fba4efa "2/4.16 2/4.1"
group 3: purged 0.0, last 4.5, term 4, voted for 3 "\x03\x03\x03\x03\x03", user "another"
  1.1 "" 20 bytes aac72c81 "3/1.1 3/1.1 "
  1.2 "" 20 bytes 7a8d8c9e "3/1.2 3/1.2 "
  3.3 "" 25 bytes c92fccbc "3/3.3 3/3.3 "
  3.4 "" 9 bytes 0abcf000 "3/3.4 3/3"
  4.5 "" 10 bytes 800612c9 "3/4.5 3/4."
group 5: purged 0.0, last 5.4, term 5, voted for 2 "\x02\x02\x02\x02\x02", user ""
  4.1 "" 40 bytes 37b1db04 "5/4.1 5/4.1 "
  4.2 "" 40 bytes 546251f6 "5/4.2 5/4.2 "
  5.3 "" 40 bytes 756a9f57 "5/5.3 5/5.3 "
  5.4 Suspect
group 6: purged 9.2000, last 9.2000, term 8, voted for 3 "\x03\x03\x03\x03\x03", user ""
group 8: purged 0.0, last 2.4, term 0, voted for nobody "", user ""
  1.1 "" 3500 bytes f073ea88 "8/1.1 8/1.1 "
  1.2 "" 3500 bytes 7be770a9 "8/1.2 8/1.2 "
  2.3 "" 3500 bytes 2801e0a4 "8/2.3 8/2.3 "
  2.4 "" 3500 bytes 2bfaa687 "8/2.4 8/2.4 "
group 9: purged 0.0, last 6.3, term 0, voted for nobody "", user ""
  6.1 "" 30 bytes e16a4db4 "9/6.1 9/6.1 "
  6.2 "" 30 bytes 65579c7d "9/6.2 9/6.2 "
  6.3 "" 30 bytes af93d105 "9/6.3 9/6.3 "
group 18446744073709551615: purged 0.0, last 9.1, term 0, voted for nobody "", user ""
  9.1 "thirty-one bytes beside the id." 32 bytes ae63ba6f "of the group"
"#;

const KILLED: &str = r#"
group 1: purged 1.2, last 3.8, term 3, voted for 2 "\x02\x02\x02\x02\x02", user "user"
  1.3 "" 30 bytes 5bc4bf83 "1/1.3 1/1.3 "
  1.4 "" 70 bytes a1a2c833 "1/1.4 1/1.4 "
  1.5 "" 70 bytes 282b51b6 "1/1.5 1/1.5 "
  1.6 "" 70 bytes 69c0fd78 "1/1.6 1/1.6 "
  3.7 "" 70 bytes 97419cf0 "1/3.7 1/3.7 "
  3.8 "" 70 bytes 0a758547 "1/3.8 1/3.8 "
group 2: purged 0.0, last 2.2, term 1, voted for 3 "\x03\x03\x03\x03\x03", user ""
  1.1 "" 6000 bytes c8167773 "2/1.1 2/1.1 "
  2.2 "" 900 bytes 8cd15857 "2/2.2 2/2.2 "
"#;

fn content(name: &str) -> &'static str {
    let content = if name == "closed" { CLOSED } else { KILLED };
    content.trim_start()
}

/// Says what differs, and where.
fn assert_same(found: &str, expected: &str, what: &str) {
    let lines = found.lines().zip(expected.lines());
    for (at, (found, expected)) in lines.enumerate() {
        assert_eq!(found, expected, "line {} of {what}", at + 1);
    }
    let counts = [found, expected].map(|text| text.lines().count());
    assert_eq!(counts[0], counts[1], "lines of {what}");
}

/// What a log gives, its end cut off or not, when it is opened and again when that is opened.
fn gives(name: &str, disk: &Arc<dyn Disk>, dir: &Path, options: &Options) {
    for again in [false, true] {
        let wal = Wal::open_on(disk.clone(), dir, options.clone()).unwrap();
        let what = format!("{name}, {options:?}, again: {again}");
        assert_same(&shown(&given(&wal).unwrap()), content(name), &what);
        let report = wal.recovery();
        assert_eq!(report.damaged, []);
        match (name, again, &report.cut) {
            ("killed", false, Some(cut)) => {
                assert_eq!(cut.path, dir.join("0000000000000002.wal"));
                assert_eq!((cut.offset, cut.bytes), (9664, 1088));
                assert_eq!(cut.suspects, []);
            }
            (_, _, None) => {}
            _ => panic!("{report:?}"),
        }
        let suspects: &[_] = match name {
            "closed" => &[(GroupId(SUSPECT), entry(4, 5, "").id)],
            _ => &[],
        };
        assert_eq!(report.suspects, suspects);
    }
}

/// They are opened as they were written, by a log that would cut, and by one with the default sizes and its threads.
fn all_options() -> [Options; 3] {
    let mut cutting = keeping();
    cutting.keep_suspects = false;
    [keeping(), cutting, Options::default()]
}

#[test]
fn logs_of_version_1_give_what_was_written_on_real_files() {
    for name in GOLDEN {
        for options in all_options() {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path().join("log");
            copy_golden(name, &OsDisk::new(), &dir);
            gives(
                name,
                &(Arc::new(OsDisk::new()) as Arc<dyn Disk>),
                &dir,
                &options,
            );
        }
    }
}

#[test]
fn logs_of_version_1_give_what_was_written_on_a_simulated_disk() {
    for name in GOLDEN {
        for options in all_options() {
            let disk = golden_disk(name);
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            gives(name, &shared, DIR.as_ref(), &options);
        }
    }
}

/// And go on: what is written to them is there, what was suspect or lost can be put right.
#[test]
fn logs_of_version_1_go_on() {
    for name in GOLDEN {
        let disk = golden_disk(name);
        let wal = open(&disk, &keeping()).unwrap();
        write_all(&wal, &busy_after(&wal));
        if name == "closed" {
            let text = |text: &str, len| text.bytes().cycle().take(len).collect::<Vec<u8>>();
            wal.repair(GroupId(1), entry(2, 1, text("1/1.2 ", 30)))
                .unwrap();
            let suspect = entry(4, 5, text("5/5.4 ", 40));
            wal.repair(GroupId(SUSPECT), suspect).unwrap();
        }
        let before = shown(&given(&wal).unwrap());
        assert!(
            !before.contains("Damaged") && !before.contains("Suspect"),
            "{before}"
        );
        drop(wal);
        disk.power_cut(1);
        let wal = open(&disk, &keeping()).unwrap();
        assert_same(&shown(&given(&wal).unwrap()), &before, name);
        drop(wal);
        let found = Wal::verify_on(Arc::new(disk), DIR, |_| true).unwrap();
        assert!(!found.is_damaged() && !found.is_torn(), "{found:?}");
    }
}

/// More than two segments full.
fn busy_after(wal: &Wal) -> Vec<Step> {
    let group = GroupId(BUSY);
    let next = wal.last(group).index.0 + 1;
    let step = |index| vec![append(BUSY, index, index, 7, 3900)];
    (next..next + 8).map(step).collect()
}

/// What stands in them, frame by frame.
#[test]
fn a_dump_of_a_log_of_version_1_shows_what_it_always_showed() {
    for name in GOLDEN {
        let expected = read_file(&OsDisk::new(), &golden_path(&format!("{name}.txt")));
        let found = dumped(&golden_disk(name));
        assert_same(&found, std::str::from_utf8(&expected).unwrap(), name);
    }
}

/// Of `closed`: what `verify` says of a log with one lost and one suspect entry.
#[test]
fn verifying_a_log_of_version_1_names_what_is_lost_and_what_is_suspect() {
    let disk = golden_disk("closed");
    let before = files(&disk, DIR.as_ref());
    let found = Wal::verify_on(Arc::new(disk.clone()), DIR, |_| true).unwrap();
    let damaged = found.scrub.damaged.iter().map(|damaged| {
        let id = damaged.entry.id;
        (damaged.entry.group.0, id.term.0, id.index.0)
    });
    assert_eq!(damaged.collect::<Vec<_>>(), [(1, 1, 2), (5, 5, 4)]);
    assert_eq!((found.groups, found.scrub.segments), (8, 4));
    assert!(found.bad_copies.is_empty() && found.missing.is_empty());
    assert_eq!(files(&disk, DIR.as_ref()), before);
}

/// Row 40: written by a later program, each checksum right.
#[test]
fn a_newer_version_is_refused_with_both_numbers_and_left_as_it_is() {
    let mut tried = 0;
    for name in GOLDEN {
        for (path, bytes) in files(&golden_disk(name), DIR.as_ref()) {
            let headers = if path == control() {
                &[0, 4096][..]
            } else {
                &[0]
            };
            for &at in headers {
                let mut newer = bytes.clone();
                newer[at + 8..at + 12].copy_from_slice(&2_u32.to_le_bytes());
                let covered = [&newer[at..at + 12], &newer[at + 16..at + 64]].concat();
                let checksum = crc32fast::hash(&covered);
                newer[at + 12..at + 16].copy_from_slice(&checksum.to_le_bytes());
                let disk = golden_disk(name);
                write_file(&disk, &path, &newer);
                let before = files(&disk, DIR.as_ref());
                for _ in 0..2 {
                    let error = error(open(&disk, &keeping()));
                    let text = error.to_string();
                    match error {
                        Error::Version {
                            path: named,
                            found: 2,
                            expected: 1,
                        } => assert_eq!(named, path),
                        other => panic!("{other}"),
                    }
                    assert!(text.contains("version 2") && text.contains("version 1"));
                }
                assert_eq!(files(&disk, DIR.as_ref()), before);
                tried += 1;
            }
        }
    }
    assert_eq!(tried, (2 + 5) + (2 + 2));
}

/// Logs that are made in the same way today hold the same. With `DURAMEN_GOLDEN_OUT` they are kept there.
#[test]
fn logs_made_as_those_of_version_1_were_hold_the_same() {
    for (name, disk) in GOLDEN.into_iter().zip([closed(), killed()]) {
        if let Some(out) = std::env::var_os("DURAMEN_GOLDEN_OUT") {
            let (disk_out, dir) = (OsDisk::new(), Path::new(&out).join(name));
            disk_out.create_dir_all(&dir).unwrap();
            for (path, bytes) in files(&disk, DIR.as_ref()) {
                write_file(&disk_out, &dir.join(path.file_name().unwrap()), &bytes);
            }
            let text = dir.with_extension("txt");
            write_file(&disk_out, &text, dumped(&disk).as_bytes());
        }
        let wal = open(&disk, &keeping()).unwrap();
        assert_same(&shown(&given(&wal).unwrap()), content(name), name);
    }
}
