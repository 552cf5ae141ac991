//! The store at one moment, to look at.

use std::ops::Bound;

use bytes::Bytes;
use imbl::OrdMap;
use smallvec::SmallVec;

use super::command::{Command, TtlForm, Version};
use super::output::{KeyType, Output};
use super::pattern;
use crate::node::LogTime;

/// The store at one moment. A clone shares everything with the store until one of the two changes, so it costs next to nothing, and
/// a long question can be answered with one elsewhere, while the store goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    pub(super) map: OrdMap<Key, Item>,
    /// The time in the log.
    pub(super) now: LogTime,
}

/// A key in the map: short ones stand there themselves, since a search that looks at keys elsewhere waits for memory at each.
pub(super) type Key = SmallVec<[u8; 24]>;

/// What is at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) value: Bytes,
    /// From then on it is as if it were not there.
    pub(super) expires: Option<LogTime>,
    /// That of the write it was last changed by.
    pub(super) version: Version,
}

/// Some keys, and where to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Those that match.
    pub keys: Vec<Bytes>,
    /// The last key that was looked at, if there are more.
    pub next: Option<Bytes>,
}

impl View {
    /// The value of a key.
    pub fn find(&self, key: &[u8]) -> Option<&Bytes> {
        self.item(key).map(|item| &item.value)
    }

    /// What changes whenever the value does: 0 for a key that does not exist.
    pub fn version(&self, key: &[u8]) -> Version {
        self.item(key)
            .map_or(Version::default(), |item| item.version)
    }

    /// How many keys there are. Some may have expired a moment ago.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub(super) fn item(&self, key: &[u8]) -> Option<&Item> {
        self.map.get(key).filter(|item| self.is_alive(item))
    }

    fn is_alive(&self, item: &Item) -> bool {
        item.expires.is_none_or(|at| at > self.now)
    }

    /// Answers a command that changes nothing.
    ///
    /// # Panics
    /// If it is a write.
    pub fn query(&self, command: &Command) -> Output {
        match command {
            Command::Get { key } => self.value(key),
            Command::MGet { keys } => {
                Output::List(keys.iter().map(|key| self.value(key)).collect())
            }
            Command::StrLen { key } => {
                Output::Integer(self.find(key).map_or(0, |value| value.len() as i64))
            }
            Command::GetRange { key, first, last } => {
                let value = self.find(key).cloned().unwrap_or_default();
                Output::Value(part(&value, *first, *last))
            }
            Command::Exists { keys } => {
                let exists = keys.iter().filter(|key| self.item(key).is_some());
                Output::Integer(exists.count() as i64)
            }
            Command::Type { key } => Output::Type(match self.item(key) {
                Some(_) => KeyType::String,
                None => KeyType::None,
            }),
            Command::Ttl { key, form } => Output::Integer(match self.item(key) {
                None => -2,
                Some(item) => item.expires.map_or(-1, |at| self.show(at, *form)),
            }),
            Command::DbSize => Output::Integer(self.len() as i64),
            write => unreachable!("a write goes through the log: {write:?}"),
        }
    }

    pub(super) fn value(&self, key: &[u8]) -> Output {
        self.find(key).cloned().map_or(Output::Nil, Output::Value)
    }

    fn show(&self, at: LogTime, form: TtlForm) -> i64 {
        let left = at.0 - self.now.0.min(at.0);
        let shown = match form {
            TtlForm::Seconds => left.saturating_add(500) / 1000,
            TtlForm::Millis => left,
            TtlForm::AtSeconds => at.0.saturating_add(500) / 1000,
            TtlForm::AtMillis => at.0,
        };
        i64::try_from(shown).unwrap_or(i64::MAX)
    }

    /// All keys that match a pattern of Redis's: `*`, `?`, `[a-c]`, `[^a]`, `\`.
    pub fn keys(&self, pattern: &[u8]) -> Vec<Bytes> {
        let alive = self.map.iter().filter(|(_, item)| self.is_alive(item));
        let keys = alive.map(|(key, _)| key);
        keys.filter(|key| pattern::matches(pattern, key))
            .map(|key| Bytes::copy_from_slice(key))
            .collect()
    }

    /// The keys that match a pattern, of the next `count` after a key, in their order. Whoever goes on until there are no more has
    /// seen each key that was there all the time.
    pub fn scan(&self, after: Option<&[u8]>, pattern: &[u8], count: usize) -> Page {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self
            .map
            .range::<(Bound<&[u8]>, Bound<&[u8]>), [u8]>((from, Bound::Unbounded));
        let mut page = Page {
            keys: Vec::new(),
            next: None,
        };
        let mut last = None;
        for (key, item) in rest.by_ref().take(count) {
            if self.is_alive(item) && pattern::matches(pattern, key) {
                page.keys.push(Bytes::copy_from_slice(key));
            }
            last = Some(key);
        }
        page.next = rest.next().and(last).map(|key| Bytes::copy_from_slice(key));
        page
    }
}

/// From the first to the last byte, as far as there are so many. What is negative counts from the end; before the beginning is the
/// first byte, as in Redis.
fn part(value: &Bytes, first: i64, last: i64) -> Bytes {
    let len = value.len() as i64;
    let is_backwards = first < 0 && last < 0 && first > last;
    let position = |at: i64| {
        if at < 0 {
            at.saturating_add(len).max(0)
        } else {
            at
        }
    };
    let (first, last) = (position(first), position(last).min(len - 1));
    match first <= last && !is_backwards {
        true => value.slice(first as usize..=last as usize),
        false => Bytes::new(),
    }
}
