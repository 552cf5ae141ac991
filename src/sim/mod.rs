//! A seeded simulated cluster: network, disks, clocks, clients and checkers, around the same [`Node`](crate::node::Node)
//! that the server runs.
//!
//! [`World`] is a cluster of any state machine, for whoever wants to put their own through it: nodes on simulated disks, a bad
//! network between them, and one virtual time. It checks what holds for every Raft cluster.
//!
//! [`run()`] is what `duramen sim` does: key/value stores whose processes are killed and whose power is cut in the middle of
//! writes, with messages that are lost, doubled, late and out of order, links that are cut one way, disks that stall, fail, are
//! damaged, emptied and set back, clocks that jump and go back; nodes are replaced meanwhile, and leaderships handed over. What the
//! clients were told must be linearizable ([`linearizable`]).

mod clients;
pub mod history;
pub mod linearizable;
mod machine;
mod network;
mod operator;
mod recorder;
mod run;
mod seen;
#[cfg(test)]
mod tests;
mod trace;
mod weather;
mod world;

pub use machine::{Outbox, Settings, SimClock, SimNode, Totals};
pub use network::{Faults, Traffic};
pub use run::{Failure, MEND_TIME, run};
pub use seen::{Seen, TooQuiet};
pub use world::World;
