//! Lab 2B: log replication.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::lab::{ELECTION_TIMEOUT, Lab, each_seed};

#[test]
fn basic_agree() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 3);
        for index in 1..=3 {
            assert_eq!(lab.count_committed(index), 0, "nothing was proposed");
            assert_eq!(lab.agree(3), index);
        }
    });
}

#[test]
fn rpc_bytes() {
    each_seed(|seed| {
        const SERVERS: u64 = 3;
        let mut lab = Lab::new(seed, SERVERS as usize);
        lab.agree(3);
        let before = lab.traffic().bytes;
        let mut sent = 0;
        for index in 2..12 {
            let command = Bytes::from(vec![index as u8; 5000]);
            assert_eq!(lab.agree_on(&command, 3), index);
            sent += command.len() as u64;
        }
        let bytes = lab.traffic().bytes - before;
        assert!(bytes <= SERVERS * sent + 50_000, "{bytes} bytes for {sent}");
    });
}

#[test]
fn follower_failure() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 3);
        lab.agree(3);
        let first = lab.check_one_leader();
        lab.disconnect(lab.after(first, 1));
        lab.agree(2);
        lab.pass(ELECTION_TIMEOUT);
        lab.agree(2);
        let second = lab.check_one_leader();
        lab.disconnect(lab.after(second, 1));
        lab.disconnect(lab.after(second, 2));
        let command = lab.command();
        assert!(lab.propose(second, &command));
        lab.pass(2 * ELECTION_TIMEOUT);
        assert_eq!(lab.count_committed(4), 0, "there is no majority");
    });
}

#[test]
fn leader_failure() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 3);
        lab.agree(3);
        let first = lab.check_one_leader();
        lab.disconnect(first);
        lab.agree(2);
        lab.pass(ELECTION_TIMEOUT);
        lab.agree(2);
        let second = lab.check_one_leader();
        lab.disconnect(second);
        let command = lab.command();
        for server in lab.servers() {
            lab.propose(server, &command);
        }
        lab.pass(2 * ELECTION_TIMEOUT);
        assert_eq!(lab.count_committed(4), 0, "there is no majority");
    });
}

#[test]
fn fail_agree() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 3);
        lab.agree(3);
        let leader = lab.check_one_leader();
        let follower = lab.after(leader, 1);
        lab.disconnect(follower);
        lab.agree(2);
        lab.agree(2);
        lab.pass(ELECTION_TIMEOUT);
        lab.agree(2);
        lab.agree(2);
        lab.connect(follower);
        lab.agree(3);
        lab.pass(ELECTION_TIMEOUT);
        lab.agree(3);
    });
}

#[test]
fn fail_no_agree() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 5);
        lab.agree(5);
        let leader = lab.check_one_leader();
        let others = [1, 2, 3].map(|steps| lab.after(leader, steps));
        others.iter().for_each(|server| lab.disconnect(*server));
        let command = lab.command();
        assert!(lab.propose(leader, &command));
        lab.pass(2 * ELECTION_TIMEOUT);
        assert_eq!(lab.count_committed(2), 0, "there is no majority");
        others.iter().for_each(|server| lab.connect(*server));
        lab.check_one_leader();
        // The majority may have chosen a leader that had, or had not, the entry that was not committed.
        let index = lab.agree(1);
        assert!(index == 2 || index == 3, "{index}");
        lab.agree(5);
    });
}

#[test]
fn concurrent_starts() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 3);
        let leader = lab.check_one_leader();
        let term = lab.check_terms();
        let commands: Vec<Bytes> = (0..5).map(|_| lab.command()).collect();
        for command in &commands {
            assert!(lab.propose(leader, command));
        }
        lab.wait_for(5, 3);
        assert_eq!(lab.check_terms(), term);
        for server in lab.servers() {
            assert_eq!(lab.applied(server), commands);
        }
    });
}

#[test]
fn rejoin() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 3);
        lab.agree(3);
        // A partitioned leader takes commands that nobody else hears of.
        let first = lab.check_one_leader();
        lab.disconnect(first);
        for _ in 0..3 {
            let command = lab.command();
            assert!(lab.propose(first, &command));
        }
        lab.agree(2);
        // A new one is partitioned, and the old one comes back.
        let second = lab.check_one_leader();
        lab.disconnect(second);
        lab.connect(first);
        lab.agree(2);
        lab.connect(second);
        lab.agree(3);
    });
}

