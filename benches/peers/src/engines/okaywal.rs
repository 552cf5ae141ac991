//! A write-ahead log without groups or an index: where each entry is, its user has to remember.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use byteorder::{ByteOrder, LittleEndian as LE};
use okaywal::{
    Configuration, Entry, EntryId, LogManager, LogPosition, ReadChunkResult, SegmentReader,
    WriteAheadLog,
};

use crate::log::{Log, Result, Run};

/// An entry begins with its group and its index.
const HEAD_BYTES: usize = 16;
const FILE_BYTES: u32 = 64 << 20;

type Places = Arc<Mutex<BTreeMap<(u64, u64), LogPosition>>>;

struct Okay {
    log: WriteAheadLog,
    places: Places,
}

#[derive(Debug)]
struct Manager(Places);

impl LogManager for Manager {
    fn recover(&mut self, entry: &mut Entry<'_>) -> std::io::Result<()> {
        loop {
            match entry.read_chunk()? {
                ReadChunkResult::Chunk(mut chunk) => {
                    let position = chunk.log_position();
                    // To skip what remains would go past the checksum twice (0.3.1).
                    let bytes = chunk.read_all()?;
                    if !chunk.check_crc()? || bytes.len() < HEAD_BYTES {
                        return Err(std::io::ErrorKind::InvalidData.into());
                    }
                    let key = (LE::read_u64(&bytes), LE::read_u64(&bytes[8..]));
                    self.0.lock().expect("no panic").insert(key, position);
                }
                ReadChunkResult::EndOfEntry | ReadChunkResult::AbortedEntry => return Ok(()),
            }
        }
    }

    /// What was written first is needed no more.
    fn checkpoint_to(
        &mut self,
        _: EntryId,
        _: &mut SegmentReader,
        _: &WriteAheadLog,
    ) -> std::io::Result<()> {
        Ok(())
    }
}

/// Files come to a checkpoint before they are full, and are used again: what was written first is gone then.
pub fn open(dir: &Path) -> Result<Box<dyn Log>> {
    with(dir, u64::from(FILE_BYTES) * 3 / 4)
}

/// What is written stays.
pub fn open_keeping(dir: &Path) -> Result<Box<dyn Log>> {
    with(dir, 8 << 30)
}

fn with(dir: &Path, checkpoint_after_bytes: u64) -> Result<Box<dyn Log>> {
    let places = Places::default();
    let configuration = Configuration::default_for(dir)
        .preallocate_bytes(FILE_BYTES)
        .checkpoint_after_bytes(checkpoint_after_bytes)
        .buffer_bytes(256 << 10);
    let log = configuration.open(Manager(places.clone()))?;
    Ok(Box::new(Okay { log, places }))
}

impl Log for Okay {
    fn append(&self, runs: &[Run]) -> Result<()> {
        let mut entry = self.log.begin_entry()?;
        let mut places = Vec::new();
        for run in runs {
            for (payload, index) in run.payloads.iter().zip(run.first..) {
                let mut head = [0; HEAD_BYTES];
                LE::write_u64(&mut head, run.group);
                LE::write_u64(&mut head[8..], index);
                let mut chunk = entry.begin_chunk((HEAD_BYTES + payload.len()) as u32)?;
                std::io::Write::write_all(&mut chunk, &head)?;
                std::io::Write::write_all(&mut chunk, payload)?;
                places.push(((run.group, index), chunk.finish()?.position));
            }
        }
        entry.commit()?;
        self.places.lock().expect("no panic").extend(places);
        Ok(())
    }

    /// It cannot wait with the sync.
    fn append_unsynced(&self, runs: &[Run]) -> Result<()> {
        self.append(runs)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn read(&self, group: u64, range: Range<u64>) -> Result<u64> {
        let mut bytes = 0;
        for index in range {
            let position = self.places.lock().expect("no panic")[&(group, index)];
            let mut payload = Vec::new();
            let mut reader = self.log.read_at(position)?;
            reader.read_to_end(&mut payload)?;
            bytes += (payload.len() - HEAD_BYTES) as u64;
        }
        Ok(bytes)
    }

    fn purge(&self, _: &[(u64, u64)]) -> Result<()> {
        Ok(self.log.checkpoint_active()?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.log.shutdown()?)
    }
}
