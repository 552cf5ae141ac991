//! Writing frames: what goes into which segment, and in which order things become durable.
//!
//! Only one thread at a time writes, and each write is one `write` and one `sync_data`. So when a write begins, all frames
//! before it are durable, and say so (`mark`).
//!
//! # Rotation
//!
//! 1. All frames of the old segment are durable: nothing is under way.
//! 2. The new segment's header, length and name become durable.
//! 3. The old segment is sealed. If the power goes before that, its frames still say all the seal would.
//! 4. CONTROL learns of the new segment.
//! 5. The first frame of the new segment, with the state of every group, goes out with the batches that did not fit.
//!
//! # Invariants
//!
//! * `states` follows the frames that are written, and nothing else.
//! * A frame that changes a term or a vote is the first of its write: all before it is durable.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use duramen_disk::{Disk, DiskFile};

use crate::canary::planted;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::format::{DIRECTORY_HEAD_BYTES, FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use crate::frame::{Directory, Home, Link, NewFrame, frame_bytes};
use crate::groups::Before;
use crate::record::{self, Record};
use crate::segment::{Segment, Spare};
use crate::states::States;

/// A batch on its way to the disk.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) records: Vec<Record>,
    pub(crate) payloads: Vec<Bytes>,
    /// The number of its first payload.
    pub(crate) number: u64,
    pub(crate) changes_vote: bool,
    /// The most space it can take: its frame, and what it may add to the first frame of the next segment.
    pub(crate) space: u64,
    /// What takes it back.
    pub(crate) before: Vec<Before>,
}

/// What a write gave.
#[derive(Default)]
pub(crate) struct Batches {
    /// Where the payloads of each batch are now.
    pub(crate) places: Vec<Written>,
    /// The segments that were begun.
    pub(crate) new_segments: Vec<Arc<Segment>>,
}

/// Where a batch's payloads are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) segment: Arc<Segment>,
    /// Where in the segment the next frame goes.
    pub(crate) end: u64,
    /// The directories of the segment's frames: its seal.
    pub(crate) seal: Vec<u8>,
    pub(crate) link: Link,
    pub(crate) states: States,
    pub(crate) control: Control,
    pub(crate) control_file: Box<dyn DiskFile>,
    /// Kept between writes, so that their memory is touched once.
    pub(crate) buffer: Vec<u8>,
    pub(crate) records: Vec<u8>,
}

/// Batches that wait together share a frame up to this size. A frame is lost as a whole if its write is torn.
const FRAME_PAYLOAD_BYTES: usize = 1 << 20;

impl Writer {
    /// How many bytes of frames still go into the segment, seal and trailer reckoned in.
    pub(crate) fn room(&self) -> u64 {
        let limit = self.segment.frames_limit(self.seal.len() as u64);
        limit.saturating_sub(self.end)
    }

    /// Writes batches. Durable on return. After an error nothing is known, and nothing more may be written.
    ///
    /// `spare` gives the file for the next segment when one is needed.
    pub(crate) fn write(
        &mut self,
        batches: &[Queued],
        mut spare: impl FnMut() -> Result<Spare>,
    ) -> Result<Batches> {
        let mut written = Batches::default();
        let mut start = self.end;
        self.buffer.clear();
        for frame in split_into_frames(batches) {
            if space_of(frame) > self.room() {
                if planted("seal_before_data") {
                    self.put_down(start)?;
                }
                self.flush(start)?;
                self.rotate(spare()?)?;
                written.new_segments.push(self.segment.clone());
                start = self.end;
                let states = self.states.records();
                self.put_frame(&states);
            }
            self.put_batches(frame, &mut written.places);
        }
        self.flush(start)?;
        Ok(written)
    }

    /// Writes the frame that begins an epoch. Durable on return. Needs a spare for so many bytes if the segment is full.
    pub(crate) fn resume(
        &mut self,
        epoch: u64,
        spare: impl FnOnce(u64) -> Result<Spare>,
    ) -> Result<()> {
        let space = frame_space(0, RESUME_BYTES_MAX, false);
        if space > self.room() {
            self.rotate(spare(space + self.states.space())?)?;
        }
        let mut records = vec![Record::Resume {
            epoch_before: self.link.epoch,
        }];
        if self.end == SEGMENT_HEADER_BYTES as u64 {
            records.extend(self.states.records());
        }
        self.link.epoch = epoch;
        self.buffer.clear();
        let start = self.end;
        self.put_frame(&records);
        self.flush(start)
    }

    fn put_batches(&mut self, batches: &[Queued], written: &mut Vec<Written>) {
        self.records.clear();
        let mut group = None;
        let mut offset = self.end + FRAME_HEADER_BYTES as u64;
        let mut payloads = Vec::new();
        for batch in batches {
            record::encode(&mut self.records, &batch.records, &mut group);
            batch
                .records
                .iter()
                .for_each(|record| self.states.apply(record));
            payloads.extend_from_slice(&batch.payloads);
            let segment = self.segment.header.number;
            written.push(Written { segment, offset });
            offset += batch
                .payloads
                .iter()
                .map(|payload| payload.len() as u64)
                .sum::<u64>();
        }
        let doubled = batches.iter().any(|batch| batch.changes_vote);
        self.put_encoded(&payloads, doubled);
    }

