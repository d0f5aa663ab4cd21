//! Who is alive: pings out, pongs back, misses counted.
//!
//! A beat sends one ping to all. An engine that answered nothing since the last beat has one miss
//! more (it is on *probation*); any answer clears them; more than `max_misses` and its heart has
//! failed. Misses are counted per ping really sent, so a controller that was itself suspended does not
//! take everybody for dead.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::EngineUuid;

#[derive(Debug)]
struct Heart {
    misses: u32,
    answered: bool,
    last_pong: Duration,
}

#[derive(Debug)]
pub(crate) struct HeartMonitor {
    period: Duration,
    max_misses: u32,
    hearts: BTreeMap<EngineUuid, Heart>,
    next_beat: Duration,
}

impl HeartMonitor {
    pub(crate) fn new(period: Duration, max_misses: u32) -> Self {
        Self {
            period,
            max_misses,
            hearts: BTreeMap::new(),
            next_beat: period,
        }
    }

    /// Watches an engine from now on, as if it had just answered.
    pub(crate) fn add(&mut self, now: Duration, uuid: EngineUuid) {
        self.hearts.insert(
            uuid,
            Heart {
                misses: 0,
                answered: true,
                last_pong: now,
            },
        );
    }

    pub(crate) fn remove(&mut self, uuid: &EngineUuid) {
        self.hearts.remove(uuid);
    }

    /// Notes an answer. Returns whether this engine is being watched.
    pub(crate) fn handle_pong(&mut self, now: Duration, uuid: &str) -> bool {
        let Some(heart) = self.hearts.get_mut(uuid) else {
            return false;
        };
        heart.misses = 0;
        heart.answered = true;
        heart.last_pong = now;
        true
    }

    /// Counts the misses of one period if it is over. Returns the hearts that failed; `None` when no
    /// beat is due. The caller sends the next ping.
    pub(crate) fn handle_timeout(&mut self, now: Duration) -> Option<Vec<EngineUuid>> {
        if now < self.next_beat {
            return None;
        }
        self.next_beat = now + self.period;
        let mut failed = Vec::new();
        for (uuid, heart) in &mut self.hearts {
            heart.misses = if heart.answered { 0 } else { heart.misses + 1 };
            heart.answered = false;
            if heart.misses > self.max_misses {
                failed.push(uuid.clone());
            }
        }
        for uuid in &failed {
            self.hearts.remove(uuid);
        }
        Some(failed)
    }

    pub(crate) fn next_timeout(&self) -> Duration {
        self.next_beat
    }

    /// Engines that are watched.
    pub(crate) fn len(&self) -> usize {
        self.hearts.len()
    }

    /// When it last answered, and how many pings since then it did not answer.
    pub(crate) fn state(&self, uuid: &EngineUuid) -> Option<(Duration, u32)> {
        self.hearts
            .get(uuid)
            .map(|heart| (heart.last_pong, heart.misses))
    }
}

/// What a ping says: the monitor's running time in seconds, as the text of a float.
pub(crate) fn ping_text(now: Duration) -> String {
    format!("{:?}", now.as_secs_f64())
}

/// Whether a pong echoes a ping that may have been sent.
pub(crate) fn is_pong(now: Duration, text: &[u8]) -> bool {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse::<f64>().ok())
        .is_some_and(|sent| (0.0..=now.as_secs_f64()).contains(&sent))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(500);

    fn beat(monitor: &mut HeartMonitor, n: u32) -> Vec<EngineUuid> {
        monitor.handle_timeout(PERIOD * n).unwrap()
    }

    #[test]
    fn a_silent_heart_fails_after_its_misses() {
        let mut monitor = HeartMonitor::new(PERIOD, 2);
        let uuid = EngineUuid::new("u");
        monitor.add(Duration::ZERO, uuid.clone());
        for n in 1..=3 {
            assert!(beat(&mut monitor, n).is_empty(), "beat {n}");
        }
        assert_eq!(monitor.state(&uuid), Some((Duration::ZERO, 2)));
        assert_eq!(beat(&mut monitor, 4), [uuid]);
        assert!(beat(&mut monitor, 5).is_empty());
    }

    #[test]
    fn an_answer_ends_probation() {
        let mut monitor = HeartMonitor::new(PERIOD, 1);
        monitor.add(Duration::ZERO, EngineUuid::new("u"));
        for n in 1..20 {
            assert!(beat(&mut monitor, n).is_empty(), "beat {n}");
            if n % 2 == 0 {
                assert!(monitor.handle_pong(PERIOD * n, "u"));
            }
        }
        assert!(!monitor.handle_pong(PERIOD, "stranger"));
    }

    #[test]
    fn a_suspended_controller_does_not_take_all_for_dead() {
        let mut monitor = HeartMonitor::new(PERIOD, 3);
        monitor.add(Duration::ZERO, EngineUuid::new("u"));
        assert!(beat(&mut monitor, 1).is_empty());
        assert!(beat(&mut monitor, 1000).is_empty());
        assert_eq!(
            monitor.handle_timeout(PERIOD * 1000),
            None,
            "no beat is due"
        );
    }

    #[test]
    fn pongs_echo_a_ping() {
        let now = Duration::from_millis(12_345);
        assert_eq!(ping_text(now), "12.345");
        assert!(is_pong(now, b"12.345"));
        assert!(is_pong(now, b"0.5"));
        for text in [&b"99.0"[..], b"-1", b"nan", b"", b"\xff"] {
            assert!(!is_pong(now, text));
        }
    }
}
