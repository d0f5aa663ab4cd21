//! How often anybody may knock: each handshake costs the controller three multiplications on a curve, half a
//! millisecond on a Pi, and a wrong key may be a guess.
//!
//! Each source and all together have a budget that refills with time. A handshake that succeeds is given
//! back, so a rack that starts at once is not held up; one that fails costs several.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::limits::KNOCK_SOURCES_MAX;

/// Knocks of one source in a row.
const SOURCE_MAX: f64 = 64.0;
/// Of one source, each second.
const SOURCE_RATE: f64 = 4.0;
/// Of all together.
const TOTAL_MAX: f64 = 256.0;
const TOTAL_RATE: f64 = 32.0;
/// What a failure costs more: after seven wrong keys in a row a source waits.
const FAILURE: f64 = 8.0;

#[derive(Debug)]
pub struct Knocks {
    sources: BTreeMap<IpAddr, Budget>,
    total: Budget,
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    left: f64,
    at: Duration,
    max: f64,
    rate: f64,
}

impl Default for Knocks {
    fn default() -> Self {
        Self {
            sources: BTreeMap::new(),
            total: Budget::full(TOTAL_MAX, TOTAL_RATE),
        }
    }
}

impl Knocks {
    /// Notes a knock. Whether it may be answered.
    pub fn knock(&mut self, now: Duration, source: IpAddr) -> bool {
        self.make_room(now, source);
        let budget = self.source(source);
        budget.refill(now);
        let source_has = budget.left >= 1.0;
        self.total.refill(now);
        let may = source_has && self.total.left >= 1.0;
        if may {
            self.source(source).left -= 1.0;
            self.total.left -= 1.0;
        }
        may
    }

    /// A handshake succeeded.
    pub fn succeeded(&mut self, source: IpAddr) {
        let budget = self.source(source);
        budget.left = (budget.left + 1.0).min(SOURCE_MAX);
        self.total.left = (self.total.left + 1.0).min(TOTAL_MAX);
    }

    /// A handshake failed.
    pub fn failed(&mut self, source: IpAddr) {
        self.source(source).left -= FAILURE;
    }

    fn source(&mut self, source: IpAddr) -> &mut Budget {
        let full = Budget::full(SOURCE_MAX, SOURCE_RATE);
        self.sources.entry(source).or_insert(full)
    }

    /// Forgets sources whose budget is full again, then the fullest one, if there are too many.
    fn make_room(&mut self, now: Duration, source: IpAddr) {
        if self.sources.len() < KNOCK_SOURCES_MAX || self.sources.contains_key(&source) {
            return;
        }
        self.sources.retain(|_, budget| {
            budget.refill(now);
            budget.left < SOURCE_MAX
        });
        if self.sources.len() >= KNOCK_SOURCES_MAX {
            let fullest = self
                .sources
                .iter()
                .max_by(|a, b| a.1.left.total_cmp(&b.1.left));
            if let Some(fullest) = fullest.map(|(source, _)| *source) {
                self.sources.remove(&fullest);
            }
        }
    }

    /// Panics if a bound does not hold. For tests.
    pub fn check_invariants(&self) {
        assert!(self.sources.len() <= KNOCK_SOURCES_MAX);
        assert!(self.total.left <= TOTAL_MAX);
    }
}

impl Budget {
    fn full(max: f64, rate: f64) -> Self {
        Self {
            left: max,
            at: Duration::ZERO,
            max,
            rate,
        }
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.left = (self.left + passed * self.rate).min(self.max);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn source(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(n))
    }

    const NOW: Duration = Duration::from_secs(1000);

    #[test]
    fn guesses_become_slow() {
        let mut knocks = Knocks::default();
        let mut answered = 0;
        for second in 0..60 {
            for _ in 0..100 {
                if knocks.knock(NOW + Duration::from_secs(second), source(1)) {
                    answered += 1;
                    knocks.failed(source(1));
                }
            }
        }
        assert!(answered < 40, "{answered} guesses in a minute");
        assert!(knocks.knock(NOW, source(2)), "others are not held up");
    }

    #[test]
    fn a_rack_that_starts_at_once_gets_in() {
        let mut knocks = Knocks::default();
        for _ in 0..1000 {
            assert!(knocks.knock(NOW, source(1)));
            knocks.succeeded(source(1));
        }
    }

    #[test]
    fn a_flood_from_everywhere_is_bounded() {
        let mut knocks = Knocks::default();
        let answered = (0..100_000)
            .filter(|n| knocks.knock(NOW, source(*n)))
            .count();
        assert!(answered <= 256, "{answered}");
        knocks.check_invariants();
        assert!(knocks.knock(NOW + Duration::from_secs(1), source(1)));
    }
}
