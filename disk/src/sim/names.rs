//! The names in one simulated directory.
//!
//! Invariant: `media` with all of `unsynced` done to it, in order, is `cache`.

use std::collections::BTreeMap;
use std::io;

use super::Fate;

/// Names a file whatever its name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(pub(super) u64);

#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    cache: BTreeMap<String, FileId>,
    media: BTreeMap<String, FileId>,
    unsynced: Vec<Change>,
}

/// One change of names. It is on the media whole or not at all.
#[derive(Debug, Clone)]
enum Change {
    Create(String, FileId),
    Rename(String, String, FileId),
    Remove(String, FileId),
}

impl Names {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, FileId)> {
        self.cache.iter().map(|(name, &file)| (name.as_str(), file))
    }

    pub(super) fn find(&self, name: &str) -> io::Result<FileId> {
        let file = self.cache.get(name).copied();
        file.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn create(&mut self, name: String, file: FileId) {
        self.change(Change::Create(name, file));
    }

    pub(super) fn rename(&mut self, from: String, to: String) -> io::Result<()> {
        let file = self.find(&from)?;
        self.change(Change::Rename(from, to, file));
        Ok(())
    }

    pub(super) fn remove(&mut self, name: String) -> io::Result<()> {
        let file = self.find(&name)?;
        self.change(Change::Remove(name, file));
        Ok(())
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.cache, &change);
        self.unsynced.push(change);
    }

    pub(super) fn sync(&mut self) {
        self.media = self.cache.clone();
        self.unsynced.clear();
    }

    /// What is left when the power goes: the media, and of the unsynced changes those that `fate` keeps.
    pub(super) fn power_cut(&mut self, fate: &mut Fate) {
        fate.next_dir(self.unsynced.len());
        for (n, change) in self.unsynced.iter().enumerate() {
            if fate.name(n) {
                apply(&mut self.media, change);
            }
        }
        self.cache = self.media.clone();
        self.unsynced.clear();
    }
}

/// Also where an earlier change was lost: a name goes away only if it still names the same file.
fn apply(names: &mut BTreeMap<String, FileId>, change: &Change) {
    match change {
        Change::Create(name, file) => {
            names.insert(name.clone(), *file);
        }
        Change::Rename(from, to, file) => {
            if names.get(from) == Some(file) {
                names.remove(from);
            }
            names.insert(to.clone(), *file);
        }
        Change::Remove(name, file) => {
            if names.get(name) == Some(file) {
                names.remove(name);
            }
        }
    }
}
