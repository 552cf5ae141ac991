//! The engines, and how each is set up.

mod duramen;
#[cfg(feature = "fjall")]
mod fjall;
pub mod floor;
#[cfg(feature = "hiqlite-wal")]
mod hiqlite;
#[cfg(feature = "okaywal")]
mod okaywal;
#[cfg(feature = "raft-engine")]
mod raft_engine;
#[cfg(feature = "raft-log")]
mod raft_log;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
#[cfg(feature = "sled")]
mod sled;

use std::path::Path;

use crate::log::{Log, Result};

/// An engine that can be compared.
pub struct Engine {
    pub name: &'static str,
    /// How it is set up, for the table's notes.
    pub settings: &'static str,
    pub part: Part,
    /// Whether what it calls durable survives a power cut.
    pub is_durable: bool,
    /// Makes a log in an empty directory, or opens what is there.
    pub open: fn(&Path) -> Result<Box<dyn Log>>,
}

/// Where an engine takes part: with some settings it differs in one of both only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    All,
    Writing,
    Reading,
}

/// The first is the limit, the second the engine that this is about.
pub const ENGINES: &[Engine] = &[
    Engine {
        name: "floor",
        settings: "no engine: pwrite and fdatasync of the payloads, in a file that was written before",
        is_durable: true,
        part: Part::All,
        open: floor::open_prewritten,
    },
    Engine {
        name: "duramen",
        settings: "defaults",
        is_durable: true,
        part: Part::All,
        open: duramen::open,
    },
    Engine {
        name: "duramen-map",
        settings: "`map_sealed`: sealed segments are read through a map",
        is_durable: true,
        part: Part::Reading,
        open: duramen::open_mapped,
    },
    Engine {
        name: "floor-growing",
        settings: "the floor in a file that grows",
        is_durable: true,
        part: Part::Writing,
        open: floor::open_growing,
    },
    #[cfg(feature = "raft-engine")]
    Engine {
        name: "raft-engine",
        settings: "0.4.2; no compression, else defaults: its files grow, and are used again after 10 GB only",
        is_durable: true,
        part: Part::All,
        open: raft_engine::open,
    },
    #[cfg(feature = "raft-engine")]
    Engine {
        name: "raft-engine-prefilled",
        settings: "0.4.2; no compression, `prefill-for-recycle`, `purge-threshold` 1 GB: it writes 1.5 GB of files before it opens",
        is_durable: true,
        part: Part::All,
        open: raft_engine::open_prefilled,
    },
    #[cfg(feature = "raft-log")]
    Engine {
        name: "raft-log",
        settings: "0.4; `flush_batch_wait` 20 us (default: 1 ms; with none at all it would not batch)",
        is_durable: true,
        part: Part::All,
        open: raft_log::open,
    },
    #[cfg(feature = "okaywal")]
    Engine {
        name: "okaywal",
        settings: "0.3; files of 64 MiB, preallocated, a checkpoint after 48 MiB, then used again; it cannot write without a sync",
        is_durable: true,
        part: Part::Writing,
        open: okaywal::open,
    },
    #[cfg(feature = "okaywal")]
    Engine {
        name: "okaywal-keeping",
        settings: "0.3; no checkpoints; it has no index: its user remembers the places, here in a map",
        is_durable: true,
        part: Part::Reading,
        open: okaywal::open_keeping,
    },
    #[cfg(feature = "hiqlite-wal")]
    Engine {
        name: "hiqlite-wal",
        settings: "0.15; `LogSync::Immediate`, files of 64 MiB; it syncs after each append, and has no group commit",
        is_durable: true,
        part: Part::Writing,
        open: hiqlite::open,
    },
    #[cfg(feature = "fjall")]
    Engine {
        name: "fjall",
        settings: "3; no compression, `PersistMode::SyncData`",
        is_durable: true,
        part: Part::All,
        open: fjall::open,
    },
    #[cfg(feature = "rocksdb")]
    Engine {
        name: "rocksdb",
        settings: "0.25; no compression, `sync` writes, `recycle_log_file_num` 4",
        is_durable: true,
        part: Part::All,
        open: rocksdb::open,
    },
    #[cfg(feature = "redb")]
    Engine {
        name: "redb",
        settings: "3; `Durability::Immediate`",
        is_durable: true,
        part: Part::All,
        open: redb::open,
    },
    #[cfg(feature = "sled")]
    Engine {
        name: "sled",
        settings: "0.34; `HighThroughput`, a flush after each batch, which sends the device no flush: less durable than the others",
        is_durable: false,
        part: Part::All,
        open: sled::open,
    },
];

pub fn find(name: &str) -> Option<&'static Engine> {
    ENGINES.iter().find(|engine| engine.name == name)
}

impl Engine {
    pub fn is_duramen(&self) -> bool {
        self.name.starts_with("duramen")
    }

    pub fn is_floor(&self) -> bool {
        self.name.starts_with("floor")
    }

    pub fn is_peer(&self) -> bool {
        !self.is_duramen() && !self.is_floor()
    }
}
