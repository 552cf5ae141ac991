//! Bad entries and a lost state: what is asked, answered, restored and acknowledged.

use std::collections::BTreeMap;

use bytes::Bytes;
use duramen_wal::types::{Entry, HardState, Index, LogId, NodeId, Term};

use super::{as_in_the_paper, entry, id};
use crate::raft::Badness::{Damaged, Suspect};
use crate::raft::{
    Answer, Answers, AppendOutcome, Badness, BaseState, Envelope, Ignored, Membership, Message,
    Offer, OwnSnapshot, Question, Raft, ReadReply, Ready, Restored, Round, SnapshotFate, Write,
    WriteId,
};

/// Node 1 of three, in term 3, with five entries of terms 1 and 2, of which some are bad.
pub(super) fn node(bad: &[(u64, Badness)]) -> Raft {
    Raft::restart(as_in_the_paper(1, 3), restored(bad))
}

pub(super) fn restored(bad: &[(u64, Badness)]) -> Restored {
    Restored {
        hard_state: in_term(3),
        log: five(),
        bad: bad
            .iter()
            .map(|&(index, badness)| (Index(index), badness))
            .collect(),
        ..Restored::default()
    }
}

pub(super) fn in_term(term: u64) -> HardState {
    HardState {
        term: Term(term),
        ..HardState::default()
    }
}

fn five() -> Vec<Entry> {
    vec![
        entry(1, 1, "a"),
        entry(1, 2, "b"),
        entry(2, 3, "c"),
        entry(2, 4, "d"),
        entry(2, 5, "e"),
    ]
}

/// All that a core asks for, each write reported durable at once.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) messages: Vec<Envelope>,
    pub(super) writes: Vec<Write>,
    pub(super) committed: Vec<Entry>,
    pub(super) dropped: Vec<LogId>,
    pub(super) offers: Vec<Offer>,
    pub(super) reads: Vec<ReadReply>,
}

pub(super) fn carry_out(raft: &mut Raft) -> Done {
    let mut done = Done::default();
    loop {
        let ready = raft.ready();
        if ready.is_empty() {
            return done;
        }
        done.messages.extend(ready.send_now);
        if let Some(write) = ready.write {
            raft.durable(write.id);
            done.writes.push(write);
        }
        done.messages.extend(ready.send_when_durable);
        done.committed.extend(ready.committed);
        done.dropped.extend(ready.dropped);
        done.offers.extend(ready.offer);
        done.reads.extend(ready.reads);
    }
}

pub(super) fn say(raft: &mut Raft, from: u64, term: u64, message: Message) -> Result<(), Ignored> {
    raft.step(Envelope {
        from: NodeId(from),
        to: raft.id(),
        term: Term(term),
        message,
    })
}

pub(super) fn append(raft: &mut Raft, prev: LogId, entries: Vec<Entry>, commit: u64) {
    let append = Message::Append {
        prev,
        entries,
        commit: Index(commit),
        round: Round(0),
    };
    say(raft, 2, 3, append).unwrap();
}

pub(super) fn answer(raft: &mut Raft, from: u64, term: u64, entries: Vec<Answer>) {
    let answers = Answers {
        entries,
        ..Answers::default()
    };
    say(raft, from, term, Message::Entries(answers)).unwrap();
}

pub(super) fn matched(messages: &[Envelope]) -> Vec<u64> {
    let matched = messages
        .iter()
        .filter_map(|envelope| match envelope.message {
            Message::AppendReply {
                outcome: AppendOutcome::Matched(index),
                ..
            } => Some(index.0),
            _ => None,
        });
    matched.collect()
}

pub(super) fn questions(messages: &[Envelope]) -> Vec<(u64, Question)> {
    let questions = messages
        .iter()
        .filter_map(|envelope| match &envelope.message {
            Message::AskEntries(question) => Some((envelope.to.0, question.clone())),
            _ => None,
        });
    questions.collect()
}

