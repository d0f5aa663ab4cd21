//! Virtual time: what happens next, and when. Things due at the same moment keep the order in which
//! they were planned, so that a run depends on nothing but its seed.

use std::collections::BTreeMap;
use std::time::Duration;

use piparallel_core::clock::Now;

const EPOCH_MICROS: i64 = 1_767_225_600_000_000;

pub struct Clock<T> {
    now: Duration,
    /// When the present controller started: its monotonic time begins at zero.
    pub controller_start: Duration,
    plan: BTreeMap<(Duration, u64), T>,
    planned: u64,
}

impl<T> Clock<T> {
    pub fn new() -> Self {
        Self {
            now: Duration::ZERO,
            controller_start: Duration::ZERO,
            plan: BTreeMap::new(),
            planned: 0,
        }
    }

    pub fn now(&self) -> Duration {
        self.now
    }

    pub fn unix_micros(&self) -> i64 {
        EPOCH_MICROS + self.now.as_micros() as i64
    }

    /// The time as the controller is told.
    pub fn controller_now(&self) -> Now {
        Now::new(self.now - self.controller_start, self.unix_micros())
    }

    pub fn after(&mut self, delay: Duration, what: T) {
        self.planned += 1;
        self.plan.insert((self.now + delay, self.planned), what);
    }

    pub fn next(&self) -> Option<Duration> {
        self.plan.first_key_value().map(|((at, _), _)| *at)
    }

    pub fn pop(&mut self) -> Option<T> {
        let ((at, _), what) = self.plan.pop_first()?;
        self.now = at;
        Some(what)
    }

    pub fn advance(&mut self, to: Duration) {
        self.now = self.now.max(to);
    }
}
