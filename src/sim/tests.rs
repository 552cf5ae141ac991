//! Tests of the simulator itself, and a few runs of it.

use super::*;

/// `duramen sim` runs more of them.
#[test]
fn clusters_bear_what_they_must() {
    let mut all = Seen::default();
    for seed in 0..20 {
        match run(seed, 500) {
            Ok(seen) => all.add(&seen),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{all}");
    assert!(
        all.answered > 9_000 && all.leaders > 100 && all.power_cuts > 100,
        "{all}"
    );
}

/// Seeds of runs of 1000 operations that once found something.
const FOUND: &[u64] = &[
    1826, // What says which entries a segment has cannot be read, and the node took its disk for failed.
];

#[test]
fn what_was_found_once_is_found_no_more() {
    for &seed in FOUND {
        run(seed, 1000).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..5 {
        assert_eq!(run(seed, 300).unwrap(), run(seed, 300).unwrap());
    }
}

#[test]
fn runs_that_are_too_quiet_say_so() {
    let quiet = Seen {
        answered: 1_000_000,
        ..Seen::default()
    };
    assert_eq!(quiet.check_floors(1, 1000), Ok(()), "that is no measure");
    let refused = quiet.check_floors(1000, 1000).unwrap_err();
    assert_eq!((refused.what, refused.found), ("of unknown outcome", 0));
}

#[test]
fn a_failure_says_how_to_replay_it() {
    let failure = Failure {
        seed: 7,
        operations: 1000,
        why: "two leaders".to_owned(),
        nodes: String::new(),
        trace: String::new(),
    };
    let text = failure.to_string();
    assert!(text.starts_with("seed 7: two leaders"), "{text}");
    assert!(
        text.ends_with("replay: duramen sim --seeds 7..8 --ops 1000"),
        "{text}"
    );
}
