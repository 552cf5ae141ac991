//! How the children die: drawn for each round.

use std::time::Duration;

use fastrand::Rng;

use super::failpoint::{Failpoint, Place};

/// How a child ends, if it comes to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// `kill -9`, so long after it was started.
    After(Duration),
    /// It kills itself.
    At(Failpoint),
    /// It does what it is to do, and ends.
    None,
}

impl Death {
    /// While it writes: at any moment, when it opens what is there too.
    pub(super) fn while_writing(rng: &mut Rng) -> Death {
        match rng.u8(0..20) {
            0..8 => {
                Death::After(Duration::from_micros(1 << rng.u32(11..17)).mul_f64(1.0 + rng.f64()))
            }
            8..15 => Death::At(in_a_write(rng, 8)),
            15..19 => Death::At(at_a_call(rng, 8)),
            _ => Death::None,
        }
    }

    /// While it opens what is there, which takes fewer calls.
    pub(super) fn while_opening(rng: &mut Rng) -> Death {
        match rng.u8(0..10) {
            0..2 => Death::After(Duration::from_micros(rng.u64(500..8000))),
            2..7 => Death::At(in_a_write(rng, 2)),
            _ => Death::At(at_a_call(rng, 3)),
        }
    }

    /// Which failpoint the child is to have.
    pub(super) fn failpoint(self) -> Option<Failpoint> {
        match self {
            Death::At(failpoint) => Some(failpoint),
            Death::After(_) | Death::None => None,
        }
    }
}

/// From 1 to two to the power of `bits`; small numbers come up as often as large ones.
fn log_uniform(rng: &mut Rng, bits: u32) -> u64 {
    let end = 1 << rng.u32(0..=bits);
    rng.u64(end / 2..end) + 1
}

fn in_a_write(rng: &mut Rng, bits: u32) -> Failpoint {
    // CONTROL and snapshots are not written so often.
    let (place, bits) = match rng.u8(0..10) {
        0..6 => (Place::Segment, bits),
        6..8 => (Place::Control, bits / 3),
        _ => (Place::Snapshot, bits / 2),
    };
    let nth = log_uniform(rng, bits);
    // Anywhere, or near the ends, where headers, directories and trailers are.
    let part = match rng.u8(0..4) {
        0 => rng.u16(0..1 << 10),
        1 => u16::MAX - rng.u16(0..1 << 10),
        _ => rng.u16(..),
    };
    Failpoint::Write { place, nth, part }
}

fn at_a_call(rng: &mut Rng, bits: u32) -> Failpoint {
    let nth = log_uniform(rng, bits);
    let is_before = rng.bool();
    Failpoint::Call { nth, is_before }
}
