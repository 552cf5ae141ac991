//! What befalls a cluster: faults are drawn, and what may follow from each is known.
//!
//! Whatever could cost the only copy of something, so that nobody could say what is right, strikes one node at a time: a disk
//! that is emptied, set back, or damaged. The next one is struck when all is well again. Crashes and cut links strike anybody, also
//! all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use duramen_disk::{Disk, SimDisk};
use duramen_wal::NodeId;

use super::machine::SimNode;
use super::network::Faults;
use super::operator::Operator;
use super::recorder::Recorder;
use super::seen::Seen;
use super::world::World;
use crate::node::{Error, Refusal, Trouble, storage};

/// Draws faults.
pub(super) struct Weather {
    /// What was drawn so far.
    pub(super) struck: Seen,
    /// The disk that something was done to, until all is well.
    unlucky: Option<(NodeId, Blow)>,
    backup: Option<Backup>,
    /// Nodes that may say that a sync has failed.
    failing: BTreeSet<NodeId>,
    /// Disks without space, and until when, in microseconds.
    full: BTreeMap<NodeId, u64>,
    /// Nodes that are known to have noticed it.
    refusing: BTreeSet<NodeId>,
    /// Nodes that are known to be silent since a sync has failed.
    silent: BTreeSet<NodeId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Start,
    Kill,
    CutPower,
    CutPowerOfMost,
    Isolate,
    CutLink,
    HealLinks,
    ChangeNetwork,
    Pause,
    JumpClock,
    SetClock,
    StallDisk,
    StallApplier,
    SlowDisk,
    FailSync,
    FillDisk,
    FillAllDisks,
    HandOver,
    Replace,
    Disk,
    BackUp,
}

/// How often each is drawn, in 30 s.
const RATES: [(Fault, u32); 21] = [
    (Fault::Start, 60),
    (Fault::Kill, 10),
    (Fault::CutPower, 15),
    (Fault::CutPowerOfMost, 2),
    (Fault::Isolate, 8),
    (Fault::CutLink, 10),
    (Fault::HealLinks, 25),
    (Fault::ChangeNetwork, 2),
    (Fault::Pause, 8),
    (Fault::JumpClock, 4),
    (Fault::SetClock, 4),
    (Fault::StallDisk, 6),
    (Fault::StallApplier, 40),
    (Fault::SlowDisk, 2),
    (Fault::FailSync, 4),
    (Fault::FillDisk, 6),
    (Fault::FillAllDisks, 1),
    (Fault::HandOver, 8),
    (Fault::Replace, 4),
    (Fault::Disk, 20),
    (Fault::BackUp, 10),
];

/// What is drawn for a millisecond.
fn draw(rng: &mut fastrand::Rng) -> Option<Fault> {
    let mut drawn = rng.u32(..30_000);
    for (fault, rate) in RATES {
        match drawn.checked_sub(rate) {
            None => return Some(fault),
            Some(rest) => drawn = rest,
        }
    }
    None
}

/// What was done to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// Bits were flipped, or sectors are bad.
    Damage,
    /// Emptied, or set back: the node must be refused.
    Lost,
}

/// An earlier state of a disk.
struct Backup {
    id: NodeId,
    uuid: u128,
    boot: u64,
    disk: SimDisk,
}

impl Weather {
    pub(super) fn new() -> Weather {
        Weather {
            struck: Seen::default(),
            unlucky: None,
            backup: None,
            failing: BTreeSet::new(),
            full: BTreeMap::new(),
            refusing: BTreeSet::new(),
            silent: BTreeSet::new(),
        }
    }

    /// A network that is good, bad, or very bad.
    pub(super) fn draw_network(rng: &mut fastrand::Rng) -> Faults {
        Faults {
            lost: [0, 0, 5, 20][rng.usize(..4)],
            doubled: [0, 10][rng.usize(..2)],
            delay_millis: [1, 5, 10, 60][rng.usize(..4)],
            late: [0, 0, 2][rng.usize(..3)],
        }
    }

    /// No disk is full any more.
    pub(super) fn free_all(&mut self) {
        self.full.clear(); // The world has given the space back.
    }

