//! What a replica leaves behind when it is stopped. Alone in its process: the threads and files of others would count too.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, Read};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use duramen::node::{Frozen, NodeId, StateMachine};
use duramen::replica::{ChangeError, Options, Replica};

/// Counts commands.
struct Counter(u64);

impl StateMachine for Counter {
    type Output = u64;

    fn apply(&mut self, _: &[u8]) -> u64 {
        self.0 += 1;
        self.0
    }

    fn freeze(&self) -> Frozen {
        let counted = self.0;
        Box::new(move |to| to.write_all(&counted.to_le_bytes()))
    }

    fn restore(&mut self, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

/// Has whoever leads count, if somebody does. A disk that is slow for long makes a leader hand over.
async fn count(replicas: &[Replica<Counter>]) -> Option<u64> {
    for replica in replicas {
        if let Ok(counted) = replica.propose("count".into()).await {
            return Some(counted);
        }
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    None
}

/// How many threads and open files this process has.
fn left() -> (usize, usize) {
    let count = |dir| std::fs::read_dir(dir).unwrap().count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

#[tokio::test]
async fn after_a_stop_no_thread_task_socket_or_lock_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let listeners = [1, 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let peers = [(1, &listeners[0]), (2, &listeners[1])]
        .map(|(id, listener)| (NodeId(id), listener.local_addr().unwrap().to_string()));
    drop(listeners);
    let before = left();
    let tasks = tokio::runtime::Handle::current().metrics();
    let mut counted = 0;
    for _ in 0..8 {
        let mut replicas = Vec::new();
        for (id, _) in &peers {
            let mut options = Options::new(*id, dir.path().join(id.to_string()), peers.clone());
            options.node.snapshot_bytes = 200; // So that there are jobs and old segments too.
            replicas.push(Replica::start(options, Counter(0)).await.unwrap());
        }
        let before_this = counted;
        let until = Instant::now() + Duration::from_secs(30);
        while counted == before_this {
            assert!(Instant::now() < until, "nobody leads");
            counted = count(&replicas).await.unwrap_or(counted);
        }
        assert!(counted > before_this, "{counted} after {before_this}");
        let members = replicas[0].members(); // Whoever holds this does not keep it alive.
        for replica in replicas {
            replica.stop().await.unwrap();
        }
        assert!(matches!(members.report().await, Err(ChangeError::Ended)));
        assert_eq!(tasks.num_alive_tasks(), 0);
        let until = Instant::now() + Duration::from_secs(5);
        while left() != before {
            // A thread that was joined is in the system's list for a moment.
            assert!(Instant::now() < until, "{:?}, before {before:?}", left());
            std::thread::sleep(Duration::from_millis(1));
        }
        for (_, address) in &peers {
            drop(TcpListener::bind(address).unwrap());
        }
    }
}
