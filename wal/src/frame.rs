//! Frames: one write, whole or not there. The bytes are drawn in `format.rs`.
//!
//! A frame is found through its header or, if that is bad, by looking for its directory, which says the same and where the
//! frame starts. What cannot be had from either copy of the directory is not known.

use byteorder::{ByteOrder, LittleEndian as LE};
use bytes::Bytes;

use crate::format::{
    COPY_DISTANCE, DIRECTORY_HEAD_BYTES, FRAME_HEADER_BYTES, NUMBERS_MAX, Place, padded,
};

/// A frame's place in the chain of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    /// The sequence number of the next frame.
    pub(crate) sequence: u64,
    /// The directory checksum of the last frame.
    pub(crate) predecessor: u32,
    /// The epoch of the last frame.
    pub(crate) epoch: u64,
}

impl Link {
    /// No epoch has this number. Before the oldest segment that is there, the epoch is not known.
    pub(crate) const ANY_EPOCH: u64 = u64::MAX;

    /// Before the first frame of a log.
    pub(crate) const FIRST: Link = Link {
        sequence: 1,
        predecessor: 0,
        epoch: 0,
    };
}

/// What the header and the directory of a frame say alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Whether a second directory follows.
    pub(crate) doubled: bool,
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
    pub(crate) payload_bytes: u32,
    pub(crate) record_bytes: u32,
    /// Every frame up to this sequence was durable when this one was written.
    pub(crate) mark: u64,
}

/// A frame's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) head: Head,
    pub(crate) checksum: u32,
    pub(crate) predecessor: u32,
    /// Where the frame starts.
    pub(crate) frame_offset: u64,
    pub(crate) records: Bytes,
}

/// Which log and segment a frame is looked for in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home {
    pub(crate) log_id: u128,
    pub(crate) segment: u64,
}

const FLAG_DOUBLED: u32 = 1;

impl Home {
    fn place(self, epoch: u64, offset: u64) -> Place {
        Place {
            log_id: self.log_id,
            segment: self.segment,
            epoch,
            offset,
        }
    }
}

/// The length of a frame with these contents, from its start to where the next one starts.
pub(crate) fn frame_bytes(payload_bytes: u64, record_bytes: u64, doubled: bool) -> u64 {
    let directory = FRAME_HEADER_BYTES as u64 + padded(payload_bytes);
    let directory_bytes = DIRECTORY_HEAD_BYTES as u64 + padded(record_bytes);
    let end = directory + directory_bytes;
    if doubled {
        end.max(COPY_DISTANCE) + directory_bytes
    } else {
        end
    }
}

impl Head {
    /// From the first 40 bytes of a frame header or directory, whichever; whether they are right is for the caller.
    /// `None` if they cannot be.
    fn decode(buf: &[u8]) -> Option<Head> {
        let flags = LE::read_u32(&buf[4..]);
        let head = Head {
            doubled: flags == FLAG_DOUBLED,
            epoch: LE::read_u64(&buf[8..]),
            sequence: LE::read_u64(&buf[16..]),
            payload_bytes: LE::read_u32(&buf[24..]),
            record_bytes: LE::read_u32(&buf[28..]),
            mark: LE::read_u64(&buf[32..]),
        };
        let is_epoch = ![0, Link::ANY_EPOCH].contains(&head.epoch);
        let is_sequence = head.mark < head.sequence && head.sequence < NUMBERS_MAX;
        let sane = flags <= FLAG_DOUBLED && is_epoch && is_sequence;
        sane.then_some(head)
    }

    fn encode(&self, buf: &mut [u8]) {
        LE::write_u32(&mut buf[4..], if self.doubled { FLAG_DOUBLED } else { 0 });
        LE::write_u64(&mut buf[8..], self.epoch);
        LE::write_u64(&mut buf[16..], self.sequence);
        LE::write_u32(&mut buf[24..], self.payload_bytes);
        LE::write_u32(&mut buf[28..], self.record_bytes);
        LE::write_u64(&mut buf[32..], self.mark);
    }