    /// Draws a fault, or none.
    pub(super) fn strike(&mut self, world: &mut World<Recorder>, operator: &mut Operator) {
        let Some(fault) = draw(&mut world.rng) else {
            return;
        };
        let ids = world.ids().into_iter();
        let alive: Vec<NodeId> = ids.filter(|id| !operator.is_out(*id)).collect();
        let (Some(one), Some(other)) = (world.rng.choice(&alive), world.rng.choice(&alive)) else {
            return;
        };
        let (one, other, is_up) = (*one, *other, world.is_up(*one));
        let millis = world.rng.u64(1..2000);
        let time = Duration::from_millis(millis);
        match fault {
            Fault::Start if !is_up || has_failed(world, one) => self.start(world, one),
            Fault::Kill if is_up => self.kill(world, one),
            Fault::CutPower if is_up => self.cut_power(world, one),
            Fault::CutPowerOfMost => self.cut_power_of_most(world, &alive),
            Fault::Isolate => world.isolate(one),
            Fault::CutLink => world.cut(one, other),
            Fault::HealLinks => world.heal_links(),
            Fault::ChangeNetwork => {
                let faults = Weather::draw_network(&mut world.rng);
                world.set_faults(faults);
            }
            Fault::StallApplier => world.stall_applier(one, time / 6),
            Fault::Pause | Fault::JumpClock | Fault::SetClock | Fault::StallDisk => {
                self.struck.pauses += 1;
                match fault {
                    Fault::Pause => world.pause(one, time),
                    Fault::JumpClock => world.jump_clock(one, time),
                    Fault::SetClock => {
                        let by = 10 * millis as i64; // Some sessions do not live so long.
                        let by = if world.rng.bool() { by } else { -by };
                        world.set_clock(one, by);
                    }
                    _ => world.stall_disk(one, time),
                }
            }
            Fault::SlowDisk => world.set_sync_time(one, Duration::from_micros(millis * 10)),
            Fault::FailSync if is_up => self.fail_sync(world, one),
            Fault::FillDisk => self.fill_disk(world, one, 10 * time),
            Fault::FillAllDisks => {
                for id in alive {
                    self.fill_disk(world, id, 5 * time);
                }
            }
            Fault::HandOver => operator.hand_over(world),
            Fault::Replace if self.may_replace(world, operator) => operator.replace(world, one),
            Fault::Disk => self.strike_disk(world, operator, one),
            Fault::BackUp => self.back_up(world, one),
            _ => {}
        }
    }

    fn may_replace(&self, world: &World<Recorder>, operator: &Operator) -> bool {
        self.unlucky.is_none() && !operator.is_replacing() && world.leader().is_some()
    }

    fn kill(&mut self, world: &mut World<Recorder>, id: NodeId) {
        world.kill(id);
        self.struck.kills += 1;
    }

    fn cut_power_of_most(&mut self, world: &mut World<Recorder>, ids: &[NodeId]) {
        for &id in ids {
            if world.is_up(id) && world.rng.u32(..8) > 0 {
                self.cut_power(world, id);
            }
        }
    }

    /// Cuts the power; unless another disk is out: who could say what became of an entry that is torn here and was lost there?
    fn cut_power(&mut self, world: &mut World<Recorder>, id: NodeId) {
        match self.unlucky {
            Some(unlucky) if unlucky != (id, Blow::Lost) => self.kill(world, id),
            _ => world.cut_power_soon(id),
        }
    }

    /// Starts a node, anew if it is silent since its disk failed.
    pub(super) fn start(&mut self, world: &mut World<Recorder>, id: NodeId) {
        if has_failed(world, id) {
            world.kill(id);
        }
        self.failing.remove(&id);
        self.silent.remove(&id);
        world.start(id);
    }

    /// For a while there is hardly any space on a disk.
    fn fill_disk(&mut self, world: &mut World<Recorder>, id: NodeId, time: Duration) {
        let left = [0, world.rng.u64(..100_000)][world.rng.usize(..2)];
        world.set_free_bytes(id, Some(left));
        let until = world.now_micros() + time.as_micros() as u64;
        self.full.insert(id, until);
    }

