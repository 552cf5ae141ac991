//! The clients that wait for an answer.
//!
//! A command is decided when its index is applied, or when an entry of a later term is applied at a lower index: terms
//! never go down along a log, so the command's entry, of an earlier term, cannot follow. Losing the leadership decides
//! nothing: the next leader may hold the entry and commit it.

use std::collections::BTreeMap;
use std::time::Duration;

use duramen_wal::{Index, LogId, NodeId, Term};

use super::{NotDone, OnApplied, Query, StateMachine};
use crate::canary::planted;
use crate::raft::{NotLeader, ReadId, ReadReply, Refused};

pub(super) struct Waiting<S: StateMachine> {
    /// By index and term. Two terms may have an open proposal at one index: of the terms in which this node led.
    commands: BTreeMap<(Index, Term), Waiter<OnApplied<S>>>,
    /// Reads that the core has not decided.
    undecided: BTreeMap<ReadId, Waiter<Query<S>>>,
    /// Reads that may be served when this index is handed out to be applied.
    unapplied: BTreeMap<(Index, ReadId), Waiter<Query<S>>>,
    next_read: u64,
    /// The term of the last entry that was committed.
    term: Term,
    /// No deadline is over before this one.
    next_deadline: Duration,
}

struct Waiter<T> {
    answer: T,
    deadline: Duration,
}

impl<S: StateMachine> Default for Waiting<S> {
    fn default() -> Waiting<S> {
        Waiting {
            commands: BTreeMap::new(),
            undecided: BTreeMap::new(),
            unapplied: BTreeMap::new(),
            next_read: 0,
            term: Term(0),
            next_deadline: Duration::MAX,
        }
    }
}

impl From<NotLeader> for NotDone {
    fn from(refused: NotLeader) -> NotDone {
        let leader = refused.leader;
        NotDone::NotLeader { leader }
    }
}

impl From<Refused> for NotDone {
    fn from(refused: Refused) -> NotDone {
        match refused {
            Refused::NotLeader(refused) => refused.into(),
            Refused::DiskFull => NotDone::Full,
            Refused::DiskFailed => NotDone::Failed,
            _ => NotDone::NotLeader { leader: None }, // Not now; and it is not known who else.
        }
    }
}

impl<S: StateMachine> Waiting<S> {
    /// A command waits for the entry it became.
    pub(super) fn command(&mut self, id: LogId, answer: OnApplied<S>, deadline: Duration) {
        self.next_deadline = self.next_deadline.min(deadline);
        let before = self
            .commands
            .insert((id.index, id.term), Waiter { answer, deadline });
        assert!(before.is_none(), "two commands became entry {id}");
    }

    pub(super) fn next_read_id(&mut self) -> ReadId {
        self.next_read += 1;
        ReadId(self.next_read)
    }

    /// A read waits for the core.
    pub(super) fn read(&mut self, id: ReadId, answer: Query<S>, deadline: Duration) {
        self.next_deadline = self.next_deadline.min(deadline);
        self.undecided.insert(id, Waiter { answer, deadline });
    }

    /// The core has decided a read. One that has run out of time is no longer here.
    pub(super) fn read_decided(&mut self, reply: ReadReply) {
        let Some(waiter) = self.undecided.remove(&reply.id) else {
            return;
        };
        match reply.index {
            Err(refused) => (waiter.answer)(Err(refused.into())),
            Ok(index) => {
                self.unapplied.insert((index, reply.id), waiter);
            }
        }
    }

    /// The entry `id` is committed. Gives who waits for it; who waits for another one at its index hears that it is lost.
    pub(super) fn committed(&mut self, id: LogId, leader: Option<NodeId>) -> Option<OnApplied<S>> {
        let mut own = None;
        while let Some(first) = self
            .commands
            .first_entry()
            .filter(|first| first.key().0 <= id.index)
        {
            let is_at_index = first.key().0 == id.index && planted("answered_by_index");
            let is_own = *first.key() == (id.index, id.term) || is_at_index;
            let answer = first.remove().answer;
            match is_own {
                true => own = Some(answer),
                false => answer(Err(NotDone::NotLeader { leader })),
            }
        }
        self.forget_before(id.term, leader);
        own
    }

    /// A read that may be served once all up to `index` is applied, if there is one.
    pub(super) fn readable(&mut self, index: Index) -> Option<Query<S>> {
        let first = self.unapplied.first_entry()?;
        (first.key().0 <= index).then(|| first.remove().answer)
    }