    fn put_frame(&mut self, records: &[Record]) {
        self.records.clear();
        record::encode(&mut self.records, records, &mut None);
        self.put_encoded(&[], false);
    }

    /// Puts a frame of the encoded records into the buffer.
    fn put_encoded(&mut self, payloads: &[Bytes], doubled: bool) {
        let frame = NewFrame {
            home: self.segment.home(),
            offset: self.end,
            link: self.link,
            mark: match planted("mark_ahead") {
                true => self.link.sequence - 1,
                false => self.control.mark,
            },
            doubled: doubled && !planted("one_vote"),
            payloads,
            records: &self.records,
        };
        let start = self.buffer.len();
        let directory = frame.encode(&mut self.buffer);
        self.keep_for_seal(&directory, start);
        self.end += directory.head.frame_bytes();
        self.link = directory.link_after();
    }

    fn keep_for_seal(&mut self, directory: &Directory, frame_start: usize) {
        let from = frame_start + directory.head.directory_distance() as usize;
        let to = from + directory.head.directory_bytes() as usize;
        self.seal.extend_from_slice(&self.buffer[from..to]);
    }

    /// Writes what is in the buffer, which goes to `start`.
    fn flush(&mut self, start: u64) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.put_down(start)?;
        let Segment { file, path, .. } = &*self.segment;
        if !planted("no_sync") {
            file.sync_data().map_err(Error::io("sync", path))?;
        }
        self.control.mark = self.link.sequence - 1;
        Ok(())
    }

    fn put_down(&mut self, start: u64) -> Result<()> {
        let Segment { file, path, .. } = &*self.segment;
        file.write_all_at(&self.buffer, start)
            .map_err(Error::io("write", path))?;
        self.buffer.clear();
        Ok(())
    }

    fn rotate(&mut self, spare: Spare) -> Result<()> {
        let old = self.segment.clone();
        let home = Home {
            segment: old.header.number + 1,
            ..old.home()
        };
        let new = spare.into_segment(&*self.disk, &self.dir, home, self.link)?;
        old.seal(&self.seal, self.end, self.link)?;
        self.segment = Arc::new(new);
        self.end = SEGMENT_HEADER_BYTES as u64;
        self.seal.clear();
        self.control.newest = home.segment;
        self.write_control()
    }

    /// Writes CONTROL. Durable on return.
    pub(crate) fn write_control(&mut self) -> Result<()> {
        self.control.generation += 1;
        self.control.write(&*self.control_file, &self.dir)
    }

    /// Frees the oldest segments: no slot points into them, durably. With `recycle`, a number for a spare and its size,
    /// gives the file of one of them back, if it has that size and nobody reads it.
    ///
    /// CONTROL says so first. If a crash comes between, the next `open` removes the files.
    pub(crate) fn free(
        &mut self,
        freed: Vec<Arc<Segment>>,
        mut recycle: Option<(u64, u64)>,
    ) -> Result<Option<Spare>> {
        self.control.oldest += freed.len() as u64;
        if !planted("removed_before_control") {
            self.write_control()?;
        }
        let mut spare = None;
        for segment in freed {
            let wanted = recycle.filter(|(_, file_bytes)| segment.header.file_bytes == *file_bytes);
            let path = segment.path.clone();
            match (wanted, Arc::into_inner(segment)) {
                (Some((number, _)), Some(segment)) => {
                    spare = Some(Spare::recycle(&*self.disk, &self.dir, number, segment)?);
                    recycle = None;
                }
                _ => self
                    .disk
                    .remove(&path)
                    .map_err(Error::io("remove", &path))?,
            }
        }
        self.disk
            .sync_dir(&self.dir)
            .map_err(Error::io("sync", &self.dir))?;
        Ok(spare)
    }
}

/// The space of a frame made of these batches, and of its part of the seal.
fn space_of(batches: &[Queued]) -> u64 {
    let payloads = batches.iter().flat_map(|batch| &batch.payloads);
    let payload_bytes: usize = payloads.map(Bytes::len).sum();
    let records = batches.iter().flat_map(|batch| &batch.records);
    let record_bytes = records.map(Record::encoded_bytes_max).sum();
    let doubled = batches.iter().any(|batch| batch.changes_vote);
    frame_space(payload_bytes as u64, record_bytes, doubled)
}

/// The records of a resume frame that is not the first of its segment.
const RESUME_BYTES_MAX: u64 = 24;

/// The space that a frame takes, with its part of the seal.
pub(crate) fn frame_space(payload_bytes: u64, record_bytes: u64, doubled: bool) -> u64 {
    let directory_bytes = DIRECTORY_HEAD_BYTES as u64 + record_bytes;
    frame_bytes(payload_bytes, record_bytes, doubled) + directory_bytes
}

/// Batches that go into one frame each: a batch that changes a vote has its own, which is doubled.
fn split_into_frames(batches: &[Queued]) -> impl Iterator<Item = &[Queued]> {
    let mut rest = batches;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut bytes = 0;
        let joins = |batch: &&Queued| {
            bytes += batch.payloads.iter().map(Bytes::len).sum::<usize>();
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
