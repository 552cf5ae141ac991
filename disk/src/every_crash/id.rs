//! The name of a crash state: short, printable, and enough to make the state again.

use std::fmt;
use std::str::FromStr;

/// Names one state that [`every_crash`](crate::every_crash()) or [`every_error`](crate::every_error()) gives.
///
/// `12.kill`: before the operation with number 12 (from 0), killed. `12h`: in the middle of that write. `.keep-5`: a power
/// cut that kept the unsynced units 0 and 2 (the bits of a hexadecimal number). `.all`: one that kept all. `.seed-3`: one
/// that was drawn. `7.error`: nothing crashed, but the call with number 7 failed (from 0, those that change nothing counted
/// too). A crash or an error in what began in such a state follows behind a `/`.
///
/// ```
/// use duramen_disk::CrashId;
///
/// let id: CrashId = "12h.keep-5/3.kill".parse()?;
/// assert_eq!(id.to_string(), "12h.keep-5/3.kill");
/// # Ok::<(), duramen_disk::CrashIdError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CrashId {
    steps: Vec<(CrashPoint, CrashState)>,
}

/// Where a workload died, or met an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CrashPoint {
    /// How many operations that change something were done; with [`CrashState::Error`], how many of any kind.
    pub operation: u64,
    /// The next one is a write, and half of it was done.
    pub half: bool,
}

impl CrashPoint {
    pub(crate) fn before(operation: u64) -> CrashPoint {
        CrashPoint {
            operation,
            half: false,
        }
    }

    pub(super) fn half(operation: u64) -> CrashPoint {
        CrashPoint {
            operation,
            half: true,
        }
    }
}

/// What the crash left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CrashState {
    /// All that was written: only the process is gone.
    Kill,
    /// After a power cut, what was synced, and the unsynced units whose bits are set.
    Keep(u64),
    /// After a power cut, what was synced, and every unsynced unit.
    KeepAll,
    /// It did not crash, but one call failed.
    Error,
    /// After a power cut, what was synced, and what [`power_cut`](crate::SimDisk::power_cut) draws from this seed.
    Seed(u64),
}

impl CrashId {
    /// The crashes, the first one first.
    pub fn steps(&self) -> &[(CrashPoint, CrashState)] {
        &self.steps
    }

    pub(super) fn depth(&self) -> usize {
        self.steps.len()
    }

    pub(super) fn step(&self, depth: usize) -> Option<(CrashPoint, CrashState)> {
        self.steps.get(depth).copied()
    }

    pub(super) fn and(&self, point: CrashPoint, state: CrashState) -> CrashId {
        let mut steps = Vec::with_capacity(self.steps.len() + 1);
        steps.extend_from_slice(&self.steps);
        steps.push((point, state));
        CrashId { steps }
    }
}

impl fmt::Display for CrashId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (point, state)) in self.steps.iter().enumerate() {
            let between = if n > 0 { "/" } else { "" };
            let half = if point.half { "h" } else { "" };
            write!(f, "{between}{}{half}.{state}", point.operation)?;
        }
        Ok(())
    }
}

impl fmt::Display for CrashState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CrashState::Kill => f.write_str("kill"),
            CrashState::Keep(units) => write!(f, "keep-{units:x}"),
            CrashState::KeepAll => f.write_str("all"),
            CrashState::Error => f.write_str("error"),
            CrashState::Seed(seed) => write!(f, "seed-{seed}"),
        }
    }
}

/// A text that names no crash state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrashIdError {
    step: String,
}

impl fmt::Display for CrashIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a crash or an error such as 12.kill, 12h.keep-5, 12.seed-3 or 12.error",
            self.step
        )
    }
}

impl std::error::Error for CrashIdError {}

impl FromStr for CrashId {
    type Err = CrashIdError;

    fn from_str(text: &str) -> Result<CrashId, CrashIdError> {
        let parse = |step: &str| {
            parse_step(step).ok_or_else(|| CrashIdError {
                step: step.to_owned(),
            })
        };
        let steps = text.split('/').map(parse).collect::<Result<_, _>>()?;
        Ok(CrashId { steps })
    }
}

fn parse_step(step: &str) -> Option<(CrashPoint, CrashState)> {
    let (point, state) = step.split_once('.')?;
    let point = match point.strip_suffix('h') {
        Some(operation) => CrashPoint::half(operation.parse().ok()?),
        None => CrashPoint::before(point.parse().ok()?),
    };
    let state = match state.split_once('-') {
        None if state == "kill" => CrashState::Kill,
        None if state == "all" => CrashState::KeepAll,
        None if state == "error" && !point.half => CrashState::Error,
        Some(("keep", units)) => CrashState::Keep(u64::from_str_radix(units, 16).ok()?),
        Some(("seed", seed)) => CrashState::Seed(seed.parse().ok()?),
        _ => return None,
    };
    Some((point, state))
}
