//! Duramen: the durable core of a Raft log.
