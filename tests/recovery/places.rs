//! Every kind of place in a node's files, damaged on a follower, on the leader, on all but one, and on all nodes.

use duramen::wal::NodeId;

use super::cases::{is_proof, try_all};
use super::cluster::{Base, Cluster, Outcome, Shape, nodes};
use super::damage::{Part, Place, files, flip_in, manifest, parts};

/// Entries fill more than a segment, and the log before the newest snapshot is gone.
const LONG: Shape = Shape {
    writes: 70,
    value_bytes: 3000,
    snapshot_bytes: 150 << 10,
    keep_bytes: 0,
};

/// Who is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Struck {
    AFollower,
    TheLeader,
    AllButOne,
    All,
}

const STRUCK: [Struck; 4] = [
    Struck::AFollower,
    Struck::TheLeader,
    Struck::AllButOne,
    Struck::All,
];

impl Struck {
    fn of(self, base: &Base) -> Vec<NodeId> {
        let follower = nodes()
            .find(|id| *id != base.leader)
            .expect("there are three");
        match self {
            Struck::AFollower => vec![follower],
            Struck::TheLeader => vec![base.leader],
            Struck::AllButOne => nodes().filter(|id| *id != follower).collect(),
            Struck::All => nodes().collect(),
        }
    }
}

/// Strikes each of these nodes at the same place, as far as their files are the same, and starts all.
fn strike(
    base: &Base,
    struck: Struck,
    number: u64,
    place: impl Fn(&Base, NodeId, &mut fastrand::Rng) -> Place,
) -> Outcome {
    let base = base.fork();
    for id in struck.of(&base) {
        let mut rng = fastrand::Rng::with_seed(number);
        let place = place(&base, id, &mut rng);
        flip_in(base.disk(id), &place, &mut rng);
    }
    base.start(number)
}

/// Tries a kind of place on everybody. `all` says what must become of it if every node is struck; `None` if that depends on the place.
fn try_place(
    name: &str,
    base: &Base,
    all: Option<bool>,
    all_but_one: Option<bool>,
    place: impl Fn(&Base, NodeId, &mut fastrand::Rng) -> Place + Sync,
) -> Vec<Outcome> {
    let per_set = if is_proof() { 200 } else { 8 };
    let outcomes = std::sync::Mutex::new(Vec::new());
    let sum = try_all(name, 0..STRUCK.len() as u64 * per_set, |number| {
        let struck = STRUCK[(number / per_set) as usize];
        let outcome = strike(base, struck, number, &place);
        let wanted = match struck {
            Struck::All => all,
            Struck::AllButOne => all_but_one,
            _ => Some(true),
        };
        assert!(
            wanted.is_none_or(|wanted| wanted == outcome.is_served),
            "{struck:?}: {outcome:?}"
        );
        outcomes.lock().unwrap().push(outcome.clone());
        outcome
    });
    assert!(sum.cases > 0);
    outcomes.into_inner().unwrap()
}

/// A part of a log, drawn among those that `is_wanted`.
fn draw(
    base: &Base,
    id: NodeId,
    rng: &mut fastrand::Rng,
    is_wanted: impl Fn(&Place) -> bool,
) -> Place {
    let mut places = parts(base.disk(id));
    places.retain(is_wanted);
    places.swap_remove(rng.usize(..places.len()))
}

/// A file by the end of its name: the newest of those.
fn newest(base: &Base, id: NodeId, name: &str) -> Place {
    let mut files = files(base.disk(id));
    files.retain(|file| file.path.to_string_lossy().ends_with(name));
    files.pop().expect("there is such a file")
}

fn long() -> Base {
    Cluster::new(5, LONG).stop()
}

/// One whole copy is enough; without any the cluster waits, and names the entry.
#[test]
fn an_entry() {
    let base = long();
    let first_kept = base.committed[0].index;
    try_place(
        "places/entries",
        &base,
        Some(false),
        Some(true),
        |base, id, rng| {
            // What a snapshot stands for is not needed.
            draw(
                base,
                id,
                rng,
                |place| matches!(place.part, Part::Payload(id) if id.index >= first_kept && place.bytes > 0),
            )
        },
    );
}

