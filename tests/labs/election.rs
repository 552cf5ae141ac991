//! Lab 2A: leader election.

use super::lab::{ELECTION_TIMEOUT, Lab, each_seed};

#[test]
fn initial_election() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 3);
        lab.check_one_leader();
        lab.pass_millis(50);
        let term = lab.check_terms();
        assert!(term.0 >= 1);
        lab.pass(2 * ELECTION_TIMEOUT);
        assert_eq!(lab.check_terms(), term, "nothing failed");
        lab.check_one_leader();
    });
}

#[test]
fn re_election() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 3);
        let first = lab.check_one_leader();
        lab.disconnect(first);
        lab.check_one_leader();
        // The old one comes back, and does not disturb the new one.
        lab.connect(first);
        let second = lab.check_one_leader();
        // Without a majority nobody leads.
        let other = lab.after(second, 1);
        lab.disconnect(second);
        lab.disconnect(other);
        lab.pass(2 * ELECTION_TIMEOUT);
        lab.check_no_leader();
        lab.connect(other);
        lab.check_one_leader();
        lab.connect(second);
        lab.check_one_leader();
    });
}

#[test]
fn many_elections() {
    each_seed(|seed| {
        let mut lab = Lab::new(seed, 7);
        lab.check_one_leader();
        for _ in 0..10 {
            let three = lab.rng.choose_multiple(0..7, 3);
            three.iter().for_each(|server| lab.disconnect(*server));
            lab.check_one_leader();
            three.iter().for_each(|server| lab.connect(*server));
        }
        lab.check_one_leader();
    });
}
