//! A seeded simulated cluster: network, disks, clocks, clients and checkers, around the same [`Node`](crate::node::Node)
//! that the server runs.
//!
//! So far there is the checker of histories, [`linearizable`].

pub mod linearizable;
