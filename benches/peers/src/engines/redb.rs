//! A B-tree that is copied on write, with an entry under each key.

use std::ops::Range;
use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use crate::log::{Log, Result, Run};

const ENTRIES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("entries");

struct Redb(Database);

pub fn open(dir: &Path) -> Result<Box<dyn Log>> {
    Ok(Box::new(Redb(Database::create(dir.join("redb"))?)))
}

impl Redb {
    fn write(&self, runs: &[Run], durability: Durability) -> Result<()> {
        let mut transaction = self.0.begin_write()?;
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(ENTRIES)?;
            for run in runs {
                for (payload, index) in run.payloads.iter().zip(run.first..) {
                    table.insert((run.group, index), &payload[..])?;
                }
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Log for Redb {
    fn append(&self, runs: &[Run]) -> Result<()> {
        self.write(runs, Durability::Immediate)
    }

    fn append_unsynced(&self, runs: &[Run]) -> Result<()> {
        self.write(runs, Durability::None)
    }

    fn sync(&self) -> Result<()> {
        self.write(&[], Durability::Immediate)
    }

    fn read(&self, group: u64, range: Range<u64>) -> Result<u64> {
        let transaction = self.0.begin_read()?;
        let table = transaction.open_table(ENTRIES)?;
        let mut bytes = 0;
        for entry in table.range((group, range.start)..(group, range.end))? {
            bytes += entry?.1.value().len() as u64;
        }
        Ok(bytes)
    }

    fn purge(&self, groups: &[(u64, u64)]) -> Result<()> {
        let mut transaction = self.0.begin_write()?;
        transaction.set_durability(Durability::None)?;
        for &(group, last) in groups {
            transaction
                .open_table(ENTRIES)?
                .retain_in((group, 0)..=(group, last), |_, _| false)?;
        }
        Ok(transaction.commit()?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
