//! What peers do wrong, said often enough to be acted on and seldom enough not to fill a disk.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limits::COMPLAINT_INTERVAL;

#[derive(Debug, Default)]
struct Entry {
    next: Duration,
    suppressed: u64,
}

/// Warnings by kind: one per interval, with the number of those held back.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    entries: BTreeMap<&'static str, Entry>,
    total: u64,
}

impl Complaints {
    /// Logs `text` unless one of this kind was logged lately.
    pub(crate) fn warn(
        &mut self,
        now: Duration,
        kind: &'static str,
        text: impl FnOnce() -> String,
    ) {
        self.total += 1;
        let entry = self.entries.entry(kind).or_default();
        if now < entry.next {
            entry.suppressed += 1;
            return;
        }
        entry.next = now + COMPLAINT_INTERVAL;
        let text = text();
        match std::mem::take(&mut entry.suppressed) {
            0 => log::warn!("{text}"),
            n => log::warn!("{text} ({n} more like it since the last such line)"),
        }
    }

    /// Complaints so far, logged or not.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_and_kind() {
        let mut complaints = Complaints::default();
        let mut lines = 0;
        for ms in 0..100 {
            complaints.warn(Duration::from_millis(ms), "a", || {
                lines += 1;
                String::new()
            });
        }
        assert_eq!(lines, 1);
        complaints.warn(Duration::ZERO, "b", || {
            lines += 1;
            String::new()
        });
        complaints.warn(COMPLAINT_INTERVAL, "a", || {
            lines += 1;
            String::new()
        });
        assert_eq!((lines, complaints.total()), (3, 102));
    }
}
