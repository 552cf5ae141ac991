//! Torture of three `serve` processes: clients write and read, nodes are killed, and what clients were told must be linearizable.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use duramen::client::{Client, Connection};
use duramen::node::Trouble;
use duramen::sim::history::History;
use duramen::wal::Wal;
use fastrand::Rng;

use super::super::cluster::Cluster;
use super::Result;
use super::content::{Purpose, rng};
use super::full::DiskFull;
use super::load::{Load, number};
use super::marker::Marker;
use super::summary::{Nodes, Summary};

/// Each round goes on when so many operations more were answered: before and after nodes are killed, and when they are back.
const OPERATIONS: u64 = 200;
/// A cluster with a majority that answers nothing for so long is not going to.
const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const IDS: [u16; 3] = [1, 2, 3];

/// A cluster that is tortured.
pub(super) struct Tortured<'a> {
    dir: &'a Path,
    program: PathBuf,
    cluster: Cluster,
    marker: Marker,
    running: BTreeMap<u16, Child>,
    /// What the keys of earlier rounds had at their end. Nobody writes to them any more.
    known: BTreeMap<String, Option<i64>>,
    nodes: Nodes,
    pub(super) summary: Summary,
}

impl<'a> Tortured<'a> {
    /// Starts the nodes, with the data that the directory has.
    pub(super) fn new(dir: &'a Path, mut marker: Marker) -> Result<Tortured<'a>> {
        let base_port = match marker.base_port {
            Some(port) => port,
            None => free_base_port(dir)?,
        };
        marker.base_port = Some(base_port);
        marker.save(dir)?;
        let cluster = Cluster::of_three(dir.to_owned(), base_port);
        cluster.check_ports()?;
        let summary = Summary {
            seed: marker.seed,
            ..Summary::default()
        };
        let mut tortured = Tortured {
            dir,
            program: std::env::current_exe()?,
            cluster,
            marker,
            running: BTreeMap::new(),
            known: BTreeMap::new(),
            nodes: Nodes::default(),
            summary,
        };
        IDS.into_iter().try_for_each(|id| tortured.start(id))?;
        Ok(tortured)
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
        if !self.summary.is_bad() {
            self.read_known_keys();
        }
        self.summary.nodes = Some(self.nodes);
        Ok(())
    }

    fn round(&mut self) -> Result<()> {
        self.marker.round += 1;
        self.marker.save(self.dir)?;
        let round = self.marker.round;
        let mut rng = rng(self.marker.seed, Purpose::Round, [round, 0, 0]);
        let load = Load::start(&format!("{round}-"), &IDS.map(|id| self.address(id)));
        self.kill_under_load(&load, &mut rng)?;
        let history = load.stop();
        let changes = history.changes();
        self.summary.acknowledged += changes;
        if !self.summary.is_bad() && self.is_explained(&history) {
            self.summary.recovered += changes;
        }
        self.summary.rounds += 1;
        // After the look: what was acknowledged on a full disk must be there as well.
        match self.full_disk() {
            Some(full) if !self.summary.is_bad() => Err(full.into()),
            _ => Ok(()),
        }
    }

    fn kill_under_load(&mut self, load: &Load, rng: &mut Rng) -> Result<()> {
        if !self.goes_on(load) {
            return Ok(());
        }
        let victims = self.draw_victims(rng);
        sleep(Duration::from_micros(rng.u64(0..20_000))); // At any moment of what is under way.
        self.kill(&victims)?;
        let is_majority_up = self.running.len() > 1;
        if is_majority_up && rng.u8(0..3) > 0 && !self.goes_on(load) {
            return Ok(());
        }
        victims.iter().try_for_each(|id| self.start(*id))?;
        self.goes_on(load);
        let is_blackout = victims.len() == IDS.len();
        if is_blackout && !self.summary.is_bad() {
            self.read_known_keys();
        }
        Ok(())
    }

    /// One node, the leader, two of them, or all.
    fn draw_victims(&mut self, rng: &mut Rng) -> BTreeSet<u16> {
        let any = |rng: &mut Rng| IDS[rng.usize(0..IDS.len())];
        match rng.u8(0..10) {
            0..3 => [any(rng)].into(),
            3..7 => [self.leader().unwrap_or_else(|| any(rng))].into(),
            7 => {
                let spared = any(rng);
                IDS.into_iter().filter(|id| *id != spared).collect()
            }
            _ => IDS.into(),
        }
    }

    /// `kill -9`, all at once; then their logs are looked at.
    fn kill(&mut self, victims: &BTreeSet<u16>) -> Result<()> {
        let leader = self.leader();
        self.nodes.leaders += u64::from(leader.is_some_and(|leader| victims.contains(&leader)));
        self.nodes.blackouts += u64::from(victims.len() == IDS.len());
        for child in self.running.values_mut() {
            // One that has ended by itself must not pass for one that was killed.
            if let Some(status) = child.try_wait()? {
                self.summary.blame(format!("a node ended with {status}"));
            }
        }
        let children = victims.iter().filter_map(|id| self.running.remove(id));
        let mut children: Vec<Child> = children.collect();
        children.iter_mut().try_for_each(Child::kill)?;
        for child in &mut children {
            child.wait()?;
            self.nodes.killed += 1;
        }
        for id in victims {
            let log = self.cluster.directory(*id).join("log");
            match Wal::verify(&log, |_| true) {
                Ok(found) if found.is_damaged() => {
                    let what = format!("the log of node {id} is damaged: {found:?}");
                    self.summary.blame(what);
                }
                Ok(found) => self.summary.torn += u64::from(found.is_torn()),
                Err(duramen::wal::Error::NotALog { .. }) => {} // It did not come to make one.
                Err(error) => self
                    .summary
                    .blame(format!("the log of node {id} cannot be read: {error}")),
            }
        }
        Ok(())
    }

    fn start(&mut self, id: u16) -> Result<()> {
        let mut command = Command::new(&self.program);
        command
            .args(self.cluster.arguments(id))
            .arg("--end-with-stdin")
            .env("DURAMEN_TRACE", "error")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0); // Ctrl-C is for the parent alone.
        self.running.insert(id, command.spawn()?);
        Ok(())
    }

