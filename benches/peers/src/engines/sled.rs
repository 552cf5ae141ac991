//! A tree over a log, with an entry under each key.

use std::ops::Range;
use std::path::Path;

use sled::{Batch, Config, Db, Mode};

use crate::log::{Log, Result, Run, key};

struct Sled(Db);

pub fn open(dir: &Path) -> Result<Box<dyn Log>> {
    let config = Config::default().path(dir).mode(Mode::HighThroughput);
    let config = config.flush_every_ms(None);
    Ok(Box::new(Sled(config.open()?)))
}

impl Log for Sled {
    fn append(&self, runs: &[Run]) -> Result<()> {
        self.append_unsynced(runs)?;
        self.sync()
    }

    fn append_unsynced(&self, runs: &[Run]) -> Result<()> {
        let mut batch = Batch::default();
        for run in runs {
            for (payload, index) in run.payloads.iter().zip(run.first..) {
                batch.insert(&key(run.group, index), &payload[..]);
            }
        }
        Ok(self.0.apply_batch(batch)?)
    }

    fn sync(&self) -> Result<()> {
        self.0.flush()?;
        Ok(())
    }

    fn read(&self, group: u64, range: Range<u64>) -> Result<u64> {
        let mut bytes = 0;
        for entry in self.0.range(key(group, range.start)..key(group, range.end)) {
            bytes += entry?.1.len() as u64;
        }
        Ok(bytes)
    }

    fn purge(&self, groups: &[(u64, u64)]) -> Result<()> {
        let old = |&(group, last): &(u64, u64)| self.0.range(key(group, 0)..=key(group, last));
        let mut batch = Batch::default();
        for entry in groups.iter().flat_map(old) {
            batch.remove(entry?.0);
        }
        Ok(self.0.apply_batch(batch)?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.sync()
    }
}
