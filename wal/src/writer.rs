//! Writing frames: what goes into which segment, and in which order things become durable.
//!
//! Only one thread at a time writes, and each write is one `write` and one `sync_data`. So when a write begins, all frames
//! before it are durable, and say so (`mark`).
//!
//! # Rotation
//!
//! 1. The next segment waits: its header, length and name are durable, and CONTROL knows of it (`pipeline/space.rs`).
//! 2. All frames of the full segment are written and synced.
//! 3. The first frame of the next segment, with the state of every group, goes out with the batches that did not fit.
//! 4. When that is durable, the full segment is sealed in the background. No ticket waits for it.
//!
//! # Invariants
//!
//! * `states` follows the frames that are written, and nothing else.
//! * A frame that changes a term or a vote is the first of its write: all before it is durable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::{SmallVec, smallvec};

use crate::batch::Sizes;
use crate::canary::planted;
use crate::error::{Error, Result};
use crate::format::{DIRECTORY_HEAD_BYTES, FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use crate::frame::{Directory, Link, NewFrame, frame_bytes};
use crate::record::{self, How, Record, Records};
use crate::seal::Full;
use crate::segment::Segment;
use crate::states::States;

/// A batch that was taken.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) records: Records,
    /// One for each entry; empty where it is lost.
    pub(crate) payloads: SmallVec<[Bytes; 1]>,
    /// The number of its first entry: see `rows.rs`.
    pub(crate) number: u64,
    pub(crate) changes_vote: bool,
    /// The most space it can take: its frame, and what it may add to the first frame of the next segment.
    pub(crate) space: u64,
    pub(crate) sizes: Sizes,
}

impl Body {
    /// The number after that of its last entry.
    pub(crate) fn next_number(&self) -> u64 {
        self.number + self.payloads.len() as u64
    }

    /// Whether it moves entries. A batch does that alone.
    pub(crate) fn is_move(&self) -> bool {
        let is_moved =
            |record: &Record| matches!(record, Record::Entries(run) if run.how != How::Appended);
        self.records.list.first().is_some_and(is_moved)
    }
}

/// What a write gave.
#[derive(Default)]
pub(crate) struct Batches {
    /// Where the payloads of each batch are now.
    pub(crate) places: Vec<Written>,
    /// The segments that were begun.
    pub(crate) new_segments: Vec<Arc<Segment>>,
    /// The segments that are full.
    pub(crate) full: Vec<Full>,
}

/// Where a batch's payloads are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Written {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

pub(crate) struct Writer {
    pub(crate) segment: Arc<Segment>,
    /// Where in the segment the next frame goes.
    pub(crate) end: u64,
    /// The directories of the segment's frames: part of its seal.
    pub(crate) seal: Vec<u8>,
    /// The most bytes that the seal's summary takes.
    pub(crate) summary_bytes: u64,
    /// What the segment's first frame follows, and what follows the last one.
    pub(crate) first: Link,
    pub(crate) link: Link,
    /// Every frame up to this one is durable.
    pub(crate) mark: u64,
    pub(crate) states: States,
    /// Kept between writes, so that their memory is touched once.
    pub(crate) buffer: Vec<u8>,
    pub(crate) records: Vec<u8>,
    /// How long the syncs of the last write took.
    pub(crate) syncs: Vec<Duration>,
}

/// Batches that wait together share a frame up to this size. A frame is lost as a whole if its write is torn.
const FRAME_PAYLOAD_BYTES: u64 = 1 << 20;

/// A write goes to the file in pieces of this size: what was just put together is still in the processor's cache.
const PIECE_BYTES: usize = 256 << 10;

impl Writer {
    /// How many bytes of frames still go into the segment, seal and trailer reckoned in.
    pub(crate) fn room(&self) -> u64 {
        let summary = self.summary_bytes.min(self.segment.header.file_bytes / 16);
        let limit = self.segment.frames_limit(self.seal.len() as u64 + summary);
        limit.saturating_sub(self.end)
    }

    /// Writes batches. Durable on return. After an error nothing is known, and nothing more may be written.
    ///
    /// `next` gives the next segment when one is needed.
    pub(crate) fn write(
        &mut self,
        batches: &[Arc<Body>],
        mut next: impl FnMut() -> Result<Arc<Segment>>,
    ) -> Result<Batches> {
        let mut written = Batches::default();
        let mut start = self.end;
        self.buffer.clear();
        self.syncs.clear();
        for frame in split_into_frames(batches) {
            if space_of(frame) > self.room() {
                self.flush(&mut start)?;
                written.full.push(self.rotate(next()?));
                written.new_segments.push(self.segment.clone());
                start = self.end;
                let states = self.states.records();
                self.put_frame(&states, !states.is_empty());
            }
            self.put_batches(frame, &mut written.places);
            let limit = self.segment.frames_limit(self.seal.len() as u64);
            assert!(
                self.end <= limit,
                "a frame up to {} where the seal begins at {limit}",
                self.end
            );
            if self.buffer.len() >= PIECE_BYTES {
                self.put_down(&mut start)?;
            }
        }
        self.flush(&mut start)?;
        Ok(written)
    }

