//! Any operations with crashes between them: what comes back is a prefix of what was submitted, with all in it that was
//! acknowledged. Segments are small, so that entries are moved. Payloads rot, and are repaired; what a crash left suspect is
//! repaired or truncated.
#![no_main]

#[path = "wal_model/input.rs"]
mod input;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use duramen_disk::{Disk, SimDisk};
use duramen_wal::{
    Batch, Entry, Error, GroupId, HardState, Index, LogId, Misuse, Options, Scrub, Term, Ticket,
    Wal,
};
use input::{Change, Input, Step};
use libfuzzer_sys::fuzz_target;

const DIR: &str = "/log";
const GROUPS: u8 = 3;

#[derive(Debug, Clone, Default)]
struct Group {
    term: Term,
    user: Vec<u8>,
    purged: LogId,
    entries: Vec<Entry>,
    /// Something was taken from its end: what comes next is of a new term, so that an id never stands for two entries.
    was_cut: bool,
}

type State = Vec<Option<Group>>;

/// What a log gives: of an entry that cannot be read, the id.
struct Found {
    term: Term,
    user: Vec<u8>,
    purged: LogId,
    entries: Vec<Result<Entry, LogId>>,
}

impl Group {
    fn last(&self) -> LogId {
        self.entries.last().map_or(self.purged, |entry| entry.id)
    }

    /// An index so far back from the end, not before the purge point.
    fn back(&self, back: u8) -> Index {
        let index = self.last().index.0.saturating_sub(back.into());
        Index(index.max(self.purged.index.0))
    }

    fn keep(&mut self, last: Index) {
        self.was_cut |= self.last().index > last;
        let kept = last.0 - self.purged.index.0;
        self.entries.truncate(kept as usize);
    }
}

/// What came up in all inputs, to know that it did.
static COUNTS: [(&str, AtomicU64); 6] = [
    ("inputs", AtomicU64::new(0)),
    ("opened", AtomicU64::new(0)),
    ("cut", AtomicU64::new(0)),
    ("suspects settled", AtomicU64::new(0)),
    ("moved", AtomicU64::new(0)),
    ("repaired", AtomicU64::new(0)),
];

fn count(what: &str, by: u64) -> u64 {
    let (_, counter) = COUNTS
        .iter()
        .find(|(name, _)| *name == what)
        .expect("a name");
    counter.fetch_add(by, Ordering::Relaxed) + by
}

/// Says what came up after 128, 256, 512, .. inputs.
fn count_input() {
    let inputs = count("inputs", 1);
    if inputs >= 128 && inputs.is_power_of_two() {
        let counts = COUNTS
            .iter()
            .map(|(name, counter)| format!("{name} {}", counter.load(Ordering::Relaxed)));
        eprintln!("{}", counts.collect::<Vec<_>>().join(", "));
    }
}

/// The last entries are what matters.
fn shown(state: &State) -> Vec<String> {
    let group = |group: &Group| {
        let ids = group
            .entries
            .iter()
            .map(|entry| (entry.id, entry.payload.len()));
        let ids: Vec<_> = ids.map(|(id, len)| format!("{id} {len}")).collect();
        let Group {
            term, user, purged, ..
        } = group;
        format!("{term}, user {}, {purged}, {ids:?}", user.len())
    };
    state
        .iter()
        .map(|found| found.as_ref().map_or(String::new(), group))
        .collect()
}

impl Found {
    fn shown(&self) -> String {
        let ids = self.entries.iter().map(|entry| match entry {
            Ok(entry) => format!("{} {}", entry.id, entry.payload.len()),
            Err(id) => format!("{id} bad"),
        });
        let ids: Vec<_> = ids.collect();
        let Found {
            term, user, purged, ..
        } = self;
        format!("{term}, user {}, {purged}, {ids:?}", user.len())
    }
}

struct Run {
    disk: SimDisk,
    options: Options,
    repairs: bool,
    wal: Option<Wal>,
    /// What the log may hold: the last acknowledged state, and those submitted since.
    states: Vec<State>,
    last_ticket: Option<Ticket>,
    /// The terms that were given, and the payloads.
    clock: u64,
    rotten: HashSet<Bytes>,
    crash_is_due: bool,
    /// The power goes when the process dies.
    cut_seed: Option<u64>,
}

impl Run {
    fn new(input: &Input) -> Run {
        let mut options = Options::default();
        options.manual_drive = true;
        options.segment_bytes = 1 << 14;
        options.batch_bytes_max = 1 << 13;
        options.in_flight_bytes_max = 1 << 13;
        options.keep_suspects = input.keep_suspects;
        options.recycle = input.recycles;
        if !input.reads_from_memory {
            options.recent_bytes_max = 0;
        }
        let disk = SimDisk::new();
        let wal = Wal::create_on(Arc::new(disk.clone()), DIR, options.clone()).expect("a log");
        Run {
            disk,
            options,
            repairs: input.repairs,
            wal: Some(wal),
            states: vec![vec![None; GROUPS.into()]],
            last_ticket: None,
            clock: 0,
            rotten: HashSet::new(),
            crash_is_due: false,
            cut_seed: None,
        }
    }

