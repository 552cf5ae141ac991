//! What the writes do.

use bytes::Bytes;

use super::command::{Command, Condition, ExpireCondition, Expiry, SetGives};
use super::output::{Failure, Output};
use super::view::Item;
use super::{Kv, VALUE_BYTES_MAX, parse_float, parse_integer};
use crate::node::LogTime;

impl Kv {
    /// Carries out a command.
    pub(super) fn execute(&mut self, command: Command) -> Output {
        let outcome = match command {
            Command::Set {
                key,
                value,
                expiry,
                condition,
                gives,
            } => self.set(key, value, expiry, condition, gives),
            Command::MSet {
                pairs,
                if_none_exists,
            } => self.set_all(pairs, if_none_exists),
            Command::Del { keys } => {
                let removed = keys.iter().filter(|key| self.remove(key).is_some());
                Ok(Output::Integer(removed.count() as i64))
            }
            Command::GetDel { key } => {
                let item = self.remove(&key);
                Ok(item.map_or(Output::Nil, |item| Output::Value(item.value)))
            }
            Command::GetEx { key, expiry } => Ok(self.get_and_expire(key, expiry)),
            Command::IncrBy { key, by } => self.increment(key, by),
            Command::IncrByFloat { key, by } => self.increment_float(key, by),
            Command::Append { key, value } => self.append(key, &value),
            Command::SetRange { key, offset, value } => self.set_range(key, offset, &value),
            Command::Expire {
                key,
                expiry,
                condition,
            } => Ok(self.expire(key, expiry, condition)),
            Command::Persist { key } => Ok(self.persist(key)),
            Command::Flush => {
                self.clear();
                Ok(Output::Done)
            }
            read => Ok(self.view.query(&read)),
        };
        outcome.unwrap_or_else(Output::Failed)
    }

    fn set(
        &mut self,
        key: Bytes,
        value: Bytes,
        expiry: Expiry,
        condition: Condition,
        gives: SetGives,
    ) -> Result<Output, Failure> {
        check_length(value.len())?;
        let old = match gives {
            SetGives::Old => self.view.value(&key),
            SetGives::Done | SetGives::Number => Output::Nil,
        };
        let is_set = match condition {
            Condition::Always => true,
            Condition::IfNone => self.view.item(&key).is_none(),
            Condition::IfExists => self.view.item(&key).is_some(),
        };
        if is_set {
            let expires = self.deadline(&key, expiry);
            self.insert(&key, value, expires);
        }
        Ok(match gives {
            SetGives::Done if is_set => Output::Done,
            SetGives::Done => Output::Nil,
            SetGives::Number => Output::Integer(is_set.into()),
            SetGives::Old => old,
        })
    }

    /// When a key is to expire from now on.
    fn deadline(&self, key: &[u8], expiry: Expiry) -> Option<LogTime> {
        match expiry {
            Expiry::Never => None,
            Expiry::Keep => self.view.item(key)?.expires,
            Expiry::At(time) => Some(time),
            Expiry::In(millis) => Some(LogTime(self.view.now.0.saturating_add(millis))),
        }
    }

    fn set_all(&mut self, pairs: Vec<(Bytes, Bytes)>, if_none: bool) -> Result<Output, Failure> {
        for (_, value) in &pairs {
            check_length(value.len())?;
        }
        if if_none && pairs.iter().any(|(key, _)| self.view.item(key).is_some()) {
            return Ok(Output::Integer(0));
        }
        for (key, value) in pairs {
            self.insert(&key, value, None);
        }
        Ok(match if_none {
            true => Output::Integer(1),
            false => Output::Done,
        })
    }

    fn get_and_expire(&mut self, key: Bytes, expiry: Expiry) -> Output {
        let Some(item) = self.view.item(&key).cloned() else {
            return Output::Nil;
        };
        let expires = self.deadline(&key, expiry);
        if expires != item.expires {
            self.insert(&key, item.value.clone(), expires);
        }
        Output::Value(item.value)
    }