    pub(crate) fn encode_frame_header(&self, home: Home, offset: u64) -> [u8; FRAME_HEADER_BYTES] {
        let mut header = [0; FRAME_HEADER_BYTES];
        self.encode(&mut header);
        let checksum = home.place(self.epoch, offset).checksum(&header[4..]);
        LE::write_u32(&mut header, checksum);
        header
    }

    /// The frame header at `offset`, if there is one.
    pub(crate) fn decode_frame_header(buf: &[u8], home: Home, offset: u64) -> Option<Head> {
        let bytes = buf.get(..FRAME_HEADER_BYTES)?;
        let head = Head::decode(bytes)?;
        let checksum = home.place(head.epoch, offset).checksum(&bytes[4..]);
        (checksum == LE::read_u32(bytes)).then_some(head)
    }

    pub(crate) fn frame_bytes(&self) -> u64 {
        frame_bytes(
            self.payload_bytes.into(),
            self.record_bytes.into(),
            self.doubled,
        )
    }

    pub(crate) fn directory_bytes(&self) -> u64 {
        DIRECTORY_HEAD_BYTES as u64 + padded(self.record_bytes.into())
    }

    /// Where the directory is, from the start of the frame.
    pub(crate) fn directory_distance(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + padded(self.payload_bytes.into())
    }

    /// Where the second directory is, from the start of the frame.
    pub(crate) fn copy_distance(&self) -> Option<u64> {
        let end = self.directory_distance() + self.directory_bytes();
        self.doubled.then_some(end.max(COPY_DISTANCE))
    }
}

impl Directory {
    /// The directory that `buf` starts with, which stands at `offset`, if there is one. `buf` may be longer.
    pub(crate) fn decode(buf: &[u8], home: Home, offset: u64) -> Option<Directory> {
        let head = Directory::decode_head(buf, home, offset)?;
        let end = usize::try_from(head.directory_bytes()).ok()?;
        let records = buf.get(DIRECTORY_HEAD_BYTES..end)?;
        if crc32fast::hash(records) != LE::read_u32(&buf[44..]) {
            return None;
        }
        let records_end = DIRECTORY_HEAD_BYTES + head.record_bytes as usize;
        Some(Directory {
            head,
            checksum: LE::read_u32(buf),
            predecessor: LE::read_u32(&buf[40..]),
            frame_offset: LE::read_u64(&buf[48..]),
            records: Bytes::copy_from_slice(&buf[DIRECTORY_HEAD_BYTES..records_end]),
        })
    }

    /// The head of the directory at `offset`, if there is one. The records are not checked yet; it has its own checksum,
    /// so that looking for directories stays cheap whatever the lengths claim.
    pub(crate) fn decode_head(buf: &[u8], home: Home, offset: u64) -> Option<Head> {
        let bytes = buf.get(..DIRECTORY_HEAD_BYTES)?;
        let head = Head::decode(bytes)?;
        let checksum = home.place(head.epoch, offset).checksum(&bytes[4..]);
        (checksum == LE::read_u32(bytes)).then_some(head)
    }

    /// What a seal says before it is checked: where the directory stands in its frame, and how long it is.
    pub(crate) fn peek(buf: &[u8]) -> Option<(u64, u64)> {
        let head = Head::decode(buf.get(..DIRECTORY_HEAD_BYTES)?)?;
        let frame_offset = LE::read_u64(&buf[48..]);
        let offset = frame_offset.checked_add(head.directory_distance())?;
        Some((offset, head.directory_bytes()))
    }

    /// This directory as the first one of its frame, whichever of the two it was read from: the chain goes by the first.
    pub(crate) fn into_first(mut self, home: Home) -> Directory {
        let encoded = self.encode_first(home);
        self.checksum = LE::read_u32(&encoded);
        self
    }

    /// The bytes of the first directory of the frame.
    pub(crate) fn encode_first(&self, home: Home) -> Vec<u8> {
        self.encode(home, self.frame_offset + self.head.directory_distance())
    }

