//! Time as an argument: the shell reads the clocks, the machines are told.

use std::time::Duration;

/// One instant, read once per turn of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the controller started; never goes back. All timers use it.
    pub monotonic: Duration,
    /// Wall clock, microseconds since 1970 (UTC). Only for dates in messages and records: a Pi has
    /// no battery-backed clock, so this may jump.
    pub unix_micros: i64,
}

impl Now {
    #[must_use]
    pub fn new(monotonic: Duration, unix_micros: i64) -> Self {
        Self {
            monotonic,
            unix_micros,
        }
    }
}
