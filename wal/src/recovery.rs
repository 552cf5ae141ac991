//! Reading a log back after a crash.
//!
//! Frames are numbered, and each says up to which number all were durable when it was written: the *mark*. CONTROL says so
//! too. The highest mark that is found anywhere divides the log: what is at or below it was acknowledged, what is above
//! belongs to the last write, which may or may not have been.
//!
//! What is seen of a frame, what it means, what is done:
//!
//! | directory | payloads | header | at or below the mark | above it |
//! |---|---|---|---|---|
//! | whole, one of its copies | whole | whole | kept | kept, and written again |
//! | whole, one of its copies | whole | bad | kept | kept, and written again with its header |
//! | whole, one of its copies | bad | any | **damage** of entries that have names: kept, reported; reading them is `Damaged` | **suspect**: torn or rotten; cut with all after it, reported |
//! | bad | any | whole | **damage**: `DamagedDirectory`, nothing changed | **torn**: cut with all after it, reported |
//! | bad | any | bad | **damage**: `DamagedDirectory`, nothing changed | **torn** if there is anything but zeros (in a recycled segment: any header or directory of this log), else the end |
//!
//! Segments before the last are all at or below the mark: a segment is begun only when all before it is durable. Their
//! frames are not looked at if they have a seal.
//!
//! Then the answer is made durable before it is given. Whoever wrote the last frames may have been killed between the write
//! and its sync, and the kernel may even have failed that sync and marked the pages clean, so that one more sync would do
//! nothing: the kept frames above the mark are written again in place. Then a frame begins a new epoch, where the cut was
//! made; frames of the old epoch that still stand behind it do not follow it, and are dead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use duramen_disk::{Disk, DiskFile};

use crate::canary::planted;
use crate::control::{CONTROL_FILE, Control, Slot};
use crate::error::{Damage, Error, Result};
use crate::format::{
    CONTROL_SLOT_BYTES, CONTROL_SLOT_OFFSETS, FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES,
};
use crate::frame::{Directory, Link};
use crate::groups::{Groups, Source, Sources};
use crate::record::{self, Record};
use crate::scan::{BadEntry, Frame, Rest, Scan};
use crate::segment::{self, Name, Segment, Spare, segment_name, segment_path, spare_path};
use crate::states::States;
use crate::writer::Writer;

/// What `open` found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// How many segments the log has.
    pub segments: u64,
    /// How many frames were read back: writes, of one or more batches each.
    pub frames: u64,
    /// The unfinished write that was cut off, if there was one.
    pub cut: Option<Cut>,
    /// Entries that were durable and whose payload is damaged. They are still there: reading one is
    /// [`Error::Damaged`]. Only entries of segments without a seal are looked at by `open`.
    pub damaged: Vec<DamagedEntry>,
}

/// What was cut off at the end of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// The segment it was in.
    pub path: PathBuf,
    /// Where it began, in bytes.
    pub offset: u64,
    /// How many bytes of it there were.
    pub bytes: u64,
    /// The entries that looked whole but for their payloads. If the write was acknowledged, which cannot be known any more,
    /// they are damaged; otherwise they are torn, like the rest.
    pub suspects: Vec<BadEntry>,
}

/// An entry that was durable and whose payload is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamagedEntry {
    /// The segment it is in.
    pub path: PathBuf,
    /// Which entry, and where in the segment its payload is.
    pub entry: BadEntry,
}

/// A log as it was read back.
pub(crate) struct Recovered {
    pub(crate) writer: Writer,
    pub(crate) groups: Groups,
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    pub(crate) report: RecoveryReport,
    /// A file that can become the next segment.
    pub(crate) spare: Option<Spare>,
    names: Names,
}

impl Recovered {
    /// Writes what makes the answer durable: the frame that begins the epoch, and CONTROL. Then removes what a killed
    /// process left: the CONTROL that says which segments were freed may have been read from the cache alone.
    pub(crate) fn resume(&mut self, epoch: u64, segment_bytes: u64) -> Result<()> {
        let Recovered {
            writer, segments, ..
        } = self;
        let (disk, dir) = (writer.disk.clone(), writer.dir.clone());
        let file_bytes = segment::segment_bytes(segment_bytes, 0);
        let mut spare = self.names.adopt_spare(&*disk, &dir, file_bytes)?;
        let number = spare.as_ref().map_or(0, Spare::number) + 1;
        writer.resume(epoch, |wanted| {
            let file_bytes = segment::segment_bytes(segment_bytes, wanted);
            match spare.take_if(|spare| spare.file_bytes() >= file_bytes) {
                Some(spare) => Ok(spare),
                None => Spare::create(&*disk, &dir, number, file_bytes, None),
            }
        })?;
        self.spare = spare;
        segments.insert(writer.segment.header.number, writer.segment.clone());
        self.report.segments = segments.len() as u64;
        writer.write_control()?;
        self.names
            .remove_freed(&*disk, &dir, writer.control.oldest)?;
        disk.sync_dir(&dir).map_err(Error::io("sync", &dir))
    }
}