fn answers(messages: &[Envelope]) -> Vec<Answers> {
    let answers = messages
        .iter()
        .filter_map(|envelope| match &envelope.message {
            Message::Entries(answers) => Some(answers.clone()),
            _ => None,
        });
    answers.collect()
}

fn ask(raft: &mut Raft, ids: Vec<LogId>) -> Answers {
    let question = Question {
        ids,
        ..Question::default()
    };
    say(raft, 9, 0, Message::AskEntries(question)).unwrap();
    answers(&carry_out(raft).messages).remove(0)
}

pub(super) fn snapshot(last: LogId) -> OwnSnapshot {
    OwnSnapshot {
        last,
        membership: Membership::of_voters([1, 2, 3].map(NodeId)),
        manifest: Bytes::from_static(b"where it is"),
    }
}

pub(super) fn commands(entries: &[Entry]) -> Vec<&str> {
    let payloads = entries.iter().map(|entry| &entry.payload[..]);
    payloads
        .map(|payload| std::str::from_utf8(payload).unwrap())
        .collect()
}

#[test]
fn a_bad_entry_counts_in_votes() {
    let mut raft = node(&[(5, Suspect)]);
    for (last, granted) in [(id(2, 4), false), (id(2, 5), true)] {
        let request = Message::RequestVote {
            last,
            is_transfer: false,
        };
        say(&mut raft, 2, 4, request).unwrap();
        let messages = carry_out(&mut raft).messages;
        assert_eq!(messages[0].message, Message::Vote { granted });
    }
}

#[test]
fn acknowledgements_and_what_is_handed_out_stop_before_the_first_bad_entry() {
    let mut raft = node(&[(3, Damaged), (5, Damaged)]);
    append(&mut raft, id(2, 5), vec![entry(3, 6, "f")], 6);
    let done = carry_out(&mut raft);
    assert_eq!(matched(&done.messages), [2]);
    assert_eq!(commands(&done.committed), ["a", "b"]);
    assert_eq!(raft.commit(), Index(6));
    answer(&mut raft, 3, 3, vec![Answer::Have(entry(2, 3, "c"))]);
    let done = carry_out(&mut raft);
    assert_eq!(done.writes[0].repairs, [entry(2, 3, "c")]);
    assert_eq!(commands(&done.committed), ["c", "d"]);
    append(&mut raft, id(3, 6), Vec::new(), 6);
    assert_eq!(matched(&carry_out(&mut raft).messages), [4]);
    answer(&mut raft, 3, 3, vec![Answer::Have(entry(2, 5, "e"))]);
    assert_eq!(commands(&carry_out(&mut raft).committed), ["e", "f"]);
    append(&mut raft, id(3, 6), Vec::new(), 6);
    assert_eq!(matched(&carry_out(&mut raft).messages), [6]);
    assert_eq!(raft.bad_entries().count(), 0);
}

#[test]
fn a_repair_counts_when_it_is_durable() {
    let mut raft = node(&[(3, Damaged)]);
    answer(&mut raft, 3, 3, vec![Answer::Have(entry(2, 3, "c"))]);
    append(&mut raft, id(2, 5), Vec::new(), 5);
    let Ready {
        send_now,
        write,
        send_when_durable,
        committed,
        ..
    } = raft.ready();
    let write = write.expect("the repair is to be written");
    assert_eq!((write.repairs.len(), write.entries.len()), (1, 0));
    // The acknowledgement of all five waits for the repair.
    assert_eq!(
        (matched(&send_now), matched(&send_when_durable)),
        (vec![], vec![5])
    );
    assert_eq!(commands(&committed), ["a", "b"]);
    raft.durable(write.id);
    assert_eq!(commands(&raft.ready().committed), ["c", "d", "e"]);
}

