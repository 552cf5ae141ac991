//! The sessions, and what each was told last.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use byteorder::{LittleEndian as LE, ReadBytesExt, WriteBytesExt};
use imbl::OrdMap;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CallRefused, SessionId};
use crate::canary::planted;
use crate::node::LogTime;

/// All sessions.
///
/// ```text
/// in a snapshot
///   0  time in the log 8, in milliseconds since 1970
///   8  how many sessions were ever opened 8
///  16  how many there are 4
///  20  each: id 8, lifetime 8, used 8, sequence 8, checksum of its command 16, length of the reply 4, reply
/// ```
///
/// Little-endian, by id; the reply in bincode's standard form. Of a session without a call the sequence is 0 and the reply empty.
///
/// # Invariants
///
/// * The deadlines are those of the sessions, one each.
/// * No id is above the number of those that were opened.
#[derive(Debug)]
pub(super) struct Table<O> {
    sessions: OrdMap<SessionId, Session<O>>,
    /// When each ends, the first first.
    deadlines: BTreeSet<(LogTime, SessionId)>,
    opened: u64,
    pub(super) now: LogTime,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Session<O> {
    /// It ends when it was not used for so long.
    lifetime_ms: u64,
    used: LogTime,
    /// The last call. There is one under way at a time, so no earlier one can come again.
    last: Option<Called<O>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Called<O> {
    sequence: u64,
    checksum: Checksum,
    reply: O,
}

type Checksum = [u8; 16];

/// Each session costs a few hundred bytes on each node, and its last reply.
pub(super) const SESSIONS_MAX: usize = 1 << 16;

/// What is to be done about a call.
pub(super) enum Verdict<O> {
    /// Carry it out, then [remember](Table::remember) it.
    Execute,
    /// It was carried out before, and gave this.
    Repeat(O),
    Refuse(CallRefused),
}

impl<O> Default for Table<O> {
    fn default() -> Table<O> {
        Table {
            sessions: OrdMap::new(),
            deadlines: BTreeSet::new(),
            opened: 0,
            now: LogTime::default(),
        }
    }
}

impl<O> Session<O> {
    fn deadline(&self) -> LogTime {
        LogTime(self.used.0.saturating_add(self.lifetime_ms))
    }

    fn sequence(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.sequence)
    }
}

impl<O: Clone> Table<O> {
    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Time goes on: sessions that were not used for long end.
    pub(super) fn advance_to(&mut self, now: LogTime) {
        self.now = match planted("time_goes_back") {
            true => now,
            false => self.now.max(now),
        };
        while let Some((_, id)) = self.deadlines.first().filter(|(at, _)| *at <= self.now) {
            let id = *id;
            self.close(id);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<LogTime> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Opens a session. If there are too many, the one ends that would end first.
    pub(super) fn open(&mut self, lifetime_ms: u64) -> SessionId {
        if self.sessions.len() >= SESSIONS_MAX
            && let Some((_, first)) = self.deadlines.first().copied()
        {
            self.close(first);
        }
        self.opened += 1;
        let session = Session {
            lifetime_ms: lifetime_ms.max(1),
            used: self.now,
            last: None,
        };
        let id = SessionId(self.opened);
        self.deadlines.insert((session.deadline(), id));
        self.sessions.insert(id, session);
        id
    }

    /// Ends a session. Says whether there was one.
    pub(super) fn close(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.remove(&id) else {
            return false;
        };
        self.deadlines.remove(&(session.deadline(), id));
        true
    }

    /// What is to be done about a call.
    pub(super) fn judge(&mut self, id: SessionId, sequence: u64, command: &[u8]) -> Verdict<O> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Verdict::Refuse(CallRefused::NoSession);
        };
        self.deadlines.remove(&(session.deadline(), id));
        session.used = self.now;
        self.deadlines.insert((session.deadline(), id));
        let last = session.sequence();
        match &session.last {
            _ if last.checked_add(1) == Some(sequence) => Verdict::Execute,
            Some(called) if sequence == last => match called.checksum == checksum(command) {
                true => Verdict::Repeat(called.reply.clone()),
                false => Verdict::Refuse(CallRefused::OtherCommand { sequence }),
            },
            _ => Verdict::Refuse(CallRefused::OutOfOrder { sequence, last }),
        }
    }

