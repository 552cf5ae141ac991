//! What a command gives.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

/// What a command gave. It stands in the sessions' table, and so in snapshots: a variant keeps its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

/// An [`Output`] as it is read, with its variants in the same places. Lists are no deeper than a transaction with a command of
/// several keys makes them, and bytes are borrowed: so bytes that are no output take neither all of the stack nor memory for what
/// they claim.
#[derive(Deserialize)]
enum Stored<'a, L> {
    Done,
    Nil,
    Integer(i64),
    Value(&'a [u8]),
    Type(KeyType),
    List(Vec<L>),
    Aborted,
    Failed(Failure),
}

/// Where there is no list any more.
#[derive(Deserialize)]
enum Never {}

impl From<Never> for Output {
    fn from(never: Never) -> Output {
        match never {}
    }
}

impl<L: Into<Output>> From<Stored<'_, L>> for Output {
    fn from(stored: Stored<'_, L>) -> Output {
        match stored {
            Stored::Done => Output::Done,
            Stored::Nil => Output::Nil,
            Stored::Integer(integer) => Output::Integer(integer),
            Stored::Value(value) => Output::Value(Bytes::copy_from_slice(value)),
            Stored::Type(kind) => Output::Type(kind),
            Stored::List(outputs) => Output::List(outputs.into_iter().map(Into::into).collect()),
            Stored::Aborted => Output::Aborted,
            Stored::Failed(failure) => Output::Failed(failure),
        }
    }
}

impl<'de> Deserialize<'de> for Output {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Output, D::Error> {
        type Single<'a> = Stored<'a, Never>;
        Stored::<'de, Stored<'de, Single<'de>>>::deserialize(from).map(Into::into)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Option<Output> {
        let config = bincode::config::standard();
        let decoded = bincode::serde::borrow_decode_from_slice(bytes, config);
        decoded.ok().map(|(output, _)| output)
    }

    /// Frozen.
    #[test]
    fn outputs_are_these_bytes() {
        let list = Output::List(vec![
            Output::List(vec![Output::Value("v".into()), Output::Nil]),
            Output::Integer(-1),
        ]);
        for (output, bytes) in [
            (Output::Done, &[0][..]),
            (Output::Nil, &[1]),
            (Output::Integer(3), &[2, 6]),
            (Output::Value("ab".into()), &[3, 2, b'a', b'b']),
            (Output::Type(KeyType::String), &[4, 1]),
            (list, &[5, 2, 5, 2, 3, 1, b'v', 1, 2, 1]),
            (Output::Aborted, &[6]),
            (Output::Failed(Failure::Unknown), &[7, 5]),
        ] {
            let config = bincode::config::standard();
            let encoded = bincode::serde::encode_to_vec(&output, config).unwrap();
            assert_eq!(encoded, bytes, "{output:?}");
            assert_eq!(decode(bytes), Some(output));
        }
    }

    #[test]
    fn lists_in_lists_in_lists_do_not_take_the_stack() {
        assert!(decode(&[5, 1, 5, 1, 0]).is_some());
        assert_eq!(decode(&[5, 1, 5, 1, 5, 1, 0]), None);
        assert_eq!(decode(&[5, 1].repeat(1 << 20)), None);
    }

    #[test]
    fn bytes_that_are_only_claimed_take_no_memory() {
        // A claim of half of what there can be at all: whoever allocates for it fails.
        let claim = (u64::MAX / 2).to_le_bytes();
        assert_eq!(decode(&[&[3, 253][..], &claim].concat()), None);
    }
}