#[test]
fn an_append_restores_what_it_carries() {
    let mut raft = node(&[(3, Damaged), (5, Suspect)]);
    let entries = [&five()[1..], &[entry(3, 6, "f")]].concat();
    append(&mut raft, id(1, 1), entries, 6);
    let done = carry_out(&mut raft);
    assert_eq!(commands(&done.writes[0].repairs), ["c", "e"]);
    assert_eq!(commands(&done.writes[0].entries), ["f"]);
    assert_eq!(matched(&done.messages), [6]);
    assert_eq!(commands(&done.committed), ["a", "b", "c", "d", "e", "f"]);
}

/// Index 4 is bad, its repair is under way, and then a leader puts another entry there: the repair says nothing about it.
#[test]
fn a_late_repair_says_nothing_about_a_new_entry_there() {
    let mut raft = node(&[(4, Damaged)]);
    answer(&mut raft, 3, 3, vec![Answer::Have(entry(2, 4, "d"))]);
    let repair = raft.ready().write.expect("the repair");
    append(
        &mut raft,
        id(2, 3),
        vec![entry(3, 4, "new"), entry(3, 5, "er")],
        5,
    );
    let ready = raft.ready();
    let new = ready.write.expect("the new entries");
    assert_eq!(
        (commands(&new.repairs), commands(&new.entries)),
        (vec![], vec!["new", "er"])
    );
    assert_eq!(commands(&ready.committed), ["a", "b", "c"]);
    raft.durable(repair.id);
    assert!(raft.ready().committed.is_empty());
    raft.durable(new.id);
    assert_eq!(commands(&raft.ready().committed), ["new", "er"]);
}

/// The same if the repair was not given out yet.
#[test]
fn a_repair_of_what_was_truncated_is_not_written() {
    let mut raft = node(&[(4, Damaged)]);
    answer(&mut raft, 3, 3, vec![Answer::Have(entry(2, 4, "d"))]);
    append(&mut raft, id(2, 3), vec![entry(3, 4, "new")], 4);
    let write = raft.ready().write.expect("the new entry");
    assert_eq!(
        (commands(&write.repairs), commands(&write.entries)),
        (vec![], vec!["new"])
    );
}

#[test]
fn nothing_is_written_after_a_suspect_entry() {
    let mut raft = node(&[(4, Suspect), (5, Suspect)]);
    append(&mut raft, id(2, 5), vec![entry(3, 6, "f")], 0);
    let done = carry_out(&mut raft);
    assert_eq!((done.writes, matched(&done.messages)), (vec![], vec![3]));
    answer(&mut raft, 3, 3, vec![Answer::Have(entry(2, 5, "e"))]);
    let done = carry_out(&mut raft);
    assert_eq!(commands(&done.writes[0].repairs), ["e"]);
    assert!(done.writes[0].entries.is_empty());
    answer(&mut raft, 3, 3, vec![Answer::Have(entry(2, 4, "d"))]);
    let write = carry_out(&mut raft).writes.remove(0);
    assert_eq!(
        (commands(&write.repairs), commands(&write.entries)),
        (vec!["d"], vec!["f"])
    );
}

#[test]
fn all_members_are_asked_again_and_again_until_nothing_is_bad() {
    let mut raft = node(&[(3, Damaged), (4, Damaged)]);
    let ids = vec![id(2, 3), id(2, 4)];
    let mut asked = Vec::new();
    for _ in 0..11 {
        raft.tick();
        asked.extend(questions(&carry_out(&mut raft).messages));
    }
    let to: Vec<u64> = asked.iter().map(|(to, _)| *to).collect();
    assert_eq!(to, [2, 3, 2, 3, 2, 3]);
    assert!(
        asked
            .iter()
            .all(|(_, question)| question.ids == ids && question.state.is_none())
    );
    // Who gives something is asked for the rest at once.
    answer(&mut raft, 3, 3, vec![Answer::Have(entry(2, 3, "c"))]);
    let asked = questions(&carry_out(&mut raft).messages);
    assert_eq!((asked[0].0, &asked[0].1.ids[..]), (3, &[id(2, 4)][..]));
    answer(&mut raft, 3, 3, vec![Answer::Have(entry(2, 4, "d"))]);
    for _ in 0..11 {
        raft.tick();
        assert!(questions(&carry_out(&mut raft).messages).is_empty());
    }
}

