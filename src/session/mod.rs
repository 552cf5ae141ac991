//! Exactly-once sessions around any state machine (paper, section 8; thesis, 6.3).
//!
//! Nothing is here yet. Until it is, a client that repeats a command after an unknown outcome may have it applied twice.
