//! Messages that no correct node has sent: whatever can be decoded. The numbers are often such as mean something.

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use duramen::raft::{
    Answer, Answers, AppendOutcome, Ask, Badness, Envelope, Membership, Message, OwnSnapshot,
    Question, Round,
};
use duramen::wal::{Context, Entry, Index, LogId, NodeId, Term};

/// Who receives it is said by the step.
pub(crate) fn envelope(u: &mut Unstructured<'_>) -> Result<Envelope> {
    Ok(Envelope {
        from: NodeId(match u.arbitrary::<u8>()? {
            from @ 0..224 => u64::from(from % 5),
            _ => number(u)?,
        }),
        to: NodeId(0),
        term: Term(number(u)?),
        message: message(u)?,
    })
}

/// Small, or at an edge, or any.
pub(crate) fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    let kind: u8 = u.arbitrary()?;
    Ok(match kind {
        0..192 => u64::from(kind % 48),
        192..208 => u64::MAX - u64::from(kind % 4),
        208..224 => u64::MAX / 2 + u64::from(kind % 8) - 3,
        224..240 => u64::from(u.arbitrary::<u32>()?),
        _ => u.arbitrary()?,
    })
}

fn message(u: &mut Unstructured<'_>) -> Result<Message> {
    Ok(match u.arbitrary::<u8>()? % 16 {
        0 => Message::PreVote { last: log_id(u)? },
        1 => Message::PreVoted {
            granted: u.arbitrary()?,
        },
        2 => Message::RequestVote {
            last: log_id(u)?,
            is_transfer: u.arbitrary()?,
        },
        3 => Message::Vote {
            granted: u.arbitrary()?,
        },
        4 => Message::TimeoutNow,
        5..7 => {
            let OwnSnapshot {
                last,
                membership,
                manifest,
            } = snapshot(u)?;
            Message::InstallSnapshot {
                last,
                membership,
                manifest,
            }
        }
        7 => Message::AskEntries(question(u)?),
        8..10 => Message::Entries(answers(u)?),
        10..12 => append(u)?,
        12 => Message::AskReadIndex {
            ask: Ask(number(u)?),
        },
        13 => Message::ReadIndex {
            ask: Ask(number(u)?),
            index: match u.arbitrary()? {
                true => Some(Index(number(u)?)),
                false => None,
            },
        },
        _ => Message::AppendReply {
            outcome: outcome(u)?,
            round: Round(number(u)?),
        },
    })
}

/// As the wire has it: the indexes follow `prev`.
fn append(u: &mut Unstructured<'_>) -> Result<Message> {
    let prev = log_id(u)?;
    let mut entries = Vec::new();
    for n in 1..=u64::from(u.arbitrary::<u8>()? % 8) {
        let term = Term(number(u)?);
        if let Some(index) = prev.index.0.checked_add(n).map(Index) {
            entries.push(entry(u, LogId { term, index })?);
        }
    }
    Ok(Message::Append {
        prev,
        entries,
        commit: Index(number(u)?),
        round: Round(number(u)?),
    })
}

fn outcome(u: &mut Unstructured<'_>) -> Result<AppendOutcome> {
    Ok(match u.arbitrary()? {
        true => AppendOutcome::Matched(Index(number(u)?)),
        false => AppendOutcome::Conflict {
            prev: Index(number(u)?),
            term: Term(number(u)?),
            first: Index(number(u)?),
        },
    })
}

fn question(u: &mut Unstructured<'_>) -> Result<Question> {
    let state = match u.arbitrary()? {
        true => Some(Index(number(u)?)),
        false => None,
    };
    let is_leader = u.arbitrary()?;
    let ids = match u.arbitrary::<u8>()? {
        many @ 240.. => (1..=u64::from(many - 180)).map(small_id).collect(),
        few => (0..few % 8).map(|_| log_id(u)).collect::<Result<_>>()?,
    };
    Ok(Question {
        ids,
        state,
        is_leader,
    })
}

fn small_id(index: u64) -> LogId {
    LogId {
        term: Term(1),
        index: Index(index),
    }
}

fn answers(u: &mut Unstructured<'_>) -> Result<Answers> {
    let count = u.arbitrary::<u8>()? % 8;
    let entries = (0..count).map(|_| answer(u)).collect::<Result<_>>()?;
    Ok(Answers {
        entries,
        commit: Index(number(u)?),
        snapshot: match u.arbitrary()? {
            true => Some(snapshot(u)?),
            false => None,
        },
    })
}

fn answer(u: &mut Unstructured<'_>) -> Result<Answer> {
    let (kind, id) = (u.arbitrary::<u8>()?, log_id(u)?);
    Ok(match kind % 8 {
        0..3 => Answer::Have(entry(u, id)?),
        3..5 => Answer::Lack(id),
        5 => Answer::Bad {
            id,
            badness: Badness::Damaged,
        },
        6 => Answer::Bad {
            id,
            badness: Badness::Suspect,
        },
        _ => Answer::Purged(id),
    })
}

/// A command, a blank entry, a membership, or one that says that it is one.
fn entry(u: &mut Unstructured<'_>, id: LogId) -> Result<Entry> {
    let kind: u8 = u.arbitrary()?;
    if kind % 4 == 0 {
        return Ok(membership(u)?.to_entry(id));
    }
    let context: &[u8] = if kind % 16 == 1 { b"m" } else { b"" };
    Ok(Entry {
        id,
        context: Context::new(context).expect("a short one"),
        payload: bytes(u)?,
    })
}

fn bytes(u: &mut Unstructured<'_>) -> Result<Bytes> {
    let len = usize::from(u.arbitrary::<u8>()? % 40).min(u.len());
    Ok(Bytes::copy_from_slice(u.bytes(len)?))
}

fn snapshot(u: &mut Unstructured<'_>) -> Result<OwnSnapshot> {
    Ok(OwnSnapshot {
        last: log_id(u)?,
        membership: membership(u)?,
        manifest: bytes(u)?,
    })
}

/// Also joint ones, which only bytes can give: voters, outgoing ones, learners, and what is known of nobody.
fn membership(u: &mut Unstructured<'_>) -> Result<Membership> {
    let mut encoded = Vec::new();
    for _ in 0..3 {
        let set: u8 = u.arbitrary()?;
        let ids = (0..6).filter(|id| set >> id & 1 == 1);
        encoded.push(set.count_ones() as u8 - (set >> 6).count_ones() as u8);
        encoded.extend(ids);
    }
    encoded.push(0);
    let any_voter = NodeId(number(u)?);
    Ok(Membership::decode(&encoded).unwrap_or_else(|| Membership::of_voters([any_voter])))
}

fn log_id(u: &mut Unstructured<'_>) -> Result<LogId> {
    Ok(LogId {
        term: Term(number(u)?),
        index: Index(number(u)?),
    })
}
