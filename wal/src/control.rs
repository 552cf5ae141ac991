//! The file `CONTROL`: what is known of the log as a whole. Lower bounds only, so that it may lag: the oldest and the newest
//! segment, and up to which frame the log was known to be durable.
//!
//! Two slots are written in turn, so that a torn write leaves the other.

use std::path::Path;

use byteorder::{ByteOrder, LittleEndian as LE};

use duramen_disk::DiskFile;

use crate::error::{Error, Result};
use crate::format::{
    CONTROL_MAGIC, CONTROL_SLOT_BYTES, CONTROL_SLOT_OFFSETS, NUMBERS_MAX, VERSION,
};

pub(crate) const CONTROL_FILE: &str = "CONTROL";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) log_id: u128,
    pub(crate) generation: u64,
    pub(crate) oldest: u64,
    pub(crate) newest: u64,
    pub(crate) mark: u64,
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Control(Control),
    /// Never written, torn or damaged. Or it makes no sense.
    Bad,
    Version(u32),
}

impl Control {
    pub(crate) fn encode(&self) -> [u8; CONTROL_SLOT_BYTES] {
        let mut buf = [0; CONTROL_SLOT_BYTES];
        buf[..8].copy_from_slice(CONTROL_MAGIC);
        LE::write_u32(&mut buf[8..], VERSION);
        LE::write_u128(&mut buf[16..], self.log_id);
        LE::write_u64(&mut buf[32..], self.generation);
        LE::write_u64(&mut buf[40..], self.oldest);
        LE::write_u64(&mut buf[48..], self.newest);
        LE::write_u64(&mut buf[56..], self.mark);
        let checksum = slot_checksum(&buf);
        LE::write_u32(&mut buf[12..], checksum);
        buf
    }

    /// Writes the slot of this generation. Durable on return.
    pub(crate) fn write(&self, file: &dyn DiskFile, dir: &Path) -> Result<()> {
        let path = dir.join(CONTROL_FILE);
        let offset = CONTROL_SLOT_OFFSETS[(self.generation % 2) as usize];
        file.write_all_at(&self.encode(), offset)
            .map_err(Error::io("write", &path))?;
        file.sync_data().map_err(Error::io("sync", &path))
    }

    pub(crate) fn decode(buf: &[u8; CONTROL_SLOT_BYTES]) -> Slot {
        if &buf[..8] != CONTROL_MAGIC || LE::read_u32(&buf[12..]) != slot_checksum(buf) {
            return Slot::Bad;
        }
        match LE::read_u32(&buf[8..]) {
            VERSION => {}
            other => return Slot::Version(other),
        }
        let control = Control {
            log_id: LE::read_u128(&buf[16..]),
            generation: LE::read_u64(&buf[32..]),
            oldest: LE::read_u64(&buf[40..]),
            newest: LE::read_u64(&buf[48..]),
            mark: LE::read_u64(&buf[56..]),
        };
        let Control {
            generation,
            oldest,
            newest,
            mark,
            ..
        } = control;
        let is_sane = (1..=newest.max(1)).contains(&oldest)
            && [generation, newest, mark]
                .iter()
                .all(|number| *number < NUMBERS_MAX);
        match is_sane {
            true => Slot::Control(control),
            false => Slot::Bad,
        }
    }
}

fn slot_checksum(buf: &[u8; CONTROL_SLOT_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&buf[..12]);
    hasher.update(&buf[16..]);
    hasher.finalize()
}