    /// Writes the frame that begins an epoch, with what is suspect. Durable on return. If the segment is full, `next` gives
    /// another one with space for so many bytes; then what the full one is made of is returned.
    pub(crate) fn resume(
        &mut self,
        epoch: u64,
        suspects: Vec<Record>,
        next: impl FnOnce(u64) -> Result<Arc<Segment>>,
    ) -> Result<Option<Full>> {
        let mut records = Records {
            list: smallvec![Record::Resume {
                epoch_before: self.link.epoch,
            }],
            metas: SmallVec::new(),
        };
        if !planted("suspect_forgotten") {
            records.list.extend(suspects);
        }
        let mut full = None;
        let space = frame_space(0, records.encoded_bytes_max(), 0, false);
        if space > self.room() {
            full = Some(self.rotate(next(2 * space + self.states.space())?));
        }
        let mut has_states = false;
        if self.end == SEGMENT_HEADER_BYTES as u64 {
            let states = self.states.records();
            has_states = !states.is_empty();
            records.list.insert_many(1, states.list);
        }
        self.link.epoch = epoch;
        self.buffer.clear();
        let mut start = self.end;
        self.put_frame(&records, has_states);
        self.flush(&mut start)?;
        Ok(full)
    }

    fn put_batches(&mut self, batches: &[Arc<Body>], written: &mut Vec<Written>) {
        self.records.clear();
        let mut group = None;
        let mut offset = self.end + FRAME_HEADER_BYTES as u64;
        for batch in batches {
            record::encode(&mut self.records, &batch.records, &mut group);
            let records = &batch.records.list;
            if records.len() > 1 {
                self.states.touch(records.iter());
            }
            records.iter().for_each(|record| self.states.apply(record));
            self.summary_bytes += batch.sizes.summary;
            let segment = self.segment.header.number;
            written.push(Written { segment, offset });
            offset += batch.sizes.payloads;
        }
        let payloads = || batches.iter().flat_map(|batch| &batch.payloads);
        let doubled = batches.iter().any(|batch| batch.changes_vote);
        self.put_encoded(payloads, doubled);
    }

    fn put_frame(&mut self, records: &Records, doubled: bool) {
        self.records.clear();
        record::encode(&mut self.records, records, &mut None);
        self.put_encoded(|| [].iter(), doubled);
    }

    /// Puts a frame of the encoded records into the buffer.
    fn put_encoded<'p, I: Iterator<Item = &'p Bytes>>(
        &mut self,
        payloads: impl Fn() -> I,
        doubled: bool,
    ) {
        let frame = NewFrame {
            home: self.segment.home(),
            offset: self.end,
            link: self.link,
            mark: match planted("mark_ahead") {
                true => self.link.sequence - 1,
                false => self.mark,
            },
            doubled: doubled && !planted("one_vote"),
            records: &self.records,
        };
        let start = self.buffer.len();
        let directory = frame.encode(payloads, &mut self.buffer);
        self.keep_for_seal(&directory, start);
        self.end += directory.head.frame_bytes();
        self.link = directory.link_after();
    }

    fn keep_for_seal(&mut self, directory: &Directory, frame_start: usize) {
        let from = frame_start + directory.head.directory_distance() as usize;
        let to = from + directory.head.directory_bytes() as usize;
        self.seal.extend_from_slice(&self.buffer[from..to]);
    }

    /// Writes what is in the buffer, which goes to `start`. Everything is durable on return.
    fn flush(&mut self, start: &mut u64) -> Result<()> {
        if self.mark + 1 == self.link.sequence {
            return Ok(());
        }
        self.put_down(start)?;
        let Segment { file, path, .. } = &*self.segment;
        if !planted("no_sync") {
            let since = Instant::now();
            file.sync_data().map_err(Error::io("sync", path))?;
            self.syncs.push(since.elapsed());
        }
        self.mark = self.link.sequence - 1;
        Ok(())
    }

    fn put_down(&mut self, start: &mut u64) -> Result<()> {
        let Segment { file, path, .. } = &*self.segment;
        let written = match planted("short_write_is_whole") {
            true => file.write_at(&self.buffer, *start).map(drop),
            false => file.write_all_at(&self.buffer, *start),
        };
        written.map_err(Error::io("write", path))?;
        *start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn rotate(&mut self, next: Arc<Segment>) -> Full {
        let segment = std::mem::replace(&mut self.segment, next);
        let full = Full {
            segment,
            directories: std::mem::take(&mut self.seal).into(),
            frames_end: self.end,
            first: self.first,
            last: self.link,
        };
        if planted("sealed_early") {
            let _ = full.seal();
        }
        self.end = SEGMENT_HEADER_BYTES as u64;
        self.first = self.link;
        self.summary_bytes = 0;
        full
    }
}

/// The space of a frame made of these batches, and of its part of the seal.
fn space_of(batches: &[Arc<Body>]) -> u64 {
    let sum = |of: fn(&Sizes) -> u64| batches.iter().map(|batch| of(&batch.sizes)).sum();
    let doubled = batches.iter().any(|batch| batch.changes_vote);
    frame_space(
        sum(|sizes| sizes.payloads),
        sum(|sizes| sizes.records),
        sum(|sizes| sizes.summary),
        doubled,
    )
}

/// The space that a frame takes, with its part of the seal.
pub(crate) fn frame_space(
    payload_bytes: u64,
    record_bytes: u64,
    summary_bytes: u64,
    doubled: bool,
) -> u64 {
    let directory_bytes = DIRECTORY_HEAD_BYTES as u64 + record_bytes;
    frame_bytes(payload_bytes, record_bytes, doubled) + directory_bytes + summary_bytes
}

/// Batches that go into one frame each: a batch that changes a vote has its own, which is doubled.
fn split_into_frames(batches: &[Arc<Body>]) -> impl Iterator<Item = &[Arc<Body>]> {
    let mut rest = batches;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut bytes = 0;
        let joins = |batch: &&Arc<Body>| {
            bytes += batch.sizes.payloads;
            !batch.changes_vote && bytes <= FRAME_PAYLOAD_BYTES
        };
        let count = match first.changes_vote {
            true => 1,
            false => rest.iter().take_while(joins).count().max(1),
        };
        let (frame, after) = rest.split_at(count);
        rest = after;
        Some(frame)
    })
}
