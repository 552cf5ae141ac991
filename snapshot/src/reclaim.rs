//! Giving space back: chunks that nothing holds any more.
//!
//! Only files that are no snapshots any more have such chunks. A file in which nothing lives is removed; otherwise holes are
//! made where chunks were; and if it still takes twice what is needed of it, what is needed is written to another file. So
//! all files together take less than twice what is needed and [`SLACK_BYTES`] for each.

use std::ops::Range;
use std::sync::Arc;

use crate::canary::planted;
use crate::container::{Container, Contents};
use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::format::{BLOCK_BYTES, HEADER_BYTES, ROW_BYTES, Row, TRAILER_BYTES, chunk_space};
use crate::names::Role;
use crate::store::{Changes, Store};

/// What a file may take beside twice what is needed of it: a header, a trailer, and what is left of blocks.
const SLACK_BYTES: u64 = 16 << 10;

/// When there are so many files of dropped snapshots, the smaller half of them becomes one.
const MANY_FILES: usize = 32;

/// A file of which something is needed.
struct Worn {
    number: u64,
    container: Arc<Container>,
    live: u64,
    used: u64,
    has_new_dead: bool,
    is_stuck: bool,
}

impl Store {
    /// Gives back what nothing holds any more. The drops that freed it are durable.
    ///
    /// What cannot be given back for want of space is given back another time.
    pub(crate) fn reclaim(&self, changes: &mut Changes) -> Result<()> {
        self.settle_released();
        if self.state().has_unknown() && !planted("unknown_forgotten") {
            return Ok(());
        }
        for worn in self.worn() {
            if worn.live == 0 {
                self.remove(worn.number, &worn.container);
                continue;
            }
            let mut used = worn.used;
            if worn.has_new_dead && !changes.no_holes {
                used = self.make_holes(&worn, changes)?;
            }
            if used > 2 * worn.live + SLACK_BYTES && !worn.is_stuck {
                match self.move_live(std::slice::from_ref(&worn), changes) {
                    Err(Error::Full { .. }) => {}
                    moved => moved?,
                }
            }
        }
        match self.merge_small(changes) {
            Err(Error::Full { .. }) => Ok(()),
            merged => merged,
        }
    }

    /// The same after a step that has happened, whatever becomes of this: what fails leaves space to be given back later, or
    /// has poisoned the store, which the next change tells.
    pub(crate) fn reclaim_or_warn(&self, changes: &mut Changes) {
        if let Err(error) = self.reclaim(changes) {
            tracing::warn!(%error, "space is given back another time");
        }
    }

    /// The files that may have chunks that nothing needs.
    fn worn(&self) -> Vec<Worn> {
        let state = self.state();
        let is_damaged = state.files.values().any(|file| file.is_damaged);
        let lacks_chunks = is_damaged && state.lacks_chunks();
        let files = state
            .files
            .iter()
            .filter(|(_, file)| file.role == Role::Chunks && !(file.is_damaged && lacks_chunks));
        let worn = files.map(|(&number, file)| {
            let live = state.index.live(number);
            Worn {
                number,
                container: file.container.clone(),
                live,
                used: file.used_bytes(),
                has_new_dead: live < file.live_then,
                is_stuck: file.is_stuck,
            }
        });
        worn.collect()
    }

    /// Removes a file in which nothing lives. If it comes back after a crash, the next `open` removes it.
    fn remove(&self, number: u64, container: &Container) {
        match self.disk.remove(&container.path) {
            Ok(()) => drop(self.state().files.remove(&number)),
            Err(error) => {
                tracing::warn!(%error, path = %container.path.display(), "a file without use stays");
            }
        }
    }

    fn look(&self, worn: &Worn) -> Result<Contents> {
        worn.container.look(Role::Chunks, self.options.owner)
    }

    /// The rows of the file whose chunks are needed and lie here, by offset.
    fn live_rows(&self, worn: &Worn, contents: &Contents) -> Vec<Row> {
        let state = self.state();
        let is_live = |row: &&Row| {
            let place = state.index.find(&row.name);
            place.is_some_and(|place| (place.file, place.offset) == (worn.number, row.offset))
        };
        let mut rows: Vec<Row> = contents.rows.iter().filter(is_live).copied().collect();
        rows.sort_unstable_by_key(|row| row.offset);
        rows
    }