    /// Something is not answered: that is wrong, but for a full disk.
    fn blame_silence(&mut self, what: String) {
        if self.full_disk().is_none() {
            self.summary.blame(what);
        }
    }

    /// Waits until more operations have been answered. If they are not, that is wrong.
    fn goes_on(&mut self, load: &Load) -> bool {
        let (start, target) = (Instant::now(), load.returned() + OPERATIONS);
        while load.returned() < target {
            if start.elapsed() > PATIENCE {
                let nodes = self.running.len();
                let what = format!("{nodes} nodes are up and answered nothing for {PATIENCE:?}");
                self.blame_silence(what);
                return false;
            }
            sleep(Duration::from_millis(2));
        }
        true
    }

    /// Whether what clients were told has an explanation, and what is read now is part of it.
    fn is_explained(&mut self, history: &History) -> bool {
        if let Err(unexplained) = history.check() {
            self.summary.blame(unexplained.to_string());
            return false;
        }
        let keys = history.keys();
        let Some(values) = self.read(&keys, Some(history)) else {
            return false;
        };
        if let Err(unexplained) = history.check() {
            self.summary.lose(1, unexplained.to_string());
            return false;
        }
        self.known.extend(keys.into_iter().zip(values));
        true
    }

    /// What was there at the end of an earlier round is there for ever.
    fn read_known_keys(&mut self) {
        let keys: Vec<String> = self.known.keys().cloned().collect();
        let Some(values) = self.read(&keys, None) else {
            return;
        };
        for (key, found) in keys.into_iter().zip(values) {
            let known = self.known[&key];
            if found != known {
                let what = format!("key {key} had {known:?}, and has {found:?}");
                self.summary.lose(1, what);
            }
        }
    }

    /// Reads keys, and notes that if there is a history. `None` if that is not possible, which is wrong.
    fn read(&mut self, keys: &[String], history: Option<&History>) -> Option<Vec<Option<i64>>> {
        let mut client = Client::new(IDS.map(|id| self.address(id)));
        let mut values = Vec::new();
        for key in keys {
            let called = history.map(History::now);
            match client.ask(&["GET", key]) {
                Ok(value) => values.push(number(&value)),
                Err(error) => {
                    self.blame_silence(format!("key {key} cannot be read: {error}"));
                    return None;
                }
            }
            if let (Some(history), Some(called)) = (history, called) {
                history.note_read(key, called, *values.last()?);
            }
        }
        Some(values)
    }

    fn address(&self, id: u16) -> String {
        self.cluster.client_address(id)
    }

    /// The leader, as it says itself.
    fn leader(&self) -> Option<u16> {
        self.who_says("role:master")
    }

    /// A full disk, if a node says that it has one.
    fn full_disk(&self) -> Option<DiskFull> {
        let trouble = Trouble::Full;
        let id = self.who_says(&format!("disk_trouble:{trouble}"))?;
        Some(DiskFull(format!("the disk of node {id} is {trouble}")))
    }

    /// The first node that has this line in its `INFO`.
    fn who_says(&self, line: &str) -> Option<u16> {
        let says = |id: &&u16| {
            let connection = Connection::open(&self.address(**id), ANSWER_TIMEOUT);
            let info = connection.and_then(|mut connection| connection.ask(&["INFO"]));
            let has_line = |text: &str| text.lines().any(|found| found == line);
            matches!(info, Ok(Ok(info)) if info.text().is_some_and(has_line))
        };
        self.running.keys().find(says).copied()
    }
}

impl Drop for Tortured<'_> {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            let _ = child.kill(); // Else it ends with this process.
            let _ = child.wait();
        }
    }
}

/// Ports that nobody uses, below those that the system gives to outgoing connections.
fn free_base_port(dir: &Path) -> Result<u16> {
    let candidates = std::iter::repeat_with(|| 12_000 + 20 * fastrand::u16(0..900));
    let mut candidates = candidates.take(100);
    let is_free = |port: &u16| {
        let cluster = Cluster::of_three(dir.to_owned(), *port);
        cluster.check_ports().is_ok()
    };
    let found = candidates.find(is_free);
    found.ok_or_else(|| "cannot find free ports for three nodes".into())
}
