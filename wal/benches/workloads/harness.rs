//! Rounds of floor and log in turn, and the table of their medians.

use std::path::Path;
use std::time::Duration;

const ROUNDS: usize = 7;

type Run = fn(&Path) -> f64;

pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) floor: Run,
    pub(crate) log: Run,
}

pub(crate) fn print_head() {
    println!(
        "{:4} {:>12} {:>12} {:>7}  (medians of {ROUNDS} interleaved rounds)",
        "", "floor", "log", "ratio"
    );
}

impl Workload {
    pub(crate) fn run(&self, parent: &Path) {
        let (mut floors, mut logs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let [floor, log] = [self.floor, self.log].map(|run| {
                let dir = tempfile::tempdir_in(parent).expect("a directory for the files");
                run(dir.path())
            });
            floors.push(floor);
            logs.push(log);
            ratios.push(log / floor);
        }
        let [floor, log, ratio] = [floors, logs, ratios].map(median);
        println!(
            "{:4} {floor:12.0} {log:12.0} {ratio:7.2}  {}",
            self.name, self.what
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
