//! Reading, from any number of threads while writes go on.
//!
//! What to read is looked up under the lock; the disk is read without it. A segment that is freed meanwhile stays readable
//! for whoever holds it.

use std::io::ErrorKind;
use std::ops::Range;

use bytes::Bytes;

use crate::Wal;
use crate::error::{Damage, Error, Result};
use crate::pipeline::Shared;
use crate::plan::{DiskPiece, Piece, Pieces};
use crate::record::entry_checksum;
use crate::rows::Row;
use crate::segment::Segment;
use crate::types::{Entry, GroupId, HardState, Index, LogId, Term};

/// Reads answer for what was submitted, durable or not; after a failure, for what is durable.
impl Wal {
    /// The groups that the log holds, in ascending order.
    pub fn groups(&self) -> Vec<GroupId> {
        let mut groups: Vec<GroupId> =
            self.shared(|shared| shared.groups.iter().map(|(id, _)| id).collect());
        groups.sort_unstable();
        groups
    }

    /// A group's term and vote. Term 0 and no vote for a group that was never written to.
    pub fn hard_state(&self, group: GroupId) -> HardState {
        self.shared(|shared| {
            let found = shared.groups.find(group);
            found.map_or(HardState::default(), |group| group.hard_state)
        })
    }

    /// A group's user record; empty if it has none.
    pub fn user_record(&self, group: GroupId) -> Bytes {
        self.shared(|shared| {
            let found = shared.groups.find(group);
            found.map_or(Bytes::new(), |group| group.user_record.clone())
        })
    }

    /// The LogId of a group's last entry; the last one that was purged if it has none, zero if it never had any.
    pub fn last(&self, group: GroupId) -> LogId {
        self.shared(|shared| {
            shared
                .groups
                .find(group)
                .map_or(LogId::default(), |group| group.last())
        })
    }

    /// The LogId up to which a group's log, as readers see it, is durable. It goes back when entries are replaced. While a
    /// purge past the end is on its way to the disk, it stays where it was: then it is below [`purged`](Wal::purged).
    pub fn durable(&self, group: GroupId) -> LogId {
        self.shared(|shared| shared.durable_of(group))
    }

    /// The last entry that was purged; zero if none was. The group's entries begin right after it.
    pub fn purged(&self, group: GroupId) -> LogId {
        self.shared(|shared| {
            let found = shared.groups.find(group);
            found.map_or(LogId::default(), |group| group.purged)
        })
    }

    /// The first entry of a group that is suspect, if one is: see [`Options::keep_suspects`](crate::Options::keep_suspects).
    ///
    /// ```
    /// # use duramen_wal::{Batch, GroupId, Options, Wal};
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path().join("log");
    /// # Wal::create(&dir, Options::default())?.close()?;
    /// let mut options = Options::default();
    /// options.keep_suspects = true;
    /// let wal = Wal::open(&dir, options)?;
    /// for group in wal.groups() {
    ///     if let Some(first) = wal.suspect(group) {
    ///         // A peer has it: `wal.repair(group, entry)?`. Nobody has it, and a majority says so:
    ///         let mut batch = Batch::new();
    ///         batch.truncate(group, first.prev());
    ///         wal.write(batch)?;
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn suspect(&self, group: GroupId) -> Option<Index> {
        self.shared(|shared| shared.groups.find(group)?.first_suspect())
    }

    /// The term of an entry, if it is there. `None` at the purge point: [`purged`](Wal::purged) knows that one.
    pub fn term(&self, group: GroupId, index: Index) -> Option<Term> {
        self.shared(|shared| Some(shared.groups.find(group)?.find(index)?.term))
    }

