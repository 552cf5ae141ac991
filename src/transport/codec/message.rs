//! The bytes of the core's messages. The diagram is in [`super`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use duramen_wal::{Context, Entry, Index, LogId, NodeId, Term};

use super::{get_bool, get_bytes, get_long_bytes, get_u64, put_bytes};
use crate::raft::{
    Answer, Answers, AppendOutcome, Ask, Badness, Envelope, Membership, Message, OwnSnapshot,
    Question, Round,
};

const KIND_REQUEST_VOTE: u8 = 1;
const KIND_VOTE: u8 = 2;
const KIND_APPEND: u8 = 3;
const KIND_APPEND_REPLY: u8 = 4;
const KIND_PRE_VOTE: u8 = 5;
const KIND_PRE_VOTED: u8 = 6;
const KIND_TIMEOUT_NOW: u8 = 7;
const KIND_INSTALL_SNAPSHOT: u8 = 8;
const KIND_ASK_ENTRIES: u8 = 9;
const KIND_ENTRIES: u8 = 10;
const KIND_ASK_READ_INDEX: u8 = 11;
const KIND_READ_INDEX: u8 = 12;
const ANSWER_HAVE: u8 = 0;
const ANSWER_LACK: u8 = 1;
const ANSWER_DAMAGED: u8 = 2;
const ANSWER_SUSPECT: u8 = 3;
const ANSWER_PURGED: u8 = 4;
const OUTCOME_MATCHED: u8 = 0;
const OUTCOME_CONFLICT: u8 = 1;

pub(super) fn put(buf: &mut BytesMut, envelope: &Envelope) {
    let kind = match envelope.message {
        Message::RequestVote { .. } => KIND_REQUEST_VOTE,
        Message::Vote { .. } => KIND_VOTE,
        Message::Append { .. } => KIND_APPEND,
        Message::AppendReply { .. } => KIND_APPEND_REPLY,
        Message::PreVote { .. } => KIND_PRE_VOTE,
        Message::PreVoted { .. } => KIND_PRE_VOTED,
        Message::TimeoutNow => KIND_TIMEOUT_NOW,
        Message::InstallSnapshot { .. } => KIND_INSTALL_SNAPSHOT,
        Message::AskEntries(_) => KIND_ASK_ENTRIES,
        Message::Entries(_) => KIND_ENTRIES,
        Message::AskReadIndex { .. } => KIND_ASK_READ_INDEX,
        Message::ReadIndex { .. } => KIND_READ_INDEX,
    };
    buf.put_u8(kind);
    buf.put_u64_le(envelope.from.0);
    buf.put_u64_le(envelope.to.0);
    buf.put_u64_le(envelope.term.0);
    match &envelope.message {
        Message::PreVote { last } => put_log_id(buf, *last),
        Message::RequestVote { last, is_transfer } => {
            put_log_id(buf, *last);
            buf.put_u8(u8::from(*is_transfer));
        }
        Message::Vote { granted } | Message::PreVoted { granted } => {
            buf.put_u8(u8::from(*granted));
        }
        Message::TimeoutNow => {}
        Message::InstallSnapshot {
            last,
            membership,
            manifest,
        } => put_snapshot(buf, *last, membership, manifest),
        Message::AskEntries(question) => put_question(buf, question),
        Message::Entries(answers) => put_answers(buf, answers),
        Message::AskReadIndex { ask } => buf.put_u64_le(ask.0),
        Message::ReadIndex { ask, index } => {
            buf.put_u64_le(ask.0);
            put_index_if_known(buf, *index);
        }
        Message::Append {
            prev,
            entries,
            commit,
            round,
        } => {
            put_log_id(buf, *prev);
            buf.put_u64_le(commit.0);
            buf.put_u64_le(round.0);
            buf.put_u32_le(entries.len() as u32);
            for entry in entries {
                buf.put_u64_le(entry.id.term.0);
                put_content(buf, entry);
            }
        }
        Message::AppendReply { outcome, round } => {
            buf.put_u64_le(round.0);
            put_outcome(buf, *outcome);
        }
    }
}

