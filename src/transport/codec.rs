//! The bytes between nodes. Everything is little-endian.
//!
//! ```text
//! frame
//!   0  length of the body     4
//!   4  CRC-32 of the body     4
//!   8  body
//!
//! message (the body)
//!   0  kind  1     1 RequestVote, 2 Vote, 3 Append, 4 AppendReply, 5 PreVote, 6 PreVoted, 7 TimeoutNow,
//!                8 InstallSnapshot, 9 AskEntries, 10 Entries
//!   1  from  8
//!   9  to    8
//!  17  term  8
//!  25  RequestVote  last term 8, last index 8, transfer 1
//!      PreVote      last term 8, last index 8
//!      Vote, PreVoted  granted 1
//!      Append       prev term 8, prev index 8, commit 8, round 8, number of entries 4,
//!                   then for each: term 8, context length 1, context, payload length 4, payload
//!      InstallSnapshot  last term 8, last index 8, membership length 4, membership, manifest length 4, manifest
//!      AskEntries   leader 1, state 1: 0 none, 1 lost, index 8; number of ids 4, then for each: term 8, index 8
//!      Entries      commit 8, number of answers 4, then for each: term 8, index 8,
//!                                       answer 1: 0 have, context length 1, context, payload length 4, payload
//!                                                 1 lack, 2 damaged, 3 suspect, 4 purged
//!                   snapshot 1: 0 none, 1 last term 8, last index 8, membership length 4, membership,
//!                                       manifest length 4, manifest
//!      AppendReply  round 8, outcome 1: 0 matched, index 8
//!                                       1 conflict, prev 8, term 8, first 8
//! ```
//!
//! The entries' indexes are not sent: they follow `prev`. The first frame of a connection is a [`Hello`] and is answered
//! by a [`Welcome`], both in bincode; the version in it covers everything here.
//!
//! Bytes from a peer are not trusted: a length is believed only as far as bytes have arrived, and everything else gives
//! an error, which ends the connection.

use std::io;

use byteorder::{ByteOrder, LittleEndian as LE};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use duramen_wal::{Context, Entry, Index, LogId, NodeId, Term};
use serde::{Deserialize, Serialize};

use crate::raft::{
    Answer, Answers, AppendOutcome, Badness, Envelope, Membership, Message, OwnSnapshot, Question,
    Round,
};

pub(super) const VERSION: u16 = 1;

/// The largest body. An `Append` is limited by `Config::append_bytes_max`, but always takes one entry.
pub(super) const BODY_BYTES_MAX: usize = 64 << 20;
/// The largest body of a handshake: its sender is not known yet.
pub(super) const HELLO_BYTES_MAX: usize = 4096;

const HEADER_BYTES: usize = 8;

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
const ANSWER_HAVE: u8 = 0;
const ANSWER_LACK: u8 = 1;
const ANSWER_DAMAGED: u8 = 2;
const ANSWER_SUSPECT: u8 = 3;
const ANSWER_PURGED: u8 = 4;
const OUTCOME_MATCHED: u8 = 0;
const OUTCOME_CONFLICT: u8 = 1;

/// What a node that connects says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u16,
    pub(super) cluster: String,
    pub(super) from: u64,
    pub(super) to: u64,
    /// Where clients reach the sender.
    pub(super) client_address: String,
}

/// The answer: who is here, or why it refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Welcome {
    Accepted { client_address: String },
    Refused { reason: String },
}

/// Takes a frame off the front of `buf`, if there is a whole one. Never asks for memory that a length claims.
pub(super) fn take_frame(buf: &mut BytesMut, body_bytes_max: usize) -> io::Result<Option<Bytes>> {
    if buf.len() < HEADER_BYTES {
        return Ok(None);
    }
    let body_bytes = LE::read_u32(buf) as usize;
    let checksum = LE::read_u32(&buf[4..]);
    if body_bytes > body_bytes_max {
        return Err(bad(format!(
            "a frame of {body_bytes} bytes, the limit is {body_bytes_max}"
        )));
    }
    if buf.len() - HEADER_BYTES < body_bytes {
        return Ok(None);
    }
    buf.advance(HEADER_BYTES);
    // A copy of just its size: a slice would keep the whole read buffer for as long as the log keeps an entry of it.
    let body = Bytes::copy_from_slice(&buf[..body_bytes]);
    buf.advance(body_bytes);
    if crc32fast::hash(&body) != checksum {
        return Err(bad("the checksum of a frame does not match".to_owned()));
    }
    Ok(Some(body))
}