    /// Gives disks their space back when it is time.
    fn free_disks(&mut self, world: &mut World<Recorder>) {
        let now = world.now_micros();
        let is_over = |(id, until): (&NodeId, &u64)| (*until <= now).then_some(*id);
        let over: Vec<NodeId> = self.full.iter().filter_map(is_over).collect();
        for id in over {
            self.full.remove(&id);
            world.set_free_bytes(id, None);
        }
    }

    /// Looks after nodes whose disks are full, or have failed.
    ///
    /// # Panics
    /// If a node says that for no reason.
    fn look_at_trouble(&mut self, world: &mut World<Recorder>, operator: &mut Operator) {
        for id in world.ids() {
            let trouble = world.node(id).and_then(SimNode::trouble);
            if !matches!(trouble, Some(Trouble::Full)) {
                self.refusing.remove(&id);
            }
            match trouble {
                None => {}
                Some(Trouble::Full) if self.refusing.insert(id) => self.struck.full_disks += 1,
                Some(Trouble::Full) => {}
                Some(Trouble::Failed(error)) => {
                    let why = error.to_string();
                    assert!(
                        self.failing.contains(&id),
                        "{id} has failed for no reason: {why}"
                    );
                    if self.unlucky.is_some_and(|(unlucky, _)| unlucky == id) {
                        world.kill(id);
                        operator.replace_lost(world, id);
                        continue;
                    }
                    self.struck.failed_syncs += u64::from(self.silent.insert(id));
                }
            }
        }
    }

    fn fail_sync(&mut self, world: &mut World<Recorder>, id: NodeId) {
        world.disk(id).fail_next_sync(std::io::ErrorKind::Other);
        self.failing.insert(id);
    }

    fn back_up(&mut self, world: &World<Recorder>, id: NodeId) {
        if let Some(node) = world.node(id) {
            self.backup = Some(Backup {
                id,
                uuid: node.storage().uuid(),
                boot: node.storage().boot(),
                disk: world.disk(id).fork(),
            });
        }
    }

    /// Does something to a disk from which it may not come back.
    fn strike_disk(&mut self, world: &mut World<Recorder>, operator: &mut Operator, id: NodeId) {
        let is_busy = self.unlucky.is_some() || operator.is_replacing();
        if is_busy || world.is_power_failing() || !is_sound(world) {
            return;
        }
        match world.rng.u32(..4) {
            0 => {
                world.kill(id);
                world.empty_disk(id);
                self.lost(world, id);
            }
            1 => {
                if let Some(backup) = self.backup.take_if(|backup| is_known_to_all(world, backup)) {
                    world.kill(backup.id);
                    world.set_back_disk(backup.id, backup.disk);
                    self.lost(world, backup.id);
                    // So it comes to as many starts as before, or to more.
                    for _ in 0..world.rng.u32(..4) {
                        self.kill(world, backup.id);
                        self.start(world, backup.id);
                    }
                }
            }
            _ => self.damage(world, id),
        }
    }

    fn lost(&mut self, world: &mut World<Recorder>, id: NodeId) {
        world.set_free_bytes(id, None); // It is another one.
        self.full.remove(&id);
        self.unlucky = Some((id, Blow::Lost));
        self.struck.lost_disks += 1;
        self.start(world, id);
    }

    /// Flips a bit, or makes a sector unreadable, while the node is down.
    fn damage(&mut self, world: &mut World<Recorder>, id: NodeId) {
        world.kill(id);
        self.unlucky = Some((id, Blow::Damage));
        self.struck.damaged += 1;
        let disk = world.disk(id).clone();
        let files = files_of(&disk);
        let Some((path, bytes)) = world.rng.choice(&files) else {
            return;
        };
        let offset = world.rng.u64(..*bytes);
        world.say(format!("damage in {} at {offset}", path.display()));
        let damaged = match world.rng.bool() {
            true => disk.flip_bit(path, offset, world.rng.u8(..8)),
            false => disk.make_bad(path, offset..offset + 1),
        };
        damaged.expect("the file is there");
    }

