//! Batches drawn at random, of all kinds.

use bytes::Bytes;
use duramen_wal::{Context, Entry, GroupId, HardState, LogId, NodeId, Options, Term};

use super::{Change, State, Step, apply, entry, options};

/// Draws what is written.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    /// Mostly small, and now and then up to the limit.
    fn bytes(&mut self) -> Vec<u8> {
        let limit = [20, 20, 20, 300, 300, 2500][self.below(6) as usize];
        let (byte, len) = (self.below(256) as u8, self.below(limit));
        vec![byte; len as usize]
    }

    fn context(&mut self) -> Context {
        let context = [&[][..], b"a", &[7; 31]][self.below(3) as usize];
        Context::new(context).unwrap()
    }

    pub(crate) fn options(&mut self) -> Options {
        options([4096, 8192, 8201, 12288, 1 << 14, 1 << 15][self.below(6) as usize])
    }

    fn change(&mut self, groups: &State) -> Change {
        let group = self.below(5) + 100 * (self.below(8) / 7) * self.below(40);
        let content = groups.get(&GroupId(group)).cloned().unwrap_or_default();
        let last = content
            .entries
            .last()
            .map_or(content.purged, |entry| entry.id);
        let count = last.index.0 - content.purged.index.0;
        // A group that does not exist is neither truncated nor removed.
        let exists = groups.contains_key(&GroupId(group));
        match self.below(if exists { 20 } else { 15 }) {
            0..=9 => {
                let back = self.below(5) / 4 * self.below(count + 1);
                let first = last.index.0 + 1 - back;
                let before = match (first - 1).checked_sub(content.purged.index.0 + 1) {
                    Some(at) => content.entries[at as usize].id,
                    None => content.purged,
                };
                let term = before.term.0 + self.below(4) / 3;
                let entries = (first..first + 1 + self.below(4)).map(|index| Entry {
                    context: self.context(),
                    ..entry(index, term, self.bytes())
                });
                Change::Append(group, entries.collect())
            }
            10..=11 => {
                let hard_state = HardState {
                    term: Term(content.hard_state.term.0 + self.below(2)),
                    voted_for: (self.below(2) == 0).then_some(NodeId(group)),
                    context: self.context(),
                };
                Change::Vote(group, hard_state)
            }
            12..=14 => Change::User(group, Bytes::from(self.bytes())),
            15 => Change::Truncate(group, last.index.0 - self.below(count + 1)),
            16..=18 => {
                let at = self.below(count + 2);
                let last = match at
                    .checked_sub(1)
                    .and_then(|at| content.entries.get(at as usize))
                {
                    Some(entry) => entry.id,
                    None if at == 0 => content.purged,
                    None => LogId {
                        term: last.term,
                        index: last.index.next(),
                    },
                };
                Change::Purge(group, last)
            }
            _ => Change::Remove(group),
        }
    }

    /// Changes that are possible one after the other, in a log that holds this.
    pub(crate) fn step(&mut self, state: &State) -> Step {
        let mut step = Step::new();
        let mut state = state.clone();
        for _ in 0..1 + self.below(4) {
            let change = self.change(&state);
            apply(&mut state, &change);
            step.push(change);
        }
        step
    }
}