/// Forks of 50 entries; a follower's log is brought back to the leader's with one rejection per conflicting term, and one more.
#[test]
fn backup() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 5);
        lab.agree(5);
        let first = lab.check_one_leader();
        let server = |lab: &Lab, steps| lab.after(first, steps);
        // The leader and one follower are alone, and get 50 entries that are not committed.
        for steps in 2..5 {
            lab.disconnect(server(&lab, steps));
        }
        fork(&mut lab, first);
        lab.disconnect(first);
        lab.disconnect(server(&lab, 1));
        // The other three commit 50 others.
        for steps in 2..5 {
            lab.connect(server(&lab, steps));
        }
        for _ in 0..50 {
            lab.agree(3);
        }
        // One of them is cut off; the leader gets 50 more that are not committed.
        let second = lab.check_one_leader();
        let other = [2, 3]
            .map(|steps| server(&lab, steps))
            .into_iter()
            .find(|it| *it != second);
        let other = other.expect("one of two");
        lab.disconnect(other);
        fork(&mut lab, second);
        // The first leader and its follower come back, with the one that was cut off.
        for any in lab.servers() {
            lab.disconnect(any);
        }
        let before = lab.traffic().rejections;
        for back in [first, server(&lab, 1), other] {
            lab.connect(back);
        }
        for _ in 0..50 {
            lab.agree(3);
        }
        let rejections = lab.traffic().rejections - before;
        assert!(
            rejections <= 2 * (1 + 1),
            "{rejections} for two followers with one conflicting term each"
        );
        // Everybody.
        let before = lab.traffic().rejections;
        for any in lab.servers() {
            lab.connect(any);
        }
        lab.agree(5);
        let rejections = lab.traffic().rejections - before;
        assert!(
            rejections <= 2 * (1 + 1),
            "{rejections} for two followers with one conflicting term at the most"
        );
    });
}

/// 50 commands at a leader without a majority.
fn fork(lab: &mut Lab, leader: usize) {
    for _ in 0..50 {
        let command = lab.command();
        assert!(lab.propose(leader, &command));
    }
    lab.pass(ELECTION_TIMEOUT / 2);
}

#[test]
fn count() {
    each_seed(|seed| {
        const ITERATIONS: u64 = 10;
        let mut lab = Lab::new(seed, 3);
        let leader = lab.check_one_leader();
        let election = lab.traffic().requests;
        assert!((1..=30).contains(&election), "{election} for an election");
        lab.agree(3);
        let before = lab.traffic().requests;
        for _ in 0..ITERATIONS {
            let command = lab.command();
            assert!(lab.propose(leader, &command));
        }
        lab.wait_for(1 + ITERATIONS as usize, 3);
        let batch = lab.traffic().requests - before;
        assert!(
            batch <= (ITERATIONS + 1 + 3) * 3,
            "{batch} for {ITERATIONS} entries"
        );
        let before = lab.traffic().requests;
        lab.pass(ELECTION_TIMEOUT);
        let idle = lab.traffic().requests - before;
        assert!(idle <= 60, "{idle} in an idle second");
    });
}

#[test]
fn unreliable_agree() {
    each_seed(|seed| {
        let mut lab = Lab::unreliable(seed, 5);
        for _ in 1..50 {
            for _ in 0..5 {
                lab.agree(1);
            }
        }
        lab.world.set_faults(duramen::sim::Faults::default());
        lab.agree(5);
    });
}

#[test]
fn reliable_churn() {
    each_seed(|seed| {
        churn(Lab::new(seed, 5));
    });
}

#[test]
fn unreliable_churn() {
    each_seed(|seed| {
        churn(Lab::unreliable(seed, 5));
    });
}

/// Three clients propose at whoever leads while servers come and go; what they were told to be applied must be in the log.
fn churn(mut lab: Lab) {
    let told: Arc<Mutex<Vec<(Bytes, usize)>>> = Arc::default();
    for _ in 0..20 {
        let any = |lab: &mut Lab| lab.rng.usize(0..5);
        if lab.rng.u32(..1000) < 200 {
            let server = any(&mut lab);
            lab.disconnect(server);
        }
        if lab.rng.u32(..1000) < 500 {
            let server = any(&mut lab);
            if !lab.is_up(server) {
                lab.start(server);
            }
            lab.connect(server);
        }
        if lab.rng.u32(..1000) < 200 {
            let server = any(&mut lab);
            lab.crash(server);
        }
        for _ in 0..35 {
            for _ in 0..3 {
                let command = lab.command();
                for server in lab.servers() {
                    let (told, command_there) = (told.clone(), command.clone());
                    let on_applied = move |index| told.lock().unwrap().push((command_there, index));
                    lab.propose_for(server, &command, on_applied);
                }
            }
            lab.pass_millis(20);
        }
    }
    lab.pass(ELECTION_TIMEOUT);
    lab.world.set_faults(duramen::sim::Faults::default());
    for server in lab.servers() {
        if !lab.is_up(server) {
            lab.start(server);
        }
        lab.connect(server);
    }
    let last = lab.agree(5);
    let told = told.lock().unwrap();
    assert!(told.len() > 100, "{} commands were applied", told.len());
    for server in lab.servers() {
        let applied = lab.applied(server);
        assert!(applied.len() >= last);
        for (command, index) in told.iter() {
            assert_eq!(&applied[index - 1], command, "at index {index}");
        }
    }
}
