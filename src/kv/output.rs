//! What a command gives.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What a command gave. It stands in the sessions' table, and so in snapshots: a variant keeps its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// It was done.
    Done,
    /// There is no such key, or it was not done because of its condition.
    Nil,
    /// A number.
    Integer(i64),
    /// A value.
    Value(Bytes),
    /// The word for a type.
    Type(KeyType),
    /// What several commands gave, or one with several keys.
    List(Vec<Output>),
    /// A watched key has changed: nothing was done.
    Aborted,
    /// It could not be done, and changed nothing.
    Failed(Failure),
}

/// What is at a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyType {
    /// Nothing.
    None,
    /// A string of bytes.
    String,
}

/// Why a command could not be done. It has changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// The value is not a decimal integer of 64 bits.
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    /// The value is not a number.
    #[error("value is not a valid float")]
    NotAFloat,
    /// The result would not fit in 64 bits.
    #[error("increment or decrement would overflow")]
    Overflow,
    /// The result would not be finite.
    #[error("increment would produce NaN or Infinity")]
    NotFinite,
    /// The value would be longer than [`VALUE_BYTES_MAX`](super::VALUE_BYTES_MAX).
    #[error(
        "string exceeds maximum allowed size ({} bytes)",
        super::VALUE_BYTES_MAX
    )]
    TooLong,
    /// Not a command that this program knows: a later version has made it.
    #[error("this version of the program does not know the command")]
    Unknown,
}