/// Appends a frame to `buf`; `put_body` writes the body.
fn put_frame(buf: &mut BytesMut, put_body: impl FnOnce(&mut BytesMut)) {
    let start = buf.len();
    buf.put_bytes(0, HEADER_BYTES);
    put_body(buf);
    let body = &buf[start + HEADER_BYTES..];
    let (body_bytes, checksum) = (body.len() as u32, crc32fast::hash(body));
    LE::write_u32(&mut buf[start..], body_bytes);
    LE::write_u32(&mut buf[start + 4..], checksum);
}

pub(super) fn put_handshake(buf: &mut BytesMut, message: &impl Serialize) {
    let config = bincode::config::standard();
    let body =
        bincode::serde::encode_to_vec(message, config).expect("strings and numbers can be encoded");
    put_frame(buf, |buf| buf.put_slice(&body));
}

pub(super) fn decode_handshake<T: serde::de::DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    let config = bincode::config::standard().with_limit::<HELLO_BYTES_MAX>();
    let decoded = bincode::serde::decode_from_slice(body, config);
    decoded
        .map(|(message, _)| message)
        .map_err(|error| bad(format!("a bad handshake: {error}")))
}

pub(super) fn put_message(buf: &mut BytesMut, envelope: &Envelope) {
    put_frame(buf, |buf| {
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
    });
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
    buf.put_u8(u8::from(question.state.is_some()));
    if let Some(state) = question.state {
        buf.put_u64_le(state.0);
    }
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

/// Bytes with their length before them.
fn put_bytes(buf: &mut BytesMut, bytes: &[u8]) {
    buf.put_u32_le(bytes.len() as u32);
    buf.put_slice(bytes);
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

/// Reads a message. Payloads share the memory of `body`.
pub(super) fn decode_message(mut body: Bytes) -> io::Result<Envelope> {
    let decoded =
        decode(&mut body).ok_or_else(|| bad("a message that makes no sense".to_owned()))?;
    match body.is_empty() {
        true => Ok(decoded),
        false => Err(bad(format!("a message with {} bytes too many", body.len()))),
    }
}

fn decode(body: &mut Bytes) -> Option<Envelope> {
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
    let state = match get_bool(body)? {
        true => Some(Index(get_u64(body)?)),
        false => None,
    };
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

fn get_long_bytes(body: &mut Bytes) -> Option<Bytes> {
    let len = body.try_get_u32_le().ok()?;
    get_bytes(body, len as usize)
}

/// So many bytes, if they are there.
fn get_bytes(body: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= body.len()).then(|| body.split_to(len))
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

fn get_log_id(body: &mut Bytes) -> Option<LogId> {
    Some(LogId {
        term: Term(get_u64(body)?),
        index: Index(get_u64(body)?),
    })
}

fn get_bool(body: &mut Bytes) -> Option<bool> {
    match body.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn get_u64(body: &mut Bytes) -> Option<u64> {
    body.try_get_u64_le().ok()
}

fn bad(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn log_id() -> impl Strategy<Value = LogId> {
        (any::<u64>(), 0..u64::MAX / 2).prop_map(|(term, index)| LogId {
            term: Term(term),
            index: Index(index),
        })
    }

    fn append() -> impl Strategy<Value = Message> {
        let context = vec(any::<u8>(), 0..Context::BYTES_MAX);
        let entries = vec((any::<u64>(), context, vec(any::<u8>(), 0..40)), 0..8);
        (log_id(), entries, any::<u64>(), any::<u64>()).prop_map(
            |(prev, entries, commit, round)| {
                let numbered = (prev.index.0 + 1..).zip(entries);
                let entries = numbered.map(|(index, (term, context, payload))| Entry {
                    id: LogId {
                        term: Term(term),
                        index: Index(index),
                    },
                    context: Context::new(&context).unwrap(),
                    payload: payload.into(),
                });
                Message::Append {
                    prev,
                    entries: entries.collect(),
                    commit: Index(commit),
                    round: Round(round),
                }
            },
        )
    }

    fn append_reply() -> impl Strategy<Value = Message> {
        let conflict =
            any::<(u64, u64, u64)>().prop_map(|(prev, term, first)| AppendOutcome::Conflict {
                prev: Index(prev),
                term: Term(term),
                first: Index(first),
            });
        let matched = any::<u64>().prop_map(|index| AppendOutcome::Matched(Index(index)));
        (prop_oneof![conflict, matched], any::<u64>()).prop_map(|(outcome, round)| {
            Message::AppendReply {
                outcome,
                round: Round(round),
            }
        })
    }

    fn install_snapshot() -> impl Strategy<Value = Message> {
        let voters = vec(any::<u64>(), 1..5);
        (log_id(), voters, vec(any::<u8>(), 0..40)).prop_map(|(last, voters, manifest)| {
            Message::InstallSnapshot {
                last,
                membership: Membership::of_voters(voters.into_iter().map(NodeId)),
                manifest: manifest.into(),
            }
        })
    }

    fn ask_entries() -> impl Strategy<Value = Message> {
        let state = proptest::option::of(any::<u64>());
        (vec(log_id(), 0..5), state, any::<bool>()).prop_map(|(ids, state, is_leader)| {
            Message::AskEntries(Question {
                ids,
                state: state.map(Index),
                is_leader,
            })
        })
    }

    fn entries() -> impl Strategy<Value = Message> {
        let content = (
            vec(any::<u8>(), 0..Context::BYTES_MAX),
            vec(any::<u8>(), 0..40),
        );
        let have = (log_id(), content).prop_map(|(id, (context, payload))| {
            Answer::Have(Entry {
                id,
                context: Context::new(&context).unwrap(),
                payload: payload.into(),
            })
        });
        let bad = (log_id(), any::<bool>()).prop_map(|(id, is_suspect)| Answer::Bad {
            id,
            badness: match is_suspect {
                true => Badness::Suspect,
                false => Badness::Damaged,
            },
        });
        let answer = prop_oneof![
            have,
            bad,
            log_id().prop_map(Answer::Lack),
            log_id().prop_map(Answer::Purged),
        ];
        let snapshot = (log_id(), any::<u64>(), vec(any::<u8>(), 0..40)).prop_map(
            |(last, voter, manifest)| OwnSnapshot {
                last,
                membership: Membership::of_voters([NodeId(voter)]),
                manifest: manifest.into(),
            },
        );
        let snapshot = proptest::option::of(snapshot);
        (vec(answer, 0..5), any::<u64>(), snapshot).prop_map(|(entries, commit, snapshot)| {
            Message::Entries(Answers {
                entries,
                commit: Index(commit),
                snapshot,
            })
        })
    }

    fn envelope() -> impl Strategy<Value = Envelope> {
        let message = prop_oneof![
            (log_id(), any::<bool>())
                .prop_map(|(last, is_transfer)| Message::RequestVote { last, is_transfer }),
            any::<bool>().prop_map(|granted| Message::Vote { granted }),
            log_id().prop_map(|last| Message::PreVote { last }),
            any::<bool>().prop_map(|granted| Message::PreVoted { granted }),
            Just(Message::TimeoutNow),
            install_snapshot(),
            ask_entries(),
            entries(),
            append(),
            append_reply(),
        ];
        (any::<(u64, u64, u64)>(), message).prop_map(|((from, to, term), message)| Envelope {
            from: NodeId(from),
            to: NodeId(to),
            term: Term(term),
            message,
        })
    }

    proptest! {
        #[test]
        fn what_is_sent_is_received(envelopes in vec(envelope(), 1..4)) {
            let mut buf = BytesMut::new();
            envelopes.iter().for_each(|envelope| put_message(&mut buf, envelope));
            for envelope in &envelopes {
                let body = take_frame(&mut buf, BODY_BYTES_MAX).unwrap().unwrap();
                prop_assert_eq!(&decode_message(body).unwrap(), envelope);
            }
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn a_flipped_bit_is_an_error_or_not_yet_a_frame(envelope in envelope(), bit in any::<proptest::sample::Index>()) {
            let mut buf = BytesMut::new();
            put_message(&mut buf, &envelope);
            let bit = bit.index(buf.len() * 8);
            buf[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Some(_)) = take_frame(&mut buf, BODY_BYTES_MAX) {
                panic!("bit {bit} made another frame");
            }
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(body in vec(any::<u8>(), 0..200)) {
            let _ = decode_message(body.clone().into());
            let _ = decode_handshake::<Hello>(&body);
            let _ = decode_handshake::<Welcome>(&body);
        }
    }

    #[test]
    fn half_a_frame_is_waited_for_and_a_large_one_refused() {
        let mut buf = BytesMut::new();
        put_handshake(
            &mut buf,
            &Welcome::Refused {
                reason: "no".to_owned(),
            },
        );
        for len in 0..buf.len() {
            let mut part = BytesMut::from(&buf[..len]);
            assert!(take_frame(&mut part, HELLO_BYTES_MAX).unwrap().is_none());
            assert_eq!(part.len(), len);
        }
        let mut large = BytesMut::from(&b"\xff\xff\xff\x7f1234"[..]);
        take_frame(&mut large, BODY_BYTES_MAX).unwrap_err();
    }

    fn body_of(message: Message) -> BytesMut {
        let mut buf = BytesMut::new();
        let envelope = Envelope {
            from: NodeId(1),
            to: NodeId(2),
            term: Term(3),
            message,
        };
        put_message(&mut buf, &envelope);
        buf.split_off(HEADER_BYTES + 1 + 3 * 8)
    }

    /// Frozen, as the handshake is.
    #[test]
    fn a_question_and_its_answer_are_these_bytes() {
        let id = |term, index| LogId {
            term: Term(term),
            index: Index(index),
        };
        let question = Question {
            ids: vec![id(1, 2)],
            state: Some(Index(9)),
            is_leader: true,
        };
        let bytes = body_of(Message::AskEntries(question));
        assert_eq!(
            &bytes[..],
            b"\x01\x01\x09\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0"
        );
        let have = Entry {
            id: id(1, 2),
            context: Context::new(b"c").unwrap(),
            payload: Bytes::from_static(b"x"),
        };
        let badness = Badness::Suspect;
        let answers = Answers {
            entries: vec![
                Answer::Have(have),
                Answer::Bad {
                    id: id(1, 3),
                    badness,
                },
            ],
            commit: Index(4),
            snapshot: None,
        };
        let bytes = body_of(Message::Entries(answers));
        let expected = [
            &b"\x04\0\0\0\0\0\0\0\x02\0\0\0"[..],
            b"\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\x01c\x01\0\0\0x",
            b"\x01\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x03",
            b"\0",
        ];
        assert_eq!(&bytes[..], expected.concat());
    }

    /// A count and a length are believed only as far as bytes have arrived.
    #[test]
    fn a_message_that_ends_early_is_an_error() {
        let answers = Answers {
            entries: vec![Answer::Have(Entry::default()); 3],
            ..Answers::default()
        };
        let question = Question {
            ids: vec![LogId::default(); 3],
            ..Question::default()
        };
        for message in [Message::Entries(answers), Message::AskEntries(question)] {
            let envelope = Envelope {
                from: NodeId(1),
                to: NodeId(2),
                term: Term(3),
                message,
            };
            let mut buf = BytesMut::new();
            put_message(&mut buf, &envelope);
            let body = buf.split_off(HEADER_BYTES).freeze();
            for len in 0..body.len() {
                decode_message(body.slice(..len)).unwrap_err();
            }
        }
    }

    /// Frozen: nodes of two builds of one version must understand each other.
    #[test]
    fn the_handshake_is_these_bytes() {
        let hello = Hello {
            version: VERSION,
            cluster: "c".to_owned(),
            from: 1,
            to: 2,
            client_address: "a:1".to_owned(),
        };
        let mut buf = BytesMut::new();
        put_handshake(&mut buf, &hello);
        assert_eq!(&buf[8..], b"\x01\x01c\x01\x02\x03a:1");
    }
}
