//! TiKV's log engine, as TiKV uses it: an entry is raft-rs's, in protobuf.

use std::ops::Range;
use std::path::Path;

use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use raft_proto::eraftpb::Entry;

use crate::log::{Log, Result, Run};

struct RaftEngine(Engine);

struct RaftEntry;

impl MessageExt for RaftEntry {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

pub fn open(dir: &Path) -> Result<Box<dyn Log>> {
    with(dir, Config::default())
}

/// Its files are written before they are used, and used again. By default that would be 15 GB of them, before it opens.
pub fn open_prefilled(dir: &Path) -> Result<Box<dyn Log>> {
    let config = Config {
        enable_log_recycle: true,
        prefill_for_recycle: true,
        purge_threshold: ReadableSize::gb(1),
        ..Config::default()
    };
    with(dir, config)
}

fn with(dir: &Path, config: Config) -> Result<Box<dyn Log>> {
    let config = Config {
        dir: dir.to_str().ok_or("a directory without a name")?.to_owned(),
        batch_compression_threshold: ReadableSize(0),
        ..config
    };
    Ok(Box::new(RaftEngine(Engine::open(config)?)))
}

impl RaftEngine {
    fn write(&self, runs: &[Run], syncs: bool) -> Result<()> {
        let mut batch = LogBatch::default();
        for run in runs {
            let entries = run.payloads.iter().zip(run.first..);
            let entries = entries.map(|(payload, index)| Entry {
                term: 1,
                index,
                data: payload.clone(),
                ..Entry::default()
            });
            batch.add_entries::<RaftEntry>(run.group, &entries.collect::<Vec<_>>())?;
        }
        self.0.write(&mut batch, syncs)?;
        Ok(())
    }
}

impl Log for RaftEngine {
    fn append(&self, runs: &[Run]) -> Result<()> {
        self.write(runs, true)
    }

    fn append_unsynced(&self, runs: &[Run]) -> Result<()> {
        self.write(runs, false)
    }

    fn sync(&self) -> Result<()> {
        Ok(self.0.sync()?)
    }

    fn read(&self, group: u64, range: Range<u64>) -> Result<u64> {
        let mut entries = Vec::new();
        self.0
            .fetch_entries_to::<RaftEntry>(group, range.start, range.end, None, &mut entries)?;
        Ok(entries.iter().map(|entry| entry.data.len() as u64).sum())
    }

    fn purge(&self, groups: &[(u64, u64)]) -> Result<()> {
        for &(group, last) in groups {
            self.0.compact_to(group, last + 1);
        }
        self.0.purge_expired_files()?;
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
