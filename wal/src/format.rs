//! The bytes on disk, format version 0. Everything is little-endian.
//!
//! ```text
//! segment file  <16 hex digits of its number>.wal
//!
//!   0  magic "DURAMENW"                   8
//!   8  format version                     4
//!  12  checksum of the other 52 bytes     4
//!  16  log id                            16   random, made by `create`
//!  32  segment number                     8   1, 2, 3, ..
//!  40  sequence of its first frame        8
//!  48  predecessor                        4   header checksum of the last frame of the segment before; 0 in the first
//!  52  zero                               4
//!  56  frames
//!
//! frame, at a multiple of 8              one batch
//!
//!   0  header checksum                    4   of log id, segment number, offset of the frame, and the next 20 bytes
//!   4  body length                        4
//!   8  sequence                           8   1, 2, 3, .. through all segments
//!  16  predecessor                        4   header checksum of the frame before; 0 in the first
//!  20  body checksum                      4
//!  24  body: records
//!      zeros to a multiple of 8
//!
//! record                                  all start with: kind 1, group 8
//!
//!   1  hard state   term 8, voted 1 (0 or 1), voted for 8
//!   2  entry        index 8, term 8, payload length 4, entry checksum 4, payload
//!   3  user record  length 4, bytes
//! ```
//!
//! A header's checksum covers where the header is, so a frame is valid at one place of one segment of one log only, and
//! is never found inside somebody's payload. The predecessor chains the frames: each is bound to all before it.
//! Version 0 is the format of an unreleased program and will not be read by later ones.

use byteorder::{ByteOrder, LittleEndian as LE, WriteBytesExt};
use bytes::{Buf, Bytes};
use crc32fast::Hasher;

use crate::batch::Record;
use crate::error::Damage;
use crate::types::{Entry, GroupId, HardState, Index, LogId, NodeId, Term};

pub(crate) const MAGIC: &[u8; 8] = b"DURAMENW";
pub(crate) const VERSION: u32 = 0;
pub(crate) const SEGMENT_HEADER_BYTES: usize = 56;
pub(crate) const FRAME_HEADER_BYTES: usize = 24;
/// Frames start at multiples of this.
pub(crate) const ALIGN: u64 = 8;

const KIND_HARD_STATE: u8 = 1;
const KIND_ENTRY: u8 = 2;
const KIND_USER_RECORD: u8 = 3;

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log_id: u128,
    pub(crate) number: u64,
    pub(crate) first_sequence: u64,
    pub(crate) predecessor: u32,
}

/// Why the start of a file is not a header that this program can use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Damaged(Damage),
    Version(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut buf = [0; SEGMENT_HEADER_BYTES];
        buf[..8].copy_from_slice(MAGIC);
        LE::write_u32(&mut buf[8..], VERSION);
        LE::write_u128(&mut buf[16..], self.log_id);
        LE::write_u64(&mut buf[32..], self.number);
        LE::write_u64(&mut buf[40..], self.first_sequence);
        LE::write_u32(&mut buf[48..], self.predecessor);
        let checksum = segment_header_checksum(&buf);
        LE::write_u32(&mut buf[12..], checksum);
        buf
    }

    pub(crate) fn decode(buf: &[u8; SEGMENT_HEADER_BYTES]) -> Result<SegmentHeader, BadHeader> {
        if &buf[..8] != MAGIC {
            return Err(BadHeader::Damaged(Damage::Magic));
        }
        if LE::read_u32(&buf[12..]) != segment_header_checksum(buf) {
            return Err(BadHeader::Damaged(Damage::Checksum));
        }
        // After the checksum: a flipped bit is damage and not another version.
        match LE::read_u32(&buf[8..]) {
            VERSION => {}
            other => return Err(BadHeader::Version(other)),
        }
        Ok(SegmentHeader {
            log_id: LE::read_u128(&buf[16..]),
            number: LE::read_u64(&buf[32..]),
            first_sequence: LE::read_u64(&buf[40..]),
            predecessor: LE::read_u32(&buf[48..]),
        })
    }
}

fn segment_header_checksum(buf: &[u8; SEGMENT_HEADER_BYTES]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&buf[..12]);
    hasher.update(&buf[16..]);
    hasher.finalize()
}

