//! How large the store is, for whoever wants to know it without asking the node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How large a store is. Cheap to clone; goes with the store that it was taken from.
#[derive(Debug, Clone, Default)]
pub struct Usage(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    keys: AtomicU64,
    keys_that_expire: AtomicU64,
    bytes: AtomicU64,
}

impl Usage {
    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.0.keys.load(Ordering::Relaxed)
    }

    /// How many of them will expire.
    pub fn keys_that_expire(&self) -> u64 {
        self.0.keys_that_expire.load(Ordering::Relaxed)
    }

    /// Keys and values, and about what the store needs beside them, in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, keys: usize, keys_that_expire: usize, bytes: u64) {
        self.0.keys.store(keys as u64, Ordering::Relaxed);
        self.0
            .keys_that_expire
            .store(keys_that_expire as u64, Ordering::Relaxed);
        self.0.bytes.store(bytes, Ordering::Relaxed);
    }
}
