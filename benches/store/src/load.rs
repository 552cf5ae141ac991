//! Work that clients do. Those that speak the Redis protocol are `duramen bench`; those of etcd are here, and do the same: all on one thread, so
//! that they leave the machine to the servers, one request after the other.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value;
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
    keys: u64,
    /// How long requests are sent that count; a quarter of it more comes first.
    time: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured {
    pub per_second: f64,
    pub p50_us: u32,
    pub p99_us: u32,
    /// How much of one core the clients took.
    pub client_cores: f64,
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
            time,
        }
    }

    /// Writes so many keys once each.
    pub fn filling(keys: u64, value_bytes: usize) -> Load {
        Load {
            value_bytes,
            keys,
            ..Load::new(Operation::Fill, 64, 16, Duration::from_secs(1))
        }
    }

    pub fn is_pipelined(&self) -> bool {
        self.pipeline > 1
    }

    /// Runs it against a server. `duramen` is the program.
    ///
    /// # Errors
    /// The server does not answer, or says no.
    pub fn run(&self, wire: Wire, address: &str, duramen: &Path) -> io::Result<Measured> {
        match wire {
            Wire::Redis => self.run_bench(address, duramen),
            Wire::EtcdHttp => self.run_http(address),
        }
    }

    fn run_bench(&self, address: &str, duramen: &Path) -> io::Result<Measured> {
        let output = Command::new(duramen)
            .args(["bench", "--json", "--at", address])
            .args(["--operations", self.operation.name()])
            .args(["--clients", &self.clients.to_string()])
            .args(["--pipeline", &self.pipeline.to_string()])
            .args(["--value-bytes", &self.value_bytes.to_string()])
            .args(["--keys", &self.keys.to_string()])
            .args(["--seconds", &self.time.as_secs_f64().to_string()])
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(io::Error::other(said));
        }
        let said: Value = serde_json::from_slice(&output.stdout)?;
        let said = &said["measured"][0];
        let number = |key: &str| said[key].as_f64();
        let measured = || {
            Some(Measured {
                per_second: number("per_second")?,
                p50_us: number("p50_us")? as u32,
                p99_us: number("p99_us")? as u32,
                client_cores: number("client_cores")?,
            })
        };
        measured().ok_or_else(|| io::Error::other(format!("not what `bench` says: {said}")))
    }

    fn run_http(&self, address: &str) -> io::Result<Measured> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let clients = async {
            let mut streams = Vec::new();
            for _ in 0..self.clients {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                streams.push(stream);
            }
            let from = Instant::now() + self.time / 4;
            let window = Rc::new((from, from + self.time));
            let tasks: Vec<_> = streams
                .into_iter()
                .map(|stream| tokio::task::spawn_local(Load::ask_on(*self, stream, window.clone())))
                .collect();
            let mut latencies = Vec::new();
            for task in tasks {
                latencies.extend(task.await.map_err(io::Error::other)??);
            }
            io::Result::Ok(latencies)
        };
        let (begun, cpu) = (Instant::now(), cpu_seconds());
        let latencies = runtime.block_on(LocalSet::new().run_until(clients))?;
        let client_cores = (cpu_seconds() - cpu) / begun.elapsed().as_secs_f64();
        let time = begun.elapsed() - self.time / 4;
        Ok(Measured::new(latencies, time, client_cores))
    }

    async fn ask_on(
        self,
        mut stream: TcpStream,
        window: Rc<(Instant, Instant)>,
    ) -> io::Result<Vec<u32>> {
        let wire = Wire::EtcdHttp;
        let value = vec![b'v'; self.value_bytes];
        let (mut request, mut answers) = (Vec::new(), Vec::new());
        let mut latencies = Vec::new();
        loop {
            let asked = Instant::now();
            if asked >= window.1 && !latencies.is_empty() {
                return Ok(latencies);
            }
            request.clear();
            let key = format!("bench:{}", fastrand::u64(..self.keys));
            wire.put_request(&mut request, self.operation, &key, &value);
            stream.write_all(&request).await?;
            read_answer(wire, &mut stream, &mut answers).await?;
            // Whenever it is answered: else what takes longest would be left out.
            if asked >= window.0 {
                latencies.push(asked.elapsed().as_micros() as u32);
            }
        }
    }
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
    fn new(mut latencies: Vec<u32>, time: Duration, client_cores: f64) -> Measured {
        latencies.sort_unstable();
        let at = |share: f64| {
            let place = (latencies.len() as f64 * share) as usize;
            latencies.get(place).copied().unwrap_or_default()
        };
        Measured {
            per_second: latencies.len() as f64 / time.as_secs_f64(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            client_cores,
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0}/s, p50 {} us, p99 {} us, clients on {:.2} cores",
            self.per_second, self.p50_us, self.p99_us, self.client_cores
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
