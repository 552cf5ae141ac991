//! What the log holds, in memory: for each group its hard state, its user record, its purge point, and where each entry is.
//!
//! Submitting and recovery go through the same [`Groups::take_in`], so that replaying the frames gives the state that writing
//! them gave.
//!
//! Invariants of a group: slot `i` belongs to index `base.index + 1 + i`, where `base` is the purge point, or while a log is
//! replayed the last entry that is gone; the runs begin with the first slot's index, their first indexes go up and their
//! terms never go down.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use rustc_hash::FxBuildHasher;

use crate::error::Misuse;
use crate::record::{EntryMeta, Record};
use crate::types::{Context, GroupId, HardState, Index, LogId, Term};

#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: HashMap<GroupId, Group, FxBuildHasher>,
    /// How many slots point into each segment.
    live: BTreeMap<u64, u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) hard_state: HardState,
    pub(crate) user_record: Bytes,
    purged: LogId,
    /// The entries after `purged` up to this one are in segments that were freed. Only while a log is replayed: something
    /// later takes such entries away. Their terms are not known, but for the last one's.
    gone: Option<LogId>,
    runs: VecDeque<Run>,
    slots: VecDeque<Slot>,
}

/// Consecutive entries of one term and context, up to the next run.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: Index,
    term: Term,
    context: Context,
}

/// Where an entry's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) source: Source,
    pub(crate) meta: EntryMeta,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// In a segment.
    Written { segment: u64, offset: u64 },
    /// In memory, on its way to the disk: the payload with this number.
    Pending { number: u64 },
}

/// Gives the payloads of a frame or batch their sources, one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources(pub(crate) Source);

impl Sources {
    pub(crate) fn next(&mut self, meta: EntryMeta) -> Source {
        let source = self.0;
        match &mut self.0 {
            Source::Written { offset, .. } => *offset += u64::from(meta.payload_bytes),
            Source::Pending { number } => *number += 1,
        }
        source
    }
}

impl Groups {
    /// In no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (GroupId, &Group)> + '_ {
        self.groups.iter().map(|(id, group)| (*id, group))
    }

    pub(crate) fn find(&self, group: GroupId) -> Option<&Group> {
        self.groups.get(&group)
    }

    /// Whether nothing in `segment` is needed any more.
    pub(crate) fn is_dead(&self, segment: u64) -> bool {
        !self.live.contains_key(&segment)
    }

    /// A group one of whose entries is gone. After a replay that is damage.
    pub(crate) fn with_gone_entries(&self) -> Option<GroupId> {
        self.iter()
            .find(|(_, group)| group.gone.is_some())
            .map(|(id, _)| id)
    }

    /// Takes in a record, unless it breaks a rule (`check.rs`). Gives what takes it back.
    pub(crate) fn take_in(
        &mut self,
        record: &mut Record,
        sources: &mut Sources,
    ) -> Result<Option<Before>, Misuse> {
        let Some(id) = record.group() else {
            return Ok(None);
        };
        if let Record::Remove { .. } = record {
            return Ok(self.remove(id));
        }
        let mut live = Live(&mut self.live);
        let (group, existed) = match self.groups.entry(id) {
            Entry::Occupied(entry) => {
                entry.get().check(record)?;
                (entry.into_mut(), true)
            }
            Entry::Vacant(entry) => {
                Group::default().check(record)?;
                (entry.insert(Group::default()), false)
            }
        };
        let what = match &*record {
            Record::Entries {
                first,
                context,
                entries,
                ..
            } => {
                let cut = group.cut_after(first.index.prev(), None, &mut live);
                group.begin_run(*first, *context);
                for &meta in entries {
                    let source = sources.next(meta);
                    live.add(source);
                    group.slots.push_back(Slot { source, meta });
                }
                Was::Cut(cut)
            }
            Record::HardState { hard_state, .. } => {
                Was::HardState(std::mem::replace(&mut group.hard_state, *hard_state))
            }
            Record::User { bytes, .. } => {
                Was::User(std::mem::replace(&mut group.user_record, bytes.clone()))
            }
            Record::Truncate { last, .. } => {
                Was::Cut(group.cut_after(last.index, Some(last.term), &mut live))
            }
            Record::Purge { last, .. } => group.purge(*last, &mut live),
            Record::State { purged, last, .. } => {
                group.begin_at(*purged, *last);
                return Ok(None); // Only in a replay.
            }
            Record::Remove { .. } | Record::Resume { .. } => return Ok(None),
        };
        Ok(Some(Before { id, existed, what }))
    }

    fn remove(&mut self, id: GroupId) -> Option<Before> {
        let removed = self.groups.remove(&id)?;
        Live(&mut self.live).remove_all(&removed.slots);
        let what = Was::Removed(Box::new(removed));
        Some(Before {
            id,
            existed: true,
            what,
        })
    }

    /// Takes back the last records that were taken in.
    pub(crate) fn take_all_back(&mut self, before: Vec<Before>) {
        before
            .into_iter()
            .rev()
            .for_each(|before| self.take_back(before));
    }

    fn take_back(&mut self, before: Before) {
        let Before { id, existed, what } = before;
        let mut live = Live(&mut self.live);
        let group = self.groups.entry(id).or_default();
        match what {
            Was::HardState(hard_state) => group.hard_state = hard_state,
            Was::User(bytes) => group.user_record = bytes,
            Was::Cut(cut) => group.uncut(cut, &mut live),
            Was::Purged {
                purged,
                slots,
                runs,
            } => {
                slots.iter().for_each(|slot| live.add(slot.source));
                slots
                    .into_iter()
                    .rev()
                    .for_each(|slot| group.slots.push_front(slot));
                (group.purged, group.runs) = (purged, runs);
            }
            Was::Removed(removed) => {
                removed.slots.iter().for_each(|slot| live.add(slot.source));
                *group = *removed;
            }
        }
        if !existed {
            self.groups.remove(&id);
        }
    }

    /// The entries of a batch are on disk now. Those that were replaced meanwhile are not pending under their number any
    /// more.
    pub(crate) fn written(&mut self, records: &[Record], number: u64, segment: u64, offset: u64) {
        let mut pending = Sources(Source::Pending { number });
        let mut written = Sources(Source::Written { segment, offset });
        for record in records {
            let Record::Entries {
                group,
                first,
                entries,
                ..
            } = record
            else {
                continue;
            };
            let mut group = self.groups.get_mut(group);
            for (&meta, index) in entries.iter().zip(first.index.0..) {
                let (pending, written) = (pending.next(meta), written.next(meta));
                let slot = group
                    .as_mut()
                    .and_then(|group| group.slot_mut(Index(index)));
                if let Some(slot) = slot.filter(|slot| slot.source == pending) {
                    slot.source = written;
                    Live(&mut self.live).add(written);
                }
            }
        }
    }
}

