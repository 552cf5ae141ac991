//! Snapshots of the state machine (section 7): taken, compacted to, given to followers, and taken in.
//!
//! A snapshot is due when the commands since the last one have so many bytes. That follows from the log alone, so all nodes
//! take theirs of the same entries; equal states have equal files, and a follower needs little of the leader's.

use std::io;

use bytes::Bytes;
use duramen_snapshot::{ChunkName, Manifest, Meta, SnapshotId};
use duramen_wal::{Entry, Index, NodeId};

use super::applier::SnapshotFile;
use super::applying::Restoring;
use super::installing::{Installing, Step};
use super::job::{Finished, Job, Outcome};
use super::mending::Mending;
use super::{Clock, Error, Node, StateMachine};
use crate::canary::planted;
use crate::raft::{Offer, SnapshotFate};
use crate::storage::{self, SnapshotName};
use crate::transport::{CHUNKS_ASKED_MAX, Fetch, Hash, MANIFEST_PIECE_BYTES, Network, Packet};

/// What a node knows of its snapshots.
#[derive(Default)]
pub(super) struct Snapshots {
    /// The bytes of the commands that were applied since the last one was due.
    pub(super) bytes: u64,
    is_taking: bool,
    /// The one that was taken last.
    newest: Option<(Index, Hash)>,
    installing: Option<Installing>,
    /// One that has arrived is being made durable.
    is_publishing: bool,
    /// The manifest that a peer asked for last.
    asked: Option<(Hash, Bytes)>,
    /// A snapshot that is needed, and of which chunks are lost.
    pub(super) mending: Option<Mending>,
    /// How many since the start.
    pub(super) taken: u64,
    /// How many since the start.
    pub(super) installed: u64,
    /// Another node's state differs as of this entry.
    diverged_at: Option<Index>,
}

/// What an entry takes beside its payload: the log grows by blank entries too.
const ENTRY_BYTES: u64 = 64;
/// Taking.
impl<S: StateMachine, N: Network, C: Clock> Node<S, N, C> {
    /// An entry is handed out: perhaps a snapshot is due of the state after it. Then this is what it is of.
    pub(super) fn count_for_snapshot(&mut self, entry: &Entry) -> Option<Meta> {
        self.snapshots.bytes += entry.payload.len() as u64 + ENTRY_BYTES;
        if self.snapshots.bytes < self.options.snapshot_bytes {
            return None;
        }
        // Also if the last one is not ready yet: where the next is due must not depend on how fast a disk is.
        self.snapshots.bytes = 0;
        if self.snapshots.is_taking {
            return None;
        }
        self.snapshots.is_taking = true;
        let mut meta = Meta::new(entry.id.term.0, entry.id.index.0);
        meta.membership = self.raft.membership_at(entry.id.index).encode();
        Some(meta)
    }

    /// Takes in what became of a job.
    pub(super) fn finished(&mut self, finished: Finished) -> Result<(), Error> {
        match finished.0 {
            Outcome::Taken(index, taken) => {
                self.snapshots.is_taking = false;
                match self.unless_full(taken)? {
                    Some(manifest) => self.taken(Index(index), &manifest),
                    None => Ok(()),
                }
            }
            Outcome::Installed(offer, published) => {
                self.snapshots.is_publishing = false;
                match self.unless_full(published)? {
                    Some((id, lost)) if lost.is_empty() => self.installed(&offer, id),
                    Some((id, lost)) => {
                        self.begin_mending(id, lost, Some(offer));
                        Ok(())
                    }
                    None => Ok(()),
                }
            }
        }
    }

