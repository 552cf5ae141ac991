//! Many cases side by side.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::cluster::Outcome;

/// What came up in many cases.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sum {
    pub(crate) cases: u64,
    /// Clusters that served, and had all.
    pub(crate) served: u64,
    /// Clusters that did not: what is committed is nowhere, or too few nodes are up.
    pub(crate) unavailable: u64,
    /// Nodes that could not start, and said why.
    pub(crate) refused: u64,
    /// Entries that were bad when nodes started.
    pub(crate) bad: u64,
    /// Nodes whose snapshots could not be read.
    pub(crate) stateless: u64,
}

/// Whether all cases are to be tried, and not a sample.
pub(crate) fn is_proof() -> bool {
    std::env::var_os("DURAMEN_PROOF").is_some()
}

/// How many of the cases are to be tried: one in thirty, or all.
pub(crate) fn count(all: u64) -> u64 {
    if is_proof() { all } else { all.div_ceil(30) }
}

/// Tries the cases by their numbers, and prints what came up.
///
/// # Panics
/// If something does not hold in a case: its number is printed.
pub(crate) fn try_all(
    name: &str,
    numbers: impl Iterator<Item = u64> + Send,
    case: impl Fn(u64) -> Outcome + Sync,
) -> Sum {
    if let Some(number) = std::env::var_os("DURAMEN_CASE") {
        let number = number.to_str().and_then(|number| number.parse().ok());
        case(number.expect("a number"));
    }
    let (numbers, sum) = (Mutex::new(numbers), Mutex::new(Sum::default()));
    let failed = AtomicU64::new(u64::MAX);
    let work = || {
        loop {
            let next = numbers.lock().unwrap().next();
            let Some(number) = next.filter(|_| failed.load(Ordering::Relaxed) == u64::MAX) else {
                return;
            };
            match catch_unwind(AssertUnwindSafe(|| case(number))) {
                Ok(outcome) => sum.lock().unwrap().add(outcome),
                Err(_) => drop(failed.fetch_min(number, Ordering::Relaxed)),
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner();
    assert_eq!(
        failed,
        u64::MAX,
        "{name}: case {failed} failed, see above; DURAMEN_CASE={failed} tries it first"
    );
    let sum = sum.into_inner().unwrap();
    println!(
        "{name}: {sum:?}\nproof: {} {}",
        name.replace(' ', "_"),
        sum.cases
    );
    sum
}

impl Sum {
    fn add(&mut self, outcome: Outcome) {
        self.cases += 1;
        self.served += u64::from(outcome.is_served);
        self.unavailable += u64::from(!outcome.is_served);
        self.refused += outcome.refused;
        self.bad += outcome.bad;
        self.stateless += outcome.stateless;
    }
}
