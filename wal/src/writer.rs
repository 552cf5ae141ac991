//! Writing: one frame and one sync per batch, and what happens when they fail.
//!
//! Invariants:
//! * `groups` holds what is durable and nothing else: a batch enters it after its sync returned Ok.
//! * Frame n is written only when all before it are durable. Recovery relies on it.
//! * Once `poison` is set nothing is written any more.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian as LE};
use bytes::Bytes;
use duramen_disk::Disk;

use crate::Options;
use crate::batch::Batch;
use crate::error::{Damage, Error, Misuse, Result, is_full};
use crate::format::{
    FrameHeader, Link, Place, SEGMENT_HEADER_BYTES, SegmentHeader, encode_frame, frame_bytes,
};
use crate::groups::{Check, Groups, Slot};
use crate::recovery::Recovered;
use crate::segment::Segment;

pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    groups: Groups,
    /// All of them, in order; the last one is written.
    segments: Vec<Segment>,
    /// Where in the last segment the next frame goes.
    end: u64,
    link: Link,
    poison: Option<Arc<Error>>,
    /// Kept between writes, so that its memory is touched once.
    frame: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        recovered: Recovered,
    ) -> Writer {
        Writer {
            disk,
            dir: dir.to_owned(),
            options,
            groups: recovered.groups,
            segments: recovered.segments,
            end: recovered.end,
            link: recovered.link,
            poison: None,
            frame: Vec::new(),
        }
    }

    pub(crate) fn groups(&self) -> &Groups {
        &self.groups
    }

    pub(crate) fn write(&mut self, batch: &Batch) -> Result<()> {
        if let Some(cause) = &self.poison {
            let cause = cause.clone();
            return Err(Error::Poisoned { cause });
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.check(batch)?;
        let written = self.write_durably(batch);
        match written {
            Ok(header) => {
                self.take(batch, &header);
                Ok(())
            }
            Err(error) => {
                if !matches!(error, Error::Full { .. }) {
                    tracing::error!(%error, "the log takes no more writes");
                    self.poison = Some(Arc::new(error.clone()));
                }
                Err(error)
            }
        }
    }

    /// Everything that can be refused is refused here, before anything is written.
    fn check(&self, batch: &Batch) -> Result<()> {
        let (bytes, bytes_max) = (frame_bytes(&batch.records), self.options.batch_bytes_max);
        if bytes > bytes_max {
            return Err(Error::TooLarge { bytes, bytes_max });
        }
        let mut check = Check::new(&self.groups);
        for record in &batch.records {
            let misuse = |misuse: Misuse| Error::misuse(record.group(), misuse);
            check.record(record).map_err(misuse)?;
        }
        Ok(())
    }

    fn write_durably(&mut self, batch: &Batch) -> Result<FrameHeader> {
        if self.end >= self.options.segment_bytes && self.end > SEGMENT_HEADER_BYTES as u64 {
            self.rotate()?;
        }
        let segment = self
            .segments
            .last()
            .expect("a log has at least one segment");
        let place = Place {
            log_id: segment.header.log_id,
            segment: segment.header.number,
            offset: self.end,
        };
        let header = encode_frame(&mut self.frame, &batch.records, place, self.link);
        if let Err(error) = segment.file.write_all_at(&self.frame, self.end) {
            if is_full(&error) {
                return Err(self.give_back(segment));
            }
            return Err(Error::io("write", &segment.path)(error));
        }
        segment
            .file
            .sync_data()
            .map_err(Error::io("sync", &segment.path))?;
        Ok(header)
    }

    /// After a write that ran out of space: what it left is removed durably. Otherwise a crash could bring back a batch
    /// that was refused.
    fn give_back(&self, segment: &Segment) -> Error {
        let path = &segment.path;
        let given_back = segment
            .file
            .set_len(self.end)
            .map_err(Error::io("cut", path))
            .and_then(|()| segment.file.sync_data().map_err(Error::io("sync", path)));
        match given_back {
            Ok(()) => Error::Full { path: path.clone() },
            Err(error) => error,
        }
    }

    /// All frames of the old segment are durable; the new one is, with its name, before its first frame is written.
    fn rotate(&mut self) -> Result<()> {
        let last = self
            .segments
            .last()
            .expect("a log has at least one segment");
        let header = SegmentHeader {
            log_id: last.header.log_id,
            number: last.header.number + 1,
            first_sequence: self.link.sequence,
            predecessor: self.link.predecessor,
        };
        let segment = Segment::create(&*self.disk, &self.dir, header)?;
        self.segments.push(segment);
        self.end = SEGMENT_HEADER_BYTES as u64;
        Ok(())
    }

    /// Takes a durable batch into the groups.
    fn take(&mut self, batch: &Batch, header: &FrameHeader) {
        self.groups
            .apply(&batch.records, self.segments.len() as u64, self.end);
        self.end += header.frame_bytes();
        self.link = Link::after(header);
    }

    /// Reads an entry's payload. `checksum` gives what its checksum should be.
    pub(crate) fn read_payload(
        &self,
        slot: &Slot,
        checksum: impl FnOnce(&[u8]) -> u32,
    ) -> Result<Bytes> {
        let segment = &self.segments[(slot.segment - 1) as usize];
        // The checksum stands right before the payload.
        let at = slot.offset - 4;
        let mut buf = vec![0; 4 + slot.payload_bytes as usize];
        segment
            .file
            .read_exact_at(&mut buf, at)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    Error::damaged(&segment.path, at, Damage::Short)
                }
                _ => Error::io("read", &segment.path)(error),
            })?;
        let mut stored = Bytes::from(buf);
        let payload = stored.split_off(4);
        if LE::read_u32(&stored) != checksum(&payload) {
            return Err(Error::damaged(&segment.path, at, Damage::Checksum));
        }
        Ok(payload)
    }
}