    /// Makes holes of all that is not needed. Gives what the file takes then.
    fn make_holes(&self, worn: &Worn, changes: &mut Changes) -> Result<u64> {
        let contents = self.look(worn)?;
        if !contents.bad.is_empty() {
            return Ok(worn.used); // What is found by looking for it is let alone.
        }
        let live = self.live_rows(worn, &contents);
        let mut hole_bytes = 0;
        for hole in holes(&live, &contents) {
            let len = hole.end - hole.start;
            match worn.container.file.punch_hole(hole.start, len) {
                Ok(()) => hole_bytes += len,
                Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
                    changes.no_holes = true;
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, path = %worn.container.path.display(), "cannot give space back");
                    break;
                }
            }
        }
        let mut state = self.state();
        let file = state.files.get_mut(&worn.number);
        Ok(file.map_or(worn.used, |file| {
            file.hole_bytes = hole_bytes;
            file.live_then = worn.live;
            file.used_bytes()
        }))
    }

    /// Writes what is needed of the smallest files together, if there are many: each takes a file handle for as long as
    /// something of it is needed. A chunk is written again once for so many times as many files.
    fn merge_small(&self, changes: &mut Changes) -> Result<()> {
        let mut small = self.worn();
        small.retain(|worn| !worn.is_stuck && worn.live > 0);
        if small.len() < MANY_FILES {
            return Ok(());
        }
        small.sort_by_key(|worn| worn.live);
        small.truncate(MANY_FILES / 2);
        self.move_live(&small, changes)
    }

    /// Writes what is needed of files to another one, and removes them. One of which something is damaged stays.
    fn move_live(&self, worn: &[Worn], changes: &mut Changes) -> Result<()> {
        changes.drafts += 1;
        let owner = self.options.owner;
        let mut draft = Draft::create(&self.disk, &self.dir, changes.drafts, owner)?;
        let mut moved = Vec::new();
        for worn in worn {
            if self.copy_live(worn, &mut draft)? {
                moved.push(worn);
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        draft.end_file()?;
        self.publish(changes, &mut draft, Role::Chunks, None)?;
        for worn in moved {
            self.remove(worn.number, &worn.container);
        }
        Ok(())
    }

    /// Says whether all that is needed of a file could be copied.
    fn copy_live(&self, worn: &Worn, draft: &mut Draft) -> Result<bool> {
        let contents = self.look(worn)?;
        let rows = self.live_rows(worn, &contents);
        let found: u64 = rows.iter().map(|row| chunk_space(row.bytes)).sum();
        if found != worn.live {
            self.let_alone(worn, "a chunk is not found any more");
            return Ok(false);
        }
        for row in &rows {
            match worn.container.chunk(row) {
                Ok(bytes) => drop(draft.put_chunk(row.name, &bytes)?),
                Err(reason) => {
                    self.let_alone(worn, &format!("chunk {}: {reason}", row.name));
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// A file with a damaged chunk stays until that is repaired, or not needed any more: removed, it could not be named.
    fn let_alone(&self, worn: &Worn, reason: &str) {
        let path = worn.container.path.display();
        tracing::warn!(%path, reason, "a file with a damaged chunk stays");
        if let Some(file) = self.state().files.get_mut(&worn.number) {
            file.is_stuck = true;
        }
    }
}

/// The whole blocks between live chunks, header and table: what is needed is never written again.
fn holes(live: &[Row], contents: &Contents) -> Vec<Range<u64>> {
    let table =
        contents.file_bytes - TRAILER_BYTES as u64 - contents.rows.len() as u64 * ROW_BYTES as u64;
    let mut holes = Vec::new();
    let mut from = HEADER_BYTES as u64;
    let kept = live.iter().map(|row| (row.offset, row.end()));
    for (start, end) in kept.chain([(table, table)]) {
        let hole = from.next_multiple_of(BLOCK_BYTES)..start / BLOCK_BYTES * BLOCK_BYTES;
        if hole.start < hole.end {
            holes.push(hole);
        }
        from = end;
    }
    holes
}
