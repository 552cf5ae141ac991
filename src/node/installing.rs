//! Fetching a snapshot that this node needs, from the node that offered it.
//!
//! The manifest comes first, then the chunks that are not here, some at a time. What is not answered for a while is asked for
//! again. An install that is given up keeps what has arrived, and the next one goes on with it, after a crash too.

use std::collections::BTreeSet;

use bytes::Bytes;
use duramen_snapshot::{ChunkName, Error, Install, Manifest, SnapshotStore};

use crate::raft::{Membership, Offer};
use crate::storage::SnapshotName;
use crate::transport::{CHUNKS_ASKED_MAX, Fetch, Hash};

/// A snapshot that is being fetched.
pub(super) struct Installing {
    offer: Offer,
    name: SnapshotName,
    stage: Stage,
    /// Ticks since the last question, or answer.
    silent_ticks: u32,
}

enum Stage {
    /// So much of the manifest has arrived.
    Manifest(Vec<u8>),
    Chunks {
        install: Box<Install>,
        /// Not asked for yet.
        missing: Vec<ChunkName>,
        /// Asked for, and not here.
        asked: BTreeSet<Hash>,
    },
}

/// What an answer has led to.
pub(super) enum Step {
    /// There is more to come.
    Ask(Fetch),
    Wait,
    /// All is here: it is to be made durable.
    Complete(Box<Install>, Offer),
    /// It cannot be had from there.
    GiveUp,
}

/// What is not answered for so long is asked for again.
const PATIENCE_TICKS: u32 = 50;

impl Installing {
    /// Begins, and says what to ask. `None` if the offer names no snapshot.
    pub(super) fn begin(offer: Offer) -> Option<(Installing, Fetch)> {
        let name = SnapshotName::decode(&offer.manifest)?;
        let installing = Installing {
            offer,
            name,
            stage: Stage::Manifest(Vec::new()),
            silent_ticks: 0,
        };
        let question = installing.question();
        Some((installing, question))
    }

    /// Who is asked.
    pub(super) fn offer(&self) -> &Offer {
        &self.offer
    }

    /// One unit of time has passed. Says what is to be asked again.
    pub(super) fn tick(&mut self) -> Option<Fetch> {
        self.silent_ticks += 1;
        (self.silent_ticks >= PATIENCE_TICKS).then(|| {
            self.silent_ticks = 0;
            self.question()
        })
    }

    /// What is to be asked for, as things stand.
    fn question(&self) -> Fetch {
        match &self.stage {
            Stage::Manifest(so_far) => Fetch::AskManifest {
                manifest: *self.name.manifest.as_bytes(),
                offset: so_far.len() as u64,
            },
            Stage::Chunks { asked, .. } => Fetch::AskChunks {
                chunks: asked.iter().copied().collect(),
            },
        }
    }

    /// Takes in a piece of the manifest.
    pub(super) fn manifest(
        mut self,
        hash: Hash,
        offset: u64,
        bytes: &Bytes,
        store: &SnapshotStore,
    ) -> Result<(Option<Installing>, Step), Error> {
        let Stage::Manifest(so_far) = &mut self.stage else {
            return Ok((Some(self), Step::Wait));
        };
        if hash != *self.name.manifest.as_bytes() || offset != so_far.len() as u64 {
            return Ok((Some(self), Step::Wait));
        }
        self.silent_ticks = 0;
        // No more than was announced, whatever comes.
        let room = self.name.manifest_bytes.saturating_sub(offset);
        so_far.extend_from_slice(&bytes[..bytes.len().min(room as usize)]);
        if bytes.is_empty() || (so_far.len() as u64) < self.name.manifest_bytes {
            let step = match bytes.is_empty() {
                true => return Ok((None, Step::GiveUp)), // It ends before its end.
                false => Step::Ask(self.question()),
            };
            return Ok((Some(self), step));
        }
        let manifest = Manifest::decode(so_far).ok().filter(|manifest| {
            let meta = manifest.meta();
            let last = (self.offer.last.term.0, self.offer.last.index.0);
            let membership = Membership::decode(&meta.membership);
            manifest.name() == self.name.manifest
                && (meta.last_term, meta.last_index) == last
                && membership.as_ref() == Some(&self.offer.membership)
        });
        let Some(manifest) = manifest else {
            return Ok((None, Step::GiveUp));
        };
        let install = Box::new(store.begin_install(manifest)?);
        let missing = install.missing();
        self.stage = Stage::Chunks {
            install,
            missing,
            asked: BTreeSet::new(),
        };
        Ok(self.go_on())
    }

    /// Takes in a chunk.
    pub(super) fn chunk(
        mut self,
        hash: Hash,
        bytes: &Bytes,
    ) -> Result<(Option<Installing>, Step), Error> {
        let Stage::Chunks { install, asked, .. } = &mut self.stage else {
            return Ok((Some(self), Step::Wait));
        };
        if !asked.contains(&hash) {
            return Ok((Some(self), Step::Wait));
        }
        match install.put(ChunkName::from_bytes(hash), bytes) {
            Ok(_) => {}
            // Garbage on the way: it will be asked for again.
            Err(Error::WrongChunk { .. } | Error::UnknownChunk { .. }) => {
                return Ok((Some(self), Step::Wait));
            }
            Err(error) => return Err(error),
        }
        self.silent_ticks = 0;
        asked.remove(&hash);
        match asked.is_empty() {
            true => Ok(self.go_on()),
            false => Ok((Some(self), Step::Wait)),
        }
    }

    /// All that was asked for is here: what is next?
    fn go_on(mut self) -> (Option<Installing>, Step) {
        let Stage::Chunks { missing, asked, .. } = &mut self.stage else {
            return (Some(self), Step::Wait);
        };
        let from = missing.len().saturating_sub(CHUNKS_ASKED_MAX);
        asked.extend(missing.drain(from..).map(|name| *name.as_bytes()));
        if !asked.is_empty() {
            let question = self.question();
            return (Some(self), Step::Ask(question));
        }
        match self.stage {
            Stage::Chunks { install, .. } => (None, Step::Complete(install, self.offer)),
            Stage::Manifest(_) => (None, Step::GiveUp),
        }
    }

    /// Whether this is the manifest that was asked for: then whoever was asked does not have the snapshot.
    pub(super) fn is_of(&self, manifest: Hash) -> bool {
        manifest == *self.name.manifest.as_bytes()
    }

    /// Whether a chunk was asked for, and is not here.
    pub(super) fn wants(&self, chunk: Hash) -> bool {
        matches!(&self.stage, Stage::Chunks { asked, .. } if asked.contains(&chunk))
    }
}
