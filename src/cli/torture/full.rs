//! A full disk: no fault of what is tortured, and no loss. It ends the torture with an error; nothing is counted.

use std::error::Error;
use std::io;

use duramen::{snapshot, wal};

/// There was no space.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "the disk is full: free some space, or name a directory on another disk with --dir. It was: {0}"
)]
pub(super) struct DiskFull(pub(super) String);

impl DiskFull {
    /// What is to be said of an error, if it says that there was no space.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Option<DiskFull> {
        let is_full = if let Some(error) = error.downcast_ref() {
            log_is_full(error)
        } else if let Some(error) = error.downcast_ref() {
            store_is_full(error)
        } else if let Some(error) = error.downcast_ref::<io::Error>() {
            has_no_space(error)
        } else {
            error.is::<DiskFull>()
        };
        is_full.then(|| match error.downcast_ref::<DiskFull>() {
            Some(full) => full.clone(),
            None => DiskFull(error.to_string()),
        })
    }

    /// That, or an error that says something else.
    pub(super) fn or(
        error: &(dyn Error + 'static),
        otherwise: impl FnOnce() -> String,
    ) -> Box<dyn Error + Send + Sync> {
        match DiskFull::of(error) {
            Some(full) => full.into(),
            None => otherwise().into(),
        }
    }
}

fn log_is_full(error: &wal::Error) -> bool {
    match error {
        wal::Error::Full { .. } => true,
        wal::Error::Io { source, .. } => has_no_space(source),
        wal::Error::Poisoned { cause } => log_is_full(cause),
        _ => false,
    }
}

fn store_is_full(error: &snapshot::Error) -> bool {
    match error {
        snapshot::Error::Full { .. } => true,
        snapshot::Error::Poisoned { cause } => store_is_full(cause),
        _ => false,
    }
}

fn has_no_space(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;

    fn is_full(error: impl Error + 'static) -> bool {
        DiskFull::of(&error).is_some()
    }

    /// From a sync, which may be the first to be told.
    fn failed_sync(kind: io::ErrorKind) -> wal::Error {
        let cause = Arc::new(wal::Error::Io {
            op: "sync",
            path: PathBuf::new(),
            source: Arc::new(kind.into()),
        });
        wal::Error::Poisoned { cause }
    }

    #[test]
    fn only_what_says_that_there_is_no_space_is_a_full_disk() {
        let path = PathBuf::new();
        assert!(is_full(wal::Error::Full { path: path.clone() }));
        assert!(is_full(failed_sync(io::ErrorKind::StorageFull)));
        assert!(is_full(failed_sync(io::ErrorKind::QuotaExceeded)));
        assert!(!is_full(failed_sync(io::ErrorKind::Other)));
        assert!(!is_full(wal::Error::NotALog { path: path.clone() }));
        let full = || snapshot::Error::Full { path: path.clone() };
        let cause = Arc::new(full());
        assert!(is_full(full()) && is_full(io::Error::from(full())));
        assert!(is_full(snapshot::Error::Poisoned { cause }));
        assert!(!is_full(snapshot::Error::NotAStore { path: path.clone() }));
        assert!(!is_full(io::Error::other("no space left")));
    }

    #[test]
    fn it_is_said_once() {
        let first = DiskFull("a".to_owned());
        let again = DiskFull::of(&first).unwrap();
        assert_eq!(again.to_string(), first.to_string());
    }
}
