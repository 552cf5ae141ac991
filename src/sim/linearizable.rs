//! Whether a history of operations is linearizable: whether there is an order of them, in which each takes effect at some moment
//! between its call and its return, that one copy of the object could have produced (Herlihy and Wing, 1990).
//!
//! The search is that of Wing and Gong with the memory of Lowe (2017): it goes through the orders depth first, and remembers
//! which sets of operations led to which state. An operation whose outcome is unknown may have taken effect at any moment after
//! its call, or never. For short histories of few clients; one object, one key at a time.
//!
//! Whatever can follow a state can also follow the same state where fewer operations of unknown outcome took effect: those that are left
//! need not. So of two ways to a state, the one that needs more of them is not gone. And it is searched first for an order in which no
//! two of them follow each other, then no three, and so on: a few hundred operations with a dozen of unknown outcome have an order like
//! that, and all the orders of the dozen, wherever nobody looked, are more than can be tried.
//!
//! Of what can be next, that is tried first which returned first. So what may take effect for long, a call that was repeated or one of
//! unknown outcome, is put where a read shows it, and not first wherever it shows nowhere: the search would learn of that too late.

use std::collections::HashMap;
use std::hash::Hash;

/// What one copy of the object does.
pub trait Model {
    /// The state of the object; at first its default.
    type State: Clone + Eq + Hash + Default;
    /// An operation, as it was called.
    type Call;
    /// What it returned.
    type Output: PartialEq;

    /// What an operation does and returns.
    fn step(state: &Self::State, call: &Self::Call) -> (Self::State, Self::Output);
}

/// An operation of a history.
#[derive(Debug, Clone)]
pub struct Operation<C, O> {
    /// When it was called. Any clock will do that never goes back; what is called when another one returns overlaps it.
    pub called: u64,
    /// What was called.
    pub call: C,
    /// When it returned, and what; `None` if that is not known.
    pub returned: Option<(u64, O)>,
}

impl<C, O> Operation<C, O> {
    /// When it returned; never, if that is not known.
    fn returned_at(&self) -> u64 {
        self.returned.as_ref().map_or(u64::MAX, |(at, _)| *at)
    }
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none. So many operations can be put in order, and no more.
    NotLinearizable {
        /// In the longest order that was found.
        explained: usize,
    },
    /// The search was given up. That is no proof, and must not be taken for one.
    GaveUp,
}

/// So many sets of operations are looked at, at the most.
const STEPS_MAX: usize = 2_000_000;

/// Checks a history of one object.
pub fn check<M: Model>(history: &[Operation<M::Call, M::Output>]) -> Verdict {
    let mut by_return: Vec<usize> = (0..history.len()).collect();
    by_return.sort_by_key(|at| history[*at].returned_at());
    let none = Set(vec![0; history.len().div_ceil(64)]);
    let mut search = Search::<M> {
        history,
        by_return,
        in_a_row_max: 1,
        is_bounded: false,
        known: none.clone(),
        unknown: none,
        seen: HashMap::new(),
        steps: 0,
        path: Vec::new(),
        explained: 0,
    };
    loop {
        let verdict = search.run();
        if !search.is_bounded || !matches!(verdict, Verdict::NotLinearizable { .. }) {
            return verdict;
        }
        search.seen.clear();
        (search.is_bounded, search.in_a_row_max) = (false, search.in_a_row_max + 1);
    }
}

/// Which operations have taken effect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Set(Vec<u64>);

impl Set {
    fn has(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    fn flip(&mut self, at: usize) {
        self.0[at / 64] ^= 1 << (at % 64);
    }

    fn is_subset(&self, of: &Set) -> bool {
        self.0.iter().zip(&of.0).all(|(own, of)| own & !of == 0)
    }
}

/// How it was come to a state.
struct Way {
    /// The operations of unknown outcome that have taken effect.
    unknown: Set,
    /// How many of them at the end.
    in_a_row: usize,
}

struct Search<'h, M: Model> {
    history: &'h [Operation<M::Call, M::Output>],
    /// The operations in the order of their returns.
    by_return: Vec<usize>,
    /// So many operations of unknown outcome may follow each other.
    in_a_row_max: usize,
    /// It was an obstacle.
    is_bounded: bool,
    /// Of the operations that returned, those that have taken effect.
    known: Set,
    /// Of the others.
    unknown: Set,
    /// By what has taken effect of those that returned, and the state: the ways to there.
    seen: HashMap<(Set, M::State), Vec<Way>>,
    steps: usize,
    /// The order so far: each operation, by its place in `by_return`, with the state before it.
    path: Vec<(usize, M::State)>,
    explained: usize,
}

