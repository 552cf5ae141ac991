//! Reads a file from front to back in large pieces, whatever pieces are asked for, in bounded memory.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::segment::Segment;

/// A piece of a segment file in memory.
///
/// Invariant: `bytes` is what the file holds at `start`.
pub(crate) struct Window<'a> {
    segment: &'a Segment,
    file_bytes: u64,
    start: u64,
    bytes: Bytes,
}

const READ_BYTES: u64 = 1 << 20;

impl<'a> Window<'a> {
    pub(crate) fn open(segment: &'a Segment) -> Result<Window<'a>> {
        let file_bytes = segment
            .file
            .len()
            .map_err(Error::io("look at", &segment.path))?;
        Ok(Window {
            segment,
            file_bytes,
            start: 0,
            bytes: Bytes::new(),
        })
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// How many bytes the file has from `offset` on.
    pub(crate) fn remaining(&self, offset: u64) -> u64 {
        self.file_bytes.saturating_sub(offset)
    }

    /// The `len` bytes at `offset`, or as many as the file has.
    pub(crate) fn read_up_to(&mut self, offset: u64, len: u64) -> Result<Bytes> {
        let len = len.min(self.remaining(offset));
        if len == 0 {
            return Ok(Bytes::new());
        }
        self.load(offset, len)?;
        let from = (offset - self.start) as usize;
        Ok(self.bytes.slice(from..from + len as usize))
    }

    /// A large piece at `offset`: all there is, or so much that going on at its end loses nothing.
    pub(crate) fn chunk(&mut self, offset: u64) -> Result<Bytes> {
        self.read_up_to(offset, READ_BYTES)
    }

    fn load(&mut self, offset: u64, len: u64) -> Result<()> {
        let end = self.start + self.bytes.len() as u64;
        if offset >= self.start && offset + len <= end {
            return Ok(());
        }
        let load = len.max(READ_BYTES).min(self.remaining(offset));
        let mut buf = vec![0; load as usize];
        let path = &self.segment.path;
        self.segment
            .file
            .read_exact_at(&mut buf, offset)
            .map_err(Error::io("read", path))?;
        self.start = offset;
        self.bytes = buf.into();
        Ok(())
    }
}
