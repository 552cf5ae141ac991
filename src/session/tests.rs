//! Calls, repeated and out of order, across snapshots.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Adds up what it is given, and gives the sum.
#[derive(Default)]
struct Sum {
    sum: u64,
    now: LogTime,
}

impl StateMachine for Sum {
    type Output = u64;

    fn apply(&mut self, command: &[u8]) -> u64 {
        self.sum += command.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        self.sum
    }

    fn freeze(&self) -> Frozen {
        let sum = self.sum;
        Box::new(move |to| to.write_all(&sum.to_le_bytes()))
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        self.sum = u64::from_le_bytes(bytes);
        Ok(())
    }

    fn advance_to(&mut self, now: LogTime) {
        self.now = now;
    }
}

type Machine = Sessions<Sum>;

const LIFETIME_MS: u64 = 1000;

fn machine() -> Machine {
    Sessions::new(Sum::default())
}

fn open(machine: &mut Machine, time: u64) -> SessionId {
    let action = Action::Open {
        lifetime_ms: LIFETIME_MS,
    };
    match machine.apply(&action.encode(LogTime(time))) {
        Given::Opened(session) => session,
        other => panic!("{other:?}"),
    }
}

fn call(
    machine: &mut Machine,
    time: u64,
    session: SessionId,
    sequence: u64,
    command: &[u8],
) -> Given<u64> {
    let action = Action::Call {
        session,
        sequence,
        command,
    };
    machine.apply(&action.encode(LogTime(time)))
}

fn tick(machine: &mut Machine, time: u64) {
    let given = machine.apply(&Action::Tick.encode(LogTime(time)));
    assert_eq!(given, Given::Ticked);
}

fn restored(machine: &Machine) -> Machine {
    let mut bytes = Vec::new();
    machine.freeze()(&mut bytes).unwrap();
    let mut restored = self::machine();
    restored.restore(&mut &bytes[..]).unwrap();
    restored
}

#[test]
fn a_call_is_carried_out_once_and_answered_alike_each_time() {
    let mut machine = machine();
    let session = open(&mut machine, 1);
    assert_eq!(call(&mut machine, 2, session, 1, &[5]), Given::Output(5));
    assert_eq!(call(&mut machine, 3, session, 1, &[5]), Given::Output(5));
    let plain = Action::Plain(&[1]).encode(LogTime(4));
    assert_eq!(machine.apply(&plain), Given::Output(6));
    let mut machine = restored(&machine);
    assert_eq!(call(&mut machine, 5, session, 1, &[5]), Given::Output(5));
    assert_eq!(call(&mut machine, 6, session, 2, &[5]), Given::Output(11));
}

#[test]
fn what_is_neither_the_last_call_nor_the_next_is_refused() {
    let mut machine = machine();
    let session = open(&mut machine, 1);
    let refused = |sequence, last| Given::Refused(CallRefused::OutOfOrder { sequence, last });
    assert_eq!(call(&mut machine, 2, session, 0, &[5]), refused(0, 0));
    assert_eq!(call(&mut machine, 2, session, 2, &[5]), refused(2, 0));
    call(&mut machine, 2, session, 1, &[5]);
    call(&mut machine, 2, session, 2, &[5]);
    assert_eq!(call(&mut machine, 2, session, 1, &[5]), refused(1, 2));
    assert_eq!(
        call(&mut machine, 2, session, u64::MAX, &[5]),
        refused(u64::MAX, 2)
    );
    let other = Given::Refused(CallRefused::OtherCommand { sequence: 2 });
    assert_eq!(call(&mut machine, 2, session, 2, &[6]), other);
    assert_eq!(machine.inner().sum, 10);
}

#[test]
fn a_session_that_was_not_used_ends_by_the_time_of_the_log() {
    let mut machine = machine();
    let session = open(&mut machine, 5000);
    assert_eq!(machine.next_deadline(), Some(LogTime(6000)));
    assert_eq!(machine.tick(LogTime(5999)), None);
    assert!(machine.tick(LogTime(6000)).is_some());
    // A leader whose clock is behind does not make it live longer, nor shorter.
    assert_eq!(call(&mut machine, 1, session, 1, &[5]), Given::Output(5));
    assert_eq!(machine.next_deadline(), Some(LogTime(6000)));
    call(&mut machine, 5500, session, 1, &[5]);
    tick(&mut machine, 6499);
    assert_eq!(machine.open_sessions().count(), 1);
    tick(&mut machine, 6500);
    let gone = Given::Refused(CallRefused::NoSession);
    assert_eq!(call(&mut machine, 6501, session, 1, &[5]), gone);
    assert_eq!(
        (machine.open_sessions().count(), machine.inner().sum),
        (0, 5)
    );
    assert_eq!(machine.inner().now, LogTime(6501));
}

#[test]
fn a_closed_session_is_gone_and_its_number_is_not_used_again() {
    let mut machine = machine();
    let session = open(&mut machine, 1);
    let close = Action::Close { session }.encode(LogTime(2));
    assert_eq!(machine.apply(&close), Given::Closed);
    let gone = Given::Refused(CallRefused::NoSession);
    assert_eq!(machine.apply(&close), gone);
    assert_ne!(open(&mut restored(&machine), 3), session);
    assert_eq!(machine.next_deadline(), None);
}