    /// The header and all directories of the frame, and where in it they stand.
    pub(crate) fn copies(&self, home: Home) -> Vec<(u64, Vec<u8>)> {
        let header = self.head.encode_frame_header(home, self.frame_offset);
        let distances = [
            Some(self.head.directory_distance()),
            self.head.copy_distance(),
        ];
        let directories = distances.into_iter().flatten();
        let directories =
            directories.map(|distance| (distance, self.encode(home, self.frame_offset + distance)));
        std::iter::once((0, header.to_vec()))
            .chain(directories)
            .collect()
    }

    /// What follows this frame.
    pub(crate) fn link_after(&self) -> Link {
        Link {
            sequence: self.head.sequence + 1,
            predecessor: self.checksum,
            epoch: self.head.epoch,
        }
    }

    /// Where the frame's first payload is.
    pub(crate) fn payload_offset(&self) -> u64 {
        self.frame_offset + FRAME_HEADER_BYTES as u64
    }

    pub(crate) fn frame_end(&self) -> u64 {
        self.frame_offset + self.head.frame_bytes()
    }

    /// The bytes of a directory at `offset`; sets the checksum. The two directories of a frame differ in nothing else.
    fn encode(&self, home: Home, offset: u64) -> Vec<u8> {
        let mut buf = vec![0; self.head.directory_bytes() as usize];
        self.head.encode(&mut buf);
        LE::write_u32(&mut buf[40..], self.predecessor);
        LE::write_u64(&mut buf[48..], self.frame_offset);
        buf[DIRECTORY_HEAD_BYTES..][..self.records.len()].copy_from_slice(&self.records);
        let records_checksum = crc32fast::hash(&buf[DIRECTORY_HEAD_BYTES..]);
        LE::write_u32(&mut buf[44..], records_checksum);
        let checksum = home
            .place(self.head.epoch, offset)
            .checksum(&buf[4..DIRECTORY_HEAD_BYTES]);
        LE::write_u32(&mut buf, checksum);
        buf
    }
}

/// What a new frame is made of.
pub(crate) struct NewFrame<'a> {
    pub(crate) home: Home,
    /// Where it goes, in bytes from the start of the segment.
    pub(crate) offset: u64,
    pub(crate) link: Link,
    pub(crate) mark: u64,
    pub(crate) doubled: bool,
    /// Encoded.
    pub(crate) records: &'a [u8],
}

impl NewFrame<'_> {
    /// Appends the bytes of the frame to `buf`. Gives its directory: the first one, whose checksum the chain goes by.
    ///
    /// The caller has checked that the lengths fit in 32 bits.
    pub(crate) fn encode<'p, I: Iterator<Item = &'p Bytes>>(
        &self,
        payloads: impl Fn() -> I,
        buf: &mut Vec<u8>,
    ) -> Directory {
        let start = buf.len();
        let payload_bytes: usize = payloads().map(Bytes::len).sum();
        let head = Head {
            doubled: self.doubled,
            epoch: self.link.epoch,
            sequence: self.link.sequence,
            payload_bytes: u32::try_from(payload_bytes)
                .expect("a batch is limited to less than 4 GiB"),
            record_bytes: u32::try_from(self.records.len())
                .expect("a batch is limited to less than 4 GiB"),
            mark: self.mark,
        };
        buf.extend_from_slice(&head.encode_frame_header(self.home, self.offset));
        for payload in payloads() {
            buf.extend_from_slice(payload);
        }
        buf.resize(start + head.directory_distance() as usize, 0);

        let mut directory = Directory {
            head,
            checksum: 0,
            predecessor: self.link.predecessor,
            frame_offset: self.offset,
            records: Bytes::copy_from_slice(self.records),
        };
        let encoded = directory.encode(self.home, self.offset + head.directory_distance());
        directory.checksum = LE::read_u32(&encoded);
        buf.extend_from_slice(&encoded);
        if let Some(distance) = head.copy_distance() {
            buf.resize(start + distance as usize, 0);
            buf.extend_from_slice(&directory.encode(self.home, self.offset + distance));
        }
        assert!(
            (buf.len() - start) as u64 == head.frame_bytes(),
            "a frame is as long as it says"
        );
        directory
    }
}
