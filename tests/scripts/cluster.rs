//! A cluster in the simulator, and a client.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use duramen::kv::{Command, Kv, Output};
use duramen::node::{Input, NotDone};
use duramen::sim::{Settings, World};
use duramen::wal::NodeId;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// Within this time a cluster has a leader, if a majority is there.
pub(crate) const ELECTION: Duration = Duration::from_secs(5);

pub(crate) fn cluster(seed: u64) -> World<Kv> {
    let mut world = World::new(seed, 3, Settings::default(), |_| Kv::default());
    assert!(world.run_until(ELECTION, |world| world.leader().is_some()));
    world.run_for(SECOND);
    world
}

pub(crate) fn others(leader: NodeId) -> [NodeId; 2] {
    let mut others = [1, 2, 3].map(NodeId).into_iter().filter(|id| *id != leader);
    [others.next().unwrap(), others.next().unwrap()]
}

/// Appends to a key, again and again until somebody takes it. Says whether that was in time.
pub(crate) fn append(world: &mut World<Kv>, value: impl Into<Bytes>) -> bool {
    let told: Arc<Mutex<Option<Result<Output, NotDone>>>> = Arc::default();
    let command = Command::append("key", value).encode();
    let end = world.now() + 2 * ELECTION;
    while world.now() < end {
        let Some(leader) = world.leader() else {
            world.run_for(SECOND / 20);
            continue;
        };
        let tell = told.clone();
        let on_applied = Box::new(move |answer| *tell.lock().unwrap() = Some(answer));
        let command = command.clone();
        world.give(
            leader,
            Input::Propose {
                command,
                on_applied,
            },
        );
        world.run_until(SECOND * 6, |_| told.lock().unwrap().is_some());
        if matches!(told.lock().unwrap().take(), Some(Ok(_))) {
            return true;
        }
        world.run_for(SECOND / 20); // It may be refused at once.
    }
    false
}

/// Gives a write to a node, and says what became of it.
pub(crate) fn write(
    world: &mut World<Kv>,
    id: NodeId,
    value: Bytes,
) -> Option<Result<Output, NotDone>> {
    let told: Arc<Mutex<Option<_>>> = Arc::default();
    let tell = told.clone();
    let command = Command::set("large", value).encode();
    let on_applied = Box::new(move |answer| *tell.lock().unwrap() = Some(answer));
    world.give(
        id,
        Input::Propose {
            command,
            on_applied,
        },
    );
    world.run_until(SECOND * 6, |_| told.lock().unwrap().is_some());
    told.lock().unwrap().take()
}

/// What a key is, as a node says.
pub(crate) fn read(world: &mut World<Kv>, id: NodeId) -> Option<Result<Option<Bytes>, NotDone>> {
    let told: Arc<Mutex<Option<_>>> = Arc::default();
    let tell = told.clone();
    let query = move |kv: Result<&Kv, NotDone>| {
        let value = kv.map(|kv| kv.view().find(b"key").cloned());
        *tell.lock().unwrap() = Some(value);
    };
    world.give(id, Input::Read(Box::new(query)));
    world.run_until(SECOND * 6, |_| told.lock().unwrap().is_some());
    told.lock().unwrap().take()
}

/// What a node has at the key.
pub(crate) fn value(world: &World<Kv>, id: NodeId) -> Option<Bytes> {
    let kv = world.node(id).unwrap().state();
    kv.view().find(b"key").cloned()
}
