//! How long writes wait when the leader is killed.

use std::time::{Duration, Instant};

use crate::support::Nodes;

/// The benches measure it closely; this is what nobody should ever have to wait.
const FAILOVER_MAX: Duration = Duration::from_secs(2);

#[test]
fn writes_go_on_within_two_seconds_after_kill_9_of_the_leader() {
    let mut nodes = Nodes::start();
    let mut client = nodes.client();
    client.until_done::<()>(&["SET", "a", "0"]);
    let mut waited: Vec<Duration> = (1..=5)
        .map(|number| {
            let leader = nodes.leader();
            nodes.kill_9(leader);
            let killed = Instant::now();
            client.until_done::<()>(&["SET", "a", &number.to_string()]);
            let waited = killed.elapsed();
            nodes.start_one(leader);
            nodes.wait_for_catching_up(leader);
            waited
        })
        .collect();
    waited.sort();
    println!("until the next write was acknowledged: {waited:?}");
    assert!(waited[2] < FAILOVER_MAX, "{waited:?}");
}
