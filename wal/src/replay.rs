//! Reading the segments of a log, from the oldest to the last. Changes nothing; the rules are those of `recovery.rs`.

use std::ops::Range;
use std::sync::Arc;

use crate::canary::planted;
use crate::control::Control;
use crate::error::{Damage, Error, Result};
use crate::format::SEGMENT_HEADER_BYTES;
use crate::frame::{Directory, Link};
use crate::groups::{Groups, Undo};
use crate::record::{Record, Records};
use crate::recovery::{Cut, DamagedEntry, RecoveryReport};
use crate::rows::Source;
use crate::scan::{BadEntry, Frame, Missing, Rest, Scan};
use crate::seal::{Full, Trailer};
use crate::segment::Segment;
use crate::states::States;
use crate::table::Table;

/// The log so far.
pub(crate) struct Replay {
    pub(crate) groups: Groups,
    pub(crate) full: Vec<Full>,
    pub(crate) report: RecoveryReport,
    link: Link,
    log_id: u128,
    control_mark: u64,
    keep_suspects: bool,
    /// What cannot be named ends the log, and is noted here; `None` if it is an error.
    pub(crate) lost: Option<Vec<Error>>,
}

/// The end of the log: where the next frame goes.
pub(crate) struct Tail {
    pub(crate) segment: Arc<Segment>,
    /// The directories of the segment's frames, and the most bytes that the summary takes.
    pub(crate) seal: Vec<u8>,
    pub(crate) summary_bytes: u64,
    pub(crate) end: u64,
    /// What the segment's first frame follows, and what follows the last one.
    pub(crate) first: Link,
    pub(crate) link: Link,
    /// What is kept and suspect.
    pub(crate) suspects: Vec<Record>,
    /// All frames up to this one were known to be durable.
    mark: u64,
    /// The kept frames above the mark, as far as it is known.
    unmarked: Vec<Unmarked>,
    /// What is cut off.
    cut: Vec<(Arc<Segment>, Range<u64>)>,
}

/// A frame that is written again.
struct Unmarked {
    sequence: u64,
    segment: Arc<Segment>,
    bytes: Range<u64>,
    /// Its header and directories, and where in the frame they stand: one of them may be bad.
    copies: Vec<(u64, Vec<u8>)>,
}

const FIRST_FRAME: u64 = SEGMENT_HEADER_BYTES as u64;

/// How far a segment is looked through in which no frame follows: if it was ever written to, its first frames are here.
const PROBE_BYTES: u64 = 1 << 20;

impl Replay {
    pub(crate) fn new(control: &Control, keep_suspects: bool) -> Replay {
        Replay {
            groups: Groups::default(),
            full: Vec::new(),
            report: RecoveryReport::default(),
            link: Link::FIRST,
            log_id: control.log_id,
            control_mark: control.mark,
            keep_suspects,
            lost: None,
        }
    }

    /// The same for a log of which something is lost: it is taken in up to there.
    pub(crate) fn up_to_a_loss(control: &Control) -> Replay {
        Replay {
            lost: Some(Vec::new()),
            ..Replay::new(control, !planted("cut_drops_suspects"))
        }
    }

    /// Goes on without what is lost, or gives the error.
    fn lose(&mut self, error: Error) -> Result<()> {
        let Some(lost) = &mut self.lost else {
            return Err(error);
        };
        lost.push(error);
        Ok(())
    }

    /// Takes in all segments of a log.
    pub(crate) fn log(&mut self, segments: &[Arc<Segment>]) -> Result<Tail> {
        let mut trailers = Vec::new();
        for segment in segments {
            if segment.header.log_id != self.log_id && !planted("other_logs_taken") {
                return Err(Error::damaged(&segment.path, 0, Damage::Stranger));
            }
            trailers.push(segment.trailer()?);
        }
        let tail = trailers.iter().rposition(Option::is_some);
        let mut tail = tail.map_or(0, |sealed| sealed + 1);
        if tail == segments.len() {
            // A segment is sealed only when the next one has a frame.
            let last = &segments[tail - 1];
            let path = last
                .path
                .with_file_name(crate::segment::segment_name(last.header.number + 1));
            self.lose(Error::MissingSegment { path })?;
            tail -= 1; // Its frames say the states of the groups, the seal does not.
        }
        self.begin(&segments[0], trailers[0].as_ref())?;
        for (at, segment) in segments[..tail].iter().enumerate() {
            let next = trailers.get(at + 1).and_then(Option::as_ref);
            match &trailers[at] {
                Some(trailer) => self.sealed(segment, trailer)?,
                None => self.unsealed(segment, None, next.map(|next| next.first.sequence))?,
            }
        }
        self.tail(&segments[tail..], segments[0].header.number)
    }

