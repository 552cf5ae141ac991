//! A client against nodes that answer by a script.

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{JoinHandle, spawn};

use super::value::read_reply;
use super::*;

/// What a node does with a request.
enum Does {
    Answer(&'static str),
    /// It closes the connection without a word.
    Die,
}

/// A node that expects requests, and answers each as it is told to.
fn node(script: Vec<(String, Does)>) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = spawn(move || {
        let mut stream: Option<BufReader<TcpStream>> = None;
        for (expected, does) in script {
            let request = loop {
                let from =
                    stream.get_or_insert_with(|| BufReader::new(listener.accept().unwrap().0));
                match read_reply(from) {
                    Ok(request) => break request.unwrap(),
                    Err(_) => stream = None, // The client has left: it comes again.
                }
            };
            let Value::Array(words) = request else {
                panic!("{request:?}");
            };
            let words: Vec<&str> = words.iter().filter_map(Value::text).collect();
            assert_eq!(words.join(" "), expected);
            match does {
                Does::Die => stream = None,
                Does::Answer(text) => {
                    let to = stream.as_mut().unwrap().get_mut();
                    to.write_all(format!("{text}\r\n").as_bytes()).unwrap();
                }
            }
        }
    });
    (address, thread)
}

fn call(sequence: u64, command: &str) -> String {
    format!("SESSION CALL 7 {sequence} {command}")
}

const OPEN: &str = "SESSION OPEN";

#[test]
fn a_call_is_repeated_with_its_number_until_it_is_answered() {
    let (address, node) = node(vec![
        (OPEN.to_owned(), Does::Answer("-CLUSTERDOWN no leader")),
        (OPEN.to_owned(), Does::Answer(":7")),
        (call(1, "INCR a"), Does::Die),
        (call(1, "INCR a"), Does::Answer("-TRYAGAIN later")),
        (
            call(1, "INCR a"),
            Does::Answer("-ERR outcome unknown: who knows"),
        ),
        (call(1, "INCR a"), Does::Answer(":5")),
        (call(2, "INCR a"), Does::Answer(":6")),
        ("SESSION CLOSE 7".to_owned(), Does::Answer("+OK")),
    ]);
    let mut client = Client::new([address]);
    assert_eq!(client.call(&["INCR", "a"]).unwrap(), Value::Integer(5));
    assert_eq!(client.call(&["INCR", "a"]).unwrap(), Value::Integer(6));
    client.close().unwrap();
    node.join().unwrap();
}

#[test]
fn the_leader_is_followed_and_a_node_that_is_gone_is_left() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone_address = gone.local_addr().unwrap().to_string();
    drop(gone);
    let (leader, leading) = node(vec![
        (OPEN.to_owned(), Does::Answer(":7")),
        (call(1, "INCR a"), Does::Answer(":1")),
    ]);
    let moved = Box::leak(format!("-MOVED 0 {leader}").into_boxed_str());
    let (follower, following) = node(vec![(OPEN.to_owned(), Does::Answer(moved))]);
    let mut client = Client::new([gone_address, follower]);
    assert_eq!(client.call(&["INCR", "a"]).unwrap(), Value::Integer(1));
    assert_eq!(client.at(), leader);
    leading.join().unwrap();
    following.join().unwrap();
}

#[test]
fn after_an_error_the_next_call_has_a_session_of_its_own() {
    let (address, node) = node(vec![
        (OPEN.to_owned(), Does::Answer(":7")),
        // Whether the number is used is not known: nothing else may get it.
        (call(1, "INCR a"), Does::Answer("-ERR no integer")),
        ("SESSION CLOSE 7".to_owned(), Does::Answer("+OK")),
        (OPEN.to_owned(), Does::Answer(":7")),
        (call(1, "INCR b"), Does::Answer(":1")),
        (call(2, "INCR b"), Does::Answer(":2")),
    ]);
    let mut client = Client::new([address]);
    let refused = client.call(&["INCR", "a"]);
    assert!(matches!(refused, Err(Error::Refused(text)) if text == "no integer"));
    assert_eq!(client.call(&["INCR", "b"]).unwrap(), Value::Integer(1));
    assert_eq!(client.call(&["INCR", "b"]).unwrap(), Value::Integer(2));
    node.join().unwrap();
}

