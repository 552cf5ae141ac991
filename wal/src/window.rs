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
    /// In front of this no more is read than what is asked for: something there cannot be read, and a disk may try for
    /// seconds each time.
    ahead_from: u64,
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
            ahead_from: 0,
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
        (self.start, self.filled) = (offset, kept);
        let ahead = len.max(READ_BYTES).min(self.remaining(offset));
        if ahead > len && offset >= self.ahead_from {
            if self.fill_to(ahead).is_ok() {
                return Ok(());
            }
            // What cannot be read may be what nobody asked for.
            self.ahead_from = offset + ahead;
        }
        self.fill_to(len)
    }

    /// Reads the rest of the first `len` bytes of the buffer. If that fails, it holds what it held.
    fn fill_to(&mut self, len: u64) -> Result<()> {
        let (offset, len) = (self.start + self.filled as u64, len as usize);
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let buffer = &mut self.buffer[self.filled..len];
        let read = self.segment.file.read_exact_at(buffer, offset);
        let read = read.or_else(|error| match planted("unreadable_is_zeros") {
            true => {
                buffer.fill(0);
                Ok(())
            }
            false => Err(error),
        });
        read.map_err(Error::io("read", &self.segment.path))?;
        self.filled = len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use duramen_disk::{Disk, Failure, Op, SimDisk};

    use super::*;
    use crate::segment::SegmentHeader;

    #[test]
    fn what_cannot_be_read_and_nobody_asked_for_is_tried_once() {
        let (disk, path) = (SimDisk::new(), Path::new("/segment"));
        let file = disk.create(path).unwrap();
        file.write_all_at(&[7; 8192], 0).unwrap();
        file.sync_data().unwrap();
        disk.make_bad(path, 8000..8001).unwrap();
        let header = SegmentHeader {
            log_id: 1,
            number: 1,
            file_bytes: 8192,
            is_recycled: false,
        };
        let segment = Segment::new(header, path.to_owned(), file);
        let mut window = Window::open(&segment).unwrap();
        assert_eq!(window.read_up_to(0, 100).unwrap(), [7; 100]);
        assert_eq!(window.read_up_to(50, 100).unwrap(), [7; 100]);
        // Were there two attempts, the second would be well.
        disk.fail_op(Op::Read, 0, Failure::EIO);
        assert!(window.read_up_to(200, 100).is_err());
        assert_eq!(window.read_up_to(200, 100).unwrap(), [7; 100]);
        assert!(window.read_up_to(7900, 100).is_err());
    }
}
