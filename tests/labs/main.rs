//! The scenarios of MIT's course 6.824, lab 2 (the Raft labs), under their names, in the simulator, with the shipped settings and the
//! labs' limits in virtual time: a leader within 5 s, each agreement within 10 s. Indexes count commands, not a leader's blank
//! entries; an RPC is a request.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agreement;
mod election;
mod lab;
mod persistence;
mod snapshots;