    /// A disk without space for a snapshot is no failure: the log goes on, and the next one may succeed.
    fn unless_full<T>(&self, outcome: io::Result<T>) -> Result<Option<T>, Error> {
        match outcome {
            Ok(done) => Ok(Some(done)),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::warn!(%error, "no space for a snapshot");
                Ok(None)
            }
            Err(error) => Err(self.broken("write a snapshot in", error)),
        }
    }

    fn taken(&mut self, index: Index, manifest: &Manifest) -> Result<(), Error> {
        let hash = *manifest.name().as_bytes();
        self.snapshots.newest = Some((index, hash));
        let name = SnapshotName::of(manifest).encode();
        if self.raft.snapshot_taken(index, name) == SnapshotFate::Overtaken {
            return Ok(()); // One that was installed meanwhile is newer.
        }
        self.snapshots.taken += 1;
        tracing::debug!(%index, bytes = manifest.bytes(), "took a snapshot");
        let index = index.0;
        let manifest = hash;
        self.tell_members(&Fetch::Taken { index, manifest });
        self.compact()
    }

    /// Lets the log before the newest snapshot go, as far as no follower needs it.
    pub(super) fn compact(&mut self) -> Result<(), Error> {
        if self.has_failed() {
            return Ok(());
        }
        let to = self.raft.compactable();
        if to >= self.raft.first() {
            self.raft.compact(to);
        }
        let purged = self.storage.purge(self.raft.base()); // Also what the core has compacted by itself.
        self.survive(purged).map(drop)
    }

    fn tell_members(&mut self, fetch: &Fetch) {
        self.tell_members_but(None, fetch);
    }

    fn tell_members_but(&mut self, but: Option<NodeId>, fetch: &Fetch) {
        let own = self.raft.id();
        let others = self.raft.membership().all();
        for to in others
            .into_iter()
            .filter(|id| *id != own && Some(*id) != but)
        {
            self.send_fetch(to, fetch.clone());
        }
    }

    fn send_fetch(&mut self, to: NodeId, fetch: Fetch) {
        let from = self.raft.id();
        self.network.send(Packet::Fetch { from, to, fetch });
    }
}

/// Comparing.
impl<S: StateMachine, N: Network, C: Clock> Node<S, N, C> {
    /// Up to where the log was applied when another node's state turned out to be another one. It should never be.
    pub fn diverged_at(&self) -> Option<Index> {
        self.snapshots.diverged_at
    }
}

/// Giving and taking in.
impl<S: StateMachine, N: Network, C: Clock> Node<S, N, C> {
    /// The core needs a snapshot.
    pub(super) fn take_offer(&mut self, offer: Offer) {
        let snapshots = &mut self.snapshots;
        let installing = snapshots.installing.as_ref().map(Installing::offer);
        let mending = snapshots.mending.as_ref().and_then(Mending::offer);
        if snapshots.is_publishing || [installing, mending].contains(&Some(&offer)) {
            return;
        }
        let Some((installing, question)) = Installing::begin(offer) else {
            return;
        };
        let offer = installing.offer();
        let from = offer.from;
        tracing::info!(%from, last = %offer.last, "fetching a snapshot");
        self.snapshots.installing = Some(installing);
        self.send_fetch(from, question);
    }

    /// Takes in what a peer says about a snapshot.
    pub(super) fn on_fetch(&mut self, from: NodeId, fetch: Fetch) -> Result<(), Error> {
        match fetch {
            Fetch::AskManifest { manifest, offset } => self.give_manifest(from, manifest, offset),
            Fetch::AskChunks { chunks } => {
                for chunk in chunks.into_iter().take(CHUNKS_ASKED_MAX) {
                    self.give_chunk(from, chunk);
                }
            }
            Fetch::Manifest {
                manifest,
                offset,
                bytes,
            } => {
                if let Some(installing) = self.take_installing(from) {
                    let store = self.storage.snapshots();
                    let next = installing.manifest(manifest, offset, &bytes, store);
                    self.go_on_installing(from, next)?;
                }
            }
            Fetch::Chunk { chunk, bytes } => {
                self.mend(chunk, &bytes)?;
                // From whomever it comes: its name says that it is right.
                if let Some(installing) = self.snapshots.installing.take() {
                    let from = installing.offer().from;
                    let next = installing.chunk(chunk, &bytes);
                    self.go_on_installing(from, next)?;
                }
            }
            Fetch::Gone { hash } => {
                let is_gone = |installing: &mut Installing| {
                    installing.offer().from == from && installing.is_of(hash)
                };
                self.snapshots.installing.take_if(is_gone);
                let asked = self.snapshots.installing.as_ref();
                if asked.is_some_and(|it| it.offer().from == from && it.wants(hash)) {
                    // It is damaged there. Another one may have it: that one would say the same again, and again.
                    let asks = Fetch::AskChunks { chunks: vec![hash] };
                    self.tell_members_but(Some(from), &asks);
                }
            }
            Fetch::Taken { index, manifest } => self.compare(from, Index(index), manifest),
        }
        Ok(())
    }

