//! The locks and the threads of the commit pipeline: those of `std`, or, in a build with `--cfg shuttle`, those of a scheduler
//! that tries the orders in which threads may run. `tests/shuttle.rs` says what it looks for.
//!
//! That scheduler knows no time: `Condvar::wait_timeout` never times out there.

#[cfg(not(shuttle))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};

#[cfg(shuttle)]
pub(crate) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};
