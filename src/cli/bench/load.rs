//! Clients that each send some requests and wait for their answers, all on one thread, so that they leave the machine to the servers.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::Operation;
use super::histogram::Histogram;

/// A number of clients, and what they do.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) operation: Operation,
    pub(super) clients: u32,
    pub(super) password: Option<String>,
    /// How many requests a client sends before it waits for their answers.
    pub(super) pipeline: u32,
    pub(super) value_bytes: usize,
    pub(super) keys: u64,
    /// How long requests are sent that count; a quarter of it more comes first. Filling takes as long as it takes.
    pub(super) time: Duration,
}

/// What a load has come to.
pub(super) struct Measured {
    pub(super) latencies: Histogram,
    pub(super) seconds: f64,
    /// How much of a core the clients took: near 1, they are what is measured.
    pub(super) client_cores: f64,
}

impl Measured {
    pub(super) fn per_second(&self) -> f64 {
        self.latencies.count() as f64 / self.seconds
    }
}

/// What the clients of a load have in common.
struct Shared {
    load: Load,
    /// What is asked in between counts, whenever it is answered: else what takes longest would be left out. Each client asks once at least.
    from: Instant,
    until: Option<Instant>,
    /// Where all keys are written once: the next one.
    next_key: Cell<u64>,
}

/// Runs a load against a server.
///
/// # Errors
/// The server cannot be reached, goes away, or says no.
pub(super) fn run(at: &str, load: &Load) -> io::Result<Measured> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(LocalSet::new().run_until(run_clients(at, load)))
}

async fn run_clients(at: &str, load: &Load) -> io::Result<Measured> {
    let mut streams = Vec::new();
    for _ in 0..load.clients {
        streams.push(connect(at, load.password.as_deref()).await?);
    }
    let (begun, cpu_before) = (Instant::now(), cpu_time());
    let (from, until) = match load.operation {
        Operation::Fill => (begun, None),
        Operation::Set | Operation::Get => {
            let from = begun + load.time / 4;
            (from, Some(from + load.time))
        }
    };
    let shared = Rc::new(Shared {
        load: load.clone(),
        from,
        until,
        next_key: Cell::new(0),
    });
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|stream| tokio::task::spawn_local(ask_on(shared.clone(), stream)))
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.map_err(io::Error::other)??);
    }
    Ok(Measured {
        latencies: Histogram::of(latencies),
        seconds: from.elapsed().as_secs_f64(),
        client_cores: (cpu_time() - cpu_before).as_secs_f64() / begun.elapsed().as_secs_f64(),
    })
}

/// Of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

impl Shared {
    /// The key that is asked for next, unless it is over.
    fn next_key(&self) -> Option<u64> {
        match self.load.operation {
            Operation::Fill => {
                let key = self.next_key.get();
                self.next_key.set(key + 1);
                (key < self.load.keys).then_some(key)
            }
            Operation::Set | Operation::Get => Some(fastrand::u64(..self.load.keys)),
        }
    }
}

async fn connect(at: &str, password: Option<&str>) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    if let Some(password) = password {
        let mut request = Vec::new();
        put_command(&mut request, &[b"AUTH", password.as_bytes()]);
        stream.write_all(&request).await?;
        read_answer(&mut stream, &mut Vec::new()).await?;
    }
    Ok(stream)
}

async fn ask_on(shared: Rc<Shared>, mut stream: TcpStream) -> io::Result<Vec<u32>> {
    let load = &shared.load;
    let value = vec![b'v'; load.value_bytes];
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    let mut latencies = Vec::new();
    loop {
        let asked = Instant::now();
        if shared.until.is_some_and(|until| asked >= until) && !latencies.is_empty() {
            return Ok(latencies);
        }
        requests.clear();
        let mut sent = 0;
        while sent < load.pipeline
            && let Some(key) = shared.next_key()
        {
            let key = format!("bench:{key}");
            match load.operation {
                Operation::Get => put_command(&mut requests, &[b"GET", key.as_bytes()]),
                Operation::Set | Operation::Fill => {
                    put_command(&mut requests, &[b"SET", key.as_bytes(), &value]);
                }
            }
            sent += 1;
        }
        if sent == 0 {
            return Ok(latencies);
        }
        stream.write_all(&requests).await?;
        for _ in 0..sent {
            read_answer(&mut stream, &mut answers).await?;
        }
        if asked >= shared.from {
            let micros = u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX);
            latencies.extend(std::iter::repeat_n(micros, sent as usize));
        }
    }
}

fn put_command(to: &mut Vec<u8>, words: &[&[u8]]) {
    to.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        to.extend(format!("${}\r\n", word.len()).bytes());
        to.extend(*word);
        to.extend(b"\r\n");
    }
}

/// Reads an answer and forgets it. What came behind it stays in `answers`.
async fn read_answer(stream: &mut TcpStream, answers: &mut Vec<u8>) -> io::Result<()> {
    loop {
        if let Some(len) = answer_bytes(answers)? {
            answers.drain(..len);
            return Ok(());
        }
        if stream.read_buf(answers).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The length of the first answer, if all of it is there: a line, or a string with its length before it.
fn answer_bytes(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else {
        return Ok(None);
    };
    let line = String::from_utf8_lossy(&bytes[..end]);
    let line_bytes = end + 2;
    match (line.as_bytes().first(), line.get(1..)) {
        (Some(b'+' | b':' | b'_'), _) | (Some(b'$'), Some("-1")) => Ok(Some(line_bytes)),
        (Some(b'$'), Some(len)) => {
            let len: usize = len.parse().map_err(io::Error::other)?;
            let whole = line_bytes + len + 2;
            Ok((bytes.len() >= whole).then_some(whole))
        }
        _ => Err(io::Error::other(line.into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_it_ends() {
        for (bytes, len) in [
            (&b"+OK\r\n+OK\r\n"[..], Some(5)),
            (b"$-1\r\n", Some(5)),
            (b"$3\r\nabc\r\n$", Some(9)),
            (b"$3\r\nabc\r", None),
            (b"$3", None),
        ] {
            assert_eq!(answer_bytes(bytes).unwrap(), len);
        }
        let refused = answer_bytes(b"-MOVED 1 a:2\r\n").unwrap_err();
        assert_eq!(refused.to_string(), "-MOVED 1 a:2");
    }
}
