//! Lab 3B: the same with snapshots. A log has 8,000 bytes at the most.

use super::generic::{GENERIC, Generic};
use super::lab::{ELECTION_TIMEOUT, Lab, Setup, each_seed};
use super::service::appends;

const SNAPSHOTS: Setup = Setup {
    has_snapshots: true,
    ..GENERIC.setup
};

const UNRELIABLE: Setup = Setup {
    is_unreliable: true,
    ..SNAPSHOTS
};

const THREE: Setup = Setup {
    servers: 3,
    ..SNAPSHOTS
};

/// A server that was away is sent a snapshot, and leads a majority with it.
#[test]
fn snapshot_rpc() {
    let seen = each_seed(|seed| {
        let mut lab = Lab::new(seed, THREE);
        let mut clerk = lab.clerk();
        lab.put(&mut clerk, "a", "A");
        lab.check(&mut clerk, "a", "A");

        lab.partition(&[vec![0, 1], vec![2]]);
        let mut first = lab.clerk_of(&[0, 1]);
        for number in 0..50 {
            lab.put(&mut first, &number.to_string(), &number.to_string());
        }
        lab.pass(ELECTION_TIMEOUT);
        lab.put(&mut first, "b", "B");
        lab.check_log_bytes();

        // Now the one that was away is needed for a majority.
        lab.partition(&[vec![0, 2], vec![1]]);
        let mut second = lab.clerk_of(&[0, 2]);
        lab.put(&mut second, "c", "C");
        lab.put(&mut second, "d", "D");
        for (key, value) in [("a", "A"), ("b", "B"), ("1", "1"), ("49", "49")] {
            lab.check(&mut second, key, value);
        }

        lab.partition(&[vec![0, 1, 2]]);
        lab.put(&mut clerk, "e", "E");
        for (key, value) in [("c", "C"), ("e", "E"), ("1", "1")] {
            lab.check(&mut clerk, key, value);
        }
        let seen = lab.seen();
        assert!(seen.installs > 0, "{seen}");
        [clerk, first, second]
            .into_iter()
            .for_each(|clerk| lab.dismiss(clerk));
        lab.seen()
    });
    assert!(seen.snapshots > 0);
}

/// Snapshots are as large as what they hold, sessions included, however much was written.
#[test]
fn snapshot_size() {
    const SNAPSHOT_BYTES_MAX: u64 = 500;
    let seen = each_seed(|seed| {
        let mut lab = Lab::new(seed, THREE);
        let mut clerk = lab.clerk();
        for _ in 0..200 {
            lab.put(&mut clerk, "x", "0");
            lab.check(&mut clerk, "x", "0");
            lab.put(&mut clerk, "x", "1");
            lab.check(&mut clerk, "x", "1");
        }
        lab.check_log_bytes();
        let bytes = lab.snapshot_bytes();
        assert!((1..=SNAPSHOT_BYTES_MAX).contains(&bytes), "{bytes} bytes");
        lab.dismiss(clerk);
        lab.seen()
    });
    assert!(seen.snapshots > 100, "{seen}");
}

#[test]
fn speed_with_snapshots() {
    let seen = each_seed(|seed| appends(Lab::new(seed, THREE)));
    assert!(seen.snapshots > 100, "{seen}");
}

#[test]
fn snapshot_recover() {
    Generic {
        setup: SNAPSHOTS,
        crashes: true,
        ..GENERIC
    }
    .run();
}

#[test]
fn snapshot_recover_many_clients() {
    Generic {
        clients: 20,
        setup: SNAPSHOTS,
        crashes: true,
        ..GENERIC
    }
    .run();
}

#[test]
fn snapshot_unreliable() {
    Generic {
        clients: 5,
        setup: UNRELIABLE,
        ..GENERIC
    }
    .run();
}

#[test]
fn snapshot_unreliable_recover() {
    Generic {
        clients: 5,
        setup: UNRELIABLE,
        crashes: true,
        ..GENERIC
    }
    .run();
}

#[test]
fn snapshot_unreliable_recover_concurrent_partition() {
    Generic {
        clients: 5,
        setup: UNRELIABLE,
        is_partitioned: true,
        crashes: true,
        ..GENERIC
    }
    .run();
}

#[test]
fn snapshot_unreliable_recover_concurrent_partition_linearizable() {
    Generic {
        clients: 15,
        setup: Setup {
            servers: 7,
            ..UNRELIABLE
        },
        is_partitioned: true,
        crashes: true,
        has_shared_keys: true,
    }
    .run();
}
