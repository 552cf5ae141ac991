//! Reading a log back after a crash.
//!
//! What is seen in a segment, what it means, what is done:
//!
//! | seen | where | it means | done |
//! |---|---|---|---|
//! | a frame that follows the one before | anywhere | written | kept |
//! | the end of the file, exactly after a frame | anywhere | all there is | next segment, or done |
//! | anything else | a segment that has a successor | damage: a successor is made only when all before it is durable | `Damaged` |
//! | anything else, and a frame of this segment after it | last segment | damage: a frame is written only when all before it is durable | `Damaged` |
//! | anything else, and no frame after it | last segment | torn: the write that was under way, never acknowledged | cut, reported |
//!
//! The last row is the one place where rot can pass for a tear: if the very last frame was acknowledged and damaged
//! afterwards, nothing here can tell. A node mends it from its peers.
//!
//! Then the answer is made durable before it is given. Whoever wrote the last frame may have been killed between its
//! write and its sync, and the kernel may even have failed that sync and marked the pages clean, so that one more sync
//! would do nothing: the last frame is written again in place, the file cut behind it, and both synced. All frames
//! before the last one were synced before it was written.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use duramen_disk::Disk;

use crate::error::{Damage, Error, Result, is_full};
use crate::format::{
    ALIGN, FRAME_HEADER_BYTES, FrameHeader, Link, Place, Records, SEGMENT_HEADER_BYTES,
};
use crate::groups::{Check, Groups};
use crate::segment::{Name, Segment, remove_temporary, segment_path};
use crate::window::Window;

/// What `open` found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// How many segments the log has.
    pub segments: u64,
    /// How many batches were read back.
    pub frames: u64,
    /// The unfinished write that was cut off, if there was one.
    pub torn: Option<Torn>,
}

/// An unfinished write at the end of a log. It was never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The segment it was in.
    pub path: PathBuf,
    /// Where it began, in bytes; the segment ends there now.
    pub offset: u64,
    /// How many bytes were cut off.
    pub bytes: u64,
}

/// A log as it was read back, ready for the next write.
pub(crate) struct Recovered {
    pub(crate) groups: Groups,
    pub(crate) segments: Vec<Segment>,
    /// Where in the last segment the next frame goes.
    pub(crate) end: u64,
    pub(crate) link: Link,
    pub(crate) report: RecoveryReport,
}

/// Reads the log in `dir`, which the caller has locked.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path) -> Result<Recovered> {
    let count = count_segments(disk, dir)?;
    let mut scan = Scan {
        groups: Groups::default(),
        link: Link::FIRST,
        report: RecoveryReport {
            segments: count,
            ..RecoveryReport::default()
        },
    };
    let mut segments: Vec<Segment> = Vec::new();
    let mut end = SegmentEnd::default();
    for number in 1..=count {
        let segment = Segment::open(disk, dir, number)?;
        if let Some(first) = segments.first()
            && first.header.log_id != segment.header.log_id
        {
            return Err(Error::damaged(&segment.path, 0, Damage::Stranger));
        }
        if segment.header.first_sequence != scan.link.sequence
            || segment.header.predecessor != scan.link.predecessor
        {
            return Err(Error::damaged(&segment.path, 0, Damage::Order));
        }
        end = scan.segment(&segment, number == count)?;
        segments.push(segment);
    }
    let last = segments.last().expect("count_segments found at least one");
    remove_temporary(disk, dir)?;
    make_durable(last, &end)?;
    disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
    Ok(Recovered {
        groups: scan.groups,
        segments,
        end: end.offset,
        link: scan.link,
        report: scan.report,
    })
}

/// The segments are numbered from 1 without a gap. Returns the last number.
fn count_segments(disk: &dyn Disk, dir: &Path) -> Result<u64> {
    let not_a_log = || Error::NotALog {
        path: dir.to_owned(),
    };
    let mut numbers = Vec::new();
    for name in disk.list(dir).map_err(Error::io("list", dir))? {
        match Name::parse(&name) {
            Name::Segment(number) => numbers.push(number),
            Name::Temporary | Name::Lock => {}
            Name::Foreign => {
                return Err(Error::Foreign {
                    path: dir.join(name),
                });
            }
        }
    }
    numbers.sort_unstable();
    for (expected, &number) in (1..).zip(&numbers) {
        if number != expected {
            let path = segment_path(dir, expected);
            return Err(Error::MissingSegment { path });
        }
    }
    numbers.last().copied().ok_or_else(not_a_log)
}

/// Where the frames of a segment end.
#[derive(Debug, Default)]
struct SegmentEnd {
    offset: u64,
    /// The last frame, as it is to be written again.
    last_frame: Option<(u64, Bytes)>,
}

struct Scan {
    groups: Groups,
    link: Link,
    report: RecoveryReport,
}

