//! Any commands for the store with sessions around it, as they stand in the log: nothing panics, and a node that goes on from a
//! snapshot gives what the others give. Any bytes as a snapshot: an error, or a state that comes back from
//! its own snapshot, and goes on.
#![no_main]

#[path = "machine/input.rs"]
mod input;
#[path = "memory.rs"]
mod memory;

use bytes::Bytes;
use duramen::kv::Kv;
use duramen::node::StateMachine;
use duramen::server::Machine;
use duramen::session::Sessions;
use libfuzzer_sys::fuzz_target;

use input::{Input, Step};

fn frozen(machine: &Machine) -> Vec<u8> {
    let mut bytes = Vec::new();
    machine.freeze()(&mut bytes).expect("memory takes it");
    bytes
}

/// Buffers, and what a key or a session costs beside its bytes.
const BYTES_AT_LEAST: usize = 1 << 20;
const BYTES_PER_BYTE: usize = 64;

fn restored(bytes: &[u8]) -> std::io::Result<Machine> {
    let bytes_max = BYTES_AT_LEAST + bytes.len() * BYTES_PER_BYTE;
    memory::within(bytes_max, || {
        let mut machine = Sessions::new(Kv::default());
        machine.restore(&mut &bytes[..])?;
        Ok(machine)
    })
}

/// All that can be seen of two machines is the same.
fn assert_same(one: &Machine, other: &Machine) {
    assert_eq!(frozen(one), frozen(other));
    assert_eq!(one.next_deadline(), other.next_deadline());
    let (one_open, other_open) = (one.open_sessions(), other.open_sessions());
    assert_eq!(one_open.count(), other_open.count());
    let (one, other) = (one.inner(), other.inner());
    assert!(one == other);
    let usage = |kv: &Kv| format!("{:?}", kv.usage());
    assert_eq!(usage(one), usage(other));
}

/// Goes on from any bytes that are a state.
fn go_on(bytes: &[u8], commands: &[Bytes]) {
    let Ok(mut machine) = restored(bytes) else {
        return;
    };
    // A part may have come in another order or form: it stands in one of its own from now on.
    let again = restored(&frozen(&machine)).expect("its own bytes");
    assert_same(&machine, &again);
    for command in commands {
        machine.apply(command);
    }
}

fuzz_target!(|input: Input| {
    if let Input::Snapshot { bytes, then } = &input {
        go_on(bytes, &input::commands(then));
        return;
    }
    let Input::Steps { steps, spoils } = input else {
        return;
    };
    let (mut machine, mut other) = (Sessions::new(Kv::default()), Sessions::new(Kv::default()));
    let mut commands = Vec::new();
    for step in &steps {
        if matches!(step, Step::Snapshot) {
            other = restored(&frozen(&machine)).expect("its own bytes");
            assert_same(&machine, &other);
        }
        if let Some(command) = step.command() {
            assert_eq!(machine.apply(&command), other.apply(&command));
            commands.push(command);
        }
    }
    assert_same(&machine, &other);
    let mut bytes = frozen(&machine);
    for spoil in spoils {
        spoil.put(&mut bytes);
    }
    go_on(&bytes, &commands);
});
