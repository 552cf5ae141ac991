//! Lab 3A: a key/value service without snapshots. A crash is a power cut.

use std::time::Duration;

use super::clerk::{Answer, Call, Clerk};
use super::generic::{GENERIC, Generic};
use super::lab::{ELECTION_TIMEOUT, Lab, SEEDS, Seen, Setup, bytes, each_seed};

const UNRELIABLE: Setup = Setup {
    is_unreliable: true,
    ..GENERIC.setup
};

#[test]
fn basic() {
    GENERIC.run();
}

/// Three calls between two heartbeats of the labs: nothing waits for a tick.
const CALL_TIME_MAX: Duration = Duration::from_millis(33);

#[test]
fn speed() {
    let seen = each_seed(|seed| appends(Lab::new(seed, Setup::of(3))));
    assert_eq!(seen.snapshots, 0);
}

/// A thousand appends of one client.
pub(crate) fn appends(mut lab: Lab) -> Seen {
    const APPENDS: u32 = 1000;
    let mut clerk = lab.clerk();
    lab.put(&mut clerk, "x", "");
    let start = lab.world.now();
    let mut expected = String::new();
    for number in 0..APPENDS {
        let value = format!("x 0 {number} y");
        lab.append(&mut clerk, "x", &value);
        expected += &value;
    }
    let each = (lab.world.now() - start) / APPENDS;
    assert!(each < CALL_TIME_MAX, "{each:?} for each");
    lab.check(&mut clerk, "x", &expected);
    lab.dismiss(clerk);
    lab.seen()
}

#[test]
fn concurrent() {
    Generic {
        clients: 5,
        ..GENERIC
    }
    .run();
}

#[test]
fn unreliable() {
    Generic {
        clients: 5,
        setup: UNRELIABLE,
        ..GENERIC
    }
    .run();
}

#[test]
fn unreliable_one_key() {
    const CLIENTS: usize = 5;
    const APPENDS: usize = 10;
    let setup = Setup {
        servers: 3,
        ..UNRELIABLE
    };
    let seen = each_seed(|seed| {
        let mut lab = Lab::new(seed, setup);
        let mut reader = lab.clerk();
        lab.put(&mut reader, "k", "");
        let mut clerks: Vec<(Clerk, usize)> = (0..CLIENTS).map(|_| (lab.clerk(), 0)).collect();
        let end = lab.world.now() + Duration::from_secs(60);
        let is_over = |(clerk, made): &(Clerk, usize)| *made == APPENDS && !clerk.is_busy();
        while !clerks.iter().all(is_over) {
            assert!(lab.world.now() < end, "not all was appended");
            for (number, (clerk, made)) in clerks.iter_mut().enumerate() {
                if !clerk.is_busy() && *made < APPENDS {
                    let value = bytes(&value(number, *made));
                    lab.begin(clerk, Call::Append(bytes("k"), value));
                    *made += 1;
                }
                lab.step(clerk);
            }
            lab.world.step();
        }
        let whole = lab.get(&mut reader, "k");
        check_concurrent_appends(std::str::from_utf8(&whole).unwrap(), CLIENTS, APPENDS);
        clerks.into_iter().for_each(|(clerk, _)| lab.dismiss(clerk));
        lab.seen()
    });
    assert_eq!(seen.answered, SEEDS * (CLIENTS * APPENDS) as u64);
    assert!(seen.repeated > 0);
}

fn value(client: usize, number: usize) -> String {
    format!("x {client} {number} y")
}

/// Each value of each client once, and those of each in order; nothing else.
fn check_concurrent_appends(whole: &str, clients: usize, appends: usize) {
    let mut len = 0;
    for client in 0..clients {
        let mut from = 0;
        for number in 0..appends {
            let value = value(client, number);
            len += value.len();
            let places: Vec<usize> = whole.match_indices(&value).map(|(at, _)| at).collect();
            assert!(
                places.len() == 1 && places[0] >= from,
                "{value} at {places:?}, after {from}, in {whole}"
            );
            from = places[0];
        }
    }
    assert_eq!(whole.len(), len, "{whole}");
}

#[test]
fn one_partition() {
    let seen = each_seed(|seed| {
        let mut lab = Lab::new(seed, Setup::of(5));
        let [mut writer, mut reader] = [0, 1].map(|_| lab.clerk());
        lab.put(&mut writer, "1", "13");
        // The leader is in the minority.
        let leader = lab.leader();
        let server = [0, 1, 2, 3, 4].map(|steps| (leader + steps) % 5);
        let (minority, majority) = (server[..2].to_vec(), server[2..].to_vec());
        lab.partition(&[majority.clone(), minority.clone()]);
        let mut with_majority = lab.clerk_of(&majority);
        lab.let_reach(&mut writer, &minority);
        lab.let_reach(&mut reader, &minority);

        // Progress in the majority.
        lab.put(&mut with_majority, "1", "14");
        lab.check(&mut with_majority, "1", "14");
        // None in the minority.
        lab.begin(&mut writer, Call::Put(bytes("1"), bytes("15")));
        lab.begin(&mut reader, Call::Get(bytes("1")));
        let end = lab.world.now() + ELECTION_TIMEOUT;
        while lab.world.now() < end {
            lab.world.step();
            assert_eq!(lab.step(&mut writer), None, "there is no majority");
            assert_eq!(lab.step(&mut reader), None, "there is no majority");
        }
        lab.check(&mut with_majority, "1", "14");
        lab.put(&mut with_majority, "1", "16");
        lab.check(&mut with_majority, "1", "16");
        // Both calls are completed after the partition has gone.
        lab.pass(ELECTION_TIMEOUT);
        lab.connect_all();
        lab.let_reach(&mut writer, &server);
        lab.let_reach(&mut reader, &server);
        let limit = Duration::from_secs(3);
        assert_eq!(lab.wait_for(&mut writer, limit), Some(Answer::Done));
        let read = lab.wait_for(&mut reader, limit);
        assert!(matches!(read, Some(Answer::Value(_))), "{read:?}");
        lab.check(&mut reader, "1", "15");
        [with_majority, writer, reader]
            .into_iter()
            .for_each(|clerk| lab.dismiss(clerk));
        lab.seen()
    });
    assert!(seen.leaders >= 2 * SEEDS && seen.repeated > 0, "{seen}");
}

#[test]
fn many_partitions_one_client() {
    Generic {
        is_partitioned: true,
        ..GENERIC
    }
    .run();
}

#[test]
fn many_partitions_many_clients() {
    Generic {
        clients: 5,
        is_partitioned: true,
        ..GENERIC
    }
    .run();
}

#[test]
fn persist_one_client() {
    Generic {
        crashes: true,
        ..GENERIC
    }
    .run();
}

#[test]
fn persist_concurrent() {
    Generic {
        clients: 5,
        crashes: true,
        ..GENERIC
    }
    .run();
}

#[test]
fn persist_concurrent_unreliable() {
    Generic {
        clients: 5,
        setup: UNRELIABLE,
        crashes: true,
        ..GENERIC
    }
    .run();
}

#[test]
fn persist_partition() {
    Generic {
        clients: 5,
        is_partitioned: true,
        crashes: true,
        ..GENERIC
    }
    .run();
}

#[test]
fn persist_partition_unreliable() {
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
fn persist_partition_unreliable_linearizable() {
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