    /// What the oldest segment follows.
    fn begin(&mut self, oldest: &Arc<Segment>, trailer: Option<&Trailer>) -> Result<()> {
        if oldest.header.number == 1 {
            return Ok(());
        }
        self.link = match trailer {
            Some(trailer) => trailer.first,
            None => {
                let mut scan = Scan::new(oldest)?;
                match scan.first_link()? {
                    Some(link) => link,
                    None => {
                        let rest = scan.rest(FIRST_FRAME, u64::MAX)?;
                        let end = rest.missing_end(oldest, None);
                        return Err(no_directory(oldest, FIRST_FRAME..end, self.control_mark));
                    }
                }
            }
        };
        Ok(())
    }

    /// Takes in a segment by its seal.
    fn sealed(&mut self, segment: &Arc<Segment>, trailer: &Trailer) -> Result<()> {
        let Link {
            sequence,
            predecessor,
            ..
        } = self.link;
        if (trailer.first.sequence, trailer.first.predecessor) != (sequence, predecessor) {
            return Err(Error::damaged(&segment.path, 0, Damage::Order));
        }
        if let Some(summary) = segment.summary(trailer) {
            self.ranges(segment, &summary);
            self.link = trailer.last;
            return Ok(());
        }
        match segment.sealed_directories(trailer) {
            Some(directories) => {
                let table = table(segment, &directories)?;
                self.ranges(segment, &table.summary());
                self.link = trailer.last;
                Ok(())
            }
            None => {
                let (end, until) = (trailer.frames_end, trailer.last.sequence);
                self.unsealed(segment, Some(end), Some(until))
            }
        }
    }

    fn ranges(&mut self, segment: &Segment, summary: &Records) {
        for record in &summary.list {
            if let Record::Range { run, bytes } = record {
                self.groups.take_range(segment.header.number, run, *bytes);
            }
        }
    }

    /// Takes in a segment that has a sealed successor and no seal that can be read: it is sealed again. `until` is the
    /// sequence of the successor's first frame, if it is known, and `frames_end` where its own end.
    fn unsealed(
        &mut self,
        segment: &Arc<Segment>,
        frames_end: Option<u64>,
        until: Option<u64>,
    ) -> Result<()> {
        let first = self.link;
        let mut scan = Scan::new(segment)?;
        let mut end = FIRST_FRAME;
        let mut directories = Vec::new();
        let rest = loop {
            let frame = match scan.frame(end, self.link, u64::MAX)? {
                Ok(frame) => frame,
                Err(rest) => break rest,
            };
            end = frame.directory.frame_end();
            self.link = frame.directory.link_after();
            self.report_damage(segment, frame.bad_entries);
            directories.push(frame.directory);
        };
        if directories.is_empty() || until.is_some_and(|until| self.link.sequence < until) {
            let missing = end..rest.missing_end(segment, frames_end);
            return Err(no_directory(segment, missing, self.link.sequence));
        }
        let table = table(segment, &directories)?;
        self.ranges(segment, &table.summary());
        let encoded = directories
            .iter()
            .flat_map(|directory| directory.encode_first(segment.home()));
        self.full.push(Full {
            segment: segment.clone(),
            directories: encoded.collect::<Vec<u8>>().into(),
            frames_end: end,
            first,
            last: self.link,
        });
        Ok(())
    }