#[test]
fn what_one_node_refuses_another_may_have_taken_before() {
    let (address, node) = node(vec![
        (OPEN.to_owned(), Does::Answer(":7")),
        (call(1, "INCR a"), Does::Die),
        (call(1, "INCR a"), Does::Answer("-OOM command not allowed")),
        ("SESSION CLOSE 7".to_owned(), Does::Answer("+OK")),
        (OPEN.to_owned(), Does::Answer(":7")),
        (call(1, "INCR a"), Does::Answer("-OOM command not allowed")),
        ("SESSION CLOSE 7".to_owned(), Does::Answer("+OK")),
    ]);
    let mut client = Client::new([address]);
    let unknown = client.call(&["INCR", "a"]);
    assert!(matches!(unknown, Err(Error::Unknown { .. })), "{unknown:?}");
    let refused = client.call(&["INCR", "a"]);
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    node.join().unwrap();
}

#[test]
fn a_session_that_has_expired_is_replaced_unless_a_call_was_under_way() {
    let (address, node) = node(vec![
        (OPEN.to_owned(), Does::Answer(":7")),
        (
            call(1, "INCR a"),
            Does::Answer("-NOSESSION no such session"),
        ),
        (OPEN.to_owned(), Does::Answer(":7")),
        (call(1, "INCR a"), Does::Answer(":1")),
        (call(2, "INCR a"), Does::Die),
        (
            call(2, "INCR a"),
            Does::Answer("-NOSESSION no such session"),
        ),
        (OPEN.to_owned(), Does::Answer(":7")),
        (call(1, "INCR a"), Does::Answer(":2")),
    ]);
    let mut client = Client::new([address]);
    assert_eq!(client.call(&["INCR", "a"]).unwrap(), Value::Integer(1));
    assert!(matches!(
        client.call(&["INCR", "a"]),
        Err(Error::Unknown { .. })
    ));
    assert_eq!(client.call(&["INCR", "a"]).unwrap(), Value::Integer(2));
    node.join().unwrap();
}

#[test]
fn a_password_that_is_wrong_is_refused_at_once_and_a_node_that_is_full_is_asked_again() {
    const FULL: &str = "-ERR max number of clients reached";
    let (address, node) = node(vec![
        ("AUTH secret".to_owned(), Does::Answer(FULL)),
        (
            "AUTH secret".to_owned(),
            Does::Answer("-WRONGPASS invalid username-password pair"),
        ),
    ]);
    let mut client = Client::new([address]).with_password("secret");
    assert!(!format!("{client:?}").contains("secret"));
    let refused = client.call(&["INCR", "a"]);
    assert!(
        matches!(&refused, Err(Error::Refused(text)) if text.contains("WRONGPASS")),
        "{refused:?}"
    );
    node.join().unwrap();
}

#[test]
fn patience_comes_to_an_end_and_says_what_may_have_been_done() {
    let none = Duration::ZERO;
    let (address, nobody) = node(vec![(
        OPEN.to_owned(),
        Does::Answer("-CLUSTERDOWN no leader"),
    )]);
    let mut client = Client::new([address]).with_patience(none);
    assert!(matches!(
        client.call(&["INCR", "a"]),
        Err(Error::Unreachable { .. })
    ));
    nobody.join().unwrap();
    let (address, node) = node(vec![
        ("AUTH secret".to_owned(), Does::Answer("+OK")),
        (OPEN.to_owned(), Does::Answer(":7")),
        (call(1, "INCR a"), Does::Die),
    ]);
    let mut client = Client::new([address])
        .with_patience(none)
        .with_password("secret");
    assert!(matches!(
        client.call(&["INCR", "a"]),
        Err(Error::Unknown { .. })
    ));
    node.join().unwrap();
}
