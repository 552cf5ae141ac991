//! A seeded simulated cluster: network, disks, clocks, clients and checkers, around the same [`Node`](crate::node::Node)
//! that the server runs.
//!
//! [`run()`] is one run of it: three or five key/value stores on simulated disks, whose processes are killed and whose power is
//! cut in the middle of writes, with messages that are lost, doubled, late and out of order, and links that are cut one way.
//! What the clients were told must be linearizable ([`linearizable`]).

pub mod linearizable;
mod run;
mod world;

pub use run::{RESOLUTION_MICROS, Seen, run};
pub use world::Faults;