    /// Looks after processes that ended by themselves.
    ///
    /// # Panics
    /// If one had no reason to.
    pub(super) fn bury(&mut self, world: &mut World<Recorder>, operator: &mut Operator) {
        self.look_at_trouble(world, operator);
        for (id, error) in world.take_ended() {
            let unlucky = self.unlucky.filter(|(unlucky, _)| *unlucky == id);
            match (&error, unlucky) {
                (_, Some((_, Blow::Lost))) | (Error::Storage(_), Some((_, Blow::Damage))) => {
                    operator.replace_lost(world, id);
                }
                // What is damaged after the last mark may look torn, and be an entry, or that the node was started.
                (
                    Error::Refused {
                        refusal: Refusal::LostEntries { .. } | Refusal::OtherStart { .. },
                        ..
                    },
                    Some((_, Blow::Damage)),
                ) => {
                    operator.replace_lost(world, id);
                }
                (Error::Storage(_), None) if self.failing.remove(&id) => {
                    self.struck.failed_syncs += 1;
                }
                // It could not start. It is tried again.
                (Error::Storage(error), None)
                    if self.full.contains_key(&id) && has_no_space(error) => {}
                _ => panic!("{id} has ended for no reason: {error}"),
            }
        }
        self.free_disks(world); // After that: who has ended for the lack of space had a reason.
    }

    /// Lets the cluster get over what was done to a disk. One that is damaged is replaced when all is well: there may be more
    /// that nobody has read yet.
    pub(super) fn get_over(&mut self, world: &mut World<Recorder>, operator: &mut Operator) {
        let Some((id, blow)) = self
            .unlucky
            .filter(|_| is_sound(world) && !operator.is_replacing())
        else {
            return;
        };
        match operator.has_replaced(id) {
            true => self.unlucky = None,
            false if blow == Blow::Damage => operator.replace(world, id),
            false => panic!("{id} lost its disk, and nobody has noticed"),
        }
    }
}

/// Whether a node is silent since its disk failed.
pub(super) fn has_failed(world: &World<Recorder>, id: NodeId) -> bool {
    let trouble = world.node(id).and_then(SimNode::trouble);
    matches!(trouble, Some(Trouble::Failed(_)))
}

fn has_no_space(error: &storage::Error) -> bool {
    let is_full = matches!(
        error,
        storage::Error::Snapshots(duramen_snapshot::Error::Full { .. })
    );
    error.is_full() || is_full
}

/// Whether every member is up, has all there is, and nothing of it is bad.
fn is_sound(world: &World<Recorder>) -> bool {
    let Some(leader) = world.leader().and_then(|leader| world.node(leader)) else {
        return false;
    };
    let raft = leader.raft();
    let membership = raft.membership();
    let last = raft.last();
    raft.commit() == last.index
        && !membership.is_joint()
        && membership.all().into_iter().all(|id| {
            world.node(id).is_some_and(|node| {
                let raft = node.raft();
                let is_whole = raft.bad_entries().next().is_none() && raft.has_state();
                is_whole
                    && node.trouble().is_none()
                    && raft.last() == last
                    && node.storage().durable() == last
                    && !node.is_writing()
            })
        })
}

/// Whether all others have met the node since it was started anew: whoever is the first to meet it again refuses it.
fn is_known_to_all(world: &World<Recorder>, backup: &Backup) -> bool {
    let is_same = world
        .node(backup.id)
        .is_some_and(|node| node.storage().uuid() == backup.uuid);
    let mut others = world.nodes().filter(|node| node.status().id != backup.id);
    let met = |other: &SimNode<Recorder>| other.storage().met(backup.uuid);
    is_same && others.all(|other| met(other).is_some_and(|boot| boot.count > backup.boot))
}

/// All files of a disk that have something in them, with their lengths.
fn files_of(disk: &SimDisk) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    for dir in ["/node/log", "/node/snapshots"].map(Path::new) {
        for name in disk.list(dir).unwrap_or_default() {
            let path = dir.join(name);
            let bytes = disk.open(&path).and_then(|file| file.len());
            if let Ok(bytes @ 1..) = bytes {
                files.push((path, bytes));
            }
        }
    }
    files
}