/// What a record changed, as it was before.
#[derive(Debug)]
pub(crate) struct Before {
    id: GroupId,
    existed: bool,
    what: Was,
}

#[derive(Debug)]
enum Was {
    HardState(HardState),
    User(Bytes),
    Cut(WasCut),
    Purged {
        purged: LogId,
        slots: Vec<Slot>,
        runs: VecDeque<Run>,
    },
    Removed(Box<Group>),
}

/// The end of a group's entries.
#[derive(Debug)]
struct WasCut {
    /// How many slots and runs stayed.
    kept: (usize, usize),
    slots: Vec<Slot>,
    runs: Vec<Run>,
}

impl Before {
    /// The payloads from this number on are on disk now: slots that are kept here to be put back learn where.
    pub(crate) fn written(&mut self, number: u64, places: &[Source]) {
        let slots: &mut dyn Iterator<Item = &mut Slot> = match &mut self.what {
            Was::HardState(_) | Was::User(_) => return,
            Was::Cut(WasCut { slots, .. }) | Was::Purged { slots, .. } => &mut slots.iter_mut(),
            Was::Removed(group) => &mut group.slots.iter_mut(),
        };
        for slot in slots {
            let Source::Pending { number: pending } = slot.source else {
                continue;
            };
            let place = pending.checked_sub(number);
            if let Some(place) = place.and_then(|at| places.get(at as usize)) {
                slot.source = *place;
            }
        }
    }
}

/// Counts the slots of each segment.
struct Live<'a>(&'a mut BTreeMap<u64, u64>);

impl Live<'_> {
    fn add(&mut self, source: Source) {
        if let Source::Written { segment, .. } = source {
            *self.0.entry(segment).or_default() += 1;
        }
    }

    fn remove_all<'s>(&mut self, slots: impl IntoIterator<Item = &'s Slot>) {
        for slot in slots {
            let Source::Written { segment, .. } = slot.source else {
                continue;
            };
            if let Some(count) = self.0.get_mut(&segment) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(&segment);
                }
            }
        }
    }
}

