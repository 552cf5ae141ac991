//! Any operations with crashes between them: what comes back is a prefix of what was submitted, with all in it that was
//! acknowledged.
#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use duramen_disk::SimDisk;
use duramen_wal::{
    Batch, Entry, Error, GroupId, HardState, Index, LogId, Misuse, Options, Term, Wal,
};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Step {
    Write(Vec<Change>),
    /// Submitted, and waited for with the next write.
    Submit(Vec<Change>),
    Reopen,
    Kill,
    PowerCut(u64),
    /// The process dies so many operations later.
    CrashAfter(u8),
}

#[derive(Debug, Clone, Arbitrary)]
enum Change {
    Append {
        group: u8,
        back: u8,
        count: u8,
        newer: u8,
        bytes: u16,
    },
    Truncate {
        group: u8,
        back: u8,
    },
    Purge {
        group: u8,
        back: u8,
        past: u8,
    },
    HardState {
        group: u8,
        newer: u8,
    },
    User {
        group: u8,
        bytes: u8,
    },
    Remove {
        group: u8,
    },
}

const DIR: &str = "/log";
const GROUPS: u8 = 3;

#[derive(Debug, Clone, Default, PartialEq)]
struct Group {
    term: Term,
    user: Vec<u8>,
    purged: LogId,
    entries: Vec<Entry>,
}

type State = Vec<Option<Group>>;

impl Group {
    fn last(&self) -> LogId {
        self.entries.last().map_or(self.purged, |entry| entry.id)
    }

    /// An index so far back from the end, not before the purge point.
    fn back(&self, back: u8) -> Index {
        Index(
            self.last()
                .index
                .0
                .saturating_sub(back.into())
                .max(self.purged.index.0),
        )
    }

    fn keep(&mut self, last: Index) {
        self.entries
            .truncate((last.0 - self.purged.index.0) as usize);
    }
}

/// Puts a change into the batch, and does the same to the model. Gives the group if there is no such group, and the change
/// makes none: then the whole batch is refused.
fn change(batch: &mut Batch, state: &mut State, change: &Change) -> Option<GroupId> {
    let (Change::Append { group, .. }
    | Change::Truncate { group, .. }
    | Change::Purge { group, .. }
    | Change::HardState { group, .. }
    | Change::User { group, .. }
    | Change::Remove { group }) = change;
    let (id, slot) = (
        GroupId((*group % GROUPS).into()),
        &mut state[usize::from(*group % GROUPS)],
    );
    let is_unknown = slot.is_none();
    if let Change::Remove { .. } = change {
        batch.remove_group(id);
        *slot = None;
        return is_unknown.then_some(id);
    }
    let group = slot.get_or_insert_default();
    match change {
        Change::Append {
            back,
            count,
            newer,
            bytes,
            ..
        } => {
            group.keep(group.back(*back));
            let last = group.last();
            let term = Term(last.term.0 + u64::from(*newer));
            for n in 1..=u64::from(count % 8) + 1 {
                let id = LogId {
                    term,
                    index: Index(last.index.0 + n),
                };
                let payload = vec![n as u8 ^ *newer; usize::from(bytes % 300)].into();
                group.entries.push(Entry {
                    id,
                    payload,
                    ..Entry::default()
                });
            }
            batch.append(
                id,
                group.entries[(last.index.0 - group.purged.index.0) as usize..].to_vec(),
            );
        }
        Change::Truncate { back, .. } => {
            group.keep(group.back(*back));
            batch.truncate(id, group.last().index);
        }
        Change::Purge { back, past, .. } => {
            let mut to = group.last();
            if past % 4 == 1 {
                to = LogId {
                    term: Term(to.term.0 + 1),
                    index: Index(to.index.0 + u64::from(*past)),
                };
            } else if group.back(*back) > group.purged.index {
                let at = group.back(*back).0 - group.purged.index.0 - 1;
                to = group.entries[at as usize].id;
            }
            group.entries.retain(|entry| entry.id.index > to.index);
            group.purged = to;
            batch.purge(id, to);
        }
        Change::HardState { newer, .. } => {
            group.term = Term(group.term.0 + u64::from(*newer));
            batch.hard_state(
                id,
                HardState {
                    term: group.term,
                    ..HardState::default()
                },
            );
        }
        Change::User { bytes, .. } => {
            group.user = vec![*bytes; usize::from(*bytes)];
            batch.user_record(id, group.user.clone());
        }
        Change::Remove { .. } => {}
    }
    let is_misuse = is_unknown && matches!(change, Change::Truncate { .. });
    is_misuse.then_some(id)
}