/// Frames and seal say the same: each stands in for the other, on every node by itself.
#[test]
fn a_seal() {
    let never = u64::MAX;
    let kept = Shape {
        snapshot_bytes: never,
        keep_bytes: never,
        ..LONG
    };
    let base = Cluster::new(5, kept).stop();
    let is_seal = |place: &Place| place.part == Part::Seal;
    let outcomes = try_place(
        "places/seals",
        &base,
        Some(true),
        Some(true),
        |base, id, rng| draw(base, id, rng, is_seal),
    );
    assert!(
        outcomes
            .iter()
            .all(|outcome| outcome.refused == 0 && outcome.bad == 0)
    );
}

/// Of the two slots of CONTROL the other one is there.
#[test]
fn a_slot_of_control() {
    let outcomes = try_place(
        "places/CONTROL",
        &long(),
        Some(true),
        Some(true),
        |base, id, _| newest(base, id, "/CONTROL"),
    );
    assert!(outcomes.iter().all(|outcome| outcome.refused == 0));
}

/// Wherever it is in a frame: an entry's payload can be had from a peer; what the frame's directory says is in the seal too, or is
/// known to be lost, and then the node does not start.
#[test]
fn a_frame() {
    try_place("places/frames", &long(), None, None, |base, id, rng| {
        draw(base, id, rng, |place| place.part == Part::Frame)
    });
}

#[test]
fn the_header_of_a_segment() {
    try_place(
        "places/segment headers",
        &long(),
        None,
        None,
        |base, id, rng| {
            let files = files(base.disk(id)).into_iter();
            let mut segments: Vec<Place> = files
                .filter(|file| file.path.extension().is_some_and(|name| name == "wal"))
                .collect();
            let segment = segments.swap_remove(rng.usize(..segments.len()));
            Place {
                bytes: 64,
                ..segment
            }
        },
    );
}

/// Chunks are the same on all nodes: any other has it.
#[test]
fn a_chunk_of_the_snapshot() {
    try_place("places/chunks", &long(), None, Some(true), |base, id, _| {
        let file = newest(base, id, ".snap");
        Place {
            offset: 100,
            bytes: file.bytes / 2,
            ..file
        }
    });
}

/// The node takes an older snapshot if the log goes on from there, or takes in one of a peer.
#[test]
fn the_manifest_of_the_snapshot() {
    try_place(
        "places/manifests",
        &long(),
        None,
        Some(true),
        |base, id, _| manifest(base.disk(id), newest(base, id, ".snap")),
    );
}

/// Nothing says that the last write was durable: its damage may be a torn write, and the peers decide. One whole copy is enough. If all
/// copies are bad the cluster goes on without it.
#[test]
fn the_last_entry_before_it_is_marked() {
    let shape = Shape {
        writes: 5,
        value_bytes: 300,
        snapshot_bytes: 1 << 30,
        keep_bytes: 0,
    };
    let killed = Cluster::new(9, shape).kill();
    let last = *killed.committed.last().expect("they were written");
    let per_set = if is_proof() { 200 } else { 8 };
    let sum = try_all(
        "places/suspect tails",
        0..STRUCK.len() as u64 * per_set,
        |number| {
            let struck = STRUCK[(number / per_set) as usize];
            let mut base = killed.fork();
            if struck == Struck::All {
                base.forgive_last();
            }
            let outcome = strike(&base, struck, number, |base, id, rng| {
                draw(base, id, rng, |place| place.part == Part::Payload(last))
            });
            assert!(
                outcome.is_served && outcome.refused == 0,
                "{struck:?}: {outcome:?}"
            );
            assert_eq!(
                outcome.bad,
                struck.of(&base).len() as u64,
                "each is noticed"
            );
            outcome
        },
    );
    assert_eq!(sum.served, sum.cases);
}
