//! Where an enumeration begins: what [`every_crash`](crate::every_crash()) and [`every_error`](crate::every_error()) share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::id::{CrashId, CrashPoint, CrashState};
use crate::{Op, SimDisk};

const ENVIRONMENT: &str = "DURAMEN_CRASH";

/// A disk of which each run gets a fork, and which of the runs are wanted.
pub(crate) struct Start {
    disk: SimDisk,
    /// The state in which it is, if it is one of an enumeration.
    within: CrashId,
    pub(crate) only: Option<CrashId>,
}

impl Start {
    pub(crate) fn of(disk: &SimDisk) -> Start {
        let only = std::env::var(ENVIRONMENT).ok().map(|id| {
            let id = id.parse();
            id.unwrap_or_else(|error| panic!("{ENVIRONMENT}: {error}"))
        });
        Start {
            disk: disk.fork(),
            within: CrashId::default(),
            only,
        }
    }

    pub(crate) fn fork(&self) -> SimDisk {
        self.disk.fork()
    }

    /// The one run that is wanted, if it is one alone.
    pub(crate) fn only_step(&self) -> Option<(CrashPoint, CrashState)> {
        self.only.as_ref()?.step(self.within.depth())
    }

    pub(crate) fn found(&self, point: CrashPoint, state: CrashState) -> Found {
        Found {
            id: self.within.and(point, state),
            only: self.only.clone().map(Arc::new),
        }
    }
}

/// What leads to a state and on from it.
pub(crate) struct Found {
    pub(crate) id: CrashId,
    only: Option<Arc<CrashId>>,
}

impl Found {
    /// For an enumeration that begins in this state.
    pub(crate) fn start(&self, disk: &SimDisk) -> Start {
        Start {
            disk: disk.fork(),
            within: self.id.clone(),
            only: self.only.as_deref().cloned(),
        }
    }

    /// Whoever finds a state wrong is told how to see it again.
    pub(crate) fn tell_if_panicking(&self, what: &str, at: Option<&(Op, Arc<Path>)>) {
        if std::thread::panicking() {
            let at = match at {
                Some((op, path)) => format!("in {op:?} of {}", path.display()),
                None => "after the last operation".to_owned(),
            };
            eprintln!("{what} {at}; to see it again: {ENVIRONMENT}={}", self.id);
        }
    }
}

pub(crate) fn shared((op, path): (Op, PathBuf)) -> (Op, Arc<Path>) {
    (op, path.into())
}
