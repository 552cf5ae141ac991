//! The bytes on disk, format version 1. Everything is little-endian; checksums are CRC-32.
//!
//! A log is a directory: `CONTROL`, `LOCK`, and segments `<16 hex digits of the number>.wal`, numbered without a gap. A
//! segment has its full length, and its name, before its first frame is written; what no frame covers is zeros or, where
//! the file was another segment before, what stood there.
//!
//! ```text
//! segment
//!      0  segment header       64
//!     64  frame, frame, ..             each at a multiple of 8; the first one holds the state of every group
//!         (nothing)
//!         seal                         a copy of all directories and a summary, some time after the segment is full
//!   - 128  trailer             128     where the seal is
//!
//! segment header
//!      0  magic "DURAMENW"      8
//!      8  version               4
//!     12  checksum              4      of the other 60 bytes
//!     16  log id               16      random, made by `create`
//!     32  segment number        8
//!     40  file bytes            8      the full length of the file
//!     48  flags                 4      1: recycled, old bytes stand behind the frames; else zeros do
//!     52  zero                 12
//!
//! frame                                one write of one or more batches, whole or not there
//!      0  frame header         40
//!     40  payloads                     of all entries, one after the other; padded to 8
//!         directory                    what the payloads are. After them, so that a torn frame seldom has one
//!         [directory again]            if the frame changes a term or a vote: 4096 bytes or more after the frame's start
//!
//! frame header                         to find the directory without looking for it
//!      0  checksum              4      of the place (log id, segment, epoch, offset) and the next 36 bytes
//!      4  flags                 4      1: a second directory follows
//!      8  epoch                 8      random, new at each `open`
//!     16  sequence              8      1, 2, 3, .. through all segments
//!     24  payload bytes         4
//!     28  record bytes          4
//!     32  mark                  8      every frame up to this sequence was durable when this one was written
//!
//! directory                            all that is known of a frame but for its payloads
//!      0  checksum              4      of the place and the next 52 bytes
//!      4  flags .. mark        36      as in the frame header
//!     40  predecessor           4      the checksum of the directory of the frame before
//!     44  records checksum      4
//!     48  frame offset          8      where the frame starts
//!     56  records                      see `record.rs`; padded to 8
//!
//! seal                                 a second copy of every id and checksum, together at the end of a full segment
//!      0  for each frame: its directory as it stands in the frame
//!         summary                      which entries the segment holds, as of its end: records of kind 9. Left out if there
//!                                      is no space for it; the directories say the same
//!
//! trailer
//!      0  checksum              4      of the place and the next 124 bytes
//!      4  zero                  4
//!      8  magic "DURAMENS"      8
//!     16  seal offset           8
//!     24  directory bytes       8      all directories together
//!     32  summary bytes         8
//!     40  directories checksum  4
//!     44  summary checksum      4
//!     48  frames end            8      where the next frame would have gone
//!     56  first sequence        8      of the first frame
//!     64  last sequence         8      of the last one
//!     72  last epoch            8
//!     80  first predecessor     4      directory checksum of the last frame of the segment before
//!     84  last checksum         4      of the last frame's directory
//!     88  zero                 40
//!
//! CONTROL, two slots at 0 and 4096     lower bounds; the slot with the higher generation counts
//!      0  magic "DURAMENC"      8
//!      8  version               4
//!     12  checksum              4      of the other 60 bytes
//!     16  log id               16
//!     32  generation            8
//!     40  oldest segment        8
//!     48  newest segment        8
//!     56  mark                  8
//! ```
//!
//! A checksum covers where it stands, so a header or directory is valid at one place of one segment of one log in one
//! epoch only: old bytes of a recycled segment, another log's, or somebody's payload are never taken for it.

use crc32fast::Hasher;

use crate::canary::planted;

/// The version that this program writes, and the only one it reads.
pub(crate) const VERSION: u32 = 1;
pub(crate) const SEGMENT_MAGIC: &[u8; 8] = b"DURAMENW";
pub(crate) const TRAILER_MAGIC: &[u8; 8] = b"DURAMENS";
pub(crate) const CONTROL_MAGIC: &[u8; 8] = b"DURAMENC";

pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;
pub(crate) const FRAME_HEADER_BYTES: usize = 40;
pub(crate) const DIRECTORY_HEAD_BYTES: usize = 56;
pub(crate) const TRAILER_BYTES: usize = 128;
pub(crate) const CONTROL_SLOT_BYTES: usize = 64;
/// The two slots lie in different sectors, also where sectors have 4096 bytes.
pub(crate) const CONTROL_SLOT_OFFSETS: [u64; 2] = [0, 4096];

/// Segments, sequence numbers, marks and generations stay below this, so that counting on never overflows.
pub(crate) const NUMBERS_MAX: u64 = 1 << 62;
/// A segment file is never larger: one batch is less than 2 GiB, and what it begins with is not more.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 34;

/// What a segment begins with, the state of all groups in all its copies, is never more.
pub(crate) const STATES_BYTES_MAX: u64 = 1 << 31;

/// Frames and directories start at multiples of this.
pub(crate) const ALIGN: u64 = 8;
/// How far the second directory of a frame is from the frame's start: never in the same sector, nor in the same page.
pub(crate) const COPY_DISTANCE: u64 = 4096;

/// Where a header or directory stands. Part of what its checksum covers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) log_id: u128,
    pub(crate) segment: u64,
    pub(crate) epoch: u64,
    pub(crate) offset: u64,
}

impl Place {
    pub(crate) fn checksum(&self, bytes: &[u8]) -> u32 {
        let mut head = [0; 40];
        head[..16].copy_from_slice(&self.log_id.to_le_bytes());
        if !planted("number_not_checked") {
            head[16..24].copy_from_slice(&self.segment.to_le_bytes());
        }
        head[24..32].copy_from_slice(&self.epoch.to_le_bytes());
        head[32..].copy_from_slice(&self.offset.to_le_bytes());
        let mut hasher = Hasher::new();
        hasher.update(&head);
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// The next multiple of [`ALIGN`].
pub(crate) fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGN)
}
