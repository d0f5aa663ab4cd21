//! How much of a client's large frames is still in memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use piparallel_core::limits::LARGE_FRAME;
use piparallel_core::wire::frames::Frames;

/// The account of one connection. Atomic only because `Bytes` may be dropped anywhere.
#[derive(Debug, Default)]
pub(super) struct Credit {
    in_flight: AtomicUsize,
    reader: Mutex<Option<Waker>>,
}

/// A large frame that gives its bytes back to the account when the last of its clones is gone.
struct Lease {
    bytes: Bytes,
    credit: Arc<Credit>,
}

impl Credit {
    /// Charges the large frames of a message.
    pub(super) fn charge(self: &Arc<Self>, frames: &mut Frames) {
        let is_large = |frame: &[u8]| frame.len() >= LARGE_FRAME;
        if !frames.iter().any(is_large) {
            return;
        }
        for frame in frames.list_mut().iter_mut().filter(|f| is_large(f)) {
            self.in_flight.fetch_add(frame.len(), Ordering::Relaxed);
            *frame = Bytes::from_owner(Lease {
                bytes: std::mem::take(frame),
                credit: Arc::clone(self),
            });
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Wakes `reader` when bytes come back.
    pub(super) fn wait(&self, reader: &Waker) {
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader.clone());
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.credit
            .in_flight
            .fetch_sub(self.bytes.len(), Ordering::Release);
        let mut reader = self
            .credit
            .reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(waker) = reader.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_clone_gives_bytes_back() {
        let credit = Arc::new(Credit::default());
        let mut frames = Frames::from(vec![
            Bytes::from_static(b"small"),
            vec![0; LARGE_FRAME].into(),
        ]);
        credit.charge(&mut frames);
        assert_eq!(credit.in_flight(), LARGE_FRAME);
        let clone = frames.bytes(1);
        drop(frames);
        assert_eq!(credit.in_flight(), LARGE_FRAME);
        drop(clone);
        assert_eq!(credit.in_flight(), 0);
    }
}
