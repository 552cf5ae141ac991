//! Looking for frames in a segment.

use std::ops::Range;
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian as LE};

use crate::canary::planted;
use crate::error::{Damage, Error, Result};
use crate::format::{
    ALIGN, DIRECTORY_HEAD_BYTES, FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, padded,
};
use crate::frame::{Directory, Head, Link};
use crate::record::{self, Record, Records, entry_checksum};
use crate::segment::{Segment, SegmentHeader};
use crate::types::{GroupId, Index, LogId};
use crate::window::Window;

/// A frame that was found.
pub(crate) struct Frame {
    pub(crate) segment: Arc<Segment>,
    pub(crate) directory: Directory,
    pub(crate) records: Records,
    /// Entries whose payload does not match its checksum, or cannot be read.
    pub(crate) bad_entries: Vec<BadEntry>,
    /// Why the payloads cannot be read, if they cannot.
    pub(crate) unread: Option<Error>,
}

/// An entry that is known, and whose payload is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadEntry {
    /// Its group.
    pub group: GroupId,
    /// Its index and term.
    pub id: LogId,
    /// Where in the segment its payload is, in bytes.
    pub offset: u64,
}

/// What is left of a segment where no frame was found.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// The frame that was looked for, through one of its directories.
    directory: Option<Directory>,
    /// The highest mark of any frame that stands later.
    pub(crate) mark: u64,
    /// Where the last thing ends that was written and is not part of a frame that follows: bytes that are not zeros or, in a
    /// recycled segment, headers and directories of this log. 0 if there is none.
    pub(crate) written_end: u64,
    /// Where the first frame stands whose header is whole.
    pub(crate) next: Option<u64>,
    /// Where the frame that was looked for ends, by its header.
    end: Option<u64>,
    /// How many directories that might be the right one were read.
    tries: u32,
}

impl Rest {
    /// Where the frame ends at the latest that was looked for and is not there; `frames_end` if that is known of the segment.
    pub(crate) fn missing_end(&self, segment: &Segment, frames_end: Option<u64>) -> u64 {
        let SegmentHeader {
            file_bytes,
            is_recycled,
            ..
        } = segment.header;
        // In a recycled segment it is where the last header or directory ends, which says nothing of payloads.
        let is_known = self.written_end > 0 && !is_recycled;
        let written_end = is_known.then_some(self.written_end);
        let end = self.end.or(self.next).or(frames_end).or(written_end);
        end.map_or(file_bytes, |end| end.min(file_bytes))
    }

    fn wrote(&mut self, end: u64, file_bytes: u64) {
        self.written_end = self.written_end.max(end.min(file_bytes));
    }
}

/// A frame whose directory cannot be read.
pub(crate) struct Missing {
    /// Where it begins, and ends at the latest.
    pub(crate) place: Range<u64>,
    pub(crate) sequence: u64,
}

impl Missing {
    pub(crate) fn error(self, segment: &Segment) -> Error {
        Error::DamagedDirectory {
            path: segment.path.clone(),
            offset: self.place.start,
            bytes: self.place.end.saturating_sub(self.place.start),
            sequence: self.sequence,
        }
    }
}

/// A frame has two directories. More that claim to be of it are made up, and each may claim to be as long as the file.
const TRIES_MAX: u32 = 16;

pub(crate) struct Scan<'a> {
    segment: &'a Arc<Segment>,
    window: Window<'a>,
    /// Where it is looked for frames. Another one, because what is found is read meanwhile.
    search: Window<'a>,
}

/// What is all zeros is passed over in pieces of this size.
const ZEROS: [u8; 4096] = [0; 4096];

/// A frame is read at once, up to this size.
const FRAME_READ_BYTES: u64 = 4 << 20;