    /// A call was carried out.
    pub(super) fn remember(&mut self, id: SessionId, sequence: u64, command: &[u8], reply: O) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.last = Some(Called {
                sequence,
                checksum: checksum(command),
                reply,
            });
        }
    }
}

fn checksum(command: &[u8]) -> Checksum {
    let hash = blake3::hash(command);
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// A table that does not change any more, to be written.
pub(super) struct FrozenTable<O> {
    sessions: OrdMap<SessionId, Session<O>>,
    opened: u64,
    now: LogTime,
}

impl<O: Clone + Serialize + DeserializeOwned> Table<O> {
    pub(super) fn freeze(&self) -> FrozenTable<O> {
        FrozenTable {
            sessions: self.sessions.clone(),
            opened: self.opened,
            now: self.now,
        }
    }

    pub(super) fn read(from: &mut dyn Read) -> io::Result<Table<O>> {
        let mut table = Table {
            now: LogTime(from.read_u64::<LE>()?),
            opened: from.read_u64::<LE>()?,
            ..Table::default()
        };
        if table.opened > OPENED_MAX {
            return Err(bad(format!("{} sessions were never opened", table.opened)));
        }
        let mut last = SessionId(0);
        for _ in 0..from.read_u32::<LE>()? {
            let id = SessionId(from.read_u64::<LE>()?);
            // An id that came twice would leave a deadline for which there is no session.
            if id <= last || id.0 > table.opened {
                let opened = table.opened;
                return Err(bad(format!("session {id} comes after {last}, of {opened}")));
            }
            last = id;
            let session = Session::read(from)?;
            table.deadlines.insert((session.deadline(), id));
            table.sessions.insert(id, session);
        }
        Ok(table)
    }
}

impl<O: Serialize> FrozenTable<O> {
    pub(super) fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_u64::<LE>(self.now.0)?;
        to.write_u64::<LE>(self.opened)?;
        to.write_u32::<LE>(self.sessions.len() as u32)?;
        for (id, session) in &self.sessions {
            to.write_u64::<LE>(id.0)?;
            session.write(to)?;
        }
        Ok(())
    }
}

impl<O: Serialize> Session<O> {
    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_u64::<LE>(self.lifetime_ms)?;
        to.write_u64::<LE>(self.used.0)?;
        to.write_u64::<LE>(self.sequence())?;
        let (checksum, reply) = match &self.last {
            None => Default::default(),
            Some(last) => {
                let config = bincode::config::standard();
                let reply = bincode::serde::encode_to_vec(&last.reply, config);
                (last.checksum, reply.map_err(io::Error::other)?)
            }
        };
        to.write_all(&checksum)?;
        to.write_u32::<LE>(reply.len() as u32)?;
        to.write_all(&reply)
    }
}

impl<O: DeserializeOwned> Session<O> {
    fn read(from: &mut dyn Read) -> io::Result<Session<O>> {
        let lifetime_ms = from.read_u64::<LE>()?;
        let used = LogTime(from.read_u64::<LE>()?);
        let sequence = from.read_u64::<LE>()?;
        let mut checksum = Checksum::default();
        from.read_exact(&mut checksum)?;
        let len = from.read_u32::<LE>()?;
        let mut reply = Vec::new();
        from.take(len.into()).read_to_end(&mut reply)?;
        if reply.len() != len as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let last = match sequence {
            0 => None,
            _ => Some(Called {
                sequence,
                checksum,
                reply: decode(&reply)?,
            }),
        };
        Ok(Session {
            lifetime_ms,
            used,
            last,
        })
    }
}

fn decode<O: DeserializeOwned>(bytes: &[u8]) -> io::Result<O> {
    let config = bincode::config::standard().with_limit::<REPLY_BYTES_MAX>();
    // Borrowed, so that bytes may be looked at before there is memory for as many as are claimed.
    let decoded = bincode::serde::borrow_decode_from_slice(bytes, config);
    let (reply, read) = decoded.map_err(|error| bad(format!("a bad reply: {error}")))?;
    match read == bytes.len() {
        true => Ok(reply),
        false => Err(bad("a reply is shorter than it says".to_owned())),
    }
}

fn bad(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// No reply is longer, whatever its bytes claim.
const REPLY_BYTES_MAX: usize = 1 << 30;
/// No log is so long that more sessions were opened.
const OPENED_MAX: u64 = 1 << 62;
