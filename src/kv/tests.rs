//! What the commands do to the store.

use proptest::prelude::*;

use super::*;

fn kv_at(now: u64) -> Kv {
    let mut kv = Kv::default();
    kv.advance_to(LogTime(now));
    kv
}

fn run(kv: &mut Kv, command: Command) -> Output {
    kv.apply(&command.encode())
}

fn key() -> Bytes {
    Bytes::from_static(b"key")
}

fn value(text: &'static str) -> Output {
    Output::Value(Bytes::from_static(text.as_bytes()))
}

fn set(text: &'static str, expiry: Expiry, condition: Condition, gives: SetGives) -> Command {
    Command::Set {
        key: key(),
        value: text.into(),
        expiry,
        condition,
        gives,
    }
}

fn ttl(kv: &mut Kv, form: TtlForm) -> Output {
    run(kv, Command::Ttl { key: key(), form })
}

#[test]
fn set_append_and_delete() {
    let mut kv = Kv::default();
    assert_eq!(run(&mut kv, Command::set("key", "value")), Output::Done);
    let appended = run(&mut kv, Command::append("key", "value"));
    assert_eq!(appended, Output::Integer(10));
    assert_eq!(kv.view().find(b"key").unwrap(), "valuevalue");
    let keys = vec![key(), key(), Bytes::from_static(b"other")];
    assert_eq!(
        run(&mut kv, Command::Exists { keys: keys.clone() }),
        Output::Integer(2)
    );
    assert_eq!(run(&mut kv, Command::Del { keys }), Output::Integer(1));
    assert!(kv.view().is_empty());
}

#[test]
fn set_may_depend_on_whether_the_key_exists_and_give_the_old_value() {
    let mut kv = Kv::default();
    let never = Expiry::Never;
    let mut run = |text, condition, gives| run(&mut kv, set(text, never, condition, gives));
    use {Condition::*, SetGives::*};
    assert_eq!(run("1", IfExists, Done), Output::Nil);
    assert_eq!(run("1", IfNone, Number), Output::Integer(1));
    assert_eq!(run("2", IfNone, Number), Output::Integer(0));
    assert_eq!(run("2", IfNone, Old), value("1"));
    assert_eq!(run("2", IfExists, Old), value("1"));
    assert_eq!(run("3", Always, Old), value("2"));
}

#[test]
fn several_keys_are_set_all_or_none() {
    let mut kv = Kv::default();
    let mset = |pairs: &[(&'static str, &'static str)], if_none_exists| Command::MSet {
        pairs: pairs
            .iter()
            .map(|(k, v)| (Bytes::from(*k), Bytes::from(*v)))
            .collect(),
        if_none_exists,
    };
    assert_eq!(
        run(&mut kv, mset(&[("a", "1"), ("b", "2")], false)),
        Output::Done
    );
    assert_eq!(
        run(&mut kv, mset(&[("c", "3"), ("b", "3")], true)),
        Output::Integer(0)
    );
    assert_eq!(
        run(&mut kv, mset(&[("c", "3"), ("c", "4")], true)),
        Output::Integer(1)
    );
    let keys = ["a", "b", "c", "d"].map(Bytes::from).to_vec();
    let all = Output::List(vec![value("1"), value("2"), value("4"), Output::Nil]);
    assert_eq!(run(&mut kv, Command::MGet { keys }), all);
}

#[test]
fn increments_stop_at_what_is_no_integer_and_at_the_limits() {
    let mut kv = Kv::default();
    let incr = |by| Command::IncrBy { key: key(), by };
    assert_eq!(run(&mut kv, incr(1)), Output::Integer(1));
    assert_eq!(
        run(&mut kv, incr(i64::MAX)),
        Output::Failed(Failure::Overflow)
    );
    assert_eq!(run(&mut kv, incr(-3)), Output::Integer(-2));
    for not_an_integer in ["", " 1", "01", "+1", "1.0", "9223372036854775808"] {
        run(&mut kv, Command::set("key", not_an_integer));
        let failed = Output::Failed(Failure::NotAnInteger);
        assert_eq!(run(&mut kv, incr(1)), failed, "{not_an_integer:?}");
        assert_eq!(kv.view().find(b"key").unwrap(), not_an_integer);
    }
}

