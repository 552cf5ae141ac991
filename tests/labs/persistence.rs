//! Lab 2C: persistence. A crash is a power cut.

use super::lab::{ELECTION_TIMEOUT, LONG_REORDERING, Lab, each_seed};

#[test]
fn persist_1() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 3);
        lab.agree(3);
        lab.crash_all();
        lab.agree(3);
        let first = lab.check_one_leader();
        lab.disconnect(first);
        lab.start(first);
        lab.connect(first);
        lab.agree(3);
        let second = lab.check_one_leader();
        lab.disconnect(second);
        lab.agree(2);
        lab.start(second);
        lab.connect(second);
        lab.wait_for(4, 3);
        let third = lab.check_one_leader();
        let follower = lab.after(third, 1);
        lab.disconnect(follower);
        lab.agree(2);
        lab.start(follower);
        lab.connect(follower);
        assert_eq!(lab.agree(3), 6);
    });
}

#[test]
fn persist_2() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 5);
        for _ in 0..5 {
            lab.agree(5);
            let leader = lab.check_one_leader();
            let server = [0, 1, 2, 3, 4].map(|steps| lab.after(leader, steps));
            lab.disconnect(server[1]);
            lab.disconnect(server[2]);
            lab.agree(3);
            lab.disconnect(server[0]);
            lab.disconnect(server[3]);
            lab.disconnect(server[4]);
            for back in [1, 2] {
                lab.start(server[back]);
                lab.connect(server[back]);
            }
            lab.pass(ELECTION_TIMEOUT);
            lab.start(server[3]);
            lab.connect(server[3]);
            lab.agree(3);
            lab.connect(server[4]);
            lab.connect(server[0]);
        }
        lab.agree(5);
    });
}

#[test]
fn persist_3() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 3);
        lab.agree(3);
        let leader = lab.check_one_leader();
        let server = [0, 1, 2].map(|steps| lab.after(leader, steps));
        lab.disconnect(server[2]);
        lab.agree(2);
        lab.crash(server[0]);
        lab.crash(server[1]);
        lab.connect(server[2]);
        lab.start(server[0]);
        lab.agree(2);
        lab.start(server[1]);
        lab.agree(3);
    });
}

/// Leaders crash soon after they have taken a command: entries of earlier terms stand on majorities, and must not count as committed
/// for that (figure 8 of the paper).
#[test]
fn figure_8() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 5);
        lab.agree(1);
        for _ in 0..1000 {
            let leader = propose_at_all(&mut lab);
            pass_some_time(&mut lab);
            if let Some(leader) = leader {
                lab.crash(leader);
            }
            if lab.servers().filter(|server| lab.is_up(*server)).count() < 3 {
                let server = lab.rng.usize(0..5);
                if !lab.is_up(server) {
                    lab.start(server);
                }
            }
        }
        for server in lab.servers() {
            if !lab.is_up(server) {
                lab.start(server);
            }
        }
        lab.agree(5);
    });
}

#[test]
fn figure_8_unreliable() {
    each_seed(|seed| {
        let mut lab = Lab::unreliable(seed, 5);
        lab.agree(1);
        for iteration in 0..1000 {
            if iteration == 200 {
                lab.world.set_faults(LONG_REORDERING);
            }
            let leader = propose_at_all(&mut lab);
            pass_some_time(&mut lab);
            if let Some(leader) = leader.filter(|_| lab.rng.bool()) {
                lab.disconnect(leader);
            }
            if lab
                .servers()
                .filter(|server| lab.is_connected(*server))
                .count()
                < 3
            {
                let server = lab.rng.usize(0..5);
                lab.connect(server);
            }
        }
        for server in lab.servers() {
            lab.connect(server);
        }
        lab.agree(5);
    });
}

fn propose_at_all(lab: &mut Lab) -> Option<usize> {
    let command = lab.command();
    lab.servers()
        .filter(|server| lab.propose(*server, &command))
        .last()
}

fn pass_some_time(lab: &mut Lab) {
    let most = if lab.rng.u32(..1000) < 100 { 500 } else { 13 };
    let millis = lab.rng.u64(..most);
    lab.pass_millis(millis);
}
