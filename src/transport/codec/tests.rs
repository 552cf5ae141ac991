//! Tests of the bytes between nodes.

use duramen_wal::{Context, Entry, Index, LogId, NodeId, Term};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::raft::{
    Answer, Answers, AppendOutcome, Ask, Badness, Envelope, Membership, Message, OwnSnapshot,
    Question, Round,
};
use crate::transport::{
    ADDRESS_BYTES_MAX, BOOTS_MAX, Boot, CHUNKS_ASKED_MAX, Fetch, Hash, Introduction, KNOWN_MAX,
    Refusal,
};

fn log_id() -> impl Strategy<Value = LogId> {
    (any::<u64>(), 0..u64::MAX / 2).prop_map(|(term, index)| LogId {
        term: Term(term),
        index: Index(index),
    })
}

fn append() -> impl Strategy<Value = Message> {
    let context = vec(any::<u8>(), 0..Context::BYTES_MAX);
    let entries = vec((any::<u64>(), context, vec(any::<u8>(), 0..40)), 0..8);
    (log_id(), entries, any::<u64>(), any::<u64>()).prop_map(|(prev, entries, commit, round)| {
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
    })
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
    let snapshot =
        (log_id(), any::<u64>(), vec(any::<u8>(), 0..40)).prop_map(|(last, voter, manifest)| {
            OwnSnapshot {
                last,
                membership: Membership::of_voters([NodeId(voter)]),
                manifest: manifest.into(),
            }
        });
    let snapshot = proptest::option::of(snapshot);
    (vec(answer, 0..5), any::<u64>(), snapshot).prop_map(|(entries, commit, snapshot)| {
        Message::Entries(Answers {
            entries,
            commit: Index(commit),
            snapshot,
        })
    })
}

fn envelope() -> impl Strategy<Value = Packet> {
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
        any::<u64>().prop_map(|ask| Message::AskReadIndex { ask: Ask(ask) }),
        (any::<u64>(), proptest::option::of(any::<u64>())).prop_map(|(ask, index)| {
            let (ask, index) = (Ask(ask), index.map(Index));
            Message::ReadIndex { ask, index }
        }),
    ];
    (any::<(u64, u64, u64)>(), message).prop_map(|((from, to, term), message)| {
        Packet::Raft(Envelope {
            from: NodeId(from),
            to: NodeId(to),
            term: Term(term),
            message,
        })
    })
}

fn fetch() -> impl Strategy<Value = Packet> {
    let hash = any::<Hash>;
    let bytes = || vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    let fetch = prop_oneof![
        (hash(), any::<u64>())
            .prop_map(|(manifest, offset)| Fetch::AskManifest { manifest, offset }),
        (hash(), any::<u64>(), bytes()).prop_map(|(manifest, offset, bytes)| Fetch::Manifest {
            manifest,
            offset,
            bytes
        }),
        vec(hash(), 0..=CHUNKS_ASKED_MAX).prop_map(|chunks| Fetch::AskChunks { chunks }),
        (hash(), bytes()).prop_map(|(chunk, bytes)| Fetch::Chunk { chunk, bytes }),
        hash().prop_map(|hash| Fetch::Gone { hash }),
        (any::<u64>(), hash()).prop_map(|(index, manifest)| Fetch::Taken { index, manifest }),
    ];
    (any::<(u64, u64)>(), fetch).prop_map(|((from, to), fetch)| {
        let (from, to) = (NodeId(from), NodeId(to));
        Packet::Fetch { from, to, fetch }
    })
}

fn boot(count: u64, number: u64) -> Boot {
    Boot { count, number }
}

fn boots() -> impl Strategy<Value = Packet> {
    let one = any::<(u64, u64)>().prop_map(|(count, number)| boot(count, number));
    let boots = proptest::collection::btree_map(any::<u128>(), one, 0..=KNOWN_MAX);
    (any::<(u64, u64)>(), boots).prop_map(|((from, to), boots)| {
        let (from, to) = (NodeId(from), NodeId(to));
        Packet::Boots { from, to, boots }
    })
}

fn packet() -> impl Strategy<Value = Packet> {
    prop_oneof![3 => envelope(), 1 => fetch(), 1 => boots()]
}