    /// Takes in the segments after the last seal, frame by frame, as far as they go.
    fn tail(&mut self, segments: &[Arc<Segment>], oldest: u64) -> Result<Tail> {
        let begin = self.link.sequence;
        let mut tail = Tail {
            segment: segments[0].clone(),
            seal: Vec::new(),
            summary_bytes: 0,
            end: FIRST_FRAME,
            first: self.link,
            link: self.link,
            suspects: Vec::new(),
            mark: self.control_mark.max(begin - 1), // All before a segment is durable when it is begun.
            unmarked: Vec::new(),
            cut: Vec::new(),
        };
        let mut frames = Frames::new(segments, self.link);
        let mut held: Vec<Frame> = Vec::new();
        let rest = loop {
            let frame = match frames.next() {
                Ok(Ok(frame)) => frame,
                Ok(Err(rest)) => break rest,
                Err(error) => {
                    self.lose(error)?;
                    break EndOfLog::unknown(segments, frames.at);
                }
            };
            tail.saw_mark(frame.directory.head.mark);
            held.push(frame);
            self.keep_decided(&mut tail, &mut held)?;
        };
        tail.saw_mark(rest.mark);
        if tail.mark >= frames.link.sequence && !planted("damage_cut") {
            let missing = frames.end..rest.missing_end;
            self.lose(no_directory(
                &segments[frames.at],
                missing,
                frames.link.sequence,
            ))?;
        }
        let is_new_log = oldest == 1 && begin == 1;
        if frames.link.sequence == begin && !is_new_log {
            let missing = FIRST_FRAME..rest.missing_end;
            return Err(no_directory(&segments[0], missing, begin));
        }
        self.keep_decided(&mut tail, &mut held)?;
        // What cannot be read is not torn.
        if let Some(error) = held.iter_mut().find_map(|frame| frame.unread.take()) {
            self.lose(error)?;
        }
        if self.keep_suspects {
            let mut bad = Vec::new();
            for frame in std::mem::take(&mut held) {
                let segment = frame.segment.header.number;
                bad.extend(frame.bad_entries.iter().map(|bad| (segment, bad.clone())));
                self.keep(&mut tail, frame)?;
            }
            // What was purged, truncated or replaced since, be it by the same frame, is not there to be suspect.
            bad.retain(|(segment, bad)| self.groups.stands_at(bad, *segment));
            tail.suspects = bad.iter().map(|(_, bad)| suspect(bad)).collect();
            for suspect in &tail.suspects {
                self.groups.suspect(suspect);
            }
        }
        self.cut(&mut tail, held.into_iter().next(), &rest, &frames);
        tail.check_end()?;
        Ok(tail)
    }

    /// Keeps frames until one may be suspect, as far as is known.
    fn keep_decided(&mut self, tail: &mut Tail, held: &mut Vec<Frame>) -> Result<()> {
        let mark = tail.mark;
        let is_decided =
            |frame: &Frame| frame.directory.head.sequence <= mark || frame.bad_entries.is_empty();
        let decided = held.iter().take_while(|frame| is_decided(frame)).count();
        for frame in held.drain(..decided) {
            self.keep(tail, frame)?;
        }
        Ok(())
    }

    /// Takes in a frame of the tail, and reports what is damaged in it.
    fn keep(&mut self, tail: &mut Tail, frame: Frame) -> Result<()> {
        if frame.segment.header.number != tail.segment.header.number {
            self.full.push(tail.begin(&frame.segment));
        }
        tail.keep(&frame);
        let segment = &frame.segment;
        if frame.directory.head.sequence <= tail.mark {
            self.report_damage(segment, frame.bad_entries);
        }
        let directory = &frame.directory;
        let damaged = || Error::damaged(&segment.path, directory.frame_offset, Damage::Content);
        let mut records = frame.records;
        if directory.frame_offset == FIRST_FRAME {
            let is_known = self.report.frames > 0;
            match is_known {
                // It repeats the state of every group, which is known from the frames before.
                true => {
                    let states = States::of(&self.groups);
                    if !records.list.iter().all(|record| states.agrees(record)) {
                        return Err(damaged());
                    }
                }
                false if segment.header.number > 1 => self.groups.begin_at(&records),
                false => {}
            }
            if !records.metas.is_empty() {
                return Err(damaged());
            }
            let is_suspect = |record: &mut Record| matches!(record, Record::Suspect { .. });
            records.list.retain(is_suspect);
        }
        let mut source = Source::Written {
            segment: segment.header.number,
            offset: directory.payload_offset(),
        };
        let Records { list, metas } = &mut records;
        let mut metas = &metas[..];
        let mut undo = Undo::new(); // Nothing is taken back: the log is not opened then.
        for record in list {
            let (of_record, after) = metas.split_at(record.entries());
            metas = after;
            let taken = self
                .groups
                .take_in(record, of_record, &mut source, &mut undo);
            taken.map_err(|_| damaged())?;
            undo.clear();
        }
        self.link = directory.link_after();
        self.report.frames += 1;
        Ok(())
    }

