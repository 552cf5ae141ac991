//! Protocol-aware recovery (FAST'18, "Protocol-Aware Recovery for Consensus-Based Storage"): whole clusters start from damaged
//! disks, in the simulator. What some node has whole is restored everywhere; what is committed and nobody has is named and
//! waited for. Nothing that was acknowledged is ever given up, and nothing else is ever served in its place.
//!
//! The tests take samples. `DURAMEN_PROOF=1` takes all cases, as many as the paper and more: then the optimized build is right.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
mod cluster;
mod damage;
mod disks;
mod lagging;
mod places;
mod random;
mod targeted;
