//! Duramen: the durable core of a Raft log.

#[cfg(feature = "node")]
pub mod kv;
#[cfg(feature = "node")]
pub mod node;
pub mod raft;
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
pub use duramen_wal as wal;