    fn state(&self) -> &State {
        self.states.last().expect("a state")
    }

    /// Puts a change into the batch, and does the same to the model. Gives the group if there is no such group, and the
    /// change makes none: then the whole batch is refused.
    fn change(&mut self, batch: &mut Batch, state: &mut State, change: &Change) -> Option<GroupId> {
        let (Change::Append { group, .. }
        | Change::Truncate { group, .. }
        | Change::Purge { group, .. }
        | Change::HardState { group, .. }
        | Change::User { group, .. }
        | Change::Remove { group }) = change;
        let id = GroupId((*group % GROUPS).into());
        let slot = &mut state[usize::from(*group % GROUPS)];
        let is_unknown = slot.is_none();
        if let Change::Remove { .. } = change {
            batch.remove_group(id);
            *slot = None;
            return is_unknown.then_some(id);
        }
        let group = slot.get_or_insert_with(|| Group {
            was_cut: true,
            ..Group::default()
        });
        match *change {
            Change::Append {
                back,
                count,
                newer,
                bytes,
                ..
            } => {
                group.keep(group.back(back));
                let entries = self.entries(group, count, newer, bytes);
                group.entries.extend_from_slice(&entries);
                batch.append(id, entries);
            }
            Change::Truncate { back, .. } => {
                group.keep(group.back(back));
                batch.truncate(id, group.last().index);
            }
            Change::Purge { back, past, .. } => {
                let mut to = group.last();
                if past % 4 == 1 {
                    self.clock += 1;
                    let term = Term(self.clock);
                    let index = Index(to.index.0 + u64::from(past));
                    to = LogId { term, index };
                    group.was_cut = true;
                } else if group.back(back) > group.purged.index {
                    let at = group.back(back).0 - group.purged.index.0 - 1;
                    to = group.entries[at as usize].id;
                }
                group.entries.retain(|entry| entry.id.index > to.index);
                group.purged = to;
                batch.purge(id, to);
            }
            Change::HardState { newer, .. } => {
                group.term = Term(group.term.0 + u64::from(newer));
                let term = group.term;
                let hard_state = HardState {
                    term,
                    ..HardState::default()
                };
                batch.hard_state(id, hard_state);
            }
            Change::User { bytes, .. } => {
                group.user = vec![bytes; usize::from(bytes)];
                batch.user_record(id, group.user.clone());
            }
            Change::Remove { .. } => {}
        }
        let is_misuse = is_unknown && matches!(change, Change::Truncate { .. });
        is_misuse.then_some(id)
    }

