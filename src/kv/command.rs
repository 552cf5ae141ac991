//! The commands of the store, and what of them goes together in one entry of the log.

use bytes::Bytes;

use crate::node::LogTime;

/// What changes or shows the store. Each does what Redis's command of this name does.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Sets a key.
    Set {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// What becomes of its expiry.
        expiry: Expiry,
        /// When it is set at all.
        condition: Condition,
        /// What it gives.
        gives: SetGives,
    },
    /// Sets several keys, none of which expires then.
    MSet {
        /// Keys and values, in order.
        pairs: Vec<(Bytes, Bytes)>,
        /// Only if none of the keys exists. It gives 1 or 0 then.
        if_none_exists: bool,
    },
    /// Removes keys; gives how many there were.
    Del {
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// Removes a key; gives its value.
    GetDel {
        /// The key.
        key: Bytes,
    },
    /// Gives the value of a key, and sets when it expires.
    GetEx {
        /// The key.
        key: Bytes,
        /// What becomes of its expiry.
        expiry: Expiry,
    },
    /// Adds to an integer, 0 if the key does not exist; gives the sum.
    IncrBy {
        /// The key.
        key: Bytes,
        /// What to add.
        by: i64,
    },
    /// Adds to a number, 0 if the key does not exist; gives the sum.
    IncrByFloat {
        /// The key.
        key: Bytes,
        /// What to add. Finite.
        by: f64,
    },
    /// Appends to a value, empty if the key does not exist; gives the new length.
    Append {
        /// The key.
        key: Bytes,
        /// What to append.
        value: Bytes,
    },
    /// Overwrites a part of a value, which grows with zeros as needed; gives the new length.
    SetRange {
        /// The key.
        key: Bytes,
        /// Where the part begins, in bytes.
        offset: u64,
        /// What to write there. If it is empty nothing changes.
        value: Bytes,
    },
    /// Says when a key expires; gives whether it does now (1 or 0).
    Expire {
        /// The key.
        key: Bytes,
        /// When: [`Expiry::At`] or [`Expiry::In`].
        expiry: Expiry,
        /// When it is set at all.
        condition: ExpireCondition,
    },
    /// Lets a key not expire any more; gives whether it would have (1 or 0).
    Persist {
        /// The key.
        key: Bytes,
    },
    /// Removes all keys.
    Flush,

    /// The value of a key.
    Get {
        /// The key.
        key: Bytes,
    },
    /// The values of several keys.
    MGet {
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// The length of a value, 0 if the key does not exist.
    StrLen {
        /// The key.
        key: Bytes,
    },
    /// A part of a value, both ends included; negative positions count from its end.
    GetRange {
        /// The key.
        key: Bytes,
        /// The first byte.
        first: i64,
        /// The last byte.
        last: i64,
    },
    /// How many of these keys exist; one that is named twice counts twice.
    Exists {
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// Whether a key exists: `string` or `none`.
    Type {
        /// The key.
        key: Bytes,
    },
    /// When a key expires; -1 if it does not, -2 if there is none.
    Ttl {
        /// The key.
        key: Bytes,
        /// In which form.
        form: TtlForm,
    },
    /// How many keys there are.
    DbSize,
}

/// What becomes of the expiry of a key that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expiry {
    /// It does not expire any more.
    #[default]
    Never,
    /// It stays what it was.
    Keep,
    /// It expires at this time.
    At(LogTime),
    /// It expires so many milliseconds after the command.
    In(u64),
}

/// When a key is set at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// In any case.
    #[default]
    Always,
    /// If it does not exist.
    IfNone,
    /// If it exists.
    IfExists,
}

/// What a [`Command::Set`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetGives {
    /// [`Output::Done`](super::Output::Done), or nothing if it was not set.
    #[default]
    Done,
    /// 1 if it was set, 0 if not.
    Number,
    /// The value before.
    Old,
}

/// When an expiry is set at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpireCondition {
    /// In any case.
    #[default]
    Always,
    /// If the key has no expiry.
    IfNone,
    /// If it has one.
    IfSome,
    /// If it has one, and the new one is later.
    IfLater,
    /// If it has none, or the new one is earlier.
    IfEarlier,
    /// If it has one, and the new one is earlier.
    IfSomeAndEarlier,
}

/// How an expiry is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TtlForm {
    /// The seconds that are left, rounded.
    Seconds,
    /// The milliseconds that are left.
    Millis,
    /// Seconds since 1970.
    AtSeconds,
    /// Milliseconds since 1970.
    AtMillis,
}

/// How often the store was written to when a key was: equal versions, equal values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Version(pub u64);

/// What stands in one entry of the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// A command.
    One(Command),
    /// Commands of one client that came together. Each succeeds or fails by itself; nothing comes between them.
    Batch(Vec<Command>),
    /// The same, if none of the watched keys has changed; else nothing is done.
    Transaction {
        /// Keys with the versions that they must have. One that does not exist has version 0.
        watched: Vec<(Bytes, Version)>,
        /// The commands.
        commands: Vec<Command>,
    },
}

impl Command {
    /// Sets a key, whatever it was.
    pub fn set(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Command {
        Command::Set {
            key: key.into(),
            value: value.into(),
            expiry: Expiry::Never,
            condition: Condition::Always,
            gives: SetGives::Done,
        }
    }

    /// The value of a key.
    pub fn get(key: impl Into<Bytes>) -> Command {
        Command::Get { key: key.into() }
    }

    /// Appends to a value.
    pub fn append(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Command {
        Command::Append {
            key: key.into(),
            value: value.into(),
        }
    }

    /// Whether it may change the store, so that it must go through the log.
    pub fn is_write(&self) -> bool {
        match self {
            Command::Set { .. }
            | Command::MSet { .. }
            | Command::Del { .. }
            | Command::GetDel { .. }
            | Command::GetEx { .. }
            | Command::IncrBy { .. }
            | Command::IncrByFloat { .. }
            | Command::Append { .. }
            | Command::SetRange { .. }
            | Command::Expire { .. }
            | Command::Persist { .. }
            | Command::Flush => true,
            Command::Get { .. }
            | Command::MGet { .. }
            | Command::StrLen { .. }
            | Command::GetRange { .. }
            | Command::Exists { .. }
            | Command::Type { .. }
            | Command::Ttl { .. }
            | Command::DbSize => false,
        }
    }

    /// Whether it may make the store larger.
    pub fn grows(&self) -> bool {
        matches!(
            self,
            Command::Set { .. }
                | Command::MSet { .. }
                | Command::IncrBy { .. }
                | Command::IncrByFloat { .. }
                | Command::Append { .. }
                | Command::SetRange { .. }
        )
    }

    /// The bytes for the log, of an entry with this command alone.
    pub fn encode(self) -> Bytes {
        Request::One(self).encode()
    }
}