proptest! {
    #[test]
    fn what_is_sent_is_received(envelopes in vec(packet(), 1..4)) {
        let mut buf = BytesMut::new();
        envelopes.iter().for_each(|envelope| put_packet(&mut buf, envelope));
        for envelope in &envelopes {
            let body = take_frame(&mut buf, BODY_BYTES_MAX).unwrap().unwrap();
            prop_assert_eq!(&decode_packet(body).unwrap(), envelope);
        }
        prop_assert!(buf.is_empty());
    }

    #[test]
    fn a_flipped_bit_is_an_error_or_not_yet_a_frame(envelope in packet(), bit in any::<proptest::sample::Index>()) {
        let mut buf = BytesMut::new();
        put_packet(&mut buf, &envelope);
        let bit = bit.index(buf.len() * 8);
        buf[bit / 8] ^= 1 << (bit % 8);
        if let Ok(Some(_)) = take_frame(&mut buf, BODY_BYTES_MAX) {
            panic!("bit {bit} made another frame");
        }
    }

}

/// Many of the bytes are 0, and all lengths are tried: else hardly any would be a message.
#[test]
fn any_bytes_are_a_message_or_an_error() {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut seen = [0; 3];
    for _ in 0..40_000 {
        let any = |_| [0, 0, rng.u8(..4), rng.u8(..)][rng.usize(..4)];
        let mut body: Vec<u8> = (0..100).map(any).collect();
        body[0] = [rng.u8(..48), 64][usize::from(rng.u32(..4) == 0)];
        let _ = decode_handshake::<Hello>(&body);
        let _ = decode_handshake::<Welcome>(&body);
        let body = Bytes::from(body);
        for len in 0..body.len() {
            let Ok(packet) = decode_packet(body.slice(..len)) else {
                continue;
            };
            seen[match packet {
                Packet::Raft(_) => 0,
                Packet::Fetch { .. } => 1,
                Packet::Boots { .. } => 2,
            }] += 1;
            let mut buf = BytesMut::new();
            put_packet(&mut buf, &packet);
            let again = take_frame(&mut buf, BODY_BYTES_MAX).unwrap().unwrap();
            assert_eq!(decode_packet(again).unwrap(), packet);
        }
    }
    assert!(seen.iter().all(|&count| count > 1000), "{seen:?}");
}

