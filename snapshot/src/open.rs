//! Opening a store: which files are there, and what they say.
//!
//! Nothing is changed but for leftovers: files that never got their name, and chunks that nothing needs; and what has arrived
//! of an install is written again, as it is. As long as a
//! snapshot's manifest cannot be read, nobody knows what it needs, and nothing is given back. As long as a snapshot lacks
//! chunks, no damaged file is: they may lie in it.

use std::collections::{BTreeSet, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use duramen_disk::{Disk, LOCK_FILE, LockMode};

use crate::canary::planted;
use crate::chunk::ChunkName;
use crate::container::{self, BadFile, Contents};
use crate::draft::Draft;
use crate::error::{Error, Result};
use crate::format::{BLOCK_BYTES, HEADER_BYTES};
use crate::index::Place;
use crate::install::Arriving;
use crate::manifest::Manifest;
use crate::names::Role;
use crate::store::{File, State, Store};
use crate::{Options, SnapshotId};

/// What was found when a store was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenReport {
    /// Files that were not whole when a process ended, and were removed.
    pub leftovers: Vec<PathBuf>,
    /// What is damaged, apart from the bytes of chunks, which are not looked at. A snapshot whose manifest is damaged is not
    /// listed; as long as its file is there no space is given back:
    /// [`SnapshotStore::drop_older`](crate::SnapshotStore::drop_older) drops it.
    pub damaged: Vec<BadFile>,
    /// Snapshots that need chunks that no file holds, and how many.
    pub incomplete: Vec<(SnapshotId, usize)>,
    /// Files that are no part of a store. They are let alone.
    pub strangers: Vec<PathBuf>,
}

/// The files of a directory by name.
#[derive(Default)]
struct Names {
    files: Vec<(u64, Role)>,
    temporary: Vec<u64>,
    strangers: Vec<PathBuf>,
}

impl Names {
    fn list(disk: &dyn Disk, dir: &Path) -> Result<Names> {
        let mut names = Names::default();
        for name in disk.list(dir).map_err(Error::io("list", dir))? {
            match Role::parse(&name) {
                Some((number, Role::Temporary)) => names.temporary.push(number),
                Some(file) => names.files.push(file),
                None if name == LOCK_FILE => {}
                None => names.strangers.push(dir.join(name)),
            }
        }
        names.files.sort_unstable();
        let mut numbers = BTreeSet::new();
        match names
            .files
            .iter()
            .find(|(number, _)| !numbers.insert(*number))
        {
            None => Ok(names),
            Some(&(number, role)) => Err(Error::Doubled {
                path: role.path(dir, number),
            }),
        }
    }
}

/// Opens a store, or makes one in an empty directory.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: Options,
    mode: LockMode,
) -> Result<(Store, OpenReport)> {
    let may_change = mode == LockMode::Exclusive;
    match may_change {
        true => disk.create_dir_all(dir).map_err(Error::io("create", dir))?,
        false => must_be_a_store(&*disk, dir)?,
    }
    let lock = disk.lock(dir, mode).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => Error::Locked {
            path: dir.to_owned(),
        },
        _ => Error::io("lock", dir)(error),
    })?;
    let names = Names::list(&*disk, dir)?;
    let mut found = Found {
        report: OpenReport {
            strangers: names.strangers,
            ..OpenReport::default()
        },
        ..Found::default()
    };
    for (number, role) in names.files {
        let path = role.path(dir, number);
        let container = container::open(&*disk, &path, may_change)?;
        let mut contents = container.look(role, options.owner)?;
        if role == Role::Install {
            container.settle_arrived(&mut contents, may_change)?;
        }
        found.add(
            number,
            File::new(container, role, contents.file_bytes),
            contents,
            &options,
        );
    }
    found.find_places();
    let Found {
        state,
        mut report,
        useless,
        ..
    } = found;
    if may_change {
        let temporary = names.temporary.into_iter();
        let temporary = temporary.map(|number| Role::Temporary.path(dir, number));
        for path in temporary.chain(useless) {
            disk.remove(&path).map_err(Error::io("remove", &path))?;
            report.leftovers.push(path);
        }
        // What the directory said may have been in the cache alone, and from here on is relied on.
        disk.sync_dir(dir).map_err(Error::io("sync", dir))?;
    }
    let store = Store::new(disk, dir, options, may_change, state, lock);
    Ok((store, report))
}