impl<'a> Scan<'a> {
    pub(crate) fn new(segment: &'a Arc<Segment>) -> Result<Scan<'a>> {
        Ok(Scan {
            segment,
            window: Window::open(segment)?,
            search: Window::open(segment)?,
        })
    }

    /// The frame at `offset`, if it follows `link`; otherwise what else is there up to `limit`.
    pub(crate) fn frame(
        &mut self,
        offset: u64,
        link: Link,
        limit: u64,
    ) -> Result<std::result::Result<Frame, Rest>> {
        let wanted = Wanted {
            offset,
            link: Some(link),
        };
        if let Some(directory) = self.by_header(&wanted)? {
            return self.read(directory).map(Ok);
        }
        let mut rest = self.look_on(&wanted, limit)?;
        match rest.directory.take() {
            Some(directory) => self.read(directory).map(Ok),
            None => Ok(Err(rest)),
        }
    }

    /// What the segment's first frame follows, whatever that is; `None` if it has none that can be read.
    pub(crate) fn first_link(&mut self) -> Result<Option<Link>> {
        self.link_at(SEGMENT_HEADER_BYTES as u64)
    }

    /// The same for the frame at `offset`.
    pub(crate) fn link_at(&mut self, offset: u64) -> Result<Option<Link>> {
        let wanted = Wanted { offset, link: None };
        let directory = match self.by_header(&wanted)? {
            Some(directory) => Some(directory),
            None => self.look_on(&wanted, u64::MAX)?.directory,
        };
        Ok(directory.map(|directory| Link {
            sequence: directory.head.sequence,
            predecessor: directory.predecessor,
            epoch: Link::ANY_EPOCH,
        }))
    }

    /// What else there is from `offset` on, up to `limit`, where no frame can be read.
    pub(crate) fn rest(&mut self, offset: u64, limit: u64) -> Result<Rest> {
        self.look_on(&Wanted { offset, link: None }, limit)
    }

    /// The directories of the frames of a segment up to `end`, and the first one that cannot be read, if there is one.
    pub(crate) fn directories(&mut self, end: u64) -> Result<(Vec<Directory>, Option<Missing>)> {
        let mut directories: Vec<Directory> = Vec::new();
        let mut missing = None;
        let mut offset = SEGMENT_HEADER_BYTES as u64;
        let mut link = None;
        while offset < end {
            let wanted = Wanted { offset, link };
            let mut rest = Rest::default();
            let mut found = self.by_header(&wanted)?;
            if found.is_none() {
                rest = self.look_on(&wanted, end)?;
                found = rest.directory.take();
            }
            let Some(directory) = found else {
                let last = directories.last();
                missing.get_or_insert(Missing {
                    place: offset..rest.missing_end(self.segment, Some(end)),
                    sequence: last.map_or(0, |last| last.head.sequence + 1),
                });
                let Some(next) = rest.next else {
                    break;
                };
                (offset, link) = (next, None);
                continue;
            };
            offset = directory.frame_end();
            link = Some(directory.link_after());
            directories.push(directory);
        }
        Ok((directories, missing))
    }

    fn by_header(&mut self, wanted: &Wanted) -> Result<Option<Directory>> {
        let offset = wanted.offset;
        let header = self.window.read_up_to(offset, FRAME_HEADER_BYTES as u64)?;
        let Some(head) = Head::decode_frame_header(header, self.segment.home(), offset) else {
            return Ok(None);
        };
        // At once, with the payloads, which need not be readable.
        let frame_bytes = head.frame_bytes().min(FRAME_READ_BYTES);
        let _ = self.window.read_up_to(offset, frame_bytes);
        let distances = [Some(head.directory_distance()), head.copy_distance()];
        let mut unread = None;
        for distance in distances.into_iter().flatten() {
            let at = offset.saturating_add(distance);
            match directory_at(self.segment, &mut self.window, at) {
                Ok(Some(directory)) if wanted.is(&directory) => {
                    return Ok(Some(directory.into_first(self.segment.home())));
                }
                Ok(_) => {}
                Err(error) => unread = Some(error),
            }
        }
        unread.map_or(Ok(None), Err)
    }

    /// Goes on looking, 8 bytes at a time: for the directory of the frame that should be at `offset`, and for later frames,
    /// which say up to where all was durable.
    fn look_on(&mut self, wanted: &Wanted, limit: u64) -> Result<Rest> {
        let frames_max = self.window.file_bytes() / FRAME_HEADER_BYTES as u64;
        let sequences = wanted.link.map_or(1..=u64::MAX, |link| {
            link.sequence..=link.sequence.saturating_add(frames_max)
        });
        let mut rest = Rest::default();
        let is_recycled = self.segment.header.is_recycled;
        let file_bytes = self.search.file_bytes();
        let mut at = wanted.offset;
        while self.search.remaining(at) > 0 && at < limit {
            let remaining = self.search.remaining(at);
            let chunk = self.search.chunk(at)?;
            let is_last = chunk.len() as u64 == remaining;
            // What begins near the end of a chunk is looked at with the next one.
            let overlap = if is_last { 0 } else { DIRECTORY_HEAD_BYTES };
            let looked_at = (chunk.len() - overlap).next_multiple_of(ALIGN as usize);
            let mut from = 0;
            while from < looked_at {
                let (here, place) = (&chunk[from..], at + from as u64);
                if here.starts_with(&ZEROS) {
                    from += ZEROS.len() - DIRECTORY_HEAD_BYTES; // What begins before that has zeros where its sequence is.
                    continue;
                }
                from += ALIGN as usize;
                let is_zero = here.len() >= ALIGN as usize && LE::read_u64(here) == 0;
                if !is_zero && !is_recycled {
                    rest.wrote(place + ALIGN, file_bytes);
                }
                // Cheap to tell, and false nearly everywhere.
                if here.len() >= FRAME_HEADER_BYTES
                    && sequences.contains(&LE::read_u64(&here[16..]))
                {
                    look_at(
                        self.segment,
                        &mut self.window,
                        here,
                        place,
                        wanted,
                        &mut rest,
                    )?;
                    if rest.directory.is_some() {
                        return Ok(rest); // No later frame is asked then.
                    }
                }
            }
            at += looked_at as u64;
        }
        Ok(rest)
    }

    /// Reads the records of a frame and checks its payloads.
    fn read(&mut self, directory: Directory) -> Result<Frame> {
        let path = &self.segment.path;
        let damaged = |reason| Error::damaged(path, directory.frame_offset, reason);
        if directory.frame_end() > self.window.file_bytes() {
            return Err(damaged(Damage::Content));
        }
        let records = record::decode(&directory.records).map_err(damaged)?;
        let claimed = records.payload_bytes();
        if claimed != u64::from(directory.head.payload_bytes) {
            return Err(damaged(Damage::Content));
        }
        let payload_offset = directory.payload_offset();
        if planted("padding_counts") {
            let (offset, len) = (payload_offset + claimed, padded(claimed) - claimed);
            let padding = self.window.read_up_to(offset, len)?;
            if padding.iter().any(|byte| *byte != 0) {
                return Err(damaged(Damage::Content));
            }
        }
        // At once. If that fails, some may be readable all the same.
        let unread = self.window.read_up_to(payload_offset, claimed).err();
        let bad_entries = bad_entries(&records, &mut self.window, payload_offset);
        Ok(Frame {
            segment: self.segment.clone(),
            directory,
            records,
            bad_entries,
            unread,
        })
    }
}

fn directory_at(
    segment: &Segment,
    window: &mut Window<'_>,
    offset: u64,
) -> Result<Option<Directory>> {
    let home = segment.home();
    let head = window.read_up_to(offset, DIRECTORY_HEAD_BYTES as u64)?;
    let Some(head) = Directory::decode_head(head, home, offset) else {
        return Ok(None);
    };
    let bytes = window.read_up_to(offset, head.directory_bytes())?;
    Ok(Directory::decode(bytes, home, offset))
}

/// Looks whether a header or directory begins at `place`.
fn look_at(
    segment: &Segment,
    window: &mut Window<'_>,
    here: &[u8],
    place: u64,
    wanted: &Wanted,
    rest: &mut Rest,
) -> Result<()> {
    let home = segment.home();
    let header = Head::decode_frame_header(here, home, place);
    let Some(head) = header.or_else(|| Directory::decode_head(here, home, place)) else {
        return Ok(());
    };
    rest.mark = rest.mark.max(head.mark);
    let has_sequence = |link: Link| head.sequence == link.sequence;
    if header.is_some() && place > wanted.offset {
        rest.next.get_or_insert(place);
    } else if header.is_some() && wanted.link.is_none_or(has_sequence) {
        rest.end = Some(place.saturating_add(head.frame_bytes()));
    }
    if segment.header.is_recycled {
        let bytes = match header {
            Some(_) => head.frame_bytes(),
            None => head.directory_bytes(),
        };
        rest.wrote(place.saturating_add(bytes), window.file_bytes());
    }
    let follows = |link: Link| {
        head.sequence == link.sequence && LE::read_u32(&here[40..]) == link.predecessor
    };
    let is_it = header.is_none()
        && wanted.link.is_none_or(follows)
        && LE::read_u64(&here[48..]) == wanted.offset;
    if is_it && rest.tries < TRIES_MAX {
        rest.tries += 1;
        let directory = directory_at(segment, window, place)?;
        let directory = directory.filter(|directory| wanted.is(directory));
        rest.directory = directory.map(|directory| directory.into_first(home));
    }
    Ok(())
}

/// A frame that is looked for.
struct Wanted {
    offset: u64,
    /// What it follows; `None` if that is not known.
    link: Option<Link>,
}

impl Wanted {
    fn is(&self, directory: &Directory) -> bool {
        let follows = self.link.is_none_or(|link| follows(directory, link));
        directory.frame_offset == self.offset && follows
    }
}

/// Whether a directory is that of the frame that follows `link`.
fn follows(directory: &Directory, link: Link) -> bool {
    if planted("old_frames") {
        return directory.head.sequence == link.sequence;
    }
    let epoch_follows = directory.head.epoch == link.epoch || link.epoch == Link::ANY_EPOCH || {
        let records = record::decode(&directory.records);
        let resume = Record::Resume {
            epoch_before: link.epoch,
        };
        records.is_ok_and(|records| records.list.first() == Some(&resume))
    };
    directory.head.sequence == link.sequence
        && directory.predecessor == link.predecessor
        && epoch_follows
}

fn bad_entries(records: &Records, window: &mut Window<'_>, payload_offset: u64) -> Vec<BadEntry> {
    let mut bad = Vec::new();
    let mut offset = payload_offset;
    for (record, metas) in records.iter() {
        let Record::Entries(run) = record else {
            continue;
        };
        if !run.has_payloads() {
            continue;
        }
        for (meta, index) in metas.iter().zip(run.first.index.0..) {
            let id = LogId {
                term: run.first.term,
                index: Index(index),
            };
            let payload = window.read_up_to(offset, meta.payload_bytes.into());
            let is_whole = payload
                .is_ok_and(|payload| entry_checksum(run.group, id, payload) == meta.checksum);
            if !is_whole {
                let group = run.group;
                bad.push(BadEntry { group, id, offset });
            }
            offset += u64::from(meta.payload_bytes);
        }
    }
    bad
}