#[test]
fn half_a_frame_is_waited_for_and_a_large_one_refused() {
    let mut buf = BytesMut::new();
    put_handshake(
        &mut buf,
        &Welcome::Astray {
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
    put_packet(&mut buf, &Packet::Raft(envelope));
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

/// Frozen as well.
#[test]
fn a_question_for_a_read_index_and_its_answer_are_these_bytes() {
    let ask = Ask(7);
    let index = Some(Index(9));
    for (message, bytes) in [
        (Message::AskReadIndex { ask }, &b"\x07\0\0\0\0\0\0\0"[..]),
        (
            Message::ReadIndex { ask, index },
            b"\x07\0\0\0\0\0\0\0\x01\x09\0\0\0\0\0\0\0",
        ),
        (
            Message::ReadIndex { ask, index: None },
            b"\x07\0\0\0\0\0\0\0\0",
        ),
    ] {
        assert_eq!(&body_of(message.clone())[..], bytes, "{message:?}");
    }
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
        put_packet(&mut buf, &Packet::Raft(envelope));
        let body = buf.split_off(HEADER_BYTES).freeze();
        for len in 0..body.len() {
            decode_packet(body.slice(..len)).unwrap_err();
        }
    }
}

/// Frozen.
#[test]
fn what_is_said_of_starts_is_these_bytes() {
    let packet = Packet::Boots {
        from: NodeId(1),
        to: NodeId(2),
        boots: [(9, boot(6, 66))].into(),
    };
    let mut buf = BytesMut::new();
    put_packet(&mut buf, &packet);
    let expected = [
        &b"\x40\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0"[..],
        b"\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x06\0\0\0\0\0\0\0\x42\0\0\0\0\0\0\0",
    ];
    assert_eq!(&buf[HEADER_BYTES..], expected.concat());
}

#[test]
fn no_more_starts_are_read_than_members_are_told() {
    let boots = (0..=KNOWN_MAX as u128).map(|uuid| (uuid, boot(1, 1)));
    let packet = Packet::Boots {
        from: NodeId(1),
        to: NodeId(2),
        boots: boots.collect(),
    };
    let mut buf = BytesMut::new();
    put_packet(&mut buf, &packet);
    decode_packet(buf.split_off(HEADER_BYTES).freeze()).unwrap_err();
}

fn handshake(message: &impl serde::Serialize) -> BytesMut {
    let mut buf = BytesMut::new();
    put_handshake(&mut buf, message);
    buf.split_off(HEADER_BYTES)
}

fn introduction() -> Introduction {
    Introduction {
        cluster: "c".to_owned(),
        from: NodeId(1),
        uuid: 9,
        boots: [(1, 11), (3, 13)].into(),
        term: Term(5),
        last: LogId {
            term: Term(4),
            index: Index(17),
        },
        is_blank: false,
        leads: true,
        knows: [(2, 8)].into(),
        met: [(8, boot(6, 66))].into(),
    }
}

/// Frozen: nodes of two builds of one version must understand each other.
#[test]
fn the_handshake_is_these_bytes() {
    let hello = Hello {
        version: VERSION,
        to: 2,
        client_address: "a:1".to_owned(),
        peer_address: "b:2".to_owned(),
        introduction: introduction(),
    };
    assert_eq!(
        &handshake(&hello)[..],
        b"\x01\x02\x03a:1\x03b:2\x01c\x01\x09\x02\x01\x0b\x03\x0d\x05\x04\x11\x00\x01\x01\x02\x08\x01\x08\x06\x42"
    );
    let accepted = Welcome::Accepted {
        client_address: "a:1".to_owned(),
        peer_address: "b:2".to_owned(),
        introduction: introduction(),
    };
    assert_eq!(
        &handshake(&accepted)[..],
        b"\x00\x03a:1\x03b:2\x01c\x01\x09\x02\x01\x0b\x03\x0d\x05\x04\x11\x00\x01\x01\x02\x08\x01\x08\x06\x42"
    );
    let astray = Welcome::Astray {
        reason: "no".to_owned(),
    };
    assert_eq!(&handshake(&astray)[..], b"\x01\x02no");
}

/// Frozen too: whoever is refused must learn why.
#[test]
fn refusals_are_these_bytes() {
    let node = NodeId(1);
    let lost = introduction().last;
    for (refusal, bytes) in [
        (
            Refusal::OtherCluster {
                expected: "c".to_owned(),
                found: "d".to_owned(),
            },
            &b"\x02\x63\x00\x01c\x01d"[..],
        ),
        (
            Refusal::OtherNode {
                node,
                known: 7,
                found: 8,
            },
            b"\x02\x63\x01\x01\x07\x08",
        ),
        (
            Refusal::SetBack {
                node,
                known: 7,
                found: 6,
            },
            b"\x02\x63\x02\x01\x07\x06",
        ),
        (
            Refusal::OtherStart {
                node,
                boot: 7,
                known: 8,
                found: 9,
            },
            b"\x02\x63\x03\x01\x07\x08\x09",
        ),
        (
            Refusal::LostEntries {
                node,
                acknowledged: 18,
                found: lost,
            },
            b"\x02\x63\x04\x01\x12\x04\x11",
        ),
    ] {
        let by_uuid = 0x63;
        let refused = Welcome::Refused { by_uuid, refusal };
        let encoded = handshake(&refused);
        assert_eq!(&encoded[..], bytes, "{refused:?}");
        assert_eq!(decode_handshake::<Welcome>(&encoded).unwrap(), refused);
    }
}

/// The longest names that anybody may choose have room in a handshake, and the uuids of as many members and as many starts as are told.
#[test]
fn a_handshake_with_long_names_is_taken() {
    let hello = Hello {
        version: VERSION,
        to: u64::MAX,
        client_address: "a".repeat(ADDRESS_BYTES_MAX),
        peer_address: "b".repeat(ADDRESS_BYTES_MAX),
        introduction: Introduction {
            cluster: "c".repeat(64),
            uuid: u128::MAX,
            boots: (0..BOOTS_MAX as u64)
                .map(|start| (u64::MAX - start, u64::MAX))
                .collect(),
            knows: (0..KNOWN_MAX as u64)
                .map(|member| (u64::MAX - member, u128::MAX))
                .collect(),
            met: (0..KNOWN_MAX as u128)
                .map(|member| (u128::MAX - member, boot(u64::MAX, u64::MAX)))
                .collect(),
            ..introduction()
        },
    };
    let mut buf = BytesMut::new();
    put_handshake(&mut buf, &hello);
    let body = take_frame(&mut buf, HELLO_BYTES_MAX).unwrap().unwrap();
    assert_eq!(decode_handshake::<Hello>(&body).unwrap(), hello);
}