    fn report_damage(&mut self, segment: &Segment, bad: Vec<BadEntry>) {
        let damaged = bad.into_iter().map(|entry| DamagedEntry {
            path: segment.path.clone(),
            entry,
        });
        self.report.damaged.extend(damaged);
    }

    /// What is after the kept frames is cut off, if there is anything. `suspect` is the first frame of it.
    fn cut(
        &mut self,
        tail: &mut Tail,
        suspect: Option<Frame>,
        rest: &EndOfLog,
        frames: &Frames<'_>,
    ) {
        let number = tail.segment.header.number;
        for (at, segment) in frames.segments.iter().enumerate() {
            let from = match segment.header.number {
                before if before < number => continue,
                same if same == number => tail.end,
                _ => FIRST_FRAME,
            };
            let frames_end = match at {
                // Frames after a suspect one are cut with it.
                at if at < frames.at => segment.header.file_bytes,
                at if at == frames.at => frames.end,
                _ => 0,
            };
            let until = frames_end.max(rest.written_ends[at]);
            if until > from {
                tail.cut.push((segment.clone(), from..until));
            }
        }
        let suspects = suspect.map_or(Vec::new(), |frame| frame.bad_entries);
        self.report.cut = tail.cut.first().map(|(segment, bytes)| Cut {
            path: segment.path.clone(),
            offset: bytes.start,
            bytes: bytes.end - bytes.start,
            suspects,
        });
    }
}

fn no_directory(segment: &Segment, place: Range<u64>, sequence: u64) -> Error {
    Missing { place, sequence }.error(segment)
}

fn table(segment: &Segment, directories: &[Directory]) -> Result<Table> {
    Table::of(segment.header.number, directories)
        .map_err(|reason| Error::damaged(&segment.path, 0, reason))
}

fn suspect(bad: &BadEntry) -> Record {
    Record::Suspect {
        group: bad.group,
        first: bad.id.index,
        count: 1,
    }
}

/// The frames of the tail, over the ends of segments.
struct Frames<'a> {
    segments: &'a [Arc<Segment>],
    scan: Option<Scan<'a>>,
    at: usize,
    end: u64,
    link: Link,
}

/// What is there where no more frames are.
struct EndOfLog {
    /// The highest mark of any frame that stands later.
    mark: u64,
    /// Where the last thing ends that was written, by segment. 0 if there is none.
    written_ends: Vec<u64>,
    /// Where the frame ends at the latest that would be next.
    missing_end: u64,
}

impl EndOfLog {
    /// Where the disk does not give it.
    fn unknown(segments: &[Arc<Segment>], at: usize) -> EndOfLog {
        EndOfLog {
            mark: 0,
            written_ends: vec![0; segments.len()],
            missing_end: segments[at].header.file_bytes,
        }
    }
}

impl<'a> Frames<'a> {
    fn new(segments: &'a [Arc<Segment>], link: Link) -> Frames<'a> {
        Frames {
            segments,
            scan: None,
            at: 0,
            end: FIRST_FRAME,
            link,
        }
    }

    fn next(&mut self) -> Result<std::result::Result<Frame, EndOfLog>> {
        let segment = &self.segments[self.at];
        let scan = match &mut self.scan {
            Some(scan) => scan,
            None => self.scan.insert(Scan::new(segment)?),
        };
        match scan.frame(self.end, self.link, u64::MAX)? {
            Ok(frame) => {
                self.end = frame.directory.frame_end();
                self.link = frame.directory.link_after();
                Ok(Ok(frame))
            }
            Err(rest) => self.next_segment(rest),
        }
    }

    /// The log goes on in the next segment, or ends here.
    fn next_segment(&mut self, rest: Rest) -> Result<std::result::Result<Frame, EndOfLog>> {
        let mut end = EndOfLog {
            mark: rest.mark,
            written_ends: vec![0; self.at],
            missing_end: rest.missing_end(&self.segments[self.at], None),
        };
        end.written_ends.push(rest.written_end);
        for at in self.at + 1..self.segments.len() {
            let mut scan = Scan::new(&self.segments[at])?;
            match scan.frame(FIRST_FRAME, self.link, PROBE_BYTES)? {
                Ok(frame) if at == self.at + 1 => {
                    self.at = at;
                    self.end = frame.directory.frame_end();
                    self.link = frame.directory.link_after();
                    self.scan = Some(scan);
                    return Ok(Ok(frame));
                }
                Ok(frame) => {
                    end.mark = end.mark.max(frame.directory.head.mark);
                    end.written_ends.push(frame.directory.frame_end());
                }
                Err(rest) => {
                    end.mark = end.mark.max(rest.mark);
                    end.written_ends.push(rest.written_end);
                }
            }
        }
        Ok(Err(end))
    }
}

impl Tail {
    /// All frames up to this one were known to be durable.
    pub(crate) fn mark(&self) -> u64 {
        self.mark
    }