/// What an entry has beside its id.
fn put_content(buf: &mut BytesMut, entry: &Entry) {
    let context = entry.context.as_bytes();
    buf.put_u8(context.len() as u8);
    buf.put_slice(context);
    put_bytes(buf, &entry.payload);
}

fn put_snapshot(buf: &mut BytesMut, last: LogId, membership: &Membership, manifest: &[u8]) {
    put_log_id(buf, last);
    put_bytes(buf, &membership.encode());
    put_bytes(buf, manifest);
}

fn put_question(buf: &mut BytesMut, question: &Question) {
    buf.put_u8(u8::from(question.is_leader));
    put_index_if_known(buf, question.state);
    buf.put_u32_le(question.ids.len() as u32);
    question.ids.iter().for_each(|id| put_log_id(buf, *id));
}

fn put_answers(buf: &mut BytesMut, answers: &Answers) {
    buf.put_u64_le(answers.commit.0);
    buf.put_u32_le(answers.entries.len() as u32);
    for answer in &answers.entries {
        put_log_id(buf, answer.id());
        match answer {
            Answer::Have(entry) => {
                buf.put_u8(ANSWER_HAVE);
                put_content(buf, entry);
            }
            Answer::Lack(_) => buf.put_u8(ANSWER_LACK),
            Answer::Bad { badness, .. } => buf.put_u8(match badness {
                Badness::Damaged => ANSWER_DAMAGED,
                Badness::Suspect => ANSWER_SUSPECT,
            }),
            Answer::Purged(_) => buf.put_u8(ANSWER_PURGED),
        }
    }
    buf.put_u8(u8::from(answers.snapshot.is_some()));
    if let Some(own) = &answers.snapshot {
        put_snapshot(buf, own.last, &own.membership, &own.manifest);
    }
}

fn put_index_if_known(buf: &mut BytesMut, index: Option<Index>) {
    buf.put_u8(u8::from(index.is_some()));
    if let Some(index) = index {
        buf.put_u64_le(index.0);
    }
}

fn put_log_id(buf: &mut BytesMut, id: LogId) {
    buf.put_u64_le(id.term.0);
    buf.put_u64_le(id.index.0);
}

fn put_outcome(buf: &mut BytesMut, outcome: AppendOutcome) {
    match outcome {
        AppendOutcome::Matched(index) => {
            buf.put_u8(OUTCOME_MATCHED);
            buf.put_u64_le(index.0);
        }
        AppendOutcome::Conflict { prev, term, first } => {
            buf.put_u8(OUTCOME_CONFLICT);
            buf.put_u64_le(prev.0);
            buf.put_u64_le(term.0);
            buf.put_u64_le(first.0);
        }
    }
}

pub(super) fn decode(body: &mut Bytes) -> Option<Envelope> {
    let kind = body.try_get_u8().ok()?;
    let from = NodeId(get_u64(body)?);
    let to = NodeId(get_u64(body)?);
    let term = Term(get_u64(body)?);
    let message = match kind {
        KIND_REQUEST_VOTE => Message::RequestVote {
            last: get_log_id(body)?,
            is_transfer: get_bool(body)?,
        },
        KIND_PRE_VOTE => Message::PreVote {
            last: get_log_id(body)?,
        },
        KIND_PRE_VOTED => Message::PreVoted {
            granted: get_bool(body)?,
        },
        KIND_TIMEOUT_NOW => Message::TimeoutNow,
        KIND_INSTALL_SNAPSHOT => {
            let OwnSnapshot {
                last,
                membership,
                manifest,
            } = get_snapshot(body)?;
            Message::InstallSnapshot {
                last,
                membership,
                manifest,
            }
        }
        KIND_ASK_ENTRIES => Message::AskEntries(get_question(body)?),
        KIND_ENTRIES => Message::Entries(get_answers(body)?),
        KIND_ASK_READ_INDEX => Message::AskReadIndex {
            ask: Ask(get_u64(body)?),
        },
        KIND_READ_INDEX => Message::ReadIndex {
            ask: Ask(get_u64(body)?),
            index: get_index_if_known(body)?,
        },
        KIND_VOTE => Message::Vote {
            granted: get_bool(body)?,
        },
        KIND_APPEND => get_append(body)?,
        KIND_APPEND_REPLY => Message::AppendReply {
            round: Round(get_u64(body)?),
            outcome: get_outcome(body)?,
        },
        _ => return None,
    };
    Some(Envelope {
        from,
        to,
        term,
        message,
    })
}

