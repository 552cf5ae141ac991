//! How many clients there is room for.
//!
//! Each takes one of the files that the system lets this process have open. The node must never lack one: it could open no segment of its
//! log and no snapshot, and would end.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// So many are served, if there are enough files.
const CLIENTS_MAX: u64 = 10_000;
/// For the log, for snapshots, and for the other nodes; of few files half.
const OWN_FILES: u64 = 512;

/// How many clients may be there at a time. First this process takes as many files as it is allowed without being given more rights.
pub(super) fn for_clients() -> usize {
    let wanted = CLIENTS_MAX + OWN_FILES;
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.map_or(wanted, |most| most.min(wanted));
    let raised = Rlimit {
        current: Some(allowed),
        ..limit
    };
    let files = match limit.current {
        Some(files) if files < allowed => match setrlimit(Resource::Nofile, raised) {
            Ok(()) => allowed,
            Err(_) => files, // Then there are fewer.
        },
        _ => allowed,
    };
    clients_of(files)
}

fn clients_of(files: u64) -> usize {
    let clients = files - OWN_FILES.min(files / 2);
    clients.min(CLIENTS_MAX) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_files_come_first() {
        for (files, clients) in [
            (0, 0),
            (100, 50),
            (1024, 512),
            (4096, 3584),
            (1 << 20, 10_000),
        ] {
            assert_eq!(clients_of(files), clients, "{files}");
        }
    }
}
