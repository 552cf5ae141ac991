//! The tables of sealed segments that are in memory, under a budget.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::table::Table;

#[derive(Default)]
pub(crate) struct Tables {
    tables: BTreeMap<u64, (Arc<Table>, u64)>,
    bytes: u64,
    bytes_max: u64,
    /// Counts up with every use.
    clock: u64,
}

impl Tables {
    pub(crate) fn new(bytes_max: u64) -> Tables {
        Tables {
            bytes_max,
            ..Tables::default()
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn find(&mut self, segment: u64) -> Option<&Arc<Table>> {
        self.clock += 1;
        let (table, used) = self.tables.get_mut(&segment)?;
        *used = self.clock;
        Some(table)
    }

    /// Keeps a table, and forgets those that were not used for the longest time, if they are too many.
    pub(crate) fn insert(&mut self, segment: u64, table: Arc<Table>) {
        self.clock += 1;
        self.bytes += table.bytes;
        if let Some((before, _)) = self.tables.insert(segment, (table, self.clock)) {
            self.bytes -= before.bytes;
        }
        while self.bytes > self.bytes_max {
            let unused = self.tables.iter().min_by_key(|(_, (_, used))| *used);
            match unused.map(|(segment, _)| *segment) {
                Some(segment) => self.remove(segment),
                None => return,
            }
        }
    }

    pub(crate) fn remove(&mut self, segment: u64) {
        if let Some((table, _)) = self.tables.remove(&segment) {
            self.bytes -= table.bytes;
        }
    }
}
