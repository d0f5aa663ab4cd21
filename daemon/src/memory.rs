//! The allocator, and when it gives memory back.
//!
//! Blocks of large frames are kept for the next ones: fresh memory has to be zeroed page by page, which
//! halves the throughput of large messages. What is kept must not stay, for others need it too: on a
//! controller Pi, its own engines. So it is given back at the first quiet moment.

use mimalloc::MiMalloc;

/// Thousands of small messages are freed in the order in which they came, which the caches of other
/// allocators do not hold; musl's, which has none, is several times slower.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Large frames that pass before memory is given back: half of what a quiet controller may take.
const WORTHWHILE: u64 = 16 << 20;

/// What may wait in queues at a quiet moment.
const QUIET: usize = 1 << 20;

/// Watches what passes.
#[derive(Debug, Default)]
pub struct Tide {
    /// Bytes of large frames received when memory was last given back, and when it was last looked at.
    returned_at: u64,
    seen: u64,
}

impl Tide {
    /// Gives memory back if enough large frames have passed since the last time, none came since the last
    /// look, and next to nothing waits. To be called once or twice a second.
    pub fn look(&mut self, large_received: u64, waiting: usize) {
        if self.is_out(large_received, waiting) {
            // SAFETY: it has no precondition; it may be called by any thread at any time.
            unsafe { libmimalloc_sys::mi_collect(true) };
        }
    }

    fn is_out(&mut self, large_received: u64, waiting: usize) -> bool {
        let is_quiet = waiting < QUIET && large_received == self.seen;
        let is_out = is_quiet && large_received - self.returned_at >= WORTHWHILE;
        self.seen = large_received;
        if is_out {
            self.returned_at = large_received;
        }
        is_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_and_not_in_between() {
        let mut tide = Tide::default();
        assert!(!tide.is_out(WORTHWHILE, 0), "just came");
        assert!(!tide.is_out(WORTHWHILE, QUIET), "still waits");
        assert!(tide.is_out(WORTHWHILE, 0));
        assert!(!tide.is_out(WORTHWHILE, 0), "nothing since");
        assert!(!tide.is_out(WORTHWHILE + 1, 0));
        assert!(!tide.is_out(WORTHWHILE + 1, 0), "not worth it");
    }
}
