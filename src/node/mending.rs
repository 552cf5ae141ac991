//! Putting right what is damaged here, with what the peers have: pieces of a snapshot by their names, and entries of the log, which
//! the core asks for and this node compares with what was written.

use duramen_snapshot::{ChunkName, SnapshotId};

use super::applying::Restoring;
use super::job::Lost;
use super::{Clock, Error, Node, StateMachine};
use crate::raft::{Answer, Envelope, Message, Offer};
use crate::storage::SnapshotName;
use crate::transport::{CHUNKS_ASKED_MAX, Fetch, Hash, Network};

/// A snapshot of which something cannot be read.
pub(super) struct Mending {
    id: SnapshotId,
    /// The chunks that are asked for.
    wanted: Lost,
    /// If it is one that is being installed, the offer; otherwise the state is in it.
    offer: Option<Offer>,
    /// Ticks until the peers are asked again.
    ticks: u32,
}

impl Mending {
    /// How many chunks nobody has given yet.
    pub(super) fn missing(&self) -> u64 {
        self.wanted.len() as u64
    }

    /// The offer that is being installed by it.
    pub(super) fn offer(&self) -> Option<&Offer> {
        self.offer.as_ref()
    }

    /// One unit of time has passed. Says what is to be asked for, if it is time again.
    pub(super) fn tick(&mut self) -> Option<Fetch> {
        self.ticks = self.ticks.saturating_sub(1);
        (self.ticks == 0).then(|| {
            self.ticks = PATIENCE_TICKS;
            let wanted = self.wanted.iter().copied();
            Fetch::AskChunks {
                chunks: wanted.take(CHUNKS_ASKED_MAX).collect(),
            }
        })
    }
}

/// The peers are asked again after so many ticks.
const PATIENCE_TICKS: u32 = 50;

/// Snapshots.
impl<S: StateMachine, N: Network, C: Clock> Node<S, N, C> {
    /// A snapshot that is needed cannot be read: its chunks are to be had from the peers.
    pub(super) fn begin_mending(&mut self, id: SnapshotId, wanted: Lost, offer: Option<Offer>) {
        let chunks = wanted.len();
        tracing::error!(chunks, ?id, "a snapshot is damaged: asking the peers");
        self.snapshots.mending = Some(Mending {
            id,
            wanted,
            offer,
            ticks: 0,
        });
    }

    /// Takes in a chunk, if it is wanted.
    pub(super) fn mend(&mut self, chunk: Hash, bytes: &[u8]) -> Result<(), Error> {
        let Some(mending) = &mut self.snapshots.mending else {
            return Ok(());
        };
        let name = ChunkName::from_bytes(chunk);
        if !mending.wanted.contains(&chunk) || ChunkName::of(bytes) != name {
            return Ok(());
        }
        match self.storage.snapshots().repair_chunk(name, bytes) {
            // It will be asked for again.
            Err(error @ duramen_snapshot::Error::Full { .. }) => {
                tracing::warn!(%error, "no space to mend a snapshot");
                return Ok(());
            }
            // Newer snapshots have taken its place, and it was dropped.
            Err(duramen_snapshot::Error::UnknownChunk { .. }) => {
                self.snapshots.mending = None;
                return Ok(());
            }
            repaired => repaired?,
        }
        mending.wanted.remove(&chunk);
        let is_whole = |mending: &mut Mending| mending.wanted.is_empty();
        let Some(mended) = self.snapshots.mending.take_if(is_whole) else {
            return Ok(());
        };
        tracing::info!(id = ?mended.id, "the snapshot is whole again");
        match &mended.offer {
            Some(offer) => self.installed(offer, mended.id),
            None => self.has_own_state(mended.id),
        }
    }

    fn has_own_state(&mut self, id: SnapshotId) -> Result<(), Error> {
        let Some(file) = self.hold(id)? else {
            return Ok(()); // What has taken its place is told of next.
        };
        let name = SnapshotName::of(file.manifest()).encode();
        self.restore(file, self.raft.base().index, Restoring::Own(name));
        Ok(())
    }
}

/// A node that waits for what nobody has says so each time it has waited for so many ticks more.
const TELL_TICKS: u32 = 500;

/// The log.
impl<S: StateMachine, N: Network, C: Clock> Node<S, N, C> {
    /// One unit of time has passed. A node that cannot go on, since nobody has what is damaged here, says so: only who looks after the
    /// machines can help.
    pub(super) fn tick_waiting(&mut self) {
        let waits_for = self.waits_for();
        let is_stateless = self.raft.lacks_state();
        if waits_for.is_empty() && !is_stateless {
            self.waited_ticks = 0;
            return;
        }
        self.waited_ticks += 1;
        if !self.waited_ticks.is_multiple_of(TELL_TICKS) {
            return;
        }
        if is_stateless {
            let missing = self.missing_chunks();
            tracing::error!(
                "this node's snapshot cannot be read ({missing} chunks are damaged), and no node that answers has given it: bring back the nodes that are missing"
            );
        }
        if !waits_for.is_empty() {
            let names = waits_for
                .iter()
                .map(|(id, badness)| format!("{id} ({badness})"));
            let names = names.collect::<Vec<_>>().join(", ");
            tracing::error!(
                "no node that answers has these entries whole, and they may have been acknowledged: {names}. Bring back the nodes that are missing, or a disk that has them: until then nothing is written or read"
            );
        }
    }

    /// Takes out of a message what claims to be an entry that is bad here, and is not what was written. The core knows entries by
    /// their ids, and the log their checksums.
    pub(super) fn take_out_false_entries(&self, envelope: &mut Envelope) {
        let is_false = |entry: &_| !self.storage.is_true_content(entry);
        let is_bad = |id| self.raft.bad_entries().any(|(bad, _)| bad == id);
        match &mut envelope.message {
            Message::Append { entries, .. } => {
                let first_false = entries
                    .iter()
                    .position(|entry| is_bad(entry.id) && is_false(entry));
                entries.truncate(first_false.unwrap_or(entries.len()));
            }
            Message::Entries(answers) => answers.entries.retain(|answer| match answer {
                Answer::Have(entry) => !(is_bad(entry.id) && is_false(entry)),
                _ => true,
            }),
            _ => {}
        }
    }
}
