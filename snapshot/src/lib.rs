//! Copy-on-write snapshot files for a Raft state machine.
//!
//! A Raft log cannot grow for ever (extended Raft paper, section 7): the state machine's state up to some index is
//! written to a snapshot, and the log before it is dropped. This crate is the place for those files: a new snapshot will
//! write only the chunks that changed since the last one, and a follower will be sent only the chunks it lacks.
//!
//! Nothing is here yet. Until it is, a node keeps its whole log and rebuilds its state from it at every start.
