//! Torture of the log and the snapshots: a child writes, is killed, and what it left is compared with what it should have left.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use duramen::disk::{Disk, LockMode, OsDisk};
use duramen::snapshot::SnapshotStore;
use duramen::wal::Wal;

use super::Result;
use super::child::{log_options, snapshot_options};
use super::compare::{FoundLog, FoundSnapshots, History, Verdict};
use super::content::{Purpose, rng};
use super::deaths::Death;
use super::failpoint::Place;
use super::full::DiskFull;
use super::marker::Marker;
use super::model::{Log, Operation, Snapshots};
use super::plan;
use super::said::{Life, Line, lines_of};
use super::summary::{Seen, Summary};

/// No child lives longer, so that what it has written can be known though its parent was killed.
const OPERATIONS_MAX: u64 = 600;
/// A child that says nothing for so long will not end.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// A log and snapshots that are tortured.
pub(super) struct Engine<'a> {
    dir: &'a Path,
    program: PathBuf,
    seed: u64,
    marker: Marker,
    log: History<Log>,
    snapshots: History<Snapshots>,
    seen: Seen,
    /// A child has said so.
    full: Option<DiskFull>,
    pub(super) summary: Summary,
}

/// What a child did before it ended.
struct Ended {
    lines: Vec<Line>,
    status: ExitStatus,
}

