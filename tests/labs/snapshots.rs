//! Lab 2D: log compaction, with a snapshot every ten commands.

use super::lab::{ELECTION_TIMEOUT, Lab, UNRELIABLE, each_seed};

const INTERVAL: usize = 10;
const LOG_BYTES_MAX: u64 = 2000;

#[derive(PartialEq)]
enum Away {
    Nobody,
    Disconnected,
    Crashed,
}

#[test]
fn snapshot_basic() {
    each_seed(|seed| {
        let lab = take_snapshots(seed, Away::Nobody, true);
        assert_eq!(lab.traffic().offers, 0, "everybody was there");
    });
}

#[test]
fn snapshot_install() {
    each_seed(|seed| {
        let lab = take_snapshots(seed, Away::Disconnected, true);
        assert!(lab.traffic().offers > 0);
    });
}

#[test]
fn snapshot_install_unreliable() {
    each_seed(|seed| {
        let lab = take_snapshots(seed, Away::Disconnected, false);
        assert!(lab.traffic().offers > 0);
    });
}

#[test]
fn snapshot_install_crash() {
    each_seed(|seed| {
        let lab = take_snapshots(seed, Away::Crashed, true);
        assert!(lab.traffic().offers > 0);
    });
}

#[test]
fn snapshot_install_un_crash() {
    each_seed(|seed| {
        let lab = take_snapshots(seed, Away::Crashed, false);
        assert!(lab.traffic().offers > 0);
    });
}

fn take_snapshots(seed: u64, away: Away, is_reliable: bool) -> Lab {
    let mut lab = Lab::with_snapshots(seed, 3);
    if !is_reliable {
        lab.world.set_faults(UNRELIABLE);
    }
    lab.agree(3);
    let mut leader = lab.check_one_leader();
    for iteration in 0..30 {
        let (mut victim, mut sender) = (lab.after(leader, 1), leader);
        if iteration % 3 == 1 {
            (victim, sender) = (sender, victim);
        }
        match away {
            Away::Nobody => {}
            Away::Disconnected => lab.disconnect(victim),
            Away::Crashed => lab.crash(victim),
        }
        // Who is away for less than an election timeout is waited for, and needs no snapshot.
        if away != Away::Nobody {
            lab.pass(ELECTION_TIMEOUT);
        }
        let present = if away == Away::Nobody { 3 } else { 2 };
        lab.agree(present);
        for _ in 0..INTERVAL / 2 + lab.rng.usize(..INTERVAL) {
            let command = lab.command();
            lab.propose(sender, &command);
        }
        lab.agree(present);
        lab.pass_millis(100); // A snapshot takes a while.
        assert!(
            lab.log_bytes() < LOG_BYTES_MAX,
            "{} bytes of log",
            lab.log_bytes()
        );
        match away {
            Away::Nobody => {}
            Away::Disconnected => lab.connect(victim),
            Away::Crashed => lab.start(victim),
        }
        if away != Away::Nobody {
            lab.agree(3);
            leader = lab.check_one_leader();
        }
    }
    lab
}

#[test]
fn snapshot_all_crash() {
    each_seed(|seed| {
        let mut lab = Lab::with_snapshots(seed, 3);
        lab.agree(3);
        for _ in 0..5 {
            for _ in 0..INTERVAL / 2 + lab.rng.usize(..INTERVAL) {
                lab.agree(3);
            }
            let before = lab.agree(3);
            lab.crash_all();
            assert!(lab.agree(3) > before);
        }
    });
}

#[test]
fn snapshot_init() {
    each_seed(|seed| {
        let mut lab = Lab::with_snapshots(seed, 3);
        lab.agree(3);
        for _ in 0..INTERVAL + 1 {
            lab.agree(3);
        }
        lab.crash_all();
        lab.agree(3); // Some entries after the snapshot.
        lab.crash_all();
        lab.agree(3);
    });
}