/// Before it is locked, which could leave a file in a directory that is no store. An empty store has its lock alone.
fn must_be_a_store(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let names = match disk.list(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        names => names.map_err(Error::io("list", dir))?,
    };
    let is_store = names == [LOCK_FILE] || names.iter().any(|name| Role::parse(name).is_some());
    match is_store {
        true => Ok(()),
        false => Err(Error::NotAStore {
            path: dir.to_owned(),
        }),
    }
}

#[derive(Default)]
struct Found {
    state: State,
    report: OpenReport,
    /// The chunks of each file.
    places: Vec<(u64, Contents)>,
    /// Installs whose manifest cannot be read. A snapshot may need what has arrived of them.
    headless: Vec<u64>,
    /// Those of which nobody needs anything.
    useless: Vec<PathBuf>,
}

impl Found {
    fn add(&mut self, number: u64, mut file: File, contents: Contents, options: &Options) {
        file.is_damaged = !contents.bad.is_empty() || contents.unreadable > 0;
        let State {
            index,
            snapshots,
            installs,
            next,
            files,
            ..
        } = &mut self.state;
        *next = (*next).max(number + 1);
        if file.role == Role::Install && contents.manifest.is_none() {
            self.headless.push(number);
        }
        self.report.damaged.extend(contents.bad.iter().cloned());
        if let Some(manifest) = &contents.manifest {
            if file.role != Role::Install || !planted("install_holds_nothing") {
                index.hold_all(manifest);
            }
            match file.role {
                Role::Install => {
                    let (block, after) = contents.block.unwrap_or((HEADER_BYTES as u64, 0));
                    let end = contents.rows.last().map_or(after, |row| row.end());
                    let end = end.max(contents.unreadable.next_multiple_of(BLOCK_BYTES));
                    let draft = Draft::resume(
                        &file.container,
                        options.owner,
                        contents.rows.clone(),
                        block,
                        end,
                    );
                    installs.insert(number, Arriving::new(manifest.clone(), draft));
                }
                _ => drop(snapshots.insert(number, manifest.clone())),
            }
        }
        files.insert(number, file);
        self.places.push((number, contents));
    }

    /// All that holds chunks is known now: finds them.
    fn find_places(&mut self) {
        let State { index, .. } = &mut self.state;
        for (number, contents) in self.places.drain(..) {
            for row in contents.rows {
                let place = Place {
                    file: number,
                    offset: row.offset,
                    bytes: row.bytes,
                };
                index.put(&row.name, place);
            }
        }
        self.lose_holes();
        // What cannot be read of an install may be what a snapshot needs.
        let is_asked_for = self.state.has_unknown() || self.state.lacks_chunks();
        let State {
            index,
            snapshots,
            files,
            ..
        } = &mut self.state;
        for number in &self.headless {
            if index.live(*number) == 0
                && !is_asked_for
                && let Some(file) = files.remove(number)
            {
                let path = file.container.path.clone();
                self.report.damaged.retain(|bad| bad.path != path);
                self.useless.push(path);
            }
        }
        for (number, manifest) in snapshots.iter() {
            let missing = index.missing(manifest).len();
            if missing > 0 {
                self.report.incomplete.push((SnapshotId(*number), missing));
            }
        }
    }

    /// An install may need a chunk that nothing needed when it was begun, and that a hole was made of: it is to be fetched. So
    /// what an install alone needs of older files is read.
    fn lose_holes(&mut self) {
        let State {
            index,
            snapshots,
            installs,
            files,
            ..
        } = &mut self.state;
        if installs.is_empty() {
            return;
        }
        let names = |manifest: &Manifest| -> HashSet<ChunkName> {
            manifest.chunks().iter().map(|chunk| chunk.name).collect()
        };
        let kept: HashSet<ChunkName> = snapshots.values().flat_map(names).collect();
        let arriving = installs.values().map(|arriving| &arriving.manifest);
        let needed: HashSet<ChunkName> = arriving.flat_map(names).collect();
        for name in needed.difference(&kept) {
            let place = index.find(name);
            let Some((place, file)) =
                place.and_then(|place| Some((place, files.get(&place.file)?)))
            else {
                continue;
            };
            if file.role == Role::Chunks && file.container.chunk(&place.row(*name)).is_err() {
                index.lose(name);
            }
        }
    }
}
