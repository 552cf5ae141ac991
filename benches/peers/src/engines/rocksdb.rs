//! RocksDB, with an entry under each key.

use std::ops::Range;
use std::path::Path;

use rocksdb::{DB, DBCompressionType, Direction, IteratorMode, Options, WriteBatch, WriteOptions};

use crate::log::{Log, Result, Run, key};

struct Rocks(DB);

pub fn open(dir: &Path) -> Result<Box<dyn Log>> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_recycle_log_file_num(4);
    Ok(Box::new(Rocks(DB::open(&options, dir)?)))
}

impl Rocks {
    fn write(&self, runs: &[Run], syncs: bool) -> Result<()> {
        let mut batch = WriteBatch::default();
        for run in runs {
            for (payload, index) in run.payloads.iter().zip(run.first..) {
                batch.put(key(run.group, index), payload);
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(syncs);
        Ok(self.0.write_opt(batch, &options)?)
    }
}

impl Log for Rocks {
    fn append(&self, runs: &[Run]) -> Result<()> {
        self.write(runs, true)
    }

    fn append_unsynced(&self, runs: &[Run]) -> Result<()> {
        self.write(runs, false)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.0.flush_wal(true)?)
    }

    fn read(&self, group: u64, range: Range<u64>) -> Result<u64> {
        let begin = key(group, range.start);
        let entries = self
            .0
            .iterator(IteratorMode::From(&begin, Direction::Forward));
        let mut bytes = 0;
        for entry in entries.take((range.end - range.start) as usize) {
            bytes += entry?.1.len() as u64;
        }
        Ok(bytes)
    }

    fn purge(&self, groups: &[(u64, u64)]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for &(group, last) in groups {
            batch.delete_range(key(group, 0), key(group, last + 1));
        }
        Ok(self.0.write(batch)?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
