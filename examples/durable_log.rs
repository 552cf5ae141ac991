//! A durable log in ten lines; run it, kill it with -9, run it again: every number that it printed is there.
//!
//! `cargo run --example durable_log -- DIR [ENTRIES]`

use std::error::Error;

use duramen::wal::{Batch, Entry, GroupId, HardState, Index, LogId, NodeId, Options, Term, Wal};

const GROUP: GroupId = GroupId(1);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments
        .next()
        .ok_or("say in which directory the log is to be")?;
    let entries: u64 = arguments
        .next()
        .map_or(Ok(u64::MAX), |entries| entries.parse())?;

    let wal = match Wal::open(&dir, Options::default()) {
        Err(duramen::wal::Error::NotALog { .. }) => Wal::create(&dir, Options::default())?,
        opened => opened?,
    };
    // A new term for each run, and a vote in it: as a Raft node would.
    let last = wal.last(GROUP).index;
    let term = Term(wal.hard_state(GROUP).term.0 + 1);
    eprintln!("{} entries, {:?}", last, wal.hard_state(GROUP));
    if let Some(cut) = &wal.recovery().cut {
        eprintln!("an unfinished write of {} bytes was cut off", cut.bytes);
    }
    let hard_state = HardState {
        term,
        voted_for: Some(NodeId(1)),
        ..HardState::default()
    };
    let mut vote = Batch::new();
    vote.hard_state(GROUP, hard_state);
    wal.write(vote)?;

    for index in (last.0 + 1..=entries).map(Index) {
        let id = LogId { term, index };
        let mut batch = Batch::new();
        batch.append(
            GROUP,
            [Entry {
                id,
                payload: format!("entry {index}").into(),
                ..Entry::default()
            }],
        );
        wal.write(batch)?; // durable
        println!("{term} {index}");
    }
    Ok(wal.close()?)
}