fn read(wal: &Wal) -> State {
    let groups = wal.groups();
    let read = |n: u8| {
        let id = GroupId(n.into());
        groups.contains(&id).then(|| {
            let (purged, last) = (wal.purged(id), wal.last(id).index);
            Group {
                term: wal.hard_state(id).term,
                user: wal.user_record(id).to_vec(),
                purged,
                entries: wal
                    .entries(id, purged.index.next()..last.next(), u64::MAX)
                    .expect("entries"),
            }
        })
    };
    (0..GROUPS).map(read).collect()
}

fn options() -> Options {
    let mut options = Options::default();
    options.manual_drive = true;
    options.segment_bytes = 1 << 16;
    options.batch_bytes_max = 1 << 15;
    options.in_flight_bytes_max = 1 << 15;
    options
}

struct Run {
    disk: SimDisk,
    wal: Option<Wal>,
    /// What the log may hold: the last acknowledged state, and those submitted since.
    states: Vec<State>,
}

impl Run {
    fn open(&mut self) {
        let wal = Wal::open_on(Arc::new(self.disk.clone()), DIR, options());
        let wal = wal.expect("a log that was closed or killed opens");
        assert_eq!(wal.recovery().damaged, []);
        let found = read(&wal);
        let at = self.states.iter().rposition(|state| *state == found);
        let at = at.unwrap_or_else(|| panic!("{found:#?}\nis none of\n{:#?}", self.states));
        self.states = vec![self.states.swap_remove(at)];
        self.wal = Some(wal);
    }

    /// Submits a batch. Says whether the log goes on.
    fn submit(&mut self, changes: &[Change], waits: bool) -> bool {
        let Some(wal) = &self.wal else {
            return false;
        };
        let mut batch = Batch::new();
        let mut state = self.states.last().expect("a state").clone();
        let mut unknown = None;
        for one in changes.iter().take(8) {
            let found = change(&mut batch, &mut state, one);
            unknown = unknown.or(found);
        }
        let ticket = match wal.submit(batch) {
            Ok(ticket) => {
                assert_eq!(unknown, None);
                ticket
            }
            Err(Error::Io { .. } | Error::Poisoned { .. }) => return false,
            Err(Error::Misuse { group, misuse }) => {
                assert_eq!((Some(group), misuse), (unknown, Misuse::UnknownGroup));
                assert!(read(wal) == *self.states.last().expect("a state"));
                return true;
            }
            Err(other) => panic!("{other}"),
        };
        self.states.push(state);
        if waits {
            if ticket.wait().is_err() {
                return false;
            }
            self.states.drain(..self.states.len() - 1);
        }
        true
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let disk = SimDisk::new();
    let wal = Wal::create_on(Arc::new(disk.clone()), DIR, options()).expect("a log");
    let mut run = Run {
        disk,
        wal: Some(wal),
        states: vec![vec![None; GROUPS.into()]],
    };
    for step in steps.iter().take(60) {
        let goes_on = match step {
            Step::Write(changes) => run.submit(changes, true),
            Step::Submit(changes) => run.submit(changes, false),
            Step::CrashAfter(operations) => {
                run.disk.crash_after((*operations).into());
                true
            }
            Step::Reopen => {
                // What was submitted is written when the last handle goes, if the disk lets it.
                run.wal = None;
                false
            }
            Step::Kill | Step::PowerCut(_) => false,
        };
        if !goes_on {
            match step {
                Step::PowerCut(seed) => run.disk.power_cut(*seed),
                _ => run.disk.kill(),
            }
            run.wal = None;
            run.open();
        }
    }
});
