//! A counter that three replicas hold: a state machine of one's own, replicated.
//!
//! `cargo run --example counter -- [DIR]` starts three replicas in one process, counts, and reads. Run it again: it goes on counting.

use std::error::Error;
use std::io::{self, Read};
use std::path::PathBuf;

use duramen::node::{Frozen, NodeId, StateMachine};
use duramen::replica::{Options, Replica};

struct Counter(u64);

impl StateMachine for Counter {
    type Output = u64;

    fn apply(&mut self, _command: &[u8]) -> u64 {
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

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| std::env::temp_dir().join("duramen-counter"));
    let peers = [1, 2, 3].map(|id| (NodeId(id), format!("127.0.0.1:{}", 7420 + id)));
    let mut replicas = Vec::new();
    for (id, _) in &peers {
        let options = Options::new(*id, dir.join(format!("node-{id}")), peers.clone());
        replicas.push(Replica::start(options, Counter(0)).await?);
    }
    // Each replica knows who leads; commands and reads go there.
    let mut status = replicas[0].watch();
    let leader = status
        .wait_for(|status| status.leader.is_some())
        .await?
        .leader;
    let leader = replicas
        .iter()
        .find(|replica| Some(replica.status().id) == leader);
    let leader = leader.ok_or("the leader is one of them")?;
    for _ in 0..3 {
        println!("counted to {}", leader.propose("count".into()).await?);
    }
    println!("and read {}", leader.read(|counter| counter.0).await?);
    for replica in replicas {
        replica.stop().await?; // The first ones hand the leadership over.
    }
    Ok(())
}
