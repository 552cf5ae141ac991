//! The file `CONTROL`: what is known of the log as a whole. Lower bounds only, so that it may lag: the oldest and the newest
//! segment, and up to which frame the log was known to be durable.
//!
//! Two slots are written in turn, so that a torn write leaves the other.

use std::path::{Path, PathBuf};

use byteorder::{ByteOrder, LittleEndian as LE};

use duramen_disk::{Disk, DiskFile};

use crate::canary::planted;
use crate::error::{Damage, Error, Result};
use crate::format::{
    CONTROL_MAGIC, CONTROL_SLOT_BYTES, CONTROL_SLOT_OFFSETS, NUMBERS_MAX, VERSION,
};
use crate::segment::Access;

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
enum Slot {
    Control(Control),
    /// Never written, torn or damaged. Or it makes no sense.
    Bad,
    Version(u32),
}

impl Control {
    fn encode(&self) -> [u8; CONTROL_SLOT_BYTES] {
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

    fn decode(buf: &[u8; CONTROL_SLOT_BYTES]) -> Slot {
        if &buf[..8] != CONTROL_MAGIC || LE::read_u32(&buf[12..]) != slot_checksum(buf) {
            return Slot::Bad;
        }
        match LE::read_u32(&buf[8..]) {
            VERSION => {}
            _ if planted("version_not_checked") => {}
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

/// The file, and what is in it.
pub(crate) struct ControlFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    pub(crate) control: Control,
    /// Why one slot is in doubt.
    failed: Option<Error>,
}

impl ControlFile {
    /// Reads the newer slot.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, access: Access) -> Result<ControlFile> {
        let path = dir.join(CONTROL_FILE);
        let file = access.open(disk, &path)?;
        let len = file.len().map_err(Error::io("look at", &path))?;
        let mut best: Option<Control> = None;
        for offset in CONTROL_SLOT_OFFSETS {
            if len < offset + CONTROL_SLOT_BYTES as u64 {
                return Err(Error::damaged(&path, len, Damage::Short));
            }
            let mut buf = [0; CONTROL_SLOT_BYTES];
            file.read_exact_at(&mut buf, offset)
                .map_err(Error::io("read", &path))?;
            match Control::decode(&buf) {
                Slot::Control(control)
                    if best.is_none_or(|best| best.generation < control.generation) =>
                {
                    best = Some(control);
                }
                Slot::Control(_) | Slot::Bad => {}
                Slot::Version(found) => return Err(Error::version(&path, found)),
            }
        }
        let control = best.ok_or_else(|| Error::damaged(&path, 0, Damage::Checksum))?;
        Ok(ControlFile {
            file,
            path,
            control,
            failed: None,
        })
    }

    /// Makes the file of a new log. Durable on return.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, control: &Control) -> Result<()> {
        let (temporary, path) = (dir.join("control.tmp"), dir.join(CONTROL_FILE));
        let mut bytes = vec![0; CONTROL_SLOT_OFFSETS[1] as usize + CONTROL_SLOT_BYTES];
        for offset in CONTROL_SLOT_OFFSETS {
            bytes[offset as usize..][..CONTROL_SLOT_BYTES].copy_from_slice(&control.encode());
        }
        let file = disk
            .create(&temporary)
            .map_err(Error::io("create", &temporary))?;
        file.write_all_at(&bytes, 0)
            .map_err(Error::io("write", &temporary))?;
        file.sync_data().map_err(Error::io("sync", &temporary))?;
        disk.rename(&temporary, &path)
            .map_err(Error::io("rename", &temporary))?;
        disk.sync_dir(dir).map_err(Error::io("sync", dir))
    }

    /// Changes what is in the file. Durable on return. After an error one slot is in doubt, and nothing more is written,
    /// whoever asks: the other one is the next.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Control)) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        change(&mut self.control);
        self.control.generation += 1;
        let written = self.write_again();
        self.failed = written.as_ref().err().cloned();
        written
    }

    /// Writes the slot once more. It may have been read from the cache alone, after a sync that failed: then only the
    /// other one is durable, and that is the next to be overwritten.
    pub(crate) fn write_again(&self) -> Result<()> {
        let offset = CONTROL_SLOT_OFFSETS[(self.control.generation % 2) as usize];
        self.file
            .write_all_at(&self.control.encode(), offset)
            .map_err(Error::io("write", &self.path))?;
        self.file.sync_data().map_err(Error::io("sync", &self.path))
    }
}

fn slot_checksum(buf: &[u8; CONTROL_SLOT_BYTES]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&buf[..12]);
    hasher.update(&buf[16..]);
    hasher.finalize()
}
