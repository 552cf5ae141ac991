//! What clients of a real cluster have called, key by key, and what they were told: for the checker.
//!
//! For processes and real time, where nothing can be repeated; the simulator's own clients note what they see themselves.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::linearizable::{Model, Operation, Verdict, check};

/// One key: a number, or nothing.
#[derive(Debug)]
pub struct Number;

/// What is done with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// It is read.
    Get,
    /// It is set.
    Set(i64),
    /// It is counted up, from nothing to 1.
    Increment,
}

impl Model for Number {
    type State = Option<i64>;
    type Call = Call;
    /// The number after the call.
    type Output = Option<i64>;

    fn step(state: &Option<i64>, call: &Call) -> (Option<i64>, Option<i64>) {
        let after = match call {
            Call::Get => *state,
            Call::Set(to) => Some(*to),
            Call::Increment => Some(state.unwrap_or(0) + 1),
        };
        (after, after)
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It was carried out, and gave this.
    Acknowledged(T),
    /// It was certainly not carried out.
    Refused,
    /// Nobody can tell.
    Unknown,
}

impl<T> Outcome<T> {
    /// With another value, if there is one.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Outcome::Acknowledged(reply) => Outcome::Acknowledged(change(reply)),
            Outcome::Refused => Outcome::Refused,
            Outcome::Unknown => Outcome::Unknown,
        }
    }
}

type Operations = Vec<Operation<Call, Option<i64>>>;

/// The checker is for short histories: after so many operations on these keys, others take their place.
const OPERATIONS_OF_A_KEY: u64 = 200;
const KEYS_AT_A_TIME: u64 = 3;

/// What all clients have called. They share it.
#[derive(Debug)]
pub struct History {
    /// What its keys begin with.
    prefix: String,
    start: Instant,
    drawn: AtomicU64,
    returned: AtomicU64,
    operations: Mutex<BTreeMap<String, Operations>>,
}

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// How many operations are part of the histories.
    pub operations: usize,
    /// Of how many of them nobody knows the outcome.
    pub unknown: usize,
}

/// There is no order of the operations that gives what clients were told, or none was found.
#[derive(Debug, Clone, thiserror::Error)]
#[error("what clients were told of key {key} has no explanation ({verdict:?}): {operations:#?}")]
#[non_exhaustive]
pub struct Unexplained {
    /// Of this key.
    pub key: String,
    /// What the checker says.
    pub verdict: Verdict,
    /// What was called.
    pub operations: Vec<Operation<Call, Option<i64>>>,
}

impl History {
    /// An empty one, of keys that begin like this.
    pub fn new(prefix: impl Into<String>) -> History {
        History {
            prefix: prefix.into(),
            start: Instant::now(),
            drawn: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            operations: Mutex::default(),
        }
    }

    /// The time that operations are noted with.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// The number of the next operation, which no other one has, and its key.
    pub fn draw(&self) -> (u64, String) {
        let drawn = self.drawn.fetch_add(1, Ordering::Relaxed);
        let generation = drawn / (OPERATIONS_OF_A_KEY * KEYS_AT_A_TIME);
        let (prefix, place) = (&self.prefix, drawn % KEYS_AT_A_TIME);
        (drawn, format!("{prefix}{generation}-{place}"))
    }

    /// What to do with the key of operation `number`: each key is set, counted up and read in turn.
    pub fn call(number: u64) -> Call {
        match number / KEYS_AT_A_TIME % 3 {
            0 => Call::Set(number as i64),
            1 => Call::Increment,
            _ => Call::Get,
        }
    }

    /// Notes how an operation ended that was called at `called`. One that is certainly not done, and a read of which nothing came,
    /// explain nothing.
    pub fn note(&self, key: String, called: u64, call: Call, outcome: Outcome<Option<i64>>) {
        let returned = match (outcome, call) {
            (Outcome::Acknowledged(after), _) => {
                self.returned.fetch_add(1, Ordering::Relaxed);
                Some((self.now(), after))
            }
            (Outcome::Refused, _) | (Outcome::Unknown, Call::Get) => return,
            (Outcome::Unknown, _) => None,
        };
        let operation = Operation {
            called,
            call,
            returned,
        };
        self.operations().entry(key).or_default().push(operation);
    }