    fn increment(&mut self, key: Bytes, by: i64) -> Result<Output, Failure> {
        let (value, expires) = self.value_and_expiry(&key);
        let before = match value {
            None => 0,
            Some(value) => parse_integer(&value).ok_or(Failure::NotAnInteger)?,
        };
        let after = before.checked_add(by).ok_or(Failure::Overflow)?;
        self.insert(&key, after.to_string().into(), expires);
        Ok(Output::Integer(after))
    }

    fn increment_float(&mut self, key: Bytes, by: f64) -> Result<Output, Failure> {
        let (value, expires) = self.value_and_expiry(&key);
        let before = match value {
            None => 0.0,
            Some(value) => parse_float(&value).ok_or(Failure::NotAFloat)?,
        };
        let after = before + by + 0.0; // No zero is negative.
        if !after.is_finite() {
            return Err(Failure::NotFinite);
        }
        let after = Bytes::from(after.to_string());
        self.insert(&key, after.clone(), expires);
        Ok(Output::Value(after))
    }

    fn append(&mut self, key: Bytes, value: &[u8]) -> Result<Output, Failure> {
        let (before, expires) = self.value_and_expiry(&key);
        let before = before.unwrap_or_default();
        check_length(before.len() + value.len())?;
        let after = [&before[..], value].concat();
        let len = after.len() as i64;
        self.insert(&key, after.into(), expires);
        Ok(Output::Integer(len))
    }

    fn set_range(&mut self, key: Bytes, offset: u64, value: &[u8]) -> Result<Output, Failure> {
        let (before, expires) = self.value_and_expiry(&key);
        let before = before.unwrap_or_default();
        if value.is_empty() {
            return Ok(Output::Integer(before.len() as i64));
        }
        let offset = usize::try_from(offset).map_err(|_| Failure::TooLong)?;
        let end = offset.checked_add(value.len()).ok_or(Failure::TooLong)?;
        check_length(end)?;
        let mut after = before.to_vec();
        after.resize(before.len().max(end), 0);
        after[offset..end].copy_from_slice(value);
        let len = after.len() as i64;
        self.insert(&key, after.into(), expires);
        Ok(Output::Integer(len))
    }

    fn expire(&mut self, key: Bytes, expiry: Expiry, condition: ExpireCondition) -> Output {
        let Some(Item { value, expires, .. }) = self.view.item(&key).cloned() else {
            return Output::Integer(0);
        };
        let new = self.deadline(&key, expiry);
        // Without an expiry a key lives for ever: that is later than any.
        let is_set = match condition {
            ExpireCondition::Always => true,
            ExpireCondition::IfNone => expires.is_none(),
            ExpireCondition::IfSome => expires.is_some(),
            ExpireCondition::IfLater => expires.is_some() && new > expires,
            ExpireCondition::IfEarlier => expires.is_none() || new < expires,
            ExpireCondition::IfSomeAndEarlier => expires.is_some() && new < expires,
        };
        if is_set {
            self.insert(&key, value, new);
        }
        Output::Integer(is_set.into())
    }

    fn persist(&mut self, key: Bytes) -> Output {
        match self.view.item(&key).cloned() {
            Some(item) if item.expires.is_some() => {
                self.insert(&key, item.value, None);
                Output::Integer(1)
            }
            _ => Output::Integer(0),
        }
    }

    fn value_and_expiry(&self, key: &[u8]) -> (Option<Bytes>, Option<LogTime>) {
        let item = self.view.item(key);
        (
            item.map(|item| item.value.clone()),
            item.and_then(|item| item.expires),
        )
    }
}

fn check_length(bytes: usize) -> Result<(), Failure> {
    match bytes <= VALUE_BYTES_MAX {
        true => Ok(()),
        false => Err(Failure::TooLong),
    }
}