impl<'a> Engine<'a> {
    /// Goes on in a directory where the marker was read.
    pub(super) fn new(dir: &'a Path, marker: Marker) -> Result<Engine<'a>> {
        let Marker { seed, next, .. } = marker;
        let summary = Summary {
            seed,
            ..Summary::default()
        };
        let mut engine = Engine {
            dir,
            program: std::env::current_exe()?,
            seed,
            log: History::new(next - 1, marker.model.log.clone()),
            snapshots: History::new(next - 1, marker.model.snapshots.clone()),
            marker,
            seen: Seen::default(),
            full: None,
            summary,
        };
        if engine.marker.round > 0 {
            // The last round may have ended with its parent: nobody knows how far it came.
            engine.submit_up_to(next + OPERATIONS_MAX - 1);
            wait_until_left(dir)?;
            engine.look()?;
            (engine.seen, engine.summary.recovered) = Default::default();
        }
        Ok(engine)
    }

    /// Runs rounds until something is wrong, or somebody wants it to stop. `progress` is told after each.
    pub(super) fn run(
        &mut self,
        rounds: u64,
        stop: &AtomicBool,
        progress: impl Fn(&Summary),
    ) -> Result<()> {
        for _ in 0..rounds {
            if self.summary.is_bad() || stop.load(Ordering::Relaxed) {
                break;
            }
            self.round()?;
            progress(&self.summary);
        }
        self.summary.seen = Some(self.seen);
        Ok(())
    }

    fn round(&mut self) -> Result<()> {
        self.marker.round += 1;
        let mut rng = rng(self.seed, Purpose::Round, [self.marker.round, 0, 0]);
        let life = Life {
            seed: self.seed,
            model: self.marker.model.clone(),
            first: self.marker.next,
            operations: rng.u64(1..=OPERATIONS_MAX),
            window: rng.usize(0..12),
            failpoint: None,
        };
        self.marker.save(self.dir)?;
        let ended = self.live(&life, Death::while_writing(&mut rng))?;
        self.account(&ended);
        let mut is_torn = false;
        while rng.u8(0..4) == 0 && !self.summary.is_bad() {
            let opening = Life {
                operations: 0,
                ..life.clone()
            };
            let ended = self.live(&opening, Death::while_opening(&mut rng))?;
            is_torn |= ended.lines.contains(&Line::Opened { is_torn: true });
            self.account(&ended);
        }
        if !self.summary.is_bad() {
            is_torn |= self.look()?;
            self.summary.torn += u64::from(is_torn);
        }
        self.summary.rounds += 1;
        self.end_if_full()
    }

    /// Starts a child, and waits until it has died.
    fn live(&self, life: &Life, death: Death) -> Result<Ended> {
        let life = Life {
            failpoint: death.failpoint(),
            ..life.clone()
        };
        let mut command = Command::new(&self.program);
        command.args(["torture", "--child", "--dir"]).arg(self.dir);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0) // Ctrl-C is for the parent alone.
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (mut input, mut output) = (input.expect("it is piped"), output.expect("it is piped"));
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = output.read_to_end(&mut text);
            let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
        });
        // It may be dead by now.
        let _ = input.write_all(format!("{}\n", serde_json::to_string(&life)?).as_bytes());
        let lines = wait_or_kill(&mut child, &said, death)?;
        let status = child.wait()?;
        Ok(Ended { lines, status })
    }

    /// Looks at what a child has left that wrote from the first operation on and has said this.
    pub(super) fn look_once(&mut self, lines: &[Line]) -> Result<()> {
        self.hear(lines);
        self.summary.torn = u64::from(self.look()?);
        self.summary.rounds = 1;
        self.end_if_full()
    }

    /// Takes down what a child has said, and how it ended.
    fn account(&mut self, ended: &Ended) {
        self.hear(&ended.lines);
        let is_open = |line: &Line| matches!(line, Line::Opened { .. });
        let was_open = ended.lines.iter().any(is_open);
        match ended.status.signal() {
            Some(_) if was_open => self.seen.killed += 1,
            Some(_) => self.seen.killed_while_opening += 1,
            None => {}
        }
        let status = ended.status;
        if !status.success() && status.signal().is_none() {
            self.summary.blame(format!("the child ended with {status}"));
        }
    }

    /// Takes down what a child has said.
    fn hear(&mut self, lines: &[Line]) {
        let submitted = lines.iter().filter_map(|line| match line {
            Line::Submitted(op) => Some(*op),
            _ => None,
        });
        if let Some(last) = submitted.max() {
            self.submit_up_to(last);
        }
        let (summary, seen) = (&mut self.summary, &mut self.seen);
        for line in lines {
            match line {
                Line::Acknowledged(op) => {
                    self.log.acknowledge(*op);
                    self.snapshots.acknowledge(*op);
                    summary.acknowledged += 1;
                }
                Line::Moved(_) => seen.moves += 1,
                Line::Failed(error) => summary.blame(format!("the child failed: {error}")),
                Line::Full(what) => self.full = Some(DiskFull(what.clone())),
                Line::DiedInWrite { place, bytes, of } if (1..*of).contains(bytes) => match place {
                    Place::Segment => seen.cut_segment_writes += 1,
                    Place::Control => seen.cut_control_writes += 1,
                    Place::Snapshot => seen.cut_snapshot_writes += 1,
                },
                Line::DiedAtCall(_) => seen.killed_at_calls += 1,
                Line::Opened { .. } | Line::Submitted(_) | Line::DiedInWrite { .. } => {}
            }
        }
    }

    /// What was acknowledged on a full disk must be there as well: so this comes after the look.
    fn end_if_full(&mut self) -> Result<()> {
        match self.full.take() {
            Some(full) if !self.summary.is_bad() => Err(full.into()),
            _ => Ok(()),
        }
    }

    /// The states that these operations leave, one after the other.
    fn submit_up_to(&mut self, last: u64) {
        let mut model = self.marker.model.clone();
        for op in self.marker.next..=last {
            let operation = plan::draw(self.seed, op, &model);
            model.apply(op, &operation);
            match &operation {
                Operation::Log(changes) => {
                    self.seen.count(changes);
                    self.log.push(op, model.log.clone());
                }
                Operation::Snapshot(snapshot) => {
                    match snapshot.is_installed {
                        true => self.seen.installs += 1,
                        false => self.seen.snapshots += 1,
                    }
                    self.snapshots.push(op, model.snapshots.clone());
                }
            }
        }
        self.marker.next = last + 1;
    }

    /// Opens what is there, and compares. Says whether the end of the log was torn.
    fn look(&mut self) -> Result<bool> {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
        let is_torn = match self.look_at_log(&disk) {
            Ok(is_torn) => is_torn,
            Err(error) => {
                self.blame("the log", error)?;
                false
            }
        };
        if let Err(error) = self.look_at_snapshots(disk) {
            self.blame("the snapshots", error)?;
        }
        self.marker.save(self.dir)?;
        Ok(is_torn)
    }

    fn blame(&mut self, what: &str, error: Box<dyn Error + Send + Sync>) -> Result<()> {
        if let Some(full) = DiskFull::of(&*error) {
            return Err(full.into());
        }
        self.summary
            .blame(format!("{what} cannot be read: {error}"));
        Ok(())
    }

    fn look_at_log(&mut self, disk: &Arc<dyn Disk>) -> Result<bool> {
        let dir = self.dir.join("log");
        let (found, is_torn) = match Wal::verify_on(disk.clone(), &dir, |_| true) {
            // Its maker was killed before it was made.
            Err(duramen::wal::Error::NotALog { .. }) => (FoundLog::default(), false),
            Err(error) => return Err(error.into()),
            Ok(verified) if verified.is_damaged() => {
                return Err(format!("it is damaged: {verified:?}").into());
            }
            Ok(verified) => {
                let mut options = log_options();
                options.manual_drive = true;
                let wal = Wal::open_on(disk.clone(), &dir, options)?;
                let is_torn = wal.recovery().cut.is_some();
                if verified.is_torn() != is_torn {
                    return Err("verify and open do not agree on its end".into());
                }
                let found = FoundLog::read(&wal)?;
                wal.close()?;
                let verified = Wal::verify_on(disk.clone(), &dir, |_| true)?;
                if verified.is_damaged() || verified.is_torn() {
                    return Err(format!("open has not mended it: {verified:?}").into());
                }
                (found, is_torn)
            }
        };
        let seed = self.seed;
        let acknowledged = self.log.acknowledged().clone();
        let verdict = self
            .log
            .settle(|state| found.difference(seed, state).is_none());
        match verdict {
            Verdict::Kept { operations, state } => {
                self.summary.recovered += operations;
                self.marker.model.log = state;
            }
            Verdict::Lost { operations } => {
                let what = format!("{operations} batches of the log are gone");
                self.summary.lose(operations, what);
            }
            Verdict::Wrong => {
                let difference = found.difference(seed, &acknowledged).unwrap_or_default();
                self.summary.blame(format!(
                    "the log is in a state that it never had. Beside the last one that was acknowledged: {difference}"
                ));
            }
        }
        let names = match disk.list(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        let segments = names
            .into_iter()
            .filter_map(|name| u64::from_str_radix(name.strip_suffix(".wal")?, 16).ok());
        self.seen.segments = segments.max().unwrap_or(0);
        Ok(is_torn)
    }

    fn look_at_snapshots(&mut self, disk: Arc<dyn Disk>) -> Result<()> {
        let store = SnapshotStore::open_on(disk, self.dir.join("snapshots"), snapshot_options())?;
        let report = store.report();
        if !(report.damaged.is_empty() && report.incomplete.is_empty()) {
            return Err(format!("they are damaged: {report:?}").into());
        }
        let verified = store.verify(|_| ())?;
        if !verified.is_clean() {
            return Err(format!("they are damaged: {verified:?}").into());
        }
        let found = FoundSnapshots::read(&store)?;
        let seed = self.seed;
        let acknowledged = self.snapshots.acknowledged().clone();
        let verdict = self
            .snapshots
            .settle(|state| found.difference(seed, state).is_none());
        match verdict {
            Verdict::Kept {
                operations,
                mut state,
            } => {
                self.summary.recovered += operations;
                self.marker.model.snapshots = state.split_off(state.len() - found.0.len());
            }
            Verdict::Lost { operations } => {
                let what = format!("{operations} snapshots are gone");
                self.summary.lose(operations, what);
            }
            Verdict::Wrong => {
                let difference = found.difference(seed, &acknowledged).unwrap_or_default();
                self.summary.blame(format!(
                    "the snapshots are in a state that they never had. Beside the last one that was acknowledged: {difference}"
                ));
            }
        }
        Ok(())
    }
}

