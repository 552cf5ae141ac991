//! An LSM tree, with an entry under each key.

use std::ops::Range;
use std::path::Path;

use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::log::{Log, Result, Run, key};

struct Fjall {
    database: Database,
    entries: Keyspace,
}

pub fn open(dir: &Path) -> Result<Box<dyn Log>> {
    let builder = Database::builder(dir).journal_compression(CompressionType::None);
    let database = builder.open()?;
    let options = || {
        KeyspaceCreateOptions::default()
            .data_block_compression_policy(CompressionPolicy::disabled())
    };
    let entries = database.keyspace("entries", options)?;
    Ok(Box::new(Fjall { database, entries }))
}

impl Fjall {
    fn write(&self, runs: &[Run], mode: Option<PersistMode>) -> Result<()> {
        let mut batch = self.database.batch().durability(mode);
        for run in runs {
            for (payload, index) in run.payloads.iter().zip(run.first..) {
                batch.insert(&self.entries, key(run.group, index), &payload[..]);
            }
        }
        Ok(batch.commit()?)
    }
}

impl Log for Fjall {
    fn append(&self, runs: &[Run]) -> Result<()> {
        self.write(runs, Some(PersistMode::SyncData))
    }

    fn append_unsynced(&self, runs: &[Run]) -> Result<()> {
        self.write(runs, Some(PersistMode::Buffer))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn read(&self, group: u64, range: Range<u64>) -> Result<u64> {
        let found = self
            .entries
            .range(key(group, range.start)..key(group, range.end));
        let mut bytes = 0;
        for entry in found {
            bytes += entry.value()?.len() as u64;
        }
        Ok(bytes)
    }

    fn purge(&self, groups: &[(u64, u64)]) -> Result<()> {
        let old =
            |&(group, last): &(u64, u64)| self.entries.range(key(group, 0)..=key(group, last));
        let mut batch = self.database.batch();
        for entry in groups.iter().flat_map(old) {
            batch.remove(&self.entries, entry.key()?);
        }
        Ok(batch.commit()?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }
}
