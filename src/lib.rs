//! Duramen: the durable core of a Raft log.

pub mod raft;

pub use duramen_disk as disk;
pub use duramen_wal as wal;