#[test]
fn numbers_with_fractions_are_added_and_written_without_noise() {
    let mut kv = Kv::default();
    let incr = |by| Command::IncrByFloat { key: key(), by };
    assert_eq!(run(&mut kv, incr(10.5)), value("10.5"));
    assert_eq!(run(&mut kv, incr(0.1)), value("10.6"));
    assert_eq!(run(&mut kv, incr(-0.6)), value("10"));
    run(&mut kv, Command::set("key", "-0"));
    assert_eq!(run(&mut kv, incr(-0.0)), value("0"));
    run(&mut kv, Command::set("key", "1e308"));
    assert_eq!(
        run(&mut kv, incr(1e308)),
        Output::Failed(Failure::NotFinite)
    );
    assert_eq!(
        run(&mut kv, incr(f64::NAN)),
        Output::Failed(Failure::NotFinite)
    );
    for not_a_number in ["", "x", "inf", "nan", "1 "] {
        run(&mut kv, Command::set("key", not_a_number));
        let failed = Output::Failed(Failure::NotAFloat);
        assert_eq!(run(&mut kv, incr(1.0)), failed, "{not_a_number:?}");
    }
}

#[test]
fn parts_are_read_and_written() {
    let mut kv = Kv::default();
    run(&mut kv, Command::set("key", "Hello World"));
    for (first, last, part) in [
        (0, 4, "Hello"),
        (-5, -1, "World"),
        (6, 100, "World"),
        (5, 4, ""),
        (-100, 1, "He"),
        (0, -100, "H"),
        (-1, -5, ""),
        (100, 200, ""),
        (i64::MIN, i64::MAX, "Hello World"),
    ] {
        let get = Command::GetRange {
            key: key(),
            first,
            last,
        };
        assert_eq!(run(&mut kv, get), value(part), "{first} {last}");
    }
    let set_range = |offset, text: &'static str| Command::SetRange {
        key: key(),
        offset,
        value: text.into(),
    };
    assert_eq!(run(&mut kv, set_range(6, "Redis")), Output::Integer(11));
    assert_eq!(run(&mut kv, set_range(13, "!")), Output::Integer(14));
    assert_eq!(kv.view().find(b"key").unwrap(), "Hello Redis\0\0!");
    assert_eq!(run(&mut kv, set_range(0, "")), Output::Integer(14));
    let too_long = Output::Failed(Failure::TooLong);
    assert_eq!(run(&mut kv, set_range(u64::MAX, "x")), too_long);
    assert_eq!(
        run(&mut kv, set_range(VALUE_BYTES_MAX as u64, "x")),
        too_long
    );
}

#[test]
fn a_key_expires_by_the_time_of_the_log_alone() {
    let mut kv = kv_at(1000);
    run(
        &mut kv,
        set("1", Expiry::In(500), Condition::Always, SetGives::Done),
    );
    assert_eq!(kv.next_deadline(), Some(LogTime(1500)));
    assert_eq!(ttl(&mut kv, TtlForm::Millis), Output::Integer(500));
    assert_eq!(ttl(&mut kv, TtlForm::Seconds), Output::Integer(1));
    assert_eq!(ttl(&mut kv, TtlForm::AtMillis), Output::Integer(1500));
    kv.advance_to(LogTime(1499));
    assert!(kv.view().find(b"key").is_some());
    kv.advance_to(LogTime(1500));
    assert_eq!(kv.view().find(b"key"), None);
    assert_eq!(ttl(&mut kv, TtlForm::Millis), Output::Integer(-2));
    assert_eq!((kv.view().len(), kv.next_deadline()), (0, None));
    kv.advance_to(LogTime(10)); // It never goes back.
    run(
        &mut kv,
        set("1", Expiry::In(1), Condition::Always, SetGives::Done),
    );
    assert_eq!(kv.next_deadline(), Some(LogTime(1501)));
}

