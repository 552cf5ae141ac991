//! The process that writes, and is killed.

use std::collections::VecDeque;
use std::io::{BufRead, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use duramen::disk::{Disk, SimDisk};
use duramen::snapshot::{self, SnapshotStore};
use duramen::wal::{Batch, GroupId, Index, Ticket, Wal};

use super::super::Outcome;
use super::Result;
use super::content;
use super::failpoint::FailingDisk;
use super::model::{Change, Id, Operation, SNAPSHOTS_KEPT, Snapshot};
use super::plan;
use super::said::{Life, Line, say};

/// Small segments, so that they are filled, freed and used again all the time.
pub(super) fn log_options() -> duramen::wal::Options {
    let mut options = duramen::wal::Options::default();
    options.segment_bytes = 128 << 10;
    options.batch_bytes_max = 64 << 10;
    options.in_flight_bytes_max = 64 << 10;
    options
}

pub(super) fn snapshot_options() -> snapshot::Options {
    let mut options = snapshot::Options::default();
    options.chunk_bytes = 1 << 10;
    options
}

/// Does what the parent says on standard input, in `dir`. What fails is said like all else: the parent knows what it means.
pub(super) fn run(dir: &Path) -> Outcome {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let life: Life = serde_json::from_str(&line)?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        std::process::exit(1); // Nobody is left to kill it.
    });
    if let Err(error) = live(dir, life) {
        say(&Line::of_error(&*error));
    }
    Ok(())
}

fn live(dir: &Path, life: Life) -> Result<()> {
    let disk: Arc<dyn Disk> = Arc::new(FailingDisk::new(life.failpoint));
    let mut writing = Writing {
        wal: open_or_create(&disk, &dir.join("log"))?,
        snapshots: SnapshotStore::open_on(disk, dir.join("snapshots"), snapshot_options())?,
        life,
        under_way: VecDeque::new(),
        publishing: None,
        moved: 0,
    };
    let is_torn = writing.wal.recovery().cut.is_some();
    say(&Line::Opened { is_torn });
    writing.run()
}

/// The first child makes the log; so does the next one, if that was killed too soon.
fn open_or_create(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Wal> {
    match Wal::open_on(disk.clone(), dir, log_options()) {
        Err(duramen::wal::Error::NotALog { .. }) => {
            Ok(Wal::create_on(disk.clone(), dir, log_options())?)
        }
        opened => Ok(opened?),
    }
}

struct Writing {
    life: Life,
    wal: Wal,
    snapshots: SnapshotStore,
    /// Batches that are not durable yet, as far as is known.
    under_way: VecDeque<(u64, Ticket)>,
    /// A snapshot is written while the log goes on.
    publishing: Option<JoinHandle<Result<()>>>,
    moved: u64,
}

impl Writing {
    fn run(&mut self) -> Result<()> {
        if self.life.operations == 0 {
            return Ok(());
        }
        self.snapshots.drop_older(SNAPSHOTS_KEPT)?; // The last process may not have come to it.
        let mut model = std::mem::take(&mut self.life.model);
        for op in self.life.first..self.life.first + self.life.operations {
            let operation = plan::draw(self.life.seed, op, &model);
            self.carry_out(op, &operation)?;
            model.apply(op, &operation);
        }
        self.wait_until(0)?;
        self.finish_publishing()?;
        Ok(())
    }

    fn carry_out(&mut self, op: u64, operation: &Operation) -> Result<()> {
        match operation {
            Operation::Log(changes) => {
                if operation.relies_on_a_snapshot() {
                    self.finish_publishing()?;
                }
                let batch = batch(self.life.seed, op, changes);
                say(&Line::Submitted(op));
                let ticket = self.wal.submit(batch)?;
                self.under_way.push_back((op, ticket));
                self.wait_until(self.life.window)?;
                self.tell_of_moves();
            }
            Operation::Snapshot(snapshot) => {
                self.finish_publishing()?;
                say(&Line::Submitted(op));
                let (store, seed) = (self.snapshots.clone(), self.life.seed);
                let snapshot = snapshot.clone();
                let publish = move || {
                    publish(&store, seed, &snapshot)?;
                    say(&Line::Acknowledged(op));
                    store.drop_older(SNAPSHOTS_KEPT)?;
                    Ok(())
                };
                self.publishing = Some(std::thread::spawn(publish));
            }
        }
        Ok(())
    }

    /// Waits until no more than so many batches are under way.
    fn wait_until(&mut self, count: usize) -> Result<()> {
        while self.under_way.len() > count {
            let (op, ticket) = self.under_way.pop_front().expect("it is not empty");
            ticket.wait()?;
            say(&Line::Acknowledged(op));
        }
        Ok(())
    }

    fn finish_publishing(&mut self) -> Result<()> {
        match self.publishing.take() {
            Some(publishing) => publishing.join().expect("it does not panic"),
            None => Ok(()),
        }
    }

    fn tell_of_moves(&mut self) {
        let moved = self.wal.stats().entries_moved;
        if moved > self.moved {
            self.moved = moved;
            say(&Line::Moved(moved));
        }
    }
}

fn batch(seed: u64, op: u64, changes: &[Change]) -> Batch {
    let mut batch = Batch::new();
    for change in changes {
        match *change {
            Change::Append {
                group,
                first,
                count,
            } => {
                let id = |place| Id {
                    term: first.term,
                    index: first.index + place,
                };
                let entries = (0..count).map(|place| content::entry(seed, op, group, id(place)));
                batch.append(GroupId(group), entries)
            }
            Change::HardState {
                group,
                term,
                voted_for,
            } => batch.hard_state(GroupId(group), content::hard_state(op, term, voted_for)),
            Change::Truncate { group, last } => batch.truncate(GroupId(group), Index(last)),
            Change::Purge { group, last } => batch.purge(GroupId(group), last.into()),
            Change::Record { group } => {
                batch.user_record(GroupId(group), content::record(seed, op, group))
            }
            Change::Remove { group } => batch.remove_group(GroupId(group)),
        };
    }
    batch
}

fn publish(store: &SnapshotStore, seed: u64, snapshot: &Snapshot) -> Result<()> {
    if !snapshot.is_installed {
        write(store, seed, snapshot)?;
        return Ok(());
    }
    let disk = Arc::new(SimDisk::new());
    let peer = SnapshotStore::open_on(disk, "/snapshots", snapshot_options())?;
    let at_peer = write(&peer, seed, snapshot)?;
    let mut install = store.begin_install(at_peer.manifest)?;
    for name in install.missing() {
        install.put(name, &peer.read_chunk(name)?)?;
    }
    install.publish()?;
    Ok(())
}

fn write(store: &SnapshotStore, seed: u64, snapshot: &Snapshot) -> Result<snapshot::Published> {
    let mut writer = store.begin(content::meta(snapshot))?;
    for block in content::blocks(seed, snapshot) {
        writer.write_all(&block)?;
    }
    Ok(writer.publish()?)
}