#[test]
fn if_there_are_too_many_sessions_the_one_ends_that_was_not_used_for_longest() {
    let mut machine = machine();
    let (first, second) = (open(&mut machine, 1), open(&mut machine, 1));
    for _ in 2..table::SESSIONS_MAX {
        open(&mut machine, 1);
    }
    call(&mut machine, 2, first, 1, &[5]);
    open(&mut machine, 3);
    assert_eq!(machine.open_sessions().count(), table::SESSIONS_MAX);
    assert_eq!(call(&mut machine, 4, first, 1, &[5]), Given::Output(5));
    let gone = Given::Refused(CallRefused::NoSession);
    assert_eq!(call(&mut machine, 4, second, 1, &[5]), gone);
}

#[test]
fn a_snapshot_has_these_bytes_and_no_others() {
    let mut machine = machine();
    let session = open(&mut machine, 3);
    call(&mut machine, 4, session, 1, &[5]);
    open(&mut machine, 4);
    let mut bytes = Vec::new();
    machine.freeze()(&mut bytes).unwrap();
    let number = |number: u8| [number, 0, 0, 0, 0, 0, 0, 0];
    let head = [&[1][..], &number(4), &number(2), &[2, 0, 0, 0]].concat();
    assert_eq!(bytes[..head.len()], head);
    let hash = blake3::hash(&[5]);
    let checksum = &hash.as_bytes()[..16];
    let lifetime = &LIFETIME_MS.to_le_bytes()[..];
    let first = [
        &number(1),
        lifetime,
        &number(4),
        &number(1),
        checksum,
        &[1, 0, 0, 0, 5],
    ]
    .concat();
    let second = [&number(2), lifetime, &number(4), &number(0), &[0; 20]].concat();
    let sum = number(5);
    assert_eq!(bytes[head.len()..], [&first[..], &second, &sum].concat());
    for len in 0..bytes.len() {
        assert!(
            self::machine().restore(&mut &bytes[..len]).is_err(),
            "{len}"
        );
    }
    bytes[0] = 2;
    assert!(self::machine().restore(&mut &bytes[..]).is_err());
}

/// A snapshot with sessions of these ids and sequences, each with a lifetime of as many milliseconds as its id.
fn snapshot(opened: u64, sessions: &[(u64, u64)]) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend(
        [0_u64, opened]
            .iter()
            .flat_map(|number| number.to_le_bytes()),
    );
    bytes.extend((sessions.len() as u32).to_le_bytes());
    for (id, sequence) in sessions {
        for number in [*id, *id, 0, *sequence] {
            bytes.extend(number.to_le_bytes());
        }
        let reply: &[u8] = if *sequence == 0 { &[] } else { &[7] };
        bytes.extend([0; 16]);
        bytes.extend((reply.len() as u32).to_le_bytes());
        bytes.extend(reply);
    }
    bytes.extend(0_u64.to_le_bytes());
    bytes
}

#[test]
fn a_snapshot_with_sessions_that_cannot_be_is_refused() {
    for (opened, sessions, is_right) in [
        (9, &[(1, 0), (2, 0)][..], true),
        (9, &[(2, 0), (2, 0)], false), // Time would never go on again.
        (9, &[(2, 0), (1, 0)], false),
        (9, &[(0, 0)], false),
        (1, &[(1, 0), (2, 0)], false), // The next one that is opened would be the second of its name.
        (u64::MAX, &[], false),
    ] {
        let mut machine = machine();
        let restored = machine.restore(&mut &snapshot(opened, sessions)[..]);
        assert_eq!(restored.is_ok(), is_right, "{opened} {sessions:?}");
    }
}

#[test]
fn after_the_last_number_there_is_no_call() {
    let mut machine = machine();
    let bytes = snapshot(1, &[(1, u64::MAX)]);
    machine.restore(&mut &bytes[..]).unwrap();
    let given = call(&mut machine, 0, SessionId(1), 0, &[1]);
    let last = u64::MAX;
    let refused = CallRefused::OutOfOrder { sequence: 0, last };
    assert_eq!(given, Given::Refused(refused));
}

#[test]
fn bytes_that_are_no_action_change_nothing() {
    let mut machine = machine();
    assert_eq!(machine.apply(b""), Given::Unknown);
    assert_eq!(machine.apply(b"\x02\x01\0\0\0\0\0\0\0\0c"), Given::Unknown);
    assert_eq!(machine.inner().sum, 0);
}

proptest! {
    /// Clients that send each call once or more often, late ones too, with snapshots in between: the sum is that of the calls.
    #[test]
    fn however_often_calls_come_each_counts_once(
        steps in vec((0..3_usize, 0..4_u8, any::<bool>()), 0..80),
    ) {
        let mut machine = machine();
        let sessions = [0; 3].map(|_| open(&mut machine, 1));
        let (mut sent, mut sum) = ([0_u64; 3], 0);
        for (client, kind, is_restored) in steps {
            if is_restored {
                machine = restored(&machine);
            }
            if kind == 0 {
                sent[client] += 1;
                sum += client as u64 + 1;
            }
            let sequence = sent[client].saturating_sub(u64::from(kind == 3));
            let command = [client as u8 + 1];
            let given = call(&mut machine, 1, sessions[client], sequence, &command);
            let is_late = sequence == 0 || sequence < sent[client];
            prop_assert_eq!(matches!(given, Given::Refused(_)), is_late);
            prop_assert_eq!(machine.inner().sum, sum);
        }
    }
}
