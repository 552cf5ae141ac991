//! The same commands to this server and to Redis, which must answer alike. Needs `redis-server`, so it is ignored; `.ci/run` runs it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::{Child, Command, Stdio};

use redis::{Cmd, Connection, Value};

use support::{Node, connect, free_base_port, wait_for};

/// A Redis that keeps nothing.
struct Redis {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Redis {
    fn start() -> Redis {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_base_port() + 1);
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--dir"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let address = format!("127.0.0.1:{port}");
        wait_for("Redis", || connect(&address).ok());
        Redis {
            child,
            address,
            _dir: dir,
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was answered, as text. Keys come in any order.
fn answer(connection: &mut Connection, words: &[String]) -> String {
    let mut cmd = Cmd::new();
    words.iter().for_each(|word| {
        cmd.arg(word);
    });
    match cmd.query::<Value>(connection) {
        Ok(Value::Array(mut keys)) if words[0] == "KEYS" => {
            keys.sort_by_key(|key| format!("{key:?}"));
            format!("{keys:?}")
        }
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    }
}

const NAMES: &[&str] = &[
    "GET",
    "SET",
    "SET",
    "SETNX",
    "GETSET",
    "GETDEL",
    "GETEX",
    "APPEND",
    "STRLEN",
    "GETRANGE",
    "SUBSTR",
    "SETRANGE",
    "INCR",
    "DECR",
    "INCRBY",
    "DECRBY",
    "INCRBYFLOAT",
    "MGET",
    "MSET",
    "MSETNX",
    "DEL",
    "UNLINK",
    "EXISTS",
    "TOUCH",
    "TYPE",
    "KEYS",
    "DBSIZE",
    "EXPIREAT",
    "PEXPIREAT",
    "EXPIRE",
    "EXPIRETIME",
    "PERSIST",
    "SETEX",
    "PING",
    "ECHO",
    "SELECT",
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH",
    "UNWATCH",
    "NOSUCH",
    "FLUSHALL",
];

struct Generator(fastrand::Rng);

impl Generator {
    fn one_of(&mut self, all: &[&str]) -> String {
        self.0.choice(all).copied().unwrap().to_owned()
    }

    fn key(&mut self) -> String {
        self.one_of(&["a", "b", "c", "key:1", "key:2", ""])
    }

    fn value(&mut self) -> String {
        self.one_of(&[
            "",
            "0",
            "1",
            "-7",
            "10",
            "3.5",
            "0.1",
            "1e3",
            " 1",
            "01",
            "+1",
            "x",
            "Hello World",
            "9223372036854775807",
            "-9223372036854775808",
            "nan",
            "inf",
        ])
    }

    fn number(&mut self) -> String {
        self.one_of(&[
            "0",
            "1",
            "-1",
            "5",
            "-3",
            "100",
            "x",
            "",
            "9223372036854775807",
            "-9223372036854775808",
        ])
    }

    /// A time far in the future, or nonsense; in seconds, or in milliseconds for the commands with a P.
    fn time(&mut self, command: &str) -> String {
        let far = [
            "4102444800",
            "4102444801",
            "0",
            "-1",
            "x",
            "9223372036854775807",
        ];
        let time = self.one_of(&far);
        match command.starts_with('P') && time.starts_with("41") {
            true => time + "000",
            false => time,
        }
    }

    fn set_options(&mut self) -> Vec<String> {
        let mut options = Vec::new();
        for _ in 0..self.0.usize(..3) {
            let option = self.one_of(&["NX", "xx", "GET", "KEEPTTL", "EXAT", "PXAT", "bad"]);
            let time = self.time(&option);
            let has_time = ["EXAT", "PXAT"].contains(&&option[..]);
            options.push(option);
            if has_time && self.0.u32(..8) > 0 {
                options.push(time);
            }
        }
        options
    }

    fn many(&mut self, mut make: impl FnMut(&mut Generator) -> String) -> Vec<String> {
        (0..self.0.usize(0..4)).map(|_| make(self)).collect()
    }

    fn arguments(&mut self, name: &str) -> Vec<String> {
        match name {
            "SET" => {
                let mut arguments = vec![self.key(), self.value()];
                arguments.append(&mut self.set_options());
                arguments
            }
            "SETNX" | "GETSET" | "APPEND" => vec![self.key(), self.value()],
            "INCRBY" | "DECRBY" => vec![self.key(), self.number()],
            // Keys of its own: Redis counts with more digits than a f64 has, and shows it where numbers are large.
            "INCRBYFLOAT" => {
                let by = ["1", "0.5", "-2.25", "x", "", "3e2"];
                vec![self.one_of(&["float:1", "float:2"]), self.one_of(&by)]
            }
            "GETRANGE" | "SUBSTR" => vec![self.key(), self.number(), self.number()],
            "SETRANGE" => vec![
                self.key(),
                self.one_of(&["0", "3", "-1", "x"]),
                self.value(),
            ],
            "SETEX" => vec![
                self.key(),
                self.one_of(&["100000", "0", "-1", "x"]),
                self.value(),
            ],
            "MSET" | "MSETNX" => {
                let pairs = (0..self.0.usize(1..3)).flat_map(|_| [self.key(), self.value()]);
                pairs.collect()
            }
            "MGET" | "DEL" | "UNLINK" | "EXISTS" | "TOUCH" | "WATCH" => self.many(Generator::key),
            "KEYS" => vec![self.one_of(&["*", "key:*", "?", "[ab]", "[^a]", "", "key:[1-2]"])],
            "ECHO" | "PING" => self.many(Generator::value),
            "SELECT" => vec!["0".to_owned()],
            "DBSIZE" | "MULTI" | "EXEC" | "DISCARD" | "UNWATCH" | "FLUSHALL" => Vec::new(),
            _ => self.arguments_with_time(name),
        }
    }

    fn arguments_with_time(&mut self, name: &str) -> Vec<String> {
        match name {
            "EXPIREAT" | "PEXPIREAT" => {
                let mut arguments = vec![self.key(), self.time(name)];
                arguments.extend(self.many(|it| it.one_of(&["NX", "XX", "gt", "LT"])));
                arguments
            }
            "EXPIRE" => vec![self.key(), self.one_of(&["100000", "-1", "0", "x"])],
            "GETEX" => {
                let mut arguments = vec![self.key()];
                match self.0.u32(..4) {
                    0 => arguments.push("PERSIST".to_owned()),
                    // Redis looks at the time only if there is such a key.
                    1 => arguments.extend(["EXAT", "4102444800"].map(str::to_owned)),
                    2 => arguments.push("bad".to_owned()),
                    _ => {}
                }
                arguments
            }
            _ => vec![self.key()],
        }
    }

    fn command(&mut self) -> Vec<String> {
        let name = self.one_of(NAMES);
        let mut words = vec![name.clone()];
        let arguments = self.arguments(&name);
        words.extend(arguments);
        // Now and then there are too many words, or too few.
        match self.0.u32(..60) {
            0 => words.push("more".to_owned()),
            1 if words.len() > 1 => drop(words.pop()),
            _ => {}
        }
        words
    }
}

#[test]
#[ignore = "needs redis-server; .ci/run installs it"]
fn random_commands_are_answered_as_redis_answers_them() {
    let (node, redis) = (Node::start(), Redis::start());
    let mut errors = 0;
    for seed in 0..ROUNDS {
        let mut generator = Generator(fastrand::Rng::with_seed(seed));
        let addresses = [&node.address(), &redis.address];
        // A second client changes what the first one watches.
        let mut clients = addresses.map(|address| [0; 2].map(|_| connect(address).unwrap()));
        let protocol = generator.one_of(&["2", "3"]);
        let mut said = Vec::new();
        let mut is_in_transaction = [false; 2];
        for client in clients.iter_mut().flatten() {
            answer(client, &["HELLO".to_owned(), protocol.clone()]);
        }
        answer(&mut clients[0][0], &["FLUSHALL".to_owned()]);
        answer(&mut clients[1][0], &["FLUSHALL".to_owned()]);
        for _ in 0..COMMANDS {
            let which = usize::from(generator.0.u32(..10) == 0);
            let words = generator.command();
            // The one command that Redis offers in a transaction, and this server does not: it would hold up all nodes.
            if words[0] == "KEYS" && is_in_transaction[which] {
                continue;
            }
            let [here, there] = &mut clients;
            if words[0] == "WATCH" {
                // A key that comes and goes has changed for Redis, and here it has not: nobody has seen it.
                for key in &words[1..] {
                    let append = ["APPEND", key, "w"].map(str::to_owned);
                    said.push(format!("{which}: {append:?}"));
                    answer(&mut here[which], &append);
                    answer(&mut there[which], &append);
                }
            }
            said.push(format!("{which}: {words:?}"));
            let (here, there) = (
                answer(&mut here[which], &words),
                answer(&mut there[which], &words),
            );
            let last = &said[said.len().saturating_sub(30)..];
            assert_eq!(here, there, "seed {seed}, RESP{protocol}, after {last:#?}");
            is_in_transaction[which] = match &words[0][..] {
                "MULTI" => is_in_transaction[which] || here == "ok",
                "EXEC" => false,
                "DISCARD" => words.len() > 1 && is_in_transaction[which],
                _ => is_in_transaction[which],
            };
            errors += u32::from(here.contains("Error"));
        }
    }
    let all = ROUNDS * COMMANDS;
    println!("{all} commands were answered as Redis does, {errors} with an error");
    assert!(errors > 100, "too few of them were wrong");
}

const ROUNDS: u64 = 20;
const COMMANDS: u64 = 1000;
