//! Where scans go on: a client keeps a number, and this node the key.
//!
//! A number that another node gave, or this one before it was started again, is not known: taken for another scan's, it would have keys
//! passed over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// The scans that are under way. The one that went on longest ago is forgotten first.
#[derive(Debug, Clone, Default)]
pub(super) struct Cursors(Arc<Mutex<Known>>);

#[derive(Debug)]
struct Known {
    latest: u64,
    keys: BTreeMap<u64, Bytes>,
}

const CURSORS_MAX: usize = 1024;
/// The first number of a node is drawn below this. Some clients keep numbers of 53 bits.
const FIRST_MAX: u64 = 1 << 52;

impl Default for Known {
    fn default() -> Known {
        Known {
            latest: fastrand::u64(..FIRST_MAX),
            keys: BTreeMap::new(),
        }
    }
}

impl Cursors {
    /// A number for a scan that goes on after a key. Never zero.
    pub(super) fn keep(&self, after: Bytes) -> u64 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.latest += 1;
        let latest = known.latest;
        known.keys.insert(latest, after);
        if known.keys.len() > CURSORS_MAX {
            known.keys.pop_first();
        }
        latest
    }

    /// Where to go on. A client may ask twice.
    pub(super) fn find(&self, cursor: u64) -> Option<Bytes> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.keys.get(&cursor).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_cursors_are_known() {
        let cursors = Cursors::default();
        let first = cursors.keep("first".into());
        assert_eq!(cursors.find(first).unwrap(), "first");
        for _ in 0..CURSORS_MAX {
            cursors.keep("more".into());
        }
        assert_eq!(cursors.find(first), None);
        assert_eq!(cursors.find(0), None);
    }

    #[test]
    fn what_another_node_gave_is_not_known() {
        let (cursors, other) = (Cursors::default(), Cursors::default());
        for _ in 0..100 {
            let cursor = cursors.keep("here".into());
            other.keep("there".into());
            assert_eq!(other.find(cursor), None);
        }
    }
}