#[test]
fn an_expiry_goes_with_a_new_value_unless_it_is_kept() {
    let mut kv = kv_at(1000);
    let set = |expiry| set("1", expiry, Condition::Always, SetGives::Done);
    run(&mut kv, set(Expiry::At(LogTime(2000))));
    run(&mut kv, Command::append("key", "2"));
    run(&mut kv, set(Expiry::Keep));
    run(&mut kv, Command::IncrBy { key: key(), by: 1 });
    assert_eq!(ttl(&mut kv, TtlForm::Millis), Output::Integer(1000));
    run(&mut kv, set(Expiry::Never));
    assert_eq!(ttl(&mut kv, TtlForm::Millis), Output::Integer(-1));
    run(&mut kv, set(Expiry::At(LogTime(1000)))); // Now: as if it were deleted.
    assert!(kv.view().is_empty());
}

#[test]
fn an_expiry_is_set_under_conditions() {
    let mut kv = kv_at(1000);
    let expire = |at, condition| Command::Expire {
        key: key(),
        expiry: Expiry::At(LogTime(at)),
        condition,
    };
    use ExpireCondition::*;
    assert_eq!(run(&mut kv, expire(2000, Always)), Output::Integer(0)); // There is no key.
    run(&mut kv, Command::set("key", "1"));
    for (at, condition, is_set) in [
        (2000, IfSome, 0),
        (2000, IfLater, 0),
        (2000, IfSomeAndEarlier, 0),
        (2000, IfEarlier, 1),
        (2000, IfNone, 0),
        (2000, IfLater, 0),
        (2001, IfLater, 1),
        (2001, IfEarlier, 0),
        (2000, IfEarlier, 1),
        (2001, IfSomeAndEarlier, 0),
        (1999, IfSomeAndEarlier, 1),
        (3000, Always, 1),
    ] {
        let output = run(&mut kv, expire(at, condition));
        assert_eq!(output, Output::Integer(is_set), "{at} {condition:?}");
    }
    assert_eq!(
        run(&mut kv, Command::Persist { key: key() }),
        Output::Integer(1)
    );
    assert_eq!(
        run(&mut kv, Command::Persist { key: key() }),
        Output::Integer(0)
    );
    let get = |expiry| Command::GetEx { key: key(), expiry };
    assert_eq!(run(&mut kv, get(Expiry::In(5))), value("1"));
    assert_eq!(kv.next_deadline(), Some(LogTime(1005)));
    assert_eq!(run(&mut kv, expire(1, Always)), Output::Integer(1)); // Long ago.
    assert_eq!(run(&mut kv, get(Expiry::Never)), Output::Nil);
}

#[test]
fn many_keys_that_expire_at_once_are_gone_at_once_and_removed_by_and_by() {
    let mut kv = kv_at(1);
    let count = 2 * EXPIRED_AT_A_TIME + 500;
    for n in 0..count {
        let command = Command::Set {
            key: n.to_string().into(),
            value: "".into(),
            expiry: Expiry::In(10),
            condition: Condition::Always,
            gives: SetGives::Done,
        };
        run(&mut kv, command);
    }
    kv.advance_to(LogTime(11));
    assert_eq!(kv.view().len(), count - EXPIRED_AT_A_TIME);
    assert!(kv.view().keys(b"*").is_empty());
    let keys: Vec<Bytes> = (0..count).map(|n| n.to_string().into()).collect();
    assert_eq!(run(&mut kv, Command::Del { keys }), Output::Integer(0));
    assert_eq!((kv.view().len(), kv.usage().bytes()), (0, 0));
}

#[test]
fn a_transaction_is_done_if_no_watched_key_has_changed() {
    let mut kv = Kv::default();
    let version = |kv: &Kv, key: &str| (key.to_owned().into(), kv.view().version(key.as_bytes()));
    let transaction = |watched| Request::Transaction {
        watched,
        commands: vec![Command::IncrBy { key: key(), by: 1 }, Command::get("key")],
    };
    let watched = vec![version(&kv, "a"), version(&kv, "key")];
    let done = Output::List(vec![Output::Integer(1), value("1")]);
    assert_eq!(kv.apply(&transaction(watched.clone()).encode()), done);
    assert_eq!(kv.apply(&transaction(watched).encode()), Output::Aborted);
    // Set to the same value, or removed and set again: changed.
    let watched = vec![version(&kv, "key")];
    run(&mut kv, Command::set("key", "1"));
    assert_eq!(kv.apply(&transaction(watched).encode()), Output::Aborted);
    let watched = vec![version(&kv, "key")];
    run(&mut kv, Command::Del { keys: vec![key()] });
    assert_eq!(
        kv.apply(&transaction(watched.clone()).encode()),
        Output::Aborted
    );
    run(&mut kv, Command::set("key", "1"));
    assert_eq!(kv.apply(&transaction(watched).encode()), Output::Aborted);
    assert_eq!(kv.view().find(b"key").unwrap(), "1");
}