    fn give_manifest(&mut self, to: NodeId, hash: Hash, offset: u64) {
        if self
            .snapshots
            .asked
            .as_ref()
            .is_none_or(|(known, _)| *known != hash)
        {
            let wanted = ChunkName::from_bytes(hash);
            let all = self.storage.snapshots().list();
            let found = all.into_iter().find(|it| it.manifest.name() == wanted);
            self.snapshots.asked = found.map(|it| (hash, it.manifest.encode().into()));
        }
        let fetch = match &self.snapshots.asked {
            None => Fetch::Gone { hash },
            Some((_, manifest)) => {
                let from = manifest
                    .len()
                    .min(usize::try_from(offset).unwrap_or(usize::MAX));
                let to = manifest.len().min(from + MANIFEST_PIECE_BYTES);
                let bytes = manifest.slice(from..to);
                Fetch::Manifest {
                    manifest: hash,
                    offset,
                    bytes,
                }
            }
        };
        self.send_fetch(to, fetch);
    }

    fn give_chunk(&mut self, to: NodeId, chunk: Hash) {
        let fetch = match self
            .storage
            .snapshots()
            .read_chunk(ChunkName::from_bytes(chunk))
        {
            Ok(bytes) => Fetch::Chunk { chunk, bytes },
            Err(error) => {
                tracing::debug!(%to, %error, "cannot give a chunk");
                Fetch::Gone { hash: chunk }
            }
        };
        self.send_fetch(to, fetch);
    }

    /// Equal entries give equal states, and those equal files.
    fn compare(&mut self, with: NodeId, index: Index, hash: Hash) {
        if self
            .snapshots
            .newest
            .is_some_and(|(own, known)| own == index && known != hash)
        {
            if planted("divergence_ignored") {
                return;
            }
            tracing::error!(%with, %index, "the state machines differ: this node's snapshot is not that node's");
            self.snapshots.diverged_at = Some(index);
        }
    }

    fn take_installing(&mut self, from: NodeId) -> Option<Installing> {
        let is_asked = |installing: &mut Installing| installing.offer().from == from;
        self.snapshots.installing.take_if(is_asked)
    }

    fn go_on_installing(
        &mut self,
        from: NodeId,
        next: Result<(Option<Installing>, Step), duramen_snapshot::Error>,
    ) -> Result<(), Error> {
        let (installing, step) = match next {
            Ok(next) => next,
            Err(error @ duramen_snapshot::Error::Full { .. }) => {
                tracing::warn!(%error, "no space for a snapshot");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.snapshots.installing = installing;
        match step {
            Step::Ask(fetch) => self.send_fetch(from, fetch),
            Step::Wait => {}
            Step::GiveUp => tracing::warn!(%from, "a snapshot makes no sense, or is gone"),
            Step::Complete(install, offer) => {
                self.snapshots.is_publishing = true;
                let store = self.storage.snapshots().clone();
                self.jobs.push_back(Job::install(store, *install, offer));
            }
        }
        Ok(())
    }

    /// A snapshot is durable here.
    pub(super) fn installed(&mut self, offer: &Offer, id: SnapshotId) -> Result<(), Error> {
        let Some(file) = self.hold(id)? else {
            return Ok(()); // If it is needed in spite of those that have taken its place, it is offered again.
        };
        if self.raft.snapshot_installed(offer) == SnapshotFate::Newest {
            self.snapshots.installed += 1;
            self.snapshots.mending = None; // The state is in this one.
            tracing::info!(last = %offer.last, "installed a snapshot");
            let restoring = Restoring::Installed(offer.clone());
            self.restore(file, offer.last.index, restoring);
        }
        Ok(())
    }

    /// A snapshot, to be read. None if newer ones have taken its place, and it was dropped.
    pub(super) fn hold(&self, id: SnapshotId) -> Result<Option<SnapshotFile>, Error> {
        match SnapshotFile::of(&self.storage, id) {
            Err(duramen_snapshot::Error::NoSuchSnapshot { .. }) => Ok(None),
            held => Ok(Some(held?)),
        }
    }

    pub(super) fn broken(&self, op: &'static str, source: io::Error) -> Error {
        let path = self.storage.dir().to_owned();
        storage::Error::Io { op, path, source }.into()
    }

    /// One unit of time has passed.
    pub(super) fn tick_snapshots(&mut self) {
        let installing = self.snapshots.installing.as_mut();
        if let Some((to, question)) = installing.and_then(|it| Some((it.offer().from, it.tick()?)))
        {
            self.send_fetch(to, question);
        }
        if let Some(question) = self.snapshots.mending.as_mut().and_then(Mending::tick) {
            self.tell_members(&question);
        }
    }
}
