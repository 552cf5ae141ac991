//! Peak memory of a process that writes or reads a snapshot.
//!
//! What grows with the number of chunks is the index, manifests and tables. It is told apart by two runs, one with a quarter
//! of the state: hash tables grow in steps of two, and so are equally full in both.

use std::hint::black_box;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use duramen_snapshot::SnapshotStore;

use crate::harness::{Figure, Round, Row, Setup, Workload};
use crate::state::{PIECE_BYTES, State, options};

pub(crate) const WORKLOADS: &[Workload] = &[Workload {
    rows: &[
        Row::cost(
            "memin",
            "MiB",
            "peak while a snapshot is written, less what grows with the chunks; the floor: the same without a store",
        ),
        Row::cost(
            "meminc",
            "bytes",
            "what grows, for each chunk; the floor: a name, and where it is",
        ),
        Row::cost(
            "memout",
            "MiB",
            "peak while a snapshot is read, less what grows with the chunks",
        ),
        Row::cost("memoutc", "bytes", "what grows, for each chunk"),
    ],
    rounds: 1,
    prepare,
}];

/// 32 bytes of name, a file's number, an offset and a length.
const PLACE_BYTES: f64 = 52.0;

fn prepare(setup: &Setup) -> Round {
    let (dir, chunk_bytes) = (setup.dir.clone(), setup.chunk_bytes);
    let sizes = [setup.state_bytes / 4, setup.state_bytes];
    Box::new(move || {
        let peaks = |what| sizes.map(|bytes| peak(what, &dir, chunk_bytes, bytes));
        let [_, none] = peaks("none");
        let figures = [peaks("in"), peaks("out")].map(|[quarter, whole]| {
            let fixed = (4.0 * quarter.bytes - whole.bytes) / 3.0;
            let mib = Figure {
                floor: none.bytes / f64::from(1 << 20),
                store: fixed / f64::from(1 << 20),
            };
            let each = Figure {
                floor: PLACE_BYTES,
                store: (whole.bytes - fixed) / whole.chunks,
            };
            [mib, each]
        });
        figures.into_iter().flatten().collect()
    })
}

struct Peak {
    bytes: f64,
    chunks: f64,
}

/// Runs this program once more: the peak of a process's memory never goes down.
fn peak(what: &str, dir: &Path, chunk_bytes: u32, state_bytes: u64) -> Peak {
    let this = std::env::current_exe().expect("a running program");
    let store = dir.join(format!("{state_bytes}"));
    let mut command = Command::new(this);
    command.args([CHILD, what]).arg(store);
    let numbers = [u64::from(chunk_bytes), state_bytes].map(|n| n.to_string());
    let output = command.args(numbers).output().expect("a child");
    assert!(output.status.success(), "a child failed: {output:?}");
    let text = String::from_utf8(output.stdout).expect("figures");
    let mut figures = text.split_whitespace().map(str::parse);
    let mut figure = || figures.next().and_then(Result::ok).expect("two figures");
    Peak {
        bytes: figure(),
        chunks: figure(),
    }
}

pub(crate) const CHILD: &str = "--child";

/// What a child does, and prints: peak memory in bytes, and chunks.
pub(crate) fn child(args: &[String]) {
    let [what, dir, chunk_bytes, state_bytes] = args else {
        panic!("a child that is to do {args:?}");
    };
    let state = State::new(state_bytes.parse().expect("a length"));
    let options = options(chunk_bytes.parse().expect("a length"));
    let open = || SnapshotStore::open(dir, options.clone()).expect("a store");
    let manifest = match &what[..] {
        "in" => Some(state.publish(&open()).manifest),
        "out" => {
            let store = open();
            let latest = store.latest().expect("a snapshot");
            let mut reader = store.reader(latest.id).expect("the snapshot");
            let mut buf = vec![0; PIECE_BYTES];
            while reader.read(&mut buf).expect("a read") > 0 {
                black_box(&buf);
            }
            Some(latest.manifest)
        }
        _ => {
            state.pieces(|piece| _ = black_box(piece));
            None
        }
    };
    let peak = field("/proc/self/status", "VmHWM:") * 1024;
    println!(
        "{peak} {}",
        manifest.map_or(0, |manifest| manifest.chunks().len())
    );
}

/// A field in KiB of a file of /proc; 0 where there is none.
fn field(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}