#[test]
fn in_a_batch_each_succeeds_or_fails_by_itself_and_sees_those_before_it() {
    let mut kv = Kv::default();
    let batch = Request::Batch(vec![
        Command::set("key", "x"),
        Command::IncrBy { key: key(), by: 1 },
        Command::get("key"),
    ]);
    let failed = Output::Failed(Failure::NotAnInteger);
    let outputs = vec![Output::Done, failed, value("x")];
    assert_eq!(kv.apply(&batch.encode()), Output::List(outputs));
}

#[test]
fn bytes_that_are_no_command_change_nothing() {
    let mut kv = Kv::default();
    let unknown = Output::Failed(Failure::Unknown);
    assert_eq!(kv.apply(b"\xff"), unknown);
    assert_eq!(kv.apply(b"\x01\x1f"), unknown);
    assert!(kv.view().is_empty());
}

#[test]
fn a_scan_sees_each_key_that_is_there_all_the_time() {
    let mut kv = Kv::default();
    let name = |n: u32| format!("key:{n:04}");
    for n in (0..1000).step_by(2) {
        run(&mut kv, Command::set(name(n), ""));
    }
    let (mut seen, mut after) = (Vec::new(), None::<Bytes>);
    loop {
        let page = kv.view().scan(after.as_deref(), b"key:*", 7);
        assert!(page.keys.len() <= 7);
        seen.extend(page.keys);
        // Others come and go meanwhile.
        let other = name((seen.len() as u32 * 3 % 1000) | 1);
        run(&mut kv, Command::set(other, ""));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let always = (0..1000).step_by(2).map(|n| Bytes::from(name(n)));
    assert!(seen.is_sorted());
    assert!(always.into_iter().all(|key| seen.contains(&key)));
    assert_eq!(
        kv.view().scan(None, b"x*", 1_000_000).keys,
        [] as [Bytes; 0]
    );
}

proptest! {
    /// A store that is restored is the one that was frozen, and counts the same.
    #[test]
    fn a_restored_store_goes_on_as_the_one_that_was_frozen(
        commands in prop::collection::vec((0..5_u8, 0..4_u8, 0..40_u64), 0..60),
    ) {
        let mut kv = kv_at(1);
        let mut now = 1;
        let mut step = |kv: &mut Kv, (kind, key, number): (u8, u8, u64)| {
            let key = Bytes::from(vec![b'a' + key]);
            let expiry = if number % 3 == 0 { Expiry::Never } else { Expiry::In(number) };
            now += number / 10;
            kv.advance_to(LogTime(now));
            run(kv, match kind {
                0 => Command::Del { keys: vec![key] },
                1 => Command::GetEx { key, expiry },
                2 => Command::append(key, "x"),
                _ => Command::Set {
                    key, value: number.to_string().into(), expiry,
                    condition: Condition::Always, gives: SetGives::Done,
                },
            })
        };
        for command in &commands {
            step(&mut kv, *command);
        }
        let mut bytes = Vec::new();
        kv.freeze()(&mut bytes).unwrap();
        let mut restored = Kv::default();
        restored.restore(&mut &bytes[..]).unwrap();
        let numbers = |kv: &Kv| {
            let usage = kv.usage();
            (usage.keys(), usage.keys_that_expire(), usage.bytes(), kv.next_deadline())
        };
        prop_assert_eq!(&restored, &kv);
        prop_assert_eq!(numbers(&restored), numbers(&kv));
    }
}