    /// The state was replaced by that of a snapshot up to `last`. What was to be applied by then may have been, elsewhere.
    pub(super) fn skipped(&mut self, last: LogId) {
        for waiter in take_all(&mut self.commands, |key, _| key.0 <= last.index) {
            (waiter.answer)(Err(NotDone::Unknown));
        }
        self.forget_before(last.term, None);
    }

    /// An entry of `term` is committed: no command of an earlier term can follow it.
    fn forget_before(&mut self, term: Term, leader: Option<NodeId>) {
        if term > self.term {
            self.term = term;
            for waiter in take_all(&mut self.commands, |key, _| key.1 < term) {
                (waiter.answer)(Err(NotDone::NotLeader { leader }));
            }
        }
    }

    /// Answers those whose time is over. `unread` is why reads were not served.
    pub(super) fn expire(&mut self, now: Duration, unread: NotDone) {
        if now < self.next_deadline {
            return;
        }
        for waiter in take_all(&mut self.commands, |_, waiter| waiter.deadline <= now) {
            (waiter.answer)(Err(match planted("undecided_is_refused") {
                true => NotDone::NotLeader { leader: None },
                false => NotDone::Unknown,
            }));
        }
        let reads = take_all(&mut self.undecided, |_, waiter| waiter.deadline <= now);
        let confirmed = take_all(&mut self.unapplied, |_, waiter| waiter.deadline <= now);
        for waiter in reads.into_iter().chain(confirmed) {
            (waiter.answer)(Err(unread));
        }
        let commands = self.commands.values().map(|waiter| waiter.deadline);
        let reads = self.undecided.values().chain(self.unapplied.values());
        let earliest = commands.chain(reads.map(|waiter| waiter.deadline)).min();
        self.next_deadline = earliest.unwrap_or(Duration::MAX);
    }
}