/// Waits until a child whose parent was killed has ended too.
fn wait_until_left(dir: &Path) -> Result<()> {
    let in_use = format!("{} is in use by another process", dir.display());
    let mut since = None;
    for part in ["log", "snapshots"] {
        let lock = || OsDisk::new().lock(&dir.join(part), LockMode::Shared);
        while lock().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            let since = since.get_or_insert_with(|| {
                eprintln!("{in_use}: waiting for its end");
                Instant::now()
            });
            if since.elapsed() > HANGS_AFTER {
                return Err(format!("{in_use}: end that first").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

/// Waits for the last words of a child, and kills it when its time has come.
fn wait_or_kill(
    child: &mut Child,
    said: &mpsc::Receiver<String>,
    death: Death,
) -> Result<Vec<Line>> {
    let time = match death {
        Death::After(time) => time,
        Death::At(_) | Death::None => HANGS_AFTER,
    };
    let mut hangs = None;
    let text = match said.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => {
            child.kill()?;
            if !matches!(death, Death::After(_)) {
                hangs = Some(Line::Failed(format!(
                    "nothing more came of it for {time:?}"
                )));
            }
            said.recv()
        }
        text => text.map_err(|_| mpsc::RecvError),
    };
    let mut lines = lines_of(&text?);
    lines.extend(hangs);
    Ok(lines)
}
