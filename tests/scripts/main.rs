//! Schedules against whole nodes in the simulator, one for each thing that must not happen.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clocks;
mod cluster;
mod disks;
mod identity;
mod machines;
mod snapshots;