    /// The next entries of a group. Each payload is empty or begins with a number that no other has.
    fn entries(&mut self, group: &mut Group, count: u8, newer: bool, bytes: u16) -> Vec<Entry> {
        let last = group.last();
        self.clock += 1;
        let term = match newer || std::mem::take(&mut group.was_cut) {
            true => Term(self.clock),
            false => last.term,
        };
        group.was_cut = false;
        let mut entries = Vec::new();
        for n in 1..=u64::from(count % 4) + 1 {
            self.clock += 1;
            let index = Index(last.index.0 + n);
            let mut payload = Vec::new();
            if bytes % 16 > 0 {
                payload.extend(self.clock.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
                payload.resize(8 + usize::from(bytes % 1200), bytes as u8);
            }
            entries.push(Entry {
                id: LogId { term, index },
                payload: payload.into(),
                ..Entry::default()
            });
        }
        entries
    }

    /// Submits a batch. Says whether the log goes on.
    fn submit(&mut self, changes: &[Change], waits: bool, tries: bool) -> bool {
        let Some(wal) = self.wal.clone() else {
            return false;
        };
        let mut batch = Batch::new();
        let mut state = self.state().clone();
        let mut unknown = None;
        for one in changes {
            let found = self.change(&mut batch, &mut state, one);
            unknown = unknown.or(found);
        }
        let submitted = match tries {
            true => wal.try_submit(batch),
            false => wal.submit(batch),
        };
        match submitted {
            Ok(ticket) => {
                assert_eq!(unknown, None);
                self.states.push(state);
                self.last_ticket = Some(ticket);
            }
            Err(Error::Io { .. } | Error::Poisoned { .. }) => return false,
            Err(Error::Misuse { group, misuse }) => {
                assert_eq!((Some(group), misuse), (unknown, Misuse::UnknownGroup));
                self.is_as_it_was(&wal);
            }
            Err(Error::Busy { .. }) => {
                assert!(tries);
                self.is_as_it_was(&wal);
            }
            Err(Error::TooLarge { bytes, bytes_max }) => {
                assert!(bytes > bytes_max);
                self.is_as_it_was(&wal);
            }
            Err(other) => panic!("{other}"),
        }
        !waits || self.wait()
    }

    /// Waits for all that was submitted. Says whether the log goes on.
    fn wait(&mut self) -> bool {
        let waited = self
            .last_ticket
            .take()
            .map_or(Ok(()), |ticket| ticket.wait());
        if waited.is_ok() {
            self.states.drain(..self.states.len() - 1);
        }
        waited.is_ok()
    }

    fn is_as_it_was(&self, wal: &Wal) {
        if !self.crash_is_due {
            let found = read(wal);
            assert!(self.is_it(&found, self.state(), &HashSet::new()));
        }
    }

    /// Whether this is what the log gives. What cannot be read is rotten, or suspect.
    fn is_it(
        &self,
        found: &[Option<Found>],
        state: &State,
        suspects: &HashSet<(GroupId, LogId)>,
    ) -> bool {
        let mut pairs = (0..).map(GroupId).zip(found.iter().zip(state));
        pairs.all(|(id, pair)| match pair {
            (None, None) => true,
            (Some(found), Some(group)) => {
                let heads = (found.term, &found.user, found.purged);
                let mut entries = found.entries.iter().zip(&group.entries);
                heads == (group.term, &group.user, group.purged)
                    && found.entries.len() == group.entries.len()
                    && entries.all(|(found, entry)| match found {
                        Ok(found) => found == entry,
                        Err(bad) => {
                            let is_known = self.rotten.contains(&entry.payload)
                                || suspects.contains(&(id, *bad));
                            *bad == entry.id && is_known
                        }
                    })
            }
            _ => false,
        })
    }

    fn open(&mut self) {
        let wal = Wal::open_on(Arc::new(self.disk.clone()), DIR, self.options.clone());
        let wal = wal.expect("a log that was closed or killed opens");
        self.crash_is_due = false;
        self.cut_seed = None;
        self.last_ticket = None;
        count("opened", 1);
        count("cut", wal.recovery().cut.is_some().into());
        let report = wal.recovery();
        assert!(!self.rotten.is_empty() || report.damaged.is_empty());
        assert!(self.options.keep_suspects || report.suspects.is_empty());
        let suspects: HashSet<_> = report.suspects.iter().copied().collect();
        let found = read(&wal);
        let is_it = |state: &State| self.is_it(&found, state, &suspects);
        let at = self.states.iter().rposition(is_it);
        let at = at.unwrap_or_else(|| {
            let states: Vec<Vec<String>> = self.states.iter().map(shown).collect();
            let found: Vec<_> = found.iter().flatten().map(|found| found.shown()).collect();
            panic!("what is found is none of {states:#?}: {found:#?}, {report:?}")
        });
        self.states = vec![self.states.swap_remove(at)];
        self.wal = Some(wal);
        if !suspects.is_empty() {
            self.settle(suspects);
        }
    }

    /// Repairs what is suspect, or cuts it off. A peer has what was submitted.
    fn settle(&mut self, suspects: HashSet<(GroupId, LogId)>) {
        let wal = self.wal.clone().expect("it was opened");
        let mut state = self.state().clone();
        for n in 0..GROUPS {
            let id = GroupId(n.into());
            let Some(first) = wal.suspect(id) else {
                continue;
            };
            let group = state[usize::from(n)].as_mut().expect("a group");
            assert!(
                suspects
                    .iter()
                    .any(|(group, log_id)| (*group, log_id.index) == (id, first))
            );
            if !self.repairs {
                group.keep(first.prev());
                let mut batch = Batch::new();
                batch.truncate(id, first.prev());
                wal.write(batch).expect("a truncation settles it");
                continue;
            }
            for entry in &group.entries {
                if suspects.contains(&(id, entry.id)) {
                    wal.repair(id, entry.clone()).expect("a repair settles it");
                }
            }
        }
        count("suspects settled", suspects.len() as u64);
        self.states = vec![state];
        let found = read(&wal);
        assert!(self.is_it(&found, self.state(), &HashSet::new()));
    }

    /// Flips a bit of an entry's payload wherever that stands. A later frame says that it was durable.
    fn rot(&mut self, group: u8, entry: u8) -> bool {
        if self.crash_is_due {
            return true;
        }
        let group = group % GROUPS;
        let marks = [Change::User { group, bytes: 3 }];
        if !self.submit(&marks, true, false) || !self.submit(&marks, true, false) {
            return false;
        }
        let found = self.state()[usize::from(group)].as_ref().expect("a group");
        let Some(entry) = found.entries.get(usize::from(entry)) else {
            return true;
        };
        let payload = entry.payload.clone();
        if payload.is_empty() {
            return true;
        }
        for name in self.disk.list(Path::new(DIR)).expect("a directory") {
            let path = Path::new(DIR).join(name);
            let file = self.disk.open(&path).expect("a file");
            let mut bytes = vec![0; file.len().expect("a length") as usize];
            file.read_exact_at(&mut bytes, 0).expect("bytes");
            for at in (0..bytes.len()).filter(|at| bytes[*at..].starts_with(&payload[..8])) {
                file.write_all_at(&[payload[0] ^ 1], at as u64)
                    .expect("a write");
                file.sync_data().expect("a sync");
            }
        }
        self.rotten.insert(payload);
        true
    }

    /// Puts right whatever a scrub finds. Says whether the log goes on.
    fn repair(&mut self) -> bool {
        let Some(wal) = self.wal.clone() else {
            return false;
        };
        if !self.wait() {
            return false;
        }
        let Ok(report) = wal.scrub(Scrub::default(), |_| true) else {
            return false;
        };
        assert!(report.damaged_seals.is_empty());
        for damaged in report.damaged {
            let (group, id) = (damaged.entry.group, damaged.entry.id);
            let state = self.state()[group.0 as usize].as_ref().expect("a group");
            let entry = state.entries.iter().find(|entry| entry.id == id);
            let entry = entry.expect("an entry of the log").clone();
            assert!(
                self.rotten.contains(&entry.payload),
                "{id} of group {group} never rotted"
            );
            if wal.repair(group, entry).is_err() {
                assert!(self.crash_is_due);
                return false;
            }
            count("repaired", 1);
        }
        self.rotten.clear();
        self.is_as_it_was(&wal);
        true
    }

    fn drop_wal(&mut self) {
        let wal = self.wal.take();
        count("moved", wal.map_or(0, |wal| wal.stats().entries_moved));
    }

    /// Ends the process. What was submitted is written when the last handle goes, if the disk lets it.
    fn close(&mut self) {
        let poisoned = self
            .wal
            .take()
            .is_none_or(|wal| wal.stats().poison.is_some());
        if self.crash_is_due || poisoned || !self.rotten.is_empty() {
            return;
        }
        self.last_ticket = None;
        let found = Wal::verify_on(Arc::new(self.disk.clone()), DIR, |_| true);
        let found = found.expect("a log that was closed");
        assert!(!found.is_damaged() && !found.is_torn(), "{found:?}");
    }
}

fn read(wal: &Wal) -> Vec<Option<Found>> {
    let groups = wal.groups();
    let read = |n: u8| {
        let id = GroupId(n.into());
        groups.contains(&id).then(|| {
            let (purged, last) = (wal.purged(id), wal.last(id).index);
            let range = purged.index.next()..last.next();
            let entries = match wal.entries(id, range.clone(), u64::MAX) {
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(_) => (range.start.0..range.end.0)
                    .map(|index| read_one(wal, id, Index(index)))
                    .collect(),
            };
            Found {
                term: wal.hard_state(id).term,
                user: wal.user_record(id).to_vec(),
                purged,
                entries,
            }
        })
    };
    (0..GROUPS).map(read).collect()
}

fn read_one(wal: &Wal, group: GroupId, index: Index) -> Result<Entry, LogId> {
    match wal.entries(group, index..index.next(), 0) {
        Ok(mut entries) => Ok(entries.remove(0)),
        Err(Error::DamagedEntry { id, .. } | Error::Suspect { id, .. }) => Err(id),
        Err(other) => panic!("{other}"),
    }
}

fuzz_target!(|input: Input| {
    count_input();
    let mut run = Run::new(&input);
    for step in &input.steps {
        let goes_on = match step {
            Step::Write(changes) => run.submit(changes, true, false),
            Step::Submit(changes) => run.submit(changes, false, false),
            Step::TrySubmit(changes) => run.submit(changes, false, true),
            Step::Rot { group, entry } => run.rot(*group, *entry),
            Step::Repair => run.repair(),
            Step::CrashAfter(operations, cut_seed) => {
                run.crash_is_due = true;
                run.cut_seed = *cut_seed;
                run.disk.crash_after((*operations).into());
                true
            }
            Step::Reopen => {
                run.close();
                false
            }
            Step::Kill | Step::PowerCut(_) => false,
        };
        if !goes_on {
            let seed = match step {
                Step::PowerCut(seed) => Some(*seed),
                _ => run.cut_seed.take(),
            };
            match seed {
                Some(seed) => run.disk.power_cut(seed),
                None => run.disk.kill(),
            }
            run.drop_wal();
            run.open();
        }
    }
});
