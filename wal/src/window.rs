//! Reads a file from front to back in large pieces, whatever pieces are asked for, in bounded memory.

use crate::canary::planted;
use crate::error::{Error, Result};
use crate::segment::Segment;

/// A piece of a segment file in memory.
///
/// Invariant: the first `filled` bytes of `buffer` are what the file holds at `start`.
pub(crate) struct Window<'a> {
    segment: &'a Segment,
    file_bytes: u64,
    start: u64,
    /// Kept, so that its memory is touched once.
    buffer: Vec<u8>,
    filled: usize,
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
            buffer: Vec::new(),
            filled: 0,
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
    pub(crate) fn read_up_to(&mut self, offset: u64, len: u64) -> Result<&[u8]> {
        let len = len.min(self.remaining(offset));
        if len == 0 {
            return Ok(&[]);
        }
        self.load(offset, len)?;
        let from = (offset - self.start) as usize;
        Ok(&self.buffer[from..from + len as usize])
    }

    /// A large piece at `offset`: all there is, or so much that going on at its end loses nothing.
    pub(crate) fn chunk(&mut self, offset: u64) -> Result<&[u8]> {
        self.read_up_to(offset, READ_BYTES)
    }

    fn load(&mut self, offset: u64, len: u64) -> Result<()> {
        let end = self.start + self.filled as u64;
        if offset >= self.start && offset + len <= end {
            return Ok(());
        }
        // What is here already is not read again.
        let mut kept = 0;
        if (self.start..end).contains(&offset) {
            let from = (offset - self.start) as usize;
            self.buffer.copy_within(from..self.filled, 0);
            kept = self.filled - from;
        }
        let load = len.max(READ_BYTES).min(self.remaining(offset)) as usize;
        if self.buffer.len() < load {
            self.buffer.resize(load, 0);
        }
        (self.start, self.filled) = (offset, kept);
        let rest = &mut self.buffer[kept..load];
        let read = self.segment.file.read_exact_at(rest, offset + kept as u64);
        let read = read.or_else(|error| match planted("unreadable_is_zeros") {
            true => {
                rest.fill(0);
                Ok(())
            }
            false => Err(error),
        });
        read.map_err(Error::io("read", &self.segment.path))?;
        self.filled = load;
        Ok(())
    }
}