#[test]
fn entries_that_nobody_has_do_not_keep_from_asking_for_others() {
    let mut restored = restored(&[]);
    restored.log = (1..=100).map(|index| entry(1, index, "x")).collect();
    restored.bad = (1..=100).map(|index| (Index(index), Damaged)).collect();
    let mut raft = Raft::restart(as_in_the_paper(1, 3), restored);
    let mut asked = Vec::new();
    for _ in 0..11 {
        raft.tick();
        let questions = questions(&carry_out(&mut raft).messages);
        asked.extend(
            questions
                .first()
                .map(|(_, question)| (question.ids[0].index.0, question.ids.len())),
        );
    }
    assert_eq!(asked, [(1, 64), (65, 36), (1, 64)]);
}

#[test]
fn each_entry_is_answered_for_and_placeholders_are_not_sent() {
    let mut raft = node(&[(3, Damaged), (5, Suspect)]);
    let answers = ask(
        &mut raft,
        vec![id(1, 2), id(2, 3), id(1, 4), id(2, 5), id(2, 6)],
    );
    let expected = [
        Answer::Have(entry(1, 2, "b")),
        Answer::Bad {
            id: id(2, 3),
            badness: Damaged,
        },
        Answer::Lack(id(1, 4)),
        Answer::Bad {
            id: id(2, 5),
            badness: Suspect,
        },
        Answer::Lack(id(2, 6)),
    ];
    assert_eq!(answers.entries, expected);
    assert_eq!((answers.commit, answers.snapshot), (Index(0), None));
}

#[test]
fn an_answer_has_no_more_bytes_than_an_append_but_one_entry() {
    let mut config = as_in_the_paper(1, 3);
    config.append_bytes_max = 3;
    let mut restored = restored(&[]);
    restored.log = vec![
        entry(1, 1, "large"),
        entry(1, 2, "b"),
        entry(1, 3, "c"),
        entry(2, 4, "d"),
    ];
    let mut raft = Raft::restart(config, restored);
    let of = |ids: Vec<LogId>, raft: &mut Raft| {
        let entries = ask(raft, ids).entries;
        entries
            .iter()
            .map(|answer| answer.id().index.0)
            .collect::<Vec<u64>>()
    };
    let all: Vec<LogId> = vec![id(1, 1), id(1, 2), id(1, 3), id(2, 4), id(1, 5)];
    assert_eq!(of(all.clone(), &mut raft), [1, 5]);
    assert_eq!(of(all[1..].to_vec(), &mut raft), [2, 3, 4, 5]);
}

#[test]
fn a_question_spreads_its_term_only_if_a_leader_asks() {
    let mut raft = node(&[]);
    for (is_leader, term) in [(false, 3), (true, 8)] {
        let question = Question {
            ids: vec![id(2, 5)],
            is_leader,
            ..Question::default()
        };
        say(&mut raft, 2, 8, Message::AskEntries(question)).unwrap();
        let messages = carry_out(&mut raft).messages;
        assert_eq!((raft.term(), messages[0].term), (Term(term), Term(term)));
        assert!(matches!(messages[0].message, Message::Entries(_)));
    }
}