/// Reads the log in `dir`, which the caller has locked. It is to be resumed before it is used.
pub(crate) fn recover(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Recovered> {
    let names = Names::list(&**disk, dir)?;
    let (control_file, control) = open_control(&**disk, dir)?;
    let numbers = names.check(dir, &control)?;
    let mut replay = Replay::new(control.oldest);
    let mut segments = BTreeMap::new();
    let mut tail = None;
    for number in numbers.clone() {
        let segment = Segment::open(&**disk, dir, number)?;
        replay.begin(&segment, control.log_id)?;
        if number == *numbers.end() {
            tail = Some(replay.tail(&segment, control.mark)?);
        } else if !replay.sealed(&segment)? {
            replay.unsealed(&**disk, dir, &segment)?;
        }
        segments.insert(number, Arc::new(segment));
    }
    if let Some(group) = replay.groups.with_gone_entries() {
        tracing::error!(%group, "entries of a freed segment are needed");
        let path = segment_path(dir, control.oldest.saturating_sub(1));
        return Err(Error::MissingSegment { path });
    }
    let tail = tail.expect("check found at least one segment");
    let segment = segments[numbers.end()].clone();
    // The slot may have been read from the cache alone, after a sync that failed: then only the other one is durable, and
    // that is the next to be overwritten.
    if !planted("control_not_again") {
        control.write(&*control_file, dir)?;
    }
    tail.make_durable(&segment)?;
    disk.sync_dir(dir).map_err(Error::io("sync", dir))?;

    let states = States::of(&replay.groups);
    let writer = Writer {
        disk: disk.clone(),
        dir: dir.to_owned(),
        segment,
        end: tail.end,
        seal: tail.seal,
        link: replay.link,
        states,
        control: Control {
            mark: tail.mark,
            newest: *numbers.end(),
            ..control
        },
        control_file,
        buffer: Vec::new(),
        records: Vec::new(),
    };
    Ok(Recovered {
        writer,
        groups: replay.groups,
        segments,
        report: replay.report,
        spare: None,
        names,
    })
}

/// The names in a log's directory.
pub(crate) struct Names {
    pub(crate) segments: Vec<u64>,
    pub(crate) has_control: bool,
    spares: Vec<u64>,
    temporary: Vec<String>,
    foreign: Option<String>,
}

impl Names {
    pub(crate) fn list(disk: &dyn Disk, dir: &Path) -> Result<Names> {
        let mut names = Names {
            segments: Vec::new(),
            has_control: false,
            spares: Vec::new(),
            temporary: Vec::new(),
            foreign: None,
        };
        for name in disk.list(dir).map_err(Error::io("list", dir))? {
            match Name::parse(&name) {
                Name::Segment(number) => names.segments.push(number),
                Name::Control => names.has_control = true,
                Name::Spare(number) => names.spares.push(number),
                Name::Temporary => names.temporary.push(name),
                Name::Lock => {}
                Name::Foreign => names.foreign = Some(name),
            }
        }
        names.segments.sort_unstable();
        Ok(names)
    }

    /// Removes what a `create` left that was killed on its way, unless something else is there too, which is then named.
    pub(crate) fn remove_unfinished(self, disk: &dyn Disk, dir: &Path) -> Result<Option<String>> {
        if self.foreign.is_some() {
            return Ok(self.foreign);
        }
        if let Some(number) = self.segments.first() {
            return Ok(Some(segment_name(*number)));
        }
        let left = self.temporary.iter().map(|name| dir.join(name));
        let spares = self.spares.iter().map(|number| spare_path(dir, *number));
        left.chain(spares).try_for_each(|path| remove(disk, path))?;
        Ok(None)
    }

    /// The segments that make up the log. Those before the oldest were freed, by a process that was killed before it had
    /// removed them.
    fn check(&self, dir: &Path, control: &Control) -> Result<std::ops::RangeInclusive<u64>> {
        if let Some(foreign) = &self.foreign {
            return Err(Error::Foreign {
                path: dir.join(foreign),
            });
        }
        let newest = self
            .segments
            .last()
            .copied()
            .unwrap_or(0)
            .max(control.newest);
        if newest == 0 {
            return Err(Error::NotALog {
                path: dir.to_owned(),
            });
        }
        let mut expected = control.oldest..=newest;
        match expected.find(|number| self.segments.binary_search(number).is_err()) {
            Some(missing) => Err(Error::MissingSegment {
                path: segment_path(dir, missing),
            }),
            None => Ok(control.oldest..=newest),
        }
    }

    /// Removes files that did not become segments, but for one spare that can.
    fn adopt_spare(&self, disk: &dyn Disk, dir: &Path, file_bytes: u64) -> Result<Option<Spare>> {
        self.temporary
            .iter()
            .try_for_each(|name| remove(disk, dir.join(name)))?;
        let mut adopted = None;
        for &number in &self.spares {
            if adopted.is_none() {
                adopted = Spare::adopt(disk, dir, number, file_bytes)?;
            }
            if adopted.as_ref().map(Spare::number) != Some(number) {
                remove(disk, spare_path(dir, number))?;
            }
        }
        Ok(adopted)
    }

    /// Removes segments that were freed.
    fn remove_freed(&self, disk: &dyn Disk, dir: &Path, oldest: u64) -> Result<()> {
        let freed = self.segments.iter().filter(|number| **number < oldest);
        freed
            .map(|number| segment_path(dir, *number))
            .try_for_each(|path| remove(disk, path))
    }
}

fn remove(disk: &dyn Disk, path: PathBuf) -> Result<()> {
    disk.remove(&path).map_err(Error::io("remove", &path))
}

/// Whether CONTROL, which is there, knows of a segment. `create` writes it before it makes the first one.
pub(crate) fn was_a_log(disk: &dyn Disk, dir: &Path) -> Result<bool> {
    Ok(open_control(disk, dir)?.1.newest > 0)
}

fn open_control(disk: &dyn Disk, dir: &Path) -> Result<(Box<dyn DiskFile>, Control)> {
    let path = dir.join(CONTROL_FILE);
    let file = disk.open(&path).map_err(Error::io("open", &path))?;
    let len = file.len().map_err(Error::io("look at", &path))?;
    let mut best: Option<Control> = None;
    for offset in CONTROL_SLOT_OFFSETS {
        if len < offset + CONTROL_SLOT_BYTES as u64 {
            return Err(Error::damaged(&path, len, Damage::Short));
        }
        let mut buf = [0; CONTROL_SLOT_BYTES];
        file.read_exact_at(&mut buf, offset)
            .map_err(Error::io("read", &path))?;
        match Control::decode(&buf) {
            Slot::Control(control)
                if best.is_none_or(|best| best.generation < control.generation) =>
            {
                best = Some(control);
            }
            Slot::Control(_) | Slot::Bad => {}
            Slot::Version(found) => return Err(Error::version(&path, found)),
        }
    }
    let control = best.ok_or_else(|| Error::damaged(&path, 0, Damage::Checksum))?;
    Ok((file, control))
}

/// The log so far.
struct Replay {
    groups: Groups,
    link: Link,
    oldest: u64,
    report: RecoveryReport,
}

/// The end of the last segment.
struct Tail {
    seal: Vec<u8>,
    end: u64,
    /// All frames up to this one were known to be durable.
    mark: u64,
    /// The kept frames above the mark: where they start, and their bytes.
    unmarked: Option<(u64, Vec<u8>)>,
    /// What is cut off: where it ends.
    cut_end: u64,
}

impl Replay {
    fn new(oldest: u64) -> Replay {
        Replay {
            groups: Groups::default(),
            link: Link::FIRST,
            oldest,
            report: RecoveryReport::default(),
        }
    }

    /// Checks that a segment is the next one.
    fn begin(&mut self, segment: &Segment, log_id: u128) -> Result<()> {
        let header = &segment.header;
        if header.log_id != log_id {
            return Err(Error::damaged(&segment.path, 0, Damage::Stranger));
        }
        if header.number == self.oldest && header.number > 1 {
            self.link = Link {
                sequence: header.first_sequence,
                predecessor: header.predecessor,
                epoch: Link::ANY_EPOCH,
            };
        }
        if (header.first_sequence, header.predecessor)
            != (self.link.sequence, self.link.predecessor)
        {
            return Err(Error::damaged(&segment.path, 0, Damage::Order));
        }
        Ok(())
    }

    /// Takes in a segment by its seal. Says whether it has one.
    fn sealed(&mut self, segment: &Segment) -> Result<bool> {
        let Some((directories, end)) = segment.read_seal()? else {
            return Ok(false);
        };
        for directory in directories {
            if directory.head.sequence != self.link.sequence
                || directory.predecessor != self.link.predecessor
            {
                return Err(Error::damaged(
                    &segment.path,
                    directory.frame_offset,
                    Damage::Order,
                ));
            }
            let records = record::decode(&directory.records);
            let records = records
                .map_err(|reason| Error::damaged(&segment.path, directory.frame_offset, reason))?;
            self.take(segment, &directory, records)?;
        }
        if self.link != end {
            return Err(Error::damaged(&segment.path, 0, Damage::Order));
        }
        Ok(true)
    }

    /// Takes in a segment that has a successor and no seal: the process was killed before it wrote one, or the seal is
    /// damaged. Its frames end where the successor's begin. The seal is written now.
    fn unsealed(&mut self, disk: &dyn Disk, dir: &Path, segment: &Segment) -> Result<()> {
        let next = Segment::open(disk, dir, segment.header.number + 1)?.header;
        let mut scan = Scan::new(segment)?;
        let (mut offset, mut seal) = (SEGMENT_HEADER_BYTES as u64, Vec::new());
        while self.link.sequence < next.first_sequence {
            let Ok(frame) = scan.frame(offset, self.link)? else {
                return Err(Error::DamagedDirectory {
                    path: segment.path.clone(),
                    offset,
                    sequence: self.link.sequence,
                });
            };
            offset = frame.directory.frame_end();
            seal.extend_from_slice(&frame.directory.encode_first(segment.home()));
            self.keep(segment, frame)?;
        }
        match offset <= segment.frames_limit(seal.len() as u64) {
            true => segment.seal(&seal, offset, self.link),
            false => Err(Error::damaged(&segment.path, offset, Damage::Content)),
        }
    }

    /// Takes in the last segment, as far as it goes.
    fn tail(&mut self, segment: &Segment, control_mark: u64) -> Result<Tail> {
        let mut scan = Scan::new(segment)?;
        let mut frames: Vec<Frame> = Vec::new();
        let (mut end, mut link) = (SEGMENT_HEADER_BYTES as u64, self.link);
        let rest = loop {
            match scan.frame(end, link)? {
                Ok(frame) => {
                    end = frame.directory.frame_end();
                    link = frame.directory.link_after();
                    frames.push(frame);
                }
                Err(rest) => break rest,
            }
        };
        let marks = frames.iter().map(|frame| frame.directory.head.mark);
        let before = segment.header.first_sequence - 1; // All before a segment is durable when it is made.
        let mark = marks
            .chain([control_mark, rest.mark, before])
            .max()
            .unwrap_or(0);
        if mark >= link.sequence && !planted("damage_cut") {
            return Err(Error::DamagedDirectory {
                path: segment.path.clone(),
                offset: end,
                sequence: link.sequence,
            });
        }
        let is_suspect =
            |frame: &Frame| frame.directory.head.sequence > mark && !frame.bad_entries.is_empty();
        let kept = frames.iter().position(is_suspect).unwrap_or(frames.len());
        let suspects = frames.drain(kept..).next();
        let mut tail = Tail {
            seal: Vec::new(),
            end: SEGMENT_HEADER_BYTES as u64,
            mark,
            unmarked: None,
            cut_end: 0,
        };
        for frame in frames {
            tail.keep(segment, &frame)?;
            self.keep(segment, frame)?;
        }
        if tail.end > segment.frames_limit(tail.seal.len() as u64) {
            return Err(Error::damaged(&segment.path, tail.end, Damage::Content));
        }
        self.report.cut = cut(segment, tail.end, suspects, &rest);
        tail.cut_end = self
            .report
            .cut
            .as_ref()
            .map_or(0, |cut| cut.offset + cut.bytes);
        Ok(tail)
    }

    /// Takes in a frame, and reports what is damaged in it.
    fn keep(&mut self, segment: &Segment, frame: Frame) -> Result<()> {
        let damaged = frame.bad_entries.into_iter().map(|entry| DamagedEntry {
            path: segment.path.clone(),
            entry,
        });
        self.report.damaged.extend(damaged);
        self.take(segment, &frame.directory, frame.records)
    }

    fn take(
        &mut self,
        segment: &Segment,
        directory: &Directory,
        mut records: Vec<Record>,
    ) -> Result<()> {
        let damaged = || Error::damaged(&segment.path, directory.frame_offset, Damage::Content);
        let first = directory.frame_offset == SEGMENT_HEADER_BYTES as u64;
        if first && segment.header.number != self.oldest {
            // It repeats the state of every group, which is known from the segments before.
            let states = States::of(&self.groups);
            if !records.iter().all(|record| states.agrees(record)) {
                return Err(damaged());
            }
            records.clear();
        }
        let mut sources = Sources(Source::Written {
            segment: segment.header.number,
            offset: directory.payload_offset(),
        });
        for record in &mut records {
            let taken = self.groups.take_in(record, &mut sources);
            taken.map_err(|_| damaged())?;
        }
        self.link = directory.link_after();
        self.report.frames += 1;
        Ok(())
    }
}

fn cut(segment: &Segment, end: u64, suspects: Option<Frame>, rest: &Rest) -> Option<Cut> {
    let suspect_end = suspects
        .as_ref()
        .map_or(0, |frame| frame.directory.frame_end());
    let until = rest.written_end.max(suspect_end);
    (until > end).then(|| Cut {
        path: segment.path.clone(),
        offset: end,
        bytes: until - end,
        suspects: suspects.map_or(Vec::new(), |frame| frame.bad_entries),
    })
}

impl Tail {
    fn keep(&mut self, segment: &Segment, frame: &Frame) -> Result<()> {
        let Directory {
            head, frame_offset, ..
        } = frame.directory;
        self.seal
            .extend_from_slice(&frame.directory.encode_first(segment.home()));
        self.end = frame.directory.frame_end();
        if head.sequence <= self.mark {
            return Ok(());
        }
        let (_, unmarked) = self.unmarked.get_or_insert((frame_offset, Vec::new()));
        let start = unmarked.len();
        let len = self.end - frame_offset;
        unmarked.resize(start + len as usize, 0); // The frame was read already: its length is real.
        let read = segment
            .file
            .read_exact_at(&mut unmarked[start..], frame_offset);
        read.map_err(Error::io("read", &segment.path))?;
        if frame.header_is_bad {
            let header = head.encode_frame_header(segment.home(), frame_offset);
            unmarked[start..start + FRAME_HEADER_BYTES].copy_from_slice(&header);
        }
        Ok(())
    }

    /// Writes the kept frames again, and zeros over what is cut off, so that it is cut off once. Durable on return.
    ///
    /// If this fails, nothing was given away yet: the next `open` starts anew.
    fn make_durable(&self, segment: &Segment) -> Result<()> {
        let path = &segment.path;
        let write = |bytes: &[u8], offset| {
            segment
                .file
                .write_all_at(bytes, offset)
                .map_err(Error::io("write", path))
        };
        if let Some((offset, bytes)) = &self.unmarked
            && !planted("tail_not_again")
        {
            write(bytes, *offset)?;
        }
        let zeros = vec![0; ZEROS_BYTES];
        let mut at = self.end;
        while at < self.cut_end {
            let len = ZEROS_BYTES.min((self.cut_end - at) as usize);
            write(&zeros[..len], at)?;
            at += len as u64;
        }
        match self.unmarked.is_some() || self.end < self.cut_end {
            true => segment.file.sync_data().map_err(Error::io("sync", path)),
            false => Ok(()),
        }
    }
}

const ZEROS_BYTES: usize = 1 << 20;

/// The bytes of a new log's CONTROL: both slots.
pub(crate) fn new_control(control: &Control) -> Bytes {
    let mut bytes = vec![0; CONTROL_SLOT_OFFSETS[1] as usize + CONTROL_SLOT_BYTES];
    for offset in CONTROL_SLOT_OFFSETS {
        bytes[offset as usize..][..CONTROL_SLOT_BYTES].copy_from_slice(&control.encode());
    }
    bytes.into()
}
