//! The bytes of what is written. They follow from the seed and from the operation that writes them, so that the parent knows each
//! byte that a child has written, and no two operations write the same.

use bytes::Bytes;
use duramen::snapshot::Meta;
use duramen::wal::{Context, Entry, HardState, NodeId, Term};
use fastrand::Rng;

use super::model::{Group, Id, Snapshot};

/// What is drawn from a seed, so that draws for one purpose tell nothing of those for another.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Operation,
    Round,
    Payload,
    Record,
    Block,
}

/// A generator of its own for this purpose and these numbers.
pub(super) fn rng(seed: u64, purpose: Purpose, numbers: [u64; 3]) -> Rng {
    let mix = |state: u64, number: u64| {
        let mixed = (state ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ mixed >> 29
    };
    let state = mix(seed, purpose as u64 + 1);
    Rng::with_seed(numbers.into_iter().fold(state, mix))
}

/// The largest payload, in bytes.
pub(super) const PAYLOAD_BYTES_MAX: usize = 8 << 10;
const RECORD_BYTES_MAX: usize = 200;
const BLOCK_BYTES: usize = 4 << 10;

/// Most are small, some fill more than a page, and some are empty.
fn payload_bytes(rng: &mut Rng) -> usize {
    match rng.u8(0..20) {
        0 => 0,
        1..15 => rng.usize(1..300),
        15..19 => rng.usize(300..3000),
        _ => rng.usize(3000..=PAYLOAD_BYTES_MAX),
    }
}

fn fill(rng: &mut Rng, bytes: usize) -> Vec<u8> {
    let mut filled = vec![0; bytes];
    rng.fill(&mut filled);
    filled
}

/// A few bytes of the caller's, of any length.
fn context(op: u64) -> Context {
    let bytes = op.to_le_bytes();
    let len = (op % (bytes.len() as u64 + 1)) as usize;
    Context::new(&bytes[..len]).expect("eight bytes are not too many")
}

/// The entry that the operation `op` appends here.
pub(super) fn entry(seed: u64, op: u64, group: u64, id: Id) -> Entry {
    let mut rng = rng(seed, Purpose::Payload, [op, group, id.index]);
    let bytes = payload_bytes(&mut rng);
    Entry {
        id: id.into(),
        context: context(op),
        payload: fill(&mut rng, bytes).into(),
    }
}

/// The user record that the operation `op` writes.
pub(super) fn record(seed: u64, op: u64, group: u64) -> Bytes {
    let mut rng = rng(seed, Purpose::Record, [op, group, 0]);
    let bytes = rng.usize(1..=RECORD_BYTES_MAX);
    fill(&mut rng, bytes).into()
}

/// Term and vote, as the operation `op` sets them.
pub(super) fn hard_state(op: u64, term: u64, voted_for: Option<u64>) -> HardState {
    HardState {
        term: Term(term),
        voted_for: voted_for.map(NodeId),
        context: context(op),
    }
}

/// Those of a group; of one that has none, what the log says of it.
pub(super) fn hard_state_of(group: &Group) -> HardState {
    match group.term {
        0 => HardState::default(),
        term => hard_state(group.vote_op, term, group.voted_for),
    }
}

/// What is said of a snapshot.
pub(super) fn meta(snapshot: &Snapshot) -> Meta {
    let mut meta = Meta::new(snapshot.last.term, snapshot.last.index);
    meta.membership = snapshot.op.to_le_bytes().to_vec();
    meta.extra = context(snapshot.op).as_bytes().to_vec();
    meta
}

/// The state that a snapshot is of, block by block.
pub(super) fn blocks(seed: u64, snapshot: &Snapshot) -> impl Iterator<Item = Vec<u8>> + '_ {
    let blocks = (0..).zip(&snapshot.blocks);
    blocks
        .map(move |(place, op)| fill(&mut rng(seed, Purpose::Block, [*op, place, 0]), BLOCK_BYTES))
}