#[test]
fn content_is_taken_in_whatever_term_and_only_where_it_is_needed() {
    let mut raft = node(&[(3, Damaged)]);
    let other = [entry(2, 4, "not d"), entry(2, 9, "i"), entry(1, 3, "not c")];
    for entry in other {
        answer(&mut raft, 3, 3, vec![Answer::Have(entry)]);
    }
    let membership = Entry {
        context: Membership::mark(),
        payload: Membership::of_voters([NodeId(1)]).encode().into(),
        ..entry(2, 3, "")
    };
    answer(&mut raft, 3, 3, vec![Answer::Have(membership)]);
    assert!(carry_out(&mut raft).writes.is_empty());
    answer(&mut raft, 3, 2, vec![Answer::Have(entry(2, 3, "c"))]);
    assert_eq!(commands(&carry_out(&mut raft).writes[0].repairs), ["c"]);
}

#[test]
fn questions_and_answers_that_make_no_sense_are_ignored() {
    let mut raft = node(&[(3, Damaged)]);
    let many = (1..=65).map(|index| id(1, index)).collect();
    for ids in [many, vec![id(1, 2), id(1, 2)], vec![id(1, 0)]] {
        let question = Question {
            ids: ids.clone(),
            ..Question::default()
        };
        let refused = say(&mut raft, 2, 3, Message::AskEntries(question));
        assert_eq!(refused, Err(Ignored::Nonsense));
        let answers = Answers {
            entries: ids.into_iter().map(Answer::Lack).collect(),
            ..Answers::default()
        };
        let refused = say(&mut raft, 2, 3, Message::Entries(answers));
        assert_eq!(refused, Err(Ignored::Nonsense));
    }
    for last in [id(0, 0), id(4, 3)] {
        let answers = Answers {
            snapshot: Some(snapshot(last)),
            ..Answers::default()
        };
        let refused = say(&mut raft, 2, 3, Message::Entries(answers));
        assert_eq!(refused, Err(Ignored::Nonsense));
    }
}

/// What a peer has only in a snapshot is taken from there, and the placeholders go.
#[test]
fn what_was_purged_leads_to_an_offer() {
    let mut peer = Restored {
        hard_state: in_term(3),
        base: id(2, 4),
        manifest: Some(Bytes::from_static(b"where it is")),
        ..Restored::default()
    };
    peer.log = vec![entry(2, 5, "e")];
    let mut peer = Raft::restart(as_in_the_paper(2, 3), peer);
    let found = ask(&mut peer, vec![id(2, 3), id(2, 5)]);
    assert_eq!(
        found.entries,
        [Answer::Purged(id(2, 3)), Answer::Have(entry(2, 5, "e"))]
    );
    assert_eq!(
        (found.commit, &found.snapshot),
        (Index(4), &Some(snapshot(id(2, 4))))
    );

    let mut raft = node(&[(3, Damaged), (5, Suspect)]);
    append(&mut raft, id(2, 5), vec![entry(3, 6, "f")], 6);
    say(&mut raft, 2, 3, Message::Entries(found.clone())).unwrap();
    let done = carry_out(&mut raft);
    let offered: Vec<_> = done
        .offers
        .iter()
        .map(|offer| (offer.from.0, offer.last))
        .collect();
    assert_eq!(
        (offered, commands(&done.committed)),
        (vec![(2, id(2, 4))], vec!["a", "b"])
    );
    // Another one is not fetched meanwhile, but later, if need be.
    say(&mut raft, 3, 3, Message::Entries(found.clone())).unwrap();
    assert!(carry_out(&mut raft).offers.is_empty());
    (0..100).for_each(|_| raft.tick());
    say(&mut raft, 3, 3, Message::Entries(found)).unwrap();
    assert_eq!(carry_out(&mut raft).offers.len(), 1);

    // It is at or below what is known to be committed, and is taken all the same.
    assert_eq!(
        raft.snapshot_installed(&done.offers[0]),
        SnapshotFate::Newest
    );
    let done = carry_out(&mut raft);
    assert_eq!(commands(&done.committed), ["e", "f"]);
    assert_eq!(done.writes[0].purge, Some(id(2, 4)));
    assert_eq!((raft.first(), raft.bad_entries().count()), (Index(5), 0));
}

