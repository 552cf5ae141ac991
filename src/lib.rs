//! Duramen: the durable core of a Raft log, and a replicated state machine on it.
//!
//! The parts, bottom to top; each can be used without those above it:
//!
//! * [`disk`]: the seam to the operating system (crate `duramen-disk`)
//! * [`wal`]: the log engine (crate `duramen-wal`)
//! * [`snapshot`]: copy-on-write snapshot files (crate `duramen-snapshot`)
//! * [`raft`]: the Raft core, without I/O
//! * [`storage`], [`transport`], [`node`]: a complete node (feature `node`)
//! * [`replica`]: a node with all that it needs, started and stopped as one (feature `server`)
//! * [`client`]: a client of it, that never has a command carried out twice (feature `client`)
//! * [`kv`], [`server`]: a key/value store and its Redis face (feature `server`)
//!
//! # The way of one write
//!
//! ```text
//! client -> server (RESP) -> node: propose -> raft -> Ready
//!    Ready -> storage: append, one fdatasync for all that queued   \  at the same time
//!          -> transport: AppendEntries to the peers                /
//!    storage: durable -> raft ; peers: success -> raft -> commit advances
//!    Ready.committed -> kv.apply -> reply to the client
//! ```
//!
//! # Features
//!
//! `node` (no async runtime), `server` (`node`, tokio), `sim` (`node`), `client`, `cli` (all of them, and the program). The default is
//! `cli`.

#[cfg(feature = "node")]
mod boot;
mod canary;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "node")]
pub mod kv;
#[cfg(feature = "node")]
pub mod node;
pub mod raft;
#[cfg(feature = "server")]
pub mod replica;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "node")]
pub mod session;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "node")]
pub mod storage;
#[cfg(feature = "node")]
pub mod transport;

pub use duramen_disk as disk;
pub use duramen_snapshot as snapshot;
pub use duramen_wal as wal;
