//! The scenarios of MIT's course 6.824, lab 3 (the fault-tolerant key/value service), under their names, in the simulator, with the
//! labs' limits in virtual time and in bytes. The servers are the store with sessions around it, as `duramen serve` runs it.
//!
//! Each says what came up, and fails if that was less than it should be.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clerk;
mod generic;
mod lab;
mod service;
mod snapshots;