#[test]
fn a_snapshot_that_a_repair_has_overtaken_is_none() {
    let mut raft = node(&[(3, Damaged)]);
    append(&mut raft, id(2, 5), Vec::new(), 5);
    answer(&mut raft, 3, 3, vec![Answer::Have(entry(2, 3, "c"))]);
    carry_out(&mut raft);
    let offer = Offer {
        from: NodeId(2),
        last: id(2, 4),
        membership: Membership::of_voters([NodeId(1)]),
        manifest: Bytes::new(),
    };
    assert_eq!(raft.snapshot_installed(&offer), SnapshotFate::Overtaken);
}

/// The newest snapshot cannot be read: the log after it is whole, and there is nothing to apply it to.
#[test]
fn a_node_without_its_state_asks_for_one_and_hands_out_nothing_before() {
    let lost = Restored {
        hard_state: in_term(3),
        base: id(2, 4),
        state: BaseState::Lost,
        log: vec![entry(2, 5, "e"), entry(2, 6, "f")],
        ..Restored::default()
    };
    for (last, accepted, committed) in [
        (id(2, 3), false, vec![]),
        (id(2, 4), true, vec!["e", "f"]),
        (id(2, 5), true, vec!["f"]),
        (id(3, 9), true, vec![]),
    ] {
        let mut raft = Raft::restart(as_in_the_paper(1, 3), lost.clone());
        raft.tick();
        let asked = questions(&carry_out(&mut raft).messages);
        assert_eq!((asked.len(), asked[0].1.state), (2, Some(Index(4))));
        append(&mut raft, id(2, 6), Vec::new(), 6);
        let done = carry_out(&mut raft);
        assert_eq!((matched(&done.messages), done.committed), (vec![6], vec![]));
        let answers = Answers {
            snapshot: Some(snapshot(last)),
            ..Answers::default()
        };
        say(&mut raft, 3, 3, Message::Entries(answers)).unwrap();
        let offers = carry_out(&mut raft).offers;
        assert_eq!(offers.len(), usize::from(accepted), "{last}");
        let installed = offers
            .first()
            .is_some_and(|offer| raft.snapshot_installed(offer) == SnapshotFate::Newest);
        assert_eq!((installed, raft.lacks_state()), (accepted, !accepted));
        assert_eq!(commands(&carry_out(&mut raft).committed), committed);
    }
}

/// Its log may have the entry itself: that is not what is asked for.
#[test]
fn whoever_lacks_a_state_is_answered_with_a_snapshot_that_reaches_far_enough() {
    let mut raft = node(&[]);
    append(&mut raft, id(2, 5), Vec::new(), 5);
    carry_out(&mut raft);
    assert_eq!(
        raft.snapshot_taken(Index(4), Bytes::from_static(b"where it is")),
        SnapshotFate::Newest
    );
    for (state, expected) in [(3, true), (4, true), (5, false)] {
        let question = Question {
            state: Some(Index(state)),
            ..Question::default()
        };
        say(&mut raft, 9, 0, Message::AskEntries(question)).unwrap();
        let answers = answers(&carry_out(&mut raft).messages).remove(0);
        assert_eq!(answers.snapshot, expected.then(|| snapshot(id(2, 4))));
    }
}

#[test]
#[should_panic(expected = "7 is bad and not in the log")]
fn what_is_bad_is_in_the_log() {
    let mut restored = restored(&[]);
    restored.bad = BTreeMap::from([(Index(7), Damaged)]);
    Raft::restart(as_in_the_paper(1, 3), restored);
}

#[test]
fn a_node_with_nothing_bad_asks_nothing() {
    let mut raft = node(&[]);
    for _ in 0..20 {
        raft.tick();
        assert!(questions(&carry_out(&mut raft).messages).is_empty());
    }
    assert_eq!(raft.ready().write.map(|write| write.id), None::<WriteId>);
}