    /// Notes that a key was read.
    pub fn note_read(&self, key: &str, called: u64, value: Option<i64>) {
        self.note(
            key.to_owned(),
            called,
            Call::Get,
            Outcome::Acknowledged(value),
        );
    }

    /// How many operations have been acknowledged.
    pub fn returned(&self) -> u64 {
        self.returned.load(Ordering::Relaxed)
    }

    /// The keys that were called.
    pub fn keys(&self) -> Vec<String> {
        self.operations().keys().cloned().collect()
    }

    /// How many changes were acknowledged.
    pub fn changes(&self) -> u64 {
        let operations = self.operations();
        let is_change = |operation: &&Operation<Call, _>| {
            operation.call != Call::Get && operation.returned.is_some()
        };
        operations.values().flatten().filter(is_change).count() as u64
    }

    /// Whether all of it is linearizable.
    ///
    /// # Errors
    /// [`Unexplained`].
    pub fn check(&self) -> Result<Checked, Box<Unexplained>> {
        let all = self.operations();
        for (key, operations) in all.iter() {
            let verdict = check::<Number>(operations);
            if verdict != Verdict::Linearizable {
                return Err(Box::new(Unexplained {
                    key: key.clone(),
                    verdict,
                    operations: operations.clone(),
                }));
            }
        }
        let is_unknown = |operation: &&Operation<Call, _>| operation.returned.is_none();
        Ok(Checked {
            operations: all.values().map(Vec::len).sum(),
            unknown: all.values().flatten().filter(is_unknown).count(),
        })
    }

    fn operations(&self) -> MutexGuard<'_, BTreeMap<String, Operations>> {
        self.operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(outcomes: &[(Call, Outcome<Option<i64>>)]) -> History {
        let history = History::new("a");
        for (call, outcome) in outcomes {
            let called = history.now();
            history.note("key".to_owned(), called, *call, *outcome);
        }
        history
    }

    #[test]
    fn what_is_explained_is_counted() {
        use Outcome::{Acknowledged, Refused, Unknown};
        let history = history(&[
            (Call::Set(5), Acknowledged(Some(5))),
            (Call::Increment, Unknown),
            (Call::Get, Acknowledged(Some(6))),
            (Call::Set(9), Refused),
            (Call::Get, Unknown),
        ]);
        let checked = history.check().unwrap();
        assert_eq!((checked.operations, checked.unknown), (3, 1));
        assert_eq!((history.returned(), history.changes()), (2, 1));
    }

    #[test]
    fn a_change_that_was_acknowledged_and_is_not_read_is_named() {
        let history = history(&[
            (Call::Set(5), Outcome::Acknowledged(Some(5))),
            (Call::Increment, Outcome::Acknowledged(Some(6))),
            (Call::Get, Outcome::Acknowledged(Some(5))),
        ]);
        let unexplained = history.check().unwrap_err();
        assert_eq!(unexplained.key, "key");
        assert!(unexplained.to_string().contains("Increment"));
    }

    #[test]
    fn each_key_is_set_counted_up_and_read_in_turn_and_then_replaced() {
        let history = History::new("a-");
        let drawn: Vec<_> = (0..601).map(|_| history.draw()).collect();
        assert_eq!(drawn[0], (0, "a-0-0".to_owned()));
        assert_eq!(drawn[600], (600, "a-1-0".to_owned()));
        let of_one = drawn.iter().filter(|(_, key)| key == "a-0-1");
        let calls: Vec<_> = of_one.map(|(number, _)| History::call(*number)).collect();
        assert_eq!(calls.len(), 200);
        assert_eq!(calls[..3], [Call::Set(1), Call::Increment, Call::Get]);
    }
}
