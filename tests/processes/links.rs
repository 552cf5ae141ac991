//! Nodes that are cut off from the others, as by a switch that fails, while clients still reach them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use redis::Value;

use crate::support::{Nodes, ask_readonly, wait_for};

/// What lies between the nodes: a proxy before each.
struct Links {
    switch: Arc<Switch>,
}

/// Which node is cut off. What is on its way to it, or from it, is held back until it is not any more, as TCP does.
#[derive(Default)]
struct Switch {
    cut: Mutex<Option<u16>>,
    healed: Condvar,
}

impl Switch {
    fn wait_until_open(&self, from: u16, to: u16) {
        let is_cut = |cut: &mut Option<u16>| [Some(from), Some(to)].contains(cut);
        let cut = self.cut.lock().unwrap();
        drop(self.healed.wait_while(cut, is_cut).unwrap());
    }
}

impl Links {
    /// Three nodes behind their proxies.
    fn start() -> (Nodes, Links) {
        let (mut nodes, switch) = (Nodes::new(), Arc::new(Switch::default()));
        let clients = nodes.ids().map(|id| (id, nodes.address(id)));
        for to in nodes.ids() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            nodes.announce(to, listener.local_addr().unwrap().to_string());
            let (address, clients, switch) =
                (nodes.peer_address(to), clients.clone(), switch.clone());
            thread::spawn(move || {
                for dialer in listener.incoming() {
                    let (address, clients, switch) =
                        (address.clone(), clients.clone(), switch.clone());
                    // A connection that breaks is made again by the node.
                    thread::spawn(move || pass_on(dialer?, to, &address, &clients, &switch));
                }
            });
        }
        nodes.start_all();
        (nodes, Links { switch })
    }

    fn cut(&self, node: u16) {
        *self.switch.cut.lock().unwrap() = Some(node);
    }

    fn heal(&self) {
        *self.switch.cut.lock().unwrap() = None;
        self.switch.healed.notify_all();
    }
}

/// Connects the two. Who has dialed is in the first words: they say where clients reach it.
fn pass_on(
    mut dialer: TcpStream,
    to: u16,
    address: &str,
    clients: &[(u16, String)],
    switch: &Arc<Switch>,
) -> std::io::Result<()> {
    let mut words = Vec::new();
    let from = loop {
        let mut some = [0; 1024];
        let len = dialer.read(&mut some)?;
        words.extend_from_slice(&some[..len]);
        let says = |text: &str| {
            let mut windows = words.windows(text.len());
            windows.any(|window| window == text.as_bytes())
        };
        match clients.iter().find(|(_, client)| says(client)) {
            Some((from, _)) => break *from,
            None if len == 0 => return Ok(()),
            None => {}
        }
    };
    switch.wait_until_open(from, to);
    let mut node = TcpStream::connect(address)?;
    dialer.set_nodelay(true)?;
    node.set_nodelay(true)?;
    node.write_all(&words)?;
    let (back_from, back_to) = (node.try_clone()?, dialer.try_clone()?);
    let switch_back = switch.clone();
    thread::spawn(move || pump(back_from, back_to, || switch_back.wait_until_open(to, from)));
    pump(dialer, node, || switch.wait_until_open(from, to));
    Ok(())
}

/// Passes bytes on until either side closes; then both are closed.
fn pump(mut from: TcpStream, mut to: TcpStream, wait_until_open: impl Fn()) {
    let mut some = vec![0; 64 << 10];
    while let Ok(len) = from.read(&mut some) {
        wait_until_open();
        if len == 0 || to.write_all(&some[..len]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn bulk(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_answers_nothing_stale_and_catches_up() {
    let (nodes, links) = Links::start();
    nodes.client().until_done::<()>(&["SET", "a", "before"]);
    let old = nodes.leader();
    let at_old = nodes.address(old);
    links.cut(old);
    // It may believe for a while that it leads: this may stand in its log, and there alone.
    let lost = ask_readonly(&at_old, &["SET", "a", "lost"]);
    assert!(
        lost.is_err(),
        "{lost:?} was acknowledged without a majority"
    );
    let others: Vec<u16> = nodes.ids().into_iter().filter(|id| *id != old).collect();
    let new = wait_for("another leader", || {
        let leads = |id: &&u16| nodes.info(**id, "role").as_deref() == Some("master");
        others.iter().find(leads).copied()
    });
    let mut client = nodes.client_of(&others);
    for number in 0..100 {
        client.until_done::<()>(&["SET", &format!("key-{number}"), "meanwhile"]);
    }
    client.until_done::<()>(&["SET", "a", "after"]);
    let stale = ask_readonly(&at_old, &["GET", "a"]);
    assert!(stale.is_err(), "a node that is cut off answered {stale:?}");
    assert!(nodes.info(new, "raft_term") > nodes.info(old, "raft_term"));

    links.heal();
    wait_for("the old leader to follow and to read", || {
        let value = ask_readonly(&at_old, &["GET", "a"]).ok()?;
        assert_eq!(value, bulk("after"));
        Some(())
    });
    nodes.wait_for_catching_up(old);
    let meanwhile = ask_readonly(&at_old, &["GET", "key-99"]).unwrap();
    assert_eq!(meanwhile, bulk("meanwhile"));
}

#[test]
fn a_follower_that_is_cut_off_answers_nothing_and_does_not_disturb_the_leader_when_it_is_back() {
    let (nodes, links) = Links::start();
    let mut client = nodes.client();
    client.until_done::<()>(&["SET", "a", "before"]);
    let (leader, follower) = (nodes.leader(), nodes.follower());
    let term = nodes.info(leader, "raft_term");
    links.cut(follower);
    client.until_done::<()>(&["SET", "a", "after"]);
    let at_follower = nodes.address(follower);
    let stale = ask_readonly(&at_follower, &["GET", "a"]);
    assert!(stale.is_err(), "a node that is cut off answered {stale:?}");
    wait_for("the follower to miss its leader", || {
        (nodes.info(follower, "raft_leader")? == "none").then_some(())
    });

    links.heal();
    wait_for("the follower to read", || {
        let value = ask_readonly(&at_follower, &["GET", "a"]).ok()?;
        assert_eq!(value, bulk("after"));
        Some(())
    });
    assert_eq!(nodes.leader(), leader);
    assert_eq!(nodes.info(leader, "raft_term"), term);
}