    /// Reads the entries of `range`, up to `bytes_max` bytes of payload, but at least one if the range is not empty.
    ///
    /// Each is checked against its checksum, unless it is still in memory. An empty range has no entries, also of a group
    /// that does not exist. The range must be in the log as far as the bytes go; what was purged meanwhile is not there:
    /// look at [`purged`](Wal::purged). A damaged entry fails the call: what is before it can be read with a range that ends
    /// there.
    ///
    /// ```
    /// # use duramen_wal::{Batch, Entry, GroupId, Index, LogId, Options, Term, Wal};
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = Wal::create(dir.path().join("log"), Options::default())?;
    /// # let group = GroupId(1);
    /// # let mut batch = Batch::new();
    /// # for index in (1..=10).map(Index) {
    /// #     let id = LogId { term: Term(1), index };
    /// #     batch.append(group, [Entry { id, payload: vec![7; 1000].into(), ..Entry::default() }]);
    /// # }
    /// # wal.write(batch)?;
    /// let mut next = wal.purged(group).index.next();
    /// let end = wal.last(group).index.next();
    /// while next < end {
    ///     let entries = wal.entries(group, next..end, 4096)?; // a piece for the network
    ///     assert!(!entries.is_empty());
    ///     next = Index(next.0 + entries.len() as u64);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Misuse`] if the range is not in the log, [`Error::DamagedEntry`], [`Error::Suspect`], [`Error::Io`];
    /// [`Error::DamagedDirectory`] if all copies of what says where it is are damaged.
    pub fn entries(
        &self,
        group: GroupId,
        range: Range<Index>,
        bytes_max: u64,
    ) -> Result<Vec<Entry>> {
        let core = &self.handle.core;
        let plan = core.plan(group, range, bytes_max)?;
        let read = read(group, plan, core.pipeline.may_map());
        if let Err(Error::DamagedEntry { .. }) = read {
            core.pipeline.shared().counts.damage_found += 1;
        }
        read
    }

    fn shared<T>(&self, look: impl FnOnce(&Shared) -> T) -> T {
        look(&self.handle.core.pipeline.shared())
    }
}

/// Contiguous payloads are read together, up to so many bytes.
const READ_BYTES: u64 = 1 << 20;

/// Reads what was planned.
fn read(group: GroupId, plan: Pieces, may_map: bool) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for piece in plan {
        match piece {
            Piece::Memory(entry) => entries.push(entry),
            Piece::Disk(piece) => {
                entries.reserve(piece.rows.len());
                let mut from = 0;
                while from < piece.rows.len() {
                    let to = from + contiguous(&piece.rows[from..]);
                    read_rows(group, &piece, from..to, may_map, &mut entries)?;
                    from = to;
                }
            }
        }
    }
    Ok(entries)
}

/// How many of the first entries lie one after the other, and are read together.
fn contiguous(rows: &[Row]) -> usize {
    let mut bytes = 0;
    let mut end = None;
    let joins = |row: &&Row| {
        let len = u64::from(row.meta.payload_bytes);
        let fits = end.is_none_or(|end| row.offset() == Some(end) && bytes + len <= READ_BYTES);
        bytes += len;
        end = row.offset().map(|offset| offset + len);
        fits
    };
    rows.iter().take_while(joins).count().max(1)
}

/// Reads entries that lie one after the other.
fn read_rows(
    group: GroupId,
    piece: &DiskPiece,
    range: Range<usize>,
    may_map: bool,
    entries: &mut Vec<Entry>,
) -> Result<()> {
    let from = range.start;
    let Some(offset) = piece.rows[from].offset() else {
        return Err(piece.damaged(group, from, Damage::Lost));
    };
    let rows = &piece.rows[range];
    let bytes: u64 = rows
        .iter()
        .map(|row| u64::from(row.meta.payload_bytes))
        .sum();
    if offset + bytes > piece.segment.header.file_bytes {
        return Err(piece.damaged(group, from, Damage::Content));
    }
    let mapped = match may_map && piece.is_sealed {
        true => Segment::map_bytes(&piece.segment, offset, bytes),
        false => None,
    };
    let mut payloads = match mapped {
        Some(mapped) => mapped,
        None => {
            let mut buf = vec![0; bytes as usize];
            let read = piece.segment.file.read_exact_at(&mut buf, offset);
            read.map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => piece.damaged(group, from, Damage::Short),
                _ => Error::io("read", &piece.segment.path)(error),
            })?;
            Bytes::from(buf)
        }
    };
    for (row, at) in rows.iter().zip(from..) {
        let payload = payloads.split_to(row.meta.payload_bytes as usize);
        let id = piece.id(at);
        if entry_checksum(group, id, &payload) != row.meta.checksum {
            return Err(piece.damaged(group, at, Damage::Checksum));
        }
        entries.push(Entry {
            id,
            context: piece.context,
            payload,
        });
    }
    Ok(())
}
