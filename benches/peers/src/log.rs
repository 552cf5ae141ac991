//! What is compared: a log of entries in groups.

use std::ops::Range;

use bytes::Bytes;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Error>;

/// Consecutive entries of a group.
#[derive(Clone)]
pub struct Run {
    pub group: u64,
    pub first: u64,
    pub payloads: Vec<Bytes>,
}

impl Run {
    pub fn last(&self) -> u64 {
        self.first + self.payloads.len() as u64 - 1
    }
}

/// A log engine, as its users would use it.
pub trait Log: Send + Sync {
    /// So many bytes are going to be written. For the limit, whose file has to be long enough.
    fn expect_bytes(&self, bytes: u64) -> Result<()> {
        let _ = bytes;
        Ok(())
    }

    /// Appends; all of it is durable on return.
    fn append(&self, runs: &[Run]) -> Result<()>;

    /// Appends; durable with the next [`sync`](Log::sync).
    fn append_unsynced(&self, runs: &[Run]) -> Result<()>;

    /// Everything that was appended is durable on return.
    fn sync(&self) -> Result<()>;

    /// Appends a run without waiting. Runs are durable in the order in which they were submitted. False if the engine has
    /// nothing of the kind.
    fn submit(&self, run: &Run) -> Result<bool> {
        let _ = run;
        Ok(false)
    }

    /// Waits until the oldest run is durable that was submitted and not waited for.
    fn wait_for_oldest(&self) -> Result<()> {
        Ok(())
    }

    /// Reads entries, and says how many bytes their payloads have.
    fn read(&self, group: u64, range: Range<u64>) -> Result<u64>;

    /// The entries of these groups are needed no more, each up to this one.
    fn purge(&self, groups: &[(u64, u64)]) -> Result<()>;

    /// Closes it as a program does that ends well.
    fn close(self: Box<Self>) -> Result<()>;
}

/// The key of an entry in an engine that knows keys.
#[cfg(any(feature = "fjall", feature = "rocksdb", feature = "sled"))]
pub fn key(group: u64, index: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&group.to_be_bytes());
    key[8..].copy_from_slice(&index.to_be_bytes());
    key
}
