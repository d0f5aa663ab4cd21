//! Order statistics of times, in seconds.

use std::time::Duration;

use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: usize,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub(crate) max: f64,
}

impl Percentiles {
    /// All zero when there is nothing to sort.
    pub(crate) fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut seconds: Vec<f64> = times.map(|time| time.as_secs_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = (seconds.len() as f64 * share).ceil() as usize;
            seconds.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Self {
            count: seconds.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_the_nearest_ones() {
        let p = Percentiles::of((1..=100).rev().map(Duration::from_secs));
        assert_eq!(
            (p.count, p.p50, p.p90, p.p99, p.max),
            (100, 50.0, 90.0, 99.0, 100.0)
        );
        assert_eq!(Percentiles::of(std::iter::empty()).max, 0.0);
    }
}
