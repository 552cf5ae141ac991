//! A seeded simulated cluster: network, disks, clocks, clients and checkers, around the same [`Node`](crate::node::Node)
//! that the server runs.
//!
//! Nothing is here yet.
