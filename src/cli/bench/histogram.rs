//! How long answers took.

use std::fmt;

/// All latencies, in microseconds.
///
/// Each is kept: a quantile is one that was measured, and a run of minutes takes some tens of megabytes.
pub(super) struct Histogram {
    /// In ascending order.
    micros: Vec<u32>,
}

impl Histogram {
    pub(super) fn of(mut micros: Vec<u32>) -> Histogram {
        micros.sort_unstable();
        Histogram { micros }
    }

    pub(super) fn count(&self) -> usize {
        self.micros.len()
    }

    /// The latency that this share of the answers did not exceed.
    pub(super) fn quantile(&self, share: f64) -> u32 {
        let place = (self.micros.len() as f64 * share).ceil() as usize;
        self.micros.get(place.max(1) - 1).copied().unwrap_or(0)
    }

    /// How many are below `end`, of those from `begin` on.
    fn between(&self, begin: u32, end: u32) -> usize {
        let below = |micros: u32| self.micros.partition_point(|latency| *latency < micros);
        below(end) - below(begin)
    }
}

const BAR: usize = 40;

/// The quantiles, and a bar for each doubling.
impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |share| millis(self.quantile(share));
        let (p50, p90, p99, p999, max) = (at(0.5), at(0.9), at(0.99), at(0.999), at(1.0));
        writeln!(
            f,
            "  p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max} ms"
        )?;
        let most = (0..31).map(|bit| self.between(1 << bit, 2 << bit)).max();
        for bit in 0..31 {
            let (begin, end) = (1 << bit, 2 << bit);
            let count = self.between(begin, end);
            if count == 0 {
                continue;
            }
            let bar = "#".repeat((count * BAR).div_ceil(most.unwrap_or(1).max(1)));
            let share = 100.0 * count as f64 / self.count() as f64;
            writeln!(f, "  {:>9} ms  {bar:BAR$} {share:5.1} %", millis(end))?;
        }
        Ok(())
    }
}

fn millis(micros: u32) -> String {
    format!("{:.2}", f64::from(micros) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_what_so_many_did_not_exceed() {
        let histogram = Histogram::of((1..=1000).rev().collect());
        assert_eq!(histogram.quantile(0.5), 500);
        assert_eq!(histogram.quantile(0.99), 990);
        assert_eq!(histogram.quantile(0.999), 999);
        assert_eq!(histogram.quantile(1.0), 1000);
        assert_eq!(histogram.between(256, 512), 256);
        assert_eq!(Histogram::of(vec![7]).quantile(0.5), 7);
        assert_eq!(Histogram::of(Vec::new()).quantile(0.99), 0);
    }

    #[test]
    fn each_doubling_has_a_bar() {
        let text = Histogram::of(vec![100, 100, 300, 70_000]).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "  p50 0.10, p90 70.00, p99 70.00, p99.9 70.00, max 70.00 ms"
        );
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].contains("0.13 ms") && lines[1].contains("50.0 %"));
    }
}