/// Where a frame is. Part of what its header's checksum covers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) log_id: u128,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// A frame's place in the chain of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    /// The sequence number of the next frame.
    pub(crate) sequence: u64,
    /// The header checksum of the last frame.
    pub(crate) predecessor: u32,
}

impl Link {
    /// Before the first frame of a log.
    pub(crate) const FIRST: Link = Link {
        sequence: 1,
        predecessor: 0,
    };

    /// After a frame with this header.
    pub(crate) fn after(frame: &FrameHeader) -> Link {
        Link {
            sequence: frame.link.sequence + 1,
            predecessor: frame.checksum,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) checksum: u32,
    pub(crate) body_bytes: u32,
    pub(crate) link: Link,
    pub(crate) body_checksum: u32,
}

impl FrameHeader {
    /// `None` if no frame starts here. Does not look at the body, which may be longer than what is left of the file.
    pub(crate) fn decode(buf: &[u8; FRAME_HEADER_BYTES], place: Place) -> Option<FrameHeader> {
        let checksum = LE::read_u32(buf);
        (checksum == frame_header_checksum(buf, place)).then(|| FrameHeader {
            checksum,
            body_bytes: LE::read_u32(&buf[4..]),
            link: Link {
                sequence: LE::read_u64(&buf[8..]),
                predecessor: LE::read_u32(&buf[16..]),
            },
            body_checksum: LE::read_u32(&buf[20..]),
        })
    }

    /// The length of the whole frame with its padding.
    pub(crate) fn frame_bytes(&self) -> u64 {
        (FRAME_HEADER_BYTES as u64 + u64::from(self.body_bytes)).next_multiple_of(ALIGN)
    }
}

fn frame_header_checksum(buf: &[u8; FRAME_HEADER_BYTES], place: Place) -> u32 {
    let mut covered = [0; 32 + FRAME_HEADER_BYTES - 4];
    LE::write_u128(&mut covered, place.log_id);
    LE::write_u64(&mut covered[16..], place.segment);
    LE::write_u64(&mut covered[24..], place.offset);
    covered[32..].copy_from_slice(&buf[4..]);
    crc32fast::hash(&covered)
}

/// The length of the frame that these records make.
pub(crate) fn frame_bytes(records: &[Record]) -> u64 {
    let body: u64 = records.iter().map(record_bytes).sum();
    (FRAME_HEADER_BYTES as u64 + body).next_multiple_of(ALIGN)
}

pub(crate) fn record_bytes(record: &Record) -> u64 {
    match record {
        Record::HardState { .. } => 26,
        Record::Entry { entry, .. } => 33 + entry.payload.len() as u64,
        Record::User { bytes, .. } => 13 + bytes.len() as u64,
    }
}

/// Writes a frame into `buf`, which is cleared first.
///
/// The caller has checked that the body's length fits in 32 bits (`Options::batch_bytes_max`).
pub(crate) fn encode_frame(
    buf: &mut Vec<u8>,
    records: &[Record],
    place: Place,
    link: Link,
) -> FrameHeader {
    buf.clear();
    buf.resize(FRAME_HEADER_BYTES, 0);
    for record in records {
        encode_record(buf, record);
    }
    let body = &buf[FRAME_HEADER_BYTES..];
    let mut header = FrameHeader {
        checksum: 0,
        body_bytes: u32::try_from(body.len()).expect("a batch is limited to less than 4 GiB"),
        link,
        body_checksum: crc32fast::hash(body),
    };
    let mut head = [0; FRAME_HEADER_BYTES];
    LE::write_u32(&mut head[4..], header.body_bytes);
    LE::write_u64(&mut head[8..], link.sequence);
    LE::write_u32(&mut head[16..], link.predecessor);
    LE::write_u32(&mut head[20..], header.body_checksum);
    header.checksum = frame_header_checksum(&head, place);
    LE::write_u32(&mut head, header.checksum);
    buf[..FRAME_HEADER_BYTES].copy_from_slice(&head);
    buf.resize(buf.len().next_multiple_of(ALIGN as usize), 0);
    header
}

fn encode_record(buf: &mut Vec<u8>, record: &Record) {
    const INFALLIBLE: &str = "writing to a Vec does not fail";
    let mut head = |kind: u8, group: GroupId| {
        buf.push(kind);
        buf.write_u64::<LE>(group.0).expect(INFALLIBLE);
    };
    match record {
        Record::HardState { group, hard_state } => {
            head(KIND_HARD_STATE, *group);
            buf.write_u64::<LE>(hard_state.term.0).expect(INFALLIBLE);
            buf.push(u8::from(hard_state.voted_for.is_some()));
            let voted_for = hard_state.voted_for.map_or(0, |node| node.0);
            buf.write_u64::<LE>(voted_for).expect(INFALLIBLE);
        }
        Record::Entry { group, entry } => {
            head(KIND_ENTRY, *group);
            buf.write_u64::<LE>(entry.id.index.0).expect(INFALLIBLE);
            buf.write_u64::<LE>(entry.id.term.0).expect(INFALLIBLE);
            buf.write_u32::<LE>(entry.payload.len() as u32)
                .expect(INFALLIBLE);
            let checksum = entry_checksum(*group, entry.id, &entry.payload);
            buf.write_u32::<LE>(checksum).expect(INFALLIBLE);
            buf.extend_from_slice(&entry.payload);
        }
        Record::User { group, bytes } => {
            head(KIND_USER_RECORD, *group);
            buf.write_u32::<LE>(bytes.len() as u32).expect(INFALLIBLE);
            buf.extend_from_slice(bytes);
        }
    }
}

/// Checked at each read of an entry, long after its frame was checked.
pub(crate) fn entry_checksum(group: GroupId, id: LogId, payload: &[u8]) -> u32 {
    let mut head = [0; 24];
    LE::write_u64(&mut head, group.0);
    LE::write_u64(&mut head[8..], id.index.0);
    LE::write_u64(&mut head[16..], id.term.0);
    let mut hasher = Hasher::new();
    hasher.update(&head);
    hasher.update(payload);
    hasher.finalize()
}

/// Reads the records of a frame's body, one after the other.
pub(crate) struct Records {
    body: Bytes,
}

impl Records {
    pub(crate) fn new(body: Bytes) -> Records {
        Records { body }
    }

