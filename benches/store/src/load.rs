//! Clients that ask one thing after the other, all on one thread, so that they leave the machine to the servers.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::wire::{Operation, Wire};

/// A number of clients, and what they do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    operation: Operation,
    clients: usize,
    /// How many requests a client sends before it waits for their answers.
    pipeline: usize,
    value_bytes: usize,
    /// The clients use this many keys between them.
    keys: u64,
    end: End,
}

/// When they stop.
#[derive(Debug, Clone, Copy)]
enum End {
    /// After a quarter of it more, which is not counted.
    After(Duration),
    /// When each key has been written once.
    AllKeys,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured {
    pub per_second: f64,
    pub p50_us: u32,
    pub p99_us: u32,
    /// How much of one core the clients took.
    pub client_cpu: f64,
}

const KEYS: u64 = 100_000;

impl Load {
    pub fn new(operation: Operation, clients: usize, pipeline: usize, time: Duration) -> Load {
        Load {
            operation,
            clients,
            pipeline,
            value_bytes: 256,
            keys: KEYS,
            end: End::After(time),
        }
    }

    /// Writes so many keys once each.
    pub fn filling(keys: u64, value_bytes: usize) -> Load {
        Load {
            operation: Operation::Put,
            clients: 64,
            pipeline: 16,
            value_bytes,
            keys,
            end: End::AllKeys,
        }
    }

    pub fn is_pipelined(&self) -> bool {
        self.pipeline > 1
    }

    /// Runs it against a server.
    ///
    /// # Errors
    /// The server does not answer, or says no.
    pub fn run(&self, wire: Wire, address: &str) -> io::Result<Measured> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let shared = Rc::new(Shared {
            next_key: Cell::new(0),
            from: Cell::new(Instant::now()),
            until: Cell::new(Instant::now()),
        });
        let clients = async {
            let mut streams = Vec::new();
            for _ in 0..self.clients {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                streams.push(stream);
            }
            if let End::After(time) = self.end {
                shared.from.set(Instant::now() + time / 4);
                shared.until.set(Instant::now() + time / 4 + time);
            }
            let begun = Instant::now();
            let tasks: Vec<_> = streams
                .into_iter()
                .map(|stream| tokio::task::spawn_local(self.ask_on(wire, stream, shared.clone())))
                .collect();
            let mut latencies = Vec::new();
            for task in tasks {
                latencies.extend(task.await.map_err(io::Error::other)??);
            }
            let counted = match self.end {
                End::After(time) => time,
                End::AllKeys => begun.elapsed(),
            };
            io::Result::Ok((latencies, counted))
        };
        let (begun, cpu) = (Instant::now(), cpu_seconds());
        let (latencies, counted) = runtime.block_on(LocalSet::new().run_until(clients))?;
        let client_cpu = (cpu_seconds() - cpu) / begun.elapsed().as_secs_f64();
        Ok(Measured::new(latencies, counted, client_cpu))
    }

    async fn ask_on(
        self,
        wire: Wire,
        mut stream: TcpStream,
        shared: Rc<Shared>,
    ) -> io::Result<Vec<u32>> {
        let value = vec![b'v'; self.value_bytes];
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        let mut latencies = Vec::new();
        loop {
            requests.clear();
            let mut sent = 0;
            while sent < self.pipeline
                && let Some(key) = self.next_key(&shared)
            {
                wire.put_request(&mut requests, self.operation, &key, &value);
                sent += 1;
            }
            if sent == 0 {
                return Ok(latencies);
            }
            let asked = Instant::now();
            stream.write_all(&requests).await?;
            for _ in 0..sent {
                read_answer(wire, &mut stream, &mut answers).await?;
            }
            let answered = Instant::now();
            let counts = match self.end {
                End::After(_) => (shared.from.get()..shared.until.get()).contains(&answered),
                End::AllKeys => true,
            };
            if counts {
                let latency = (answered - asked).as_micros() as u32;
                latencies.extend(std::iter::repeat_n(latency, sent));
            }
        }
    }

    fn next_key(&self, shared: &Shared) -> Option<String> {
        let number = shared.next_key.get();
        let has_ended = match self.end {
            End::After(_) => Instant::now() >= shared.until.get(),
            End::AllKeys => number >= self.keys,
        };
        shared.next_key.set(number + 1);
        // Spread: as if they came in any order.
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.keys;
        let key = match self.end {
            End::After(_) => spread,
            End::AllKeys => number,
        };
        (!has_ended).then(|| format!("key:{key:012}"))
    }
}

/// What the clients of a load have in common.
struct Shared {
    next_key: Cell<u64>,
    /// Answers in between count.
    from: Cell<Instant>,
    until: Cell<Instant>,
}

async fn read_answer(wire: Wire, stream: &mut TcpStream, answers: &mut Vec<u8>) -> io::Result<()> {
    loop {
        if let Some(len) = wire.answer_bytes(answers)? {
            answers.drain(..len);
            return Ok(());
        }
        if stream.read_buf(answers).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

impl Measured {
    fn new(mut latencies: Vec<u32>, time: Duration, client_cpu: f64) -> Measured {
        latencies.sort_unstable();
        let at = |share: f64| {
            let place = (latencies.len() as f64 * share) as usize;
            latencies.get(place).copied().unwrap_or_default()
        };
        Measured {
            per_second: latencies.len() as f64 / time.as_secs_f64(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            client_cpu,
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0}/s, p50 {} us, p99 {} us, clients on {:.2} cores",
            self.per_second, self.p50_us, self.p99_us, self.client_cpu
        )
    }
}

/// What this process has used of the processors.
fn cpu_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0; // On every Linux there is.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}