/// What stands at an offset.
enum Found {
    Frame(FrameHeader, Bytes),
    End,
    Bad(Damage),
}

impl Scan {
    fn segment(&mut self, segment: &Segment, is_last: bool) -> Result<SegmentEnd> {
        let mut window = Window::open(segment)?;
        let mut end = SegmentEnd {
            offset: SEGMENT_HEADER_BYTES as u64,
            last_frame: None,
        };
        loop {
            match self.look(&mut window, segment, end.offset)? {
                Found::Frame(header, frame) => {
                    self.take(segment, end.offset, &header, &frame)?;
                    end.last_frame = Some((end.offset, frame));
                    end.offset += header.frame_bytes();
                }
                Found::End => return Ok(end),
                Found::Bad(reason) if !is_last => {
                    return Err(Error::damaged(&segment.path, end.offset, reason));
                }
                Found::Bad(reason) => {
                    if frame_after(&mut window, segment, end.offset)? {
                        return Err(Error::damaged(&segment.path, end.offset, reason));
                    }
                    self.report.torn = Some(Torn {
                        path: segment.path.clone(),
                        offset: end.offset,
                        bytes: window.file_bytes() - end.offset,
                    });
                    return Ok(end);
                }
            }
        }
    }

    fn look(&self, window: &mut Window, segment: &Segment, offset: u64) -> Result<Found> {
        if offset == window.file_bytes() {
            return Ok(Found::End);
        }
        let Some(header) = frame_header(window, segment, offset)? else {
            return Ok(Found::Bad(
                match window.remaining(offset) < FRAME_HEADER_BYTES as u64 {
                    true => Damage::Short,
                    false => Damage::Checksum,
                },
            ));
        };
        if header.link != self.link {
            return Ok(Found::Bad(Damage::Order));
        }
        // The header's checksum was right, so the length is what was written; a file that is shorter is a torn one.
        if header.frame_bytes() > window.remaining(offset) {
            return Ok(Found::Bad(Damage::Short));
        }
        let frame = window.read(offset, header.frame_bytes())?;
        let body_end = FRAME_HEADER_BYTES + header.body_bytes as usize;
        if crc32fast::hash(&frame[FRAME_HEADER_BYTES..body_end]) != header.body_checksum {
            return Ok(Found::Bad(Damage::Checksum));
        }
        Ok(Found::Frame(header, frame))
    }

    fn take(
        &mut self,
        segment: &Segment,
        offset: u64,
        header: &FrameHeader,
        frame: &Bytes,
    ) -> Result<()> {
        let damaged = |reason| Error::damaged(&segment.path, offset, reason);
        let body = frame.slice(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + header.body_bytes as usize);
        let mut records = Records::new(body);
        let mut taken = Vec::new();
        while let Some(record) = records.next().map_err(damaged)? {
            taken.push(record);
        }
        let mut check = Check::new(&self.groups);
        for record in &taken {
            check.record(record).map_err(|_| damaged(Damage::Content))?;
        }
        self.groups.apply(&taken, segment.header.number, offset);
        self.link = Link::after(header);
        self.report.frames += 1;
        Ok(())
    }
}

fn frame_header(
    window: &mut Window,
    segment: &Segment,
    offset: u64,
) -> Result<Option<FrameHeader>> {
    if window.remaining(offset) < FRAME_HEADER_BYTES as u64 {
        return Ok(None);
    }
    let place = Place {
        log_id: segment.header.log_id,
        segment: segment.header.number,
        offset,
    };
    let head = window.read(offset, FRAME_HEADER_BYTES as u64)?;
    let head = head[..].try_into().expect("as many bytes as asked for");
    Ok(FrameHeader::decode(head, place))
}

/// Whether a frame starts anywhere after `offset`.
fn frame_after(window: &mut Window, segment: &Segment, offset: u64) -> Result<bool> {
    let mut at = offset + ALIGN;
    while window.remaining(at) >= FRAME_HEADER_BYTES as u64 {
        if frame_header(window, segment, at)?.is_some() {
            return Ok(true);
        }
        at += ALIGN;
    }
    Ok(false)
}

/// See the module's documentation. If this fails, nothing was given away yet: the next `open` starts anew.
fn make_durable(segment: &Segment, end: &SegmentEnd) -> Result<()> {
    let path = &segment.path;
    let write = |bytes: &[u8], offset| {
        segment
            .file
            .write_all_at(bytes, offset)
            .map_err(|error| match is_full(&error) {
                true => Error::Full { path: path.clone() },
                false => Error::io("write", path)(error),
            })
    };
    write(&segment.header.encode(), 0)?;
    if let Some((offset, frame)) = &end.last_frame {
        write(frame, *offset)?;
    }
    segment
        .file
        .set_len(end.offset)
        .map_err(Error::io("cut", path))?;
    segment.file.sync_data().map_err(Error::io("sync", path))
}
