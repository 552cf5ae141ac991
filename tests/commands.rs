//! What clients of one node are answered: limits, errors, expiry, transactions, sessions. `redis_oracle.rs` compares what Redis has too.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use redis::{Connection, FromRedisValue, RedisError, Value};

use support::{Node, Nodes, connect, wait_for};

fn try_run<T: FromRedisValue>(connection: &mut Connection, words: &str) -> Result<T, RedisError> {
    let mut cmd = redis::Cmd::new();
    words.split(' ').for_each(|word| {
        cmd.arg(word);
    });
    cmd.query(connection)
}

fn run<T: FromRedisValue>(connection: &mut Connection, words: &str) -> T {
    try_run(connection, words).unwrap_or_else(|error| panic!("{words}: {error}"))
}

fn error(connection: &mut Connection, words: &str) -> String {
    let outcome = try_run::<Value>(connection, words);
    outcome.expect_err(words).to_string()
}

/// Sends bytes as they are, and gives what comes back until there is nothing more to come.
fn say(node: &Node, bytes: &[u8], expected: &str) {
    let mut stream = TcpStream::connect(node.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&answer),
        expected,
        "{}",
        bytes.escape_ascii()
    );
}

/// The same, and the connection is closed then.
fn say_last(node: &Node, bytes: &[u8], expected: &str) {
    let mut stream = TcpStream::connect(node.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    // The server may close before it has read all.
    let _ = stream.write_all(bytes);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert_eq!(
        answer,
        expected,
        "{}",
        bytes[..bytes.len().min(99)].escape_ascii()
    );
}

#[test]
fn bad_input_is_answered_as_redis_does_and_the_connection_goes_on_if_it_can() {
    let node = Node::start();
    say(
        &node,
        b"set a 1\r\n  \r\nget a\n*0\r\nPING\r\n",
        "+OK\r\n$1\r\n1\r\n+PONG\r\n",
    );
    say(
        &node,
        b"get\r\nnosuch x\r\nincr a b\r\nset a b c\r\nping\r\n",
        "-ERR wrong number of arguments for 'get' command\r\n\
         -ERR unknown command 'nosuch', with args beginning with: 'x' \r\n\
         -ERR wrong number of arguments for 'incr' command\r\n-ERR syntax error\r\n+PONG\r\n",
    );
    for (bytes, error) in [
        (&b"*x\r\n"[..], "invalid multibulk length"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n$99999999999\r\n", "invalid bulk length"),
        (b"*9999999\r\n", "invalid multibulk length"),
        (&[b'a'; 100_000], "too big inline request"),
    ] {
        say_last(&node, bytes, &format!("-ERR Protocol error: {error}\r\n"));
    }
    say_last(&node, b"ping\r\nquit\r\nping\r\n", "+PONG\r\n+OK\r\n");
    say(
        &node,
        b"\x00\xff\x80garbage\r\nping\r\n",
        "-ERR unknown command '\0\u{fffd}\u{fffd}",
    );
}

#[test]
fn what_is_too_long_is_refused_with_the_limit() {
    let node = Node::start();
    let mut client = connect(&node.address()).unwrap();
    let long_key = "k".repeat((64 << 10) + 1);
    let refused = error(&mut client, &format!("SET {long_key} 1"));
    assert!(
        refused.contains("the key has 65537 bytes, the limit is 65536"),
        "{refused}"
    );
    let value = "v".repeat(5 << 20);
    run::<()>(&mut client, &format!("SET a {value}"));
    let refused = error(&mut client, &format!("APPEND a {value}"));
    assert!(
        refused.contains("string exceeds maximum allowed size (8388608 bytes)"),
        "{refused}"
    );
    run::<()>(&mut client, "MULTI");
    for _ in 0..3 {
        run::<()>(&mut client, &format!("SET a {value}"));
    }
    let refused = error(&mut client, &format!("SET a {value}"));
    assert!(refused.contains("a transaction has at most"), "{refused}");
    assert!(error(&mut client, "EXEC").contains("Transaction discarded"));
    assert_eq!(run::<usize>(&mut client, "STRLEN a"), 5 << 20);
}

#[test]
fn a_small_request_for_more_than_fits_in_memory_is_answered_in_pieces() {
    let node = Node::start();
    let mut client = connect(&node.address()).unwrap();
    run::<()>(&mut client, &format!("SET a {}", "v".repeat(1 << 20)));
    let count = 2000; // 2 GB
    let mut stream = TcpStream::connect(node.address()).unwrap();
    let request = format!(
        "*{}\r\n$4\r\nMGET\r\n{}",
        count + 1,
        "$1\r\na\r\n".repeat(count)
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut piece = vec![0; 64 << 20];
    stream.read_exact(&mut piece).unwrap();
    assert!(piece.starts_with(b"*2000\r\n$1048576\r\nvvv"));
    let memory = node.memory_bytes();
    assert!(memory < 200 << 20, "{} MiB", memory >> 20);
}

#[test]
fn clients_leave_the_node_the_files_that_it_needs() {
    let node = Node::start_with_files(120);
    let mut client = connect(&node.address()).unwrap();
    let others = (0..150).map(|_| TcpStream::connect(node.address()).unwrap());
    let mut others: Vec<TcpStream> = others.collect();
    let mut refused = String::new();
    let _ = others.last_mut().unwrap().read_to_string(&mut refused);
    assert_eq!(refused, "-ERR max number of clients reached\r\n");
    // It needs new segments for this, and takes a snapshot.
    let value = "v".repeat(1 << 20);
    for _ in 0..150 {
        run::<()>(&mut client, &format!("SET a {value}"));
    }
    wait_for("a snapshot", || {
        let info: String = run(&mut client, "INFO snapshots");
        info.contains("snapshots_taken:2").then_some(())
    });
}

/// Row 26.
#[test]
fn half_requests_that_claim_the_largest_length_hold_no_more_than_was_sent() {
    let node = Node::start();
    let mut client = connect(&node.address()).unwrap();
    let before = node.asked_bytes();
    let half = |address, bytes: &[u8]| {
        let mut stream = TcpStream::connect::<String>(address).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    // A value of 8 MiB, a request of 64 * 1024 words, and a handshake of 64 KiB.
    let value = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$8388608\r\nv";
    let words = b"*65536\r\n$4\r\nMGET\r\n";
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..200 {
        held.push(half(node.address(), value));
        held.push(half(node.address(), words));
    }
    for _ in 0..50 {
        held.push(half(node.peer_address(), &[0, 0, 1, 0, 0, 0, 0, 0, 7]));
    }
    wait_for("all of them to be read", || {
        let info: String = run(&mut client, "INFO clients");
        info.contains("connected_clients:401").then_some(())
    });
    let asked = node.asked_bytes() - before;
    println!("{asked} bytes more");
    assert!(asked < held.len() * (64 << 10) + (64 << 20), "{asked}");
}

#[test]
fn keys_expire_without_anybody_asking_for_them() {
    let node = Node::start();
    let mut client = connect(&node.address()).unwrap();
    run::<()>(&mut client, "SET a 1 PX 300");
    run::<()>(&mut client, "SET b 1 EX 1000");
    assert_eq!(run::<i64>(&mut client, "TTL b"), 1000);
    let start = Instant::now();
    wait_for("a to expire", || {
        (run::<i64>(&mut client, "DBSIZE") == 1).then_some(())
    });
    let took = start.elapsed();
    assert!((200..2000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(run::<i64>(&mut client, "PTTL a"), -2);
}

#[test]
fn a_transaction_is_one_and_a_watch_keeps_it_from_being_done() {
    let node = Node::start();
    let mut client = connect(&node.address()).unwrap();
    let mut other = connect(&node.address()).unwrap();
    run::<()>(&mut client, "SET n 5");
    for is_changed in [false, true] {
        run::<()>(&mut client, "WATCH n m");
        let n: i64 = run(&mut client, "GET n");
        if is_changed {
            run::<()>(&mut other, "INCR n");
        }
        run::<()>(&mut client, "MULTI");
        let queued: String = run(&mut client, &format!("SET n {}", n * 2));
        assert_eq!(queued, "QUEUED");
        run::<()>(&mut client, "PING");
        assert_eq!(
            run::<i64>(&mut other, "GET n"),
            if is_changed { 11 } else { 5 }
        );
        let outcome: Option<(String, String)> = run(&mut client, "EXEC");
        let done = ("OK".to_owned(), "PONG".to_owned());
        assert_eq!(outcome, (!is_changed).then_some(done));
    }
    assert_eq!(run::<i64>(&mut client, "GET n"), 11);
}

#[test]
fn a_call_of_a_session_is_carried_out_once() {
    let node = Node::start();
    let mut client = connect(&node.address()).unwrap();
    let session: u64 = run(&mut client, "SESSION OPEN");
    let call =
        |sequence: u64, command: &str| format!("SESSION CALL {session} {sequence} {command}");
    for _ in 0..3 {
        assert_eq!(run::<i64>(&mut client, &call(1, "APPEND a x")), 1);
    }
    // Errors too are what they were.
    let failed = error(&mut client, &call(2, "INCR a"));
    run::<()>(&mut client, "SET a 1");
    assert_eq!(error(&mut client, &call(2, "INCR a")), failed);
    assert!(
        error(&mut client, &call(2, "INCR b")).contains("call 2 was made with another command")
    );
    let refused = error(&mut client, &call(4, "INCR a"));
    assert!(
        refused.contains("the last one of this session was 2"),
        "{refused}"
    );
    assert!(error(&mut client, &call(3, "GET a")).contains("commands that change the store"));
    assert!(error(&mut client, &call(3, "INCR")).contains("wrong number of arguments for 'incr'"));
    assert_eq!(run::<i64>(&mut client, &call(3, "INCR a")), 2);
    run::<()>(&mut client, &format!("SESSION CLOSE {session}"));
    let refused = error(&mut client, &call(4, "INCR a"));
    assert!(
        refused.contains("NOSESSION") && refused.contains("open another one"),
        "{refused}"
    );
    // One that is not used for its lifetime is gone.
    let session: u64 = run(&mut client, "SESSION OPEN 1");
    wait_for("the session to expire", || {
        let info: String = run(&mut client, "INFO");
        info.contains("open_sessions:0").then_some(())
    });
    assert!(error(&mut client, &format!("SESSION CALL {session} 1 INCR a")).contains("NOSESSION"));
}

#[test]
fn a_session_takes_nothing_but_writes_and_no_call_in_a_call() {
    let node = Node::start();
    let mut client = connect(&node.address()).unwrap();
    run::<()>(&mut client, "CLIENT SETNAME me");
    run::<()>(&mut client, "MULTI");
    for words in [
        "RESET",
        "HELLO 3",
        "EXEC",
        "EXEC x",
        "SESSION CALL 1 1 SET a 1",
    ] {
        let queued: String = run(&mut client, &format!("SESSION CALL 1 1 {words}"));
        assert_eq!(queued, "QUEUED", "{words}");
    }
    run::<()>(&mut client, "DISCARD");
    // As deep as a request can be.
    let calls = "SESSION CALL 1 1 ".repeat(16_000);
    let refused = error(&mut client, &(calls + "SET a 1"));
    assert!(
        refused.contains("commands that change the store"),
        "{refused}"
    );
    assert_eq!(run::<String>(&mut client, "CLIENT GETNAME"), "me");
}

#[test]
fn a_transaction_that_the_log_does_not_take_is_refused_and_the_node_goes_on() {
    let node = Node::start();
    let mut client = connect(&node.address()).unwrap();
    let key = "k".repeat(60 << 10);
    for number in 0..600 {
        run::<()>(&mut client, &format!("WATCH {key}{number}"));
    }
    run::<()>(&mut client, "MULTI");
    run::<()>(&mut client, "SET a 1");
    let refused = error(&mut client, "EXEC");
    assert!(refused.contains("the limit is"), "{refused}");
    // Words without a byte take space too.
    run::<()>(&mut client, "MULTI");
    run::<()>(&mut client, "SET a 1");
    let words = "MGET".to_owned() + &" ".repeat(65_000);
    for _ in 0..8 {
        run::<()>(&mut client, &words);
    }
    let refused = error(&mut client, &words);
    assert!(refused.contains("at most"), "{refused}");
    assert!(error(&mut client, "EXEC").contains("discarded"));
    assert_eq!(run::<Option<String>>(&mut client, "GET a"), None);
}

/// More in all than the node keeps of what waits to be carried out: of these nothing waits.
#[test]
fn clients_that_are_idle_leave_room_for_the_others() {
    let node = Node::start();
    let value = "v".repeat(8 << 20);
    let clients = (0..70).map(|_| {
        let mut client = connect(&node.address()).unwrap();
        run::<()>(&mut client, &format!("SET a {value}"));
        client
    });
    assert_eq!(clients.collect::<Vec<_>>().len(), 70);
}

/// It looks at keys that almost match a pattern, each of which takes long, and the node goes on meanwhile.
#[test]
fn a_scan_that_takes_long_holds_up_nobody() {
    let node = Node::start();
    let mut client = connect(&node.address()).unwrap();
    for number in 0..20 {
        let key = "a".repeat(60_000);
        run::<()>(&mut client, &format!("SET {key}{number} 1"));
    }
    let mut scanning = connect(&node.address()).unwrap();
    let pattern = format!("*{}b", "a".repeat(500));
    let scan = std::thread::spawn(move || {
        let started = Instant::now();
        let page: (String, Vec<String>) =
            run(&mut scanning, &format!("SCAN 0 MATCH {pattern} COUNT 100"));
        assert!(page.1.is_empty());
        started.elapsed()
    });
    let mut longest = Duration::ZERO;
    while !scan.is_finished() {
        let started = Instant::now();
        run::<()>(&mut client, "SET b 1");
        longest = longest.max(started.elapsed());
    }
    let scanned = scan.join().unwrap();
    assert!(longest < scanned / 2, "{longest:?} of {scanned:?}");
}

#[test]
fn a_transaction_without_a_leader_waits_for_one_once() {
    let mut nodes = Nodes::new();
    nodes.start_one(1);
    let address = nodes.address(1);
    let mut client = wait_for("the node", || connect(&address).ok());
    run::<()>(&mut client, "MULTI");
    let started = Instant::now();
    let refused = error(&mut client, "SET a 1");
    assert!(refused.contains("no leader"), "{refused}");
    for _ in 0..20 {
        run::<()>(&mut client, "SET a 1");
    }
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(error(&mut client, "EXEC").contains("discarded"));
}

#[test]
fn a_password_is_asked_for() {
    let node = Node::start_with(&["--requirepass", "secret"]);
    let mut client = connect(&node.address()).unwrap();
    for words in ["GET a", "INFO", "CLUSTER SLOTS"] {
        assert!(error(&mut client, words).contains("Authentication required"));
    }
    assert!(error(&mut client, "AUTH wrong").contains("invalid username-password pair"));
    assert!(error(&mut client, "AUTH other secret").contains("invalid username-password pair"));
    run::<()>(&mut client, "AUTH secret");
    run::<()>(&mut client, "SET a 1");
    let mut other = connect(&node.address()).unwrap();
    run::<()>(&mut other, "HELLO 3 AUTH default secret SETNAME me");
    assert_eq!(run::<String>(&mut other, "CLIENT GETNAME"), "me");
    run::<()>(&mut other, "RESET");
    assert!(error(&mut other, "GET a").contains("Authentication required"));
}

#[test]
fn a_store_that_is_full_takes_no_more_and_serves_what_it_has() {
    let node = Node::start_with(&["--maxmemory", "10000"]);
    let mut client = connect(&node.address()).unwrap();
    run::<()>(&mut client, &format!("SET a {}", "v".repeat(10_000)));
    for words in ["SET b 1", "INCR n", "APPEND a x", "MSET c 1"] {
        let refused = error(&mut client, words);
        assert!(
            refused.contains("command not allowed when used memory > 'maxmemory'"),
            "{refused}"
        );
    }
    assert_eq!(run::<usize>(&mut client, "STRLEN a"), 10_000);
    run::<()>(&mut client, "DEL a");
    run::<()>(&mut client, "SET b 1");
}

#[test]
fn no_memory_at_all_is_no_limit_as_in_redis() {
    let node = Node::start_with(&["--maxmemory", "0"]);
    let mut client = connect(&node.address()).unwrap();
    run::<()>(&mut client, "SET a 1");
    run::<()>(&mut client, "SET b 1");
}

#[test]
fn a_scan_gives_all_keys() {
    let node = Node::start();
    let mut client = connect(&node.address()).unwrap();
    let pairs: Vec<String> = (0..1000).map(|n| format!("key:{n} {n}")).collect();
    run::<()>(&mut client, &format!("MSET {}", pairs.join(" ")));
    let (mut keys, mut cursor) = (Vec::new(), "0".to_owned());
    loop {
        let scan = format!("SCAN {cursor} MATCH key:*7 COUNT 99");
        let (next, mut page): (String, Vec<String>) = run(&mut client, &scan);
        keys.append(&mut page);
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(keys.len(), 100);
    assert!(error(&mut client, "SCAN 999999").contains("begin again with 0"));
    let (_, keys): (String, Vec<String>) = run(&mut client, "SCAN 0 TYPE list");
    assert!(keys.is_empty());
    assert_eq!(run::<Vec<String>>(&mut client, "KEYS key:99?").len(), 10);
}

#[test]
fn resp3_is_spoken_with_whom_asks_for_it_from_then_on() {
    let node = Node::start();
    say(
        &node,
        b"get no\r\nhello 3\r\nget no\r\n",
        "$-1\r\n%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n",
    );
    say(
        &node,
        b"hello 4\r\nhello x\r\n",
        "-NOPROTO unsupported protocol version\r\n-ERR Protocol version is not an integer or out of range\r\n",
    );
    let mut stream = TcpStream::connect(node.address()).unwrap();
    stream.write_all(b"hello 3\r\nget no\r\nquit\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("_\r\n+OK\r\n"), "{answer}");
}

#[test]
fn commands_are_described_with_their_keys() {
    let node = Node::start();
    let mut client = connect(&node.address()).unwrap();
    let described: Vec<Vec<Value>> = run(&mut client, "COMMAND");
    assert_eq!(described.len(), run::<usize>(&mut client, "COMMAND COUNT"));
    let set: Vec<Value> = run::<Vec<Vec<Value>>>(&mut client, "COMMAND INFO set").remove(0);
    assert_eq!(set[1], Value::Int(-3));
    assert_eq!(set[3..6], [Value::Int(1), Value::Int(1), Value::Int(1)]);
    let keys: Vec<String> = run(&mut client, "COMMAND GETKEYS mset a 1 b 2");
    assert_eq!(keys, ["a", "b"]);
    let keys: Vec<String> = run(&mut client, "COMMAND GETKEYS session call 1 2 set c 3");
    assert_eq!(keys, ["c"]);
}