impl<M: Model> Search<'_, M> {
    fn run(&mut self) -> Verdict {
        let mut state = M::State::default();
        let mut from = 0;
        loop {
            if self.all_explained() {
                return Verdict::Linearizable;
            }
            if self.steps > STEPS_MAX {
                return Verdict::GaveUp;
            }
            match self.next(&state, from) {
                Some((place, after)) => {
                    self.path
                        .push((place, std::mem::replace(&mut state, after)));
                    self.explained = self.explained.max(self.path.len());
                    from = 0;
                }
                None => {
                    let Some((place, before)) = self.path.pop() else {
                        return Verdict::NotLinearizable {
                            explained: self.explained,
                        };
                    };
                    self.flip(self.by_return[place]);
                    (state, from) = (before, place + 1);
                }
            }
        }
    }

    /// Nothing is left but what may never have happened.
    fn all_explained(&self) -> bool {
        let mut operations = self.history.iter().enumerate();
        operations.all(|(at, operation)| operation.returned.is_none() || self.known.has(at))
    }

    fn is_done(&self, at: usize) -> bool {
        self.known.has(at) || self.unknown.has(at)
    }

    fn flip(&mut self, at: usize) {
        match self.history[at].returned {
            Some(_) => self.known.flip(at),
            None => self.unknown.flip(at),
        }
    }

    /// How many operations of unknown outcome took effect last.
    fn in_a_row(&self) -> usize {
        let last_first = self.path.iter().rev();
        let operations = last_first.map(|(place, _)| &self.history[self.by_return[*place]]);
        operations.take_while(|it| it.returned.is_none()).count()
    }

    /// Whether it was come to this state, with so many of unknown outcome at the end, with no more than now. Remembers it.
    fn was_seen(&mut self, state: &M::State, in_a_row: usize) -> bool {
        let key = (self.known.clone(), state.clone());
        let ways = self.seen.entry(key).or_default();
        let allows = |way: &Way| way.unknown.is_subset(&self.unknown) && way.in_a_row <= in_a_row;
        if ways.iter().any(allows) {
            return true;
        }
        let unknown = self.unknown.clone();
        ways.push(Way { unknown, in_a_row });
        self.steps += 1;
        false
    }

    /// The first operation from the place `from` on that can be the next one, in a way that was not tried. It is done then.
    fn next(&mut self, state: &M::State, from: usize) -> Option<(usize, M::State)> {
        // What was called after another one returned comes after it.
        let mut returns = self.by_return.iter().filter(|at| !self.is_done(**at));
        let first_return = returns
            .next()
            .map_or(u64::MAX, |at| self.history[*at].returned_at());
        let in_a_row = self.in_a_row();
        for place in from..self.by_return.len() {
            let at = self.by_return[place];
            let operation = &self.history[at];
            let is_known = operation.returned.is_some();
            if self.is_done(at) || operation.called > first_return {
                continue;
            }
            let (after, output) = M::step(state, &operation.call);
            let fits = operation
                .returned
                .as_ref()
                .is_none_or(|(_, returned)| *returned == output);
            if !fits {
                continue;
            }
            if !is_known && in_a_row == self.in_a_row_max {
                self.is_bounded = true;
                continue;
            }
            self.flip(at);
            if !self.was_seen(&after, if is_known { 0 } else { in_a_row + 1 }) {
                return Some((place, after));
            }
            self.flip(at);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A counter that gives the value before.
    struct Counter;

    #[derive(Debug, Clone, Copy)]
    enum Call {
        Read,
        Add(u8),
    }

    impl Model for Counter {
        type State = u8;
        type Call = Call;
        type Output = u8;

        fn step(state: &u8, call: &Call) -> (u8, u8) {
            match call {
                Call::Read => (*state, *state),
                Call::Add(by) => (state.wrapping_add(*by), *state),
            }
        }
    }

    type History = Vec<Operation<Call, u8>>;

    fn operation(called: u64, call: Call, returned: Option<(u64, u8)>) -> Operation<Call, u8> {
        Operation {
            called,
            call,
            returned,
        }
    }

    /// By trying all orders of all subsets.
    fn is_linearizable_by_trying(history: &History) -> bool {
        fn place(history: &History, done: &mut Vec<usize>, state: u8) -> bool {
            let is_open = |at: &usize| !done.contains(at);
            let open: Vec<usize> = (0..history.len()).filter(is_open).collect();
            if open.iter().all(|at| history[*at].returned.is_none()) {
                return true;
            }
            open.iter().any(|&at| {
                let comes_after = |other: &usize| {
                    let returned = history[*other].returned;
                    returned.is_some_and(|(time, _)| time < history[at].called)
                };
                let (after, output) = Counter::step(&state, &history[at].call);
                let returned = history[at].returned;
                if open.iter().any(comes_after) || returned.is_some_and(|(_, told)| told != output)
                {
                    return false;
                }
                done.push(at);
                let found = place(history, done, after);
                done.pop();
                found
            })
        }
        place(history, &mut Vec::new(), 0)
    }

    fn any_operation() -> impl Strategy<Value = Operation<Call, u8>> {
        let call = prop_oneof![Just(Call::Read), (1..3_u8).prop_map(Call::Add)];
        let returned = prop::option::weighted(0.8, (0..8_u64, 0..5_u8));
        (0..12_u64, call, returned).prop_map(|(called, call, returned)| {
            operation(
                called,
                call,
                returned.map(|(after, output)| (called + after, output)),
            )
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn it_finds_what_trying_all_orders_finds(history in prop::collection::vec(any_operation(), 0..6)) {
            let found = check::<Counter>(&history);
            prop_assert_eq!(found == Verdict::Linearizable, is_linearizable_by_trying(&history), "{:?}", found);
        }
    }

    #[test]
    fn a_read_that_misses_what_was_acknowledged_before_is_found() {
        let stale = vec![
            operation(1, Call::Add(1), Some((2, 0))),
            operation(3, Call::Read, Some((4, 0))),
        ];
        assert_eq!(
            check::<Counter>(&stale),
            Verdict::NotLinearizable { explained: 1 }
        );
    }

    #[test]
    fn an_unknown_outcome_may_be_late_or_never() {
        let unknown = operation(1, Call::Add(1), None);
        let read = |time, value| operation(time, Call::Read, Some((time + 1, value)));
        for (reads, verdict) in [
            (vec![read(5, 0), read(9, 1)], Verdict::Linearizable),
            (vec![read(5, 0), read(9, 0)], Verdict::Linearizable),
            (
                vec![read(5, 1), read(9, 0)],
                Verdict::NotLinearizable { explained: 2 },
            ),
        ] {
            let history: History = [vec![unknown.clone()], reads].concat();
            assert_eq!(check::<Counter>(&history), verdict);
        }
    }

    /// A register.
    struct Register;

    #[derive(Debug, Clone, Copy)]
    enum Access {
        Read,
        Write(u8),
    }

    impl Model for Register {
        type State = u8;
        type Call = Access;
        type Output = u8;

        fn step(state: &u8, call: &Access) -> (u8, u8) {
            match call {
                Access::Read => (*state, *state),
                Access::Write(value) => (*value, 0),
            }
        }
    }

    #[test]
    fn many_writes_that_take_effect_late_are_found_soon() {
        const LATE: u8 = 40;
        let operation = |called, call, returned| Operation {
            called,
            call,
            returned,
        };
        let mut history: Vec<_> = (1..=LATE)
            .map(|value| operation(0, Access::Write(value), None))
            .collect();
        for time in (10..2000).step_by(10) {
            history.push(operation(time, Access::Write(0), Some((time + 1, 0))));
            history.push(operation(time + 2, Access::Read, Some((time + 3, 0))));
        }
        for value in 1..=LATE {
            let time = 2000 + 10 * u64::from(value);
            history.push(operation(time, Access::Read, Some((time + 1, value))));
        }
        assert_eq!(check::<Register>(&history), Verdict::Linearizable);
    }

    /// A list.
    struct List;

    #[derive(Debug, Clone, Copy)]
    enum Edit {
        Read,
        Clear,
        Append(u8),
    }

    impl Model for List {
        type State = Vec<u8>;
        type Call = Edit;
        type Output = Vec<u8>;

        fn step(state: &Vec<u8>, edit: &Edit) -> (Vec<u8>, Vec<u8>) {
            let after = match edit {
                Edit::Read => state.clone(),
                Edit::Clear => Vec::new(),
                Edit::Append(value) => [&state[..], &[*value]].concat(),
            };
            let length = vec![after.len() as u8];
            match edit {
                Edit::Read => (after.clone(), after),
                _ => (after, length),
            }
        }
    }

    /// As in the simulator's seed 1696.
    #[test]
    fn of_many_that_may_have_been_first_the_one_that_shows_later_is_found_soon() {
        let operation = |called, call, returned| Operation {
            called,
            call,
            returned,
        };
        let mut history: Vec<_> = (1..=12)
            .map(|value| operation(0, Edit::Append(value), None))
            .collect();
        for (time, call, returned) in [
            (10, Edit::Append(20), vec![1]),
            (20, Edit::Append(21), vec![3]),
            (30, Edit::Append(22), vec![4]),
            (40, Edit::Read, vec![20, 7, 21, 22]),
            (50, Edit::Clear, vec![0]),
            (60, Edit::Clear, vec![0]),
            (70, Edit::Append(23), vec![1]),
            (80, Edit::Append(24), vec![4]),
            (90, Edit::Read, vec![23, 12, 1, 24]),
        ] {
            history.push(operation(time, call, Some((time + 1, returned))));
        }
        assert_eq!(check::<List>(&history), Verdict::Linearizable);
    }

    /// Eight clients, three hundred operations, some of unknown outcome.
    #[test]
    fn a_long_history_is_checked_soon() {
        let mut history = History::new();
        let mut value = 0_u8;
        for round in 0..38_u64 {
            for client in 0..8_u64 {
                let (call, called) = (Call::Add(1), round * 20 + client);
                let is_known = (round + client) % 11 != 0;
                history.push(operation(
                    called,
                    call,
                    is_known.then_some((called + 12, value)),
                ));
                value = value.wrapping_add(1);
            }
        }
        assert_eq!(check::<Counter>(&history), Verdict::Linearizable);
        history[200].returned = Some((history[200].called + 12, value));
        assert!(matches!(
            check::<Counter>(&history),
            Verdict::NotLinearizable { .. }
        ));
    }
}
