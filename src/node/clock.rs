//! Time.

use std::time::Duration;

use super::LogTime;

/// Where time comes from.
pub trait Clock: Send {
    /// The time since some fixed moment. Never goes back.
    fn now(&self) -> Duration;

    /// What time it is, for the log. It may be wrong, and go back.
    fn log_time(&self) -> LogTime;
}

/// The operating system's clock.
#[derive(Debug)]
pub struct SystemClock(std::time::Instant);

impl SystemClock {
    /// Starts at zero.
    pub fn new() -> SystemClock {
        SystemClock(std::time::Instant::now())
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn log_time(&self) -> LogTime {
        LogTime::now()
    }
}
