//! Scenarios that follow from a seed: `SIM_SEEDS` says how many seeds each one plays, `SIM_SEED` replays one.

use std::time::Duration;

const SEEDS: u64 = 400;

/// Plays a scenario with many seeds, and says which one failed.
pub(crate) fn play(scenario: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let seeds = match setting("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(cause) = std::panic::catch_unwind(|| scenario(seed)) {
            eprintln!("failed with SIM_SEED={seed}");
            std::panic::resume_unwind(cause);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "settings of a test run")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A small generator: the same seed, the same world.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn happens(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}
