//! What the fuzzer runs, one function of bytes per target. They panic if the core has a bug.

pub mod controller;
pub mod db_query;
pub mod join;
pub mod message;
pub mod task_metadata;
pub mod txt;
pub mod zmtp;

use bytes::Bytes;

/// Bytes that decide what happens; when they are used up, everything is zero.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        let at = self.below(of.len());
        of.get(at).cloned()
    }

    fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Some bytes, after their number.
    fn chunk(&mut self) -> Bytes {
        let n = usize::from(self.byte()) << 8 | usize::from(self.byte());
        Bytes::copy_from_slice(self.take(n))
    }
}