    /// All frames up to this one were durable.
    fn saw_mark(&mut self, mark: u64) {
        if mark > self.mark {
            self.mark = mark;
            self.unmarked.retain(|frame| frame.sequence > mark);
        }
    }

    /// The log goes on in another segment. Gives what the one before is made of.
    fn begin(&mut self, segment: &Arc<Segment>) -> Full {
        let full = Full {
            segment: std::mem::replace(&mut self.segment, segment.clone()),
            directories: std::mem::take(&mut self.seal).into(),
            frames_end: self.end,
            first: std::mem::replace(&mut self.first, self.link),
            last: self.link,
        };
        self.summary_bytes = 0;
        full
    }

    fn keep(&mut self, frame: &Frame) {
        let Directory {
            head, frame_offset, ..
        } = frame.directory;
        let home = frame.segment.home();
        self.seal
            .extend_from_slice(&frame.directory.encode_first(home));
        self.summary_bytes += frame.records.summary_bytes_max();
        self.end = frame.directory.frame_end();
        self.link = frame.directory.link_after();
        if head.sequence > self.mark {
            self.unmarked.push(Unmarked {
                sequence: head.sequence,
                segment: frame.segment.clone(),
                bytes: frame_offset..self.end,
                copies: frame.directory.copies(home),
            });
        }
    }

    fn check_end(&self) -> Result<()> {
        match self.end <= self.segment.frames_limit(self.seal.len() as u64) {
            true => Ok(()),
            false => {
                let path = &self.segment.path;
                Err(Error::damaged(path, self.end, Damage::Content))
            }
        }
    }

    /// Writes the kept frames above the mark again, and zeros over what is cut off, so that it is cut off once. Durable on
    /// return.
    pub(crate) fn make_durable(&self) -> Result<()> {
        let mut changed: Vec<&Arc<Segment>> = Vec::new();
        for frame in &self.unmarked {
            if !planted("tail_not_again") {
                frame.write_again()?;
                changed.push(&frame.segment);
            }
        }
        for (segment, bytes) in &self.cut {
            write_zeros(segment, bytes)?;
            changed.push(segment);
        }
        changed.dedup_by_key(|segment| segment.header.number);
        for segment in changed {
            let synced = segment.file.sync_data();
            synced.map_err(Error::io("sync", &segment.path))?;
        }
        Ok(())
    }
}

impl Unmarked {
    fn write_again(&self) -> Result<()> {
        let Segment { file, path, .. } = &*self.segment;
        let len = self.bytes.end - self.bytes.start;
        let mut buf = vec![0; len as usize]; // The frame was read already: its length is real.
        let at = self.bytes.start;
        file.read_exact_at(&mut buf, at)
            .map_err(Error::io("read", path))?;
        for (distance, copy) in &self.copies {
            buf[*distance as usize..][..copy.len()].copy_from_slice(copy);
        }
        file.write_all_at(&buf, at)
            .map_err(Error::io("write", path))
    }
}

fn write_zeros(segment: &Segment, bytes: &Range<u64>) -> Result<()> {
    let zeros = vec![0; (bytes.end - bytes.start).min(1 << 20) as usize];
    let mut at = bytes.start;
    while at < bytes.end {
        let len = zeros.len().min((bytes.end - at) as usize);
        let written = segment.file.write_all_at(&zeros[..len], at);
        written.map_err(Error::io("write", &segment.path))?;
        at += len as u64;
    }
    Ok(())
}