impl Group {
    /// The LogId of the last entry; the purge point if there is none.
    pub(crate) fn last(&self) -> LogId {
        let base = self.base();
        let index = Index(base.index.0 + self.slots.len() as u64);
        let term = self.runs.back().map_or(base.term, |run| run.term);
        LogId { term, index }
    }

    /// The last entry that was purged; zero if none was.
    pub(crate) fn purged(&self) -> LogId {
        self.purged
    }

    /// The first slot is that of the entry after this one.
    fn base(&self) -> LogId {
        self.gone.unwrap_or(self.purged)
    }

    /// Whether an entry is there whose term is not known.
    pub(crate) fn is_gone(&self, index: Index) -> bool {
        let is_gone = |gone: LogId| index > self.purged.index && index <= gone.index;
        self.gone.is_some_and(is_gone)
    }

    pub(crate) fn slot(&self, index: Index) -> Option<Slot> {
        self.slots.get(self.position(index)?).copied()
    }

    fn slot_mut(&mut self, index: Index) -> Option<&mut Slot> {
        let at = self.position(index)?;
        self.slots.get_mut(at)
    }

    fn position(&self, index: Index) -> Option<usize> {
        let after_base = index.0.checked_sub(self.base().index.0)?;
        usize::try_from(after_base.checked_sub(1)?).ok()
    }

    /// The id and context of an entry that is there.
    pub(crate) fn id(&self, index: Index) -> Option<(LogId, Context)> {
        self.slot(index)?;
        let after = self.runs.partition_point(|run| run.first <= index);
        let run = self.runs.get(after.checked_sub(1)?)?;
        let id = LogId {
            term: run.term,
            index,
        };
        Some((id, run.context))
    }

    /// The term at `index`, also at the purge point.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.purged.index {
            return Some(self.purged.term);
        }
        self.id(index).map(|(id, _)| id.term)
    }

    /// Cuts off all after `last`, whose term matters if it is gone and becomes the last entry.
    fn cut_after(&mut self, last: Index, term: Option<Term>, live: &mut Live<'_>) -> WasCut {
        let kept = last.0.saturating_sub(self.base().index.0) as usize;
        let kept = kept.min(self.slots.len());
        let slots: Vec<Slot> = self.slots.drain(kept..).collect();
        live.remove_all(&slots);
        let kept_runs = self.runs.partition_point(|run| run.first <= last);
        let runs = self.runs.drain(kept_runs..).collect();
        let gone = self.gone.filter(|_| last > self.purged.index);
        self.gone = gone.map(|gone| match last < gone.index {
            true => LogId {
                term: term.unwrap_or_default(),
                index: last,
            },
            false => gone,
        });
        WasCut {
            kept: (kept, kept_runs),
            slots,
            runs,
        }
    }

    fn uncut(&mut self, cut: WasCut, live: &mut Live<'_>) {
        let (slots, runs) = cut.kept;
        live.remove_all(self.slots.range(slots..));
        self.slots.truncate(slots);
        cut.slots.iter().for_each(|slot| live.add(slot.source));
        self.slots.extend(cut.slots);
        self.runs.truncate(runs);
        self.runs.extend(cut.runs);
    }

    fn begin_run(&mut self, first: LogId, context: Context) {
        let last = self.runs.back().map(|run| (run.term, run.context));
        if last != Some((first.term, context)) {
            self.runs.push_back(Run {
                first: first.index,
                term: first.term,
                context,
            });
        }
    }

    fn purge(&mut self, last: LogId, live: &mut Live<'_>) -> Was {
        let (purged, runs) = (self.purged, self.runs.clone());
        let gone = last.index.0.saturating_sub(self.base().index.0) as usize;
        let slots: Vec<Slot> = self.slots.drain(..gone.min(self.slots.len())).collect();
        live.remove_all(&slots);
        self.purged = last;
        self.gone = self.gone.filter(|gone| gone.index > last.index);
        let first = self.base().index;
        while self
            .runs
            .get(1)
            .is_some_and(|next| next.first.prev() <= first)
        {
            self.runs.pop_front();
        }
        match self.runs.front_mut() {
            _ if self.slots.is_empty() => self.runs.clear(),
            Some(run) => run.first = run.first.max(first.next()),
            None => {}
        }
        Was::Purged {
            purged,
            slots,
            runs,
        }
    }

    /// As it was at the start of the oldest segment: its entries were in segments that are freed.
    fn begin_at(&mut self, purged: LogId, last: LogId) {
        self.purged = purged;
        self.gone = (last.index > purged.index).then_some(last);
    }
}
