//! The names in one simulated directory.
//!
//! Invariants:
//! * `media` with all of `unsynced` done to it, in order, is `cache`.
//! * A file has at most one name, in both: there are no links.

use std::collections::BTreeMap;
use std::io;

use super::Fate;

/// Names a file whatever its name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(pub(super) u64);

/// What has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File(FileId),
    /// Known by its path: directories are neither renamed nor removed, only exchanged.
    Dir,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    cache: BTreeMap<String, Node>,
    media: BTreeMap<String, Node>,
    unsynced: Vec<Change>,
    /// The exchanges that a power cut has lost and that are not yet undone, the newest first.
    undone: Vec<(String, String)>,
    /// How many changes were synced.
    synced: u64,
}

/// One change of names. It is on the media whole or not at all.
#[derive(Debug, Clone)]
enum Change {
    Create(String, Node),
    Rename(String, String, Node),
    Remove(String, Node),
    /// Of two directories, which are known by their paths: what is below them is for the caller to exchange.
    Exchange(String, String),
}

impl Names {
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Node)> {
        self.cache.iter().map(|(name, &node)| (name.as_str(), node))
    }

    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }

    pub(super) fn get(&self, name: &str) -> Option<Node> {
        self.cache.get(name).copied()
    }

    pub(super) fn find(&self, name: &str) -> io::Result<FileId> {
        match self.get(name) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn create(&mut self, name: String, node: Node) {
        self.change(Change::Create(name, node));
    }

    pub(super) fn rename(&mut self, from: String, to: String) -> io::Result<()> {
        let file = self.find(&from)?;
        if self.get(&to) == Some(Node::Dir) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if from != to {
            self.change(Change::Rename(from, to, Node::File(file)));
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, name: String) -> io::Result<()> {
        let file = self.find(&name)?;
        self.change(Change::Remove(name, Node::File(file)));
        Ok(())
    }

    /// Two directories change places, whose own names the caller exchanges.
    pub(super) fn exchange(&mut self, a: String, b: String) {
        self.change(Change::Exchange(a, b));
    }

    pub(super) fn has_undone(&self) -> bool {
        !self.undone.is_empty()
    }

    /// The exchanges that a power cut has lost, in the order in which to undo them.
    pub(super) fn take_undone(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.undone)
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.cache, &change);
        self.unsynced.push(change);
    }

    /// How many changes there were ever: what a sync that begins now makes durable.
    pub(super) fn changes(&self) -> u64 {
        self.synced + self.unsynced.len() as u64
    }

    /// Brings the first so many changes to the media, as far as they are not there.
    pub(super) fn sync(&mut self, changes: u64) {
        let due = changes.saturating_sub(self.synced);
        let due = usize::try_from(due).unwrap_or(usize::MAX);
        for change in self.unsynced.drain(..due.min(self.unsynced.len())) {
            apply(&mut self.media, &change);
            self.synced += 1;
        }
    }

    /// How many changes a power cut keeps or loses, each on its own.
    pub(super) fn units(&self) -> usize {
        self.unsynced.len()
    }

    /// Every file that has a name here, or may have one after a power cut.
    pub(super) fn files(&self) -> impl Iterator<Item = FileId> {
        let changed = self.unsynced.iter().map(|change| match change {
            Change::Create(_, node) | Change::Rename(_, _, node) | Change::Remove(_, node) => *node,
            Change::Exchange(..) => Node::Dir,
        });
        let named = self.cache.values().chain(self.media.values()).copied();
        named.chain(changed).filter_map(|node| match node {
            Node::File(file) => Some(file),
            Node::Dir => None,
        })
    }

    /// A power cut that keeps of each change what `keep` says. `false`: another answer leaves the same.
    pub(super) fn keep(&mut self, mut keep: impl FnMut() -> bool) -> bool {
        let mut distinct = true;
        for change in std::mem::take(&mut self.unsynced) {
            match (keep(), change) {
                (true, change) => distinct &= apply(&mut self.media, &change),
                (false, Change::Exchange(a, b)) => self.undone.insert(0, (a, b)),
                (false, _) => {}
            }
        }
        self.cache = self.media.clone();
        distinct
    }

    /// What is left when the power goes: the media, and of the unsynced changes those that `fate` keeps.
    pub(super) fn power_cut(&mut self, fate: &mut Fate) {
        fate.next_dir(self.unsynced.len());
        let mut number = 0;
        self.keep(|| {
            number += 1;
            fate.name(number - 1)
        });
    }
}

/// Also where an earlier change was lost: a name goes away only if it still names the same file. Whether it makes a
/// difference.
fn apply(names: &mut BTreeMap<String, Node>, change: &Change) -> bool {
    match change {
        Change::Create(name, node) => names.insert(name.clone(), *node) != Some(*node),
        Change::Rename(from, to, node) => {
            if names.get(to) == Some(node) {
                return false;
            }
            match names.get(from) == Some(node) {
                true => drop(names.remove(from)),
                // The rename that gave it that name was lost: it has an earlier one, or none.
                false => names.retain(|_, named| named != node),
            }
            names.insert(to.clone(), *node);
            true
        }
        Change::Remove(name, node) => {
            let gone = names.get(name) == Some(node);
            if gone {
                names.remove(name);
            }
            gone
        }
        // Whoever finds them exchanged finds both.
        Change::Exchange(a, b) => {
            for name in [a, b] {
                names.insert(name.clone(), Node::Dir);
            }
            true
        }
    }
}