/// Removes what `is_wanted` says, in order.
fn take_all<K: Ord + Copy, V>(
    map: &mut BTreeMap<K, V>,
    is_wanted: impl Fn(&K, &V) -> bool,
) -> Vec<V> {
    let keys: Vec<K> = map
        .iter()
        .filter(|(key, value)| is_wanted(key, value))
        .map(|(&key, _)| key)
        .collect();
    keys.iter().filter_map(|key| map.remove(key)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::node::Frozen;

    /// A state machine without state.
    struct Nothing;

    impl StateMachine for Nothing {
        type Output = &'static str;

        fn apply(&mut self, _: &[u8]) -> &'static str {
            "applied"
        }

        fn freeze(&self) -> Frozen {
            Box::new(|_| Ok(()))
        }

        fn restore(&mut self, _: &mut dyn std::io::Read) -> std::io::Result<()> {
            Ok(())
        }
    }

    type Answers = Arc<Mutex<Vec<(u64, Result<&'static str, NotDone>)>>>;

    fn wait(waiting: &mut Waiting<Nothing>, answers: &Answers, term: u64, index: u64, name: u64) {
        let answers = answers.clone();
        let answer = move |answer| answers.lock().unwrap().push((name, answer));
        waiting.command(id(term, index), Box::new(answer), Duration::from_secs(name));
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId {
            term: Term(term),
            index: Index(index),
        }
    }

    /// An entry is committed, and applied.
    fn commit(waiting: &mut Waiting<Nothing>, id: LogId) {
        if let Some(answer) = waiting.committed(id, None) {
            answer(Ok("applied"));
        }
    }

    fn read(waiting: &mut Waiting<Nothing>, answers: &Answers, id: ReadId) {
        let answers = answers.clone();
        let answer = move |state: Result<&Nothing, NotDone>| {
            let mut answers = answers.lock().unwrap();
            answers.push((id.0, state.map(|_| "served")));
        };
        waiting.read(id, Box::new(answer), Duration::from_secs(9));
    }

    /// What may be read once all up to this index is applied is read.
    fn serve(waiting: &mut Waiting<Nothing>, index: u64) {
        while let Some(query) = waiting.readable(Index(index)) {
            query(Ok(&Nothing));
        }
    }

    const LOST: Result<&str, NotDone> = Err(NotDone::NotLeader { leader: None });

    #[test]
    fn a_waiter_is_answered_by_its_own_entry_only() {
        let (mut waiting, answers) = (Waiting::default(), Answers::default());
        wait(&mut waiting, &answers, 2, 5, 1);
        wait(&mut waiting, &answers, 2, 6, 2);
        commit(&mut waiting, id(1, 4));
        assert!(answers.lock().unwrap().is_empty());
        commit(&mut waiting, id(2, 5));
        // Another leader's entry at index 6: this one was lost.
        commit(&mut waiting, id(3, 6));
        assert_eq!(*answers.lock().unwrap(), [(1, Ok("applied")), (2, LOST)]);
    }

    #[test]
    fn an_entry_of_an_earlier_term_at_the_index_decides_too() {
        // Figure 8: the leader of term 2 lost its entry 5 to one of term 1, committed by a later leader.
        let (mut waiting, answers) = (Waiting::default(), Answers::default());
        wait(&mut waiting, &answers, 2, 5, 1);
        commit(&mut waiting, id(1, 5));
        assert_eq!(*answers.lock().unwrap(), [(1, LOST)]);
    }

    #[test]
    fn a_later_term_at_a_lower_index_decides_what_cannot_follow_it() {
        let (mut waiting, answers) = (Waiting::default(), Answers::default());
        wait(&mut waiting, &answers, 2, 9, 1);
        wait(&mut waiting, &answers, 4, 6, 2);
        commit(&mut waiting, id(4, 5));
        assert_eq!(*answers.lock().unwrap(), [(1, LOST)]);
        commit(&mut waiting, id(4, 6));
        assert_eq!(*answers.lock().unwrap(), [(1, LOST), (2, Ok("applied"))]);
    }

    #[test]
    fn a_read_waits_until_its_index_is_handed_out() {
        let (mut waiting, answers) = (Waiting::default(), Answers::default());
        let (early, late) = (ReadId(1), ReadId(2));
        read(&mut waiting, &answers, early);
        read(&mut waiting, &answers, late);
        let served_at = |id, index| ReadReply {
            id,
            index: Ok(Index(index)),
        };
        serve(&mut waiting, 9);
        assert!(answers.lock().unwrap().is_empty(), "nothing is decided");
        waiting.read_decided(served_at(early, 4));
        waiting.read_decided(served_at(late, 6));
        serve(&mut waiting, 5);
        assert_eq!(*answers.lock().unwrap(), [(1, Ok("served"))]);
        serve(&mut waiting, 6);
        assert_eq!(answers.lock().unwrap()[1..], [(2, Ok("served"))]);
    }

    #[test]
    fn a_read_that_was_not_served_in_time_hears_why() {
        let (mut waiting, answers) = (Waiting::default(), Answers::default());
        wait(&mut waiting, &answers, 2, 5, 9);
        read(&mut waiting, &answers, ReadId(1));
        waiting.expire(Duration::from_secs(9), NotDone::Full);
        let unknown = (9, Err(NotDone::Unknown)); // A command may be applied all the same.
        assert_eq!(*answers.lock().unwrap(), [unknown, (1, Err(NotDone::Full))]);
    }

    #[test]
    fn what_a_snapshot_skips_has_an_unknown_outcome() {
        let (mut waiting, answers) = (Waiting::default(), Answers::default());
        wait(&mut waiting, &answers, 2, 5, 1);
        wait(&mut waiting, &answers, 2, 9, 2);
        wait(&mut waiting, &answers, 4, 10, 3);
        waiting.skipped(id(4, 8));
        let unknown = Err(NotDone::Unknown);
        assert_eq!(*answers.lock().unwrap(), [(1, unknown), (2, LOST)]);
        commit(&mut waiting, id(4, 9));
        commit(&mut waiting, id(4, 10));
        assert_eq!(answers.lock().unwrap()[2..], [(3, Ok("applied"))]);
    }

    #[test]
    fn losing_the_leadership_decides_nothing_but_the_deadline_does() {
        let (mut waiting, answers) = (Waiting::default(), Answers::default());
        wait(&mut waiting, &answers, 2, 5, 10);
        wait(&mut waiting, &answers, 2, 6, 20);
        waiting.expire(Duration::from_secs(9), NotDone::Unknown);
        assert!(answers.lock().unwrap().is_empty());
        waiting.expire(Duration::from_secs(10), NotDone::Unknown);
        assert_eq!(*answers.lock().unwrap(), [(10, Err(NotDone::Unknown))]);
        waiting.expire(Duration::from_secs(20), NotDone::Unknown);
        assert_eq!(answers.lock().unwrap().len(), 2);
    }
}
