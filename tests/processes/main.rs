//! Real nodes in real processes, that are killed, restarted and cut off under load.

mod failover;
mod full_disk;
mod history;
mod links;
mod restarts;
#[path = "../support/mod.rs"]
mod support;