fn get_append(body: &mut Bytes) -> Option<Message> {
    let prev = get_log_id(body)?;
    let commit = Index(get_u64(body)?);
    let round = Round(get_u64(body)?);
    let count = body.try_get_u32_le().ok()?;
    let mut entries = Vec::new();
    for n in 1..=u64::from(count) {
        let term = Term(get_u64(body)?);
        let index = Index(prev.index.0.checked_add(n)?);
        entries.push(get_content(body, LogId { term, index })?);
    }
    Some(Message::Append {
        prev,
        entries,
        commit,
        round,
    })
}

fn get_content(body: &mut Bytes, id: LogId) -> Option<Entry> {
    let len = body.try_get_u8().ok()?;
    Some(Entry {
        id,
        context: Context::new(&get_bytes(body, len.into())?)?,
        payload: get_long_bytes(body)?,
    })
}

fn get_snapshot(body: &mut Bytes) -> Option<OwnSnapshot> {
    Some(OwnSnapshot {
        last: get_log_id(body)?,
        membership: Membership::decode(&get_long_bytes(body)?)?,
        manifest: get_long_bytes(body)?,
    })
}

fn get_question(body: &mut Bytes) -> Option<Question> {
    let is_leader = get_bool(body)?;
    let state = get_index_if_known(body)?;
    let count = body.try_get_u32_le().ok()?;
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(get_log_id(body)?);
    }
    Some(Question {
        ids,
        state,
        is_leader,
    })
}

fn get_answers(body: &mut Bytes) -> Option<Answers> {
    let commit = Index(get_u64(body)?);
    let count = body.try_get_u32_le().ok()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let id = get_log_id(body)?;
        let bad = |badness| Answer::Bad { id, badness };
        entries.push(match body.try_get_u8().ok()? {
            ANSWER_HAVE => Answer::Have(get_content(body, id)?),
            ANSWER_LACK => Answer::Lack(id),
            ANSWER_DAMAGED => bad(Badness::Damaged),
            ANSWER_SUSPECT => bad(Badness::Suspect),
            ANSWER_PURGED => Answer::Purged(id),
            _ => return None,
        });
    }
    let snapshot = match get_bool(body)? {
        true => Some(get_snapshot(body)?),
        false => None,
    };
    Some(Answers {
        entries,
        commit,
        snapshot,
    })
}

fn get_outcome(body: &mut Bytes) -> Option<AppendOutcome> {
    match body.try_get_u8().ok()? {
        OUTCOME_MATCHED => Some(AppendOutcome::Matched(Index(get_u64(body)?))),
        OUTCOME_CONFLICT => Some(AppendOutcome::Conflict {
            prev: Index(get_u64(body)?),
            term: Term(get_u64(body)?),
            first: Index(get_u64(body)?),
        }),
        _ => None,
    }
}

fn get_index_if_known(body: &mut Bytes) -> Option<Option<Index>> {
    match get_bool(body)? {
        true => Some(Some(Index(get_u64(body)?))),
        false => Some(None),
    }
}

fn get_log_id(body: &mut Bytes) -> Option<LogId> {
    Some(LogId {
        term: Term(get_u64(body)?),
        index: Index(get_u64(body)?),
    })
}