    /// The next record. `None` at the end of the body.
    pub(crate) fn next(&mut self) -> Result<Option<Record>, Damage> {
        if self.body.is_empty() {
            return Ok(None);
        }
        let kind = self.body.get_u8();
        let group = GroupId(self.u64()?);
        let record = match kind {
            KIND_HARD_STATE => self.hard_state(group)?,
            KIND_ENTRY => self.entry(group)?,
            KIND_USER_RECORD => {
                let len = self.u32()?;
                let bytes = self.bytes(len)?;
                Record::User { group, bytes }
            }
            _ => return Err(Damage::Content),
        };
        Ok(Some(record))
    }

    fn hard_state(&mut self, group: GroupId) -> Result<Record, Damage> {
        let term = Term(self.u64()?);
        let voted = self.body.try_get_u8().map_err(|_| Damage::Content)?;
        let node = NodeId(self.u64()?);
        let voted_for = match voted {
            0 => None,
            1 => Some(node),
            _ => return Err(Damage::Content),
        };
        let hard_state = HardState { term, voted_for };
        Ok(Record::HardState { group, hard_state })
    }

    fn entry(&mut self, group: GroupId) -> Result<Record, Damage> {
        let index = Index(self.u64()?);
        let term = Term(self.u64()?);
        let id = LogId { term, index };
        let len = self.u32()?;
        let checksum = self.u32()?;
        let payload = self.bytes(len)?;
        if checksum != entry_checksum(group, id, &payload) {
            return Err(Damage::Checksum);
        }
        let entry = Entry { id, payload };
        Ok(Record::Entry { group, entry })
    }

    fn u64(&mut self) -> Result<u64, Damage> {
        self.body.try_get_u64_le().map_err(|_| Damage::Content)
    }

    fn u32(&mut self) -> Result<u32, Damage> {
        self.body.try_get_u32_le().map_err(|_| Damage::Content)
    }

    fn bytes(&mut self, len: u32) -> Result<Bytes, Damage> {
        let len = len as usize;
        if len > self.body.len() {
            return Err(Damage::Content);
        }
        Ok(self.body.split_to(len))
    }
}
